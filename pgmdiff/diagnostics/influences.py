r"""Influences: derivatives of scores and of solver steps with respect to every element.

    one evaluation     |∂s_i(x, σ) / ∂x_j|
    k steps            |∂u_k,i / ∂u_0,j|,      u_0 the start, u_k the state after k steps

Under the marginal rule and overlap averaging an element's score depends on the elements with which
it shares a region, and on no others. Therefore k evaluations carry information across k regions,
and outside this light cone the derivative is exactly 0. Rules with covariances solve a
system over the whole state: one evaluation already depends on all of the connected component.

For Gaussian data scores are linear, s = -J (u - m), and influences do not depend on the state: one
evaluation gives row i of |J(σ)|, and steps of Euler's method give row i of the absolute value of

    ∂u_k / ∂u_0 = M_k ··· M_1,      M_k = I - σ_k (σ_k - σ_{k+1}) J(σ_k).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.linalg import ordinary, rows
from pgmdiff.noise import Generator
from pgmdiff.samplers import Euler, Noise, Solver
from pgmdiff.scores.adapters import Score, per_sample
from pgmdiff.scores.walls import called

__all__ = ["influence", "influence_over_steps"]

Elements = int | Sequence[int] | Tensor


@torch.inference_mode(False)
@torch.enable_grad()
def influence(score: Score, x: Tensor, sigma: Tensor | float, element: Elements) -> Tensor:
    """How strongly the score of an element depends on every element of the state: `[*event]`.

    This is |∂s_i(x, σ) / ∂x_j| for all j, by automatic differentiation. It is 0 where s_i does not
    depend on x_j, or by less than the dtype can hold. It is averaged over the batch, and summed
    over the elements i if there are several.

    Args:
        score: a differentiable score, such as a joint.
        x: `[batch, *event]`; for Gaussians the result does not depend on it, and one state is
            enough.
        sigma: a number or `[batch]`.
        element: i, a place in the flattened event; or several, such as `graph.elements("f0")`.

    Raises:
        ShapeError: x has no batch axis, or the event has no such element.
        ScoreError: the score has no gradient.

    Example:
        >>> import torch
        >>> from pgmdiff import compose, diagnostics, gaussian, graphs
        >>> graph = graphs.chain(4)
        >>> pair = gaussian.Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> scores = {name: pair.score for name in graph.factors}
        >>> scores |= {name: lambda x, sigma: -x / (1 + sigma**2) for name in graph.variables}
        >>> diagnostics.influence(compose(graph, scores), torch.zeros(1, 4), 0.0, 0)
        tensor([1.3333, 0.6667, 0.0000, 0.0000])
    """
    chosen, start = _places(x, element), x.detach().clone().requires_grad_()
    return _influence(called(score, start, ordinary(per_sample(sigma, start))), start, chosen)


@torch.inference_mode(False)
@torch.enable_grad()
def influence_over_steps(
    score: Score,
    sigmas: Sequence[float],
    x: Tensor,
    element: Elements,
    *,
    solver: Solver | None = None,
    generator: Generator = None,
) -> Tensor:
    """How strongly an element depends on the start after every step: `[steps + 1, *event]`.

    Row k holds |∂u_k,i / ∂u_0,j| for all j, with u_0 = x; the first row is 1 at the element itself.
    Noise that a solver draws is held fixed. The result is averaged over the batch, and summed over
    the elements i if there are several.

    The whole run is kept and differentiated once per row and element: k steps cost about k²/2
    gradients of the score, and their memory.

    Args:
        score, element: as for `influence`.
        sigmas: decreasing noise levels, the last of which may be 0.
        x: `[batch, *event]`, the state at sigmas[0]; for Gaussians any state gives the same result.
        solver: the stepping rule; `Euler()`, with one evaluation per step, if None.
        generator: the source of the noise, as for `sample`.

    Raises:
        PgmdiffError: the schedule does not decrease.
        ShapeError: x has no batch axis, or the event has no such element.
        ScoreError: the score has no gradient.
    """
    chosen, levels = _places(x, element), [float(sigma) for sigma in sigmas]
    if len(levels) < 2 or any(not a > b for a, b in pairwise(levels)) or levels[-1] < 0:
        raise PgmdiffError(
            "influence_over_steps: expected sigmas that decrease strictly and stay at least 0, got "
            f"{levels[:3]}{' ...' if len(levels) > 3 else ''}. Use samplers.karras."
        )
    solver, noise = solver or Euler(), Noise.of(generator, len(x))
    start = x.detach().clone().requires_grad_()
    state, rows = solver.init(start, levels[0]), [_influence(start, start, chosen)]
    for sigma_next in levels[1:]:
        state = solver.step(score, state, sigma_next, noise)
        rows.append(_influence(state.x, start, chosen))
    return torch.stack(rows)


def _influence(output: Tensor, start: Tensor, chosen: Sequence[int]) -> Tensor:
    """Σ_i |∂ output_i / ∂ start_j|, averaged over the batch: `[*event]`."""
    total, flat = torch.zeros_like(start), rows(output)
    for place in chosen:  # samples do not depend on each other: one gradient serves the batch
        (gradient,) = torch.autograd.grad(
            flat[:, place].sum(), start, retain_graph=True, materialize_grads=True
        )
        total += gradient.abs()
    return total.mean(dim=0).detach()


def _places(x: Tensor, element: Elements) -> list[int]:
    """The chosen elements as places in the flattened event."""
    if not x.is_floating_point() or x.ndim < 2 or not len(x):
        raise ShapeError(
            f"influence: expected floating-point states [batch, *event], got {tuple(x.shape)} of "
            f"{x.dtype}. Give one state as x[None]."
        )
    n = x[0].numel()
    places = torch.as_tensor(element).reshape(-1)
    whole = not places.is_floating_point() and places.dtype != torch.bool
    if not whole or not len(places) or not bool(((places >= 0) & (places < n)).all()):
        raise ShapeError(
            f"influence: expected elements from 0 to {n - 1}, places in the flattened event, got "
            f"{element}. Get them from the graph with graph.regions.elements(name)."
        )
    return [int(place) for place in places]
