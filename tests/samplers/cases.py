"""Scores, states and runs that the tests of solvers share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pgmdiff import Marginal, compose
from pgmdiff.composition import Joint, Rule
from pgmdiff.gaussian import Gaussian, node_scores
from pgmdiff.graphs import FactorGraph, chain
from pgmdiff.samplers import Noise, Solver, State

TARGET = Gaussian(
    torch.tensor([1.0, -0.5], dtype=torch.float64),
    torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64),
)
SCALES = Gaussian(
    torch.linspace(1.0, -1.0, 4, dtype=torch.float64),
    torch.tensor([0.1, 0.3, 1.0, 3.0], dtype=torch.float64).square().diag(),
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def elementwise(x: Tensor, sigma: Tensor, away: Tensor | None = None) -> Tensor:
    """A score, of no Gaussian, whose rows do not know of each other."""
    per_row = [-1] + [1] * (x.ndim - 1)
    x = x if away is None else x - away.reshape(per_row)
    return -(x + 0.3 * x.sin()) / (1 + sigma.reshape(per_row) ** 2)


@dataclass(frozen=True)
class Slow(Marginal):
    """The marginal rule, which adds what it remembers: a mean of its earlier scores."""

    def score(self, evaluate, u, sigma, memory=None):
        score, level = super().score(evaluate, u, sigma), sigma[:, None]
        if memory is None:
            return score
        before = memory.get("before", torch.zeros_like(u))
        memory["before"] = (before + level * score) / 2
        memory["steps"] = memory.get("steps", torch.zeros(len(u), 1, dtype=torch.int64)) + 1
        return score + 0.3 * before / level


def slow(max_batch: int | None = None) -> Joint:
    """A joint of three elements, with memory."""
    return compose(chain(3), elementwise, rule=Slow(), max_batch=max_batch)


def no_noise(number: int, like: Tensor) -> Tensor:
    return torch.zeros_like(like)


def states_of(solver: Solver, levels: list[float], steps: int) -> list[State]:
    """The states of a short run of `elementwise`, the first included."""
    states = [solver.init(10 * normal(3, 2), levels[0])]
    for sigma_next in levels[1 : steps + 1]:
        states.append(solver.step(elementwise, states[-1], sigma_next, Noise.of(0, 3)))
    return states


def composed(graph: FactorGraph, q: Gaussian, rule: Rule | None = None) -> Joint:
    return compose(graph, node_scores(graph, q), rule=rule)
