import numpy as np
import pytest
import torch

from pgmdiff import GraphError, compose
from pgmdiff.graphs import RegionGraph, tiles


def test_windows_are_slices_of_the_tensor() -> None:
    u = torch.arange(3 * 8 * 12).reshape(3, 8, 12)
    graph = tiles(u.shape, (3, 4, 6), (0, 2, 3), (False, False, True))
    wrapped = torch.cat([u, u], dim=2)
    for name in graph.names:
        (a, b), (c, d), (e, f) = (map(int, s.split(":")) for s in name.strip("[]").split(","))
        expected = wrapped[a:b, c:d, e:f]
        assert torch.equal(u.reshape(-1)[graph.elements(name)], expected)


def test_selected_windows_keep_their_order() -> None:
    group = tiles((8, 8), 4, 2).groups[0]
    rows = np.array([5, 0, 7])
    chosen = group.select(rows)
    assert [chosen.name(i) for i in range(3)] == [group.name(i) for i in rows]
    assert torch.equal(chosen.indices(0, 3)[2], group.indices(7, 8)[0])
    counts = np.bincount(chosen.indices(0, 3).reshape(-1).numpy(), minlength=64)
    assert (chosen.scatter_sum(np.ones(3, np.int64), 64) == counts).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((10,), 4, 1, True), "on axis 0 windows of 4 with stride 3 do not fit a periodic size of "
                              "10. Use a size of 9 or 12"),
        (((11,), 4, 1), "do not fit a size of 11. Use a size of 10 or 13"),
        (((5,), 4, 0), "Use a size of 4 or 8"),
        (((3, 8), 4, 2), "on axis 0 the window is 4 long, expected 1 to 3"),
        (((8,), 4, 4), "on axis 0 the overlap is 4, expected 0 to 3"),
        (((8,), 0, 0), "the window is 0 long"),
        (((8, 8), (4,), 2), "expected one integer window or one for each of the 2 axes"),
        (((8,), 4.0, 2), "expected one integer window"),
        (((), 4, 2), "at least one axis"),
    ],
)  # fmt: skip
def test_bad_tiles_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(GraphError, match="tiles") as error:
        tiles(*arguments)
    assert message in str(error.value)


def test_the_sizes_an_error_names_fit() -> None:
    assert tiles((9,), 4, 1, True).validate().valid
    assert tiles((12,), 4, 1, True).validate().valid
    assert tiles((10,), 4, 1).validate().valid
    assert tiles((13,), 4, 1).validate().valid


def test_an_axis_a_window_spans_needs_no_overlap() -> None:
    graph = tiles((3, 16), (3, 8), overlap=4)
    assert [g.shape for g in graph.groups] == [(3, 8), (3, 4)]


def test_from_regions_checks_every_region() -> None:
    good = {"a": [0, 1], "b": [1, 2], "o": [1]}
    counts = {"a": 1, "b": 1, "o": -1}
    graph = RegionGraph.from_regions(good, counts, event_shape=(3,))
    report = graph.validate()
    assert report.valid
    assert report.junction_tree
    assert {n: bool(g.outer[i]) for g in graph.groups for i, n in enumerate(g.names)} == {
        "a": True, "b": True, "o": False,
    }  # fmt: skip
    for bad, message in (
        ([], "region 'a' is empty"),
        ([0, 3], "elements from 0 to 3, but the state has elements 0 to 2"),
        ([0, 0], "region 'a' lists an element twice"),
        ([0.5], "must hold integers"),
    ):
        with pytest.raises(GraphError, match=message):
            RegionGraph.from_regions({**good, "a": bad}, counts, event_shape=(3,))
    with pytest.raises(GraphError, match="'o' must have both elements and a count"):
        RegionGraph.from_regions(good, {"a": 1, "b": 1}, event_shape=(3,))
    with pytest.raises(GraphError, match="'z', which is no region"):
        RegionGraph.from_regions(good, counts, event_shape=(3,), conditions={"z": {}})
    with pytest.raises(GraphError, match=r"the count of 'a' is 0\.5, expected an integer"):
        RegionGraph.from_regions({"a": [0]}, {"a": 0.5}, event_shape=(1,))  # type: ignore[dict-item]
    with pytest.raises(GraphError, match="no region is named 'z'"):
        graph.elements("z")


def test_fractional_counts_share_a_denominator() -> None:
    regions = {"a": [0, 1], "b": [1, 2], "c": [0, 2]}
    halves = RegionGraph.from_regions(
        regions, dict.fromkeys(regions, 1), event_shape=(3,), denominator=2
    )
    assert halves.validate().valid
    u = torch.ones(1, 3)
    assert torch.equal(compose(halves, lambda x, sigma: -x)(u, 1.0), -u)


def test_invalid_graphs_cannot_be_composed() -> None:
    invalid = RegionGraph.from_regions(
        {"a": [0, 1], "b": [1, 2]}, {"a": 1, "b": 1}, event_shape=(4,)
    )
    report = invalid.validate()
    assert not report.valid
    assert report.uncovered.tolist() == [3]
    assert report.unbalanced.tolist() == [1, 3]
    assert "Invalid" in report.promise
    for act in (report.raise_if_invalid, lambda: compose(invalid, lambda x, sigma: x)):
        with pytest.raises(GraphError, match="got element 1: 2, element 3: 0"):
            act()


def test_report_reads_as_text() -> None:
    text = str(tiles((8,), 4, 2).validate())
    assert "5 regions over 8 elements" in text
    assert "junction tree: yes" in text
    assert "σ > 0" in text
