r"""The maximum-entropy completion: the precision that has given covariances on the regions.

    (K⁻¹)_r = Σ_r on every outer region,      K_ij = 0 where i and j share no region

K is the only such matrix, and N(m, K⁻¹) the distribution of largest entropy with these region
covariances (covariance selection; Dempster, "Covariance selection", 1972). It exists exactly when
the Σ_r are restrictions of one positive definite matrix (Grone, Johnson, Sá, Wolkowicz, "Positive
definite completions of partial Hermitian matrices", 1984). On a junction tree it is the composed
precision P; on loops P differs from it and may be indefinite.

It is found by regression of one block of elements at a time on its neighbours (Hastie, Tibshirani,
Friedman, "The elements of statistical learning", 2009, Algorithm 17.1), for W = K⁻¹:

    β = W_NN⁻¹ Σ_Nb,      W_·b = W_·N β,      K_bb = (Σ_bb - Σ_bN β)⁻¹,      K_Nb = -β K_bb

W begins as the given entries, 0 elsewhere, plus a ridge that makes it positive definite. Every
update keeps it so, keeps the given entries and raises its determinant; between sweeps the ridge is
lowered as far as W allows, and where a completion exists it comes to 0. Blocks that share no region
are updated together.

Where regions are wide, as windows of images are, they are scaled one by one instead (iterative
proportional scaling; Speed and Kiiveri, "Gaussian Markov distributions over finite graphs", 1986):

    W ← W + Gᵀ (Σ_r - W_rr) G,      G = W_rr⁻¹ W_r·,      K_rr ← K_rr + Σ_r⁻¹ - W_rr⁻¹
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import networkx as nx
import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from pgmdiff.errors import GraphError, warn
from pgmdiff.graphs.atoms import atoms
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Ints, correlations
from pgmdiff.precision.covariances import Covariances
from pgmdiff.precision.precision import add_blocks, on_junction_tree, taken_blocks, weighed
from pgmdiff.text import by_field, counted, described

__all__ = ["Blocks", "Completion", "completed", "outer_regions", "without"]

PATIENCE = 30
"""Sweeps that hardly lower the ridge, after which covariances count as having no completion."""
STALLED = 1e-8
"""Misfit of a correlation that counts as rounding where sweeps no longer lower it."""
EXTRAPOLATED = 5
"""Sweeps from one extrapolation to the next."""
APART = (
    "Covariances: regions disagree so far on what they share that the means of their entries "
    "belong to no distribution; the means of variances and of correlations are used. Give more "
    "samples. If there are many, parts of windows that should be alike are not, as of clips that "
    "begin alike: cut clips at random places, or fit form='stationary'."
)
"""A warning."""
WIDE = 8
"""Elements per region from which regions are scaled one by one."""
AT_ONCE = 2**24
"""Most numbers that are gathered for one step."""


@dataclass(frozen=True, eq=False)
class Completion:
    """The maximum-entropy completion of region covariances.

    Attributes:
        precision: K, float64 `[N, N]`.
        covariance: K⁻¹, float64 `[N, N]`, whose blocks are the regions' covariances.
        distance: how far the given covariances were from one another: the largest difference of an
            entry from its mean over the regions that hold it, in units of standard deviations.
        sweeps: number of passes over all blocks.
    """

    precision: Tensor
    covariance: Tensor
    distance: float
    sweeps: int

    def __repr__(self) -> str:
        size = f"{len(self.precision)} elements"
        return described(self, size, f"distance={self.distance:.2g}", f"sweeps={self.sweeps}")

    @property
    def found(self) -> str:
        """How it was found, for a report."""
        return f"found in {counted(self.sweeps, 'sweep')}"


@dataclass(frozen=True, eq=False)
class Blocks(Covariances):
    """The covariances of regions as blocks of that of the whole state.

    Args:
        whole: float64 `[N, N]`.
    """

    whole: Tensor

    __repr__ = by_field

    def of(self, group: RegionGroup) -> Tensor:
        return taken_blocks(self.whole, group.flat())


def completed(
    graph: GraphLike,
    covariances: Covariances,
    *,
    tolerance: float = 1e-12,
    most_sweeps: int = 2_000,
) -> Completion:
    """The maximum-entropy completion of the covariances of a graph's outer regions; see the module.

    Where regions disagree on an entry that they share, as independent estimates do, its mean over
    them is used; or, with a warning, the means of variances and of correlations apart, where a mean
    variance beside a covariance of one region alone made a correlation of more than 1. The matrices
    are dense: it is meant for up to some thousand elements.

    Args:
        graph: every counted region lies inside an outer one.
        covariances: the provider of the outer regions' Σ_r.
        tolerance: the largest change of a correlation in the last sweep; after 300 sweeps
            it is loosened tenfold for every 100 more, up to 1e-6.
        most_sweeps: the number of sweeps after which it fails.

    Raises:
        GraphError: the covariances have no completion, or it was not found. The error names a
            region that does not fit.
    """
    if most_sweeps < 1:
        raise GraphError(f"completed: expected most_sweeps >= 1, got {most_sweeps}. Allow more.")
    graph = graph_of(graph, "completed").regions
    known, distance = _averaged(graph, covariances)
    deviations = known.diagonal().sqrt()
    scale = deviations[:, None] * deviations
    known = known / scale
    if on_junction_tree(graph):
        for group, index in outer_regions(graph):
            least = torch.linalg.eigvalsh(taken_blocks(known, index))[:, 0]
            if not (least > 0).all():
                row = int(least.argmin())
                raise without(0, group.name(row), -least[row].item(), "give more samples")
        k = torch.zeros_like(known)
        for _, index, counts in weighed(graph):
            inverses = torch.linalg.inv(taken_blocks(known, index))
            add_blocks(k, index, counts[:, None, None] * inverses)
        return Completion(k / scale, torch.linalg.inv(k) * scale, distance, 0)
    sizes = [len(row) for _, index in outer_regions(graph) for row in index]
    find = _scaled if sum(sizes) >= WIDE * len(sizes) else _regressed
    w, k, sweeps = find(graph, known, tolerance, most_sweeps)
    return Completion(k / scale, w * scale, distance, sweeps)


def _scaled(
    graph: RegionGraph, known: Tensor, tolerance: float, most_sweeps: int
) -> tuple[Tensor, Tensor, int]:
    """W, K and the number of sweeps, by proportional scaling of one region after the other."""
    outer = list(outer_regions(graph))
    names = [name for group, _ in outer for name in group.names]
    regions = [row[None] for _, index in outer for row in index]
    given = [taken_blocks(known, row) for row in regions]

    def name(_: int, region: int) -> Hashable:
        return names[region]

    found, sweeps = scaled(regions, given, len(known), name, tolerance, most_sweeps, True)
    k = torch.linalg.inv(found[0])
    return found[0], ((k + k.T) / 2).masked_fill(known.isnan(), 0.0), sweeps


def scaled(
    regions: Sequence[Tensor],
    given: Sequence[Tensor],
    n: int,
    name: Callable[[int, int], Hashable],
    tolerance: float,
    most_sweeps: int,
    definite: bool = False,
) -> tuple[Tensor, int]:
    """The W of p graphs, `[p, n, n]`, by proportional scaling, and the number of sweeps.

    Args:
        regions: the elements of every graph's first region, `[p, d]`, second, ...; n pads them.
        given: the correlations of these, `[p, d, d]`.
        n: the most elements of a graph.
        name: tells the name of a region, by the numbers of its graph and its own, for the error.
        tolerance, most_sweeps: as for `completed`.
        definite: whether it fails where a W is not positive definite.

    Raises:
        GraphError: see `completed`.
    """
    left, best, waited = torch.arange(len(regions[0])), math.inf, 0
    w = torch.eye(n + 1).double().repeat(len(left), 1, 1)  # with the element that pads
    reals = [(index < n)[:, :, None] & (index < n)[:, None] for index in regions]
    given = [x.where(r, torch.eye(x.shape[1]).double()) for x, r in zip(given, reals, strict=True)]
    found = torch.empty_like(w)
    for sweep in tqdm(range(1, most_sweeps + 1), desc="completion", delay=3, leave=False):
        each, parts = torch.arange(len(w))[:, None], []
        for index, block, real in zip(regions, given, reals, strict=True):
            rows = w[each, index]
            own = rows.gather(2, index[:, None].expand(real.shape)).where(real, block)
            gap = block - own
            parts.append(gap.abs().amax(dim=(1, 2)))
            regressed, _ = torch.linalg.solve_ex(own, rows)
            w.baddbmm_(regressed.mT, gap @ regressed)
        gaps = torch.stack(parts).nan_to_num(math.inf)
        # W stays definite, but for rounding, where all blocks are.
        if definite and (sweep == 1 or waited) and torch.linalg.cholesky_ex(w).info.any():
            break
        worst = float(gaps.max())
        best, waited = (worst, 0) if worst < 0.9 * best else (best, waited + 1)
        enough = STALLED if waited == PATIENCE else _enough(tolerance, sweep)
        done = gaps.amax(dim=0) <= enough
        found[left[done]] = w[done]
        if done.all():
            return found[:, :n, :n], sweep
        if done.any():
            w, left, gaps = w[~done], left[~done], gaps[:, ~done]
            regions, given, reals = ([x[~done] for x in xs] for xs in (regions, given, reals))
        if waited == PATIENCE or worst == math.inf:
            break
    region, which = divmod(int(gaps.argmax()), len(left))
    unfit = name(int(left[which]), region)
    raise without(sweep, unfit, float(gaps.max()), "give them a larger ridge=, such as 0.01")


def _regressed(
    graph: RegionGraph, known: Tensor, tolerance: float, most_sweeps: int
) -> tuple[Tensor, Tensor, int]:
    """W, K and the number of sweeps, by regression of one block after the other."""
    # One more element, correlated with none, pads the blocks that are updated together.
    held = F.pad(~known.isnan(), (0, 1, 0, 1), value=True)
    w = F.pad(known.nan_to_num(), (0, 1, 0, 1))
    steps, ridge, share, waited, before, last = _steps(graph), 1.0, 1.0, 0, w, w
    while not _definite(w, -ridge):
        ridge *= 2
    w.diagonal()[:-1].add_(ridge)
    for sweep in tqdm(range(1, most_sweeps + 1), desc="completion", delay=3, leave=False):
        before = w.clone() if sweep % EXTRAPOLATED in (0, EXTRAPOLATED - 1) else before
        change = max((step.update(w, held) for step in steps), default=0.0)
        last = w - before if sweep % EXTRAPOLATED == EXTRAPOLATED - 1 else last
        if ridge:
            while not _definite(w, 1.5 * share * ridge) and share > 1e-6:
                share /= 2
            less = share * ridge
            waited = waited + 1 if share < 0.01 else 0
            ridge, share = ridge - less, min(2 * share, 1.0)
            w.diagonal()[:-1].sub_(less)
        elif change <= _enough(tolerance, sweep):
            break
        elif sweep % EXTRAPOLATED == 0:  # the slowest mode, as a geometric series (Aitken)
            moved = w - before
            rate = min(float((moved * last).sum() / last.square().sum()), 0.99)
            further = w + rate / (1 - rate) * moved
            w = further if rate > 0 and _definite(further, 0.0) else w
        if waited == PATIENCE or sweep == most_sweeps:
            raise _unfit(graph, w, ridge, sweep)
    k = torch.zeros_like(w)
    for step in steps:
        step.write_precision(k, w)
    return w[:-1, :-1], (k + k.T)[:-1, :-1] / 2, sweep


def _enough(tolerance: float, sweep: int) -> float:
    """The tolerance in a sweep: loosened tenfold for every 100 after 300, up to 1e-6."""
    looser: float = tolerance * 10 ** min(max(0.0, sweep / 100 - 3), 12.0)
    return max(tolerance, min(looser, 1e-6))


def outer_regions(graph: RegionGraph) -> Iterator[tuple[RegionGroup, Tensor]]:
    """The counted outer regions, group by group, and their elements, int64 `[n, d]`."""
    for group, index, _ in weighed(graph, [np.where(g.outer, g.counts, 0.0) for g in graph.groups]):
        yield group, index


def _averaged(graph: RegionGraph, covariances: Covariances) -> tuple[Tensor, float]:
    """The mean of every entry over the outer regions that hold it (NaN elsewhere), `[N, N]`.

    With it the largest difference from the mean, in standard deviations.
    """
    outer = []
    for group, index in outer_regions(graph):
        form = covariances.form(group)
        form.inverse(group.name)  # its error names a region whose covariance cannot be used
        outer.append((index, form.dense().expand(len(index), -1, -1)))
    sums, times = (torch.zeros((graph.n_elements,) * 2, dtype=torch.float64) for _ in range(2))
    for index, matrices in outer:
        add_blocks(sums, index, matrices)
        add_blocks(times, index, torch.ones_like(matrices))
    mean = sums / times
    if not all(sound(taken_blocks(mean, index)) for index, _ in outer):
        warn(APART)
        sums.zero_()
        for index, matrices in outer:
            own = matrices.diagonal(dim1=1, dim2=2).sqrt()
            add_blocks(sums, index, matrices / own[:, :, None] / own[:, None])
        units = mean.diagonal().sqrt()
        mean = sums / times * units[:, None] * units
    deviations, distance = mean.diagonal().sqrt(), 0.0
    for index, matrices in outer:
        gap = matrices - taken_blocks(mean, index)
        of_pairs = deviations[index][:, :, None] * deviations[index][:, None]
        distance = max(distance, float((gap / of_pairs).abs().max()))
    return mean, distance


def sound(matrices: Tensor) -> bool:
    """Whether all are positive definite."""
    return not torch.linalg.cholesky_ex(correlations(matrices)[0]).info.any()


def _steps(graph: RegionGraph) -> list["_Step"]:
    """The steps of a sweep.

    Blocks are the elements that no outer region splits. Blocks of one colour share no region.
    """
    n = graph.n_elements
    regions = [row for _, index in outer_regions(graph) for row in index.numpy()]
    labels = atoms(regions, n)
    neighbours = nx.empty_graph(labels.max(initial=-1) + 1)
    for region in regions:
        neighbours.add_edges_from(combinations(np.unique(labels[region]).tolist(), 2))
    members = np.split(np.argsort(labels, kind="stable"), np.bincount(labels).cumsum()[:-1])
    colours = defaultdict(list)
    for block, colour in nx.greedy_color(neighbours).items():
        around = [members[other] for other in neighbours[block]]
        colours[colour].append((members[block], np.concatenate([members[block][:0], *around])))
    steps = []
    for blocks in colours.values():
        widest = max(len(around) for _, around in blocks)
        at_once = max(1, AT_ONCE // max(1, widest * n))
        steps += [_Step.of(blocks[i : i + at_once], n) for i in range(0, len(blocks), at_once)]
    return steps


@dataclass(frozen=True, eq=False)
class _Step:
    """Blocks that share no region, padded to one size with the last element, N.

    Attributes:
        blocks: their elements, int64 `[m, b]`.
        around: the elements that share a region with them, int64 `[m, d]`.
    """

    blocks: Tensor
    around: Tensor

    @classmethod
    def of(cls, blocks: Sequence[tuple[Ints, Ints]], n: int) -> "_Step":
        def stacked(rows: Sequence[Ints]) -> Tensor:
            tensors = [torch.from_numpy(row) for row in rows]
            return pad_sequence(tensors, batch_first=True, padding_value=n)

        return cls(*map(stacked, zip(*blocks, strict=True)))

    def regression(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """β `[m, d, b]` and W_Nb `[m, d, b]`."""
        across = w[self.around[:, :, None], self.blocks[:, None]]
        return torch.linalg.solve(_square(w, self.around), across), across

    def update(self, w: Tensor, held: Tensor) -> float:
        """Regresses every block, in place, but for the entries that are held.

        Returns:
            The largest change of W.
        """
        beta, _ = self.regression(w)
        (m, b), n = self.blocks.shape, len(w) - 1
        columns = self.around[:, None].expand(m, b, -1)
        starts = self.around.shape[1] * np.arange(m * b + 1)
        entries = beta.mT.reshape(-1).numpy(), columns.reshape(-1).numpy(), starts
        # Rows of W, for every block; a sparse product, since gathering W_N· would copy it.
        rows = torch.from_numpy(sparse.csr_array(entries, (m * b, n + 1)) @ w.numpy())
        places = self.blocks.reshape(-1)
        # Blocks of the step depend on each other only through their surroundings.
        among = torch.einsum("pmd,mdb->pmb", rows[:, self.around], beta)
        rows[:, places] = among.reshape(m * b, m * b)
        real = places < n
        rows, places = rows[real], places[real]
        before = w[places]
        rows = torch.where(held[places], before, rows)
        w[places], w[:, places] = rows, rows.T
        return float((rows - before).abs().max())

    def write_precision(self, k: Tensor, w: Tensor) -> None:
        """Writes the blocks' columns of K, in place."""
        beta, across = self.regression(w)
        inside = torch.linalg.inv(_square(w, self.blocks) - across.mT @ beta)
        for at, values in ((self.blocks, inside), (self.around, -beta @ inside)):
            k[at[:, :, None].expand_as(values), self.blocks[:, None].expand_as(values)] = values


def _definite(w: Tensor, less: float) -> bool:
    """Whether W is positive definite with so much less on its diagonal, the padding apart."""
    lowered = w[:-1, :-1].clone()
    lowered.diagonal().sub_(less)
    return not torch.linalg.cholesky_ex(lowered).info


def _square(matrix: Tensor, index: Tensor) -> Tensor:
    """The blocks of a matrix on elements `[m, a]`; padding is correlated with nothing."""
    padding = index == len(matrix) - 1
    both = padding[:, :, None] & padding[:, None]
    return torch.where(both, torch.eye(index.shape[1]).to(matrix), taken_blocks(matrix, index))


def _unfit(graph: RegionGraph, w: Tensor, ridge: float, sweeps: int) -> GraphError:
    """The error for covariances without a completion: it names the region that fits worst."""
    if not ridge:
        return GraphError(
            f"Covariances: expected a completion of the covariances within {sweeps} sweeps, but W "
            "still changed. Give the covariances a larger ridge."
        )
    weakest = torch.linalg.eigh(w[:-1, :-1])[1][:, 0]
    most, misfit, name = -1.0, 0.0, None
    for group, index in outer_regions(graph):
        apart = taken_blocks(w, index).abs() * (index[:, :, None] != index[:, None])
        pull = (apart * (weakest[index][:, :, None] * weakest[index][:, None]).abs()).amax((1, 2))
        if pull.max() > most:
            row = int(pull.argmax())
            most, name = float(pull[row]), group.name(row)
            misfit = float(apart[row].max()) * ridge / (1 + ridge)
    remedy = f"raise all variances by {ridge:.2g} of themselves (ridge=)"
    return without(sweeps, name, misfit, remedy)


def without(sweeps: int, name: Hashable, misfit: float, remedy: str) -> GraphError:
    """The error for covariances without a completion, of which those of a region fit worst."""
    return GraphError(
        "Covariances: expected the covariances of one distribution, but no positive definite "
        f"matrix with these blocks was found in {counted(sweeps, 'sweep')}; a correlation of "
        f"region {name!r} is off by {misfit:.3g}. Read all covariances off one estimate "
        f"(fit_covariances without shared=True), or {remedy}."
    )
