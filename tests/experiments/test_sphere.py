"""Spheres: corners are laid out as they lie, measures see seams, the smoke run fills all.

The network is replaced by a painter of flat colours, but where its own weights are tested.
"""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments import sphere, sphere_model
from experiments.sphere_model import CLASSES, MODEL, SIDE, corners, everything
from experiments.sphere_page import page
from pgmdiff.graphs import cubemap, nested_cubemap
from pgmdiff.graphs.cube import face_directions


class Painter:
    """The exact denoiser of flat colours with white noise on them."""

    def state_dict(self) -> dict[str, Tensor]:
        return {"one": torch.ones(1)}

    def __call__(self, x: Tensor, sigma: Tensor, field: Tensor, **_: Any) -> Tensor:
        mean = torch.einsum("bk...,kc->bc...", field, sphere_model.centres()[:, :3])
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        return mean + (x - mean) * 1e-4 / (1e-4 + s**2)


@pytest.fixture
def result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    monkeypatch.setattr(sphere, "FOLDER", tmp_path / "cache")
    monkeypatch.setattr(sphere_model.Model, "denoiser", lambda self: Painter())
    sphere.asked.cache_clear()
    return sphere.run(smoke=True)


@pytest.mark.filterwarnings("ignore:frechet_distance")  # of the few crops of a smoke run
def test_smoke(result: dict[str, Any], tmp_path: Path) -> None:
    assert set(result) == {"settings", "sizes", *sphere.PARTS}
    rows = result["sphere"]["rows"]
    seen = {row["method"]: row for row in rows if row["asked"] == sphere.SEEN}
    assert list(seen) == [*sphere.METHODS, sphere.REAL]
    # Every graph gives the flat colours that were asked for, so that all have the same steps.
    for method in sphere.METHODS:
        assert seen[method]["edges"][0] == pytest.approx(seen["faces alone"]["edges"][0], rel=0.1)
        assert seen[method]["agreement"][0] > 0.8
    assert seen[sphere.REAL]["edges"][0] == seen[sphere.REAL]["corners"][0] == 1
    text = "\n".join(map(str, sphere.tables(result)))
    for words in ("gate: copies", "FD across edges", "least filters", "evaluations", "ends"):
        assert words in text
    sphere.draw(result, tmp_path)
    for kind in ("crosses", "panoramas"):
        assert (tmp_path / f"experiment_sphere_{kind}.png").stat().st_size > 20_000
    html = (tmp_path / "experiment_sphere.html").read_text()
    assert "half-face windows" in html
    assert len(html) < 400_000


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    faces = torch.zeros(6, 3, 4, 4)
    page({"a": {"b": faces}}, tmp_path / "x.html", "Title", "About", "b")
    text = (tmp_path / "x.html").read_text()
    assert not re.search(r"https?:|//cdn|<link|@import|src=\"(?!data)|fetch\(|url\(", text)
    assert text.count("data:image/jpeg;base64,") == 1
    for placeholder in ("TITLE", "ABOUT", "SPHERES", "FIRST"):
        assert placeholder not in text
    for word in ('type="checkbox"', "tabindex", "pointerdown", "ArrowLeft", "touch-action"):
        assert word in text


def test_graphs_are_valid_and_the_nested_one_is_the_papers() -> None:
    for graph in (corners(8), everything(8)):
        assert not len(graph.unbalanced()[0])
    counts = corners(8).counting_numbers()
    assert sorted(map(str, counts.values())) == sorted(["1"] * 14 + ["-1"] * 12)
    flat, paper = cubemap(4, 4, channels=3), nested_cubemap(4, channels=3).flatten()
    assert flat.counting_numbers() == paper.counting_numbers()
    assert all(torch.equal(flat.elements(name), paper.elements(name)) for name in flat.names)


def test_corners_are_laid_out_as_they_lie_on_the_sphere() -> None:
    n = 8
    graph = corners(n)
    directions = torch.from_numpy(face_directions(n)).movedim(-1, 1).flatten()
    upper, lower = (each for each in graph.groups if len(each.shape) == 4)
    assert (upper.shape, lower.shape) == ((3, 3, n, n), (3, n, 3, n))
    for group in (upper, lower):
        assert {str(name)[0] for name in group.names} == {"U" if group is upper else "D"}
        flat = sphere_model._laid_out(directions[group.indices(0, 4)])
        for axis in (2, 3):  # also between the fourth quarter and the faces that it continues
            steps = flat.diff(dim=axis).norm(dim=1).narrow(axis - 1, n - 1, 1)
            assert steps.max() < 2 / n


def test_steps_are_those_of_neighbours_on_the_sphere() -> None:
    directions = torch.from_numpy(face_directions(SIDE)).movedim(-1, 1)[None]
    found = sphere.steps(directions.float())
    assert max(found.values()) < 2 / SIDE  # as smooth across edges as anywhere
    broken = directions.float().clone()
    broken[:, 4] += 1  # the upper face
    shifted = sphere.steps(broken)
    assert shifted["edges"] > found["edges"] + 0.2
    assert shifted["corners"] > found["corners"] + 0.2
    assert shifted["within"] == pytest.approx(found["within"])


def test_views_look_at_edges() -> None:
    x = torch.arange(6.0)[:, None, None, None].expand(6, 3, SIDE, SIDE)[None]
    across, within = (sphere.views(x, 8, 0, edges=edges)[0] for edges in (True, False))
    assert (across.flatten(1).std(dim=1) > 0.2).all()
    assert (within[:, :, 8:16, 8:16].flatten(1).std(dim=1) < 1e-5).all()


def test_views_look_at_every_edge_equally_often() -> None:
    x = torch.eye(6)[:, :, None, None].expand(6, 6, SIDE, SIDE)[None]
    middle = sphere.views(x, 600, 0, edges=True)[0][..., SIDE // 2 - 2 : SIDE // 2 + 2, :]
    shares = middle[..., SIDE // 2 - 2 : SIDE // 2 + 2].mean(dim=(2, 3))
    pairs = Counter(tuple(sorted(pair.tolist())) for pair in shares.topk(2).indices)
    assert len(pairs) == 12
    assert min(pairs.values()) > 25
    assert max(pairs.values()) < 80


def test_painted_segmentations_have_one_class_per_pixel() -> None:
    maps = sphere.painted()
    assert maps.shape == (2, 6, CLASSES, SIDE, SIDE)
    assert torch.equal(maps.sum(dim=2), torch.ones(2, 6, SIDE, SIDE))
    assert all(len(own.argmax(dim=1).unique()) == CLASSES for own in maps)


@pytest.mark.skipif(not MODEL.weights.exists(), reason="the network is not trained")
def test_the_network_sees_every_piece() -> None:
    denoiser = MODEL.denoiser()
    shapes = {group.shape for group in everything(SIDE).groups}
    assert len(shapes) == 7
    for shape in shapes:
        more = {"label": torch.tensor([1])} if len(shape) == 4 else {}
        found = denoiser(torch.zeros(1, *shape), torch.ones(1), **more)
        assert found.shape == (1, *shape)
        assert 0 < found.abs().max() < 3


def test_levels_fall() -> None:
    levels = MODEL.levels(20)
    assert all(a > b for a, b in pairwise(levels))
