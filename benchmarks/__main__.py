"""`python -m benchmarks NAME [--out FILE] [--figure FILE]`."""

import argparse
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import (
    conditioning,
    correctors,
    defaults,
    exactness,
    scale,
    solvers,
    speed,
)

BENCHMARKS: dict[str, ModuleType] = {
    "conditioning": conditioning,
    "correctors": correctors,
    "defaults": defaults,
    "exactness": exactness,
    "scale": scale,
    "solvers": solvers,
    "speed": speed,
}


def main() -> None:
    """Parses the command line and runs a benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
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
    print(benchmark.table(result))
    if arguments.figure is not None and hasattr(benchmark, "draw"):
        benchmark.draw(result, arguments.figure)
    if arguments.out is not None:
        kept = json.loads(arguments.out.read_text()) if some and arguments.out.exists() else {}
        arguments.out.write_text(_text({**kept, **result}) + "\n")


def _text(value: Any, indent: str = "") -> str:
    """JSON with a line a row: what holds rows is broken into lines, a row is not."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(part, dict) for part in parts):
        return json.dumps(value, ensure_ascii=False)
    inner = indent + "  "
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_text(each, inner)}" for key, each in value.items()]
    else:
        items = [_text(each, inner) for each in value]
    marks = "{}" if isinstance(value, dict) else "[]"
    return f"{marks[0]}\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}{marks[1]}"


if __name__ == "__main__":
    main()
