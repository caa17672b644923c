"""What all drawings share: colours of counting numbers, names, and about how wide they are.

Blue counts are positive, orange ones negative, grey ones zero (never evaluated); the larger, the
darker. Blue and orange stay apart for every common kind of colour blindness.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from fractions import Fraction
from itertools import pairwise

__all__ = [
    "GREY",
    "INK",
    "MIST",
    "Ramp",
    "colour_of",
    "common_counts",
    "count_text",
    "mixed",
    "name_text",
    "printable",
    "short_name",
    "text_colour",
    "text_width",
]

INK, MIST, GREY = "#2b2b2b", "#8a8f94", "#cfd2d6"

Ramp = tuple[str, ...]
"""Colours at equal distances, from light to dark; in between they are interpolated."""

BLUES: Ramp = ("#79b8e3", "#2f7fbd", "#08406e")
ORANGES: Ramp = ("#f8b26a", "#dd7a1f", "#8f3e00")
LEGEND_ENTRIES = 10
LONGEST = 60
"""Letters of a name that are kept."""

WIDTHS = {
    letter: width
    for letters, width in (
        ("'", 0.25), (" ,.IJijl·", 0.3), ("-/:;\\f|", 0.35), ("!()[]rt", 0.4), ('"', 0.45),
        ("*_`sz–°", 0.5), ("?Lc", 0.55), ("FPTYaekovxy", 0.6), ("ABCRVXZ", 0.7), ("DGHNU", 0.75),
        ("&OQw", 0.8), ("#+<=>M^~−×", 0.85), ("%m", 0.95), ("@W…", 1.0),
    )
    for letter in letters
}  # fmt: skip
"""Of DejaVu Sans, in units of the font size; Helvetica and Arial are narrower."""
TYPICAL, WIDEST = 0.65, 1.0


def count_text(count: Fraction | int) -> str:
    """A counting number with its sign: +1, −2, +1/3, 0."""
    return "0" if count == 0 else f"{'+' if count > 0 else '−'}{abs(count)}"


def common_counts(
    counts: Iterable[Fraction | int] | Mapping[Fraction, int],
) -> tuple[list[tuple[Fraction | int, int]], int]:
    """The commonest counts and how many nodes have each, descending; and how many are left out.

    Args:
        counts: one a node, or each with its number of nodes.
    """
    number = Counter(counts)
    kept = sorted((c for c, _ in number.most_common(LEGEND_ENTRIES)), reverse=True)
    return [(count, number[count]) for count in kept], len(number) - len(kept)


def colour_of(count: Fraction | int) -> str:
    """Blue above zero, orange below, grey at zero; darker for larger counts."""
    if count == 0:
        return GREY
    size = float(abs(count))
    return mixed(BLUES if count > 0 else ORANGES, 1 - 1 / (1 + 0.35 * max(size - 1, 0)))


def mixed(ramp: Ramp, share: float) -> str:
    """The colour a share of the way along a ramp, 0 to 1."""
    place = share * (len(ramp) - 1)
    stage = min(int(place), len(ramp) - 2)
    low, high = list(pairwise(ramp))[stage]
    part = place - stage
    ends = zip(_channels(low), _channels(high), strict=True)
    return "#" + "".join(f"{round(a + part * (b - a)):02x}" for a, b in ends)


def _channels(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of #rrggbb, 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def text_colour(background: str) -> str:
    """Black or white, whichever stands out on #rrggbb."""
    red, green, blue = _channels(background)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.52 * 255 else "black"


def short_name(name: Hashable) -> str:
    """`name_text` on one line, cut in the middle if it is very long."""
    text = name_text(name)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"
    return printable(text)


def printable(text: str) -> str:
    """A text with blanks for line breaks, and � for what is no letter of XML."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)


def name_text(name: Hashable) -> str:
    """A name without the punctuation of Python: (0, 1) is 0,1 and frozenset({'a'}) is a."""
    if isinstance(name, frozenset):
        return ",".join(sorted(map(name_text, name)))
    if isinstance(name, tuple):
        inner = [name_text(each) for each in name]
        nested = any(isinstance(each, tuple | frozenset) for each in name)
        return ("–" if nested else ",").join(inner)
    return str(name)


def text_width(text: str) -> float:
    """About how wide the longest line of a text is, in units of the font size."""
    return max(sum(map(_letter, line)) for line in text.split("\n"))


def _letter(letter: str) -> float:
    return WIDTHS.get(letter, TYPICAL if letter < "\u2e80" else WIDEST)
