"""Views of windows at equal distances are what their indices say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgmdiff import Marginal, compose
from pgmdiff.graphs import chain, tiles
from pgmdiff.graphs.groups import AxisWindows, IndexGroup, WindowGroup
from pgmdiff.graphs.spaced import SpacedWindows


@st.composite
def axes(draw: st.DrawFn) -> AxisWindows:
    """Windows along an axis at equal distances; the last ones may wrap around."""
    size = draw(st.integers(1, 9))
    length, step = draw(st.integers(1, size)), draw(st.integers(1, 4))
    start, most = draw(st.integers(0, size - 1)), draw(st.integers(1, 5))
    count = min(most, max(1, size // step), 1 + (2 * size - length - start) // step)
    starts = (start + step * torch.arange(count).numpy()) % size
    return AxisWindows(size, length, starts, count=1, outer=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(axes(), min_size=1, max_size=3), st.data())
def test_views_are_the_windows(axes: list[AxisWindows], data: st.DataObject) -> None:
    group = WindowGroup.product(axes)
    size = int(torch.tensor([axis.size for axis in axes]).prod())
    start = data.draw(st.integers(0, len(group) - 1))
    stop = data.draw(st.integers(start + 1, len(group)))
    spaced = group.spaced(size)
    assert spaced is not None
    if (spaced := spaced.part(start, stop)) is None:  # no product
        assert sum(len(axis.starts) > 1 for axis in axes) > 1
        return
    index = group.indices(start, stop).flatten()
    u = torch.randn(2, size, dtype=torch.float64)
    expected = u[:, index].reshape(2, stop - start, -1)
    assert torch.equal(spaced.gather(u), expected)
    values, total, other = torch.randn_like(expected), u.clone(), u.clone()
    spaced.add(total, values, -1.5)
    other.index_add_(1, index, -1.5 * values.flatten(1))
    torch.testing.assert_close(total, other)


def test_which_regions_are_runs() -> None:
    """Whole tilings, on rings too, and pieces of a series of variables; nothing else."""
    for graph in (tiles((3, 20, 32), (3, 8, 8), (0, 4, 4), (False, False, True)), chain(9)):
        regions = graph.regions
        size = int(torch.tensor(regions.event_shape).prod())
        assert all(group.spaced(size) for group in regions.groups if len(group))
    group = tiles((20,), 8, 4).groups[0]
    assert group.select(torch.tensor([0, 2]).numpy()).spaced(20) is None, "a part of a tiling"
    for index in ([[0, 2], [1, 3]], [[0, 1], [2, 3], [3, 4]], [[1, 2], [0, 1]]):
        assert SpacedWindows.of(torch.tensor(index), 9) is None
    one = torch.tensor([[4, 5]])
    assert SpacedWindows.of(one, 9) is not None
    assert SpacedWindows.of(one[:0], 9) is None


@pytest.mark.parametrize("max_batch", [None, 1, 3, 7])
def test_joints_do_not_depend_on_views(
    monkeypatch: pytest.MonkeyPatch, max_batch: int | None
) -> None:
    graph = tiles((3, 20, 32), (3, 8, 8), (0, 4, 4), (False, False, True))
    u = torch.randn(2, *graph.event_shape, dtype=torch.float64)
    weight = torch.randn(3, 8, 8, dtype=torch.float64)

    def score(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x.tanh() * weight[:, : x.shape[2], : x.shape[3]]

    found = compose(graph, score, rule=Marginal(), max_batch=max_batch)(u, 1.0)
    for kind in (IndexGroup, WindowGroup):
        monkeypatch.setattr(kind, "spaced", lambda *_: None)
    torch.testing.assert_close(found, compose(graph, score, rule=Marginal())(u, 1.0))
