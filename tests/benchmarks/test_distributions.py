"""The distributions of the exactness benchmark: samplers, scores, and distances between samples."""

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from benchmarks.exactness import distributions
from benchmarks.exactness.distributions import MarkovTree
from benchmarks.exactness.fields import FIELDS, ModeField, Star
from benchmarks.exactness.modes import holm
from benchmarks.exactness.petals import PetalRing
from benchmarks.labels import CLOSURES, Labelled
from benchmarks.labels import FIELDS as LABELLED
from pgmdiff.diagnostics.metrics import energy_distance, sliced_wasserstein
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.testing.oracles import SPREAD, WITHIN, ModeChain
from tests.helpers import relative

MAKERS = {name: getattr(distributions, name) for name in distributions.NAMES}


@pytest.fixture(scope="module", params=MAKERS)
def q(request: pytest.FixtureRequest) -> MarkovTree:
    made: MarkovTree = MAKERS[request.param]()
    return made


def states(n: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, size, generator=generator, dtype=torch.float64)


# ---------------------------------------------------------------- distributions


def test_pairs_agree_on_their_variables(q: MarkovTree) -> None:
    """A pair's marginals are the distributions of its variables in all other pairs."""
    for factor, (parent, child) in zip(q.graph.factors, q.edges, strict=True):
        pair = q.pair(factor)
        for name, elements, start in zip(
            q.graph.scopes[factor], (parent, child), (0, len(parent)), strict=True
        ):
            single = q.models[q.graph.variable_model or name]
            inside = torch.arange(start, start + len(elements))
            own = pair.mixture.marginal(inside.reshape(single.event_shape))
            u = states(20, len(elements)).reshape(20, *single.event_shape)
            torch.testing.assert_close(own.log_density(u, 0.3), single.log_density(u, 0.3))


def test_samples_have_the_moments_of_every_pair(q: MarkovTree) -> None:
    n = 20_000
    u = q.sample(n, torch.Generator().manual_seed(3))
    for factor, (parent, child) in zip(q.graph.factors, q.edges, strict=True):
        pair = q.pair(factor).mixture
        centred = u[:, torch.cat([parent, child])] - pair.mean
        products = centred[:, :, None] * centred[:, None]
        for found, expected in ((centred, 0), (products, pair.covariance)):
            z = (found.mean(dim=0) - expected) * n**0.5 / found.std(dim=0)
            assert z.abs().max() < 5  # of at most 42 moments per pair


def test_samples_switch_as_often_as_the_labels_do() -> None:
    """Where modes are far apart, the nearest one is the label."""
    for name, rate in {"two_mode_chain": 0.1, "three_mode_chain": 0.2, "parity_star": 0.1}.items():
        made, n = MAKERS[name](), 10_000
        switches = made.modes(made.sample(n, torch.Generator().manual_seed(4)))
        deviation = switches.std().item() / n**0.5
        assert switches.mean().item() == pytest.approx(rate, abs=4 * deviation)


def test_the_whole_is_known_where_labels_can_be_read_off(q: MarkovTree) -> None:
    """At σ = 0 its score is that of Σ c_r log q_r; for σ > 0 it is not: no rule is the truth."""
    if q.whole is None:
        assert q.name == "curved chain"
        return
    u = q.sample(20, torch.Generator().manual_seed(5)).requires_grad_()
    (slope,) = torch.autograd.grad(q.log_density(u).sum(), u)
    assert relative(q.whole(u.detach(), torch.zeros(20, dtype=torch.float64)), slope) < 1e-6
    noisy = u.detach() + states(20, u.shape[1])
    composed = q.problem.joint("marginal")(noisy, 1.0)
    assert relative(composed, q.whole(noisy, torch.ones(20, dtype=torch.float64))) > 0.01


def runs_as_mixture(runs: ModeChain) -> GaussianMixture:
    """Every sequence of modes, one Gaussian each."""
    n, k, start = runs.length, len(runs.modes), runs.table.sum(dim=1)
    place = torch.arange(n)
    weights, parts = [], []
    for labels in product(range(k), repeat=n):
        steps = [runs.table[a, b] / start[a] for a, b in pairwise(labels)]
        weight = start[labels[0]] * torch.tensor(steps, dtype=torch.float64).prod()
        run = torch.tensor([0, *(a != b for a, b in pairwise(labels))]).cumsum(dim=0)
        covariance = SPREAD * WITHIN ** (place[:, None] - place).abs().double()
        if weight > 0:
            weights.append(weight)
            mean = runs.modes[list(labels)]
            parts.append(Gaussian(mean, covariance * (run[:, None] == run)))
    return GaussianMixture(torch.stack(weights), parts)


@pytest.mark.parametrize("name", ["two_mode_chain", "three_mode_chain"])
def test_runs_are_the_mixture_over_all_labels(name: str) -> None:
    whole = MAKERS[name](4).whole
    mixture, u = runs_as_mixture(whole), states(10, 4)
    for sigma in (0.1, 1.0, 10.0):
        torch.testing.assert_close(
            whole.log_density(u, sigma), mixture.log_density(u, sigma), rtol=1e-10, atol=1e-10
        )
        torch.testing.assert_close(whole(u, sigma), mixture.score(u, sigma), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whole.covariance, mixture.covariance)
    levels = torch.linspace(0.2, 3.0, 10, dtype=torch.float64)
    torch.testing.assert_close(whole(u, levels), mixture.score(u, levels))


SMALL = [field for field in FIELDS if isinstance(field, ModeField) and len(field.network) <= 10]


@pytest.mark.parametrize("field", SMALL, ids=lambda field: field.name)
def test_fields_are_mixtures_over_all_signs(field: ModeField) -> None:
    """Log-densities, scores and those of all regions, whose signs are summed out one by one."""
    n = len(field.network)
    mixture, u = field.marginal(torch.arange(n)), states(10, n)
    assert (mixture.weights.sum(), len(mixture.weights)) == (pytest.approx(1), 2**n)
    for sigma in (0.0, 1.0, 10.0):
        torch.testing.assert_close(field.log_density(u, sigma), mixture.log_density(u, sigma))
        torch.testing.assert_close(field.score(u, sigma), mixture.score(u, sigma))
    torch.testing.assert_close(field.covariance, mixture.covariance)
    levels = torch.linspace(0.5, 3.0, 10, dtype=torch.float64)
    (pairs, *_) = (g for g in field.problem.graph.groups if g.shape == (2,))
    score, conditions = field.of_regions(pairs)
    for row in range(len(pairs)):
        index = pairs.indices(row, row + 1)[0]
        own = {
            name: value[row : row + 1].expand(10, *value.shape[1:])
            for name, value in conditions.items()
        }
        expected = field.marginal(index).score(u[:, index], levels)
        torch.testing.assert_close(score(u[:, index], levels, **own), expected)


def test_trees_of_modes_are_markov_chains_of_their_signs() -> None:
    """On a tree neighbours differ with probability 1 - t, wherever they are."""
    for field in FIELDS:
        if isinstance(field, ModeField) and not field.loops:
            for i, j in field.network.edges:
                table = field.marginal(torch.tensor([i, j])).weights
                assert table.tolist() == pytest.approx([0.45, 0.05, 0.05, 0.45])
            rate = field.modes(field.sample(10_000, 0)).mean().item()
            assert rate == pytest.approx(0.1, abs=0.006)


def test_a_star_is_the_product_of_its_observations() -> None:
    (star,) = (each for each in FIELDS if isinstance(each, Star))
    u = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None]
    models, n = star.problem.scores(star.problem.graph), len(star.observations)
    total = sum(models[f"y{j}"].log_density(u, 0.0) for j in range(n))
    apart = total + (1 - n) * models["u"].log_density(u, 0.0) - star.log_density(u)
    assert (apart - apart[0]).abs().max() < 1e-9
    assert 0.2 < star.modes(star.sample(10_000, 0)).mean() < 0.8


# ---------------------------------------------------------------- distances


def test_energy_distance_counts_no_sample_with_itself() -> None:
    a, b = states(7, 3, 1), states(5, 3, 2)
    pairs = [(a, b, 2.0), (a, a, -1.0), (b, b, -1.0)]
    for mirrored in (False, True):
        flips = (1, -1) if mirrored else (1,)
        expected = 0.0
        for x, y, sign in pairs:
            gaps = [
                (x[i] - flip * y[j]).norm()
                for i in range(len(x))
                for j in range(len(y))
                for flip in flips
                if x is not y or i != j
            ]
            expected += sign * torch.stack(gaps).mean().item()
        assert energy_distance(a, b, mirrored=mirrored) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("mirrored", [False, True])
def test_energy_distance_is_unbiased(mirrored: bool) -> None:
    """Its mean over many small sets of one distribution is 0, which a biased one is not."""
    two_modes, generator = MAKERS["two_mode_chain"](4), torch.Generator().manual_seed(6)
    sets = two_modes.sample(16 * 400, generator).reshape(400, 2, 8, 4)
    values = torch.tensor([energy_distance(a, b, mirrored=mirrored) for a, b in sets])
    a, b = sets[0]
    assert values.mean().abs() < 4 * values.std() / len(values) ** 0.5
    biased = values.mean() + 2 * torch.cdist(a, b).mean() / 8  # what counting i = j would add
    assert biased > 20 * values.std() / len(values) ** 0.5


def test_sliced_wasserstein_of_a_shift() -> None:
    """W1 of a shifted projection is |the shift's projection|, on average |c| E|cos|."""
    a = states(50, 2)
    assert sliced_wasserstein(a, a) == 0
    moved = sliced_wasserstein(a, a + torch.tensor([3.0, 0.0]), generator=0)
    deviation = 3 * (0.5 - 4 / torch.pi**2) ** 0.5 / 64**0.5  # of 64 directions
    assert moved == pytest.approx(6 / torch.pi, abs=4 * deviation)


def test_holm_rejects_in_order_of_the_p_values() -> None:
    """Against 0.05 / 4, 0.05 / 3, ...: the first that is too large ends it."""
    assert holm([0.03, 0.012, 0.5, 0.016]) == [False, True, False, True]
    assert holm([0.04, 0.04]) == [False, False]


# ---------------------------------------------------------------- petals, and labels on pairs


def test_petals_have_the_pairs_of_their_ring() -> None:
    """A transfer matrix gives the labels of neighbours; scores are gradients of densities."""
    q = PetalRing()
    step = torch.full((3, 3), (1 - q.stay) / 2).double().fill_diagonal_(q.stay)
    chances = step * torch.linalg.matrix_power(step, q.n - 1)
    pair = q.models["pair"]
    torch.testing.assert_close(pair.weights.reshape(3, 3), chances / chances.sum())
    torch.testing.assert_close(pair.covariance, q.covariance[:4, :4])
    last = q.covariance[[10, 11, 0, 1]][:, [10, 11, 0, 1]]  # the pair that closes the ring
    torch.testing.assert_close(pair.covariance, last)
    u = q.sample(4000, 0)
    assert (torch.cov(u.T) - q.covariance).abs().max() < 0.15
    assert q.modes(u).mean() == pytest.approx(float(q.modes(q.sample(4000, 1)).mean()), abs=0.03)
    x = (u[:20] + states(20, 12)).requires_grad_()
    (slope,) = torch.autograd.grad(q.log_density(x, 1.5).sum(), x)
    torch.testing.assert_close(q.score(x.detach(), 1.5), slope)
    noisy = q.noised(1.5)
    torch.testing.assert_close(noisy.log_density(x.detach()), q.log_density(x.detach(), 1.5))
    torch.testing.assert_close(noisy.covariance, q.covariance + 2.25 * torch.eye(12).double())


def test_labels_on_pairs_have_the_composed_truth() -> None:
    """As σ → 0 every closure is the truth on a chain, and labels only split what there was."""
    case = Labelled.drawn(LABELLED[0], 1)
    assert 0 < case.labels.sum() < 7
    u = case.whole.sample(20, 0)
    for closure in CLOSURES:
        joint = case.joint("posterior", closure)
        torch.testing.assert_close(joint(u, 1e-3), case.whole.score(u, 1e-3), rtol=1e-3, atol=1e-2)
    both = [case.pair(0), case.pair(1)]
    assert sum(p for p, _ in both) == pytest.approx(1)
    means = torch.stack([q.mean for _, q in both])
    within = sum((p * q.covariance for p, q in both), torch.zeros(2, 2).double())
    shares = torch.tensor([p for p, _ in both]).double()
    between = (shares[:, None] * means).T @ means
    whole = case.field.covariance[:2, :2]
    torch.testing.assert_close(within + between, whole)  # the prior's mean is 0
    assert (torch.linalg.eigvalsh(whole - within) > -1e-9).all()


def test_labels_on_rings_are_composed_with_the_prior() -> None:
    """Their own covariances, with the loop term of the prior, are much better than all data's."""
    case = Labelled.drawn(LABELLED[1], 0)
    joint = case.joint("posterior", "own label")
    u = case.whole.sample(50, 0) + 2 * states(50, 6)
    exact = case.whole.score(u, 4.0)
    assert relative(joint(u, 4.0), exact) < 0.6 * relative(
        case.joint("posterior", "all data")(u, 4.0), exact
    )
