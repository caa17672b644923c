"""What is compared: composition rules, with and without a corrector, at equal evaluations.

An evaluation is one forward pass of every region that a rule uses; the evidence rule takes two a
score, the second with its vector-Jacobian product, and a corrector's move takes what its own score
does. Rows of the networks, and elements in them, are counted as they are called: pieces that
overlap less are fewer, and an average needs no overlaps.

*concatenation*: pieces that share no element, first come first served, side by side; what none of
them covers is cropped from a piece, or is a variable on its own. Independent of each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from pgmdiff.composition.composing import compose
from pgmdiff.composition.plan import RegionScores, Scores
from pgmdiff.composition.posterior import Evidence, Posterior
from pgmdiff.composition.rules import Average, Marginal, Rule
from pgmdiff.graphs import RegionGraph
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.samplers import Corrector, Langevin, PredictorCorrector, Solver
from pgmdiff.scores.adapters import Score

__all__ = [
    "CORRECTED",
    "METHODS",
    "Counter",
    "Method",
    "Problem",
    "side_by_side",
]

LANGEVIN_STEP = 0.2
"""In units of σ²; one move a level."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A whole to be composed of its parts.

    Attributes:
        graph: of regions.
        scores: what `compose` takes, for this graph or for pieces side by side.
        covariances: of the regions.
        whole: the exact score of the whole, where it is known.
    """

    graph: RegionGraph
    scores: Callable[[RegionGraph], Scores]
    covariances: Mapping[Any, Tensor]
    whole: Score | None = None

    def joint(self, rule: str, counter: "Counter") -> Score:
        """The score of the whole under a rule, its rows counted."""
        if rule == "exact score":
            if self.whole is None:
                raise ValueError("the exact score of this whole is not known")
            return counter.counted(self.whole)
        graph = side_by_side(self.graph) if rule == "concatenation" else self.graph
        return compose(graph, counter.wrapped(self.scores(graph)), rule=self._rule(rule))

    def _rule(self, name: str) -> Rule:
        rules: dict[str, Callable[[], Rule]] = {
            "concatenation": Marginal,
            "average": Average,
            "marginal": Marginal,
            "posterior": lambda: Posterior(self.covariances),
            "evidence": lambda: Evidence(self.covariances),
        }
        return rules[name]()


@dataclass(frozen=True)
class Method:
    """A rule for the predictor and, maybe, one whose density Langevin moves correct towards.

    Attributes:
        rule: of the predictor.
        corrector: of the corrector; None: there is none.
    """

    rule: str
    corrector: str | None = None

    @property
    def name(self) -> str:
        """For tables."""
        if self.corrector is None:
            return self.rule
        towards = "" if self.corrector == self.rule else f"{self.corrector} "
        return f"{self.rule} + {towards}Langevin"

    def evaluations(self, levels: int, predictor: Solver) -> int:
        """Of a run down `levels` levels; the last step evaluates once and is not corrected."""
        predicted = _passes(self.rule) * (predictor.evaluations * (levels - 1) + 1)
        corrected = 0 if self.corrector is None else _passes(self.corrector) * (levels - 1)
        return predicted + corrected

    def levels(self, budget: int, predictor: Solver) -> int:
        """The most levels that cost no more than a budget of evaluations."""
        levels = 1
        while self.evaluations(levels + 1, predictor) <= budget:
            levels += 1
        return levels

    def prepared(
        self, problem: Problem, predictor: Solver, counter: "Counter"
    ) -> tuple[Score, Solver]:
        """What `sample` takes."""
        score = problem.joint(self.rule, counter)
        if self.corrector is None:
            return score, predictor
        same = self.corrector == self.rule
        target = score if same else problem.joint(self.corrector, counter)
        return score, PredictorCorrector(predictor, _Towards(target, Langevin(LANGEVIN_STEP)))


def _passes(rule: str) -> int:
    return 2 if rule == "evidence" else 1


METHODS = tuple(
    Method(rule)
    for rule in ("concatenation", "average", "marginal", "posterior", "evidence", "exact score")
)
CORRECTED = (
    Method("concatenation", "concatenation"),
    Method("average", "marginal"),
    Method("marginal", "marginal"),
    Method("posterior", "evidence"),
    Method("evidence", "evidence"),
    Method("exact score", "exact score"),
)
"""Averages and posterior composition have no density: they are corrected towards another one."""


@dataclass(frozen=True)
class _Towards(Corrector):
    """A corrector towards the density of a score of its own."""

    score: Score
    corrector: Langevin

    @property
    def n_moves(self) -> int:  # type: ignore[override]
        return self.corrector.n_moves

    @property
    def evaluations(self) -> int:
        return self.corrector.evaluations

    def correct(
        self, score: Score, x: Tensor, sigma: float, noise: Callable[[int, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        return self.corrector.correct(self.score, x, sigma, noise)


@dataclass(eq=False)
class Counter:
    """Counts what scores are called with.

    Attributes:
        rows: so far.
        elements: of all rows.
    """

    rows: int = 0
    elements: int = 0
    _kept: dict[int, Score] = field(default_factory=dict)

    def counted(self, score: Score) -> Score:
        """A score that adds its rows; the same one for the same score, so that calls stay one."""

        def counting(x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
            self.rows += len(x)
            self.elements += x.numel()
            return score(x, sigma, **condition)

        return self._kept.setdefault(id(score), counting)

    def cost(self, samples: int, n_elements: int) -> dict[str, float]:
        """Rows a sample, and how often an element of it was seen."""
        return {"rows": self.rows / samples, "seen": self.elements / (samples * n_elements)}

    def wrapped(self, scores: Scores) -> Scores:
        """All scores that `compose` takes."""
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


def side_by_side(graph: RegionGraph) -> RegionGraph:
    """Pieces of a graph that share no element; see the module.

    A crop that is a region of the graph keeps its name and model; others have their shape for it.
    """
    pieces = [(group, row) for group in graph.groups for row in np.flatnonzero(group.outer)]
    inner = [(group, row) for group in graph.groups for row in np.flatnonzero(~group.outer)]
    taken: set[int] = set()
    regions: dict[Any, Tensor] = {}
    models: dict[Any, Any] = {}

    def take(group: RegionGroup, row: int) -> bool:
        index = group.indices(row, row + 1)[0]
        elements = set(index.reshape(-1).tolist())
        if free := not elements & taken:
            name = group.name(row)
            taken.update(elements)
            regions[name], models[name] = index, name if group.model is None else group.model
        return free

    for group, row in [*pieces, *inner]:
        take(group, int(row))
    for group, row in pieces:
        index = group.indices(int(row), int(row) + 1).reshape(-1)
        rest = index[[element not in taken for element in index.tolist()]]
        if len(rest):
            name = f"crop of {group.name(int(row))}"
            taken.update(rest.tolist())
            regions[name], models[name] = rest, tuple(rest.shape)
    return RegionGraph.from_regions(
        {name: index.numpy() for name, index in regions.items()},
        event_shape=graph.event_shape,
        models=models,
    )
