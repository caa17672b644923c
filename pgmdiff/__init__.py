"""Compose diffusion scores with probabilistic graphical models.

Parts that not everybody needs are imported when they are first named, so that
`pgmdiff.plotting.plot(graph)` works after `import pgmdiff`.
"""

from importlib import import_module as _import_module
from types import ModuleType as _ModuleType

from pgmdiff import conditioning, gaussian, graphs, samplers
from pgmdiff.advisor import advise, window_candidates
from pgmdiff.compose import Joint, compose
from pgmdiff.consistency import check_consistency
from pgmdiff.denoising_errors import fit_denoising_errors
from pgmdiff.errors import GraphError, PgmdiffError, ScoreError, ShapeError
from pgmdiff.precision import fit_covariances
from pgmdiff.rules import Average, Evidence, Marginal, Posterior
from pgmdiff.scores import (
    from_denoiser,
    from_eps,
    from_flow,
    from_vp_eps,
    from_vp_sample,
    from_vp_v,
)

__version__ = "0.1.0"

__all__ = [
    "Average",
    "Evidence",
    "GraphError",
    "Joint",
    "Marginal",
    "PgmdiffError",
    "Posterior",
    "ScoreError",
    "ShapeError",
    "advise",
    "check_consistency",
    "compose",
    "conditioning",
    "fit_covariances",
    "fit_denoising_errors",
    "from_denoiser",
    "from_eps",
    "from_flow",
    "from_vp_eps",
    "from_vp_sample",
    "from_vp_v",
    "gaussian",
    "graphs",
    "samplers",
    "window_candidates",
]

_LATER = (
    "guidance",
    "influence",
    "integrations",
    "metrics",
    "models",
    "panorama",
    "plotting",
    "testing",
    "training",
)


def __getattr__(name: str) -> _ModuleType:
    if name in _LATER:
        return _import_module(f"pgmdiff.{name}")
    raise AttributeError(f"module 'pgmdiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_LATER, "__doc__", "__file__", "__name__", "__path__", "__version__"})
