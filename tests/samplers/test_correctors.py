"""Correctors against what is known of them: the bias of Langevin, the exactness of Metropolis."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgmdiff import Average, Consistent, Marginal, PgmdiffError, compose
from pgmdiff.composition import Rule
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import (
    Gaussian,
    GaussianMixture,
    composed_log_density,
    composed_precision,
    kl_divergence,
    node_covariances,
    node_scores,
)
from pgmdiff.graphs import FactorGraph, chain
from pgmdiff.samplers import (
    SDE,
    Curvature,
    Euler,
    Heun,
    Langevin,
    Metropolis,
    Noise,
    PredictorCorrector,
    Solver,
    UniPC,
    karras,
    sample,
)
from pgmdiff.testing import markov_gaussian
from pgmdiff.testing.strategies import trees
from tests.helpers import ar1
from tests.samplers.cases import composed

N = 40_000


@pytest.mark.parametrize("step", [0.1, 0.5, 1.2])
def test_langevin_has_its_known_bias_on_a_gaussian(step: float) -> None:
    """Variance v / (1 - h / (2 v)) of N(0, v), v = 1 + σ²; not v."""
    sigma, v = 1.5, 1 + 1.5**2
    x = torch.zeros(1, N, dtype=torch.float64)
    score = lambda x, s: -x / (1 + s[:, None] ** 2)  # noqa: E731
    out, acceptance = Langevin(step, n_moves=120).correct(score, x, sigma, Noise.of(3, 1))
    expected = v / (1 - step * sigma**2 / (2 * v))
    spread = expected * (2 / N) ** 0.5
    assert out.var().item() == pytest.approx(expected, abs=4 * spread)
    assert abs(out.var().item() - v) > 4 * spread
    assert acceptance.tolist() == [1.0]


def test_langevin_on_a_correlated_gaussian() -> None:
    """Per eigenvalue λ of the precision: 1 / (λ (1 - h λ / 2))."""
    sigma, step = 0.8, 0.4
    q = ar1(2, 0.9)
    precision = torch.linalg.inv(q.noised(sigma).covariance)
    values, vectors = torch.linalg.eigh(precision)
    score = lambda x, s: -x @ precision  # noqa: E731
    x = torch.zeros(1, N, 2, dtype=torch.float64)
    out, _ = Langevin(step, n_moves=120).correct(score, x, sigma, Noise.of(5, 1))
    variances = (out[0] @ vectors).var(dim=0)
    expected = 1 / (values * (1 - step * sigma**2 * values / 2))
    assert ((variances - expected).abs() < 4 * expected * (2 / N) ** 0.5).all()


def test_langevin_explodes_beyond_its_limit() -> None:
    score = lambda x, s: -x / s[:, None] ** 2  # noqa: E731
    x = torch.ones(1, 10, dtype=torch.float64)
    stable, _ = Langevin(1.9, 100).correct(score, x, 1.0, Noise.of(0, 1))
    assert stable.abs().max() < 100
    unstable, _ = Langevin(2.2, 100).correct(score, x, 1.0, Noise.of(0, 1))
    assert unstable.abs().max() > 1e5


def test_metropolis_removes_the_bias() -> None:
    sigma, step, n = 1.0, 1.0, 1500
    q = Gaussian(torch.zeros(2).double(), torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double())
    corrector = Metropolis(q.log_density, step, n_moves=30)
    x = torch.zeros(n, 2, dtype=torch.float64)
    out, acceptance = corrector.correct(q.score, x, sigma, Noise.of(1, n))
    truth = q.noised(sigma).covariance
    found = out.T @ out / n
    assert ((found - truth).abs() < 4 * truth[0, 0] * (2 / n) ** 0.5).all()
    assert 0.2 < acceptance.mean() < 0.99
    assert acceptance.std() > 0  # samples decide for themselves
    biased, _ = Langevin(step, n_moves=30).correct(q.score, x, sigma, Noise.of(1, n))
    assert (biased.T @ biased / n)[0, 0] > truth[0, 0] + 4 * truth[0, 0] * (2 / n) ** 0.5


def test_predictor_corrector_is_a_solver() -> None:
    q = ar1(3, 0.8)
    rates: list[tuple[float, Tensor]] = []
    solver = PredictorCorrector(
        Euler(), Metropolis(q.log_density, 0.5), report=lambda s, a: rates.append((s, a))
    )
    assert solver.evaluations == 3  # Metropolis evaluates once more than it moves
    sigmas = karras(12, 0.05, 20.0)
    out = sample(q.score, sigmas, shape=(1500, 3), solver=solver, generator=0, dtype=torch.float64)
    assert [s for s, _ in rates] == sigmas[1:-1]
    assert all(0.3 < a.mean() <= 1 for _, a in rates)
    plain = sample(
        q.score, sigmas, shape=(1500, 3), solver=Euler(), generator=0, dtype=torch.float64
    )

    def loss(x: Tensor) -> float:
        return kl_divergence(Gaussian(torch.zeros(3).double(), x.T @ x / len(x)), q)

    assert loss(out) < loss(plain)


def test_corrected_runs_resume_bit_for_bit() -> None:
    q = ar1(3, 0.8)
    solver = PredictorCorrector(SDE(1.0), Langevin(0.2, 2))
    sigmas, steps = karras(8, 0.05, 20.0), []
    whole = sample(q.score, sigmas, shape=(4, 3), solver=solver, generator=7, dtype=torch.float64,
                   callback=steps.append)  # fmt: skip
    again = sample(q.score, sigmas, state=steps[3]["state"], solver=solver, generator=7)
    assert torch.equal(again, whole)


def test_metropolis_on_the_evidence() -> None:
    graph, q = chain(6), ar1(6, 0.9)
    joint = compose(graph, node_scores(graph, q), rule=Consistent(node_covariances(graph, q)))
    corrector = Metropolis(joint.log_density, 0.4, n_moves=3)
    x = q.noised(0.5).sample(200, torch.Generator().manual_seed(0))
    out, acceptance = corrector.correct(joint, x, 0.5, Noise.of(0, 200))
    assert 0.5 < acceptance.mean() <= 1
    assert out.shape == x.shape


@pytest.mark.parametrize("arguments", [(0.0, 1), (-1.0, 1), (0.1, 0)])
def test_bad_correctors_are_named(arguments: tuple) -> None:
    with pytest.raises(PgmdiffError, match="Langevin: expected a positive step"):
        Langevin(*arguments)
    with pytest.raises(PgmdiffError, match="expected a positive step"):
        Metropolis(lambda x, s: x, *arguments)
    assert isinstance(PredictorCorrector(Heun(), Langevin()).predictor, Heun)


@pytest.mark.parametrize("rule", [Marginal(), Average()], ids=["marginal", "average"])
def test_steps_are_shares_of_the_limit(rule: Rule) -> None:
    """Just below 2/λ_max moves stay, just above they run away, symmetric Jacobian or not."""
    graph, q, sigma = chain(8), ar1(8, 0.99), 0.3
    joint, precision = composed(graph, q, rule), composed_precision(graph, q, sigma, rule=rule)
    exact = torch.linalg.eigvals(precision).real.max().item()
    measured = Curvature.measure(
        joint, [1.0, sigma], shape=(2, 8), products=8, generator=0, dtype=torch.float64
    )
    assert measured(sigma) == pytest.approx(exact, rel=1e-6)
    x = q.noised(sigma).sample(20, torch.Generator().manual_seed(0))
    score = lambda x, s: -x @ precision.T  # noqa: E731
    torch.testing.assert_close(joint(x, sigma), score(x, sigma))  # moves by it are much faster
    for curvature in (measured, exact, lambda level: exact * sigma**2 / level**2):
        below, _ = Langevin(0.97, 300, curvature).correct(score, x, sigma, Noise.of(1, 20))
        above, _ = Langevin(1.03, 300, curvature).correct(score, x, sigma, Noise.of(1, 20))
        assert below.abs().max() < 30
        assert above.abs().max() > 1e4
    if isinstance(rule, Marginal):  # σ² λ_max is 1.65: what the exact score bears explodes
        stated, _ = Langevin(1.3, 300).correct(score, x, sigma, Noise.of(1, 20))
        assert stated.abs().max() > 1e4


def test_a_share_has_its_known_bias() -> None:
    """Along an eigenvalue λ the variance is 1 / (λ (1 - share · λ / λ_max))."""
    sigma, share = 0.8, 0.6
    q = ar1(2, 0.9)
    precision = torch.linalg.inv(q.noised(sigma).covariance)
    values, vectors = torch.linalg.eigh(precision)
    corrector = Langevin(share, 100, values[-1].item())
    x = torch.zeros(1, N, 2, dtype=torch.float64)
    out, _ = corrector.correct(lambda x, s: -x @ precision, x, sigma, Noise.of(5, 1))
    expected = 1 / (values * (1 - share * values / values[-1]))
    variances = (out[0] @ vectors).var(dim=0)
    assert ((variances - expected).abs() < 4 * expected * (2 / N) ** 0.5).all()


@pytest.mark.parametrize("n_moves", [1, 4])
def test_evaluations_are_those_made(n_moves: int) -> None:
    q, calls = ar1(3, 0.8), []

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(x)
        return q.score(x, sigma)

    for corrector in (Langevin(0.2, n_moves), Metropolis(q.log_density, 0.2, n_moves)):
        solver = PredictorCorrector(Heun(), corrector)
        calls.clear()
        sample(score, karras(5, 0.05, 9.0), shape=(2, 3), solver=solver, generator=0)
        assert len(calls) == 4 * solver.evaluations + 1


@settings(max_examples=60)
@given(trees(), st.integers(0, 2**31), st.floats(0.05, 5.0))
def test_on_trees_there_is_a_density_at_every_level(
    graph: FactorGraph, seed: int, sigma: float
) -> None:
    """J(σ) ≻ 0, and the density's marginals on regions are those of noised data."""
    assume(graph.n_elements)
    q = markov_gaussian(graph, seed)
    precision = composed_precision(graph, q, sigma)
    assert torch.linalg.eigvalsh((precision + precision.T) / 2).min() > 0
    covariance, noised = torch.linalg.inv(precision), q.noised(sigma).covariance
    for name, count in graph.counting_numbers().items():
        if count:
            index = graph.regions.elements(name).reshape(-1)
            torch.testing.assert_close(
                covariance[index][:, index], noised[index][:, index], rtol=1e-7, atol=1e-8
            )


def test_moves_mend_the_marginal_rule_on_a_chain() -> None:
    """KL per variable: 0.26 for the ODE whatever its levels; a share's own bias with moves."""
    graph, q, n, share = chain(8), ar1(8, 0.9), 8, 0.25
    joint = composed(graph, q)

    def loss(levels: int, moves: int) -> float:
        sigmas, solver = karras(levels, 0.002, 80.0), Euler()
        if moves:
            curvature = Curvature.measure(joint, sigmas, shape=(2, n), products=n, generator=0)
            solver = PredictorCorrector(solver, Langevin(share, moves, curvature))
        start = Gaussian(q.mean, 80.0**2 * torch.eye(n).double())
        return kl_divergence(distribution_reached(joint, sigmas, start, solver), q) / n

    assert loss(120, 0) == pytest.approx(0.26, abs=0.005)
    assert loss(60, 1) == pytest.approx(0.017, abs=0.001)
    precision = 1 / torch.linalg.eigvalsh(q.covariance)
    ratio = 1 / (1 - share * precision / precision.max())
    floor = 0.5 * (ratio - 1 - ratio.log()).mean().item()
    assert floor == pytest.approx(0.0073, abs=5e-5)
    assert loss(16, 20) == pytest.approx(floor, rel=0.1)


def test_metropolis_towards_the_product_of_marginals() -> None:
    """At one level: the density of the composed precision, not the noised data's."""
    graph, q, sigma, n = chain(4), ar1(4, 0.95), 0.5, 1500
    joint = composed(graph, q)
    target = torch.linalg.inv(composed_precision(graph, q, sigma))
    curvature = torch.linalg.eigvalsh(torch.linalg.inv(target))[-1].item()
    corrector = Metropolis(lambda u, s: composed_log_density(graph, q, u, s), 0.4, 40, curvature)
    start = q.noised(sigma).sample(n, torch.Generator().manual_seed(0))
    out, acceptance = corrector.correct(joint, start, sigma, Noise.of(1, n))
    tolerance = 4 * target.max() * (2 / n) ** 0.5
    assert ((out.T @ out / n - target).abs() < tolerance).all()
    assert ((start.T @ start / n - target).abs() > tolerance).any()
    assert 0.3 < acceptance.mean() < 0.9


def test_metropolis_with_a_measured_step_keeps_two_modes() -> None:
    """One step size for all states, so that the noised mixture stays what it is."""
    modes = [Gaussian(torch.tensor([m]).double(), torch.tensor([[0.04]]).double()) for m in (-1, 1)]
    q, sigma, n = GaussianMixture(torch.tensor([0.3, 0.7]).double(), modes), 0.4, 1500
    curvature = Curvature.measure(
        q.score, karras(12, 0.1, 5.0), shape=(50, 1), products=1, generator=0, dtype=torch.float64
    )
    assert min(curvature.smallest) < 0  # between the modes the log-density is not concave
    start = q.noised(sigma).sample(n, torch.Generator().manual_seed(0))
    corrector = Metropolis(q.log_density, 0.4, 20, curvature)
    out, acceptance = corrector.correct(q.score, start, sigma, Noise.of(1, n))
    assert 0.6 < acceptance.mean() < 1
    for power in (1, 2, 4):
        truth = q.noised(sigma).sample(400_000, torch.Generator().manual_seed(1)) ** power
        error = (out**power).mean() - truth.mean()
        assert error.abs() < 4 * truth.std() * (1 / n + 1 / 400_000) ** 0.5


def test_predictors_that_extrapolate_are_told() -> None:
    """Exact moves for an exact score make samples of UniPC worse, as it reads what they left."""
    q, sigmas = ar1(2, 0.9), karras(20, 0.02, 40.0)
    moves, options = Metropolis(q.log_density, 0.1, 1), {"shape": (20_000, 2), "generator": 3}

    def off(solver: Solver) -> float:
        u = sample(q.score, sigmas, solver=solver, dtype=torch.float64, **options)
        return (torch.cov(u.T) - q.covariance).norm().item()

    with pytest.warns(UserWarning, match=r"UniPC\(.*\) extrapolates from earlier steps"):
        assert off(PredictorCorrector(UniPC(3), moves)) > 0.1
    assert off(PredictorCorrector(SDE(), moves)) < off(SDE())


def test_a_step_in_place_of_a_log_density_is_named() -> None:
    with pytest.raises(PgmdiffError, match=r"Metropolis: expected a function log_density.* 0\.1"):
        Metropolis(0.1)  # type: ignore[arg-type]
