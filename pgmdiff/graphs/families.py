r"""Common topologies: chains, cycles, stars, trees, lattices of variables, windows of a tensor.

Windows along one axis: windows count +1 and overlaps of neighbouring windows -1, so an element in
m consecutive windows is counted m - (m - 1) times. Counts of several axes multiply; this is the
cluster variation of the tiles (edge overlaps -1, corner overlaps +1), without set operations.
"""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any, Literal

import numpy as np

from pgmdiff.errors import GraphError
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.regions import AxisWindows, Ints, RegionGraph, WindowGroup

__all__ = ["chain", "cycle", "grid", "star", "tiles", "torus", "tree"]

Remainder = Literal["error", "shift"]


def chain(n: int, shape: Sequence[int] = (), **options: Any) -> FactorGraph:
    """Variables x0 … x(n-1) of one shape in a line, factor f_i on (x_i, x_i+1). Berge-acyclic.

    Args:
        n: number of variables; 1 is an isolated variable, 0 the empty graph.
        shape: event shape of every variable.
        options: of `FactorGraph.from_arrays`, such as `axis` and `factor_model`.

    Example:
        >>> from pgmdiff.graphs import chain
        >>> chain(3).counting_numbers()
        {'f0': 1, 'f1': 1, 'x0': 0, 'x1': -1, 'x2': 0}
    """
    first = np.arange(max(_at_least("chain", n, 0) - 1, 0))
    return FactorGraph.from_arrays(np.stack([first, first + 1], axis=1), n, shape=shape, **options)


def cycle(n: int, shape: Sequence[int] = (), **options: Any) -> FactorGraph:
    """A closed chain: factor f_i on (x_i, x_(i+1) mod n). A loop; n is at least 3."""
    first = np.arange(_at_least("cycle", n, 3))
    return FactorGraph.from_arrays(
        np.stack([first, (first + 1) % n], axis=1), n, shape=shape, **options
    )


def star(n: int, shape: Sequence[int] = (), **options: Any) -> FactorGraph:
    """A centre x0 and n leaves x1 … xn, factor f_i on (x0, x_(i+1)). Berge-acyclic.

    Counting numbers: factors +1, centre 1 - n, leaves 0.
    """
    leaves = 1 + np.arange(_at_least("star", n, 0))
    return FactorGraph.from_arrays(
        np.stack([np.zeros_like(leaves), leaves], axis=1), n + 1, shape=shape, **options
    )


def tree(branching: int, depth: int, shape: Sequence[int] = (), **options: Any) -> FactorGraph:
    """A balanced tree with root x0, a pair factor (parent, child) on every edge. Berge-acyclic.

    Args:
        branching: children of every inner variable.
        depth: edges from the root to a leaf; 0 is the root alone.
        shape, options: see `chain`.
    """
    branching = _at_least("tree", branching, 1)
    n = sum(branching**level for level in range(_at_least("tree", depth, 0) + 1))
    child = np.arange(1, n)
    return FactorGraph.from_arrays(
        np.stack([(child - 1) // branching, child], axis=1), n, shape=shape, **options
    )


def grid(*sizes: int, shape: Sequence[int] = (), **options: Any) -> FactorGraph:
    """A lattice of variables named by their coordinates, a pair factor on every lattice edge.

    A factor is named by its two variables, `((0, 0), (0, 1))`. Loopy as soon as two sizes exceed 1.
    """
    return _lattice("grid", sizes, False, shape, options)


def torus(*sizes: int, shape: Sequence[int] = (), **options: Any) -> FactorGraph:
    """A `grid` whose every axis is closed; each size is at least 3."""
    return _lattice("torus", sizes, True, shape, options)


def _lattice(
    family: str,
    sizes: tuple[int, ...],
    periodic: bool,
    shape: Sequence[int],
    options: dict[str, Any],
) -> FactorGraph:
    if not sizes:
        raise GraphError(f"{family}: expected sizes, got none. Write {family}(4, 5).")
    for size in sizes:
        _at_least(family, size, 3 if periodic else 1)
    number = np.arange(prod(sizes)).reshape(sizes)
    pairs = []
    for a, size in enumerate(sizes):
        first = np.arange(size if periodic else size - 1)
        ends = number.take(first, axis=a), number.take((first + 1) % size, axis=a)
        pairs.append(np.stack([end.ravel() for end in ends], axis=1))
    scopes = np.concatenate(pairs)
    names = list(product(*map(range, sizes)))
    return FactorGraph.from_arrays(
        scopes,
        len(names),
        shape=shape,
        variables=names,
        factors=((names[a], names[b]) for a, b in scopes.tolist()),
        **options,
    )


def tiles(
    shape: Sequence[int],
    window: int | Sequence[int],
    overlap: int | Sequence[int] = 0,
    periodic: bool | Sequence[bool] = False,
    *,
    remainder: Remainder = "error",
) -> RegionGraph:
    """Overlapping windows of one tensor, with the counts of cluster variation.

    Windows count +1, overlaps of neighbours along one axis -1, corners where such overlaps cross
    +1, and so on by the product rule. A region is named by the slices it takes (`'[0:1, 8:24]'`;
    past the end it wraps), and its model id is its shape.

    One tiled axis gives a junction tree unless it is periodic; two overlapping axes make loops.

    Args:
        shape: event shape of the state, channels included.
        window: length of a window on each axis; a window as long as the axis spans it.
        overlap: of neighbouring windows, on each axis; ignored where a window spans the axis.
        periodic: whether each axis closes on itself. A window that spans its axis is not joined to
            itself, periodic or not: there is no overlap that a model could see.
        remainder: what to do where the stride (window - overlap) does not divide an axis:
            `"error"`, or `"shift"`: on an open axis the last window is shifted inwards, on a
            periodic one the last overlap grows; counts stay valid.

    Raises:
        GraphError: a window is longer than its axis; an overlap is not shorter than its window;
            the stride does not fit, with the nearest sizes that do.

    Example:
        >>> from pgmdiff.graphs import tiles
        >>> ring = tiles((16, 64), window=(16, 16), overlap=(0, 8), periodic=(False, True))
        >>> ring
        RegionGraph(event_shape=(16, 64), 16 regions (16 with a nonzero count) in 2 groups)
    """
    n = len(shape)
    if n == 0 or remainder not in ("error", "shift"):
        raise GraphError(
            f"tiles: expected a shape with at least one axis and remainder 'error' or 'shift', "
            f"got shape={tuple(shape)} and remainder={remainder!r}."
        )
    settings = zip(
        shape,
        _per_axis("window", window, n),
        _per_axis("overlap", overlap, n),
        _per_axis("periodic", periodic, n),
        strict=True,
    )
    axes = [
        _axis(number, size, w, o, bool(p), remainder)
        for number, (size, w, o, p) in enumerate(settings)
    ]
    return RegionGraph(
        tuple(shape),
        tuple(WindowGroup.product(parts) for parts in product(*axes)),
        junction_tree=_tiles_are_acyclic(axes),
    )


def _per_axis(what: str, value: int | Sequence[int], n: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * n
    if len(values) != n or not all(isinstance(v, int | np.integer) for v in values):
        raise GraphError(
            f"tiles: expected one integer {what} or one for each of the {n} axes, got {value!r}."
        )
    return values


def _axis(
    number: int, size: int, window: int, overlap: int, periodic: bool, remainder: Remainder
) -> list[AxisWindows]:
    """The windows of one axis, and their overlaps by length."""
    if not 1 <= window <= size:
        raise GraphError(
            f"tiles: on axis {number} the window is {window} long, expected 1 to {size}, the size "
            "of the axis. Give a window for each axis; the axis' size spans it."
        )
    if window == size:
        return [AxisWindows(size, window, np.zeros(1, np.int64), 1, True)]
    if not 0 <= overlap < window:
        raise GraphError(
            f"tiles: on axis {number} the overlap is {overlap}, expected 0 to {window - 1}: "
            "less than the window. Shorten it."
        )
    stride = window - overlap
    starts = _starts(number, size, window, stride, periodic, remainder)
    after = np.append(starts[1:], starts[0] + size) if periodic else starts[1:]
    before = starts[: len(after)]
    lengths = before + window - after
    parts = [AxisWindows(size, window, starts, 1, True)]
    for length in np.unique(lengths[lengths > 0])[::-1]:
        begins = after[lengths == length] % size
        parts.append(AxisWindows(size, int(length), begins, -1, False))
    return parts


def _starts(
    number: int, size: int, window: int, stride: int, periodic: bool, remainder: Remainder
) -> Ints:
    free = size if periodic else size - window
    left = free % stride
    if left and remainder == "error":
        fits = [size - left, size - left + stride]
        nearest = " or ".join(str(s) for s in fits if s >= window + periodic)
        raise GraphError(
            f"tiles: on axis {number} windows of {window} with stride {stride} do not fit a "
            f"{'periodic ' if periodic else ''}size of {size}. Use a size of {nearest}, or "
            "remainder='shift'."
        )
    starts = np.arange(0, free if periodic else free + 1, stride)
    return np.append(starts, free) if left and not periodic else starts


def _tiles_are_acyclic(axes: list[list[AxisWindows]]) -> bool:
    """Windows overlap along one axis at the most, and that axis is not closed into a loop."""
    overlapping = [parts for parts in axes if len(parts) > 1]
    n_overlaps = [sum(len(part.starts) for part in parts[1:]) for parts in overlapping]
    loops = [n >= len(parts[0].starts) for n, parts in zip(n_overlaps, overlapping, strict=True)]
    return len(overlapping) <= 1 and not any(loops)


def _at_least(family: str, n: int, least: int) -> int:
    if n < least:
        raise GraphError(f"{family}: expected a size of at least {least}, got {n}.")
    return n
