"""The soak counts what it has done, and fails where memory grows or a result changes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from scripts import soak


def soaked(path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as ended:
        soak.main(["--minutes", "0.005", "--out", str(path), *more])
    return ended.value.code, json.loads(path.read_text())


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "USUAL", soak.settings(soak.USUAL, max_examples=2))


def test_it_runs_every_rule_and_kills_some_runs(tmp_path: Path) -> None:
    code, figures = soaked(tmp_path / "out.json", "--seed", "3")
    assert (code, figures["failure"]) == (0, "")
    assert figures["runs"] == 4 * 8 * figures["graphs"] > 0
    assert figures["kills"] > 0
    assert 50 < figures["memory_mb"][0][1] < 5000


def test_it_fails_where_memory_grows(tmp_path: Path) -> None:
    code, figures = soaked(tmp_path / "out.json", "--grows", "-1")
    assert code == 1
    assert "memory has grown by" in figures["failure"]


def test_it_fails_where_threads_change_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def other(sample: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*given: Any, **more: Any) -> Tensor:
            drawn.append(1)
            return sample(*given, **more) + len(drawn)

        return call

    monkeypatch.setattr(soak, "sample", other(soak.sample))
    code, figures = soaked(tmp_path / "out.json")
    assert code == 1
    assert "threads change a result" in figures["failure"]
