"""A view of an endless canvas is the finite canvas inside, wherever and whenever it is asked."""

from itertools import product
from math import ceil
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import (
    Average,
    Consistent,
    GraphError,
    PgmdiffError,
    ScoreError,
    ShapeError,
    compose,
    karras,
    tiles,
)
from pgmdiff.distributed import Endless
from pgmdiff.samplers import SDE, Adaptive, DPMSolver2M, Euler, Heun, UniPC
from tests.distributed.test_canvases import WIDE, covariance, pixels, process

pytest.importorskip("infinite_tensor")

LEVELS = karras(3, 0.05, 10.0)
FAR = 10**13


def separable(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact score of a Gaussian field whose covariance is a product over the axes."""
    whole = torch.ones(1, 1, dtype=WIDE)
    for n in x.shape[1:]:
        whole = torch.kron(whole, covariance(n))
    noisy = whole + sigma[0].double() ** 2 * torch.eye(len(whole))
    return -torch.linalg.solve(noisy, x.flatten(1).double().T).T.reshape(x.shape).to(x.dtype)


CANVASES: dict[str, tuple[Any, ...]] = {
    "line": ((None,), (8,), (4,), False),
    "three windows on a place, first axis": ((None, 2), (6, 2), (4, 0), False),
    "cylinder": ((1, 6, None), (1, 4, 6), (0, 2, 3), (False, True, False)),
    "plane": ((None, 2, None), (4, 2, 6), (2, 0, 2), False),
}


def towards(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
    """Of Gaussians with another mean per label."""
    mean = 0 if label is None else label.to(x).reshape(-1, *[1] * (x.ndim - 1))
    return separable(x - mean, sigma)


def by_place(places: Tensor) -> dict[str, Tensor]:
    """A label per window, another one for each of its neighbours."""
    return {"label": (places // 2).sum(dim=1) % 5}


def inside_the_finite(name: str, score: Any, solver: Any, labelled: bool, **options: Any) -> None:
    """An endless canvas is that of `tiles` around it, with the same noise and labels."""
    shape, window, overlap, periodic = CANVASES[name]
    sizes, firsts, inner = [], [], []
    for size, w, o in zip(shape, window, overlap, strict=True):
        stride = w - o
        margin = ceil(w * len(LEVELS) / stride) * stride  # as far as the cone reaches
        sizes.append(2 * margin + 4 * stride + o if size is None else size)
        firsts.append(-margin if size is None else 0)
        inner.append(slice(0, 4 * stride if size is None else size))
    labels = by_place if labelled else None
    canvas = Endless(score, LEVELS, shape, window, overlap, periodic, conditions=labels,
                     solver=solver, generator=3, dtype=WIDE, **options)  # fmt: skip
    graph, given = tiles(sizes, window, overlap, periodic), dict[str, Any]()
    for piece in graph.pieces if labelled else ():
        corner = np.unravel_index(int(graph.elements(piece).flatten()[0]), sizes)
        endless = [a for a, size in enumerate(shape) if size is None]
        place = torch.tensor([[int(corner[a]) + firsts[a] for a in endless]])
        given[piece] = {word: value[0] for word, value in by_place(place).items()}
    joint = compose(graph, score, conditions=given, **options)

    def noise(number: int, like: Tensor) -> Tensor:
        whole = like.new_zeros(sizes)
        spans = [
            range(first // t, ceil((first + n) / t))
            for first, n, t in zip(firsts, sizes, canvas._tile, strict=True)
        ]
        for place in product(*spans):
            drawn = canvas._draw([(0, *place)], number, like)[0]
            for axis, (at, t, first, n) in enumerate(
                zip(place, canvas._tile, firsts, sizes, strict=True)
            ):
                low, high = max(at * t, first), min(at * t + t, first + n)
                drawn = drawn.narrow(axis, low - at * t, high - low)
            corner = [
                slice(max(0, at * t - first), max(0, at * t - first) + m)
                for at, t, first, m in zip(place, canvas._tile, firsts, drawn.shape, strict=True)
            ]
            whole[tuple(corner)] = drawn
        return whole[None]

    view = tuple(slice(f, f + n) for f, n in zip(firsts, sizes, strict=True))
    state = solver.init(canvas.states[0][(0, *view)][None], LEVELS[0])
    for sigma in LEVELS[1:]:
        state = solver.step(joint, state, sigma, noise)
    own = tuple(slice(v.start - f, v.stop - f) for v, f in zip(inner, firsts, strict=True))
    torch.testing.assert_close(canvas[tuple(inner)], state.x[0][own], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CANVASES)
def test_inside_it_is_the_finite_canvas(name: str) -> None:
    inside_the_finite(name, separable, UniPC(), False, rule=Average())
    for solver in (UniPC(), SDE()):
        inside_the_finite(name, separable, solver, False)


@pytest.mark.parametrize("name", CANVASES)
def test_windows_have_the_labels_of_their_places(name: str) -> None:
    inside_the_finite(name, towards, UniPC(), True, null_condition={"label": torch.tensor(2)})
    inside_the_finite(name, towards, Euler(), True)


def line(**options: Any) -> Endless:
    return Endless(process, LEVELS, (2, None), (2, 8), (0, 4), **{"generator": 1, **options})


@pytest.mark.parametrize("first", [0, -77, FAR, -FAR])
def test_the_order_of_requests_changes_nothing(first: int) -> None:
    """Other requests, a cache of nothing and batches of one give the same numbers."""
    canvas = line(dtype=WIDE)
    view = canvas[:, first : first + 40]
    other = line(dtype=WIDE, cache=0, max_batch=1)
    for a, b in ((30, 40), (3, 9), (0, 31), (39, 40)):
        torch.testing.assert_close(
            other[:, first + a : first + b], view[:, a:b], rtol=0, atol=1e-13
        )
    assert torch.equal(canvas[1, first + 7], view[1, 7])
    assert torch.equal(canvas[..., first : first + 40], view)
    assert not torch.equal(line(generator=2, dtype=WIDE)[:, first : first + 40], view)


def test_batches_of_one_are_the_same_bits_in_any_order() -> None:
    one, other = line(max_batch=1), line(max_batch=1, cache=0)
    view = one[:, 100:140]
    pieces = [other[:, a : a + 10] for a in (130, 110, 100, 120)]
    assert torch.equal(torch.cat([pieces[i] for i in (2, 1, 3, 0)], 1), view)


def test_the_noise_is_normal_and_everywhere_another() -> None:
    plane = Endless(pixels, [1.0, 0.0], (1, None, None), (1, 16, 16), (0, 8, 8), generator=0)
    start = torch.stack(
        [plane.states[0][0, 0, y : y + 64, x : x + 64] for y in (0, FAR) for x in (0, -FAR)]
    )
    assert abs(float(start.std()) - 1) < 0.03
    wide = Endless(
        pixels, [1.0, 0.0], (2, None, 3, None), (2, 8, 3, 8), (0, 4, 0, 4), generator=0, dtype=WIDE
    )
    assert (values := wide.states[0][0, :, -20:20, :, -20:20]).unique().numel() == values.numel()
    gram = np.corrcoef(start.reshape(4, -1).numpy())
    rows = np.corrcoef(start[0].numpy())
    assert np.abs(gram - np.eye(4)).max() < 0.06
    assert np.abs(rows - np.eye(64)).max() < 0.6


def test_a_far_view_costs_what_a_near_one_costs() -> None:
    counts = []
    for first in (0, FAR):
        rows = [0]

        def score(x: Tensor, sigma: Tensor, rows: Any = rows) -> Tensor:
            rows[0] += len(x)
            return process(x, sigma)

        canvas = Endless(score, LEVELS, (None,), (8,), (4,), generator=0, solver=Euler())
        _ = canvas[first : first + 40]
        counts.append(rows[0])
        _ = canvas[first + 10 : first + 20]  # within what is known
        assert rows[0] == counts[-1]
    # On the last level 11 windows and 10 overlaps touch ten strides; each level before adds two.
    assert counts == [sum(11 + 10 + 4 * k for k in range(len(LEVELS) - 1))] * 2


REFUSED: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "no end": (ShapeError, "None for one or two axes", {"shape": (2, 16)}),
    "three ends": (
        ShapeError, "one or two axes",
        {"shape": (None,) * 3, "window": (4,) * 3, "overlap": (2,) * 3},
    ),
    "axes": (ShapeError, "for each axis", {"window": (8,)}),
    "a closed axis": (GraphError, "cannot be periodic", {"periodic": True}),
    "overlap": (GraphError, "the overlap is 8", {"overlap": (0, 8)}),
    "two evaluations": (PgmdiffError, "once per step", {"solver": Heun()}),
    "adaptive": (PgmdiffError, "once per step", {"solver": Adaptive()}),
    "rising levels": (PgmdiffError, "falling", {"sigmas": [1.0, 0.5, 0.7, 0.0]}),
    "a joint": (
        ScoreError, "Endless: .* got a joint of the whole state .* which Endless composes",
        {"scores": compose(tiles((2, 32), (2, 8), (0, 4)), pixels)},
    ),
    "rule": (ScoreError, "Marginal", {"rule": Consistent({})}),
    "labels by name": (ScoreError, "a function of the places", {"conditions": {"f": {}}}),
    "generators": (PgmdiffError, "one generator", {"generator": [1]}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_words(case: str) -> None:
    kind, words, given = REFUSED[case]
    options: dict[str, Any] = {
        "scores": pixels, "sigmas": LEVELS, "shape": (2, None), "window": (2, 8), "overlap": (0, 4)
    }  # fmt: skip
    with pytest.raises(kind, match=words):
        Endless(**{**options, **given})


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (lambda at: at, GraphError, "expected conditions as a dict, got Tensor"),
        (lambda at: {"label": 1}, ShapeError, r"'label' \[\d+, \.\.\.\], a row .* got \(\)"),
        (lambda at: {"label": [1, 2]}, ShapeError, r"a row for each of .* got \(2,\)"),
        (lambda at: {"label": "sea"}, ShapeError, "'label' as a tensor"),
    ],
)
def test_labels_that_do_not_fit_are_named(given: Any, kind: type[Exception], words: str) -> None:
    canvas = Endless(towards, LEVELS, (None,), (8,), (4,), conditions=given)
    with pytest.raises(kind, match=words):
        _ = canvas[0:16]


@pytest.mark.parametrize(
    "view",
    [(..., slice(0, None)), (0,), slice(0, 2), (0, 0, 0), (0, slice(5, 5)), (0, slice(8, 0)),
     (0, slice(0, 9, 2)), (0, 1 << 62), (0, 0.5), (0, torch.tensor([1])), (None, 0), (2, 0),
     (-3, 0), (True, 0), (0, slice(0, True)), (slice(None, None, -1), 0), (slice(0, 2, 0), 0),
     (slice(0.5, 1), 0), (np.arange(2), 0), (0, np.int64(1 << 62))],
    ids=str,
)  # fmt: skip
def test_views_without_end_are_refused(view: Any) -> None:
    with pytest.raises(ShapeError, match="expected a view of"):
        _ = line()[view]


def test_axes_with_a_size_are_read_as_those_of_a_tensor() -> None:
    canvas = Endless(separable, LEVELS, (3, None), (3, 6), (0, 3), generator=3, dtype=WIDE)
    whole, ends = canvas[:, -2:6], (None, -9, -4, -3, -1, 0, 1, 2, 3, 5)
    views = [slice(*each) for each in product(ends, ends, (None, 1, 2, 5))]
    for view in (*views, *range(-3, 3), np.int64(1), np.int8(-1), torch.tensor(2)):
        torch.testing.assert_close(canvas[view, -2:6], whole[view], rtol=0, atol=0)
    for place in (np.int64(-2), torch.tensor(3)):
        assert torch.equal(canvas[:, place], whole[:, int(place) + 2])
    assert torch.equal(canvas[..., np.int64(-2) : np.int64(6)], whole)
    for beyond in (3, -4, np.int64(3)):
        with pytest.raises(ShapeError, match="integers inside it"):
            _ = canvas[beyond, 0:4]


def test_without_infinite_tensor_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "infinite_tensor", None)
    with pytest.raises(ImportError, match=r"pgmdiff\[infinite\]"):
        line()


def test_it_says_what_it_is() -> None:
    made = Endless(process, LEVELS, (None,), (8,), (4,), solver=DPMSolver2M())
    assert repr(made) == (
        "Endless(shape=(None,), window=(8,), overlap=(4,), 3 levels, DPMSolver2M(eta=0.0, rho=inf))"
    )
