"""Strips of images under one another, with their seams."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from torch import Tensor

__all__ = ["save_strips"]


def save_strips(
    path: Path,
    strips: Mapping[str, Tensor],
    seams: Mapping[str, Sequence[int]],
    joins: Mapping[str, int],
    title: str,
) -> None:
    """Writes grey strips one under the other, each with ticks where its pieces meet.

    Args:
        path: of the PNG.
        strips: caption to `[height, width]`, grey values in [-1, 1] (others are shown clipped).
        seams: caption to columns where a piece begins or ends.
        joins: caption to the column where the ends of a ring meet, marked in blue.
        title: of the figure.
    """
    width = max(strip.shape[1] for strip in strips.values())
    rows = [strip.shape[0] + 14 for strip in strips.values()]
    scale = 13.0 / width
    figure, axes = plt.subplots(
        len(strips),
        1,
        figsize=(13.6, scale * sum(rows) + 0.5),
        gridspec_kw={"height_ratios": rows},
        squeeze=False,
        layout="constrained",
    )
    for axis, (caption, strip) in zip(axes[:, 0], strips.items(), strict=True):
        axis.imshow(
            strip.clamp(-1, 1).cpu().numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest"
        )
        axis.set_xlim(-0.5, width - 0.5)
        axis.set_title(caption, loc="left", fontsize=12)
        axis.set_yticks([])
        axis.set_xticks([seam - 0.5 for seam in seams[caption]], labels=[])
        axis.tick_params(length=4, color="#b2182b")
        if caption in joins:
            axis.axvline(joins[caption] - 0.5, -0.12, 0, color="#2166ac", lw=2, clip_on=False)
        for side in axis.spines.values():
            side.set_visible(False)
    figure.suptitle(title, fontsize=13)
    figure.savefig(path, dpi=110)
    plt.close(figure)
