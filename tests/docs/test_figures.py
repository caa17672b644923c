"""Pictures of the site are told apart by what is in them, so that they suit dark pages."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("docutils")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

from figures import kind  # noqa: E402


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("exactness.png", "chart"),
        ("graph_gallery.png", "chart"),
        ("experiment_motion_order.gif", "chart"),
        ("counts_over_image.png", "card"),
        ("experiment_translation_connect.png", "card"),
        ("hero.png", None),
    ],
)
def test_pictures_of_the_docs(name: str, expected: str | None) -> None:
    assert kind(ROOT / "docs" / "images" / name) == expected


@pytest.mark.parametrize(("dark", "expected"), [(5, "chart"), (50, "card"), (95, None)])
def test_the_share_of_white(dark: int, expected: str | None, tmp_path: Path) -> None:
    pixels = np.full((100, 100, 3), 255, dtype=np.uint8)
    pixels[:dark] = 30
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert kind(tmp_path / "a.png") == expected
