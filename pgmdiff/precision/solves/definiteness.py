"""Definiteness of P, and the least change that makes it positive definite."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.errors import GraphError
from pgmdiff.precision.precision import ComposedPrecision
from pgmdiff.precision.solves.base import IndefiniteError
from pgmdiff.precision.solves.choice import Channelwise, solver_of
from pgmdiff.precision.solves.iterative import TESTED, ConjugateGradients

__all__ = ["amplification", "inflation", "is_definite", "least_change", "least_shrinkage"]


DELAY = 3.0
"""Seconds after which the search for λ* shows a progress bar."""
JITTERS = (0.0, 1e-8, 1e-6, 1e-4)
"""Jitters tried before shrinkage, in units of every element's variance."""


def is_definite(precision: ComposedPrecision) -> bool | None:
    """Whether P is positive definite, by eigenvalues or the signs of a factorisation's pivots.

    Args:
        precision: P.

    Returns:
        The answer, or None if P is too large to tell before it is solved with.
    """
    try:
        solve = solver_of(precision)
    except IndefiniteError:
        return False
    inner = solve.places if isinstance(solve, Channelwise) else solve
    return None if isinstance(inner, ConjugateGradients) and not inner.tested else True


def least_shrinkage(precision: ComposedPrecision) -> float | None:
    """The least λ* such that P is positive definite for every λ in [λ*, 1], to about 1e-3.

    The values of λ with P ≻ 0 need not form an interval: a grid of 1/20 is walked down from 1, and
    the interval in which P first fails is bisected. None if P is too large to tell.

    Args:
        precision: P, whose own shrinkage and jitter are not used.
    """
    # Large graphs take seconds for each of at most 28 factorisations.
    with tqdm(total=28, desc="least shrinkage", delay=DELAY, leave=False) as bar:

        def definite(shrinkage: float) -> bool | None:
            bar.update()
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
        precision, covariance: P, and P⁻¹ `[N, N]`.
    """
    return float((covariance.diagonal() / precision.variances).max())


def amplification(precision: ComposedPrecision, covariance: Tensor) -> float:
    """The factor by which an error of one region's denoiser can grow in the whole, max_r ‖G_r‖₂.

        G_r = lim_{σ → ∞} c_r (I + σ² P)⁻¹ A_rᵀ (I + σ² Σ_r⁻¹) = c_r P⁻¹ A_rᵀ Σ_r⁻¹

    Errors are measured in units of every element's standard deviation.
    Exact scores have no error. With trained ones it matters where covariances have directions of
    next to no variance, in which small disagreements count as strong evidence.

    Args:
        precision, covariance: P, and P⁻¹ `[N, N]`.
    """
    largest, units = 0.0, precision.variances.sqrt()
    for block in precision.blocks:
        inverses = block.precisions.dense()
        for row, (index, count) in enumerate(zip(block.index, block.counts, strict=True)):
            gain = count * covariance[:, index] @ inverses[row if len(inverses) > 1 else 0]
            gain = gain / units[:, None] * units[index]
            largest = max(largest, float(torch.linalg.eigvalsh(gain.T @ gain)[-1]))
    return math.sqrt(largest)


def least_change(make: Callable[[float, float], ComposedPrecision]) -> ComposedPrecision:
    """The first definite P of: P as it is, with jitter, with the least shrinkage λ*.

    Args:
        make: maps λ and the jitter to P.

    Raises:
        GraphError: even λ = 1 does not help, or P is too large to tell.
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
            f"Posterior: the least shrinkage is not computed beyond {TESTED} elements, here "
            f"{marginal.graph.n_elements}, and a region's own covariance needs some. Give "
            "shrinkage=."
        )
    return marginal.shrunk(least)
