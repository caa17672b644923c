r"""Linear observations y = H u, with adjoints and Moore-Penrose pseudo-inverses H⁺.

    H H⁺ H = H,   H⁺ H H⁺ = H⁺,   H H⁺ and H⁺ H symmetric

Exact pseudo-inverses for masks, crops, products of one matrix an axis (block averages, separable
blurs, channel mixing), dense matrices and Fourier masks; `combined` has stacks, compositions and
whatever else is linear.

An operator is anything with `A`, `A_adjoint` and `A_dagger` on batches (deepinv's linear physics
have them); these are the ones we make.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pgmdiff.errors import ShapeError
from pgmdiff.reprs import described

__all__ = [
    "Crop",
    "DenseOperator",
    "FourierMask",
    "LinearOperator",
    "Mask",
    "Operator",
    "PerAxis",
    "block_average",
    "blur",
    "channel_mix",
    "masked",
]

Shape = tuple[int, ...]


@runtime_checkable
class LinearOperator(Protocol):
    """What conditioning needs of a linear observation: three maps of batches."""

    def A(self, x: Tensor) -> Tensor:
        """H x for x `[batch, *event]`: `[batch, *observed]`."""

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Hᵀ y for y `[batch, *observed]`: `[batch, *event]`."""

    def A_dagger(self, y: Tensor) -> Tensor:
        """H⁺ y, the shortest x that comes nearest to y: `[batch, *event]`."""


class Operator(ABC):
    """A linear observation of states of one event shape.

    Attributes:
        event_shape: of the states.
        observed_shape: of what is observed.
        widest: the widest dtype of states that its maps take.
    """

    event_shape: Shape
    observed_shape: Shape
    widest: torch.dtype = torch.float64

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """H x for x `[batch, *event]`."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """Hᵀ y for y `[batch, *observed]`."""

    @abstractmethod
    def A_dagger(self, y: Tensor) -> Tensor:
        """H⁺ y for y `[batch, *observed]`."""

    @property
    def _shapes(self) -> str:
        """What the repr says: from what to what."""
        return f"{tuple(self.event_shape)} → {tuple(self.observed_shape)}"

    def __matmul__(self, inner: "Operator") -> "Operator":
        """First `inner`, then this."""
        from pgmdiff.conditioning.combined import Composition

        return Composition(self, inner)


@dataclass(frozen=True, eq=False)
class Mask(Operator):
    """The elements where a mask is true, in place; the rest of y is 0.

    Args:
        mask: bool `[*event]`; such as `graph.mask(["x3", "x7"])` of named variables.

    Raises:
        ShapeError: the mask is not boolean.
    """

    mask: Tensor

    def __repr__(self) -> str:
        return described(self, f"event_shape={self.event_shape}", _observed(self.mask))

    def __post_init__(self) -> None:
        _check_mask("Mask", self.mask)

    @property
    def event_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.mask.shape)

    @property
    def observed_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.mask.shape)

    def A(self, x: Tensor) -> Tensor:
        return x.where(self.mask.to(x.device), 0)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.A(y)


def masked(observed: Tensor, operator: Any) -> tuple[Tensor, Any]:
    """An observation and its operator: a tensor is a `Mask`, and one number fits all it sees."""
    h = Mask(operator) if isinstance(operator, Tensor) else operator
    if isinstance(h, Mask) and isinstance(observed, Tensor) and observed.ndim == 0:
        observed = observed.expand(h.mask.shape)
    return observed, h


def _observed(mask: Tensor) -> str:
    return f"{int(mask.sum())} of {mask.numel()} observed"


def _check_mask(what: str, mask: Any) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        if not isinstance(mask, Tensor):
            raise ShapeError(
                f"{what}: expected a boolean mask as a tensor, got a {type(mask).__name__}. "
                "Convert it with torch.as_tensor."
            )
        raise ShapeError(f"{what}: expected a boolean mask, got {mask.dtype}. Use mask > 0.")


@dataclass(frozen=True, eq=False)
class Crop(Operator):
    """A part of the state.

    Args:
        event_shape: of the state.
        part: one slice an axis, leading axes first; axes left out are kept whole.

    Raises:
        ShapeError: an empty part.
    """

    event_shape: Shape
    part: tuple[slice, ...]

    def __post_init__(self) -> None:
        if len(self.part) > len(self.event_shape) or 0 in self.observed_shape:
            raise ShapeError(
                f"Crop: {self.part} takes nothing of a state of {tuple(self.event_shape)}. Give a "
                "slice for each axis, within it."
            )

    @cached_property
    def observed_shape(self) -> Shape:  # type: ignore[override]
        return tuple(torch.empty(self.event_shape, device="meta")[self.part].shape)

    def A(self, x: Tensor) -> Tensor:
        return x[(slice(None), *self.part)]

    def A_adjoint(self, y: Tensor) -> Tensor:
        whole = y.new_zeros(len(y), *self.event_shape)
        whole[(slice(None), *self.part)] = y
        return whole

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.A_adjoint(y)


@dataclass(frozen=True, eq=False)
class PerAxis(Operator):
    """One matrix an axis: H = ⊗_a H_a, so H⁺ = ⊗_a H_a⁺.

    Args:
        event_shape: of the state.
        matrices: axis of the event to `[observed, size]`; other axes are left as they are.
        tolerance: singular values below this share of the largest are taken for 0.

    Raises:
        ShapeError: a matrix does not fit its axis, or is complex.
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

    @property
    def observed_shape(self) -> Shape:  # type: ignore[override]
        sizes = enumerate(self.event_shape)
        return tuple(len(self.matrices[a]) if a in self.matrices else n for a, n in sizes)

    @cached_property
    def _inverses(self) -> dict[int, Tensor]:
        items = self.matrices.items()
        return {a: torch.linalg.pinv(m.double(), rtol=self.tolerance) for a, m in items}

    def A(self, x: Tensor) -> Tensor:
        return _along(x, self.matrices)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return _along(y, {axis: matrix.T for axis, matrix in self.matrices.items()})

    def A_dagger(self, y: Tensor) -> Tensor:
        return _along(y, self._inverses)


def _along(x: Tensor, matrices: Mapping[int, Tensor]) -> Tensor:
    """Applies a matrix along each axis of the event."""
    for axis, matrix in matrices.items():
        x = (x.movedim(axis + 1, -1) @ matrix.to(x).T).movedim(-1, axis + 1)
    return x


def block_average(
    event_shape: Sequence[int], factor: int, axes: Sequence[int] | None = None
) -> PerAxis:
    """Means of blocks of `factor` places on each axis: super-resolution's observation.

    Args:
        event_shape: of the state.
        factor: length of a block.
        axes: which; None: all but the first, the channels, or the only one.

    Raises:
        ShapeError: blocks do not fit an axis.
    """
    shape = tuple(event_shape)
    chosen = tuple(axes) if axes is not None else tuple(range(min(1, len(shape) - 1), len(shape)))
    for axis in chosen:
        if factor < 1 or shape[axis] % factor:
            raise ShapeError(
                f"block_average: blocks of {factor} do not fit axis {axis} of size {shape[axis]}. "
                "Choose a divisor of the size."
            )
    eyes = {axis: torch.eye(shape[axis] // factor, dtype=torch.float64) for axis in chosen}
    matrices = {a: eye.repeat_interleave(factor, dim=1) / factor for a, eye in eyes.items()}
    return PerAxis(shape, matrices)


def blur(
    event_shape: Sequence[int],
    kernel: Tensor,
    axes: Sequence[int] | None = None,
    *,
    periodic: bool = False,
    tolerance: float = 1e-6,
) -> PerAxis:
    """Convolution with one kernel along each axis; what lies outside an open axis is 0.

    Args:
        event_shape: of the state.
        kernel: `[odd]`, centred.
        axes: which; None: all but the first, the channels, or the only one.
        periodic: whether axes wrap around.
        tolerance: singular values below this share of the largest are taken for 0: what a blur has
            all but removed is not to be asked of noiseless data.

    Raises:
        ShapeError: a kernel of even length, or longer than an axis.
    """
    shape, half = tuple(event_shape), len(kernel) // 2
    chosen = tuple(axes) if axes is not None else tuple(range(min(1, len(shape) - 1), len(shape)))
    if kernel.ndim != 1 or len(kernel) % 2 == 0 or any(len(kernel) > shape[a] for a in chosen):
        raise ShapeError(
            f"blur: expected a kernel of odd length, no longer than its axes, got "
            f"{tuple(kernel.shape)} for a state of {shape}."
        )
    matrices = {}
    for axis in chosen:
        eye = torch.eye(shape[axis], dtype=torch.float64)
        rolled = [w * eye.roll(k - half, dims=1) for k, w in enumerate(kernel.double())]
        whole = torch.stack(rolled).sum(dim=0)
        matrices[axis] = whole if periodic else _without_wrapping(whole, half)
    return PerAxis(shape, matrices, tolerance)


def _without_wrapping(matrix: Tensor, half: int) -> Tensor:
    place = torch.arange(len(matrix))
    return matrix.where((place[:, None] - place).abs() <= half, 0)


def channel_mix(event_shape: Sequence[int], weights: Tensor) -> PerAxis:
    """Mixes channels, the first axis, by weights `[observed, channels]`; grey: [[.3, .59, .11]].

    Args:
        event_shape: of the state, `(channels, *places)`.
        weights: a row for each channel that is observed.
    """
    return PerAxis(tuple(event_shape), {0: weights})


@dataclass(frozen=True, eq=False)
class DenseOperator(Operator):
    """A matrix over the flattened state.

    Args:
        matrix: `[M, N]`.
        event_shape: of N elements.
        tolerance: singular values below this share of the largest are taken for 0.

    Raises:
        ShapeError: the matrix does not fit the state, or is complex.
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

    @property
    def observed_shape(self) -> Shape:  # type: ignore[override]
        return (len(self.matrix),)

    @cached_property
    def _inverse(self) -> Tensor:
        inverse: Tensor = torch.linalg.pinv(self.matrix.double(), rtol=self.tolerance)
        return inverse

    def A(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), prod(self.event_shape)) @ self.matrix.to(x).T

    def A_adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(len(y), *self.event_shape)

    def A_dagger(self, y: Tensor) -> Tensor:
        return (y @ self._inverse.to(y).T).reshape(len(y), *self.event_shape)


@dataclass(frozen=True, eq=False)
class FourierMask(Operator):
    """Some Fourier coefficients (orthonormal), complex, in place; the rest of y is 0.

    A real state's coefficients at k and -k are conjugates: with m the mask, HᵀH is the convolution
    of symbol (m(k) + m(-k)) / 2, and H⁺ divides by it.

    Args:
        mask: bool `[*event]`, over the frequencies of `torch.fft.fftn`.
        axes: of the event that are transformed; None: all.

    Raises:
        ShapeError: the mask is not boolean; an axis is not one of the event's.
    """

    mask: Tensor
    axes: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        shown = f"event_shape={self.event_shape}", _observed(self.mask), f"axes={self.axes}"
        return described(self, *shown)

    def __post_init__(self) -> None:
        _check_mask("FourierMask", self.mask)
        axes = range(self.mask.ndim) if self.axes is None else self.axes
        if len(set(axes)) < len(axes) or not all(0 <= axis < self.mask.ndim for axis in axes):
            raise ShapeError(
                f"FourierMask: expected distinct axes of the event's {self.mask.ndim}, counted "
                f"from 0, got {self.axes}."
            )

    @property
    def event_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.mask.shape)

    @property
    def observed_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.mask.shape)

    @property
    def _dims(self) -> list[int]:
        axes = range(self.mask.ndim) if self.axes is None else self.axes
        return [axis + 1 for axis in axes]

    @cached_property
    def _symbol(self) -> Tensor:
        flipped = self.mask.double()
        for dim in self._dims:
            flipped = flipped.flip(dim - 1).roll(1, dim - 1)
        return (self.mask + flipped) / 2

    def A(self, x: Tensor) -> Tensor:
        waves: Tensor = torch.fft.fftn(x, dim=self._dims, norm="ortho")
        return waves.where(self.mask.to(x.device), 0)

    def A_adjoint(self, y: Tensor) -> Tensor:
        seen = y.where(self.mask.to(y.device), 0)
        back: Tensor = torch.fft.ifftn(seen, dim=self._dims, norm="ortho").real
        return back

    def A_dagger(self, y: Tensor) -> Tensor:
        symbol = self._symbol.to(y.device)
        waves = torch.fft.fftn(self.A_adjoint(y), dim=self._dims, norm="ortho")
        divided = torch.where(symbol > 0, waves / symbol.clamp(min=0.5), 0)
        back: Tensor = torch.fft.ifftn(divided, dim=self._dims, norm="ortho").real
        return back.to(y.real.dtype)
