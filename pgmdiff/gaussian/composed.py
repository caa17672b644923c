r"""The precision, density, covariance and entropy that rules compose from a Gaussian's marginals.

A composed score of a Gaussian is linear, s = -J (u - m), with the composed precision
J(σ) = Σ_r c_r A_rᵀ (Σ_r + σ² I)⁻¹ A_r. Where J = Σ⁻¹ the marginal rule is exact; the Bethe entropy
Σ_r c_r H(q_r) is then the true one (Zhang et al., "DiffCollage", 2023, Eqs. 5-9).
"""

import math
from collections.abc import Hashable, Mapping
from functools import reduce

import torch
from torch import Tensor

from pgmdiff.composition.rules import Marginal, Rule, WeightedSum
from pgmdiff.errors import GraphError, ShapeError
from pgmdiff.gaussian.distributions import Distribution, Gaussian, Stack, marginals
from pgmdiff.gaussian.marginals import check_size
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.report import check_counts
from pgmdiff.linalg import correlations
from pgmdiff.precision.precision import add_blocks, weighed
from pgmdiff.scores.adapters import per_sample

__all__ = ["bethe_entropy", "composed_log_density", "composed_precision", "from_region_covariances"]


def composed_precision(
    graph: GraphLike,
    gaussian: Gaussian,
    sigma: float = 0.0,
    rule: Rule | None = None,
) -> Tensor:
    """The precision J of the composed score -J (u - m) of a Gaussian, dense `[N, N]`.

        J(σ) = scale · Σ_r w_r A_rᵀ (Σ_r + σ² I)⁻¹ A_r

    Under the marginal rule w_r = c_r and scale = 1. J then equals (Σ + σ² I)⁻¹ at σ = 0 on
    a junction tree that the Gaussian is Markov to; not for σ > 0, where the composed score is an
    approximation. tr(J (Σ + σ² I)) = N for any valid counts. Under overlap averaging J is not
    symmetric in general: that score is not a gradient.

    Args:
        graph: a graph over as many elements as the Gaussian.
        gaussian: the Gaussian of the whole state.
        sigma: the noise level.
        rule: a rule that is a weighted sum of scores; if None, the marginal rule.

    Raises:
        ShapeError: the sizes differ.
        GraphError: the rule is no weighted sum of scores.
    """
    graph = graph_of(graph, "composed_precision").regions
    rule = Marginal() if rule is None else rule
    if not isinstance(rule, WeightedSum):
        raise GraphError(
            f"composed_precision: expected a rule that is a weighted sum of scores, got {rule!r}. "
            "Under posterior composition the precision is that of N(m, P⁻¹) noised: use "
            "rule.composed(graph).dense() for P."
        )
    check_size("composed_precision", graph, gaussian)
    total = torch.zeros_like(gaussian.covariance)
    for group, index, weights in weighed(graph, rule.weights(graph)):
        _, covariance = marginals(gaussian, group)
        precisions = torch.linalg.inv(covariance + sigma**2 * torch.eye(index.shape[1]).to(total))
        add_blocks(total, index, weights.to(total)[:, None, None] * precisions)
    scale = rule.scale(graph)
    return total if scale is None else torch.from_numpy(scale).to(total)[:, None] * total


def composed_log_density(
    graph: GraphLike,
    q: Distribution,
    u: Tensor,
    sigma: Tensor | float = 0.0,
) -> Tensor:
    """Σ_r c_r log q_σ(A_r u), whose gradient is the score of the marginal rule: `[batch]`, in nats.

    It is the log-density of q itself at σ = 0 on a junction tree that q is Markov to. Elsewhere it
    is not normalised: at best, if its integral is finite, a log-density up to a constant.

    Args:
        graph: a graph over as many elements as q.
        q: a Gaussian or a mixture, of the whole state.
        u: `[batch, *event]`.
        sigma: a number or `[batch]`.

    Raises:
        ShapeError: the sizes of the graph, q and u differ.

    Source: Zhang et al., "DiffCollage: parallel generation of large content with diffusion
    models", 2023, Eq. 5.
    """
    graph = graph_of(graph, "composed_log_density").regions
    check_size("composed_log_density", graph, q)
    flat, sigmas = u.reshape(len(u), -1), per_sample(sigma, u)
    if flat.shape[1] != graph.n_elements:
        raise ShapeError(
            f"composed_log_density: expected states of {graph.n_elements} elements, got "
            f"{tuple(u.shape)}. Give u as [batch, *event]."
        )
    total = torch.zeros_like(flat[:, 0])
    for group, index, counts in weighed(graph):
        stack = Stack.of(q, group).like(flat)
        densities = stack.log_density(flat[:, index], sigmas[:, None].expand(-1, len(group)))
        total = total + densities @ counts.to(densities)
    return total


def from_region_covariances(graph: GraphLike, covariances: Mapping[Hashable, Tensor]) -> Gaussian:
    """The Gaussian N(0, P⁻¹) composed of region covariances, with P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r.

    On a junction tree whose regions agree on their overlaps this is the Gaussian of largest entropy
    among those with these region covariances, and it is Markov to the tree. Elsewhere it is the
    Bethe (or Kikuchi) approximation of one: its own region covariances are not those given.

    Args:
        graph: a graph over the whole state.
        covariances: maps a region's name to its covariance `[d, d]`, flattened in the order its
            model sees. A region of count 0 does not need one.

    Raises:
        GraphError: counts are invalid; a region has no covariance, or a name belongs to no region;
            regions disagree on a variance; P is not positive definite.
        ShapeError: a covariance has another shape, or is not symmetric and positive definite.

    Source: Lauritzen, "Graphical models", 1996, section 5.3 (decomposable models).
    """
    graph = graph_of(graph, "from_region_covariances").regions
    check_counts(graph)
    counts = graph.counting_numbers()
    for name in covariances:
        if name not in counts:
            raise GraphError(
                f"from_region_covariances: {name!r} is not a region of the graph. Use a name from "
                "`.names`."
            )
    for name, count in counts.items():
        if count and name not in covariances:
            raise GraphError(
                f"from_region_covariances: region {name!r} has the count {count} but no "
                "covariance. Give one; that of a sub-region can be read off a region around it."
            )
    dtypes = (covariance.dtype for covariance in covariances.values())
    dtype = reduce(torch.promote_types, dtypes, torch.float32)
    total = torch.zeros(graph.n_elements, graph.n_elements, dtype=dtype)
    for group, index, weights in weighed(graph):
        checked = [_checked(n, covariances[n], index.shape[1]) for n in group.names]
        precisions = torch.linalg.inv(torch.stack(checked).to(total))
        add_blocks(total, index, weights.to(total)[:, None, None] * precisions)
    _check_agreement(graph, covariances)
    precision = (total + total.T) / 2
    factor, info = torch.linalg.cholesky_ex(precision)
    if info:
        smallest = torch.linalg.eigvalsh(precision)[0]
        raise GraphError(
            "from_region_covariances: Σ_r c_r A_rᵀ Σ_r⁻¹ A_r is not positive definite, its "
            f"smallest eigenvalue is {smallest:.3g}. Read all covariances off one pooled estimate; "
            "on a graph with loops also shrink them towards one common diagonal."
        )
    covariance = torch.cholesky_inverse(factor)  # made symmetric to the last bit
    return Gaussian(torch.zeros(graph.event_shape, dtype=dtype), (covariance + covariance.T) / 2)


def _check_agreement(graph: RegionGraph, covariances: Mapping[Hashable, Tensor]) -> None:
    """Raises `GraphError` unless counted regions give shared elements the same variance."""
    seen: dict[int, tuple[float, Hashable]] = {}
    for group, index, _ in weighed(graph):
        for name, elements in zip(group.names, index.tolist(), strict=True):
            variances = covariances[name].diagonal().tolist()
            for element, variance in zip(elements, variances, strict=True):
                first, holder = seen.setdefault(element, (variance, name))
                if abs(first - variance) > 1e-3 * max(abs(first), abs(variance)):
                    raise GraphError(
                        f"from_region_covariances: element {element} has the variance {first:.4g} "
                        f"in {holder!r} and {variance:.4g} in {name!r}. Read all covariances off "
                        "one estimate, or make their diagonals agree first."
                    )


def _checked(name: Hashable, covariance: Tensor, d: int) -> Tensor:
    """The covariance of a region, or a `ShapeError` if it is not a definite one of d elements."""
    if covariance.shape != (d, d):
        raise ShapeError(
            f"from_region_covariances: expected the covariance of {name!r} as [{d}, {d}], got "
            f"{tuple(covariance.shape)}. Flatten the region in the order its model sees."
        )
    scaled, _ = correlations(covariance)
    try:
        smallest = Gaussian(covariance.new_zeros(d), scaled)._eigen[0].min()
    except ShapeError as error:
        raise ShapeError(f"from_region_covariances: region {name!r}: {error}") from None
    if smallest <= d * torch.finfo(covariance.dtype).eps * scaled.abs().max():
        least = torch.linalg.eigvalsh(covariance)[0]
        raise ShapeError(
            f"from_region_covariances: the covariance of {name!r} is singular, its smallest "
            f"eigenvalue is {least:.3g}. Estimate it from more samples, or add to its diagonal."
        )
    return covariance


def bethe_entropy(graph: GraphLike, gaussian: Gaussian, sigma: float = 0.0) -> float:
    """The Bethe entropy Σ_r c_r H(q_σ(u_r)) of a Gaussian, in nats.

        H(N(m, Σ)) = ½ log det(2 π e Σ)

    At σ = 0 it is the entropy of a Gaussian that is Markov to a junction tree. For σ > 0, and on
    loops, it is the Bethe approximation of the entropy.

    Args:
        graph: a graph over as many elements as the Gaussian.
        gaussian: the Gaussian of the whole state.
        sigma: the noise level.
    """
    graph = graph_of(graph, "bethe_entropy").regions
    total = 0.0
    for group in graph.groups:
        _, covariance = marginals(gaussian, group)
        variances = torch.linalg.eigvalsh(covariance) + sigma**2
        entropies = 0.5 * (2 * math.pi * math.e * variances).log().sum(dim=1)
        total += (torch.from_numpy(group.counts / graph.denominator) * entropies).sum().item()
    return total
