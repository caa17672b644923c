import pytest
import torch

from pgmdiff import ShapeError, compose
from pgmdiff.gaussian import Gaussian, bethe_entropy, kl_divergence, node_scores
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
    with pytest.raises(ShapeError, match="at least 2"):
        Gaussian.fit(torch.zeros(1, 3))


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
    with pytest.raises(ShapeError, match="singular"):
        kl_divergence(ar1(2, 0.5), Gaussian(torch.zeros(2).double(), torch.ones(2, 2).double()))


def test_node_scores_are_also_a_mapping() -> None:
    graph, q = tiles((8,), 4, 2), ar1(8, 0.9)
    scores = node_scores(graph, q)
    assert list(scores) == graph.names
    assert len(scores) == 5
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        scores["[2:6]"](x, 0.5), q.marginal(torch.arange(2, 6)).score(x, 0.5)
    )
