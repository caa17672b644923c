"""Rings and GIFs hold the pixels that they were given."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.plotting import animate, ring_image

# ---------------------------------------------------------------- rings


def test_a_ring_has_the_strip_around_its_hole() -> None:
    strip = torch.linspace(-1, 1, 16)[:, None].expand(16, 160)  # dark outside
    ring = ring_image(strip, scale=4)
    middle, inner = len(ring) // 2, 160 / (2 * math.pi) - 8
    assert ring.shape == (2 * math.ceil(4 * (inner + 16)),) * 2
    assert (ring[middle, middle], ring[0, 0]) == (1, 1)
    for row in (2, 8, 13):
        place = middle + int(4 * (inner + 16 - row - 0.5))
        assert ring[middle, place] == pytest.approx(float(strip[row, 0]), abs=0.05)
    assert torch.allclose(ring, ring.T, atol=1e-5)
    assert torch.allclose(ring, ring.flip(0), atol=1e-5)


def test_columns_go_around_clockwise_and_meet_at_the_top() -> None:
    strip = torch.zeros(8, 80)
    strip[:, 18:22] = 1  # a quarter of the way
    ring = ring_image(strip, ground=0.0)
    middle, radius = len(ring) // 2, int(4 * 80 / (2 * math.pi))
    assert ring[middle, middle + radius] == pytest.approx(1)
    assert (ring[middle, middle - radius], ring[middle - radius, middle]) == (0, 0)
    wave = torch.sin(torch.arange(80) * 2 * math.pi / 80).expand(8, 80)
    ring, step = ring_image(wave, ground=0.0), 2 * math.pi / 80
    seam = (ring[middle - radius, middle] - ring[middle - radius, middle - 1]).abs()
    assert seam < step  # no more than between any two columns
    turned = ring_image(wave.roll(20, 1), ground=0.0)
    assert torch.allclose(turned, ring.rot90(-1), atol=1e-5)


def test_rings_of_colours_and_radii() -> None:
    strip = torch.rand(3, 8, 80)
    ring = ring_image(strip, inner=4.0, scale=2, ground=0.5)
    assert ring.shape == (3, 48, 48)
    for channel in range(3):
        alone = ring_image(strip[channel], inner=4.0, scale=2, ground=0.5)
        assert torch.allclose(ring[channel], alone)
    with pytest.raises(ShapeError, match="longer than π times"):
        ring_image(torch.zeros(16, 40))
    for wrong in (torch.zeros(4), torch.zeros(1, 1, 8, 80), torch.zeros(8, 80).long()):
        with pytest.raises(ShapeError, match="floating-point strip"):
            ring_image(wrong)
    with pytest.raises(PgmdiffError, match="scale"):
        ring_image(torch.zeros(8, 80), scale=0)


# ---------------------------------------------------------------- GIFs


def test_a_gif_holds_its_frames_loops_and_rests(tmp_path: Path) -> None:
    frames = [torch.full((12, 20), value) for value in (-1.0, 0.0, 5.0)]
    path = animate(frames, tmp_path / "three.gif", captions="abc", scale=3, seconds=0.2, hold=1.5)
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.info["loop"]) == (3, 0)
        assert gif.size == (3 * 20 + 16, 3 * 12 + 8 + 32)
        for number, (value, time) in enumerate([(0, 200), (128, 200), (255, 1500)]):
            gif.seek(number)
            pixels = np.asarray(gif.convert("L"))
            assert gif.info["duration"] == time
            assert abs(int(pixels[20, 30]) - value) <= 4
            assert pixels[0, 0] == 255
            assert pixels[44:].min() < 120  # the caption


def test_gifs_of_colours_without_captions(tmp_path: Path) -> None:
    red, blue = torch.tensor([1.0, -1.0, -1.0]), torch.tensor([-1.0, -1.0, 1.0])
    frames = [colour[:, None, None].expand(3, 10, 10) for colour in (red, blue)]
    with Image.open(animate(frames, str(tmp_path / "two.GIF"))) as gif:
        assert gif.size == (26, 26)
        for number, expected in enumerate([(255, 0, 0), (0, 0, 255)]):
            gif.seek(number)
            found = np.asarray(gif.convert("RGB"))[13, 13]
            assert np.abs(found.astype(int) - expected).max() <= 4


def test_equal_frames_keep_their_time(tmp_path: Path) -> None:
    frames = [torch.zeros(8, 8)] * 3
    with Image.open(animate(frames, tmp_path / "still.gif", seconds=0.1, hold=1.0)) as gif:
        total = 0
        for number in range(getattr(gif, "n_frames", 1)):
            gif.seek(number)
            total += gif.info["duration"]
    assert total == 1200


def test_what_is_no_animation_is_refused(tmp_path: Path) -> None:
    path, frame = tmp_path / "no.gif", torch.zeros(8, 8)
    with pytest.raises(ShapeError, match="at least one frame"):
        animate([], path)
    for wrong in (frame[0], frame.expand(2, 8, 8), frame[None, None], torch.zeros(0, 8)):
        with pytest.raises(ShapeError, match="as number 0"):
            animate([wrong], path)
    with pytest.raises(ShapeError, match="as number 1 and"):
        animate([frame, torch.zeros(8, 9)], path)
    with pytest.raises(ShapeError, match="expected 1 captions"):
        animate([frame], path, captions=["a", "b"])
    with pytest.raises(PgmdiffError, match=r"ends in \.gif"):
        animate([frame], tmp_path / "no.mp4")
    for times in ({"seconds": 0.0}, {"hold": -1.0}, {"seconds": math.nan}, {"scale": 0}):
        with pytest.raises(PgmdiffError, match="at least"):
            animate([frame], path, **times)
    assert not path.exists()
