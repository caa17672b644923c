"""Part 2, non-Gaussian distributions: samples of every method against exact ones.

All runs use the SDE with η = 1 on Karras 20 → 0.01, from N(0, 20² I). All methods of a seed start
from the same noise and are compared with the same exact samples, so that a difference from the
marginal rule has a small standard error; a method is marked where it is worse by more than two of
them.

*measures*: energy distance and sliced Wasserstein distance to exact samples (another set of which
gives the floor), the rate at which neighbours switch modes, and the mean of the exact log-density.
*solvers*: the steps' and the rule's share of the error, on the two-mode chain: steps of first and
of second order (DPM-Solver++ 2M, η = 1), with the exact score (all error is the solver's) and with
the rules' scores, up to many steps.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness import distributions
from benchmarks.exactness.distributions import MarkovTree, parity_star, two_mode_chain
from benchmarks.exactness.methods import CORRECTED, METHODS, Method
from benchmarks.problems import Counter, Problem
from benchmarks.reports import Column, Row, columns, plus_minus, table
from pgmdiff.diagnostics.metrics import energy_distance, mean_and_error, sliced_wasserstein
from pgmdiff.samplers import SDE, DPMSolver2M, Solver, karras, sample
from pgmdiff.text import Table

__all__ = ["Trial", "draw", "rows", "tables"]

SIGMAS = 0.01, 20.0
SEEDS = 8
TRUTH, OTHER_TRUTH = 100, 200
"""Added to a seed: for the exact samples compared with, and for those that give the floor."""


class Size(NamedTuple):
    """The effort spent on a distribution.

    Each budget of evaluations is given to its methods; `steps` are the level counts at which the
    evidence rule, too, takes as many as the others.
    """

    samples: int
    seeds: int
    budgets: Mapping[int, Sequence[Method]]
    steps: Sequence[int]


CORE = tuple(Method(rule) for rule in ("marginal", "posterior", "consistent", "evidence"))
EVERY = (*METHODS, *CORRECTED)
TWO_MODES = Size(1000, SEEDS, {20: METHODS, 60: EVERY}, (20, 60))
OTHERS = Size(500, SEEDS, {20: EVERY, 60: CORE}, (20,))
FULL = {
    two_mode_chain: TWO_MODES,
    distributions.three_mode_chain: OTHERS,
    distributions.curved_chain: OTHERS,
    distributions.tree_of_mixtures: OTHERS,
    distributions.star_of_categories: OTHERS,
    parity_star: OTHERS,
}
SMOKE = {two_mode_chain: Size(50, 2, {6: EVERY}, (6,)), parity_star: Size(20, 1, {4: CORE}, ())}


class SolverRuns(NamedTuple):
    """Runs on the two-mode chain with as many levels for every rule."""

    levels: int
    rules: Sequence[str]
    samples: int
    seeds: int = SEEDS
    solver: Solver = SDE(1.0)


SECOND = DPMSolver2M(eta=1.0, rho=7.0)
SOLVER_RUNS = (
    SolverRuns(20, ("marginal", "posterior", "evidence"), 2000),
    SolverRuns(60, ("marginal", "posterior", "evidence"), 2000),
    SolverRuns(20, ("posterior", "evidence", "exact score"), 1000, solver=SECOND),
    SolverRuns(60, ("posterior", "evidence", "exact score"), 1000, solver=SECOND),
    SolverRuns(240, ("posterior", "evidence"), 250),
    SolverRuns(960, ("evidence", "exact score"), 100, 4),
)
SOLVER_SMOKE = (SolverRuns(4, ("evidence",), 20, 1, SECOND),)


@dataclass(frozen=True, eq=False)
class Trial:
    """A distribution, the problem of composing it, and the samples that methods are compared on.

    Attributes:
        q: the distribution.
        problem: its parts.
        samples: per seed.
        seeds: number of them.
    """

    q: MarkovTree
    problem: Problem
    samples: int
    seeds: int

    @cached_property
    def exact(self) -> list[Tensor]:
        """Exact samples of every seed, `[samples, N]` each."""
        return [self.q.sample(self.samples, TRUTH + seed) for seed in range(self.seeds)]

    def drawn(
        self, method: Method, levels: int, predictor: Solver
    ) -> tuple[list[Tensor], dict[str, float]]:
        """A method's samples of every seed, and the cost of each."""
        counter, sigmas = Counter(), karras(levels, *SIGMAS)
        score, solver = method.prepared(self.problem, predictor, counter)
        shape = self.samples, self.q.graph.n_elements
        drawn = [
            sample(score, sigmas, shape=shape, solver=solver, generator=seed, dtype=torch.float64)
            for seed in range(self.seeds)
        ]
        cost = counter.cost(self.seeds * self.samples, shape[1])
        return drawn, {"evaluations": method.evaluations(levels, predictor), **cost}

    def measures(self, samples: Sequence[Tensor]) -> dict[str, list[float]]:
        """Every measure of every seed's samples."""
        q, pairs = self.q, list(zip(samples, self.exact, strict=True))
        return {
            "energy": [energy_distance(u, exact, mirrored=q.mirrored) for u, exact in pairs],
            "sliced": [sliced_wasserstein(u, exact, generator=0) for u, exact in pairs],
            "switches": [q.switches(u).mean().item() for u in samples],
            "log_density": [q.log_density(u).mean().item() for u in samples],
        }

    def row(self, method: str, measured: Mapping[str, list[float]], more: Row) -> dict[str, Any]:
        """The measures of a method as means over seeds with standard errors, and more about it."""
        means = {name: mean_and_error(values) for name, values in measured.items()}
        about = {"law": self.q.name, "method": method, "seeds": self.seeds, "samples": self.samples}
        return {**about, **more, **means}


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Measures all distributions, or with `smoke` two of them with few samples."""
    sizes = (SMOKE if smoke else FULL).items()
    found = [row for q, size in tqdm(sizes, desc="modes") for row in _compared(q(), size)]
    for run in tqdm(SOLVER_SMOKE if smoke else SOLVER_RUNS, desc="solvers"):
        chain = two_mode_chain()
        trial = Trial(chain, chain.problem, run.samples, run.seeds)
        solver = "SDE" if isinstance(run.solver, SDE) else "second-order SDE"
        for rule in run.rules:
            drawn, cost = trial.drawn(Method(rule), run.levels, run.solver)
            own = {"table": "solvers", "solver": solver, "levels": run.levels, **cost}
            found.append(trial.row(rule, trial.measures(drawn), own))
    return found


def _compared(q: MarkovTree, size: Size) -> Iterator[dict[str, Any]]:
    """All methods on one distribution, each beside the marginal rule with the same budget."""
    trial = Trial(q, q.problem, size.samples, size.seeds)
    floor = [q.sample(size.samples, OTHER_TRUTH + seed) for seed in range(size.seeds)]
    yield trial.row("exact samples", trial.measures(floor), {})
    for budget, methods in size.budgets.items():
        possible = [m for m in methods if m.rule != "exact score" or q.whole is not None]
        runs = [(method, method.levels(budget, SDE(1.0))) for method in possible]
        if budget in size.steps:
            runs.append((Method("evidence"), budget))
        marginal = trial.drawn(Method("marginal"), budget, SDE(1.0))
        base = trial.measures(marginal[0])
        for method, levels in runs:
            known = method == Method("marginal")
            drawn, cost = marginal if known else trial.drawn(method, levels, SDE(1.0))
            measured = base if known else trial.measures(drawn)
            gaps = zip(measured["energy"], base["energy"], strict=True)
            mean, error = mean_and_error([mine - its for mine, its in gaps])
            row: dict[str, Any] = {"budget": budget, "solver": "SDE", "levels": levels, **cost}
            row["above_marginal"] = mean, error
            row["worse"] = None if error is None else mean > 2 * error
            if method.name == "posterior":
                pairs = zip(drawn, marginal[0], strict=True)
                row["from_marginal"] = max((a - b).abs().max().item() for a, b in pairs)
            yield trial.row(method.name, measured, row)


def tables(rows: Sequence[Row]) -> list[Table]:
    """All methods on each distribution, comparisons with the marginal rule, and solvers."""
    energy: dict[str, Column] = {"energy distance": lambda row: plus_minus(row["energy"])}
    above: dict[str, Column] = {
        "above the marginal rule": lambda row: plus_minus(row["above_marginal"], "+.4f")
    }
    more = columns("sliced[0]:.3f switches[0]:.3f log_density[0]:.2f")
    measures = {**columns("method levels evaluations rows:.0f"), **energy, **more}
    marked: dict[str, Column] = {**above, "worse": lambda row: "worse" if row["worse"] else ""}
    methods = [row for row in rows if "table" not in row]
    found = []
    for name in dict.fromkeys(row["law"] for row in methods):
        some = [row for row in methods if row["law"] == name]
        title = f"{name}: {some[0]['seeds']} seeds of {some[0]['samples']} samples"
        notes = [
            f"Samples of posterior and marginal rule with {row['budget']} evaluations differ by "
            f"at most {row['from_marginal']:.1e}."
            for row in some
            if "from_marginal" in row and name == "parity star"
        ]
        found.append(table(title, some, {**measures, **marked}, notes))
    ours = [row for row in methods if row["method"] in ("posterior", "evidence") and "worse" in row]
    worse = [row for row in ours if row["worse"]]
    return [
        *found,
        table(
            f"Posterior and evidence composition against the marginal rule: {len(ours)} "
            f"comparisons, {len(worse)} worse by more than two standard errors",
            worse,
            {**columns("law method evaluations"), **above},
        ),
        table(
            "Two-mode chain: energy distance by steps; that of the exact score is the solver's own",
            [row for row in rows if "table" in row],
            {**columns("method levels solver seeds samples"), **energy, **more},
        ),
    ]


def draw(rows: Sequence[Row], folder: Path) -> None:
    """Energy distances of the methods with the smallest budget: `exactness_modes.png`."""
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
