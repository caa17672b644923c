r"""Policies that update the messages of `Consistent`, around a joint of the library.

Without a least share a call moves messages by gap_r = (I + σ² Σ_r⁻¹)(A_r s - d_r). A policy makes
of that

    η_r ← τ (η_r + γ_r F_r gap_r),      F_r = (I + σ² (Σ_r + ε σ² I)⁻¹) (I + σ² Σ_r⁻¹)⁻¹

with the least share ε. *Secants* divide γ by the ratio of the Jacobian to the assumed one, of two
successive calls: each region's, or a sample's largest.
"""

from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgmdiff.composition.consistent import Consistent
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.plan import Batch

__all__ = ["POLICIES", "Messages", "Policy", "free", "principal"]


def free(covariances: Any, mean: Tensor | None = None) -> Consistent:
    """`Consistent` without damping and bound: a call leaves η + gap."""
    return Consistent(covariances, mean=mean, damping=1.0, trust=1e100, least_share=0.0)


class Policy(NamedTuple):
    """How messages are updated; see the module. None are kept at levels from `below` on."""

    damping: float = 0.5
    trust: float = 1.0
    share: float = 1 / 3
    secant: str = ""
    per_region: bool = False
    below: float = inf


POLICIES = {
    "no messages": Policy(trust=0.0),
    "default": Policy(),
    "trust 0.5": Policy(trust=0.5),
    "trust 2": Policy(trust=2.0),
    "no trust": Policy(trust=inf),
    "least share 0": Policy(share=0.0),
    "least share 0.1": Policy(share=0.1),
    "least share 1": Policy(share=1.0),
    "least share 0, trust 2": Policy(trust=2.0, share=0.0),
    "least share 0, no trust": Policy(trust=inf, share=0.0),
    "damping 0.25": Policy(0.25),
    "damping 1": Policy(1.0),
    "damping 1, least share 0, no trust": Policy(1.0, inf, 0.0),
    "trust per region": Policy(per_region=True),
    "secants per region": Policy(1.0, secant="region"),
    "secants per sample": Policy(1.0, secant="sample"),
    "secants per sample, no trust": Policy(1.0, inf, secant="sample"),
    "only below σ = 3": Policy(below=3.0),
}


Changes = list[tuple[Tensor, Tensor]]
"""Denoised values of every region, the model's own and the assumed."""


def principal(batch: Batch) -> tuple[Tensor, Tensor]:
    """Variances along, and the principal directions of a batch's Σ_r: `[n or 1, d]`, and d more."""
    assert batch.precisions is not None, "Consistent binds them"
    values, vectors = batch.precisions.modes
    return 1 / values, vectors


class Messages:
    """A run of `Consistent` whose messages follow a policy.

    Args:
        joint: under the rule `free`.
        policy: what is made of its moves.
    """

    def __init__(self, joint: Joint, policy: Policy) -> None:
        self.joint, self.policy, self.largest = joint, policy, 0.0
        self.memory: dict[str, Tensor] = {}
        self._latest, self._held = self.memory, False
        self._earlier: Changes = []
        self._now: Changes = []
        self.modes = []
        for batch in joint.batches:
            variances, vectors = principal(batch)
            self.modes.append((variances, vectors.expand(len(batch.group), -1, -1)))

    def hold(self) -> None:
        """Keeps what is remembered from call to call until `commit`."""
        self._held = True

    def commit(self) -> None:
        """Remembers what the latest call left."""
        self.memory, self._earlier = self._latest, self._now

    def __call__(self, u: Tensor, sigma: Tensor) -> Tensor:
        """The score; regions are described in their principal directions."""
        policy, level, known = self.policy, float(sigma[0]), dict(self.memory)
        score = self.joint.call(u, sigma, {}, known)
        after = known["messages"]
        before = self.memory.get("messages", torch.zeros_like(after))
        etas, gaps, changes = [], [], []
        for batch, (variance, vectors) in zip(self.joint.batches, self.modes, strict=True):
            index = batch.group.indices(0, len(batch.group)).reshape(-1)
            own = slice(batch.offset, batch.offset + len(index))
            values = (
                u.flatten(1)[:, index],
                score.flatten(1)[:, index],
                before[:, own],
                after[:, own],
            )
            x, s, eta, moved = (
                torch.einsum(
                    "brd,rde->bre", v.double().reshape(len(u), *vectors.shape[:2]), vectors
                )
                for v in values
            )
            gap, x = moved - eta, x + level**2 * eta
            denoised = x + level**2 * (s - gap / (1 + level**2 / variance) - eta)
            changes.append((denoised, variance / (variance + level**2) * x))
            trusted = variance + policy.share * level**2
            etas.append(eta)
            gaps.append(gap * (1 + level**2 / trusted) / (1 + level**2 / variance))
        steps = self._steps(changes, level)
        etas = [eta + step * gap for eta, step, gap in zip(etas, steps, gaps, strict=True)]
        sizes = torch.cat([level * e.square().mean(dim=2).sqrt() for e in etas], dim=1)
        if not policy.per_region:
            sizes = sizes.amax(dim=1, keepdim=True).expand_as(sizes)
        trust = policy.trust if level < policy.below else 0.0
        within = (trust / sizes.clamp(min=1e-300)).clamp(max=1)
        self.largest = max(self.largest, float((sizes * within).max()))
        parts = zip(within.split([len(v) for _, v in self.modes], dim=1), etas, strict=True)
        etas = [part[..., None] * eta for part, eta in parts]
        back = [
            torch.einsum("bre,rde->brd", eta, vectors)
            for eta, (_, vectors) in zip(etas, self.modes, strict=True)
        ]
        known["messages"] = torch.cat([each.flatten(1) for each in back], dim=1).to(after)
        self._latest, self._now = known, changes
        if not self._held:
            self.commit()
        return score

    def _steps(self, changes: Changes, level: float) -> list[Tensor]:
        """γ_r, `[B, n, 1]` per batch, from denoised values, the models' own and the assumed."""
        damping = self.policy.damping
        if not self._earlier or not self.policy.secant:
            return [torch.full_like(own[..., :1], damping) for own, _ in changes]
        ratios = []
        for new, old, (variance, _) in zip(changes, self._earlier, self.modes, strict=True):
            (own, assumed), weight = (a - b for a, b in zip(new, old, strict=True)), 1 / variance
            weighted = assumed * (weight + 1 / level**2)
            ratios.append((weighted * own).sum(dim=2) / (weighted * assumed).sum(dim=2))
        if self.policy.secant == "sample":
            most = torch.cat(ratios, dim=1).amax(dim=1, keepdim=True)
            ratios = [most.expand_as(ratio) for ratio in ratios]
        return [(damping / r.abs().clamp(min=1.0)).clamp(min=0.01)[..., None] for r in ratios]
