"""Counting numbers, validity and acyclicity against `oracles/counting.json`."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pgmdiff.graphs import (
    FactorGraph,
    chain,
    cycle,
    grid,
    is_alpha_acyclic,
    is_berge_acyclic,
    star,
    tiles,
    torus,
    tree,
)

GRAPHS = json.loads((Path(__file__).parents[1] / "oracles" / "counting.json").read_text())["graphs"]


@pytest.fixture(params=GRAPHS, ids=lambda g: g["name"])
def oracle(request: pytest.FixtureRequest) -> dict:
    return request.param


def graph_of(oracle: dict) -> FactorGraph:
    return FactorGraph.from_scopes({i: tuple(s) for i, s in enumerate(oracle["scopes"])})


def test_bethe_counts(oracle: dict) -> None:
    graph = graph_of(oracle)
    merged: Counter = Counter()
    for name, count in graph.counting_numbers().items():
        merged[frozenset(graph.scopes.get(name, (name,)))] += count
    expected = {frozenset(region): count for region, count in oracle["bethe"]}
    assert {region: count for region, count in merged.items() if count} == expected


def test_validity_and_acyclicity(oracle: dict) -> None:
    graph = graph_of(oracle)
    report = graph.validate()
    assert report.valid == oracle["bethe_valid"]
    assert is_berge_acyclic(graph) == report.berge_acyclic == oracle["berge_acyclic"]
    assert is_alpha_acyclic(graph.regions) == report.alpha_acyclic == oracle["alpha_acyclic"]


def test_a_junction_tree_is_where_bethe_is_cluster_variation_and_acyclic(oracle: dict) -> None:
    agrees = sorted(map(str, oracle["bethe"])) == sorted(map(str, oracle["cluster_variation"]))
    expected = agrees and oracle["alpha_acyclic"]
    assert graph_of(oracle).validate().junction_tree == expected
    # Found by the general test too, without the shortcut for forests:
    assert graph_of(oracle).regions.validate().junction_tree == expected


WORKED = [
    (chain(4), {1: 3, -1: 2, 0: 2}, 1),
    (cycle(4), {1: 4, -1: 4}, 0),
    (star(4), {1: 4, -3: 1, 0: 4}, 1),
    (tree(2, 2), {1: 6, -1: 1, -2: 2, 0: 4}, 1),
    (grid(2, 3), {1: 7, -1: 4, -2: 2}, -1),
    (torus(3, 3), {1: 18, -3: 9}, -9),
    (tiles((3, 3), 2, 1), {1: 5, -1: 4}, 1),
    (tiles((4, 4), 2, 1), {1: 13, -1: 12}, 1),
    (tiles((5, 6), 2, 1), {1: 32, -1: 31}, 1),
    (tiles((4, 4), 2, 1, True), {1: 32, -1: 32}, 0),
    (tiles((6,), 3, 2), {1: 4, -1: 3}, 1),
]


@pytest.mark.parametrize(("graph", "counts", "total"), WORKED, ids=repr)
def test_worked_numbers(graph: FactorGraph, counts: dict, total: int) -> None:
    numbers = graph.counting_numbers().values()
    assert Counter(numbers) == counts
    assert sum(numbers) == total
    assert graph.validate().valid


@pytest.mark.parametrize("oracle_name", ["2x2 tiles", "3x3 tiles", "window 3 stride 1, length 6"])
def test_tiles_have_the_cluster_variation_counts(oracle_name: str) -> None:
    oracle = next(g for g in GRAPHS if g["name"] == oracle_name)
    graph, width = {
        "2x2 tiles": (tiles((3, 3), 2, 1), 3),
        "3x3 tiles": (tiles((4, 4), 2, 1), 4),
        "window 3 stride 1, length 6": (tiles((6,), 3, 2), 1),
    }[oracle_name]
    counts = graph.counting_numbers()

    def place(element: int) -> str:
        return str(divmod(element, width) if width > 1 else element)

    found = {
        frozenset(place(e) for e in graph.elements(name).reshape(-1).tolist()): count
        for name, count in counts.items()
    }
    assert found == {frozenset(region): count for region, count in oracle["cluster_variation"]}


def test_a_million_variables() -> None:
    graph = chain(1_000_000)
    assert graph.validate().junction_tree
    assert graph.n_elements == 1_000_000


def test_tiles_never_hold_their_indices() -> None:
    graph = tiles((3, 80_008, 808), (3, 16, 16), (0, 8, 8))
    assert graph.n_regions > 3_900_000
    assert (graph.groups[0].scatter_sum(graph.groups[0].counts, graph.n_elements) > 0).all()
    last = graph.groups[0].indices(len(graph.groups[0]) - 1, len(graph.groups[0]))
    assert int(last.max()) == graph.n_elements - 1


@pytest.mark.parametrize(
    ("shape", "window", "overlap", "periodic"),
    [
        ((12,), 4, 2, False),
        ((12,), 4, 2, True),
        ((12,), 5, 4, True),
        ((8, 6), (4, 3), (2, 0), (False, True)),
        ((8, 6), (4, 2), (2, 1), False),
        ((3, 8), (3, 4), (0, 2), False),
        ((6, 6), (2, 3), (0, 0), True),
        ((8,), 6, 2, True),
    ],
)
def test_the_acyclicity_tiles_claim_is_the_one_computed(
    shape: tuple, window: int, overlap: int, periodic: bool
) -> None:
    graph = tiles(shape, window, overlap, periodic)
    from_indices = type(graph)(graph.event_shape, graph.groups)
    assert from_indices.junction_tree is None
    assert from_indices.validate().junction_tree == graph.validate().junction_tree


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("size", range(4, 20))
@pytest.mark.parametrize("overlap", range(4))
def test_shifted_tiles_stay_valid(size: int, overlap: int, periodic: bool) -> None:
    graph = tiles((size,), 4, overlap, periodic, remainder="shift")
    assert graph.validate().valid
    assert (graph.coverage() >= 1).all()
    sums = np.zeros(size, np.int64)
    for name, count in graph.counting_numbers().items():
        sums[graph.elements(name).numpy()] += count
    assert (sums == 1).all()
