"""Scores, states and runs that the tests of solvers share."""

import torch
from torch import Tensor

from pgmdiff import compose
from pgmdiff.composition import Joint, Rule
from pgmdiff.gaussian import Gaussian, node_scores
from pgmdiff.graphs import FactorGraph
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


def elementwise(x: Tensor, sigma: Tensor) -> Tensor:
    """A score, of no Gaussian, whose rows do not know of each other."""
    return -(x + 0.3 * x.sin()) / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


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
