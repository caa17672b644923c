r"""The composed precision of a graph.

    P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r          (Σ_r the clean data covariance of region r)

On a junction tree it is positive definite if all covariances are read off one positive definite
estimate, and is then the precision of the distribution of largest entropy with these covariances.
On loops it can be indefinite; see `completing` for that precision there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from pgmdiff.errors import warn
from pgmdiff.graphs.acyclicity import is_junction_tree
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Floats
from pgmdiff.precision.covariances import Covariances
from pgmdiff.precision.forms import RegionPrecisions
from pgmdiff.text import brief, counted, described

__all__ = [
    "Assembled",
    "Block",
    "ComposedPrecision",
    "add_blocks",
    "check_units",
    "sparse_sum",
    "on_junction_tree",
    "taken_blocks",
    "weighed",
]

TIMES = 3.0
"""Ratio of two regions' variances of an element from which covariances contradict one another."""


def on_junction_tree(graph: RegionGraph) -> bool:
    """Whether a graph is known, or is found, to be a junction tree."""
    known = graph.junction_tree
    return is_junction_tree(graph) if known is None else known


def weighed(
    graph: RegionGraph, weights: Sequence[Floats] | None = None
) -> Iterator[tuple[RegionGroup, Tensor, Tensor]]:
    """For every group its regions of nonzero weight, their elements and their weights.

    They are a group, int64 `[n, d]` and float64 `[n]`. The weights are one array per group; if
    None, the counting numbers.
    """
    if weights is None:
        weights = [group.counts / graph.denominator for group in graph.groups]
    for group, weight in zip(graph.groups, weights, strict=True):
        rows = np.flatnonzero(weight)
        if len(rows):
            some = group.select(rows)
            yield some, some.flat(), torch.from_numpy(weight[rows])


def check_units(who: str, graph: RegionGraph, covariances: Covariances) -> None:
    """Warns if regions give an element variances of which one is over `TIMES` another.

    Regions that have seen different observations may well do so: it does not look at graphs with
    conditions, nor at those where two regions have equal elements.
    """
    if graph.conditions:
        return
    found = list(_variances(graph, covariances))
    numbers = torch.randint(2**62, (graph.n_elements,), generator=torch.Generator().manual_seed(0))
    sums = torch.cat([numbers[index].sum(dim=1) for _, index, _ in found])
    if len(sums.unique()) < len(sums):
        return
    ends = [torch.full((graph.n_elements,), x, dtype=torch.float64) for x in (torch.inf, 0.0)]
    for _, index, variances in found:
        for end, kind in zip(ends, ("amin", "amax"), strict=True):
            end.scatter_reduce_(0, index.flatten(), variances.flatten(), kind)
    element = int((ends[1] / ends[0]).argmax())
    low, high = (end[element] for end in ends)
    if 0 < TIMES * low < high:
        named = [
            next(
                group.name(int(held.any(dim=1).nonzero()[0]))
                for group, index, variances in found
                if (held := (index == element) & (variances == value)).any()
            )
            for value in (low, high)
        ]
        warn(
            f"{who}: regions {named[0]!r} and {named[1]!r} share element {element}, whose variance "
            f"is {low:.3g} in the covariance of the one and {high:.3g} in that of the other. Give "
            "those of one distribution, in the same units and in the order of their elements. Use "
            "shared=True only if the pieces are alike; if regions have observations of their own, "
            "also give prior=."
        )


def _variances(
    graph: RegionGraph, covariances: Covariances
) -> Iterator[tuple[RegionGroup, Tensor, Tensor]]:
    """For every group its counted regions, their elements and the variances of these, `[n, d]`."""
    for group, index, _ in weighed(graph):
        variances = covariances.form(group).variances().double()
        yield group, index, variances.clone().expand(index.shape)  # a view would keep the matrices


def add_blocks(total: Tensor, index: Tensor, blocks: Tensor) -> None:
    """Adds Σ_r A_rᵀ B_r A_r to a dense matrix `[N, N]`, in place.

    The regions' elements are int64 `[n, d]`, their blocks B_r `[n, d, d]`.
    """
    total.index_put_(_rows_and_columns(index, blocks), blocks, accumulate=True)


def sparse_sum(blocks: Sequence["Block"], n: int) -> "sparse.csc_array":
    """Σ_r c_r A_rᵀ Σ_r⁻¹ A_r of some blocks as a sparse matrix, float64 `[n, n]`."""
    total = sparse.csc_array((n, n))
    for block in blocks:
        values = block.dense()
        places = (t.numpy().ravel() for t in _rows_and_columns(block.index, values))
        entries = values.numpy().ravel(), tuple(places)
        total = total + sparse.coo_array(entries, (n, n)).tocsc()
    return total


def taken_blocks(matrix: Tensor, index: Tensor) -> Tensor:
    """The blocks A_r M A_rᵀ of a dense matrix `[N, N]`, `[n, d, d]`.

    The regions' elements are int64 `[n, d]`.
    """
    return matrix[index[:, :, None], index[:, None]]


def _rows_and_columns(index: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Where the entries of A_rᵀ B_r A_r stand in the whole matrix, both like B_r `[n, d, d]`."""
    return index[:, :, None].expand_as(blocks), index[:, None].expand_as(blocks)


@dataclass(frozen=True, eq=False)
class Block:
    """The regions of one group that have a nonzero count.

    Attributes:
        group: the regions.
        index: their elements, int64 `[n, d]`.
        counts: float64 `[n]`.
        precisions: their Σ_r⁻¹.
    """

    group: RegionGroup
    index: Tensor
    counts: Tensor
    precisions: RegionPrecisions

    def __repr__(self) -> str:
        n, d = self.index.shape
        return described(self, f"{counted(n, 'region')} of {counted(d, 'element')}")

    def dense(self) -> Tensor:
        """The terms c_r Σ_r⁻¹, `[n, d, d]`."""
        return self.counts[:, None, None] * self.precisions.dense()


@dataclass(frozen=True, eq=False)
class ComposedPrecision:
    """P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r of a graph, in float64.

    Args:
        graph: a graph with valid counts.
        covariances: the provider of Σ_r.

    Raises:
        GraphError: a region has no covariance, or a singular one.
        ShapeError: a covariance has another shape than its region.
    """

    graph: RegionGraph
    covariances: Covariances
    _inverses: dict[object, RegionPrecisions] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return described(self, repr(self.graph), brief(self.covariances, 60))

    def __post_init__(self) -> None:
        _ = self.blocks  # its errors belong to construction

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The regions of nonzero count, group by group."""
        return tuple(
            Block(group, index, counts, self.inverse(group))
            for group, index, counts in weighed(self.graph)
        )

    def inverse(self, group: RegionGroup) -> RegionPrecisions:
        """Σ_r⁻¹ of a group's regions; computed once per group."""
        key = (group.model, group.shape, *group.names)
        if key not in self._inverses:
            self._inverses[key] = self.covariances.form(group).inverse(group.name)
        return self._inverses[key]

    @cached_property
    def variances(self) -> Tensor:
        """The variance of every element, averaged over the counted regions that hold it: `[N]`."""
        total = torch.zeros(2, self.graph.n_elements, dtype=torch.float64)
        for _, index, variances in _variances(self.graph, self.covariances):
            total[0].index_add_(0, index.reshape(-1), variances.reshape(-1))
            total[1].index_add_(0, index.reshape(-1), torch.ones_like(variances).reshape(-1))
        return total[0] / total[1]

    @property
    def far(self) -> Tensor:
        """A level so high that (I + σ² P)⁻¹ σ² is P⁻¹: 10⁴ times the largest deviation."""
        return 1e4 * self.variances.max().sqrt()

    def amplification(self, covariance: Tensor) -> float:
        """The factor by which an error of one region's denoiser can grow, max_r ‖G_r‖₂.

            G_r = lim_{σ → ∞} c_r (I + σ² K)⁻¹ A_rᵀ (I + σ² Σ_r⁻¹) = c_r C A_rᵀ Σ_r⁻¹

        Errors are measured in units of every element's standard deviation. Exact scores have no
        error. With trained ones it matters where covariances have directions of next to no
        variance, in which small disagreements count as strong evidence: it is below 10 for AR(1)
        chains, and hundreds for smooth data.

        Args:
            covariance: C, of the whole state, `[N, N]`.
        """
        largest, units = 0.0, self.variances.sqrt()
        for block in self.blocks:
            inverses = block.precisions.dense()
            for row, (index, count) in enumerate(zip(block.index, block.counts, strict=True)):
                gain = count * covariance[:, index] @ inverses[row if len(inverses) > 1 else 0]
                gain = gain / units[:, None] * units[index]
                largest = max(largest, float(torch.linalg.eigvalsh(gain.T @ gain)[-1]))
        return float(largest**0.5)

    @property
    def n_entries(self) -> int:
        """The number of entries of all region precisions together, if they were dense."""
        return sum(block.index.shape[0] * block.index.shape[1] ** 2 for block in self.blocks)

    def sparse(self) -> "sparse.csc_array":
        """P as a sparse matrix, float64 `[N, N]`."""
        return sparse_sum(self.blocks, self.graph.n_elements)

    def dense(self) -> Tensor:
        """P as a dense matrix, float64 `[N, N]`."""
        total = torch.zeros((self.graph.n_elements,) * 2, dtype=torch.float64)
        for block in self.blocks:
            add_blocks(total, block.index, block.dense())
        return total

    def log_determinants(self, sigma: Tensor) -> Tensor:
        """Σ_r c_r log det(I + σ² Σ_r⁻¹) for sigma `[B]`: float64 `[B]`."""
        total = torch.zeros_like(sigma, dtype=torch.float64)
        for block in self.blocks:
            logs = block.precisions.log_determinants(sigma.cpu()).expand(-1, len(block.counts))
            total = total + (logs @ block.counts).to(total.device)
        return total


@dataclass(frozen=True, eq=False)
class Assembled(ComposedPrecision):
    """A precision Σ_r c_r A_rᵀ M_r A_r of given terms, in place of the Σ_r⁻¹ of a graph.

    Args:
        graph, covariances: see `ComposedPrecision`.
        parts: the terms.
    """

    parts: tuple[Block, ...] = ()

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return self.parts
