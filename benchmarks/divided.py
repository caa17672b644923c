"""What dividing a state costs: a canvas in strips, one after another, and among processes.

`canvas` compares `distributed.stream`, which holds a strip per noise level, with `sample` of the
whole: in time, and in the most memory that a run holds at once. Beside the gravel model there are
exact scores of a Gaussian process, which hardly hide what strips cost. The array that is written
stands for a file and is not counted.

`spread` compares a call of `distributed.Slab` or `distributed.shared` on two processes of one
thread each with the same call in one of them while the other waits, and counts the bytes that a
process sends. The model is that of gravel.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.peers import OVERLAP, SIDE, peak_bytes
from benchmarks.timing import by_turns, quartiles, timed
from pgmdiff.composition import Consistent, Joint, Marginal, Rule, compose
from pgmdiff.distributed import Ranks, Slab, shared, stream
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.models.gravel import gravel_denoiser
from pgmdiff.samplers import karras, sample
from pgmdiff.scores.adapters import from_denoiser

__all__ = ["RULES", "SPREAD", "canvas", "one_of_two", "spread"]

LEVELS = karras(6, 0.01, 10.0)
WINDOW, STRIP = 16, 4096
"""Columns of a window, of which half overlap, and of a strip."""
ROWS = 16
"""Most windows of a call of the gravel model."""
SIZE = 2
"""Processes."""


def _covariance(n: int) -> Tensor:
    place = torch.arange(n, dtype=torch.float64)
    return torch.exp(-(place[:, None] - place).abs() / 4)


RULES: dict[str, Rule] = {
    "Marginal": Marginal(),
    "Consistent": Consistent({(n,): _covariance(n) for n in (WINDOW, WINDOW // 2)}),
}
SPREAD: dict[str, Callable[[Joint], Any]] = {"Slab": Slab, "shared": shared}


def _process(x: Tensor, sigma: Tensor) -> Tensor:
    """The score of windows of a Gaussian process, all at one noise level."""
    noisy = _covariance(x.shape[-1]).to(x) + sigma[0] ** 2 * torch.eye(x.shape[-1]).to(x)
    score: Tensor = -torch.linalg.solve(noisy, x.T).T
    return score


def _windows(model: str, columns: int) -> RegionGraph:
    lead = (1, SIDE) if model == "gravel" else ()
    overlap = (*[0] * len(lead), WINDOW // 2)
    return tiles((*lead, columns), (*lead, WINDOW), overlap)


def canvas(
    model: str, rule: str, columns: int, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Runs of a canvas in strips and whole, turn by turn."""
    score: Any = _process
    options: dict[str, Any] = {"rule": RULES[rule]}
    if model == "gravel":  # in calls of the same size
        score, options["max_batch"] = from_denoiser(gravel_denoiser().to(device)), ROWS
    graph, strip = _windows(model, columns), min(STRIP, columns // 4)
    out = np.zeros((1, *graph.event_shape), np.float32)
    drawn: dict[str, Any] = {"shape": out.shape, "generator": 0, "device": device}

    def whole() -> Tensor:
        return sample(compose(graph, score, **options), LEVELS, **drawn)

    def strips() -> Any:
        pattern = _windows(model, 4 * WINDOW)
        return stream(pattern, score, LEVELS, out=out, strip=strip, **drawn, **options)

    turns: dict[str, Callable[[], Any]] = {"whole": whole, "strips": strips}
    peaks = {name: peak_bytes(turn, device) for name, turn in turns.items()}
    times = by_turns(turns, device, seconds, least=3)
    apart = float(np.abs(whole().cpu().numpy() - out).max())
    return {
        "model": model,
        "rule": rule,
        "columns": columns,
        "strip": strip,
        "threads": torch.get_num_threads(),
        "turns": len(times["whole"]),
        "apart": apart,
        **{
            f"{each}_seconds": statistics.median(t) / (len(LEVELS) - 1) for each, t in times.items()
        },
        **{f"{name}_peak_bytes": peak for name, peak in peaks.items()},
        "strips_over_whole": quartiles(times["strips"], times["whole"]),
        "memory_over_whole": peaks["strips"] / peaks["whole"],
    }


def spread(kind: str, n: int, device: torch.device, seconds: float) -> dict[str, Any]:
    """Calls on two processes, and in one, on a strip of n windows of the gravel model."""
    assert device.type == "cpu", "processes of one machine share its CPU"
    with (
        tempfile.TemporaryDirectory() as folder,
        multiprocessing.get_context("spawn").Pool(SIZE) as pool,
    ):
        given = [(rank, f"file://{folder}/meeting", kind, n, seconds) for rank in range(SIZE)]
        return pool.starmap(one_of_two, given, chunksize=1)[0]


@torch.no_grad()
def one_of_two(rank: int, meeting: str, kind: str, n: int, seconds: float) -> dict[str, Any]:
    """Measures calls with another process, met through a file; that of rank 0 has the result."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", meeting, rank=rank, world_size=SIZE)
    graph = tiles((1, SIDE, OVERLAP * (n + 1)), (1, SIDE, SIDE), (0, 0, OVERLAP))
    joint = compose(graph, from_denoiser(gravel_denoiser()), max_batch=64)
    divided, ranks = SPREAD[kind](joint), Ranks()
    u = torch.randn(1, *graph.event_shape, generator=torch.Generator().manual_seed(0))
    part = divided.cut(u) if kind == "Slab" else u
    whole = joint(u, 1.0)
    expected = divided.cut(whole) if kind == "Slab" else whole
    apart, before = float((divided(part, 1.0) - expected).abs().max()), divided.ranks.sent
    divided(part, 1.0)
    sent = divided.ranks.sent - before
    times: dict[str, list[float]] = {"one": [], "two": []}
    start, going = time.perf_counter(), True
    while going:
        if rank == 0:
            times["one"].append(timed(partial(joint, u, 1.0), u.device))
        dist.barrier()
        times["two"].append(timed(partial(divided, part, 1.0), u.device))
        wanted = time.perf_counter() - start < seconds or len(times["two"]) < 5
        going = bool(ranks.agree(None, wanted)[0, 0])  # all do as rank 0
    dist.destroy_process_group()
    if rank:
        return {}
    return {
        "kind": kind,
        "windows": n,
        "processes": SIZE,
        "turns": len(times["two"]),
        "apart": apart,
        "bytes_sent": sent,
        **{f"{name}_seconds": statistics.median(t) for name, t in times.items()},
        "two_over_one": quartiles(times["two"], times["one"]),
    }
