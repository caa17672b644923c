"""Posterior composition, and the density of Consistent: exact where they should be."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgmdiff import Consistent, GraphError, Marginal, Posterior, ScoreError, ShapeError, compose
from pgmdiff.composition.rules import Average, Rule, bound
from pgmdiff.conditioning import Mask, moment_matching
from pgmdiff.gaussian import (
    Gaussian,
    GaussianMixture,
    composed_precision,
    kl_divergence,
    node_covariances,
    node_scores,
)
from pgmdiff.graphs import (
    FactorGraph,
    chain,
    cluster_variation,
    cycle,
    nested_cubemap,
    repeated_observations,
    star,
    tiles,
    torus,
    tree,
)
from pgmdiff.precision import (
    BlockTree,
    ConjugateGradients,
    Covariances,
    Eigen,
    SparseFactors,
    completed,
    fit_covariances,
    provider_of,
)
from pgmdiff.samplers import SDE, Heun, karras, sample
from pgmdiff.testing import markov_gaussian, markov_mixture
from pgmdiff.testing.strategies import trees
from tests.helpers import Unsolved, ar1, relative

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "two_mode_chain.json").read_text())
SIGMAS = (0.0, 0.1, 1.0, 10.0, 80.0)


def states(n: int, seed: int = 0, batch: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rule", [Posterior, Consistent])
@settings(max_examples=25)
@given(graph=trees(), seed=st.integers(0, 2**31))
def test_exact_at_every_sigma_on_forests(rule: type, graph: FactorGraph, seed: int) -> None:
    if not graph.n_elements:
        return
    q = markov_gaussian(graph, seed)
    joint = compose(graph, node_scores(graph, q), rule=rule(node_covariances(graph, q)))
    u = states(graph.n_elements, seed % 1000)
    for sigma in SIGMAS:
        assert relative(joint(u, sigma), q.score(u, sigma)) < 1e-8


@pytest.mark.parametrize("n", [3, 20, 1000])
@pytest.mark.parametrize("rho", [0.5, 0.95, 0.99])
def test_exact_on_chains_of_any_length(n: int, rho: float) -> None:
    q, graph = ar1(n, rho), chain(n)
    covariances = node_covariances(graph, q)
    u = states(n)
    for rule in (Posterior(covariances), Consistent(covariances)):
        joint = compose(graph, node_scores(graph, q), rule=rule)
        assert isinstance(joint.solve, Eigen if n <= 768 else BlockTree)
        for sigma in (0.1, 1.0, 80.0):
            assert relative(joint(u, sigma), q.score(u, sigma)) < 1e-8
            assert relative(joint(u.float(), sigma).double(), q.score(u, sigma)) < 1e-3
    marginal = compose(graph, node_scores(graph, q))
    assert relative(marginal(u, 1.0), q.score(u, 1.0)) > 1e-2


def test_the_log_density_is_the_true_one_constants_included() -> None:
    for graph in (chain(12), star(4, (2,)), tree(2, 3), chain(1000), cycle(5), torus(3, 3)):
        n = graph.n_elements
        q = ar1(n, 0.9) if n in (12, 1000) else markov_gaussian(graph, 3)
        joint = compose(graph, node_scores(graph, q), rule=Consistent(node_covariances(graph, q)))
        u = states(graph.n_elements)
        for sigma in (0.05, 1.0, 20.0):
            expected = q.log_density(u, sigma)
            assert relative(joint.log_density(u, sigma), expected) < 1e-9


def test_the_log_density_is_true_at_small_levels_and_in_float32() -> None:
    for graph in (chain(4), cycle(5), torus(3, 3)):
        q, u = markov_gaussian(graph, 3), states(graph.n_elements)
        joint = compose(graph, node_scores(graph, q), rule=Consistent(node_covariances(graph, q)))
        for sigma in (0.0, 1e-9, 1e-5, 1e-3, 0.1, 10.0):
            expected = q.log_density(u, sigma)
            assert relative(joint.log_density(u, sigma), expected) < 1e-9
            assert relative(joint.log_density(u.float(), sigma).double(), expected) < 1e-5
    rule = Consistent(node_covariances(graph, q), trust=0)
    without = compose(graph, node_scores(graph, q), rule=rule)
    with pytest.raises(ScoreError, match="expected a rule that has a density"):
        without.log_density(u, 1.0)


@pytest.mark.parametrize("graph", [chain(4), star(3), tiles((8,), 4, 2)])
def test_consistent_is_conservative_the_posterior_is_not(graph) -> None:
    q = markov_mixture(graph, 5)
    u = states(q.mean.numel())
    covariances = node_covariances(graph, q)
    consistent = compose(graph, node_scores(graph, q), rule=Consistent(covariances))
    leaf = u.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(consistent.log_density(leaf, 0.8).sum(), leaf)
    assert relative(consistent(u, 0.8), gradient) < 1e-6

    def at(away: float) -> Tensor:
        return consistent.log_density(u + away * torch.ones_like(u), 0.8)

    slope = (8 * (at(1e-3) - at(-1e-3)) - (at(2e-3) - at(-2e-3))) / 12e-3
    torch.testing.assert_close(slope, consistent(u, 0.8).sum(dim=1), rtol=1e-5, atol=1e-6)
    posterior = compose(graph, node_scores(graph, q), rule=Posterior(covariances))
    jacobian = torch.autograd.functional.jacobian(lambda x: posterior(x[None], 0.8)[0], u[0])
    assert (jacobian - jacobian.T).abs().max() > 1e-3 * jacobian.abs().max()
    jacobian = torch.autograd.functional.jacobian(lambda x: consistent(x[None], 0.8)[0], u[0])
    assert (jacobian - jacobian.T).abs().max() < 1e-6 * jacobian.abs().max()


def test_a_log_density_is_refused_where_the_loop_term_fades() -> None:
    graph = cycle(4)
    q = markov_mixture(graph, 5)
    joint = compose(graph, node_scores(graph, q), rule=Consistent(node_covariances(graph, q)))
    with pytest.raises(ScoreError, match="the loop term fades"):
        joint.log_density(states(4), 0.8)


def test_on_loops_the_sampler_reaches_the_distribution_of_largest_entropy() -> None:
    """It is the data's own where data is Markov to the graph; the Bethe distribution is not."""
    graph, rough = torus(3, 3), ar1(9, 0.7)
    covariances = node_covariances(graph, rough)
    joint = compose(graph, node_scores(graph, rough), rule=Posterior(covariances))
    closed = completed(graph.regions, provider_of(covariances, "test", graph.regions)).covariance
    start = 80.0 * torch.eye(9, dtype=torch.float64)
    out = sample(joint, karras(60, 0.002, 80.0), x=start, solver=Heun())
    reached = Gaussian(rough.mean, out.T @ out)
    closed = Gaussian(rough.mean, (closed + closed.T) / 2)
    assert kl_divergence(reached, closed) / 9 < 1e-4
    assert kl_divergence(reached, rough) > 20 * kl_divergence(reached, closed)
    precision = torch.linalg.inv(closed.covariance)
    assert relative(composed_precision(graph, closed), precision) > 0.1, "P is another matrix"


@pytest.mark.parametrize("rule", [Posterior, Consistent])
def test_float32_loses_no_more_than_the_exact_score_does(rule: type) -> None:
    """What is multiplied by I + σ² Σ_r⁻¹ and divided again is so in float64."""
    n, single = 60, torch.float32
    q, graph = ar1(n, 0.99), chain(n)
    narrow = Gaussian(q.mean.float(), q.covariance.float())
    joint = compose(graph, node_scores(graph, narrow), rule=rule(node_covariances(graph, q)))
    reached = {}
    for dtype, score in ((single, joint), (torch.float64, q.score)):
        start = 80.0 * torch.eye(n, dtype=dtype)
        out = sample(score, karras(18, 0.002, 80.0), x=start, solver=Heun()).double()
        reached[dtype] = out.T @ out
    assert relative(reached[single], reached[torch.float64]) < 1e-3


def test_designs_table_of_posterior_losses() -> None:
    """KL per variable, Heun, Karras 80 → 0.002 → 0: DESIGN section 2."""
    table = {
        (0.5, 20): (2.2e-3, 6.9e-5),
        (0.95, 20): (4.3e-3, 1.3e-4),
        (0.95, 400): (4.4e-3, 1.4e-4),
    }
    for (rho, n), losses in table.items():
        q, graph = ar1(n, rho), chain(n)
        joint = compose(graph, node_scores(graph, q), rule=Posterior(node_covariances(graph, q)))
        for levels, expected in zip((18, 40), losses, strict=True):
            start = 80.0 * torch.eye(n, dtype=torch.float64)
            out = sample(joint, karras(levels, 0.002, 80.0), x=start, solver=Heun())
            loss = kl_divergence(Gaussian(q.mean, out.T @ out), q) / n
            assert loss == pytest.approx(expected, rel=0.05)


def test_a_common_diagonal_makes_it_the_marginal_rule() -> None:
    graph = chain(6)
    q = markov_mixture(graph, 1)
    flat = {
        n: 0.7 * torch.eye(2 if n in graph.scopes else 1)
        for n in (*graph.factors, *graph.variables)
    }
    u = states(6)
    marginal = compose(graph, node_scores(graph, q))
    joint = compose(graph, node_scores(graph, q), rule=Posterior(flat))
    assert relative(joint(u, 1.3), marginal(u, 1.3)) < 1e-12


def test_the_solves_agree() -> None:
    graph = cluster_variation([(0, 1, 2), (2, 3, 4), (4, 5, 6)])
    q = markov_gaussian(graph, 2)
    joint = compose(graph, node_scores(graph, q), rule=Posterior(node_covariances(graph, q)))
    b, sigma = states(7), torch.tensor([0.0, 0.3, 3.0, 30.0], dtype=torch.float64)
    dense = joint.precision.dense()
    expected = torch.stack([
        torch.linalg.solve(torch.eye(7, dtype=b.dtype) + s**2 * dense, row)
        for row, s in zip(b, sigma, strict=True)
    ])  # fmt: skip
    for make in (Eigen, SparseFactors, ConjugateGradients):
        solve = make(joint.precision)
        assert relative(solve(b, sigma), expected) < 1e-9
        leaf = b.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((solve(leaf, sigma) * b).sum(), leaf)
        assert relative(gradient, expected) < 1e-9
        if make is not ConjugateGradients:
            logs = [torch.logdet(torch.eye(7, dtype=b.dtype) + s**2 * dense) for s in sigma]
            torch.testing.assert_close(solve.log_determinant(sigma), torch.stack(logs))
    assert ConjugateGradients(joint.precision).product(b).allclose(b @ dense)


def test_large_states_are_solved_by_conjugate_gradients() -> None:
    graph = tiles((56, 40), (16, 16), (8, 4), remainder="shift")
    place = torch.arange(56.0)
    rows = 0.7 ** (place[:, None] - place).abs()

    class Separable(Covariances):
        def of(self, group):
            h, w = group.shape
            return torch.kron(rows[:h, :h], rows[:w, :w])[None].double()

    score = lambda x, sigma: -x / (1 + sigma[:, None, None] ** 2)  # noqa: E731
    joint = compose(graph, score, rule=Posterior(Separable()))
    assert isinstance(joint.solve, ConjugateGradients)
    u = states(56 * 40, batch=2).reshape(2, 56, 40)
    assert joint(u, 0.5).isfinite().all()
    assert joint.solve.residual < 1e-12
    dense = joint.precision.dense()
    total = replace(joint, rule=bound(joint.rule, solve=Unsolved()))(u, 0.5).reshape(2, -1)
    expected = torch.linalg.solve(torch.eye(2240, dtype=u.dtype) + 0.25 * dense, total.T).T
    assert relative(joint(u, 0.5).reshape(2, -1), expected) < 1e-8
    y, known = torch.ones(56, 40), Mask(torch.arange(40) < 3, event_shape=(56, 40))
    conditioned = moment_matching(joint, y, known, noise=0.1)
    single = conditioned(u.float(), 0.5)
    assert single.dtype == torch.float32
    assert relative(single.double(), conditioned(u, 0.5)) < 1e-4


def test_indefinite_precisions_do_no_harm_where_there_is_a_completion() -> None:
    """P of the nested cube is indefinite for these covariances; K is not."""
    cube = nested_cubemap(2)
    covariance = torch.full((24, 24), 0.5, dtype=torch.float64).fill_diagonal_(1.0)
    q = Gaussian(torch.zeros(24, dtype=torch.float64), covariance)
    joint = compose(cube, node_scores(cube, q), rule=Posterior(node_covariances(cube, q)))
    assert torch.linalg.eigvalsh(joint.precision.dense())[0] < 0
    u = states(24)
    whole = completed(cube.regions, joint.precision.covariances)
    assert relative(joint(u, 0.7), Gaussian(q.mean, whole.covariance).score(u, 0.7)) < 1e-8
    large = torus(46, 46)
    stiff = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    given = dict.fromkeys(large.factors, stiff) | dict.fromkeys(large.variables, torch.eye(1))
    with pytest.raises(GraphError, match="P is not positive definite"):
        compose(large, lambda x, s: -x, rule=Posterior(given))


def test_bad_covariances_are_named() -> None:
    graph, scores = chain(3), lambda x, sigma: -x
    good = node_covariances(graph, ar1(3, 0.5))
    for change, error, message in [
        ({"x1": None}, GraphError, "region 'x1' has no covariance"),
        ({"f0": torch.eye(3)}, ShapeError, r"'f0' as \[2, 2\], got \(3, 3\)"),
        ({"f1": torch.ones(2, 2)}, GraphError, "the covariance of 'f1' is singular"),
        ({"f1": torch.full((2, 2), float("nan"))}, GraphError, "'f1' holds NaN or infinity"),
    ]:
        given = {n: c for n, c in {**good, **change}.items() if c is not None}
        with pytest.raises(error, match=message):
            compose(graph, scores, rule=Posterior(given))
    with pytest.raises(GraphError, match="Consistent: expected covariances by region name"):
        compose(graph, scores, rule=Consistent(None))
    joint = compose(graph, scores, rule=Consistent(good))
    with pytest.raises(ScoreError, match="log-density of node 'f0' is not known"):
        joint.log_density(torch.zeros(1, 3), 1.0)
    with pytest.raises(ScoreError, match="expected a rule that has a density, such as Consistent"):
        compose(graph, scores, rule=Marginal()).log_density(torch.zeros(1, 3), 1.0)
    with pytest.raises(GraphError, match="N\\(m, K⁻¹\\)"):
        composed_precision(graph, ar1(3, 0.5), rule=Posterior(good))


def test_conditions_batches_and_modes() -> None:
    graph = chain(5)
    q = markov_mixture(graph, 4)
    covariances = node_covariances(graph, q)
    u = states(5, batch=6).reshape(2, 3, 5)
    sigma = torch.linspace(0.1, 3.0, 6, dtype=torch.float64).reshape(2, 3)
    for rule in (Posterior(covariances), Consistent(covariances)):
        whole = compose(graph, node_scores(graph, q), rule=rule)(u, sigma)
        single = compose(graph, node_scores(graph, q), rule=rule, max_batch=1)(u, sigma)
        close = 1e-12 if isinstance(rule, Posterior) else 1e-7  # of a fixed point
        assert relative(single, whole) < close
        joint = compose(graph, node_scores(graph, q), rule=rule)
        with torch.inference_mode():
            assert relative(joint(u, sigma), whole) < close
        row = joint(u[1, 2][None], sigma[1, 2].item())
        assert relative(row[0], whole[1, 2]) < close


class TwoModes:
    """The oracle's chain: a mixture per pair, exact ancestral samples."""

    def __init__(self) -> None:
        components = zip(ORACLE["means"], ORACLE["covariances"], strict=True)
        self.pair = GaussianMixture(
            torch.tensor(ORACLE["weights"], dtype=torch.float64),
            [
                Gaussian(torch.tensor(m).double(), torch.tensor(c, dtype=torch.float64))
                for m, c in components
            ],
        )
        self.single = self.pair.marginal(torch.tensor(0))
        self.graph = chain(ORACLE["n"], factor_model="pair", variable_model="single")
        self.scores = {"pair": self.pair.score, "single": self.single.score}
        self.covariances = {"pair": self.pair.covariance, "single": self.single.covariance}

    def samples(self, n: int, generator: torch.Generator) -> Tensor:
        length = ORACLE["n"]
        mode = torch.randint(2, (n, 1), generator=generator)
        switches = (torch.rand(n, length - 1, generator=generator) > 0.9).cumsum(1)
        modes = torch.cat([mode, (mode + switches) % 2], dim=1)
        noise = 0.4 * torch.randn(n, length, generator=generator, dtype=torch.float64)
        for i in range(1, length):
            same = modes[:, i] == modes[:, i - 1]
            kept = 0.9 * noise[:, i - 1] + 0.19**0.5 * noise[:, i]
            noise[:, i] = torch.where(same, kept, noise[:, i])
        return 4.0 * modes - 2.0 + noise


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased: see the oracle's note."""

    def within(x: Tensor) -> Tensor:
        return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))

    return (2 * torch.cdist(a, b).mean() - within(a) - within(b)).item()


def test_two_mode_chain() -> None:
    """DESIGN: marginal 0.164, posterior 0.022, messages 0.005 at 20 evaluations; two seeds."""
    chain_of_modes, n = TwoModes(), 2000
    found = {}
    for name, rule in {
        "marginal": Marginal(),
        "posterior": Posterior(chain_of_modes.covariances),
        "consistent": Consistent(chain_of_modes.covariances),
    }.items():
        joint = compose(chain_of_modes.graph, chain_of_modes.scores, rule=rule)
        distances = []
        for seed in (0, 1):
            u = sample(
                joint, karras(20, 0.01, 20.0), shape=(n, ORACLE["n"]), solver=SDE(1.0),
                generator=seed, dtype=torch.float64,
            )  # fmt: skip
            truth = chain_of_modes.samples(n, torch.Generator().manual_seed(100 + seed))
            distances.append(energy_distance(u, truth))
        found[name] = sum(distances) / 2
    expected = ORACLE["energy_distance"]["20 evaluations"]
    expected["consistent"] = 0.005
    for name, value in found.items():  # two seeds of spread 0.01 each
        assert value == pytest.approx(expected[name], abs=4 * 0.01 / 2**0.5)
    assert found["posterior"] < found["marginal"] / 3
    assert found["consistent"] < found["marginal"] / 8


def test_fitted_covariances_agree_and_converge() -> None:
    graph = tiles((12,), 6, 3)
    q = ar1(12, 0.8)
    data = 50.0 + q.sample(4000, torch.Generator().manual_seed(0))
    fitted = fit_covariances(graph, data, ridge=0.0)
    flat = data - data.mean(dim=0)
    whole = flat.T @ flat / len(flat)
    for group in graph.groups:
        for row, matrix in enumerate(fitted.of(group)):
            index = group.indices(row, row + 1)[0]
            torch.testing.assert_close(matrix, whole[index][:, index], rtol=1e-9, atol=1e-9)
    streamed = fit_covariances(graph, data.split(700), ridge=0.0)
    for group in graph.groups:
        torch.testing.assert_close(streamed.of(group), fitted.of(group), rtol=1e-9, atol=1e-9)
    joint = compose(graph, node_scores(graph, q), rule=Posterior(fitted))
    u = states(12)
    error = relative(joint(u, 1.0), q.score(u, 1.0))
    assert 1e-6 < error < 4 * (12 / 4000) ** 0.5
    marginal = compose(graph, node_scores(graph, q))
    assert error < relative(marginal(u, 1.0), q.score(u, 1.0))
    with pytest.raises(ShapeError, match=r"expected a tensor of states \[n, 12\]"):
        fit_covariances(graph, data[:, :5])
    with pytest.raises(ShapeError, match="at least 2 states, got 1"):
        fit_covariances(graph, data[:1])


def test_few_samples_stay_definite_on_junction_trees() -> None:
    """Fewer states than elements of a region: the ridge keeps P positive definite."""
    graph = chain(8, (3,))
    for seed in range(20):
        q = markov_gaussian(graph, seed)
        data = q.sample(5, torch.Generator().manual_seed(seed)).reshape(5, -1)
        with pytest.warns(UserWarning, match="of 'f0' .and of 6 others. with rank 4 at most, of 6"):
            fitted = fit_covariances(graph, data, ridge=1e-3)
        joint = compose(graph, node_scores(graph, q), rule=Posterior(fitted))
        assert torch.linalg.eigvalsh(joint.precision.dense())[0] > 0


def test_one_callable_may_serve_models_of_different_covariances() -> None:
    graph = FactorGraph.from_scopes(
        {"f": ("a", "b"), "h": ("b", "c")}, models={"f": "m1", "h": "m2"}, variable_model="v"
    )
    score = lambda x, sigma: -x / 2  # noqa: E731
    near = torch.tensor([[1.0, 0.3], [0.3, 1.0]])
    far = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    one = torch.eye(1)
    u = states(3)
    by_model = compose(graph, score, rule=Posterior({"m1": near, "m2": far, "v": one}))
    by_name = compose(graph, score, rule=Posterior({"f": near, "h": far, "b": one}))
    assert relative(by_model(u, 2.0), by_name(u, 2.0)) < 1e-12


def test_gradients_reach_sigma_conditions_and_weights() -> None:
    graph, q = chain(6), ar1(6, 0.9)
    covariances = node_covariances(graph, q)
    u, sigma = states(6), torch.tensor([0.2, 0.7, 2.0, 9.0], dtype=torch.float64)
    joint = compose(graph, node_scores(graph, q), rule=Posterior(covariances))
    expected = torch.autograd.functional.jacobian(lambda s: joint(u, s).sum(dim=1), sigma)
    for solve in (SparseFactors(joint.precision), ConjugateGradients(joint.precision)):
        other = replace(joint, rule=bound(joint.rule, solve=solve))
        leaf = sigma.clone().requires_grad_()
        (found,) = torch.autograd.grad(other(u, leaf).sum(), leaf)
        assert relative(found, expected.diagonal()) < 1e-6
    weight = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    score = lambda x, s: -weight * x.tanh()  # noqa: E731
    consistent = compose(graph, score, rule=Consistent(covariances))
    (found,) = torch.autograd.grad(consistent(u, 1.0).sum(), weight)
    with torch.no_grad():
        beyond, short = (
            compose(graph, lambda x, s: -w * x.tanh(), rule=Consistent(covariances))(u, 1.0).sum()  # noqa: B023
            for w in (1.5 + 1e-4, 1.5 - 1e-4)
        )
    assert float(found) == pytest.approx(float(beyond - short) / 2e-4, rel=1e-5)


def test_composing_in_inference_mode() -> None:
    graph, q = chain(4), ar1(4, 0.9)
    with torch.inference_mode():
        for rule in (Posterior, Consistent):
            joint = compose(graph, node_scores(graph, q), rule=rule(node_covariances(graph, q)))
            assert relative(joint(states(4), 1.0), q.score(states(4), 1.0)) < 1e-8
    leaf = states(4).requires_grad_()
    joint(leaf, 1.0).sum().backward()
    assert leaf.grad is not None


def test_conjugate_gradients_know_when_a_row_is_done() -> None:
    graph = tiles((40,), 8, 4)
    joint = compose(graph, lambda x, s: -x, rule=Posterior(node_covariances(graph, ar1(40, 0.97))))
    precision = joint.precision
    eye = torch.eye(40, dtype=torch.float64)
    solve, dense = ConjugateGradients(precision), precision.dense()
    generator = torch.Generator().manual_seed(14)
    for _ in range(20):
        sigma = 10 ** (torch.rand(6, generator=generator) * 6 - 4)
        b = torch.randn(6, 40, generator=generator)
        b = b * 10 ** (torch.rand(6, 1, generator=generator) * 6 - 5)
        expected = torch.stack([
            torch.linalg.solve(eye + s.double() ** 2 * dense, row.double())
            for row, s in zip(b, sigma, strict=True)
        ])  # fmt: skip
        assert relative(solve(b, sigma).double() / b.norm(dim=1, keepdim=True),
                        expected / b.norm(dim=1, keepdim=True)) < 1e-5  # fmt: skip


@pytest.mark.parametrize("rule", [Posterior, Consistent])
def test_samples_wider_than_their_covariances_say_are_told(
    rule: type[Posterior | Consistent],
) -> None:
    """Models and covariances of other units; those of true ones are not."""
    graph, q = chain(6), ar1(6, 0.9)

    def draw(scale: float) -> Tensor:
        given = {name: scale * each for name, each in node_covariances(graph, q).items()}
        joint = compose(graph, node_scores(graph, q), rule=rule(given))
        return sample(joint, karras(12, 0.01, 30.0), shape=(40, 6), generator=0)

    assert draw(1.0).shape == (40, 6)
    name = rule.__name__
    with pytest.warns(UserWarning, match=rf"sample: samples have \d+ times .* of {name} say"):
        draw(0.01)


@pytest.mark.parametrize("rule", [Marginal(), Average()])
def test_rules_without_covariances_are_warned_of_on_equal_elements(rule: Rule) -> None:
    """Posteriors of observations, whose sum is no score; but not windows with labels."""
    given = [{"y": torch.tensor(float(y))} for y in range(3)]
    scores = {"posterior": lambda x, sigma, y: -x, "prior": lambda x, sigma: -x}
    for shape in ((2,), ()):
        with pytest.warns(UserWarning, match="'y0' and 'y1' hold the same elements"):
            compose(repeated_observations(3, shape, given), scores, rule=rule)
    compose(repeated_observations(3, (2,), given[:1] * 3), scores, rule=rule)
    windows = tiles((32,), 8, 4)
    labels = {name: {"y": torch.tensor(i % 3)} for i, name in enumerate(windows.names)}
    compose(windows, lambda x, sigma, y=None: -x, rule=rule, conditions=labels)
