"""Tables made of the JSON of benchmarks: which rows, which columns, how figures are written.

A table is asked for in YAML:

    where: {graph: chain, rho: 0.95}       rows to take; a list stands for any of its values
    has: [kl]                              keys that a row must have
    columns:                               one each:
      - {of: levels, head: Levels}           what is shown, by its key or a path such as `energy.0`
      - {of: kl, head: KL, as: .2g}          `as`: how, see `shown`
      - {of: modes, error: modes_error}      a mean with its standard error
    spread: {over: method, of: kl, as: .2g, reduce: max}
                                           instead: a column for each value of `over`

No figure is typed: a value that a row lacks leaves its cell empty.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import floor, isfinite, log10
from pathlib import Path
from statistics import median
from typing import Any

FOLDER = Path(__file__).parents[2] / "benchmarks" / "results"
Row = Mapping[str, Any]
MISSING = object()
REDUCE: dict[str, Callable[[list[float]], float]] = {"max": max, "min": min, "median": median}


class TableError(ValueError):
    """A table that the JSON cannot fill."""


@dataclass(frozen=True)
class Table:
    """Heads, rows of cells, and which columns hold figures."""

    heads: list[str]
    rows: list[list[str]]
    figures: list[bool]


def load(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """The result of a benchmark."""
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def at(value: Any, path: str) -> Any:
    """What is found along `a.b.0`, or MISSING."""
    for key in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(key, MISSING)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return MISSING
    return value


def rows_at(result: Mapping[str, Any], path: str) -> list[Row]:
    """A list of rows, or a mapping of names to figures as rows of `name` and `value`."""
    found = at(result, path)
    if isinstance(found, Mapping):
        return [{"name": name, "value": value} for name, value in found.items()]
    if not isinstance(found, list):
        raise TableError(f"no rows at {path!r}; there are {list(result)}")
    return found


def selected(rows: Iterable[Row], where: Row, has: Iterable[str] = ()) -> list[Row]:
    """The rows whose values are those of `where`."""

    def fits(row: Row, key: str, wanted: Any) -> bool:
        allowed = wanted if isinstance(wanted, list) else [wanted]
        value = at(row, key)
        return (None if value is MISSING else value) in allowed

    has = list(has)
    return [
        row
        for row in rows
        if all(fits(row, key, wanted) for key, wanted in where.items())
        and all(at(row, key) is not MISSING for key in has)
    ]


def table(result: Mapping[str, Any], path: str, spec: Mapping[str, Any]) -> Table:
    """The table that `spec` asks for, of the rows at `path`."""
    unknown = set(spec) - {"where", "has", "columns", "spread", "caption"}
    if unknown:
        raise TableError(f"unknown keys {sorted(unknown)}")
    rows = selected(rows_at(result, path), spec.get("where", {}), spec.get("has", ()))
    if not rows:
        raise TableError(f"no row at {path!r} has {spec.get('where')}")
    columns = [_column(column) for column in spec["columns"]]
    return _spread(rows, columns, spec["spread"]) if "spread" in spec else _plain(rows, columns)


def _column(given: Any) -> dict[str, Any]:
    column = {"of": given} if isinstance(given, str) else dict(given)
    unknown = set(column) - {"of", "head", "as", "scale", "none", "error", "names"}
    if unknown:
        raise TableError(f"column {column.get('of')!r}: unknown keys {sorted(unknown)}")
    return {"head": column["of"], **column}


def _plain(rows: list[Row], columns: list[dict[str, Any]]) -> Table:
    for column in columns:
        if all(at(row, column["of"]) is MISSING for row in rows):
            raise TableError(f"no row has {column['of']!r}")
    cells = [[cell(row, column) for column in columns] for row in rows]
    return Table([c["head"] for c in columns], cells, [_is_figure(rows, c) for c in columns])


def _spread(rows: list[Row], columns: list[dict[str, Any]], spread: dict[str, Any]) -> Table:
    """A line for each combination of `columns`, a column for each value of `over`."""
    over, names = spread["over"], spread.get("names", {})
    values = spread.get("order") or list(dict.fromkeys(at(row, over) for row in rows))
    lines: dict[tuple[str, ...], dict[Any, list[Row]]] = {}
    for row in rows:
        line = lines.setdefault(tuple(cell(row, column) for column in columns), {})
        line.setdefault(at(row, over), []).append(row)
    shown_as = {k: v for k, v in spread.items() if k in ("of", "as", "scale", "none", "error")}
    cells = [
        [
            *line,
            *(_reduced(found.get(value, []), shown_as, spread.get("reduce")) for value in values),
        ]
        for line, found in lines.items()
    ]
    if not any(any(line[len(columns) :]) for line in cells):
        raise TableError(f"no row has {spread['of']!r} over {over!r} of {values}")
    heads = [c["head"] for c in columns] + [str(names.get(value, value)) for value in values]
    return Table(heads, cells, [_is_figure(rows, c) for c in columns] + [True] * len(values))


def _reduced(rows: list[Row], column: dict[str, Any], reduce: str | None) -> str:
    if len(rows) > 1 and reduce is None:
        raise TableError(f"{len(rows)} rows in one cell: narrow `where` or give `reduce`")
    if len(rows) > 1:
        value = REDUCE[reduce]([at(row, column["of"]) for row in rows])
        return shown(value, column.get("as", ""), column.get("scale", 1))
    return cell(rows[0], column) if rows else ""


def _is_figure(rows: list[Row], column: dict[str, Any]) -> bool:
    values = [at(row, column["of"]) for row in rows]
    return not any(isinstance(value, str | bool) for value in values)


def cell(row: Row, column: Mapping[str, Any]) -> str:
    """One value of a row, as it is shown."""
    value = at(row, column["of"])
    if value is MISSING:
        return ""
    if value is None:
        return str(column.get("none", ""))
    if "error" in column:
        value = [value, at(row, column["error"])]
    names = column.get("names", {})
    if isinstance(value, str | int) and value in names:
        return str(names[value])
    return shown(value, column.get("as", ""), column.get("scale", 1))


def shown(value: Any, form: str = "", scale: float = 1) -> str:
    """A value as text, without zeros before the point.

    Pairs of mean and standard error are shown as `mean ± error`; with `root`, the pair is of a
    square: its root, with the error by the delta method, and 0 where the estimate is negative.
    Three quartiles are `middle (low to high)`.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 2:
        return _with_error(*(_root(value) if form == "root" else value), scale)
    if isinstance(value, list):
        low, middle, high = (_number(scale * each, form) for each in value)
        return f"{middle} ({low} to {high})"
    return _number(value if scale == 1 else scale * value, form)


def _root(square: list[float]) -> tuple[float, float | None]:
    mean, error = square
    if mean <= 0:
        return 0.0, None if error is None or error is MISSING else error**0.5
    return mean**0.5, None if error is None or error is MISSING else error / (2 * mean**0.5)


def _with_error(mean: float, error: Any, scale: float) -> str:
    if error is None or error is MISSING or error == 0:
        return _number(scale * mean, ".3g")
    mean, error = scale * mean, scale * error
    first = floor(log10(error))
    digits = max(0, -first + (error / 10**first < 2))  # an error of 1... is given two digits
    return f"{_number(mean, f'.{digits}f')} ± {_number(error, f'.{digits}f')}"


def _number(value: float, form: str) -> str:
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    text = format(value, form or (",d" if isinstance(value, int) else ".3g"))
    if "e" in text:
        digits, power = text.split("e")
        text = f"{digits}e{int(power)}"
    return text


def figure(result: Mapping[str, Any], query: str) -> str:
    """One figure: `path`, or `path?key=value&key=value#field:format`.

    Of several rows `max(field)`, `min(field)`, `median(field)`; `count(field)`: how many have it.
    """
    before, _, field = query.partition("#")
    path, _, where = before.partition("?")
    field, _, form = field.partition(":")
    if not field:
        return shown(_present(at(result, path), query), form)
    pairs = [pair.split("=", 1) for pair in where.split("&") if pair]
    rows = selected(rows_at(result, path), {key: _parsed(value) for key, value in pairs})
    how, _, of_all = field.rstrip(")").partition("(")
    if not of_all:
        if len(rows) != 1:
            raise TableError(f"{query!r}: expected one row, found {len(rows)}")
        return shown(_present(at(rows[0], field), query), form)
    values = [value for row in rows if (value := at(row, of_all)) is not MISSING]
    return shown(len(values) if how == "count" else REDUCE[how](values), form)


def _present(value: Any, query: str) -> Any:
    if value is MISSING or value is None or isinstance(value, Mapping):
        raise TableError(f"{query!r}: there is no figure")
    return value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


LABELS = {
    "torch": "PyTorch", "machine": "Machine", "device": "Machine", "threads": "Threads",
    "seconds_per_case": "Seconds a case", "seeds": "Seeds", "samples": "Samples",
    "strips": "Strips", "schedule": "Schedule", "quantiles": "Quantiles",
    "gaussian": "Gaussian chain", "modes": "Two-mode chain", "date": "Date", "seed": "Seed",
    "processes": "Processes", "seconds": "Wall-clock seconds", "pgmdiff": "pgmdiff",
    "python": "Python", "numpy": "NumPy", "scipy": "SciPy", "networkx": "networkx",
}  # fmt: skip


def settings(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a result records of how it was measured."""
    found = dict(result.get("settings", {}))
    for key in ("date", "seed", "processes", "seconds"):
        if key in result:
            found[key] = result[key]
    found |= result.get("versions", {})
    lines = [(LABELS.get(key, key), _setting(key, value)) for key, value in found.items()]
    for name, part in result.items():
        if isinstance(part, Mapping) and "cpu_seconds" in part:
            lines.append((f"CPU seconds, {name}", shown(part["cpu_seconds"], ".0f")))
    return lines + [("Beside", note) for note in result.get("notes", ())]


def _setting(key: str, value: Any) -> str:
    if key == "seed":
        return str(value)
    return shown(value, ".6g" if isinstance(value, float) else "")
