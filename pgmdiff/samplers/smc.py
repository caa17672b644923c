r"""Sequential Monte Carlo along the path of the marginal rule's own densities.

Under the paper's rule the score of Π_r q_σ(u_r)^{c_r} is known at every σ, but Eq. (1) driven by it
does not follow these densities. Weighted particles do (Feynman-Kac, after Skreta et al.,
"Feynman-Kac correctors in diffusion", 2025; counts of any sign, any η, since the Laplacians
cancel):

    d log w = Σ_i g_i |dσ²|,      g_i = ½ (s_i² - Σ_{r ∋ i} c_r s_{r,i}²),

integrated by the trapezoidal rule. On a junction tree E[Σ_i g_i] = 0 under the target. The last
density is the data's where the marginal rule is exact at σ = 0. Weights collapse as the number of
elements grows: fine for a handful of variables and a hundred steps or more, an effective sample
size of a few percent at a dozen. Resampling is of whole states: parts of a connected graph must
not be resampled apart, which breaks the seams.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.errors import PgmdiffError
from pgmdiff.samplers.noise import Generator, Noise
from pgmdiff.scores import per_sample

__all__ = ["Particles", "effective_sample_size", "sample_weighted", "systematic"]

Potential = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""State `[n, *event]` and sigma `[n]` to score and Σ_i g_i, `[n]`: see `Joint.potential`."""

START, RESAMPLE = (1 << 62), (1 << 61)
"""Where in the noise the start and the resampling are drawn, beyond all steps."""


@dataclass(frozen=True)
class Particles:
    """Weighted samples.

    Attributes:
        x: `[n, *event]`.
        log_weights: `[n]`, since the last resampling; normalised: their exponentials sum to 1.
        effective: effective sample size before each resampling decision, a number a step.
        n_resampled: how often particles were resampled.
    """

    x: Tensor
    log_weights: Tensor
    effective: tuple[float, ...]
    n_resampled: int


def sample_weighted(
    potential: Potential,
    sigmas: Sequence[float],
    *,
    shape: Sequence[int],
    eta: float = 1.0,
    threshold: float = 0.5,
    generator: Generator = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Particles:
    """Weighted particles of the density that a marginal-rule joint has at the last σ.

    Args:
        potential: score and weight rate; a joint's `potential`.
        sigmas: decreasing, to a last value above 0 (the rate is a difference of squares, without
            bound at σ = 0 for data on a manifold).
        shape: `[n, *event]`, n particles; they start from N(0, sigmas[0]²).
        eta: of Eq. (1).
        threshold: resample when the effective sample size falls below this share of n.
        generator: as of `sample`.
        dtype, device, progress: as of `sample`.

    Raises:
        PgmdiffError: a schedule that does not decrease to above 0, or a negative eta.
    """
    levels = [float(sigma) for sigma in sigmas]
    falling = all(a > b for a, b in pairwise(levels))
    if len(levels) < 2 or not falling or levels[-1] <= 0 or not eta >= 0:
        raise PgmdiffError(
            "sample_weighted: expected sigmas that decrease strictly to a value above 0 and "
            f"eta >= 0, got {levels[:3]} ... {levels[-1:]} and {eta}. Drop a schedule's last 0."
        )
    like = torch.empty(tuple(shape), dtype=dtype, device=device)
    noise = Noise.of(generator, len(like))
    x = levels[0] * noise(START, like)
    log_weights, effective, n_resampled = like.new_zeros(len(like)), [], 0
    score, rate = potential(x, per_sample(levels[0], x))
    pairs = list(pairwise(levels))
    for step, (sigma, sigma_next) in enumerate(tqdm(pairs, disable=not progress, desc="SMC")):
        x = _moved(x, score, sigma, sigma_next, eta, noise(step, x))
        score, rate_next = potential(x, per_sample(sigma_next, x))
        log_weights = log_weights + 0.5 * (rate + rate_next) * (sigma**2 - sigma_next**2)
        rate = rate_next
        effective.append(effective_sample_size(log_weights))
        if effective[-1] < threshold * len(x) and step < len(pairs) - 1:
            uniform = torch.special.ndtr(noise(RESAMPLE + step, x.new_empty(len(x), 1))[0, 0])
            chosen = systematic(log_weights, float(uniform))
            x, score, rate = x[chosen], score[chosen], rate[chosen]
            log_weights, n_resampled = torch.zeros_like(log_weights), n_resampled + 1
    return Particles(x, log_weights.log_softmax(dim=0), tuple(effective), n_resampled)


def effective_sample_size(log_weights: Tensor) -> float:
    """(Σ w)² / Σ w², from 1 to n."""
    twice = 2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0)
    return float(twice.exp())


def systematic(log_weights: Tensor, uniform: float) -> Tensor:
    """Systematic resampling: indices `[n]`, each about n w_k times (Carpenter et al., 1999).

    Args:
        log_weights: `[n]`, not necessarily normalised.
        uniform: one number in [0, 1).
    """
    n = len(log_weights)
    places = (torch.arange(n, device=log_weights.device, dtype=torch.float64) + uniform) / n
    cumulative = log_weights.double().softmax(dim=0).cumsum(dim=0)
    chosen: Tensor = torch.searchsorted(cumulative, places).clamp(max=n - 1)
    return chosen


def _moved(
    x: Tensor, score: Tensor, sigma: float, sigma_next: float, eta: float, z: Tensor
) -> Tensor:
    """One step of Eq. (1), Euler-Maruyama in σ²: the one that the weights belong to."""
    fall = sigma**2 - sigma_next**2
    moved: Tensor = x + 0.5 * (1 + eta**2) * fall * score + eta * fall**0.5 * z
    return moved
