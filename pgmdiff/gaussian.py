r"""Closed-form oracles: Gaussians, their marginals on regions, and what a rule makes of them.

For q = N(m, Σ) and q_σ = N(m, Σ + σ² I):

    score      s(u, σ) = -(Σ + σ² I)⁻¹ (u - m)
    denoiser   D(u, σ) = m + Σ (Σ + σ² I)⁻¹ (u - m)
    entropy    H = ½ log det(2πe Σ)

A composed score of a Gaussian is linear, s = -J (u - m), with the composed precision
J(σ) = Σ_r c_r A_rᵀ (Σ_r + σ² I)⁻¹ A_r. Where J = Σ⁻¹ the marginal rule is exact; the Bethe entropy
Σ_r c_r H(q_r) is then the true one (Zhang et al., "DiffCollage", 2023, Eqs. 5-9).
"""

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pgmdiff.errors import ShapeError
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.regions import RegionGraph, RegionGroup
from pgmdiff.scores import RegionScores, Score, beside, per_sample

__all__ = [
    "Gaussian",
    "NodeScores",
    "bethe_entropy",
    "composed_precision",
    "kl_divergence",
    "node_scores",
]


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean, covariance) on states of any event shape.

    Args:
        mean: `[*event]`.
        covariance: `[N, N]` over the flattened event, symmetric and positive semi-definite.

    Raises:
        ShapeError: the shapes do not match, or the covariance is not symmetric or not
            positive semi-definite.
    """

    mean: Tensor
    covariance: Tensor

    def __post_init__(self) -> None:
        for what, value in (("mean", self.mean), ("covariance", self.covariance)):
            if not isinstance(value, Tensor) or not value.isfinite().all():
                raise ShapeError(
                    f"Gaussian: the {what} must be a tensor of finite numbers, got {value!r}."
                )
        n = self.mean.numel()
        if self.covariance.shape != (n, n):
            raise ShapeError(
                f"Gaussian: expected a covariance [{n}, {n}] for a mean of "
                f"{tuple(self.mean.shape)}, got {tuple(self.covariance.shape)}."
            )
        scale = self.covariance.abs().max() if n else self.mean.new_tensor(1.0)
        tolerance = 100 * torch.finfo(self.covariance.dtype).eps * scale
        if n and (self.covariance - self.covariance.T).abs().max() > tolerance:
            raise ShapeError("Gaussian: the covariance is not symmetric. Symmetrise it.")
        if n and self._eigen[0].min() < -n * tolerance:
            raise ShapeError(
                "Gaussian: the covariance is not positive semi-definite, its smallest eigenvalue "
                f"is {self._eigen[0].min():.3g}. Use an estimate that is."
            )

    @classmethod
    def fit(cls, samples: Tensor) -> "Gaussian":
        """The Gaussian of the samples' mean and covariance (divided by n): `[n, *event]`.

        A documented stand-in for the missing model of an overlap: exact in mean and covariance,
        blind to everything else. Give enough samples (several times the number of elements), or
        the covariance is singular, which is allowed but says "never seen", not "impossible".

        Raises:
            ShapeError: fewer than two samples.
        """
        if len(samples) < 2:
            raise ShapeError(f"Gaussian.fit: expected at least 2 samples, got {len(samples)}.")
        mean = samples.mean(dim=0)
        flat = (samples - mean).reshape(len(samples), -1)
        return cls(mean, flat.T @ flat / len(samples))

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.covariance)
        return values, vectors

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of the state."""
        return tuple(self.mean.shape)

    def marginal(self, elements: Tensor) -> "Gaussian":
        """The marginal on an integer array of flattened elements, in that array's shape."""
        flat = torch.as_tensor(elements).reshape(-1)
        if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < self.mean.numel():
            raise ShapeError(
                f"Gaussian.marginal: elements {int(flat.min())} to {int(flat.max())} leave the "
                f"state of {self.mean.numel()} elements."
            )
        mean = self.mean.reshape(-1)[flat].reshape(torch.as_tensor(elements).shape)
        return Gaussian(mean, self.covariance[flat][:, flat])

    def noised(self, sigma: float) -> "Gaussian":
        """q_σ = N(mean, covariance + σ² I)."""
        eye = torch.eye(len(self.covariance), dtype=self.mean.dtype, device=self.mean.device)
        return Gaussian(self.mean, self.covariance + sigma**2 * eye)

    def score(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """∇ log q_σ(u) for u `[batch, *event]`, sigma a number or `[batch]`."""
        return score_of_stack(u, per_sample(sigma, u), **self._stack(u))

    def denoise(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """E[u_0 | u_σ = u] for u `[batch, *event]`."""
        return u + beside(per_sample(sigma, u), u) ** 2 * self.score(u, sigma)

    def log_density(self, u: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """The log-density log q_σ(u) for u `[batch, *event]`: `[batch]`, in nats."""
        values, vectors = self._eigen
        variances = values.clamp(min=0) + per_sample(sigma, u)[:, None] ** 2
        rotated = (u - self.mean).reshape(len(u), -1) @ vectors
        return -0.5 * ((2 * math.pi * variances).log() + rotated**2 / variances).sum(dim=1)

    def entropy(self, sigma: float = 0.0) -> float:
        """½ log det(2πe (Σ + σ² I)), in nats."""
        variances = self._eigen[0] + sigma**2
        return 0.5 * (2 * math.pi * math.e * variances).log().sum().item()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Independent draws, `[n, *event]`."""
        values, vectors = self._eigen
        z = torch.randn(n, len(values), generator=generator, dtype=self.mean.dtype)
        draws = z * values.clamp(min=0).sqrt() @ vectors.T
        return self.mean + draws.reshape(n, *self.event_shape)

    def _stack(self, u: Tensor) -> dict[str, Tensor]:
        values, vectors = (part.to(u.device) for part in self._eigen)
        return {
            "mean": self.mean.to(u.device).expand(len(u), *self.event_shape),
            "eigenvalues": values.expand(len(u), -1),
            "eigenvectors": vectors.expand(len(u), -1, -1),
        }


def score_of_stack(
    x: Tensor, sigma: Tensor, mean: Tensor, eigenvalues: Tensor, eigenvectors: Tensor
) -> Tensor:
    """One Gaussian score a row: x and mean `[rows, *shape]`, eigenvectors `[rows, d, d]`.

    Computed in the wider dtype of x and the Gaussian, returned in that of x.
    """
    centred = (x - mean).reshape(len(x), 1, -1)
    vectors = eigenvectors.to(centred.dtype)
    variances = eigenvalues.to(centred.dtype).clamp(min=0) + sigma[:, None] ** 2
    rotated = (centred @ vectors) / variances[:, None]
    return -(rotated @ vectors.mT).reshape(x.shape).to(x.dtype)


class NodeScores(RegionScores, Mapping[Hashable, Score]):
    """The exact marginal scores of a graph's regions under one Gaussian.

    What `compose(scores=)` takes, evaluated a group at a time; also a mapping from region name to
    that region's score.
    """

    def __init__(self, graph: FactorGraph | RegionGraph, gaussian: Gaussian) -> None:
        self.graph = graph.regions if isinstance(graph, FactorGraph) else graph
        self.gaussian = gaussian
        self.check(self.graph)

    def check(self, graph: RegionGraph) -> None:
        if graph.n_elements != self.gaussian.mean.numel():
            raise ShapeError(
                f"node_scores: the graph has {graph.n_elements} elements, the Gaussian "
                f"{self.gaussian.mean.numel()}. Give a Gaussian over the whole state."
            )

    def bind(self, group: RegionGroup) -> tuple[Score, dict[str, Tensor]]:
        """One score for the group, with the marginals' means and eigensystems as conditions."""
        mean, covariance = marginals(self.gaussian, group)
        values, vectors = torch.linalg.eigh(covariance)
        return score_of_stack, {"mean": mean, "eigenvalues": values, "eigenvectors": vectors}

    def __getitem__(self, name: Hashable) -> Score:
        return self.gaussian.marginal(self.graph.elements(name)).score

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self.graph.names)

    def __len__(self) -> int:
        return self.graph.n_regions


def node_scores(graph: FactorGraph | RegionGraph, gaussian: Gaussian) -> NodeScores:
    """The exact marginal score of every region of a graph, for `compose`.

    Args:
        graph: over as many elements as the Gaussian.
        gaussian: of the whole state.

    Raises:
        ShapeError: the sizes differ.
    """
    return NodeScores(graph, gaussian)


def marginals(gaussian: Gaussian, group: RegionGroup) -> tuple[Tensor, Tensor]:
    """Means `[n, *shape]` and covariances `[n, d, d]` of a group's regions."""
    index = group.indices(0, len(group))
    flat = index.reshape(len(group), -1)
    return gaussian.mean.reshape(-1)[index], gaussian.covariance[flat[:, :, None], flat[:, None]]


def composed_precision(
    graph: FactorGraph | RegionGraph, gaussian: Gaussian, sigma: float = 0.0
) -> Tensor:
    """J(σ) = Σ_r c_r A_rᵀ (Σ_r + σ² I)⁻¹ A_r, dense `[N, N]`: the marginal score is -J(u - m).

    Equal to (Σ + σ² I)⁻¹ at σ = 0 on a junction tree that the Gaussian is Markov to; not for
    σ > 0, where a composed score is an approximation. tr(J (Σ + σ² I)) = N for any valid counts.
    """
    graph = graph.regions if isinstance(graph, FactorGraph) else graph
    total = torch.zeros_like(gaussian.covariance)
    for group in graph.groups:
        _, covariance = marginals(gaussian, group)
        eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
        counts = torch.from_numpy(group.counts / graph.denominator).to(covariance)
        precisions = counts[:, None, None] * torch.linalg.inv(covariance + sigma**2 * eye)
        flat = group.indices(0, len(group)).reshape(len(group), -1)
        rows, columns = flat[:, :, None].expand_as(precisions), flat[:, None].expand_as(precisions)
        total.index_put_((rows, columns), precisions, accumulate=True)
    return total


def bethe_entropy(
    graph: FactorGraph | RegionGraph, gaussian: Gaussian, sigma: float = 0.0
) -> float:
    """Σ_r c_r H(q_σ(u_r)) in nats: on a junction tree the joint's entropy, at σ = 0 only."""
    graph = graph.regions if isinstance(graph, FactorGraph) else graph
    total = 0.0
    for group in graph.groups:
        _, covariance = marginals(gaussian, group)
        variances = torch.linalg.eigvalsh(covariance) + sigma**2
        entropies = 0.5 * (2 * math.pi * math.e * variances).log().sum(dim=1)
        total += (torch.from_numpy(group.counts / graph.denominator) * entropies).sum().item()
    return total


def kl_divergence(p: Gaussian, q: Gaussian) -> float:
    """KL(p ‖ q) = ½ (tr Σ_q⁻¹Σ_p + |m_q - m_p|²_{Σ_q⁻¹} - log det Σ_q⁻¹Σ_p - N), in nats.

    Raises:
        ShapeError: the covariance of q is singular.
    """
    difference = (q.mean - p.mean).reshape(-1)
    factor, info = torch.linalg.cholesky_ex(q.covariance)
    if info:
        raise ShapeError("kl_divergence: the covariance of q is singular. Add noise: q.noised(σ).")
    ratio = torch.cholesky_solve(p.covariance, factor)
    shift = difference @ torch.cholesky_solve(difference[:, None], factor)[:, 0]
    log_det = torch.linalg.slogdet(ratio).logabsdet
    return float(0.5 * (ratio.trace() + shift - log_det - len(difference)))
