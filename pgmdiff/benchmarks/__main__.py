"""`python -m pgmdiff.benchmarks exactness | scale | speed [--out FILE] [--figure FILE]`."""

import argparse
import json
from pathlib import Path
from types import ModuleType

from pgmdiff.benchmarks import exactness, scale, speed

BENCHMARKS: dict[str, ModuleType] = {
    "exactness": exactness,
    "scale": scale,
    "speed": speed,
}


def main() -> None:
    """Parses the command line and runs a benchmark."""
    parser = argparse.ArgumentParser(prog="python -m pgmdiff.benchmarks", description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--smoke", action="store_true", help="the smallest case only, once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--figure", type=Path, help="picture to write, of benchmarks that have one")
    arguments = parser.parse_args()
    benchmark = BENCHMARKS[arguments.name]
    result = benchmark.run(smoke=arguments.smoke, device=arguments.device)
    print(benchmark.table(result))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.figure is not None and hasattr(benchmark, "draw"):
        benchmark.draw(result, arguments.figure)


if __name__ == "__main__":
    main()
