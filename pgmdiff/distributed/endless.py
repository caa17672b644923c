r"""A canvas without end: any part of it, at any place, computed when it is looked at.

Let x_k be the state of an endless canvas at level k. With windows at all multiples of the stride,

    s_k = Σ_windows s(window of x_k) - Σ_overlaps s(overlap of x_k),       x_{k+1} = step(x_k, s_k)

is a recursion of infinite tensors, one for the windows, the overlaps and the state of each level,
and the noise of the start is a function of the place. A view asks for the windows that touch it,
these for the tiles of the level before, and so on: its *cone* grows by a window per level on each
side. What was computed is kept within a budget, and computed anew, alike, when it was dropped. With
several endless axes the counts are products, as in `tiles`.

The engine is the library infinite-tensor, made for canvases without end by averaging.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from operator import index
from threading import Lock
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from pgmdiff.composition import Joint, Marginal, compose, per_node
from pgmdiff.composition.plan import Scores
from pgmdiff.composition.rules import Rule, WeightedSum
from pgmdiff.distributed.strips import check_of_windows
from pgmdiff.errors import GraphError, PgmdiffError, ScoreError, ShapeError, required
from pgmdiff.graphs import tiles
from pgmdiff.graphs.names import check_mapping
from pgmdiff.graphs.regions import Condition
from pgmdiff.linalg import tensor_of
from pgmdiff.noise import START, Generator, Noise, seed_of
from pgmdiff.samplers import Solver, State, UniPC
from pgmdiff.samplers.run import check_run
from pgmdiff.samplers.start import mean_of
from pgmdiff.samplers.store import check_dtype
from pgmdiff.scores.walls import on_copies
from pgmdiff.text import brief, counted, described

__all__ = ["Endless"]

View = int | slice | EllipsisType
Labels = Callable[[Tensor], Condition]
Context = Sequence[tuple[int, ...]]
FARTHEST = 1 << 62
"""Places are int64."""
ROWS = 1 << 64
"""Each row of a plane has noise of its own, as samples of one seed have."""


class Endless:
    """A canvas without end in one or two axes, of which any view is a tensor.

        canvas = Endless(score, karras(8, 0.01, 10.0), (1, None, None), (1, 16, 16), (0, 8, 8))
        canvas[:, 0:64, 10**13 : 10**13 + 256]

    The cost of a view does not depend on where it is. Its values do not depend on what was looked
    at before, but for rounding where networks round otherwise in batches of another size; with
    `max_batch=1` they are the same bits. They are those of `sample` on a finite canvas with the
    same noise, as far from its ends as the cone reaches.

    With windows of two strides, a view of n strides of one axis evaluates n + 1 + 2k windows k
    levels before the last: few levels keep the cone small.

    Args:
        scores: one score for windows and overlaps, or one per model id, as for `compose`.
        sigmas: noise levels that fall.
        shape: shape of the canvas, channels included; None for an axis without end. There are one
            or two such axes, of at most 2^62 places.
        window, overlap, periodic: as for `tiles`; windows lie at all multiples of the stride.
        conditions: a function of the places of windows, int64 `[n, axes without end]`, where their
            first elements are, that returns what the models of these windows receive, by keyword,
            `[n, ...]`. It is asked again for the same places, and must answer alike. For what is
            the same everywhere use `functools.partial(score, ...)`.
        null_condition: what the models of overlaps receive, as for `compose`.
        rule: `Marginal()` if None, or `Average()`; others depend on the whole canvas.
        solver: `UniPC()` if None; an elementwise one that evaluates the score once per step.
        mean: that of the data, one number or of size 1 along endless axes. `sample` warns of a
            wrong one; a canvas without end does not.
        generator: one seed, for the whole canvas.
        max_batch: the most windows of one model call.
        cache: bytes of windows and tiles that are kept between views.
        dtype, device: of the canvas.

    Attributes:
        states: the states of all levels, infinite tensors `[1 + values of history, *shape]`.

    Raises:
        GraphError: a window or an overlap does not fit, or an endless axis is periodic; in a view,
            conditions are no mapping.
        ShapeError: no axis is endless, or more than two are; in a view, a condition does not have
            one row per window.
        ScoreError: the rule depends on the whole canvas.
        PgmdiffError: the schedule rises, or the solver evaluates twice or depends on the whole.
        ImportError: infinite-tensor is not installed (extra `infinite`).

    Example:
        >>> from pgmdiff import karras
        >>> from pgmdiff.distributed import Endless
        >>> def score(x, sigma):  # independent pixels of unit variance
        ...     return -x / (1 + sigma[:, None] ** 2)
        >>> line = Endless(score, karras(8, 0.01, 10.0), (None,), (8,), (4,), generator=0)
        >>> line[10**13 : 10**13 + 5].shape, bool((line[0:9][4:] == line[4:9]).all())
        (torch.Size([5]), True)
    """

    def __init__(
        self,
        scores: Scores,
        sigmas: Sequence[float],
        shape: Sequence[int | None],
        window: Sequence[int],
        overlap: Sequence[int],
        periodic: Sequence[bool] | bool = False,
        *,
        conditions: Labels | None = None,
        null_condition: Condition | None = None,
        rule: Rule | None = None,
        solver: Solver | None = None,
        mean: Tensor | float = 0.0,
        generator: Generator = None,
        max_batch: int = 64,
        cache: int = 1 << 28,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        levels, self.shape = [float(sigma) for sigma in sigmas], tuple(shape)
        solver, rule = solver or UniPC(), rule or Marginal()
        check_run("Endless", levels, solver)
        check_dtype("Endless", dtype)
        self._axes = [axis for axis, size in enumerate(self.shape) if size is None]
        if len(self._axes) not in (1, 2) or not len(shape) == len(window) == len(overlap):
            raise ShapeError(
                "Endless: expected a shape with None for one or two axes, such as (3, 64, None), "
                f"and a window and an overlap for each axis, got {self.shape}, {window} and "
                f"{overlap}."
            )
        if not solver.elementwise or solver.evaluations != 1 or levels != sorted(levels)[::-1]:
            raise PgmdiffError(
                "Endless: expected falling sigmas and a solver that evaluates the score once per "
                f"step, and depends on other elements only through it, such as UniPC() or SDE(), "
                f"got {solver!r}."
            )
        if not isinstance(rule, WeightedSum):
            raise ScoreError(
                f"Endless: expected the rule Marginal() or Average(), got {rule!r}, whose score "
                "depends on the whole canvas. See stream."
            )
        if not (conditions is None or callable(conditions)):
            raise ScoreError(
                f"Endless: expected conditions, a function of the places of windows, got "
                f"{brief(conditions)}. For what is the same everywhere use functools.partial."
            )
        self._levels, self._solver, self._lock = levels, solver, Lock()
        self._like = torch.empty(0, dtype=dtype, device=device)
        self._seed = seed_of(generator, "Endless")
        self._window, self._overlap = tuple(window), tuple(overlap)
        self._tile = [
            max(1, w - o) if size is None else size
            for size, w, o in zip(self.shape, window, overlap, strict=True)
        ]
        around = [1 if size is None else size for size in self.shape]
        self._mean = mean_of("Endless", mean, around, dtype, device)
        closed = [periodic] * len(shape) if isinstance(periodic, bool) else [*periodic]
        if any(closed[axis] for axis in self._axes):
            raise GraphError("Endless: an axis without end cannot be periodic. Give it a size.")
        pieces = self._pieces(scores, rule, closed, max_batch, null_condition)
        self.states = self._recursion(pieces, conditions, max_batch, cache)

    def __repr__(self) -> str:
        pieces = f"window={self._window}, overlap={self._overlap}"
        levels = counted(len(self._levels) - 1, "level")
        return described(self, f"shape={self.shape}", pieces, levels, repr(self._solver))

    def __getitem__(self, view: View | tuple[View, ...]) -> Tensor:
        """The canvas at a view: integers, or slices with a start and a stop on endless axes.

        Axes with a size are read as those of a tensor, with steps above 0.

        Raises:
            ShapeError: it has no end, is too far away or fits no shape.
        """
        given = [*view] if isinstance(view, tuple) else [view]
        try:
            given = [v if v is ... or isinstance(v, slice) else _integer(v) for v in given]
            given += [] if ... in given else [...]
            at, missing = given.index(...), len(self.shape) - len(given) + 1
            each = [*given[:at], *[slice(None)] * missing, *given[at + 1 :]]
            parts = [self._part(s, v) for s, v in zip(self.shape, each, strict=True)]
        except (TypeError, ValueError, IndexError):
            raise ShapeError(
                f"Endless: expected a view of {self.shape}, integers inside it or slices with a "
                "step above 0; where the size is None, with no step and a start below a stop, "
                f"such as [..., 0:256]. Got {view!r}."
            ) from None
        with self._lock:
            place = (0, *parts)
            found: Tensor = self.states[-1][place]
        return found

    def _part(self, size: int | None, v: Any) -> int | slice:
        """A view of one axis, without what lies outside it; an error if it fits none."""
        if size is None:
            ends = [*map(_integer, [v.start, v.stop] if isinstance(v, slice) else [v])]
            far = max(map(abs, ends)) * self._inner >= FARTHEST
            if far or (isinstance(v, slice) and (v.step is not None or ends[0] >= ends[1])):
                raise IndexError
            return slice(*ends) if isinstance(v, slice) else ends[0]
        if isinstance(v, slice):
            start, end, step = v.indices(size)
            if step < 0:
                raise IndexError
            return slice(start, max(start, end), step)
        return range(size)[_integer(v)]

    @property
    def _inner(self) -> int:
        """Elements of the canvas per place of the last endless axis, and of a row of a plane."""
        return prod(size for size in self.shape if size is not None)

    def _recursion(
        self, pieces: list["_Piece"], conditions: Labels | None, max_batch: int, cache: int
    ) -> list[Any]:
        """The infinite tensors of all levels, each made from those of the level before."""
        engine = required("infinite_tensor", "Endless", "infinite")
        store = engine.MemoryTileStore(cache_size_bytes=cache)
        tile, solver = self._tile, self._solver

        def made(
            function: Callable[..., Any],
            values: int,
            size: Any,
            stride: Any,
            *args: tuple[Any, int],
        ) -> Any:
            """A tensor of some values per place, from the same windows of others."""
            windows = [
                engine.TensorWindow((n, *size), (n, *stride))
                for n in (values, *(n for _, n in args))
            ]
            return engine.InfiniteTensor(
                (values, *self.shape),
                function,
                windows[0],
                args=tuple(tensor for tensor, _ in args),
                args_windows=windows[1:],
                dtype=self._like.dtype,
                device=self._like.device,
                tile_store=store,
                batch_size=max_batch,
            )

        states = [made(self._start, 1, tile, tile)]
        dry = solver.init(self._like.new_zeros(1, 1), self._levels[0])  # what a solver remembers
        for level in self._levels[1:]:
            parts = []
            for each in pieces:
                told = partial(self._told, conditions, each) if conditions and each.outer else None
                scored = partial(_scored, each, dry.sigma, told)
                parts.append(made(scored, 1, each.size, each.stride, (states[-1], 1)))
            past = [sigma for sigma, _ in dry.history]
            step = partial(self._step, dry.step, dry.sigma, past, level)
            dry = solver.step(lambda x, _: 0 * x, dry, level, lambda _, x: 0 * x)
            before = (states[-1], 1 + len(past)), *((part, 1) for part in parts)
            states.append(made(step, 1 + len(dry.history), tile, tile, *before))
        return states

    def _pieces(
        self,
        scores: Scores,
        rule: WeightedSum,
        closed: list[bool],
        max_batch: int,
        null: Condition | None,
    ) -> list["_Piece"]:
        """The kinds of windows and overlaps of the endless axes."""
        window, overlap = (
            [own[axis] for axis in self._axes] for own in (self._window, self._overlap)
        )
        strides = [max(1, w - o) for w, o in zip(window, overlap, strict=True)]
        around = [ceil(w / s) * s for w, s in zip(window, strides, strict=True)]
        sides = [w + 2 * a for w, a in zip(window, around, strict=True)]
        pattern, pieces = tiles(sides, window, overlap), list[_Piece]()
        scale = rule.scale(pattern)
        factors = torch.ones(sides) if scale is None else torch.from_numpy(scale).reshape(sides)
        for group, weights in zip(pattern.groups, rule.weights(pattern), strict=True):
            if not weights[0]:
                continue
            size, stride = [[n or 0 for n in self.shape] for _ in range(2)]
            shape, factor = [1] * len(size), factors
            for i, axis in enumerate(self._axes):
                size[axis] = shape[axis] = group.shape[i]
                stride[axis], factor = strides[i], factor.narrow(i, around[i], group.shape[i])
            own = [n if a in self._axes else self._window[a] for a, n in enumerate(size)]
            graph, outer = tiles(size, own, self._overlap, closed), bool(group.outer[0])
            told = {} if outer or null is None else dict.fromkeys(graph.pieces, null)
            options: dict[str, Any] = {"conditions": told, "null_condition": null}
            joint = compose(graph, scores, rule=rule, max_batch=max_batch, **options)
            weight = (weights[0] * factor).reshape(shape).to(self._like)
            pieces.append(_Piece(joint, weight, size, stride, outer))
        groups = [group for piece in pieces for group in piece.joint.regions.groups]
        check_of_windows("Endless", scores, {tuple(group.shape) for group in groups})
        return pieces

    def _told(self, conditions: Labels, piece: "_Piece", windows: Context) -> dict[str, Any]:
        """The conditions of windows at the call of their joint."""
        first = [[at[axis + 1] * piece.stride[axis] for axis in self._axes] for at in windows]
        places = torch.tensor(first, device=self._like.device)
        given, names = on_copies(conditions, places), piece.joint.regions.pieces
        check_mapping("Endless", "conditions", given, "Return keyword arguments of the scores.")
        told = {}
        for word, values in given.items():
            rows = tensor_of("Endless", f"the condition {word!r}", values)
            if rows.shape[:1] != places.shape[:1]:
                raise ShapeError(
                    f"Endless: expected the condition {word!r} [{len(places)}, ...], a row for "
                    f"each of as many windows, got {tuple(rows.shape)}."
                )
            rows = rows[:, None].expand(len(rows), len(names), *rows.shape[1:])
            told[word] = per_node(names, rows.to(places.device))
        return told

    def _start(self, places: Context) -> list[Tensor]:
        like = self._like.new_empty(len(places), *self._tile)
        return [*(self._mean + self._levels[0] * self._draw(places, START, like)).unsqueeze(1)]

    def _step(
        self,
        number: int,
        sigma: float,
        past: list[float],
        sigma_next: float,
        places: Context,
        states: list[Tensor],
        *parts: list[Tensor],
    ) -> list[Tensor]:
        """Tiles of the next level, from those of this one and of all parts of the score."""
        x = torch.stack(states, dim=1)
        score = sum((torch.stack(part)[:, 0] for part in parts), torch.zeros_like(x[0]))
        state = State(x[0], number, sigma, history=tuple(zip(past, x[1:], strict=True)))
        after = self._solver.step(lambda *_: score, state, sigma_next, partial(self._draw, places))
        return _rows(torch.stack([after.x, *(value for _, value in after.history)], dim=1))

    def _draw(self, places: Context, number: int, like: Tensor) -> Tensor:
        """The noise of tiles: a function of the seed, the number and the place in the canvas."""
        finite = [axis for axis, size in enumerate(self.shape) if size is not None]
        order, drawn = [*self._axes, *finite], []
        for place in places:
            *above, last = ((place[axis + 1] * self._tile[axis]) for axis in self._axes)
            rows = range(above[0], above[0] + self._tile[self._axes[0]]) if above else range(1)
            noise = Noise(tuple(self._seed + (row % ROWS << 64) for row in rows))
            flat = self._like.new_empty(len(rows), self._tile[self._axes[-1]] * self._inner)
            values = noise(number, flat, last * self._inner)
            drawn.append(values.reshape([self._tile[axis] for axis in order]))
        return torch.stack(drawn).permute(0, *(1 + order.index(a) for a in range(len(order))))


@dataclass(frozen=True)
class _Piece:
    """Windows or overlaps of one kind.

    Attributes:
        joint: the joint of one of them, along the finite axes.
        weight: the factor of its score.
        size, stride: of one, and from one to the next, `[axes]`.
        outer: whether they are windows.
    """

    joint: Joint
    weight: Tensor
    size: list[int]
    stride: list[int]
    outer: bool


def _integer(v: Any) -> int:
    """An integer of any library; arrays and booleans, which tensors take for more, are none."""
    if isinstance(v, bool) or getattr(v, "ndim", None):
        raise TypeError
    return index(v)


def _scored(
    piece: _Piece,
    sigma: float,
    told: Callable[[Context], dict[str, Any]] | None,
    windows: Context,
    states: list[Tensor],
) -> list[Tensor]:
    """What windows of one kind contribute to the score."""
    given = {} if told is None else told(windows)
    return _rows(piece.weight * piece.joint(torch.stack(states)[:, 0], sigma, **given).unsqueeze(1))


def _rows(values: Tensor) -> list[Tensor]:
    """The rows, each with a memory of its own, so that one that is dropped is freed."""
    return [row.clone() for row in values]
