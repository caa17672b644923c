"""Oracles for laws, dense, slow and plain, and distributions that are known exactly."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import ShapeError
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.graphs import FactorGraph, RegionGraph
from pgmdiff.linalg import ordinary, rows
from pgmdiff.noise import Generator, seed_in_range, torch_generator
from pgmdiff.scores.adapters import per_sample
from pgmdiff.scores.gradients import gradient_required
from pgmdiff.text import counted, described

__all__ = [
    "ModeChain",
    "counts_by_elements",
    "inclusion_exclusion",
    "is_acyclic",
    "markov_gaussian",
    "markov_mixture",
    "two_mode_chain",
    "outer_sets",
    "superset_counts",
    "weighted_sum",
]

Set = frozenset[Hashable]


def markov_gaussian(graph: FactorGraph | RegionGraph, seed: int) -> Gaussian:
    """A random Gaussian, in float64, whose density factorises over the graph's outer regions.

    Its precision is I + Σ_f A_fᵀ R_f R_fᵀ A_f over pieces f, with standard normal R_f; its mean is
    standard normal.

    Args:
        graph: of the state; its pieces are the factors of the density.
        seed: seed of the draw.
    """
    regions, rng = graph.regions, np.random.default_rng(seed_in_range(seed, "markov_gaussian"))
    precision = np.eye(regions.n_elements)
    for group in regions.groups:
        for elements in group.flat().numpy()[group.outer]:
            root = rng.normal(size=(len(elements), len(elements)))
            precision[np.ix_(elements, elements)] += root @ root.T
    covariance = torch.linalg.inv(torch.from_numpy(precision))
    mean = torch.from_numpy(rng.normal(size=regions.event_shape))
    return Gaussian(mean, (covariance + covariance.T) / 2)


def markov_mixture(graph: FactorGraph | RegionGraph, seed: int, k: int = 3) -> GaussianMixture:
    """A mixture of k such Gaussians with unequal weights: neither Markov itself nor Gaussian.

    Args:
        graph: of the state.
        seed: seed of the draw.
        k: number of components; weights are proportional to 1 … k.
    """
    weights = torch.arange(1.0, k + 1, dtype=torch.float64)
    seed = seed_in_range(seed, "markov_mixture")
    components = [markov_gaussian(graph, (seed * k + each) % 2**64) for each in range(k)]
    return GaussianMixture(weights / weights.sum(), components)


def outer_sets(graph: RegionGraph) -> list[Set]:
    """The elements of every outer region."""
    outer = (group.flat().numpy()[group.outer] for group in graph.groups)
    return [frozenset(region.tolist()) for regions in outer for region in regions]


def counts_by_elements(graph: RegionGraph) -> dict[Set, int]:
    """Nonzero counting numbers, summed over regions of the same elements."""
    counts: Counter[Set] = Counter()
    for name, count in graph.counting_numbers().items():
        counts[frozenset(graph.elements(name).reshape(-1).tolist())] += count
    return {region: count for region, count in counts.items() if count}


def inclusion_exclusion(scopes: Iterable[Set]) -> dict[Set, int]:
    """c_R = Σ over sets S of maximal scopes with ∩S = R of (-1)^(|S| - 1): 2^n terms."""
    distinct = list(dict.fromkeys(scopes))
    maximal = [scope for scope in distinct if not any(scope < other for other in distinct)]
    counts: Counter[Set] = Counter()
    for size in range(1, len(maximal) + 1):
        for chosen in combinations(maximal, size):
            counts[reduce(frozenset.__and__, chosen)] += (-1) ** (size - 1)
    return {region: count for region, count in counts.items() if region and count}


def superset_counts(counts: Mapping[Set, int], region: Set) -> int:
    """Σ of the counts of all regions that contain a given one."""
    return sum(count for other, count in counts.items() if region <= other)


def is_acyclic(scopes: Iterable[Set]) -> bool:
    """α-acyclicity by GYO reduction (Graham 1979; Yu and Özsoyoğlu 1979).

    Elements that are in one scope only, and scopes inside others, are dropped until nothing
    changes; the scopes are acyclic if nothing is left.
    """
    left = list(map(set, scopes))
    while True:
        held = Counter(element for scope in left for element in scope)
        trimmed = [{e for e in scope if held[e] > 1} for scope in left]
        kept = [
            scope
            for place, scope in enumerate(trimmed)
            if scope
            and not any(
                scope < other or (scope == other and place > where)
                for where, other in enumerate(trimmed)
            )
        ]
        if kept == left:
            return not left
        left = kept


def weighted_sum(
    graph: RegionGraph, q: Gaussian | GaussianMixture, u: Tensor, sigma: float
) -> Tensor:
    """Σ_r c_r A_rᵀ s_r(A_r u, σ), one region at a time: `[batch, N]`."""
    total = torch.zeros_like(u)
    for name, count in graph.counting_numbers().items():
        elements = graph.elements(name)
        score = q.marginal(elements).score(u[:, elements], sigma)
        total[:, elements.reshape(-1)] += count / graph.denominator * rows(score)
    return total


SPREAD, WITHIN = 0.16, 0.9
"""Variance within a mode, and correlation of neighbours in one mode (in different modes: 0)."""


@dataclass(frozen=True, eq=False)
class ModeChain:
    """A Markov chain of modes, with exact samples and the exact score at every σ.

    A run of l neighbours in mode m is N(m 1, C_l), C_l = s² ρ^|i-j|; runs are independent given
    their modes, which form a Markov chain. log q_σ is a sum over the runs that end at each place:

        α_e(m) = log Σ_l exp( ι_(e-l)(m) + (l - 1) log T_mm + log N(u_(e-l..e); m, C_l + σ² I) )

    with ι_0 = log p, and ι_e(m) = log Σ_(k ≠ m) exp(α_e(k)) T_km for a run that begins after e. A
    part of a chain is itself a shorter chain.

    Args:
        modes: means of the K modes, `[K]`.
        table: joint probabilities of the modes of neighbours, `[K, K]`; its margins agree, and
            are above 0.
        length: number of variables, at least 1.

    Raises:
        ShapeError: the modes, the table or the length do not fit, or are not those of a
            distribution; a state is of another length.
    """

    modes: Tensor
    table: Tensor
    length: int

    def __post_init__(self) -> None:
        given = (self.modes, self.table)
        modes, table = (torch.as_tensor(part).detach().cpu().double().clone() for part in given)
        start = table.sum(dim=0)
        fits = table.ndim == 2 and table.shape == (*modes.shape, *modes.shape) and self.length >= 1
        if not (
            fits
            and table.min() >= 0
            and start.min() > 0
            and abs(float(table.sum()) - 1) <= 1e-6
            and torch.allclose(start, table.sum(dim=1), rtol=0, atol=1e-6)
            and modes.isfinite().all()
        ):
            raise ShapeError(
                "ModeChain: expected finite modes [K], a table [K, K] of probabilities that sum to "
                "1, with equal margins above 0, and a length of at least 1, got "
                f"{tuple(modes.shape)}, {tuple(table.shape)} with the sum {table.sum():.6g}, and "
                f"{self.length}. Divide the table by its sum."
            )
        object.__setattr__(self, "modes", modes)
        object.__setattr__(self, "table", table)

    def __repr__(self) -> str:
        return described(self, counted(self.length, "variable"), counted(len(self.modes), "mode"))

    @cached_property
    def eigensystems(self) -> list[tuple[Tensor, Tensor]]:
        """Eigenvalues and eigenvectors of C_1 to C_length."""
        place = torch.arange(self.length)
        covariance = SPREAD * WITHIN ** (place[:, None] - place).abs().double()
        return [torch.linalg.eigh(covariance[:n, :n]) for n in range(1, self.length + 1)]

    def log_density(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """Log q_σ(u) in nats, `[batch]`, for u `[batch, length]`.

        Raises:
            ShapeError: u has another shape, or no floating-point dtype.
        """
        if u.ndim != 2 or u.shape[1] != self.length or not u.is_floating_point():
            raise ShapeError(
                f"ModeChain: expected states [batch, {self.length}] of a floating-point dtype, got "
                f"{tuple(u.shape)} of {u.dtype}. Take the part of the chain that they belong to."
            )
        dtype, u = u.dtype, u.double()  # as the chain is
        modes, table = self.modes.to(u), self.table.to(u)
        start = table.sum(dim=1)
        change = table / start[:, None]
        never = torch.finfo(change.dtype).min / (4 * self.length)  # ln 0, with derivatives
        stay, leave = (
            part.log().clamp(min=never)
            for part in (change.diagonal(), change - torch.diag(change.diagonal()))
        )
        level = per_sample(sigma, u)[:, None, None, None]
        runs = []  # log-densities of all runs of n neighbours in each mode: [batch, places, K]
        for n, system in enumerate(self.eigensystems, start=1):
            values, vectors = (part.to(u) for part in system)
            variances = values + level**2
            rotated = (u.unfold(1, n, 1) @ vectors)[:, :, None]
            gap = rotated - modes[:, None] * vectors.sum(dim=0)
            runs.append(-0.5 * (gap**2 / variances + (2 * math.pi * variances).log()).sum(dim=3))
        begun = [start.log().expand(len(u), -1)]
        for end in range(self.length):
            ended = [begun[end - n] + n * stay + runs[n][:, end - n] for n in range(end + 1)]
            total = torch.stack(ended).logsumexp(dim=0)
            begun.append((total[:, :, None] + leave).logsumexp(dim=1))
        return total.logsumexp(dim=1).to(dtype)

    def __call__(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """∇ log q_σ(u), differentiable by u and σ."""
        differentiate = gradient_required(u, sigma)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = u if u.requires_grad else u.detach().clone().requires_grad_()
            total = self.log_density(leaf, ordinary(per_sample(sigma, u))).sum()
            (slope,) = torch.autograd.grad(total, leaf, create_graph=differentiate)
        return slope

    @property
    def covariance(self) -> Tensor:
        """Covariance of the clean chain, `[length, length]`."""
        start = self.table.sum(dim=1)
        change, place = self.table / start[:, None], torch.arange(self.length)
        powers = [torch.linalg.matrix_power(change, n) for n in range(self.length)]
        means = torch.stack([self.modes * start @ power @ self.modes for power in powers])
        kept = torch.stack([start @ change.diagonal() ** n for n in range(self.length)])
        noise = SPREAD * (WITHIN ** place.double()) * kept
        return (means - (start @ self.modes) ** 2 + noise)[(place[:, None] - place).abs()]

    @cached_property
    def models(self) -> dict[str, GaussianMixture]:
        """The clean distributions of a "pair" of neighbours and of a "single" variable."""
        variance = torch.full((), SPREAD, dtype=torch.float64)
        apart = variance * torch.eye(2, dtype=torch.float64)
        together = torch.where(torch.eye(2, dtype=torch.bool), variance, WITHIN * variance)
        labels = self.table.nonzero()
        pairs = [Gaussian(self.modes[ab], together if ab[0] == ab[1] else apart) for ab in labels]
        single = [Gaussian(mode, variance.reshape(1, 1)) for mode in self.modes]
        return {
            "pair": GaussianMixture(self.table[labels[:, 0], labels[:, 1]], pairs),
            "single": GaussianMixture(self.table.sum(dim=1), single),
        }

    def sample(self, n: int, generator: Generator = None) -> Tensor:
        """Independent draws of the clean chain, `[n, length]`, in float64."""
        generator = torch_generator(generator, "ModeChain.sample")
        start = self.table.sum(dim=1)
        labels = [torch.multinomial(start.expand(n, -1), 1, generator=generator)[:, 0]]
        noise = SPREAD**0.5 * torch.randn(n, self.length, dtype=torch.float64, generator=generator)
        deviation = [noise[:, 0]]
        for place in range(1, self.length):
            chances = (self.table / start[:, None])[labels[-1]]
            labels.append(torch.multinomial(chances, 1, generator=generator)[:, 0])
            kept = WITHIN * (labels[-1] == labels[-2])
            deviation.append(kept * deviation[-1] + (1 - kept**2).sqrt() * noise[:, place])
        return self.modes[torch.stack(labels, dim=1)] + torch.stack(deviation, dim=1)


def two_mode_chain(length: int = 12) -> ModeChain:
    """A chain of variables at ±2 whose neighbours share their mode with probability 0.9.

    The modes are so far apart that a clean variable reveals its own, up to a probability of 3e-7 of
    mistaking it; to this accuracy the chain is Markov.

    Args:
        length: number of variables.
    """
    modes = torch.tensor([-2.0, 2.0], dtype=torch.float64)
    return ModeChain(modes, torch.tensor([[0.45, 0.05], [0.05, 0.45]]).double(), length)
