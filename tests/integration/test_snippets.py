"""Whatever a reader may paste from the README and the docs runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def snippets(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


README = snippets(ROOT / "README.md")
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("snippet", README, ids=range(len(README)))
def test_readme_snippet(snippet: str) -> None:
    exec(compile(snippet, "README.md", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path) -> None:
    """The snippets of a page follow one another."""
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
