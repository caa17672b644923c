"""The aims of the benchmark: what was asked, what was measured, and what fails."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.reports import plus_minus

__all__ = ["aim", "by_errors"]


def aim(target: str, value: Any, failed: Sequence[str]) -> dict[str, Any]:
    """A row of the table of targets; it is reached if nothing failed."""
    return {"target": target, "value": value, "reached": not failed, "failed": "; ".join(failed)}


def by_errors(target: str, gaps: Mapping[str, Sequence[Any]], most: float) -> dict[str, Any]:
    """Differences of losses, of which each is to be at most so many of its standard errors."""
    failed = [
        f"{name} ({plus_minus(gap[:2])})"
        for name, gap in gaps.items()
        if gap[0] > most * (gap[1] or 0)
    ]
    counted = f"{len(gaps) - len(failed)} of {len(gaps)}"
    value = counted if len(gaps) > 1 else list(*gaps.values())[:2]
    return aim(target, value, failed)
