"""Part 1, Gaussians: the sampler is linear, so its law follows from pushing the identity through.

The loss is KL(sampled ‖ q) per variable, with no sampling error.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.benchmarks.exactness.methods import RULES, rule_of
from pgmdiff.compose import compose
from pgmdiff.gaussian import Gaussian, kl_divergence, node_covariances, node_scores
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, cycle, grid, tiles, tree
from pgmdiff.samplers import Heun, karras, sample

__all__ = ["draw", "lines", "rows"]

LEVELS = (5, 9, 18, 40)
LENGTHS = (3, 8, 20, 100, 300)
CORRELATIONS = (0.5, 0.9, 0.95, 0.99)


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Measures all cases; `smoke` one."""
    return [_row(*case) for case in tqdm(_cases(smoke), desc="Gaussians")]


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as text."""
    text = [
        "KL per variable, nats (the evidence rule evaluates twice as often as is said)",
        f"{'graph':>22} {'evaluations':>12} " + _heads(),
    ]
    cases: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        cases.setdefault((row["graph"], row["levels"]), {})[row["rule"]] = row["loss"]
    for (graph, levels), losses in cases.items():
        figures = " ".join(f"{losses[rule]:>10.2g}" for rule in (*RULES, "exact score"))
        text.append(f"{graph:>22} {2 * levels - 1:>12} {figures}")
    return text


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Loss against evaluations, of the chain of 20 with correlation .95."""
    from pgmdiff.plotting.curves import save_curves

    rows = [row for row in rows if row["graph"] == "chain 20, ρ .95"]
    rules = ("marginal", "posterior", "exact score")
    save_curves(
        folder / "exactness.png",
        {
            rule: (
                [row["evaluations"] for row in rows if row["rule"] == rule],
                [row["loss"] for row in rows if row["rule"] == rule],
            )
            for rule in rules
        },
        xlabel="evaluations of every region",
        ylabel="KL per variable, nats",
        title="AR(1) chain of 20 variables, correlation .95 (Heun, exact propagation)",
    )


def _heads() -> str:
    return " ".join(f"{rule:>10}" for rule in (*RULES, "exact"))


def _cases(smoke: bool) -> list[tuple[str, FactorGraph | RegionGraph, Gaussian, int, str]]:
    graphs: dict[str, tuple[FactorGraph | RegionGraph, Gaussian]] = {
        f"chain {n}, ρ {rho:.2g}".replace("0.", "."): (chain(n), _ar1(n, rho))
        for rho in CORRELATIONS
        for n in LENGTHS
    }
    graphs["windows 8/4 of 20, ρ .95"] = tiles((20,), 8, 4), _ar1(20, 0.95)
    for name, graph in {"tree 2^4": tree(2, 4), "ring 8": cycle(8), "grid 4×4": grid(4, 4)}.items():
        graphs[name] = graph, _markov(graph)
    if smoke:
        graphs = {"chain 3, ρ .5": graphs["chain 3, ρ .5"]}
    return [
        (name, graph, q, levels, rule)
        for name, (graph, q) in graphs.items()
        for levels in (LEVELS[:1] if smoke else LEVELS)
        for rule in (*RULES, "exact score")
    ]


def _row(
    name: str, graph: FactorGraph | RegionGraph, q: Gaussian, levels: int, rule: str
) -> dict[str, Any]:
    score: Any = q.score
    if rule != "exact score":
        covariances = node_covariances(graph, q)
        score = compose(graph, node_scores(graph, q), rule=rule_of(rule, covariances))
    start = 80.0 * torch.eye(len(q.covariance), dtype=torch.float64)
    out = sample(score, karras(levels, 0.002, 80.0), x=start, solver=Heun())
    reached = Gaussian(q.mean, _symmetric(out.T @ out))
    return {
        "graph": name,
        "rule": rule,
        "levels": levels,
        "evaluations": (2 * levels - 1) * (2 if rule == "evidence" else 1),
        "loss": kl_divergence(reached, q) / len(q.covariance),
    }


def _ar1(n: int, rho: float) -> Gaussian:
    place = torch.arange(n)
    covariance = rho ** (place[:, None] - place).abs().double()
    return Gaussian(torch.zeros(n, dtype=torch.float64), covariance)


def _markov(graph: FactorGraph) -> Gaussian:
    """Neighbours coupled alike: precision 1 on the diagonal, -.9 / largest degree beside it."""
    precision = torch.eye(graph.n_elements, dtype=torch.float64)
    for factor in graph.factors:
        a, b = graph.regions.elements(factor).tolist()
        precision[a, b] = precision[b, a] = -0.9 / int(graph.degrees.max())
    covariance = _symmetric(torch.linalg.inv(precision))
    return Gaussian(torch.zeros(graph.n_elements, dtype=torch.float64), covariance)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
