"""Gaussians and mixtures of them, and what rules compose from their marginals, in closed form."""

from pgmdiff.gaussian.composed import (
    bethe_entropy,
    composed_log_density,
    composed_precision,
    from_region_covariances,
)
from pgmdiff.gaussian.distributions import (
    Distribution,
    Gaussian,
    GaussianMixture,
    ar1,
)
from pgmdiff.gaussian.divergence import kl_divergence
from pgmdiff.gaussian.marginals import NodeCovariances, NodeScores, node_covariances, node_scores

__all__ = [
    "Distribution",
    "Gaussian",
    "GaussianMixture",
    "NodeCovariances",
    "NodeScores",
    "ar1",
    "bethe_entropy",
    "composed_log_density",
    "composed_precision",
    "from_region_covariances",
    "kl_divergence",
    "node_covariances",
    "node_scores",
]
