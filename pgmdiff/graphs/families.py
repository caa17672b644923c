r"""Common topologies of variables: chains, cycles, stars, trees, lattices, Markov random fields."""

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from numbers import Real
from operator import index
from typing import Any

import networkx as nx
import numpy as np

from pgmdiff.errors import GraphError
from pgmdiff.graphs.conversion import check_undirected, ordered_nodes
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.names import check_known, check_mapping, check_names
from pgmdiff.graphs.regions import Condition
from pgmdiff.graphs.scopes import Numbered
from pgmdiff.linalg import Ints

__all__ = [
    "chain",
    "cycle",
    "grid",
    "hidden_markov",
    "markov_random_field",
    "named_tree",
    "repeated_observations",
    "star",
    "torus",
    "tree",
]


def chain(n: int, shape: Sequence[int] = (), **options: Any) -> FactorGraph:
    """Variables x0 … x(n-1) of one shape in a line, factor f_i on (x_i, x_i+1). Berge-acyclic.

    Args:
        n: number of variables; 1 gives an isolated variable, 0 the empty graph.
        shape: event shape of every variable.
        options: of `FactorGraph.from_arrays`, such as `axis` and `factor_model`.

    Raises:
        GraphError: n is below 0.

    Example:
        >>> from pgmdiff.graphs import chain
        >>> chain(3).counting_numbers()
        {'f0': 1, 'f1': 1, 'x0': 0, 'x1': -1, 'x2': 0}
    """
    first = np.arange(max(_at_least("chain", n, 0) - 1, 0))
    return _paired(first, first + 1, n, shape, options)


def cycle(n: int, shape: Sequence[int] = (), **options: Any) -> FactorGraph:
    """A closed chain, factor f_i on (x_i, x_(i+1) mod n): a loop, in general exact at no σ.

    Counting numbers: factors +1, variables -1.

    Args:
        n: number of variables, at least 3.
        shape, options: as for `chain`.

    Raises:
        GraphError: n is below 3.
    """
    first = np.arange(_at_least("cycle", n, 3))
    return _paired(first, (first + 1) % n, n, shape, options)


def star(n: int, shape: Sequence[int] = (), **options: Any) -> FactorGraph:
    """A centre x0 and n leaves x1 … xn, factor f_i on (x0, x_(i+1)). Berge-acyclic.

    Counting numbers: factors +1, centre 1 - n, leaves 0.

    Args:
        n: number of leaves.
        shape, options: as for `chain`.

    Raises:
        GraphError: n is below 0.
    """
    leaves = 1 + np.arange(_at_least("star", n, 0))
    return _paired(np.zeros_like(leaves), leaves, n + 1, shape, options)


def tree(branching: int, depth: int, shape: Sequence[int] = (), **options: Any) -> FactorGraph:
    """A balanced tree with root x0, a pair factor (parent, child) on every edge. Berge-acyclic.

    Args:
        branching: number of children of every inner variable.
        depth: number of edges from the root to a leaf; 0 gives the root alone.
        shape, options: as for `chain`.

    Raises:
        GraphError: branching is below 1, or depth below 0.
    """
    branching = _at_least("tree", branching, 1)
    n = sum(branching**level for level in range(_at_least("tree", depth, 0) + 1))
    child = np.arange(1, n)
    return _paired((child - 1) // branching, child, n, shape, options)


def _paired(
    first: Ints, second: Ints, n: int, shape: Sequence[int], options: dict[str, Any]
) -> FactorGraph:
    """N variables, and a factor on every pair of numbers."""
    return FactorGraph.from_arrays(np.stack([first, second], axis=1), n, shape=shape, **options)


def grid(*sizes: int, shape: Sequence[int] = (), **options: Any) -> FactorGraph:
    """A lattice of variables named by their coordinates, a pair factor on every lattice edge.

    A factor is named by its two variables, `((0, 0), (0, 1))`. Loops as soon as two sizes exceed 1.

    Args:
        sizes: number of variables along each axis, at least 1.
        shape, options: as for `chain`.

    Raises:
        GraphError: no size is given, or one is below 1.
    """
    return _lattice("grid", sizes, False, shape, options)


def torus(*sizes: int, shape: Sequence[int] = (), **options: Any) -> FactorGraph:
    """A `grid` whose every axis is closed; each size is at least 3.

    Counting numbers: factors +1, variables 1 - 2 k on k axes.

    Args:
        sizes: number of variables along each axis, at least 3.
        shape, options: as for `chain`.

    Raises:
        GraphError: no size is given, or one is below 3.
    """
    return _lattice("torus", sizes, True, shape, options)


def _lattice(
    family: str,
    sizes: tuple[int, ...],
    periodic: bool,
    shape: Sequence[int],
    options: dict[str, Any],
) -> FactorGraph:
    for size in sizes or [0]:
        _at_least(family, size, 3 if periodic else 1)
    names = Numbered(product(*map(range, sizes)))
    number = np.arange(prod(sizes)).reshape(sizes)
    ends = []
    for axis, size in enumerate(sizes):
        place = np.arange(size if periodic else size - 1)
        ends.append([number.take(at, axis).ravel() for at in (place, (place + 1) % size)])
    first, second = np.concatenate(ends, axis=1)
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    named = {"variables": names, "factors": Numbered((names[a], names[b]) for a, b in pairs)}
    return _paired(first, second, len(names), shape, {**named, **options})


def named_tree(
    parents: Mapping[Any, Any], shapes: Mapping[Any, Sequence[int]] | None = None, **options: Any
) -> FactorGraph:
    """A tree over named parts, a pair factor `(parent, child)` on every edge. Berge-acyclic.

    Args:
        parents: child to its parent. A part that is no child, or whose parent is None, is a root;
            there may be several.
        shapes: name to event shape, in declaration order; if None, all are scalars.
        options: of `FactorGraph.from_scopes`, such as `axis`, `models` and `conditions`.

    Raises:
        GraphError: a part is its own ancestor; a parent is NaN, or -1 or "" without being a part
            itself, as tables mark roots; a shape is given for something that is no part.

    Example:
        >>> from pgmdiff.graphs import named_tree
        >>> body = named_tree({"arm": "torso", "leg": "torso", "hand": "arm"})
        >>> [count for name, count in body.counting_numbers().items() if name in ("torso", "arm")]
        [-1, -1]
    """
    remedy = "Write {child: parent}, or dict(enumerate(parents)) for a list of parents."
    check_mapping("named_tree", "parents", parents, remedy)
    for child, parent in parents.items():
        plain = isinstance(parent, Real | str)
        if plain and (parent != parent or (parent in (-1, "") and parent not in parents)):
            raise GraphError(
                f"named_tree: the parent of {child!r} is {parent!r}, expected a part. Give None "
                "for a root."
            )
    check_names("named_tree", [*parents, *parents.values()])
    settled: set[Any] = {None}
    for part in parents:
        line: dict[Any, None] = {}
        while part in parents and part not in settled:
            if part in line:
                raise GraphError(
                    f"named_tree: {part!r} is its own ancestor, by way of {list(line)}. "
                    "Give every part one parent, and roots none."
                )
            line[part] = None
            part = parents[part]
        settled.update(line)
    pairs = [(parent, child) for child, parent in parents.items()]
    parts = dict.fromkeys((part for pair in pairs for part in pair if part is not None), ())
    remedy = "Give a part without edges the parent None."
    check_known("named_tree: a shape is given for", shapes or (), parts, "part", remedy)
    return FactorGraph.from_scopes(
        {pair: pair for pair in pairs if pair[0] is not None}, shapes or parts, **options
    )


def markov_random_field(
    graph: "nx.Graph",
    shapes: Mapping[Any, Sequence[int]] | None = None,
    *,
    cliques: bool = False,
    **options: Any,
) -> FactorGraph:
    """The factor graph of any undirected graph of variables.

    Pairwise factors, named by their edge, form loops wherever the graph has a cycle. Factors on
    maximal cliques (Hammersley and Clifford, 1971), named by the tuple of their variables, can
    represent all that is Markov to the graph; on dense graphs there are many of them. Where cliques
    overlap in several variables, pass the result to `cluster_variation` or `junction_tree`.

    Args:
        graph: its nodes are the variables, in its order; their attribute `shape` is used, if any.
            Of a directed graph give `networkx.moral_graph(graph)`, with `cliques=True`: in
            x → z ← y all three depend on each other, which pairs do not represent.
        shapes: name to event shape; if None, the attributes are used, and else scalars.
        cliques: whether factors are the maximal cliques of two or more, instead of the edges.
        options: of `FactorGraph.from_scopes`.

    Raises:
        GraphError: the graph is directed, or has parallel edges or an edge from a node to itself;
            a shape is given for something that is no node.

    Example:
        >>> import networkx as nx
        >>> from pgmdiff.graphs import markov_random_field
        >>> markov_random_field(nx.petersen_graph())
        FactorGraph(10 variables, 15 factors, 30 edges, 10 elements)
    """
    check_undirected("markov_random_field", graph)
    for node in nx.nodes_with_selfloops(graph):
        raise GraphError(
            f"markov_random_field: {node!r} has an edge to itself. Remove it: a factor of one "
            "variable can be added with FactorGraph.from_scopes."
        )
    names = ordered_nodes(graph)
    remedy = "Add a node to the graph for a variable without edges."
    check_known("markov_random_field: a shape is given for", shapes or (), graph, "node", remedy)
    number = {name: v for v, name in enumerate(names)}
    found = (c for c in nx.find_cliques(graph) if len(c) > 1) if cliques else graph.edges
    ordered = sorted(sorted(number[name] for name in scope) for scope in found)
    scopes = [tuple(names[v] for v in scope) for scope in ordered]
    own = {name: graph.nodes[name].get("shape", ()) for name in names}
    return FactorGraph.from_scopes({s: s for s in scopes}, {**own, **(shapes or {})}, **options)


def hidden_markov(
    n: int, state: Sequence[int] = (), observation: Sequence[int] = (), **options: Any
) -> FactorGraph:
    """A hidden Markov chain: states x0 … x(n-1), each with an observation y_i. Berge-acyclic.

    Factors t_i on (x_i, x_(i+1)) have the model id "transition", factors e_i on (x_i, y_i)
    "emission", and the states "state"; observations count 0 and need no model. To condition on
    observed ones, use `graph.mask({"y0", ...})` or `graph.observe`.

    Args:
        n: number of states, at least 1.
        state, observation: their event shapes.
        options: of `FactorGraph.from_scopes`.

    Raises:
        GraphError: n is below 1.
    """
    steps = range(_at_least("hidden_markov", n, 1))
    transitions = {f"t{i}": (f"x{i}", f"x{i + 1}") for i in steps[:-1]}
    emissions = {f"e{i}": (f"x{i}", f"y{i}") for i in steps}
    states, observations = ([f"{letter}{i}" for i in steps] for letter in "xy")
    kinds = zip(
        ("transition", "emission", "state", "observation"),
        (transitions, emissions, states, observations),
        strict=True,
    )
    models = {name: kind for kind, names in kinds for name in names}
    shapes = dict.fromkeys(states, state) | dict.fromkeys(observations, observation)
    return FactorGraph.from_scopes(transitions | emissions, shapes, **{"models": models, **options})


def repeated_observations(
    n: int,
    shape: Sequence[int] = (),
    conditions: Sequence[Condition] | None = None,
    *,
    name: str = "theta",
) -> FactorGraph:
    r"""N observations of one parameter: tall-data posteriors, q(θ | y_1 … y_N).

    For observations that are independent given θ, q(θ | y_1 … y_N) ∝ q(θ)^{1-N} Π_i q(θ | y_i):
    a factor y_i per observation with the model id "posterior" (+1), and the parameter itself with
    the model id "prior" (1 - N). Exact at σ = 0 for any data. The factors differ by their
    conditions, and so are not marginals of one distribution, as `validate` says where conditions
    are given. At σ > 0 noised posteriors do not multiply (Geffner, Papamakarios, Mnih,
    "Compositional score modeling for simulation-based inference", 2023; Linhart et al., "Diffusion
    posterior sampling for simulation-based inference in tall data settings", 2024).

    Args:
        n: N, at least 1.
        shape: event shape of θ.
        conditions: the keyword arguments that "posterior" gets, one mapping per observation, for
            example {"y": tensor}.
        name: name of the parameter.

    Raises:
        GraphError: n is below 1, or conditions are not one per observation.
    """
    factors = [f"y{i}" for i in range(_at_least("repeated_observations", n, 1))]
    if conditions is not None and len(conditions) != n:
        raise GraphError(
            f"repeated_observations: expected {n} conditions, one per observation, got "
            f"{len(conditions)}. Give one mapping per observation, or None."
        )
    return FactorGraph.from_scopes(
        dict.fromkeys(factors, (name,)),
        {name: shape},
        conditions=dict(zip(factors, conditions or [], strict=False)),
        factor_model="posterior",
        variable_model="prior",
    )


def _at_least(family: str, n: int, least: int) -> int:
    if index(n) < least:  # of what is no integer it raises TypeError
        raise GraphError(
            f"{family}: expected a size of at least {least}, got {n}. Give a larger one."
        )
    return n
