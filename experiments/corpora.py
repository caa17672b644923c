"""Three colour corpora, and the models of their patches.

    landscape  strips of panoramas: horizons, correlated far beyond a patch (scenes/scenes.md)
    galaxies   scikit-image's `hubble_deep_field`: a texture that is alike everywhere
    tissue     scikit-image's `immunohistochemistry`: a texture that differs from place to place

Strips have 32 rows, patches are 32 × 32, values lie in [-1, 1]. One network per corpus is the model
of patches and of their overlaps. `python -m experiments.train NAME` trains it. `landscape64` and
`tissue64` are the same pictures at 64 × 64, that of tissue in all eight ways, with larger networks
that are trained on a GPU; their weights are not in the repository.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.memory import eight_ways
from pgmdiff import field
from pgmdiff.models import tissue
from pgmdiff.models.pictures import picture
from pgmdiff.models.unet import UNet, trained
from pgmdiff.noise import Generator
from pgmdiff.samplers import DPMSolver2M, karras
from pgmdiff.training import Crops, EDMDenoiser, crops, fit

__all__ = ["CORPORA", "OURS", "Corpus", "colour_map"]

FOLDER = Path(__file__).parent
LANDSCAPES = ("dawn", "night", "park", "sky", "sunrise", "venice")
SIDE = 32
OURS = DPMSolver2M(eta=1.0, rho=7.0)
LARGE = {"steps": 2500, "batch": 96, "lr": 1e-3, "ema": 0.9985}
"""Training of networks for patches of 64 × 64, on a GPU."""


@dataclass(frozen=True)
class Corpus:
    """A corpus of colour pictures, and the trained model of its patches.

    Attributes:
        name, title: for files and for captions.
        states: loads the pictures `[3, height, width]`.
        shapes: how often each crop `(3, height, width)` is drawn in training, the patch first.
        weights: the file of its trained weights.
        field: the number of channels of the network's condition `field=`, 0 if it has none.
        whitened, widths, features: of the network, see `UNet`.
        lowest, highest: noise levels of sampling.
        solver: of sampling, where methods are compared.
        training: options of `fit`, for `python -m experiments.train`.
    """

    name: str
    title: str
    states: Callable[[], list[Tensor]]
    shapes: dict[tuple[int, ...], float]
    weights: Path
    training: dict[str, Any]
    lowest: float
    highest: float = 40.0
    solver: DPMSolver2M = OURS
    field: int = 0
    whitened: bool = False
    side: int = SIDE
    widths: tuple[int, ...] = (32, 48, 64)
    features: int = 64

    def network(self) -> UNet:
        options = {"field": self.field, "whitened": self.whitened}
        return UNet(channels=3, widths=self.widths, features=self.features, **options)

    def denoiser(self) -> EDMDenoiser:
        """The trained denoiser, which needs sides that are multiples of 4."""
        return trained(EDMDenoiser(self.network(), 1.0), self.weights)

    def train(self, **options: Any) -> EDMDenoiser:
        """Trains the denoiser; half of all crops of pictures with a field have their colour map.

        Args:
            options: those of `fit`.
        """
        states: list[Any] = [*self.states()]
        conditions: dict[str, Any] = {}
        if self.field:
            states = [(state, {"field": field(colour_map(state[None])[0])}) for state in states]
            conditions = {"null_condition": {"field": torch.zeros(())}, "null_probability": 0.5}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = self.network()
        found: EDMDenoiser = fit(self.shapes, network, states, wiener=True, **conditions, **options)
        return found

    def crops(self, shape: Sequence[int], n: int, generator: Generator = None) -> Tensor:
        """Real crops `[n, 3, height, width]` of any size that the pictures have."""
        found: Crops = crops([(3, *shape)], self.states())
        return found.draw(n, generator).clean

    def levels(self, steps: int) -> list[float]:
        """The noise levels of a run of some steps, within those of training."""
        return karras(steps, self.lowest, self.highest)


def colour_map(pictures: Tensor) -> Tensor:
    """Colours of pictures without their detail, and a channel of ones: `[n, 4, height, width]`.

    Pictures, `[n, 3, height, width]`, are averaged over about 8 × 8 pixels and interpolated back.
    """
    sides = pictures.shape[2:]
    coarse = F.interpolate(pictures, size=[-(-side // 8) for side in sides], mode="area")
    smooth = F.interpolate(coarse, size=sides, mode="bilinear", align_corners=False)
    return torch.cat([smooth, torch.ones_like(smooth[:, :1])], dim=1)


@cache
def landscapes(side: int) -> list[Tensor]:
    """Strips of six panoramas, also mirrored: 7 heights of the horizon, 5 sizes of a pixel.

    A patch of a side sees 64 to 90 degrees, and a strip goes once around, a patch more than all
    the way.
    """
    from PIL import Image

    found = []
    for name in LANDSCAPES:
        image = np.asarray(Image.open(FOLDER / "scenes" / f"{name}.jpg"), dtype=np.float32)
        picture = torch.from_numpy(image).movedim(2, 0) / 127.5 - 1
        around = torch.cat([picture[:, :, -64:], picture, picture[:, :, :64]], dim=2)
        for degrees in (torch.linspace(2.0, 2.8, 5) * SIDE / side).tolist():
            rows, columns = round(180 / degrees), round(360 / degrees)
            size = (rows, round(columns * around.shape[2] / picture.shape[2]))
            options: Any = {"mode": "bicubic", "antialias": True, "align_corners": False}
            small = F.interpolate(around[None], size=size, **options)[0].clamp(-1, 1)
            first = (size[1] - columns) // 2
            ring = small[:, :, first : first + columns]
            strip = torch.cat([ring, ring[:, :, : side - 1]], dim=2)
            for pitch in torch.linspace(-12, 12, 7).tolist():
                top = round((rows - side) / 2 + pitch / degrees)
                part = strip[:, top : top + side].contiguous()
                found += [part, part.flip(2)]
    return found


def galaxies() -> list[Tensor]:
    """The Hubble eXtreme Deep Field at half its size, turned and mirrored in all eight ways."""
    return eight_ways(picture("hubble_deep_field", "galaxies", (436, 500)))


def stained(side: int) -> list[Tensor]:
    """The picture of tissue, 8 patches high and wide; if large, in all eight ways.

    Large networks would learn one picture by heart.
    """
    whole = picture("immunohistochemistry", "tissue_image", (8 * side, 8 * side))
    return [whole] if side == SIDE else eight_ways(whole)


def _corpora(side: int, suffix: str, training: Mapping[str, Any], **network: Any) -> list[Corpus]:
    """Landscapes and tissue by patches of a side, with options of networks and of training."""
    weights, half = FOLDER / "weights" if side == SIDE else Path("out/weights"), side // 2
    of_tissue = Path(tissue.__file__).parent if side == SIDE else weights
    return [
        Corpus(
            f"landscape{suffix}",
            "landscapes",
            partial(landscapes, side),
            {(3, side, side): 0.6, (3, side, half): 0.4},
            weights / f"landscape{suffix}.safetensors",
            {"steps": 13000, "lr": 2e-3, "p_mean": math.log(0.1994), "p_std": 1.8, **training},
            lowest=0.003,
            field=4,
            whitened=True,
            side=side,
            **network,
        ),
        Corpus(
            f"tissue{suffix}",
            "stained tissue",
            partial(stained, side),
            {
                (3, side, side): 0.4,
                (3, side, half): 0.2,
                (3, half, side): 0.2,
                (3, half, half): 0.2,
            },
            of_tissue / f"tissue{suffix}.safetensors",
            {"steps": 9000, "lr": 1.5e-3, "p_mean": math.log(0.4111), "p_std": 1.6, **training},
            lowest=0.01,
            side=side,
            **network,
        ),
    ]


GALAXIES = Corpus(
    "galaxies",
    "galaxies",
    galaxies,
    {(3, SIDE, SIDE): 0.6, (3, SIDE, SIDE // 2): 0.4},
    FOLDER / "weights" / "galaxies.safetensors",
    {"steps": 13000, "lr": 2e-3, "p_mean": math.log(0.2), "p_std": 1.8},
    lowest=0.003,
    highest=150.0,  # a large galaxy is that far from the mean of the pixels of a patch
    solver=DPMSolver2M(rho=7.0),
    whitened=True,
    widths=(24, 32, 32),
    features=32,
)
CORPORA = {
    each.name: each
    for each in [
        *_corpora(SIDE, "", {}),
        GALAXIES,
        *_corpora(2 * SIDE, "64", LARGE, widths=(64, 96, 128, 160), features=128),
    ]
}
