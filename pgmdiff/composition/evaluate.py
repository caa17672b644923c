"""Evaluating regions: what one model call sees, and how its values return to the state."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from pgmdiff.composition.fields import Field, placed, respaced
from pgmdiff.composition.nodewise import PerNode
from pgmdiff.composition.plan import Batch, map_tensors
from pgmdiff.errors import ScoreError, ShapeError, shape_text
from pgmdiff.graphs.groups import CHUNK
from pgmdiff.graphs.regions import Condition
from pgmdiff.graphs.spaced import SpacedWindows
from pgmdiff.linalg import Shape, kind
from pgmdiff.text import brief, by_field

__all__ = ["Chunk", "Evaluate", "Tilt", "flattened"]


@dataclass(frozen=True, eq=False)
class Chunk:
    """What one model call sees: some regions of a batch, on some samples.

    Attributes:
        batch, start, stop: the regions are rows start to stop of `batch.group`.
        samples: which samples.
        spaced: the regions as windows at equal distances, if they are.
        entries: the batch entry of every row of the model call, `[samples * regions]`, if known.
    """

    batch: Batch
    start: int
    stop: int
    samples: slice
    spaced: SpacedWindows | None = None
    entries: Tensor | None = None
    _respaced: dict[Shape, Tensor] = field(default_factory=dict, repr=False)

    __repr__ = by_field

    @cached_property
    def index(self) -> Tensor:
        """The elements of the regions, int64 `[regions * d]`."""
        with torch.inference_mode(False):
            return self.batch.group.indices(self.start, self.stop).reshape(-1)

    def kept(self) -> "Chunk":
        """The same for many calls, with `entries`."""
        first, last, device = self.samples.start, self.samples.stop, self.batch.weights.device
        entries = torch.arange(first, last, device=device).repeat_interleave(self.sizes[1])
        return replace(self, entries=entries)

    @cached_property
    def sizes(self) -> Shape:
        """The shape of the regions' values: samples, regions, d."""
        n = self.samples.stop - self.samples.start
        return n, self.stop - self.start, prod(self.batch.group.shape)

    @cached_property
    def shape(self) -> Shape:
        """The shape of what the model sees, `[samples * regions, *shape]`."""
        return self.sizes[0] * self.sizes[1], *self.batch.group.shape

    @property
    def name(self) -> Hashable:
        """The name of the first region."""
        return self.batch.group.name(self.start)

    @property
    def weights(self) -> Tensor:
        """The rule's weights of the regions, `[regions]`."""
        return self.batch.weights[self.start : self.stop]

    @property
    def places(self) -> slice:
        """Where the regions' values stand among those of all batches."""
        size = prod(self.batch.group.shape)
        return slice(self.batch.offset + self.start * size, self.batch.offset + self.stop * size)

    def own(self, values: Tensor) -> Tensor:
        """The values of these regions and samples, `[samples, regions, d]`, as a view.

        The values of all regions are `[B, M]`, batch after batch.
        """
        rows = values[self.samples, self.places]
        return rows.reshape(len(rows), self.stop - self.start, -1)

    def gather(self, u: Tensor, shape: Shape | None = None, own: bool = False) -> Tensor:
        """A_r u of the regions and samples for u `[B, N]`: `[samples, regions, d]`, or a shape.

        It may be a view of u unless it is to `own` its memory.
        """
        rows = u if self.sizes[0] == u.shape[0] else u[self.samples]
        if self.spaced is not None and not u.requires_grad:  # vmap of its gradient is slow
            values = self.spaced.gather(rows, own)
        else:
            values = rows.index_select(1, self.index)
        return values.reshape(shape or self.sizes)

    def crop(self, event: Shape, like: Tensor, word: str, field: Field) -> Tensor:
        """A placed field on these regions and samples: `[samples * regions, *channels, *shape]`.

        It depends on the event shape that fields have and the dtype of another tensor; errors name
        its keyword.
        """
        values, split = field.values, field.values.ndim - len(event)
        channels, shape = values.shape[1:split], tuple(values.shape[split:])
        index = self._respaced.get(shape)
        if index is None:
            with torch.inference_mode(False):  # what is kept must serve autograd later
                index, places = self.index, self.batch.places
                index = index if places is None else places[index.cpu()].to(index.device)
                index = index.reshape(self.stop - self.start, *self.batch.group.shape)
                index = respaced(f"Joint: the condition {word!r}", index, event, field)
            if index.numel() <= CHUNK:
                self._respaced[shape] = index
        values = values if len(values) == 1 else values[self.samples]
        rows = values.reshape(len(values) * prod(channels), -1).index_select(1, index.flatten())
        rows = rows.reshape(len(values), prod(channels), len(index), -1).transpose(1, 2)
        rows = rows.expand(self.samples.stop - self.samples.start, -1, -1, -1)
        rows = rows.reshape(-1, *channels, *index.shape[1:])
        return rows.to(like.dtype) if rows.is_floating_point() else rows

    def told(self, word: str, given: PerNode, own: Any) -> Tensor | None:
        """A condition per node for these regions and samples, `[samples * regions, ...]`.

        Regions that are not among its nodes keep their own; it is None if no region is. Errors
        name the keyword.

        Raises:
            ShapeError: regions that are not among its nodes have nothing of this shape and dtype.
        """
        known = self.batch.told(word, given.nodes)
        if not known.some:
            return None
        places, values = known.places[self.start : self.stop], given.values[self.samples]
        rows = values.index_select(1, places.clamp(min=0)).flatten(0, 1)
        if known.all:
            return rows
        like = isinstance(own, Tensor) and own.shape == rows.shape
        if not (like and kind(own.dtype) <= kind(rows.dtype)):
            found = (int(mask.nonzero()[0]) for mask in (known.places >= 0, known.places < 0))
            first, other = map(self.batch.group.name, found)
            told, had = (
                f"{tuple(t.shape[1:])} {t.dtype}" if isinstance(t, Tensor) else brief(t)
                for t in (rows, own)
            )
            raise ShapeError(
                f"Joint: the per_node condition {word!r} has values {told} for node {first!r}, "
                f"but node {other!r}, which the same calls evaluate, has {had}. Name that node, "
                "too, or give its condition, or null_condition= of compose, in the same form."
            )
        named = (places >= 0).repeat(self.sizes[0]).reshape(-1, *[1] * (rows.ndim - 1))
        return torch.where(named, rows, own.to(rows.dtype))

    def add(self, total: Tensor, values: Tensor) -> None:
        """Adds w_r A_rᵀ values_r to the samples of `total` `[B, N]`, in place.

        The values are those of the regions, `[samples, regions, d]`.
        """
        whole = values.shape[0] == total.shape[0]  # len() of a tensor takes a microsecond
        rows, weight = total if whole else total[self.samples], 1.0
        if self.batch.weight is None:
            values = values * self.weights[:, None]
        else:
            weight = self.batch.weight
        if self.spaced is not None and not values.requires_grad:
            self.spaced.add(rows, values, weight)
        else:  # with alpha index_add_ is slow
            values = -values if weight == -1 else values if weight == 1 else weight * values
            rows.index_add_(1, self.index, values.flatten(1))


Tilt: TypeAlias = Callable[[Chunk], tuple[Tensor, Tensor]]
"""Maps a chunk to shifts, as `Chunk.own` has them, and precisions λ `[samples, regions]`."""


class Evaluate(Protocol):
    """Calls the models of a joint's regions, a chunk at a time."""

    def __call__(
        self, u: Tensor, sigma: Tensor, *, density: bool = False, tilt: Tensor | Tilt | None = None
    ) -> Iterator[tuple[Chunk, Tensor]]:
        """Every chunk with its scores s_r(A_r u + σ² tilt_r, σ), for u `[B, N]`.

        Sigma is `[B]`, or `[B, N]`, of which scores that are not `per_element` receive the first
        element's of a region. The tilt is `[B, M]`, region after region, see `Chunk.own`; 0 if
        None. With precisions a region's level is (σ⁻² + λ_r)^-½ in place of σ.

        Scores are `[samples, regions, d]`. With `density` their place is taken by the log-densities
        log q_σ(A_r u), `[samples, regions]`.
        """


def flattened(
    event: Shape, u: Tensor, sigma: Tensor | float, condition: Condition
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """The state `[B, N]`, σ `[B]` and conditions `[B, ...]` of any batch shape.

    Args:
        event: the event shape of the state.
        u: `[*batch, *event]`.
        sigma: one number, or of the batch shape.
        condition: pytrees of tensors and fields that start with the batch shape.

    Raises:
        ShapeError: one of them has another shape, or the state is neither float32 nor float64.
        ScoreError: sigma is a negative number or NaN.
    """
    if not isinstance(u, Tensor):
        raise ShapeError(
            f"Joint: expected the state as a tensor, got {type(u).__name__}. Convert it with "
            "torch.as_tensor."
        )
    n_batch = u.ndim - len(event)
    if n_batch < 0 or tuple(u.shape[n_batch:]) != event or not u.is_floating_point():
        raise ShapeError(
            f"Joint: expected a floating-point state {shape_text('*batch', event)}, got "
            f"{tuple(u.shape)} of {u.dtype}. Reshape it, or pack a factor graph's variables with "
            f"graph.pack.{_unbatched(event) if n_batch <= 0 else ''}"
        )
    if u.dtype not in (torch.float32, torch.float64):  # sums of +1 and -1 would lose all digits
        raise ShapeError(
            f"Joint: expected a float32 or float64 state, got one of {u.dtype}. Give u.float(), "
            "and cast inside the model."
        )
    batch = u.shape[:n_batch]
    size = prod(batch)
    if isinstance(sigma, int | float):
        if not sigma >= 0:  # a tensor's values may be on a device
            raise ScoreError(f"Joint: expected a noise level sigma >= 0, got {sigma!r}.")
        sigma = u.new_full((size,), sigma)
    else:
        sigma = torch.as_tensor(sigma, dtype=u.dtype, device=u.device)
        if sigma.ndim and sigma.shape != batch:
            hint = _unbatched(event) if n_batch == 0 else ""
            if tuple(sigma.shape) == tuple(batch[:1]):
                hint = f" Axes before {tuple(event)} are those of a batch: a graph of states with "
                hint += f"channels has their axis, {(*batch[1:], *event)}."
            raise ShapeError(
                f"Joint: expected sigma as one number or of the batch shape {tuple(batch)}, got "
                f"{tuple(sigma.shape)}.{hint}"
            )
        sigma = sigma if sigma.ndim == 1 else sigma.expand(batch).reshape(size)

    def flat(leaf: Tensor) -> Tensor:
        if leaf.shape[:n_batch] != batch:
            raise ShapeError(
                "Joint: conditions given at call time start with the batch shape "
                f"{tuple(batch)}, got a tensor of {tuple(leaf.shape)}. Expand it, or give it per "
                "node to compose(conditions=)."
            )
        return leaf.reshape(size, *leaf.shape[n_batch:])

    def flat_field(word: str, given: Field | PerNode) -> Field | PerNode:
        if isinstance(given, PerNode):
            if given is not condition[word]:
                raise ShapeError(
                    f"Joint: the condition {word!r} holds {given!r} in {brief(condition[word])}. "
                    "Give per_node conditions as keywords of their own."
                )
            return PerNode(given.nodes, flat(given.values).to(u.device))
        made = placed(f"Joint: the condition {word!r}", given, event, tuple(batch))
        return Field(made.values.to(u.device))

    return u.reshape(size, prod(event)), sigma, map_tensors(flat, condition, flat_field)


def _unbatched(event: Shape) -> str:
    """The remedy where a state may lack its batch axis."""
    start = f"samplers start from {shape_text('batch', event)}"
    return f" A state {tuple(event)} has no batch axis: {start}; one state is a batch, u[None]."
