"""The commands do their job, on a small scale."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import (
    conditioning,
    correctors,
    defaults,
    exactness,
    scale,
    speed,
)
from benchmarks.__main__ import main
from benchmarks.exactness.methods import CORRECTED, METHODS
from pgmdiff import demo


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


def test_conditioning_benchmark_smoke() -> None:
    result = conditioning.run(smoke=True)
    text = conditioning.table(result)
    assert "replacement" in text
    assert "no" in text
    assert result["gaussian"][1]["loss"] < result["gaussian"][0]["loss"]


def test_defaults_benchmark_smoke() -> None:
    result = defaults.run(smoke=True)
    assert "Heun" in defaults.table(result)
    assert all(row["posterior"] < row["marginal"] for row in result["rows"])


def test_scale_benchmark_smoke(tmp_path: Path) -> None:
    result = scale.run(smoke=True)
    assert [row["kind"] for row in result["rows"]] == list(scale.KINDS)
    assert all(row["regions"] > 1000 for row in result["rows"])
    assert "random tree" in scale.table(result)
    scale.draw(result, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 10_000


def test_exactness_benchmark_smoke(tmp_path: Path) -> None:
    result = exactness.run(smoke=True)
    losses = {row["method"]: row["kl"] for row in result["gaussians"]["rows"] if "kl" in row}
    assert losses["posterior"] == pytest.approx(losses["exact score"], rel=1e-8)
    assert losses["evidence"] == pytest.approx(losses["exact score"], rel=1e-8)
    measured = {row["method"] for row in result["modes"]["rows"]}
    assert measured >= {method.name for method in (*METHODS, *CORRECTED)} | {"exact samples"}
    text = exactness.table(result)
    for words in ("Fewest levels", "two-mode chain", "worse by more than", "at its best"):
        assert words in text
    exactness.draw(result, tmp_path / "new")
    for name in ("exactness", "exactness_modes", "exactness_overlap"):
        assert (tmp_path / "new" / f"{name}.png").stat().st_size > 10_000
    assert json.loads(json.dumps(result)) == result


def test_parts_of_a_benchmark_are_run_again_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exactness.json"
    before = {"settings": {}, "modes": {"rows": [{"kept": 1}]}, "gaussians": {"rows": []}}
    out.write_text(json.dumps(before))
    command = ["benchmarks", "exactness", "--smoke", "--out", str(out), "--parts", "gaussians"]
    monkeypatch.setattr(sys, "argv", command)
    main()
    after = json.loads(out.read_text())
    assert after["modes"] == before["modes"]
    assert after["gaussians"]["rows"][0]["method"] == "exact score"
    assert "Fewest levels" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["benchmarks", "speed", "--parts", "gaussians"])
    with pytest.raises(SystemExit):
        main()


def test_correctors_benchmark_smoke() -> None:
    result = correctors.run(smoke=True)
    losses = [row["loss"] for row in result["rows"] if row["rule"] == "marginal"]
    assert losses[0] > 4 * max(losses[1:3])  # no moves, against one a level
    assert all(row["evaluations"] <= 120 for row in result["rows"])
    assert "Metropolis" in correctors.table(result)


@pytest.mark.parametrize("module", ["pgmdiff", "benchmarks"])
def test_commands_explain_themselves(module: str) -> None:
    out = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
    )
    assert "usage: python -m" in out.stdout
