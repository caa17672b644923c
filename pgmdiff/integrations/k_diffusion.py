"""Scores from the denoisers of k-diffusion and EDM, and joints for the samplers of k-diffusion.

Their call is `model(x, sigma, **extra_args) -> D(x, σ)` at variance-exploding noise (Karras et al.,
"Elucidating the design space of diffusion-based generative models", 2022), as is our own call of a
denoiser: only dtypes are converted. k-diffusion pins an old NumPy; nothing here imports it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor

from pgmdiff.integrations.shared import Runs, in_own_dtype
from pgmdiff.scores.adapters import NetworkScore, Score, from_denoiser

__all__ = ["from_k_diffusion", "to_k_diffusion"]


def from_k_diffusion(model: Callable[..., Tensor]) -> NetworkScore:
    """The score of a k-diffusion denoiser or an EDM network.

    The network is called in its own dtype (in half precision under `torch.autocast`, so that only
    its layers round), and its result is returned in that of the state. The wrappers of discrete
    models in k-diffusion (`CompVisDenoiser`, ...) round σ to a timestep unless they are made with
    `quantize=False`.

    Args:
        model: `model(x, sigma, **condition) -> D`, such as `K.layers.Denoiser(...)` or an
            `EDMPrecond`; conditions such as `class_labels` are given to `compose`.

    Raises:
        ScoreError: when called, the model is on another device than the state.
    """
    return replace(from_denoiser(partial(in_own_dtype, model)), network=model)


def to_k_diffusion(joint: Score, *, evaluations: int = 1) -> Callable[..., Tensor]:
    """A joint as the `model` of k-diffusion's samplers: `sample_dpmpp_2m(model, x, sigmas)`.

    Their `extra_args` are conditions. The samplers draw noise from the global generator unless they
    are given a `noise_sampler`.

    Args:
        joint: a joint, or any score `joint(x, sigma, **condition)`.
        evaluations: calls per step of the sampler, which read the same memory of the joint, if it
            has one; see `pgmdiff.integrations`. 2 for Heun and DPM-Solver 2.
    """
    return Runs(joint, evaluations)
