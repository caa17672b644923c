"""Cluster variation and junction trees of index arrays."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgmdiff import GraphError, compose
from pgmdiff.gaussian import composed_precision
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    cycle,
    junction_tree,
    tiles,
)
from tests.helpers import ar1, relative


def by_elements(graph: RegionGraph) -> dict:
    """Nonzero counts by the set of elements: names and layouts left out."""
    counts: Counter = Counter()
    for name, count in graph.counting_numbers().items():
        counts[frozenset(graph.elements(name).reshape(-1).tolist())] += count
    return {region: count for region, count in counts.items() if count}


def windows_of(graph: RegionGraph) -> dict:
    return {
        group.name(row): group.indices(row, row + 1)[0].numpy()
        for group in graph.groups
        for row in range(len(group))
        if group.outer[row]
    }


@pytest.mark.parametrize(
    "graph",
    [
        tiles((3, 8, 12), (3, 4, 6), (0, 2, 3)),
        tiles((10, 10), 4, 1),
        tiles((9,), 4, 1, True),
        tiles((12, 12), 6, 2, True),
        tiles((13,), 5, 2, remainder="shift"),
    ],
)
def test_arrays_of_windows_give_the_counts_of_tiles(graph: RegionGraph) -> None:
    pieces = cluster_variation(windows_of(graph), event_shape=graph.event_shape)
    assert by_elements(pieces) == by_elements(graph)
    shapes = {g.shape for g in graph.groups}
    assert {g.shape for g in pieces.groups} == shapes
    for name, array in windows_of(graph).items():
        assert (pieces.elements(name).numpy() == array).all()
    assert by_elements(cluster_variation(graph)) == by_elements(graph)


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from(range(7)), min_size=1, unique=True), max_size=6))
def test_arrays_are_counted_as_scopes_of_elements(pieces: list) -> None:
    pieces += [[e] for e in range(7) if not any(e in p for p in pieces)]
    arrays = {f"p{i}": np.array(p) for i, p in enumerate(pieces)}
    of_arrays = cluster_variation(arrays, event_shape=(7,))
    scopes = cluster_variation(pieces, dict.fromkeys(range(7), ()))
    assert by_elements(of_arrays) == by_elements(scopes)
    several = cluster_variation(arrays, event_shape=(7,), disconnected="several")
    assert several.validate().valid
    tree = junction_tree(arrays, event_shape=(7,), max_clique=7)
    assert tree.validate().junction_tree


def test_an_overlap_is_laid_out_as_the_first_piece_has_it() -> None:
    upright = np.arange(16).reshape(4, 4)
    turned = np.rot90(np.arange(8, 24).reshape(4, 4))
    graph = cluster_variation({"turned": turned, "upright": upright}, event_shape=(24,))
    assert graph.counting_numbers() == {
        "turned": 1, "upright": 1, frozenset({"turned", "upright"}): -1
    }  # fmt: skip
    overlap = graph.elements(frozenset({"turned", "upright"}))
    assert overlap.tolist() == turned[:, :2].tolist()
    ragged = {"a": np.array([[0, 1], [2, 3]]), "b": np.array([3, 4, 0, 1])}
    flat = cluster_variation(ragged, event_shape=(5,)).elements(frozenset("ab"))
    assert flat.tolist() == [0, 1, 3]


def test_two_arcs_of_a_ring_are_one_region_or_two() -> None:
    ring = {"front": [0, 1, 2, 3, 4, 5], "back": [4, 5, 6, 7, 0, 1]}
    both = frozenset(ring)
    one = cluster_variation(ring, event_shape=(8,))
    assert one.counting_numbers() == {"front": 1, "back": 1, both: -1}
    assert one.elements(both).tolist() == [0, 1, 4, 5]
    assert one.validate().junction_tree
    several = cluster_variation(ring, event_shape=(8,), disconnected="several")
    assert several.counting_numbers() == {"front": 1, "back": 1, (both, 0): -1, (both, 1): -1}
    assert several.elements((both, 1)).tolist() == [4, 5]
    assert several.validate().valid
    assert not several.validate().junction_tree
    # Of scopes: neighbours in a scope are connected.
    scopes = {"f": ("a", "b", "c"), "g": ("c", "d", "a")}
    assert cluster_variation(scopes).counting_numbers()[frozenset("ac")] == -1
    parts = cluster_variation(scopes, disconnected="several").counting_numbers()
    assert parts[frozenset("a")] == parts[frozenset("c")] == -1
    # Exact where the data knows nothing of the other arc, and only there.
    chain = ar1(8, 0.6)
    precision = torch.linalg.inv(chain.covariance)
    arcs = cluster_variation({"l": range(5), "r": range(3, 8)}, event_shape=(8,))
    assert relative(composed_precision(arcs, chain), precision) < 1e-12


def test_models_and_conditions_of_pieces_are_kept() -> None:
    pieces = RegionGraph.from_regions(
        {"a": [0, 1, 2], "b": [2, 3], "again": [0, 1, 2]},
        event_shape=(4,),
        models={"a": "big", "again": "big"},
        conditions={"b": {"y": torch.ones(1)}},
    )
    graph = cluster_variation(pieces)
    assert {g.model for g in graph.groups} == {"big", None}
    assert graph.conditions["b"]["y"] == 1
    alike = RegionGraph.from_regions(
        {"a": [0, 1], "b": [1, 2]}, event_shape=(3,), models={"a": "m", "b": "m"}
    )
    assert {g.model for g in cluster_variation(alike).groups} == {"m", (1,)}
    assert graph.names == ["a", "b", frozenset({"a", "b", "again"})]
    with pytest.raises(GraphError, match="'again' lies inside that of 'a'"):
        cluster_variation(pieces, absorb=False)
    lost = RegionGraph.from_regions(
        {"a": [0, 1, 2], "part": [1, 2]}, event_shape=(3,), models={"part": "small"}
    )
    with pytest.raises(GraphError, match="would be lost"):
        cluster_variation(lost)


def test_regions_of_single_variables_have_the_model_of_variables() -> None:
    found = cluster_variation(chain(4, variable_model="one", factor_model="pair"))
    assert [(group.model, len(group)) for group in found.groups] == [("pair", 3), ("one", 2)]


def test_equal_models_are_absorbed_different_ones_never() -> None:
    scopes = {"f": ("a", "b"), "g": ("a", "b")}
    same = FactorGraph.from_scopes(scopes, models={"f": "m", "g": "m"})
    assert list(cluster_variation(same).counting_numbers().values()) == [1]
    kind = FactorGraph.from_scopes(scopes, models={"f": "m"}, factor_model="m")
    assert list(cluster_variation(kind).counting_numbers().values()) == [1]
    y, z = {"y": torch.ones(2)}, {"y": torch.zeros(2)}
    equal = FactorGraph.from_scopes(scopes, conditions={"f": y, "g": {"y": torch.ones(2)}})
    assert list(cluster_variation(equal).counting_numbers().values()) == [1]
    turned = {"f": ("a", "b"), "g": ("b", "a")}
    for differing in (
        FactorGraph.from_scopes(scopes, conditions={"f": y, "g": z}),
        FactorGraph.from_scopes(scopes, conditions={"f": y}),
        FactorGraph.from_scopes(scopes, conditions={"g": y}),
        FactorGraph.from_scopes(scopes, models={"f": "m"}),
        FactorGraph.from_scopes(turned, models={"f": "m", "g": "m"}),
    ):
        with pytest.raises(GraphError, match="would be lost"):
            cluster_variation(differing)


def test_a_scope_with_a_model_keeps_the_order_that_model_expects() -> None:
    graph = FactorGraph.from_scopes(
        {"f": ("a", "b"), "g": ("c", "b")},
        {"a": (), "b": (), "c": ()},
        models={"f": "edge", "g": "edge", "b": "node"},
        conditions={"b": {"t": torch.ones(1)}},
    )
    counted = cluster_variation(graph)
    assert counted.elements(frozenset("cb")).tolist() == graph.regions.elements("g").tolist()
    assert {g.model for g in counted.groups} == {"edge", "node"}
    assert counted.conditions[frozenset("b")]["t"] == 1
    directed = {"edge": lambda x, sigma, **c: x * torch.tensor([1.0, 10.0]),
                "node": lambda x, sigma, **c: -x}  # fmt: skip
    u = torch.ones(1, 3)
    torch.testing.assert_close(compose(counted, directed)(u, 1.0), compose(graph, directed)(u, 1.0))
    loop = {"f": ("a", "b"), "g": ("b", "c"), "h": ("c", "d"), "k": ("d", "a")}
    with pytest.raises(GraphError, match="triangulation puts factor 'f' inside"):
        junction_tree(FactorGraph.from_scopes(loop, models={"f": "m"}), max_clique=3)


def test_pieces_may_have_any_names() -> None:
    numbers = cluster_variation({0: [0, 1, 2], 1: [2, 3, 4]}, event_shape=(5,))
    assert numbers.counting_numbers() == {0: 1, 1: 1, frozenset({0, 1}): -1}
    both = frozenset("ab")
    clash = cluster_variation({"a": [0, 1, 2], "b": [2, 3, 4], both: [4, 5]}, event_shape=(6,))
    assert clash.validate().valid
    assert clash.counting_numbers()[both] == 1
    assert clash.counting_numbers()[both, 1] == -1


def test_scopes_have_an_order() -> None:
    for unordered in ([{"a", "b"}], ["ab"]):
        with pytest.raises(GraphError, match="expected a sequence of names"):
            cluster_variation(unordered)
    shapes = {"b": (), "a": ()}
    assert cluster_variation([{"a", "b"}], shapes).names == [frozenset("ab")]


def test_rings_of_windows_are_several_by_the_other_name() -> None:
    for size, window, overlap in [(4, 3, 2), (6, 4, 2), (12, 8, 5), (9, 4, 1)]:
        ring = tiles((size,), window, overlap, True, remainder="shift")
        several = cluster_variation(ring, disconnected="several")
        assert by_elements(several) == by_elements(ring)


def test_loops_of_arrays_are_triangulated_only_where_allowed() -> None:
    loop = {f"f{i}": [i, (i + 1) % 4] for i in range(4)}
    with pytest.raises(GraphError, match="Pass max_clique=3"):
        junction_tree(loop, event_shape=(4,))
    tree = junction_tree(loop, event_shape=(4,), max_clique=3)
    assert sorted(tree.counting_numbers().values()) == [-1, 1, 1]
    assert by_elements(tree) == by_elements(junction_tree(cycle(4), max_clique=3))


def test_bad_pieces_are_named() -> None:
    with pytest.raises(GraphError, match="2 elements are in no piece, the first is 3"):
        cluster_variation({"a": [0, 1, 2]}, event_shape=(5,))
    with pytest.raises(GraphError, match="'one' or 'several', got 'both'"):
        cluster_variation([("a", "b")], disconnected="both")
    with pytest.raises(GraphError, match="expected a dict of index arrays"):
        cluster_variation([[0, 1]], event_shape=(2,))
    with pytest.raises(GraphError, match=r"'a' is an index array.*event_shape="):
        cluster_variation({"a": np.arange(3)})
    with pytest.raises(GraphError, match="models= goes with event_shape="):
        cluster_variation([("a", "b")], models={"a": "m"})
    with pytest.raises(GraphError, match="region 'a' has elements from 0 to 9"):
        cluster_variation({"a": [0, 9]}, event_shape=(5,))


@pytest.mark.parametrize("count", [cluster_variation, junction_tree])
@pytest.mark.parametrize(
    ("pieces", "options"),
    [
        ({"a": [0, 1, 2]}, {"event_shape": (5,)}),
        ([[0, 1]], {"event_shape": (2,)}),
        ({"a": np.arange(3)}, {}),
        ([("a", "b")], {"models": {"a": "m"}}),
        ([("a", "b"), ("a",)], {"absorb": False}),
        (4, {}),
        (["ab"], {}),
        (chain(2).nest({"f0": chain(2)}), {}),
    ],
)
def test_errors_name_the_function_that_was_called(count: Any, pieces: Any, options: Any) -> None:
    with pytest.raises(GraphError, match=f"^{count.__name__}: "):
        count(pieces, **options)


def test_counted_arrays_compose() -> None:
    graph = cluster_variation({"l": [[0, 1], [2, 3]], "r": [[1, 4], [3, 5]]}, event_shape=(6,))
    u = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(compose(graph, lambda x, sigma: -x)(u, 1.0), -u)


def test_pieces_may_share_a_model_by_id() -> None:
    """Overlaps of pieces of one model then have one model by shape; others go by their names."""
    pieces = {"a": np.arange(4), "b": np.arange(2, 6), "c": np.arange(4, 8)}
    models = {"a": "strip", "b": "strip"}
    for build in (cluster_variation, junction_tree):
        graph = build(pieces, event_shape=(8,), models=models)
        found = {name: g.model for g in graph.groups for name in g.names}
        assert found["a"] == found["b"] == "strip"
        assert found["c"] in (None, "c")
        assert found[frozenset("ab")] == (2,)
        assert found[frozenset("bc")] is None
        assert by_elements(graph) == by_elements(build(pieces, event_shape=(8,)))
