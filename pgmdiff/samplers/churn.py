r"""EDM's stochastic sampler: add noise, then solve the ODE from the higher level.

    σ̂ = (1 + γ) σ,      û = u + √(σ̂² - σ²) S_noise z,      then Heun from (û, σ̂) to σ'
    γ = min(S_churn / n, √2 - 1) where S_tmin <= σ <= S_tmax, else 0

The noise is added exactly, so that with S_noise = 1 the law reached is second order in the step,
like Heun's own (as long as γ is below its cap). None is added before a step to σ = 0. S_noise above
1 makes up for denoisers that remove too much, and is a bias for exact ones.
"""

from dataclasses import dataclass, replace

from pgmdiff.errors import PgmdiffError
from pgmdiff.samplers.noise import Draw
from pgmdiff.samplers.one_step import Heun
from pgmdiff.samplers.solvers import Solver, State
from pgmdiff.scores import Score

__all__ = ["EDM"]


@dataclass(frozen=True)
class EDM(Solver):
    """Heun with churn; two evaluations a step. The defaults are the paper's for ImageNet-64.

    The callback's `denoised` is that of û at σ̂.

    Args:
        n_steps: steps of the schedule, n: `len(sigmas) - 1`. The churn is spread over them.
        s_churn: amount of noise added and removed over a whole run; 0 is `Heun`.
        s_tmin: the lowest level at which noise is added.
        s_tmax: the highest.
        s_noise: standard deviation of the noise.

    Raises:
        PgmdiffError: no steps, or a negative amount, level or standard deviation.

    Source: Karras et al., "Elucidating the design space of diffusion-based generative models",
    2022, Algorithm 2.
    """

    n_steps: int
    s_churn: float = 40.0
    s_tmin: float = 0.05
    s_tmax: float = 50.0
    s_noise: float = 1.003
    evaluations = 2

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
