"""Conditioning on smooth, strongly correlated data, where most methods explode.

Fields on a square with a hole of some rows, of which the exact posterior is known. Errors of the
mean and spreads are in standard deviations of the posterior, one for each hidden element.
"""

import re

import pytest
import torch

from pgmdiff import PgmdiffError, Posterior, compose, fit_covariances
from pgmdiff.conditioning import (
    Composed,
    Isotropic,
    Mask,
    Stacked,
    Tweedie,
    block_average,
    choose_covariance,
    moment_matching,
)
from pgmdiff.conditioning.solving import conjugate_residuals
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import chain, tiles
from pgmdiff.linalg import squared_norms
from pgmdiff.samplers import Heun, karras, sample
from tests.helpers import ar1, relative

SIZE, HOLE = 12, slice(4, 8)
SEEN = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
SEEN[:, HOLE] = False
TILED = tiles((1, SIZE, SIZE), (1, 8, 8), (0, 4, 4))


def field(length: float, scale: float = 1.0) -> Gaussian:
    """A field with the covariance exp(-distance² / 2 length²), and a little noise."""
    side = torch.arange(SIZE).double()
    places = torch.cartesian_prod(side, side)
    covariance = torch.exp(-(torch.cdist(places, places) ** 2) / (2 * length**2))
    eye = torch.eye(SIZE**2).double()
    return Gaussian(torch.zeros(1, SIZE, SIZE).double(), scale**2 * (covariance + 1e-4 * eye))


def filled(score, q: Gaussian, noise: float, *options, scale: float = 1.0, n: int = 60):
    """The misfit of samples, errors of the mean and spreads, rms over hidden elements."""
    generator = torch.Generator().manual_seed(3)
    truth = q.sample(1, generator)[0]
    y = truth + noise * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    guided = moment_matching(score, y, Mask(SEEN), *options, noise=noise)
    levels = karras(18, 0.002 * scale, 80.0 * scale)
    u = sample(guided, levels, shape=(n, *truth.shape), solver=Heun(), generator=0,
               dtype=torch.float64)  # fmt: skip
    seen, hidden = SEEN.reshape(-1), ~SEEN.reshape(-1)
    known = q.covariance[seen][:, seen] + noise**2 * torch.eye(int(seen.sum())).double()
    gain = torch.linalg.solve(known, q.covariance[seen][:, hidden]).T
    mean = gain @ y.reshape(-1)[seen]
    left = q.covariance[hidden][:, hidden] - gain @ q.covariance[seen][:, hidden]
    deviation, found = left.diagonal().sqrt(), u.reshape(n, -1)[:, hidden]
    error = ((found.mean(dim=0) - mean) / deviation).square().mean().sqrt().item()
    spread = (found.std(dim=0) / deviation).square().mean().sqrt().item()
    return (u - y)[:, SEEN].abs().max().item(), error, spread


@pytest.mark.parametrize("length", [2.0, 6.0])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_without_covariances_samples_stay_within_the_posterior(length: float, noise: float) -> None:
    q = field(length)
    misfit, error, spread = filled(q.score, q, noise)
    assert misfit < (5 * noise or 1e-3)
    assert error < 1
    assert 0.8 < spread < 1.5


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_isotropic_moments_are_refused_where_they_would_explode(noise: float) -> None:
    q = field(6.0)
    with pytest.raises(PgmdiffError, match=r"σ = 80 the update is 4.* times .* Leave out covar"):
        filled(q.score, q, noise, Isotropic(1.0))
    for std, jacobian in (
        (torch.linalg.eigvalsh(q.covariance)[-1].sqrt().item(), True),
        (1, False),
    ):
        misfit, _, _ = filled(q.score, q, 0.1, Isotropic(std, jacobian))
        assert misfit < 5  # far from the posterior, but no explosion


def test_joints_of_smooth_pieces_do_not_explode() -> None:
    """The marginal rule's Jacobian is not symmetric: conjugate gradients reach 1e5 and more."""
    q = field(6.0)
    joint = compose(TILED, node_scores(TILED, q))
    misfit, error, spread = filled(joint, q, 0.1, n=8)
    assert misfit < 0.5
    assert error < 2
    assert spread < 2
    rule = Posterior(node_covariances(TILED, q))
    exact = compose(TILED, node_scores(TILED, q), rule=rule)
    misfit, error, spread = filled(exact, q, 0.0, n=8)  # the solve is not finished, without harm
    assert misfit < 1e-6
    assert error < 1.5
    assert spread < 2.5


def test_units_do_not_matter() -> None:
    for scale in (1e-6, 1e6):
        q = field(6.0, scale)
        misfit, error, spread = filled(q.score, q, 0.1 * scale, scale=scale)
        assert misfit < 0.5 * scale
        assert error < 1
        assert 0.8 < spread < 1.35


def test_the_choice_of_covariance() -> None:
    q, graph = ar1(6, 0.8), chain(6)
    scores = node_scores(graph, q)
    joint = compose(graph, scores, rule=Posterior(node_covariances(graph, q)))
    fitted = compose(graph, scores, rule=Posterior(fit_covariances(graph, q.sample(500, 0))))
    y, h = torch.zeros(6).double(), Mask(torch.arange(6) % 2 == 0)
    u = torch.ones(2, 6).double()
    for score, expected in ((joint, Composed(joint)), (fitted, Composed(fitted)), (q, Tweedie())):
        kind = type(expected)
        assert choose_covariance(score) == expected
        default, explicit = (moment_matching(score, y, h, v) for v in (None, expected))
        assert torch.equal(default(u, 1.0), explicit(u, 1.0))
        has = "has" if kind is Composed else "has no"
        assert re.search(
            f"{kind.__name__}.*, chosen since the score {has} covariances", repr(default)
        )
    assert isinstance(choose_covariance(compose(graph, scores)), Tweedie)


@pytest.mark.parametrize("kept", [1, 6])
def test_residuals_never_grow_for_any_matrix(kept: int) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(50, 6, 6, generator=generator, dtype=torch.float64)
    b = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    b[0] = 0
    definite = matrices @ matrices.mT
    for m in (matrices, definite, definite * torch.logspace(-6, 6, 50).double()[:, None, None]):
        before = squared_norms(b)
        for steps in range(1, 7):
            x, left = conjugate_residuals(
                lambda v, m=m: torch.einsum("bij,bj->bi", m, v),
                b, tolerance=1e-12, most_steps=steps, kept=kept,
            )  # fmt: skip
            torch.testing.assert_close(left, b - torch.einsum("bij,bj->bi", m, x))
            residual = squared_norms(left)
            assert (residual <= before * (1 + 1e-9)).all()
            before = residual
        if m is not matrices and kept == 6:
            assert (residual <= 1e-6 * squared_norms(b)).all()
            assert relative(x, torch.linalg.lstsq(m, b[..., None]).solution[..., 0]) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_left_is_left_where_the_matrix_is_singular(dtype: torch.dtype) -> None:
    """Also of b outside its range by rounding; without a stop x grew without bound there."""
    generator = torch.Generator().manual_seed(0)
    halves = torch.randn(200, 8, 4, generator=generator, dtype=dtype)
    m, eps = halves @ halves.mT, torch.finfo(dtype).eps
    b = torch.einsum("bij,bj->bi", m, torch.randn(200, 8, generator=generator, dtype=dtype))
    size = b.norm(dim=1, keepdim=True)
    b = b + eps * size * torch.randn(b.shape, generator=generator, dtype=dtype)
    for kept in (1, 8):
        x, left = conjugate_residuals(
            lambda v: torch.einsum("bij,bj->bi", m, v),
            b, tolerance=eps / 10, most_steps=30, kept=kept,
        )  # fmt: skip
        true = b - torch.einsum("bij,bj->bi", m, x)
        assert ((true - left).norm(dim=1) < 1e3 * eps * size[:, 0]).all()
        assert kept == 1 or (true.norm(dim=1) < 1e4 * eps * size[:, 0]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", [0.0, 1000.0])
def test_what_is_observed_twice_is_observed_once(far: float, dtype: torch.dtype) -> None:
    """Known values and their averages: H V Hᵀ is singular, and y in its range up to rounding."""
    q = Gaussian(torch.full((8,), far).double(), ar1(8, 0.9).covariance)
    rule = Posterior(node_covariances(chain(8), q))
    joint = compose(chain(8), node_scores(chain(8), q), rule=rule)
    known, u = torch.arange(8) < 6, q.sample(1, 0)
    both = Stacked((Mask(known), block_average((8,), 2)))
    for covariance in (None, Tweedie()):
        once = moment_matching(joint, both.A(u)[0].to(dtype), both, covariance)
        options = {"shape": (50, 8), "mean": far, "generator": 0, "dtype": dtype}
        x = sample(once, karras(12, 0.002, 20.0), **options)
        limit = 1e-9 if dtype == torch.float64 else 1e-5 + 1e-6 * far
        assert (both.A(x - u).abs() < limit).all()
        assert ((x - far).abs() < 6).all()


def test_as_many_steps_as_values_are_exact() -> None:
    q, h = field(2.0), block_average((1, SIZE, SIZE), 4)
    u = q.noised(2.0).sample(2, 0)
    y = h.A(q.sample(1, 1))
    matrix = h.A(torch.eye(SIZE**2).double().reshape(-1, 1, SIZE, SIZE)).reshape(SIZE**2, -1).T
    left = q.noised(2.0).covariance.inverse() @ q.covariance * 4.0
    denoised = q.denoise(u, 2.0).reshape(2, -1)
    gain = left @ matrix.T @ torch.linalg.inv(matrix @ left @ matrix.T)
    expected = denoised + (y.reshape(1, -1) - denoised @ matrix.T) @ gain.T
    found = moment_matching(q.score, y, h).denoise(u, 2.0)
    assert relative(found.reshape(2, -1), expected) < 1e-8
