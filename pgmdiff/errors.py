"""Exceptions of the library, parts of their messages, and optional libraries.

Every message names the object, what was expected, what was received, and the remedy.
"""

from collections.abc import Hashable, Iterable
from difflib import get_close_matches
from importlib import import_module
from math import inf
from typing import Any

__all__ = [
    "GraphError",
    "PgmdiffError",
    "ScoreError",
    "ShapeError",
    "check_scale",
    "nearest",
    "required",
    "shape_text",
]


class PgmdiffError(ValueError):
    """Base class of all exceptions of this library."""


class GraphError(PgmdiffError):
    """A graph or its counting numbers are invalid."""


class ShapeError(PgmdiffError):
    """A tensor or a shape does not fit."""


class ScoreError(PgmdiffError):
    """A score is missing, or returned an unusable value."""


def check_scale(who: str, name: str, value: float) -> None:
    """Raises `PgmdiffError` unless a standard deviation of data is positive and finite."""
    if not 0 < value < inf:
        raise PgmdiffError(
            f"{who}: expected a positive {name}, got {value}. Give the standard deviation of the "
            "clean data."
        )


def shape_text(lead: str, event: Iterable[int]) -> str:
    """A shape as messages write it: `[*batch, 3, 16, 16]`."""
    return f"[{', '.join([lead, *map(str, event)])}]"


def nearest(name: Hashable, known: Iterable[Hashable]) -> str:
    """A hint for the end of a message: the known name closest to an unknown one, if any is close.

    Only the first 1,000 known names are compared.
    """
    names = [each for each in known if isinstance(each, str)][:1000]
    close = get_close_matches(name, names, 1) if isinstance(name, str) else []
    return f" Did you mean {close[0]!r}?" if close else ""


def required(module: str, who: str, extra: str) -> Any:
    """A module of an optional library, imported.

    Args:
        module: the module's name, such as `skimage.data`.
        who: what needs it, for the message.
        extra: the extra of pgmdiff that installs the library.

    Raises:
        ImportError: the library is not installed; the message names the extra.
    """
    library = module.split(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise ImportError(
            f"{who} needs {library}, which is not installed. Run: pip install 'pgmdiff[{extra}]'",
            name=library,
        ) from error
