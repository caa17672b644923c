r"""A smooth field, the gravel photograph out of focus, and a small denoiser of it.

    x = (G * photograph - mean) / std + 0.05 ε,      G a Gaussian of 4 pixels, ε white noise

The photograph has its own resolution, twice that of `gravel`, and is low-passed, so that
correlation reaches further: 0.95 at 2 pixels, 0.83 at 4, 0.49 at 8, 0.21 at 12. The noise stands
for a camera's; without it the field's covariance is singular to rounding. The left half is for
training, the right half is held out. The weights and their card are `soft_gravel.safetensors` and
`soft_gravel.md` beside this file; `python -m scripts.train_real soft_gravel` trains the weights
again.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import required
from pgmdiff.models.unet import EDMDenoiser, UNet, trained

__all__ = ["SHAPES", "soft_gravel_denoiser", "soft_gravel_image", "soft_gravel_parts", "untrained"]

SHAPES = ((8, 8), (8, 4), (8, 2))
"""Shapes of the crops that the model was trained on: strips along the second axis."""
BLUR = 4.0
NOISE = 0.05
GAP = 32
"""Columns between the two halves: more than the Gaussian's support, so that they share no pixel."""


def soft_gravel_image() -> Tensor:
    """scikit-image's `gravel` (CC0), low-passed: `[1, 512, 512]`, mean 0, variance 1.

    Raises:
        ImportError: scikit-image is not installed. Run `pip install 'pgmdiff[demo]'`.
    """
    data = required("skimage.data", "soft_gravel_image", "demo")
    filters = required("skimage.filters", "soft_gravel_image", "demo")
    soft = filters.gaussian(data.gravel() / 255.0, BLUR)
    noise = np.random.default_rng(0).standard_normal(soft.shape)
    field = (soft - soft.mean()) / soft.std() + NOISE * noise
    return torch.from_numpy(np.asarray(field, dtype=np.float32))[None]


def soft_gravel_parts() -> tuple[Tensor, Tensor]:
    """The left and the right part, `[1, 512, 240]` each: for training, and held out."""
    image = soft_gravel_image()
    half = (image.shape[2] - GAP) // 2
    return image[:, :, :half], image[:, :, -half:]


def untrained() -> EDMDenoiser:
    """The architecture with random weights: 191,249 parameters."""
    return EDMDenoiser(UNet(channels=1, widths=(32, 48), features=48), sigma_data=1.0)


def soft_gravel_denoiser() -> EDMDenoiser:
    """The trained denoiser of crops, `denoise(x, sigma)` for x `[batch, 1, 8, width]`.

    It was trained on crops of 8 × 8, 8 × 4 and 8 × 2 pixels, for windows of a strip and their
    overlaps alike.
    """
    return trained(untrained(), Path(__file__).with_name("soft_gravel.safetensors"))
