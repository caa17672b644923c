"""The speed benchmark: the time of a joint score relative to its floor, the network's own calls.

For strips of 8, 64 and 512 tiles of the gravel model and several `max_batch`, in one process and
turn by turn, the time of

- the floor: the network alone on the same batches, gathered beforehand;
- the joint score: the floor and everything that pgmdiff adds to it;
- a loop per view: code written by hand, with one call per window and per overlap.

Only ratios of neighbouring turns are compared: machines are shared and noisy.
"""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.reports import Column, columns, table
from pgmdiff.composition.composing import compose
from pgmdiff.graphs import tiles
from pgmdiff.models.gravel import gravel_denoiser
from pgmdiff.scores.adapters import from_denoiser
from pgmdiff.text import Table

__all__ = ["run", "tables"]

TILES = (8, 64, 512)
MAX_BATCHES = (8, 16, 64, None)
LOOPS = 7
"""Turns of the loop per view, which is slow."""
SECONDS = 20.0
"""Spent on each case, so that short calls are repeated more often."""


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Times all cases, or with `smoke` only the smallest one, briefly.

    Returns:
        `settings`, and `rows` with times in seconds and the quartiles of the ratios.
    """
    cases = [(n, m) for n in TILES for m in MAX_BATCHES][: 1 if smoke else None]
    seconds = 0.1 if smoke else SECONDS
    return {
        "settings": {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": platform.machine() if device == "cpu" else torch.cuda.get_device_name(),
            "seconds_per_case": seconds,
        },
        "rows": [
            _row(n, max_batch, torch.device(device), seconds)
            for n, max_batch in tqdm(cases, desc="speed")
        ],
    }


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The floors, and the ratios of joint and loop to them."""
    ratio = "{joint_over_floor[1]:.3f} ({joint_over_floor[0]:.3f} to {joint_over_floor[2]:.3f})"
    shown: dict[str, Column] = {
        "tiles": "{tiles}",
        "max_batch": lambda row: str(row["max_batch"] or "all"),
        **columns("turns floor_seconds:.4f"),
        "joint over floor": ratio,
        **columns("loop_over_floor[1]:.2f"),
    }
    return [table("One score of a strip of tiles", result["rows"], shown)]


@torch.no_grad()
def _row(n: int, max_batch: int | None, device: torch.device, seconds: float) -> dict[str, Any]:
    graph = tiles((1, 16, 8 * n + 8), (1, 16, 16), (0, 0, 8))
    denoiser = gravel_denoiser().to(device)
    score = from_denoiser(denoiser)
    joint = compose(graph, score, max_batch=max_batch)
    u = torch.randn(1, *graph.event_shape, generator=torch.Generator().manual_seed(0)).to(device)
    flat, one = u.reshape(1, -1), torch.ones(1, device=device)
    inputs = [
        (chunk.gather(flat)[0].reshape(-1, *chunk.batch.group.shape), one.expand(values.shape[1]))
        for chunk, values in joint.evaluate(flat, one)
    ]

    def loop_per_view() -> Tensor:
        total = torch.zeros_like(u)
        for start in range(0, 8 * n, 8):
            total[..., start : start + 16] += score(u[..., start : start + 16], one)
        for start in range(8, 8 * n, 8):
            total[..., start : start + 8] -= score(u[..., start : start + 8], one)
        return total

    turns: dict[str, Callable[[], Any]] = {
        "floor": lambda: [denoiser(x, sigma) for x, sigma in inputs],
        "joint": lambda: joint(u, 1.0),
        "loop": loop_per_view,
    }
    difference = (turns["joint"]() - turns["loop"]()).abs().max().item()
    assert difference < 1e-3, f"joint and loop disagree by {difference}"
    times: dict[str, list[float]] = {name: [] for name in turns}
    beside_loop: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times["floor"]) < 5:
        pair = ["floor", "joint"]
        for name in pair if len(times["floor"]) % 2 else pair[::-1]:
            times[name].append(_timed(turns[name], device))
        if len(times["loop"]) < LOOPS:
            times["loop"].append(_timed(turns["loop"], device))
            beside_loop.append(times["floor"][-1])
    return {
        "tiles": n,
        "max_batch": max_batch,
        "turns": len(times["floor"]),
        **{f"{name}_seconds": statistics.median(t) for name, t in times.items()},
        "joint_over_floor": _quartiles(times["joint"], times["floor"]),
        "loop_over_floor": _quartiles(times["loop"], beside_loop),
    }


def _timed(turn: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    turn()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _quartiles(times: list[float], floor: list[float]) -> tuple[float, ...]:
    ratios = [t / f for t, f in zip(times, floor, strict=True)]
    return tuple(statistics.quantiles(ratios, n=4))
