"""Trains the models of the real-data benchmark on crops of a series and of a field.

    python -m scripts.train_real sea | soft_gravel [--steps N] [--out FOLDER] [--check]

The gate knows the held-out part only.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.data import sea, soft_gravel
from benchmarks.exactness.real import CASES
from pgmdiff import from_denoiser
from pgmdiff.models.unet import EDMDenoiser
from pgmdiff.samplers import Heun, karras, sample
from scripts.training import Denoiser, Recipe, main

SEA, FIELD, _ = CASES
RECIPES = {
    "sea": Recipe(
        weights=Path("benchmarks/data/sea.safetensors"),
        untrained=sea.untrained,
        trained=sea.sea_denoiser,
        parts=lambda: SEA.parts,
        shapes=[(n,) for n in sea.LENGTHS],
        chances=(0.2, 0.4, 0.15, 0.25),
        batch=128,
        steps=12_000,
        sigma_data=1.0,
        p_mean=-0.8,
        p_std=1.5,
    ),
    "soft_gravel": Recipe(
        weights=Path("benchmarks/data/soft_gravel.safetensors"),
        untrained=soft_gravel.untrained,
        trained=soft_gravel.soft_gravel_denoiser,
        parts=lambda: FIELD.parts,
        shapes=soft_gravel.SHAPES,
        chances=(0.5, 0.15, 0.35),
        batch=64,
        steps=10_000,
        sigma_data=1.0,
        p_mean=-0.8,
        p_std=1.5,
    ),
}


def stationary_covariance(pieces: Tensor, shape: Sequence[int]) -> Tensor:
    r"""The covariance of any crop, from one estimate of the autocovariance: float64 `[d, d]`.

        C(k) = Σ_t x_t x_{t+k} / n      over all n values of the pieces, k an offset

    No mean is subtracted: the data's mean is 0. Every product is divided by the same n, so C is
    positive definite, and the covariances of crops of two sizes are blocks of one matrix.

    Args:
        pieces: contiguous records, `[pieces, 1, *axes]`.
        shape: the size of a crop on those axes.
    """
    axes = tuple(range(2, pieces.ndim))
    padded = [size + crop for size, crop in zip(pieces.shape[2:], shape, strict=True)]
    power = torch.fft.fftn(pieces.double(), s=padded, dim=axes).abs() ** 2
    products = torch.fft.ifftn(power.sum(dim=(0, 1)), dim=tuple(range(len(axes)))).real
    places = torch.cartesian_prod(*[torch.arange(n) for n in shape]).reshape(-1, len(axes))
    offsets = places[:, None] - places
    covariance: Tensor = products[tuple(offsets.unbind(-1))] / math.prod(pieces.shape)
    return covariance


def linear_denoiser(covariance: Tensor) -> Denoiser:
    """The best linear denoiser of data of mean 0 and this covariance."""
    values, vectors = torch.linalg.eigh(covariance)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        gain = values / (values + sigma.double()[:, None] ** 2)
        flat = x.flatten(1).double()
        denoised: Tensor = ((flat @ vectors * gain) @ vectors.T).reshape(x.shape).to(x)
        return denoised

    return denoise


def gate(recipe: Recipe, model: EDMDenoiser, n: int = 1024, seed: int = 0) -> bool:
    """Prints how the model does on the held-out part; returns whether every size passes.

    A size passes with a denoising error on 2,048 held-out crops no larger than 1.02 times that of
    the best linear denoiser (its covariance from the training part); and samples (Heun, 32 levels)
    whose covariance differs from the held-out crops' by at most 3 times as much as the training
    crops' does, in the Frobenius norm, or by 5 % of its norm.
    """
    (pieces, held_out), passed = recipe.parts(), True

    @torch.no_grad()
    def error(denoise: Denoiser, part: Tensor) -> float:
        generator = torch.Generator().manual_seed(1)
        clean = recipe.crops(part, shape, 2048, generator)
        return recipe.loss(denoise, clean, generator).item()

    print(f"{'crop':>8} {'train':>7} {'held out':>8} {'linear':>7} {'covariance':>10} {'floor':>7}")
    for shape in recipe.shapes:
        covariance = stationary_covariance(pieces, shape)
        truth = stationary_covariance(held_out, shape)
        seen, unseen = error(model, pieces), error(model, held_out)
        reference = error(linear_denoiser(covariance), held_out)
        levels, start = karras(32, 0.01, 80.0), (n, 1, *shape)
        drawn = sample(from_denoiser(model), levels, shape=start, solver=Heun(), generator=seed)
        flat = drawn.flatten(1).double()
        distance, floor = (
            ((c - truth).norm() / truth.norm()).item() for c in (flat.T @ flat / n, covariance)
        )
        fine = unseen <= 1.02 * reference and distance <= max(3 * floor, 0.05)
        passed &= fine
        print(
            f"{'×'.join(map(str, shape)):>8} {seen:7.4f} {unseen:8.4f} {reference:7.4f} "
            f"{distance:10.4f} {floor:7.4f} {'passed' if fine else 'FAILED'}"
        )
    return passed


if __name__ == "__main__":
    main(RECIPES, gate, __doc__)
