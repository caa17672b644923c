"""The fuzzer passes on a small scale, draws what it should, and finds what is wrong."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from scripts import fuzz
from tests.oracles import hypergraphs as oracle


def test_fuzz_smoke() -> None:
    counts, failure = fuzz.run(200, seed=1)
    assert failure is None
    assert counts.keys() == {law.name for law in fuzz.LAWS}
    assert all(law.name in fuzz.table(counts) for law in fuzz.LAWS)
    record = fuzz.record(counts, 200, 1, 1, 2.0)
    assert json.loads(json.dumps(record))["tilings"] == 20


def test_a_graph_depends_on_its_seed_and_number_only() -> None:
    pieces = [fuzz.checked(numbers, 3)[0] for numbers in (range(7), range(7, 40))]
    assert pieces[0] + pieces[1] == fuzz.checked(range(40), 3)[0]
    first, again = (fuzz.random_case(fuzz.random_hypergraph, 3, 11, 0) for _ in range(2))
    assert first == again != fuzz.random_case(fuzz.random_hypergraph, 3, 12, 0)


def test_what_is_drawn_is_varied() -> None:
    seen: Counter[str] = Counter()
    for number in range(500):
        case = fuzz.random_case(fuzz.random_hypergraph, 0, number, 0)
        assert isinstance(case, fuzz.Hypergraph)
        tree = oracle.merged_bethe(case.masks, len(case.shapes)) == case.kikuchi_counts
        seen["loops"] += not case.alpha
        seen["α-acyclic, Bethe wrong"] += case.alpha and not tree
        seen["α-acyclic, Bethe right"] += case.alpha and tree
        seen["Berge-acyclic"] += oracle.is_berge_acyclic(case.masks)
        seen["duplicates"] += len(set(case.masks)) < len(case.masks)
        seen["subsets"] += len(oracle.maximal(case.masks)) < len(set(case.masks))
        seen["isolated"] += len(case.pieces) > len(case.masks)
        seen["disconnected"] += oracle.n_components(case.pieces) > 1
        seen["blocks"] += any(case.shapes.values())
        seen["joined on an axis"] += case.axis is not None
        seen["large"] += min(len(case.shapes), len(case.scopes)) == 8
    assert min(seen.values()) >= 15, seen


def test_a_wrong_verdict_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = fuzz.Hypergraph.kikuchi_report.func
    monkeypatch.setattr(
        fuzz.Hypergraph,
        "kikuchi_report",
        property(lambda case: fuzz.replace(honest(case), alpha_acyclic=True)),
    )
    _, failure = fuzz.run(200)
    assert failure is not None
    assert failure.law == "α-acyclic ⇔ GYO reduction"
    assert failure.why == "got True, expected False"
    minimal = eval(failure.minimal, {"Hypergraph": fuzz.Hypergraph})
    assert sorted(map(len, minimal.scopes.values())) == [2, 2, 2]
    assert len(minimal.shapes) == 3
    assert f"seed 0, graph {failure.number}" in str(failure)


def test_a_crash_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "tiles", lambda *_, **__: 1 / 0)
    _, failure = fuzz.run(20)
    assert failure is not None
    assert failure.why == "raised ZeroDivisionError: division by zero"
    assert failure.minimal == "Tiling(shape=(1,), window=(1,), overlap=(0,), periodic=(False,))"


def test_fuzz_command(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    command = [sys.executable, "-m", "scripts.fuzz", "--graphs", "10", "--processes", "1"]
    done = subprocess.run(
        [*command, "--no-progress", "--out", str(out)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "10 graphs in" in done.stdout
    assert json.loads(out.read_text())["laws"]["Berge-acyclic ⇔ union-find"] == 10
