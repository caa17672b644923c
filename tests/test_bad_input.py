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
from pgmdiff.diagnostics import seam_ratio
from pgmdiff.gaussian import Gaussian, GaussianMixture, node_scores
from pgmdiff.graphs import chain
from pgmdiff.samplers import karras, log_likelihood, sample
from pgmdiff.scores.guidance import slerp
from pgmdiff.training.loop import random_crops

GRAPH = chain(3)
Q = Gaussian(torch.zeros(3), torch.eye(3))
MIXTURE = GaussianMixture(torch.ones(1), [Q])
JOINT = compose(GRAPH, node_scores(GRAPH, Q))
SIGMAS = karras(3, 0.1, 1.0)
WHOLE = torch.ones(3, dtype=torch.int64)

WRONG = {
    "steps of a float": (lambda: karras(18.5, 0.1, 1.0), "integer steps >= 1"),
    "steps of a string": (lambda: karras("a", 0.1, 1.0), "steps='a'"),
    "levels swapped": (lambda: karras(18, 80.0, 0.002), "sigma_min < sigma_max"),
    "a shape that is a number": (lambda: sample(JOINT, SIGMAS, shape=10), r"\(batch, \*event\)"),
    "a graph for a score": (lambda: sample(GRAPH, SIGMAS, shape=(2, 3)), "expected a score"),
    "an array for a start": (
        lambda: sample(JOINT, SIGMAS, x=np.zeros((2, 3))),
        "as a tensor, got ndarray",
    ),
    "an array for a state": (lambda: JOINT.denoise(np.zeros((2, 3)), 1.0), "got ndarray"),
    "a state of another shape": (lambda: JOINT(torch.zeros(2, 4), 1.0), r"\[\*batch, 3\]"),
    "a state without a batch": (lambda: Q.score(torch.zeros(3), 1.0), r"\[batch, 3\], got \(3,\)"),
    "a mixture's state": (lambda: MIXTURE.score(torch.zeros(2, 4), 1.0), r"\[batch, 3\]"),
    "a sigma too many": (lambda: Q.score(torch.zeros(2, 3), torch.ones(4)), "each of 2 samples"),
    "a mean of integers": (lambda: Gaussian(WHOLE, torch.eye(3)), "mean as a floating-point"),
    "a seed of a string": (lambda: Q.sample(3, "seed"), "Gaussian.sample: expected generator="),
    "half a batch": (lambda: compose(GRAPH, Q.score, max_batch=2.5), "an integer of at least 1"),
    "no denoiser": (lambda: from_denoiser(None), "from_denoiser: expected a callable"),
    "no network": (lambda: from_eps(3), "from_eps: expected a callable"),
    "no velocity": (lambda: from_flow(3), "from_flow: expected a callable"),
    "no time": (lambda: from_vp_v(abs, 3), "from_vp_v: expected a callable"),
    "embeddings of integers": (lambda: slerp(WHOLE, WHOLE, 0.5), "floating-point embeddings"),
    "no start": (lambda: sample(JOINT, SIGMAS), r"got none. Give shape=\(batch, \*event\)"),
    "two starts": (
        lambda: sample(JOINT, SIGMAS, x=torch.zeros(2, 3), shape=(2, 3)),
        "got x and shape",
    ),
    "the seen values alone": (
        lambda: replacement(JOINT, torch.zeros(2), Mask(torch.tensor([True, False, True]))),
        "in their places in the whole state",
    ),
    "a seam outside": (lambda: seam_ratio(torch.rand(8, 8), [99]), "0 to 7"),
    "a drawing for a graph": (lambda: plotting.plot(GRAPH.to_networkx()), "from_networkx"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_is_explained(wrong: str) -> None:
    call, message = WRONG[wrong]
    with pytest.raises(PgmdiffError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_a_likelihood_wants_a_batch() -> None:
    pytest.importorskip("torchdiffeq")
    with pytest.raises(PgmdiffError, match=r"x\[None\]"):
        log_likelihood(Q.score, torch.zeros(3), 0.1, 1.0)


def test_seeds_do_for_generators_everywhere() -> None:
    again = torch.Generator().manual_seed(7)
    assert torch.equal(Q.sample(4, 7), Q.sample(4, again))
    assert torch.equal(Q.sample(4, 7), Q.sample(4, np.int64(7)))
    assert torch.equal(MIXTURE.sample(4, 7), MIXTURE.sample(4, again.manual_seed(7)))
    image = torch.rand(1, 8, 8, generator=again)
    crops = [random_crops(image, (3, 3), 5, generator=g) for g in (7, again.manual_seed(7))]
    assert torch.equal(*crops)
    state = torch.get_rng_state()
    assert not torch.equal(Q.sample(4), Q.sample(4)), "None is fresh entropy"
    assert torch.equal(torch.get_rng_state(), state), "the global state is left alone"
