r"""Multistep solvers: one evaluation per step, and values remembered from earlier steps.

    on the denoised value    u' = (σ'/σ)^(1+η²) u + Σ_j c_j D_j + σ' √(1 - (σ'/σ)^(2η²)) z
    on the noise, η = 0      u' = u + σ' Σ_j c_j ε_j,         ε = (u - D) / σ

The sums run over the last levels; c_j integrates the polynomial through them, see `exponential`. A
run begins with steps of lower order, and its step to σ = 0 is the denoised value itself.

Both forms are exact for data at one point. For the ODE extrapolating ε measures better; with noise,
η > 0, only D works. Figures: `python -m benchmarks solvers`.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from pgmdiff.errors import PgmdiffError
from pgmdiff.noise import Draw
from pgmdiff.samplers.base import Past, Solver, State
from pgmdiff.samplers.exponential import decay, lagrange, spread, weights
from pgmdiff.scores.adapters import Score, denoise

__all__ = ["DEIS", "DPMSolver2M", "DPMSolver3M", "UniPC"]


class _Multistep(Solver):
    """What multistep solvers share: their parameters."""

    order: int
    rho: float
    eta: float = 0.0
    evaluations = 1
    elementwise = True

    def __post_init__(self) -> None:
        if not (self.order in (1, 2, 3, 4) and self.rho > 0 and self.eta >= 0):
            raise PgmdiffError(
                f"{type(self).__name__}: expected an order from 1 to 4, rho > 0 and eta >= 0, got "
                f"{self}."
            )


@dataclass(frozen=True)
class _OnNoise(_Multistep):
    """The probability-flow ODE, extrapolating ε."""

    order: int = 3
    rho: float = math.inf
    corrects = False
    """Whether the last step is repeated once ε is known where it led."""

    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        denoised, x = denoise(score, state.x, state.sigma), state.x
        if sigma_next == 0:
            return State(denoised, state.step + 1, sigma_next, denoised)
        past = ((state.sigma, (x - denoised) / state.sigma), *state.history)
        if self.corrects and state.history:
            last, _ = state.history[0]
            predicted = _change(state.history, last, state.sigma, self.rho)
            x = x + _change(past, last, state.sigma, self.rho) - predicted
        x = x + _change(past[: self.order], state.sigma, sigma_next, self.rho)
        kept = self.order if self.corrects else self.order - 1
        return State(x, state.step + 1, sigma_next, denoised, past[:kept])


@dataclass(frozen=True)
class DEIS(_OnNoise):
    """The probability-flow ODE, extrapolating ε: Adams-Bashforth in the time variable of choice.

    A step is of order `order`, 1 to 4, once there is history; order 1 is `Euler`. The first steps
    are of lower order: a run that begins where the path bends converges with order 2 at most. The
    multistep DPM-Solver (not ++) also extrapolates ε, in log σ.

    Args:
        order: number of levels from which to extrapolate (tAB-(order - 1) in the paper).
        rho: ρ of the time variable σ^(1/ρ); infinity for log σ, 1 for σ.

    Raises:
        PgmdiffError: the order is outside 1 to 4, or rho is not positive.

    Source: Zhang and Chen, "Fast sampling of diffusion models with exponential integrator", 2023.
    """


@dataclass(frozen=True)
class UniPC(_OnNoise):
    """DEIS in which each evaluation also corrects the step that led to it, at no further cost.

    Once ε is known at the level that a step reached, the step is repeated (Adams-Moulton) with that
    level among those of the polynomial; the evaluation is not repeated. A step is of order
    `order` + 1 once there is history; a run that begins where the path bends converges with order 3
    at most.

    The paper extrapolates the denoised value in log σ, and solves for the same weights; here ε is
    extrapolated, which measures better.

    Args:
        order: number of levels from which to extrapolate, 1 to 4; corrections use one more.
        rho: as for `DEIS`; so are the errors.

    Source: Zhao et al., "UniPC: a unified predictor-corrector framework for fast sampling of
    diffusion models", 2023.
    """

    corrects = True


@dataclass(frozen=True)
class _OnDenoised(_Multistep):
    """Eq. (1), extrapolating the denoised value."""

    eta: float = 0.0
    rho: float = math.inf

    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        denoised = denoise(score, state.x, state.sigma)
        if sigma_next == 0:
            return State(denoised, state.step + 1, sigma_next, denoised)
        past = ((state.sigma, denoised), *state.history)
        x = decay(state.sigma, sigma_next, self.eta) * state.x
        x = x + _sum(self._weights([level for level, _ in past], sigma_next), past)
        if self.eta:
            x = x + spread(state.sigma, sigma_next, self.eta) * noise(state.step, x)
        return State(x, state.step + 1, sigma_next, denoised, past[: self.order - 1])

    @abstractmethod
    def _weights(self, levels: list[float], sigma_next: float) -> list[float]:
        """The weights of the denoised values at the levels, for a step from the first of them."""


@dataclass(frozen=True)
class DPMSolver2M(_OnDenoised):
    """DPM-Solver++ (2M) and, with η > 0, SDE-DPM-Solver++ (2M).

    Second order, in the weak sense with noise. The line through the last two denoised values is
    evaluated in the middle of the step in log σ, as in the paper. For η = 1 a `rho` of 7 measures
    better.

    Args:
        eta: strength of the noise.
        rho: ρ of the line's time variable σ^(1/ρ); infinity, as in the paper, for log σ.

    Raises:
        PgmdiffError: eta is negative, or rho is not positive.

    Source: Lu et al., "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic
    models", 2022, Algorithm 2.
    """

    order = 2

    def _weights(self, levels: list[float], sigma_next: float) -> list[float]:
        middle = (levels[0] * sigma_next) ** 0.5
        whole = 1 - decay(levels[0], sigma_next, self.eta)
        return [whole * share for share in lagrange(levels, middle, self.rho)]


@dataclass(frozen=True)
class DPMSolver3M(_OnDenoised):
    """DPM-Solver++ (3M): the parabola through the last three denoised values, integrated exactly.

    A step is of third order for the ODE once there is history (see `DEIS`); with η > 0 it has weak
    order 2 and is unstable below 20 evaluations. Published code halves the parabola's second
    difference, which is of second order but calmer at coarse steps; a time variable between log σ
    and σ is as calm and keeps the order.

    Args:
        eta, rho: as for `DPMSolver2M`, with the same errors.

    Source: Lu et al., "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic
    models", 2022.
    """

    rho: float = 5.0
    order = 3

    def _weights(self, levels: list[float], sigma_next: float) -> list[float]:
        return weights(levels, levels[0], sigma_next, -(1 + self.eta**2), self.rho)


def _change(past: tuple[Past, ...], sigma: float, sigma_next: float, rho: float) -> Tensor:
    """∫ ε ds from σ to σ', of the polynomial through the past."""
    shares = weights([level for level, _ in past], sigma, sigma_next, 1.0, rho)
    return _sum([sigma_next * share for share in shares], past)


def _sum(shares: list[float], past: tuple[Past, ...]) -> Tensor:
    total = shares[0] * past[0][1]
    for share, (_, value) in zip(shares[1:], past[1:], strict=True):
        total = total + share * value
    return total
