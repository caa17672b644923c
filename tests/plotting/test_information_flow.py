"""Information flow: shares of rows, on one scale of shades."""

import math

import numpy as np
import pytest
import torch

from pgmdiff.errors import ShapeError
from pgmdiff.plotting import flow
from pgmdiff.plotting.information_flow import SHADES
from tests.plotting.helpers import check_legible


def test_flow_shows_shares_of_each_row_and_leaves_zeros_white() -> None:
    values = torch.tensor([[0.0, 2.0, 0.0], [1e-9, 4.0, 1.0]])
    figure = flow({"marginal": values, "posterior": values + 1}, sigmas=[3.0, 0.0], title="flow")
    shown = figure.axes[0].images[0]
    drawn = shown.get_array()
    assert drawn.mask.tolist() == [[True, False, True], [False, False, False]]
    assert np.allclose(drawn.filled(0), [[0, 1, 0], [2.5e-10, 1, 0.25]])
    colours = shown.to_rgba(drawn)
    assert (colours[0, 0, 3], colours[1, 0, 3]) == (0, 1)  # nothing, and less than the scale has
    assert np.allclose(colours[1, 0], SHADES(0.0))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["3", "0"]
    assert figure.axes[0].images[0].norm is figure.axes[1].images[0].norm
    check_legible(figure)


def test_shades_become_darker_evenly() -> None:
    """So that their order is seen without colours, in any kind of colour blindness."""
    linear = np.array([0.2126, 0.7152, 0.0722])
    rgb = SHADES(np.linspace(0, 1, 50))[:, :3]
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ linear
    falls = np.diff(116 * np.cbrt(light))
    assert (falls < -0.8).all()
    assert falls.min() > 4 * falls.max()


def test_many_panels_and_elements_stay_legible() -> None:
    panels = {f"panel {k}": torch.rand(30, 400) + 0.1 for k in range(5)}
    figure = flow(panels, columns=3, title="five")
    assert len([axes for axes in figure.axes if axes.images]) == 5
    assert max(figure.get_size_inches()) < 22
    check_legible(figure)


def test_what_is_no_flow_is_refused() -> None:
    good = torch.eye(3)
    with pytest.raises(ShapeError, match="at least one panel"):
        flow({})
    with pytest.raises(ShapeError, match="floor"):
        flow({"a": good}, floor=0.0)
    with pytest.raises(ShapeError, match="each of the 3 rows of 'a', got 2 sigmas"):
        flow({"a": good}, sigmas=[1.0, 0.0])
    for wrong in (good[0], -good, good * math.nan, torch.zeros(3, 3), torch.ones(2, 3, 3)):
        with pytest.raises(ShapeError, match="'a' as finite"):
            flow({"a": wrong})
