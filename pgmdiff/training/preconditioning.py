r"""EDM preconditioning, which makes a network a denoiser, and the weighted loss that trains it.

    D(x, σ) = m + c_skip (x - m) + c_out F(c_in (x - m), ln(σ / σ_1) / 4),
    c_skip = σ_d² / (σ² + σ_d²),  c_out = σ σ_d / √(σ² + σ_d²),  c_in = 1 / √(σ² + σ_d²)

    L = E_{x, σ, ε} [ λ(σ) ‖D(x + σ ε, σ) - x‖² ],   λ(σ) = (σ² + σ_d²) / (σ σ_d)²

with m and σ_d the mean and the standard deviation of the data, and ln σ ~ N(p_mean, p_std²), by
default around 0.6 σ_d. Under this weighting a network of zeros scores 1 at every σ (Karras,
Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative models", 2022,
Table 1).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pgmdiff.errors import check_scale
from pgmdiff.noise import Generator, torch_generator
from pgmdiff.scores.adapters import beside
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.scores.walls import named, received
from pgmdiff.text import brief

__all__ = ["EDMDenoiser", "denoising_loss"]


class EDMDenoiser(nn.Module):
    """A network under EDM preconditioning, called as `denoise(x, sigma, **condition)`.

    σ is one noise level per sample, `[batch]`, or per element, with the shape of x; the network
    receives its logarithm in the same shape.

    Args:
        network: the network `F(x, noise, **condition)` of x `[batch, *shape]` and noise `[batch]`.
        sigma_data: the standard deviation σ_d of the data, in the data's units.
        mean: the mean m of the data.
        unit: the noise level σ_1 at which the network's `noise` is 0. With σ_d it makes the
            network independent of units, as `training.fit` does; 1 is EDM's own.
    """

    def __init__(
        self, network: nn.Module, sigma_data: float, mean: float = 0.0, unit: float = 1.0
    ) -> None:
        super().__init__()
        check_scale("EDMDenoiser", "sigma_data", sigma_data)
        check_scale("EDMDenoiser", "unit", unit)
        self.network = network
        self.sigma_data, self.mean, self.unit = sigma_data, mean, unit

    def forward(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        s = sigma if sigma.shape == x.shape else beside(sigma, x)
        total = s**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        c_out = s * self.sigma_data / total.sqrt()
        c_in = total.rsqrt()
        centred = x - self.mean if self.mean else x
        who, noise = named(self.network), (sigma / self.unit).log() / 4
        value = received(self.network(c_in * centred, noise, **condition), x, who, cast=True)
        check_gradient(value, x, who)
        denoised = c_skip * centred + c_out * value
        return denoised + self.mean if self.mean else denoised


def denoising_loss(
    denoise: Callable[..., Tensor],
    clean: Tensor,
    *,
    sigma_data: float,
    p_mean: float | None = None,
    p_std: float = 1.2,
    per_element: bool = False,
    generator: Generator = None,
    record: Callable[[Tensor, Tensor], object] | None = None,
    **condition: Any,
) -> Tensor:
    """The weighted denoising error of a batch, averaged over its entries; see the module's formula.

    Args:
        denoise: `denoise(x, sigma, **condition)`, x `[batch, *shape]`, sigma `[batch]`.
        clean: `[batch, *shape]`.
        sigma_data: standard deviation σ_d of the data, in their units.
        p_mean: mean of ln σ; if None, ln 0.6 σ_d, which is EDM's -1.2 for its σ_d of 0.5.
        p_std: standard deviation of ln σ.
        per_element: whether elements have noise levels of their own: a random share of a sample's
            elements has a second level, and sigma has the shape of x.
        generator: the source of the noise levels and the noise, one stream for the batch; see
            `pgmdiff.noise.Generator`. In a training loop give a `torch.Generator` or None: an
            integer would repeat the same noise at every step.
        record: is called with the error of every entry, without a gradient, and with sigma.
        condition: keyword arguments of the denoiser.

    Raises:
        PgmdiffError: sigma_data is not positive, or the generator is a sequence.
    """
    check_scale("denoising_loss", "sigma_data", sigma_data)
    p_mean = math.log(0.6 * sigma_data) if p_mean is None else p_mean
    generator = torch_generator(generator, "denoising_loss")
    normal = torch.randn(len(clean), generator=generator, dtype=clean.dtype)
    sigma = (p_mean + p_std * normal).exp()
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype).to(clean.device)
    if per_element:
        share = beside(torch.rand(len(clean), generator=generator), clean)
        other = (p_mean + p_std * torch.randn(len(clean), generator=generator)).exp().to(sigma)
        second = torch.rand(clean.shape, generator=generator) < share
        sigma = torch.where(second, beside(other, clean), beside(sigma, clean))
    sigma = sigma.to(clean.device)
    s = sigma if per_element else beside(sigma, clean)
    weight = (s**2 + sigma_data**2) / (s * sigma_data) ** 2
    noisy = clean + s * noise
    value = received(denoise(noisy, sigma, **condition), clean, lambda: brief(denoise), cast=True)
    losses: Tensor = weight * (value - clean) ** 2
    if record is not None:
        record(losses.detach(), sigma)
    return losses.mean()
