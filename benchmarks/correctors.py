"""The correctors benchmark: what moves repair at equal evaluations, and where weights collapse.

*Moves*, on an AR(1) chain of 8 variables of correlation 0.9. Under the marginal rule the
probability-flow ODE misses the data whatever the number of levels, while each level's
Π_r q_σ(u_r)^{c_r} is a density whose limit σ → 0 is right: moves towards it on the way down repair
the ODE's error. Under posterior composition the score is already exact.

*Langevin*: a linear sampler, whose distribution is known exactly; the loss is KL(sampled ‖ q) per
variable. *Metropolis*, for the marginal rule, whose density is known: the same loss, of the
covariance of drawn samples; chance alone makes it about (variables + 1) / (4 samples).

Evaluations are those of a sample's score. The measured curvature costs a few pilot states once, and
is not counted.

*Weights*, of sequential Monte Carlo on the marginal rule's path (η = 1), on AR(1) chains: the
effective sample size without resampling, and the largest error of a covariance's entry: unweighted,
weighted, and weighted with resampling at half of the particles; means over seeds.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness.gaussians import SIGMAS, chain_case
from benchmarks.problems import gaussian_problem
from benchmarks.reports import columns, settings, table
from pgmdiff.composition import FeynmanKac
from pgmdiff.gaussian import ar1, composed_log_density, composed_precision
from pgmdiff.graphs import chain
from pgmdiff.samplers import (
    Curvature,
    Euler,
    Langevin,
    Metropolis,
    PredictorCorrector,
    Solver,
    karras,
    sample,
    sample_weighted,
)
from pgmdiff.text import Table

__all__ = ["levels_within", "run", "tables"]

LENGTH, CORRELATION = 8, 0.9
CASE = chain_case(LENGTH, CORRELATION)
JOINTS = {rule: CASE.problem.joint(rule) for rule in ("marginal", "posterior")}
BUDGETS = (120, 480, 1920)
MOVES = (0, 1, 5, 20)
STEPS = {"h = σ² / 2": (0.5, False), "h = a quarter of 2/λ_max": (0.25, True)}
"""Name to the size of a Langevin step, and whether it is relative to a measured curvature."""
SHARE = 0.5
"""Of the limit 2/λ_max, in Metropolis' proposals."""
SAMPLES, DRAWN_BUDGETS = 2000, (120, 480)
FEWEST = 5
"""A budget that leaves fewer levels is not spent that way."""
LENGTHS, CORRELATIONS, STEPS_DOWN, SEEDS = (3, 6, 12, 24), (0.5, 0.9), (100, 300), 3
"""Of the chains whose weights are measured, and of their runs."""


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures all cases, or with `smoke` the cheapest ones, with few samples."""
    budgets, moves = (BUDGETS[:1], MOVES[:2]) if smoke else (BUDGETS, MOVES)
    samples, seeds = (50, 1) if smoke else (SAMPLES, SEEDS)
    cases = [(rule, b, m) for rule in JOINTS for b in budgets for m in moves]
    paths = [(rho, n, k) for rho in CORRELATIONS for n in LENGTHS for k in STEPS_DOWN]
    rows = [row for case in tqdm(cases, desc="Langevin") for row in _langevin_rows(*case)]
    for rule, budget, n_moves in tqdm(cases, desc="Metropolis"):
        levels = levels_within(budget, 2 + n_moves)
        if rule == "marginal" and n_moves and levels and budget in DRAWN_BUDGETS:
            rows.append(_metropolis_row(levels, n_moves, samples))
    weights = [
        _weights_row(rho, n, steps, samples, seeds)
        for rho, n, steps in tqdm(paths[:1] if smoke else paths, desc="weights")
    ]
    about = settings(
        predictor="Euler, Karras 80 → 0.002",
        samples=samples,
        weights="Karras 30 → 0.05, as many particles as samples, 3 seeds",
    )
    return {"settings": about, "rows": rows, "weights": weights}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The losses of moves, and the weights of particles."""
    moves = f"AR(1) chain of {LENGTH}, correlation {CORRELATION}: KL per variable, nats"
    weights = "Effective share of the particles, and largest errors of a covariance"
    losses = columns("rule evaluations moves levels loss:.2g corrector acceptance:.2f")
    errors = columns("effective:.2g plain:.2f weighted:.2f resampled:.2f")
    return [
        table(moves, result["rows"], losses),
        table(weights, result["weights"], {**columns("correlation variables steps"), **errors}),
    ]


def levels_within(budget: int, evaluations: int) -> int:
    """The levels that a budget allows at so many evaluations per step; 0 if they are too few."""
    levels = 1 + (budget - 1) // evaluations
    return levels if levels >= FEWEST else 0


def _langevin_rows(rule: str, budget: int, moves: int) -> Iterator[dict[str, Any]]:
    if not (levels := levels_within(budget, 1 + moves)):
        return
    joint, sigmas = JOINTS[rule], karras(levels, *SIGMAS)
    for name, (step, measured) in STEPS.items() if moves else [("none", (1.0, False))]:
        solver: Solver = Euler()
        if moves:
            curvature = (
                Curvature.measure(joint, sigmas, shape=(4, LENGTH), generator=0)
                if measured
                else None
            )
            solver = PredictorCorrector(solver, Langevin(step, moves, curvature))
        label = f"Langevin, {name}" if moves else name
        reached = CASE.reached(rule, levels, solver)
        yield _row(rule, label, moves, levels, solver, reached)


def _metropolis_row(levels: int, moves: int, samples: int) -> dict[str, Any]:
    joint, sigmas, accepted = JOINTS["marginal"], karras(levels, *SIGMAS), list[float]()

    def density(u: Tensor, sigma: Tensor) -> Tensor:
        return composed_log_density(CASE.graph, CASE.q, u, sigma)

    curvature = Curvature.measure(joint, sigmas, shape=(4, LENGTH), generator=0)
    solver = PredictorCorrector(
        Euler(),
        Metropolis(density, SHARE, moves, curvature),
        report=lambda sigma, rates: accepted.append(rates.mean().item()),
    )
    shape, dtype = (samples, LENGTH), torch.float64
    u = sample(joint, sigmas, shape=shape, solver=solver, generator=0, dtype=dtype)
    name = "Metropolis, h = half of 2/λ_max"
    row = _row("marginal", name, moves, levels, solver, u.T @ u / samples)
    return {**row, "acceptance": sum(accepted) / len(accepted)}


def _row(
    rule: str, corrector: str, moves: int, levels: int, solver: Solver, covariance: Tensor
) -> dict[str, Any]:
    last = 1  # the step to σ = 0 is one evaluation, without a correction
    return {
        "rule": rule,
        "corrector": corrector,
        "moves": moves,
        "levels": levels,
        "evaluations": (levels - 1) * solver.evaluations + last,
        "loss": CASE.loss(covariance),
    }


def _weights_row(rho: float, n: int, steps: int, samples: int, seeds: int) -> dict[str, Any]:
    graph, q, sigmas = chain(n), ar1(n, rho), karras(steps + 1, 0.05, 30.0)[:-1]
    potential = FeynmanKac(gaussian_problem(graph, q).joint("marginal"))
    target = torch.linalg.inv(composed_precision(graph, q, sigmas[-1]))
    kept, resampled = (
        [
            sample_weighted(
                potential, sigmas, shape=(samples, n), threshold=threshold, generator=seed
            )
            for seed in range(seeds)
        ]
        for threshold in (0.0, 0.5)
    )

    def error(x: Tensor, weights: Tensor) -> float:
        return float(((x * weights[:, None]).T @ x - target).abs().max())

    even = torch.full((samples,), 1 / samples, dtype=torch.float64)
    figures = {
        "effective": [p.effective[-1] / samples for p in kept],
        "plain": [error(p.x, even) for p in kept],
        "weighted": [error(p.x, p.log_weights.exp()) for p in kept],
        "resampled": [error(p.x, p.log_weights.exp()) for p in resampled],
        "resampled_effective": [p.effective[-1] / samples for p in resampled],
    }
    means = {name: sum(values) / seeds for name, values in figures.items()}
    return {"correlation": rho, "variables": n, "steps": steps, **means}
