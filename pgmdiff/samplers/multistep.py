r"""Solvers of several steps: one evaluation a step, and the memory of those before.

    on the denoised value    u' = (σ'/σ)^(1+η²) u + Σ_j c_j D_j + σ' √(1 - (σ'/σ)^(2η²)) z
    on the noise, η = 0      u' = u + σ' Σ_j c_j ε_j,         ε = (u - D) / σ

The sums run over the last levels; c_j integrates the polynomial through them, see `exponential`. A
run begins with steps of lower order, and its step to σ = 0 is the denoised value itself.

Either way a step is exact for data at one point. For the ODE ε measures better; with noise, η > 0,
only D serves. Figures: `python -m benchmarks solvers`.
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


@dataclass(frozen=True)
class DEIS(Solver):
    """The probability-flow ODE, extrapolating ε: Adams-Bashforth in the time variable of choice.

    A step is of order `order`, 1 to 4, once there is history; order 1 is `Euler`. The first steps
    are of lower order: a run that begins where the path bends converges with order 2 at most. Noise
    prediction in log σ is also what the
    multistep DPM-Solver (not ++) extrapolates.

    Args:
        order: number of levels extrapolated from (tAB-(order - 1) in the paper).
        rho: of the time variable σ^(1/ρ); infinity for log σ, 1 for σ.

    Raises:
        PgmdiffError: an order outside 1 to 4, or a rho that is not positive.

    Source: Zhang and Chen, "Fast sampling of diffusion models with exponential integrator", 2023.
    """

    order: int = 3
    rho: float = math.inf
    evaluations = 1

    def __post_init__(self) -> None:
        _check(self, self.order, self.rho)

    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        denoised = denoise(score, state.x, state.sigma)
        if sigma_next == 0:
            return State(denoised, state.step + 1, sigma_next, denoised)
        past = _noises(state, denoised)
        x = state.x + _change(past, state.sigma, sigma_next, self.rho)
        return State(x, state.step + 1, sigma_next, denoised, past[: self.order - 1])


@dataclass(frozen=True)
class UniPC(Solver):
    """DEIS whose every step is corrected by the next evaluation, at no further cost.

    Once ε is known at the level that was stepped to, the step is done again (Adams-Moulton) with
    that level among those of the polynomial; the evaluation is not. A step is of order `order` + 1
    once there is history; a run that begins where the path bends converges with order 3 at most.

    The paper extrapolates the denoised value in log σ, and solves for the same weights; here ε is
    extrapolated, which measures better.

    Args:
        order: number of levels extrapolated from, 1 to 4; corrections use one more.
        rho: of the time variable σ^(1/ρ); infinity for log σ, 1 for σ.

    Raises:
        PgmdiffError: an order outside 1 to 4, or a rho that is not positive.

    Source: Zhao et al., "UniPC: a unified predictor-corrector framework for fast sampling of
    diffusion models", 2023.
    """

    order: int = 3
    rho: float = math.inf
    evaluations = 1

    def __post_init__(self) -> None:
        _check(self, self.order, self.rho)

    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        denoised = denoise(score, state.x, state.sigma)
        if sigma_next == 0:
            return State(denoised, state.step + 1, sigma_next, denoised)
        past = _noises(state, denoised)
        x = self._corrected(state.x, past)
        x = x + _change(past[: self.order], state.sigma, sigma_next, self.rho)
        return State(x, state.step + 1, sigma_next, denoised, past[: self.order])

    def _corrected(self, x: Tensor, past: tuple[Past, ...]) -> Tensor:
        """The last step again, now that ε is known where it led."""
        (sigma, _), *before = past
        if not before:
            return x
        last = before[0][0]
        predicted = _change(tuple(before), last, sigma, self.rho)
        return x + _change(past, last, sigma, self.rho) - predicted


class _OnDenoised(Solver):
    """Eq. (1), extrapolating the denoised value."""

    order: int
    eta: float
    evaluations = 1

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
        """Of the denoised values at the levels, for a step from the first of them."""


@dataclass(frozen=True)
class DPMSolver2M(_OnDenoised):
    """DPM-Solver++ (2M) and, with η > 0, SDE-DPM-Solver++ (2M): second order, weakly with noise.

    The line through the last two denoised values is taken at the middle of the step in log σ, as
    the paper does. A `rho` of 7 measures better for η = 1.

    Args:
        eta: strength of the noise.
        rho: of the time variable σ^(1/ρ) of the line; infinity, the paper's, for log σ.

    Raises:
        PgmdiffError: a negative eta, or a rho that is not positive.

    Source: Lu et al., "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic
    models", 2022, Algorithm 2.
    """

    eta: float = 0.0
    rho: float = math.inf
    order = 2

    def __post_init__(self) -> None:
        _check(self, self.order, self.rho, self.eta)

    def _weights(self, levels: list[float], sigma_next: float) -> list[float]:
        middle = (levels[0] * sigma_next) ** 0.5
        whole = 1 - decay(levels[0], sigma_next, self.eta)
        return [whole * share for share in lagrange(levels, middle, self.rho)]


@dataclass(frozen=True)
class DPMSolver3M(_OnDenoised):
    """DPM-Solver++ (3M): the parabola through the last three denoised values, integrated exactly.

    A step is of third order for the ODE once there is history (see `DEIS`); with η > 0 weakly
    second, and wild below 20 evaluations. Published code
    halves the parabola's second difference, which is of second order but calmer at coarse steps; a
    time variable between log σ and σ is as calm and keeps the order.

    Args:
        eta: strength of the noise.
        rho: of the time variable σ^(1/ρ); infinity for log σ.

    Raises:
        PgmdiffError: a negative eta, or a rho that is not positive.

    Source: Lu et al., "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic
    models", 2022.
    """

    eta: float = 0.0
    rho: float = 5.0
    order = 3

    def __post_init__(self) -> None:
        _check(self, self.order, self.rho, self.eta)

    def _weights(self, levels: list[float], sigma_next: float) -> list[float]:
        return weights(levels, levels[0], sigma_next, -(1 + self.eta**2), self.rho)


def _noises(state: State, denoised: Tensor) -> tuple[Past, ...]:
    """ε at the state's level and those before."""
    return ((state.sigma, (state.x - denoised) / state.sigma), *state.history)


def _change(past: tuple[Past, ...], sigma: float, sigma_next: float, rho: float) -> Tensor:
    """∫ ε ds from σ to σ', of the polynomial through the past."""
    shares = weights([level for level, _ in past], sigma, sigma_next, 1.0, rho)
    return _sum([sigma_next * share for share in shares], past)


def _sum(shares: list[float], past: tuple[Past, ...]) -> Tensor:
    total = shares[0] * past[0][1]
    for share, (_, value) in zip(shares[1:], past[1:], strict=True):
        total = total + share * value
    return total


def _check(solver: Solver, order: int, rho: float, eta: float = 0.0) -> None:
    if not (order in (1, 2, 3, 4) and rho > 0 and eta >= 0):
        raise PgmdiffError(
            f"{type(solver).__name__}: expected an order of 1 to 4, rho > 0 and eta >= 0, got "
            f"{solver}."
        )
