"""Solves by conjugate gradients, for graphs and covariances without a structure that helps."""

from functools import cached_property
from math import ceil, inf, log2

import torch
from torch import Tensor

from pgmdiff.errors import GraphError, ScoreError
from pgmdiff.linalg import Solution, implicit, iterate_conjugate_gradients, squared_norms
from pgmdiff.precision.forms import RegionPrecisions
from pgmdiff.precision.precision import ComposedPrecision
from pgmdiff.precision.solves.base import (
    SPARSE_ENTRIES,
    Placed,
    Solve,
    indefinite,
    symmetric,
)
from pgmdiff.precision.solves.direct import SparseFactors, positive_pivots
from pgmdiff.text import described

__all__ = ["ConjugateGradients"]


TESTED = 5_000
"""Largest state for which P is factorised only to test whether it is definite."""
QUICK = 20_000
"""Largest state whose factors take little more than some hundred products with P."""
ROUNDING = 20 * torch.finfo(torch.float64).eps
"""Relative residual at which an iteration ends, unless it is told otherwise."""
ACCEPTED = 1e-8
"""Largest relative error of a solution that is accepted when the iteration ends."""


class Products(Placed):
    """Products with P: of a sparse matrix on the CPU, if it is small, else region by region.

    Args:
        precision: P.
    """

    def __init__(self, precision: ComposedPrecision) -> None:
        self.precision = precision
        self.sparse = precision.sparse() if precision.n_entries <= SPARSE_ENTRIES else None

    def __repr__(self) -> str:
        return described(self, repr(self.precision))

    def __call__(self, v: Tensor) -> Tensor:
        """P v for v `[B, N]`, float64; differentiable."""
        return implicit(self._product, lambda gradient, _: (self(gradient),), v)

    def _product(self, v: Tensor) -> Tensor:
        if self.sparse is not None and v.device.type == "cpu":
            return torch.from_numpy(v.detach().numpy() @ self.sparse)
        total = torch.zeros_like(v)
        for index, counts, precisions in self._blocks(v):
            weighted = precisions.times(v[:, index]) * counts[:, None]
            total.index_add_(1, index.reshape(-1), weighted.flatten(1))
        return total

    def diagonal(self, v: Tensor) -> Tensor:
        """The diagonal of P, `[N]`, placed like v."""
        if self.sparse is not None:
            return torch.from_numpy(self.sparse.diagonal()).to(v)
        diagonal = v.new_zeros(v.shape[1])
        for index, counts, precisions in self._blocks(v):
            part = counts[:, None] * precisions.diagonal().expand(index.shape)
            diagonal.index_add_(0, index.reshape(-1), part.reshape(-1))
        return diagonal

    def _blocks(self, v: Tensor) -> list[tuple[Tensor, Tensor, RegionPrecisions]]:
        """The elements, counts and Σ_r⁻¹ of all counted regions, placed like v."""
        return self.placed(
            v,
            lambda device, dtype: [
                (b.index.to(device), b.counts.to(device, dtype), b.precisions.to(device, dtype))
                for b in self.precision.blocks
            ],
        )


class ConjugateGradients(Solve):
    """Products with P only, preconditioned by its diagonal, on the state's device, in float64.

    Where they do not converge, `SparseFactors` solves, if the entries of P fit into memory
    (`SPARSE_ENTRIES`). Whether they do is tried once per octave of σ, on one random b, so that a
    call does not depend on earlier ones. Of a field of neighbouring correlation 0.9 with 9,216
    elements, in windows of 8 × 8, factors take 0.25 s for a new σ and 5 ms for another solve, where
    conjugate gradients take thousands of steps and 3 s; of a grid of 100,000 pairs with short
    correlations they take 0.7 s, where conjugate gradients take 0.1 s.

    Args:
        precision: P. Beyond `TESTED` elements an indefinite one is found only while solving.
        most_steps: the largest number of iterations, after which P is factorised (150 if None, and
            500 beyond 20,000 elements), or the solve fails (5,000 if None).
        tolerance: the relative residual at which they stop.

    Attributes:
        steps: the number of iterations of the latest call.

    Raises:
        IndefiniteError: P is not positive definite.
        ScoreError: a solve has not converged.
    """

    uses_start = True
    remade = (*Solve.remade, "_factors")

    def __init__(
        self,
        precision: ComposedPrecision,
        *,
        most_steps: int | None = None,
        tolerance: float = ROUNDING,
    ) -> None:
        self.precision, self.product = precision, Products(precision)
        self.may_factor = self.product.sparse is not None
        self.quick = self.may_factor and precision.graph.n_elements <= QUICK
        unless_told = 150 if self.quick else 500 if self.may_factor else 5_000
        self.most_steps = unless_told if most_steps is None else most_steps
        self.tolerance = tolerance
        self.steps = 0
        self._residual = 0.0
        tested = precision.graph.n_elements <= TESTED
        if tested and not positive_pivots(precision.sparse()):
            raise indefinite(precision)

    @property
    def residual(self) -> float:
        return self._residual

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        def solve(right: Tensor, sigma: Tensor) -> Tensor:
            if not (self.may_factor and self._slow(sigma)):
                found = self._iterated(right.double(), sigma.double(), start)
                self.steps, self._residual = found.steps, found.residual
                if found.converged or (not self.may_factor and self._close(right, found)):
                    return found.x.to(right)
                slow = found.steps == self.most_steps
                if not (self.may_factor and slow):
                    why = "P is too large to be factorised." if slow else found.reason
                    raise ScoreError(
                        f"Joint: conjugate gradients left a relative residual of "
                        f"{found.residual:.2g} after {found.steps} steps. {why} Better conditioned "
                        "covariances (a larger ridge), smaller regions or a lower first noise "
                        "level help."
                    )
            self.steps, self._residual = 0, 0.0
            return self._factors(right, sigma)

        return symmetric(solve, b, sigma)

    def for_many(self) -> Solve:
        return self._factors if self.quick else self

    def _close(self, b: Tensor, found: Solution) -> bool:
        """Whether x is accurate to `ACCEPTED`: ‖x - M⁻¹ b‖ ≤ ‖b - M x‖, for M is at least I."""
        ratio = squared_norms(b.double()) / squared_norms(found.x)
        return found.residual * float(ratio.max().sqrt()) <= ACCEPTED

    def _slow(self, sigma: Tensor) -> bool:
        """Whether the iterations do not converge within an octave that ends above σ."""
        level = float(sigma.max()) if len(sigma) else 0.0
        if not 0 < level < inf:
            return False
        octave = ceil(log2(level))
        if octave not in self._kept:
            generator = torch.Generator().manual_seed(0)
            n, end = self.precision.graph.n_elements, torch.tensor([2.0**octave]).double()
            b = torch.randn(1, n, generator=generator, dtype=torch.float64)
            with torch.inference_mode(False), torch.no_grad():
                self._kept[octave] = not self._iterated(b, end, None).converged
        return bool(self._kept[octave])

    def _iterated(self, b: Tensor, sigma: Tensor, start: Tensor | None) -> Solution:
        s2 = sigma[:, None] ** 2
        return iterate_conjugate_gradients(
            lambda v: v + s2 * self.product(v),
            b,
            tolerance=self.tolerance,
            most_steps=self.most_steps,
            scale=1 / (1 + s2 * self.product.diagonal(b)).clamp(min=1e-12),
            start=None if start is None else start.detach().to(b),
            indefinite=lambda: indefinite(self.precision),
        )

    @cached_property
    def _factors(self) -> SparseFactors:
        return SparseFactors(self.precision)

    def log_determinant(self, sigma: Tensor) -> Tensor:
        if self.may_factor:
            return self._factors.log_determinant(sigma)
        raise GraphError(
            f"Joint.log_density: log det(I + σ² P) of {self.precision.graph.n_elements} elements "
            "is not computed where P is too large to be factorised. The score does not need it."
        )
