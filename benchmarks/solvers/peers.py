"""Solvers of other libraries on the same targets, with the exact denoiser, at their own levels.

These are diffusers' schedulers and azula's samplers, where they are installed; none of their code
is copied. The diffusers schedulers are variance preserving with 1000 timesteps between σ = 0.002
and 80, so that their Karras levels are those used here; azula's samplers run on the same levels,
and one of them on the levels that it is meant for.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgmdiff.noise import Draw

__all__ = ["Peer", "Task", "peers"]

LOW, HIGH, RHO = 0.002, 80.0, 7.0


class Task(NamedTuple):
    """What a solver is run on: its start at a level, a denoiser, noise, and evaluations."""

    start: Callable[[float], Tensor]
    denoise: Callable[[Tensor, float], Tensor]
    noise: Draw
    evaluations: int


class Peer(NamedTuple):
    """A solver of another library, and the name of pgmdiff's solver that does the same, if any."""

    library: str
    name: str
    equivalent: str | None
    run: Callable[[Task], Tensor]
    noisy: bool = False


def peers() -> tuple[list[Peer], list[str]]:
    """The installed solvers, and a note on each library: its version, or how to install it."""
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


def _diffusers() -> Iterator[Peer]:
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    sigmas = np.geomspace(LOW, HIGH, 1000)
    alphas = 1 / (1 + sigmas**2)
    betas = 1 - alphas / np.concatenate([[1.0], alphas[:-1]])
    kept = {"trained_betas": betas.tolist(), "use_karras_sigmas": True}
    zero = {**kept, "final_sigmas_type": "zero"}
    sde = {**zero, "algorithm_type": "sde-dpmsolver++"}
    multistep, deis = diffusers.DPMSolverMultistepScheduler, diffusers.DEISMultistepScheduler
    unipc = diffusers.UniPCMultistepScheduler
    cases: list[tuple[str, str, Any, dict[str, Any]]] = [
        ("Euler", "Euler = DDIM", diffusers.EulerDiscreteScheduler, kept),
        ("Heun", "Heun", diffusers.HeunDiscreteScheduler, kept),
        ("DPM++ 2S", "DPM++ 2S", diffusers.DPMSolverSinglestepScheduler, zero),
        ("DPM++ 2M", "DPM++ 2M", multistep, zero),
        ("DPM++ 3M", "DPM++ 3M", multistep, {**zero, "solver_order": 3}),
        ("DEIS 2", "DEIS 2, log σ", deis, {**kept, "solver_order": 2}),
        ("DEIS 3", "DEIS 3, log σ", deis, {**kept, "solver_order": 3}),
        ("UniPC 2", "UniPC 2", unipc, {**zero, "solver_order": 2}),
        ("UniPC 3", "UniPC 3", unipc, {**zero, "solver_order": 3}),
        ("SDE-DPM++ 1", "SDE, η = 1", multistep, {**sde, "solver_order": 1}),
        ("SDE-DPM++ 2M", "DPM++ 2M, η = 1", multistep, {**sde, "solver_order": 2}),
    ]
    for name, equivalent, scheduler, options in cases:
        run = partial(_scheduled, name, partial(scheduler, **options))
        yield Peer("diffusers", name, equivalent, run, name.startswith("SDE"))


def _scheduled(name: str, make: Callable[[], Any], task: Task) -> Tensor:
    """Runs a scheduler with ε at its own levels; Euler and Heun do not scale their states."""
    scheduler = make()
    scheduler.set_timesteps(task.evaluations // 2 if name == "Heun" else task.evaluations)
    scheduler.set_begin_index(0)

    def scale(sigma: float) -> float:
        return 1.0 if name in ("Euler", "Heun") else (1 + sigma**2) ** -0.5

    first = float(scheduler.sigmas[0])
    y = scale(first) * task.start(first)[..., None]
    for number, t in enumerate(scheduler.timesteps):
        sigma = float(scheduler.sigmas[scheduler.step_index or 0])
        scheduler.scale_model_input(y, t)
        x = (y / scale(sigma))[..., 0]
        eps = ((x - task.denoise(x, sigma)) / sigma)[..., None]
        noise = {"variance_noise": task.noise(number, x)[..., None]} if "SDE" in name else {}
        y = scheduler.step(eps, t, y, return_dict=False, **noise)[0].double()
    return y[..., 0]


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
        run = partial(_sampled, name, partial(sampler, **options), _karras)
        yield Peer("azula", name, equivalent, run)
    name, sampler = "vAB 2, its VP levels", partial(sample.vABSampler, order=2)
    yield Peer("azula", name, None, partial(_sampled, name, sampler, noise.VPSchedule()))


def _karras(t: Tensor) -> tuple[Tensor, Tensor]:
    """Karras' levels as a schedule of azula: equal steps of t are equal steps of σ^(1/ρ)."""
    low, high = LOW ** (1 / RHO), HIGH ** (1 / RHO)
    return torch.ones_like(t), (low + t * (high - low)) ** RHO


def _sampled(name: str, sampler: Callable[..., Any], levels: Any, task: Task) -> Tensor:
    """Runs a sampler down Karras' levels and denoises at the last, or down its own schedule."""
    from azula.denoise import Denoiser, DiracPosterior

    class Exact(Denoiser):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.schedule = levels

        def forward(self, x: Tensor, t: Tensor) -> Any:
            alpha, sigma = (float(value) for value in levels(t.double()))
            return DiracPosterior(task.denoise(x / alpha, sigma / alpha))

    steps = task.evaluations // 2 - 1 if name == "Heun" else task.evaluations - (levels is _karras)
    run = sampler(Exact(), steps=steps, silent=True, dtype=torch.float64)
    (alpha, sigma), (_, last) = (levels(torch.tensor(t).double()) for t in (1.0, 0.0))
    x: Tensor = run(float(alpha) * task.start(float(sigma / alpha)))
    return task.denoise(x, float(last)) if levels is _karras else x
