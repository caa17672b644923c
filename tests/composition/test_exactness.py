"""Exactness: under `Consistent`, the score of Gaussians is exact on any graph, at every σ."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import Consistent, compose, gaussian, graphs
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import FactorGraph, RegionGraph, cluster_variation, tiles
from pgmdiff.linalg import Floats

SIGMAS = torch.tensor([1e-3, 1e-2, 0.1, 1.0, 10.0, 80.0], dtype=torch.float64)
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
        sizes = rng.integers(3, 9 if dims == 1 else 7, size=dims)
        windows = [int(rng.integers(2, size + 1)) for size in sizes]
        overlaps = [int(rng.integers(window)) for window in windows]
        around = [kind == "periodic" and bool(rng.integers(2)) for _ in sizes[1:]]
        wraps = [*around, kind == "periodic"]
        return tiles(sizes.tolist(), windows, overlaps, wraps, remainder="shift")
    if kind == "torus":
        shape = SHAPES[rng.integers(3)]
        return graphs.torus(int(rng.integers(3, 5)), int(rng.integers(3, 5)), shape=shape)
    if kind == "complete":
        n = int(rng.integers(3, 6))
        scopes = {f"f{i}{j}": (f"x{i}", f"x{j}") for i in range(n) for j in range(i)}
        return FactorGraph.from_scopes(scopes, some(n))
    if kind == "cube":
        return graphs.nested_cubemap(2) if rng.integers(2) else graphs.cubemap(2)
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
    for _ in range(40):
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


def errors(graph: FactorGraph | RegionGraph, q: Gaussian) -> tuple[float, float]:
    """The largest error of the composed score relative to the exact one, in float64 and float32."""
    rule = Consistent(gaussian.node_covariances(graph, q))
    joint = compose(graph, gaussian.node_scores(graph, q), rule=rule)
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
    """300 graphs, correlations of up to 0.99, σ from 0.001 to 80: 1e-8, and 1e-4 in float32."""
    for seed in range(KINDS.index(kind), 300, len(KINDS)):
        rng = np.random.default_rng(seed)
        graph = random_graph(kind, rng)
        q = random_gaussian(graph, rng, correlation=0.99, decades=0.5)
        double, single = errors(graph, q)
        assert double < 1e-8, (seed, graph)
        assert single < 1e-4, (seed, graph)
