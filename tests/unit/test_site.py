"""The API reference leaves nothing public out."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
INTERNAL = {
    "__init__", "__main__", "demo", "plan", "denoising", "graphs.pieces", "graphs.atoms",
    "graphs.nesting", "conditioning.conjugate_gradients", "conditioning.observations",
    "plotting.style", "plotting.diagrams", "plotting.tiles", "plotting.cube", "drawing.layouts",
    "drawing.scenes", "drawing.windows", "drawing.text", "drawing.labels", "drawing.svg",
    "drawing.html", "reprs", "integrations.shared",
}  # fmt: skip
"""Not for users: their docstrings are for developers."""
ELSEWHERE = ("benchmarks", "models")


def test_every_module_is_documented() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"automodule:: pgmdiff\.(\S+)", pages))
    modules = {
        ".".join(path.relative_to(ROOT / "pgmdiff").with_suffix("").parts)
        for path in (ROOT / "pgmdiff").rglob("*.py")
    }
    public = {
        name
        for name in modules
        if name not in INTERNAL
        and not name.endswith(".__init__")
        and not name.startswith(ELSEWHERE)
    }
    assert documented == public
