"""Feynman-Kac weights: the rates at which particles under the marginal rule gain weight."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pgmdiff.composition.evaluate import flattened
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.rules import Marginal
from pgmdiff.errors import ScoreError
from pgmdiff.graphs.atoms import connected_elements
from pgmdiff.text import brief, described

__all__ = ["FeynmanKac"]


@dataclass(frozen=True, eq=False)
class FeynmanKac:
    """The marginal rule's score, and the rates at which Feynman-Kac weights grow.

        g_i = ½ (s_i² - Σ_{r ∋ i} c_r s_ri²)

    On a junction tree the mean of Σ_i g_i under Π_r q_σ(u_r)^{c_r} is 0, for every component. This
    is the potential that `samplers.sample_weighted` expects.

    Args:
        joint: composed under the marginal rule.

    Raises:
        ScoreError: the joint is composed under another rule.

    Source: after Skreta et al., "Feynman-Kac correctors in diffusion", 2025; see `samplers.smc`.
    """

    joint: Joint
    copies = True

    def __post_init__(self) -> None:
        if self.joint.rule != Marginal():
            raise ScoreError(
                f"FeynmanKac: expected a joint under the rule Marginal, got {self.joint.rule!r}."
            )

    def __repr__(self) -> str:
        return described(self, brief(self.joint.graph), f"rule={brief(self.joint.rule)}")

    def __call__(self, u: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """The score, like u, and Σ_i g_i, `[*batch]`."""
        score, rates = self.by_element(u, sigma)
        return score, self._by_row(rates).sum(dim=-1)

    def by_component(self, u: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """The score, like u, and Σ_i g_i over each connected component, `[*batch, C]`."""
        score, rates = self.by_element(u, sigma)
        flat = self._by_row(rates)
        labels = self.components.reshape(-1).to(u.device)
        total = flat.new_zeros(*flat.shape[:-1], int(labels.max()) + 1)
        return score, total.index_add_(-1, labels, flat)

    def by_element(self, u: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """The score and the g_i, both like u."""
        flat, sigmas, _ = flattened(self.joint.event_shape, u, sigma, {})
        total, squares = torch.zeros_like(flat), torch.zeros_like(flat)
        for chunk, scores in self.joint.evaluate(flat, sigmas):
            chunk.add(total, scores)
            chunk.add(squares, scores**2)
        return total.reshape(u.shape), 0.5 * (total**2 - squares).reshape(u.shape)

    @cached_property
    def components(self) -> Tensor:
        """The connected component of every element, 0 to C - 1: int64 `[*event]`.

        Elements are linked by regions of nonzero count.
        """
        with torch.inference_mode(False):
            labels = torch.from_numpy(connected_elements(self.joint.regions))
        return labels.reshape(self.joint.event_shape)

    def _by_row(self, rates: Tensor) -> Tensor:
        """`[*batch, N]`."""
        return rates.reshape(*rates.shape[: rates.ndim - len(self.joint.event_shape)], -1)
