"""Block Cholesky factors along chains: exact on every path, and cheap where windows are alike."""

import pickle

import numpy as np
import pytest
import torch

from pgmdiff import GraphError, Posterior, compose
from pgmdiff.gaussian import node_covariances, node_scores
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, star, tiles, tree
from pgmdiff.precision import (
    BlockChain,
    ComposedPrecision,
    ConjugateGradients,
    Covariances,
    Dense,
    SparseFactors,
    Stationary,
    solver_of,
)
from pgmdiff.precision.solves import base
from pgmdiff.precision.solves.blocks import layers
from tests.helpers import ar1, relative
from tests.precision.examples import SIGMA, low_rank, markov, ring, states
from tests.precision.test_solves import check_solve


class Field(Covariances):
    """Exponential covariances of places in a plane, the same in all windows."""

    def of(self, group):
        place = torch.from_numpy(np.indices(group.shape[-2:]).reshape(2, -1).T).double()
        return torch.exp(-torch.cdist(place, place) / 3)[None]


def block_chain(graph: RegionGraph | FactorGraph, covariances: Covariances) -> BlockChain:
    precision = ComposedPrecision(graph.regions, covariances)
    layer = layers(precision)
    assert layer is not None
    return BlockChain(precision, layer)


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
        comb(9),
    ],
    ids=repr,
)
def test_blocks_are_exact_where_every_region_differs(graph: RegionGraph | FactorGraph) -> None:
    q = markov(graph, 0.9, seed=graph.n_elements)
    solve = block_chain(graph, Dense(node_covariances(graph, q)))
    check_solve(solve, torch.linalg.inv(q.covariance))


@pytest.mark.parametrize("rho", [0.01, 0.6, 0.999])
@pytest.mark.parametrize("m", [*range(3, 12), 40])
def test_blocks_are_exact_where_windows_share_their_covariances(m: int, rho: float) -> None:
    graph = tiles((4 * m + 4,), 8, 4)
    solve = block_chain(graph, ring((8,), rho))
    check_solve(solve, torch.linalg.inv(ar1(4 * m + 4, rho).covariance))
    assert len(solve.diagonals) <= 3
    assert all(len(stage.kinds) <= 2 for stage in solve.stages)


def test_a_ring_without_a_period_is_folded_into_a_chain() -> None:
    graph = tiles((43,), 8, 4, periodic=True, remainder="shift")
    precision = ComposedPrecision(graph, ring((43,), 0.6))
    solve = block_chain(graph, precision.covariances)
    assert solve.m < 8
    check_solve(solve, precision.dense())


def test_derivatives_in_sigma_are_those_of_dense_algebra() -> None:
    graph = tiles((40,), 8, 4)
    solve, dense = block_chain(graph, ring((8,), 0.8)), torch.linalg.inv(ar1(40, 0.8).covariance)
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
    assert isinstance(solve, BlockChain)
    b, product = states(graph.n_elements, batch=2), ConjugateGradients(precision).product
    for sigma in (0.1, 1.0, 80.0):
        x = solve(b, torch.full((2,), sigma, dtype=torch.float64))
        assert relative(x + sigma**2 * product(x), b) < 1e-9
    for factors in solve._kept.values():  # whatever the length
        assert len(factors.inverses) < 8
        assert all(len(table) <= 3 for table in factors.inverses)


@pytest.mark.parametrize(
    "graph",
    [star(9), tree(2, 4), tiles((24, 24), 8, 4), tiles((12,), 4, 0)],
    ids=["star", "tree", "plane", "apart"],
)
def test_what_is_no_path_is_left_to_other_solves(graph: RegionGraph | FactorGraph) -> None:
    q = markov(graph, 0.5, seed=0)
    assert layers(ComposedPrecision(graph.regions, Dense(node_covariances(graph, q)))) is None


def test_trees_with_branches_have_sparse_factors() -> None:
    graph = tree(2, 9)
    pair = torch.tensor([[1.0, 0.7], [0.7, 1.0]]).double()
    given = dict.fromkeys(graph.factors, pair) | dict.fromkeys(graph.variables, torch.eye(1))
    joint = compose(graph, lambda x, s: -x, rule=Posterior(given))
    assert isinstance(joint.solve, SparseFactors)


def test_indefinite_precisions_are_found() -> None:
    graph = tiles((2000,), 8, 4)
    gamma = torch.full((1, 1, 15), 0.9, dtype=torch.float64)
    gamma[0, 0, 7] = 1.0
    assert isinstance(solver_of(ComposedPrecision(graph, Stationary(gamma, (0,)))), BlockChain)

    class Disagreeing(Covariances):
        def of(self, group):
            return ar1(group.shape[0], 0.9 if group.shape[0] > 4 else 0.1).covariance[None]

    precision = ComposedPrecision(graph, Disagreeing())
    with pytest.raises(GraphError, match="P is not positive definite"):
        BlockChain(precision, layers(precision))


def test_factors_of_a_schedule_are_made_once_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tiles((1000,), 8, 4)
    score = lambda x, sigma: -x / (1 + sigma[:, None] ** 2)  # noqa: E731
    joint = compose(graph, score, rule=Posterior(ring((8,), 0.8)))
    solve, u = joint.solve, states(1000, batch=2)
    assert isinstance(solve, BlockChain)
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
    assert isinstance(joint.solve, BlockChain)
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
    check_solve(block_chain(graph, provider), ComposedPrecision(graph, provider).dense())
