"""Pyramids: the basis of coarse and detail coefficients, regions and counts."""

import re
from collections import Counter

import pytest
import torch

from pgmdiff import PgmdiffError, ShapeError
from pgmdiff.graphs import Pyramid, pyramid
from pgmdiff.testing.oracles import counts_by_elements, inclusion_exclusion, outer_sets

ONE = ((16,), 2, 1, 4, 2)
TWO = ((24,), 2, 2, 8, 4)
THREE = ((64,), 2, 3, 8, 0)
FLAT = ((8, 12), (2, 3), 1, (4, 6), (2, 3))
COLOUR = ((3, 8, 8), (1, 2, 2), 1, (3, 4, 4), (0, 2, 2))
NESTED = ((12, 12), (2, 1), 2, (4, 12), 0)
ALL = (ONE, TWO, THREE, FLAT, COLOUR, NESTED)


def basis(p: Pyramid) -> torch.Tensor:
    """B, one coefficient per row."""
    n = p.graph.n_elements
    units = torch.eye(n, dtype=torch.float64).reshape(n, *p.graph.event_shape)
    return p.to_coefficients(units).reshape(n, n).T


def means_of(p: Pyramid, level: int, name: str) -> torch.Tensor:
    """Which elements the means of a region are of, normalised: `[means, N]`."""
    shape = p.graph.event_shape
    sides = [t**level for t in p.tile]
    spans = [tuple(map(int, part.split(":"))) for part in name.strip("[]").split(", ")]
    ranges = [range(a, b) for a, b in spans]
    rows = []
    for place in torch.cartesian_prod(*(torch.tensor(r) for r in ranges)).reshape(-1, len(shape)):
        row = torch.zeros(shape, dtype=torch.float64)
        for axis, (at, side, size) in enumerate(zip(place.tolist(), sides, shape, strict=True)):
            inside = torch.zeros(size, dtype=torch.float64)
            inside[at * side : (at + 1) * side] = side**-0.5
            view = [1] * len(shape)
            view[axis] = size
            row = (row if axis else row + 1) * inside.reshape(view)
        rows.append(row.reshape(-1))
    return torch.stack(rows)


@pytest.mark.parametrize("arguments", ALL)
def test_the_basis_is_orthonormal_and_its_coarse_coefficients_are_scaled_means(arguments) -> None:
    p = pyramid(*arguments)
    b = basis(p)
    assert (b @ b.T - torch.eye(len(b))).abs().max() < 1e-13
    x = torch.randn(5, *p.graph.event_shape, generator=torch.Generator().manual_seed(0)).double()
    z = p.to_coefficients(x)
    assert torch.allclose(p.to_pixels(z), x, atol=1e-13)
    for level in range(1, p.levels + 1):
        coarse = p.to_pixels(z[(..., *(slice(None, None, t**level) for t in p.tile))], level)
        assert torch.allclose(coarse, p.scales[level] * p.means(x, level), atol=1e-13)
        again = p.to_coefficients(coarse, level)
        assert torch.allclose(again, z[(..., *(slice(None, None, t**level) for t in p.tile))])
    first, size = p.means(x, 1), p.tile[0]
    expected = x.unfold(1, size, size).mean(-1)
    for axis, t in enumerate(p.tile[1:], 2):
        expected = expected.unfold(axis, t, t).mean(-1)
    assert torch.allclose(first, expected)


@pytest.mark.parametrize("arguments", ALL)
def test_regions_span_the_means_of_their_windows(arguments) -> None:
    p = pyramid(*arguments)
    b = basis(p)
    assert {level for level, _ in p.graph.names} == set(range(p.levels + 1))
    for level, name in p.graph.names:
        elements = p.graph.elements((level, name))
        rows, means = b[elements.reshape(-1)], means_of(p, level, name)
        assert len(rows) == len(means)
        assert (means - means @ rows.T @ rows).abs().max() < 1e-13
        # In the order that the level's model sees.
        there = p.to_pixels(torch.eye(len(rows)).double().reshape(-1, *elements.shape), level)
        assert torch.allclose(there.reshape(len(rows), -1), rows @ means.T, atol=1e-13)


@pytest.mark.parametrize("arguments", [ONE, TWO, FLAT, COLOUR, NESTED])
def test_counts_are_those_of_inclusion_and_exclusion(arguments) -> None:
    p = pyramid(*arguments)
    assert p.graph.validate().valid
    assert counts_by_elements(p.graph) == inclusion_exclusion(outer_sets(p.graph))
    assert len(p.graph.names) == len(counts_by_elements(p.graph))


def test_one_level_counts_windows_coarse_and_their_intersections() -> None:
    counts = pyramid((128,), 8, 1, 16, 8).graph.counting_numbers()
    assert Counter((name[0], count) for name, count in counts.items()) == {
        (0, 1): 15, (0, -1): 14, (1, 1): 1 + 14, (1, -1): 15,
    }  # fmt: skip
    assert counts[1, "[0:16]"] == 1
    assert (counts[0, "[8:24]"], counts[1, "[1:3]"]) == (1, -1)
    assert (counts[0, "[8:16]"], counts[1, "[1:2]"]) == (-1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_basis_keeps_dtypes_and_derivatives(dtype: torch.dtype) -> None:
    p = pyramid(*TWO)
    x = torch.randn(2, 3, 24).to(dtype)
    z = p.to_coefficients(x)
    assert (z.dtype, z.shape) == (dtype, x.shape)
    assert torch.allclose(p.to_pixels(z), x, atol=8 * torch.finfo(dtype).eps * x.abs().max())
    wide, weight = x.double().requires_grad_(), torch.randn(2, 3, 24).double()
    for there, back in ((p.to_coefficients, p.to_pixels), (p.to_pixels, p.to_coefficients)):
        (gradient,) = torch.autograd.grad((there(wide) * weight).sum(), wide)
        assert torch.allclose(gradient, back(weight))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((128,), 8, 1, 20, 8), "on axis 0 the window is 20, expected a multiple of 8: windows "
                                "start and end on the edges of tiles of 8, 1 times nested. Use 16 "
                                "or 24"),
        (((128,), 4, 2, 16, 8), "the overlap is 8, expected a multiple of 16: windows start and "
                                "end on the edges of tiles of 4, 2 times nested. Use 16."),
        (((100,), 8, 1, 16, 8), "the size is 100, expected a multiple of 8"),
        (((128,), 2, 1, 128), "the windows of level 1 lie inside those of level 0, so that it adds "
                              "nothing"),
        (((32,), 2, 2, 16, 8), "the windows of level 2 lie inside those of level 1, so that it "
                               "adds nothing. Use fewer levels"),
        (((4, 8), (2, 1), 2, (4, 4)), "level 1 lie inside"),
        (((80,), 2, 2, 24, 8), "on axis 0 windows of 24 with stride 16 do not fit"),
        (((128,), 8, 1, 32, 32), "on axis 0 the overlap is 32"),
        (((128,), 1, 1, 16), "tiles of several elements, got 1"),
        (((8, 8), (2, 2, 2), 1, 4), "tile as int"),
        ((128, 8, 1, 16), "expected shape as Sequence[int]"),
    ],
)  # fmt: skip
def test_bad_pyramids_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(PgmdiffError, match=f"^(pyramid|tiles): .*{re.escape(message)}"):
        pyramid(*arguments)


def test_tensors_that_are_not_of_whole_tiles_are_refused() -> None:
    p = pyramid(*FLAT)
    for x in (torch.zeros(2, 8, 11), torch.zeros(12)):
        for function in (p.to_coefficients, p.to_pixels, lambda x: p.means(x, 1)):
            with pytest.raises(ShapeError, match=r"2 axes of whole tiles of \(2, 3\), got"):
                function(x)
