import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import ScoreError, ShapeError, compose, from_denoiser, from_eps
from pgmdiff.graphs import chain, tiles
from pgmdiff.scores.adapters import (
    NetworkScore,
    Timesteps,
    denoise,
    from_flow,
    from_vp_eps,
    from_vp_sample,
    from_vp_v,
    padded,
)
from tests.helpers import ar1, check_compiles_and_waits_for_nothing, meta_without_float64

Q = ar1(3, 0.7)
U = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGMA = torch.tensor([0.1, 0.5, 1.0, 3.0, 10.0], dtype=torch.float64)


def decayed(x: Tensor, t: Tensor) -> Tensor:
    return x / (2 + t.reshape(-1, *[1] * (x.ndim - 1)))


@pytest.mark.parametrize(
    "score",
    [
        from_denoiser(decayed),
        from_eps(decayed),
        from_flow(decayed),
        *(
            f(decayed, Timesteps((0.99, 0.5, 0.01)))
            for f in (from_vp_eps, from_vp_sample, from_vp_v)
        ),
    ],
)
def test_scores_of_networks_can_be_pickled(score: NetworkScore) -> None:
    joint = compose(chain(3), score)
    again = pickle.loads(pickle.dumps(joint))
    assert torch.equal(again(U, SIGMA), joint(U, SIGMA))


def test_from_denoiser() -> None:
    score = from_denoiser(Q.denoise)
    torch.testing.assert_close(score(U, SIGMA), Q.score(U, SIGMA))
    torch.testing.assert_close(denoise(score, U, SIGMA), Q.denoise(U, SIGMA))
    torch.testing.assert_close(denoise(Q.score, U, 0.5), Q.denoise(U, 0.5))


def test_from_eps() -> None:
    def eps(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - Q.denoise(x, sigma)) / sigma[:, None]

    torch.testing.assert_close(from_eps(eps)(U, SIGMA), Q.score(U, SIGMA))


def bent(x: Tensor, sigma: Tensor) -> Tensor:
    """A network whose prediction may be read as any of the kinds."""
    return x.sin() / (1 + sigma[:, None])


def test_scores_follow_their_formula_bit_for_bit() -> None:
    x, sigma = U.float(), SIGMA.float()
    out, s = bent(x, sigma), sigma[:, None]
    of_denoiser, of_eps = from_denoiser(bent), from_eps(bent)
    assert torch.equal(of_denoiser(x, sigma), (out - x) / s**2)
    assert torch.equal(of_denoiser.denoise(x, sigma), out)
    assert torch.equal(of_denoiser.denoise(x, 0.5), bent(x, torch.full((5,), 0.5)))
    assert torch.equal(of_eps(x, sigma), -out / s)
    assert torch.equal(of_eps.denoise(x, sigma), x - s * out)


def test_reprs_show_the_network() -> None:
    scores = [adapt(bent) for adapt in (from_denoiser, from_eps, from_flow)]
    scores += [adapt(bent, continuous) for adapt in (from_vp_eps, from_vp_sample, from_vp_v)]
    assert {repr(score) for score in scores} == {"NetworkScore(bent)"}


def test_from_vp_eps() -> None:
    """A perfect VP network for a Gaussian, known at integer and fractional timesteps."""
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)
    timesteps = Timesteps(alphas.tolist())
    log_sigmas = 0.5 * ((1 - alphas) / alphas).log()

    def eps(x_t: Tensor, t: Tensor) -> Tensor:
        low = t.floor().long().clamp(max=998)
        log_sigma = torch.lerp(log_sigmas[low], log_sigmas[low + 1], t - low)
        sigma = log_sigma.exp()[:, None]
        x = x_t * (1 + sigma**2).sqrt()
        return (x - Q.denoise(x, sigma[:, 0])) / sigma

    score = from_vp_eps(eps, timesteps)
    torch.testing.assert_close(score(U, SIGMA), Q.score(U, SIGMA), rtol=1e-9, atol=1e-12)
    known = log_sigmas.exp()
    torch.testing.assert_close(timesteps(known), torch.arange(1000).double())
    assert timesteps(torch.tensor([1e-9, 1e9])).tolist() == [0.0, 999.0]


def continuous(sigma: Tensor) -> Tensor:
    """The timesteps of a network that receives log σ."""
    return sigma.log()


def perfect(kind: str, x_t: Tensor, t: Tensor) -> Tensor:
    """The prediction of a perfect variance-preserving network."""
    sigma = t.exp()[:, None]
    alpha = (1 + sigma**2).rsqrt()
    denoised = Q.denoise(x_t / alpha, sigma[:, 0])
    eps = (x_t / alpha - denoised) / sigma
    return {"eps": eps, "sample": denoised, "v": alpha * (eps - sigma * denoised)}[kind]


@pytest.mark.parametrize(
    ("kind", "adapt"), [("eps", from_vp_eps), ("sample", from_vp_sample), ("v", from_vp_v)]
)
def test_variance_preserving_predictions(kind: str, adapt: Callable) -> None:
    score = adapt(lambda x_t, t: perfect(kind, x_t, t), continuous)
    x = U * SIGMA[:, None]
    torch.testing.assert_close(score(x, SIGMA), Q.score(x, SIGMA), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(denoise(score, x, SIGMA), Q.denoise(x, SIGMA))
    torch.testing.assert_close(score(x, 0.5), Q.score(x, 0.5))


@pytest.mark.parametrize(
    ("kind", "adapt"), [("eps", from_vp_eps), ("sample", from_vp_sample), ("v", from_vp_v)]
)
def test_beyond_the_timesteps_the_noise_is_that_of_the_last(kind: str, adapt: Callable) -> None:
    """D is off by about Σ_0 / σ_T, whatever is predicted: of ε it was D σ / σ_T."""
    times = Timesteps((1 - torch.linspace(1e-4, 0.02, 1000).double()).cumprod(0).tolist())
    m = 5.0

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        s = times.sigmas(t)[:, None]
        alpha = (1 + s**2).rsqrt()
        x = x_t / alpha
        denoised = m + Q.denoise(x - m, s[:, 0])
        eps = (x - denoised) / s
        return {"eps": eps, "sample": denoised, "v": alpha * (eps - s * denoised)}[kind]

    score = adapt(network, times)
    for large in (times.largest, 20.0, 80.0, 1e4):
        sigma = torch.full((5,), large, dtype=torch.float64)
        x = m + large * U
        off = denoise(score, x, sigma) - (m + Q.denoise(x - m, sigma))
        assert off.abs().max() < (2.5 / times.largest if large > times.largest else 1e-6)
        torch.testing.assert_close(score(x, sigma) * large, -U, rtol=0, atol=0.5)


@pytest.mark.parametrize("adapt", [from_vp_eps, from_vp_sample, from_vp_v])
def test_variance_preserving_scores_have_gradients_by_sigma(adapt: Callable) -> None:
    def network(x_t: Tensor, t: Tensor) -> Tensor:
        return x_t * torch.sigmoid(t)[:, None]

    def smooth(sigma: Tensor) -> Tensor:
        return sigma.log()

    sigma = SIGMA.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: adapt(network, smooth)(U, s), sigma)


def test_flow_velocities() -> None:
    seen = []

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        sigma, alpha = t / (1 - t), (1 - t)[:, None]
        denoised = Q.denoise(x_t / alpha, sigma)
        return (x_t / alpha - denoised) / sigma[:, None] - denoised

    x = U * SIGMA[:, None]
    score = from_flow(velocity)
    torch.testing.assert_close(score(x, SIGMA), Q.score(x, SIGMA), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(denoise(score, x, SIGMA), Q.denoise(x, SIGMA))
    torch.testing.assert_close(seen[0], SIGMA / (1 + SIGMA))


def test_denoised_values_are_no_detour_over_the_score() -> None:
    """At σ = 1000 in float32 D = x + σ² s loses four digits; a predicted D loses none."""
    x, sigma = 1e3 * torch.randn(4, 3), torch.full((4,), 1e3)
    score = from_vp_sample(lambda x_t, t: torch.full_like(x_t, 0.3), continuous)
    assert (denoise(score, x, sigma) - 0.3).abs().max() < 1e-7
    assert (x + 1e6 * score(x, sigma) - 0.3).abs().max() > 1e-6


def test_timesteps_and_back() -> None:
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)
    timesteps = Timesteps(alphas.tolist())
    sigma = torch.logspace(-1.9, 2.0, 200, dtype=torch.float64)
    t = timesteps(sigma)
    assert (t != t.round()).sum() > 150
    torch.testing.assert_close(timesteps.sigmas(t), sigma, rtol=1e-12, atol=0)
    endless = Timesteps([*alphas.tolist(), 0.0])  # zero terminal signal
    assert endless(torch.tensor([1e9])).item() == 999.0
    assert endless.largest == pytest.approx(timesteps.sigmas(torch.tensor([999.0])).item())
    torch.testing.assert_close(endless(sigma), t)


def test_integers_are_numbers_too() -> None:
    """The timesteps of schedulers are, and their σ are not."""
    timesteps = Timesteps((1 - torch.linspace(1e-4, 0.02, 1000).double()).cumprod(0).tolist())
    whole = torch.tensor([1, 400, 999])
    for function in (timesteps, timesteps.sigmas):
        torch.testing.assert_close(function(whole), function(whole.float()), rtol=0, atol=0)


@pytest.mark.parametrize("wrong", [math.nan, -0.2, 0.0, 1.0, 1.5])
@pytest.mark.parametrize("place", range(4))
def test_alphas_that_are_none_are_refused(wrong: float, place: int) -> None:
    alphas = [0.99, 0.9, 0.5, 0.1]
    alphas[place] = wrong
    if (wrong, place) == (0.0, 3):
        assert Timesteps(alphas) == Timesteps(alphas)
        return
    with pytest.raises(ScoreError, match="numbers that decrease within"):
        Timesteps(alphas)


def test_timesteps_are_those_of_numpys_interpolation() -> None:
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)
    timesteps = Timesteps(alphas.tolist())
    sigma = torch.cat([torch.logspace(-4, 4, 301), torch.tensor([0.0, torch.inf, torch.nan])])
    logs, steps = (0.5 * ((1 - alphas) / alphas).log()).numpy(), np.arange(1000)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        wanted = sigma.to(dtype)
        expected = np.interp(wanted.double().log().numpy(), logs, steps)
        options = {"rtol": 0, "atol": tolerance, "equal_nan": True}
        torch.testing.assert_close(timesteps(wanted), torch.tensor(expected).to(dtype), **options)
    t = torch.linspace(-3, 1003, 401).double()
    back = torch.tensor(np.exp(np.interp(t.numpy(), steps, logs)))
    torch.testing.assert_close(timesteps.sigmas(t), back, rtol=1e-10, atol=0)
    assert timesteps == Timesteps(alphas.tolist())


VP = Timesteps((1 - torch.linspace(1e-3, 0.05, 200)).cumprod(0).tolist())


@pytest.mark.parametrize("adapt", [from_vp_eps, from_vp_v])
def test_adapters_compile_whole_and_wait_for_nothing(adapt: Callable) -> None:
    score = adapt(lambda x, t, y: x.sin() / (1 + t[:, None]) + y, VP)
    x, sigma = U.float(), SIGMA.float()
    check_compiles_and_waits_for_nothing(score, x, sigma, y=x.cos())


def test_adapters_need_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    score = from_vp_eps(bent, Timesteps([0.99, 0.5, 0.1]))
    sigma = SIGMA.float().to("meta")
    with meta_without_float64(monkeypatch):
        assert score(U.float().to("meta"), sigma).shape == U.shape
        assert score.denoise(U.float().to("meta"), sigma).dtype == torch.float32


def test_conditions_pass_through_adapters() -> None:
    def network(x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        return x * y[:, None]

    y = torch.arange(5.0).double()
    expected = (U * y[:, None] - U) / SIGMA[:, None] ** 2
    torch.testing.assert_close(from_denoiser(network)(U, SIGMA, y=y), expected)
    sampled = from_vp_sample(network, continuous).denoise(U, SIGMA, y=y)
    torch.testing.assert_close(sampled, U * (1 + SIGMA[:, None] ** 2).rsqrt() * y[:, None])
    torch.testing.assert_close(from_eps(network)(U, SIGMA, y=y), -U * y[:, None] / SIGMA[:, None])


def test_padded_crops_what_it_pads() -> None:
    seen = []

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x)
        return -x

    crop = torch.randn(2, 1, 4, 3, generator=torch.Generator().manual_seed(0))
    out = padded(score, (1, 4, 6))(crop, torch.ones(2))
    torch.testing.assert_close(out, -crop)
    assert seen[0].shape == (2, 1, 4, 6)
    assert torch.equal(seen[0][..., 1:4], crop)
    assert torch.equal(padded(score, (1, 4, 3))(crop, torch.ones(2)), -crop)
    with pytest.raises(ShapeError, match="no larger than"):
        padded(score, (1, 4, 2))(crop, torch.ones(2))
    with pytest.raises(ShapeError, match=r"like \(4, 6\), .* got \(1, 4, 3\)"):
        padded(score, (4, 6))(crop, torch.ones(2))


def test_padding_a_narrow_overlap() -> None:
    graph, u = tiles((1, 16, 28), (1, 16, 16), (0, 0, 4)), torch.zeros(1, 1, 16, 28)

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        return -x

    with pytest.raises(ShapeError, match="mode='replicate'"):
        compose(graph, padded(score, (1, 16, 16)))(u, 1.0)
    assert compose(graph, padded(score, (1, 16, 16), "replicate"))(u, 1.0).shape == u.shape


def test_what_is_not_callable_is_named() -> None:
    for adapt, given in [
        (from_denoiser, (None,)),
        (from_eps, (3,)),
        (from_flow, (3,)),
        (from_vp_v, (abs, 3)),
        (from_vp_eps, (Timesteps([0.9, 0.5]), abs)),  # swapped
    ]:
        with pytest.raises(ScoreError, match=f"^{adapt.__name__}: expected .*a callable"):
            adapt(*given)
