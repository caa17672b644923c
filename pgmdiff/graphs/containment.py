"""Containment: which regions of a state lie inside which others.

A region is a set here, of elements or of variables. To find the regions around one, only those that
hold its rarest member are compared with it, so that a member that all regions share costs nothing.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence, Set

import numpy as np
from scipy import sparse

from pgmdiff.linalg import Ints

__all__ = ["incidence", "regions_around"]


def regions_around(
    inner: Iterable[Set[Hashable]], outer: Sequence[Set[Hashable]]
) -> Iterator[list[int]]:
    """Yields, for each inner region, the numbers of the outer regions that contain it.

    Numbers ascend. A region contains itself.

    Args:
        inner: regions to look up, none of them empty.
        outer: regions that may contain them.
    """
    holders: defaultdict[Hashable, list[int]] = defaultdict(list)
    for number, region in enumerate(outer):
        for member in region:
            holders[member].append(number)
    for region in inner:
        rarest = min((holders[member] for member in region), key=len)
        yield [number for number in rarest if region <= outer[number]]


def incidence(regions: Sequence[Ints], n_elements: int) -> "sparse.csr_array":
    """Sparse `[regions, n_elements]`, 1 where a region contains an element.

    Args:
        regions: distinct elements of each, int64 `[d]`.
        n_elements: number of elements of the state.
    """
    bounds = np.cumsum([0, *map(len, regions)])
    columns = np.concatenate([np.zeros(0, np.int64), *regions])
    return sparse.csr_array((np.ones(len(columns)), columns, bounds), (len(regions), n_elements))
