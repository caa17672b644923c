"""Strips show their images and seams."""

import numpy as np
import pytest
import torch

from pgmdiff.errors import ShapeError
from pgmdiff.plotting import strips


@pytest.mark.parametrize("shape", [(4, 8), (1, 4, 8), (3, 4, 8)])
def test_strips_show_the_image_and_its_seams(shape) -> None:
    image = torch.linspace(-1.5, 1.5, torch.Size(shape).numel()).reshape(shape)
    figure = strips({"one": image, "two": image}, seams={"one": [4]}, joins={"two": 8}, title="t")
    one, two = figure.axes
    shown = np.asarray(one.images[0].get_array())
    expected = (image.clamp(-1, 1).squeeze().numpy() + 1) / 2
    if len(shape) == 3 and shape[0] == 3:
        expected = expected.transpose(1, 2, 0)
    np.testing.assert_allclose(shown, expected, atol=1e-6)
    assert list(one.get_xticks()) == [3.5]
    assert len(two.get_xticks()) == 0
    assert len(two.lines) == 1


@pytest.mark.parametrize("shape", [(8,), (2, 4, 8), (1, 3, 4, 8)])
def test_what_is_no_image_is_refused(shape) -> None:
    with pytest.raises(ShapeError, match="batch: expected an image"):
        strips({"batch": torch.zeros(shape)})


def test_panels_are_shown_above_the_strips() -> None:
    tall, wide = torch.zeros(3, 8, 4), torch.zeros(8, 64)
    figure = strips({"strip": wide}, panels={"one": tall, "two": tall})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two", "strip"]
    assert figure.axes[0].images[0].get_array().shape == (8, 4, 3)
    with pytest.raises(ShapeError, match="batch: expected an image"):
        strips({"strip": wide}, panels={"batch": torch.zeros(2, 3, 8, 8)})


def test_no_strips_are_refused() -> None:
    with pytest.raises(ShapeError, match="at least one"):
        strips({})
