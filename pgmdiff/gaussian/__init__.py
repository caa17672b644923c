"""Closed-form oracles: Gaussians and mixtures of them, and what a rule makes of their marginals."""

from pgmdiff.gaussian.composed import (
    bethe_entropy,
    composed_log_density,
    composed_precision,
    from_region_covariances,
)
from pgmdiff.gaussian.distributions import Gaussian, GaussianMixture, kl_divergence
from pgmdiff.gaussian.marginals import NodeScores, node_covariances, node_scores

__all__ = [
    "Gaussian",
    "GaussianMixture",
    "NodeScores",
    "bethe_entropy",
    "composed_log_density",
    "composed_precision",
    "from_region_covariances",
    "kl_divergence",
    "node_covariances",
    "node_scores",
]
