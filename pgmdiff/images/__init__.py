"""Images: panoramas from cube maps and back, and large latents decoded without seams."""

from pgmdiff.images.latents import decode, receptive_margin
from pgmdiff.images.panorama import (
    cube_to_equirectangular,
    equirectangular_directions,
    equirectangular_to_cube,
)

__all__ = [
    "cube_to_equirectangular",
    "decode",
    "equirectangular_directions",
    "equirectangular_to_cube",
    "receptive_margin",
]
