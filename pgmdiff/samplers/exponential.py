r"""Exponential integrators: the linear part of Eq. (1) is exact, the rest a polynomial.

With κ = 1 + η² and the score s = (D - u) / σ², Eq. (1) from σ to σ' is

    u' = (σ'/σ)^κ u + ∫ D d(s/σ')^-κ + σ' √(1 - (σ'/σ)^(2η²)) z       on the denoised value, any η
    u' = u + σ' ∫ ε d(s/σ'),         ε = (u - D) / s                  on the noise, η = 0

with integrals over the levels s from σ to σ'. D or ε along the path is replaced by the polynomial
through its known values y_j, in a time variable t(s): ∫ y d(s/σ')^p = Σ_j c_j y_j with

    c_j = ∫ ℓ_j(t(s)) d(s/σ')^p,         ℓ_j the Lagrange polynomials of the known levels.

t = s^(1/ρ) is the variable of Karras' schedule; ρ = 1 gives σ, and ρ = ∞ stands for log σ. The
arithmetic is plain Python in double precision, with base-2 logarithms: torch.compile keeps these
symbolic, so that a compiled step serves every σ.

Source: Zhang and Chen, "Fast sampling of diffusion models with exponential integrator", 2023
(DEIS); Lu et al., "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic
models", 2022; Zhang, Tao, Chen, "gDDIM: generalized denoising diffusion implicit models", 2023.
"""

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["decay", "lagrange", "spread", "weights"]

NODES, MASSES = (
    tuple((numbers / 2 + centre).tolist())
    for numbers, centre in zip(np.polynomial.legendre.leggauss(12), (0.5, 0.0), strict=True)
)
"""Gauss-Legendre on [0, 1]: exact to rounding for steps of a factor 10 in σ, to 1e-10 for 100."""


def decay(sigma: float, sigma_next: float, eta: float) -> float:
    """(σ'/σ)^(1+η²), the factor by which a step shrinks u - D."""
    left: float = (sigma_next / sigma) ** (1 + eta**2)
    return left


def spread(sigma: float, sigma_next: float, eta: float) -> float:
    """σ' √(1 - (σ'/σ)^(2η²)), the standard deviation of a step's noise."""
    share: float = 1 - (sigma_next / sigma) ** (2 * eta**2)
    deviation: float = sigma_next * share**0.5
    return deviation


def lagrange(levels: Sequence[float], sigma: float, rho: float) -> list[float]:
    """ℓ_j(t(σ)) for all levels: polynomials in t that are 1 at one level and 0 at the others."""
    times = [_time(level, rho) for level in levels]
    return _shares(times, _newton(times, _time(sigma, rho)))


def weights(
    levels: Sequence[float], sigma: float, sigma_next: float, power: float, rho: float
) -> list[float]:
    """c_j = ∫ ℓ_j(t(s)) d(s/σ')^power over s from σ to σ', which sum to 1 - (σ/σ')^power."""
    times, moments = [_time(level, rho) for level in levels], [0.0] * len(levels)
    span = math.log2(sigma_next / sigma)
    for node, mass in zip(NODES, MASSES, strict=True):
        ratio = 2.0 ** ((node - 1) * span)  # s/σ', with equal steps of log s
        density = mass * ratio**power
        values = _newton(times, _time(ratio * sigma_next, rho))
        moments = [m + density * value for m, value in zip(moments, values, strict=True)]
    scale = math.log(2) * span * power
    return _shares(times, [scale * moment for moment in moments])


def _time(sigma: float, rho: float) -> float:
    return math.log2(sigma) if rho == math.inf else sigma ** (1 / rho)


def _newton(times: list[float], t: float) -> list[float]:
    """Newton's polynomials Π_{i<k} (t - t_i)."""
    values = [1.0]
    for time in times[:-1]:
        values.append(values[-1] * (t - time))
    return values


def _shares(times: list[float], newton: list[float]) -> list[float]:
    """Lagrange's ℓ_j = Σ_{k>=j} n_k / Π_{i<=k, i≠j} (t_j - t_i) from Newton's n_k."""
    shares = []
    for j, own in enumerate(times):
        share, product = 0.0, 1.0
        for k, other in enumerate(times):
            product = product if k == j else product * (own - other)
            share = share + newton[k] / product if k >= j else share
        shares.append(share)
    return shares
