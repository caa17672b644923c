"""Pyramids: the smoke run, and what its figures say."""

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import pyramids
from pgmdiff.gaussian import Gaussian


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return pyramids.run(smoke=True)


def test_tables_and_pictures(result: dict[str, Any], tmp_path: Path) -> None:
    first, second = pyramids.tables(result)
    assert first.head == ("data", "graph", "elements", "best", "marginal", "consistent", "exact")
    assert second.head[3:] == ("marginal", "without completion", "consistent")
    pyramids.draw(result, tmp_path)
    assert (tmp_path / "experiment_pyramids.png").stat().st_size > 10_000


def test_a_coarse_region_carries_the_season(result: dict[str, Any]) -> None:
    alone, with_coarse = (row["best"] for row in result["samples"]["rows"])
    assert with_coarse < 0.05 * alone
    errors = result["scores"]["rows"][1]
    assert errors["consistent"] < 0.2 * errors["marginal"] < errors["without_completion"]


def test_models_of_windows_are_the_marginals_of_the_series() -> None:
    covariance = pyramids.series()["trend"]
    whole = Gaussian(torch.zeros(128).double(), covariance)
    x = torch.randn(3, 16).double()
    found = pyramids._model(covariance)(x, torch.full((3,), 2.0).double())
    assert torch.allclose(found, whole.marginal(torch.arange(40, 56))(x, 2.0))
