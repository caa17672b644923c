r"""Statistics of stationary data along the last axis, and unbiased distances between them.

    autocovariance    C(k) = mean of x_t x_{t+k} over samples, rows and all t; the mean is 0
    spectrum          mean of |Σ_t w_t x_t e^{-2πi f t}|² / Σ w² in bands, w the Hann window
    energy distance   2 E|a - b| - E|a - a'| - E|b - b'|, as a U-statistic

A curve of statistics a_s is given for every seed s, and the held-out data's for two halves, b_1 and
b_2. Products of independent differences estimate the mean square distance between their
expectations without bias, so that finite samples add nothing to it:

    d² = mean over s ≠ s' and k of  (a_s - b_1)(a_s' - b_2)

The estimate can be negative where the truth is near 0. Its standard error is a jackknife over the
seeds.
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
]


class Estimate(NamedTuple):
    """A mean, and its standard error over seeds, or None where these are too few."""

    mean: float
    error: float | None


def autocovariance(x: Tensor, lags: Sequence[int]) -> Tensor:
    """The autocovariance of data `[n, ..., length]` of mean 0 on its last axis: `[lags]`."""
    x = x.double()
    length = x.shape[-1]
    return torch.stack([(x[..., : length - k] * x[..., k:]).mean() for k in lags])


def bands(length: int, n: int) -> list[tuple[int, int]]:
    """At most `n` bands of equal ratios over the frequencies 1 to length / 2, in 1 / length."""
    edges = torch.logspace(0, math.log10(length // 2 + 1), n + 1).round().int().unique()
    return list(pairwise(edges.tolist()))


def spectrum(x: Tensor, which: Sequence[tuple[int, int]]) -> Tensor:
    """The mean power of data `[n, ..., length]` in bands of frequencies: float64 `[bands]`."""
    window = torch.hann_window(x.shape[-1], periodic=False, dtype=torch.float64)
    power = torch.fft.rfft(x.double() * window).abs() ** 2 / (window**2).sum()
    mean = power.reshape(-1, power.shape[-1]).mean(dim=0)
    return torch.stack([mean[a:b].mean() for a, b in which])


def crops_energy_distance(a: Tensor, b: Tensor) -> float:
    """The energy distance of crops `[n, m, d]` and `[n', m, d]`, m from each independent state.

    Within each set only crops of different states are compared.
    """
    return 2 * _mean_distance(a, b) - sum(_mean_distance(x, None) for x in (a, b))


def _mean_distance(a: Tensor, b: Tensor | None) -> float:
    """The mean distance between crops of two sets, or of different states of one set."""
    flat = a.flatten(0, 1).double()
    if b is not None:
        return torch.cdist(flat, b.flatten(0, 1).double()).mean().item()
    total = torch.cdist(flat, flat).sum() - torch.cdist(a.double(), a.double()).sum()
    n, m = a.shape[:2]
    return (total / (n * (n - 1) * m**2)).item()


def square_distance(seeds: Tensor, halves: Tensor, than: Tensor | None = None) -> Estimate:
    """The module's d², of curves `[seeds, k]` and the halves' `[2, k]`.

    With the curves `than` of another method, by how much d² exceeds that method's.
    """
    products = _products(seeds, halves) - (0 if than is None else _products(than, halves))
    n = len(seeds)
    if n == 1:  # the only estimate from one seed, which is biased
        return Estimate(products.item(), None)
    total = products.sum() - products.trace()
    mean = total / (n * (n - 1))
    if n < 3:
        return Estimate(mean.item(), None)
    # the estimates without each seed, whose row and column are left out
    rows = products.sum(dim=1) - products.diagonal()
    others = (total - 2 * rows) / ((n - 1) * (n - 2))
    error = ((n - 1) / n * ((others - others.mean()) ** 2).sum()).sqrt()
    return Estimate(mean.item(), error.item())


def _products(seeds: Tensor, halves: Tensor) -> Tensor:
    """The products of the differences of seeds s and s', `[seeds, seeds]`."""
    gaps = seeds[None] - halves[:, None]
    products = (gaps[0] @ gaps[1].T) / seeds.shape[1]
    return (products + products.T) / 2
