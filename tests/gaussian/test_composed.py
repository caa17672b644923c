"""Where the marginal rule is exact, and that it is not elsewhere."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pgmdiff import GraphError, Marginal, ShapeError, compose, gaussian
from pgmdiff.gaussian import Gaussian, bethe_entropy, composed_precision, kl_divergence
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, cycle, grid, report, tiles
from pgmdiff.samplers import SDE, Heun, karras, sample
from pgmdiff.testing import markov_gaussian
from pgmdiff.testing.strategies import factor_graphs, trees
from tests.helpers import ar1, relative

ORACLES = Path(__file__).parents[1] / "oracles"


@settings(max_examples=300)
@given(trees(), st.integers(0, 2**31))
def test_acyclic_graphs_are_exact_at_sigma_0(graph: FactorGraph, seed: int) -> None:
    assume(graph.n_elements)
    q = markov_gaussian(graph, seed)
    precision = torch.linalg.inv(q.covariance)
    assert relative(composed_precision(graph, q), precision) < 1e-10
    assert bethe_entropy(graph, q) == pytest.approx(q.entropy(), rel=1e-10, abs=1e-10)
    assert graph.validate().junction_tree


def test_the_bethe_entropy_of_what_has_no_density() -> None:
    """It is that of the Gaussian, -∞, whatever rounding does to the eigenvalues."""
    graph, generator = chain(3), torch.Generator().manual_seed(0)
    for _ in range(20):
        line = torch.randn(3, 1, generator=generator, dtype=torch.float64)
        q = Gaussian(torch.zeros(3).double(), line @ line.T)
        assert bethe_entropy(graph, q) == q.entropy() == -torch.inf
        assert bethe_entropy(graph, q, 0.5) > -torch.inf
    still = Gaussian(torch.zeros(3).double(), torch.diag(torch.tensor([1.0, 0, 1])).double())
    with pytest.raises(GraphError, match=r"have no density, .* counts of both signs\. Give sigma="):
        bethe_entropy(graph, still)
    for other in (chain(2), chain(4)):
        with pytest.raises(ShapeError, match=f"the graph has {other.n_elements} elements"):
            bethe_entropy(other, q)


@settings(max_examples=100)
@given(trees(), st.integers(0, 2**31), st.floats(0.05, 5.0))
def test_joint_score_is_the_composed_precision(graph: FactorGraph, seed: int, sigma: float) -> None:
    assume(graph.n_elements)
    q = markov_gaussian(graph, seed)
    u = q.sample(3, torch.Generator().manual_seed(seed))
    expected = -(u - q.mean) @ composed_precision(graph, q, sigma)
    joint = compose(graph, gaussian.node_scores(graph, q))
    torch.testing.assert_close(joint(u, sigma), expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=300)
@given(factor_graphs(), st.integers(0, 2**31), st.floats(0.0, 10.0))
def test_stein_law_holds_on_every_valid_graph(graph: FactorGraph, seed: int, sigma: float) -> None:
    """Per element E[(u_i - m_i) s_i] = -(J (Σ + σ² I))_ii = -1."""
    q = markov_gaussian(graph, seed)
    stein = (composed_precision(graph, q, sigma) @ q.noised(sigma).covariance).diagonal()
    torch.testing.assert_close(stein, torch.ones_like(stein), rtol=1e-8, atol=1e-8)


def test_stein_law_exposes_invalid_counts() -> None:
    """2 × 2 tiles of 2 × 2 pixels without the corner: the trace is 8 instead of 9."""
    full = tiles((3, 3), 2, 1)
    regions = {name: full.elements(name).numpy() for name in full.names}
    counts = full.counting_numbers()
    corner = next(name for name, r in regions.items() if r.size == 1)
    del regions[corner], counts[corner]
    cornerless = RegionGraph.from_regions(regions, counts, event_shape=(3, 3))
    line = ar1(9, 0.6)
    q = Gaussian(line.mean.reshape(3, 3), line.covariance)
    assert composed_precision(full, q).mul(q.covariance).sum().item() == pytest.approx(9)
    assert composed_precision(cornerless, q).mul(q.covariance).sum().item() == pytest.approx(8)
    assert not cornerless.validate().valid


DESIGN_TABLE = {
    "pairs": (chain(8).regions, [1e-15, 0.037, 0.221, 0.179, 0.060, 0.008]),
    "window 4 stride 2": (tiles((8,), 4, 2), [1e-15, 0.0009, 0.051, 0.082, 0.048, 0.007]),
}


@pytest.mark.parametrize("name", DESIGN_TABLE)
def test_the_rule_is_not_exact_for_sigma_above_0(name: str) -> None:
    graph, errors = DESIGN_TABLE[name]
    q = ar1(8, 0.9)
    for sigma, error in zip((0, 0.1, 0.5, 1, 3, 10), errors, strict=True):
        true = torch.linalg.inv(q.noised(sigma).covariance)
        measured = relative(composed_precision(graph, q, sigma), true)
        digits = 5e-5 if error < 0.001 else 5e-4
        assert measured == pytest.approx(error, abs=1e-14 if sigma == 0 else digits)


def test_the_documentation_says_so() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for text in (Marginal.__doc__, chain(2).validate().promise, report.__doc__, readme):
        assert "σ > 0" in (text or "")
        assert "approximation" in (text or "")


RUNS = json.loads((ORACLES / "gaussian_chain.json").read_text())["runs"]


@pytest.mark.parametrize("run", [r for r in RUNS if r["n"] <= 100])
def test_sampler_reaches_what_the_rule_allows(run: dict) -> None:
    """KL per variable of the sampler's exact law: the solver is linear, so push the identity."""
    n, q = run["n"], ar1(run["n"], run["rho"])
    graph = chain(n)
    joint = compose(graph, gaussian.node_scores(graph, q))
    start = 80.0 * torch.eye(n, dtype=torch.float64)
    out = sample(joint, karras(run["sigmas"], 0.002, 80.0), x=start, solver=Heun())
    reached = Gaussian(q.mean, out.T @ out)
    assert kl_divergence(reached, q) / n == pytest.approx(run["rule_of_the_paper"], rel=1e-6)


def test_sampled_chain_within_monte_carlo_tolerance() -> None:
    """Drawn samples have the covariance that exact propagation gives."""
    n, n_samples = 20, 20_000
    q, graph = ar1(n, 0.8), chain(n)
    joint = compose(graph, gaussian.node_scores(graph, q))
    sigmas = karras(18, 0.002, 80.0)
    start = 80.0 * torch.eye(n, dtype=torch.float64)
    out = sample(joint, sigmas, x=start, solver=Heun())
    expected = out.T @ out
    drawn = sample(
        joint, sigmas, shape=(n_samples, n), solver=Heun(), generator=0, dtype=torch.float64
    )
    variances = expected.diagonal()
    deviation = ((variances[:, None] * variances + expected**2) / n_samples).sqrt()
    z = ((drawn.T @ drawn / n_samples - expected) / deviation).abs()
    assert z.max() < 5  # of 210 entries
    assert drawn.mean(dim=0).abs().max() < 4 * (variances.max() / n_samples) ** 0.5
    # And it is not the truth: the rule's own error is far outside the tolerance.
    assert ((expected - q.covariance) / deviation).abs().max() > 20


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
def test_sde_has_its_own_variance_on_a_gaussian(eta: float) -> None:
    """On N(0, 1) the solver is linear: its variance is known, and tends to 1 with the steps."""

    def variance(sigmas: list[float]) -> float:
        v = sigmas[0] ** 2
        for sigma, after in pairwise(sigmas):
            keep, ratio = 1 / (1 + sigma**2), after / sigma
            slope = keep + ratio ** (1 + eta**2) * (1 - keep)
            v = slope**2 * v + after**2 * (1 - ratio ** (2 * eta**2))
        return v

    sigmas, n = karras(20, 0.01, 20.0), 10_000
    out = sample(
        ar1(1, 0.5).score, sigmas, shape=(n, 1), solver=SDE(eta), generator=3, dtype=torch.float64
    )
    expected = variance(sigmas)
    assert out.var().item() == pytest.approx(expected, abs=4 * expected * (2 / n) ** 0.5)
    assert variance(karras(20_000, 0.001, 100.0)) == pytest.approx(1.0, abs=0.01)


def test_cycle_is_equivariant_under_rotation() -> None:
    """The ring treats all its variables alike; a ring with an averaged seam does not."""
    n, graph = 8, cycle(8)
    place = torch.arange(n)
    distance = torch.minimum((place[:, None] - place) % n, (place - place[:, None]) % n)
    q = Gaussian(torch.zeros(n, dtype=torch.float64), 0.7 ** distance.double())
    joint = compose(graph, gaussian.node_scores(graph, q))
    u = torch.randn(4, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for shift in range(n):
        rotated = joint(u.roll(shift, dims=1), 0.7)
        torch.testing.assert_close(rotated, joint(u, 0.7).roll(shift, dims=1))


def test_loops_are_approximate_even_at_sigma_0() -> None:
    q = markov_gaussian(grid(3, 3), 0)
    error = relative(composed_precision(grid(3, 3), q), torch.linalg.inv(q.covariance))
    assert error > 1e-3
    assert not grid(3, 3).validate().junction_tree


def test_singular_regions_have_no_precision_without_noise() -> None:
    """Two variables that are always equal."""
    q = Gaussian(torch.zeros(3), torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]).double())
    noised = torch.linalg.inv(q.covariance + 0.01 * torch.eye(3).double())
    assert relative(composed_precision(chain(3), q, 0.1)[:1, :1], noised[:1, :1]) < 1e-12
    with pytest.raises(GraphError, match=r"region 'f0' is singular, .* Give a larger sigma"):
        composed_precision(chain(3), q)
    with pytest.raises(GraphError, match="at sigma=1e-09"):
        composed_precision(chain(3), q, 1e-9)


def test_mixtures_are_refused_by_what_is_known_of_gaussians() -> None:
    parts = [Gaussian(torch.full((3,), m), torch.eye(3)) for m in (-3.0, 3.0)]
    mixture: Any = gaussian.GaussianMixture(torch.ones(2) / 2, parts)
    for function in (bethe_entropy, composed_precision):
        with pytest.raises(GraphError, match="expected a Gaussian, got GaussianMixture"):
            function(chain(3), mixture)
    with pytest.raises(ShapeError, match="expected Gaussians of one size"):
        kl_divergence(mixture, parts[0])


def test_entropies_do_not_depend_on_units() -> None:
    q, units = ar1(4, 0.5), torch.tensor([1e-5, 1.0, 1e5, 1e-3]).double()
    other = Gaussian(q.mean, units[:, None] * q.covariance * units)
    expected = bethe_entropy(chain(4), q) + float(units.log().sum())
    assert bethe_entropy(chain(4), other) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", [lambda c: c.numpy(), lambda c: c.tolist()])
def test_region_covariances_may_be_arrays(kind: Any) -> None:
    q = ar1(3, 0.5)
    given = {name: kind(c) for name, c in gaussian.node_covariances(chain(3), q).items()}
    found = gaussian.from_region_covariances(chain(3), given)
    assert relative(found.covariance.double(), q.covariance) < 1e-6
