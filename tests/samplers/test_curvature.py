"""Measured curvature against the eigenvalues of dense Jacobians."""

import pytest
import torch
from torch import Tensor

from pgmdiff import Average, Marginal, PgmdiffError
from pgmdiff.composition import Rule
from pgmdiff.gaussian import Gaussian, composed_precision
from pgmdiff.graphs import FactorGraph, chain, cycle, grid, torus
from pgmdiff.samplers import Curvature, Heun, Langevin, Noise, curvature_extremes, karras
from tests.helpers import ar1
from tests.samplers.cases import composed


def markov(graph: FactorGraph, coupling: float = 0.9) -> Gaussian:
    """Precision 1 on the diagonal, -coupling / largest degree between neighbours."""
    precision = torch.eye(graph.n_elements, dtype=torch.float64)
    for factor in graph.factors:
        a, b = graph.regions.elements(factor).tolist()
        precision[a, b] = precision[b, a] = -coupling / int(graph.degrees.max())
    covariance = torch.linalg.inv(precision)
    return Gaussian(torch.zeros(graph.n_elements).double(), (covariance + covariance.T) / 2)


GRAPHS = {
    "chain 8, 0.5": (chain(8), ar1(8, 0.5)),
    "chain 8, 0.9": (chain(8), ar1(8, 0.9)),
    "chain 30, 0.99": (chain(30), ar1(30, 0.99)),
    "ring 8": (cycle(8), markov(cycle(8))),
    "grid 4 × 4": (grid(4, 4), markov(grid(4, 4))),
}


@pytest.mark.parametrize("sigma", [0.002, 0.3, 2.0])
@pytest.mark.parametrize("rule", [Marginal(), Average()], ids=["marginal", "average"])
@pytest.mark.parametrize("name", GRAPHS)
def test_extremes_are_those_of_the_dense_jacobian(name: str, rule: Rule, sigma: float) -> None:
    """Exact with as many products as elements, symmetric or not; from the inside with 5."""
    graph, q = GRAPHS[name]
    joint, n = composed(graph, q, rule), graph.n_elements
    dense = composed_precision(graph, q, sigma, rule=rule)
    values = torch.linalg.eigvals(dense)
    assert values.imag.abs().max() < 1e-9 * values.real.max()  # averaging's are real too
    x = q.noised(sigma).sample(16, torch.Generator().manual_seed(0))
    exact = curvature_extremes(joint, x[:2], sigma, products=n, generator=0)
    torch.testing.assert_close(exact.largest, values.real.max().expand(2), rtol=1e-6, atol=0)
    scale = values.real.max().item()
    torch.testing.assert_close(
        exact.smallest, values.real.min().expand(2), rtol=0, atol=1e-6 * scale
    )
    few = curvature_extremes(joint, x, sigma, products=5, generator=0)
    assert (few.largest > 0.7 * scale).all()
    assert few.largest.max() > 0.95 * scale
    assert few.largest.max() < (1 + 1e-6 if isinstance(rule, Marginal) else 1.05) * scale
    single = curvature_extremes(joint, x.float(), sigma, products=n, generator=0)
    assert single.largest.dtype == torch.float32
    assert ((single.largest.double() / scale - 1).abs() < 0.01).all()


@pytest.mark.parametrize("sigma", [2.0, 0.02, 2e-3, 2e-4, 5e-5])
@pytest.mark.parametrize("wide", [True, False], ids=["exact score", "score of float32"])
def test_float32_finds_both_extremes_at_every_sigma(sigma: float, wide: bool) -> None:
    """λ_min keeps its sign, although it is a hundredth of λ_max."""
    q = ar1(8, 0.9)
    model = q if wide else Gaussian(q.mean.float(), q.covariance.float())
    x = q.noised(sigma).sample(16, 0).float()
    values = 1 / (torch.linalg.eigvalsh(q.covariance) + sigma**2)
    found = curvature_extremes(model.score, x, sigma, products=8, generator=0)
    share = 0.005 if sigma >= 1e-4 * x.abs().max() else 0.02
    for end, exact in zip(found, (values.min(), values.max()), strict=True):
        torch.testing.assert_close(
            end.double(), exact.expand(16), rtol=0, atol=share * values.max().item()
        )
    assert (found.smallest > 0).all()


def test_differences_do_not_depend_on_other_states() -> None:
    seen = []

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x[:1])
        return -x

    x = torch.ones(2, 3) * torch.tensor([[1.0], [1e3]])
    for states in (x, x[:1]):
        curvature_extremes(score, states, 0.1, products=1, generator=[0, 1][: len(states)])
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])


@pytest.mark.parametrize("sigma", [0.5, 0.01, 1e-3, 2e-4])
def test_larger_differences_stay_within_the_range_of_a_curved_density(sigma: float) -> None:
    """Two points at ±1, blurred: J = 1/σ² - sech²(x/σ²)/σ⁴, in float32 to 1 % of 1/σ²."""
    x = sigma * torch.tensor([[-1.3], [0.2], [1.0]]) + 1.0
    points = lambda x, s: ((x / s[:, None] ** 2).tanh() - x) / s[:, None] ** 2  # noqa: E731
    found = curvature_extremes(points, x, sigma, products=1, generator=0).largest.double()
    level = sigma**2
    exact = 1 / level - 1 / (x[:, 0].double() / level).cosh() ** 2 / level**2
    torch.testing.assert_close(found, exact, rtol=0, atol=0.01 / level)


def test_the_composed_precision_exceeds_that_of_noise() -> None:
    """σ² λ_max ≤ 1 for every noised distribution; 1.74 under the marginal rule at ρ = 0.99."""
    graph, q = chain(100), ar1(100, 0.99)
    joint, x = composed(graph, q), torch.zeros(8, 100).double()
    options = {"products": 12, "generator": 0}
    found = {
        sigma: sigma**2 * curvature_extremes(joint, x, sigma, **options).largest.max().item()
        for sigma in (0.3, 0.35, 0.4)
    }
    assert max(found.values()) == pytest.approx(1.74, abs=0.02)
    exact = curvature_extremes(q.score, x, 0.35, **options).largest.max().item()
    assert exact * 0.35**2 < 1


def test_a_jacobian_of_one_eigenvalue_ends_the_recurrence_at_once() -> None:
    found = curvature_extremes(lambda x, s: -3.0 * x, torch.zeros(4, 7), 1.0, generator=0)
    for value in found:
        torch.testing.assert_close(value, torch.full((4,), 3.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("rho", "sigma"), [(0.5, 0.6), (0.5, 0.8), (0.8, 1.1), (0.3, 0.05)])
def test_strong_correlations_on_loops_leave_no_density(rho: float, sigma: float) -> None:
    """On a torus of pairs λ_min = (1 - r)(1 - 3 r) / ((1 - r²)(1 + σ²)), r = ρ / (1 + σ²).

    Negative for σ² < 3 ρ - 1: the product of marginals has no finite integral, and moves towards
    it run away at any step.
    """
    ring = torch.tensor([1.0, rho, rho**2, rho]).double()
    row = torch.stack([ring.roll(k) for k in range(4)])
    q, graph = Gaussian(torch.zeros(16).double(), torch.kron(row, row)), torus(4, 4)
    joint, r = composed(graph, q), rho / (1 + sigma**2)
    expected = (1 - r) * (1 - 3 * r) / ((1 - r**2) * (1 + sigma**2))
    found = curvature_extremes(joint, torch.zeros(1, 16).double(), sigma, products=16, generator=0)
    assert found.smallest.item() == pytest.approx(expected, abs=1e-6 * found.largest.item())
    assert (found.smallest.item() < 0) == (sigma**2 < 3 * rho - 1)
    curvature = found.largest.item()
    x, precision = torch.zeros(8, 16).double(), composed_precision(graph, q, sigma)
    score = lambda x, s: -x @ precision  # noqa: E731
    torch.testing.assert_close(joint(x + 1, sigma), score(x + 1, sigma))  # moves by it are faster
    out, _ = Langevin(0.5, 2000, curvature).correct(score, x, sigma, Noise.of(0, 8))
    assert (out.abs().max() > 1e3) == (found.smallest.item() < 0)


def test_curvature_along_a_schedule() -> None:
    q, calls = ar1(6, 0.9), []

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(len(x))
        return q.score(x, sigma)

    sigmas = karras(9, 0.02, 20.0)
    state = torch.get_rng_state()
    pilot = {"shape": (3, 6), "solver": Heun(), "products": 4, "generator": 0}
    found = Curvature.measure(score, sigmas, **pilot)
    assert torch.equal(state, torch.get_rng_state())
    assert len(calls) == 8 * 2 + 1 + 9 * 8
    assert found.sigmas == tuple(sigmas[:-1])
    assert Curvature.measure(score, sigmas, **pilot) == found
    spectrum = torch.linalg.eigvalsh(q.covariance)
    for sigma in (*sigmas[:-1], 0.5, 3.3):  # at the levels, and between
        exact = 1 / (spectrum[0].item() + sigma**2)
        assert 0.85 * exact < found(sigma) < 1.15 * exact
    with pytest.raises(PgmdiffError, match=r"measured from σ = 20 to 0.02, not at 0.01"):
        found(0.01)
    with pytest.raises(PgmdiffError, match="sigma above 0"):
        curvature_extremes(score, torch.zeros(1, 6), 0.0)
    with pytest.raises(PgmdiffError, match="a positive curvature"):
        Langevin(0.5, 1, lambda sigma: -1.0).correct(score, torch.zeros(1, 6), 1.0, Noise.of(0, 1))
