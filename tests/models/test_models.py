from pathlib import Path

import pytest
import torch

import pgmdiff.models
from pgmdiff import ShapeError
from pgmdiff.diagnostics.metrics import frechet_distance, texture_features
from pgmdiff.models.gravel import SIGMA_DATA, gravel_denoiser, gravel_image, untrained
from pgmdiff.models.unet import EDMDenoiser, UNet
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.scores.adapters import from_denoiser
from pgmdiff.training.loop import random_crops


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_bundled_weights_are_small_and_have_a_card() -> None:
    folder = Path(pgmdiff.models.__file__).parent
    weights = list(folder.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in weights) < 5e6
    for path in weights:
        card = path.with_suffix(".md").read_text()
        assert all(word in card for word in ("Data", "Training", "Gate", "Licence"))
        assert "CC0" in card or "used and redistributed for free" in card


def test_the_photograph() -> None:
    image = gravel_image()
    assert image.shape == (1, 256, 256)
    assert image.abs().max() <= 1
    assert image.std().item() == pytest.approx(SIGMA_DATA, abs=5e-4)


def test_preconditioning() -> None:
    """A network of zeros is the best linear denoiser of white data of standard deviation σ_d."""
    unet = UNet()
    torch.nn.init.zeros_(unet.leave.bias)
    model = EDMDenoiser(unet, 0.5)
    x, sigma = torch.randn(3, 1, 8, 8, generator=generator()), torch.tensor([0.1, 0.5, 2.0])
    expected = x * (0.25 / (sigma**2 + 0.25)).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(model(x, sigma), expected)
    with pytest.raises(ShapeError, match="multiples of 4, got an image of \\(8, 6\\)"):
        model(torch.zeros(1, 1, 8, 6), torch.ones(1))


def test_samples_do_not_see_each_other() -> None:
    model, x = gravel_denoiser(), torch.randn(4, 1, 16, 8, generator=generator())
    sigma = torch.tensor([0.1, 0.3, 1.0, 5.0])
    apart = torch.cat([model(x[i : i + 1], sigma[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(model(x, sigma), apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (16, 8), (8, 16), (8, 8)])
def test_gravel_patches_have_gravel_statistics(shape: tuple[int, int]) -> None:
    """A small version of the gate of `scripts/train_gravel.py`; 256 samples, floor at that size."""
    n, image = 256, gravel_image()
    real, other = (random_crops(image, shape, n, generator=generator(s)) for s in (0, 1))
    score = from_denoiser(gravel_denoiser())
    sigmas = karras(12, 0.01, 10.0)
    drawn = sample(score, sigmas, shape=(n, 1, *shape), solver=Heun(), generator=0)
    floor, distance = (
        frechet_distance(texture_features(real), texture_features(x)) for x in (other, drawn)
    )
    assert distance < 2 * floor
    untouched = sample(
        from_denoiser(untrained().requires_grad_(False)), sigmas, shape=(n, 1, *shape), generator=0
    )
    assert frechet_distance(texture_features(real), texture_features(untouched)) > 10 * floor
