"""Panoramas from cube maps, and back."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pgmdiff import ShapeError
from pgmdiff.graphs.cube import FACES, face_directions
from pgmdiff.images.panorama import (
    cube_to_equirectangular,
    equirectangular_directions,
    equirectangular_to_cube,
)

Array = npt.NDArray[np.float64]


def harmonics(d: Array) -> Tensor:
    """Harmonic polynomials of degrees 1 to 3: `[..., 3]` to `[11, ...]`."""
    x, y, z = np.moveaxis(d, -1, 0)
    linear, mixed = [x, y, z], [x * y, y * z, z * x, x * x - y * y, 3 * z * z - 1]
    cubic = [x * y * z, x**3 - 3 * x * z * z, y * (5 * y * y - 3)]
    return torch.from_numpy(np.stack(linear + mixed + cubic))


def cube(n: int) -> Tensor:
    return harmonics(face_directions(n)).movedim(0, 1)


def panorama(height: int) -> Tensor:
    return harmonics(equirectangular_directions(height))


def distance_to_border(height: int, n: int) -> tuple[Array, Array]:
    """Of a panorama's pixels from their face's border, in its pixels: along both axes, sorted."""
    d = np.abs(equirectangular_directions(height))
    across = np.sort(d / d.max(axis=-1, keepdims=True), axis=-1)
    return (1 - across[..., 1]) * n / 2, (1 - across[..., 0]) * n / 2


def errors(n: int) -> dict[str, Tensor]:
    height = 2 * n
    there = cube_to_equirectangular(cube(n), height)
    return {
        "to panorama": there - panorama(height),
        "to cube": equirectangular_to_cube(panorama(height), n) - cube(n),
        "round trip": equirectangular_to_cube(there, n) - cube(n),
    }


def test_errors_are_of_second_order() -> None:
    coarse, fine = errors(24), errors(48)
    for name, error in coarse.items():
        for ratio in (
            error.abs().max() / fine[name].abs().max(),
            error.square().mean().sqrt() / fine[name].square().mean().sqrt(),
        ):
            assert 3.5 < ratio < 4.5, name


@pytest.mark.parametrize("n", [8, 16, 32, 33])
def test_seams_are_no_worse_than_the_inside(n: int) -> None:
    height = 4 * n
    error = (cube_to_equirectangular(cube(n), height) - panorama(height)).abs().amax(dim=0)
    to_border, to_corner = map(torch.from_numpy, distance_to_border(height, n))
    edge, corner = to_border < 0.5, to_corner < 1
    assert edge.sum() > 8 * n
    assert corner.any()
    assert error[edge].max() < error[~edge].max()
    assert error[corner].max() < error[~edge].max()


def test_neighbours_of_another_face_matter() -> None:
    n, height = 16, 64
    without = cube(n).clone()
    without[FACES.index("R")] = 0
    error = (cube_to_equirectangular(without, height) - panorama(height)).abs().amax(dim=0)
    edge = torch.from_numpy(distance_to_border(height, n)[0] < 0.5)
    at_f = slice(height // 2 + height // 4, height + height // 4)  # |λ| < π/4
    assert error[:, at_f][edge[:, at_f]].max() > 0.1, "the border of F continues into R"


@pytest.mark.parametrize("n", [16, 32])
def test_poles_and_the_longitude_seam_are_no_worse_than_the_inside(n: int) -> None:
    height = 2 * n
    error = (equirectangular_to_cube(panorama(height), n) - cube(n)).abs().amax(dim=1)
    x, y, z = np.moveaxis(face_directions(n), -1, 0)
    near_pole = torch.from_numpy(np.arccos(abs(y)) < 2 * np.pi / height)
    at_seam = torch.from_numpy((abs(x) < np.pi / height) & (z < 0))
    assert near_pole.any()
    assert at_seam.any()
    assert error[near_pole].max() <= 1.1 * error[~near_pole].max()
    assert error[at_seam].max() <= 1.1 * error[~at_seam].max()


def turned_right(faces: Tensor) -> Tensor:
    """The cube map of a viewer who has turned to face R."""
    f, b, left, r, u, d = faces.unbind(-4)
    return torch.stack([r, left, f, b, u.rot90(-1, (-2, -1)), d.rot90(1, (-2, -1))], dim=-4)


def test_turning_the_viewer_moves_the_panorama_by_a_quarter() -> None:
    generator = torch.Generator().manual_seed(0)
    faces = torch.randn(6, 2, 6, 6, generator=generator, dtype=torch.float64)
    image = torch.randn(2, 20, 40, generator=generator, dtype=torch.float64)
    before, after = (cube_to_equirectangular(f, 20) for f in (faces, turned_right(faces)))
    assert torch.allclose(after, before.roll(-10, dims=-1))
    after = equirectangular_to_cube(image.roll(-10, dims=-1), 6)
    assert torch.allclose(after, turned_right(equirectangular_to_cube(image, 6)))


def test_the_middle_of_a_panorama_is_the_front() -> None:
    faces = torch.eye(6)[:, :, None, None].expand(6, 6, 8, 8)
    image = cube_to_equirectangular(faces, 16)
    middles = {"F": (8, 16), "R": (8, 24), "L": (8, 8), "B": (8, 0), "U": (0, 5), "D": (15, 5)}
    for face, (row, column) in middles.items():
        assert image[:, row, column].argmax() == FACES.index(face)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [(), (2,), (2, 0), (2, 3)])
def test_batches_and_dtypes(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    faces = torch.rand(*batch, 6, 3, 4, 4, generator=generator).to(dtype)
    image = cube_to_equirectangular(faces, 7)
    back = equirectangular_to_cube(image, 5)
    assert image.shape == (*batch, 3, 7, 14)
    assert back.shape == (*batch, 6, 3, 5, 5)
    assert image.dtype == back.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    for index in np.ndindex(batch):
        alone = cube_to_equirectangular(faces[index], 7)
        assert torch.allclose(image[index], alone, rtol=0, atol=tolerance)
        alone = equirectangular_to_cube(image[index], 5)
        assert torch.allclose(back[index], alone, rtol=0, atol=tolerance)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("height", [1, 2, 9])
def test_constants_stay_and_values_stay_in_range(n: int, height: int) -> None:
    ones = torch.ones(6, 1, n, n, dtype=torch.float64)
    image = cube_to_equirectangular(ones, height)
    assert (image - 1).abs().max() < 1e-15
    assert (equirectangular_to_cube(image, n) - 1).abs().max() < 1e-15
    generator = torch.Generator().manual_seed(0)
    spots = (torch.rand(6, 50, n, n, generator=generator, dtype=torch.float64) < 0.2).double()
    for sampled in (
        cube_to_equirectangular(spots, height),
        equirectangular_to_cube(cube_to_equirectangular(spots, height), n),
    ):
        assert sampled.min() >= 0
        assert sampled.max() <= 1 + 1e-15


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    faces = torch.randn(6, 1, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    image = torch.randn(1, 3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: cube_to_equirectangular(x, 5), faces)
    assert torch.autograd.gradcheck(lambda x: equirectangular_to_cube(x, 3), image)


def test_bad_images_are_named() -> None:
    good = torch.zeros(6, 1, 4, 4)
    for shape in ((6, 4, 4), (5, 1, 4, 4), (6, 1, 4, 5), (6, 1, 1, 1)):
        with pytest.raises(ShapeError, match="cube_to_equirectangular: expected faces"):
            cube_to_equirectangular(torch.zeros(shape), 4)
    for shape in ((4, 8), (1, 4, 4), (1, 0, 0)):
        with pytest.raises(ShapeError, match="equirectangular_to_cube: expected a panorama"):
            equirectangular_to_cube(torch.zeros(shape), 4)
    with pytest.raises(ShapeError, match=r"got torch\.int64"):
        cube_to_equirectangular(good.long(), 4)
    with pytest.raises(ShapeError, match=r"got torch\.uint8"):
        equirectangular_to_cube(torch.zeros(1, 4, 8, dtype=torch.uint8), 4)
    for height in (0, 2.5):
        with pytest.raises(ShapeError, match="height is"):
            cube_to_equirectangular(good, height)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="face_size is 1, expected an integer of at least 2"):
        equirectangular_to_cube(torch.zeros(1, 4, 8), 1)
    with pytest.raises(ShapeError, match="equirectangular_directions: height is 0"):
        equirectangular_directions(0)
