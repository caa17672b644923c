r"""A second-order step of the SDE with η = 1, to tell what of an error is the first-order step's.

With λ = -log σ, D is continued from the last two levels by a line in λ, and integrated exactly:

    u' = r² u + (1 - r²) D + (h - (1 - r²)/2) (D - D_before) / h_before + σ' √(1 - r²) z

r = σ'/σ, h = -log r, h_before the step before (Lu et al., "DPM-Solver++: fast solver for guided
sampling of diffusion probabilistic models", 2022, the multistep SDE solver).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from pgmdiff.samplers import SDE, Solver, State
from pgmdiff.scores import Score, denoise

__all__ = ["SecondOrderSDE"]


@dataclass(frozen=True)
class SecondOrderSDE(Solver):
    """The first and the last step are `SDE(1.0)`'s.

    Args:
        sigmas: the schedule that it will run down.
    """

    sigmas: Sequence[float]
    evaluations = 1

    def step(
        self,
        score: Score,
        state: State,
        sigma_next: float,
        noise: Callable[[int, Tensor], Tensor],
    ) -> State:
        if state.denoised is None or sigma_next == 0:
            return SDE(1.0).step(score, state, sigma_next, noise)
        denoised = denoise(score, state.x, state.sigma)
        before, ratio = self.sigmas[state.step - 1], sigma_next / state.sigma
        slope = (denoised - state.denoised) / math.log(before / state.sigma)
        drift = (1 - ratio**2) * denoised - (math.log(ratio) + (1 - ratio**2) / 2) * slope
        spread = sigma_next * (1 - ratio**2) ** 0.5
        x = ratio**2 * state.x + drift + spread * noise(state.step, state.x)
        return State(x, state.step + 1, sigma_next, denoised)
