"""Every tutorial runs."""

import runpy
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[2] / "tutorials").glob("*.py"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial(path: Path) -> None:
    runpy.run_path(str(path))


def test_every_tutorial_is_listed() -> None:
    listed = (TUTORIALS[0].parent / "README.md").read_text()
    assert all(path.name in listed for path in TUTORIALS)
