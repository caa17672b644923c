r"""A ring of variables in the plane, each in one of three petals.

Petals point away from the origin, a third of a turn apart. Labels l are a Potts model on the ring,
and variables are independent given these:

    q(u) = Σ_l p(l) Π_i N(u_i; m_(l_i), C_(l_i)),    p(l) ∝ Π_i T(l_i, l_(i+1)),    Σ_b T(a, b) = 1

T keeps a label with probability `stay`. A clean variable reveals its own, up to a probability of
3e-7 of mistaking it; to this accuracy q is Markov to the ring. Sums run over all l.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from benchmarks.problems import Problem
from pgmdiff.gaussian import Gaussian, GaussianMixture, node_covariances
from pgmdiff.gaussian.distributions import Distribution
from pgmdiff.graphs import FactorGraph, cycle
from pgmdiff.noise import Generator, torch_generator
from pgmdiff.testing.oracles import SPREAD

__all__ = ["PetalRing"]

PETALS, AWAY, NARROW = 3, 2.0, 0.02
"""Their number, the distance of their middles from the origin, and their variance across."""
ROWS = 10_000
"""States whose log-densities are computed at once."""


@dataclass(frozen=True, eq=False)
class PetalRing(Distribution):
    """The ring; see the module.

    Attributes:
        name: in tables and in the JSON.
        n: the number of variables.
        stay: the probability of keeping a label.
        noise: the variance that was added to the petals.
    """

    name: str = "three-petal ring"
    n: int = 6
    stay: float = 0.8
    noise: float = 0.0
    loops = True
    mirrored = False

    @cached_property
    def graph(self) -> FactorGraph:
        """Pairs of neighbours, all alike."""
        return cycle(self.n, (2,), factor_model="pair", variable_model="single")

    @cached_property
    def petals(self) -> list[Gaussian]:
        """The distribution of a variable given its label."""
        angles = math.pi / 2 + torch.arange(PETALS).double() * 2 * math.pi / PETALS
        along = torch.stack([angles.cos(), angles.sin()], dim=1)
        across = torch.stack([-angles.sin(), angles.cos()], dim=1)
        turn = torch.stack([along, across], dim=2)
        variances = torch.tensor([SPREAD, NARROW]).double() + self.noise
        covariances = turn * variances @ turn.mT
        return [Gaussian(AWAY * m, c) for m, c in zip(along, covariances, strict=True)]

    @cached_property
    def labels(self) -> Tensor:
        """All labels of all variables, `[3^n, n]`."""
        return torch.tensor(list(product(range(PETALS), repeat=self.n)))

    @cached_property
    def weights(self) -> Tensor:
        """Their probabilities p(l), `[3^n]`."""
        kept = (self.labels == self.labels.roll(-1, 1)).sum(dim=1).double()
        changed = (1 - self.stay) / (PETALS - 1)
        chances = self.stay**kept * changed ** (self.n - kept)
        return chances / chances.sum()

    def of(self, variables: Tensor) -> GaussianMixture:
        """The marginal of some variables, flattened."""
        own, which = self.labels[:, variables].unique(dim=0, return_inverse=True)
        weights = torch.zeros(len(own)).double().index_add_(0, which, self.weights)
        parts = [[self.petals[label] for label in row] for row in own.tolist()]
        return GaussianMixture(
            weights,
            [
                Gaussian(
                    torch.cat([p.mean for p in row]),
                    torch.block_diag(*(p.covariance for p in row)),
                )
                for row in parts
            ],
        )

    @cached_property
    def models(self) -> Mapping[str, GaussianMixture]:
        """The exact marginals of a pair and of a variable."""
        return {"pair": self.of(torch.tensor([0, 1])), "single": self.of(torch.tensor([0]))}

    @property
    def problem(self) -> Problem:
        """The exact scores and covariances of all pairs and variables, to be composed."""
        covariances = node_covariances(self.graph, self)
        return Problem(self.graph.regions, lambda graph: self.models, covariances, self.score)

    def modes(self, u: Tensor) -> Tensor:
        """The share of opposite variables in the same petal, `[n]`."""
        middles = torch.stack([petal.mean for petal in self.petals])
        label = (u.reshape(len(u), self.n, 2) @ middles.T).argmax(dim=2)
        return (label == label.roll(self.n // 2, 1)).double().mean(dim=1)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (2 * self.n,)

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return torch.zeros(2 * self.n).double()

    @cached_property
    def covariance(self) -> Tensor:  # type: ignore[override]
        means = torch.stack([petal.mean for petal in self.petals])[self.labels].flatten(1)
        within = torch.stack([petal.covariance for petal in self.petals]).mean(dim=0)
        between = (self.weights * means.T) @ means
        return between + within.repeat(self.n, self.n) * torch.eye(self.n).kron(torch.ones(2, 2))

    def marginal(self, elements: Tensor) -> GaussianMixture:
        return self.of(torch.arange(self.n)).marginal(elements)

    def noised(self, sigma: float) -> "PetalRing":
        return replace(self, noise=self.noise + sigma**2)

    def sample(self, n: int, generator: Generator = None) -> Tensor:
        generator = torch_generator(generator, "PetalRing.sample")
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        roots = torch.stack([torch.linalg.cholesky(petal.covariance) for petal in self.petals])
        middles, labels = torch.stack([petal.mean for petal in self.petals]), self.labels[which]
        normal = torch.randn(n, self.n, 2, 1, generator=generator, dtype=torch.float64)
        return (middles[labels] + (roots[labels] @ normal)[..., 0]).flatten(1)

    def _score(self, u: Tensor, sigma: Tensor) -> Tensor:
        """Σ_k p(l_i = k | u) s_k(u_i)."""
        x = u.reshape(-1, 2)
        levels = sigma.repeat_interleave(self.n)
        own = torch.stack([petal.score(x, levels) for petal in self.petals], dim=1)
        chances = self._logs(u, sigma).softmax(dim=1)
        shares = torch.stack([chances @ (self.labels == k).to(u) for k in range(PETALS)], dim=2)
        return (shares.reshape(-1, PETALS, 1) * own).sum(dim=1).reshape(u.shape)

    def _log_density(self, u: Tensor, sigma: Tensor) -> Tensor:
        parts = zip(u.split(ROWS), sigma.split(ROWS), strict=True)
        return torch.cat([self._logs(*part).logsumexp(dim=1) for part in parts])

    def _logs(self, u: Tensor, sigma: Tensor) -> Tensor:
        """Log p(l) + Σ_i log N(u_i; m, C + σ²), `[batch, 3^n]`."""
        x, levels = u.reshape(-1, 2), sigma.repeat_interleave(self.n)
        logs = torch.stack([petal.log_density(x, levels) for petal in self.petals], dim=1)
        each = logs.reshape(len(u), self.n, PETALS)
        variables = enumerate(self.labels.unbind(1))
        return self.weights.to(u).log() + sum(each[:, i, own] for i, own in variables)
