"""What each rule loses, where the truth is known: Gaussian chains, loops, and a two-mode chain.

*Gaussians*: the sampler is linear, so its law follows exactly from pushing the identity through it;
the loss is KL(sampled ‖ q) per variable, with no sampling error. *Two-mode chain* (12 variables at
±2 with a hidden 2-state chain, stay probability .9): unbiased energy distance between samples of
the SDE (η = 1) and exact ancestral ones, mean and standard error over seeds.

Evaluations are rows of the networks: the evidence rule evaluates every region twice a score.
"""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.compose import compose
from pgmdiff.gaussian import (
    Gaussian,
    GaussianMixture,
    kl_divergence,
    node_covariances,
    node_scores,
)
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, cycle, grid, tiles, tree
from pgmdiff.rules import Average, Evidence, Marginal, Posterior, Rule
from pgmdiff.samplers import SDE, Heun, karras, sample

__all__ = ["draw", "run", "table"]

LEVELS = (5, 9, 18, 40)
LENGTHS = (3, 8, 20, 100, 300)
CORRELATIONS = (0.5, 0.9, 0.95, 0.99)
RULES = ("average", "marginal", "posterior", "evidence")
SEEDS = 8
SAMPLES = 2000
STEPS = (20, 60)
SWITCH, SPREAD, WITHIN = 0.1, 0.16, 0.9
"""Of the two-mode chain: switch probability, variance of a mode, correlation within a run."""


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures all rules; `smoke` one case of each kind, and one seed of few samples."""
    rows = [_gaussian_row(*case) for case in tqdm(_gaussian_cases(smoke), desc="Gaussians")]
    modes = [
        _two_mode_row(rule, steps, seeds=1 if smoke else SEEDS, n=200 if smoke else SAMPLES)
        for rule in tqdm(RULES, desc="two modes")
        for steps in (STEPS[:1] if smoke else STEPS)
    ]
    settings = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "solver": "Heun, Karras 80 → .002 (Gaussians); SDE η = 1, Karras 20 → .01 (two modes)",
    }
    return {"settings": settings, "gaussian": rows, "two_mode_chain": modes}


def table(result: dict[str, Any]) -> str:
    """The rows as text."""
    lines = [
        "KL per variable, nats (the evidence rule evaluates twice as often as is said)",
        f"{'graph':>22} {'evaluations':>12} " + _heads(),
    ]
    cases: dict[tuple[str, int], dict[str, float]] = {}
    for row in result["gaussian"]:
        cases.setdefault((row["graph"], row["levels"]), {})[row["rule"]] = row["loss"]
    for (graph, levels), losses in cases.items():
        figures = " ".join(f"{losses[rule]:>10.2g}" for rule in (*RULES, "exact score"))
        lines.append(f"{graph:>22} {2 * levels - 1:>12} {figures}")
    lines += ["", "two-mode chain, energy distance (standard error), evaluations a region"]
    for row in result["two_mode_chain"]:
        error = row["standard_error"]
        lines.append(
            f"{row['rule']:>22} {row['evaluations']:>12} {row['mean']:.4f}"
            + (f" ({error:.4f})" if error is not None else "")
        )
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Loss against evaluations, of the chain of 20 with correlation .95."""
    from pgmdiff.plotting.curves import save_curves

    rows = [row for row in result["gaussian"] if row["graph"] == "chain 20, ρ .95"]
    rules = ("marginal", "posterior", "exact score")
    save_curves(
        path,
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


def _gaussian_cases(smoke: bool) -> list[tuple[str, FactorGraph | RegionGraph, Gaussian, int, str]]:
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


def _gaussian_row(
    name: str, graph: FactorGraph | RegionGraph, q: Gaussian, levels: int, rule: str
) -> dict[str, Any]:
    score: Any = q.score
    if rule != "exact score":
        covariances = node_covariances(graph, q)
        score = compose(graph, node_scores(graph, q), rule=_rule(rule, covariances))
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


def _rule(name: str, covariances: Mapping[Any, Tensor]) -> Rule:
    rules: dict[str, Rule] = {
        "average": Average(),
        "marginal": Marginal(),
        "posterior": Posterior(covariances),
        "evidence": Evidence(covariances),
    }
    return rules[name]


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


# ---------------------------------------------------------------- the two-mode chain


def _two_mode_row(rule: str, steps: int, *, seeds: int, n: int, length: int = 12) -> dict[str, Any]:
    pair, single = _two_mode_pair(), _two_mode_pair().marginal(torch.tensor(0))
    graph = chain(length, factor_model="pair", variable_model="single")
    covariances = {"pair": pair.covariance, "single": single.covariance}
    scores = {"pair": pair.score, "single": single.score}
    joint = compose(graph, scores, rule=_rule(rule, covariances))
    distances = []
    for seed in range(seeds):
        u = sample(
            joint,
            karras(steps, 0.01, 20.0),
            shape=(n, length),
            solver=SDE(1.0),
            generator=seed,
            dtype=torch.float64,
        )
        truth = _two_mode_samples(n, length, torch.Generator().manual_seed(100 + seed))
        distances.append(_energy_distance(u, truth))
    found = torch.tensor(distances, dtype=torch.float64)
    return {
        "rule": rule,
        "steps": steps,
        "evaluations": steps * (2 if rule == "evidence" else 1),
        "seeds": seeds,
        "samples": n,
        "mean": found.mean().item(),
        "standard_error": (found.std() / seeds**0.5).item() if seeds > 1 else None,
    }


def _two_mode_pair() -> GaussianMixture:
    """Runs are correlated inside, modes that differ are not."""
    eye = torch.eye(2, dtype=torch.float64)
    together = SPREAD * (eye + WITHIN * (1 - eye))
    modes = [(-2.0, -2.0), (-2.0, 2.0), (2.0, -2.0), (2.0, 2.0)]
    stay, switch = (1 - SWITCH) / 2, SWITCH / 2
    return GaussianMixture(
        torch.tensor([stay, switch, switch, stay], dtype=torch.float64),
        [
            Gaussian(
                torch.tensor(m, dtype=torch.float64), together if m[0] == m[1] else SPREAD * eye
            )
            for m in modes
        ],
    )


def _two_mode_samples(n: int, length: int, generator: torch.Generator) -> Tensor:
    first = torch.randint(2, (n, 1), generator=generator)
    switched = (torch.rand(n, length - 1, generator=generator) < SWITCH).cumsum(dim=1)
    modes = torch.cat([first, (first + switched) % 2], dim=1)
    noise = SPREAD**0.5 * torch.randn(n, length, generator=generator, dtype=torch.float64)
    for i in range(1, length):
        kept = WITHIN * noise[:, i - 1] + (1 - WITHIN**2) ** 0.5 * noise[:, i]
        noise[:, i] = torch.where(modes[:, i] == modes[:, i - 1], kept, noise[:, i])
    samples: Tensor = 4.0 * modes - 2.0 + noise
    return samples


def _energy_distance(a: Tensor, b: Tensor) -> float:
    """The unbiased 2 E|a - b| - E|a - a'| - E|b - b'|."""
    within = (torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (a, b))
    return (2 * torch.cdist(a, b).mean() - sum(within)).item()
