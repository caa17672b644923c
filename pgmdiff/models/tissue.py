"""The bundled colour model, trained on crops of a micrograph of stained tissue.

Its weights are in `tissue.safetensors`, its card is `tissue.md`, and `python -m experiments.train
tissue` trains it again.
"""

from pathlib import Path

from torch import Tensor

from pgmdiff.models.pictures import picture
from pgmdiff.models.unet import EDMDenoiser, UNet, trained

__all__ = ["tissue_denoiser", "tissue_image", "untrained"]


def tissue_image() -> Tensor:
    """scikit-image's `immunohistochemistry`, resized to 256 × 256: `[3, 256, 256]` in [-1, 1].

    Raises:
        ImportError: scikit-image is not installed; `pip install 'pgmdiff[demo]'`.
    """
    return picture("immunohistochemistry", "tissue_image")


def untrained() -> UNet:
    """The network with random weights: about 400,000 parameters."""
    return UNet(channels=3, widths=(32, 48, 64), features=64)


def tissue_denoiser() -> EDMDenoiser:
    """The trained denoiser of tissue, `denoise(x, sigma)` for x `[batch, 3, height, width]`.

    It was trained on crops of 32 × 32, 32 × 16, 16 × 32 and 16 × 16 pixels with values in [-1, 1],
    each shape with its Wiener filter, and is the model of windows and of their overlaps alike: use
    windows of 32 with an overlap of 16. Other shapes are warned of. Sample from σ = 40 down to
    0.01.

    Example:
        >>> from pgmdiff import Marginal, compose, from_denoiser
        >>> from pgmdiff.graphs import tiles
        >>> from pgmdiff.models.tissue import tissue_denoiser
        >>> torus = tiles((3, 64, 64), (3, 32, 32), (0, 16, 16), periodic=(False, True, True))
        >>> joint = compose(torus, from_denoiser(tissue_denoiser()), rule=Marginal())
        >>> joint.event_shape
        (3, 64, 64)
    """
    return trained(EDMDenoiser(untrained(), 1.0), Path(__file__).with_name("tissue.safetensors"))
