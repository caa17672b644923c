r"""Composition rules: how the scores of regions make the score of the whole.

`Marginal`, the paper's rule:   s(u, σ) = Σ_r c_r A_rᵀ s_r(A_r u, σ)
`Average`, overlap averaging:   s(u, σ) = (Σ_f A_fᵀ A_f)⁻¹ Σ_f A_fᵀ s_f(A_f u, σ)

A_r gathers a region; f runs over the outer regions only (Zhang et al., "DiffCollage: parallel
generation of large content with diffusion models", 2023, Eq. 7; Bar-Tal et al., "MultiDiffusion:
fusing diffusion paths for controlled image generation", 2023).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pgmdiff.graphs.regions import RegionGraph

__all__ = ["Average", "Marginal", "Rule"]

Floats = npt.NDArray[np.float64]


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
    numbers. It is the score of nothing known: not exact at any σ, unless no two pieces overlap.
    """

    def weights(self, graph: RegionGraph) -> list[Floats]:
        return [group.outer.astype(np.float64) for group in graph.groups]

    def scale(self, graph: RegionGraph) -> Floats:
        return 1 / graph.coverage()
