"""Pyramids compose models of pixels and of tile means into the exact score of Gaussians."""

import pytest
import torch
from torch import Tensor

from pgmdiff import (
    Consistent,
    PgmdiffError,
    Posterior,
    ScoreError,
    compose,
    field,
    fit_covariances,
    karras,
)
from pgmdiff.conditioning import Composed, Mask, moment_matching
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import Pyramid, pyramid
from pgmdiff.samplers import sample
from pgmdiff.scores import in_pixels, of_levels
from pgmdiff.testing.oracles import markov_gaussian
from tests.graphs.test_pyramids import COLOUR, FLAT, ONE, THREE, TWO, basis, means_of
from tests.helpers import relative

SIGMAS = torch.tensor([1e-3, 1e-2, 0.1, 1.0, 10.0, 80.0]).double()


def gaussian_model(x: Tensor, sigma: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """The score of N(mean, covariance), which are conditions of every region."""
    noise = sigma[:, None, None] ** 2 * torch.eye(covariance.shape[-1]).to(x)
    away = (x - mean).flatten(1)[..., None]
    return -torch.linalg.solve(covariance + noise, away).reshape(x.shape)


def in_pixel_basis(p: Pyramid, q: Gaussian) -> Gaussian:
    """The Gaussian of pixels whose coefficients are distributed as q."""
    b = basis(p)
    return Gaussian(p.to_pixels(q.mean), b.T @ q.covariance @ b)


def conditions_of(p: Pyramid, x: Gaussian) -> dict:
    """Mean and covariance of the pixels, or the tile means, of each region, from those of x."""
    found = {}
    for level, name in p.graph.names:
        rows = means_of(p, level, name) / p.scales[level]
        found[level, name] = {
            "mean": (rows @ x.mean.reshape(-1)).reshape(p.graph.elements((level, name)).shape),
            "covariance": rows @ x.covariance @ rows.T,
        }
    return found


def exact(x: Gaussian, u: Tensor, sigma: Tensor) -> Tensor:
    """-(Σ + σ² I)⁻¹ (u - m), dense."""
    n = len(x.covariance)
    noisy = x.covariance + sigma[:, None, None] ** 2 * torch.eye(n).double()
    away = (u - x.mean).reshape(len(u), n, 1)
    return -torch.linalg.solve(noisy, away).reshape(u.shape)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [(ONE, Consistent), (TWO, Consistent), (TWO, Posterior), (THREE, Posterior),
     (FLAT, Consistent), (COLOUR, Posterior)],
)  # fmt: skip
def test_pixel_and_mean_models_make_the_exact_score(arguments, rule) -> None:
    p = pyramid(*arguments)
    q = markov_gaussian(p.graph, 0)
    x = in_pixel_basis(p, q)
    models = [gaussian_model] * (p.levels + 1)
    joint = compose(
        p.graph,
        of_levels(p, *models),
        rule=rule(node_covariances(p.graph, q)),
        conditions=conditions_of(p, x),
    )
    score = in_pixels(p, joint)
    noise = torch.randn(len(SIGMAS), *q.event_shape, generator=torch.Generator().manual_seed(1))
    beside = SIGMAS.reshape(-1, *[1] * len(q.event_shape))
    u = x.sample(len(SIGMAS), 0) + beside * noise.double()
    assert relative(score(u, SIGMAS), exact(x, u, SIGMAS)) < 1e-9
    one = compose(p.graph, node_scores(p.graph, q), rule=joint.rule)
    assert relative(joint(u, SIGMAS), one(u, SIGMAS)) < 1e-9


def test_every_model_is_turned_into_the_marginal_of_its_coefficients() -> None:
    p = pyramid(*TWO)
    q = markov_gaussian(p.graph, 3)
    x = in_pixel_basis(p, q)
    conditions, turned = conditions_of(p, x), of_levels(p, *[gaussian_model] * 3)
    for level, name in p.graph.names:
        elements = p.graph.elements((level, name))
        z = torch.randn(len(SIGMAS), *elements.shape).double()
        each = {k: v.expand(len(z), *v.shape) for k, v in conditions[level, name].items()}
        found = turned[level, tuple(elements.shape)](z, SIGMAS, **each)
        assert relative(found, q.marginal(elements)(z, SIGMAS)) < 1e-10


def test_densities_are_those_of_coefficients_and_of_pixels() -> None:
    p = pyramid(*ONE)
    q = markov_gaussian(p.graph, 0)
    x = in_pixel_basis(p, q)

    class Model:
        def __call__(self, v: Tensor, sigma: Tensor, *, level: Tensor, rows: Tensor) -> Tensor:
            return torch.cat(
                [self.of(v[:1], level[0], r)(v[i : i + 1], sigma[i]) for i, r in enumerate(rows)]
            )

        def of(self, v: Tensor, level: Tensor, rows: Tensor) -> Gaussian:
            rows = rows / p.scales[int(level)]
            mean = (rows @ x.mean).reshape(v.shape[1:])
            return Gaussian(mean, rows @ x.covariance @ rows.T)

        def log_density(self, v: Tensor, sigma: Tensor, level: Tensor, rows: Tensor) -> Tensor:
            each = [
                self.of(v, level[0], r).log_density(v[i : i + 1], sigma[i])
                for i, r in enumerate(rows)
            ]
            return torch.cat(each)

    conditions = {
        (level, name): {"level": torch.tensor(level), "rows": means_of(p, level, name)}
        for level, name in p.graph.names
    }
    rule = Consistent(node_covariances(p.graph, q))
    joint = compose(p.graph, of_levels(p, Model(), Model()), rule=rule, conditions=conditions)
    score = in_pixels(p, joint)
    u = x.sample(4, 0)
    for sigma in (0.1, 2.0):
        found = score.log_density(u, sigma)
        assert torch.allclose(found, x.log_density(u, sigma), rtol=1e-8)
    assert not hasattr(in_pixels(p, gaussian_model), "log_density")


def test_there_is_a_model_for_each_level() -> None:
    with pytest.raises(ScoreError, match="expected 2 models, of pixels and of the means"):
        of_levels(pyramid(*ONE), gaussian_model)


def test_fields_are_cropped_as_pixels_are() -> None:
    p = pyramid(*ONE)
    seen = {}

    def plain(v: Tensor, sigma: Tensor, low: Tensor) -> Tensor:
        seen[v.shape[1]] = low
        return -v

    places = torch.arange(16.0)
    compose(p.graph, of_levels(p, plain, lambda v, sigma, low: -v))(
        torch.zeros(1, 16), 1.0, low=field(places[None])
    )
    assert torch.equal(seen[4][1], places[2:6])


def test_samples_of_pixels_carry_the_messages_and_have_the_right_covariance() -> None:
    p = pyramid(*ONE)
    q = markov_gaussian(p.graph, 0)
    x = in_pixel_basis(p, q)
    states = x.sample(20_000, 0)
    fitted = fit_covariances(p.graph, p.to_coefficients(states))
    joint = compose(
        p.graph,
        of_levels(p, gaussian_model, gaussian_model),
        rule=Consistent(fitted),
        conditions=conditions_of(p, x),
    )
    score = in_pixels(p, joint)
    assert set(score.remembering().memory) == set()
    drawn = sample(
        score, karras(12, 0.01, 20.0), shape=(4_000, 16), generator=0, dtype=torch.float64
    )
    assert relative(torch.cov(drawn.T), x.covariance) < 0.1
    mask = Mask(torch.arange(16) == 3)
    with pytest.raises(PgmdiffError, match="got the joint of their coefficients"):
        moment_matching(score, 1.0, mask, Composed(joint), noise=0.1)
    assert "Tweedie" in repr(moment_matching(score, 1.0, mask, noise=0.1))
