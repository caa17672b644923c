r"""Observations y = H u_0 + N(0, R) in joints with covariances: in local posteriors or the solve.

An element observed with independent noise R_i multiplies the posterior of every region that holds
it, like the noisy state itself: both are one noisy state of one level per element,

    σ̃⁻² = σ⁻² + R⁻¹,     x̃ = σ̃² (u / σ² + y / R),     D_r = D_r(A_r (x̃ + σ̃² η_r), A_r σ̃)

This is exact for any data. Scores with `per_element = True` accept σ̃ `[batch, *shape]`, as x is;
others accept one level per sample, and regions that they evaluate must be observed in all elements
with one R, or in none. All regions must know of an element alike: it is *folded* if they all can.

Everything else is left to the solve, where it is a Gaussian factor, exact for Gaussian data only,
and part of the messages. What was folded is observed there as what local posteriors say of it:

    D = D_0 + V Hᵀ (H V Hᵀ + R)⁻¹ (z - H D_0),     z_i = Σ_r c_r D_ri if folded, else y_i,

with D_0 and V = (σ⁻² I + K)⁻¹ those of the composition without observations.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from pgmdiff.composition.evaluate import Chunk
from pgmdiff.composition.plan import Batch
from pgmdiff.linalg import Shape
from pgmdiff.precision import Solve
from pgmdiff.scores.adapters import per_element
from pgmdiff.text import by_field

__all__ = ["foldable"]

LEAST = 1e-6
"""Least noise level with which a score is called, in standard deviations of an element."""
KNOWN = 0.01
"""Level, in standard deviations, below which an observed element counts as known in the fade."""


class Folded(NamedTuple):
    """The noisy state that local posteriors see, for u `[B, N]` and σ `[B]`.

    Attributes:
        x, levels: x̃ and σ̃, in the dtype of u.
        shares: σ̃² / σ², float64.
        pulls: (x̃ - u) / σ², float64.
        exact: which elements are known to `KNOWN`.
    """

    x: Tensor
    levels: Tensor
    shares: Tensor
    pulls: Tensor
    exact: Tensor

    def local(self, chunk: Chunk, tilted: Tensor) -> Tensor:
        """(D_r - A_r u) / σ² of what a region says at (x̃, σ̃), η_r + s_r."""
        return chunk.gather(self.pulls) + chunk.gather(self.shares) * tilted

    def known(
        self, chunk: Chunk, scores: Tensor, tilted: Tensor, centred: Tensor, sigma: Tensor
    ) -> Tensor:
        """The scores, those of Gaussians for elements known to `KNOWN`, where D - x̃ is rounding."""
        assert chunk.batch.precisions is not None, "the plan holds those of a bound rule"
        away = chunk.gather(centred) + sigma[chunk.samples, None, None] ** 2 * tilted
        expected = -chunk.batch.precisions.rows(chunk.start, chunk.stop).times(away)
        return scores.where(~chunk.gather(self.exact), expected)

    def gains(self, chunk: Chunk) -> Tensor:
        """σ² / R of the regions' elements; 0 without noise, where local means agree already."""
        shares = chunk.gather(self.shares)
        return (1 / shares - 1).where(shares > 0, 0)


@dataclass(frozen=True, eq=False)
class Observed:
    """Observations that a closure knows.

    Attributes:
        update: maps D_0 `[B, *event]`, z - y of the folded elements (0 elsewhere; None if none is),
            σ `[B]` and the product with V to D - D_0.
        event_shape: the shape of a state.
        least: the least level of each element, `[N]`.
        values: y of the folded elements, float64 `[n or 1, N]`.
        variances: their R, infinite for others; None if none is folded.
    """

    update: Callable[..., Tensor]
    event_shape: Shape
    least: Tensor
    values: Tensor | None
    variances: Tensor | None

    __repr__ = by_field

    def at(self, u: Tensor, sigma: Tensor) -> Folded | None:
        """What local posteriors see, or None if no element is folded."""
        if self.values is None or self.variances is None or len(self.values) not in (1, len(u)):
            return None  # nothing, or of another batch: the update says so
        y, noise = self.values.to(u.device), self.variances.to(u.device)
        squared, seen = sigma.double()[:, None] ** 2, noise < inf
        noise = noise.where(seen, 0)  # gradients of ∞ / ∞, and of √0 below, are NaN even unused
        total = (squared + noise).clamp(min=1e-300)
        shares = (noise / total).where(seen, 1)
        pulls = ((y - u) / total).where(seen & (squared + noise > 0), 0)
        least = self.least.to(u.device)
        roots = shares.where(shares > 0, 1).sqrt().where(shares > 0, 0)
        levels = torch.maximum(sigma[:, None] * roots, least)
        exact = levels < KNOWN / LEAST * least
        return Folded((u + squared * pulls).to(u), levels.to(u), shares, pulls, exact & seen)

    def joined(
        self, u: Tensor, sigma: Tensor, score: Tensor, means: Tensor | None, solve: Solve
    ) -> Tensor:
        """The score with observations from that without, and from Σ_r c_r (D_r - A_r u) / σ²."""
        squared, solve = sigma.double()[:, None] ** 2, solve.for_many()
        replaced = None
        if means is not None and self.values is not None and self.variances is not None:
            away = u + squared * means - self.values.to(u.device)
            known = self.variances.to(u.device) < inf
            replaced = away.where(known, 0).reshape(-1, *self.event_shape)

        def product(v: Tensor) -> Tensor:
            solved = solve(v.reshape(u.shape), sigma)
            return (squared.to(v) * solved).reshape(v.shape)

        denoised = (u + squared * score).reshape(-1, *self.event_shape)
        update = self.update(denoised, replaced, sigma, product).reshape(u.shape)
        return score + (update / squared).where(squared > 0, 0)


def foldable(batches: Iterable[Batch], variances: Tensor) -> Tensor | None:
    """R of the elements that can be folded, infinite for others; None if there are none.

    Elements that scores of one level per sample hold in one region are folded together, and so are
    all that are connected by such regions.

    Args:
        batches: the plan of a joint.
        variances: R of the observed elements, infinite for others: `[n or 1, N]`.
    """
    n, regions = variances.shape[1], 0
    places, elements = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for batch in batches:
        if not per_element(batch.score):
            index = batch.group.flat().numpy()
            places.append(np.repeat(np.arange(len(index)) + n + regions, index.shape[1]))
            elements.append(index.reshape(-1))
            regions += len(index)
    pairs = np.concatenate(places), np.concatenate(elements)
    edges = sparse.coo_array((np.ones(len(pairs[0]), bool), pairs), (n + regions, n + regions))
    _, found = sparse.csgraph.connected_components(edges, directed=False)
    labels = torch.from_numpy(found[:n]).long()
    labels = labels.to(variances.device).expand_as(variances)
    least, most = (
        torch.zeros_like(variances.new_empty(len(variances), n + regions))
        .scatter_reduce(1, labels, variances, kind, include_self=False)
        .gather(1, labels)
        for kind in ("amin", "amax")
    )
    found = variances.where(most <= least * (1 + 1e-9), inf)
    return found if (found < inf).any() else None
