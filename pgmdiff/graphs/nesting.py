r"""Nested factor graphs: nodes that are themselves graphs, and the region graph of their leaves.

A node stands for the marginal of its region. Where that marginal is itself composed, q_n = Π_l
q_l^{c_l} over the regions l of an inner graph, the whole is

    p(u) = Π_n q_n^{c_n} = Π_l q_l^{Σ_paths c_n c_l}:

the flattened coefficient of a leaf is the product of the counts along its path, summed over the
paths to identical leaves (same elements in the same order, same model, same condition).
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING, Any

import numpy as np

from pgmdiff.errors import GraphError
from pgmdiff.graphs.containment import regions_around
from pgmdiff.graphs.regions import Condition, RegionGraph, condition_key
from pgmdiff.linalg import Ints

if TYPE_CHECKING:
    from pgmdiff.graphs.factor_graph import FactorGraph

__all__ = ["check_nested", "flatten"]

Path = tuple[Hashable, ...]


@dataclass(frozen=True, eq=False)
class Leaf:
    """A node that is evaluated, on one path from the outermost graph."""

    path: Path
    elements: Ints
    """Elements of the whole state, in the model's shape."""
    count: Fraction
    outer: bool
    model: Hashable
    condition: Condition | None
    lost: Hashable | None = None
    """Name of an expanded node around the leaf that has a condition."""

    @property
    def key(self) -> Any:
        """A key that is equal for identical leaves."""
        elements = (self.elements.shape, self.elements.tobytes())
        return elements, self.model, condition_key(self.condition or {})


def check_nested(graph: "FactorGraph", nodes: RegionGraph) -> None:
    """Raises `GraphError` unless every nested node is a graph of its region's elements."""
    for name, inner in graph.nested.items():
        if not isinstance(inner, (RegionGraph, type(graph))):
            raise GraphError(
                f"FactorGraph: the inner graph of {name!r} is of type {type(inner).__name__}, "
                "expected a FactorGraph or a RegionGraph. Convert it, for example with "
                "FactorGraph.from_networkx."
            )
        size = nodes.elements(name).numel()
        if inner.n_elements != size:
            raise GraphError(
                f"FactorGraph: node {name!r} has {size} elements, its inner graph "
                f"{inner.n_elements}. Element j of the inner state is the j-th element of the "
                "node, flattened as its model sees it: make their numbers equal."
            )


def flatten(
    graph: "FactorGraph", keep: Collection[Hashable], *, to_compose: bool = True
) -> RegionGraph:
    """The region graph of a nested graph's leaves; see `FactorGraph.flatten`.

    Counts do not depend on conditions. Where only the counts are needed, not `to_compose`, an
    expanded node's own condition does not matter.
    """
    if isinstance(keep, str | bytes):
        raise GraphError(
            f"flatten: expected a collection of names to keep, got {keep!r}. Write {{{keep!r}}}."
        )
    unknown = set(keep) - _nested_names(graph, ()) if keep else set()
    if unknown:
        raise GraphError(
            f"flatten: {next(iter(unknown))!r} is to be kept whole, but is no nested node. "
            "Give its name, or the path of names that leads to it."
        )
    merged: dict[Any, list[Leaf]] = {}
    try:
        whole = np.arange(graph.n_elements)
        for leaf in _leaves(graph, whole, Fraction(1), True, (), set(keep)):
            if to_compose and leaf.count and leaf.lost is not None:
                raise GraphError(
                    f"flatten: the nested node {leaf.lost!r} has a condition, which no leaf would "
                    "get. Give conditions to the nodes of its inner graph, or keep it whole: "
                    f"keep={{{leaf.lost!r}}}."
                )
            merged.setdefault(leaf.key, []).append(leaf)
    except RecursionError:
        raise GraphError(
            "flatten: the graph is nested too deeply for Python's recursion limit. Raise it with "
            "sys.setrecursionlimit, or flatten inner graphs first."
        ) from None
    named = dict(zip(_names(list(merged.values())), merged.values(), strict=True))
    counts = {n: sum((leaf.count for leaf in ls), Fraction(0)) for n, ls in named.items()}
    denominator = lcm(*(count.denominator for count in counts.values()))
    outer = {name for name, leaves in named.items() if any(leaf.outer for leaf in leaves)}
    if graph.nested:  # a node may have lost what contained it: its factors are smaller now
        sets = {name: {*leaves[0].elements.flat} for name, leaves in named.items()}
        bare = [name for name, count in counts.items() if count and name not in outer]
        around = regions_around([sets[name] for name in bare], [sets[name] for name in outer])
        outer |= {name for name, found in zip(bare, around, strict=True) if not found}
    return RegionGraph.grouped(
        {name: leaves[0].elements for name, leaves in named.items()},
        {name: (int(count * denominator), name in outer) for name, count in counts.items()},
        (graph.n_elements,),
        models={name: ls[0].model for name, ls in named.items() if ls[0].model != name},
        conditions={n: ls[0].condition for n, ls in named.items() if ls[0].condition is not None},
        denominator=denominator,
        variables=graph.nodes.variables,
    )


def _leaves(
    graph: "FactorGraph | RegionGraph",
    elements: Ints,
    count: Fraction,
    outer: bool,
    path: Path,
    keep: Collection[Hashable],
    lost: Hashable | None = None,
) -> Iterator[Leaf]:
    """The leaves of a graph whose state is `elements` of the whole state."""
    nested: Mapping[Hashable, Any] = {} if isinstance(graph, RegionGraph) else graph.nested
    nodes = graph if isinstance(graph, RegionGraph) else graph.nodes
    for group in nodes.groups:
        places = group.indices(0, len(group)).numpy()
        for row, name in enumerate(group.names):
            here = (*path, name)
            region = elements[places[row]]
            total = count * Fraction(int(group.counts[row]), nodes.denominator)
            is_outer = outer and bool(group.outer[row])
            if name in nested and not (name in keep or here in keep):
                below = name if lost is None and nodes.conditions.get(name) else lost
                yield from _leaves(nested[name], region.ravel(), total, is_outer, here, keep, below)
            else:
                model = name if group.model is None else group.model
                condition = nodes.conditions.get(name)
                yield Leaf(here, region, total, is_outer, model, condition, lost)


def _names(merged: list[list[Leaf]]) -> list[Hashable]:
    """A leaf's own name where it means one leaf; otherwise its first path, if that is longer."""
    owners: dict[Hashable, set[int]] = {}
    for row, leaves in enumerate(merged):
        for leaf in leaves:
            owners.setdefault(leaf.path[-1], set()).add(row)
    paths = [min((leaf.path for leaf in leaves), key=len) for leaves in merged]
    names: list[Hashable] = [
        path[0] if len(path) == 1 else path if len(owners[path[-1]]) > 1 else path[-1]
        for path in paths
    ]
    taken = Counter(names)
    for row, path in enumerate(paths):  # a node may be named by a tuple that is another's path
        if len(path) > 1 and taken[names[row]] > 1:
            taken[names[row]] -= 1
            number = 0
            while (path, number) in taken:
                number += 1
            names[row] = (path, number)
            taken[names[row]] += 1
    return names


def _nested_names(graph: "FactorGraph | RegionGraph", path: Path) -> set[Hashable]:
    """Names and paths of all nested nodes, at any depth."""
    if isinstance(graph, RegionGraph):
        return set()
    found: set[Hashable] = set(graph.nested)
    for name, inner in graph.nested.items():
        found |= {(*path, name)} | _nested_names(inner, (*path, name))
    return found
