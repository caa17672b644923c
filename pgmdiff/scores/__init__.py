"""The calling convention for models, and adapters for networks that use another."""

from pgmdiff.scores.adapters import (
    Score,
    Timesteps,
    denoise,
    from_denoiser,
    from_eps,
    from_flow,
    from_vp_eps,
    from_vp_sample,
    from_vp_v,
    padded,
)
from pgmdiff.scores.guidance import guided, interpolated, scheduled, slerp

__all__ = [
    "Score",
    "Timesteps",
    "denoise",
    "from_denoiser",
    "from_eps",
    "from_flow",
    "from_vp_eps",
    "from_vp_sample",
    "from_vp_v",
    "guided",
    "interpolated",
    "padded",
    "scheduled",
    "slerp",
]
