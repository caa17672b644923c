"""How the regions of a batch are shared between model calls: by a limit, or one that is measured.

With `max_batch="auto"` the first call of a joint times its models on 1, 2, 4, ... rows of its own
input and keeps, per batch of regions, device and dtype, the smallest size whose time per row is
within 5 % of the least. It costs about as much as four calls of the joint at that size, once.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf, prod
from typing import Literal, TypeAlias

from pgmdiff.composition.evaluate import Chunk
from pgmdiff.composition.plan import Batch
from pgmdiff.errors import FULL

__all__ = ["MaxBatch", "chunks", "fastest", "halves", "out_of_memory"]

MaxBatch: TypeAlias = int | Literal["auto"] | None
"""Most rows of one model call: a number, one that is measured, or no limit."""

REPEATS = 3
"""How often each size is timed; the least time counts."""
NEAR, SLOWER = 1.05, 1.3
"""Times per row, relative to the least, that are as good, and that end the search if two in a row
are above."""


def chunks(batch: Batch, n_samples: int, limit: int) -> Iterator[Chunk]:
    """What each model call of a batch sees: the limit is shared between regions and samples."""
    width = min(n_samples, limit)
    height = limit // width
    for start in range(0, len(batch.group), height):
        stop = min(start + height, len(batch.group))
        spaced = batch.spaced and batch.spaced.part(start, stop)
        if spaced and not spaced.pay((stop - start) * width * prod(batch.group.shape)):
            spaced = None
        for first in range(0, n_samples, width):
            samples = slice(first, min(first + width, n_samples))
            yield Chunk(batch, start, stop, samples, spaced)


def halves(chunk: Chunk) -> tuple[Chunk, ...]:
    """The same regions and samples in two chunks; the chunk alone if it is one row."""
    first, last = chunk.samples.start, chunk.samples.stop
    if chunk.stop - chunk.start > 1:
        middle = (chunk.start + chunk.stop) // 2
        cuts = ((chunk.start, middle), (middle, chunk.stop))
        return tuple(Chunk(chunk.batch, *cut, chunk.samples) for cut in cuts)
    if last - first > 1:
        middle = (first + last) // 2
        parts = (slice(first, middle), slice(middle, last))
        return tuple(replace(chunk, samples=part, entries=None) for part in parts)
    return (chunk,)


def out_of_memory(error: Exception) -> bool:
    """Whether PyTorch says, on any device, that there is not enough memory."""
    return isinstance(error, RuntimeError) and bool(FULL.search(str(error)))


def fastest(call: Callable[[int], None], rows: int) -> tuple[int, float]:
    """The smallest of 1, 2, 4, ..., `rows` that is about as fast per row as any.

    Args:
        call: makes a call with so many rows, and waits for it.
        rows: the most that there are.

    Returns:
        The size, and up to how many rows it is known to be best: `rows` if the largest was, else
        infinity.
    """
    times: dict[int, float] = {}
    for size in [*(2**k for k in range((rows - 1).bit_length())), rows]:
        try:
            times[size] = min(_seconds(call, size) for _ in range(REPEATS)) / size
        except RuntimeError as error:
            if not times or not out_of_memory(error):
                raise
            break
        if min(list(times.values())[-2:]) > SLOWER * min(times.values()):
            break  # one slow size may be the machine's doing, two in a row are not
    least = min(times.values())
    best = min(size for size, each in times.items() if each <= NEAR * least)
    return best, rows if best == rows else inf


def _seconds(call: Callable[[int], None], size: int) -> float:
    start = time.perf_counter()
    call(size)
    return time.perf_counter() - start
