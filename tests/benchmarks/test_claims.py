"""What README and documentation say of exactness is in the committed result of its benchmark."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULT = json.loads((ROOT / "benchmarks" / "results" / "exactness.json").read_text())
README = (ROOT / "README.md").read_text()


def rows(part: str, **wanted: Any) -> list[dict[str, Any]]:
    found = [
        row
        for row in RESULT[part]["rows"]
        if all(row.get(key) == value for key, value in wanted.items())
    ]
    assert found, wanted
    return found


def energy(**wanted: Any) -> float:
    (row,) = rows("modes", law="two-mode chain", **wanted)
    mean: float = row["energy"][0]
    return mean


def test_posterior_and_evidence_are_the_exact_score_on_acyclic_graphs() -> None:
    """Target: 1e-8 in float64, 1e-3 in float32."""
    for method in ("posterior", "evidence"):
        some = [row for row in rows("gaussians", method=method) if "from_exact" in row]
        assert {1000, 300, 100, 20, 8, 3} <= {row["n"] for row in some}
        assert max(row["from_exact"] for row in some) < 1e-8
        assert max(row["from_exact_float32"] for row in some) < 1e-3


@pytest.mark.parametrize(
    ("method", "levels", "nats"),
    [
        ("marginal", 18, "0.63"),
        ("marginal", 100, "0.66"),
        ("posterior", 18, "0.0043"),
        ("posterior", 40, "0.00013"),
    ],
)
def test_the_chain_of_the_readme(method: str, levels: int, nats: str) -> None:
    (row,) = rows("gaussians", graph="chain", n=20, rho=0.95, method=method, levels=levels)
    assert f"{row['kl']:.2g}" == nats
    assert f" {nats}" in README


def test_steps_to_a_loss_do_not_grow_with_the_length() -> None:
    steps = [row["fewest_levels"] for row in rows("gaussians", target=1e-3, method="posterior")]
    assert len(steps) == 8
    assert max(steps) - min(steps) <= 1
    marginal = rows("gaussians", target=1e-3, method="marginal")
    assert all(row["fewest_levels"] is None for row in marginal)


def test_the_two_mode_chain() -> None:
    """Targets: a sixth, an eighth at 20 steps, a twentieth at 60; and what many steps do."""
    at_20, at_60 = (
        {
            method: energy(table="solvers", solver="SDE", levels=levels, method=method)
            for method in ("marginal", "posterior", "evidence")
        }
        for levels in (20, 60)
    )
    assert at_20["posterior"] < at_20["marginal"] / 6
    assert at_20["evidence"] < at_20["marginal"] / 8
    assert at_60["evidence"] < at_60["marginal"] / 20
    assert energy(table="solvers", levels=960, method="evidence") > at_60["marginal"] / 2


def test_never_worse_than_the_marginal_rule_at_20_and_60_evaluations() -> None:
    for method in ("posterior", "evidence"):
        assert not [row for row in rows("modes", method=method) if row.get("worse")]
    coincide = rows("modes", law="parity star", method="posterior")
    assert max(row["from_marginal"] for row in coincide) < 1e-10


def test_a_narrow_overlap_is_enough() -> None:
    def best(data: str, method: str, overlap: int) -> float:
        found = rows("overlap", data=data, method=method, overlap=overlap)
        return float(min(row["kl"] for row in found))

    for data, enough in {"AR(1)": 1, "AR(2)": 2, "smooth": 3}.items():
        assert best(data, "posterior", enough) < best(data, "marginal", 6)
    assert best("AR(2)", "posterior", 1) > best("AR(2)", "marginal", 1)
