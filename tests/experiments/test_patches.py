"""Mixtures in a network's place: their estimates are exact; what the committed result says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import patches
from experiments.corpora import CORPORA
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.linalg import beside
from pgmdiff.training import WienerFilter

RESULT = Path(patches.__file__).parent / "results" / "patches.json"


def test_the_estimate_of_a_mixture_is_exact() -> None:
    stream = torch.Generator().manual_seed(0)
    means, z = (torch.randn(n, 4, generator=stream, dtype=torch.float64) for n in (3, 10))
    variances = torch.rand(3, 4, generator=stream, dtype=torch.float64) + 0.1
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    found = patches.Mixture(weights, means, variances)
    parts = [Gaussian(m, torch.diag(v)) for m, v in zip(means, variances, strict=True)]
    expected = z + 0.7**2 * GaussianMixture(weights, parts)(z, torch.full((10,), 0.7).double())
    assert torch.allclose(found.denoise(z, 0.7), expected, atol=1e-10)


def test_a_mixture_finds_clusters() -> None:
    stream = torch.Generator().manual_seed(0)
    points = 0.3 * torch.randn(1000, 2, generator=stream)
    points[:250] += 4
    found = patches.Mixture.of(points, 2, 10)
    order = found.weights.argsort()
    assert found.weights[order].tolist() == pytest.approx([0.25, 0.75], abs=0.01)
    assert torch.allclose(found.means[order], torch.tensor([[4.0, 4.0], [0.0, 0.0]]), atol=0.1)
    assert torch.allclose(found.variances, torch.full((2, 2), 0.09), atol=0.02)


def test_a_mixture_of_one_is_the_filter_and_below_its_level_there_is_the_network() -> None:
    network, real = CORPORA["tissue"].denoiser(), CORPORA["tissue"].crops((16, 16), 500, 0)
    own = WienerFilter.of(real)
    sizes = replace(patches.SMOKE, components=1, leading=8, above=2.0)
    model = patches.Informed(network, own, real, sizes)
    for level in (5.0, 1.0):
        noise = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        x = real[:20] + level * noise
        sigma = torch.full((20,), level)
        linear = own(x - own.mean, own.gain(beside(sigma, x))) + own.mean
        expected = linear if level > 2 else network(x, sigma)
        assert torch.allclose(model(x, sigma), expected, atol=0.02)
        assert not torch.allclose(linear, network(x, sigma), atol=0.05)


@pytest.mark.filterwarnings("ignore:frechet_distance")  # of the few crops of a smoke run
def test_the_smoke_run_fills_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(patches.PARTS, "tissue-mixture", "mixture")
    result = patches.run(smoke=True, parts=["tissue-start", "tissue-mixture"])
    start, mixture, losses = patches.tables(result)
    assert [len(each.rows) for each in (start, mixture, losses)] == [2, 1, 2]


def test_tissue_errs_at_the_lowest_levels_and_the_mixture_errs_less_than_the_network() -> None:
    """Of the committed result: below a tenth of the deviation of the data, and up to σ = 20."""
    result = json.loads(RESULT.read_text())
    (real, *_, coarse) = result["tissue-start"]["rows"]
    fine = next(row for row in result["tissue-start"]["rows"][1:] if row["sigma"] > 0.04)
    assert fine["sigma"] < 0.05
    assert fine["fd"] - real["fd"] > 0.6 * (coarse["fd"] - real["fd"])
    losses = [row for row in result["landscape-mixture"]["losses"] if row["sigma"] < 20]
    assert len(losses) == 7
    assert all(row["mixture"] < row["network"] for row in losses)
