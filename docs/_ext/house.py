"""The directive `house`: the parts of the package in their layers, and what each part is for.

The layers are those of the contract in `pyproject.toml` that import-linter holds the source to.
"""

import inspect
from importlib import import_module
from pathlib import Path

import tomllib
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

CONTRACTS = Path(__file__).parents[2] / "pyproject.toml"


def layers() -> list[list[str]]:
    """The layers from the top down, each with its parts."""
    contracts = tomllib.loads(CONTRACTS.read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layered,) = (each["layers"] for each in contracts if each["type"] == "layers")
    return [layer.split(" | ") for layer in layered]


class House(SphinxDirective):
    """A row for each layer, a box for each part."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(CONTRACTS))
        house = nodes.container(classes=["house"])
        for layer in layers():
            row = nodes.container(classes=["layer"])
            for part in layer:
                module = import_module(f"pgmdiff.{part}")
                self.env.note_dependency(module.__file__)
                purpose, _ = self.parse_inline((inspect.getdoc(module) or "").split("\n")[0])
                name = nodes.paragraph("", "", nodes.literal("", part))
                row += nodes.container("", name, nodes.paragraph("", "", *purpose))
            house += row
        return [house]


def setup(app: Sphinx) -> dict:
    app.add_directive("house", House)
    return {"parallel_read_safe": True}
