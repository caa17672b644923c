r"""Linear observations y = H u, with adjoints and Moore-Penrose pseudo-inverses H⁺.

    H H⁺ H = H,   H⁺ H H⁺ = H⁺,   H H⁺ and H⁺ H symmetric

An operator is any object with `A`, `A_adjoint` and `A_dagger` on batches; the linear physics of
deepinv are operators. `masks` and `matrices` have operators with exact pseudo-inverses. This module
finds the pseudo-inverse of a stack, a composition or any other linear function by conjugate
gradients, to an explicit tolerance: H⁺ y is their limit on Hᵀ H x = Hᵀ y from x = 0, which never
leaves the range of Hᵀ.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pgmdiff.errors import PgmdiffError, ShapeError, shape_text
from pgmdiff.linalg import Shape, beside, conjugate_gradients, implicit, magnitudes
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.scores.walls import on_copies
from pgmdiff.text import brief, described

__all__ = ["Composition", "Linear", "LinearOperator", "Operator", "Stacked"]


def asked(what: str, function: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """What a map of batches returns for a copy of x: a tensor `[batch, ...]`, or a `ShapeError`."""
    values = on_copies(function, x)
    if not isinstance(values, Tensor) or values.ndim == 0 or len(values) != len(x):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ShapeError(
            f"{what}: expected the function to return a tensor [{len(x)}, ...] for "
            f"{tuple(x.shape)}, got {got}. It must map batches, sample by sample."
        )
    return values


@runtime_checkable
class LinearOperator(Protocol):
    """The three maps of batches that conditioning needs of a linear observation."""

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """H x for x `[batch, *event]`: `[batch, *observed]`."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """Hᵀ y for y `[batch, *observed]`: `[batch, *event]`."""

    @abstractmethod
    def A_dagger(self, y: Tensor) -> Tensor:
        """H⁺ y, the shortest of the x for which H x is nearest to y: `[batch, *event]`."""


class Operator(LinearOperator):
    """A linear observation of states of one event shape.

    Attributes:
        event_shape: the shape of a state.
        observed_shape: the shape of an observation.
        widest: the widest dtype of states that the maps accept.
        is_complex: whether observations are complex.
    """

    event_shape: Shape
    observed_shape: Shape
    widest: torch.dtype = torch.float64
    is_complex: bool = False

    def _set(self, **attributes: Any) -> None:
        """Sets attributes that follow from the fields of a frozen dataclass."""
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def _states(self, x: Tensor) -> Tensor:
        """The states themselves, if they are `[batch, *event]`; else a `ShapeError`."""
        return _checked(self, "states", x, self.event_shape)

    def _observations(self, y: Tensor) -> Tensor:
        """The observations themselves, if they are `[batch, *observed]`; else a `ShapeError`."""
        return _checked(self, "observations", y, self.observed_shape)

    @property
    def _shapes(self) -> str:
        """The shapes of state and observation, for the repr."""
        return f"{tuple(self.event_shape)} → {tuple(self.observed_shape)}"

    def __matmul__(self, inner: "Operator") -> "Operator":
        """The composition: first `inner`, then this operator."""
        return Composition(self, inner)


def _checked(operator: Operator, what: str, batch: Tensor, shape: Shape) -> Tensor:
    if batch.ndim != len(shape) + 1 or tuple(batch.shape[1:]) != tuple(shape):
        raise ShapeError(
            f"{type(operator).__name__}: expected {what} {shape_text('batch', shape)}, got "
            f"{tuple(batch.shape)}. Reshape them, or add a batch axis to a single one: x[None]."
        )
    return batch


@dataclass(frozen=True, eq=False, kw_only=True)
class ByIteration(Operator):
    """Operators whose pseudo-inverse is found by conjugate gradients, in float64 for any y.

    Attributes:
        tolerance: the relative residual of Hᵀ H x = Hᵀ y at which they stop; at least 50 times the
            rounding of `widest`.
        most_steps: the number of steps after which they fail.
    """

    tolerance: float = 1e-10
    most_steps: int = 2_000

    def A_dagger(self, y: Tensor) -> Tensor:
        def value(y: Tensor) -> Tensor:
            return self.solved(self.A, self.A_adjoint, y).to(y.real.dtype)

        def pull(gradient: Tensor, y: Tensor) -> tuple[Tensor]:
            # The adjoint is (Hᵀ)⁺ g, from H Hᵀ z = H g, which has a solution for every g.
            return (self.solved(self.A_adjoint, self.A, gradient).to(y.dtype),)

        return implicit(value, pull, y)

    def wide(self, y: Tensor) -> Tensor:
        """An observation in the widest dtype that this operator accepts."""
        return y.to(
            torch.promote_types(self.widest, torch.complex32) if y.is_complex() else self.widest
        )

    def solved(
        self, h: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor], y: Tensor
    ) -> Tensor:
        """H⁺ y by conjugate gradients, to this operator's tolerance.

        H / |H| and y / |H| stand for H and y: squares of |H| may underflow or overflow.
        """
        y = self.wide(y)
        size = magnitudes(adjoint(y.sgn()))

        def scaled(v: Tensor) -> Tensor:
            return v / beside(size, v)

        return conjugate_gradients(
            lambda x: scaled(adjoint(scaled(h(x)))),
            scaled(adjoint(scaled(y))),
            tolerance=max(self.tolerance, 50 * torch.finfo(y.dtype).eps),
            most_steps=self.most_steps,
            what=type(self).__name__,
        )


@dataclass(frozen=True, eq=False)
class Stacked(ByIteration):
    """Several observations of one state, flattened and concatenated; complex if one of them is.

    Args:
        operators: the operators, of one event shape.
        tolerance, most_steps: the limits of the conjugate gradients of the pseudo-inverse.

    Raises:
        ShapeError: there is no operator, one has no shapes, or the event shapes differ.
    """

    operators: tuple[Operator, ...]
    sizes: list[int] = field(init=False)

    def __repr__(self) -> str:
        kinds = ", ".join(type(operator).__name__ for operator in self.operators[:4])
        more = ", ..." if len(self.operators) > 4 else ""
        return described(self, self._shapes, f"operators=({kinds}{more})")

    def __post_init__(self) -> None:
        _check_shapes("Stacked", self.operators)
        shapes = {tuple(operator.event_shape) for operator in self.operators}
        if len(shapes) != 1:
            raise ShapeError(
                f"Stacked: expected operators of one event shape, got {sorted(shapes)}. Compose "
                "an operator that sees only a part with a crop."
            )
        sizes = [prod(operator.observed_shape) for operator in self.operators]
        self._set(event_shape=shapes.pop(), observed_shape=(sum(sizes),), sizes=sizes)
        self._set(widest=_narrowest(self.operators), is_complex=_any_complex(self.operators))

    def A(self, x: Tensor) -> Tensor:
        parts, x = [], self._states(x)
        for operator, size in zip(self.operators, self.sizes, strict=True):
            part = on_copies(operator.A, x)
            check_gradient(part, x, partial(repr, operator))
            if part.is_complex() and not operator.is_complex:
                raise ShapeError(
                    f"Stacked: {brief(operator)} returns complex values. Let it say so by an "
                    "attribute is_complex = True."
                )
            parts.append(part.reshape(len(x), size).clone())
        return torch.cat(parts, dim=1)

    def A_adjoint(self, y: Tensor) -> Tensor:
        total: Tensor = self._observations(y).real.new_zeros(len(y), *self.event_shape)
        for operator, part in zip(self.operators, y.split(self.sizes, dim=1), strict=True):
            part = part if operator.is_complex else part.real  # the adjoint over the reals
            shaped = part.reshape(len(part), *operator.observed_shape)
            total = total + on_copies(operator.A_adjoint, shaped)
        return total


@dataclass(frozen=True, eq=False)
class Composition(ByIteration):
    """First one operator, then another: H = G F, also written `G @ F`.

    Args:
        outer: G, whose states are the observations of F.
        inner: F, which observes the state.
        tolerance, most_steps: the limits of the conjugate gradients of the pseudo-inverse.

    Raises:
        ShapeError: G does not accept observations of F.
    """

    outer: Operator
    inner: Operator

    def __repr__(self) -> str:
        inner, outer = brief(self.inner, 50), brief(self.outer, 50)
        return described(self, self._shapes, f"outer={outer}", f"inner={inner}")

    def __post_init__(self) -> None:
        _check_shapes("Composition", (self.outer, self.inner))
        if tuple(self.outer.event_shape) != tuple(self.inner.observed_shape):
            raise ShapeError(
                f"Composition: the outer operator accepts {tuple(self.outer.event_shape)}, the "
                f"inner one returns {tuple(self.inner.observed_shape)}. Make the shapes equal."
            )
        self._set(
            event_shape=tuple(self.inner.event_shape),
            observed_shape=tuple(self.outer.observed_shape),
            widest=_narrowest((self.outer, self.inner)),
            is_complex=_any_complex((self.outer, self.inner)),
        )

    def A(self, x: Tensor) -> Tensor:
        return self.outer.A(self.inner.A(self._states(x)))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.inner.A_adjoint(self.outer.A_adjoint(self._observations(y)))


def _narrowest(operators: Sequence[Operator]) -> torch.dtype:
    return min((operator.widest for operator in operators), key=lambda dtype: dtype.itemsize)


def _any_complex(operators: Sequence[Operator]) -> bool:
    return any(operator.is_complex for operator in operators)


def _check_shapes(who: str, operators: Sequence[Any]) -> None:
    for each in operators:
        if not isinstance(each, Operator):
            raise ShapeError(
                f"{who}: expected operators that know their shapes, got {brief(each)}. Make one of "
                "a linear function of batches by conditioning.Linear(function, event_shape); if it "
                "is not linear, give moment_matching one function that returns all values."
            )


@dataclass(frozen=True, eq=False)
class Linear(ByIteration):
    """Any linear function of batches, with its adjoint by autograd.

    Args:
        function: a linear map, sample by sample, of `[batch, *event]` to `[batch, *observed]`.
        event_shape: the shape of a state.
        widest: the dtype of the probe; float32 for a network with float32 weights.
        tolerance, most_steps: the limits of the conjugate gradients of the pseudo-inverse.

    Raises:
        PgmdiffError: a probe with random states, of size about 10, shows that the function is not
            linear.
        ShapeError: the function does not return a tensor `[batch, ...]`.
    """

    function: Callable[[Tensor], Tensor]
    event_shape: Shape
    widest: torch.dtype = torch.float64

    def __repr__(self) -> str:
        return described(self, self._shapes, f"function={brief(self.function)}")

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, *self.event_shape, generator=generator, dtype=self.widest)
        with torch.no_grad():
            values = self.A(x)
            mixed = self.A((x[:1] + 3 * x[1:]) * 10.0)
        self._set(observed_shape=tuple(values.shape[1:]), is_complex=values.is_complex())
        gap = (mixed - 10.0 * (values[:1] + 3 * values[1:])).abs().max()
        if not gap <= 1e-5 * mixed.abs().max().clamp(min=1e-30):
            raise PgmdiffError(
                "Linear: the function is not linear: f(10 (a + 3 b)) differs from 10 (f(a) + "
                f"3 f(b)) by {gap.item():.2g}. Remove offsets, or give the function as it is to "
                "moment_matching or reconstruction, which accept nonlinear ones."
            )

    def A(self, x: Tensor) -> Tensor:
        return asked("Linear", self.function, self._states(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        again = self._observations(y).requires_grad and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.zeros(len(y), *self.event_shape, dtype=y.real.dtype, device=y.device)
            x.requires_grad_()
            seen = self.A(x)
            check_gradient(seen, x, lambda: f"Linear: the function {brief(self.function)}")
            (back,) = torch.autograd.grad(seen, x, y, create_graph=again)
        return back
