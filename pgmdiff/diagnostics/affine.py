r"""The distribution that a solver reaches where the score is affine, with no sampling error.

Every step is then affine in the state and in its noise, and so is the run, x = a + A x_0 +
Σ_k B_k z_k: from N(m, Σ) it ends at N(a + A m, A Σ Aᵀ + Σ_k B_k B_kᵀ). The columns are read off by
pushing a basis through the solver. After steps that drew noise and left no history, the next step
depends only on the distribution, and a new basis is started.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pgmdiff.gaussian import Gaussian
from pgmdiff.linalg import rows
from pgmdiff.samplers import Solver, State
from pgmdiff.scores.adapters import Score, begun

__all__ = ["distribution_reached"]


def distribution_reached(
    score: Score, sigmas: Sequence[float], start: Gaussian, solver: Solver
) -> Gaussian:
    """The Gaussian into which a solver turns `start`, down a decreasing schedule.

    The result is exact, to rounding, for affine scores, such as those of Gaussians and of their
    joints; it is meaningless for others. The cost is one run of `1 + N + N · draws` samples, where
    `draws` is the number of noises in one step, or in all steps if the solver remembers earlier
    ones.

    Args:
        score: `score(x, sigma)`, affine in x `[batch, *event]`.
        sigmas: decreasing noise levels.
        start: the distribution at sigmas[0]; give `Gaussian.noised` of the data to see the solver's
            own error alone.
        solver: of any kind.
    """
    n, reached = start.mean.numel(), start
    counter, first, before = _Basis(n, 0), 0, 0
    for state in _states(score, sigmas, start.mean[None], solver, counter, 0):
        draws, ended = counter.draws - before, state.step == len(sigmas) - 1
        if ended or (draws and not state.history):
            taken = sigmas[first : state.step + 1]
            reached = _after(score, taken, reached, solver, first, draws)
            first, before = state.step, counter.draws
    return reached


def _after(
    score: Score, sigmas: Sequence[float], start: Gaussian, solver: Solver, first: int, draws: int
) -> Gaussian:
    """The distribution after steps that begin with number `first` and draw `draws` noises."""
    n, (values, vectors) = start.mean.numel(), torch.linalg.eigh(start.covariance)
    root = vectors * values.clamp(min=0).sqrt()
    rows = torch.cat([root.T, root.new_zeros(n * draws, n)])
    x = torch.cat([start.mean[None], start.mean + rows.reshape(-1, *start.event_shape)])
    *_, last = _states(score, sigmas, x, solver, _Basis(n, draws), first)
    columns = (last.x[1:] - last.x[0]).reshape(len(rows), n)
    covariance = columns.T @ columns
    return Gaussian(last.x[0], (covariance + covariance.T) / 2)


class _Basis:
    """Noise whose k-th draw is the identity on rows of its own, and 0 elsewhere."""

    def __init__(self, n: int, total: int) -> None:
        self.n, self.total, self.draws = n, total, 0

    def __call__(self, number: int, like: Tensor) -> Tensor:
        noise = rows(torch.zeros_like(like))
        if self.total:
            first = 1 + self.n * (1 + self.draws)
            noise[first : first + self.n] = torch.eye(self.n, dtype=like.dtype, device=like.device)
        self.draws += 1
        return noise.reshape(like.shape)


def _states(
    score: Score, sigmas: Sequence[float], x: Tensor, solver: Solver, noise: _Basis, first: int
) -> Iterator[State]:
    """The states of a run after each of its steps."""
    state, run = solver.init(x, float(sigmas[0]), first), begun(score)
    for sigma_next in sigmas[1:]:
        with torch.no_grad():
            state = solver.step(run, state, float(sigma_next), noise)
        if hasattr(run, "commit"):
            run.commit()
        yield state
