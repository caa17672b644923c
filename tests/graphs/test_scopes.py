"""What is wrong with scopes, shapes and arrays is named."""

import numpy as np
import pytest

from pgmdiff import GraphError
from pgmdiff.graphs import (
    FactorGraph,
)


@pytest.mark.parametrize(
    ("scopes", "shapes", "message"),
    [
        ({"f12": ("x9",)}, {"x1": ()}, "factor 'f12' lists variable 'x9', which has no shape. Add"),
        ({"f": ()}, None, "'f' has an empty scope"),
        ({"f": ("a", "b", "a")}, None, "'f' lists variable 'a' twice"),
        ({"f": "ab"}, None, "is the string 'ab'"),
        ({"a": ("a", "b")}, None, "'a' names both a variable and a factor"),
        ({"f": ("a",)}, {"a": 3}, "variable 'a' must be a tuple"),
        ({"f": ("a",)}, {"a": (0,)}, "every side must be at least 1"),
    ],
)
def test_bad_scopes_are_named(scopes: dict, shapes: dict | None, message: str) -> None:
    with pytest.raises(GraphError, match="FactorGraph") as error:
        FactorGraph.from_scopes(scopes, shapes)
    assert message in str(error.value)


def test_bad_models_and_conditions_are_named() -> None:
    with pytest.raises(GraphError, match="a model is given for 'z', which is no node"):
        FactorGraph.from_scopes({"f": ("a",)}, models={"z": 1})
    with pytest.raises(GraphError, match="a condition is given for 'z'"):
        FactorGraph.from_scopes({"f": ("a",)}, conditions={"z": {}})


def test_bad_arrays_are_named() -> None:
    with pytest.raises(GraphError, match="expected variables 0 to 2, got scopes with 0 to 3"):
        FactorGraph.from_arrays([[0, 3]], 3)
    with pytest.raises(GraphError, match="integer scopes"):
        FactorGraph.from_arrays(np.zeros((2, 2)))
    with pytest.raises(GraphError, match="integer scopes"):
        FactorGraph.from_arrays(np.zeros((2, 2, 2), int))
    with pytest.raises(GraphError, match="expected 2 names in factors="):
        FactorGraph.from_arrays([[0, 1], [1, 2]], factors=["f"])
    with pytest.raises(GraphError, match="variable 'x' is listed twice"):
        FactorGraph.from_arrays([[0, 1]], variables=["x", "x"])


def test_more_bad_input_is_named() -> None:
    with pytest.raises(GraphError, match="expected scopes as a dict"):
        FactorGraph.from_scopes([("a", "b")])  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="different lengths"):
        FactorGraph.from_arrays([[0, 1], [1, 2, 3]])
    with pytest.raises(GraphError, match="names must be hashable"):
        FactorGraph.from_scopes({"f": (["a"], "b")})  # type: ignore[list-item]
    for shape in ("ab", (2.5,), None):
        with pytest.raises(GraphError, match="must be a tuple of integers"):
            FactorGraph.from_scopes({"f": ("a",)}, {"a": shape})  # type: ignore[dict-item]
    with pytest.raises(GraphError, match=r"undirected networkx\.Graph, got dict"):
        FactorGraph.from_networkx({"a": ("b",)})
    with pytest.raises(GraphError, match="condition of 'f' is of type int"):
        FactorGraph.from_scopes({"f": ("a",)}, conditions={"f": 3})  # type: ignore[dict-item]


def test_scopes_must_be_ordered() -> None:
    for scope in ({"a", "b"}, (name for name in "ab")):
        with pytest.raises(GraphError, match="scopes are ordered"):
            FactorGraph.from_scopes({"f": scope})  # type: ignore[dict-item]
