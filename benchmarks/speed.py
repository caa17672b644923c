"""How far is a joint score from its floor, the network's own evaluations?

For strips of 8, 64 and 512 tiles of the gravel model and several `max_batch`, in one process and
turn by turn, the time of

- the floor: the network alone on the same batches, gathered beforehand;
- the joint score: the floor and everything pgmdiff adds to it;
- a loop per view: what one would write by hand, a call for every window and overlap.

Only ratios of neighbouring turns are compared: machines are shared and noisy.
"""

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.composition.composing import compose
from pgmdiff.composition.joint import Joint
from pgmdiff.graphs import tiles
from pgmdiff.models.gravel import gravel_denoiser
from pgmdiff.scores.adapters import from_denoiser

__all__ = ["run", "table"]

TILES = (8, 64, 512)
MAX_BATCHES = (8, 16, 64, None)
LOOPS = 7
"""Turns of the loop per view, which is slow."""
SECONDS = 20.0
"""Spent on each case, so that short calls are repeated more often."""


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Times all cases; `smoke` only the smallest one, briefly.

    Returns:
        `settings`, and `rows` with times in seconds and the quartiles of the ratios.
    """
    cases = [(n, m) for n in TILES for m in MAX_BATCHES]
    cases = cases[:1] if smoke else cases
    settings: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device != "cpu" else platform.machine(),
        "seconds_per_case": 0.1 if smoke else SECONDS,
    }
    rows = [
        _case(n, max_batch, torch.device(device), settings["seconds_per_case"])
        for n, max_batch in tqdm(cases, desc="speed")
    ]
    return {"settings": settings, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """The rows as text."""
    lines = [
        f"{'tiles':>6} {'max_batch':>9} {'turns':>6} {'floor':>9} {'joint / floor':>22} "
        f"{'loop / floor':>13}"
    ]
    for row in result["rows"]:
        low, middle, high = row["joint_over_floor"]
        lines.append(
            f"{row['tiles']:6} {row['max_batch'] or 'all':>9} {row['turns']:6} "
            f"{1e3 * row['floor_seconds']:6.1f} ms {middle:8.3f} ({low:.3f}-{high:.3f}) "
            f"{row['loop_over_floor'][1]:13.2f}"
        )
    return "\n".join(lines)


@torch.no_grad()
def _case(n: int, max_batch: int | None, device: torch.device, seconds: float) -> dict[str, Any]:
    graph = tiles((1, 16, 8 * n + 8), (1, 16, 16), (0, 0, 8))
    denoiser = gravel_denoiser().to(device)
    score = from_denoiser(denoiser)
    joint = compose(graph, score, max_batch=max_batch)
    u = torch.randn(1, *graph.event_shape, generator=torch.Generator().manual_seed(0)).to(device)
    inputs = _gathered(joint, u)
    turns: dict[str, Callable[[], Any]] = {
        "floor": lambda: [denoiser(x, sigma) for x, sigma in inputs],
        "joint": lambda: joint(u, 1.0),
        "loop": lambda: _loop_per_view(score, u, n),
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


def _gathered(joint: Joint, u: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The inputs of every model call of the joint."""
    flat, sigma = u.reshape(1, -1), torch.ones(1, device=u.device)
    return [
        (chunk.gather(flat)[0].reshape(-1, *chunk.batch.group.shape), sigma.expand(values.shape[1]))
        for chunk, values in joint.evaluate(flat, sigma)
    ]


def _loop_per_view(score: Callable[..., Tensor], u: Tensor, n: int) -> Tensor:
    total, sigma = torch.zeros_like(u), torch.ones(1, device=u.device)
    for start in range(0, 8 * n, 8):
        total[..., start : start + 16] += score(u[..., start : start + 16], sigma)
    for start in range(8, 8 * n, 8):
        total[..., start : start + 8] -= score(u[..., start : start + 8], sigma)
    return total


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
