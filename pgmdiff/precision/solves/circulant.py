"""P that repeats with the stride of periodic windows, solved by Fourier transforms."""

from collections.abc import Sequence
from math import gcd, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgmdiff.graphs.groups import AxisWindows, WindowGroup
from pgmdiff.precision.precision import ComposedPrecision
from pgmdiff.precision.solves.base import SMALL, SPARSE_ENTRIES, Solve, indefinite

__all__ = ["Circulant", "shifts"]


class Circulant(Solve):
    """P that repeats with the strides of periodic windows: a small block a frequency.

    Args:
        precision: of windows that share their covariances.
        periods: how many shifts leave P alike, an axis; see `shifts`.
    """

    def __init__(self, precision: ComposedPrecision, periods: Sequence[int]) -> None:
        shape = precision.graph.event_shape
        self.periods = tuple(periods)
        self.strides = tuple(n // k for n, k in zip(shape, periods, strict=True))
        elements = torch.arange(prod(shape))
        block, within = self._split(elements, shape)
        self.order = torch.empty(prod(self.periods), prod(self.strides), dtype=torch.int64)
        self.order[block, within] = elements
        kernel = self._kernel(precision).reshape(*self.periods, *[prod(self.strides)] * 2)
        frequencies = torch.fft.fftn(kernel, dim=self._axes)
        self.values, self.vectors = torch.linalg.eigh(frequencies.flatten(0, len(shape) - 1))
        if self.values.min() <= 0:
            raise indefinite(precision, self.values.min().item())
        self._placed: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def _axes(self) -> list[int]:
        return list(range(len(self.periods)))

    def _split(self, elements: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Which block an element lies in, and where: both flattened."""
        block, within = torch.zeros_like(elements), torch.zeros_like(elements)
        rest, sides = elements, list(zip(shape, self.periods, self.strides, strict=True))
        scale = [1, 1]
        for size, period, stride in reversed(sides):
            place, rest = rest % size, rest // size
            block, within = (
                block + scale[0] * (place // stride),
                within + scale[1] * (place % stride),
            )
            scale = [scale[0] * period, scale[1] * stride]
        return block, within

    def _kernel(self, precision: ComposedPrecision) -> Tensor:
        """P[(k, i), (0, j)] for every block k and places i, j: `[shifts, b, b]`."""
        b = prod(self.strides)
        kernel = torch.zeros(prod(self.periods), b, b, dtype=torch.float64)
        for part in precision.blocks:
            group = part.group
            assert isinstance(group, WindowGroup)
            first = group.select(np.flatnonzero(self._representative(group)))
            index = first.indices(0, len(first)).reshape(len(first), -1)
            block, within = self._split(index, precision.graph.event_shape)
            lag = self._difference(block[:, :, None], block[:, None])
            rows, columns = within[:, :, None], within[:, None]
            values = (part.counts[0] * part.precisions.dense()).expand(len(first), -1, -1)
            kernel.index_put_((lag, rows, columns), values, accumulate=True)
        return kernel

    def _representative(self, group: WindowGroup) -> "np.ndarray":
        """Which windows are not shifts of an earlier one."""
        counts = [len(axis.starts) for axis in group.axes]
        places = np.unravel_index(group.rows.numpy(), counts)
        earliest = (p < n // k for p, n, k in zip(places, counts, self.periods, strict=True))
        chosen: np.ndarray = np.logical_and.reduce(list(earliest))
        return chosen

    def _difference(self, a: Tensor, b: Tensor) -> Tensor:
        """Block a minus block b, on the torus of shifts, flattened."""
        total, scale = torch.zeros_like(a - b), 1
        for period in reversed(self.periods):
            total = total + scale * ((a % period - b % period) % period)
            a, b, scale = a // period, b // period, scale * period
        return total

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        if not len(b):
            return torch.zeros_like(b)
        values, vectors, order = self._like(b)
        blocks = b[:, order].reshape(len(b), *self.periods, -1)
        axes = [axis + 1 for axis in self._axes]
        waves = torch.fft.fftn(blocks, dim=axes).reshape(len(b), *order.shape).transpose(0, 1)
        along = (waves @ vectors.conj()) / (1 + sigma[:, None] ** 2 * values[:, None])
        solved = (along @ vectors.mT).transpose(0, 1).reshape(blocks.shape)
        back = torch.fft.ifftn(solved, dim=axes).real.reshape(len(b), -1)
        return torch.zeros_like(b).index_copy(1, order.reshape(-1), back)

    def log_determinant(self, sigma: Tensor) -> Tensor:
        ratio = sigma.double()[:, None] ** 2 * self.values.reshape(-1).to(sigma.device)
        return torch.log1p(ratio).sum(dim=1)

    def _like(self, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key = (b.device, b.dtype)
        if key not in self._placed:
            complex_dtype = torch.complex64 if b.dtype == torch.float32 else torch.complex128
            with torch.inference_mode(False):
                self._placed[key] = (
                    self.values.to(*key),
                    self.vectors.to(b.device, complex_dtype),
                    self.order.to(b.device),
                )
        return self._placed[key]


def shifts(precision: ComposedPrecision) -> tuple[int, ...] | None:
    """How many shifts of every axis leave P alike; None: none do, or the blocks are too large."""
    groups = [block.group for block in precision.blocks]
    windows = [g for g in groups if isinstance(g, WindowGroup) and g.uniform]
    alike = all(block.precisions.shared for block in precision.blocks)
    if len(windows) < len(groups) or not windows or not alike:
        return None
    shape = precision.graph.event_shape
    periods = tuple(gcd(*(_period(g.axes[a]) for g in windows)) for a in range(len(shape)))
    block = prod(shape) // prod(periods)
    fits = block <= SMALL and block * prod(shape) <= SPARSE_ENTRIES
    return periods if prod(periods) > 1 and fits else None


def _period(axis: AxisWindows) -> int:
    """How many shifts carry the windows of an axis into themselves."""
    n = len(axis.starts)
    if axis.size % n or not (np.diff(axis.starts) % axis.size == axis.size // n).all():
        return 1
    return n
