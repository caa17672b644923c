r"""A region graph and the scores of its regions make one joint score.

    s(u, σ) = scale · Σ_r w_r A_rᵀ s_r(A_r u, σ)

with the weights w_r of a composition rule; posterior and evidence composition sharpen the s_r by
I + σ² Σ_r⁻¹ first and solve with I + σ² P after (see `rules`).

Which model is called on which regions is resolved at construction: regions that share a model,
a shape and the structure of their condition are one *batch* of the `plan`, evaluated in as few
calls as `max_batch` allows. A call then only gathers, calls and scatters.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed_later

from pgmdiff.composition.plan import Batch, Scores, map_tensors, plan
from pgmdiff.composition.rules import Evidence, Marginal, Posterior, Rule
from pgmdiff.errors import GraphError, ScoreError, ShapeError, shape_text
from pgmdiff.graphs.atoms import connected_elements
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.groups import IndexGroup
from pgmdiff.graphs.regions import Condition, RegionGraph
from pgmdiff.graphs.report import Definiteness, Report, check_counts
from pgmdiff.precision import (
    ComposedPrecision,
    Solve,
    amplification,
    inflation,
    least_shrinkage,
    solver_of,
)
from pgmdiff.scores.adapters import Score
from pgmdiff.text import Table, brief, by_field, counted, described

__all__ = ["Joint", "Potential", "Scores", "compose"]

KEPT_CALLS = 4096
"""Most model calls of a joint call whose indices are sliced once and kept."""

LISTED = 12
"""Batches that a notebook is shown."""


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
) -> "Joint":
    """Composes the scores of nodes into the score of the whole.

    Args:
        graph: a factor graph (with its Bethe counts) or a region graph.
        scores: one callable `score(x, sigma, **condition)` for all nodes; or a mapping from model
            id to callable, where a node's model id is its name unless the graph says otherwise;
            or scores per region, such as `gaussian.node_scores`. See `scores` for adapters.
        rule: `Marginal()` (the paper's, the default), `Average()`, or, with covariances of the
            regions, `Posterior(covariances)` or `Evidence(covariances)`.
        conditions: node name to keyword arguments of its score, pytrees of tensors without a
            batch axis; they add to and override the graph's own.
        null_condition: what the nodes that are not pieces (variables, overlaps) get instead of
            the conditions given at call time, such as the embedding of an empty prompt.
        max_batch: most rows of one model call; None: no limit. It bounds the memory; which size is
            fastest depends on machine and model: `python -m benchmarks speed`.
        check_finite: whether each call checks its result for NaN and infinity (one reduction; on
            a GPU it waits for the result), and then finds the guilty node.
        checkpoint: whether, under autograd, model calls are made again in the backward pass instead
            of being remembered: memory of one call at a time, for one more evaluation of each.

    Returns:
        The joint score, itself a score callable.

    Raises:
        GraphError: the counting numbers are invalid, or a condition names no node.
        ScoreError: a node that must be evaluated has no score.

    Source: Zhang et al., "DiffCollage: parallel generation of large content with diffusion
    models", 2023, Eqs. 5-7.
    """
    rule = Marginal() if rule is None else rule
    regions = graph.regions if isinstance(graph, FactorGraph) else graph
    if not isinstance(regions, RegionGraph):
        raise GraphError(
            f"compose: expected a FactorGraph or a RegionGraph, got {type(graph).__name__}. "
            "Convert a networkx graph with FactorGraph.from_networkx."
        )
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
    scale = rule.scale(regions)
    with torch.inference_mode(False):  # what is made here must serve autograd later
        precision = rule.precision(regions) if isinstance(rule, Posterior) else None
        batches = tuple(plan(regions, scores, rule, null_condition or {}, precision))
        solve = None if precision is None else solver_of(precision)
    return Joint(
        graph=regions,
        rule=rule,
        batches=batches,
        scale=None if scale is None else torch.from_numpy(scale),
        max_batch=max_batch,
        check_finite=check_finite,
        checkpoint=checkpoint,
        precision=precision,
        solve=solve,
    )


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


@dataclass(frozen=True, eq=False)
class Chunk:
    """What one model call sees: some regions of a batch, on some samples.

    Attributes:
        batch, start, stop: the regions are rows start..stop of `batch.group`.
        samples: which samples.
        index: int64 `[regions * d]`, the elements of the regions.
    """

    batch: Batch
    start: int
    stop: int
    samples: slice
    index: Tensor

    __repr__ = by_field


@dataclass(frozen=True, eq=False)
class Joint:
    """The composed score: `joint(u, sigma, **condition) -> [*batch, *event_shape]`.

    Made by `compose`. `u` has any batch shape before the graph's event shape; sigma is one number
    or has the batch shape; conditions given here start with the batch shape and reach every node
    (except where `null_condition` replaces them). Works in the state's floating dtype and on its
    device, under autograd or without.

    Attributes:
        graph: the region graph that is composed.
        rule: the composition rule.
        batches: the plan: which model is called on which regions.
        precision: P, under posterior and evidence composition.
        solve: how systems with I + σ² P are solved.
        scale: what multiplies every element of the sum; None: nothing.
        max_batch, check_finite, checkpoint: see `compose`.
    """

    graph: RegionGraph
    rule: Rule
    batches: tuple[Batch, ...]
    scale: Tensor | None
    max_batch: int | None
    check_finite: bool
    checkpoint: bool = False
    precision: ComposedPrecision | None = field(default=None, repr=False)
    solve: Solve | None = field(default=None, repr=False)
    _kept: dict[Any, tuple[Chunk, ...]] = field(default_factory=dict, repr=False)
    _placed: dict[Any, tuple[Batch, ...]] = field(default_factory=dict, repr=False)

    def __call__(self, u: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        """The composed score of `u`; see the class and `rules` for what it approximates.

        Raises:
            ShapeError: u, sigma or a condition does not fit the graph.
            ScoreError: a model returned NaN, infinity, or another shape, dtype or device.
        """
        flat, sigmas, condition = self._flatten(u, sigma, condition)
        if isinstance(self.rule, Evidence):
            total = self._evidence_gradient(flat, sigmas, condition)
        else:
            total = self._weighted_sum(flat, sigmas, condition)
        if self.check_finite and not torch.compiler.is_compiling() and not total.isfinite().all():
            self.find_guilty(flat, sigmas, condition)
        return total.reshape(u.shape)

    def validate(self) -> Report:
        """The exactness report of the graph; with λ*, and what is used, where P is composed.

        λ* takes some tens of factorisations.
        """
        report = self.graph.validate()
        if self.precision is None:
            return report
        return replace(report, definiteness=self._definiteness(self.precision))

    def _definiteness(self, precision: ComposedPrecision) -> Definiteness:
        """λ*, what is used, and what that does to variances and to errors of scores."""
        used = Definiteness(least_shrinkage(precision), precision.shrinkage, precision.jitter)
        covariance = None if self.solve is None else self.solve.inverse()
        if covariance is None or not len(covariance):
            return used
        return replace(
            used,
            inflation=inflation(precision, covariance),
            amplification=amplification(precision, covariance),
        )

    @cached_property
    def components(self) -> Tensor:
        """The connected component of every element, int64 `[*event]`: see `Potential`."""
        with torch.inference_mode(False):
            return torch.from_numpy(connected_elements(self.graph)).reshape(self.graph.event_shape)

    def denoise(self, u: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        """The composed denoiser D(u, σ) = u + σ² s(u, σ)."""
        score = self(u, sigma, **condition)
        sigma = torch.as_tensor(sigma, dtype=u.dtype, device=u.device)
        s = sigma.reshape(*sigma.shape, *[1] * len(self.graph.event_shape))
        return u + s**2 * score

    def _weighted_sum(self, u: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """The score of all rules but the evidence's: `[B, N]`."""
        # Sharpening by I + σ² Σ_r⁻¹ and the solve undo each other, up to rounding: in float64.
        wide = u.dtype if self.solve is None else torch.float64
        total = torch.zeros_like(u, dtype=wide)
        start = torch.zeros_like(u) if self.solve is not None and self.solve.uses_start else None
        for chunk, values in self.evaluate(u, sigma, condition):
            whole = len(values) == len(total)
            sharpened = _sharpened(_flat(values), chunk, sigma)
            _add_weighted(total if whole else total[chunk.samples], chunk, sharpened)
            if start is not None:  # the marginal rule's score
                _add_weighted(start[chunk.samples], chunk, _flat(values).detach())
        if self.solve is not None:
            total = self.solve(total, sigma.to(wide), start).to(u)
        return total if self.scale is None else total * self.scale.to(total)

    def _evidence_gradient(self, u: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """∇L_σ: every region twice, the second time with its vector-Jacobian product."""
        score = self._weighted_sum(u, sigma, condition)
        differentiate = torch.is_grad_enabled() and score.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            leaf = u if u.requires_grad and differentiate else u.detach().clone().requires_grad_()
            sigma, score = (t if differentiate else t.detach().clone() for t in (sigma, score))
            total = torch.zeros_like(leaf)
            for chunk, values in self.evaluate(leaf, sigma, condition):
                flat = _flat(values)
                if not flat.requires_grad:
                    raise ScoreError(
                        f"Joint: the evidence rule differentiates the score of node "
                        f"{chunk.batch.group.name(chunk.start)!r}, which does not depend on its "
                        "input for autograd. Remove torch.no_grad or detach from it."
                    )
                pull = _sharpened(_gathered(score, chunk) - flat, chunk, sigma).to(flat)
                weighted = sigma[chunk.samples, None, None] ** 2 * pull * _weights(chunk)[:, None]
                (back,) = torch.autograd.grad(
                    flat, leaf, weighted, retain_graph=differentiate, create_graph=differentiate
                )
                # Σ_r c_r A_rᵀ pull_r is 0 by the definition of the score; added, its rounding
                # errors, which σ² Σ_r⁻¹ has made large, cancel those in `back`.
                part = torch.zeros_like(total[chunk.samples])
                local = flat + pull
                _add_weighted(part, chunk, local if differentiate else local.detach())
                total = total + back
                total[chunk.samples] += part
        return total if differentiate else total.detach()

    def log_density(self, u: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        """L_σ(u) of evidence composition, in nats: `[*batch]`. Its gradient is the joint's score.

        Raises:
            ScoreError: the rule is not `Evidence`, or a piece's log-density is not known: its
                score must have a method `log_density(x, sigma, **condition) -> [batch]`.
            GraphError: log det(I + σ² P) cannot be had: too large a state, and no junction tree.
        """
        if not isinstance(self.rule, Evidence) or self.precision is None or self.solve is None:
            raise ScoreError(
                f"Joint.log_density: expected the rule Evidence, got {self.rule!r}. "
                "Other rules have none of their own."
            )
        flat, sigmas, condition = self._flatten(u, sigma, condition)
        score = self._weighted_sum(flat, sigmas, condition)
        total = self.precision.log_determinants(sigmas) - self.solve.log_determinant(sigmas)
        total = 0.5 * total.to(flat)
        for chunk, values in self.evaluate(flat, sigmas, condition):
            gap = _gathered(score, chunk) - _flat(values)
            excess = (gap * _sharpened(gap, chunk, sigmas)).sum(dim=2).to(gap)
            densities = self._call(chunk, flat, sigmas, condition, density=True)
            own = densities - 0.5 * sigmas[chunk.samples, None] ** 2 * excess
            part = torch.zeros_like(total)
            part[chunk.samples] = own @ _weights(chunk)
            total = total + part
        return total.reshape(u.shape[: u.ndim - len(self.graph.event_shape)])

    @property
    def potential(self) -> "Potential":
        """The marginal rule's score and weight rates, for `samplers.sample_weighted`."""
        return Potential(self)

    def evaluate(
        self, u: Tensor, sigma: Tensor, condition: Condition
    ) -> Iterator[tuple[Chunk, Tensor]]:
        """Every model call and its values `[samples, regions, *shape]`.

        Args:
            u: `[B, N]`.
            sigma: `[B]`.
            condition: pytrees of `[B, ...]`.
        """
        for chunk in self._kept_chunks(u):
            yield chunk, self._call(chunk, u, sigma, condition)

    def _kept_chunks(self, u: Tensor) -> Iterable[Chunk]:
        """The chunks; on small graphs, where each operation counts, they are made once."""
        batches, key = self._on(u), (u.device, u.dtype, len(u))
        calls = len(u) * sum(len(batch.group) for batch in batches)
        if calls > KEPT_CALLS or not all(isinstance(b.group, IndexGroup) for b in batches):
            return self._chunks(u)
        if key not in self._kept:
            _not_while_compiling()
            self._kept[key] = self._prepared(u)
        return self._kept[key]

    def _chunks(self, u: Tensor) -> Iterator[Chunk]:
        """Shares `max_batch` between regions and samples; one index serves all samples."""
        n_samples = len(u)
        for batch in self._on(u) if n_samples else ():
            limit = self.max_batch or n_samples * len(batch.group)
            width = min(n_samples, limit)
            height = limit // width
            for start in range(0, len(batch.group), height):
                stop = min(start + height, len(batch.group))
                index = batch.group.indices(start, stop).reshape(-1)
                for first in range(0, n_samples, width):
                    samples = slice(first, min(first + width, n_samples))
                    yield Chunk(batch, start, stop, samples, index)

    def _call(
        self,
        chunk: Chunk,
        u: Tensor,
        sigma: Tensor,
        condition: Condition,
        *,
        density: bool = False,
    ) -> Tensor:
        """Scores `[samples, regions, *shape]`, or log-densities `[samples, regions]`."""
        start, stop, samples, batch = chunk.start, chunk.stop, chunk.samples, chunk.batch
        n, regions, shape = samples.stop - samples.start, stop - start, batch.group.shape
        u, sigma = (u, sigma) if n == len(u) else (u[samples], sigma[samples])
        x = u.index_select(1, chunk.index).reshape(n * regions, *shape)
        sigmas = sigma.expand(regions) if n == 1 else sigma.repeat_interleave(regions)
        given = {
            **map_tensors(lambda t: t[samples].repeat_interleave(regions, dim=0), condition),
            **map_tensors(lambda t: _per_row(t[start:stop], n, regions), batch.condition),
        }
        function = _log_density(batch.score, chunk) if density else batch.score
        try:
            values: Tensor = self._evaluated(function, x, sigmas, given)
        except Exception as error:
            _tell_where(error, chunk, x)
            raise
        if density:
            return values.reshape(n, regions)
        _check_output(values, x, chunk, sigmas)
        return values.reshape(n, regions, *shape)

    def _evaluated(self, score: Score, x: Tensor, sigmas: Tensor, given: dict[str, Any]) -> Tensor:
        if not (self.checkpoint and torch.is_grad_enabled()):
            return score(x, sigmas, **given)
        again: Tensor = recomputed_later(score, x, sigmas, use_reentrant=False, **given)
        return again

    def _on(self, u: Tensor) -> tuple[Batch, ...]:
        key = (u.device, u.dtype)
        if key not in self._placed:
            _not_while_compiling()
            self._placed[key] = self._placed_on(*key)
        return self._placed[key]

    @torch.inference_mode(False)  # what is kept must serve autograd later
    def _placed_on(self, device: torch.device, dtype: torch.dtype) -> tuple[Batch, ...]:
        batches = tuple(batch.to(device, dtype) for batch in self.batches)
        for batch in batches:
            _ = batch.weight
        return batches

    @torch.inference_mode(False)
    def _prepared(self, u: Tensor) -> tuple[Chunk, ...]:
        return tuple(self._chunks(u))

    def _flatten(
        self, u: Tensor, sigma: Tensor | float, condition: Condition
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """State `[B, N]`, σ `[B]` and conditions `[B, ...]` of any batch shape."""
        event = self.graph.event_shape
        if not isinstance(u, Tensor):
            raise ShapeError(
                f"Joint: expected the state as a tensor, got {type(u).__name__}. Convert it with "
                "torch.as_tensor."
            )
        n_batch = u.ndim - len(event)
        if n_batch < 0 or tuple(u.shape[n_batch:]) != event or not u.is_floating_point():
            raise ShapeError(
                f"Joint: expected a floating state {shape_text('*batch', event)}, got "
                f"{tuple(u.shape)} of {u.dtype}. Reshape it, or pack a factor graph's variables "
                "with graph.pack."
            )
        batch = u.shape[:n_batch]
        sigma = torch.as_tensor(sigma, dtype=u.dtype, device=u.device)
        if sigma.ndim and sigma.shape != batch:
            raise ShapeError(
                f"Joint: expected sigma as one number or of the batch shape {tuple(batch)}, got "
                f"{tuple(sigma.shape)}."
            )

        def flat(leaf: Tensor) -> Tensor:
            if leaf.shape[:n_batch] != batch:
                raise ShapeError(
                    "Joint: conditions given at call time start with the batch shape "
                    f"{tuple(batch)}, got a tensor of {tuple(leaf.shape)}. Expand it, or give it "
                    "per node to compose(conditions=)."
                )
            return leaf.reshape(prod(batch), *leaf.shape[n_batch:])

        sigmas = sigma.expand(batch).reshape(-1)
        state = u.reshape(prod(batch), self.graph.n_elements)
        return state, sigmas, map_tensors(flat, condition)

    def find_guilty(self, u: Tensor, sigma: Tensor, condition: Condition) -> None:
        """Raises a `ScoreError` naming the node, σ and batch entry of a NaN or infinity.

        Raises:
            ScoreError: always; that the sum overflows, if every node is fine.
        """
        broken = ~u.isfinite().all(dim=1)
        if broken.any():
            entry = int(broken.nonzero()[0])
            raise ScoreError(
                f"Joint: the state itself is not finite at batch entry {entry} "
                f"(σ = {sigma[entry].item():g}). Look at the step before: too large a step, or a "
                "start that does not fit σ."
            )
        with torch.no_grad():
            for chunk, values in self.evaluate(u, sigma, condition):
                fine = values.reshape(*values.shape[:2], -1).isfinite().all(dim=2)
                if not fine.all():
                    sample, row = (~fine).nonzero()[0].tolist()
                    entry = chunk.samples.start + sample
                    raise ScoreError(
                        f"Joint: the score of node {chunk.batch.group.name(chunk.start + row)!r} "
                        f"is not finite at σ = {sigma[entry].item():g}, batch entry {entry}. "
                        "Call it alone on this input; a denoiser has no score at σ = 0."
                    )
        raise ScoreError(
            "Joint: every node's score is finite but their weighted sum overflows "
            f"{u.dtype}. Use a wider dtype or a smaller state."
        )

    def __repr__(self) -> str:
        return described(self, repr(self.graph), *(f"{k}={v}" for k, v in self._made_of.items()))

    @property
    def _made_of(self) -> dict[str, str]:
        """What the repr and notebooks say of it, apart from the graph."""
        regions = sum(len(batch.group) for batch in self.batches)
        batches = counted(len(self.batches), "batch", "batches")
        solve = "" if self.solve is None else type(self.solve).__name__
        if self.precision is not None and (self.precision.shrinkage or self.precision.jitter):
            used = f"shrinkage {self.precision.shrinkage:.3g}, jitter {self.precision.jitter:.3g}"
            solve += f" made definite by {used}"
        said = {
            "rule": brief(self.rule),
            "evaluates": f"{counted(regions, 'region')} in {batches}",
            "solve": solve,
        }
        return {key: value for key, value in said.items() if value}

    @property
    def table(self) -> Table:
        """What notebooks show: the graph, the rule, and which models are called on what."""
        rows = [("graph", repr(self.graph)), *self._made_of.items(), *_said(self.batches)]
        return Table("Joint", rows)


@dataclass(frozen=True, eq=False)
class Potential:
    """The marginal rule's score, and the rates at which Feynman-Kac weights grow.

        g_i = ½ (s_i² - Σ_{r ∋ i} c_r s_{r,i}²).

    On a junction tree the mean of Σ_i g_i under Π_r q_σ(u_r)^{c_r} is 0, for every component.

    Attributes:
        joint: under the marginal rule.

    Source: after Skreta et al., "Feynman-Kac correctors in diffusion", 2025; see `samplers.smc`.
    """

    joint: Joint

    def __repr__(self) -> str:
        return described(self, brief(self.joint.graph), f"rule={brief(self.joint.rule)}")

    def __call__(self, u: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """The score, like u, and Σ_i g_i, `[*batch]`.

        Raises:
            ScoreError: the rule is not `Marginal`.
        """
        score, rates = self.by_element(u, sigma)
        return score, rates.reshape(*self._batch(u), -1).sum(dim=-1)

    def by_component(self, u: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """The score, like u, and Σ_i g_i over each connected component, `[*batch, C]`."""
        score, rates = self.by_element(u, sigma)
        flat, labels = rates.reshape(*self._batch(u), -1), self.components.reshape(-1).to(u.device)
        total = flat.new_zeros(*self._batch(u), int(labels.max()) + 1)
        return score, total.index_add_(-1, labels, flat)

    def by_element(self, u: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """The score and the g_i, both like u.

        Raises:
            ScoreError: the joint's rule is not the marginal rule.
        """
        joint = self.joint
        if not isinstance(joint.rule, Marginal):
            raise ScoreError(f"Joint.potential: expected the rule Marginal, got {joint.rule!r}.")
        flat, sigmas, _ = joint._flatten(u, sigma, {})
        total, squares = torch.zeros_like(flat), torch.zeros_like(flat)
        for chunk, values in joint.evaluate(flat, sigmas, {}):
            for part, local in ((total, values), (squares, values**2)):
                _add_weighted(part[chunk.samples], chunk, _flat(local))
        return total.reshape(u.shape), 0.5 * (total**2 - squares).reshape(u.shape)

    @property
    def components(self) -> Tensor:
        """The connected component of every element, 0 to C - 1: int64 `[*event]`.

        Elements are linked by regions of nonzero count.
        """
        return self.joint.components

    def _batch(self, u: Tensor) -> tuple[int, ...]:
        return tuple(u.shape[: u.ndim - len(self.joint.graph.event_shape)])


def _said(batches: Sequence[Batch]) -> Iterator[tuple[str, str]]:
    """The first batches as rows of a table."""
    for batch in batches[:LISTED]:
        regions = f"{counted(len(batch.group), 'region')} of shape {batch.group.shape}"
        yield "batch", f"{regions}: {brief(batch.score)}"
    if len(batches) > LISTED:
        yield "", f"and {counted(len(batches) - LISTED, 'more batch', 'more batches')}"


def _per_row(leaf: Tensor, n_samples: int, n_regions: int) -> Tensor:
    """`[regions, ...]` repeated for every sample: `[samples * regions, ...]`."""
    expanded = leaf.expand(n_samples, n_regions, *leaf.shape[1:])
    return expanded.reshape(n_samples * n_regions, *leaf.shape[1:])


def _flat(values: Tensor) -> Tensor:
    """`[samples, regions, *shape]` as `[samples, regions, d]`."""
    return values.reshape(*values.shape[:2], -1)


def _weights(chunk: Chunk) -> Tensor:
    """Weights of a chunk's regions, `[regions]`."""
    return chunk.batch.weights[chunk.start : chunk.stop]


def _gathered(u: Tensor, chunk: Chunk) -> Tensor:
    """A_r u for the regions and samples of a chunk: `[samples, regions, d]`."""
    regions = chunk.stop - chunk.start
    rows = u[chunk.samples].index_select(1, chunk.index)
    return rows.reshape(len(rows), regions, -1)


def _sharpened(values: Tensor, chunk: Chunk, sigma: Tensor) -> Tensor:
    """(I + σ² Σ_r⁻¹) values_r, float64 `[samples, regions, d]`; without Σ_r the values."""
    precisions = chunk.batch.precisions
    if precisions is None:
        return values
    wide, levels = values.double(), sigma[chunk.samples].double()
    pulled = precisions.rows(chunk.start, chunk.stop).times(wide)
    return wide + levels[:, None, None] ** 2 * pulled


def _log_density(score: Any, chunk: Chunk) -> Any:
    """The log-density that belongs to a score, or a `ScoreError`."""
    known: Any = getattr(score, "log_density", None)
    if known is None:
        raise ScoreError(
            f"Joint.log_density: the log-density of node {chunk.batch.group.name(chunk.start)!r} "
            "is not known. Give a score that has a method log_density(x, sigma, **condition)."
        )
    return known


def _tell_where(error: Exception, chunk: Chunk, x: Tensor) -> None:
    """Adds to a model's own exception which node it came from (Python 3.11 and newer)."""
    if hasattr(error, "add_note"):
        n, first = chunk.stop - chunk.start, chunk.batch.group.name(chunk.start)
        who = f"node {first!r}" if n == 1 else f"{n} nodes, the first {first!r},"
        error.add_note(f"pgmdiff: while the score of {who} was called on x of {tuple(x.shape)}.")


def _not_while_compiling() -> None:
    """What is kept is made outside of compiled code: this breaks the graph, where it may break."""
    if torch.compiler.is_compiling():
        raise ScoreError(
            "Joint: call it once, on a state of this dtype, device and batch, before it is "
            "compiled with fullgraph=True."
        )


def _add_weighted(total: Tensor, chunk: Chunk, values: Tensor) -> None:
    """Adds w_r A_rᵀ values_r for the regions of a chunk, in place."""
    batch, flat = chunk.batch, values.reshape(len(values), -1)
    if batch.weight is not None:
        total.index_add_(1, chunk.index, flat, alpha=batch.weight)
        return
    weights = batch.weights[chunk.start : chunk.stop, None]
    weighted = flat.reshape(len(values), len(weights), -1) * weights
    total.index_add_(1, chunk.index, weighted.flatten(1))


def _check_output(values: object, x: Tensor, chunk: Chunk, sigma: Tensor) -> None:
    """Raises a `ScoreError` unless a model returned a tensor like the one it was given."""
    got = type(values).__name__
    if isinstance(values, Tensor):
        if (values.shape, values.dtype, values.device) == (x.shape, x.dtype, x.device):
            return
        got = f"shape {tuple(values.shape)}, {values.dtype} on {values.device}"
    group = chunk.batch.group
    others = f" to {group.name(chunk.stop - 1)!r}" if chunk.stop - chunk.start > 1 else ""
    raise ScoreError(
        f"Joint: the score of node {group.name(chunk.start)!r}{others} at "
        f"σ = {sigma[0].item():g}, batch entry {chunk.samples.start} on, must return what it was "
        f"given, shape {tuple(x.shape)}, {x.dtype} on {x.device}; got {got}. Convert inside the "
        "model."
    )
