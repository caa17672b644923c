"""Scores from the denoisers of deepinv, whose linear physics are operators as they are.

A deepinv denoiser is `denoiser(x, sigma) -> E[x_0 | x]` for images in [0, 1]. In units u = low +
(high - low) x its noise level is σ / (high - low).

Linear physics have `A`, `A_adjoint` and `A_dagger` on batches, which is all that
`pgmdiff.conditioning` requires of an operator. An iterative `A_dagger` is not an exact
pseudo-inverse, unlike those of our masks, crops, block averages and blurs. This module never
imports deepinv.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from pgmdiff.errors import ScoreError
from pgmdiff.integrations.shared import in_own_dtype
from pgmdiff.scores.adapters import NetworkScore, Score, from_denoiser

__all__ = ["from_deepinv"]


def from_deepinv(
    denoiser: Callable[..., Tensor], *, low: float = 0.0, high: float = 1.0
) -> NetworkScore:
    """The score of a deepinv denoiser.

    Args:
        denoiser: `denoiser(x, sigma, **condition)`, x `[batch, channels, height, width]`, sigma
            `[batch]`. Most were trained at few noise levels (see their pages) and are unreliable
            at others.
        low, high: the values of the state that correspond to the denoiser's 0 and 1; -1 and 1 for
            states in [-1, 1].

    Raises:
        ScoreError: high is not above low; when called, the denoiser is on another device.
    """
    span = high - low
    if not span > 0:
        raise ScoreError(f"from_deepinv: expected low < high, got {low} and {high}. Swap them.")
    return replace(from_denoiser(partial(_scaled, denoiser, low, span)), network=denoiser)


def _scaled(
    denoiser: Score, low: float, span: float, x: Tensor, sigma: Tensor, **condition: Any
) -> Tensor:
    return low + span * in_own_dtype(denoiser, (x - low) / span, sigma / span, **condition)
