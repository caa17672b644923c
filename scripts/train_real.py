"""Trains the models of the real-data benchmark: DiffCollage's Algorithm 6 on a series and a field.

    python scripts/train_real.py sea | soft_gravel [--steps N] [--out FOLDER] [--check]

Every step draws crops of one size from the training part; the weights are an exponential moving
average. They are written as they are; the exit code says whether they pass the gate, which knows
the held-out part only.
"""

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import trange

from benchmarks.data import sea, soft_gravel
from benchmarks.exactness.statistics import stationary_covariance
from pgmdiff import from_denoiser
from pgmdiff.models.unet import EDMDenoiser
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.training.loop import denoising_loss, random_crops

LEARNING_RATE = 1e-3
WARM_UP = 200
EMA_DECAY = 0.9995
P_MEAN, P_STD = -0.8, 1.5
EVERY = 500
"""Steps between two reports."""


@dataclass(frozen=True)
class Task:
    """What is trained on what.

    Attributes:
        parts: the training and the held-out part, `[pieces, 1, ...]`.
        shapes, chances: of crops.
    """

    untrained: Callable[[], EDMDenoiser]
    trained: Callable[[], EDMDenoiser]
    parts: Callable[[], tuple[Tensor, Tensor]]
    shapes: tuple[tuple[int, ...], ...]
    chances: tuple[float, ...]
    batch: int
    steps: int


def _sea_parts() -> tuple[Tensor, Tensor]:
    train, held_out = sea.sea_parts()
    return train[:, None], held_out[:, None]


def _field_parts() -> tuple[Tensor, Tensor]:
    train, held_out = soft_gravel.soft_gravel_parts()
    return train[None], held_out[None]


TASKS = {
    "sea": Task(
        sea.untrained,
        sea.sea_denoiser,
        _sea_parts,
        tuple((n,) for n in sea.LENGTHS),
        (0.2, 0.4, 0.15, 0.25),
        128,
        12_000,
    ),
    "soft_gravel": Task(
        soft_gravel.untrained,
        soft_gravel.soft_gravel_denoiser,
        _field_parts,
        soft_gravel.SHAPES,
        (0.5, 0.15, 0.35),
        64,
        10_000,
    ),
}


def crops(pieces: Tensor, shape: tuple[int, ...], n: int, generator: torch.Generator) -> Tensor:
    """`n` crops `[n, 1, *shape]` of pieces `[pieces, 1, ...]`."""
    if len(shape) == 1:  # a stack of series is an image whose crops are one row high
        found = random_crops(pieces[None, :, 0], (1, shape[0]), n, generator=generator)
        return found[:, 0]
    return random_crops(pieces[0], shape, n, generator=generator)


def learning_rate(step: int, steps: int) -> float:
    """A linear warm-up, then half a cosine to zero, as a fraction of the peak."""
    decay = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
    return decay * min(1.0, (step + 1) / WARM_UP)


def train(task: Task, steps: int, seed: int = 0) -> EDMDenoiser:
    """Returns the averaged model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = task.untrained()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: learning_rate(s, steps))
    (pieces, held_out), losses = task.parts(), []
    chances = torch.tensor(task.chances)
    bar = trange(steps, mininterval=10)
    for step in bar:
        which = int(torch.multinomial(chances, 1, generator=generator).item())
        clean = crops(pieces, task.shapes[which], task.batch, generator)
        loss = denoising_loss(
            model, clean, sigma_data=1.0, p_mean=P_MEAN, p_std=P_STD, generator=generator
        )
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
            seen, unseen = (window_loss(average, task, part) for part in (pieces, held_out))
            bar.set_postfix(
                loss=f"{sum(losses[-EVERY:]) / EVERY:.4f}",
                window=f"{seen:.4f}",
                held_out=f"{unseen:.4f}",
            )
    return average


@torch.no_grad()
def window_loss(model: Callable[..., Tensor], task: Task, part: Tensor, which: int = 0) -> float:
    """The weighted denoising error on 2,048 crops of one size, always the same noise."""
    generator = torch.Generator().manual_seed(1)
    clean = crops(part, task.shapes[which], 2048, generator)
    options = {"sigma_data": 1.0, "p_mean": P_MEAN, "p_std": P_STD}
    return denoising_loss(model, clean, generator=generator, **options).item()


def linear_denoiser(covariance: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The best linear denoiser of data of mean 0 and this covariance."""
    values, vectors = torch.linalg.eigh(covariance)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        gain = values / (values + sigma.double()[:, None] ** 2)
        flat = x.flatten(1).double()
        denoised: Tensor = ((flat @ vectors * gain) @ vectors.T).reshape(x.shape).to(x)
        return denoised

    return denoise


def gate(model: EDMDenoiser, task: Task, n: int = 1024, seed: int = 0) -> bool:
    """Prints how the model does on the held-out part; whether every size passes.

    To pass: on held-out crops, a denoising error no larger than 1.02 times that of the best linear
    denoiser (its covariance from the training part); and samples (Heun, 32 levels) whose covariance
    differs from the held-out crops' by at most 3 times as much as the training crops' does, in
    the Frobenius norm, or 5 % of its norm.
    """
    pieces, held_out = task.parts()
    passed = True
    print(f"{'crop':>8} {'train':>7} {'held out':>8} {'linear':>7} {'covariance':>10} {'floor':>7}")
    for which, shape in enumerate(task.shapes):
        covariance = stationary_covariance(pieces, shape)
        truth = stationary_covariance(held_out, shape)
        linear = linear_denoiser(covariance)
        seen, unseen, reference = (
            window_loss(f, task, part, which)
            for f, part in ((model, pieces), (model, held_out), (linear, held_out))
        )
        drawn = sample(
            from_denoiser(model),
            karras(32, 0.01, 80.0),
            shape=(n, 1, *shape),
            solver=Heun(),
            generator=seed,
        )
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, default=Path("pgmdiff/models"))
    parser.add_argument("--check", action="store_true", help="only pass the weights in the package")
    arguments = parser.parse_args()
    task = TASKS[arguments.task]
    if arguments.check:
        raise SystemExit(not gate(task.trained(), task))
    start = time.process_time()
    model = train(task, arguments.steps or task.steps)
    save_file(model.state_dict(), arguments.out / f"{arguments.task}.safetensors")
    print(f"{time.process_time() - start:.0f} CPU-seconds")
    raise SystemExit(not gate(model, task))


if __name__ == "__main__":
    main()
