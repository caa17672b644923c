"""Runs that are interrupted, killed, damaged and mixed up."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError, ShapeError, compose
from pgmdiff.composition import Average, FeynmanKac
from pgmdiff.conditioning import Mask, replacement
from pgmdiff.gaussian import node_scores
from pgmdiff.graphs import chain
from pgmdiff.samplers import (
    SDE,
    DPMSolver2M,
    Heun,
    Metropolis,
    PredictorCorrector,
    Run,
    Solver,
    State,
    UniPC,
    karras,
    sample,
    sample_weighted,
    time_travel,
)
from pgmdiff.samplers.store import check_same
from pgmdiff.store import fingerprint, outline, save
from tests.helpers import ar1
from tests.samplers.cases import TARGET, normal

SIGMAS = karras(8, 0.05, 10.0)
SOLVERS = [UniPC(3), DPMSolver2M(eta=1.0), Heun(), SDE(1.0)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)


class Interrupted(Exception):
    """What stops a run in these tests."""


class Remembering:
    """A score that carries a memory, and fails at a chosen call."""

    fingerprint = "the same score, however often it was called"

    def __init__(self, fail_at: float = float("inf")) -> None:
        self.calls, self.fail_at, self.memory = 0, fail_at, {}

    def remembering(self, memory: dict[str, Tensor]) -> "Remembering":
        self.memory = dict(memory)
        return self

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.fail_at:
            raise Interrupted
        before = self.memory.get("before", torch.zeros_like(x))
        self.memory["before"] = TARGET.score(x, sigma)
        return 0.9 * self.memory["before"] + 0.1 * before


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("sigmas", [SIGMAS, time_travel(SIGMAS, 3)], ids=["falls", "rises"])
def test_an_interrupted_run_goes_on_and_a_finished_one_returns(
    solver: Solver, sigmas: list[float], tmp_path: Path
) -> None:
    arguments = {"sigmas": sigmas, "shape": (3, 2), "solver": solver, "generator": 5}
    whole = Remembering()
    expected = sample(whole, **arguments)
    for fail_at in range(0, whole.calls, 3):
        run = Run(tmp_path / str(fail_at), every=0)
        with pytest.raises(Interrupted):
            sample(Remembering(fail_at), run=run, **arguments)
        rest = Remembering()
        assert torch.equal(sample(rest, run=run, **arguments), expected)
        assert rest.calls <= whole.calls - fail_at + solver.evaluations - 1
        again = Remembering(0)
        assert torch.equal(sample(again, run=Run(run.folder), **arguments), expected)
        assert again.calls == 0
        assert len(os.listdir(run.folder)) == 2


def test_without_a_generator_the_noise_of_the_run_is_continued(tmp_path: Path) -> None:
    arguments = {"sigmas": SIGMAS, "shape": (3, 2), "solver": SDE(1.0)}
    states: list[State] = []
    keep = {"callback": lambda step: states.append(step["state"])}
    with pytest.raises(Interrupted):
        sample(Remembering(4), run=Run(tmp_path, every=0), **arguments, **keep)
    out = sample(Remembering(), run=Run(tmp_path), **arguments)
    state = replace(states[0], run=State.load(max(tmp_path.iterdir())).run)
    assert torch.equal(sample(Remembering(), SIGMAS, state=state, solver=SDE(1.0)), out)


def test_saves_are_apart_in_time_but_for_the_start_and_the_end(tmp_path: Path) -> None:
    sample(TARGET.score, SIGMAS, shape=(3, 2), generator=0, run=Run(tmp_path, every=1e6))
    assert sorted(os.listdir(tmp_path)) == [f"pgmdiff-{k:08d}.safetensors" for k in (0, 8)]


def potential(rho: float = 0.5, fail_at: float = float("inf")) -> Any:
    joint = compose(chain(3), node_scores(chain(3), ar1(3, rho)))
    calls = [0]

    def interrupted(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        calls[0] += 1
        if calls[0] > fail_at:
            raise Interrupted
        return FeynmanKac(joint)(x, sigma)

    interrupted.fingerprint = f"correlation {rho}"
    return interrupted


def test_weighted_runs_resume(tmp_path: Path) -> None:
    arguments = {"sigmas": SIGMAS[:-1], "shape": (50, 3), "threshold": 0.95, "generator": 1}
    expected = sample_weighted(potential(), **arguments)
    assert expected.n_resampled
    for fail_at in (1, 4, 6):
        run = Run(tmp_path / str(fail_at), every=0)
        for attempt in (fail_at, float("inf"), float("inf")):
            if attempt == fail_at:
                with pytest.raises(Interrupted):
                    sample_weighted(potential(fail_at=fail_at), run=run, **arguments)
                continue
            found = sample_weighted(potential(), run=run, **arguments)
            for name, value in vars(expected).items():
                one = getattr(found, name)
                assert torch.equal(one, value) if isinstance(value, Tensor) else one == value, name
    for name, other in {
        "sigmas": SIGMAS[:-2],
        "shape": (49, 3),
        "threshold": 0.5,
        "eta": 0.5,
        "generator": 2,
        "dtype": torch.float32,
        "potential": potential(0.6),
    }.items():
        words = {"generator": r"seeds\[0\]", "potential": "score", "shape": r"shape\[0\]"}
        with pytest.raises(PgmdiffError, match=f"to another run: expected {words.get(name, name)}"):
            sample_weighted(**{"potential": potential(), **arguments, name: other}, run=run)
    with pytest.raises(PgmdiffError, match="expected sampler 'sample_weighted', got 'sample'"):
        sample(TARGET.score, SIGMAS, shape=(3, 2), run=run)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "solver": ({"solver": DPMSolver2M(eta=1.0, rho=7.0)}, r"solver 'DPMSolver2M\(eta=1.0, rho=inf"),
    "tail": ({"sigmas": [*SIGMAS[:-2], 0.04, 0.0]}, r"sigmas\[7\] 0.05\d*, got 0.04"),
    "levels": ({"sigmas": [*SIGMAS[:-1], 0.04, 0.0]}, "sigmas 9 values, got 10"),
    "seed": ({"generator": 6}, r"seeds\[0\] "),
    "key of one sample": ({"generator": [5, 6, 2 * 2**64 + 5]}, r"seeds\[[01]\] "),
}


@pytest.mark.parametrize(("change", "message"), OTHERS.values(), ids=OTHERS)
def test_another_run_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """By a state, by a file of one, and by a folder."""
    arguments = {"score": TARGET.score, "sigmas": SIGMAS, "generator": 5}
    arguments["solver"] = DPMSolver2M(eta=1.0)
    steps: list[Any] = []
    out = sample(shape=(3, 2), callback=steps.append, run=Run(tmp_path / "run"), **arguments)
    state = steps[4]["state"]
    state.save(tmp_path / "state")
    resumed = [
        {"state": state},
        {"state": State.load(tmp_path / "state")},
        {"shape": (3, 2), "run": Run(tmp_path / "run")},
    ]
    for given in resumed:
        assert torch.equal(sample(**arguments, **given), out)
        with pytest.raises(PgmdiffError, match=f"belongs to another run: expected {message}"):
            sample(**arguments | change, **given)
    if len(change.get("sigmas", SIGMAS)) == len(SIGMAS):
        bare = {"state": replace(state, run={})}
        assert sample(**arguments | change, **bare).shape == out.shape, "an explicit restart"


def test_long_facts_are_shown_from_where_they_differ() -> None:
    layers = "".join(f"(layer {k}): Linear(32, 32) " for k in range(20))
    with pytest.raises(PgmdiffError, match=r"expected network '.{20}4\)', got '.{20}8\)'"):
        check_same("fit", {"network": f"Net({layers}4)"}, {"network": f"Net({layers}8)"}, "")
    with pytest.raises(PgmdiffError, match=r"expected solver 'Heun\(\)', got 'Heun\(1\)'"):
        check_same("sample", {"solver": "Heun()"}, {"solver": "Heun(1)"}, "")


def test_a_run_is_refused_another_score_start_or_dtype(tmp_path: Path) -> None:
    arguments = {"score": TARGET.score, "sigmas": SIGMAS, "x": 10 * normal(3, 2), "generator": 5}
    sample(run=Run(tmp_path), **arguments)
    for name, change in {
        "score": {"score": ar1(2, 0.3).score},
        "start": {"x": 10 * normal(3, 2, seed=1)},
        r"shape\[0\]": {"x": 10 * normal(4, 2)},
        "start '": {"x": None, "shape": (3, 2), "dtype": torch.float64},
        "dtype": {"dtype": torch.float32},
    }.items():
        with pytest.raises(PgmdiffError, match=f"expected {name}.*Make the call that began"):
            sample(run=Run(tmp_path), **arguments | change)


def joint_of(scale: float = 1.0, length: int = 3, **options: Any) -> Any:
    models = node_scores(chain(length), ar1(length, 0.5))
    return compose(chain(length), {n: Scaled(s, scale) for n, s in models.items()}, **options)


@dataclass(frozen=True)
class Scaled:
    """A model of a user's own."""

    score: Any
    scale: float

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        return self.scale * self.score(x, sigma)


def closed(scale: float) -> Any:
    return lambda x, sigma: scale * TARGET.score(x, sigma)


KNOWN, Y = Mask(torch.tensor([True, False, False])), torch.ones(3)
REFUSED: dict[str, tuple[Any, Any]] = {
    r"score\.graph\.variables": (joint_of(), joint_of(length=4)),
    r"score\.rule": (joint_of(), joint_of(rule=Average())),
    r"score\.scores\['f0'\]": (joint_of(), joint_of(2.0)),
    r"score\.regions\.conditions": (joint_of(), joint_of(conditions={"f1": {"c": torch.ones(1)}})),
    r"score\.conditions\['x1'\]": (joint_of(), joint_of(null_condition={"c": torch.ones(1)})),
    r"score\.function\.rule": (partial(joint_of(), c=Y), partial(joint_of(rule=Average()), c=Y)),
    r"score\.c ": (partial(joint_of(), c=Y), partial(joint_of(), c=2 * Y)),
    r"score\.scale ": (closed(1.0), closed(2.0)),
    r"score\.network.*\.y ": (
        replacement(joint_of(), Y, KNOWN),
        replacement(joint_of(), -Y, KNOWN),
    ),
}


@pytest.mark.parametrize("part", REFUSED)
def test_what_differs_in_the_score_is_named(part: str, tmp_path: Path) -> None:
    first, second = REFUSED[part]
    store = {"sampler": "sample", "score": outline(first)}
    check_same("run", store, {"score": json.loads(json.dumps(outline(first)))}, "")
    with pytest.raises(PgmdiffError, match=f"belongs to another run: expected {part}"):
        check_same("run", store, {"score": outline(second)}, "")
    assert str(outline(first)).count("all") < 60
    assert outline(first)["all"] == fingerprint(first)[:16]


def test_a_run_goes_on_with_smaller_calls_but_not_under_another_rule(tmp_path: Path) -> None:
    """As after running out of memory; models, conditions and the rule must be those of before."""
    target, calls = ar1(3, 0.5), list[int]()

    def scores(stop: float = float("inf")) -> dict[str, Callable[..., Tensor]]:
        def counting(name: str, score: Any) -> Callable[..., Tensor]:
            def call(x: Tensor, sigma: Tensor) -> Tensor:
                calls.append(len(x))
                if len(calls) > stop:
                    raise Interrupted
                return score(x, sigma)

            call.fingerprint = name  # type: ignore[attr-defined]
            return call

        return {name: counting(name, each) for name, each in node_scores(chain(3), target).items()}

    arguments = {"sigmas": SIGMAS, "shape": (4, 3), "generator": 5}
    with pytest.raises(Interrupted):
        sample(compose(chain(3), scores(20)), run=Run(tmp_path, every=0), **arguments)
    for other in ({"rule": Average()}, {"conditions": {"x0": {"label": torch.ones(1)}}}):
        with pytest.raises(PgmdiffError, match="belongs to another run: expected score"):
            sample(compose(chain(3), scores(), **other), run=Run(tmp_path), **arguments)
    calls.clear()
    smaller = compose(chain(3), scores(), max_batch=1, check_finite=False)
    found = sample(smaller, run=Run(tmp_path), **arguments)
    assert set(calls) == {1}
    whole = sample(compose(chain(3), scores()), **arguments)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


def test_a_state_may_begin_a_saved_run_and_other_files_are_refused(tmp_path: Path) -> None:
    steps: list[Any] = []
    arguments = {"solver": SDE(1.0), "generator": 5}
    out = sample(TARGET.score, SIGMAS, shape=(3, 2), callback=steps.append, **arguments)
    state = steps[4]["state"]
    for _ in range(2):
        run = tmp_path / "new"
        assert torch.equal(sample(TARGET.score, SIGMAS, state=state, run=run, **arguments), out)
    sample_weighted(potential(), SIGMAS[:-1], shape=(5, 3), run=str(tmp_path / "weighted"))
    with pytest.raises(PgmdiffError, match="expected the file of a state"):
        State.load(max((tmp_path / "weighted").iterdir()))
    save(tmp_path / "foreign" / "pgmdiff-00000003.safetensors", {}, {})
    with pytest.raises(PgmdiffError, match="expected sampler None, got 'sample'"):
        sample(TARGET.score, SIGMAS, state=state, run=Run(tmp_path / "foreign"), **arguments)
    for bad in (lambda: Run(3), lambda: Run("folder", every=-1.0)):
        with pytest.raises(PgmdiffError, match="expected a folder as text or a Path, and every"):
            bad()


def test_a_part_of_a_batch_is_not_the_batch() -> None:
    steps: list[Any] = []
    run = {"solver": UniPC(3), "generator": 5}
    sample(TARGET.score, SIGMAS, shape=(3, 2), callback=steps.append, **run)
    state = steps[4]["state"]
    with pytest.raises(ShapeError, match="denoised and history of the shape of x"):
        replace(state, x=state.x[:1])
    cut = replace(
        state,
        x=state.x[:1],
        denoised=None if state.denoised is None else state.denoised[:1],
        history=tuple((level, value[:1]) for level, value in state.history),
    )
    for generator in (5, [5], None):
        with pytest.raises(PgmdiffError, match=r"expected shape\[0\] 3, got 1"):
            sample(TARGET.score, SIGMAS, state=cut, solver=UniPC(3), generator=generator)
    alone = sample(TARGET.score, SIGMAS, state=replace(cut, run={}), **run)
    whole = sample(TARGET.score, SIGMAS, state=state, **run)
    torch.testing.assert_close(alone, whole[:1])


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    path.write_bytes({"truncated": data[:middle], "empty": b"", "flipped": flipped}[how])


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_damaged_files_are_named_and_the_one_before_is_used(how: str, tmp_path: Path) -> None:
    arguments = {"sigmas": SIGMAS, "shape": (3, 2), "solver": SDE(1.0), "generator": 5}
    expected = sample(Remembering(), **arguments)
    with pytest.raises(Interrupted):
        sample(Remembering(5), run=Run(tmp_path, every=0), **arguments)
    before, last = sorted(tmp_path.iterdir())
    damage(last, how)
    part = tmp_path / "pgmdiff-00000006.safetensors.1.part"
    part.write_text("of a run that was killed")
    rest = Remembering()
    with pytest.warns(UserWarning, match=f"{last.name} as it was written"):
        out = sample(rest, run=Run(tmp_path, every=1e6), **arguments)
    assert torch.equal(out, expected)
    assert rest.calls == 4
    assert sorted(tmp_path.iterdir()) == [before, tmp_path / "pgmdiff-00000008.safetensors"]
    for path in tmp_path.iterdir():
        damage(path, how)
    with pytest.warns(UserWarning, match="as it was written"):
        assert torch.equal(sample(Remembering(), run=Run(tmp_path), **arguments), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(sample(Remembering(0), run=Run(tmp_path), **arguments), expected)


def test_files_that_are_not_the_runs_are_left_alone(tmp_path: Path) -> None:
    names = ["step-00001000.safetensors", "step-by-step.md", "pgmdiff.txt", "notes"]
    for name in names[:-1]:
        (tmp_path / name).write_text("the user's own")
    (tmp_path / "notes").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(TARGET.score, SIGMAS, shape=(3, 2), generator=0, run=Run(tmp_path, every=0))
    assert set(names) < set(os.listdir(tmp_path))


def test_two_runs_in_one_folder_do_not_stop_each_other(tmp_path: Path) -> None:
    """As those do that were begun twice by mistake."""
    arguments = {"sigmas": karras(60, 0.05, 10.0), "shape": (3, 2), "generator": 5}

    def result(number: int) -> Tensor:
        return sample(TARGET.score, run=Run(tmp_path, every=0), solver=SDE(1.0), **arguments)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(result, range(4)))
    expected = sample(TARGET.score, solver=SDE(1.0), **arguments)
    assert all(torch.equal(each, expected) for each in found)


def corrected(scale: float) -> Solver:
    return PredictorCorrector(SDE(1.0), Metropolis(lambda x, s: -scale * (x**2).sum(1), 0.1))


def test_a_corrector_that_its_repr_does_not_show_belongs_to_the_run(tmp_path: Path) -> None:
    arguments = {"shape": (3, 2), "generator": 0, "run": tmp_path}
    out = sample(TARGET.score, SIGMAS, solver=corrected(1.0), **arguments)
    assert torch.equal(sample(TARGET.score, SIGMAS, solver=corrected(1.0), **arguments), out)
    with pytest.raises(PgmdiffError, match="expected corrector"):
        sample(TARGET.score, SIGMAS, solver=corrected(2.0), **arguments)


def test_a_folder_that_cannot_be_written_is_named_before_the_first_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    calls: list[Callable[..., Any]] = [
        lambda run: sample(Remembering(0), SIGMAS, shape=(3, 2), run=run),
        lambda run: sample_weighted(potential(fail_at=1), SIGMAS[:-1], shape=(5, 3), run=run),
    ]
    for call in calls:
        with pytest.raises(PgmdiffError, match=r"expected to write .*file/pgmdiff-00000000"):
            call(Run(tmp_path / "file"))
    assert os.listdir(tmp_path) == ["file"]


def test_killed_runs_give_the_same_result() -> None:
    """A few kills at random moments; `python -m tests.samplers.kills 50` makes more."""
    command = [sys.executable, "-m", "tests.samplers.kills", "3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "3 kills, " in done.stdout, done.stderr
