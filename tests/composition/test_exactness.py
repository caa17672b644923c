"""Exactness: under `Consistent`, the score of Gaussians is exact on any graph, at every σ."""

import itertools
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import Consistent, compose, fit_covariances, gaussian, graphs
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.graphs import FactorGraph, RegionGraph, cluster_variation, tiles
from pgmdiff.linalg import Floats
from pgmdiff.precision import Dense
from pgmdiff.precision.completing import completed
from pgmdiff.precision.precision import on_junction_tree
from pgmdiff.scores import Score

SIGMAS = torch.tensor([1e-3, 1e-2, 0.1, 1.0, 10.0, 80.0]).double()
KINDS = (
    "blocks",
    "subsets",
    "tiles",
    "periodic",
    "torus",
    "complete",
    "cube",
    "nested",
    "variation",
)
SHAPES: Sequence[tuple[int, ...]] = ((), (1,), (2,), (3,), (2, 2))


def random_graph(kind: str, rng: np.random.Generator) -> FactorGraph | RegionGraph:
    """A small graph of a kind: with loops, or nearly always."""

    def some(n: int) -> dict[str, tuple[int, ...]]:
        return {f"x{i}": SHAPES[rng.integers(len(SHAPES))] for i in range(n)}

    if kind in ("blocks", "subsets"):  # factors inside others, variables in no factor or in one
        n = int(rng.integers(3, 8))
        least = 1 if kind == "subsets" else 2
        sizes = rng.integers(least, 4, size=2 * n - int(rng.integers(n)))
        scopes = [rng.choice(n, size, replace=False) for size in sizes]
        named = {f"f{k}": tuple(f"x{i}" for i in scope) for k, scope in enumerate(scopes)}
        return FactorGraph.from_scopes(named, some(n))
    if kind in ("tiles", "periodic"):
        dims = int(rng.integers(1, 3))
        sizes = rng.integers(3, 8 if dims == 1 else 6, size=dims)
        windows = [int(rng.integers(2, size + 1)) for size in sizes]
        overlaps = [int(rng.integers(window)) for window in windows]
        around = [kind == "periodic" and bool(rng.integers(2)) for _ in sizes[1:]]
        wraps = [*around, kind == "periodic"]
        return tiles(sizes.tolist(), windows, overlaps, wraps, remainder="shift")
    if kind == "torus":
        return graphs.torus(3, int(rng.integers(3, 5)), shape=SHAPES[rng.integers(3)])
    if kind == "complete":
        n = int(rng.integers(3, 6))
        scopes = {f"f{i}{j}": (f"x{i}", f"x{j}") for i in range(n) for j in range(i)}
        return FactorGraph.from_scopes(scopes, some(n))
    if kind == "cube":
        return graphs.nested_cubemap(2) if rng.integers(4) else graphs.cubemap(2)
    if kind == "nested":
        size = int(rng.integers(3, 5))
        ring = graphs.cycle(int(rng.integers(3, 6)), shape=(size,))
        inner = {name: graphs.cycle(size) for name in ring.variables if rng.integers(2)}
        return ring.nest(inner)
    n = int(rng.integers(4, 9))
    pieces = [rng.choice(n, rng.integers(1, 5), replace=False).tolist() for _ in range(n)]
    pieces += [[e] for e in range(n) if not any(e in piece for piece in pieces)]
    arrays = {f"piece {k}": piece for k, piece in enumerate(pieces)}
    return cluster_variation(arrays, event_shape=(n,))


def covariance_of(
    graph: FactorGraph | RegionGraph, correlation: float, rng: np.random.Generator
) -> Floats:
    """A random covariance Markov to a graph, of variance 1 and a given largest correlation.

    The precision is a sum over outer regions of random matrices, or of smooth ones that see only
    differences of elements, plus a share of the identity.
    """
    n, smooth = graph.regions.n_elements, bool(rng.integers(2))
    precision = np.zeros((n, n))
    for group in graph.regions.groups:
        for index in group.flat().numpy()[group.outer]:
            root = rng.normal(size=(len(index), len(index)))
            root = (root - root.mean(axis=0))[:, 1:] if smooth else root
            precision[np.ix_(index, index)] += root @ root.T if smooth else root + root.T
    precision -= min(np.linalg.eigvalsh(precision)[0], 0) * np.eye(n)

    def correlations(share: float) -> Floats:
        found = np.linalg.inv(precision + share * np.eye(n))
        found = (found + found.T) / 2
        return found / np.sqrt(np.outer(found.diagonal(), found.diagonal()))

    low, high = -9.0, 4.0
    for _ in range(25):
        middle = (low + high) / 2
        strong = np.abs(correlations(10**middle) - np.eye(n)).max() > correlation
        low, high = (middle, high) if strong else (low, middle)
    return correlations(10**high)


def random_gaussian(
    graph: FactorGraph | RegionGraph, rng: np.random.Generator, correlation: float, decades: float
) -> Gaussian:
    """Such a Gaussian, with a unit of every element's own, and offsets of up to 100 deviations."""
    covariance = covariance_of(graph, correlation, rng)
    units = 10 ** rng.uniform(-decades, decades, len(covariance))
    mean = units * rng.normal(size=len(units)) * 10 ** rng.uniform(0, 2)
    scaled = torch.from_numpy(units[:, None] * covariance * units)
    return Gaussian(torch.from_numpy(mean).reshape(graph.regions.event_shape), scaled)


def exact_score(q: Gaussian, u: Tensor, sigma: Tensor) -> Tensor:
    """-(Σ + σ² I)⁻¹ (u - m), with every element in its own unit: `[B, N]`."""
    noisy = q.covariance + sigma[:, None, None] ** 2 * torch.eye(len(q.covariance)).double()
    unit = noisy.diagonal(dim1=1, dim2=2).sqrt()
    away = (u.reshape(len(u), -1) - q.mean.reshape(-1)) / unit
    scaled = noisy / (unit[:, :, None] * unit[:, None])
    return -torch.linalg.solve(scaled, away[:, :, None])[:, :, 0] / unit


def errors(
    graph: FactorGraph | RegionGraph, q: Gaussian, scores: Mapping[Hashable, Score] | None = None
) -> tuple[float, float]:
    """The largest error of the composed score relative to the exact one, in float64 and float32."""
    rule = Consistent(gaussian.node_covariances(graph, q))
    joint = compose(graph, scores or gaussian.node_scores(graph, q), rule=rule)
    states = [q.noised(sigma).sample(1, generator=k) for k, sigma in enumerate(SIGMAS.tolist())]
    u, found = torch.cat(states), []
    for dtype in (torch.float64, torch.float32):
        seen, levels = u.to(dtype), SIGMAS.to(dtype)
        exact = exact_score(q, seen.double(), levels.double())
        run = joint.remembering() if dtype == torch.float32 else joint
        gap = run(seen, levels).double().reshape(exact.shape) - exact
        found.append(float((gap.abs().amax(dim=1) / exact.abs().amax(dim=1)).max()))
    return found[0], found[1]


@pytest.mark.parametrize("kind", KINDS)
def test_composition_is_the_exact_score_of_gaussians_markov_to_random_graphs(kind: str) -> None:
    """306 graphs with loops, correlations up to 0.99, σ from 0.001 to 80: 1e-8; 1e-4 in float32."""
    seeds, n_loops = itertools.count(1000 * KINDS.index(kind)), 0
    while n_loops < 34:
        seed = next(seeds)
        rng = np.random.default_rng(seed)
        graph = random_graph(kind, rng)
        if on_junction_tree(graph.regions):
            continue
        n_loops += 1
        q = random_gaussian(graph, rng, correlation=0.99, decades=0.5)
        double, single = errors(graph, q)
        assert double < 1e-8, (seed, graph)
        assert single < 1e-4, (seed, graph)


def own_score(q: Gaussian, index: Tensor) -> Score:
    """The exact score of a region, which does not lose the elements of small units."""
    flat = index.reshape(-1)
    part = Gaussian(q.mean.reshape(-1)[flat], q.covariance[flat[:, None], flat])
    return lambda x, sigma: exact_score(part, x.double(), sigma.double()).reshape(x.shape).to(x)


@pytest.mark.parametrize("kind", ["blocks", "torus", "variation"])
def test_it_holds_for_strong_correlations_and_units_that_differ(kind: str) -> None:
    """Correlations of up to 0.999, or units that differ by a factor of up to 10^4."""
    for seed in range(8):
        rng = np.random.default_rng(1000 + seed)
        graph = random_graph(kind, rng)
        decades = 2.0 * (seed % 2)
        q = random_gaussian(graph, rng, 0.99 if decades else 0.999, decades)
        scores = {name: own_score(q, graph.regions.elements(name)) for name in graph.regions.names}
        assert errors(graph, q, scores)[0] < 1e-8, (seed, graph)


def alone_and_together(n: int = 6) -> dict[str, FactorGraph | RegionGraph]:
    """Graphs whose elements share no region, or all of them, in part or wholly."""
    ring = {f"f{i}": (f"x{i}", f"x{(i + 1) % 4}") for i in range(4)}
    singles = {f"x{i}": () if i else (2,) for i in range(n)}
    return {
        "one region": FactorGraph.from_scopes({"all": ("a", "b")}, {"a": (2,), "b": ()}),
        "no factor": FactorGraph.from_scopes({}, {"a": (2,), "b": ()}),
        "ring beside single variables": FactorGraph.from_scopes(ring, singles),
        "two rings": FactorGraph.from_scopes(
            {**ring, **{f"g{i}": (f"y{i}", f"y{(i + 1) % 5}") for i in range(5)}},
            {f"x{i}": (2,) for i in range(4)} | {f"y{i}": () for i in range(5)},
        ),
        "equal and nested factors": FactorGraph.from_scopes(
            {**ring, "again": ("x1", "x0"), "within": ("x2",), "pair": ("x2", "x3")}, singles
        ),
        "windows that meet themselves": tiles((5,), (4,), (2,), (True,), remainder="shift"),
        "regions of weight 0": cluster_variation([[0, 1, 2], [2, 3, 4], [4, 5, 0], [1, 2]]),
    }


@pytest.mark.parametrize("name", alone_and_together())
def test_it_holds_for_graphs_that_are_not_connected_or_repeat_themselves(name: str) -> None:
    graph = alone_and_together()[name]
    for seed in range(3):
        q = random_gaussian(graph, np.random.default_rng(seed), correlation=0.95, decades=0.5)
        found = completed(graph.regions, Dense(gaussian.node_covariances(graph, q)))
        precision = torch.linalg.inv(q.covariance)
        gap = (found.precision - precision).abs().max() / precision.abs().max()
        assert float(gap) < 1e-9
        assert errors(graph, q)[0] < 1e-8


@pytest.mark.parametrize("given", ["by name", "of the state", "fitted", "with the covariances"])
def test_a_mean_of_1e4_standard_deviations_may_be_given_in_any_way(given: str) -> None:
    graph = graphs.torus(3, 4)
    q = random_gaussian(graph, np.random.default_rng(5), correlation=0.9, decades=0.0)
    q = Gaussian(torch.full((12,), 1e4, dtype=torch.float64), q.covariance)
    covariances, mean = gaussian.node_covariances(graph, q), None
    if given == "by name":
        mean = {name: q.mean[graph.regions.elements(name)] for name in graph.factors}
        covariances = dict(covariances)
    elif given == "of the state":
        covariances, mean = dict(covariances), q.mean
    elif given == "fitted":  # exact moments, by states in pairs on both sides of the mean
        root = torch.linalg.cholesky(q.covariance) * len(q.covariance) ** 0.5
        data = torch.cat([q.mean + root.T, q.mean - root.T])
        covariances = fit_covariances(graph, data, ridge=0.0)
    joint = compose(graph, gaussian.node_scores(graph, q), rule=Consistent(covariances, mean=mean))
    for sigma in (1e-3, 1.0, 80.0):
        u = q.noised(sigma).sample(3, generator=1)
        exact = exact_score(q, u, torch.full((3,), sigma, dtype=torch.float64))
        gap = (joint(u, sigma) - exact).abs().max() / exact.abs().max()
        assert float(gap) < 1e-7


def test_a_mean_that_is_not_given_is_measured_under_the_condition() -> None:
    """An offset of 1e4 deviations per condition; a wrong mean costs score on loops."""
    graph = graphs.cycle(8)
    eye = torch.eye(8, dtype=torch.float64)
    q = Gaussian(eye[0], torch.linalg.inv(2.02 * eye - eye.roll(1, 0) - eye.roll(-1, 0)))
    scores = gaussian.node_scores(graph, q)

    def moved(score: Score) -> Score:
        def conditional(x: Tensor, sigma: Tensor, away: Tensor) -> Tensor:
            return score(x - away.reshape(-1, *[1] * (x.ndim - 1)), sigma)

        return conditional

    covariances = dict(gaussian.node_covariances(graph, q))
    joint = compose(graph, {n: moved(s) for n, s in scores.items()}, rule=Consistent(covariances))
    away = torch.tensor([0.0, 100.0, 1e4], dtype=torch.float64)
    for sigma in (0.1, 1.0, 10.0):
        u = q.noised(sigma).sample(3, generator=2)
        exact = exact_score(q, u, torch.full((3,), sigma, dtype=torch.float64))
        found = joint(u + away[:, None], sigma, away=away)
        assert float((found - exact).abs().max() / exact.abs().max()) < 1e-5
    fixed = compose(graph, scores, rule=Consistent(covariances, mean=q.mean + 1.0))
    exact = exact_score(q, u, torch.full((3,), sigma, dtype=torch.float64))
    assert float((fixed(u, sigma) - exact).abs().max() / exact.abs().max()) > 1e-3


def test_fixed_points_on_a_tree_are_not_unique_and_a_run_converges_to_one() -> None:
    """x₂ in {-2, 0, 2}, x₁ = x₃ = |x₂|, at σ = 1: the exact denoised x₂, 0, is fixed but unstable.

    Runs from states that differ by 0.001 end at about ±0.8. What is promised is a fixed point,
    where all local denoisers agree: not that it is unique, nor that it is the true mean.
    """
    modes = torch.tensor([[2.0, -2.0, 2.0], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]).double()
    parts = [Gaussian(mode, 0.01 * torch.eye(3, dtype=torch.float64)) for mode in modes]
    q = GaussianMixture(torch.tensor([0.25, 0.5, 0.25]).double(), parts)
    graph, u = graphs.chain(3), torch.full((3, 3), 1.7, dtype=torch.float64)
    u[:, 1] = torch.tensor([0.0, 1e-3, -1e-3])
    rule = Consistent(gaussian.node_covariances(graph, q), trust=1e3)
    run = compose(graph, gaussian.node_scores(graph, q), rule=rule).remembering()
    for _ in range(150):
        score = run(u, 1.0)
    messages = run.memory["messages"]
    torch.testing.assert_close(run(u, 1.0), score, rtol=0, atol=1e-6)
    torch.testing.assert_close(run.memory["messages"], messages, rtol=0, atol=1e-6)
    middle = (u + score)[:, 1]
    torch.testing.assert_close(middle, torch.tensor([0.0, 0.8, -0.8]).double(), rtol=0, atol=0.05)
    assert float((u + q(u, 1.0))[:, 1].abs().max()) < 0.01
