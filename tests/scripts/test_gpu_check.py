"""The GPU check runs to its end on a CPU, measures every kind of solve, and misses a GPU loudly."""

import json
from pathlib import Path

import pytest
import torch

from scripts import gpu_check


def test_a_rehearsal_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--cpu", "--out", str(out)])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("no GPU: a rehearsal on the CPU\n{")
    figures = json.loads(out.read_text())
    settings = figures["settings"]
    assert (settings["card"], settings["tests"]) == ("CPU", "not run")
    assert settings["torch"] == torch.__version__
    assert [row["parameters"] > 1e5 for row in figures["latents"]] == [True]
    assert [row["compiled_seconds"] > 0 for row in figures["steps"]] == [True]
    assert {"settings", "rows", "auto", "lines", "solves", "noise"} <= set(figures["speed"])
    assert {row["solve"] for row in figures["solves"]} == {
        "Eigen", "BlockTree", "Circulant", "Channelwise", "SmallSpace", "ConjugateGradients",
    }  # fmt: skip
    assert all(row["difference"] == 0 for row in figures["solves"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu_check.main([])
    assert ended.value.code == 2
    assert "PyTorch finds no CUDA device. Pass --cpu" in capsys.readouterr().err
