"""Tests of a topology of one's own: copy this file and put your graph in.

    pytest examples/test_my_topology.py

The example is a cylinder of panels, each of which overlaps the next by a column, and a cap that
sees the top rows of all of them. `docs/your_topology.md` explains it step by step.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgmdiff.graphs import RegionGraph, cluster_variation
from pgmdiff.testing import LawBroken, assert_lawful


def pieces(panels: int, rows: int, width: int, cap: int) -> dict[str, np.ndarray]:
    """Index arrays into a state [rows, panels * (width - 1)], whose columns wrap around."""
    u = np.arange(rows * panels * (width - 1)).reshape(rows, -1)
    columns = [
        np.arange(p * (width - 1), p * (width - 1) + width) % u.shape[1] for p in range(panels)
    ]
    arrays = {f"panel {p}": u[:, c] for p, c in enumerate(columns)}
    return {**arrays, "cap": u[:cap]}


def by_hand(panels: int, rows: int, width: int, cap: int) -> RegionGraph:
    """Pieces count +1, and what two of them share -1: not enough, as the test shows."""
    arrays = pieces(panels, rows, width, cap)
    counts = dict.fromkeys(arrays, 1)
    for p in range(panels):
        this, following = arrays[f"panel {p}"], arrays[f"panel {(p + 1) % panels}"]
        arrays[f"seam {p}"] = np.intersect1d(this, following).reshape(rows, 1)
        arrays[f"under the cap {p}"] = this[:cap]
        counts |= {f"seam {p}": -1, f"under the cap {p}": -1}
    return RegionGraph.from_regions(arrays, counts, event_shape=(rows, panels * (width - 1)))


def counted(panels: int, rows: int, width: int, cap: int) -> RegionGraph:
    """The same pieces, counted by cluster variation."""
    shape = (rows, panels * (width - 1))
    return cluster_variation(pieces(panels, rows, width, cap), event_shape=shape)


def test_counting_by_hand_misses_an_overlap() -> None:
    with pytest.raises(LawBroken, match="the counts sum to 0, expected 1") as broken:
        assert_lawful(by_hand(4, 6, 4, 2))
    print(broken.value)  # names the element and all regions that hold it: seams under the cap


def test_cluster_variation_misses_none() -> None:
    graph = counted(4, 6, 4, 2)
    print(assert_lawful(graph))
    assert sorted(set(graph.counting_numbers().values())) == [-1, 1]
    # Panels form a ring, so that composing is an approximation, as the report says:
    assert not graph.validate().junction_tree


@settings(max_examples=8, deadline=None)
@given(st.integers(3, 6), st.integers(2, 5), st.integers(2, 5), st.integers(1, 4))
def test_every_size_of_it_is_lawful(panels: int, rows: int, width: int, cap: int) -> None:
    assert_lawful(counted(panels, rows, width, min(cap, rows - 1)))
