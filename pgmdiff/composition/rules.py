r"""Composition rules: how the scores of regions make the score of the whole.

`Marginal`, the paper's rule:   s(u, σ) = Σ_r c_r A_rᵀ s_r(A_r u, σ)
`Average`, overlap averaging:   s(u, σ) = (Σ_f A_fᵀ A_f)⁻¹ Σ_f A_fᵀ s_f(A_f u, σ)
`Posterior`, with covariances:  (I + σ² P) s = Σ_r c_r A_rᵀ (I + σ² Σ_r⁻¹) s_r
`Evidence`, its own gradient:   Σ_r c_r A_rᵀ [s_r + σ² (∂s_r/∂u_r)ᵀ (I + σ² Σ_r⁻¹)(A_r s - s_r)]

A_r gathers a region; f runs over the outer regions only (Zhang et al., "DiffCollage: parallel
generation of large content with diffusion models", 2023, Eq. 7; Bar-Tal et al., "MultiDiffusion:
fusing diffusion paths for controlled image generation", 2023).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from pgmdiff.errors import GraphError
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Floats
from pgmdiff.precision import ComposedPrecision, Covariances, Dense, least_change
from pgmdiff.text import counted, described

__all__ = ["Average", "Evidence", "Marginal", "Posterior", "Rule"]


class Rule(ABC):
    """A weighted sum of region scores, and a scale for each element of it."""

    @abstractmethod
    def weights(self, graph: RegionGraph) -> list[Floats]:
        """Per group, the weight of every region; a region of weight 0 is never evaluated."""

    @abstractmethod
    def scale(self, graph: RegionGraph) -> Floats | None:
        """What multiplies the sum on every element of the flattened event; None: nothing."""


@dataclass(frozen=True)
class Marginal(Rule):
    """The paper's rule: counting numbers weigh the scores of noised marginals.

    Exact at σ = 0 on a junction tree, for data Markov to it. For σ > 0 an approximation even
    there, since noised variables of a Markov tree are not Markov: sampling with it misses the
    joint however many steps are taken. On loops also the limit σ = 0 is the Bethe (or Kikuchi)
    approximation.
    """

    def weights(self, graph: RegionGraph) -> list[Floats]:
        return [group.counts / graph.denominator for group in graph.groups]

    def scale(self, graph: RegionGraph) -> None:
        return None


@dataclass(frozen=True)
class Average(Rule):
    """Overlap averaging: each element gets the mean of the scores of its outer regions.

    What most tools do, and the baseline. It needs no model of an overlap and ignores counting
    numbers. It is the score of nothing known: exact where elements of different pieces are
    independent. No other case is known.
    """

    def weights(self, graph: RegionGraph) -> list[Floats]:
        return [group.outer.astype(np.float64) for group in graph.groups]

    def scale(self, graph: RegionGraph) -> Floats:
        return 1 / graph.coverage()


@dataclass(frozen=True)
class Posterior(Rule):
    r"""Posterior composition: local posteriors of the clean state, closed with Gaussians.

    The likelihood of u_σ given u_0 is a product over elements, each counted once, so wherever the
    clean factorisation holds the posterior factorises exactly, at every σ and for any data:
    q(u_0 | u_σ) ∝ Π_r q(u_0,r | u_σ,r)^{c_r}. With Gaussian local posteriors of mean D_r and
    covariance (Σ_r⁻¹ + σ⁻² I)⁻¹ that gives

        (I + σ² P) s = Σ_r c_r A_rᵀ (I + σ² Σ_r⁻¹) s_r,      P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r.

    Gaussian data Markov to a junction tree, true covariances: the exact score at every σ. On
    loops with P ≻ 0: the Bethe distribution N(m, P⁻¹). Other data: the factorisation is exact, its
    Gaussian closure is not; right as σ → 0, and no gradient field. Where the covariances are one
    common diagonal it is the marginal rule.

    Args:
        covariances: region name (or model id, for all regions that share it) to the `[d, d]`
            covariance of its clean values, flattened as its model sees them; or a provider. Read
            all off one estimate: see `fit_covariances`.
        shrinkage: λ in [0, 1], towards a common diagonal, where P is not positive definite.
            "least": the least jitter that helps, or else the least λ*, to be seen in the joint's
            `validate()` and repr. At λ* P is barely definite, and some variances of what is
            composed are far too large: `validate()` says how large. A λ well above serves better.
        jitter: ε; ε times the mean variance is added to all variances.

    Source: ours on factor graphs; the closure after Linhart, Cardoso, Gramfort, Le Corff,
    Rodrigues, "Diffusion posterior sampling for simulation-based inference in tall data settings",
    2024.
    """

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

    def scale(self, graph: RegionGraph) -> None:
        return None

    def precision(self, graph: RegionGraph) -> ComposedPrecision:
        """P of a graph, with the jitter or shrinkage that was asked for.

        Raises:
            GraphError: a region has no covariance, or a singular one.
            ShapeError: a covariance has another shape.
        """
        given = self.covariances
        if not isinstance(given, Covariances | Mapping):
            raise GraphError(
                f"{type(self).__name__}: expected covariances by region name, or a provider, got "
                f"a {type(given).__name__}."
            )
        provider = given if isinstance(given, Covariances) else Dense(given)

        def make(shrinkage: float, jitter: float) -> ComposedPrecision:
            return ComposedPrecision(graph, provider, shrinkage, jitter)

        if isinstance(self.shrinkage, str):
            if self.shrinkage != "least":
                raise GraphError(
                    f"{type(self).__name__}: expected shrinkage from 0 to 1 or 'least', got "
                    f"{self.shrinkage!r}."
                )
            return least_change(make)
        return make(self.shrinkage, self.jitter)


@dataclass(frozen=True, repr=False)
class Evidence(Posterior):
    r"""Evidence correction: the gradient of the posterior closure's own log-density.

        L_σ(u) = Σ_r c_r log q_σ(u_r) - ½ σ² Σ_r c_r g_rᵀ (I + σ² Σ_r⁻¹) g_r
                 + ½ Σ_r c_r log det(I + σ² Σ_r⁻¹) - ½ log det(I + σ² P),     g_r = A_r s - s_r
        ∇L_σ   = Σ_r c_r A_rᵀ [ s_r + σ² (∂s_r/∂u_r)ᵀ (I + σ² Σ_r⁻¹) g_r ]

    with s the score of `Posterior`. Conservative for any data; L_σ is log q_σ, constants included,
    for Gaussian data Markov to a junction tree, with true covariances; the gradient then equals
    posterior composition. A step evaluates every region twice (the second time with its
    vector-Jacobian product). `joint.log_density` gives L_σ where the pieces' log-densities are
    known.

    For data with modes far apart L_σ is right where noised data are and too large in between them,
    where σ is near the spread of a mode (by up to 20 nats on a chain of two modes). Few steps do
    not get there; many steps and many corrector moves do, and then end worse than the marginal
    rule (`python -m benchmarks exactness`).

    Args:
        covariances, shrinkage, jitter: see `Posterior`.
    """
