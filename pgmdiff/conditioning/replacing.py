r"""Conditioning by replacement: the denoised value is made to meet `y = H u` exactly.

    û_0 ← H⁺ y + (I - H⁺ H) û_0

(Zhang et al., "DiffCollage", 2023, Algorithm 4; Song et al., "Score-based generative modeling
through stochastic differential equations", 2021; Wang, Yu, Zhang, "Zero-shot image restoration
using denoising diffusion null-space model", 2023). The constraint holds exactly at the end, but the
samples are *not* draws from the posterior, at any number of steps: the observation reaches the
other elements only through the next evaluation of the denoiser. A schedule that rises again and
again carries it further (Lugmayr et al., "RePaint", 2022); `samplers.sample` adds noise where σ
rises.
"""

from functools import partial
from typing import Any

from torch import Tensor

from pgmdiff.conditioning.observations import Observation, observing
from pgmdiff.conditioning.operators import LinearOperator
from pgmdiff.errors import PgmdiffError
from pgmdiff.scores.adapters import NetworkScore, Score, denoise
from pgmdiff.scores.walls import on_copies, received
from pgmdiff.text import brief

__all__ = ["replacement"]


def replacement(score: Score, observed: Tensor, operator: LinearOperator | Tensor) -> NetworkScore:
    """A score whose denoised value, `.denoise`, meets y = H u.

    On a `distributed.Slab` H is a mask or a crop, and y that of the whole state.

    Args:
        score: the score of states `[batch, *event]`.
        observed: y, `[*observed]` or one per sample; of a `Stacked` operator also a list of those
            of its operators.
        operator: H; or a boolean mask `[*event]`, true where the state is observed: `observed` then
            has the shape of a state, or is one number, and is ignored where the mask is false.

    Raises:
        ShapeError: the observation is not finite or has another shape; the mask is not boolean.
        PgmdiffError: H is not an operator, or on a `Slab` no mask or crop; or no state gives this
            observation.
    """
    observation = Observation.of("replacement", observed, operator, 0.0)
    if observation.operator is None:
        raise PgmdiffError(
            "replacement: expected an operator with A, A_adjoint and A_dagger, got a "
            f"{type(operator).__name__}. Make one of a function by conditioning.Linear(function, "
            "event_shape)."
        )
    observation = observation.on(score, elementwise=True)
    remedy = "Condition last: a score around this one, such as guidance, moves it away again."
    return observing(partial(_replaced, observation), observation, score, remedy=remedy)


def _replaced(
    observation: Observation, score: Score, x: Tensor, sigma: Tensor, **condition: Any
) -> Tensor:
    h: Any = observation.operator
    denoised = denoise(score, x, sigma, **condition)
    moved = on_copies(h.A_dagger, observation.misfit(denoised))
    return denoised + received(moved, denoised, lambda: f"replacement: A_dagger of {brief(h)}")
