"""`python -m pgmdiff demo`."""

import argparse
from pathlib import Path


def main() -> None:
    """Parses the command line and runs the command."""
    parser = argparse.ArgumentParser(prog="python -m pgmdiff", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="sample a long strip and a ring of gravel")
    demo.add_argument("--out", type=Path, default=Path("out"), help="folder to write to")
    demo.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    from pgmdiff.demo import run, table

    print(table(run(arguments.out, seed=arguments.seed)))
    print(f"\nSee {arguments.out / 'demo.png'} and {arguments.out / 'demo.json'}.")


if __name__ == "__main__":
    main()
