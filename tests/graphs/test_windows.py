"""Tiles, products, and time by parts."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from pgmdiff import GraphError
from pgmdiff.gaussian import Gaussian, composed_precision
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    product,
    tiles,
    time_by_parts,
)
from pgmdiff.testing import assert_lawful, strategies
from tests.graphs.test_counting import GRAPHS
from tests.helpers import ar1, relative


def test_windows_are_slices_of_the_tensor() -> None:
    u = torch.arange(3 * 8 * 12).reshape(3, 8, 12)
    graph = tiles(u.shape, (3, 4, 6), (0, 2, 3), (False, False, True))
    wrapped = torch.cat([u, u], dim=2)
    for name in graph.names:
        (a, b), (c, d), (e, f) = (map(int, s.split(":")) for s in name.strip("[]").split(","))
        expected = wrapped[a:b, c:d, e:f]
        assert torch.equal(u.reshape(-1)[graph.elements(name)], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((10,), 4, 1, True), "on axis 0 windows of 4 with stride 3 do not fit a periodic size of "
                              "10. Use a size of 9 or 12"),
        (((11,), 4, 1), "do not fit a size of 11. Use a size of 10 or 13"),
        (((5,), 4, 0), "Use a size of 4 or 8"),
        (((3, 8), 4, 2), "on axis 0 the window is 4 long, expected 1 to 3"),
        (((8,), 4, 4), "on axis 0 the overlap is 4, expected 0 to 3"),
        (((8,), 0, 0), "the window is 0 long"),
        (((8, 8), (4,), 2), "expected one integer window or one for each of the 2 axes"),
        (((8,), 4.0, 2), "expected one integer window"),
        (((), 4, 2), "at least one axis"),
        ((30, 8, 2), "a shape such as (16, 64), got 30"),
        (((60,), 16, 4), "Use a size of 52 or 64, an overlap of 5, or"),
    ],
)  # fmt: skip
def test_bad_tiles_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(GraphError, match="tiles") as error:
        tiles(*arguments)
    assert message in str(error.value)


def test_the_sizes_an_error_names_fit() -> None:
    assert tiles((9,), 4, 1, True).validate().valid
    assert tiles((12,), 4, 1, True).validate().valid
    assert tiles((10,), 4, 1).validate().valid
    assert tiles((13,), 4, 1).validate().valid


def test_periodic_sizes_that_fit_are_periodic() -> None:
    with pytest.raises(GraphError, match=r"Use a size of 24, an overlap of 6 or 11, or"):
        tiles((20,), 16, 8, True)
    assert len(tiles((24,), 16, 8, True).groups) == 2


def test_overlaps_that_are_named_do_fit() -> None:
    for size, window, overlap in ((60, 16, 4), (31, 8, 3), (100, 30, 7)):
        with pytest.raises(GraphError) as raised:
            tiles((size,), window, overlap)
        named = str(raised.value).split("an overlap of ")[1].split(",")[0]
        for fitting in named.split(" or "):
            tiles((size,), window, int(fitting))


def test_an_axis_a_window_spans_needs_no_overlap() -> None:
    graph = tiles((3, 16), (3, 8), overlap=4)
    assert [g.shape for g in graph.groups] == [(3, 8), (3, 4)]


@pytest.mark.parametrize("oracle_name", ["2x2 tiles", "3x3 tiles", "window 3 stride 1, length 6"])
def test_tiles_have_the_cluster_variation_counts(oracle_name: str) -> None:
    oracle = next(g for g in GRAPHS if g["name"] == oracle_name)
    graph, width = {
        "2x2 tiles": (tiles((3, 3), 2, 1), 3),
        "3x3 tiles": (tiles((4, 4), 2, 1), 4),
        "window 3 stride 1, length 6": (tiles((6,), 3, 2), 1),
    }[oracle_name]
    counts = graph.counting_numbers()

    def place(element: int) -> str:
        return str(divmod(element, width) if width > 1 else element)

    found = {
        frozenset(place(e) for e in graph.elements(name).reshape(-1).tolist()): count
        for name, count in counts.items()
    }
    assert found == {frozenset(region): count for region, count in oracle["cluster_variation"]}


def test_tiles_never_hold_their_indices() -> None:
    graph = tiles((3, 80_008, 808), (3, 16, 16), (0, 8, 8))
    assert graph.n_regions > 3_900_000
    assert graph.validate().valid
    last = graph.groups[0].indices(len(graph.groups[0]) - 1, len(graph.groups[0]))
    assert int(last.max()) == graph.n_elements - 1
    part = tiles((3, 8_008, 808), (3, 16, 16), (0, 8, 8))
    assert (part.groups[0].scatter_sum(part.groups[0].counts, part.n_elements) > 0).all()


@pytest.mark.parametrize(
    ("shape", "window", "overlap", "periodic"),
    [
        ((12,), 4, 2, False),
        ((12,), 4, 2, True),
        ((12,), 5, 4, True),
        ((8, 6), (4, 3), (2, 0), (False, True)),
        ((8, 6), (4, 2), (2, 1), False),
        ((3, 8), (3, 4), (0, 2), False),
        ((6, 6), (2, 3), (0, 0), True),
        ((8,), 6, 2, True),
    ],
)
def test_the_acyclicity_tiles_claim_is_the_one_computed(
    shape: tuple, window: int, overlap: int, periodic: bool
) -> None:
    graph = tiles(shape, window, overlap, periodic)
    from_indices = type(graph)(graph.event_shape, graph.groups)
    assert from_indices.junction_tree is None
    assert from_indices.validate().junction_tree == graph.validate().junction_tree


def test_few_windows_are_validated_however_large_they_are() -> None:
    graph = tiles((3, 128, 25600), (3, 128, 128), (0, 0, 64))
    tracemalloc.start()
    assert graph.validate().junction_tree
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("size", range(4, 20))
@pytest.mark.parametrize("overlap", range(4))
def test_shifted_tiles_stay_valid(size: int, overlap: int, periodic: bool) -> None:
    graph = tiles((size,), 4, overlap, periodic, remainder="shift")
    assert graph.validate().valid
    assert (graph.coverage() >= 1).all()
    sums = np.zeros(size, np.int64)
    for name, count in graph.counting_numbers().items():
        sums[graph.elements(name).numpy()] += count
    assert (sums == 1).all()


def kronecker(a: Gaussian, b: Gaussian) -> Gaussian:
    mean = torch.zeros(len(a.covariance), len(b.covariance), dtype=torch.float64)
    return Gaussian(mean, torch.kron(a.covariance, b.covariance))


def test_the_product_rule() -> None:
    left, right = tiles((10,), 4, 2), chain(3)
    graph = product(left, right)
    assert graph.event_shape == (10, 3)
    assert graph.validate().valid
    for (a, b), count in graph.counting_numbers().items():
        assert count == left.counting_numbers()[a] * right.counting_numbers()[b]
        outer = left.elements(a)[:, None] * 3 + right.regions.elements(b).reshape(-1)
        assert torch.equal(graph.elements((a, b)).reshape(outer.shape), outer)
    # For a separable Gaussian, precisions multiply: exact where both parts are.
    q = kronecker(ar1(10, 0.7), ar1(3, 0.4))
    assert relative(composed_precision(graph, q), torch.linalg.inv(q.covariance)) < 1e-12
    again = product(tiles((8,), 4, 2), tiles((6,), 4, 2))
    same = tiles((8, 6), 4, 2)
    assert sorted(again.counting_numbers().values()) == sorted(same.counting_numbers().values())
    assert (again.element_sums() == same.element_sums()).all()
    # Model ids are pairs: of the groups', or the regions' own names.
    assert {g.model for g in graph.groups} == {
        ((n,), b) for n in (4, 2) for b in right.regions.names
    }
    assert {g.model for g in product(chain(2), chain(2)).groups} == {None}


@settings(max_examples=8)
@given(strategies.trees(max_factors=2), strategies.tile_graphs(max_axes=1, max_size=4))
def test_products_are_lawful_whole(left, right) -> None:
    assert_lawful(product(left, right))


def test_an_empty_product_is_lawful() -> None:
    assert_lawful(product(chain(0), tiles((2,), 1)))


def test_products_keep_conditions_and_fractions() -> None:
    left = FactorGraph.from_scopes({"f": ("a",)}, conditions={"f": {"y": torch.ones(1)}})
    right = RegionGraph.from_regions(
        {"s": [0], "t": [0]}, {"s": 1, "t": 1}, event_shape=(1,), denominator=2
    )
    graph = product(left, right)
    assert graph.denominator == 2
    assert graph.validate().valid
    assert graph.conditions["f", "s"]["y"] == 1
    assert ("a", "s") not in graph.conditions


def test_time_by_parts() -> None:
    parts = {"legs": [0, 1, 2], "torso": [2, 3, 4], "arms": [4, 5]}
    motion = time_by_parts(24, 16, 8, parts)
    assert motion.event_shape == (24, 6)
    assert motion.validate().valid
    shared = frozenset({"legs", "torso"})
    counts = motion.counting_numbers()
    assert counts["[0:16]", "legs"] == 1
    assert counts["[8:16]", "legs"] == -1
    assert counts["[0:16]", shared] == -1
    assert counts["[8:16]", shared] == 1
    assert motion.elements(("[8:24]", "torso"))[0].tolist() == [8 * 6 + c for c in (2, 3, 4)]
    assert {g.model for g in motion.groups} >= {((16,), "legs"), ((8,), shared)}
    ring = time_by_parts(24, 16, 8, parts, periodic=True, channels=6)
    assert ring.validate().valid
    with pytest.raises(GraphError, match=r"^time_by_parts: .* an overlap of 5"):
        time_by_parts(60, 16, 4, {"arm": [0, 1]})
    with pytest.raises(GraphError, match="1 elements are in no piece, the first is 6"):
        time_by_parts(24, 16, 8, parts, channels=7)
    q = kronecker(ar1(24, 0.9), ar1(6, 0.5))
    wide = time_by_parts(24, 16, 15, parts)
    assert relative(composed_precision(wide, q), torch.linalg.inv(q.covariance)) < 1e-9
