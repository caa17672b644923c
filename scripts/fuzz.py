"""Runs the property tests of graphs, and near misses of public calls: `python -m scripts.fuzz`.

    python -m scripts.fuzz [--times N] [--seed S] [--processes P] [--out JSON] [TEST ...]

Each test draws N times as many examples as in an ordinary test run. They depend on the seed alone,
whatever the number of processes. A failing example is made as small as possible and printed with
the seed; then the exit code is 1.

Then N calls with a wrong argument (`--misses N`) are made, of which 99 % of those that are refused
must be refused in words (`tests/near_misses.py`); there are none where tests are named.

This file is also the pytest plugin that does so: `pytest -p scripts.fuzz --times N`.
"""

import argparse
import json
import platform
import re
import secrets
import time
from datetime import datetime, timezone
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

__all__ = ["main"]

TESTS = ("tests/graphs", "tests/testing")
PASSED = re.compile(r"(\d+) passing, ")
PACKAGES = ("pgmdiff", "hypothesis", "networkx", "numpy", "scipy", "torch")


class Counts:
    """A pytest plugin that notes how many examples each property test has passed."""

    def __init__(self) -> None:
        self.laws: dict[str, int] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if statistics := vars(report).get("_hypothesis_stats"):
            law = report.nodeid.rpartition("::test_")[2].replace("_", " ")
            passed = sum(map(int, PASSED.findall(statistics)))
            self.laws[law] = self.laws.get(law, 0) + passed


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--times", type=int, default=1, help="examples, as a multiple of the usual")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the property tests, and draws new examples for them: many, and none remembered."""
    from hypothesis import is_hypothesis_test, settings  # whose own plugin must import it first

    times = config.getoption("--times")
    functions = [item for item in items if isinstance(item, pytest.Function)]
    properties = [item for item in functions if is_hypothesis_test(item.obj)]
    items[:] = properties
    for test in {id(item.obj): item.obj for item in properties}.values():  # parameters share one
        usual = test._hypothesis_internal_use_settings
        test._hypothesis_internal_use_settings = settings(
            usual, max_examples=times * usual.max_examples, derandomize=False, database=None
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.fuzz", description=__doc__)
    parser.add_argument("tests", nargs="*", default=TESTS, metavar="TEST")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--misses", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    given = parser.parse_args(arguments)
    counts, start = Counts(), time.perf_counter()
    options = [f"--times={given.times}", f"--hypothesis-seed={given.seed}", f"-n{given.processes}"]
    code = pytest.main(["-p", "scripts.fuzz", *options, *given.tests], plugins=[counts])
    seconds = time.perf_counter() - start
    width = max(map(len, counts.laws), default=0)
    print("\n".join(f"{law:<{width}} {n:>9,}" for law, n in sorted(counts.laws.items())))
    print(f"{sum(counts.laws.values()):,} examples in {seconds:.0f} s, seed {given.seed}")
    misses = {}
    if code == 0 and tuple(given.tests) == TESTS:
        near = import_module("tests.near_misses")
        misses = near.summary(near.measured(given.misses, given.seed, longest=0.05))
        print("\n".join(f"{what}: {found}" for what, found in misses.items()))
        code = int(misses["share"] < 0.99)
    if code == 0 and given.out is not None:
        figures = {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "seed": given.seed,
            "examples": sum(counts.laws.values()),
            "failures": 0,
            "processes": given.processes,
            "seconds": round(seconds, 1),
            "versions": {
                "python": platform.python_version(),
                **{package: version(package) for package in PACKAGES},
            },
            "laws": dict(sorted(counts.laws.items())),
            **({"near_misses": misses} if misses else {}),
        }
        given.out.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    raise SystemExit(int(code))


if __name__ == "__main__":
    main()
