"""What newcomers get wrong: one line that names the object, what was expected, what came."""

import numpy as np
import pytest
import torch

from pgmdiff import (
    PgmdiffError,
    compose,
)
from pgmdiff.gaussian import Gaussian, node_scores
from pgmdiff.graphs import FactorGraph, chain, cluster_variation, tiles
from pgmdiff.samplers import karras

GRAPH = chain(3)
Q = Gaussian(torch.zeros(3), torch.eye(3))
JOINT = compose(GRAPH, node_scores(GRAPH, Q))
SIGMAS = karras(3, 0.1, 1.0)
WHOLE = torch.ones(3, dtype=torch.int64)

WRONG = {
    "an array for a state": (lambda: JOINT.denoise(np.zeros((2, 3)), 1.0), "got ndarray"),
    "a state of another shape": (lambda: JOINT(torch.zeros(2, 4), 1.0), r"\[\*batch, 3\]"),
    "half a batch": (lambda: compose(GRAPH, Q.score, max_batch=2.5), "an integer of at least 1"),
    "a list of scopes": (lambda: FactorGraph.from_scopes([("a", "b")]), "scopes as a dict"),
    "numbers for tensors": (
        lambda: GRAPH.pack({"x0": 1.0, "x1": 2.0, "x2": 3.0}),
        "'x0' is of type float",
    ),
    "a size for a shape": (lambda: tiles(30, 8, 2), r"a shape such as \(16, 64\), got 30"),
    "arrays of no state": (
        lambda: cluster_variation({"a": np.arange(3)}),
        "'a' is an index array.*event_shape=",
    ),
    "models of no arrays": (
        lambda: cluster_variation([("a", "b")], models={"a": "m"}),
        "models= goes with event_shape=",
    ),
    "a name for names": (lambda: GRAPH.mask("x1"), r"Write \['x1'\]"),
    "no node of the name": (lambda: GRAPH.elements("f9"), "no node is named 'f9'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_is_explained(wrong: str) -> None:
    call, message = WRONG[wrong]
    with pytest.raises(PgmdiffError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
