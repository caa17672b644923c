"""Scenes: nested nodes, and regions above what they contain."""

from itertools import combinations

from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    grid,
    nested_cubemap,
    torus,
)
from pgmdiff.plotting import plot
from pgmdiff.plotting.scenes import factor_scene, hasse_scene
from pgmdiff.plotting.style import name_text
from tests.plotting.helpers import KIKUCHI, check_legible, legend, texts


def test_edges_around_a_torus_leave_and_come_back() -> None:
    scene = factor_scene(torus(3, 4), "spatial")
    assert len(scene.ghosts) == len(scene.dashed) == 3 + 4
    assert len(scene.edges) == 2 * 24 - 7
    assert "around the edge" in legend(plot(torus(3, 4)))
    assert factor_scene(grid(3, 4), "spatial").dashed == []


def test_nested_nodes_are_boxes_around_their_graphs() -> None:
    cube = nested_cubemap(4)
    scene = factor_scene(cube, "spatial")
    assert {node.kind for node in scene.nodes} == {"box"}
    for node in scene.nodes:
        assert node.inside is not None
        left, right, bottom, top = node.inside.bounds
        assert node.x - node.width / 2 < left < right < node.x + node.width / 2
        assert node.y - node.height / 2 < bottom < top < node.y + node.height / 2
    for a, b in combinations(scene.nodes, 2):
        beside = abs(a.x - b.x) > (a.width + b.width) / 2
        assert beside or abs(a.y - b.y) > (a.height + b.height) / 2
    found = texts(plot(cube))
    assert "LFRB  +1" in found
    assert "FB  −1" in found
    assert found.count("F\n−1") == 2
    assert found.count("F\n+1") == 1
    assert texts(plot(cube, labels=False)).count("+1") == 21
    check_legible(plot(cube, layout="bipartite"))


def test_only_one_level_is_drawn_in_full() -> None:
    inner = FactorGraph.from_scopes({"g": ("p", "q")}, {"p": (2,), "q": ()}).nest({"p": chain(2)})
    graph = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (), "b": (3,)}).nest({"b": inner})
    figure = plot(graph)
    assert "3 nodes" in texts(figure)
    assert "p  0" in texts(figure)
    check_legible(figure)
    large = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (), "b": (40,)}).nest({"b": chain(40)})
    assert "79 nodes" in texts(plot(large))


def test_regions_hang_below_what_contains_them() -> None:
    graph = cluster_variation(KIKUCHI)
    scene = hasse_scene(graph)
    outer = dict(zip(graph.names, (o for g in graph.groups for o in g.outer), strict=True))
    top = max(node.y for node in scene.nodes)
    by_name = {name_text(name): bool(flag) for name, flag in outer.items()}
    for node in scene.nodes:
        assert (node.y == top) == by_name[node.name]
    sizes = {node.name: (-len(node.name), -node.y) for node in scene.nodes if node.y < top}
    assert sorted(sizes.values()) == sorted(sizes.values(), key=lambda pair: pair[1])


def test_edges_are_the_transitive_reduction() -> None:
    nested = RegionGraph.from_regions(
        {"abc": [0, 1, 2], "ab": [0, 1], "a": [0]},
        {"abc": 1, "ab": 0, "a": 0},
        event_shape=(3,),
    )
    assert len(hasse_scene(nested).edges) == 2
