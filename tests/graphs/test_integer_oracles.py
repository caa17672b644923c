"""Counting numbers, elements and verdicts of random graphs against exact integer oracles.

The oracles share no code with the library (`tests/oracles/hypergraphs.py`). `make fuzz` runs these
tests, and the other property tests of graphs, on many more examples.
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgmdiff import GraphError
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    Report,
    cluster_variation,
    fingerprint,
    from_json,
    is_alpha_acyclic,
    is_berge_acyclic,
    junction_tree,
    tiles,
    to_json,
)
from pgmdiff.graphs.acyclicity import is_junction_tree
from pgmdiff.testing import strategies
from tests.oracles import hypergraphs as oracle

Name = Hashable
Shape = tuple[int, ...]

SHAPES: tuple[Shape, ...] = ((), (1,), (2,), (3,), (2, 2), (1, 2, 2))
ROWS: tuple[Shape, ...] = ((2, 1), (2, 2), (2, 3))
"""Shapes that can be joined along their last axis."""
LONGEST_AXIS = (0, 14, 7, 4)
"""By the number of axes: brute force walks every element of every region."""
MANY_WINDOWS = 12
"""Windows beyond which tiles are not compared with the cluster variation of their elements."""


@dataclass(frozen=True)
class Hypergraph:
    """Scopes over variables with shapes, in declaration order, and what the library makes of it."""

    shapes: dict[Name, Shape]
    scopes: dict[Name, tuple[Name, ...]]
    axis: int | None = None

    @cached_property
    def number(self) -> dict[Name, int]:
        return {name: v for v, name in enumerate(self.shapes)}

    @cached_property
    def masks(self) -> list[int]:
        return [self.mask(scope) for scope in self.scopes.values()]

    @cached_property
    def pieces(self) -> list[int]:
        """Scopes and isolated variables."""
        return oracle.with_isolated(self.masks, len(self.shapes))

    @cached_property
    def maximal(self) -> list[int]:
        return oracle.maximal(self.pieces)

    @cached_property
    def alpha(self) -> bool:
        return oracle.is_alpha_acyclic(self.pieces)

    @cached_property
    def kikuchi_counts(self) -> dict[int, int]:
        return oracle.inclusion_exclusion(self.pieces)

    @cached_property
    def bethe(self) -> FactorGraph:
        return FactorGraph.from_scopes(self.scopes, self.shapes, axis=self.axis)

    @cached_property
    def kikuchi(self) -> RegionGraph:
        return cluster_variation(self.bethe, absorb=len(self.maximal) < len(self.pieces))

    @cached_property
    def tree(self) -> RegionGraph:
        """From scopes alone: names do not matter to it. Triangulated only if need be."""
        most = None if self.alpha else len(self.shapes)
        return junction_tree(list(self.scopes.values()), self.shapes, max_clique=most)

    def mask(self, names: Iterable[Name]) -> int:
        return oracle.mask_of(self.number[name] for name in names)

    def counts(self, graph: RegionGraph) -> dict[int, int]:
        """Of a graph whose regions are named by their variables."""
        return {self.mask(region): count for region, count in graph.counting_numbers().items()}

    def elements(self, names: Iterable[Name]) -> list[int]:
        numbers = [self.number[name] for name in names]
        return oracle.layout(numbers, list(self.shapes.values()), self.axis)


@st.composite
def hypergraphs(draw: st.DrawFn) -> Hypergraph:
    """Loops, trees of overlaps, duplicates, subsets, isolated variables, in any order."""
    pair = st.lists(st.sampled_from("abcdef"), min_size=2, max_size=3, unique=True)
    scopes = draw(
        strategies.hypergraphs(max_scopes=8, names="abcdefgh")
        | st.lists(pair, min_size=3, max_size=8)  # most have loops
        | strategies.acyclic_hypergraphs()
        | st.just([])
    )
    isolated = [f"alone {i}" for i in range(draw(st.integers(0, 2)))]
    names = draw(st.permutations([*dict.fromkeys(name for s in scopes for name in s), *isolated]))
    axis = draw(st.sampled_from([None, None, None, -1]))
    shape = st.sampled_from(SHAPES if axis is None else ROWS)
    factors = draw(st.permutations(range(len(scopes))))
    named = {f"f{f}": tuple(scope) for f, scope in zip(factors, scopes, strict=True)}
    return Hypergraph({name: draw(shape) for name in names}, named, axis)


@dataclass(frozen=True)
class Tiling:
    """Settings of windows of a tensor, axis by axis, and what the library makes of them."""

    axes: list[tuple[int, int, int, bool]]

    @cached_property
    def shape(self) -> Shape:
        return tuple(size for size, *_ in self.axes)

    @cached_property
    def graph(self) -> RegionGraph:
        return tiles(*zip(*self.axes, strict=True), remainder="shift")

    @cached_property
    def counts(self) -> dict[tuple[oracle.Span, ...], int]:
        return oracle.tile_counts([oracle.axis_counts(*axis) for axis in self.axes])

    @cached_property
    def elements(self) -> dict[tuple[oracle.Span, ...], list[int]]:
        return {box: oracle.box_elements(box, self.shape) for box in self.counts}

    @cached_property
    def windows(self) -> list[list[int]]:
        window = tuple(length for _, length, *_ in self.axes)
        found = self.elements.items()
        return [elements for box, elements in found if tuple(n for _, n in box) == window]

    @cached_property
    def outer(self) -> list[int]:
        return list(map(oracle.mask_of, self.windows))

    @cached_property
    def merged(self) -> dict[int, int]:
        """Counts of regions on the same elements, added."""
        counts: Counter[int] = Counter()
        for box, elements in self.elements.items():
            counts[oracle.mask_of(elements)] += self.counts[box]
        return counts


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    axes = []
    n_axes = draw(st.integers(1, 3))
    for _ in range(n_axes):
        size = draw(st.integers(1, LONGEST_AXIS[n_axes]))
        window = draw(st.integers(1, size))
        axes.append((size, window, draw(st.integers(0, window - 1)), draw(st.booleans())))
    return Tiling(axes)


def flat(graph: RegionGraph, name: Name) -> list[int]:
    return graph.elements(name).reshape(-1).tolist()


def verdicts(report: Report) -> tuple[object, ...]:
    return report.valid, report.berge_acyclic, report.alpha_acyclic, report.junction_tree


def assert_counted_once(graph: RegionGraph) -> None:
    counts = graph.counting_numbers().items()
    sums = oracle.element_sums(((flat(graph, r), c) for r, c in counts), graph.n_elements)
    assert sums == graph.element_sums().tolist() == [1] * graph.n_elements


# ---------------------------------------------------------------- hypergraphs


@given(hypergraphs())
def test_bethe_counts_elements_and_verdicts(case: Hypergraph) -> None:
    degrees = oracle.degrees(case.masks, len(case.shapes))
    expected = dict.fromkeys(case.scopes, 1)
    expected |= {x: 1 - d for x, d in zip(case.shapes, degrees, strict=True)}
    assert case.bethe.counting_numbers() == case.bethe.regions.counting_numbers() == expected
    for node, scope in (case.scopes | {x: (x,) for x in case.shapes}).items():
        assert flat(case.bethe.regions, node) == case.elements(scope)
    assert_counted_once(case.bethe.regions)
    tree = oracle.merged_bethe(case.masks, len(case.shapes)) == case.kikuchi_counts
    berge = oracle.is_berge_acyclic(case.masks)
    expected = (True, berge, case.alpha, case.alpha and tree)
    assert verdicts(case.bethe.validate()) == expected
    # What `validate` does not compute for forests of distinct factors, computed for all:
    shortcuts = is_berge_acyclic(case.bethe), is_alpha_acyclic(case.bethe.regions)
    assert (True, *shortcuts, is_junction_tree(case.bethe.regions)) == expected


@given(hypergraphs())
def test_cluster_variation_counts_elements_and_verdicts(case: Hypergraph) -> None:
    assert case.counts(case.kikuchi) == case.kikuchi_counts
    outer = [row for group in case.kikuchi.groups for row in group.outer.tolist()]
    regions = map(case.mask, case.kikuchi.names)
    assert {r for r, is_outer in zip(regions, outer, strict=True) if is_outer} == set(case.maximal)
    for region in case.kikuchi.names:
        own = (scope for scope in case.scopes.values() if set(scope) == region)
        order = next(own, sorted(region, key=case.number.__getitem__))
        assert flat(case.kikuchi, region) == case.elements(order)
    assert_counted_once(case.kikuchi)
    assert verdicts(case.kikuchi.validate()) == (True, None, case.alpha, case.alpha)
    if len(case.maximal) < len(case.pieces):
        with pytest.raises(GraphError):
            cluster_variation(case.bethe, absorb=False)


@given(hypergraphs())
def test_junction_trees_are_acyclic_and_hold_all_scopes(case: Hypergraph) -> None:
    counts = case.counts(case.tree)
    cliques = [mask for mask, count in counts.items() if count > 0]
    assert counts == oracle.inclusion_exclusion(cliques)
    assert oracle.is_alpha_acyclic(cliques)
    assert all(any(mask & clique == mask for clique in cliques) for mask in case.masks)
    assert sum(counts.values()) == oracle.n_components(case.pieces)
    assert_counted_once(case.tree)
    assert verdicts(case.tree.validate()) == (True, None, True, True)
    if case.alpha:
        assert counts == case.kikuchi_counts
    else:  # the error names the size of the largest clique, and that size suffices
        with pytest.raises(GraphError) as refused:
            junction_tree(case.bethe)
        (announced,) = re.findall(r"Pass max_clique=(\d+)", str(refused.value))
        assert int(announced) == max(mask.bit_count() for mask in cliques)


@settings(max_examples=40)
@given(hypergraphs())
def test_wrong_counts_and_uncovered_elements_are_found_where_they_are(case: Hypergraph) -> None:
    """One count, over a denominator, is raised by the smallest step; one element is added."""
    regions = {name: case.kikuchi.elements(name) for name in case.kikuchi.names}
    counts, n = case.kikuchi.counting_numbers(), case.bethe.n_elements
    report = RegionGraph.from_regions(regions, counts, event_shape=(n + 1,)).validate()
    assert (report.valid, report.alpha_acyclic) == (False, case.alpha)
    assert report.uncovered.tolist() == report.unbalanced.tolist() == [n]
    if regions:
        doubled = {name: 2 * count for name, count in counts.items()}
        wrong = list(regions)[len(regions) // 2]
        built = partial(RegionGraph.from_regions, regions, event_shape=(n,), denominator=2)
        assert verdicts(built(doubled).validate()) == (True, None, case.alpha, case.alpha)
        report = built({**doubled, wrong: doubled[wrong] + 1}).validate()
        assert verdicts(report) == (False, None, case.alpha, False)
        assert report.unbalanced.tolist() == sorted(flat(case.kikuchi, wrong))


@settings(max_examples=40)
@given(hypergraphs())
def test_round_trips_keep_fingerprints(case: Hypergraph) -> None:
    again = FactorGraph.from_networkx(case.bethe.to_networkx())
    assert fingerprint(again) == fingerprint(case.bethe)
    for graph in (case.bethe, case.bethe.regions, case.kikuchi, case.tree):
        assert fingerprint(from_json(to_json(graph))) == fingerprint(graph)


def test_a_wrong_verdict_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    triangle = {"f": ("a", "b"), "g": ("b", "c"), "h": ("c", "a")}
    check = test_cluster_variation_counts_elements_and_verdicts.hypothesis.inner_test
    check(Hypergraph(dict.fromkeys("abc", ()), triangle))
    honest = RegionGraph.validate
    monkeypatch.setattr(RegionGraph, "validate", lambda g: replace(honest(g), alpha_acyclic=True))
    with pytest.raises(AssertionError, match="True"):
        check(Hypergraph(dict.fromkeys("abc", ()), triangle))


@settings(max_examples=250)
@given(st.data())
def count_kinds(seen: Counter[str], data: st.DataObject) -> None:
    case = data.draw(hypergraphs())
    tree = oracle.merged_bethe(case.masks, len(case.shapes)) == case.kikuchi_counts
    seen["loops"] += not case.alpha
    seen["α-acyclic, Bethe wrong"] += case.alpha and not tree
    seen["α-acyclic, Bethe right"] += case.alpha and tree
    seen["Berge-acyclic"] += oracle.is_berge_acyclic(case.masks)
    seen["duplicates"] += len(set(case.masks)) < len(case.masks)
    seen["subsets"] += len(oracle.maximal(case.masks)) < len(set(case.masks))
    seen["isolated"] += len(case.pieces) > len(case.masks)
    seen["disconnected"] += oracle.n_components(case.pieces) > 1
    seen["blocks"] += any(case.shapes.values())
    seen["joined on an axis"] += case.axis is not None
    seen["large"] += min(len(case.shapes), len(case.scopes)) >= 7


def test_hypergraphs_are_varied() -> None:
    seen: Counter[str] = Counter()
    count_kinds(seen)
    assert min(seen.values()) >= 15, seen


# ---------------------------------------------------------------- windows of a tensor


@given(tilings())
def test_tiles_count_by_the_product_rule(case: Tiling) -> None:
    boxes = {name: oracle.parsed(str(name)) for name in case.graph.names}
    named = case.graph.counting_numbers()
    assert {boxes[name]: count for name, count in named.items()} == case.counts
    assert len(named) == case.graph.n_regions
    for name, box in boxes.items():
        assert flat(case.graph, name) == case.elements[box]
    assert_counted_once(case.graph)
    once = ((elements, 1) for elements in case.windows)
    assert case.graph.coverage().tolist() == oracle.element_sums(once, case.graph.n_elements)
    assert fingerprint(from_json(to_json(case.graph))) == fingerprint(case.graph)


@given(tilings())
def test_small_tiles_have_the_verdicts_of_their_windows(case: Tiling) -> None:
    """Tiles on open axes are the cluster variation of their windows."""
    report = case.graph.validate()
    assert report.valid
    if len(case.windows) <= MANY_WINDOWS:
        assert report.alpha_acyclic == oracle.is_alpha_acyclic(case.outer)
        is_tree = oracle.is_junction_tree(case.outer, case.merged)
        assert report.junction_tree == is_junction_tree(case.graph) == is_tree
        if not any(periodic for *_, periodic in case.axes):
            assert oracle.inclusion_exclusion(case.outer) == case.merged
            found = cluster_variation(case.windows).counting_numbers().items()
            assert {oracle.mask_of(region): count for region, count in found} == case.merged
