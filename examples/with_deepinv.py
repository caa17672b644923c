"""A long image from a deepinv denoiser of patches, observed through a deepinv physics.

pip install deepinv && python examples/with_deepinv.py
"""

import deepinv
import torch

import pgmdiff
from pgmdiff.conditioning import replacement
from pgmdiff.integrations.deepinv import from_deepinv
from pgmdiff.samplers import Heun, karras, sample

torch.manual_seed(0)
denoiser = deepinv.models.DRUNet(  # random weights; pretrained="download" loads real ones
    in_channels=1, out_channels=1, nc=(8, 8, 8, 8), nb=1, pretrained=None
).requires_grad_(False)
score = from_deepinv(denoiser, low=-1.0, high=1.0)  # states in [-1, 1], deepinv's images in [0, 1]
strip = pgmdiff.graphs.tiles((1, 16, 48), (1, 16, 16), (0, 0, 8))
joint = pgmdiff.compose(strip, score, max_batch=8)

mask = torch.zeros(1, 16, 48)
mask[..., :8] = 1
physics = deepinv.physics.Inpainting(img_size=(1, 16, 48), mask=mask)
y = physics.A(torch.rand(1, 1, 16, 48))
u = sample(
    replacement(joint, y, physics),
    karras(5, 0.01, 1.0),
    shape=(1, 1, 16, 48),
    solver=Heun(),
    generator=0,
)
print("largest error of the observation:", float((physics.A(u) - y).abs().max()))
