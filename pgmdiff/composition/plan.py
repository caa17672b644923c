"""The plan: which model is called on which regions, resolved once when a graph is composed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import accumulate
from math import prod
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from pgmdiff.composition.fields import Field, placed, respaced
from pgmdiff.composition.nodewise import PerNode
from pgmdiff.errors import ScoreError, nearest
from pgmdiff.graphs.groups import IndexGroup, RegionGroup
from pgmdiff.graphs.regions import Condition, RegionGraph
from pgmdiff.graphs.spaced import SpacedWindows
from pgmdiff.linalg import Floats, Ints, ordinary
from pgmdiff.precision import RegionPrecisions
from pgmdiff.precision.forms import concatenated
from pgmdiff.scores.adapters import Score
from pgmdiff.text import brief, counted, described

__all__ = ["Batch", "RegionScores", "Scores", "given_text", "map_tensors", "plan"]


class RegionScores(ABC):
    """Scores that differ from region to region and are still evaluated a group at a time."""

    @abstractmethod
    def check(self, graph: RegionGraph) -> None:
        """Raises unless these are scores of the regions of this graph."""

    @abstractmethod
    def bind(self, group: RegionGroup) -> tuple[Score, dict[str, Tensor]]:
        """One score for all regions of a group, and its keyword arguments `[n, ...]` per region."""


Scores = Score | Mapping[Any, Score] | RegionScores
"""One callable for all nodes, a mapping from model id to callable, or scores per region."""


@dataclass(frozen=True, eq=False)
class _Shared:
    """A tensor of the regions' conditions, `values[rows]`: what regions share is stored once."""

    values: Tensor
    rows: Tensor

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "_Shared":
        """The tensors of regions, of which some may be the same object."""
        distinct, place = {id(tensor): tensor for tensor in tensors}, dict[int, int]()
        rows = [place.setdefault(id(tensor), len(place)) for tensor in tensors]
        return cls(torch.stack([*distinct.values()]), torch.tensor(rows))

    def __getitem__(self, chosen: slice | Tensor) -> Tensor:
        return self.values[self.rows[chosen]]

    def to(self, device: torch.device) -> "_Shared":
        return _Shared(self.values.to(device), self.rows.to(device))


@dataclass(frozen=True)
class Told:
    """Where the regions of a batch stand among nodes: `places`, int64 `[n]`, -1 for others.

    `some` of them stand there, or `all`.
    """

    nodes: tuple[Hashable, ...]
    places: Tensor
    some: bool
    all: bool


@dataclass(frozen=True, eq=False)
class Batch:
    """Regions evaluated by the same calls: they share a callable, a shape and a kind of condition.

    Attributes:
        score: the callable.
        group: the regions.
        weights: float64 `[n]`, of the composition rule.
        condition: pytrees of what is indexed by region, the tensors `[n, ...]` of the regions' own
            conditions, and of fields that they share.
        precisions: Σ_r⁻¹ of every region, for rules that use them.
        offset: where the regions' values begin in a list of the values of all batches.
        spaced: the regions as windows at equal distances, if they are.
        places: where elements of the state stand in that of fields, `[N]`; None if they are alike.
    """

    score: Score
    group: RegionGroup
    weights: Tensor
    condition: dict[str, Any]
    precisions: RegionPrecisions | None = None
    offset: int = 0
    spaced: SpacedWindows | None = None
    places: Tensor | None = None
    _told: dict[str, "Told"] = field(default_factory=dict, init=False)

    def __repr__(self) -> str:
        return described(
            self,
            f"{counted(len(self.group), 'region')} of shape {self.group.shape}",
            f"score={brief(self.score)}",
            f"conditions {sorted(self.condition)}" if self.condition else "",
        )

    @cached_property
    def weight(self) -> float | None:
        """The common weight of all regions; None if they differ."""
        first = self.weights[0]
        return first.item() if (self.weights == first).all() else None

    def told(self, word: str, nodes: tuple[Hashable, ...]) -> "Told":
        """Where the regions stand among nodes; the latest answer is kept for every keyword."""
        known = self._told.get(word)
        if known is None or known.nodes != nodes:
            own = {name: place for place, name in enumerate(nodes)}
            with torch.inference_mode(False):
                found = [own.get(name, -1) for name in self.group.names]
                known = Told(
                    nodes,
                    torch.tensor(found, device=self.weights.device),
                    max(found) >= 0,
                    min(found) >= 0,
                )
            self._told[word] = known
        return known

    def to(self, device: torch.device, dtype: torch.dtype, fields: "EachField") -> "Batch":
        """The same batch, ready for states of a device and dtype, with fields made of its own."""
        return replace(
            self,
            group=self.group.resolved().to(device),
            weights=ordinary(self.weights.to(device, dtype)),
            condition=map_tensors(
                lambda t: ordinary(t.to(device)) if isinstance(t, Tensor) else t.to(device),
                self.condition,
                fields,
            ),
            precisions=None
            if self.precisions is None
            else self.precisions.to(device, torch.float64).map(ordinary),
        )


def plan(
    graph: RegionGraph,
    scores: Scores,
    weights: Sequence[Floats],
    precisions: Callable[[RegionGroup], RegionPrecisions | None],
    null_condition: Condition,
    fields: Condition,
) -> Iterator[Batch]:
    """The batches of a graph; regions of weight 0 are left out.

    The weights and precisions are those of a rule, the fields those of all regions; see `compose`
    for the other arguments.

    Raises:
        ScoreError: a region has no score.
        ShapeError: a field does not fit the state.
    """
    if isinstance(scores, RegionScores):
        scores.check(graph)
    alike: dict[Any, list[Batch]] = {}
    known: dict[int, Field] = {}

    def for_all(word: str, given: Field) -> Field:
        """A field for all states, the same one for all regions that share its tensor."""
        who, event = f"compose: the condition {word!r}", graph.event_shape
        if isinstance(given, PerNode):
            raise ScoreError(f"{who} is {given!r}, {AT_CALLS}")
        made = known.setdefault(id(given.values), placed(who, given, event, None))
        respaced(who, group.indices(0, 1), event, made)
        return made

    for group, each in zip(graph.groups, weights, strict=True):
        needed = np.flatnonzero(each)
        for structure, rows, conditions in _by_condition(
            group, needed, graph.conditions, null_condition, fields
        ):
            for score, places in _by_score(group, rows, scores):
                chosen = rows[places]
                some = group.select(chosen)
                theirs = conditions if len(conditions) == 1 else [conditions[i] for i in places]
                condition = map_tensors(lambda t: t, _combine(_Shared.of, theirs), for_all)
                own: dict[str, Tensor] = {}
                if isinstance(score, RegionScores):
                    score, own = score.bind(some)
                part = Batch(
                    score,
                    some,
                    torch.from_numpy(each[chosen]),
                    {**condition, **own},
                    precisions(some),
                )
                # Windows stay windows: only index groups are worth merging.
                separate = None if isinstance(group, IndexGroup) else id(group)
                key = (_identity(part.score), group.shape, structure, separate)
                alike.setdefault(key, []).append(part)
    offset = 0
    for parts in alike.values():
        batch = replace(_merged(parts), offset=offset)
        batch = replace(batch, spaced=batch.group.spaced(prod(graph.event_shape)))
        offset += len(batch.group) * prod(batch.group.shape)
        yield batch


def _by_condition(
    group: RegionGroup,
    rows: Ints,
    conditions: Mapping[Any, Condition],
    null_condition: Condition,
    fields: Condition,
) -> Iterator[tuple[Any, Ints, list[Condition]]]:
    """Splits rows by the structure of their conditions: one per row, or one without tensors."""
    if len(rows) == 0:
        return
    if not conditions and not null_condition:
        yield _structure(fields), rows, [fields]
        return
    kinds: dict[Any, list[tuple[int, Condition]]] = {}
    for row in rows.tolist():
        null = {} if group.outer[row] else null_condition
        condition = {**fields, **null, **conditions.get(group.name(row), {})}
        kinds.setdefault(_structure(condition), []).append((row, condition))
    for structure, members in kinds.items():
        yield structure, np.array([row for row, _ in members]), [each for _, each in members]


def _by_score(
    group: RegionGroup, rows: Ints, scores: Scores
) -> Iterator[tuple[Score | RegionScores, Ints]]:
    """Splits rows by the callable that evaluates them."""
    everything = np.arange(len(rows))
    if isinstance(scores, RegionScores):
        yield scores, everything
    elif not isinstance(scores, Mapping):
        yield _callable(scores, "all nodes"), everything
    elif group.model is not None:
        yield _score_of(scores, group.model, group.name(int(rows[0]))), everything
    else:
        found: dict[Any, tuple[Score, list[int]]] = {}
        for place, row in enumerate(rows.tolist()):
            score = _score_of(scores, group.name(row), group.name(row))
            found.setdefault(_identity(score), (score, []))[1].append(place)
        for score, places in found.values():
            yield score, np.array(places, np.int64)


def _score_of(scores: Mapping[Any, Score], model: Hashable, name: Hashable) -> Score:
    if model not in scores:
        given = ", ".join(map(repr, list(scores)[:8])) + (", ..." if len(scores) > 8 else "")
        scope = (
            " Regions of scopes are named by their variables, unless models= of the factor graph "
            "gives them model ids: its factors' names, for example."
        )
        hint = scope if isinstance(name, frozenset) else ""
        raise ScoreError(
            f"compose: node {name!r} needs the model {model!r}, which is not among the scores "
            f"({given}).{nearest(model, scores)} Add it.{hint} If there is no model for an "
            "overlap: use the piece's model if it accepts that size (or scores.padded), a Gaussian "
            "fitted to overlap data (gaussian.Gaussian.fit), or rule=Average(), which needs none."
        )
    return _callable(scores[model], f"model {model!r}")


def _callable(score: Any, what: str) -> Score:
    if isinstance(score, type) or not callable(score):
        kind = "a class" if isinstance(score, type) else f"of type {type(score).__name__}"
        raise ScoreError(
            f"compose: the score of {what} is {kind}, expected a callable score(x, sigma, "
            "**condition)."
        )
    return score  # type: ignore[no-any-return]


EachField = Callable[[str, Any], Any]
"""A function of a keyword, and of a field, or a `PerNode`, in its condition."""


def map_tensors(
    function: Callable[[Any], Any], tree: Condition, fields: EachField | None = None
) -> dict[str, Any]:
    """Applies a function to tensors of a condition (`_Shared`, too), and another one to fields.

    A `PerNode` counts as a field.

    Raises:
        ScoreError: a condition is an array.
    """
    if not tree:
        return {}

    def mapped(word: str, leaf: Any) -> Any:
        if isinstance(leaf, Tensor | _Shared):
            return function(leaf)
        if isinstance(leaf, np.ndarray):  # which would reach models without the axis of rows
            raise ScoreError(
                f"the condition {word!r} is an array {leaf.shape}, expected a tensor. Convert it "
                "with torch.as_tensor."
            )
        return fields(word, leaf) if fields and _is_whole(leaf) else leaf

    return {w: tree_map(partial(mapped, w), v, is_leaf=_is_whole) for w, v in tree.items()}


def given_text(own: Condition, told: Condition) -> str:
    """What a note on a failed model call says of nodes' own conditions and of the call's."""

    def leaves(value: Any) -> list[Any]:
        return tree_flatten(value, is_leaf=_is_whole)[0]

    nodes = [
        f"{word} {list(leaf.values.shape[1:])}"
        for word, value in own.items()
        for leaf in leaves(value)
        if isinstance(leaf, _Shared)
    ]
    kinds = Tensor | Field | PerNode
    raw = [
        f"{word}={brief(value)}"
        for word, value in told.items()
        if word not in own and not all(isinstance(leaf, kinds) for leaf in leaves(value))
    ]
    said = ""
    if nodes:
        said += f" Its own conditions are {', '.join(nodes)}: conditions of nodes have no batch "
        said += "axis; for values that differ between samples give per_node(...) to the call."
    if raw:
        said += f" The call was given {', '.join(raw)}, which models receive as it is: a tensor "
        said += "[batch, ...] has a value for each sample."
    return said


def _is_whole(value: Any) -> bool:
    return isinstance(value, Field | PerNode)


def _structure(condition: Condition) -> Any:
    """A key of conditions that can be stacked: alike but for the values of their tensors."""
    leaves, spec = tree_flatten(dict(sorted(condition.items())), is_leaf=_is_whole)
    signature = (
        (tuple(leaf.shape), leaf.dtype)
        if isinstance(leaf, Tensor)
        else _identity(leaf.values if isinstance(leaf, Field) else leaf)
        for leaf in leaves
    )
    return str(spec), tuple(signature)


def _identity(value: Any) -> Any:
    """A key that is equal only for values that may share a call, such as methods of one object."""
    if isinstance(value, MethodType):
        return id(value.__self__), value.__func__
    return (type(value), value) if isinstance(value, SCALARS) else id(value)


AT_CALLS = "which differs between samples. Give it as a keyword of the joint's call."
"""What is wrong with a `PerNode` given to `compose`."""

SCALARS = (str, bytes, bool, int, float, type(None))


def _combine(function: Callable[[list[Any]], Any], conditions: list[Condition]) -> dict[str, Any]:
    """Stacks or concatenates conditions of one structure, tensor by tensor."""
    flattened = [
        tree_flatten(dict(sorted(condition.items())), is_leaf=_is_whole) for condition in conditions
    ]
    leaves = zip(*(leaves for leaves, _ in flattened), strict=True)
    kinds = Tensor | _Shared
    combined = [function([*leaf]) if isinstance(leaf[0], kinds) else leaf[0] for leaf in leaves]
    tree: dict[str, Any] = tree_unflatten(combined, flattened[0][1])
    return tree


def _joined(parts: list[Any]) -> Any:
    """Tensors, or shared ones, of several parts' regions."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    starts = accumulate((len(part.values) for part in parts), initial=0)
    rows = [part.rows + start for part, start in zip(parts, starts, strict=False)]
    return _Shared(torch.cat([part.values for part in parts]), torch.cat(rows))


def _merged(parts: list[Batch]) -> Batch:
    """One batch of parts that share a callable, a shape and the structure of conditions."""
    first, groups = parts[0], [part.group for part in parts]
    index_groups = [group for group in groups if isinstance(group, IndexGroup)]
    if len(parts) == 1 or len(index_groups) < len(groups):
        return first
    known = [(p.precisions, len(p.group)) for p in parts if p.precisions is not None]
    return replace(
        first,
        group=IndexGroup.concatenate(index_groups),
        weights=torch.cat([part.weights for part in parts]),
        condition=_combine(_joined, [part.condition for part in parts]),
        precisions=concatenated(known) if known else None,
    )
