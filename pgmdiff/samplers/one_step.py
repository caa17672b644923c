r"""One-step solvers of the generative equation, with σ as time.

    du = -½ (1 + η²) s(u, σ) dσ² + η dw,   w a Wiener process run in σ²,   dσ² < 0   (Eq. 1)

η = 0 is the probability-flow ODE, η = 1 the reverse of the noising process (Zhang et al.,
"DiffCollage", 2023, Eq. 1 and Algorithm 3). With the denoised value D held fixed over a step from
σ to σ', both are integrated exactly:

    u' = D + (σ'/σ)^(1+η²) (u - D) + σ' √(1 - (σ'/σ)^(2η²)) z                       (Eq. 2)

This is first order (`Euler`, `SDE`). Second order requires a second evaluation: at the end of the
step (`Heun`) or in its middle (`DPMSolver2S`).

`EDM` adds noise before it solves the ODE from the higher level:

    σ̂ = (1 + γ) σ,      û = u + √(σ̂² - σ²) S_noise z,      then Heun from (û, σ̂) to σ'
    γ = min(S_churn / n, √2 - 1) where S_tmin <= σ <= S_tmax, else 0

The noise is added exactly, so that with S_noise = 1 the distribution reached is second order in the
step, like Heun's own, as long as γ is below its cap. None is added before a step to σ = 0. S_noise
above 1 compensates for denoisers that remove too much, and is a bias for exact ones.
"""

import math
from dataclasses import dataclass, replace

from torch import Tensor

from pgmdiff.errors import PgmdiffError
from pgmdiff.noise import SECOND, Draw
from pgmdiff.samplers.base import Solver, State
from pgmdiff.samplers.exponential import decay, spread, weights
from pgmdiff.scores.adapters import Score, denoise

__all__ = ["DPMSolver2S", "EDM", "Euler", "Heun", "SDE"]


class _Exponential(Solver):
    """What the solvers of Eq. (1) for one η share: Eq. (2), which alone is a first-order step."""

    eta: float = 0.0
    evaluations = 1
    elementwise = True

    def __post_init__(self) -> None:
        if not self.eta >= 0:
            raise PgmdiffError(f"{type(self).__name__}: expected eta >= 0, got {self.eta}.")

    def _frozen(
        self, x: Tensor, denoised: Tensor, sigma: float, sigma_next: float, noise: Draw, number: int
    ) -> Tensor:
        """Eq. (2), from σ to σ' with the denoised value held fixed; exact at σ' = 0 too."""
        x = denoised + decay(sigma, sigma_next, self.eta) * (x - denoised)
        if self.eta and sigma_next:
            x = x + spread(sigma, sigma_next, self.eta) * noise(number, x)
        return x

    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        denoised = denoise(score, state.x, state.sigma)
        x = self._frozen(state.x, denoised, state.sigma, sigma_next, noise, state.step)
        return State(x, state.step + 1, sigma_next, denoised)


@dataclass(frozen=True)
class Euler(_Exponential):
    """Algorithm 3: the probability-flow ODE, u' = D + (σ'/σ)(u - D). First order; equal to DDIM."""


@dataclass(frozen=True)
class Heun(Solver):
    """The probability-flow ODE with Heun's second-order method; two evaluations per step.

    Source: Karras et al., "Elucidating the design space of diffusion-based generative models",
    2022, Algorithm 1.
    """

    evaluations = 2
    elementwise = True

    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        x, sigma = state.x, state.sigma
        denoised = denoise(score, x, sigma)
        slope = (x - denoised) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - denoise(score, x_next, sigma_next)) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        return State(x_next, state.step + 1, sigma_next, denoised)


@dataclass(frozen=True)
class SDE(_Exponential):
    """Eq. (1) with any η >= 0 by Eq. (2). First order.

    η = 0 is `Euler`, η = 1 ancestral sampling (DDPM); the isotropic case of gDDIM (Zhang, Tao,
    Chen, "gDDIM: generalized denoising diffusion implicit models", 2023).

    Args:
        eta: strength of the noise.

    Raises:
        PgmdiffError: eta is negative.
    """

    eta: float = 1.0


@dataclass(frozen=True)
class DPMSolver2S(_Exponential):
    """DPM-Solver++ (2S) and its SDE form; two evaluations per step.

    Second order, in the weak sense with noise. The second evaluation is at m = √(σ σ'), reached by
    `SDE`; the line in log σ through both denoised values is then integrated exactly over the whole
    step, with the same noise. (The paper uses the second value alone, which is of the same order
    with about twice the error.)

    Args:
        eta: as for `SDE`, with the same error.

    Source: Lu et al., "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic
    models", 2022, Algorithm 1.
    """

    eta: float = 0.0
    evaluations = 2

    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        x, sigma, middle = state.x, state.sigma, (state.sigma * sigma_next) ** 0.5
        denoised = denoise(score, x, sigma)
        if sigma_next == 0:
            return State(denoised, state.step + 1, sigma_next, denoised)
        x = self._frozen(x, denoised, sigma, middle, noise, state.step)
        change = denoise(score, x, middle) - denoised
        _, share = weights([sigma, middle], sigma, sigma_next, -(1 + self.eta**2), math.inf)
        x = self._frozen(x, denoised, middle, sigma_next, noise, SECOND + state.step)
        return State(x + share * change, state.step + 1, sigma_next, denoised)


@dataclass(frozen=True)
class EDM(Solver):
    """Heun with churn; two evaluations per step. The defaults are the paper's for ImageNet-64.

    The `denoised` of its states is that of û at σ̂.

    Args:
        n_steps: number of steps n of the schedule, `len(sigmas) - 1`, over which the churn is
            spread.
        s_churn: amount of noise added and removed over a whole run; 0 is `Heun`.
        s_tmin, s_tmax: the lowest and the highest level at which noise is added, in the data's
            units; the defaults suit data of standard deviation 0.5.
        s_noise: standard deviation of the noise.

    Raises:
        PgmdiffError: there are no steps, or an amount, level or standard deviation is negative.

    Source: Karras et al., "Elucidating the design space of diffusion-based generative models",
    2022, Algorithm 2.
    """

    n_steps: int
    s_churn: float = 40.0
    s_tmin: float = 0.05
    s_tmax: float = 50.0
    s_noise: float = 1.003
    evaluations = 2
    elementwise = True

    def __post_init__(self) -> None:
        amounts = (self.s_churn, self.s_tmin, self.s_tmax, self.s_noise)
        if self.n_steps < 1 or not all(amount >= 0 for amount in amounts):
            raise PgmdiffError(f"EDM: expected n_steps >= 1 and no negative number, got {self}.")

    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        if sigma_next and self.s_churn and self.s_tmin <= state.sigma <= self.s_tmax:
            gamma = min(self.s_churn / self.n_steps, 2**0.5 - 1)
            added = state.sigma * ((1 + gamma) ** 2 - 1) ** 0.5 * self.s_noise
            x = state.x + added * noise(state.step, state.x)
            state = replace(state, x=x, sigma=(1 + gamma) * state.sigma)
        return Heun().step(score, state, sigma_next, noise)
