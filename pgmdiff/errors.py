"""What pgmdiff raises. Every message names the object, what was expected, what came, the remedy."""

from collections.abc import Hashable, Iterable
from difflib import get_close_matches

__all__ = ["GraphError", "PgmdiffError", "ScoreError", "ShapeError", "nearest", "shape_text"]


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
