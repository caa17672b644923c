"""The recipes and the command line that the scripts for the bundled models share.

The models are trained by `training.fit`. Their weights are written whether or not they pass the
model's gate; the exit code says whether they do. (The bundled weights were made by an earlier loop
of the same recipe, with other random numbers.)
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pgmdiff.models.unet import EDMDenoiser, save_weights
from pgmdiff.training import Crops, crops, denoising_loss, fit

__all__ = ["Denoiser", "Recipe", "main", "train"]

Denoiser = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """The training of one model.

    Attributes:
        weights: the file of the bundled weights.
        untrained, trained: load the model with random weights, and with the bundled ones.
        parts: loads the training part `[pieces, 1, *axes]`, and the held-out one if there is one.
        shapes, chances: the sizes of crops, and the share of the steps that each is drawn in.
        batch, steps: crops per step, and the number of steps.
        sigma_data, p_mean, p_std: see `denoising_loss`.
    """

    weights: Path
    untrained: Callable[[], EDMDenoiser]
    trained: Callable[[], EDMDenoiser]
    parts: Callable[[], tuple[Tensor, ...]]
    shapes: Sequence[Sequence[int]]
    chances: Sequence[float]
    batch: int
    steps: int
    sigma_data: float
    p_mean: float
    p_std: float

    def crops(
        self, pieces: Tensor, shape: Sequence[int], n: int, generator: torch.Generator
    ) -> Tensor:
        """`n` crops `[n, 1, *shape]` of pieces `[pieces, 1, *axes]`."""
        found: Crops = crops([(1, *shape)], pieces)
        return found.draw(n, generator).clean

    def loss(self, model: Denoiser, clean: Tensor, generator: torch.Generator) -> Tensor:
        """The weighted denoising error of a model on clean crops."""
        options = {name: getattr(self, name) for name in ("sigma_data", "p_mean", "p_std")}
        return denoising_loss(model, clean, generator=generator, **options)


def train(recipe: Recipe, steps: int, folder: Path | None = None, seed: int = 0) -> EDMDenoiser:
    """Returns the averaged model; a folder keeps a run that is resumed if it is interrupted."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = recipe.untrained()
    shapes = zip(recipe.shapes, recipe.chances, strict=True)
    found: EDMDenoiser = fit(
        {(1, *shape): chance for shape, chance in shapes},
        model,
        recipe.parts()[0],
        steps=steps,
        batch=recipe.batch,
        p_mean=recipe.p_mean,
        p_std=recipe.p_std,
        run=folder,
        generator=seed,
        progress=True,
    )
    return found


def main(
    recipes: Mapping[str, Recipe],
    gate: Callable[[Recipe, EDMDenoiser], bool],
    description: str | None,
) -> None:
    """Trains a model, or checks the bundled one, as the command line says; exits 1 if it fails."""
    parser = argparse.ArgumentParser(description=description)
    if len(recipes) > 1:
        parser.add_argument("name", choices=recipes)
    parser.set_defaults(name=next(iter(recipes)))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, help="folder; by default that of the bundled weights")
    parser.add_argument("--run", type=Path, help="folder of checkpoints: the same call resumes")
    parser.add_argument("--check", action="store_true", help="only check the bundled weights")
    arguments = parser.parse_args()
    recipe = recipes[arguments.name]
    model = recipe.trained()
    if not arguments.check:
        start = time.process_time()
        model = train(recipe, arguments.steps or recipe.steps, arguments.run)
        folder = arguments.out or recipe.weights.parent
        save_weights(model, folder / recipe.weights.name)
        print(f"{time.process_time() - start:.0f} CPU-seconds")
    raise SystemExit(not gate(recipe, model))
