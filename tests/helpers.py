"""Small things that many tests share."""

import torch
from torch import Tensor

from pgmdiff.gaussian import Gaussian


def ar1(n: int, rho: float, dtype: torch.dtype = torch.float64) -> Gaussian:
    """The stationary AR(1) chain of unit variance."""
    place = torch.arange(n)
    covariance = (rho ** (place[:, None] - place).abs().double()).to(dtype)
    return Gaussian(torch.zeros(n, dtype=dtype), covariance)


def relative(a: Tensor, b: Tensor) -> float:
    """Largest deviation, relative to the largest entry of b."""
    return ((a - b).abs().max() / b.abs().max()).item()
