"""Notebooks show small graphs drawn, large ones counted, and reports as tables."""

import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgmdiff import compose
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    cubemap,
    cycle,
    grid,
    junction_tree,
    nested_cubemap,
    tiles,
    torus,
    tree,
)
from pgmdiff.notebook import drawing, shown, summary
from pgmdiff.testing import strategies
from tests.plotting.helpers import KIKUCHI
from tests.test_reprs import OBJECTS

SVG = "{http://www.w3.org/2000/svg}"


def parsed(html: str) -> ElementTree.Element:
    """A drawing or a table, which is well-formed XML."""
    return ElementTree.fromstring(html)


def is_drawn(graph: FactorGraph | RegionGraph) -> bool:
    return parsed(graph._repr_html_()).tag == f"{SVG}svg"


def words(element: ElementTree.Element, tag: str = "text") -> list[str]:
    return ["".join(each.itertext()) for each in element.iter(f"{SVG}{tag}")]


SMALL: dict[str, Callable[[], FactorGraph | RegionGraph]] = {
    "chain": lambda: chain(4),
    "one": lambda: chain(1),
    "nothing": lambda: chain(0),
    "no regions": lambda: RegionGraph((0,), ()),
    "cycle": lambda: cycle(6),
    "tree": lambda: tree(2, 4),
    "grid": lambda: grid(3, 3),
    "torus": lambda: torus(3, 4),
    "nested": lambda: nested_cubemap(4),
    "strip": lambda: tiles((64,), 24, 4),
    "ring": lambda: tiles((64,), 16, 8, periodic=True),
    "tiles": lambda: tiles((3, 52, 64), (3, 16, 16), (0, 4, 4)),
    "torus of tiles": lambda: tiles((48, 48), 16, 8, periodic=True),
    "large tiles": lambda: tiles((3, 464, 464), (3, 128, 128), (0, 16, 16)),
    "kikuchi": lambda: cluster_variation(KIKUCHI),
    "junction tree": lambda: junction_tree(KIKUCHI, max_clique=4),
    "cube": lambda: cubemap(8),
}


LARGE: dict[str, Callable[[], FactorGraph | RegionGraph]] = {
    "chain": lambda: chain(1000),
    "torus": lambda: torus(40, 40),
    "tiles": lambda: tiles((3, 1024, 1024), (3, 64, 64), (0, 16, 16)),
    "narrow tiles": lambda: tiles((16, 36004), (16, 16), (0, 4)),
    "a cube of many elements": lambda: cubemap(128, 16),
    "shapes": lambda: FactorGraph.from_scopes({}, {f"x{i}": (i + 1,) for i in range(100)}),
    "nested": lambda: FactorGraph.from_scopes({"f": ("a",)}, {"a": (99,)}).nest(
        {"a": tiles((99,), 3, 2)}
    ),
    "nested large": lambda: FactorGraph.from_scopes({}, {"a": (300_000,)}).nest(
        {"a": RegionGraph.from_regions({"all": range(300_000)}, event_shape=(300_000,))}
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_graphs_are_drawn(name: str) -> None:
    graph = SMALL[name]()
    assert drawing(graph) is not None
    svg = parsed(graph._repr_html_())
    assert svg.tag == f"{SVG}svg"
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == repr(graph)
    left, top, width, height = map(float, svg.get("viewBox", "").split())
    assert (left, top) == (0, 0)
    assert 0 < width < 900
    assert 0 < height < 900


@pytest.mark.parametrize("name", LARGE)
def test_large_graphs_are_counted(name: str) -> None:
    graph = LARGE[name]()
    html = graph._repr_html_()
    if name == "nested":
        assert is_drawn(graph)
        return
    assert not is_drawn(graph)
    assert html == summary(graph)
    assert len(html) < 6_000


def test_nodes_carry_names_and_counts() -> None:
    found = words(parsed(chain(3)._repr_html_()))
    assert {"x0", "x1", "x2", "f0", "f1", "+1", "−1", "0", "+1 × 2", "−1 × 1"} <= set(found)


def test_drawings_are_plain() -> None:
    for make in SMALL.values():
        html = make()._repr_html_()
        assert not re.search(r"<(script|foreignObject|a)\b", html)
        assert not re.search(r"url\((?!#)", html)
        assert {*re.findall(r"https?://[^\"]*", html)} <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }
        assert not re.search(r"\b(nan|inf)\b", html)


class Unspeakable:
    """A name that cannot be written."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


DEEP: Any = ()
for _ in range(2000):
    DEEP = (DEEP,)


HOSTILE: list[Any] = [
    "<script>alert(1)</script>", "\"'><svg onload=x>", "&amp;", "]]>", "x" * 10_000, "a\nb\tc", "",
    "\x00\x07", "\ud800", "\ufffe", "日本語の名前", "e\u0301" * 50, "{}", "%s", "$x^2$", None, (),
    (1,),
    ((0, 1), (2, frozenset({"a"}))), frozenset(), frozenset({"<b>", '"'}), 3, 2.5, float("inf"),
    True, b"\xff", DEEP, Unspeakable(), object(), int,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: type(name).__name__)
def test_names_may_be_anything(name: Any) -> None:
    factor = FactorGraph.from_scopes({("f", name): (name, "other")})
    region = RegionGraph.from_regions(
        {name: [0, 1], ("z", 1): [1]}, {name: 1, ("z", 1): 0}, event_shape=(2,)
    )
    around = FactorGraph.from_scopes({}, {name: (2,)}).nest({name: chain(2)})
    for graph in (factor, region, around):
        html = graph._repr_html_()
        parsed(html)
        assert "<script>" not in html
        assert len(html) < 20_000
        html.encode()
        if not isinstance(name, Unspeakable) and name is not DEEP:
            assert is_drawn(graph)


def test_a_repr_never_raises() -> None:
    class Broken:
        def __repr__(self) -> str:
            return "Broken(<1>)"

    def fails() -> str:
        raise ValueError("no")

    assert shown(Broken(), fails, fails) == "<pre>Broken(&lt;1&gt;)</pre>"


GRAPHS = strategies.factor_graphs() | strategies.nested_graphs() | strategies.region_graphs()
NAMES = st.dictionaries(st.text(max_size=80), st.integers(-9, 9), min_size=1)


def named(counts: dict[str, int], denominator: int) -> RegionGraph:
    regions = {name: list(range(i + 1)) for i, name in enumerate(counts)}
    return RegionGraph.from_regions(
        regions, counts, event_shape=(len(counts),), denominator=denominator
    )


@settings(max_examples=60, deadline=None)
@given(GRAPHS | st.builds(named, NAMES, st.integers(1, 7)))
def test_any_graph_is_counted(graph: FactorGraph | RegionGraph) -> None:
    parsed(summary(graph))
    assert "\n" not in repr(graph)


@settings(max_examples=15, deadline=None)
@given(GRAPHS)
def test_any_graph_is_shown(graph: FactorGraph | RegionGraph) -> None:
    drawn = drawing(graph)
    assert parsed(graph._repr_html_()).tag == (f"{SVG}svg" if drawn else "div")


@settings(max_examples=15, deadline=None)
@given(NAMES, st.integers(1, 7))
def test_any_name_and_fraction_is_drawn(counts: dict[str, int], denominator: int) -> None:
    drawn = drawing(named(counts, denominator))
    assert drawn is not None
    parsed(drawn)


def test_huge_fractions_are_drawn() -> None:
    graph = RegionGraph.from_regions(
        {"a": [0]}, {"a": 10**18 + 1}, event_shape=(1,), denominator=10**18
    )
    assert is_drawn(graph)


def test_an_invalid_graph_is_shown() -> None:
    twice = chain(2).regions.groups[0]
    assert is_drawn(RegionGraph((2,), (twice, twice)))  # two regions of one name


def complete(n: int) -> FactorGraph:
    pairs = [(i, j) for i in range(n) for j in range(i)]
    return FactorGraph.from_scopes({f"f{i},{j}": (i, j) for i, j in pairs})


HUGE: dict[str, Callable[[], FactorGraph | RegionGraph]] = {
    "a million variables": lambda: FactorGraph.from_arrays(
        np.stack([np.arange(999_999), np.arange(1, 1_000_000)], axis=1)
    ),
    "many shapes": lambda: FactorGraph.from_scopes({}, {i: (1 + i % 3,) for i in range(300_000)}),
    "a million tiles": lambda: tiles((3, 16_008, 16_008), (3, 24, 24), (0, 8, 8)),
    "tiles": lambda: tiles((3, 496, 496), (3, 64, 64), (0, 16, 16)),
    "complete": lambda: complete(10),
    "dense": lambda: FactorGraph.from_scopes(
        {f"f{i}": [f"x{j}" for j in range(30)] for i in range(30)}
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_shown_of_a_large_graph_is_small(name: str) -> None:
    """So that showing it is quick, too: 0.1 s for a million variables on an idle machine."""
    assert len(HUGE[name]()._repr_html_()) < 200_000


@pytest.mark.parametrize("name", ["Report", "Advice", "Consistency", "Joint"])
def test_reports_are_tables(name: str) -> None:
    html = OBJECTS[name]()._repr_html_()
    assert parsed(html).tag == "div"
    assert "background" not in html  # the page's own colours


def test_reports_say_what_they_print() -> None:
    report = cycle(5).validate()
    paragraphs = ["".join(p.itertext()) for p in parsed(report._repr_html_()).iter("p")]
    assert " ".join(paragraphs).split() == str(report).split()
    found = parsed(OBJECTS["Advice"]()._repr_html_())
    cells = ["".join(cell.itertext()) for cell in found.iter("td")]
    assert cells[0] == "chain"
    assert "consistent" in ["".join(cell.itertext()) for cell in found.iter("th")]


def test_a_joint_of_many_models_lists_some() -> None:
    graph = FactorGraph.from_scopes({i: (f"x{i}",) for i in range(40)})
    scores = {i: partial(lambda x, sigma, i: -x, i=i) for i in range(40)}
    html = compose(graph, scores)._repr_html_()
    assert "40 regions in 40 batches" in html
    assert "and 28 more batches" in html


def test_large_reports_keep_what_takes_long_for_print() -> None:
    report = tiles((3, 208, 208), (3, 64, 64), (0, 16, 16)).validate()
    assert "not yet determined" in report._repr_html_()
    assert not {"proxy", "diameter"} & vars(report).keys()
    assert "diameter: 4" in str(report)
    assert "diameter: 4" in report._repr_html_()


def test_notebooks_need_no_matplotlib() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pgmdiff.graphs import chain, tiles\n"
        "print(chain(3)._repr_html_()[:4], tiles((8,), 4, 2)._repr_html_()[:4])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.split() == ["<div", "<div"], done.stderr
