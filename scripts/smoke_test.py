"""Tests of an installed wheel, without extras and without the repository: see `make wheel`."""

import json
import pkgutil
import subprocess
import sys
import tempfile
import zlib
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

import networkx as nx
import torch

import pgmdiff
from pgmdiff.models.gravel import gravel_denoiser

EXTRAS = {
    "pgmdiff.plotting": "matplotlib",
    "pgmdiff.testing.strategies": "hypothesis",
    "pgmdiff.demo": "skimage",
}
"""Modules that need more than a plain install, and the package that each needs."""


def is_installed() -> None:
    assert "site-packages" in Path(pgmdiff.__file__).parts, pgmdiff.__file__
    assert pgmdiff.__version__ == metadata.version("pgmdiff")
    assert Path(pgmdiff.__file__).with_name("py.typed").exists()


def every_module_imports() -> None:
    """Modules that need an extra name it where it is missing."""
    for found in pkgutil.walk_packages(pgmdiff.__path__, "pgmdiff.", onerror=lambda name: None):
        needed = next((EXTRAS[name] for name in EXTRAS if found.name.startswith(name)), None)
        if found.name.endswith("__main__") or (needed and find_spec(needed)):
            continue
        try:
            import_module(found.name)
        except ImportError as error:
            if not needed or f"needs {needed}" not in str(error):
                raise


def ten_lines() -> None:
    drawn = nx.Graph([("f", "x"), ("f", "y"), ("g", "y"), ("g", "z")])
    for node in drawn:
        drawn.nodes[node]["bipartite"] = int(node in "fg")
    graph = pgmdiff.graphs.FactorGraph.from_networkx(drawn)
    assert graph.counting_numbers() == {"f": 1, "g": 1, "x": 0, "y": -1, "z": 0}
    covariance = torch.tensor([[1.0, 0.8, 0.64], [0.8, 1.0, 0.8], [0.64, 0.8, 1.0]])
    truth = pgmdiff.gaussian.Gaussian(torch.zeros(3), covariance)
    joint = pgmdiff.compose(
        graph,
        pgmdiff.gaussian.node_scores(graph, truth),
        rule=pgmdiff.Posterior(pgmdiff.gaussian.node_covariances(graph, truth)),
    )
    u = pgmdiff.samplers.sample(
        joint, pgmdiff.samplers.karras(18, 0.002, 80.0), shape=(4000, 3), generator=0
    )
    error = (torch.cov(u.T) - covariance).abs().max()
    assert error < 4 * (2 / 4000) ** 0.5, error


def bundled_model() -> None:
    denoised = gravel_denoiser()(torch.randn(1, 1, 16, 16), torch.ones(1))
    assert denoised.isfinite().all()


def is_small() -> None:
    """The wheel holds these files, compressed: at most 2 MB, and nothing of the benchmarks."""
    paths = [Path(str(file.locate())) for file in metadata.files("pgmdiff") or ()]
    size = sum(len(zlib.compress(path.read_bytes())) for path in paths if path.suffix != ".pyc")
    assert size < 2_000_000, f"{size} bytes"
    assert not any("benchmarks" in path.parts for path in paths)


def command_line() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.json"
        path.write_text(pgmdiff.graphs.to_json(pgmdiff.graphs.chain(3)))
        assert json.loads(path.read_text())
        command = [sys.executable, "-m", "pgmdiff", "check", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
        assert "junction tree" in done.stdout, done.stdout


CHECKS = (
    is_installed,
    is_small,
    every_module_imports,
    ten_lines,
    bundled_model,
    command_line,
)

if __name__ == "__main__":
    for check in CHECKS:
        check()
        print(f"{check.__name__.replace('_', ' ')}: ok")
    print(f"pgmdiff {pgmdiff.__version__}, Python {sys.version.split()[0]}")
