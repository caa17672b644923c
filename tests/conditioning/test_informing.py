"""Joints that know an observation: exact for Gaussians, and nearly so for chains of modes."""

import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pgmdiff import Consistent, Posterior, PgmdiffError, compose, from_denoiser, gaussian, graphs
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.observed import foldable
from pgmdiff.conditioning import (
    Composed,
    Crop,
    DenseOperator,
    Mask,
    Stacked,
    block_average,
    moment_matching,
)
from pgmdiff.gaussian import Gaussian, GaussianMixture, node_covariances, node_scores
from pgmdiff.samplers import SDE, karras, sample
from pgmdiff.store import fingerprint
from pgmdiff.training import EDMDenoiser
from tests.helpers import relative
from tests.precision.examples import markov

N = 9
GRAPHS = {"chain": graphs.chain(N), "ring": graphs.cycle(N), "grid": graphs.grid(3, 3)}
SIGMAS = (1e-2, 1.0, 80.0)
SEEN = torch.tensor([False, True, False, False, True, True, False, False, True])


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class OneLevel:
    """A score that does not say that it accepts a noise level per element."""

    def __init__(self, score: Any) -> None:
        self.score = score

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.ndim == 1
        return self.score(x, sigma)


def joint_of(graph: Any, q: Gaussian, rule: Any, uneven: bool) -> Joint:
    scores: Any = node_scores(graph, q)
    if not uneven:
        scores = {name: OneLevel(score) for name, score in scores.items()}
    return compose(graph, scores, rule=rule(node_covariances(graph, q), mean=q.mean))


def conditioned(q: Gaussian, u: Tensor, sigma: float, h: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """E[u_0 | u_σ = u, y] by one dense Gaussian conditioning, sample by sample."""
    eye = torch.eye(len(q.covariance), dtype=torch.float64)
    seen = torch.cat([eye, h])
    noise = torch.block_diag(sigma**2 * eye, r)
    gain = q.covariance @ seen.T @ torch.linalg.inv(seen @ q.covariance @ seen.T + noise)
    both = torch.cat([u, y.expand(len(u), -1)], dim=1)
    return q.mean + (both - q.mean @ seen.T) @ gain.T


MASK, ROWS = Mask(SEEN), DenseOperator(random(2, N), (N,))
EYE = torch.eye(N, dtype=torch.float64)
EACH = torch.linspace(0.1, 0.9, N).double()
CORRELATED = 0.2 * torch.eye(N).double() + 0.1
KINDS: dict[str, tuple[Any, Any, Tensor, Tensor, bool]] = {
    # operator, noise, H, R, whether elements are folded where scores allow it
    "mask": (MASK, 0.3, EYE[SEEN], 0.09 * torch.eye(4).double(), True),
    "a deviation each": (MASK, EACH, EYE[SEEN], EACH[SEEN].square().diag(), True),
    "small noise": (MASK, 1e-5, EYE[SEEN], 1e-10 * torch.eye(4).double(), True),
    "exact": (MASK, 0.0, EYE[SEEN], torch.zeros(4, 4).double(), True),
    "crop": (Crop((N,), (slice(2, 5),)), 0.3, EYE[2:5], 0.09 * torch.eye(3).double(), True),
    "correlated": (MASK, CORRELATED, EYE[SEEN], CORRELATED[SEEN][:, SEEN], False),
    "rows": (ROWS, 0.3, ROWS.matrix, 0.09 * torch.eye(2).double(), False),
    "mixed": (
        Stacked((ROWS, MASK, block_average((N,), 3))),
        (0.2, EACH, 0.5),
        torch.cat([ROWS.matrix, EYE[SEEN], EYE.reshape(3, 3, N).mean(dim=1)]),
        torch.cat([torch.full((2,), 0.04), EACH[SEEN] ** 2, torch.full((3,), 0.25)]).diag(),
        True,
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_denoiser_of_gaussians_is_exact(name: str, kind: str) -> None:
    """Whatever is folded, on trees and loops, at every σ, to 1e-10 in float64."""
    graph, (operator, noise, h, r, folds) = GRAPHS[name], KINDS[kind]
    q = markov(graph, 0.9, seed=3)
    clean, eps = q.sample(3, generator=1), random(3, N)
    observed = operator.A(clean + 0.3 * eps)
    y = observed[:, operator.A(EYE).abs().sum(dim=0) > 0]
    for rule, uneven in itertools.product((Consistent, Posterior), (True, False)):
        joint = joint_of(graph, q, rule, uneven)
        guided = moment_matching(joint, observed, operator, noise=noise, tolerance=1e-12)
        assert (guided.score.rule.observed.variances is not None) == (folds and uneven)
        for sigma in SIGMAS:
            u = q.noised(sigma).sample(3, generator=2)
            expected = conditioned(q, u, sigma, h, y, r)
            assert relative(guided.denoise(u, sigma) - q.mean, expected - q.mean) < 1e-10
            run = guided.remembering()
            assert relative(run.denoise(u, sigma) - q.mean, expected - q.mean) < 1e-10
    single = guided.denoise(u.float(), sigma).double()
    assert relative(single - q.mean, expected - q.mean) < 1e-4
