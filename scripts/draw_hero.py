"""Draws one model of patches, and what is composed from it on four graphs.

    python -m scripts.draw_hero

These are docs/images/hero.png, and its ring, torus and cube alone, for the gallery. The bundled
model of tissue samples them, by the demo's settings, in about a minute. The ground is transparent
and the lettering grey, so that the picture suits light and dark pages. Nothing is chosen: the seed
is 0.
"""

import numpy as np
import torch
from matplotlib.image import imsave
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor

from pgmdiff import RegionGraph, compose, from_denoiser, tiles
from pgmdiff.demo import MAX_BATCH, OVERLAP, SIGMA_MAX, SIGMA_MIN, STEPS, WINDOW
from pgmdiff.graphs import cubemap
from pgmdiff.graphs.cube import FRAMES
from pgmdiff.models.tissue import tissue_denoiser
from pgmdiff.plotting import ring_image
from pgmdiff.plotting.style import Sheet, picture
from pgmdiff.samplers import DPMSolver2M, karras, sample
from scripts.pictures import IMAGES, run

Floats = NDArray[np.float64]
GREY, SCALE, FINE = "#808a94", 230, 2
"""The lettering; pixels per unit of a surface, and how many rays cross one on each axis."""
VIEW = np.deg2rad(35.0)
"""How far from above a surface is seen."""


def windows(height: int, width: int, *, closed: tuple[bool, bool] = (False, False)) -> RegionGraph:
    """The demo's windows of an image, on open and closed axes."""
    sizes = (3, height, width), (3, WINDOW, WINDOW), (0, OVERLAP, OVERLAP)
    return tiles(*sizes, periodic=(False, *closed))


def drawn(graph: RegionGraph) -> Tensor:
    """One sample of the bundled model on a graph, with the demo's solver and levels."""
    denoiser, levels = tissue_denoiser(), karras(STEPS, SIGMA_MIN, SIGMA_MAX)
    joint = compose(graph, from_denoiser(denoiser), max_batch=MAX_BATCH)
    shape, solver = (1, *graph.event_shape), DPMSolver2M(eta=1.0)
    return sample(joint, levels, shape=shape, mean=denoiser.mean, solver=solver, generator=0)[0]


def rays(half_width: float, half_height: float, turn: float) -> tuple[Floats, Floats]:
    """Points of a screen `[h, w, 3]`, and the way into it, for axes x right, y down, z forward."""
    columns = np.arange(-half_width, half_width, 1 / (SCALE * FINE))
    rows = np.arange(-half_height, half_height, 1 / (SCALE * FINE))
    cos, sin = np.cos(VIEW), np.sin(VIEW)
    about = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    right, down, ahead = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ about
    return columns[:, None] * right + rows[:, None, None] * down - 4 * ahead, ahead


def shown(colours: Floats, normals: Floats, hit: NDArray[np.bool_]) -> Floats:
    """Colours `[h, w, 3]` in [-1, 1], lit from the upper left, and clear where nothing is hit."""
    light = np.array([-0.5, -0.8, -0.6]) / np.linalg.norm([0.5, 0.8, 0.6])
    bright = 0.62 + 0.42 * np.clip(normals @ light, 0, 1)
    lit = np.clip((colours + 1) / 2 * bright[..., None], 0, 1)
    image = np.concatenate([lit * hit[..., None], hit[..., None]], axis=-1)
    h, w = (side - side % FINE for side in hit.shape)
    image = image[:h, :w].reshape(h // FINE, FINE, w // FINE, FINE, 4).mean(axis=(1, 3))
    clear: Floats = image[..., :3] / np.maximum(image[..., 3:], 1e-9)
    return np.concatenate([clear, image[..., 3:]], axis=-1)


def torus(texture: Tensor) -> Floats:
    """A ring of tube 1/3 whose texture `[3, H, W]` is closed along the tube and around it."""
    points, ahead = rays(1.36, 1.02, 0.0)

    def distance(at: Floats) -> tuple[Floats, Floats]:
        across = np.hypot(at[..., 0], at[..., 2])
        return np.hypot(across - 1, at[..., 1]) - 1 / 3, across

    for _ in range(80):
        points = points + distance(points)[0][..., None].clip(max=1) * ahead
    left, across = distance(points)
    around = np.arctan2(points[..., 2], points[..., 0]) / (2 * np.pi)
    along = np.arctan2(points[..., 1], across - 1) / (2 * np.pi)
    height, width = texture.shape[1:]
    places = [along * height, around * width]
    colours = [map_coordinates(c, places, order=1, mode="grid-wrap") for c in texture.numpy()]
    centres = points * np.array([1, 0, 1]) / np.maximum(across, 1e-9)[..., None]
    return shown(np.stack(colours, axis=-1), 3 * (points - centres), left < 1e-3)


def cube(faces: Tensor) -> Floats:
    """A cube map `[6, 3, n, n]`, seen from above an edge."""
    origin, ahead = rays(1.45, 1.65, np.pi / 4)
    n, image, normals = faces.shape[-1], np.zeros(origin.shape), np.zeros(origin.shape)
    hit = np.zeros(origin.shape[:2], bool)
    for face, (right, down, normal) in zip(faces.double().numpy(), FRAMES, strict=True):
        if normal @ ahead >= 0:  # it looks away
            continue
        at = origin + ((1 - origin @ normal) / (ahead @ normal))[..., None] * ahead
        a, b = at @ right, at @ down
        on = (np.abs(a) <= 1) & (np.abs(b) <= 1)
        places = [((b + 1) * n - 1) / 2, ((a + 1) * n - 1) / 2]
        colours = [map_coordinates(c, places, order=1, mode="nearest") for c in face]
        image[on], normals[on] = np.stack(colours, axis=-1)[on], normal
        hit |= on
    return shown(image, normals, hit)


def hero() -> None:
    strip = drawn(windows(64, 384))
    ring = ring_image(drawn(windows(48, 384, closed=(False, True))), scale=5, ground=9.0)
    around = np.asarray(picture(ring))
    around = np.concatenate([around, (ring[:1] < 5).movedim(0, -1).double().numpy()], axis=-1)
    solid = torus(drawn(windows(96, 288, closed=(True, True))).double())
    box = cube(drawn(cubemap(WINDOW, channels=3)))
    patch = drawn(windows(WINDOW, WINDOW))
    for name, image in {"ring": around, "torus": solid, "cube": box}.items():
        imsave(IMAGES / f"gallery_{name}.png", image[::2, ::2].clip(0, 1))

    figure = Sheet(figsize=(8.0, 3.9))
    unit = 1 / 13.6  # the side of a patch, of the picture's width
    tall = unit * 8.0 / 3.9  # of its height

    def place(image: Floats, x: float, y: float, w: float, h: float, text: str) -> None:
        axes = figure.add_axes((x, y, w, h))
        axes.imshow(image, interpolation="antialiased")
        axes.axis("off")
        figure.text(x + w / 2, y - 0.015, text, ha="center", va="top", size=9, color=GREY)

    top = 0.98 - 2 * tall
    place(picture(patch), 0.003, top + tall / 2, unit, tall, "a patch,\n32 × 32")
    place(picture(strip), 1 - 12 * unit, top, 12 * unit, 2 * tall, "a strip, 64 × 384")
    arrow = {"arrowstyle": "-|>", "color": GREY, "lw": 1.5, "shrinkA": 4, "shrinkB": 4}
    figure.add_axes((0, 0, 1, 1)).axis("off")
    middle, begin, end = top + tall, unit + 0.003, 1 - 12 * unit
    figure.axes[-1].annotate(
        "", (end, middle), (begin, middle), "figure fraction", arrowprops=arrow
    )
    for x, w, image, text in (
        (0.04, 0.26, around, "a ring, 48 × 384"),
        (0.34, 0.34, solid, "a torus, 96 × 288"),
        (0.72, 0.24, box, "a cube, 6 × 32 × 32"),
    ):
        place(image, x, 0.085, w, 0.5, text)
    figure.savefig(IMAGES / "hero.png", dpi=200, transparent=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    run({"hero": hero}, __doc__)
