"""Conditioning: every conditioned score is again a score.

replacement      y = H u met exactly, by overwriting; not the posterior
reconstruction   descends the error of what is denoised, of any differentiable observation
moment_matching  the posterior of Gaussians: exact where the covariance is
"""

from pgmdiff.conditioning.combined import Composition, Linear, Stack
from pgmdiff.conditioning.moment_matching import (
    Composed,
    Isotropic,
    PosteriorCovariance,
    Tweedie,
    moment_matching,
)
from pgmdiff.conditioning.operators import (
    Crop,
    DenseOperator,
    FourierMask,
    LinearOperator,
    Mask,
    Operator,
    PerAxis,
    block_average,
    blur,
    channel_mix,
)
from pgmdiff.conditioning.reconstruction import dps, matched, reconstruction
from pgmdiff.conditioning.replacement import replacement

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
    "Stack",
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
