"""Trains the bundled gravel model: DiffCollage's Algorithm 6 on both axes of one photograph.

    python scripts/train_gravel.py [--steps N] [--out FOLDER] | --check

scikit-image's `gravel` (CC0) is resized to 256 × 256 and scaled to [-1, 1]; every step draws 64
crops of one of the four sizes below. The weights are an exponential moving average. They are
written as they are; the exit code says whether their patches pass the gate.
"""

import argparse
import copy
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import trange

from pgmdiff import from_denoiser
from pgmdiff.diagnostics.metrics import frechet_distance, texture_features
from pgmdiff.models.gravel import SIGMA_DATA, gravel_denoiser, gravel_image, untrained
from pgmdiff.models.unet import EDMDenoiser
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.training.loop import denoising_loss, random_crops

SHAPES = ((16, 16), (16, 8), (8, 16), (8, 8))
CHANCES = (0.4, 0.2, 0.2, 0.2)
BATCH = 64
LEARNING_RATE = 1e-3
WARM_UP = 200
EMA_DECAY = 0.9995
P_MEAN, P_STD = -1.2, 1.4


def learning_rate(step: int, steps: int) -> float:
    """A linear warm-up, then half a cosine to zero, as a fraction of the peak."""
    decay = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
    return decay * min(1.0, (step + 1) / WARM_UP)


def train(steps: int, seed: int = 0) -> tuple[EDMDenoiser, list[float]]:
    """Returns the averaged model and the loss of every step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = untrained()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: learning_rate(s, steps))
    image, losses = gravel_image(), []
    bar = trange(steps, mininterval=10)
    for step in bar:
        which = torch.multinomial(torch.tensor(CHANCES), 1, generator=generator).item()
        crops = random_crops(image, SHAPES[int(which)], BATCH, generator=generator)
        loss = denoising_loss(
            model, crops, sigma_data=SIGMA_DATA, p_mean=P_MEAN, p_std=P_STD, generator=generator
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
        if step % 100 == 99:
            bar.set_postfix(loss=f"{sum(losses[-500:]) / len(losses[-500:]):.4f}")
    return average, losses


def gate(denoiser: EDMDenoiser, n: int = 1024, seed: int = 0) -> bool:
    """Prints how samples of every crop size compare with real crops; whether all of them pass.

    To pass: a Fréchet distance of texture statistics at most 3 times that between two sets of real
    crops, the mean grey within 0.02, the standard deviation and the mean step between neighbouring
    columns within 4 %.
    """
    generator = torch.Generator().manual_seed(seed)
    image, score, passed = gravel_image(), from_denoiser(denoiser), True
    print(f"{'crop':>8} {'FD':>7} {'floor':>7} {'ratio':>6} {'Δmean':>7} {'std':>6} {'step':>6}")
    for shape in SHAPES:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=26_000)
    parser.add_argument("--out", type=Path, default=Path("pgmdiff/models"))
    parser.add_argument("--check", action="store_true", help="only pass the weights in the package")
    arguments = parser.parse_args()
    if arguments.check:
        raise SystemExit(not gate(gravel_denoiser()))
    start = time.perf_counter()
    model, losses = train(arguments.steps)
    tail = losses[-2000:]
    save_file(model.state_dict(), arguments.out / "gravel.safetensors")
    print(
        f"{arguments.steps} steps in {time.perf_counter() - start:.0f} s; "
        f"mean loss of the last {len(tail)}: {sum(tail) / len(tail):.4f}"
    )
    raise SystemExit(not gate(model))


if __name__ == "__main__":
    main()
