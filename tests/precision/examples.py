"""States, covariances and graphs that the tests of precisions share."""

import torch
from torch import Tensor

from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import FactorGraph, RegionGraph
from pgmdiff.precision import Covariances, LowRank, Stationary
from pgmdiff.precision.covariances import Place
from pgmdiff.precision.precision import weighed
from tests.helpers import ar1

SIGMA = torch.tensor([0.0, 0.3, 0.3, 30.0], dtype=torch.float64)


def states(n: int, seed: int = 0, batch: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, n, generator=generator, dtype=torch.float64)


def ring(shape: tuple[int, ...], rho: float) -> Stationary:
    """Exponential decay along all axes, both ways round."""
    lags = [torch.arange(1 - n, n, dtype=torch.float64).abs() for n in shape]
    gamma = torch.ones(1, dtype=torch.float64)
    for lag in lags:
        gamma = gamma[..., None] * rho**lag
    return Stationary(gamma[None], tuple(range(len(shape))))


def low_rank(graph: RegionGraph, rank: int, floor: float) -> tuple[LowRank, Gaussian]:
    """Blocks of one F Fᵀ + δ I; and that Gaussian."""
    factor = torch.nn.functional.avg_pool1d(states(graph.n_elements, 3, rank)[:, None], 5, 1, 2)
    factor = factor[:, 0].T
    whole = factor @ factor.T + floor * torch.eye(graph.n_elements, dtype=torch.float64)
    index = {n: graph.elements(n).reshape(-1) for n in graph.names}
    parents = {name: Place(name, torch.arange(len(i))) for name, i in index.items()}
    provider = LowRank({name: factor[i] for name, i in index.items()}, floor, parents)
    return provider, Gaussian(torch.zeros(graph.event_shape, dtype=torch.float64), whole)


class Custom(Covariances):
    def of(self, group):
        return ar1(group.shape[0], 0.5).covariance[None]


def linked(graph: FactorGraph | RegionGraph) -> Tensor:
    """Which elements share an outer region: bool `[N, N]`."""
    together = torch.zeros((graph.regions.n_elements,) * 2, dtype=torch.bool)
    for _, index, _ in weighed(
        graph.regions, [g.outer.astype(float) for g in graph.regions.groups]
    ):
        for elements in index:
            together[elements[:, None], elements] = True
    return together


def markov(graph: FactorGraph | RegionGraph, strength: float, seed: int) -> Gaussian:
    """A random Gaussian Markov to a graph; its correlations grow with a strength below 1."""
    generator = torch.Generator().manual_seed(seed)
    n, event = graph.regions.n_elements, graph.regions.event_shape
    links = torch.randn(n, n, generator=generator, dtype=torch.float64) * linked(graph)
    links = (links + links.T).fill_diagonal_(0)
    precision = torch.eye(n) - strength * links / torch.linalg.eigvalsh(links).abs().max()
    mean = torch.randn(n, generator=generator, dtype=torch.float64).reshape(event)
    return Gaussian(mean, torch.linalg.inv(precision))
