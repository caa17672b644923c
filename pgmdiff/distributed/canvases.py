r"""A canvas larger than memory, sampled strip by strip: a skewed front over the noise levels.

A step from level k - 1 to level k needs, on a strip, the state of level k - 1 on all windows that
touch it. Level k therefore works one strip behind level k - 1:

    wave t:    level 0 draws strip t,    level 1 steps strip t - 1,    ...,    level K writes t - K

What is held is a strip and the reach of its windows per level, however long the canvas is. Each
element of the result is the same function of the same noise as under `sample`. A strip of m strides
costs m + ⌈window / stride⌉ - 1 windows per step in place of m, where a step evaluates once.

Under `Posterior` and `Consistent` an element of the score depends on the whole state, less and less
with distance. There the solve is truncated to a halo of columns on each side, and the error is
measured: on one strip, at every level, the score is computed with twice the halo, too. The messages
of `Consistent` go with the state: those of a window lie on the columns of its first stride. Its
trust radius acts on all messages together, and here on those of a strip and its halo.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._pytree import tree_map
from tqdm import tqdm

from pgmdiff.composition import Consistent, Field, Joint, Marginal, Posterior, compose
from pgmdiff.composition.consistent import CAPPED, MESSAGES
from pgmdiff.composition.joint import Remembering
from pgmdiff.composition.plan import RegionScores, Scores
from pgmdiff.composition.rules import WeightedSum
from pgmdiff.errors import GraphError, PgmdiffError, ScoreError, ShapeError, required
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.graphs.groups import RegionGroup, WindowGroup
from pgmdiff.linalg import Shape, keep
from pgmdiff.noise import RISE, START, Generator, Noise
from pgmdiff.precision.covariances import Dense, Stationary
from pgmdiff.samplers import Run, Solver, State, UniPC
from pgmdiff.samplers.run import check_run, solver_text
from pgmdiff.samplers.store import ELSEWHERE, check_dtype, check_same, noise_of
from pgmdiff.scores.adapters import begun
from pgmdiff.store import fingerprint
from pgmdiff.text import array, brief, described

__all__ = ["Streamed", "stream"]

WINDOWS = 16
"""Strides in a strip, unless it must be longer: one in 16 windows is evaluated twice."""
HALO = 4
"""Windows on each side of a strip that a truncated solve sees."""
KEPT = 64
"""Joints of strips that are kept, the latest."""


@dataclass(frozen=True)
class Streamed:
    """What `stream` made.

    Attributes:
        array: the canvas, `[batch, *event]`: a zarr array, or the one that was given.
        truncation: under `Posterior` and `Consistent`, per step, the relative error of the score
            that is due to the halo: its difference on one strip from that with twice the halo.
            Empty for `Marginal` and `Average`, which are exact.
        capped: under `Consistent`, in how many steps of strips the trust radius cut the messages of
            a sample. There the canvas depends on the strips; `sample` cuts those of the whole.
    """

    array: Any
    truncation: tuple[float, ...] = ()
    capped: int = 0

    def __repr__(self) -> str:
        shape = f"{tuple(self.array.shape)} of {self.array.dtype}"
        error = f"truncation up to {max(self.truncation):.2g}" if self.truncation else ""
        return described(self, shape, error, f"capped={self.capped}" if self.capped else "")


@torch.no_grad()
def stream(
    graph: GraphLike,
    scores: Scores,
    sigmas: Sequence[float],
    *,
    out: Any,
    shape: Sequence[int] | None = None,
    solver: Solver | None = None,
    generator: Generator = None,
    strip: int | None = None,
    halo: int | None = None,
    run: Run | str | Path | None = None,
    progress: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    **composing: Any,
) -> Streamed:
    """Samples a canvas of windows into an array on disk, with the memory of a few strips.

        sample(compose(graph, scores, **composing), sigmas, shape=(1, *graph.event_shape))

    is the same canvas up to rounding, for the same generator, in the memory of the whole. Strips
    follow one another along the axis that has the most windows (the last one of several).

    Args:
        graph: windows of one tensor, as `tiles` makes them; the other axes may be tiled, too.
        scores: see `compose`; scores per region are refused.
        sigmas: noise levels, as for `sample`.
        out: where to write: the path of a zarr array to be made (extra `zarr`), whose chunks are
            the strips; or an array `[batch, *event]` that can be assigned to, such as a
            `numpy.memmap`.
        shape: `[batch, *event]`; one sample of the graph's event if None. On the axis of the strips
            it may be any length: windows then go on as they begin in the graph, which is a pattern
            and need not be larger than two windows.
        solver: `UniPC()` if None; any whose steps are `elementwise`.
        generator: as for `sample`; noise depends on the place in the whole canvas.
        strip: columns of a strip, a multiple of the windows' stride.
        halo: under `Posterior` and `Consistent`, the columns on each side of a strip that its solve
            sees; four windows if None.
        run: a folder, or a `Run`, in which the front is saved as it goes. The same call made again
            after the process was killed goes on to the same bits.
        progress: whether to show a progress bar.
        dtype, device: of the state; a new zarr array has this dtype.
        composing: `rule`, `conditions` (fields over the whole canvas are cropped), and the other
            arguments of `compose`. Rules are `Marginal`, `Average`, `Posterior` and `Consistent`,
            the latter two with covariances that are the same for all windows.

    Raises:
        GraphError: the graph is not made of windows, or is closed along the axis of the strips.
        ShapeError: the shape, the strip or the array does not fit, or, under `Consistent`, windows
            do not end where the canvas does.
        ScoreError: the scores or the rule belong to the whole graph.
        PgmdiffError: the solver, the schedule or the folder does not fit, or the array exists.
        ImportError: zarr is not installed.

    Example:
        >>> import numpy, torch
        >>> from pgmdiff import karras, tiles
        >>> from pgmdiff.distributed import stream
        >>> def score(x, sigma):  # independent pixels of unit variance
        ...     return -x / (1 + sigma[:, None] ** 2)
        >>> out = numpy.zeros((1, 1000), numpy.float32)
        >>> stream(tiles((16,), 8, 4), score, karras(8, 0.01, 10.0), out=out, shape=(1, 1000))
        Streamed((1, 1000) of float32)
    """
    levels, solver = [float(sigma) for sigma in sigmas], UniPC() if solver is None else solver
    check_run("stream", levels, solver)
    check_dtype("stream", dtype)
    if not solver.elementwise:
        raise PgmdiffError(
            f"stream: expected a solver whose steps are elementwise, such as UniPC() or SDE(), got "
            f"{solver!r}, whose steps depend on the whole state. Use sample."
        )
    graph = graph_of(graph, "stream").regions
    given = tuple(shape) if shape is not None else (1, *graph.event_shape)
    strips = _strips(graph, scores, given, solver.evaluations, strip, halo, composing)
    run = Run.of(run)
    found = None if run is None else run.latest()
    earlier: dict[str, Any] = found[1]["run"] if found else {}
    noise = noise_of(generator, given[0], earlier)
    facts: dict[str, Any] = {"sampler": "stream", "solver": solver_text(solver)}
    facts |= {"sigmas": [*levels], "shape": list(given), "seeds": list(noise.keys)}
    facts |= {"dtype": str(dtype), "strip": strips.width, "halo": strips.halo}
    if run is not None:
        facts["score"] = fingerprint([scores, composing, graph.conditions])[:16]
        facts["windows"] = fingerprint(strips.windows)[:16]
    if found and run is not None:
        check_same(f"stream: the folder {run.folder}", earlier, facts, ELSEWHERE)
    front = _Front(strips, levels, solver, noise, torch.empty(0, dtype=dtype, device=device))
    if found:
        front.restore(*found)
    elif run is not None:
        run.save(0, *front.parts(facts))
    chunks = [1, *strips.event]
    chunks[strips.axis + 1] = min(strips.width, strips.length)
    target = _opened(out, given, tuple(chunks), dtype, bool(found), front.wave >= len(levels))
    waves = range(front.wave, front.n_waves)
    for wave in tqdm(waves, disable=not progress, desc="sampling strips"):
        front.advance(target)
        if run is not None:
            run.save(wave + 1, *front.parts(facts), last=wave + 1 == front.n_waves)
    return Streamed(target, tuple(front.truncation), front.capped)


@dataclass(frozen=True)
class _Strips:
    """The strips of a canvas: which windows they need, and the joints of these windows.

    Args:
        axis: of the event, along which strips follow one another.
        event: the shape of the whole.
        windows: window, overlap and periodic of every axis.
        width, halo: columns of a strip, and of a truncated solve beside it.
        evaluations: of the score, per step.
        options: what `compose` receives.
    """

    axis: int
    event: Shape
    windows: tuple[tuple[int, int, bool], ...]
    width: int
    halo: int
    evaluations: int
    options: Mapping[str, Any]
    joints: dict[Any, Joint] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Columns of the canvas."""
        return self.event[self.axis]

    @property
    def reach(self) -> int:
        """Columns beside a strip that a step may need."""
        return self.evaluations * (2 * self.halo + self.windows[self.axis][0])

    def around(self, first: int, last: int, halo: int) -> tuple[int, int]:
        """Where the windows that touch columns and a halo begin and end."""
        window, overlap, _ = self.windows[self.axis]
        stride, final = window - overlap, self.length - window  # the last one may be shifted
        first, last = max(0, first - halo), min(self.length, last + halo)
        start = min(max(0, ((first - window) // stride + 1) * stride), final)
        return start, self.length if last > final else (last - 1) // stride * stride + window

    def graph(self, first: int, last: int) -> RegionGraph:
        """The windows between two columns at which windows begin and end."""
        shape = [*self.event[: self.axis], last - first, *self.event[self.axis + 1 :]]
        window, overlap, periodic = zip(*self.windows, strict=True)
        return tiles(shape, window, overlap, periodic, remainder="shift")

    def score(self, first: int, last: int, before: State) -> Any:
        """The score of these windows, with the memory of a state on their columns."""
        joint, memory = self.joint(first, last), dict(before.memory)
        if not isinstance(joint.rule, Consistent):
            return joint
        if memory:
            laid, (places, size) = memory[MESSAGES].flatten(1), self._places(joint)
            messages = laid.new_empty(len(laid), size + 1)
            messages[:, places.to(laid.device)] = laid
            memory[MESSAGES] = messages[:, :size].contiguous()
        return begun(joint, memory)

    def laid(self, score: Remembering) -> dict[str, Tensor]:
        """The memory of a score on the columns of its windows."""
        messages, (places, _) = score.memory[MESSAGES], self._places(score.joint)
        laid = pad(messages, (0, 1))[:, places.to(messages.device)]
        event = *[1] * self.axis, score.joint.event_shape[self.axis], -1
        return {MESSAGES: laid.reshape(len(laid), *event)}

    def _places(self, joint: Joint) -> tuple[Tensor, int]:
        """Where messages lie, `[columns * rest]`, and their number, which stands for none.

        Those of a window lie on the columns of its first stride, one stride after the other.
        """
        (window, overlap, _), axis = self.windows[self.axis], self.axis
        stride, n, number, found = window - overlap, joint.event_shape[axis], 0, list[Tensor]()
        for group in joint.regions.groups:
            assert isinstance(group, WindowGroup), "tiles has windows alone"
            sizes = *(len(each.starts) for each in group.axes), *group.shape
            own = torch.full((len(group), prod(group.shape)), -1)
            for batch in joint.batches:  # several if conditions differ
                if batch.group.shape == group.shape:
                    rows = torch.searchsorted(group.firsts(), batch.group.firsts())
                    values = torch.arange(len(rows) * own.shape[1]).reshape(len(rows), -1)
                    own[rows], number = batch.offset + values, number + values.numel()
            own = own.reshape(sizes).movedim((axis, len(group.axes) + axis), (0, 1))
            own = own.reshape(*own.shape[:2], -1)
            own = pad(own, (0, 0, 0, -own.shape[1] % stride), value=-1)
            own = rearrange(own, "count (k stride) rest -> (count stride) (k rest)", stride=stride)
            first = int(group.axes[axis].starts[0])
            found.append(pad(own, (0, 0, first, n - first - len(own)), value=-1))
        places = torch.cat(found, dim=1).flatten()
        return places.where(places >= 0, number), number

    def joint(self, first: int, last: int) -> Joint:
        """The joint of these windows, with their own conditions and parts of fields."""
        options = {**self.options}
        conditions, mean = options["conditions"], getattr(options.get("rule"), "mean", None)
        whole = isinstance(mean, Tensor) and mean.shape[self.axis] == self.length
        key = (first, last) if conditions or whole else last - first
        if key in self.joints:
            return self.joints[key]
        graph, scores = self.graph(first, last), options.pop("scores")
        if isinstance(mean, Tensor):
            part = mean.narrow(self.axis, first, last - first) if whole else mean
            options["rule"] = replace(options["rule"], mean=part.expand(graph.event_shape))
        own = {name: value for name, value in conditions.items() if isinstance(value, Field)}
        for name in graph.names if len(own) < len(conditions) else ():
            spans = str(name)[1:-1].split(", ")
            start, stop = map(int, spans[self.axis].split(":"))
            spans[self.axis] = f"{start + first}:{stop + first}"
            if (there := f"[{', '.join(spans)}]") in conditions:
                own[name] = conditions[there]

        def crop(leaf: Any) -> Any:
            if not isinstance(leaf, Field):
                return leaf
            dim = leaf.values.ndim - len(self.event) + self.axis
            if dim < 0 or leaf.values.shape[dim] != self.length:
                raise ShapeError(
                    f"stream: expected a field over the whole canvas, {self.length} on axis "
                    f"{self.axis}, got {tuple(leaf.values.shape)}."
                )
            return Field(leaf.values.narrow(dim, first, last - first))

        for word, given in (("conditions", own), ("null_condition", options.get("null_condition"))):
            options[word] = tree_map(crop, given, is_leaf=lambda v: isinstance(v, Field))
        return keep(self.joints, key, compose(graph, scores, **options), KEPT)


def _strips(
    graph: RegionGraph,
    scores: Scores,
    shape: Shape,
    evaluations: int,
    width: int | None,
    halo: int | None,
    composing: Mapping[str, Any],
) -> _Strips:
    """The strips of a canvas; see `stream` for arguments and errors."""
    if isinstance(scores, RegionScores):
        raise ScoreError(
            f"stream: expected one score for all windows, or one per model id, got {scores!r} "
            "of one graph. Give the scores of windows."
        )
    windows, numbers = _windows_of(graph)
    axis = max(range(len(numbers)), key=lambda a: (numbers[a], a))
    event, (window, overlap, closed) = graph.event_shape, windows[axis]
    if closed or numbers[axis] == 1:
        what = "closes on itself along" if closed else "has a single window on"
        raise GraphError(
            f"stream: the graph {what} axis {axis}, along which strips follow one another. Use "
            "periodic=False there and several windows, or sample."
        )
    batch, *sides = shape or (0,)
    pairs = enumerate(zip(sides, event, strict=False))
    fits = all(own >= window if a == axis else own == side for a, (own, side) in pairs)
    if batch < 1 or len(sides) != len(event) or not fits:
        like = [*map(str, event[:axis]), f"at least {window}", *map(str, event[axis + 1 :])]
        raise ShapeError(f"stream: expected shape as (batch, {', '.join(like)}), got {shape}.")
    rule = composing.get("rule") or Marginal()
    _check_rule(rule, graph)
    solved = not isinstance(rule, WeightedSum)
    halo = (HALO * window if halo is None else halo) * solved
    stride = window - overlap
    least = ceil(evaluations * (2 * halo + window) / stride) * stride
    width = max(WINDOWS * stride, least) if width is None else width
    if halo < solved or width < least or width % stride:
        raise ShapeError(
            f"stream: expected a strip of at least {least} columns, which windows and halo reach "
            f"with this solver, a multiple of the stride {stride}, and halo >= 1, got "
            f"strip={width} and halo={halo}."
        )
    if isinstance(rule, Consistent) and (left := (sides[axis] - window) % stride):
        raise ShapeError(
            f"stream: under Consistent the last window cannot be shifted: expected {window} and a "
            f"multiple of {stride} columns on axis {axis}, got {sides[axis]}. Use "
            f"{sides[axis] - left} or {sides[axis] - left + stride}, or Posterior."
        )
    rule = _with_mean(rule, axis, tuple(sides))
    given = composing.get("conditions") or {}
    both = {n: {**graph.conditions[n], **given[n]} for n in graph.conditions.keys() & given.keys()}
    if solved and isinstance(rule.covariances, Mapping):
        rule = replace(rule, covariances=Dense(rule.covariances))  # a strip has not all models
    options = {"scores": scores, **composing, "rule": rule}
    options["conditions"] = {**graph.conditions, **given, **both}
    strips = _Strips(axis, tuple(sides), windows, width, halo, evaluations, options)
    named = [name for name, value in options["conditions"].items() if not isinstance(value, Field)]
    whole = strips.graph(0, strips.length) if named else graph
    for name in named:
        whole.elements(name)  # or it is no region
    return strips


class _Front:
    """The states of all levels, between waves.

    Args:
        strips, levels, solver, noise: of the run.
        like: a tensor of the state's dtype and device.
    """

    def __init__(
        self, strips: _Strips, levels: list[float], solver: Solver, noise: Noise, like: Tensor
    ) -> None:
        self.strips, self.levels, self.solver, self.noise = strips, levels, solver, noise
        self.like, self.wave, self.held = like, 0, dict[int, tuple[int, State]]()
        self.truncation, self.capped = list[float](), 0
        self.number = ceil(strips.length / strips.width)
        self.dim, self.n_waves = strips.axis + 1, self.number + len(levels) - 1

    def advance(self, target: Any) -> None:
        """One wave: every level works on its own strip, and the last one writes it."""
        width, dim = self.strips.width, self.dim
        for k in range(len(self.levels)):
            first = (self.wave - k) * width
            last = min(first + width, self.strips.length)
            if not 0 <= first < last:
                continue
            state = self._step(k, first, last) if k else self._start(first, last)
            if k == len(self.levels) - 1:
                target[(slice(None),) * dim + (slice(first, last),)] = state.x.cpu().numpy()
            else:
                begin, before = self.held.get(k, (first, None))
                self.held[k] = begin, state if before is None else _joined(before, state, dim)
            if k and last == self.strips.length:
                del self.held[k - 1]
            elif k:
                begin, before = self.held[k - 1]
                kept = max(begin, last - self.strips.reach)
                self.held[k - 1] = kept, _cut(before, dim, kept - begin, before.x.shape[dim])
        self.wave += 1

    def _start(self, first: int, last: int) -> State:
        event = [*self.strips.event]
        event[self.strips.axis] = last - first
        like = self.like.new_empty(len(self.noise.keys), *event)
        return self.solver.init(self.levels[0] * self._draw(first, START, like), self.levels[0])

    def _step(self, k: int, first: int, last: int) -> State:
        (begin, state), level, strips = self.held[k - 1], self.levels[k], self.strips

        def part(start: int, stop: int) -> State:
            return _cut(state, self.dim, start - begin, stop - begin)

        def score(halo: int) -> Tensor:
            start, stop = strips.around(first, last, halo)
            own = part(start, stop)
            found: Tensor = strips.score(start, stop, own)(own.x, own.sigma)
            return found.narrow(self.dim, first - start, last - first)

        if level > state.sigma:
            own, added = part(first, last), (level**2 - state.sigma**2) ** 0.5
            raised = own.x + added * self._draw(first, RISE + state.step, own.x)
            risen = self.solver.init(raised, level, state.step + 1)
            return replace(risen, memory=own.memory)
        if strips.halo and self.wave - k == min(1, self.number - 1):
            near, far = score(strips.halo), score(2 * strips.halo)
            self.truncation.append(float((near - far).norm() / far.norm()))
        start, stop = first, last
        for _ in range(strips.evaluations):  # each is right within the windows of the one before
            start, stop = strips.around(start, stop, strips.halo)
        draw = partial(self._draw, start)
        own = part(start, stop)
        active = strips.score(start, stop, own)
        after = replace(self.solver.step(active, own, level, draw), denoised=None)
        if isinstance(active, Remembering):
            active.commit()
            self.capped += bool(active.memory[CAPPED].any())
            after = replace(after, memory=strips.laid(active))
        return _cut(after, self.dim, first - start, last - start)

    def _draw(self, first: int, number: int, like: Tensor) -> Tensor:
        """The noise of columns from one on, by their places in the whole."""
        event, axis = self.strips.event, self.strips.axis
        outer, inner = prod(event[:axis]), prod(event[axis + 1 :])
        if outer == 1:
            return self.noise(number, like, first * inner)
        line = torch.arange(like.shape[self.dim] * inner, device=like.device) + first * inner
        rows = torch.arange(outer, device=like.device) * (event[axis] * inner)
        return self.noise(number, like, (rows[:, None] + line).reshape(like.shape[1:]))

    def parts(self, facts: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and facts for a file."""
        tensors, states = dict[str, Tensor](), dict[str, Any]()
        for k, (begin, state) in self.held.items():
            values, about = state.parts()
            tensors |= {f"{k}.{name}": value for name, value in values.items()}
            states[str(k)] = {"begin": begin, **about}
        found = {"truncation": self.truncation, "capped": self.capped}
        return tensors, {"run": facts, "wave": self.wave, "states": states, **found}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Takes up what `parts` gave."""
        self.wave, self.capped = facts["wave"], facts["capped"]
        self.truncation = list(facts["truncation"])
        for k, about in facts["states"].items():
            own = {n[len(k) + 1 :]: t for n, t in tensors.items() if n.startswith(f"{k}.")}
            state = State.of({n: t.to(self.like.device) for n, t in own.items()}, about)
            self.held[int(k)] = about["begin"], state


def _windows_of(graph: RegionGraph) -> tuple[tuple[tuple[int, int, bool], ...], list[int]]:
    """Window, overlap and periodic of every axis, and how many windows there are.

    Raises:
        GraphError: `tiles` does not make these.
    """

    def starts(groups: Sequence[RegionGroup]) -> list[Any]:
        windows = [group for group in groups if isinstance(group, WindowGroup) and group.uniform]
        return [[(axis.length, axis.starts.tolist()) for axis in group.axes] for group in windows]

    given = starts(graph.groups)
    if given and len(given) == len(graph.groups):
        found = []
        for size, (length, places) in zip(graph.event_shape, given[0], strict=True):
            stride = places[1] - places[0] if len(places) > 1 else length
            closed = len(places) > 1 and places[-1] + length > size
            found.append((length, max(0, length - stride), closed))
        sizes = zip(*found, strict=True)
        if given == starts(tiles(graph.event_shape, *sizes, remainder="shift").groups):
            return tuple(found), [len(places) for _, places in given[0]]
    raise GraphError(
        f"stream: expected windows of one tensor, as tiles(shape, window, overlap) makes them, got "
        f"{graph!r}. Draw others whole, with sample."
    )


def _check_rule(rule: Any, graph: RegionGraph) -> None:
    """Raises `ScoreError` for a rule that cannot be applied to a part of the canvas."""
    if isinstance(rule, WeightedSum):
        return
    if not isinstance(rule, Posterior | Consistent):
        raise ScoreError(
            f"stream: expected the rule Marginal, Average, Posterior or Consistent, got {rule!r}, "
            "whose score depends on the whole state. Use Consistent(covariances)."
        )
    given, models = rule.covariances, {group.model for group in graph.groups}
    by_model = isinstance(given, Mapping) and {*given} <= models
    if not by_model and not isinstance(given, Stationary):
        raise ScoreError(
            "stream: expected covariances that are the same for all windows, by model id such as "
            f"{graph.groups[0].model}, or those of fit_covariances(..., form='stationary'), got "
            f"{brief(given)}."
        )


def _with_mean(rule: Any, axis: int, event: Shape) -> Any:
    """A rule whose mean is that of the canvas, or the same along the axis.

    That of covariances may belong to an event of another length, and is averaged along the axis.
    """
    if isinstance(rule, WeightedSum) or isinstance(rule.mean, Mapping):
        return rule
    source = rule.covariances if rule.prior is None else rule.prior
    mean = getattr(source, "mean", None) if rule.mean is None else torch.as_tensor(rule.mean)
    if mean is None:
        return rule
    if rule.mean is None and mean.ndim == len(event) and mean.shape[axis] != event[axis]:
        mean = mean.mean(axis, keepdim=True)
    same = (*event[:axis], 1, *event[axis + 1 :])
    if mean.shape not in (event, same):
        raise ShapeError(
            f"stream: expected the mean of the rule as {event}, or as {same} where it is the same "
            f"along axis {axis}, got {array(mean)}."
        )
    return replace(rule, mean=mean)


def _cut(state: State, dim: int, first: int, last: int) -> State:
    """The same state on some columns, which the memory of others does not outlive."""
    return state.map(lambda t: t.narrow(dim, first, last - first).clone())


def _joined(before: State, after: State, dim: int) -> State:
    """The state on the columns of both."""
    history = tuple(
        (level, torch.cat([one, other], dim))
        for (level, one), (_, other) in zip(before.history, after.history, strict=True)
    )
    memory = {n: torch.cat([one, after.memory[n]], dim) for n, one in before.memory.items()}
    x = torch.cat([before.x, after.x], dim)
    return replace(after, x=x, history=history, memory=memory)


def _opened(
    out: Any, shape: Shape, chunks: Shape, dtype: torch.dtype, begun: bool, written: bool
) -> Any:
    """The array to write to: that given, a new one, or that of a run which goes on."""
    if not isinstance(out, str | Path):
        if tuple(getattr(out, "shape", ())) != shape or not hasattr(out, "__setitem__"):
            got = array(out) if hasattr(out, "dtype") else repr(out)
            raise ShapeError(
                f"stream: expected out, an array of shape {shape} that can be assigned to, or the "
                f"path of a zarr array to be made, got {got}."
            )
        return out
    zarr, kind = required("zarr", "stream", "zarr"), str(dtype).removeprefix("torch.")
    path, there = Path(out), Path(out).exists()
    if (there and not begun) or (written and not there):
        raise PgmdiffError(
            f"stream: expected {path} to be {'there' if written else 'free'}, since the run "
            f"{'has written a part of it' if written else 'begins'}. Give another path and "
            "another folder (run=), or those of one run."
        )
    if not there:
        return zarr.create_array(str(path), shape=shape, chunks=chunks, dtype=kind)
    found = zarr.open_array(str(path), mode="r+")
    if found.shape != shape or str(found.dtype) != kind:
        raise ShapeError(
            f"stream: expected {path} as an array of shape {shape}, {kind}, got {found.shape}, "
            f"{found.dtype}. Give the path with which the run began."
        )
    return found
