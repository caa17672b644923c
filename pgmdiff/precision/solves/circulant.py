"""Solves by Fourier transforms, where P repeats with the stride of periodic windows."""

from collections.abc import Sequence
from math import gcd, prod

import numpy as np
import torch
from torch import Tensor

from pgmdiff.graphs.groups import AxisWindows, WindowGroup
from pgmdiff.precision.precision import ComposedPrecision
from pgmdiff.precision.solves.base import SMALL, SPARSE_ENTRIES, Solve, indefinite

__all__ = ["Circulant", "shifts"]


class Circulant(Solve):
    """P that repeats with the strides of periodic windows: one small block per frequency.

    The state is cut into blocks, one per shift, each as large as the strides. P depends on the
    difference of two shifts only, so that a Fourier transform over the shifts makes it block
    diagonal.

    Args:
        precision: P of windows that share their covariances.
        periods: for every axis, how many shifts leave P alike; see `shifts`.

    Raises:
        IndefiniteError: P is not positive definite.
    """

    def __init__(self, precision: ComposedPrecision, periods: Sequence[int]) -> None:
        shape = precision.graph.event_shape
        self.periods = tuple(periods)
        strides = [n // k for n, k in zip(shape, periods, strict=True)]

        def split(elements: Tensor) -> tuple[Tensor, Tensor]:
            """The block of every element, `[axes, ...]`, and its flattened place in the block."""
            places = np.stack(np.unravel_index(elements.numpy(), shape))
            sides = np.reshape(strides, (-1, *[1] * elements.ndim))
            within = np.ravel_multi_index(tuple(places % sides), strides)
            return torch.from_numpy(places // sides), torch.from_numpy(within)

        def shift(blocks: Tensor) -> Tensor:
            """Blocks `[axes, ...]` flattened, on the torus of shifts."""
            flat = np.ravel_multi_index(tuple(blocks.numpy()), self.periods, mode="wrap")
            return torch.as_tensor(flat)

        elements = torch.arange(prod(shape))
        blocks, within = split(elements)
        self.order = torch.empty(prod(self.periods), prod(strides), dtype=torch.int64)
        self.order[shift(blocks), within] = elements

        kernel = torch.zeros(len(self.order), *[prod(strides)] * 2, dtype=torch.float64)
        for part in precision.blocks:
            group = part.group
            assert isinstance(group, WindowGroup)
            # One window per orbit of shifts: those that start within the first block.
            sides = zip(group.axes, group.places, self.periods, strict=True)
            first = [place < len(axis.starts) // k for axis, place, k in sides]
            some = group.select(np.flatnonzero(np.logical_and.reduce(first)))
            blocks, within = split(some.flat())
            lag = shift(blocks[..., :, None] - blocks[..., None, :])
            values = (part.counts[0] * part.precisions.dense()).expand(len(some), -1, -1)
            kernel.index_put_((lag, within[:, :, None], within[:, None]), values, accumulate=True)

        axes = list(range(len(shape)))
        frequencies = torch.fft.fftn(kernel.reshape(*self.periods, *kernel.shape[1:]), dim=axes)
        self.values, self.vectors = torch.linalg.eigh(frequencies.flatten(0, len(shape) - 1))
        if not self.values.min() > 0:
            raise indefinite(precision, self.values.min().item())

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        if not len(b):
            return torch.zeros_like(b)
        wave = torch.complex64 if b.dtype == torch.float32 else torch.complex128
        values, vectors, order = self.placed(
            b, lambda device, dtype: (
                self.values.to(device, dtype), self.vectors.to(device, wave), self.order.to(device)
            )
        )  # fmt: skip
        blocks = b[:, order].reshape(len(b), *self.periods, -1)
        axes = list(range(1, 1 + len(self.periods)))
        waves = torch.fft.fftn(blocks, dim=axes).reshape(len(b), *order.shape).transpose(0, 1)
        along = (waves @ vectors.conj()) / (1 + sigma[:, None] ** 2 * values[:, None])
        solved = (along @ vectors.mT).transpose(0, 1).reshape(blocks.shape)
        back = torch.fft.ifftn(solved, dim=axes).real.reshape(len(b), -1)
        return torch.zeros_like(b).index_copy(1, order.reshape(-1), back)

    def log_determinant(self, sigma: Tensor) -> Tensor:
        ratio = sigma.double()[:, None] ** 2 * self.values.reshape(-1).to(sigma.device)
        return torch.log1p(ratio).sum(dim=1)


def shifts(precision: ComposedPrecision) -> tuple[int, ...] | None:
    """How many shifts of every axis leave P alike; None if none do, or the blocks are too large."""
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
    """How many shifts carry the windows of an axis into themselves: all, if equidistant, or one."""
    n = len(axis.starts)
    if axis.size % n or not (np.diff(axis.starts) % axis.size == axis.size // n).all():
        return 1
    return n
