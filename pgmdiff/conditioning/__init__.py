"""Scores conditioned on observations, which are again scores.

replacement      meets y = H u exactly, by overwriting, but does not sample the posterior
reconstruction   descends the error of the denoised value, for any differentiable observation
moment_matching  samples the posterior of Gaussians, exactly if the covariance is exact; it is the
                 recommended method, also for photographs
"""

from pgmdiff.conditioning.masks import Crop, FourierMask, Mask
from pgmdiff.conditioning.matching import (
    Composed,
    Isotropic,
    PosteriorCovariance,
    Tweedie,
    choose_covariance,
    moment_matching,
)
from pgmdiff.conditioning.matrices import DenseOperator, PerAxis, block_average, blur, channel_mix
from pgmdiff.conditioning.operators import Composition, Linear, LinearOperator, Operator, Stacked
from pgmdiff.conditioning.reconstructing import dps, matched, reconstruction
from pgmdiff.conditioning.replacing import replacement

__all__ = [
    "Composed",
    "Composition",
    "Crop",
    "DenseOperator",
    "FourierMask",
    "Isotropic",
    "Linear",
    "LinearOperator",
    "Mask",
    "Operator",
    "PerAxis",
    "PosteriorCovariance",
    "Stacked",
    "Tweedie",
    "block_average",
    "blur",
    "channel_mix",
    "choose_covariance",
    "dps",
    "matched",
    "moment_matching",
    "reconstruction",
    "replacement",
]
