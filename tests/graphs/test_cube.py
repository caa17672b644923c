"""The geometry of cube maps, and graphs on them."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pgmdiff import GraphError, compose
from pgmdiff.graphs import (
    cluster_variation,
    is_alpha_acyclic,
)
from pgmdiff.graphs.cube import (
    FACES,
    FRAMES,
    _edge_arrays,
    _face_arrays,
    cubemap,
    face_directions,
    nested_cubemap,
)

Array = npt.NDArray[np.float64]


SIZES = [2, 3, 4, 5, 8]


def pairs_of(n: int, channels: int | None = None) -> dict[str, npt.NDArray[np.int64]]:
    return _edge_arrays(_face_arrays("cubemap", n, channels))


PAIRS = {"F|R", "R|B", "B|L", "L|F", *(f"U/{s}" for s in "FBLR"), *(f"{s}/D" for s in "FBLR")}


def directions(elements: npt.NDArray[np.int64], n: int) -> Array:
    """Where the pixels of a region without channels look."""
    return face_directions(n).reshape(-1, 3)[elements]


def angles(a: Array, b: Array) -> Array:
    return np.arccos((a * b).sum(axis=-1).clip(-1, 1))


def handedness(seen: Array) -> Array:
    """det[d_right, d_down, d] of every pixel: positive where seen from inside."""
    right, down = seen[:-1, 1:] - seen[:-1, :-1], seen[1:, :-1] - seen[:-1, :-1]
    return np.linalg.det(np.stack([right, down, seen[:-1, :-1]], axis=-1))


def test_faces_are_turned_never_mirrored() -> None:
    assert (np.linalg.det(FRAMES) > 0).all()
    assert (FRAMES @ FRAMES.transpose(0, 2, 1) == np.eye(3)).all()
    assert (FRAMES[1::2, 2] == -FRAMES[::2, 2]).all(), "opposite faces follow each other"
    assert (FRAMES[:4, 1] == (0, 1, 0)).all(), "side faces stand upright"


@pytest.mark.parametrize("n", SIZES)
def test_directions_are_unit_vectors_of_the_right_face(n: int) -> None:
    d = face_directions(n)
    assert d.shape == (6, n, n, 3)
    assert d.dtype == np.float64
    assert np.allclose(np.linalg.norm(d, axis=-1), 1)
    face = np.einsum("fijx,gx->fijg", d, FRAMES[:, 2]).argmax(axis=-1)
    assert (face == np.arange(6)[:, None, None]).all()
    assert all((handedness(side) > 0).all() for side in d)
    sky, ground = d[FACES.index("U")], d[FACES.index("D")]
    assert (sky[-1, :, 2] > 0).all(), "the lower edge of U meets F"
    assert (ground[0, :, 2] > 0).all(), "the upper edge of D meets F"


@pytest.mark.parametrize("n", SIZES)
def test_pairs_are_two_whole_faces_the_side_face_upright(n: int) -> None:
    pairs = pairs_of(n)
    assert set(pairs) == PAIRS
    faces = np.arange(6 * n * n).reshape(6, n, n)
    for name, pair in pairs.items():
        beside = "|" in name
        assert pair.shape == ((n, 2 * n) if beside else (2 * n, n))
        for face, half in zip(name[::2], np.split(pair, 2, axis=int(beside)), strict=True):
            original = faces[FACES.index(face)]
            assert any((half == np.rot90(original, k)).all() for k in range(4))
            assert face in "UD" or (half == original).all()


def test_channels_are_turned_together() -> None:
    n, plane = 4, 16
    flat, deep = pairs_of(n), pairs_of(n, 3)
    for name, pair in flat.items():
        face, pixel = np.divmod(pair, plane)
        for channel in range(3):
            assert (deep[name][channel] == (3 * face + channel) * plane + pixel).all()


@pytest.mark.parametrize("n", [2, 3, 4, 8, 17])
def test_neighbours_across_an_edge_are_neighbours_on_the_sphere(n: int) -> None:
    for name, pair in pairs_of(n).items():
        seen = directions(pair, n)
        assert (handedness(seen) > 0).all(), f"{name} is mirrored"
        across = seen if "|" in name else seen.swapaxes(0, 1)  # the edge is between columns n-1, n
        steps = angles(across[:, 1:], across[:, :-1])
        assert (steps[:, n - 1] <= steps[:, n - 2] + 1e-9).all()
        assert (steps[:, n - 1] <= steps[:, n] + 1e-9).all()
        first, second = across[:, :n], across[:, n:]
        row = np.arange(n)
        for edge, other, column in ((first[:, -1], second, 0), (second[:, 0], first, n - 1)):
            nearest = (edge @ other.reshape(-1, 3).T).argmax(axis=1)
            assert (nearest == row * n + column).all(), name


def test_the_checks_notice_mirrors_and_wrong_turns() -> None:
    n = 8
    pair = pairs_of(n)["U/R"]
    assert (handedness(directions(pair[:, ::-1], n)) < 0).all()
    upside_down = np.concatenate([pair[:n][::-1, ::-1], pair[n:]])
    seen = directions(upside_down, n)
    assert angles(seen[n - 1], seen[n]).max() > 1


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_every_overlap_counts_every_pixel_once(n: int, channels: int | None) -> None:
    c = () if channels is None else (channels,)
    for overlap in range(1, n + 1):
        graph = cubemap(n, overlap, channels=channels)
        assert graph.event_shape == (6, *c, n, n)
        assert graph.validate().valid
        assert is_alpha_acyclic(graph) is False
        whole = overlap == n
        assert sorted(graph.counting_numbers().values()) == (
            [-3] * 6 + [1] * 12 if whole else [-1] * 24 + [1] * 18
        )
        outer = {name for g in graph.groups for name, o in zip(g.names, g.outer, strict=True) if o}
        assert outer == (PAIRS if whole else PAIRS | set(FACES))
        assert all(g.model == g.shape for g in graph.groups)
        assert graph.elements("F|R").shape == (*c, n, 2 * overlap)
        assert graph.elements("U/B").shape == (*c, 2 * overlap, n)


@pytest.mark.parametrize(("n", "overlap"), [(n, o) for n in (2, 3, 4) for o in range(1, n + 1)])
def test_counts_are_those_of_cluster_variation(n: int, overlap: int) -> None:
    graph = cubemap(n, overlap)
    sets = {name: frozenset(graph.elements(name).flatten().tolist()) for name in graph.names}
    counts = {sets[name]: count for name, count in graph.counting_numbers().items()}
    assert len(counts) == graph.n_regions
    scopes = [sorted(sets[name]) for name in [*FACES, *PAIRS]]
    assert cluster_variation(scopes).counting_numbers() == counts


def test_windows_are_the_middle_of_the_pairs_and_names_are_slices() -> None:
    n, overlap = 8, 3
    state = torch.arange(6 * 2 * n * n).reshape(6, 2, n, n)
    graph, pairs = cubemap(n, overlap, channels=2), pairs_of(n, 2)
    for name in PAIRS:
        pair = torch.from_numpy(pairs[name].copy())
        middle = pair[..., 5:11] if "|" in name else pair[..., 5:11, :]
        assert torch.equal(graph.elements(name), middle)
    for name in set(graph.names) - PAIRS:
        face = state[FACES.index(name[0])]
        rows, columns = (
            [slice(*map(int, part.split(":"))) for part in name[2:-1].split(", ")]
            if "[" in name
            else (slice(None), slice(None))
        )
        assert torch.equal(graph.elements(name), face[:, rows, columns])


def test_half_face_windows_are_seen_by_the_model_of_faces() -> None:
    graph = cubemap(8, channels=3)
    assert [g.shape for g in graph.groups] == [(3, 8, 8), (3, 4, 8), (3, 8, 4)]
    assert [len(g) for g in graph.groups] == [18, 12, 12]
    assert cubemap(8).counting_numbers() == cubemap(8, 4).counting_numbers()


@pytest.mark.parametrize(("n", "overlap"), [(4, None), (4, 1), (4, 3), (4, 4), (5, 2)])
def test_scores_compose(n: int, overlap: int | None) -> None:
    graph = cubemap(n, overlap, channels=2)
    u = torch.randn(3, *graph.event_shape, generator=torch.Generator().manual_seed(0))
    joint = compose(graph, lambda x, sigma: -x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2))
    assert torch.allclose(joint(u, 2.0), -u / 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), "face_size is 1, expected an integer of at least 2"),
        ((4.0,), r"face_size is 4\.0"),
        ((5,), "Use a size of 4 or 6, or give overlap="),
        ((4, 0), "the overlap is 0, expected an integer from 1 to 4"),
        ((4, 5), "the overlap is 5"),
        ((4, 1.5), r"the overlap is 1\.5"),
        ((4, 2, 0), "channels is 0, expected an integer of at least 1"),
        ((4, 2, "3"), "channels is '3'"),
    ],
)
def test_bad_cubes_are_named(arguments: tuple, message: str) -> None:
    n, overlap, channels = (*arguments, None, None)[:3]
    with pytest.raises(GraphError, match=f"cubemap: .*{message}"):
        cubemap(n, overlap, channels=channels)


def test_bad_nested_cubes_are_named() -> None:
    with pytest.raises(GraphError, match="nested_cubemap: channels is 0, expected an integer"):
        nested_cubemap(4, channels=0)


def test_directions_need_a_size() -> None:
    with pytest.raises(GraphError, match="face_directions: face_size is 0"):
        face_directions(0)


@pytest.mark.parametrize("channels", [None, 3])
def test_the_papers_nested_cube_is_the_one_of_whole_faces(channels: int | None) -> None:
    nested, flat = nested_cubemap(4, channels=channels), cubemap(4, 4, channels=channels)
    leaves = nested.flatten()
    assert leaves.counting_numbers() == flat.counting_numbers()
    for name in flat.names:
        assert torch.equal(leaves.elements(name), flat.elements(name))
    assert {g.model for g in leaves.groups} == {g.model for g in flat.groups}
    assert nested.validate().valid
    loop = nested.nested["LFRB"]
    assert loop.event_shape[0] == 4
    assert sorted(loop.counting_numbers().values()) == [-1] * 4 + [1] * 4
    assert loop.validate().valid
    assert nested.nested["UD"].counting_numbers() == {"U": 1, "D": 1}
    outer = nested.flatten(keep=nested.nested)
    assert outer.counting_numbers() == nested.counting_numbers()
