"""The exactness benchmark: losses of every rule where the truth is known or held out.

Its parts can be run one by one. *gaussians*: chains, trees and loops, by exact propagation.
*modes*: non-Gaussian distributions with exact samplers. *rounds*: schemes that resample, beside
messages. *sensors*: small learned models on a
network with loops. *real*: small trained models against held-out data. *cost*: time and memory.
Every row says what was measured, how, and over how many seeds: 0, 1, ... for the samplers, 100,
101, ... for exact samples. *targets* says which aims are reached, and lists what fails.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.exactness import cost, gaussians, modes, real, rounds, sensors
from benchmarks.reports import columns, measured, rounded, settings, table
from pgmdiff.text import Table

__all__ = ["PARTS", "draw", "run", "tables", "targets"]

PARTS = {
    "gaussians": gaussians, "modes": modes, "rounds": rounds, "sensors": sensors, "real": real,
    "cost": cost,
}  # fmt: skip
"""Each has `rows(*, smoke)`, `tables(rows)` and `targets(rows)`, some have `draw(rows, folder)`."""


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] = tuple(PARTS)
) -> dict[str, Any]:
    """Measures the parts, or with `smoke` one small case of each kind; always on the CPU."""
    found = measured(parts, lambda name: {"rows": PARTS[name].rows(smoke=smoke)}, 5)
    return {"settings": settings(threads=torch.get_num_threads()), **found}


def targets(result: Mapping[str, Any]) -> dict[str, Any]:
    """Every aim of the parts that were run, its value, whether it is reached, and what fails.

    And where messages are *beaten* by other schemes at equal evaluations.
    """
    parts = [name for name in PARTS if name in result]
    aims = [row for name in parts for row in PARTS[name].targets(result[name]["rows"])]
    beaten = rounds.beaten(result["rounds"]["rows"]) if "rounds" in result else []
    return {"rows": aims, "beaten": rounded(beaten, 5)}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The targets, and the tables of all parts that were run."""
    parts = [name for name in PARTS if name in result]
    shown = columns("target value reached failed")
    aims = table("Targets", targets(result)["rows"], shown)
    return [aims, *(each for name in parts for each in PARTS[name].tables(result[name]["rows"]))]


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draws the pictures of the parts into a folder."""
    path.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if name in result and hasattr(part, "draw"):
            part.draw(result[name]["rows"], path)
