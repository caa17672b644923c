"""The baselines: exact laws on Gaussians, the known bias, the cost, and where noise comes from."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pgmdiff import Average, GraphError, Marginal, PgmdiffError, ShapeError, graphs, tiles
from pgmdiff.baselines import (
    Drawn,
    composed,
    concatenation,
    naive,
    outpainting,
    split_and_inpaint,
)
from pgmdiff.conditioning import dps, matched
from pgmdiff.conditioning.reconstructing import Weight
from pgmdiff.noise import START
from pgmdiff.samplers import Euler, Heun, Noise, karras, log_linear, sample
from tests.helpers import ar1

RHO, WINDOW = 0.8, 4
STRIP = tiles((13,), WINDOW, 1)  # four windows
APART = tiles((12,), WINDOW, 0)  # three
SIGMAS, ERROR = log_linear(80, 0.01, 4000.0), 1e-3  # the error is of order 1 / σ_max
FEW = karras(3, 0.1, 10.0)


def exact(place: int) -> Weight:
    """The λ that is exact where one element of a window is observed."""
    precision = torch.linalg.inv(ar1(WINDOW, RHO).covariance)

    def variance(sigma: Tensor) -> Tensor:
        return torch.linalg.inv(precision + torch.eye(WINDOW) / sigma[0] ** 2)[place, place]

    return matched(lambda sigma: variance(sigma).expand(len(sigma)))


class Windows:
    """The exact score of windows of an AR(1) series, of any length, along any axis."""

    def __init__(self, rho: float = RHO) -> None:
        self.rho, self.seen = rho, []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.seen.append(len(x))
        flat = x.reshape(len(x), -1)
        q = ar1(flat.shape[1], self.rho, x.dtype)
        return q.score(flat, sigma).reshape(x.shape)


def reached(method: Callable[..., Drawn], pieces: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the samples, without sampling error: they are affine in the noise."""
    n = 2 * WINDOW * pieces + 2
    u = method(batch=n, generator=0, dtype=torch.float64).samples
    parts = [Noise.of(Noise.of(0, n).seeds(k), n)(START, u[:, :WINDOW]) for k in range(pieces)]
    z = torch.cat([*parts, torch.ones(n, 1).double()], dim=1)
    found = torch.linalg.lstsq(z, u).solution
    torch.testing.assert_close(z @ found, u, msg="the noise of a piece is not its own")
    return found[-1], found[:-1].T @ found[:-1]


def test_concatenated_windows_are_independent() -> None:
    mean, covariance = reached(partial(concatenation, Windows(), APART, SIGMAS), 3)
    exact = torch.block_diag(*[ar1(WINDOW, RHO).covariance] * 3)
    torch.testing.assert_close(covariance, exact, atol=ERROR, rtol=0)
    assert mean.abs().max() < 1e-9


def test_naive_denoising_is_sampling_of_the_score_of_the_whole() -> None:
    found = naive(Windows(), STRIP, FEW, batch=5, generator=3)
    assert torch.equal(found.samples, sample(Windows(), FEW, shape=(5, 13), generator=3))


def test_pieces_start_around_their_own_means() -> None:
    """The ODE of a Gaussian is linear: what its start is moved by, it carries along."""
    run: dict[str, Any] = {"generator": 0, "dtype": torch.float64, "solver": Heun()}
    mean = torch.arange(12.0, dtype=torch.float64) / 12
    at, away = (
        concatenation(Windows(), APART, FEW, batch=2, mean=m, **run).samples for m in (0.0, mean)
    )
    moved = sample(Windows(), FEW, x=mean.reshape(3, WINDOW), solver=Heun())
    torch.testing.assert_close(away - at, moved.reshape(1, 12).expand(2, 12))

    def far(x: Tensor, sigma: Tensor) -> Tensor:
        return Windows()(x - 5, sigma)

    for method in (outpainting, composed, naive):
        own = method(Windows(), STRIP, FEW, batch=2, **run).samples
        moved = method(far, STRIP, FEW, batch=2, mean=5.0, **run).samples
        torch.testing.assert_close(moved, own + 5)
    for method in (outpainting, composed):
        with pytest.raises(ShapeError, match=r"expected mean= as one number.*got \[12\]"):
            method(Windows(), STRIP, FEW, mean=mean, **run)


@pytest.mark.parametrize("first", [None, 0])
def test_outpainting_with_the_exact_weight_is_exact(first: int | None) -> None:
    """Overlaps of one element separate the past of a Markov chain from its future."""
    drawn = partial(outpainting, Windows(), STRIP, SIGMAS, weight=exact(0), first=first)
    torch.testing.assert_close(reached(drawn, 4)[1], ar1(13, RHO).covariance, atol=ERROR, rtol=0)


def replaced(window: int) -> tuple[Tensor, Tensor]:
    """What replacement of the first element of a window makes of the others: slope, covariance.

    Its ODE is linear, x' = (x - D(x, σ)) / σ, where D has the first element's value y.
    """
    q = ar1(window, RHO)
    levels = torch.tensor(log_linear(600, 0.01, 4000.0)).double()
    x = torch.cat([levels[0] * torch.eye(window), torch.zeros(window, 1)], dim=1).double()
    y = torch.zeros(window + 1).double()
    y[-1] = 1.0  # columns: the noise of every element, and y

    def slope(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = q.denoise(x.T.contiguous(), sigma.item()).T.clone()
        denoised[0] = y
        return (x - denoised) / sigma

    for sigma, after in itertools.pairwise(levels):
        if not after:
            x = x - sigma * slope(x, sigma)
            break
        first = slope(x, sigma)
        x = x + (after - sigma) * (first + slope(x + (after - sigma) * first, after)) / 2
    return x[1:, -1], x[1:, :-1] @ x[1:, :-1].T


def test_outpainting_by_replacement_has_its_known_bias() -> None:
    slope, spread = replaced(WINDOW)
    assert slope[0] < RHO - 0.1, "the right one is ρ"
    two = tiles((7,), WINDOW, 1)
    covariance = reached(partial(outpainting, Windows(), two, SIGMAS, first=0), 2)[1]
    variance = covariance[3, 3]
    torch.testing.assert_close(covariance[4:, 3], slope * variance, atol=ERROR, rtol=0)
    rest = covariance[4:, 4:] - slope[:, None] * slope * variance
    torch.testing.assert_close(rest, spread, atol=ERROR, rtol=0)


def test_splitting_gives_each_piece_its_own_observations_only() -> None:
    mask = torch.arange(12) == 1
    y = torch.where(mask, 1.5, torch.nan)
    split = partial(split_and_inpaint, Windows(), APART, SIGMAS, y, mask, weight=exact(1))
    mean, covariance = reached(split, 3)
    q = ar1(WINDOW, RHO).covariance
    given = q - q[:, 1:2] * q[1]
    found = torch.cat([q[1] * 1.5, torch.zeros(8).double()])
    torch.testing.assert_close(mean, found, atol=ERROR, rtol=0)
    posterior = torch.block_diag(given, q, q)
    torch.testing.assert_close(covariance, posterior, atol=ERROR, rtol=0)


def test_what_is_observed_is_kept() -> None:
    mask, y = torch.arange(12) % 3 == 1, torch.randn(3, 12)
    u = split_and_inpaint(Windows(), APART, FEW, y, mask, batch=3).samples
    assert torch.equal(u[:, mask], y[:, mask])
    every = split_and_inpaint(Windows(), APART, FEW, y, mask | True, batch=3)
    assert torch.equal(every.samples, y)
    assert every.evaluations == every.critical_path == 0


RING = tiles((12,), 4, 1, periodic=True)  # four windows
PLANE = tiles((10, 10), 4, 1)  # three by three
SEEN = torch.tensor([True] + [False] * 12)
METHODS: dict[str, tuple[Callable[..., Drawn], int, int]] = {
    # in units of the evaluations of one piece: all in all, and in a row
    "concatenation": (lambda s, **o: concatenation(s, STRIP, FEW, **o), 4, 1),
    "naive": (lambda s, **o: naive(s, STRIP, FEW, **o), 1, 1),
    "averaging": (lambda s, **o: composed(s, STRIP, FEW, rule=Average(), **o), 4, 1),
    "DiffCollage": (lambda s, **o: composed(s, STRIP, FEW, rule=Marginal(), **o), 7, 1),
    "in small calls": (lambda s, **o: composed(s, STRIP, FEW, max_batch=2, **o), 7, 1),
    "one direction": (lambda s, **o: outpainting(s, STRIP, FEW, first=0, **o), 4, 4),
    "from the middle": (lambda s, **o: outpainting(s, STRIP, FEW, **o), 4, 3),
    "around a ring": (lambda s, **o: outpainting(s, RING, FEW, **o), 4, 3),
    "reconstruction": (
        lambda s, **o: outpainting(s, STRIP, FEW, weight=dps(0.1, data_std=1.0), **o), 4, 3,
    ),
    "in a plane": (lambda s, **o: outpainting(s, PLANE, FEW, **o), 9, 3),
    "split": (
        lambda s, **o: split_and_inpaint(s, STRIP, FEW, torch.ones(13), SEEN, **o), 4, 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_costs_and_noise(name: str) -> None:
    method, total, critical = METHODS[name]
    score, each = Windows(), Heun().evaluations * 2 + 1
    found = method(score, batch=3, generator=5, solver=Heun())
    assert sum(score.seen) == 3 * found.evaluations
    assert (found.evaluations, found.critical_path) == (total * each, critical * each)
    assert found.samples.isfinite().all()
    again = method(Windows(), batch=3, generator=5, solver=Heun()).samples
    assert torch.equal(found.samples, again)
    (one,) = method(Windows(), batch=1, generator=5, solver=Heun()).samples
    torch.testing.assert_close(one, found.samples[0], msg="noise depends on the batch")
    assert not torch.equal(method(Windows(), batch=3, generator=6, solver=Heun()).samples, again)
    if name != "naive":
        assert not torch.allclose(found.samples[0], found.samples[1], atol=0.1)


def test_pieces_have_their_own_noise_on_any_axis() -> None:
    strip = tiles((13, 2), (4, 2), (1, 0))
    found = concatenation(Windows(), strip, FEW, batch=2, generator=1).samples
    seeds = Noise.of(1, 2).seeds(2)
    third = sample(Windows(), FEW, shape=(2, 4, 2), generator=seeds)
    torch.testing.assert_close(found[:, 7:10], third[:, 1:])
    assert not torch.allclose(found[:, :3], found[:, 7:10], atol=0.1)


def test_windows_may_overlap_by_more_than_half() -> None:
    u = outpainting(Windows(), tiles((10,), 4, 3), FEW, generator=0, solver=Euler())
    assert (u.evaluations, u.critical_path) == (7 * 3, 4 * 3)
    one_way = outpainting(Windows(), tiles((10,), 4, 3), FEW, first=0, solver=Euler())
    assert one_way.critical_path == 7 * 3


@pytest.mark.parametrize("sides", [(16, 4, 2), (16, 4, 3), (18, 6, 4)])
def test_ends_of_a_ring_that_do_not_meet_are_told(sides: tuple[int, int, int]) -> None:
    """What two pieces drew apart is correlated with nothing; below half a piece has both ends."""

    def joined(n: int, window: int, overlap: int) -> float:
        score = ar1(window, 0.9).score
        ring = tiles((n,), window, overlap, periodic=True)
        u = outpainting(score, ring, karras(6, 0.05, 10.0), batch=400, generator=0).samples
        neighbours = torch.corrcoef(torch.cat([u, u[:, :1]], dim=1).T).diagonal(1)
        return float(neighbours.min())

    with pytest.warns(UserWarning, match=r"outpainting: .* piece \d+ .* not joined"):
        assert joined(*sides) < 0.2
    assert joined(15, 4, 1) > 0.3


@pytest.mark.parametrize("batch", [0, -1, 1.5, None])
@pytest.mark.parametrize("method", [concatenation, naive, composed, outpainting])
def test_a_wrong_batch_is_named(method: Callable[..., Drawn], batch: Any) -> None:
    with pytest.raises(ShapeError, match=rf"{method.__name__}: expected batch=.*got {batch}"):
        method(Windows(), STRIP, FEW, batch=batch)


def test_what_pieces_share_is_that_of_the_first() -> None:
    """Also where the middle one, in which something is observed, is drawn after the others."""
    y, mask = torch.ones(14), torch.arange(14) == 6
    three = split_and_inpaint(Windows(), tiles((14,), 6, 2), FEW, y, mask, generator=0)
    two = split_and_inpaint(Windows(), tiles((10,), 6, 2), FEW, y[:10], mask[:10], generator=0)
    torch.testing.assert_close(three.samples[:, :10], two.samples)


def test_errors() -> None:
    mask = torch.ones(13, dtype=torch.bool)
    with pytest.raises(GraphError, match="are not reached by overlaps"):
        outpainting(Windows(), tiles((8,), 4, 0), FEW)
    with pytest.raises(PgmdiffError, match="expected first, a piece from 0 to 3, got 4"):
        outpainting(Windows(), STRIP, FEW, first=4)
    with pytest.raises(GraphError, match=r"of one shape .* got shapes \[\(1,\), \(2,\)\]"):
        concatenation(Windows(), graphs.FactorGraph.from_scopes({"f": ["x", "y"], "g": ["z"]}), FEW)
    with pytest.raises(ShapeError, match="expected a boolean mask and an observation"):
        split_and_inpaint(Windows(), STRIP, FEW, torch.ones(12), mask)
    with pytest.raises(ShapeError, match="expected a boolean mask and an observation"):
        split_and_inpaint(Windows(), STRIP, FEW, torch.ones(13), mask.float())
    with pytest.raises(ShapeError, match="also one per sample"):
        split_and_inpaint(Windows(), STRIP, FEW, torch.ones(2, 13), mask, batch=3)
