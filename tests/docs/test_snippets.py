"""Whatever a reader may paste from the README and the docs runs, and prints what the page says."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NEEDED = {
    "panorama_pipeline": ("diffusers",),
    "interoperability": ("diffusers", "azula"),
    "my_canvas": ("zarr",),
    "endless": ("infinite_tensor",),
}
"""Libraries that the snippets of a page import."""
QUIET = pytest.mark.filterwarnings(  # diffusers' schedulers, of NumPy 2
    "ignore:__array__ implementation doesn't:DeprecationWarning"
)
SNIPPET = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)
"""A snippet, and what a block of text right after it says that it prints."""


def snippets(path: Path) -> list[tuple[str, str]]:
    return SNIPPET.findall(path.read_text())


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


def pages() -> list[Path]:
    """All but what is built, and tutorials, which have tests of their own."""
    found = (page for page in DOCS.rglob("*.md") if name_of(page).split("/")[0] not in BUILT)
    return sorted(page for page in found if snippets(page))


BUILT = ("_build", "tutorials")
README = snippets(ROOT / "README.md")
PAGES = [
    pytest.param(page, id=name_of(page), marks=[QUIET] if name_of(page) in NEEDED else [])
    for page in pages()
]


@pytest.mark.parametrize(("snippet", "shown"), README, ids=range(len(README)))
def test_readme_snippet(
    snippet: str,
    shown: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each stands alone."""
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})
    assert shown.split() == capsys.readouterr().out.split()


@pytest.mark.parametrize("page", PAGES)
def test_page(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snippets of a page follow one another; what they are said to print, they print."""
    for library in NEEDED.get(name_of(page), ()):
        if find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    monkeypatch.chdir(tmp_path)  # some write files
    names: dict = {}
    for snippet, shown in snippets(page):
        exec(compile(snippet, page.name, "exec"), names)
        printed = capsys.readouterr().out
        if shown:
            assert shown.split() == printed.split(), snippet


def test_there_are_snippets() -> None:
    assert [bool(shown) for _, shown in README] == [False, True]
    found = {name_of(page) for page in pages()}
    concepts = {name_of(page) for page in (DOCS / "concepts").glob("*.md")}
    assert concepts
    assert concepts <= found
    assert {"my_graph", "my_model", "my_gpu", "conditioning", "your_topology"} <= found
