"""What pgmdiff raises. Every message names the object, what was expected, what came, the remedy."""

__all__ = ["GraphError", "PgmdiffError", "ScoreError", "ShapeError"]


class PgmdiffError(ValueError):
    """Base of every error of this library."""


class GraphError(PgmdiffError):
    """A graph, or its counting numbers, is not what it must be."""


class ShapeError(PgmdiffError):
    """A tensor or a shape does not fit."""


class ScoreError(PgmdiffError):
    """A score is missing or returned something unusable."""
