"""The sampling loop: a score, a schedule and a solver make samples."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypedDict

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.samplers.noise import Generator, Noise
from pgmdiff.samplers.solvers import Euler, Solver
from pgmdiff.scores import Score

__all__ = ["Step", "sample"]

START = 2**63
"""The step number of the noise that starts a run: no schedule reaches it."""


class Step(TypedDict):
    """What a callback is given: the keys that k-diffusion's callbacks know.

    A run can be resumed from it: `sample(..., x=step["x"], start=step["i"])`.
    """

    x: Tensor
    """The state before the step, `[batch, *event]`."""
    i: int
    """Number of the step, from 0."""
    sigma: float
    """Noise level of x."""
    denoised: Tensor
    """The denoised value of x."""


@torch.no_grad()
def sample(
    score: Score,
    sigmas: Sequence[float],
    *,
    x: Tensor | None = None,
    shape: Sequence[int] | None = None,
    solver: Solver | None = None,
    generator: Generator = None,
    callback: Callable[[Step], None] | None = None,
    progress: bool = False,
    start: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draws samples by running a solver down a schedule.

    Runs without gradients; to differentiate through sampling, loop over `solver.step`.

    Args:
        score: `score(x, sigma)` with x `[batch, *event]`, sigma `[batch]`.
        sigmas: strictly decreasing, positive but for the last, which may be 0.
        x: the noised start at `sigmas[start]`, used as it is; or
        shape: `[batch, *event]` of a start drawn from N(0, sigmas[0]²). The true start is
            q * N(0, σ²): choose sigmas[0] well above the size of the whole.
        solver: `Euler()` (the default), `Heun()`, `SDE(eta)`.
        generator: an integer seed, a `torch.Generator`, or one of them a sample; None: fresh
            entropy. Noise depends on seed, sample and step only; see `noise`.
        callback: called with a `Step`, a dict, at every step.
        progress: shows a progress bar.
        start: resumes a run at this step, with `x` as it was before it.
        dtype: of the state, at least float32; None: x's, or float32.
        device: of the state; None: x's, or the CPU.

    Returns:
        The state at the last σ, `[batch, *event]`.

    Raises:
        PgmdiffError: a schedule that does not decrease, or a half-precision dtype.
        ShapeError: not exactly one of x and shape, or one generator too many or too few.

    Example:
        >>> import torch
        >>> from pgmdiff.gaussian import Gaussian
        >>> from pgmdiff.samplers import Heun, karras, sample
        >>> target = Gaussian(torch.zeros(2), torch.eye(2))
        >>> sigmas = karras(20, 0.01, 10.0)
        >>> sample(target.score, sigmas, shape=(5, 2), solver=Heun(), generator=0).shape
        torch.Size([5, 2])
    """
    sigmas = _checked(sigmas, start)
    if (x is None) == (shape is None):
        raise ShapeError("sample: expected either x= or shape=, got both or neither.")
    if solver is not None and not isinstance(solver, Solver):
        raise PgmdiffError(
            f"sample: expected a solver such as Heun(), got {solver!r}. Make an instance of it."
        )
    if x is None and start:
        raise ShapeError(f"sample: start={start} resumes a run and needs its state as x=.")
    dtype = dtype or (torch.float32 if x is None else x.dtype)
    if dtype not in (torch.float32, torch.float64):
        raise PgmdiffError(
            f"sample: the state must be float32 or float64, got {dtype}. Pass dtype=torch.float32; "
            "cast inside the model if it needs half precision."
        )
    like = torch.empty(tuple(shape or ()) if x is None else 0, dtype=dtype, device=device)
    noise = Noise.of(generator, len(like if x is None else x))
    x = sigmas[0] * noise(START, like) if x is None else x.to(dtype=dtype, device=device)
    solver = Euler() if solver is None else solver
    state = solver.init(x, sigmas[start], start)
    for sigma_next in tqdm(sigmas[start + 1 :], disable=not progress, desc="sampling"):
        after = solver.step(score, state, sigma_next, noise)
        if callback is not None and after.denoised is not None:
            callback(Step(x=state.x, i=state.step, sigma=state.sigma, denoised=after.denoised))
        state = after
    return state.x


def _checked(sigmas: Sequence[float], start: int) -> list[float]:
    levels = [float(sigma) for sigma in sigmas]
    falling = all(a > b for a, b in pairwise(levels))
    if len(levels) < 2 or levels[-1] < 0 or not falling:
        raise PgmdiffError(
            "sample: expected sigmas that decrease strictly and do not go below 0, got "
            f"{levels[:3]}{' ...' if len(levels) > 3 else ''}. Use samplers.karras or log_linear."
        )
    if not 0 <= start < len(levels) - 1:
        raise PgmdiffError(
            f"sample: expected start from 0 to {len(levels) - 2}, a step of the schedule, "
            f"got {start}."
        )
    return levels
