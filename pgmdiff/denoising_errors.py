r"""Covariances from denoisers: their errors, averaged over data, at several noise levels.

Posterior composition closes each local posterior q(u_0,r | u_σ,r) with a Gaussian of covariance
V_r(σ). For Gaussian data V_r(σ) = (Σ_r⁻¹ + σ⁻² I)⁻¹. For other data the average over u_σ of the
true one is the covariance of the denoiser's error e = u_0 - D_r,

    V_r(σ) = E e eᵀ = σ² (I - σ² E s sᵀ),

the second form by Stein's identity for exact scores s. What composition uses is

    Q_r(σ) = V_r⁻¹ - σ⁻² I = V_r^{-½} (σ² E s sᵀ) V_r^{-½}

in which nothing is subtracted, so that Q_r ≻ 0 with the relative accuracy of both averages.
Q_r ⪰ Σ_r⁻¹ always, and Q_r → Σ_r⁻¹ as σ → ∞. For exact scores P(σ) = Σ_r c_r A_rᵀ Q_r A_r is
definite on trees: σ² E s sᵀ is a Fisher information, and that of an overlap is at most what is left
of a piece's when the rest is unknown, J_o ⪯ ((J_f⁻¹)_oo)⁻¹. Networks may break it.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.composition.joint import Joint
from pgmdiff.composition.local import checked_states, every_region, local_denoised
from pgmdiff.composition.plan import Scores
from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.regions import Condition, RegionGraph
from pgmdiff.noise import Generator, Noise
from pgmdiff.precision import DenoisingErrors, Dense

__all__ = ["fit_denoising_errors"]


def fit_denoising_errors(
    graph: FactorGraph | RegionGraph,
    scores: Scores,
    data: Tensor,
    sigmas: Sequence[float],
    *,
    shared: bool = False,
    conditions: Mapping[Any, Condition] | None = None,
    generator: Generator = 0,
    max_batch: int | None = None,
    progress: bool = False,
) -> DenoisingErrors:
    """Measures every model's mean error covariance on noised data; see the module.

    Args:
        graph, scores, conditions, max_batch: as for `compose`.
        data: clean states `[n, *event_shape]`; many times as many as a region has elements, unless
            they are shared.
        sigmas: noise levels, positive, in any order: a handful from the smallest scale of the data
            to beyond its largest.
        shared: whether regions with one model have one covariance.
        generator: of the noise.
        progress: shows a progress bar, over the levels.

    Returns:
        What `Posterior` and `Evidence` take as covariances.

    Raises:
        ShapeError: data of another shape, or fewer states than a region has elements.
        PgmdiffError: a noise level that is not positive, or given twice.
    """
    levels = tuple(sorted(float(sigma) for sigma in sigmas))
    if not levels or levels[0] <= 0 or len(set(levels)) < len(levels):
        raise PgmdiffError(
            f"fit_denoising_errors: expected distinct positive sigmas, got {list(sigmas)}."
        )
    joint = every_region(graph, scores, conditions=conditions, max_batch=max_batch)
    clean = checked_states("fit_denoising_errors", data, joint)
    noise = Noise.of(generator, len(clean))
    bar = tqdm(levels, disable=not progress, desc="denoising errors")
    noisy = (clean + sigma * noise(step, clean) for step, sigma in enumerate(levels))
    at = [_at(joint, clean, x, sigma, shared) for x, sigma in zip(noisy, bar, strict=True)]
    return DenoisingErrors(levels, tuple(at))


def _at(joint: Joint, clean: Tensor, noisy: Tensor, sigma: float, shared: bool) -> Dense:
    """Q_r(σ)⁻¹ of every region, or of every model."""
    denoised = local_denoised(joint, noisy, sigma)
    moments: dict[Hashable, Tensor] = {}
    for batch in joint.batches:
        group = batch.group
        for row in range(len(group)):
            name = group.name(row)
            index = group.indices(row, row + 1).reshape(-1)
            error = (clean[:, index] - denoised[name]).double()
            pull = (denoised[name] - noisy[:, index]).double()  # σ² s
            both = torch.stack([error.T @ error, pull.T @ pull]) / len(clean)
            own = group.model if shared and group.model is not None else name
            moments[own] = moments.get(own, 0) + torch.cat([both, torch.ones_like(both[:1])])
    for name, (_, pull, number) in moments.items():
        if len(pull) > len(clean) * number[0, 0] or torch.linalg.matrix_rank(pull) < len(pull):
            raise ShapeError(
                f"fit_denoising_errors: the scores of {name!r}, of {len(pull)} elements, at σ = "
                f"{sigma:g} do not vary in every direction over {len(clean)} states. Give many "
                "times as many states as elements, or shared=True."
            )
    levels = {name: (m[0] / m[2], m[1] / m[2]) for name, m in moments.items()}
    return Dense({name: _effective(*both, sigma) for name, both in levels.items()})


def _effective(error: Tensor, pull: Tensor, sigma: float) -> Tensor:
    """Q⁻¹ = σ² V^½ (σ⁴ E s sᵀ)⁻¹ V^½ of V = E e eᵀ, and of σ⁴ E s sᵀ."""
    values, vectors = torch.linalg.eigh(error)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    effective: Tensor = sigma**2 * root @ torch.linalg.solve(pull, root)
    return effective
