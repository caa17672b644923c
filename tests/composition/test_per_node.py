"""The law of conditions per node: sample b is that of a joint composed with its own conditions."""

import pickle
import sys
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pgmdiff import (
    Average,
    Consistent,
    FactorGraph,
    Gaussian,
    GraphError,
    PgmdiffError,
    Posterior,
    ScoreError,
    ShapeError,
    check_consistency,
    compose,
    graphs,
    karras,
    per_node,
    sample,
    tiles,
)
from pgmdiff.composition import PerNode
from pgmdiff.conditioning import Mask, moment_matching
from pgmdiff.gaussian import node_covariances
from pgmdiff.samplers import Heun
from pgmdiff.scores import guided
from pgmdiff.store import fingerprint
from pgmdiff.testing.strategies import factor_graphs, nested_graphs

GRAPHS: dict[str, Any] = {
    "chain": graphs.chain(5),
    "ring": graphs.cycle(4),
    "windows": tiles((20,), 8, 4),
    "periodic": tiles((12,), 4, 2, periodic=True),
    "shifted": tiles((2, 11), (2, 4), (0, 1), remainder="shift"),
    "cubemap": graphs.cubemap(4, channels=2),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def score(x: Tensor, sigma: Tensor, c: Tensor, **more: Tensor) -> Tensor:
    """A function of x and of two numbers per row."""
    first, second = (c[:, k].reshape(-1, *[1] * (x.ndim - 1)) for k in (0, 1))
    return (first - x) * (1 + second * x.cos()) / (1 + sigma.reshape(first.shape) ** 2)


def counted(graph: Any) -> list[Any]:
    return [name for name, count in graph.regions.counting_numbers().items() if count]


def one_by_one(graph: Any, u: Tensor, names: list[Any], values: Tensor, **options: Any) -> Tensor:
    """The scores of joints composed for each sample."""
    several = []
    for one, own in zip(u, values, strict=True):
        told = {name: {"c": value} for name, value in zip(names, own, strict=True)}
        several.append(compose(graph, score, conditions=told, **options)(one[None], 0.7))
    return torch.cat(several)


@pytest.mark.parametrize("name", GRAPHS)
def test_each_sample_is_that_of_its_own_joint(name: str) -> None:
    graph = GRAPHS[name]
    names = counted(graph)[::-1]  # in any order
    u, values = draw(3, *graph.regions.event_shape), draw(3, len(names), 2, seed=1)
    for rule in (None, Average()):
        expected = one_by_one(graph, u, names, values, rule=rule)
        for max_batch in (None, 1, 2, 5):
            joint = compose(graph, score, rule=rule, max_batch=max_batch)
            for _ in range(2):  # with what the joint and the names have kept, too
                found = joint(u, 0.7, c=per_node(names, values))
                torch.testing.assert_close(found, expected)
    both = compose(graph, score)(
        u[:, None], 0.7, c=PerNode(per_node(names, values).nodes, values[:, None])
    )
    torch.testing.assert_close(both[:, 0], compose(graph, score)(u, 0.7, c=per_node(names, values)))
    assert compose(graph, score)(u[:0], 0.7, c=per_node(names, values[:0])).shape == u[:0].shape


@pytest.mark.filterwarnings("ignore:compose. regions .* hold the same elements")
@given(factor_graphs() | nested_graphs(), st.integers(1, 3), st.sampled_from([None, 1, 3]))
def test_any_graph(graph: FactorGraph, batch: int, max_batch: int | None) -> None:
    names = counted(graph)
    u, values = draw(batch, graph.regions.n_elements), draw(batch, len(names), 2, seed=1)
    found = compose(graph, score, max_batch=max_batch)(u, 0.7, c=per_node(names, values))
    torch.testing.assert_close(found, one_by_one(graph, u, names, values))


@pytest.mark.parametrize("rule", [Posterior, Consistent])
def test_rules_with_covariances_and_what_is_around_them(rule: Any) -> None:
    lags = (torch.arange(5)[:, None] - torch.arange(5)).abs().double()
    q, graph = Gaussian(torch.zeros(5).double(), 0.8**lags), GRAPHS["chain"]
    names, u = counted(graph), draw(3, 5)

    def shifted(name: Any) -> Any:
        own = q.marginal(graph.regions.elements(name))
        return lambda x, sigma, c: own.score(x - c.reshape(-1, *[1] * (x.ndim - 1)), sigma)

    models = {name: shifted(name) for name in names}
    values = draw(3, 1, seed=1).expand(3, len(names))  # one mean per sample, which all nodes share
    told = per_node(names, values)
    joint = compose(graph, models, rule=rule(node_covariances(graph, q)))
    y, known = draw(5), Mask(torch.arange(5) < 2)
    for around in (lambda s: s, lambda s: moment_matching(s, y, known, noise=0.1)):
        expected = torch.cat(
            [
                around(lambda x, s, m=m: q.score(x - m, s))(u[[k]], 0.7)
                for k, m in enumerate(values[:, 0])
            ]
        )
        for inner in (joint, joint.remembering()):
            torch.testing.assert_close(around(partial(inner, c=told))(u, 0.7), expected)
            torch.testing.assert_close(around(inner)(u, 0.7, c=told), expected)


def test_who_receives_what() -> None:
    """Given at the call < null_condition < a node's own < per node."""
    strip, seen = graphs.chain(4), dict[str, Any]()

    def noted(name: Any) -> Any:
        def model(x: Tensor, sigma: Tensor, c: Any = None) -> Tensor:
            seen[name] = None if c is None else c.tolist()
            return -x

        return model

    names = counted(strip)
    scores, u = {name: noted(name) for name in names}, torch.zeros(2, 4)
    null, own = {"c": torch.tensor(7)}, {"f0": {"c": torch.tensor(5)}}
    joint = compose(strip, scores, conditions=own, null_condition=null)
    joint(u, 1.0, c=per_node(["x1", "f1"], torch.tensor([[1, 2], [3, 4]])))
    assert seen == {"f0": [5, 5], "f1": [2, 4], "f2": None, "x1": [1, 3], "x2": [7, 7]}
    joint(u, 1.0, c=per_node(names, torch.arange(10).reshape(2, 5)))
    assert seen == {name: [k, 5 + k] for k, name in enumerate(names)}


def test_nodes_of_one_call_keep_what_is_not_given() -> None:
    graph, u = graphs.chain(4), draw(2, 4)
    names = list(graph.factors)
    values = draw(2, 1, 2, seed=1)
    own = {name: {"c": draw(2, seed=k)} for k, name in enumerate(counted(graph))}
    found = compose(graph, score, conditions=own)(u, 0.7, c=per_node(names[1:2], values))
    for row in range(2):
        told = {**own, names[1]: {"c": values[row, 0]}}
        torch.testing.assert_close(
            found[row : row + 1], compose(graph, score, conditions=told)(u[row : row + 1], 0.7)
        )


def test_gradients_reach_the_values() -> None:
    graph, u = GRAPHS["windows"], draw(2, 20)
    names = counted(graph)
    values, direction = draw(2, len(names), 2, seed=1).requires_grad_(), draw(2, 20, seed=2)
    expected = torch.autograd.grad((one_by_one(graph, u, names, values) * direction).sum(), values)
    for checkpoint in (False, True):
        joint = compose(graph, score, max_batch=3, checkpoint=checkpoint)
        found = joint(u, 0.7, c=per_node(names, values))
        torch.testing.assert_close(torch.autograd.grad((found * direction).sum(), values), expected)


def test_nobody_gets_the_memory_of_the_values() -> None:
    strip, values = tiles((8,), 8, 0), torch.ones(1, 1, 3)

    def greedy(x: Tensor, sigma: Tensor, c: Tensor) -> Tensor:
        c.zero_()
        return -x

    compose(strip, greedy)(torch.zeros(1, 8), 1.0, c=per_node(strip.pieces, values))
    assert values.all()


def test_another_device_agrees_with_the_cpu(there: torch.device) -> None:
    graph, u = GRAPHS["shifted"], draw(2, 2, 11)
    names, joint = counted(graph)[1:], compose(graph, score, null_condition={"c": torch.zeros(2)})
    told = per_node(counted(graph), draw(2, len(names) + 1, 2, seed=1))
    for device in ("cpu", there):
        given = per_node(told.nodes, told.values.to(device))
        torch.testing.assert_close(joint(u.to(there), 0.7, c=given).cpu(), joint(u, 0.7, c=told))


def test_it_compiles() -> None:
    graph, u = GRAPHS["windows"], draw(2, 20)
    told, joint = per_node(counted(graph), draw(2, len(counted(graph)), 2)), compose(graph, score)
    expected = joint(u, 0.7, c=told)
    whole = torch.compile(lambda u: joint(u, 0.7, c=told), backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(u), expected)


def test_guidance_around_a_joint() -> None:
    graph, u, w = GRAPHS["windows"], draw(2, 20), torch.tensor([0.5, 3.0]).double()
    names = counted(graph)
    values, empty = draw(2, len(names), 2, seed=1), draw(len(names), 2, seed=2)
    joint = compose(graph, score)
    none, told = joint(u, 0.7, c=per_node(names, empty.expand(2, -1, -1))), per_node(names, values)
    expected = none + w[:, None] * (joint(u, 0.7, c=told) - none)
    around = guided(joint, {"c": PerNode(told.nodes, empty)})
    torch.testing.assert_close(around(u, 0.7, c=told, guidance=w), expected)
    for null in (0.0, torch.zeros(2)):  # of every node
        none = joint(u, 0.7, c=PerNode(told.nodes, 0 * values))
        expected = none + w[:, None] * (joint(u, 0.7, c=told) - none)
        found = guided(joint, {"c": null})(u, 0.7, c=told, guidance=w)
        torch.testing.assert_close(found, expected)


def test_samples_and_saved_runs(tmp_path: Any) -> None:
    graph = GRAPHS["windows"]
    names = counted(graph)
    told, joint = per_node(names, draw(3, len(names), 2, seed=1)), compose(graph, score)
    run = partial(sample, sigmas=karras(6, 0.1, 10.0), solver=Heun(), generator=[4, 5, 6])
    run = partial(run, shape=(3, 20), dtype=torch.float64)
    found = run(partial(joint, c=told))
    for row in range(3):
        own = dict(zip(names, ({"c": c} for c in told.values[row]), strict=True))
        alone = sample(
            compose(graph, score, conditions=own), karras(6, 0.1, 10.0), shape=(1, 20),
            solver=Heun(), generator=4 + row, dtype=torch.float64,
        )  # fmt: skip
        torch.testing.assert_close(found[row : row + 1], alone)
    for _ in range(2):
        assert torch.equal(run(partial(joint, c=told), run=tmp_path), found)
    other = per_node(names, told.values + 1)
    with pytest.raises(PgmdiffError, match="belongs to another run: expected score"):
        run(partial(joint, c=other), run=tmp_path)
    for copy in (pickle.loads(pickle.dumps(told)), deepcopy(told)):
        assert fingerprint(copy) == fingerprint(told)
        assert torch.equal(joint(draw(3, 20), 0.7, c=copy), joint(draw(3, 20), 0.7, c=told))


def test_check_consistency_accepts_it() -> None:
    graph, x = GRAPHS["windows"], draw(200, 20)
    names, c = counted(graph), draw(200, 1, 2, seed=1)
    whole = check_consistency(graph, score, x, generator=0, c=c[:, 0])
    told = per_node(names, c.expand(-1, len(names), -1))
    assert check_consistency(graph, score, x, generator=0, c=told).rows == whole.rows


# ---------------------------------------------------------------- what overlaps share


@given(factor_graphs(), st.integers(0, 99), st.booleans())
def test_overlaps_share_what_the_pieces_around_them_share(
    graph: FactorGraph, seed: int, vectors: bool
) -> None:
    names = graph.regions.pieces[len(graph.regions.pieces) > 1 and seed % 2 :]
    stream = torch.Generator().manual_seed(seed)
    values = torch.randint(2, (4, len(names), *([2] * vectors)), generator=stream)
    null = torch.tensor([8, 9]) if vectors else torch.tensor(9)
    found = per_node(names, values).shared(graph, null)
    assert set(found.nodes) == set(graph.regions.names)
    for row in range(4):
        told = {name: {"c": value} for name, value in zip(names, values[row], strict=True)}
        expected = graphs.shared_conditions(graph, told)
        for name, value in zip(found.nodes, found.values[row], strict=True):
            assert torch.equal(value, expected.get(name, {"c": null})["c"])


def test_the_null_value_has_the_shape_of_a_value() -> None:
    strip = tiles((16,), 8, 4)
    told = per_node(strip.pieces, torch.zeros(2, 3, 4))
    assert told.shared(strip, 1.0).values.shape == (2, 5, 4)
    with pytest.raises(ShapeError, match=r"the null value as a number or \(4,\), .* got \(1, 4\)"):
        told.shared(strip, torch.zeros(1, 4))
    classes = per_node(strip.pieces, torch.zeros(2, 3, dtype=torch.uint8))
    for null in (2.5, -1, 256, torch.tensor(2.0)):
        with pytest.raises(ShapeError, match=r"expected the null value as what torch\.uint8"):
            classes.shared(strip, null)
    assert classes.shared(strip, 255.0).values.dtype == torch.uint8
    with pytest.raises(GraphError, match=r"is given for '\[0:8\]', which is no region"):
        told.shared(tiles((16,), 4, 2), 0)


# ---------------------------------------------------------------- bad input


def test_bad_values_are_named() -> None:
    with pytest.raises(GraphError, match="the node 'a' is named twice"):
        per_node(["a", "b", "a"], torch.zeros(1, 3))
    with pytest.raises(GraphError, match="at least one node, got none"):
        per_node([], torch.zeros(1, 0))
    with pytest.raises(GraphError, match=r"\['a'\] of type list cannot be a name"):
        per_node([["a"]], torch.zeros(1, 1))
    with pytest.raises(ShapeError, match=r"got ndarray \[2, 2\] float64"):
        per_node(["a", "b"], np.zeros((2, 2)))
    for values in (torch.zeros(2, 3), torch.zeros(2), [[1, 2]], torch.tensor(1.0)):
        with pytest.raises(ShapeError, match=r"per_node: expected a tensor \[batch, 2, \.\.\.\]"):
            per_node(["a", "b"], values)


def test_bad_calls_are_named() -> None:
    strip, u = tiles((16,), 8, 4), torch.zeros(2, 16)
    joint, every = compose(strip, score), per_node(strip.names, torch.zeros(2, 5, 2))
    with pytest.raises(GraphError, match=r"is given for '\[0:9\]', which is no region.* '\[0:8\]'"):
        joint(u, 1.0, c=per_node(["[0:9]"], torch.zeros(2, 1)))
    with pytest.raises(ShapeError, match=r"start with the batch shape \(3,\), got a tensor of \(2"):
        joint(torch.zeros(3, 16), 1.0, c=every)
    with pytest.raises(ShapeError, match=r"for node '\[0:8\]', but node '\[4:12\]'.* has None"):
        joint(u, 1.0, c=per_node(strip.pieces[:1], torch.zeros(2, 1, 2)))
    null = compose(strip, score, conditions={n: {"c": torch.zeros(3)} for n in strip.names})
    words = r"has values \(2,\) torch.float32 for node .* has \(3,\) torch.float32"
    with pytest.raises(ShapeError, match=words):
        null(u, 1.0, c=per_node(strip.pieces[:1], torch.zeros(2, 1, 2)))
    with pytest.raises(ShapeError, match=r"\(3,\) torch.int64 for node .* \(3,\) torch.float32"):
        null(
            u, 1.0, c=per_node(strip.pieces[:1], torch.ones(2, 1, 3).long())
        )  # others would be cut
    with pytest.raises(ShapeError, match=r"'c' holds PerNode\(5 nodes, .* keywords of their own"):
        joint(u, 1.0, c={"deep": every})


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions take notes from Python 3.11 on")
def test_what_a_model_raises_comes_with_the_conditions_that_may_be_wrong() -> None:
    strip, u = tiles((16,), 8, 4), torch.zeros(2, 16)

    def labelled(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        return label.reshape(-1, 1) - x

    told = {name: {"label": torch.tensor([0, 2, 1])} for name in strip.names}
    with pytest.raises(RuntimeError, match="size of tensor") as raised:
        compose(strip, labelled, conditions=told)(u, 1.0)
    (note,) = raised.value.__notes__
    assert "conditions are label [3]: conditions of nodes have no batch axis" in note
    assert "per_node(...)" in note
    for value, text in ((0, "label=0, which"), ([0, 2], "label=[0, 2], which")):
        with pytest.raises(AttributeError, match="no attribute 'reshape'") as raised:
            compose(strip, labelled)(u, 1.0, label=value)
        (note,) = raised.value.__notes__
        assert f"The call was given {text} models receive as it is" in note
    with pytest.raises(RuntimeError, match="size of tensor") as raised:
        compose(strip, labelled)(u, 1.0, label=torch.zeros(2, 3))
    assert raised.value.__notes__[0].endswith("entry 0 on.")


def test_compose_refuses_it() -> None:
    strip, every = tiles((16,), 8, 4), per_node(tiles((16,), 8, 4).names, torch.zeros(2, 5, 2))
    for options in (
        {"conditions": {"c": every}},
        {"conditions": {"[0:8]": {"c": every}}},
        {"conditions": {"[0:8]": {"c": {"deep": every}}}},
        {"null_condition": {"c": every}},
    ):
        with pytest.raises(ScoreError, match=r"PerNode\(5 .* keyword of the joint's call"):
            compose(strip, score, **options)


def test_arrays_are_no_conditions() -> None:
    """They would reach the network without the axis of rows."""
    strip, u = tiles((16,), 8, 4), torch.zeros(2, 16)
    values = torch.zeros(2, 2).numpy()
    with pytest.raises(ScoreError, match=r"the condition 'c' is an array \(2, 2\), expected a ten"):
        compose(strip, score)(u, 1.0, c=values)
    for conditions in ({name: {"c": values} for name in strip.names}, {"[0:8]": {"c": [values]}}):
        with pytest.raises(ScoreError, match=r"the condition 'c' is an array \(2, 2\)"):
            compose(strip, score, conditions=conditions)
