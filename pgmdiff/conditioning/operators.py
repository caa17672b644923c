r"""Linear observations y = H u, with adjoints and Moore-Penrose pseudo-inverses H⁺.

    H H⁺ H = H,   H⁺ H H⁺ = H⁺,   H H⁺ and H⁺ H symmetric

An operator is anything with `A`, `A_adjoint` and `A_dagger` on batches (deepinv's linear physics
have them). `masks` and `matrices` have operators with exact pseudo-inverses. The pseudo-inverse of
a stack, a composition or any other linear function is found here by conjugate gradients, to an
explicit tolerance: H⁺ y is their limit on Hᵀ H x = Hᵀ y from x = 0, which never leaves the range
of Hᵀ.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.linalg import Shape, conjugate_gradients
from pgmdiff.text import brief, described

__all__ = ["Composition", "Linear", "LinearOperator", "Operator", "Stacked"]


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
        return Composition(self, inner)


class ByIteration(Operator):
    """Operators without a closed pseudo-inverse, which is found in float64 whatever y is.

    Attributes:
        tolerance: relative residual of Hᵀ H x = Hᵀ y.
        most_steps: of conjugate gradients.
    """

    tolerance: float
    most_steps: int

    def A_dagger(self, y: Tensor) -> Tensor:
        inverse: Tensor = _PseudoInverse.apply(y, self)
        return inverse

    def wide(self, y: Tensor) -> Tensor:
        """In the widest dtype that this operator takes."""
        return y.to(
            torch.promote_types(self.widest, torch.complex32) if y.is_complex() else self.widest
        )

    def solved(self, product: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
        """By conjugate gradients, to this operator's tolerance."""
        return conjugate_gradients(
            product,
            b,
            tolerance=self.tolerance,
            most_steps=self.most_steps,
            what=type(self).__name__,
        )


class _PseudoInverse(torch.autograd.Function):
    """H⁺ y; its adjoint is (Hᵀ)⁺ g, from H Hᵀ z = H g, which has a solution for every g."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, h: ByIteration) -> Tensor:
        ctx.operator, ctx.dtype = h, y.dtype
        found = h.solved(lambda x: h.A_adjoint(h.A(x)), h.A_adjoint(h.wide(y)))
        return found.to(y.real.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        h: ByIteration = ctx.operator
        found = h.solved(lambda y: h.A(h.A_adjoint(y)), h.A(h.wide(gradient)))
        return found.to(ctx.dtype), None


@dataclass(frozen=True, eq=False)
class Stacked(ByIteration):
    """Several observations of one state: flattened, and one after the other.

    Args:
        operators: of one event shape.
        tolerance: relative residual of the conjugate gradients of the pseudo-inverse.
        most_steps: of them, before they give up.

    Raises:
        ShapeError: none, or event shapes differ.
    """

    operators: tuple[Operator, ...]
    tolerance: float = 1e-10
    most_steps: int = 2_000

    def __repr__(self) -> str:
        kinds = ", ".join(type(operator).__name__ for operator in self.operators[:4])
        more = ", ..." if len(self.operators) > 4 else ""
        return described(self, self._shapes, f"operators=({kinds}{more})")

    def __post_init__(self) -> None:
        shapes = {tuple(operator.event_shape) for operator in self.operators}
        if len(shapes) != 1:
            raise ShapeError(
                f"Stacked: expected operators of one event shape, got {sorted(shapes)}. Compose "
                "each with a crop, if it sees a part."
            )

    @property
    def event_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.operators[0].event_shape)

    @property
    def observed_shape(self) -> Shape:  # type: ignore[override]
        return (sum(self._sizes),)

    @property
    def widest(self) -> torch.dtype:  # type: ignore[override]
        return _narrowest(self.operators)

    @property
    def _sizes(self) -> list[int]:
        return [prod(operator.observed_shape) for operator in self.operators]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Observations of each operator `[batch, *observed]`, as one of the stack."""
        return torch.cat([part.reshape(len(part), prod(part.shape[1:])) for part in parts], dim=1)

    def A(self, x: Tensor) -> Tensor:
        return self.joined([operator.A(x) for operator in self.operators])

    def A_adjoint(self, y: Tensor) -> Tensor:
        parts = zip(self.operators, y.split(self._sizes, dim=1), strict=True)
        shaped = (o.A_adjoint(part.reshape(len(part), *o.observed_shape)) for o, part in parts)
        return torch.stack(tuple(shaped)).sum(dim=0)


@dataclass(frozen=True, eq=False)
class Composition(ByIteration):
    """First one operator, then another: H = G F. Made by `G @ F`.

    Args:
        outer: G, which sees what F gives.
        inner: F, which sees the state.
        tolerance: relative residual of the conjugate gradients of the pseudo-inverse.
        most_steps: of them, before they give up.

    Raises:
        ShapeError: G does not take what F gives.
    """

    outer: Operator
    inner: Operator
    tolerance: float = 1e-10
    most_steps: int = 2_000

    def __repr__(self) -> str:
        inner, outer = brief(self.inner, 50), brief(self.outer, 50)
        return described(self, self._shapes, f"outer={outer}", f"inner={inner}")

    def __post_init__(self) -> None:
        if tuple(self.outer.event_shape) != tuple(self.inner.observed_shape):
            raise ShapeError(
                f"Composition: the outer operator takes {tuple(self.outer.event_shape)}, the inner "
                f"one gives {tuple(self.inner.observed_shape)}."
            )

    @property
    def event_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.inner.event_shape)

    @property
    def observed_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.outer.observed_shape)

    @property
    def widest(self) -> torch.dtype:  # type: ignore[override]
        return _narrowest((self.outer, self.inner))

    def A(self, x: Tensor) -> Tensor:
        return self.outer.A(self.inner.A(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.inner.A_adjoint(self.outer.A_adjoint(y))


def _narrowest(operators: Sequence[Operator]) -> torch.dtype:
    return min((operator.widest for operator in operators), key=lambda dtype: dtype.itemsize)


@dataclass(frozen=True, eq=False)
class Linear(ByIteration):
    """Any linear function of batches; its adjoint by autograd.

    Args:
        function: `[batch, *event]` to `[batch, *observed]`, sample by sample, linear.
        event_shape: of the state.
        tolerance: relative residual of the conjugate gradients of the pseudo-inverse.
        most_steps: of them, before they give up.
        widest: dtype of the probe; float32 for a network of float32 weights.

    Raises:
        PgmdiffError: a probe with random states, of size 10 or so, shows that the function is not
            linear.
        ShapeError: it gives no tensor `[batch, ...]`.
    """

    function: Callable[[Tensor], Tensor]
    event_shape: Shape
    tolerance: float = 1e-10
    most_steps: int = 2_000
    widest: torch.dtype = torch.float64
    observed_shape: Shape = field(init=False)

    def __repr__(self) -> str:
        return described(self, self._shapes, f"function={brief(self.function)}")

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, *self.event_shape, generator=generator, dtype=self.widest)
        with torch.no_grad():
            values = self._called(x)
            mixed = self._called((x[:1] + 3 * x[1:]) * 10.0)
        object.__setattr__(self, "observed_shape", tuple(values.shape[1:]))
        gap = (mixed - 10.0 * (values[:1] + 3 * values[1:])).abs().max()
        if not gap <= 1e-5 * mixed.abs().max().clamp(min=1e-30):
            raise PgmdiffError(
                "Linear: the function is not linear: f(10 (a + 3 b)) differs from 10 (f(a) + "
                f"3 f(b)) by {gap.item():.2g}. Remove offsets; moment_matching and reconstruction "
                "take nonlinear functions as they are."
            )

    def _called(self, x: Tensor) -> Tensor:
        values: Any = self.function(x)
        if not isinstance(values, Tensor) or values.ndim == 0 or len(values) != len(x):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ShapeError(
                f"Linear: expected the function to make a tensor [{len(x)}, ...] of "
                f"{tuple(x.shape)}, got {got}. It works on batches, sample by sample."
            )
        return values

    def A(self, x: Tensor) -> Tensor:
        return self.function(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.zeros(len(y), *self.event_shape, dtype=y.real.dtype, device=y.device)
            x.requires_grad_()
            (back,) = torch.autograd.grad(self.function(x), x, y)
        return back
