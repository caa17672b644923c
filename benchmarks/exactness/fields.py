r"""Non-Gaussian distributions on graphs with loops, on larger trees, and on a star of observations.

*Fields of modes*: variables at ±2 whose signs l are an Ising model on a graph, and which are
independent given these:

    q(u) = Σ_l p(l) Π_i N(u_i; 2 l_i, s²),    p(l) ∝ Π_(i,j) exp(b l_i l_j),    t = 1 / (1 + e^-2b)

Two neighbours with no others share their sign with probability t. A clean variable reveals its own,
up to a probability of 3e-7 of mistaking it; to this accuracy q is Markov to the graph. log q_σ is a
sum over all l, summed out variable by variable.

*Star of observations*: one variable in two modes, seen through N independent noisy values y_j. The
posterior given all of them is q(u)^(1 - N) Π_j q(u | y_j), up to a constant.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import networkx as nx
import torch
from torch import Tensor

from benchmarks.problems import Problem, gaussian_problem
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.gaussian.distributions import Distribution, Stack, score_of_rows
from pgmdiff.graphs import FactorGraph
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.noise import Generator, torch_generator
from pgmdiff.scores.adapters import Score
from pgmdiff.testing.oracles import SPREAD

__all__ = ["FIELDS", "ModeField", "Star"]

SIGNS = torch.tensor([-1.0, 1.0], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class ModeField(Distribution):
    """A field of modes; see the module.

    Attributes:
        name: in tables and in the JSON.
        network: a connected graph whose nodes are 0 to n - 1.
        stay: t.
        spread: s².
    """

    name: str
    network: nx.Graph
    stay: float = 0.9
    spread: float = SPREAD
    mirrored = True

    @cached_property
    def loops(self) -> bool:
        """Whether the graph has any."""
        return not nx.is_tree(self.network)

    @property
    def problem(self) -> Problem:
        """The exact scores and covariances of all pairs and variables, to be composed."""
        scopes = {f"{i}-{j}": (i, j) for i, j in self.network.edges}
        graph = FactorGraph.from_scopes(scopes, dict.fromkeys(range(len(self.network)), ()))
        return gaussian_problem(graph, self)

    def modes(self, u: Tensor) -> Tensor:
        """On loops the product of the signs of variables that are farthest apart, in the mean.

        Since signs are ±1 alike, its expectation is their correlation. On trees the share of
        neighbours that differ in sign: `[n]`.
        """
        i, j = self._compared
        products = u[:, i].sign() * u[:, j].sign()
        return products.mean(dim=1) if self.loops else (1 - products).mean(dim=1) / 2

    @cached_property
    def _compared(self) -> Tensor:
        """The pairs of variables whose signs are compared, `[2, m]`."""
        if not self.loops:
            return torch.tensor(list(self.network.edges)).T
        apart = dict(nx.all_pairs_shortest_path_length(self.network))
        most = nx.diameter(self.network)
        return torch.tensor([(i, j) for i in apart for j in apart[i] if apart[i][j] == most]).T

    @cached_property
    def labels(self) -> Tensor:
        """All signs of all variables, `[2^n, n]`."""
        return torch.cartesian_prod(*[SIGNS] * len(self.network)).reshape(-1, len(self.network))

    @cached_property
    def weights(self) -> Tensor:
        """Their probabilities p(l), `[2^n]`."""
        i, j = torch.tensor(list(self.network.edges)).T
        return (self.coupling * (self.labels[:, i] * self.labels[:, j]).sum(dim=1)).softmax(dim=0)

    @property
    def coupling(self) -> Tensor:
        """The coupling b."""
        return 0.5 * torch.tensor(self.stay / (1 - self.stay)).double().log()

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (len(self.network),)

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return torch.zeros(len(self.network), dtype=torch.float64)

    @property
    def covariance(self) -> Tensor:  # type: ignore[override]
        between = 4 * (self.labels.T * self.weights) @ self.labels
        return between + self.spread * torch.eye(len(between)).to(between)

    def of_regions(self, group: RegionGroup) -> tuple[Score, dict[str, Tensor]]:
        """Mixtures over the signs of every region, evaluated together."""
        index = group.flat()
        d = index.shape[1]
        own = torch.cartesian_prod(*[SIGNS] * d).reshape(-1, d)
        found = (self.labels[:, index][:, :, None] == own).all(dim=3).double()
        means = (2 * own).expand(len(group), *own.shape)
        weights = torch.einsum("l,lrk->rk", self.weights, found)
        variances = torch.full_like(means, self.spread)
        axes = torch.eye(d).double().expand(*means.shape, d)
        return score_of_rows, dict(vars(Stack(weights.log(), means, variances, axes)))

    def marginal(self, elements: Tensor) -> GaussianMixture:
        own, which = self.labels[:, elements.reshape(-1)].unique(dim=0, return_inverse=True)
        weights = torch.zeros(len(own)).double().index_add_(0, which, self.weights)
        noise = self.spread * torch.eye(own.shape[1]).double()
        return GaussianMixture(
            weights, [Gaussian(2 * m.reshape(elements.shape), noise) for m in own]
        )

    def noised(self, sigma: float) -> "ModeField":
        return replace(self, spread=self.spread + sigma**2)

    def sample(self, n: int, generator: Generator = None) -> Tensor:
        generator = torch_generator(generator, "ModeField.sample")
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, len(self.network), generator=generator, dtype=torch.float64)
        return 2 * self.labels[which] + math.sqrt(self.spread) * noise

    def _score(self, u: Tensor, sigma: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = u.detach().clone().requires_grad_()
            total = self._log_density(leaf, sigma.clone()).sum()
            slope: Tensor = torch.autograd.grad(total, leaf)[0]
        return slope

    def _log_density(self, u: Tensor, sigma: Tensor) -> Tensor:
        """Log Σ_l p(l) Π_i N(u_i; 2 l_i, s² + σ²), a variable after the other summed out."""
        variance = (self.spread + sigma**2)[:, None, None]
        gaps = u[:, :, None] - 2 * SIGNS
        logs = -0.5 * (gaps**2 / variance + (2 * torch.pi * variance).log())
        largest = logs.amax(dim=2).detach()
        likely = (logs - largest[:, :, None]).exp()
        table = (self.coupling * SIGNS[:, None] * SIGNS).exp()
        operands: list[Any] = []
        for i in nx.dfs_preorder_nodes(self.network):
            operands += [likely[:, i], [0, i + 1]]
            operands += [
                part
                for j in self.network[i]
                if [0, j + 1] in operands[1::2]
                for part in (table, [i + 1, j + 1])
            ]
        pairs = (self.labels[:, i] * self.labels[:, j] for i, j in self.network.edges)
        whole = (self.coupling * torch.stack(list(pairs)).sum(dim=0)).logsumexp(dim=0)
        return torch.einsum(*operands, [0]).log() + largest.sum(dim=1) - whole


@dataclass(frozen=True, eq=False)
class Star:
    """A variable in two modes given independent observations of it.

    Attributes:
        name: in tables and in the JSON.
        observations: y_j.
        noise: their variance.
    """

    name: str
    observations: Tensor
    noise: float
    loops = False
    mirrored = False

    def given(self, y: Tensor, noise: float) -> GaussianMixture:
        """The posterior given one value of y, observed with this variance."""
        weights = torch.tensor([0.4, 0.6], dtype=torch.float64)
        modes, gain = 2 * SIGNS, SPREAD / (SPREAD + noise)
        weights = (weights.log() - 0.5 * (y - modes) ** 2 / (SPREAD + noise)).softmax(dim=0)
        variance = torch.full((1, 1), SPREAD * (1 - gain), dtype=torch.float64)
        means = (modes + gain * (y - modes)).reshape(2, 1)
        return GaussianMixture(weights, [Gaussian(mean, variance) for mean in means])

    @cached_property
    def whole(self) -> GaussianMixture:
        """The posterior given all observations: given their mean, which suffices."""
        return self.given(self.observations.mean(), self.noise / len(self.observations))

    @cached_property
    def problem(self) -> Problem:
        """The posterior given every observation, and the prior, to be composed."""
        models = {f"y{j}": self.given(y, self.noise) for j, y in enumerate(self.observations)}
        scopes = dict.fromkeys(models, ("u",))
        models["u"] = self.given(torch.zeros(()), float("inf"))
        graph = FactorGraph.from_scopes(scopes, {"u": (1,)})
        covariances = {name: model.covariance for name, model in models.items()}
        return Problem(graph.regions, lambda graph: models, covariances, self.whole)

    def sample(self, n: int, generator: Generator = None) -> Tensor:
        """Independent draws, `[n, 1]`."""
        return self.whole.sample(n, generator)

    def log_density(self, u: Tensor) -> Tensor:
        """Log q(u), `[n]`, in nats."""
        return self.whole.log_density(u)

    def modes(self, u: Tensor) -> Tensor:
        """Whether u is in the upper mode, `[n]`."""
        return (u[:, 0] > 0).double()


def _grid(height: int, width: int) -> nx.Graph:
    return nx.convert_node_labels_to_integers(nx.grid_2d_graph(height, width))


def _comb(n: int) -> nx.Graph:
    """A path of n nodes, each with a leaf."""
    return nx.Graph([*((i, i + 1) for i in range(n - 1)), *((i, i + n) for i in range(n))])


FIELDS = (
    ModeField("ring of 4 modes", nx.cycle_graph(4)),
    ModeField("ring of 6 modes", nx.cycle_graph(6)),
    ModeField("grid 3×3 of modes", _grid(3, 3), 0.7),
    ModeField("grid 2×5 of modes", _grid(2, 5), 0.8),
    ModeField("K4 of modes", nx.complete_graph(4), 0.7),
    ModeField("tall tree of modes", nx.balanced_tree(2, 3)),
    ModeField("narrow tree of modes", _comb(6)),
    Star("star of observations", torch.linspace(-6.0, 6.4, 20).double(), 16.0),
)
"""Largest trees have 15 variables: 2^15 choices of signs are kept."""
