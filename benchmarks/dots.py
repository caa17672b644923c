"""Measured values by group and method, as dots with bars of two standard errors."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from pgmdiff.plotting.line_charts import GRID, METHOD_STYLES, STYLES
from pgmdiff.plotting.style import Sheet

__all__ = ["dots"]


def dots(
    groups: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    xlabel: str,
    title: str,
    linear: float,
) -> Figure:
    """Draws one line per group and one dot per method, with bars of two standard errors.

    Args:
        groups: group to method to value and standard error.
        xlabel, title: texts of the axes.
        linear: end of the linear part of the axis, beyond which it is logarithmic.

    Returns:
        The figure.
    """
    figure = Sheet(figsize=(7.6, 0.8 * len(groups) + 1.6), layout="constrained")
    axes = figure.subplots()
    methods = list(dict.fromkeys(method for values in groups.values() for method in values))
    for m, method in enumerate(methods):
        colour, marker, _, _ = METHOD_STYLES.get(method, STYLES[m % len(STYLES)])
        rows = [g for g, values in enumerate(groups.values()) if method in values]
        found = [values[method] for values in groups.values() if method in values]
        axes.errorbar(
            [value for value, _ in found],
            [row + 0.7 * (m / max(len(methods) - 1, 1) - 0.5) for row in rows],
            xerr=[2 * error for _, error in found],
            fmt=marker,
            color=colour,
            markersize=5.5,
            capsize=2,
            lw=1.2,
            label=method,
        )
    for edge in range(1, len(groups)):
        axes.axhline(edge - 0.5, color=GRID, lw=0.8)
    axes.set_xscale("symlog", linthresh=linear, linscale=0.6)
    axes.set_xlim(left=-linear)
    axes.set_yticks(range(len(groups)), groups)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(xlabel)
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(True, which="major", axis="x", color=GRID, lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure
