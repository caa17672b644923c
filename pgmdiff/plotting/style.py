"""What all pictures share: the size of texts, the legend, the sheet they are on."""

import warnings
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from html import escape
from io import BytesIO, StringIO

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath

from pgmdiff.plotting.ink import INK, colour_of, common_counts, count_text, printable

__all__ = ["Sheet", "count_entries", "figure_of", "legend_below", "sheet", "svg", "text_size"]

MARGIN = 0.15
"""Inches around a sheet."""


class Sheet(Figure):
    """A figure that pyplot does not know of, and that notebooks show all the same."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png", dpi=100)
        return file.getvalue()


def svg(figure: Figure, title: str) -> str:
    """A figure as one SVG element, titled for those who cannot see it."""
    file = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings(), rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has another font
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    named = f'<svg role="img" aria-label="{escape(printable(title))}" '
    return text[text.index("<svg ") :].replace("<svg ", named, 1)


@lru_cache(maxsize=20_000)
def text_size(text: str) -> tuple[float, float]:
    """Width and height of a text of several lines, in units of the font size."""
    lines = [printable(line) for line in text.replace("$", "S").split("\n")]  # no maths
    font = FontProperties(size=100)
    widths = [
        TextPath((0, 0), line, prop=font).get_extents().width for line in lines if line.strip()
    ]
    return max(widths, default=0.0) / 100, 1.2 * len(lines)


def count_entries(counts: Iterable[Fraction | int]) -> list[Patch]:
    """Legend entries: every count and how many nodes have it, the commonest where many."""
    kept, left = common_counts(counts)
    entries = [
        Patch(fc=colour_of(c), ec=INK, lw=0.5, label=f"{count_text(c)} × {n}") for c, n in kept
    ]
    return entries + ([Patch(fc="none", ec="none", label=f"{left} other counts")] if left else [])


def figure_of(ax: Axes) -> Figure:
    """The figure that axes are on."""
    return ax.figure if isinstance(ax.figure, Figure) else ax.figure.figure


def sheet(
    width: float, height: float, entries: Sequence[Artist], title: str | None
) -> tuple[Figure, Axes]:
    """A figure whose axes are `width` by `height` inches, with room for legend and title."""
    total = max(width, 3.4) + 2 * MARGIN
    below = 0.25 * -(-len(entries) // _columns(total, entries)) + 0.12 if entries else 0.0
    above = 0.38 if title else 0.0
    tall = height + below + above + 2 * MARGIN
    figure = Sheet(figsize=(total, tall))
    box = ((total - width) / 2 / total, (below + MARGIN) / tall, width / total, height / tall)
    axes = figure.add_axes(box)
    if title:
        figure.suptitle(title, fontsize=12, y=1 - 0.12 / tall, va="top")
    if entries:
        _add_legend(figure, entries, _columns(total, entries), MARGIN / 2 / tall)
    return figure, axes


def _columns(width: float, entries: Sequence[Artist]) -> int:
    """How many legend entries fit side by side, in rows that are as full as each other."""
    widths = [9 * text_size(str(entry.get_label()))[0] + 27 for entry in entries]
    if sum(widths) < width * 72:
        return len(entries)
    rows = -(-len(entries) // max(1, int(width * 72 / max(widths))))
    return -(-len(entries) // rows)


def legend_below(ax: Axes, entries: Sequence[Artist], bottom: float = -0.02) -> None:
    """A legend under given axes, in as many columns as fit below them."""
    if entries:
        inches = ax.get_position().width * figure_of(ax).get_figwidth()
        _add_legend(ax, entries, _columns(inches, entries), bottom)


def _add_legend(
    place: Figure | Axes, entries: Sequence[Artist], n_columns: int, bottom: float
) -> None:
    """A frameless legend along the bottom."""
    place.legend(
        handles=list(entries),
        loc="lower center" if isinstance(place, Figure) else "upper center",
        bbox_to_anchor=(0.5, bottom),
        ncols=n_columns,
        frameon=False,
        fontsize=9,
        handlelength=1.1,
        handletextpad=0.5,
        columnspacing=1.3,
        borderaxespad=0,
        borderpad=0,
    )
