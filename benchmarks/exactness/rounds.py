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

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.exactness.modes import DISTRIBUTIONS, MEASURES, SAMPLES, SEEDS, SOLVERS, Trial
from benchmarks.exactness.petals import PetalRing
from benchmarks.reports import Row, columns, points, table
from pgmdiff.noise import Draw
from pgmdiff.samplers import Solver
from pgmdiff.samplers.base import State
from pgmdiff.scores.adapters import Score
from pgmdiff.text import Table

__all__ = ["Rounds", "beaten", "draw", "rows", "tables", "targets"]

METHODS = (
    ("average", 1), ("average", 3), ("average", 10), ("marginal", 1), ("marginal", 3),
    ("marginal", 10), ("posterior", 1), ("consistent", 1), ("exact score", 1), ("exact score", 3),
)  # fmt: skip
"""Rules and rounds per level."""
BUDGETS = 20, 60, 240
NAMES = (
    "two-mode chain", "tree of mixtures", "star of categories", "ring of 6 modes",
    "three-petal ring", "K4 of modes", "star of observations",
)  # fmt: skip


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
    """Measures all methods on chains, trees, rings and stars, or with `smoke` on one of them."""
    known = {q.name: q for q in (make() for make in (*DISTRIBUTIONS, PetalRing))}
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
        start = time.process_time()
        drawn = trial.drawn(method, levels, Rounds(SOLVERS["SDE"], rounds))
        seconds = (time.process_time() - start) / trial.seeds
        more = {"rounds": rounds, "evaluations": budget, "levels": levels, "seconds": seconds}
        row = trial.row(method, trial.measures(drawn), **more)
        yield row | {"off": {k: row[k][0] - trial.truth[k] for k in ("modes", "log_q")}}


def targets(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """None: this part compares."""
    return iter(())


def beaten(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Where another scheme's loss is smaller than that of messages by two standard errors."""
    found = []
    together = groupby(rows, key=itemgetter("distribution", "evaluations"))
    for (name, budget), some in together:
        each = list(some)
        (ours,) = (row for row in each if row["method"] == "consistent")
        others = [row for row in each if row["method"] not in ("consistent", "exact score")]
        for measure in MEASURES:
            best = min(others, key=partial(_loss, measure))
            errors = [row[measure][1] or 0.0 for row in (best, ours)]
            mine, its = _loss(measure, ours), _loss(measure, best)
            if its + 2 * math.hypot(*errors) < mine:
                about = {"distribution": name, "evaluations": budget, "measure": measure}
                about |= {"method": best["method"], "rounds": best["rounds"]}
                exact = [_loss(measure, r) for r in each if r["method"] == "exact score"]
                found.append({**about, "its": its, "ours": mine, "exact": min(exact, default=None)})
    return found


def _loss(measure: str, row: Row) -> float:
    return float(abs(row["off"][measure]) if measure in row["off"] else row[measure][0])


def tables(rows: Sequence[Row]) -> list[Table]:
    """All methods, budget by budget, and where others do better than messages."""
    measures = {name: f"{{{name}[0]:.4f}} ± {{{name}[1]:.4f}}" for name in MEASURES}
    shown = {
        **columns("distribution evaluations method rounds levels"),
        **measures,
        **columns("seconds:.2f"),
    }
    losses = columns("distribution evaluations measure method rounds its:.3g ours:.3g exact:.3g")
    return [
        table("Resampling and messages at equal evaluations", rows, shown),
        table("Where another scheme loses less than messages", beaten(rows), losses),
    ]


LEAST = 1e-3
"""Energy distances below are drawn here: they are at the floor, or less than 0 by chance."""


def draw(rows: Sequence[Row], folder: Path) -> None:
    """Energy distances against evaluations: `exactness_rounds.png`."""
    from pgmdiff.plotting import Panel, panels

    shown = *(method for method, rounds in METHODS if rounds == 1), "marginal, 10 rounds"
    drawn = []
    for name in dict.fromkeys(row["distribution"] for row in rows):
        own = [
            {**row, "mean": max(row["energy"][0], LEAST)}
            | ({"method": f"{row['method']}, 10 rounds"} if row["rounds"] > 1 else {})
            for row in rows
            if row["distribution"] == name and row["rounds"] in (1, 10)
        ]
        curves = points(own, "method", shown, "evaluations", "mean")
        held = {label: curve for label, curve in curves.items() if curve[0]}
        drawn.append(Panel(held, "evaluations", "energy distance", name))
    figure = panels(drawn, "Distance from exact samples, at equal evaluations", columns=4)
    figure.savefig(folder / "exactness_rounds.png", dpi=110)
