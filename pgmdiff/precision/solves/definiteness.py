"""Is P positive definite, and what is the least that makes it so?"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pgmdiff.errors import GraphError
from pgmdiff.precision.precision import ComposedPrecision, Precision
from pgmdiff.precision.solves.base import IndefiniteError
from pgmdiff.precision.solves.choice import Channelwise, PerLevel, solver_of
from pgmdiff.precision.solves.iterative import TESTED, ConjugateGradients

__all__ = ["amplification", "inflation", "is_definite", "least_change", "least_shrinkage"]


JITTERS = (0.0, 1e-8, 1e-6, 1e-4)
"""Tried before shrinkage, in units of the mean variance."""


def is_definite(precision: Precision) -> bool | None:
    """Whether P is positive definite; None: too large to tell before it is solved with.

    By eigenvalues, or the signs of the pivots of a factorisation.

    Args:
        precision: P; of covariances that depend on σ, at every level.
    """
    try:
        solve = solver_of(precision)
    except IndefiniteError:
        return False
    parts = solve.parts if isinstance(solve, PerLevel) else (solve,)
    inner = (part.places if isinstance(part, Channelwise) else part for part in parts)
    untested = any(isinstance(s, ConjugateGradients) and not s.tested for s in inner)
    return None if untested else True


def least_shrinkage(precision: Precision) -> float | None:
    """The least λ* such that P is positive definite for every λ in [λ*, 1], to about 1e-3.

    The definite set need not be an interval: a grid of 1/20 is walked down from 1, and the gap
    halved where it first fails. None: too large to tell.

    Args:
        precision: P, with whatever shrinkage and jitter; λ* replaces the shrinkage.
    """

    def definite(shrinkage: float) -> bool | None:
        try:
            return is_definite(precision.shrunk(shrinkage))
        except GraphError:  # a region's own covariance is singular
            return False

    if definite(0.95) is None:
        return None
    steps = [step / 20 for step in range(20)]
    lower = next((step for step in reversed(steps) if not definite(step)), 0.0)
    upper = min(lower + 0.05, 1.0)
    if lower == 0 and definite(0.0):
        return 0.0
    while upper - lower > 1e-3:
        middle = (lower + upper) / 2
        lower, upper = (lower, middle) if definite(middle) else (middle, upper)
    return upper


def inflation(precision: ComposedPrecision, covariance: Tensor) -> float:
    """The largest ratio of a variance of N(m, P⁻¹) to the data's.

    Args:
        precision: P.
        covariance: P⁻¹ `[N, N]`.
    """
    return float((covariance.diagonal() / precision.variances).max())


def amplification(precision: ComposedPrecision, covariance: Tensor) -> float:
    """By how much the error of one region's denoiser can grow in the whole: max_r ‖G_r‖₂.

        G_r = lim_{σ → ∞} c_r (I + σ² P)⁻¹ A_rᵀ (I + σ² Σ_r⁻¹) = c_r P⁻¹ A_rᵀ Σ_r⁻¹

    Exact scores have no error, and lose nothing. Of trained ones whose covariances have directions
    of next to no variance, small disagreements are taken for strong evidence.

    Args:
        precision: P.
        covariance: P⁻¹ `[N, N]`.
    """
    largest = 0.0
    for block in precision.blocks:
        inverses = block.precisions.dense()
        for row, (index, count) in enumerate(zip(block.index, block.counts, strict=True)):
            gain = count * covariance[:, index] @ inverses[row if len(inverses) > 1 else 0]
            largest = max(largest, float(torch.linalg.eigvalsh(gain.T @ gain)[-1]))
    return math.sqrt(largest)


def least_change(make: Callable[[float, float], Precision]) -> Precision:
    """The first definite P: as it is, with jitter, or with the least shrinkage λ*.

    Args:
        make: (λ, jitter) to P.

    Raises:
        GraphError: even λ = 1 does not help, or it is too large to tell.
    """
    for jitter in JITTERS:
        try:
            precision = make(0.0, jitter)
        except GraphError:  # a region's own covariance is singular or indefinite
            continue
        if is_definite(precision) is not False:
            return precision
    marginal = make(1.0, 0.0)  # raises where no shrinkage helps
    least = least_shrinkage(marginal)
    if least is None:
        raise GraphError(
            f"Posterior: the least shrinkage of {marginal.graph.n_elements} elements is not looked "
            f"for beyond {TESTED}, and a region's own covariance needs some. Give shrinkage=."
        )
    return marginal.shrunk(least)
