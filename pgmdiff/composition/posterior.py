r"""Rules that use the covariances of regions: posterior composition, and evidence correction.

The likelihood of u_σ given u_0 is a product over elements, each counted once, so wherever the clean
factorisation holds the posterior factorises exactly, at every σ and for any data:

    q(u_0 | u_σ) ∝ Π_r q(u_0r | u_σr)^{c_r}

`Posterior`, closed with Gaussians:
    (I + σ² P) s = Σ_r c_r A_rᵀ (I + σ² Σ_r⁻¹) s_r
`Evidence`, the gradient of that closure's own density:
    Σ_r c_r A_rᵀ [s_r + σ² (∂s_r/∂u_r)ᵀ (I + σ² Σ_r⁻¹)(A_r s - s_r)]

with P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r.
"""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pgmdiff.composition.evaluate import Chunk, Evaluate
from pgmdiff.composition.rules import Marginal, Memory, Rule, bound
from pgmdiff.errors import GraphError
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.report import Definiteness
from pgmdiff.linalg import Floats
from pgmdiff.precision import (
    ComposedPrecision,
    Covariances,
    Dense,
    RegionPrecisions,
    amplification,
    inflation,
    least_change,
    least_shrinkage,
    solver_of,
)
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.text import counted, described

__all__ = ["Evidence", "Posterior"]


@dataclass(frozen=True, repr=False)
class GaussianClosure(Rule, ABC):
    """What both rules share: covariances, the composed precision and solves with I + σ² P."""

    covariances: Mapping[Any, Tensor] | Covariances
    shrinkage: float | Literal["least"] = 0.0
    jitter: float = 0.0

    def __repr__(self) -> str:
        given = self.covariances
        several = counted(len(given), "covariance") if isinstance(given, Mapping) else ""
        return described(
            self,
            several or type(given).__name__,
            f"shrinkage={self.shrinkage!r}",
            f"jitter={self.jitter:g}" if self.jitter else "",
        )

    def weights(self, graph: RegionGraph) -> list[Floats]:
        return Marginal().weights(graph)

    def bind(self, graph: RegionGraph) -> "GaussianClosure":
        """The rule with P, the inverse covariances of regions, and a solve that suits them.

        Raises:
            GraphError: a region has no covariance or a singular one; P is not positive definite.
            ShapeError: a covariance has another shape.
        """
        precision = self.composed(graph)
        return bound(self, precision=precision, solve=solver_of(precision))

    def composed(self, graph: GraphLike) -> ComposedPrecision:
        """P of a graph, with the jitter or shrinkage that was asked for.

        Raises:
            GraphError: a region has no covariance, or a singular one.
            ShapeError: a covariance has another shape.
        """
        graph = graph_of(graph, type(self).__name__).regions
        provider = provider_of(self.covariances, type(self).__name__)

        def make(shrinkage: float, jitter: float) -> ComposedPrecision:
            return ComposedPrecision(graph, provider, shrinkage, jitter)

        if not isinstance(self.shrinkage, str):
            return make(self.shrinkage, self.jitter)
        if self.shrinkage != "least":
            raise GraphError(
                f"{type(self).__name__}: expected shrinkage from 0 to 1 or 'least', got "
                f"{self.shrinkage!r}."
            )
        return least_change(make)

    def precisions(self, group: RegionGroup) -> RegionPrecisions | None:
        return None if self.precision is None else self.precision.inverse(group)

    def definiteness(self) -> Definiteness | None:
        assert self.precision is not None, "compose binds it"
        assert self.solve is not None, "compose binds it"
        precision, covariance = self.precision, self.solve.inverse()
        used = Definiteness(least_shrinkage(precision), precision.shrinkage, precision.jitter)
        if covariance is None or not len(covariance):
            return used
        return replace(
            used,
            inflation=inflation(precision, covariance),
            amplification=amplification(precision, covariance),
        )

    def closed(self, evaluate: Evaluate, u: Tensor, sigma: Tensor) -> Tensor:
        """The score of posterior composition, `[B, N]`."""
        assert self.solve is not None, "compose binds it"
        # Sharpening by I + σ² Σ_r⁻¹ and the solve undo each other up to rounding: in float64.
        total = torch.zeros_like(u, dtype=torch.float64)
        start = torch.zeros_like(u) if self.solve.uses_start else None
        for chunk, scores in evaluate(u, sigma):
            chunk.add(total, sharpened(scores, chunk, sigma))
            if start is not None:  # the marginal rule's score
                chunk.add(start, scores.detach())
        return self.solve(total, sigma.double(), start).to(u)


@dataclass(frozen=True, repr=False)
class Posterior(GaussianClosure):
    r"""Posterior composition: local posteriors of the clean state, closed with Gaussians.

    With Gaussian local posteriors of mean D_r and covariance (Σ_r⁻¹ + σ⁻² I)⁻¹ the factorisation
    of the posterior (see the module) gives

        (I + σ² P) s = Σ_r c_r A_rᵀ (I + σ² Σ_r⁻¹) s_r,      P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r.

    It is the exact score at every σ for Gaussian data Markov to a junction tree, with true
    covariances. On loops with P ≻ 0 it reaches the Bethe distribution N(m, P⁻¹). For other data the
    factorisation is exact and its Gaussian closure is not: it becomes right as σ → 0, and is no
    gradient field. If the covariances are one common diagonal, it is the marginal rule.

    Args:
        covariances: region name (or model id, for all regions that share it) to the `[d, d]`
            covariance of its clean values, flattened as its model sees them; or a provider. Read
            all of them off one estimate: see `fit_covariances`.
        shrinkage: λ in [0, 1], towards a common diagonal, for a P that is not positive definite.
            "least" takes the least jitter that helps, or else the least λ*, which the joint's
            `validate()` and repr report. At λ* P is barely definite, and some variances of the
            composed distribution are far too large: `validate()` says how large. A λ well above λ*
            serves better.
        jitter: ε, the share of its own variance that is added to the variance of every element.

    Source: ours on factor graphs; the closure is after Linhart, Cardoso, Gramfort, Le Corff,
    Rodrigues, "Diffusion posterior sampling for simulation-based inference in tall data settings",
    2024.
    """

    def score(
        self, evaluate: Evaluate, u: Tensor, sigma: Tensor, memory: Memory | None = None
    ) -> Tensor:
        return self.closed(evaluate, u, sigma)


@dataclass(frozen=True, repr=False)
class Evidence(GaussianClosure):
    r"""Evidence correction: the gradient of the posterior closure's own log-density.

        L_σ(u) = Σ_r c_r log q_σ(u_r) - ½ σ² Σ_r c_r g_rᵀ (I + σ² Σ_r⁻¹) g_r
                 + ½ Σ_r c_r log det(I + σ² Σ_r⁻¹) - ½ log det(I + σ² P),     g_r = A_r s - s_r
        ∇L_σ   = Σ_r c_r A_rᵀ [ s_r + σ² (∂s_r/∂u_r)ᵀ (I + σ² Σ_r⁻¹) g_r ]

    with s the score of `Posterior`. It is conservative for any data. For Gaussian data Markov to a
    junction tree, with true covariances, L_σ is log q_σ, constants included, and its gradient
    equals posterior composition. A step evaluates every region twice, the second time with its
    vector-Jacobian product. `joint.log_density` gives L_σ if the log-densities of pieces are known.

    For data with modes far apart L_σ is too large between them, where σ is near the spread of a
    mode (by up to 20 nats on a chain of two modes), and its gradient can be worse than the paper's
    rule even where noised data are. Many steps and many corrector moves end worse than the
    marginal rule (`python -m benchmarks exactness`).

    Args:
        covariances, shrinkage, jitter: see `Posterior`.
    """

    def score(
        self, evaluate: Evaluate, u: Tensor, sigma: Tensor, memory: Memory | None = None
    ) -> Tensor:
        score = self.closed(evaluate, u, sigma)
        differentiate = torch.is_grad_enabled() and score.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            leaf = u if u.requires_grad and differentiate else u.detach().clone().requires_grad_()
            sigma, score = (t if differentiate else t.detach().clone() for t in (sigma, score))
            total = torch.zeros_like(leaf)
            for chunk, scores in evaluate(leaf, sigma):
                pull = sharpened(chunk.gather(score) - scores, chunk, sigma).to(scores)
                weighted = sigma[chunk.samples, None, None] ** 2 * pull * chunk.weights[:, None]
                (back,) = torch.autograd.grad(
                    scores, leaf, weighted, retain_graph=differentiate, create_graph=differentiate
                )
                # Σ_r c_r A_rᵀ pull_r is 0 by the definition of the score; added, its rounding
                # errors, which σ² Σ_r⁻¹ has made large, cancel those in `back`.
                local = scores + pull if differentiate else (scores + pull).detach()
                total = total + back
                chunk.add(total, local)
        return total if differentiate else total.detach()

    def log_density(self, evaluate: Evaluate, u: Tensor, sigma: Tensor) -> Tensor:
        """L_σ(u), whose gradient is the score: `[B]`, in nats.

        Raises:
            ScoreError: the score of a piece has no `log_density`, or a gradient with respect to σ
                is required, which the log-determinants of large states do not have.
            GraphError: log det(I + σ² P) is not available: the state is too large and the graph no
                junction tree.
        """
        assert self.precision is not None, "compose binds it"
        assert self.solve is not None, "compose binds it"
        score = self.closed(evaluate, u, sigma)
        whole = self.solve.log_determinant(sigma)
        check_gradient(
            whole, sigma, lambda: f"Joint.log_density: log det(I + σ² P) by {self.solve!r}"
        )
        total = 0.5 * (self.precision.log_determinants(sigma) - whole).to(u)
        for (chunk, scores), (_, densities) in zip(
            evaluate(u, sigma), evaluate(u, sigma, density=True), strict=True
        ):
            gap = chunk.gather(score) - scores
            excess = (gap * sharpened(gap, chunk, sigma)).sum(dim=2).to(gap)
            own = densities - 0.5 * sigma[chunk.samples, None] ** 2 * excess
            part = torch.zeros_like(total)
            part[chunk.samples] = own @ chunk.weights
            total = total + part
        return total


def provider_of(given: Any, who: str) -> Covariances:
    """The provider of covariances that were given to a rule, or a `GraphError`."""
    if isinstance(given, Covariances):
        return given
    if not isinstance(given, Mapping):
        raise GraphError(
            f"{who}: expected covariances by region name, or a provider, got a "
            f"{type(given).__name__}. See fit_covariances."
        )
    return Dense(given)


def sharpened(values: Tensor, chunk: Chunk, sigma: Tensor) -> Tensor:
    """(I + σ² Σ_r⁻¹) values_r of the regions of a chunk: float64 `[samples, regions, d]`."""
    precisions = chunk.batch.precisions
    assert precisions is not None, "the plan holds those of a bound rule"
    wide, levels = values.double(), sigma[chunk.samples].double()
    pulled = precisions.rows(chunk.start, chunk.stop).times(wide)
    return wide + levels[:, None, None] ** 2 * pulled
