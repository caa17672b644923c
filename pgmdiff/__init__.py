"""Compose diffusion scores with probabilistic graphical models.

`pgmdiff.plotting`, which needs matplotlib, and `pgmdiff.distributed` are imported when they are
first named.
"""

from importlib import import_module as _import_module
from types import ModuleType as _ModuleType

from pgmdiff import (
    baselines,
    composition,
    conditioning,
    diagnostics,
    gaussian,
    graphs,
    images,
    integrations,
    models,
    notebook,
    precision,
    samplers,
    scores,
    testing,
    training,
)
from pgmdiff.composition import (
    Average,
    Consistent,
    Joint,
    Marginal,
    Posterior,
    compose,
    field,
    per_node,
)
from pgmdiff.diagnostics import advise, check_consistency, window_candidates
from pgmdiff.errors import GraphError, PgmdiffError, ScoreError, ShapeError
from pgmdiff.errors import in_words as _in_words
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.graphs import FactorGraph, RegionGraph, cluster_variation, junction_tree, tiles
from pgmdiff.precision import fit_covariances
from pgmdiff.samplers import karras, sample
from pgmdiff.scores import (
    from_denoiser,
    from_eps,
    from_flow,
    from_vp_eps,
    from_vp_sample,
    from_vp_v,
)

__version__ = "0.2.0"

__all__ = [
    "Average",
    "Consistent",
    "FactorGraph",
    "Gaussian",
    "GaussianMixture",
    "GraphError",
    "Joint",
    "Marginal",
    "PgmdiffError",
    "Posterior",
    "RegionGraph",
    "ScoreError",
    "ShapeError",
    "advise",
    "baselines",
    "check_consistency",
    "cluster_variation",
    "compose",
    "composition",
    "conditioning",
    "diagnostics",
    "field",
    "fit_covariances",
    "from_denoiser",
    "from_eps",
    "from_flow",
    "from_vp_eps",
    "from_vp_sample",
    "from_vp_v",
    "gaussian",
    "graphs",
    "images",
    "integrations",
    "junction_tree",
    "karras",
    "models",
    "per_node",
    "precision",
    "sample",
    "samplers",
    "scores",
    "testing",
    "tiles",
    "training",
    "window_candidates",
]

_LATER = ("distributed", "plotting")

notebook.attach()
_in_words(__name__)
_in_words("pgmdiff.store")


def __getattr__(name: str) -> _ModuleType:
    if name in _LATER:
        return _import_module(f"pgmdiff.{name}")
    raise AttributeError(f"module 'pgmdiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
