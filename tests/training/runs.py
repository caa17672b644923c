"""Runs of training in processes of their own: `python -m tests.training.runs FOLDER [RANK]`."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pgmdiff.graphs import tiles
from pgmdiff.samplers import Run
from pgmdiff.training import Crops, EDMDenoiser, crops, fit, train

DATA = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
WINDOWS = tiles((8,), 4, 2)
LAST = 11
"""Steps after which a run kills itself."""


class Network(nn.Module):
    """A network of any length, with dropout and without a hidden state."""

    def __init__(self, kill: bool = False) -> None:
        super().__init__()
        self.kill, self.calls = kill, 0
        self.layers = nn.Sequential(
            nn.Conv1d(1, 8, 3, padding=1), nn.SiLU(), nn.Dropout(0.2), nn.Conv1d(8, 1, 1)
        )

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        self.calls += 1
        if self.kill and self.calls > LAST:
            os.kill(os.getpid(), signal.SIGKILL)
        out: Tensor = self.layers(x[:, None])[:, 0] * noise[:, None]
        return out


def made(kill: bool = False) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network(kill)


def trained(folder: Path | None, kill: bool = False, **options: Any) -> dict[str, Tensor]:
    """The weights of a run that saves after every step."""
    run = None if folder is None else Run(folder, every=0)
    given: dict[str, Any] = {"steps": 30, "batch": 16, "generator": 3, "warmup": 5}
    given |= {"wiener": True, **options}
    denoiser: EDMDenoiser = fit(WINDOWS, made(kill), DATA, run=run, **given)
    return denoiser.state_dict()


def parts() -> tuple[Crops, EDMDenoiser]:
    network = made()
    network.layers[2] = nn.Identity()
    return crops(WINDOWS, DATA), EDMDenoiser(network, 1.0)


def ranked(folder: Path, rank: int) -> dict[str, Tensor]:
    """The weights that one of two ranks trains; they meet in a file."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    cut, denoiser = parts()
    if rank:  # rank 0's weights are those of all
        nn.init.zeros_(denoiser.network.layers[0].weight)
    options: Any = {"steps": 3, "batch": 8, "lr": 1e-2, "warmup": 0, "ema": 0.0, "generator": 3}
    try:
        return train(denoiser, cut, **options).state_dict()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if len(sys.argv) == 2:
        trained(folder, kill=True)
    else:
        torch.save(ranked(folder, int(sys.argv[2])), folder / f"{sys.argv[2]}.pt")
