r"""Atoms: the blocks of elements that no region splits.

Two elements are in one atom when they are in the same regions. Counting, acyclicity and the
Gaussian proxies depend on a graph only through which regions hold which atoms, so index arrays of
many elements are counted as scopes of few atoms.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Ints

__all__ = [
    "array_neighbours",
    "atoms",
    "components",
    "connected_atoms",
    "connected_elements",
    "first_elements",
]

Neighbours = Mapping[Hashable, set[Hashable]]


def atoms(regions: Iterable[Ints], n_elements: int) -> Ints:
    """The atom of every element, int64 `[n_elements]`, numbered as they first occur."""
    labels, n_labels = np.zeros(n_elements, np.int64), 1
    for region in regions:
        flat = region.ravel()
        old, place = np.unique(labels[flat], return_inverse=True)
        labels[flat] = n_labels + place
        n_labels += len(old)
    return _renumbered(labels)


def connected_atoms(regions: Sequence[Ints], n_elements: int) -> Ints:
    """Atoms cut into connected parts: of elements beside each other in some region's array."""
    labels, edges = atoms(regions, n_elements), _beside(regions)
    within = edges[:, labels[edges[0]] == labels[edges[1]]]
    graph = sparse.coo_array((np.ones(within.shape[1]), tuple(within)), (n_elements,) * 2)
    return _renumbered(csgraph.connected_components(graph, directed=False)[1])


def connected_elements(graph: RegionGraph) -> Ints:
    """The connected component of every element, int64 `[n_elements]`, as they first occur.

    Regions of nonzero count link their elements. Under the marginal rule different components have
    nothing to do with each other: Π_r q_σ(u_r)^{c_r} is a product over components.
    """
    labels = np.arange(graph.n_elements)
    for group in graph.groups:
        counted = group.select(np.flatnonzero(group.counts))
        for start in range(0, len(counted), counted.step):
            stop = min(start + counted.step, len(counted))
            index = labels[counted.indices(start, stop).reshape(stop - start, -1).numpy()]
            first, others = index[:, :1], index[:, 1:]
            edges = np.broadcast_to(first, others.shape).ravel(), others.ravel()
            links = sparse.coo_array((np.ones(others.size), edges), (len(labels),) * 2)
            labels = csgraph.connected_components(links, directed=False)[1][labels]
    return _renumbered(labels)


def array_neighbours(regions: Sequence[Ints], labels: Ints) -> Mapping[int, set[int]]:
    """Which atoms touch: hold elements beside each other in some region's array."""
    touching: defaultdict[int, set[int]] = defaultdict(set)
    for a, b in np.unique(labels[_beside(regions)], axis=1).T.tolist():
        touching[a].add(b)
        touching[b].add(a)
    return touching


def components(region: frozenset[Hashable], touching: Neighbours) -> list[frozenset[Hashable]]:
    """The connected parts of a set of atoms."""
    left, parts = set(region), []
    while left:
        part, new = set[Hashable](), {left.pop()}
        while new:
            part |= new
            new = {b for a in new for b in touching.get(a, ())} & left
            left -= new
        parts.append(frozenset(part))
    return parts


def first_elements(labels: Ints) -> Ints:
    """One element of every atom, the first."""
    return np.unique(labels, return_index=True)[1]


def _renumbered(labels: Ints) -> Ints:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _beside(regions: Sequence[Ints]) -> Ints:
    """Pairs of elements that are neighbours along an axis of a region's array: int64 `[2, n]`."""
    pairs = [np.zeros((2, 0), np.int64)]
    for array in regions:
        for axis in range(array.ndim):
            lanes = np.moveaxis(array, axis, 0)
            pairs.append(np.stack([lanes[:-1].ravel(), lanes[1:].ravel()]))
    return np.concatenate(pairs, axis=1)
