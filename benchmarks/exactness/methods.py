"""The methods that are compared: composition rules with and without a corrector, by evaluations."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from benchmarks.problems import Counter, Problem, passes
from pgmdiff.samplers import Corrector, Langevin, PredictorCorrector, Solver
from pgmdiff.scores.adapters import Score

__all__ = ["CORRECTED", "METHODS", "Method"]

LANGEVIN_STEP = 0.2
"""In units of σ²; one move per level."""


@dataclass(frozen=True)
class Method:
    """A rule for the predictor and, optionally, a rule whose density Langevin moves target.

    Attributes:
        rule: of the predictor.
        corrector: rule of the corrector, or None for no corrector.
    """

    rule: str
    corrector: str | None = None

    @property
    def name(self) -> str:
        """The method's name in tables and in the JSON."""
        if self.corrector is None:
            return self.rule
        towards = "" if self.corrector == self.rule else f"{self.corrector} "
        return f"{self.rule} + {towards}Langevin"

    def evaluations(self, levels: int, predictor: Solver) -> int:
        """Evaluations of a run of `levels` levels; the last step requires one, uncorrected."""
        predicted = passes(self.rule) * (predictor.evaluations * (levels - 1) + 1)
        corrected = 0 if self.corrector is None else passes(self.corrector) * (levels - 1)
        return predicted + corrected

    def levels(self, budget: int, predictor: Solver) -> int:
        """The largest number of levels that costs no more than a budget of evaluations."""
        levels = 1
        while self.evaluations(levels + 1, predictor) <= budget:
            levels += 1
        return levels

    def prepared(
        self, problem: Problem, predictor: Solver, counter: Counter
    ) -> tuple[Score, Solver]:
        """The score and the solver for `sample`."""
        score = problem.score(self.rule, counter)
        if self.corrector is None:
            return score, predictor
        same = self.corrector == self.rule
        target = score if same else problem.score(self.corrector, counter)
        return score, PredictorCorrector(predictor, _Towards(target, Langevin(LANGEVIN_STEP)))


METHODS = tuple(
    Method(rule)
    for rule in (
        "concatenation",
        "average",
        "marginal",
        "posterior",
        "consistent",
        "evidence",
        "exact score",
    )
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
