"""Windows at equal distances, which are read and added as views of the state, without indices."""

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor

from pgmdiff.linalg import Ints, Shape
from pgmdiff.text import by_field

__all__ = ["Run", "Runs"]

VIEW = 2048
"""Values that an index reads or adds in about the time in which one view is made (on a CPU)."""


@dataclass(frozen=True)
class Run:
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
    def of(cls, size: int, length: int, starts: Ints) -> "Run | None":
        """The run of windows with these first places, or None."""
        steps = np.diff(starts) % size
        if len(starts) == 0 or (steps != steps[:1]).any():
            return None
        step = int(steps[0]) if len(steps) else length
        run = cls(size, length, int(starts[0]), step, len(starts))
        return run if step > 0 and run.wrapped <= size else None

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
class Runs:
    """Windows of a tensor, the product of a run per axis.

    Args:
        axes: the run of every axis of the state.
    """

    axes: tuple[Run, ...]

    __repr__ = by_field

    @classmethod
    def of(cls, index: Tensor, n_elements: int) -> "Runs | None":
        """The runs of regions `[n, *shape]` that are pieces of consecutive elements, or None."""
        rows = index.reshape(len(index), prod(index.shape[1:])).cpu()
        run = Run.of(n_elements, rows.shape[1], rows[:, 0].numpy()) if rows.numel() else None
        if run is None or run.wrapped:
            return None
        same = torch.equal(rows, rows[:, :1] + torch.arange(rows.shape[1]))
        return cls((run,)) if same else None

    def part(self, start: int, stop: int) -> "Runs | None":
        """The runs of some of the windows, in order; None if they are no product of runs."""
        counts = [run.count for run in self.axes]
        if stop - start == prod(counts):
            return self
        varying = [axis for axis, count in enumerate(counts) if count > 1]
        if len(varying) != 1:
            return None
        axes, run = [*self.axes], self.axes[varying[0]]
        axes[varying[0]] = Run(
            run.size, run.length, run.start + start * run.step, run.step, stop - start
        )
        return Runs(tuple(axes))

    def pay(self, n_values: int) -> bool:
        """Whether views are faster than an index for so many values; `add` makes several."""
        return n_values >= VIEW * prod(run.phases for run in self.axes)

    @property
    def sizes(self) -> Shape:
        """The shape of the state."""
        return tuple(run.size for run in self.axes)

    def gather(self, u: Tensor) -> Tensor:
        """The windows of u `[B, N]`: `[B, n, d]`."""
        x = u.reshape(len(u), *self.sizes)
        for axis, run in enumerate(self.axes, 1):
            if run.wrapped:
                x = torch.cat([x, x.narrow(axis, 0, run.wrapped)], dim=axis)
            x = run.view(x, axis)
        n = len(self.axes)
        return x.reshape(len(u), prod(x.shape[1 : n + 1]), prod(x.shape[n + 1 :]))

    def add(self, total: Tensor, values: Tensor, weight: float) -> None:
        """Adds the windows' values `[B, n, d]`, times a weight, to total `[B, N]`, in place."""
        counts, lengths = zip(*((run.count, run.length) for run in self.axes), strict=True)
        values = values.reshape(len(values), *counts, *lengths)
        state = total.view(len(total), *self.sizes)
        longer = [run.size + run.wrapped for run in self.axes]
        target = state if longer == [*self.sizes] else state.new_zeros(len(total), *longer)
        for phase in product(*(range(run.phases) for run in self.axes)):
            view, chosen = target, values
            for axis, (run, first) in enumerate(zip(self.axes, phase, strict=True), 1):
                view = run.view(view, axis, first, run.phases)
                chosen = chosen[(slice(None),) * axis + (slice(first, None, run.phases),)]
            view.add_(chosen, alpha=weight)
        if target is not state:
            for axis, run in enumerate(self.axes, 1):
                if run.wrapped:
                    target.narrow(axis, 0, run.wrapped).add_(
                        target.narrow(axis, run.size, run.wrapped)
                    )
                    target = target.narrow(axis, 0, run.size)
            state.add_(target)
