"""Windows over images, and maps of their counts."""

import re
from collections import Counter

import numpy as np
import pytest
import torch
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from pgmdiff.errors import ShapeError
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.plotting import plot
from pgmdiff.plotting.style import colour_of
from pgmdiff.text import count_text
from tests.plotting.helpers import check_legible, legend, texts


def test_tiles_write_their_counts_where_they_fit() -> None:
    found = texts(plot(tiles((3, 52, 64), (3, 16, 16), (0, 4, 4))))
    assert found.count("+1") == 20 + 12
    assert found.count("−1") == 31
    crowded = texts(plot(tiles((16, 3604), (16, 16), (0, 4))))
    assert crowded == []
    assert texts(plot(tiles((52, 64), 16, 4), labels=False)) == []
    listed = legend(plot(tiles((52, 64), 16, 4)))
    assert listed == ["window +1 × 20", "overlap +1 × 12", "overlap −1 × 31"]


@pytest.mark.parametrize(
    "graph",
    [
        tiles((4, 8, 8), (2, 4, 4)),  # two windows have each box that is drawn
        tiles((6, 6, 6), (4, 4, 4), (2, 2, 2)),
        tiles((64, 64), 16, 8, True),  # many, of which an image shows outlines alone
        RegionGraph.from_regions(
            {"all": [0, 1, 2], "again": [0, 1, 2], "none": [1, 2]},
            {"all": 1, "again": 0, "none": 0},
            event_shape=(3,),
        ),
    ],
)
def test_legends_count_regions(graph: RegionGraph) -> None:
    number = Counter(count_text(c) for c in graph.counting_numbers().values())
    image = torch.zeros(graph.event_shape[-2:])
    for figure in (plot(graph, layout="tiles"), plot(graph, layout="tiles", image=image)):
        entries = [re.split(" × | ", entry) for entry in legend(figure)]
        assert Counter({count: 0 for _, count, _ in entries}).keys() == number.keys()
        for count, expected in number.items():
            assert sum(int(n) for _, each, n in entries if each == count) == expected
    hasse = dict(entry.split(" × ") for entry in legend(plot(graph, layout="hasse")))
    assert {count: int(n) for count, n in hasse.items()} == number


def outlines(figure: Figure) -> torch.Tensor:
    """Corners of the outlines of windows, `[windows, 5, 2]`; what leaves the axes is cut off."""
    *_, drawn = (c for c in figure.axes[0].collections if isinstance(c, PatchCollection))
    assert drawn.get_clip_on()
    return torch.stack([torch.tensor(path.vertices) for path in drawn.get_paths()])


def test_periodic_windows_stick_out_on_both_sides() -> None:
    closed = plot(tiles((16, 64), (16, 16), (0, 8), (False, True)))
    assert outlines(closed)[..., 0].min() < closed.axes[0].get_xlim()[0] < 0
    assert outlines(closed)[..., 0].max() > closed.axes[0].get_xlim()[1] > 64
    opened = outlines(plot(tiles((16, 64), (16, 16), (0, 8))))
    assert 0 < opened[..., 0].min() < opened[..., 0].max() < 64


def test_outlines_of_neighbours_do_not_coincide() -> None:
    corners = outlines(plot(tiles((48, 48), 16, 8)))
    sides = {tuple(side.flatten().tolist()) for box in corners for side in box.unfold(0, 2, 1)}
    assert len(sides) == 25 * 4


@pytest.mark.parametrize("shape", [(52, 64), (1, 52, 64), (3, 52, 64), (2, 52, 64)])
def test_images_lie_under_tiles(shape: tuple[int, ...]) -> None:
    image = torch.linspace(-3, 3, 52 * 64).reshape(52, 64).expand(shape)
    graph = tiles((52, 64), 16, 4)
    shown = plot(graph, image=image).axes[0].images[0].get_array()
    assert shown is not None
    assert shown.shape[:2] == (52, 64)
    assert shown.min() == 0
    assert shown.max() == 1


def test_without_an_image_coverage_is_shown() -> None:
    shown = plot(tiles((28, 28), 16, 4)).axes[0].images[0].get_array()
    assert shown is not None
    assert len({float(v) for v in shown[..., 0].ravel()}) == 3  # 1, 2 and 4 windows


def test_many_windows_leave_the_image_to_be_seen() -> None:
    torus = tiles((64, 64), 16, 8, True)
    few, many = plot(torus, image=torch.zeros(64, 64)), plot(torus)
    assert len(few.axes[0].texts) == 0
    drawn = [sum(len(c.get_paths()) for c in f.axes[0].collections) for f in (few, many)]
    assert drawn[0] < drawn[1]


# ---------------------------------------------------------------- maps


def test_maps_find_elements_that_are_not_counted_once() -> None:
    good = plot(tiles((28, 28), 16, 4), layout="counts")
    assert [ax.get_title() for ax in good.axes] == ["pieces", "overlaps", "sum: 1"]
    crosses = RegionGraph.from_regions(
        {"left": [[0, 1], [3, 4]], "right": [[1, 2], [4, 5]]},
        {"left": 1, "right": 1},
        event_shape=(2, 3),
    )
    wrong = plot(crosses, layout="counts").axes[-1].get_title()
    assert wrong == "sum: 2 of 6 elements are not counted once"


TILES = tiles((1, 28, 40), window=(1, 16, 16), overlap=(0, 4, 4))


def test_counts_lie_over_an_image() -> None:
    image = torch.rand(28, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    figure = plot(TILES, layout="counts", image=image)
    assert [axes.get_title() for axes in figure.axes] == ["pieces", "overlaps", "sum: 1"]
    pieces, overlaps, total = (np.asarray(axes.images[0].get_array()) for axes in figure.axes)
    grey = image.numpy()
    for shown in (pieces, overlaps, total):
        assert shown.shape == (28, 40, 3)
        assert 0 <= shown.min() < shown.max() <= 1
        area = shown[:12, :12].mean(axis=2)  # one count: texture alone
        assert np.corrcoef(area.ravel(), grey[:12, :12].ravel())[0, 1] > 0.9
    blue, orange = pieces[13, 13], overlaps[13, 13]
    assert blue[2] > blue[0]
    assert orange[0] > orange[2]
    check_legible(figure)


def test_counts_are_what_regions_add_up_to() -> None:
    figure = plot(TILES, layout="counts")
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    for (row, column), counts in {
        (0, 0): (1, 0, 1),
        (0, 13): (2, -1, 1),
        (13, 13): (4, -3, 1),
    }.items():
        for panel, count in zip(shown, counts, strict=True):
            assert np.allclose(panel[row, column], to_rgb(colour_of(count)))
    assert sorted(set(texts(figure))) == sorted({"+1", "+2", "+4", "0", "−1", "−3"})
    assert texts(figure).count("−3") == 2
    assert texts(plot(TILES, layout="counts", labels=False)) == []


@pytest.mark.parametrize("kind", ["bend", "holes"])
def test_a_count_is_written_inside_its_area(kind: str) -> None:
    """Also in one with a bend or with holes, whose middle is outside of it or at its edge."""
    area = np.zeros((12, 12), bool)
    if kind == "bend":
        area[:3], area[:, :3] = True, True
    else:
        area[:] = True
        area[1:11, ::3] = False
    graph = RegionGraph.from_regions(
        {"all": np.arange(144), "area": np.flatnonzero(area)},
        {"all": 1, "area": -1},
        event_shape=(12, 12),
    )
    figure = plot(graph, layout="counts")
    written = [(text.get_text(), *text.get_position()) for text in figure.axes[1].texts]
    assert {count for count, *_ in written} == {"−1", "0"}
    for count, column, row in written:
        inside = area if count == "−1" else ~area
        for nearest in (np.floor, np.ceil):
            assert inside[int(nearest(row - 0.5)), int(nearest(column - 0.5))]
    check_legible(figure)


@pytest.mark.parametrize(
    ("graph", "shape"),
    [(tiles((38,), 8, 2), (38,)), (tiles((3, 28, 28), (3, 16, 16), (0, 4, 4)), (3, 28, 28))],
)
def test_counts_lie_over_strips_and_colours(graph: RegionGraph, shape: tuple[int, ...]) -> None:
    figure = plot(graph, layout="counts", image=torch.rand(shape))
    check_legible(figure)
    with pytest.raises(ShapeError, match="expected an image"):
        plot(graph, layout="counts", image=torch.rand(5, 5))
    flat = plot(graph, layout="counts", image=torch.zeros(shape))
    assert np.isfinite(np.asarray(flat.axes[0].images[0].get_array())).all()
