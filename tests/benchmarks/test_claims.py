"""What README and documentation say of exactness is in the committed result of its benchmark."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import exactness
from benchmarks.exactness import modes
from benchmarks.exactness.fields import FIELDS
from pgmdiff.diagnostics.metrics import mean_and_error

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


def test_the_targets_are_those_of_the_rows() -> None:
    assert json.loads(json.dumps(exactness.targets(RESULT))) == RESULT["targets"]


def test_posterior_and_consistent_are_the_exact_score_on_every_graph() -> None:
    """Target: 1e-8 in float64, 1e-3 in float32."""
    for method in ("posterior", "consistent"):
        some = [row for row in rows("gaussians", method=method) if "from_exact" in row]
        assert {300, 100, 20, 3} <= {row["n"] for row in some}
        assert {"ring of 8", "grid 5×5", "torus 4×4", "K4"} <= {row["graph"] for row in some}
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


def test_the_loss_does_not_grow_with_the_length() -> None:
    for rho in (0.5, 0.95, 0.99):
        some = rows("gaussians", graph="chain", rho=rho, method="consistent", levels=18)
        losses = {row["n"]: row["kl"] for row in some}
        assert losses[300] < 1.2 * losses[20]


def test_the_two_mode_chain() -> None:
    """What the documentation says of 20 and 60 evaluations."""
    for evaluations, times in ((20, 10), (60, 20)):
        energy = {
            row["method"]: row["energy"][0]
            for row in rows(
                "modes", distribution="two-mode chain", solver="SDE", evaluations=evaluations
            )
        }
        assert energy["posterior"] < energy["marginal"] / 6
        assert energy["consistent"] < energy["marginal"] / times


def test_a_narrow_overlap_is_enough() -> None:
    def loss(data: str, method: str, overlap: int) -> float:
        (row,) = rows("gaussians", data=data, method=method, overlap=overlap)
        return float(row["kl"])

    for data, enough in {"AR(1)": 1, "AR(2)": 2, "smooth": 3}.items():
        assert loss(data, "consistent", enough) < loss(data, "marginal", 6)
    assert loss("AR(2)", "consistent", 1) > loss("AR(2)", "marginal", 1)


def test_a_row_of_modes_is_reproduced() -> None:
    trial = modes.Trial(FIELDS[0], modes.SAMPLES, modes.SEEDS)
    drawn = trial.drawn("consistent", 20, modes.SOLVERS["SDE"])
    for name, values in trial.measures(drawn).items():
        (row,) = rows(
            "modes",
            distribution=FIELDS[0].name,
            method="consistent",
            solver="SDE",
            evaluations=20,
        )
        assert row[name] == pytest.approx(mean_and_error(values), rel=1e-3)
