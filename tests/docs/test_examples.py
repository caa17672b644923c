"""Every example runs, where its library is installed."""

import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("with_*.py"))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example(
    example: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    library = example.stem.removeprefix("with_")
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    monkeypatch.chdir(tmp_path)  # sbi keeps logs where it runs
    runpy.run_path(str(example))
    assert capsys.readouterr().out


def test_there_is_one_for_every_library() -> None:
    package = Path(__file__).parents[2] / "pgmdiff" / "integrations"
    libraries = {path.stem for path in package.glob("*.py")} - {"__init__", "shared", "latents"}
    assert {example.stem.removeprefix("with_") for example in EXAMPLES} == libraries
