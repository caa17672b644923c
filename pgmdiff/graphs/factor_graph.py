r"""Bipartite factor graphs, their Bethe counting numbers, and networkx.

Variables are blocks of elements with an event shape; a factor has an ordered scope of variables.
The Bethe approximation counts

    c_f = 1 for a factor,   c_x = 1 - d_x for a variable of degree d_x,

so every element is counted once whatever the graph (Yedidia, Freeman, Weiss, "Constructing
free-energy approximations and generalized belief propagation algorithms", 2005).
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from itertools import chain
from math import prod
from operator import index
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pgmdiff.errors import GraphError, ShapeError, nearest, shape_text
from pgmdiff.graphs.groups import IndexGroup
from pgmdiff.graphs.nesting import check_nested, flatten
from pgmdiff.graphs.regions import Condition, RegionGraph
from pgmdiff.linalg import Ints, Shape
from pgmdiff.text import counted

if TYPE_CHECKING:
    from pgmdiff.graphs.report import Report

__all__ = ["FactorGraph"]

VARIABLE, FACTOR = 0, 1
"""Values of networkx's node attribute `bipartite`."""

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
        axis: how a factor's model sees its scope: None, flattened and concatenated in scope
            order; an integer, `torch.cat` of the variables' event shapes on that axis.
        models: node name to model id, where it is neither the kind's model nor the node's name.
        conditions: node name to the keyword arguments its model gets.
        factor_model: model id of every factor that `models` does not list; None: its name.
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
    """The networkx graph this came from, with its attributes and order."""

    def __post_init__(self) -> None:
        self._check_names()
        self._check_scopes()
        for array in (self._bounds, self._scope):
            _frozen(array)
        object.__setattr__(self, "models", MappingProxyType(dict(self.models)))
        object.__setattr__(self, "nested", MappingProxyType(dict(self.nested)))
        copied = {n: dict(c) if isinstance(c, Mapping) else c for n, c in self.conditions.items()}
        object.__setattr__(self, "conditions", MappingProxyType(copied))
        for what, names in (("model", self.models), ("condition", self.conditions)):
            for name in names:
                if name not in self._variable_number and name not in self._factor_set:
                    raise GraphError(
                        f"FactorGraph: a {what} is given for {name!r}, which is no node. "
                        "Use the name of a variable or a factor."
                    )
        check_nested(self, self.nodes)  # the errors of both belong to construction

    def __reduce__(self) -> tuple[Any, ...]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = (dict(v) if isinstance(v, MappingProxyType) else v for v in values.values())
        return FactorGraph, tuple(plain)

    def _check_names(self) -> None:
        if all(isinstance(names, Numbered) for names in (self.variables, self.factors)):
            return  # unique, and apart: x0, x1, … and f0, f1, …
        for kind, names in (("variable", self.variables), ("factor", self.factors)):
            if len(set(names)) != len(names):
                twice = Counter(names).most_common(1)[0][0]
                raise GraphError(f"FactorGraph: {kind} {twice!r} is listed twice. Rename one.")
        both = self._factor_set & self._variable_number.keys()
        if both:
            raise GraphError(
                f"FactorGraph: {next(iter(both))!r} names both a variable and a factor. "
                "Rename one: counting numbers are reported by name."
            )

    def _check_scopes(self) -> None:
        empty = np.flatnonzero(np.diff(self._bounds) == 0)
        if len(empty):
            raise GraphError(
                f"FactorGraph: factor {self.factors[empty[0]]!r} has an empty scope. "
                "Give it variables or remove it."
            )
        for rows, scopes in self._by_arity():
            ordered = np.sort(scopes, axis=1)
            again = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
            if len(again):
                factor, scope = self.factors[rows[again[0]]], scopes[again[0]].tolist()
                name = next(self.variables[v] for v in scope if scope.count(v) > 1)
                raise GraphError(
                    f"FactorGraph: factor {factor!r} lists variable {name!r} twice. "
                    "List each variable once."
                )

    # ---------------------------------------------------------------- construction

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
                isolated. None: every variable is a scalar, declared as it first appears.
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
        if not isinstance(scopes, Mapping):
            raise GraphError(
                f"FactorGraph: expected scopes as a dict, got {type(scopes).__name__}. Name the "
                'factors: {"f": ("a", "b")}.'
            )
        for factor, scope in scopes.items():
            if isinstance(scope, str | bytes):
                raise GraphError(
                    f"FactorGraph: the scope of factor {factor!r} is the string {scope!r}, "
                    f"expected a sequence of names. Write {(scope,)!r} or {tuple(scope)!r}."
                )
            if not isinstance(scope, Sequence):
                raise GraphError(
                    f"FactorGraph: the scope of factor {factor!r} is a {type(scope).__name__}, "
                    "expected a sequence: scopes are ordered. Use a tuple."
                )
        if shapes is None:
            listed = chain.from_iterable(scopes.values())
            shapes = dict.fromkeys((name for name in listed if isinstance(name, Hashable)), ())
        number = {name: v for v, name in enumerate(shapes)}
        for factor, scope in scopes.items():
            for name in scope:
                if not isinstance(name, Hashable):
                    raise GraphError(
                        f"FactorGraph: factor {factor!r} lists {name!r}, which cannot be a name: "
                        "names must be hashable. Use a string, a number or a tuple."
                    )
                if name not in number:
                    raise GraphError(
                        f"FactorGraph: factor {factor!r} lists variable {name!r}, which has no "
                        f"shape. Add {name!r} to shapes= or remove it from the scope."
                    )
        return cls(
            tuple(number),
            tuple(scopes),
            tuple(_shape(name, shape) for name, shape in shapes.items()),
            _bounds(len(scope) for scope in scopes.values()),
            np.array([number[name] for scope in scopes.values() for name in scope], np.int64),
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
                such arrays, one an arity.
            n_variables: None: one more than the largest number in `scopes`.
            shape: event shape of every variable.
            variables, factors: names; None: `x0, x1, ...` and `f0, f1, ...`.
            axis, factor_model, variable_model: see the class.

        Raises:
            GraphError: an array is not two-dimensional or not of integers, or a number is out of
                range; and what `from_scopes` raises.
        """
        parts: list[Any] = list(scopes) if isinstance(scopes, list | tuple) else [scopes]
        if parts and all(_is_row(part) for part in parts):
            parts = [parts]
        arrays = [_scope_array(part) for part in parts]
        flat = np.concatenate([a.ravel() for a in arrays] or [np.zeros(0, np.int64)])
        n_variables = int(flat.max(initial=-1)) + 1 if n_variables is None else n_variables
        if flat.size and (flat.min() < 0 or flat.max() >= n_variables):
            raise GraphError(
                f"FactorGraph: expected variables 0 to {n_variables - 1}, got scopes with "
                f"{flat.min()} to {flat.max()}. Correct them, or n_variables=."
            )
        arities = np.repeat([a.shape[1] for a in arrays], [len(a) for a in arrays])
        graph_variables = _names(variables, "x", n_variables, "variables")
        return cls(
            graph_variables,
            _names(factors, "f", len(arities), "factors"),
            (_shape("of every variable", shape),) * n_variables,
            _bounds(arities),
            flat,
            axis=axis,
            factor_model=factor_model,
            variable_model=variable_model,
        )

    @classmethod
    def from_networkx(cls, graph: "nx.Graph", *, axis: int | None = None) -> "FactorGraph":
        """A graph drawn with networkx.

        Nodes carry networkx's attribute `bipartite`: 0 for a variable, 1 for a factor; and, where
        they apply, `shape` (of a variable, default `()`), `model`, `condition`, and `graph`: the
        inner graph of a nested node, as networkx's, a FactorGraph or a RegionGraph. A scope is
        ordered by the edges' attribute `position`, or, where a factor's edges have none, as its
        edges were added. Everything else on the graph is kept for `to_networkx`.

        Args:
            graph: undirected, bipartite; nodes are declared in its order.
            axis: see the class; None: the graph attribute `axis`, if any.

        Raises:
            GraphError: directed, a node without `bipartite`, an edge within one side, a factor
                without edges, parallel edges.
        """
        if not isinstance(graph, nx.Graph):
            raise GraphError(
                f"FactorGraph: expected a networkx.Graph, got {type(graph).__name__}. "
                "For a dict of scopes use from_scopes."
            )
        if graph.is_directed() or graph.is_multigraph():
            raise GraphError(
                f"FactorGraph: expected an undirected networkx.Graph, got {type(graph).__name__}. "
                "Convert it with networkx.Graph(graph)."
            )
        sides = {node: data.get("bipartite") for node, data in graph.nodes(data=True)}
        for node, side in sides.items():
            if side not in (VARIABLE, FACTOR):
                raise GraphError(
                    f"FactorGraph: node {node!r} has bipartite={side!r}, expected 0 (a variable) "
                    f"or 1 (a factor). Set graph.nodes[{node!r}]['bipartite']."
                )
        for a, b in graph.edges:
            if sides[a] == sides[b]:
                kind = "variables" if sides[a] == VARIABLE else "factors"
                raise GraphError(
                    f"FactorGraph: edge ({a!r}, {b!r}) joins two {kind}, expected a variable and "
                    "a factor. Put a factor node between two variables."
                )
        attributes = {
            key: {n: data[key] for n, data in graph.nodes(data=True) if data.get(key) is not None}
            for key in ("model", "condition", "graph")
        }
        nested = {
            n: cls.from_networkx(g) if isinstance(g, nx.Graph) else g
            for n, g in attributes["graph"].items()
        }
        built = cls.from_scopes(
            {f: _ordered_scope(graph, f) for f in graph if sides[f] == FACTOR},
            {x: graph.nodes[x].get("shape", ()) for x in graph if sides[x] == VARIABLE},
            axis=graph.graph.get("axis") if axis is None else axis,
            models=attributes["model"],
            conditions=attributes["condition"],
        )
        return replace(built, nested=nested, _drawn=graph.copy())

    def to_networkx(self) -> "nx.Graph":
        """The graph as networkx's; `from_networkx` of it gives the same graph back."""
        graph = nx.Graph() if self._drawn is None else self._drawn.copy()
        if self.axis is not None:
            graph.graph["axis"] = self.axis
        for name, shape in zip(self.variables, self.shapes, strict=True):
            graph.add_node(name, bipartite=VARIABLE, shape=shape)
        for name in self.factors:
            graph.add_node(name, bipartite=FACTOR)
        for kind, names in (
            (self.variable_model, self.variables),
            (self.factor_model, self.factors),
        ):
            for name in names:
                model = self.models.get(name, kind)
                if model is not None:
                    graph.nodes[name]["model"] = model
        for name, condition in self.conditions.items():
            graph.nodes[name]["condition"] = condition
        for name, inner in self.nested.items():
            graph.nodes[name]["graph"] = (
                inner.to_networkx() if isinstance(inner, FactorGraph) else inner
            )
        for factor, scope in self.scopes.items():
            for position, name in enumerate(scope):
                graph.add_edge(factor, name, position=position)
        return graph

    # ---------------------------------------------------------------- structure

    @cached_property
    def _variable_number(self) -> dict[Hashable, int]:
        return {name: v for v, name in enumerate(self.variables)}

    @cached_property
    def _factor_set(self) -> frozenset[Hashable]:
        return frozenset(self.factors)

    @cached_property
    def scopes(self) -> Mapping[Any, tuple[Hashable, ...]]:
        """Factor name to the ordered names of its variables."""
        names = [self.variables[v] for v in self._scope]
        bounds = self._bounds.tolist()
        spans = zip(self.factors, bounds, bounds[1:], strict=False)
        return MappingProxyType({f: tuple(names[a:b]) for f, a, b in spans})

    @cached_property
    def degrees(self) -> Ints:
        """Number of factors on each variable, int64 `[variables]`."""
        return _frozen(np.bincount(self._scope, minlength=len(self.variables)).astype(np.int64))

    @cached_property
    def sizes(self) -> Ints:
        """Number of elements of each variable, int64 `[variables]`."""
        codes, shapes = _codes(self.shapes)
        return _frozen(np.array([prod(shape) for shape in shapes], np.int64)[codes])

    @cached_property
    def offsets(self) -> Ints:
        """First element of each variable, and the total: int64 `[variables + 1]`."""
        return _frozen(_bounds(self.sizes))

    @property
    def n_elements(self) -> int:
        """Number of elements of the state."""
        return int(self.offsets[-1])

    def counting_numbers(self) -> dict[Hashable, int]:
        """Bethe counting numbers of all nodes by name, zeros included."""
        counts: dict[Hashable, int] = dict.fromkeys(self.factors, 1)
        return counts | dict(zip(self.variables, (1 - self.degrees).tolist(), strict=True))

    def _by_arity(self) -> Iterator[tuple[Ints, Ints]]:
        """Factors with equally many variables: their numbers, and their scopes as a matrix."""
        arities = np.diff(self._bounds)
        if len(arities) and (arities == arities[0]).all() and arities[0]:
            yield np.arange(len(arities)), self._scope.reshape(len(arities), -1)
            return
        for arity in np.unique(arities[arities > 0]):
            rows = np.flatnonzero(arities == arity)
            yield rows, self._scope[self._bounds[rows, None] + np.arange(arity)]

    # ---------------------------------------------------------------- regions

    @cached_property
    def regions(self) -> RegionGraph:
        """What `compose` evaluates: the `nodes`, with nested ones expanded by `flatten`."""
        return self.flatten() if self.nested else self.nodes

    def nest(self, inner: "Mapping[Any, FactorGraph | RegionGraph]") -> "FactorGraph":
        """The same graph, with nodes that are themselves graphs, to any depth.

        Element j of an inner graph's state is the j-th element of the node's region, flattened as
        the node's model would see it. Composing evaluates the inner graph's regions in place of
        the node: its marginal is approximated by theirs, which is exact where the inner graph is.

        Args:
            inner: node name to graph, added to `nested`.

        Raises:
            GraphError: no such node, no graph, or another number of elements.

        Example:
            >>> from pgmdiff.graphs import FactorGraph, chain
            >>> outer = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (2,), "b": ()})
            >>> outer.nest({"f": chain(3)}).flatten().counting_numbers()
            {'f0': 1, 'f1': 1, 'a': 0, 'x0': 0, 'x1': -1, 'x2': 0, 'b': 0}
        """
        return replace(self, nested={**self.nested, **inner})

    def flatten(self, keep: Collection[Hashable] = ()) -> RegionGraph:
        """The region graph of the leaves: nested nodes expanded, unless they are to be kept.

        A leaf's counting number is the product of the counts along its path, summed over paths to
        identical leaves (same elements in the same order, same model, same condition). A leaf is
        called by its own name where that means one leaf, else by its path of names; its model id
        is what its own graph says (its own name, by default: give `models` where two inner graphs
        use one name for different models). An expanded node's own model is not used, a kept
        node's inner graph is not.

        Args:
            keep: nested nodes to keep whole, by name (at any depth) or path of names.

        Raises:
            GraphError: what is to be kept is no nested node; a node to be expanded has a condition,
                which no leaf would get.
        """
        return flatten(self, keep)

    @cached_property
    def nodes(self) -> RegionGraph:
        """The region graph with the Bethe counts: one region a node, nested or not."""
        parts: dict[tuple[Any, Shape], list[IndexGroup]] = {}
        for part in chain(self._factor_groups(), self._variable_groups()):
            parts.setdefault((part.model, part.shape), []).append(part)
        return RegionGraph(
            (self.n_elements,),
            tuple(IndexGroup.concatenate(groups) for groups in parts.values()),
            conditions=dict(self.conditions),
        )

    def _variable_groups(self) -> Iterator[IndexGroup]:
        shape_ids, shapes = _codes(self.shapes)
        model_ids, models = self._model_codes(self.variables, self.variable_model)
        for rows in _alike(np.stack([model_ids, shape_ids], axis=1)):
            shape = shapes[shape_ids[rows[0]]]
            yield IndexGroup(
                torch.from_numpy(self._blocks(rows, shape)),
                1 - self.degrees[rows],
                _pick(self.variables, rows),
                self.degrees[rows] == 0,
                models[model_ids[rows[0]]],
            )

    def _factor_groups(self) -> Iterator[IndexGroup]:
        shape_ids, shapes = _codes(self.shapes)
        model_ids, models = self._model_codes(self.factors, self.factor_model)
        for numbers, scopes in self._by_arity():
            alike = _alike(np.concatenate([model_ids[numbers, None], shape_ids[scopes]], axis=1))
            for rows in alike:
                pieces = [
                    self._blocks(column, shapes[shape_ids[column[0]]]) for column in scopes[rows].T
                ]
                names = _pick(self.factors, numbers[rows])
                yield IndexGroup(
                    torch.from_numpy(self._concatenate(names[0], pieces)),
                    np.ones(len(rows), np.int64),
                    names,
                    np.ones(len(rows), np.bool_),
                    models[model_ids[numbers[rows[0]]]],
                )

    def _blocks(self, rows: Ints, shape: Shape) -> Ints:
        """Elements of variables of one shape: int64 `[n, *shape]`."""
        first = self.offsets[rows].reshape(-1, *[1] * len(shape))
        return first + np.arange(prod(shape)).reshape(shape)

    def _concatenate(self, factor: Hashable, pieces: list[Ints]) -> Ints:
        if self.axis is None:
            return np.concatenate([p.reshape(len(p), prod(p.shape[1:])) for p in pieces], axis=1)
        shapes = [piece.shape[1:] for piece in pieces]
        ndim = len(shapes[0])
        axis = self.axis + ndim if self.axis < 0 else self.axis
        others = {shape[:axis] + shape[axis + 1 :] for shape in shapes}
        if not 0 <= axis < ndim or {len(shape) for shape in shapes} != {ndim} or len(others) > 1:
            raise GraphError(
                f"FactorGraph: factor {factor!r} joins variables of shapes {shapes}, which cannot "
                f"be concatenated along axis {self.axis}. Make their other axes equal, or use "
                "axis=None to flatten them."
            )
        return np.concatenate(pieces, axis=axis + 1)

    def _model_codes(
        self, names: tuple[Hashable, ...], default: Hashable | None
    ) -> tuple[Ints, list[Hashable]]:
        if not self.models:
            return np.zeros(len(names), np.int64), [default]
        return _codes([self.models.get(name, default) for name in names])

    def validate(self) -> "Report":
        """Checks the counting numbers and says what composing on this graph promises."""
        from pgmdiff.graphs.report import report_factor_graph

        return report_factor_graph(self)

    # ---------------------------------------------------------------- state

    def pack(self, values: Mapping[Any, Tensor]) -> Tensor:
        """The state from a tensor per variable: `[*batch, *shape]` each, to `[*batch, N]`.

        Raises:
            ShapeError: a variable is missing or unknown, a shape does not end in the variable's,
                or batch shapes differ.
        """
        for name in self._variable_number.keys() ^ values.keys():
            raise ShapeError(
                f"FactorGraph.pack: {name!r} is {'missing' if name not in values else 'unknown'}. "
                "Give one tensor for every variable of the graph."
            )
        flat, batches = [], set()
        for name, shape in zip(self.variables, self.shapes, strict=True):
            value = values[name]
            if not isinstance(value, Tensor):
                raise ShapeError(
                    f"FactorGraph.pack: variable {name!r} is of type {type(value).__name__}, "
                    "expected a tensor. Convert it with torch.as_tensor."
                )
            n_batch = value.ndim - len(shape)
            if n_batch < 0 or tuple(value.shape[n_batch:]) != shape:
                raise ShapeError(
                    f"FactorGraph.pack: variable {name!r} has shape {shape}, got a tensor of "
                    f"{tuple(value.shape)}. Expected {shape_text('*batch', shape)}."
                )
            batches.add(tuple(value.shape[:n_batch]))
            flat.append(value.reshape(*value.shape[:n_batch], prod(shape)))
        if len(batches) > 1:
            raise ShapeError(
                f"FactorGraph.pack: variables have different batch shapes {sorted(batches)}. "
                "Expand them to one."
            )
        return torch.cat(flat, dim=-1) if flat else torch.zeros(0)

    def unpack(self, u: Tensor) -> dict[Hashable, Tensor]:
        """One view `[*batch, *shape]` per variable, of a state `[*batch, N]`.

        Raises:
            ShapeError: the last axis is not the number of elements.
        """
        if not isinstance(u, Tensor):
            raise ShapeError(
                f"FactorGraph.unpack: expected a tensor [*batch, {self.n_elements}], got a "
                f"{type(u).__name__}. Convert it with torch.as_tensor."
            )
        if u.ndim == 0 or u.shape[-1] != self.n_elements:
            raise ShapeError(
                f"FactorGraph.unpack: expected [*batch, {self.n_elements}], got {tuple(u.shape)}."
            )
        parts = u.split(self.sizes.tolist(), dim=-1)
        named = zip(self.variables, self.shapes, parts, strict=True)
        return {name: part.reshape((*u.shape[:-1], *shape)) for name, shape, part in named}

    def elements(self, name: Hashable) -> Tensor:
        """Elements of one node's region in the state, in its model's shape.

        Raises:
            GraphError: no node has this name.
        """
        if name not in self._variable_number and name not in self._factor_set:
            raise GraphError(f"FactorGraph: no node is named {name!r}. See `.nodes`.")
        return self.nodes.elements(name)

    def observe(self, values: Mapping[Any, Tensor | float]) -> tuple[Tensor, Tensor]:
        """What is known of some variables: the observation y and the mask H of y = H u.

        They are what `conditioning.Mask(mask)` and the methods of conditioning take:
        `moment_matching(joint, y, Mask(mask), Composed(joint))`.

        Args:
            values: variable name to its value, of the variable's shape or a number.

        Returns:
            y `[N]`, 0 where nothing is known, in the dtype of the arrays given and at least the
            default one, and mask, bool `[N]`.

        Raises:
            GraphError: a name is no variable.
            ShapeError: a value is not real, or not of the variable's shape.

        Example:
            >>> from pgmdiff.graphs import chain
            >>> chain(4).observe({"x1": 1.5})
            (tensor([0.0000, 1.5000, 0.0000, 0.0000]), tensor([False,  True, False, False]))
        """
        if not isinstance(values, Mapping):
            raise GraphError(
                "FactorGraph.observe: expected a mapping from name to value, got "
                f"{type(values).__name__}. Write {{'x': 1.5}}."
            )
        for name in values:
            self._check_variable("observe", name)
        mask = self.mask(list(values))
        known = {name: self._known(name, value) for name, value in values.items()}
        arrays = [value.dtype for value in known.values() if value.ndim]
        dtype = reduce(torch.promote_types, arrays, torch.get_default_dtype())
        y = torch.zeros(self.n_elements, dtype=dtype)
        for name, value in known.items():
            v = self._variable_number[name]
            start, stop = self.offsets[v : v + 2].tolist()
            y[start:stop] = value.expand(self.shapes[v]).reshape(-1).to(y)
        return y, mask

    def _check_variable(self, who: str, name: Hashable) -> None:
        """Raises `GraphError`, with the nearest name there is, unless it is a variable's."""
        if name in self._variable_number:
            return
        what = "a factor, not a variable" if name in self._factor_set else "no variable"
        raise GraphError(
            f"FactorGraph.{who}: {name!r} is {what}.{nearest(name, self.variables)} "
            "See `.variables`."
        )

    def _known(self, name: Hashable, value: Any) -> Tensor:
        """A value of a variable as a real tensor of its shape, or a number."""
        shape = self.shapes[self._variable_number[name]]
        try:
            found = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            found = torch.zeros(0, dtype=torch.complex64)
        if found.is_complex() or tuple(found.shape) not in ((), shape):
            got = tuple(found.shape) if isinstance(value, Tensor) else repr(value)[:60]
            raise ShapeError(
                f"FactorGraph.observe: variable {name!r} has shape {shape}, got a value of {got}. "
                "Give real numbers of its shape, or one."
            )
        return found

    def mask(self, names: Collection[Hashable] | Mapping[Any, Tensor | bool]) -> Tensor:
        """Which elements of the state belong to named variables: bool `[N]`.

        Args:
            names: of variables; or a mapping from name to a boolean, or to a boolean tensor of
                the variable's shape, for parts of a variable.

        Raises:
            GraphError: a name is no variable.
            ShapeError: a part is not boolean or not of the variable's shape.
        """
        if isinstance(names, str | bytes):
            raise GraphError(
                f"FactorGraph.mask: expected a collection of names, got {names!r}. Write "
                f"{[names]!r}."
            )
        whole = torch.zeros(self.n_elements, dtype=torch.bool)
        for name in names:
            self._check_variable("mask", name)
            v = self._variable_number[name]
            part = torch.as_tensor(names[name] if isinstance(names, Mapping) else True)
            if part.dtype != torch.bool or tuple(part.shape) not in ((), self.shapes[v]):
                raise ShapeError(
                    f"FactorGraph.mask: expected a boolean, or a boolean tensor of "
                    f"{self.shapes[v]}, for variable {name!r}; got {part.dtype} of "
                    f"{tuple(part.shape)}."
                )
            start, stop = self.offsets[v : v + 2].tolist()
            whole[start:stop] = part.expand(self.shapes[v]).reshape(-1)
        return whole

    def __repr__(self) -> str:
        return (
            f"FactorGraph({counted(len(self.variables), 'variable')}, "
            f"{counted(len(self.factors), 'factor')}, {counted(len(self._scope), 'edge')}, "
            f"{counted(self.n_elements, 'element')}"
            + (f", {counted(len(self.nested), 'nested node')})" if self.nested else ")")
        )


def _shape(name: Hashable, shape: Sequence[int]) -> Shape:
    try:
        sides = tuple(index(side) for side in shape)
    except TypeError:
        raise GraphError(
            f"FactorGraph: the shape of variable {name!r} must be a tuple of integers, got "
            f"{shape!r}. Write ({shape!r},) for a vector."
        ) from None
    if any(side < 1 for side in sides):
        raise GraphError(
            f"FactorGraph: variable {name!r} has shape {sides}; every side must be at least 1. "
            "Remove a variable without elements."
        )
    return sides


def _frozen(array: Ints) -> Ints:
    array.setflags(write=False)
    return array


def _bounds(sizes: Iterable[int]) -> Ints:
    counted = sizes if isinstance(sizes, np.ndarray) else np.fromiter(sizes, np.int64)
    return np.concatenate([[0], np.cumsum(counted)]).astype(np.int64)


def _is_row(part: Any) -> bool:
    """Whether this is one scope of numbers rather than an array of scopes."""
    return len(part) > 0 and not hasattr(part[0], "__len__") and not np.ndim(part[0])


def _scope_array(scopes: npt.ArrayLike) -> Ints:
    try:
        array = np.asarray(scopes)
    except ValueError:
        raise GraphError(
            "FactorGraph: the rows of a scope array have different lengths. "
            "Give one array per arity."
        ) from None
    if array.ndim != 2 or (array.size and array.dtype.kind not in "iu"):
        raise GraphError(
            f"FactorGraph: expected integer scopes [n_factors, arity], got {array.dtype} of shape "
            f"{array.shape}. Give one array per arity."
        )
    return array.astype(np.int64)


def _names(
    names: Iterable[Hashable] | None, letter: str, n: int, what: str
) -> tuple[Hashable, ...]:
    if names is None:
        return Numbered([f"{letter}{i}" for i in range(n)])
    given = tuple(names)
    if len(given) != n:
        raise GraphError(f"FactorGraph: expected {n} names in {what}=, got {len(given)}.")
    return given


def _ordered_scope(graph: "nx.Graph", factor: Hashable) -> tuple[Hashable, ...]:
    positions = {name: data.get("position") for name, data in graph.adj[factor].items()}
    given = [p for p in positions.values() if p is not None]
    if not given:
        return tuple(positions)
    if len(given) < len(positions) or len(set(given)) < len(given):
        raise GraphError(
            f"FactorGraph: the edges of factor {factor!r} have positions "
            f"{list(positions.values())}, expected a different one on each, or none. "
            "Set the edge attribute 'position'."
        )
    return tuple(sorted(positions, key=positions.__getitem__))


class Numbered(tuple[Hashable, ...]):
    """Names made of a letter and a number: known to be unique without looking."""

    __slots__ = ()


def _codes(values: Sequence[Hashable]) -> tuple[Ints, list[Any]]:
    """Numbers equal values alike, in the order of first appearance."""
    if values and values.count(values[0]) == len(values):  # as a million alike often are
        return np.zeros(len(values), np.int64), [values[0]]
    code: dict[Hashable, int] = {}
    codes = [code.setdefault(value, len(code)) for value in values]
    return np.array(codes, np.int64), list(code)


def _alike(keys: Ints) -> Iterator[Ints]:
    """Row numbers of equal rows of a matrix, group by group, by first appearance."""
    if len(keys) == 0:
        return
    if (keys == keys[0]).all():
        yield np.arange(len(keys))
        return
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    pieces = np.split(order, np.cumsum(np.bincount(inverse.ravel()))[:-1])
    for group in np.argsort(first):
        yield pieces[group]


def _pick(names: tuple[Hashable, ...], rows: Ints) -> tuple[Hashable, ...]:
    return names if len(rows) == len(names) else tuple(names[row] for row in rows)
