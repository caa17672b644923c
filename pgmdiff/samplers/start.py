"""The start of a run, N(m, σ²), and whether its noise hides the data.

Noised data, q * N(0, σ²), have a mean of their own and the covariance Σ + σ². From a start whose
mean is off by m the ODE's samples are off by √G m, with G = Σ / (Σ + σ²), and their covariance is
Σ (1 - G), for Gaussian data. The first denoised values, m + G (x - m), tell m and G.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf

import torch
from torch import Tensor

from pgmdiff.errors import PgmdiffError, ShapeError, warn
from pgmdiff.linalg import is_finite, rows, tensor_of, widened
from pgmdiff.text import counted

__all__ = ["check_drawn", "check_hidden", "check_settled", "check_size", "eta_of", "mean_of"]

MISSED = 0.15
"""Standard deviations by which samples may miss their mean without a warning."""
POINT = 1e-4
"""Share of the variance below which the last denoised values count as one point: where data vary by
less than a hundredth of the noise, errors of a network would be taken for them."""
LARGE = 10.0
"""Root mean square of a sample, over the largest σ, from which it has exploded: that noise hides
only data that are smaller."""


def check_drawn(who: str, mean: object, shape: Sequence[int] | None) -> None:
    """Raises `ShapeError` for a mean of a start that is given rather than drawn."""
    if shape is None and not (isinstance(mean, int | float) and mean == 0):
        raise ShapeError(f"{who}: mean= centres the start that shape= draws. Add it to x instead.")


def mean_of(
    who: str,
    mean: object,
    shape: Sequence[int],
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """The mean of every element of a state of some shape.

    Raises:
        ShapeError: its shape does not expand to that of a state.
        PgmdiffError: it is not finite.
    """
    given = tensor_of(who, "mean", mean).to(torch.empty(0, dtype=dtype, device=device))
    if not is_finite(given):
        raise PgmdiffError(f"{who}: expected a finite mean=, got numbers that are not.")
    try:
        return given.expand(*shape)
    except RuntimeError:
        raise ShapeError(
            f"{who}: expected mean= as one number, or of a shape that expands to {list(shape)}, "
            f"got {list(given.shape)}. Give the mean of the data, with the axes of a state."
        ) from None


def eta_of(solver: object, levels: Sequence[float]) -> float:
    """The strength η of a solver's noise; ∞ where a corrector or a rise forgets the start, too."""
    if hasattr(solver, "corrector") or any(a < b for a, b in pairwise(levels)):
        return inf
    eta: float = getattr(solver, "eta", 0.0)
    return eta


def check_hidden(who: str, denoised: Tensor, noise: Tensor, sigma: float, eta: float) -> None:
    """Warns where a start from N(0, σ²) does not hide the data, as four samples tell it.

    With D = m + G (noise - m) of data of mean m, the ODE misses √G m: √(1 - G) / σ times the
    largest element of m, in standard deviations of an element, if elements vary alone, and times
    ‖m‖ if they vary together along m, as the pixels of a picture; the share of G along m tells
    which. What noise of strength η leaves of it is a factor G^(η² / 2).
    """
    if len(denoised) < 4 or not denoised.numel() or eta == inf:
        return
    d, noise = rows(denoised), rows(noise)
    mean, error = d.mean(dim=0), d.var(dim=0) / len(d)
    sure = 3 * widened(len(d))  # standard errors
    size = (mean**2 - sure**2 * error).sum().clamp(min=0).sqrt()
    error = error.clamp(min=error.median())  # of many elements, some seem certain by chance
    largest = (mean**2 - sure**2 * error).max().clamp(min=0).sqrt()
    d, noise, along = d - mean, noise - noise.mean(dim=0), mean / mean.norm()
    gain, mean_gain = _slope(noise @ along, d @ along).clamp(0, 0.999), _slope(noise, d)
    share = (gain / mean_gain / d.shape[1]).clamp(1 / d.shape[1], 1)
    reach = torch.maximum(size * share.sqrt(), largest)
    deviations = reach / (1 - gain).sqrt() * gain ** (eta**2 / 2) / sigma
    if mean_gain.abs() < 10 * torch.finfo(d.dtype).eps:
        return  # data of a single point miss nothing
    _check_spread(who, d, noise, sigma, eta, sure)
    if (missed := deviations.item()) > MISSED:
        warn(
            f"{who}: the start of deviation {sigma:.3g} does not hide the data: the mean of the "
            f"first denoised values is up to {mean.abs().max():.3g} from the start's, so that "
            f"samples will miss their mean by about {missed:.2g} standard deviations. Give mean=, "
            "that of the data (under a condition, the mean given it), or begin at a larger "
            "sigmas[0]. If neither helps, the score is not that of noised data: it may be that of "
            "clean data, or the rule may not suit the graph (Marginal on a star)."
        )


def check_settled(who: str, denoised: Tensor, x: Tensor, sigma: float) -> None:
    """Warns where the last denoised values, which samples are, leave out much of the data's spread.

    Σ = Cov(D) + E Cov(x_0 | x) for any data, and Cov(x, D) = Σ: so tr Cov(D) / tr Cov(x, D) is the
    share of the variance that samples have, as four of them tell it.
    """
    if len(x) < 4 or not x.numel():
        return
    d, noised = (rows(each) - each.mean(dim=0).flatten() for each in (denoised, x))
    kept, whole = d.square().sum(dim=1), (d * noised).sum(dim=1)
    beyond = (1 - MISSED) ** 2 * whole - kept
    sure = 3 * widened(len(x))  # standard errors
    share = (kept.sum() / whole.sum()).item()
    if share > POINT and beyond.mean() > sure * beyond.std() / len(x) ** 0.5:
        warn(
            f"{who}: the last level above 0, σ = {sigma:.3g}, is not small beside the data, or "
            "what observations leave open of them: samples vary by about "
            f"{1 - share**0.5:.0%} too little. Let the schedule reach about "
            f"{0.1 * sigma * (share / (1 - share)) ** 0.5:.1g} before 0. Levels are deviations of "
            "noise in units of the data, not timesteps."
        )


def check_size(who: str, x: Tensor, sigma: float) -> None:
    """Warns of samples, about their mean, that are far larger than the noise they began from."""
    if not x.numel():
        return
    x = x - (x.mean(dim=0) if len(x) > 1 else x.mean())  # a missed mean has a warning of its own
    sizes = rows(x).square().mean(dim=1).sqrt()
    larger = int((sizes > LARGE * sigma).sum())
    if larger:
        warn(
            f"{who}: {larger} of {counted(len(x), 'sample')} exploded: up to "
            f"{sizes.max() / sigma:.2g} times as large as the noise that they began from, σ = "
            f"{sigma:g}. Try one piece alone: its network may predict something else than its "
            "adapter says, or be poor at large σ."
        )


def _check_spread(
    who: str, d: Tensor, noise: Tensor, sigma: float, eta: float, sure: float
) -> None:
    """Warns where a start from N(0, σ²), in place of N(0, Σ + σ²), makes samples too narrow.

    The ODE's have the covariance Σ (1 - G), and with noise of strength η the share G^(1 + η²) of Σ
    is lost. Of G we look at the diagonal and, where elements vary together, at its part along the
    denoised values of other samples, tr G³ / tr G² on average, to which large eigenvalues
    contribute most. Gains of 1 or more are those of modes that are apart already.
    """
    squares = noise.square().sum(dim=0)
    gains = (noise * d).sum(dim=0) / squares
    error = ((d - gains * noise).square().sum(dim=0) / (len(d) - 2) / squares).sqrt()
    error = sure * error.clamp(min=error.median())
    first = (gains - error).argmax()
    others = ~torch.eye(min(len(d), 64), dtype=torch.bool, device=d.device)
    entered, left = ((each[:64] @ d[:64].mT)[others] for each in (noise, d))
    gain = _slope(entered, left)
    spread = (left - gain * entered).square().mean() / entered.square().sum()
    for found, unsure in ((gains[first], error[first]), (gain, 3 * spread.sqrt())):
        least, lost = (
            1 - (1 - x.clamp(0, 1) ** (1 + eta**2)).sqrt().item() for x in (found - unsure, found)
        )
        if least > MISSED and found < 1:
            warn(
                f"{who}: the start of deviation {sigma:.3g} does not hide the data's spread: in "
                f"some directions samples will vary by about {lost:.0%} too little, if they are "
                "about normal there. Begin at a larger sigmas[0]; more noise, SDE(eta=1.0), helps, "
                "too. If neither does, the score is not that of noised data."
            )
            return


def _slope(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum() / x.square().sum()
