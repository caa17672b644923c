"""Distributions with known marginals, composed by every rule, and the cost of their scores.

*concatenation* places pieces side by side that share no element, in the order of the graph. What
none of them covers becomes a crop of a piece, or a variable by itself. The pieces are independent
of each other.

An evaluation is one forward pass of every region that a rule uses; three iterations of the messages
are three evaluations. Rows passed to the networks, and elements in them, are counted as they occur:
fewer pieces are needed where they overlap less, and averages use no overlaps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from pgmdiff.composition.composing import compose
from pgmdiff.composition.consistent import Consistent
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.plan import RegionScores, Scores
from pgmdiff.composition.posterior import Posterior
from pgmdiff.composition.rules import Average, Marginal, Rule
from pgmdiff.gaussian import node_covariances, node_scores
from pgmdiff.gaussian.distributions import Distribution
from pgmdiff.graphs import FactorGraph, RegionGraph
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.precision import Covariances
from pgmdiff.samplers import Solver
from pgmdiff.scores.adapters import Score

__all__ = [
    "METHODS",
    "RULES",
    "THREE",
    "Counter",
    "Problem",
    "gaussian_problem",
    "levels_within",
    "passes",
    "side_by_side",
]

THREE = "consistent, 3 iterations"

RULES: Mapping[str, Callable[[Any], Rule]] = {
    "concatenation": lambda covariances: Marginal(),
    "average": lambda covariances: Average(),
    "marginal": lambda covariances: Marginal(),
    "posterior": Posterior,
    "consistent": Consistent,
    THREE: partial(Consistent, iterations=3),
}
"""Each rule's name, and the rule for given covariances of the regions."""
METHODS = (*RULES, "exact score")
"""What is compared: the rules, and what a sampler makes of the true score of the whole."""


def passes(method: str) -> int:
    """Evaluations of every region per score."""
    return 3 if method == THREE else 1


def levels_within(method: str, budget: int, solver: Solver) -> int:
    """The largest number of levels whose run costs no more evaluations than the budget."""
    return 1 + (budget // passes(method) - 1) // solver.evaluations


@dataclass(eq=False)
class Counter:
    """Counts the rows that scores are called with.

    Attributes:
        rows: so far.
        elements: in all of these rows.
    """

    rows: int = 0
    elements: int = 0
    _counted: dict[int, Score] = field(default_factory=dict)

    def counted(self, score: Score) -> Score:
        """The score, counting its rows. Equal scores stay equal, and so are called together."""

        def counting(x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
            self.rows += len(x)
            self.elements += x.numel()
            return score(x, sigma, **condition)

        return self._counted.setdefault(id(score), counting)

    def cost(self, samples: int, n_elements: int) -> dict[str, float]:
        """Rows per sample, and the number of times that each of its elements was seen."""
        return {"rows": self.rows / samples, "seen": self.elements / (samples * n_elements)}

    def wrapped(self, scores: Scores) -> Scores:
        """Everything that `compose` accepts as scores, counted."""
        if isinstance(scores, RegionScores):
            return _CountedRegions(scores, self)
        if isinstance(scores, Mapping):
            return {name: self.counted(score) for name, score in scores.items()}
        return self.counted(scores)


@dataclass(frozen=True, eq=False)
class _CountedRegions(RegionScores):
    scores: RegionScores
    counter: Counter

    def check(self, graph: RegionGraph) -> None:
        self.scores.check(graph)

    def bind(self, group: RegionGroup) -> tuple[Score, dict[str, Tensor]]:
        score, own = self.scores.bind(group)
        return self.counter.counted(score), own


@dataclass(frozen=True, eq=False)
class Problem:
    """A distribution to be composed of its parts.

    Attributes:
        graph: the regions.
        scores: from this graph, or from its pieces side by side, to the scores for `compose`.
        covariances: of the regions.
        whole: the exact score of the distribution, where it is known.
    """

    graph: RegionGraph
    scores: Callable[[RegionGraph], Scores]
    covariances: Mapping[Any, Tensor] | Covariances
    whole: Score | None = None

    def joint(self, rule: str, counter: Counter | None = None) -> Joint:
        """The score composed by a rule, its rows counted where a counter is given."""
        graph = side_by_side(self.graph) if rule == "concatenation" else self.graph
        scores = self.scores(graph) if counter is None else counter.wrapped(self.scores(graph))
        return compose(graph, scores, rule=RULES[rule](self.covariances))

    def score(self, name: str, counter: Counter | None = None) -> Score:
        """The score composed by a rule, or the "exact score"; see `joint`.

        Raises:
            ValueError: the exact score is not known.
        """
        if name != "exact score":
            return self.joint(name, counter)
        if self.whole is None:
            raise ValueError("Problem.score: the exact score is not known. Give `whole`.")
        return self.whole if counter is None else counter.counted(self.whole)


def gaussian_problem(graph: FactorGraph | RegionGraph, q: Distribution) -> Problem:
    """The exact scores and covariances of a distribution's marginals on the regions of a graph."""
    return Problem(
        graph.regions,
        lambda pieces: node_scores(pieces, q),
        node_covariances(graph, q),
        q.score,
    )


def side_by_side(graph: RegionGraph) -> RegionGraph:
    """Pieces of a graph that share no element; see the module.

    A region of the graph keeps its name and model; the model of any other crop is its shape.
    """
    pieces = [(g, row) for g in graph.groups for row in np.flatnonzero(g.outer).tolist()]
    inner = [(g, row) for g in graph.groups for row in np.flatnonzero(~g.outer).tolist()]
    free = np.ones(graph.n_elements, dtype=bool)
    regions: dict[Any, Any] = {}
    models: dict[Any, Any] = {}
    for group, row in [*pieces, *inner]:
        index = group.indices(row, row + 1)[0].numpy()
        if free[index].all():
            name = group.name(row)
            free[index] = False
            regions[name], models[name] = index, name if group.model is None else group.model
    for group, row in pieces:
        index = group.indices(row, row + 1).reshape(-1).numpy()
        rest = index[free[index]]
        if len(rest):
            name = f"crop of {group.name(row)}"
            free[rest] = False
            regions[name], models[name] = rest, tuple(rest.shape)
    return RegionGraph.from_regions(regions, event_shape=graph.event_shape, models=models)
