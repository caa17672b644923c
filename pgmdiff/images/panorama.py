r"""Cube maps and equirectangular panoramas, each resampled from the other without seams.

The pixel in row i and column j of a panorama of H × 2H pixels looks in the direction of its centre,

    latitude  φ =  π/2 - π (i + ½)/H,        longitude  λ = π (j + ½)/H - π,
    direction (x, y, z) = (cos φ sin λ, -sin φ, cos φ cos λ)

in the axes of `graphs.cube` (x right, y down, z forward): face F is in the middle, R a quarter turn
to its right, B at both ends, U along the top. Both images are sampled bilinearly between pixel
centres, and continued half a pixel beyond their borders from the true neighbours:

- A panorama is periodic in longitude, and continues beyond a pole half a turn away.
- A face continues at distance 1 + h (h = 1/n, half a pixel) along its own grid line b, in local
  coordinates at the point (1 + h, b, 1). The great circle of that line contains the last pixel of
  the face, (1 - h, b, 1), and the point (1, (1 - h) b, 1 - h), which lies between two pixels of the
  first column of the adjacent face. With w = h/(2 - h) the value is therefore

      w · last pixel + (1 - w) · adjacent column at (1 - h) b.

  Beyond a corner, (1 + h, 1 + h, 1) lies between the mean of the corner pixels of the two other
  faces, with weight 1 - v, and that of the next pixels along their shared edge, with weight
  v = (1 - 2h)/(4 + 4h).

All weights are positive and sum to 1, so that constants are kept and no value leaves the range of
the image.
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
    """The unit vectors (x, y, z) of the pixel centres of a panorama, float64 `[H, 2H, 3]`.

    Args:
        height: H, in pixels.

    Raises:
        ShapeError: the height is not a positive integer.
    """
    _check_size("equirectangular_directions", "height", height, 1)
    latitude = math.pi / 2 - math.pi * (np.arange(height) + 0.5) / height
    longitude = math.pi * (np.arange(2 * height) + 0.5) / height - math.pi
    phi, lam = np.meshgrid(latitude, longitude, indexing="ij")
    return np.stack([np.cos(phi) * np.sin(lam), -np.sin(phi), np.cos(phi) * np.cos(lam)], axis=-1)


def cube_to_equirectangular(faces: Tensor, height: int) -> Tensor:
    """The panorama that shows a cube map.

    It interpolates bilinearly between the four nearest pixel centres, also across edges and corners
    of the cube. The error is O(1/n²) everywhere for smooth images; constants are exact, to
    rounding. Pixels are sampled, not averaged: if H is much smaller than 2n, fine detail aliases.
    The result is differentiable and linear in the faces. Half precision is computed in float32.

    Args:
        faces: the cube map, `[*batch, 6, C, n, n]`, in the order of `graphs.cube.FACES`; n at
            least 2.
        height: H, the number of rows of the panorama.

    Returns:
        The panorama, `[*batch, C, H, 2H]`.

    Raises:
        ShapeError: the faces have another shape or no floating-point dtype, or the height is bad.
    """
    caller = "cube_to_equirectangular"
    n = faces.shape[-1] if faces.ndim >= 4 else 0
    if n < 2 or faces.shape[-2] != n or faces.shape[-4] != 6:
        raise ShapeError(
            f"{caller}: expected faces [*batch, 6, channels, n, n] with n at least 2, got "
            f"{tuple(faces.shape)}. Stack the faces F, B, L, R, U, D on axis -4."
        )
    working = _working(caller, faces)
    _check_size(caller, "height", height, 1)
    face, rows, columns = _locate(equirectangular_directions(height).reshape(-1, 3), n)
    padded = _padded_faces(working.movedim(-4, -3).reshape(-1, 6, n, n))
    pieces = [
        _bilinear(padded[:, f], rows[face == f] + 1, columns[face == f] + 1)
        for f in np.unique(face)
    ]
    order = torch.from_numpy(np.argsort(np.argsort(face, kind="stable")))
    image = torch.cat(pieces, dim=1)[:, order]
    return image.reshape(*faces.shape[:-4], faces.shape[-3], height, 2 * height).to(faces.dtype)


def equirectangular_to_cube(image: Tensor, face_size: int) -> Tensor:
    """The cube map that shows a panorama.

    It interpolates bilinearly in longitude and latitude, which wrap around and continue beyond the
    poles. The error is O(1/H²) everywhere for smooth images; constants are exact, to rounding.
    Pixels are sampled, not averaged: if n is much smaller than H/2, fine detail aliases. The result
    is differentiable and linear in the image. Half precision is computed in float32.

    Args:
        image: the panorama, `[*batch, C, H, 2H]`.
        face_size: n, at least 2.

    Returns:
        The cube map, `[*batch, 6, C, n, n]`, in the order of `graphs.cube.FACES`.

    Raises:
        ShapeError: the image has another shape or no floating-point dtype, or the face size is bad.
    """
    caller = "equirectangular_to_cube"
    if image.ndim < 3 or image.shape[-1] != 2 * image.shape[-2] or image.shape[-2] == 0:
        raise ShapeError(
            f"{caller}: expected a panorama [*batch, channels, height, 2 * height], got "
            f"{tuple(image.shape)}. Resize it to twice its height."
        )
    working = _working(caller, image)
    _check_size(caller, "face_size", face_size, 2)
    height = image.shape[-2]
    x, y, z = np.moveaxis(face_directions(face_size), -1, 0)
    rows = (0.5 + np.arcsin(y) / math.pi) * height - 0.5
    columns = (1 + np.arctan2(x, z) / math.pi) * height - 0.5
    planes = working.reshape(-1, height, 2 * height)
    opposite = planes.roll(height, dims=-1)  # beyond the poles
    tall = torch.cat([opposite[:, :1], planes, opposite[:, -1:]], dim=-2)
    padded = torch.cat([tall[..., -1:], tall, tall[..., :1]], dim=-1)
    faces = _bilinear(padded, rows.ravel() + 1, columns.ravel() + 1)
    shape = *image.shape[:-2], 6, face_size, face_size
    return faces.reshape(shape).movedim(-3, -4).to(image.dtype)


def _bilinear(planes: Tensor, rows: Floats, columns: Floats) -> Tensor:
    """The values of planes `[m, h, w]` at points given in pixels, `[m, points]`."""
    h, w = planes.shape[-2:]
    grid = np.stack([2 * columns / (w - 1) - 1, 2 * rows / (h - 1) - 1], axis=-1)
    points = torch.from_numpy(grid).to(planes)[None, None]
    return F.grid_sample(planes[None], points, padding_mode="border", align_corners=True)[0, :, 0]


def _padded_faces(faces: Tensor) -> Tensor:
    """The faces `[m, 6, n, n]` with one more pixel, a sum of four of others, on every border."""
    n = faces.shape[-1]
    vectors, weights, targets = _right_border(n)
    turns = [np.linalg.matrix_power(QUARTER_TURN, k) for k in range(4)]
    local, points = (np.concatenate([v @ turn for turn in turns]) for v in (vectors, targets))
    face, rows, columns = _locate(np.einsum("pkj,fjx->fpkx", local, FRAMES), n)
    sources = (face * n + rows.round().astype(np.int64)) * n + columns.round().astype(np.int64)
    places = ((points[:, 1::-1] + 1) * n / 2 + 0.5).round().astype(np.int64)
    pixels, factors = faces.flatten(1), torch.from_numpy(np.tile(weights, (4, 1))).to(faces)
    beyond = (pixels[:, torch.from_numpy(sources)] * factors).sum(-1)
    layout = np.empty((6, n + 2, n + 2), np.int64)
    layout[:, 1:-1, 1:-1] = np.arange(6 * n * n).reshape(6, n, n)
    layout[:, places[:, 0], places[:, 1]] = 6 * n * n + np.arange(6 * len(places)).reshape(6, -1)
    return torch.cat([pixels, beyond.flatten(1)], dim=1)[:, torch.from_numpy(layout)]


def _right_border(n: int) -> tuple[Floats, Floats, Floats]:
    """The column beyond the right border and its lower corner, in local coordinates.

    The directions of four pixels per point are `[n + 1, 4, 3]`, their weights `[n + 1, 4]`, and the
    points `[n + 1, 3]`.
    """
    h, one = 1 / n, np.ones(n)
    b = (2 * np.arange(n) + 1) / n - 1
    place = ((1 - h) * b + 1) * n / 2 - 0.5  # of (1 - h) b in the adjacent column
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


def _working(caller: str, image: Tensor) -> Tensor:
    """An image in the dtype of the computation: float64 if it has that, else float32."""
    if not image.dtype.is_floating_point:
        raise ShapeError(
            f"{caller}: expected floating-point pixels, got {image.dtype}. Convert them first."
        )
    return image if image.dtype == torch.float64 else image.float()


def _check_size(caller: str, what: str, size: int, least: int) -> None:
    if not isinstance(size, int | np.integer) or size < least:
        raise ShapeError(
            f"{caller}: {what} is {size!r}, expected an integer of at least {least}. "
            "Give a number of pixels."
        )
