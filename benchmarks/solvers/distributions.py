"""Two targets whose noised distributions are known, and the W2 distance to them.

A correlated Gaussian in the plane, where a solver's distribution follows exactly (see
`distribution_reached`), and a mixture of two modes on the line, where W2 is that of quantiles.

Noise on the line is stratified among neighbours: the sorted states, in blocks of 100, receive 100
slices of the normal distribution in random order. Each sample still has the right distribution, and
all samples together are closer to it than independent draws, whose share of each mode alone costs
0.1 in W2 at 100,000 samples (after L'Ecuyer, Lécot, Tuffin, "A randomized quasi-Monte Carlo
simulation method for Markov chains", 2008).
"""

import torch
from torch import Tensor

from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.noise import Draw

__all__ = [
    "GAUSSIAN",
    "MIXTURE",
    "gaussian_distance",
    "mixture_distance",
    "mixture_quantiles",
    "stratified",
]

WEIGHTS, MEANS, DEVIATIONS = (0.3, 0.7), (-2.0, 1.0), (0.25, 0.4)
BLOCK = 100
"""Neighbours that share slices of the normal distribution."""

GAUSSIAN = Gaussian(
    torch.tensor([1.0, -0.5], dtype=torch.float64),
    torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64),
)
MIXTURE = GaussianMixture(
    torch.tensor(WEIGHTS, dtype=torch.float64),
    [
        Gaussian(torch.tensor([m]).double(), torch.tensor([[s**2]]).double())
        for m, s in zip(MEANS, DEVIATIONS, strict=True)
    ],
)


def gaussian_distance(q: Gaussian) -> float:
    """W2 to the Gaussian target: the root of |m - m'|² + tr(Σ + Σ' - 2 (Σ^½ Σ' Σ^½)^½)."""
    root = _root(GAUSSIAN.covariance)
    cross = _root(root @ q.covariance @ root)
    total = (q.covariance + GAUSSIAN.covariance - 2 * cross).trace()
    return float((total + (q.mean - GAUSSIAN.mean).square().sum()).clamp(min=0).sqrt())


def mixture_distance(x: Tensor) -> float:
    """W2 to the mixture, of n values that each represent 1/n of the mass."""
    ordered = x.reshape(-1).sort().values
    return float((ordered - mixture_quantiles(0.0, len(ordered))).square().mean().sqrt())


def mixture_quantiles(sigma: float, n: int) -> Tensor:
    """The quantiles (k + ½)/n of the mixture noised by sigma, by bisection: `[n]`."""
    levels = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    spreads = [(s**2 + sigma**2) ** 0.5 for s in DEVIATIONS]
    high = torch.full_like(levels, 3.0 + 10 * max(spreads))
    low = -high
    for _ in range(70):
        middle = (low + high) / 2
        parts = zip(WEIGHTS, MEANS, spreads, strict=True)
        mass = sum(w * torch.special.ndtr((middle - m) / s) for w, m, s in parts)
        low, high = (
            torch.where(mass < levels, middle, low),
            torch.where(mass < levels, high, middle),
        )
    return (low + high) / 2


def stratified(seed: int) -> Draw:
    """Standard normal noise for states `[n, 1]`, n a multiple of 100; see the module."""
    generator = torch.Generator().manual_seed(seed)

    def noise(number: int, like: Tensor) -> Tensor:
        shape = len(like) // BLOCK, BLOCK
        slices = torch.rand(shape, generator=generator).argsort(dim=1)
        within = torch.rand(shape, generator=generator, dtype=like.dtype)
        uniform = ((slices + within) / BLOCK).clamp(1e-12, 1 - 1e-12)
        drawn = torch.empty_like(like[:, 0])
        drawn[like[:, 0].argsort()] = torch.special.ndtri(uniform).reshape(-1)
        return drawn[:, None]

    return noise


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root
