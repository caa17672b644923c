"""Samplers: schedules, noise, solvers and the loop, independent of graphs and conditions."""

from pgmdiff.noise import Noise, split_seed
from pgmdiff.samplers.adaptive import Adaptive, log_likelihood
from pgmdiff.samplers.base import Past, Solver, State
from pgmdiff.samplers.correctors import Corrector, Langevin, Metropolis, PredictorCorrector
from pgmdiff.samplers.curvature import Curvature, Extremes, curvature_extremes
from pgmdiff.samplers.multistep import DEIS, DPMSolver2M, DPMSolver3M, UniPC
from pgmdiff.samplers.one_step import EDM, SDE, DPMSolver2S, Euler, Heun
from pgmdiff.samplers.run import Step, sample
from pgmdiff.samplers.schedules import (
    cosine,
    from_scheduler,
    karras,
    log_linear,
    log_snr,
    time_travel,
    variance_preserving,
)
from pgmdiff.samplers.smc import Particles, effective_sample_size, sample_weighted
from pgmdiff.samplers.store import Run

__all__ = [
    "DPMSolver2S",
    "EDM",
    "UniPC",
    "DPMSolver3M",
    "DPMSolver2M",
    "DEIS",
    "SDE",
    "Adaptive",
    "Corrector",
    "Curvature",
    "Euler",
    "Extremes",
    "Heun",
    "Langevin",
    "Metropolis",
    "Noise",
    "Particles",
    "Past",
    "PredictorCorrector",
    "Run",
    "Solver",
    "State",
    "Step",
    "curvature_extremes",
    "cosine",
    "effective_sample_size",
    "from_scheduler",
    "karras",
    "log_likelihood",
    "log_linear",
    "log_snr",
    "sample",
    "sample_weighted",
    "split_seed",
    "time_travel",
    "variance_preserving",
]
