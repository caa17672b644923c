"""Influences are rows of the matrices they should be, and exactly 0 outside the light cone."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from pgmdiff import Average, Consistent, Marginal, Posterior, compose, graphs
from pgmdiff.diagnostics.influences import influence, influence_over_steps
from pgmdiff.errors import PgmdiffError, ScoreError, ShapeError
from pgmdiff.gaussian import (
    Gaussian,
    GaussianMixture,
    composed_precision,
    from_region_covariances,
    node_covariances,
    node_scores,
)
from pgmdiff.samplers import SDE, Heun, karras

GRAPHS = {
    "chain": graphs.chain(9),
    "loop": graphs.cycle(9),
    "windows": graphs.tiles((9,), window=4, overlap=1, remainder="shift"),
    "image": graphs.tiles((3, 3), window=2, overlap=1),
}
SIGMAS = karras(5, 0.1, 10.0)


def ar1(graph, rho: float = 0.8) -> Gaussian:
    place = torch.arange(9, dtype=torch.float64)
    mean = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(graph.regions.event_shape)
    return Gaussian(mean, rho ** (place[:, None] - place).abs())


def joint_of(graph, data, rule):
    if rule in (Posterior, Consistent):
        return compose(graph, node_scores(graph, data), rule=rule(node_covariances(graph, data)))
    return compose(graph, node_scores(graph, data), rule=rule())


def precision_of(graph, data: Gaussian, sigma: float, rule) -> Tensor:
    """J(σ), by formulas that differentiate nothing."""
    if rule in (Posterior, Consistent):
        bethe = from_region_covariances(graph, node_covariances(graph, data))
        return torch.linalg.inv(bethe.noised(sigma).covariance)
    return composed_precision(graph, data, sigma, rule())


def start(graph, n: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, *graph.regions.event_shape, generator=generator, dtype=torch.float64)


RULES = pytest.mark.parametrize("rule", [Marginal, Average, Posterior, Consistent])


@RULES
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("sigma", [0.3, 3.0])
def test_one_evaluation_has_rows_of_the_precision(name, rule, sigma) -> None:
    graph = GRAPHS[name]
    data = ar1(graph)
    joint, precision = joint_of(graph, data, rule), precision_of(graph, data, sigma, rule).abs()
    for element in (0, 4):
        found = influence(joint, start(graph), sigma, element)
        assert found.shape == graph.regions.event_shape
        assert torch.allclose(found.reshape(-1), precision[element], rtol=1e-9, atol=1e-12)
    several = influence(joint, start(graph), sigma, [0, 4])
    assert torch.allclose(several.reshape(-1), precision[[0, 4]].sum(0), rtol=1e-9, atol=1e-12)


@RULES
@pytest.mark.parametrize("name", GRAPHS)
def test_steps_have_rows_of_the_product(name, rule) -> None:
    graph = GRAPHS[name]
    data = ar1(graph)
    found = influence_over_steps(joint_of(graph, data, rule), SIGMAS, start(graph), 4)
    product = torch.eye(9, dtype=torch.float64)
    assert found.shape == (6, *graph.regions.event_shape)
    assert torch.equal(found[0].reshape(-1), product[4])
    for step, (sigma, after) in enumerate(pairwise(SIGMAS), start=1):
        matrix = torch.eye(9) - sigma * (sigma - after) * precision_of(graph, data, sigma, rule)
        product = matrix @ product
        assert torch.allclose(found[step].reshape(-1), product[4].abs(), rtol=1e-8, atol=1e-12)


def reached(graph, element: int, hops: int) -> set[int]:
    """Elements within so many regions of one."""
    regions = [set(graph.regions.elements(n).reshape(-1).tolist()) for n in graph.regions.names]
    found = {element}
    for _ in range(hops):
        found = found.union(*(region for region in regions if region & found))
    return found


@pytest.mark.parametrize("rule", [Marginal, Average])
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(("solver", "evaluations"), [(None, 1), (Heun(), 2), (SDE(1.0), 1)])
def test_nothing_passes_the_light_cone(name, rule, solver, evaluations) -> None:
    graph = GRAPHS[name]
    joint = joint_of(graph, ar1(graph), rule)
    found = influence_over_steps(joint, SIGMAS[:-1], start(graph), 0, solver=solver)
    for step, row in enumerate(found):
        depends = set(row.reshape(-1).nonzero()[:, 0].tolist())
        assert depends == reached(graph, 0, evaluations * step)


@pytest.mark.parametrize("rule", [Posterior, Consistent])
def test_posterior_composition_sees_the_component_at_once(rule) -> None:
    chain = graphs.chain(9)
    assert (influence(joint_of(chain, ar1(chain), rule), start(chain), 1.0, 0) > 1e-4).all()
    apart = graphs.FactorGraph.from_scopes(
        {**{f"f{i}": (i, i + 1) for i in range(4)}, **{f"g{i}": (i, i + 1) for i in range(5, 8)}}
    )
    data = ar1(apart)
    block = data.covariance.clone()
    block[:5, 5:] = block[5:, :5] = 0
    found = influence(joint_of(apart, Gaussian(data.mean, block), rule), start(apart), 1.0, 0)
    assert (found[:5] > 1e-3).all()
    assert (found[5:] < 1e-15).all()


def test_other_data_are_averaged_over_the_batch() -> None:
    means = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    mixture = GaussianMixture(
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        tuple(Gaussian(mean, 0.1 * torch.eye(2, dtype=torch.float64)) for mean in means),
    )
    x = torch.tensor([[0.0, 0.1], [1.0, 1.2]], dtype=torch.float64)
    alone = torch.stack([influence(mixture.score, each[None], 0.7, 0) for each in x])
    step, eye = 1e-5, torch.eye(2, dtype=torch.float64)
    slopes = [
        [
            (mixture.score(u + step * e, 0.7) - mixture.score(u - step * e, 0.7))[0, 0] / (2 * step)
            for e in eye
        ]
        for u in x[:, None]
    ]
    assert torch.allclose(alone, torch.tensor(slopes, dtype=torch.float64).abs(), rtol=1e-6)
    assert torch.allclose(influence(mixture.score, x, 0.7, 0), alone.mean(0))


def test_gradients_are_taken_wherever_it_is_called() -> None:
    graph = graphs.chain(9)
    joint = joint_of(graph, ar1(graph), Posterior)
    expected = influence(joint, start(graph), 1.0, 2)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(influence(joint, start(graph), 1.0, 2), expected)
    x = start(graph).requires_grad_()
    assert not influence(joint, x, 1.0, 2).requires_grad
    assert x.grad is None


def test_single_precision_keeps_small_influences() -> None:
    chain = graphs.chain(30)
    data = Gaussian(torch.zeros(30), torch.eye(30) + 0.1)
    joint = compose(chain, node_scores(chain, data))
    found = influence_over_steps(joint, karras(25, 0.5, 50.0), torch.zeros(1, 30), 0)
    assert found.dtype == torch.float32
    assert (found[-1, :15] > 0).all()  # of squares, less than float32 holds
    assert found[-1, 14] < 1e-25
    assert (found[-1, 26:] == 0).all()


def test_errors_say_what_to_do() -> None:
    graph = graphs.chain(9)
    joint, x = joint_of(graph, ar1(graph), Marginal), start(graph)
    for wrong in (9, -1, [], [0, 9], 1.5, torch.ones(9, dtype=torch.bool)):
        with pytest.raises(ShapeError, match="from 0 to 8"):
            influence(joint, x, 1.0, wrong)
    for state in (x[0], x[:0], x.long()):
        with pytest.raises(ShapeError, match=r"x\[None\]"):
            influence_over_steps(joint, SIGMAS, state, 0)
    with pytest.raises(ScoreError, match="without a gradient"):
        influence(lambda u, sigma: joint(u, sigma).detach(), x, 1.0, 0)
    with pytest.raises(ScoreError, match=r"\(2, 9\).*got shape \(2, 3\)"):
        influence(lambda u, sigma: u[:, :3], x, 1.0, 0)
    for sigmas in ([1.0], [1.0, 2.0], [1.0, 1.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(PgmdiffError, match="decrease strictly"):
            influence_over_steps(joint, sigmas, x, 0)
