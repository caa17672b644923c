"""The picture of the real data: statistics of every rule against the held-out data."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks.reports import Row
from pgmdiff.plotting.line_charts import METHOD_STYLES
from pgmdiff.plotting.style import INK, MIST, Sheet

__all__ = ["draw_statistics"]

STYLES = {
    "real, held out": (INK, "-", 3.6),
    "real, other part": (INK, ":", 1.4),
    "Gaussian factorisation": ("#8f3e00", "-.", 1.2),
    "evidence, ridge": (METHOD_STYLES["evidence"][0], "--", 1.8),
    **{method: (colour, line, width) for method, (colour, _, line, width) in METHOD_STYLES.items()},
}
"""Label to colour, line and width: curves that coincide can still be told apart."""

TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Of frequencies."""


def draw_statistics(cases: Sequence[Sequence[Row]], title: str, path: Path) -> None:
    """Draws one line of two plots per case: the autocorrelation, and the spectrum.

    Args:
        cases: the rows of each case, with rules of `STYLES`, the held-out data's first.
        title: of the figure.
        path: the file to write.
    """
    figure = Sheet(figsize=(10.8, 3.1 * len(cases) + 0.9), layout="constrained")
    grid = figure.subplots(len(cases), 2, squeeze=False)
    for (left, right), rows in zip(grid, cases, strict=True):
        real = rows[0]
        about = f"{real['case']} (windows of {real['window']}, overlaps of {real['overlap']})"
        for row in rows:
            _plot(left, row, "autocorrelation", real["lags"], [0.0] * len(real["lags"]))
            _plot(right, row, "spectrum", real["frequencies"], real["spectrum"])
        right.set_xscale("log")
        first, last = right.get_xlim()
        ticks = [tick for tick in TICKS if first <= tick <= last]
        right.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        right.set_xticks([], minor=True)
        for name in ("overlap", "window"):
            left.axvline(real[name], color=MIST, lw=0.8, ls="--")
            across = left.get_xaxis_transform()
            left.text(real[name], 1.0, f" {name}", transform=across, fontsize=8, va="top")
        _finish(left, f"{about}: autocorrelation", "lag", "over held-out variance", (-0.5, 1.5))
        frequency = "frequency, cycles per place"
        _finish(right, "power spectrum over the held-out part's", frequency, "dB", (-12, 18))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    entries = [
        Line2D([], [], color=colour, ls=line, lw=width, label=label)
        for label, (colour, line, width) in ((row["rule"], STYLES[row["rule"]]) for row in cases[0])
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def _plot(axes: Axes, row: Row, name: str, x: Sequence[float], base: Sequence[float]) -> None:
    """A row's curve above `base`, with a band of one standard error where there is one."""
    colour, line, width = STYLES[row["rule"]]
    y = [value - zero for value, zero in zip(row[name], base, strict=True)]
    axes.plot(x, y, ls=line, color=colour, lw=width, zorder=9 - width)
    if errors := row.get(f"{name}_error"):
        low, high = ([v + s * e for v, e in zip(y, errors, strict=True)] for s in (-1, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)


def _finish(axes: Axes, title: str, xlabel: str, ylabel: str, limits: tuple[float, float]) -> None:
    axes.set_ylim(*limits)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(f"{ylabel} (cut at {limits[0]:g} and {limits[1]:g})", fontsize=9)
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(True, which="major", color="#e3e6e9", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
