r"""Posterior composition: the posteriors of regions, closed with Gaussians, on any graph.

The likelihood of u_σ given u_0 is a product over elements, each counted once, so wherever the clean
factorisation holds the posterior factorises exactly, at every σ and for any data:

    q(u_0 | u_σ) ∝ Π_r q(u_0r | u_σr)^{c_r}

Closed with Gaussians of mean D_r and covariance (Σ_r⁻¹ + σ⁻² I)⁻¹ this is

    (I + σ² K) s = Σ_r c_r A_rᵀ (I + σ² Σ_r⁻¹) s_r - (K - P)(u - m)

P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r is the composed precision, K the maximum-entropy completion of the Σ_r
and m the mean of the data. On a junction tree K = P, and no mean is required; on loops see `loops`.
"""

from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pgmdiff.composition.evaluate import Chunk, Evaluate
from pgmdiff.composition.loops import ClosedLoops, state_mean
from pgmdiff.composition.observed import Folded, Observed
from pgmdiff.composition.rules import Marginal, Memory, Rule, bound
from pgmdiff.composition.stars import SOLVED, Likely, likely
from pgmdiff.errors import GraphError
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.report import conflict
from pgmdiff.linalg import Floats
from pgmdiff.precision import (
    Blocks,
    Completion,
    ComposedPrecision,
    Covariances,
    IndefiniteError,
    Loops,
    RegionPrecisions,
    Solve,
    completed,
    provider_of,
    solver_of,
)
from pgmdiff.precision.neighbourhoods import residual
from pgmdiff.precision.precision import check_units, on_junction_tree
from pgmdiff.text import counted, described

__all__ = ["Closure", "Posterior"]

COMPLETED = 2_000
"""Most elements for which the whole is completed; beyond, on loops, neighbourhoods are."""
MEAN = "mean"
"""Name in the memory of a mean that was measured, `[B, N]`."""
AMPLIFIED = 30.0
"""Growth of an error above which trained scores count as not accurate enough. For windows of a
smooth process whose denoisers are off by 3 %, the spread of samples is 0.99, 1.06 and 2.5 at a
growth of 23, 83 and 617."""
WIDER = 3.0
"""Ratio of the variance of samples to that of the covariances above which both are doubted."""
PROBES = 2
"""Outer regions of a group in which P is compared with the completion; each costs as much as a
sample of a call at a noise level of its own."""


@dataclass(frozen=True, repr=False)
class Closure(Rule, ABC):
    """What rules share that close local posteriors with Gaussians; arguments: see `Posterior`."""

    covariances: Mapping[Any, Tensor] | Covariances
    mean: Tensor | Mapping[Any, Tensor] | None = field(default=None, kw_only=True)
    prior: Mapping[Any, Tensor] | Covariances | None = field(default=None, kw_only=True)
    loops: ClosedLoops | None = field(default=None, init=False, compare=False)
    observed: Observed | None = field(default=None, init=False, compare=False)
    centre: Tensor | None = field(default=None, init=False, compare=False)

    def __repr__(self) -> str:
        return described(self, *self._options)

    @property
    def _options(self) -> list[str]:
        given = self.covariances
        several = counted(len(given), "covariance") if isinstance(given, Mapping) else ""
        prior = "" if self.prior is None else f"prior={type(self.prior).__name__}"
        seen = "" if self.observed is None else "with observations"
        return [several or type(given).__name__, prior, seen]

    def weights(self, graph: RegionGraph) -> list[Floats]:
        return Marginal().weights(graph)

    def bind(self, graph: RegionGraph) -> "Closure":
        """The rule with P, K on loops, the inverse covariances of regions, and a solve.

        Raises:
            GraphError: a region has no covariance or a singular one; there is no completion, or
                what stands for it on large graphs is not positive definite.
            ShapeError: a covariance or the mean has another shape.
        """
        who = type(self).__name__
        source = self.covariances if self.prior is None else self.prior
        mean = getattr(source, "mean", None) if self.mean is None else self.mean
        given, closure = (provider_of(each, who, graph) for each in (self.covariances, source))
        if self.prior is None:
            check_units(who, graph, given)
        known = centre = state_mean(graph, mean)
        tree = on_junction_tree(graph)
        if tree or graph.n_elements > COMPLETED:
            precision = likely(ComposedPrecision(graph, given))
            computed: dict[str, Any] = {"precision": precision, "centre": centre}
            alike = self.prior is None and precision.covariances is given  # one distribution's
            if not tree and alike and (loops := ClosedLoops.large(precision, known, who)):
                return bound(self, **computed, loops=loops, solve=loops.solve)
            try:
                return bound(self, **computed, loops=None, solve=solver_of(precision))
            except IndefiniteError:  # regions disagree: those of small graphs are averaged
                if graph.n_elements > COMPLETED or conflict(graph):
                    raise
        elif self.prior is None and (both := conflict(graph)):
            raise GraphError(
                f"{who}: regions {both[0]!r} and {both[1]!r} hold the same elements under "
                "different conditions, so that their covariances belong to no distribution. Give "
                "those of all regions without conditions, prior=."
            )
        if tree and known is None:
            known = torch.zeros(graph.n_elements, dtype=torch.float64)  # K = P
        if self.prior is not None and known is None:
            raise GraphError(
                f"{who}: expected the mean of prior=, which scores under conditions do not tell. "
                "Give mean=, that of states without conditions."
            )
        whole = completed(graph, closure)
        precision = ComposedPrecision(graph, Blocks(whole.covariance))
        completion, composed = whole.precision, precision.dense()
        if self.prior is not None:  # K = P + (K_0 - P_0)
            gap, precision = completion - composed, likely(ComposedPrecision(graph, given))
            composed = precision.dense()
            completion = composed + gap
        solve = Loops(completion, composed)
        loops = ClosedLoops(solve, precision, known, whole, fades=self.prior is None)
        return bound(self, precision=precision, loops=loops, solve=solve, centre=centre)

    def completion(self) -> Tensor:
        """K, float64 `[N, N]`, of a graph that is small, or a junction tree."""
        assert self.precision is not None, "compose binds it"
        return self.solve.completion if isinstance(self.solve, Loops) else self.precision.dense()

    def doubt(self, x: Tensor, sigma: float) -> str | None:
        if self.precision is None or len(x) < 4 or not x.numel():
            return None
        graph, variances = self.precision.graph, self.precision.variances
        star = graph.n_elements <= SOLVED and conflict(graph) is not None
        if star:  # regions of equal elements know less than all of them together
            variances = torch.linalg.inv(self.completion().cpu()).diagonal()
        ratio = (x.var(dim=0).cpu().double() / (variances + sigma**2)).mean().item()
        few = 2 / (9 * (len(x) - 1))  # of χ²(n - 1), if all elements vary as one (Wilson, Hilferty)
        least, most = (max(0.0, 1 - few + way * few**0.5) ** 3 for way in (-4, 4))
        if star and ratio < min(1 / WIDER, least):
            return (
                f"samples have {ratio:.3g} times the variance that the covariances of "
                f"{type(self).__name__} say: they are too certain. Where covariances of posteriors "
                "are too wide, what they know beyond their prior is taken for too little, and is "
                "counted for each of them. Give each posterior its own covariance, from samples of "
                "it alone, and a solver of the SDE; compare with Posterior(...)."
            )
        if ratio <= max(WIDER, most):
            return None
        return (
            f"samples have {ratio:.3g} times the variance that the covariances of "
            f"{type(self).__name__} say. Models may be in other units (joint.validate() tells), or "
            "answer a shift of their input more strongly than these say, as imperfect networks do, "
            "and models of what is rare and large. Compare with Marginal(), Posterior(...) and "
            "Consistent(..., trust=0.1)."
        )

    def part(self, elements: Tensor, solve: Callable[[], Solve]) -> Rule:
        small = self.loops is not None and isinstance(self.loops.completion, Completion)
        if small or self.observed is not None:
            return super().part(elements, solve)  # its error
        return bound(self, loops=None, solve=solve())  # on large graphs P stands for K

    def precisions(self, group: RegionGroup) -> RegionPrecisions | None:
        return None if self.precision is None else self.precision.inverse(group)

    def known_mean(self, evaluate: Evaluate, u: Tensor, memory: Memory | None) -> Tensor | None:
        """The mean, `[N]` or measured `[B, N]`; None on junction trees, which require none."""
        if self.loops is None or self.loops.mean is not None:
            return None if self.loops is None else self.loops.mean
        if memory is None:
            return self.loops.measured_mean(evaluate, u)
        if MEAN not in memory:
            memory[MEAN] = self.loops.measured_mean(evaluate, u).detach()
        return memory[MEAN]

    def seen(self, u: Tensor, sigma: Tensor) -> Folded | None:
        """What local posteriors see in place of (u, σ), or None if it is just that."""
        return None if self.observed is None else self.observed.at(u, sigma)

    def joined(
        self,
        evaluate: Evaluate,
        u: Tensor,
        sigma: Tensor,
        mean: Tensor | None,
        messages: Tensor | None = None,
        local: list[tuple[Chunk, Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The score, float64 `[B, N]`, and the fade `[B]`, for messages η `[B, M]` (0 if None).

        With η_r the regions contribute (I + σ² Σ_r⁻¹) d_r - η_r, d_r = η_r + s_r(A_r u + σ² η_r).
        To `local` is added, for every chunk, what its regions said: d_r and η_r. With observations
        d_r = (D_r - A_r u) / σ², see `observed`.
        """
        assert self.solve is not None, "compose binds it"
        levels, loops = sigma.double(), self.loops
        centred = u if mean is None else u - mean.to(u.device)
        seen = self.seen(u, sigma)
        x, noise = (u, sigma) if seen is None else (seen.x, seen.levels)
        # Sharpening by I + σ² Σ_r⁻¹ and the solve undo each other up to rounding: in float64.
        total, misfit = torch.zeros_like(u, dtype=torch.float64), torch.zeros_like(levels)
        start = torch.zeros_like(u) if self.solve.uses_start else None
        means = None if seen is None else torch.zeros_like(total)
        for chunk, scores in evaluate(x, noise, tilt=messages):
            eta = torch.zeros_like(scores) if messages is None else chunk.own(messages)
            tilted = scores.double() + eta
            if seen is not None and means is not None:
                tilted = seen.local(chunk, tilted)
                chunk.add(means, tilted)
            chunk.add(total, sharpened(tilted, chunk, sigma) - eta)
            if start is not None:  # the marginal rule's score
                chunk.add(start, (scores if seen is None else tilted).detach().to(start))
            if loops is not None and loops.fades:
                tilt, own = eta, scores
                if seen is not None:  # an observation is a message, too
                    own = seen.known(chunk, scores, tilted, centred, levels)
                    tilt = tilted - own
                misfit[chunk.samples] += loops.misfit(chunk, centred, tilt, own, levels)
            if local is not None:
                local.append((chunk, tilted, eta))
        if loops is None:
            score, fade = self.solve(total, levels, start), torch.ones_like(levels)
        else:
            fade = loops.fade(misfit)
            score = loops.solve.faded(total, centred.double(), fade, levels)
        if self.observed is not None:
            score = self.observed.joined(u, sigma, score, means, self.solve)
        return score, fade

    def findings(self) -> tuple[list[str], str | None]:
        precision, solve = self.precision, self.solve
        assert precision is not None, "compose binds it"
        assert solve is not None, "compose binds it"
        said, covariance = [], solve.inverse()
        if isinstance(likelier := precision.covariances, Likely):
            said.append(
                f"covariances of {counted(len(likelier.replaced), 'region')} on equal elements: "
                "together, observations would widen their prior in some directions, which is "
                "left out"
            )
        if self.loops is not None:
            whole = self.loops.completion
            said.append(
                f"completion of the covariances: {whole.found}; where regions overlap, they "
                f"differ by up to {whole.distance:.2g} of a variance"
                + (" and are averaged" if whole.distance > 1e-9 else "")
            )
            if self.loops.mean is None:
                said.append(
                    "mean: not given; it is measured, once per run, as the fixed point of the "
                    f"denoisers at σ = {self.loops.level:.3g}"
                )
        elif not on_junction_tree(precision.graph):
            said.append(
                "the composed precision P stands for the completion: under N(m, P⁻¹) entries of "
                "the regions' covariances differ from those given by up to "
                f"{residual(precision, solve, PROBES):.2g} of a variance"
            )
        if covariance is None or not len(covariance):
            return said, None
        grown = precision.amplification(covariance)
        said.append(f"errors of a region's score grow up to {grown:.3g} times in the whole")
        warning = (
            "covariances have directions of nearly no variance, in which errors of a region's "
            f"score grow up to {grown:.3g} times: where scores are not exact, give "
            "fit_covariances a larger ridge (1e-3, 1e-2)"
        )
        return said, warning if grown > AMPLIFIED else None


@dataclass(frozen=True, repr=False)
class Posterior(Closure):
    r"""Posterior composition: local posteriors of the clean state, closed with Gaussians.

    With Gaussian local posteriors of mean D_r and covariance (Σ_r⁻¹ + σ⁻² I)⁻¹ the factorisation
    of the posterior (see the module) gives, with the completion K of the Σ_r,

        (I + σ² K) s = Σ_r c_r A_rᵀ (I + σ² Σ_r⁻¹) s_r - (K - P)(u - m).

    It is the exact score at every σ for Gaussian data Markov to the graph, loops included, with
    true covariances and mean. On loops beyond 2,000 elements it nearly is: there K is put together
    from neighbourhoods or, where these have more than 256 elements, replaced by P. For other data
    the factorisation is exact and its Gaussian closure is not: on junction trees it becomes exact
    as σ → 0; it is not a gradient field. If the covariances are one common diagonal, it is the
    marginal rule. `Consistent` does better for other data, at the same number of evaluations.

    Args:
        covariances: region name (or model id, for all regions that share it) to the `[d, d]`
            covariance of its clean values, flattened as its model sees them; or a provider. Read
            all of them off one estimate: see `fit_covariances`. On loops, regions that disagree on
            what they share are averaged there, and the completion of the averages is used. Where
            regions hold the same elements, such as posteriors of observations, the part by which
            they would together widen their prior is left out; Gaussian data has none.
        mean: m, of the event shape of the state, or by region name, as the region's model sees it.
            If None, the `mean` of the covariances. If they have none, it is measured on graphs with
            loops, once per run: the fixed point of u ← Σ_r A_rᵀ D_r / Σ_r A_rᵀ 1 over outer
            regions, at ten times the largest standard deviation, by a few evaluations more.
            Junction trees require none.
        prior: covariances of the regions before they were conditioned, where regions are
            conditioned on different observations and thus are not marginals of one distribution:
            then K = P + (K_0 - P_0), with K_0 and P_0 of these, and m is their mean, which is not
            measured. None if there are no such conditions. Junction trees do not require it, but
            without it differing variances are warned of.

    Raises:
        GraphError: the covariances have no completion, a mean by name leaves out an element, or
            the prior has no mean.
        ShapeError: a covariance or the mean has another shape.

    Source: ours on factor graphs; the closure is after Linhart, Cardoso, Gramfort, Le Corff,
    Rodrigues, "Diffusion posterior sampling for simulation-based inference in tall data settings",
    2024.
    """

    def score(
        self, evaluate: Evaluate, u: Tensor, sigma: Tensor, memory: Memory | None = None
    ) -> Tensor:
        mean = self.known_mean(evaluate, u, memory)
        return self.joined(evaluate, u, sigma, mean)[0].to(u)


def sharpened(values: Tensor, chunk: Chunk, sigma: Tensor, floor: Tensor | None = None) -> Tensor:
    """(I + σ² (Σ_r + f_r I)⁻¹) values_r of the regions of a chunk: float64 `[samples, regions, d]`.

    The floors f are `[samples, regions or 1]`, 0 if None.
    """
    precisions = chunk.batch.precisions
    assert precisions is not None, "the plan holds those of a bound rule"
    wide, levels = values.double(), sigma[chunk.samples].double()
    if floor is None:
        pulled = precisions.rows(chunk.start, chunk.stop).times(wide)
    else:
        pulled = precisions.floored(wide, floor, slice(chunk.start, chunk.stop))
    return wide + levels[:, None, None] ** 2 * pulled
