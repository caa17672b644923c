"""Translation: the passage of colours, and the smoke run with an exact model of coarse pictures."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgmdiff.samplers import karras

pytest.importorskip("experiments.corpora")
from experiments import translation

COLOURS, DETAILS = 0.2, 0.02
"""Variances of the means of blocks and of the pixels about them."""


class Blocks(nn.Module):
    """The denoiser of pictures whose blocks of 8 × 8 pixels are independent and Gaussian."""

    def forward(self, x: Tensor, sigma: Tensor, field: Tensor | None = None) -> Tensor:
        mean = x.new_zeros(()) if field is None else field[:, :3]
        s2 = sigma[:, None, None, None] ** 2
        coarse = blocks(x - mean)
        fine = (x - mean - coarse) * (DETAILS / (DETAILS + s2))
        return mean + coarse * (COLOURS / (COLOURS + s2 / 64)) + fine


def blocks(x: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(x, 8), x.shape[2:], mode="nearest")


@dataclass
class Coarse:
    title: str = "blocks"
    side: int = 16
    lowest: float = 0.02

    def crops(self, shape: tuple[int, int], n: int, generator: torch.Generator) -> Tensor:
        fine = DETAILS**0.5 * torch.randn(n, 3, *shape, generator=generator)
        means = torch.randn(n, 3, shape[0] // 8, shape[1] // 8, generator=generator)
        return fine - blocks(fine) + COLOURS**0.5 * F.interpolate(means, shape, mode="nearest")

    def denoiser(self) -> nn.Module:
        return Blocks()

    def levels(self, steps: int) -> list[float]:
        return karras(steps, self.lowest, 10.0)


def test_a_passage_turns_the_columns_of_colours_at_a_constant_rate() -> None:
    left, right = (
        torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(k)) for k in (0, 1)
    )
    found, gap = translation.passage(left, right, 5), 5
    maps = [translation.colour_map(each) for each in (left, right)]
    assert found.shape == (2, 4, 16, 16 + gap + 16)
    torch.testing.assert_close(found[..., :16], maps[0])
    torch.testing.assert_close(found[..., -16:], maps[1])
    assert (found[:, 3] == 1).all()
    for n in range(2):
        a, b = ((each[n, :3, :, k] + 1) / 2 for each, k in zip(maps, (-1, 0), strict=True))
        angle = math.acos(float((a * b).sum() / (a.norm() * b.norm())))
        for j in range(gap):
            t = (j + 1) / (gap + 1)
            between = (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)
            torch.testing.assert_close(
                (found[n, :3, :, 16 + j] + 1) / 2, between, rtol=1e-4, atol=1e-5
            )


def test_colour_maps_are_means_of_blocks_at_their_middles() -> None:
    ramp = torch.arange(32.0).expand(1, 3, 16, 32) / 32
    found = translation.colour_map(ramp)
    torch.testing.assert_close(found[0, :3, :, 4:28], ramp[0, :, :, 4:28])  # linear in between


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(translation.CORPORA, translation.CORPUS, Coarse())
        patch.setattr(translation, "FEW_STEPS", 10)
        return translation.run(smoke=True)


def of(result: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in result[part]["rows"]}


@pytest.mark.filterwarnings("ignore:moment_matching")  # four levels do not meet observations
def test_the_smoke_run_has_all_parts_tables_and_figures(
    result: dict[str, Any], tmp_path: Path
) -> None:
    assert set(result) == {"settings", *translation.PARTS}
    assert json.loads(json.dumps(result)) == result
    text = "\n".join(map(str, translation.tables(result)))
    for words in ("colours as conditions", "mean rmse", "crps", "coverage", "bicubic", "detail"):
        assert words in text
    translation.draw(result, tmp_path / "figures")
    for name in ("connect", "restored", "strokes"):
        file = tmp_path / "figures" / f"experiment_translation_{name}.png"
        assert file.stat().st_size > 10_000


def test_ends_of_a_fade_are_the_pictures(result: dict[str, Any]) -> None:
    rows = of(result, "connect")
    assert rows["real strips"]["jump"][0] == pytest.approx(1)
    assert rows["fade of pixels"]["ends"][0] == 0


def test_means_of_blocks_tell_the_colours_of_independent_blocks(result: dict[str, Any]) -> None:
    rows = of(result, "super_resolution")
    own = (DETAILS * 63 / 64) ** 0.5
    for name in ("each patch alone", "DiffCollage"):
        assert rows[name]["rmse"][0] < 1.6 * own, rows[name]
    assert rows["bicubic"]["rmse"][0] > own
    assert "coverage" not in rows["DiffCollage"]  # of nineteen draws only


def test_strokes_keep_less_of_a_painting_the_more_they_are_noised(result: dict[str, Any]) -> None:
    rows = result["strokes"]["rows"]
    for painting in {row["painting"] for row in rows}:
        away = [row["colours"][0] for row in rows if row["painting"] == painting]
        assert away == sorted(away)
