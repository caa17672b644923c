"""The real diffusers, a tiny network and a target, which the tests of diffusers share."""

import warnings

import pytest
import torch

from pgmdiff.gaussian import Gaussian

with warnings.catch_warnings():  # warnings of diffusers' own imports
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip(
        "diffusers", reason="diffusers is not installed: pip install 'pgmdiff[diffusers]'"
    )
    from diffusers import UNet2DModel, schedulers

__all__ = ["MARKS", "TARGET", "diffusers", "reproducible", "schedulers", "small_unet"]

MARKS = [  # warnings of diffusers' schedulers about NumPy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

TARGET = Gaussian(
    torch.tensor([1.0, -0.5], dtype=torch.float64),
    torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64),
)


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.manual_seed(0)  # random weights of the tiny networks
    diffusers.utils.logging.set_verbosity_error()


def small_unet(**options: object) -> torch.nn.Module:
    arguments = {
        "sample_size": 16,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "add_attention": False,
        **options,
    }
    return UNet2DModel(**arguments).eval().requires_grad_(False)
