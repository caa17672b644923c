"""Scores from other libraries, and joints for their samplers; importing this imports none of them.

library       scores from it                       joints for it
diffusers     `diffusers.from_diffusers`           `diffusers.drive`
azula         `azula.from_azula`                   `azula.to_azula`
k-diffusion   `k_diffusion.from_k_diffusion`       `k_diffusion.to_k_diffusion`
EDM           `k_diffusion.from_k_diffusion`
deepinv       `deepinv.from_deepinv`               its physics are operators as they are
sbi           `sbi.from_sbi`, `sbi.tall_data`

Rules with memory, such as `Consistent`, carry it from step to step. The samplers of azula and
k-diffusion call a joint as a function, and tell it neither where a run begins nor where a step
ends. A run then begins, without memory, at the first call, and where the number of samples changes,
or σ is not below that at which the run began, or is more than twice that of the call before. Calls
with other conditions, as guidance makes them, are runs of their own. Of the samplers that make
several calls per step, `evaluations=` says how many read the memory of a step's start; if there are
more, the slopes of a step belong to different memories, and the sampler loses its order.
"""

from pgmdiff.integrations import azula, deepinv, diffusers, k_diffusion, sbi

__all__ = ["azula", "deepinv", "diffusers", "k_diffusion", "sbi"]
