"""Diagnostics: predicted losses, agreement of models, influence, metrics, and calibration."""

from pgmdiff.diagnostics.advice import Advice, Prediction, advise, window_candidates
from pgmdiff.diagnostics.affine import distribution_reached
from pgmdiff.diagnostics.calibration import crps, interval_coverage, rank_statistics
from pgmdiff.diagnostics.consistency import Agreement, Calibration, Consistency, check_consistency
from pgmdiff.diagnostics.influences import influence, influence_over_steps
from pgmdiff.diagnostics.intervals import Interval, bootstrap, with_floor
from pgmdiff.diagnostics.metrics import (
    autocorrelation,
    autocorrelation_distance,
    crop_features,
    diversity,
    energy_distance,
    frechet_distance,
    kernel_distance,
    manifold_precision,
    manifold_recall,
    mean_and_error,
    multimodal_distance,
    r_precision,
    seam_ratio,
    sliced_wasserstein,
    spectrum,
    spectrum_distance,
    texture_features,
)
from pgmdiff.diagnostics.nodes import node_samples

__all__ = [
    "Advice",
    "Agreement",
    "Calibration",
    "Consistency",
    "Interval",
    "Prediction",
    "advise",
    "autocorrelation",
    "autocorrelation_distance",
    "bootstrap",
    "check_consistency",
    "crop_features",
    "crps",
    "distribution_reached",
    "diversity",
    "energy_distance",
    "frechet_distance",
    "influence",
    "influence_over_steps",
    "interval_coverage",
    "kernel_distance",
    "manifold_precision",
    "manifold_recall",
    "mean_and_error",
    "multimodal_distance",
    "node_samples",
    "r_precision",
    "rank_statistics",
    "seam_ratio",
    "sliced_wasserstein",
    "spectrum",
    "spectrum_distance",
    "texture_features",
    "window_candidates",
    "with_floor",
]
