r"""Baselines: other ways to make a large state from the score of its pieces, with their cost.

    concatenation      every piece alone, side by side
    naive              the piece's network at the whole state, larger than what it was trained on
    composed           a joint score; with `rule=Average()`, overlap averaging
    outpainting        one piece after another, given what earlier ones share with it
    split_and_inpaint  every piece alone, given the part of an observation that lies in it

(Zhang et al., "DiffCollage", 2023, Figs. 4 and 7.) All are called alike: with the score of one
piece, a graph whose outer regions are the pieces, such as `tiles(shape, window, overlap)` on any
axes, and a schedule. An element of several pieces is that of the one drawn first.

The cost is counted while sampling. An *evaluation* is one piece, or in `naive` one whole state,
going through the network once, per sample; on the *critical path* are those that must follow one
another. For n pieces of L evaluations each these are L if the pieces are independent, n L if one
follows the other, and ⌈(n + 1) / 2⌉ L from the middle of a strip. Gradients, which reconstruction
needs, are not counted: each costs about two evaluations more.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgmdiff import samplers
from pgmdiff.composition.batching import MaxBatch
from pgmdiff.composition.composing import compose
from pgmdiff.composition.rules import Rule
from pgmdiff.conditioning.reconstructing import Weight, reconstruction
from pgmdiff.conditioning.replacing import replacement
from pgmdiff.errors import GraphError, PgmdiffError, ShapeError, warn
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.noise import Noise
from pgmdiff.samplers.start import mean_of
from pgmdiff.scores.adapters import Score, Wrapped, denoise
from pgmdiff.scores.walls import called
from pgmdiff.text import by_field

__all__ = ["Drawn", "composed", "concatenation", "naive", "outpainting", "split_and_inpaint"]


Levels = Sequence[float]


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples, and what one of them cost.

    Attributes:
        samples: `[batch, *event]`.
        evaluations: of the network, per sample.
        critical_path: the number of those that had to follow one another.
    """

    samples: Tensor
    evaluations: int
    critical_path: int

    __repr__ = by_field


@dataclass(frozen=True, eq=False)
class Counted(Wrapped):
    """A score that counts its calls, and the rows that it receives, also by their shape."""

    counts: Counter[Any]

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        self.counts.update({"calls": 1, "rows": len(x), tuple(x.shape[1:]): len(x)})
        return called(self.score, x, sigma, **condition)

    def denoise(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        self.counts.update({"calls": 1, "rows": len(x), tuple(x.shape[1:]): len(x)})
        return denoise(self.score, x, sigma, **condition)


def concatenation(score: Score, graph: GraphLike, sigmas: Levels, **options: Any) -> Drawn:
    """Independent pieces side by side; what pieces share is that of the first.

    Args:
        score: the score of a piece; give conditions by `functools.partial`.
        graph: a graph, of which only the outer regions are used, all of one shape.
        sigmas: noise levels, as for `samplers.sample`.
        options: `batch`, the number of samples (1), and `generator`, `solver`, `mean` (of the whole
            state), `dtype`, `device` and `progress`, as for `samplers.sample`.

    Raises:
        GraphError: the pieces have different shapes, or a region has a condition of its own.
    """
    return _in_waves("concatenation", score, graph, sigmas, _at_once, options)


def naive(score: Score, graph: GraphLike, sigmas: Levels, **options: Any) -> Drawn:
    """The score of a piece, asked for the whole state at once: the network sees a longer input.

    Args:
        score: a score that accepts states larger than a piece.
        graph: a graph, of which only the state's shape is used.
        sigmas, options: as for `concatenation`.
    """
    shape = _batch("naive", options), *graph_of(graph, "naive").regions.event_shape
    counts = Counter[Any]()
    u = samplers.sample(Counted(score, counts), sigmas, shape=shape, **options)
    return Drawn(u, counts["calls"], counts["calls"])


def composed(
    score: Score,
    graph: GraphLike,
    sigmas: Levels,
    *,
    rule: Rule | None = None,
    max_batch: MaxBatch = None,
    **options: Any,
) -> Drawn:
    """Samples of a joint score, in the form of the baselines; overlap averaging is one of them.

    Args:
        score: the score of a piece, and of all other regions that the rule evaluates.
        graph: the graph of the state.
        rule, max_batch: as for `compose`; DiffCollage's `Marginal()` if None, overlap averaging
            with `Average()`.
        sigmas, options: as for `concatenation`.
    """
    counts, n = Counter[Any](), _batch("composed", options)
    joint = compose(graph, Counted(score, counts), rule=rule, max_batch=max_batch)
    u = samplers.sample(joint, sigmas, shape=(n, *joint.event_shape), **options)
    shape = joint.batches[0].group.shape  # rounds are those in which regions of it were evaluated
    alike = sum(len(batch.group) for batch in joint.batches if batch.group.shape == shape)
    return Drawn(u, counts["rows"] // n, counts[tuple(shape)] // (n * alike))


def outpainting(
    score: Score,
    graph: GraphLike,
    sigmas: Levels,
    *,
    weight: Weight | None = None,
    first: int | None = None,
    **options: Any,
) -> Drawn:
    """One piece after another, each given what it shares with those drawn before (Fig. 4).

    Pieces that share nothing new are drawn at once: from the middle of a strip one to the left and
    one to the right. On a ring whose pieces overlap by less than half they meet in a last piece,
    which is given both its ends. Wider overlaps leave it nothing to draw, and the ends know nothing
    of each other: a warning says so.

    Replacement meets overlaps, but the rest depends on them less than it should. With
    `conditioning.matched`, overlaps of one element and Gaussian data Markov to the graph, the whole
    is exact.

    Args:
        score, sigmas, options: as for `concatenation`.
        graph: a graph whose outer regions overlap, all of one shape.
        weight: the λ of `conditioning.reconstruction`, such as `dps(scale, data_std=...)`;
            replacement if None.
        first: the number of the piece to begin with, 0 for one direction; that nearest to the
            middle of the state if None.

    Raises:
        GraphError: some pieces overlap no others, and what `concatenation` raises.
        PgmdiffError: there is no such first piece.
    """
    event_shape = graph_of(graph, "outpainting").regions.event_shape

    def outwards(index: Tensor, known: Tensor) -> Iterator[list[int]]:
        if first is not None and not 0 <= first < len(index):
            raise PgmdiffError(
                f"outpainting: expected first, a piece from 0 to {len(index) - 1}, got {first}."
            )
        places = np.stack(np.unravel_index(index.numpy(), event_shape)).mean(axis=2)
        away = places - (np.array(event_shape)[:, None] - 1) / 2
        wave = [int((away**2).sum(axis=0).argmin()) if first is None else first]
        left = set(range(len(index)))
        while wave:
            yield wave
            left -= set(wave)
            reach, taken, wave = known[index].sum(dim=1).tolist(), known.clone(), []
            for piece in sorted(left, key=lambda piece: (-reach[piece], piece)):
                new = index[piece][~known[index[piece]]]
                if reach[piece] and not taken[new].any():
                    taken[new] = True
                    wave.append(piece)
        if left:
            raise GraphError(
                f"outpainting: {len(left)} of {len(index)} pieces are not reached by overlaps. Cut "
                "windows that overlap, or use concatenation."
            )

    return _in_waves("outpainting", score, graph, sigmas, outwards, options, weight)


def split_and_inpaint(
    score: Score,
    graph: GraphLike,
    sigmas: Levels,
    observed: Tensor,
    mask: Tensor,
    *,
    weight: Weight | None = None,
    **options: Any,
) -> Drawn:
    """Every piece alone, given the observed elements that lie in it (Fig. 7).

    What pieces share is that of the first.

    Args:
        score, graph, sigmas, options: as for `concatenation`.
        observed: the observed values in their places, `[*event]` or one per sample; those where the
            mask is false are ignored.
        mask: bool `[*event]`, true where the state is observed.
        weight: the λ of `conditioning.reconstruction`; replacement if None.

    Raises:
        ShapeError: the mask or the observation has another shape than the state.
        GraphError: what `concatenation` raises.
    """
    event = tuple(graph_of(graph, "split_and_inpaint").regions.event_shape)
    fits = tuple(mask.shape) == event == tuple(observed.shape)[-len(event) :]
    each = {1, options.get("batch", 1)}
    if not fits or mask.dtype != torch.bool or observed.numel() // mask.numel() not in each:
        raise ShapeError(
            f"split_and_inpaint: expected a boolean mask and an observation {list(event)}, the "
            f"latter also one per sample, got {mask.dtype} {list(mask.shape)} and "
            f"{list(observed.shape)}."
        )
    given = observed.reshape(-1, mask.numel()), mask.flatten().cpu().clone()
    return _in_waves("split_and_inpaint", score, graph, sigmas, _at_once, options, weight, given)


def _batch(who: str, options: dict[str, Any]) -> int:
    """The number of samples, which is taken out of the options."""
    if "shape" in options:
        raise ShapeError(f"{who}: got shape=, but the graph has it. Give batch=, its first number.")
    n = options.pop("batch", 1)
    if not isinstance(n, int | np.integer) or n < 1:
        raise ShapeError(f"{who}: expected batch=, the number of samples, at least 1, got {n!r}.")
    return int(n)


def _at_once(index: Tensor, known: Tensor) -> Iterator[list[int]]:
    yield list(range(len(index)))


def _in_waves(
    who: str,
    score: Score,
    graph: GraphLike,
    sigmas: Levels,
    waves: Callable[[Tensor, Tensor], Iterator[list[int]]],
    options: dict[str, Any],
    weight: Weight | None = None,
    given: tuple[Tensor, Tensor] | None = None,
) -> Drawn:
    """Draws the pieces of one wave after another, each given what is known before its wave."""
    regions, n = graph_of(graph, who).regions, _batch(who, options)
    groups = [g.select(np.flatnonzero(g.outer)) for g in regions.groups if g.outer.any()]
    shapes = {tuple(group.shape) for group in groups}
    if len(shapes) != 1 or regions.conditions:
        raise GraphError(
            f"{who}: expected pieces of one shape and without conditions, got shapes "
            f"{sorted(shapes)[:4]} and {len(regions.conditions)} conditions. Cut windows of one "
            "size, and give conditions to the score, by functools.partial."
        )
    shape, index = shapes.pop(), torch.cat([group.flat() for group in groups])
    noise, counts = Noise.of(options.pop("generator", None), n), Counter[Any]()
    score, critical = Counted(score, counts), 0
    u, known = given or (None, torch.zeros(regions.n_elements, dtype=torch.bool))
    drawn = list[int]()
    u = u if u is None else u.expand(n, -1).clone()
    mean = mean_of(who, options.pop("mean", 0.0), regions.event_shape, torch.float64).flatten()
    for wave in waves(index, known):
        alike: dict[tuple[bool, ...], list[int]] = {}  # pieces of which the same is given
        for piece in wave:
            alike.setdefault(tuple(known[index[piece]].tolist()), []).append(piece)
        most, made = 0, dict[int, Tensor]()
        for mask, some in alike.items():
            seen, calls = torch.tensor(mask).reshape(shape), counts["calls"]
            if seen.all():
                continue
            drawn += some
            conditioned: Score = score
            if u is not None and seen.any():
                y = u[:, index[some]].transpose(0, 1).reshape(-1, *shape)
                conditioned = replacement(score, y, seen)
                if weight is not None:
                    conditioned = reconstruction(score, y, seen, weight)
            seeds = [seed for piece in some for seed in noise.seeds(piece)]
            options["mean"] = mean[index[some]].reshape(-1, *shape).repeat_interleave(n, dim=0)
            x = samplers.sample(
                conditioned, sigmas, shape=(len(seeds), *shape), generator=seeds, **options
            )
            u = x.new_zeros(n, len(known)) if u is None else u.to(x)
            made |= zip(some, x.flatten(1).split(n), strict=True)
            most = max(most, counts["calls"] - calls)
        for piece in filter(made.__contains__, wave):  # the first has what they share
            assert u is not None, "it has been drawn"
            new = ~known[index[piece]]
            u[:, index[piece][new]] = made[piece][:, new]
            known[index[piece]] = True
        critical += most
    if given is None:
        _warn_of_apart(who, index, drawn)
    assert u is not None, "there are pieces"
    return Drawn(u.reshape(n, *regions.event_shape), counts["rows"] // n, critical)


def _warn_of_apart(who: str, index: Tensor, drawn: Sequence[int]) -> None:
    """Warns of a piece that was not drawn, with elements that no drawn piece has together."""
    for piece in sorted({*range(len(index))} - {*drawn}):
        held = torch.stack([torch.isin(index[piece], index[other]) for other in drawn])
        kinds = held.unique(dim=1).double()
        if not (kinds.mT @ kinds).all():
            warn(
                f"{who}: all elements of piece {piece} were drawn, but with different pieces: what "
                "meets there is not joined, as the two ends of a ring. Let pieces overlap by less "
                "than half, or compose them (baselines.composed)."
            )
            return
