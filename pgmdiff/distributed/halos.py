r"""States divided among ranks along one axis, which exchange only what regions hold on both sides.

Rank k owns a *slab*, the elements between two places of the axis, and evaluates the regions that
begin in it. Elements of these regions that others own are its *halo*. In a call

    1. values of the halo come from their owners,
    2. the models of the rank's own regions are called,
    3. what regions add to elements of the halo goes to their owners,

so that every region is evaluated once, and a rank sends, per sample, twice the elements that its
regions share with those of others: for windows two overlaps, however long the state is. With rules
that solve a system step 3 belongs to the solve; see `solve`.
"""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from functools import cache, partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from pgmdiff.composition import Field, Joint, PerNode
from pgmdiff.composition.evaluate import Chunk, flattened
from pgmdiff.composition.joint import Remembering
from pgmdiff.composition.plan import Batch, EachField, map_tensors
from pgmdiff.composition.rules import Memory, bound
from pgmdiff.distributed.ranks import Ranks, SharedRun
from pgmdiff.distributed.solve import SpreadObserved, SpreadSolve
from pgmdiff.errors import GraphError, ScoreError, ShapeError, shape_text
from pgmdiff.graphs.groups import IndexGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.precision import Solve
from pgmdiff.samplers import Run
from pgmdiff.scores.gradients import gradient_required
from pgmdiff.store import fingerprint
from pgmdiff.text import counted, described

__all__ = ["Slab"]


class Halo:
    """What the slabs of ranks share.

    Args:
        ranks: the processes.
        own: the elements that this rank owns, sorted, int64 `[n]`.
        others: by rank, the elements of others that this rank's regions hold, sorted.

    Attributes:
        n_own: the number of elements that this rank owns.
        held: all elements that its regions hold, those of others last, int64 `[m]`.
        shared: for every rank, the elements that it shares with others, sorted.
    """

    def __init__(self, ranks: Ranks, own: Tensor, others: dict[int, Tensor]) -> None:
        self.ranks, self.n_own, self.sizes = ranks, len(own), {k: len(e) for k, e in others.items()}
        self.held = torch.cat([own, *others.values()])
        asked: list[dict[int, Tensor]] = ranks.objects(others)
        mine = {k: each[ranks.rank] for k, each in enumerate(asked) if ranks.rank in each}
        self.given = {k: torch.searchsorted(own, elements) for k, elements in mine.items()}
        self.shared = []
        for k, each in enumerate(asked):
            both = [*each.values(), *(other[k] for other in asked if k in other)]
            self.shared.append(torch.cat([own[:0], *both]).unique())

    def __repr__(self) -> str:
        return described(self, f"{self.n_own} of {counted(len(self.held), 'element')} own")

    def filled(self, own: Tensor) -> Tensor:
        """The values `[B, m]` of all held elements, from those `[B, n]` of the slab."""
        wanted = {k: own.new_empty(len(own), size) for k, size in self.sizes.items()}
        given = {k: own[:, places.to(own.device)] for k, places in self.given.items()}
        self.ranks.exchange(given, wanted)
        return torch.cat([own, *wanted.values()], dim=1)

    def added(self, held: Tensor) -> Tensor:
        """The sums `[B, n]` on the slab of what all ranks have for its elements, `[B, m]` each."""
        own: Tensor
        own, *rest = held.split([self.n_own, *self.sizes.values()], dim=1)
        wanted = {k: own.new_empty(len(own), len(places)) for k, places in self.given.items()}
        self.ranks.exchange(dict(zip(self.sizes, rest, strict=True)), wanted)
        for k, values in wanted.items():
            own = own.index_add(1, self.given[k].to(own.device), values)
        return own


class Slab:
    """The joint score on this rank's slab of a state that is divided among all ranks.

        slab = Slab(joint)
        u = sample(slab, sigmas, shape=(1, *slab.event_shape), generator=0)

    All ranks call it together. The state, its noise (which depends on the place in the whole) and
    all that a solver keeps are divided; results are those of one process up to rounding. Slabs end
    where outer regions begin, and as many of these begin in each.

    Rules are `Marginal`, `Average` and, on junction trees and beyond 2,000 elements, where P then
    stands for the completion, `Posterior` and `Consistent`, the latter with a memory. Solvers are
    all but `Adaptive` and `PredictorCorrector`, whose steps depend on the whole state. Fields and
    observations are given whole, alike on all ranks. Observations are by a mask or a crop, under
    `replacement`, or under `moment_matching` with the rule's covariances or with
    `Isotropic(jacobian=False)`. There are no gradients. Every rank holds the plan of the whole
    graph. Errors, and scores that are not finite, on any rank are raised on all.

    Args:
        joint: the joint score of the whole, composed alike on every rank.
        axis: the axis of the state that is divided.

    Attributes:
        ranks: the processes, which count the bytes that they send.
        bounds: rank k owns places `bounds[k]` to `bounds[k + 1]` of the axis.
        event_shape: the shape of the slab.
        places: its elements of the whole, int64 `[*event_shape]`.

    Raises:
        PgmdiffError: there is no group of processes.
        GraphError: outer regions begin at fewer places than there are ranks.
        ScoreError: the rule requires the whole state.
    """

    copies = True
    fingerprint = property(lambda self: fingerprint(self.joint))

    def __init__(self, joint: Joint, axis: int = -1) -> None:
        self.joint, self.ranks, event = joint, Ranks(), joint.event_shape
        self.axis = axis = range(-len(event), 0)[axis]
        rank, stride = self.ranks.rank, prod(event[axis:]) // event[axis]

        def along(elements: Tensor) -> Tensor:
            """The places of elements on the axis."""
            return elements // stride % event[axis]

        groups = [batch.group for batch in joint.batches]
        firsts = [along(group.firsts()) for group in groups]
        pairs = zip(firsts, groups, strict=True)
        outer = torch.cat([each[group.outer.nonzero()] for each, group in pairs]).sort().values
        starts, n_ranks = outer.unique(), self.ranks.size
        if len(starts) < n_ranks:
            raise GraphError(
                f"Slab: expected outer regions that begin at {n_ranks} or more places of axis "
                f"{axis}, one per rank, got {len(starts)}. Use fewer ranks"
                f"{', or divide another axis' * (len(event) > 1)}."
            )
        cuts = [0]  # of the places, which many regions may share
        for k in range(1, n_ranks):
            even = int(torch.searchsorted(starts, outer[k * len(outer) // n_ranks]))
            cuts.append(min(max(even, cuts[-1] + 1), len(starts) - n_ranks + k))
        self.bounds = [0, *starts[cuts[1:]].tolist(), event[axis]]
        places = torch.zeros((), dtype=torch.int64)
        for each, size in enumerate(event, -len(event)):
            low, high = self.bounds[rank : rank + 2] if each == axis else (0, size)
            places = places[..., None] * size + torch.arange(low, high)
        self.places, self.event_shape = places, tuple(places.shape)
        inner = torch.tensor(self.bounds[1:-1])
        self._owners = [torch.bucketize(first, inner, right=True) for first in firsts]
        chosen = [(owners == rank).nonzero()[:, 0] for owners in self._owners]
        mine = [(b, rows) for b, rows in zip(joint.batches, chosen, strict=True) if len(rows)]
        groups = [batch.group.select(rows.numpy()) for batch, rows in mine]
        index, own = [group.indices(0, len(group)) for group in groups], places.reshape(-1)
        far = torch.cat([own[:0], *(each.reshape(-1) for each in index)]).unique()
        owners = torch.bucketize(along(far), inner, right=True)
        others = {k: far[owners == k] for k in owners.unique().tolist() if k != rank}
        self.halo = Halo(self.ranks, own, others)
        held, order = self.halo.held.sort()
        at = along(self.halo.held)
        self._rows = at.unique()  # of the axis, which fields are cropped to
        lead, row = self.halo.held // (stride * event[axis]), torch.searchsorted(self._rows, at)
        standing = (lead * len(self._rows) + row) * stride + self.halo.held % stride
        seen = *event[:axis], len(self._rows), *event[axis:][1:]
        crop, parts, offset = cache(self._cropped), list[Batch](), 0
        for (batch, rows), group, elements in zip(mine, groups, index, strict=True):
            local = order[torch.searchsorted(held, elements)]
            some = IndexGroup(local, group.counts, group.names, group.outer, group.model)
            parts.append(_part(batch, rows, some, standing, offset, crop))
            offset += elements.numel()
        rule = joint.rule.part(self.halo.held, lambda: SpreadSolve(self.halo, parts))
        graph, limits = RegionGraph(seen, ()), (joint.max_batch, joint.check_finite)
        self.part = Joint(graph, graph, rule, tuple(parts), *limits)

    def __repr__(self) -> str:
        low, high = self.bounds[self.ranks.rank : self.ranks.rank + 2]
        n = sum(len(batch.group) for batch in self.part.batches)
        where = f"places {low} to {high} of axis {self.axis}"
        return described(self, repr(self.ranks), where, counted(n, "region"))

    def __call__(self, u: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        """The composed score on the slab, `[*batch, *event_shape]`; see `Joint`.

        Raises:
            ShapeError: u, sigma or a condition does not fit.
            ScoreError: a rank has failed, or the ranks make different calls.
        """
        return self.call(u, sigma, condition)

    @property
    def solve(self) -> Solve | None:
        """See `Joint`; it is that of all ranks together."""
        return self.part.rule.solve

    def observing(self, update: Callable[..., Tensor], values: Tensor, variances: Tensor) -> "Slab":
        """The same slab, whose rule knows observed elements of the whole; see `Joint.observing`.

        Raises:
            ScoreError: samples are observed in different elements, or with different noise.
        """
        if (variances != variances[:1]).any():
            raise ScoreError(
                "Slab: expected the same observed elements and noise for all samples. Use "
                "distributed.shared(joint)."
            )
        slab, part = copy(self), self.part
        slab.joint = self.joint.observing(update, values, variances)
        whole = slab.joint.rule.observed  # type: ignore[attr-defined]
        known = SpreadObserved.of(whole, variances[0].cpu(), self.halo, part.batches)
        slab.part = replace(part, rule=bound(part.rule, observed=known))
        return slab

    def remembering(self, memory: Memory | None = None) -> Remembering:
        """See `Joint.remembering`."""
        return Remembering(self, dict(memory or {}))  # type: ignore[arg-type]

    def call(
        self, u: Tensor, sigma: Tensor | float, condition: Any, memory: Memory | None = None
    ) -> Tensor:
        """The composed score on the slab, where the rule reads and updates a memory.

        Raises:
            ScoreError: as for a call.
        """
        condition = map_tensors(lambda t: t, condition, self._cropped)
        flat, sigmas, condition = flattened(self.event_shape, u, sigma, condition)
        if gradient_required(u, sigmas, condition):
            raise ScoreError("Slab: it has no gradients. Use the joint itself on every rank.")
        said = self.ranks.agree(None, len(flat), float(sigmas.double().sum()))
        if (said != said[0]).any():
            raise ScoreError(
                f"Slab: the ranks call it with different batches or σ, batch and Σ σ are "
                f"{said.tolist()}. Make the same call on all."
            )
        rule, evaluate = self.part.rule, partial(self._evaluate, condition=condition)
        with torch.no_grad():
            score = rule.score(evaluate, self.halo.filled(flat), sigmas, memory)
            own = self.halo.added(score) if rule.solve is None else score[:, : self.halo.n_own]
        return own.reshape(u.shape)

    def _cropped(self, word: str, given: Field | PerNode) -> Field | PerNode:
        """A field at the places of the axis that this rank's regions hold."""
        event, values = self.joint.event_shape, given.values
        if isinstance(given, PerNode):
            self.joint.check_nodes(word, given)
        if self.ranks.size == 1 or isinstance(given, PerNode):
            return given
        if values.ndim < len(event) or values.shape[self.axis] != event[self.axis]:
            raise ShapeError(
                f"Slab: the condition {word!r}: expected a field over the whole state "
                f"{shape_text('*channels', event)}, got {tuple(values.shape)}. Give all of it to "
                "every rank."
            )
        return Field(values.index_select(self.axis, self._rows.to(values.device)))

    def _evaluate(self, u: Tensor, sigma: Tensor, **options: Any) -> Iterator[tuple[Chunk, Tensor]]:
        """All calls at once, so that no rank goes on if one has failed; see `Joint.evaluate`."""
        found, error = list[tuple[Chunk, Tensor]](), None
        try:
            found = list(self.part.evaluate(u, sigma, finite=self.part.check_finite, **options))
        except Exception as raised:  # it is raised on all ranks together
            error = raised
        self.ranks.agree(error)
        return iter(found)

    def cut(self, whole: Tensor, name: str = "x") -> Tensor:
        """The part of this rank of a tensor of the whole.

        Args:
            whole: states `[..., *event]`, or what the whole keeps by this name.
            name: "x", or another name of a tensor in `State.parts`.
        """
        if name.startswith("memory."):
            return whole if whole.ndim == 1 else whole[:, self._messages(self.ranks.rank)]
        low, high = self.bounds[self.ranks.rank : self.ranks.rank + 2]
        return whole.narrow(self.axis, low, high - low)

    def whole(self, part: Tensor, name: str = "x") -> Tensor | None:
        """The tensor of the whole, on the CPU of rank 0, from those of all ranks; None on others.

        Args:
            part: states `[..., *event_shape]`, or what this rank keeps by this name.
            name: see `cut`.
        """
        if name.startswith("memory.") and part.ndim == 1:  # per sample, alike on all ranks
            return part
        parts = self.ranks.collected(part.cpu())
        if not parts:
            return None
        if not name.startswith("memory."):
            return torch.cat(parts, dim=self.axis)
        places = torch.cat([self._messages(k) for k in range(self.ranks.size)])
        return torch.cat(parts, dim=1)[:, places.argsort()]

    def _messages(self, rank: int) -> Tensor:
        """Where the values of the regions of a rank stand among those of all regions."""
        places = [torch.zeros(0, dtype=torch.int64)]
        for batch, owners in zip(self.joint.batches, self._owners, strict=True):
            rows, size = (owners == rank).nonzero(), prod(batch.group.shape)
            places.append((batch.offset + rows * size + torch.arange(size)).reshape(-1))
        return torch.cat(places)

    def stored(self, run: Run) -> SharedRun:
        """A run of all ranks."""
        return SharedRun(run.folder, run.every, ranks=self.ranks, part=self)


def _part(
    batch: Batch, rows: Tensor, group: IndexGroup, places: Tensor, offset: int, crop: EachField
) -> Batch:
    """Some regions of a batch, a group on elements of their own numbering."""
    known, condition = batch.precisions, map_tensors(lambda leaf: leaf[rows], batch.condition, crop)
    known = known if known is None or known.shared else known.map(lambda t: t[rows])
    spaced, weights = group.spaced(len(places)), batch.weights[rows]
    return Batch(batch.score, group, weights, condition, known, offset, spaced, places)
