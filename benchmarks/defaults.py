"""The defaults benchmark: twenty evaluations against the paper's eighty stochastic steps.

*Chains*: Gaussian AR(1), 20 variables of correlation 0.95, pair factors; from N(0, 80² I), Karras
80 → 0.002. The distribution reached is exact (`diagnostics.distribution_reached`); KL per variable
to the truth under posterior composition, and under the marginal rule, whose own error no solver
removes.
*Modes*: the two-mode chain under posterior composition, Karras 20 → 0.01; unbiased energy distance.
*Gravel*: strips of 16 × 96 from the bundled model, 8 pixels of overlap, marginal rule, Karras
10 → 0.01; Fréchet distance of texture features of 16 × 16 crops over the distance of two halves of
the photograph, and seam ratio.

EDM's stochastic sampler runs with its published churn, with two evaluations per step.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness.distributions import two_mode_chain
from benchmarks.exactness.gaussians import chain_case
from benchmarks.exactness.modes import Trial
from benchmarks.reports import columns, settings, table
from pgmdiff import samplers
from pgmdiff.composition.composing import compose
from pgmdiff.diagnostics import metrics
from pgmdiff.graphs import tiles
from pgmdiff.models.gravel import gravel_denoiser, gravel_image
from pgmdiff.samplers import Solver, karras, sample
from pgmdiff.scores.adapters import from_denoiser
from pgmdiff.text import Table
from pgmdiff.training import random_crops

__all__ = ["CANDIDATES", "run", "tables"]

CANDIDATES: dict[str, tuple[Solver, int]] = {
    "EDM stochastic, 80 steps": (samplers.EDM(80), 80),
    "Euler (DDIM)": (samplers.Euler(), 20),
    "Heun": (samplers.Heun(), 10),
    "SDE η = 1": (samplers.SDE(1.0), 20),
    "DPM-Solver++ 2M": (samplers.DPMSolver2M(), 20),
    "DPM-Solver++ 2M SDE": (samplers.DPMSolver2M(eta=1.0, rho=7.0), 20),
    "DPM-Solver++ 3M": (samplers.DPMSolver3M(), 20),
    "DEIS 3": (samplers.DEIS(3), 20),
    "UniPC 3": (samplers.UniPC(3), 20),
}
"""Name to the solver and its number of levels."""

SEEDS, SAMPLES, STRIPS = 4, 2000, 32
SHAPE, OVERLAP = (1, 16, 96), 8
STARTS = range(0, SHAPE[2] - SHAPE[1] + 1, OVERLAP)
"""Of the windows, and of the crops whose features are compared."""


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures every candidate, or with `smoke` two of them, on the chain only."""
    names, rows = list(CANDIDATES)[1:3] if smoke else list(CANDIDATES), []
    case, trial = chain_case(20, 0.95), Trial(two_mode_chain(), SAMPLES, SEEDS)
    size, n = (SHAPE[1], SHAPE[1]), 2 * STRIPS * len(STARTS)
    real = (
        None
        if smoke
        else metrics.texture_features(random_crops(gravel_image(), size, n, generator=0))
    )
    for name in tqdm(names, desc="defaults"):
        solver, levels = CANDIDATES[name]
        row: dict[str, Any] = {
            "solver": name,
            "evaluations": solver.evaluations * (levels - 1) + 1,
            **{r: case.loss(case.reached(r, levels, solver)) for r in ("posterior", "marginal")},
        }
        if real is not None:
            drawn = trial.drawn("posterior", levels, solver)
            row["modes"], row["modes_error"] = metrics.mean_and_error(
                trial.measures(drawn)["energy"]
            )
            row |= _gravel(solver, levels, real)
        rows.append(row)
    about = settings(seeds=SEEDS, samples=SAMPLES, strips=STRIPS)
    return {"settings": about, "rows": rows}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The figures of every candidate."""
    figures = "posterior:.4g marginal:.4g modes:.4g fréchet:.4g seams:.4g"
    shown = columns(f"solver evaluations {figures}")
    return [table("Composed joints sampled by each solver", result["rows"], shown)]


def _gravel(solver: Solver, levels: int, real: Tensor) -> dict[str, float]:
    """Compares strips with features of real crops; the distance of these' halves is the unit."""
    _, height, width = SHAPE
    graph = tiles(SHAPE, (1, height, height), (0, 0, OVERLAP))
    joint = compose(graph, from_denoiser(gravel_denoiser()), max_batch=32)
    sigmas = karras(levels, 0.01, 10.0)
    u = sample(joint, sigmas, shape=(STRIPS, *SHAPE), solver=solver, generator=0)
    drawn = metrics.texture_features(
        torch.cat([u[..., start : start + height] for start in STARTS])
    )
    return {
        "fréchet": metrics.frechet_distance(drawn, real) / metrics.frechet_distance(*real.chunk(2)),
        "seams": metrics.seam_ratio(u, range(OVERLAP, width, OVERLAP)),
    }
