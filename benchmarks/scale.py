"""What graphs of up to a million nodes cost: to build, to validate and to compile, and in memory.

A chain of n variables, a random tree of n variables, and a grid of √n × √n tiles (windows of
16 × 16 pixels, overlap 8), from the array constructors. Each case runs in a process of its own, so
that the peak of its resident memory above the imports is its own.
"""

import json
import multiprocessing
import platform
import resource
import time
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.composition.composing import compose
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, tiles

__all__ = ["draw", "run", "table"]

SIZES = (1_000, 10_000, 100_000, 1_000_000)
KINDS = ("chain", "random tree", "grid of tiles")


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures all cases; `smoke` only the smallest size. Nothing runs on a device."""
    sizes = SIZES[:1] if smoke else SIZES
    cases = [(kind, n) for kind in KINDS for n in sizes]
    context = multiprocessing.get_context("spawn")
    rows = []
    for case in tqdm(cases, desc="scale"):
        with context.Pool(1) as pool:
            rows.append(pool.apply(_measure, case))
    return {"settings": {"torch": torch.__version__, "machine": platform.machine()}, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """The rows as text."""
    lines = [
        f"{'graph':>14} {'n':>9} {'build':>7} {'validate':>9} {'compile':>8} {'sum':>7}  memory"
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['kind']:>14} {row['n']:9,} {row['build']:6.2f}s {row['validate']:8.2f}s "
            f"{row['compile']:7.2f}s {row['seconds']:6.2f}s {row['megabytes']:5.0f} MB"
        )
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """The curves of seconds against size."""
    from pgmdiff.plotting import curves

    seconds = {
        kind: tuple(
            [row[key] for row in result["rows"] if row["kind"] == kind] for key in ("n", "seconds")
        )
        for kind in KINDS
    }
    figure = curves(
        seconds,  # type: ignore[arg-type]
        xlabel="variables, or windows",
        ylabel="seconds",
        title="Build, validate and compile a graph",
        limit=("aim: 3 s for a million", 3.0),
    )
    figure.savefig(path, dpi=110)


def _measure(kind: str, n: int) -> dict[str, Any]:
    before = _peak_megabytes()
    parents = _random_parents(n) if kind == "random tree" else None
    marks = [time.perf_counter()]
    graph = _build(kind, n, parents)
    marks.append(time.perf_counter())
    report = graph.validate()
    marks.append(time.perf_counter())
    compose(graph, _score)
    marks.append(time.perf_counter())
    if not report.valid:
        raise AssertionError(json.dumps({"kind": kind, "n": n}))
    build, validate, compiled = np.diff(marks).round(4).tolist()
    return {
        "kind": kind,
        "n": isqrt(n) ** 2 if kind == "grid of tiles" else n,
        "regions": report.n_regions,
        "build": build,
        "validate": validate,
        "compile": compiled,
        "seconds": round(marks[-1] - marks[0], 4),
        "megabytes": round(_peak_megabytes() - before, 1),
    }


def _build(kind: str, n: int, parents: "np.ndarray[Any, Any] | None") -> FactorGraph | RegionGraph:
    if kind == "chain":
        return chain(n)
    if parents is not None:
        return FactorGraph.from_arrays(np.stack([parents, np.arange(1, n)], axis=1), n)
    side = 8 * isqrt(n) + 8
    return tiles((side, side), 16, 8)


def _random_parents(n: int) -> "np.ndarray[Any, Any]":
    return (np.random.default_rng(0).random(n - 1) * np.arange(1, n)).astype(np.int64)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _score(x: Tensor, sigma: Tensor) -> Tensor:
    return -x
