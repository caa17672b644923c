r"""Scores in another orthonormal basis: models of pixels and of tile means on a pyramid, and back.

White noise is white in every orthonormal basis B, and coarse coefficients are a = √t^k times the
means of their tiles, so that models of either give the score of coefficients z:

    s(z, σ) = B s_x(Bᵀ z / a, σ / a) / a
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pgmdiff.errors import ScoreError
from pgmdiff.scores.adapters import Score, Wrapped, per_sample
from pgmdiff.scores.walls import called
from pgmdiff.text import by_field

if TYPE_CHECKING:
    from pgmdiff.graphs.pyramids import Pyramid

__all__ = ["Turned", "in_pixels", "of_levels"]


@dataclass(frozen=True, eq=False, repr=False)
class Turned(Wrapped):
    """A score of x = Bᵀ z / a as the score of z; see the module.

    Attributes:
        score: that of x.
        to_z, to_x: B and Bᵀ.
        scale: a.
    """

    to_z: Callable[[Tensor], Tensor]
    to_x: Callable[[Tensor], Tensor]
    scale: float = 1.0

    __repr__ = by_field

    def __call__(self, z: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        x, level = self.to_x(z) / self.scale, per_sample(sigma, z) / self.scale
        return self.to_z(called(self.score, x, level, **condition)) / self.scale

    @property
    def log_density(self) -> Callable[..., Tensor]:
        """The log-density of z; missing if the score inside has none."""
        inner = self.score.log_density  # type: ignore[attr-defined]

        def turned(z: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
            density: Tensor = inner(self.to_x(z) / self.scale, sigma / self.scale, **condition)
            return density - z[0].numel() * math.log(self.scale)

        return turned


def of_levels(pyramid: "Pyramid", *models: Score) -> dict[Any, Score]:
    """The scores of a pyramid's regions, for `compose`, from models of pixels and of tile means.

    The model of level k is called at σ / √t^k (see `Pyramid.scales`), on means in all shapes with
    which k occurs in the graph's model ids (k, shape).

    Args:
        pyramid: made by `graphs.pyramid`.
        models: the score of pixels, of the means of level 1, … of level L. They receive their
            conditions as they are; of a field over the state, level k sees every t^k-th place.

    Raises:
        ScoreError: there is not one model for each level.
    """
    if len(models) != pyramid.levels + 1:
        raise ScoreError(
            f"of_levels: expected {pyramid.levels + 1} models, of pixels and of the means of each "
            f"level, got {len(models)}. Give one for each."
        )
    found: dict[Any, Score] = {}
    for group in pyramid.graph.groups:
        level: int = group.model[0]  # type: ignore[index]
        turns = pyramid.to_coefficients, pyramid.to_pixels
        to_z, to_x = (partial(turn, level=level) for turn in turns)
        found[group.model] = Turned(models[level], to_z, to_x, pyramid.scales[level])
    return found


def in_pixels(pyramid: "Pyramid", joint: Score) -> Turned:
    """The score of pixels from the joint score of a pyramid's coefficients, with its memory.

    Samplers, and observations of pixels, then need not know of the basis; fields are the same.

    Args:
        pyramid: made by `graphs.pyramid`.
        joint: the score composed on `pyramid.graph`, or one around it.
    """
    return Turned(joint, pyramid.to_pixels, pyramid.to_coefficients)
