"""What pgmdiff raises. Every message names the object, what was expected, what came, the remedy."""

from collections.abc import Iterable

__all__ = ["GraphError", "PgmdiffError", "ScoreError", "ShapeError", "shape_text"]


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
