"""The probability-flow ODE and its change of variables, against closed forms."""

import math
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError, ScoreError, from_denoiser
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.samplers import Adaptive, Noise, karras, log_likelihood, sample

TARGET = Gaussian(
    torch.tensor([1.0, -0.5], dtype=torch.float64),
    torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64),
)
MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    [
        Gaussian(torch.tensor([m], dtype=torch.float64), torch.tensor([[s**2]]).double())
        for m, s in ((-2.0, 0.25), (1.0, 0.4))
    ],
)
FINE = Adaptive(1e-9, 1e-9, "dopri8")


def flow(sigma: float, sigma_next: float) -> Tensor:
    """The matrix of the ODE of a Gaussian, √((Σ + σ'²) / (Σ + σ²)), about its mean."""
    values, vectors = torch.linalg.eigh(TARGET.covariance)
    return vectors * ((values + sigma_next**2) / (values + sigma**2)).sqrt() @ vectors.T


def states(n: int, sigma: float) -> Tensor:
    return TARGET.noised(sigma).sample(n, torch.Generator().manual_seed(0))


def test_the_ode_of_a_gaussian() -> None:
    x = states(6, 40.0)
    expected = TARGET.mean + (x - TARGET.mean) @ flow(40.0, 0.01)
    out = sample(TARGET.score, [40.0, 0.01], x=x, solver=FINE)
    torch.testing.assert_close(out, expected, rtol=1e-7, atol=1e-8)
    stopping = sample(TARGET.score, [40.0, 3.0, 1.0, 0.01], x=x, solver=FINE)
    torch.testing.assert_close(stopping, expected, rtol=1e-7, atol=1e-8)
    denoised = sample(TARGET.score, [40.0, 0.01, 0.0], x=x, solver=FINE)
    torch.testing.assert_close(denoised, TARGET.denoise(expected, 0.01), rtol=1e-7, atol=1e-8)
    loose = sample(TARGET.score, [40.0, 0.01], x=x, solver=Adaptive(1e-3, 1e-3))
    assert 1e-7 < (loose - expected).abs().max() < 1e-2


def test_an_empty_batch() -> None:
    empty = torch.zeros(0, 2, dtype=torch.float64)
    assert sample(TARGET.score, [4.0, 1.0], x=empty, solver=FINE).shape == (0, 2)
    assert log_likelihood(TARGET.score, empty, 0.1, 4.0).shape == (0,)


def test_up_and_down_again() -> None:
    data, noise = states(5, 0.01), Noise.of(0, 5)
    there = FINE.step(TARGET.score, FINE.init(data, 0.01), 40.0, noise)
    torch.testing.assert_close(there.x, TARGET.mean + (data - TARGET.mean) @ flow(0.01, 40.0))
    back = FINE.step(TARGET.score, there, 0.01, noise)
    torch.testing.assert_close(back.x, data, rtol=1e-7, atol=1e-7)


def test_nothing_is_evaluated_beyond_the_ends() -> None:
    seen = []

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(sigma[0].item())
        return TARGET.score(x, sigma)

    sample(score, [40.0, 0.5], x=states(2, 40.0), solver=Adaptive())
    log_likelihood(score, states(2, 0.5), 0.5, 40.0)
    assert min(seen) > 0.5 * (1 - 1e-9)
    assert max(seen) < 40.0 * (1 + 1e-9)


def test_samples_depend_on_their_batch_within_the_tolerance() -> None:
    x = torch.cat([states(3, 40.0), 1e3 * torch.ones(1, 2, dtype=torch.float64)])
    run = {"solver": Adaptive(1e-6, 1e-6)}
    alone = sample(TARGET.score, [40.0, 0.1], x=x[:3], **run)
    beside = sample(TARGET.score, [40.0, 0.1], x=x, **run)[:3]
    assert not torch.equal(alone, beside)
    torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-4)


def test_single_precision() -> None:
    x = states(4, 40.0)
    double = sample(TARGET.score, [40.0, 0.01, 0.0], x=x, solver=Adaptive())
    single = sample(TARGET.score, [40.0, 0.01, 0.0], x=x.float(), solver=Adaptive())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)
    found = log_likelihood(TARGET.score, states(4, 0.1).float(), 0.1, 40.0)
    assert found.dtype == torch.float32


# ---------------------------------------------------------------- log-likelihood


def test_log_likelihood_is_that_of_the_samplers_own_law() -> None:
    """From N(0, σ_max²) the ODE reaches another Gaussian than the noised data: this one."""
    low, high, x = 0.05, 20.0, states(5, 0.05)
    matrix = flow(high, low)
    own = Gaussian(TARGET.mean - TARGET.mean @ matrix, high**2 * matrix @ matrix)
    found = log_likelihood(TARGET.score, x, low, high, solver=FINE)
    torch.testing.assert_close(found, own.log_density(x), rtol=1e-7, atol=1e-7)
    noised = TARGET.log_density(x, low)
    assert ((found - noised).abs() > 1e-3).any(), "the start at N(0, σ²) shows"
    exact = log_likelihood(TARGET.score, x, low, high, solver=FINE, prior=_prior(TARGET, high))
    torch.testing.assert_close(exact, noised, rtol=1e-7, atol=1e-7)
    assert ((exact - TARGET.log_density(x)).abs() > 1e-3).any(), "as does the noise left"


def test_log_likelihood_of_a_mixture() -> None:
    x = torch.linspace(-4, 3, 57, dtype=torch.float64)[:, None]
    found = log_likelihood(
        MIXTURE.score, x, 0.05, 30.0, solver=Adaptive(1e-8, 1e-8), prior=_prior(MIXTURE, 30.0)
    )
    torch.testing.assert_close(found, MIXTURE.log_density(x, 0.05), rtol=1e-5, atol=1e-5)


def test_log_likelihood_of_a_field_that_is_no_gradient() -> None:
    """D = K u with K not symmetric: u_max = exp((1 - K) L) u over L = log(σ_max / σ_min)."""
    matrix = torch.tensor([[0.5, 0.4], [-0.3, 0.2]], dtype=torch.float64)
    x, span = states(3, 0.1), math.log(5.0 / 0.1)
    rate = torch.eye(2) - matrix
    end = x @ torch.linalg.matrix_exp(rate * span).T
    start = Gaussian(torch.zeros(2).double(), 25 * torch.eye(2).double())
    score = from_denoiser(lambda u, sigma: u @ matrix.T)
    found = log_likelihood(score, x, 0.1, 5.0, solver=FINE)
    torch.testing.assert_close(found, start.log_density(end) + rate.trace() * span)


def test_log_likelihood_where_the_denoiser_is_constant() -> None:
    with pytest.raises(ScoreError, match=r"add 0 \* x"):  # a dead network looks the same
        log_likelihood(
            from_denoiser(lambda u, sigma: torch.zeros_like(u)), states(2, 1.0), 1.0, 9.0
        )
    score = from_denoiser(lambda u, sigma: 0 * u)
    x = states(2, 1.0)
    unit = Gaussian(torch.zeros(2).double(), torch.eye(2).double())
    found = log_likelihood(score, x, 1.0, 9.0, solver=FINE)
    torch.testing.assert_close(found, unit.log_density(x))


def test_hutchinson_is_unbiased_and_reproducible() -> None:
    n, x = 400, states(1, 0.3)
    exact = log_likelihood(TARGET.score, x, 0.3, 20.0)
    spreads = []
    for probes in (1, 4):
        run = {"trace": "hutchinson", "generator": 1, "probes": probes}
        found = log_likelihood(TARGET.score, x.expand(n, 2), 0.3, 20.0, **run)
        spreads.append(found.std().item())
        assert abs(found.mean() - exact).item() < 4 * spreads[-1] / n**0.5 + 1e-3
        again = log_likelihood(TARGET.score, x.expand(n, 2), 0.3, 20.0, **run)
        assert torch.equal(found, again)
    assert spreads[1] == pytest.approx(spreads[0] / 2, rel=0.2)


def test_it_holds_no_graph() -> None:
    x = states(2, 0.1).requires_grad_()
    assert not log_likelihood(TARGET.score, x, 0.1, 5.0).requires_grad


def _prior(q: Gaussian | GaussianMixture, sigma: float) -> Callable[[Tensor], Tensor]:
    return lambda x: q.log_density(x, sigma)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "bad",
    [
        {"sigma_min": 0.0},
        {"sigma_min": 30.0},
        {"trace": "guess"},
        {"trace": "hutchinson", "probes": 0},
    ],
)
def test_bad_arguments_are_named(bad: dict) -> None:
    arguments = {"sigma_min": 0.1, "sigma_max": 20.0} | bad
    with pytest.raises(PgmdiffError, match="expected 0 < sigma_min < sigma_max"):
        log_likelihood(TARGET.score, torch.zeros(1, 2), **arguments)


@pytest.mark.parametrize("bad", [{"rtol": 0.0}, {"atol": -1.0}, {"method": "euler"}])
def test_bad_solvers_are_named(bad: dict) -> None:
    with pytest.raises(PgmdiffError, match="Adaptive: expected positive tolerances"):
        Adaptive(**bad)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match=r"pip install 'pgmdiff\[ode\]'"):
        sample(TARGET.score, karras(3, 0.1, 2.0), shape=(1, 2), solver=Adaptive())


def test_a_likelihood_requires_a_batch() -> None:
    with pytest.raises(PgmdiffError, match=r"x\[None\]"):
        log_likelihood(TARGET.score, torch.zeros(2), 0.1, 1.0)


@pytest.mark.parametrize(
    ("score", "x", "message"),
    [
        (None, states(2, 0.5), "expected a score"),
        (TARGET.score, states(2, 0.5).long(), "expected floating-point states"),
        (TARGET.score, states(2, 0.5).to("meta"), "on meta"),
        (TARGET.score, torch.zeros(2), "Give a batch axis"),
    ],
)
def test_what_has_no_likelihood_is_refused(score: object, x: Tensor, message: str) -> None:
    with pytest.raises(PgmdiffError, match=f"log_likelihood: .*{message}"):
        log_likelihood(score, x, 0.5, 40.0)  # type: ignore[arg-type]
