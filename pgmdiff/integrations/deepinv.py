"""deepinv: denoisers in; its linear physics are observations as they are.

A deepinv denoiser is `denoiser(x, sigma) -> E[x_0 | x]` of images in [0, 1]. In units u = low +
(high - low) x its noise level is σ / (high - low).

Linear physics have `A`, `A_adjoint` and `A_dagger` on batches, which is all that
`pgmdiff.conditioning` asks of an operator; mind that an iterative `A_dagger` is not an exact
pseudo-inverse (our masks, crops, block averages and blurs are). deepinv itself is never imported.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pgmdiff.errors import ScoreError
from pgmdiff.integrations.shared import check_device, network_dtype
from pgmdiff.scores.adapters import DenoiserScore, from_denoiser

__all__ = ["from_deepinv"]


def from_deepinv(
    denoiser: Callable[..., Tensor], *, low: float = 0.0, high: float = 1.0
) -> DenoiserScore:
    """The score of a deepinv denoiser.

    Args:
        denoiser: `denoiser(x, sigma, **condition)`, x `[batch, channels, height, width]`, sigma
            `[batch]`. Denoisers trained at few noise levels (most; see their pages) are not to be
            trusted at others.
        low, high: what the state's units say for the denoiser's 0 and 1: -1 and 1 for states in
            [-1, 1].

    Raises:
        ScoreError: high is not above low; when called, the denoiser is on another device.
    """
    span = high - low
    if not span > 0:
        raise ScoreError(f"from_deepinv: expected low < high, got {low} and {high}.")

    def ours(x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        check_device(denoiser, x)
        dtype = network_dtype(denoiser, x.dtype)
        image, level = (x - low) / span, sigma / span
        return low + span * denoiser(image.to(dtype), level.to(dtype), **condition).to(x.dtype)

    return from_denoiser(ours)
