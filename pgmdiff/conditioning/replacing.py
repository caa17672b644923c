r"""Conditioning by replacement: `y = H u` met exactly, on the denoised value.

    û_0 ← H⁺ y + (I - H⁺ H) û_0

(Zhang et al., "DiffCollage", 2023, Algorithm 4; Song et al., "Score-based generative modeling
through stochastic differential equations", 2021; Wang, Yu, Zhang, "Zero-shot image restoration
using denoising diffusion null-space model", 2023). The constraint holds exactly at the end; the
samples are *not* draws from the posterior, at any number of steps: what is observed reaches the
rest only through the denoiser's next evaluation. A schedule that rises again and again lets it be
heard more often (Lugmayr et al., "RePaint", 2022): `samplers.sample` noises where σ rises.
"""

from typing import Any

from torch import Tensor

from pgmdiff.conditioning.masks import masked
from pgmdiff.conditioning.observations import Observation
from pgmdiff.conditioning.operators import LinearOperator
from pgmdiff.scores.adapters import DenoiserScore, Score, denoise

__all__ = ["replacement"]


def replacement(score: Score, observed: Tensor, operator: LinearOperator | Tensor) -> Score:
    """A score whose denoised value meets y = H u.

    Args:
        score: of states `[batch, *event]`.
        observed: y, `[*observed]` or one a sample.
        operator: H; or a boolean mask `[*event]`, true where observed: `observed` then has the
            state's shape, or is one number, and is ignored where the mask is false.

    Returns:
        A score, with its denoiser as `.denoise`.

    Raises:
        ShapeError: the observation is not finite or of another shape; the mask is not boolean.
        PgmdiffError: no state gives this observation.
    """
    observed, h = masked(observed, operator)
    observation = Observation.of("replacement", observed, h, noiseless=True)

    def conditioned(x: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        denoised = denoise(score, x, sigma, **condition)
        met: Tensor = denoised + h.A_dagger(observation.misfit(denoised))
        return met

    return DenoiserScore(conditioned)
