r"""Distances of samples, and the figures of many seeds.

    energy     2 E|a - b| - E|a - a'| - E|b - b'|,     unbiased: a and a' are never one sample
    sliced     mean over directions of W1 between projections; above 0 for two sets of one law

Where both laws are known to be mirrored (u as likely as -u), every sample stands for two: E|a - b|
is the mean of |a - b| and |a + b|. That is unbiased too, and rid of the noise of how many samples
happen to lie on either side (Székely and Rizzo, "Energy statistics", 2013; Bonneel, Rabin, Peyré,
Pfister, "Sliced and Radon Wasserstein barycenters of measures", 2015).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["energy_distance", "mean_and_error", "sliced_wasserstein"]

CHUNK, DIRECTIONS = 2000, 64


def energy_distance(a: Tensor, b: Tensor, *, mirrored: bool = False) -> float:
    """The unbiased energy distance of samples `[n, N]` and `[m, N]`; negative values are noise."""
    across = _sum(a, b, mirrored) / (len(a) * len(b))
    return 2 * across - _within(a, mirrored) - _within(b, mirrored)


def _within(x: Tensor, mirrored: bool) -> float:
    own = x.norm(dim=1).sum().item() if mirrored else 0.0  # half of |x + x|
    return (_sum(x, x, mirrored) - own) / (len(x) * (len(x) - 1))


def _sum(a: Tensor, b: Tensor, mirrored: bool) -> float:
    def total(part: Tensor) -> float:
        same = torch.cdist(part, b).sum().item()
        return (same + torch.cdist(part, -b).sum().item()) / 2 if mirrored else same

    return sum(total(part) for part in a.split(CHUNK))


def sliced_wasserstein(a: Tensor, b: Tensor) -> float:
    """W1 of projections of as many samples, `[n, N]` each, over 64 fixed directions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(a.shape[1], DIRECTIONS, generator=generator, dtype=a.dtype)
    directions = directions / directions.norm(dim=0)
    gaps = (a @ directions).sort(dim=0).values - (b @ directions).sort(dim=0).values
    return float(gaps.abs().mean())


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean over seeds, and its standard error; None for one seed."""
    found = torch.tensor(values, dtype=torch.float64)
    error = (found.std() / len(found) ** 0.5).item() if len(found) > 1 else None
    return found.mean().item(), error
