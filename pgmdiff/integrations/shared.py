r"""What adapters share: missing libraries, dtypes of networks, and times of noise levels.

A process x_t = α_t x_0 + σ_t ε is variance exploding at σ = σ_t / α_t on x_t / α_t. The time of a σ
is found by bisection, as σ_t / α_t rises with t: exact to rounding, whatever the schedule.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pgmdiff import errors as extras
from pgmdiff.errors import ScoreError

__all__ = ["as_seen", "check_device", "network_dtype", "required", "time_at"]

BISECTIONS = 60
"""Halvings of the interval of times: beyond the precision of float64."""


def required(module: str) -> Any:
    """Imports a module of an optional library that has an extra of its own name.

    Raises:
        ImportError: the library is not installed; names the extra that brings it.
    """
    return extras.required(module, "pgmdiff.integrations", module.split(".")[0])


def network_dtype(model: Any, default: torch.dtype) -> torch.dtype:
    """The dtype a network computes in: its own `dtype`, or that of its first parameter."""
    own = getattr(model, "dtype", None)
    if isinstance(own, torch.dtype):
        return own
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
    return next((p.dtype for p in parameters if p.is_floating_point()), default)


def check_device(model: Any, x: Tensor) -> None:
    """Raises a `ScoreError` where a network is on another device than its input: nothing moves.

    Networks that accelerate moves, to offload them, are left to it.
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
    """The times at which a rising ratio σ_t / α_t is σ: `[batch]`, float64.

    Outside the range, its nearest end.

    Args:
        ratio: times `[batch]` to σ_t / α_t `[batch]`.
        sigma: `[batch]`.
        first, last: the range of times.
    """
    wanted = sigma.detach().double()
    low, high = torch.full_like(wanted, first), torch.full_like(wanted, last)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = ratio(middle) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def as_seen(alpha: Tensor, sigma_t: Tensor, sigma: Tensor) -> Tensor:
    """What multiplies a state at σ to make the x_t of a network: α_t = σ_t / σ.

    Beyond the network's largest σ that is σ_t / σ, so that its noise is as strong as the network
    expects; below the smallest it is α_t.
    """
    return torch.minimum(alpha, sigma_t / sigma)
