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
    parser.add_argument(
        "--figure", type=Path, help="picture to write, or folder, of benchmarks that have several"
    )
    parser.add_argument(
        "--parts", nargs="+", help="of a benchmark that has parts: run these, keep --out's others"
    )
    arguments = parser.parse_args()
    benchmark = BENCHMARKS[arguments.name]
    known = getattr(benchmark, "PARTS", {})
    if unknown := set(arguments.parts or ()) - set(known):
        parser.error(f"{arguments.name} has the parts {list(known)}, not {sorted(unknown)}")
    some = {"parts": arguments.parts} if arguments.parts else {}
    result = benchmark.run(smoke=arguments.smoke, device=arguments.device, **some)
    if some and arguments.out is not None and arguments.out.exists():
        result = {**json.loads(arguments.out.read_text()), **result}
    print(benchmark.table(result))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.figure is not None and hasattr(benchmark, "draw"):
        benchmark.draw(result, arguments.figure)


if __name__ == "__main__":
    main()
