"""All laws on all families, on random graphs; and that each law can fail."""

from collections import Counter
from dataclasses import replace
from functools import partial

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from pgmdiff import GraphError, PgmdiffError
from pgmdiff.gaussian import composed_precision
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    cubemap,
    cycle,
    grid,
    hidden_markov,
    junction_tree,
    markov_random_field,
    named_tree,
    nested_cubemap,
    product,
    repeated_observations,
    star,
    tiles,
    time_by_parts,
    torus,
    tree,
)
from pgmdiff.graphs.groups import IndexGroup
from pgmdiff.testing import LAWS, LawBroken, laws, oracles, strategies
from pgmdiff.testing import assert_lawful as lawful_at_random
from pgmdiff.testing.laws import Subject

assert_lawful = partial(lawful_at_random, generator=0)

FAMILIES = {
    "chain": chain(5, (2,)),
    "one variable": chain(1),
    "nothing": chain(0),
    "long chain": chain(2000),
    "cycle": cycle(5),
    "star": star(4),
    "tree": tree(2, 3),
    "grid": grid(3, 4),
    "torus": torus(3, 3),
    "named tree": named_tree(
        {"arm": "torso", "leg": "torso"}, {"torso": (3,), "arm": (1,), "leg": ()}
    ),
    "petersen": markov_random_field(nx.petersen_graph()),
    "cliques": markov_random_field(nx.complete_graph(4), cliques=True),
    "hidden markov": hidden_markov(4, (2,)),
    "observations": repeated_observations(3, (2,), [{"y": torch.tensor(y)} for y in (0, 1, 2)]),
    "strip": tiles((3, 8, 24), (3, 8, 8), (0, 0, 4)),
    "ring": tiles((9,), 4, 1, True),
    "tiles": tiles((8, 10), (4, 4), (2, 2)),
    "tiles with corners": tiles((64, 64), 16, 8),
    "torus of tiles": tiles((12, 12), 6, 3, True),
    "shifted tiles": tiles((13, 7), (5, 3), 2, remainder="shift"),
    "cubemap": cubemap(4),
    "large cubemap": cubemap(32, channels=3),
    "pairs of faces": cubemap(3, 3),
    "paper's cubemap": nested_cubemap(2),
    "time by parts": time_by_parts(24, 16, 8, {"legs": [0, 1], "torso": [1, 2, 3]}),
    "product": product(chain(3), cycle(3)),
    "cluster variation": cluster_variation([(0, 1, 2), (1, 2, 3), (3, 4, 0)]),
    "junction tree": junction_tree(cycle(6), max_clique=3),
    "two arcs": cluster_variation(
        {"a": [0, 1, 2, 3], "b": [3, 4, 5, 0]}, event_shape=(6,), disconnected="several"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_our_families_are_lawful(name: str) -> None:
    checked = assert_lawful(FAMILIES[name])
    assert "counts_sum_to_one" in checked.passed
    assert set(checked.passed) | set(checked.skipped) == set(LAWS)


@settings(max_examples=20)
@given(strategies.factor_graphs())
def test_random_factor_graphs_are_lawful(graph: FactorGraph) -> None:
    assert_lawful(graph)


@settings(max_examples=15)
@given(strategies.trees())
def test_random_trees_are_lawful(graph: FactorGraph) -> None:
    assert "promises_are_kept" in assert_lawful(graph).passed or not graph.n_elements


@settings(max_examples=15)
@given(strategies.nested_graphs())
def test_random_nested_graphs_are_lawful(graph: FactorGraph) -> None:
    assert_lawful(graph)


def test_a_graph_with_a_piece_that_counts_nothing_is_lawful() -> None:
    one = FactorGraph.from_scopes({}, {"whole": ()})
    graph = FactorGraph.from_scopes(
        {"f": ("a",), "g": ("b", "c"), "h": ("a", "b", "c")}, dict.fromkeys("abc", ())
    ).nest({"f": one, "a": one})
    assert graph.regions.counting_numbers()["whole"] == 0
    assert_lawful(graph)


@settings(max_examples=30)
@given(strategies.region_graphs())
def test_random_region_graphs_are_lawful(graph: RegionGraph) -> None:
    assert_lawful(graph)


@settings(max_examples=40)
@given(strategies.acyclic_hypergraphs())
def test_acyclic_hypergraphs_are_exact(scopes: list) -> None:
    graph = cluster_variation(scopes)
    assert oracles.is_acyclic(map(frozenset, scopes))
    assert graph.validate().junction_tree
    assert "promises_are_kept" in assert_lawful(graph, only=["promises_are_kept"]).passed


# ---------------------------------------------------------------- each law can fail


def corners_missing() -> RegionGraph:
    """2 × 2 tiles of 3 × 3, the naive way: overlaps of neighbours, no corner."""
    u = np.arange(25).reshape(5, 5)
    windows = {f"w{i}{j}": u[2 * i : 2 * i + 3, 2 * j : 2 * j + 3] for i in (0, 1) for j in (0, 1)}
    overlaps = {
        "top": u[0:3, 2:3], "bottom": u[2:5, 2:3], "left": u[2:3, 0:3], "right": u[2:3, 2:5]
    }  # fmt: skip
    counts = dict.fromkeys(windows, 1) | dict.fromkeys(overlaps, -1)
    return RegionGraph.from_regions({**windows, **overlaps}, counts, event_shape=(5, 5))


def test_a_forgotten_corner_is_found_and_named() -> None:
    with pytest.raises(LawBroken, match=r"counts_sum_to_one: element 12 is in 'w00' \(\+1\)") as e:
        assert_lawful(corners_missing())
    assert "the counts sum to 0, expected 1" in str(e.value)


@pytest.mark.parametrize(
    "law",
    ["steins_identity_holds", "the_score_is_the_weighted_sum", "zero_counts_are_never_called"],
)
def test_invalid_counts_break_numerical_laws_too(law: str) -> None:
    invalid = corners_missing()
    if law == "steins_identity_holds":
        with pytest.raises(LawBroken, match="element 12"):
            assert_lawful(invalid, only=[law])
        q = oracles.markov_gaussian(invalid, 0)
        assert (composed_precision(invalid, q) @ q.covariance).trace() == pytest.approx(24)
    else:
        with pytest.raises(GraphError, match="must sum to 1"):
            assert_lawful(invalid, only=[law])


def test_a_false_claim_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    lying = replace(cluster_variation([(0, 1), (1, 2), (2, 0)]), junction_tree=True)
    assert lying.validate().junction_tree is False
    graph = FactorGraph.from_scopes({"f": ("a", "b", "c"), "g": ("b", "c", "d")})
    wrong = replace(graph.regions, junction_tree=True)  # Bethe counts b and c apart
    assert wrong.validate().junction_tree is False
    honest = RegionGraph.validate
    monkeypatch.setattr(RegionGraph, "validate", lambda g: replace(honest(g), junction_tree=True))
    with pytest.raises(LawBroken, match="a junction tree, but its pieces form loops"):
        assert_lawful(lying)
    for graph in (lying, wrong):
        with pytest.raises(LawBroken, match="the composed precision at σ = 0: got"):
            assert_lawful(graph, only="promises_are_kept")


def test_ambiguous_regions_are_found() -> None:
    twice = IndexGroup(torch.tensor([[0], [1]]), np.ones(2, np.int64), ["x", "x"], np.ones(2, bool))
    with pytest.raises(LawBroken, match="two regions are named 'x'"):
        assert_lawful(RegionGraph((2,), (twice,)))
    repeated = IndexGroup(torch.tensor([[0, 0]]), np.ones(1, np.int64), ["x"], np.ones(1, bool))
    halves = RegionGraph((1,), (repeated,), denominator=2)
    with pytest.raises(LawBroken, match="region 'x' lists an element twice"):
        assert_lawful(halves)


@pytest.mark.parametrize(
    ("law", "target", "sabotage", "message"),
    [
        ("the_score_is_the_weighted_sum", "compose", lambda s: lambda u, σ: 1.001 * s(u, σ),
         "the composed score: got"),
        ("the_score_is_a_gradient", "compose", lambda s: lambda u, σ: s(u, σ) + u.roll(1, -1),
         "against autograd"),
        ("relabelling_changes_nothing", "compose", lambda s: lambda u, σ: s(u, σ) + u.cumsum(-1),
         "the score of the relabelled graph"),
        ("axes_may_be_permuted", "compose", lambda s: lambda u, σ: s(u, σ) + u.cumsum(-1),
         "the score with axes permuted"),
        ("batches_change_nothing", "compose", lambda s: lambda u, σ: s(u, σ) + len(u) * u,
         "one sample at a time"),
        ("nothing_is_mutated", "compose", lambda s: lambda u, σ: s(u.add_(1), σ),
         "whether the state is untouched"),
        ("consistent_composition_is_exact", "compose", lambda s: lambda u, σ: s(u, σ) + 1e-6 * u,
         "the consistent score at σ = 0.3: got"),
        ("only_shared_regions_couple", "composed_precision", lambda J: J + 0.1,
         "share no region, but their precision is not 0"),
    ],
)  # fmt: skip
def test_a_wrong_library_would_be_caught(
    law: str, target: str, sabotage, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tiles((6, 4), (4, 4), (2, 0))
    assert law in assert_lawful(graph, only=[law]).passed
    right = getattr(laws, target)
    monkeypatch.setattr(laws, target, lambda *a, **k: sabotage(right(*a, **k)))
    with pytest.raises(LawBroken, match=message):
        assert_lawful(graph, only=[law])


@pytest.mark.parametrize("name", [
    "chain", "star", "tree", "hidden markov", "strip", "tiles", "ring", "grid", "junction tree",
])  # fmt: skip
def test_covariances_of_other_data_would_be_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on junction trees, where messages converge to the exact score whatever they are."""
    law = "consistent_composition_is_exact"
    assert law in assert_lawful(FAMILIES[name], only=law).passed
    right = laws.node_covariances
    other = oracles.markov_gaussian(Subject(FAMILIES[name]).small, 99)
    monkeypatch.setattr(laws, "node_covariances", lambda graph, q: right(graph, other))
    with pytest.raises(LawBroken, match=r"consistent score at σ = 0\.3"):
        assert_lawful(FAMILIES[name], only=law)


def test_wrong_counting_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = laws.cluster_variation

    def pairwise_only(scopes):
        """What quimb's counts were: no intersections of intersections."""
        graph = right(scopes)
        counts = Counter(graph.counting_numbers())
        smallest = min(counts, key=len)
        counts[smallest] += 1
        regions = {n: graph.elements(n).numpy() for n in graph.names}
        return RegionGraph.from_regions(regions, counts, event_shape=graph.event_shape)

    graph = cluster_variation([(0, 1, 2), (1, 2, 3), (2, 3, 0)])
    monkeypatch.setattr(laws, "cluster_variation", pairwise_only)
    with pytest.raises(LawBroken, match="the counts of cluster variation"):
        assert_lawful(graph, only=["cluster_variation_is_inclusion_exclusion"])


def test_a_subject_may_be_networkx_and_nothing_else() -> None:
    drawn = nx.Graph()
    drawn.add_nodes_from("xy", bipartite=0)
    drawn.add_node("f", bipartite=1)
    drawn.add_edges_from([("f", "x"), ("f", "y")])
    checked = assert_lawful(drawn)
    assert "holds    counts_sum_to_one" in str(checked)
    assert "skipped  nested_nodes_may_be_kept: no node is nested" in str(checked)
    with pytest.raises(GraphError, match="got dict"):
        assert_lawful({"f": "xy"})
    with pytest.raises(GraphError, match="no law is named 'gravity'"):
        assert_lawful(drawn, only=["gravity"])


def test_a_law_and_a_seed_are_required() -> None:
    with pytest.raises(GraphError, match=r"a law to check, got only=\[\]"):
        assert_lawful(chain(3), only=[])
    with pytest.raises(PgmdiffError, match=r"a seed from 0 to .*, got -1"):
        lawful_at_random(chain(3), generator=-1)


def test_lost_conditions_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    law, right = "saving_and_loading_is_the_identity", laws.to_json
    graph = FactorGraph.from_scopes({"f": ("a", "b")}, conditions={"f": {"y": torch.ones(2)}})
    for each in (graph, graph.regions):
        assert law in assert_lawful(each, only=law).passed
    monkeypatch.setattr(laws, "to_json", lambda g: right(replace(g, conditions={})))
    for each in (graph, graph.regions):
        with pytest.raises(LawBroken, match="loaded conditions"):
            assert_lawful(each, only=law)


def test_reduction_to_atoms_keeps_counts() -> None:
    graph = tiles((64, 64), 16, 8)
    small = Subject(graph).small
    assert small.n_elements == 64
    assert sorted(small.counting_numbers().values()) == sorted(graph.counting_numbers().values())
    assert small.validate().valid
