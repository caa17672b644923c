"""Strips of images under one another, with their seams."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from matplotlib.figure import Figure
from torch import Tensor

from pgmdiff.errors import ShapeError
from pgmdiff.plotting.style import Sheet, picture

__all__ = ["strips"]


def strips(
    strips: Mapping[str, Tensor],
    *,
    seams: Mapping[str, Sequence[int]] = MappingProxyType({}),
    joins: Mapping[str, int] = MappingProxyType({}),
    panels: Mapping[str, Tensor] = MappingProxyType({}),
    title: str = "",
) -> Figure:
    """Draws strips one under the other, each with red ticks where its pieces meet.

    Args:
        strips: caption to strip, `[H, W]` or `[C, H, W]` with C of 1 (grey) or 3 (colours). Values
            beyond [-1, 1] are clipped.
        seams: caption to the columns where a piece begins or ends.
        joins: caption to the column where the ends of a ring meet, which is marked in blue.
        panels: caption to image of any size, magnified to one height in a row above the strips.
        title: the title of the figure.

    Returns:
        The figure, with one pair of axes per panel and strip.

    Raises:
        ShapeError: there are no strips, or one has another shape.

    Example:
        >>> import torch
        >>> from pgmdiff.plotting import strips
        >>> figure = strips({"grey": torch.zeros(8, 32)}, seams={"grey": [16]})
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['grey']
    """
    if not strips:
        raise ShapeError("strips: expected at least one strip, got none.")
    for caption, strip in (*strips.items(), *panels.items()):
        if strip.ndim not in (2, 3) or (strip.ndim == 3 and len(strip) not in (1, 3)):
            raise ShapeError(
                f"{caption}: expected an image [H, W], [1, H, W] or [3, H, W], got "
                f"{list(strip.shape)}. Take one sample of a batch."
            )
    width = max(strip.shape[-1] for strip in strips.values())
    scale = 13.0 / width
    rows = [strip.shape[-2] + 0.36 / scale for strip in strips.values()]
    sizes = [each.shape[-1] / each.shape[-2] for each in panels.values()]
    above = 12.5 / (sum(sizes) + 0.1 * len(sizes)) + 0.6 if sizes else 0.0
    below = scale * sum(rows) + (0.5 if title else 0.1)
    figure = Sheet(figsize=(13.6, above + below), layout="constrained")
    heights = [above, below] if sizes else [below]
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if sizes:
        tops = parts[0].subplots(1, len(sizes), width_ratios=sizes, squeeze=False)
        for axis, (caption, panel) in zip(tops[0], panels.items(), strict=True):
            axis.imshow(picture(panel), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(caption, loc="left", fontsize=12, parse_math=False)
            axis.set_axis_off()
    axes = parts[-1].subplots(len(strips), 1, height_ratios=rows, squeeze=False)
    for axis, (caption, strip) in zip(axes[:, 0], strips.items(), strict=True):
        axis.imshow(picture(strip), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_xlim(-0.5, width - 0.5)
        axis.set_title(caption, loc="left", fontsize=12, parse_math=False)
        axis.set_yticks([])
        axis.set_xticks([seam - 0.5 for seam in seams.get(caption, ())], labels=[])
        axis.tick_params(length=4, color="#b2182b")
        axis.spines[:].set_visible(False)
        if caption in joins:
            axis.axvline(joins[caption] - 0.5, -0.12, 0, color="#2166ac", lw=2, clip_on=False)
    if title:
        figure.suptitle(title, fontsize=13, parse_math=False)
    return figure
