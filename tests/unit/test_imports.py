"""Imports point one way, and heavy ones are made only when asked for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "pgmdiff"

LAYERS = [
    {"errors", "extras", "reprs"},
    {"seeds"},
    {"graphs"},
    {"scores", "precision"},
    {"guidance", "rules"},
    {"plan"},
    {"compose"},
    {"gaussian", "conditioning", "samplers"},
    {"denoising", "influence"},
    {
        "advisor",
        "baselines",
        "consistency",
        "denoising_errors",
        "integrations",
        "metrics",
        "models",
        "panorama",
        "testing",
        "training",
    },
    {"drawing"},
    {"plotting", "demo", "benchmarks"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
HTML = ("drawing", "_repr_html_")
"""What may be imported from above, and where: an object is drawn when a notebook shows it."""
SEPARATE = {
    ("conditioning", "samplers"),
    ("gaussian", "samplers"),
    ("samplers", "conditioning"),
    ("samplers", "compose"),
    ("samplers", "gaussian"),
    ("samplers", "graphs"),
}


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("")
    return relative.parts[0]


def imported(path: Path) -> list[tuple[str, str]]:
    """Parts of pgmdiff a file imports, and in which function or `if`; "" at import time."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pgmdiff"):
            names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            inside, place = node, ""
            while hasattr(inside, "parent"):
                inside = inside.parent
                if not place and isinstance(inside, ast.FunctionDef | ast.If):
                    place = getattr(inside, "name", "if")
            found += [(name, place) for name in names]
    return found


FILES = [p for p in ROOT.rglob("*.py") if part_of(p) not in ("__init__", "__main__")]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    for name, place in imported(path):
        assert name in RANK, f"{name} has no layer: add it"
        assert (part, name) not in SEPARATE, f"{part} must not know {name}"
        if (name, place) != HTML:
            assert RANK[name] <= RANK[part], f"{part} imports {name}, which is above it"
        if name == "plotting" != part:
            assert place, "nothing imports plotting at import time"


def test_only_plotting_imports_matplotlib() -> None:
    users = [p for p in FILES if "matplotlib" in p.read_text()]
    assert {part_of(p) for p in users} <= {"plotting"}


HEAVY = {
    "azula", "deepinv", "diffusers", "hypothesis", "k_diffusion", "matplotlib", "safetensors",
    "sbi", "skimage", "torchdiffeq",
}  # fmt: skip
INTEGRATIONS = sorted(p.stem for p in (ROOT / "integrations").glob("*.py") if "__" not in p.stem)


def test_the_package_imports_no_extra() -> None:
    modules = ["pgmdiff", "pgmdiff.integrations"]
    modules += [f"pgmdiff.integrations.{name}" for name in INTEGRATIONS]
    code = f"import sys, {', '.join(modules)}; print(sorted({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert out.stdout.strip() == "[]"


def test_every_part_is_there_when_named() -> None:
    """`pgmdiff.plotting.plot` needs no import of its own; nor do modules that users are told of."""
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"benchmarks", "drawing"}
    modules = {"guidance", "influence", "metrics", "panorama", "rules", "scores", "training"}
    names = sorted(packages | modules)
    code = f"import pgmdiff; print([n for n in {names!r} if not hasattr(pgmdiff, n)])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert out.stdout.strip() == "[]"


def test_what_is_not_there_is_an_attribute_error() -> None:
    import pgmdiff

    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = pgmdiff.nothing_like_it
    assert {"plotting", "testing", "compose"} <= set(dir(pgmdiff))
