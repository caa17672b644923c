r"""Resampling, the usual remedy, beside messages: at equal evaluations, with the time of each.

Where pieces disagree, many schemes repeat every step: they go down a level, add the noise of the
step again and go down once more, so that pieces hear of each other in the noised state. The score
stays that of averaging or of the marginal rule, and U rounds leave a U-th of the levels. The step
is that of the SDE with η = 1, and the noise between the rounds is √(σ² - σ'²).

Source: Lugmayr et al., "RePaint: inpainting using denoising diffusion probabilistic models", 2022;
Mishra et al., "Compositional diffusion with guided search for long-horizon planning", 2026, which
also keeps the best of a population. Messages of another kind, on denoised values of chains, are
those of Zhang et al., "Compositional visual planning via inference-time diffusion scaling", 2026.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from benchmarks.exactness.modes import DISTRIBUTIONS, MEASURES, SAMPLES, SEEDS, SOLVERS, Trial
from benchmarks.reports import Row, columns, table
from pgmdiff.noise import Draw
from pgmdiff.samplers import Solver
from pgmdiff.samplers.base import State
from pgmdiff.scores.adapters import Score
from pgmdiff.text import Table

__all__ = ["Rounds", "rows", "tables", "targets"]

METHODS = (
    ("average", 1), ("average", 3), ("average", 10), ("marginal", 1), ("marginal", 3),
    ("marginal", 10), ("posterior", 1), ("consistent", 1), ("exact score", 1), ("exact score", 3),
)  # fmt: skip
"""Rules and rounds per level."""
BUDGETS = 20, 60, 240
NAMES = ("two-mode chain", "tree of mixtures", "star of categories", "ring of 6 modes")


@dataclass(frozen=True)
class Rounds(Solver):
    """Every step of a solver of order one is made several times.

    Args:
        solver: what makes a step from σ to σ'.
        rounds: how often; from the second on, noise brings the state back to σ first.
    """

    solver: Solver
    rounds: int

    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        step, last = state.step, state.sigma
        for round_ in range(self.rounds):
            if round_:
                again = (last**2 - sigma_next**2) ** 0.5 * noise(FRESH * round_ + step, state.x)
                state = replace(state, x=state.x + again, sigma=last)
            state = replace(state, step=step + FRESH * (self.rounds + round_))
            state = self.solver.step(score, state, sigma_next, noise)
        return replace(state, step=step + 1)


FRESH = 10_000
"""More than there are steps, so that every round draws noise of its own."""


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Measures all methods on a chain, two trees and a ring, or with `smoke` on one of them."""
    known = {q.name: q for q in (make() for make in DISTRIBUTIONS)}
    found: list[dict[str, Any]] = []
    for name in tqdm(NAMES[:1] if smoke else NAMES, desc="rounds"):
        trial = Trial(known[name], *((20, 2) if smoke else (SAMPLES, SEEDS)))
        for budget in BUDGETS[:1] if smoke else BUDGETS:
            found += _compared(trial, budget)
    return found


def _compared(trial: Trial, budget: int) -> Iterator[dict[str, Any]]:
    for method, rounds in METHODS:
        levels = budget // rounds
        if levels < 2 or (method == "exact score" and trial.problem.whole is None):
            continue
        start = time.perf_counter()
        drawn = trial.drawn(method, levels, Rounds(SOLVERS["SDE"], rounds))
        seconds = (time.perf_counter() - start) / trial.seeds
        more = {"rounds": rounds, "evaluations": budget, "levels": levels, "seconds": seconds}
        yield trial.row(method, trial.measures(drawn), **more)


def targets(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """None: this part compares."""
    return iter(())


def tables(rows: Sequence[Row]) -> list[Table]:
    """All methods, budget by budget."""
    measures = {name: f"{{{name}[0]:.4f}} ± {{{name}[1]:.4f}}" for name in MEASURES}
    shown = {
        **columns("distribution evaluations method rounds levels"),
        **measures,
        **columns("seconds:.2f"),
    }
    return [table("Resampling and messages at equal evaluations", rows, shown)]
