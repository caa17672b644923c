"""Colours and texts that all pictures share."""

import torch
from matplotlib.colors import to_rgb

from pgmdiff.graphs import RegionGraph, grid
from pgmdiff.plotting import plot
from pgmdiff.plotting.style import colour_of, name_text, picture
from pgmdiff.text import count_text
from tests.plotting.helpers import texts


def test_colours_tell_signs_apart() -> None:
    for size in (1, 2, 30):
        red, _, blue = to_rgb(colour_of(size))
        assert blue > red
        red, _, blue = to_rgb(colour_of(-size))
        assert red > blue
    red, green, blue = to_rgb(colour_of(0))
    assert max(red, green, blue) - min(red, green, blue) < 0.05
    assert len({colour_of(c) for c in range(-5, 6)}) == 11
    assert [count_text(c) for c in (1, 0, -2)] == ["+1", "0", "−2"]


def test_fractions_are_written_as_such() -> None:
    halves = RegionGraph.from_regions(
        {"ab": [0, 1], "ba": [1, 0]}, {"ab": 1, "ba": 1}, event_shape=(2,), denominator=2
    )
    assert texts(plot(halves)) == ["ab\n+1/2", "ba\n+1/2"]


def test_names_without_punctuation() -> None:
    assert name_text((0, 1)) == "0,1"
    assert name_text(((0, 0), (0, 1))) == "0,0–0,1"
    assert name_text(frozenset({"b", "a"})) == "a,b"
    assert "((" not in "".join(texts(plot(grid(2, 2))))


def test_pictures_have_shades_from_0_to_1() -> None:
    grey = torch.tensor([[-1.0, 0.0, 3.0]])
    assert picture(grey).tolist() == picture(grey[None]).tolist() == [[0, 0.5, 1]]
    assert picture(torch.tensor([[0, 51, 255]], dtype=torch.uint8)).tolist() == [[0, 0.2, 1]]
    assert picture(torch.stack([grey, -grey])).tolist() == [[0.5, 0.5, 0.5]]
    colours = torch.stack([grey, grey, -grey])
    assert picture(colours).tolist() == [[[0, 0, 1], [0.5, 0.5, 0.5], [1, 1, 0]]]
