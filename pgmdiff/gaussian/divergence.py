"""The Kullback-Leibler divergence of Gaussians."""

import math

import torch

from pgmdiff.errors import ShapeError
from pgmdiff.gaussian.distributions import Gaussian
from pgmdiff.linalg import widest

__all__ = ["kl_divergence"]


def kl_divergence(p: Gaussian, q: Gaussian) -> float:
    """KL(p ‖ q) = ½ (tr Σ_q⁻¹Σ_p + |m_q - m_p|²_{Σ_q⁻¹} - log det Σ_q⁻¹Σ_p - N), in nats.

    It is computed in float64, and ∞ if one of both is singular: its support has measure 0 for the
    other.

    Args:
        p, q: of N elements.

    Raises:
        ShapeError: they are no Gaussians of one size, or the covariances of both are singular.
    """
    known = isinstance(p, Gaussian) and isinstance(q, Gaussian)
    if not known or p.mean.numel() != q.mean.numel():
        raise ShapeError(
            f"kl_divergence: expected Gaussians of one size, got {p!r} and {q!r}. Take a marginal."
        )
    if p._singular and q._singular:
        raise ShapeError(
            "kl_divergence: expected at most one singular covariance, got two, whose supports are "
            "equal or not by their rounding. Add noise to both: p.noised(σ), q.noised(σ)."
        )
    if p._singular or q._singular:
        return math.inf
    dtype = widest(q.mean.device)
    difference = q.mean.to(dtype).flatten() - p.mean.to(dtype).flatten()
    factor = torch.linalg.cholesky(q.covariance.to(dtype))
    ratio = torch.cholesky_solve(p.covariance.to(dtype), factor)
    shift = difference @ torch.cholesky_solve(difference[:, None], factor)[:, 0]
    log_det = torch.linalg.slogdet(ratio).logabsdet
    return float(0.5 * (ratio.trace() + shift - log_det - len(difference)))
