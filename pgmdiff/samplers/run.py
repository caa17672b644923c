"""The sampling loop, which draws samples from a score, a schedule and a solver."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import isclose, isfinite, nan
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.errors import PgmdiffError, ScoreError, ShapeError, warn
from pgmdiff.linalg import is_finite
from pgmdiff.noise import RISE, START, Draw, Generator
from pgmdiff.samplers.base import Solver, State
from pgmdiff.samplers.multistep import UniPC
from pgmdiff.samplers.start import (
    check_drawn,
    check_hidden,
    check_settled,
    check_size,
    eta_of,
    mean_of,
)
from pgmdiff.samplers.store import ELSEWHERE, Run, check_dtype, check_same, noise_of
from pgmdiff.scores.adapters import Score, begun, memory_of, spread_part
from pgmdiff.scores.walls import check_score, train_mode_layers, train_mode_text
from pgmdiff.store import fingerprint, outline

__all__ = ["Step", "sample"]

ANEW = "Give that of the run, or start anew from its x: sample(score, sigmas[k:], x=state.x)."


class Step(TypedDict):
    """What a callback receives: the keys of k-diffusion's callbacks, and the solver's state.

    `sample(..., state=step["state"])` resumes the run from it bit for bit.
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
    """All that the solver knows before the step."""


@torch.no_grad()
def sample(
    score: Score,
    sigmas: Sequence[float],
    *,
    x: Tensor | None = None,
    shape: Sequence[int] | None = None,
    mean: Tensor | float = 0.0,
    state: State | None = None,
    solver: Solver | None = None,
    generator: Generator = None,
    callback: Callable[[Step], None] | None = None,
    run: Run | str | Path | None = None,
    progress: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draws samples `[batch, *event]` by running a solver down a schedule to its last σ.

    The run is made without gradients; to differentiate through sampling, loop over `solver.step`
    (with `joint.remembering()` as the score of a rule with memory: `hold` it, and `commit` after
    every step).

    To vary given data rather than draw new ones (SDEdit; Meng et al., 2022), start in the middle:
    `sample(score, sigmas[k:], x=data + sigmas[k] * noise)`, or `sample(score, [0, *sigmas[k:]],
    x=data)`, which draws that noise.

    Args:
        score: `score(x, sigma)` with x `[batch, *event]`, sigma `[batch]`. If it has a method
            `remembering`, as joints do, the run carries its memory from step to step; give its
            conditions by `functools.partial`, since a lambda would hide the memory. If it has a
            method `finish`, as conditioned scores do, `sample` calls it on the result of a schedule
            that ends in 0; it may warn.
        sigmas: noise levels that end in a fall. Where they rise, noise of variance σ'² - σ² is
            added and multistep solvers start afresh: see `time_travel`.
        x: the noised start at sigmas[0], used as it is. Give exactly one of x, shape and state.
        shape: `[batch, *event]` of a start drawn from N(mean, σ²), σ = sigmas[0]. The true start is
            wider, Σ + σ² with Σ the covariance of the data: samples by the ODE have the covariance
            Σ σ² / (Σ + σ²), for Gaussian data. Choose a σ of at least twice the data's deviation in
            any direction; where N elements vary together that is √N times the deviation of one.
            From four samples on a loss of 15 % of their deviation is warned of, where it can be
            told: of one direction among very many elements only from some tens of samples, and
            neither with a corrector nor where levels rise.
        mean: that of the data, `[*event]` or one number, if they are not centred; or one for every
            sample, `[batch, *event]`; that of the whole where the score is a `Slab`. Where it
            differs from the true mean by m, the ODE moves samples by √(Σ / (Σ + σ²)) m, and the SDE
            (η = 1) by Σ / (Σ + σ²) m. For a large σ the former is about m / σ standard deviations
            of an element where elements vary alone, and up to ‖m‖ / σ where they vary together, as
            the colours of a picture. From four samples on, more than 0.15 is warned of.
        state: resumes the run from which this state comes (from a callback, or saved), at its
            step. Given the same score, schedule, solver and seed, the rest of the run is the same
            bit for bit; all but the score are compared. Without a generator the run's own noise
            is continued.
        solver: the stepping rule; `UniPC()`, the ODE with one evaluation per step, if None. Where a
            joint's rule is only approximate, `DPMSolver2M(eta=1.0, rho=7.0)` does better; figures:
            `python -m benchmarks defaults`.
        generator: the source of the noise; see `pgmdiff.noise.Generator`. Noise depends only on the
            seed, the sample, the step and the place in the state.
        callback: called with a `Step`, a dict of copies, at every step down.
        run: a folder, or a `Run`, in which the run is saved as it goes. The same call made again
            resumes it, or returns its result.
        progress: whether to show a progress bar.
        dtype: float32 or float64, for the state; that of x or of the state, or float32, if None.
        device: where the state lives; where x or the state is, or the CPU, if None.

    Raises:
        PgmdiffError: the schedule stays, falls below 0 or ends in a rise, the dtype is of half
            precision, the state or the folder belongs to another run, or the folder cannot be
            written.
        ShapeError: not exactly one of x, shape and state is given, or the number of generators
            is wrong.
        ScoreError: a state is not finite; the step and its σ are named.

    Example:
        >>> import torch
        >>> from pgmdiff.gaussian import Gaussian
        >>> from pgmdiff.samplers import Heun, karras, sample
        >>> target = Gaussian(torch.zeros(2), torch.eye(2))
        >>> sigmas = karras(20, 0.01, 10.0)
        >>> sample(target.score, sigmas, shape=(5, 2), solver=Heun(), generator=0).shape
        torch.Size([5, 2])
    """
    levels = [float(sigma) for sigma in sigmas]
    solver = UniPC() if solver is None else solver
    check_run("sample", levels, solver)
    check_score("sample", score)
    if layers := train_mode_layers(score):
        warn(f"sample: a network is {train_mode_text(layers)}")
    _check_start(levels, x, shape, state)
    check_drawn("sample", mean, shape)
    given = x if state is None else state.x
    if given is not None and given.is_complex():
        raise PgmdiffError(
            f"sample: expected a real state, got {given.dtype}. Give its real and imaginary parts "
            "as two channels: torch.view_as_real."
        )
    dtype = dtype or (torch.float32 if given is None else given.dtype)
    check_dtype("sample", dtype)
    if given is None:
        given = torch.empty(tuple(shape or ()), dtype=dtype, device=device)
    part = spread_part(score)
    places = None if part is None else part.places
    event = given.shape[1:] if places is None else part.joint.event_shape
    whole = mean_of("sample", mean, (*given.shape[:1], *event), given.dtype, given.device)
    mean = whole if places is None else part.cut(whole)
    if places is not None and not solver.elementwise:
        raise PgmdiffError(
            f"sample: expected a solver whose steps are elementwise, since the state is divided "
            f"among ranks, got {solver!r}. Use UniPC, or distributed.shared in place of Slab."
        )
    run = Run.of(run, score)
    found = None if run is None else run.latest()
    earlier = found[1]["run"] if found else {} if state is None else state.run
    keys = noise_of(generator, len(given), earlier)
    noise: Draw = keys if places is None else partial(keys, places=places)
    facts = {"solver": solver_text(solver), "sigmas": [*levels], "shape": [len(given), *event]}
    facts |= {"seeds": list(keys.keys)}
    if state is not None:
        check_same("sample: the state", state.run, facts, ANEW)
    if run is not None:
        start = "drawn" if shape is not None else fingerprint(given)[:16]
        start = start if places is None else "of all ranks"
        start += f" around {fingerprint(whole)[:16]}" if whole.any() else ""
        facts = {"sampler": "sample", **facts, "start": start, "dtype": str(dtype)}
        corrector = getattr(solver, "corrector", None)
        facts |= {"score": outline(score), "corrector": outline(corrector)}
    if found and run is not None:
        check_same(f"sample: the folder {run.folder}", earlier, facts, ELSEWHERE)
        state = State.of(*found)
    if state is not None:
        state = state.to(dtype, device or given.device)
    elif x is not None:
        state = solver.init(x.to(dtype=dtype, device=device, copy=True), levels[0])
    else:
        state = solver.init(mean + levels[0] * noise(START, given), levels[0])
    score = begun(score, state.memory)  # all stages of a step read the memory of its start
    state = replace(state, run=facts)
    if run is not None and not found:
        run.save(state.step, *state.parts())
    for sigma_next in tqdm(levels[state.step + 1 :], disable=not progress, desc="sampling"):
        if sigma_next > state.sigma:
            added = (sigma_next**2 - state.sigma**2) ** 0.5
            raised = state.x + added * noise(RISE + state.step, state.x)
            risen = solver.init(raised, sigma_next, state.step + 1)
            state = replace(risen, memory=state.memory, run=facts)
            continue
        after = solver.step(score, state, sigma_next, noise)
        if not is_finite(after.x):
            raise ScoreError(
                f"sample: the state is not finite after step {state.step}, from σ = "
                f"{state.sigma:g} to {sigma_next:g}. The score is not finite at one of these "
                "levels, or the step is too large for it."
            )
        if shape is not None and state.step == 0 and after.denoised is not None:
            away = after.denoised - mean, state.x - mean
            check_hidden("sample", *away, levels[0], eta_of(solver, levels))
        if shape is not None and sigma_next == 0 and after.denoised is not None:
            check_settled("sample", after.denoised, state.x, state.sigma)
        if callback is not None and after.denoised is not None:
            step = Step(
                x=state.x.clone(),
                i=state.step,
                sigma=state.sigma,
                denoised=after.denoised.clone(),
                state=state.map(torch.clone),
            )
            callback(step)
        if hasattr(score, "commit"):
            score.commit()
        state = replace(after, memory=memory_of(score), run=facts)
        if run is not None:
            run.save(state.step, *state.parts(), last=state.step == len(levels) - 1)
    if shape is not None:
        centred = state.x - mean
        check_size("sample", centred, max(levels))
        if places is None and hasattr(score, "check_samples"):
            score.check_samples("sample", centred, levels[-1])
    finish = getattr(score, "finish", None)
    if finish is not None and levels[-1] == 0:  # a noised state need not meet an observation
        finish(state.x)
    return state.x


def check_run(who: str, levels: list[float], solver: Solver) -> None:
    """Raises `PgmdiffError` unless these are noise levels of a run, and a solver."""
    moving = all(a != b for a, b in pairwise(levels))
    sound = all(isfinite(level) and level >= 0 for level in levels)
    if len(levels) < 2 or not (sound and moving and levels[-1] < levels[-2]):
        raise PgmdiffError(
            f"{who}: expected finite sigmas of at least 0 that differ from one to the next and "
            f"fall at the end, got {levels[:3]}{' ...' if len(levels) > 3 else ''}. Use "
            "samplers.karras or log_linear."
        )
    if not isinstance(solver, Solver):
        raise PgmdiffError(f"{who}: expected a solver such as Heun(), got {solver!r}.")


def solver_text(solver: Solver) -> str:
    """The repr of a solver, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(solver))


def _check_start(
    levels: list[float], x: Tensor | None, shape: Sequence[int] | None, state: State | None
) -> None:
    given = [n for n, v in {"x": x, "shape": shape, "state": state}.items() if v is not None]
    if len(given) != 1:
        raise ShapeError(
            f"sample: expected one of x=, shape= and state=, got {' and '.join(given) or 'none'}. "
            "Give shape=(batch, *event) to draw the start."
        )
    if state is not None:
        there = levels[state.step] if 0 <= state.step < len(levels) else nan
        if not isclose(there, state.sigma):
            raise PgmdiffError(
                f"sample: the state belongs to step {state.step} at σ = {state.sigma:.6g}, but the "
                f"schedule of {len(levels) - 1} steps has σ = {there:.6g} there. Resume with the "
                "schedule of the run."
            )
    if x is not None and not (isinstance(x, Tensor) and x.ndim):
        got = "a single number" if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError(
            f"sample: expected x, the noised start, as a tensor, got {got}. Convert it with "
            "torch.as_tensor; it is [batch, *event]."
        )
    sides: Sequence[object] = shape if isinstance(shape, Sequence) else ()
    if shape is not None and not (
        sides and all(isinstance(n, int | np.integer) and n >= 0 for n in sides)
    ):
        raise ShapeError(
            f"sample: expected shape=(batch, *event), got {shape!r}. Give integers of at least 0."
        )
    if shape is not None and not levels[0]:
        raise ShapeError("sample: sigmas[0] = 0 begins at data, which must be given as x=.")
