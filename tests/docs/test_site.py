"""The site leaves nothing public out, types no figure by hand, and its links are checked."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from scripts import check_links

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import api_names  # noqa: E402
import benchmark_tables  # noqa: E402
import citations  # noqa: E402
import yaml  # noqa: E402

INTERNAL = {
    "__init__", "__main__", "demo", "text", "linalg", "notebook", "noise_kernel",
    "composition.plan", "composition.batching", "composition.local", "composition.comparing",
    "graphs.pieces", "graphs.atoms", "graphs.nesting", "graphs.containment", "graphs.conversion",
    "graphs.names", "graphs.scopes", "graphs.variables", "conditioning.observations",
    "plotting.layouts", "plotting.scenes", "plotting.boxes", "plotting.style", "plotting.diagrams",
    "plotting.tiles", "plotting.cube", "integrations.shared", "scores.gradients",
    "samplers.start", "distributed.strips",
}  # fmt: skip
"""Not for users: their docstrings are for developers."""
REFERENCE = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
SHOWN = re.findall(r"api-module:: pgmdiff\.(\S+)\n(?:   :also: (.*))?", REFERENCE)
DOCUMENTED = [name for name, _ in SHOWN]


def test_every_module_is_documented() -> None:
    modules = {
        ".".join(path.relative_to(ROOT / "pgmdiff").with_suffix("").parts)
        for path in (ROOT / "pgmdiff").rglob("*.py")
    }
    public = {name for name in modules if name not in INTERNAL and not name.endswith(".__init__")}
    assert set(DOCUMENTED) == public
    assert len(DOCUMENTED) == len(public)


def test_the_index_lists_every_public_name_once() -> None:
    index = (DOCS / "api" / "index.md").read_text()
    listed = re.findall(r"^   (pgmdiff\.\S+)$", index, re.MULTILINE)
    assert len(listed) == len(set(listed))
    for package in map(import_module, api_names.PACKAGES):
        for name in package.__all__:
            if not inspect.ismodule(getattr(package, name)):
                assert api_names.public_name(package.__name__, name) in listed


def documented() -> Iterator[tuple[str, Any]]:
    """Functions and classes of the reference, and the classes' own public methods."""
    for path, also in SHOWN:
        module = import_module(f"pgmdiff.{path}")
        for name in api_names.shown_names(module.__name__, also.split()):
            thing = getattr(module, name)
            if getattr(thing, "__module__", None) == module.__name__ and callable(thing):
                yield f"{module.__name__}.{name}", thing
                if inspect.isclass(thing):
                    yield from _methods(f"{module.__name__}.{name}", thing)


def _methods(name: str, thing: type) -> Iterator[tuple[str, Any]]:
    for each, member in vars(thing).items():
        plain = getattr(member, "__func__", member)
        if inspect.isfunction(plain) and not each.startswith("_") and plain.__doc__:
            yield f"{name}.{each}", plain


NAMES = dict(documented())
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Examples?|Source|Note):", re.M)


def section(text: str, *heads: str) -> str:
    """What stands under some of the heads of a docstring."""
    parts = SECTION.split(text)
    return "\n".join(b for a, b in zip(parts[1::2], parts[2::2], strict=True) if a in heads)


@pytest.mark.parametrize("name", [name for name in NAMES if inspect.isroutine(NAMES[name])])
def test_docstrings_of_functions(name: str) -> None:
    thing = NAMES[name]
    text = inspect.getdoc(thing) or ""
    assert re.match(r".*?[.?:](\s|$)", text.split("\n\n")[0], re.DOTALL), "no summary sentence"
    is_method = name.count(".") > len(thing.__module__.split("."))  # these explain some only
    if not is_method:
        described = section(text, "Args")
        for parameter in inspect.signature(thing).parameters:
            assert re.search(rf"^ *[\w, *]*\b{parameter}\b[\w, *]*:", described, re.M), parameter
    if raised := set(raises(thing)):
        missing = {error for error in raised if error not in section(text, "Raises")}
        assert not missing, f"raises {missing} and does not say so"


@pytest.mark.parametrize("name", [name for name in NAMES if inspect.isclass(NAMES[name])])
def test_docstrings_of_classes(name: str) -> None:
    thing = NAMES[name]
    text = inspect.getdoc(thing) or ""
    assert thing.__doc__, "no docstring"
    assert re.match(r".*?[.?:](\s|$)", text.split("\n\n")[0], re.DOTALL), "no summary sentence"
    described = section(text, "Args", "Attributes")
    for parameter in _given(thing):
        assert re.search(rf"^ *[\w, *]*\b{parameter}\b[\w, *]*:", described, re.M), parameter


def _given(thing: type) -> Iterator[str]:
    """What users give a class by name; nothing where they make it otherwise."""
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return
    for parameter in parameters:
        named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if named and not parameter.name.startswith("_"):
            yield parameter.name


def raises(thing: Any) -> Iterator[str]:
    """The errors of ours that a function raises itself."""
    ours = {name for name, e in vars(import_module("pgmdiff.errors")).items() if inspect.isclass(e)}
    try:
        source = textwrap.dedent(inspect.getsource(thing))
    except OSError:  # a strategy that Hypothesis wraps
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            raised = ast.unparse(node.exc.func)
            if raised in ours:
                yield raised


FOLDERS = ("benchmarks", "experiments")
RESULTS = {
    path.stem: path for folder in FOLDERS for path in (ROOT / folder / "results").glob("*.json")
}
BENCHMARKS = sorted(RESULTS)
PAGES = {path.stem: path.read_text() for path in (DOCS / "benchmarks").glob("*.md")}
EXPERIMENTS = {path.stem: path.read_text() for path in (DOCS / "experiments").glob("*.md")}
INDEX = {"benchmarks": PAGES["index"], "experiments": EXPERIMENTS.pop("index")}
PAGES |= EXPERIMENTS
TABLE = re.compile(r"```\{benchmark-table\} (\S+) (\S+)\n(.*?)```", re.DOTALL)
FIGURE = re.compile(r"\{benchmark\}`([^/`]+)/([^`]+)`")
SETTINGS = re.compile(r"```\{benchmark-settings\} (\S+)\n```")


def page_of(name: str) -> str:
    """The one page that says how and with what a result was measured."""
    (page,) = (page for page, text in PAGES.items() if name in SETTINGS.findall(text))
    return page


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_a_page(name: str) -> None:
    page = PAGES[page_of(name)]
    folder = RESULTS[name].parents[1].name
    assert f"{folder}/results/{name}.json" in page
    assert any(table[0] == name for table in TABLE.findall(page))
    assert f"({page_of(name)}.md)" in INDEX[folder]


def filled(name: str, result: Any) -> list[str]:
    """All cells and figures that its page takes from a result."""
    cells = []
    for source, path, spec in TABLE.findall(PAGES[page_of(name)]):
        if source != name:
            continue
        table = benchmark_tables.table(result, path, yaml.safe_load(spec))
        assert len({len(row) for row in [table.heads, *table.rows]}) == 1
        cells += [cell for row in table.rows for cell in row]
    queries = [query for source, query in FIGURE.findall(PAGES[page_of(name)]) if source == name]
    return cells + [benchmark_tables.figure(result, query) for query in queries]


@pytest.mark.parametrize("page", PAGES)
def test_tables_stand_beside_their_settings(page: str) -> None:
    assert {table[0] for table in TABLE.findall(PAGES[page])} == {*SETTINGS.findall(PAGES[page])}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_settings_have_names(name: str) -> None:
    for label, _ in benchmark_tables.settings(benchmark_tables.load(name)):
        if label != "pgmdiff" and not label.startswith("CPU seconds"):  # followed by a part's name
            assert label[0].isupper(), label
            assert "_" not in label


KEYS = {"noise", "rho", "target", "window", "overlap"}
"""Numbers that rows are chosen by: what was asked, not what was measured."""


def changed(value: Any, key: str = "") -> Any:
    """A result as it would be with every measured number 17 times as large."""
    if isinstance(value, dict):
        return {name: changed(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [changed(each, key) for each in value]
    return 17 * value if isinstance(value, float) and key not in KEYS else value


@pytest.mark.parametrize("name", BENCHMARKS)
def test_cells_come_from_the_result(name: str) -> None:
    """With other numbers in the JSON all cells with a point in them change, and only these can."""
    result = benchmark_tables.load(name)
    before, after = filled(name, result), filled(name, changed(result))
    same = {one for one, other in zip(before, after, strict=True) if one == other}
    asked = {benchmark_tables.shown(each) for each in (0.0, 0.5, 0.9, 0.95, 0.99)}
    measured = {cell for cell in same if re.fullmatch(r"-?\d*\.\d+.*", cell)}
    assert measured <= asked
    assert name == "fuzz" or len(set(before)) > len(same)


MEASURED = PAGES | INDEX | {"comparison": (DOCS / "comparison.md").read_text()}


@pytest.mark.parametrize("page", MEASURED.values(), ids=MEASURED)
def test_no_figure_is_typed(page: str) -> None:
    """Outside of tables and code there is no decimal number: it would have been typed."""
    text = re.sub(r"```.*?```|`[^`]*`|!\[.*?\)", "", page, flags=re.DOTALL)
    assert not re.findall(r"(?<![\w.])\d*\.\d+", text)


def test_every_figure_exists() -> None:
    """On whatever page it stands."""
    for page in DOCS.rglob("*.md"):
        for source, query in FIGURE.findall(page.read_text()):
            assert benchmark_tables.figure(benchmark_tables.load(source), query), f"{page}: {query}"


def test_figures_as_they_are_shown() -> None:
    shown = benchmark_tables.shown
    assert shown(0.00432, ".2g") == "0.0043"
    assert shown(-0.5) == "-0.5"
    assert shown(2.8e-6, ".2g") == "2.8e-6"
    assert shown(1000000) == "1,000,000"
    assert shown([0.1636, 0.0063]) == "0.164 ± 0.006"
    assert shown([0.1636, 0.0013]) == "0.1636 ± 0.0013"
    assert shown([-3e-11, 2e-11]) == "0"
    assert shown([9.0, 0.6], "root") == "3.00 ± 0.10"
    assert shown([-1.0, 0.04], "root") == "0.0 ± 0.2"
    assert shown([1.0, 2.0, 3.0], ".1f") == "2.0 (1.0 to 3.0)"
    assert shown(True) == "yes"


def test_tables_that_cannot_be_filled_say_so() -> None:
    result = {"rows": [{"a": 1, "b": 2.0}, {"a": 1, "b": 3.0}]}
    errors = benchmark_tables.TableError
    with pytest.raises(errors, match="no row at 'rows' has"):
        benchmark_tables.table(result, "rows", {"where": {"a": 2}, "columns": ["b"]})
    with pytest.raises(errors, match="no row has 'c'"):
        benchmark_tables.table(result, "rows", {"columns": ["c"]})
    with pytest.raises(errors, match="2 rows in one cell"):
        benchmark_tables.table(result, "rows", {"columns": [], "spread": {"over": "a", "of": "b"}})
    with pytest.raises(errors, match="expected one row, found 2"):
        benchmark_tables.figure(result, "rows?a=1#b")
    assert benchmark_tables.figure(result, "rows?a=1#max(b):.1f") == "3.0"


YEAR = re.compile(r"(?<=[ (])((?:19|20)\d\d)(?=[,.;:)]|$)")
REACH = 300
"""The authors and the title of a citation stand at most so many letters before its year."""


def unknown_citations(docstrings: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names and citations, from the author to the year, that no source explains."""
    found = []
    for name, text in docstrings:
        for match in YEAR.finditer(text):
            citation = text[max(0, match.start() - REACH) : match.end()]
            same_year = (s for s in citations.SOURCES.values() if s.fields["year"] == match[1])
            if not any(citations.cites(citation, source) for source in same_year):
                found.append((name, citation[-80:]))
    return found


def test_every_citation_is_in_the_bibliography() -> None:
    assert unknown_citations(citations.docstrings()) == []


def test_unknown_citations_are_found() -> None:
    text = 'After Nobody, "On nothing", 1987, Eq. 3; of 2000 samples.'
    ((name, citation),) = unknown_citations([("pgmdiff.x", text)])
    assert name == "pgmdiff.x"
    assert citation.endswith('Nobody, "On nothing", 1987')


def test_every_source_is_cited_and_listed() -> None:
    subjects = re.findall(r':filter: keywords == "(.*)"', (DOCS / "bibliography.md").read_text())
    for key, source in citations.SOURCES.items():
        assert citations.citing(source), key
        assert subjects.count(source.fields["keywords"]) == 1, key


SYMPTOM = re.compile(r"^\*\*`(.+)`\*\*$", re.MULTILINE)
"""An error of ours in the FAQ; dots stand for what differs."""


def messages() -> Iterator[str]:
    """The texts in the source of the library, with a zero byte for what is filled in."""
    for path in (ROOT / "pgmdiff").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "\0" for p in node.values)
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_faq_quotes_errors_that_the_library_raises() -> None:
    said = "\n".join(messages())
    found = SYMPTOM.findall((DOCS / "faq.md").read_text())
    unknown = [s for s in found if not re.search(".*".join(map(re.escape, s.split("..."))), said)]
    assert len(found) > 40
    assert unknown == []


def test_every_page_has_one_name() -> None:
    """The sidebar shows titles, no two of which are equal."""
    pages = [page for page in DOCS.rglob("*.md") if "_build" not in page.parts]
    entries = [
        entry
        for page in pages
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL)
        for entry in tree.splitlines()
    ]
    assert [entry for entry in entries if "<" in entry] == []
    titles = [title[1] for page in pages if (title := re.match(r"# (.+)", page.read_text()))]
    assert len(titles) > 40
    assert sorted(titles) == sorted(set(titles))


def toctrees(caption: str) -> list[str]:
    tree = rf":caption: {caption}\n\n(.*?)```"
    return re.findall(tree, (DOCS / "index.md").read_text(), re.DOTALL)[0].split()


@pytest.mark.parametrize("name", toctrees("How to"))
def test_how_to_pages_fit_on_a_screen(name: str) -> None:
    page = (DOCS / f"{name}.md").read_text()
    assert len(page.splitlines()) <= 45
    assert "**What can go wrong:**" in page
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert snippets
    assert max(len(line) for line in "".join(snippets).splitlines()) <= 90


SITE = {
    "index.html": '<link rel="stylesheet" href="style.css"><a href="sub/page.html#there">a</a>'
    '<a href="#top" id="top">b</a><a href="https://example.org">out</a><img src="data:,x">',
    "sub/page.html": '<p id="there">text</p><a href="..">up</a><script src="../code.js?v=1">'
    "</script>",
    "style.css": "/* url(https://example.org/old) */ a { background: url(data:,x) }",
    "code.js": "",
}


def site(folder: Path, **more: str) -> list[str]:
    for name, text in {
        **SITE,
        **{key.replace("_", "."): text for key, text in more.items()},
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    check_links.parsed.cache_clear()
    return list(check_links.problems(folder.resolve()))


def test_a_good_site_has_no_broken_links(tmp_path: Path) -> None:
    assert site(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('<a href="missing.html">', "no such file"),
        ('<a href="sub/page.html#nowhere">', "no 'nowhere' in sub/page.html"),
        ('<a href="#nowhere">', "no 'nowhere' in bad.html"),
        ('<a href="../../../etc">', "outside of the site"),
        ('<img src="missing.png">', "no such file"),
        ('<img srcset="code.js 1x, //cdn.example.org/a.png 2x">', "loaded from the network"),
        ('<script src="https://cdn.example.org/a.js"></script>', "loaded from the network"),
        ('<link rel="stylesheet" href="http://example.org/a.css">', "loaded from the network"),
        ("<style>@import 'https://example.org/font.css';</style>", "loaded from the network"),
        ('<p style="background: url(//example.org/a.png)">', "loaded from the network"),
    ],
)
def test_a_bad_site_is_found_out(tmp_path: Path, text: str, fault: str) -> None:
    (problem,) = site(tmp_path, bad_html=text)
    assert fault in problem


def test_a_canonical_address_is_not_loaded(tmp_path: Path) -> None:
    assert site(tmp_path, good_html='<link rel="canonical" href="https://example.org/">') == []
