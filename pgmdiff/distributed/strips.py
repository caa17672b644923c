"""The strips of a canvas, for `stream`: the windows around columns, and their joints."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, prod
from typing import Any, TypeAlias

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._pytree import tree_leaves, tree_map

from pgmdiff.composition import Consistent, Field, Joint, Marginal, Posterior, compose
from pgmdiff.composition.composing import merged, untold_text
from pgmdiff.composition.consistent import MESSAGES
from pgmdiff.composition.joint import Remembering
from pgmdiff.composition.loops import state_mean
from pgmdiff.composition.plan import RegionScores, Scores
from pgmdiff.composition.rules import WeightedSum
from pgmdiff.conditioning.observations import Conditioned
from pgmdiff.errors import GraphError, ScoreError, ShapeError, warn
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.graphs.groups import RegionGroup, WindowGroup
from pgmdiff.linalg import Shape, keep
from pgmdiff.precision.covariances import Covariances, Dense, Separable, Stationary
from pgmdiff.precision.forms import RegionCovariances
from pgmdiff.samplers import State
from pgmdiff.scores.adapters import Around, begun
from pgmdiff.text import array, brief

__all__ = ["Strips", "check_of_windows", "strips_of"]

Windows: TypeAlias = tuple[tuple[int, int, bool], ...]

WINDOWS = 16
"""Strides in a strip, unless it must be longer: one in 16 windows is evaluated twice."""
HALO = 4
"""Windows on each side of a strip that a truncated solve sees."""
KEPT = 64
"""Joints of strips that are kept, the latest."""


@dataclass(frozen=True)
class Strips:
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
    windows: Windows
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
        window, overlap, _ = self.windows[self.axis]
        return self.evaluations * (2 * self.halo + window) + bool(self.halo) * (window - overlap)

    def around(self, first: int, last: int, halo: int) -> tuple[int, int]:
        """Where the windows that touch columns and a halo begin and end."""
        window, overlap, _ = self.windows[self.axis]
        stride, final = window - overlap, self.length - window  # the last one may be shifted
        first, last = max(0, first - halo), min(self.length, last + halo)
        start = min(max(0, ((first - window) // stride + 1) * stride), final)
        if halo and last > final and start == final and not final % stride:
            start = max(0, start - stride)  # messages are laid out over two windows
        return start, self.length if last > final else (last - 1) // stride * stride + window

    def graph(self, first: int, last: int) -> RegionGraph:
        """The windows between two columns at which windows begin and end."""
        shape = [*self.event[: self.axis], last - first, *self.event[self.axis + 1 :]]
        return _tiled(shape, self.windows)

    def score(self, first: int, last: int, before: State) -> Any:
        """The score of these windows, with the memory of a state on their columns."""
        joint, memory = self.joint(first, last), dict(before.memory)
        if not isinstance(joint.rule, Consistent):
            return joint
        if memory:
            laid, (places, size) = memory[MESSAGES].flatten(1), self._places(joint)
            messages = laid.new_zeros(len(laid), size + 1)
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
            firsts = group.firsts()
            order = firsts.argsort()  # the last one of a periodic axis may begin first
            for batch in joint.batches:  # several if conditions differ
                if batch.group.shape == group.shape:
                    rows = order[torch.searchsorted(firsts[order], batch.group.firsts())]
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
        null = tree_leaves(options.get("null_condition"), is_leaf=lambda v: isinstance(v, Field))
        placed = conditions or whole or any(isinstance(leaf, Field) for leaf in null)
        key = (first, last) if placed else last - first
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
        made = replace(compose(graph, scores, **options), _untold="")  # said once, of the canvas
        check_of_windows("stream", scores, {tuple(group.shape) for group in graph.groups})
        return keep(self.joints, key, made, KEPT)


def _tiled(shape: Sequence[int], windows: Windows) -> RegionGraph:
    """These windows over a shape; the last one of an axis may be shifted."""
    window, overlap, periodic = zip(*windows, strict=True)
    return tiles(shape, window, overlap, periodic, remainder="shift")


def check_of_windows(who: str, scores: Scores, shapes: Collection[Shape]) -> None:
    """Raises `ScoreError` for a score of the whole state in place of one of windows.

    Those that can be told are joints, and scores conditioned on observations of the state.
    """
    for given in scores.values() if isinstance(scores, Mapping) else [scores]:
        score: Any = given
        observed = False
        while isinstance(score, partial | Around | Joint):
            network = getattr(score, "network", None)
            known: Any = score if isinstance(score, Joint) else None
            if isinstance(network, Conditioned):
                observed, known = True, network.observation.operator
            event = getattr(known, "event_shape", None)
            if event is not None and tuple(event) not in shapes:
                what, remedy = "a joint", f"Give the scores of its windows, which {who} composes."
                if observed:
                    what = "one that is conditioned on an observation"
                    remedy = (
                        f"{who} knows no observations: draw with sample, whose state "
                        "distributed.Slab divides among ranks, or give networks what is known as a "
                        "condition, such as a field."
                    )
                raise ScoreError(
                    f"{who}: expected scores of windows, {brief(sorted(shapes))}, got {what} of "
                    f"the whole state {tuple(event)}: {brief(given)}. {remedy}"
                )
            score = score.func if isinstance(score, partial) else getattr(score, "score", None)


def strips_of(
    graph: RegionGraph,
    scores: Scores,
    shape: Shape,
    evaluations: int,
    width: int | None,
    halo: int | None,
    composing: Mapping[str, Any],
) -> Strips:
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
        raise ShapeError(
            f"stream: expected shape as (batch, {', '.join(like)}), got {shape}. Strips run along "
            f"axis {axis} of the state, the last of those with the most windows in the graph "
            f"({numbers[axis]}): give a graph with more of them along the axis that is to be long."
        )
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
    left = (sides[axis] - window) % stride
    fitting = f"{sides[axis] - left} or {sides[axis] - left + stride}"
    if isinstance(rule, Consistent) and left:
        raise ShapeError(
            f"stream: under Consistent the last window cannot be shifted: expected {window} and a "
            f"multiple of {stride} columns on axis {axis}, got {sides[axis]}. Use {fitting}, or "
            "Posterior."
        )
    if left and (graph.event_shape[axis] - window) % stride == 0:  # none is shifted there
        warn(
            f"stream: windows of {window} with stride {stride} do not fit {sides[axis]} columns on "
            f"axis {axis}: the last one is shifted and shares {window - left} with that before it, "
            f"a shape that the graph does not have and models may not know. Use {fitting}."
        )
    if isinstance(by_name := getattr(rule, "mean", None), Mapping):
        found: Any = state_mean(_tiled(sides, windows), by_name)
        rule = replace(rule, mean=found.reshape(sides))
    rule = _with_mean(rule, axis, tuple(sides))
    if solved and not _is_stationary(rule.covariances):
        mapped = isinstance(rule.covariances, Mapping)  # a strip has not all models
        own = Dense(rule.covariances) if mapped else Alike(_forms(rule.covariances, graph))
        rule = replace(rule, covariances=own)
    options = {"scores": scores, **composing, "rule": rule}
    options["conditions"] = merged(graph.conditions, composing.get("conditions") or {})
    strips = Strips(axis, tuple(sides), windows, width, halo, evaluations, options)
    named = [name for name, value in options["conditions"].items() if not isinstance(value, Field)]
    _check_named(strips.graph(0, strips.length) if named else graph, named, options["conditions"])
    return strips


def _check_named(
    whole: RegionGraph, named: Sequence[Hashable], conditions: Mapping[Hashable, Any]
) -> None:
    """Warns of a window without a condition beside others that have some.

    Raises:
        GraphError: one that is named is none of the canvas.
    """
    shapes = {name: tuple(whole.elements(name).shape) for name in named}
    given = {name for name in named if isinstance(conditions[name], Mapping) and conditions[name]}
    told = {shape: name for name, shape in shapes.items() if name in given}
    for group in whole.groups:
        pieces = map(group.name, group.outer.nonzero()[0].tolist())
        bare = next((name for name in pieces if name not in given), None)
        if bare is not None and (other := told.get(tuple(group.shape))) is not None:
            said = untold_text("window", bare, other, sorted(conditions[other]))
            remedy = "if only with the null condition; a field serves all."
            warn(f"stream: {said}. Name every window of the canvas in conditions=, {remedy}")


def _windows_of(graph: RegionGraph) -> tuple[Windows, list[int]]:
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
    alike = isinstance(given, Mapping) and {*given} <= models
    if isinstance(given, Covariances):
        alike = _is_stationary(given) or len(_forms(given, graph)) == len(graph.groups)
    if not alike:
        raise ScoreError(
            "stream: expected covariances that are the same for all windows, by model id such as "
            f"{graph.groups[0].model}, or those of fit_covariances(..., shared=True) or "
            f"form='stationary', got {brief(given)}."
        )


@dataclass(frozen=True)
class Alike(Covariances):
    """Covariances that all regions of a model share, by model id."""

    forms: Mapping[Hashable, RegionCovariances]

    def of(self, group: RegionGroup) -> RegionCovariances:
        if group.model not in self.forms:
            raise GraphError(
                f"stream: region {group.name(0)!r} of the last window, which is shifted, has a "
                "shape for which no covariance was fitted. Use form='stationary', or a length that "
                "windows cover without a shift."
            )
        return self.forms[group.model]


def _forms(given: Covariances, graph: RegionGraph) -> dict[Hashable, RegionCovariances]:
    """The covariances of each model whose regions share one."""
    found = {group.model: given.form(group) for group in graph.groups}
    return {model: form for model, form in found.items() if len(form.variances()) == 1}


def _is_stationary(given: Any) -> bool:
    return isinstance(given.places if isinstance(given, Separable) else given, Stationary)


def _with_mean(rule: Any, axis: int, event: Shape) -> Any:
    """A rule whose mean is that of the canvas, or the same along the axis.

    That of covariances may belong to an event of another length, and is averaged along the axis.
    """
    if isinstance(rule, WeightedSum):
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
