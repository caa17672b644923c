"""A periodic latent panorama with a prompt per window, from a diffusers UNet, scheduler and VAE.

    pip install 'pgmdiff[diffusers]' && python examples/with_diffusers.py

The networks here are tiny and random; with weights of your own:

    pipe = StableDiffusionPipeline.from_pretrained(...)
    unet, scheduler, vae = pipe.unet, pipe.scheduler, pipe.vae
    sea, sky, empty = (pipe.encode_prompt(text, ...)[0][0] for text in ("sea", "sky", ""))
"""

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel

import pgmdiff
from pgmdiff.images.latents import decode
from pgmdiff.integrations.diffusers import drive, from_diffusers, from_vae
from pgmdiff.samplers import DPMSolver2M, from_scheduler, sample
from pgmdiff.scores.guidance import guided

torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=6,
    attention_head_dim=4,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
).requires_grad_(False)
vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1)
scheduler = DPMSolverMultistepScheduler(use_karras_sigmas=True)
sea, sky, empty = torch.randn(3, 5, 6)  # [tokens, features]

# Windows of the size of the UNet, around a ring, with overlaps of half a window.
ring = pgmdiff.graphs.tiles((4, 8, 32), (4, 8, 8), (0, 0, 4), periodic=(False, False, True))
windows = [name for name, count in ring.counting_numbers().items() if count > 0]
prompts = {
    name: {"encoder_hidden_states": sea if i < len(windows) / 2 else sky}
    for i, name in enumerate(windows)
}
null = {"encoder_hidden_states": empty}
score = guided(from_diffusers(unet, scheduler), null, guidance=5.0)
joint = pgmdiff.compose(ring, score, conditions=prompts, null_condition=null, max_batch=8)

# A scheduler of diffusers samples the joint; so does a solver of ours on the same levels.
latents = drive(joint, scheduler, steps=6, shape=(1, 4, 8, 32), generator=0)
scheduler.set_timesteps(6)
levels = from_scheduler(scheduler)
ours = sample(joint, levels, shape=(1, 4, 8, 32), solver=DPMSolver2M(), generator=0)

# The VAE sees its whole input, so decode in one piece, with a margin across the seam.
image = decode(from_vae(vae), latents, window=(8, 32), margin=4, periodic=(False, True))
difference = float((latents - ours).abs().max() / ours.abs().max())
print("panorama", tuple(image.shape), "| both ways differ by", difference)
