r"""Pieces that cluster variation and junction trees count: scopes of variables, or index arrays.

Both are counted as scopes, index arrays as scopes of their atoms. The counted regions then become
a region graph, laid out as the variables or the arrays are.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import networkx as nx
import numpy as np
import numpy.typing as npt
from torch import Tensor

from pgmdiff.errors import GraphError
from pgmdiff.graphs.atoms import atoms, connected_atoms, touching
from pgmdiff.graphs.containment import regions_around
from pgmdiff.graphs.factor_graph import FactorGraph, GraphLike
from pgmdiff.graphs.groups import IndexGroup
from pgmdiff.graphs.regions import RegionGraph, condition_key
from pgmdiff.linalg import Ints

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
    GraphLike | Mapping[Any, Sequence[Hashable] | npt.ArrayLike] | Iterable[Collection[Hashable]]
)


@dataclass(frozen=True)
class Atom:
    """The name of an atom, different from the names of all pieces."""

    number: int


@dataclass(frozen=True)
class Pieces(ABC):
    """Pieces to be counted as scopes, and the region graph that counted regions become.

    Attributes:
        graph: factor graph of the scopes.
        touching: of its variables, those that touch are joined; None if that does not matter.
    """

    graph: FactorGraph
    touching: "nx.Graph | None"

    @abstractmethod
    def region_graph(self, outer: Set[Region], counts: Mapping[Region, int]) -> RegionGraph:
        """The regions of nonzero count."""

    def _largest_first(self, counts: Mapping[Region, int]) -> list[Region]:
        """Nonempty regions of nonzero count, those of one size in declaration order."""
        kept = [region for region, count in counts.items() if count and region]
        pairs = zip(numbered(self.graph, kept), kept, strict=True)
        return [r for _, r in sorted(pairs, key=lambda pair: (-len(pair[1]), pair[0]))]


@dataclass(frozen=True)
class ScopePieces(Pieces):
    """Scopes of variables."""

    def region_graph(self, outer: Set[Region], counts: Mapping[Region, int]) -> RegionGraph:
        """Scopes keep their order, as their models expect; others are in declaration order."""
        graph, ordered = self.graph, self._largest_first(counts)
        factor: dict[Region, Hashable] = {}
        for name, scope in graph.scopes.items():
            factor.setdefault(frozenset(scope), name)  # the first of duplicates is the one kept
        own = {r: graph.models.get(factor[r], graph.factor_model) for r in ordered if r in factor}
        models = {r: model for r, model in own.items() if model is not None}
        # A factor graph of the regions lays out their indices; single variables are its variables.
        layout = FactorGraph.from_scopes(
            {
                r: graph.scopes[factor[r]] if r in factor else [graph.variables[v] for v in numbers]
                for r, numbers in zip(ordered, numbered(graph, ordered), strict=True)
                if len(r) > 1 or r in factor
            },
            dict(zip(graph.variables, graph.shapes, strict=True)),
            axis=graph.axis,
            models=models | {v: graph.models[v] for v in graph.variables if v in graph.models},
            variable_model=graph.variable_model,
        )
        groups = []
        for group in layout.nodes.groups:
            found: list[Any] = [n if n in layout.scopes else frozenset([n]) for n in group.names]
            rows = [
                row
                for row, (name, region) in enumerate(zip(group.names, found, strict=True))
                if counts.get(region) and (name == region or region not in layout.scopes)
            ]
            regions = [found[row] for row in rows]
            group = IndexGroup(
                group.select(np.array(rows, np.int64)).indices(0, len(rows)),
                np.array([counts[region] for region in regions], np.int64),
                regions,
                np.array([region in outer for region in regions], np.bool_),
                group.model,
            )
            groups += [group] if rows else []
        node = {frozenset([v]): v for v in graph.variables} | factor
        given = {r: graph.conditions.get(node[r]) for r in ordered if r in node}
        return RegionGraph(
            (graph.n_elements,),
            tuple(groups),
            conditions={r: condition for r, condition in given.items() if condition is not None},
            variables=layout.nodes.variables,
        )


@dataclass(frozen=True)
class ArrayPieces(Pieces):
    """Index arrays, as scopes of their atoms.

    Attributes:
        source: the region graph whose outer regions are the pieces.
        arrays: piece to its index array.
        labels: the atom of every element of the state.
    """

    source: RegionGraph
    arrays: Mapping[Any, Ints]
    labels: Ints

    @classmethod
    def of(
        cls, source: RegionGraph, who: str, declared: Iterable[Hashable], *, split: bool
    ) -> "ArrayPieces":
        """The outer regions of a region graph; `split` counts unconnected parts on their own.

        They are in the order of `declared` if it names them, else in that of the graph.

        Raises:
            GraphError: an element is in no piece.
        """
        rank = {name: number for number, name in enumerate(declared)}
        order = sorted(source.pieces, key=lambda name: rank.get(name, 0))
        arrays = {name: source.elements(name).numpy() for name in order}
        shared = (g for g in source.groups if g.model is not None)
        models = {name: g.model for g in shared for name in g.names if name in arrays}
        pieces = list(arrays.values())
        labels = (connected_atoms if split else atoms)(pieces, source.n_elements)
        uncovered = np.flatnonzero(source.coverage() == 0)
        if len(uncovered):
            raise GraphError(
                f"{who}: {len(uncovered)} elements are in no piece, the first is "
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
        beside = None
        if split:
            beside = nx.empty_graph(known)
            beside.add_edges_from((known[a], known[b]) for a, b in touching(pieces, labels).T)
        return cls(graph, beside, source, arrays, labels)

    def region_graph(self, outer: Set[Region], counts: Mapping[Region, int]) -> RegionGraph:
        ordered = self._largest_first(counts)
        scopes = [frozenset(scope) for scope in self.graph.scopes.values()]
        pieces = list(self.graph.scopes)
        around = {
            region: [pieces[number] for number in numbers]
            for region, numbers in zip(ordered, regions_around(ordered, scopes), strict=True)
        }
        named = self._names(around)
        arrays, models = {}, {}
        for region, name in named.items():
            if name in self.arrays:
                arrays[name], models[name] = self.arrays[name], self.graph.models.get(name)
                continue
            arrays[name] = self._array(region, around[region])
            shared = {self.graph.models.get(piece) for piece in around[region]}
            own = len(shared) != 1 or None in shared  # else one model of all overlaps of a shape
            models[name] = None if own else arrays[name].shape
        return RegionGraph.grouped(
            arrays,
            {name: (counts[region], region in outer) for region, name in named.items()},
            self.source.event_shape,
            models=models,
            conditions={n: c for n, c in self.source.conditions.items() if n in arrays},
        )

    def _names(self, around: Mapping[Region, Sequence[Hashable]]) -> dict[Region, Hashable]:
        """Pieces by their own names; others by the pieces around them, numbered where needed."""
        pieces: dict[Region, Hashable] = {}
        for name, scope in self.graph.scopes.items():
            pieces.setdefault(frozenset(scope), name)
        bases = {r: frozenset(names) for r, names in around.items() if r not in pieces}
        times = Counter(bases.values())
        named: dict[Region, Hashable] = {}
        numbers: Counter[Hashable] = Counter()
        taken: set[Hashable] = set(self.arrays)
        for region in around:
            if region in pieces:
                named[region] = pieces[region]
                continue
            base: Hashable = bases[region] or "clique"
            name = base if base != "clique" and times[bases[region]] == 1 else (base, 0)
            while name in taken:
                numbers[base] += 1
                name = (base, numbers[base])
            taken.add(name)
            named[region] = name
        return named

    def _array(self, region: Region, around: Sequence[Hashable]) -> Ints:
        """The sub-array of the first piece around a region, if the region fills one; else flat."""
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


def pieces_of(
    scopes: Scopes,
    shapes: Mapping[Any, Sequence[int]] | None,
    event_shape: Sequence[int] | None,
    disconnected: Disconnected,
    models: Mapping[Any, Hashable] | None,
    who: str,
) -> Pieces:
    """The pieces that `cluster_variation` and `junction_tree` are given; errors name which.

    Raises:
        GraphError: see there.
    """
    if disconnected not in ("one", "several"):
        raise GraphError(
            f"{who}: expected disconnected='one' or 'several', got {disconnected!r}. "
            "Choose how to count an intersection in several parts."
        )
    regions: dict[Any, Any] = {}
    if event_shape is not None:
        if not isinstance(scopes, Mapping) or shapes is not None:
            raise GraphError(
                f"{who}: with event_shape= expected a dict of index arrays, and no "
                f"shapes=, got {type(scopes).__name__}. Leave event_shape out for scopes."
            )
        regions.update(scopes)
        scopes = RegionGraph.from_regions(regions, event_shape=event_shape, models=models)
    elif models is not None:
        raise GraphError(
            f"{who}: models= goes with event_shape= and index arrays. Give a factor "
            "graph's models to the factor graph."
        )
    if isinstance(scopes, nx.Graph):
        scopes = FactorGraph.from_networkx(scopes)
    split = disconnected == "several"
    if isinstance(scopes, RegionGraph):
        return ArrayPieces.of(scopes, who, regions, split=split)
    graph = _factor_graph(scopes, shapes, who)
    if not split:
        return ScopePieces(graph, None)
    beside = nx.empty_graph(graph.variables)
    for scope in graph.scopes.values():
        nx.add_path(beside, scope)
    return ScopePieces(graph, beside)


def _factor_graph(
    scopes: Scopes, shapes: Mapping[Any, Sequence[int]] | None, who: str
) -> FactorGraph:
    if isinstance(scopes, FactorGraph):
        if scopes.nested:
            raise GraphError(
                f"{who}: node {next(iter(scopes.nested))!r} is nested, and scopes say "
                "nothing of inner graphs. Nest the result's pieces, or use flatten()."
            )
        return scopes
    if isinstance(scopes, Mapping):
        arrays = [name for name, scope in scopes.items() if isinstance(scope, np.ndarray | Tensor)]
        if arrays:
            raise GraphError(
                f"{who}: {arrays[0]!r} is an index array, expected a scope of names. "
                "Give a tuple of names, or event_shape= of the state that it indexes."
            )
        return FactorGraph.from_scopes(scopes, shapes)  # type: ignore[arg-type]
    if not isinstance(scopes, Iterable) or hasattr(scopes, "columns"):
        raise GraphError(
            f"{who}: expected a graph, or scopes of names, got a value of type "
            f"{type(scopes).__name__}. Give a list of tuples, such as .values.tolist() of a table."
        )
    listed: list[Any] = list(scopes)
    for scope in listed:
        single = not isinstance(scope, Iterable) or int(getattr(scope, "ndim", 1)) == 0
        unordered = isinstance(scope, str | bytes | Set) and not (isinstance(scope, Set) and shapes)
        if single or unordered:
            raise GraphError(
                f"{who}: the scope {scope!r} is of type {type(scope).__name__}, "
                "expected a sequence of names, in the order in which its model sees them. Use a "
                "tuple, or give shapes= in the order of declaration."
            )
    declared = {name: v for v, name in enumerate(shapes or ())}
    ordered = (
        sorted(s, key=lambda name: declared.get(name, len(declared))) if isinstance(s, Set) else s
        for s in listed
    )
    return FactorGraph.from_scopes({("scope", i): tuple(s) for i, s in enumerate(ordered)}, shapes)


def numbered(graph: FactorGraph, regions: list[Region]) -> list[list[int]]:
    """Each region as sorted variable numbers: declaration order, the same in every process."""
    number = {name: v for v, name in enumerate(graph.variables)}
    return [sorted(number[name] for name in region) for region in regions]


def maximal(graph: FactorGraph, absorb: bool, who: str) -> list[Region]:
    """Distinct scopes inside no other, and isolated variables."""
    factors = list(graph.scopes)
    scopes = [frozenset(scope) for scope in graph.scopes.values()]
    first: dict[Region, Hashable] = {}
    for factor, scope in zip(factors, scopes, strict=True):
        first.setdefault(scope, factor)
    distinct = list(first)
    around = dict(zip(distinct, regions_around(distinct, distinct), strict=True))
    kept: dict[Region, Hashable] = {}
    for factor, scope in zip(factors, scopes, strict=True):
        larger = (first[distinct[k]] for k in around[scope] if scope != distinct[k])
        holder = next(larger, kept.get(scope))
        if holder is None:
            kept[scope] = factor
        elif not absorb:
            raise GraphError(
                f"{who}: the scope of factor {factor!r} lies inside that of "
                f"{holder!r}. Remove it, or pass absorb=True."
            )
        elif _loses(graph, factor, holder):
            raise GraphError(
                f"{who}: the scope of factor {factor!r} lies inside that of "
                f"{holder!r}, and it has a model or a condition of its own, which would be lost. "
                "Compose its FactorGraph, or remove it."
            )
    isolated = (v for v, d in zip(graph.variables, graph.degrees, strict=True) if d == 0)
    return [*kept, *(frozenset([variable]) for variable in isolated)]


def _loses(graph: FactorGraph, factor: Hashable, holder: Hashable) -> bool:
    """Whether dropping a factor in favour of another loses a model or a condition."""
    both = (factor, holder)
    one, other = (graph.scopes[f] for f in both)
    if frozenset(one) != frozenset(other):
        return has_its_own(graph, factor)
    models = {graph.models.get(f, graph.factor_model) for f in both}
    conditions = {condition_key(graph.conditions.get(f, {})) for f in both}
    same = one == other and len(models) == len(conditions) == 1
    return any(has_its_own(graph, f) for f in both) and not same


def has_its_own(graph: FactorGraph, factor: Hashable) -> bool:
    """Whether a factor has a model or a condition of its own."""
    return factor in graph.models or factor in graph.conditions
