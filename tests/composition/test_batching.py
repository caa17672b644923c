"""`max_batch="auto"`: the size of model calls is measured, and halved where memory is too small."""

import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pgmdiff import ScoreError, compose, tiles
from pgmdiff.composition import batching
from pgmdiff.graphs import chain
from tests.composition.test_fields import draw
from tests.composition.test_joint import nonlinear

GRAPHS = [chain(40), tiles((6, 70), (6, 6), (0, 2))]


class Limited:
    """A score that remembers its rows, and has memory for some of them."""

    def __init__(self, most: float = float("inf")) -> None:
        self.most, self.rows = most, list[int]()

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.rows.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("Tried to allocate 2 GiB: out of memory")
        return nonlinear(x, sigma)


def clocked(monkeypatch: pytest.MonkeyPatch, cost: Callable[[int], float]) -> Callable[[int], None]:
    """A call that takes the time of its size, by a clock that stands still otherwise."""
    now = [0.0]
    monkeypatch.setattr(batching.time, "perf_counter", lambda: now[0])

    def call(size: int) -> None:
        now[0] += cost(size)

    return call


COSTS: dict[str, Callable[[int], float]] = {
    "each call costs": lambda n: 50 + n,
    "a cache of 20 rows": lambda n: 1 + n * (1 if n <= 20 else 3),
    "steps of 8 rows": lambda n: 8.0 * -(-n // 8),
    "rows alone cost": float,
    "a moment's disturbance": lambda n: (50 + n) * (3 if n == 2 else 1),
}


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("rows", [1, 2, 7, 64, 1000])
def test_the_size_is_as_fast_as_any_power_of_two(
    name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = COSTS[name]
    best, known = batching.fastest(clocked(monkeypatch, cost), rows)
    sizes = [*(2**k for k in range(10) if 2**k < rows), rows]
    least = min(cost(size) / size for size in sizes)
    assert cost(best) / best <= 1.05 * least
    assert all(cost(s) / s > 1.05 * least for s in sizes if s < best)  # memory is not wasted
    assert known == (rows if best == rows else float("inf"))


@pytest.mark.parametrize(
    "graph", [chain(40), tiles((6, 70), (6, 6), (0, 2))], ids=["chain", "strip"]
)
@pytest.mark.parametrize("n", [1, 3])
def test_results_are_those_without_a_limit(graph: object, n: int) -> None:
    score = Limited()
    u = draw(n, *graph.regions.event_shape)  # type: ignore[attr-defined]
    joint = compose(graph, score, max_batch="auto")
    torch.testing.assert_close(joint(u, 1.3), compose(graph, nonlinear)(u, 1.3))
    tried = len(score.rows)
    joint(u, 1.3)
    again = score.rows[tried:]
    assert sum(again) == n * sum(len(batch.group) for batch in joint.batches)  # nothing is tuned
    torch.testing.assert_close(pickle.loads(pickle.dumps(joint))(u, 1.3), joint(u, 1.3))


def test_more_rows_than_ever_before_are_tuned_again() -> None:
    joint = compose(chain(12), Limited(), max_batch="auto")
    for n in (1, 4, 2):
        joint(draw(n, 12), 1.0)
        for limit, known in joint._limits.values():
            assert limit <= known
            assert known >= n * 10


@pytest.mark.parametrize(
    "graph", [chain(40), tiles((6, 70), (6, 6), (0, 2))], ids=["chain", "strip"]
)
def test_calls_are_halved_where_memory_is_too_small(graph: object) -> None:
    score = Limited(12)
    u = draw(4, *graph.regions.event_shape)  # type: ignore[attr-defined]
    joint = compose(graph, score, max_batch="auto")
    expected = compose(graph, nonlinear)(u, 0.7)
    with warnings.catch_warnings():  # tuning finds the limit, and says nothing
        warnings.simplefilter("error")
        torch.testing.assert_close(joint(u, 0.7), expected)
    for key in joint._limits:
        joint._limits[key] = (64, float("inf"))  # as if memory had become smaller
    joint._kept.clear()
    with pytest.warns(UserWarning, match=r"memory is too small .* Give max_batch=\d+"):
        torch.testing.assert_close(joint(u, 0.7), expected)
    tried = len(score.rows)
    torch.testing.assert_close(joint(u, 0.7), expected)
    assert max(score.rows[tried:]) <= 12
    assert min(limit for limit, _ in joint._limits.values()) > 3  # by halves, not to nothing


def test_halves_are_the_whole() -> None:
    joint, u = compose(chain(9), nonlinear), draw(5, 9)
    for chunk in joint._chunks(u, lambda _: u):
        waiting, rows = [chunk.kept()], list[tuple[int, int]]()
        while waiting:
            part = waiting.pop()
            parts = batching.halves(part)
            assert parts == (part,) or {each.entries for each in parts} == {None}
            waiting += parts if len(parts) > 1 else ()
            rows += [(part.start, part.samples.start)] if len(parts) == 1 else []
        assert sorted(rows) == [(r, s) for r in range(len(chunk.batch.group)) for s in range(5)]


def test_what_cannot_be_halved_is_raised() -> None:
    joint = compose(chain(4), Limited(0), max_batch="auto")
    with pytest.raises(torch.OutOfMemoryError):
        joint(draw(2, 4), 1.0)
    with pytest.raises(torch.OutOfMemoryError):  # a limit that was given is kept
        compose(chain(4), Limited(1), max_batch=2)(draw(2, 4), 1.0)
    with pytest.raises(ScoreError, match="'auto' or None, got 'automatic'"):
        compose(chain(4), nonlinear, max_batch="automatic")  # type: ignore[arg-type]
