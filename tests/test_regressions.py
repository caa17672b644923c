"""What a reviewer with fresh eyes found, each kept from coming back."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import ScoreError, ShapeError, check_consistency, compose
from pgmdiff.gaussian import Gaussian, node_scores
from pgmdiff.graphs import FactorGraph, chain, tiles
from pgmdiff.samplers import Noise
from pgmdiff.scores.adapters import padded
from tests.helpers import ar1

PAIR, ONE = ar1(2, 0.8, torch.float32), ar1(1, 0.8, torch.float32)
GRAPH = FactorGraph.from_scopes({"f": ("x", "y"), "g": ("y", "z")}, dict.fromkeys("xyz", (1,)))
SCORES = {"f": PAIR.score, "g": PAIR.score, "y": ONE.score}
DATA = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def test_a_model_that_returns_nan_is_not_consistent() -> None:
    broken = {**SCORES, "f": lambda x, sigma: x * float("nan")}
    with pytest.raises(ScoreError, match="node 'f' is not finite"):
        check_consistency(GRAPH, broken, DATA)


def test_consistency_needs_floating_data_and_names_the_models() -> None:
    with pytest.raises(ShapeError, match=r"got torch\.int64"):
        check_consistency(GRAPH, SCORES, DATA.long())
    with pytest.raises(ShapeError, match=r"got torch\.uint8"):
        Noise.of(0, 2)(0, torch.zeros(2, 4, dtype=torch.uint8))
    wide = Gaussian(torch.zeros(2), 9 * torch.eye(2))
    good = Gaussian(torch.zeros(2), torch.eye(2))
    scores = {"f0": good.score, "f2": good.score, "f1": wide.score, "f3": wide.score}
    scores |= {f"x{i}": Gaussian(torch.zeros(()), torch.ones(1, 1)).score for i in range(1, 4)}
    data = torch.randn(400, 5, generator=torch.Generator().manual_seed(1))
    rows = check_consistency(chain(5), scores, data, (1.0,)).rows
    verdicts = {(row.piece, row.verdict) for row in rows}
    assert ("f1 … (+1)", "piece lags") in verdicts
    assert {v for piece, v in verdicts if piece.startswith("f0")} == {"consistent"}


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


def test_node_scores_of_another_graph_are_refused() -> None:
    with pytest.raises(ShapeError, match="graph has 3 elements, the Gaussian 5"):
        compose(chain(3), node_scores(chain(5), ar1(5, 0.5)))


def test_padding_a_narrow_overlap() -> None:
    graph, u = tiles((1, 16, 28), (1, 16, 16), (0, 0, 4)), torch.zeros(1, 1, 16, 28)

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        return -x

    with pytest.raises(ShapeError, match="mode='replicate'"):
        compose(graph, padded(score, (1, 16, 16)))(u, 1.0)
    assert compose(graph, padded(score, (1, 16, 16), "replicate"))(u, 1.0).shape == u.shape


def test_methods_of_one_object_share_a_call() -> None:
    joint = compose(GRAPH, {"f": PAIR.score, "g": PAIR.score, "y": ONE.score})
    assert sorted(len(batch.group) for batch in joint.batches) == [1, 2]
