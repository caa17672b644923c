"""Curves on logarithmic axes, for the benchmarks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

__all__ = ["save_curves"]

STYLES = (
    ("#2f7fbd", "o", "-", 1.6),
    ("#dd7a1f", "s", "-", 3.2),
    ("#2b2b2b", "^", "--", 1.2),
    ("#8a8f94", "D", "-", 1.6),
)
"""Colour, marker, line and width: curves that coincide can still be told apart."""


def save_curves(
    path: Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    limit: tuple[str, float] | None = None,
) -> None:
    """Writes curves (label to x and y), and a dashed limit with its label, on log-log axes."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for (label, (x, y)), (colour, marker, line, width) in zip(curves.items(), STYLES, strict=False):
        axes.loglog(x, y, line, color=colour, marker=marker, markersize=5, lw=width, label=label)
    if limit is not None:
        axes.axhline(limit[1], color="#b2182b", ls="--", lw=1.2, label=limit[0])
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(True, which="major", color="#e3e6e9", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
