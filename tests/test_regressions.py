"""What a reviewer with fresh eyes found, each kept from coming back."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import GraphError, compose
from pgmdiff.graphs import FactorGraph, tiles
from tests.helpers import ar1

PAIR, ONE = ar1(2, 0.8, torch.float32), ar1(1, 0.8, torch.float32)
GRAPH = FactorGraph.from_scopes({"f": ("x", "y"), "g": ("y", "z")}, dict.fromkeys("xyz", (1,)))
SCORES = {"f": PAIR.score, "g": PAIR.score, "y": ONE.score}
DATA = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def test_conditions_are_told_apart_by_value_not_by_repr() -> None:
    a, b = np.zeros(3000), np.zeros(3000)
    b[1500] = 7
    joint = compose(
        FactorGraph.from_scopes({"f": ("x",), "h": ("z",)}),
        lambda x, sigma, c=None: x * 0 + (0 if c is None else float(c.sum())),
        conditions={"f": {"c": a}, "h": {"c": b}},
    )
    assert joint(torch.zeros(1, 2), 1.0).tolist() == [[0, 7]]


def test_conditions_add_to_the_graphs_own() -> None:
    seen = []

    def score(x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        seen.append({name: value.flatten().tolist() for name, value in condition.items()})
        return -x

    one, two = torch.ones(1), 2 * torch.ones(1)
    own = FactorGraph.from_scopes({"f": ("x", "y")}, conditions={"f": {"a": one, "b": one}})
    compose(own, score, conditions={"f": {"b": two}})(torch.zeros(1, 2), 1.0)
    assert seen == [{"a": [1.0], "b": [2.0]}]


def test_a_joint_used_under_inference_mode_still_serves_autograd() -> None:
    joint = compose(tiles((16,), 8, 4), lambda x, sigma: -x)
    with torch.inference_mode():
        joint(torch.zeros(1, 16), 1.0)
    u = torch.zeros(1, 16, requires_grad=True)
    joint(u, 1.0).sum().backward()
    assert u.grad is not None
    assert u.grad.tolist() == [[-1.0] * 16]


def test_scopes_must_be_ordered() -> None:
    for scope in ({"a", "b"}, (name for name in "ab")):
        with pytest.raises(GraphError, match="scopes are ordered"):
            FactorGraph.from_scopes({"f": scope})  # type: ignore[dict-item]


def test_methods_of_one_object_share_a_call() -> None:
    joint = compose(GRAPH, {"f": PAIR.score, "g": PAIR.score, "y": ONE.score})
    assert sorted(len(batch.group) for batch in joint.batches) == [1, 2]


def test_periodic_sizes_that_fit_are_periodic() -> None:
    with pytest.raises(GraphError, match=r"Use a size of 24, an overlap of 6 or 11, or"):
        tiles((20,), 16, 8, True)
    assert len(tiles((24,), 16, 8, True).groups) == 2


def test_a_report_does_not_claim_loops_it_did_not_look_for() -> None:
    """Two windows of a ring: acyclic as sets, but their overlap is counted in two parts."""
    report = tiles((16,), 12, 4, True).validate()
    assert report.alpha_acyclic
    assert not report.junction_tree
    assert "overlap counted in parts" in report.promise


def test_nothing_of_a_graph_can_be_changed() -> None:
    condition = {"y": torch.ones(1)}
    graph = FactorGraph.from_scopes({"f": ("a", "b")}, conditions={"f": condition})
    condition["y"] = torch.zeros(1)
    assert graph.conditions["f"]["y"].item() == 1
    group, windows = graph.regions.groups[0], tiles((8,), 4, 2).groups[0]
    for array in (graph.degrees, graph.sizes, graph.offsets, group.counts, windows.counts):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7
    assert copy.deepcopy(graph.regions).n_regions == 3
    assert pickle.loads(pickle.dumps(graph.regions)).names == graph.regions.names
