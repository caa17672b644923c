r"""Conditioning by replacement: `y = H u` met exactly, on the denoised value.

    û_0 ← H⁺ y + (I - H⁺ H) û_0

for a mask H (Zhang et al., "DiffCollage", 2023, Algorithm 4; Song et al., "Score-based generative
modeling through stochastic differential equations", 2021). The constraint holds exactly at the end;
the samples are *not* draws from the posterior, at any number of steps: what is observed reaches
the rest only through the denoiser's next evaluation.
"""

from typing import Any

from torch import Tensor

from pgmdiff.errors import ShapeError
from pgmdiff.scores import DenoiserScore, Score, denoise

__all__ = ["replacement"]


def replacement(score: Score, observed: Tensor, mask: Tensor) -> Score:
    """A score whose denoised value equals the observation where it is known.

    Args:
        score: of states `[batch, *event]`.
        observed: clean values, broadcastable to the state; ignored where the mask is false.
        mask: bool, broadcastable to the state; true where observed.

    Returns:
        A score, with its denoiser as `.denoise`.

    Raises:
        ShapeError: the mask is not boolean, or an observed value is not finite.
    """
    if mask.dtype.is_floating_point or mask.dtype.is_complex or mask.max() > 1:
        raise ShapeError(f"replacement: expected a boolean mask, got {mask.dtype}. Use mask > 0.")
    mask = mask.bool()
    if not (observed.isfinite() | ~mask).all():
        raise ShapeError("replacement: an observed value is not finite. Unmask what is missing.")

    def conditioned(x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        denoised = denoise(score, x, sigma, **condition)
        return denoised.where(~mask.to(x.device), observed.to(x))

    return DenoiserScore(conditioned)
