r"""A small convolutional U-Net and the EDM preconditioning that makes it a denoiser.

    D(x, σ) = c_skip x + c_out F(c_in x, ln σ / 4),
    c_skip = σ_d² / (σ² + σ_d²),  c_out = σ σ_d / √(σ² + σ_d²),  c_in = 1 / √(σ² + σ_d²)

with σ_d the standard deviation of the data (Karras, Aittala, Aila, Laine, "Elucidating the
design space of diffusion-based generative models", 2022, Table 1). The network is fully
convolutional, so that one set of weights evaluates windows and their overlaps.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from pgmdiff.errors import ShapeError
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.scores.walls import named, received

__all__ = ["EDMDenoiser", "UNet", "trained"]

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d}
POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d}


class NoiseEmbedding(nn.Module):
    """Fourier features of the noise level, followed by a small perceptron."""

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.linspace(-2, 4, features // 2))
        self.mlp = nn.Sequential(
            nn.Linear(features, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU()
        )

    def forward(self, noise: Tensor) -> Tensor:
        angles = noise[:, None] * self.frequencies
        features: Tensor = self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))
        return features


class ResidualBlock(nn.Module):
    """Two convolutions, between which the noise embedding scales and shifts the channels."""

    def __init__(self, channels_in: int, channels_out: int, features: int, axes: int) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[axes]
        self.norm_in = nn.GroupNorm(8, channels_in)
        self.conv_in = convolution(channels_in, channels_out, 3, padding=1)
        self.modulation = nn.Linear(features, 2 * channels_out)
        self.norm_out = nn.GroupNorm(8, channels_out)
        self.conv_out = convolution(channels_out, channels_out, 3, padding=1)
        alike = channels_in == channels_out
        self.skip = nn.Identity() if alike else convolution(channels_in, channels_out, 1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        modulation = rearrange(self.modulation(embedding), "b (two c) -> two b c", two=2)
        scale, shift = modulation.reshape(*modulation.shape, *[1] * (x.ndim - 2))
        hidden = self.norm_out(self.conv_in(F.silu(self.norm_in(x))))
        out: Tensor = self.skip(x) + self.conv_out(F.silu(hidden * (1 + scale) + shift))
        return out


class UNet(nn.Module):
    """A convolutional U-Net for images or series whose sides are multiples of 2^(levels - 1).

    Args:
        channels: the number of channels of an image or series.
        widths: the number of channels of each resolution level, a multiple of 8; each level halves
            the sides.
        features: the size of the noise embedding.
        axes: 2 for images `[batch, channels, height, width]`, 1 for series `[batch, channels, n]`.
    """

    def __init__(
        self,
        channels: int = 1,
        widths: tuple[int, ...] = (32, 64, 64),
        features: int = 64,
        axes: int = 2,
    ) -> None:
        super().__init__()
        self.axes = axes
        self.multiple = 2 ** (len(widths) - 1)
        self.embedding = NoiseEmbedding(features)
        self.enter = CONVOLUTIONS[axes](channels, widths[0], 3, padding=1)
        above = (widths[0], *widths[:-1])
        self.down = nn.ModuleList(
            ResidualBlock(a, w, features, axes) for a, w in zip(above, widths, strict=True)
        )
        self.middle = ResidualBlock(widths[-1], widths[-1], features, axes)
        self.up = nn.ModuleList(
            ResidualBlock(2 * w, a, features, axes) for a, w in zip(above, widths, strict=True)
        )
        self.norm = nn.GroupNorm(8, widths[0])
        self.leave = CONVOLUTIONS[axes](widths[0], channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        if any(side % self.multiple for side in x.shape[2:]):
            raise ShapeError(
                f"UNet: expected sides that are multiples of {self.multiple}, "
                f"got an image of {tuple(x.shape[2:])}. Crop or pad it."
            )
        embedding = self.embedding(noise)
        x = self.enter(x)
        skips = []
        for level, block in enumerate(self.down):
            x = block(POOLS[self.axes](x, 2) if level else x, embedding)
            skips.append(x)
        x = self.middle(x, embedding)
        for level, block in reversed(list(enumerate(self.up))):
            x = block(torch.cat([x, skips[level]], dim=1), embedding)
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") if level else x
        out: Tensor = self.leave(F.silu(self.norm(x)))
        return out


class EDMDenoiser(nn.Module):
    """A network under EDM preconditioning, called as `denoise(x, sigma)`.

    Args:
        network: the network `F(x, noise)` of x `[batch, *shape]` and noise `[batch]`.
        sigma_data: the standard deviation of the data, in the data's units. The data are assumed
            to have mean 0: subtract it before training.
    """

    def __init__(self, network: nn.Module, sigma_data: float) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        total = s**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        c_out = s * self.sigma_data / total.sqrt()
        c_in = total.rsqrt()
        who = named(self.network)
        value = received(self.network(c_in * x, sigma.log() / 4), x, who, cast=True)
        check_gradient(value, x, who)
        return c_skip * x + c_out * value


def trained(model: EDMDenoiser, weights: Path) -> EDMDenoiser:
    """A model with weights from a file, in evaluation mode and without gradients of its weights.

    Args:
        model: a model of the architecture of the weights; it is changed.
        weights: the path of a safetensors file.
    """
    from safetensors.torch import load_file

    model.load_state_dict(load_file(weights))
    return model.eval().requires_grad_(False)
