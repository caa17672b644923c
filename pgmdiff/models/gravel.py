"""The bundled texture model, trained on crops of a photograph of gravel.

Its weights are in `gravel.safetensors`, its card is `gravel.md`, and `scripts/train_gravel.py`
trains it again.
"""

from pathlib import Path

from torch import Tensor

from pgmdiff.models.pictures import picture
from pgmdiff.models.unet import EDMDenoiser, UNet, trained

__all__ = ["SIGMA_DATA", "gravel_denoiser", "gravel_image", "untrained"]

SIGMA_DATA = 0.274
"""The standard deviation of the photograph's pixels, whose values lie in [-1, 1]."""


def gravel_image() -> Tensor:
    """scikit-image's `gravel` (CC0), resized to 256 × 256: `[1, 256, 256]`, values in [-1, 1].

    Raises:
        ImportError: scikit-image is not installed; `pip install 'pgmdiff[demo]'`.
    """
    return picture("gravel", "gravel_image")


def untrained() -> EDMDenoiser:
    """The architecture of the gravel model with random weights: about 400,000 parameters."""
    return EDMDenoiser(UNet(channels=1, widths=(32, 48, 64), features=64), SIGMA_DATA)


def gravel_denoiser() -> EDMDenoiser:
    """The trained denoiser of gravel crops, `denoise(x, sigma)` for x `[batch, 1, height, width]`.

    It was trained on crops of 16 × 16, 16 × 8, 8 × 16 and 8 × 8 pixels, with one channel and values
    in [-1, 1], and is the model of windows and of their overlaps alike. Sides must be multiples
    of 4. Noise levels were drawn with ln σ ~ N(-1.2, 1.4²), 99 % of them between 0.008 and 11:
    sample from σ = 10 down to 0.01.

    Example:
        >>> from pgmdiff import Marginal, compose, from_denoiser
        >>> from pgmdiff.graphs import tiles
        >>> from pgmdiff.models.gravel import gravel_denoiser
        >>> ring = tiles((1, 32, 32), (1, 16, 16), (0, 8, 8), periodic=(False, True, True))
        >>> joint = compose(ring, from_denoiser(gravel_denoiser()), rule=Marginal())
        >>> joint.event_shape
        (1, 32, 32)
    """
    return trained(untrained(), Path(__file__).with_name("gravel.safetensors"))
