"""The completion of large graphs by neighbourhoods, against the dense one."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import GraphError, gaussian, graphs
from pgmdiff.graphs import FactorGraph, RegionGraph
from pgmdiff.precision import Circulant, Covariances, Dense, Stationary, completed, nearby
from pgmdiff.precision import neighbourhoods as module
from tests.helpers import relative
from tests.precision.examples import markov


def units(graph: FactorGraph, correlations: Mapping[str, float]) -> tuple[RegionGraph, Covariances]:
    """Pairs of unit variances."""
    blocks = {name: torch.tensor([[1.0, r], [r, 1.0]]) for name, r in correlations.items()}
    return graph.regions, Dense(blocks | dict.fromkeys(graph.variables, torch.ones(1, 1)))


def network(n: int, degree: float, seed: int) -> tuple[RegionGraph, Covariances]:
    """Random pairs with correlations of ±0.3 to ±0.45."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, n, (int(n * degree / 2), 2))
    kept = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    lone = np.setdiff1d(np.arange(n), kept)
    kept = np.concatenate([kept, np.stack([lone, (lone + 1) % n], axis=1)])
    graph = FactorGraph.from_scopes(
        {f"f{k}": (f"x{i}", f"x{j}") for k, (i, j) in enumerate(kept)},
        {f"x{i}": () for i in range(n)},
    )
    found = rng.uniform(0.3, 0.45, len(kept)) * rng.choice([-1, 1], len(kept))
    return units(graph, {f"f{k}": r for k, r in enumerate(found)})


def smooth(longest: int, length: float) -> Stationary:
    """exp(-distance / length) on windows of the plane."""
    lags = torch.arange(1.0 - longest, longest, dtype=torch.float64)
    return Stationary(torch.exp(-torch.hypot(lags[:, None], lags) / length)[None, None], (0, 1))


def pairs(side: int) -> tuple[RegionGraph, Covariances]:
    graph = graphs.grid(side, side)
    return units(graph, dict.fromkeys(graph.factors, 0.45))


LARGE = {
    "pairs": pairs(12),
    "tiles": (graphs.tiles((12, 12), (2, 2), (1, 1)), smooth(2, 1.5)),
    "wide tiles": (graphs.tiles((14, 14), (4, 4), (2, 2)), smooth(4, 3.0)),
    "network": network(200, 2.6, seed=1),
    "torus": (graphs.tiles((12, 12), (2, 2), (1, 1), periodic=(True, True)), smooth(2, 0.7)),
}


@pytest.mark.parametrize("name", LARGE)
def test_it_approaches_the_completion_of_the_whole_with_every_hop(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, given = LARGE[name]
    whole = completed(graph, given)
    errors, residuals = [], []
    for hops in (1, 2, 3):
        monkeypatch.setattr(module, "HOPS", hops)
        found = nearby(graph, given)
        assert found.hops == hops
        k = found.precision.dense()
        assert torch.equal(k == 0, k.T == 0)
        torch.testing.assert_close(k, k.T, rtol=0, atol=1e-12)
        errors.append(float((k - whole.precision).norm() / whole.precision.norm()))
        gap = torch.linalg.inv(k) - whole.covariance
        residuals.append(
            max(
                float(gap[index[:, :, None], index[:, None]].abs().max())
                for _, index in module.outer_regions(graph)
            )
        )
        assert 0.1 * residuals[-1] < found.residual <= 1.01 * residuals[-1] + 1e-9
    assert errors[0] < 0.06
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]
    assert residuals[2] < 0.005


@pytest.mark.parametrize("name", ["pairs", "tiles", "network", "torus"])
def test_where_patches_are_the_whole_graph_so_is_the_completion(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, given = {
        "pairs": pairs(5),
        "tiles": (graphs.tiles((7, 7), (3, 3), (1, 1)), smooth(3, 2.0)),
        "network": network(40, 3.0, seed=2),
        "torus": (graphs.tiles((6, 6), (2, 2), (1, 1), periodic=(True, True)), smooth(2, 1.0)),
    }[name]
    monkeypatch.setattr(module, "HOPS", 30)
    found, whole = nearby(graph, given), completed(graph, given)
    scale = float(whole.precision.abs().max())
    torch.testing.assert_close(found.precision.dense(), whole.precision, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", ["tree", "blocks of several elements"])
def test_it_is_exact_on_trees_whatever_the_hops(name: str, monkeypatch) -> None:
    graph = graphs.chain(30) if name == "tree" else graphs.chain(12, shape=(2,))
    monkeypatch.setattr(module, "HOPS", 1)
    q = markov(graph, 0.9, seed=3)
    given = Dense(gaussian.node_covariances(graph, q))
    found = nearby(graph.regions, given).precision.dense()
    truth = torch.linalg.inv(q.covariance)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-9 * float(truth.abs().max()))


def test_scales_of_elements_do_not_matter_and_estimates_are_averaged() -> None:
    graph, given = network(40, 3.0, seed=4)
    scales = torch.logspace(-4, 4, 40, dtype=torch.float64)

    class Scaled(Covariances):
        def __init__(self, noise: float) -> None:
            self.noise = noise

        def of(self, group) -> Tensor:
            index = group.flat()
            own = scales[index]
            matrices = given.of(group) if index.shape[1] == 2 else torch.ones(len(index), 1, 1)
            rng = torch.Generator().manual_seed(0)
            more = 1 + self.noise * torch.rand(len(index), 1, 1, generator=rng).double()
            return matrices.double() * more * own[:, :, None] * own[:, None]

    plain, scaled = nearby(graph, given), nearby(graph, Scaled(0.0))
    expected = plain.precision.dense() / scales / scales[:, None]
    both = scales * scales[:, None]
    found = scaled.precision.dense() * both
    torch.testing.assert_close(found, expected * both, rtol=1e-6, atol=1e-6)
    assert scaled.distance < 1e-9
    apart = nearby(graph, Scaled(0.2))
    whole = completed(graph, Scaled(0.2))
    assert apart.distance == pytest.approx(whole.distance)
    assert apart.distance > 0.01


def test_equal_patches_are_completed_once_and_periodic_ones_share_their_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HOPS", 1)
    few = nearby(graphs.tiles((20, 20), (2, 2), (1, 1)), smooth(2, 1.5))
    many = nearby(graphs.tiles((30, 30), (2, 2), (1, 1)), smooth(2, 1.5))
    assert few.patches == many.patches == 25  # by the distances from the borders
    around = graphs.tiles((30, 30), (2, 2), (1, 1), periodic=(True, True))
    found = nearby(around, smooth(2, 1.5))
    assert [len(block.precisions.dense()) for block in found.precision.blocks] == [1]
    assert isinstance(found.solve, Circulant)


def test_a_short_ring_that_conflicts_is_refused_and_named_and_a_long_one_is_a_tree() -> None:
    def ring(n: int, more: int) -> tuple[RegionGraph, Covariances]:
        """A ring of n pairs, one of them of another sign, and a chain."""
        scopes = [(f"x{i}", f"x{(i + 1) % n}") for i in range(n)]
        scopes += [(f"x{i}", f"x{i + 1}") for i in range(n, n + more - 1)]
        signs = [-0.9] + [0.9] * (len(scopes) - 1)
        graph = FactorGraph.from_scopes(
            {f"f{k}": scope for k, scope in enumerate(scopes)},
            {f"x{i}": () for i in range(n + more)},
        )
        return units(graph, {f"f{k}": r for k, r in enumerate(signs)})

    with pytest.raises(GraphError, match=r"a correlation of region 'f[0-3]' is off by"):
        nearby(*ring(4, 60))
    graph, given = ring(300, 2)
    found = nearby(graph, given)
    assert found.residual < 1e-6
    truth = completed(graph, given).precision
    torch.testing.assert_close(found.precision.dense(), truth, rtol=1e-6, atol=1e-6)


def test_wide_windows_have_none_which_one_of_them_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module, "_Pattern")
    assert nearby(graphs.tiles((40, 40), (16, 16), (8, 8)), smooth(16, 4.0)) is None


def test_a_long_completion_shows_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []

    class Bar:
        def __init__(self, *, total: int, **options: object) -> None:
            self.left, self.closed = total, False
            bars.append(self)

        def update(self, n: int) -> None:
            self.left -= n

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr(module, "tqdm", Bar)
    nearby(*pairs(6))
    assert bars
    assert all(bar.closed and bar.left == 0 for bar in bars)


def test_patches_that_differ_have_fewer_hops_where_they_would_take_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Equal ones are completed once, and keep theirs."""
    graph, rng = graphs.grid(14, 14), np.random.default_rng(0)
    monkeypatch.setattr(module, "HOPS", 3)
    monkeypatch.setattr(module, "WORK", 1e7)
    hops = []
    for spread in (0.0, 0.1):
        given = {name: 0.2 + spread * rng.random() for name in graph.factors}
        found = nearby(*units(graph, given))
        assert found is not None
        hops.append(found.hops)
    assert hops == [3, 2]


@pytest.mark.filterwarnings("ignore:.*regions disagree so far")
def test_estimates_from_few_states_that_have_no_completion_are_refused_and_named() -> None:
    """Averages of shared entries need not be definite, and scaling of them diverges."""
    graph, states = graphs.tiles((12, 12), (2, 2), (1, 1)), torch.Generator().manual_seed(0)
    blocks = {}
    for name in graph.names:
        size = graph.elements(name).numel()
        x = torch.randn(size, 6, generator=states) + torch.randn(6, generator=states)
        blocks[name] = x @ x.T / 6 + 0.2 * torch.eye(size)
    with pytest.raises(GraphError, match=r"sweeps; a correlation of region '\[.* is off by"):
        nearby(graph, Dense(blocks))


def test_independent_estimates_of_strong_correlations_are_completed_as_the_dense_ones() -> None:
    """Variances and correlations are averaged apart, as `completed` does."""
    graph, rng = graphs.cycle(200), torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(torch.tensor([[1.0, 0.95], [0.95, 1.0]]).double())
    own = {f: (torch.randn(60, 2, generator=rng).double() @ root.T).T for f in graph.factors}
    blocks = Dense({name: x @ x.T / 60 for name, x in own.items()})
    with pytest.warns(UserWarning, match="regions disagree so far on what they share"):
        found = nearby(graph.regions, blocks)
    with pytest.warns(UserWarning, match="regions disagree so far on what they share"):
        dense = completed(graph.regions, blocks).precision
    assert found is not None
    assert relative(found.precision.dense(), dense) < 1e-4
