"""Colours, texts, legends and sheets that all pictures share.

Positive counting numbers are blue, negative ones orange, and zero (never evaluated) is grey; larger
numbers are darker. Blue and orange differ under every common kind of colour blindness.
"""

import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from html import escape
from io import BytesIO, StringIO
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.textpath import TextPath
from torch import Tensor

from pgmdiff.linalg import Floats
from pgmdiff.text import count_text, printable

__all__ = [
    "GREY",
    "INK",
    "MIST",
    "Sheet",
    "axes_for",
    "colour_of",
    "count_entries",
    "figure_of",
    "legend_of",
    "name_text",
    "picture",
    "points_per_unit",
    "sheet",
    "short_name",
    "svg",
    "text_colour",
    "text_size",
    "write",
]

INK, MIST, GREY = "#2b2b2b", "#8a8f94", "#cfd2d6"
BLUES = LinearSegmentedColormap.from_list("blues", ["#79b8e3", "#2f7fbd", "#08406e"])
ORANGES = LinearSegmentedColormap.from_list("oranges", ["#f8b26a", "#dd7a1f", "#8f3e00"])

MARGIN = 0.15
"""Inches around a sheet."""
TITLE = 0.3
"""Height of the title above one of several axes, in inches."""
LEGEND_ENTRIES = 10
"""Most counting numbers that a legend lists."""
LEGEND: Mapping[str, Any] = MappingProxyType(
    {
        "frameon": False,
        "fontsize": 9,
        "handlelength": 1.1,
        "handletextpad": 0.5,
        "columnspacing": 1.3,
        "borderaxespad": 0,
        "borderpad": 0,
    }
)
LONGEST = 60
"""Number of letters of a name that are kept."""


def colour_of(count: Fraction | int) -> str:
    """Returns blue above zero, orange below and grey at zero; larger counts are darker."""
    if count == 0:
        return GREY
    size = float(abs(count))
    return to_hex((BLUES if count > 0 else ORANGES)(1 - 1 / (1 + 0.35 * max(size - 1, 0))))


def text_colour(background: str) -> str:
    """Returns black or white, whichever is more legible on the background."""
    red, green, blue = to_rgb(background)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.52 else "black"


def picture(image: Tensor) -> Floats:
    """Returns an image as matplotlib shows it: `[H, W]` or `[H, W, 3]` with values in [0, 1].

    Values of `[H, W]` or `[C, H, W]` are clipped to [-1, 1], or are bytes from 0 to 255. Three
    channels are colours; any other number is averaged to grey.
    """
    values = image.detach().cpu().double()
    shares = values / 255 if image.dtype == torch.uint8 else (values.clamp(-1, 1) + 1) / 2
    shown: Floats = shares.numpy()
    if shown.ndim == 2:
        return shown
    return np.moveaxis(shown, 0, -1) if len(shown) == 3 else shown.mean(axis=0)


def name_text(name: Hashable) -> str:
    """Writes a name without Python's punctuation: (0, 1) is 0,1 and frozenset({'a'}) is a."""
    if isinstance(name, frozenset):
        return ",".join(sorted(map(name_text, name)))
    if isinstance(name, tuple):
        nested = any(isinstance(each, tuple | frozenset) for each in name)
        return ("–" if nested else ",").join(map(name_text, name))
    return str(name)


def short_name(name: Hashable) -> str:
    """Writes a name on one line, without its middle if it is very long."""
    text = name_text(name)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"
    return printable(text)


@lru_cache(maxsize=20_000)
def text_size(text: str) -> tuple[float, float]:
    """Returns the width and the height of a text of several lines, in units of the font size."""
    lines = [printable(line) for line in text.replace("$", "S").split("\n")]  # no maths
    font = FontProperties(size=100)
    widths = [
        TextPath((0, 0), line, prop=font).get_extents().width for line in lines if line.strip()
    ]
    return max(widths, default=0.0) / 100, 1.2 * len(lines)


class Sheet(Figure):
    """A figure that is unknown to pyplot, and that notebooks show all the same."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png", dpi=100)
        return file.getvalue()


def svg(figure: Figure, title: str) -> str:
    """Returns a figure as one SVG element, with a title for screen readers."""
    file = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings(), rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has another font
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    named = f'<svg role="img" aria-label="{escape(printable(title))}" '
    return text[text.index("<svg ") :].replace("<svg ", named, 1)


def write(ax: Axes, x: float, y: float, text: str, size: float, **style: Any) -> Text:
    """Writes a text centred at (x, y), in which dollar signs are no mathematics."""
    return ax.text(x, y, text, size=size, ha="center", va="center", parse_math=False, **style)


def legend_of(ax: Axes | Figure, entries: Mapping[str, Artist], **style: Any) -> None:
    """Adds a legend whose labels are written as they are, without mathematics.

    matplotlib leaves out labels that begin with an underscore.
    """
    legend = ax.legend(list(entries.values()), ["."] * len(entries), **style)
    for text, label in zip(legend.get_texts(), entries, strict=True):
        text.set(text=label, parse_math=False)


def figure_of(ax: Axes) -> Figure:
    """Returns the figure that holds the axes."""
    return ax.figure if isinstance(ax.figure, Figure) else ax.figure.figure


def points_per_unit(ax: Axes) -> Floats:
    """Returns how many points one unit of the axes takes, vertically and horizontally.

    Axes of equal aspect use the smaller of the two for both.
    """
    box, (wide, tall) = ax.get_position(original=True), figure_of(ax).get_size_inches()
    inches = np.array([box.height * tall, box.width * wide])
    return np.asarray(72 * inches / [np.ptp(ax.get_ylim()), np.ptp(ax.get_xlim())], np.float64)


def count_entries(counts: Iterable[Fraction | int]) -> list[Patch]:
    """Returns legend entries: each count, or the commonest of many, and how many nodes have it."""
    number = Counter(counts)
    kept = sorted((count for count, _ in number.most_common(LEGEND_ENTRIES)), reverse=True)
    entries = [
        Patch(fc=colour_of(count), ec=INK, lw=0.5, label=f"{count_text(count)} × {number[count]}")
        for count in kept
    ]
    left = len(number) - len(kept)
    return entries + ([Patch(fc="none", ec="none", label=f"{left} other counts")] if left else [])


def axes_for(
    ax: Axes | None, size: tuple[float, float], entries: Sequence[Artist], title: str | None
) -> Axes:
    """Returns the given axes, or a sheet's if there are none, with a legend and a title."""
    if ax is None:
        return sheet(size, entries, title)[0]
    if title:
        ax.set_title(title, fontsize=12, parse_math=False)
    if entries:
        columns = _columns(ax.get_position().width * figure_of(ax).get_figwidth(), entries)
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.02)}
        ax.legend(handles=list(entries), ncols=columns, **place, **LEGEND)
    return ax


def sheet(
    size: tuple[float, float],
    entries: Sequence[Artist],
    title: str | None,
    rows: int = 1,
    columns: int = 1,
) -> list[Axes]:
    """Returns axes in rows on a figure of their own, with a legend below and a title above.

    Each is of the given width and height in inches; several have room for a title of their own.
    """
    width, height = size[0] * columns, (size[1] + TITLE) * rows - TITLE
    wide = max(width, 3.4) + 2 * MARGIN
    n_columns = _columns(wide, entries)
    low = MARGIN + (0.25 * -(-len(entries) // n_columns) + 0.12 if entries else 0.0)
    high = MARGIN + (0.38 if title else 0.0) + (TITLE if rows * columns > 1 else 0.0)
    tall = low + height + high
    figure = Sheet(figsize=(wide, tall))
    if title:
        figure.suptitle(title, fontsize=12, y=1 - 0.12 / tall, va="top", parse_math=False)
    if entries:
        place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, MARGIN / 2 / tall)}
        figure.legend(handles=list(entries), ncols=n_columns, **place, **LEGEND)
    beside = (wide - width) / 2 + (0.03 * size[0] if columns > 1 else 0.0)
    left, bottom = beside / wide, low / tall
    grid = figure.add_gridspec(
        rows,
        columns,
        left=left,
        right=1 - left,
        bottom=bottom,
        top=bottom + height / tall,
        wspace=0.06,
        hspace=TITLE / size[1],
    )
    return list(np.ravel(grid.subplots(squeeze=False)))


def _columns(inches: float, entries: Sequence[Artist]) -> int:
    """Returns how many legend entries fit side by side, so that all rows are about equally full."""
    widths = [9 * text_size(str(entry.get_label()))[0] + 27 for entry in entries]
    if sum(widths) < 72 * inches:
        return max(len(entries), 1)
    rows = -(-len(entries) // max(1, int(72 * inches / max(widths))))
    return -(-len(entries) // rows)
