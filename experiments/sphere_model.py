"""Views of panoramas, their segmentations, graphs of a full sphere, and the model of its pieces.

A state is a cube map `[6, 3, n, n]`. The network never sees one: it sees faces (views of 90°),
windows that are bent along an edge of the cube, their halves, and, for the graphs of the rivals,
pairs of faces and the three faces at a corner. All cube maps are upright, at any yaw.

The segmentation is k-means (seeded) on smoothed colour and elevation, in five classes that have no
meaning but this. `python -m experiments.train sphere` trains the network.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor

from experiments.corpora import FOLDER
from pgmdiff.composition.fields import field as field_of
from pgmdiff.graphs import RegionGraph, cubemap
from pgmdiff.graphs.cube import FACES
from pgmdiff.images import equirectangular_to_cube
from pgmdiff.images.panorama import equirectangular_directions
from pgmdiff.models.unet import UNet, trained
from pgmdiff.samplers import karras
from pgmdiff.training import EDMDenoiser, fit

__all__ = [
    "CLASSES", "HELD_OUT", "MODEL", "SIDE", "TRAINED", "Model", "corners", "cubes", "labels_of",
    "segmentation",
]  # fmt: skip

TRAINED = ("city", "dawn", "forest", "night", "park", "sky", "sunset")
HELD_OUT = ("sunrise", "venice")
SIDE, CLASSES = 24, 5
HEIGHT = 2 * SIDE
YAWS = 32
"""Of every panorama and its mirror image, in training."""


@cache
def panorama(name: str) -> Tensor:
    """A panorama `[3, 256, 512]` with values in [-1, 1]."""
    from PIL import Image

    image = np.asarray(Image.open(FOLDER / "scenes" / f"{name}.jpg"), dtype=np.float32)
    return torch.from_numpy(image).movedim(2, 0) / 127.5 - 1


def turned(name: str, yaw: float, mirror: bool = False) -> Tensor:
    """A panorama from another yaw, as a share of a turn, as large as a sphere: `[3, H, 2H]`."""
    image = panorama(name)
    image = image.flip(2) if mirror else image
    rolled = image.roll(int(yaw * image.shape[2]), dims=2)
    return F.interpolate(rolled[None], size=(HEIGHT, 2 * HEIGHT), mode="area")[0]


def described(images: Tensor) -> Tensor:
    """What classes are made of: smoothed colour and elevation, `[*batch, H, 2H, 4]`."""
    flat = images.reshape(-1, 3, *images.shape[-2:])
    around = F.pad(F.pad(flat, (2, 2, 0, 0), "circular"), (0, 0, 2, 2), "replicate")
    smooth = F.avg_pool2d(around, 5, stride=1)
    up = -0.5 * torch.from_numpy(equirectangular_directions(images.shape[-2])[..., 1]).to(flat)
    found = torch.cat([smooth, up.expand(len(flat), 1, -1, -1)], dim=1)
    return found.movedim(1, -1).reshape(*images.shape[:-3], *images.shape[-2:], 4)


@cache
def centres() -> Tensor:
    """The centres of the classes, of equal areas of all training panoramas, from dark to light."""
    values = described(torch.stack([turned(name, 0) for name in TRAINED])).movedim(1, 0)
    area = np.cos(np.pi * ((np.arange(HEIGHT) + 0.5) / HEIGHT - 0.5))
    stream = torch.Generator().manual_seed(0)
    rows = torch.multinomial(torch.from_numpy(area), 8000, True, generator=stream)
    columns = torch.randint(values[0, ..., 0].numel(), (8000,), generator=stream)
    some = values.flatten(1, 2)[rows, columns].double().numpy()
    found = torch.from_numpy(kmeans2(some, CLASSES, minit="++", seed=0)[0]).float()
    return found[found[:, :3].sum(dim=1).argsort()]


def labels_of(images: Tensor) -> Tensor:
    """The class of every pixel of panoramas, `[*batch, H, 2H]`."""
    values = described(images)
    return torch.cdist(values.flatten(0, -2), centres()).argmin(dim=1).reshape(values.shape[:-1])


def segmentation(labels: Tensor, size: int = SIDE) -> Tensor:
    """Classes of panoramas `[*batch, H, 2H]` on cube maps, one channel each `[..., 6, K, n, n]`."""
    ones = F.one_hot(labels, CLASSES).movedim(-1, -3).float()
    nearest = equirectangular_to_cube(ones, size).argmax(dim=-3)
    return F.one_hot(nearest, CLASSES).movedim(-1, -3).float()


def cubes(names: tuple[str, ...], n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Upright cube maps of each panorama at n yaws, mirrored every other time, and their fields."""
    yaws = torch.rand(len(names), n, generator=torch.Generator().manual_seed(seed)).tolist()
    images = torch.stack(
        [
            turned(name, yaw, bool(number % 2))
            for name, own in zip(names, yaws, strict=True)
            for number, yaw in enumerate(own)
        ]
    )
    return equirectangular_to_cube(images, SIDE), segmentation(labels_of(images))


def corners(face_size: int, channels: int = 3) -> RegionGraph:
    """The three faces at each of the eight corners +1, pairs of faces -1, faces +1.

    A corner holds U or D, turned to fit, and the two side faces, the left one first: of U it is
    `[C, 3, n, n]`, of D `[C, n, 3, n]`, so that each kind has a Wiener filter of its own.
    """
    n, pairs = face_size, cubemap(face_size, face_size, channels=channels)
    arrays = {str(name): pairs.elements(name).numpy() for name in pairs.names}
    counts = {name: (1 if name in FACES else -1, False) for name in arrays}
    told = {}
    for side in [name for name in arrays if "|" in name]:
        left = side[0]
        for third in "UD":
            fitted = arrays[f"U/{left}"][:, :n] if third == "U" else arrays[f"{left}/D"][:, n:]
            both = arrays[side][..., :n], arrays[side][..., n:]
            arrays[f"{third}, {side}"] = np.stack([fitted, *both], axis=1 if third == "U" else 2)
            counts[f"{third}, {side}"] = 1, True
            told[f"{third}, {side}"] = {"label": torch.tensor("UD".index(third))}
    models = {name: array.shape for name, array in arrays.items()}
    return RegionGraph.grouped(arrays, counts, pairs.event_shape, models=models, conditions=told)


def everything(face_size: int, channels: int = 3) -> RegionGraph:
    """All regions of the three graphs in one, which is valid, too: for training."""
    halves, whole, three = (
        cubemap(face_size, channels=channels),
        cubemap(face_size, face_size, channels=channels),
        corners(face_size, channels),
    )
    arrays: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for weight, graph in ((3, halves), (2, whole), (1, three)):
        for name, count in graph.counting_numbers().items():
            key = str(name) + " whole" * (graph is not halves and len(str(name)) == 3)
            arrays[key] = graph.elements(name).numpy()
            counts[key] = counts.get(key, 0) + weight * count
    faces_and_windows = [
        name for name, array in arrays.items() if array.shape == (channels, face_size, face_size)
    ]
    return RegionGraph.grouped(
        arrays,
        {name: (count, name in faces_and_windows) for name, count in counts.items()},
        halves.event_shape,
        models={name: array.shape for name, array in arrays.items()},
        conditions=three.conditions,
        denominator=6,
    )


class CornerNet(UNet):
    """A U-Net that also sees the three faces at a corner, of both kinds, laid out flat.

    Four quarters meet at the corner: three are the faces, and the fourth is filled from the two
    faces beside it, each continued over the edge that they share.
    """

    def forward(self, x: Tensor, noise: Tensor, **condition: Any) -> Tensor:
        if x.ndim == 4:
            return super().forward(x, noise, **condition)
        flat = {
            word: _laid_out(value) if word in ("residual", "field") else value
            for word, value in condition.items()
            if value is not None
        }
        out, n = super().forward(_laid_out(x), noise, **flat), x.shape[-1]
        axis = axis_of_faces(x)
        top, bottom = out[..., :n, :], out[..., n:, :]
        third, sides = (top, bottom) if axis == 2 else (bottom, top)
        return torch.stack([third[..., :n], sides[..., :n], sides[..., n:]], dim=axis)


def axis_of_faces(corners: Tensor) -> int:
    """The axis of the three faces: of upper corners 2, `[batch, C, 3, n, n]`, of lower ones 3."""
    return 2 if corners.shape[2] == 3 else 3


def _laid_out(faces: Tensor) -> Tensor:
    """The faces around corners as pictures `[batch, C, 2n, 2n]`."""
    axis = axis_of_faces(faces)
    above = axis == 2
    third, left, right = faces.unbind(dim=axis)
    place = torch.arange(third.shape[-1], device=third.device)
    apart = (place[:, None] + place + 1 - len(place)).sign()  # < 0: nearer to the third face
    turn = 1 if above else -1
    beside = torch.stack([right.rot90(turn, (-2, -1)), third.rot90(-turn, (-2, -1))])
    beside = beside if above else beside.flip(-2)
    fill = torch.where(apart < 0, beside[0], torch.where(apart > 0, beside[1], beside.mean(dim=0)))
    rows = (
        torch.cat([third, fill if above else fill.flip(-2)], dim=-1),
        torch.cat([left, right], dim=-1),
    )
    return torch.cat(rows if above else rows[::-1], dim=-2)


@dataclass(frozen=True)
class Model:
    """The model of the pieces of a sphere.

    Attributes:
        weights: the file of its trained weights.
        training: options of `fit`, for `python -m experiments.train`.
    """

    weights: Path
    training: Mapping[str, Any] = field(default_factory=dict)

    def network(self) -> CornerNet:
        size: dict[str, Any] = {"widths": (24, 40, 56), "features": 64}
        return CornerNet(channels=3, **size, field=CLASSES, classes=2, whitened=True)

    def denoiser(self) -> EDMDenoiser:
        return trained(EDMDenoiser(self.network(), 1.0), self.weights)

    def train(self, **options: Any) -> EDMDenoiser:
        """Trains the denoiser; a fifth of all crops has no segmentation."""
        states, fields = cubes(TRAINED, 2 * YAWS, 0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = self.network()
        null: dict[str, Any] = {"null_condition": {"field": torch.zeros(())}}
        null |= {"null_probability": 0.2, "labels": {"field": field_of(fields)}}
        found: EDMDenoiser = fit(everything(SIDE), network, states, wiener=True, **null, **options)
        return found

    def levels(self, steps: int) -> list[float]:
        """The noise levels of a run of some steps."""
        return karras(steps, 0.005, 40.0)


MODEL = Model(
    FOLDER / "weights" / "sphere.safetensors",
    {"steps": 6500, "batch": 16, "lr": 1.5e-3, "p_mean": float(np.log(0.25)), "p_std": 1.7},
)
