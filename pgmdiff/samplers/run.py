"""The sampling loop: a score, a schedule and a solver make samples."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import isclose, isfinite
from typing import TypedDict

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.noise import RISE, START, Generator, Noise
from pgmdiff.samplers.base import Solver, State
from pgmdiff.samplers.multistep import UniPC
from pgmdiff.scores.adapters import Score

__all__ = ["Step", "sample"]


class Step(TypedDict):
    """What a callback is given: the keys that k-diffusion's callbacks know, and the solver's state.

    A run can be resumed from it, bit for bit: `sample(..., state=step["state"])`.
    """

    x: Tensor
    """The state before the step, `[batch, *event]`."""
    i: int
    """Number of the step, from 0."""
    sigma: float
    """Noise level of x."""
    denoised: Tensor
    """The denoised value of x."""
    state: State
    """All that the solver knew before the step."""


@torch.no_grad()
def sample(
    score: Score,
    sigmas: Sequence[float],
    *,
    x: Tensor | None = None,
    shape: Sequence[int] | None = None,
    state: State | None = None,
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

    To vary given data rather than draw new ones (SDEdit; Meng et al., 2022), start in the middle:
    `sample(score, sigmas[k:], x=data + sigmas[k] * noise)`, or `sample(score, [0, *sigmas[k:]],
    x=data)`, which draws that noise.

    Args:
        score: `score(x, sigma)` with x `[batch, *event]`, sigma `[batch]`.
        sigmas: noise levels, ending in a fall. Where they rise, noise of variance σ'² - σ² is
            added and solvers of several steps begin anew: see `time_travel`.
        x: the noised start at `sigmas[start]`, used as it is; or
        shape: `[batch, *event]` of a start drawn from N(0, sigmas[0]²). The true start is
            q * N(0, σ²): choose sigmas[0] well above the size of the whole; or
        state: resumes the run that this state is of, at its step: from a callback, or saved. Given
            the same score, schedule, solver and seed, what follows is the same bit for bit.
        solver: None: `UniPC()`, the ODE, one evaluation a step. Where a joint's rule
            is only approximate `DPMSolver2M(eta=1.0, rho=7.0)` does better; figures:
            `python -m benchmarks defaults`.
        generator: an integer seed, a `torch.Generator`, or one of them a sample; None: fresh
            entropy. Noise depends on seed, sample and step only; see `noise`.
        callback: called with a `Step`, a dict, at every step down.
        progress: shows a progress bar.
        start: begins at this step of the schedule, with `x`. Solvers of several steps begin anew,
            without the steps before: to resume them, give `state`.
        dtype: of the state, at least float32; None: x's, or float32.
        device: of the state; None: x's, or the CPU.

    Returns:
        The state at the last σ, `[batch, *event]`.

    Raises:
        PgmdiffError: a schedule that stays, falls below 0 or ends in a rise, a half-precision
            dtype, or a state that is of another schedule.
        ShapeError: not exactly one of x, shape and state, or one generator too many or too few.

    Example:
        >>> import torch
        >>> from pgmdiff.gaussian import Gaussian
        >>> from pgmdiff.samplers import Heun, karras, sample
        >>> target = Gaussian(torch.zeros(2), torch.eye(2))
        >>> sigmas = karras(20, 0.01, 10.0)
        >>> sample(target.score, sigmas, shape=(5, 2), solver=Heun(), generator=0).shape
        torch.Size([5, 2])
    """
    levels = _levels(sigmas)
    given = [n for n, v in {"x": x, "shape": shape, "state": state}.items() if v is not None]
    if len(given) != 1:
        raise ShapeError(
            f"sample: expected one of x=, shape= and state=, got {' and '.join(given) or 'none'}. "
            "Give shape=(batch, *event) to draw the start."
        )
    if not callable(score):
        raise PgmdiffError(
            f"sample: expected a score, score(x, sigma), got {type(score).__name__}. Compose a "
            "graph with scores first."
        )
    solver = _checked_solver(solver)
    if state is None:
        state, noise = _begun(solver, levels, start, x, shape, generator, dtype, device)
    else:
        state, noise = _resumed(levels, start, state, generator, dtype, device)
    for sigma_next in tqdm(levels[state.step + 1 :], disable=not progress, desc="sampling"):
        if sigma_next > state.sigma:
            state = _raised(solver, state, sigma_next, noise)
            continue
        after = solver.step(score, state, sigma_next, noise)
        if callback is not None and after.denoised is not None:
            callback(_payload(state, after.denoised))
        state = after
    return state.x


def _begun(
    solver: Solver,
    levels: list[float],
    start: int,
    x: Tensor | None,
    shape: Sequence[int] | None,
    generator: Generator,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> tuple[State, Noise]:
    _check_start(levels, start, x, shape)
    dtype = _checked_dtype(dtype or (torch.float32 if x is None else x.dtype))
    if x is not None:
        x = x.to(dtype=dtype, device=device)
        return solver.init(x, levels[start], start), Noise.of(generator, len(x))
    like = torch.empty(tuple(shape or ()), dtype=dtype, device=device)
    noise = Noise.of(generator, len(like))
    return solver.init(levels[0] * noise(START, like), levels[0]), noise


def _resumed(
    levels: list[float],
    start: int,
    state: State,
    generator: Generator,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> tuple[State, Noise]:
    _check_state(levels, start, state)
    state = _placed(state, _checked_dtype(dtype or state.x.dtype), device)
    return state, Noise.of(generator, len(state.x))


def _raised(solver: Solver, state: State, sigma: float, noise: Noise) -> State:
    """U + √(σ'² - σ²) z: noised further, and without history."""
    added = (sigma**2 - state.sigma**2) ** 0.5
    x = state.x + added * noise(RISE + state.step, state.x)
    return solver.init(x, sigma, state.step + 1)


def _payload(state: State, denoised: Tensor) -> Step:
    return Step(x=state.x, i=state.step, sigma=state.sigma, denoised=denoised, state=state)


def _placed(state: State, dtype: torch.dtype, device: torch.device | str | None) -> State:
    """The state and all it carries, in a dtype and on a device."""

    def placed(x: Tensor) -> Tensor:
        return x.to(dtype=dtype, device=device)

    denoised = None if state.denoised is None else placed(state.denoised)
    history = tuple((sigma, placed(past)) for sigma, past in state.history)
    return replace(state, x=placed(state.x), denoised=denoised, history=history)


def _levels(sigmas: Sequence[float]) -> list[float]:
    levels = [float(sigma) for sigma in sigmas]
    moving = all(a != b for a, b in pairwise(levels))
    sound = all(isfinite(level) and level >= 0 for level in levels)
    if len(levels) < 2 or not (sound and moving and levels[-1] < levels[-2]):
        raise PgmdiffError(
            "sample: expected finite sigmas of at least 0 that differ from one to the next and "
            f"fall at the end, got {levels[:3]}{' ...' if len(levels) > 3 else ''}. Use "
            "samplers.karras or log_linear."
        )
    return levels


def _checked_solver(solver: Solver | None) -> Solver:
    if solver is None:
        return UniPC()
    if not isinstance(solver, Solver):
        raise PgmdiffError(
            f"sample: expected a solver such as Heun(), got {solver!r}. Make an instance of it."
        )
    return solver


def _checked_dtype(dtype: torch.dtype) -> torch.dtype:
    if dtype not in (torch.float32, torch.float64):
        raise PgmdiffError(
            f"sample: the state must be float32 or float64, got {dtype}. Pass dtype=torch.float32; "
            "cast inside the model if it needs half precision."
        )
    return dtype


def _check_start(
    levels: list[float], start: int, x: Tensor | None, shape: Sequence[int] | None
) -> None:
    if not 0 <= start < len(levels) - 1:
        raise PgmdiffError(
            f"sample: expected start from 0 to {len(levels) - 2}, a step of the schedule, "
            f"got {start}."
        )
    if x is not None and not isinstance(x, Tensor):
        raise ShapeError(
            f"sample: expected x, the noised start, as a tensor, got {type(x).__name__}. Convert "
            "it with torch.as_tensor."
        )
    if shape is not None and not isinstance(shape, Sequence):
        raise ShapeError(f"sample: expected shape=(batch, *event), got {shape!r}.")
    if x is None and (start or not levels[0]):
        begins = f"start={start} begins within a run" if start else "sigmas[0] = 0 begins at data"
        raise ShapeError(f"sample: {begins} and needs its state as x=.")


def _check_state(levels: list[float], start: int, state: State) -> None:
    known = 0 <= state.step < len(levels)
    if not known or not isclose(levels[state.step], state.sigma) or start not in (0, state.step):
        there = f"σ = {levels[state.step]:.6g} there" if known else f"{len(levels) - 1} steps"
        raise PgmdiffError(
            f"sample: the state is of step {state.step} at σ = {state.sigma:.6g}, but the schedule "
            f"has {there} and start={start}. Resume with the schedule of the run, without start=."
        )
