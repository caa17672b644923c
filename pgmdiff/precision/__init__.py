"""Region covariances, the composed precision, and solves with it: for posterior composition."""

from pgmdiff.precision.completing import Completion, completed
from pgmdiff.precision.covariances import (
    Covariances,
    Dense,
    LowRank,
    Pooled,
    Separable,
    Stationary,
)
from pgmdiff.precision.fitting import fit_covariances
from pgmdiff.precision.forms import RegionCovariances, RegionPrecisions
from pgmdiff.precision.precision import ComposedPrecision
from pgmdiff.precision.solves.base import IndefiniteError, Solve
from pgmdiff.precision.solves.choice import Channelwise, solver_of
from pgmdiff.precision.solves.circulant import Circulant
from pgmdiff.precision.solves.definiteness import (
    amplification,
    inflation,
    is_definite,
    least_change,
    least_shrinkage,
)
from pgmdiff.precision.solves.direct import Eigen, SparseFactors
from pgmdiff.precision.solves.iterative import ConjugateGradients
from pgmdiff.precision.solves.loops import Loops
from pgmdiff.precision.solves.small_space import SmallSpace

__all__ = [
    "Channelwise",
    "Circulant",
    "Completion",
    "ComposedPrecision",
    "ConjugateGradients",
    "Covariances",
    "Dense",
    "Eigen",
    "IndefiniteError",
    "Loops",
    "LowRank",
    "Pooled",
    "RegionCovariances",
    "RegionPrecisions",
    "Separable",
    "SmallSpace",
    "Solve",
    "SparseFactors",
    "Stationary",
    "completed",
    "fit_covariances",
    "amplification",
    "inflation",
    "is_definite",
    "least_change",
    "least_shrinkage",
    "solver_of",
]
