"""Trains the bundled gravel model on crops of one photograph.

    python -m scripts.train_gravel [--steps N] [--out FOLDER] [--run FOLDER] | --check

scikit-image's `gravel` (CC0) is resized to 256 × 256 and scaled to [-1, 1].
"""

from pathlib import Path

import torch

from pgmdiff import from_denoiser
from pgmdiff.diagnostics.metrics import frechet_distance, texture_features
from pgmdiff.models.gravel import SIGMA_DATA, gravel_denoiser, gravel_image, untrained
from pgmdiff.models.unet import EDMDenoiser
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.training import random_crops
from scripts.training import Recipe, main

RECIPE = Recipe(
    weights=Path("pgmdiff/models/gravel.safetensors"),
    untrained=untrained,
    trained=gravel_denoiser,
    parts=lambda: (gravel_image()[None],),
    shapes=((16, 16), (16, 8), (8, 16), (8, 8)),
    chances=(0.4, 0.2, 0.2, 0.2),
    batch=64,
    steps=26_000,
    sigma_data=SIGMA_DATA,
    p_mean=-1.2,
    p_std=1.4,
)


def gate(recipe: Recipe, denoiser: EDMDenoiser, n: int = 1024, seed: int = 0) -> bool:
    """Prints how samples of every crop size compare with real crops; returns whether all pass.

    A size passes with a Fréchet distance of texture statistics at most 3 times that between two
    sets of real crops, the mean grey within 0.02, and the standard deviation and the mean step
    between neighbouring columns within 4 %.
    """
    generator = torch.Generator().manual_seed(seed)
    image, score, passed = gravel_image(), from_denoiser(denoiser), True
    print(f"{'crop':>8} {'FD':>7} {'floor':>7} {'ratio':>6} {'Δmean':>7} {'std':>6} {'step':>6}")
    for shape in recipe.shapes:
        real, other = (random_crops(image, shape, n, generator=generator) for _ in range(2))
        drawn = sample(
            score, karras(18, 0.01, 10.0), shape=(n, 1, *shape), solver=Heun(), generator=seed
        )
        floor, distance = (
            frechet_distance(texture_features(real), texture_features(x)) for x in (other, drawn)
        )
        shift = (drawn.mean() - real.mean()).item()
        spread = (drawn.std() / real.std()).item()
        step = (drawn.diff(dim=3).abs().mean() / real.diff(dim=3).abs().mean()).item()
        fine = distance <= 3 * floor and abs(shift) < 0.02
        fine &= abs(spread - 1) < 0.04 and abs(step - 1) < 0.04
        passed &= fine
        print(
            f"{shape[0]:>4}×{shape[1]:<3} {distance:7.4f} {floor:7.4f} {distance / floor:6.2f} "
            f"{shift:7.4f} {spread:6.3f} {step:6.3f} {'passed' if fine else 'FAILED'}"
        )
    return passed


if __name__ == "__main__":
    main({"gravel": RECIPE}, gate, __doc__)
