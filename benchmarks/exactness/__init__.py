"""The exactness benchmark: losses of every rule where the truth is known or held out.

It has four parts, which can be run one by one. *gaussians*: chains, trees and loops, by exact
propagation. *modes*: non-Gaussian distributions with exact samplers. *overlap*: quality against
cost as windows overlap less. *real*: small trained models against held-out data. Every row says
what was measured, how, and over how many seeds: 0, 1, ... for the samplers, 100, 101, ... for exact
samples.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.exactness import gaussians, modes, overlap, real
from benchmarks.reports import settings
from pgmdiff.text import Table

__all__ = ["PARTS", "draw", "run", "tables"]

PARTS = {"gaussians": gaussians, "modes": modes, "overlap": overlap, "real": real}
"""Each has `rows(*, smoke)`, and `tables(rows)` and `draw(rows, folder)` for these rows."""


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] = tuple(PARTS)
) -> dict[str, Any]:
    """Measures the parts, or with `smoke` one small case of each kind; always on the CPU."""
    result: dict[str, Any] = {"settings": settings(threads=torch.get_num_threads())}
    for name in parts:
        start = time.process_time()
        text = json.dumps(PARTS[name].rows(smoke=smoke))
        rows = json.loads(text, parse_float=lambda figure: float(f"{float(figure):.6g}"))
        result[name] = {"cpu_seconds": round(time.process_time() - start, 1), "rows": rows}
    return result


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of all parts that were run."""
    return [
        each
        for name in PARTS
        if name in result
        for each in PARTS[name].tables(result[name]["rows"])
    ]


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draws one picture per part into a folder."""
    path.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        if name in result:
            PARTS[name].draw(result[name]["rows"], path)
