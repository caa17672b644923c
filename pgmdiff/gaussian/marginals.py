"""The exact marginal scores and covariances of a Gaussian or mixture on a graph's regions."""

from collections.abc import Hashable, Iterator, Mapping
from math import prod

from torch import Tensor

from pgmdiff.composition.plan import RegionScores
from pgmdiff.errors import ShapeError
from pgmdiff.gaussian.distributions import Distribution, marginals
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.precision.precision import weighed
from pgmdiff.scores.adapters import Score
from pgmdiff.text import array, counted, described

__all__ = ["NodeCovariances", "NodeScores", "check_size", "node_covariances", "node_scores"]


class NodeScores(RegionScores, Mapping[Hashable, Score]):
    """The exact marginal scores of a graph's regions under a Gaussian or a mixture of Gaussians.

    `compose` accepts them as its scores and evaluates them group by group. They are also a mapping
    from a region's name to its score.

    Args:
        graph: a graph over as many elements as q.
        q: a Gaussian or a mixture, of the whole state.

    Raises:
        ShapeError: the sizes differ.
    """

    def __init__(self, graph: GraphLike, q: Distribution) -> None:
        self.graph = graph_of(graph, "node_scores").regions
        self.q = q
        self.check(self.graph)

    def check(self, graph: RegionGraph) -> None:
        check_size("node_scores", graph, self.q)

    def bind(self, group: RegionGroup) -> tuple[Score, dict[str, Tensor]]:
        """One score for the group, with the parameters of the marginals as conditions."""
        return self.q.of_regions(group)

    def __getitem__(self, name: Hashable) -> Score:
        return self.q.marginal(self.graph.elements(name))

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self.graph.names)

    def __len__(self) -> int:
        return self.graph.n_regions

    def __repr__(self) -> str:
        return described(self, counted(len(self), "region"), repr(self.q))


def node_scores(graph: GraphLike, q: Distribution) -> NodeScores:
    """The exact marginal score of every region of a graph, for `compose`.

    Args:
        graph: a graph over as many elements as q.
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


class NodeCovariances(dict[Hashable, Tensor]):
    """The covariance `[d, d]` of every counted region by its name, and the mean of the state.

    Attributes:
        mean: `[*event]`.
    """

    mean: Tensor

    def __repr__(self) -> str:
        return described(self, counted(len(self), "region"), f"mean={array(self.mean)}")


def node_covariances(graph: GraphLike, q: Distribution) -> NodeCovariances:
    """The covariance `[d, d]` of every counted region, for `Consistent` and `Posterior`.

    They are the blocks Σ_r = A_r Σ A_rᵀ of the clean covariance Σ, in q's dtype, with q's mean as
    the attribute `mean`.

    Args:
        graph: a graph over as many elements as q.
        q: a Gaussian, or a mixture, whose overall covariance is used.

    Raises:
        ShapeError: the sizes differ.
    """
    regions = graph_of(graph, "node_covariances").regions
    check_size("node_covariances", regions, q)
    found = NodeCovariances()
    found.mean = q.mean
    for group, _, _ in weighed(regions):
        found.update(zip(group.names, marginals(q, group)[1], strict=True))
    return found
