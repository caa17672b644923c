"""Positions of nodes: they depend on the graph alone and keep their distance."""

from itertools import pairwise

import networkx as nx
import pytest
import torch

from pgmdiff.graphs import FactorGraph, chain, cycle, grid, star, torus, tree
from pgmdiff.plotting import plot
from pgmdiff.plotting.layouts import LEAST, spatial
from tests.plotting.helpers import scattered


def test_a_picture_is_the_same_every_time() -> None:
    graph = scattered(30, 40)
    assert (spatial(graph).points == spatial(graph).points).all()
    state = torch.get_rng_state()
    plot(graph)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "graph",
    [chain(5), chain(60), cycle(5), cycle(80), star(40), tree(3, 3), tree(2, 6), grid(3, 4),
     grid(3, 3, 3), torus(4, 5), scattered(40, 60), scattered(150, 150)],
    ids=repr,
)  # fmt: skip
def test_nodes_keep_their_distance(graph: FactorGraph) -> None:
    points = torch.from_numpy(spatial(graph).points)
    assert torch.pdist(points).min() > 0.8 * LEAST


def test_positions_of_networkx_are_kept() -> None:
    drawn = nx.Graph()
    drawn.add_node("a", bipartite=0, pos=(0.0, 0.0))
    drawn.add_node("b", bipartite=0, pos=(4.0, 0.0))
    drawn.add_node("c", bipartite=0, pos=(4.0, 3.0))
    drawn.add_node("f", bipartite=1)
    drawn.add_node("g", bipartite=1, pos=(6.0, 1.5))
    drawn.add_edges_from([("f", "a"), ("f", "b"), ("g", "b"), ("g", "c")])
    a, b, c, f, g = torch.from_numpy(spatial(FactorGraph.from_networkx(drawn)).points)
    assert torch.allclose(f, (a + b) / 2)
    scale = (b - a)[0] / 4
    assert torch.allclose(c - a, scale * torch.tensor([4.0, 3.0], dtype=torch.float64))
    assert torch.allclose(g - a, scale * torch.tensor([6.0, 1.5], dtype=torch.float64))


def test_a_factor_on_one_variable_is_beside_it() -> None:
    drawn = nx.Graph()
    drawn.add_node("a", bipartite=0, pos=(1.0, 1.0))
    drawn.add_node("f", bipartite=1)
    drawn.add_node("g", bipartite=1)
    drawn.add_edges_from([("f", "a"), ("g", "a")])
    points = torch.from_numpy(spatial(FactorGraph.from_networkx(drawn)).points)
    assert torch.pdist(points).min() > 0.9 * LEAST


def test_lattices_are_drawn_as_lattices() -> None:
    graph = grid(2, 3)
    at = dict(zip([*graph.variables, *graph.factors], spatial(graph).points, strict=True))
    assert at[0, 1][0] > at[0, 0][0]
    assert at[0, 1][1] == at[0, 0][1]
    assert at[1, 0][1] < at[0, 0][1]
    assert at[(0, 0), (0, 1)].tolist() == ((at[0, 0] + at[0, 1]) / 2).tolist()


def test_components_lie_side_by_side() -> None:
    graph = FactorGraph.from_scopes({f"f{i}": (f"a{i}", f"b{i}") for i in range(3)})
    points = spatial(graph).points
    rows = [{0, 1, 6}, {2, 3, 7}, {4, 5, 8}]
    boxes = [points[sorted(row)] for row in rows]
    for one, other in pairwise(boxes):
        assert one[:, 0].max() < other[:, 0].min() or one[:, 1].min() > other[:, 1].max()
