"""Flow, counts over images, rings and GIFs: they hold what was given, and nothing else."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.graphs import RegionGraph, chain, tiles
from pgmdiff.plotting import animate, flow, plot, ring_image
from pgmdiff.plotting.information_flow import SHADES
from pgmdiff.plotting.style import colour_of
from scripts import draw_concepts, draw_docs
from tests.plotting.test_draw import check_legible, texts

# ---------------------------------------------------------------- information flow


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
    with pytest.raises(ShapeError, match="3 rows and there are 2 sigmas"):
        flow({"a": good}, sigmas=[1.0, 0.0])
    for wrong in (good[0], -good, good * math.nan, torch.zeros(3, 3), torch.ones(2, 3, 3)):
        with pytest.raises(ShapeError, match="'a' as finite"):
            flow({"a": wrong})


# ---------------------------------------------------------------- counts over an image


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


def test_a_count_is_written_inside_its_area() -> None:
    """Also in one with a bend, whose middle is outside of it."""
    bend = np.zeros((12, 12), bool)
    bend[:3], bend[:, :3] = True, True
    graph = RegionGraph.from_regions(
        {"all": np.arange(144), "bend": np.flatnonzero(bend)},
        {"all": 1, "bend": -1},
        event_shape=(12, 12),
    )
    figure = plot(graph, layout="counts")
    found = {text.get_text(): text.get_position() for text in figure.axes[1].texts}
    assert set(found) == {"−1", "0"}
    for count, inside in (("−1", bend), ("0", ~bend)):
        column, row = found[count]
        assert inside[int(row), int(column)]
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
    with pytest.raises(ShapeError, match="frame 1 is"):
        animate([frame, torch.zeros(8, 9)], path)
    with pytest.raises(ShapeError, match="expected 1 captions"):
        animate([frame], path, captions=["a", "b"])
    with pytest.raises(PgmdiffError, match=r"ends in \.gif"):
        animate([frame], tmp_path / "no.mp4")
    for times in ({"seconds": 0.0}, {"hold": -1.0}, {"seconds": math.nan}, {"scale": 0}):
        with pytest.raises(PgmdiffError, match="at least"):
            animate([frame], path, **times)
    assert not path.exists()


# ---------------------------------------------------------------- pictures of the docs


def test_every_picture_has_a_command() -> None:
    here = {path.stem for path in draw_docs.IMAGES.iterdir()}
    concepts = {f"concepts_{name}" for name in draw_concepts.PICTURES}
    commands = {*draw_docs.PICTURES, *concepts}
    others = {
        name for name in here - commands if not name.startswith(("demo", "exactness", "scale"))
    }
    assert commands <= here
    assert not others, "draw them in scripts/, or delete them"
    assert (draw_docs.IMAGES / "ring.gif").stat().st_size < 1_500_000


@pytest.mark.parametrize("draw", ["graph_gallery", "flow"])
def test_pictures_are_drawn(draw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw_docs, "IMAGES", tmp_path)
    command: Callable[[], None] = draw_docs.PICTURES[draw]
    command()
    assert (tmp_path / f"{draw}.png").stat().st_size > 20_000


def test_the_error_of_a_score_is_what_samples_say() -> None:
    graph = chain(8)
    data = draw_docs.ar1(8, 0.9)
    joint = draw_docs.compose(graph, draw_docs.node_scores(graph, data))
    u = data.noised(0.5).sample(200_000, torch.Generator().manual_seed(0))
    truth = data.score(u, 0.5)
    sampled = (joint(u, 0.5) - truth).norm() / truth.norm()
    assert draw_docs._relative_error(joint, data, 0.5) == pytest.approx(float(sampled), rel=0.01)
