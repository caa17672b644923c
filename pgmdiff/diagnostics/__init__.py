"""Diagnostics: predicted losses, agreement of models, influence of elements, and metrics."""

from pgmdiff.diagnostics.advice import Advice, Prediction, advise, window_candidates
from pgmdiff.diagnostics.affine import distribution_reached
from pgmdiff.diagnostics.consistency import Agreement, Consistency, check_consistency
from pgmdiff.diagnostics.influences import influence, influence_over_steps
from pgmdiff.diagnostics.metrics import (
    energy_distance,
    frechet_distance,
    mean_and_error,
    seam_ratio,
    sliced_wasserstein,
    texture_features,
)

__all__ = [
    "Advice",
    "Agreement",
    "Consistency",
    "Prediction",
    "advise",
    "check_consistency",
    "distribution_reached",
    "energy_distance",
    "frechet_distance",
    "influence",
    "influence_over_steps",
    "mean_and_error",
    "seam_ratio",
    "sliced_wasserstein",
    "texture_features",
    "window_candidates",
]
