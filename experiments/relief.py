"""A relief map, and models of its windows and of its tile means.

The map is matplotlib's sample `jacksboro_fault_dem.npz`: elevations of 344 × 403 places in
Tennessee, 3 seconds of arc (75 to 93 m) apart, by the US Geological Survey. Mountains, a fault and
a plain are wider than any patch. A strip is 12 rows high, 9 km long, and lies from west to east;
rows in the middle of the map are held out.

One network is the model of windows of three widths and of their overlaps, another is that of the
means of 3 × 3 places, in whole strips and in the parts that windows share with them.
`python -m experiments.train pyramid` trains both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.corpora import FOLDER
from pgmdiff.models.unet import EDMDenoiser, UNet, trained
from pgmdiff.noise import Generator
from pgmdiff.samplers import karras
from pgmdiff.training import Crops, crops, fit

__all__ = ["MODEL", "PATCH", "ROWS", "TILE", "WIDTH", "Relief", "means", "parts", "strips"]

ROWS, WIDTH, PATCH, TILE = 12, 96, 12, 3
HELD_OUT = slice(122, 218)
KINDS: dict[str, dict[tuple[int, ...], float]] = {
    "windows": {(1, ROWS, PATCH): 0.4, (1, ROWS, PATCH // 2): 0.3, (1, ROWS, 2 * PATCH): 0.3},
    "means": {(1, ROWS // TILE, WIDTH // TILE): 0.5, (1, 4, 4): 0.25, (1, 4, 2): 0.25},
}
"""How often each shape is drawn in training."""


@cache
def parts(held_out: bool = False) -> list[Tensor]:
    """Parts of the map, `[1, rows, 403]`, and their mirror images, in standard deviations."""
    from matplotlib.cbook import get_sample_data

    file: Any = get_sample_data("jacksboro_fault_dem.npz")
    metres = torch.from_numpy(file["elevation"].astype(np.float32))
    above, below = metres[: HELD_OUT.start - 2], metres[HELD_OUT.stop + 2 :]
    known = torch.cat([above, below])
    kept = [metres[HELD_OUT]] if held_out else [above, below]
    scaled = [((part - known.mean()) / known.std())[None] for part in kept]
    return [part.flip(axes) for part in scaled for axes in ((), (1,), (2,), (1, 2))]


def means(states: list[Tensor]) -> list[Tensor]:
    """The means of tiles of states `[1, rows, columns]`, one state for each place of the tiles."""
    pooled = [F.avg_pool2d(state, TILE, stride=1) for state in states]
    starts = [(row, column) for row in range(TILE) for column in range(TILE)]
    return [state[:, row::TILE, column::TILE] for state in pooled for row, column in starts]


def strips(n: int, generator: Generator = None, *, held_out: bool = False) -> Tensor:
    """Real strips `[n, 1, 12, 96]` of any places, and mirrored ones."""
    found: Crops = crops([(1, ROWS, WIDTH)], parts(held_out))
    return found.draw(n, generator).clean


@dataclass(frozen=True)
class Relief:
    """The models of windows and of tile means.

    Attributes:
        weights: the file of their trained weights.
        training: options of `fit`, for `python -m experiments.train`.
        share: the steps of the model of means, as a share of those of the model of windows.
    """

    weights: Path
    training: Mapping[str, Any]
    share: float = 0.4

    def networks(self) -> dict[str, UNet]:
        widths = {"windows": (32, 48), "means": (24, 40)}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return {kind: UNet(1, each, 64, whitened=True) for kind, each in widths.items()}

    def denoisers(self) -> dict[str, EDMDenoiser]:
        """The trained denoisers, by kind; they accept the shapes that they were trained for."""
        both = {kind: EDMDenoiser(each, 1.0) for kind, each in self.networks().items()}
        trained(nn.ModuleDict(both), self.weights)
        return both

    def train(
        self, run: Path | None = None, steps: int = 1, p_mean: float = 0.0, **options: Any
    ) -> nn.ModuleDict:
        """Trains both denoisers, with options of `fit`; the noise of means is a third as strong."""
        data = {"windows": parts(), "means": means(parts())}
        found = {}
        for kind, network in self.networks().items():
            coarse = kind == "means"
            options |= {"run": run and run / kind, "wiener": True}
            options |= {"steps": max(1, round(steps * self.share)) if coarse else steps}
            options |= {"p_mean": p_mean - np.log(TILE) if coarse else p_mean}
            found[kind] = fit(KINDS[kind], network, data[kind], **options)
        return nn.ModuleDict(found)

    def levels(self, steps: int) -> list[float]:
        """The noise levels of a run of some steps."""
        return karras(steps, 0.01, 80.0)


MODEL = Relief(
    FOLDER / "weights" / "pyramid.safetensors",
    {"steps": 4000, "batch": 64, "lr": 2e-3, "p_mean": float(np.log(0.25)), "p_std": 1.8},
)
