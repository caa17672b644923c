"""What pgmdiff raises. Every message names the object, what was expected, what came, the remedy."""

from collections.abc import Hashable, Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

__all__ = [
    "GraphError",
    "PgmdiffError",
    "ScoreError",
    "ShapeError",
    "nearest",
    "required",
    "shape_text",
]


class PgmdiffError(ValueError):
    """Base of every error of this library."""


class GraphError(PgmdiffError):
    """A graph, or its counting numbers, is not what it must be."""


class ShapeError(PgmdiffError):
    """A tensor or a shape does not fit."""


class ScoreError(PgmdiffError):
    """A score is missing or returned something unusable."""


def shape_text(lead: str, event: Iterable[int]) -> str:
    """How messages write shapes: `[*batch, 3, 16, 16]`."""
    return f"[{', '.join([lead, *map(str, event)])}]"


def nearest(name: Hashable, known: Iterable[Hashable], most: int = 1000) -> str:
    """A hint at the end of a message: the known name most like one that is not, if any is."""
    names = [each for each in known if isinstance(each, str)][:most]
    close = get_close_matches(name, names, 1) if isinstance(name, str) else []
    return f" Did you mean {close[0]!r}?" if close else ""


def required(module: str, who: str, extra: str) -> Any:
    """Imports a module of an optional library.

    Args:
        module: such as `skimage.data`.
        who: what needs it, for the message.
        extra: of pgmdiff, that brings the library.

    Raises:
        ImportError: the library is not installed; names the extra.
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
