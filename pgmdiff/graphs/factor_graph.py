r"""Bipartite factor graphs and their Bethe counting numbers.

Variables are blocks of elements with an event shape; a factor has an ordered scope of variables.
The Bethe approximation counts

    c_f = 1 for a factor,   c_x = 1 - d_x for a variable of degree d_x,

so that every element is counted once in every graph (Yedidia, Freeman, Weiss, "Constructing
free-energy approximations and generalized belief propagation algorithms", 2005).
"""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import networkx as nx
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pgmdiff.errors import GraphError, nearest
from pgmdiff.graphs import conversion
from pgmdiff.graphs.groups import IndexGroup
from pgmdiff.graphs.names import check_mapping
from pgmdiff.graphs.nesting import check_nested, flatten
from pgmdiff.graphs.regions import Condition, RegionGraph
from pgmdiff.graphs.scopes import (
    by_arity,
    check_nodes,
    check_options,
    checked_arrays,
    checked_shape,
    declared,
    names_of,
)
from pgmdiff.graphs.variables import Variables, bounds, codes, frozen
from pgmdiff.linalg import Ints, Shape
from pgmdiff.text import counted, described

if TYPE_CHECKING:
    from pgmdiff.graphs.report import Report

__all__ = ["FactorGraph", "GraphLike", "graph_of"]

EMPTY: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class FactorGraph:
    """An immutable bipartite graph of variables and factors.

    Build one with `from_scopes`, `from_networkx` or `from_arrays`. The state `u` of the graph is
    the vector of all elements: variable after variable in declaration order, each flattened.

    Attributes:
        variables: names, in declaration order.
        factors: names, in declaration order; no name is both.
        shapes: event shape of each variable.
        axis: how a factor's model sees its scope: concatenated along this axis of the variables'
            event shapes, as by `torch.cat`, or, if None, flattened and concatenated.
        models: node name to model id, where it is neither the kind's nor the node's own name.
        conditions: node name to the keyword arguments that its model gets.
        factor_model: model id of every factor that `models` does not list; if None, its name.
        variable_model: the same for variables.
        nested: node name to the graph that its marginal is composed of; see `nest`.
    """

    variables: tuple[Hashable, ...]
    factors: tuple[Hashable, ...]
    shapes: tuple[Shape, ...]
    _bounds: Ints
    """int64 [factors + 1]: scope f is `_scope[_bounds[f] : _bounds[f + 1]]`."""
    _scope: Ints
    axis: int | None = None
    models: Mapping[Any, Hashable] = field(default_factory=dict)
    conditions: Mapping[Any, Condition] = field(default_factory=dict)
    factor_model: Hashable | None = None
    variable_model: Hashable | None = None
    nested: Mapping[Any, "FactorGraph | RegionGraph"] = field(default_factory=dict)
    _drawn: "nx.Graph | None" = None
    """The networkx graph that this was made from, with its attributes and order."""

    def __post_init__(self) -> None:
        frozen(self._bounds)
        frozen(self._scope)
        check_options(self)
        copied = {n: dict(c) if isinstance(c, Mapping) else c for n, c in self.conditions.items()}
        object.__setattr__(self, "conditions", MappingProxyType(copied))
        object.__setattr__(self, "models", MappingProxyType(dict(self.models)))
        object.__setattr__(self, "nested", MappingProxyType(dict(self.nested)))
        check_nodes(self)
        check_nested(self, self.nodes)  # also finds scopes that cannot be concatenated

    def __reduce__(self) -> tuple[Any, ...]:
        values = (getattr(self, name) for name in self.__dataclass_fields__)
        return FactorGraph, tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)

    @classmethod
    def from_scopes(
        cls,
        scopes: Mapping[Any, Sequence[Hashable]],
        shapes: Mapping[Any, Sequence[int]] | None = None,
        *,
        axis: int | None = None,
        models: Mapping[Any, Hashable] = EMPTY,
        conditions: Mapping[Any, Condition] = EMPTY,
        factor_model: Hashable | None = None,
        variable_model: Hashable | None = None,
    ) -> "FactorGraph":
        """A graph from a dict of scopes.

        Args:
            scopes: factor name to the ordered names of its variables.
            shapes: variable name to event shape, in declaration order; variables in no scope are
                isolated. If None, every variable is a scalar, declared where it first appears.
            axis, models, conditions, factor_model, variable_model: see the class.

        Raises:
            GraphError: a scope is empty, repeats a variable or lists one without a shape; a name
                is used twice; scopes cannot be concatenated along `axis`.

        Example:
            >>> from pgmdiff.graphs import FactorGraph
            >>> graph = FactorGraph.from_scopes({"f": ("a", "b"), "g": ("b", "c")})
            >>> graph.counting_numbers()
            {'f': 1, 'g': 1, 'a': 0, 'b': -1, 'c': 0}
        """
        state = declared(scopes, shapes)
        listed = [state.number[name] for scope in scopes.values() for name in scope]
        return cls(
            state.names,
            tuple(scopes),
            state.shapes,
            bounds(len(scope) for scope in scopes.values()),
            np.array(listed, np.int64),
            axis=axis,
            models=models,
            conditions=conditions,
            factor_model=factor_model,
            variable_model=variable_model,
        )

    @classmethod
    def from_arrays(
        cls,
        scopes: npt.ArrayLike | Sequence[npt.ArrayLike],
        n_variables: int | None = None,
        *,
        shape: Sequence[int] = (),
        variables: Iterable[Hashable] | None = None,
        factors: Iterable[Hashable] | None = None,
        axis: int | None = None,
        factor_model: Hashable | None = None,
        variable_model: Hashable | None = None,
    ) -> "FactorGraph":
        """A large graph from index arrays, vectorised.

        Args:
            scopes: integers `[n_factors, arity]`, the variables of every factor; or a sequence of
                such arrays, one per arity.
            n_variables: number of variables; if None, one more than the largest in `scopes`.
            shape: event shape of every variable.
            variables, factors: names; `x0, x1, ...` and `f0, f1, ...` if None.
            axis, factor_model, variable_model: see the class.

        Raises:
            GraphError: an array is not two-dimensional or not of integers, or a number is out of
                range; and whatever `from_scopes` raises.
        """
        arrays = checked_arrays(scopes)
        flat = np.concatenate([np.zeros(0, np.int64), *(a.ravel() for a in arrays)])
        n_variables = int(flat.max(initial=-1)) + 1 if n_variables is None else n_variables
        if flat.size and (flat.min() < 0 or flat.max() >= n_variables):
            raise GraphError(
                f"FactorGraph: expected variables 0 to {n_variables - 1}, got scopes with "
                f"{flat.min()} to {flat.max()}. Correct them, or n_variables=."
            )
        arities = np.repeat([a.shape[1] for a in arrays], [len(a) for a in arrays])
        names = names_of(variables, "x", n_variables, "variables")
        return cls(
            names,
            names_of(factors, "f", len(arities), "factors"),
            (checked_shape(names[0] if names else "x0", shape),) * n_variables,
            bounds(arities),
            flat,
            axis=axis,
            factor_model=factor_model,
            variable_model=variable_model,
        )

    @classmethod
    def from_networkx(cls, graph: "nx.Graph", *, axis: int | None = None) -> "FactorGraph":
        """A graph drawn with networkx.

        Nodes carry networkx's attribute `bipartite`: 0 for a variable, 1 for a factor; and, where
        they apply, `shape` (of a variable; without any, all are scalars, `()`), `model`,
        `condition`, and `graph` (the inner graph of a nested node, of any kind). A scope is ordered
        by the edges' attribute `position` or, where a factor's edges have none, as its variables
        are among the graph's nodes. (networkx's copies keep the order of nodes, but not that of
        edges; `position` survives everything.) Everything else on the graph is kept for
        `to_networkx`.

        Args:
            graph: undirected and bipartite; nodes are declared in its order.
            axis: see the class; if None, the graph attribute `axis`, if any.

        Raises:
            GraphError: the graph is directed, or has a node without `bipartite`, an edge within
                one side, a factor without edges, parallel edges, or a wrong kind of attribute; or
                some variables have a shape and others none.
        """
        return conversion.from_networkx(cls, graph, axis)

    def to_networkx(self) -> "nx.Graph":
        """The graph as networkx's; `from_networkx` gives it back, and its copies by `position`."""
        return conversion.to_networkx(self)

    @cached_property
    def _state(self) -> Variables:
        return Variables(self.variables, self.shapes)

    @cached_property
    def _factor_set(self) -> frozenset[Hashable]:
        return frozenset(self.factors)

    @cached_property
    def scopes(self) -> Mapping[Any, tuple[Hashable, ...]]:
        """Factor name to the ordered names of its variables."""
        names = [self.variables[v] for v in self._scope]
        ends = self._bounds.tolist()
        spans = zip(self.factors, ends, ends[1:], strict=False)
        return MappingProxyType({f: tuple(names[a:b]) for f, a, b in spans})

    @cached_property
    def degrees(self) -> Ints:
        """Number of factors on each variable, int64 `[variables]`."""
        return frozen(np.bincount(self._scope, minlength=len(self.variables)).astype(np.int64))

    @property
    def sizes(self) -> Ints:
        """Number of elements of each variable, int64 `[variables]`."""
        return self._state.sizes

    @property
    def offsets(self) -> Ints:
        """First element of each variable, and the total: int64 `[variables + 1]`."""
        return self._state.offsets

    @property
    def n_elements(self) -> int:
        """Number of elements of the state."""
        return self._state.n_elements

    def counting_numbers(self) -> dict[Hashable, int]:
        """Bethe counting numbers of all nodes by name, zeros included."""
        counts: dict[Hashable, int] = dict.fromkeys(self.factors, 1)
        return counts | dict(zip(self.variables, (1 - self.degrees).tolist(), strict=True))

    @property
    def pieces(self) -> list[Hashable]:
        """Names of factors and isolated variables, nested ones expanded: `RegionGraph.pieces`."""
        return self.regions.pieces

    @cached_property
    def regions(self) -> RegionGraph:
        """The regions that `compose` evaluates: `nodes`, with nested ones expanded by `flatten`."""
        return self.flatten() if self.nested else self.nodes

    @cached_property
    def nodes(self) -> RegionGraph:
        """The region graph with the Bethe counts: one region per node, nested or not."""
        parts: dict[tuple[Any, Shape], list[IndexGroup]] = {}
        for part in _node_groups(self):
            parts.setdefault((part.model, part.shape), []).append(part)
        return RegionGraph(
            (self.n_elements,),
            tuple(IndexGroup.concatenate(groups) for groups in parts.values()),
            conditions=dict(self.conditions),
            variables=self._state,
        )

    def nest(self, inner: "Mapping[Any, GraphLike]") -> "FactorGraph":
        """The same graph, with nodes that are themselves graphs, to any depth.

        Element j of an inner graph's state is the j-th element of the node's region, flattened as
        the node's model would see it. Composing evaluates the inner graph's regions in place of
        the node: its marginal is approximated by theirs, which is exact where the inner graph is.

        Args:
            inner: node name to graph, added to `nested`.

        Raises:
            GraphError: a name is no node, a value no graph, or its number of elements another.

        Example:
            >>> from pgmdiff.graphs import FactorGraph, chain
            >>> outer = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (2,), "b": ()})
            >>> outer.nest({"f": chain(3)}).flatten().counting_numbers()
            {'f0': 1, 'f1': 1, 'a': 0, 'x0': 0, 'x1': -1, 'x2': 0, 'b': 0}
        """
        check_mapping("nest", "inner graphs", inner, 'Name the nodes: {"f": graph}.')
        graphs = {name: graph_of(graph, "nest") for name, graph in inner.items()}
        return replace(self, nested={**self.nested, **graphs})

    def flatten(self, keep: Collection[Hashable] = ()) -> RegionGraph:
        """The region graph of the leaves: nested nodes are expanded, except for those to keep.

        A leaf's counting number is the product of the counts along its path, summed over paths to
        identical leaves (same elements in the same order, same model, same condition). A leaf is
        called by its own name where that means one leaf, and otherwise by its path of names. Its
        model id is what its own graph says, by default its own name: give `models` where inner
        graphs use one name for different models.

        Args:
            keep: nested nodes to keep whole, by name (at any depth) or path of names.

        Raises:
            GraphError: a name to keep is no nested node, or an expanded node has a condition.
        """
        return flatten(self, keep)

    def validate(self) -> "Report":
        """Checks the counting numbers and reports what composing on this graph promises."""
        from pgmdiff.graphs.report import report_factor_graph

        return report_factor_graph(self)

    def pack(self, values: Mapping[Any, Tensor]) -> Tensor:
        """The state from one tensor per variable: `[*batch, *shape]` each, to `[*batch, N]`.

        Raises:
            ShapeError: a variable is missing or unknown, or a shape or batch shape does not fit.
        """
        return self._state.pack(values)

    def unpack(self, u: Tensor) -> dict[Hashable, Tensor]:
        """One view `[*batch, *shape]` per variable, of a state `[*batch, N]`.

        Raises:
            ShapeError: the last axis is not the number of elements.
        """
        return self._state.unpack(u)

    def elements(self, name: Hashable) -> Tensor:
        """Elements of one node's region in the state, in its model's shape.

        Raises:
            GraphError: no node has this name.
        """
        if name not in self._state.number and name not in self._factor_set:
            hint = nearest(name, (*self.variables, *self.factors))
            raise GraphError(f"FactorGraph: no node is named {name!r}.{hint} See `.nodes`.")
        return self.nodes.elements(name)

    def observe(
        self, values: Mapping[Any, Tensor | float], *, batch: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """An observation of some variables: y and the mask H of y = H u.

        `conditioning.Mask(mask)` and the methods of conditioning accept them:
        `moment_matching(joint, y, Mask(mask), Composed(joint))`.

        Args:
            values: variable name to its value, of the variable's shape or a number.
            batch: how many samples have values of their own, `[batch, *shape]`; None if all have
                the same.

        Returns:
            y, `[N]` or `[batch, N]`, 0 where nothing is observed, in the default dtype or that of a
            wider array given, and the mask, bool `[N]`.

        Raises:
            GraphError: a name is no variable.
            ShapeError: a value is not real and finite, or not of the variable's shape.

        Example:
            >>> from pgmdiff.graphs import chain
            >>> chain(4).observe({"x1": 1.5})
            (tensor([0.0000, 1.5000, 0.0000, 0.0000]), tensor([False,  True, False, False]))
        """
        return self._state.observe(values, batch, self._factor_set)

    def mask(self, names: Collection[Hashable] | Mapping[Any, Tensor | bool]) -> Tensor:
        """The elements of the state that belong to named variables, as a mask: bool `[N]`.

        Args:
            names: names of variables; or a mapping from name to a boolean, or to a boolean tensor
                of the variable's shape, for parts of a variable.

        Raises:
            GraphError: a name is no variable.
            ShapeError: a part is not boolean or not of the variable's shape.
        """
        return self._state.mask(names, self._factor_set)

    def __repr__(self) -> str:
        return described(
            self,
            counted(len(self.variables), "variable"),
            counted(len(self.factors), "factor"),
            counted(len(self._scope), "edge"),
            counted(self.n_elements, "element"),
            counted(len(self.nested), "nested node") if self.nested else "",
        )


GraphLike: TypeAlias = FactorGraph | RegionGraph | nx.Graph
"""What functions accept as a graph: one of networkx is converted by `FactorGraph.from_networkx`."""


def graph_of(graph: GraphLike, who: str) -> FactorGraph | RegionGraph:
    """The graph given to a function, or the factor graph that networkx's bipartite one describes.

    Raises:
        GraphError: it is no graph, or one of networkx that describes no factor graph.
    """
    if isinstance(graph, nx.Graph):
        return FactorGraph.from_networkx(graph)
    if not isinstance(graph, FactorGraph | RegionGraph):
        raise GraphError(
            f"{who}: expected a FactorGraph, a RegionGraph or a bipartite networkx.Graph, got "
            f"{type(graph).__name__}. Build one with pgmdiff.graphs; of a joint, give joint.graph."
        )
    return graph


def _node_groups(graph: FactorGraph) -> Iterator[IndexGroup]:
    """The regions of factors, then those of variables, in groups of one model and shape."""
    shape_ids, shapes = codes(graph.shapes)

    def blocks(rows: Ints) -> Ints:
        """Elements of variables of one shape, int64 `[n, *shape]`."""
        shape = shapes[shape_ids[rows[0]]]
        first: Ints = graph.offsets[rows].reshape(-1, *[1] * len(shape))
        found: Ints = first + np.arange(prod(shape)).reshape(shape)
        return found

    model_ids, models = _model_codes(graph, graph.factors, graph.factor_model)
    for numbers, scopes in by_arity(graph):
        for rows in _alike(np.concatenate([model_ids[numbers, None], shape_ids[scopes]], axis=1)):
            names = _pick(graph.factors, numbers[rows])
            together = _concatenated(names[0], [blocks(v) for v in scopes[rows].T], graph.axis)
            yield IndexGroup(
                torch.from_numpy(together),
                np.ones(len(rows), np.int64),
                names,
                np.ones(len(rows), np.bool_),
                models[model_ids[numbers[rows[0]]]],
            )
    model_ids, models = _model_codes(graph, graph.variables, graph.variable_model)
    for rows in _alike(np.stack([model_ids, shape_ids], axis=1)):
        yield IndexGroup(
            torch.from_numpy(blocks(rows)),
            1 - graph.degrees[rows],
            _pick(graph.variables, rows),
            graph.degrees[rows] == 0,
            models[model_ids[rows[0]]],
        )


def _model_codes(
    graph: FactorGraph, names: tuple[Hashable, ...], default: Hashable | None
) -> tuple[Ints, list[Hashable]]:
    if not graph.models:
        return np.zeros(len(names), np.int64), [default]
    return codes([graph.models.get(name, default) for name in names])


def _concatenated(factor: Hashable, blocks: list[Ints], axis: int | None) -> Ints:
    """Elements of factors' scopes as their models see them, from those of their variables."""
    if axis is None:
        return np.concatenate([b.reshape(len(b), prod(b.shape[1:])) for b in blocks], axis=1)
    shapes = [block.shape[1:] for block in blocks]
    ndim = len(shapes[0])
    place = axis + ndim if axis < 0 else axis
    others = {shape[:place] + shape[place + 1 :] for shape in shapes}
    if not 0 <= place < ndim or {len(shape) for shape in shapes} != {ndim} or len(others) > 1:
        raise GraphError(
            f"FactorGraph: factor {factor!r} joins variables of shapes {shapes}, which cannot "
            f"be concatenated along axis {axis}. Make their other axes equal, or use "
            "axis=None to flatten them."
        )
    return np.concatenate(blocks, axis=place + 1)


def _alike(keys: Ints) -> list[Ints]:
    """Row numbers of equal rows of a matrix, set by set, in order of first appearance."""
    if len(keys) == 0:
        return []
    if (keys == keys[0]).all():
        return [np.arange(len(keys))]
    numbers, _ = codes(list(map(tuple, keys.tolist())))
    return np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])


def _pick(names: tuple[Hashable, ...], rows: Ints) -> tuple[Hashable, ...]:
    return names if len(rows) == len(names) else tuple(names[row] for row in rows)
