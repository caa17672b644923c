r"""Solves by block Cholesky factors along a tree of cliques, on the device of the state.

The state is cut into the nodes of a tree such that every region lies within a node and its parent.
So M = I + σ² P couples neighbours only. A node v that has no child, or one child c, is eliminated
between c and its parent p, and many others that are not its neighbours with it:

    L Lᵀ = M[v,v],     F = L⁻¹ M[v,n],     M[n,n] ← M[n,n] - Fᵀ F,     n = (p, c)

Of such nodes in a row each stage eliminates every second, at least a quarter of all nodes (rake and
compress: Miller and Reif, "Parallel tree contraction and its application", 1985; along a path
it is cyclic reduction: Heller, "Some aspects of the cyclic reduction algorithm for block
tridiagonal linear systems", 1976). Nodes that see equal matrices are eliminated once for all: of
windows in a row that share their covariances there are a few kinds at every stage, whatever their
number. Couplings fade from stage to stage, and are left out once they do not exceed rounding. The
last nodes are one dense matrix.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from pgmdiff.linalg import Ints, keep
from pgmdiff.precision.precision import ComposedPrecision
from pgmdiff.precision.solves.base import Solve, indefinite, levels_kept, symmetric

__all__ = ["BlockTree", "nodes_of"]

AT_ONCE = 2**24
"""Most entries of matrices of nodes that are compared at once."""
DENSE = 128
"""About how many elements are left to one dense matrix in the end."""
FEW = 8
"""Kinds up to which each is one product, instead of a batch of all nodes."""


class Nodes(NamedTuple):
    """A tree of which every region lies within a node and its parent.

    Attributes:
        node: of every element, `[N]`; parents come before their children.
        parent: of every node, `[m]`; -1 for roots.
    """

    node: Ints
    parent: Ints


def nodes_of(precision: ComposedPrecision) -> Nodes | None:
    """A tree of nodes whose blocks are not much larger than the regions' covariances, or None.

    Nodes are the elements at one distance from an end that hang together by regions there: the
    elements that a clique adds to its parent. Where they make no tree, as on a ring, all elements
    at one distance are a node. No node is wider than the largest region.
    """
    n, parts = precision.graph.n_elements, [block.index.numpy() for block in precision.blocks]
    lengths = np.concatenate([np.full(len(part), part.shape[1]) for part in parts])
    held, starts = np.concatenate([part.ravel() for part in parts]), np.cumsum(lengths) - lengths
    into = np.repeat(np.arange(len(lengths)), lengths)

    def linked(groups: Ints, n_groups: int) -> Any:
        """The graph of elements and some groups of them, by int32, which SciPy 1.14 needs."""
        pairs = held.astype(np.int32), (n + groups).astype(np.int32)
        return sparse.csr_array((np.ones(len(held), np.int8), pairs), (n + n_groups,) * 2)

    graph = linked(into, len(lengths))

    def hops(ends: Ints) -> Any:
        """Half the distances of elements, by way of regions, from the nearest of some."""
        found = sparse.csgraph.dijkstra(graph, False, ends, unweighted=True, min_only=True)
        return found[:n].astype(np.int64) // 2

    # One end of each component: a farthest element in the fewest regions, and its like in them.
    component = sparse.csgraph.connected_components(graph, False)[1][:n]
    degrees, far = np.diff(graph.indptr[: n + 1]), hops(np.unique(component, return_index=True)[1])
    order = np.lexsort((degrees, -far, component))
    ends = order[np.unique(component[order], return_index=True)[1]]
    inside = np.unique(graph[ends].indices)
    shared = graph[:n, inside].sum(axis=1)
    alike = (shared == degrees) & (degrees == degrees[ends][component])
    layer = hops(np.flatnonzero(alike))

    side = layer[held] - np.repeat(np.minimum.reduceat(layer[held], starts), lengths)
    label = sparse.csgraph.connected_components(linked(2 * into + side, 2 * len(lengths)), False)
    first, node = np.unique(label[1][:n], return_index=True, return_inverse=True)[1:]
    node = np.argsort(np.argsort(layer[first], kind="stable"))[node]
    lower, upper = (f.reduceat(node[held], starts) for f in (np.maximum, np.minimum))
    parent = np.full(len(first), -1)
    apart = lower != upper
    parent[lower[apart]] = upper[apart]
    if (parent[lower] != upper)[apart].any():
        if len(ends) > 1:
            return None
        node, parent = layer, np.arange(layer.max() + 1) - 1
    width, largest = np.bincount(node).max(), lengths.max()
    fits = len(parent) * width**2 <= 4 * precision.n_entries
    return Nodes(node, parent) if width <= largest and fits else None


class Stage(NamedTuple):
    """The elimination of some nodes, in terms of tables of the different matrices at this stage.

    Nodes with equal matrices are of one kind. Kinds with a child come first, those without a parent
    last, and so do their nodes.

    Attributes:
        counts: how many nodes of each kind are eliminated.
        which: the kinds of the nodes, `[k]`.
        above: their parents, by place in the order of elimination, of those that have one.
        below: their children, likewise.
        own: of each kind the row of the diagonal block.
        up: that of the coupling with the parent, of kinds that have one.
        down: that of the child's coupling, of kinds that have one.
        left: of kinds that stay the row of the diagonal block.
        into: which of those lose something, `[terms]`.
        terms: what: the square of a coupling of the kinds eliminated, of all `up`, then all `down`.
        often: how often.
        links: the next stage's couplings, among this stage's and then those that have arisen.
    """

    counts: list[int]
    which: Tensor
    above: Tensor
    below: Tensor
    own: Tensor
    up: Tensor
    down: Tensor
    left: Tensor
    into: Tensor
    terms: Tensor
    often: Tensor
    links: Tensor

    def times(self, table: Tensor, x: Tensor) -> Tensor:
        """x_k T_k, `[k, B, s]`, of the first x `[k, B, s]`, for a table of the first kinds' T."""
        n, k = len(table), len(x)
        if n < k and n <= FEW:
            parts = zip(x.split(self.counts[:n]), table, strict=True)
            products = [part @ matrix for part, matrix in parts]
            return torch.cat(products) if n > 1 else products[0]
        matrices = table if n == k else table.index_select(0, self.which[:k])
        return torch.bmm(x, matrices) if x.shape[2] > 1 else x * matrices


class Rest(NamedTuple):
    """The nodes that are left in the end, of which one dense matrix is made.

    Attributes:
        own: of each node the row of the diagonal block.
        child: which nodes have a parent.
        parent: their parents.
        up: the rows of their couplings.
    """

    own: Tensor
    child: Tensor
    parent: Tensor
    up: Tensor

    def to(self, device: torch.device) -> "Rest":
        """The same on a device."""
        return Rest(*(t.to(device) for t in self))

    def dense(self, diagonals: Tensor, couplings: Tensor | None = None) -> Tensor:
        """The matrix, `[1, k s, k s]`, from tables of blocks; of no couplings if None."""
        k, s = len(self.own), diagonals.shape[1]
        whole = diagonals.new_zeros(k, k, s, s)
        whole.diagonal().copy_(diagonals[self.own].permute(1, 2, 0))
        if couplings is not None:
            whole[self.child, self.parent] = couplings[self.up]
            whole[self.parent, self.child] = couplings[self.up].mT
        return whole.transpose(1, 2).reshape(1, k * s, k * s)


class Factored(NamedTuple):
    """The factors of M for one noise level: of every stage a table of its kinds.

    Attributes:
        inverses: L⁻¹, `[n, s, s]`, and last that of the nodes left in the end, `[1, k s, k s]`.
        ups: -L⁻¹ M[v,p], `[n, s, s]`, of kinds with a parent; of the stages with couplings.
        downs: -L⁻¹ M[v,c], `[n, s, s]`, of kinds with a child; of the same stages.
        logs: the log-determinant of M.
    """

    inverses: list[Tensor]
    ups: list[Tensor]
    downs: list[Tensor]
    logs: Tensor


class BlockTree(Solve):
    """Block Cholesky factors along a tree of cliques, in float64 on the device of the state.

    The work of a new σ grows with the number of kinds of nodes: with the logarithm of the length
    where windows in a row share their covariances, else with the number of cliques.

    Args:
        precision: P.
        nodes: see `nodes_of`.

    Raises:
        IndefiniteError: P is not positive definite.
    """

    def __init__(self, precision: ComposedPrecision, nodes: Nodes) -> None:
        node, m = nodes.node, len(nodes.parent)
        sizes = np.bincount(node)
        s = int(sizes.max())
        places, used = np.empty_like(node), np.arange(s) < sizes[:, None]
        places[np.argsort(node, kind="stable")] = np.flatnonzero(used) % s
        dense = [block.precisions.dense() for block in precision.blocks]
        held = [node[block.index.numpy()] for block in precision.blocks]
        lower, upper = ([f(of, axis=1) for of in held] for f in (np.max, np.min))
        upper = [np.where(u < v, u, -1) for u, v in zip(upper, lower, strict=True)]
        known: list[dict[bytes, int]] = [{}, {}]
        kinds: list[list[int]] = [[], []]
        step = max(1, AT_ONCE // (2 * s) ** 2)
        for start in range(0, m, step):
            # What regions add to a node and its parent; what they add to its children is put last.
            added = torch.zeros(min(step, m - start), 2 * s + 1, 2 * s + 1, dtype=torch.float64)
            for block, of, matrices, *ends in zip(
                precision.blocks, held, dense, lower, upper, strict=True
            ):
                for end in ends:
                    some = np.flatnonzero((end >= start) & (end < start + len(added)))
                    v, at = end[some, None], places[block.index[some].numpy()]
                    at = np.select([of[some] == v, of[some] < v], [at, s + at], 2 * s)
                    row, at = torch.from_numpy(v[:, None] - start), torch.from_numpy(at)
                    own = matrices if len(matrices) == 1 else matrices[some]
                    values = block.counts[some, None, None] * own
                    where = row, at[:, :, None], at[:, None]
                    added.index_put_(where, values, accumulate=True)
            diagonals = added[:, :s, :s]
            unused = torch.from_numpy(~used[start : start + step])
            diagonals.diagonal(dim1=1, dim2=2)[unused] = 1.0
            for i, table in enumerate((diagonals, added[:, :s, s:-1])):
                kinds[i] += _kinds(table.numpy(), known[i])
        self.diagonals, self.couplings = (
            torch.from_numpy(_rows(each, np.float64, s, s)) for each in known
        )
        diagonal, coupling = (np.array(each) for each in kinds)
        order, self.stages, self.rest = stages(nodes.parent, diagonal, coupling, max(1, DENSE // s))
        self.m, self.padding = m, m * s - len(node)
        self.places = torch.from_numpy(np.argsort(order)[node] * s + places)
        if not self._factored(self.diagonals, self.couplings).logs.isfinite():
            raise indefinite(precision)

    def _stages(self, like: Tensor) -> list[Stage]:
        """The stages, on the device of a tensor."""

        def place(device: torch.device, _: torch.dtype) -> list[Stage]:
            return [Stage(s.counts, *(t.to(device) for t in s[1:])) for s in self.stages]

        return self.placed(like, place, "stages")

    def _factored(self, diagonals: Tensor, couplings: Tensor) -> Factored:
        """The factors of a matrix, of whose blocks there are tables."""
        made, s = Factored([], [], [], diagonals.new_zeros(())), diagonals.shape[1]
        placed, rest = self._stages(diagonals), self.rest.to(diagonals.device)
        for stage in placed:
            least = torch.finfo(diagonals.dtype).eps * diagonals.diagonal(dim1=1, dim2=2).min()
            if not len(stage.up) or s * couplings.abs().max() <= least:
                break
            inverse, log = _inverted(diagonals[stage.own])
            up = -inverse[: len(stage.up)] @ couplings[stage.up]
            down = -inverse[: len(stage.down)] @ couplings[stage.down].mT
            for table, own in zip(made[:3], (inverse, up, down), strict=True):
                table.append(own)
            made.logs.add_(log[stage.which].sum())
            pulls, new, diagonals = torch.cat([up, down]), -down, diagonals[stage.left]
            if s * pulls.square().sum(dim=1).max() > least:
                squares = (pulls.mT @ pulls)[stage.terms] * -stage.often[:, None, None]
                diagonals.index_add_(0, stage.into, squares)
                new = new.mT @ up[: len(down)]
            else:
                new.zero_()
            couplings = torch.cat([couplings, new])[stage.links]
        else:
            inverse, log = _inverted(rest.dense(diagonals, couplings))
            made.inverses.append(inverse)
            made.logs.add_(log[0])
            return made
        inverse, log = _inverted(diagonals)
        for stage in placed[len(made.ups) :]:
            made.inverses.append(inverse[stage.own])
            made.logs.add_(log[stage.own[stage.which]].sum())
            inverse, log = inverse[stage.left], log[stage.left]
        made.inverses.append(rest.dense(inverse))
        made.logs.add_(log[rest.own].sum())
        return made

    def factors(self, sigma: float, like: Tensor) -> Factored:
        """The factors for a noise level, on the device of a tensor; the latest are kept."""
        found: Factored | None = self._kept.get((sigma, like.device))
        if found is None:
            with torch.inference_mode(False), torch.no_grad():
                w, eye = sigma**2, torch.eye(self.diagonals.shape[1]).to(like)
                diagonals, couplings = self.placed(
                    like, lambda *on: (self.diagonals.to(*on), self.couplings.to(*on)), "blocks"
                )
                found = self._factored(eye + w * diagonals, w * couplings)
        size = sum(t.nbytes for table in found[:3] for t in table)
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
        n, m, s = len(b), self.m, self.diagonals.shape[1]
        x = b.new_zeros(n, m * s).index_copy_(1, places, b)
        x = x.reshape(n, m, s).transpose(0, 1).contiguous()  # [nodes, B, s]
        *parts, rest = x.split([*(len(stage.which) for stage in self.stages), len(self.rest.own)])
        placed = self._stages(b)
        steps = list(zip(placed, parts, *factors[:3], strict=False))
        for stage, part, inverse, up, down in steps:
            part.copy_(stage.times(inverse.mT, part))
            x.index_add_(0, stage.above, stage.times(up, part[: len(stage.above)]))
            x.index_add_(0, stage.below, stage.times(down, part[: len(stage.below)]))
        k = len(steps)
        for stage, part, inverse in zip(placed[k:], parts[k:], factors[0][k:-1], strict=True):
            part.copy_(stage.times(inverse, stage.times(inverse.mT, part)))
        last, flat = factors.inverses[-1][0], rest.transpose(0, 1).reshape(n, len(rest) * s)
        rest.copy_((flat @ last.T @ last).reshape(n, len(rest), s).transpose(0, 1))
        for stage, part, inverse, up, down in reversed(steps):
            part[: len(stage.above)] += stage.times(up.mT, x.index_select(0, stage.above))
            part[: len(stage.below)] += stage.times(down.mT, x.index_select(0, stage.below))
            part.copy_(stage.times(inverse, part))
        return x.transpose(0, 1).reshape(n, m * s)[:, places]

    def log_determinant(self, sigma: Tensor) -> Tensor:
        like = sigma.double()
        logs = [self.factors(s, like).logs for s in sigma.tolist()]
        return torch.stack([*logs, like.new_zeros(())])[:-1] - self.padding * torch.log1p(like**2)


def stages(
    parent: Ints, diagonal: Ints, coupling: Ints, few: int
) -> tuple[Ints, list[Stage], Rest]:
    """The order in which nodes are eliminated, the stages, and what is left.

    Args:
        parent: of every node, `[m]`; -1 for roots.
        diagonal: the kinds of the nodes' diagonal blocks.
        coupling: those of their couplings with their parents.
        few: how many nodes may be left.
    """
    names, order, found, n_couplings = np.arange(len(parent)), list[Ints](), [], coupling.max() + 1
    while (m := len(parent)) > few:
        # Every second is eliminated of those in a row that have at most one child.
        inner = np.flatnonzero(parent >= 0)
        children, child = np.bincount(parent[inner], minlength=m), np.full(m, -1)
        child[parent[inner]] = inner
        able = children < np.where(parent >= 0, 2, 1)
        rank, to = np.append(able.astype(int), 0), np.append(np.where(able, parent, -1), -1)
        while (more := rank[to]).any():
            rank, to = rank + more, to[to]
        gone = rank[:m] % 2 == 1
        out, stay = np.flatnonzero(gone), np.flatnonzero(~gone)
        out = out[np.argsort((child[out] < 0) + 1 * (parent[out] < 0), kind="stable")]
        up = np.where(parent[out] < 0, -1, coupling[out])
        down = np.where(child[out] < 0, -1, coupling[child[out]])
        kinds, which = _unique(diagonal[out], up, down)
        out, which = out[np.argsort(which, kind="stable")], np.sort(which)
        above, below = parent[out][parent[out] >= 0], child[out][child[out] >= 0]
        n_up, n_down = (int((column >= 0).sum()) for column in kinds.T[1:])

        # Those that stay are of one kind if they were, and lose the same.
        lost = np.concatenate([which[: len(above)], n_up + which[: len(below)]])
        pairs = np.concatenate([above, below]) * (n_up + n_down + 1) + lost
        pairs, times = np.unique(pairs, return_counts=True)
        loser, terms = np.divmod(pairs, n_up + n_down + 1)
        rows, cuts = np.stack([terms, times], axis=1), np.searchsorted(loser, np.arange(m + 1))
        known: dict[Any, int] = {}
        kind = np.full(m, -1)
        kind[stay] = [
            known.setdefault((diagonal[i], rows[cuts[i] : cuts[i + 1]].tobytes()), len(known))
            for i in stay
        ]
        heads = stay[np.unique(kind[stay], return_index=True)[1]]
        some = np.isin(loser, heads)

        over = parent[stay]
        passed = gone[over] & (over >= 0)
        kind[out] = which
        made = np.where(passed, n_couplings + kind[over], coupling[stay])
        links, inverse = np.unique(made[over >= 0], return_inverse=True)
        tensors = (
            which, names[above], names[below], kinds[:, 0], kinds[:n_up, 1], kinds[:n_down, 2],
            diagonal[heads], kind[loser[some]], terms[some], times[some], links,
        )  # fmt: skip
        found.append(Stage(np.bincount(which).tolist(), *map(torch.tensor, tensors)))
        order.append(names[out])
        rank = np.full(m + 1, -1)
        rank[stay] = np.arange(len(stay))
        parent = rank[np.where(passed, parent[over], over)]
        coupling = np.full(len(stay), -1)
        coupling[over >= 0] = inverse
        names, diagonal, n_couplings = names[stay], kind[stay], len(links)
    total, inner = np.concatenate([*order, names]), np.flatnonzero(parent >= 0)
    rest = Rest(*map(torch.tensor, (diagonal, inner, parent[inner], coupling[inner])))
    at = torch.from_numpy(np.argsort(total))
    return total, [s._replace(above=at[s.above], below=at[s.below]) for s in found], rest


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
