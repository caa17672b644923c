"""Scores from other libraries, and joints for their samplers; importing this imports none of them.

library       scores from it                       joints for it
diffusers     `diffusers.from_diffusers`           `diffusers.drive`
azula         `azula.from_azula`                   `azula.to_azula`
k-diffusion   `k_diffusion.from_k_diffusion`       `k_diffusion.to_k_diffusion`
EDM           `k_diffusion.from_k_diffusion`
deepinv       `deepinv.from_deepinv`               its physics are operators as they are
sbi           `sbi.from_sbi`, `sbi.tall_data`
"""

from pgmdiff.integrations import azula, deepinv, diffusers, k_diffusion, sbi

__all__ = ["azula", "deepinv", "diffusers", "k_diffusion", "sbi"]
