"""What a graph's regions see of a Gaussian: their exact marginal scores and covariances."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from pgmdiff.composition.plan import RegionScores
from pgmdiff.composition.rules import Marginal
from pgmdiff.errors import ShapeError
from pgmdiff.gaussian.distributions import (
    Distribution,
    Gaussian,
    GaussianMixture,
    Stack,
    marginals,
    mixture_score_of_stack,
    score_of_stack,
)
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Floats
from pgmdiff.scores.adapters import Score
from pgmdiff.text import counted, described

__all__ = ["NodeScores", "check_size", "node_covariances", "node_scores", "weighed"]


class NodeScores(RegionScores, Mapping[Hashable, Score]):
    """The exact marginal scores of a graph's regions under one Gaussian, or mixture of Gaussians.

    What `compose(scores=)` takes, evaluated a group at a time; also a mapping from region name to
    that region's score.

    Args:
        graph: over as many elements as q.
        q: a Gaussian or a mixture of the whole state.

    Raises:
        ShapeError: the sizes differ.
    """

    def __init__(self, graph: FactorGraph | RegionGraph, q: Distribution) -> None:
        self.graph = graph.regions
        self.q = q
        self.check(self.graph)

    def check(self, graph: RegionGraph) -> None:
        check_size("node_scores", graph, self.q)

    def bind(self, group: RegionGroup) -> tuple[Score, dict[str, Tensor]]:
        """One score for the group, with the marginals' means and eigensystems as conditions."""
        if isinstance(self.q, GaussianMixture):
            return mixture_score_of_stack, dict(vars(Stack.of(self.q, group)))
        mean, covariance = marginals(self.q, group)
        values, vectors = torch.linalg.eigh(covariance)
        return score_of_stack, {"mean": mean, "eigenvalues": values, "eigenvectors": vectors}

    def __getitem__(self, name: Hashable) -> Score:
        return self.q.marginal(self.graph.elements(name)).score

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self.graph.names)

    def __len__(self) -> int:
        return self.graph.n_regions

    def __repr__(self) -> str:
        return described(self, counted(len(self), "region"), repr(self.q))


def node_scores(graph: FactorGraph | RegionGraph, q: Distribution) -> NodeScores:
    """The exact marginal score of every region of a graph, for `compose`.

    Args:
        graph: over as many elements as q.
        q: a Gaussian or a mixture of Gaussians, of the whole state.

    Raises:
        ShapeError: the sizes differ.
    """
    return NodeScores(graph, q)


def check_size(what: str, graph: RegionGraph, q: Distribution) -> None:
    """Raises `ShapeError` unless q is over the state of the graph."""
    if graph.n_elements != prod(q.event_shape):
        raise ShapeError(
            f"{what}: the graph has {graph.n_elements} elements, the {type(q).__name__} "
            f"{prod(q.event_shape)}. Give a {type(q).__name__} over the whole state."
        )


def node_covariances(graph: FactorGraph | RegionGraph, q: Distribution) -> "dict[Hashable, Tensor]":
    """The covariance `[d, d]` of every counted region, for `Posterior` and `Evidence`.

    Blocks Σ_r = A_r Σ A_rᵀ of the clean covariance Σ, in q's dtype: true covariances, under which
    posterior composition is exact on junction trees if q is a Gaussian that is Markov to them.

    Args:
        graph: over as many elements as q.
        q: a Gaussian, or a mixture, whose overall covariance is taken.

    Raises:
        ShapeError: the sizes differ.
    """
    whole = q if isinstance(q, Gaussian) else Gaussian(q.mean, q.covariance)
    regions = graph.regions
    check_size("node_covariances", regions, q)
    found: dict[Hashable, Tensor] = {}
    for group, _, _ in weighed(regions, Marginal().weights(regions)):
        found.update(zip(group.names, marginals(whole, group)[1], strict=True))
    return found


def weighed(
    graph: RegionGraph, weights: Sequence[Floats]
) -> Iterator[tuple[RegionGroup, Tensor, Tensor]]:
    """Per group: its regions of nonzero weight, their elements `[n, d]` and weights `[n]`."""
    for group, weight in zip(graph.groups, weights, strict=True):
        rows = np.flatnonzero(weight)
        if len(rows):
            some = group.select(rows)
            index = some.indices(0, len(some)).reshape(len(some), -1)
            yield some, index, torch.from_numpy(weight[rows])
