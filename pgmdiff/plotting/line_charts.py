"""Curves and dots: measured values by method, against what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from pgmdiff.errors import ShapeError, warn
from pgmdiff.plotting.style import Sheet, figure_of, legend_of

__all__ = ["Panel", "curves", "panels"]

STYLES = (
    ("#08406e", "o", "-", 1.6),
    ("#b8860b", "s", "-", 3.2),
    ("#7b4ea8", "^", "--", 1.4),
    ("#c0507a", "D", "-", 1.6),
    ("#4f9c9c", "v", ":", 2.0),
    ("#6b4a3a", "x", "-.", 1.4),
)
"""Colour, marker, line and width of labels that name no method. Curves that coincide can still be
told apart, and no method has any of these colours."""

METHOD_STYLES = {
    "concatenation": ("#b9bdc2", "v", "-", 1.6),
    "average": ("#8a8f94", "D", "-", 1.6),
    "marginal": ("#2f7fbd", "o", "-", 1.6),
    "marginal + Langevin": ("#2f7fbd", "o", ":", 1.4),
    "posterior": ("#dd7a1f", "s", "-", 3.6),
    "consistent": ("#3f9b57", "P", "-", 1.8),
    "consistent, 3 iterations": ("#3f9b57", "X", ":", 1.6),
    "exact score": ("#2b2b2b", "^", "--", 1.2),
    "exact samples": ("#2b2b2b", "x", "none", 1.2),
}
"""The style of each method, the same in every picture."""

Points = tuple[Sequence[float], Sequence[float]]
Log = Literal["xy", "x", "y", ""]
GRID = "#e3e6e9"


@dataclass(frozen=True)
class Panel:
    """Curves on one pair of axes.

    Attributes:
        curves: label to x and y.
        xlabel, ylabel, title: texts of the axes.
        limit: label and height of a dashed horizontal line.
        notes: label of a curve to a text at each of its points.
        log: the axes that are logarithmic.
    """

    curves: Mapping[str, Points]
    xlabel: str
    ylabel: str
    title: str
    limit: tuple[str, float] | None = None
    notes: Mapping[str, Sequence[str]] | None = None
    log: Log = "xy"

    def __post_init__(self) -> None:
        for label, (x, y) in self.curves.items():
            if len(x) != len(y):
                raise ShapeError(
                    f"curves: expected as many values of x as of y for {label!r}, got {len(x)} of "
                    f"x and {len(y)} of y."
                )


def curves(
    curves: Mapping[str, Points],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    limit: tuple[str, float] | None = None,
    log: Log = "xy",
    ax: Axes | None = None,
) -> Figure:
    """Draws curves with a legend. The name of a rule always has the same colour.

    Args:
        curves: label to values of x and of y. Labels such as "marginal", "posterior", "consistent",
            "average", "concatenation" and "exact score" have styles of their own.
        xlabel, ylabel, title: texts of the axes.
        limit: label and height of a dashed horizontal line.
        log: the axes that are logarithmic.
        ax: matplotlib axes to draw on. If None, a figure is made.

    Returns:
        The figure. Texts are written as they are: dollar signs are no mathematics.

    Raises:
        ShapeError: a curve has different numbers of x and y.

    Example:
        >>> from pgmdiff.plotting import curves
        >>> figure = curves({"marginal": ([1, 2], [3, 4])}, xlabel="steps", ylabel="KL, nats")
        >>> figure.axes[0].get_xlabel()
        'steps'
    """
    axes = Sheet(figsize=(7, 4.2), layout="constrained").subplots() if ax is None else ax
    handles, names = axes.get_legend_handles_labels()  # of curves that are there already
    entries = dict(zip(names, handles, strict=True))
    entries |= _draw(axes, Panel(curves, xlabel, ylabel, title, limit, log=log), list(curves))
    legend_of(axes, entries, frameon=False, fontsize=9)
    return figure_of(axes)


def panels(panels: Sequence[Panel], title: str, *, columns: int = 0) -> Figure:
    """Draws panels in rows, with one legend below them; a label has one style in all of them.

    Args:
        panels: at least one.
        title: the title of the figure.
        columns: number of panels in a row; 0 puts all panels in one row.

    Returns:
        The figure.

    Raises:
        ShapeError: there are no panels.
    """
    if not panels:
        raise ShapeError("panels: expected at least one panel, got none.")
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    figure = Sheet(figsize=(4.6 * columns, 3.5 * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    entries: dict[str, Artist] = {}
    for axes, panel in zip(grid.flat, panels, strict=False):
        entries |= _draw(axes, panel, labels)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=11, x=0.02, ha="left", parse_math=False)
    legend_of(figure, entries, loc="outside lower center", ncols=4, frameon=False)
    return figure


def style_of(number: int) -> tuple[str, str, str, float]:
    """Returns the style of a label that names no method: after one round, with other markers."""
    turn, place = divmod(number, len(STYLES))
    colour, _, line, width = STYLES[place]
    return colour, STYLES[(place + turn) % len(STYLES)][1], line, width


def _draw(axes: Axes, panel: Panel, labels: Sequence[str]) -> dict[str, Artist]:
    """Draws a panel; the style of a label depends on its place among the labels of all panels.

    Returns the entries of the legend.
    """
    entries: dict[str, Artist] = {}
    axes.set_xscale("log" if "x" in panel.log else "linear")
    axes.set_yscale("log" if "y" in panel.log else "linear")
    plain = [label for label in labels if label not in METHOD_STYLES]
    styles = {label: style_of(number) for number, label in enumerate(plain)}
    for label, (x, y) in panel.curves.items():
        colour, marker, line, width = (METHOD_STYLES | styles)[label]
        for axis, values in (("x", x), ("y", y)):
            if axis in panel.log and (lost := sum(float(value) <= 0 for value in values)):
                warn(
                    f"curves: {lost} of {len(values)} values of {axis} of {label!r} are not "
                    "positive, and a logarithmic axis does not show them. Leave "
                    f"{axis!r} out of log."
                )
        mark: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "lw": width}
        (entries[label],) = axes.plot(x, y, line, label=label, **mark)
        notes = (panel.notes or {}).get(label, ())
        for at, height, note in zip(x, y, notes, strict=False):
            above: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7}
            axes.annotate(note, (at, height), (0, 5), parse_math=False, **above)
    if panel.limit is not None:
        label, height = panel.limit
        dashed: dict[str, Any] = {"color": "#b2182b", "ls": "--", "lw": 1.2}
        entries[label] = axes.axhline(height, label=label, **dashed)
    largest = max((max(x, default=0) for x, _ in panel.curves.values()), default=0)
    if "x" in panel.log and largest < 10_000:
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.set_xlabel(panel.xlabel, parse_math=False)
    axes.set_ylabel(panel.ylabel, parse_math=False)
    axes.set_title(panel.title, loc="left", fontsize=10, parse_math=False)
    axes.grid(True, which="major", color=GRID, lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return entries
