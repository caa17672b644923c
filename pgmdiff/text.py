"""Text that describes objects: reprs of one line, and tables for text and notebooks.

Small value objects show their fields, so that they can be pasted back; tensors show their shape
and dtype, functions and networks their names.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import partial
from html import escape
from textwrap import fill
from typing import Any

import numpy as np
from torch import Tensor, nn

__all__ = [
    "Table",
    "array",
    "brief",
    "by_field",
    "count_text",
    "counted",
    "described",
    "folded",
    "html_text",
    "name_text",
    "paragraphs",
    "printable",
    "span",
]

LONGEST = 80
"""Most letters of a value within another's repr."""
WIDTH = 80
"""Letters of a line of a report, which docs, terminals and notebooks show without wrapping it."""
WORD = re.compile(r"[^\W\d_]{2}")
"""Two letters in a row, which no number but inf and nan has."""


def described(thing: object, *parts: str) -> str:
    """Returns the class of an object, and in brackets its parts; empty parts are left out."""
    return f"{type(thing).__name__}({', '.join(part for part in parts if part)})"


def by_field(thing: Any) -> str:
    """Returns the repr of a dataclass, in which each field is brief."""
    shown = (field.name for field in fields(thing) if field.repr)
    return described(thing, *(f"{name}={brief(getattr(thing, name))}" for name in shown))


def brief(value: object, longest: int = LONGEST) -> str:
    """Describes a value on one line.

    Tensors are described by shape and dtype, functions and networks by name, everything else by its
    repr if that is short.
    """
    if isinstance(value, Tensor | np.ndarray):
        return array(value)
    if isinstance(value, partial):
        return f"partial({brief(value.func, longest)})"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__).replace(".<locals>", "")
    if isinstance(value, nn.Module) or type(value).__repr__ is object.__repr__:
        return type(value).__name__
    if isinstance(value, str | bytes):
        text = repr(value[: longest + 1])
        return text if len(text) <= longest else f"{text[: longest - 1]}…"
    if isinstance(value, list | tuple | dict | set | frozenset):
        if len(value) > LONGEST:
            return counted(len(value), "value")
        try:
            if isinstance(value, dict):
                inner = ", ".join(f"{brief(k)}: {brief(v)}" for k, v in value.items())
            else:
                inner = ", ".join(map(brief, value))
        except RecursionError:  # it contains itself
            return type(value).__name__
        if isinstance(value, dict):
            text = f"{{{inner}}}"
        elif isinstance(value, tuple):
            text = f"({inner}{',' if len(value) == 1 else ''})"
        else:
            text = (
                f"[{inner}]" if isinstance(value, list) else f"{type(value).__name__}({{{inner}}})"
            )
        return text if len(text) <= longest else counted(len(value), "value")
    text = " ".join(repr(value).split())
    return text if len(text) <= longest else f"{type(value).__name__}(...)"


def name_text(name: object) -> str:
    """Returns the repr of a name, with the members of sets sorted: the same in every process."""
    if type(name) is frozenset:
        return f"frozenset({{{', '.join(sorted(map(name_text, name)))}}})"
    if type(name) is tuple:
        return f"({', '.join(map(name_text, name))}{',' if len(name) == 1 else ''})"
    return repr(name)


def array(value: "Tensor | np.ndarray") -> str:
    """Returns shape and dtype, such as [2, 3] float64."""
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def counted(n: int, what: str, several: str = "") -> str:
    """Returns a number with its noun: 1 factor, 2 factors."""
    return f"{n} {what if n == 1 else several or what + 's'}"


def count_text(count: Fraction | int) -> str:
    """Returns a counting number with its sign: +1, −2, +1/3, 0."""
    return "0" if count == 0 else f"{'+' if count > 0 else '−'}{abs(count)}"


def folded(line: str) -> str:
    """Folds a line to the width of a page; all lines but the first are indented."""
    return fill(line, WIDTH, subsequent_indent="    ", break_long_words=False)


def span(values: Sequence[float], what: str, symbol: str = "") -> str:
    """Describes numbers by how many there are, the first and the last."""
    ends = f" from {symbol}{values[0]:.3g} to {values[-1]:.3g}" if len(values) else ""
    return counted(len(values), what) + ends


def printable(text: str) -> str:
    """Replaces line breaks by blanks, and what XML forbids by �."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)


def html_text(text: str) -> str:
    """Returns a text as HTML, on one line."""
    return escape(printable(text))


def paragraphs(*lines: str) -> str:
    """Returns lines of HTML as paragraphs."""
    return "".join(f'<p style="margin:0.35em 0;max-width:60em">{line}</p>' for line in lines)


LEFT, RIGHT = "text-align:left", "text-align:right;font-variant-numeric:tabular-nums"
CELL = "padding:0.15em 0.9em 0.15em 0;vertical-align:top;border-bottom:1px solid #8a8f9455"


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head, with a title above and notes below.

    Columns of words are aligned to the left, others to the right. `str` returns the table as text,
    `html` as HTML.
    """

    title: str
    rows: Sequence[Sequence[str]]
    head: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __repr__(self) -> str:
        return described(self, repr(self.title), counted(len(self.rows), "row"))

    def is_left(self, column: int) -> bool:
        """Returns whether a column holds words."""
        return column == 0 or any(
            WORD.search(row[column]) and row[column] not in ("inf", "nan") for row in self.rows
        )

    def __str__(self) -> str:
        lines = [self.head, *self.rows] if self.head else self.rows
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = (
            "  ".join(
                cell.ljust(width) if self.is_left(number) else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        title = [self.title] if self.title else []
        return "\n".join([*title, *aligned, *map(folded, self.notes)])

    def html(self) -> str:
        """Returns the table as HTML that takes its colours from the page."""
        lines = [("th", self.head)] if self.head else []
        body = []
        for tag, line in [*lines, *(("td", row) for row in self.rows)]:
            cells = (
                f'<{tag} style="{LEFT if self.is_left(number) else RIGHT};{CELL}">'
                f"{html_text(cell)}</{tag}>"
                for number, cell in enumerate(line)
            )
            body.append(f"<tr>{''.join(cells)}</tr>")
        return (
            f"<div>{paragraphs(f'<b>{html_text(self.title)}</b>')}"
            '<table style="border-collapse:collapse;margin:0.4em 0">'
            f"<tbody>{''.join(body)}</tbody></table>{paragraphs(*map(html_text, self.notes))}</div>"
        )
