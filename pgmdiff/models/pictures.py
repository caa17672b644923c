"""The pictures that the bundled models were trained on: scikit-image carries them."""

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import required

__all__ = ["picture"]


def picture(name: str, who: str) -> Tensor:
    """One of scikit-image's pictures, resized to 256 × 256: `[channels, 256, 256]` in [-1, 1].

    Args:
        name: the name of a function of `skimage.data`.
        who: the name of the caller, for the error.

    Raises:
        ImportError: scikit-image is not installed; `pip install 'pgmdiff[demo]'`.
    """
    data = required("skimage.data", who, "demo")
    transform = required("skimage.transform", who, "demo")
    image = getattr(data, name)() / 255.0
    sized = transform.resize(image, (256, 256, *image.shape[2:]), anti_aliasing=True)
    values = np.asarray(2 * sized - 1, dtype=np.float32).reshape(256, 256, -1)
    return torch.from_numpy(values).movedim(2, 0)
