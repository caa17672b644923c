"""States made of named variables: packing, unpacking, masks, observations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from pgmdiff import GraphError, PgmdiffError, ShapeError
from pgmdiff.graphs import (
    FactorGraph,
    chain,
)
from pgmdiff.testing.strategies import factor_graphs


@settings(max_examples=40)
@given(factor_graphs())
def test_pack_and_unpack_are_inverse(graph: FactorGraph) -> None:
    u = torch.arange(2.0 * 3 * graph.n_elements).reshape(2, 3, graph.n_elements)
    values = graph.unpack(u)
    assert all(v.shape == (2, 3, *graph.shapes[i]) for i, v in enumerate(values.values()))
    assert torch.equal(graph.pack(values), u)


def test_pack_names_what_is_wrong() -> None:
    graph = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (2,), "b": ()})
    with pytest.raises(ShapeError, match="'b' is missing"):
        graph.pack({"a": torch.zeros(2)})
    with pytest.raises(ShapeError, match="'c' is unknown"):
        graph.pack({"a": torch.zeros(2), "b": torch.zeros(()), "c": torch.zeros(())})
    with pytest.raises(ShapeError, match=r"variable 'a' has shape \(2,\)"):
        graph.pack({"a": torch.zeros(3), "b": torch.zeros(())})
    with pytest.raises(ShapeError, match="different batch shapes"):
        graph.pack({"a": torch.zeros(4, 2), "b": torch.zeros(())})
    with pytest.raises(ShapeError, match=r"expected \[\*batch, 3\]"):
        graph.unpack(torch.zeros(4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.pack({"x0": 1.0, "x1": 2.0, "x2": 3.0}), "'x0' is of type float"),
        (lambda g: g.unpack(np.zeros(6)), "unpack: expected a tensor"),
        (lambda g: g.mask("x1"), r"Write \['x1'\]"),
        (lambda g: g.mask(["x1 "]), r"Did you mean 'x1'\?"),
        (lambda g: g.mask(["f1"]), "'f1' is a factor, not a variable"),
        (lambda g: g.observe({"x11": 1.0}), "observe: 'x11' is no variable"),
        (lambda g: g.elements("f9"), "no node is named 'f9'"),
    ],
)
def test_bad_names_and_values_are_explained_on_one_line(call, message: str) -> None:
    with pytest.raises(PgmdiffError, match=message) as raised:
        call(chain(3))
    assert "\n" not in str(raised.value)


def test_masks_by_variable_name() -> None:
    graph = FactorGraph.from_scopes({"f": ("a", "b")}, {"b": (3,), "a": (), "c": (2, 1)})
    assert graph.mask({"a", "c"}).tolist() == [False] * 3 + [True] * 3
    assert graph.mask([]).sum() == 0
    part = graph.mask({"b": torch.tensor([True, False, True]), "a": True, "c": False})
    assert part.tolist() == [True, False, True, True, False, False]
    with pytest.raises(GraphError, match="'f' is a factor, not a variable"):
        graph.mask(["f"])
    with pytest.raises(GraphError, match="collection of names"):
        graph.mask("a")
    with pytest.raises(ShapeError, match=r"boolean tensor of \(3,\), for variable 'b'"):
        graph.mask({"b": torch.tensor([True])})
    with pytest.raises(ShapeError, match=r"got torch\.int64"):
        graph.mask({"a": torch.tensor(1)})


def test_observe_is_what_pack_and_mask_say() -> None:
    graph = FactorGraph.from_scopes(
        {"f": ("a", "b"), "g": ("b", "c")}, {"a": (2,), "b": (), "c": (3,)}
    )
    c = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    y, mask = graph.observe({"c": c, "b": 7})
    whole = graph.pack({"a": torch.zeros(2), "b": torch.tensor(7.0), "c": c})
    torch.testing.assert_close(y, whole)
    assert torch.equal(mask, graph.mask(["b", "c"]))
    assert torch.equal(graph.observe({"c": 2})[0][mask & graph.mask(["c"])], torch.full((3,), 2.0))
    with pytest.raises(GraphError, match="'z' is no variable"):
        graph.observe({"z": 1.0})
    with pytest.raises(ShapeError, match=r"'c' has shape \(3,\), got a value of \(2,\)"):
        graph.observe({"c": torch.zeros(2)})
    empty, nothing = graph.observe({})
    assert not empty.any()
    assert not nothing.any()


def test_observe_of_samples_with_readings_of_their_own() -> None:
    graph = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (2,), "b": ()})
    a, b = torch.arange(6.0).reshape(3, 2), torch.tensor([7.0, 8.0, 9.0])
    y, mask = graph.observe({"a": a, "b": b}, batch=3)
    assert torch.equal(y, torch.cat([a, b[:, None]], dim=1))
    assert mask.all()
    shared, part = graph.observe({"a": a[0]}, batch=3)
    assert torch.equal(shared, torch.tensor([0.0, 1.0, 0.0]).expand(3, 3))
    assert part.tolist() == [True, True, False]
    assert graph.observe({"a": a[:0]}, batch=0)[0].shape == (0, 3)
    for batch in (-1, True, 2.0):
        with pytest.raises(ShapeError, match="expected batch as a number of samples"):
            graph.observe({"a": 1.0}, batch=batch)  # type: ignore[arg-type]
    for value in (a, torch.tensor([1.0, torch.nan])):
        with pytest.raises(
            ShapeError, match=r"'a' has shape \(2,\).*or one of these for each of 4"
        ):
            graph.observe({"a": value}, batch=4)


def test_observe_of_nested_variables_and_other_kinds_of_numbers() -> None:
    nested = chain(3, (2,)).nest({"x1": chain(2)})
    y, mask = nested.observe({"x1": 5.0})
    assert y.tolist() == [0, 0, 5, 5, 0, 0]
    assert mask.tolist() == [False, False, True, True, False, False]
    graph = chain(3)
    assert graph.observe({"x1": np.float64(2.5)})[0].tolist() == [0, 2.5, 0]
    wide = chain(2, (2,)).observe({"x0": np.array([0.1, 0.2])})[0]
    assert wide.dtype == torch.float64
    assert wide.tolist() == [0.1, 0.2, 0, 0]
    with pytest.raises(GraphError, match="expected a mapping from name to value, got list"):
        graph.observe(["x1"])
    for value in (1j, "much", None, torch.nan):
        with pytest.raises(ShapeError, match="Give finite real numbers of its shape"):
            graph.observe({"x1": value})
