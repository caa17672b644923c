"""Setting up `Posterior` on large graphs with loops, whose completion is that of neighbourhoods.

Windows of an open field of correlation e^(-d/2) at distance d share their covariances; in a random
network of mean degree 3 every pair of neighbours has a correlation of its own, ±0.3 to 0.45.
"""

import resource
import time
from math import isqrt
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from pgmdiff.composition import Posterior, compose
from pgmdiff.graphs import FactorGraph, RegionGraph, tiles
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.precision import Covariances

__all__ = ["CASES", "SIZES", "measure"]

SIZES = (10_000, 100_000)
CASES = ("windows of 2 × 2, overlap 1", "windows of 4 × 4, overlap 2", "random network")


class Field(Covariances):
    """Those of windows of the field."""

    def of(self, group: RegionGroup) -> Tensor:
        places = torch.from_numpy(np.indices(group.shape)).flatten(1).double().mT
        return torch.exp(-torch.cdist(places, places) / 2)[None]


class Network(Covariances):
    """Those of pairs, `[n, 2, 2]`; variables have unit variance."""

    def __init__(self, correlations: Tensor) -> None:
        self.pairs = torch.eye(2, dtype=torch.float64).repeat(len(correlations), 1, 1)
        self.pairs[:, 0, 1] = self.pairs[:, 1, 0] = correlations

    def of(self, group: RegionGroup) -> Tensor:
        if group.shape != (2,):
            return torch.ones(1, 1, 1, dtype=torch.float64)
        return self.pairs[[int(str(name)[1:]) - 1 for name in group.names]]


def measure(case: tuple[str, int]) -> dict[str, Any]:
    """Seconds, memory and the residual; it is to run in a process of its own."""
    kind, n = case
    graph: FactorGraph | RegionGraph
    given: Covariances = Field()
    if kind.startswith("windows"):
        size = int(kind[len("windows of ")])
        side = isqrt(n) // 2 * 2
        graph, n = tiles((side, side), (size, size), (size // 2, size // 2)), side**2
    else:
        edges = np.array(nx.gnm_random_graph(n, 3 * n // 2, seed=0).edges)
        graph, random = FactorGraph.from_arrays(edges, n), np.random.default_rng(0)
        signs = random.choice([-1.0, 1.0], len(edges))
        given = Network(torch.from_numpy(signs * random.uniform(0.3, 0.45, len(edges))))
    before, wall, cpu = _peak_megabytes(), time.perf_counter(), time.process_time()
    rule = Posterior(given, mean=torch.zeros(graph.regions.event_shape))
    joint = compose(graph, lambda x, sigma: -x, rule=rule)
    found: Any = joint.rule
    return {
        "kind": kind, "n": n, "patches": found.loops.completion.patches,
        "hops": found.loops.completion.hops, "residual": found.loops.completion.residual,
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "megabytes": round(_peak_megabytes() - before),
    }  # fmt: skip


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
