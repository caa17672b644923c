r"""Dtypes and devices of networks, and times of noise levels, which the adapters share.

A process x_t = α_t x_0 + σ_t ε is variance exploding at σ = σ_t / α_t on x_t / α_t. As σ_t / α_t
rises with t, bisection finds the time of a σ to rounding, for any schedule.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pgmdiff.errors import ScoreError
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.scores.walls import named, received

__all__ = ["as_seen", "check_device", "in_own_dtype", "network_dtype", "time_at"]

BISECTIONS = 60
"""How often the interval of times is halved: beyond the precision of float64."""


def network_dtype(model: Any, default: torch.dtype) -> torch.dtype:
    """The dtype in which a network computes: its own `dtype`, or that of its first parameter."""
    own = getattr(model, "dtype", None)
    if isinstance(own, torch.dtype):
        return own
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
    return next((p.dtype for p in parameters if p.is_floating_point()), default)


def in_own_dtype(model: Callable[..., Any], x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
    """What a network returns for x and σ in its own dtype, like x and in the dtype of x."""
    check_device(model, x)
    dtype, like = network_dtype(model, x.dtype), x.detach()  # whatever is done to x
    value = model(x.to(dtype), sigma.to(dtype), **condition)
    return received(value, like, named(model), cast=True)


def check_device(model: Any, x: Tensor) -> None:
    """A `ScoreError` if a network is on another device than its input; nothing is moved.

    Networks that the library accelerate offloads are not checked, because it moves them itself.
    """
    if not isinstance(model, torch.nn.Module) or hasattr(model, "_hf_hook"):
        return
    parameters = model.parameters()
    device = next((p.device for p in parameters), x.device)
    if device != x.device:
        raise ScoreError(
            f"{type(model).__name__}: the network is on {device} and the state on {x.device}. Move "
            f"one of them: network.to({str(x.device)!r}), or sample(..., device={str(device)!r})."
        )


def time_at(
    ratio: Callable[[Tensor], Tensor], sigma: Tensor, first: float = 0.0, last: float = 1.0
) -> Tensor:
    """The times at which a rising ratio σ_t / α_t equals σ, or the nearest end of their range.

    NaN if σ is NaN, or the ratio.

    The ratio maps times `[batch]` from `first` to `last` to σ_t / α_t `[batch]`; times are float64.
    They have no gradient: where one with respect to σ is required, it raises a `ScoreError`.
    """
    wanted = sigma.detach().double()
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
