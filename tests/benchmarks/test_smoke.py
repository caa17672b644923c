"""Every benchmark's smallest case runs, draws and prints."""

import json
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks import (
    conditioning,
    correctors,
    damping,
    defaults,
    exactness,
    hosts,
    peers,
    scale,
    second_order,
    speed,
    stars,
)
from benchmarks.__main__ import NAMES, main
from benchmarks.exactness.distributions import MarkovTree, Pair
from benchmarks.policies import Messages, Policy
from benchmarks.problems import METHODS
from pgmdiff import compose
from pgmdiff.composition import Consistent
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import chain


def printed(benchmark: ModuleType, result: Mapping[str, Any]) -> str:
    return "\n\n".join(map(str, benchmark.tables(result)))


def test_speed() -> None:
    result = speed.run(smoke=True)
    (row,) = result["rows"]
    assert row["tiles"] == 8
    assert row["turns"] >= 5
    assert result["noise"][0]["noise_over_randn"][1] > 0
    assert "joint over floor" in printed(speed, result)
    assert result["solves"][0]["new_over_marginal"][1] > 0
    assert result["peers"][0]["peer_peak_bytes"] > 10_000
    assert "time over peer" in printed(speed, result)
    assert "noise over randn" in printed(speed, result)
    assert "joint over hand-written" in printed(speed, result)
    assert result["canvases"][0]["apart"] < 1e-5
    assert result["ranks"][0]["apart"] < 1e-5
    assert "two over one" in printed(speed, result)
    assert set(speed.run(smoke=True, parts=["noise"])) == {"settings", "noise"}


@pytest.mark.parametrize("name", peers.PEERS)
def test_peers_compute_what_they_are_compared_with(name: str) -> None:
    """Those that do differ say so: patches of padding, and runs of their own."""

    def denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x - x.mean(dim=(1, 2, 3), keepdim=True)) / (
            1 + sigma[:, None, None, None]
        )

    found = peers.programs(name, 5, 3, denoiser, torch.device("cpu"))
    one, other = found.peer(), found.ours()
    assert one.shape == other.shape == (3, 1, 16, 48)
    assert torch.allclose(one, other, atol=1e-5) == peers.PEERS[name].alike


def test_conditioning() -> None:
    result = conditioning.run(smoke=True)
    text = printed(conditioning, result)
    assert "replacement" in text
    assert "gradients" in text
    assert result["gaussian"][1]["loss"] < result["gaussian"][0]["loss"]
    assert all(row["mean_error"] < 1.5 for row in result["smooth"])
    errors = {row["closure"]: row["score"][0] for row in result["labels"]}
    assert errors["own label"] < errors["all data"]


def test_stars_of_a_network() -> None:
    result = stars.run(smoke=True, parts=["learned"])
    rules = [row["rule"] for row in result["learned"]]
    assert rules[0] == "exact score"
    assert {"consistent, exact prior", "posterior, its own prior"} <= set(rules)
    assert all(0 <= row["lost"][0] <= 1 for row in result["learned"])
    assert "its own prior" in printed(stars, result)


def test_defaults() -> None:
    result = defaults.run(smoke=True)
    assert "Heun" in printed(defaults, result)
    assert all(row["posterior"] < row["marginal"] for row in result["rows"])


def test_ranks_on_two_machines() -> None:
    if not hosts.possible():
        pytest.skip("it needs root, to make network namespaces")
    result = hosts.run(smoke=True, parts=["equal"])
    assert [(row["machines"], row["ranks"]) for row in result["equal"]] == [(2, 2)]
    assert all(row["apart"] < 1e-5 for row in result["equal"])
    assert "machines" in printed(hosts, result)


def test_scale(tmp_path: Path) -> None:
    result = scale.run(smoke=True)
    assert [row["kind"] for row in result["rows"]] == list(scale.KINDS)
    assert all(row["regions"] > 1000 for row in result["rows"])
    assert "random tree" in printed(scale, result)
    scale.draw(result, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 10_000


def test_exactness(exactness_smoke: dict[str, Any], tmp_path: Path) -> None:
    result = exactness_smoke
    assert set(result) == {"settings", *exactness.PARTS}
    for graph in ("chain", "ring"):
        rows = [row for row in result["gaussians"]["rows"] if row["graph"] == graph]
        losses = {row["method"]: row["kl"] for row in rows}
        for rule in ("posterior", "consistent"):
            assert losses[rule] == pytest.approx(losses["exact score"], rel=1e-4)
    assert {row["method"] for row in result["modes"]["rows"]} == {*METHODS, "exact samples"}
    aims = {row["target"]: row for row in exactness.targets(result)["rows"]}
    assert len(aims) == 12  # the two-mode chain's four require long runs
    assert all(row["reached"] for name, row in aims.items() if name.startswith("Gaussians"))
    text = printed(exactness, result)
    for words in ("Targets", "two-mode chain", "12 sensors", "warm factors"):
        assert words in text
    exactness.draw(result, tmp_path / "new")
    for name in ("exactness", "exactness_modes", "exactness_rounds", "exactness_steps"):
        assert (tmp_path / "new" / f"{name}.png").stat().st_size > 10_000
    assert json.loads(json.dumps(result)) == result


def test_correctors() -> None:
    result = correctors.run(smoke=True)
    losses = [row["loss"] for row in result["rows"] if row["rule"] == "marginal"]
    assert losses[0] > 4 * max(losses[1:3])  # without moves, against one per level
    assert all(row["evaluations"] <= 120 for row in result["rows"])
    assert "Metropolis" in printed(correctors, result)


def test_correctors_spend_no_more_than_their_budget() -> None:
    for budget in correctors.BUDGETS:
        for each in (1, 2, 6, 21, 22):
            levels = correctors.levels_within(budget, each)
            assert levels == 0 or (levels - 1) * each + 1 <= budget
            assert max(levels, correctors.FEWEST - 1) * each + 1 > budget


def test_what_the_command_calls_is_a_function() -> None:
    """A module of a benchmark by one of these names would end a run that took minutes."""
    for name in NAMES:
        benchmark = import_module(f"benchmarks.{name}")
        assert callable(benchmark.run)
        assert callable(benchmark.tables)
        for hook in ("draw", "targets"):
            assert callable(getattr(benchmark, hook, print)), (name, hook)


def test_parts_of_a_benchmark_are_run_again_one_by_one(
    exactness_smoke: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "exactness.json"
    before = {"settings": {}, "cost": exactness_smoke["cost"], "gaussians": {"rows": []}}
    out.write_text(json.dumps(before))
    command = ["benchmarks", "exactness", "--smoke", "--out", str(out), "--parts", "gaussians"]
    monkeypatch.setattr(sys, "argv", command)
    main()
    after = json.loads(out.read_text())
    assert after["cost"] == before["cost"]
    assert after["gaussians"]["rows"][0]["method"] == "exact score"
    assert len(after["targets"]["rows"]) == 4
    monkeypatch.setattr(sys, "argv", [*command, "--resume"])
    monkeypatch.setattr(exactness, "run", None)  # there is nothing to run
    main()
    assert json.loads(out.read_text()) == after
    assert "by levels of Heun" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["benchmarks", "speed", "--parts", "gaussians"])
    with pytest.raises(SystemExit):
        main()


def test_damping() -> None:
    result = damping.run(smoke=True)
    assert "damping 1, least share 0, no trust" in printed(damping, result)
    largest = {(row["case"], row["policy"]): row["largest"] for row in result["safety"]}
    for case in ("sea", "rough", "smooth"):
        assert largest[case, "default"] <= 1 + 1e-6
        assert largest[case, "damping 1, least share 0, no trust"] > 30
    ratios = [row["largest"] for row in result["jacobians"]]
    assert max(ratios) > 5 > ratios[0]  # the first direction is the smoothest


def test_second_order() -> None:
    result = second_order.run(smoke=True)
    assert "variances wrong" in printed(second_order, result)


@pytest.mark.parametrize("step", [0.0, 0.3])
def test_precisions_beside_shifts_keep_gaussians_exact(step: float) -> None:
    own, cross = torch.full((1, 1), 2.0).double(), torch.full((1, 1), 1.4).double()
    each = [Gaussian(torch.ones(()).double(), own)]
    pair = Pair(torch.ones(1, 1).double(), each, each, [cross])
    graph = chain(4, factor_model="pair", variable_model="single")
    run = second_order.SecondOrder(MarkovTree("chain", graph, {"pair": pair}), step)
    for sigma in (4.0, 1.0, 0.3):
        u = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
        exact = Gaussian(run.mean, torch.linalg.inv(run.precision)).score(u, sigma)
        torch.testing.assert_close(run(u, sigma), exact, rtol=1e-9, atol=1e-9)
    assert (step > 0) == any((extra != 0).any() for extra in run.precisions)


def test_without_precisions_the_shifts_are_those_of_consistent() -> None:
    q = second_order.two_mode_chain(4)
    rule = Consistent(q.problem.covariances, trust=1e100, least_share=0.0)
    joint = compose(q.graph, q.problem.scores(q.graph), rule=rule).remembering()
    run = second_order.SecondOrder(q, 0.0)
    for sigma in (4.0, 2.0, 1.0):
        u = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
        torch.testing.assert_close(run(u, sigma), joint(u, torch.full((5,), sigma).double()))


def test_the_default_policy_is_that_of_consistent() -> None:
    q, mean = damping.RING.problem, torch.zeros(6)
    free = compose(q.graph, q.scores(q.graph), rule=damping.free(q.covariances, mean))
    ours = Messages(free, Policy())
    rule = Consistent(q.covariances, mean=mean)
    run = compose(q.graph, q.scores(q.graph), rule=rule).remembering()
    for sigma in (4.0, 2.0, 1.0):
        u = sigma * torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).double()
        level = torch.full((5,), sigma).double()
        torch.testing.assert_close(ours(u, level), run(u, level), rtol=1e-8, atol=1e-10)
