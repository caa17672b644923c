"""What newcomers get wrong: one line that names the object, what was expected, what came."""

import numpy as np
import pytest
import torch

from pgmdiff import (
    PgmdiffError,
    compose,
    from_denoiser,
    from_eps,
    from_flow,
    from_vp_v,
    plotting,
)
from pgmdiff.conditioning import Mask, replacement
from pgmdiff.gaussian import Gaussian, GaussianMixture, node_scores
from pgmdiff.graphs import FactorGraph, chain, cluster_variation, tiles
from pgmdiff.samplers import karras
from pgmdiff.scores.guidance import slerp

GRAPH = chain(3)
Q = Gaussian(torch.zeros(3), torch.eye(3))
MIXTURE = GaussianMixture(torch.ones(1), [Q])
JOINT = compose(GRAPH, node_scores(GRAPH, Q))
SIGMAS = karras(3, 0.1, 1.0)
WHOLE = torch.ones(3, dtype=torch.int64)

WRONG = {
    "an array for a state": (lambda: JOINT.denoise(np.zeros((2, 3)), 1.0), "got ndarray"),
    "a state of another shape": (lambda: JOINT(torch.zeros(2, 4), 1.0), r"\[\*batch, 3\]"),
    "a state without a batch": (lambda: Q.score(torch.zeros(3), 1.0), r"\[batch, 3\], got \(3,\)"),
    "a mixture's state": (lambda: MIXTURE.score(torch.zeros(2, 4), 1.0), r"\[batch, 3\]"),
    "a sigma too many": (lambda: Q.score(torch.zeros(2, 3), torch.ones(4)), "each of 2 samples"),
    "a mean of integers": (lambda: Gaussian(WHOLE, torch.eye(3)), "mean as a floating-point"),
    "a seed of a string": (lambda: Q.sample(3, "seed"), "Gaussian.sample: expected generator="),
    "half a batch": (lambda: compose(GRAPH, Q.score, max_batch=2.5), "an integer of at least 1"),
    "a list of scopes": (lambda: FactorGraph.from_scopes([("a", "b")]), "scopes as a dict"),
    "numbers for tensors": (
        lambda: GRAPH.pack({"x0": 1.0, "x1": 2.0, "x2": 3.0}),
        "'x0' is of type float",
    ),
    "a size for a shape": (lambda: tiles(30, 8, 2), r"a shape such as \(16, 64\), got 30"),
    "no denoiser": (lambda: from_denoiser(None), "from_denoiser: expected a callable"),
    "no network": (lambda: from_eps(3), "from_eps: expected a callable"),
    "no velocity": (lambda: from_flow(3), "from_flow: expected a callable"),
    "no time": (lambda: from_vp_v(abs, 3), "from_vp_v: expected a callable"),
    "embeddings of integers": (lambda: slerp(WHOLE, WHOLE, 0.5), "floating-point embeddings"),
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
    "the seen values alone": (
        lambda: replacement(JOINT, torch.zeros(2), Mask(torch.tensor([True, False, True]))),
        "in their places in the whole state",
    ),
    "a drawing for a graph": (lambda: plotting.plot(GRAPH.to_networkx()), "from_networkx"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_is_explained(wrong: str) -> None:
    call, message = WRONG[wrong]
    with pytest.raises(PgmdiffError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
