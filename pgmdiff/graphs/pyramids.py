r"""Pyramids: models of a tensor and of its tile means in one graph.

Windows alone know of nothing longer than they are. The t elements x of a tile have an orthonormal
basis with one coarse coefficient c and t - 1 details d (a Householder reflection):

    c = Σ_i x_i / √t,      d_i = x_i + (x_1 - c) / (√t - 1),   i = 2 … t

All coarse coefficients are one more region, whose model is one of tile means; tiles of them make
the next level. They stand in place, c where x_1 was: a window of whole tiles holds the coefficients
of its elements, and those of level k are every t^k-th. For the scores see `scores.pyramids`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from pgmdiff.errors import GraphError, ShapeError
from pgmdiff.graphs.counting import cluster_variation
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.windows import tiles
from pgmdiff.linalg import Ints, Shape
from pgmdiff.text import by_field

__all__ = ["Pyramid", "pyramid"]


@dataclass(frozen=True, eq=False, repr=False)
class Pyramid:
    """A graph of coefficients, and the orthonormal basis that they belong to; see `pyramid`.

    Attributes:
        graph: its regions are named (level, slices) in places of the level; their model ids are
            (level, shape).
        tile: the sides of a tile.
        levels: how many times tiles are made of tiles.
    """

    graph: RegionGraph
    tile: Shape
    levels: int

    __repr__ = by_field

    @property
    def scales(self) -> list[float]:
        """√t^k of levels k = 0 … L, whose models are called at σ / √t^k, down to σ_min / √t^k.

        Coarse coefficients are √t^k times as far apart as means: σ_max has to cover them.
        """
        return [math.sqrt(prod(self.tile)) ** level for level in range(self.levels + 1)]

    def to_coefficients(self, x: Tensor, level: int = 0) -> Tensor:
        """The coefficients of a tensor or a window of it, by sums over tiles, differentiably.

        Args:
            x: `[*batch, *shape]`.
            level: of which x holds the coarse coefficients; at 0 these are the elements.

        Raises:
            ShapeError: the sides of x are not those of whole tiles.
        """
        return self._turned(x, range(self.levels - level))

    def to_pixels(self, z: Tensor, level: int = 0) -> Tensor:
        """The inverse, and transpose, of `to_coefficients`, with the same arguments and errors."""
        return self._turned(z, range(self.levels - level)[::-1])

    def means(self, x: Tensor, level: int) -> Tensor:
        """The tile means of a level, to train its model on, of elements x `[*batch, *shape]`."""
        return self._blocks(x, level).mean(dim=[*range(1 - 2 * len(self.tile), 0, 2)])

    def _blocks(self, x: Tensor, level: int) -> Tensor:
        """A tensor with two axes, tiles and places of a tile of a level, in place of every one."""
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
        n, root, turned = len(self.tile), math.sqrt(prod(self.tile)), x.clone()
        for level in levels:
            at: Any = (..., *(slice(None, None, t**level) for t in self.tile))
            first: Any = (..., *[slice(None), slice(1)] * n)
            blocks = self._blocks(turned[at], 1)
            coarse = blocks.sum(dim=[*range(1 - 2 * n, 0, 2)], keepdim=True) / root
            details = blocks + (blocks[first] - coarse) / (root - 1)
            details[first] = coarse
            turned[at] = details.reshape(turned[at].shape)
        return turned


def pyramid(
    shape: Sequence[int],
    tile: int | Sequence[int],
    levels: int,
    window: int | Sequence[int],
    overlap: int | Sequence[int] = 0,
) -> Pyramid:
    """Windows of a tensor, of its tile means, of means of these …, and all of the coarsest.

    They are counted by cluster variation. For one level, windows w and the coarse region C count
    +1, w ∩ w' and w ∩ C -1, and w ∩ w' ∩ C +1: models of parts of C are needed too. Regions form
    loops: `Consistent` and `Posterior`, which complete the covariances (fit them on
    `pyramid.to_coefficients(data)`), are exact for Gaussian data Markov to the graph, up to 2,000
    elements. Beyond, P stands for the completion, and that of a pyramid is in general indefinite.

    Args:
        shape: event shape of the tensor, channels included.
        tile: sides of a tile; 1 on axes that are not made coarser, as channels.
        levels: L, how many times tiles are made of tiles.
        window, overlap: as for `tiles`, in places of each level. A window spans a shorter level,
            and above level 0 the last one is moved inwards where the stride does not fit.

    Raises:
        GraphError: windows do not start and end on edges of the coarsest tiles, those of a level
            lie inside those of the level below, or whatever `tiles` raises.

    Example:
        >>> from pgmdiff.graphs import pyramid
        >>> pyramid((128,), tile=8, levels=1, window=16, overlap=8).graph.names[0]
        (1, '[0:16]')
    """
    sides, lengths, overlaps = (
        tuple(np.broadcast_to(each, len(shape)).tolist()) for each in (tile, window, overlap)
    )
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
    whole, below = np.arange(prod(shape)).reshape(shape), (0,) * len(shape)
    pieces: dict[tuple[int, str], Ints] = {}
    for level in range(levels + 1):
        places = whole[tuple(slice(None, None, t**level) for t in sides)]
        spans = tuple(map(min, lengths, places.shape)) if level < levels else places.shape
        if level and all(s * t <= b for s, t, b in zip(spans, sides, below, strict=True)):
            raise GraphError(
                f"pyramid: the windows of level {level} lie inside those of level {level - 1}, so "
                "that it adds nothing. Use fewer levels, or shorter windows."
            )
        windows = tiles(places.shape, spans, overlaps, remainder="shift" if level else "error")
        flat = {name: windows.elements(name).numpy() for name in windows.pieces}
        pieces |= {(level, str(name)): places.reshape(-1)[each] for name, each in flat.items()}
        below = spans
    kinds = {name: (name[0], array.shape) for name, array in pieces.items()}
    counted = cluster_variation(pieces, event_shape=shape, models=kinds)
    arrays: dict[tuple[int, str], Ints] = {}
    counts: dict[tuple[int, str], tuple[int, bool]] = {}
    old: Any
    for old, count in counted.counting_numbers().items():
        array = counted.elements(old).numpy()
        level = max(k for k, _ in ([old] if old in pieces else old))
        corner = zip(np.unravel_index(array.flat[0], shape), sides, array.shape, strict=True)
        ends = [(int(first) // t**level, side) for first, t, side in corner]
        name = level, f"[{', '.join(f'{start}:{start + side}' for start, side in ends)}]"
        arrays[name], counts[name] = array, (count, name in pieces)
    models = {name: (name[0], array.shape) for name, array in arrays.items()}
    graph = RegionGraph.grouped(arrays, counts, shape, models=models, conditions={})
    return Pyramid(graph, sides, levels)
