"""Solves with I + σ² P, and whether P is positive definite."""

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
from pgmdiff.precision.solves.small_space import SmallSpace

__all__ = [
    "Channelwise",
    "Circulant",
    "ConjugateGradients",
    "Eigen",
    "IndefiniteError",
    "SmallSpace",
    "Solve",
    "SparseFactors",
    "amplification",
    "inflation",
    "is_definite",
    "least_change",
    "least_shrinkage",
    "solver_of",
]
