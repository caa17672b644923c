"""How objects describe themselves: reprs of one line, and tables for text and notebooks.

Small value objects show their fields, so that they can be pasted back; tensors show their shape
and dtype, functions and networks their names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from textwrap import fill
from typing import Any

import numpy as np
from torch import Tensor, nn

__all__ = ["Table", "array", "brief", "by_field", "counted", "described", "folded", "span"]

LONGEST = 80
"""Letters of a value within another's repr."""


def described(thing: object, *parts: str) -> str:
    """The class of a thing, and in brackets what it is made of; empty parts are left out."""
    return f"{type(thing).__name__}({', '.join(part for part in parts if part)})"


def by_field(thing: Any) -> str:
    """The repr of a dataclass, each field of which is brief."""
    shown = (field.name for field in fields(thing) if field.repr)
    return described(thing, *(f"{name}={brief(getattr(thing, name))}" for name in shown))


def brief(value: object, longest: int = LONGEST) -> str:
    """A value on one line: a tensor's shape and dtype, a function's name, or the repr if short."""
    if isinstance(value, Tensor | np.ndarray):
        return array(value)
    if isinstance(value, partial):
        return f"partial({brief(value.func, longest)})"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__).replace(".<locals>", "")
    if isinstance(value, nn.Module) or type(value).__repr__ is object.__repr__:
        return type(value).__name__
    if isinstance(value, str | bytes):
        return _cut(repr(value[: longest + 1]), longest)
    if isinstance(value, list | tuple | dict | set | frozenset):
        try:
            return _collection(value, longest)
        except RecursionError:  # it holds itself
            return type(value).__name__
    text = " ".join(repr(value).split())
    return text if len(text) <= longest else f"{type(value).__name__}(...)"


def _collection(value: Any, longest: int) -> str:
    """A collection whose members are brief, or, where that is long, their number."""
    if len(value) > LONGEST:
        return counted(len(value), "value")
    if isinstance(value, dict):
        inner = ", ".join(f"{brief(k)}: {brief(v)}" for k, v in value.items())
        text = f"{{{inner}}}"
    elif isinstance(value, tuple):
        text = f"({', '.join(map(brief, value))}{',' if len(value) == 1 else ''})"
    elif isinstance(value, list):
        text = f"[{', '.join(map(brief, value))}]"
    else:
        text = f"{type(value).__name__}({{{', '.join(map(brief, value))}}})"
    return text if len(text) <= longest else counted(len(value), "value")


def array(value: "Tensor | np.ndarray") -> str:
    """Shape and dtype: [2, 3] float64."""
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def counted(n: int, what: str, several: str = "") -> str:
    """A number of things: 1 factor, 2 factors."""
    return f"{n} {what if n == 1 else several or what + 's'}"


def folded(line: str) -> str:
    """A line of print as wide as a notebook's cell, what follows it indented."""
    return fill(line, 96, subsequent_indent="    ", break_long_words=False)


def span(values: Sequence[float], what: str, symbol: str = "") -> str:
    """Numbers by how many they are and where they begin and end."""
    ends = f" from {symbol}{values[0]:.3g} to {values[-1]:.3g}" if len(values) else ""
    return counted(len(values), what) + ends


def _cut(text: str, longest: int) -> str:
    """A text without its end, if it is long."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


@dataclass(frozen=True)
class Table:
    """Rows under a head, with a title above and notes below.

    `str` aligns the columns: numbers to the right, words to the left. Notebooks show it as HTML.
    """

    title: str
    rows: Sequence[Sequence[str]]
    head: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __repr__(self) -> str:
        return described(self, repr(self.title), counted(len(self.rows), "row"))

    def is_left(self, column: int) -> bool:
        """Whether a column holds words."""
        return column == 0 or any(
            row[column][:1].isalpha() and row[column] not in ("inf", "nan") for row in self.rows
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
