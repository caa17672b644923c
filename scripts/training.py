"""The training loop and the command line that the scripts for the bundled models share.

Every step draws crops of one size (DiffCollage's Algorithm 6); the weights are an exponential
moving average. They are written whether or not they pass the model's gate; the exit code says
whether they do.
"""

import argparse
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import trange

from pgmdiff.models.unet import EDMDenoiser
from pgmdiff.training import denoising_loss, random_crops

__all__ = ["Denoiser", "Recipe", "main", "train"]

LEARNING_RATE = 1e-3
WARM_UP = 200
EMA_DECAY = 0.9995
EVERY = 500
"""Steps over which the reported loss is averaged."""

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
        if len(shape) == 1:  # a stack of series is an image whose crops are one row high
            image = pieces[None, :, 0]
            return random_crops(image, (1, *shape), n, generator=generator)[:, 0]
        return random_crops(pieces[0], shape, n, generator=generator)

    def loss(self, model: Denoiser, clean: Tensor, generator: torch.Generator) -> Tensor:
        """The weighted denoising error of a model on clean crops."""
        options = {name: getattr(self, name) for name in ("sigma_data", "p_mean", "p_std")}
        return denoising_loss(model, clean, generator=generator, **options)


def train(recipe: Recipe, steps: int, seed: int = 0) -> EDMDenoiser:
    """Returns the averaged model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = recipe.untrained()
    average = copy.deepcopy(model).requires_grad_(False)

    def rate(step: int) -> float:
        """A linear warm-up, then half a cosine to zero, as a fraction of the peak."""
        decay = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
        return decay * min(1.0, (step + 1) / WARM_UP)

    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    pieces, chances, losses = recipe.parts()[0], torch.tensor(recipe.chances), list[float]()
    bar = trange(steps, mininterval=10)
    for step in bar:
        which = int(torch.multinomial(chances, 1, generator=generator).item())
        clean = recipe.crops(pieces, recipe.shapes[which], recipe.batch, generator)
        loss = recipe.loss(model, clean, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        for mean, new in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(new.detach(), 1 - decay)
        losses.append(loss.item())
        if step % EVERY == EVERY - 1:
            bar.set_postfix(loss=f"{sum(losses[-EVERY:]) / EVERY:.4f}")
    return average


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
    parser.add_argument("--check", action="store_true", help="only check the bundled weights")
    arguments = parser.parse_args()
    recipe = recipes[arguments.name]
    model = recipe.trained()
    if not arguments.check:
        start = time.process_time()
        model = train(recipe, arguments.steps or recipe.steps)
        folder = arguments.out or recipe.weights.parent
        save_file(model.state_dict(), folder / recipe.weights.name)
        print(f"{time.process_time() - start:.0f} CPU-seconds")
    raise SystemExit(not gate(recipe, model))
