r"""Measures of samples: distances between laws, seams, Fréchet distances of texture statistics.

Distances between sets of samples:

    energy     2 E|a - b| - E|a - a'| - E|b - b'|,     unbiased: a and a' are never one sample
    sliced     mean over directions of W1 between projections; above 0 for two sets of one law

Where both laws are known to be mirrored (u as likely as -u), every sample stands for two: E|a - b|
is the mean of |a - b| and |a + b|. That is unbiased too, and rid of the noise of how many samples
happen to lie on either side (Székely and Rizzo, "Energy statistics", 2013; Bonneel, Rabin, Peyré,
Pfister, "Sliced and Radon Wasserstein barycenters of measures", 2015).

The Fréchet distance between two sets of feature vectors, taken as Gaussians, is

    d² = |m_a - m_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½)

(Dowson and Landau, "The Fréchet distance between multivariate normal distributions", 1982). With
the features below it is an "FD", not an FID; read it beside the distance between two sets of real
crops, which is not 0 for finite sets.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgmdiff.errors import ShapeError
from pgmdiff.linalg import Floats

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
    """The unbiased energy distance of samples; 0 for samples of one law, within their noise.

    Is a rule better than another? Compare samples of both with held-out data, over a few seeds:
    `mean_and_error([energy_distance(draw(seed), data) for seed in range(4)])`.

    Args:
        a, b: `[n, *event]` and `[m, *event]`, two samples each at least; negative values are noise.
        mirrored: whether u is as likely as -u under both laws; see the module.

    Raises:
        ShapeError: states of different shapes, or fewer than two.

    Example:
        >>> import torch
        >>> from pgmdiff.gaussian import Gaussian
        >>> from pgmdiff.diagnostics.metrics import energy_distance
        >>> q = Gaussian(torch.zeros(3), torch.eye(3))
        >>> abs(energy_distance(q.sample(500, 0), q.sample(500, 1))) < 0.02
        True
    """
    a, b = _states("energy_distance", a, b)
    across = _sum(a, b, mirrored) / (len(a) * len(b))
    return 2 * across - _within(a, mirrored) - _within(b, mirrored)


def _states(who: str, *samples: Tensor) -> list[Tensor]:
    """Samples as `[n, N]`."""
    if len({x.shape[1:] for x in samples}) > 1 or min(map(len, samples)) < 2:
        shapes = " and ".join(str(tuple(x.shape)) for x in samples)
        raise ShapeError(f"{who}: expected two samples each of one event shape, got {shapes}.")
    return [x.reshape(len(x), -1) for x in samples]


def _within(x: Tensor, mirrored: bool) -> float:
    own = x.norm(dim=1).sum().item() if mirrored else 0.0  # half of |x + x|
    return (_sum(x, x, mirrored) - own) / (len(x) * (len(x) - 1))


def _sum(a: Tensor, b: Tensor, mirrored: bool) -> float:
    def total(part: Tensor) -> float:
        same = torch.cdist(part, b).sum().item()
        return (same + torch.cdist(part, -b).sum().item()) / 2 if mirrored else same

    return sum(total(part) for part in a.split(CHUNK))


def sliced_wasserstein(a: Tensor, b: Tensor) -> float:
    """W1 of projections over 64 fixed directions, averaged.

    Args:
        a, b: as many samples, `[n, *event]` each.

    Raises:
        ShapeError: states of different shapes or numbers, or fewer than two.
    """
    a, b = _states("sliced_wasserstein", a, b)
    if len(a) != len(b):
        raise ShapeError(
            f"sliced_wasserstein: expected as many samples of both, got {len(a)} and {len(b)}."
        )
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(a.shape[1], DIRECTIONS, generator=generator, dtype=a.dtype)
    directions = directions / directions.norm(dim=0)
    gaps = (a @ directions).sort(dim=0).values - (b @ directions).sort(dim=0).values
    return float(gaps.abs().mean())


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean over seeds, and its standard error; None for one seed.

    Args:
        values: one a seed.
    """
    found = torch.tensor(values, dtype=torch.float64)
    error = (found.std() / len(found) ** 0.5).item() if len(found) > 1 else None
    return found.mean().item(), error


def seam_ratio(images: Tensor, seams: Iterable[int], *, periodic: bool = False) -> float:
    """Mean absolute difference across seam columns over that across all other columns.

    Args:
        images: `[..., width]`.
        seams: columns that begin a new piece; column 0 counts on periodic images only.
        periodic: whether the last column is beside the first.

    Returns:
        1 where seams look like any other place; above, they show.

    Raises:
        ShapeError: no seam, nothing but seams, or a seam outside the image.
    """
    width, seams = images.shape[-1], list(seams)
    if not all(0 <= seam < width for seam in seams):
        raise ShapeError(f"seam_ratio: expected seams within 0 to {width - 1}, got {seams}.")
    steps = (images - images.roll(1, dims=-1)).abs().reshape(-1, width).mean(dim=0)
    is_seam = torch.zeros(width, dtype=torch.bool, device=images.device)
    is_seam[seams] = True
    inside = torch.ones_like(is_seam)
    inside[0] = periodic
    at, elsewhere = steps[is_seam & inside], steps[~is_seam & inside]
    if len(at) == 0 or len(elsewhere) == 0:
        raise ShapeError(
            f"seam_ratio: expected some seams within 1 to {width - 1} and some other columns, got "
            f"{seams}. Column 0 is a seam of periodic=True only."
        )
    return (at.mean() / elsewhere.mean()).item()


def texture_features(images: Tensor) -> Tensor:
    """Statistics of a grey texture: `[n, 1, height, width]` to `[n, 63]`.

    At full and at half resolution: log mean and log root mean square of the absolute responses to
    the 15 oriented patterns of a 4 × 4 cosine basis; then mean, standard deviation and skewness of
    the grey values.

    Args:
        images: `[n, 1, height, width]`, in any units; both sides at least 8.

    Raises:
        ShapeError: not grey images of at least 8 × 8 pixels.
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
    features = []
    for scale in (images, F.avg_pool2d(images, 2)):
        response = F.conv2d(scale, patterns).abs().flatten(2)
        mean, rms = response.mean(dim=2), response.square().mean(dim=2).sqrt()
        features += [(mean + 1e-4).log(), (rms + 1e-4).log()]
    grey = images.flatten(1)
    mean, std = grey.mean(dim=1, keepdim=True), grey.std(dim=1, keepdim=True)
    skewness = (((grey - mean) / (std + 1e-4)) ** 3).mean(dim=1, keepdim=True)
    return torch.cat([*features, mean, std, skewness], dim=1)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The squared Fréchet distance d² of two sets of features, `[n, d]` and `[m, d]`.

    Biased upwards for finite sets: compare with the distance of two sets of real features as large.

    Args:
        a: features `[n, d]`, n at least 2.
        b: features `[m, d]`, m at least 2.

    Raises:
        ShapeError: the sets have different dimensions, or fewer than two members.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ShapeError(
            f"frechet_distance: expected features [n >= 2, d] and [m >= 2, d], got "
            f"{tuple(a.shape)} and {tuple(b.shape)}."
        )
    a_np, b_np = (x.double().cpu().numpy() for x in (a, b))
    cov_a, cov_b = np.cov(a_np, rowvar=False), np.cov(b_np, rowvar=False)
    root = _root(np.atleast_2d(cov_a))
    middle = np.linalg.eigvalsh(root @ np.atleast_2d(cov_b) @ root).clip(min=0)
    shift = ((a_np.mean(axis=0) - b_np.mean(axis=0)) ** 2).sum()
    return float(shift + np.trace(np.atleast_2d(cov_a + cov_b)) - 2 * np.sqrt(middle).sum())


def _root(covariance: Floats) -> Floats:
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    return root
