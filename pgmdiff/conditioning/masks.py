"""Observations of some elements: masks, crops, and masks of the Fourier transform.

Their pseudo-inverses are exact. For masks and crops H⁺ = Hᵀ: it puts the observed values in their
places, and 0 elsewhere.
"""

from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from pgmdiff.conditioning.operators import Operator
from pgmdiff.errors import ShapeError, shape_text
from pgmdiff.linalg import Shape, ordinary, tensor_of
from pgmdiff.text import described

__all__ = ["Crop", "FourierMask", "Mask"]


@dataclass(frozen=True, eq=False, repr=False)
class InPlace(Operator):
    """Observations that keep their places in the state: y is 0 where the mask is false."""

    mask: Tensor
    event_shape: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        who = type(self).__name__
        mask = tensor_of(who, "a boolean mask", self.mask)
        event: Any = mask.shape if self.event_shape is None else self.event_shape
        if not isinstance(event, list | tuple) or not all(isinstance(n, Integral) for n in event):
            raise ShapeError(
                f"{who}: expected event_shape as a tuple of integers, got {event!r}. Write (n,) "
                "for a vector."
            )
        event = tuple(event)
        if mask.dtype != torch.bool:
            remedy = "Use torch.as_tensor(mask) > 0, if these are not the observed values."
            inexact = mask.is_floating_point() or mask.is_complex()
            if not inexact and ((mask < 0) | (mask > 1)).any():
                remedy = "Use torch.as_tensor(mask) > 0; or, if these are indices, begin with mask "
                remedy += (
                    "= torch.zeros(event_shape, dtype=torch.bool) and set mask[indices] = True."
                )
            raise ShapeError(f"{who}: expected a boolean mask, got {mask.dtype}. {remedy}")
        lead: Shape = tuple(mask.shape[: max(mask.ndim - len(event), 0)])
        try:
            mask = ordinary(mask.clone()).expand(lead + event)  # the caller may change theirs
        except RuntimeError:
            lead = (0, 0)
        if len(lead) > 1:
            raise ShapeError(
                f"{who}: expected a mask that broadcasts to the state {event}, or one for each "
                f"sample, {shape_text('n', event)}, got {tuple(mask.shape)}."
            )
        self._set(mask=mask, event_shape=event, observed_shape=event)

    def kept(self, x: Tensor) -> Tensor:
        """The values of a batch `[batch, *event]` where the mask is true; 0 elsewhere."""
        if self.mask.ndim > len(self.event_shape) and len(self.mask) not in (1, len(x)):
            raise ShapeError(
                f"{type(self).__name__}: there is a mask for each of {len(self.mask)} samples, got "
                f"{len(x)} samples. Make them as many."
            )
        return x.where(self.mask.to(x.device), 0)

    @property
    def _shown(self) -> tuple[str, str]:
        observed = f"{int(self.mask.sum())} of {self.mask.numel()} observed"
        return f"event_shape={self.event_shape}", observed

    def __repr__(self) -> str:
        return described(self, *self._shown)


@dataclass(frozen=True, eq=False, repr=False)
class Mask(InPlace):
    """The elements where a mask is true, in their places; the rest of y is 0.

    Args:
        mask: booleans `[*event]`, such as `graph.mask(["x3", "x7"])` for named variables.
        event_shape: the shape of a state, if it is not the mask's: the mask then broadcasts to it
            (one `[height, width]` to all channels), or is `[n, ...]`, one for each sample.

    Raises:
        ShapeError: the mask is not boolean, or does not broadcast to the state.
    """

    def A(self, x: Tensor) -> Tensor:
        return self.kept(self._states(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.kept(self._observations(y))

    A_dagger = A_adjoint


@dataclass(frozen=True, eq=False)
class Crop(Operator):
    """A part of the state.

    Args:
        event_shape: the shape of a state.
        part: one slice per axis, leading axes first; axes left out are kept whole.

    Raises:
        ShapeError: the part is empty, or has more axes than the state.
    """

    event_shape: Shape
    part: tuple[slice, ...]

    def __post_init__(self) -> None:
        fits = len(self.part) <= len(self.event_shape)
        observed = torch.empty(self.event_shape, device="meta")[self.part] if fits else None
        if observed is None or observed.numel() == 0:
            raise ShapeError(
                f"Crop: expected slices within a state of {tuple(self.event_shape)}, got "
                f"{self.part}, which selects nothing. Give at most one slice per axis."
            )
        self._set(observed_shape=tuple(observed.shape))

    def A(self, x: Tensor) -> Tensor:
        part = (slice(None), *self.part)
        return self._states(x)[part]

    def A_adjoint(self, y: Tensor) -> Tensor:
        whole, part = y.new_zeros(len(y), *self.event_shape), (slice(None), *self.part)
        whole[part] = self._observations(y)
        return whole

    A_dagger = A_adjoint


@dataclass(frozen=True, eq=False, repr=False)
class FourierMask(InPlace):
    """Some orthonormal Fourier coefficients, complex, in their places; the rest of y is 0.

    The coefficients of a real state at k and -k are conjugates: with the mask m, HᵀH is the
    convolution with symbol (m(k) + m(-k)) / 2, by which H⁺ divides.

    Args:
        mask: booleans `[*event]` over the frequencies of `torch.fft.fftn`.
        axes: the axes of the event that are transformed; None for all.
        event_shape: as for `Mask`.

    Raises:
        ShapeError: as for `Mask`; or an axis is not one of the event's.
    """

    is_complex = True
    axes: tuple[int, ...] | None = None
    dims: list[int] = field(init=False)

    def __repr__(self) -> str:
        return described(self, *self._shown, f"axes={self.axes}")

    def __post_init__(self) -> None:
        super().__post_init__()
        ndim = len(self.event_shape)
        axes = range(ndim) if self.axes is None else self.axes
        if len(set(axes)) < len(axes) or not all(0 <= axis < ndim for axis in axes):
            raise ShapeError(
                f"FourierMask: expected distinct axes of the event's {ndim}, counted "
                f"from 0, got {self.axes}."
            )
        self._set(dims=[axis + 1 for axis in axes])

    @cached_property
    @torch.inference_mode(False)
    def _symbol(self) -> Tensor:
        flipped, before = self.mask.double(), len(self.event_shape) + 1
        for dim in self.dims:
            flipped = flipped.flip(dim - before).roll(1, dim - before)
        return (self.mask + flipped) / 2

    def A(self, x: Tensor) -> Tensor:
        return self.kept(torch.fft.fftn(self._states(x), dim=self.dims, norm="ortho"))

    def A_adjoint(self, y: Tensor) -> Tensor:
        kept = self.kept(self._observations(y))
        back: Tensor = torch.fft.ifftn(kept, dim=self.dims, norm="ortho").real
        return back

    def A_dagger(self, y: Tensor) -> Tensor:
        symbol = self._symbol.to(y.device)
        waves = torch.fft.fftn(self.A_adjoint(y), dim=self.dims, norm="ortho")
        divided = torch.where(symbol > 0, waves / symbol.clamp(min=0.5), 0)
        back: Tensor = torch.fft.ifftn(divided, dim=self.dims, norm="ortho").real
        return back.to(y.real.dtype)
