"""Solves by conjugate gradients, for graphs and covariances without a structure that helps."""

from collections.abc import Callable
from functools import cached_property, reduce
from math import ceil, inf, log2

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import GraphError, ScoreError
from pgmdiff.linalg import (
    Shape,
    Solution,
    implicit,
    iterate_conjugate_gradients,
    squared_norms,
)
from pgmdiff.precision.forms import RegionPrecisions, by_region
from pgmdiff.precision.precision import ComposedPrecision, weighed
from pgmdiff.precision.solves.base import (
    SPARSE_ENTRIES,
    Placed,
    Solve,
    indefinite,
    symmetric,
)
from pgmdiff.precision.solves.direct import SparseFactors, positive_pivots
from pgmdiff.text import counted, described

__all__ = ["ConjugateGradients"]


TESTED = 5_000
"""Largest state for which P is factorised only to test whether it is definite."""
LIGHT = 100
"""Steps up to which the diagonal is the better preconditioner, for its steps cost least."""
TRIED = 3
"""An iteration that is tried must find one of so many parts of the digits, in as few steps."""
QUICK = 20_000
"""Largest state whose factors take little more than some hundred products with P."""
ROUNDING = 20 * torch.finfo(torch.float64).eps
"""Relative residual at which an iteration ends, unless it is told otherwise."""
ACCEPTED = 1e-8
"""Largest relative error of a solution that is accepted when the iteration ends."""


Preconditioner = Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]
"""Makes an approximation of (I + σ² P)⁻¹ for σ² `[B, 1]`, placed like b `[B, N]`."""


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
        return self.placed(v, self._diagonal, "diagonal")

    def _diagonal(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        if self.sparse is not None:
            return torch.from_numpy(self.sparse.diagonal()).to(device, dtype)
        diagonal = torch.zeros(self.precision.graph.n_elements, dtype=torch.float64)
        for block in self.precision.blocks:
            part = block.counts[:, None] * block.precisions.diagonal().expand(block.index.shape)
            diagonal.index_add_(0, block.index.reshape(-1), part.reshape(-1))
        return diagonal.to(device, dtype)

    def _blocks(self, v: Tensor) -> list[tuple[Tensor, Tensor, RegionPrecisions]]:
        """The elements, counts and Σ_r⁻¹ of all counted regions, placed like v."""
        return self.placed(
            v,
            lambda device, dtype: [
                (b.index.to(device), b.counts.to(device, dtype), b.precisions.to(device, dtype))
                for b in self.precision.blocks
            ],
        )


class LocalSolves(Placed):
    """What every outer region knows of (I + σ² P)⁻¹ v on its own, blended where regions overlap.

        z = Σ_r A_rᵀ W_r (I + σ² Σ_r⁻¹)⁻¹ W_r A_r v,      Σ_r A_rᵀ W_r A_r = I

    The weights W_r fall from the middle of a region to its border. At large σ a term is W_r Σ_r W_r
    up to the factor σ⁻²: the covariance, cut off where a region ends. (With domains for regions
    it is a Neumann-Neumann preconditioner; Toselli and Widlund, "Domain decomposition methods:
    algorithms and theory", 2005, chapter 6.)

    Args:
        precision: P, or a completion of its graph's covariances Σ_r.

    Attributes:
        cover: whether every element is in an outer region of positive count.
    """

    def __init__(self, precision: ComposedPrecision) -> None:
        graph = precision.graph
        outer = [np.where(g.outer & (g.counts > 0), 1.0, 0.0) for g in graph.groups]
        self.regions = [
            (index, _hat(group.shape), precision.inverse(group))
            for group, index, _ in weighed(graph, outer)
        ]
        self.total = torch.zeros(graph.n_elements, dtype=torch.float64)
        for index, hat, _ in self.regions:
            self.total.index_add_(0, index.reshape(-1), hat.repeat(len(index)))
        self.cover = bool((self.total > 0).all())

    def __repr__(self) -> str:
        return described(self, counted(sum(len(index) for index, _, _ in self.regions), "region"))

    def __call__(self, b: Tensor, squared: Tensor) -> Callable[[Tensor], Tensor]:
        """Maps v to z, both `[B, N]` and float64, for σ² `[B, 1]`; placed like b."""
        regions = [
            (index, weights, vectors, 1 / (1 + squared[:, :, None] * values))
            for index, weights, values, vectors in self.placed(b, self._place)
        ]

        def blended(v: Tensor) -> Tensor:
            out = torch.zeros_like(v)
            for index, weights, vectors, shares in regions:
                along = by_region(v[:, index] * weights, vectors) * shares
                own = by_region(along, vectors.mT) * weights
                out.index_add_(1, index.reshape(-1), own.flatten(1))
            return out

        return blended

    def _place(self, device: torch.device, dtype: torch.dtype) -> list[tuple[Tensor, ...]]:
        return [
            tuple(t.to(device) for t in (index, hat / self.total[index], *inverse.modes))
            for index, hat, inverse in self.regions
        ]


def _hat(shape: Shape) -> Tensor:
    """The distance of every element to the nearer end of each axis, multiplied: `[d]`, float64."""
    lines = [torch.arange(1.0, n + 1, dtype=torch.float64) for n in shape]
    lines = [torch.minimum(line, line.flip(0)) for line in lines]
    return reduce(torch.kron, lines, torch.ones(1, dtype=torch.float64))


class ConjugateGradients(Solve):
    """Products with P and within regions only, on the state's device, in float64.

    They are preconditioned by the diagonal where that suffices for `LIGHT` steps, else by what
    regions know (`LocalSolves`). Where they do not converge, `SparseFactors` solves, if the entries
    of P fit into memory (`SPARSE_ENTRIES`). What suits is tried once per octave of σ, on one random
    b to a third of the digits, so that a call does not depend on earlier ones.

    At σ = 80, on one CPU core: of a smooth field of 24 × 24 × 32 elements in windows of 6 × 6 × 8,
    whose P is too large for factors, a solve takes 1.5 s (175 steps; over 3,000 with the diagonal);
    of a field of neighbouring correlation 0.9 with 9,216 elements in windows of 8 × 8 factors take
    0.25 s for a new σ and 5 ms for another solve; of a grid of 50,000 pairs with short correlations
    they take 0.2 s, where conjugate gradients with the diagonal take 0.1 s.

    Args:
        precision: P. Beyond `TESTED` elements an indefinite one is found only while solving.
        most_steps: the largest number of iterations, after which P is factorised (150 if None), or
            the solve fails (5,000 if None).
        tolerance: the relative residual at which they stop.

    Attributes:
        steps: the number of iterations of the latest call.

    Raises:
        IndefiniteError: P is not positive definite.
        ScoreError: a solve has not converged.
    """

    uses_start = True
    remade = (*Solve.remade, "_factors", "_local")

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
        unless_told = 150 if self.may_factor else 5_000
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
            suited = self._suited(sigma)
            if suited is not None:
                whole = right.double(), sigma.double()
                found = self._iterated(*whole, start, suited, self.tolerance, self.most_steps)
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

    def _suited(self, sigma: Tensor) -> Preconditioner | None:
        """The first by which iterations converge, within an octave that ends above σ, or None."""
        level = float(sigma.max()) if len(sigma) else 0.0
        if not 0 < level < inf:
            return self._diagonal
        octave = ceil(log2(level))
        if octave not in self._kept:
            with torch.inference_mode(False), torch.no_grad():
                self._kept[octave] = self._tried(torch.tensor([2.0**octave]).double())
        found: Preconditioner | None = self._kept[octave]
        return found

    def _tried(self, sigma: Tensor) -> Preconditioner | None:
        generator = torch.Generator().manual_seed(0)
        n = self.precision.graph.n_elements
        b = torch.randn(1, n, generator=generator, dtype=torch.float64)

        def converges(preconditioner: Preconditioner, steps: int) -> bool:
            limits = self.tolerance ** (1 / TRIED), ceil(steps / TRIED)
            return self._iterated(b, sigma, None, preconditioner, *limits).converged

        light = self.most_steps if self.quick else min(LIGHT, self.most_steps)
        if converges(self._diagonal, light):
            return self._diagonal
        if self.quick:
            return None
        local = self._local if self._local.cover else self._diagonal
        return None if self.may_factor and not converges(local, self.most_steps) else local

    def _iterated(
        self,
        b: Tensor,
        sigma: Tensor,
        start: Tensor | None,
        preconditioner: Preconditioner,
        tolerance: float,
        most_steps: int,
    ) -> Solution:
        squared = sigma[:, None] ** 2
        return iterate_conjugate_gradients(
            lambda v: v + squared * self.product(v),
            b,
            tolerance=tolerance,
            most_steps=most_steps,
            precondition=preconditioner(b, squared),
            start=None if start is None else start.detach().to(b),
            indefinite=lambda: indefinite(self.precision),
        )

    def _diagonal(self, b: Tensor, squared: Tensor) -> Callable[[Tensor], Tensor]:
        """Division by 1 + σ² P_ii, which an indefinite P may have below 0."""
        scale = 1 / (1 + squared * self.product.diagonal(b)).clamp(min=1e-12)
        return lambda r: scale * r

    @cached_property
    def _local(self) -> LocalSolves:
        return LocalSolves(self.precision)

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
