"""Rules: a rule of one's own, from outside the package, with and without memory."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from pgmdiff import FactorGraph, ScoreError, compose, karras, sample, tiles
from pgmdiff.composition import Rule
from pgmdiff.gaussian import node_scores
from pgmdiff.graphs import chain
from tests.helpers import ar1


class Halved(Rule):
    """A toy: half of the marginal rule."""

    def weights(self, graph):
        return [group.counts / (2 * graph.denominator) for group in graph.groups]

    def score(self, evaluate, u, sigma, memory=None):
        total = torch.zeros_like(u)
        for chunk, scores in evaluate(u, sigma):
            chunk.add(total, scores)
        return total


@dataclass(frozen=True)
class Smoothed(Halved):
    """A toy with memory: the mean of the score and of what the call before returned."""

    def score(self, evaluate, u, sigma, memory=None):
        score = super().score(evaluate, u, sigma)
        if memory is None:
            return score
        memory["before"] = (score + memory.get("before", score)) / 2
        return memory["before"]


def joints(rule: Rule) -> tuple[Any, Any]:
    graph, q = chain(5), ar1(5, 0.6)
    return tuple(compose(graph, node_scores(graph, q), rule=each) for each in (None, rule))


def states(n: int = 3) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


HALF = pytest.mark.filterwarnings("ignore:sample. the start of deviation 10")
"""Half of a score is that of no noised data."""


@HALF
def test_a_rule_of_ones_own_composes_and_is_sampled_with() -> None:
    marginal, halved = joints(Halved())
    torch.testing.assert_close(halved(states(), 0.7), marginal(states(), 0.7) / 2)
    samples = sample(halved, karras(8, 0.1, 10.0), shape=(4, 5), generator=0)
    assert samples.shape == (4, 5)
    assert samples.isfinite().all()
    with pytest.raises(ScoreError, match="a rule that has a density"):
        halved.log_density(states(), 1.0)


def test_memory_is_carried_from_call_to_call_and_a_bare_call_is_pure() -> None:
    _, joint = joints(Smoothed())
    u, score = states(), joint(states(), 1.0)
    remembering = joint.remembering()
    assert torch.equal(remembering(u, 1.0), score)
    assert torch.equal(remembering(u, 3.0), (joint(u, 3.0) + score) / 2)
    assert torch.equal(joint(u, 1.0), score)
    saved = dict(remembering.memory)
    ahead = remembering(u, 0.5)
    assert torch.equal(joint.remembering(saved)(u, 0.5), ahead)
    assert torch.equal(saved["before"], (joint(u, 3.0) + score) / 2), "a rule replaces its tensors"


def test_a_joint_keeps_the_graph_that_it_was_given() -> None:
    graph = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (2,), "b": ()})
    joint = compose(graph, lambda x, sigma: -x)
    assert joint.graph is graph
    u = torch.arange(6.0).reshape(2, 3)
    parts = joint.unpack(u)
    assert parts["a"].tolist() == [[0, 1], [3, 4]]
    assert torch.equal(joint.pack(parts), u)
    windows = tiles((8,), 4, 2)
    assert compose(windows, lambda x, sigma: -x).graph is windows


@HALF
def test_a_run_carries_memory_in_its_state_and_resumes_bit_for_bit() -> None:
    pure, joint = joints(Smoothed())
    levels, states = karras(9, 0.1, 10.0), []
    whole = sample(
        joint,
        levels,
        shape=(4, 5),
        generator=0,
        callback=lambda step: states.append(step["state"]),
    )
    assert not torch.equal(whole, sample(pure, levels, shape=(4, 5), generator=0))
    assert states[0].memory == {}
    for state in states[1:]:
        assert set(state.memory) == {"before"}
        assert torch.equal(sample(joint, levels, state=state, generator=0), whole)
