"""Conditioning: every conditioned score is again a score.

replacement      y = H u met exactly, by overwriting; not the posterior
reconstruction   descends the error of what is denoised, of any differentiable observation
moment_matching  the posterior of Gaussians: exact where the covariance is
"""

from pgmdiff.conditioning.masks import Crop, FourierMask, Mask
from pgmdiff.conditioning.matching import (
    Composed,
    Isotropic,
    PosteriorCovariance,
    Tweedie,
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
    "dps",
    "matched",
    "moment_matching",
    "reconstruction",
    "replacement",
]
