"""The commands do their job, on a small scale."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pgmdiff import demo
from pgmdiff.benchmarks import exactness, scale, speed
from pgmdiff.benchmarks.exactness.methods import RULES


def test_demo_writes_its_picture_and_figures(tmp_path: Path) -> None:
    rows = demo.run(tmp_path / "new" / "out", width=128, steps=8)
    report = json.loads((tmp_path / "new" / "out" / "demo.json").read_text())
    assert (tmp_path / "new" / "out" / "demo.png").stat().st_size > 20_000
    methods = [row["method"] for row in report["rows"]]
    assert methods[0] == "real"
    ratio = {row.method: row.seam_ratio for row in rows}
    assert ratio["concatenation"] > 1.6
    assert ratio["overlap averaging"] > 1.2
    assert ratio["DiffCollage strip"] < 1.15
    assert ratio["DiffCollage ring"] < 1.15
    assert all(row.score_evaluations == 15 for row in rows[1:])
    assert "seam ratio" in demo.table(rows)


def test_speed_benchmark_smoke() -> None:
    result = speed.run(smoke=True)
    (row,) = result["rows"]
    assert row["tiles"] == 8
    assert row["turns"] >= 5
    assert "joint / floor" in speed.table(result)


def test_scale_benchmark_smoke(tmp_path: Path) -> None:
    result = scale.run(smoke=True)
    assert [row["kind"] for row in result["rows"]] == list(scale.KINDS)
    assert all(row["regions"] > 1000 for row in result["rows"])
    assert "random tree" in scale.table(result)
    scale.draw(result, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 10_000


def test_exactness_benchmark_smoke(tmp_path: Path) -> None:
    result = exactness.run(smoke=True)
    losses = {row["rule"]: row["loss"] for row in result["gaussians"]["rows"]}
    assert losses["posterior"] == pytest.approx(losses["exact score"], rel=1e-8)
    assert losses["evidence"] == pytest.approx(losses["exact score"], rel=1e-8)
    assert {row["rule"] for row in result["modes"]["rows"]} == set(RULES)
    assert "two-mode chain" in exactness.table(result)
    exactness.draw(result, tmp_path / "new")
    assert (tmp_path / "new" / "exactness.png").stat().st_size > 5_000


@pytest.mark.parametrize("module", ["pgmdiff", "pgmdiff.benchmarks"])
def test_commands_explain_themselves(module: str) -> None:
    out = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
    )
    assert "usage: python -m" in out.stdout
