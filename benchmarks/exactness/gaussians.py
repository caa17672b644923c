"""Part 1, Gaussians: samplers are linear, so their laws follow without any sampling error.

The loss is KL(reached ‖ q) per variable, in nats, of the law that a sampler reaches exactly
(`diagnostics.distribution_reached`).

*curves*: loss against evaluations and against length, of every method; and how far the covariance
reached by posterior and evidence composition is from the one that the exact score reaches with the
same steps (largest entry of the difference over the largest entry). *steps*: the fewest levels that
bring the loss to a target.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness.methods import CORRECTED, METHODS, Counter, Method, Problem
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import Gaussian, kl_divergence, node_covariances, node_scores
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, cycle, grid, tiles, tree
from pgmdiff.samplers import Heun, karras, sample

__all__ = [
    "Case",
    "ar1",
    "chain_case",
    "draw",
    "gaussian_problem",
    "lines",
    "measured",
    "rows",
]

LEVELS = (5, 9, 18, 40)
CORRELATIONS = (0.5, 0.9, 0.95, 0.99)
LENGTHS = (3, 8, 20, 100, 300)
LONGEST = {0.95: (18,), 0.99: (9,)}
"""Correlation to the level counts that chains of 1000 are run with."""
DOUBLINGS = (8, 16, 32, 64, 128, 256, 512, 1024)
TARGET = 1e-3
DEEP, MOST_LEVELS, MOST_LEVELS_LONG = 256, 200, 40
"""Up to `DEEP` elements the target is sought with 200 levels, beyond with 40."""
SIGMAS = 0.002, 80.0


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
        """What every row says of the case."""
        return {"graph": self.name, "n": len(self.q.covariance), "rho": self.rho}


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Measures all cases; `smoke` one small one of each kind."""
    cases = [chain_case(3, 0.5, (5,), corrected=True)] if smoke else list(_cases())
    curves = [row for case in tqdm(cases, desc="Gaussians") for row in _curve(case)]
    lengths = DOUBLINGS[:1] if smoke else DOUBLINGS
    return curves + list(_steps(tqdm(lengths, desc="steps to a loss"), 20 if smoke else 0))


def gaussian_problem(graph: FactorGraph | RegionGraph, q: Gaussian) -> Problem:
    """Exact scores and covariances of the parts of a Gaussian."""
    scores = partial(_node_scores, q)
    return Problem(graph.regions, scores, node_covariances(graph, q), q.score)


def _node_scores(q: Gaussian, graph: RegionGraph) -> Any:
    return node_scores(graph, q)


def chain_case(n: int, rho: float, levels: Sequence[int], *, corrected: bool = False) -> Case:
    """The stationary AR(1) chain of unit variance, with a factor on every pair."""
    return Case("chain", chain(n), ar1(n, rho), levels, corrected, rho)


def ar1(n: int, rho: float) -> Gaussian:
    """Covariance ρ^|i-j|."""
    place = torch.arange(n)
    covariance = rho ** (place[:, None] - place).abs().double()
    return Gaussian(torch.zeros(n, dtype=torch.float64), covariance)


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
        yield Case(name, graph, _coupled(graph), corrected=True)


def _coupled(graph: FactorGraph) -> Gaussian:
    """Neighbours coupled alike: precision 1 on the diagonal, -0.9 / largest degree beside it."""
    precision = torch.eye(graph.n_elements, dtype=torch.float64)
    for factor in graph.factors:
        a, b = graph.regions.elements(factor).tolist()
        precision[a, b] = precision[b, a] = -0.9 / int(graph.degrees.max())
    covariance = torch.linalg.inv(precision)
    mean = torch.zeros(graph.n_elements, dtype=torch.float64)
    return Gaussian(mean, (covariance + covariance.T) / 2)


def _curve(case: Case) -> Iterator[dict[str, Any]]:
    problem = gaussian_problem(case.graph, case.q)
    for levels in case.levels:
        exact = _reached(case, problem, EXACT, levels)
        yield _row(case, EXACT, levels, exact) | _cost(case, problem, EXACT, levels)
        for method in (*METHODS, *(CORRECTED if case.corrected else ())):
            if method != EXACT:
                found = _reached(case, problem, method, levels)
                cost = _cost(case, problem, method, levels)
                agreement = _agreement(case, problem, method, levels, found, exact)
                yield _row(case, method, levels, found) | cost | agreement


def _agreement(
    case: Case, problem: Problem, method: Method, levels: int, found: Tensor, exact: Tensor
) -> dict[str, float]:
    """How far posterior and evidence composition are from the exact score's float64 result."""
    if method.name not in EXACT_RULES or case.name in LOOPS:
        return {}
    single = _reached(case, problem, method, levels, torch.float32)
    return {
        "from_exact": _apart(found, exact),
        "from_exact_float32": _apart(single.double(), exact),
    }


def measured(case: Case, problem: Problem, method: Method, levels: int) -> dict[str, Any]:
    """The loss of a method, and what it cost."""
    found = _reached(case, problem, method, levels)
    return _row(case, method, levels, found) | _cost(case, problem, method, levels)


def _row(case: Case, method: Method, levels: int, found: Tensor) -> dict[str, Any]:
    cost = {"levels": levels, "evaluations": method.evaluations(levels, Heun())}
    return case.label | {"method": method.name} | cost | {"kl": _loss(found, case.q)}


def _reached(
    case: Case,
    problem: Problem,
    method: Method,
    levels: int,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """The covariance that a method reaches from N(0, 80²)."""
    score, solver = method.prepared(problem, Heun(), Counter())
    eye = torch.eye(len(case.q.covariance), dtype=dtype)
    start = Gaussian(eye.new_zeros(len(eye)), SIGMAS[1] ** 2 * eye)
    return distribution_reached(score, karras(levels, *SIGMAS), start, solver).covariance


def _cost(case: Case, problem: Problem, method: Method, levels: int) -> dict[str, float]:
    """Counted on one sample."""
    counter, n = Counter(), len(case.q.covariance)
    score, solver = method.prepared(problem, Heun(), counter)
    sample(score, karras(levels, *SIGMAS), shape=(1, n), solver=solver, generator=0)
    return counter.cost(1, n)


def _loss(covariance: Tensor, q: Gaussian) -> float:
    return kl_divergence(Gaussian(q.mean, covariance), q) / len(covariance)


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


# ---------------------------------------------------------------- steps to a loss


def _steps(lengths: Sequence[int], most: int) -> Iterator[dict[str, Any]]:
    """The fewest levels to the target; those of a shorter chain are tried first."""
    guess = {"marginal": 18, "posterior": 18, "exact score": 18}
    for n in lengths:
        case = chain_case(n, 0.95, ())
        problem = gaussian_problem(case.graph, case.q)
        for name in guess:
            method = Method(name)
            limit = most or (MOST_LEVELS if n <= DEEP else MOST_LEVELS_LONG)
            tried = _fewest(partial(_loss_at, case, problem, method), guess[name], limit)
            fewest = min((k for k, loss in tried.items() if loss <= TARGET), default=None)
            guess[name] = fewest or guess[name]
            yield case.label | {
                "method": name,
                "target": TARGET,
                "fewest_levels": fewest,
                "evaluations": fewest and method.evaluations(fewest, Heun()),
                "least_kl": min(tried.values()),
                "tried": sorted(tried),
            }


def _loss_at(case: Case, problem: Problem, method: Method, levels: int) -> float:
    return _loss(_reached(case, problem, method, levels), case.q)


def _fewest(loss: Callable[[int], float], guess: int, most: int) -> dict[int, float]:
    """Level counts tried and their losses, until the fewest that reach the target is known."""
    tried: dict[int, float] = {}

    def reaches(levels: int) -> bool:
        if levels not in tried:
            tried[levels] = loss(levels)
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


# ---------------------------------------------------------------- what is shown


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as text."""
    curves = [row for row in rows if "kl" in row]
    return [
        "KL per variable, nats, by levels of Heun (the evidence rule evaluates twice as often)",
        *_loss_lines(curves, METHODS),
        "",
        "The same with a Langevin move a level",
        *_loss_lines(curves, CORRECTED),
        "",
        *_agreement_lines(curves),
        "",
        f"Fewest levels to {TARGET:g} nats per variable, chain of correlation 0.95",
        *_step_lines([row for row in rows if "target" in row]),
    ]


def _case_name(row: dict[str, Any]) -> str:
    rho = "" if row["rho"] is None else f", ρ {row['rho']:g}".replace("0.", ".")
    return f"{row['graph']} of {row['n']}{rho}"


def _loss_lines(rows: list[dict[str, Any]], methods: Sequence[Method]) -> Iterator[str]:
    names = [method.name for method in methods]
    yield f"{'':>26} {'levels':>7} " + " ".join(f"{name[:13]:>13}" for name in names)
    cases: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        cases.setdefault((_case_name(row), row["levels"]), {})[row["method"]] = row["kl"]
    for (case, levels), losses in cases.items():
        if names[0] in losses:
            figures = " ".join(f"{losses[name]:>13.2g}" for name in names)
            yield f"{case:>26} {levels:>7} {figures}"


def _agreement_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "Largest relative difference from the exact score's covariance (acyclic graphs)"
    found = [row for row in rows if "from_exact" in row]
    for rho in dict.fromkeys(row["rho"] for row in found):
        for method in EXACT_RULES:
            some = [row for row in found if (row["rho"], row["method"]) == (rho, method)]
            worst = [max(row[f"from_exact{kind}"] for row in some) for kind in ("", "_float32")]
            name = "trees" if rho is None else f"chains, ρ {rho:g}".replace("0.", ".")
            yield f"{name:>26} {method:>10}  float64 {worst[0]:.1e}  float32 {worst[1]:.1e}"


def _step_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        never = f"not with {max(row['tried'])} (least {row['least_kl']:.2g})"
        fewest = row["fewest_levels"] or never
        yield f"{'n = ' + str(row['n']):>26} {row['method']:>12}  {fewest}"


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Loss against evaluations, and against length."""
    from pgmdiff.plotting import Panel, panels

    shown = [method.name for method in (*METHODS, Method("marginal", "marginal"))]
    curves = [row for row in rows if "kl" in row and row["graph"] == "chain"]
    by_cost = [row for row in curves if (row["n"], row["rho"]) == (20, 0.95)]
    by_length = [row for row in curves if (row["levels"], row["rho"]) == (18, 0.95)]
    figure = panels(
        [
            Panel(
                {name: _points(by_cost, name, "evaluations") for name in shown},
                "evaluations of every region",
                "KL per variable, nats",
                "20 variables",
            ),
            Panel(
                {name: _points(by_length, name, "n") for name in shown[:-1]},
                "variables",
                "",
                "18 levels: 35 evaluations (evidence 70)",
            ),
        ],
        "AR(1) chain of correlation 0.95: Heun, exact propagation, no sampling error",
    )
    figure.savefig(folder / "exactness.png", dpi=110)


def _points(
    rows: list[dict[str, Any]], method: str, x: str
) -> tuple[Sequence[float], Sequence[float]]:
    some = sorted((row[x], row["kl"]) for row in rows if row["method"] == method)
    return [point[0] for point in some], [point[1] for point in some]
