"""The command `pgmdiff`, which is also `python -m pgmdiff`: `demo | check | draw | explore`."""

import argparse
import sys
from pathlib import Path

import torch

from pgmdiff import __version__

VERSIONS = f"pgmdiff {__version__}, PyTorch {torch.__version__}, Python {sys.version.split()[0]}"
LAYOUTS = ("auto", "spatial", "bipartite", "hasse", "tiles", "counts", "cube")


def main() -> None:
    """Parses the command line and runs the command."""
    parser = argparse.ArgumentParser(prog="pgmdiff", description=__doc__)
    parser.add_argument("--version", action="version", version=VERSIONS)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("demo", help="sample a strip, a ring and a torus of tissue")
    command.add_argument("--out", type=Path, default=Path("out"), help="folder to write to")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=demo)

    command = commands.add_parser(
        "check", help="report whether a graph is valid, and how exact composition on it is"
    )
    command.add_argument("graph", type=Path, help="JSON written by pgmdiff.graphs.to_json")
    command.set_defaults(run=check)

    command = commands.add_parser("draw", help="draw a graph with its counting numbers")
    command.add_argument("graph", type=Path, help="JSON written by pgmdiff.graphs.to_json")
    command.add_argument("picture", type=Path, help="file to write: PNG, PDF or SVG by its ending")
    command.add_argument("--layout", choices=LAYOUTS, default="auto")
    command.add_argument(
        "--labels",
        action=argparse.BooleanOptionalAction,
        help="write names; by default, where they fit",
    )
    command.set_defaults(run=draw)

    command = commands.add_parser("explore", help="look at an endless strip of gravel, anywhere")
    command.add_argument("--at", type=int, default=0, help="the first column, of 10^17 either way")
    command.add_argument("--width", type=_columns, default=256, help="columns to draw (256)")
    command.add_argument("--out", type=Path, default=Path("explore.png"), help="picture to write")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=explore)

    arguments = parser.parse_args()
    try:
        code: int = arguments.run(arguments)
    except Exception as error:  # a file may hold anything: one line says what is wrong with it
        print(f"pgmdiff {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _columns(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def demo(arguments: argparse.Namespace) -> int:
    """Samples images of tissue and prints a table of how they were made."""
    from pgmdiff.demo import run, table

    print(table(run(arguments.out, seed=arguments.seed)))
    print(f"\nSee {arguments.out / 'demo.png'} and {arguments.out / 'demo.json'}.")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Prints the report on a graph; returns 0 if the graph is valid, 1 if not."""
    from pgmdiff.graphs import from_json

    report = from_json(arguments.graph.read_text(encoding="utf-8")).validate()
    print(report)
    return 0 if report.valid else 1


def draw(arguments: argparse.Namespace) -> int:
    """Draws a graph into a file."""
    from pgmdiff.graphs import from_json
    from pgmdiff.plotting import plot

    graph = from_json(arguments.graph.read_text(encoding="utf-8"))
    figure = plot(graph, layout=arguments.layout, labels=arguments.labels)
    figure.savefig(arguments.picture, dpi=150)
    return 0


def explore(arguments: argparse.Namespace) -> int:
    """Draws a part of an endless strip of gravel into a file."""
    from pgmdiff.distributed import Endless
    from pgmdiff.models.gravel import gravel_denoiser
    from pgmdiff.plotting import strips
    from pgmdiff.samplers import karras
    from pgmdiff.scores import from_denoiser

    score, levels = from_denoiser(gravel_denoiser()), karras(5, 0.01, 10.0)
    shape, window, overlap = (1, 32, None), (1, 16, 16), (0, 8, 8)
    canvas = Endless(score, levels, shape, window, overlap, generator=arguments.seed)
    view = canvas[..., arguments.at : arguments.at + arguments.width]
    caption = f"columns {arguments.at:,} to {arguments.at + arguments.width:,}"
    strips({caption: view}).savefig(arguments.out, dpi=110)
    print(f"See {arguments.out}.")
    return 0


if __name__ == "__main__":
    main()
