"""Names: what cannot be one is refused at every door, and what is misspelt is noticed."""

from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import eye
from torch.nn import Linear

from pgmdiff import (
    Consistent,
    GraphError,
    PgmdiffError,
    Posterior,
    ScoreError,
    ShapeError,
    compose,
    fit_covariances,
)
from pgmdiff.diagnostics import node_samples
from pgmdiff.gaussian import from_region_covariances
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    fingerprint,
    from_json,
    grid,
    junction_tree,
    markov_random_field,
    named_tree,
    to_json,
)
from pgmdiff.graphs.names import check_names
from pgmdiff.plotting import plot
from pgmdiff.training import crops, fit

Door = Callable[[Any, Any], object]
DOORS: dict[str, Door] = {
    "variables": lambda a, b: FactorGraph.from_scopes({"f": (a, b)}),
    "variables with shapes": lambda a, b: FactorGraph.from_scopes({"f": (a, b)}, {a: (), b: ()}),
    "isolated": lambda a, b: FactorGraph.from_scopes({}, {a: (), b: ()}),
    "factors": lambda a, b: FactorGraph.from_scopes({a: ("x",), b: ("x",)}),
    "arrays": lambda a, b: FactorGraph.from_arrays([[0, 1]], variables=[a, b]),
    "array factors": lambda a, b: FactorGraph.from_arrays([[0, 1], [1, 2]], factors=[a, b]),
    "lattice": lambda a, b: grid(1, 2, variables=[a, b]),
    "model": lambda a, b: FactorGraph.from_scopes({"f": ("x",)}, models={"f": a}),
    "factor model": lambda a, b: chain(3, factor_model=a),
    "regions": lambda a, b: RegionGraph.from_regions({a: [0], b: [1]}, event_shape=(2,)),
    "list": lambda a, b: cluster_variation([(a, b)]),
    "junction tree": lambda a, b: junction_tree([(a, b), (b, "z")]),
    "tree": lambda a, b: named_tree({a: "root", b: "root"}),
    "tree parents": lambda a, b: named_tree({"left": a, "right": b}),
    "edges": lambda a, b: markov_random_field(nx.Graph([(a, b)])),
    "networkx": lambda a, b: FactorGraph.from_networkx(_drawn(a, b)),
}


def _drawn(a: Any, b: Any) -> nx.Graph:
    drawn = nx.Graph()
    drawn.add_nodes_from([a, b], bipartite=0)
    drawn.add_node("f", bipartite=1)
    drawn.add_edges_from([("f", a), ("f", b)])
    return drawn


NAN = float("nan")
NOT_NAMES = [
    (lambda: torch.tensor(0), r"tensor\(0\) of type Tensor cannot be a name.*\.tolist\(\)"),
    (lambda: (torch.tensor(0), "a"), "Tensor cannot be a name"),
    (lambda: frozenset([torch.zeros(2)]), "Tensor cannot be a name"),
    (lambda: float("nan"), "nan of type float"),
    (lambda: np.float32("nan"), "nan.* of type float32"),
    (lambda: ("a", (1, float("nan"))), "nan of type float"),
    (lambda: np.datetime64("NaT"), "NaT.* of type datetime64"),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("make", "message"), NOT_NAMES, ids=[m for _, m in NOT_NAMES])
def test_what_equals_no_copy_of_itself_is_no_name(
    door: str, make: Callable[[], Any], message: str
) -> None:
    """Each would be a node of its own wherever it is listed."""
    if door == "tree parents" and "float" in message and not isinstance(make(), tuple):
        message = "the parent of 'left' is .*nan.*Give None"
    with pytest.raises(GraphError, match=message):
        DOORS[door](make(), make())


def test_unhashable_parts_of_names_are_named() -> None:
    for name in (["a"], (["a"], 1), {"a": 1}):
        with pytest.raises(GraphError, match="names must be hashable"):
            check_names("here", [name])
    with pytest.raises(GraphError, match=r"tensor\(0\).*\.tolist"):
        cluster_variation(torch.tensor([[0, 1, 2], [1, 2, 0]]).T)
    loop = cluster_variation(torch.tensor([[0, 1, 2], [1, 2, 0]]).T.tolist())
    assert loop.n_elements == 3


SCALARS = [np.int64(3), np.int32(3), np.uint8(3), np.float64(0.5), np.str_("a"), np.bool_(True)]


@pytest.mark.parametrize("door", [d for d in DOORS if d not in ("model", "factor model")])
@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: type(s).__name__)
def test_numpy_scalars_are_the_names_that_they_equal(door: str, scalar: Any) -> None:
    other = np.str_("other")
    graph, plain = DOORS[door](scalar, other), DOORS[door](scalar.item(), "other")
    assert graph.counting_numbers() == plain.counting_numbers()
    assert fingerprint(graph) == fingerprint(plain)
    assert from_json(to_json(graph)).counting_numbers() == plain.counting_numbers()


def test_numpy_scalars_are_drawn() -> None:
    names = [np.int64(1), np.str_("b"), (np.int64(0), "c"), np.float64(0.5)]
    graph = FactorGraph.from_scopes({np.int64(7): names[:2], (1, "f"): names[1:]})
    nested = graph.nest({np.int64(7): chain(2)})
    for each in (nested, cluster_variation(graph), graph.regions):
        plot(each)
    lattice = [(np.int64(i), np.int64(j)) for i in range(2) for j in range(2)]
    drawn = plot(grid(2, 2, variables=lattice, factors=[*"abcd"]))
    assert drawn.get_size_inches() == pytest.approx(plot(grid(2, 2)).get_size_inches(), rel=0.2)
    plot(FactorGraph.from_scopes({"f": ((10**30, 1), (2, 1))}))  # no lattice of that size
    mixed = FactorGraph.from_scopes(
        {"f": ("a", "b"), "g": ("b", "c")}, models={"f": np.int64(3), "g": (1, 2)}
    )
    assert {group.model for group in mixed.regions.groups} == {3, (1, 2), None}


SPELLING = [
    (lambda: markov_random_field(nx.path_graph(["hip", "knee"]), {"hpi": (2,)}), "hip"),
    (lambda: named_tree({"knee": "hip"}, {"hip": (), "knee": (), "kneee": ()}), "knee"),
    (lambda: FactorGraph.from_scopes({"f": ("hip", "kne")}, {"hip": (), "knee": ()}), "knee"),
    (lambda: cluster_variation([("hip", "kne")], {"hip": (), "knee": ()}), "knee"),
    (lambda: FactorGraph.from_scopes({"bone": ("hip",)}, models={"bnoe": 1}), "bone"),
    (lambda: FactorGraph.from_scopes({"bone": ("hip",)}, conditions={"bnoe": {}}), "bone"),
    (lambda: FactorGraph.from_scopes({"bone": ("hip",)}).nest({"bnoe": chain(1)}), "bone"),
    (lambda: FactorGraph.from_scopes({"bone": ("hip",)}).elements("hpi"), "hip"),
    (lambda: FactorGraph.from_scopes({"bone": ("hip",)}).regions.elements("hpi"), "hip"),
    (lambda: FactorGraph.from_scopes({"bone": ("hip",)}).mask(["hpi"]), "hip"),
    (lambda: FactorGraph.from_scopes({"b": ("hip",)}).pack({"hpi": torch.zeros(())}), "hip"),
    (lambda: _windows(models={"lefft": "w"}), "left"),
    (lambda: _windows({"lefft": 1, "right": 1}), "le"),
    (lambda: _windows(conditions={"lefft": {}}), "left"),
    (lambda: compose(chain(3), {"f0": minus, "f1": minus, "x_1": minus}), "x1"),
    (lambda: compose(_bone(), {"bone": minus, "kne": minus}), "knee"),
    (lambda: compose(_bone(), minus, conditions={"bnoe": {}}), "bone"),
    (
        lambda: compose(
            _bone(),
            minus,
            conditions={"bone": {"text": torch.zeros(2)}},
            null_condition={"txet": torch.zeros(2)},
        ),
        "text",
    ),
    *(
        (lambda rule=rule: compose(_bone(), minus, rule=rule(BLOCKS | {"kne": eye(1)})), "knee")
        for rule in (Posterior, Consistent)
    ),
    (lambda: compose(_bone(), minus, rule=Posterior(BLOCKS, prior={"boen": eye(2)})), "bone"),
    (lambda: compose(_bone(), minus, rule=Posterior(BLOCKS, mean={"boen": [0, 0]})), "bone"),
    (lambda: from_region_covariances(_bone(), {"bnoe": eye(2)}), "bone"),
    (lambda: fit_covariances(_bone(), {"bnoe": torch.zeros(9, 2)}), "bone"),
    (lambda: node_samples(_bone(), minus, 2, [1, 0], conditions={"bnoe": {}}), "bone"),
    (lambda: fit(_bone(), Linear(1, 1), STATES, steps=1, null_conditon={}), "null_condition"),
    (lambda: fit(_bone(), Linear(1, 1), STATES, steps=1, btach=2), "batch"),
    *(
        (lambda own=own: crops(_bone(), STATES, null_condition={"labl": 0}, **own).draw(2), "label")
        for own in (
            {"labels": {"label": torch.zeros(9)}},
            {"conditions": {"bone": {"label": torch.zeros(())}}},
        )
    ),
    (lambda: crops(_bone(), LABELLED, null_condition={"labl": 0}).draw(2), "label"),
]
BLOCKS = {"bone": eye(2), "hip": eye(1), "knee": eye(1)}
STATES = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
LABELLED = [(state, 1) for state in STATES]


def _bone() -> FactorGraph:
    return FactorGraph.from_scopes({"bone": ("hip", "knee")})


def _windows(counts: Any = None, **options: Any) -> RegionGraph:
    windows = {"left": [0, 1], "right": [2, 3]}
    return RegionGraph.from_regions(windows, counts, event_shape=(4,), **options)


def minus(x: torch.Tensor, sigma: torch.Tensor, **condition: Any) -> torch.Tensor:
    return -x


@pytest.mark.parametrize(("call", "nearest"), SPELLING)
def test_misspelt_names_are_noticed(call: Callable[[], object], nearest: str) -> None:
    with pytest.raises(PgmdiffError, match=f"Did you mean '{nearest}"):
        call()


def test_scores_of_other_graphs_may_be_among_those_given() -> None:
    library = dict.fromkeys([f"{kind}{i}" for kind in "fx" for i in range(20)], minus)
    joint = compose(chain(3), library)
    assert sum(len(batch.group) for batch in joint.batches) == 3
    with pytest.raises(ScoreError, match="'f0', whose model id is 'pair'"):
        compose(chain(3, factor_model="pair"), {"pair": minus, "f0": minus, "x1": minus})


@pytest.mark.parametrize("root", [NAN, np.float64("nan"), -1, np.int64(-1), -1.0])
def test_marks_of_roots_are_no_parents(root: Any) -> None:
    with pytest.raises(GraphError, match=r"the parent of 0 is .*Give None for a root"):
        named_tree({0: root, 1: 0, 2: 0})


def test_a_part_without_parent_is_a_root() -> None:
    tree = named_tree({"hip": None, "knee": "hip", "alone": None, "foot": "knee"})
    assert tree.variables == ("hip", "knee", "alone", "foot")
    assert list(tree.scopes.values()) == [("hip", "knee"), ("knee", "foot")]
    assert named_tree({1: -1, -1: None}).scopes == {(-1, 1): (-1, 1)}  # here -1 is a part
    with pytest.raises(GraphError, match=r"parents as a dict, got list.*dict\(enumerate"):
        named_tree([-1, 0, 0])  # type: ignore[arg-type]


class Table:
    """What matters of a pandas.DataFrame: named columns, over which it iterates."""

    columns = ("source", "target")
    shape = (2, 2)

    def __iter__(self) -> Any:
        return iter(self.columns)

    def __len__(self) -> int:
        return 2

    def keys(self) -> tuple[str, ...]:
        return self.columns

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array({"source": [0, 1], "target": [1, 2]}[name])

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array([[0, 1], [1, 2]], dtype)


def test_tables_with_named_columns() -> None:
    assert FactorGraph.from_arrays(Table()).scopes == chain(3).scopes  # type: ignore[arg-type]
    assert FactorGraph.from_arrays([Table()]).scopes == chain(3).scopes  # type: ignore[list-item]
    for call in (
        cluster_variation,
        junction_tree,
        FactorGraph.from_scopes,
        named_tree,
        chain(2).observe,
        lambda table: compose(table, minus),
        lambda table: FactorGraph.from_scopes({"f": ("a",)}, table),
        lambda table: FactorGraph.from_scopes({"f": table}),
        lambda table: RegionGraph.from_regions(table, event_shape=(3,)),
    ):
        with pytest.raises(GraphError, match=r"got (a value of type )?Table|of type Table"):
            call(Table())
    with pytest.raises(ShapeError, match=r"ndarray|unknown|missing"):
        chain(2).pack(Table())  # type: ignore[arg-type]


@settings(max_examples=50)
@given(st.recursive(st.one_of(st.text(), st.integers(), st.none()), st.tuples, max_leaves=5))
def test_ordinary_values_are_names(name: Any) -> None:
    check_names("here", [name, (name, frozenset([name]))])
