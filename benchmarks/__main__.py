"""Runs one benchmark, prints its tables, and writes its JSON and pictures."""

import argparse
import json
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

NAMES = (
    "conditioning",
    "correctors",
    "damping",
    "defaults",
    "exactness",
    "hosts",
    "scale",
    "second_order",
    "solvers",
    "speed",
    "stars",
)


def main(package: str = "benchmarks", names: Sequence[str] = NAMES) -> None:
    """Parses the command line and runs one of a package's benchmarks, or experiments.

    Parts are run one by one, and --out is written after each.
    """
    about = import_module(f"{package}.__main__").__doc__
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=about)
    parser.add_argument("name", choices=names)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--smoke", action="store_true", help="run the smallest case only, once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--figure", type=Path, help="picture to write; a folder for benchmarks with several"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        help="run only these parts, and keep the others in --out; either word of a name such as "
        "landscape-gate stands for all parts with it",
    )
    parser.add_argument("--resume", action="store_true", help="run no part that --out holds")
    arguments = parser.parse_args()
    benchmark = import_module(f"{package}.{arguments.name}")
    known, out = getattr(benchmark, "PARTS", {}), arguments.out
    words = {name: {name, *name.split("-")} for name in known}
    asked = set(arguments.parts or known)
    if unknown := asked.difference(*words.values()):
        parser.error(f"{arguments.name} has the parts {list(known)}, not {sorted(unknown)}")
    result = _read(out) if arguments.resume else {}
    todo = [name for name in known if words[name] & asked and name not in result]
    for some in [{"parts": [name]} for name in todo] if known else [{}]:
        result |= benchmark.run(smoke=arguments.smoke, device=arguments.device, **some)
        if out is not None:
            kept = (_read(out) if arguments.parts or arguments.resume else {}) | result
            if hasattr(benchmark, "targets"):
                kept["targets"] = benchmark.targets(kept)
            part = out.with_name(f"{out.name}.{os.getpid()}.part")
            part.write_text(_json(kept) + "\n")
            part.replace(out)
    print("\n\n".join(map(str, benchmark.tables(result))))
    if arguments.figure is not None and hasattr(benchmark, "draw"):
        benchmark.draw(result, arguments.figure)


def _read(path: Path | None) -> dict[str, Any]:
    """What a file holds; nothing if there is none."""
    found: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    return found


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
