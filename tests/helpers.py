"""Small things that many tests share."""

import torch
from torch import Tensor

from pgmdiff import gaussian
from pgmdiff.gaussian import Gaussian
from pgmdiff.precision import Solve


def ar1(n: int, rho: float, dtype: torch.dtype = torch.float64) -> Gaussian:
    """The stationary AR(1) chain of unit variance, in a dtype."""
    q = gaussian.ar1(n, rho)
    return q if dtype == torch.float64 else Gaussian(q.mean.to(dtype), q.covariance.to(dtype))


def relative(a: Tensor, b: Tensor) -> float:
    """Largest deviation, relative to the largest entry of b."""
    return ((a - b).abs().max() / b.abs().max()).item()


class Unsolved(Solve):
    """Leaves the right-hand side as it is."""

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        return b

    def log_determinant(self, sigma: Tensor) -> Tensor:
        raise NotImplementedError
