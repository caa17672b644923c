r"""Graphs as versioned JSON: an exact round trip that never executes anything.

Names and model ids may be strings, numbers, booleans, None, and tuples or frozensets of these;
conditions are pytrees (dicts, lists, tuples) of tensors and such values. Tensors are stored as
their bytes, so that they come back bit for bit. What a networkx graph carried beyond the factor
graph (positions, colours) is not stored.
"""

import base64
import hashlib
import json
from collections.abc import Hashable, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import GraphError, PgmdiffError
from pgmdiff.graphs.factor_graph import FactorGraph, GraphLike, graph_of
from pgmdiff.graphs.groups import AxisWindows, IndexGroup, RegionGroup, WindowGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.scopes import checked_shape
from pgmdiff.graphs.variables import Variables

__all__ = ["fingerprint", "from_json", "to_json"]

VERSION = 1
MAX_CHARACTERS = 1 << 28
MAX_REGIONS = 1 << 27
"""Number of windows that a few numbers may stand for; more counts as an attack on the memory."""

MAX_ELEMENTS = 1 << 28
"""Number of elements of a factor graph's state and regions together: their indices are stored."""
MAX_STATE = 1 << 34
"""Number of elements of a state whose regions are listed, or windows."""
NAMES_OF_DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")
DTYPES = {name: getattr(torch, name) for name in NAMES_OF_DTYPES}

Graph = FactorGraph | RegionGraph


def to_json(graph: GraphLike) -> str:
    """A graph as JSON text, the same in every process.

    Args:
        graph: a factor graph or a region graph, with conditions and nested graphs.

    Raises:
        GraphError: it is no graph; a name, a model id or a condition is nothing that JSON can hold.
    """
    try:
        document = {"pgmdiff": VERSION, **_from_graph(graph_of(graph, "to_json"))}
        return json.dumps(document, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise GraphError("to_json: this graph is nested too deeply for JSON. Flatten it.") from None


def fingerprint(graph: GraphLike) -> str:
    """SHA-256 of a graph's JSON: equal for equal graphs, in every process.

    Args:
        graph: a factor graph or a region graph.

    Raises:
        GraphError: a name, a model id or a condition holds something that JSON cannot.
    """
    return hashlib.sha256(to_json(graph).encode()).hexdigest()


def from_json(text: str) -> Graph:
    """The graph that `to_json` wrote.

    Args:
        text: may be untrusted: it is parsed, checked and never executed. Counting numbers are
            taken as given, and so is the claim that they are a junction tree's; `validate` checks
            it (but not on thousands of regions).

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
    if len(text) > MAX_CHARACTERS:
        raise GraphError(
            f"from_json: expected at most {MAX_CHARACTERS} characters, got {len(text)}. "
            "Build so large a graph from arrays or tiles."
        )
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


# ---------------------------------------------------------------- writing


def _from_graph(graph: Graph) -> dict[str, Any]:
    if isinstance(graph, FactorGraph):
        number = {name: v for v, name in enumerate(graph.variables)}
        _check_elements(graph.n_elements + int(graph.sizes[graph._scope].sum()))
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


def _check_elements(n: int, most: int | None = None) -> None:
    most = MAX_ELEMENTS if most is None else most
    if n > most:
        raise GraphError(
            f"JSON: expected at most {most} elements, got {n}. Build so large a graph in code."
        )


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
        pairs = [[_plain(k), _plain(v)] for k, v in value.items()]
        return {"dict": sorted(pairs, key=lambda pair: json.dumps(pair[0]))}
    if isinstance(value, Tensor) and value.dtype in DTYPES.values():
        data = value.detach().cpu().contiguous().numpy().tobytes()
        dtype = next(name for name, known in DTYPES.items() if known == value.dtype)
        return {"tensor": [dtype, list(value.shape), base64.b64encode(data).decode()]}
    raise GraphError(
        f"to_json: {value!r} of type {type(value).__name__} cannot be stored. Use strings, "
        "numbers, tuples, and tensors of a common dtype."
    )


# ---------------------------------------------------------------- reading


def _to_graph(document: Any) -> Graph:
    if not isinstance(document, dict):
        raise _unexpected("a graph", document)
    kind = document.get("kind")
    if kind == "FactorGraph":
        return _to_factor_graph(document)
    if kind == "RegionGraph":
        return _to_region_graph(document)
    raise _unexpected("a kind of ['FactorGraph', 'RegionGraph']", kind)


def _to_factor_graph(document: dict[str, Any]) -> FactorGraph:
    variables = [_name(value) for value in document["variables"]]
    factors = [_name(value) for value in document["factors"]]
    scopes = [[variables[_natural(v)] for v in scope] for scope in document["scopes"]]
    shapes = dict(zip(variables, document["shapes"], strict=True))
    sizes = {
        v: prod(map(_natural, shape)) if isinstance(shape, list) else 0  # named by from_scopes
        for v, shape in shapes.items()
    }
    _check_elements(sum(sizes.values()) + sum(sizes[v] for scope in scopes for v in scope))
    axis = document["axis"]
    if len(shapes) < len(variables) or len(set(factors)) < len(factors):
        raise GraphError("from_json: a variable or a factor is listed twice. Rename one.")
    nested = {_name(k): _to_graph(inner) for k, inner in document.get("nested", [])}
    graph = FactorGraph.from_scopes(
        dict(zip(factors, scopes, strict=True)),
        shapes,
        axis=axis if axis is None else _integer(axis),
        models={_name(k): _name(v) for k, v in document["models"]},
        conditions={_name(k): _value(v) for k, v in document["conditions"]},
        factor_model=_name(document["factor_model"]),
        variable_model=_name(document["variable_model"]),
    )
    return graph.nest(nested) if nested else graph


def _to_region_graph(document: dict[str, Any]) -> RegionGraph:
    event_shape = tuple(_natural(side) for side in document["event_shape"])
    _check_elements(prod(event_shape), MAX_STATE)
    known = document["junction_tree"]
    if known not in (None, True, False):
        raise _unexpected("junction_tree true, false or null", known)
    blocks = [(_name(name), shape) for name, shape in document.get("variables", [])]
    shapes = {name: checked_shape(name, shape) for name, shape in blocks}
    graph = RegionGraph(
        event_shape,
        tuple(_to_group(group, event_shape) for group in document["groups"]),
        _integer(document["denominator"]),
        {_name(k): _value(v) for k, v in document["conditions"]},
        known,
        Variables(tuple(shapes), tuple(shapes.values())) if shapes else None,
    )
    listed = [name for g in graph.groups if isinstance(g, IndexGroup) for name in g.names]
    if len(set(listed)) < len(listed):
        raise GraphError("from_json: two regions share a name. Rename one.")
    return graph


def _to_group(content: dict[str, Any], event_shape: tuple[int, ...]) -> RegionGroup:
    if "windows" in content:
        return _to_windows(content["windows"], event_shape)
    names = tuple(_name(value) for value in content["names"])
    shape = tuple(_natural(side) for side in content["shape"])
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
    n = prod(len(axis.starts) for axis in axes)
    if n > MAX_REGIONS:
        raise _unexpected(f"at most {MAX_REGIONS} windows", n)
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
    if tag in ("list", "tuple", "frozenset"):
        make = {"list": list, "tuple": tuple, "frozenset": frozenset}[tag]
        return make(_value(each) for each in content)
    if tag == "dict":
        return {_name(k): _value(v) for k, v in content}
    if tag == "tensor":
        dtype, shape, data = content
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise _unexpected(f"a tensor with a dtype of {list(DTYPES)}", dtype)
        array = np.frombuffer(base64.b64decode(data, validate=True), dtype)
        return torch.from_numpy(array.reshape([_natural(side) for side in shape]).copy())
    raise _unexpected("a known tag", tag)


def _name(plain: Any) -> Any:
    value = _value(plain)
    if not isinstance(value, Hashable) or isinstance(value, Tensor):
        raise _unexpected("a name", value)
    hash(value)  # a tuple may hold a list
    return value


def _integer(value: Any) -> int:
    if type(value) is not int or abs(value) >= 2**63:
        raise _unexpected("an integer", value)
    return value


def _natural(value: Any) -> int:
    if _integer(value) < 0:
        raise _unexpected("no negative number", value)
    return int(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise _unexpected("true or false", value)
    return value


def _unexpected(expected: str, got: Any) -> GraphError:
    return GraphError(
        f"from_json: expected {expected}, got {str(got)[:40]!r}. Write the graph again."
    )
