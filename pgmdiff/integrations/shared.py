r"""Dtypes and devices of networks, times of noise levels, and runs, which the adapters share.

A process x_t = α_t x_0 + σ_t ε is variance exploding at σ = σ_t / α_t on x_t / α_t. As σ_t / α_t
rises with t, bisection finds the time of a σ to rounding, for any schedule.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
from torch import Tensor

from pgmdiff.errors import ScoreError
from pgmdiff.linalg import widest
from pgmdiff.scores.adapters import Score, begun, denoise
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.scores.walls import named, received
from pgmdiff.store import fingerprint

__all__ = ["Runs", "as_seen", "check_device", "in_own_dtype", "network_dtype", "time_at"]

BRANCHES = 8
"""Conditions whose runs are kept at a time."""
BISECTIONS = 60
"""How often the interval of times is halved: beyond the precision of float64."""


@dataclass(eq=False)
class Runs:
    """The denoiser of a score, for samplers that call it as a function.

    It finds where a run with memory begins, and where its steps end: see `pgmdiff.integrations`.

    Attributes:
        score: the score.
        evaluations: calls per step of the sampler.

    Raises:
        ScoreError: there is less than one evaluation.
    """

    score: Score
    evaluations: int = 1
    _runs: dict[str, "_Run"] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.evaluations, int) or self.evaluations < 1:
            raise ScoreError(
                "Runs: expected evaluations, the sampler's calls per step, as an integer of at "
                f"least 1, got {self.evaluations!r}."
            )

    def __call__(self, x: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        """D(x, σ)."""
        fresh: Any = begun(self.score)
        if fresh is self.score:  # it has no memory
            return denoise(self.score, x, sigma, **condition)
        level, key = float(torch.as_tensor(sigma).max()), fingerprint(condition)
        run = self._runs.pop(key, None)
        if run is None or len(x) != run.size or level >= min(run.first, 2 * run.latest):
            run = _Run(fresh, len(x), level)
        self._runs = dict([*self._runs.items()][1 - BRANCHES :]) | {key: run}
        denoised = denoise(run.score, x, sigma, **condition)
        run.latest, run.calls = level, run.calls + 1
        if run.calls % self.evaluations == 0:
            run.score.commit()
        return denoised


@dataclass(eq=False)
class _Run:
    """The calls with one condition: their score, their number of samples, and their levels."""

    score: Any
    size: int
    first: float
    latest: float = inf
    calls: int = 0


def network_dtype(model: Any, default: torch.dtype) -> torch.dtype:
    """The dtype in which a network computes: its own `dtype`, or that of its first parameter."""
    own = getattr(model, "dtype", None)
    if isinstance(own, torch.dtype):
        return own
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
    return next((p.dtype for p in parameters if p.is_floating_point()), default)


def in_own_dtype(model: Callable[..., Any], x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
    """What a denoiser returns in its own dtype, like x and in the dtype of x.

    In half precision only its layers round: the score (D - x) / σ² needs digits of x in D.
    """
    check_device(model, x)
    dtype, like = network_dtype(model, x.dtype), x.detach()  # whatever is done to x
    wide = torch.promote_types(dtype, torch.float32)
    half = torch.autocast(x.device.type, dtype) if dtype != wide else nullcontext()
    with half:
        value = model(x.to(wide), sigma.to(wide), **condition)
    return received(value, like, named(model), cast=True)


def check_device(model: Any, x: Tensor) -> None:
    """A `ScoreError` if a network is on another device than its input; nothing is moved.

    Networks that accelerate or diffusers (group by group) offload may be anywhere: these libraries
    move them when they are called.
    """
    if not isinstance(model, torch.nn.Module):
        return
    device = next((p.device for p in model.parameters()), x.device)
    if device != x.device and not any(map(_is_offloaded, model.modules())):
        raise ScoreError(
            f"{type(model).__name__}: the network is on {device} and the state on {x.device}. Move "
            f"one of them: network.to({str(x.device)!r}), or sample(..., device={str(device)!r})."
        )


def _is_offloaded(layer: torch.nn.Module) -> bool:
    hooks = getattr(layer, "_diffusers_hook", None)
    return hasattr(layer, "_hf_hook") or bool(hooks and hooks.get_hook("group_offloading"))


def time_at(
    ratio: Callable[[Tensor], Tensor], sigma: Tensor, first: float = 0.0, last: float = 1.0
) -> Tensor:
    """The times at which a rising ratio σ_t / α_t equals σ, or the nearest end of their range.

    NaN if σ is NaN, or the ratio.

    The ratio maps times `[batch]` from `first` to `last` to σ_t / α_t `[batch]`; times have the
    widest dtype of their device. They have no gradient: where one with respect to σ is required, it
    raises a `ScoreError`.
    """
    wanted = sigma.detach().to(widest(sigma.device))
    low, high = torch.full_like(wanted, first), torch.full_like(wanted, last)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = (found := ratio(middle)) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    check_gradient(low, sigma, lambda: "The time of a noise level, found by bisection")
    return ((low + high) / 2).where(~(found.isnan() | wanted.isnan()), torch.nan)


def as_seen(alpha: Tensor, sigma_t: Tensor, sigma: Tensor) -> Tensor:
    """The factor α_t = σ_t / σ that makes a network's x_t of a state at σ.

    Above the network's largest σ it is σ_t / σ, so that the noise is as strong as the network
    expects; below the smallest it is α_t.
    """
    return torch.minimum(alpha, sigma_t / sigma)
