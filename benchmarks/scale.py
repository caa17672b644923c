"""The scale benchmark: time and memory to build, validate and compile graphs of up to 1e6 nodes.

A chain of n variables, a random tree of n variables, and a grid of √n × √n tiles (windows of
16 × 16 pixels, overlap 8), from the array constructors. Each case runs in a process of its own, so
that the peak of its resident memory above the imports is its own.
"""

import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.reports import columns, points, settings, table
from pgmdiff.composition.composing import compose
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, tiles
from pgmdiff.text import Table

__all__ = ["KINDS", "draw", "run", "tables"]

SIZES = (1_000, 10_000, 100_000, 1_000_000)
KINDS = ("chain", "random tree", "grid of tiles")


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures all cases, or with `smoke` the smallest size in one process; always on the CPU."""
    cases = [(kind, n) for kind in KINDS for n in (SIZES[:1] if smoke else SIZES)]
    context, per_process = multiprocessing.get_context("spawn"), None if smoke else 1
    with context.Pool(1, maxtasksperchild=per_process) as pool:
        rows = list(tqdm(pool.imap(_measure, cases), desc="scale", total=len(cases)))
    return {"settings": settings(), "rows": rows}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The times and the memory of all cases."""
    shown = columns("kind n:, build:.2f validate:.2f compile:.2f seconds:.2f megabytes:.0f")
    return [table("Seconds to build, validate and compile graphs", result["rows"], shown)]


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draws seconds against size."""
    from pgmdiff.plotting import curves

    figure = curves(
        points(result["rows"], "kind", KINDS, "n", "seconds"),
        xlabel="variables, or windows",
        ylabel="seconds",
        title="Build, validate and compile a graph",
        limit=("aim: 3 s for a million", 3.0),
    )
    figure.savefig(path, dpi=110)


def _measure(case: tuple[str, int]) -> dict[str, Any]:
    kind, n = case
    make: Callable[[], FactorGraph | RegionGraph]
    if kind == "chain":
        make = partial(chain, n)
    elif kind == "random tree":
        parents = (np.random.default_rng(0).random(n - 1) * np.arange(1, n)).astype(np.int64)

        def make() -> FactorGraph:
            return FactorGraph.from_arrays(np.stack([parents, np.arange(1, n)], axis=1), n)

    else:
        side = 8 * isqrt(n) + 8
        make = partial(tiles, (side, side), 16, 8)
    before, marks = _peak_megabytes(), [time.perf_counter()]
    graph = make()
    marks.append(time.perf_counter())
    report = graph.validate()
    marks.append(time.perf_counter())
    compose(graph, lambda x, sigma: -x)
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


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
