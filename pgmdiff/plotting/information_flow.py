"""Information flow: the elements of the start on which each step of a run depends."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from pgmdiff.errors import ShapeError
from pgmdiff.linalg import Floats
from pgmdiff.plotting.style import INK, MIST, Sheet

__all__ = ["flow"]

SHADES = LinearSegmentedColormap.from_list(
    "influence", ["#d9e8f5", "#a9cde9", "#6aaadb", "#2f7fbd", "#145389", "#062a4d"]
)
"""From light to dark evenly and in one hue, so that the order is visible without colours, too."""
ROW, COLUMN = 0.16, 0.075
"""Inches per step and per element, within limits."""
TICKS = 8
"""Most numbers on an axis."""


def flow(
    influences: Mapping[str, Tensor],
    *,
    sigmas: Sequence[float] = (),
    floor: float = 1e-6,
    columns: int = 0,
    title: str = "",
) -> Figure:
    """Draws how strongly an element depends on every element of the start, step by step.

    Rows are steps, columns are elements. Every row is relative to its largest value, on one
    logarithmic scale of shades for all panels. White is exactly 0: there is no dependence at all.

    Args:
        influences: label to influences `[steps + 1, n]`, not negative, such as those of
            `influences.influence_over_steps`; the first row is the start.
        sigmas: noise levels, one per row, written beside the rows.
        floor: least value of the scale; smaller ones that are not 0 have its shade.
        columns: number of panels in a row; 0 puts all panels in one row.
        title: the title of the figure.

    Returns:
        The figure, with one pair of axes per panel and one for the scale.

    Raises:
        ShapeError: there are no panels; a panel is not `[steps + 1, n]`, has negative values or a
            row of zeros; there is another number of sigmas; or the floor is not between 0 and 1.

    Example:
        >>> import torch
        >>> from pgmdiff.plotting import flow
        >>> figure = flow({"marginal": torch.eye(3), "posterior": torch.ones(3, 3)})
        >>> [axes.get_title(loc="left") for axes in figure.axes[:2]]
        ['marginal', 'posterior']
    """
    if not influences or not 0 < floor < 1:
        raise ShapeError(
            "flow: expected at least one panel and a floor between 0 and 1, got "
            f"{len(influences)} panels and {floor}."
        )
    shares: dict[str, Floats] = {}
    sigmas = [float(sigma) for sigma in sigmas]
    for label, values in influences.items():
        found = values.detach().cpu().double().numpy()
        sound = found.ndim == 2 and found.size > 0 and bool(np.isfinite(found).all())
        if not sound or (found < 0).any() or not found.any(axis=1).all():
            raise ShapeError(
                f"flow: expected {label!r} as finite influences [steps + 1, n] of at least 0, "
                f"without rows of zeros, got shape {tuple(values.shape)}. Flatten images, or draw "
                "one line of their elements."
            )
        if len(sigmas) not in (0, len(found)):
            raise ShapeError(
                f"flow: expected one sigma for each of the {len(found)} rows of {label!r}, got "
                f"{len(sigmas)} sigmas. The start's is the first."
            )
        shares[label] = found / found.max(axis=1, keepdims=True)
        shares[label][(found > 0) & (shares[label] == 0)] = np.finfo(float).tiny  # 0 is white
    columns = columns or len(shares)
    rows = -(-len(shares) // columns)
    longest, widest = np.max([share.shape for share in shares.values()], axis=0)
    wide, tall = min(max(COLUMN * widest, 2.3), 6.0), min(max(ROW * longest, 1.2), 5.0)
    figure = Sheet(
        figsize=(wide * columns + 0.9, (tall + 0.55) * rows + 0.6 + 0.3 * bool(title)),
        layout="constrained",
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    scale = LogNorm(floor, 1, clip=True)
    for axes, (label, share) in zip(grid.flat, shares.items(), strict=False):
        shown = np.ma.masked_equal(share, 0)
        axes.imshow(shown, cmap=SHADES, norm=scale, aspect="auto", interpolation="nearest")
        steps = _ticks(len(share))
        texts = [f"{sigmas[step]:.3g}" if sigmas else str(step) for step in steps]
        axes.set_yticks(steps, texts, fontsize=8)
        axes.set_xticks(_ticks(share.shape[1]))
        axes.tick_params(labelsize=8, color=MIST)
        axes.spines[:].set_color(MIST)
        axes.set_title(label, loc="left", fontsize=10, color=INK, parse_math=False)
    for axes in list(grid.flat)[len(shares) :]:
        axes.remove()
    for row in grid:
        row[0].set_ylabel("σ after each step" if sigmas else "steps", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("element of the start", fontsize=9)
    shades = ScalarMappable(scale, SHADES)
    bar = figure.colorbar(shades, ax=figure.axes, shrink=0.9, pad=0.015, aspect=30, extend="min")
    bar.set_label("influence, relative to the row's largest", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    white = Patch(fc="white", ec=MIST, lw=0.8, label="exactly 0: no dependence")
    figure.legend(handles=[white], loc="outside lower left", frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left", parse_math=False)
    return figure


def _ticks(length: int) -> list[int]:
    """Returns evenly spaced places that begin with the first."""
    for gap in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        if length <= TICKS * gap:
            return list(range(0, length, gap))
    return [0, length - 1]
