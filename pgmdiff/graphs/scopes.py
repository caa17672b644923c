"""Scopes as users give them: the checks of a factor graph's construction, and their messages.

Scopes come as a mapping from factor to names of variables, or as arrays of variable numbers. The
errors of names, shapes, models, conditions and nested graphs also belong to construction.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pgmdiff.errors import GraphError, nearest
from pgmdiff.graphs.names import check_known, check_mapping, check_names
from pgmdiff.graphs.variables import Variables
from pgmdiff.linalg import Ints, Shape

if TYPE_CHECKING:
    from pgmdiff.graphs.factor_graph import FactorGraph

__all__ = [
    "by_arity",
    "check_nodes",
    "check_options",
    "checked_arrays",
    "checked_shape",
    "declared",
    "names_of",
]


MAX_AXES = 32
"""Number of axes that arrays may have."""


class Numbered(tuple[Hashable, ...]):
    """Names that the library made of numbers, known to be unique without a check."""

    __slots__ = ()


def declared(
    scopes: Mapping[Any, Sequence[Hashable]], shapes: Mapping[Any, Sequence[int]] | None
) -> Variables:
    """The variables of a mapping of scopes; scalars, as they first appear, where shapes are None.

    Raises:
        GraphError: a scope is no sequence of names, or lists a variable without a shape.
    """
    check_mapping("FactorGraph", "scopes", scopes, 'Name the factors: {"f": ("a", "b")}.')
    if shapes is not None:
        check_mapping("FactorGraph", "shapes", shapes, 'Name the variables: {"a": (2,)}.')
    for factor, scope in scopes.items():
        if isinstance(scope, str | bytes):
            letters = f" or {tuple(scope)!r}" if len(scope) > 1 else ""
            raise GraphError(
                f"FactorGraph: the scope of factor {factor!r} is the string {scope!r}, "
                f"expected a sequence of names. Write {(scope,)!r}{letters}."
            )
        if not isinstance(scope, Sequence):
            raise GraphError(
                f"FactorGraph: the scope of factor {factor!r} is of type {type(scope).__name__}, "
                "expected a sequence: scopes are ordered. Use a tuple, or .tolist() of an array."
            )
    listed = list(chain.from_iterable(scopes.values()))
    check_names("FactorGraph", [*listed, *scopes, *(shapes or ())])
    found: dict[Any, Sequence[int]] = dict.fromkeys(listed, ()) if shapes is None else dict(shapes)
    for factor, scope in scopes.items() if shapes is not None else ():
        for name in scope:
            if name not in found:
                raise GraphError(
                    f"FactorGraph: factor {factor!r} lists variable {name!r}, which has no "
                    f"shape. Add {name!r} to shapes= or remove it from the scope."
                    f"{nearest(name, found)}"
                )
    return Variables(tuple(found), tuple(checked_shape(n, shape) for n, shape in found.items()))


def checked_shape(variable: Hashable, shape: Sequence[int]) -> Shape:
    """An event shape as a tuple of positive integers, or a `GraphError` that names the variable."""
    try:
        if isinstance(shape, Mapping | Set):
            raise TypeError
        sides = tuple(index(side) for side in shape)
    except TypeError:
        raise GraphError(
            f"FactorGraph: the shape of variable {variable!r} must be a tuple of integers, got "
            f"{shape!r}. Write (2,) for a vector of two."
        ) from None
    if any(side < 1 for side in sides) or len(sides) > MAX_AXES:
        raise GraphError(
            f"FactorGraph: variable {variable!r} has shape {sides}; every side must be at least 1. "
            f"Remove a variable without elements, and give it at most {MAX_AXES} axes."
        )
    return sides


def checked_arrays(scopes: npt.ArrayLike | Sequence[npt.ArrayLike]) -> list[Ints]:
    """Scopes of variable numbers as arrays int64 `[n_factors, arity]`, or a `GraphError`."""
    parts: list[Any] = list(scopes) if isinstance(scopes, list | tuple) else [scopes]
    parts = [np.asarray(part) if hasattr(part, "__array__") else part for part in parts]
    sequences = all(isinstance(part, Sequence | np.ndarray) and len(part) for part in parts)
    if parts and sequences and not any(hasattr(part[0], "__len__") for part in parts):
        parts = [parts]  # these are scopes, rather than arrays of scopes
    arrays = []
    for part in parts:
        try:
            array = np.asarray(part)
        except ValueError:
            raise GraphError(
                "FactorGraph: the rows of a scope array have different lengths. "
                "Give one array per arity."
            ) from None
        if array.ndim != 2 or (array.size and array.dtype.kind not in "iu"):
            raise GraphError(
                f"FactorGraph: expected integer scopes [n_factors, arity], got {array.dtype} of "
                f"shape {array.shape}. Give one array per arity."
            )
        arrays.append(array.astype(np.int64))
    return arrays


def names_of(
    names: Iterable[Hashable] | None, letter: str, n: int, argument: str
) -> tuple[Hashable, ...]:
    """Given names, counted; where there are none, a letter and a number each."""
    if names is None:
        return Numbered([f"{letter}{i}" for i in range(n)])
    if isinstance(names, Set | str):
        raise GraphError(
            f"FactorGraph: expected {argument}= in an order, got {names!r}. Give a list of names."
        )
    given = names if isinstance(names, Numbered) else tuple(names)
    if not isinstance(given, Numbered):
        check_names("FactorGraph", given)
    if len(given) != n:
        raise GraphError(
            f"FactorGraph: expected {n} names in {argument}=, got {len(given)}. "
            "Give one name each, or none."
        )
    return given


def check_options(graph: "FactorGraph") -> None:
    """Raises `GraphError` unless the axis, the model ids and what is given per node are of a kind.

    These are attributes of networkx's graphs, too, which may hold anything.
    """
    for each in ("models", "conditions", "nested"):
        check_mapping("FactorGraph", each, getattr(graph, each), "Give one value per node's name.")
    ids = [*graph.models.values(), graph.factor_model, graph.variable_model]
    check_names("FactorGraph (model ids)", ids)
    if not isinstance(graph.axis, int | np.integer | None):
        raise GraphError(
            f"FactorGraph: expected axis, an integer or None, got {graph.axis!r}. Give the axis "
            "along which a factor's model sees its variables concatenated."
        )


def check_nodes(graph: "FactorGraph") -> None:
    """Raises `GraphError` unless names are unique, scopes are in order, and extras name nodes."""
    both = (graph.variables, graph.factors)
    if not all(isinstance(names, Numbered) for names in both):
        for kind, names in zip(("variable", "factor"), both, strict=True):
            if len(set(names)) != len(names):
                twice = Counter(names).most_common(1)[0][0]
                raise GraphError(f"FactorGraph: {kind} {twice!r} is listed twice. Rename one.")
        shared = graph._factor_set & graph._state.number.keys()
        if shared:
            raise GraphError(
                f"FactorGraph: {next(iter(shared))!r} names both a variable and a factor. "
                "Rename one: counting numbers are reported by name."
            )
    empty = np.flatnonzero(np.diff(graph._bounds) == 0)
    if len(empty):
        raise GraphError(
            f"FactorGraph: factor {graph.factors[empty[0]]!r} has an empty scope. "
            "Give it variables or remove it."
        )
    for rows, scopes in by_arity(graph):
        ordered = np.sort(scopes, axis=1)
        again = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if len(again):
            factor, scope = graph.factors[rows[again[0]]], scopes[again[0]].tolist()
            name = next(graph.variables[v] for v in scope if scope.count(v) > 1)
            raise GraphError(
                f"FactorGraph: factor {factor!r} lists variable {name!r} twice. "
                "List each variable once."
            )
    extras = (
        ("a model", graph.models),
        ("a condition", graph.conditions),
        ("an inner graph", graph.nested),
    )
    for extra, given in extras:
        known = dict.fromkeys((*graph.variables, *graph.factors)) if given else ()
        remedy = "Use the name of a variable or a factor."
        check_known(f"FactorGraph: {extra} is given for", given, known, "node", remedy)


def by_arity(graph: "FactorGraph") -> Iterator[tuple[Ints, Ints]]:
    """Factors with equally many variables: their numbers, and their scopes as a matrix."""
    arities = np.diff(graph._bounds)
    if len(arities) and (arities == arities[0]).all() and arities[0]:
        yield np.arange(len(arities)), graph._scope.reshape(len(arities), -1)
        return
    for arity in np.unique(arities[arities > 0]):
        rows = np.flatnonzero(arities == arity)
        yield rows, graph._scope[graph._bounds[rows, None] + np.arange(arity)]
