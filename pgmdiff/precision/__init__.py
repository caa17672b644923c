"""Region covariances, the composed precision, its completion, and solves with them."""

from pgmdiff.precision.completing import Blocks, Completion, completed
from pgmdiff.precision.covariances import (
    Covariances,
    Dense,
    LowRank,
    Pooled,
    Separable,
    Stationary,
    provider_of,
)
from pgmdiff.precision.fitting import fit_covariances
from pgmdiff.precision.forms import RegionCovariances, RegionPrecisions
from pgmdiff.precision.neighbourhoods import Neighbourhoods, nearby
from pgmdiff.precision.precision import ComposedPrecision
from pgmdiff.precision.solves.base import IndefiniteError, Solve
from pgmdiff.precision.solves.blocks import BlockTree
from pgmdiff.precision.solves.choice import Channelwise, solver_of
from pgmdiff.precision.solves.circulant import Circulant
from pgmdiff.precision.solves.direct import Eigen, SparseFactors
from pgmdiff.precision.solves.iterative import ConjugateGradients
from pgmdiff.precision.solves.loops import LargeLoops, Loops
from pgmdiff.precision.solves.small_space import SmallSpace

__all__ = [
    "BlockTree",
    "Blocks",
    "Channelwise",
    "Circulant",
    "Completion",
    "ComposedPrecision",
    "ConjugateGradients",
    "Covariances",
    "Dense",
    "Eigen",
    "IndefiniteError",
    "LargeLoops",
    "Loops",
    "LowRank",
    "Neighbourhoods",
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
    "nearby",
    "provider_of",
    "solver_of",
]
