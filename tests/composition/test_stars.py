"""Stars: messages with a precision, exact for Gaussians, near the exact score of other data."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from experiments.groups import COVARIANCE, MEANS, TAU, Case, one_observation
from pgmdiff import Posterior, compose, graphs
from pgmdiff.composition import Consistent
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.rules import bound
from pgmdiff.composition.stars import likely
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.graphs import FactorGraph
from pgmdiff.linalg import beside
from pgmdiff.precision import Stationary
from pgmdiff.samplers import SDE, DPMSolver2M, Heun, UniPC, karras, sample
from pgmdiff.scores import Score
from tests.composition.test_consistent import modes
from tests.precision.examples import markov


def gaussians(n: int, d: int, away: float = 0.0) -> tuple[FactorGraph, dict[str, Gaussian]]:
    """Posteriors of n linear observations, their prior and, as "whole", the posterior of all."""
    generator = torch.Generator().manual_seed(10 * n + d)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def known(precision: Tensor, pull: Tensor) -> Gaussian:
        return Gaussian(away + torch.linalg.solve(precision, pull), torch.linalg.inv(precision))

    factor, maps = normal(d, d), normal(n, d, d)
    prior = torch.linalg.inv(factor @ factor.T + 0.1 * torch.eye(d))
    own, pulls = maps @ maps.mT + 0.01 * torch.eye(d), normal(n, d)
    found = {f"y{j}": known(prior + own[j], pulls[j]) for j in range(n)}
    found |= {"theta": known(prior, torch.zeros(d).double())}
    found |= {"whole": known(prior + own.sum(dim=0), pulls.sum(dim=0))}
    graph = FactorGraph.from_scopes({f"y{j}": ("theta",) for j in range(n)}, {"theta": (d,)})
    return graph, found


@pytest.mark.parametrize(("n", "d"), [(2, 3), (12, 1)])
@pytest.mark.parametrize("away", [0.0, 1e3])
def test_every_call_is_exact_for_gaussians(n: int, d: int, away: float) -> None:
    """Pure or in a run, in float64 to 1e-9 and in float32, at every σ."""
    graph, models = gaussians(n, d, away)
    q = models.pop("whole")
    rule = Consistent({name: each.covariance for name, each in models.items()}, mean=q.mean)
    joint = compose(graph, models, rule=rule)
    assert joint.rule.star is not None
    for sigma in (1e-3, 0.1, 1.0, 80.0):
        u = q.noised(sigma).sample(3, generator=1)
        exact, run, single = q(u, sigma), joint.remembering(), joint.remembering()
        scale = float(exact.abs().max())
        for found in (joint(u, sigma), *(run(u, sigma) for _ in range(3))):
            torch.testing.assert_close(found, exact, rtol=0, atol=1e-9 * scale * (1 + away))
        if not away:
            for _ in range(3):
                error = (single(u.float(), sigma).double() - exact).abs().max()
                assert error < 1e-5 * scale
            gaps = joint.log_density(u, sigma) - q.log_density(u, sigma)
            torch.testing.assert_close(gaps, gaps[:1].expand(3), rtol=1e-8, atol=1e-7)
    assert (run.memory["star"][:, -1] > 0.999).all(), "θ = 1 for Gaussians"


def test_a_thousand_gaussian_observations_are_exact() -> None:
    """To 1e-7 only: the prior counts -999 times, and so does its rounding."""
    y = torch.linspace(-2, 2, 1000).double()
    graph = graphs.repeated_observations(1000, (1,), [{"y": each - y.mean()} for each in y])

    def posterior(x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        return (beside(y, x) / 2 - x) / (0.5 + beside(sigma, x) ** 2)

    def prior(x: Tensor, sigma: Tensor) -> Tensor:
        return -x / (1 + beside(sigma, x) ** 2)

    variances = {f"y{j}": torch.full((1, 1), 0.5) for j in range(1000)}
    rule = Consistent({**variances, "theta": torch.ones(1, 1)})
    run = compose(graph, {"posterior": posterior, "prior": prior}, rule=rule).remembering()
    q = Gaussian(torch.zeros(1).double(), torch.full((1, 1), 1 / 1001).double())
    for sigma in (20.0, 1.0, 0.03, 0.001):
        u = q.noised(sigma).sample(3, generator=2)
        torch.testing.assert_close(run(u, sigma), q(u, sigma), rtol=1e-7, atol=1e-6)


def test_one_observation_is_the_model_itself() -> None:
    graph, models = gaussians(1, 2)
    q = models.pop("whole")
    joint = compose(graph, models, rule=Consistent({n: m.covariance for n, m in models.items()}))
    u = q.noised(1.0).sample(3, generator=3)
    run = joint.remembering()
    for found in (joint(u, 1.0), run(u, 1.0), run(u, 1.0)):
        torch.testing.assert_close(found, models["y0"](u, 1.0), rtol=1e-12, atol=1e-12)


GRID = torch.linspace(-4, 4, 801).double()
PRIORS = {
    "normal": -0.5 * GRID**2,
    "two modes": torch.logaddexp(
        -((GRID - 2) ** 2) / 0.32 + math.log(1.5), -((GRID + 2) ** 2) / 0.32
    ),
    "uniform": torch.where(GRID.abs() <= 3, 0.0, -torch.inf),
}


def observed(
    prior: str, y: Tensor, noise: float
) -> tuple[FactorGraph, dict[str, Score], Score, dict[str, Tensor]]:
    """A star by quadrature: the graph, its models, the exact score and the covariances."""

    def moments(total: Tensor, count: float) -> tuple[Tensor, Tensor]:
        logs = PRIORS[prior] + total[..., None] / noise * GRID - 0.5 * count / noise * GRID**2
        weights = logs.softmax(dim=-1)
        mean = weights @ GRID
        return mean, weights @ GRID**2 - mean**2

    def score(x: Tensor, sigma: Tensor, total: Tensor, count: float) -> Tensor:
        level = beside(sigma, x).double() ** 2
        logs = PRIORS[prior] + (x / level + beside(total, x) / noise) * GRID
        weights = (logs - 0.5 * (1 / level + count / noise) * GRID**2).softmax(dim=-1)
        return (((weights @ GRID)[:, None] - x) / level).to(x)

    def theirs(x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        return score(x, sigma, y, 1)

    def none(x: Tensor, sigma: Tensor) -> Tensor:
        return score(x, sigma, torch.zeros_like(sigma), 0)

    def whole(x: Tensor, sigma: Tensor) -> Tensor:
        return score(x, sigma, y.sum().expand_as(sigma), len(y))

    graph = graphs.repeated_observations(len(y), (1,), [{"y": each} for each in y])
    covariances = {f"y{j}": moments(each, 1)[1].reshape(1, 1) for j, each in enumerate(y)}
    covariances["theta"] = moments(torch.zeros(()).double(), 0)[1].reshape(1, 1)
    return graph, {"posterior": theirs, "prior": none}, whole, covariances


@pytest.mark.parametrize("prior", PRIORS)
def test_samples_have_the_mean_and_spread_of_those_of_the_exact_score(prior: str) -> None:
    """At as many steps; shifts alone are off by more than 25 % where data is in two modes."""
    y = 1.7 + torch.randn(12, generator=torch.Generator().manual_seed(4)).double()
    graph, models, whole, covariances = observed(prior, y, 1.0)
    joint = compose(graph, models, rule=Consistent(covariances))
    start = 20 * torch.special.ndtri((torch.arange(12).double() + 0.5) / 12)[:, None]
    for solver in (SDE(), UniPC()):
        exact, found, shifts = (
            sample(score, karras(20, 0.01, 20.0), x=start, solver=solver, generator=5)
            for score in (whole, joint, alone(joint))
        )
        assert abs(found.mean() - exact.mean()) < 0.15 * exact.std()
        assert abs(found.std() / exact.std() - 1) < 0.05
        if prior == "two modes":
            assert shifts.std() > 1.25 * exact.std()


def alone(joint: Joint) -> Joint:
    """The same joint without precisions in its messages."""
    return replace(joint, rule=bound(joint.rule, star=None))


def test_a_pure_call_is_nearer_to_the_exact_score_than_shifts_alone_and_runs_reach_it() -> None:
    y = torch.tensor([0.5, 1.5, -0.3, 2.5]).double()
    graph, models, whole, covariances = observed("two modes", y, 1.0)
    joint = compose(graph, models, rule=Consistent(covariances))
    for sigma in (0.3, 1.0):
        u = 1.2 + sigma * torch.randn(20, 1, generator=torch.Generator().manual_seed(6)).double()
        exact = whole(u, torch.full((20,), sigma).double())
        errors = [(each(u, sigma) - exact).norm() for each in (joint, alone(joint))]
        assert errors[0] < 0.5 * errors[1]
    u, run = 1.2 + 0.3 * torch.linspace(-2, 2, 5).double()[:, None], joint.remembering()
    for _ in range(40):
        last = run(u, 0.3)
    pure = joint(u.requires_grad_(), 0.3)
    torch.testing.assert_close(last, pure, rtol=1e-6, atol=1e-6)


def test_the_first_call_is_posterior_composition_and_runs_resume() -> None:
    y = torch.tensor([0.5, 1.5, -0.3]).double()
    graph, models, _, covariances = observed("two modes", y, 1.0)
    joint = compose(graph, models, rule=Consistent(covariances))
    posterior = compose(graph, models, rule=Posterior(covariances))
    u = torch.linspace(-2, 2, 4).double()[:, None]
    torch.testing.assert_close(joint.remembering()(u, 1.0), posterior(u, 1.0))
    states, options = [], {"generator": 7, "solver": Heun()}
    sigmas, start = karras(6, 0.05, 10.0), 10 * u.float()
    told = sample(joint, sigmas, x=start, callback=lambda s: states.append(s["state"]), **options)
    assert set(states[2].memory) == {"messages", "centre", "star", "capped"}
    assert torch.equal(sample(joint, sigmas, state=states[2], **options), told)
    few = compose(graph, models, rule=Consistent(covariances), max_batch=3)
    a, b = joint.remembering(), few.remembering()
    for sigma in (5.0, 1.0, 0.5):
        torch.testing.assert_close(a(u, sigma), b(u, sigma), rtol=1e-9, atol=1e-9)


def nested(kind: str) -> tuple[FactorGraph, dict[str, Gaussian], Gaussian, Tensor]:
    """A graph with stars in it, models of all leaves by name, the posterior and the prior's mean.

    The prior of a leaf is `models["prior " + leaf]`.
    """
    generator = torch.Generator().manual_seed(11)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    scopes: dict[str, tuple[str, ...]] = {
        "groups": {f"g{j}": ("phi", f"x{j}") for j in range(3)},
        "chain": {"f0": ("x0", "x1"), "f1": ("x1", "x2"), "g0": ("x0",), "g2": ("x2",)},
        "ring": {f"g{j}": (f"x{j}", f"x{(j + 1) % 4}") for j in range(4)},
    }[kind]
    graph = FactorGraph.from_scopes(scopes, {n: (1,) for s in scopes.values() for n in s})
    n = graph.regions.n_elements
    q = markov(graph, 0.9, seed=12)
    known = torch.linalg.inv(q.covariance)
    h, pull, models, inner = known.clone(), known @ q.mean, {}, {}
    for name in graph.regions.names:
        if not name.startswith("g"):
            models[name] = q.marginal(graph.regions.elements(name).reshape(-1))
            continue
        index = graph.regions.elements(name).reshape(-1)
        prior, size = q.marginal(index), len(index)
        before = torch.linalg.inv(prior.covariance)
        leaves = {f"{name}y{k}": ("z",) for k in range(3)}
        inner[name] = FactorGraph.from_scopes(leaves, {"z": (size,)}, models={"z": f"{name}z"})
        models[f"{name}z"] = prior
        for leaf in leaves:
            each, seen = normal(size, size), normal(size)
            own = before + each @ each.T
            mean = torch.linalg.solve(own, before @ prior.mean + seen)
            models[leaf] = Gaussian(mean, torch.linalg.inv(own))
            models[f"prior {leaf}"] = prior
            h[index[:, None], index] += each @ each.T
            pull[index] += seen
    covariance = torch.linalg.inv(h)
    assert n == len(h)
    return graph.nest(inner), models, Gaussian(covariance @ pull, covariance), q.mean


def composed(graph: FactorGraph, models: dict[str, Gaussian], mean: Tensor) -> Joint:
    """Consistent composition with the covariances of all leaves, with and without observations."""
    flat = graph.flatten()
    named = {n: g.model or n for g in flat.groups for n in g.names}
    given = {name: models[model].covariance for name, model in named.items()}
    prior = {n: models.get(f"prior {m}", models[m]).covariance for n, m in named.items()}
    rule = Consistent(given, prior=prior, mean=mean)
    return compose(graph, {m: like(models[m]) for m in named.values()}, rule=rule)


def like(model: Gaussian | GaussianMixture) -> Score:
    """The model as a score of any shape, of one level per sample."""

    class Flat:
        def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
            return model(x.reshape(len(x), -1), sigma).reshape(x.shape)

        def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
            return model.log_density(x.reshape(len(x), -1), sigma)

    return Flat()


@pytest.mark.parametrize(("kind", "stars"), [("groups", 3), ("chain", 2), ("ring", 4)])
def test_stars_in_larger_graphs_are_exact_for_gaussians(kind: str, stars: int) -> None:
    """Nested in trees, beside other regions and on loops, pure or in a run, to 1e-8."""
    graph, models, q, mean = nested(kind)
    joint = composed(graph, models, mean)
    assert len(joint.rule.star.elements) == stars
    plain, gaps = alone(joint), []
    for sigma in (1e-2, 0.3, 2.0, 50.0):
        u = q.noised(sigma).sample(3, generator=13)
        exact, run = q(u, sigma), joint.remembering()
        scale = float(exact.abs().max())
        for found in (joint(u, sigma), *(run(u, sigma) for _ in range(4)), plain(u, sigma)):
            torch.testing.assert_close(found, exact, rtol=0, atol=1e-8 * scale)
        gaps.append(joint.log_density(u, sigma) - q.log_density(u, sigma))
    torch.testing.assert_close(gaps, [gaps[0][:1].expand(3)] * 4, rtol=1e-7, atol=1e-7)
    chunks = [chunk for chunk, _ in joint.evaluate(u, torch.full((3,), 1.0).double())]
    bounds = torch.cat([joint.rule.star.rows(chunk).bounds for chunk in chunks])
    assert (bounds > 0.01).sum() >= 3 * stars, "observations are called at lower levels"
    same = likely(joint.rule.precision) is joint.rule.precision
    assert same, "no observation widens a Gaussian prior"
    assert (run.memory["star"][:, -stars:] > 0.999).all(), "θ = 1 for Gaussians"


def test_observations_together_do_not_widen_their_prior() -> None:
    """What would is left out of their precisions, and no more than that."""
    prior, few = torch.eye(2).double(), torch.tensor([[0.5, 0.2], [0.2, 0.7]]).double()
    wide = torch.tensor([[4.0, 0.0], [0.0, 0.4]]).double()
    graph = FactorGraph.from_scopes({f"y{j}": ("z",) for j in range(3)}, {"z": (2,)})
    given = {"y0": wide, "y1": wide, "y2": few, "z": prior}
    joint = compose(graph, lambda x, sigma: -x, rule=Consistent(given))
    assert "widen their prior" in " ".join(str(joint.validate()).split())
    precision = joint.rule.precision
    own = {n: torch.linalg.inv(precision.covariances.form(g).dense()[g.names.index(n)])
           for g in graph.regions.groups for n in g.names}  # fmt: skip
    total = sum(torch.linalg.inv(given[f"y{j}"]) - prior for j in range(3))
    values, vectors = torch.linalg.eigh(total)
    assert values[0] < 0 < values[1]
    kept = vectors[:, 1:] @ vectors[:, 1:].T
    for j in range(3):
        alone = torch.linalg.inv(given[f"y{j}"]) - prior
        torch.testing.assert_close(own[f"y{j}"], prior + kept @ alone @ kept)
    torch.testing.assert_close(own["z"], prior)
    torch.testing.assert_close(precision.dense(), prior + kept @ total @ kept)
    assert joint.rule.covariances == given


@pytest.mark.parametrize("seed", [20, 46])
def test_runs_do_not_swing_until_they_are_lost(seed: int) -> None:
    """A hundred observations of each of five groups, with average covariances: once 1e15 off.

    In one, observations would widen their prior; in the other pieces are narrower than assumed.
    """
    case = Case.simulated(100, seed)
    q = GaussianMixture(torch.full((2,), 0.5).double(), [Gaussian(m, COVARIANCE) for m in MEANS])
    population = Gaussian(torch.zeros(1).double(), torch.full((1, 1), TAU**2).double())
    scores = {"posterior": one_observation, "prior": q, "population": like(population)}
    joint = compose(case.graph, scores, rule=case.rule("Consistent"), max_batch=100_000)
    x = sample(joint, karras(60, 0.005, 30.0), shape=(12, 6), generator=seed, dtype=torch.float64,
               solver=DPMSolver2M(eta=1.0, rho=7.0))  # fmt: skip
    mean, deviation = case.moments()
    assert ((x - mean).abs() < 8 * deviation).all()


def seen(q: GaussianMixture, places: list[int], y: Tensor) -> GaussianMixture:
    """The mixture given y_k = x_place + N(0, 1)."""
    h = torch.eye(len(q.components[0].mean)).double()[places]
    logs, found = q.weights.log(), []
    for k, each in enumerate(q.components):
        covariance = torch.linalg.inv(torch.linalg.inv(each.covariance) + h.T @ h)
        away = y - h @ each.mean
        logs[k] += Gaussian(0 * y, h @ each.covariance @ h.T).log_density(away[None], 1.0)[0]
        found.append(Gaussian(each.mean + covariance @ h.T @ away, covariance))
    return GaussianMixture(logs.softmax(0), found)


def test_observed_chains_of_modes_are_sampled_as_by_the_exact_score() -> None:
    """Twelve observations of each variable; shifts alone are off by half a deviation."""
    chain, q = modes([(0, 1), (1, 2)], 0.9)
    y = 1.9 + torch.randn(3, 12, generator=torch.Generator().manual_seed(14)).double()
    whole = seen(q, [place for place in range(3) for _ in range(12)], y.flatten())
    models = {n: q.marginal(chain.regions.elements(n).reshape(-1)) for n in chain.regions.names}
    scopes, inner = {"f01": ("x0", "x1"), "f12": ("x1", "x2")}, {}
    for place in range(3):
        leaves = {f"y{place}_{k}": ("z",) for k in range(12)}
        inner[f"g{place}"] = FactorGraph.from_scopes(
            leaves, {"z": (1,)}, models={"z": f"x{place}z"}
        )
        scopes[f"g{place}"] = (f"x{place}",)
        models[f"x{place}z"] = prior = models[f"x{place}"]
        models |= {leaf: seen(prior, [0], y[place, k : k + 1]) for k, leaf in enumerate(leaves)}
        models |= {f"prior {leaf}": prior for leaf in leaves}
    graph = FactorGraph.from_scopes(scopes, {f"x{j}": (1,) for j in range(3)}).nest(inner)
    joint = composed(graph, models, torch.zeros(3))
    start = 20 * torch.randn(60, 3, generator=torch.Generator().manual_seed(15)).double()
    exact, found, shifts = (
        sample(score, karras(20, 0.01, 20.0), x=start, solver=SDE(), generator=16)
        for score in (whole, joint, alone(joint))
    )
    errors = [((x - exact).mean(dim=0) / exact.std(dim=0)).abs().mean() for x in (found, shifts)]
    assert errors[0] < 0.15
    assert errors[1] > 0.4
    torch.testing.assert_close(found.std(dim=0), exact.std(dim=0), rtol=0.05, atol=0)


def mixture(elements: list[int], seed: int) -> GaussianMixture:
    """A mixture of two Gaussians whose elements are listed in an order."""
    generator, d, at = torch.Generator().manual_seed(seed), len(elements), torch.tensor(elements)
    roots, means = (torch.randn(2, d, *s, generator=generator).double() for s in ((d,), ()))
    parts = [
        Gaussian(mean, 0.4 * root @ root.T + (0.3 + (seed == 0)) * torch.eye(d).double())
        for root, mean in zip(roots, means, strict=True)
    ]
    places = at.argsort().argsort()
    return GaussianMixture(torch.tensor([0.4, 0.6]).double(), parts).marginal(places)


def region_star(orders: list[list[int]], wider: bool) -> tuple[Joint, dict[str, Tensor]]:
    """Three regions and their prior in orders of elements, alone or with two other regions."""
    regions = dict(zip(("prior", "a", "b", "c"), orders, strict=True))
    counts = {"prior": -2, "a": 1, "b": 1, "c": 1}
    if wider:
        regions |= {"pair": [2, 3], "x": [2]}
        counts |= {"pair": 1, "x": -1}
    models = {name: mixture(each, seed) for seed, (name, each) in enumerate(regions.items())}
    graph = graphs.RegionGraph.from_regions(regions, counts, event_shape=(3 + wider,))
    covariances = {name: model.covariance for name, model in models.items()}
    return compose(graph, models, rule=Consistent(covariances)), covariances


@pytest.mark.parametrize("wider", [False, True], ids=["alone", "beside others"])
@pytest.mark.parametrize(
    "orders",
    [
        [[0, 1, 2], [2, 0, 1], [0, 1, 2], [1, 0, 2]],
        [[2, 1, 0], [2, 1, 0], [2, 1, 0], [2, 1, 0]],
        [[1, 2, 0], [0, 2, 1], [2, 0, 1], [2, 0, 1]],
    ],
    ids=str,
)
def test_the_order_of_elements_in_regions_changes_nothing(
    orders: list[list[int]], wider: bool
) -> None:
    """Neither of scores, pure or in a run, nor of densities or of what is left of a star."""
    (sorted_one, plain), (joint, given) = (
        region_star(each, wider) for each in ([[0, 1, 2]] * 4, orders)
    )
    (elements,) = joint.rule.star.elements
    assert elements.tolist() == [0, 1, 2]
    torch.testing.assert_close(joint.rule.star.sums, sorted_one.rule.star.sums)
    assert not torch.equal(given["a"], plain["a"]) or orders[1] == [0, 1, 2]
    whole = (each.rule.precision.dense() for each in (joint, sorted_one))
    torch.testing.assert_close(*whole)
    u = torch.randn(5, 3 + wider, generator=torch.Generator().manual_seed(20)).double()
    runs = joint.remembering(), sorted_one.remembering()
    for sigma in (3.0, 1.0, 0.5, 0.3):
        exact = sorted_one(u, sigma)
        torch.testing.assert_close(joint(u, sigma), exact, rtol=1e-8, atol=1e-8)
        for _ in range(3):
            found, exact = (run(u, sigma) for run in runs)
            torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-7)
        assert not torch.allclose(alone(joint)(u, sigma), exact, rtol=1e-3), "there is a star"
    assert (runs[0].memory["star"][:, -1] < 0.99).any(), "θ < 1 takes part"


@pytest.mark.parametrize(("n", "count", "denominator"), [(10, 3, 10), (7, 1, 3), (9, 7, 9)])
def test_counts_with_denominators_sum_to_one_up_to_rounding(
    n: int, count: int, denominator: int
) -> None:
    names = [f"y{j}" for j in range(n)]
    counts = dict.fromkeys(names, count) | {"prior": denominator - n * count}
    graph = graphs.RegionGraph.from_regions(
        {name: [0, 1] for name in counts}, counts, event_shape=(2,), denominator=denominator
    )
    covariances = {**dict.fromkeys(names, 0.5 * torch.eye(2)), "prior": torch.eye(2)}
    joint = compose(graph, lambda x, sigma: -x, rule=Consistent(covariances))
    assert joint.rule.star.alone


def test_other_graphs_are_left_as_they_are() -> None:
    chain = graphs.chain(4)
    ones = {name: torch.eye(chain.regions.elements(name).numel()) for name in chain.regions.names}
    rule = compose(chain, lambda x, sigma: -x, rule=Consistent(ones)).rule
    assert rule.star is None
    large, models = gaussians(2, 65)
    models.pop("whole")
    rule = Consistent({name: each.covariance for name, each in models.items()})
    assert compose(large, models, rule=rule).rule.star is None


def test_long_graphs_are_composed_in_linear_memory() -> None:
    """Whether they are stars is known without a matrix over all elements, here of 34 GB."""
    line = 0.8 ** torch.arange(-15, 16).abs().double()
    rule = Consistent(Stationary(line[None, None], (0,)))
    joint = compose(graphs.tiles((65_536,), 16, 8), lambda x, s: -x / (1 + beside(s, x)), rule=rule)
    assert joint.rule.star is None
    assert joint(torch.zeros(1, 65_536), 1.0).abs().max() == 0
