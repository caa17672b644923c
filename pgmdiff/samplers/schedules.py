"""Noise levels: descending float64 Python floats that end in 0.

σ is the time variable, in the data's units. Every schedule has `steps` positive levels from
`sigma_max` down to `sigma_min`, then 0.
"""

import numpy as np

from pgmdiff.errors import PgmdiffError

__all__ = ["karras", "log_linear"]


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """σ_k = (σ_max^(1/ρ) + k/(steps - 1) (σ_min^(1/ρ) - σ_max^(1/ρ)))^ρ, then 0.

    Args:
        steps: number of positive levels, and of solver steps.
        sigma_min, sigma_max: last and first positive level.
        rho: larger puts more levels at low noise.

    Source: Karras et al., "Elucidating the design space of diffusion-based generative models",
    2022, Eq. 5.

    Example:
        >>> from pgmdiff.samplers import karras
        >>> [round(sigma, 3) for sigma in karras(4, 0.01, 10.0)]
        [10.0, 1.936, 0.226, 0.01, 0.0]
    """
    _check(steps, sigma_min, sigma_max)
    levels = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps) ** rho
    return _ended(levels, sigma_min, sigma_max)


def log_linear(steps: int, sigma_min: float, sigma_max: float) -> list[float]:
    """Equal steps in log σ from σ_max to σ_min, then 0."""
    _check(steps, sigma_min, sigma_max)
    return _ended(np.geomspace(sigma_max, sigma_min, steps), sigma_min, sigma_max)


def _ended(levels: "np.ndarray", sigma_min: float, sigma_max: float) -> list[float]:
    """Exact ends, whatever the rounding in between, and the final 0."""
    sigmas = [float(level) for level in levels]
    if len(sigmas) > 1:
        sigmas[-1] = float(sigma_min)
    sigmas[0] = float(sigma_max)
    return [*sigmas, 0.0]


def _check(steps: int, sigma_min: float, sigma_max: float) -> None:
    if steps < 1 or not 0 < sigma_min < sigma_max < float("inf"):
        raise PgmdiffError(
            "schedule: expected steps >= 1 and 0 < sigma_min < sigma_max, got "
            f"steps={steps}, sigma_min={sigma_min}, sigma_max={sigma_max}."
        )
