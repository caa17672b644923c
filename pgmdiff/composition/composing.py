"""`compose`: a graph, the scores of its nodes and a rule make one joint score."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pgmdiff.composition.batching import MaxBatch
from pgmdiff.composition.fields import Field
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.nodewise import PerNode
from pgmdiff.composition.plan import AT_CALLS, Batch, RegionScores, Scores, plan
from pgmdiff.composition.rules import Average, Marginal, Rule
from pgmdiff.errors import GraphError, ScoreError, nearest, warn
from pgmdiff.graphs.factor_graph import FactorGraph, GraphLike, graph_of
from pgmdiff.graphs.names import check_mapping
from pgmdiff.graphs.regions import Condition, RegionGraph
from pgmdiff.graphs.report import check_counts, conflict
from pgmdiff.scores.walls import check_wrapped, train_mode_layers, train_mode_text
from pgmdiff.text import counted

__all__ = ["compose"]


def compose(
    graph: GraphLike,
    scores: Scores,
    *,
    rule: Rule | None = None,
    conditions: Mapping[Any, Condition | Field] | None = None,
    null_condition: Condition | None = None,
    max_batch: MaxBatch = None,
    check_finite: bool = True,
    checkpoint: bool = False,
) -> Joint:
    """Composes the scores of nodes into the score of the whole.

        s(u, σ) = Σ_r c_r A_rᵀ s_r(A_r u, σ)          under the default rule

    Args:
        graph: a factor graph (with its Bethe counts), which may be networkx's, or a region graph.
        scores: one callable `score(x, sigma, **condition)` for all nodes; or a mapping from model
            id to callable, where a node's model id is its name unless the graph says otherwise;
            or scores per region, such as `gaussian.node_scores`. See `scores` for adapters.
        rule: `Marginal()` (DiffCollage's, the default), `Average()`, or, with covariances of
            the regions, `Consistent(covariances)` or `Posterior(covariances)`.
        conditions: node name to keyword arguments of its score, pytrees of tensors without a
            batch axis; they add to the graph's own and override them. A `field` by its keyword,
            `{"low": field(t)}`, reaches all nodes but those that receive this keyword otherwise. A
            piece without any beside others of its model is warned of when the joint is called.
        null_condition: what the nodes that are not pieces (variables, overlaps) receive, such as
            the embedding of an empty prompt, unless they have a condition of their own: in place
            of conditions given at call time, and beside pieces that have conditions here. Leave it
            out where the call gives all pieces one condition: overlaps share it. A network must
            have been trained with it (`null_condition=` of `training.fit`), which is not seen.
        max_batch: most rows of one model call; None if there is no limit. It bounds the memory;
            which size is fastest depends on the machine and the model. "auto" measures it in the
            first call, which costs some calls more, once; where memory is too small for a call,
            it is halved, with a warning. Results depend on it by rounding only (which can choose
            between the fixed points of `Consistent`, see there).
        check_finite: whether each call checks its result for NaN and infinity (one reduction,
            which on a GPU waits for the result), and then finds the guilty node.
        checkpoint: whether, under autograd, model calls are repeated in the backward pass instead
            of being stored: memory of one call at a time, for one more evaluation of each.

    Returns:
        The joint score, itself a score callable.

    Raises:
        GraphError: it is no graph, its counting numbers are invalid, or a condition names no node,
            or one that is nested.
        ScoreError: a node that must be evaluated has no score. (Those of nodes that the graph does
            not have may be among the scores: they may serve other graphs.)
        ShapeError: a field does not fit the state.

    Source: Zhang et al., "DiffCollage: parallel generation of large content with diffusion
    models", 2023, Eqs. 5-7.
    """
    graph = graph_of(graph, "compose")
    regions = graph.regions
    rule = Marginal() if rule is None else rule
    if not isinstance(rule, Rule):
        raise ScoreError(
            f"compose: expected a rule such as Marginal() or Average(), got {rule!r}. "
            "Give one, such as Consistent(covariances)."
        )
    number = isinstance(max_batch, int | np.integer) and max_batch >= 1
    if not (number or max_batch in (None, "auto")):
        raise ScoreError(
            "compose: expected max_batch, an integer of at least 1, 'auto' or None, got "
            f"{max_batch!r}."
        )
    check_counts(regions)
    for score in scores.values() if isinstance(scores, Mapping) else [scores]:
        check_wrapped("compose", score)
    if isinstance(scores, Mapping) and not isinstance(scores, RegionScores):
        _check_scores(regions, scores)
    conditions = {} if conditions is None else conditions
    null = {} if null_condition is None else null_condition
    for what, given in (("conditions", conditions), ("null_condition", null)):
        check_mapping("compose", what, given, "Conditions are keyword arguments.")
        for word, value in given.items():
            if isinstance(value, PerNode):
                raise ScoreError(f"compose: {what} gives {word!r} {value!r}, {AT_CALLS}")
    fields = {word: value for word, value in conditions.items() if isinstance(value, Field)}
    named = {name: each for name, each in conditions.items() if name not in fields}
    if isinstance(graph, FactorGraph):
        _check_nested(graph, regions, named)
    regions = replace(regions, conditions=merged(regions.conditions, named))
    _check_null(null, {**regions.conditions, Field: fields})
    with torch.inference_mode(False):  # what is computed here must serve autograd later
        rule = rule.bind(regions)
        batches = tuple(plan(regions, scores, rule.weights(regions), rule.precisions, null, fields))
    _warn_in_train_mode(batches)
    _warn_of_equal_elements(regions, rule)
    untold = _untold(batches)
    return Joint(graph, regions, rule, batches, max_batch, check_finite, checkpoint, untold)


def _warn_of_equal_elements(graph: RegionGraph, rule: Rule) -> None:
    """Warns where a rule without covariances adds up scores of one unknown under conditions."""
    if type(rule) in (Marginal, Average) and (both := conflict(graph)):
        warn(
            f"compose: regions {both[0]!r} and {both[1]!r} hold the same elements under different "
            f"conditions, as posteriors of one unknown do. Under {rule!r} they are composed "
            "exactly at σ = 0 only: samples are the more wrong the more regions there are, or "
            "explode. Use Posterior or Consistent with the covariance of each."
        )


def _check_scores(graph: RegionGraph, scores: Mapping[Any, Any]) -> None:
    """Raises `ScoreError` for a score that would never be called: misspelt, or not of a model id.

    Scores of other graphs' models may be among those given.
    """
    models = dict.fromkeys(group.model for group in graph.groups if group.model is not None)
    unknown = [key for key in scores if key not in models]
    named = {name: g.model for g in graph.groups for name in g.names} if unknown else {}
    own = (name for name, model in named.items() if model is None)
    missing = [key for key in (*models, *own) if key not in scores]
    for key in unknown:
        if named.get(key) is not None:
            problem = f"whose model id is {named[key]!r}. Give the score of that, or change it."
        elif key not in named and (hint := nearest(key, missing)):
            problem = f"which is no model id of this graph.{hint}"
        else:
            continue
        raise ScoreError(f"compose: a score is given for {key!r}, {problem}")


def _check_nested(graph: FactorGraph, regions: RegionGraph, names: Iterable[Hashable]) -> None:
    """Raises `GraphError` for the name of a nested node, which is replaced by its regions."""
    for name in (name for name in names if name in graph.nested):
        if name in regions.names:  # of a region within another nested node
            continue
        within, pieces = {*graph.nodes.elements(name).flatten().tolist()}, regions.pieces
        inner = (p for p in pieces if within >= {*regions.elements(p).flatten().tolist()})
        raise GraphError(
            f"compose: a condition is given for {name!r}, which is nested. Give conditions to its "
            f"regions (`graph.regions.names`), such as {next(inner, pieces[0])!r}."
        )


def _check_null(null: Condition, conditions: Mapping[Any, Condition]) -> None:
    """Raises `ScoreError` where a keyword of the null condition resembles another one."""
    keywords = sorted({word for condition in conditions.values() for word in condition})
    for word in null:
        if word not in keywords and (hint := nearest(word, keywords)):
            raise ScoreError(
                f"compose: null_condition gives {word!r}, but conditions do not.{hint} Use one "
                "keyword for both."
            )


def merged(own: Mapping[Any, Condition], given: Mapping[Any, Any]) -> dict[Hashable, Condition]:
    """Per node, the keywords given on top of the graph's own."""
    both = {
        name: {**own[name], **given[name]}
        for name in own.keys() & given.keys()
        if isinstance(given[name], Mapping)
    }
    return {**own, **given, **both}


def _untold(batches: Iterable[Batch]) -> str:
    """Which piece has no condition beside one of the same model that has some, or nothing."""
    pieces: dict[int, dict[bool, tuple[Hashable, list[str]]]] = {}
    for batch in batches:
        for row in np.flatnonzero(batch.group.outer)[:1].tolist():
            piece = batch.group.name(row), sorted(batch.condition)
            pieces.setdefault(id(batch.score), {}).setdefault(bool(batch.condition), piece)
    for found in pieces.values():
        if len(found) == 2:
            (bare, _), (other, words) = found[False], found[True]
            return untold_text("node", bare, other, words)
    return ""


def untold_text(what: str, bare: Hashable, other: Hashable, words: Sequence[str]) -> str:
    """Says that one has no condition beside another, which has some."""
    return f"{what} {bare!r} gets no condition, but {other!r}, of the same model, gets {words}"


def _warn_in_train_mode(batches: Iterable[Batch]) -> None:
    """Warns once of networks whose results change with each call, or with `max_batch`."""
    known: dict[int, set[str]] = {}
    nodes, layers = list[Hashable](), set[str]()
    for batch in batches:
        found = train_mode_layers(batch.score, known)
        nodes += [batch.group.name(row) for row in range(len(batch.group))] if found else []
        layers |= found
    if nodes:
        others = f" and {counted(len(nodes) - 3, 'other')}" if len(nodes) > 3 else ""
        named = f"{', '.join(map(repr, nodes[:3]))}{others}"
        warn(f"compose: the networks of {named} are {train_mode_text(layers)}")
