"""Samples of nodes by themselves, for covariances where there is no data."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgmdiff.composition.composing import compose, merged
from pgmdiff.composition.plan import RegionScores, Scores
from pgmdiff.errors import GraphError
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.graphs.groups import IndexGroup
from pgmdiff.graphs.regions import Condition, RegionGraph, condition_key
from pgmdiff.noise import Generator
from pgmdiff.samplers import Solver, sample
from pgmdiff.samplers.start import mean_of

__all__ = ["node_samples"]


def node_samples(
    graph: GraphLike,
    scores: Scores,
    n: int,
    sigmas: Sequence[float],
    *,
    conditions: Mapping[Any, Condition] | None = None,
    mean: Tensor | float = 0.0,
    solver: Solver | None = None,
    generator: Generator = None,
    max_batch: int | None = None,
    progress: bool = True,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> dict[Hashable, Tensor]:
    """Draws samples of every outer region from its own model alone, for `fit_covariances`.

        fit_covariances(graph, node_samples(graph, scores, 1000, sigmas))

    Regions that share a model, a shape and a condition share their samples. The cost is n runs of
    every distinct one: n times the evaluations of the schedule and solver. An estimated variance
    then has the relative standard error (2 / n)^½ (4.5 % for 1,000), a correlation ρ the error
    (1 - ρ²) / n^½, for Gaussian data, besides what the models and the solver get wrong, which more
    samples do not reduce. Latents have the units in which scores are called.

    Args:
        graph, scores, conditions, max_batch: see `compose`. Conditions are by node, not fields.
        n: the number of samples of each.
        mean: that of the whole, as for `sample`. Regions that share their samples have that of the
            first.
        sigmas, solver, generator, progress, dtype, device: see `sample`.

    Returns:
        Maps the name of every outer region to `[n, *shape]`.

    Raises:
        GraphError, ScoreError, ShapeError: see `compose` and `sample`.
    """
    regions = graph_of(graph, "node_samples").regions
    regions = replace(regions, conditions=merged(regions.conditions, conditions or {}))
    own = isinstance(scores, RegionScores)
    if isinstance(scores, RegionScores):  # bound to the elements of this graph
        if not isinstance(scores, Mapping):
            raise GraphError(
                f"node_samples: expected scores that can be called alone, got "
                f"{type(scores).__name__}. Give them by region's name."
            )
        scores = dict(scores)
    kinds: dict[Hashable, IndexGroup] = {}
    chosen, total = dict[Hashable, Hashable](), 0
    theirs: dict[Hashable, Condition] = {}
    whole = mean_of("node_samples", mean, regions.event_shape, dtype, device).flatten()
    means = list[Tensor]()
    for group in regions.groups:
        shared = None if own else group.model
        for row in np.flatnonzero(group.outer).tolist():
            name = group.name(row)
            condition = regions.conditions.get(name, {})
            model = name if shared is None else shared
            chosen[name] = key = model, group.shape, condition_key(condition)
            if key in kinds:
                continue
            size, one = torch.Size(group.shape).numel(), np.ones(1, np.int64)
            index = torch.arange(total, total + size).reshape(1, *group.shape)
            means.append(whole[regions.elements(name).reshape(-1)])
            kinds[key] = IndexGroup(index, one, [name], one.astype(bool), shared)
            theirs, total = theirs | ({name: condition} if condition else {}), total + size
    alone = RegionGraph((total,), tuple(kinds.values()), conditions=theirs)
    drawn = sample(
        compose(alone, scores, max_batch=max_batch),
        sigmas,
        shape=(n, total),
        mean=torch.cat(means),
        solver=solver,
        generator=generator,
        progress=progress,
        dtype=dtype,
        device=device,
    )
    parts = {key: drawn[:, g.index.reshape(-1)].reshape(n, *g.shape) for key, g in kinds.items()}
    return {name: parts[key] for name, key in chosen.items()}
