r"""Atoms: the blocks of elements that no region splits.

Two elements belong to one atom when they are in the same regions. Counting, acyclicity and the
Gaussian proxies depend on a graph only through which regions hold which atoms, so index arrays of
many elements are counted as scopes of few atoms.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse

from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Ints

__all__ = [
    "atoms",
    "connected",
    "connected_atoms",
    "connected_elements",
    "first_elements",
    "touching",
]


def atoms(regions: Iterable[Ints], n_elements: int) -> Ints:
    """The atom of every element, int64 `[n_elements]`, numbered in order of first appearance."""
    labels, n_labels = np.zeros(n_elements, np.int64), 1
    for region in regions:
        flat = region.ravel()
        old, place = np.unique(labels[flat], return_inverse=True)
        labels[flat] = n_labels + place
        n_labels += len(old)
    return _renumbered(labels)


def connected_atoms(regions: Sequence[Ints], n_elements: int) -> Ints:
    """Atoms cut into connected parts, whose elements are neighbours in some region's array."""
    labels, edges = atoms(regions, n_elements), _neighbours(regions)
    return _renumbered(connected(edges[:, labels[edges[0]] == labels[edges[1]]], n_elements))


def connected_elements(graph: RegionGraph) -> Ints:
    """The connected component of every element, int64 `[n_elements]`, by first appearance.

    Regions of nonzero count link their elements. Under the marginal rule the components are
    independent: Π_r q_σ(u_r)^{c_r} is a product over components.
    """
    labels = np.arange(graph.n_elements)
    for group in graph.groups:
        for _, index in group.select(np.flatnonzero(group.counts)).chunks():
            labels = connected(scope_edges(labels[index.numpy()]), len(labels))[labels]
    return _renumbered(labels)


def connected(edges: Ints, n: int) -> Ints:
    """The connected component of every node of a graph of n nodes, given edges `[2, m]`."""
    graph = sparse.coo_array((np.ones(edges.shape[1]), tuple(edges)), (n, n))
    return np.asarray(sparse.csgraph.connected_components(graph, directed=False)[1], np.int64)


def scope_edges(scopes: Ints) -> Ints:
    """Edges `[2, m]` from the first member of every row `[n, d]` to its others."""
    others = scopes[:, 1:]
    return np.stack([np.broadcast_to(scopes[:, :1], others.shape).ravel(), others.ravel()])


def touching(regions: Sequence[Ints], labels: Ints) -> Ints:
    """Pairs of atoms that touch: elements of theirs are neighbours in a region's array."""
    return np.unique(labels[_neighbours(regions)], axis=1)


def first_elements(labels: Ints) -> Ints:
    """The first element of every atom."""
    return np.unique(labels, return_index=True)[1]


def _renumbered(labels: Ints) -> Ints:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _neighbours(regions: Sequence[Ints]) -> Ints:
    """Pairs of elements that are neighbours along an axis of a region's array: int64 `[2, n]`."""
    pairs = [np.zeros((2, 0), np.int64)]
    for array in regions:
        for axis in range(array.ndim):
            lanes = np.moveaxis(array, axis, 0)
            pairs.append(np.stack([lanes[:-1].ravel(), lanes[1:].ravel()]))
    return np.concatenate(pairs, axis=1)
