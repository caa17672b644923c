"""The maximum-entropy completion: (K⁻¹)_r = Σ_r on every outer region, K_ij = 0 elsewhere."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pgmdiff import GraphError, fit_covariances, gaussian, graphs
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import FactorGraph, RegionGraph
from pgmdiff.precision import ComposedPrecision, Dense
from pgmdiff.precision.completing import Blocks, completed
from tests.precision.examples import linked, markov

COMPLETE = FactorGraph.from_scopes(
    {f"f{i}{j}": (f"x{i}", f"x{j}") for i in range(6) for j in range(i)},
    {f"x{i}": (i % 2 + 1,) for i in range(6)},
)
LOOPS = {
    "ring": graphs.cycle(8),
    "grid": graphs.grid(5, 5),
    "torus": graphs.torus(4, 4),
    "complete, blocks of two sizes": COMPLETE,
    "tiles": graphs.tiles((12, 12), (4, 4), (2, 2)),
    "periodic tiles": graphs.tiles((12, 12), (4, 4), (2, 2), periodic=(True, True)),
    "ring of windows": graphs.tiles((1, 16), (1, 4), (0, 2), periodic=(False, True)),
    "nested cube": graphs.nested_cubemap(2),
}


@pytest.mark.parametrize("strength", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", LOOPS)
def test_the_precision_of_a_markov_gaussian_is_found(name: str, strength: float) -> None:
    graph = LOOPS[name]
    q = markov(graph, strength, seed=1)
    found = completed(graph, Dense(gaussian.node_covariances(graph, q)))
    truth = torch.linalg.inv(q.covariance)
    torch.testing.assert_close(found.precision, truth, rtol=0, atol=1e-9 * float(truth.abs().max()))
    torch.testing.assert_close(found.covariance, q.covariance, rtol=1e-9, atol=1e-11)
    assert found.distance < 1e-12


@pytest.mark.parametrize("graph", [graphs.chain(9), graphs.tiles((1, 22), (1, 6), (0, 2))])
def test_on_junction_trees_it_is_the_composed_precision(graph: RegionGraph) -> None:
    q = markov(graph, 0.95, seed=2)
    given = Dense(gaussian.node_covariances(graph, q))
    composed = ComposedPrecision(graph.regions, given).dense()
    torch.testing.assert_close(
        completed(graph.regions, given).precision, composed, rtol=1e-9, atol=1e-9
    )


def test_whatever_the_covariances_blocks_agree_and_the_pattern_is_that_of_the_graph() -> None:
    """The two laws that define K, for a Gaussian that is not Markov to the graph."""
    graph = graphs.torus(3, 4, shape=(2,))
    root = torch.randn(24, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    q = Gaussian(torch.zeros(3, 4, 2, dtype=torch.float64).reshape(-1), root @ root.T / 40)
    blocks = gaussian.node_covariances(graph, q)
    found = completed(graph.regions, Dense(blocks))
    covariance = torch.linalg.inv(found.precision)
    for name, block in blocks.items():
        index = graph.regions.elements(name).reshape(-1)
        torch.testing.assert_close(covariance[index[:, None], index], block, rtol=0, atol=1e-9)
    assert (found.precision[~linked(graph)] == 0).all()
    assert float((torch.linalg.inv(q.covariance) * ~linked(graph)).abs().max()) > 0.1
    assert float(torch.linalg.eigvalsh(found.precision)[0]) > 0


def test_scales_of_elements_do_not_matter() -> None:
    """K(D S D) = D⁻¹ K(S) D⁻¹, for scales from 1e-6 to 1e6."""
    graph = LOOPS["grid"]
    q = markov(graph, 0.9, seed=4)
    scale = 10 ** torch.linspace(-6, 6, 25, dtype=torch.float64)
    scaled = Gaussian(q.mean, scale[:, None] * q.covariance * scale)
    first, second = (
        completed(graph.regions, Dense(gaussian.node_covariances(graph, each)))
        for each in (q, scaled)
    )
    torch.testing.assert_close(
        scale[:, None] * second.precision * scale, first.precision, rtol=1e-7, atol=1e-8
    )


def test_estimates_that_disagree_are_averaged_and_the_distance_is_reported() -> None:
    """Pairs of a ring, each estimated from its own 200 samples: their shared variances differ."""
    graph = graphs.cycle(8)
    q = markov(graph, 0.8, seed=5)
    blocks: dict[str, Tensor] = {}
    for number, name in enumerate(graph.factors):
        index = graph.regions.elements(name).reshape(-1)
        blocks[name] = torch.cov(q.sample(200, generator=number)[:, index].T)
    found = completed(graph.regions, Dense(blocks))
    assert 0.02 < found.distance < 0.5
    for number in range(8):
        holding = [
            blocks[name].diagonal()[(graph.regions.elements(name).reshape(-1) == number)]
            for name in graph.factors
            if number in graph.regions.elements(name)
        ]
        torch.testing.assert_close(
            found.covariance[number, number], torch.cat(holding).mean(), rtol=1e-12, atol=0
        )


@pytest.mark.filterwarnings("ignore:.*regions disagree so far")
def test_covariances_without_a_completion_are_refused_and_the_region_is_named() -> None:
    """A ring with correlations 0.9, 0.9, 0.9 and -0.9."""
    graph = graphs.cycle(4)
    signs = dict(zip(graph.factors, (0.9, 0.9, 0.9, -0.9), strict=True))
    blocks = {name: torch.tensor([[1.0, r], [r, 1.0]]) for name, r in signs.items()}
    with pytest.raises(GraphError, match=r"a correlation of region 'f[0-3]' is off by 0"):
        completed(graph.regions, Dense(blocks))
    windows, rng = graphs.tiles((27,), (12,), (3,), periodic=True), torch.Generator().manual_seed(0)
    factors = {
        name: torch.randn(windows.elements(name).numel(), 2, generator=rng).double()
        for name in windows.names
    }
    blocks = {name: f @ f.T + 0.01 * torch.eye(len(f)) for name, f in factors.items()}
    words = r"found in 1 sweep; a correlation of region '\[.* without shared=True\).* such as 0\.01"
    with pytest.raises(GraphError, match=words):
        completed(windows, Dense(blocks))


@pytest.mark.parametrize("kind", [graphs.chain, graphs.cycle])
def test_independent_estimates_of_strong_correlations_are_completed(kind: Any) -> None:
    """Means of entries are none: a variance of two regions, beside a covariance of one of them."""
    graph, rng = kind(8), torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(torch.tensor([[1.0, 0.99], [0.99, 1.0]]).double())
    own = {f: torch.randn(200, 2, generator=rng).double() @ root.T for f in graph.factors}
    with pytest.warns(UserWarning, match="regions disagree so far on what they share"):
        fitted = fit_covariances(graph, own)
    whole = fitted.whole
    assert (torch.linalg.eigvalsh(whole) > 0).all()
    for name, x in own.items():
        first, second = graph.regions.elements(name).tolist()
        r = (x - x.mean(0)).T @ (x - x.mean(0))
        r = r[0, 1] / (r[0, 0] * r[1, 1]) ** 0.5
        found = whole[first, second] / (whole[first, first] * whole[second, second]) ** 0.5
        assert found.item() == pytest.approx(r.item(), abs=1e-5)  # of the ridge


def test_blocks_that_no_average_makes_definite_are_refused_and_named() -> None:
    graph = graphs.FactorGraph.from_scopes({"f": [*"abc"], "g": [*"bcd"], "h": [*"bcx"]})

    eye = torch.eye(3).double()
    blocks = {name: eye + r * (1 - eye) for name, r in {"f": 0.99, "g": -0.4, "h": -0.4}.items()}
    with (
        pytest.warns(UserWarning, match="regions disagree so far"),
        pytest.raises(GraphError, match="a correlation of region 'f' is off by"),
    ):
        completed(graph.regions, Dense(blocks))


def test_the_refusal_names_the_loop_that_conflicts_and_the_ridge_that_would_do() -> None:
    """On a ring of four ± r, r, r, r fit up to r = cos(π/4): at 0.9, with a ridge of 0.27."""
    sound = [((f"x{i}", f"x{i + 1}"), 0.9) for i in range(4, 9)]
    ring = [((f"x{i}", f"x{(i + 1) % 4}"), 0.9 if i < 3 else -0.9) for i in range(4)]
    edges = [*sound, *ring, (("x3", "x4"), 0.1)]
    graph = FactorGraph.from_scopes(
        {f"f{k}": scope for k, (scope, _) in enumerate(edges)}, {f"x{i}": () for i in range(10)}
    )
    blocks = {f"f{k}": torch.tensor([[1.0, r], [r, 1.0]]) for k, (_, r) in enumerate(edges)}
    message = r"region 'f[5-8]' is off by 0\.19\d.* all variances by 0\.27 of themselves"
    with pytest.raises(GraphError, match=message):
        completed(graph.regions, Dense(blocks))
    raised = {name: block + 0.275 * torch.eye(2) for name, block in blocks.items()}
    assert completed(graph.regions, Dense(raised)).distance == 0


def test_most_noisy_estimates_of_tied_windows_on_a_ring_are_completed() -> None:
    """One estimate for all windows, from 100 states: entries that they share are averaged.

    K⁻¹ has exactly these averages; the few rings that have no completion are refused.
    """
    graph = graphs.tiles((16,), (4,), (2,), (True,))
    lag = (torch.arange(16)[:, None] - torch.arange(16)).abs()
    whole = 0.8 ** torch.minimum(lag, 16 - lag).double()
    q = Gaussian(torch.zeros(16, dtype=torch.float64), whole)
    windows = [name for name in graph.names if graph.elements(name).numel() == 4]
    found = 0
    for seed in range(40):
        estimate = torch.cov(q.sample(100, generator=seed)[:, :4].T)
        try:
            done = completed(graph, Dense(dict.fromkeys(windows, estimate)))
        except GraphError:
            continue
        found += 1
        assert 0 < done.distance < 0.4
        pairs = estimate[:2, :2], estimate[2:, 2:]
        averaged = (pairs[0] + pairs[1]) / 2
        torch.testing.assert_close(done.covariance[2:4, 2:4], averaged, rtol=1e-12, atol=1e-12)
    assert found >= 38


def test_it_is_found_where_zeros_in_place_of_unknown_entries_are_indefinite() -> None:
    """A ring of correlations 0.99, of blocks of different sizes and single variables beside it."""
    scopes = {f"f{i}": (f"x{i}", f"x{(i + 1) % 5}") for i in range(5)}
    graph = FactorGraph.from_scopes(scopes, {f"x{i}": (1 + i % 3,) for i in range(7)})
    q = markov(graph, 0.999, seed=7)
    given = Dense(gaussian.node_covariances(graph, q))
    known = q.covariance.where(linked(graph), 0)
    assert float(torch.linalg.eigvalsh(known)[0]) < -0.1
    truth = torch.linalg.inv(q.covariance)
    torch.testing.assert_close(completed(graph.regions, given).precision, truth, rtol=0, atol=1e-7)


@pytest.mark.parametrize("markov_to_rows", [True, False])
def test_windows_of_images_are_completed_by_scaling(markov_to_rows: bool) -> None:
    """Regression alone refused the first of these, and took 40 seconds for the second."""
    graph, side = graphs.tiles((24, 24), (8, 8), (4, 4)), torch.arange(24).double()
    points = torch.cartesian_prod(side, side)
    far = (points[:, None] - points).abs()
    whole = 0.95 ** (far.sum(dim=2) if markov_to_rows else far.square().sum(dim=2).sqrt())
    found = completed(graph, Blocks(whole))
    for name in graph.names:
        index = graph.elements(name).reshape(-1)
        block = index[:, None], index
        torch.testing.assert_close(found.covariance[block], whole[block], rtol=0, atol=1e-9)
    apart = torch.ones(576, 576, dtype=torch.bool)
    for name in graph.names:
        index = graph.elements(name).reshape(-1)
        apart[index[:, None], index] = False
    assert (found.precision[apart] == 0).all()
    product = found.precision @ found.covariance
    torch.testing.assert_close(product, torch.eye(576).double(), rtol=0, atol=1e-7)


def test_smooth_windows_are_completed_as_far_as_rounding_goes() -> None:
    """Their smallest variances are a millionth of the largest, and sweeps stall at about 1e-11."""
    side = torch.arange(16).double()
    apart = torch.cdist(*[torch.cartesian_prod(side, side)] * 2) / 6
    covariance = (-(apart**2) / 2).exp() + 1e-6 * torch.eye(256).double()
    q = Gaussian(torch.zeros(1, 16, 16).double(), covariance)
    graph = graphs.tiles((1, 16, 16), (1, 8, 8), (0, 4, 4))
    given = Dense(gaussian.node_covariances(graph, q))
    found = Blocks(completed(graph, given).covariance)
    for group in graph.groups:
        torch.testing.assert_close(found.of(group), given.of(group), rtol=0, atol=1e-7)
