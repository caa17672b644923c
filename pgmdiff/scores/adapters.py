r"""The one call of every model, and adapters for networks that speak otherwise.

A score is any plain callable

    score(x, sigma, **condition) -> ∇ log q_σ(x),      q_σ = q * N(0, σ² I)  (variance exploding)

with x `[batch, *shape]`, sigma `[batch]` and the result like x. It corresponds to the denoiser
D(x, σ) = E[x_0 | x_σ = x] by s = (D - x) / σ² (Tweedie's formula; Robbins, 1956), and to the noise
ε = (x - D) / σ by s = -ε / σ. Networks see x_t = α x instead, noised by α σ:

    variance preserving, α = 1 / √(1 + σ²):     ε,     x_0,     v = α ε - α σ x_0
    flow, α = 1 - t = 1 / (1 + σ):              velocity = ε - x_0

(Salimans, Ho, "Progressive distillation for fast sampling of diffusion models", 2022; Lipman,
Chen, Ben-Hamu, Nickel, Le, "Flow matching for generative modeling", 2023): `from_vp_eps`,
`from_vp_sample`, `from_vp_v`, `from_flow`. Each finds D and ε from what is predicted, not one from
the other where that divides by a small number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgmdiff.errors import ScoreError, ShapeError
from pgmdiff.text import brief, described, span

__all__ = [
    "Score",
    "Timesteps",
    "denoise",
    "from_denoiser",
    "from_eps",
    "from_flow",
    "from_vp_eps",
    "from_vp_sample",
    "from_vp_v",
    "padded",
]

Score = Callable[..., Tensor]
"""`score(x, sigma, **condition)`: x `[batch, *shape]`, sigma `[batch]`, to ∇ log q_σ(x), like x."""


def denoise(score: Score, x: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
    """D(x, σ) = x + σ² s(x, σ); a score's own `denoise` is preferred where it has one.

    Args:
        score: of x.
        x: `[batch, *shape]`.
        sigma: `[batch]`, or one number for all.
        condition: passed on.
    """
    sigma = per_sample(sigma, x)
    own = getattr(score, "denoise", None)
    if own is not None:
        denoised: Tensor = own(x, sigma, **condition)
        return denoised
    return x + beside(sigma, x) ** 2 * score(x, sigma, **condition)


def per_sample(sigma: Tensor | float, x: Tensor) -> Tensor:
    """σ as `[batch]`, in the dtype and on the device of x."""
    if isinstance(sigma, float):
        return x.new_ones(len(x)) * sigma  # not a constant of a compiled step, which serves every σ
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    return sigma.expand(x.shape[0]) if sigma.ndim == 0 else sigma


def beside(sigma: Tensor, x: Tensor) -> Tensor:
    """σ `[batch]` as `[batch, 1, ...]`, to multiply x with."""
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class DenoiserScore:
    """The score (D - x) / σ² of a denoiser; see `from_denoiser`."""

    denoise: Callable[..., Tensor]

    def __repr__(self) -> str:
        return described(self, brief(self.denoise))

    def __call__(self, x: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        sigma = per_sample(sigma, x)
        return (self.denoise(x, sigma, **condition) - x) / beside(sigma, x) ** 2


def from_denoiser(denoiser: Callable[..., Tensor]) -> DenoiserScore:
    """The score s = (D - x) / σ² of a denoiser. Defined for σ > 0.

    Args:
        denoiser: `denoiser(x, sigma, **condition) -> E[x_0 | x]`, x `[batch, *shape]` at variance
            exploding noise, sigma `[batch]`: the call of EDM and k-diffusion networks.

    Raises:
        ScoreError: it cannot be called.
    """
    _called("from_denoiser", denoiser)
    return DenoiserScore(denoiser)


@dataclass(frozen=True, eq=False)
class EpsScore:
    """The score -ε / σ of a noise-predicting network; see `from_eps`."""

    eps: Callable[..., Tensor]

    def __repr__(self) -> str:
        return described(self, brief(self.eps))

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        return -self.eps(x, sigma, **condition) / beside(sigma, x)


def from_eps(eps: Callable[..., Tensor]) -> EpsScore:
    """The score s = -ε / σ of a variance-exploding noise-predicting network. Defined for σ > 0.

    Args:
        eps: `eps(x, sigma, **condition)`, predicting ε of x = x_0 + σ ε. Most networks trained as
            DDPM see variance-preserving noise instead: those are for `from_vp_eps`.

    Raises:
        ScoreError: it cannot be called.
    """
    _called("from_eps", eps)
    return EpsScore(eps)


def _called(who: str, *functions: object) -> None:
    for function in functions:
        if not callable(function):
            raise ScoreError(
                f"{who}: expected a callable network(x, sigma, **condition), and for a time a "
                f"callable t(sigma), got {type(function).__name__}."
            )


@dataclass(frozen=True)
class Timesteps:
    """σ to the timesteps of a variance-preserving network, interpolated in log σ, never rounded.

    With ᾱ_t the network's cumulative products, σ_t = √((1 - ᾱ_t) / ᾱ_t). Outside the network's
    range the nearest timestep is used; timesteps of ᾱ_t = 0 (σ = ∞) are left out.

    Args:
        alphas_cumprod: ᾱ_t for t = 0, 1, ..., decreasing within (0, 1), but for a last 0.
    """

    alphas_cumprod: Sequence[float]

    def __repr__(self) -> str:
        sigmas = np.exp(self._log_sigmas).tolist()
        return described(self, span(sigmas, "timestep", "σ = "))

    @cached_property
    def _log_sigmas(self) -> "np.ndarray":
        alphas = np.asarray(self.alphas_cumprod, np.float64)
        alphas = alphas[alphas > 0]
        return np.asarray(0.5 * (np.log1p(-alphas) - np.log(alphas)))

    def __call__(self, sigma: Tensor) -> Tensor:
        """σ, any shape, to timesteps in its dtype."""
        wanted = sigma.detach().double().log().cpu().numpy()
        steps = np.interp(wanted, self._log_sigmas, np.arange(len(self._log_sigmas)))
        return torch.from_numpy(np.asarray(steps)).to(sigma)

    def sigmas(self, timesteps: Tensor) -> Tensor:
        """The σ of timesteps, whole or not: the inverse within the range."""
        wanted = timesteps.detach().double().cpu().numpy()
        logs = np.interp(wanted, np.arange(len(self._log_sigmas)), self._log_sigmas)
        return torch.from_numpy(np.exp(np.asarray(logs))).to(timesteps)


@dataclass(frozen=True)
class NetworkScore:
    """The score -ε / σ of a network that gives D and ε; `denoise` is D. Defined for σ > 0.

    Attributes:
        predict: `predict(x, sigma, **condition) -> (D, ε)`.
        network: what it is made of.
    """

    predict: Callable[..., tuple[Tensor, Tensor]]
    network: Callable[..., Any] | None = None

    def __repr__(self) -> str:
        return described(self, brief(self.predict if self.network is None else self.network))

    def __call__(self, x: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        sigma = per_sample(sigma, x)
        _, eps = self.predict(x, sigma, **condition)
        return -eps / beside(sigma, x)

    def denoise(self, x: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        denoised, _ = self.predict(x, per_sample(sigma, x), **condition)
        return denoised


def from_vp_eps(eps: Callable[..., Tensor], timesteps: Callable[[Tensor], Tensor]) -> NetworkScore:
    r"""The variance-exploding score of a variance-preserving noise-predicting network.

    The network sees x_t = α x with α = 1 / √(1 + σ²) at timestep t(σ); D = x - σ ε.

    Args:
        eps: `eps(x_t, t, **condition)`, predicting ε of x_t = α x_0 + √(1 - α²) ε.
        timesteps: σ `[batch]` to t `[batch]`; see `Timesteps`.

    Raises:
        ScoreError: one of them cannot be called.
    """
    _called("from_vp_eps", eps, timesteps)

    def predict(x: Tensor, sigma: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        s = beside(sigma, x)
        noise = eps(x * (1 + s**2).rsqrt(), timesteps(sigma), **condition)
        return x - s * noise, noise

    return NetworkScore(predict, eps)


def from_vp_sample(
    sample: Callable[..., Tensor], timesteps: Callable[[Tensor], Tensor]
) -> NetworkScore:
    r"""The variance-exploding score of a variance-preserving network that predicts x_0 itself.

    Args:
        sample: `sample(x_t, t, **condition)`, predicting x_0 of x_t = α x_0 + √(1 - α²) ε.
        timesteps: σ `[batch]` to t `[batch]`; see `Timesteps`.

    Raises:
        ScoreError: one of them cannot be called.
    """
    _called("from_vp_sample", sample, timesteps)

    def predict(x: Tensor, sigma: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        s = beside(sigma, x)
        denoised = sample(x * (1 + s**2).rsqrt(), timesteps(sigma), **condition)
        return denoised, (x - denoised) / s

    return NetworkScore(predict, sample)


def from_vp_v(v: Callable[..., Tensor], timesteps: Callable[[Tensor], Tensor]) -> NetworkScore:
    r"""The variance-exploding score of a variance-preserving v-predicting network.

    D = α x_t - σ_t v and ε = σ_t x_t + α v, with α = 1 / √(1 + σ²) and σ_t = α σ.

    Args:
        v: `v(x_t, t, **condition)`, predicting α ε - σ_t x_0 of x_t = α x_0 + σ_t ε.
        timesteps: σ `[batch]` to t `[batch]`; see `Timesteps`.

    Raises:
        ScoreError: one of them cannot be called.
    """
    _called("from_vp_v", v, timesteps)

    def predict(x: Tensor, sigma: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        alpha = (1 + beside(sigma, x) ** 2).rsqrt()
        sigma_t, x_t = alpha * beside(sigma, x), alpha * x
        velocity = v(x_t, timesteps(sigma), **condition)
        return alpha * x_t - sigma_t * velocity, sigma_t * x_t + alpha * velocity

    return NetworkScore(predict, v)


def from_flow(velocity: Callable[..., Tensor]) -> NetworkScore:
    r"""The variance-exploding score of a flow-matching velocity on straight paths.

    σ = t / (1 - t): the network sees x_t = (1 - t) x at t = σ / (1 + σ), with no interpolation;
    D = x_t - t v and ε = x_t + (1 - t) v.

    Args:
        velocity: `velocity(x_t, t, **condition)` with t in [0, 1], 0 at the data, predicting
            ε - x_0 of x_t = (1 - t) x_0 + t ε. If a network's time runs from noise to data give
            `lambda x, t, **c: -network(x, 1 - t, **c)`.

    Raises:
        ScoreError: it cannot be called.
    """
    _called("from_flow", velocity)

    def predict(x: Tensor, sigma: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        alpha, t = 1 / (1 + beside(sigma, x)), beside(sigma / (1 + sigma), x)
        x_t = alpha * x
        v = velocity(x_t, sigma / (1 + sigma), **condition)
        return x_t - t * v, x_t + alpha * v

    return NetworkScore(predict, velocity)


def padded(score: Score, shape: Sequence[int], mode: str = "reflect") -> Score:
    """The score of crops by a model that takes one size only: pad, evaluate, crop.

    A stand-in for the missing model of an overlap: x is centred in `shape` by padding, and the
    part of the score that falls on x is kept. Never exact: the padding pretends to know what is
    around the crop. Prefer a model trained on crops (`training.random_crops`), or a Gaussian
    fitted to overlap data (`gaussian.Gaussian.fit`).

    Args:
        score: of `[batch, *shape]`.
        shape: what the model takes; where it has several axes, the first (channels) is x's own.
        mode: of `torch.nn.functional.pad`.

    Raises:
        ShapeError: x is larger than `shape` on some axis, or has other channels.
    """

    def cropped(x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        missing = [want - have for want, have in zip(shape, x.shape[1:], strict=True)]
        narrow = any(m > 2 * (s - 1) for m, s in zip(missing, x.shape[1:], strict=True) if m)
        if mode == "reflect" and narrow:
            raise ShapeError(
                f"padded: {tuple(x.shape[1:])} is too narrow to be reflected up to {tuple(shape)}: "
                "a side takes less than itself on either end. Use mode='replicate'."
            )
        if min(missing) < 0 or (len(shape) > 1 and missing[0]):
            raise ShapeError(
                f"padded: expected x no larger than {tuple(shape)} and equal to it on the first "
                f"axis, got {tuple(x.shape[1:])}."
            )
        before = [m // 2 for m in missing]
        widths = [(b, m - b) for b, m in zip(before, missing, strict=True)]
        spatial = widths[1:] or widths  # all that torch pads by reflection
        pads = [side for pair in reversed(spatial) for side in pair]
        whole = score(F.pad(x, pads, mode=mode), sigma, **condition)
        sides = zip(before, x.shape[1:], strict=True)
        kept = tuple(slice(start, start + side) for start, side in sides)
        return whole[(slice(None), *kept)]

    return cropped
