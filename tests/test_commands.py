"""The commands do their job, on a small scale."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pgmdiff import demo


def test_demo_writes_its_picture_and_figures(tmp_path: Path) -> None:
    rows = demo.run(tmp_path / "new" / "out", width=96, steps=8)
    report = json.loads((tmp_path / "new" / "out" / "demo.json").read_text())
    assert (tmp_path / "new" / "out" / "demo.png").stat().st_size > 20_000
    methods = [row["method"] for row in report["rows"]]
    assert methods[0] == "real"
    ratio = {row.method: row.seam_ratio for row in rows}
    assert ratio["patches side by side"] > 2
    assert ratio["overlap averaging"] > 1.2
    assert max(ratio["DiffCollage"], ratio["DiffCollage on a ring"]) < 1.15
    assert ratio["DiffCollage on a torus"] < ratio["overlap averaging"]
    assert all(row.score_evaluations == 8 for row in rows[1:])
    assert "seam ratio" in demo.table(rows)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pgmdiff", "pgmdiff"),
        *((name, f"python -m {name}") for name in ("benchmarks", "experiments")),
    ],
)
def test_commands_explain_themselves(module: str, name: str) -> None:
    out = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
    )
    assert out.stdout.startswith(f"usage: {name} ")


def test_demo_names_all_that_is_missing_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda library: None)
    with pytest.raises(ImportError, match=r"needs matplotlib and skimage\. .*pgmdiff\[demo\]"):
        demo.run(tmp_path)
