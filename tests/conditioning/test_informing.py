"""Joints that know an observation: exact for Gaussians, and nearly so for chains of modes."""

import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pgmdiff import Consistent, Posterior, ScoreError, compose, graphs
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
from pgmdiff.scores.adapters import from_denoiser
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
        torch.cat(
            [torch.full((2,), 0.04, dtype=torch.float64), EACH[SEEN] ** 2, torch.full((3,), 0.25)]
        ).diag(),
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
            for found in (guided, guided.remembering())[sigma != 1.0 :]:
                d = found.denoise(u, sigma)
                assert relative(d - q.mean, expected - q.mean) < 1e-10
    d = guided.denoise(u.float(), sigma).double()
    assert relative(d - q.mean, expected - q.mean) < 1e-4


def test_masks_of_each_sample_are_folded_too() -> None:
    graph, q = GRAPHS["chain"], markov(GRAPHS["chain"], 0.9, seed=3)
    masks, y = torch.stack([SEEN, ~SEEN]), random(2, N)
    joint = joint_of(graph, q, Consistent, True)
    both = moment_matching(joint, y, Mask(masks, event_shape=(N,)), noise=0.3, tolerance=1e-12)
    assert both.score.rule.observed.variances.isfinite().equal(masks)
    u = q.noised(2.0).sample(2, generator=2)
    for k, mask in enumerate(masks):
        noise = 0.09 * torch.eye(int(mask.sum()), dtype=torch.float64)
        expected = conditioned(q, u[k : k + 1], 2.0, EYE[mask], y[k : k + 1, mask], noise)
        assert relative(both.denoise(u, 2.0)[k : k + 1], expected) < 1e-10


def test_what_is_folded_is_the_largest_choice_that_all_regions_share() -> None:
    """Against the rule applied until nothing changes, with scores of both kinds."""

    def even(x: Tensor, sigma: Tensor) -> Tensor:
        return -x

    def uneven(x: Tensor, sigma: Tensor) -> Tensor:
        return -x

    uneven.per_element = True  # type: ignore[attr-defined]
    scopes = {"f0": "abc", "f1": "bd", "f2": "ef", "f3": "fg", "f4": "hi"}
    graph = graphs.FactorGraph.from_scopes(
        {f: tuple(scope) for f, scope in scopes.items()}, dict.fromkeys("abcdefghi", ())
    )
    ones = {n: torch.eye(graph.regions.elements(n).numel()).double() for n in graph.regions.names}
    folded = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        kinds = torch.rand(len(ones), generator=generator) < 0.6
        scores = {name: uneven if k else even for name, k in zip(ones, kinds, strict=True)}
        joint = compose(graph, scores, rule=Posterior(ones))
        choices = torch.tensor([0.5, 0.5, 0.5, 1.0, torch.inf], dtype=torch.float64)
        given = choices[torch.randint(5, (1, 9), generator=generator)]
        expected, before = given.clone(), None
        while before is None or not torch.equal(expected, before):
            before = expected.clone()
            for batch in joint.batches:
                for index in batch.group.indices(0, len(batch.group)).reshape(len(batch.group), -1):
                    if batch.score is even and len(expected[0, index].unique()) > 1:
                        expected[0, index] = torch.inf
        found = foldable(joint.batches, given)
        folded += int(expected.isfinite().sum())
        assert torch.equal(torch.full_like(given, torch.inf) if found is None else found, expected)
    assert 100 < folded < 400


def mixture(signs: list[tuple[float, ...]], variance: float = 0.16) -> GaussianMixture:
    """Independent variables around ±2 given signs, which stay with probability 0.9."""
    stays = [[0.9 if a == b else 0.1 for a, b in itertools.pairwise(s)] for s in signs]
    weights = torch.tensor(stays, dtype=torch.float64).reshape(len(signs), -1).prod(dim=1) / 2
    spread = variance * torch.eye(len(signs[0]), dtype=torch.float64)
    return GaussianMixture(weights, [Gaussian(2 * torch.tensor(s).double(), spread) for s in signs])


def signs(n: int) -> list[tuple[float, ...]]:
    return list(itertools.product((-1.0, 1.0), repeat=n))


def test_one_variable_of_two_modes() -> None:
    """Modes at ±2, y = 1, R = 0.25: E[u_0 | y] is 1.61, and 0.94 by the solve alone."""
    graph = graphs.FactorGraph.from_scopes({"f": ("x",)}, {"x": (1,)})
    q = mixture(signs(1))
    scores, covariances = OneLevel(q), {"f": q.covariance, "x": q.covariance}
    joint = compose(graph, lambda x, sigma: scores(x, sigma), rule=Consistent(covariances))
    given = torch.ones(1, dtype=torch.float64), Mask(torch.tensor([True]))
    u = torch.zeros(1, 1, dtype=torch.float64)
    assert moment_matching(joint, *given, noise=0.5).denoise(u, 1e4).item() == pytest.approx(
        1.6096, abs=1e-4
    )
    outside = moment_matching(scores, *given, Composed(joint), noise=0.5)
    assert outside.denoise(u, 1e4).item() == pytest.approx(0.9433, abs=1e-4)


@pytest.mark.parametrize(("sigma", "most"), [(20.0, 0.016), (4.0, 0.015), (1.0, 0.006)])
def test_messages_carry_what_was_observed_along_a_chain_of_modes(sigma: float, most: float) -> None:
    """The relative error of D, 3 of 8 variables observed: folded in with messages the least."""
    n, count, seen = 8, 40, torch.arange(8) % 3 == 1
    whole, pair = mixture(signs(n)), mixture(signs(2))
    models = {"pair": pair, "single": pair.marginal(torch.tensor(0))}
    graph = graphs.chain(n, factor_model="pair", variable_model="single")
    clean = whole.sample(count, generator=0)
    y, u = clean + 0.5 * random(count, n, seed=1), clean + sigma * random(count, n, seed=2)
    share = torch.where(seen, 0.25 / (sigma**2 + 0.25), 1.0).double()
    exact = whole.denoise(share * u + (1 - share) * y, (sigma * share.sqrt()).expand_as(u))
    errors = []
    for rule, folds in ((Posterior, False), (Posterior, True), (Consistent, True)):
        scores = {name: q if folds else OneLevel(q) for name, q in models.items()}
        covariances = {name: q.covariance for name, q in models.items()}
        joint = compose(graph, scores, rule=rule(covariances))
        found = moment_matching(joint, y, Mask(seen), noise=0.5).denoise(u, sigma)
        errors.append(((found - exact).norm() / exact.norm()).item())
    assert errors[2] < most
    assert errors[2] < errors[1] / 4 < errors[0] / 4


def test_the_scores_of_gaussians_accept_a_noise_level_per_element() -> None:
    """Against (Σ_k + diag σ²)⁻¹, for states, and for regions in a call; also without noise."""
    q = GaussianMixture(
        torch.tensor([0.3, 0.7]).double(), [markov(GRAPHS["ring"], 0.8, seed=k) for k in (1, 2)]
    )
    u, sigma = random(4, N), random(4, N, seed=1).abs() * (torch.arange(N) % 3 > 0)
    for each in (q, q.components[0]):
        parts = getattr(each, "components", [each])
        noisy = [[Gaussian(c.mean, c.covariance + s.square().diag()) for c in parts] for s in sigma]
        weights = getattr(each, "weights", torch.ones(1))
        mixtures = [GaussianMixture(weights, some) for some in noisy]
        rows = [m.score(u[k : k + 1], 0.0) for k, m in enumerate(mixtures)]
        torch.testing.assert_close(each.score(u, sigma), torch.cat(rows))
        expected = u + sigma**2 * torch.cat(rows)
        torch.testing.assert_close(each.denoise(u, sigma), expected)
        even = sigma[:, 1:2].expand_as(u).contiguous()
        torch.testing.assert_close(each.score(u, even), each.score(u, even[:, 0]))


class Told(nn.Module):
    """A network that writes down the noise that it is told."""

    noise_field = True

    def __init__(self) -> None:
        super().__init__()
        self.noise: list[Tensor] = []

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        self.noise.append(noise)
        return torch.zeros_like(x)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_networks_are_told_a_noise_level_per_element(noise: float) -> None:
    """A network of zeros is the denoiser of white data, which is then exact, on loops as well."""
    network = Told()
    score = from_denoiser(EDMDenoiser(network, 1.0))
    assert score.per_element and not from_denoiser(nn.Identity()).per_element  # noqa: PT018
    graph, q = GRAPHS["grid"], Gaussian(torch.zeros(N).double(), EYE)
    joint = compose(graph, score, rule=Consistent(node_covariances(graph, q), mean=q.mean))
    y, u = random(N, seed=3), 2 * random(5, N)
    for scale, dtype in ((1e-9, torch.float64), (1e-4, torch.float32)):
        guided = moment_matching(joint, y.to(dtype), MASK, noise=noise)
        found = guided.remembering().denoise(u.to(dtype), 1.5).double()
        r = noise**2 * torch.eye(4).double()
        assert relative(found, conditioned(q, u, 1.5, EYE[SEEN], y[SEEN], r)) < scale
    told = torch.cat([each.flatten() for each in network.noise]).unique()
    level = max((1.5**-2 + noise**-2) ** -0.5, 0.005) if noise else 0.005
    torch.testing.assert_close(
        told[[0, -1]].exp() ** 4, torch.tensor([level, 1.5]).double(), rtol=1e-4, atol=0
    )


class Denoiser:
    """The denoiser of a Gaussian, with a noise level per element."""

    per_element = True

    def __init__(self, q: Gaussian) -> None:
        self.q = q

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.q.denoise(x, sigma)


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_the_fade_is_1_for_gaussians_that_are_observed_exactly(noise: float) -> None:
    """Although the scores of observed elements, (D - x) / σ̃², are rounding in float32."""
    graph, q = GRAPHS["ring"], markov(GRAPHS["ring"], 0.9, seed=3)
    scores = {
        name: from_denoiser(Denoiser(q.marginal(graph.regions.elements(name))))
        for name in graph.regions.names
    }
    joint = compose(graph, scores, rule=Consistent(node_covariances(graph, q), mean=q.mean))
    y, u = q.mean + 2 * random(N, seed=3), q.noised(2.0).sample(5, generator=1)
    known = moment_matching(joint, y.float(), MASK, noise=noise).score
    sigma = torch.full((5,), 2.0)
    score, fade = known.rule.joined(known.evaluate, u.float(), sigma, q.mean)
    torch.testing.assert_close(fade, torch.ones_like(fade), rtol=0, atol=1e-3)
    expected = conditioned(q, u, 2.0, EYE[SEEN], y[SEEN], torch.zeros(4, 4).double())
    assert relative(u + 4 * score - q.mean, expected - q.mean) < 1e-4


def test_a_conditioned_joint_is_a_pure_function_a_run_and_a_pickle() -> None:
    pair = mixture(signs(2))
    models = {"pair": pair, "single": pair.marginal(torch.tensor(0))}
    graph = graphs.chain(4, factor_model="pair", variable_model="single")
    rule = Consistent({name: q.covariance for name, q in models.items()}, trust=10)
    joint, seen = compose(graph, models, rule=rule), torch.tensor([False, True, False, False])
    guided = moment_matching(joint, torch.full((4,), 1.0), Mask(seen), noise=0.5)
    assert repr(guided).startswith("NetworkScore(moment_matching(Composed(")
    u = pair.sample(10, generator=0).repeat(1, 2) + 2 * random(10, 4)
    run = guided.remembering()
    for _ in range(200):
        last = run(u, 2.0)
    torch.testing.assert_close(last, guided(u, 2.0), rtol=1e-5, atol=1e-6)
    for part in (guided.score, guided.network):
        again = pickle.loads(pickle.dumps(part))
        assert fingerprint(again) == fingerprint(part)
    assert torch.equal(pickle.loads(pickle.dumps(guided.score))(u, 2.0), guided.score(u, 2.0))
    with pytest.raises(ScoreError, match="with observations"):
        guided.score.log_density(u, 1.0)
