"""What the scripts that draw pictures for the docs share: where they go, and the command line."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

__all__ = ["IMAGES", "run"]

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def run(pictures: Mapping[str, Callable[[], None]], description: str | None) -> None:
    """Draws the pictures named on the command line, or all."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(pictures)}")
    names = parser.parse_args().names
    unknown = sorted(set(names) - set(pictures))
    if unknown:
        parser.error(f"no picture is called {unknown[0]!r}. Choose from {', '.join(pictures)}.")
    torch.set_num_threads(1)  # many small calls: threads would wait for each other, for a minute
    for name in names or pictures:
        print(name)
        pictures[name]()
