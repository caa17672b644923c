r"""Metrics of samples: distances between distributions, seams, and texture statistics.

Distances between sets of samples:

    energy     2 E|a - b| - E|a - a'| - E|b - b'|,     unbiased: a and a' are never the same sample
    sliced     mean over directions of W1 between projections; positive for two finite sets

Where both distributions are known to be mirrored (u is as likely as -u), every sample represents
two: E|a - b| is the mean of |a - b| and |a + b|. This is unbiased too, and free of the noise in how
many samples happen to lie on either side (Székely and Rizzo, "Energy statistics", 2013; Bonneel,
Rabin, Peyré, Pfister, "Sliced and Radon Wasserstein barycenters of measures", 2015).

The Fréchet distance between two sets of feature vectors, taken as Gaussians, is

    d² = |m_a - m_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½)

(Dowson and Landau, "The Fréchet distance between multivariate normal distributions", 1982). With
the features below it is an "FD", not an FID.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.linalg import is_finite
from pgmdiff.noise import Generator, torch_generator

__all__ = [
    "energy_distance",
    "frechet_distance",
    "mean_and_error",
    "seam_ratio",
    "sliced_wasserstein",
    "texture_features",
]

CHUNK, DIRECTIONS = 2000, 64


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
    """Samples as `[n, N]`, less a common mean, in which differences might drown."""
    if len({x.shape[1:] for x in samples}) > 1 or min(map(len, samples)) < 2:
        shapes = " and ".join(str(tuple(x.shape)) for x in samples)
        raise ShapeError(
            f"{who}: expected at least two samples each, of one event shape, got {shapes}."
        )
    flat = [x.reshape(len(x), -1) for x in samples]
    mean = 0 if about_zero else flat[0].double().mean(dim=0)
    return [(x - mean).to(x.dtype) for x in flat]


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
    directions = directions / directions.norm(dim=0)
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


def seam_ratio(images: Tensor, seams: Iterable[int], *, periodic: bool = False) -> float:
    """The average jump at seam columns divided by that at all others; above 1 if seams are visible.

    Args:
        images: `[..., width]`.
        seams: columns that begin a new piece; column 0 counts only on periodic images.
        periodic: whether the last column is next to the first.

    Raises:
        ShapeError: there is no seam, nothing but seams, or a seam outside the image.
    """
    width, seams = images.shape[-1], list(seams)
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
    return (seam.mean() / elsewhere.mean()).item()


def texture_features(images: Tensor) -> Tensor:
    """Statistics of a grey texture: `[n, 1, height, width]` to `[n, 63]`.

    The features are, at full and at half resolution, the log mean and the log root mean square of
    the absolute responses to the 15 oriented patterns of a 4 × 4 cosine basis; then mean, standard
    deviation and skewness of the grey values. Logarithms are taken of values raised by 4e-4 of the
    image's standard deviation, so that other units only shift them.

    Args:
        images: `[n, 1, height, width]`, in any units; both sides are at least 8.

    Raises:
        ShapeError: the images are not grey, or smaller than 8 × 8 pixels.
    """
    if images.ndim != 4 or images.shape[1] != 1 or min(images.shape[-2:]) < 8:
        raise ShapeError(
            "texture_features: expected grey images [n, 1, height >= 8, width >= 8], got "
            f"{tuple(images.shape)}."
        )
    wave = torch.arange(4, dtype=images.dtype, device=images.device)
    rows = (math.pi / 4 * wave[:, None] * (wave + 0.5)).cos()
    patterns = torch.einsum("ai,bj->abij", rows, rows).reshape(16, 1, 4, 4)[1:]
    patterns = patterns / patterns.flatten(1).norm(dim=1)[:, None, None, None]
    grey = images.flatten(1)
    mean, std = grey.mean(dim=1, keepdim=True), grey.std(dim=1, keepdim=True)
    tiny, features = torch.finfo(images.dtype).tiny, []
    for scale in (images, F.avg_pool2d(images, 2)):
        response = F.conv2d(scale, patterns).abs().flatten(2)
        sizes = response.mean(dim=2), response.square().mean(dim=2).sqrt()
        features += [(size + 4e-4 * std).clamp(min=tiny).log() for size in sizes]
    skewness = (((grey - mean) / std.clamp(min=tiny)) ** 3).mean(dim=1, keepdim=True)
    return torch.cat([*features, mean, std, skewness], dim=1)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The squared Fréchet distance d² of two sets of features, `[n, d]` and `[m, d]`.

    It is biased upwards for finite sets: compare it with the distance between two equally large
    sets of real features.

    Args:
        a, b: features `[n, d]` and `[m, d]`, n and m at least 2.

    Raises:
        ShapeError: the sets have different dimensions, or fewer than two members.
        PgmdiffError: a feature is NaN or infinite.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ShapeError(
            f"frechet_distance: expected features [n >= 2, d] and [m >= 2, d], got "
            f"{tuple(a.shape)} and {tuple(b.shape)}."
        )
    if not (is_finite(a) and is_finite(b)):
        raise PgmdiffError(
            "frechet_distance: expected finite features, got NaN or infinity. Look at the samples."
        )
    a_np, b_np = (x.double().cpu().numpy() for x in (a, b))
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a_np, b_np))
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    middle = np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)
    shift = ((a_np.mean(axis=0) - b_np.mean(axis=0)) ** 2).sum()
    return float(shift + np.trace(cov_a + cov_b) - 2 * np.sqrt(middle).sum())
