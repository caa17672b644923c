"""`python -m pgmdiff demo | check | draw`."""

import argparse
import sys
from pathlib import Path

LAYOUTS = ("auto", "spatial", "bipartite", "hasse", "tiles", "counts", "cube")


def main() -> None:
    """Parses the command line and runs the command."""
    arguments = _parser().parse_args()
    try:
        code: int = arguments.run(arguments)
    except Exception as error:  # whatever a file holds, one line says what is wrong with it
        print(f"pgmdiff {arguments.command}: {_one_line(error)}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pgmdiff", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="sample a long strip and a ring of gravel")
    demo.add_argument("--out", type=Path, default=Path("out"), help="folder to write to")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)

    check = commands.add_parser(
        "check", help="say whether a graph is valid, and what composing on it promises"
    )
    check.add_argument("graph", type=Path, help="JSON that pgmdiff.graphs.to_json wrote")
    check.set_defaults(run=_check)

    draw = commands.add_parser("draw", help="draw a graph with its counting numbers")
    draw.add_argument("graph", type=Path, help="JSON that pgmdiff.graphs.to_json wrote")
    draw.add_argument("picture", type=Path, help="file to write: PNG, PDF or SVG by its ending")
    draw.add_argument("--layout", choices=LAYOUTS, default="auto")
    draw.add_argument(
        "--labels", action=argparse.BooleanOptionalAction, help="write names; default: if they fit"
    )
    draw.set_defaults(run=_draw)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    from pgmdiff.demo import run, table

    print(table(run(arguments.out, seed=arguments.seed)))
    print(f"\nSee {arguments.out / 'demo.png'} and {arguments.out / 'demo.json'}.")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    """Prints the report; 0 for a valid graph, 1 for an invalid one."""
    from pgmdiff.graphs import from_json

    report = from_json(arguments.graph.read_text(encoding="utf-8")).validate()
    print(report)
    return 0 if report.valid else 1


def _draw(arguments: argparse.Namespace) -> int:
    from pgmdiff.graphs import from_json
    from pgmdiff.plotting import plot

    graph = from_json(arguments.graph.read_text(encoding="utf-8"))
    figure = plot(graph, layout=arguments.layout, labels=arguments.labels)
    figure.savefig(arguments.picture, dpi=150)
    return 0


if __name__ == "__main__":
    main()
