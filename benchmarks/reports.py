"""The report of a benchmark: its settings, and tables of its rows."""

import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from pgmdiff.text import Table

__all__ = [
    "Column",
    "Row",
    "columns",
    "estimates",
    "measured",
    "plus_minus",
    "points",
    "rounded",
    "settings",
    "spread",
    "table",
]

Row = Mapping[str, Any]
Column = str | Callable[[Row], str]
"""A column's cell: a format string such as `"{energy[0]:.3f}"`, or a function of the row."""


def settings(**more: Any) -> dict[str, Any]:
    """PyTorch's version, the kind of machine, and what else was set, as the JSON records them."""
    return {"torch": torch.__version__, "machine": platform.machine(), **more}


def rounded(value: Any, digits: int) -> Any:
    """The value as a JSON holds it, with floats of so many significant digits."""
    return json.loads(
        json.dumps(value), parse_float=lambda figure: float(f"{float(figure):.{digits}g}")
    )


def measured(
    names: Iterable[str], measure: Callable[[str], Mapping[str, Any]], digits: int
) -> dict[str, Any]:
    """What is measured of every part, rounded, and the CPU seconds that it took."""
    result: dict[str, Any] = {}
    for name in names:
        start = time.process_time()
        found = rounded(measure(name), digits)
        result[name] = {"cpu_seconds": round(time.process_time() - start, 1), **found}
    return result


def columns(keys: str) -> dict[str, Column]:
    """A column per key, headed by its name, of keys such as `"levels loss:.2g energy[0]:.4f"`."""
    heads = {key: key.partition(":")[0].partition("[")[0] for key in keys.split()}
    return {head.replace("_", " "): f"{{{key}}}" for key, head in heads.items()}


def estimates(keys: str, form: str = ".4f") -> dict[str, Column]:
    """A column per key of means with their standard errors, headed by its name."""

    def cell(key: str) -> Column:
        return lambda row: plus_minus(row[key], form)

    return {key.replace("_", " "): cell(key) for key in keys.split()}


def table(
    title: str, rows: Iterable[Row], columns: Mapping[str, Column], notes: Sequence[str] = ()
) -> Table:
    """A table with one line per row; a cell is empty where its row lacks the key."""
    cells = [[_cell(row, column) for column in columns.values()] for row in rows]
    return Table(title, cells, tuple(columns), notes)


def spread(
    title: str, rows: Iterable[Row], index: Mapping[str, Column], over: str, cell: Column
) -> Table:
    """A table with one line per combination of index cells, and one column per value of `over`."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        key = tuple(_cell(row, column) for column in index.values())
        lines.setdefault(key, {})[str(row[over])] = _cell(row, cell)
    heads = list(dict.fromkeys(head for line in lines.values() for head in line))
    cells = [[*key, *(line.get(head, "") for head in heads)] for key, line in lines.items()]
    return Table(title, cells, (*index, *heads))


def plus_minus(estimate: Sequence[Any], form: str = ".4f") -> str:
    """A mean and its standard error; the mean alone where the error is None."""
    mean, error = estimate
    return format(mean, form) + ("" if error is None else f" ± {format(error, form.strip('+'))}")


def points(
    rows: Iterable[Row], over: str, names: Sequence[str], x: str, y: str
) -> dict[str, tuple[list[float], list[float]]]:
    """The curves of y against x, one for each of some values of `over`."""
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for row in rows:
        if row[over] in found:
            for values, key in zip(found[row[over]], (x, y), strict=True):
                values.append(row[key])
    return found


def _cell(row: Row, column: Column) -> str:
    try:
        return column(row) if callable(column) else column.format_map(row)
    except KeyError:
        return ""
