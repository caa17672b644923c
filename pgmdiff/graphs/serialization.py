r"""Graphs as versioned JSON: an exact round trip that never executes anything.

Names and model ids may be strings, numbers, booleans, None, and tuples or frozensets of these;
conditions are pytrees (dicts, lists, tuples) of tensors and such values. Tensors are stored as
their bytes, so that they come back bit for bit. What a networkx graph carried beyond the factor
graph (positions, colours) is not stored.
"""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import GraphError, PgmdiffError
from pgmdiff.graphs.factor_graph import FactorGraph, GraphLike, graph_of
from pgmdiff.graphs.groups import AxisWindows, IndexGroup, RegionGroup, WindowGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.scopes import MAX_AXES, checked_shape
from pgmdiff.graphs.variables import Variables

__all__ = ["fingerprint", "from_json", "to_json"]

VERSION = 1
MAX_CHARACTERS = 1 << 28
MAX_DEPTH = 600
"""Number of brackets within each other that are written: Python reads them by recursion."""

MAX_ELEMENTS = 1 << 25
"""Number of elements that a few numbers may stand for: of a factor graph's state and regions, whose
indices are stored, or windows and their places along the axes."""
MAX_STATE = 1 << 34
"""Number of elements of a state of windows that count each of them once."""
FEW_ELEMENTS = 1 << 22
"""Number of elements that any state of regions may have, listed or not."""
MAX_ALIKE = 64
"""Number of names with one hash, which dicts and sets compare in pairs."""
NAMES_OF_DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")
DTYPES = {name: getattr(torch, name) for name in NAMES_OF_DTYPES}

Graph = FactorGraph | RegionGraph


def to_json(graph: GraphLike) -> str:
    """A graph as JSON text, the same in every process.

    Args:
        graph: a factor graph or a region graph, with conditions and nested graphs.

    Raises:
        GraphError: it is no graph; a name, a model id or a condition is nothing that JSON can hold;
            it is so large or so deeply nested that `from_json` would refuse it.
    """
    document, text = _written(graph)
    _check_size(len(text), MAX_CHARACTERS, "characters")
    _check_size(_demand(document), MAX_ELEMENTS)
    return text


def _written(graph: GraphLike) -> tuple[dict[str, Any], str]:
    """A graph as JSON of any size, and its text."""
    try:
        document = {"pgmdiff": VERSION, **_from_graph(graph_of(graph, "to_json"))}
        text = json.dumps(document, separators=(",", ":"), allow_nan=False)
        brackets = re.sub(r'"(?:[^"\\]|\\.)*"|[^][{}"]+', "", text)
        if max(accumulate(1 if each in "[{" else -1 for each in brackets)) > MAX_DEPTH:
            raise RecursionError
    except RecursionError:
        raise GraphError("to_json: this graph is nested too deeply for JSON. Flatten it.") from None
    return document, text


def fingerprint(graph: GraphLike) -> str:
    """SHA-256 of a graph's JSON: equal for equal graphs, in every process.

    Dicts in conditions are equal in any order.

    Args:
        graph: a factor graph or a region graph.

    Raises:
        GraphError: a name, a model id or a condition holds something that JSON cannot.
    """
    document = json.loads(_written(graph)[1], object_hook=_ordered)
    text = json.dumps(document, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def from_json(text: str) -> Graph:
    """The graph that `to_json` wrote.

    Args:
        text: may be untrusted: it is parsed, checked and never executed. Counting numbers are
            taken as given, and so is the claim that they are a junction tree's; `validate` checks
            it, but not on thousands of regions or millions of their elements. Time and memory are
            bounded by its length, and by those of 33 million indices.

    Raises:
        GraphError: the text is not JSON, truncated, of another version, too large, or no graph.

    Example:
        >>> from pgmdiff.graphs import chain, fingerprint, from_json, to_json
        >>> fingerprint(from_json(to_json(chain(3)))) == fingerprint(chain(3))
        True
    """
    if not isinstance(text, str):
        raise GraphError(
            f"from_json: expected text, got a {type(text).__name__}. Give what to_json returned."
        )
    _check_size(len(text), MAX_CHARACTERS, "characters")
    try:
        document = json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        path = len(text) < 1_000 and text.endswith(".json") and "{" not in text
        hint = f" It looks like a path: give Path({text!r}).read_text()." if path else ""
        raise GraphError(
            f"from_json: this is not JSON, or only a part of it: {error}.{hint}"
        ) from None
    if not isinstance(document, dict) or "pgmdiff" not in document:
        raise GraphError("from_json: this is JSON, but not a graph of pgmdiff. Use to_json.")
    if document["pgmdiff"] != VERSION or type(document["pgmdiff"]) is not int:
        raise GraphError(
            f"from_json: expected version {VERSION}, got {document['pgmdiff']!r}. "
            "Update pgmdiff, or write the graph again."
        )
    try:
        _check_size(_demand(document), MAX_ELEMENTS)
        return _to_graph(document)
    except PgmdiffError:
        raise
    except Exception as error:  # a malformed document may raise anything
        raise GraphError(
            f"from_json: this {document.get('kind')} is malformed "
            f"({type(error).__name__}: {error}). Write the graph again."
        ) from None


def _refused(name: str) -> None:
    """Python reads NaN and Infinity, which JSON does not have."""
    raise ValueError(f"{name} is not JSON")


# ---------------------------------------------------------------- limits


def _check_size(n: int, most: int, what: str = "elements") -> None:
    if n > most:
        raise GraphError(
            f"JSON: expected at most {most} {what}, got {n}. Build so large a graph in code."
        )


def _check_state(graph: RegionGraph) -> None:
    """Checks or scores of a state take time and memory like its elements, unless it is tiled."""
    listed = sum(group.index.numel() for group in graph.groups if isinstance(group, IndexGroup))
    if graph.n_elements > max(FEW_ELEMENTS, listed) and not graph.tiled:
        what = "elements of a state neither listed nor counted once by windows"
        _check_size(graph.n_elements, FEW_ELEMENTS, what)


def _demand(document: Any) -> int:
    """The number of elements that a graph stores beyond those listed, nested ones included."""
    if not isinstance(document, dict):
        raise _unexpected("a graph", document)
    if document.get("kind") == "FactorGraph":
        sizes = [
            prod(map(_natural, shape)) if isinstance(shape, list) else 0  # named by from_scopes
            for shape in document["shapes"]
        ]
        scopes = sum(sizes[_natural(v)] for scope in document["scopes"] for v in scope)
        return sum(sizes) + scopes + sum(_demand(inner) for _, inner in document.get("nested", []))
    if document.get("kind") != "RegionGraph":
        raise _unexpected("a kind of ['FactorGraph', 'RegionGraph']", document.get("kind"))
    total = 0
    for axes in (group["windows"] for group in document["groups"] if "windows" in group):
        total += prod(len(axis["starts"]) for axis in axes)
        places = (len(axis["starts"]) * _natural(axis["length"]) for axis in axes)
        total += sum(places) + sum(8 * _natural(axis["size"]) for axis in axes)
    return total


# ---------------------------------------------------------------- writing


def _from_graph(graph: Graph) -> dict[str, Any]:
    if isinstance(graph, FactorGraph):
        number = {name: v for v, name in enumerate(graph.variables)}
        nodes = [*graph.variables, *graph.factors]
        nested = [[_plain(n), _from_graph(graph.nested[n])] for n in nodes if n in graph.nested]
        return {
            "kind": "FactorGraph",
            "axis": graph.axis,
            "variables": [_plain(name) for name in graph.variables],
            "shapes": [list(shape) for shape in graph.shapes],
            "factors": [_plain(name) for name in graph.factors],
            "scopes": [[number[name] for name in scope] for scope in graph.scopes.values()],
            "factor_model": _plain(graph.factor_model),
            "variable_model": _plain(graph.variable_model),
            "models": _pairs(graph.models, nodes),
            "conditions": _pairs(graph.conditions, nodes),
            **({"nested": nested} if nested else {}),
        }
    _check_state(graph)
    named = graph.variables
    blocks = zip(named.names, named.shapes, strict=True) if named else ()
    variables = [[_plain(name), list(shape)] for name, shape in blocks]
    return {
        "kind": "RegionGraph",
        "event_shape": list(graph.event_shape),
        "denominator": graph.denominator,
        "junction_tree": graph.junction_tree,
        "groups": [_from_group(group) for group in graph.groups],
        "conditions": _pairs(graph.conditions, graph.names if graph.conditions else []),
        **({"variables": variables} if variables else {}),
    }


def _from_group(group: RegionGroup) -> dict[str, Any]:
    if isinstance(group, WindowGroup) and group.whole:
        keys = ("size", "length", "count", "outer")
        axes = [
            {"starts": axis.starts.tolist(), **{key: getattr(axis, key) for key in keys}}
            for axis in group.axes
        ]
        return {"windows": axes}
    return {
        "model": _plain(group.model),
        "names": [_plain(name) for name in group.names],
        "counts": group.counts.tolist(),
        "outer": group.outer.tolist(),
        "shape": list(group.shape),
        "index": group.flat().reshape(-1).tolist(),
    }


def _pairs(values: Mapping[Hashable, Any], order: list[Hashable]) -> list[list[Any]]:
    """A mapping as pairs, in the order of the graph's own nodes."""
    return [[_plain(name), _plain(values[name])] for name in order if name in values]


def _plain(value: Any) -> Any:
    """A value as JSON; containers and tensors are tagged by a dict of one key."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    if isinstance(value, float | np.floating):
        return {"float": float(value).hex()}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [_plain(each) for each in value]}
    if isinstance(value, frozenset):
        return {"frozenset": sorted((_plain(each) for each in value), key=json.dumps)}
    if isinstance(value, Mapping):
        return {"dict": [[_plain(k), _plain(v)] for k, v in value.items()]}
    if isinstance(value, Tensor) and value.dtype in DTYPES.values():
        data = value.detach().cpu().contiguous().numpy().tobytes()
        dtype = next(name for name, known in DTYPES.items() if known == value.dtype)
        return {"tensor": [dtype, list(value.shape), base64.b64encode(data).decode()]}
    raise GraphError(
        f"to_json: {value!r} of type {type(value).__name__} cannot be stored. Use strings, "
        "numbers, tuples, and tensors of a common dtype."
    )


def _ordered(plain: dict[str, Any]) -> dict[str, Any]:
    """A tag and its content, sorted by the JSON of the keys if it is a dict."""
    if "dict" in plain:
        plain["dict"].sort(key=lambda pair: json.dumps(pair[0]))
    return plain


# ---------------------------------------------------------------- reading


def _to_graph(document: dict[str, Any]) -> Graph:
    factors = document["kind"] == "FactorGraph"
    return _to_factor_graph(document) if factors else _to_region_graph(document)


def _to_factor_graph(document: dict[str, Any]) -> FactorGraph:
    variables, factors = _names(document["variables"]), _names(document["factors"])
    scopes = [[variables[_natural(v)] for v in scope] for scope in document["scopes"]]
    shapes = dict(zip(variables, document["shapes"], strict=True))
    axis = document["axis"]
    if len(shapes) < len(variables) or len(set(factors)) < len(factors):
        raise GraphError("from_json: a variable or a factor is listed twice. Rename one.")
    models = document["models"]
    graph = FactorGraph.from_scopes(
        dict(zip(factors, scopes, strict=True)),
        shapes,
        axis=axis if axis is None else _integer(axis),
        models=dict(zip(_names(k for k, _ in models), _names(v for _, v in models), strict=True)),
        conditions=_mapping(document["conditions"]),
        factor_model=_name(document["factor_model"]),
        variable_model=_name(document["variable_model"]),
    )
    return graph.nest(_mapping(document["nested"], _to_graph)) if "nested" in document else graph


def _to_region_graph(document: dict[str, Any]) -> RegionGraph:
    event_shape = _shape(document["event_shape"])
    _check_size(prod(event_shape), MAX_STATE)
    known = document["junction_tree"]
    if known not in (None, True, False):
        raise _unexpected("junction_tree true, false or null", known)
    shapes = _mapping(document.get("variables", []), lambda shape: shape)
    shapes = {name: checked_shape(name, shape) for name, shape in shapes.items()}
    groups = document["groups"]
    listed = [group for group in groups if "windows" not in group]
    names = _names(name for group in listed for name in group["names"])
    if len(set(names)) < len(names):
        raise GraphError("from_json: two regions share a name. Rename one.")
    _names(group["model"] for group in listed)
    graph = RegionGraph(
        event_shape,
        tuple(_to_group(group, event_shape) for group in groups),
        _integer(document["denominator"]),
        _mapping(document["conditions"]),
        known,
        Variables(tuple(shapes), tuple(shapes.values())) if shapes else None,
    )
    _check_state(graph)
    return graph


def _to_group(content: dict[str, Any], event_shape: tuple[int, ...]) -> RegionGroup:
    if "windows" in content:
        return _to_windows(content["windows"], event_shape)
    names = tuple(_name(value) for value in content["names"])
    shape = _shape(content["shape"])
    index = np.array([_natural(e) for e in content["index"]], np.int64)
    index = index.reshape(len(names), *shape)
    ordered = np.sort(index.reshape(len(names), prod(shape)), axis=1)
    if index.size and (
        index.max() >= prod(event_shape) or (ordered[:, 1:] == ordered[:, :-1]).any()
    ):
        raise _unexpected(f"distinct elements below {prod(event_shape)}", index.tolist())
    counts = np.array([_integer(c) for c in content["counts"]], np.int64)
    outer = np.array([_flag(o) for o in content["outer"]], np.bool_)
    if not len(counts) == len(outer) == len(names):
        raise _unexpected("a name, a count and a flag per region", names)
    return IndexGroup(torch.from_numpy(index), counts, names, outer, _name(content["model"]))


def _to_windows(content: list[dict[str, Any]], event_shape: tuple[int, ...]) -> WindowGroup:
    axes = [
        AxisWindows(
            _integer(axis["size"]),
            _integer(axis["length"]),
            np.array([_natural(s) for s in axis["starts"]], np.int64),
            _integer(axis["count"]),
            _flag(axis["outer"]),
        )
        for axis in content
    ]
    if tuple(axis.size for axis in axes) != event_shape or not axes:
        raise _unexpected(f"windows of a state of shape {event_shape}", axes)
    for number, axis in enumerate(axes):
        if not 1 <= axis.length <= axis.size or (axis.starts >= axis.size).any():
            raise _unexpected(f"windows that fit the size of axis {number}", axis)
    return WindowGroup.product(axes)


def _value(plain: Any) -> Any:
    """The value that `_plain` stored."""
    if not isinstance(plain, dict):
        if isinstance(plain, list | float):
            raise _unexpected("a tagged value", plain)
        return plain
    ((tag, content),) = plain.items()
    if tag == "float":
        return float.fromhex(content)
    if tag in ("list", "tuple"):
        return (list if tag == "list" else tuple)(map(_value, content))
    if tag == "frozenset":
        return frozenset(_names(content))
    if tag == "dict":
        return _mapping(content)
    if tag == "tensor":
        dtype, shape, data = content
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise _unexpected(f"a tensor with a dtype of {list(DTYPES)}", dtype)
        array = np.frombuffer(base64.b64decode(data, validate=True), dtype)
        return torch.from_numpy(array.reshape(_shape(shape)).copy())
    raise _unexpected("a known tag", tag)


def _name(plain: Any) -> Any:
    value = _value(plain)
    if not isinstance(value, Hashable) or isinstance(value, Tensor):
        raise _unexpected("a name", value)
    hash(value)  # a tuple may hold a list
    return value


def _names(plain: Iterable[Any]) -> list[Any]:
    """Names that may become keys: refused if many have one hash, as only hostile ones do."""
    given = list(plain)
    names = [_name(each) for each in given]
    if max(Counter(map(hash, names)).values(), default=0) > MAX_ALIKE:
        distinct = dict(zip(map(json.dumps, given), names, strict=True)).values()
        if max(Counter(map(hash, distinct)).values()) > MAX_ALIKE:
            raise _unexpected(f"at most {MAX_ALIKE} names with one hash", names[0])
    return names


def _mapping(pairs: Any, value: Callable[[Any], Any] | None = None) -> dict[Any, Any]:
    """What `_pairs` stored, with a function of the values; `_value` if None."""
    names = _names(name for name, _ in pairs)
    return dict(zip(names, ((value or _value)(v) for _, v in pairs), strict=True))


def _integer(value: Any) -> int:
    if type(value) is not int or abs(value) >= 2**63:
        raise _unexpected("an integer", value)
    return value


def _natural(value: Any) -> int:
    if _integer(value) < 0:
        raise _unexpected("no negative number", value)
    return int(value)


def _shape(plain: list[Any]) -> tuple[int, ...]:
    if len(plain) > MAX_AXES:
        raise _unexpected(f"a shape of at most {MAX_AXES} axes", len(plain))
    return tuple(map(_natural, plain))


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise _unexpected("true or false", value)
    return value


def _unexpected(expected: str, got: Any) -> GraphError:
    return GraphError(
        f"from_json: expected {expected}, got {str(got)[:40]!r}. Write the graph again."
    )
