"""The local denoised values of regions, before they are composed."""

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from pgmdiff.composition.joint import Joint
from pgmdiff.composition.rules import WeightedSum
from pgmdiff.errors import ShapeError, shape_text
from pgmdiff.graphs.regions import Condition, RegionGraph
from pgmdiff.linalg import Floats, rows

__all__ = ["checked_states", "local_denoised"]


@dataclass(frozen=True)
class Everything(WeightedSum):
    """Evaluates every region that is outer or counted, for `local_denoised`."""

    def weights(self, graph: RegionGraph) -> list[Floats]:
        return [((g.counts != 0) | g.outer).astype(float) for g in graph.groups]


def checked_states(what: str, data: Tensor, joint: Joint) -> Tensor:
    """Clean states `[n, N]`, or a `ShapeError`."""
    if data.ndim == 0 or len(data) < 4 or tuple(data.shape[1:]) != joint.event_shape:
        raise ShapeError(
            f"{what}: expected data {shape_text('n >= 4', joint.event_shape)}, got "
            f"{tuple(data.shape)}."
        )
    if not data.is_floating_point() or not data.isfinite().all():
        raise ShapeError(
            f"{what}: expected finite floating-point data, got {data.dtype}. Convert it to the "
            "units the models know, and remove states that are not finite."
        )
    return rows(data)


@torch.no_grad()
def local_denoised(
    joint: Joint, noisy: Tensor, sigma: float, condition: Condition
) -> dict[Hashable, Tensor]:
    """The denoised values of the noisy states by every region's own model, `[n, d]`, by name.

    The condition is one per state, as `flattened` makes it.
    """
    parts: dict[Hashable, list[Tensor]] = {}
    sigmas = noisy.new_full((len(noisy),), sigma)
    for chunk, scores in joint.evaluate(noisy, sigmas, condition=condition, finite=True):
        denoised = chunk.gather(noisy) + sigma**2 * scores
        for row in range(chunk.stop - chunk.start):
            name = chunk.batch.group.name(chunk.start + row)
            parts.setdefault(name, []).append(denoised[:, row])
    return {name: torch.cat(samples) for name, samples in parts.items()}
