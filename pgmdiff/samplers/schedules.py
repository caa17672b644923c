"""Schedules: noise levels, as Python floats in double precision, that fall to 0.

σ is the time variable, in the data's units. Every family has `steps` positive levels from
`sigma_max` down to `sigma_min`, then 0. The levels take equal steps of a function of σ, in which
the families differ. `time_travel` makes schedules that rise in between, where the loop adds noise.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any, TypeAlias

import numpy as np

from pgmdiff.errors import PgmdiffError

__all__ = [
    "cosine",
    "from_scheduler",
    "karras",
    "log_linear",
    "log_snr",
    "time_travel",
    "variance_preserving",
]

Map: TypeAlias = Callable[[float], float]


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """σ_k = (σ_max^(1/ρ) + k/(steps - 1) (σ_min^(1/ρ) - σ_max^(1/ρ)))^ρ, then 0.

    Args:
        steps: number of positive levels, and of solver steps.
        sigma_min: the last positive level, in the units of the data.
        sigma_max: the first level.
        rho: ρ; larger values put more levels at low noise.

    Raises:
        PgmdiffError: steps is below 1, or 0 < sigma_min < sigma_max does not hold.

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
    """Equal steps in log σ from σ_max to σ_min, then 0.

        σ_k = σ_max (σ_min / σ_max)^(k/(steps - 1))

    Args:
        steps, sigma_min, sigma_max: as for `karras`, with the same errors.
    """
    _check(steps, sigma_min, sigma_max)
    return _ended(np.geomspace(sigma_max, sigma_min, steps), sigma_min, sigma_max)


def log_snr(steps: int, lowest: float, highest: float) -> list[float]:
    """Equal steps in log SNR = -2 log σ, then 0: `log_linear`, given by signal-to-noise ratios.

    Args:
        steps: number of positive levels, and of solver steps.
        lowest, highest: log SNR of the first and of the last positive level; σ = exp(-½ log SNR).

    Example:
        >>> from pgmdiff.samplers import log_snr
        >>> [round(sigma, 3) for sigma in log_snr(3, -4.0, 8.0)]
        [7.389, 0.368, 0.018, 0.0]
    """
    return log_linear(steps, math.exp(-highest / 2), math.exp(-lowest / 2))


def cosine(steps: int, sigma_min: float, sigma_max: float, s: float = 0.008) -> list[float]:
    """Equal steps in the time of the cosine schedule, at its σ_t = √((1 - ᾱ_t) / ᾱ_t), then 0.

    ᾱ_t = cos²(θ_t) / cos²(θ_0) with θ_t = (t + s) / (1 + s) · π/2. Its spacing suits data of unit
    variance: for others, multiply the levels for `sigma_min / std` to `sigma_max / std` by std.

    Args:
        steps, sigma_min, sigma_max: as for `karras`, with the same errors.
        s: offset of the start.

    Source: Nichol and Dhariwal, "Improved denoising diffusion probabilistic models", 2021, Eq. 17.
    """
    first = s / (1 + s) * math.pi / 2
    sine, base = math.sin(first), math.cos(first)
    return _equal_steps(
        steps,
        sigma_min,
        sigma_max,
        time=lambda sigma: math.atan2(math.hypot(sigma, sine), base),
        level=lambda angle: math.sqrt(max((base * math.tan(angle)) ** 2 - sine**2, 0)),
    )


def variance_preserving(
    steps: int, sigma_min: float, sigma_max: float, beta_min: float = 0.1, beta_max: float = 20.0
) -> list[float]:
    """Equal steps in the time of the linear VP schedule, at its σ_t = √((1 - ᾱ_t) / ᾱ_t), then 0.

    -log ᾱ_t = β_min t + ½ (β_max - β_min) t²: DDPM's linear β. Its spacing suits data of unit
    variance, as that of `cosine`.

    Args:
        steps, sigma_min, sigma_max: as for `karras`, with the same errors.
        beta_min, beta_max: β at t = 0 and 1.

    Source: Song et al., "Score-based generative modeling through stochastic differential
    equations", 2021, Eq. 32 f.
    """
    rise = beta_max - beta_min

    def time(sigma: float) -> float:
        spent = 2 * math.log1p(sigma**2)
        return spent / (beta_min + math.sqrt(beta_min**2 + rise * spent))

    def level(t: float) -> float:
        return math.sqrt(math.expm1(beta_min * t + rise * t**2 / 2))

    return _equal_steps(steps, sigma_min, sigma_max, time=time, level=level)


def from_scheduler(scheduler: Any, *, sigma_max: float | None = None) -> list[float]:
    """The levels that a diffusers scheduler would visit after its `set_timesteps`, ending in 0.

    They are read from its `sigmas`, or else from `alphas_cumprod` at its `timesteps`, as
    √((1 - ᾱ) / ᾱ). The sigmas of flows, (1 - σ) x_0 + σ ε, are read as σ / (1 - σ): a scheduler is
    a flow if its config says so, or if it has no `alphas_cumprod` and no level above 1. A level
    that occurs twice in a row, as those of second evaluations do, is kept once. Of a scheduler that
    begins in the middle, by `set_begin_index` or since its first timesteps were cut off, used or
    not, the levels are those from there. diffusers is not imported: any object with these
    attributes works.

    Args:
        scheduler: a diffusers scheduler, or an object like one.
        sigma_max: a cap on the levels, which flows and zero terminal SNR require, since they begin
            at infinity.

    Raises:
        PgmdiffError: timesteps were not set, there are no levels to read, or a level is infinite.
    """
    if getattr(scheduler, "num_inference_steps", 1) is None:
        raise PgmdiffError(
            "from_scheduler: the scheduler has no timesteps. Call its set_timesteps(n) first."
        )
    config = dict(getattr(scheduler, "config", {}))
    sigmas, alphas = (getattr(scheduler, name, None) for name in ("sigmas", "alphas_cumprod"))
    begin, timesteps = remaining(scheduler)
    if sigmas is not None:
        levels = [float(sigma) for sigma in sigmas[begin:]]
        bounded = alphas is None and "sigma_data" not in config and max(levels) <= 1
        if config.get("use_flow_sigmas") or bounded:
            levels = [_ratio(sigma, 1 - sigma) for sigma in levels]
    elif alphas is not None and timesteps is not None:
        visited = [float(alphas[int(t)]) for t in timesteps]
        levels = [_ratio(1 - alpha, alpha) ** 0.5 for alpha in visited]
    else:
        raise PgmdiffError(
            "from_scheduler: expected `sigmas`, or `alphas_cumprod` and `timesteps`, but "
            f"{type(scheduler).__name__} has neither. Give the levels as a list instead."
        )
    levels = levels if sigma_max is None else [min(level, float(sigma_max)) for level in levels]
    if not all(map(math.isfinite, levels)):
        raise PgmdiffError(
            "from_scheduler: a level is infinite, which is pure noise. Pass sigma_max=, well above "
            "the size of the data."
        )
    kept = levels[:1] + [level for before, level in pairwise(levels) if level != before]
    return kept if kept[-1] == 0 else [*kept, 0.0]


def remaining(scheduler: Any) -> tuple[int, Any]:
    """Where a diffusers scheduler begins in its tables, and its timesteps from there."""
    timesteps: Any = getattr(scheduler, "timesteps", None)
    length = 0 if timesteps is None else len(timesteps)
    n, order = getattr(scheduler, "num_inference_steps", None), getattr(scheduler, "order", 1)
    cut = max(order * (n - 1) + 1 - length, 0) if n and length else 0
    begin = getattr(scheduler, "begin_index", None)
    begin = cut if begin is None else begin
    return begin, timesteps if cut or not begin else timesteps[begin:]


def time_travel(sigmas: Sequence[float], length: int, times: int = 1) -> list[float]:
    """A schedule that repeats every stretch of `length` steps `times` times.

    Each repetition rises to the start of its stretch, where the sampling loop adds the noise.

    Args:
        sigmas: a falling schedule.
        length: number of steps in a stretch; the last one may be shorter.
        times: number of repetitions.

    Raises:
        PgmdiffError: the length is below 1, or the number of times is negative.

    Source: Lugmayr et al., "RePaint: inpainting using denoising diffusion probabilistic models",
    2022.

    Example:
        >>> from pgmdiff.samplers import time_travel
        >>> time_travel([4.0, 3.0, 2.0, 1.0, 0.0], length=2)
        [4.0, 3.0, 2.0, 4.0, 3.0, 2.0, 1.0, 0.0, 2.0, 1.0, 0.0]
    """
    if length < 1 or times < 0:
        raise PgmdiffError(
            f"time_travel: expected length >= 1 and times >= 0, got {length} and {times}."
        )
    levels = [float(sigma) for sigma in sigmas]
    if not all(map(math.isfinite, levels)):
        raise PgmdiffError(f"time_travel: expected finite sigmas, got {levels[:4]}. See `karras`.")
    travelled = levels[:1]
    for first in range(0, len(levels) - 1, length):
        stretch = levels[first : first + length + 1]
        travelled += stretch[1:] + times * stretch
    return travelled


def _ratio(noise: float, signal: float) -> float:
    return noise / signal if signal > 0 else math.inf


def _equal_steps(
    steps: int, sigma_min: float, sigma_max: float, time: Map, level: Map
) -> list[float]:
    """Equal steps of time(σ), whose inverse is `level`, then 0."""
    _check(steps, sigma_min, sigma_max)
    times = np.linspace(time(sigma_max), time(sigma_min), steps).tolist()
    return _ended(np.array([level(t) for t in times]), sigma_min, sigma_max)


def _ended(levels: "np.ndarray", sigma_min: float, sigma_max: float) -> list[float]:
    """The levels with exact ends, whatever the rounding in between, and the final 0."""
    sigmas = [float(level) for level in levels]
    if len(sigmas) > 1:
        sigmas[-1] = float(sigma_min)
    sigmas[0] = float(sigma_max)
    if not all(a > b for a, b in pairwise([*sigmas, 0.0])):  # which no NaN is
        raise PgmdiffError(
            f"schedule: expected options that give falling levels, got {sigmas[:4]}. Leave out "
            "rho=, s=, beta_min= and beta_max=, or choose others, and fewer steps."
        )
    return [*sigmas, 0.0]


def _check(steps: int, sigma_min: float, sigma_max: float) -> None:
    if not isinstance(steps, int | np.integer) or steps < 1:
        raise PgmdiffError(
            "schedule: expected an integer steps >= 1 as the first argument, got "
            f"steps={steps!r}, sigma_min={sigma_min!r}, sigma_max={sigma_max!r}. Write "
            "karras(20, sigma_min, sigma_max)."
        )
    numbers = all(isinstance(number, Real) for number in (sigma_min, sigma_max))
    swapped = numbers and 0 < sigma_max < sigma_min
    if not numbers or not 0 < sigma_min < sigma_max < float("inf"):
        raise PgmdiffError(
            f"schedule: expected numbers 0 < sigma_min < sigma_max, got sigma_min={sigma_min!r}, "
            f"sigma_max={sigma_max!r}."
            + (" Did you swap sigma_min and sigma_max?" if swapped else "")
        )
