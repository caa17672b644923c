"""Block Cholesky factors along trees: exact on every one, and cheap where windows are alike."""

import math
import pickle
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pgmdiff import GraphError, Posterior, compose
from pgmdiff.gaussian import node_covariances, node_scores
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    star,
    tiles,
    tree,
)
from pgmdiff.precision import (
    BlockTree,
    ComposedPrecision,
    ConjugateGradients,
    Covariances,
    Dense,
    SparseFactors,
    Stationary,
    solver_of,
)
from pgmdiff.precision.solves import base, blocks
from pgmdiff.precision.solves.blocks import nodes_of, stages
from pgmdiff.testing import markov_gaussian
from pgmdiff.testing.strategies import acyclic_hypergraphs, trees
from tests.helpers import ar1, relative
from tests.precision.examples import SIGMA, low_rank, markov, ring, states
from tests.precision.test_solves import check_solve


class Field(Covariances):
    """Exponential covariances of places in a plane, the same in all windows."""

    def of(self, group):
        place = torch.from_numpy(np.indices(group.shape[-2:]).reshape(2, -1).T).double()
        return torch.exp(-torch.cdist(place, place) / 3)[None]


class Exchangeable(Covariances):
    """Of all pairs of elements the same."""

    def of(self, group):
        n = int(np.prod(group.shape))
        return (torch.eye(n) + torch.ones(n, n)).double()[None] / 2


@pytest.fixture(autouse=True)
def without_a_dense_end() -> Iterator[None]:
    """Nodes are eliminated to the last one."""
    with patch.object(blocks, "DENSE", 1):
        yield


def block_tree(graph: RegionGraph | FactorGraph, covariances: Covariances) -> BlockTree:
    precision = ComposedPrecision(graph.regions, covariances)
    nodes = nodes_of(precision)
    assert nodes is not None
    return BlockTree(precision, nodes)


def comb(n: int) -> FactorGraph:
    """A chain with a leaf at every variable."""
    scopes = {f"t{i}": (f"x{i}", f"x{i + 1}") for i in range(n - 1)}
    return FactorGraph.from_scopes(scopes | {f"o{i}": (f"x{i}", f"y{i}") for i in range(n)})


@pytest.mark.parametrize(
    "graph",
    [
        *(chain(n) for n in (2, 3, 4, 7, 16, 33)),
        *(tiles((n,), w, o) for n, w, o in ((56, 20, 8), (60, 9, 6), (40, 8, 7), (12, 12, 0))),
        tiles((43,), 10, 5, remainder="shift"),
        tiles((2, 3, 16), (2, 3, 4), (0, 0, 2)),
        tiles((12,), 4, 0),
        comb(9),
        star(9),
        tree(2, 4),
        tree(3, 3, (2,)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dense", [1, 12])
def test_blocks_are_exact_where_every_region_differs(
    graph: RegionGraph | FactorGraph, dense: int
) -> None:
    q = markov(graph, 0.9, seed=graph.n_elements)
    with patch.object(blocks, "DENSE", dense):
        solve = block_tree(graph, Dense(node_covariances(graph, q)))
    check_solve(solve, torch.linalg.inv(q.covariance))


def agree_with_dense_algebra(graph: FactorGraph | RegionGraph, dense: int, seed: int) -> None:
    assume(graph.n_elements)
    q = markov_gaussian(graph, seed)
    precision = ComposedPrecision(graph.regions, Dense(node_covariances(graph, q)))
    nodes = nodes_of(precision)
    assume(nodes is not None)
    with patch.object(blocks, "DENSE", dense):
        check_solve(BlockTree(precision, nodes), precision.dense(), 1e-10)


@given(trees(), st.sampled_from([1, 4, 128]), st.integers(0, 99))
def test_any_tree_is_solved_exactly(graph: FactorGraph, dense: int, seed: int) -> None:
    agree_with_dense_algebra(graph, dense, seed)


@given(acyclic_hypergraphs(), st.sampled_from([1, 3, 128]), st.integers(0, 99))
def test_any_junction_tree_is_solved_exactly(
    scopes: list[list[str]], dense: int, seed: int
) -> None:
    agree_with_dense_algebra(cluster_variation(scopes), dense, seed)


@given(st.lists(st.floats(0, 1, exclude_max=True), max_size=60), st.integers(1, 5))
def test_stages_eliminate_every_node_once_and_never_neighbours(
    draws: list[float], few: int
) -> None:
    """Parents are drawn among the nodes before; -1 makes one more root."""
    parent = np.array([-1, *(int(u * (i + 2)) - 1 for i, u in enumerate(draws))])
    m, kinds = len(parent), np.zeros(len(parent), dtype=np.int64)
    order, found, rest = stages(parent, kinds, kinds, few)
    assert sorted(order) == list(range(m))
    assert sum(len(stage.which) for stage in found) + len(rest.own) == m
    start = 0
    for stage in found:
        some = set(order[start : start + len(stage.which)])
        assert not some & {parent[i] for i in some}
        assert 4 * len(some) >= m - start
        start += len(some)


def test_a_deep_tree_has_few_stages() -> None:
    """A path with a path at every 100th node, each 100 long."""
    parent = np.arange(20_000) - 1
    parent[10_000::100] = np.arange(0, 10_000, 100)
    kinds = np.arange(20_000)
    _, found, _ = stages(parent, kinds, kinds, 1)
    assert len(found) < 2 * math.log2(20_000)
    assert {len(stage.own) == len(stage.which) for stage in found} == {True}


def test_equal_leaves_are_eliminated_once_for_all() -> None:
    solve = block_tree(star(50), Exchangeable())
    assert [len(stage.which) for stage in solve.stages] == [49, 1]  # the root is a leaf
    assert [len(stage.own) for stage in solve.stages] == [1, 1]
    assert solve.stages[0].often.tolist() == [49]
    check_solve(solve, ComposedPrecision(star(50).regions, Exchangeable()).dense())


@pytest.mark.parametrize("rho", [0.01, 0.6, 0.999])
@pytest.mark.parametrize("m", [*range(3, 12), 40])
def test_blocks_are_exact_where_windows_share_their_covariances(m: int, rho: float) -> None:
    graph = tiles((4 * m + 4,), 8, 4)
    solve = block_tree(graph, ring((8,), rho))
    check_solve(solve, torch.linalg.inv(ar1(4 * m + 4, rho).covariance))
    assert len(solve.diagonals) <= 3
    assert all(len(stage.own) <= 2 for stage in solve.stages)


def test_a_ring_without_a_period_is_folded_into_a_chain() -> None:
    graph = tiles((43,), 8, 4, periodic=True, remainder="shift")
    precision = ComposedPrecision(graph, ring((43,), 0.6))
    solve = block_tree(graph, precision.covariances)
    assert solve.m < 8
    check_solve(solve, precision.dense())


def test_derivatives_in_sigma_are_those_of_dense_algebra() -> None:
    graph = tiles((40,), 8, 4)
    solve, dense = block_tree(graph, ring((8,), 0.8)), torch.linalg.inv(ar1(40, 0.8).covariance)
    b, eye = states(40), torch.eye(40, dtype=torch.float64)
    found, expected = (SIGMA + 0.1).requires_grad_(), (SIGMA + 0.1).requires_grad_()
    one = (solve(b, found) ** 2).sum(dim=1)
    systems = eye + expected[:, None, None] ** 2 * dense
    other = (torch.linalg.solve(systems, b) ** 2).sum(dim=1)
    for each, sigma in ((one, found), (other, expected)):
        each.sum().backward()
        assert sigma.grad is not None
    assert relative(found.grad, expected.grad) < 1e-9


def test_no_strip_is_too_long() -> None:
    """300 windows of 16 × 16 have more entries than a sparse factorisation was allowed."""
    graph = tiles((1, 16, 8 * 300 + 8), (1, 16, 16), (0, 0, 8))
    precision = ComposedPrecision(graph, Field())
    solve = solver_of(precision)
    assert isinstance(solve, BlockTree)
    b, product = states(graph.n_elements, batch=2), ConjugateGradients(precision).product
    for sigma in (0.1, 1.0, 80.0):
        x = solve(b, torch.full((2,), sigma, dtype=torch.float64))
        assert relative(x + sigma**2 * product(x), b) < 1e-9
    for factors in solve._kept.values():  # whatever the length
        assert len(factors.ups) < 8
        assert all(len(table) <= 3 for table in factors.inverses)


def around(graph: FactorGraph) -> RegionGraph:
    """A graph with one more variable in all scopes: separators lie within separators."""
    return cluster_variation([("hub", *scope) for scope in graph.scopes.values()])


@pytest.mark.parametrize(
    "graph", [tiles((24, 24), 8, 4), around(tree(2, 4)), around(chain(12))], ids=repr
)
def test_what_is_no_tree_of_nodes_is_left_to_other_solves(graph: RegionGraph) -> None:
    assert nodes_of(ComposedPrecision(graph, Exchangeable())) is None


def test_solves_of_large_junction_trees() -> None:
    large = tree(2, 9)
    assert isinstance(solver_of(ComposedPrecision(large.regions, Exchangeable())), BlockTree)
    precision = ComposedPrecision(around(chain(800)), Exchangeable())
    solve, b = solver_of(precision), states(801)
    assert isinstance(solve, SparseFactors)
    assert (
        relative(
            solve(b, torch.ones(4).double()),
            torch.linalg.solve(torch.eye(801) + precision.dense(), b.T).T,
        )
        < 1e-10
    )


def test_indefinite_precisions_are_found() -> None:
    graph = tiles((2000,), 8, 4)
    gamma = torch.full((1, 1, 15), 0.9, dtype=torch.float64)
    gamma[0, 0, 7] = 1.0
    assert isinstance(solver_of(ComposedPrecision(graph, Stationary(gamma, (0,)))), BlockTree)

    class Disagreeing(Covariances):
        def of(self, group):
            return ar1(group.shape[0], 0.9 if group.shape[0] > 4 else 0.1).covariance[None]

    class Narrow(Covariances):
        """Of single variables, of which branches count several less."""

        def of(self, group):
            return ar1(2, 0.9).covariance[None] if group.shape == (2,) else torch.eye(1)[None] / 20

    for other, covariances in ((graph, Disagreeing()), (tree(2, 5), Narrow())):
        for dense in (1, 128):
            with (
                patch.object(blocks, "DENSE", dense),
                pytest.raises(GraphError, match="P is not positive definite"),
            ):
                block_tree(other, covariances)


def test_factors_of_a_schedule_are_made_once_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tiles((1000,), 8, 4)
    score = lambda x, sigma: -x / (1 + sigma[:, None] ** 2)  # noqa: E731
    joint = compose(graph, score, rule=Posterior(ring((8,), 0.8)))
    solve, u = joint.solve, states(1000, batch=2)
    assert isinstance(solve, BlockTree)
    made, factored = [], solve._factored
    monkeypatch.setattr(solve, "_factored", lambda *on: (made.append(1), factored(*on))[1])
    for _ in range(2):
        for level in range(40):
            joint(u, 0.1 * 1.1**level)
    assert len(made) == 40
    joint(u, torch.tensor([0.3, 0.4], dtype=torch.float64))
    for level in range(80):
        joint(u, 1.0 + level)
    assert len(solve._kept) == base.KEPT_LEVELS
    monkeypatch.setattr(base, "KEPT_BYTES", 1)
    joint(u, 0.05)
    assert len(solve._kept) == 1


def test_the_posterior_is_exact_after_inference_mode_and_a_round_trip() -> None:
    graph, q = tiles((804,), 8, 4), ar1(804, 0.9)
    joint = compose(graph, node_scores(graph, q), rule=Posterior(node_covariances(graph, q)))
    assert isinstance(joint.solve, BlockTree)
    u = states(804)
    with torch.inference_mode():
        joint(u, 0.7)
    leaf = u.clone().requires_grad_()
    assert relative(joint(leaf, 0.7).detach(), q.score(u, 0.7)) < 1e-9
    joint(leaf, 0.7).sum().backward()
    again = pickle.loads(pickle.dumps(joint.solve))
    b = states(804, 1)
    assert torch.equal(again(b, SIGMA), joint.solve(b, SIGMA))
    assert again(b[:0], SIGMA[:0]).shape == (0, 804)


def test_low_rank_regions_of_several_kinds_make_dense_blocks() -> None:
    graph = tiles((56,), 20, 8)
    provider, _ = low_rank(graph, 4, 0.3)
    check_solve(block_tree(graph, provider), ComposedPrecision(graph, provider).dense())
