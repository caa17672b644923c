"""Stick figures of the robot: as text in a JSON, as a strip of poses, and as a GIF."""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from experiments.clips import Skeleton
from pgmdiff.linalg import Floats

__all__ = ["animate", "decoded", "encoded", "poses"]

LEGS = [f"{s}_{j}" for s in ("left", "right") for j in ("hip_yaw", "knee", "ankle_roll")]
ARMS = [f"{s}_{j}" for s in ("left", "right") for j in ("shoulder_roll", "elbow", "wrist_yaw")]
BODIES = [*LEGS, "waist_pitch", *ARMS]
"""After the pelvis: those bodies that are drawn, named by the joints that carry them."""
LEFT, RIGHT, TRUNK = "#2f7fbd", "#dd7a1f", "#2b2b2b"
LINES: Sequence[tuple[tuple[int, ...], str]] = (
    ((0, 4, 5, 6), RIGHT), ((7, 11, 12, 13), RIGHT), ((0, 7, 14), TRUNK),
    ((0, 1, 2, 3), LEFT), ((7, 8, 9, 10), LEFT),
)  # fmt: skip
"""Points that lines join; point 14 is the head, above the shoulders 8 and 11."""
SLANT, AZIMUTH = math.radians(12), math.radians(60)
METRE, PANEL, TOP, FONT = 74, (124, 150), 30, 11


def encoded(skeleton: Skeleton, places: Tensor) -> str:
    """Places `[frames, bodies, 3]` of the bodies that are drawn, in millimetres, in base64."""
    chosen = [0, *(skeleton.names.index(f"{name}_joint") + 1 for name in BODIES)]
    values = (1000 * places[:, chosen]).round().clamp(-32768, 32767)
    return base64.b64encode(values.numpy().astype("<i2").tobytes()).decode()


def decoded(text: str) -> Floats:
    """Points `[frames, 15, 3]` in metres: those encoded, and a head."""
    points = np.frombuffer(base64.b64decode(text), "<i2").reshape(-1, len(BODIES) + 1, 3) / 1000
    shoulders = (points[:, 8] + points[:, 11]) / 2
    up = shoulders - points[:, 7]
    head = shoulders + 0.22 * up / np.linalg.norm(up, axis=1, keepdims=True).clip(1e-6)
    return np.concatenate([points, head[:, None]], axis=1)


def _seen(points: Floats) -> Floats:
    """Points as an oblique view from above shows them: to the right, and up."""
    x, y, z = np.moveaxis(points, -1, 0)
    across = x * math.sin(AZIMUTH) - y * math.cos(AZIMUTH)
    away = x * math.cos(AZIMUTH) + y * math.sin(AZIMUTH)
    return np.stack([across, z * math.cos(SLANT) + away * math.sin(SLANT)], axis=-1)


def poses(ax: Axes, text: str, every: int = 4, apart: float = 0.55) -> None:
    """Draws every so many poses beside each other, each where its number says."""
    for number, points in enumerate(decoded(text)[::every]):
        flat = _seen(points - points[0] * [1, 1, 0])
        for line, colour in LINES:
            across, up = flat[list(line)].T
            ax.plot(across + apart * number, up, color=colour, lw=0.9, solid_capstyle="round")
        ax.plot(*(flat[14] + [apart * number, 0]), "o", color=TRUNK, ms=2.4)
    ax.set_aspect("equal")
    ax.set_axis_off()


def animate(motions: Mapping[str, str], path: Path, *, seconds: float = 0.08) -> None:
    """Writes a GIF of motions side by side, with captions; each is followed over a grid of dots.

    Args:
        motions: caption to encoded motion, all of one length.
        path: the file.
        seconds: per frame.
    """
    points = {name: decoded(text) for name, text in motions.items()}
    frames = min(map(len, points.values()))
    size = PANEL[0] * len(points), PANEL[1] + TOP
    font, pages = ImageFont.load_default(FONT), []
    grid = np.mgrid[-40:41, -40:41].reshape(2, -1).T * 0.4
    for frame in range(frames):
        page = Image.new("RGB", size, "white")
        ink = ImageDraw.Draw(page)
        for panel, (name, own) in enumerate(points.items()):
            centre = own[max(0, frame - 3) : frame + 4, 0].mean(axis=0) * [1, 1, 0]
            middle = np.array([PANEL[0] * (panel + 0.5), PANEL[1] + TOP - 26])

            def shown(x: Floats, centre: Floats = centre, middle: Floats = middle) -> Floats:
                return middle + METRE * _seen(x - centre) * [1, -1]

            near = grid[np.abs(grid - centre[:2]).max(axis=1) < 1.2]
            for x, y in shown(np.pad(near, ((0, 0), (0, 1)))):
                if abs(x - middle[0]) < PANEL[0] / 2 - 3 and TOP < y < size[1] - 2:
                    ink.rectangle([x - 0.5, y - 0.5, x + 0.5, y + 0.5], fill="#b9bdc2")
            flat = shown(own[frame])
            for line, colour in LINES:
                ink.line([tuple(flat[k]) for k in line], fill=colour, width=3, joint="curve")
            x, y = flat[14]
            ink.ellipse([x - 6, y - 6, x + 6, y + 6], fill=TRUNK)
            caption = name.replace(", ", ",\n")
            style: dict[str, Any] = {"fill": TRUNK, "font": font, "anchor": "ma", "align": "center"}
            ink.multiline_text((middle[0], 2), caption, spacing=1, **style)
        pages.append(page.quantize(8, dither=Image.Dither.NONE))
    times = round(1000 * seconds)
    pages[0].save(
        path, save_all=True, append_images=pages[1:], duration=times, loop=0, optimize=True
    )
