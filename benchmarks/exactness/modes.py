"""Non-Gaussian distributions: samples of every method against exact ones, at equal evaluations.

*SDE*: first order, η = 1. *ODE*: Heun, two evaluations per step. Both on Karras 20 → 0.01, from
N(0, 20² I). All methods of a seed start from the same noise and are compared with the same exact
samples, so that differences between methods are paired over seeds. Three iterations have a third of
the levels; runs of fewer than five levels are left out.

Four measures: the energy distance and the sliced Wasserstein distance to exact samples (another set
of which gives the floor), a statistic of the *modes* (`modes` of the distribution: mostly how often
neighbours switch modes, on loops the correlation of distant signs), and *log q*, the mean of the
exact log-density. The truth of the last two is the mean over many exact samples, and the loss is
the distance from it. *seconds* are those of a seed's samples.

*against* compares a method with others: the mean difference of the losses over seeds, its standard
error, and the p value of a one-sided t-test that the method is not worse.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import compress, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import torch
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness import distributions
from benchmarks.exactness.aims import aim, by_errors
from benchmarks.exactness.fields import FIELDS
from benchmarks.problems import METHODS, THREE, Problem, levels_within
from benchmarks.reports import Column, Row, columns, points, table
from pgmdiff.diagnostics.metrics import energy_distance, mean_and_error, sliced_wasserstein
from pgmdiff.noise import Generator
from pgmdiff.samplers import SDE, Heun, Solver, karras, sample
from pgmdiff.text import Table

__all__ = ["Trial", "draw", "holm", "rows", "tables", "targets"]

SIGMAS = 0.01, 20.0
SOLVERS: Mapping[str, Solver] = {"SDE": SDE(1.0), "ODE": Heun()}
TRUTH, OTHER_TRUTH = 100, 200
"""Added to a seed: for the exact samples compared with, and for those that give the floor."""
SEEDS, SAMPLES, FEWEST = 8, 500, 5
RULES = "marginal", "posterior", "consistent", THREE, "exact score"
Budgets = Mapping[tuple[str, int], Sequence[str]]
BUDGETS: Budgets = {
    ("SDE", 10): RULES, ("SDE", 20): METHODS, ("SDE", 60): RULES,
    ("ODE", 20): RULES, ("ODE", 60): RULES,
}  # fmt: skip
"""The solver and the evaluations, to the methods."""
MORE: Mapping[str, Budgets] = {
    "two-mode chain": {("SDE", 240): RULES, ("SDE", 960): RULES[:3]},
    "ring of 6 modes": {("SDE", 240): RULES},
}
MEASURES = "energy", "sliced", "modes", "log_q"
OTHERS = "marginal", "posterior", "exact score"
LEVEL = 0.05


class Truth(Protocol):
    """What is composed: a distribution with exact samples, and the statistic of its modes."""

    @property
    def name(self) -> str: ...
    @property
    def mirrored(self) -> bool: ...
    @property
    def loops(self) -> bool: ...
    @property
    def problem(self) -> Problem: ...
    def sample(self, n: int, generator: Generator) -> Tensor: ...
    def log_density(self, u: Tensor, /) -> Tensor: ...
    def modes(self, u: Tensor) -> Tensor: ...


DISTRIBUTIONS: tuple[Callable[[], Truth], ...] = (
    *(getattr(distributions, name) for name in distributions.NAMES),
    *(partial(replace, field) for field in FIELDS),
)


@dataclass(frozen=True, eq=False)
class Trial:
    """A distribution and the exact samples that methods are compared with.

    Attributes:
        q: the distribution.
        samples: per seed.
        seeds: number of them.
    """

    q: Truth
    samples: int
    seeds: int

    @cached_property
    def problem(self) -> Problem:
        """The distribution's parts."""
        return self.q.problem

    @cached_property
    def exact(self) -> list[Tensor]:
        """Exact samples of every seed, `[samples, N]` each."""
        return [self.q.sample(self.samples, TRUTH + seed) for seed in range(self.seeds)]

    def drawn(self, method: str, levels: int, solver: Solver) -> list[Tensor]:
        """A method's samples of every seed."""
        score, sigmas = self.problem.score(method), karras(levels, *SIGMAS)
        shape = self.samples, self.problem.graph.n_elements
        return [
            sample(score, sigmas, shape=shape, solver=solver, generator=seed, dtype=torch.float64)
            for seed in range(self.seeds)
        ]

    def measures(self, samples: Sequence[Tensor]) -> dict[str, list[float]]:
        """Every measure of every seed's samples."""
        q, pairs = self.q, list(zip(samples, self.exact, strict=True))
        return {
            "energy": [energy_distance(u, exact, mirrored=q.mirrored) for u, exact in pairs],
            "sliced": [sliced_wasserstein(u, exact, generator=0) for u, exact in pairs],
            "modes": [q.modes(u).mean().item() for u in samples],
            "log_q": [q.log_density(u).mean().item() for u in samples],
        }

    @cached_property
    def truth(self) -> dict[str, float]:
        """What a method without error reaches, by measure."""
        u = self.q.sample(200 * self.samples, OTHER_TRUTH)
        values = self.q.modes(u).mean().item(), self.q.log_density(u).mean().item()
        return {"energy": 0.0, "sliced": 0.0, "modes": values[0], "log_q": values[1]}

    def row(self, method: str, measured: Mapping[str, list[float]], **more: Any) -> dict[str, Any]:
        """The measures of a method as means over seeds with standard errors, and more about it."""
        about = {"distribution": self.q.name, "loops": self.q.loops, "method": method}
        about |= {"seeds": self.seeds, "samples": self.samples}
        return {**about, **more} | {name: mean_and_error(v) for name, v in measured.items()}

    def against(
        self, mine: Mapping[str, list[float]], its: Mapping[str, list[float]]
    ) -> dict[str, list[float]]:
        """Mean, standard error and p value of the differences of losses, by measure."""
        found = {}
        for name, truth in self.truth.items():
            # distances are losses themselves, below 0 too where they are free of bias
            loss = abs if name in ("modes", "log_q") else float
            pairs = zip(mine[name], its[name], strict=True)
            gaps = [loss(a - truth) - loss(b - truth) for a, b in pairs]
            mean, error = mean_and_error(gaps)
            p = stats.t.sf(mean / error, len(gaps) - 1) if error else 1.0
            found[name] = [mean, error or 0.0, float(p)]
        return found


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Measures all distributions, or with `smoke` three of them with few samples."""
    makers = [DISTRIBUTIONS[k] for k in (0, 6, -1)] if smoke else DISTRIBUTIONS
    found = []
    for make in tqdm(makers, desc="modes"):
        trial = Trial(make(), *((20, 2) if smoke else (SAMPLES, SEEDS)))
        budgets = {**BUDGETS, **MORE.get(trial.q.name, {})}
        if smoke:
            budgets = {("SDE", 15): METHODS, ("ODE", 9): OTHERS}
        found += [
            row
            for (solver, budget), methods in budgets.items()
            for row in _compared(trial, solver, budget, methods)
        ]
        floor = [trial.q.sample(trial.samples, OTHER_TRUTH + k) for k in range(trial.seeds)]
        found.append(trial.row("exact samples", trial.measures(floor), truth=trial.truth))
    return found


def _compared(
    trial: Trial, solver: str, budget: int, methods: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The methods on one distribution with one budget, compared with those of `OTHERS`."""
    measured = {}
    for method in methods:
        levels = levels_within(method, budget, SOLVERS[solver])
        if levels < FEWEST or (method == "exact score" and trial.problem.whole is None):
            continue
        start = time.perf_counter()
        drawn = trial.drawn(method, levels, SOLVERS[solver])
        seconds = (time.perf_counter() - start) / trial.seeds
        more = {"solver": solver, "evaluations": budget, "levels": levels, "seconds": seconds}
        measured[method] = trial.measures(drawn), more
    for method, (own, more) in measured.items():
        if method in ("consistent", THREE):
            its = {other: measured[other][0] for other in OTHERS if other in measured}
            more["against"] = {other: trial.against(own, its[other]) for other in its}
        yield trial.row(method, own, **more)


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which hypotheses Holm's procedure rejects, so that any is wrong with at most `level`."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    rejected = [False] * len(p_values)
    for rank, place in enumerate(order):
        if p_values[place] > level / (len(p_values) - rank):
            break
        rejected[place] = True
    return rejected


def targets(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The aims on the two-mode chain, against the other rules, and on loops."""
    ours = [row for row in rows if row["method"] == "consistent"]
    truth = {row["distribution"]: row["truth"] for row in rows if "truth" in row}
    chain = [row for row in rows if row["distribution"] == "two-mode chain"]
    yield from _two_modes(chain, truth["two-mode chain"]["modes"])

    for other in ("marginal", "posterior"):
        cases = [(row, name) for row in ours for name in MEASURES]
        worse = holm([row["against"][other][name][2] for row, name in cases])
        failed = [f"{_place(row)}, {name}" for row, name in compress(cases, worse)]
        target = f"Never worse than {other} composition, Holm-corrected at {LEVEL:.0%}"
        yield aim(target, f"{len(cases) - len(failed)} of {len(cases)}", failed)
    loops = [row for row in ours if row["loops"]]
    gaps = {_place(row): row["against"]["exact score"]["energy"] for row in loops}
    target = "On loops, energy distance within two standard errors of the exact score's"
    yield by_errors(target, gaps, 2)
    away = {_place(row): row["modes"][0] - truth[row["distribution"]]["modes"] for row in loops}
    failed = [f"{name} ({gap:+.3f})" for name, gap in away.items() if abs(gap) > 0.03]
    value = f"{len(away) - len(failed)} of {len(away)}"
    yield aim("On loops, mode correlation within 0.03 of the truth", value, failed)


def _two_modes(rows: Sequence[Row], truth: float) -> Iterator[dict[str, Any]]:
    """The aims on the two-mode chain, with the SDE."""
    some = {(r["method"], r["evaluations"]): r for r in rows if r.get("solver") == "SDE"}
    if ("consistent", 960) not in some:
        return
    mine, marginal = some["consistent", 20], some["marginal", 20]
    name, at_20 = "Two-mode chain", "Two-mode chain, 20 evaluations"
    share = mine["energy"][0] / marginal["energy"][0]
    failed = [f"{share:.3f}"] if share > 1 / 20 else []
    target = "energy distance over the marginal rule's, to be at most 1/20"
    yield aim(f"{at_20}: {target}", share, failed)
    above = {"above it": mine["against"]["exact score"]["energy"]}
    target = "energy distance above the exact score's, within two standard errors"
    yield by_errors(f"{at_20}: {target}", above, 2)
    gap = mine["modes"][0] - truth
    failed = [f"{gap:+.4f}"] if abs(gap) > 0.01 else []
    target = "mode-switch rate above the truth, to be within 0.01"
    yield aim(f"{at_20}: {target}", [gap, mine["modes"][1]], failed)
    few, many = (some["consistent", steps]["energy"] for steps in (60, 960))
    gap, error = many[0] - few[0], (few[1] ** 2 + many[1] ** 2) ** 0.5
    target = f"{name}: energy distance of 960 steps above that of 60, within two standard errors"
    yield by_errors(target, {"above 60 steps": [gap, error]}, 2)


def _place(row: Row) -> str:
    return f"{row['distribution']}, {row['solver']} {row['evaluations']}"


def tables(rows: Sequence[Row]) -> list[Table]:
    """All methods on each distribution."""
    measures: dict[str, Column] = {
        **columns("solver method evaluations levels"),
        **{name: f"{{{name}[0]:.4f}} ± {{{name}[1]:.4f}}" for name in MEASURES},
        **columns("seconds:.2f"),
    }
    by_name = groupby(rows, key=itemgetter("distribution"))
    return [table(name, list(some), measures) for name, some in by_name]


def draw(rows: Sequence[Row], folder: Path) -> None:
    """Energy distances at 20 evaluations; and modes against steps."""
    from benchmarks.dots import dots
    from pgmdiff.plotting import Panel, panels

    groups: dict[str, dict[str, tuple[float, float]]] = {}
    shown = *RULES, "exact samples"
    for row in rows:
        at_20 = row.get("solver"), row.get("evaluations")
        if row["method"] in shown and at_20 in (("SDE", 20), (None, None)):
            mean, error = row["energy"]
            groups.setdefault(row["distribution"], {})[row["method"]] = mean, error or 0.0
    figure = dots(
        groups,
        xlabel="energy distance to exact samples (bars: two standard errors)",
        title="20 evaluations of every region, SDE with η = 1 (3 iterations: six steps)",
        linear=0.03,
    )
    figure.savefig(folder / "exactness_modes.png", dpi=110)

    drawn = []
    for name, label in (("two-mode chain", "switch rate"), ("ring of 6 modes", "correlation")):
        some = [r for r in rows if r["distribution"] == name and r.get("solver") == "SDE"]
        truth = [r["truth"]["modes"] for r in rows if r["distribution"] == name and "truth" in r]
        each = [{**row, "mean": row["modes"][0]} for row in some]
        curves = points(each, "method", RULES, "levels", "mean")
        limit = ("truth", truth[0]) if truth else None
        if some:
            drawn.append(Panel(curves, "steps", f"{label} of modes", name, limit=limit, log="x"))
    figure = panels(drawn, "Modes against the number of steps, SDE with η = 1")
    figure.savefig(folder / "exactness_steps.png", dpi=110)
