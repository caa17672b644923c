"""Part 1, Gaussians: samplers are linear, so their distributions follow without sampling error.

The loss is KL(reached ‖ q) per variable, in nats, of the distribution that a sampler reaches
exactly (`diagnostics.distribution_reached`).

*curves*: loss against evaluations and against length, for every method; and the difference between
the covariance reached by posterior and evidence composition and the one that the exact score
reaches with the same steps (largest entry of the difference over the largest entry). *steps*: the
fewest levels that bring the loss to a target.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness.methods import CORRECTED, METHODS, Method
from benchmarks.problems import Counter, Problem, gaussian_problem
from benchmarks.reports import Column, Row, columns, points, spread, table
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import Gaussian, ar1, kl_divergence
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, cycle, grid, tiles, tree
from pgmdiff.samplers import Heun, Solver, karras, sample
from pgmdiff.text import Table

__all__ = ["Case", "chain_case", "draw", "rows", "tables"]

LEVELS = (5, 9, 18, 40)
CORRELATIONS = (0.5, 0.9, 0.95, 0.99)
LENGTHS = (3, 8, 20, 100, 300)
LONGEST = {0.95: (18,), 0.99: (9,)}
"""Correlation to the level counts that chains of 1000 are run with."""
DOUBLINGS = (8, 16, 32, 64, 128, 256, 512, 1024)
TARGET = 1e-3
DEEP, MOST_LEVELS, MOST_LEVELS_LONG = 256, 200, 40
"""Up to `DEEP` elements the target is sought with at most 200 levels, beyond with 40."""
SIGMAS = 0.002, 80.0
HEUN = Heun()

LOOPS = ("ring", "grid 4×4")
EXACT = METHODS[-1]
EXACT_RULES = ("posterior", "evidence")


@dataclass(frozen=True, eq=False)
class Case:
    """A Gaussian on a graph, the level counts to try, and whether to try correctors."""

    name: str
    graph: FactorGraph | RegionGraph
    q: Gaussian
    levels: Sequence[int] = LEVELS
    corrected: bool = False
    rho: float | None = None

    @property
    def label(self) -> dict[str, Any]:
        """What identifies the case in every row."""
        return {"graph": self.name, "n": len(self.q.covariance), "rho": self.rho}

    @cached_property
    def problem(self) -> Problem:
        """The case, to be composed of its marginals."""
        return gaussian_problem(self.graph, self.q)

    def reached(
        self,
        method: Method,
        levels: int,
        predictor: Solver = HEUN,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """The covariance that a method reaches from N(0, 80² I)."""
        score, solver = method.prepared(self.problem, predictor, Counter())
        eye = torch.eye(len(self.q.covariance), dtype=dtype)
        start = Gaussian(eye.new_zeros(len(eye)), SIGMAS[1] ** 2 * eye)
        return distribution_reached(score, karras(levels, *SIGMAS), start, solver).covariance

    def loss(self, covariance: Tensor) -> float:
        """KL(N(m, covariance) ‖ q) per variable."""
        return kl_divergence(Gaussian(self.q.mean, covariance), self.q) / len(covariance)

    def measured(
        self, method: Method, levels: int, covariance: Tensor | None = None
    ) -> dict[str, Any]:
        """The loss of a method, or of the covariance that it reached, and its cost per sample."""
        covariance = self.reached(method, levels) if covariance is None else covariance
        counter, n = Counter(), len(covariance)
        score, solver = method.prepared(self.problem, HEUN, counter)
        sample(score, karras(levels, *SIGMAS), shape=(1, n), solver=solver, generator=0)
        return {
            **self.label,
            "method": method.name,
            "levels": levels,
            "evaluations": method.evaluations(levels, HEUN),
            "kl": self.loss(covariance),
            **counter.cost(1, n),
        }


def chain_case(n: int, rho: float, levels: Sequence[int], *, corrected: bool = False) -> Case:
    """The stationary AR(1) chain of unit variance, with a factor on every pair."""
    return Case("chain", chain(n), ar1(n, rho), levels, corrected, rho)


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Measures all cases, or with `smoke` one small case of each kind."""
    found = []
    cases = [chain_case(3, 0.5, (5,), corrected=True)] if smoke else list(_cases())
    for case in tqdm(cases, desc="Gaussians"):
        for levels in case.levels:
            exact = case.reached(EXACT, levels)
            for method in (EXACT, *METHODS[:-1], *(CORRECTED if case.corrected else ())):
                reached = exact if method == EXACT else case.reached(method, levels)
                row = case.measured(method, levels, reached)
                if method.name in EXACT_RULES and case.name not in LOOPS:
                    single = case.reached(method, levels, dtype=torch.float32).double()
                    row["from_exact"] = _apart(reached, exact)
                    row["from_exact_float32"] = _apart(single, exact)
                found.append(row)
    # a shorter chain's fewest levels are tried first on the next one
    guess = {"marginal": 18, "posterior": 18, "exact score": 18}
    for n in tqdm(DOUBLINGS[:1] if smoke else DOUBLINGS, desc="steps to a loss"):
        case, most = chain_case(n, 0.95, ()), MOST_LEVELS if n <= DEEP else MOST_LEVELS_LONG
        for name in guess:
            method = Method(name)
            tried = _search(case, method, guess[name], 20 if smoke else most)
            fewest = min((k for k, loss in tried.items() if loss <= TARGET), default=None)
            guess[name] = fewest or guess[name]
            row = {
                "method": name,
                "target": TARGET,
                "fewest_levels": fewest,
                "evaluations": fewest and method.evaluations(fewest, HEUN),
                "least_kl": min(tried.values()),
                "tried": sorted(tried),
            }
            found.append(case.label | row)
    return found


def _cases() -> Iterator[Case]:
    for rho in CORRELATIONS:
        for n in LENGTHS:
            example = (n, rho) == (20, 0.95)
            yield chain_case(n, rho, (*LEVELS, 100) if example else LEVELS, corrected=example)
    for rho, levels in LONGEST.items():
        yield chain_case(1000, rho, levels)
    yield Case("windows 8/4", tiles((20,), 8, 4), ar1(20, 0.95), rho=0.95, corrected=True)
    for name, graph in {
        "binary tree": tree(2, 4),
        "ternary tree": tree(3, 3),
        "ring": cycle(8),
        "grid 4×4": grid(4, 4),
    }.items():
        # neighbours coupled alike: precision 1 on the diagonal, -0.9 / largest degree beside it
        precision = torch.eye(graph.n_elements, dtype=torch.float64)
        for factor in graph.factors:
            a, b = graph.regions.elements(factor).tolist()
            precision[a, b] = precision[b, a] = -0.9 / int(graph.degrees.max())
        covariance = torch.linalg.inv(precision)
        mean = torch.zeros(graph.n_elements, dtype=torch.float64)
        yield Case(name, graph, Gaussian(mean, (covariance + covariance.T) / 2), corrected=True)


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def _search(case: Case, method: Method, guess: int, most: int) -> dict[int, float]:
    """Level counts tried and their losses, until the fewest that reach the target is known."""
    tried: dict[int, float] = {}

    def reaches(levels: int) -> bool:
        if levels not in tried:
            tried[levels] = case.loss(case.reached(method, levels))
        return tried[levels] <= TARGET

    low, high = guess - 1, guess
    while not reaches(high):
        if high == most:
            return tried
        low, high = high, min(2 * high, most)
    while low > 0 and reaches(low):
        low, high = low // 2, low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return tried


def tables(rows: Sequence[Row]) -> list[Table]:
    """The losses, the agreement with the exact score, and the fewest levels to the target."""
    curves = [row for row in rows if "kl" in row]
    heading = "KL per variable, nats, by levels of Heun (evidence evaluates twice as often)"
    agreeing = [row for row in rows if "from_exact" in row]
    worst = [
        {"method": method, "rho": rho}
        | {
            key: max(r[key] for r in agreeing if (r["rho"], r["method"]) == (rho, method))
            for key in ("from_exact", "from_exact_float32")
        }
        for rho in dict.fromkeys(row["rho"] for row in agreeing)
        for method in EXACT_RULES
    ]
    return [
        _loss_table(heading, curves, METHODS),
        _loss_table("The same with one Langevin move per level", curves, CORRECTED),
        table(
            "Largest relative difference from the exact score's covariance (acyclic graphs)",
            worst,
            {
                "": lambda row: "trees" if row["rho"] is None else f"chains, ρ {row['rho']:g}",
                **columns("method from_exact:.1e from_exact_float32:.1e"),
            },
        ),
        table(
            f"Fewest levels to {TARGET:g} nats per variable, chain of correlation 0.95",
            [row for row in rows if "target" in row],
            {
                **columns("n method"),
                "levels": lambda row: str(
                    row["fewest_levels"]
                    or f"not with {max(row['tried'])} (least loss {row['least_kl']:.2g})"
                ),
            },
        ),
    ]


def _loss_table(title: str, rows: Sequence[Row], methods: Sequence[Method]) -> Table:
    """A column per rule of the predictor."""
    rules = {method.name: method.rule for method in methods}
    some = [{**row, "rule": rules[row["method"]]} for row in rows if row["method"] in rules]
    index: dict[str, Column] = {
        "": lambda row: (
            f"{row['graph']} of {row['n']}" + ("" if row["rho"] is None else f", ρ {row['rho']:g}")
        ),
        "levels": "{levels}",
    }
    return spread(title, some, index, "rule", "{kl:.2g}")


def draw(rows: Sequence[Row], folder: Path) -> None:
    """Loss against evaluations, and against length: `exactness.png`."""
    from pgmdiff.plotting import Panel, panels

    shown = [method.name for method in (*METHODS, Method("marginal", "marginal"))]
    curves = [row for row in rows if "kl" in row and row["graph"] == "chain"]
    by_cost = [row for row in curves if (row["n"], row["rho"]) == (20, 0.95)]
    by_length = [row for row in curves if (row["levels"], row["rho"]) == (18, 0.95)]
    cost = points(by_cost, "method", shown, "evaluations", "kl")
    length = points(by_length, "method", shown[:-1], "n", "kl")
    evaluations, heights = "evaluations of every region", "KL per variable, nats"
    figure = panels(
        [
            Panel(cost, evaluations, heights, "20 variables"),
            Panel(length, "variables", "", "18 levels: 35 evaluations (evidence 70)"),
        ],
        "AR(1) chain of correlation 0.95: Heun, exact propagation, no sampling error",
    )
    figure.savefig(folder / "exactness.png", dpi=110)
