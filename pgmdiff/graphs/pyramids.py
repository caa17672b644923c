r"""Pyramids: models of a tensor and of its tile means in one graph.

Windows alone do not know of anything longer than they are. The t elements x of a tile have an
orthonormal basis with one coarse coefficient c and t - 1 details d (a Householder reflection):

    c = Σ_i x_i / √t,      d_i = x_i + (x_1 - c) / (√t - 1),   i = 2 … t

A model of all tile means is then the model of one more region, that of all coarse coefficients; and
a basis of these again makes the next level. The noise of the state is white in any such basis, so
scores of pixels are turned into it; a model of means is called at lower levels, see `scores`.

Coefficients stand in place, c where the tile's first element was: a window of whole tiles holds the
coefficients of its elements, and coarse coefficients are every t-th place.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from torch import Tensor

from pgmdiff.errors import GraphError, ShapeError
from pgmdiff.graphs.counting import cluster_variation
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.windows import per_axis, tiles
from pgmdiff.linalg import Ints, Shape
from pgmdiff.text import described

__all__ = ["Pyramid", "pyramid"]


@dataclass(frozen=True, eq=False, repr=False)
class Pyramid:
    """A graph of coefficients, and the orthonormal basis that they belong to; see `pyramid`.

    Attributes:
        graph: the graph of the coefficients. Its regions are named (level, slices), their model
            ids are (level, shape); both in places of the level, of which level k has every t^k-th.
        tile: the sides of a tile on each axis.
        levels: how many times tiles are made of tiles.
    """

    graph: RegionGraph
    tile: Shape
    levels: int

    def __repr__(self) -> str:
        return described(self, repr(self.graph), f"tile={self.tile}", f"levels={self.levels}")

    @property
    def scales(self) -> tuple[float, ...]:
        """√t^k for levels k = 0 … L: a model of the means of level k is called at σ / √t^k.

        It must be trained down to σ_min / √t^k. σ_max has to cover coarse coefficients, which are
        √t^k times as far apart as the means.
        """
        return tuple(math.sqrt(prod(self.tile)) ** level for level in range(self.levels + 1))

    def to_coefficients(self, x: Tensor, level: int = 0) -> Tensor:
        """The coefficients of a tensor of elements, or of any window of whole tiles.

        It is orthonormal, differentiable, and its own size in work and memory.

        Args:
            x: `[*batch, *shape]`.
            level: the level whose coarse coefficients x holds; at 0 these are the elements.

        Raises:
            ShapeError: the sides of x are not those of whole tiles.
        """
        return self._turned(x, range(self.levels - level))

    def to_pixels(self, z: Tensor, level: int = 0) -> Tensor:
        """The elements of which these are the coefficients: the inverse of `to_coefficients`.

        Args:
            z: `[*batch, *shape]`.
            level: the level whose coarse coefficients are returned.

        Raises:
            ShapeError: the sides of z are not those of whole tiles.
        """
        return self._turned(z, range(self.levels - level)[::-1])

    def means(self, x: Tensor, level: int) -> Tensor:
        """The tile means of a level, which its model is trained on: `[*batch, *shape / t^level]`.

        Args:
            x: elements, `[*batch, *shape]`.
            level: at 0 the elements themselves.
        """
        return self._blocks(x, level).mean(dim=[*range(1 - 2 * len(self.tile), 0, 2)])

    def _blocks(self, x: Tensor, level: int) -> Tensor:
        """A tensor as `[*batch, tiles, places of a tile, ...]`, with two axes for every one."""
        first, sides = x.ndim - len(self.tile), [t**level for t in self.tile]
        if first < 0 or any(n % t for n, t in zip(x.shape[first:], sides, strict=True)):
            raise ShapeError(
                f"Pyramid: expected a tensor that ends in {len(sides)} axes of whole tiles of "
                f"{tuple(sides)}, got {tuple(x.shape)}. Give the state, or a window of tiles."
            )
        pairs = zip(x.shape[first:], sides, strict=True)
        return x.reshape(*x.shape[:first], *(n for side, t in pairs for n in (side // t, t)))

    def _turned(self, x: Tensor, levels: range) -> Tensor:
        """The tensor after the reflections of the tiles of levels, in this order."""
        self._blocks(x, len(levels))  # its error
        root, turned = math.sqrt(prod(self.tile)), x.clone()
        for level in levels:
            at = (..., *(slice(None, None, t**level) for t in self.tile))
            blocks = self._blocks(turned[at], 1)
            first = blocks[(..., *[slice(None), slice(1)] * len(self.tile))]
            mirror = x.new_full([side for t in self.tile for side in (1, t)], -1 / root)
            mirror[(0,) * mirror.ndim] += 1
            coarse = blocks.sum(dim=[*range(1 - mirror.ndim, 0, 2)], keepdim=True) / root
            reflected = blocks + (coarse - first) / (1 - 1 / root) * mirror
            turned[at] = reflected.reshape(turned[at].shape)
        return turned


def pyramid(
    shape: Sequence[int],
    tile: int | Sequence[int],
    levels: int,
    window: int | Sequence[int],
    overlap: int | Sequence[int] = 0,
    periodic: bool | Sequence[bool] = False,
) -> Pyramid:
    """Windows of a tensor, of its tile means, of means of these …, and all of the coarsest.

    The pieces are windows of levels 0 (elements) to L - 1, and the whole canvas at level L. They
    are counted by cluster variation. With one level: windows w and the coarse region C count +1,
    w ∩ w' and w ∩ C -1, w ∩ w' ∩ C +1, so that models of parts of the coarse canvas are needed too.

    Pyramids have loops. They require the completion (the rules `Consistent` and `Posterior` with
    `fit_covariances(pyramid.graph, pyramid.to_coefficients(data))`), under which they are exact for
    Gaussian data Markov to the graph; without it the composed precision is in general indefinite.

    Args:
        shape: event shape of the tensor, channels included.
        tile: sides of a tile on each axis; 1 on axes that are not made coarser, as channels.
        levels: L, how many times tiles are made of tiles.
        window: length of a window on each axis, in places of its own level; it spans a level that
            is shorter, and the last window of a coarser level is moved inwards where it must be.
        overlap: of neighbouring windows, on each axis; ignored where a window spans the axis.
        periodic: whether each axis closes on itself.

    Raises:
        GraphError: windows do not start and end on the edges of the coarsest tiles, a level has
            only windows that lie inside those of the level below, or whatever `tiles` raises.

    Example:
        >>> from pgmdiff.graphs import pyramid
        >>> years = pyramid((128,), tile=8, levels=1, window=16, overlap=8)
        >>> years.graph.counting_numbers()[1, "[0:16]"]
        1
    """
    if not isinstance(shape, Sequence) or not len(shape) or levels < 1:
        raise GraphError(
            f"pyramid: expected a shape such as (16, 64) and at least one level, got {shape!r} and "
            f"{levels!r}. Use tiles for windows alone."
        )
    n = len(shape)
    sides = per_axis("pyramid", "tile", tile, n)
    lengths = per_axis("pyramid", "window", window, n)
    overlaps = per_axis("pyramid", "overlap", overlap, n)
    if min(sides) < 1 or prod(sides) == 1:
        raise GraphError(f"pyramid: expected tiles of several elements, got {tile!r}. Enlarge it.")
    for axis, (size, t, w, o) in enumerate(zip(shape, sides, lengths, overlaps, strict=True)):
        cut = {"window": w, "overlap": o} if w < size else {}
        for what, value in {"size": size, **cut}.items():
            if left := value % t**levels:
                fits = " or ".join(str(v) for v in (value - left, value - left + t**levels) if v)
                raise GraphError(
                    f"pyramid: on axis {axis} the {what} is {value}, expected a multiple of "
                    f"{t**levels}: windows start and end on the edges of tiles of {t}, {levels} "
                    f"times nested. Use {fits}."
                )
    whole = np.arange(prod(shape)).reshape(shape)
    pieces: dict[tuple[int, str], Ints] = {}
    below = (0,) * n
    for level in range(levels + 1):
        places = whole[tuple(slice(None, None, t**level) for t in sides)]
        most = lengths if level < levels else places.shape
        spans = tuple(map(min, most, places.shape))
        if level and all(s * t <= b for s, t, b in zip(spans, sides, below, strict=True)):
            raise GraphError(
                f"pyramid: the windows of level {level} lie inside those of level {level - 1}, so "
                "that it adds nothing. Use fewer levels, or shorter windows."
            )
        below, rest = spans, "shift" if level else "error"
        try:
            windows = tiles(places.shape, spans, overlaps, periodic, remainder=rest).groups[0]
        except GraphError as error:
            text = str(error).removeprefix("tiles: ")
            raise GraphError(f"pyramid: at level {level} of {levels}, {text}") from None
        found = places.reshape(-1)[windows.indices(0, len(windows)).numpy()]
        pieces.update(zip([(level, str(name)) for name in windows.names], found, strict=True))
    kinds = {name: (name[0], array.shape) for name, array in pieces.items()}
    counted = cluster_variation(pieces, event_shape=shape, models=kinds)
    arrays, counts, models = {}, {}, {}
    for old, count in counted.counting_numbers().items():
        array = counted.elements(old).numpy()
        # The level is the coarsest whose places these are.
        at = np.stack(np.unravel_index(array, shape)).reshape(n, -1)
        level = levels
        while (at % (units := np.array(sides)[:, None] ** level)).any():
            level -= 1
        at = at // units
        box = at[:, :1] + np.indices(array.shape).reshape(array.ndim, -1)
        if (box % (np.array(shape)[:, None] // units) != at).any():
            raise GraphError(
                f"pyramid: at level {level}, two windows of a periodic axis overlap at both ends, "
                "which no model sees as one window. Use at least three windows, or a longer one."
            )
        starts = at[:, 0].tolist()
        slices = ", ".join(f"{a}:{a + side}" for a, side in zip(starts, array.shape, strict=True))
        name = level, f"[{slices}]"
        arrays[name], counts[name] = array, (count, name in pieces)
        models[name] = level, array.shape
    graph = RegionGraph.grouped(arrays, counts, shape, models=models, conditions={})
    return Pyramid(graph, sides, levels)
