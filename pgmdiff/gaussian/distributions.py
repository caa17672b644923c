r"""Gaussians and mixtures of them, with scores, densities and marginals at every noise level.

For q = N(m, Σ) and q_σ = N(m, Σ + σ² I):

    score      s(u, σ) = -(Σ + σ² I)⁻¹ (u - m)
    denoiser   D(u, σ) = m + Σ (Σ + σ² I)⁻¹ (u - m)
    entropy    H = ½ log det(2πe Σ)

Where Σ is singular and σ = 0, up to the rounding of float64, there is no such density: its
logarithm is -∞ off the support, and +∞ on it if the state's rounding leaves it there at all, and
the entropy is -∞.

For a mixture q = Σ_k w_k N(m_k, Σ_k) the score is the mean of its components' scores, weighted with
the posterior probability of each component, its responsibility p(k | u_σ = u):

    s(u, σ) = Σ_k p(k | u) s_k(u, σ),     p(k | u) ∝ w_k N(u; m_k, Σ_k + σ² I)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pgmdiff.errors import PgmdiffError, ShapeError, shape_text
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.linalg import beside, correlations, is_finite, rows, tensor_of, widest
from pgmdiff.noise import Generator, torch_generator
from pgmdiff.precision.precision import taken_blocks
from pgmdiff.scores.adapters import Score, per_sample
from pgmdiff.text import brief, by_field, counted, described

__all__ = [
    "Distribution",
    "Gaussian",
    "GaussianMixture",
    "Stack",
    "ar1",
    "marginals",
]


class Distribution(ABC):
    """A distribution q of states with closed-form scores, densities and marginals.

    It is itself a score, `q(u, sigma)`, with a `log_density`: `compose` accepts it as a model.

    Attributes:
        mean: `[*event]`.
        covariance: `[N, N]` over the flattened event.
        per_element: whether score and denoiser accept a noise level per element, σ like u.
    """

    mean: Tensor
    covariance: Tensor
    copies = True
    per_element = False
    _stack: "Stack"
    """The whole state as the one region of a stack, if `per_element`."""

    @property
    @abstractmethod
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a state."""

    @abstractmethod
    def marginal(self, elements: Tensor) -> "Distribution":
        """The marginal on an integer array of flattened elements, in the shape of that array."""

    @abstractmethod
    def noised(self, sigma: float) -> "Distribution":
        """The distribution q_σ of states with added noise."""

    @abstractmethod
    def sample(self, n: int, generator: Generator = None) -> Tensor:
        """Independent draws, `[n, *event]`, from a seed or a generator; None for fresh entropy."""

    def of_regions(self, group: RegionGroup) -> tuple[Score, dict[str, Tensor]]:
        """One score for the marginals on all regions of a group, called with one region per row.

        Returns:
            The score, and its keyword arguments `[n, ...]`, one row per region.
        """
        return score_of_rows, dict(vars(Stack.of(self, group)))

    def __call__(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """The score; see `score`."""
        return self.score(u, sigma)

    def score(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """∇ log q_σ(u) for u `[batch, *event]`, sigma a number, `[batch]` or like u.

        Raises:
            ShapeError: u or sigma does not fit.
        """
        if self.per_element and isinstance(sigma, Tensor) and sigma.shape == u.shape != u.shape[:1]:
            self._levels(u, 1.0)
            x, levels = (t.reshape(len(u), 1, self.mean.numel()) for t in (u, sigma))
            return self._stack.like(x).score(x, levels).reshape(u.shape).to(u.dtype)
        return self._score(u, self._levels(u, sigma))

    def denoise(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """E[u_0 | u_σ = u] for u `[batch, *event]`; u at σ = 0."""
        s = beside(per_sample(sigma, u), u)
        return u + (s**2 * self.score(u, sigma)).where(s > 0, 0)  # a score may be infinite there

    def log_density(self, u: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """The log-density log q_σ(u) for u `[batch, *event]`: `[batch]`, in nats, in u's dtype.

        Where a covariance is singular it is -∞ or +∞ at sigma = 0.

        Raises:
            ShapeError: u or sigma does not fit.
        """
        return self._log_density(u, self._levels(u, sigma))

    @abstractmethod
    def _score(self, u: Tensor, sigma: Tensor) -> Tensor: ...

    @abstractmethod
    def _log_density(self, u: Tensor, sigma: Tensor) -> Tensor: ...

    def _levels(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """σ as `[batch]`, after a check of the shapes of u and σ."""
        who, event = type(self).__name__, self.event_shape
        if u.ndim != len(event) + 1 or tuple(u.shape[1:]) != event:
            raise ShapeError(
                f"{who}: expected states {shape_text('batch', event)}, got {tuple(u.shape)}. "
                "Reshape them, or add a batch axis to a single state: u[None]."
            )
        if not u.is_floating_point():
            raise ShapeError(f"{who}: expected floating-point states, got {u.dtype}. Convert them.")
        if isinstance(sigma, Tensor) and sigma.ndim and sigma.shape != u.shape[:1]:
            raise ShapeError(
                f"{who}: expected sigma as one number or one for each of {len(u)} samples, got "
                f"{tuple(sigma.shape)}."
            )
        return per_sample(sigma, u)


@dataclass(frozen=True, eq=False)
class Gaussian(Distribution):
    """N(mean, covariance) on states of any event shape; itself a score.

    Args:
        mean: `[*event]`, a tensor, an array or a list.
        covariance: `[N, N]` over the flattened event, symmetric and positive semi-definite.

    Raises:
        ShapeError: the shapes do not match, or the covariance is not symmetric or not positive
            semi-definite.

    Example:
        >>> Gaussian(torch.zeros(20), torch.eye(20))
        Gaussian(d=20, float32)
    """

    mean: Tensor
    covariance: Tensor
    per_element = True

    def __repr__(self) -> str:
        return described(self, *_size_and_dtype(self.mean))

    def __post_init__(self) -> None:
        for what, given in (("mean", self.mean), ("covariance", self.covariance)):
            value = tensor_of("Gaussian", f"the {what}", given)
            if not value.is_floating_point():
                raise ShapeError(
                    f"Gaussian: expected the {what} as a floating-point tensor, got {value.dtype}. "
                    "Convert it: torch.as_tensor(values).double()."
                )
            if not value.isfinite().all():
                raise ShapeError(f"Gaussian: the {what} holds NaN or infinity. Remove it.")
            object.__setattr__(self, what, value.clone())  # the caller may change theirs
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
        """The Gaussian with the samples' mean and covariance (divided by n): `[n, *event]`.

        It can stand in for the missing model of an overlap: it is exact in mean and covariance, and
        ignores everything else. Give enough samples (several times the number of elements).
        Otherwise the covariance is singular, which is allowed, but takes what was never seen for
        impossible.

        It is computed in float64 and returned in the samples' dtype. If rounding to that dtype
        leaves the covariance indefinite, all variances are raised in proportion until it is
        positive semi-definite in float64.

        Raises:
            ShapeError: there are fewer than two samples, or they are no finite floats.
        """
        samples = tensor_of("Gaussian.fit", "samples", samples)
        if not samples.is_floating_point() or not samples.ndim:
            raise ShapeError(
                f"Gaussian.fit: expected floating-point samples [n, *event], got {brief(samples)}. "
                "Convert them: samples.double()."
            )
        if len(samples) < 2 or not is_finite(samples):
            got = "NaN or infinity" if len(samples) > 1 else len(samples)
            raise ShapeError(f"Gaussian.fit: expected at least 2 finite samples, got {got}.")
        wide = samples.double()
        mean = wide.mean(dim=0)
        flat = (wide - mean).reshape(len(samples), -1)
        covariance = flat.T @ flat / len(samples)
        rounded = covariance.to(samples.dtype)
        if rounded.dtype != covariance.dtype and rounded.numel() and rounded.isfinite().all():

            def least() -> float:
                return float(torch.linalg.eigvalsh(correlations(rounded.double())[0])[0])

            raised = -2 * least()
            while least() < 0:
                rounded = (covariance + raised * covariance.diagonal().diag()).to(samples.dtype)
                raised *= 2
        return cls(mean.to(samples.dtype), rounded)

    @cached_property
    @torch.inference_mode(False)  # what is kept must serve autograd later
    def _eigen(self) -> tuple[Tensor, Tensor]:
        return eigen(self.covariance)

    @property
    def _singular(self) -> bool:
        return not bool((self._eigen[0] > 0).all())

    @property
    def _stack(self) -> "Stack":  # type: ignore[override]
        whole = self.mean.reshape(1, 1, -1), *(part[None, None] for part in self._eigen)
        return Stack(torch.zeros(1, 1), *whole)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)

    def marginal(self, elements: Tensor) -> "Gaussian":
        """The marginal on an integer array of flattened elements, in the shape of that array.

        Raises:
            ShapeError: the state does not have one of the elements.
        """
        flat = torch.as_tensor(elements).reshape(-1)
        if flat.dtype == torch.bool or flat.is_floating_point():
            raise ShapeError(
                f"Gaussian.marginal: expected elements as integers, got {flat.dtype}. Of a mask "
                "give mask.flatten().nonzero()[:, 0]."
            )
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

    def entropy(self, sigma: float = 0.0) -> float:
        """½ log det(2πe (Σ + σ² I)), in nats; -∞ if it is singular."""
        variances = self._eigen[0].to(widest(self.mean.device)).clamp(min=0) + sigma**2
        return 0.5 * (2 * math.pi * math.e * variances).log().sum().item()

    def sample(self, n: int, generator: Generator = None) -> Tensor:
        if n < 0:
            raise PgmdiffError(f"Gaussian.sample: expected n >= 0 draws, got {n}.")
        generator = torch_generator(generator, "Gaussian.sample")
        values, vectors = self._eigen
        z = torch.randn(n, len(values), generator=generator, dtype=self.mean.dtype)
        draws = z.to(vectors) * values.clamp(min=0).sqrt() @ vectors.T
        return self.mean + draws.reshape(n, *self.event_shape)

    def _score(self, u: Tensor, sigma: Tensor) -> Tensor:
        rotated, variances, vectors = self._rotated(u, sigma)
        return -(rotated / variances @ vectors.T).reshape(u.shape).to(u.dtype)

    def _log_density(self, u: Tensor, sigma: Tensor) -> Tensor:
        rotated, variances, _ = self._rotated(u, sigma)
        return _log_normal(rotated, variances).to(u.dtype)

    def _rotated(self, u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """In the eigenbasis u - m, `[batch, N]`, and the variances; and that basis."""
        centred = (u - self.mean.to(u.device)).reshape(len(u), self.mean.numel())
        values, vectors = (part.to(centred) for part in self._eigen)
        return centred @ vectors, values.clamp(min=0) + sigma[:, None] ** 2, vectors


def ar1(n: int, rho: float) -> Gaussian:
    """The stationary AR(1) chain of unit variances, N(0, Σ) with Σ_ij = ρ^|i - j|, in float64.

        u_i = ρ u_{i-1} + √(1 - ρ²) ε_i

    It is Markov to a chain, so that everything about it is known: the usual first test.

    Args:
        n: the number of variables.
        rho: ρ, the correlation of neighbours, from -1 to 1.

    Raises:
        PgmdiffError: n is negative, or ρ is not from -1 to 1.

    Example:
        >>> ar1(3, 0.5).covariance[0].tolist()
        [1.0, 0.5, 0.25]
    """
    if n < 0:
        raise PgmdiffError(f"ar1: expected n >= 0 variables, got {n}.")
    place = torch.arange(n)
    covariance = rho ** (place[:, None] - place).abs().double()
    return Gaussian(torch.zeros(n, dtype=torch.float64), covariance)


def _size_and_dtype(mean: Tensor) -> tuple[str, ...]:
    """What the repr of a distribution says of its state."""
    event = f"event_shape={tuple(mean.shape)}" if mean.ndim != 1 else ""
    return event, f"d={mean.numel()}", str(mean.dtype).removeprefix("torch.")


@dataclass(frozen=True, eq=False)
class GaussianMixture(Distribution):
    """Σ_k w_k N(m_k, Σ_k) on states of any event shape; itself a score.

    Args:
        weights: `[K]`, positive, with sum 1.
        components: K Gaussians of one event shape.

    Raises:
        ShapeError: there is not one positive weight per component, the weights do not sum to 1, or
            the components' event shapes differ.
    """

    weights: Tensor
    components: Sequence[Gaussian]
    per_element = True

    def __repr__(self) -> str:
        size = _size_and_dtype(self.components[0].mean)
        return described(self, counted(len(self.components), "component"), *size)

    def __post_init__(self) -> None:
        k, shapes = len(self.components), {c.event_shape for c in self.components}
        if len(shapes) != 1:
            raise ShapeError(
                "GaussianMixture: expected at least one component and one event shape, got "
                f"{k} components of shapes {sorted(shapes)}. Reshape their means."
            )
        weights = tensor_of("GaussianMixture", "the weights", self.weights)
        if weights.shape != (k,):
            raise ShapeError(
                f"GaussianMixture: expected a tensor of {k} weights, one per component, got "
                f"{self.weights!r}."
            )
        object.__setattr__(self, "weights", weights.clone())  # the caller may change theirs
        total = self.weights.double().sum().item()
        if not (self.weights > 0).all() or abs(total - 1) > WEIGHT_TOLERANCE:
            raise ShapeError(
                "GaussianMixture: expected positive weights that sum to 1, got "
                f"{self.weights.tolist()} with sum {total:.7g}. Leave out components of weight 0 "
                "and divide by the sum."
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.components[0].event_shape

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """The mean Σ_k w_k m_k: `[*event]`."""
        return _weighted(self.weights, [c.mean for c in self.components])

    @property
    def covariance(self) -> Tensor:  # type: ignore[override]
        """The covariance Σ_k w_k (Σ_k + (m_k - m)(m_k - m)ᵀ): `[N, N]`."""
        offsets = [(c.mean - self.mean).reshape(-1) for c in self.components]
        between = [torch.outer(offset, offset) for offset in offsets]
        within = [c.covariance for c in self.components]
        return _weighted(self.weights, within) + _weighted(self.weights, between)

    def marginal(self, elements: Tensor) -> "GaussianMixture":
        return GaussianMixture(self.weights, [c.marginal(elements) for c in self.components])

    def noised(self, sigma: float) -> "GaussianMixture":
        """q_σ: every component with covariance Σ_k + σ² I."""
        return GaussianMixture(self.weights, [c.noised(sigma) for c in self.components])

    def sample(self, n: int, generator: Generator = None) -> Tensor:
        if n < 0:
            raise PgmdiffError(f"GaussianMixture.sample: expected n >= 0 draws, got {n}.")
        generator = torch_generator(generator, "GaussianMixture.sample")
        drawn = max(n, 1)  # multinomial refuses 0
        weights = self.weights.cpu()  # as all draws are made there
        which = torch.multinomial(weights, drawn, replacement=True, generator=generator)[:n]
        draws = self.mean.new_empty(n, *self.event_shape)
        for k, component in enumerate(self.components):
            mine = which == k
            draws[mine] = component.sample(int(mine.sum()), generator).to(draws)
        return draws

    @cached_property
    @torch.inference_mode(False)
    def _stack(self) -> "Stack":  # type: ignore[override]
        parts = [(c.mean.reshape(1, -1), *(e[None] for e in c._eigen)) for c in self.components]
        means, values, vectors = (torch.stack(part, dim=1) for part in zip(*parts, strict=True))
        return Stack(self.weights.to(means).log()[None], means, values, vectors)

    def _score(self, u: Tensor, sigma: Tensor) -> Tensor:
        x = rows(u)[:, None]
        return self._stack.like(x).score(x, sigma[:, None]).reshape(u.shape).to(u.dtype)

    def _log_density(self, u: Tensor, sigma: Tensor) -> Tensor:
        x = rows(u)[:, None]
        return self._stack.like(x).log_density(x, sigma[:, None])[:, 0].to(u.dtype)


WEIGHT_TOLERANCE = 1e-6
"""How far the weights of a mixture may sum from 1: the rounding of float32."""


def _log_normal(rotated: Tensor, variances: Tensor) -> Tensor:
    """The log-density of a centred Gaussian along its eigenvectors, `[..., d]` to `[...]`."""
    on_support = (rotated == 0) & (variances == 0)
    distance = (rotated**2 / variances).where(~on_support, 0).sum(dim=-1)
    total = -0.5 * ((2 * math.pi * variances).log().sum(dim=-1) + distance)
    return total.masked_fill(distance.isinf(), -torch.inf)


def eigen(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of covariances `[..., N, N]`.

    Values are those of float64. They are not above 0 where vᵀ Σ v is lost in its rounding.
    """
    values, vectors = torch.linalg.eigh(covariance)
    wide = covariance.to(widest(covariance.device))
    if wide.dtype != covariance.dtype:
        values = torch.linalg.eigvalsh(wide)
    sizes = (vectors.abs() * (covariance.abs() @ vectors.abs())).sum(dim=-2)
    rounding = covariance.shape[-1] * torch.finfo(wide.dtype).eps * sizes
    return values.where(values > rounding, values.clamp(max=0)).to(covariance), vectors


def _weighted(weights: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Σ_k w_k values_k."""
    stacked = torch.stack(tuple(values))
    return torch.einsum("k,k...->...", weights.to(stacked), stacked)


@dataclass(frozen=True, eq=False)
class Stack:
    """One mixture of K Gaussians on each of n regions of d elements, all evaluated at once.

    The methods accept x `[batch, n, d]` and sigma `[batch, n]` of the stack's dtype; the score also
    sigma `[batch, n, d]`.

    Args:
        log_weights: `[n, K]`.
        mean: `[n, K, d]`.
        eigenvalues: of the covariances, `[n, K, d]`.
        eigenvectors: `[n, K, d, d]`.
    """

    log_weights: Tensor
    mean: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    __repr__ = by_field

    @classmethod
    def of(cls, q: Distribution, group: RegionGroup) -> "Stack":
        """The marginals of q on the regions of a group; a Gaussian is a mixture of one."""
        weights, components = torch.ones(1), [q]
        if isinstance(q, GaussianMixture):
            weights, components = q.weights, [*q.components]
        parts = [marginals(component, group) for component in components]
        mean = torch.stack([m.reshape(len(group), -1) for m, _ in parts], dim=1)
        covariance = torch.stack([c for _, c in parts], dim=1)
        log_weights = weights.to(mean).log().expand(len(group), -1)
        return cls(log_weights, mean, *eigen(covariance))

    def like(self, x: Tensor) -> "Stack":
        """The same stack on x's device, in the wider dtype of both."""
        dtype = torch.promote_types(x.dtype, self.mean.dtype)
        return Stack(*(part.to(x.device, dtype) for part in vars(self).values()))

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The log-density log Σ_k w_k N(x; m_k, Σ_k + σ² I): `[batch, n]`."""
        return self._log_joint(*self._rotated(x, sigma)).logsumexp(dim=2)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The score Σ_k p(k | x) s_k(x): `[batch, n, d]`."""
        if sigma.ndim == 3:  # one row per sample and region, whose covariances hold the noise
            own = self._noised(sigma)
            flat = own.score(
                x.reshape(1, -1, x.shape[2]), torch.zeros_like(own.mean[None, :, 0, 0])
            )
            return flat.reshape(x.shape)
        rotated, variances = self._rotated(x, sigma)
        if self.mean.shape[1] > 1:
            responsibilities = self._log_joint(rotated, variances).softmax(dim=2)
            rotated = responsibilities[..., None] * rotated
        return -torch.einsum("bnke,nkde->bnd", rotated / variances, self.eigenvectors)

    def _noised(self, sigma: Tensor) -> "Stack":
        """The mixtures with covariances Σ_k + diag(σ²), `[batch * n]` rows, for σ `[batch, n, d]`.

        With Σ_k + diag(σ²) = U diag(v) Uᵀ, U triangular, v and U⁻ᵀ stand for the eigenvalues and
        the eigenvectors: they diagonalise it, too.
        """
        covariance = (self.eigenvectors * self.eigenvalues[:, :, None]) @ self.eigenvectors.mT
        noisy = covariance + (sigma**2)[:, :, None].diag_embed()
        factor = torch.linalg.cholesky(noisy.flatten(0, 1))
        pivots = factor.diagonal(dim1=2, dim2=3)
        eye = torch.eye(sigma.shape[2]).to(factor)
        vectors = torch.linalg.solve_triangular(factor / pivots[:, :, None], eye, upper=False).mT
        rows = self.log_weights.repeat(len(sigma), 1), self.mean.repeat(len(sigma), 1, 1)
        return Stack(*rows, pivots**2, vectors)

    def _rotated(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """In the eigenbasis of Σ_k: x - m_k, and the variances Σ_k + σ² I; `[batch, n, K, d]`."""
        rotated = torch.einsum("bnkd,nkde->bnke", x[:, :, None] - self.mean, self.eigenvectors)
        return rotated, self.eigenvalues.clamp(min=0) + sigma[:, :, None, None] ** 2

    def _log_joint(self, rotated: Tensor, variances: Tensor) -> Tensor:
        """The terms log w_k N(x; m_k, Σ_k + σ² I): `[batch, n, K]`."""
        return self.log_weights + _log_normal(rotated, variances)


class _RowsScore:
    """The score of rows x `[rows, *shape]`, each with its own mixture; sigma `[rows]` or like x.

    The mixtures are given by the fields of a `Stack`, one row per row of x. Values are computed in
    the wider dtype of x and them, and returned in that of x.
    """

    copies = per_element = True

    def __call__(self, x: Tensor, sigma: Tensor, **stack: Tensor) -> Tensor:
        flat = rows(x)[None]
        levels = sigma[None] if sigma.ndim == 1 else sigma.reshape(flat.shape)
        return Stack(**stack).like(x).score(flat, levels).reshape(x.shape).to(x.dtype)

    def log_density(self, x: Tensor, sigma: Tensor, **stack: Tensor) -> Tensor:
        """Log q_σ(x), `[rows]`, in nats."""
        flat = rows(x)[None]
        return Stack(**stack).like(x).log_density(flat, sigma[None])[0].to(x.dtype)


score_of_rows = _RowsScore()


def marginals(q: Distribution, group: RegionGroup) -> tuple[Tensor, Tensor]:
    """The means `[n, *shape]` and covariances `[n, d, d]` of q on the regions of a group."""
    index = group.indices(0, len(group))
    covariances = taken_blocks(q.covariance, index.reshape(len(group), -1))
    return q.mean.reshape(-1)[index], covariances
