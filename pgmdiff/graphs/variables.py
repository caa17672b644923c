"""Variables: the named blocks that the flat state of a factor graph is made of.

A block has an event shape. The state holds one block after the other in declaration order, each
flattened, so that a variable's elements are consecutive.
"""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import GraphError, ShapeError, nearest, shape_text
from pgmdiff.linalg import Ints, Shape
from pgmdiff.text import counted, described

__all__ = ["Variables", "bounds", "codes", "frozen"]


@dataclass(frozen=True, eq=False)
class Variables:
    """Named blocks of a state `[*batch, N]`.

    Args:
        names: one per variable, in declaration order.
        shapes: event shape of each variable.
    """

    names: tuple[Hashable, ...]
    shapes: tuple[Shape, ...]

    def __repr__(self) -> str:
        size = counted(self.n_elements, "element")
        return described(self, counted(len(self.names), "variable"), size)

    @cached_property
    def number(self) -> Mapping[Hashable, int]:
        """Place of each variable in the order of declaration."""
        return {name: v for v, name in enumerate(self.names)}

    @cached_property
    def sizes(self) -> Ints:
        """Number of elements of each variable, int64 `[variables]`."""
        return frozen(np.fromiter(map(prod, self.shapes), np.int64))

    @cached_property
    def offsets(self) -> Ints:
        """First element of each variable, and the total: int64 `[variables + 1]`."""
        return frozen(bounds(self.sizes))

    @property
    def n_elements(self) -> int:
        """Number of elements of the state, N."""
        return int(self.offsets[-1])

    def pack(self, values: Mapping[Any, Tensor]) -> Tensor:
        """See `FactorGraph.pack`."""
        for name in (*(values.keys() - self.number.keys()), *(self.number.keys() - values.keys())):
            what = "missing." if name in self.number else f"unknown.{nearest(name, self.names)}"
            raise ShapeError(
                f"pack: variable {name!r} is {what} Give one tensor for every variable of the "
                "graph."
            )
        flat, batches = [], set()
        for name, shape in zip(self.names, self.shapes, strict=True):
            value: Any = values[name]
            value = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            if not isinstance(value, Tensor):
                raise ShapeError(
                    f"pack: the value of variable {name!r} is of type {type(value).__name__}, "
                    "expected a tensor. Convert it with torch.as_tensor."
                )
            n_batch = value.ndim - len(shape)
            if n_batch < 0 or tuple(value.shape[n_batch:]) != shape:
                raise ShapeError(
                    f"pack: variable {name!r} has shape {shape}, expected a tensor "
                    f"{shape_text('*batch', shape)}, got {tuple(value.shape)}. Reshape it."
                )
            batches.add(tuple(value.shape[:n_batch]))
            flat.append(value.reshape(*value.shape[:n_batch], prod(shape)))
        if len(batches) > 1:
            raise ShapeError(
                f"pack: variables have different batch shapes {sorted(batches)}. Expand them."
            )
        return torch.cat(flat, dim=-1) if flat else torch.zeros(0)

    def unpack(self, u: Tensor) -> dict[Hashable, Tensor]:
        """See `FactorGraph.unpack`."""
        if not isinstance(u, Tensor):
            raise ShapeError(
                f"unpack: expected a tensor [*batch, {self.n_elements}], got a value of type "
                f"{type(u).__name__}. Convert it with torch.as_tensor."
            )
        if u.ndim == 0 or u.shape[-1] != self.n_elements:
            raise ShapeError(
                f"unpack: expected [*batch, {self.n_elements}], got {tuple(u.shape)}. "
                "Give a state of this graph."
            )
        parts = u.split(self.sizes.tolist(), dim=-1)
        named = zip(self.names, self.shapes, parts, strict=True)
        return {name: part.reshape((*u.shape[:-1], *shape)) for name, shape, part in named}

    def mask(
        self,
        names: Collection[Hashable] | Mapping[Any, Tensor | bool],
        factors: Collection[Hashable] = (),
    ) -> Tensor:
        """See `FactorGraph.mask`; errors say so where a name is one of `factors`."""
        if isinstance(names, str | bytes):
            raise GraphError(
                f"FactorGraph.mask: expected a collection of names, got {names!r}. "
                f"Write {[names]!r}."
            )
        mask = torch.zeros(self.n_elements, dtype=torch.bool)
        for name in names:
            block, shape = self._block("mask", name, factors)
            part = torch.as_tensor(names[name] if isinstance(names, Mapping) else True)
            if part.dtype != torch.bool or tuple(part.shape) not in ((), shape):
                raise ShapeError(
                    f"FactorGraph.mask: expected a boolean, or a boolean tensor of {shape}, for "
                    f"variable {name!r}; got {part.dtype} of {tuple(part.shape)}. Convert it."
                )
            mask[block] = part.expand(shape).reshape(-1)
        return mask

    def observe(
        self,
        values: Mapping[Any, Tensor | float],
        batch: int | None,
        factors: Collection[Hashable] = (),
    ) -> tuple[Tensor, Tensor]:
        """See `FactorGraph.observe`; errors say so where a name is one of `factors`."""
        if not isinstance(values, Mapping):
            raise GraphError(
                "FactorGraph.observe: expected a mapping from name to value, got "
                f"{type(values).__name__}. Write {{'x': 1.5}}."
            )
        known, rows = [], () if batch is None else (batch,)
        if rows and not (isinstance(batch, int) and not isinstance(batch, bool) and batch >= 0):
            raise ShapeError(
                f"FactorGraph.observe: expected batch as a number of samples, got {batch!r}."
            )
        for name, value in values.items():
            block, shape = self._block("observe", name, factors)
            try:
                found = torch.as_tensor(value)
            except (TypeError, ValueError, RuntimeError):
                found = torch.zeros(0)
            fits = tuple(found.shape) in ((), shape, (*rows, *shape)) and not found.is_complex()
            if not (fits and found.isfinite().all()):
                got = tuple(found.shape) if isinstance(value, Tensor) else repr(value)[:60]
                got = f"{got}, not all of it finite" if fits else got
                each = f", or one of these for each of {batch} samples" if rows else ""
                raise ShapeError(
                    f"FactorGraph.observe: variable {name!r} has shape {shape}, got a value of "
                    f"{got}. Give finite real numbers of its shape, or one such number{each}."
                )
            known.append(
                (block, found.expand((*rows, *shape)).reshape(*rows, prod(shape)), found.ndim)
            )
        arrays = (value.dtype for _, value, ndim in known if ndim)
        dtype = reduce(torch.promote_types, arrays, torch.get_default_dtype())
        y = torch.zeros(*rows, self.n_elements, dtype=dtype)
        mask = torch.zeros(self.n_elements, dtype=torch.bool)
        for block, value, _ in known:
            y[..., block], mask[block] = value.to(y), True
        return y, mask

    def _block(
        self, method: str, name: Hashable, factors: Collection[Hashable]
    ) -> tuple[slice, Shape]:
        """The elements and the shape of a variable, or a `GraphError` with the nearest name."""
        if name not in self.number:
            what = "a factor, not a variable" if name in factors else "no variable"
            hint = nearest(name, self.names)
            raise GraphError(f"FactorGraph.{method}: {name!r} is {what}.{hint} See `.variables`.")
        v = self.number[name]
        return slice(*self.offsets[v : v + 2].tolist()), self.shapes[v]


def frozen(array: Ints) -> Ints:
    """The array itself, made read-only."""
    array.setflags(write=False)
    return array


def bounds(sizes: Iterable[int]) -> Ints:
    """Where consecutive blocks of some sizes begin, and where the last ends: int64 `[n + 1]`."""
    listed = sizes if isinstance(sizes, np.ndarray) else np.fromiter(sizes, np.int64)
    return np.concatenate([[0], np.cumsum(listed)]).astype(np.int64)


def codes(values: Sequence[Hashable]) -> tuple[Ints, list[Any]]:
    """Numbers for values, alike for equal ones, and the distinct values by first appearance."""
    if len(set(values)) == 1:  # as is common for a million of them
        return np.zeros(len(values), np.int64), [values[0]]
    code: dict[Hashable, int] = {}
    numbers = [code.setdefault(value, len(code)) for value in values]
    return np.array(numbers, np.int64), list(code)
