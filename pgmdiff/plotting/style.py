"""What all pictures share: colours of counting numbers, names, the legend, the sheet they are on.

Blue counts are positive, orange ones negative, grey ones zero (never evaluated); the larger, the
darker. Blue and orange stay apart for every common kind of colour blindness.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from io import BytesIO

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath

__all__ = [
    "INK",
    "MIST",
    "Sheet",
    "add_legend",
    "colour_of",
    "count_entries",
    "count_text",
    "figure_of",
    "name_text",
    "sheet",
    "text_colour",
    "text_size",
]

INK, MIST, GREY = "#2b2b2b", "#8a8f94", "#cfd2d6"
BLUES = LinearSegmentedColormap.from_list("positive", ["#79b8e3", "#2f7fbd", "#08406e"])
ORANGES = LinearSegmentedColormap.from_list("negative", ["#f8b26a", "#dd7a1f", "#8f3e00"])
LEGEND_ENTRIES = 10
MARGIN = 0.15
"""Inches around a sheet."""


class Sheet(Figure):
    """A figure that pyplot does not know of, and that notebooks show all the same."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png", dpi=100)
        return file.getvalue()


def count_text(count: Fraction | int) -> str:
    """A counting number with its sign: +1, −2, +1/3, 0."""
    return "0" if count == 0 else f"{'+' if count > 0 else '−'}{abs(count)}"


def colour_of(count: Fraction | int) -> str:
    """Blue above zero, orange below, grey at zero; darker for larger counts."""
    if count == 0:
        return GREY
    size = float(abs(count))
    shade = 1 - 1 / (1 + 0.35 * max(size - 1, 0))
    return to_hex((BLUES if count > 0 else ORANGES)(shade))


def text_colour(background: str) -> str:
    """Black or white, whichever stands out."""
    red, green, blue = to_rgb(background)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.52 else "black"


def name_text(name: Hashable) -> str:
    """A name without the punctuation of Python: (0, 1) is 0,1 and frozenset({'a'}) is a."""
    if isinstance(name, frozenset):
        return ",".join(sorted(map(name_text, name)))
    if isinstance(name, tuple):
        inner = [name_text(each) for each in name]
        nested = any(isinstance(each, tuple | frozenset) for each in name)
        return ("–" if nested else ",").join(inner)
    return str(name)


@lru_cache(maxsize=20_000)
def text_size(text: str) -> tuple[float, float]:
    """Width and height of a text of several lines, in units of the font size."""
    lines = text.replace("$", "S").split("\n")  # a dollar is no mathematics
    font = FontProperties(size=100)
    widths = [TextPath((0, 0), line, prop=font).get_extents().width for line in lines if line]
    return max(widths, default=0.0) / 100, 1.2 * len(lines)


def count_entries(counts: Iterable[Fraction | int]) -> list[Patch]:
    """Legend entries: every count and how many nodes have it, the commonest where many."""
    number = Counter(counts)
    kept = sorted(c for c, _ in number.most_common(LEGEND_ENTRIES))[::-1]
    entries = [
        Patch(fc=colour_of(c), ec=INK, lw=0.5, label=f"{count_text(c)} × {number[c]}") for c in kept
    ]
    left = len(number) - len(kept)
    return entries + ([Patch(fc="none", ec="none", label=f"{left} other counts")] if left else [])


def figure_of(ax: Axes) -> Figure:
    """The figure that axes are on."""
    return ax.figure if isinstance(ax.figure, Figure) else ax.figure.figure


def sheet(
    width: float, height: float, entries: Sequence[Artist], title: str | None
) -> tuple[Figure, Axes]:
    """A figure whose axes are `width` by `height` inches, with room for legend and title."""
    total = max(width, 3.4) + 2 * MARGIN
    below = 0.25 * -(-len(entries) // columns(total, entries)) + 0.12 if entries else 0.0
    above = 0.38 if title else 0.0
    tall = height + below + above + 2 * MARGIN
    figure = Sheet(figsize=(total, tall))
    box = ((total - width) / 2 / total, (below + MARGIN) / tall, width / total, height / tall)
    axes = figure.add_axes(box)
    if title:
        figure.suptitle(title, fontsize=12, y=1 - 0.12 / tall, va="top")
    if entries:
        add_legend(figure, entries, columns(total, entries), MARGIN / 2 / tall)
    return figure, axes


def columns(width: float, entries: Sequence[Artist]) -> int:
    """How many legend entries fit side by side, in rows that are as full as each other."""
    widths = [9 * text_size(str(entry.get_label()))[0] + 27 for entry in entries]
    if sum(widths) < width * 72:
        return len(entries)
    rows = -(-len(entries) // max(1, int(width * 72 / max(widths))))
    return -(-len(entries) // rows)


def add_legend(
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
