"""Part 2, laws that are no Gaussians: samples of every method against exact ones.

The SDE with η = 1, Karras 20 → 0.01, from N(0, 20²). All methods of a seed start from the same
noise and are compared with the same exact samples, so that a difference to the marginal rule has a
small standard error; a method is marked where it is worse by more than two of them.

*measures*: energy distance and sliced Wasserstein distance to exact samples (of which another set
gives the floor), how often neighbours switch modes, and the mean of the exact log-density.
*solvers*: what of an error is the steps' and what the rule's, on the two-mode chain: steps of first
and of second order (DPM-Solver++ 2M, η = 1), with the exact score (all error is the solver's) and
with the rules', up to many steps.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness.distributions import (
    Law,
    curved_chain,
    parity_star,
    star_of_categories,
    three_mode_chain,
    tree_of_mixtures,
    two_mode_chain,
)
from benchmarks.exactness.methods import CORRECTED, METHODS, Counter, Method, Problem
from pgmdiff.diagnostics.metrics import (
    energy_distance,
    mean_and_error,
    sliced_wasserstein,
)
from pgmdiff.samplers import SDE, DPMSolver2M, Solver, karras, sample

__all__ = ["Run", "Truth", "draw", "label", "law_problem", "lines", "measures", "rows", "summary"]

SIGMAS = 0.01, 20.0
SEEDS = 8
TRUTH, OTHER_TRUTH = 100, 200
"""Added to a seed: that of the exact samples compared with, and of those that give the floor."""


@dataclass(frozen=True)
class Size:
    """How much of a law is measured.

    Attributes:
        samples: of a seed.
        seeds: how many.
        budgets: evaluations of every region, and the methods that are given them.
        steps: level counts at which the evidence rule, too, takes as many as the others.
    """

    samples: int
    seeds: int
    budgets: Mapping[int, Sequence[Method]]
    steps: Sequence[int]


CORE = tuple(Method(rule) for rule in ("marginal", "posterior", "evidence"))
EVERY = (*METHODS, *CORRECTED)
TWO_MODES = Size(1000, SEEDS, {20: METHODS, 60: EVERY}, (20, 60))
OTHERS = Size(500, SEEDS, {20: EVERY, 60: CORE}, (20,))
FULL = {
    two_mode_chain: TWO_MODES,
    three_mode_chain: OTHERS,
    curved_chain: OTHERS,
    tree_of_mixtures: OTHERS,
    star_of_categories: OTHERS,
    parity_star: OTHERS,
}
SMOKE = {
    two_mode_chain: Size(50, 2, {6: EVERY}, (6,)),
    parity_star: Size(20, 1, {4: CORE}, ()),
}


@dataclass(frozen=True, eq=False)
class Truth:
    """A law, exact samples of every seed, and the same as a problem."""

    law: Law
    problem: Problem
    exact: tuple[Tensor, ...]

    @classmethod
    def of(cls, law: Law, samples: int, seeds: int, problem: Problem | None = None) -> "Truth":
        """Exact samples of all seeds; without a problem given it is that of the law's pairs."""
        exact = tuple(_exact(law, samples, TRUTH + seed) for seed in range(seeds))
        return cls(law, problem or law_problem(law), exact)


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Measures all laws; `smoke` two of them, with few samples."""
    sizes = (SMOKE if smoke else FULL).items()
    found = [row for law, size in tqdm(sizes, desc="laws") for row in _law_rows(law(), size)]
    return found + list(_solver_rows(SOLVER_SMOKE if smoke else SOLVER_ROWS))


def law_problem(law: Law) -> Problem:
    """The exact scores and covariances of the parts of a law."""
    scores = {name: model.score for name, model in law.models.items()}
    covariances = {name: model.covariance for name, model in law.models.items()}
    return Problem(law.graph.regions, lambda graph: scores, covariances, law.whole)


def _exact(law: Law, samples: int, seed: int) -> Tensor:
    return law.sample(samples, torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- all methods on one law


def _law_rows(law: Law, size: Size) -> Iterator[dict[str, Any]]:
    truth = Truth.of(law, size.samples, size.seeds)
    floor = [_exact(law, size.samples, OTHER_TRUTH + seed) for seed in range(size.seeds)]
    yield label(truth, "exact samples") | summary(measures(truth, floor))
    for budget, methods in size.budgets.items():
        known = [m for m in methods if m.rule != "exact score" or law.whole is not None]
        runs = [(method, method.levels(budget, SDE(1.0))) for method in known]
        if budget in size.steps:
            runs.append((Method("evidence"), budget))
        yield from _compared(truth, budget, runs)


def _compared(
    truth: Truth, budget: int, runs: Sequence[tuple[Method, int]]
) -> Iterator[dict[str, Any]]:
    """A row a run; first of all runs the marginal rule, which the others are compared with."""
    base = Run.of(truth, Method("marginal"), budget)
    measured = measures(truth, base.samples)
    for method, levels in runs:
        run = base if method == Method("marginal") else Run.of(truth, method, levels)
        found = measured if run is base else measures(truth, run.samples)
        row: dict[str, Any] = {"budget": budget, "solver": "SDE", "levels": levels, **run.cost}
        above = _above(found["energy"], measured["energy"])
        row |= {"above_marginal": above, "worse": _worse(*above)}
        if method.name == "posterior":
            gaps = [(a - b).abs().max() for a, b in zip(run.samples, base.samples, strict=True)]
            row["from_marginal"] = float(max(gaps))
        yield label(truth, method.name) | row | summary(found)


def _above(a: Sequence[float], b: Sequence[float]) -> tuple[float, float | None]:
    """How much larger a is, seed by seed."""
    return mean_and_error([first - second for first, second in zip(a, b, strict=True)])


def _worse(mean: float, error: float | None) -> bool | None:
    return None if error is None else mean > 2 * error


@dataclass(frozen=True, eq=False)
class Run:
    """The samples of a method, of every seed, and what they cost."""

    samples: list[Tensor]
    cost: dict[str, float]

    @classmethod
    def of(
        cls, truth: Truth, method: Method, levels: int, predictor: Solver | None = None
    ) -> "Run":
        counter, predictor = Counter(), predictor or SDE(1.0)
        score, solver = method.prepared(truth.problem, predictor, counter)
        shape = truth.exact[0].shape
        samples = [
            sample(
                score,
                karras(levels, *SIGMAS),
                shape=shape,
                solver=solver,
                generator=seed,
                dtype=torch.float64,
            )
            for seed in range(len(truth.exact))
        ]
        cost = counter.cost(len(samples) * shape[0], shape[1])
        return cls(samples, {"evaluations": method.evaluations(levels, predictor), **cost})


def label(truth: Truth, method: str) -> dict[str, Any]:
    """What every row of samples says."""
    samples = len(truth.exact[0])
    seeds = len(truth.exact)
    return {"law": truth.law.name, "method": method, "seeds": seeds, "samples": samples}


def measures(truth: Truth, samples: Sequence[Tensor]) -> dict[str, list[float]]:
    """Every measure of every seed's samples."""
    law, pairs = truth.law, list(zip(samples, truth.exact, strict=True))
    return {
        "energy": [energy_distance(u, exact, mirrored=law.mirrored) for u, exact in pairs],
        "sliced": [sliced_wasserstein(u, exact, generator=0) for u, exact in pairs],
        "switches": [law.switches(u).mean().item() for u in samples],
        "log_density": [law.log_density(u).mean().item() for u in samples],
    }


def summary(measured: dict[str, list[float]]) -> dict[str, tuple[float, float | None]]:
    """Means over seeds, and their standard errors."""
    return {name: mean_and_error(values) for name, values in measured.items()}


# ---------------------------------------------------------------- the steps' and the rule's error


@dataclass(frozen=True)
class SolverRuns:
    """The two-mode chain, at one number of levels.

    Attributes:
        levels: of every run.
        rules: each takes as many steps, so that the evidence rule evaluates twice as often.
        samples, seeds: of a run, and how many.
        solver: the SDE's first-order step, or another.
    """

    levels: int
    rules: Sequence[str]
    samples: int
    seeds: int = SEEDS
    solver: Solver = field(default_factory=SDE)


SECOND = DPMSolver2M(eta=1.0, rho=7.0)
SOLVER_ROWS = (
    SolverRuns(20, ("marginal", "posterior", "evidence"), 2000),
    SolverRuns(60, ("marginal", "posterior", "evidence"), 2000),
    SolverRuns(20, ("posterior", "evidence", "exact score"), 1000, solver=SECOND),
    SolverRuns(60, ("posterior", "evidence", "exact score"), 1000, solver=SECOND),
    SolverRuns(240, ("posterior", "evidence"), 250),
    SolverRuns(960, ("evidence", "exact score"), 100, 4),
)
SOLVER_SMOKE = (SolverRuns(4, ("evidence",), 20, 1, SECOND),)


def _solver_rows(runs: Sequence[SolverRuns]) -> Iterator[dict[str, Any]]:
    for run in tqdm(runs, desc="solvers"):
        truth = Truth.of(two_mode_chain(), run.samples, run.seeds)
        name = "SDE" if isinstance(run.solver, SDE) else "second-order SDE"
        for rule in run.rules:
            done = Run.of(truth, Method(rule), run.levels, run.solver)
            row = {"table": "solvers", "solver": name, "levels": run.levels, **done.cost}
            yield label(truth, rule) | row | summary(measures(truth, done.samples))


# ---------------------------------------------------------------- what is shown


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as text."""
    methods = [row for row in rows if "table" not in row]
    text = []
    for law in dict.fromkeys(row["law"] for row in methods):
        some = [row for row in methods if row["law"] == law]
        text += [f"{law}: {some[0]['seeds']} seeds of {some[0]['samples']} samples", HEADS]
        text += [*map(_line, some), ""]
    coincide = [row for row in methods if row["law"] == "parity star" and "from_marginal" in row]
    for row in coincide:
        text.append(
            f"parity star, {row['budget']} evaluations: samples of posterior and marginal rule "
            f"differ by {row['from_marginal']:.1e}"
        )
    return [*text, *_violation_lines(methods), "", *_solver_lines(rows)]


HEADS = (
    f"{'':>30} {'levels':>6} {'evals':>6} {'rows':>6} {'energy distance':>17} {'sliced':>7} "
    f"{'switch':>7} {'log q':>7}   above the marginal rule"
)


def _line(row: dict[str, Any]) -> str:
    cost = " ".join(f"{row[key]:>6.0f}" if key in row else " " * 6 for key in COSTS)
    above = _figure(row["above_marginal"], "+.4f") if "above_marginal" in row else ""
    mark = " worse" if row.get("worse") else ""
    return (
        f"{row['method']:>30} {cost} {_figure(row['energy'], '.4f'):>17} "
        f"{row['sliced'][0]:>7.3f} {row['switches'][0]:>7.3f} {row['log_density'][0]:>7.2f}   "
        f"{above}{mark}"
    )


COSTS = ("levels", "evaluations", "rows")


def _figure(value: tuple[float, float | None], form: str) -> str:
    mean, error = value
    return format(mean, form) + ("" if error is None else f" ± {error:.4f}")


def _violation_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Where a rule that should not be is worse than the marginal rule of the same budget."""
    ours = [row for row in rows if row["method"] in ("posterior", "evidence") and "worse" in row]
    found = [row for row in ours if row["worse"]]
    yield (
        f"posterior and evidence composition against the marginal rule: {len(ours)} comparisons, "
        f"{len(found)} worse by more than two standard errors"
    )
    for row in found:
        yield f"  {row['law']}, {row['method']}, {row['evaluations']} evaluations: " + _figure(
            row["above_marginal"], "+.4f"
        )


def _solver_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "two-mode chain: energy distance by steps; with the exact score it is the solver's own"
    for row in rows:
        if "table" in row:
            yield (
                f"{row['method']:>30} {row['levels']:>6} {row['solver']:>17} "
                f"{_figure(row['energy'], '.4f'):>17}   switch {row['switches'][0]:.3f}   "
                f"{row['seeds']} × {row['samples']}"
            )


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Energy distances of the methods at the smallest budget, law by law."""
    from benchmarks.dots import dots

    shown = [method.name for method in METHODS]
    groups: dict[str, dict[str, tuple[float, float]]] = {}
    for row in rows:
        if "table" not in row and (row["method"] in shown or "budget" not in row):
            mean, error = row["energy"]
            groups.setdefault(row["law"], {}).setdefault(row["method"], (mean, error or 0.0))
    figure = dots(
        groups,
        xlabel="energy distance to exact samples (bars: two standard errors)",
        title="20 evaluations of every region, SDE with η = 1 (evidence: 10 steps of two)",
        linear=0.03,
    )
    figure.savefig(folder / "exactness_modes.png", dpi=110)
