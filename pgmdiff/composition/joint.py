r"""The joint score of a graph: it calls the models of regions, and its rule composes their scores.

Which model is called on which regions is resolved at construction: regions that share a model, a
shape and the structure of their condition are one *batch* of the `plan`, evaluated in as few calls
as `max_batch` allows. A call then only gathers, calls and scatters.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as repeated_later

from pgmdiff.composition.batching import MaxBatch, chunks, fastest, halves, out_of_memory
from pgmdiff.composition.comparing import compared
from pgmdiff.composition.evaluate import Chunk, Tilt, flattened
from pgmdiff.composition.nodewise import PerNode
from pgmdiff.composition.observed import LEAST, Observed, foldable
from pgmdiff.composition.plan import Batch, given_text, map_tensors
from pgmdiff.composition.rules import Memory, Rule, bound
from pgmdiff.errors import ScoreError, note, warn
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.groups import IndexGroup
from pgmdiff.graphs.regions import Condition, RegionGraph
from pgmdiff.graphs.report import Report
from pgmdiff.linalg import Shape, beside, keep, ordinary, rows, widest
from pgmdiff.precision import ComposedPrecision, Solve
from pgmdiff.scores.adapters import per_element
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.scores.walls import copied, copies, on_copies, received
from pgmdiff.store import fingerprint
from pgmdiff.text import Table, brief, counted, described, name_text

__all__ = ["Joint", "Remembering"]

KEPT_CALLS = 4096
"""Most model calls of a joint call whose indices are sliced once and kept."""

KEPT_BATCHES = 8
"""Batch sizes, dtypes and devices, the latest, whose indices are kept."""

LISTED = 12
"""Batches that `Joint.table` lists."""


@dataclass(frozen=True, eq=False)
class Joint:
    """The composed score: `joint(u, sigma, **condition) -> [*batch, *event_shape]`.

    Made by `compose`. `u` has any batch shape before the graph's event shape; sigma is one number
    or has the batch shape. Conditions given at the call start with the batch shape and reach every
    node, unless it has its own or `null_condition` replaces them; a `field` is cropped to each
    node. It works in the state's dtype, float32 or float64, and on its device, under autograd or
    without, in several threads at once.

    Attributes:
        graph: the graph that was composed, as it was given.
        regions: its regions, with their conditions.
        rule: the composition rule, bound to the graph.
        batches: the plan: which model is called on which regions.
        max_batch, check_finite, checkpoint: see `compose`.
    """

    graph: FactorGraph | RegionGraph
    regions: RegionGraph
    rule: Rule
    batches: tuple[Batch, ...]
    max_batch: MaxBatch
    check_finite: bool
    checkpoint: bool = False
    copies = told_of_train_mode = True
    _untold: str = ""  # what a call without conditions warns of
    _kept: dict[Any, tuple[Chunk, ...]] = field(default_factory=dict, repr=False)
    _placed: dict[Any, tuple[Batch, ...]] = field(default_factory=dict, repr=False)
    _limits: dict[Any, tuple[int, float]] = field(default_factory=dict, repr=False)
    _nodes: dict[str, tuple[Hashable, ...]] = field(default_factory=dict, repr=False)

    # ---------------------------------------------------------------- the score

    def __call__(self, u: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        """The composed score of `u`, a pure function; see `rule` for what it approximates.

        Args:
            u: `[*batch, *event_shape]`.
            sigma: one number, or of the batch shape.
            condition: passed on to the models; see `field` for those that are cropped.

        Raises:
            ShapeError: u, sigma or a condition does not fit the graph.
            ScoreError: a model returned NaN, infinity, or another shape, dtype or device.
        """
        return self.call(u, sigma, condition)

    def call(
        self,
        u: Tensor,
        sigma: Tensor | float,
        condition: Condition,
        memory: Memory | None = None,
    ) -> Tensor:
        """The composed score of `u`, where the rule reads and updates a memory; see `remembering`.

        It is a pure function if the memory is None.

        Raises:
            ScoreError: the memory belongs to another batch, the rule has covariances and the device
                no float64; or as for a call.
        """
        flat, sigmas, condition = self._flattened(u, sigma, condition)
        if self.precision is not None and widest(u.device) != torch.float64:
            raise ScoreError(
                f"Joint: {brief(self.rule)} computes in float64, which {u.device.type!r} does not "
                "have. Keep the state on the CPU, and move x inside the networks."
            )
        evaluate = partial(self.evaluate, condition=condition)
        before = None if memory is None else dict(memory)
        for name, values in (before or {}).items():
            if len(values) != len(flat):
                raise ScoreError(
                    f"Joint: expected the batch of the run, {len(values)} samples, as its memory "
                    f"{name!r} has, got {len(flat)}. Begin another run: joint.remembering()."
                )
        total = self.rule.score(evaluate, flat, sigmas, memory)
        if self.check_finite and not torch.compiler.is_compiling() and not _finite(total):
            again = partial(self.rule.score, partial(evaluate, finite=True), flat, sigmas, before)
            self.find_guilty(again, ~total.isfinite(), flat, sigmas)
        for word, given in condition.items():
            told = isinstance(given, PerNode)  # which goes before the conditions of nodes
            if not told and all(word in batch.condition for batch in self.batches):
                warn(
                    f"Joint: the condition {word!r} given at the call reaches no node, since each "
                    "has its own or the null condition. Give it to compose(conditions=) alone, or "
                    "here alone."
                )
        if self._untold and not condition:  # and the model accepted that
            remedy = "Give it one in conditions=, such as the null condition, or one in the call."
            warn(f"Joint: {self._untold}. {remedy}")
        return total.reshape(u.shape)

    def _flattened(
        self, u: Tensor, sigma: Tensor | float, condition: Condition
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """The arguments of a call as `flattened` has them, whose nodes are regions."""
        for word, given in condition.items():
            if isinstance(given, PerNode):
                self.check_nodes(word, given)
        return flattened(self.event_shape, u, sigma, condition)

    def check_nodes(self, word: str, given: PerNode) -> None:
        """Raises `GraphError` for a node that is no region; the latest are not checked again."""
        if self._nodes.get(word) != given.nodes:
            given.check(self.regions)
            self._nodes[word] = given.nodes

    def denoise(self, u: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        """The composed denoiser D(u, σ) = u + σ² s(u, σ); arguments are as for a call."""
        score = self(u, sigma, **condition)
        sigma = torch.as_tensor(sigma, dtype=u.dtype, device=u.device)
        return u + sigma.reshape(*sigma.shape, *[1] * len(self.event_shape)) ** 2 * score

    def log_density(self, u: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        """The log-density whose gradient the joint is, if its rule has one: `[*batch]`, in nats.

        Under `Consistent` it has a gradient in u only, not in conditions and weights of networks.

        Raises:
            ScoreError: the rule has no density (`Consistent` has, where its messages converge), or
                a piece's log-density is not known: its score requires a method
                `log_density(x, sigma, **condition) -> [batch]`.
            GraphError: log det(I + σ² P) is not available: P is too large to be factorised.
        """
        flat, sigmas, condition = self._flattened(u, sigma, condition)
        evaluate = partial(self.evaluate, condition=condition)
        total = self.rule.log_density(evaluate, flat, sigmas)
        if self.check_finite and total.isnan().any():
            again = partial(self.rule.log_density, partial(evaluate, finite=True), flat, sigmas)
            self.find_guilty(again, total.isnan(), flat, sigmas)
        return total.reshape(u.shape[: u.ndim - len(self.event_shape)])

    def remembering(self, memory: Memory | None = None) -> "Remembering":
        """The same score as a callable that carries its rule's memory from call to call.

        Args:
            memory: what an earlier run left; nothing if None.
        """
        return Remembering(self, dict(memory or {}))

    def observing(
        self,
        update: Callable[..., Tensor],
        values: Tensor | None = None,
        variances: Tensor | None = None,
    ) -> "Joint":
        """The same joint, whose rule knows observations; see `Observed`.

        Args:
            update: how the solve is updated.
            values, variances: observed elements and R, infinite for others: `[n or 1, N]`.
        """
        assert self.precision is not None, "only rules with covariances know observations"
        known = variances if variances is None else foldable(self.batches, variances)
        least = LEAST * self.precision.variances.sqrt()
        observed = Observed(update, self.event_shape, least, values, known)
        return replace(self, rule=bound(self.rule, observed=observed))

    # ---------------------------------------------------------------- the graph

    @property
    def event_shape(self) -> Shape:
        """The event shape of the state."""
        return self.regions.event_shape

    @property
    def precision(self) -> ComposedPrecision | None:
        """P, of rules that compose one."""
        return self.rule.precision

    @property
    def solve(self) -> Solve | None:
        """How systems with I + σ² P are solved, under rules that solve them."""
        return self.rule.solve

    def validate(self) -> Report:
        """The exactness report of the graph, with what the rule found of its covariances.

        Covariances are compared with the models of at least two regions of every kind, by some 20
        rows of each: a ratio far from 1 means other units or other data. Models that require
        conditions of the call cannot be compared. Where P stands for a completion, it makes a solve
        for two regions of every kind, at a noise level of their own: it takes as long as a call or
        two of the joint, and the memory, and shows its progress after three seconds.
        """
        findings, warning = self.rule.findings()
        said, wrong = ([], []) if self.precision is None else compared(self)
        warning = "; ".join([*wrong, *([warning] if warning else [])]) or None
        return replace(self.regions.validate(), findings=(*said, *findings), own_warning=warning)

    @property
    def fingerprint(self) -> str:
        """What saved runs are resumed by: all but how many rows a call has, and what is checked."""
        return fingerprint([self.graph, self.regions, self.rule, self.batches])

    @property
    def outline(self) -> dict[str, Any]:
        """The parts of the fingerprint by name, which says what differs if a run is refused."""
        named: dict[str, Any] = {"graph": self.graph, "regions": self.regions, "rule": self.rule}
        for batch in self.batches[:LISTED]:
            first = name_text(batch.group.name(0))
            named |= {f"scores[{first}]": batch.score, f"conditions[{first}]": batch.condition}
        return named

    def pack(self, values: Mapping[Any, Tensor]) -> Tensor:
        """The state from a tensor per variable: see the graph's own `pack`."""
        return self.graph.pack(values)

    def unpack(self, u: Tensor) -> dict[Hashable, Tensor]:
        """A tensor per variable from a state: see the graph's own `unpack`."""
        return self.graph.unpack(u)

    # ---------------------------------------------------------------- model calls

    def evaluate(
        self,
        u: Tensor,
        sigma: Tensor,
        *,
        condition: Condition | None = None,
        density: bool = False,
        tilt: Tensor | Tilt | None = None,
        finite: bool = False,
    ) -> Iterator[tuple[Chunk, Tensor]]:
        """Every model call and its scores; see `Evaluate`. Conditions are those of `flattened`.

        Raises:
            ScoreError: they are to be `finite` and are not; the node, σ and batch entry are named.
        """
        call = partial(self._call, u, sigma, condition or {}, density, tilt)
        found = map(partial(self._fitting, call, u), self._kept_chunks(u, call))
        for chunk, values in chain.from_iterable(found):
            fine = values.isfinite().reshape(*values.shape[:2], -1).all(dim=2) if finite else None
            if fine is not None and not fine.all():
                sample, row = (~fine).nonzero()[0].tolist()
                entry, kind = chunk.samples.start + sample, "log-density" if density else "score"
                where, remedy = "", "Call it alone on this input; a denoiser has no score at σ = 0."
                if tilt is not None:
                    where = ", where its message shifts its input"
                    remedy = (
                        "Messages that run away shift it far: in a loop or function of your own "
                        "use joint.remembering(), as `sample` does. Or call it alone on this input."
                    )
                raise ScoreError(
                    f"Joint: the {kind} of node {chunk.batch.group.name(chunk.start + row)!r} "
                    f"is not finite at σ = {sigma[entry].max():g}, batch entry {entry}{where}. "
                    f"{remedy}"
                )
            yield chunk, values

    def _fitting(
        self, call: Callable[[Chunk], Tensor], u: Tensor, chunk: Chunk
    ) -> Iterable[tuple[Chunk, Tensor]]:
        """The chunk with its values; under "auto" in halves, where memory is too small for it."""
        try:
            return [(chunk, call(chunk))]
        except RuntimeError as error:
            parts = halves(chunk)
            if self.max_batch != "auto" or len(parts) == 1 or not out_of_memory(error):
                raise
        limit = max((part.stop - part.start) * len(u[part.samples]) for part in parts)
        self._limits[chunk.batch.offset, u.device, u.dtype] = (limit, inf)
        self._kept.clear()
        warn(
            f"Joint: memory is too small for the model calls of {chunk.name!r}; from now on they "
            f"have {counted(limit, 'row')} at most. Give max_batch={limit} to begin with it."
        )
        return chain.from_iterable(map(partial(self._fitting, call, u), parts))

    def _kept_chunks(self, u: Tensor, call: Callable[[Chunk], Tensor]) -> Iterable[Chunk]:
        """The chunks; on small graphs, where every operation counts, the latest few are kept."""
        key = u.device, u.dtype, u.shape[0]
        if (found := self._kept.get(key)) is not None:
            return found
        batches = self._on(u)
        calls = u.shape[0] * sum(len(batch.group) for batch in batches)
        if calls > KEPT_CALLS or not all(isinstance(b.group, IndexGroup) for b in batches):
            return self._chunks(u, call)
        _not_while_compiling()
        with torch.inference_mode(False):
            made = tuple(chunk.kept() for chunk in self._chunks(u, call))
            return keep(self._kept, key, made, KEPT_BATCHES)

    def _chunks(self, u: Tensor, call: Callable[[Chunk], Tensor]) -> Iterator[Chunk]:
        """Shares `max_batch` between regions and samples."""
        for batch in self._on(u) if len(u) else ():
            limit = self.max_batch
            if limit == "auto":
                limit = self._tuned(batch, u, call)
            yield from chunks(batch, len(u), limit or len(u) * len(batch.group))

    def _tuned(self, batch: Batch, u: Tensor, call: Callable[[Chunk], Tensor]) -> int:
        """The rows of a call that are fastest, measured when there are more than ever before."""
        rows, key = len(u) * len(batch.group), (batch.offset, u.device, u.dtype)
        if key not in self._limits or self._limits[key][1] < rows:
            _not_while_compiling()

            def first(size: int) -> None:
                values = call(next(chunks(batch, len(u), size)))
                if u.device.type != "cpu":
                    values.flatten()[0].item()  # waits for the device

            with torch.no_grad():
                self._limits[key] = fastest(first, rows)
        return self._limits[key][0]

    def _call(
        self,
        u: Tensor,
        sigma: Tensor,
        condition: Condition,
        density: bool,
        tilt: Tensor | Tilt | None,
        chunk: Chunk,
    ) -> Tensor:
        batch = chunk.batch
        x = chunk.gather(u, chunk.shape, own=not copies(batch.score))
        if sigma.ndim == 2:  # per element of the state
            sigmas = sigma[chunk.samples].index_select(1, chunk.index).reshape(x.shape)
            if not per_element(batch.score):
                sigmas = rows(sigmas)[:, 0].clone()
        elif chunk.entries is None:
            sigmas = sigma[chunk.samples].repeat_interleave(chunk.sizes[1])
        else:
            sigmas = sigma.index_select(0, chunk.entries)
        if tilt is not None:
            shift, precision = (chunk.own(tilt), None) if isinstance(tilt, Tensor) else tilt(chunk)
            if precision is not None:
                sigmas = sigmas / (1 + sigmas**2 * precision.reshape(-1)).sqrt().to(sigmas)
            x = x + (shift.reshape(x.shape) * beside(sigmas, x) ** 2).to(x)

        given = self._given(chunk, x, condition) if condition or batch.condition else {}
        function = _log_density(batch.score, chunk) if density else batch.score
        like = x.new_empty(len(x)) if density else x.detach()  # whatever is done to x
        kind = "log-density" if density else "score"
        try:
            if self.checkpoint and torch.is_grad_enabled():
                value = repeated_later(on_copies, function, x, sigmas, use_reentrant=False, **given)
            else:  # what is given has been copied for this call
                value = function(x, sigmas, **given)
        except Exception as error:
            others = chunk.stop - chunk.start - 1
            several = f" and of {counted(others, 'other')}" if others else ""
            called = f"the score of node {chunk.name!r}{several} was called on x of"
            told = given_text(batch.condition, condition)
            note(error, f"while {called} {tuple(x.shape)} {_where(chunk, sigma)}.{told}")
            raise
        values = received(value, like, partial(_whose, kind, chunk, sigma))
        check_gradient(values, u, lambda: f"Joint: the {kind} of node {chunk.name!r}")
        return values.reshape(chunk.sizes[: 2 if density else 3])

    def _given(self, chunk: Chunk, x: Tensor, condition: Condition) -> dict[str, Any]:
        """The conditions of a model call on x: those of the nodes go before those of the call."""
        n, regions = chunk.samples.stop - chunk.samples.start, chunk.stop - chunk.start

        def per_row(leaf: Tensor) -> Tensor:
            """`[regions, ...]` repeated for every sample: `[samples * regions, ...]`."""
            rows = leaf[chunk.start : chunk.stop]
            return rows.expand(n, *rows.shape).reshape(n * regions, *rows.shape[1:])

        def per_sample(leaf: Tensor) -> Tensor:
            return leaf[chunk.samples].repeat_interleave(regions, dim=0)

        crop = partial(chunk.crop, self.event_shape, x)
        own = map_tensors(per_row, chunk.batch.condition, crop)
        if own and 1 in (n, regions) and not copies(chunk.batch.score):
            own = copied(own)  # others are copies already
        told = {
            word: chunk.told(word, given, own.get(word))
            for word, given in condition.items()
            if isinstance(given, PerNode)
        }
        others = {word: given for word, given in condition.items() if word not in told}
        told = {word: values for word, values in told.items() if values is not None}
        return {**map_tensors(per_sample, others, crop), **own, **told}

    def _on(self, u: Tensor) -> tuple[Batch, ...]:
        key = (u.device, u.dtype)
        if key not in self._placed:
            _not_while_compiling()
            # What is kept must serve autograd later; a field is moved once.
            moved = cache(lambda field: replace(field, values=ordinary(field.values.to(u.device))))
            with torch.inference_mode(False), torch.enable_grad():
                batches = tuple(batch.to(*key, lambda _, f: moved(f)) for batch in self.batches)
            for batch in batches:
                _ = batch.weight
            self._placed[key] = batches
        return self._placed[key]

    def find_guilty(
        self, again: Callable[[], Tensor], wrong: Tensor, u: Tensor, sigma: Tensor
    ) -> None:
        """Raises a `ScoreError` that names the node, σ and batch entry of a NaN or infinity.

        The call is made `again`; `wrong` `[B, ...]` is where its result was not finite.

        Raises:
            ScoreError: always; it says so if every node is finite, and if the call is, made again.
        """
        broken = ~u.isfinite().all(dim=1)
        if broken.any():
            entry = int(broken.nonzero()[0])
            raise ScoreError(
                f"Joint: the state itself is not finite at batch entry {entry} "
                f"(σ = {sigma[entry].item():g}). Look at the step before: too large a step, or a "
                "start that does not fit σ."
            )

        with torch.no_grad():
            found = again()
        entry = int(rows(wrong).any(dim=1).nonzero()[0])
        where = f"at σ = {sigma[entry].item():g}, batch entry {entry}"
        if found[entry].isfinite().all():
            raise ScoreError(
                f"Joint: the result was not finite {where}, and is finite when the same call is "
                "made again: a model depends on more than its arguments. Call it in eval mode, "
                "without memory that it or other threads change."
            )
        raise ScoreError(
            f"Joint: every node's score is finite, but their weighted sum overflows {u.dtype} "
            f"{where}. Use a wider dtype or a smaller state."
        )

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: nothing that is made again when it is needed."""
        return {**vars(self), "_kept": {}, "_placed": {}, "_limits": {}, "_nodes": {}}

    def __repr__(self) -> str:
        return described(self, repr(self.graph), *(f"{k}={v}" for k, v in self._made_of.items()))

    @property
    def _made_of(self) -> dict[str, str]:
        """What the repr and notebooks show besides the graph."""
        regions = sum(len(batch.group) for batch in self.batches)
        batches = counted(len(self.batches), "batch", "batches")
        solve = "" if self.solve is None else type(self.solve).__name__
        said = {
            "rule": brief(self.rule),
            "evaluates": f"{counted(regions, 'region')} in {batches}",
            "solve": solve,
        }
        return {key: value for key, value in said.items() if value}

    @property
    def table(self) -> Table:
        """What notebooks show: the graph, the rule, and which models are called on what."""
        rows = [("graph", repr(self.graph)), *self._made_of.items()]
        for batch in self.batches[:LISTED]:
            regions = f"{counted(len(batch.group), 'region')} of shape {batch.group.shape}"
            rows.append(("batch", f"{regions}: {brief(batch.score)}"))
        left = len(self.batches) - LISTED
        if left > 0:
            rows.append(("", f"and {counted(left, 'more batch', 'more batches')}"))
        return Table("Joint", rows)


@dataclass(eq=False)
class Remembering:
    """A joint that carries its rule's memory from call to call; made by `Joint.remembering`.

    After `hold`, all calls read the same memory until `commit`, so that they are a function of
    (u, σ) within a step of a solver. What calls left before the latest one is forgotten: a step
    that is rejected and made again begins from the same memory.

    Attributes:
        joint: the joint.
        memory: what calls read; a run saves it in its `State`.
    """

    joint: Joint
    memory: Memory
    copies = True

    def __post_init__(self) -> None:
        self._latest, self._held = self.memory, False

    def __call__(self, u: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        """The composed score of `u`, given the memory; see `Joint`."""
        self._latest = dict(self.memory)
        score = self.joint.call(u, sigma, condition, self._latest)
        if not self._held:
            self.commit()
        return score

    def remembering(self, memory: Memory | None = None) -> "Remembering":
        """The same joint with a memory of its own: that given, or a copy of this one's."""
        return self.joint.remembering(memory or self.memory)

    def check_samples(self, who: str, x: Tensor, sigma: float) -> None:
        """Warns of samples of noise level σ that the rule says are wrong."""
        doubt = self.joint.rule.doubt(rows(x), sigma)
        if doubt is not None:
            warn(f"{who}: {doubt}")

    @property
    def pure(self) -> Joint:
        """The score without memory, for what must not depend on earlier calls."""
        return self.joint

    def hold(self) -> None:
        """Keeps the memory as it is from call to call, until `commit`."""
        self._held = True

    def commit(self) -> None:
        """Makes what the latest call left the memory."""
        self.memory = self._latest


def _whose(kind: str, chunk: Chunk, sigma: Tensor) -> str:
    """What a model returned, for an error."""
    name, last = (repr(chunk.batch.group.name(row)) for row in (chunk.start, chunk.stop - 1))
    several = f" to {last}" if chunk.stop - chunk.start > 1 else ""
    return f"Joint: the {kind} of node {name}{several} {_where(chunk, sigma)},"


def _where(chunk: Chunk, sigma: Tensor) -> str:
    first = chunk.samples.start
    return f"at σ = {sigma[first].max():g}, batch entry {first} on"


def _log_density(score: Any, chunk: Chunk) -> Any:
    """The log-density that belongs to a score, or a `ScoreError`."""
    known: Any = getattr(score, "log_density", None)
    if known is None:
        raise ScoreError(
            f"Joint.log_density: the log-density of node {chunk.name!r} "
            "is not known. Give a score that has a method log_density(x, sigma, **condition)."
        )
    return known


def _finite(values: Tensor) -> bool:
    """Whether all are finite: in one pass if so, for their sum is finite only then."""
    return isfinite(values.sum().item()) or bool(values.isfinite().all())


def _not_while_compiling() -> None:
    """Raises inside compiled code, where what a joint keeps cannot be made."""
    if torch.compiler.is_compiling():
        raise ScoreError(
            "Joint: call it once, on a state of this dtype, device and batch, before it is "
            "compiled with fullgraph=True."
        )
