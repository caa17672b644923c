"""A joint of azula denoisers, sampled by azula.

    pip install 'pgmdiff[azula]' && python examples/with_azula.py

(azula requires torchvision; beside a CPU build of PyTorch: pip install --no-deps azula.)
"""

import torch
from azula.denoise import KarrasDenoiser
from azula.noise import VESchedule
from azula.sample import zABSampler

import pgmdiff
from pgmdiff.integrations.azula import from_azula, to_azula


class Backbone(torch.nn.Module):
    """A network for pieces of any width: the exact one for white noise of variance 1/4."""

    def forward(self, x, c_time):
        sigma = c_time.exp()
        return x * ((0.25 / (0.25 + sigma**2)) - 1 / (1 + sigma**2)) * (1 + sigma**2) / sigma


denoiser = KarrasDenoiser(Backbone(), VESchedule(1e-2, 1e2))
joint = pgmdiff.compose(pgmdiff.graphs.chain(8), from_azula(denoiser))

whole = to_azula(joint, VESchedule(1e-2, 1e2))
sampler = zABSampler(whole, steps=32, silent=True)
torch.manual_seed(0)  # azula draws from the global generator
u = sampler(sampler.init((1000, 8)))
print("standard deviation, expected 0.5:", float(u.std()))
