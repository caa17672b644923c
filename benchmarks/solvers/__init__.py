"""How close every solver comes at 10 to 80 evaluations: W2 to two targets, beside other libraries.

Every run starts from the exact noised law at σ = 80, so that only the solver's error shows, on a
Karras grid 80 → 0.002 → 0 (ρ = 7). *Gaussian*: the law reached follows exactly, noise included,
from pushing a basis through the solver. *Mixture*: quantiles are pushed through the solver; where
it draws noise, stratified noise (see `targets`), and the mean of three runs is given.
"""

import platform
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.solvers.peers import Peer, peers
from benchmarks.solvers.targets import (
    GAUSSIAN,
    MIXTURE,
    gaussian_distance,
    mixture_distance,
    mixture_quantiles,
    stratified,
)
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import Gaussian
from pgmdiff.samplers import (
    DEIS,
    EDM,
    SDE,
    Adaptive,
    DPMSolver2M,
    DPMSolver2S,
    DPMSolver3M,
    Euler,
    Heun,
    Solver,
    UniPC,
    karras,
    sample,
)

__all__ = ["draw", "run", "table"]

EVALUATIONS = (10, 20, 40, 80)
QUANTILES, SAMPLES, RUNS = 4000, 100_000, 3
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
SOLVERS: dict[str, Solver] = {
    "Euler = DDIM": Euler(),
    "Heun": Heun(),
    "DPM++ 2S": DPMSolver2S(),
    "DPM++ 2M": DPMSolver2M(),
    "DPM++ 3M": DPMSolver3M(),
    "DEIS 2, log σ": DEIS(2),
    "DEIS 3, log σ": DEIS(3),
    "DEIS 4, log σ": DEIS(4),
    "DEIS 3, σ^(1/7)": DEIS(3, rho=7.0),
    "DEIS 3, σ": DEIS(3, rho=1.0),
    "UniPC 2": UniPC(2),
    "UniPC 3": UniPC(3),
    "SDE, η = 1": SDE(1.0),
    "DPM++ 2S, η = 1": DPMSolver2S(1.0),
    "DPM++ 2M, η = 1": DPMSolver2M(1.0),
    "DPM++ 2M, η = 1, σ^(1/7)": DPMSolver2M(1.0, rho=7.0),
    "DPM++ 3M, η = 1": DPMSolver3M(1.0),
    "EDM, churn 40": EDM(1),
}
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-5)


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures all solvers; `smoke` a few, briefly. Nothing runs on a device.

    Returns:
        `settings`, `notes` on other libraries, and `rows`.
    """
    evaluations = EVALUATIONS[:1] if smoke else EVALUATIONS
    samples = 2000 if smoke else SAMPLES
    names = ("DPM++ 2M", "EDM, churn 40") if smoke else SOLVERS
    others, notes = peers()
    rows = [_own(name, n, samples) for name in tqdm(names, desc="solvers") for n in evaluations]
    rows += [_adaptive(tolerance) for tolerance in TOLERANCES[: 1 if smoke else None]]
    others = others[:1] if smoke else others
    rows += [_other(peer, n, samples) for peer in tqdm(others, desc="peers") for n in evaluations]
    settings = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "schedule": "Karras 80 → 0.002 → 0, ρ = 7, from the exact noised law",
        "quantiles": QUANTILES,
        "samples": samples,
    }
    return {"settings": settings, "notes": notes, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """The rows as text: Gaussian / mixture."""
    cells: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for row in result["rows"]:
        figures = f"{row['gaussian']:.4f}/{row['mixture']:.4f}"
        cells[row["library"], row["solver"]][row["nominal"]] = figures
    columns = sorted({n for cell in cells.values() for n in cell if n})
    heads = " ".join(f"{n:>14}" for n in columns)
    lines = ["W2 to the Gaussian / the mixture, by evaluations", f"{'':>37} {heads}"]
    for (library, name), cell in cells.items():
        own = [cell.get(n, "") for n in columns if n in cell] or [cell[0]]
        lines.append(f"{library:>10} {name:>26} " + " ".join(f"{each:>14}" for each in own))
    spread = max((row["spread"] for row in result["rows"]), default=0.0)
    lines.append(f"mixture, of solvers that draw noise: runs differ by at most {spread:.4f}")
    return "\n".join(lines + result["notes"])


def draw(result: dict[str, Any], path: Path) -> None:
    """W2 to the mixture against evaluations, of four solvers."""
    from pgmdiff.plotting import curves

    names = ("DEIS 3, log σ", "UniPC 3", "Heun", "DPM++ 2M")
    own = [row for row in result["rows"] if row["library"] == "pgmdiff"]
    figure = curves(
        {
            name: tuple(  # type: ignore[misc]
                [row[key] for row in own if row["solver"] == name]
                for key in ("evaluations", "mixture")
            )
            for name in names
        },
        xlabel="evaluations",
        ylabel="W2 to the mixture",
        title="Solvers on a mixture of two modes, from the exact noised law",
    )
    figure.savefig(path, dpi=110)


# ---------------------------------------------------------------- pgmdiff's own


def _own(name: str, evaluations: int, samples: int) -> dict[str, Any]:
    solver = SOLVERS[name]
    steps = evaluations // solver.evaluations
    if isinstance(solver, EDM):
        solver = replace(solver, n_steps=steps)
    sigmas = karras(steps, SIGMA_MIN, SIGMA_MAX)
    law = distribution_reached(GAUSSIAN.score, sigmas, GAUSSIAN.noised(SIGMA_MAX), solver)
    noisy = isinstance(solver, EDM) or bool(getattr(solver, "eta", 0.0))
    x = mixture_quantiles(SIGMA_MAX, samples if noisy else QUANTILES)[:, None]
    runs = [_pushed(solver, sigmas, x, stratified(seed)) for seed in range(RUNS if noisy else 1)]
    return {
        "library": "pgmdiff",
        "solver": name,
        "nominal": evaluations,
        "evaluations": solver.evaluations * (steps - 1) + 1,
        "gaussian": gaussian_distance(law),
        **_summary([mixture_distance(x) for x in runs]),
    }


def _pushed(
    solver: Solver, sigmas: list[float], x: Tensor, noise: Callable[[Tensor], Tensor]
) -> Tensor:
    state = solver.init(x, sigmas[0])
    for sigma_next in sigmas[1:]:
        state = solver.step(MIXTURE.score, state, sigma_next, lambda number, like: noise(like))
    return state.x


def _summary(distances: list[float]) -> dict[str, float]:
    spread = max(distances) - min(distances)
    return {"mixture": sum(distances) / len(distances), "spread": spread}


def _adaptive(tolerance: float) -> dict[str, Any]:
    """One step to a tolerance, and one to 0."""
    solver, sigmas, counts = Adaptive(tolerance, tolerance), [SIGMA_MAX, SIGMA_MIN, 0.0], [0]

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        counts[0] += 1
        return MIXTURE.score(x, sigma)

    law = distribution_reached(GAUSSIAN.score, sigmas, GAUSSIAN.noised(SIGMA_MAX), solver)
    out = sample(score, sigmas, x=mixture_quantiles(SIGMA_MAX, QUANTILES)[:, None], solver=solver)
    return {
        "library": "pgmdiff",
        "solver": f"dopri5, {tolerance:g}: {counts[0]} evals",
        "nominal": 0,
        "evaluations": counts[0],
        "gaussian": gaussian_distance(law),
        **_summary([mixture_distance(out)]),
    }


# ---------------------------------------------------------------- others


def _other(peer: Peer, evaluations: int, samples: int) -> dict[str, Any]:
    n = samples if peer.noisy else QUANTILES

    def start(sigma: float) -> Tensor:
        return mixture_quantiles(sigma, n)[:, None]

    runs = [
        peer.run(start, MIXTURE.denoise, stratified(seed), evaluations)
        for seed in range(RUNS if peer.noisy else 1)
    ]
    return {
        "library": peer.library,
        "solver": peer.name,
        "equivalent": peer.equivalent,
        "nominal": evaluations,
        "evaluations": evaluations - (peer.name == "Heun"),
        "gaussian": gaussian_distance(_law(peer, evaluations)),
        **_summary([mixture_distance(x) for x in runs]),
    }


def _law(peer: Peer, evaluations: int) -> Gaussian:
    """The law that another's solver reaches, read off a basis as by `distribution_reached`."""
    draws = evaluations if peer.noisy else 0

    def start(sigma: float) -> Tensor:
        noised = GAUSSIAN.noised(sigma)
        root = torch.linalg.cholesky(noised.covariance)
        return noised.mean + torch.cat([root.new_zeros(1, 2), root.T, root.new_zeros(2 * draws, 2)])

    out = peer.run(start, GAUSSIAN.denoise, _basis(draws), evaluations)
    columns = out[1:] - out[0]
    return Gaussian(out[0], columns.T @ columns)


def _basis(draws: int) -> Callable[[Tensor], Tensor]:
    numbers: Iterator[int] = iter(range(draws))

    def noise(x: Tensor) -> Tensor:
        drawn, first = torch.zeros_like(x), 3 + 2 * next(numbers)
        drawn[first : first + 2] = torch.eye(2, dtype=x.dtype)
        return drawn

    return noise
