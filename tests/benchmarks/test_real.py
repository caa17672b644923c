"""The exactness benchmark's part on real data: its statistics, its models, and a small run."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.data import sea, soft_gravel
from benchmarks.exactness import real
from benchmarks.exactness.statistics import (
    autocovariance,
    bands,
    crops_energy_distance,
    spectrum,
    square_distance,
)
from benchmarks.problems import RULES
from pgmdiff import ShapeError
from pgmdiff.diagnostics.metrics import mean_and_error
from scripts.train_real import stationary_covariance


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_autocovariance_is_the_mean_product_at_a_lag() -> None:
    x = normal(5, 2, 9)
    expected = [
        sum((x[n, c, t] * x[n, c, t + k]) for n in range(5) for c in range(2) for t in range(9 - k))
        / (10 * (9 - k))
        for k in (0, 3, 8)
    ]
    torch.testing.assert_close(autocovariance(x, [0, 3, 8]), torch.stack(expected))


def test_bands_cover_every_frequency_once() -> None:
    edges = bands(98, 24)
    assert [f for a, b in edges for f in range(a, b)] == list(range(1, 50))


def test_the_spectrum_of_white_noise_is_its_variance() -> None:
    """Each band is a mean of 2,000 or more exponential variables of the same mean."""
    power = spectrum(3 * normal(2000, 40), bands(40, 6))
    assert (power - 9).abs().max() < 4 * 9 * (1.5 / 2000) ** 0.5


def test_energy_distance_compares_different_states_only() -> None:
    a, b = normal(6, 3, 4), normal(5, 2, 4, seed=1)

    def average(pairs: list[tuple[Tensor, Tensor]]) -> float:
        return sum((x - y).norm().item() for x, y in pairs) / len(pairs)

    across = average([(x, y) for x in a.flatten(0, 1) for y in b.flatten(0, 1)])
    within = [
        average(
            [
                (x, y)
                for i in range(len(s))
                for j in range(len(s))
                if i != j
                for x in s[i]
                for y in s[j]
            ]
        )
        for s in (a, b)
    ]
    assert crops_energy_distance(a, b) == pytest.approx(2 * across - sum(within))


def test_energy_distance_of_one_distribution_is_zero_on_average() -> None:
    mean, error = mean_and_error(
        [
            crops_energy_distance(normal(8, 2, 3, seed=s), normal(8, 2, 3, seed=s + 500))
            for s in range(200)
        ]
    )
    assert error is not None
    assert abs(mean) < 4 * error
    assert crops_energy_distance(normal(50, 1, 3), 2 + normal(50, 1, 3, seed=1)) > 1


def test_square_distance_has_no_bias() -> None:
    """However noisy the curves: mean over 400 trials against the truth, 0.09 + 0 + 0.25 over 3."""
    truth = torch.tensor([0.3, 0.0, -0.5], dtype=torch.float64)
    trials = [
        square_distance(truth + normal(4, 3, seed=2 * s), normal(2, 3, seed=2 * s + 1))
        for s in range(400)
    ]
    mean, error = mean_and_error([trial.mean for trial in trials])
    assert error is not None
    assert abs(mean - truth.square().mean().item()) < 4 * error
    assert min(trial.mean for trial in trials) < 0
    errors = [trial.error for trial in trials if trial.error is not None]
    assert len(errors) == 400
    assert square_distance(normal(1, 3), normal(2, 3)).error is None


def test_square_distances_are_compared_with_the_error_of_their_difference() -> None:
    """Curves that differ by a constant from seed to seed: the difference is known, its error 0."""
    curves, halves = normal(4, 3), normal(2, 3, seed=1)
    one, other = (square_distance(x, halves) for x in (curves, 2 * curves))
    gap = square_distance(2 * curves, halves, curves)
    assert gap.mean == pytest.approx(other.mean - one.mean)
    assert square_distance(curves, halves, curves) == (0, 0)


def test_stationary_covariance_is_the_mean_of_shifted_products() -> None:
    pieces = normal(2, 1, 7, 6)
    padded = torch.nn.functional.pad(pieces, (5, 5, 6, 6))
    covariance = stationary_covariance(pieces, (2, 3)).reshape(2, 3, 2, 3)
    for dy in (0, 1):
        for dx in (-2, -1, 0, 1, 2):
            shifted = padded.roll((-dy, -dx), dims=(2, 3))
            expected = (padded * shifted).sum() / pieces.numel()
            x = max(0, -dx)
            torch.testing.assert_close(covariance[0, x, dy, x + dx], expected)
    assert torch.linalg.eigvalsh(covariance.reshape(6, 6)).min() > 0


def test_the_sea_series() -> None:
    series = sea.sea_anomalies()
    assert series.shape == (19249,)
    assert series.mean().abs() < 0.01
    train, held_out = sea.sea_parts()
    assert train.shape == held_out.shape == (10, 960)
    torch.testing.assert_close(torch.stack([train, held_out], dim=1).flatten(), series[:19200])
    correlation = autocovariance(train[:, None], [0, 2, 8])
    assert correlation[1] > 0.9 * correlation[0], "it outlasts the overlap"
    assert correlation[2] > 0.6 * correlation[0], "it outlasts the window"


def test_the_soft_photograph() -> None:
    image = soft_gravel.soft_gravel_image()
    assert image.mean().item() == pytest.approx(0, abs=1e-3)
    assert image.var().item() == pytest.approx(1 + soft_gravel.NOISE**2, abs=2e-3)
    train, held_out = soft_gravel.soft_gravel_parts()
    assert train.shape == held_out.shape == (1, 512, 240)
    correlation = autocovariance(train[None], [0, 2, 8])
    assert correlation[1] > 0.9 * correlation[0]
    assert correlation[2] > 0.4 * correlation[0]


def test_the_photograph_says_which_extra_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name="skimage")

    monkeypatch.setattr("pgmdiff.errors.import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'pgmdiff\[demo\]'"):
        soft_gravel.soft_gravel_image()


@pytest.mark.parametrize(
    ("load", "shapes"),
    [
        (sea.sea_denoiser, [(n,) for n in sea.LENGTHS]),
        (soft_gravel.soft_gravel_denoiser, soft_gravel.SHAPES),
    ],
)
def test_models_denoise_every_size(
    load: Callable[[], Callable[..., Tensor]], shapes: list[tuple[int, ...]]
) -> None:
    """Better than the noisy values, at a tenth of the data's standard deviation; no odd sizes."""
    model = load()
    for shape in shapes:
        x = torch.zeros(64, 1, *shape)
        noisy = x + 0.1 * torch.randn(x.shape, generator=generator())
        error = (model(noisy, torch.full((64,), 0.1)) - x).square().mean()
        assert error < 0.8 * 0.01
    with pytest.raises(ShapeError, match="multiples of 2"):
        model(torch.zeros(1, 1, *(n + 1 for n in shapes[0])), torch.ones(1))


Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def smoke(exactness_smoke: dict[str, Any]) -> Rows:
    rows: Rows = exactness_smoke["real"]["rows"]
    return rows


def test_every_rule_is_measured_on_every_case(smoke: Rows) -> None:
    expected = [(case.name, label) for case in real.CASES for label in (real.FLOOR, *RULES)]
    assert [(row["case"], row["rule"]) for row in smoke] == expected
    json.loads(json.dumps(smoke, allow_nan=False))


def test_equal_rows(smoke: Rows) -> None:
    """As counted at the network, no rule uses more than its share."""
    for case in real.CASES:
        rows = {r["rule"]: r["rows"] for r in smoke if r["case"] == case.name and "rows" in r}
        assert max(rows.values()) == rows["marginal"] == rows["posterior"] == rows["consistent"]


def test_the_tables_name_every_rule(smoke: Rows) -> None:
    for case, table in zip(real.CASES, real.tables(smoke), strict=True):
        assert table.title.startswith(f"{case.name}: 3 windows of {case.window}")
        assert [row[0] for row in table.rows] == [real.FLOOR, *RULES]
