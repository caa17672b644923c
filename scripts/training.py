"""What the scripts that train share: DiffCollage's Algorithm 6 on crops, and the command line."""

import argparse
import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import trange

from pgmdiff.models.unet import EDMDenoiser
from pgmdiff.training.loop import denoising_loss, random_crops

__all__ = ["Denoiser", "Task", "command", "train"]

Denoiser = Callable[[Tensor, Tensor], Tensor]

LEARNING_RATE = 1e-3
WARM_UP = 200
EMA_DECAY = 0.9995
EVERY = 500
"""Steps between two reports."""


@dataclass(frozen=True)
class Task:
    """What is trained on what.

    Attributes:
        weights: the file that holds them, `{name}.safetensors`.
        untrained, trained: the model, with random weights and with those of the file.
        parts: the training part `[pieces, 1, ...]`, and the held-out part where there is one.
        shapes, chances: of crops.
        sigma_data: standard deviation of the data.
        p_mean, p_std: mean and standard deviation of ln σ.
    """

    weights: Path
    untrained: Callable[[], EDMDenoiser]
    trained: Callable[[], EDMDenoiser]
    parts: Callable[[], tuple[Tensor, ...]]
    shapes: tuple[tuple[int, ...], ...]
    chances: tuple[float, ...]
    batch: int
    steps: int
    sigma_data: float
    p_mean: float
    p_std: float

    def loss(
        self, model: Denoiser, pieces: Tensor, which: int, n: int, generator: torch.Generator
    ) -> Tensor:
        """The weighted denoising error on n crops of one shape, of pieces `[pieces, 1, ...]`."""
        shape = self.shapes[which]
        if len(shape) == 1:  # a stack of series is an image whose crops are one row high
            image = pieces[None, :, 0]
            clean = random_crops(image, (1, *shape), n, generator=generator)[:, 0]
        else:
            clean = random_crops(pieces[0], shape, n, generator=generator)
        options = {"sigma_data": self.sigma_data, "p_mean": self.p_mean, "p_std": self.p_std}
        return denoising_loss(model, clean, generator=generator, **options)


def train(task: Task, steps: int, seed: int = 0) -> tuple[EDMDenoiser, list[float]]:
    """Returns the exponential moving average of the model, and the loss of every step."""

    def share(step: int) -> float:
        """A linear warm-up, then half a cosine to zero, as a share of the learning rate."""
        decay = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
        return decay * min(1.0, (step + 1) / WARM_UP)

    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = task.untrained()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    pieces, losses = task.parts()[0], []
    bar = trange(steps, mininterval=10)
    for step in bar:
        which = int(torch.multinomial(torch.tensor(task.chances), 1, generator=generator).item())
        loss = task.loss(model, pieces, which, task.batch, generator)
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
    return average, losses


def command(
    description: str | None,
    tasks: Mapping[str, Task],
    gate: Callable[[EDMDenoiser, Task], bool],
) -> None:
    """Trains the task of the command line and writes the weights; exits 1 if they fail the gate."""
    parser = argparse.ArgumentParser(description=description)
    if len(tasks) > 1:
        parser.add_argument("task", choices=tasks)
    parser.add_argument("--steps", type=int, help="if other than those of the bundled weights")
    parser.add_argument("--out", type=Path, help="a folder, if other than that of the weights")
    parser.add_argument("--check", action="store_true", help="only pass the bundled weights")
    parser.set_defaults(task=next(iter(tasks)))
    arguments = parser.parse_args()
    task = tasks[arguments.task]
    if arguments.check:
        raise SystemExit(not gate(task.trained(), task))
    start = time.process_time()
    model, losses = train(task, arguments.steps or task.steps)
    save_file(model.state_dict(), (arguments.out or task.weights.parent) / task.weights.name)
    tail = losses[-2000:]
    print(
        f"{len(losses)} steps in {time.process_time() - start:.0f} CPU-seconds; "
        f"mean loss of the last {len(tail)}: {sum(tail) / len(tail):.4f}"
    )
    raise SystemExit(not gate(model, task))
