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

@given(st.integers())
def test_numbers_are_small(n):
    assert n < 17
"""


def fuzz(folder: Path, text: str, seed: int) -> tuple[subprocess.CompletedProcess[str], str]:
    """What a run says, and which numbers it draws for the first law."""
    (folder / "test_laws.py").write_text(text)
    (folder / "drawn").write_text("")
    options = ["--processes", "0", "--times", "3", "--seed", str(seed)]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.fuzz", *options, "--out", folder / "out.json", folder],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    return done, (folder / "drawn").read_text()


def test_it_counts_draws_by_the_seed_alone_and_finds_what_is_broken(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done, first = fuzz(tmp_path, LAWS, 1)
    assert done.returncode == 0, done.stdout
    assert "30 examples in" in done.stdout
    figures = json.loads(out.read_text())
    assert figures["laws"] == {"addition commutes": 30}
    assert (figures["examples"], figures["failures"], figures["seed"]) == (30, 0, 1)
    out.unlink()
    done, again = fuzz(tmp_path, LAWS + BROKEN, 1)
    assert first == again
    assert done.returncode == 1
    assert "n=17" in done.stdout, "the smallest example"
    assert "seed 1" in done.stdout
    assert not out.exists()
    _, other = fuzz(tmp_path, LAWS, 2)
    assert first != other
