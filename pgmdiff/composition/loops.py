r"""What graphs with loops require besides the covariances of their regions: a mean, and the fade.

On loops the composed precision P is not that of the data, and posteriors are joined with the
maximum-entropy completion K of the covariances in its place (`precision.completing`):

    (I + σ² K) s = b - (K - P)(u - m)

b joins what the regions say, and m is the mean of the data. Where data is not Gaussian, the term
(K - P)(u - m) is wrong inside a mode. It fades, per sample, between the solutions with K and with a
P' that is P where I + σ² P is well definite (`precision.Loops`):

    s = w s_K + (1 - w) s_P',      w = 1 / (1 + x²)
    x = Σ_r g_rᵀ (Σ_r + σ²) g_r / Σ_r dim_r,     g_r = s_r + (Σ_r + σ²)⁻¹ (x_r - m_r),

where r runs over outer regions, whose models see x_r. For Gaussian data x = 0 and w = 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgmdiff.composition.evaluate import Chunk, Evaluate
from pgmdiff.errors import GraphError, ShapeError, warn
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Shape, implicit_fixed_point
from pgmdiff.precision import (
    Completion,
    ComposedPrecision,
    LargeLoops,
    Neighbourhoods,
    nearby,
)
from pgmdiff.precision.forms import by_region
from pgmdiff.precision.solves.loops import Fading
from pgmdiff.text import by_field

__all__ = ["ClosedLoops", "state_mean"]

MOST_STEPS = 30
"""Most evaluations that measure a mean."""
COMPOSED = 1e-5
"""Largest entry of (K - P) v, for a random v of one deviation, at which K counts as P."""
OFF = 0.05
"""Residual of a completion by neighbourhoods, in units of variances, above which it is told."""


@dataclass(frozen=True, eq=False)
class ClosedLoops:
    """The completion of a graph's covariances, the mean of its data, and the fade between K and P.

    Attributes:
        solve: solves with K, and the fade.
        precision: P, which holds the Σ_r.
        mean: m, float64 `[N]`; None if it is to be measured.
        completion: K of covariances that belong to one distribution.
        fades: whether the fade is used; if not, w = 1.
    """

    solve: Fading
    precision: ComposedPrecision
    mean: Tensor | None
    completion: Completion | Neighbourhoods
    fades: bool

    __repr__ = by_field

    @classmethod
    def large(
        cls, precision: ComposedPrecision, mean: Tensor | None, who: str
    ) -> "ClosedLoops | None":
        """Those of a large graph by neighbourhoods; None where K = P, or P has to stand for it."""
        whole = nearby(precision.graph, precision.covariances)
        if whole is None or not isfinite(whole.residual):
            return None
        solve = LargeLoops(whole.solve, whole.precision, precision)
        units = precision.variances.sqrt()
        generator = torch.Generator().manual_seed(0)
        anywhere = units * torch.randn(1, len(units), generator=generator, dtype=torch.float64)
        if float((units * solve.pulled(anywhere)).abs().max()) <= COMPOSED:
            return None
        if whole.residual > OFF:
            warn(
                f"{who}: covariances under the completion, which is computed from neighbourhoods "
                f"beyond 2,000 elements, differ from those given by up to {whole.residual:.2g} of "
                "a variance, since correlations reach farther along loops. Give regions that "
                "overlap more, or the covariances a larger ridge."
            )
        return cls(solve, precision, mean, whole, fades=True)

    @property
    def graph(self) -> RegionGraph:
        """The graph."""
        return self.precision.graph

    @cached_property
    def level(self) -> float:
        """The level at which a mean is measured: ten times the largest standard deviation."""
        return 10 * float(self.precision.variances.max().sqrt())

    @cached_property
    def n_outer(self) -> int:
        """Σ_r dim_r over the counted outer regions."""
        groups = self.graph.groups
        return sum(int((g.outer & (g.counts != 0)).sum()) * prod(g.shape) for g in groups)

    @cached_property
    def constant(self) -> float:
        """½ Σ_r c_r log det Σ_r + ½ log det K, which is 0 on junction trees."""
        total = self.solve.log_volume
        for block in self.precision.blocks:
            logs = torch.linalg.slogdet(block.precisions.dense())[1]
            total = total - block.counts @ logs.expand(len(block.counts))
        return 0.5 * float(total)

    def measured_mean(self, evaluate: Evaluate, like: Tensor) -> Tensor:
        """The fixed point of the denoisers at a high level, per sample: float64 `[B, N]`."""
        sigma, mean = torch.full_like(like[:, 0], self.level), torch.zeros_like(like)
        small, eps = 1e-5 * self.precision.variances.sqrt().to(like), torch.finfo(like.dtype).eps

        def moves(mean: Tensor) -> Tensor:
            sums, times = torch.zeros_like(mean), torch.zeros_like(mean)
            for chunk, scores in evaluate(mean, sigma):
                outer = torch.tensor(chunk.batch.group.outer[chunk.start : chunk.stop])
                weights = outer.to(scores)[:, None].expand_as(scores)
                for total, values in ((sums, self.level**2 * scores * weights), (times, weights)):
                    total[chunk.samples].index_add_(1, chunk.index, values.flatten(1))
            return sums / times.clamp(min=1)

        with torch.no_grad():
            for _ in range(MOST_STEPS):
                move = moves(mean)
                still = (move.abs() <= small + 8 * eps * mean.abs()).all(dim=1, keepdim=True)
                mean = mean + move.where(~still, 0)
                if still.all():
                    break
        if torch.is_grad_enabled():
            tolerance = max(1e-8, 100 * eps)
            mean = implicit_fixed_point(moves, mean, tolerance=tolerance, what="mean")
        return mean.double()

    def misfit(self, chunk: Chunk, u: Tensor, eta: Tensor, scores: Tensor, sigma: Tensor) -> Tensor:
        """The terms of Σ_r g_rᵀ (Σ_r + σ²) g_r of a chunk's outer regions, `[samples]`.

        The state less its mean is `[B, N]`, messages and scores are `[samples, regions, d]`.
        """
        level, batch = sigma[chunk.samples, None, None] ** 2, chunk.batch
        rows = slice(chunk.start, chunk.stop)
        outer = batch.group.outer[rows]
        if not outer.any():
            return torch.zeros_like(level[:, 0, 0])
        assert batch.precisions is not None, "the plan holds those of a bound rule"
        values, vectors = batch.precisions.modes_of(rows)
        x = chunk.gather(u) + level * eta
        away, own = (by_region(each.double(), vectors) for each in (x, scores))
        variances = 1 / values + level
        terms: Tensor = (own + away / variances) ** 2 * variances
        if not outer.all():
            terms = terms * torch.tensor(outer).to(terms)[:, None]
        return terms.sum(dim=(1, 2))

    def fade(self, misfit: Tensor) -> Tensor:
        """The weights w, `[B]`, of the sums of `misfit`."""
        return 1 / (1 + (misfit / self.n_outer) ** 2) if self.fades else torch.ones_like(misfit)


def state_mean(graph: RegionGraph, mean: Tensor | Mapping[Any, Tensor] | None) -> Tensor | None:
    """The mean of the state, float64 `[N]`, from one of the event shape or one per region.

    Where regions overlap, means by name are averaged, as covariances are.

    Raises:
        GraphError: means by name leave out an element.
        ShapeError: a mean has another shape, or is not finite.
    """
    if mean is None:
        return None
    if isinstance(mean, Mapping):
        total, times = torch.zeros(2, graph.n_elements, dtype=torch.float64)
        for name, values in mean.items():
            index = graph.elements(name)
            given = _numbers(values, tuple(index.shape), f"that of {name!r} as")
            total.index_add_(0, index.reshape(-1), given.reshape(-1))
            times.index_add_(0, index.reshape(-1), torch.ones_like(given).reshape(-1))
        if not times.all():
            raise GraphError(
                "mean: expected the means of regions that cover the state, got none for element "
                f"{int((times == 0).nonzero()[0])}. Give those of all outer regions."
            )
        whole: Tensor = total / times
        return whole
    return _numbers(mean, graph.event_shape, "the shape").reshape(-1)


def _numbers(values: Any, shape: Shape, what: str) -> Tensor:
    """A mean as float64 on the CPU, or a `ShapeError`."""
    if not isinstance(values, Tensor):
        try:
            values = torch.from_numpy(np.asarray(values, np.float64))
        except (TypeError, ValueError):
            raise ShapeError(
                f"mean: expected {what} {shape}, got {values!r}. Give a tensor, or a mapping from "
                "the names of regions to one of each."
            ) from None
    if tuple(values.shape) != shape or values.is_complex():
        raise ShapeError(
            f"mean: expected {what} {shape}, got {tuple(values.shape)} of {values.dtype}. Give one "
            "real number per element, those of regions as their models see them."
        )
    if not values.isfinite().all():
        raise ShapeError("mean: it holds NaN or infinity. Remove states that do.")
    found: Tensor = values.detach().double().cpu()
    return found
