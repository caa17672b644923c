"""Trains the models of the real-data benchmark: DiffCollage's Algorithm 6 on a series and a field.

    python -m scripts.train_real sea | soft_gravel [--steps N] [--out FOLDER] [--check]

Every step draws crops of one size from the training part; the weights are an exponential moving
average. They are written as they are; the exit code says whether they pass the gate, which
compares with the held-out part only.
"""

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.data import sea, soft_gravel
from benchmarks.exactness.statistics import stationary_covariance
from pgmdiff import from_denoiser
from pgmdiff.samplers import Heun, karras, sample
from scripts.training import Denoiser, Task, command

TASKS = {
    "sea": Task(
        Path("benchmarks/data/sea.safetensors"),
        sea.untrained,
        sea.sea_denoiser,
        parts=lambda: tuple(part[:, None] for part in sea.sea_parts()),
        shapes=tuple((n,) for n in sea.LENGTHS),
        chances=(0.2, 0.4, 0.15, 0.25),
        batch=128,
        steps=12_000,
        sigma_data=1.0,
        p_mean=-0.8,
        p_std=1.5,
    ),
    "soft_gravel": Task(
        Path("benchmarks/data/soft_gravel.safetensors"),
        soft_gravel.untrained,
        soft_gravel.soft_gravel_denoiser,
        parts=lambda: tuple(part[None] for part in soft_gravel.soft_gravel_parts()),
        shapes=soft_gravel.SHAPES,
        chances=(0.5, 0.15, 0.35),
        batch=64,
        steps=10_000,
        sigma_data=1.0,
        p_mean=-0.8,
        p_std=1.5,
    ),
}


def linear_denoiser(covariance: Tensor) -> Denoiser:
    """The best linear denoiser of data of mean 0 and this covariance."""
    values, vectors = torch.linalg.eigh(covariance)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        gain = values / (values + sigma.double()[:, None] ** 2)
        flat = x.flatten(1).double()
        denoised: Tensor = ((flat @ vectors * gain) @ vectors.T).reshape(x.shape).to(x)
        return denoised

    return denoise


@torch.no_grad()
def gate(model: Denoiser, task: Task, n: int = 1024, seed: int = 0) -> bool:
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
        seen, unseen, reference = (  # on the same 2,048 crops with the same noise
            task.loss(f, part, which, 2048, torch.Generator().manual_seed(1)).item()
            for f, part in ((model, pieces), (model, held_out), (linear, held_out))
        )
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
    command(__doc__, TASKS, gate)
