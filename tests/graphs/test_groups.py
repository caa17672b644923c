"""Groups of regions: names, elements and selections of windows and of listed regions."""

import numpy as np
import pytest
import torch

from pgmdiff.graphs import chain, cycle, groups, tiles


def test_selected_windows_keep_their_order() -> None:
    group = tiles((8, 8), 4, 2).groups[0]
    rows = np.array([5, 0, 7])
    chosen = group.select(rows)
    assert [chosen.name(i) for i in range(3)] == [group.name(i) for i in rows]
    assert torch.equal(chosen.indices(0, 3)[2], group.indices(7, 8)[0])
    counts = np.bincount(chosen.indices(0, 3).reshape(-1).numpy(), minlength=64)
    assert (chosen.scatter_sum(np.ones(3, np.int64), 64) == counts).all()


def test_names_of_windows_are_those_of_each_row() -> None:
    for group in tiles((3, 9, 8), (3, 4, 4), (0, 1, 2), (False, True, False)).groups:
        assert group.names == [group.name(row) for row in range(len(group))]
        assert group.select(np.array([1, 0])).names == group.names[1::-1]
        assert group.select(np.zeros(0, np.int64)).names == []


def test_a_group_is_walked_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for group in (tiles((12,), 4, 2).groups[0], cycle(5).nodes.groups[0], chain(1).nodes.groups[0]):
        whole = group.flat()
        assert whole.shape == (len(group), np.prod(group.shape, dtype=int))
        monkeypatch.setattr(groups, "CHUNK", 2 * whole.shape[1])
        rows, parts = zip(*group.chunks(), strict=True)
        assert max(len(part) for part in parts) <= 2
        assert torch.equal(torch.cat(parts), whole)
        assert [r for each in rows for r in range(len(group))[each]] == list(range(len(group)))


def test_first_elements() -> None:
    graph = tiles((3, 14, 16), (3, 6, 8), (0, 2, 4), periodic=(False, False, True))
    for group in graph.groups:
        some = group.select(np.arange(len(group))[::2])
        assert torch.equal(group.firsts(), group.flat()[:, 0])
        assert torch.equal(some.firsts(), some.resolved().firsts())
