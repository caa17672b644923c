"""`python -m pgmdiff check` and `draw`: their output, and one line for what is wrong."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from pgmdiff import __main__
from pgmdiff.graphs import RegionGraph, chain, nested_cubemap, to_json


def run(*arguments: object) -> int:
    """The exit status of a command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pgmdiff", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            __main__.main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith(f"pgmdiff {version('pgmdiff')}, PyTorch ")
    citation = (Path(__file__).parents[1] / "CITATION.cff").read_text()
    assert f"\nversion: {version('pgmdiff')}\n" in citation


def test_check_prints_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "graph.json"
    path.write_text(to_json(chain(3)), encoding="utf-8")
    assert run("check", path) == 0
    assert capsys.readouterr().out == f"{chain(3).validate()}\n"
    wrong = RegionGraph.from_regions({"a": [0]}, {"a": 2}, event_shape=(1,))
    path.write_text(to_json(wrong), encoding="utf-8")
    assert run("check", path) == 1
    assert "must sum to 1" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe", b'{"pgmdiff": 99}'])
@pytest.mark.parametrize("command", ["check", "draw"])
def test_broken_files_take_one_line(
    command: str, content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "graph.json"
    if content is not None:
        path.write_bytes(content)
    assert run(command, path, *([tmp_path / "out.png"] if command == "draw" else [])) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pgmdiff {command}: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_draw_writes_a_picture(ending: str, tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_text(to_json(nested_cubemap(2)), encoding="utf-8")
    picture = tmp_path / f"out.{ending}"
    assert run("draw", tmp_path / "graph.json", picture, "--layout", "bipartite") == 0
    assert picture.stat().st_size > 4_000


def test_draw_leaves_names_out_and_reports_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, picture = tmp_path / "graph.json", tmp_path / "out.svg"
    path.write_text(to_json(chain(3)), encoding="utf-8")
    assert run("draw", path, picture, "--no-labels") == 0
    assert run("draw", path, picture, "--layout", "cube") == 2
    assert run("draw", path, tmp_path / "out.nothing") == 2
    assert run("draw", path, tmp_path / "missing" / "out.png") == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_explore_writes_a_picture_of_any_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("infinite_tensor")
    picture = tmp_path / "far.png"
    assert run("explore", "--at", 10**13, "--width", 8, "--out", picture) == 0
    assert picture.stat().st_size > 2_000
    assert run("explore", "--at", 1 << 70, "--out", picture) == 2
    assert "expected a view of" in capsys.readouterr().err
    for width in ("0", "many"):
        assert run("explore", "--width", width, "--out", picture) == 2
        assert f"number of at least 1, got {width!r}" in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text(to_json(chain(3)), encoding="utf-8")
    code = (
        "import sys; sys.modules['matplotlib'] = None; "
        f"sys.argv = ['pgmdiff', 'draw', {str(path)!r}, 'out.png']; "
        "from pgmdiff.__main__ import main; main()"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 2
    assert "pip install 'pgmdiff[plot]'" in done.stderr
    assert done.stderr.count("\n") == 1
