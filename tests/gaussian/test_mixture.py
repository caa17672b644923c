"""Mixtures of Gaussians, and what composing their marginals (or a Gaussian's) amounts to."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgmdiff import Average, GraphError, ShapeError, compose
from pgmdiff.gaussian import (
    Gaussian,
    GaussianMixture,
    composed_log_density,
    composed_precision,
    from_region_covariances,
    node_scores,
)
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, cycle, grid, tiles
from pgmdiff.testing import markov_gaussian
from pgmdiff.testing.strategies import factor_graphs, trees
from tests.helpers import ar1, relative


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_gaussian(shape: tuple[int, ...], seed: int) -> Gaussian:
    n, generator = math.prod(shape), seeded(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    mean = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return Gaussian(mean, root @ root.T / n + 0.1 * torch.eye(n, dtype=torch.float64))


def random_mixture(shape: tuple[int, ...], seed: int, k: int = 3) -> GaussianMixture:
    weights = torch.rand(k, generator=seeded(seed), dtype=torch.float64) + 0.1
    components = [random_gaussian(shape, seed + i) for i in range(k)]
    return GaussianMixture(weights / weights.sum(), components)


def gradient(function, u: Tensor) -> Tensor:
    u = u.clone().requires_grad_()
    return torch.autograd.grad(function(u).sum(), u)[0]


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
@pytest.mark.parametrize("sigma", [0.0, 0.3, 4.0])
def test_score_is_the_gradient_of_the_log_density(shape: tuple[int, ...], sigma: float) -> None:
    q = random_mixture(shape, 1)
    u = q.sample(20, seeded(0))
    expected = gradient(lambda u: q.log_density(u, sigma), u)
    torch.testing.assert_close(q.score(u, sigma), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.denoise(u, sigma), u + sigma**2 * expected)
    assert q.score(u, sigma).shape == u.shape


def test_log_density_matches_torch() -> None:
    q = random_mixture((4,), 5)
    u, sigmas = q.sample(7, seeded(0)), torch.linspace(0.1, 2, 7, dtype=torch.float64)
    for i, sigma in enumerate(sigmas.tolist()):
        parts = [
            torch.distributions.MultivariateNormal(c.mean, c.noised(sigma).covariance)
            for c in q.components
        ]
        logs = torch.stack([part.log_prob(u[i]) for part in parts]) + q.weights.log()
        torch.testing.assert_close(q.log_density(u, sigmas)[i], logs.logsumexp(0))
    assert q.noised(0.5).log_density(u) == pytest.approx(q.log_density(u, 0.5))


def test_a_mixture_of_one_is_the_gaussian() -> None:
    q = random_gaussian((3,), 2)
    one = GaussianMixture(torch.ones(1), [q])
    u = q.sample(5, seeded(0))
    torch.testing.assert_close(one.score(u, 0.7), q.score(u, 0.7))
    torch.testing.assert_close(one.log_density(u, 0.7), q.log_density(u, 0.7))
    torch.testing.assert_close(one.covariance, q.covariance)


def test_far_away_the_nearest_component_decides() -> None:
    """Densities underflow at 10⁴ standard deviations; responsibilities do not."""
    eye = torch.eye(2, dtype=torch.float64)
    parts = [Gaussian(torch.full((2,), m, dtype=torch.float64), eye) for m in (-3.0, 3.0)]
    q = GaussianMixture(torch.tensor([0.9, 0.1]), parts)
    u = torch.full((1, 2), 1e4, dtype=torch.float64)
    torch.testing.assert_close(q.score(u, 0.0), parts[1].score(u, 0.0))
    assert q.log_density(u).isfinite().all()


def test_marginals_integrate_the_rest_out() -> None:
    """On an equidistant grid the trapezoid rule is exact to rounding for smooth densities."""
    q = random_mixture((2,), 3)
    spread = q.covariance.diagonal().max().sqrt().item()
    rest = torch.linspace(-30 * spread, 30 * spread, 4001, dtype=torch.float64)
    for x in (-1.0, 0.0, 2.5):
        u = torch.stack([torch.full_like(rest, x), rest], dim=1)
        integral = q.log_density(u, 0.5).exp().sum() * (rest[1] - rest[0])
        marginal = q.marginal(torch.tensor(0)).log_density(torch.tensor([x]).double(), 0.5).exp()
        assert marginal.item() == pytest.approx(integral.item(), rel=1e-10)


def test_moments_of_marginals_are_those_of_the_whole() -> None:
    q, elements = random_mixture((2, 3), 4), torch.tensor([[5, 0], [1, 3]])
    part, flat = q.marginal(elements), elements.reshape(-1)
    assert part.event_shape == (2, 2)
    torch.testing.assert_close(part.mean, q.mean.reshape(-1)[elements])
    torch.testing.assert_close(part.covariance, q.covariance[flat][:, flat])


def test_samples_have_the_moments() -> None:
    """Deviation of a product by Cauchy-Schwarz, E c⁴ = Σ_k w_k (3 v² + 6 v d² + d⁴) a component."""
    q, n = random_mixture((3,), 6), 50_000
    draws = q.sample(n, seeded(0))
    variances = q.covariance.diagonal()
    assert ((draws.mean(0) - q.mean).abs() < 5 * (variances / n).sqrt()).all()
    v = torch.stack([c.covariance.diagonal() for c in q.components])
    d = torch.stack([c.mean for c in q.components]) - q.mean
    fourth = (q.weights[:, None] * (3 * v**2 + 6 * v * d**2 + d**4)).sum(0)
    tolerance = 5 * ((fourth[:, None] * fourth) ** 0.5 / n).sqrt()
    centred = draws - q.mean
    assert ((centred.T @ centred / n - q.covariance).abs() < tolerance).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("own", [torch.float32, torch.float64])
def test_scores_come_in_the_dtype_of_the_state(dtype: torch.dtype, own: torch.dtype) -> None:
    exact = random_mixture((4,), 7)
    parts = [Gaussian(c.mean.to(own), c.covariance.to(own)) for c in exact.components]
    q = GaussianMixture(exact.weights, parts)
    u = exact.sample(3, seeded(0)).to(dtype)
    expected = exact.score(u.double(), 0.5).to(dtype)
    torch.testing.assert_close(q.score(u, 0.5), expected, rtol=1e-4, atol=1e-4)
    joint = compose(chain(4), node_scores(chain(4), q))
    reference = compose(chain(4), node_scores(chain(4), exact))(u.double(), 0.5).to(dtype)
    torch.testing.assert_close(joint(u, 0.5), reference, rtol=1e-4, atol=1e-4)


GRAPHS = {
    "tree": chain(6).regions,
    "loop": cycle(6).regions,
    "lattice": grid(2, 3).regions,
    "tiles": tiles((2, 3), 2, 1),
    "ring of tiles": tiles((6,), 3, 1, periodic=True),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("kind", [random_gaussian, random_mixture])
@pytest.mark.parametrize("sigma", [0.0, 0.4, 3.0])
def test_composed_score_is_the_gradient_of_the_composed_log_density(name, kind, sigma) -> None:
    graph = GRAPHS[name]
    q = kind(graph.event_shape, 11)
    u = q.sample(6, seeded(1))
    joint = compose(graph, node_scores(graph, q))
    expected = gradient(lambda u: composed_log_density(graph, q, u, sigma), u)
    torch.testing.assert_close(joint(u, sigma), expected, rtol=1e-8, atol=1e-8)


@settings(max_examples=60)
@given(factor_graphs(), st.integers(0, 2**31), st.floats(0.05, 5.0))
def test_composed_scores_are_gradients_on_any_graph(
    graph: FactorGraph, seed: int, sigma: float
) -> None:
    q = GaussianMixture(
        torch.tensor([0.25, 0.75]), [markov_gaussian(graph, seed), markov_gaussian(graph, seed + 1)]
    )
    u = q.sample(3, seeded(seed))
    sigmas = torch.tensor([sigma, 1.0, 2 * sigma], dtype=torch.float64)
    joint = compose(graph, node_scores(graph, q))
    expected = gradient(lambda u: composed_log_density(graph, q, u, sigmas), u)
    torch.testing.assert_close(joint(u, sigmas), expected, rtol=1e-7, atol=1e-7)


@settings(max_examples=60)
@given(trees(), st.integers(0, 2**31))
def test_composed_log_density_is_exact_on_trees_at_sigma_0(graph: FactorGraph, seed: int) -> None:
    assume(graph.n_elements)
    q = markov_gaussian(graph, seed)
    u = q.sample(3, seeded(seed))
    torch.testing.assert_close(composed_log_density(graph, q, u), q.log_density(u))


def test_composed_log_density_is_not_exact_elsewhere() -> None:
    q = ar1(6, 0.9)
    u = q.sample(3, seeded(0))
    assert (composed_log_density(chain(6), q, u, 1.0) - q.log_density(u, 1.0)).abs().min() > 0.01
    assert (composed_log_density(cycle(6), q, u) - q.log_density(u)).abs().min() > 0.01


def test_mixtures_are_markov_to_a_tree_only_if_their_labels_are() -> None:
    """A label shared by the whole state makes all elements dependent: pairs do not see that."""
    parts = [Gaussian(m * torch.ones(4).double(), torch.eye(4).double()) for m in (-1.0, 1.0)]
    q = GaussianMixture(torch.tensor([0.5, 0.5]), parts)
    u = q.sample(3, seeded(0))
    composed = composed_log_density(chain(4), q, u)
    assert (composed - q.log_density(u)).abs().max() > 0.01


def test_mixture_node_scores_are_also_a_mapping() -> None:
    graph, q = tiles((8,), 4, 2), random_mixture((8,), 8)
    scores = node_scores(graph, q)
    assert list(scores) == graph.names
    x = torch.randn(3, 4, generator=seeded(0), dtype=torch.float64)
    torch.testing.assert_close(
        scores["[2:6]"](x, 0.5), q.marginal(torch.arange(2, 6)).score(x, 0.5)
    )
    u = q.sample(3, seeded(1))
    together, apart = compose(graph, scores), compose(graph, scores, max_batch=2)
    torch.testing.assert_close(together(u, 0.5), apart(u, 0.5))


@pytest.mark.parametrize("graph", [chain(6).regions, cycle(6).regions, tiles((6,), 4, 2)])
def test_average_is_linear_too(graph: RegionGraph) -> None:
    q = ar1(6, 0.8)
    u = q.sample(4, seeded(0))
    joint = compose(graph, node_scores(graph, q), rule=Average())
    precision = composed_precision(graph, q, 0.5, Average())
    torch.testing.assert_close(joint(u, 0.5), -u @ precision.T)


def test_the_average_is_no_gradient() -> None:
    precision = composed_precision(chain(6), ar1(6, 0.8), 0.5, Average())
    assert relative(precision, precision.T) > 0.01


@settings(max_examples=60)
@given(trees(), st.integers(0, 2**31))
def test_region_covariances_of_a_tree_make_the_whole(graph: FactorGraph, seed: int) -> None:
    assume(graph.n_elements)
    q = markov_gaussian(graph, seed)
    regions = graph.regions
    covariances = {
        name: q.marginal(regions.elements(name)).covariance
        for name, count in regions.counting_numbers().items()
        if count
    }
    assert relative(from_region_covariances(graph, covariances).covariance, q.covariance) < 1e-9


def test_the_whole_has_the_largest_entropy() -> None:
    """Of all Gaussians with these pairs, that of the chain is not exceeded by another one."""
    other = random_gaussian((5,), 9)
    graph = chain(5).regions
    covariances = {n: other.marginal(graph.elements(n)).covariance for n in graph.names}
    whole = from_region_covariances(graph, covariances)
    for name in graph.names:
        torch.testing.assert_close(
            whole.marginal(graph.elements(name)).covariance, covariances[name]
        )
    assert whole.entropy() > other.entropy() + 0.01


def test_a_loop_has_the_same_region_covariances() -> None:
    place = torch.arange(5)
    distance = torch.minimum((place[:, None] - place) % 5, (place - place[:, None]) % 5)
    q, graph = Gaussian(torch.zeros(5).double(), 0.4 ** distance.double()), cycle(5).regions
    covariances = {n: q.marginal(graph.elements(n)).covariance for n in graph.names}
    whole = from_region_covariances(graph, covariances)
    for name, expected in covariances.items():
        torch.testing.assert_close(whole.marginal(graph.elements(name)).covariance, expected)
    assert whole.entropy() > q.entropy()
    assert torch.linalg.inv(whole.covariance)[0, 2].abs() < 1e-10


def test_bad_region_covariances_are_named() -> None:
    graph, eye = chain(3), torch.eye(2)
    with pytest.raises(GraphError, match="'x1' has no covariance"):
        from_region_covariances(graph, {"f0": eye, "f1": eye})
    full = {"f0": eye, "f1": eye, "x1": torch.eye(1)}
    assert from_region_covariances(graph, full).covariance.equal(torch.eye(3))
    with pytest.raises(GraphError, match="'y', which is no region"):
        from_region_covariances(graph, {**full, "y": eye})
    with pytest.raises(ShapeError, match=r"'f1' as \[2, 2\], got \(3, 3\)"):
        from_region_covariances(graph, {**full, "f1": torch.eye(3)})
    with pytest.raises(ShapeError, match=r"'f0' is not symmetric"):
        from_region_covariances(graph, {**full, "f0": torch.tensor([[1.0, 0.5], [0.0, 1.0]])})
    with pytest.raises(GraphError, match="'f0' is singular or indefinite, its eigenvalues"):
        from_region_covariances(graph, {**full, "f0": torch.ones(2, 2)})
    disagreeing = {**full, "x1": torch.full((1, 1), 0.1)}
    with pytest.raises(
        GraphError, match=r"'x1' differs from those of the regions around it by 0\.9"
    ):
        from_region_covariances(graph, disagreeing)
    ring, pair = cycle(4), torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    improper = dict.fromkeys(ring.factors, pair) | dict.fromkeys(ring.variables, torch.eye(1))
    improper["f3"] = torch.tensor([[1.0, -0.9], [-0.9, 1.0]])
    with pytest.raises(GraphError, match="expected the covariances of one distribution"):
        from_region_covariances(ring, improper)


def test_bad_mixtures_are_named() -> None:
    a, b = random_gaussian((2,), 0), random_gaussian((3,), 0)
    with pytest.raises(ShapeError, match="tensor of 2 weights"):
        GaussianMixture(torch.ones(1), [a, a])
    with pytest.raises(ShapeError, match=r"sum 1\.2"):
        GaussianMixture(torch.tensor([0.6, 0.6]), [a, a])
    with pytest.raises(ShapeError, match="positive weights"):
        GaussianMixture(torch.tensor([0.0, 1.0]), [a, a])
    with pytest.raises(ShapeError, match="one event shape"):
        GaussianMixture(torch.tensor([0.5, 0.5]), [a, b])
    with pytest.raises(ShapeError, match="at least one component"):
        GaussianMixture(torch.ones(0), [])
    q = random_mixture((5,), 0)
    with pytest.raises(ShapeError, match="4 elements, the GaussianMixture 5"):
        node_scores(chain(4), q)
    with pytest.raises(ShapeError, match="composed_precision: the graph has 4"):
        composed_precision(chain(4), ar1(5, 0.5))
    with pytest.raises(ShapeError, match=r"states of 5 elements, got \(2, 4\)"):
        composed_log_density(chain(5), q, torch.zeros(2, 4))
