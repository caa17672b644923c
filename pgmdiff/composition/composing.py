"""`compose`: a graph, the scores of its nodes and a rule make one joint score."""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pgmdiff.composition.joint import Joint
from pgmdiff.composition.plan import Scores, plan
from pgmdiff.composition.rules import Marginal, Rule
from pgmdiff.errors import GraphError, ScoreError
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.regions import Condition, RegionGraph
from pgmdiff.graphs.report import check_counts

__all__ = ["compose"]


def compose(
    graph: FactorGraph | RegionGraph,
    scores: Scores,
    *,
    rule: Rule | None = None,
    conditions: Mapping[Any, Condition] | None = None,
    null_condition: Condition | None = None,
    max_batch: int | None = None,
    check_finite: bool = True,
    checkpoint: bool = False,
) -> Joint:
    """Composes the scores of nodes into the score of the whole.

        s(u, σ) = Σ_r c_r A_rᵀ s_r(A_r u, σ)          under the default rule

    Args:
        graph: a factor graph (with its Bethe counts) or a region graph.
        scores: one callable `score(x, sigma, **condition)` for all nodes; or a mapping from model
            id to callable, where a node's model id is its name unless the graph says otherwise;
            or scores per region, such as `gaussian.node_scores`. See `scores` for adapters.
        rule: `Marginal()` (the paper's rule and the default), `Average()`, or, with covariances of
            the regions, `Posterior(covariances)` or `Evidence(covariances)`.
        conditions: node name to keyword arguments of its score, pytrees of tensors without a
            batch axis; they add to the graph's own and override them.
        null_condition: what the nodes that are not pieces (variables, overlaps) receive, such as
            the embedding of an empty prompt, unless they have a condition of their own: in place
            of conditions given at call time, and beside pieces that have conditions here.
        max_batch: most rows of one model call; None if there is no limit. It bounds the memory;
            which size is fastest depends on the machine and the model.
        check_finite: whether each call checks its result for NaN and infinity (one reduction,
            which on a GPU waits for the result), and then finds the guilty node.
        checkpoint: whether, under autograd, model calls are repeated in the backward pass instead
            of being stored: memory of one call at a time, for one more evaluation of each.

    Returns:
        The joint score, itself a score callable.

    Raises:
        GraphError: the counting numbers are invalid, or a condition names no node.
        ScoreError: a node that must be evaluated has no score.

    Source: Zhang et al., "DiffCollage: parallel generation of large content with diffusion
    models", 2023, Eqs. 5-7.
    """
    regions = graph.regions if isinstance(graph, FactorGraph) else graph
    if not isinstance(regions, RegionGraph):
        raise GraphError(
            f"compose: expected a FactorGraph or a RegionGraph, got {type(graph).__name__}. "
            "Convert a networkx graph with FactorGraph.from_networkx."
        )
    rule = Marginal() if rule is None else rule
    if not isinstance(rule, Rule):
        raise ScoreError(
            f"compose: expected a rule such as Marginal() or Average(), got {rule!r}. "
            "Make an instance of it, such as Posterior(covariances)."
        )
    if max_batch is not None and not (isinstance(max_batch, int | np.integer) and max_batch >= 1):
        raise ScoreError(
            f"compose: expected max_batch, an integer of at least 1 or None, got {max_batch!r}."
        )
    check_counts(regions)
    regions = replace(regions, conditions=_merged(regions.conditions, conditions or {}))
    with torch.inference_mode(False):  # what is computed here must serve autograd later
        rule = rule.bind(regions)
        batches = tuple(
            plan(regions, scores, rule.weights(regions), rule.precisions, null_condition or {})
        )
    return Joint(graph, regions, rule, batches, max_batch, check_finite, checkpoint)


def _merged(
    own: Mapping[Any, Condition], given: Mapping[Any, Condition]
) -> dict[Hashable, Condition]:
    """Per node, the keywords given on top of the graph's own."""
    both = {
        name: {**own[name], **given[name]}
        for name in own.keys() & given.keys()
        if isinstance(given[name], Mapping)
    }
    return {**own, **given, **both}
