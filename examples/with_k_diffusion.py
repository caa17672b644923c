"""A joint of k-diffusion denoisers, sampled by k-diffusion.

    pip install k-diffusion && python examples/with_k_diffusion.py

(k-diffusion pins an old NumPy: give it an environment of its own.)
"""

import torch
from k_diffusion.layers import Denoiser
from k_diffusion.sampling import get_sigmas_karras, sample_dpmpp_2m

import pgmdiff
from pgmdiff.integrations.k_diffusion import from_k_diffusion, to_k_diffusion


class Inner(torch.nn.Module):
    """A network for pieces of any width; 0 is exact for white noise of variance 1/4."""

    def forward(self, x, sigma):
        return torch.zeros_like(x)


pieces = from_k_diffusion(Denoiser(Inner(), sigma_data=0.5))
model = to_k_diffusion(pgmdiff.compose(pgmdiff.graphs.chain(8), pieces))
sigmas = get_sigmas_karras(40, 0.01, 50.0)
noise = 50.0 * torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
u = sample_dpmpp_2m(model, noise, sigmas, disable=True)
print("standard deviation, expected 0.5:", float(u.std()))
