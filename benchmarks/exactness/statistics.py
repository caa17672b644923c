r"""Statistics of stationary data along its last axis, and unbiased distances between them.

    autocovariance    C(k) = mean of x_t x_{t+k} over samples, rows and all t; the mean is 0
    spectrum          mean of |Σ_t w_t x_t e^{-2πi f t}|² / Σ w² in bands, w the Hann window
    energy distance   2 E|a - b| - E|a - a'| - E|b - b'|, as a U-statistic

A curve of statistics a_s is had for every seed s, and that of the held-out data for two halves, b_1
and b_2. The mean square distance between their expectations is estimated without bias, so that
finite samples count for nothing, by products of independent differences:

    d² = mean over s ≠ s' and k of  (a_s - b_1)(a_s' - b_2)

It can be negative where the truth is near 0. Its standard error is a jackknife over the seeds.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Estimate",
    "autocovariance",
    "bands",
    "crops_energy_distance",
    "spectrum",
    "square_distance",
    "stationary_covariance",
]


class Estimate(NamedTuple):
    """A mean, and its standard error over seeds; None where they are too few to tell."""

    mean: float
    error: float | None


def autocovariance(x: Tensor, lags: Sequence[int]) -> Tensor:
    """Of data of mean 0, `[n, ..., length]`, along its last axis: float64 `[lags]`."""
    x = x.double()
    length = x.shape[-1]
    return torch.stack([(x[..., : length - k] * x[..., k:]).mean() for k in lags])


def bands(length: int, n: int) -> list[tuple[int, int]]:
    """At most `n` bands of frequencies 1 ... length / 2 (in 1 / length), of equal ratios."""
    edges = torch.logspace(0, math.log10(length // 2 + 1), n + 1).round().int().unique()
    return list(pairwise(edges.tolist()))


def spectrum(x: Tensor, which: Sequence[tuple[int, int]]) -> Tensor:
    """Mean power of data `[n, ..., length]` in bands of frequencies: float64 `[bands]`."""
    window = torch.hann_window(x.shape[-1], periodic=False, dtype=torch.float64)
    power = torch.fft.rfft(x.double() * window).abs() ** 2 / (window**2).sum()
    mean = power.reshape(-1, power.shape[-1]).mean(dim=0)
    return torch.stack([mean[a:b].mean() for a, b in which])


def crops_energy_distance(a: Tensor, b: Tensor) -> float:
    """Between crops `[n, m, d]` and `[n', m, d]`, m from every one of n independent states.

    Only crops of different states are compared with each other.
    """
    return 2 * _mean_distance(a, b) - sum(_mean_distance(x, None) for x in (a, b))


def _mean_distance(a: Tensor, b: Tensor | None) -> float:
    """Between crops of two sets, or of different states of one."""
    flat = a.flatten(0, 1).double()
    if b is not None:
        return torch.cdist(flat, b.flatten(0, 1).double()).mean().item()
    total = torch.cdist(flat, flat).sum() - torch.cdist(a.double(), a.double()).sum()
    n, m = a.shape[:2]
    return (total / (n * (n - 1) * m**2)).item()


def square_distance(seeds: Tensor, halves: Tensor) -> Estimate:
    """d² of the module: `[seeds, k]` against `[2, k]`."""
    gaps = seeds[None] - halves[:, None]
    products = (gaps[0] @ gaps[1].T) / seeds.shape[1]
    products = (products + products.T) / 2
    n = len(seeds)
    if n == 1:  # all that one seed can say; not without bias
        return Estimate(products.item(), None)
    total = products.sum() - products.trace()
    mean = total / (n * (n - 1))
    if n < 3:
        return Estimate(mean.item(), None)
    # without a seed: its row and its column are left out
    rows = products.sum(dim=1) - products.diagonal()
    others = (total - 2 * rows) / ((n - 1) * (n - 2))
    error = ((n - 1) / n * ((others - others.mean()) ** 2).sum()).sqrt()
    return Estimate(mean.item(), error.item())


def stationary_covariance(pieces: Tensor, shape: Sequence[int]) -> Tensor:
    r"""The covariance of any crop, from one estimate of the autocovariance: float64 `[d, d]`.

        C(k) = Σ_t x_t x_{t+k} / n      over all n values of the pieces, k an offset

    No mean is subtracted: the data's is 0. As every product is divided by the same n, C is
    positive definite, and the covariances of crops of two sizes are blocks of one.

    Args:
        pieces: `[pieces, 1, *axes]`, contiguous records.
        shape: of a crop, on those axes.
    """
    axes = tuple(range(2, pieces.ndim))
    padded = [size + crop for size, crop in zip(pieces.shape[2:], shape, strict=True)]
    power = torch.fft.fftn(pieces.double(), s=padded, dim=axes).abs() ** 2
    products = torch.fft.ifftn(power.sum(dim=(0, 1)), dim=tuple(range(len(axes)))).real
    places = torch.cartesian_prod(*[torch.arange(n) for n in shape]).reshape(-1, len(axes))
    offsets = places[:, None] - places
    covariance: Tensor = products[tuple(offsets.unbind(-1))] / math.prod(pieces.shape)
    return covariance
