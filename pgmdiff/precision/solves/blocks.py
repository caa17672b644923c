r"""Solves by block Cholesky factors along a path of cliques, on the device of the state.

The state is cut into layers such that regions hold elements of at most two neighbours. So
M = I + σ² P is block tridiagonal, and every second layer i can be eliminated at once, between i - 1
and i + 1 (cyclic reduction; Heller, "Some aspects of the cyclic reduction algorithm for block
tridiagonal linear systems", 1976):

    L Lᵀ = M[i,i],     F = L⁻¹ M[i,n],     M[n,n] ← M[n,n] - Fᵀ F,     n = (i - 1, i + 1)

Half of the layers is left, and so on. Layers that see equal matrices are eliminated once for all:
of windows that share their covariances there are one or two kinds at every stage, whatever their
number. The stages end early where layers no longer depend on one another, up to rounding.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from pgmdiff.linalg import Ints, keep
from pgmdiff.precision.precision import ComposedPrecision
from pgmdiff.precision.solves.base import Solve, indefinite, levels_kept, symmetric

__all__ = ["BlockChain", "layers"]

AT_ONCE = 2**24
"""Most entries of matrices of layers that are compared at once."""
FEW = 8
"""Runs of equal layers up to which each is one product, instead of a batch of them all."""


def layers(precision: ComposedPrecision) -> Ints | None:
    """The layer of every element, `[N]`, if the regions follow one another on a path, else None.

    They are the distances from one end. No layer is wider than the largest region, and all of them
    together, at the width of the widest, are not much larger than the regions' covariances.
    """
    n, parts = precision.graph.n_elements, [block.index.numpy() for block in precision.blocks]
    lengths = np.concatenate([np.full(len(part), part.shape[1]) for part in parts])
    held = np.concatenate([part.ravel() for part in parts])
    into = n + np.repeat(np.arange(len(lengths)), lengths)
    ones = np.ones(len(held), dtype=np.int8)
    graph = sparse.csr_array((ones, (held, into)), (n + len(lengths),) * 2)

    def hops(ends: Ints) -> Any:
        """Half the distances of elements, by way of regions, from some of them."""
        found = sparse.csgraph.dijkstra(graph, False, ends, unweighted=True, min_only=True)
        return found[:n] / 2

    far = hops(np.array([0]))
    if not np.isfinite(far).all():
        return None
    # One end: a farthest element in the fewest regions, and all that are in exactly the same.
    degrees, ends = np.diff(graph.indptr[: n + 1]), np.flatnonzero(far == far.max())
    end = ends[degrees[ends].argmin()]
    inside = graph.indices[graph.indptr[end] : graph.indptr[end + 1]]
    alike = (graph[:n][:, inside].sum(axis=1) == len(inside)) & (degrees == len(inside))
    found = hops(np.flatnonzero(alike)).astype(np.int64)
    width, largest = np.bincount(found).max(), max(part.shape[1] for part in parts)
    fits = (found.max() + 1) * width**2 <= 4 * precision.n_entries
    return found if width <= largest and fits else None


class Stage(NamedTuple):
    """Which of m layers have equal matrices, by the rows of tables of these matrices.

    Attributes:
        m: the number of layers.
        kinds: of layers that are eliminated: the diagonal block, and the couplings with the layers
            before and after, `[n, 3]`; -1 for none.
        eliminated: the kinds of layers 1, 3, ...
        sums: of kinds of layers that are left: the diagonal block, and the kinds eliminated before
            and after, `[n, 3]`; -1 for none.
        left: the kinds of layers 0, 2, ..., layers 0, 1, ... of the next stage.
    """

    m: int
    kinds: Ints
    eliminated: Ints
    sums: Ints
    left: Ints


class Factored(NamedTuple):
    """The factors of M for one noise level: tables of the kinds of every stage.

    Attributes:
        inverses: L⁻¹, `[n, s, s]`, and last of the layers that do not depend on one another.
        pulls: F, `[n, s, 2 s]`.
        last: the kinds of the last layers.
        logs: the log-determinant of M.
    """

    inverses: list[Tensor]
    pulls: list[Tensor]
    last: Ints
    logs: Tensor


class BlockChain(Solve):
    """Block Cholesky factors along a path of cliques, in float64 on the device of the state.

    The work of a new σ grows with the number of kinds of layers: with the logarithm of the length
    where windows share their covariances, else with the length.

    Args:
        precision: P.
        layer: of every element, `[N]`; see `layers`.

    Raises:
        IndefiniteError: P is not positive definite.
    """

    def __init__(self, precision: ComposedPrecision, layer: Ints) -> None:
        sizes = np.bincount(layer)
        m, s = len(sizes), int(sizes.max())
        places, used = np.empty_like(layer), np.arange(s) < sizes[:, None]
        places[np.argsort(layer, kind="stable")] = np.flatnonzero(used)
        firsts = [layer[block.index.numpy()].min(axis=1) for block in precision.blocks]
        dense = [block.precisions.dense() for block in precision.blocks]
        known: list[dict[bytes, int]] = [{}, {}]
        kinds: list[list[int]] = [[], []]
        step = max(1, AT_ONCE // (2 * s) ** 2)
        for start in range(0, m, step):
            # What regions that begin in each layer, and in the one before, add to it and the next.
            added = torch.zeros(min(step, m - start) + 1, 2 * s, 2 * s, dtype=torch.float64)
            for block, first, matrices in zip(precision.blocks, firsts, dense, strict=True):
                row = first - start + 1
                some = np.flatnonzero((row >= 0) & (row < len(added)))
                at = torch.from_numpy(places[block.index[some].numpy()] - s * first[some, None])
                where = torch.from_numpy(row[some])[:, None, None], at[:, :, None], at[:, None]
                own = matrices if len(matrices) == 1 else matrices[some]
                values = block.counts[some, None, None] * own
                added.index_put_(where, values, accumulate=True)
            diagonals = added[1:, :s, :s] + added[:-1, s:, s:]
            unused = torch.from_numpy(~used[start : start + step])
            diagonals.diagonal(dim1=1, dim2=2)[unused] = 1.0
            for i, table in enumerate((diagonals, added[1:, :s, s:])):
                kinds[i] += _kinds(table.numpy(), known[i])
        self.m, self.padding, self.places = m, m * s - len(layer), torch.from_numpy(places)
        self.diagonals, self.couplings = (
            torch.from_numpy(_rows(each, np.float64, s, s)) for each in known
        )
        self.kinds = np.array(kinds[0])
        self.stages = stages(self.kinds, np.array(kinds[1][:-1], dtype=np.int64))
        self._kept: dict[Any, Factored] = {}
        if not self._factored(self.diagonals, self.couplings).logs.isfinite():
            raise indefinite(precision)

    def _factored(self, diagonals: Tensor, couplings: Tensor) -> Factored:
        """The factors of a matrix, of whose blocks there are tables."""
        s, logs, kinds = diagonals.shape[1], diagonals.new_zeros(()), self.kinds
        inverses, pulls, none = list[Tensor](), list[Tensor](), diagonals.new_zeros(1, s, s)
        for stage in self.stages:
            least = torch.finfo(diagonals.dtype).eps * diagonals.diagonal(dim1=1, dim2=2).min()
            if s * couplings.abs().max() <= least:
                break
            own, before, after = stage.kinds.T
            couplings = torch.cat([couplings, none])
            inverse, log = _inverted(diagonals[own])
            pull = inverse @ torch.cat([couplings[before].mT, couplings[after]], dim=2)
            logs = logs + log[stage.eliminated].sum()
            inverses.append(inverse)
            pulls.append(pull)
            own, before, after = stage.sums.T
            diagonals, kinds = diagonals[own], stage.left
            if s * pull.square().sum(dim=1).max() <= least:
                break
            left, right = pull.split(s, dim=2)
            diagonals = diagonals - torch.cat([right.mT @ right, none])[before]
            diagonals = diagonals - torch.cat([left.mT @ left, none])[after]
            couplings = -(left.mT @ right)
        inverse, log = _inverted(diagonals)
        return Factored([*inverses, inverse], pulls, kinds, logs + log[kinds].sum())

    def factors(self, sigma: float, like: Tensor) -> Factored:
        """The factors for a noise level, on the device of a tensor; the latest are kept."""
        if (found := self._kept.get((sigma, like.device))) is None:
            with torch.inference_mode(False), torch.no_grad():
                w, eye = sigma**2, torch.eye(self.diagonals.shape[1]).to(like)
                diagonals, couplings = self.placed(
                    like, lambda *on: (self.diagonals.to(*on), self.couplings.to(*on)), "blocks"
                )
                found = self._factored(eye + w * diagonals, w * couplings)
        size = sum(table.nbytes for table in (*found.inverses, *found.pulls))
        return keep(self._kept, (sigma, like.device), found, levels_kept(size))

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        def solve(b: Tensor, sigma: Tensor) -> Tensor:
            wide = b.detach().double()
            out = torch.empty_like(wide)
            for level in sigma.unique().tolist():
                rows = sigma == level
                out[rows] = self._solved(wide[rows], self.factors(level, wide))
            return out.to(b)

        return symmetric(solve, b, sigma)

    def _solved(self, b: Tensor, factors: Factored) -> Tensor:
        """M⁻¹ b for b `[B, N]`."""
        places = self.placed(b, lambda device, _: self.places.to(device), "places")
        last, solved = factors.inverses[-1], list[Tensor]()
        s = last.shape[1]
        y = b.new_zeros(len(b), self.m * s).index_copy_(1, places, b)
        y = y.reshape(len(b), self.m, s).transpose(0, 1)  # [layers, B, s]
        steps = list(zip(self.stages, factors.inverses, factors.pulls, strict=False))
        for stage, inverse, pull in steps:
            z = _times(inverse.mT, stage.eliminated, y[1::2])
            before, after = _times(pull, stage.eliminated, z).split(s, dim=2)
            y = y[::2].clone()
            y[: len(z)] -= before
            y[1:] -= after[: len(y) - 1]
            solved.append(z)
        x = _times(last, factors.last, _times(last.mT, factors.last, y))
        for (stage, inverse, pull), z in zip(steps[::-1], solved[::-1], strict=True):
            around = z.new_zeros(len(z), len(b), 2 * s)
            around[..., :s] = x[: len(z)]
            around[: len(x) - 1, :, s:] = x[1:]
            left = z - _times(pull.mT, stage.eliminated, around)
            both = z.new_empty(stage.m, len(b), s)
            both[::2], both[1::2] = x, _times(inverse, stage.eliminated, left)
            x = both
        return x.transpose(0, 1).reshape(len(b), self.m * s)[:, places]

    def log_determinant(self, sigma: Tensor) -> Tensor:
        like = sigma.double()
        logs = [self.factors(s, like).logs for s in sigma.tolist()]
        return torch.stack([*logs, like.new_zeros(())])[:-1] - self.padding * torch.log1p(like**2)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kept": {}}


def stages(diagonal: Ints, coupling: Ints) -> list[Stage]:
    """The stages that eliminate all layers but one, of which kinds are given, `[m]`, `[m - 1]`."""
    found, none = [], np.array([-1])
    while (m := len(diagonal)) > 1:
        k = m // 2
        after = np.append(coupling[1::2], none)[:k]
        kinds, eliminated = _unique(diagonal[1::2], coupling[::2], after)
        around = np.concatenate([none, eliminated, none])
        sums, diagonal = _unique(diagonal[::2], around[: m - k], around[1 : m - k + 1])
        coupling = eliminated[: len(diagonal) - 1]
        found.append(Stage(m, kinds, eliminated, sums, diagonal))
    return found


def _unique(*columns: Ints) -> tuple[Ints, Ints]:
    """The different rows of some columns of integers, and which of them each is."""
    known: dict[bytes, int] = {}
    which = np.array(_kinds(np.stack(columns, axis=1), known))
    return _rows(known, np.int64, len(columns)), which


def _kinds(rows: Any, known: dict[bytes, int]) -> list[int]:
    """The number of each of some arrays among the known ones, to which new ones are added."""
    return [known.setdefault(row.tobytes(), len(known)) for row in rows]


def _rows(known: dict[bytes, int], dtype: type, *shape: int) -> Any:
    """The known arrays, `[n, *shape]`."""
    return np.frombuffer(bytearray(b"".join(known)), dtype).reshape(-1, *shape)


def _inverted(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """L⁻¹ and the log-determinants of matrices L Lᵀ, `[n, s, s]`; NaN if one is not definite."""
    lower, failed = torch.linalg.cholesky_ex(matrices)
    logs = 2 * lower.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    eye = torch.eye(matrices.shape[1]).to(matrices)
    inverse = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)
    return inverse, logs.where(failed == 0, torch.nan)


def _times(table: Tensor, kinds: Ints, x: Tensor) -> Tensor:
    """The products x_k T_k, `[m, B, q]`, of x `[m, B, p]` with the rows `kinds` of a table."""
    cuts = np.flatnonzero(np.diff(kinds)) + 1
    if len(cuts) >= FEW:  # kinds are numbered in the order in which they come
        return x @ (table if len(table) == len(kinds) else table[kinds])
    runs = zip([0, *cuts], [*cuts, len(kinds)], strict=True)
    return torch.cat([x[i:j] @ table[kinds[i]] for i, j in runs])
