"""Feynman-Kac weights: their laws on Gaussians, and where they collapse."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from pgmdiff import Average, PgmdiffError, ScoreError, ShapeError, compose
from pgmdiff.composition import FeynmanKac, Joint
from pgmdiff.gaussian import Gaussian, composed_precision, node_scores
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, cycle, tiles
from pgmdiff.graphs.atoms import connected_elements
from pgmdiff.samplers import Particles, effective_sample_size, karras, sample_weighted
from pgmdiff.samplers.smc import systematic
from pgmdiff.testing.strategies import factor_graphs
from tests.helpers import ar1


def weighted_covariance(x: Tensor, log_weights: Tensor) -> Tensor:
    return (x * log_weights.exp()[:, None]).T @ x


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_the_mean_rate_is_zero_under_the_target(sigma: float) -> None:
    """On a junction tree: in closed form, E[Σ s_i²] = tr J = Σ_r c_r tr(J_r Σ^J_r J_r)."""
    q, graph = ar1(6, 0.9), chain(6)
    joint = compose(graph, node_scores(graph, q))
    target = torch.linalg.inv(composed_precision(graph, q, sigma))
    values, vectors = torch.linalg.eigh((target + target.T) / 2)
    columns = (vectors * values.sqrt()).T  # Σ_k l_k l_kᵀ is the covariance
    score, rate = FeynmanKac(joint)(columns, sigma)
    torch.testing.assert_close(score, joint(columns, sigma))
    assert rate.sum().abs() < 1e-9 * rate.abs().sum()  # the mean of a quadratic form
    assert rate.abs().max() > 1e-5
    eye = torch.eye(6, dtype=torch.float64)
    precision = composed_precision(graph, q, sigma)
    squares = torch.zeros(6, 6, dtype=torch.float64)
    for name, count in graph.counting_numbers().items():
        if count:
            index = graph.regions.elements(name).reshape(-1)
            block = q.covariance[index][:, index] + sigma**2 * eye[: len(index), : len(index)]
            inverse = torch.linalg.inv(block)
            squares[index[:, None], index] += count * inverse @ inverse
    assert ((precision @ precision - squares) @ target).trace().abs() < 1e-9 * precision.trace()


def test_weighted_particles_follow_the_path_unweighted_ones_do_not() -> None:
    q, graph, n = ar1(4, 0.9), chain(4), 1000
    joint = compose(graph, node_scores(graph, q))
    sigmas = karras(80, 0.05, 30.0)[:-1]
    kept = sample_weighted(FeynmanKac(joint), sigmas, shape=(n, 4), threshold=0.0, generator=0)
    assert kept.n_resampled == 0
    share = kept.effective[-1] / n
    assert 0.05 < share < 1
    target = torch.linalg.inv(composed_precision(graph, q, sigmas[-1]))
    found = weighted_covariance(kept.x, kept.log_weights)
    tolerance = 4 * (2 / (share * n)) ** 0.5
    assert (found - target).abs().max() < tolerance
    assert (kept.x.T @ kept.x / n - target).abs().max() > tolerance
    resampled = sample_weighted(FeynmanKac(joint), sigmas, shape=(n, 4), threshold=0.8, generator=0)
    assert resampled.n_resampled >= 1
    found = weighted_covariance(resampled.x, resampled.log_weights)
    assert (found - target).abs().max() < tolerance


def test_weights_collapse_with_size() -> None:
    shares = []
    for n in (3, 6, 12):
        q, graph = ar1(n, 0.9), chain(n)
        joint = compose(graph, node_scores(graph, q))
        sigmas = karras(60, 0.05, 30.0)[:-1]
        out = sample_weighted(FeynmanKac(joint), sigmas, shape=(500, n), threshold=0.0, generator=0)
        shares.append(out.effective[-1] / 500)
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < 0.15


def copies(n_copies: int) -> tuple[Joint, RegionGraph]:
    """Independent chains of 3 variables of correlation 0.9 in one state, and their graph."""
    one, regions, counts = chain(3).regions, {}, {}
    for copy in range(n_copies):
        for name, count in one.counting_numbers().items():
            regions[copy, name] = one.elements(name).reshape(-1).numpy() + 3 * copy
            counts[copy, name] = count
    graph = RegionGraph.from_regions(regions, counts, event_shape=(3 * n_copies,))
    covariance = torch.block_diag(*[ar1(3, 0.9).covariance] * n_copies)
    q = Gaussian(torch.zeros(3 * n_copies, dtype=torch.float64), covariance)
    return compose(graph, node_scores(graph, q)), graph


SIGMAS = karras(41, 0.05, 30.0)[:-1]


def test_copies_in_one_graph_are_sampled_as_each_alone() -> None:
    """The first copy reads the noise that it reads alone: equal to the last digit."""
    n = 400
    both = sample_weighted(
        FeynmanKac(copies(2)[0]), SIGMAS, shape=(n, 6), threshold=0.9, generator=4
    )
    alone = sample_weighted(
        FeynmanKac(copies(1)[0]), SIGMAS, shape=(n, 3), threshold=0.9, generator=4
    )
    assert both.components.tolist() == [0, 0, 0, 1, 1, 1]
    assert alone.n_resampled >= 1
    assert both.n_resampled >= 2
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(both.x[:, :3], alone.x, **close)
    torch.testing.assert_close(both.component_log_weights[:, 0], alone.log_weights, **close)
    assert both.component_effective[:, 0].tolist() == pytest.approx(list(alone.effective))
    target = torch.linalg.inv(composed_precision(chain(3), ar1(3, 0.9), SIGMAS[-1]))
    for copy, log_weights in enumerate(both.component_log_weights.T):
        found = weighted_covariance(both.x[:, 3 * copy : 3 * copy + 3], log_weights)
        tolerance = 4 * (2 / (0.4 * n)) ** 0.5
        assert effective_sample_size(log_weights) > 0.4 * n
        assert (found - target).abs().max() < tolerance


def test_only_whole_states_degenerate_with_the_number_of_components() -> None:
    n, of_components, of_states = 300, [], []
    for n_copies in (1, 4, 8):
        joint, _ = copies(n_copies)
        out = sample_weighted(
            FeynmanKac(joint), SIGMAS, shape=(n, 3 * n_copies), threshold=0.0, generator=0
        )
        of_components.append(out.component_effective[-1].mean().item() / n)
        of_states.append(out.effective[-1] / n)
        assert out.effective[-1] == pytest.approx(effective_sample_size(out.log_weights))
    assert of_components[0] == pytest.approx(of_states[0])
    assert min(of_components) > 0.8 * of_components[0] > 0.25
    assert of_states[1] < 0.6 * of_states[0]
    assert of_states[2] < 0.2 * of_states[0]


def test_weighted_and_resampled_states() -> None:
    """Element weights serve functions of one component; resampled states serve all."""
    n = 500
    out = sample_weighted(
        FeynmanKac(copies(2)[0]), SIGMAS, shape=(n, 6), threshold=0.0, generator=2
    )
    assert out.weights.shape == (n, 6)
    torch.testing.assert_close(out.weights.sum(dim=0), torch.ones(6).double())
    second = out.x[:, 3:]
    by_element = (out.weights[:, 3:] * second**2).sum(dim=0)
    by_component = weighted_covariance(second, out.component_log_weights[:, 1]).diagonal()
    torch.testing.assert_close(by_element, by_component)
    whole = out.resampled(generator=3)
    assert whole.shape == (n, 6)
    assert {tuple(row) for row in whole[:, 3:].tolist()} <= {tuple(r) for r in second.tolist()}
    spread = (2 / n) ** 0.5
    torch.testing.assert_close((whole[:, 3:] ** 2).mean(dim=0), by_element, rtol=0, atol=spread)
    correlation = torch.corrcoef(whole.T)
    assert correlation[:3, 3:].abs().max() < 4 / (0.4 * n) ** 0.5
    assert correlation.diagonal(1)[torch.tensor([0, 1, 3, 4])].min() > 0.85
    assert torch.equal(whole, out.resampled(generator=3))


@dataclass(frozen=True)
class Apart:
    """A potential that pretends that parts of a connected graph are components."""

    joint: Joint
    components: Tensor

    def __call__(self, u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return FeynmanKac(self.joint)(u, sigma)

    def by_component(self, u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        score, rates = FeynmanKac(self.joint).by_element(u, sigma)
        parts = [rates[:, self.components == c].sum(dim=1) for c in range(2)]
        return score, torch.stack(parts, dim=1)


def test_resampling_parts_of_a_connected_graph_breaks_the_seam() -> None:
    """The limit of resampling apart: correlation 0.9 everywhere, lost between the two halves."""
    graph, q = chain(6), ar1(6, 0.9)
    joint = compose(graph, node_scores(graph, q))
    halves = Apart(joint, torch.tensor([0, 0, 0, 1, 1, 1]))
    for potential, seam in ((FeynmanKac(joint), 0.9), (halves, 0.0)):
        out = sample_weighted(potential, SIGMAS, shape=(500, 6), threshold=0.5, generator=0)
        assert out.n_resampled >= 1
        lag = torch.corrcoef(out.resampled(generator=0).T).diagonal(1)
        assert lag[2].item() == pytest.approx(seam, abs=0.13)  # 3 / n ** 0.5
        assert lag[[0, 1, 3, 4]].min() > 0.75


@settings(max_examples=100)
@given(factor_graphs())
def test_components_are_those_of_counted_regions(graph: FactorGraph) -> None:
    regions, links = graph.regions, nx.Graph()
    links.add_nodes_from(range(regions.n_elements))
    for name, count in regions.counting_numbers().items():
        if count:
            nx.add_path(links, regions.elements(name).reshape(-1).tolist())
    found: dict[int, set[int]] = {}
    for element, label in enumerate(connected_elements(regions).tolist()):
        found.setdefault(label, set()).add(element)
    assert sorted(map(sorted, found.values())) == sorted(
        map(sorted, nx.connected_components(links))
    )
    assert list(found) == list(range(len(found)))


def test_components_of_windows_and_of_regions_of_count_0() -> None:
    assert set(connected_elements(tiles((2, 40), (2, 8), (0, 4)))) == {0}
    rows = connected_elements(tiles((3, 4), (1, 4), (0, 0))).reshape(3, 4)
    assert rows.tolist() == [[0] * 4, [1] * 4, [2] * 4]
    apart = RegionGraph.from_regions(
        {"a": [0, 2], "b": [1], "both": [0, 1, 2]}, {"a": 1, "b": 1, "both": 0}, event_shape=(3,)
    )
    assert connected_elements(apart).tolist() == [0, 1, 0]


def test_rates_of_components_sum_to_the_whole() -> None:
    joint, _ = copies(3)
    u = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score, whole = FeynmanKac(joint)(u, 0.7)
    same, rates = FeynmanKac(joint).by_component(u, 0.7)
    assert rates.shape == (2, 5, 3)
    torch.testing.assert_close(rates.sum(dim=-1), whole)
    torch.testing.assert_close(score, same)


def test_any_function_is_a_potential_of_one_component() -> None:
    joint, _ = copies(1)
    ours = sample_weighted(FeynmanKac(joint), SIGMAS, shape=(50, 3), threshold=0.9, generator=0)
    plain = sample_weighted(
        lambda u, s: FeynmanKac(joint)(u, s), SIGMAS, shape=(50, 3), threshold=0.9, generator=0
    )
    assert isinstance(plain, Particles)
    torch.testing.assert_close(plain.x, ours.x)
    assert plain.log_weights.shape == (50,)
    assert plain.effective == pytest.approx(ours.effective)


def test_bad_components_are_named() -> None:
    joint, _ = copies(1)
    with pytest.raises(ShapeError, match=r"the component of every element of the state \(4,\)"):
        sample_weighted(FeynmanKac(joint), SIGMAS, shape=(5, 4))
    gap = Apart(joint, torch.tensor([0, 0, 2]))
    with pytest.raises(ShapeError, match="one per component"):
        sample_weighted(gap, SIGMAS, shape=(5, 3))


def test_negative_counts_and_loops_have_rates_too() -> None:
    graph, q = cycle(4), ar1(4, 0.5)
    score, rate = FeynmanKac(compose(graph, node_scores(graph, q)))(torch.zeros(2, 4).double(), 1.0)
    assert score.shape == (2, 4)
    assert rate.tolist() == [0.0, 0.0]
    with pytest.raises(ScoreError, match="expected a joint under the rule Marginal"):
        FeynmanKac(compose(graph, node_scores(graph, q), rule=Average()))


def test_systematic_resampling_counts() -> None:
    weights = torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=torch.float64)
    for uniform in (0.0001, 0.3, 0.9):
        chosen = systematic(weights.log()[:, None], torch.tensor([uniform]).double())
        assert chosen[:, 0].bincount(minlength=4).tolist() == [2, 1, 1, 0]
    columns = torch.stack([weights.flip(0), weights], dim=1).log()
    both = systematic(columns, torch.tensor([0.9, 0.3]).double())
    assert both.tolist() == [[1, 0], [2, 0], [3, 1], [3, 2]]
    assert effective_sample_size(torch.zeros(7)) == pytest.approx(7)
    assert effective_sample_size(torch.tensor([0.0, -1e9])) == pytest.approx(1)


@pytest.mark.parametrize("sigmas", [[1.0], [1.0, 2.0], [1.0, 0.5, 0.0]])
def test_bad_schedules_are_named(sigmas: list) -> None:
    with pytest.raises(PgmdiffError, match="decrease strictly to a value above 0"):
        sample_weighted(lambda u, s: (u, u[:, 0]), sigmas, shape=(2, 3))


def test_particles_start_around_the_mean_which_belongs_to_the_run(tmp_path: Path) -> None:
    q = Gaussian(torch.full((2,), 500.0), torch.eye(2))

    def potential(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return q.score(x, sigma), x.new_zeros(len(x))

    def drawn(**given: Any) -> Tensor:
        levels, start = karras(40, 0.05, 10.0)[:-1], {"shape": (800, 2), "generator": 0}
        return sample_weighted(potential, levels, **start, **given).x

    run = drawn(mean=500.0, run=tmp_path)
    torch.testing.assert_close(run.mean(dim=0), q.mean.double(), rtol=0, atol=0.2)
    with pytest.raises(PgmdiffError, match="belongs to another run: expected mean"):
        drawn(mean=499.0, run=tmp_path)
    with pytest.warns(UserWarning, match="sample_weighted: .* does not hide the data"):
        drawn()
