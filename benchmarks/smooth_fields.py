"""Conditioning on smooth data: Gaussian fields and patches of a photograph, with a hole in them.

Every state is Gaussian with an exact score, and so is its posterior given all rows but 5 to 10 of
16. *Fields* have one channel, unit variance and the correlation exp(-d² / 2 ℓ²) (smooth), plus
1e-6 on the diagonal, or exp(-d / ℓ) (rough). The *photograph* is the Gaussian fitted to all patches
16 × 16 of scikit-image's `astronaut` in colour, at every fifth place. *Windows* of 8 × 8 that
overlap by half describe the same field by their exact marginals.

A mean error is the rms over hidden elements of the samples' mean minus the posterior's, in
posterior standard deviations; a spread is the rms of the samples' standard deviation in the same
unit. 1 / √n of the mean error is due to the number n of samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff import conditioning as ways
from pgmdiff.composition.composing import compose
from pgmdiff.composition.posterior import Posterior
from pgmdiff.diagnostics.metrics import mean_and_error
from pgmdiff.errors import PgmdiffError, required
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import tiles
from pgmdiff.precision import fit_covariances
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.scores.adapters import Score

__all__ = ["LEVELS", "METHODS", "PROBLEMS", "SAMPLES", "SEEDS", "rows"]

SIZE, HOLE, LEVELS = 16, slice(5, 11), 18
NOISES = (0.0, 0.1)
SEEDS, SAMPLES, STATES = 2, 50, 1000


@cache
def _field(length: float, smooth: bool) -> Gaussian:
    side = torch.arange(SIZE).double()
    places = torch.cartesian_prod(side, side)
    apart = torch.cdist(places, places) / length
    covariance = (-(apart**2) / 2 if smooth else -apart).exp() + 1e-6 * torch.eye(SIZE**2).double()
    return Gaussian(torch.zeros(1, SIZE, SIZE).double(), covariance)


@cache
def _photograph() -> Gaussian:
    image = required("skimage.data", "the photograph", "demo").astronaut()
    pixels = torch.from_numpy(image.copy()).double().permute(2, 0, 1) / 127.5 - 1
    patches = pixels.unfold(1, SIZE, 5).unfold(2, SIZE, 5).flatten(1, 2).transpose(0, 1)
    return Gaussian.fit(patches)


PROBLEMS: dict[str, Callable[[], Gaussian]] = {
    "rough field, ℓ = 6": lambda: _field(6.0, smooth=False),
    "smooth field, ℓ = 2": lambda: _field(2.0, smooth=True),
    "smooth field, ℓ = 6": lambda: _field(6.0, smooth=True),
    "photograph": _photograph,
}
"""The Gaussians, by name."""


@dataclass(frozen=True)
class Case:
    """A Gaussian, and an observation of one of its states.

    Attributes:
        q: the Gaussian.
        deviation: the mean standard deviation of an element.
        operator: which elements are observed.
        y: the observation, in place.
        noise: its standard deviation.
    """

    q: Gaussian
    deviation: float
    operator: ways.Mask
    y: Tensor
    noise: float

    @classmethod
    def of(cls, q: Gaussian, noise: float, seed: int) -> "Case":
        generator = torch.Generator().manual_seed(seed)
        truth, seen = q.sample(1, generator)[0], torch.ones(q.event_shape, dtype=torch.bool)
        seen[:, HOLE] = False
        deviation = q.covariance.diagonal().mean().sqrt().item()
        error = torch.randn(truth.shape, generator=generator, dtype=torch.float64)
        y = truth + noise * deviation * error
        return cls(q, deviation, ways.Mask(seen), y, noise * deviation)

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the whole state, flattened."""
        seen, s = self.operator.mask.reshape(-1), self.q.covariance
        known = s[seen][:, seen] + self.noise**2 * torch.eye(int(seen.sum())).double()
        gain = torch.linalg.solve(known, s[seen]).T
        mean = self.q.mean.reshape(-1)
        return mean + gain @ (self.y.reshape(-1) - mean)[seen], s - gain @ s[seen]

    def matched(self, score: Score, *covariance: Any, **options: Any) -> Score:
        return ways.moment_matching(
            score, self.y, self.operator, *covariance, noise=self.noise, **options
        )


def _windows(case: Case) -> tuple[Any, Any]:
    graph = tiles(case.q.event_shape, (case.q.event_shape[0], 8, 8), (0, 4, 4))
    return graph, node_scores(graph, case.q)


def _windows_posterior(case: Case) -> Score:
    graph, scores = _windows(case)
    joint = compose(graph, scores, rule=Posterior(node_covariances(graph, case.q)))
    return case.matched(joint)


def _fitted(case: Case) -> Score:
    whole = tiles(case.q.event_shape, case.q.event_shape, (0, 0, 0))
    data = case.q.sample(STATES, torch.Generator().manual_seed(9))
    rule = Posterior(fit_covariances(whole, data, form="low_rank"))
    return case.matched(case.q.score, ways.Composed(compose(whole, case.q.score, rule=rule)))


def _exact(case: Case) -> Score:
    mean, covariance = case.posterior()
    covariance = (covariance + covariance.T) / 2 + 1e-12 * torch.eye(len(covariance)).double()
    return Gaussian(mean.reshape(case.q.event_shape), covariance).score


METHODS: dict[str, Callable[[Case], Score]] = {
    "exact score of the posterior": _exact,
    "default: Tweedie()": lambda case: case.matched(case.q.score),
    "Tweedie(), most_steps=3": lambda case: case.matched(case.q.score, most_steps=3),
    "Composed, fitted to 1000 states, rank 64": _fitted,
    "windows, marginal rule, default: Tweedie()": lambda case: case.matched(
        compose(*_windows(case))
    ),
    "windows, posterior rule, default: Composed(joint)": _windows_posterior,
    "Isotropic(σ_d): ΠGDM": lambda case: case.matched(case.q.score, ways.Isotropic(case.deviation)),
    "Isotropic(√λ_max)": lambda case: case.matched(
        case.q.score,
        ways.Isotropic(torch.linalg.eigvalsh(case.q.covariance)[-1].sqrt().item()),
    ),
    "replacement": lambda case: ways.replacement(case.q.score, case.y, case.operator),
    "reconstruction, DPS ζ = 0.3": lambda case: ways.reconstruction(
        case.q.score, case.y, case.operator, ways.dps(0.3, data_std=case.deviation)
    ),
}
"""Each way of conditioning, from the case to the conditioned score."""


def rows(*, smoke: bool = False) -> list[dict[str, Any]]:
    """One row for each problem, noise and method; with `smoke` two methods on one problem."""
    problems, methods = (
        list(PROBLEMS)[: 1 if smoke else None],
        list(METHODS)[: 2 if smoke else None],
    )
    noises, seeds, n = (NOISES[:1], 1, 5) if smoke else (NOISES, SEEDS, SAMPLES)
    slow = "photograph", "windows, posterior rule, default: Composed(joint)"  # hours
    chosen = [(p, s, m) for p in problems for s in noises for m in methods if (p, m) != slow]
    return [
        _row(problem, noise, method, seeds, n)
        for problem, noise, method in tqdm(chosen, desc="smooth fields")
    ]


def _row(problem: str, noise: float, method: str, seeds: int, n: int) -> dict[str, Any]:
    q = PROBLEMS[problem]()
    named = {"problem": problem, "noise": noise, "method": method}
    found: list[tuple[float, float, float]] = []
    try:
        for seed in range(seeds):
            found.append(_errors(Case.of(q, noise, seed), method, n, seed))
    except PgmdiffError as error:
        return {**named, "mean_error": None, "failed": str(error)}
    (off, either), (spread, _), (misfit, _) = (
        mean_and_error(values) if seeds > 1 else (values[0], 0.0)
        for values in map(list, zip(*found, strict=True))
    )
    return {
        **named,
        "mean_error": off,
        "standard_error": either,
        "spread": spread,
        "misfit": misfit,
    }


def _errors(case: Case, method: str, n: int, seed: int) -> tuple[float, float, float]:
    """Mean error and spread in posterior deviations, |H u - y| in those of the data."""
    sigmas: Sequence[float] = karras(LEVELS, 0.002 * case.deviation, 80.0 * case.deviation)
    u = sample(
        METHODS[method](case),
        sigmas,
        shape=(n, *case.q.event_shape),
        solver=Heun(),
        generator=seed,
        dtype=torch.float64,
    )
    hidden, (mean, covariance) = ~case.operator.mask.reshape(-1), case.posterior()
    deviations, free = covariance.diagonal()[hidden].sqrt(), u.reshape(n, -1)[:, hidden]
    return (
        ((free.mean(dim=0) - mean[hidden]) / deviations).square().mean().sqrt().item(),
        (free.std(dim=0) / deviations).square().mean().sqrt().item(),
        (u - case.y)[:, case.operator.mask].abs().max().item() / case.deviation,
    )
