"""Observations by matrices: one per axis (averages, blurs, mixtures of channels), or one for all.

Their pseudo-inverses are exact and computed once, from the singular values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from pgmdiff.conditioning.operators import Operator
from pgmdiff.errors import ShapeError
from pgmdiff.linalg import Shape, ordinary
from pgmdiff.text import described

__all__ = ["DenseOperator", "PerAxis", "block_average", "blur", "channel_mix"]


@dataclass(frozen=True, eq=False)
class PerAxis(Operator):
    """One matrix per axis: H = ⊗_a H_a, so H⁺ = ⊗_a H_a⁺.

    Args:
        event_shape: the shape of a state.
        matrices: the matrices `[observed, size]` by axis of the event; other axes are unchanged.
        tolerance: the share of the largest singular value below which one counts as 0.

    Raises:
        ShapeError: a matrix does not fit its axis, or is complex or not finite.
    """

    event_shape: Shape
    matrices: Mapping[int, Tensor]
    tolerance: float = 1e-10

    def __repr__(self) -> str:
        axes = f"axes={tuple(sorted(self.matrices))}"
        return described(self, self._shapes, axes, f"tolerance={self.tolerance:g}")

    def __post_init__(self) -> None:
        for axis, matrix in self.matrices.items():
            fits = 0 <= axis < len(self.event_shape) and matrix.ndim == 2
            if not fits or matrix.shape[1] != self.event_shape[axis] or matrix.is_complex():
                raise ShapeError(
                    f"PerAxis: expected a real matrix [observed, size] for an axis of the state "
                    f"{tuple(self.event_shape)}, got {tuple(matrix.shape)} for axis {axis}, of "
                    f"{matrix.dtype}."
                )
            if not matrix.isfinite().all():
                raise ShapeError(
                    f"PerAxis: the matrix of axis {axis} holds NaN or infinity. Remove it."
                )
        sizes = enumerate(self.event_shape)
        observed = (len(self.matrices[a]) if a in self.matrices else n for a, n in sizes)
        # The caller may change theirs.
        matrices = {axis: ordinary(matrix.clone()) for axis, matrix in self.matrices.items()}
        self._set(observed_shape=tuple(observed), matrices=matrices)

    @cached_property
    @torch.inference_mode(False)
    def _inverses(self) -> dict[int, Tensor]:
        items = self.matrices.items()
        return {a: torch.linalg.pinv(m.double(), rtol=self.tolerance) for a, m in items}

    def A(self, x: Tensor) -> Tensor:
        return _along(self._states(x), self.matrices)

    def A_adjoint(self, y: Tensor) -> Tensor:
        turned = {axis: matrix.T for axis, matrix in self.matrices.items()}
        return _along(self._observations(y), turned)

    def A_dagger(self, y: Tensor) -> Tensor:
        return _along(self._observations(y), self._inverses)


def _along(x: Tensor, matrices: Mapping[int, Tensor]) -> Tensor:
    """A matrix applied along each axis of the event."""
    for axis, matrix in matrices.items():
        x = (x.movedim(axis + 1, -1) @ matrix.to(x).T).movedim(-1, axis + 1)
    return x


def _spatial(shape: Shape, axes: Sequence[int] | None) -> tuple[int, ...]:
    """The axes given; by default all but the first, the channels, or the only one."""
    return tuple(range(min(1, len(shape) - 1), len(shape))) if axes is None else tuple(axes)


def block_average(
    event_shape: Sequence[int],
    factor: int | Sequence[int],
    axes: Sequence[int] | None = None,
) -> PerAxis:
    """Means of blocks along each axis: the observation of super-resolution.

    Args:
        event_shape: the shape of a state.
        factor: the length of a block, or one for each axis, without `axes` of the last ones: (2, 4)
            makes blocks of 2 × 4.
        axes: the axes to average along; None for all but the first, the channels, or the only one.

    Raises:
        ShapeError: the blocks do not fit an axis, or there are not as many factors as axes.
    """
    shape = tuple(event_shape)
    if isinstance(factor, Sequence):
        factors, last = tuple(factor), range(len(shape))[-len(factor) :]
        chosen = tuple(last if axes is None else axes)
    else:
        chosen = _spatial(shape, axes)
        factors = (factor,) * len(chosen)
    if len(factors) != len(chosen):
        raise ShapeError(
            f"block_average: expected a factor for each of the axes {chosen} of the state {shape}, "
            f"got {factors}. Give as many, or one number for all."
        )
    matrices = {}
    for axis, side in zip(chosen, factors, strict=True):
        if side < 1 or shape[axis] % side:
            raise ShapeError(
                f"block_average: blocks of {side} do not fit axis {axis} of size {shape[axis]}. "
                "Choose a divisor of the size."
            )
        eye = torch.eye(shape[axis] // side, dtype=torch.float64)
        matrices[axis] = eye.repeat_interleave(side, dim=1) / side
    return PerAxis(shape, matrices)


def blur(
    event_shape: Sequence[int],
    kernel: Tensor,
    axes: Sequence[int] | None = None,
    *,
    periodic: bool = False,
    tolerance: float = 1e-6,
) -> PerAxis:
    """Convolution with one kernel along each axis; outside an open axis the state counts as 0.

        y_i = Σ_j k_j u_{i + j - half}

    as in PyTorch's convolutions: the kernel is not mirrored.

    Args:
        event_shape, axes: as for `block_average`.
        kernel: the kernel, `[odd]`, centred.
        periodic: whether the axes wrap around.
        tolerance: the share of the largest singular value below which one counts as 0, because
            noiseless data does not determine what a blur has all but removed.

    Raises:
        ShapeError: the kernel has an even length, or is longer than an axis.
    """
    shape, half = tuple(event_shape), len(kernel) // 2
    chosen = _spatial(shape, axes)
    if kernel.ndim != 1 or len(kernel) % 2 == 0 or any(len(kernel) > shape[a] for a in chosen):
        raise ShapeError(
            f"blur: expected a kernel of odd length, no longer than its axes, got "
            f"{tuple(kernel.shape)} for a state of {shape}. Shorten it, or append a 0."
        )
    matrices = {}
    for axis in chosen:
        eye = torch.eye(shape[axis], dtype=torch.float64)
        rolled = [w * eye.roll(k - half, dims=1) for k, w in enumerate(kernel.double())]
        matrix = torch.stack(rolled).sum(dim=0)
        if not periodic:
            matrix = matrix.tril(half).triu(-half)  # without what wraps around
        matrices[axis] = matrix
    return PerAxis(shape, matrices, tolerance)


def channel_mix(event_shape: Sequence[int], weights: Tensor) -> PerAxis:
    """Mixtures of channels, the first axis; `[[0.3, 0.59, 0.11]]` makes grey of colour.

    Args:
        event_shape: the shape of a state, `(channels, *places)`.
        weights: the weights, `[observed, channels]`.
    """
    return PerAxis(tuple(event_shape), {0: weights})


@dataclass(frozen=True, eq=False)
class DenseOperator(Operator):
    """One matrix that acts on the flattened state.

    Args:
        matrix: the matrix, `[M, N]`.
        event_shape: the shape of a state of N elements.
        tolerance: the share of the largest singular value below which one counts as 0.

    Raises:
        ShapeError: the matrix does not fit the state, or is complex or not finite.
    """

    matrix: Tensor
    event_shape: Shape
    tolerance: float = 1e-10

    def __repr__(self) -> str:
        return described(self, self._shapes, f"tolerance={self.tolerance:g}")

    def __post_init__(self) -> None:
        fits = self.matrix.ndim == 2 and self.matrix.shape[1] == prod(self.event_shape)
        if not fits or self.matrix.is_complex():
            raise ShapeError(
                f"DenseOperator: expected a real matrix [M, {prod(self.event_shape)}] for a state "
                f"of {tuple(self.event_shape)}, got {tuple(self.matrix.shape)} of "
                f"{self.matrix.dtype}. Stack real and imaginary parts."
            )
        if not self.matrix.isfinite().all():
            raise ShapeError("DenseOperator: the matrix holds NaN or infinity. Remove it.")
        self._set(observed_shape=(len(self.matrix),), matrix=ordinary(self.matrix.clone()))

    @cached_property
    @torch.inference_mode(False)
    def _inverse(self) -> Tensor:
        inverse: Tensor = torch.linalg.pinv(self.matrix.double(), rtol=self.tolerance)
        return inverse

    def A(self, x: Tensor) -> Tensor:
        return self._states(x).reshape(len(x), prod(self.event_shape)) @ self.matrix.to(x).T

    def A_adjoint(self, y: Tensor) -> Tensor:
        return (self._observations(y) @ self.matrix.to(y)).reshape(len(y), *self.event_shape)

    def A_dagger(self, y: Tensor) -> Tensor:
        return (self._observations(y) @ self._inverse.to(y).T).reshape(len(y), *self.event_shape)
