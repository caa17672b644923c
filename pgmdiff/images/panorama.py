r"""Cube maps and equirectangular panoramas: each resampled from the other, without seams.

Row i and column j of a panorama of H × 2H pixels look at the centre of their pixel,

    latitude  φ =  π/2 - π (i + ½)/H,        longitude  λ = π (j + ½)/H - π,
    direction (x, y, z) = (cos φ sin λ, -sin φ, cos φ cos λ)

in the axes of `graphs.cube` (x right, y down, z forward): face F is in the middle, R a quarter to
its right, B at both ends, U along the top. Either image is sampled bilinearly between pixel
centres; what lies half a pixel beyond its border is continued from its true neighbours:

- A panorama closes in longitude, and beyond a pole goes on half a turn away.
- A face goes on at distance 1 + h (h = 1/n, half a pixel) along its own grid line b, in local
  coordinates at the point (1 + h, b, 1). On that line's great circle lie the face's own last pixel
  (1 - h, b, 1) and the point (1, (1 - h) b, 1 - h), which is between two pixels of the first column
  of the face beyond. So the value is, with w = h/(2 - h),

      w · last pixel + (1 - w) · the beyond column at (1 - h) b.

  Beyond a corner, (1 + h, 1 + h, 1) lies between the mean of the two other faces' corner pixels,
  of weight 1 - v, and that of the next pixels along their shared edge, of weight
  v = (1 - 2h)/(4 + 4h).

All weights are positive and sum to 1: constants stay, and no value leaves the range of the image.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgmdiff.errors import ShapeError
from pgmdiff.graphs.cube import FRAMES, face_directions
from pgmdiff.linalg import Floats, Ints

__all__ = ["cube_to_equirectangular", "equirectangular_directions", "equirectangular_to_cube"]


QUARTER_TURN = np.array([(0, 1, 0), (-1, 0, 0), (0, 0, 1)])
"""(right, down, normal) to (-down, right, normal): right becomes down."""


def equirectangular_directions(height: int) -> Floats:
    """Unit vectors (x, y, z) of the pixel centres of a panorama: float64 `[H, 2H, 3]`.

    Args:
        height: H, in pixels.

    Raises:
        ShapeError: the height is no positive integer.
    """
    _check_size("equirectangular_directions", "height", height, 1)
    latitude = math.pi / 2 - math.pi * (np.arange(height) + 0.5) / height
    longitude = math.pi * (np.arange(2 * height) + 0.5) / height - math.pi
    phi, lam = np.meshgrid(latitude, longitude, indexing="ij")
    return np.stack([np.cos(phi) * np.sin(lam), -np.sin(phi), np.cos(phi) * np.cos(lam)], axis=-1)


def cube_to_equirectangular(faces: Tensor, height: int) -> Tensor:
    """The panorama that shows a cube map: `[*batch, 6, C, n, n]` to `[*batch, C, H, 2H]`.

    Bilinear between the four nearest pixel centres, across edges and corners of the cube too. For
    smooth images the error is O(1/n²) everywhere; constants are exact, to rounding. Pixels are
    sampled, not averaged: where H is much smaller than 2n fine detail aliases.

    Differentiable and linear in the faces. Half precision is computed in float32.

    Args:
        faces: in the order of `graphs.cube.FACES`, n at least 2.
        height: H, rows of the panorama.

    Raises:
        ShapeError: another shape, a dtype that is not floating point, or a bad height.
    """
    caller = "cube_to_equirectangular"
    n = faces.shape[-1] if faces.ndim >= 4 else 0
    if n < 2 or faces.shape[-2] != n or faces.shape[-4] != 6:
        raise ShapeError(
            f"{caller}: expected faces [*batch, 6, channels, n, n] with n at least 2, got "
            f"{tuple(faces.shape)}. Stack the faces F, B, L, R, U, D on axis -4."
        )
    _check_floating(caller, faces)
    _check_size(caller, "height", height, 1)
    face, rows, columns = _locate(equirectangular_directions(height).reshape(-1, 3), n)
    padded = _padded_faces(_working(faces.movedim(-4, -3)).reshape(-1, 6, n, n))
    pieces = [
        _bilinear(padded[:, f], rows[face == f] + 1, columns[face == f] + 1)
        for f in np.unique(face)
    ]
    order = torch.from_numpy(np.argsort(np.argsort(face, kind="stable")))
    image = torch.cat(pieces, dim=1)[:, order]
    return image.reshape(*faces.shape[:-4], faces.shape[-3], height, 2 * height).to(faces.dtype)


def equirectangular_to_cube(image: Tensor, face_size: int) -> Tensor:
    """The cube map that shows a panorama: `[*batch, C, H, 2H]` to `[*batch, 6, C, n, n]`.

    Bilinear in longitude and latitude, which wrap around and go on beyond the poles. For smooth
    images the error is O(1/H²) everywhere; constants are exact, to rounding. Pixels are sampled,
    not averaged: where n is much smaller than H/2 fine detail aliases.

    Differentiable and linear in the image. Half precision is computed in float32.

    Args:
        image: twice as wide as high.
        face_size: n, at least 2; the faces have the order of `graphs.cube.FACES`.

    Raises:
        ShapeError: another shape, a dtype that is not floating point, or a bad face size.
    """
    caller = "equirectangular_to_cube"
    if image.ndim < 3 or image.shape[-1] != 2 * image.shape[-2] or image.shape[-2] == 0:
        raise ShapeError(
            f"{caller}: expected a panorama [*batch, channels, height, 2 * height], got "
            f"{tuple(image.shape)}. Resize it to twice its height."
        )
    _check_floating(caller, image)
    _check_size(caller, "face_size", face_size, 2)
    height = image.shape[-2]
    x, y, z = np.moveaxis(face_directions(face_size), -1, 0)
    rows = (0.5 + np.arcsin(y) / math.pi) * height - 0.5
    columns = (1 + np.arctan2(x, z) / math.pi) * height - 0.5
    padded = _padded_panorama(_working(image).reshape(-1, height, 2 * height))
    faces = _bilinear(padded, rows.ravel() + 1, columns.ravel() + 1)
    shape = *image.shape[:-2], 6, face_size, face_size
    return faces.reshape(shape).movedim(-3, -4).to(image.dtype)


def _bilinear(planes: Tensor, rows: Floats, columns: Floats) -> Tensor:
    """Samples `[m, h, w]` at points in pixels: `[m, points]`."""
    h, w = planes.shape[-2:]
    grid = np.stack([2 * columns / (w - 1) - 1, 2 * rows / (h - 1) - 1], axis=-1)
    points = torch.from_numpy(grid).to(planes)[None, None]
    return F.grid_sample(planes[None], points, padding_mode="border", align_corners=True)[0, :, 0]


def _padded_panorama(planes: Tensor) -> Tensor:
    """One pixel more on every border of `[m, H, 2H]`."""
    height = planes.shape[-2]
    opposite = planes.roll(height, dims=-1)
    tall = torch.cat([opposite[:, :1], planes, opposite[:, -1:]], dim=-2)
    return torch.cat([tall[..., -1:], tall, tall[..., :1]], dim=-1)


def _padded_faces(faces: Tensor) -> Tensor:
    """One pixel more on every border of `[m, 6, n, n]`."""
    n = faces.shape[-1]
    sources, weights, places = _border(n)
    pixels = faces.flatten(1)
    beyond = (pixels[:, torch.from_numpy(sources)] * torch.from_numpy(weights).to(faces)).sum(-1)
    layout = np.empty((6, n + 2, n + 2), np.int64)
    layout[:, 1:-1, 1:-1] = np.arange(6 * n * n).reshape(6, n, n)
    layout[:, places[:, 0], places[:, 1]] = 6 * n * n + np.arange(6 * len(places)).reshape(6, -1)
    return torch.cat([pixels, beyond.flatten(1)], dim=1)[:, torch.from_numpy(layout)]


def _border(n: int) -> tuple[Ints, Floats, Ints]:
    """What lies half a pixel beyond each face, as weighted sums of four pixels.

    Returns:
        Pixel numbers `[6, p, 4]`, their weights `[p, 4]`, and places `[p, 2]` in the padded face.
    """
    vectors, weights, targets = _right_border(n)
    turns = [np.linalg.matrix_power(QUARTER_TURN, k) for k in range(4)]
    local, points = (np.concatenate([v @ turn for turn in turns]) for v in (vectors, targets))
    face, rows, columns = _locate(np.einsum("pkj,fjx->fpkx", local, FRAMES), n)
    numbers = (face * n + rows.round().astype(np.int64)) * n + columns.round().astype(np.int64)
    places = ((points[:, 1::-1] + 1) * n / 2 + 0.5).round().astype(np.int64)
    return numbers, np.tile(weights, (4, 1)), places


def _right_border(n: int) -> tuple[Floats, Floats, Floats]:
    """The column beyond the right border and its lower corner, in local coordinates.

    Returns:
        Directions of four pixels `[n + 1, 4, 3]`, their weights `[n + 1, 4]`, and the points
        `[n + 1, 3]` that they stand for.
    """
    h, one = 1 / n, np.ones(n)
    b = (2 * np.arange(n) + 1) / n - 1
    place = ((1 - h) * b + 1) * n / 2 - 0.5  # of (1 - h) b among the pixels of the column beyond
    above = np.floor(place).clip(0, n - 2).astype(np.int64)
    own = np.stack([(1 - h) * one, b, one], axis=-1)
    upper, lower = (np.stack([one, b[k], (1 - h) * one], axis=-1) for k in (above, above + 1))
    w, part = h / (2 - h) * one, place - above
    edge = np.stack([own, own, upper, lower], axis=1)
    edge_weights = np.stack([w / 2, w / 2, (1 - w) * (1 - part), (1 - w) * part], axis=1)
    corner = np.array([(1, 1 - h, d) for d in (1 - h, 1 - 3 * h)])
    corners = np.concatenate([corner, corner[:, [1, 0, 2]]])
    v = (1 - 2 * h) / (4 + 4 * h)
    corner_weights = np.array([1 - v, v, 1 - v, v]) / 2
    targets = np.stack([(1 + h) * one, b, one], axis=-1)
    return (
        np.concatenate([edge, corners[None]]),
        np.concatenate([edge_weights, corner_weights[None]]),
        np.concatenate([targets, [[1 + h, 1 + h, 1]]]),
    )


def _locate(directions: Floats, n: int) -> tuple[Ints, Floats, Floats]:
    """The face that a direction `[..., 3]` meets, and its row and column there, in pixels."""
    along = np.einsum("...x,fkx->...fk", directions, FRAMES)
    face = along[..., 2].argmax(axis=-1)
    right, down, normal = np.moveaxis(np.take_along_axis(along, face[..., None, None], -2), -1, 0)
    rows, columns = (((a / normal)[..., 0] + 1) * n / 2 - 0.5 for a in (down, right))
    return face, rows, columns


def _working(image: Tensor) -> Tensor:
    return image if image.dtype == torch.float64 else image.float()


def _check_floating(caller: str, image: Tensor) -> None:
    if not image.dtype.is_floating_point:
        raise ShapeError(
            f"{caller}: expected floating-point pixels, got {image.dtype}. Convert them first."
        )


def _check_size(caller: str, what: str, size: int, least: int) -> None:
    if not isinstance(size, int | np.integer) or size < least:
        raise ShapeError(
            f"{caller}: {what} is {size!r}, expected an integer of at least {least}. "
            "Give a number of pixels."
        )
