"""What corrector moves mend, at equal evaluations, and where the weights of particles collapse.

*Moves*, on an AR(1) chain of 8 variables of correlation 0.9. Under the marginal rule the
probability-flow ODE misses the data however many levels it has, while each level's
Π_r q_σ(u_r)^{c_r} is a density whose limit σ → 0 is right: moves towards it on the way down mend
what the ODE does wrong. Under the evidence rule the score is already exact.

*Langevin*: a linear sampler, whose law is known exactly; the loss is KL(sampled ‖ q) per variable.
*Metropolis*: the same of the covariance of drawn samples, which is no smaller than about
(variables + 1) / (4 samples) by chance.

Evaluations are those of a sample's score, rows of the networks: twice as many under the evidence
rule. The measured curvature costs a few pilot states once, and is not counted.

*Weights*, of sequential Monte Carlo on the marginal rule's path (η = 1), on AR(1) chains: the
effective sample size without resampling, and the largest error of a covariance's entry: unweighted,
weighted, and weighted with resampling at half of the particles; means over seeds.
"""

import platform
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.composition import FeynmanKac
from pgmdiff.composition.composing import compose
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.posterior import Evidence
from pgmdiff.composition.rules import Marginal
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import (
    Gaussian,
    composed_log_density,
    composed_precision,
    kl_divergence,
    node_covariances,
    node_scores,
)
from pgmdiff.graphs import chain
from pgmdiff.samplers import (
    Curvature,
    Euler,
    Langevin,
    Metropolis,
    Particles,
    PredictorCorrector,
    Solver,
    karras,
    sample,
    sample_weighted,
)

__all__ = ["run", "table"]

LENGTH, CORRELATION = 8, 0.9
BUDGETS = (120, 480, 1920)
MOVES = (0, 1, 5, 20)
STEPS = {"h = σ² / 2": (0.5, False), "h = a quarter of 2/λ_max": (0.25, True)}
SHARE = 0.5
"""Of the limit 2/λ_max, in Metropolis' proposals."""
SAMPLES, DRAWN_BUDGETS = 2000, (120, 480)
FEWEST = 5
"""Levels below which a budget is not spent that way."""
LENGTHS, CORRELATIONS, STEPS_DOWN, SEEDS = (3, 6, 12, 24), (0.5, 0.9), (100, 300), 3
"""Of the chains whose weights are looked at, and of their runs."""


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures all cases; `smoke` the smallest budget only, and a few samples."""
    budgets = BUDGETS[:1] if smoke else BUDGETS
    drawn = DRAWN_BUDGETS[:1] if smoke else DRAWN_BUDGETS
    samples = 50 if smoke else SAMPLES
    cases = [(rule, b, m) for rule in RULES for b in budgets for m in MOVES]
    rows = [row for case in tqdm(cases, desc="Langevin") for row in _langevin_rows(*case)]
    adjusted = [(rule, b, m) for rule in RULES for b in drawn for m in MOVES[1:]]
    for rule, budget, moves in tqdm(adjusted, desc="Metropolis"):
        rows += _metropolis_rows(rule, budget, moves, samples)
    paths = [(rho, n, k) for rho in CORRELATIONS for n in LENGTHS for k in STEPS_DOWN]
    weights = [
        _weights_row(rho, n, steps, samples, 1 if smoke else SEEDS)
        for rho, n, steps in tqdm(paths[:1] if smoke else paths, desc="weights")
    ]
    settings = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "predictor": "Euler, Karras 80 → 0.002",
        "samples": samples,
        "weights": "Karras 30 → 0.05, as many particles as samples, 3 seeds",
    }
    return {"settings": settings, "rows": rows, "weights": weights}


def table(result: dict[str, Any]) -> str:
    """The rows as text."""
    lines = [
        f"AR(1) chain of {LENGTH}, correlation {CORRELATION}: KL per variable, nats",
        f"{'rule':>9} {'evaluations':>11} {'moves':>5} {'levels':>6} {'loss':>8}  corrector",
    ]
    for row in result["rows"]:
        accepted = row.get("acceptance")
        lines.append(
            f"{row['rule']:>9} {row['evaluations']:>11} {row['moves']:>5} {row['levels']:>6} "
            f"{row['loss']:>8.2g}  {row['corrector']}"
            + (f", accepted {accepted:.2f}" if accepted is not None else "")
        )
    lines += [
        "",
        "effective sample size, % of the particles, and largest errors of a covariance",
        f"{'ρ':>4} {'variables':>9} {'steps':>6} {'ESS':>6} {'plain':>7} {'weighted':>9} resampled",
    ]
    for row in result["weights"]:
        lines.append(
            f"{row['correlation']:>4} {row['variables']:>9} {row['steps']:>6} "
            f"{100 * row['effective']:>6.2g} {row['plain']:>7.2f} {row['weighted']:>9.2f} "
            f"{row['resampled']:>9.2f}"
        )
    return "\n".join(lines)


def _langevin_rows(rule: str, budget: int, moves: int) -> list[dict[str, Any]]:
    joint, _ = RULES[rule]()
    levels = 1 + (budget // _cost(rule) - 1) // (1 + moves)
    if levels < FEWEST:
        return []
    sigmas, rows = karras(levels, 0.002, 80.0), []
    for name, (step, measured) in STEPS.items() if moves else [("none", (1.0, False))]:
        solver: Solver = Euler()
        if moves:
            curvature = None
            if measured:
                curvature = Curvature.measure(joint, sigmas, shape=(4, LENGTH), generator=0)
            solver = PredictorCorrector(solver, Langevin(step, moves, curvature))
        reached = distribution_reached(joint, sigmas, _start(sigmas), solver)
        label = f"Langevin, {name}" if moves else name
        rows.append(_row(rule, label, moves, levels, solver, reached))
    return rows


def _metropolis_rows(rule: str, budget: int, moves: int, samples: int) -> list[dict[str, Any]]:
    joint, log_density = RULES[rule]()
    levels = 1 + (budget // _cost(rule) - 1) // (2 + moves)
    if levels < FEWEST:
        return []
    sigmas, accepted = karras(levels, 0.002, 80.0), list[float]()
    curvature = Curvature.measure(joint, sigmas, shape=(4, LENGTH), generator=0)
    solver = PredictorCorrector(
        Euler(),
        Metropolis(log_density, SHARE, moves, curvature),
        report=lambda sigma, rates: accepted.append(rates.mean().item()),
    )
    u = sample(joint, sigmas, shape=(samples, LENGTH), solver=solver, generator=0,
               dtype=torch.float64)  # fmt: skip
    reached = Gaussian(_data().mean, u.T @ u / samples)
    row = _row(rule, "Metropolis, h = half of 2/λ_max", moves, levels, solver, reached)
    return [{**row, "acceptance": sum(accepted) / len(accepted)}]


def _row(
    rule: str, corrector: str, moves: int, levels: int, solver: Solver, reached: Gaussian
) -> dict[str, Any]:
    last = 1  # the step to σ = 0: one evaluation, no correction
    return {
        "rule": rule,
        "corrector": corrector,
        "moves": moves,
        "levels": levels,
        "evaluations": _cost(rule) * ((levels - 1) * solver.evaluations + last),
        "loss": kl_divergence(reached, _data()) / LENGTH,
    }


def _weights_row(rho: float, n: int, steps: int, samples: int, seeds: int) -> dict[str, Any]:
    graph, q, sigmas = chain(n), _data(n, rho), karras(steps + 1, 0.05, 30.0)[:-1]
    joint = compose(graph, node_scores(graph, q))
    target = torch.linalg.inv(composed_precision(graph, q, sigmas[-1]))

    def particles(seed: int, threshold: float) -> Particles:
        return sample_weighted(
            FeynmanKac(joint), sigmas, shape=(samples, n), threshold=threshold, generator=seed
        )

    def error(x: Tensor, weights: Tensor) -> float:
        return float(((x * weights[:, None]).T @ x - target).abs().max())

    kept = [particles(seed, 0.0) for seed in range(seeds)]
    drawn = [particles(seed, 0.5) for seed in range(seeds)]
    even = torch.full((samples,), 1 / samples, dtype=torch.float64)
    figures = {
        "effective": [p.effective[-1] / samples for p in kept],
        "plain": [error(p.x, even) for p in kept],
        "weighted": [error(p.x, p.log_weights.exp()) for p in kept],
        "resampled": [error(p.x, p.log_weights.exp()) for p in drawn],
        "resampled_effective": [p.effective[-1] / samples for p in drawn],
    }
    means = {name: sum(values) / seeds for name, values in figures.items()}
    return {"correlation": rho, "variables": n, "steps": steps, **means}


def _cost(rule: str) -> int:
    return 2 if rule == "evidence" else 1


def _start(sigmas: list[float]) -> Gaussian:
    """N(0, σ_max² I)."""
    return Gaussian(_data().mean, sigmas[0] ** 2 * torch.eye(LENGTH, dtype=torch.float64))


def _data(n: int = LENGTH, rho: float = CORRELATION) -> Gaussian:
    place = torch.arange(n)
    covariance = rho ** (place[:, None] - place).abs().double()
    return Gaussian(torch.zeros(n, dtype=torch.float64), covariance)


def _marginal() -> tuple[Joint, Any]:
    """The score of Π_r q_σ(u_r)^{c_r}, and its logarithm."""
    graph, q = chain(LENGTH), _data()
    joint = compose(graph, node_scores(graph, q), rule=Marginal())
    return joint, lambda u, sigma: composed_log_density(graph, q, u, sigma)


def _evidence() -> tuple[Joint, Any]:
    """The score of L_σ, and L_σ."""
    graph, q = chain(LENGTH), _data()
    joint = compose(graph, node_scores(graph, q), rule=Evidence(node_covariances(graph, q)))
    return joint, joint.log_density


RULES = {"marginal": _marginal, "evidence": _evidence}
