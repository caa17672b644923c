"""`Average` on windows is diffusers' deprecated panorama pipeline, and decoding wraps as it did."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from pgmdiff import Average, GraphError, compose, tiles
from pgmdiff.images import decode
from pgmdiff.integrations.diffusers import drive, from_diffusers
from tests.integrations.with_diffusers import (
    MARKS,
    reproducible,  # noqa: F401
    schedulers,
    small_unet,
)

pytestmark = MARKS
WINDOW, STRIDE, STEPS = 16, 4, 4
OVERLAP = (0, 0, WINDOW - STRIDE)


def pipeline(network: Any, scheduler: Any, latents: Tensor, closed: bool, **options: Any) -> Tensor:
    """The pipeline's loop on one axis: every window takes a step of its own, then the mean."""
    scheduler, width = deepcopy(scheduler), latents.shape[-1]
    scheduler.set_timesteps(STEPS)
    number = width // STRIDE if closed else (width - WINDOW) // STRIDE + 1
    states = [deepcopy(scheduler.__dict__)] * number
    for t in scheduler.timesteps:
        value, count = torch.zeros_like(latents), torch.zeros_like(latents)
        for i in range(number):
            columns = torch.arange(STRIDE * i, STRIDE * i + WINDOW) % width
            window = latents[..., columns]
            scheduler.__dict__.update(states[i])
            predicted = network(scheduler.scale_model_input(window, t), t)
            value[..., columns] += scheduler.step(predicted, t, window, **options).prev_sample
            count[..., columns] += 1
            states[i] = deepcopy(scheduler.__dict__)
        latents = torch.where(count > 0, value / count, value)
    return latents


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DDIMScheduler", {"clip_sample": False}),
        ("PNDMScheduler", {"skip_prk_steps": True}),
        ("LMSDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {}),
    ],
)
def test_average_is_the_pipeline(name: str, options: dict[str, Any], closed: bool) -> None:
    unet, scheduler = small_unet(), getattr(schedulers, name)(**options)
    begun = deepcopy(scheduler)
    begun.set_timesteps(STEPS)
    start = begun.init_noise_sigma * torch.randn(2, 1, WINDOW, 32)
    graph = tiles((1, WINDOW, 32), (1, WINDOW, WINDOW), OVERLAP, periodic=(False, False, closed))
    joint = compose(graph, from_diffusers(unet, scheduler), rule=Average())
    ours = drive(joint, scheduler, steps=STEPS, x=start)
    theirs = pipeline(lambda x, t: unet(x, t).sample, scheduler, start, closed)
    assert (ours - theirs).abs().max() < 2e-6 * theirs.abs().max()


def test_the_pipeline_leaves_columns_at_zero() -> None:
    """Where the width does not fit; `tiles` refuses it."""
    start = torch.randn(1, 1, WINDOW, 31)
    made = pipeline(lambda x, t: x, schedulers.DDIMScheduler(), start, closed=False)
    assert int((made == 0).all(dim=(0, 1, 2)).sum()) == 31 % STRIDE
    with pytest.raises(GraphError, match="do not fit a size of 31"):
        tiles((1, WINDOW, 31), (1, WINDOW, WINDOW), OVERLAP)


def test_the_pipeline_averages_noise_away() -> None:
    """Each window draws its own: the mean of 4 has half the deviation."""
    scheduler = schedulers.DDIMScheduler(clip_sample=False)
    start = torch.zeros(64, 1, WINDOW, 40)
    noise = pipeline(lambda x, t: 0 * x, scheduler, start, closed=False, eta=1.0)
    once, four_times = noise[..., :STRIDE], noise[..., WINDOW - STRIDE : WINDOW]
    assert float(four_times.std() / once.std()) == pytest.approx(0.5, rel=0.05)


def test_decoding_wraps_around() -> None:
    """As `decode_latents_with_padding`, of a decoder that sees the whole."""
    layers = torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.GroupNorm(2, 8)
    decoder = torch.nn.Sequential(*layers, torch.nn.ConvTranspose2d(8, 3, 4, 2, 1))
    z, padding = torch.randn(1, 4, 8, 24), 4
    padded = torch.cat([z[..., -padding:], z, z[..., :padding]], dim=-1)
    theirs = decoder(padded)[..., 2 * padding : -2 * padding]
    ours = decode(decoder, z, window=(8, 24), margin=padding, periodic=(False, True))
    assert torch.allclose(ours, theirs, atol=1e-6)
