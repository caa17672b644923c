"""NaN, infinity, overflow and underflow are never convergence, anywhere something iterates."""

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError, Posterior, compose, scores
from pgmdiff.composition import FeynmanKac
from pgmdiff.conditioning import (
    Composed,
    DenseOperator,
    Isotropic,
    Linear,
    Mask,
    Tweedie,
    moment_matching,
    reconstruction,
    replacement,
)
from pgmdiff.conditioning.operators import Stacked
from pgmdiff.diagnostics import check_consistency
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import chain, tiles
from pgmdiff.integrations.shared import time_at
from pgmdiff.linalg import conjugate_gradients, iterate_conjugate_gradients
from pgmdiff.precision import (
    Circulant,
    ComposedPrecision,
    ConjugateGradients,
    Dense,
    Eigen,
    LowRank,
    SmallSpace,
    SparseFactors,
    Stationary,
)
from pgmdiff.precision.covariances import Place
from pgmdiff.precision.solves.circulant import shifts
from pgmdiff.samplers import (
    EDM,
    SDE,
    Adaptive,
    Curvature,
    DPMSolver2M,
    DPMSolver2S,
    Euler,
    Heun,
    Langevin,
    Metropolis,
    PredictorCorrector,
    UniPC,
    curvature_extremes,
    effective_sample_size,
    karras,
    log_likelihood,
    sample,
    sample_weighted,
)
from pgmdiff.samplers.smc import systematic
from pgmdiff.scores import denoise
from tests.helpers import ar1, relative
from tests.precision.examples import SIGMA, ring, states

N = 4
Q = ar1(N, 0.7)
LEVELS = karras(4, 0.5, 20.0)
X = torch.linspace(-1, 1, 2 * N, dtype=torch.float64).reshape(2, N)
MASK = Mask(torch.arange(N) % 2 == 0)


def weight(sigma: Tensor, norm: Tensor) -> Tensor:
    return 0.01 / sigma**2


FAULTS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "overflow": 1e308}


class Broken:
    """A function one entry of whose value is spoiled in call number `at`."""

    def __init__(self, function: Callable[..., Tensor], fault: float, at: int) -> None:
        self.function, self.fault, self.at, self.calls = function, fault, at, 0

    def __call__(self, *given: Tensor) -> Tensor:
        value = self.function(*given)
        if self.calls == self.at:
            place = torch.zeros_like(value)
            place.reshape(-1)[-1] = self.fault
            value = value + place
        self.calls += 1
        return value


def sampled(solver) -> Callable[[Broken], object]:
    return lambda score: sample(
        score, LEVELS, shape=(2, N), solver=solver, dtype=torch.float64, generator=0
    )


def normal(number: int, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(number)).to(like)


def weigh(rate: Broken) -> object:
    def potential(u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return Q.score(u, sigma), rate(u)[:, 0]

    return sample_weighted(potential, LEVELS[:-1], shape=(6, N), generator=0)


SOLVERS = [Euler(), Heun(), SDE(1.0), UniPC(), DPMSolver2M(), DPMSolver2S(), EDM(4), Adaptive()]
CORRECTED = PredictorCorrector(Euler(), Langevin(0.1, 2))
ITERATIONS = {
    **{f"sample {type(s).__name__}": sampled(s) for s in [*SOLVERS, CORRECTED]},
    "log_likelihood": lambda score: log_likelihood(score, X, 0.5, 20.0),
    "curvature_extremes": lambda score: curvature_extremes(score, X, 1.0, generator=0),
    "Curvature": lambda score: Curvature.measure(
        score, LEVELS, shape=(2, N), generator=0, dtype=torch.float64
    ),
    "Metropolis": lambda score: Metropolis(Q.log_density, 0.1, 4).correct(score, X, 1.0, normal),
    "replacement": lambda score: sampled(UniPC())(replacement(score, X[:1], MASK)),
    "reconstruction": lambda score: sampled(UniPC())(reconstruction(score, X[:1], MASK, weight)),
    "Isotropic": lambda score: sampled(UniPC())(moment_matching(score, X[:1], MASK, Isotropic())),
    "Tweedie": lambda score: sampled(Heun())(moment_matching(score, X[:1], MASK, Tweedie())),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ITERATIONS)
def test_a_score_that_breaks_is_a_named_error(name: str, fault: str) -> None:
    """Whichever call it is, and whatever comes after: never a result that looks finite."""
    unused = name == "sample Adaptive"  # the first call is only shown to callbacks
    if (name, fault) == ("Metropolis", "overflow"):
        return  # a proposal far away is rejected
    for at in (1,) if unused else (0,) if fault == "overflow" else (0, 1, 3):
        broken = Broken(Q.score, FAULTS[fault], at)
        with pytest.raises(PgmdiffError, match=r"finite|NaN|overflow|are not met"):
            ITERATIONS[name](broken)
        assert broken.calls < 400


@pytest.mark.parametrize("fault", ["nan", "inf"])
def test_a_weight_or_density_that_breaks_is_a_named_error(fault: str) -> None:
    for at in (0, 2):
        rate = Broken(lambda u: 0 * u[:, :1], FAULTS[fault], at)
        with pytest.raises(PgmdiffError, match=rf"after step {max(at - 1, 0)}, at σ = "):
            weigh(rate)
        density = Broken(Q.log_density, FAULTS[fault], at)
        with pytest.raises(PgmdiffError, match="a log-density or a score is not finite"):
            Metropolis(density, 0.1, 4).correct(Q.score, X, 1.0, normal)
    for weights in ([0.0, FAULTS[fault]], [-math.inf, -math.inf]):
        column = torch.tensor(weights)[:, None]
        with pytest.raises(PgmdiffError, match=r"not finite|all weights"):
            systematic(column, torch.tensor([0.5]))
        with pytest.raises(PgmdiffError, match=r"not finite|all weights"):
            effective_sample_size(column[:, 0])
    t = time_at(lambda t: t * FAULTS[fault], torch.ones(2, dtype=torch.float64))
    assert t.isnan().all() or fault == "inf"


def test_one_weight_of_zero_is_a_weight_and_all_are_an_error() -> None:
    rate = Broken(lambda u: 0 * u[:, :1], -math.inf, 1)
    found = weigh(rate)
    assert found.x.isfinite().all()
    assert found.log_weights.exp().sum() == pytest.approx(1)
    with pytest.raises(PgmdiffError, match="all weights of a component are 0 after step 0"):
        weigh(Broken(lambda u: u[:, :1] * 0 - math.inf, 0.0, 0))
    joint = compose(chain(N), node_scores(chain(N), Q))
    with pytest.raises(PgmdiffError, match="a state is not finite after step 1, at σ = "):
        sample_weighted(
            lambda u, s: (Broken(Q.score, math.nan, 0 if s[0] == LEVELS[1] else 1)(u, s), 0 * s),
            LEVELS[:-1], shape=(6, N), generator=0,
        )  # fmt: skip
    good = {"sigmas": LEVELS[:-1], "shape": (4, N), "generator": 0}
    for wrong, message in [
        ({"sigmas": [math.inf, 1.0]}, "finite sigmas"),
        ({"sigmas": [2.0, math.nan]}, "finite sigmas"),
        ({"dtype": torch.float16}, r"must be float32 or float64, got torch\.float16"),
        ({"threshold": math.nan}, "threshold from 0 to 1"),
        ({"threshold": 1.5}, "threshold from 0 to 1"),
        ({"eta": math.nan}, "finite eta"),
        ({"eta": math.inf}, "finite eta"),
    ]:
        with pytest.raises(PgmdiffError, match=message):
            sample_weighted(FeynmanKac(joint), **{**good, **wrong})


@pytest.mark.parametrize("fault", FAULTS)
def test_conjugate_gradients_never_converge_on_what_is_not_a_number(fault: str) -> None:
    matrix, options = Q.covariance, {"tolerance": 1e-10, "most_steps": 50}
    for at in (0, 1, 2):
        product = Broken(lambda v: v @ matrix, FAULTS[fault], at)
        found = iterate_conjugate_gradients(product, X, **options)
        assert not found.converged or fault == "overflow"
        assert found.steps <= 50
        product = Broken(lambda v: v @ matrix, FAULTS[fault], at)
        if fault != "overflow":
            with pytest.raises(PgmdiffError, match=r"test: .*NaN, overflows|vᵀ M v ≤ 0"):
                conjugate_gradients(product, X, what="test", **options)
    spoiled = X.clone()
    spoiled[1, 0] = FAULTS[fault] * 10
    assert not iterate_conjugate_gradients(lambda v: v @ matrix, spoiled, **options).converged
    graph = tiles((12,), 6, 3)
    precision = ComposedPrecision(graph, Dense(node_covariances(graph, ar1(12, 0.5))))
    b = states(12)
    b[2, 3] = FAULTS[fault] * 10
    with pytest.raises(PgmdiffError, match=r"relative residual of (nan|inf)"):
        ConjugateGradients(precision)(b, SIGMA)


@pytest.mark.parametrize("exponent", [-30, -12, 0, 12, 30])
def test_conjugate_gradients_do_not_depend_on_units(exponent: int) -> None:
    """In float32 the squares of 1e±30 are 0 or infinite; so are those of the matrix's products."""
    matrix, b = Q.covariance.float(), X.float()
    exact = torch.linalg.solve(Q.covariance, X.T).T
    for of_matrix in (-12, 0, 12):
        a, m = 10.0**exponent, 10.0**of_matrix
        if abs(exponent - of_matrix) > 37:
            continue  # the solution is not a float32
        found = iterate_conjugate_gradients(
            lambda v, m=m: v @ (m * matrix), a * b, tolerance=1e-5, most_steps=50
        )
        assert found.converged
        assert relative(found.x.double() / a * m, exact) < 1e-4
    for lost in (1e-42, 1e-45):
        assert not iterate_conjugate_gradients(
            lambda v: v @ matrix, lost * b, tolerance=1e-5, most_steps=50
        ).converged
        assert not iterate_conjugate_gradients(
            lambda v, m=lost: v @ matrix * m, b, tolerance=1e-5, most_steps=50
        ).converged


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_observations_in_any_units_condition_alike(noise: float) -> None:
    """H, y and σ_y times a, in float32; squares of the first and last are 0 and infinite."""
    h, q = torch.randn(3, N, generator=torch.Generator().manual_seed(0)), Q
    single = Gaussian(q.mean.float(), q.covariance.float())
    x, seen = X.float(), X[:1].float().flip(1)
    joint = compose(chain(N), node_scores(chain(N), single), rule=Posterior(
        node_covariances(chain(N), q)))  # fmt: skip
    for covariance in (Composed(joint), Tweedie(), Isotropic()):
        found = []
        for a in (1.0, 1e-21, 1e-12, 1e12, 1e18):
            dense = DenseOperator(a * h, (N,))
            for operator in (dense, Linear(lambda v, a=a: a * (v @ h.T), (N,), torch.float32)):
                guided = moment_matching(
                    joint, dense.A(seen), operator, covariance, noise=noise * a
                )
                found.append(guided.denoise(x, 1.0))
        for other in found[1:]:
            assert relative(other, found[0]) < 2e-5
    plain = joint.denoise(x, 1.0)
    assert relative(found[0], plain) > 0.1


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-21, 1e-6])
def test_an_operator_that_vanishes_beside_its_noise_observes_nothing(size: float) -> None:
    """σ_y / |H| has no square in float32 beyond 1e19."""
    single = Gaussian(Q.mean.float(), Q.covariance.float())
    operator = DenseOperator(size * torch.eye(N)[:2], (N,))
    for covariance in (Tweedie(), Isotropic()):
        score = moment_matching(
            single.score, size * X[0, :2].float(), operator, covariance, noise=0.1
        )
        assert relative(score.denoise(X.float(), 1.0), single.denoise(X.float(), 1.0)) < 1e-5


def test_pseudo_inverses_in_any_units() -> None:
    h = torch.randn(3, N, generator=torch.Generator().manual_seed(0))
    y, expected = torch.ones(2, 3), torch.linalg.pinv(h.double())
    for a in (1.0, 1e-21, 1e12, 1e18):
        function = Linear(lambda v, a=a: a * (v @ h.T), (N,), torch.float32)
        assert relative((a * function.A_dagger(y)).double(), y.double() @ expected.T) < 1e-3
        leaf = y.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function.A_dagger(leaf).sum() * a, leaf)
        assert relative(gradient.double(), expected.sum(dim=0).expand(2, 3)) < 1e-3
        both = Stacked((DenseOperator(a * h, (N,)), DenseOperator(a * h[:1], (N,))))
        twice = torch.linalg.pinv(torch.cat([h, h[:1]]).double())
        ones = torch.ones(1, 4, dtype=torch.float64)
        assert relative(a * both.A_dagger(ones), ones @ twice.T) < 1e-6
    for bad in (math.nan, math.inf):
        with pytest.raises(PgmdiffError, match="NaN or infinity"):
            DenseOperator(torch.full((2, N), bad), (N,))


@pytest.mark.parametrize("fault", ["nan", "inf"])
def test_covariances_that_are_not_finite_are_never_definite(fault: str) -> None:
    graph, bad = tiles((24,), 6, 2, periodic=True), FAULTS[fault]
    dense = node_covariances(graph, ar1(24, 0.1))
    dense = {name: value.clone() for name, value in dense.items()}
    next(iter(dense.values()))[0, 0] = bad
    sizes = {name: graph.elements(name).numel() for name in graph.names}
    parents = {name: Place(name, torch.arange(d)) for name, d in sizes.items()}
    ones = {name: torch.ones(d, 1, dtype=torch.float64) for name, d in sizes.items()}
    gamma = ring((24,), 0.1).autocovariance.clone()
    gamma.reshape(-1)[len(gamma.reshape(-1)) // 2] = bad
    for make in (
        *(lambda s=s: s(ComposedPrecision(graph, Dense(dense)))
          for s in (Eigen, SparseFactors, ConjugateGradients)),
        lambda: SmallSpace(ComposedPrecision(graph, LowRank(ones, bad, parents))),
        lambda: SmallSpace(ComposedPrecision(
            graph, LowRank({n: bad * v for n, v in ones.items()}, 1.0, parents))),
        lambda: Circulant(p := ComposedPrecision(graph, Stationary(gamma, (0,))), shifts(p)),
    ):  # fmt: skip
        with pytest.raises(PgmdiffError, match=r"NaN|finite"):
            make()(states(24), SIGMA)


def test_what_cannot_be_reached_is_given_up_soon() -> None:
    """Matrices that are not symmetric, smooth data without noise, and paths with jumps."""
    turn = torch.tensor([[1.0, 30.0], [-30.0, 1.0]]).double()
    b = torch.tensor([[1.0, 2.0]]).double()
    found = iterate_conjugate_gradients(lambda v: v @ turn, b, tolerance=1e-10, most_steps=50)
    assert not found.converged
    assert "diverged" in found.reason  # more steps would not help
    place = torch.arange(64, dtype=torch.float64)
    covariance = (-((place[:, None] - place) ** 2) / 200).exp() + 1e-9 * torch.eye(64)
    smooth, calls = Gaussian(torch.zeros(64), covariance.float()), []

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        value = smooth.score(x, sigma)
        if value.requires_grad:
            value.register_hook(calls.append)
        return value

    guided = moment_matching(score, torch.zeros(64), Mask(torch.arange(64) % 2 == 0), Tweedie())
    u = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    assert guided.denoise(u, 5.0)[:, ::2].norm() < 0.1 * denoise(smooth, u, 5.0)[:, ::2].norm()
    assert len(calls) <= 11  # the solve stops early, without harm
    with pytest.raises(PgmdiffError, match=r"rtol = .* are not met from|not finite"):
        sampled(Adaptive())(lambda x, s: 1e290 * x)
    with pytest.raises(PgmdiffError, match="are lost in the rounding"):
        curvature_extremes(Q.score, 300 + X.float(), 1e-4)


def test_samples_that_miss_a_noiseless_observation_are_announced_once() -> None:
    place = torch.arange(64, dtype=torch.float64)
    covariance = (-((place[:, None] - place) ** 2) / 2000).exp() + 1e-6 * torch.eye(64)
    mask, sigmas = Mask(place < 48), karras(18, 0.002, 80.0)
    for a, b in ((1.0, 0.0), (1e-3, 0.01), (1e3, 1e4)):
        q = Gaussian(torch.full((64,), b).double(), a**2 * covariance)
        y = q.sample(1, 0)
        for noise in (0.0, 0.1 * a):  # Isotropic refuses; without steps nothing is conditioned
            guided = moment_matching(q.score, y, mask, Tweedie(), noise=noise / 100, most_steps=0)
            with pytest.warns(UserWarning, match="matching: 3 of 3 samples miss") as found:
                sample(guided, [a * s for s in sigmas], shape=(3, 64), generator=0,
                       dtype=torch.float64)  # fmt: skip
            assert len(found) == 1
            assert "‖y‖ = " in str(found[0].message)
            assert found[0].filename == __file__
    guided = moment_matching(q.score, y, mask, Tweedie(), most_steps=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(guided, sigmas[:-1], shape=(3, 64), generator=0)  # a noised state need not meet it


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", [UniPC(), SDE(1.0)], ids=repr)
def test_samples_that_meet_an_observation_are_not_announced(solver, dtype: torch.dtype) -> None:
    """Warnings are errors here; one step before σ = 0 may be as large as 0.05."""
    graph = chain(12)
    for a, b in ((1e-3, 0.0), (1e3, 1e4)):
        q = Gaussian(torch.full((12,), b).double(), a**2 * ar1(12, 0.9).covariance)
        single = Gaussian(q.mean.to(dtype), q.covariance.to(dtype))
        joint = compose(graph, node_scores(graph, single), rule=Posterior(
            node_covariances(graph, q)))  # fmt: skip
        random = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
        for h in (Mask(torch.arange(12) == 3), DenseOperator(random, (12,))):
            y = h.A(q.sample(1, 3).to(dtype))
            for guided in (
                replacement(joint, y, h),
                replacement(moment_matching(joint, y, h, Composed(joint)), y, h),
                moment_matching(joint, y, h, Composed(joint)),
                moment_matching(joint, y, h, Composed(joint), noise=0.2 * a),
                reconstruction(joint, y, h, weight),
            ):
                sigmas = [a * s for s in karras(6, 0.05, 80.0)]
                run = {"solver": solver, "dtype": dtype, "generator": 0}
                sample(guided, sigmas, shape=(4, 12), mean=b, **run)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
def test_noise_that_is_no_number_would_allow_any_residual(wrong: float) -> None:
    for make in (
        lambda: reconstruction(Q.score, X[:1], MASK, weight, noise=wrong),
        lambda: moment_matching(Q.score, X[:1], MASK, noise=wrong),
    ):
        with pytest.raises(PgmdiffError, match="expected finite noise of at least 0"):
            make()


def test_wrapped_scores_finish_too() -> None:
    y = torch.ones(N, dtype=torch.float64)
    inner = reconstruction(Q.score, y, MASK, lambda sigma, norm: 0 * sigma, noise=0.0)
    for score in (
        scores.guided(inner, {}),
        scores.scheduled(inner, {}),
        replacement(inner, y, Mask(torch.arange(N) == 0)),
    ):
        with pytest.warns(UserWarning, match="reconstruction: 2 of 2 samples miss") as found:
            sample(score, LEVELS, shape=(2, N), dtype=torch.float64, generator=0)
        assert len(found) == 1


def test_figures_that_overflow_are_no_verdict() -> None:
    """Comparisons with NaN are false: what overflows looked consistent."""
    graph, data = chain(N), Q.sample(100, 0)
    far = {name: (lambda x, s: 1e200 * x) for name in graph.regions.names}
    with pytest.raises(PgmdiffError, match="a figure of 'f0' at σ = 1 is not finite"):
        check_consistency(graph, far, data, [1.0])
