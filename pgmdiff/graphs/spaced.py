"""Windows at equal distances, which are read and added as views of the state, without indices."""

from dataclasses import dataclass, replace
from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor

from pgmdiff.linalg import Ints, Shape
from pgmdiff.text import by_field

__all__ = ["Spaced", "SpacedWindows"]

VIEW = 2048
"""Values that an index reads or adds in about the time in which one view is made (on a CPU)."""


@dataclass(frozen=True)
class Spaced:
    """Windows along one axis at equal distances.

    Args:
        size: number of places along the axis.
        length: of every window.
        start, step, count: where the first begins, how far the next one is, and how many there are;
            what runs past the end wraps around.
    """

    size: int
    length: int
    start: int
    step: int
    count: int

    @classmethod
    def of(cls, size: int, length: int, starts: Ints) -> "Spaced | None":
        """The windows with these first places; None if their distances differ."""
        steps = np.diff(starts) % size
        if len(starts) == 0 or (steps != steps[:1]).any():
            return None
        step = int(steps[0]) if len(steps) else length
        each = cls(size, length, int(starts[0]), step, len(starts))
        return each if step > 0 and each.wrapped <= size else None

    @property
    def wrapped(self) -> int:
        """How many places the last window goes beyond the end."""
        return max(0, self.start + (self.count - 1) * self.step + self.length - self.size)

    @property
    def phases(self) -> int:
        """Every how many windows two do not overlap."""
        return min(self.count, -(-self.length // self.step))

    def view(self, x: Tensor, axis: int, phase: int = 0, every: int = 1) -> Tensor:
        """Every so many windows, from one on: their number at `axis`, the length as a last axis."""
        step, count = self.step * every, -(-(self.count - phase) // every)
        x = x.narrow(axis, self.start + phase * self.step, (count - 1) * step + self.length)
        return x.unfold(axis, self.length, step)


@dataclass(frozen=True, repr=False)
class SpacedWindows:
    """Windows of a tensor, a product of spaced windows per axis.

    Args:
        axes: the windows of every axis of the state.
    """

    axes: tuple[Spaced, ...]

    __repr__ = by_field

    @classmethod
    def of(cls, index: Tensor, n_elements: int) -> "SpacedWindows | None":
        """Regions `[n, *shape]` if they are spaced pieces of consecutive elements, or None."""
        rows = index.reshape(len(index), prod(index.shape[1:])).cpu()
        each = Spaced.of(n_elements, rows.shape[1], rows[:, 0].numpy()) if rows.numel() else None
        if each is None or each.wrapped:
            return None
        same = torch.equal(rows, rows[:, :1] + torch.arange(rows.shape[1]))
        return cls((each,)) if same else None

    def part(self, start: int, stop: int) -> "SpacedWindows | None":
        """Windows start to stop, in order; None if they are no product."""
        counts = [each.count for each in self.axes]
        if stop - start == prod(counts):
            return self
        varying = [axis for axis, count in enumerate(counts) if count > 1]
        if len(varying) != 1:
            return None
        axes, each = [*self.axes], self.axes[varying[0]]
        first = each.start + start * each.step
        axes[varying[0]] = replace(each, start=first, count=stop - start)
        return SpacedWindows(tuple(axes))

    def pay(self, n_values: int) -> bool:
        """Whether views are faster than an index for so many values; `add` makes several."""
        return n_values >= VIEW * prod(each.phases for each in self.axes)

    @property
    def sizes(self) -> Shape:
        """The shape of the state."""
        return tuple(each.size for each in self.axes)

    def gather(self, u: Tensor, own: bool = False) -> Tensor:
        """The windows of u `[B, N]`: `[B, n, d]`, maybe a view unless they are to `own` memory."""
        x = u.reshape(len(u), *self.sizes)
        for axis, each in enumerate(self.axes, 1):
            if each.wrapped:
                x = torch.cat([x, x.narrow(axis, 0, each.wrapped)], dim=axis)
            x = each.view(x, axis)
        n, x = len(self.axes), x.clone(memory_format=torch.contiguous_format) if own else x
        return x.reshape(len(u), prod(x.shape[1 : n + 1]), prod(x.shape[n + 1 :]))

    def add(self, total: Tensor, values: Tensor, weight: float) -> None:
        """Adds the windows' values `[B, n, d]`, times a weight, to total `[B, N]`, in place."""
        counts, lengths = zip(*((each.count, each.length) for each in self.axes), strict=True)
        values = values.reshape(len(values), *counts, *lengths)
        state = total.view(len(total), *self.sizes)
        longer = [each.size + each.wrapped for each in self.axes]
        target = state if longer == [*self.sizes] else state.new_zeros(len(total), *longer)
        for phase in product(*(range(each.phases) for each in self.axes)):
            view, chosen = target, values
            for axis, (each, first) in enumerate(zip(self.axes, phase, strict=True), 1):
                view = each.view(view, axis, first, each.phases)
                chosen = chosen[(slice(None),) * axis + (slice(first, None, each.phases),)]
            view.add_(chosen, alpha=weight)
        if target is not state:
            for axis, each in enumerate(self.axes, 1):
                if each.wrapped:
                    target.narrow(axis, 0, each.wrapped).add_(
                        target.narrow(axis, each.size, each.wrapped)
                    )
                    target = target.narrow(axis, 0, each.size)
            state.add_(target)
