"""The oracle of modes against the enumeration of all their sequences."""

import math
from itertools import product

import pytest
import torch

from pgmdiff import PgmdiffError, ShapeError, graphs
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.testing import ModeChain, markov_gaussian, markov_mixture, two_mode_chain
from pgmdiff.testing.oracles import SPREAD, WITHIN

TABLES = {
    "two modes": [[0.45, 0.05], [0.05, 0.45]],
    "always another": [[0.0, 0.5], [0.5, 0.0]],
    "never another": [[0.3, 0.0], [0.0, 0.7]],
    "one mode": [[1.0]],
    "a circle": [[0.0, 1 / 3, 0.0], [0.0, 0.0, 1 / 3], [1 / 3, 0.0, 0.0]],
    "some stay": [[0.2, 0.1, 0.0], [0.0, 0.0, 0.2], [0.1, 0.1, 0.3]],
    "one is alone": [[0.3, 0.0, 0.0], [0.0, 0.0, 0.35], [0.0, 0.35, 0.0]],
}


def enumerated(chain: ModeChain) -> GaussianMixture:
    """The chain as a mixture of all sequences of modes that occur."""
    start, n = chain.table.sum(dim=1), chain.length
    place, weights, parts = torch.arange(n), [], []
    for modes in product(range(len(start)), repeat=n):
        labels = torch.tensor(modes)
        chances = chain.table[labels[:-1], labels[1:]] / start[labels[:-1]]
        run = torch.cat([torch.zeros(1).long(), (labels[1:] != labels[:-1]).cumsum(0)])
        inside = SPREAD * WITHIN ** (place[:, None] - place).abs().double()
        if weight := float(start[labels[0]] * chances.prod()):
            weights.append(weight)
            parts.append(Gaussian(chain.modes[labels], inside * (run[:, None] == run)))
    return GaussianMixture(torch.tensor(weights, dtype=torch.float64), parts)


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("name", TABLES)
def test_a_chain_of_modes_is_the_mixture_of_their_sequences(name: str, length: int) -> None:
    table = torch.tensor(TABLES[name], dtype=torch.float64)
    chain = ModeChain(torch.tensor([-2.0, 2.0, 0.5]).double()[: len(table)], table, length)
    exact = enumerated(chain)
    u = torch.cat([exact.sample(4, 0), 9 * torch.randn(3, length).double()])
    for sigma in (0.0, 0.3, 20.0):
        torch.testing.assert_close(chain.log_density(u, sigma), exact.log_density(u, sigma))
        torch.testing.assert_close(chain(u, sigma), exact.score(u, sigma), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(chain.covariance, exact.covariance)
    draws = chain.sample(4000, 1)
    assert (draws.mean(dim=0) - exact.mean).abs().max() < 0.15
    pair = chain.models["pair"] if length > 1 else chain.models["single"]
    part = torch.arange(min(length, 2))
    torch.testing.assert_close(pair.covariance, exact.covariance[part][:, part])


def test_two_modes_stay_with_probability_nine_tenths() -> None:
    chain = two_mode_chain(3)
    kept = (chain.sample(4000, 0).sign().diff(dim=1) == 0).double().mean()
    assert abs(kept - 0.9) < 3 * math.sqrt(0.09 / 4000)


def test_a_chain_of_modes_knows_its_arguments() -> None:
    modes, table = torch.tensor([-2.0, 2.0]), torch.tensor([[0.45, 0.05], [0.05, 0.45]])
    for wrong in (
        (modes, 2 * table, 4),
        (modes, table, 0),
        (modes[:1], table, 4),
        (modes, table - 0.1, 4),
        (modes, torch.tensor([[0.4, 0.2], [0.1, 0.3]]), 4),
        (modes / 0, table, 4),
    ):
        with pytest.raises(ShapeError, match="ModeChain: expected finite modes"):
            ModeChain(*wrong)
    chain, u = ModeChain(modes, table, 4), torch.randn(3, 4, generator=torch.Generator())
    before = chain(u, 0.5)
    modes += 1
    table *= 2
    assert torch.equal(chain(u, 0.5), before)
    assert before.dtype == torch.float32
    assert (before - chain(u.double(), 0.5)).abs().max() < 1e-5
    for length in (3, 5):
        with pytest.raises(ShapeError, match=r"states \[batch, 4\]"):
            chain(torch.zeros(3, length).double(), 0.5)
    with pytest.raises(ShapeError, match=r"got \(4,\) of"):
        chain.log_density(torch.zeros(4).double(), 0.5)


def test_seeds_of_random_distributions_are_those_of_noise() -> None:
    for make in (markov_gaussian, markov_mixture):
        with pytest.raises(PgmdiffError, match=r"expected a seed from 0 to 2\^64 - 1, got -1"):
            make(graphs.chain(3), -1)
