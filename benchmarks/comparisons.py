"""Statistics by method against those of real data, as curves with bands of error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pgmdiff.plotting.line_charts import METHOD_STYLES
from pgmdiff.plotting.style import INK, MIST, Sheet

__all__ = ["Comparison", "Curve", "comparisons"]

STYLES = {
    "real, held out": (INK, "-", 3.6),
    "real, other part": (INK, ":", 1.4),
    "Gaussian factorisation": ("#8f3e00", "-.", 1.2),
    "evidence, ridge": (METHOD_STYLES["evidence"][0], "--", 1.8),
    **{method: (colour, line, width) for method, (colour, _, line, width) in METHOD_STYLES.items()},
}
"""Label to colour, line and width: curves that coincide can still be told apart."""


TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Of frequencies."""


@dataclass(frozen=True)
class Curve:
    """A curve, and half the height of a band around it.

    Attributes:
        x, y: of its points.
        band: the same length as y; empty: no band.
    """

    x: Sequence[float]
    y: Sequence[float]
    band: Sequence[float] = ()


@dataclass(frozen=True)
class Comparison:
    """One plot.

    Attributes:
        title, xlabel, ylabel: of the axes.
        curves: label to curve.
        marks: places on the x axis to what is there.
        logarithmic: the x axis.
        limits: of the y axis.
    """

    title: str
    xlabel: str
    ylabel: str
    curves: Mapping[str, Curve]
    marks: Mapping[float, str] = field(default_factory=dict)
    logarithmic: bool = False
    limits: tuple[float, float] | None = None


def comparisons(panels: Sequence[Comparison], *, columns: int, title: str) -> Figure:
    """Draws panels, row by row, with one legend below them.

    Args:
        panels: with the labels of `STYLES`.
        columns: panels in a row.
        title: of the figure.
    """
    labels = dict.fromkeys(label for panel in panels for label in panel.curves)
    n_rows = -(-len(panels) // columns)
    figure = Sheet(figsize=(5.4 * columns, 3.1 * n_rows + 0.9), layout="constrained")
    grid = figure.subplots(n_rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw(axes, panel)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    entries = [
        Line2D([], [], color=colour, ls=line, lw=width, label=label)
        for label, (colour, line, width) in ((label, STYLES[label]) for label in labels)
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _draw(axes: Axes, panel: Comparison) -> None:
    for label, curve in panel.curves.items():
        colour, line, width = STYLES[label]
        axes.plot(curve.x, curve.y, ls=line, color=colour, lw=width, zorder=9 - width)
        if curve.band:
            low, high = (_shifted(curve, sign) for sign in (-1, 1))
            axes.fill_between(curve.x, low, high, color=colour, alpha=0.18, lw=0)
    if panel.logarithmic:
        axes.set_xscale("log")
        first, last = axes.get_xlim()
        ticks = [tick for tick in TICKS if first <= tick <= last]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    for place, text in panel.marks.items():
        axes.axvline(place, color=MIST, lw=0.8, ls="--")
        axes.text(
            place, 1.0, f" {text}", transform=axes.get_xaxis_transform(), fontsize=8, va="top"
        )
    axes.set_xlabel(panel.xlabel, fontsize=9)
    axes.set_ylabel(panel.ylabel, fontsize=9)
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.grid(True, which="major", color="#e3e6e9", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _shifted(curve: Curve, sign: int) -> list[float]:
    return [y + sign * b for y, b in zip(curve.y, curve.band, strict=True)]
