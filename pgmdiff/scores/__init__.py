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
from pgmdiff.scores.pyramids import in_pixels, of_levels

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
    "in_pixels",
    "interpolated",
    "of_levels",
    "padded",
    "scheduled",
    "slerp",
]
