"""Conditioned scores, compared with the posterior of Gaussians where they claim to sample it."""

import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError, Posterior, ShapeError, compose, from_denoiser
from pgmdiff.conditioning import (
    Composed,
    Crop,
    DenseOperator,
    Isotropic,
    Mask,
    Tweedie,
    block_average,
    blur,
    dps,
    matched,
    moment_matching,
    reconstruction,
    replacement,
)
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import chain, tiles
from pgmdiff.linalg import beside
from pgmdiff.models.series import SeriesNet
from pgmdiff.samplers import SDE, Heun, karras, sample
from pgmdiff.scores.guidance import Guided
from pgmdiff.training import EDMDenoiser
from tests.helpers import ar1, relative

PAIR = ar1(2, 0.9)
MASK = torch.tensor([True, False])
DPS = dps(0.1, data_std=1.0)
SIGMAS = (0.01, 0.1, 1.0, 10.0, 80.0)
N = 10


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def posterior_mean(
    q: Gaussian, u: Tensor, sigma: float, h: Tensor, y: Tensor, noise: float
) -> Tensor:
    """E[u_0 | u_σ = u, y] by one dense Gaussian conditioning."""
    n = len(q.covariance)
    seen = torch.cat([torch.eye(n, dtype=torch.float64), h])
    levels = torch.tensor([sigma] * n + [noise] * len(h), dtype=torch.float64) ** 2
    gain = q.covariance @ seen.T @ torch.linalg.pinv(seen @ q.covariance @ seen.T + levels.diag())
    both = torch.cat([u, y.expand(len(u), -1)], dim=1)
    return q.mean + (both - q.mean @ seen.T) @ gain.T


def composed(q: Gaussian, graph=None):
    graph = chain(N) if graph is None else graph
    return compose(graph, node_scores(graph, q), rule=Posterior(node_covariances(graph, q)))


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["dense", "mask", "blocks"])
def test_matched_moments_are_exact_at_every_sigma(kind: str, noise: float) -> None:
    q = Gaussian(0.5 + torch.arange(N, dtype=torch.float64), ar1(N, 0.9).covariance)
    h = {
        "dense": DenseOperator(random(3, N), (N,)),
        "mask": Mask(torch.arange(N) % 4 == 0),
        "blocks": block_average((N,), 5),
    }[kind]
    y = h.A(q.sample(1, torch.Generator().manual_seed(2)))
    y = y + noise * h.A(random(1, N, seed=3))
    eye = torch.eye(N, dtype=torch.float64)
    matrix = h.A(eye).T
    kept = matrix.abs().sum(dim=1) > 0
    for graph in (chain(N), tiles((N,), 4, 2)):
        joint = composed(q, graph)
        for sigma in SIGMAS:
            u = q.noised(sigma).sample(4, torch.Generator().manual_seed(1))
            expected = posterior_mean(q, u, sigma, matrix[kept], y[:, kept], noise)
            for covariance in (Composed(joint), Tweedie()):
                found = moment_matching(joint, y, h, covariance, noise=noise).denoise(u, sigma)
                assert relative(found - q.mean, expected - q.mean) < 1e-8, (sigma, covariance)


def test_isotropic_moments_are_exact_for_isotropic_data_only() -> None:
    for q, exact in (
        (Gaussian(torch.zeros(2).double(), 4 * torch.eye(2).double()), True),
        (PAIR, False),
    ):
        y, h = torch.tensor([[1.0, 0.0]]).double(), Mask(MASK)
        u = q.noised(1.0).sample(3, torch.Generator().manual_seed(0))
        expected = posterior_mean(q, u, 1.0, torch.tensor([[1.0, 0.0]]).double(), y[:, :1], 0.2)
        std = q.covariance[0, 0].sqrt().item()
        for jacobian in (True, False):
            guided = moment_matching(q.score, y, h, Isotropic(std, jacobian), noise=0.2)
            assert (relative(guided.denoise(u, 1.0), expected) < 1e-9) == exact


def test_samples_with_matched_moments_are_the_posterior() -> None:
    y = torch.tensor([1.0, 0.0], dtype=torch.float64)
    graph = chain(2)
    joint = composed(PAIR, graph)
    guided = moment_matching(joint, y, Mask(MASK), Composed(joint))
    out = sample(guided, karras(40, 0.002, 80.0), shape=(4000, 2), solver=Heun(), generator=0,
                 dtype=torch.float64)  # fmt: skip
    assert (out[:, 0] - 1).abs().max() < 1e-6
    error = 4 * 0.19**0.5 / 4000**0.5
    assert out[:, 1].mean().item() == pytest.approx(0.9, abs=error)
    assert out[:, 1].var().item() == pytest.approx(0.19, abs=4 * 0.19 * (2 / 4000) ** 0.5)


def test_nonlinear_observations_are_linearised() -> None:
    y = torch.tensor([[0.7]], dtype=torch.float64)
    h = DenseOperator(torch.tensor([[2.0, -1.0]]).double(), (2,))
    u = PAIR.noised(1.0).sample(3, torch.Generator().manual_seed(0))
    linear = moment_matching(PAIR.score, y, h, Tweedie(), noise=0.1).denoise(u, 1.0)
    function = moment_matching(PAIR.score, y, h.A, Tweedie(), noise=0.1).denoise(u, 1.0)
    torch.testing.assert_close(function, linear)
    squared = moment_matching(PAIR.score, y, lambda x: (x**2)[:, :1], Tweedie(), noise=0.05)
    out = sample(squared, karras(60, 0.01, 20.0), shape=(500, 2), solver=SDE(1.0), generator=0,
                 dtype=torch.float64)  # fmt: skip
    assert ((out[:, 0] ** 2 - 0.7).abs() < 0.25).double().mean() > 0.95
    assert 0.2 < (out[:, 0] > 0).double().mean() < 0.8, "both roots are found"


def test_replacement_meets_its_constraint_and_is_not_the_posterior() -> None:
    """Observe u_0 = 1 of a correlated pair: the posterior of u_1 is N(0.9, 0.19)."""
    n, y = 1000, torch.tensor([1.0, float("nan")], dtype=torch.float64)
    conditioned = replacement(PAIR.score, y, MASK)
    out = sample(conditioned, karras(60, 0.01, 20.0), shape=(n, 2), solver=SDE(1.0),
                 generator=0, dtype=torch.float64)  # fmt: skip
    assert (out[:, 0] - 1).abs().max() < 1e-6
    mean, error = out[:, 1].mean().item(), 4 * out[:, 1].std().item() / n**0.5
    assert mean > 0.3, "the observation has an effect"
    assert mean < 0.9 - error, "the posterior mean is not reached"


@pytest.mark.parametrize(
    "operator",
    [block_average((N,), 5), Crop((N,), (slice(2, 5),)), DenseOperator(random(3, N), (N,))],
)
def test_replacement_meets_every_linear_constraint(operator) -> None:
    q = ar1(N, 0.9)
    y = operator.A(q.sample(6, torch.Generator().manual_seed(2)))
    out = sample(replacement(q.score, y, operator), karras(20, 0.002, 80.0), shape=(6, N),
                 generator=0, dtype=torch.float64)  # fmt: skip
    assert (operator.A(out) - y).abs().max() < 1e-6


def test_reconstruction_is_exact_with_the_matched_weight() -> None:
    h, y = DenseOperator(torch.tensor([[1.0, 0.5]]).double(), (2,)), torch.tensor([[1.3]]).double()
    row = h.matrix[0]

    def variance(sigma: Tensor) -> Tensor:
        posterior = torch.linalg.inv(
            torch.linalg.inv(PAIR.covariance) + torch.eye(2) / sigma[0] ** 2
        )
        return (row @ posterior @ row).expand(len(sigma))

    for noise in (0.0, 0.4):
        guided = reconstruction(PAIR.score, y, h, matched(variance, noise))
        for sigma in SIGMAS:
            u = PAIR.noised(sigma).sample(3, torch.Generator().manual_seed(0))
            expected = posterior_mean(PAIR, u, sigma, h.matrix, y, noise)
            found = u + sigma**2 * guided(u, sigma)
            assert relative(found, expected) < 1e-6


def test_the_printed_sign_of_algorithm_5_ascends() -> None:
    y, h = torch.tensor([[1.0, 0.0]]).double(), Mask(MASK)
    u = PAIR.noised(1.0).sample(5, torch.Generator().manual_seed(0))
    errors = {}
    for sign in (1.0, 0.0, -1.0):
        guided = reconstruction(PAIR.score, y, h, lambda s, r, sign=sign: sign * DPS(s, r))
        denoised = u + guided(u, 1.0)
        errors[sign] = (h.A(denoised) - y).norm(dim=1)
    assert (errors[1.0] < errors[0.0]).all()
    assert (errors[-1.0] > errors[0.0]).all()


def test_samples_do_not_depend_on_each_other() -> None:
    y, h = torch.tensor([[1.0, 0.0]]).double(), Mask(MASK)
    u = PAIR.noised(1.0).sample(5, torch.Generator().manual_seed(0))
    for guided in (
        reconstruction(PAIR.score, y, h, DPS),
        moment_matching(PAIR.score, y, h, Tweedie()),
        replacement(PAIR.score, y[0], MASK),
    ):
        whole = guided(u, torch.full((5,), 0.7, dtype=torch.float64))
        alone = guided(u[2:3], torch.full((1,), 0.7, dtype=torch.float64))
        torch.testing.assert_close(whole[2:3], alone, rtol=1e-10, atol=1e-12)


def test_gradients_with_checkpoints_are_the_same_and_evaluate_twice() -> None:
    graph, q, calls = chain(6), ar1(6, 0.8), []
    linear = torch.nn.Linear(2, 2, dtype=torch.float64)

    def pair(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(len(x))
        return linear(x).tanh()

    scores = dict.fromkeys(graph.factors, pair) | {
        name: q.marginal(torch.tensor([0])).score for name in graph.variables
    }
    scores = {n: (s if n in graph.scopes else lambda x, s: -x) for n, s in scores.items()}
    results, counts = [], []
    for checkpoint in (False, True):
        calls.clear()
        joint = compose(graph, scores, max_batch=2, checkpoint=checkpoint)
        leaf = random(3, 6).requires_grad_()
        (gradient,) = torch.autograd.grad(joint(leaf, 1.0).square().sum(), leaf)
        results.append(gradient)
        counts.append(sum(calls))
    torch.testing.assert_close(*results)
    assert counts[1] == 2 * counts[0]


def test_bad_conditions_are_named() -> None:
    y, h = torch.zeros(2), Mask(MASK)
    frozen, x, one = torch.no_grad()(PAIR.score), torch.zeros(1, 2), torch.ones(1)
    infinite = torch.full((2,), float("inf"))
    marginal = compose(chain(2), lambda x, s: -x)
    for make, error, message in [
        (lambda: replacement(PAIR.score, y, torch.ones(2)), ShapeError, "boolean mask"),
        (lambda: replacement(PAIR.score, infinite, MASK), ShapeError, "finite"),
        (
            lambda: replacement(PAIR.score, y, torch.sin),
            PgmdiffError,
            "expected an operator with A, A_adjoint and A_dagger",
        ),
        (lambda: moment_matching(PAIR.score, y, h, 1.0), PgmdiffError, "a covariance such as"),
        (
            lambda: moment_matching(PAIR.score, y, h, Tweedie(), noise=-1),
            PgmdiffError,
            "at least 0",
        ),
        (lambda: Composed(marginal), PgmdiffError, "under Consistent or Posterior"),
        (lambda: reconstruction(PAIR.score, torch.zeros(3), h, DPS), ShapeError, r"got \(3,\)"),
        (lambda: reconstruction(PAIR.score, y, 3, DPS), PgmdiffError, "a function, got int"),
        (lambda: reconstruction(frozen, y, h, DPS)(x, 1.0), PgmdiffError, "no_grad"),
        (lambda: moment_matching(frozen, y, h, Tweedie())(x, one), PgmdiffError, "no_grad"),
    ]:
        with pytest.raises(error, match=message):
            make()


@pytest.mark.parametrize("wrong", [chain(2), None, EDMDenoiser(SeriesNet(), 1.0)])
def test_what_is_no_score_is_refused_at_once(wrong: object) -> None:
    y, h = torch.zeros(2), Mask(MASK)
    for name, make in {
        "replacement": lambda: replacement(wrong, y, h),
        "reconstruction": lambda: reconstruction(wrong, y, h, DPS),
        "moment_matching": lambda: moment_matching(wrong, y, h),
    }.items():
        with pytest.raises(PgmdiffError, match=f"{name}: expected a score"):
            make()


def every_kind(score, y: Tensor, h) -> list:
    return [
        replacement(score, y, h),
        reconstruction(score, y, h, DPS),
        moment_matching(score, y, h, Composed(score)),
        moment_matching(score, y, h, Tweedie()),
        moment_matching(score, y, h, Isotropic()),
    ]


def test_scores_around_a_joint_name_its_variables() -> None:
    joint = composed(ar1(N, 0.9))
    y, mask = joint.graph.observe({"x1": 1.0})
    kinds = every_kind(joint, y, mask)
    u = torch.randn(3, N)
    around = moment_matching(kinds[0], y, mask, Tweedie()), Guided(kinds[0], {})
    for score in (*kinds, *around):
        found = score.unpack(u)
        assert found.keys() == set(joint.graph.variables)
        assert torch.equal(found["x1"], joint.unpack(u)["x1"])
        assert torch.equal(score.pack(found), u)
    assert not hasattr(from_denoiser(joint.denoise), "unpack")


def test_conditioned_scores_keep_the_states_dtype_and_batch() -> None:
    joint, h = composed(ar1(N, 0.9)), Mask(torch.arange(N) % 3 == 0)
    u, y = random(4, N), h.A(random(4, N, seed=1))
    for single, double in zip(
        every_kind(joint, y, h), every_kind(joint, y.float(), h), strict=True
    ):
        assert single(u.float(), 0.7).dtype == torch.float32
        assert double(u, 0.7).dtype == torch.float64  # σ may be one number
        assert relative(single(u.float(), 0.7).double(), double(u, 0.7)) < 1e-4
    for empty in every_kind(joint, y[:1], h):
        assert empty(u[:0], torch.ones(0, dtype=torch.float64)).shape == (0, N)


def test_observations_that_fit_no_state_are_named_by_everyone() -> None:
    joint, h = composed(ar1(N, 0.9)), Mask(torch.arange(N) % 3 == 0)
    u, y = random(4, N), h.A(random(3, N, seed=1))
    narrow = Crop((1,), (slice(1),))  # torch would broadcast or slice it
    long = Crop((N + 2,), (slice(2),))
    for states, seen, operator, message in [
        (u, y, h, r"each of 4 samples, got \(3, 10\)"),
        (u[:1], y, h, r"each of 1 samples, got \(3, 10\)"),
        (u, y[0] + 1j * y[0], h, "the observation is complex, but"),
        (u.reshape(2, 2, N), y[0], h, "flatten several batch axes"),
    ]:
        for guided in every_kind(joint, seen, operator):
            with pytest.raises(ShapeError, match=message):
                guided(states, torch.ones(states.shape[:-1], dtype=torch.float64))
    for each, shape in ((narrow, 1), (long, 12)):
        for make in (replacement, lambda *a: reconstruction(*a, DPS), moment_matching):
            seen, said = torch.zeros(each.observed_shape), rf"states \[batch, {shape}\], got "
            with pytest.raises(ShapeError, match=rf"{said}a score of \[batch, 10\]\. Make"):
                make(joint, seen, each)  # before a run begins
            bare = make(lambda x, sigma: -x, seen, each)
            with pytest.raises(ShapeError, match=rf"{said}\(4, 10\)\. Make"):
                bare(u, torch.ones(4))
    for make in (replacement, lambda *given: reconstruction(*given, DPS)):
        with pytest.raises(ShapeError, match=r"as a tensor, .* got 'y'"):
            make(joint, "y", h)
        assert torch.equal(make(joint, [0.5] * N, h)(u, 1.0), make(joint, 0.5, h)(u, 1.0))
    with pytest.raises(ShapeError, match=r"returns torch\.float16 for states of torch\.float64"):
        reconstruction(joint, torch.zeros(2), lambda x: x[:, :2].half(), DPS)(u, 1.0)
    with pytest.raises(PgmdiffError, match="a function, got str"):
        moment_matching(joint, y, "h", Composed(joint))


def test_a_boolean_tensor_is_a_mask_for_every_method() -> None:
    graph = chain(N)
    y, mask = graph.observe({"x1": torch.tensor(0.5).double()})
    joint, u = composed(ar1(N, 0.8)), random(3, N)
    kinds = zip(every_kind(joint, y, mask), every_kind(joint, y, Mask(mask)), strict=True)
    for by_tensor, by_operator in kinds:
        assert torch.equal(by_tensor(u, 1.0), by_operator(u, 1.0))
    with pytest.raises(ShapeError, match="in their places in the whole state"):
        replacement(joint, torch.zeros(1), mask)
    with pytest.raises(ShapeError, match="A mask and its observation have one shape"):
        replacement(joint, torch.zeros(N), mask[1:])
    for y in (torch.zeros(2, 1, 3, N), torch.zeros(1, 3, N)):
        words = (
            rf"for states \({N},\); if they are \((1, )?3, {N}\), give Mask\(mask, event_shape=\("
        )
        with pytest.raises(ShapeError, match=words):
            moment_matching(joint, y, Mask(mask))


def test_rounded_observations_of_operators_that_are_not_onto() -> None:
    q, h = ar1(8, 0.9), blur((8,), torch.tensor([0.25, 0.5, 0.25]), periodic=True)
    joint = composed(q, chain(8))
    x, u = q.sample(2, torch.Generator().manual_seed(0)), random(2, 8)
    rounded = h.A(x.float()).double()
    for sigma in SIGMAS:
        found, exact = (
            moment_matching(joint, y, h, Composed(joint)).denoise(u, sigma)
            for y in (rounded, h.A(x))
        )
        assert relative(found, exact) < 1e-4


def numerical_gradient(function, x: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient of a sum over independent samples, by central differences."""
    columns = []
    for e in torch.eye(x.shape[1], dtype=x.dtype) * step:
        columns.append((function(x + e) - function(x - e)) / (2 * step))
    return torch.stack(columns, dim=1)


def bent(x: Tensor, sigma: Tensor) -> Tensor:
    """A nonlinear score with a symmetric Jacobian."""
    return -(x + 0.3 * x.sin()) / (1 + beside(sigma, x) ** 2)


CONDITIONINGS = {
    "replacement": lambda joint, y, h, noise: replacement(joint, y, h),
    "reconstruction": lambda joint, y, h, noise: reconstruction(joint, y, h, DPS),
    "Composed": lambda joint, *seen, noise: moment_matching(
        joint, *seen, Composed(joint), noise=noise
    ),
    "Tweedie": lambda joint, *seen, noise: moment_matching(bent, *seen, Tweedie(), noise=noise),
    "Isotropic": lambda joint, *seen, noise: moment_matching(
        joint, *seen, Isotropic(1.3), noise=noise
    ),
}


@pytest.mark.parametrize("kind", CONDITIONINGS)
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_gradients_through_conditioned_scores(kind: str, noise: float) -> None:
    """The gradients hold also where V, or the derivative of the observation, is not constant."""
    graph, mask = chain(4), Mask(torch.arange(4) % 2 == 0)
    rule = Posterior(node_covariances(graph, ar1(4, 0.9)))
    joint, u, v = compose(graph, bent, rule=rule), random(3, 4), random(3, 4, seed=1)
    sigma = torch.full((3,), 0.8, dtype=torch.float64)
    observed = [(mask.A(random(1, 4, seed=2)), mask)]
    if noise and kind != "replacement":
        observed.append((random(2), lambda x: x[:, :2] ** 2 + x[:, 1:3]))
    for seen in observed:
        conditioned = CONDITIONINGS[kind](joint, *seen, noise=noise)
        leaf = u.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((conditioned(leaf, sigma) * v).sum(), leaf)
        expected = numerical_gradient(lambda x, f=conditioned: (f(x, sigma) * v).sum(dim=1), u)
        assert relative(gradient, expected) < 1e-7
    guided = moment_matching(bent, *observed[0], Tweedie())
    with torch.no_grad():
        assert not guided(leaf, sigma).requires_grad


def test_without_noise_there_is_nothing_to_learn() -> None:
    joint, h = composed(ar1(N, 0.9)), Mask(torch.arange(N) % 3 == 0)
    u, y = random(2, N), h.A(random(1, N, seed=1))
    sigma = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for covariance in (Composed(joint), Tweedie(), Isotropic()):
        guided = moment_matching(joint, y, h, covariance)
        found = guided.denoise(u, sigma)
        torch.testing.assert_close(found[0], u[0])
        torch.testing.assert_close(found[1], guided.denoise(u, 1.0)[1])


@pytest.mark.parametrize("folded", [0.2, 0.0, None])
def test_gradients_by_the_level_a_condition_and_the_observation_are_right(
    folded: float | None,
) -> None:
    """Also where the state itself requires none; by finite differences, of a joint or a score."""
    joint, x, shift = composed(ar1(N, 0.8)), random(1, N), torch.zeros(1, N).double()
    moved = from_denoiser(lambda x, s, shift: joint.denoise(x - shift, s) + shift)
    level, y = torch.tensor([0.5]).double(), torch.full((N,), 1.5).double()
    given, h = [level, shift, y], Mask(torch.arange(N) % 3 == 1)

    def kinds(level: Tensor, shift: Tensor, y: Tensor) -> list[Tensor]:
        if folded is not None:
            return [moment_matching(joint, y, h, noise=folded)(x, level).sum()]
        methods = [replacement(moved, y, h), reconstruction(moved, y, h, DPS)]
        for each in (Tweedie(), Isotropic(), Isotropic(jacobian=False)):
            methods.append(moment_matching(moved, y, h, each, noise=0.3))
        return [guided(x, level, shift=shift).sum() for guided in methods]

    for place in (0, 2) if folded is not None else range(3):
        there = [t.clone().requires_grad_(k == place) for k, t in enumerate(given)]
        ends = [kinds(*(t + e * (k == place) for k, t in enumerate(given))) for e in (1e-6, -1e-6)]
        for value, high, low in zip(kinds(*there), *ends, strict=True):
            (found,) = torch.autograd.grad(value, there[place])
            assert found.sum().item() == pytest.approx(((high - low) / 2e-6).item(), rel=1e-5)


def test_jacobians_that_are_no_covariance_do_not_make_samples_explode() -> None:
    """A denoiser whose slope at large σ is off by 1 % has variances σ² J near 0 and below."""
    q, mask = ar1(4, 0.9), torch.arange(4) == 0
    y = torch.tensor([1.0, 0, 0, 0]).double()

    def poor(x: Tensor, sigma: Tensor) -> Tensor:
        off = 0.01 * (1 + torch.tanh(x[:, 1] / sigma)) * (sigma > 4) * x[:, 0]
        return q.denoise(x, sigma) - off[:, None] * mask

    guided = moment_matching(from_denoiser(poor), y, mask, noise=0.1)
    options = {"shape": (500, 4), "generator": 0, "dtype": torch.float64}
    u = sample(guided, karras(20, 0.01, 10.0), **options)
    gain = q.covariance[:, 0] / (q.covariance[0, 0] + 0.01)
    deviations = (q.covariance - gain[:, None] * q.covariance[:1]).diagonal().sqrt()
    assert ((u - gain) / deviations).abs().max() < 6, "67 if they count as covariances"


def test_swapped_and_named_observations_are_told() -> None:
    joint, mask = composed(ar1(N, 0.9)), torch.arange(N) < 3
    y = torch.zeros(N)
    for given in ((mask, y), (Mask(mask), y)):
        with pytest.raises(ShapeError, match="expected the observation before its operator"):
            moment_matching(joint, *given)
    with pytest.raises(ShapeError, match=r"y, mask = graph\.observe"):
        moment_matching(joint, {"x0": 1.0}, mask)
    with pytest.raises(ShapeError, match="expected a boolean mask"):
        replacement(joint, mask, mask.to(torch.uint8))
    replacement(joint, mask, mask.tolist())  # values that happen to be booleans
    shaped = torch.distributions.Normal(0.0, 1.0)  # its event_shape is its own
    shaped.__class__ = type("Own", (torch.distributions.Normal,), {"__call__": lambda s, x, v: -x})
    replacement(shaped, y, mask)
