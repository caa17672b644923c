"""Which parts of the package import which, read from the source, and drawn as SVG.

A part is a package or a module directly under `pgmdiff`. The layers are those that
import-linter holds the source to (`pyproject.toml`).
"""

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pgmdiff"
LAW = ROOT / "pyproject.toml"

Edges = Mapping[str, set[str]]


def layers() -> list[set[str]]:
    """From the lowest: the layers that import-linter holds the source to."""
    contracts = tomllib.loads(LAW.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (listed,) = (each["layers"] for each in contracts if each["type"] == "layers")
    return [set(layer.split(" | ")) for layer in reversed(listed)]


def parts() -> list[str]:
    """Packages and modules directly under `pgmdiff`."""
    names = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    names |= {p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("__")}
    return sorted(names)


def purpose(part: str) -> str:
    """The first line of a part's docstring."""
    path = PACKAGE / f"{part}.py"
    path = path if path.exists() else PACKAGE / part / "__init__.py"
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def imports(part: str) -> set[str]:
    """The other parts that a part imports when it is imported."""
    path = PACKAGE / part
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    found = {name for file in files for name in _imported(ast.parse(file.read_text("utf-8")))}
    return (found & set(parts())) - {part}


def _imported(tree: ast.AST) -> Iterable[str]:
    """Of statements at the top of a file: those inside functions and conditions run later."""
    for node in getattr(tree, "body", ()):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pgmdiff"):
            yield from node.module.split(".")[1:2] or [alias.name for alias in node.names]


def reduced(edges: Edges) -> dict[str, set[str]]:
    """Without the edges that follow from others."""

    def below(part: str) -> set[str]:
        return (
            set().union(*({other, *below(other)} for other in edges[part]))
            if edges[part]
            else set()
        )

    return {
        part: {one for one in to if not any(one in below(other) for other in to - {one})}
        for part, to in edges.items()
    }


COMMON = 2
"""So many of the lowest layers serve all other parts, and are not drawn."""
ROW, HEIGHT, GAP, LETTER, MOST = 76, 34, 14, 9.8, 5
"""Of the picture: a row, a box, between boxes, a letter; and boxes in a row."""
SWEEPS = 40


@dataclass(eq=False)
class Knot:
    """A part, or where a long arrow passes a row; `x` is its middle."""

    name: str | None
    row: int
    x: float = 0.0

    @property
    def width(self) -> float:
        return LETTER * len(self.name) + 20 if self.name else 8.0


@dataclass(frozen=True)
class Drawing:
    """Rows of knots from the top, and arrows as the knots that they go through."""

    rows: list[list[Knot]]
    arrows: list[list[Knot]]


def drawing(edges: Edges) -> Drawing:
    """Parts in the rows of their layers; arrows go between boxes, not through them."""
    drawn = [layer & set(edges) for layer in layers()[COMMON:]]
    names = [row for layer in reversed(drawn) for row in _rows(sorted(layer))]
    rows = [[Knot(name, number) for name in row] for number, row in enumerate(names)]
    knots = {knot.name: knot for row in rows for knot in row}
    inside = {part: edges[part] & set(knots) for part in knots}
    arrows = []
    for part, to in reduced(inside).items():
        for other in sorted(to):
            above, below = knots[part], knots[other]
            between = [Knot(None, number) for number in range(above.row + 1, below.row)]
            for knot in between:
                rows[knot.row].append(knot)
            arrows.append([above, *between, below])
    picture = Drawing(rows, arrows)
    _settle(picture)
    return picture


def _rows(names: list[str]) -> list[list[str]]:
    count = -(-len(names) // MOST)
    return [names[k::count] for k in range(count)]


def _settle(picture: Drawing) -> None:
    """Every knot moves to the mean of those it is joined to, boxes keeping their distance."""
    joined: dict[Knot, list[Knot]] = defaultdict(list)
    for arrow in picture.arrows:
        for one, other in pairwise(arrow):
            joined[one].append(other)
            joined[other].append(one)
    for row in picture.rows:
        _set_apart(row, [float(k) for k in range(len(row))])
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for row in picture.rows if down else picture.rows[::-1]:
            middle = sum(knot.x for knot in row) / len(row)
            wanted = {knot: _pull(knot, joined[knot], down, sweep, middle) for knot in row}
            row.sort(key=wanted.__getitem__)
            _set_apart(row, [wanted[knot] for knot in row])


def _pull(knot: Knot, joined: list[Knot], down: bool, sweep: int, middle: float) -> float:
    """Towards the row before in the first sweeps, towards both at last; alone, to the middle."""
    near = [k.x for k in joined if sweep > SWEEPS // 2 or (k.row < knot.row) == down]
    return sum(near) / len(near) if near else (knot.x if joined else middle)


def _set_apart(row: list[Knot], wanted: list[float]) -> None:
    """Places near the wanted ones, in this order, without overlaps."""
    apart = [(a.width + b.width) / 2 + GAP for a, b in pairwise(row)]
    right, left = list(wanted), list(wanted)
    for k, least in enumerate(apart):
        right[k + 1] = max(right[k + 1], right[k] + least)
    for k in range(len(apart) - 1, -1, -1):
        left[k] = min(left[k], left[k + 1] - apart[k])
    for knot, a, b in zip(row, left, right, strict=True):
        knot.x = (a + b) / 2


def svg() -> str:
    """The picture; colours follow the page's, light or dark."""
    picture = drawing({part: imports(part) for part in parts()})
    knots = [knot for row in picture.rows for knot in row]
    left = min(knot.x - knot.width / 2 for knot in knots) - 4
    width = max(knot.x + knot.width / 2 for knot in knots) + 4 - left
    height = ROW * (len(picture.rows) - 1) + HEIGHT + 8
    top = ", ".join(knot.name for knot in picture.rows[0] if knot.name)
    label = f"Imports among the parts of pgmdiff, from {top} down to graphs"
    return (
        f'<svg viewBox="{left:.0f} -4 {width:.0f} {height}" role="img" aria-label="{label}">'
        '<defs><marker id="import-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
        + "".join(map(_arrow, picture.arrows))
        + "".join(_box(knot) for knot in knots if knot.name)
        + "</svg>"
    )


def _box(knot: Knot) -> str:
    x, y = knot.x - knot.width / 2, ROW * knot.row
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{knot.width:.1f}" height="{HEIGHT}" rx="6"/>'
        f'<text x="{knot.x:.1f}" y="{y + HEIGHT / 2 + 6}">{knot.name}</text>'
    )


def _arrow(knots: list[Knot]) -> str:
    """Straight past the rows between, bent between rows."""
    x, y = knots[0].x, ROW * knots[0].row + HEIGHT
    path = f"M{x:.1f} {y}"
    for knot in knots[1:]:
        to, bend = ROW * knot.row - (0 if knot.name is None else 1), (ROW - HEIGHT) / 2
        path += f"C{x:.1f} {y + bend} {knot.x:.1f} {to - bend} {knot.x:.1f} {to}"
        x, y = knot.x, to
        if knot.name is None:
            y += HEIGHT
            path += f"V{y}"
    return f'<path class="edge" marker-end="url(#import-arrow)" d="{path}"/>'
