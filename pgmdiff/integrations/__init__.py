"""Scores from and joints for other libraries. Importing this imports none of them.

library       in                                   out
diffusers     `diffusers.from_diffusers`           `diffusers.drive`
azula         `azula.from_azula`                   `azula.to_azula`
k-diffusion   `k_diffusion.from_k_diffusion`       `k_diffusion.to_k_diffusion`
EDM           `k_diffusion.from_k_diffusion`
deepinv       `deepinv.from_deepinv`               its physics condition joints as they are
sbi           `sbi.from_sbi`, `sbi.tall_data`
"""

from pgmdiff.integrations import azula, deepinv, diffusers, k_diffusion, sbi

__all__ = ["azula", "deepinv", "diffusers", "k_diffusion", "sbi"]
