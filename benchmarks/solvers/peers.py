"""Solvers of other libraries, on the same targets, fed the exact denoiser at their own levels.

diffusers' schedulers and azula's samplers, where they are installed; nothing of them is copied. A
diffusers scheduler is a VP one with 1000 timesteps between σ = 0.002 and 80, so that its Karras
levels are those used here; azula's samplers run on the same levels, and one on the levels it is
meant for.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Peer", "Run", "peers"]

Denoise = Callable[[Tensor, float], Tensor]
"""x `[batch, n]` and σ to D(x, σ)."""

Run = Callable[[Callable[[float], Tensor], Denoise, Callable[[Tensor], Tensor], int], Tensor]
"""(start of a level, denoiser, noise like a state, evaluations) to samples `[batch, n]`."""

LOW, HIGH, RHO = 0.002, 80.0, 7.0


@dataclass(frozen=True)
class Peer:
    """A solver elsewhere.

    Attributes:
        library, name: of it.
        equivalent: the row of pgmdiff's solvers that does the same, if one does.
        run: see `Run`.
        noisy: whether it draws noise.
    """

    library: str
    name: str
    equivalent: str | None
    run: Run
    noisy: bool = False


def peers() -> tuple[list[Peer], list[str]]:
    """What is installed, and a note on each library: its version, or how to install it."""
    found, notes = [], []
    for library, listed, how in (
        ("diffusers", _diffusers, "pip install diffusers"),
        ("azula", _azula, "pip install --no-deps azula, which would bring torchvision along"),
    ):
        if importlib.util.find_spec(library) is None:
            notes.append(f"{library} is not installed: its rows are missing. {how}")
        else:
            notes.append(f"{library} {importlib.metadata.version(library)}")
            found += list(listed())
    return found, notes


# ---------------------------------------------------------------- diffusers


def _diffusers() -> Iterator[Peer]:
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    sigmas = np.geomspace(LOW, HIGH, 1000)
    alphas = 1 / (1 + sigmas**2)
    betas = 1 - alphas / np.concatenate([[1.0], alphas[:-1]])
    kept = {"trained_betas": betas.tolist(), "use_karras_sigmas": True}
    zero = {**kept, "final_sigmas_type": "zero"}
    multistep, sde = diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}
    cases: list[tuple[str, str, Any, dict[str, Any]]] = [
        ("Euler", "Euler = DDIM", diffusers.EulerDiscreteScheduler, kept),
        ("Heun", "Heun", diffusers.HeunDiscreteScheduler, kept),
        ("DPM++ 2S", "DPM++ 2S", diffusers.DPMSolverSinglestepScheduler, zero),
        ("DPM++ 2M", "DPM++ 2M", multistep, zero),
        ("DPM++ 3M", "DPM++ 3M", multistep, {**zero, "solver_order": 3}),
        ("DEIS 2", "DEIS 2, log σ", diffusers.DEISMultistepScheduler, {**kept, "solver_order": 2}),
        ("DEIS 3", "DEIS 3, log σ", diffusers.DEISMultistepScheduler, {**kept, "solver_order": 3}),
        ("UniPC 2", "UniPC 2", diffusers.UniPCMultistepScheduler, {**zero, "solver_order": 2}),
        ("UniPC 3", "UniPC 3", diffusers.UniPCMultistepScheduler, {**zero, "solver_order": 3}),
        ("SDE-DPM++ 1", "SDE, η = 1", multistep, {**zero, **sde, "solver_order": 1}),
        ("SDE-DPM++ 2M", "DPM++ 2M, η = 1", multistep, {**zero, **sde, "solver_order": 2}),
    ]
    for name, equivalent, scheduler, options in cases:
        exploding = name in ("Euler", "Heun")
        run = partial(_scheduled, partial(scheduler, **options), exploding, name == "Heun")
        yield Peer("diffusers", name, equivalent, run, name.startswith("SDE"))


def _scheduled(
    make: Callable[[], Any],
    exploding: bool,
    twice: bool,
    start: Callable[[float], Tensor],
    denoise: Denoise,
    noise: Callable[[Tensor], Tensor],
    evaluations: int,
) -> Tensor:
    """Drives a scheduler with ε at its own σ; `exploding` ones do not scale their states."""
    scheduler = make()
    scheduler.set_timesteps(evaluations // 2 if twice else evaluations)
    scheduler.set_begin_index(0)
    noisy = "sde" in scheduler.config.get("algorithm_type", "")

    def scale(sigma: float) -> float:
        return 1.0 if exploding else (1 + sigma**2) ** -0.5

    first = float(scheduler.sigmas[0])
    y = scale(first) * start(first)[..., None]
    for t in scheduler.timesteps:
        sigma = float(scheduler.sigmas[scheduler.step_index or 0])
        scheduler.scale_model_input(y, t)
        x = (y / scale(sigma))[..., 0]
        eps = ((x - denoise(x, sigma)) / sigma)[..., None]
        drawn = {"variance_noise": noise(x)[..., None]} if noisy else {}
        y = scheduler.step(eps, t, y, return_dict=False, **drawn)[0].double()
    return y[..., 0]


# ---------------------------------------------------------------- azula


def _azula() -> Iterator[Peer]:
    from azula import noise, sample

    cases: list[tuple[str, str | None, Any, dict[str, int]]] = [
        ("DDIM", "Euler = DDIM", sample.DDIMSampler, {}),
        ("Heun", "Heun", sample.HeunSampler, {}),
        ("zAB 3 (on ε, in σ)", "DEIS 3, σ", sample.zABSampler, {"order": 3}),
        ("zEAB 2 (on ε, in log σ)", "DEIS 2, log σ", sample.zEABSampler, {"order": 2}),
        ("zEAB 3 (on ε, in log σ)", "DEIS 3, log σ", sample.zEABSampler, {"order": 3}),
        ("xEAB 2 (on D, in log σ)", None, sample.xEABSampler, {"order": 2}),
        ("xEAB 3 (on D, in log σ)", "DPM++ 3M", sample.xEABSampler, {"order": 3}),
        ("vAB 2 (on velocity)", None, sample.vABSampler, {"order": 2}),
        ("vAB 3 (on velocity)", None, sample.vABSampler, {"order": 3}),
    ]
    for name, equivalent, sampler, options in cases:
        yield Peer("azula", name, equivalent, partial(_sampled, sampler, options, None))
    vp = noise.VPSchedule()
    run = partial(_sampled, sample.vABSampler, {"order": 2}, vp)
    yield Peer("azula", "vAB 2, its VP levels", None, run)


def _sampled(
    sampler: Any,
    options: dict[str, int],
    schedule: Any,
    start: Callable[[float], Tensor],
    denoise: Denoise,
    noise: Callable[[Tensor], Tensor],
    evaluations: int,
) -> Tensor:
    """Runs a sampler down Karras' levels and denoises at the last, or down a given schedule."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.sample import HeunSampler

    levels = _Karras() if schedule is None else schedule

    class Exact(Denoiser):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.schedule = levels

        def forward(self, x: Tensor, t: Tensor) -> Any:
            alpha, sigma = (float(value) for value in levels(t.double()))
            return DiracPosterior(denoise(x / alpha, sigma / alpha))

    steps = evaluations - (schedule is None)
    if sampler is HeunSampler:
        steps = evaluations // 2 - 1
    run = sampler(Exact(), steps=steps, silent=True, dtype=torch.float64, **options)
    (alpha, sigma), (_, last) = (levels(torch.tensor(t).double()) for t in (1.0, 0.0))
    x: Tensor = run(float(alpha) * start(float(sigma / alpha)))
    return denoise(x, float(last)) if schedule is None else x


class _Karras:
    """Karras' levels as a schedule of azula: equal steps of t are equal steps of σ^(1/ρ)."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high = LOW ** (1 / RHO), HIGH ** (1 / RHO)
        return torch.ones_like(t), (low + t * (high - low)) ** RHO
