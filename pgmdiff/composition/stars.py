r"""Regions on equal elements: messages with a precision as well as a shift.

Regions r that hold the same elements under different conditions are a star, such as the posteriors
of N observations (c = 1) and their prior (c = 1 - N). What all others know of the region r, the
precision K - Σ_r⁻¹ with K = Σ_r c_r Σ_r⁻¹, is as large as what it knows itself, and a shift alone
leaves it out. Its isotropic part is only a lower noise level, so that ordinary denoisers carry it:

    λ_r = θ λ_min(K - Σ_r⁻¹),   σ_r⁻² = σ⁻² + λ_r,   d_r = (σ_r/σ)² (η_r + s_r(u + σ_r² η_r, σ_r))
    (I + σ² K) s = Σ_r c_r [(I + σ² (λ_r + Σ_r⁻¹)) d_r - η_r]
    η_r  ← η_r + γ (I + σ² (λ_r + Σ_r⁻¹)) (s - d_r),     relative to u: + λ_r (u_old - u_new)

This is expectation propagation with the variances left as they are assumed. It is exact for
Gaussians whatever the λ_r, and they are never more certain, in no direction, than what they stand
for. The fixed point, d_r = s, is nearer to the truth the more Gaussian tilted regions are.

The covariances are those of whole posteriors, in which modes take part that all observations
together exclude. Then Σ_j⁻¹ - Σ_0⁻¹ is no observation's own precision, and iterations converge
slowly, if surely. A run measures them by what it has seen already, without an evaluation: for a
Gaussian s_r = Σ_r⁻¹ (m_r - D_r) at any level. With Δ the changes from call to call, δ = ΔD that of
the mean of the D_r, Q_r = Σ_r⁻¹ - Σ_0⁻¹, and Σ_0⁻¹ that of negative counts,

    θ_K = δᵀ Σ_r c_r (-Δs_r - Σ_0⁻¹ ΔD_r) / δᵀ Σ_r c_r Q_r ΔD_r              for all Q_r above
    θ   = δᵀ (Δs_0 - Σ_r c_r Δs_r) / δᵀ (Σ_r c_r Σ_r⁻¹ ΔD_r - Σ_0⁻¹ ΔD_0)      for the λ_r

with sums over the calls, each half as heavy as the next, and a little of θ = 1, which they are for
Gaussians. Calls without memory have θ = 1.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgmdiff.composition.evaluate import Chunk, Evaluate, Tilt
from pgmdiff.precision import ComposedPrecision

__all__: list[str] = []

LARGEST = 64
"""Most elements: a small system is solved per sample. Larger regions exchange shifts alone."""
KEPT = 0.5
"""Weight of a call's changes relative to that of the next one's."""
ASSUMED = 0.01
"""Weight of θ = 1 per element, in squared deviations of the posterior."""
LEAST = 0.05
"""Least θ."""
CENTRE, CARRIED = "centre", "star"
"""Names in the memory: the denoised value that messages are relative to, `[B, d]`, and what shares
are measured by: D, Σ_r c_r s_r, that less s_0, three sums, and θ: `[B, 3 d + 4]`. Both float64.
"""


class Said(NamedTuple):
    """What the regions of a chunk say: η_r, d_r and s_r `[samples, regions, d]`, λ_r with d = 1."""

    chunk: Chunk
    eta: Tensor
    tilted: Tensor
    scores: Tensor
    sharper: Tensor


@dataclass(frozen=True, eq=False)
class Star:
    """Regions on equal elements, in float64.

    Attributes:
        whole: K, `[d, d]`.
        reference: Σ_0⁻¹, the mean of the precisions of negative count, `[d, d]`.
        negative: the sum of the negative counts.
    """

    whole: Tensor
    reference: Tensor
    negative: float
    _bounds: dict[Any, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, precision: ComposedPrecision) -> "Star | None":
        """The star of a graph; None if it is none, or too large, or regions say nothing new."""
        d = precision.graph.n_elements
        if d > LARGEST:
            return None
        whole, below, count = torch.zeros(d, d).double(), torch.zeros(d, d).double(), 0.0
        for block in precision.blocks:
            if block.index.shape[1] != d or (block.index != torch.arange(d)).any():
                return None
            terms, negative = block.dense(), block.counts < 0
            whole, below = whole + terms.sum(dim=0), below + terms[negative].sum(dim=0)
            count += float(block.counts[negative].sum())
        if not count or not torch.linalg.eigvalsh(whole - below / count)[0] > 0:
            return None
        return cls(whole, below / count, count)

    def bounds(self, chunk: Chunk) -> Tensor:
        """λ_min(K - Σ_r⁻¹), or 0, of the regions of a chunk: `[n or 1]`, kept."""
        key = chunk.batch.offset, chunk.start, chunk.stop
        if key not in self._bounds:
            assert chunk.batch.precisions is not None, "the plan holds those of a bound rule"
            own = chunk.batch.precisions.rows(chunk.start, chunk.stop).dense()
            with torch.inference_mode(False):
                known = torch.linalg.eigvalsh(self.whole - own.cpu())[:, 0]
                self._bounds[key] = known.clamp(min=0)
        return self._bounds[key].to(chunk.index.device)

    def sharper(self, chunk: Chunk, like: Tensor, carried: Tensor | None) -> Tensor:
        """λ_r, `[samples, regions]`, with θ of what is carried, or 1; `like` is `[B]`."""
        share = torch.ones_like(like).double() if carried is None else carried[:, -1]
        whole = share[chunk.samples, None] * self.bounds(chunk)
        return whole.expand(-1, chunk.stop - chunk.start)

    def levels(self, chunk: Chunk, sigma: Tensor, carried: Tensor) -> Tensor:
        """σ_r, `[samples, regions]`."""
        own = sigma.double()[chunk.samples, None]
        return own / (1 + own**2 * self.sharper(chunk, sigma, carried)).sqrt()

    def tilt(
        self, u: Tensor, centre: Tensor, messages: Tensor | None, carried: Tensor | None
    ) -> Tilt:
        """The tilt of messages that are relative to a centre; see `said`."""
        away = centre - u

        def tilt(chunk: Chunk) -> tuple[Tensor, Tensor]:
            sharper = self.sharper(chunk, u[:, 0], carried)
            shift = sharper[:, :, None] * away[chunk.samples, None]
            return (shift if messages is None else shift + chunk.own(messages)), sharper

        return tilt

    def said(
        self,
        evaluate: Evaluate,
        u: Tensor,
        sigma: Tensor,
        messages: Tensor | None = None,
        centre: Tensor | None = None,
        carried: Tensor | None = None,
    ) -> list[Said]:
        """What regions say to messages η_r - λ_r (centre - u) `[B, M]`, 0 if None.

        The centre is `[B, d]`; without one η_r and λ_r are 0. See `sharper` for what is carried.
        """
        tilt = None if centre is None else self.tilt(u, centre, messages, carried)
        found = []
        for chunk, scores in evaluate(u, sigma, tilt=tilt):
            wide = scores.double()
            eta, sharper = (0 * wide, 0 * wide[:, :, 0]) if tilt is None else tilt(chunk)
            sharper = sharper[:, :, None]
            squared = sigma.double()[chunk.samples, None, None] ** 2
            tilted = (eta + wide) / (1 + squared * sharper)
            found.append(Said(chunk, eta, tilted, wide, sharper))
        return found

    def joined(
        self, said: list[Said], u: Tensor, sigma: Tensor, share: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The score, and per chunk the gaps s - d_r and the undamped updates of the messages.

        θ_K is `[B]`, or 1 if None.
        """
        whole, reference = self.whole.to(u.device), self.reference.to(u.device)
        squared = sigma.double()[:, None, None] ** 2
        theta = torch.ones_like(squared) if share is None else share[:, None, None]

        def sharpened(each: Said, values: Tensor) -> Tensor:
            """(I + σ² (λ_r + Σ_r⁻¹)) values, where Σ_r⁻¹ is θ Σ_r⁻¹ + (1 - θ) Σ_0⁻¹."""
            part = theta[each.chunk.samples]
            own = part * pulled(each.chunk, values) + (1 - part) * (values @ reference)
            return values + squared[each.chunk.samples] * (each.sharper * values + own)

        total = torch.zeros_like(u, dtype=torch.float64)
        for each in said:
            each.chunk.add(total, sharpened(each, each.tilted) - each.eta)
        matrices = torch.eye(len(whole)).to(whole) + squared * torch.lerp(reference, whole, theta)
        score = torch.linalg.solve(matrices, total)
        gaps = [score[each.chunk.samples, None] - each.tilted for each in said]
        return score, gaps, [sharpened(*each) for each in zip(said, gaps, strict=True)]

    def shares(
        self, said: list[Said], u: Tensor, sigma: Tensor, carried: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """θ_K `[B]`, and what is carried on, with θ."""
        sums, regions = torch.zeros(5, *u.shape).to(u.device).double(), 0
        for chunk, _, tilted, scores, _ in said:
            rows, weights = chunk.samples, chunk.weights.double()[:, None]
            denoised = u[rows, None] + sigma.double()[rows, None, None] ** 2 * tilted.detach()
            assumed, own = pulled(chunk, denoised), -scores.detach()
            alone = denoised @ self.reference.to(u.device)
            lesser = weights.clamp(max=0) / self.negative
            parts = (
                denoised,
                weights * (assumed - alone),
                weights * (own - alone),
                (weights - lesser) * assumed,
                (weights - lesser) * own,
            )
            for total, part in zip(sums, parts, strict=True):
                total[rows] += part.sum(dim=1)
            regions += len(weights) if rows.start == 0 else 0
        sums[0] /= regions
        n = sums.shape[0] * u.shape[1]
        now = sums.transpose(0, 1).flatten(1)
        before = torch.cat([now, now.new_zeros(len(u), 4)], dim=1) if carried is None else carried
        moved, *changes = (now - before[:, :n]).split(u.shape[1], dim=1)
        products = torch.stack([(moved * each).sum(dim=1) for each in changes], dim=1)
        past = KEPT * before[:, n : n + 4] + products.where(products[:, [0, 0, 2, 2]] > 0, 0)
        ratios = ASSUMED * u.shape[1] + past
        closure, share = (ratios[:, 1::2] / ratios[:, ::2]).clamp(LEAST, 1).T
        return closure, torch.cat([now, past, share[:, None]], dim=1)

    def log_density(
        self,
        evaluate: Evaluate,
        u: Tensor,
        sigma: Tensor,
        score: Tensor,
        messages: Tensor,
        centre: Tensor,
    ) -> Tensor:
        """L_σ without - ½ log det(I + σ² K), at a fixed point with θ = 1: float64 `[B]`.

        Σ_r c_r [log q_σr(u + σ_r² η_r) + ½ σ_r² |η_r|² - σ² η_r · s + ½ λ_r |σ² s|²
                 + ½ log det(I + σ_r² Σ_r⁻¹)]
        """
        total = torch.zeros_like(sigma, dtype=torch.float64)
        tilt = self.tilt(u, centre, messages, None)
        for chunk, densities in evaluate(u, sigma, density=True, tilt=tilt):
            assert chunk.batch.precisions is not None, "the plan holds those of a bound rule"
            eta, sharper = tilt(chunk)
            level = sigma.double()[chunk.samples, None] ** 2
            own, pull = level / (1 + level * sharper), (level * score[chunk.samples])[:, None]
            precisions = chunk.batch.precisions.rows(chunk.start, chunk.stop).dense()
            logs = torch.log1p(own[:, :, None] * torch.linalg.eigvalsh(precisions)).sum(dim=2)
            terms = densities + 0.5 * (own * (eta**2).sum(dim=2) + logs)
            terms = terms + (pull * (0.5 * sharper[:, :, None] * pull - eta)).sum(dim=2)
            total[chunk.samples] += terms @ chunk.weights.double()
        return total


def pulled(chunk: Chunk, values: Tensor) -> Tensor:
    """Σ_r⁻¹ values_r of the regions of a chunk, `[samples, regions, d]`."""
    assert chunk.batch.precisions is not None, "the plan holds those of a bound rule"
    return chunk.batch.precisions.rows(chunk.start, chunk.stop).times(values)
