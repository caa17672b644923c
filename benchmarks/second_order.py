r"""Messages of second order: a precision per element beside the shift, where models are exact.

Every local posterior is tilted by exp(η_r · (x_r - m_r) - ½ Σ_i λ_ri (x_ri - m_ri)²), which is one
more noise level per element, σ_ri⁻² = σ⁻² + λ_ri. With its mean D_r and its variances
V_ri = σ_ri² ∂D_ri/∂x_i, both exact here,

    (σ⁻² I + K)(D - m) = Σ_r c_r A_rᵀ [(σ⁻² I + Λ_r + Σ_r⁻¹)(D_r - m_r) - η_r]
    λ_ri ← λ_ri + γ (1 / V_i - 1 / V_ri),      1 / V_i = Σ_{r∋i} c_r / V_ri
    η_r  ← η_r + δ (σ⁻² I + Λ_r + Σ_r⁻¹)(A_r D - D_r) + Δλ_r (A_r D - m_r)

with Λ_r = diag(λ_r). As Σ_r c_r λ_r = 0, it is exact for Gaussians on junction trees for all λ, and
with λ = 0 it is `Consistent`. At a fixed point local means *and* variances agree: expectation
propagation (Minka, "Expectation propagation for approximate Bayesian inference", 2001). 1 / V_i
stays between half the largest of the outer regions' precisions and three times it, and the steps of
a sample are cut so that λ_ri ≥ -½ σ⁻².

Errors are those of σ s along Brownian paths of exact samples, with messages carried from level to
level, in units of the root mean square of σ s. *calls* are rounds of messages per level.
*evaluations* count a derivative with respect to an element as one. Where variances are *wrong*,
V_ri is multiplied by one exp(z), z ~ N(0, ¼²), per region and element.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness.distributions import (
    MarkovTree,
    three_mode_chain,
    tree_of_mixtures,
    two_mode_chain,
)
from benchmarks.reports import columns, rounded, settings, table
from pgmdiff.gaussian import GaussianMixture
from pgmdiff.samplers import karras
from pgmdiff.text import Table

__all__ = ["run", "tables"]

METHODS: Sequence[tuple[str, int, float, float]] = (
    ("shifts", 1, 0.0, 0.0),
    ("shifts", 3, 0.0, 0.0),
    ("shifts", 9, 0.0, 0.0),
    ("precisions", 1, 0.05, 0.0),
    ("precisions", 3, 0.05, 0.0),
    ("precisions, variances wrong", 3, 0.05, 0.25),
    ("precisions, γ = 0.3", 3, 0.3, 0.0),
)
"""Names, calls per level, γ, and the deviation of errors of log V."""
SHOWN = 4.0, 2.0, 1.0, 0.5
DAMPING = 0.5
LEAST, NARROW, WIDE = -0.5, 3.0, 0.5
"""Bounds of λ_ri σ², and of 1 / V_i in units of the largest precision of an outer region."""


class Region:
    """A region: its elements, its count, its exact model, and errors of its variances."""

    def __init__(
        self, elements: Tensor, count: int, model: GaussianMixture, factors: Tensor
    ) -> None:
        self.elements, self.count, self.model, self.factors = elements, count, model, factors
        self.mean, self.inverse = model.mean.reshape(-1), torch.linalg.inv(model.covariance)

    def moments(self, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior's means and variances, given values and variances of noise: `[B, d]`."""
        with torch.enable_grad():
            x = x.requires_grad_()
            shape = len(x), *self.model.event_shape
            score = self.model.score(x.reshape(shape), variance.sqrt().reshape(shape))
            denoised = x + variance * score.reshape(x.shape)
            columns = [
                torch.autograd.grad(denoised[:, i].sum(), x, retain_graph=True)[0][:, i]
                for i in range(x.shape[1])
            ]
        return denoised.detach(), self.factors * variance * torch.stack(columns, dim=1)


class SecondOrder:
    """A run on a junction tree; see the module.

    Args:
        q: the distribution, whose regions have exact models.
        step: γ; at 0 messages are shifts.
        wrong: the deviation of errors of log V.
    """

    def __init__(self, q: MarkovTree, step: float, wrong: float = 0.0) -> None:
        self.step, self.regions, n = step, list[Region](), q.graph.n_elements
        stream = torch.Generator().manual_seed(3)
        self.mean, self.precision = torch.zeros(n).double(), torch.zeros(n, n).double()
        for group in q.graph.regions.groups:
            for row, name in enumerate(group.names):
                elements = group.indices(row, row + 1).reshape(-1)
                model = q.models[name if group.model is None else group.model]
                factors = (wrong * torch.randn(len(elements), generator=stream)).double().exp()
                own = Region(elements, int(group.counts[row]), model, factors)
                self.regions.append(own)
                self.mean[elements] = own.mean
                self.precision[elements[:, None], elements] += own.count * own.inverse
        self.shifts = self.precisions = [torch.zeros(())] * len(self.regions)

    def __call__(self, u: Tensor, sigma: float) -> Tensor:
        """The score `[B, N]`; messages move."""
        base, eye = sigma**-2, torch.eye(len(self.mean), dtype=torch.float64)
        away, total, largest, joint = u - self.mean, 0 * u, 0 * u, 0 * u
        local = []
        for own, eta, extra in zip(self.regions, self.shifts, self.precisions, strict=True):
            level = (base + extra).expand(len(u), len(own.elements))
            x = own.mean + (base * away[:, own.elements] + eta) / level
            denoised, variance = own.moments(x, 1 / level)
            gap = denoised - own.mean
            total[:, own.elements] += own.count * (level * gap + gap @ own.inverse - eta)
            joint[:, own.elements] += own.count / variance
            if own.count > 0:
                largest[:, own.elements] = torch.maximum(largest[:, own.elements], 1 / variance)
            local.append((level, gap, variance))
        away = total @ torch.linalg.inv(self.precision + base * eye)
        joint = joint.clamp(WIDE * largest, NARROW * largest)
        changes = [
            self.step * (joint[:, own.elements] - 1 / variance)
            for own, (_, _, variance) in zip(self.regions, local, strict=True)
        ]
        room = [
            ((level - base - LEAST * base) / -change).where(change < 0, 1.0).amin(dim=1)
            for change, (level, _, _) in zip(changes, local, strict=True)
        ]
        share = torch.stack(room).amin(dim=0).clamp(0, 1)[:, None]
        shifts, precisions = [], []
        for own, eta, change, (level, gap, _) in zip(
            self.regions, self.shifts, changes, local, strict=True
        ):
            apart = away[:, own.elements] - gap
            moved = eta + DAMPING * (level * apart + apart @ own.inverse)
            shifts.append(moved + share * change * away[:, own.elements])
            precisions.append(level - base + share * change)
        self.shifts, self.precisions = shifts, precisions
        score: Tensor = (self.mean + away - u) * base
        return score


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures all methods, or with `smoke` a little of each; always on the CPU."""
    trees = [two_mode_chain(), three_mode_chain(), tree_of_mixtures()][: 1 if smoke else 3]
    n, levels, rows = (8, 5, list[dict[str, Any]]()) if smoke else (300, 60, [])
    for q in tqdm(trees, desc="second order"):
        path = _path(q, n, levels)
        shown = {min(path, key=lambda step: abs(step[0] - s))[0] for s in SHOWN}
        outer = max(q.graph.regions.elements(name).numel() for name in q.graph.factors)
        for name, calls, gamma, wrong in METHODS:
            composed = SecondOrder(q, gamma, wrong)
            about = {"distribution": q.name, "messages": name, "calls": calls}
            about["evaluations"] = calls * (1 + outer * (gamma > 0))
            for sigma, u, exact in path:
                for _ in range(calls):
                    score = composed(u, sigma)
                if sigma in shown:
                    far = (score - exact).square().mean(dim=1) / exact.square().mean()
                    row = {"sigma": sigma, "error": far.mean().sqrt().item()}
                    rows.append(about | row | {"median": far.median().sqrt().item()})
    return {"settings": settings(threads=torch.get_num_threads()), "rows": rounded(rows, 5)}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Errors by level."""
    shown = columns("distribution messages calls evaluations sigma:.2f error:.4f median:.4f")
    return [table("Errors", result["rows"], shown)]


def _path(q: MarkovTree, n: int, levels: int) -> list[tuple[float, Tensor, Tensor]]:
    """Levels from high to low, states on Brownian paths, and their exact scores."""
    assert q.whole is not None, "it is known for all of them"
    stream, found = torch.Generator().manual_seed(1), list[tuple[float, Tensor, Tensor]]()
    u, before = q.sample(n, 5), 0.0
    for sigma in karras(levels, 0.01, 20.0)[-2::-1]:
        noise = torch.randn(u.shape, generator=stream, dtype=torch.float64)
        u, before = u + (sigma**2 - before**2) ** 0.5 * noise, sigma
        found.insert(0, (sigma, u, q.whole(u, torch.full((n,), sigma).double())))
    return found
