r"""Composition rules: how the scores of regions make the score of the whole.

`Marginal`, the marginal rule:  s(u, σ) = Σ_r c_r A_rᵀ s_r(A_r u, σ)
`Average`, overlap averaging:   s(u, σ) = (Σ_f A_fᵀ A_f)⁻¹ Σ_f A_fᵀ s_f(A_f u, σ)

A_r gathers a region; f runs over the outer regions only (Zhang et al., "DiffCollage: parallel
generation of large content with diffusion models", 2023, Eq. 7; Bar-Tal et al., "MultiDiffusion:
fusing diffusion paths for controlled image generation", 2023). Rules that use the covariances of
regions are in `posterior`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pgmdiff.composition.evaluate import Evaluate
from pgmdiff.errors import ScoreError
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Floats
from pgmdiff.precision import ComposedPrecision, RegionPrecisions, Solve

__all__ = ["Average", "Marginal", "Memory", "Rule", "WeightedSum", "bound"]

Memory = dict[str, Tensor]
"""What a rule carries from one call to the next within a run: tensors `[B, ...]` by name.

A rule replaces these tensors and never changes them in place, so that saved states stay valid.
"""

R = TypeVar("R", bound="Rule")


class Rule(ABC):
    """How the scores of regions make the score of the whole.

    `compose` binds a rule to its graph once; every call of the joint is then a call of `score`.
    A rule of your own defines `weights` and `score`, and what else it needs.

    Attributes:
        precision: the composed precision; None unless the rule is bound and composes one.
        solve: how systems with I + σ² P are solved; None unless the rule is bound and solves them.
        centre: the mean of the data, `[N]`; None unless the rule is bound and was given it.
    """

    precision: ComposedPrecision | None = None
    solve: Solve | None = None
    centre: Tensor | None = None

    @abstractmethod
    def weights(self, graph: RegionGraph) -> list[Floats]:
        """The weight of every region, one array per group; weight 0 leaves a region out."""

    @abstractmethod
    def score(
        self, evaluate: Evaluate, u: Tensor, sigma: Tensor, memory: Memory | None = None
    ) -> Tensor:
        """The score of the whole, `[B, N]`.

        Args:
            evaluate: calls the models of all regions whose weight is not 0.
            u: the flattened state, `[B, N]`.
            sigma: noise levels, `[B]`.
            memory: what earlier calls of this run left, to be read and updated; None if the call
                must be a pure function of u and σ.
        """

    def bind(self, graph: RegionGraph) -> "Rule":
        """The rule with everything that it computes once for a graph; see `bound`."""
        return self

    def precisions(self, group: RegionGroup) -> RegionPrecisions | None:
        """Σ_r⁻¹ of the regions of a group, for `Chunk.batch.precisions`; None if not needed."""
        return None

    def log_density(self, evaluate: Evaluate, u: Tensor, sigma: Tensor) -> Tensor:
        """The log-density whose gradient is the score, in nats, `[B]`.

        Raises:
            ScoreError: the rule has none.
        """
        raise ScoreError(
            f"Joint.log_density: expected a rule that has a density, such as Consistent, got "
            f"{self!r}."
        )

    def part(self, elements: Tensor, solve: Callable[[], Solve]) -> "Rule":
        """The bound rule on some elements of the state, where `distributed.Slab` divides it.

        Sums over regions then lack those of other ranks: they are added to what `score` returns,
        or by `solve`, which the rule is to use in place of its own.

        Raises:
            ScoreError: the rule requires the whole state.
        """
        raise ScoreError(
            f"Slab: {self!r} requires the whole state on every rank. Use distributed.shared(joint)."
        )

    def doubt(self, x: Tensor, sigma: float) -> str | None:
        """Why samples `[n, N]` about their mean, of noise level σ, seem to be wrong, or None."""
        return None

    def findings(self) -> tuple[list[str], str | None]:
        """What the rule adds to the exactness report: lines, and a warning or None."""
        return [], None


def bound(rule: R, **computed: Any) -> R:
    """A copy of a rule with attributes that were computed for a graph.

    Args:
        rule, computed: the rule, which stays as it is, and the attributes.
    """
    copied = copy(rule)
    for name, value in computed.items():
        object.__setattr__(copied, name, value)
    return copied


class WeightedSum(Rule):
    """A weighted sum of region scores, with a factor per element.

        s(u, σ)_i = scale_i Σ_r w_r (A_rᵀ s_r(A_r u, σ))_i

    The weights w_r are those of `weights`, the factors per element those of `scale`.
    """

    factors: Tensor | None = None
    """The scale, `[N]`, of a bound rule; None if it is 1 everywhere."""

    def scale(self, graph: RegionGraph) -> Floats | None:
        """The factor of every element, `[N]`; None if it is 1 everywhere."""
        return None

    def bind(self, graph: RegionGraph) -> "WeightedSum":
        scale = self.scale(graph)
        return self if scale is None else bound(self, factors=torch.from_numpy(scale))

    def part(self, elements: Tensor, solve: Callable[[], Solve]) -> "WeightedSum":
        return self if self.factors is None else bound(self, factors=self.factors[elements])

    def score(
        self, evaluate: Evaluate, u: Tensor, sigma: Tensor, memory: Memory | None = None
    ) -> Tensor:
        total = torch.zeros_like(u)
        for chunk, scores in evaluate(u, sigma):
            chunk.add(total, scores)
        return total if self.factors is None else total * self.factors.to(total)


@dataclass(frozen=True)
class Marginal(WeightedSum):
    """The marginal rule, DiffCollage's: counting numbers weight the scores of noised marginals.

        s(u, σ) = Σ_r c_r A_rᵀ s_r(A_r u, σ)

    Exact at σ = 0 on a junction tree, for data Markov to it. For σ > 0 it is an approximation even
    there, since noised variables of a Markov tree are not Markov: sampling with it misses the
    joint distribution however many steps are taken. On loops it is only the Bethe (or Kikuchi)
    approximation, even at σ = 0.
    """

    def weights(self, graph: RegionGraph) -> list[Floats]:
        return [group.counts / graph.denominator for group in graph.groups]


@dataclass(frozen=True)
class Average(WeightedSum):
    """Overlap averaging: each element gets the mean of the scores of its outer regions.

        s(u, σ) = (Σ_f A_fᵀ A_f)⁻¹ Σ_f A_fᵀ s_f(A_f u, σ)

    The baseline, and what most tools do. It requires no model of an overlap and ignores counting
    numbers. In general it is not the score of any density; it is exact only if pieces are
    independent.
    """

    def weights(self, graph: RegionGraph) -> list[Floats]:
        return [group.outer.astype(np.float64) for group in graph.groups]

    def scale(self, graph: RegionGraph) -> Floats:
        return 1 / graph.coverage()
