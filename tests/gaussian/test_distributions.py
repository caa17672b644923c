"""Gaussians, and what all distributions with closed forms share."""

import math

import numpy as np
import pytest
import torch

from pgmdiff import Consistent, PgmdiffError, ShapeError, compose, gaussian
from pgmdiff.gaussian import (
    Gaussian,
    GaussianMixture,
    bethe_entropy,
    kl_divergence,
    node_covariances,
    node_scores,
)
from pgmdiff.graphs import chain, tiles
from pgmdiff.testing import markov_gaussian
from tests.helpers import ar1


def test_score_is_the_gradient_of_the_log_density() -> None:
    q = markov_gaussian(chain(4, (2,)), 1)
    for sigma in (0.0, 0.3, 2.0):
        u = q.sample(5, torch.Generator().manual_seed(0)).requires_grad_()
        (gradient,) = torch.autograd.grad(q.log_density(u, sigma).sum(), u)
        torch.testing.assert_close(q.score(u, sigma), gradient)


def test_log_density_matches_torch() -> None:
    q = ar1(5, 0.8)
    u = q.sample(7, torch.Generator().manual_seed(0))
    other = torch.distributions.MultivariateNormal(q.mean, q.noised(0.5).covariance)
    torch.testing.assert_close(q.log_density(u, 0.5), other.log_prob(u))
    assert q.entropy(0.5) == pytest.approx(other.entropy().item())


def test_kl_matches_torch() -> None:
    p, q = markov_gaussian(chain(5), 1), markov_gaussian(chain(5), 2)
    torch_p, torch_q = (
        torch.distributions.MultivariateNormal(g.mean, g.covariance) for g in (p, q)
    )
    expected = torch.distributions.kl_divergence(torch_p, torch_q).item()
    assert kl_divergence(p, q) == pytest.approx(expected)
    assert kl_divergence(p, p) == pytest.approx(0, abs=1e-12)
    column = Gaussian(q.mean[:, None], q.covariance)
    assert kl_divergence(p, column) == pytest.approx(expected), "elements count, not their shape"


def test_marginals_and_denoiser() -> None:
    q = ar1(6, 0.7)
    part = q.marginal(torch.tensor([[4, 1], [0, 2]]))
    assert part.event_shape == (2, 2)
    assert part.covariance[0, 1].item() == pytest.approx(0.7**3)
    u = q.sample(3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(q.denoise(u, 0.0), u)
    regression = q.covariance @ torch.linalg.inv(q.noised(2.0).covariance)
    torch.testing.assert_close(q.denoise(u, 2.0), u @ regression.T)


def test_fit_recovers_a_gaussian() -> None:
    q, n = ar1(4, 0.6), 40_000
    fitted = Gaussian.fit(q.sample(n, torch.Generator().manual_seed(0)))
    assert (fitted.covariance - q.covariance).abs().max() < 5 * (2 / n) ** 0.5
    for wrong in (torch.zeros(3, 2, dtype=torch.int64), torch.tensor(1.0)):
        with pytest.raises(ShapeError, match=r"floating-point samples \[n, \*event\], got"):
            Gaussian.fit(wrong)
    with pytest.raises(ShapeError, match="at least 2"):
        Gaussian.fit(torch.zeros(1, 3))


def test_arrays_and_lists_make_distributions() -> None:
    mean, covariance = [1.0, 2.0], [[2.0, 0.5], [0.5, 1.0]]
    q = Gaussian(torch.tensor(mean).double(), torch.tensor(covariance).double())
    expected = q.sample(4, 0)
    for same in (Gaussian(mean, covariance), Gaussian(np.array(mean), np.array(covariance))):
        assert same.sample(4, 0).equal(expected)
    narrow = Gaussian(mean, torch.tensor(covariance))  # PyTorch's numbers are of float32
    torch.testing.assert_close(narrow.sample(4, 0), expected, atol=1e-6, rtol=1e-6)
    weights = np.array([0.25, 0.75])
    mixture = GaussianMixture(weights, [q, q.noised(1.0)])
    assert mixture.weights.equal(GaussianMixture([0.25, 0.75], [q, q]).weights)
    samples = expected.numpy()
    assert Gaussian.fit(samples).covariance.equal(Gaussian.fit(expected).covariance)
    with pytest.raises(ShapeError, match="expected the mean as a tensor, an array or a list"):
        Gaussian("zero", covariance)


def test_bethe_entropy_is_not_the_entropy_for_sigma_above_0() -> None:
    q = ar1(8, 0.9)
    assert bethe_entropy(chain(8), q) == pytest.approx(q.entropy())
    assert bethe_entropy(chain(8), q, 1.0) > q.entropy(1.0) + 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("own", [torch.float32, torch.float64])
def test_scores_come_in_the_dtype_of_the_state(dtype: torch.dtype, own: torch.dtype) -> None:
    q, exact = ar1(4, 0.8, own), ar1(4, 0.8)
    u = exact.sample(3, torch.Generator().manual_seed(0)).to(dtype)
    expected = exact.score(u.double(), 0.5).to(dtype)
    torch.testing.assert_close(q.score(u, 0.5), expected, rtol=1e-4, atol=1e-5)
    joint = compose(chain(4), node_scores(chain(4), q))
    reference = compose(chain(4), node_scores(chain(4), exact))(u.double(), 0.5).to(dtype)
    torch.testing.assert_close(joint(u, 0.5), reference, rtol=1e-4, atol=1e-5)


def test_a_fit_of_float32_may_be_widened() -> None:
    smooth = torch.ones(12, 12).double() + 1e-7 * torch.eye(12)
    states = Gaussian(torch.zeros(12).double(), smooth).sample(300, 0).float()
    fitted = Gaussian.fit(states)
    assert fitted.covariance.dtype == torch.float32
    wide = Gaussian(fitted.mean.double(), fitted.covariance.double())
    exact = Gaussian.fit(states.double()).covariance
    assert torch.linalg.eigvalsh(wide.covariance)[0] >= 0
    assert (wide.covariance - exact).abs().max() < 1e-5


def test_ar1_is_the_stationary_autoregression() -> None:
    """u_i = ρ u_{i-1} + √(1 - ρ²) ε_i: u = L ε with L lower triangular, and Σ = L Lᵀ."""
    for rho in (-0.6, 0.0, 0.9):
        q, root = gaussian.ar1(6, rho), torch.zeros(6, 6, dtype=torch.float64)
        for i in range(6):
            for j in range(i + 1):
                root[i, j] = rho ** (i - j) * (1 if j == 0 else (1 - rho**2) ** 0.5)
        torch.testing.assert_close(q.covariance, root @ root.T)
        assert q.mean.equal(torch.zeros(6, dtype=torch.float64))
    with pytest.raises(ShapeError, match="not positive semi-definite"):
        gaussian.ar1(3, 1.5)


PAIR = ar1(2, 0.8)
MIXTURE = GaussianMixture(
    torch.tensor([0.25, 0.75]), [PAIR, Gaussian(PAIR.mean + 2, torch.eye(2).double())]
)


@pytest.mark.parametrize("q", [PAIR, MIXTURE])
def test_a_distribution_is_a_score(q: Gaussian | GaussianMixture) -> None:
    u = q.sample(4, 0)
    assert torch.equal(q(u, 0.5), q.score(u, 0.5))
    graph, one = chain(3, factor_model="pair", variable_model="one"), q.marginal(torch.tensor(0))
    x = torch.cat([u, u[:, :1]], dim=1)
    itself, method = (
        compose(graph, scores)(x, 0.7)
        for scores in ({"pair": q, "one": one}, {"pair": q.score, "one": one.score})
    )
    assert torch.equal(itself, method)


def test_the_density_of_a_composed_distribution_is_found() -> None:
    graph, q = chain(3), ar1(3, 0.8)
    models = {name: q.marginal(graph.elements(name)) for name in ("f0", "f1", "x1")}
    joint = compose(graph, models, rule=Consistent(node_covariances(graph, q)))
    u = q.sample(4, 0)
    torch.testing.assert_close(joint.log_density(u, 0.5), q.log_density(u, 0.5))


@pytest.mark.parametrize("q", [PAIR, MIXTURE])
def test_a_density_may_be_narrower_or_wider_than_its_state(q: Gaussian | GaussianMixture) -> None:
    wide = q.sample(5, 0)
    expected = q.log_density(wide, 0.5)
    torch.testing.assert_close(
        q.log_density(wide.float(), 0.5).double(), expected, rtol=1e-5, atol=1e-5
    )
    narrow = Gaussian(PAIR.mean.float(), PAIR.covariance.float())
    torch.testing.assert_close(
        narrow.log_density(wide, 0.5), PAIR.log_density(wide, 0.5), rtol=1e-5, atol=1e-5
    )


def test_a_seed_or_a_generator_makes_draws() -> None:
    again = torch.Generator().manual_seed(7)
    assert torch.equal(PAIR.sample(4, 7), PAIR.sample(4, again))
    assert torch.equal(PAIR.sample(4, 7), PAIR.sample(4, np.int64(7)))
    assert torch.equal(MIXTURE.sample(4, 7), MIXTURE.sample(4, again.manual_seed(7)))
    state = torch.get_rng_state()
    assert not torch.equal(PAIR.sample(4), PAIR.sample(4)), "None is fresh entropy"
    assert torch.equal(torch.get_rng_state(), state), "the global state is left alone"


def low_rank(n: int, rank: int, scale: float, seed: int) -> torch.Tensor:
    """A covariance whose null space is known only up to rounding."""
    root = torch.randn(n, rank, generator=torch.Generator().manual_seed(seed)).double()
    return scale * root @ root.T


SINGULAR = {
    "equal": Gaussian(torch.zeros(2).double(), torch.ones(2, 2).double()),
    "constant": Gaussian(torch.ones(2).double(), torch.diag(torch.tensor([1.0, 0.0])).double()),
    "nothing": Gaussian(torch.zeros(3).double(), torch.zeros(3, 3).double()),
    **{
        f"rank {rank} of {n}, {scale:g}": Gaussian(
            torch.zeros(n).double(), low_rank(n, rank, scale, seed)
        )
        for seed, (n, rank, scale) in enumerate(((6, 3, 1.0), (30, 29, 1e8), (12, 1, 1e-9)))
    },
    "few samples": Gaussian.fit(ar1(9, 0.9).sample(5, 0)),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_a_singular_gaussian_has_no_density_and_is_infinitely_far_from_others(name: str) -> None:
    p = SINGULAR[name]
    n = p.mean.numel()
    q = Gaussian(torch.zeros(n).double(), torch.eye(n).double())
    assert p.entropy() == -math.inf
    assert kl_divergence(p, q) == kl_divergence(q, p) == math.inf
    away = p.mean + p._eigen[1][:, 0] + torch.linspace(-1, 1, n)
    both = GaussianMixture(torch.tensor([0.4, 0.6]).double(), [p, q])
    assert p.log_density(away[None]).tolist() == [-math.inf]
    torch.testing.assert_close(
        both.log_density(away[None]), math.log(0.6) + q.log_density(away[None])
    )
    for sigma in (1e-3, 1.0):  # noise makes all of them finite
        noisy, states = p.noised(sigma), p.noised(sigma).sample(3, 0)
        other = torch.distributions.MultivariateNormal(noisy.mean, noisy.covariance)
        if p.covariance.max() < 1e6:
            torch.testing.assert_close(
                p.log_density(states, sigma), other.log_prob(states), rtol=1e-6, atol=1e-6
            )
            assert p.entropy(sigma) == pytest.approx(other.entropy().item(), rel=1e-6, abs=1e-6)
            assert math.isfinite(kl_divergence(noisy, q))


def test_the_density_on_the_support_of_a_singular_gaussian_is_infinite() -> None:
    p, off = SINGULAR["constant"], torch.tensor([[0.5, 1.0], [0.5, 1.1]]).double()
    mixture = GaussianMixture(torch.ones(1), [p])
    for q in (p, mixture):
        assert q.log_density(off).tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize("sigma", [1e-4, 0.1])
def test_entropies_of_float32_are_those_of_float64(sigma: float) -> None:
    for q in (SINGULAR["equal"], SINGULAR["nothing"], ar1(40, 0.9999)):
        narrow = Gaussian(q.mean.float(), q.covariance.float())
        wide = Gaussian(q.mean, narrow.covariance.double())
        assert narrow.entropy(sigma) == pytest.approx(wide.entropy(sigma), rel=1e-5)
        assert narrow.entropy() == pytest.approx(wide.entropy(), rel=1e-5)
        far = Gaussian(narrow.mean + 1, narrow.noised(0.1).covariance)
        exact = kl_divergence(Gaussian(wide.mean + 1, far.covariance.double()), wide.noised(sigma))
        assert kl_divergence(far, wide.noised(sigma)) == pytest.approx(exact)


def test_variances_of_any_scale_are_no_rounding() -> None:
    scales = torch.tensor([1.0, 1e-10, 1e8, 1e-3]).double()
    for q in (
        Gaussian(torch.zeros(4).double(), (scales**2).diag()),
        ar1(200, 1 - 1e-9),
        Gaussian(torch.zeros(2), torch.tensor([1.0, 1e-12]).diag()),
    ):
        other = torch.distributions.MultivariateNormal(q.mean, q.covariance)
        assert q.entropy() == pytest.approx(other.entropy().item(), rel=1e-5)
        assert kl_divergence(q, q) == pytest.approx(0, abs=1e-6)
    assert Gaussian(torch.zeros(0), torch.zeros(0, 0)).entropy() == 0


@pytest.mark.parametrize("name", ["score", "denoise", "log_density"])
@pytest.mark.parametrize("own", [torch.float32, torch.float64])
def test_all_values_come_in_the_dtype_of_the_state(own: torch.dtype, name: str) -> None:
    graph, q = chain(3), ar1(3, 0.8, own)
    mixture = GaussianMixture(torch.tensor([0.3, 0.7]), [q, Gaussian(q.mean + 1, q.covariance)])
    for each in (q, mixture):
        rows, given = each.of_regions(graph.regions.groups[0])
        for dtype in (torch.float32, torch.float64):
            u = torch.linspace(-1, 1, 6).reshape(2, 3).to(dtype)
            for sigma in (0.5, torch.tensor(0.5), torch.ones(2).double()):
                found = getattr(each, name)(u, sigma)
                assert found.dtype == dtype
                wide = getattr(each, name)(u.double(), sigma)
                torch.testing.assert_close(found.double(), wide, rtol=1e-5, atol=1e-5)
            if name != "denoise":
                part = u[:, : given["mean"].shape[-1]]
                values = getattr(rows, name, rows)(part, torch.ones(2).to(dtype), **given)
                assert values.dtype == dtype


WRONG = {
    "a state without a batch": (
        lambda: PAIR.score(torch.zeros(2), 1.0),
        r"\[batch, 2\], got \(2,\)\. .*u\[None\]",
    ),
    "a mixture's state": (lambda: MIXTURE.score(torch.zeros(2, 4), 1.0), r"\[batch, 2\]"),
    "a sigma too many": (lambda: PAIR.score(torch.zeros(2, 2), torch.ones(4)), "each of 2 samples"),
    "a mean of integers": (
        lambda: Gaussian(torch.ones(3, dtype=torch.int64), torch.eye(3)),
        "mean as a floating-point",
    ),
    "fewer draws than none": (lambda: PAIR.sample(-1, 0), "n >= 0 draws, got -1"),
    "a mixture's": (lambda: MIXTURE.sample(-1, 0), r"Mixture\.sample: expected n >= 0 draws"),
    "fewer variables than none": (lambda: gaussian.ar1(-1, 0.5), "ar1: expected n >= 0 variables"),
    "a divergence of other sizes": (
        lambda: kl_divergence(gaussian.ar1(3, 0.5), gaussian.ar1(1, 0.5)),
        "kl_divergence: expected Gaussians of one size, got .*d=3, float64. and Gaussian.d=1, ",
    ),
    "a seed of a string": (lambda: PAIR.sample(3, "seed"), "Gaussian.sample: expected generator="),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_is_explained(wrong: str) -> None:
    call, message = WRONG[wrong]
    with pytest.raises(PgmdiffError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_bad_gaussians_are_named() -> None:
    with pytest.raises(ShapeError, match=r"expected a covariance \[3, 3\]"):
        Gaussian(torch.zeros(3), torch.eye(2))
    with pytest.raises(ShapeError, match="not symmetric"):
        Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ShapeError, match="smallest eigenvalue is -1"):
        Gaussian(torch.zeros(2), torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(ShapeError, match="covariance holds NaN or infinity"):
        Gaussian(torch.zeros(1), torch.full((1, 1), float("nan")))
    with pytest.raises(ShapeError, match="elements -1 to 5 leave the state of 2"):
        ar1(2, 0.5).marginal(torch.tensor([-1, 5]))
    with pytest.raises(ShapeError, match="4 elements"):
        node_scores(chain(4), ar1(5, 0.5))
    with pytest.raises(ShapeError, match="graph has 3 elements, the Gaussian 5"):
        compose(chain(3), node_scores(chain(5), ar1(5, 0.5)))
    with pytest.raises(ShapeError, match=r"at most one singular covariance, got two"):
        kl_divergence(SINGULAR["equal"], SINGULAR["constant"])


def test_node_scores_are_also_a_mapping() -> None:
    graph, q = tiles((8,), 4, 2), ar1(8, 0.9)
    scores = node_scores(graph, q)
    assert list(scores) == graph.names
    assert len(scores) == 5
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        scores["[2:6]"](x, 0.5), q.marginal(torch.arange(2, 6)).score(x, 0.5)
    )


def test_integer_states_are_refused() -> None:
    """Their scores were cut to integers."""
    q, u = Gaussian(torch.zeros(2), torch.eye(2)), torch.tensor([[1, 3]])
    mixture = GaussianMixture(torch.ones(1), [q])
    for each in (q, mixture):
        for function in (each.score, each.denoise, each.log_density):
            with pytest.raises(ShapeError, match=r"floating-point states, got torch\.int64"):
                function(u, 1.0)


def test_without_noise_a_state_of_a_singular_gaussian_is_its_own_denoised_value() -> None:
    q, u = Gaussian(torch.zeros(2), torch.ones(2, 2)), torch.tensor([[1.0, 1.0], [2.0, -1.0]])
    assert torch.equal(q.denoise(u, 0.0), u)
    mixed = q.denoise(u, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(mixed, torch.stack([u[0], torch.full((2,), 1 / 3)]))
    with pytest.raises(ShapeError, match=r"elements as integers, got torch\.bool"):
        q.marginal(torch.tensor([True, False]))
