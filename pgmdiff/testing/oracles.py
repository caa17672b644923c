"""What laws are checked against: dense, slow and plain. Nothing here is shared with the library."""

from collections import Counter
from collections.abc import Hashable, Iterable
from functools import reduce
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.graphs import FactorGraph, RegionGraph

__all__ = [
    "counts_by_elements",
    "inclusion_exclusion",
    "is_acyclic",
    "markov_gaussian",
    "markov_mixture",
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
        graph: over the state; its pieces are the factors of the density.
        seed: of the draw.
    """
    regions, rng = graph.regions, np.random.default_rng(seed)
    precision = np.eye(regions.n_elements)
    for group in regions.groups:
        index = group.indices(0, len(group)).reshape(len(group), -1).numpy()
        for elements in index[group.outer]:
            root = rng.normal(size=(len(elements), len(elements)))
            precision[np.ix_(elements, elements)] += root @ root.T
    covariance = torch.linalg.inv(torch.from_numpy(precision))
    mean = torch.from_numpy(rng.normal(size=regions.event_shape))
    return Gaussian(mean, (covariance + covariance.T) / 2)


def markov_mixture(graph: FactorGraph | RegionGraph, seed: int, k: int = 3) -> GaussianMixture:
    """A mixture of k such Gaussians, of unequal weights: not Markov itself, and no Gaussian.

    Args:
        graph: over the state.
        seed: of the draw.
        k: number of components; weights are proportional to 1 … k.
    """
    weights = torch.arange(1.0, k + 1, dtype=torch.float64)
    components = [markov_gaussian(graph, seed * k + each) for each in range(k)]
    return GaussianMixture(weights / weights.sum(), components)


def outer_sets(graph: RegionGraph) -> list[Set]:
    """The elements of every outer region."""
    return [
        frozenset(region.reshape(-1).tolist())
        for group in graph.groups
        for region, outer in zip(group.indices(0, len(group)), group.outer, strict=True)
        if outer
    ]


def counts_by_elements(graph: RegionGraph) -> dict[Set, int]:
    """Nonzero counting numbers, regions of the same elements taken together."""
    counts: Counter[Set] = Counter()
    for name, count in graph.counting_numbers().items():
        counts[frozenset(graph.elements(name).reshape(-1).tolist())] += count
    return {region: count for region, count in counts.items() if count}


def inclusion_exclusion(scopes: Iterable[Set]) -> dict[Set, int]:
    """c_R = Σ over sets S of maximal scopes with ∩S = R of (-1)^(|S| - 1): 2^n terms."""
    maximal = _maximal(scopes)
    counts: Counter[Set] = Counter()
    for size in range(1, len(maximal) + 1):
        for chosen in combinations(maximal, size):
            counts[reduce(frozenset.__and__, chosen)] += (-1) ** (size - 1)
    return {region: count for region, count in counts.items() if region and count}


def superset_counts(counts: dict[Set, int], region: Set) -> int:
    """Σ of the counts of all regions that contain one."""
    return sum(count for other, count in counts.items() if region <= other)


def is_acyclic(scopes: Iterable[Set]) -> bool:
    """α-acyclicity by GYO reduction (Graham 1979; Yu and Özsoyoğlu 1979).

    Drop elements that are in one scope only, and scopes inside others, until nothing changes.
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
        total[:, elements.reshape(-1)] += count / graph.denominator * score.reshape(len(u), -1)
    return total


def _maximal(scopes: Iterable[Set]) -> list[Set]:
    distinct = list(dict.fromkeys(scopes))
    return [scope for scope in distinct if not any(scope < other for other in distinct)]
