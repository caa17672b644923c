"""Observations in local posteriors or in the solve, with messages and without, on chains of modes.

*Errors* of the denoised value, relative, on 300 noised states of a chain of 8 variables at ±2 (kept
with probability 0.9, deviations of 0.4), of which three are observed with noise 0.5; the messages
have converged. *Calibration* (Talts et al., "Validating Bayesian inference algorithms with
simulation-based calibration", 2018): 300 data sets of the two-mode chain of 12 with three such
observations, 39 draws for each, by 40 steps of the SDE; the p-value is that of uniform ranks of
Σ|u_{i+1} - u_i|.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness.distributions import two_mode_chain
from pgmdiff import conditioning as ways
from pgmdiff.composition.composing import compose
from pgmdiff.composition.consistent import Consistent
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.posterior import Posterior
from pgmdiff.composition.rules import Rule
from pgmdiff.diagnostics.calibration import rank_statistics
from pgmdiff.errors import ScoreError
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.graphs import FactorGraph, RegionGraph, chain
from pgmdiff.samplers import SDE, karras, sample
from pgmdiff.scores.adapters import Score

__all__ = ["METHODS", "calibration", "errors"]

NOISE, SPREAD, STAY = 0.5, 0.16, 0.9
METHODS: Mapping[str, tuple[bool, Callable[[Any], Rule]]] = {
    "in the solve, no messages": (False, Posterior),
    "in the solve, messages": (False, Consistent),
    "folded in, no messages": (True, Posterior),
    "folded in, messages": (True, Consistent),
}
"""Whether local posteriors know the observation, and the rule."""


def one_level(score: Score) -> Score:
    """The score without its word that it accepts a noise level per element."""
    return lambda x, sigma: score(x, sigma)


def joint_of(
    graph: FactorGraph | RegionGraph, models: Mapping[str, GaussianMixture], method: str
) -> Joint:
    """The joint of a method, of the distributions of pairs and single variables."""
    folds, rule = METHODS[method]
    scores = {name: q if folds else one_level(q) for name, q in models.items()}
    return compose(graph, scores, rule=rule({name: q.covariance for name, q in models.items()}))


def modes(signs: list[tuple[float, ...]]) -> GaussianMixture:
    """Independent variables around ±2 given their signs, which are those of a Markov chain."""
    kept = [[a == b for a, b in pairwise(s)] for s in signs]
    weights = [torch.tensor([STAY if k else 1 - STAY for k in row]).double() for row in kept]
    spread = SPREAD * torch.eye(len(signs[0])).double()
    parts = [Gaussian(2 * torch.tensor(s).double(), spread) for s in signs]
    return GaussianMixture(torch.stack([w.prod() for w in weights]) / 2, parts)


def all_signs(n: int) -> list[tuple[float, ...]]:
    """All signs of n variables."""
    return list(product((-1.0, 1.0), repeat=n))


def posterior_mean(q: GaussianMixture, u: Tensor, sigma: float, y: Tensor, seen: Tensor) -> Tensor:
    """E[u_0 | u_σ = u, y], exactly: an observation is a noisy state of another level."""
    share = torch.where(seen, NOISE**2 / (sigma**2 + NOISE**2), 1).double()
    return q.denoise(share * u + (1 - share) * y, (sigma * share.sqrt()).expand_as(u))


def errors(*, smoke: bool = False) -> list[dict[str, Any]]:
    """The relative error of D of every method, by σ."""
    n, seen, count = 8, torch.arange(8) % 3 == 1, 10 if smoke else 300
    pair = modes(all_signs(2))
    models = {"pair": pair, "single": pair.marginal(torch.tensor(0))}
    whole, generator = modes(all_signs(n)), torch.Generator().manual_seed(0)
    clean = whole.sample(count, generator)

    def noised(level: float) -> Tensor:
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        return clean + level * noise

    graph, y, rows = chain(n, factor_model="pair", variable_model="single"), noised(NOISE), []
    for sigma in (4.0,) if smoke else (20.0, 4.0, 1.0):
        u = noised(sigma)
        exact = posterior_mean(whole, u, sigma, y, seen)
        for method in tqdm(METHODS, desc=f"errors at σ = {sigma:g}"):
            joint = joint_of(graph, models, method)
            guided = ways.moment_matching(joint, y, ways.Mask(seen), noise=NOISE)
            try:
                off = guided.denoise(u, sigma) - exact
                error = (off.norm() / exact.norm()).item()
            except ScoreError:  # the messages do not converge
                error = None
            rows.append({"method": method, "sigma": sigma, "error": error})
    return rows


def calibration(*, smoke: bool = False) -> list[dict[str, Any]]:
    """The p-value of uniform ranks of every method."""
    q, n = two_mode_chain(12), 12
    sets, draws, steps = (20, 9, 5) if smoke else (300, 39, 40)
    generator, seen, rows = torch.Generator().manual_seed(0), torch.zeros(n, dtype=torch.bool), []
    seen[[1, 5, 9]] = True
    truth = q.sample(sets, generator)
    y = truth + NOISE * torch.randn(truth.shape, generator=generator, dtype=torch.float64)

    def steepness(u: Tensor) -> Tensor:
        return u.diff(dim=-1).abs().sum(dim=-1)

    for method in tqdm(list(METHODS)[-1:] if smoke else METHODS, desc="calibration"):
        joint = joint_of(q.graph, q.models, method)
        each = y.repeat_interleave(draws, dim=0)
        guided = ways.moment_matching(joint, each, ways.Mask(seen), noise=NOISE)
        u = sample(
            guided,
            karras(steps, 0.01, 20.0),
            shape=(sets * draws, n),
            solver=SDE(1.0),
            generator=1,
            dtype=torch.float64,
        )
        ranks, p = rank_statistics(steepness(u.reshape(sets, draws, n)), steepness(truth))
        rows.append({"method": method, "p": p, "mean_rank": ranks.double().mean().item() / draws})
    return rows
