"""Unfolded cubes."""

import numpy as np
import pytest
import torch

from pgmdiff.graphs import RegionGraph, cubemap, tiles
from pgmdiff.plotting import plot
from pgmdiff.plotting.cube import _pieces
from tests.plotting.helpers import legend, texts


def test_cubes_are_unfolded() -> None:
    figure = plot(cubemap(8, 2))
    (ax,) = figure.axes
    letters = {t.get_text(): t.get_position() for t in ax.texts if t.get_text() in "FBLRUD"}
    assert letters["U"][0] == letters["F"][0] == letters["D"][0]
    assert letters["U"][1] < letters["F"][1] < letters["D"][1]
    row = [letters[face][0] for face in "LFRB"]
    assert row == sorted(row)
    found = texts(figure)
    assert found.count("F|R  +1") == 2
    assert found.count("F  +1") == 1
    assert legend(figure) == ["+1 × 18", "−1 × 24"]
    image = torch.zeros(6, 3, 8, 8)
    assert len(plot(cubemap(8, channels=3), image=image).axes[0].images) == 6


NO_BOXES = {
    "all": np.arange(96).reshape(6, 4, 4),
    "diagonal": [0, 5, 10, 15],
    "ring": [0, 1, 2, 3, 4, 7, 8, 11, 12, 13, 14, 15],
    "corner of two": [0, 1, 4, 16, 17, 21],
}


@pytest.mark.parametrize(
    "graph",
    [
        cubemap(8, 2),
        cubemap(8, channels=3),
        tiles((6, 8, 8), (1, 4, 4), (0, 2, 2), periodic=(False, True, True)),  # around the ends
        RegionGraph.from_regions(NO_BOXES, dict.fromkeys(NO_BOXES, 1), event_shape=(6, 4, 4)),
    ],
)
def test_what_is_drawn_of_a_region_is_its_elements(graph: RegionGraph) -> None:
    shape = graph.event_shape
    channels = shape[1] if len(shape) == 4 else 1
    drawn = dict.fromkeys(range(graph.n_regions), 0.0)
    for piece in _pieces(graph):
        drawn[piece.region.number] += float(piece.size.prod())
    elements = [graph.elements(n).numel() for group in graph.groups for n in group.names]
    assert [channels * area for area in drawn.values()] == elements
    assert plot(graph, layout="cube").axes[0].patches
