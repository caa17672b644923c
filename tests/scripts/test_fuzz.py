"""The fuzz script counts what it checked, draws by its seed, and fails when a law is broken."""

import json
import subprocess
import sys
from pathlib import Path

LAWS = """
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=10, derandomize=True)
@given(st.integers())
def test_addition_commutes(n):
    with Path(__file__).with_name("drawn").open("a") as drawn:
        drawn.write(f"{n} ")
    assert n + 1 == 1 + n


def test_what_is_no_property():
    raise AssertionError
"""
BROKEN = """
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers())
def test_numbers_are_small(n):
    assert n < 17
"""


def fuzz(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    test = folder / "test_laws.py"
    test.write_text(text)
    command = [sys.executable, "-m", "scripts.fuzz", "--processes", "0", *options, str(test)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )


def test_it_counts_examples_and_draws_them_by_the_seed_alone(tmp_path: Path) -> None:
    drawn = []
    for seed in ("1", "1", "2"):
        out = tmp_path / "fuzz.json"
        done = fuzz(tmp_path, LAWS, "--times", "3", "--seed", seed, "--out", str(out))
        assert done.returncode == 0, done.stdout
        assert "30 examples in" in done.stdout
        figures = json.loads(out.read_text())
        assert figures["laws"] == {"addition commutes": 30}
        assert (figures["examples"], figures["failures"], figures["seed"]) == (30, 0, int(seed))
        drawn.append((tmp_path / "drawn").read_text())
        (tmp_path / "drawn").unlink()
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_broken_law_fails_with_the_smallest_example_and_the_seed(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    done = fuzz(tmp_path, BROKEN, "--times", "2", "--seed", "5", "--out", str(out))
    assert done.returncode == 1
    assert "n=17" in done.stdout
    assert "seed 5" in done.stdout
    assert not out.exists()
