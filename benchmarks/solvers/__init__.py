"""The solvers benchmark: the error of every solver at 10 to 80 evaluations, beside other libraries.

The error is the W2 distance to two targets. Every run starts from the exact noised distribution at
σ = 80, so that only the solver's error shows, on a Karras grid 80 → 0.002 → 0 (ρ = 7). *Gaussian*:
the distribution reached is exact, noise included, from pushing a basis through the solver.
*Mixture*: quantiles are pushed through the solver; where it draws noise, stratified noise (see
`distributions`), and the mean of three runs is given.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.problems import Counter
from benchmarks.reports import columns, points, settings, spread, table
from benchmarks.solvers.distributions import (
    GAUSSIAN,
    MIXTURE,
    gaussian_distance,
    mixture_distance,
    mixture_quantiles,
    stratified,
)
from benchmarks.solvers.peers import Peer, Task, peers
from pgmdiff import samplers
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import Gaussian
from pgmdiff.samplers import Solver, karras, sample
from pgmdiff.text import Table

__all__ = ["SOLVERS", "draw", "own_row", "run", "tables"]

EVALUATIONS = (10, 20, 40, 80)
QUANTILES, SAMPLES, RUNS = 4000, 100_000, 3
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
SOLVERS: dict[str, Solver] = {
    "Euler = DDIM": samplers.Euler(),
    "Heun": samplers.Heun(),
    "DPM++ 2S": samplers.DPMSolver2S(),
    "DPM++ 2M": samplers.DPMSolver2M(),
    "DPM++ 3M": samplers.DPMSolver3M(),
    "DEIS 2, log σ": samplers.DEIS(2),
    "DEIS 3, log σ": samplers.DEIS(3),
    "DEIS 4, log σ": samplers.DEIS(4),
    "DEIS 3, σ^(1/7)": samplers.DEIS(3, rho=7.0),
    "DEIS 3, σ": samplers.DEIS(3, rho=1.0),
    "UniPC 2": samplers.UniPC(2),
    "UniPC 3": samplers.UniPC(3),
    "SDE, η = 1": samplers.SDE(1.0),
    "DPM++ 2S, η = 1": samplers.DPMSolver2S(1.0),
    "DPM++ 2M, η = 1": samplers.DPMSolver2M(1.0),
    "DPM++ 2M, η = 1, σ^(1/7)": samplers.DPMSolver2M(1.0, rho=7.0),
    "DPM++ 3M, η = 1": samplers.DPMSolver3M(1.0),
    "EDM, churn 40": samplers.EDM(1),
}
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-5)


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures all solvers, or with `smoke` a few of them, briefly; always on the CPU.

    Returns:
        `settings`, `notes` on other libraries, and `rows`.
    """
    evaluations = EVALUATIONS[:1] if smoke else EVALUATIONS
    samples = 2000 if smoke else SAMPLES
    names = ("DPM++ 2M", "EDM, churn 40") if smoke else SOLVERS
    others, notes = peers()
    rows = [own_row(name, n, samples) for name in tqdm(names, desc="solvers") for n in evaluations]
    rows += [_adaptive_row(tolerance) for tolerance in TOLERANCES[: 1 if smoke else None]]
    others = others[:1] if smoke else others
    rows += [
        _peer_row(peer, n, samples) for peer in tqdm(others, desc="peers") for n in evaluations
    ]
    about = settings(
        schedule="Karras 80 → 0.002 → 0, ρ = 7, from the exact noised law",
        quantiles=QUANTILES,
        samples=samples,
    )
    return {"settings": about, "notes": notes, "rows": rows}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The distances to the Gaussian and to the mixture by evaluations, and the adaptive runs."""
    fixed = [row for row in result["rows"] if row["nominal"]]
    adaptive = [row for row in result["rows"] if not row["nominal"]]
    most = max((row["spread"] for row in result["rows"]), default=0.0)
    names = columns("library solver")
    figures = {"Gaussian": "{gaussian:.4f}", "mixture": "{mixture:.4f}"}
    by_evaluations = [
        spread(f"W2 to the {target}, by evaluations", fixed, names, "nominal", cell)
        for target, cell in figures.items()
    ]
    note = f"Mixture, solvers that draw noise: runs differ by at most {most:.4f}."
    notes = [note, *result["notes"]]
    return [
        *by_evaluations,
        table("W2 of one step to a tolerance", adaptive, {**names, **figures}, notes),
    ]


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draws W2 to the mixture against evaluations, of four solvers."""
    from pgmdiff.plotting import curves

    names = ("DEIS 3, log σ", "UniPC 3", "Heun", "DPM++ 2M")
    own = [row for row in result["rows"] if row["library"] == "pgmdiff"]
    figure = curves(
        points(own, "solver", names, "evaluations", "mixture"),
        xlabel="evaluations",
        ylabel="W2 to the mixture",
        title="Solvers on a mixture of two modes, from the exact noised distribution",
    )
    figure.savefig(path, dpi=110)


def own_row(name: str, evaluations: int, samples: int) -> dict[str, Any]:
    """One of pgmdiff's solvers at a number of evaluations.

    Args:
        name: one of `SOLVERS`.
        evaluations: nominal; a solver of two per step takes half as many steps.
        samples: on the mixture, of solvers that draw noise.
    """
    solver = SOLVERS[name]
    steps = evaluations // solver.evaluations
    if isinstance(solver, samplers.EDM):
        solver = replace(solver, n_steps=steps)
    sigmas = karras(steps, SIGMA_MIN, SIGMA_MAX)
    noisy = isinstance(solver, samplers.EDM) or bool(getattr(solver, "eta", 0.0))
    runs = []
    for seed in range(RUNS if noisy else 1):
        x = mixture_quantiles(SIGMA_MAX, samples if noisy else QUANTILES)[:, None]
        state, noise = solver.init(x, sigmas[0]), stratified(seed)
        for sigma_next in sigmas[1:]:
            state = solver.step(MIXTURE.score, state, sigma_next, noise)
        runs.append(state.x)
    reached = distribution_reached(GAUSSIAN.score, sigmas, GAUSSIAN.noised(SIGMA_MAX), solver)
    return {
        "library": "pgmdiff",
        "solver": name,
        "nominal": evaluations,
        "evaluations": solver.evaluations * (steps - 1) + 1,
        **_distances(reached, runs),
    }


def _adaptive_row(tolerance: float) -> dict[str, Any]:
    """One step to a tolerance, and one to 0."""
    solver, counter = samplers.Adaptive(tolerance, tolerance), Counter()
    sigmas, x = [SIGMA_MAX, SIGMA_MIN, 0.0], mixture_quantiles(SIGMA_MAX, QUANTILES)[:, None]
    out = sample(counter.counted(MIXTURE.score), sigmas, x=x, solver=solver)
    reached = distribution_reached(GAUSSIAN.score, sigmas, GAUSSIAN.noised(SIGMA_MAX), solver)
    evaluations = counter.rows // len(x)
    return {
        "library": "pgmdiff",
        "solver": f"dopri5, {tolerance:g}: {evaluations} evals",
        "nominal": 0,
        "evaluations": evaluations,
        **_distances(reached, [out]),
    }


def _peer_row(peer: Peer, evaluations: int, samples: int) -> dict[str, Any]:
    """Another library's solver; the Gaussian reached is read off a basis, its noise included."""
    draws = evaluations if peer.noisy else 0

    def gaussian_start(sigma: float) -> Tensor:
        noised = GAUSSIAN.noised(sigma)
        root = torch.linalg.cholesky(noised.covariance)
        return noised.mean + torch.cat([root.new_zeros(1, 2), root.T, root.new_zeros(2 * draws, 2)])

    def basis(number: int, like: Tensor) -> Tensor:
        """Each draw is the identity on rows of its own, and 0 elsewhere."""
        drawn, first = torch.zeros_like(like), 3 + 2 * number
        drawn[first : first + 2] = torch.eye(2, dtype=like.dtype)
        return drawn

    def mixture_start(sigma: float) -> Tensor:
        return mixture_quantiles(sigma, samples if peer.noisy else QUANTILES)[:, None]

    out = peer.run(Task(gaussian_start, GAUSSIAN.denoise, basis, evaluations))
    columns = out[1:] - out[0]
    runs = [
        peer.run(Task(mixture_start, MIXTURE.denoise, stratified(seed), evaluations))
        for seed in range(RUNS if peer.noisy else 1)
    ]
    return {
        "library": peer.library,
        "solver": peer.name,
        "equivalent": peer.equivalent,
        "nominal": evaluations,
        "evaluations": evaluations - (peer.name == "Heun"),
        **_distances(Gaussian(out[0], columns.T @ columns), runs),
    }


def _distances(reached: Gaussian, runs: list[Tensor]) -> dict[str, float]:
    """The distance to the Gaussian, and the mean and the spread of those to the mixture."""
    mixture = [mixture_distance(x) for x in runs]
    return {
        "gaussian": gaussian_distance(reached),
        "mixture": sum(mixture) / len(mixture),
        "spread": max(mixture) - min(mixture),
    }
