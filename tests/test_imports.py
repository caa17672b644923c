"""Heavy libraries are imported only when asked for. `lint-imports` holds the order of our own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "pgmdiff"


def test_only_plotting_imports_matplotlib() -> None:
    users = [p for p in ROOT.rglob("*.py") if re.search(r"(import|from) matplotlib", p.read_text())]
    assert {p.parent for p in users} == {ROOT / "plotting"}


HEAVY = {
    "azula", "deepinv", "diffusers", "hypothesis", "infinite_tensor", "k_diffusion", "matplotlib",
    "safetensors", "sbi", "skimage", "torchdiffeq", "zarr",
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


def test_every_module_goes_by_its_own_name() -> None:
    """No function hides the module of its name."""
    modules = sorted(
        str(p.relative_to(ROOT.parent).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for p in ROOT.rglob("*.py")
        if p.name != "__main__.py" and "strategies" not in p.name
    )
    code = (
        f"import importlib, pgmdiff; names = {modules!r}\n"
        "print([n for n in names if importlib.import_module(n) is not eval(n)])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert out.stdout.strip() == "[]"


def test_what_is_not_there_is_an_attribute_error() -> None:
    import pgmdiff

    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = pgmdiff.nothing_like_it
    assert {"plotting", "testing", "compose"} <= set(dir(pgmdiff))
