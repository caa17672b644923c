"""Whatever a reader may paste from the README and the docs runs."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def snippets(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


README = snippets(ROOT / "README.md")
NEEDED = {"interoperability": ("diffusers", "azula")}
"""Libraries that the snippets of a page import."""
QUIET = pytest.mark.filterwarnings(  # diffusers' schedulers, of NumPy 2
    "ignore:__array__ implementation doesn't:DeprecationWarning"
)
PAGES = [
    pytest.param(page, marks=[QUIET] if page.stem in NEEDED else [])
    for page in sorted((ROOT / "docs").glob("*.md"))
]


@pytest.mark.parametrize("snippet", README, ids=range(len(README)))
def test_readme_snippet(snippet: str) -> None:
    exec(compile(snippet, "README.md", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path) -> None:
    """The snippets of a page follow one another."""
    for library in NEEDED.get(page.stem, ()):
        if find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    names: dict = {}
    for snippet in snippets(page):
        exec(compile(snippet, page.name, "exec"), names)


def test_there_are_snippets() -> None:
    assert len(README) >= 3
    assert len(PAGES) >= 1


def test_the_printed_explanation_is_what_is_printed(capsys: pytest.CaptureFixture) -> None:
    page = ROOT / "docs" / "your_topology.md"
    test_page(page)
    printed = " ".join(capsys.readouterr().out.split())
    (shown,) = re.findall(r"\n    (counts_sum_to_one:.*?expected 1\.)", page.read_text(), re.DOTALL)
    assert " ".join(shown.split()) in printed
