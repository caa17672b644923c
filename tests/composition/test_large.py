"""Posterior and consistent composition on large graphs with loops: K by neighbourhoods.

Graphs count as large here beyond a few elements, so that dense matrices tell the truth.
"""

import pickle
import warnings

import pytest
import torch
from torch import Tensor

from pgmdiff import Consistent, Posterior, compose, gaussian, graphs
from pgmdiff.composition import loops as loops_module
from pgmdiff.composition import posterior as posterior_module
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import FactorGraph
from pgmdiff.precision import ComposedPrecision, Dense, IndefiniteError, Neighbourhoods
from pgmdiff.precision import neighbourhoods as neighbourhoods_module
from pgmdiff.samplers import karras, sample
from tests.precision.examples import markov


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior_module, "COMPLETED", 10)


def unit(x: Tensor, sigma: Tensor) -> Tensor:
    """The score of independent elements of unit variance."""
    return -x / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def coupled(graph: FactorGraph, coupling: float) -> Gaussian:
    """Precision 1 on the diagonal, and - coupling where two variables share a factor."""
    n = graph.regions.n_elements
    precision = torch.eye(n, dtype=torch.float64)
    for name in graph.factors:
        i, j = graph.regions.elements(name).reshape(-1).tolist()
        precision[i, j] = precision[j, i] = -coupling
    mean = torch.arange(n, dtype=torch.float64).sin()
    return Gaussian(mean.reshape(graph.regions.event_shape), torch.linalg.inv(precision))


@pytest.mark.parametrize("rule", [Posterior, Consistent])
@pytest.mark.parametrize("coupling", [0.2, 0.24])
def test_scores_of_gaussians_come_nearer_than_with_the_composed_precision(
    rule: type, coupling: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the larger coupling P is indefinite."""
    graph = graphs.grid(9, 9)
    q = coupled(graph, coupling)
    given = gaussian.node_covariances(graph, q)
    scores = gaussian.node_scores(graph, q)
    u = q.noised(1.0).sample(3, generator=1)

    def error(**options: object) -> float:
        joint = compose(graph, scores, rule=rule(given, mean=q.mean, **options))
        return max(relative(joint(u, s), q(u, s)) for s in (0.1, 1.0, 10.0))

    monkeypatch.setattr(loops_module, "OFF", 1.0)
    near = error()
    assert near < 0.02
    monkeypatch.setattr(neighbourhoods_module, "MOST", 1)  # no patch is so small: P stands for K
    if coupling == 0.24:
        with pytest.raises(IndefiniteError):
            error()
    else:
        assert error() > 4 * near


def test_where_patches_are_the_whole_it_is_the_rule_of_small_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The score, the mean that is measured, and the density, also where data is not Gaussian."""
    graph = graphs.torus(4, 4)
    q = markov(graph, 0.6, seed=2)
    given = gaussian.node_covariances(graph, q)

    def bent(name: object, score: object) -> object:
        return lambda x, sigma: (
            score(x, sigma) + 0.1 * torch.tanh(x) / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)))
        )

    exact = dict(gaussian.node_scores(graph, q))
    wrong = {name: bent(name, score) for name, score in exact.items()}
    u = q.noised(1.0).sample(4, generator=3)
    monkeypatch.setattr(neighbourhoods_module, "TOLERANCE", 1e-12)
    for scores, mean in ((exact, None), (wrong, q.mean)):
        rule = Posterior(given, mean=mean)
        large = compose(graph, scores, rule=rule)
        assert isinstance(large.rule.loops.completion, Neighbourhoods)
        with monkeypatch.context() as patched:
            patched.setattr(posterior_module, "COMPLETED", 2_000)
            small = compose(graph, scores, rule=rule)
        for sigma in (0.1, 1.0, 10.0):
            torch.testing.assert_close(large(u, sigma), small(u, sigma), rtol=1e-7, atol=1e-7)
    near, dense = large.rule.loops.solve, small.rule.loops.solve
    v = torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(near.pulled(v), dense.pulled(v), rtol=1e-7, atol=1e-7)
    assert near.log_volume == pytest.approx(dense.log_volume, abs=1e-6)
    assert torch.equal(pickle.loads(pickle.dumps(near)).pulled(v), near.pulled(v))


def test_where_the_composed_precision_is_indefinite_the_fade_keeps_a_tenth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loops_module, "OFF", 1.0)
    graph = graphs.grid(9, 9)
    q = coupled(graph, 0.245)
    given = gaussian.node_covariances(graph, q)
    joint = compose(graph, unit, rule=Posterior(given, mean=q.mean))
    solve = joint.rule.loops.solve
    known = solve.level(1.0)
    assert 0 < known.kept < 1
    assert solve.level(3.0) is known
    k = joint.rule.loops.completion.precision.dense()
    p = ComposedPrecision(graph.regions, Dense(given)).dense()
    near = (1 - known.kept) * k + known.kept * p
    least = torch.linalg.eigvals(torch.linalg.solve(k, near)).real.min()
    assert 0.05 < least < 0.2
    u = sample(joint, karras(10, 0.01, 10.0), shape=(20, 81), generator=1, dtype=torch.float64)
    assert u.isfinite().all()


def test_a_report_tells_the_residual_and_a_large_one_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = graphs.grid(7, 7)
    weak = gaussian.node_covariances(graph, coupled(graph, 0.2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        joint = compose(graph, unit, rule=Posterior(weak, mean=torch.zeros(49)))
    told = " ".join(str(joint.validate()).split())
    residual = joint.rule.loops.completion.residual
    assert "by neighbourhoods, " in told
    assert f"by up to {residual:.2g} of a variance" in told
    assert residual < 0.05
    monkeypatch.setattr(neighbourhoods_module, "HOPS", 1)
    strong = gaussian.node_covariances(graph, coupled(graph, 0.26))
    with pytest.warns(UserWarning, match="computed from neighbourhoods .* differ from those"):
        compose(graph, unit, rule=Posterior(strong, mean=torch.zeros(49)))


def test_a_long_ring_needs_neither_mean_nor_completion() -> None:
    """Its neighbourhoods are trees, so K = P."""
    graph = graphs.cycle(40)
    q = markov(graph, 0.6, seed=5)
    joint = compose(graph, gaussian.node_scores(graph, q),
                    rule=Posterior(gaussian.node_covariances(graph, q)))  # fmt: skip
    assert joint.rule.loops is None
    u = q.noised(1.0).sample(3, generator=1)
    assert relative(joint(u, 1.0), q(u, 1.0)) < 1e-4
