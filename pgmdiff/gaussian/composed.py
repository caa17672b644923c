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
from pgmdiff.gaussian.distributions import Distribution, Gaussian, Stack, eigen, marginals
from pgmdiff.gaussian.marginals import check_size
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.graphs.report import check_counts
from pgmdiff.linalg import correlations, rows
from pgmdiff.precision import Covariances, completed, provider_of
from pgmdiff.precision.forms import NEGLIGIBLE
from pgmdiff.precision.precision import add_blocks, taken_blocks, weighed
from pgmdiff.scores.adapters import per_sample

__all__ = ["bethe_entropy", "composed_log_density", "composed_precision", "from_region_covariances"]

AGREEING = 1e-3
"""Difference of an entry, in variances, up to which regions count as agreeing."""


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
        GraphError: it is no Gaussian; the rule is no weighted sum of scores; a region's covariance
            is singular, and sigma 0 or nearly so.
    """
    graph = graph_of(graph, "composed_precision").regions
    rule = Marginal() if rule is None else rule
    if not isinstance(rule, WeightedSum):
        raise GraphError(
            f"composed_precision: expected a rule that is a weighted sum of scores, got {rule!r}. "
            "Under posterior composition the precision is that of N(m, K⁻¹) noised: see "
            "precision.completed."
        )
    _check_gaussian("composed_precision", gaussian)
    check_size("composed_precision", graph, gaussian)
    total = torch.zeros_like(gaussian.covariance)
    for group, index, weights in weighed(graph, rule.weights(graph)):
        _, covariance = marginals(gaussian, group)
        noised = covariance + sigma**2 * torch.eye(index.shape[1]).to(total)
        if (without := (eigen(noised)[0] <= 0).any(dim=1)).any():
            name = group.name(int(without.nonzero()[0]))
            raise GraphError(
                f"composed_precision: the covariance of region {name!r} is singular, and has no "
                f"precision at sigma={sigma:g}. Give a larger sigma, or data that vary everywhere."
            )
        precisions = torch.linalg.inv(noised)
        add_blocks(total, index, weights.to(total)[:, None, None] * precisions)
    scale = rule.scale(graph)
    return total if scale is None else torch.from_numpy(scale).to(total)[:, None] * total


def _check_gaussian(who: str, gaussian: object) -> None:
    if not isinstance(gaussian, Gaussian):
        raise GraphError(
            f"{who}: expected a Gaussian, got {type(gaussian).__name__}. Use composed_log_density, "
            "or Gaussian(q.mean, q.covariance)."
        )


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
    flat, sigmas = rows(u), per_sample(sigma, u)
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


def from_region_covariances(
    graph: GraphLike, covariances: Mapping[Hashable, Tensor] | Covariances
) -> Gaussian:
    """The Gaussian N(0, K⁻¹) of largest entropy among those with these region covariances.

    It is Markov to the graph. K is the maximum-entropy completion (`precision.completed`), on a
    junction tree the composed precision Σ_r c_r A_rᵀ Σ_r⁻¹ A_r.

    Args:
        graph: a graph over the whole state, of up to some thousand elements.
        covariances: region name (or model id) to its covariance `[d, d]`, flattened in the order
            its model sees; or a provider, such as `fit_covariances` returns. A region of count 0
            does not need one.

    Raises:
        GraphError: counts are invalid; a region has no covariance, or one that is singular; a name
            belongs to no region; regions disagree, or are the covariances of no distribution.
        ShapeError: a covariance has another shape.

    Source: Dempster, "Covariance selection", 1972; Lauritzen, "Graphical models", 1996, section
    5.3 (decomposable models).
    """
    who = "from_region_covariances"
    graph = graph_of(graph, who).regions
    check_counts(graph)
    provider = provider_of(covariances, who, graph)
    whole = completed(graph, provider).covariance
    for group, index, _ in weighed(graph):
        form = provider.form(group)
        form.inverse(group.name)  # its error names a region whose covariance cannot be used
        gap = (form.dense() - taken_blocks(whole, index)).abs()
        deviations = whole.diagonal().sqrt()[index]
        worst = (gap / (deviations[:, :, None] * deviations[:, None])).amax(dim=(1, 2))
        if (worst > AGREEING).any():
            name = group.name(int(worst.argmax()))
            raise GraphError(
                f"{who}: the covariance of {name!r} differs from those of the regions around it by "
                f"{worst.max():.2g} of a variance. Read all covariances off one estimate."
            )
    dtype = torch.float32
    if isinstance(covariances, Mapping):
        given = (torch.as_tensor(c).dtype for c in covariances.values())
        dtype = reduce(torch.promote_types, given, dtype)
    return Gaussian(torch.zeros(graph.event_shape, dtype=dtype), ((whole + whole.T) / 2).to(dtype))


def bethe_entropy(graph: GraphLike, gaussian: Gaussian, sigma: float = 0.0) -> float:
    """The Bethe entropy Σ_r c_r H(q_σ(u_r)) of a Gaussian, in nats.

        H(N(m, Σ)) = ½ log det(2 π e Σ)

    At σ = 0 it is the entropy of a Gaussian that is Markov to a junction tree, -∞ if regions of
    positive count have no density. For σ > 0, and on loops, it is the Bethe approximation.

    Args:
        graph: a graph over as many elements as the Gaussian.
        gaussian: the Gaussian of the whole state.
        sigma: the noise level.

    Raises:
        ShapeError: the sizes differ.
        GraphError: it is no Gaussian; regions without a density have counts of both signs.
    """
    graph = graph_of(graph, "bethe_entropy").regions
    _check_gaussian("bethe_entropy", gaussian)
    check_size("bethe_entropy", graph, gaussian)
    total = 0.0
    for group, _, counts in weighed(graph):
        _, covariance = marginals(gaussian, group)
        scaled, units = covariance, torch.ones_like(covariance[:, 0])
        if not sigma:  # small variances of other units are none of noise
            scaled, units = correlations(covariance)
        variances = torch.linalg.eigvalsh(scaled)
        variances = torch.where(variances > NEGLIGIBLE * variances[:, -1:], variances, 0) + sigma**2
        entropies = 0.5 * (2 * math.pi * math.e * variances).log().sum(dim=1)
        entropies = entropies - units.log().sum(dim=1)
        total += (counts @ entropies.cpu().double()).item()
    if math.isnan(total):
        raise GraphError(
            f"bethe_entropy: regions of {gaussian!r} have no density, and their entropies of -∞ "
            "have counts of both signs. Give sigma= above 0."
        )
    return total
