"""What a step costs beyond the network: the gravel U-Net on a strip of 64 windows.

Scores are called in one process, turn by turn at the levels of a schedule, after a first run that
makes the factors; only ratios of neighbouring turns to the marginal rule's are kept, with their
quartiles. Covariances decay exponentially with the distance; the time does not depend on them.
*memory* is what a run carries from step to step, in states: numbers of messages over elements.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import trange

from benchmarks.exactness.aims import aim
from benchmarks.problems import RULES
from benchmarks.reports import Row, columns, table
from pgmdiff.composition.composing import compose
from pgmdiff.composition.joint import Remembering
from pgmdiff.graphs import tiles
from pgmdiff.models.gravel import gravel_denoiser
from pgmdiff.samplers import karras
from pgmdiff.scores.adapters import from_denoiser
from pgmdiff.text import Table

__all__ = ["rows", "tables", "targets"]

WINDOWS, SIDE, OVERLAP, TURNS = 64, 16, 8, 15
COMPARED = "marginal", "posterior", "consistent"
MOST_TIME, MOST_MEMORY = 1.15, 3.0


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Times the rules, or with `smoke` once on a short strip."""
    windows, turns = (3, 1) if smoke else (WINDOWS, TURNS)
    shape = 1, SIDE, SIDE + (windows - 1) * (SIDE - OVERLAP)
    graph = tiles(shape, (1, SIDE, SIDE), (0, 0, OVERLAP))
    covariances = {size: _covariance(size) for size in ((1, SIDE, SIDE), (1, SIDE, OVERLAP))}
    score = from_denoiser(gravel_denoiser())
    u, levels = (
        torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)),
        karras(4, 0.05, 10.0),
    )
    runs = {
        rule: compose(graph, score, rule=RULES[rule](covariances), max_batch=64).remembering()
        for rule in COMPARED
    }

    def step(run: Remembering) -> float:
        start = time.perf_counter()
        for sigma in levels[:-1]:
            run(sigma * u, sigma)
        return (time.perf_counter() - start) / (len(levels) - 1)

    with torch.inference_mode():
        for run in runs.values():
            step(run)
        times = [
            {rule: step(run) for rule, run in runs.items()} for _ in trange(turns, desc="cost")
        ]
    found = []
    for rule, run in runs.items():
        ratios = sorted(turn[rule] / turn["marginal"] for turn in times)
        kept = sum(part.numel() for part in run.memory.values() if isinstance(part, Tensor))
        found.append(
            {
                "method": rule,
                "windows": windows,
                "seconds": statistics.median(turn[rule] for turn in times),
                "ratio": [ratios[len(ratios) * k // 4] for k in (1, 2, 3)],
                "memory": kept / u.numel(),
            }
        )
    return found


def _covariance(shape: Sequence[int]) -> Tensor:
    places = torch.cartesian_prod(*map(torch.arange, shape)).double()
    return (-torch.cdist(places, places) / 2).exp()


def targets(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The time of a step, and the memory."""
    (row,) = (row for row in rows if row["method"] == "consistent")
    about = f"Gravel U-Net, {row['windows']} windows"
    middle, memory = row["ratio"][1], row["memory"]
    yield aim(
        f"{about}: time of a step over the marginal rule's, to be at most {MOST_TIME}",
        row["ratio"],
        [f"{middle:.3f}"] if middle > MOST_TIME else [],
    )
    target = f"{about}: memory in states, to be at most {MOST_MEMORY:g}"
    yield aim(target, memory, [f"{memory:.2f}"] if memory > MOST_MEMORY else [])


def tables(rows: Sequence[Row]) -> list[Table]:
    """Times, ratios and memory."""
    shown = columns("method windows seconds:.3f ratio[1]:.3f memory:.2f")
    return [table("A step with warm factors", rows, shown)]
