r"""Scores from the networks of diffusers, and joints sampled by its schedulers.

A scheduler knows what its network predicts (eps, v, sample, flow velocity, EDM) and at which
timesteps. Its state is x_t = α_t x_0 + σ_t ε, so that u = x_t / α_t is ours at σ = σ_t / α_t:

    DDPM, DDIM, PNDM, DPM-Solver++, DEIS, UniPC, ...    α_t² + σ_t² = 1
    Euler, Heun, LMS, KDPM2, EDM, ...                   α_t = 1
    flow matching                                       α_t = 1 - t, σ_t = t

`from_diffusers` makes a score of a network; `drive` lets a scheduler sample a joint. Regions are
composed before the scheduler steps, so that a multistep scheduler remembers the whole. Nothing here
imports diffusers.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from tqdm import tqdm

from pgmdiff.composition.plan import map_tensors
from pgmdiff.errors import PgmdiffError, ScoreError, ShapeError
from pgmdiff.integrations.shared import check_device, network_dtype
from pgmdiff.linalg import beside, is_finite
from pgmdiff.noise import DRIVEN, START, Generator, Noise
from pgmdiff.samplers.schedules import remaining
from pgmdiff.samplers.start import check_drawn, mean_of
from pgmdiff.samplers.store import check_dtype
from pgmdiff.scores.adapters import (
    NetworkScore,
    Score,
    Timesteps,
    begun,
    denoise,
    from_denoiser,
    from_flow,
    from_vp_eps,
    from_vp_sample,
    from_vp_v,
)
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.scores.walls import alone, named, received

__all__ = ["SIGMA_LIMIT", "drive", "from_diffusers", "from_vae"]

IMPLIED = {
    "FlowMatchEulerDiscreteScheduler": "flow_prediction",
    "FlowMatchHeunDiscreteScheduler": "flow_prediction",
    "FlowMatchLCMScheduler": "flow_prediction",
    "IPNDMScheduler": "v_prediction",
}
"""What the networks of schedulers without a `prediction_type` predict."""

SIGMA_LIMIT = 1e3
"""The largest σ at which a driven joint is called. Flow matching starts at α = 0, where σ = ∞: the
joint is then called at this σ on a state with the same noise, whose D is off by about Σ_0 ε / σ.
The prediction is that of the scheduler's own state, in which it then finds this D."""


def from_diffusers(model: Callable[..., Any], scheduler: Any) -> NetworkScore:
    """The score of a diffusers network, in the parameterisation that its scheduler knows.

    Timesteps are interpolated in log σ between those at which the network was trained, and never
    rounded; beyond them the nearest is used. Flow networks receive `num_train_timesteps` t, mostly
    1000 t, EDM networks the `precondition_noise` of their scheduler. Its `clip_sample` and
    `thresholding` are ignored, because a score is not clipped. Of a network that returns twice the
    channels, as one with learned variances does, the first half is used, which is the mean.

    The network and its conditions are in its own dtype (`model.dtype`), timesteps and the result in
    that of the state: `model.half()` with a float32 state works. Nothing is moved between devices.

    Args:
        model: `model(x_t, timestep=t, **condition)` that returns a tensor, a tuple, or an output
            whose first entry is `.sample`: UNet2DModel, UNet2DConditionModel, DiT,
            SD3Transformer2DModel, ... Conditions have the model's own names, per node:
            `{"class_labels": label}`, `{"encoder_hidden_states": prompt}` with `[tokens, d]`,
            `{"added_cond_kwargs": {...}}`. Wrap a model that packs its input or expects t in [0, 1]
            (Flux) in a function of this form.
        scheduler: a diffusers scheduler with the training schedule of the network, that is, one
            made by `from_config` of the model's own. It need not be the one that samples.

    Raises:
        ScoreError: the prediction type is unknown, there are no `alphas_cumprod` to interpolate, or
            flow times are inverted; when called, the model is on another device than the state.
    """
    _check_model(model)
    kind = _prediction_type(scheduler)
    if hasattr(scheduler, "precondition_outputs"):
        score = from_denoiser(partial(_preconditioned, model, scheduler))
    elif kind == "flow_prediction":
        n = _config(scheduler)["num_train_timesteps"]
        score = from_flow(partial(_predicted, model, n))
    else:
        adapters = {"epsilon": from_vp_eps, "sample": from_vp_sample, "v_prediction": from_vp_v}
        score = adapters[kind](partial(_predicted, model, 1), _timesteps(scheduler))
    return replace(score, network=model)


def _check_model(model: Any) -> None:
    """Raises `ScoreError` for what stands around a network, or beside it."""
    parts = getattr(model, "components", None)
    if isinstance(parts, dict):
        found = " or ".join(f"pipeline.{x}" for x in ("unet", "transformer") if x in parts)
        raise ScoreError(
            f"from_diffusers: expected a network, got the pipeline {type(model).__name__}. Give "
            f"{found or 'its network'}, and pipeline.scheduler."
        )
    if hasattr(model, "set_timesteps"):
        raise ScoreError(
            f"from_diffusers: expected a network, got the scheduler {type(model).__name__}. The "
            "network comes first."
        )


# What networks predict are functions of the module, so that their scores can be pickled.
def _predicted(
    model: Callable[..., Any], n: float, x_t: Tensor, t: Tensor, **condition: Any
) -> Tensor:
    """The prediction of a network whose timesteps are n t."""
    check_device(model, x_t)
    dtype, like = network_dtype(model, x_t.dtype), x_t.detach()  # whatever is done to x_t
    cast = map_tensors(lambda c: c.to(dtype) if c.is_floating_point() else c, condition)
    output = model(x_t.to(dtype), timestep=n * t, **cast)
    values = output[0] if isinstance(output, tuple) and output else alone(output)
    if isinstance(values, Tensor) and values.shape[1:2] == (2 * like.shape[1:2].numel(),):
        values = values.chunk(2, dim=1)[0]
    return received(values, like, named(model), cast=True)


def _preconditioned(
    model: Callable[..., Any], scheduler: Any, x: Tensor, sigma: Tensor, **condition: Any
) -> Tensor:
    s = beside(sigma, x)
    seen, noise = scheduler.precondition_inputs(x, s), scheduler.precondition_noise(sigma)
    value = _predicted(model, 1, seen, noise, **condition)
    check_gradient(value, x, named(model))  # x itself is added
    denoised: Tensor = scheduler.precondition_outputs(x, value, s)
    return denoised


def _config(scheduler: Any) -> dict[str, Any]:
    config = getattr(scheduler, "config", None)
    if config is None:
        raise ScoreError(
            f"expected a diffusers scheduler, got a {type(scheduler).__name__}, which has no "
            "config. Adapt networks of other libraries with pgmdiff.scores."
        )
    return dict(config)


def _prediction_type(scheduler: Any) -> str:
    """What a scheduler's network predicts: epsilon, sample, v_prediction or flow_prediction."""
    config = _config(scheduler)
    implied = (IMPLIED[c.__name__] for c in type(scheduler).__mro__ if c.__name__ in IMPLIED)
    kind = config.get("prediction_type") or next(implied, None)
    if kind not in ("epsilon", "sample", "v_prediction", "flow_prediction"):
        raise ScoreError(
            f"{type(scheduler).__name__}: expected prediction_type 'epsilon', 'sample', "
            f"'v_prediction' or 'flow_prediction', got {kind!r}. Adapt the network with "
            "pgmdiff.scores.from_denoiser, or use another scheduler."
        )
    if config.get("invert_sigmas"):
        raise ScoreError(
            f"{type(scheduler).__name__}: invert_sigmas=True runs time from noise to data. Adapt "
            "the network with pgmdiff.scores.from_flow, whose documentation shows how."
        )
    return str(kind)


def _timesteps(scheduler: Any) -> Callable[[Tensor], Tensor]:
    """The map from σ to the timesteps of a variance-preserving network."""
    config = _config(scheduler)
    if config.get("timestep_type") == "continuous" and config["prediction_type"] == "v_prediction":
        return _quarter_of_log
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        raise ScoreError(
            f"{type(scheduler).__name__}: it has no alphas_cumprod to find timesteps by. Use "
            "pgmdiff.scores.from_vp_eps, from_vp_v or from_vp_sample with timesteps of your own."
        )
    alphas = torch.as_tensor(alphas).double().tolist()
    if config.get("rescale_betas_zero_snr") and alphas[-1] >= alphas[-2]:
        alphas[-1] = 0.0  # of which some schedulers make 2^-24, more than the one before it
    return Timesteps(alphas)


def _quarter_of_log(sigma: Tensor) -> Tensor:
    return 0.25 * sigma.log()


def from_vae(vae: Any) -> Callable[[Tensor], Tensor]:
    """The decoder of an autoencoder for `latents.decode`: vae.decode(z · std / scale + mean).

    Group normalisation and attention in `AutoencoderKL` see the whole input, so that windows of it
    can only be blended; see `latents`. An autoencoder in float16 whose config has `force_upcast`,
    as by default, would overflow, and decodes with copies of its weights in float32, made for the
    call; `vae.register_to_config(force_upcast=False)` prevents this.

    Args:
        vae: an autoencoder such as `AutoencoderKL`, whose config may have `scaling_factor`,
            `latents_std`, and `latents_mean` or in its place `shift_factor`, each one number or one
            per channel; mean and standard deviation may also be buffers.

    Raises:
        ShapeError: when called, the latents have other channels.
        ScoreError: when called, the image is not finite, or the autoencoder on another device.
    """
    return partial(_decoded, vae)


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    def known(name: str, default: float, like: Tensor) -> Tensor:
        value = vae.config.get(name)
        value = getattr(vae, "_buffers", {}).get(name) if value is None else value
        values = torch.as_tensor(default if value is None else value).flatten().to(like)
        if len(values) not in (1, like.shape[1]):
            raise ShapeError(
                f"from_vae: expected latents of {len(values)} channels, as {name} has, got "
                f"{tuple(like.shape)}."
            )
        return values.reshape(-1, *[1] * (like.ndim - 2))

    check_device(vae, latents)
    dtype = network_dtype(vae, latents.dtype)
    spread = known("latents_std", 1.0, latents) / known("scaling_factor", 1.0, latents)
    mean = known("latents_mean", vae.config.get("shift_factor") or 0.0, latents)
    z = latents * spread + mean
    if dtype == torch.float16 and vae.config.get("force_upcast"):
        dtype, named = torch.float32, [*vae.named_parameters(), *vae.named_buffers()]
        wide = {f"vae.{name}": t.float() for name, t in named if t.is_floating_point()}
        image = functional_call(_Decoding(vae), wide, z.float())
    else:
        image = vae.decode(z.to(dtype), return_dict=False)[0]
    image = image.to(latents.dtype)
    if is_finite(latents) and not is_finite(image):
        raise ScoreError(
            f"from_vae: the image that {type(vae).__name__} made of finite latents in {dtype} "
            "is not finite. Use vae.to(torch.float32) or torch.bfloat16, which do not overflow."
        )
    return image  # type: ignore[no-any-return]


class _Decoding(torch.nn.Module):
    """The decoding half of an autoencoder as a module, whose weights `functional_call` replaces."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Any:
        return self.vae.decode(z, return_dict=False)[0]


@torch.no_grad()
def drive(
    joint: Score,
    scheduler: Any,
    *,
    steps: int | None = None,
    start: int = 0,
    x: Tensor | None = None,
    shape: Sequence[int] | None = None,
    mean: Tensor | float = 0.0,
    generator: Generator = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    progress: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Samples a joint with a diffusers scheduler.

    At every timestep the joint is called at the scheduler's own σ, its result is converted to what
    the `prediction_type` of the scheduler expects, and the scheduler takes one step. As in `sample`
    the memory of the joint, if its rule has one, is committed at the end of every step. The
    scheduler itself does not change: a copy runs, without learned variances (a joint has none) and
    without `clip_sample` and `thresholding` (a whole need not lie in [-1, 1] because the pieces of
    its network did; clamp in a denoiser of your own if you need to).

    The result is that of `sample(joint, from_scheduler(scheduler)[start:], x=u)` with the same
    solver, up to the scheduler's own arithmetic, which is float32 for any dtype. To vary given data
    (SDEdit, image-to-image), begin in the middle, at step k:

        x = scheduler.add_noise(data, noise, scheduler.timesteps[k * scheduler.order :][:1])
        drive(joint, scheduler, start=k, x=x)

    Of PNDM, whose first steps have several timesteps, that of step k is `_timesteps[-1 - k]`. As in
    `sample`, the `finish` of a conditioned score looks at the result.

    Args:
        joint: a joint, or any score `joint(x, sigma)`; conditions by `functools.partial`.
        scheduler: a scheduler with `step(model_output, timestep, sample)` and a prediction type;
            not an inverse, inpainting or token scheduler.
        steps: the number for `scheduler.set_timesteps`; None if you called it before, with its
            other arguments (`sigmas=`, `mu=`, ...).
        start: the number of steps to leave out. A scheduler that begins in the middle itself, by
            `set_begin_index` or since its `timesteps` were cut, begins there, and `start` counts
            from there. The history of a multistep scheduler begins empty, PNDM with PLMS.
        x: the start x_t of the first timestep in the scheduler's own convention (its "latents"),
            used unchanged; or
        shape: the shape `[batch, *event]` of a start drawn from N(α mean, init_noise_sigma²).
        mean: that of the data, as for `samplers.sample`, but without its warnings; α is the
            scheduler's first.
        generator: as for `samplers.sample`, with the same start from the same seed. A scheduler
            that draws noise does so from one torch.Generator per sample, so that its noise does not
            depend on the batch.
        callback: called at every timestep (schedulers with two evaluations per step have two) with
            a dict as that of `samplers.sample`: `x`, in the joint's convention, `i`, `sigma` and
            `denoised`, but no state.
        progress: whether to show a progress bar.
        dtype, device: as for `samplers.sample`.

    Returns:
        The last x_t, `[batch, *event]`: the sample, in the scheduler's own convention.

    Raises:
        ScoreError: the scheduler is of another kind, or a state is not finite.
        ShapeError: not exactly one of x and shape is given, or a start in the middle has no x.
        PgmdiffError: timesteps are neither given nor set, the start is not among them, or the state
            has half precision.
    """
    if (x is None) == (shape is None):
        raise ShapeError("drive: expected either x= or shape=, got both or neither. Give one.")
    check_drawn("drive", mean, shape)
    kind, driven = _prediction_type(scheduler), _copy(scheduler, steps)
    timesteps, whole = _begun(driven, start)
    if x is None and not whole:
        raise ShapeError(
            "drive: expected x= for a run that begins in the middle of its timesteps, got shape=. "
            "Give data with the noise of that timestep: scheduler.add_noise(data, noise, t)."
        )
    dtype = dtype or (torch.float32 if x is None else x.dtype)
    check_dtype("drive", dtype)
    like = torch.empty(tuple(shape or ()) if x is None else 0, dtype=dtype, device=device)
    noise = Noise.of(generator, len(like if x is None else x))
    if x is None:
        alpha, _ = _level(driven, kind, timesteps[0])
        mean = alpha * mean_of("drive", mean, like.shape, dtype, device)
        x = mean + float(getattr(driven, "init_noise_sigma", 1.0)) * noise(START, like)
    x = x.to(dtype=dtype, device=device)
    own: dict[str, Any] = {}  # one generator per sample, if the scheduler accepts generators
    seeds = noise.seeds(DRIVEN)
    if hasattr(driven, "noise_sampler_seed"):
        driven.noise_sampler_seed = seeds
    if "generator" in inspect.signature(driven.step).parameters:
        own["generator"] = [torch.Generator().manual_seed(seed) for seed in seeds] or None
    joint = begun(joint)
    for i, t in enumerate(tqdm(timesteps, disable=not progress, desc="sampling")):
        driven.scale_model_input(x, t) if hasattr(driven, "scale_model_input") else None
        if hasattr(driven, "derivatives"):  # LMS, which takes its order from the place in the table
            own["order"] = min(len(driven.derivatives) + 1, 4)
        alpha, sigma_t = _level(driven, kind, t)
        sigma = sigma_t / max(alpha, sigma_t / SIGMA_LIMIT)
        u = x * (sigma / sigma_t)
        denoised = denoise(joint, u, sigma)
        output = _prediction(kind, driven, x, alpha, sigma_t, denoised)
        seen = {"x": u, "i": i, "sigma": sigma, "denoised": denoised.clone()} if callback else {}
        x = driven.step(output, t, x, return_dict=False, **own)[0].to(dtype)
        if not is_finite(x):
            raise ScoreError(
                f"drive: the state is not finite after timestep {float(t):g}, at σ = {sigma:g}. "
                "The score is not finite there, or the step is too large for it."
            )
        if hasattr(joint, "commit") and _ends_step(driven):
            joint.commit()
        if callback is not None:
            callback(seen)
    finish, ends = getattr(joint, "finish", None), getattr(driven, "sigmas", [0.0])[-1]
    if finish is not None and ends == 0 and getattr(driven, "final_alpha_cumprod", 1.0) == 1:
        finish(x)  # a noised state need not meet an observation
    return x


def _copy(scheduler: Any, steps: int | None) -> Any:
    """A copy before its first step, without clipping and without learned variances."""
    name, driven = type(scheduler).__name__, deepcopy(scheduler)
    taken = list(inspect.signature(getattr(driven, "step", lambda: None)).parameters)
    if taken[:3] != ["model_output", "timestep", "sample"] or "prev_timestep" in taken:
        raise ScoreError(
            "drive: expected a scheduler that steps by (model_output, timestep, sample), got a "
            f"{name} with step({', '.join(taken)}). Sample with pgmdiff.samplers instead."
        )
    off = {key: False for key in ("clip_sample", "thresholding") if key in driven.config}
    driven.register_to_config(**off)
    if str(_config(driven).get("variance_type")).startswith("learned"):
        driven.register_to_config(variance_type="fixed_small")
        driven.variance_type = "fixed_small"
    used = any(getattr(driven, name, None) for name in ("step_index", "counter"))
    if steps is not None:
        driven.set_timesteps(steps)
    elif used or not getattr(driven, "num_inference_steps", None):
        raise PgmdiffError(
            f"drive: expected steps=, or a {name} on which set_timesteps was just called."
        )
    if driven.timesteps[-1] > driven.timesteps[0]:
        raise ScoreError(
            f"drive: expected falling timesteps, but those of a {name} rise: it adds noise. Give "
            "one that removes it."
        )
    return driven


def _begun(driven: Any, start: int) -> tuple[Tensor, bool]:
    """The timesteps of a run that leaves out steps, and whether it is the whole run."""
    begin, timesteps = remaining(driven)
    order, n = getattr(driven, "order", 1), len(timesteps)
    if hasattr(driven, "plms_timesteps"):  # PNDM, whose steps have several timesteps
        falling = torch.as_tensor(driven._timesteps[::-1].copy())
        begin, n = int((falling > timesteps[0]).sum()), int((falling <= timesteps[0]).sum())
    if not isinstance(start, int) or not 0 <= start * order < n:
        raise PgmdiffError(
            f"drive: expected start= from 0 to {(n - 1) // order}, the steps of this "
            f"{type(driven).__name__}, got {start!r}."
        )
    begin += start * order
    if hasattr(driven, "set_begin_index"):
        driven.set_begin_index(begin)  # and timesteps in the places that this index counts
        gone = timesteps[:1].expand(begin - start * order)
        driven.timesteps = torch.cat([gone, timesteps])
    if hasattr(driven, "plms_timesteps") and begin:
        # it counts its calls, and makes the second of them one step back
        driven.register_to_config(skip_prk_steps=True)
        return torch.cat([falling[begin : begin + 2], falling[begin + 1 :]]), False
    return timesteps[start * order :], not begin


def _ends_step(driven: Any) -> bool:
    """Whether the latest timestep ended a step, and was not an inner evaluation of one."""
    if hasattr(driven, "order_list"):  # DPM-Solver singlestep: the orders of its timesteps
        return bool([*driven.order_list, 1][driven.step_index] == 1)
    if hasattr(driven, "plms_timesteps"):  # PNDM: Runge-Kutta by fours, or first a step made twice
        warming = 0 if driven.config.skip_prk_steps else len(driven.prk_timesteps)
        counter = int(driven.counter)
        return counter % 4 == 0 if counter <= warming else counter != 1
    return bool(getattr(driven, "state_in_first_order", True))


def _level(driven: Any, kind: str, t: Tensor) -> tuple[float, float]:
    """α_t and σ_t of the state from which a scheduler steps at t."""
    i = getattr(driven, "step_index", None)
    i = getattr(driven, "begin_index", None) or 0 if i is None else i
    if hasattr(driven, "sigmas"):
        if hasattr(driven, "sigmas_interpol") and not driven.state_in_first_order:
            ancestral = hasattr(driven, "sigmas_down")  # it stores them one place earlier
            return 1.0, float(driven.sigmas_interpol[i - ancestral])
        sigma = driven.sigmas[i]
        if hasattr(driven, "_sigma_to_alpha_sigma_t"):
            alpha, sigma = driven._sigma_to_alpha_sigma_t(sigma)
        else:
            alpha = 1 - sigma if kind == "flow_prediction" else 1.0
        return float(alpha), float(sigma)
    if "IPNDMScheduler" in (c.__name__ for c in type(driven).__mro__):
        return float(driven.alphas[i]), float(driven.betas[i])
    squared = float(driven.alphas_cumprod[int(t)])
    return squared**0.5, (1 - squared) ** 0.5


def _prediction(
    kind: str, driven: Any, x: Tensor, alpha: float, sigma_t: float, denoised: Tensor
) -> Tensor:
    """What a network of this kind would have predicted at x = α D + σ_t ε."""
    if hasattr(driven, "precondition_outputs"):
        c_out = float(driven.precondition_outputs(0.0, 1.0, sigma_t))
        skipped: Tensor = driven.precondition_outputs(x, 0.0, sigma_t)
        return (denoised - skipped) / c_out
    eps: Tensor = (x - alpha * denoised) / sigma_t
    if kind == "v_prediction":
        velocity: Tensor = (alpha * eps - sigma_t * denoised) / math.hypot(alpha, sigma_t)
        return velocity
    return {"epsilon": eps, "sample": denoised, "flow_prediction": eps - denoised}[kind]
