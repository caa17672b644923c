"""Windows of a tensor as boxes, and the axes that are drawn."""

from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.plotting import plot
from pgmdiff.plotting.boxes import boxes_of, interval_of, intervals, size_of
from tests.plotting.helpers import legend


def test_boxes_are_those_that_indices_tell_of() -> None:
    image = tiles((3, 14, 16), (3, 6, 8), (0, 2, 4), periodic=(False, False, True))
    for graph in (image, tiles((48, 10), (16, 10), (8, 0), periodic=True), tiles((7,), 7)):
        indices = [
            interval_of(row.numpy().ravel(), graph.event_shape)
            for group in graph.groups
            for row in group.indices(0, len(group))
        ]
        assert list(intervals(graph)) == indices


def test_boxes_of_an_index_group_are_tiles_too() -> None:
    grid_of_four = RegionGraph.from_regions(
        {"left": [[0, 1], [3, 4]], "right": [[1, 2], [4, 5]], "middle": [[1], [4]]},
        {"left": 1, "right": 1, "middle": -1},
        event_shape=(2, 3),
    )
    assert legend(plot(grid_of_four)) == ["window +1 × 2", "overlap −1 × 1"]
    assert legend(plot(grid_of_four, layout="hasse")) == ["+1 × 2", "−1 × 1"]


def test_tiled_axes_are_the_ones_drawn() -> None:
    series = tiles((60, 5, 2), (16, 5, 2), (5, 0, 0))
    assert size_of(series) == (1, 60)
    assert len(boxes_of(series)) == 9
    assert size_of(tiles((3, 16, 40), (3, 16, 16), (0, 0, 4))) == (16, 40)
    assert "window +1 × 5" in legend(plot(series))
