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
from pgmdiff.training.loop import denoising_loss

__all__ = ["Recipe", "loss_of", "main", "train"]

LEARNING_RATE = 1e-3
WARM_UP = 200
EMA_DECAY = 0.9995
EVERY = 500
"""Steps over which the reported loss is averaged."""
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Recipe:
    """The training of one model.

    Attributes:
        untrained, trained: load the model with random weights, and with the bundled ones.
        crops: from a shape, a number and a generator to clean crops, `[n, channels, *shape]`.
        shapes, chances: the sizes of crops, and the share of the steps that each is drawn in.
        batch, steps: crops per step, and the number of steps.
        sigma_data, p_mean, p_std: see `denoising_loss`.
        folder: of the bundled weights, from the root of the repository.
        gate: prints how a model of the recipe compares with data, and returns whether it passes.
    """

    untrained: Callable[[], EDMDenoiser]
    trained: Callable[[], EDMDenoiser]
    crops: Callable[[Sequence[int], int, torch.Generator], Tensor]
    shapes: Sequence[Sequence[int]]
    chances: Sequence[float]
    batch: int
    steps: int
    sigma_data: float
    p_mean: float
    p_std: float
    folder: str
    gate: Callable[["Recipe", EDMDenoiser], bool]


def loss_of(
    recipe: Recipe,
    model: Callable[[Tensor, Tensor], Tensor],
    clean: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The weighted denoising error of a model on clean crops."""
    return denoising_loss(
        model,
        clean,
        sigma_data=recipe.sigma_data,
        p_mean=recipe.p_mean,
        p_std=recipe.p_std,
        generator=generator,
    )


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
    chances, losses = torch.tensor(recipe.chances), list[float]()
    bar = trange(steps, mininterval=10)
    for step in bar:
        which = int(torch.multinomial(chances, 1, generator=generator).item())
        clean = recipe.crops(recipe.shapes[which], recipe.batch, generator)
        loss = loss_of(recipe, model, clean, generator)
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


def main(recipes: Mapping[str, Recipe], description: str | None) -> None:
    """Trains a model, or checks the bundled one, as the command line asks."""
    parser = argparse.ArgumentParser(description=description)
    if len(recipes) > 1:
        parser.add_argument("name", choices=recipes)
    parser.set_defaults(name=next(iter(recipes)))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, help="folder; by default that of the bundled weights")
    parser.add_argument("--check", action="store_true", help="only check the bundled weights")
    arguments = parser.parse_args()
    recipe = recipes[arguments.name]
    if arguments.check:
        raise SystemExit(not recipe.gate(recipe, recipe.trained()))
    start = time.process_time()
    model = train(recipe, arguments.steps or recipe.steps)
    folder = arguments.out or ROOT / recipe.folder
    save_file(model.state_dict(), folder / f"{arguments.name}.safetensors")
    print(f"{time.process_time() - start:.0f} CPU-seconds")
    raise SystemExit(not recipe.gate(recipe, model))
