"""Several ranks give what one process gives, fail together, and go on after one was killed.

All that ranks do is done once, by `program`, in two processes that talk by gloo.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pgmdiff import Consistent, PgmdiffError, Posterior, sample
from pgmdiff.distributed import Ranks, Slab, shared
from pgmdiff.samplers import DPMSolver2M
from tests.distributed import program
from tests.helpers import group_of_one

ROOT, SIZE = Path(__file__).parents[2], 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.distributed.program", str(folder)]
    started = []
    with socket.create_server(("localhost", 0)) as free:
        port = str(free.getsockname()[1])
    for rank in range(SIZE):
        given = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(SIZE), "OMP_NUM_THREADS": "1"}
        given |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, env=given, cwd=ROOT, **pipes))
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, -9], "\n".join(said)
    (folder / "said").write_text("\n".join(said))
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(SIZE)]


def differences(found: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    for rank in found:
        yield from ((name, value) for name, value in rank.items() if isinstance(value, float))


def test_results_are_those_of_one_process(found: list[dict[str, Any]]) -> None:
    every = dict(differences(found))
    for kind in ("shared", "slab"):
        names = {name.removeprefix(f"{kind} ") for name in every if name.startswith(f"{kind} ")}
        assert {"marginal, SDE", "average", "torus along rows", "grid of variables"} <= names
        assert {
            "mean",
            "posterior",
            "consistent, capped",
            "conditions of nodes",
            "goes on",
        } <= names
        assert "conditions of nodes and samples" in names
        assert {"hub", "field", "field of a call", "mask", "crop", "isotropic"} <= names
        assert {"known", "known each", "known none", "known to messages"} <= names
    for name, difference in differences(found):
        assert difference < (1e-5 if "float32" in name else 1e-6), name


ERRORS = {
    "loops": "requires the whole state on every rank. Use distributed.shared",
    "adaptive": "expected a solver whose steps are elementwise",
    "gradient of a slab": "it has no gradients",
    "measured sizes": "expected max_batch as a number or None",
    "gradient of shared": "shared calls have no gradients",
    "slope of a slab": "it has no gradients",
    "slope of shared": "shared calls have no gradients",
    "field": r"the condition 'tone': .* whole state \[\*channels, 3, 16, 6\].* every rank",
    "node": "a per_node condition is given for 'nowhere', which is no region",
    "moments": "a mask or a crop .* got a method that acts on all elements together",
    "gradient of an observation": "reconstruction: .* got a method that acts on all elements",
    "several noises": "got a method that acts on all elements together. Use distributed.shared",
    "other batch": "one observation, or one for each of 3 samples, got 2",
    "mask of a part": r"of the whole, \(8, 12\), .*, got Mask\(event_shape=\(4, 12\)",
    "several masks": "expected the same observed elements and noise for all samples",
    "operator": "replacement: on a state that is divided among ranks, expected .* got PerAxis",
    "pure": "a call without memory requires the whole state",
    "too many ranks": "one per rank, got 1",
    "other folders": r"same files on all ranks, got, from rank 0 on, step 3, none\. Give a folder",
    "seeds": "on different states.*Give sample the same seed",
    "sigmas": "with different batches or σ",
    "shared fails": "rank 1 of 2 failed, RuntimeError: the disk of this model is gone",
    "slab fails": "rank 1 of 2 failed, RuntimeError: the disk of this model is gone",
    "shared nan": "rank 1 of 2 failed, ScoreError: .*broken is not finite",
    "slab nan": "rank 1 of 2 failed, ScoreError: Joint: the score of node .* is not finite at σ",
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_raised_on_all_ranks(name: str, found: list[dict[str, Any]]) -> None:
    said = [rank[name] for rank in found]
    assert all(re.search(ERRORS[name], text) for text in said), said


def test_what_is_sent_does_not_depend_on_the_length(found: list[dict[str, Any]]) -> None:
    for rank in found:
        sent = {name: value for name, value in rank.items() if name.startswith("bytes")}
        assert sent["bytes None 100"] == sent["bytes None 404"]
        assert sent["bytes Posterior 100"] == sent["bytes Posterior 404"]
        # Four elements of 8 bytes, once on each side of the border, and what ranks agree on.
        assert sent["bytes None 100"] == 4 * 8 + (3 + 1) * 8


def test_a_run_in_which_a_rank_was_killed_goes_on_with_another_number(
    folder: Path, found: list[dict[str, Any]]
) -> None:
    assert "rank 0 of 2 lost another rank, which has died" in found[0]["killed"]
    joint, calls = program.modes(Consistent), []
    given: dict[str, Any] = {"shape": (2, 12), "generator": 5, "dtype": torch.float64}
    given["solver"] = DPMSolver2M(eta=1.0)
    given["run"] = folder / "killed"
    with group_of_one():
        u = sample(Slab(joint), program.LEVELS, callback=calls.append, **given)
        with pytest.raises(PgmdiffError, match="belongs to another run: expected score"):
            sample(Slab(program.modes(Posterior)), program.LEVELS, **given)
    assert len(calls) == len(program.LEVELS) - 1 - 3
    del given["run"]
    torch.testing.assert_close(u, sample(joint, program.LEVELS, **given), rtol=0, atol=1e-9)


def test_the_example(folder: Path) -> None:
    assert "the strip: (1, 1, 16, 40)" in (folder / "said").read_text()


def test_without_a_group() -> None:
    with pytest.raises(PgmdiffError, match="expected a group of processes, got none"):
        Ranks()
    with pytest.raises(PgmdiffError, match="init_process_group"):
        shared(program.torus())
