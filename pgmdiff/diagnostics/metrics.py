r"""Metrics of samples: distances between sets, seams, textures, curves, and their uncertainty.

Distances between sets of samples:

    energy     2 E|a - b| - E|a - a'| - E|b - b'|,     unbiased: a and a' are never the same sample
    sliced     mean over directions of W1 between projections; positive for two finite sets

Where both distributions are known to be mirrored (u is as likely as -u), every sample represents
two: E|a - b| is the mean of |a - b| and |a + b|. This is unbiased too, and free of the noise in how
many samples happen to lie on either side (Székely and Rizzo, "Energy statistics", 2013; Bonneel,
Rabin, Peyré, Pfister, "Sliced and Radon Wasserstein barycenters of measures", 2015).

Distances between sets of features `[n, d]`, or `[n, m, d]` of m crops of each of n samples (not of
states, whose channels would be taken as crops):

    Fréchet    |m_a - m_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½),     the sets taken as Gaussians
    kernel     E k(a, a') + E k(b, b') - 2 E k(a, b),   k = (x · y / d + 1)³,     unbiased
    precision  the share of a within the distance of some b from its k-th neighbour among b

(Dowson and Landau, "The Fréchet distance between multivariate normal distributions", 1982;
Bińkowski et al., "Demystifying MMD GANs", 2018; Kynkäänniemi et al., "Improved precision and recall
metric", 2019.) An *extractor* is any function of crops to features; `texture_features` requires no
download. Distances with another extractor than the standard Inception network are an "FD", not an
FID. `with_floor` gives any metric its interval, and beside it real data against real data.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from operator import index
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgmdiff.errors import PgmdiffError, ShapeError, warn
from pgmdiff.linalg import is_finite, widest
from pgmdiff.noise import Generator, torch_generator

__all__ = [
    "autocorrelation",
    "autocorrelation_distance",
    "crop_features",
    "diversity",
    "energy_distance",
    "frechet_distance",
    "kernel_distance",
    "manifold_precision",
    "manifold_recall",
    "mean_and_error",
    "multimodal_distance",
    "r_precision",
    "seam_ratio",
    "sliced_wasserstein",
    "spectrum",
    "spectrum_distance",
    "texture_features",
]

CHUNK, DIRECTIONS = 2000, 64
ROUNDED = 1e-30
"""The share of the squares of data that the variance of constants may be, by rounding."""
EQUAL = 1e-6
"""Distances that differ by less than this, in units of the features, count as equal."""


def energy_distance(a: Tensor, b: Tensor, *, mirrored: bool = False) -> float:
    """The unbiased energy distance of samples; 0 within noise for samples of one distribution.

    Negative values are noise.
    To compare two rules, compare samples of both with held-out data, over a few seeds:
    `mean_and_error([energy_distance(draw(seed), data) for seed in range(4)])`.

    Args:
        a, b: `[n, *event]` and `[m, *event]`, at least two samples each.
        mirrored: whether u is as likely as -u under both distributions, whose means are then 0;
            see the module.

    Raises:
        ShapeError: the states have different shapes, or are fewer than two.

    Example:
        >>> import torch
        >>> from pgmdiff.gaussian import Gaussian
        >>> from pgmdiff.diagnostics.metrics import energy_distance
        >>> q = Gaussian(torch.zeros(3), torch.eye(3))
        >>> abs(energy_distance(q.sample(500, 0), q.sample(500, 1))) < 0.02
        True
    """
    a, b = _states("energy_distance", a, b, about_zero=mirrored)
    across = _sum(a, b, mirrored) / (len(a) * len(b))
    return 2 * across - _within(a, mirrored) - _within(b, mirrored)


def _states(who: str, *samples: Tensor, about_zero: bool = False) -> list[Tensor]:
    """Samples as float64 `[n, N]`, less a common mean, in which differences might drown."""
    if len({x.shape[1:] for x in samples}) > 1 or min(map(len, samples)) < 2:
        shapes = " and ".join(str(tuple(x.shape)) for x in samples)
        raise ShapeError(
            f"{who}: expected at least two samples each, of one event shape, got {shapes}."
        )
    check_finite(who, "samples", *samples)
    flat = [x.reshape(len(x), -1) for x in samples]
    mean = 0 if about_zero else flat[0].double().mean(dim=0)
    return [x.double() - mean for x in flat]


def _within(x: Tensor, mirrored: bool) -> float:
    own = x.norm(dim=1).sum().item() if mirrored else 0.0  # half of |x + x|
    return (_sum(x, x, mirrored) - own) / (len(x) * (len(x) - 1))


def _sum(a: Tensor, b: Tensor, mirrored: bool) -> float:
    def total(part: Tensor) -> float:
        same = torch.cdist(part, b).sum().item()
        return (same + torch.cdist(part, -b).sum().item()) / 2 if mirrored else same

    return sum(total(part) for part in a.split(CHUNK))


def sliced_wasserstein(a: Tensor, b: Tensor, *, generator: Generator = None) -> float:
    """W1 of projections, averaged over 64 random directions.

    Args:
        a, b: equally many samples, `[n, *event]` each.
        generator: the source of the directions; see `pgmdiff.noise.Generator`. Give an integer to
            compare several pairs along the same directions.

    Raises:
        ShapeError: the states have different shapes or numbers, or are fewer than two.
    """
    a, b = _states("sliced_wasserstein", a, b)
    if len(a) != len(b):
        raise ShapeError(
            f"sliced_wasserstein: expected equally many samples, got {len(a)} and {len(b)}."
        )
    generator = torch_generator(generator, "sliced_wasserstein")
    directions = torch.randn(a.shape[1], DIRECTIONS, generator=generator, dtype=a.dtype)
    directions = (directions / directions.norm(dim=0)).to(a.device)
    gaps = (a @ directions).sort(dim=0).values - (b @ directions).sort(dim=0).values
    return float(gaps.abs().mean())


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean over seeds and its standard error, which is None for one seed.

    Args:
        values: one value per seed.
    """
    found = torch.tensor(values, dtype=torch.float64)
    error = (found.std() / len(found) ** 0.5).item() if len(found) > 1 else None
    return found.mean().item(), error


def seam_ratio(
    images: Tensor, seams: Iterable[int], *, axis: int = -1, periodic: bool = False
) -> float:
    """The average jump at seam columns divided by that at all others; above 1 if seams are visible.

    Args:
        images: states with any axes; jumps are averaged over all but one.
        seams: places on the axis that begin a new piece; 0 counts only on periodic images.
        axis: the axis that the seams cross.
        periodic: whether the last column is next to the first.

    Raises:
        ShapeError: there is no seam, nothing but seams, or a seam outside the image.
        PgmdiffError: a value is not finite, or the images are constant along the axis.

    Example:
        With its interval over images, as every metric of one set has it:

        >>> import torch
        >>> from pgmdiff.diagnostics import bootstrap, seam_ratio
        >>> lines = torch.randn(99, 16, generator=torch.Generator().manual_seed(0))
        >>> lines[:, 8:] += 3
        >>> value, low, high = bootstrap(lambda x: seam_ratio(x, [8]), lines, generator=0)
        >>> 1 < low < value < high
        True
    """
    images, seams = images.movedim(axis, -1), [*map(index, seams)]
    check_finite("seam_ratio", "images", images)
    images = images.to(widest(images.device))
    width = images.shape[-1]
    if not all(0 <= seam < width for seam in seams):
        raise ShapeError(f"seam_ratio: expected seams within 0 to {width - 1}, got {seams}.")
    steps = (images - images.roll(1, dims=-1)).abs().reshape(-1, width).mean(dim=0)
    is_seam = torch.zeros(width, dtype=torch.bool, device=images.device)
    is_seam[seams] = True
    inside = torch.ones_like(is_seam)
    inside[0] = periodic
    seam, elsewhere = steps[is_seam & inside], steps[~is_seam & inside]
    if len(seam) == 0 or len(elsewhere) == 0:
        raise ShapeError(
            f"seam_ratio: expected some seams within 1 to {width - 1} and some other columns, got "
            f"{seams}. Column 0 is a seam only with periodic=True."
        )
    if not (seam.any() or elsewhere.any()):
        raise _constant("seam_ratio", axis)
    return (seam.mean() / elsewhere.mean()).item()


def _constant(who: str, axis: int) -> PgmdiffError:
    return PgmdiffError(
        f"{who}: expected states that vary along axis {axis}, got one value everywhere on it. Look "
        "at them: they may be blank, or another axis is meant."
    )


def _centred(who: str, x: Tensor, axis: int, *, varying: bool) -> Tensor:
    """Data in float64 without its mean over samples and an axis, which becomes the last."""
    check_finite(who, "data", x)
    x = x.double().movedim(axis, -1)
    centred = x - x.mean(dim=(0, -1), keepdim=True)
    if varying and centred.square().mean() <= ROUNDED * x.square().mean():
        raise _constant(who, axis)
    return centred


def texture_features(images: Tensor, *, least: float = 4e-4) -> Tensor:
    """At most 127 fixed statistics of textures: `[n, channels, *sides]` to `[n, d]`, 63 if grey.

    Channels are transformed to at most three cosine waves over them: their sum, and contrasts. Of
    the sum the features are, at full and at half resolution, the log mean and the log root mean
    square of the absolute responses to the oriented patterns of a cosine basis of 4 places a side,
    and then mean, standard deviation and skewness; of each contrast the log root mean squares, mean
    and standard deviation. Logarithms are taken of values raised by a small share of the standard
    deviation, so that other units only shift them. Where in the image something lies is not seen.

    Args:
        images: images or series, in any units; all sides are at least 8.
        least: that share, below which responses hardly count. One level of 8 bits is about 0.02 of
            the standard deviation of a picture.

    Raises:
        ShapeError: there are more than two sides, or they are too short.
    """
    n_sides = images.ndim - 2
    if n_sides not in (1, 2) or min(images.shape[2:]) < 8:
        raise ShapeError(
            "texture_features: expected images [n, channels, height >= 8, width >= 8] or series "
            f"[n, channels, length >= 8], got {tuple(images.shape)}."
        )
    images = images.to(widest(images.device))  # small contrasts may be far from 0

    def cosines(n: int) -> Tensor:
        wave = torch.arange(n, dtype=images.dtype, device=images.device)
        return (math.pi / n * wave[:, None] * (wave + 0.5)).cos()

    convolve: Any = (F.conv1d, F.conv2d)[n_sides - 1]
    pool: Any = (F.avg_pool1d, F.avg_pool2d)[n_sides - 1]
    basis = cosines(4) if n_sides == 1 else torch.kron(cosines(4), cosines(4))
    patterns = F.normalize(basis)[1:].reshape(-1, 1, *[4] * n_sides)
    mixing = F.normalize(cosines(images.shape[1]))[:3]
    waves = torch.einsum("kc,nc...->kn...", mixing, images)[:, :, None]
    tiny, features, moments = torch.finfo(images.dtype).tiny, [], []
    for number, wave in enumerate(waves):
        flat = wave.flatten(1)
        mean, std = flat.mean(dim=1, keepdim=True), flat.std(dim=1, keepdim=True)
        moments += [mean, std]
        if number == 0:
            floor = least * std
            moments.append((((flat - mean) / std.clamp(min=tiny)) ** 3).mean(dim=1, keepdim=True))
        for scale in (wave, pool(wave, 2)):
            response = convolve(scale, patterns).abs().flatten(2)
            sizes = [response.mean(dim=2), response.square().mean(dim=2).sqrt()][number > 0 :]
            features += [(size + floor).clamp(min=tiny).log() for size in sizes]
    return torch.cat([*features, *moments], dim=1)


def crop_features(
    content: Tensor,
    shape: Sequence[int],
    m: int = 1,
    *,
    extractor: Callable[[Tensor], Tensor] = texture_features,
    generator: Generator = None,
) -> Tensor:
    """Features of m uniformly placed crops of every sample: `[n, m, d]`.

    FD+ is the Fréchet distance between such features of long content and of real content.

    Args:
        content: `[n, *event]`.
        shape: the sides of a crop on the last axes; other axes, such as channels, are kept.
        m: number of crops of each sample.
        extractor: `extractor(crops [batch, ...]) -> [batch, d]`, such as a pretrained network.
        generator: the source of the places, one stream for all; see `pgmdiff.noise.Generator`.

    Raises:
        ShapeError: a crop is larger than the content.
    """
    free = [a - b + 1 for a, b in zip(content.shape[1:][-len(shape) :], shape, strict=False)]
    if len(free) < len(shape) or min(free) < 1:
        raise ShapeError(
            f"crop_features: expected a crop no larger than {tuple(content.shape[1:])}, got "
            f"{tuple(shape)}. Cut smaller crops."
        )
    stream, n = torch_generator(generator, "crop_features"), len(content)
    starts = [torch.randint(k, (n * m,), generator=stream).tolist() for k in free]
    crops = []
    for k, start in enumerate(zip(*starts, strict=True)):
        part: Any = (k // m, ..., *(slice(a, a + b) for a, b in zip(start, shape, strict=True)))
        crops.append(content[part])
    parts = [extractor(torch.stack(crops[k : k + CHUNK])) for k in range(0, n * m, CHUNK)]
    return torch.cat(parts).reshape(n, m, -1)


def _features(who: str, *sets: Tensor) -> list[Tensor]:
    """Features as `[n, m, d]` in float64."""
    found = [(x[:, None] if x.ndim == 2 else x).double() for x in sets]
    if any(x.ndim != 3 or len(x) < 2 or x.shape[2] != found[0].shape[2] for x in found):
        raise ShapeError(
            f"{who}: expected features [n >= 2, d] and [m >= 2, d], or with an axis of crops in "
            f"the middle, got {' and '.join(str(tuple(x.shape)) for x in sets)}."
        )
    check_finite(who, "features", *found)
    return found


def check_finite(who: str, what: str, *sets: Tensor) -> None:
    """Raises `PgmdiffError` for NaN, which is below nothing and above nothing, and infinity."""
    if not all(map(is_finite, sets)):
        raise PgmdiffError(
            f"{who}: expected finite {what}, got NaN or infinity. Look at the samples."
        )


def _relative(like: Tensor, *sets: Tensor) -> list[Tensor]:
    """Features less the mean of some, and in units of their standard deviation."""
    flat = like.flatten(0, -2)
    mean, scale = flat.mean(dim=0), flat.std(dim=0) + 1e-13 * flat.abs().amax(dim=0)
    return [(x - mean) / scale.clamp(min=torch.finfo(x.dtype).tiny) for x in sets]


def frechet_distance(a: Tensor, b: Tensor, *, relative: bool = False) -> float:
    """The squared Fréchet distance of two sets of features.

    It is biased upwards for finite sets: compare it with the distance between two equally large
    sets of real features. A set with no more features than these have dimensions varies in some
    directions not at all, and a warning says so.

    Args:
        a, b: features, see the module; at least two of each.
        relative: whether each feature is in units of its standard deviation in b, the real data, as
            suits features of several units, such as `texture_features`.

    Raises:
        ShapeError: the sets have different dimensions, or fewer than two members.
        PgmdiffError: a feature is NaN or infinite.
    """
    sets = _features("frechet_distance", a, b)
    sets = _relative(sets[1], *sets) if relative else sets
    a_np, b_np = (x.flatten(0, 1).cpu().numpy() for x in sets)
    if (fewest := min(len(a_np), len(b_np))) <= a_np.shape[1]:
        warn(
            f"frechet_distance: {fewest} features of {a_np.shape[1]} dimensions vary in fewer "
            "directions than there are, and are far from any others, also of the same "
            "distribution. Give more samples, fewer dimensions, or use kernel_distance."
        )
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a_np, b_np))
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    middle = np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)
    shift = ((a_np.mean(axis=0) - b_np.mean(axis=0)) ** 2).sum()
    return float(shift + np.trace(cov_a + cov_b) - 2 * np.sqrt(middle).sum())


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """The unbiased kernel distance of features, KID's MMD²; of mean 0 for equal distributions.

    Each feature is in units of its standard deviation, and about its mean, in both sets together.
    Crops of one sample are not compared with each other.

    Args:
        a, b: features, see the module; at least two of each.
    """
    a, b = _features("kernel_distance", a, b)
    a, b = _relative(torch.cat([a.flatten(0, 1), b.flatten(0, 1)]), a, b)

    def total(x: Tensor, y: Tensor) -> float:
        """The sum of the kernel over all pairs."""
        return sum(float(((p @ y.mT / y.shape[-1] + 1) ** 3).sum()) for p in x.split(CHUNK, -2))

    def within(x: Tensor) -> float:
        n, m, _ = x.shape
        flat = x.flatten(0, 1)
        return (total(flat, flat) - total(x, x)) / (n * (n - 1) * m**2)

    one, other = a.flatten(0, 1), b.flatten(0, 1)
    return within(a) + within(b) - 2 * total(one, other) / (len(one) * len(other))


def manifold_precision(samples: Tensor, real: Tensor, *, k: int = 3) -> float:
    """The share of samples that lie among real data: within its k-th neighbour's distance of one.

    Each feature is in units of its standard deviation in both sets together.

    Args:
        samples, real: features, see the module; more real ones than k.
        k: number of the neighbour.

    Raises:
        ShapeError: there are too few features.
    """
    a, b = (x.flatten(0, 1) for x in _features("manifold_precision", samples, real))
    if not 1 <= k < len(b):
        raise ShapeError(
            f"manifold_precision: expected k from 1 to {len(b) - 1}, got {k}. Give more data."
        )
    a, b = _relative(torch.cat([a, b]), a, b)
    near = [torch.cdist(part, b).topk(k + 1, largest=False).values for part in b.split(CHUNK)]
    radii = torch.cat(near)[:, -1]
    radii = radii * (1 + EQUAL) + EQUAL
    inside = [(torch.cdist(part, b) <= radii).any(dim=1) for part in a.split(CHUNK)]
    return torch.cat(inside).double().mean().item()


def manifold_recall(samples: Tensor, real: Tensor, *, k: int = 3) -> float:
    """The share of real data that lies among samples: precision with the sets exchanged.

    Args:
        samples, real, k: as for `manifold_precision`.
    """
    return manifold_precision(real, samples, k=k)


def diversity(embeddings: Tensor) -> float:
    """The mean distance between different samples: over all pairs, where others draw some.

    Args:
        embeddings: `[n, d]`, n at least 2.
    """
    return _within(_states("diversity", embeddings)[0], mirrored=False)


def multimodal_distance(samples: Tensor, conditions: Tensor) -> float:
    """The mean distance of a sample's embedding from that of its condition.

    Args:
        samples, conditions: embeddings of both in one space, `[n, d]`, pair by pair.

    Raises:
        ShapeError: the embeddings are not pairs.
        PgmdiffError: an embedding is not finite.
    """
    if samples.ndim != 2 or samples.shape != conditions.shape:
        raise ShapeError(
            f"multimodal_distance: expected pairs of embeddings [n, d], got {tuple(samples.shape)} "
            f"and {tuple(conditions.shape)}."
        )
    check_finite("multimodal_distance", "embeddings", samples, conditions)
    return float((samples.double() - conditions.double()).norm(dim=1).mean())


def r_precision(samples: Tensor, conditions: Tensor, *, top: int = 3, pool: int = 32) -> float:
    """The chance that a sample's own condition is among the `top` nearest of a random pool.

    A pool holds the own condition and pool - 1 of the others. With q of the n - 1 others nearer
    than the own one the chance is hypergeometric, so that no pool has to be drawn; others that are
    as near, as equal conditions are, come before it or after it in any order alike. For embeddings
    that know nothing of each other it is top / pool (Guo et al., "Generating diverse and natural
    3D human motions from text", 2022).

    Args:
        samples, conditions: embeddings of both in one space, `[n, d]`, pair by pair.
        top: the rank that counts as found.
        pool: size of a pool.

    Raises:
        ShapeError: the embeddings are not pairs, or fewer than a pool.
        PgmdiffError: an embedding is not finite.
    """
    n = len(samples)
    if samples.ndim != 2 or samples.shape != conditions.shape or not 1 <= top <= pool <= n:
        raise ShapeError(
            f"r_precision: expected pairs of embeddings [n >= pool, d] and 1 <= top <= pool, got "
            f"{tuple(samples.shape)} and {tuple(conditions.shape)}, top={top} and pool={pool}."
        )
    a, b = _features("r_precision", samples, conditions)
    distances = torch.cdist(a[:, 0], b[:, 0])
    own, slack = distances.diagonal()[:, None], EQUAL * distances.max()
    nearer = (distances < own - slack).sum(dim=1).cpu().numpy()
    last = (distances <= own + slack).sum(dim=1).cpu().numpy()  # of those as near, it included
    from scipy.stats import hypergeom  # slow to import

    found = hypergeom.cdf(top - 1, n - 1, np.arange(n), pool - 1)
    sums = np.append(0.0, found.cumsum())
    return float(((sums[last] - sums[nearer]) / (last - nearer)).mean())


def autocorrelation(x: Tensor, longest: int, *, axis: int = -1) -> Tensor:
    """The autocorrelation C(k) / C(0) of stationary data at lags 0 to `longest`, float64.

    C(k) is the mean of products at distance k over samples, the axis and all other axes. The mean
    over samples and the axis is subtracted, which costs short data a little correlation.

    Args:
        x: `[n, *event]`.
        longest: the longest lag.
        axis: the axis of x along which the data is stationary.

    Raises:
        ShapeError: the lag does not fit on the axis.
        PgmdiffError: a value is not finite, or the data is constant.
    """
    x = _centred("autocorrelation", x, axis, varying=True)
    length = x.shape[-1]
    if not 0 <= longest < length:
        raise ShapeError(f"autocorrelation: expected a lag below {length}, got {longest}.")
    lags = range(longest + 1)
    found = torch.stack([(x[..., : length - k] * x[..., k:]).mean() for k in lags])
    return found / found[0]


def spectrum(x: Tensor, bands: int = 24, *, axis: int = -1) -> Tensor:
    """The mean power of stationary data in bands of frequencies of about equal ratios, float64.

        P(f) = mean of |Σ_t w_t (x_t - m) e^{-2πi f t}|² / Σ_t w_t²,       w the Hann window

    White noise has P = σ². The bands cover 1 to length / 2 periods per length.

    Args:
        x: `[n, *event]`, at least 4 long on the axis.
        bands: the most bands; there are fewer where frequencies are few.
        axis: the axis of x along which the data is stationary.

    Raises:
        ShapeError: the data is shorter.
        PgmdiffError: a value is not finite.
    """
    return _power(_centred("spectrum", x, axis, varying=False), bands, axis)


def _power(x: Tensor, bands: int, axis: int) -> Tensor:
    """The spectrum of centred data, whose axis is the last now."""
    length = x.shape[-1]
    if length < 4:
        raise ShapeError(
            f"spectrum: expected data at least 4 long on axis {axis}, got {length}. Give the axis "
            "along which it is stationary."
        )
    window = torch.hann_window(length, periodic=False, dtype=x.dtype, device=x.device)
    power = torch.fft.rfft(x * window).abs() ** 2 / (window**2).sum()
    mean = power.reshape(-1, power.shape[-1]).mean(dim=0)
    edges = torch.logspace(0, math.log10(length // 2 + 1), bands + 1).round().int().unique()
    return torch.stack([mean[a:b].mean() for a, b in pairwise(edges.tolist())])


def autocorrelation_distance(a: Tensor, b: Tensor, longest: int, *, axis: int = -1) -> float:
    """The root mean square difference of autocorrelations at lags 1 to `longest`.

    Args:
        a, b: `[n, *event]` and `[m, *event]`, of any lengths.
        longest, axis: as for `autocorrelation`; at least lag 1.

    Raises:
        ShapeError: the lag is 0, or does not fit on an axis.
        PgmdiffError: a value is not finite, or the data is constant.
    """
    if longest < 1:
        raise ShapeError(
            f"autocorrelation_distance: expected a longest lag of at least 1, got {longest}. At "
            "lag 0 all autocorrelations are 1."
        )
    found, expected = (autocorrelation(x, longest, axis=axis)[1:] for x in (a, b))
    return (found - expected).square().mean().sqrt().item()


def spectrum_distance(a: Tensor, b: Tensor, bands: int = 24, *, axis: int = -1) -> float:
    """The root mean square difference of spectra, in decibels.

    Args:
        a, b: `[n, *event]` and `[m, *event]`, of one length along the axis.
        bands, axis: as for `spectrum`.

    Raises:
        ShapeError: the lengths differ, or are below 4.
        PgmdiffError: a value is not finite, or the data is constant.
    """
    if a.shape[axis] != b.shape[axis]:
        raise ShapeError(
            f"spectrum_distance: expected data of one length on axis {axis}, got {a.shape[axis]} "
            f"and {b.shape[axis]}. Cut the longer into pieces."
        )
    each = (_centred("spectrum_distance", x, axis, varying=True) for x in (a, b))
    one, other = (_power(x, bands, axis) for x in each)
    return (10 * (one / other).log10()).square().mean().sqrt().item()
