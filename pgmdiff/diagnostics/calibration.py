r"""Calibration of posterior samples: m draws for each of n data sets whose truth is known.

    CRPS      E|u - u*| - ½ E|u - u'|,     smallest in expectation for the true posterior
    coverage  the share of truths between the draws' quantiles
    ranks     the number of draws below the truth: uniform on 0, ..., m for the true posterior

(Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation", 2007; Talts et
al., "Validating Bayesian inference algorithms with simulation-based calibration", 2018.) All three
are exact for finite m. `bootstrap(crps, draws, truth, paired=True)` gives an interval.
"""

import math

import torch
from torch import Tensor

from pgmdiff.diagnostics.metrics import check_finite
from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.noise import Generator, torch_generator

__all__ = ["crps", "interval_coverage", "rank_statistics"]


def crps(draws: Tensor, truth: Tensor) -> float:
    """The continuous ranked probability score, averaged over elements and data sets.

    It is unbiased in the number of draws: no draw is compared with itself.

    Args:
        draws: `[n, m, *event]`, m at least 2.
        truth: `[n, *event]`.

    Raises:
        ShapeError: the shapes do not fit.
        PgmdiffError: a value is not finite.
    """
    draws, truth = _checked("crps", draws, truth)
    m = draws.shape[1]
    weights = (2 * torch.arange(1, m + 1) - m - 1).to(draws).reshape(-1, *[1] * (draws.ndim - 2))
    apart = (weights * draws.sort(dim=1).values).sum(dim=1) / (m * (m - 1))  # ½ E|u - u'|
    return ((draws - truth[:, None]).abs().mean(dim=1) - apart).mean().item()


def interval_coverage(draws: Tensor, truth: Tensor, level: float = 0.9) -> float:
    """The share of truths within the central interval of the draws; `level` if calibrated.

    The interval lies between the k-th smallest and the k-th largest of the draws, which has the
    probability 1 - 2k / (m + 1) under the true posterior: only such levels are accepted, also
    rounded to three digits. A truth that equals draws, as counts do, has each rank among them with
    the same chance.

    Args:
        draws: `[n, m, *event]`.
        truth: `[n, *event]`.
        level: the probability of the interval, such as 0.9 with 19, 39, 59, ... draws.

    Raises:
        ShapeError: the shapes do not fit.
        PgmdiffError: there is no such interval between m draws, or a value is not finite.
    """
    draws, truth = _checked("interval_coverage", draws, truth)
    m = draws.shape[1]
    k = round((1 - level) * (m + 1) / 2)
    if f"{1 - 2 * k / (m + 1):.3g}" != f"{level:.3g}" or not 1 <= k <= m // 2:
        possible = [f"{1 - 2 * k / (m + 1):.3g}" for k in range(m // 2, 0, -1)]
        raise PgmdiffError(
            f"interval_coverage: no interval between {m} draws has level {level}. Possible levels "
            f"are {', '.join(possible[-5:])}; or make 2 k / (1 - level) - 1 draws."
        )
    below, tied = _ranks(draws, truth)
    inside = (below + tied).clamp(max=m - k) - below.clamp(min=k) + 1
    return (inside.clamp(min=0) / (tied + 1.0)).mean().item()


def rank_statistics(
    draws: Tensor, truth: Tensor, *, bins: int = 10, generator: Generator = None
) -> tuple[Tensor, float]:
    """The ranks of truths among draws, int64 `[n]`, and the p-value of their uniformity.

    A small p-value says that the draws are not from the posterior. Give one statistic per data set,
    such as a mean or a roughness: elements of one data set depend on each other. A truth that
    equals draws, as counts do, gets one of their ranks at random.

    Args:
        draws: a statistic of every draw, `[n, m]`.
        truth: that of every truth, `[n]`.
        bins: the most bins of the χ² test; neighbouring ranks are pooled, so that each bin expects
            at least five data sets, or there are two bins.
        generator: the source of ranks among equal draws; see `pgmdiff.noise.Generator`.

    Raises:
        ShapeError: the shapes do not fit, or there are fewer than ten data sets.
        PgmdiffError: a value is not finite.
    """
    draws, truth = _checked("rank_statistics", draws, truth)
    n, m = draws.shape[:2]
    if truth.ndim != 1 or n < 10 or bins < 2:
        raise ShapeError(
            f"rank_statistics: expected draws [n, m] and truths [n] of at least 10 data sets and 2 "
            f"bins, got {tuple(draws.shape)} and {tuple(truth.shape)}. Reduce each to one number."
        )
    ranks, tied = _ranks(draws, truth)
    if tied.any():
        stream = torch_generator(generator, "rank_statistics")
        chance = torch.rand(n, generator=stream, dtype=torch.float64).to(truth.device)
        ranks = ranks + (chance * (tied + 1)).long()
    n_bins = min(bins, max(2, (m + 1) // math.ceil(5 * (m + 1) / n)))
    bin_of = torch.arange(m + 1) * n_bins // (m + 1)
    counts = torch.bincount(bin_of[ranks.cpu()], minlength=n_bins).numpy()
    expected = torch.bincount(bin_of).double().numpy() * n / (m + 1)
    from scipy.stats import chisquare  # takes a third of a second to import

    return ranks, float(chisquare(counts, expected).pvalue)


def _ranks(draws: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """How many draws are below each truth, and how many are equal to it."""
    truth = truth[:, None]
    return (draws < truth).sum(dim=1), (draws == truth).sum(dim=1)


def _checked(who: str, draws: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    if draws.ndim < 2 or draws.shape[:1] + draws.shape[2:] != truth.shape or draws.shape[1] < 2:
        raise ShapeError(
            f"{who}: expected draws [n, m >= 2, *event] and truths [n, *event], got "
            f"{tuple(draws.shape)} and {tuple(truth.shape)}."
        )
    check_finite(who, "draws and truths", draws, truth)
    return draws.double(), truth.double()
