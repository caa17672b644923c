r"""The completion of large graphs: that of every region's neighbourhood, in place of the whole.

    K = Σ_r A_rᵀ (K⁽ʳ⁾_rr ∘ T_r) A_r,        T_ij = 1 / (number of outer regions with both i and j)

K⁽ʳ⁾ is the maximum-entropy completion (see `completing`) of the *patch* of an outer region r: of
all elements within h hops, by way of regions, and of the covariances restricted to them. The error
is what acts on r from beyond and falls with h, about as ρ^(2h) for correlations ρ. Restrictions of
covariances that have a completion have one.

Where regions around r meet in one atom each and close no loop, K_rr is known:

    K = Σ_q A_qᵀ Σ_q⁻¹ A_q + Σ_a (1 - d_a) A_aᵀ Σ_a⁻¹ A_a        (a: atoms, in d_a regions q)

Elsewhere elements that are in one region only are left out first, again and again, but for those
of regions that touch r (Graham's reduction), which leaves K_rr as it was. In sparse networks little
more remains than short loops. What remains is scaled region by region, many patches at a time; and
equal patches, as of tilings with common covariances, are completed once.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from tqdm import tqdm

from pgmdiff.errors import ScoreError, warn
from pgmdiff.graphs.atoms import atoms, first_elements
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Bools, Floats, Ints
from pgmdiff.precision.completing import APART, outer_regions, scaled, sound
from pgmdiff.precision.covariances import Covariances
from pgmdiff.precision.forms import DensePrecisions
from pgmdiff.precision.precision import Assembled, Block, ComposedPrecision
from pgmdiff.precision.solves.base import IndefiniteError, Solve
from pgmdiff.precision.solves.choice import solver_of
from pgmdiff.precision.solves.iterative import ConjugateGradients
from pgmdiff.text import counted, described

__all__ = ["Neighbourhoods", "nearby", "residual"]

MOST = 256
"""Most elements of a patch. Larger ones are more exact, at a cost that grows with their cube."""
HOPS = 6
"""Most hops from a region to the border of its patch."""
WORK = 3e9
"""Most work: the sum, over different patches with loops, of regions times elements squared. It
takes some tens of seconds; where it would be more, patches have fewer hops."""
SAMPLED = 64
"""Regions whose patches tell for how many hops most of them are small enough."""
TOLERANCE = 1e-7
"""Largest error of a correlation of a patch."""
MOST_SWEEPS = 2_000
"""Most passes over the regions of a patch."""
AT_ONCE = 2**22
"""Most elements of all patches that are held at once, and entries of matrices scaled at once."""
PROBES = 16
"""Outer regions of a group whose covariances are compared with those under K."""
ROUGH = 1e-6
"""Relative residual of the solves that compare them."""
EQUAL = 1e-6
"""Relative difference up to which the blocks of K of all regions of a group count as one."""


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """The completion of a large graph by neighbourhoods; see the module.

    Attributes:
        precision: K, as a sum over outer regions.
        distance: see `Completion`.
        patches: the number of different patches.
        hops: h; patches that would have more than `MOST` elements have fewer.
    """

    precision: Assembled
    distance: float
    patches: int
    hops: int

    def __repr__(self) -> str:
        size = f"{self.precision.graph.n_elements} elements"
        return described(self, size, self._patches, f"residual={self.residual:.2g}")

    @property
    def _patches(self) -> str:
        return f"{counted(self.patches, 'patch', 'patches')} of {counted(self.hops, 'hop')}"

    @cached_property
    def solve(self) -> Solve:
        """Solves with K.

        Raises:
            IndefiniteError: K is not positive definite.
        """
        return solver_of(self.precision)

    @cached_property
    def residual(self) -> float:
        """How far K⁻¹ is from the covariances given; see `residual`; infinite if K is no use."""
        generator = torch.Generator().manual_seed(0)
        n = self.precision.graph.n_elements
        anywhere = torch.randn(1, n, generator=generator, dtype=torch.float64)
        try:
            solve = self.solve
            if isinstance(solve, ConjugateGradients):
                solve = ConjugateGradients(self.precision, tolerance=ROUGH)
            solve(anywhere, self.precision.far[None])  # which finds where K is indefinite
            return residual(self.precision, solve, PROBES)
        except (IndefiniteError, ScoreError):  # the latter where a solve does not converge
            return inf

    @property
    def found(self) -> str:
        """How it was found, for a report."""
        return (
            f"by neighbourhoods, {self._patches}; entries of the regions' covariances differ from "
            f"those under it by up to {self.residual:.2g} of a variance"
        )


def nearby(graph: RegionGraph, covariances: Covariances) -> Neighbourhoods | None:
    """The completion of a graph's covariances by neighbourhoods, in time linear in its regions.

    Args:
        graph: every counted region lies inside an outer one.
        covariances: the provider of the outer regions' Σ_r. Entries that regions share are
            averaged.

    Returns:
        None if a region has more than `MOST` elements within one hop.

    Raises:
        GraphError: the covariances of a patch have no completion, or it was not found. The error
            names a region that does not fit.
    """
    outer = list(outer_regions(graph))
    indices = [index for _, index in outer]
    if any(index.shape[1] > MOST for index in indices):
        return None
    most = max(indices, key=Tensor.numel)  # one of them is looked at before tables of all are made
    near = torch.zeros(graph.n_elements, dtype=torch.bool)
    near[most[len(most) // 2]] = True
    if len(most[near[most].any(dim=1)].unique()) > MOST:
        return None
    pattern = _Pattern(outer, graph.n_elements)
    if (pattern.held @ pattern.hop @ pattern.sizes).max(initial=0) > MOST:
        return None
    pattern.read(covariances)
    sample = np.linspace(0, pattern.n_regions - 1, min(SAMPLED, pattern.n_regions)).astype(int)
    hops, patch = 0, pattern.held[sample]
    while hops < HOPS:
        patch = patch @ pattern.hop
        if hops and np.median(patch @ pattern.sizes) > MOST:
            break
        hops += 1
    while (found := pattern.completed(hops)) is None:
        hops -= 1
    blocks = tuple(
        Block(group, index, torch.ones(len(index), dtype=torch.float64), DensePrecisions(k))
        for (group, index), (k, _) in zip(outer, found, strict=True)
    )
    whole = Assembled(graph, covariances, parts=blocks)
    return Neighbourhoods(whole, pattern.distance, sum(n for _, n in found), hops)


def residual(precision: ComposedPrecision, solve: Solve, probes: int) -> float:
    """How far covariances under a precision are from those given, in units of variances.

    One row of its inverse is solved for in some outer regions of every group, and compared on the
    region.

    Args:
        precision: of a graph and its covariances.
        solve: solves with it.
        probes: the most regions of a group.
    """
    worst, variances, level = 0.0, precision.variances, precision.far
    for group in tqdm(precision.graph.groups, desc="residual", delay=3, leave=False):
        rows = np.flatnonzero(group.outer & (group.counts != 0))
        if not len(rows):
            continue
        rows = rows[:: -(-len(rows) // probes)]
        some = group.select(rows)
        index = some.flat()
        middle = index.shape[1] // 2
        given = precision.covariances.form(some).dense()[:, middle].expand(index.shape)
        unit = torch.zeros(len(index), precision.graph.n_elements, dtype=torch.float64)
        unit.scatter_(1, index[:, middle, None], 1.0)
        solved = level**2 * solve(unit, level.expand(len(index)))
        units = (variances[index] * variances[index[:, middle, None]]).sqrt()
        worst = max(worst, float(((solved.gather(1, index) - given) / units).abs().max()))
    return worst


class _Pattern:
    """The outer regions of a graph, the atoms they hold, and the correlations they tell.

    Regions are numbered group by group. Pairs of elements that share a region are numbered by
    their `keys`, i N + j.

    Attributes:
        outer: the groups and their elements, `[n, d]`.
        offsets: the number of every group's first region.
        keys: of all pairs, in order, `[m]`.
        values: their correlations, averaged over regions, `[m]`.
        times: the number of regions with both, `[m]`.
        tree: K where no loop is near, in units of deviations, `[m]`.
        deviations: standard deviations, `[N]`.
        distance: see `Completion`.
        held: which atoms regions hold, `[regions, atoms]`.
        hop: which atoms share a region, `[atoms, atoms]`.
        sizes: of atoms.
        members: the elements of atoms, `[atoms, N]`.
        degrees: of atoms, in how many regions they are.
        kinds: of regions; those of one kind have equal correlations, and elements but for a shift.
        differ: whether nearly every region is of its own kind.
        firsts, first_of_atoms: the first element of every region, and of every atom.
    """

    def __init__(self, outer: Sequence[tuple[RegionGroup, Tensor]], n: int) -> None:
        self.outer, self.n = outer, n
        self.indices = [index.numpy() for _, index in outer]
        self.offsets = np.cumsum([0, *map(len, self.indices)])
        self.n_regions = int(self.offsets[-1])
        lengths = np.concatenate([np.full(len(i), i.shape[1]) for i in self.indices])
        flat = np.concatenate([index.ravel() for index in self.indices])
        within = _table(np.repeat(np.arange(self.n_regions), lengths), flat, (self.n_regions, n))
        labels = atoms((row for index in self.indices for row in index), n)
        self.sizes, self.first_of_atoms = np.bincount(labels), first_elements(labels)
        self.members = _table(labels, np.arange(n), (len(self.sizes), n))
        self.held = (within @ self.members.T).tocsr()
        self.hop = (self.held.T @ self.held).tocsr()
        self.degrees = np.diff(self.held.tocsc().indptr)

    def read(self, covariances: Covariances) -> None:
        """Reads the correlations off the covariances of outer regions."""
        parts = []
        for (group, _), index in zip(self.outer, self.indices, strict=True):
            form = covariances.form(group)
            form.inverse(group.name)  # its error names a region whose covariance cannot be used
            keys, matrices = self._keys(index), form.dense().numpy()
            own = np.sqrt(matrices.diagonal(axis1=1, axis2=2))
            several = matrices, own[:, :, None] * own[:, None]
            parts.append((keys.ravel(), *(np.broadcast_to(x, keys.shape).ravel() for x in several)))
        every, given, scales = (np.concatenate(each) for each in zip(*parts, strict=True))
        self.keys, at = np.unique(every, return_inverse=True)
        self.times = np.bincount(at)
        mean = np.bincount(at, given) / self.times
        i, j = np.divmod(self.keys, self.n)
        self.deviations = np.ones(self.n)
        self.deviations[i[i == j]] = np.sqrt(mean[i == j])
        units = self.deviations[i] * self.deviations[j]
        self.values = mean / units
        if not all(sound(torch.from_numpy(self.values[self.at(index)])) for index in self.indices):
            warn(APART)
            self.values = np.bincount(at, given / scales) / self.times
        self.distance = float(np.abs(given / units[at] - self.values[at]).max())
        self.tree = np.zeros(len(self.keys))
        for index in self.indices:
            self._add_inverses(index, np.ones(len(index)))
        for size in np.unique(self.sizes):
            some = np.flatnonzero((self.sizes == size) & (self.degrees > 0))
            index = self.members[some].indices.reshape(-1, size).astype(np.int64)
            self._add_inverses(index, 1.0 - self.degrees[some])
        self._number()

    def _number(self) -> None:
        """Numbers regions by kind."""
        kinds, known = [], dict[Any, int]()
        for index in self.indices:
            values = self.values[self.at(index)].reshape(len(index), -1).round(9) + 0.0
            both = zip(index - index[:, :1], values, strict=True)
            kinds += [known.setdefault((a.tobytes(), b.tobytes()), len(known)) for a, b in both]
        self.kinds = np.array(kinds)
        self.differ = len(known) > 0.9 * self.n_regions
        self.firsts = np.concatenate([index[:, 0] for index in self.indices])

    def _keys(self, index: Ints) -> Ints:
        keys: Ints = index[..., :, None] * self.n + index[..., None, :]
        return keys

    def at(self, index: Ints) -> Ints:
        """The numbers of the pairs of elements `[..., d]`, `[..., d, d]`."""
        return np.searchsorted(self.keys, self._keys(index))

    def _add_inverses(self, index: Ints, counts: Floats) -> None:
        """Adds the inverse correlations of elements `[n, d]`, times n counts, to `tree`."""
        at = self.at(index)
        inverses = counts[:, None, None] * np.linalg.inv(self.values[at])
        self.tree += np.bincount(at.ravel(), inverses.ravel(), len(self.keys))

    def name(self, region: int) -> Hashable:
        """The name of a region."""
        which = int(np.searchsorted(self.offsets, region, side="right")) - 1
        return self.outer[which][0].name(region - int(self.offsets[which]))

    def completed(self, hops: int) -> list[tuple[Tensor, int]] | None:
        """The `blocks` of all groups; None if that would be too much work."""
        found = []
        for which in range(len(self.indices)):
            own = self.blocks(which, hops)
            if own is None:
                return None
            found.append(own)
        return found

    def blocks(self, which: int, hops: int) -> tuple[Tensor, int] | None:
        """K_rr ∘ T_r of the regions of a group, `[n or 1, d, d]`, and the number of patches.

        None if that would be too much work, unless patches have one hop only.
        """
        index, found, known = self.indices[which], list[Floats](), dict[bytes, int]()
        row, n_found = np.empty(len(index), np.int64), 0
        step = AT_ONCE // MOST
        for start in range(0, len(index), step):
            cores = np.arange(start, min(start + step, len(index))) + self.offsets[which]
            ring, patch = self.grown(cores, hops)
            touching, new = patch @ self.held.T, np.arange(len(cores))
            if not self.differ:
                names = [name.tobytes() for name in self.hashes(cores, patch, touching)]
                before = len(known)
                rows = np.array([known.setdefault(name, len(known)) for name in names])
                new = np.unique(rows, return_index=True)[1]
                new = new[rows[new] >= before]
                row[start : start + len(cores)] = rows
            else:
                row[start : start + len(cores)] = n_found + new
            n_found, n_cores = n_found + len(new), len(cores)
            ring, patch, touching, cores = ring[new], patch[new], touching[new], cores[new]
            # A graph of regions and atoms is a tree if it has one edge less than nodes.
            nodes = np.diff(patch.indptr) + np.diff(touching.indptr)
            loops = nodes - patch @ self.degrees != 1
            work = ((patch @ self.sizes) ** 2 * np.diff(touching.indptr))[loops].sum()
            if len(new) > n_cores / 2:  # so will it be for those that follow
                work = work * len(index) / n_cores
            if work > WORK and hops > 1:
                return None
            own = index[cores - self.offsets[which]]
            k = self.tree[self.at(own)]
            if loops.any():
                patches = _Patches(self, ring[loops], patch[loops], touching[loops])
                k[loops] = patches.completed(own[loops])
            found.append(k)
        k = np.concatenate(found)[row] / self.times[self.at(index)]
        k /= self.deviations[index][:, :, None] * self.deviations[index][:, None]
        mean = k.mean(axis=0, keepdims=True)
        shared = np.abs(k - mean).max() <= EQUAL * np.abs(mean).max()
        return torch.from_numpy(mean if shared else k), n_found

    def grown(self, cores: Ints, hops: int) -> tuple[Any, Any]:
        """The atoms within one hop of some regions, and within as many as fit: `[cores, atoms]`."""
        patch, ring, n = self.held[cores], None, np.arange(len(cores))
        for _ in range(hops):
            further = (patch @ self.hop).tocsr()
            fits = further @ self.sizes <= MOST
            patch = sparse.vstack([patch, further], format="csr")[n + len(n) * fits]
            ring = patch if ring is None else ring
        return ring, patch

    def hashes(self, cores: Ints, patch: Any, touching: Any) -> Any:
        """The kind of the core and 128 bits of its patch, `[n, 3]`.

        They are equal for equal patches, but for a shift of all elements: sums over the atoms and
        regions of a patch, which come in any order.
        """
        none = np.full(len(self.first_of_atoms), -1)
        tables = (patch, self.first_of_atoms, none), (touching, self.firsts, self.kinds)
        total = np.zeros((len(cores), 3), np.uint64)
        total[:, 2] = self.kinds[cores]
        for table, first, kind in tables:
            row, column = _pairs(table)
            shift = _mixed((first[column] - self.firsts[cores][row]).astype(np.uint64))
            for k in range(2):
                both = _mixed(shift + kind[column].astype(np.uint64) + np.uint64(k))
                np.add.at(total[:, k], row, both)
        return total


class _Patches:
    """Some patches, reduced to what matters to their cores.

    Attributes:
        core, region, place, element: the patch, the region, the local number and the number of
            every element of every region that is left, sorted by patch and region.
        local: which elements each patch holds, in order, as core * N + element.
        bounds: where those of every patch begin, and the last end.
    """

    def __init__(self, pattern: _Pattern, ring: Any, patch: Any, touching: Any) -> None:
        self.pattern, n_atoms = pattern, patch.shape[1]
        core, atom = _pairs(patch)
        columns = core * n_atoms + atom
        core, atom = _pairs(ring)
        free = ~np.isin(columns, core * n_atoms + atom)
        core, region = _pairs(touching)
        pair, atom = _pairs(pattern.held[region])
        column, pair = _places(columns, core[pair] * n_atoms + atom, pair)
        before = -1
        while before != len(pair):
            before = len(pair)
            keep = ~free[column] | (np.bincount(column, minlength=len(columns))[column] > 1)
            pair, column = pair[keep], column[keep]
            keep = ~_inside_others(_table(pair, column, (len(core), len(columns))))[pair]
            pair, column = pair[keep], column[keep]
        entry, element = _pairs(pattern.members[columns[column] % n_atoms])
        core, region = core[pair][entry], region[pair][entry]
        order = np.lexsort((element, region, core))
        self.core, self.region, self.element = core[order], region[order], element[order]
        self.local, self.place = np.unique(
            self.core * pattern.n + self.element, return_inverse=True
        )
        self.bounds = np.searchsorted(self.local, np.arange(patch.shape[0] + 1) * pattern.n)

    def completed(self, own: Ints) -> Floats:
        """K_rr of the cores, of which the elements `[n, d]` are given, in units of deviations."""
        new = np.append(True, (np.diff(self.core) != 0) | (np.diff(self.region) != 0))
        pair = np.cumsum(new) - 1
        core = self.core[new]
        slot = np.arange(len(pair)) - np.flatnonzero(new)[pair]
        row = np.arange(len(core)) - np.searchsorted(core, core)
        sizes, regions = np.diff(self.bounds), np.bincount(core, minlength=len(own))
        k, by, start = np.empty((*own.shape, own.shape[1])), np.lexsort((regions, sizes)), 0
        bar = tqdm(total=len(own), desc="completion", delay=3, leave=False)
        while start < len(by):
            most = max(1, AT_ONCE // 8 // int(1.5 * sizes[by[start]]) ** 2)
            some = by[start : start + most]
            some = some[sizes[some] <= 1.2 * sizes[some[0]] + 4]
            start += len(some)
            number = np.full(len(own), -1)
            number[some] = np.arange(len(some))
            size = int(sizes[some].max())
            mine = np.flatnonzero(number[self.core] >= 0)
            at = number[self.core[mine]], row[pair[mine]], slot[mine]
            shape = len(some), int(regions[some].max()), int(slot[mine].max()) + 1
            places, elements = np.full(shape, size), np.zeros(shape, int)
            named = np.zeros(shape[:2], int)
            places[at] = self.place[mine] - self.bounds[self.core[mine]]
            elements[at] = self.element[mine]
            named[at[:2]] = self.region[mine]
            number = self.pattern.at(elements).clip(max=len(self.pattern.keys) - 1)
            given = torch.from_numpy(self.pattern.values[number]).unbind(1)
            index = torch.from_numpy(places).unbind(1)

            def name(patch: int, region: int, named: Ints = named) -> Hashable:
                return self.pattern.name(int(named[patch, region]))

            w, _ = scaled(index, given, size, name, TOLERANCE, MOST_SWEEPS)
            inside = np.searchsorted(self.local, some[:, None] * self.pattern.n + own[some])
            inside = torch.from_numpy(inside - self.bounds[some, None])
            unit = torch.eye(size, dtype=torch.float64)[inside].mT
            columns = torch.linalg.solve(w, unit)
            blocks = columns.gather(1, inside[:, :, None].expand(-1, -1, own.shape[1]))
            k[some] = (blocks + blocks.mT) / 2
            bar.update(len(some))
        bar.close()
        return k


def _table(rows: Ints, columns: Ints, shape: tuple[int, int]) -> Any:
    """The sparse table of booleans that are true at given places."""
    return sparse.coo_array((np.ones(len(rows), bool), (rows, columns)), shape).tocsr()


def _pairs(table: Any) -> tuple[Ints, Ints]:
    """The rows and columns of all entries of a sparse table, in order."""
    table.sort_indices()
    rows = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    return rows, table.indices.astype(np.int64)


def _places(known: Ints, keys: Ints, values: Ints) -> tuple[Ints, Ints]:
    """The places of keys among known ones, which are in order, and the values of those found."""
    at = np.searchsorted(known, keys).clip(max=len(known) - 1)
    found = known[at] == keys
    return at[found], values[found]


def _inside_others(held: Any) -> Bools:
    """Which rows of a sparse table of booleans lie inside another, the first of equal ones not."""
    counts = held.astype(np.int32)
    shared = (counts @ counts.T).tocoo()
    (i, j), sizes = shared.coords, np.diff(held.indptr)
    inside = (shared.data == sizes[i]) & (
        (sizes[j] > sizes[i]) | ((sizes[j] == sizes[i]) & (j < i))
    )
    found = np.zeros(held.shape[0], bool)
    found[i[inside]] = True
    return found


def _mixed(x: Any) -> Any:
    """64 bits from 64 bits, one to one, as if at random (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
