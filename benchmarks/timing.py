"""Times of calls that take turns: machines are shared and noisy, so that only ratios count."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

__all__ = ["by_turns", "quartiles", "timed"]

Key = TypeVar("Key")


def by_turns(
    turns: Mapping[Key, Callable[[], object]],
    device: torch.device,
    seconds: float,
    least: int = 5,
) -> dict[Key, list[float]]:
    """The times of some calls, which take turns for so many seconds, and a few times at least."""
    times: dict[Key, list[float]] = {name: [] for name in turns}
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or done < least:
        done += 1
        for name, turn in turns.items():
            times[name].append(timed(turn, device))
    return times


def timed(turn: Callable[[], object], device: torch.device) -> float:
    """The seconds of a call, which on a GPU is waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    turn()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def quartiles(times: list[float], others: list[float]) -> tuple[float, ...]:
    """The quartiles of the ratios of neighbouring turns."""
    return tuple(statistics.quantiles([t / o for t, o in zip(times, others, strict=True)], n=4))
