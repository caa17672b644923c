"""Random graphs, and Gaussians that are Markov to them."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import FactorGraph

SHAPES = [(), (1,), (2,), (3,), (2, 2)]


@st.composite
def trees(draw: st.DrawFn, max_factors: int = 7) -> FactorGraph:
    """A Berge-acyclic graph, possibly disconnected, with leaves, isolated nodes and blocks."""
    n_isolated = draw(st.integers(0, 2))
    names = [f"v{i}" for i in range(n_isolated)]
    scopes = {}
    for f in range(draw(st.integers(0, max_factors))):
        new = [f"v{len(names) + i}" for i in range(draw(st.integers(1, 3)))]
        anchor = draw(st.sampled_from([*names, None])) if names else None
        scope = new if anchor is None else [*new, anchor]
        scopes[f"f{f}"] = tuple(draw(st.permutations(scope)))
        names += new
    declared = draw(st.permutations(names))
    return FactorGraph.from_scopes(scopes, {v: draw(st.sampled_from(SHAPES)) for v in declared})


@st.composite
def graphs(draw: st.DrawFn, max_variables: int = 6, max_factors: int = 6) -> FactorGraph:
    """Any factor graph: loops, duplicate and subset scopes, leaves, isolated variables."""
    variables = [f"v{i}" for i in range(draw(st.integers(1, max_variables)))]
    scope = st.lists(st.sampled_from(variables), min_size=1, max_size=4, unique=True)
    scopes = draw(st.lists(scope, max_size=max_factors))
    shapes = {v: draw(st.sampled_from(SHAPES)) for v in variables}
    return FactorGraph.from_scopes({f"f{i}": tuple(s) for i, s in enumerate(scopes)}, shapes)


def markov_gaussian(graph: FactorGraph, seed: int) -> Gaussian:
    """A random Gaussian whose density factorises over the graph's factors."""
    rng = np.random.default_rng(seed)
    precision = np.eye(graph.n_elements)
    regions = graph.regions
    for factor in graph.factors:
        index = regions.elements(factor).reshape(-1).numpy()
        root = rng.normal(size=(len(index), len(index)))
        precision[np.ix_(index, index)] += root @ root.T
    covariance = torch.linalg.inv(torch.from_numpy(precision))
    mean = torch.from_numpy(rng.normal(size=graph.n_elements))
    return Gaussian(mean, (covariance + covariance.T) / 2)


def ar1(n: int, rho: float, dtype: torch.dtype = torch.float64) -> Gaussian:
    """The stationary AR(1) chain of unit variance."""
    place = torch.arange(n)
    covariance = (rho ** (place[:, None] - place).abs().double()).to(dtype)
    return Gaussian(torch.zeros(n, dtype=dtype), covariance)


def relative(a: Tensor, b: Tensor) -> float:
    """Largest deviation, relative to the largest entry of b."""
    return ((a - b).abs().max() / b.abs().max()).item()
