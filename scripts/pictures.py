"""What the scripts that draw pictures for the docs share: rules, and the command line."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmarks.problems import RULES
from pgmdiff import FactorGraph, RegionGraph
from pgmdiff.composition import Rule
from pgmdiff.gaussian import Gaussian, node_covariances

__all__ = ["IMAGES", "rules_of", "run"]

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def rules_of(graph: FactorGraph | RegionGraph, data: Gaussian) -> Mapping[str, Rule]:
    """Rules by name, with the covariances of the data."""
    covariances = node_covariances(graph, data)
    names = ("average", "marginal", "posterior")
    return {name: RULES[name](covariances) for name in names}


def run(pictures: Mapping[str, Callable[[], None]], description: str | None) -> None:
    """Draws the pictures named on the command line, or all."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(pictures)}")
    names = parser.parse_args().names
    if unknown := sorted(set(names) - set(pictures)):
        parser.error(f"no picture is called {unknown[0]!r}. Choose from {', '.join(pictures)}.")
    torch.set_num_threads(1)  # many small calls, in which threads would wait for each other
    for name in names or pictures:
        print(name)
        pictures[name]()
