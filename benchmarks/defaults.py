"""Twenty evaluations against the paper's eighty stochastic steps, on composed joints.

*Chains*: Gaussian AR(1), 20 variables of correlation 0.95, pair factors; from N(0, 80²), Karras 80
→ 0.002. The law reached follows exactly (`testing.linear`); KL per variable to the truth under
posterior composition, and under the marginal rule, whose own error no solver removes.
*Modes*: the two-mode chain under posterior composition, Karras 20 → 0.01; unbiased energy distance.
*Gravel*: strips of 16 × 96 from the bundled model, 8 pixels of overlap, marginal rule, Karras
10 → 0.01; Fréchet distance of texture features of 16 × 16 crops over the distance of two halves of
the photograph, and seam ratio.

EDM's stochastic sampler runs with its published churn, two evaluations a step.
"""

import platform
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness.distributions import two_mode_chain
from pgmdiff.composition.composing import compose
from pgmdiff.composition.posterior import Posterior
from pgmdiff.composition.rules import Marginal
from pgmdiff.diagnostics.affine import distribution_reached
from pgmdiff.diagnostics.metrics import energy_distance, mean_and_error
from pgmdiff.gaussian import Gaussian, kl_divergence, node_covariances, node_scores
from pgmdiff.graphs import chain, tiles
from pgmdiff.samplers import (
    DEIS,
    EDM,
    SDE,
    DPMSolver2M,
    DPMSolver3M,
    Euler,
    Heun,
    Solver,
    UniPC,
    karras,
    sample,
)

__all__ = ["CANDIDATES", "run", "table"]

CANDIDATES: dict[str, tuple[Callable[[int], Solver], int]] = {
    "EDM stochastic, 80 steps": (lambda n: EDM(n), 80),
    "Euler (DDIM)": (lambda n: Euler(), 20),
    "Heun": (lambda n: Heun(), 10),
    "SDE η = 1": (lambda n: SDE(1.0), 20),
    "DPM-Solver++ 2M": (lambda n: DPMSolver2M(), 20),
    "DPM-Solver++ 2M SDE": (lambda n: DPMSolver2M(eta=1.0, rho=7.0), 20),
    "DPM-Solver++ 3M": (lambda n: DPMSolver3M(), 20),
    "DEIS 3": (lambda n: DEIS(3), 20),
    "UniPC 3": (lambda n: UniPC(3), 20),
}
"""Name to the solver of so many levels, and how many."""

SEEDS, SAMPLES, STRIPS = 4, 2000, 32
SHAPE, OVERLAP = (1, 16, 96), 8


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures every candidate; `smoke`: two of them, on the chain only."""
    names = list(CANDIDATES)[1:3] if smoke else list(CANDIDATES)
    rows = [_row(name, smoke) for name in tqdm(names, desc="defaults")]
    settings = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "seeds": SEEDS,
        "samples": SAMPLES,
        "strips": STRIPS,
    }
    return {"settings": settings, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """The rows as text."""
    heads = ("evaluations", "posterior", "marginal", "modes", "fréchet", "seams")
    lines = [f"{'solver':>26} " + " ".join(f"{head:>11}" for head in heads)]
    for row in result["rows"]:
        cells = " ".join(f"{row[h]:>11.4g}" if h in row else " " * 11 for h in heads)
        lines.append(f"{row['solver']:>26} {cells}")
    return "\n".join(lines)


def _row(name: str, smoke: bool) -> dict[str, Any]:
    make, levels = CANDIDATES[name]
    solver = make(levels)
    found: dict[str, Any] = {
        "solver": name,
        "evaluations": solver.evaluations * (levels - 1) + 1,
        "posterior": _chain_loss(solver, levels, posterior=True),
        "marginal": _chain_loss(solver, levels, posterior=False),
    }
    if smoke:
        return found
    found["modes"], found["modes_error"] = _modes(solver, levels)
    return {**found, **_gravel(solver, levels)}


def _chain_loss(solver: Solver, levels: int, *, posterior: bool) -> float:
    n, place = 20, torch.arange(20)
    covariance = 0.95 ** (place[:, None] - place).abs().double()
    q, graph = Gaussian(torch.zeros(n, dtype=torch.float64), covariance), chain(n)
    rule = Posterior(node_covariances(graph, q)) if posterior else Marginal()
    joint = compose(graph, node_scores(graph, q), rule=rule)
    start = Gaussian(q.mean, 80.0**2 * torch.eye(n, dtype=torch.float64))
    reached = distribution_reached(joint, karras(levels, 0.002, 80.0), start, solver)
    return kl_divergence(reached, q) / n


def _modes(solver: Solver, levels: int) -> tuple[float, float | None]:
    law = two_mode_chain()
    joint = compose(
        law.graph,
        {model: q.score for model, q in law.models.items()},
        rule=Posterior({model: q.covariance for model, q in law.models.items()}),
    )
    shape, sigmas, found = (SAMPLES, law.graph.n_elements), karras(levels, 0.01, 20.0), []
    for seed in range(SEEDS):
        u = sample(joint, sigmas, shape=shape, solver=solver, generator=seed, dtype=torch.float64)
        truth = law.sample(SAMPLES, torch.Generator().manual_seed(100 + seed))
        found.append(energy_distance(u, truth, mirrored=law.mirrored))
    return mean_and_error(found)


def _gravel(solver: Solver, levels: int) -> dict[str, float]:
    from pgmdiff.diagnostics.metrics import frechet_distance, seam_ratio, texture_features
    from pgmdiff.models.gravel import gravel_denoiser
    from pgmdiff.scores.adapters import from_denoiser

    height, width = SHAPE[1:]
    graph = tiles(SHAPE, (1, height, height), (0, 0, OVERLAP))
    joint = compose(graph, from_denoiser(gravel_denoiser()), max_batch=32)
    u = sample(
        joint, karras(levels, 0.01, 10.0), shape=(STRIPS, *SHAPE), solver=solver, generator=0
    )
    real, floor = _real_features()
    crops = _crops(u, range(0, width - height + 1, OVERLAP))
    seams = [edge for start in range(0, width, OVERLAP) for edge in (start,) if edge]
    return {
        "fréchet": frechet_distance(texture_features(crops), real) / floor,
        "seams": seam_ratio(u, seams),
    }


@cache
def _real_features() -> tuple[Tensor, float]:
    """Features of crops of the photograph, and the distance of two halves of as many."""
    from pgmdiff.diagnostics.metrics import frechet_distance, texture_features
    from pgmdiff.models.gravel import gravel_image
    from pgmdiff.training.loop import random_crops

    generator = torch.Generator().manual_seed(0)
    n = STRIPS * ((SHAPE[2] - SHAPE[1]) // OVERLAP + 1)
    crops = random_crops(gravel_image(), SHAPE[1:2] * 2, 2 * n, generator=generator)
    features = texture_features(crops)
    return features, frechet_distance(features[:n], features[n:])


def _crops(u: Tensor, starts: Sequence[int]) -> Tensor:
    return torch.cat([u[..., start : start + SHAPE[1]] for start in starts])
