r"""Crops of data for training: the regions of a graph, or windows anywhere, with their conditions.

The models of pieces and of their overlaps must be marginals of one distribution. DiffCollage's
Algorithm 6 gets them from one network trained on crops of several shapes, cut from the same data:
half of the batches hold overlaps (Zhang et al., "DiffCollage: parallel generation of large content
with diffusion models", 2023, Algorithms 1, 2 and 6).
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import Any, TypeAlias, cast

import networkx as nx
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from pgmdiff.composition import compose
from pgmdiff.composition.fields import Field, placed, respaced
from pgmdiff.composition.local import Everything
from pgmdiff.composition.plan import Batch, map_tensors
from pgmdiff.errors import PgmdiffError, ScoreError, ShapeError, nearest, shape_text, warn
from pgmdiff.graphs import FactorGraph, RegionGraph
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.graphs.names import check_known, check_mapping
from pgmdiff.graphs.regions import Condition
from pgmdiff.linalg import Ints, Shape, beside, is_finite, null_like, tensor_of
from pgmdiff.noise import Generator, torch_generator
from pgmdiff.text import brief, by_field, counted, described

__all__ = ["CropBatch", "Crops", "Where", "crops", "positions", "random_crops"]

Where: TypeAlias = GraphLike | Sequence[Sequence[int]] | Mapping[tuple[int, ...], float]
"""A graph, whose regions are cut; or the shapes of crops that are cut anywhere."""
Fields: TypeAlias = Mapping[str, Sequence[Tensor] | Tensor]
"""The fields of states by keyword, `[n, *channels, *F]`, or a list where states differ in size."""


@dataclass(frozen=True, eq=False)
class CropBatch:
    """Crops of one shape.

    Attributes:
        clean: `[batch, *shape]`.
        position: the place of each crop's first entry, as a share of each axis of the state:
            `[batch, axes]`, from 0 to below 1.
        condition: keyword arguments of the model, tensors `[batch, ...]`.
    """

    clean: Tensor
    position: Tensor
    condition: dict[str, Any]

    __repr__ = by_field


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions that share a model, a shape and the structure of their conditions."""

    batch: Batch
    rows: Ints
    event_shape: Shape

    def cut(
        self, states: Any, owners: Tensor, fields: Fields, stream: torch.Generator
    ) -> CropBatch:
        """One crop for each of some states, given by their rows `[batch]`, and of their fields."""
        together = isinstance(states, Tensor)
        found = {tuple(each.shape) for each in (states[:1] if together else states)}
        if found != {self.event_shape}:
            got = ", ".join(shape_text("n", shape) for shape in sorted(found))
            raise ShapeError(
                f"crops: expected states {shape_text('n', self.event_shape)}, as the graph's, got "
                f"{got}. Of states of other sizes, such as single pieces, give the shapes of all "
                f"regions in place of the graph: [{tuple(self.batch.group.shape)}, ...]."
            )
        flat = (states if together else torch.stack(states)).flatten(1)
        chosen = torch.randint(len(self.rows), (len(owners),), generator=stream)
        chosen = torch.from_numpy(self.rows)[chosen]
        index = self.batch.group.select(chosen.numpy()).flat().to(flat.device)
        clean = flat[owners.to(flat.device)[:, None], index]
        condition = dict[str, Any]()
        shaped = index.reshape(len(owners), *self.batch.group.shape)
        for word, values in fields.items():
            field = Field(values if isinstance(values, Tensor) else torch.stack([*values]))
            given = placed(f"crops: {word!r}", field, self.event_shape, field.values.shape[:1])
            places = respaced(f"crops: {word!r}", shaped, self.event_shape, given)
            values = given.values.flatten(-len(self.event_shape)).movedim(-1, 1)
            flat = places.reshape(len(places), -1)
            rows, elements = (t.to(values.device) for t in (owners, flat))
            part = values[rows[:, None], elements].movedim(1, -1)
            condition[word] = part.reshape(*part.shape[:-1], *places.shape[1:])
        own = map_tensors(itemgetter(chosen), self.batch.condition)
        shares = _shares(index[:, 0], self.event_shape)
        return CropBatch(clean.reshape(shaped.shape), shares, {**condition, **own})


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one shape, anywhere in states that may differ in size."""

    shape: Shape

    def cut(
        self, states: Any, owners: Tensor, fields: Fields, stream: torch.Generator
    ) -> CropBatch:
        """One crop for each of some states, given by their rows `[batch]`, and of their fields."""
        clean, places, parts = [], [], defaultdict(list)
        shares = torch.rand(len(owners), len(self.shape), generator=stream, dtype=torch.double)
        for owner, share in zip(owners.tolist(), shares.tolist(), strict=True):
            state = states[owner]
            if state.ndim != len(self.shape) or any(map(int.__gt__, self.shape, state.shape)):
                raise ShapeError(
                    f"crops: expected states no smaller than a crop {self.shape}, with as many "
                    f"axes, got one of {tuple(state.shape)}. Cut smaller crops; a crop has every "
                    "axis of a state, channels too."
                )
            sides = [*zip(share, self.shape, state.shape, strict=True)]
            first = [int(s * (whole - part + 1)) for s, part, whole in sides]
            window = [slice(a, a + side) for a, side in zip(first, self.shape, strict=True)]
            clean.append(state[tuple(window)])
            places.append([a / whole for a, whole in zip(first, state.shape, strict=True)])
            for word, values in fields.items():
                own = values[owner]
                axes = [
                    *zip(window, self.shape, state.shape, own.shape[-state.ndim :], strict=False)
                ]
                if own.ndim < state.ndim or any(f != w > side for _, side, w, f in axes):
                    expected = shape_text("n, *channels", tuple(state.shape))
                    raise ShapeError(
                        f"crops: expected the field {word!r} as {expected}, but for axes that "
                        f"crops span, got one of {tuple(own.shape)}. Resize it to the states."
                    )
                spans = (..., *(cut if w == f else slice(None) for cut, _, w, f in axes))
                parts[word].append(own[spans])
        condition = {word: torch.stack(part) for word, part in parts.items()}
        return CropBatch(torch.stack(clean), torch.tensor(places), condition)


@dataclass(frozen=True, eq=False)
class Crops:
    """Random crops of clean states for one network; `crops` makes them.

    Attributes:
        states: the clean states.
        kinds: the kinds of crops.
        chances: how often each kind is drawn, `[kinds]`.
        position, null_condition, null_probability: see `crops`.
        words: the keywords of nodes' conditions, and of positions.
    """

    states: "States"
    kinds: Sequence[Regions | Windows]
    chances: Tensor
    position: bool
    null_condition: Condition
    null_probability: float
    words: tuple[str, ...] = ()
    _null_of_network: Condition = field(default_factory=dict)

    def __repr__(self) -> str:
        return described(self, counted(len(self.kinds), "kind"), f"of {brief(self.states.data)}")

    def draw(self, n: int, generator: Generator = None) -> CropBatch:
        """N crops of one kind, of states and at places drawn uniformly, from one stream for all.

        Raises:
            ShapeError: a state does not have the graph's shape, or is smaller than a crop.
            PgmdiffError: the data are empty or hold no floating-point tensors.
        """
        stream = torch_generator(generator, "crops")
        kind = self.kinds[int(torch.multinomial(self.chances, 1, generator=stream))]
        states, owners, labels, fields = self.states.draw(n, stream)
        if not self.states.labels:  # of pairs; others were looked at when they were given
            warn_of_null("crops", labels, {**self._null_of_network, **self.null_condition})
        words, what = {*self.words, *labels, *fields}, "crops: null_condition gives"
        remedy = "Use one keyword for both."
        check_known(what, self.null_condition, words, "keyword of conditions or labels", remedy)
        crop = kind.cut(states, owners, fields, stream)
        condition = {**labels, **crop.condition}  # what a node has of its own comes first
        if self.position:
            condition["position"] = crop.position
        dropped = torch.rand(n, generator=stream) < self.null_probability
        for word in condition.keys() & self.null_condition.keys():
            value = condition[word]
            what = f"null_condition {word!r}"
            null = null_like("crops", what, self.null_condition[word], value)
            condition[word] = torch.where(beside(dropped.to(value.device), value), null, value)
        return CropBatch(crop.clean, crop.position, condition)

    def of_each_shape(self, n: int, generator: Generator = None) -> list[Tensor]:
        """Clean crops of each shape, `[n, *shape]` or, of a shape with several kinds, more."""
        stream, found = torch_generator(generator, "crops"), defaultdict(list)
        for kind in self.kinds:
            for size in torch.arange(n).split(64):
                states, owners, *_ = self.states.draw(len(size), stream)
                clean = kind.cut(states, owners, {}, stream).clean
                found[clean.shape[1:]].append(clean)
        return [torch.cat(crops) for crops in found.values()]


class States:
    """Clean states, of which some are drawn at a time; see `crops` for the data and labels."""

    def __init__(self, data: Any, labels: Mapping[str, Any], pack: Any = None) -> None:
        self.pack = pack
        self.labels: dict[str, Tensor | Field] = {
            word: x if isinstance(x, Field) else tensor_of("crops", f"labels {word!r}", x)
            for word, x in labels.items()
        }
        data = torch.from_numpy(data) if isinstance(data, np.ndarray) else data
        self.data = self.one(data).contiguous() if isinstance(data, Mapping | Tensor) else data
        if isinstance(self.data, Tensor) and not self.data.isfinite().all():
            raise PgmdiffError("crops: expected finite data. Remove states that are not finite.")
        for word, label in self.labels.items():
            values = label.values if isinstance(label, Field) else label
            size = len(values)
            _check_finite(word, values)
            if not isinstance(self.data, Tensor) or size != len(self.data):
                raise ShapeError(
                    f"crops: expected labels {word!r} with one entry per state, beside states in "
                    f"one tensor, got {brief(label)} beside {brief(self.data)}. A Dataset gives "
                    "pairs (state, labels)."
                )
        self._loaded: Iterator[tuple[Tensor, Mapping[str, Any]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy, and of one in another process, a loader begins anew."""
        return {**vars(self), "_loaded": None}

    def one(self, state: Any) -> Tensor:
        """A state, or several, as a tensor."""
        if isinstance(state, Mapping) and self.pack is not None:
            state = self.pack(state)
        if not isinstance(state, Tensor) or not state.is_floating_point() or not state.numel():
            got = brief(state) if isinstance(state, Tensor) else type(state).__name__
            got += " without elements" * (isinstance(state, Tensor) and not state.numel())
            raise PgmdiffError(
                f"crops: expected states as floating-point tensors, got {got}. Convert them; named "
                "variables need the graph that has them."
            )
        return state

    def draw(
        self, n: int, stream: torch.Generator
    ) -> tuple[Tensor | list[Tensor], Tensor, dict[str, Tensor], Fields]:
        """States, the rows of those that are drawn `[n]`, their labels `[n, ...]`, all fields."""
        rows, labels, states = torch.arange(n), cast(Mapping[str, Any], self.labels), self.data
        if isinstance(states, Tensor):
            rows = torch.randint(len(states), (n,), generator=stream)
        else:
            whole = hasattr(states, "__getitem__") and hasattr(states, "__len__")
            if whole and not isinstance(states, IterableDataset):
                if not len(states):
                    raise PgmdiffError(f"crops: expected some states, got {brief(states)}, empty.")
                numbers = torch.randint(len(states), (n,), generator=stream).tolist()
                pairs = [_labelled(states[number]) for number in numbers]
            else:
                self._loaded = self._loaded or self._rows()
                try:
                    pairs = list(islice(self._loaded, n))
                except BaseException:  # which ends a generator
                    self._loaded = None
                    raise
            states = [self.one(state) for state, _ in pairs]
            labels = {word: [own[word] for _, own in pairs] for word in pairs[0][1]}
        plain, fields = dict[str, Tensor](), dict[str, Tensor | list[Tensor]]()
        for word, label in labels.items():
            some = label if isinstance(label, list) else [label]
            if isinstance(some[0], Field):
                values = [each.values for each in some]
                fields[word] = values if some is label else values[0]
            else:
                own = [*map(torch.as_tensor, some)]
                given = torch.stack(own) if some is label else own[0][rows]
                if not self.labels:  # others were looked at when they were given
                    _check_finite(word, given)
                floats = given.is_floating_point()  # NumPy's are of float64
                plain[word] = given.to(states[0].dtype) if floats else given
        return states, rows, plain, fields

    def _rows(self) -> Iterator[tuple[Tensor, Mapping[str, Any]]]:
        """The states of batches, or of a stream, with their labels, epoch after epoch."""
        batches, single = [None], isinstance(self.data, IterableDataset)
        while batches:
            batches = []
            for batch in self.data:
                batches, (states, labels) = [batch], _labelled(batch)
                if single:
                    yield self.one(states), labels
                    continue
                for row, state in enumerate(self.one(states)):
                    yield (
                        state,
                        {
                            word: Field(x.values[row]) if isinstance(x, Field) else x[row]
                            for word, x in labels.items()
                        },
                    )
        raise PgmdiffError(
            f"crops: {brief(self.data)} has no batches left. Give a DataLoader, which can be read "
            "again, and not an iterator; and no larger a batch_size than it has states, if it has "
            "drop_last=True."
        )


def crops(
    where: Where,
    data: Any,
    *,
    networks: Mapping[Any, Any] | None = None,
    half: float = 0.5,
    conditions: Mapping[Any, Condition] | None = None,
    labels: Mapping[str, Tensor | Field] | None = None,
    position: bool = False,
    null_condition: Condition | None = None,
    null_probability: float = 0.1,
) -> Any:
    """Random crops of clean states: `Crops`, for one network that is the model of all nodes.

    Args:
        where: a graph, whose counted regions are cut: its pieces, and their overlaps. Or the shapes
            of crops, cut at any place of states that are at least as large, with channels: of a
            sequence the first is the piece and the others are its overlaps; a mapping gives how
            often each shape is drawn.
        data: clean states `[n, *event_shape]`: images, a stack of images, series; or a tensor per
            variable of the graph, `{variable: [n, *shape]}`; or a `Dataset` (also an
            `IterableDataset`, or a list) of single states; or a `DataLoader` of batches of them.
            Those of the last two may be pairs `(state, labels)`, with labels by keyword, or one
            that is called `label`.
        networks: a mapping from model id (of crops: from shape) to network, for a mapping from
            model id to `Crops`; ids with the same network share their crops.
        half: how often overlaps are drawn in place of pieces.
        conditions: keyword arguments of nodes, on top of the graph's own; as for `compose`.
        labels: keyword arguments of states, a tensor `[n, ...]` each; or `field(t)`, with t of
            `[n, *channels, *F]`, of which a crop of the state gets the same crop (see `field`).
            Pieces and overlaps get them alike, but for nodes with such a condition of their own.
        position: whether the model gets the crops' positions, as `position=`; see `positions`.
        null_condition, null_probability: what the model gets in place of its conditions and labels,
            and how often. Where pieces have `conditions`, overlaps without one of their own always
            get it, as from `compose`. Of labels a network thus learns both for overlaps; if they
            are always to be null there, give `conditions={overlap: null_condition, ...}`. States
            whose own label is an integer and the null one are warned of.

    Raises:
        GraphError: a condition names no node, or the null condition neither condition nor label.
        ScoreError: a node or shape has no network.
        ShapeError: the data do not fit the graph, or labels do not fit the data.
        PgmdiffError: the data hold no finite floating-point tensors, or a share is not in [0, 1].

    Example:
        >>> import torch
        >>> from pgmdiff.graphs import tiles
        >>> from pgmdiff.training import crops
        >>> image = torch.rand(1, 3, 16, 48)
        >>> crops(tiles((3, 16, 48), (3, 16, 16), (0, 0, 8)), image).draw(4, 0)
        CropBatch(clean=[4, 3, 16, 8] float32, position=[4, 3] float32, condition={})
    """
    for name, share in (("half", half), ("null_probability", null_probability)):
        if not 0 <= share <= 1:
            raise PgmdiffError(f"crops: expected {name} from 0 to 1, got {share}.")
    given = {"conditions": conditions, "labels": labels, "null_condition": null_condition}
    for what, each in given.items():
        check_mapping("crops", what, {} if each is None else each, 'Write {"label": value}.')
    null, labels, conditions = dict(null_condition or {}), labels or {}, conditions or {}
    told = set[str]()
    shared = networks is None
    networks = {None: None} if networks is None else networks
    marks = {id(network): _Mark() for network in networks.values()}
    scores = {key: marks[id(network)] for key, network in networks.items()}
    cuts: list[tuple[Any, Regions | Windows, bool, float]] = []
    if isinstance(where, FactorGraph | RegionGraph | nx.Graph):
        graph = graph_of(where, "crops")
        named = [*conditions.values(), *graph.regions.conditions.values()]
        told = {word for each in named if isinstance(each, Mapping) for word in each}
        states = States(data, labels, graph.pack)
        if not shared:
            _check_networks(graph.regions, networks)
        joint = compose(
            graph,
            scores[None] if shared else scores,
            rule=Everything(),
            conditions=conditions,
            null_condition={w: null[w] for w in null if w in told},
        )
        for batch in joint.batches:
            for outer in (True, False):
                rows = np.flatnonzero(batch.group.outer == outer)
                kind = Regions(batch, rows, joint.event_shape)
                cuts += [(batch.score, kind, outer, float(len(rows)))] if len(rows) else []
    else:
        if not all(isinstance(shape, Iterable) for shape in where):
            raise ShapeError(
                f"crops: expected a graph, or the shapes of crops, got {brief(where)}. Write a "
                "single shape in a list, [(3, 64)]."
            )
        states = States(data, labels)
        for place, shape in enumerate(map(tuple, where)):
            if not shared and shape not in scores:
                raise ScoreError(
                    f"crops: there is no network for crops of shape {shape}, only for "
                    f"{', '.join(map(str, scores))}. Add it, or give one network for all shapes."
                )
            weight = where[shape] if isinstance(where, Mapping) else 1.0
            cuts.append((scores[None if shared else shape], Windows(shape), not place, weight))
    warn_of_null("crops", states.labels, null)
    result, words = {}, (*sorted(told), *["position"] * position)
    for key, mark in scores.items():
        own = [cut for cut in cuts if cut[0] is mark]
        if not own:
            continue  # a model of another graph
        _, kinds, sides, weights = zip(*own, strict=True)
        pieces, chances = torch.tensor(sides), torch.tensor(weights)
        if not isinstance(where, Mapping) and pieces.any() and not pieces.all():
            chances[pieces] *= (1 - half) / chances[pieces].sum()
            chances[~pieces] *= half / chances[~pieces].sum()
        result[key] = Crops(states, kinds, chances, position, null, null_probability, words)
    return result[None] if shared else result


def positions(graph: GraphLike) -> dict[Hashable, dict[str, Tensor]]:
    """The positions of a graph's regions as conditions for `compose`, `{name: {"position": p}}`.

    They are what a model trained with `position=True` gets for these regions: the place of the
    region's first entry as a share of each axis of the state, `[axes]`, from 0 to below 1. For
    `distributed.stream` give the graph of the whole canvas: positions of a smaller one are shares
    of that, and windows further on have none.

    Args:
        graph: the graph; a list of a million positions takes seconds.

    Example:
        >>> from pgmdiff.graphs import tiles
        >>> from pgmdiff.training import positions
        >>> positions(tiles((8,), 4, 2))["[4:8]"]
        {'position': tensor([0.5000])}
    """
    regions = graph_of(graph, "positions").regions
    return {
        name: {"position": share}
        for group in regions.groups
        for name, share in zip(
            group.names, _shares(group.flat()[:, 0], regions.event_shape), strict=True
        )
    }


def random_crops(
    image: Tensor, shape: Sequence[int], n: int, *, generator: Generator = None
) -> Tensor:
    """Cuts `n` uniformly placed crops out of one image: `[n, channels, *shape]`.

    Args:
        image: `[channels, height, width]`.
        shape: `(height, width)` of a crop, in pixels.
        n: number of crops.
        generator: the source of the places, one stream for all; see `pgmdiff.noise.Generator`.

    Raises:
        ShapeError: a crop is larger than the image.
        PgmdiffError: the generator is a sequence.
    """
    height, width = (side - crop + 1 for side, crop in zip(image.shape[-2:], shape, strict=True))
    if height < 1 or width < 1:
        raise ShapeError(
            f"random_crops: expected a crop no larger than the image {tuple(image.shape[-2:])}, "
            f"got {tuple(shape)}. Cut smaller crops."
        )
    generator = torch_generator(generator, "random_crops")
    top = torch.randint(height, (n,), generator=generator)
    left = torch.randint(width, (n,), generator=generator)
    rows = (top[:, None] + torch.arange(shape[0]))[:, :, None]
    columns = (left[:, None] + torch.arange(shape[1]))[:, None, :]
    return image[:, rows, columns].movedim(0, 1)


class _Mark:
    """Stands for a network where regions are sorted by network."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x


def _check_networks(graph: RegionGraph, networks: Mapping[Any, Any]) -> None:
    """Raises `ScoreError` for a node, of those that are cut, without a network."""
    for group, weights in zip(graph.groups, Everything().weights(graph), strict=True):
        cut = np.flatnonzero(weights)
        for row in cut.tolist() if group.model is None else cut[:1].tolist():
            name = group.name(row)
            model = name if group.model is None else group.model
            if model not in networks:
                given = brief([*networks])
                raise ScoreError(
                    f"crops: node {name!r} needs the model {model!r}, which is not among the "
                    f"networks {given}.{nearest(model, networks)} Add one, which may be that of "
                    "another id, too; `compose` needs those of overlaps as well."
                )


def _check_finite(word: str, label: Tensor) -> None:
    """Raises `PgmdiffError` for labels that are not finite."""
    if not is_finite(label):
        raise PgmdiffError(
            f"crops: expected finite labels {word!r}, got NaN or infinity. Remove their states, or "
            "give these what stands for an unknown label."
        )


def warn_of_null(who: str, labels: Mapping[str, Tensor | Field], null: Condition) -> None:
    """Warns of states whose label is the null class, as the last one is if classes count from 1."""
    for word in labels.keys() & null.keys():
        label = labels[word]
        if isinstance(label, Tensor) and not label.is_floating_point():
            value = null_like(who, f"null_condition {word!r}", null[word], label)
            if (label == value)[..., None].flatten(1).all(dim=1).any():
                warn(
                    f"{who}: some states have the {word} {value.tolist()}, which is the null "
                    "class: they are learnt as states without one. Count classes from 0, or give "
                    "another null_condition; ignore this if they have none."
                )


def _shares(elements: Tensor, event_shape: Shape) -> Tensor:
    """Places of elements `[n]` as shares of the axes of the state, `[n, axes]`."""
    places = torch.stack(torch.unravel_index(elements, event_shape), dim=1)
    return places / torch.tensor(event_shape, device=places.device)


def _labelled(item: Any) -> tuple[Any, Mapping[str, Any]]:
    """A state, or several, and their labels by keyword, from an item of a Dataset or DataLoader."""
    if not isinstance(item, tuple | list) or len(item) not in (1, 2):
        return item, {}
    labels = item[1] if len(item) == 2 else {}
    return item[0], labels if isinstance(labels, Mapping) else {"label": labels}
