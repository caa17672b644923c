"""The law of units: u -> a u + b and σ -> a σ change no result but by its own unit and offset.

Every public function that takes data or states is in `LAWS`, as a function of the units that
returns its results in units of 1 about 0, or in `EXEMPT`, with the reason. What depends on
covariances only also keeps to a unit of its own for every element.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import (
    baselines,
    check_consistency,
    conditioning,
    diagnostics,
    distributed,
    fit_covariances,
    graphs,
    precision,
)
from pgmdiff import gaussian as gaussians
from pgmdiff import samplers as s
from pgmdiff.composition import (
    Average,
    Consistent,
    FeynmanKac,
    Joint,
    Marginal,
    Posterior,
    compose,
)
from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.gaussian import Gaussian, GaussianMixture, node_covariances, node_scores
from pgmdiff.images import cube_to_equirectangular, equirectangular_to_cube
from pgmdiff.models.series import SeriesNet
from pgmdiff.precision import ComposedPrecision, solver_of
from pgmdiff.precision.solves.blocks import nodes_of
from pgmdiff.scores import denoise, from_denoiser, from_eps, in_pixels, of_levels, padded
from pgmdiff.testing.oracles import markov_gaussian
from pgmdiff.training import EDMDenoiser, WienerFilter, crops, denoising_loss, fit, random_crops
from tests.helpers import ar1

N = 5
CHAIN, RING, WINDOWS = graphs.chain(N), graphs.cycle(N), graphs.tiles((12,), 4, 2)
ROUND = graphs.tiles((12,), 4, 2, periodic=True)
UNIT = markov_gaussian(CHAIN.regions, 3)
UNIT = Gaussian(torch.linspace(-1, 1, N).double(), UNIT.covariance)
PYRAMID = graphs.pyramid((6,), tile=2, levels=1, window=4, overlap=2)
PIXELS = torch.linspace(-2, 2, 18).double().reshape(3, 6)
LEVELS = [20.0, 3.0, 0.5, 0.05]
MASK = torch.tensor([True, False, False, True, False])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Units:
    """A unit a, an offset b, a dtype and a device."""

    a: float = 1.0
    b: float = 0.0
    dtype: torch.dtype = torch.float64
    device: torch.device | str = "cpu"

    def states(self, u: Tensor) -> Tensor:
        return (self.a * u + self.b).to(self.device, self.dtype)

    def back(self, u: Tensor) -> Tensor:
        return (u.double() - self.b) / self.a

    def gaussian(self, q: Gaussian = UNIT) -> Gaussian:
        return Gaussian(self.states(q.mean), (self.a**2 * q.covariance).to(self.states(q.mean)))

    def sigmas(self, levels: list[float] = LEVELS) -> list[float]:
        return [self.a * level for level in levels]

    @property
    def q(self) -> Gaussian:
        return self.gaussian()

    @property
    def mixture(self) -> GaussianMixture:
        moved = Gaussian(UNIT.mean + 3.0, 0.5 * UNIT.covariance)
        weights = torch.tensor([0.3, 0.7], dtype=self.dtype, device=self.device)
        return GaussianMixture(weights, [self.q, self.gaussian(moved)])

    @property
    def noisy(self) -> Tensor:
        """Four states at σ = 0.7."""
        return self.states(UNIT.noised(0.7).sample(4, 1))

    def start(self, sigma: float = LEVELS[0]) -> Tensor:
        return self.states(UNIT.noised(sigma).sample(3, 2))

    def joint(self, rule: Any = None, graph: Any = CHAIN, q: Any = None) -> Joint:
        q = self.q if q is None else q
        rule = rule or Posterior(node_covariances(graph, q))
        return compose(graph, node_scores(graph, q), rule=rule)

    @property
    def covariances(self) -> dict[Any, Tensor]:
        return node_covariances(CHAIN, self.q)


def score_of(rule: Callable[[Units], Any]) -> Callable[[Units], Any]:
    """The score of a rule, of a mixture, on a chain and on a ring."""

    def law(t: Units) -> Any:
        return [
            t.a * t.joint(rule(t), graph, t.mixture)(t.noisy, 0.7 * t.a) for graph in (CHAIN, RING)
        ]

    return law


def consistent(t: Units) -> Any:
    joint = t.joint(Consistent(t.covariances))
    density = joint.log_density(t.noisy, 0.7 * t.a)
    around = compose(RING, node_scores(RING, t.q), rule=Consistent(node_covariances(RING, t.q)))
    away = t.a * around(t.noisy, 0.7 * t.a)
    return t.a * joint(t.noisy, 0.7 * t.a), density + N * math.log(t.a), away


def conditioned(make: Callable[[Units, Tensor], Any]) -> Callable[[Units], Any]:
    """A conditioned score that sees the elements of a mask."""

    def law(t: Units) -> Any:
        y = t.states(UNIT.sample(1, 5)[0])
        return [
            t.back(denoise(make(t, y), t.states(UNIT.noised(level).sample(4, 1)), t.a * level))
            for level in (0.3, 5.0)
        ]

    return law


def matched_by(covariance: Callable[[Units], Any], noise: float = 0.2) -> Callable[[Units], Any]:
    return conditioned(
        lambda t, y: conditioning.moment_matching(
            t.joint(), y, MASK, covariance(t), noise=noise * t.a
        )
    )


def run(solver: Callable[[Units], s.Solver]) -> Callable[[Units], Any]:
    """A run from given states to data."""
    return lambda t: t.back(
        s.sample(t.mixture.score, [*t.sigmas(), 0.0], x=t.start(), solver=solver(t), generator=1)
    )


def corrected(corrector: Callable[[Units], s.Corrector]) -> Callable[[Units], Any]:
    return run(lambda t: s.PredictorCorrector(s.Euler(), corrector(t)))


def drawn_start(t: Units) -> Any:
    start = {"shape": (4, N), "mean": t.b, "generator": 0, "dtype": t.dtype}
    return t.back(s.sample(t.q.score, [*t.sigmas(), 0.0], **start))


def consistency(t: Units) -> Any:
    q = ar1(12, 0.9)
    whole, part = (t.gaussian(q.marginal(torch.arange(n))) for n in (4, 2))
    found = []
    for share in (1.0, 0.25):  # of the overlap's variance
        scores = {(4,): whole.score, (2,): Gaussian(part.mean, share * part.covariance).score}
        data = t.states(q.sample(200, 0))
        report = check_consistency(WINDOWS, scores, data, generator=0)
        assert report.consistent == (share == 1)
        found += [[r.sigma / t.a, r.error_piece / t.a**2, r.excess] for r in report.rows]
    return torch.tensor(found)


def advice(t: Units) -> Any:
    (row,) = diagnostics.advise(RING, t.gaussian(ar1(N, 0.6))).rows
    return torch.tensor([row.marginal, row.average, row.consistent])


def reached(t: Units) -> Any:
    solver, sigmas = s.DPMSolver2M(1.0), t.sigmas()
    found = diagnostics.distribution_reached(
        t.q.score, sigmas, t.gaussian(UNIT.noised(LEVELS[0])), solver
    )
    return t.back(found.mean), found.covariance / t.a**2


def fitted(form: str, **options: Any) -> Callable[[Units], Any]:
    def law(t: Units) -> Any:
        shape = (2, 12) if "channels" in options else (12,)
        graph = graphs.tiles((2, 12), (2, 4), (0, 2)) if "channels" in options else WINDOWS
        data = t.states(draw(60, *shape).cumsum(-1))
        found = fit_covariances(graph, data, form=form, **options)
        return [found.form(group).inverse(group.name).dense() * t.a**2 for group in graph.groups]

    return law


def solved(graph: Any, make: Callable[..., Any] = solver_of, **options: Any) -> Callable:
    """(I + σ² P)⁻¹ b, and the log-determinant of its matrix if there is one."""

    def law(t: Units) -> Any:
        n = graph.regions.n_elements
        data = t.states(draw(80, *graph.regions.event_shape, seed=3).cumsum(-1))
        given = fit_covariances(graph, data, shared=True, ridge=1.0, **options)
        solve = make(ComposedPrecision(graph.regions, given))
        sigma = torch.full((2,), 0.7 * t.a, dtype=t.dtype)
        try:
            return solve(draw(2, n).to(t.dtype), sigma), solve.log_determinant(sigma)
        except PgmdiffError:
            return solve(draw(2, n).to(t.dtype), sigma)

    return law


def precision_of(t: Units, graph: Any = CHAIN) -> ComposedPrecision:
    data = t.states(UNIT.sample(60, 4))
    return ComposedPrecision(graph.regions, fit_covariances(graph, data))


def seeds(t: Units) -> Any:
    mean, error = diagnostics.mean_and_error(t.states(X[:, 0]).tolist())
    return torch.tensor([(mean - t.b) / t.a, error / t.a])


def image(t: Units) -> Tensor:
    return t.states(0.3 * draw(6, 1, 8, 16).cumsum(-1))


def texture(t: Units) -> Any:
    features = diagnostics.texture_features(image(t)).double()
    features[:, :60] -= math.log(t.a)
    features[:, 60] = t.back(features[:, 60])
    features[:, 61] /= t.a
    return features[:, :60], features[:, 60], features[:, 61], features[:, 62]


def features(t: Units) -> tuple[Tensor, Tensor]:
    """Features of 20 images in their units, and of 20 others."""
    images = t.states(0.3 * draw(40, 2, 8, 16).cumsum(-1))
    return diagnostics.texture_features(images).chunk(2)


def together(
    metric: Callable[..., Any], *sets: Callable[[Units], Tensor]
) -> Callable[[Units], Any]:
    """A metric that has no unit."""
    return lambda t: torch.as_tensor(metric(*(each(t) for each in sets)))


def one(t: Units) -> Tensor:
    return t.states(X)


def other(t: Units) -> Tensor:
    return t.states(Y)


def floor(t: Units) -> Any:
    found = diagnostics.with_floor(diagnostics.energy_distance, one(t), other(t), generator=0)
    return torch.tensor(found) / t.a


def drawn(method: Callable[..., Any], *more: Callable[[Units], Any]) -> Callable[[Units], Any]:
    """Samples of a baseline, from windows of an AR(1) series."""

    def law(t: Units) -> Any:
        options = {"batch": 3, "mean": t.b, "generator": 0, "dtype": t.dtype}
        given = [each(t) for each in more]
        levels = [*t.sigmas(), 0.0]
        return t.back(method(windowed(t), WINDOWS, levels, *given, **options).samples)

    return law


SEEN = torch.arange(12) % 5 == 0


def loss(t: Units) -> Any:
    clean, variance = t.states(draw(50, 3)), t.a**2
    score = from_denoiser(
        lambda x, sigma: t.b + (x - t.b) * (variance / (variance + sigma**2))[:, None]
    )
    return denoising_loss(score.denoise, clean, sigma_data=t.a, generator=0)


def network(t: Units) -> SeriesNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SeriesNet(width=8, depth=1, features=8).to(t.dtype)


def trained(t: Units) -> Any:
    data = t.states(UNIT.sample(50, 3))
    denoiser = fit(CHAIN, network(t), data, steps=3, batch=16, generator=0)
    return t.back(denoiser(t.noisy, torch.full((4,), 0.7 * t.a, dtype=t.dtype)))


def white(t: Units) -> Callable[..., Tensor]:
    """The score of white data about 0, of the unit's variance."""
    return lambda x, sigma: -x / (t.a**2 + sigma.reshape(-1, 1) ** 2)


def preconditioned(t: Units) -> Any:
    denoiser = EDMDenoiser(network(t).requires_grad_(False), 2 * t.a, t.b, unit=t.a)
    return t.back(denoiser(t.noisy, torch.full((4,), 0.7 * t.a, dtype=t.dtype)))


def filtered(t: Units) -> Any:
    filters = [WienerFilter.of(t.noisy)]
    denoiser = EDMDenoiser(network(t).requires_grad_(False), 2 * t.a, t.b, t.a, filters)
    return t.back(denoiser(t.noisy, torch.full((4,), 0.7 * t.a, dtype=t.dtype)))


def likelihood(t: Units) -> Any:
    last = t.gaussian(UNIT.noised(20.0))
    found = s.log_likelihood(t.q.score, t.noisy, 0.7 * t.a, 20 * t.a, prior=last.log_density)
    return found + N * math.log(t.a)


def curvature(t: Units) -> Any:
    ends = s.curvature_extremes(t.q.score, t.noisy, 0.7 * t.a, generator=0)
    return [t.a**2 * value for value in ends]


def measured(t: Units) -> s.Curvature:
    levels = t.sigmas([60.0, *LEVELS])  # hide the mean of the mixture
    start = {"shape": (4, N), "mean": t.b, "generator": 0, "dtype": t.dtype}
    return s.Curvature.measure(t.mixture.score, levels, **start)


def weighted(t: Units) -> Any:
    potential = FeynmanKac(t.joint(Marginal()))
    start = {"shape": (40, N), "mean": t.b, "generator": 0, "dtype": t.dtype}
    found = s.sample_weighted(potential, t.sigmas([20.0, 8.0, 3.0, 1.0, 0.5]), **start)
    return t.back(found.x), found.component_log_weights


def windowed(t: Units) -> Callable[[Tensor, Tensor], Tensor]:
    """The score of windows of an AR(1) series."""
    return lambda x, sigma: t.gaussian(ar1(x.shape[1], 0.8))(x, sigma)


def streamed(t: Units) -> Any:
    out = torch.zeros(2, 40, dtype=t.dtype).numpy()
    start = {"shape": out.shape, "mean": t.b, "generator": 0, "dtype": t.dtype}
    distributed.stream(WINDOWS, windowed(t), [*t.sigmas(), 0.0], out=out, **start)
    return t.back(torch.from_numpy(out))


def endless(t: Units) -> Any:
    start: dict[str, Any] = {"mean": t.b, "generator": 0, "dtype": t.dtype}
    levels = [*t.sigmas(), 0.0]
    return t.back(distributed.Endless(windowed(t), levels, (None,), (4,), (2,), **start)[0:9])


def closed(t: Units) -> Any:
    q, u, sigma = t.q, t.noisy, 0.7 * t.a
    many = t.states(UNIT.sample(300, 6))
    fit = Gaussian.fit(many)
    yield from (t.a * q(u, sigma), t.back(q.denoise(u, sigma)), t.back(q.sample(4, 0)))
    yield q.log_density(u, sigma) + N * math.log(t.a)
    yield torch.tensor(q.entropy(sigma) - N * math.log(t.a))
    yield from (t.back(fit.mean), fit.covariance / t.a**2)


def mixed(t: Units) -> Any:
    q, u, sigma = t.mixture, t.noisy, 0.7 * t.a
    yield from (t.a * q(u, sigma), q.log_density(u, sigma) + N * math.log(t.a))
    yield from (t.back(q.mean), q.covariance / t.a**2, t.back(q.sample(4, 0)))


def scaled_levels(schedule: Callable[..., list[float]]) -> Callable[[Units], Any]:
    return lambda t: torch.tensor(schedule(7, 0.01 * t.a, 9 * t.a)) / t.a


X, Y = UNIT.sample(60, 7), 0.3 + UNIT.sample(60, 8)

LAWS: dict[str, Callable[[Units], Any]] = {
    "composition.Marginal": score_of(lambda t: Marginal()),
    "composition.Average": score_of(lambda t: Average()),
    "composition.Posterior": lambda t: t.a * t.joint(None, CHAIN, t.mixture)(t.noisy, 0.7 * t.a),
    "composition.Consistent": consistent,
    "precision.completed": lambda t: (
        t.a**2
        * precision.completed(RING.regions, precision.Dense(node_covariances(RING, t.q))).precision
    ),
    "composition.FeynmanKac": lambda t: (
        t.a**2 * FeynmanKac(t.joint(Marginal())).by_element(t.noisy, 0.7 * t.a)[1]
    ),
    "conditioning.replacement": conditioned(
        lambda t, y: conditioning.replacement(t.joint(), y, MASK)
    ),
    "conditioning.dps": conditioned(
        lambda t, y: conditioning.reconstruction(
            t.joint(), y, MASK, conditioning.dps(0.3, data_std=t.a)
        )
    ),
    "conditioning.matched": conditioned(
        lambda t, y: conditioning.reconstruction(
            t.joint(),
            y,
            MASK,
            conditioning.matched(lambda sigma: sigma**2 / (1 + sigma**2 / t.a**2), 0.2 * t.a),
        )
    ),
    "conditioning.Composed": matched_by(lambda t: conditioning.Composed(t.joint())),
    "conditioning.Tweedie": matched_by(lambda t: conditioning.Tweedie()),
    "conditioning.Isotropic": matched_by(lambda t: conditioning.Isotropic(t.a)),
    "diagnostics.check_consistency": consistency,
    "diagnostics.advise": advice,
    "diagnostics.distribution_reached": reached,
    "diagnostics.energy_distance": lambda t: torch.tensor(
        diagnostics.energy_distance(t.states(X), t.states(Y)) / t.a
    ),
    "diagnostics.sliced_wasserstein": lambda t: torch.tensor(
        diagnostics.sliced_wasserstein(t.states(X), t.states(Y), generator=0) / t.a
    ),
    "diagnostics.frechet_distance": lambda t: torch.tensor(
        diagnostics.frechet_distance(t.states(X), t.states(Y)) / t.a**2
    ),
    "diagnostics.mean_and_error": seeds,
    "diagnostics.seam_ratio": lambda t: torch.tensor(diagnostics.seam_ratio(image(t), [4, 8])),
    "diagnostics.texture_features": texture,
    "diagnostics.crop_features": lambda t: t.back(
        diagnostics.crop_features(
            image(t), (3, 5), 2, extractor=lambda x: x.flatten(1), generator=0
        )
    ),
    "diagnostics.kernel_distance": lambda t: torch.tensor(
        diagnostics.kernel_distance(*features(t))
    ),
    "diagnostics.manifold_precision": lambda t: torch.tensor(
        [
            diagnostics.frechet_distance(*(x[:, ::7] for x in features(t)), relative=True),
            diagnostics.manifold_precision(*features(t)),
        ]
    ),
    "diagnostics.diversity": lambda t: torch.tensor(diagnostics.diversity(one(t)) / t.a),
    "diagnostics.multimodal_distance": lambda t: torch.tensor(
        diagnostics.multimodal_distance(one(t), other(t)) / t.a
    ),
    "diagnostics.r_precision": together(diagnostics.r_precision, one, other),
    "diagnostics.autocorrelation": together(lambda x: diagnostics.autocorrelation(x, 3), one),
    "diagnostics.autocorrelation_distance": together(
        lambda a, b: diagnostics.autocorrelation_distance(a, b, 3), one, other
    ),
    "diagnostics.spectrum": lambda t: diagnostics.spectrum(image(t)) / t.a**2,
    "diagnostics.spectrum_distance": together(diagnostics.spectrum_distance, one, other),
    "diagnostics.with_floor": floor,
    "diagnostics.crps": lambda t: torch.tensor(
        diagnostics.crps(t.states(X.reshape(6, 10, N)), t.states(Y[:6])) / t.a
    ),
    "diagnostics.interval_coverage": together(
        lambda x, y: diagnostics.interval_coverage(x.reshape(3, 20, N)[:, :19], y[:3]), one, other
    ),
    "diagnostics.rank_statistics": together(
        lambda x, y: diagnostics.rank_statistics(x, y[:, 0])[1], one, other
    ),
    "distributed.stream": streamed,
    "distributed.Endless": endless,
    "baselines.concatenation": drawn(baselines.concatenation),
    "baselines.naive": drawn(baselines.naive),
    "baselines.composed": drawn(baselines.composed),
    "baselines.outpainting": drawn(baselines.outpainting),
    "baselines.split_and_inpaint": drawn(
        baselines.split_and_inpaint, lambda t: t.states(draw(12)), lambda t: SEEN
    ),
    "diagnostics.influence": lambda t: (
        t.a**2 * diagnostics.influence(t.joint(Marginal()), t.noisy, 0.7 * t.a, 1)
    ),
    "diagnostics.influence_over_steps": lambda t: diagnostics.influence_over_steps(
        t.joint(Marginal()), t.sigmas(), t.start(), 1
    ),
    "gaussian.Gaussian": lambda t: tuple(closed(t)),
    "gaussian.GaussianMixture": lambda t: tuple(mixed(t)),
    "gaussian.node_scores": lambda t: (
        t.a * node_scores(CHAIN, t.q)["f1"](t.noisy[:, 1:3], 0.7 * t.a)
    ),
    "gaussian.node_covariances": lambda t: [v / t.a**2 for v in t.covariances.values()],
    "gaussian.bethe_entropy": lambda t: torch.tensor(
        gaussians.bethe_entropy(CHAIN, t.q, 0.7 * t.a) - N * math.log(t.a)
    ),
    "gaussian.composed_log_density": lambda t: (
        gaussians.composed_log_density(CHAIN, t.q, t.noisy, 0.7 * t.a) + N * math.log(t.a)
    ),
    "gaussian.composed_precision": lambda t: (
        t.a**2 * gaussians.composed_precision(RING, t.q, 0.7 * t.a)
    ),
    "gaussian.from_region_covariances": lambda t: (
        gaussians.from_region_covariances(CHAIN, t.covariances).covariance / t.a**2
    ),
    "gaussian.kl_divergence": lambda t: torch.tensor(
        gaussians.kl_divergence(t.gaussian(UNIT.noised(0.5)), t.q)
    ),
    "images.cube_to_equirectangular": lambda t: t.back(
        cube_to_equirectangular(t.states(draw(6, 1, 4, 4)), 6)
    ),
    "images.equirectangular_to_cube": lambda t: t.back(
        equirectangular_to_cube(t.states(draw(1, 4, 8)), 4)
    ),
    "precision.Pooled": fitted("dense"),
    "precision.LowRank": fitted("low_rank", rank=2),
    "precision.Stationary": fitted("stationary"),
    "precision.Separable": fitted("dense", channels=True),
    "precision.ComposedPrecision": lambda t: t.a**2 * precision_of(t).dense(),
    "precision.Eigen": solved(WINDOWS, precision.Eigen),
    "precision.SparseFactors": solved(WINDOWS, precision.SparseFactors),
    "precision.BlockTree": solved(WINDOWS, lambda p: precision.BlockTree(p, nodes_of(p))),
    "precision.ConjugateGradients": solved(WINDOWS, precision.ConjugateGradients),
    "precision.Circulant": solved(ROUND),
    "precision.SmallSpace": solved(WINDOWS, precision.SmallSpace, form="low_rank", rank=2),
    "precision.Channelwise": solved(
        graphs.tiles((2, 12), (2, 4), (0, 2)), precision.Channelwise, channels=True
    ),
    "samplers.sample": drawn_start,
    "samplers.Euler": run(lambda t: s.Euler()),
    "samplers.Heun": run(lambda t: s.Heun()),
    "samplers.SDE": run(lambda t: s.SDE(1.0)),
    "samplers.EDM": run(lambda t: s.EDM(4, s_tmin=0.05 * t.a, s_tmax=50 * t.a)),
    "samplers.DPMSolver2S": run(lambda t: s.DPMSolver2S(0.5)),
    "samplers.DPMSolver2M": run(lambda t: s.DPMSolver2M(1.0)),
    "samplers.DPMSolver3M": run(lambda t: s.DPMSolver3M()),
    "samplers.DEIS": run(lambda t: s.DEIS(3)),
    "samplers.UniPC": run(lambda t: s.UniPC(3)),
    "samplers.Adaptive": run(lambda t: s.Adaptive()),
    "samplers.Langevin": corrected(lambda t: s.Langevin(0.3, 2)),
    "samplers.Metropolis": corrected(
        lambda t: s.Metropolis(t.mixture.log_density, 0.3, 2, lambda sigma: 1 / sigma**2)
    ),
    "samplers.Curvature": corrected(lambda t: s.Langevin(0.3, 2, measured(t))),
    "samplers.curvature_extremes": curvature,
    "samplers.log_likelihood": likelihood,
    "samplers.sample_weighted": weighted,
    "samplers.karras": scaled_levels(s.karras),
    "samplers.log_linear": scaled_levels(s.log_linear),
    "samplers.log_snr": lambda t: (
        torch.tensor(s.log_snr(5, -4 - 2 * math.log(t.a), 8 - 2 * math.log(t.a))) / t.a
    ),
    "samplers.time_travel": lambda t: torch.tensor(s.time_travel(t.sigmas(), 2, 2)) / t.a,
    "scores.denoise": lambda t: t.back(denoise(t.q, t.noisy, 0.7 * t.a)),
    "scores.from_denoiser": lambda t: t.a * from_denoiser(t.q.denoise)(t.noisy, 0.7 * t.a),
    "scores.from_eps": lambda t: (
        t.a * from_eps(lambda x, sigma: -sigma[:, None] * t.q(x, sigma))(t.noisy, 0.7 * t.a)
    ),
    "scores.in_pixels": lambda t: t.a * in_pixels(PYRAMID, white(t))(t.a * PIXELS, 0.7 * t.a),
    "scores.of_levels": lambda t: torch.cat(
        [
            t.a * score(t.a * PIXELS[:, :2], torch.full((3,), 0.7 * t.a).double())
            for score in of_levels(PYRAMID, white(t), white(t)).values()
        ]
    ),
    "scores.padded": lambda t: t.a * padded(t.q, (N,))(t.noisy[:, 1:4], 0.7 * t.a),
    "training.EDMDenoiser": preconditioned,
    "training.WienerFilter": filtered,
    "training.crops": lambda t: t.back(crops(WINDOWS, t.states(draw(4, 12))).draw(4, 0).clean),
    "training.denoising_loss": loss,
    "training.fit": trained,
    "training.random_crops": lambda t: t.back(random_crops(image(t)[0], (3, 5), 4, generator=0)),
}
"""By name: a function of the units that returns its results in units of 1, about 0."""

ABSTRACT = "an interface, without numbers of its own"
RESULT = "a result: what made it is under the law"
MOVED = "acts linearly or by places, whatever the unit"
NETWORK = "belongs to a network, which was trained in units of its own"
CONDITION = "concerns conditions, which are neither data nor states"
ENTRY = "numbers of another law here: "

EXEMPT: dict[str, str] = {
    "composition.compose": ENTRY + "Marginal", "composition.Joint": ENTRY + "Marginal",
    "composition.Field": CONDITION, "composition.field": CONDITION,
    "composition.PerNode": CONDITION, "composition.per_node": CONDITION,
    "composition.Rule": ABSTRACT, "composition.RegionScores": ABSTRACT,
    "conditioning.moment_matching": ENTRY + "Composed",
    "conditioning.choose_covariance": "makes a choice",
    "conditioning.reconstruction": ENTRY + "dps",
    **dict.fromkeys((f"conditioning.{n}" for n in (
        "Composition", "Crop", "DenseOperator", "FourierMask", "Linear", "Mask", "PerAxis",
        "Stacked", "block_average", "blur", "channel_mix")), MOVED),
    **dict.fromkeys((f"conditioning.{n}" for n in (
        "LinearOperator", "Operator", "PosteriorCovariance")), ABSTRACT),
    **dict.fromkeys((f"diagnostics.{n}" for n in (
        "Advice", "Agreement", "Calibration", "Consistency", "Interval", "Prediction")), RESULT),
    "baselines.Drawn": RESULT, "distributed.Streamed": RESULT,
    **dict.fromkeys((f"distributed.{n}" for n in ("Ranks", "SharedJoint", "Slab", "shared")),
        "equal to one process, in tests of their own"),
    "diagnostics.bootstrap": ENTRY + "with_floor",
    "diagnostics.node_samples": ENTRY + "samplers.sample",
    "diagnostics.manifold_recall": ENTRY + "manifold_precision",
    "diagnostics.window_candidates": "cuts shapes",
    "gaussian.Distribution": ABSTRACT, "gaussian.NodeScores": ENTRY + "node_scores",
    "gaussian.NodeCovariances": ENTRY + "node_covariances",
    "gaussian.ar1": "makes data of unit variance, as it says",
    "images.decode": NETWORK, "images.receptive_margin": NETWORK,
    "images.equirectangular_directions": "makes directions",
    **dict.fromkeys((f"precision.{n}" for n in (
        "Covariances", "RegionCovariances", "RegionPrecisions", "Solve", "IndefiniteError")),
        ABSTRACT),
    "precision.Blocks": ENTRY + "completed", "precision.provider_of": ENTRY + "ComposedPrecision",
    "precision.Dense": ENTRY + "ComposedPrecision", "precision.Completion": ENTRY + "completed",
    "precision.Loops": ENTRY + "Consistent", "precision.LargeLoops": ENTRY + "Consistent",
    "precision.Neighbourhoods": RESULT, "precision.nearby": ENTRY + "Consistent",
    "precision.fit_covariances": ENTRY + "Pooled, LowRank, Stationary, Separable",
    "precision.solver_of": ENTRY + "Circulant",
    **dict.fromkeys((f"samplers.{n}" for n in ("Corrector", "Solver")), ABSTRACT),
    **dict.fromkeys((f"samplers.{n}" for n in ("Extremes", "Particles", "Past", "State", "Step")),
        RESULT),
    "samplers.PredictorCorrector": ENTRY + "Langevin",
    "samplers.Noise": "standard normal numbers", "samplers.split_seed": "makes seeds",
    "samplers.Run": "keeps files",
    "samplers.cosine": "its spacing suits unit variance, as it says",
    "samplers.variance_preserving": "its spacing suits unit variance, as it says",
    "samplers.from_scheduler": NETWORK,
    "samplers.effective_sample_size": "weights have no unit",
    **dict.fromkeys((f"scores.{n}" for n in (
        "Timesteps", "from_flow", "from_vp_eps", "from_vp_sample", "from_vp_v")), NETWORK),
    "scores.Score": ABSTRACT,
    "training.CropBatch": RESULT, "training.Crops": ENTRY + "crops",
    "training.positions": "shares of axes", "training.train": ENTRY + "fit",
    **dict.fromkeys((f"scores.{n}" for n in ("guided", "interpolated", "scheduled", "slerp")),
        CONDITION),
}  # fmt: skip
"""By name: why a public object is not under the law."""

ROOMS = "baselines", "composition", "conditioning", "diagnostics", "distributed", "gaussian"
ROOMS += "images", "precision", "samplers", "scores", "training"
"""Not among them: graphs (which hold no data), models and integrations (networks, other libraries'
units), plotting and testing (their own data)."""

WIDE = [Units(1e6), Units(1e-6, -1e-2), Units(1, 1e4)]
SINGLE = [Units(*given, torch.float32) for given in ((1e6, 0), (1e-6, -1e-4), (1, 100))]


def leaves(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result.detach().cpu().double()]
    return [leaf for part in result for leaf in leaves(part)]


@cache
def at_one(name: str, dtype: torch.dtype) -> list[Tensor]:
    return leaves(LAWS[name](Units(dtype=dtype)))


def check(name: str, units: Units, tolerance: float) -> None:
    for found, expected in zip(leaves(LAWS[name](units)), at_one(name, units.dtype), strict=True):
        scale = expected.abs().max().clamp(min=1e-3)
        gap = ((found - expected).abs().max() / scale).item()
        assert gap <= tolerance, f"{name} deviates by {gap:.2g} in {units}"


@pytest.mark.parametrize("name", LAWS)
def test_units_and_offsets_do_not_matter(name: str) -> None:
    for units in WIDE:
        check(name, units, 1e-6)


@pytest.mark.parametrize("name", LAWS)
def test_nor_do_they_in_single_precision(name: str) -> None:
    for units in SINGLE:
        check(name, units, 1e-2)


def public() -> Iterator[str]:
    for room in ROOMS:
        module = import_module(f"pgmdiff.{room}")
        for name in module.__all__:
            if callable(getattr(module, name)):
                yield f"{room}.{name}"


def test_every_public_function_is_under_the_law_or_says_why_not() -> None:
    names = set(public())
    assert names <= LAWS.keys() | EXEMPT.keys(), "state the law for these, or say why not"
    assert not LAWS.keys() & EXEMPT.keys()
    assert EXEMPT.keys() <= names | {"scores.Score"}
    assert LAWS.keys() <= names


# ---------------------------------------------------------------- what cannot keep the law says so


def test_a_start_that_does_not_hide_the_mean_is_told() -> None:
    far = Gaussian(torch.full((N,), 127.5), 60.0**2 * torch.eye(N))
    with pytest.warns(UserWarning, match=r"by about 0\.\d+ standard deviations"):
        s.sample(far.score, s.karras(5, 0.1, 400.0), shape=(16, N), generator=0)
    s.sample(far.score, s.karras(5, 0.1, 4000.0), shape=(16, N), generator=0)


@pytest.mark.parametrize(("n", "eta"), [(4, 0.0), (64, 0.0), (64, 1.0)])
@pytest.mark.parametrize(("together", "size"), [(0.0, 100), (0.5, 100), (0.99, 100), (0.99, 900)])
def test_the_warning_says_what_the_mean_misses(
    together: float, size: int, n: int, eta: float
) -> None:
    """Elements that vary together miss it by up to √N times as many standard deviations."""
    if n == 4 and size == 900:
        pytest.skip("four samples that vary by a third of the noise are no evidence")
    covariance = together * torch.ones(size, size) + (1 - together) * torch.eye(size)
    gain = covariance.sum() / size / (covariance.sum() / size + 40.0**2)
    missed = 0.4
    far = Gaussian(torch.full((size,), missed / gain.item() ** ((1 + eta**2) / 2)), covariance)
    run: dict[str, Any] = {"generator": 1, "solver": s.DPMSolver2M(eta=eta)}
    with pytest.warns(UserWarning, match="does not hide") as found:
        s.sample(far.score, s.karras(80, 0.01, 40.0), shape=(n, size), **run)
    words = re.search(r"by about (\d\.\d+) standard", "".join(str(w.message) for w in found))
    assert words
    assert float(words[1]) == pytest.approx(missed, rel=0.25)
    with pytest.warns(UserWarning, match="does not hide"):
        many = s.sample(far.score, s.karras(80, 0.01, 40.0), shape=(4000, size), **run)
    assert (far.mean - many.mean(dim=0)).mean().item() == pytest.approx(missed, rel=0.15)


def test_one_element_whose_mean_is_missed_is_told() -> None:
    """However many others there are."""
    mean = torch.zeros(400)
    mean[7] = 12.0
    far = Gaussian(mean, torch.eye(400))
    with pytest.warns(UserWarning, match=r"up to 12 .* by about 0\.3 standard deviations"):
        found = s.sample(far.score, s.karras(30, 0.01, 40.0), shape=(4000, 400), generator=0)
    assert (mean - found.mean(dim=0))[7].item() == pytest.approx(0.3, abs=0.05)


def test_a_start_around_the_mean_leaves_no_bias() -> None:
    """Without one, samples miss the mean by m / σ deviations."""
    far = Gaussian(torch.full((N,), 40.0), 4.0 * torch.eye(N))
    run: dict[str, Any] = {"shape": (20_000, N), "generator": 0}
    missed, met = (
        s.sample(far.score, s.karras(30, 0.01, 400.0), mean=mean, **run).mean()
        for mean in (0.0, far.mean)
    )
    assert abs(missed - (40 - 2 * 40 / 400)) < 0.03
    assert abs(met - 40) < 0.03
    with pytest.raises(ShapeError, match="Add it to x instead"):
        s.sample(far.score, [1.0, 0.0], x=torch.zeros(1, N), mean=1.0)
    score = lambda x, sigma: (3 - x) / sigma[:, None] ** 2  # noqa: E731
    point = s.sample(score, [9.0, 0.0], shape=(4, N), generator=0)
    torch.testing.assert_close(point, torch.full((4, N), 3.0))  # without spread nothing is missed
    for shape in ((4,), (4, 0), (0, 3)):
        score = lambda x, sigma: -x / (1 + 81)  # noqa: E731
        found = s.sample(score, [9.0, 0.0], shape=shape, mean=0.5, generator=0)
        assert found.shape == shape
    for wrong in ([N + 1], [2, N], [1, 1, N]):  # none makes more samples, or axes
        with pytest.raises(ShapeError, match="expected mean= as one number"):
            s.sample(far.score, [1.0, 0.0], shape=(1, N), mean=torch.zeros(wrong))
    with pytest.raises(ShapeError, match="expected mean as a tensor, an array or a list"):
        s.sample(far.score, [1.0, 0.0], shape=(1, N), mean="far")  # type: ignore[arg-type]
    given: list[Any] = [
        far.mean,
        far.mean.tolist(),
        far.mean.numpy(),
        40.0,
        np.float32(40),
        far.mean.long(),
    ]
    same = [s.sample(far.score, [9.0, 0.0], shape=(1, N), mean=m, generator=0) for m in given]
    assert all(torch.equal(x, same[0]) for x in same)
    each = torch.tensor([[0.0], [40.0]]).expand(2, N)
    one = [s.sample(far.score, [9.0, 0.0], shape=(1, N), mean=m, generator=0) for m in each]
    both = s.sample(far.score, [9.0, 0.0], shape=(2, N), mean=each, generator=[0, 0])
    torch.testing.assert_close(both, torch.cat(one))


@pytest.mark.parametrize("n", [4, 64])
@pytest.mark.parametrize("unit", [1.0, 5e-5, 60.0])
def test_a_last_level_that_is_not_small_is_told(unit: float, n: int) -> None:
    """Samples are denoised values there, of variance Σ² / (Σ + σ²) in place of Σ."""
    size = 64
    data = Gaussian(torch.full((size,), 3 * unit), unit**2 * ar1(size, 0.5).covariance.float())
    run: dict[str, Any] = {"shape": (n, size), "mean": data.mean, "generator": 0}
    for last in (1.0, 3.0, 30.0):
        levels = s.karras(20, last * unit, 100 * unit)
        with pytest.warns(UserWarning, match="above 0, .* not small beside the data") as found:
            s.sample(data.score, levels, **run)
        words = re.search(r"by about (\d+)% too little.* reach about (\S+) before", f"{found[0]}")
        assert words
        whole = data.covariance
        noised = whole + (last * unit) ** 2 * torch.eye(size)
        kept = (whole @ torch.linalg.solve(noised, whole)).trace() / whole.trace()
        near = 0.12 if n == 4 else 0.03
        assert int(words[1]) / 100 == pytest.approx(1 - kept.sqrt().item(), abs=near)
        s.sample(data.score, s.karras(20, float(words[2]), 100 * unit), **run)
    s.sample(data.score, [100 * unit, 10 * unit, unit], **run)  # of these a part is wanted
    point = from_denoiser(lambda x, sigma: 3 * unit + 1e-5 * (x - 3 * unit))  # but for errors
    s.sample(point, s.karras(20, 0.01 * unit, 100 * unit), dtype=torch.float64, **run)


def test_a_mean_is_missed_by_networks_that_hardly_look_at_the_noise_too() -> None:
    """Their gain at the first level may be below 0, which data of a single point do not have."""

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma[:, None]
        gain = torch.where(level > 19, -0.001, 1 / (1 + level**2))
        return (5 + gain * (x - 5) - x) / level**2

    with pytest.warns(UserWarning, match=r"by about 0\.25 standard deviations"):
        found = s.sample(score, s.karras(24, 0.02, 20.0), shape=(64, 128), generator=0)
    assert found.mean().item() == pytest.approx(4.75, abs=0.02)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_scales_must_be_positive(wrong: float) -> None:
    with pytest.raises(PgmdiffError, match="dps: expected a positive data_std"):
        conditioning.dps(data_std=wrong)
    with pytest.raises(PgmdiffError, match="Isotropic: expected a positive data_std"):
        conditioning.Isotropic(wrong)
    with pytest.raises(PgmdiffError, match="denoising_loss: expected a positive sigma_data"):
        denoising_loss(lambda x, sigma: x, draw(3, 2), sigma_data=wrong)


def test_noise_levels_of_training_follow_the_data() -> None:
    """Half of them lie below 0.6 σ_d: EDM's -1.2 where σ_d is 0.5."""
    for deviation in (0.5, 127.5):
        seen: list[Tensor] = []
        denoising_loss(
            lambda x, sigma, seen=seen: (seen.append(sigma), x)[1],
            torch.zeros(4000, 1), sigma_data=deviation, generator=0,
        )  # fmt: skip
        assert seen[0].median().item() / deviation == pytest.approx(0.6, rel=0.1)


@pytest.mark.parametrize("n", [4, 8, 64])
def test_samples_with_means_of_their_own_do_not_raise_the_alarm(n: int) -> None:
    """As under observations or labels, one for each: they vary for another reason."""
    levels = s.karras(8, 0.1, 10.0)
    for size in (64, 1024):
        means = draw(n, size)

        def own(x: Tensor, sigma: Tensor, means: Tensor = means) -> Tensor:
            return (means - x) / (0.25 + sigma[:, None] ** 2)

        s.sample(own, levels, shape=(n, size), dtype=torch.float64, generator=0)
        joint = compose(graphs.tiles((size,), 8, 4), lambda x, c: ar1(x.shape[1], 0.5)(x, c))
        given = conditioning.replacement(joint, means, torch.arange(size) % 2 == 0)
        s.sample(given, levels, shape=(n, size), dtype=torch.float64, generator=0)
    modes = [Gaussian(torch.full((256,), m), torch.eye(256)) for m in (-1.0, 1.0)]
    apart = GaussianMixture(torch.tensor([0.5, 0.5]), modes)
    found = s.sample(apart, s.karras(30, 0.01, 10.0), shape=(n, 256), generator=0)
    assert (found.mean(dim=1).abs() - 1).abs().max() < 0.3


@pytest.mark.parametrize(("n", "eta"), [(4, 0.0), (64, 0.0), (64, 1.0)])
@pytest.mark.parametrize("kind", ["one of many", "together"])
def test_a_start_that_does_not_hide_the_spread_is_told(kind: str, n: int, eta: float) -> None:
    """Samples are too narrow where the start N(0, σ²) stands for N(0, Σ + σ²)."""
    size, sigma = 100, 40.0
    covariance = torch.eye(size)
    direction = torch.eye(size)[7] if kind == "one of many" else torch.full((size,), size**-0.5)
    covariance = covariance + 50.0**2 * torch.outer(direction, direction)
    wide = Gaussian(torch.zeros(size), covariance)
    run: dict[str, Any] = {"generator": 1, "solver": s.DPMSolver2M(eta=eta)}
    with pytest.warns(UserWarning, match="does not hide the data's spread") as found:
        s.sample(wide.score, s.karras(80, 0.01, sigma), shape=(n, size), **run)
    words = re.search(r"by about (\d+)% too little", str(found[0].message))
    assert words
    with pytest.warns(UserWarning, match="does not hide"):
        many = s.sample(wide.score, s.karras(80, 0.01, sigma), shape=(4000, size), **run)
    lost = 1 - (many @ direction).std().item() / (50.0**2 + 1) ** 0.5
    assert int(words[1]) / 100 == pytest.approx(lost, abs=0.04)
    s.sample(wide.score, s.karras(9, 0.01, 100.0), shape=(n, size), **run)
