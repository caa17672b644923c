"""Information flow: on which elements of the start each step of a run depends."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from pgmdiff.errors import ShapeError
from pgmdiff.plotting.ink import INK, MIST
from pgmdiff.plotting.style import Sheet

__all__ = ["flow"]

SHADES = LinearSegmentedColormap.from_list(
    "influence", ["#d9e8f5", "#a9cde9", "#6aaadb", "#2f7fbd", "#145389", "#062a4d"]
)
"""From light to dark evenly, in one hue: the order is seen without colours, too."""
ROW, COLUMN = 0.16, 0.075
"""Inches of a step and of an element, within limits."""
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

    Rows are steps, columns elements. Every row is relative to its largest value, on one logarithmic
    scale of shades for all panels. White is exactly 0: there is no dependence at all.

    Args:
        influences: label to `[steps + 1, n]`, not negative, such as of
            `influence.influence_over_steps`; first row: the start.
        sigmas: noise levels, as many as there are rows, to be written beside them.
        floor: the least value of the scale; smaller ones that are not 0 have its shade.
        columns: panels in a row; 0: all.
        title: of the figure.

    Raises:
        ShapeError: no panels; one that is not `[steps + 1, n]`, has negative values or a row of
            zeros; another number of sigmas; a floor that is not between 0 and 1.

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
    shares = {label: _shares(label, values) for label, values in influences.items()}
    sigmas = [float(sigma) for sigma in sigmas]
    for label, share in shares.items():
        if len(sigmas) not in (0, len(share)):
            raise ShapeError(
                f"flow: {label!r} has {len(share)} rows and there are {len(sigmas)} sigmas. Give "
                "one a row, the start's first."
            )
    columns = columns or len(shares)
    rows = -(-len(shares) // columns)
    wide, tall = _size(shares)
    figure = Sheet(
        figsize=(wide * columns + 0.9, (tall + 0.55) * rows + 0.6 + 0.3 * bool(title)),
        layout="constrained",
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    scale = LogNorm(floor, 1, clip=True)
    for axes, (label, share) in zip(grid.flat, shares.items(), strict=False):
        _draw(axes, share, scale, sigmas, label)
    for axes in list(grid.flat)[len(shares) :]:
        axes.remove()
    for row in grid:
        row[0].set_ylabel("σ after each step" if sigmas else "steps", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("element of the start", fontsize=9)
    _add_scale(figure, floor, scale)
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _shares(label: str, values: Tensor) -> npt.NDArray[np.float64]:
    """Every row over its largest value; 0 stays 0 and nothing else becomes it."""
    found = values.detach().cpu().double().numpy()
    sound = found.ndim == 2 and found.size > 0 and bool(np.isfinite(found).all())
    if not sound or (found < 0).any() or not found.any(axis=1).all():
        raise ShapeError(
            f"flow: expected {label!r} as finite influences [steps + 1, n] of at least 0, no row "
            f"all 0, got {tuple(values.shape)}. Flatten images, or draw one line of their elements."
        )
    share: npt.NDArray[np.float64] = found / found.max(axis=1, keepdims=True)
    share[(found > 0) & (share == 0)] = np.finfo(float).tiny
    return share


def _size(shares: Mapping[str, npt.NDArray[np.float64]]) -> tuple[float, float]:
    rows, columns = (max(share.shape[axis] for share in shares.values()) for axis in (0, 1))
    return min(max(COLUMN * columns, 2.3), 6.0), min(max(ROW * rows, 1.2), 5.0)


def _draw(
    axes: Axes,
    share: npt.NDArray[np.float64],
    scale: LogNorm,
    sigmas: Sequence[float],
    label: str,
) -> None:
    shown = np.ma.masked_equal(share, 0)
    axes.imshow(shown, cmap=SHADES, norm=scale, aspect="auto", interpolation="nearest")
    steps = _ticks(len(share))
    texts = [f"{sigmas[step]:.3g}" if sigmas else str(step) for step in steps]
    axes.set_yticks(steps, texts, fontsize=8)
    axes.set_xticks(_ticks(share.shape[1]))
    axes.tick_params(labelsize=8, color=MIST)
    for side in axes.spines.values():
        side.set_color(MIST)
    axes.set_title(label, loc="left", fontsize=10, color=INK)


def _ticks(length: int) -> list[int]:
    """Evenly spaced places that begin with the first."""
    for gap in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        if length <= TICKS * gap:
            return list(range(0, length, gap))
    return [0, length - 1]


def _add_scale(figure: Figure, floor: float, scale: LogNorm) -> None:
    """The scale of shades on the right, and what white is below."""
    shades = ScalarMappable(scale, SHADES)
    bar = figure.colorbar(shades, ax=figure.axes, shrink=0.9, pad=0.015, aspect=30, extend="min")
    bar.set_label("influence, relative to the row's largest", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    white = Patch(fc="white", ec=MIST, lw=0.8, label="exactly 0: no dependence")
    figure.legend(handles=[white], loc="outside lower left", frameon=False, fontsize=9)
