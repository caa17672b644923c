r"""Regions on equal elements: messages with a precision as well as a shift.

Regions r that hold the same elements under different conditions are a star, such as the posteriors
of N observations (c = 1) and their prior (c = 1 - N). What all others know of the region r, the
precision K - Σ_r⁻¹ with K = Σ_r c_r Σ_r⁻¹, is as large as what it knows itself, and a shift alone
leaves it out. Its isotropic part is only a lower noise level, so that ordinary denoisers carry it:

    λ_r = θ λ_min(K - Σ_r⁻¹),   σ_r⁻² = σ⁻² + λ_r,   d_r = (σ_r/σ)² (η_r + s_r(u + σ_r² η_r, σ_r))
    (I + σ² K) s = Σ_r c_r [(I + σ² (λ_r + Σ_r⁻¹)) d_r - η_r]
    η_r  ← η_r + γ (I + σ² (λ_r + Σ_r⁻¹)) (s - d_r),     relative to u: + λ_r (u_old - u_new)

This is expectation propagation with the variances left as they are assumed. It is exact for
Gaussians whatever the λ_r, wherever composition without them is, and they are never more certain,
in no direction, than what they stand for. The counts of a star have the sum 1, so that it acts as
one region: one separator beside it may hold the same elements, which is none of its own. Separators
inside stars have a λ_r if no other region holds their elements; all else exchanges shifts alone.
The fixed point, d_r = A_r s, is nearer to the truth the more Gaussian tilted regions are. What
others know in some directions only has no isotropic part, and remains a shift.

The covariances are those of whole posteriors, in which modes take part that all observations
together exclude. Then Q_r = Σ_r⁻¹ - Σ_0⁻¹, Σ_0⁻¹ that of negative counts, is no observation's own
precision, and K is too certain. A run measures that by what it has seen already, without an
evaluation: for a Gaussian s_r = Σ_r⁻¹ (m_r - D_r) at any level. In every star, with Δ the changes
from call to call and δ = ΔD that of the mean of its D_r,

    θ_K = δᵀ Σ_r c_r (-Δs_r - Σ_0⁻¹ ΔD_r) / δᵀ Σ_r c_r Q_r ΔD_r              for all Q_r above
    θ   = δᵀ (Δs_0 - Σ_r c_r Δs_r) / δᵀ (Σ_r c_r Σ_r⁻¹ ΔD_r - Σ_0⁻¹ ΔD_0)      for the λ_r

with sums over the calls, each half as heavy as the next, and a little of θ = 1, which they are for
Gaussians. Where pieces are narrower than assumed, D can answer to its last value by more than that,
and with the other sign. Then the swing r = -Σ δ_t·δ_(t-1) / Σ |δ_(t-1)|² exceeds 1, and the λ_r of
the star are divided by r²; below 1 they grow by half per call, until they are whole. Calls without
memory have θ = 1.

In no direction do observations of Gaussian data widen
their prior. Where Σ_r c_r Q_r has a negative part, it is no likelihood's: all Q_r of the star are
projected onto the rest of its eigenvectors, relative to Σ_0⁻¹; see `likely`.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgmdiff.composition.evaluate import Chunk, Evaluate, Tilt
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.precision import ComposedPrecision
from pgmdiff.precision.covariances import Covariances
from pgmdiff.precision.forms import RegionCovariances, by_region
from pgmdiff.precision.precision import taken_blocks

__all__: list[str] = []

LARGEST, SOLVED = 64, 256
"""Most elements of a star, and of its graph, for which a system is solved per sample. Larger ones
exchange shifts alone."""
KEPT = 0.5
"""Weight of a call's changes relative to that of the next one's."""
ASSUMED = 0.01
"""Weight of θ = 1 per element, in squared deviations of the posterior."""
LEAST = 0.2
"""Least θ. With less, K is that of a plateau while modes are chosen, and runs swing until they are
lost."""
NEGLIGIBLE = 1e-6
"""Share of the largest eigenvalue, or of a precision, below which one counts as 0, and rounding of
sums of counts."""
REGAINED = 1.5
"""Factor by which λ_r that swings have reduced grow per call."""
CENTRE, CARRIED = "centre", "star"
"""Names in the memory: the denoised value that messages are relative to, `[B, N]`, and what shares
are measured by, for every star: the sums of regions of `shares`, δ, six sums over calls and what
swings left of the λ_r; and last θ of the λ_r: `[B, stars · (6 d + 8)]`. Both float64.
"""


class Said(NamedTuple):
    """What the regions of a chunk say: η_r, d_r and s_r `[samples, regions, d]`, λ_r with d = 1."""

    chunk: Chunk
    eta: Tensor
    tilted: Tensor
    scores: Tensor
    sharper: Tensor


class Held(NamedTuple):
    """A star: its elements `[d]`, the names and precisions of its regions, and sums over these.

    The elements are sorted, and those of all matrices with them.

    Attributes:
        places: of the regions' own elements among these, `[regions, d]`.
        negative: the sum of negative counts.
        total: Σ_r c_r Q_r.
        reference: Σ_0⁻¹.
    """

    elements: Tensor
    names: list[Hashable]
    places: Tensor
    precisions: Tensor
    negative: Tensor
    total: Tensor
    reference: Tensor


def _held(precision: ComposedPrecision) -> Iterator[Held]:
    """The stars of a graph; none of one that is too large."""
    held = defaultdict[bytes, list[tuple[Hashable, float, Tensor, Tensor]]](list)
    small = [block for block in precision.blocks if block.index.shape[1] <= LARGEST]
    for block in small if precision.graph.n_elements <= SOLVED else ():
        rows, order = block.index.sort(dim=1)
        own = reordered(block.precisions.dense().expand(len(rows), -1, -1), order)
        each = zip(block.group.names, block.counts.tolist(), order.argsort(dim=1), own, strict=True)
        for row, region in zip(rows.numpy(), each, strict=True):
            held[row.tobytes()].append(region)
    for key, several in held.items():
        rest = math.fsum(count for _, count, *_ in several) - 1  # of a separator beside the star
        alike = (name for name, count, *_ in several if abs(count - rest) < NEGLIGIBLE)
        extra = next(alike, None) if rest < -NEGLIGIBLE else None
        regions = [region for region in several if extra is None or region[0] != extra]
        counts = torch.tensor([count for _, count, *_ in regions]).double()
        lesser = counts.clamp(max=0)
        if len(regions) == 1 or not lesser.any() or abs(counts.sum() - 1) > NEGLIGIBLE:
            continue
        places = torch.stack([each for *_, each, _ in regions])
        own = torch.stack([each for *_, each in regions])
        reference = torch.tensordot(lesser / lesser.sum(), own, 1)
        total = torch.tensordot(counts, own - reference, 1)
        if torch.linalg.eigvalsh(total)[-1] > NEGLIGIBLE * torch.linalg.matrix_norm(reference, 2):
            index = torch.from_numpy(np.frombuffer(key, np.int64).copy())
            names = [name for name, *_ in regions]
            yield Held(index, names, places, own, lesser.sum(), total, reference)


def reordered(matrices: Tensor, order: Tensor) -> Tensor:
    """Matrices `[n, d, d]` with rows and columns in an order of each, `[n, d]`."""
    return matrices[torch.arange(len(order))[:, None, None], order[:, :, None], order[:, None]]


@dataclass(frozen=True, repr=False)
class Likely(Covariances):
    """Covariances, some of them replaced by name."""

    given: Covariances
    replaced: dict[Hashable, Tensor]

    def of(self, group: RegionGroup) -> Tensor | RegionCovariances:
        if self.replaced.keys().isdisjoint(group.names):
            return self.given.of(group)
        own = self.given.form(group).dense().expand(len(group), -1, -1)
        each = zip(group.names, own, strict=True)
        return torch.stack([self.replaced.get(name, covariance) for name, covariance in each])


def likely(precision: ComposedPrecision) -> ComposedPrecision:
    """Without the negative part of Σ_r c_r Q_r of any star; itself if there is none.

    Σ_r⁻¹ becomes Σ_0⁻¹ + P Q_r Pᵀ, P = L V Vᵀ L⁻¹ with Σ_0⁻¹ = L Lᵀ and the eigenvectors V of
    L⁻¹ (Σ_r c_r Q_r) L⁻ᵀ whose eigenvalues are not negative.
    """
    found: dict[Hashable, Tensor] = {}
    for star in _held(precision):
        lower = torch.linalg.cholesky(star.reference)
        inverse = torch.linalg.inv(lower)
        values, vectors = torch.linalg.eigh(inverse @ star.total @ inverse.T)
        if values[0] < -NEGLIGIBLE * values[-1]:
            kept = vectors[:, values >= 0]
            projection = lower @ kept @ kept.T @ inverse
            own = projection @ (star.precisions - star.reference) @ projection.T
            covariances = reordered(torch.linalg.inv(star.reference + own), star.places)
            found |= zip(star.names, covariances, strict=True)
    given = precision.covariances
    return ComposedPrecision(precision.graph, Likely(given, found)) if found else precision


class Rows(NamedTuple):
    """What is kept of the n regions of a chunk.

    Attributes:
        star: the star of each, or the number of stars if it is in none, `[n]`.
        bounds: λ_min(C_r - Σ_r⁻¹) of those inside a star, or 0, `[n]`.
        references: Σ_0⁻¹ of each, `[n or 1, d, d]`.
        order: of its elements as the star sorts them, `[n, d]`.
    """

    star: Tensor
    bounds: Tensor
    references: Tensor
    order: Tensor


@dataclass(frozen=True, eq=False)
class Stars:
    """The stars of a graph, in float64; matrices of small ones are padded with 0.

    Attributes:
        whole: K, `[N, N]`.
        names: the star of each region in one; their counts have the sum 1.
        elements: those of each star, int64 `[d]`, sorted.
        loose: the elements of regions that lie inside no star.
        negative: the sums of the negative counts, `[stars]`.
        sums: Σ_r c_r Q_r, `[stars, d, d]`.
        references: Σ_0⁻¹, the mean of the precisions of negative count, `[stars, d, d]`.
    """

    whole: Tensor
    names: dict[Hashable, int]
    elements: list[Tensor]
    loose: set[int]
    negative: Tensor
    sums: Tensor
    references: Tensor
    _rows: dict[Any, Rows] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, precision: ComposedPrecision, whole: Callable[[], Tensor]) -> "Stars | None":
        """Those of a graph, and K, computed if need be; None if it has none or is too large."""
        found, names = list[tuple[Tensor, ...]](), dict[Hashable, int]()
        for star in _held(precision):
            names |= dict.fromkeys(star.names, len(found))
            found.append((star.elements, star.negative, star.total, star.reference))
        if not found:
            return None
        elements, negative, *matrices = map(list, zip(*found, strict=True))
        width = max(len(each) for each in elements)
        sums, references = (
            torch.stack([F.pad(m, (0, width - len(m)) * 2) for m in some]) for some in matrices
        )
        sets, loose = [set(each.tolist()) for each in elements], set[int]()
        for block in precision.blocks:
            for name, row in zip(block.group.names, block.index.tolist(), strict=True):
                if name not in names and not any(each.issuperset(row) for each in sets):
                    loose.update(row)
        return cls(whole(), names, elements, loose, torch.stack(negative), sums, references)

    @cached_property
    def alone(self) -> bool:
        """Whether the graph is one star."""
        return len(self.elements) == 1 and len(self.elements[0]) == len(self.whole)

    @cached_property
    def covariance(self) -> Tensor:
        """K⁻¹."""
        inverse: Tensor = torch.linalg.inv(self.whole)
        return inverse

    def rows(self, chunk: Chunk) -> Rows:
        """What is kept of a chunk's regions."""
        key = chunk.batch.offset, chunk.start, chunk.stop, chunk.index.device
        if key not in self._rows:
            with torch.inference_mode(False):
                found = self._found(chunk)
                self._rows[key] = Rows(*(each.to(chunk.index.device) for each in found))
        return self._rows[key]

    def _found(self, chunk: Chunk) -> Rows:
        assert chunk.batch.precisions is not None, "the plan holds those of a bound rule"
        own = chunk.batch.precisions.rows(chunk.start, chunk.stop)
        index = chunk.index.reshape(chunk.stop - chunk.start, -1).cpu()
        d, sets = index.shape[1], [set(each.tolist()) for each in self.elements]
        group, stars = chunk.batch.group, len(sets)
        names = (group.name(row) for row in range(chunk.start, chunk.stop))
        star = torch.tensor([self.names.get(name, stars) for name in names])
        held = [
            self.loose.isdisjoint(row) and any(s >= set(row) for s in sets)
            for row in index.tolist()
        ]
        inside = (star < stars) | torch.tensor(held)
        order = index.argsort(dim=1)
        if not inside.any():
            none = torch.zeros(len(index)).double(), torch.zeros(1, d, d).double()
            return Rows(star, *none, order)
        others = torch.linalg.inv(taken_blocks(self.covariance, index)) - own.dense().cpu()
        values = torch.linalg.eigvalsh(others)
        bounds = values[:, 0].where(inside & (values[:, 0] > NEGLIGIBLE * values[:, -1]), 0)
        references = F.pad(self.references[:, :d, :d], (0, 0, 0, 0, 0, 1))[star]
        references = reordered(references, order.argsort(dim=1))
        one = self.alone and bool((order == order[:1]).all())
        return Rows(star, bounds, references[:1] if one else references, order)

    def sharper(self, chunk: Chunk, like: Tensor, carried: Tensor | None) -> Tensor:
        """λ_r, `[samples, regions]`, with θ of what is carried, or 1; `like` is `[B]`."""
        star, bounds, *_ = self.rows(chunk)
        if carried is None:
            return bounds.expand(chunk.samples.stop - chunk.samples.start, -1)
        share = carried[chunk.samples, -len(self.elements) :]
        return torch.cat([share, share.amin(dim=1, keepdim=True)], dim=1)[:, star] * bounds

    def levels(self, chunk: Chunk, sigma: Tensor, carried: Tensor | None) -> Tensor:
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
            shift = sharper[:, :, None] * chunk.gather(away)
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

        The centre is `[B, N]`; without one η_r and λ_r are 0. See `sharper` for what is carried.
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
        self,
        said: list[Said],
        u: Tensor,
        sigma: Tensor,
        pull: Tensor | None,
        share: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The score, and per chunk the gaps A_r s - d_r and the undamped updates of the messages.

        The pull is (K - P)(u - m) `[B, N]`, 0 if None. θ_K is `[B, stars]`, 1 if None.
        """
        squared = sigma.double()[:, None, None] ** 2
        theta = None if share is None else F.pad(share, (0, 1), value=1)

        def sharpened(each: Said, values: Tensor) -> Tensor:
            """(I + σ² (λ_r + Σ_r⁻¹)) values, where Σ_r⁻¹ is θ_K Σ_r⁻¹ + (1 - θ_K) Σ_0⁻¹."""
            own = pulled(each.chunk, values)
            if theta is not None:
                rows = self.rows(each.chunk)
                part = theta[each.chunk.samples][:, rows.star, None]
                own = part * own + (1 - part) * by_region(values, rows.references)
            return values + squared[each.chunk.samples] * (each.sharper * values + own)

        total = torch.zeros_like(u, dtype=torch.float64)
        for each in said:
            each.chunk.add(total, sharpened(each, each.tilted) - each.eta)
        k = self.whole.to(u.device)
        if share is not None:
            k = k.repeat(len(u), 1, 1)
            for at, own, part in zip(self.elements, self.sums.to(k), share.unbind(1), strict=True):
                k[:, at[:, None], at] += (part - 1)[:, None, None] * own[: len(at), : len(at)]
        total = total if pull is None else total - pull
        score = torch.linalg.solve(torch.eye(len(self.whole)).to(k) + squared * k, total)
        gaps = [each.chunk.gather(score) - each.tilted for each in said]
        return score, gaps, [sharpened(*each) for each in zip(said, gaps, strict=True)]

    def shares(
        self, said: list[Said], u: Tensor, sigma: Tensor, carried: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """θ_K `[B, stars]`, and what is carried on, with θ."""
        stars, width = self.sums.shape[:2]
        sums = u.new_zeros(5, len(u), stars, width, dtype=torch.float64)
        regions = u.new_zeros(stars, dtype=torch.float64)
        negative = F.pad(self.negative.to(u.device), (0, 1), value=1)
        for chunk, _, tilted, scores, _ in said:
            rows, weights = chunk.samples, chunk.weights.double()
            star, _, references, order = self.rows(chunk)
            members = (star == torch.arange(stars).to(star)[:, None]).double()
            if not members.any():
                continue
            denoised = chunk.gather(u) + sigma.double()[rows, None, None] ** 2 * tilted.detach()
            assumed, own = pulled(chunk, denoised), -scores.detach()
            alone = by_region(denoised, references)
            rest = (weights - weights.clamp(max=0) / negative[star])[:, None]
            weights = weights[:, None]
            parts = (
                denoised,
                weights * (assumed - alone),
                weights * (own - alone),
                rest * assumed,
                rest * own,
            )
            for total, part in zip(sums, parts, strict=True):
                total[rows, :, : part.shape[2]] += members @ part.gather(2, order.expand_as(part))
            regions += members.sum(dim=1) if rows.start == 0 else 0
        sums[0] /= regions[:, None]
        now = sums.permute(1, 2, 0, 3)
        before, last, past = now, torch.zeros_like(now[:, :, :1]), now.new_zeros(len(u), stars, 6)
        left = now.new_ones(len(u), stars)
        if carried is not None:
            blocks = [now[0].numel(), last[0].numel(), past[0].numel(), stars, stars]
            before, last, past, left, _ = carried.split(blocks, dim=1)
            before, last = before.reshape(now.shape), last.reshape(len(u), stars, 1, width)
            past = past.reshape(len(u), stars, 6)
        moved, changes = (now - before).split([1, 4], dim=2)
        products = (moved * changes).sum(dim=3)
        products = products.where(products[:, :, [0, 0, 2, 2]] > 0, 0)
        turns = (last * torch.cat([last, -moved], dim=2)).sum(dim=3)
        past = KEPT * past + torch.cat([products, turns], dim=2)
        sizes = torch.tensor([len(each) for each in self.elements]).to(past)
        ratios = ASSUMED * sizes[:, None] + past[:, :, :4]
        closure, share = (ratios[:, :, 1::2] / ratios[:, :, ::2]).clamp(LEAST, 1).unbind(2)
        swing = past[:, :, 5] / past[:, :, 4].clamp(min=torch.finfo(past.dtype).tiny)
        left = (left / swing**2).where(swing > 1, (REGAINED * left).clamp(max=1))
        kept = now.flatten(1), moved.flatten(1), past.flatten(1), left, share * left
        return closure, torch.cat(kept, dim=1)

    def log_density(
        self,
        evaluate: Evaluate,
        u: Tensor,
        sigma: Tensor,
        score: Tensor,
        messages: Tensor,
        centre: Tensor,
    ) -> Tensor:
        """The terms of regions in L_σ, at a fixed point with θ = 1: float64 `[B]`.

        Σ_r c_r [log q_σr(A_r u + σ_r² η_r) + ½ σ_r² |η_r|² - σ² η_r · A_r s + ½ λ_r |σ² A_r s|²
                 + ½ log det(I + σ_r² Σ_r⁻¹)]
        """
        total = torch.zeros_like(sigma, dtype=torch.float64)
        tilt = self.tilt(u, centre, messages, None)
        for chunk, densities in evaluate(u, sigma, density=True, tilt=tilt):
            assert chunk.batch.precisions is not None, "the plan holds those of a bound rule"
            eta, sharper = tilt(chunk)
            level = sigma.double()[chunk.samples, None] ** 2
            own, pull = level / (1 + level * sharper), level[:, :, None] * chunk.gather(score)
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
