"""The README is short, its links lead somewhere, and become absolute with the project's address."""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ADDRESS = "https://example.org/us/pgmdiff"


@pytest.fixture
def absolute(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Of the build's hook, where hatchling need not be installed."""
    name = "hatchling.metadata.plugin.interface"
    stand_in = ModuleType(name)
    stand_in.MetadataHookInterface = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, stand_in)
    return runpy.run_path(str(ROOT / "hatch_build.py"))["absolute"]


def targets(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150
    assert "](docs/images/hero.png)" in README.split("## ")[0]


def test_the_links_of_the_readme_are_files_of_the_repository() -> None:
    assert len(targets(README)) > 20
    assert [t for t in targets(README) if not (ROOT / t.split("#")[0]).is_file()] == []


def test_without_an_address_nothing_changes(absolute: Callable[[str, str], str]) -> None:
    assert absolute(README, "") == README


def test_with_an_address_every_link_is_absolute(absolute: Callable[[str, str], str]) -> None:
    made = absolute(README, ADDRESS + "/")
    assert all(target.startswith(f"{ADDRESS}/") for target in targets(made))
    assert f"]({ADDRESS}/raw/main/docs/images/hero.png)" in made
    assert f"({ADDRESS}/blob/main/docs/interoperability.md#sbi)" in made
    outside = "[a](https://example.net/b) [b](#c)"
    assert absolute(outside, ADDRESS) == outside
