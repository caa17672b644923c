"""The scale benchmark: time and memory to build, validate and compile graphs of up to 1e6 nodes.

A chain of n variables, a random tree of n variables, and a grid of √n × √n tiles (windows of
16 × 16 pixels, overlap 8), from the array constructors. Each case runs in a process of its own, so
that the peak of its resident memory above the imports is its own.

Setting up other graphs is measured in seconds of the processor: their cluster variation and their
junction tree, and composing a score, or a condition, for each node of a chain. What composing
`Posterior` on large graphs with loops takes is measured by `completions`.
"""

import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping
from functools import partial
from math import isqrt, log10
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
from tqdm import tqdm

from benchmarks import completions
from benchmarks.reports import columns, points, settings, table
from pgmdiff.composition.composing import compose
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    junction_tree,
    markov_random_field,
    star,
    tiles,
)
from pgmdiff.text import Table

__all__ = ["KINDS", "draw", "run", "tables"]

SIZES = (1_000, 10_000, 100_000, 1_000_000)
KINDS = ("chain", "random tree", "grid of tiles")
SET_UP = (
    *(
        f"{what} of a {kind}"
        for what in ("cluster variation", "junction tree")
        for kind in ("chain", "star", "sparse graph")
    ),
    "a score for each node",
    "a condition for each node",
)


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures all cases, or with `smoke` the smallest size in one process; always on the CPU."""
    cases = [(kind, n) for kind in KINDS for n in (SIZES[:1] if smoke else SIZES)]
    context, per_process = multiprocessing.get_context("spawn"), None if smoke else 1
    with context.Pool(1, maxtasksperchild=per_process) as pool:
        rows = list(tqdm(pool.imap(_measure, cases), desc="scale", total=len(cases)))
        others = [(kind, n) for kind in SET_UP for n in (SIZES[:1] if smoke else SIZES[:3])]
        seconds = dict(zip(others, pool.imap(_set_up, others), strict=True))
        large = [(kind, n) for kind in completions.CASES for n in completions.SIZES]
        large = [(completions.CASES[1], 2_500)] if smoke else large
        found = list(pool.imap(completions.measure, large))
    return {"settings": settings(), "rows": rows, "set_up": set_up_rows(seconds),
            "completions": found}  # fmt: skip


def set_up_rows(seconds: Mapping[tuple[str, int], float]) -> list[dict[str, Any]]:
    """Seconds by kind and size, with the exponent of their growth since a tenth of the size."""
    rows: list[dict[str, Any]] = []
    for (kind, n), found in seconds.items():
        rows.append({"kind": kind, "n": n, "seconds": found})
        if before := seconds.get((kind, n // 10)):
            rows[-1]["exponent"] = round(log10(found / before), 2)
    return rows


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The times and the memory of all cases."""
    shown = columns("kind n:, build:.2f validate:.2f compile:.2f seconds:.2f megabytes:.0f")
    found = [table("Seconds to build, validate and compile graphs", result["rows"], shown)]
    shown = columns("kind n:, seconds:.2f exponent")
    found.append(table("Seconds of set-up", result["set_up"], shown))
    shown = columns("kind n:, patches:, hops residual:.2g seconds cpu_seconds megabytes")
    return [*found, table("Completions", result["completions"], shown)]


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


def _set_up(case: tuple[str, int]) -> float:
    """Seconds of the processor."""
    kind, n = case
    graph = star(n) if kind.endswith("star") else chain(n)
    if kind.endswith("sparse graph"):
        graph = markov_random_field(nx.gnm_random_graph(n, n // 2, seed=0))
    nodes = (*graph.factors, *graph.variables)
    scores: Any = lambda x, sigma, **condition: -x  # noqa: E731
    conditions = {}
    if kind.startswith("a score"):
        scores = {name: partial(lambda x, sigma, name: -x, name=name) for name in nodes}
    elif kind.startswith("a condition"):
        conditions = {name: {"text": torch.zeros(4)} for name in nodes}
    start = time.process_time()
    if kind.startswith("cluster"):
        cluster_variation(graph)
    elif kind.startswith("junction"):
        junction_tree(graph, max_clique=20)
    else:
        compose(graph, scores, conditions=conditions)
    return round(time.process_time() - start, 4)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
