import contextlib
import json
import os
import subprocess
import sys
import tracemalloc
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_structure

from pgmdiff import GraphError, compose
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    cycle,
    fingerprint,
    from_json,
    grid,
    serialization,
    tiles,
    to_json,
)
from pgmdiff.testing.strategies import factor_graphs
from tests.graphs.test_factor_graph import same

CONDITIONS = {
    "f": {"prompt": [torch.randn(3, generator=torch.Generator().manual_seed(0)), ("a", None, 0.1)]},
    "g": {"mask": torch.tensor([[True, False]]), "n": 3},
}
CONDITIONED = FactorGraph.from_scopes(
    {"f": ("x", ("y", 1)), "g": (("y", 1), 2.5)},
    {("y", 1): (2,), "x": (), 2.5: (1, 2)},
    models={"f": frozenset({"m", 3})},
    conditions=CONDITIONS,
    variable_model=True,
)
SAMPLES = [
    CONDITIONED,
    chain(0),
    grid(2, 3),
    cluster_variation([("a", "b", "c"), ("b", "c", "d")]),
    tiles((3, 24, 20), (3, 8, 8), (0, 4, 5), (False, True, False), remainder="shift"),
    RegionGraph.from_regions(
        {"a": [0, 1], "b": [1, 2], "c": [2, 0]}, {"a": 1, "b": 1, "c": 1}, event_shape=(3,),
        denominator=2,
    ),
]  # fmt: skip


@pytest.mark.parametrize("graph", SAMPLES, ids=repr)
def test_round_trip_is_exact(graph) -> None:
    again = from_json(to_json(graph))
    assert type(again) is type(graph)
    assert to_json(again) == to_json(graph)
    assert fingerprint(again) == fingerprint(graph)
    regions, other = (g.regions if isinstance(g, FactorGraph) else g for g in (graph, again))
    assert other.counting_numbers() == regions.counting_numbers()
    assert all(torch.equal(other.elements(n), regions.elements(n)) for n in regions.names)
    assert [g.model for g in other.groups] == [g.model for g in regions.groups]
    assert str(again.validate()) == str(graph.validate())


@settings(max_examples=30)
@given(factor_graphs())
def test_round_trip_of_any_graph(graph: FactorGraph) -> None:
    assert same(from_json(to_json(graph)), graph)


def test_conditions_come_back_bit_for_bit() -> None:
    conditions = from_json(to_json(CONDITIONED)).conditions
    (tensor, rest), mask = conditions["f"]["prompt"], conditions["g"]["mask"]
    assert torch.equal(tensor, CONDITIONS["f"]["prompt"][0])
    assert rest == ("a", None, 0.1)
    assert mask.dtype == torch.bool
    assert conditions["g"]["n"] == 3


TREE = {"f": {"z": {"b": 1, "a": {3: torch.ones(1), (1, "q"): [{"y": 1, "x": {}}]}}, "A": 2.5}}


def reverse(tree: object) -> object:
    """The same tree with the dicts in it in another order."""
    if isinstance(tree, dict):
        return {key: reverse(value) for key, value in reversed(tree.items())}
    return [reverse(each) for each in tree] if isinstance(tree, list) else tree


def test_dicts_keep_their_order_and_fingerprints_ignore_it() -> None:
    """torch's pytrees tell dicts of another order apart, whose values are then other leaves."""
    prints = set()
    for tree in (TREE, reverse(TREE)):
        graph = FactorGraph.from_scopes({"f": ("x",)}, conditions=tree)  # type: ignore[arg-type]
        again = from_json(to_json(graph))
        assert repr(dict(again.conditions)) == repr(tree)
        assert tree_structure(dict(again.conditions)) == tree_structure(tree)
        assert to_json(again) == to_json(graph)
        prints.add(fingerprint(graph))
    assert prints == {"abc30460fb65bb54f7d7833aefbd418ff94fec067bfe1fce02d54111c9c7240b"}, (
        "that of version 1"
    )


def test_a_loaded_graph_composes() -> None:
    def score(x, sigma):
        return -x.cumsum(-1)

    graph = SAMPLES[4]
    u = torch.randn(2, *graph.event_shape, generator=torch.Generator().manual_seed(0))
    loaded = compose(from_json(to_json(graph)), score)(u, 1.0)
    assert torch.equal(loaded, compose(graph, score)(u, 1.0))


ACROSS = """
from pgmdiff.graphs import cluster_variation, fingerprint, junction_tree
scopes = [("a", "b", "c"), ("c", "d"), ("d", "e", "a"), ("e", "f"), ("f", "b")]
graphs = cluster_variation(scopes), junction_tree(scopes, max_clique=6)
names = [[sorted(name) for name in graph.names] for graph in graphs]
elements = [[group.flat().tolist() for group in graph.groups] for graph in graphs]
found = repr((names, elements, [fingerprint(graph) for graph in graphs]))
"""


def test_order_and_fingerprints_do_not_depend_on_the_process() -> None:
    """Strings have other hashes there, so that sets of them have another order."""
    here: dict[str, str] = {}
    exec(ACROSS, here)
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    there = subprocess.run(
        [sys.executable, "-c", ACROSS + "print(found)"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": seed},
    )
    assert there.stdout.strip() == here["found"]


def test_fingerprints_tell_graphs_apart() -> None:
    assert len({fingerprint(graph) for graph in SAMPLES}) == len(SAMPLES)
    assert fingerprint(chain(3)) != fingerprint(chain(3, (1,)))


def test_variables_of_a_region_graph_are_stored() -> None:
    graph = cluster_variation(FactorGraph.from_scopes({"f": ("b", "a")}, {"a": (2,), "b": (1, 2)}))
    again = from_json(to_json(graph))
    u = torch.arange(4.0)
    assert list(again.unpack(u)) == ["a", "b"]
    assert all(torch.equal(x, graph.unpack(u)[n]) for n, x in again.unpack(u).items())
    document = json.loads(to_json(graph))
    for variables, message in (
        ([["a", [3]]], "variables have 3 elements, but the state has 4"),
        ([["a", [0]]], "variable 'a' has shape"),
        ([[["a"], [4]]], "expected a tagged value"),
        ([["a", [2**40, 2**40]]], "malformed"),
    ):
        with pytest.raises(GraphError, match=message):
            from_json(json.dumps({**document, "variables": variables}))


def test_what_cannot_be_stored_is_named() -> None:
    with pytest.raises(GraphError, match="type object cannot be stored"):
        to_json(FactorGraph.from_scopes({object(): ("a",)}))
    with pytest.raises(GraphError, match="got dict"):
        to_json({})  # type: ignore[arg-type]


GOOD = {"f": json.loads(to_json(CONDITIONED)), "t": json.loads(to_json(SAMPLES[4]))}


def altered(graph: str, *path: object, to: object) -> str:
    document = json.loads(json.dumps(GOOD[graph]))
    inside = document
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = to
    return json.dumps(document)


def tensor_condition(content: list) -> str:
    return altered("f", "conditions", to=[["f", {"dict": [["y", {"tensor": content}]]}]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        (to_json(CONDITIONED)[:100], "not JSON, or only a part"),
        ("[" * 100_000, "not JSON"),
        ("NaN", "not JSON"),
        ("graphs/g.json", "looks like a path"),
        ("[]", "not a graph of pgmdiff"),
        ('{"pgmdiff":2}', "expected version 1, got 2"),
        ('{"pgmdiff":true}', "expected version 1"),
        ('{"pgmdiff":1,"kind":"os.system"}', "expected a kind"),
        ('{"pgmdiff":1,"kind":["x"]}', "expected a kind"),
        ('{"pgmdiff":1,"kind":"FactorGraph"}', "malformed"),
        (altered("f", "scopes", 0, to=[-1]), "no negative number"),
        (altered("f", "scopes", 0, to=[99]), "malformed"),
        (altered("f", "scopes", 0, to=[0, 0]), "twice"),
        (altered("f", "scopes", to=[]), "malformed"),
        (altered("f", "shapes", 0, to=[0]), "at least 1"),
        (altered("f", "shapes", 0, to="ab"), "tuple of integers"),
        (altered("f", "variables", 0, to="x"), "listed twice"),
        (altered("f", "variables", 0, to={"tuple": [{"list": []}]}), "malformed"),
        (altered("f", "variables", 0, to={"pickle": "gASV"}), "expected a known tag, got 'pickle'"),
        (altered("f", "variables", 0, to=[1]), "tagged value"),
        (tensor_condition(["object", [1], ""]),
         "dtype of ['float32'"),
        (tensor_condition(["int64", [9], "AAAA"]),
         "malformed"),
        (altered("f", "axis", to="0"), "expected an integer"),
        (altered("t", "event_shape", 1, to=10**30), "expected an integer"),
        (altered("t", "event_shape", 1, to=25), "windows of a state of shape (3, 25, 20)"),
        (altered("t", "groups", 0, "windows", 1, "length", to=99), "fit the size of axis 1"),
        (altered("t", "groups", 0, "windows", 1, "starts", to=[24]), "fit the size of axis 1"),
        (altered("t", "groups", 0, "windows", 1, "outer", to=1), "true or false"),
        (altered("t", "denominator", to=0), "expected a positive integer as denominator"),
        (altered("t", "junction_tree", to="yes"), "junction_tree"),
    ],
)  # fmt: skip
def test_bad_files_are_named(text: str, message: str) -> None:
    with pytest.raises(GraphError) as error:
        from_json(text)
    assert message in str(error.value)


def test_a_small_file_cannot_ask_for_a_huge_graph() -> None:
    axis = {"size": 2000, "length": 1, "starts": list(range(2000)), "count": 1, "outer": True}
    document = {
        "pgmdiff": 1, "kind": "RegionGraph", "event_shape": [2000] * 5, "denominator": 1,
        "junction_tree": None, "conditions": [], "groups": [{"windows": [axis] * 5}],
    }  # fmt: skip
    with pytest.raises(GraphError, match="at most"):
        from_json(json.dumps(document))


BARE = {"pgmdiff": 1, "kind": "RegionGraph", "event_shape": [3], "denominator": 1,
        "junction_tree": None, "conditions": [], "groups": []}  # fmt: skip
PAIR = json.loads(to_json(FactorGraph.from_scopes({"f": ("a", "b")})))
ALONE = {**PAIR, "factors": [], "scopes": []}


def axis(size: int, length: int, starts: list[int]) -> dict:
    return {"size": size, "length": length, "starts": starts, "count": 1, "outer": True}


def deep(depth: int) -> dict:
    return (
        {**PAIR, "nested": [["f", deep(depth - 1)]]} if depth else {**PAIR, "shapes": [[2**23]] * 2}
    )


def named(names: list) -> dict:
    return {**ALONE, "variables": names, "shapes": [[]] * len(names)}


ALIKE = [k * (2**61 - 1) for k in range(200)]
SIGNS = [{"tuple": list(signs)} for signs in product([-1, -2], repeat=7)]
HOSTILE = {
    "a state without regions": ({**BARE, "event_shape": [2**28]}, "neither listed nor"),
    "a window of everything": (
        {**BARE, "event_shape": [2**28], "groups": [{"windows": [axis(2**28, 2**28, [0])]}]},
        "expected at most",
    ),
    "long windows": (
        {**BARE, "event_shape": [2**21], "groups": [
            {"windows": [axis(2**21, 2**21, list(range(50)))]}]},
        "expected at most",
    ),
    "many groups": (
        {**BARE, "event_shape": [2**20], "groups": [{"windows": [axis(2**20, 2**20, [0])]}] * 9},
        "expected at most",
    ),
    "two large variables": ({**PAIR, "shapes": [[2**26], [2**26]]}, "expected at most"),
    "nested graphs together": (deep(3), "expected at most"),
    "axes of a state": ({**BARE, "event_shape": [1] * 70}, "at most 32 axes"),
    "axes of a variable": (named(["x"]) | {"shapes": [[1] * 70]}, "at most 32 axes"),
    "integers with one hash": (named(ALIKE), "names with one hash"),
    "tuples with one hash": (named(SIGNS), "names with one hash"),
    "model ids with one hash": (
        named([*"ab"]) | {"models": [["a", each] for each in ALIKE]}, "names with one hash"
    ),
    "a set of names with one hash": (named([{"frozenset": ALIKE}]), "names with one hash"),
    "keys with one hash": (
        {**PAIR, "conditions": [["f", {"dict": [["y", {"dict": [[k, 0] for k in ALIKE]}]]}]]},
        "names with one hash",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_a_small_file_asks_for_is_refused_before_it_is_made(kind: str) -> None:
    document, message = HOSTILE[kind]
    text = json.dumps(document)
    tracemalloc.start()
    try:
        with pytest.raises(GraphError, match=message):
            from_json(text)
        assert tracemalloc.get_traced_memory()[1] < 1e6 + 100 * len(text)
    finally:
        tracemalloc.stop()


def test_many_nodes_may_share_a_model() -> None:
    graph = FactorGraph.from_scopes(
        {k: (("x", k),) for k in range(300)}, models=dict.fromkeys(range(300), ALIKE[5])
    )
    assert same(from_json(to_json(graph)), graph)


@pytest.mark.parametrize("depth", [150, 320])
def test_nested_graphs_that_are_written_are_read(depth: int) -> None:
    graph = chain(2)
    for _ in range(depth):
        graph = FactorGraph.from_scopes({"f": ("a",)}, {"a": (2,)}).nest({"f": graph})
    if depth < 200:
        assert fingerprint(from_json(to_json(graph))) == fingerprint(graph)
    else:
        with pytest.raises(GraphError, match="nested too deeply"):
            to_json(graph)


@given(st.data())
def test_no_truncation_or_mutation_gets_through_unnamed(data: st.DataObject) -> None:
    text = to_json(SAMPLES[data.draw(st.integers(0, len(SAMPLES) - 1))])
    place = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from([*'0-9"[]{}ax,:', "", '"x"', "null", "1e9"]))
    with contextlib.suppress(GraphError):
        from_json(text[:place] + letter + text[place + data.draw(st.integers(0, 2)) :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nested": [["f0", [1]]]}, "expected a graph, got"),
        ({"nested": [["f0", "chain"]]}, "expected a graph, got"),
        ({"shapes": [[10**12], [1]]}, "expected at most"),
        ({"shapes": [[10**9], [1]]}, "expected at most"),
    ],
)
def test_hostile_factor_graphs_are_named(change: dict, message: str) -> None:
    document = json.loads(to_json(FactorGraph.from_scopes({"f0": ("a", "b")}, {"a": (), "b": ()})))
    with pytest.raises(GraphError, match=message):
        from_json(json.dumps({**document, **change}))


def test_hostile_region_graphs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(to_json(chain(3).regions))
    large = tiles((20000, 20000), (64, 64), (32, 32))
    assert fingerprint(from_json(to_json(large))) == fingerprint(large)
    monkeypatch.setattr(serialization, "MAX_ELEMENTS", 6)
    with pytest.raises(GraphError, match="at most 6 elements, got 7"):
        to_json(chain(3))
    for change in ({"event_shape": [10**14], "groups": []}, {"event_shape": [10**12]}):
        with pytest.raises(GraphError, match="expected at most"):
            from_json(json.dumps({**document, **change}))
    huge = json.loads(to_json(chain(3).regions))
    huge["groups"][0]["counts"] = [2**62, 2**62]
    with pytest.raises(GraphError, match="too large to be summed exactly"):
        from_json(json.dumps(huge))
    twice = json.loads(to_json(chain(3).regions))
    twice["groups"][0]["names"] = ["f0", "f0"]
    with pytest.raises(GraphError, match="two regions share a name"):
        from_json(json.dumps(twice))
    with pytest.raises(GraphError, match="expected text, got a NoneType"):
        from_json(None)


def test_a_claim_in_a_file_is_checked() -> None:
    document = json.loads(to_json(cycle(4).regions))
    document["junction_tree"] = True
    assert from_json(json.dumps(document)).validate().junction_tree is False
