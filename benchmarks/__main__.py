"""Runs one benchmark, prints its tables, and writes its JSON and pictures."""

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

NAMES = (
    "conditioning",
    "correctors",
    "damping",
    "defaults",
    "exactness",
    "scale",
    "solvers",
    "speed",
)


def main() -> None:
    """Parses the command line and runs a benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--smoke", action="store_true", help="run the smallest case only, once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--figure", type=Path, help="picture to write; a folder for benchmarks with several"
    )
    parser.add_argument(
        "--parts", nargs="+", help="run only these parts, and keep the others in --out"
    )
    arguments = parser.parse_args()
    benchmark = import_module(f"benchmarks.{arguments.name}")
    known = getattr(benchmark, "PARTS", {})
    if unknown := set(arguments.parts or ()) - set(known):
        parser.error(f"{arguments.name} has the parts {list(known)}, not {sorted(unknown)}")
    some = {"parts": arguments.parts} if arguments.parts else {}
    result = benchmark.run(smoke=arguments.smoke, device=arguments.device, **some)
    print("\n\n".join(map(str, benchmark.tables(result))))
    if arguments.figure is not None and hasattr(benchmark, "draw"):
        benchmark.draw(result, arguments.figure)
    if arguments.out is not None:
        kept = json.loads(arguments.out.read_text()) if some and arguments.out.exists() else {}
        kept |= result
        if hasattr(benchmark, "targets"):
            kept["targets"] = benchmark.targets(kept)
        arguments.out.write_text(_json(kept) + "\n")


def _json(value: Any, indent: str = "") -> str:
    """JSON with one line per row: lists and mappings that hold rows are broken, rows are not."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(part, dict) for part in parts):
        return json.dumps(value, ensure_ascii=False)
    inner = indent + "  "
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_json(each, inner)}" for key, each in value.items()]
    else:
        items = [_json(each, inner) for each in value]
    marks = "{}" if isinstance(value, dict) else "[]"
    return f"{marks[0]}\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}{marks[1]}"


if __name__ == "__main__":
    main()
