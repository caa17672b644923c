r"""Region covariances, the composed precision, and solves with it: for posterior composition.

    P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r          (σ-independent; Σ_r the clean data covariance of region r)

Posterior and evidence composition solve (I + σ² P) s = b for many b and few σ. On a small state one
eigendecomposition serves every σ; on a junction tree a sparse factorisation, made once a σ, costs
what its cliques do (linear in a chain's length); elsewhere conjugate gradients need only products.

P must be positive definite. On a junction tree it is if all covariances are read off one positive
definite estimate. On loops it can be indefinite: then `shrinkage` λ moves every region towards one
common diagonal M (the mean over regions of their variances), Σ_r ← (1 - λ) Σ_r + λ A_r M A_rᵀ;
λ = 1 is the marginal rule. Nothing is shrunk unless asked for; the error names the least λ.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import linalg
from torch import Tensor

from pgmdiff.errors import GraphError, ScoreError, ShapeError
from pgmdiff.graphs.regions import RegionGraph, RegionGroup

if TYPE_CHECKING:
    from pgmdiff.graphs.factor_graph import FactorGraph

__all__ = [
    "ComposedPrecision",
    "ConjugateGradients",
    "Covariances",
    "Dense",
    "Eigen",
    "Solve",
    "SparseFactors",
    "fit_covariances",
    "least_shrinkage",
    "solver_of",
]

SMALL = 768
"""Elements up to which one eigendecomposition serves every σ."""
SPARSE_ENTRIES = 20_000_000
"""Entries of region precisions up to which P is assembled, and factorised."""
KEPT_FACTORS = 8
ACCEPTED = 1e-8
"""Relative residual that conjugate gradients may end with."""


class Covariances(ABC):
    """Where the covariances of regions come from."""

    @abstractmethod
    def of(self, group: RegionGroup) -> Tensor:
        """Clean covariances of a group's regions: float64 `[n, d, d]`, flattened as models see it.

        `[1, d, d]` where all regions of the group share one.
        """


@dataclass(frozen=True)
class Dense(Covariances):
    """Given one by one.

    Args:
        matrices: region name, or model id, to `[d, d]`; names come first.
    """

    matrices: Mapping[Any, Tensor]

    def of(self, group: RegionGroup) -> Tensor:
        d = prod(group.shape)
        if group.model is not None and not any(name in self.matrices for name in group.names):
            return self._checked(group.model, group.name(0), d)[None]
        found = (name if name in self.matrices else group.model for name in group.names)
        named = zip(group.names, found, strict=True)
        return torch.stack([self._checked(key, name, d) for name, key in named])

    def _checked(self, key: Hashable, name: Hashable, d: int) -> Tensor:
        if key not in self.matrices:
            raise GraphError(
                f"Posterior: region {name!r} has no covariance. Give one by its name or model id; "
                "that of a sub-region can be read off a region around it, or fit_covariances."
            )
        matrix = torch.as_tensor(self.matrices[key]).detach()
        if tuple(matrix.shape) != (d, d):
            raise ShapeError(
                f"Posterior: expected the covariance of {name!r} as [{d}, {d}], got "
                f"{tuple(matrix.shape)}. Flatten the region in the order its model sees."
            )
        return (matrix + matrix.T).double().cpu() / 2


@dataclass(frozen=True)
class Pooled(Covariances):
    """Estimated together; see `fit_covariances`.

    Attributes:
        outer: name of an outer region to its `[d, d]` covariance, float64.
        parents: region name to an outer region around it, and its places there `[d]`.
    """

    outer: Mapping[Hashable, Tensor] = field(repr=False)
    parents: Mapping[Hashable, tuple[Hashable, Tensor]] = field(repr=False)

    def of(self, group: RegionGroup) -> Tensor:
        parts = [self.parents[name] for name in group.names]
        return torch.stack([self.outer[p][places][:, places] for p, places in parts])


def fit_covariances(
    graph: "FactorGraph | RegionGraph", data: Tensor | Iterable[Tensor], *, ridge: float = 1e-6
) -> Pooled:
    """Region covariances from clean states, in one pass, so that they agree on overlaps.

    Only the outer regions are estimated; every sub-region is read off the first outer region
    around it. Since all come from the same states they are blocks of one positive definite
    estimate, and on a junction tree P is positive definite. Estimated one by one from different
    samples they often are not.

    Args:
        graph: its counted regions must each lie inside an outer one, as they do in all our graphs.
        data: states `[n, *event]`, or batches of them: streamed, never held together.
        ridge: added to the variances, relative to their mean: what was never seen is not
            impossible.

    Raises:
        ShapeError: fewer than two states, or states of another shape.
        GraphError: a region lies inside no outer one.

    Example:
        >>> import torch
        >>> from pgmdiff import Posterior
        >>> from pgmdiff.graphs import chain
        >>> from pgmdiff.precision import fit_covariances
        >>> generator = torch.Generator().manual_seed(0)
        >>> data = torch.randn(500, 3, generator=generator).cumsum(1)
        >>> Posterior(fit_covariances(chain(3), data))
        Posterior(shrinkage=0.0)
    """
    regions = graph.regions
    outer = {
        group.name(row): group.indices(row, row + 1).reshape(-1)
        for group in regions.groups
        for row in np.flatnonzero(group.outer).tolist()
    }
    n, sums = 0, torch.zeros(regions.n_elements, dtype=torch.float64)
    products: dict[Hashable, Tensor] = {}
    for batch in [data] if isinstance(data, Tensor) else data:
        if tuple(batch.shape[1:]) != regions.event_shape:
            raise ShapeError(
                f"fit_covariances: expected states [n, *{regions.event_shape}], got "
                f"{tuple(batch.shape)}. Reshape them, or pack a factor graph's variables."
            )
        flat = batch.detach().cpu().reshape(len(batch), -1).double()
        if n == 0:
            origin = flat.mean(dim=0)
        flat = flat - origin  # so that squares do not drown in a large mean
        n, sums = n + len(flat), sums + flat.sum(dim=0)
        for name, index in outer.items():
            part = flat[:, index]
            products[name] = part.T @ part + products.get(name, 0)
    if n < 2:
        raise ShapeError(f"fit_covariances: expected at least 2 states, got {n}.")
    mean = sums / n
    variances = {
        name: product / n - torch.outer(mean[outer[name]], mean[outer[name]])
        for name, product in products.items()
    }
    level = ridge * float(torch.cat([v.diagonal() for v in variances.values()]).mean())
    fitted = {name: v + level * torch.eye(len(v)).to(v) for name, v in variances.items()}
    return Pooled(fitted, _parents(regions, outer))


def _parents(
    graph: RegionGraph, outer: Mapping[Hashable, Tensor]
) -> dict[Hashable, tuple[Hashable, Tensor]]:
    """For every counted region an outer one around it, and its places there."""
    on: defaultdict[int, list[Hashable]] = defaultdict(list)
    for name, index in outer.items():
        for element in index.tolist():
            on[element].append(name)
    sets = {name: frozenset(index.tolist()) for name, index in outer.items()}
    found: dict[Hashable, tuple[Hashable, Tensor]] = {}
    for group in graph.groups:
        for row in np.flatnonzero((group.counts != 0) | group.outer).tolist():
            name, elements = group.name(row), group.indices(row, row + 1).reshape(-1)
            inside = frozenset(elements.tolist())
            around = [p for p in on[int(elements[0])] if inside <= sets[p]]
            if not around:
                raise GraphError(
                    f"fit_covariances: region {name!r} lies inside no outer region. Give its "
                    "covariance by name: Posterior({...})."
                )
            parent = name if name in outer else around[0]
            order = outer[parent].argsort()
            found[name] = parent, order[torch.searchsorted(outer[parent][order], elements)]
    return found


@dataclass(frozen=True, eq=False)
class Block:
    """A group's regions of nonzero count.

    Attributes:
        group: the regions.
        index: int64 `[n, d]`.
        counts: float64 `[n]`.
        variances: eigenvalues of the covariances, `[n or 1, d]`.
        inverse: of the covariances, `[n or 1, d, d]`.
    """

    group: RegionGroup
    index: Tensor
    counts: Tensor
    variances: Tensor
    inverse: Tensor


@dataclass(frozen=True, eq=False)
class ComposedPrecision:
    """P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r of a graph, in float64.

    Args:
        graph: valid.
        covariances: of its regions.
        shrinkage: λ in [0, 1].

    Raises:
        GraphError: a region has no covariance, or a singular one; λ out of range.
        ShapeError: a covariance of another shape.
    """

    graph: RegionGraph
    covariances: Covariances
    shrinkage: float = 0.0
    _inverses: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.shrinkage <= 1:
            raise GraphError(f"Posterior: expected a shrinkage from 0 to 1, got {self.shrinkage}.")
        _ = self.blocks  # its errors belong to construction

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The counted regions, group by group."""
        return tuple(self._blocks())

    def _blocks(self) -> Iterator[Block]:
        for group, index in self._counted():
            counts = torch.from_numpy(group.counts / self.graph.denominator)
            yield Block(group, index, counts, *self.inverse(group))

    def _counted(self) -> Iterator[tuple[RegionGroup, Tensor]]:
        """The regions of nonzero count of every group, and their elements `[n, d]`."""
        for group in self.graph.groups:
            rows = np.flatnonzero(group.counts)
            if len(rows):
                some = group.select(rows)
                yield some, some.indices(0, len(some)).reshape(len(some), -1)

    def inverse(self, group: RegionGroup) -> tuple[Tensor, Tensor]:
        """Eigenvalues `[n or 1, d]` of the (shrunk) covariances of a group, and their inverses.

        Kept: the plan asks again for what P was made of.
        """
        key = (group.model, group.shape, *group.names)
        if key not in self._inverses:
            self._inverses[key] = self._inverted(group)
        return self._inverses[key]

    def _inverted(self, group: RegionGroup) -> tuple[Tensor, Tensor]:
        covariance = self._shrunk(group)
        infinite = ~covariance.isfinite().flatten(1).all(dim=1)
        if infinite.any():
            row = int(infinite.nonzero()[0])
            raise GraphError(
                f"Posterior: the covariance of {group.name(row)!r} holds NaN or infinity. "
                "Remove states that are not finite before estimating it."
            )
        values, vectors = torch.linalg.eigh(covariance)
        floor = 1e-13 * values.abs().amax(dim=1, keepdim=True)
        if not (values > floor).all():
            row = int((values <= floor).any(dim=1).nonzero()[0])
            raise GraphError(
                f"Posterior: the covariance of {group.name(row)!r} is singular or indefinite, its "
                f"eigenvalues go from {values[row].min():.3g} to {values[row].max():.3g}. Estimate "
                "it from more samples, or add to its diagonal."
            )
        return values, (vectors / values[:, None]) @ vectors.mT

    def _shrunk(self, group: RegionGroup) -> Tensor:
        covariance = self.covariances.of(group)
        if self.shrinkage == 0:
            return covariance
        index = group.indices(0, len(group)).reshape(len(group), -1)
        common = torch.diag_embed(self._common_variances[index])
        return (1 - self.shrinkage) * covariance + self.shrinkage * common

    @cached_property
    def _common_variances(self) -> Tensor:
        """Every element's variance, averaged over the counted regions that hold it."""
        total = torch.zeros(2, self.graph.n_elements, dtype=torch.float64)
        for group, index in self._counted():
            variances = self.covariances.of(group).diagonal(dim1=1, dim2=2).expand(index.shape)
            total[0].index_add_(0, index.reshape(-1), variances.reshape(-1))
            total[1].index_add_(0, index.reshape(-1), torch.ones_like(variances).reshape(-1))
        return total[0] / total[1]

    @property
    def n_entries(self) -> int:
        """Entries of all region precisions together."""
        return sum(block.index.shape[0] * block.index.shape[1] ** 2 for block in self.blocks)

    def sparse(self) -> "sparse.csc_array":
        """P, assembled: float64 `[N, N]`."""
        n = self.graph.n_elements
        total = sparse.csc_array((n, n))
        for block in self.blocks:
            values = (block.counts[:, None, None] * block.inverse).numpy()
            rows = block.index[:, :, None].expand(values.shape).numpy().ravel()
            columns = block.index[:, None].expand(values.shape).numpy().ravel()
            total = total + sparse.coo_array((values.ravel(), (rows, columns)), (n, n)).tocsc()
        return total

    def dense(self) -> Tensor:
        """P, assembled: float64 `[N, N]`."""
        total = torch.zeros((self.graph.n_elements,) * 2, dtype=torch.float64)
        for block in self.blocks:
            values = block.counts[:, None, None] * block.inverse
            rows, columns = block.index[:, :, None], block.index[:, None]
            total.index_put_((rows, columns), values, accumulate=True)
        return total

    def log_determinants(self, sigma: Tensor) -> Tensor:
        """Σ_r c_r log det(I + σ² Σ_r⁻¹) for sigma `[B]`: `[B]`."""
        total = torch.zeros_like(sigma, dtype=torch.float64)
        for block in self.blocks:
            ratio = sigma.double()[:, None, None].cpu() ** 2 / block.variances
            logs = torch.log1p(ratio).sum(dim=2).expand(-1, len(block.counts))
            total = total + (logs @ block.counts).to(total.device)
        return total


def least_shrinkage(precision: ComposedPrecision) -> float:
    """The least λ* such that P is positive definite for every λ in [λ*, 1], to about 1e-3."""

    def definite(shrinkage: float) -> bool:
        shrunk = ComposedPrecision(precision.graph, precision.covariances, shrinkage)
        return int(torch.linalg.cholesky_ex(shrunk.dense()).info) == 0

    upper, lower = 1.0, 0.0
    for step in range(19, -1, -1):
        if not definite(step / 20):
            lower = step / 20
            break
        upper = step / 20
    while upper - lower > 1e-3 and upper > 0:
        middle = (lower + upper) / 2
        lower, upper = (lower, middle) if definite(middle) else (middle, upper)
    return upper


class Solve(ABC):
    """Solves with I + σ² P."""

    @abstractmethod
    def __call__(self, b: Tensor, sigma: Tensor) -> Tensor:
        """(I + σ² P)⁻¹ b for b `[B, N]`, sigma `[B]`; differentiable in b."""

    @abstractmethod
    def log_determinant(self, sigma: Tensor) -> Tensor:
        """The log-determinant of I + σ² P, float64 `[B]`; not differentiable in σ."""


def solver_of(precision: ComposedPrecision) -> Solve:
    """The solve that suits a graph: by its size, and by whether it is a junction tree.

    Raises:
        GraphError: P is not positive definite.
    """
    if precision.graph.n_elements <= SMALL:
        return Eigen(precision)
    tree = precision.graph.junction_tree
    tree = precision.graph.validate().junction_tree if tree is None else tree
    if tree and precision.n_entries <= SPARSE_ENTRIES:
        return SparseFactors(precision)
    return ConjugateGradients(precision)


def _indefinite(precision: ComposedPrecision, smallest: float | None) -> GraphError:
    least = ""
    if precision.graph.n_elements <= SMALL:
        least = f" (the least that works is {least_shrinkage(precision):.3f})"
    shown = "" if smallest is None else f", its smallest eigenvalue is {smallest:.3g}"
    return GraphError(
        f"Posterior: the composed precision P is not positive definite{shown}. Read all "
        "covariances off one estimate (fit_covariances); on a graph with loops also shrink them: "
        f"Posterior(covariances, shrinkage=...){least}. shrinkage=1 is the marginal rule."
    )


class Eigen(Solve):
    """One eigendecomposition P = Q diag(λ) Qᵀ for every σ, sample and device."""

    def __init__(self, precision: ComposedPrecision) -> None:
        self.values, self.vectors = torch.linalg.eigh(precision.dense())
        if len(self.values) and self.values[0] <= 0:
            raise _indefinite(precision, self.values[0].item())
        self._placed: dict[Any, tuple[Tensor, Tensor]] = {}

    def __call__(self, b: Tensor, sigma: Tensor) -> Tensor:
        values, vectors = self._like(b)
        return (b @ vectors / (1 + sigma[:, None] ** 2 * values)) @ vectors.T

    def log_determinant(self, sigma: Tensor) -> Tensor:
        ratio = sigma.double()[:, None] ** 2 * self.values.to(sigma.device)
        return torch.log1p(ratio).sum(dim=1)

    def _like(self, b: Tensor) -> tuple[Tensor, Tensor]:
        key = (b.device, b.dtype)
        if key not in self._placed:
            with torch.inference_mode(False):
                self._placed[key] = self.values.to(*key), self.vectors.to(*key)
        return self._placed[key]


class SparseFactors(Solve):
    """A sparse LU factorisation a σ, kept for the latest few; on the CPU, in float64.

    Elimination in minimum-degree order: on a junction tree the work is linear in its cliques.
    """

    def __init__(self, precision: ComposedPrecision) -> None:
        self.matrix = precision.sparse()
        self._kept: OrderedDict[float, Any] = OrderedDict()
        if not (self._factors(np.inf).U.diagonal() > 0).all():
            raise _indefinite(precision, None)

    def __call__(self, b: Tensor, sigma: Tensor) -> Tensor:
        solved: Tensor = _Symmetric.apply(b, sigma, self._solve)
        return solved

    def log_determinant(self, sigma: Tensor) -> Tensor:
        logs = [np.log(self._factors(s).U.diagonal()).sum() for s in sigma.tolist()]
        return torch.tensor(logs, dtype=torch.float64, device=sigma.device)

    def _solve(self, b: Tensor, sigma: Tensor) -> Tensor:
        right = b.detach().cpu().double().numpy()
        out = np.empty_like(right)
        levels = sigma.detach().cpu().double().numpy()
        for level in np.unique(levels):
            rows = levels == level
            out[rows] = self._factors(float(level)).solve(np.ascontiguousarray(right[rows].T)).T
        return torch.from_numpy(out).to(b)

    def _factors(self, sigma: float) -> Any:
        """Of I + σ² P, or of P for σ = ∞; pivots are not permuted, so their signs are P's."""
        if sigma not in self._kept:
            matrix = self.matrix
            if sigma < np.inf:
                matrix = sparse.eye_array(self.matrix.shape[0], format="csc") + sigma**2 * matrix
            options = {"SymmetricMode": True}
            order = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": options}
            self._kept[sigma] = linalg.splu(matrix.tocsc(), **order)
            if len(self._kept) > KEPT_FACTORS:
                self._kept.popitem(last=False)
        return self._kept[sigma]


class ConjugateGradients(Solve):
    """Matrix-free, preconditioned by the diagonal, on the state's device, in float64.

    Attributes:
        residual: largest relative residual of the latest call.
    """

    def __init__(self, precision: ComposedPrecision, *, most_steps: int = 500) -> None:
        self.precision = precision
        self.most_steps = most_steps
        self.residual = 0.0
        self._placed: dict[Any, Any] = {}

    def __call__(self, b: Tensor, sigma: Tensor) -> Tensor:
        solved: Tensor = _Symmetric.apply(b, sigma, self._solve)
        return solved

    def log_determinant(self, sigma: Tensor) -> Tensor:
        raise GraphError(
            f"Evidence: log det(I + σ² P) of {self.precision.graph.n_elements} elements is not "
            f"computed beyond {SMALL} elements, except on junction trees. The score needs none."
        )

    def product(self, v: Tensor) -> Tensor:
        """P v for v `[B, N]`."""
        total = torch.zeros_like(v)
        for index, counts, inverse, _ in self._like(v):
            weighted = (v[:, index][:, :, None] @ inverse)[:, :, 0] * counts[:, None]
            total.index_add_(1, index.reshape(-1), weighted.flatten(1))
        return total

    def _like(self, v: Tensor) -> Any:
        key = (v.device, v.dtype)
        if key not in self._placed:
            with torch.inference_mode(False):
                self._placed[key] = [
                    (
                        block.index.to(v.device),
                        block.counts.to(*key),
                        block.inverse.to(*key),
                        block.inverse.diagonal(dim1=1, dim2=2).expand(block.index.shape).to(*key),
                    )
                    for block in self.precision.blocks
                ]
        return self._placed[key]

    def _diagonal(self, v: Tensor) -> Tensor:
        total = torch.zeros_like(v[0])
        for index, counts, _, diagonal in self._like(v):
            total.index_add_(0, index.reshape(-1), (counts[:, None] * diagonal).reshape(-1))
        return total

    def _solve(self, right: Tensor, sigma: Tensor) -> Tensor:
        b, s2 = right.double(), sigma.double()[:, None] ** 2
        scale = 1 / (1 + s2 * self._diagonal(b)).clamp(min=1e-12)
        x, r = torch.zeros_like(b), b.clone()
        z = scale * r
        p, rz = z, (r * z).sum(dim=1, keepdim=True)
        norm = b.norm(dim=1).clamp(min=torch.finfo(b.dtype).tiny)
        tolerance = 20 * torch.finfo(b.dtype).eps
        for _ in range(self.most_steps):
            self.residual = float((r.norm(dim=1) / norm).max()) if len(b) else 0.0
            if self.residual <= tolerance:
                return x.to(right)
            product = p + s2 * self.product(p)
            curvature = (p * product).sum(dim=1, keepdim=True)
            active = r.norm(dim=1, keepdim=True) > tolerance * norm[:, None]
            if (active & (curvature <= 0)).any():
                raise _indefinite(self.precision, None)
            step = torch.where(active, rz / torch.where(active, curvature, 1.0), 0)
            x, r = x + step * p, r - step * product
            z = scale * r
            rz, before = (r * z).sum(dim=1, keepdim=True), rz
            p = z + torch.where(active, rz / torch.where(active, before, 1.0), 0) * p
        if self.residual > ACCEPTED:
            raise ScoreError(
                f"Posterior: conjugate gradients left a relative residual of {self.residual:.2g} "
                f"after {self.most_steps} steps. Better conditioned covariances (shrinkage=), or "
                "float64, help."
            )
        return x.to(right)


class _Symmetric(torch.autograd.Function):
    """x = M⁻¹ b with M = I + σ² P: ∂x/∂b = M⁻¹, and ∂x/∂σ = -M⁻¹ 2σ P x = -(2/σ) M⁻¹ (b - x)."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, sigma: Tensor, solve: Any) -> Tensor:
        ctx.save_for_backward(b, sigma)
        ctx.solve = solve
        solved: Tensor = solve(b, sigma)
        return solved

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        b, sigma = ctx.saved_tensors
        pulled = _Symmetric.apply(gradient, sigma, ctx.solve)
        if not ctx.needs_input_grad[1]:
            return pulled, None, None
        x = _Symmetric.apply(b, sigma, ctx.solve)
        slope = torch.where(sigma > 0, -2 / sigma.clamp(min=1e-30), 0)
        return pulled, slope * (pulled * (b - x)).sum(dim=1), None
