r"""Consistent composition: local posteriors that exchange messages until they agree.

The posterior of the clean state factorises over regions at every σ. `Posterior` closes the factors
with Gaussians; here every local posterior is also tilted by exp(η_r · x_r), so that the local means
come to agree on what regions share. For a Gaussian likelihood a tilt only shifts the noisy input,
N(u; x, σ²) e^{η x} ∝ N(u + σ² η; x, σ²), so that an ordinary denoiser carries the messages:

    d_r   = η_r + s_r(A_r u + σ² η_r, σ)
    s     = (I + σ² K)⁻¹ [Σ_r c_r A_rᵀ ((I + σ² Σ_r⁻¹) d_r - η_r) - (K - P)(u - m)]
    η_r  ← τ (η_r + γ (I + σ² Σ_r⁻¹)(A_r s - d_r))

K is the maximum-entropy completion of the Σ_r (see `precision.completing`) and P the composed
precision; on a junction tree K = P. The damping is γ, and τ ≤ 1, per sample, keeps every
rms(σ η_r) within the trust radius. At a fixed point d_r = A_r s for all r: this is expectation
consistency with first moments (Opper, Winther, "Expectation consistent approximate inference",
2005; Heskes, Opper, Wiegerinck, Winther, Zoeter, "Approximate inference techniques with expectation
constraints", 2005). From η = 0 the first evaluation is posterior composition.

Where data is not Gaussian, the loop term (K - P)(u - m) is wrong inside a mode. It fades, per
sample, between the solutions with K and with a P' that is P where I + σ² P is well definite:

    s = w s_K + (1 - w) s_P',      w = 1 / (1 + x²)
    x = Σ_r g_rᵀ (Σ_r + σ²) g_r / Σ_r dim_r,     g_r = s_r + (Σ_r + σ²)⁻¹ (u_r - m_r),

where r runs over outer regions and inputs are the shifted ones. For Gaussian data x = 0 and w = 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgmdiff.composition.evaluate import Chunk, Evaluate
from pgmdiff.composition.plan import Batch
from pgmdiff.composition.posterior import provider_of, sharpened
from pgmdiff.composition.rules import Marginal, Memory, Rule, bound
from pgmdiff.errors import GraphError, ScoreError, ShapeError
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Floats
from pgmdiff.precision import ComposedPrecision, Covariances, RegionPrecisions, solver_of
from pgmdiff.precision.completing import Blocks, completed
from pgmdiff.precision.precision import taken_blocks
from pgmdiff.precision.solves.choice import on_junction_tree
from pgmdiff.precision.solves.loops import Loops
from pgmdiff.text import counted, described

__all__ = ["Consistent"]

COMPLETED = 2_000
"""Most elements for which the completion is computed; beyond, on loops, P stands for K."""
MOST_STEPS = 30
"""Most evaluations that measure a mean."""
MESSAGES, MEAN = "messages", "mean"
"""Names in the memory: η, `[B, M]`, region after region, and a mean that was measured, `[B, N]`."""


@dataclass(frozen=True, repr=False)
class Consistent(Rule):
    r"""Composition that is exact for Gaussians on any graph, with messages for other data.

    See the module for the formulas. A run carries the messages from call to call (`sample` does),
    at one evaluation of every region per call, like the paper's rule. A call without memory is a
    pure function of (u, σ): it begins without messages, and makes `iterations` evaluations.

    It is the exact score at every σ for Gaussian data Markov to the graph, loops included, with
    true covariances and mean. For other data it is an approximation; fixed points of the messages
    need not be unique, not even on trees.

    Args:
        covariances: region name (or model id) to the `[d, d]` covariance of its clean values; or a
            provider, such as `fit_covariances` returns. On loops, regions that disagree on what
            they share are averaged there, and the completion of the averages is used.
        mean: m, of the event shape of the state, or by region name, as the region's model sees it.
            If None, the `mean` of the covariances. If they have none, it is measured on graphs with
            loops, once per run: the fixed point of u ← Σ_r A_rᵀ D_r / Σ_r A_rᵀ 1 over outer
            regions, at ten times the largest standard deviation, by a few evaluations more.
            Junction trees require none.
        trust: the largest rms(σ η_r) of a region's message.
        damping: γ in (0, 1].
        iterations: evaluations of every region per call.

    Raises:
        GraphError: the covariances have no completion, or a mean by name leaves out an element.
        ShapeError: a covariance or the mean has another shape.
        ScoreError: an option is out of range.
    """

    covariances: Mapping[Any, Tensor] | Covariances
    mean: Tensor | Mapping[Any, Tensor] | None = None
    trust: float = 1.0
    damping: float = 0.5
    iterations: int = 1
    loops: "_Loops | None" = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        numbers = all(isinstance(each, Real) for each in (self.trust, self.damping))
        sound = numbers and 0 <= self.trust < float("inf") and 0 < self.damping <= 1
        if not (sound and isinstance(self.iterations, int) and self.iterations >= 1):
            raise ScoreError(
                "Consistent: expected trust >= 0, damping in (0, 1] and an integer iterations >= "
                f"1, got {self.trust!r}, {self.damping!r} and {self.iterations!r}."
            )

    def __repr__(self) -> str:
        given = self.covariances
        several = counted(len(given), "covariance") if isinstance(given, Mapping) else ""
        options = f"trust={self.trust:g}", f"damping={self.damping:g}"
        times = f"iterations={self.iterations}" if self.iterations > 1 else ""
        return described(self, several or type(given).__name__, *options, times)

    def weights(self, graph: RegionGraph) -> list[Floats]:
        return Marginal().weights(graph)

    def bind(self, graph: RegionGraph) -> "Consistent":
        given = self.covariances
        provider = provider_of(given, "Consistent")
        if on_junction_tree(graph) or graph.n_elements > COMPLETED:
            precision = ComposedPrecision(graph, provider)
            return bound(self, precision=precision, solve=solver_of(precision))
        whole = completed(graph, provider)
        precision = ComposedPrecision(graph, Blocks(whole.covariance))
        solve = Loops(whole.precision, precision.dense())
        outer = ((group.outer & (group.counts != 0)).sum() for group in graph.groups)
        sizes = (prod(group.shape) for group in graph.groups)
        n_outer = sum(int(n) * size for n, size in zip(outer, sizes, strict=True))
        mean = getattr(given, "mean", None) if self.mean is None else self.mean
        loops = _Loops(solve, _state_mean(graph, mean), whole.covariance, n_outer)
        return bound(self, precision=precision, loops=loops, solve=solve)

    def precisions(self, group: RegionGroup) -> RegionPrecisions | None:
        return None if self.precision is None else self.precision.inverse(group)

    def score(
        self, evaluate: Evaluate, u: Tensor, sigma: Tensor, memory: Memory | None = None
    ) -> Tensor:
        known = {} if memory is None else memory
        messages, mean = known.get(MESSAGES), known.get(MEAN)
        if messages is not None and len(messages) != len(u):
            raise ScoreError(
                f"Consistent: expected the batch of the run, {len(messages)} samples, whose "
                f"messages are remembered, got {len(u)}. Begin another run: joint.remembering()."
            )
        if self.loops is not None and mean is None:
            mean = self.loops.mean
            if mean is None:
                known[MEAN] = mean = self.loops.measured_mean(evaluate, u)
        for _ in range(self.iterations):
            score, after = self.iterated(evaluate, u, sigma, messages, mean)
            messages = after.to(u)
        if messages is not None:
            known[MESSAGES] = messages
        return score.to(u)

    def iterated(
        self,
        evaluate: Evaluate,
        u: Tensor,
        sigma: Tensor,
        messages: Tensor | None,
        mean: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The score for messages η `[B, M]` and m, `[N]` or `[B, N]`, and the next messages."""
        centred = u if mean is None else u - mean.to(u.device)
        shift = None if messages is None else messages * sigma[:, None] ** 2
        total, levels = torch.zeros_like(u, dtype=torch.float64), sigma.double()
        misfit = torch.zeros_like(levels)
        local, size = [], 0
        for chunk, scores in evaluate(u, sigma, shift=shift):
            eta = torch.zeros_like(scores) if messages is None else chunk.own(messages)
            tilted = scores.double() + eta
            chunk.add(total, sharpened(tilted, chunk, sigma) - eta)
            local.append((chunk, tilted, eta))
            size = max(size, chunk.places.stop)
            if self.loops is not None:
                x = chunk.gather(centred) + sigma[chunk.samples, None, None] ** 2 * eta
                misfit[chunk.samples] += self.loops.misfit(chunk, x, scores, levels)
        if self.loops is not None:
            score = self.loops.solve.faded(total, centred.double(), 1 / (1 + misfit**2), levels)
        else:
            assert self.solve is not None, "compose binds it"
            score = self.solve(total, levels)
        after, rms = total.new_zeros(len(u), size), torch.zeros_like(levels)
        for chunk, tilted, eta in local:
            gap = sharpened(chunk.gather(score) - tilted, chunk, sigma)
            moved = (eta + self.damping * gap).detach()
            chunk.own(after).copy_(moved)
            largest = moved.square().mean(dim=2).amax(dim=1).sqrt()
            rms[chunk.samples] = torch.maximum(rms[chunk.samples], largest)
        within = (self.trust / (levels * rms).clamp(min=1e-300)).clamp(max=1)
        return score, after * within[:, None]


@dataclass(frozen=True, eq=False)
class _Loops:
    """What a graph with loops requires besides its regions' covariances.

    Attributes:
        solve: solves with K, and the fade.
        mean: m, float64 `[N]`; None if it is to be measured.
        covariance: K⁻¹, float64 `[N, N]`.
        n_outer: Σ_r dim_r over the counted outer regions.
    """

    solve: Loops
    mean: Tensor | None
    covariance: Tensor
    n_outer: int
    _modes: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def modes(self, batch: Batch, like: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of every Σ_r of a batch, `[n, d]` and `[n, d, d]`, kept."""
        key = batch.offset, like.device
        if key not in self._modes:
            index = batch.group.indices(0, len(batch.group)).reshape(len(batch.group), -1).cpu()
            with torch.inference_mode(False):
                found = torch.linalg.eigh(taken_blocks(self.covariance, index))
                self._modes[key] = found[0].to(like.device), found[1].to(like.device)
        return self._modes[key]

    def measured_mean(self, evaluate: Evaluate, like: Tensor) -> Tensor:
        """The fixed point of the denoisers at a high level, per sample: float64 `[B, N]`."""
        level = 10 * float(self.covariance.diagonal().max().sqrt())
        sigma, mean = torch.full_like(like[:, 0], level), torch.zeros_like(like)
        for _ in range(MOST_STEPS):
            sums, times = torch.zeros_like(mean), torch.zeros_like(mean)
            for chunk, scores in evaluate(mean, sigma):
                outer = torch.tensor(chunk.batch.group.outer[chunk.start : chunk.stop])
                weights = outer.to(scores)[:, None].expand_as(scores)
                for total, values in ((sums, level**2 * scores * weights), (times, weights)):
                    total[chunk.samples].index_add_(1, chunk.index, values.flatten(1))
            move = (sums / times.clamp(min=1)).detach()
            mean = mean + move
            if float(move.abs().max()) <= 1e-6 * level:
                break
        return mean.double()

    def misfit(self, chunk: Chunk, x: Tensor, scores: Tensor, sigma: Tensor) -> Tensor:
        """The terms of x of a chunk's outer regions, `[samples]`.

        They are g_rᵀ (Σ_r + σ²) g_r / Σ_r dim_r, for inputs less their means, and scores, both
        `[samples, regions, d]`.
        """
        outer = torch.tensor(chunk.batch.group.outer[chunk.start : chunk.stop], device=x.device)
        values, vectors = (t[chunk.start : chunk.stop][outer] for t in self.modes(chunk.batch, x))
        variances = values + sigma[chunk.samples, None, None] ** 2
        away, own = (
            torch.einsum("brd,rde->bre", part[:, outer].double(), vectors) for part in (x, scores)
        )
        terms: Tensor = (own + away / variances) ** 2 * variances
        return terms.sum(dim=(1, 2)) / self.n_outer


def _state_mean(graph: RegionGraph, mean: Tensor | Mapping[Any, Tensor] | None) -> Tensor | None:
    """The mean of the state, float64 `[N]`, from one of the event shape or one per region."""
    if mean is None:
        return None
    if isinstance(mean, Mapping):
        whole = torch.full((graph.n_elements,), torch.nan, dtype=torch.float64)
        for name, values in mean.items():
            index = graph.elements(name)
            given = torch.as_tensor(values).detach().double().cpu()
            if given.shape != index.shape:
                raise ShapeError(
                    f"Consistent: expected the mean of {name!r} as {tuple(index.shape)}, got "
                    f"{tuple(given.shape)}. Give it as the region's model sees it."
                )
            whole[index] = given
        if whole.isnan().any():
            raise GraphError(
                "Consistent: expected the means of regions that cover the state, got none for "
                f"element {int(whole.isnan().nonzero()[0])}. Give those of all outer regions."
            )
        return whole
    found = mean if isinstance(mean, Tensor) else torch.from_numpy(np.asarray(mean, np.float64))
    if tuple(found.shape) != graph.event_shape:
        raise ShapeError(
            f"Consistent: expected a mean of shape {graph.event_shape}, got "
            f"{tuple(found.shape)}. Give one number per element of the state."
        )
    if not found.isfinite().all():
        raise ShapeError("Consistent: the mean holds NaN or infinity. Remove states that do.")
    return found.detach().double().cpu().reshape(-1)
