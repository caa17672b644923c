"""Crops are crops, and the loss of the best linear denoiser is 1."""

import pytest
import torch
from torch import Tensor

from pgmdiff import ShapeError
from pgmdiff.training import denoising_loss, random_crops


def test_random_crops_are_crops() -> None:
    image = torch.arange(2 * 6 * 5.0).reshape(2, 6, 5)
    crops = random_crops(image, (3, 4), 50, generator=0)
    assert crops.shape == (50, 2, 3, 4)
    windows = image.unfold(1, 3, 1).unfold(2, 4, 1).movedim(0, 2).reshape(-1, 2, 3, 4)
    found = (crops[:, None] == windows).flatten(2).all(dim=2)
    assert found.any(dim=1).all()
    assert found.any(dim=0).all(), "every place is drawn"
    with pytest.raises(ShapeError, match="no larger than the image"):
        random_crops(image, (7, 4), 1, generator=0)


def test_denoising_loss() -> None:
    """1 for the best linear denoiser of white data: EDM's weighting makes it so at every σ."""
    clean = 0.5 * torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))

    def linear(x: Tensor, sigma: Tensor) -> Tensor:
        return x * (0.25 / (sigma**2 + 0.25))[:, None]

    loss = denoising_loss(linear, clean, sigma_data=0.5, generator=1).item()
    assert loss == pytest.approx(1.0, abs=4 * (2 / clean.numel()) ** 0.5 * 3)
    assert denoising_loss(lambda x, s: clean, clean, sigma_data=0.5, generator=0) == 0
