r"""Scores in another orthonormal basis: models of pixels and of tile means on a pyramid, and back.

White noise is white in every orthonormal basis B, and coarse coefficients are a = √t^k times the
means of their tiles, so that models of either give the score of coefficients z:

    s(z, σ) = B s_x(Bᵀ z / a, σ / a) / a
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pgmdiff.errors import ScoreError
from pgmdiff.scores.adapters import Score, Wrapped
from pgmdiff.scores.walls import called
from pgmdiff.text import brief, counted, described

if TYPE_CHECKING:
    from pgmdiff.graphs.pyramids import Pyramid
    from pgmdiff.linalg import Shape

__all__ = ["Turned", "in_pixels", "of_levels"]


@dataclass(frozen=True, eq=False, repr=False)
class Turned(Wrapped):
    """A score of x = Bᵀ z / a as the score of z; see the module.

    Attributes:
        to_z, to_x: B and Bᵀ.
        scale: a.
    """

    to_z: Callable[[Tensor], Tensor]
    to_x: Callable[[Tensor], Tensor]
    scale: float = 1.0

    def __repr__(self) -> str:
        return described(self, brief(self.score), f"scale={self.scale:.3g}")

    def __call__(self, z: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        x, level = self.to_x(z) / self.scale, sigma / self.scale
        return self.to_z(called(self.score, x, level, **condition)) / self.scale

    @property
    def log_density(self) -> Callable[..., Tensor]:
        """The log-density of z; missing if the score inside has none."""
        inner = self.score.log_density  # type: ignore[attr-defined]

        def turned(z: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
            density: Tensor = inner(self.to_x(z) / self.scale, sigma / self.scale, **condition)
            return density - z[0].numel() * math.log(self.scale)

        return turned


def of_levels(pyramid: "Pyramid", *models: "Score | Mapping[Shape, Score]") -> dict[Any, Score]:
    """The scores of a pyramid's regions, for `compose`, from models of pixels and of tile means.

    The model of level k is called on windows of means, in the shapes of `pyramid.graph`'s model
    ids (k, shape), at σ / √t^k; see `Pyramid.scales` for the levels that it must reach.

    Args:
        pyramid: made by `graphs.pyramid`.
        models: the score of pixels, of the means of level 1, ... of level L; each a callable for
            all shapes that occur, or a mapping from shapes to callables. Conditions reach them as
            they are; of a field over the state, level k sees every t^k-th place.

    Raises:
        ScoreError: there is not one model for each level, or a shape has none.

    Example:
        >>> import torch
        >>> from pgmdiff import compose
        >>> from pgmdiff.graphs import pyramid
        >>> from pgmdiff.scores import of_levels
        >>> def score(x, sigma):
        ...     return -x / (1 + sigma[:, None] ** 2)
        >>> years = pyramid((128,), tile=8, levels=1, window=16, overlap=8)
        >>> joint = compose(years.graph, of_levels(years, score, score))
        >>> joint(torch.ones(1, 128), 1.0).shape
        torch.Size([1, 128])
    """
    if len(models) != pyramid.levels + 1:
        raise ScoreError(
            f"of_levels: expected {pyramid.levels + 1} models, of pixels and of the means of "
            f"{counted(pyramid.levels, 'level')}, got {len(models)}. Give one for each."
        )
    found: dict[Any, Score] = {}
    for group in pyramid.graph.groups:
        level, shape = group.model  # type: ignore[misc]
        model = models[level]
        if isinstance(model, Mapping):
            if shape not in model:
                raise ScoreError(
                    f"of_levels: the models of level {level} have none for the shape {shape}, only "
                    f"for {[*model]}. Give one for each shape of the level's regions."
                )
            model = model[shape]
        found[group.model] = Turned(
            model,
            partial(pyramid.to_coefficients, level=level),
            partial(pyramid.to_pixels, level=level),
            pyramid.scales[level],
        )
    return found


def in_pixels(pyramid: "Pyramid", joint: Score) -> Turned:
    """The score of pixels from the joint score of a pyramid's coefficients.

    Samplers and observations of pixels then need to know nothing of the basis. The memory of the
    joint is kept, and its fields are the same in both.

    Args:
        pyramid: made by `graphs.pyramid`.
        joint: the score composed on `pyramid.graph`, or one around it.
    """
    return Turned(joint, pyramid.to_pixels, pyramid.to_coefficients)
