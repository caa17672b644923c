"""Unfolded cubes."""

import torch

from pgmdiff.graphs import cubemap
from pgmdiff.plotting import plot
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
