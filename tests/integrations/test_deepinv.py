"""Scores from denoisers of the form of deepinv's, which does not import without torchvision.

`test_deepinvs_own_denoisers_and_physics` runs where deepinv is installed.
"""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pgmdiff import PgmdiffError, Posterior, ScoreError, compose, gaussian
from pgmdiff.conditioning import (
    Composed,
    LinearOperator,
    Mask,
    moment_matching,
    reconstruction,
    replacement,
)
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import chain
from pgmdiff.integrations.deepinv import from_deepinv
from tests.helpers import ar1

generator = torch.Generator().manual_seed(0)
X = torch.randn(4, 1, 2, 3, generator=generator, dtype=torch.float64)
SIGMA = torch.tensor([0.01, 0.1, 1.0, 10.0], dtype=torch.float64)


def images() -> Gaussian:
    """Correlated pixels with values of about [0, 1]."""
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Gaussian(torch.full((1, 2, 3), 0.5).double(), 0.01 * (root @ root.T) + 0.01)


class Denoiser(nn.Module):
    """The form of `deepinv.models.Denoiser`: images in [0, 1], sigma a float or `[batch]`."""

    def forward(self, x: Tensor, sigma: Tensor | float, **kwargs: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        return images().denoise(x, sigma.expand(len(x)))


class Inpainting:
    """It has the form of a linear physics: three maps of batches."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def A(self, x: Tensor, **kwargs: Tensor) -> Tensor:
        return x * self.mask

    def A_adjoint(self, y: Tensor, **kwargs: Tensor) -> Tensor:
        return y * self.mask

    def A_dagger(self, y: Tensor, **kwargs: Tensor) -> Tensor:
        return y * self.mask


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_denoisers_give_the_score_in_the_units_of_the_state(low: float, high: float) -> None:
    span, q = high - low, images()
    moved = Gaussian(low + span * q.mean, span**2 * q.covariance)
    x, sigma = low + span * X, span * SIGMA
    score = from_deepinv(Denoiser(), low=low, high=high)
    torch.testing.assert_close(score(x, sigma), moved.score(x, sigma), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(score.denoise(x, sigma), moved.denoise(x, sigma))


def test_bad_ranges_are_named() -> None:
    with pytest.raises(ScoreError, match="low < high"):
        from_deepinv(Denoiser(), low=1.0, high=1.0)


def test_physics_condition_joints_as_our_operators_do() -> None:
    q, graph = ar1(4, 0.8), chain(4)
    rule = Posterior(gaussian.node_covariances(graph, q))
    joint = compose(graph, gaussian.node_scores(graph, q), rule=rule)
    mask = torch.tensor([True, False, False, True])
    theirs, ours = Inpainting(mask.double()), Mask(mask)
    assert isinstance(theirs, LinearOperator)
    u = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    y, sigma = torch.tensor([1.0, 0, 0, -2.0]).double(), torch.tensor([0.1, 1.0, 5.0]).double()
    for condition in (
        lambda operator: replacement(joint, y, operator),
        lambda operator: moment_matching(joint, y, operator, Composed(joint), noise=0.2),
    ):
        torch.testing.assert_close(condition(theirs)(u, sigma), condition(ours)(u, sigma))


class Squares(Inpainting):
    """It has the form of a phase retrieval: its adjoint is that of a part of it."""

    def A(self, x: Tensor, **kwargs: Tensor) -> Tensor:
        return (x * self.mask) ** 2


class Noisy:
    """It has the form of a physics that is not linear: called, it adds noise to A(x)."""

    def A(self, x: Tensor, **kwargs: Tensor) -> Tensor:
        return x**2

    def __call__(self, x: Tensor) -> Tensor:
        return self.A(x) + torch.randn_like(x)


def test_physics_that_are_not_linear_count_as_functions_or_are_refused() -> None:
    q, y = ar1(4, 0.8), torch.tensor([1.0, 0.5, 0.2, 2.0]).double()
    squares, u = Squares(torch.ones(4).double()), torch.ones(2, 4).double()
    matching = partial(moment_matching, noise=0.1)
    guiding = partial(reconstruction, weight=lambda sigma, gap: 0.1 * sigma)
    for condition in (matching, replacement, guiding):
        for observed in (y, 0 * y):
            with pytest.raises(PgmdiffError, match=r"Squares.* is not linear: A\(-2 v\) differs"):
                condition(q.score, observed, squares)
    for condition in (matching, guiding):
        expected = condition(q.score, y, lambda x: x**2)(u, 1.0)
        for operator in (squares.A, Noisy(), Noisy()):
            assert torch.equal(condition(q.score, y, operator)(u, 1.0), expected)


def test_deepinvs_own_denoisers_and_physics() -> None:
    dinv = pytest.importorskip("deepinv", reason="deepinv or torchvision is not installed")

    class Own(dinv.models.Denoiser):
        def forward(self, x: Tensor, sigma: Tensor | float, **kwargs: Tensor) -> Tensor:
            sigma = self._handle_sigma(sigma, batch_size=len(x), dtype=x.dtype)
            return images().denoise(x, sigma)

    score, q = from_deepinv(Own(), low=-1.0, high=1.0), images()
    moved = Gaussian(2 * q.mean - 1, 4 * q.covariance)
    torch.testing.assert_close(score(X, SIGMA), moved.score(X, SIGMA), rtol=1e-8, atol=1e-8)

    mask = torch.tensor([[[True, False, True], [False, False, True]]])
    physics = dinv.physics.Inpainting(img_size=(1, 2, 3), mask=mask.double())
    y = physics.A(X[:1])
    theirs = replacement(moved.score, y, physics)(X, SIGMA)
    torch.testing.assert_close(theirs, replacement(moved.score, y, Mask(mask))(X, SIGMA))

    squared = dinv.physics.PhaseRetrieval(dinv.physics.CompressedSensing(8, (1, 2, 3)))
    with pytest.raises(PgmdiffError, match=r"PhaseRetrieval.* is not linear"):
        moment_matching(from_deepinv(Own()), squared.A(X[:1].float()), squared, noise=0.1)

    drunet = dinv.models.DRUNet(in_channels=1, out_channels=1, pretrained=None).eval()
    x = torch.rand(2, 1, 16, 16)
    found = from_deepinv(drunet).denoise(x, torch.tensor([0.1, 0.2]))
    with torch.no_grad():
        torch.testing.assert_close(found, drunet(x, torch.tensor([0.1, 0.2])))
