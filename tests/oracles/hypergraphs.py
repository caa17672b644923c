"""Hypergraphs in plain integers: the exact oracle of counting numbers and acyclicity.

A scope is a bitmask, an integer whose bit v is set if it contains variable v. Nothing of the
library is used here, and each notion follows another definition than the library's:
inclusion-exclusion instead of counts from the largest region down, GYO reduction instead of a
spanning forest, union-find instead of counting edges.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from math import prod

Span = tuple[int, int]
"""Start and length of a window along one axis."""


def bits(mask: int) -> list[int]:
    return [v for v in range(mask.bit_length()) if mask >> v & 1]


def mask_of(members: Iterable[int]) -> int:
    return sum(1 << v for v in set(members))


def maximal(masks: Iterable[int]) -> list[int]:
    """Distinct scopes inside no other, the largest first."""
    kept: list[int] = []
    for mask in sorted(set(masks), key=lambda m: (-m.bit_count(), m)):
        if not any(mask & larger == mask for larger in kept):
            kept.append(mask)
    return kept


def with_isolated(masks: Sequence[int], n_variables: int) -> list[int]:
    """The scopes, and one more for every variable in none of them."""
    return [*masks, *(1 << v for v in range(n_variables) if not any(m >> v & 1 for m in masks))]


# ---------------------------------------------------------------- counting numbers


def nonzero(counts: Mapping[int, int]) -> dict[int, int]:
    return {region: count for region, count in counts.items() if region and count}


def inclusion_exclusion(masks: Iterable[int]) -> dict[int, int]:
    """c_R = Σ over sets S of maximal scopes with ∩S = R of (-1)^(|S| - 1), one scope at a time."""
    counts: Counter[int] = Counter()
    for scope in maximal(masks):
        terms = list(counts.items())
        counts[scope] += 1
        for region, count in terms:
            counts[region & scope] -= count
    return nonzero(counts)


def degrees(masks: Sequence[int], n_variables: int) -> list[int]:
    return [sum(mask >> v & 1 for mask in masks) for v in range(n_variables)]


def merged_bethe(masks: Sequence[int], n_variables: int) -> dict[int, int]:
    """Bethe counts, those of regions on the same variables added."""
    counts = Counter(masks)
    for v, degree in enumerate(degrees(masks, n_variables)):
        counts[1 << v] += 1 - degree
    return nonzero(counts)


def element_sums(regions: Iterable[tuple[Collection[int], int]], n_elements: int) -> list[int]:
    """Σ of the counts of the regions that contain an element, for every element."""
    sums = [0] * n_elements
    for elements, count in regions:
        for element in elements:
            sums[element] += count
    return sums


# ---------------------------------------------------------------- acyclicity


def is_alpha_acyclic(masks: Iterable[int]) -> bool:
    """GYO reduction: whether dropping lonely variables and contained scopes leaves nothing."""
    edges = maximal(masks)
    while True:
        once = twice = 0
        for edge in edges:
            once, twice = once | edge, twice | once & edge
        reduced = maximal(edge & twice for edge in edges)
        if reduced == edges:
            return not any(edges)
        edges = reduced


def is_berge_acyclic(masks: Iterable[int]) -> bool:
    """Union-find on the bipartite graph of distinct scopes: whether no edge closes a loop."""
    root: dict[object, object] = {}

    def find(node: object) -> object:
        while node in root:
            node = root[node]
        return node

    for mask in set(masks):
        for v in bits(mask):
            scope, variable = find(("scope", mask)), find(("variable", v))
            if scope == variable:
                return False
            root[scope] = variable
    return True


def n_components(masks: Iterable[int]) -> int:
    parts: list[int] = []
    for mask in masks:
        touching = [part for part in parts if part & mask]
        parts = [part for part in parts if not part & mask]
        parts.append(mask | sum(touching))  # parts are disjoint: their sum is their union
    return len(parts)


def is_junction_tree(outer: Sequence[int], counts: Mapping[int, int]) -> bool:
    """Whether the outer regions are α-acyclic, and the counts are their cluster variation's."""
    return is_alpha_acyclic(outer) and nonzero(counts) == inclusion_exclusion(outer)


# ---------------------------------------------------------------- blocks of elements


def layout(
    scope: Iterable[int], shapes: Sequence[tuple[int, ...]], axis: int | None = None
) -> list[int]:
    """Elements of the variables in scope order: flattened (None), or their rows joined (-1)."""
    first = [sum(map(prod, shapes[:v])) for v in range(len(shapes))]
    members = list(scope)
    if axis is None:
        return [first[v] + e for v in members for e in range(prod(shapes[v]))]
    width = {v: shapes[v][-1] for v in members}
    rows = range(prod(shapes[members[0]][:-1]))
    return [first[v] + row * width[v] + e for row in rows for v in members for e in range(width[v])]


# ---------------------------------------------------------------- windows of a tensor


@cache
def axis_counts(size: int, window: int, overlap: int, periodic: bool) -> dict[Span, int]:
    """Windows of one axis and their overlaps: inclusion-exclusion of intervals on a line.

    A periodic axis is unrolled into three periods, and what begins in the middle one is taken.
    Where the stride does not divide an open axis, the last window is shifted inwards.
    """
    if window == size:
        return {(0, size): 1}
    stride = window - overlap
    starts = list(range(0, size if periodic else size - window + 1, stride))
    if not periodic and starts[-1] + window < size:
        starts.append(size - window)
    shifts = (0, size, 2 * size) if periodic else (0,)
    intervals = [((1 << window) - 1) << (start + shift) for shift in shifts for start in starts]
    counts = inclusion_exclusion(intervals)
    middle = range(size, 2 * size) if periodic else range(size)
    spans = {(bits(r)[0], r.bit_count()): count for r, count in counts.items()}
    return {(begin % size, n): count for (begin, n), count in spans.items() if begin in middle}


def tile_counts(axes: Iterable[Mapping[Span, int]]) -> dict[tuple[Span, ...], int]:
    """The product rule: counts of spans multiply along the axes."""
    boxes = product(*(axis.items() for axis in axes))
    return {tuple(span for span, _ in box): prod(count for _, count in box) for box in boxes}


def box_elements(box: Sequence[Span], shape: Sequence[int]) -> list[int]:
    """Row-major elements of a box; past the end of an axis it wraps."""
    elements = [0]
    for (start, length), size in zip(box, shape, strict=True):
        places = [(start + i) % size for i in range(length)]
        elements = [element * size + place for element in elements for place in places]
    return elements


def parsed(name: str) -> tuple[Span, ...]:
    """The spans of a region named `'[0:1, 8:24]'`."""
    ends = [tuple(map(int, part.split(":"))) for part in name.strip("[]").split(", ")]
    return tuple((start, stop - start) for start, stop in ends)
