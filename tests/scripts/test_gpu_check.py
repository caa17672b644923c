"""The GPU check runs to its end on a CPU, measures every kind of solve, and misses a GPU loudly."""

import json
from pathlib import Path

import pytest
import torch

from scripts import gpu_check


def test_a_rehearsal_on_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "gpu.json"
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--cpu", "--out", str(out)])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("no GPU: a rehearsal on the CPU\n")
    figures = json.loads(out.read_text())
    assert figures["settings"]["card"] == "CPU"
    assert figures["settings"]["torch"] == torch.__version__
    assert "tests" not in figures
    assert [row["parameters"] > 1e5 for row in figures["latents"]] == [True]
    assert [row["compiled_seconds"] > 0 for row in figures["steps"]] == [True]
    assert {*gpu_check.SPEED} <= {*figures}
    assert {row["solve"] for row in figures["solves"]} == {
        "Eigen", "BlockTree", "Circulant", "Channelwise", "SmallSpace", "ConjugateGradients",
    }  # fmt: skip
    assert all(row["difference"] == 0 for row in figures["solves"])

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(gpu_check, "timings", broken)
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--cpu", "--out", str(out), "--parts", "noise"])
    assert ended.value.code == 1
    assert json.loads(out.read_text()) == figures, "what was measured is kept"
    with pytest.raises(SystemExit):
        gpu_check.main(["--cpu", "--out", str(tmp_path / "new.json"), "--parts", "noise"])
    assert json.loads((tmp_path / "new.json").read_text())["noise"] == "failed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu_check.main([])
    assert ended.value.code == 2
    assert "PyTorch finds no CUDA device. Pass --cpu" in capsys.readouterr().err
