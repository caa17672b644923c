"""The network of sensors: its data and models, and the smoke run."""

import warnings
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch

from experiments import network, sea
from experiments.sea import SENSORS, learned, opened
from pgmdiff.gaussian import Gaussian


def test_the_sea_is_read_and_its_network_has_loops() -> None:
    found = opened()
    assert found.train.shape[1] == found.test.shape[1] == SENSORS
    assert len(found.train) == 2 * len(found.test)  # every third month is held out
    assert torch.allclose(found.train.mean(dim=0), torch.zeros(SENSORS).double(), atol=1e-9)
    assert 24 < found.mean.min() < found.mean.max() < 30
    assert nx.is_connected(found.network)
    assert not nx.is_forest(found.network)
    assert found.graph.validate().valid


def test_a_model_has_the_log_density_of_its_own_samples() -> None:
    """Of a pair, ∫ exp(log q) = 1, and the gradient of log q is nearly its score.

    Not more: scores that are trained at several noise levels are not those of one ODE's densities.
    """
    model, at = learned()["pair"], torch.linspace(-9, 6, 46)
    x = torch.cartesian_prod(at, at)
    sigma = torch.full((len(x),), 0.5)
    label = torch.zeros(len(x), dtype=torch.int64)
    density = model.log_density(x, sigma, label=label)
    assert density.exp().sum() * (at[1] - at[0]) ** 2 == pytest.approx(1, abs=0.02)
    places = density.argsort(descending=True)[:200:20]
    moved = x[places] + torch.tensor([0.02, 0.0])
    slope = (model.log_density(moved, sigma[:10], label=label[:10]) - density[places]) / 0.02
    score = model(x[places] + torch.tensor([0.01, 0.0]), sigma[:10], label=label[:10])[:, 0]
    assert (slope - score).abs().mean() < 0.15 * score.abs().mean()


def test_draws_of_a_gaussian_given_readings_are_those_of_its_posterior() -> None:
    mixed = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()
    q = Gaussian(torch.ones(4).double(), mixed @ mixed.T + torch.eye(4))
    seen, y = torch.tensor([True, False, True, True]), torch.tensor([[0.5, 9.0, 2.0, -1.0]])
    x = network._given(q, seen, y.double(), 40_000, 0)[0]
    observed = torch.diag(seen.double() / network.NOISE**2)
    whole = torch.linalg.inv(torch.linalg.inv(q.covariance) + observed)
    mean = q.mean + whole @ observed @ (y[0].double() - q.mean)
    assert torch.allclose(x.mean(dim=0), mean, atol=0.02)
    assert torch.allclose(torch.cov(x.T), whole, rtol=0.03, atol=0.005)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "moment_matching: .* miss")  # its few levels do not meet
        return network.run(smoke=True)


def test_tables_and_pictures(result: dict[str, Any], tmp_path: Path) -> None:
    assert set(result) == {"settings", *network.PARTS}
    methods = [row["method"] for row in result["samples"]["rows"]]
    assert methods == ["training", *network.GAUSSIANS, *network.RULES]
    text = "\n".join(map(str, network.tables(result)))
    for words in ("band 90", "swap found", "roughness", "held-out pairs"):
        assert words in text
    network.draw(result, tmp_path)
    for name in ("experiment_network.png", "experiment_network_samples.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_training_is_short_and_deterministic() -> None:
    first, second = (sea.train(2, progress=False)["pair"].state_dict() for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
