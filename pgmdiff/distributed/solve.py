r"""Solves with I + σ² P of a state that is divided among ranks, by elimination of their interiors.

P is a sum over regions, so that M = I + σ² P = Σ_k A_kᵀ M_k A_k, where M_k holds what rank k
evaluates and owns. Elements that only its regions hold are its interior i, the others its
interface e. Each rank eliminates its interior, and one system is left on all interfaces:

    S = Σ_k M_k[e,e] - M_k[e,i] M_k[i,i]⁻¹ M_k[i,e]
    g = Σ_k b_k[e] - M_k[e,i] M_k[i,i]⁻¹ b_k[i]
    S x[e] = g,     x_k[i] = M_k[i,i]⁻¹ (b_k[i] - M_k[i,e] x[e])

Elements observed by a mask or a crop with independent noise R = Λ⁻¹ (a deviation of 1e-6 of their
own stands for none) require a second such system, in which every rank adds Λ where it owns them;
for z see `composition.observed`:

    D - D_0 = σ² (I + σ² (P + Λ))⁻¹ Λ (z - D_0)

It is exact up to rounding. S is gathered once per σ, and g in every call; every rank solves the
system of the interfaces, which for windows has overlap times (ranks - 1) elements, whatever the
length of the state. (Przemieniecki, "Matrix structural analysis of substructures", 1963.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn.functional import pad

from pgmdiff.composition.observed import Observed
from pgmdiff.composition.plan import Batch
from pgmdiff.errors import GraphError, ShapeError
from pgmdiff.linalg import Floats, keep
from pgmdiff.precision import Solve
from pgmdiff.precision.precision import Block, sparse_sum
from pgmdiff.precision.solves.base import levels_kept
from pgmdiff.precision.solves.direct import UNPIVOTED, Factors, LevelByLevel

if TYPE_CHECKING:
    from pgmdiff.distributed.halos import Halo

__all__ = ["SpreadSolve"]


class SpreadSolve(LevelByLevel):
    """The solve of all ranks together, in float64 on the CPU.

    It maps what the regions of this rank add to b, on its held elements, to x there.

    Args:
        halo: what ranks share.
        batches: the regions of this rank, on its held elements, with their Σ_r⁻¹.
        information: Λ of held elements, 0 for those of other ranks; none if None.
    """

    spread = True

    def __init__(
        self, halo: "Halo", batches: Sequence[Batch], information: Tensor | None = None
    ) -> None:
        self.halo = halo
        edge = torch.isin(halo.held, halo.shared[halo.ranks.rank]).numpy()
        self.inside, self.edge = np.flatnonzero(~edge), np.flatnonzero(edge)
        self.edge = self.edge[halo.held[self.edge].argsort().numpy()]  # sorted in the whole
        every = torch.cat(halo.shared).unique()
        self.n_edges, self.width = len(every), max(map(len, halo.shared))
        self.at = [torch.searchsorted(every, elements).numpy() for elements in halo.shared]
        blocks = []
        for batch in batches:
            assert batch.precisions is not None, "rules that solve have them"
            blocks.append(Block(batch.group, batch.group.flat(), batch.weights, batch.precisions))
        total = sparse_sum(blocks, len(halo.held))
        if information is not None:
            total = (total + sparse.diags_array(information.numpy())).tocsc()
        self.sides = total[self.inside][:, self.edge]
        self.edges = total[self.edge][:, self.edge].toarray()
        self.owned = np.diag((self.edge < halo.n_own).astype(np.float64))
        eye = sparse.eye_array(len(self.inside), format="csc")
        self.factors = Factors(eye, total[self.inside][:, self.inside], **UNPIVOTED)

    def _gathered(self, mine: Floats) -> list[Floats]:
        """What all ranks have for their interfaces, `[edges of the rank, columns]`."""
        padded = torch.zeros(self.width, mine.shape[1], dtype=torch.float64)
        padded[: len(mine)] = torch.from_numpy(mine)
        found = self.halo.ranks.gathered(padded.to(self.halo.ranks.device)).cpu().numpy()
        return [part[: len(at)] for part, at in zip(found, self.at, strict=True)]

    def _eliminated(self, b: Floats, w: float) -> Floats:
        """M_k[i,i]⁻¹ b for b on the interior."""
        return self.factors(w).solve(b) if len(b) else b

    def _reduced(self, sigma: float) -> Any:
        """The factors of S, kept for the latest few σ."""
        if (found := self._kept.get(sigma)) is None:
            w, square = sigma**2, np.zeros((len(self.edge), self.width))
            pulled = w**2 * self.sides.T @ self._eliminated(self.sides.toarray(), w)
            square[:, : len(self.edge)] = self.owned + w * self.edges - pulled
            total = sparse.csc_array((self.n_edges, self.n_edges))
            for part, at in zip(self._gathered(square), self.at, strict=True):
                places = np.repeat(at, len(at)), np.tile(at, len(at))
                entries = part[:, : len(at)].ravel(), places
                total = total + sparse.coo_array(entries, total.shape).tocsc()
            found = sparse.linalg.splu(total, **UNPIVOTED)
        return keep(self._kept, sigma, found, levels_kept(12 * found.nnz))

    def solve_at(self, b: Floats, sigma: float) -> Floats:
        w, x, right = sigma**2, np.empty_like(b), b[self.inside]
        if self.n_edges:
            reduced, total = self._reduced(sigma), np.zeros((self.n_edges, b.shape[1]))
            mine = b[self.edge] - w * self.sides.T @ self._eliminated(right, w)
            for part, at in zip(self._gathered(mine), self.at, strict=True):
                total[at] += part
            x[self.edge] = reduced.solve(total)[self.at[self.halo.ranks.rank]]
            right = right - w * self.sides @ x[self.edge]
        x[self.inside] = self._eliminated(right, w)
        return x

    def log_determinant_at(self, sigma: float) -> float:
        raise GraphError(
            "Slab: log det(I + σ² P) of a state that is divided among ranks is not computed. The "
            "score does not need it."
        )

    def largest(self, values: Tensor) -> Tensor:
        return self.halo.ranks.gathered(values).amax(dim=0)


@dataclass(frozen=True, eq=False)
class SpreadObserved(Observed):
    """Observations of a divided state.

    Attributes:
        halo: what ranks share.
        information: Λ of held elements, `[m]`, 0 for those of other ranks.
        solved: the solve with P + Λ.
        update, event_shape, least, values, variances: see `Observed`, on held elements.
    """

    halo: "Halo"
    information: Tensor
    solved: SpreadSolve

    @classmethod
    def of(
        cls, whole: Observed, variances: Tensor, halo: "Halo", batches: Sequence[Batch]
    ) -> "SpreadObserved":
        """Those of a joint, on the elements that a rank holds; R is that of the whole, `[N]`."""
        held, folded = halo.held, whole.variances
        least = whole.least[held]
        information = 1 / torch.maximum(variances[held], least**2)
        information[halo.n_own :] = 0
        assert whole.values is not None, "masks and crops have values"
        mine = whole.values[:, held], folded if folded is None else folded[:, held]
        solved = SpreadSolve(halo, batches, information)
        return cls(whole.update, whole.event_shape, least, *mine, halo, information, solved)

    def joined(
        self, u: Tensor, sigma: Tensor, score: Tensor, means: Tensor | None, solve: Solve
    ) -> Tensor:
        assert self.values is not None, "masks and crops have values"
        if len(self.values) not in (1, len(u)):
            raise ShapeError(
                f"Slab: expected one observation, or one for each of {len(u)} samples, got "
                f"{len(self.values)}."
            )
        squared, n = sigma.double()[:, None] ** 2, u.shape[1]
        told = self.values.to(u.device)
        if means is not None and self.variances is not None:
            said = pad(self.halo.added(means), (0, n - self.halo.n_own))
            told = (u + squared * said).where(self.variances.to(u.device) < inf, told)
        pulled = self.information.to(u.device) * (told - u - squared * score)
        return score + self.solved(pulled, sigma)
