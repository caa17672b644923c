r"""What cluster variation and junction trees count: scopes of variables, or index arrays.

Both are counted as scopes; index arrays as scopes of their atoms. Counted regions then become a
region graph again, laid out as the variables or the arrays are.
"""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pgmdiff.errors import GraphError
from pgmdiff.graphs.atoms import Neighbours, array_neighbours, atoms, connected_atoms
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.groups import IndexGroup
from pgmdiff.graphs.regions import RegionGraph, condition_key
from pgmdiff.linalg import Ints, Shape

__all__ = [
    "Disconnected",
    "Pieces",
    "Region",
    "Scopes",
    "has_its_own",
    "maximal",
    "numbered",
    "pieces_of",
]

Region = frozenset[Hashable]
Disconnected = Literal["one", "several"]
Scopes = (
    FactorGraph
    | RegionGraph
    | Mapping[Any, Sequence[Hashable] | npt.ArrayLike]
    | Iterable[Collection[Hashable]]
)


@dataclass(frozen=True)
class Atom:
    """A name that no piece has."""

    number: int


@dataclass(frozen=True)
class Pieces(ABC):
    """What is to be counted: as scopes, and how counted regions become a region graph.

    Attributes:
        graph: of the scopes.
        touching: which of its variables are connected; None: do not ask.
    """

    graph: FactorGraph
    touching: Neighbours | None

    @abstractmethod
    def region_graph(self, outer: Collection[Region], counts: Mapping[Region, int]) -> RegionGraph:
        """The regions of nonzero count."""


@dataclass(frozen=True)
class ScopePieces(Pieces):
    """Scopes of variables."""

    def region_graph(self, outer: Collection[Region], counts: Mapping[Region, int]) -> RegionGraph:
        return _region_graph(self.graph, outer, counts)


@dataclass(frozen=True)
class ArrayPieces(Pieces):
    """Index arrays, as scopes of their atoms."""

    source: RegionGraph
    arrays: Mapping[Any, Ints]
    labels: Ints

    @cached_property
    def _on(self) -> Mapping[Hashable, list[Hashable]]:
        """Atom to the pieces that hold it."""
        on: defaultdict[Hashable, list[Hashable]] = defaultdict(list)
        for name, scope in self.graph.scopes.items():
            for atom in scope:
                on[atom].append(name)
        return on

    def _around(self, region: Region) -> list[Hashable]:
        """The pieces that contain a region, in order."""
        fewest = min((self._on[atom] for atom in region), key=len)
        return [name for name in fewest if region <= frozenset(self.graph.scopes[name])]

    def _array(self, region: Region, around: Sequence[Hashable]) -> Ints:
        """As the first piece around it has it: its sub-array if it fills one, else flat."""
        ids = [atom.number for atom in region if isinstance(atom, Atom)]
        if not around:
            return np.flatnonzero(np.isin(self.labels, ids))
        array = self.arrays[around[0]]
        kept = np.isin(self.labels[array], ids)
        lines = [
            np.flatnonzero(kept.any(axis=tuple(a for a in range(array.ndim) if a != axis)))
            for axis in range(array.ndim)
        ]
        filled = array[np.ix_(*lines)]
        return filled if filled.size == kept.sum() else array[kept]

    def _overlap_model(self, around: Sequence[Hashable], shape: Shape) -> Shape | None:
        """The shape, where the pieces around an overlap share a model id; else its own name."""
        models = {self.graph.models.get(piece) for piece in around}
        return shape if len(models) == 1 and None not in models else None

    def _names(self, regions: Sequence[Region]) -> dict[Region, Hashable]:
        """Pieces by their own names; others by the pieces around them, numbered where needed."""
        pieces: dict[Region, Hashable] = {}
        for name, scope in self.graph.scopes.items():
            pieces.setdefault(frozenset(scope), name)
        around = {r: frozenset(self._around(r)) for r in regions if r not in pieces}
        twice = Counter(around.values())
        named: dict[Region, Hashable] = {}
        numbers: Counter[Hashable] = Counter()
        taken: set[Hashable] = set(self.arrays)
        for region in regions:
            if region in pieces:
                named[region] = pieces[region]
                continue
            base: Hashable = around[region] or "clique"
            name = base if around[region] and twice[around[region]] == 1 else (base, 0)
            while name in taken:
                numbers[base] += 1
                name = (base, numbers[base])
            taken.add(name)
            named[region] = name
        return named

    def region_graph(self, outer: Collection[Region], counts: Mapping[Region, int]) -> RegionGraph:
        kept = [region for region, count in counts.items() if count and region]
        pairs = zip(numbered(self.graph, kept), kept, strict=True)
        ordered = [r for _, r in sorted(pairs, key=lambda pair: (-len(pair[1]), pair[0]))]
        named = self._names(ordered)
        arrays = {
            name: self.arrays[name]
            if name in self.arrays
            else self._array(region, self._around(region))
            for region, name in named.items()
        }
        return RegionGraph.grouped(
            arrays,
            {name: (counts[region], region in outer) for region, name in named.items()},
            self.source.event_shape,
            models={
                name: self.graph.models.get(name)
                if name in self.arrays
                else self._overlap_model(self._around(region), arrays[name].shape)
                for region, name in named.items()
            },
            conditions={n: c for n, c in self.source.conditions.items() if n in arrays},
        )


def pieces_of(
    scopes: Scopes,
    shapes: Mapping[Any, Sequence[int]] | None,
    event_shape: Sequence[int] | None,
    disconnected: Disconnected,
    models: Mapping[Any, Hashable] | None,
) -> Pieces:
    """The pieces of what `cluster_variation` and `junction_tree` take.

    Raises:
        GraphError: see there.
    """
    if disconnected not in ("one", "several"):
        raise GraphError(
            f"cluster_variation: disconnected is 'one' or 'several', got {disconnected!r}."
        )
    split = disconnected == "several"
    if event_shape is not None:
        if not isinstance(scopes, Mapping) or shapes is not None:
            raise GraphError(
                "cluster_variation: with event_shape= expected a dict of index arrays, and no "
                f"shapes=, got {type(scopes).__name__}. Leave event_shape out for scopes."
            )
        regions: Mapping[Any, Any] = scopes
        scopes = RegionGraph.from_regions(regions, event_shape=event_shape, models=models)
    elif models is not None:
        raise GraphError(
            "cluster_variation: models= goes with event_shape= and index arrays. Give a factor "
            "graph's models to the factor graph."
        )
    if isinstance(scopes, RegionGraph):
        return _array_pieces(scopes, split)
    graph = _factor_graph(scopes, shapes)
    return ScopePieces(graph, _together(graph) if split else None)


def _array_pieces(source: RegionGraph, split: bool) -> ArrayPieces:
    arrays: dict[Hashable, Ints] = {}
    models: dict[Hashable, Hashable] = {}
    for group in source.groups:
        for row in np.flatnonzero(group.outer).tolist():
            name = group.name(row)
            arrays[name] = group.indices(row, row + 1)[0].numpy()
            if group.model is not None:
                models[name] = group.model
    pieces = list(arrays.values())
    labels = (connected_atoms if split else atoms)(pieces, source.n_elements)
    uncovered = np.setdiff1d(
        np.arange(source.n_elements),
        np.concatenate([np.zeros(0, np.int64), *(array.ravel() for array in pieces)]),
    )
    if len(uncovered):
        raise GraphError(
            f"cluster_variation: {len(uncovered)} elements are in no piece, the first is "
            f"{uncovered[0]}. Add a piece that holds them, or correct event_shape=."
        )
    known: list[Hashable] = [Atom(number) for number in range(int(labels.max(initial=-1)) + 1)]
    scopes = {n: [known[k] for k in np.unique(labels[a]).tolist()] for n, a in arrays.items()}
    graph = FactorGraph.from_scopes(
        scopes,
        dict.fromkeys(known, ()),
        models=models,
        conditions={n: c for n, c in source.conditions.items() if n in arrays},
    )
    beside = array_neighbours(pieces, labels).items() if split else []
    touching = {known[a]: {known[b] for b in others} for a, others in beside}
    return ArrayPieces(graph, touching if split else None, source, arrays, labels)


def _together(graph: FactorGraph) -> Neighbours:
    """Which variables are in a scope of two: those of larger scopes are beside their neighbours."""
    touching: defaultdict[Hashable, set[Hashable]] = defaultdict(set)
    for scope in graph.scopes.values():
        for a, b in pairwise(scope):
            touching[a].add(b)
            touching[b].add(a)
    return touching


def _factor_graph(scopes: Scopes, shapes: Mapping[Any, Sequence[int]] | None) -> FactorGraph:
    if isinstance(scopes, FactorGraph):
        if scopes.nested:
            raise GraphError(
                f"cluster variation: node {next(iter(scopes.nested))!r} is nested, and scopes say "
                "nothing of inner graphs. Nest the result's pieces, or use flatten()."
            )
        return scopes
    if isinstance(scopes, Mapping):
        arrays = [name for name, scope in scopes.items() if isinstance(scope, np.ndarray | Tensor)]
        if arrays:
            raise GraphError(
                f"cluster_variation: {arrays[0]!r} is an index array; of which state? Give "
                "event_shape=, or for a scope a tuple of names."
            )
        return FactorGraph.from_scopes(scopes, shapes)  # type: ignore[arg-type]
    listed: list[Any] = list(scopes)  # type: ignore[arg-type]
    for scope in listed:
        if isinstance(scope, str | bytes | Set) and not (isinstance(scope, Set) and shapes):
            raise GraphError(
                f"cluster variation: the scope {scope!r} is a {type(scope).__name__}, expected a "
                "sequence of names: variables are declared in its order. Use a tuple, or give "
                "shapes= in the order of declaration."
            )
    numbered: dict[Hashable, tuple[Hashable, ...]] = {
        ("scope", i): tuple(scope) for i, scope in enumerate(listed)
    }
    return FactorGraph.from_scopes(numbered, shapes)


def _region_graph(
    graph: FactorGraph, outer: Collection[Region], counts: Mapping[Region, int]
) -> RegionGraph:
    """Regions of nonzero count, their variables in declaration order.

    But a scope whose model is given keeps its own order, as that model expects.
    """
    kept = [region for region, count in counts.items() if count and region]
    pairs = zip(numbered(graph, kept), kept, strict=True)
    order = sorted(pairs, key=lambda pair: (-len(pair[1]), pair[0]))
    counted = {region: counts[region] for _, region in order}
    factor: dict[Region, Hashable] = {}
    for name, scope in graph.scopes.items():
        factor.setdefault(frozenset(scope), name)  # the first of duplicates is the one kept
    models = {r: graph.models.get(factor[r], graph.factor_model) for r in counted if r in factor}
    # A factor graph of the regions lays out their indices; single variables are its variables.
    layout = FactorGraph.from_scopes(
        {
            r: graph.scopes[factor[r]]
            if models.get(r) is not None
            else [graph.variables[v] for v in numbers]
            for numbers, r in order
            if len(r) > 1 or r in factor
        },
        dict(zip(graph.variables, graph.shapes, strict=True)),
        axis=graph.axis,
        models={r: model for r, model in models.items() if model is not None}
        | {v: graph.models[v] for v in graph.variables if v in graph.models},
        variable_model=graph.variable_model,
    )
    single = {v for v in graph.variables if frozenset([v]) not in layout.scopes}
    groups = []
    for group in layout.regions.groups:
        found = {
            row: frozenset(layout.scopes.get(name, (name,)))
            for row, name in enumerate(group.names)
            if name in layout.scopes or name in single
        }
        rows = [row for row, region in found.items() if region in counted]
        regions = [found[row] for row in rows]
        groups.append(
            IndexGroup(
                group.select(np.array(rows, np.int64)).indices(0, len(rows)),
                np.array([counted[region] for region in regions], np.int64),
                regions,
                np.array([region in outer for region in regions], np.bool_),
                group.model,
            )
        )
    return RegionGraph(
        (graph.n_elements,),
        tuple(group for group in groups if len(group)),
        conditions={
            r: graph.conditions[node]
            for r, node in ({frozenset([v]): v for v in graph.variables} | factor).items()
            if r in counted and node in graph.conditions
        },
    )


def numbered(graph: FactorGraph, regions: list[Region]) -> list[list[int]]:
    """Each region as sorted variable numbers: declaration order, the same in every process."""
    number = {name: v for v, name in enumerate(graph.variables)}
    return [sorted(number[name] for name in region) for region in regions]


def maximal(graph: FactorGraph, absorb: bool) -> list[Region]:
    """Distinct scopes inside no other, and isolated variables."""
    factors = {f: frozenset(scope) for f, scope in graph.scopes.items()}
    position = {f: place for place, f in enumerate(factors)}
    on = defaultdict(set)
    for factor, scope in factors.items():
        for variable in scope:
            on[variable].add(factor)
    kept: dict[Region, Hashable] = {}
    for factor, scope in factors.items():
        around = set.intersection(*(on[variable] for variable in scope))
        larger = (f for f in around if scope < factors[f])
        holder = min(larger, key=position.__getitem__, default=kept.get(scope))
        if holder is None:
            kept[scope] = factor
        elif not absorb:
            raise GraphError(
                f"cluster variation: the scope of factor {factor!r} lies inside that of "
                f"{holder!r}. Remove it, or pass absorb=True."
            )
        elif _loses(graph, factor, holder):
            raise GraphError(
                f"cluster variation: the scope of factor {factor!r} lies inside that of "
                f"{holder!r}, and it has a model or a condition of its own, which would be lost. "
                "Compose its FactorGraph, or remove it."
            )
    isolated = (v for v, d in zip(graph.variables, graph.degrees, strict=True) if d == 0)
    return [*kept, *(frozenset([variable]) for variable in isolated)]


def _loses(graph: FactorGraph, factor: Hashable, holder: Hashable) -> bool:
    """Whether dropping a factor for the sake of another loses a model or a condition."""
    if frozenset(graph.scopes[factor]) != frozenset(graph.scopes[holder]):
        return has_its_own(graph, factor)
    own = has_its_own(graph, factor) or has_its_own(graph, holder)
    return own and not _same_model(graph, factor, holder)


def has_its_own(graph: FactorGraph, factor: Hashable) -> bool:
    """Whether a factor has a model or a condition of its own."""
    return factor in graph.models or factor in graph.conditions


def _same_model(graph: FactorGraph, a: Hashable, b: Hashable) -> bool:
    """Scopes in equal order, with equal models and conditions."""
    conditions = (condition_key(graph.conditions.get(f, {})) for f in (a, b))
    models = {graph.models.get(f, graph.factor_model) for f in (a, b)}
    equal = len(models) == 1 and len(set(conditions)) == 1
    return equal and graph.scopes[a] == graph.scopes[b]
