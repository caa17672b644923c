"""Tables made of the JSON of benchmarks: which rows, which columns, how figures are written.

A table is described in YAML:

    where: {graph: chain, rho: 0.95}       rows to show; a list stands for any of its values
    has: [kl]                              keys that a row must have
    columns:                               one each:
      - {of: levels, head: Levels}           a key, or a path such as `energy.0`
      - {of: kl, head: KL, as: .2g}          `as`: the format, see `shown`
      - {of: modes, error: modes_error}      a mean with its standard error
    spread: {over: method, of: kl, as: .2g, reduce: max}
                                           a further column for each value of `over`

No figure is typed: a value that a row lacks leaves its cell empty.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import floor, isfinite, log10
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
MISSING = object()
ROUNDING = 1e-9
"""Means with errors below it are 0 but for rounding."""
REDUCE: dict[str, Callable[[list[float]], float]] = {"max": max, "min": min, "median": median}
TABLE_KEYS = {"where", "has", "columns", "spread", "caption"}
COLUMN_KEYS = {"of", "head", "as", "scale", "none", "error", "names"}

Row = Mapping[str, Any]


class TableError(ValueError):
    """A table that the JSON cannot fill."""


@dataclass(frozen=True)
class Table:
    """Heads, rows of cells, and which columns hold figures."""

    heads: list[str]
    rows: list[list[str]]
    figures: list[bool]


def file_of(name: str) -> Path:
    """The JSON of an experiment, if there is one of this name, or else of a benchmark."""
    experiment = ROOT / "experiments" / "results" / f"{name}.json"
    return experiment if experiment.exists() else ROOT / "benchmarks" / "results" / f"{name}.json"


def load(name: str) -> dict[str, Any]:
    """The result of a benchmark or an experiment."""
    return json.loads(file_of(name).read_text(encoding="utf-8"))


def at(value: Any, path: str) -> Any:
    """The value at the end of a path `a.b.0`, or MISSING."""
    for key in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(key, MISSING)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return MISSING
    return value


def selected(result: Row, path: str, where: Row, has: Iterable[str] = ()) -> list[Row]:
    """The rows at a path whose values are those of `where`.

    A mapping of names to figures is read as rows of `name` and `value`.
    """
    found = at(result, path)
    if isinstance(found, Mapping):
        found = [{"name": name, "value": value} for name, value in found.items()]
    if not isinstance(found, list):
        raise TableError(f"no rows at {path!r}; there are {list(result)}")

    def fits(row: Row, key: str, wanted: Any) -> bool:
        value = at(row, key)
        allowed = wanted if isinstance(wanted, list) else [wanted]
        return (None if value is MISSING else value) in allowed

    return [
        row
        for row in found
        if all(fits(row, key, wanted) for key, wanted in where.items())
        and all(at(row, key) is not MISSING for key in has)
    ]


def table(result: Row, path: str, spec: Row) -> Table:
    """The table that `spec` describes, of the rows at `path`.

    Without `spread` each row is a line. With it, rows whose `columns` agree share a line.
    """
    columns = [{"of": c} if isinstance(c, str) else c for c in spec["columns"]]
    spread = spec.get("spread", {})
    if unknown := (set(spec) - TABLE_KEYS).union(*(set(c) - COLUMN_KEYS for c in columns)):
        raise TableError(f"unknown keys {sorted(unknown)}")
    rows = selected(result, path, spec.get("where", {}), spec.get("has", ()))
    if not rows:
        raise TableError(f"no row at {path!r} has {spec.get('where')}")
    for column in columns:
        if all(at(row, column["of"]) is MISSING for row in rows):
            raise TableError(f"no row has {column['of']!r}")
    values = []
    if spread:
        values = spread.get("order") or list(dict.fromkeys(at(r, spread["over"]) for r in rows))
    lines: dict[tuple[Any, ...], dict[Any, list[Row]]] = {}
    for number, row in enumerate(rows):
        cells = tuple(cell(row, column) for column in columns)
        line = lines.setdefault((cells, None if spread else number), defaultdict(list))
        line[at(row, spread.get("over", ""))].append(row)
    body = [
        [*cells, *(_reduced(line[value], spread) for value in values)]
        for (cells, _), line in lines.items()
    ]
    if spread and not any(text for line in body for text in line[len(columns) :]):
        raise TableError(f"no row has {spread['of']!r} over {spread['over']!r} of {values}")
    names = spread.get("names", {})
    heads = [c.get("head", c["of"]) for c in columns] + [str(names.get(v, v)) for v in values]
    texts = [any(isinstance(at(row, c["of"]), str | bool) for row in rows) for c in columns]
    return Table(heads, body, [not text for text in texts] + [True] * len(values))


def _reduced(rows: list[Row], spread: Row) -> str:
    """The cell of a line and a value of `over`: of its only row, or `reduce` of several."""
    if len(rows) < 2:
        column = {key: value for key, value in spread.items() if key != "names"}
        return cell(rows[0], column) if rows else ""
    if "reduce" not in spread:
        raise TableError(f"{len(rows)} rows in one cell: narrow `where` or give `reduce`")
    value = REDUCE[spread["reduce"]]([at(row, spread["of"]) for row in rows])
    return shown(value, spread.get("as", ""), spread.get("scale", 1))


def cell(row: Row, column: Row) -> str:
    """One value of a row as text."""
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
    """A value as text.

    A pair of a mean and its standard error becomes `mean ± error`, or 0 if it is rounding. With the
    format `root` the pair estimates a square: its root is shown, with the error by the delta
    method, and 0 where the estimate is negative. Three quartiles become `middle (low to high)`.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 2:
        mean, error = value[0], 0 if value[1] in (None, MISSING) else value[1]
        if form == "root":
            mean = max(mean, 0.0) ** 0.5
            error = error / (2 * mean) if mean else error**0.5
        mean, error = scale * mean, scale * error
        if error == 0:
            return _number(mean, ".3g")
        if max(abs(mean), error) < ROUNDING:
            return "0"
        first = floor(log10(error))
        digits = max(0, -first + (error / 10**first < 2))  # an error of 1... is given two digits
        return f"{_number(mean, f'.{digits}f')} ± {_number(error, f'.{digits}f')}"
    if isinstance(value, list):
        low, middle, high = (_number(scale * each, form) for each in value)
        return f"{middle} ({low} to {high})"
    return _number(value if scale == 1 else scale * value, form)


def _number(value: float, form: str) -> str:
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    text = format(value, form or (",d" if isinstance(value, int) else ".3g"))
    digits, e, power = text.partition("e")
    return f"{digits}e{int(power)}" if e else text


def figure(result: Row, query: str) -> str:
    """One figure: `path`, or `path?key=value&key=value#field:format`.

    Of several rows `max(field)`, `min(field)`, `median(field)`; `count(field)`: how many have it.
    """
    before, _, field = query.partition("#")
    path, _, where = before.partition("?")
    field, _, form = field.partition(":")
    if not field:
        value = at(result, path)
    else:
        pairs = (pair.split("=", 1) for pair in where.split("&") if pair)
        rows = selected(result, path, {key: _parsed(value) for key, value in pairs})
        how, _, of_all = field.rstrip(")").partition("(")
        if of_all:
            values = [value for row in rows if (value := at(row, of_all)) is not MISSING]
            value = len(values) if how == "count" else REDUCE[how](values)
        elif len(rows) == 1:
            value = at(rows[0], field)
        else:
            raise TableError(f"{query!r}: expected one row, found {len(rows)}")
    if value is MISSING or value is None or isinstance(value, Mapping):
        raise TableError(f"{query!r}: there is no figure")
    return shown(value, form)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


LABELS = {
    "torch": "PyTorch", "numpy": "NumPy", "scipy": "SciPy", "networkx": "NetworkX",
    "pgmdiff": "pgmdiff", "card": "GPU", "cuda": "CUDA", "device": "Machine",
    "gaussian": "Gaussian chain", "modes": "Two-mode chain", "seconds": "Wall-clock seconds",
    "long_columns": "Columns where a machine is lost",
}  # fmt: skip
"""Names of settings that are not their keys' own words."""


def label(key: str) -> str:
    """The name of a setting."""
    words = key.replace("_", " ")
    return LABELS.get(key, words[:1].upper() + words[1:])


def settings(result: Row) -> list[tuple[str, str]]:
    """What a result records of how it was measured."""
    found = dict(result.get("settings", {}))
    found |= {key: result[key] for key in ("date", "seed", "processes", "seconds") if key in result}
    if "seed" in found:
        found["seed"] = str(found["seed"])  # without separators
    found |= result.get("versions", {})
    forms = {key: ".6g" if isinstance(value, float) else "" for key, value in found.items()}
    lines = [(label(key), shown(value, forms[key])) for key, value in found.items()]
    for name, part in result.items():
        if isinstance(part, Mapping) and "cpu_seconds" in part:
            lines.append((f"CPU seconds, {name}", shown(part["cpu_seconds"], ".0f")))
    return lines + [("Beside", note) for note in result.get("notes", ())]
