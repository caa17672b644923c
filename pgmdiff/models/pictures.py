"""The pictures that the bundled models were trained on: scikit-image carries them."""

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import required

__all__ = ["picture"]


def picture(name: str, who: str, sides: tuple[int, int] = (256, 256)) -> Tensor:
    """One of scikit-image's pictures, resized: `[channels, *sides]` in [-1, 1].

    Args:
        name: the name of a function of `skimage.data`.
        who: the name of the caller, for the error.
        sides: its height and width in pixels.

    Raises:
        ImportError: scikit-image is not installed; `pip install 'pgmdiff[demo]'`.
    """
    data = required("skimage.data", who, "demo")
    transform = required("skimage.transform", who, "demo")
    image = getattr(data, name)() / 255.0
    sized = transform.resize(image, (*sides, *image.shape[2:]), anti_aliasing=True)
    values = np.asarray(2 * sized - 1, dtype=np.float32).reshape(*sides, -1)
    return torch.from_numpy(values).movedim(2, 0)
