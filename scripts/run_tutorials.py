"""Executes the tutorials as notebooks: `python -m scripts.run_tutorials [NUMBER ...]`.

A tutorial is a Python file in the percent format, so that it can be reviewed as text. Executed, it
becomes a notebook in `docs/tutorials` with the outputs of its cells; the tests check the notebooks
and the site shows them. A tutorial is executed again only if its text or the library has changed.
"""

import atexit
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from tqdm import tqdm

__all__ = ["TUTORIALS", "executed", "images"]

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.py"))
TIMEOUT = 600
"""Seconds that a cell may take on a busy machine; a whole tutorial takes about 20 on one core."""
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
RESET = "get_ipython().reset(new_session=True)"
"""Forgets all names, so that every tutorial has to import and define what it uses."""


def executed(tutorial: Path) -> Any:
    """The executed notebook of a tutorial, read from disk if neither text nor library has changed.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; nothing is written.
    """
    path = ROOT / "docs" / "tutorials" / f"{tutorial.stem}.ipynb"
    text = tutorial.read_bytes()
    fingerprint = hashlib.sha256(text + _library(b"experiments" in text)).hexdigest()
    if path.exists():
        notebook = nbformat.read(path, as_version=4)
        if notebook.metadata.get("fingerprint") == fingerprint:
            return notebook
    notebook = jupytext.read(tutorial)
    notebook.metadata["kernelspec"] = KERNEL
    start = time.perf_counter()
    notebook.cells.insert(0, nbformat.v4.new_code_cell(RESET))
    client = NotebookClient(notebook, km=_kernel(), timeout=TIMEOUT)
    try:
        client.execute()
    finally:
        if client.kc is not None:
            client.kc.stop_channels()
    del notebook.cells[0]
    notebook.metadata["fingerprint"] = fingerprint
    notebook.metadata["seconds"] = round(time.perf_counter() - start, 1)
    for cell, _ in images(notebook):  # where MyST-NB looks for the alt text
        cell.metadata["mystnb"] = {"image": {"alt": cell.metadata.get("alt", "")}}
    written = path.with_suffix(f".{os.getpid()}.part")
    nbformat.write(notebook, written)
    written.replace(path)
    return notebook


def images(notebook: Any) -> Iterator[tuple[Any, Any]]:
    """Yields each output that is an image, with its cell."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if {"image/png", "image/gif"} & output.get("data", {}).keys():
                yield cell, output


@cache
def _kernel() -> KernelManager:
    """The kernel of this process: to start one and to import the library takes 4 seconds.

    It has one thread, because matrices and patches are small and the tests execute two tutorials
    at a time.
    """
    kernel = KernelManager(kernel_name=KERNEL["name"])
    kernel.start_kernel(cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    atexit.register(kernel.shutdown_kernel, now=True)
    return kernel


@cache
def _library(experiments: bool) -> bytes:
    """A digest of what outputs depend on besides the text: library, models, data and versions."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(f"{sys.version} {version('torch')} {version('matplotlib')}".encode())
    folders = ["pgmdiff", "benchmarks/data", *["experiments"] * experiments]
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".safetensors", ".gz", ".npz", ".json"):
                digest.update(path.read_bytes())
    return digest.digest()


def main(numbers: list[str]) -> None:
    chosen = [t for t in TUTORIALS if not numbers or t.stem.split("_")[0] in numbers]
    for tutorial in (bar := tqdm(chosen, unit="tutorial")):
        bar.set_postfix_str(tutorial.stem)
        executed(tutorial)


if __name__ == "__main__":
    main(sys.argv[1:])
