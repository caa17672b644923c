"""The law that a solver reaches where the score is affine: exactly, with no sampling error.

Every step is then affine in the state and in its noise, and so is the run, x = a + A x_0 +
Σ_k B_k z_k: from N(m, Σ) it ends at N(a + A m, A Σ Aᵀ + Σ_k B_k B_kᵀ). The columns are read off by
pushing a basis through the solver.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pgmdiff.gaussian import Gaussian
from pgmdiff.samplers import Solver
from pgmdiff.scores import Score

__all__ = ["law_reached"]


def law_reached(score: Score, sigmas: Sequence[float], start: Gaussian, solver: Solver) -> Gaussian:
    """The Gaussian that a solver turns `start` into, down a decreasing schedule.

    Exact, to rounding, for affine scores, such as those of Gaussians and of their joints; without
    meaning for others. It costs one run of `1 + N + N · draws` samples.

    Args:
        score: affine in x, `[batch, *event]`.
        sigmas: decreasing.
        start: at sigmas[0]; `Gaussian.noised` of the data for the solver's own error alone.
        solver: of any kind.
    """
    n, (values, vectors) = start.mean.numel(), torch.linalg.eigh(start.covariance)
    root = vectors * values.clamp(min=0).sqrt()
    counter = _Basis(n, 0)
    _run(score, sigmas, start.mean[None], solver, counter)
    rows = torch.cat([root.T, root.new_zeros(n * counter.draws, n)])
    x = torch.cat([start.mean[None], start.mean + rows.reshape(-1, *start.event_shape)])
    out = _run(score, sigmas, x, solver, _Basis(n, counter.draws))
    columns = (out[1:] - out[0]).reshape(len(rows), n)
    return Gaussian(out[0], columns.T @ columns)


class _Basis:
    """Noise whose k-th draw is the identity on rows of its own, and 0 elsewhere."""

    def __init__(self, n: int, total: int) -> None:
        self.n, self.total, self.draws = n, total, 0

    def __call__(self, number: int, like: Tensor) -> Tensor:
        noise = torch.zeros_like(like).reshape(len(like), -1)
        if self.total:
            first = 1 + self.n * (1 + self.draws)
            noise[first : first + self.n] = torch.eye(self.n, dtype=like.dtype, device=like.device)
        self.draws += 1
        return noise.reshape(like.shape)


@torch.no_grad()
def _run(score: Score, sigmas: Sequence[float], x: Tensor, solver: Solver, noise: _Basis) -> Tensor:
    state = solver.init(x, float(sigmas[0]))
    for sigma_next in sigmas[1:]:
        state = solver.step(score, state, float(sigma_next), noise)
    return state.x
