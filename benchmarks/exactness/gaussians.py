"""Gaussians: samplers are linear, so their distributions follow without sampling error.

The loss is KL(reached ‖ q) per variable, in nats, of the distribution that a sampler reaches
exactly (`diagnostics.distribution_reached`), from N(0, 80² I) by Heun. Messages are carried from
call to call, as in every run.

*from_exact* is the difference between the covariance that a rule reaches and the one that the exact
score reaches with the same steps: the largest entry of the difference over the largest entry. It is
measured where the data are Markov to the graph.

*Windows* of 7 on a line of 67 share 1 to 6 elements with their neighbours; *seen* is the number of
times that a network saw an element. AR(1); AR(2), an oscillation whose windows must share two
elements to be Markov; and a smooth process observed with noise (Matérn 3/2, length 8, and 1 % white
noise), which is Markov for no overlap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness.aims import aim
from benchmarks.problems import METHODS, RULES, THREE, Counter, Problem, gaussian_problem
from benchmarks.reports import Row, points, spread
from pgmdiff.composition.joint import Joint
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import Gaussian, ar1, kl_divergence
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, cycle, grid, tiles, torus, tree
from pgmdiff.samplers import Heun, Solver, karras, sample
from pgmdiff.scores.adapters import Score
from pgmdiff.text import Table

__all__ = ["SIGMAS", "Case", "chain_case", "draw", "rows", "tables", "targets"]

LEVELS = (9, 18, 40)
CORRELATIONS, LENGTHS = (0.5, 0.9, 0.95, 0.99), (3, 20, 100, 300)
LENGTH, WINDOW, OVERLAPS = 67, 7, (1, 2, 3, 4, 5, 6)
SIGMAS = 0.002, 80.0
HEUN = Heun()
EXACT = "exact score"
COMPARED = EXACT, *(rule for rule in RULES if rule != THREE)
"""The iterations of `Consistent` change nothing for Gaussians."""


@dataclass(frozen=True, eq=False)
class Case:
    """A Gaussian on a graph, and the level counts to try.

    Attributes:
        about: what identifies the case in every row.
        markov: whether the Gaussian is Markov to the graph.
    """

    about: dict[str, Any]
    graph: FactorGraph | RegionGraph
    q: Gaussian
    levels: Sequence[int] = LEVELS
    markov: bool = True

    @cached_property
    def problem(self) -> Problem:
        """The case, to be composed of its marginals."""
        return gaussian_problem(self.graph, self.q)

    def reached(
        self,
        method: str,
        levels: int,
        solver: Solver = HEUN,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """The covariance that a method reaches from N(0, 80² I)."""
        eye = torch.eye(len(self.q.covariance), dtype=dtype)
        start = Gaussian(eye.new_zeros(len(eye)), SIGMAS[1] ** 2 * eye)
        score, runs = self.problem.score(method), dict[int, Score]()

        def warm(u: Tensor, sigma: Tensor) -> Tensor:
            run = score.remembering() if isinstance(score, Joint) else score
            return runs.setdefault(len(u), run)(u, sigma)

        return distribution_reached(warm, karras(levels, *SIGMAS), start, solver).covariance

    def loss(self, covariance: Tensor) -> float:
        """KL(N(m, covariance) ‖ q) per variable."""
        return kl_divergence(Gaussian(self.q.mean, covariance), self.q) / len(covariance)

    def rows(self, levels: int) -> Iterator[dict[str, Any]]:
        """The loss of every method, and its cost per sample."""
        exact, n = self.reached(EXACT, levels), len(self.q.covariance)
        sigmas = karras(levels, *SIGMAS)
        for method in COMPARED:
            reached = exact if method == EXACT else self.reached(method, levels)
            counter = Counter()
            score = self.problem.score(method, counter)
            sample(score, sigmas, shape=(1, n), solver=HEUN, generator=0)
            row = {**self.about, "n": n, "method": method, "levels": levels}
            row |= {"evaluations": 2 * levels - 1, "kl": self.loss(reached), **counter.cost(1, n)}
            if method in ("posterior", "consistent") and self.markov:
                single = self.reached(method, levels, dtype=torch.float32).double()
                row["from_exact"] = _apart(reached, exact)
                row["from_exact_float32"] = _apart(single, exact)
            yield row


def chain_case(n: int, rho: float, levels: Sequence[int] = LEVELS) -> Case:
    """The stationary AR(1) chain of unit variance, with a factor on every pair."""
    return Case({"graph": "chain", "rho": rho}, chain(n), ar1(n, rho), levels)


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Measures all cases, or with `smoke` one small chain and one small ring."""
    small = [chain_case(3, 0.5, (5,)), _coupled("ring", cycle(4), (5,))]
    cases = tqdm(small if smoke else list(_cases()), desc="Gaussians")
    return [row for case in cases for levels in case.levels for row in case.rows(levels)]


def _cases() -> Iterator[Case]:
    for rho in CORRELATIONS:
        for n in LENGTHS:
            yield chain_case(n, rho, (*LEVELS, 100) if (n, rho) == (20, 0.95) else LEVELS)
    complete = {f"{i}-{j}": (i, j) for i, j in combinations(range(4), 2)}
    for name, graph in {
        "binary tree": tree(2, 4),
        "ternary tree": tree(3, 3),
        "ring of 8": cycle(8),
        "grid 5×5": grid(5, 5),
        "torus 4×4": torus(4, 4),
        "K4": FactorGraph.from_scopes(complete, dict.fromkeys(range(4), ())),
    }.items():
        yield _coupled(name, graph)
    for name, order, q in _processes():
        for overlap in OVERLAPS:
            about = {"graph": "windows", "data": name, "overlap": overlap}
            yield Case(about, tiles((LENGTH,), WINDOW, overlap), q, (40,), overlap >= order)


def _coupled(name: str, graph: FactorGraph, levels: Sequence[int] = LEVELS) -> Case:
    """Neighbours coupled alike: precision 1 on the diagonal, -0.99 / largest degree beside it."""
    precision = torch.eye(graph.n_elements, dtype=torch.float64)
    for factor in graph.factors:
        a, b = graph.regions.elements(factor).tolist()
        precision[a, b] = precision[b, a] = -0.99 / int(graph.degrees.max())
    covariance = torch.linalg.inv(precision)
    q = Gaussian(torch.zeros(graph.n_elements).double(), (covariance + covariance.T) / 2)
    return Case({"graph": name}, graph, q, levels)


def _processes() -> Iterator[tuple[str, float, Gaussian]]:
    """Each process of unit variance, with the overlap that makes windows Markov."""
    yield "AR(1)", 1, ar1(LENGTH, 0.95)
    # x_t = 2 r cos(θ) x_(t-1) - r² x_(t-2) + noise, r = 0.9, θ = 2π / 10
    a, b = 2 * 0.9 * torch.cos(torch.tensor(2 * torch.pi / 10)).double(), -(0.9**2)
    correlations = [1.0, float(a / (1 - b))]
    while len(correlations) < LENGTH:
        correlations.append(float(a * correlations[-1] + b * correlations[-2]))
    gap = (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs()
    mean = torch.zeros(LENGTH, dtype=torch.float64)
    yield "AR(2)", 2, Gaussian(mean, torch.tensor(correlations, dtype=torch.float64)[gap])
    scaled = 3**0.5 * gap.double() / 8
    matern = (1 + scaled) * torch.exp(-scaled)
    yield "smooth", float("inf"), Gaussian(mean, matern + 0.01 * torch.eye(LENGTH).double())


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def targets(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The agreement with the exact score, in float64 and in float32."""
    ours = [row for row in rows if row["method"] == "consistent" and "from_exact" in row]
    for key, most, dtype in (("from_exact", 1e-8, "64"), ("from_exact_float32", 1e-3, "32")):
        far = {f"{row['graph']} of {row['n']}": row[key] for row in ours if not row[key] <= most}
        yield aim(
            f"Gaussians Markov to their graph: the exact score's covariance, to {most:g} in "
            f"float{dtype}",
            max(row[key] for row in ours),
            [f"{name} ({value:.1e})" for name, value in far.items()],
        )


def tables(rows: Sequence[Row]) -> list[Table]:
    """The losses of all cases."""

    def name(row: Row) -> str:
        more = (f", {key} {row[key]}" for key in ("rho", "data", "overlap") if key in row)
        return f"{row['graph']} of {row['n']}" + "".join(more)

    title = "Gaussians: KL per variable, nats, by levels of Heun"
    return [spread(title, rows, {"": name, "levels": "{levels}"}, "method", "{kl:.2g}")]


def draw(rows: Sequence[Row], folder: Path) -> None:
    """Loss against evaluations, on a chain and on a torus: `exactness.png`."""
    from pgmdiff.plotting import Panel, panels

    cases: dict[str, dict[str, Any]] = {
        "chain of 20, correlation 0.95": {"graph": "chain", "n": 20, "rho": 0.95},
        "torus 4×4": {"graph": "torus 4×4"},
    }
    drawn: list[Panel] = []
    for title, case in cases.items():
        some = [row for row in rows if all(row.get(key) == case[key] for key in case)]
        curves = points(some, "method", METHODS, "evaluations", "kl")
        shown = {name: curve for name, curve in curves.items() if curve[0]}
        label = "KL per variable, nats" if not drawn else ""
        drawn.append(Panel(shown, "evaluations of every region", label, title))
    figure = panels(drawn, "Gaussians: Heun, exact propagation, no sampling error")
    figure.savefig(folder / "exactness.png", dpi=110)
