"""Covariances keep to a unit of its own for every element, and say where they cannot."""

import pytest
import torch
from torch import Tensor

from pgmdiff import Marginal, Posterior, compose, fit_covariances, graphs
from pgmdiff import gaussian as gaussians
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.precision import ComposedPrecision
from pgmdiff.testing.oracles import markov_gaussian
from tests.helpers import ar1, relative
from tests.precision.examples import states

N = 5
CHAIN = graphs.chain(N)
UNIT = markov_gaussian(CHAIN.regions, 3)
OWN = torch.tensor([1.0, 1e4, 1e-2, 30.0, 1e-4]).double()
"""The units of the elements of a chain."""


def in_own_units(matrix: Tensor, units: Tensor = OWN) -> Gaussian:
    return Gaussian(torch.zeros(len(matrix)).double(), units[:, None] * matrix * units)


def test_covariances_keep_to_a_unit_of_every_element() -> None:
    """Three states leave most directions to the ridge, which is where units showed."""
    one, own = (
        ComposedPrecision(CHAIN.regions, fit_covariances(CHAIN, UNIT.sample(3, 4) * units))
        for units in (torch.ones(N), OWN)
    )
    torch.testing.assert_close(OWN[:, None] * own.dense() * OWN, one.dense(), rtol=1e-6, atol=1e-6)
    found, expected = (p.amplification(torch.linalg.inv(p.dense())) for p in (own, one))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", [{"form": "stationary", "axes": (1,)}, {"channels": True}])
def test_covariances_keep_to_a_unit_of_every_channel(options: dict) -> None:
    graph, units = graphs.tiles((2, 12), (2, 4), (0, 2)), torch.tensor([[1.0], [1e4]]).double()
    data = states(12, 0, 40)[:, None].cumsum(-1) * torch.tensor([[1.0], [-0.5]])  # C ⊗ S
    one, own = (
        fit_covariances(graph, data * each, ridge=0.1, **options).form(graph.groups[0]).variances()
        for each in (1.0, units)
    )
    ratio = (own / one).reshape(-1, 2, 4)
    torch.testing.assert_close(ratio, (units**2).expand_as(ratio), rtol=1e-6, atol=0)


def test_region_covariances_in_single_precision_keep_to_units_of_elements() -> None:
    given = node_covariances(CHAIN, in_own_units(UNIT.covariance))
    own = gaussians.from_region_covariances(CHAIN, {n: c.float() for n, c in given.items()})
    back = own.covariance.double() / OWN[:, None] / OWN
    torch.testing.assert_close(back, UNIT.covariance, rtol=1e-4, atol=1e-4)


def test_a_large_variable_leaves_the_posterior_rule_exact() -> None:
    """A ridge of the mean variance made it the marginal rule."""
    units = torch.tensor([1, 1e4, 1, 1, 1]).double()
    data = ar1(N, 0.9).sample(40, 0) * units
    fitted, whole = fit_covariances(CHAIN, data), Gaussian.fit(data)
    q = gaussians.from_region_covariances(CHAIN, node_covariances(CHAIN, whole))
    u, sigma = q.noised(0.7).sample(3, 1), 0.7
    posterior, marginal, exact = (
        score(u, sigma)[:, [0, 2, 3, 4]]
        for score in (
            compose(CHAIN, node_scores(CHAIN, q), rule=Posterior(fitted)),
            compose(CHAIN, node_scores(CHAIN, q), rule=Marginal()),
            q,
        )
    )
    assert relative(posterior, exact) < 1e-4
    assert relative(marginal, exact) > 0.02


def test_a_fit_in_single_precision_keeps_small_variances() -> None:
    few = in_own_units(UNIT.covariance).sample(4, 2).float()
    found = Gaussian.fit(few).covariance.diagonal().double()
    expected = few.double().var(dim=0, correction=0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_elements_that_never_vary_get_a_share_of_the_mean_variance() -> None:
    data = UNIT.sample(50, 0) * torch.tensor([1, 1, 0, 1, 1.0]) + 0.1
    variances = ComposedPrecision(CHAIN.regions, fit_covariances(CHAIN, data)).variances
    assert variances[2].item() == pytest.approx(1e-6 * variances[[0, 1, 3, 4]].mean(), rel=0.5)
    assert (variances > 0).all()


def test_a_low_rank_fit_warns_where_units_differ() -> None:
    data = states(12, 0, 60).cumsum(1)
    data[:, 4] *= 1e-3
    with pytest.warns(UserWarning, match="more than ten times the whole variance of 2 of them"):
        fit_covariances(graphs.tiles((12,), 4, 2), data, form="low_rank", rank=1)
