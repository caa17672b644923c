"""Strips of images under one another, with their seams."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from torch import Tensor

from pgmdiff.errors import ShapeError
from pgmdiff.plotting.style import Sheet

__all__ = ["pixels", "strips"]

NONE: Mapping[str, Sequence[int]] = MappingProxyType({})


def strips(
    strips: Mapping[str, Tensor],
    *,
    seams: Mapping[str, Sequence[int]] = NONE,
    joins: Mapping[str, int] = MappingProxyType({}),
    title: str = "",
) -> Figure:
    """Draws strips one under the other, each with red ticks where its pieces meet.

    Args:
        strips: caption to `[H, W]` or `[C, H, W]` with C of 1 (grey) or 3 (colours); values in
            [-1, 1] (others are shown clipped).
        seams: caption to columns where a piece begins or ends.
        joins: caption to the column where the ends of a ring meet, marked in blue.
        title: of the figure.

    Raises:
        ShapeError: no strips, or one of another shape.

    Example:
        >>> import torch
        >>> from pgmdiff.plotting import strips
        >>> figure = strips({"grey": torch.zeros(8, 32)}, seams={"grey": [16]})
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['grey']
    """
    images = {caption: pixels(strip, caption) for caption, strip in strips.items()}
    if not images:
        raise ShapeError("strips: expected at least one strip, got none.")
    width = max(image.shape[1] for image in images.values())
    scale = 13.0 / width
    rows = [image.shape[0] + 0.36 / scale for image in images.values()]
    figure = Sheet(
        figsize=(13.6, scale * sum(rows) + (0.5 if title else 0.1)), layout="constrained"
    )
    axes = figure.subplots(len(images), 1, height_ratios=rows, squeeze=False)
    for axis, (caption, image) in zip(axes[:, 0], images.items(), strict=True):
        axis.imshow(image, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_xlim(-0.5, width - 0.5)
        axis.set_title(caption, loc="left", fontsize=12)
        axis.set_yticks([])
        axis.set_xticks([seam - 0.5 for seam in seams.get(caption, ())], labels=[])
        axis.tick_params(length=4, color="#b2182b")
        if caption in joins:
            axis.axvline(joins[caption] - 0.5, -0.12, 0, color="#2166ac", lw=2, clip_on=False)
        for side in axis.spines.values():
            side.set_visible(False)
    if title:
        figure.suptitle(title, fontsize=13)
    return figure


def pixels(image: Tensor, name: str) -> npt.NDArray[np.float32]:
    """`[H, W]` (grey, in [-1, 1]) or `[H, W, 3]` (colours, in [0, 1]) of an image in [-1, 1].

    Raises:
        ShapeError: the image is not `[H, W]`, `[1, H, W]` or `[3, H, W]`.
    """
    shown = image.detach().cpu().float().clamp(-1, 1).numpy()
    if shown.ndim == 3 and len(shown) == 1:
        shown = shown[0]
    if shown.ndim == 2:
        return shown
    if shown.ndim == 3 and len(shown) == 3:
        return np.asarray((shown.transpose(1, 2, 0) + 1) / 2, np.float32)
    raise ShapeError(
        f"{name}: expected an image [H, W], [1, H, W] or [3, H, W], got {list(image.shape)}. "
        "Take one sample of a batch."
    )
