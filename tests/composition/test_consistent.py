"""Consistent composition: exact for Gaussians on any graph, and local posteriors that agree."""

import itertools
import pickle

import pytest
import torch
from torch import Tensor

from pgmdiff import (
    GraphError,
    Marginal,
    Posterior,
    ScoreError,
    ShapeError,
    compose,
    fit_covariances,
    gaussian,
    graphs,
)
from pgmdiff.composition import Consistent
from pgmdiff.conditioning import Mask, moment_matching, replacement
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.graphs import FactorGraph
from pgmdiff.linalg import beside
from pgmdiff.samplers import SDE, DPMSolver2M, Heun, Noise, Solver, UniPC, karras, sample
from pgmdiff.scores import Score, guided, scheduled
from tests.precision.examples import markov
from tests.precision.test_completing import LOOPS

TREES = {
    "chain": graphs.chain(9),
    "star": graphs.star(5),
    "windows": graphs.tiles((22,), (6,), (2,)),
}
EDGES = {
    "chain": [(i, i + 1) for i in range(5)],
    "ring": [(i, (i + 1) % 6) for i in range(6)],
    "complete": [(i, j) for i in range(4) for j in range(i)],
}


def modes(edges: list[tuple[int, int]], stay: float) -> tuple[FactorGraph, GaussianMixture]:
    """Variables near -2 and 2 with Ising couplings, Markov to the pairwise graph."""
    n = 1 + max(map(max, edges))
    coupling = 0.5 * torch.logit(torch.tensor(stay, dtype=torch.float64))
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=n)), dtype=torch.float64)
    energy = torch.stack([signs[:, i] * signs[:, j] for i, j in edges]).sum(dim=0)
    spread = 0.16 * torch.eye(n, dtype=torch.float64)
    mixture = GaussianMixture(
        (coupling * energy).softmax(0), [Gaussian(2 * s, spread) for s in signs]
    )
    scopes = {f"f{i}{j}": (f"x{i}", f"x{j}") for i, j in edges}
    return FactorGraph.from_scopes(scopes, {f"x{i}": () for i in range(n)}), mixture


def reference(
    graph: FactorGraph,
    q: GaussianMixture,
    u: Tensor,
    sigma: float,
    *,
    iterations: int,
    **options: float,
) -> Tensor:
    """The formulas of the module, dense and region by region."""
    counts, eye = graph.counting_numbers(), torch.eye(u.shape[1], dtype=torch.float64)
    names = [name for name, count in counts.items() if count]
    index = {name: graph.regions.elements(name).reshape(-1) for name in names}
    models = {name: q.marginal(index[name]) for name in names}
    covariance = {name: gaussian.node_covariances(graph, q)[name] for name in names}
    inverse = {name: torch.linalg.inv(covariance[name]) for name in names}
    p = torch.zeros_like(eye)
    for name in names:
        p[index[name][:, None], index[name]] += counts[name] * inverse[name]
    k = torch.eye(len(eye), dtype=torch.float64)  # iterative proportional scaling
    for name in graph.factors * 400:
        block = index[name][:, None], index[name]
        k[block] += inverse[name] - torch.linalg.inv(torch.linalg.inv(k)[block])
    eta = {name: torch.zeros(len(u), len(index[name]), dtype=torch.float64) for name in names}
    for _ in range(iterations):
        total, tilted, x, size = torch.zeros_like(u), {}, torch.zeros(len(u)), 0
        for name in names:
            shifted = u[:, index[name]] + sigma**2 * eta[name]
            score = models[name](shifted, sigma)
            tilted[name] = eta[name] + score
            pulled = tilted[name] + sigma**2 * tilted[name] @ inverse[name] - eta[name]
            total[:, index[name]] += counts[name] * pulled
            if name in graph.factors:
                noisy = covariance[name] + sigma**2 * torch.eye(len(index[name]))
                gap = score + torch.linalg.solve(noisy, (shifted - q.mean[index[name]]).T).T
                x, size = x + ((gap @ noisy) * gap).sum(dim=1), size + len(index[name])
        fade = 1 / (1 + (x / size) ** 2)[:, None]
        with_k = eye + sigma**2 * k
        top = torch.linalg.eigvals(torch.linalg.solve(with_k, sigma**2 * (k - p))).real.max()
        kept = min(1.0, 0.9 / float(top)) if top > 0 else 1.0
        away = (u - q.mean) @ (k - p)
        of_k = torch.linalg.solve(with_k, (total - away).T).T
        with_p = with_k - kept * sigma**2 * (k - p)
        of_p = torch.linalg.solve(with_p, (total - (1 - kept) * away).T).T
        s = fade * of_k + (1 - fade) * of_p
        for name in names:
            gap = s[:, index[name]] - tilted[name]
            known = covariance[name] + options["least_share"] * sigma**2 * torch.eye(gap.shape[1])
            moved = gap + sigma**2 * torch.linalg.solve(known, gap.T).T
            eta[name] = eta[name] + options["damping"] * moved
        rms = torch.stack([sigma * e.square().mean(dim=1).sqrt() for e in eta.values()]).amax(dim=0)
        within = (options["trust"] / rms.clamp(min=1e-30)).clamp(max=1)[:, None]
        eta = {name: within * e for name, e in eta.items()}
    return s


@pytest.mark.parametrize("strength", [0.5, 0.99])
@pytest.mark.parametrize("name", LOOPS | TREES)
def test_it_is_the_exact_score_of_gaussians_markov_to_any_graph(name: str, strength: float) -> None:
    """To 1e-8 in float64 and 1e-5 in float32, from σ = 0.001 to 80, with means away from 0."""
    graph = (LOOPS | TREES)[name]
    q = markov(graph, strength, seed=6)
    rule = Consistent(gaussian.node_covariances(graph, q), mean=q.mean)
    joint = compose(graph, gaussian.node_scores(graph, q), rule=rule)
    for sigma in (1e-3, 0.1, 1.0, 10.0, 80.0):
        u = q.noised(sigma).sample(5, generator=7)
        exact = q(u, sigma)
        scale = float(exact.abs().max())
        torch.testing.assert_close(joint(u, sigma), exact, rtol=0, atol=1e-8 * scale)
        single = joint(u.float(), sigma)
        torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-5 * scale)


def test_a_mean_of_1e4_standard_deviations_does_no_harm() -> None:
    graph = LOOPS["grid"]
    q = markov(graph, 0.9, seed=8)
    far = Gaussian(q.mean + 1e4, q.covariance)
    rule = Consistent(gaussian.node_covariances(graph, far), mean=far.mean)
    joint = compose(graph, gaussian.node_scores(graph, far), rule=rule)
    for sigma in (0.01, 1.0, 80.0):
        u = far.noised(sigma).sample(5, generator=9)
        torch.testing.assert_close(joint(u, sigma), far(u, sigma), rtol=1e-6, atol=1e-8 / sigma)


def test_the_mean_comes_with_the_covariances_or_is_given_or_measured() -> None:
    graph = LOOPS["torus"]
    q = markov(graph, 0.9, seed=17)
    far = Gaussian(q.mean + 100, q.covariance)
    covariances, scores = gaussian.node_covariances(graph, far), gaussian.node_scores(graph, far)
    named = {name: far.mean[graph.regions.elements(name)] for name in graph.factors}
    fitted = fit_covariances(graph, far.sample(100, generator=18))
    torch.testing.assert_close(fitted.mean, far.mean, rtol=0, atol=1.0)
    u = far.noised(1.0).sample(3, generator=19)
    for rule in (
        Consistent(covariances),
        Consistent(dict(covariances), mean=far.mean),
        Consistent(dict(covariances), mean=named),
        Consistent(dict(covariances)),
    ):
        joint = compose(graph, scores, rule=rule)
        torch.testing.assert_close(joint(u, 1.0), far(u, 1.0), rtol=1e-5, atol=1e-5)
    run = joint.remembering()
    assert run(u, 1.0).shape == u.shape
    torch.testing.assert_close(run.memory["mean"], far.mean.expand(3, -1), rtol=0, atol=1e-4)

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(len(x))
        return ((10000.3 - x.double()) / (1 + beside(sigma, x) ** 2)).to(x)

    graph, calls = graphs.cycle(5), list[int]()
    ones = {name: torch.eye(graph.regions.elements(name).numel()) for name in graph.regions.names}
    joint = compose(graph, counted, rule=Posterior(ones))
    found = joint(torch.full((2, 5), 10001.3), 1.0)  # float32 holds no 10000.3
    torch.testing.assert_close(found, torch.full((2, 5), -0.5), rtol=0, atol=2e-3)
    assert len(calls) <= 8 * 2, "two groups of regions"


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("iterations", [1, 2, 10])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_it_follows_its_formulas(name: str, iterations: int, share: float) -> None:
    graph, q = modes(EDGES[name], 0.8)
    covariances = gaussian.node_covariances(graph, q)
    options = {"trust": 1.0, "damping": 0.5, "least_share": share}
    rule = Consistent(covariances, mean=q.mean, iterations=iterations, **options)
    joint = compose(graph, gaussian.node_scores(graph, q), rule=rule)
    for sigma in (0.2, 1.0, 4.0):
        u = q.noised(sigma).sample(6, generator=10)
        expected = reference(graph, q, u, sigma, iterations=iterations, **options)
        found = joint.remembering()(u, sigma)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_the_first_call_on_a_tree_is_posterior_composition() -> None:
    graph, q = modes(EDGES["chain"], 0.9)
    covariances, scores = gaussian.node_covariances(graph, q), gaussian.node_scores(graph, q)
    u = q.noised(1.0).sample(6, generator=11)
    posterior = compose(graph, scores, rule=Posterior(covariances))
    once = compose(graph, scores, rule=Consistent(covariances)).remembering()
    torch.testing.assert_close(once(u, 1.0), posterior(u, 1.0))
    never = compose(graph, scores, rule=Consistent(covariances, trust=0))
    torch.testing.assert_close(never(u, 1.0), posterior(u, 1.0))


@pytest.mark.parametrize("name", EDGES)
def test_messages_bring_it_near_the_exact_score(name: str) -> None:
    """The error with messages is a fraction of that of the marginal rule."""
    graph, q = modes(EDGES[name], 0.8)
    covariances, scores = gaussian.node_covariances(graph, q), gaussian.node_scores(graph, q)
    iterated = Consistent(covariances, mean=q.mean, iterations=30)
    for sigma in (0.2, 4.0):
        u = q.noised(sigma).sample(200, generator=12)
        exact = q(u, sigma)
        errors = [
            (compose(graph, scores, rule=rule).remembering()(u, sigma) - exact).norm()
            / exact.norm()
            for rule in (iterated, Marginal())
        ]
        assert errors[0] < 0.6 * errors[1] or errors[0] < 0.02


def test_samples_of_a_ring_of_modes_are_right_at_the_cost_of_the_papers_rule() -> None:
    """The correlation of signs across a ring of six: 0.83 is right; `Marginal` gives 0.23."""
    graph, q = modes(EDGES["ring"], 0.9)
    pair = q.marginal(graph.regions.elements("f01").reshape(-1))
    found, calls = [], []
    for rule in (Consistent(gaussian.node_covariances(graph, q), mean=q.mean), Marginal()):
        batches: list[int] = []

        def counted(x: Tensor, sigma: Tensor, batches: list[int] = batches) -> Tensor:
            batches.append(len(x))
            return pair(x, sigma)

        scores = dict(gaussian.node_scores(graph, q)) | {"f01": counted}
        joint = compose(graph, scores, rule=rule)
        start = 20 * torch.randn(1000, 6, generator=torch.Generator().manual_seed(13)).double()
        u = sample(joint, karras(30, 0.01, 20.0), x=start, solver=SDE(), generator=13)
        found.append(float(torch.corrcoef(u.T.sign())[0, 3]))
        calls.append(len(batches))
    assert calls == [30, 30]
    assert abs(found[0] - 0.83) < 0.1
    assert found[1] < 0.35


def test_it_does_not_depend_on_batch_or_max_batch() -> None:
    graph, q = modes(EDGES["ring"], 0.9)
    rule = Consistent(gaussian.node_covariances(graph, q), mean=q.mean, iterations=3)
    scores = gaussian.node_scores(graph, q)
    u = q.noised(2.0).sample(7, generator=14)
    sigma = torch.linspace(0.1, 5.0, 7, dtype=torch.float64)
    whole = compose(graph, scores, rule=rule)(u, sigma)
    few = compose(graph, scores, rule=rule, max_batch=4)
    torch.testing.assert_close(few(u, sigma), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(few(u[2:5], sigma[2:5]), whole[2:5], rtol=1e-12, atol=1e-12)


def test_a_bare_call_is_pure_and_a_run_carries_messages() -> None:
    graph, q = modes(EDGES["ring"], 0.9)
    rule = Consistent(gaussian.node_covariances(graph, q), mean=q.mean, trust=10)
    joint = compose(graph, gaussian.node_scores(graph, q), rule=rule)
    u = q.noised(1.0).sample(3, generator=15)
    pure = joint(u, 1.0)
    run = joint.remembering()
    first = run(u, 1.0)
    saved = dict(run.memory)
    later = run(u, 1.0)
    assert not torch.allclose(later, first)
    assert torch.equal(joint.remembering(saved)(u, 1.0), later)
    assert torch.equal(joint(u, 1.0), pure)
    for _ in range(200):
        last = run(u, 1.0)
    torch.testing.assert_close(last, pure, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", [UniPC(), Heun(), DPMSolver2M(eta=1.0)])
def test_runs_resume_bit_for_bit_with_their_messages(solver: Solver) -> None:
    graph, q = modes(EDGES["ring"], 0.9)
    joint = compose(
        graph, gaussian.node_scores(graph, q), rule=Consistent(gaussian.node_covariances(graph, q))
    )
    sigmas, states = karras(8, 0.05, 10.0), []
    options = {"solver": solver, "generator": 20}
    whole = sample(
        joint, sigmas, shape=(4, 6), callback=lambda s: states.append(s["state"]), **options
    )
    assert set(states[3].memory) == {"messages", "capped"}
    assert torch.equal(sample(joint, sigmas, state=states[3], **options), whole)


def test_all_stages_of_a_step_read_the_messages_of_its_start() -> None:
    """Within a step the score is a function of (u, σ), so that Heun's local error is of order 3."""
    graph, q = modes(EDGES["ring"], 0.9)
    joint = compose(
        graph, gaussian.node_scores(graph, q), rule=Consistent(gaussian.node_covariances(graph, q))
    )
    u, noise = q.noised(2.0).sample(4, generator=21), Noise.of(22, 4)
    run = joint.remembering()
    run(u, 2.0)
    run.hold()
    errors = []
    for width in (0.2, 0.1):
        one = Heun().step(run, Heun().init(u, 2.0), 2.0 - width, noise).x
        state = Heun().init(u, 2.0)
        for k in range(1, 33):
            state = Heun().step(run, state, 2.0 - width * k / 32, noise)
        errors.append(float((one - state.x).norm()))
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.2)


@pytest.mark.parametrize("around", ["guided", "scheduled", "moment matching", "replacement"])
def test_scores_around_a_joint_carry_its_messages(around: str) -> None:
    graph, q = modes(EDGES["ring"], 0.9)

    def moved(score: Score) -> Score:
        """The score of data that is moved by a condition, `[batch]`."""

        def conditional(x: Tensor, sigma: Tensor, away: Tensor) -> Tensor:
            return score(x - away.reshape(-1, *[1] * (x.ndim - 1)), sigma)

        return conditional

    conditional = {name: moved(score) for name, score in gaussian.node_scores(graph, q).items()}
    rule = Consistent(gaussian.node_covariances(graph, q))
    plain = compose(graph, gaussian.node_scores(graph, q), rule=rule)
    u, options = q.noised(1.0).sample(3, generator=23), {}
    if around in ("guided", "scheduled"):
        joint = compose(graph, conditional, rule=rule)
        options = {"away": torch.full((3,), 0.1).double()}
        score = (
            guided(joint, {"away": torch.zeros(()).double()}, guidance=2.0)
            if around == "guided"
            else scheduled(joint, {"away": lambda away, sigma: away * (sigma > 0.5)})
        )
    else:
        mask = torch.arange(6) < 2
        score = (
            replacement(plain, u, mask)
            if around == "replacement"
            else moment_matching(plain, u, Mask(mask), noise=0.1)
        )
    run = score.remembering()
    first = run(u, torch.ones(3).double(), **options)
    torch.testing.assert_close(first, score.remembering()(u, torch.ones(3).double(), **options))
    rows = 6 if around == "guided" else 3
    assert run.memory["messages"].shape == (rows, 6 * 2 + 6)
    assert not torch.allclose(run(u, torch.ones(3).double(), **options), first)
    assert not hasattr(guided(q, {}), "remembering")


def test_regions_conditioned_on_different_observations_use_the_completion_of_the_prior() -> None:
    """On loops, K = P + (K_0 - P_0) and the mean of the prior give the exact posterior's score."""
    graph = LOOPS["torus"]
    prior = markov(graph, 0.9, seed=30)
    n, rng = graph.n_elements, torch.Generator().manual_seed(31)
    precision, pull = torch.linalg.inv(prior.covariance), torch.zeros(n, dtype=torch.float64)
    whole = precision.clone()
    covariances, means = {}, {}
    for name in (*graph.factors, *graph.variables):
        index = graph.regions.elements(name).reshape(-1)
        own = torch.linalg.inv(prior.covariance[index[:, None], index])
        natural = own @ prior.mean[index]
        if name in graph.factors:  # an observation that this region's model has seen
            weights = torch.rand(len(index), generator=rng).double().diag()
            seen = weights @ (prior.mean[index] + torch.randn(len(index), generator=rng).double())
            own, natural = own + weights, natural + seen
            whole[index[:, None], index] += weights
            pull[index] += seen
        covariances[name] = torch.linalg.inv(own)
        means[name] = covariances[name] @ natural
    posterior = torch.linalg.inv(whole)
    posterior = Gaussian(posterior @ (precision @ prior.mean + pull), (posterior + posterior.T) / 2)

    def score(name: str) -> Score:
        own = Gaussian(means[name], covariances[name])
        return lambda x, sigma: own(x.reshape(len(x), -1), sigma).reshape(x.shape)

    scores = {name: score(name) for name in covariances}
    u = posterior.noised(1.0).sample(5, generator=32)
    given = gaussian.node_covariances(graph, prior)
    for rule in (Posterior, Consistent):
        joint = compose(graph, scores, rule=rule(covariances, prior=given))
        for sigma in (0.01, 1.0, 20.0):
            torch.testing.assert_close(joint(u, sigma), posterior(u, sigma), rtol=1e-7, atol=1e-9)
    with pytest.raises(GraphError, match="expected the mean of prior="):
        compose(graph, scores, rule=Posterior(covariances, prior=dict(given)))
    with pytest.warns(UserWarning, match="share element .* also give prior="):
        without = compose(graph, scores, rule=Posterior(covariances, mean=prior.mean))
    error = (without(u, 1.0) - posterior(u, 1.0)).norm() / posterior(u, 1.0).norm()
    assert error > 0.05, "covariances under different conditions belong to no distribution"


def test_windows_with_labels_of_their_own_are_pooled_and_the_report_says_how_far_apart() -> None:
    """Two kinds of windows around a ring, with other variances: averages close the loop."""
    graph, n = graphs.cycle(6), 6
    kinds = [markov(graph, 0.6, seed=40), markov(graph, 0.6, seed=41)]
    given, scores = {}, {}
    for k, name in enumerate((*graph.factors, *graph.variables)):
        given[name] = gaussian.node_covariances(graph, kinds[k % 2])[name]
        scores[name] = dict(gaussian.node_scores(graph, kinds[k % 2]))[name]
    joint = compose(graph, scores, rule=Consistent(given, mean=torch.zeros(n)))
    found = " ".join(str(joint.validate()).split())
    assert "and are averaged" in found
    distance = joint.rule.loops.completion.distance
    assert f"they differ by up to {distance:.2g} of a variance" in found
    assert distance > 0.1
    u = sample(joint, karras(20, 0.01, 20.0), shape=(50, n), generator=1, dtype=torch.float64)
    assert u.isfinite().all()


def test_a_report_says_what_the_mean_is_and_how_far_the_composed_precision_is_off() -> None:
    graph, q = graphs.cycle(6), markov(graphs.cycle(6), 0.6, seed=42)
    scores, given = gaussian.node_scores(graph, q), dict(gaussian.node_covariances(graph, q))
    said = " ".join(str(compose(graph, scores, rule=Consistent(given)).validate()).split())
    assert "mean: not given; it is measured, once per run" in said
    large = graphs.tiles((48, 48), (8, 8), (2, 2), remainder="shift")  # beyond 2,000 elements
    place = torch.arange(8.0).double()
    points = torch.cartesian_prod(place, place)
    whole = 0.9 ** torch.cdist(points, points)
    given = {}
    for group in large.groups:
        h, w = group.shape
        rows = (torch.arange(h)[:, None] * 8 + torch.arange(w)).reshape(-1)
        given |= dict.fromkeys(group.names, whole[rows[:, None], rows])
    joint = compose(large, lambda x, s: -x, rule=Posterior(given))
    said = " ".join(str(joint.validate()).split())
    assert "P stands for the completion: under N(m, P⁻¹)" in said
    inverse = torch.linalg.inv(joint.precision.dense())
    true = max(
        float((inverse[index[:, None], index] - given[name]).abs().max())
        for name in large.groups[0].names
        for index in [large.elements(name).reshape(-1)]
    )
    reported = float(said.split("given by up to ")[1].split()[0])
    assert 0.2 * true < reported <= 1.01 * true
    assert true < 0.05


def test_a_run_counts_the_calls_in_which_trust_cuts_a_message() -> None:
    graph, q = modes(EDGES["chain"], 0.9)
    covariances, scores = gaussian.node_covariances(graph, q), gaussian.node_scores(graph, q)
    u = q.noised(1.0).sample(6, generator=43)
    for trust, cut in ((1e-6, 3), (1e6, 0)):
        run = compose(graph, scores, rule=Consistent(covariances, trust=trust)).remembering()
        for _ in range(3):
            run(u, 1.0)
        assert run.memory["capped"].tolist() == [cut] * 6


def test_a_call_without_memory_that_does_not_converge_is_refused() -> None:
    """Local denoisers that vary from one float to the next, as if they were noisy."""
    graph, q = graphs.chain(6), markov(graphs.chain(6), 0.9, seed=44)

    def noisy(x: Tensor, sigma: Tensor) -> Tensor:
        return 3 * (1e4 * x.reshape(len(x), -1).cumsum(1)).sin().reshape(x.shape) - x

    joint = compose(graph, noisy, rule=Consistent(gaussian.node_covariances(graph, q)))
    u = q.noised(1.0).sample(3, generator=45)
    with pytest.raises(ScoreError, match=r"not converged at σ = 2, batch entry \d: local means"):
        joint(u, 2.0)
    assert joint.remembering()(u, 2.0).isfinite().all()


def test_gradients_in_float32_and_of_a_measured_mean() -> None:
    graph, q = modes(EDGES["ring"], 0.8)
    joint = compose(
        graph, gaussian.node_scores(graph, q), rule=Consistent(gaussian.node_covariances(graph, q))
    )
    u = q.noised(3.0).sample(4, generator=50).double()
    values, gradients = [], []
    for dtype in (torch.float64, torch.float32):
        leaf = u.to(dtype).requires_grad_()
        score = joint(leaf, 3.0)
        values.append(score.detach().double())
        gradients.append(torch.autograd.grad(score.square().sum(), leaf)[0].double())
    assert torch.equal(values[0], joint(u, 3.0).detach())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)

    def moved(score: Score) -> Score:
        return lambda x, sigma, by: score(x - by.reshape(len(x), *[1] * (x.ndim - 1)), sigma)

    graph = graphs.cycle(5)
    q = markov(graph, 0.7, seed=51)
    scores = {name: moved(score) for name, score in gaussian.node_scores(graph, q).items()}
    u = q.sample(3, generator=52)
    for rule in (Posterior, Consistent):
        joint = compose(graph, scores, rule=rule(dict(gaussian.node_covariances(graph, q))))
        by = torch.full((3,), 0.4, dtype=torch.float64, requires_grad=True)
        (found,) = torch.autograd.grad(joint(u, 2.0, by=by).sum(), by)
        with torch.no_grad():
            change = joint(u, 2.0, by=by + 1e-3) - joint(u, 2.0, by=by - 1e-3)
        torch.testing.assert_close(found, change.sum(dim=1) / 2e-3, rtol=1e-5, atol=1e-8)


def test_nan_where_messages_shift_the_input_names_the_node() -> None:
    graph, q = modes(EDGES["chain"], 0.8)

    def breaks(score: Score) -> Score:
        def called(x: Tensor, sigma: Tensor) -> Tensor:
            far = (x.abs() > 5).reshape(len(x), -1).any(dim=1)
            return torch.where(far.reshape(-1, *[1] * (x.ndim - 1)), torch.nan, score(x, sigma))

        return called

    scores = gaussian.node_scores(graph, q)
    broken = {name: breaks(score) for name, score in scores.items()}
    rule = Consistent(gaussian.node_covariances(graph, q), trust=10.0, damping=1.0)
    u = torch.tensor([[0.0] * 6, [-1.0] + [4.5] * 5], dtype=torch.float64)
    joint = compose(graph, broken, rule=rule)
    run = joint.remembering()
    for call in (lambda: joint(u, 3.0), lambda: [run(u, 3.0) for _ in range(5)]):
        shifted = r"at σ = 3, batch entry 1, where its message shifts .* joint\.remembering"
        with pytest.raises(ScoreError, match=shifted):
            call()
    whole = compose(graph, scores, rule=rule)
    u[0, 2] = torch.nan
    for call in (joint, joint.remembering(), whole.log_density):
        with pytest.raises(ScoreError, match="the state itself is not finite at batch entry 0"):
            call(u, 3.0)
    free = compose(graph, broken, rule=rule, check_finite=False)(u.nan_to_num(), 3.0)
    assert free[1].isnan().any()
    assert torch.allclose(free[0], whole(u.nan_to_num(), 3.0)[0], rtol=1e-7)


def test_means_by_name_are_averaged_where_regions_overlap() -> None:
    graph = graphs.cycle(5)
    q = markov(graph, 0.7, seed=53)
    scores, covariances = gaussian.node_scores(graph, q), gaussian.node_covariances(graph, q)
    named = {f"f{i}": q.mean[graph.regions.elements(f"f{i}")] for i in range(5)}
    named = {name: mean + torch.tensor([0.1, -0.1]) for name, mean in named.items()}
    named["f1"] = named["f1"].tolist()
    u = q.sample(3, generator=54)
    found = compose(graph, scores, rule=Posterior(dict(covariances), mean=named))(u, 1.0)
    assert torch.allclose(found, q(u, 1.0), rtol=1e-6, atol=1e-6)
    for wrong in ("abc", [1.0, float("inf")], [1.0j, 0.0]):
        with pytest.raises(ShapeError, match="mean: "):
            compose(graph, scores, rule=Posterior(covariances, mean={**named, "f0": wrong}))


def test_what_does_not_fit_is_named() -> None:
    graph = graphs.cycle(5)
    q = markov(graph, 0.5, seed=16)
    scores, covariances = gaussian.node_scores(graph, q), gaussian.node_covariances(graph, q)
    named = {"f0": q.mean[:2], "f1": q.mean[1:3]}
    with pytest.raises(GraphError, match="that cover the state, got none for element 3"):
        compose(graph, scores, rule=Consistent(covariances, mean=named))
    with pytest.raises(ShapeError, match=r"that of 'f0' as \(2,\), got \(3,\)"):
        compose(graph, scores, rule=Consistent(covariances, mean={"f0": q.mean[:3]}))
    with pytest.raises(ShapeError, match=r"mean: expected the shape \(5,\), got \(4,\)"):
        compose(graph, scores, rule=Consistent(covariances, mean=q.mean[:4]))
    broken = {**covariances, "f2": torch.full((2, 2), torch.nan)}
    for given, message in (
        (torch.eye(2), "expected covariances by region name, or a provider, got a Tensor"),
        (broken, "the covariance of 'f2' holds NaN"),
        ({**covariances, "f2": torch.ones(2, 2)}, "the covariance of 'f2' is singular"),
    ):
        with pytest.raises(GraphError, match=message):
            compose(graph, scores, rule=Consistent(given))
    with pytest.raises(ShapeError, match="mean: it holds NaN"):
        compose(graph, scores, rule=Consistent(covariances, mean=torch.full((5,), torch.nan)))
    for rule in (Consistent(covariances), Posterior(dict(covariances))):
        run = compose(graph, scores, rule=rule).remembering()
        run(torch.zeros(3, 5).double(), 1.0)
        with pytest.raises(ScoreError, match=r"the batch of the run, 3 samples, .* got 2"):
            run(torch.zeros(2, 5).double(), 1.0)
    for wrong in (
        {"trust": "1"},
        {"iterations": 1.5},
        {"trust": -1.0},
        {"damping": 0.0},
        {"iterations": 0},
        {"trust": float("nan")},
    ):
        with pytest.raises(ValueError, match="expected trust >= 0, damping in"):
            Consistent(covariances, **wrong)


def test_a_joint_can_be_pickled_after_a_call() -> None:
    graph, q = modes(EDGES["ring"], 0.8)
    scores = {
        name: q.marginal(graph.regions.elements(name).reshape(-1))
        for name, count in graph.counting_numbers().items()
        if count
    }
    singles = {n: q.marginal(graph.regions.elements(n)) for n in graph.variables}
    joint = compose(graph, scores | singles, rule=Consistent(gaussian.node_covariances(graph, q)))
    u = q.noised(1.0).sample(3, generator=24)
    score = joint(u, 1.0)
    assert torch.equal(pickle.loads(pickle.dumps(joint))(u, 1.0), score)
