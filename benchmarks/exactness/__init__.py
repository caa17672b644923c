"""What each rule loses where the truth is known or held out, in parts to be run one by one.

*gaussians*: chains, trees and loops, by exact propagation. *modes*: laws with exact samplers that
are no Gaussians. *overlap*: quality against cost as windows overlap less. *real*: small trained
models against held-out data. Every row says what was measured, how, and over how many seeds:
0, 1, ... for the samplers, 100, 101, ... for exact samples.
"""

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks.exactness import gaussians, modes, overlap, real

__all__ = ["PARTS", "draw", "run", "table"]

PARTS: Mapping[str, ModuleType] = {
    "gaussians": gaussians,
    "modes": modes,
    "overlap": overlap,
    "real": real,
}
"""Each has `rows(*, smoke)`, and `lines(rows)` and `draw(rows, folder)` of what that returns."""


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] = tuple(PARTS)
) -> dict[str, Any]:
    """Measures the parts; `smoke` one small case of each kind. Nothing runs on a device."""
    settings = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
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
    rows = _rounded(part.rows(smoke=smoke))
    return {"cpu_seconds": round(time.process_time() - start, 1), "rows": rows}


def _rounded(value: Any) -> Any:
    """Plain JSON, with 6 significant digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _parts(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, result[name]) for name in PARTS if name in result]
