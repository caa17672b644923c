"""Region graphs: their checks, pieces, and states."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from pgmdiff import GraphError, compose
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    junction_tree,
    product,
    tiles,
)
from pgmdiff.testing.strategies import region_graphs


def test_from_regions_checks_every_region() -> None:
    good = {"a": [0, 1], "b": [1, 2], "o": [1]}
    counts = {"a": 1, "b": 1, "o": -1}
    graph = RegionGraph.from_regions(good, counts, event_shape=(3,))
    report = graph.validate()
    assert report.valid
    assert report.junction_tree
    assert {n: bool(g.outer[i]) for g in graph.groups for i, n in enumerate(g.names)} == {
        "a": True, "b": True, "o": False,
    }  # fmt: skip
    for bad, message in (
        ([], "region 'a' is empty"),
        ([0, 3], "elements from 0 to 3, but the state has elements 0 to 2"),
        ([0, 0], "region 'a' lists an element twice"),
        ([0.5], "must hold integers"),
    ):
        with pytest.raises(GraphError, match=message):
            RegionGraph.from_regions({**good, "a": bad}, counts, event_shape=(3,))
    with pytest.raises(GraphError, match="'o' must have both elements and a count"):
        RegionGraph.from_regions(good, {"a": 1, "b": 1}, event_shape=(3,))
    with pytest.raises(GraphError, match="'z', which is no region"):
        RegionGraph.from_regions(good, counts, event_shape=(3,), conditions={"z": {}})
    with pytest.raises(GraphError, match=r"the count of 'a' is 0\.5, expected an integer"):
        RegionGraph.from_regions({"a": [0]}, {"a": 0.5}, event_shape=(1,))  # type: ignore[dict-item]
    with pytest.raises(GraphError, match="no region is named 'z'"):
        graph.elements("z")


def test_fractional_counts_share_a_denominator() -> None:
    regions = {"a": [0, 1], "b": [1, 2], "c": [0, 2]}
    halves = RegionGraph.from_regions(
        regions, dict.fromkeys(regions, 1), event_shape=(3,), denominator=2
    )
    assert halves.validate().valid
    u = torch.ones(1, 3)
    assert torch.equal(compose(halves, lambda x, sigma: -x)(u, 1.0), -u)


def test_invalid_graphs_cannot_be_composed() -> None:
    invalid = RegionGraph.from_regions(
        {"a": [0, 1], "b": [1, 2]}, {"a": 1, "b": 1}, event_shape=(4,)
    )
    report = invalid.validate()
    assert not report.valid
    assert report.uncovered.tolist() == [3]
    assert report.unbalanced.tolist() == [1, 3]
    assert "Invalid" in report.promise
    for act in (report.raise_if_invalid, lambda: compose(invalid, lambda x, sigma: x)):
        with pytest.raises(GraphError, match="got element 1: 2, element 3: 0"):
            act()


def test_nothing_of_a_graph_can_be_changed() -> None:
    condition = {"y": torch.ones(1)}
    graph = FactorGraph.from_scopes({"f": ("a", "b")}, conditions={"f": condition})
    condition["y"] = torch.zeros(1)
    assert graph.conditions["f"]["y"].item() == 1
    group, windows = graph.regions.groups[0], tiles((8,), 4, 2).groups[0]
    for array in (graph.degrees, graph.sizes, graph.offsets, group.counts, windows.counts):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7
    assert copy.deepcopy(graph.regions).n_regions == 3
    assert pickle.loads(pickle.dumps(graph.regions)).names == graph.regions.names


def test_pieces_are_the_outer_regions() -> None:
    assert chain(3).pieces == chain(3).regions.pieces == ["f0", "f1"]
    alone = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (), "b": (), "alone": (2,)})
    assert alone.pieces == ["f", "alone"]
    image = tiles((8, 8), 4, 2)
    assert image.pieces == image.groups[0].names
    assert len(image.pieces) == 9 < image.n_regions
    nested = alone.nest({"f": chain(2)})
    assert sorted(nested.pieces) == ["alone", "f0"]
    counted = cluster_variation({"left": [0, 1, 2], "right": [2, 3]}, event_shape=(4,))
    assert counted.pieces == ["left", "right"]


@settings(max_examples=40)
@given(region_graphs())
def test_counted_regions_are_pieces_or_inside_some(graph: RegionGraph) -> None:
    pieces, counts = set(graph.pieces), graph.counting_numbers()
    sets = {name: frozenset(graph.elements(name).reshape(-1).tolist()) for name in graph.names}
    assert pieces <= sets.keys()
    for name, region in sets.items():
        assert counts[name] == 0 or any(region <= sets[piece] for piece in pieces)


def test_a_node_whose_factors_are_nested_becomes_a_piece() -> None:
    parts = FactorGraph.from_scopes({}, {"part": (), "rest": ()})
    twice = FactorGraph.from_scopes({"f": ("v",), "g": ("v",)}, {"v": (2,)})
    assert twice.nest({"f": parts, "g": parts}).regions.pieces == ["part", "rest", "v"]
    once = FactorGraph.from_scopes({"f": ("v",)}, {"v": (2,)}).nest({"f": parts})
    assert once.regions.pieces == ["part", "rest"]  # v counts 0


@pytest.mark.parametrize("make", [lambda g: g.nodes, lambda g: g.regions, cluster_variation,
                                  lambda g: junction_tree(g, max_clique=4)])  # fmt: skip
def test_region_graphs_of_factor_graphs_unpack(make) -> None:
    graph = FactorGraph.from_scopes(
        {"f": ("c", "a"), "g": ("a", "b"), "h": ("b", "c")}, {"b": (3,), "a": (), "c": (2, 2)}
    )
    regions, u = make(graph), torch.arange(16.0).reshape(2, 8)
    parts = regions.unpack(u)
    assert list(parts) == ["b", "a", "c"]
    for name, part in graph.unpack(u).items():
        assert torch.equal(parts[name], part)
    assert torch.equal(regions.pack(parts), u)
    conditioned = replace(regions, conditions={})
    assert conditioned.unpack(u).keys() == parts.keys()
    assert pickle.loads(pickle.dumps(regions)).unpack(u).keys() == parts.keys()


def test_region_graphs_of_nested_graphs_unpack() -> None:
    graph = chain(3, (2,)).nest({"f0": chain(4)})
    assert list(graph.regions.unpack(torch.zeros(6))) == ["x0", "x1", "x2"]


def test_a_state_without_names_is_not_unpacked() -> None:
    for graph in (tiles((8,), 4, 2), product(chain(2), chain(3))):
        u = torch.zeros(graph.event_shape)
        with pytest.raises(GraphError, match=r"RegionGraph\.unpack: .* has no named variables"):
            graph.unpack(u)
        with pytest.raises(GraphError, match=r"RegionGraph\.pack: .*Use `elements\(name\)`"):
            graph.pack({})
    with pytest.raises(GraphError, match="variables have 3 elements, but the state has 8"):
        replace(tiles((8,), 4, 2), variables=chain(3).regions.variables)


def test_regions_that_share_nothing_need_no_counts() -> None:
    apart = RegionGraph.from_regions({"a": [0, 1], "b": [2]}, event_shape=(3,))
    assert apart.validate().valid
    assert not RegionGraph.from_regions({"a": [0, 1], "b": [1]}, event_shape=(2,)).validate().valid
