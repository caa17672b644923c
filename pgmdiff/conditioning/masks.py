"""Observations of some elements: masks, crops, and masks of the Fourier transform.

Their pseudo-inverses are exact: H⁺ = Hᵀ puts what was observed in place and 0 elsewhere.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pgmdiff.conditioning.operators import Operator
from pgmdiff.errors import ShapeError
from pgmdiff.linalg import Shape
from pgmdiff.text import described

__all__ = ["Crop", "FourierMask", "Mask", "masked"]


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
