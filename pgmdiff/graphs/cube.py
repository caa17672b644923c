r"""The geometry of a cube map as index arrays, and region graphs on it.

Axes: x points right, y down, z forward, for a viewer at the centre who looks at face F. Each face
has a frame of unit vectors (right, down, normal); all frames are rotations of each other, never
reflections: right × down = normal. A pixel centre at (a, b) of the square [-1, 1]² looks along

    a · right + b · down + normal.

The side faces F, R, B, L stand upright (down = y). U and D have right = x, so that the lower edge
of U and the upper edge of D meet F. Two adjacent faces are laid side by side by turning each by
the quarter turns that bring the other's normal to its right or its bottom, and minus the other's
normal to the opposite side. The elements of the state `[6, *C, n, n]` are numbered in row-major
order, so that such a pair is just an index array.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from pgmdiff.errors import GraphError
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Floats, Ints

__all__ = ["FACES", "FRAMES", "cubemap", "face_directions", "nested_cubemap"]


FACES = ("F", "B", "L", "R", "U", "D")
"""Front, back, left, right, up, down: the order of the faces in a state, opposites together."""

_NORMALS = np.array([(0, 0, 1), (0, 0, -1), (-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0)], np.int64)
_RIGHTS = np.array([(1, 0, 0), (-1, 0, 0), (0, 0, 1), (0, 0, -1), (1, 0, 0), (1, 0, 0)], np.int64)
FRAMES: Ints = np.stack([_RIGHTS, np.cross(_NORMALS, _RIGHTS), _NORMALS], axis=1)
"""int64 `[6, 3, 3]`: the vectors right, down and normal of every face."""
FRAMES.setflags(write=False)

SIZE = " Give the number of pixels along the edge of a face."
EDGES = ("F|R", "F/D", "B|L", "B/D", "L|F", "L/D", "R|B", "R/D", "U/F", "U/B", "U/L", "U/R")
"""Pairs of adjacent faces: the first lies to the left of the second (|), or above it (/)."""


def face_directions(face_size: int) -> Floats:
    """Unit vectors along which the pixels of a cube map look, in the axes of this module.

    Pixel (i, j) of a face of n × n looks along a · right + b · down + normal, a = (2j + 1)/n - 1,
    b = (2i + 1)/n - 1: the gnomonic projection, whose pixels shrink from the middle of a face (2/n
    radians apart) towards its corners.

    Args:
        face_size: n, in pixels.

    Returns:
        float64 `[6, n, n, 3]`: face, row (down), column (right), and (x, y, z).

    Raises:
        GraphError: the size is not an integer of at least 2.

    Example:
        >>> from pgmdiff.graphs.cube import FACES, face_directions
        >>> middle = face_directions(3)[:, 1, 1]
        >>> dict(zip("FRU", middle[[FACES.index(f) for f in "FRU"]].astype(int).tolist()))
        {'F': [0, 0, 1], 'R': [1, 0, 0], 'U': [0, -1, 0]}
    """
    n = _checked("face_directions", "face_size", face_size, 2, hint=SIZE)
    centre = (2 * np.arange(n) + 1) / n - 1
    down, right = np.meshgrid(centre, centre, indexing="ij")
    local = np.stack([right, down, np.ones((n, n))], axis=-1)
    vectors = np.einsum("ijk,fkx->fijx", local, FRAMES)
    directions: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return directions


def cubemap(
    face_size: int, overlap: int | None = None, *, channels: int | None = None
) -> RegionGraph:
    """Faces of a cube map joined by windows across its 12 edges, with cluster variation's counts.

    A window covers `overlap` pixels of either face, with the shared edge in its middle; by default
    it is as large as a face, for one model of n × n images. Each of its two halves is its overlap
    with a face, so that every half counts -1:

        1 ≤ overlap < n:  6 faces +1, 12 windows +1, 24 halves -1
        overlap = n:      12 pairs +1, 6 faces 1 - 4 = -3 (the flattened cube map of the paper)

    Smaller intersections (at the corners of a face, or of opposite halves) all have count 0, since
    each window that contains one contains it within its half. Regions are named

    - 'F', a face, `[*C, n, n]`;
    - 'F|R', a window across the edge of two side faces, the first to the left of the second, both
      upright: `[*C, n, 2 overlap]`;
    - 'U/F', a window whose first face lies above its second; the side face is upright and U or D
      is turned to fit: `[*C, 2 overlap, n]`;
    - 'F[0:4, 0:8]', rows and columns of a face, in the face's own orientation.

    The model id of a region is its shape. Nothing is mirrored: everything is seen from the centre.
    Regions form loops around the corners, so that composing is an approximation even at σ = 0.

    Args:
        face_size: n, in pixels.
        overlap: number of pixels of either face in a window; n/2 if None.
        channels: C of a state `[6, C, n, n]`; if None, the state is `[6, n, n]`.

    Raises:
        GraphError: a size, overlap or number of channels is not an integer in its range, or the
            face is odd and no overlap is given.

    Source: Zhang et al., "DiffCollage: parallel generation of large content with diffusion
    models", 2023, Appendix A, for overlap = n.

    Example:
        >>> from pgmdiff.graphs import cubemap
        >>> cubemap(8, channels=3)
        RegionGraph(event_shape=(6, 3, 8, 8), 42 regions in 3 groups)
    """
    n = _checked("cubemap", "face_size", face_size, 2, hint=SIZE)
    if overlap is None and n % 2:
        raise GraphError(
            f"cubemap: face_size is {n}, expected an even number, for windows of half a face. "
            f"Use a size of {n - 1} or {n + 1}, or give overlap=."
        )
    hint = f" Give the pixels that a window has of either face; {n} joins whole faces."
    overlap = _checked("cubemap", "the overlap", n // 2 if overlap is None else overlap, 1, n, hint)
    faces = _face_arrays("cubemap", n, channels)
    middle = slice(n - overlap, n + overlap)
    windows = {
        name: pair[..., middle] if "|" in name else pair[..., middle, :]
        for name, pair in _edge_arrays(faces).items()
    }
    regions = {**dict(zip(FACES, faces, strict=True)), **windows}
    counts = Counter(list(regions))
    whole, first, last = (0, n), (0, overlap), (n - overlap, n)
    for face, array in zip(FACES, faces, strict=True):
        for (a, b), (c, d) in ((first, whole), (last, whole), (whole, first), (whole, last)):
            half = f"{face}[{a}:{b}, {c}:{d}]" if overlap < n else face
            regions[half] = array[..., a:b, c:d]
            counts[half] -= 1
    outer = windows.keys() | (FACES if overlap < n else ())
    graph = RegionGraph.grouped(
        regions,
        {name: (counts[name], name in outer) for name in regions},
        faces.shape,
        models={name: array.shape for name, array in regions.items()},
        conditions={},
    )
    return replace(graph, junction_tree=False)


def nested_cubemap(face_size: int, *, channels: int | None = None) -> FactorGraph:
    """The cube map of the paper: a factor graph of pairs of opposite faces, with loops inside.

    Outside there are three variables FB, LR, UD `[2, *C, n, n]` (two opposite faces each, -1) and
    three factors LFRB, ULDR, UFDB (+1), the bands of four faces around an axis. Inside a band, a
    loop of four pairs of adjacent faces +1 and four faces -1; inside a variable, two faces +1.
    Flattened: 12 pairs +1, 6 faces -1 · 2 + 1 · (-1) = -3, with the names, arrays and model ids of
    `cubemap(face_size, face_size)`, whose flattened state `[6, *C, n, n]` the graph has.

    Args:
        face_size: n, in pixels.
        channels: C; if None, the faces have no channel axis.

    Raises:
        GraphError: a size or number of channels is not an integer in its range.

    Source: Zhang et al., "DiffCollage: parallel generation of large content with diffusion
    models", 2023, Appendix A (which prints the first factor as F, B, L, B).

    Example:
        >>> from pgmdiff.graphs import nested_cubemap
        >>> cube = nested_cubemap(8)
        >>> cube.counting_numbers()
        {'LFRB': 1, 'ULDR': 1, 'UFDB': 1, 'FB': -1, 'LR': -1, 'UD': -1}
        >>> cube.flatten().counting_numbers()["F"]
        -3
    """
    n = _checked("nested_cubemap", "face_size", face_size, 2, hint=SIZE)
    whole = _face_arrays("nested_cubemap", n, channels)
    faces = dict(zip(FACES, whole, strict=True))
    axes = ["".join(FACES[a : a + 2]) for a in (0, 2, 4)]
    bands = {b: tuple(a for a in axes if set(a) < set(b)) for b in ("LFRB", "ULDR", "UFDB")}
    shape = (2, *faces["F"].shape)
    pairs = _edge_arrays(whole)
    within = {band: "".join(scope) for band, scope in bands.items()} | {a: a for a in axes}
    return FactorGraph.from_scopes(bands, dict.fromkeys(axes, shape)).nest(
        {
            node: _joined([faces[f] for f in inside], inside, pairs)
            for node, inside in within.items()
        }
    )


def _joined(faces: list[Ints], names: str, pairs: Mapping[str, Ints]) -> RegionGraph:
    """Some faces, the state in their order, joined by the pairs of adjacent ones among them."""
    whole = np.stack(faces)
    adjacent = {name: p for name, p in pairs.items() if {name[0], name[2]} <= set(names)}
    regions = {**dict(zip(names, faces, strict=True)), **adjacent}
    degrees = Counter(face for name in adjacent for face in (name[0], name[2]))
    order = np.argsort(whole, axis=None)
    return RegionGraph.grouped(
        {
            name: order[np.searchsorted(whole.ravel(), array, sorter=order)]
            for name, array in regions.items()
        },
        {name: (1 - degrees[name], not degrees[name]) for name in regions},
        whole.shape,
        models={name: array.shape for name, array in regions.items()},
        conditions={},
    )


def _face_arrays(who: str, face_size: int, channels: int | None) -> Ints:
    """The elements of the state, in its shape `[6, *C, n, n]`."""
    hint = " Give the number of channels, or None for a state without a channel axis."
    planes = () if channels is None else (_checked(who, "channels", channels, 1, hint=hint),)
    shape = (6, *planes, face_size, face_size)
    return np.arange(prod(shape)).reshape(shape)


def _edge_arrays(faces: Ints) -> dict[str, Ints]:
    """The elements of the 12 pairs of faces: `[*C, n, 2n]` ('F|R') or `[*C, 2n, n]` ('U/F')."""
    pairs = {}
    for name in EDGES:
        beside = name[1] == "|"
        first, second = FACES.index(name[0]), FACES.index(name[2])
        halves = []
        for face, normal in ((first, FRAMES[second, 2]), (second, -FRAMES[first, 2])):
            right, down, _ = FRAMES[face]
            to_the_right = np.stack([right, down, -right, -down])  # after 0, 1, … quarter turns
            (turns,) = np.flatnonzero((to_the_right == normal).all(axis=1)).tolist()
            halves.append(np.rot90(faces[face], turns if beside else turns - 1, axes=(-2, -1)))
        pairs[name] = np.concatenate(halves, axis=-1 if beside else -2)
    return pairs


def _checked(
    caller: str, what: str, value: int, least: int, most: int | None = None, hint: str = ""
) -> int:
    if not isinstance(value, int | np.integer) or not least <= value <= (most or value):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise GraphError(f"{caller}: {what} is {value!r}, expected an integer {bounds}.{hint}")
    return int(value)
