"""What each rule loses where the truth is known, in parts that can be run one by one.

*gaussians*: chains, trees and loops, by exact propagation. *modes*: a two-mode chain, by samples.
Every row says what was measured and how. Evaluations are rows of the networks: the evidence rule
evaluates every region twice a score.
"""

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from pgmdiff.benchmarks.exactness import gaussians, modes

__all__ = ["PARTS", "draw", "run", "table"]

PARTS: Mapping[str, ModuleType] = {
    "gaussians": gaussians,
    "modes": modes,
}
"""Each has `rows(*, smoke)`, and `lines(rows)` and `draw(rows, folder)` of what that returns."""


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] = tuple(PARTS)
) -> dict[str, Any]:
    """Measures the parts; `smoke` one small case of each kind. Nothing runs on a device."""
    settings = {"torch": torch.__version__, "machine": platform.machine()}
    return {"settings": settings, **{name: _measured(PARTS[name], smoke) for name in parts}}


def table(result: dict[str, Any]) -> str:
    """The rows as text."""
    texts = ["\n".join(PARTS[name].lines(part["rows"])) for name, part in _parts(result)]
    return "\n\n".join(texts)


def draw(result: dict[str, Any], path: Path) -> None:
    """The pictures of the parts, into a folder."""
    path.mkdir(parents=True, exist_ok=True)
    for name, part in _parts(result):
        PARTS[name].draw(part["rows"], path)


def _measured(part: ModuleType, smoke: bool) -> dict[str, Any]:
    start = time.process_time()
    rows = part.rows(smoke=smoke)
    return {"cpu_seconds": round(time.process_time() - start, 1), "rows": rows}


def _parts(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, result[name]) for name in PARTS if name in result]
