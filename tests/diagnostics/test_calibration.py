"""Calibration: closed forms, and finite numbers of draws that change no expectation."""

import math

import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError, ShapeError
from pgmdiff.diagnostics import bootstrap, crps, interval_coverage, rank_statistics


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("m", [2, 50])
def test_crps_of_a_normal(m: int) -> None:
    """At z it is z (2 Φ(z) - 1) + 2 φ(z) - 1/√π; a few draws have the same expectation."""
    z = torch.tensor([0.0, 1.3, -2.0]).double()
    standard = torch.distributions.Normal(0.0, 1.0)
    exact = z * (2 * standard.cdf(z) - 1) + 2 * standard.log_prob(z).exp() - 1 / math.sqrt(math.pi)
    n = 100_000 // m
    found = crps(normal(n, m, 3), z.expand(n, 3))
    assert found == pytest.approx(exact.mean().item(), abs=0.012)


def test_crps_is_that_of_its_formula_and_smallest_for_the_posterior() -> None:
    draws, truth = normal(3, 4, 2), normal(3, 2, seed=1)
    pairs = torch.combinations(torch.arange(4))
    apart = (draws[:, pairs[:, 0]] - draws[:, pairs[:, 1]]).abs().mean(dim=1)
    expected = (draws - truth[:, None]).abs().mean(dim=1) - apart / 2
    assert crps(draws, truth) == pytest.approx(expected.mean().item())
    many, truths = normal(4000, 9), normal(4000, seed=1)
    best = crps(many, truths)
    assert best < crps(many + 0.3, truths)
    assert best < crps(1.4 * many, truths)
    assert best < crps(0.6 * many, truths)
    value, low, high = bootstrap(crps, many, truths, paired=True, level=0.99, generator=0)
    assert low < 1 / math.sqrt(math.pi) < high
    assert value == best
    with pytest.raises(ShapeError, match="expected draws"):
        crps(many, truths[:-1])


def test_coverage_of_calibrated_draws_is_the_level() -> None:
    draws, truth = normal(4000, 19, 2), normal(4000, 2, seed=1)
    for level in (0.9, 0.5):
        found = interval_coverage(draws, truth, level)
        assert found == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 8000))
        assert interval_coverage(0.5 * draws, truth, level) < level - 0.1
    with pytest.raises(PgmdiffError, match=r"no interval between 19 draws .* 0.7, 0.8, 0.9"):
        interval_coverage(draws, truth, 0.95)


@pytest.mark.parametrize("m", [2, 16, 30, 19])
def test_levels_are_accepted_as_they_are_written(m: int) -> None:
    """A refusal lists levels with three digits, as which they can be given."""
    draws, truth = normal(20, m), normal(20, seed=1)
    with pytest.raises(PgmdiffError, match="Possible levels") as refused:
        interval_coverage(draws, truth, 0.999)
    listed = str(refused.value).split("levels are ")[1].split(";")[0].split(", ")
    for place, level in enumerate(reversed(listed)):
        exact = 1 - 2 * (place + 1) / (m + 1)
        found = interval_coverage(draws, truth, float(level))
        assert found == interval_coverage(draws, truth, exact)


def test_ranks_are_uniform_for_the_posterior_only() -> None:
    draws, truth = normal(600, 19), normal(600, seed=1)
    ranks, p = rank_statistics(draws, truth)
    assert ranks.dtype == torch.int64
    assert (int(ranks.min()), int(ranks.max())) == (0, 19)
    assert p > 0.01
    assert rank_statistics(0.6 * draws, truth)[1] < 1e-6
    assert rank_statistics(draws + 0.4, truth)[1] < 1e-6
    few = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(10, 1)
    assert rank_statistics(few, torch.full((20,), 2.5))[0].tolist() == [2, 0] * 10
    with pytest.raises(ShapeError, match="Reduce each to one number"):
        rank_statistics(normal(600, 19, 2), normal(600, 2))


def test_counts_which_equal_draws_are_calibrated_too() -> None:
    """Draws of what truths are drawn from: ranks are uniform, and coverage is the level."""
    stream = torch.Generator().manual_seed(0)
    draws, truth = (
        torch.poisson(torch.full(shape, 1.0), generator=stream) for shape in ((4000, 19), (4000,))
    )
    for level in (0.9, 0.5):
        assert interval_coverage(draws, truth, level) == pytest.approx(level, abs=0.02)
    ranks, p = rank_statistics(draws, truth, generator=0)
    assert p > 0.01
    below, last = (draws < truth[:, None]).sum(dim=1), (draws <= truth[:, None]).sum(dim=1)
    assert ((below <= ranks) & (ranks <= last)).all()
    assert rank_statistics(draws + 1, truth, generator=0)[1] < 1e-6
    assert interval_coverage(torch.ones(10, 19), torch.ones(10)) == pytest.approx(0.9)


def test_p_values_are_uniform() -> None:
    values = [
        rank_statistics(normal(100, 12, seed=2 * k), normal(100, seed=2 * k + 1))[1]
        for k in range(300)
    ]
    below = torch.tensor(values)[:, None] < torch.tensor([0.1, 0.5])
    torch.testing.assert_close(
        below.double().mean(dim=0), torch.tensor([0.1, 0.5]).double(), atol=0.08, rtol=0
    )


@pytest.mark.parametrize(("n", "m", "bins"), [(25, 6, 3), (50, 10, 5), (50, 13, 7), (10, 4, 2)])
def test_bins_expect_five_data_sets(
    n: int, m: int, bins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the ranks cannot be divided evenly; ten data sets are still divided by two."""
    from scipy import stats

    expected, chisquare = [], stats.chisquare
    monkeypatch.setattr(stats, "chisquare", lambda c, e: expected.append(e) or chisquare(c, e))
    rank_statistics(normal(n, m), normal(n))
    assert len(expected[0]) == bins
    assert expected[0].min() >= (5 if n > 10 else 4)
    assert expected[0].sum() == pytest.approx(n)
