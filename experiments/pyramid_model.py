"""Models of windows of the sea's temperature, and of its hourly means, for a learned pyramid.

The data are the half-hourly anomalies of `benchmarks.data.sea`: blocks of 20 days, of which every
other one is held out. A series is 4 days long. One network is the model of windows of 4 to 32
hours, and of their overlaps; another is that of means of 2 hours, in a whole series and in the
parts that windows of 8 hours share with it. `python -m experiments.train pyramid` trains both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.data.sea import sea_parts
from experiments.corpora import FOLDER
from pgmdiff.models.unet import EDMDenoiser, UNet, trained
from pgmdiff.noise import Generator
from pgmdiff.samplers import karras
from pgmdiff.training import Crops, crops, fit

__all__ = ["KINDS", "LENGTH", "MODEL", "TILE", "WINDOW", "Sea", "blocks", "means", "series"]

LENGTH, WINDOW, TILE = 192, 16, 4
KINDS: dict[str, dict[tuple[int, ...], float]] = {
    "windows": {(1, 16): 0.25, (1, 8): 0.2, (1, 32): 0.25, (1, 64): 0.3},
    "means": {(1, LENGTH // TILE): 0.6, (1, WINDOW // TILE): 0.2, (1, WINDOW // TILE // 2): 0.2},
}
"""The shapes that each network knows, and how often they are drawn in training."""


@cache
def blocks(*, held_out: bool = False) -> Tensor:
    """Blocks of 20 days, `[10, 1, 960]`."""
    return sea_parts()[held_out][:, None]


def means(states: Tensor) -> list[Tensor]:
    """The means of tiles of states `[n, 1, length]`, from every place where a tile may begin."""
    running = states.unfold(2, TILE, 1).mean(dim=3)
    return [each for start in range(TILE) for each in running[..., start::TILE]]


def series(n: int, generator: Generator = None, *, held_out: bool = False) -> Tensor:
    """Real series `[n, 1, 192]`, of any days of the blocks."""
    found: Crops = crops([(1, LENGTH)], blocks(held_out=held_out))
    return found.draw(n, generator).clean


@dataclass(frozen=True)
class Sea:
    """The models of windows and of means: their weights, and options of `fit`."""

    weights: Path
    training: Mapping[str, Any]

    def networks(self) -> dict[str, UNet]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return {kind: UNet(1, (32, 48), 48, axes=1, whitened=True) for kind in KINDS}

    def denoisers(self) -> dict[str, EDMDenoiser]:
        """The trained denoisers, by kind; they accept the shapes that they were trained for."""
        both = {kind: EDMDenoiser(each, 1.0) for kind, each in self.networks().items()}
        trained(nn.ModuleDict(both), self.weights)
        return both

    def p_mean(self, kind: str) -> float:
        """The mean of ln σ in training: noise of means is √t times weaker."""
        return float(np.log(0.4 / TILE**0.5 if kind == "means" else 0.4))

    def train(self, run: Path | None = None, steps: int = 1, **options: Any) -> nn.ModuleDict:
        """Trains both denoisers, with options of `fit`."""
        data = {"windows": blocks(), "means": means(blocks())}
        found = {}
        for kind, network in self.networks().items():
            own = -(-steps // 4) if kind == "means" else steps  # they are few, and soon known
            options |= {"run": run and run / kind, "p_mean": self.p_mean(kind), "wiener": True}
            found[kind] = fit(KINDS[kind], network, data[kind], steps=own, **options)
        return nn.ModuleDict(found)

    def levels(self, steps: int) -> list[float]:
        """The noise levels of a run of some steps."""
        return karras(steps, 0.01, 60.0)


MODEL = Sea(
    FOLDER / "weights" / "pyramid.safetensors",
    {"steps": 6000, "batch": 64, "lr": 1.5e-3, "p_std": 1.5},
)
