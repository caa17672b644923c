"""Executes the tutorials, each once: `python -m scripts.run_tutorials [NUMBER ...]`.

A tutorial is a Python file in the percent format, which can be reviewed as text. It is executed
into a notebook in `docs/tutorials` with all that its cells print and draw; tests check it, and the
site shows it. It is executed again only when its own text or the library has changed.
"""

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jupytext
import matplotlib
import nbformat
import torch
from nbclient import NotebookClient
from tqdm import tqdm

__all__ = ["TUTORIALS", "executed", "images"]

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.py"))
TIMEOUT = 600
"""Seconds that a cell may take on a busy machine; a whole tutorial should take less than 120."""


def executed(tutorial: Path) -> Any:
    """The notebook of a tutorial with its outputs; the one on disk if its fingerprint fits.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; no notebook is kept.
    """
    path = ROOT / "docs" / "tutorials" / f"{tutorial.stem}.ipynb"
    fingerprint = hashlib.sha256(tutorial.read_bytes() + _library()).hexdigest()
    if path.exists():
        notebook = nbformat.read(path, as_version=4)
        if notebook.metadata.get("fingerprint") == fingerprint:
            return notebook
    notebook = jupytext.read(tutorial)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    start = time.perf_counter()
    NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": ROOT}}).execute()
    notebook.metadata["fingerprint"] = fingerprint
    notebook.metadata["seconds"] = round(time.perf_counter() - start, 1)
    for cell, _ in images(notebook):  # MyST-NB's name for it
        cell.metadata["mystnb"] = {"image": {"alt": cell.metadata.get("alt", "")}}
    written = path.with_suffix(f".{os.getpid()}.part")
    nbformat.write(notebook, written)
    written.replace(path)
    return notebook


def images(notebook: Any) -> Iterator[tuple[Any, Any]]:
    """Each picture among the outputs, with the cell that drew it."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                yield cell, output


@cache
def _library() -> bytes:
    """A digest of all else that outputs depend on: the library, its models, this file, versions."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(f"{sys.version} {torch.__version__} {matplotlib.__version__}".encode())
    for path in sorted((ROOT / "pgmdiff").rglob("*")):
        if path.suffix in (".py", ".safetensors", ".gz"):
            digest.update(path.read_bytes())
    return digest.digest()


def main(numbers: list[str]) -> None:
    chosen = [t for t in TUTORIALS if not numbers or t.stem.split("_")[0] in numbers]
    for tutorial in (bar := tqdm(chosen, unit="tutorial")):
        bar.set_postfix_str(tutorial.stem)
        executed(tutorial)


if __name__ == "__main__":
    main(sys.argv[1:])
