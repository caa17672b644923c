r"""Which rule, window and overlap? What each loses on a Gaussian, before anything is sampled.

Under a rule that is a weighted sum of scores the score of a centred Gaussian is linear, s = -J(σ) u
(`gaussian.composed_precision`), and so is the probability-flow ODE

    du/dσ = -σ s(u, σ) = σ J(σ) u,      u(σ_max) ~ N(0, σ_max² I)

The sampler's whole law follows from pushing σ_max I through it: it reaches N(0, MᵀM), row i of M
being what becomes of σ_max e_i. Posterior
and evidence composition reach, in the limit of many steps, the Bethe distribution

    N(0, P⁻¹),      P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r

What a rule loses is the divergence KL(reached ‖ q) per element. Composition after Zhang et al.,
"DiffCollage: parallel generation of large content with diffusion models", 2023; solver and schedule
after Karras et al., "Elucidating the design space of diffusion-based generative models", 2022.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.composition.rules import Average, Marginal, Rule
from pgmdiff.errors import GraphError, ShapeError, shape_text
from pgmdiff.gaussian import Gaussian, composed_precision, from_region_covariances, kl_divergence
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.groups import AxisWindows, WindowGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.report import check_counts
from pgmdiff.graphs.windows import tiles
from pgmdiff.precision import Covariances
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.scores.adapters import Score
from pgmdiff.text import Table, brief, counted, described

__all__ = ["Advice", "Prediction", "advise", "window_candidates"]

LIMIT = 2000
"""Most elements that are advised on: the work is dense, some 80 products of `[N, N]` matrices."""

NONE = 1e-6
"""A loss in nats per element below which there is none to speak of."""

LEVELS = 40
"""Noise levels of the default schedule; with it the solver itself loses about 1e-4."""


@dataclass(frozen=True)
class Prediction:
    """What composing on one graph is predicted to lose; losses are nats per element.

    Attributes:
        name: of the graph.
        marginal: loss of the marginal rule, the solver's own error included.
        average: of overlap averaging, likewise.
        posterior: of posterior and evidence composition, many steps taken; inf: not defined.
        evaluations: regions evaluated for one score of the whole, by all rules but averaging,
            which evaluates the outer ones only.
        elements: how many elements these regions have together.
        window, overlap: of neighbouring windows, on each axis, where the graph is made of tiles.
        note: why losses are infinite, where they are.
    """

    name: Hashable
    marginal: float
    average: float
    posterior: float
    evaluations: int
    elements: int
    window: tuple[int, ...] | None = None
    overlap: tuple[int, ...] | None = None
    note: str = ""

    def __repr__(self) -> str:
        losses = (
            f"{rule}={getattr(self, rule):.3g}" for rule in ("marginal", "average", "posterior")
        )
        return described(
            self,
            f"name={brief(self.name, 40)}",
            *losses,
            f"evaluations={self.evaluations}",
            f"elements={self.elements}",
            f"note={brief(self.note, 40)}" if self.note else "",
        )


@dataclass(frozen=True)
class Advice:
    """What `advise` found: a `Prediction` for every graph, and in words what to do about it.

    Attributes:
        rows: in the order in which the graphs were given.
        tolerance: the loss that is acceptable, in nats per element.
    """

    rows: tuple[Prediction, ...]
    tolerance: float

    def __repr__(self) -> str:
        cheapest = None if self.cheapest is None else self.cheapest.name
        return described(
            self,
            counted(len(self.rows), "graph"),
            f"tolerance={self.tolerance:g}",
            f"marginal loss of the first {self.rows[0].marginal:.2g}",
            f"cheapest={brief(cheapest, 40)}",
        )

    @property
    def table(self) -> Table:
        """The predictions, and below them in words what to do."""
        return Table(
            "Predicted loss, nats per element: KL(sampled ‖ q) of a Gaussian q",
            [
                (
                    str(row.name),
                    *map(_nats, (row.marginal, row.average, row.posterior)),
                    f"{row.evaluations}",
                    f"{row.elements}",
                )
                for row in self.rows
            ],
            ("graph", "marginal", "average", "posterior", "evaluations", "elements"),
            [*(f"{row.name}: {row.note}." for row in self.rows if row.note), self.sentence],
        )

    def __str__(self) -> str:
        return str(self.table)

    @property
    def sentence(self) -> str:
        """What the first graph loses, and what it takes to lose less."""
        first = self.rows[0]
        verdict = f"With {first.name} the marginal rule {_loses(first.marginal)} per element"
        if first.marginal <= self.tolerance:
            verdict += f", within the tolerance of {self.tolerance:g}"
        return "; ".join([verdict, *self._remedies(first)]) + "."

    def _remedies(self, first: Prediction) -> list[str]:
        better = self.cheapest
        remedies = [_change(first, better)] if better else []
        if first.marginal <= self.tolerance:
            return remedies if better and better.elements < first.elements else []
        if not better and len(self.rows) > 1:
            remedies = [f"no other graph here stays within {self.tolerance:g}"]
        return [*remedies, f"the posterior rule {_loses(first.posterior)}"]

    @property
    def cheapest(self) -> Prediction | None:
        """Of the other graphs whose marginal loss is within tolerance, that of fewest elements.

        Elements, since one evaluation of a large window is no less work than many of small ones.
        """
        fine = [row for row in self.rows[1:] if row.marginal <= self.tolerance]
        return min(
            fine, key=lambda row: (row.elements, row.evaluations, row.marginal), default=None
        )


def _nats(loss: float) -> str:
    return "0" if loss < NONE else f"{loss:.2g}"


def _loses(loss: float) -> str:
    """A loss as a predicate."""
    if loss == math.inf:
        return "has no result (see the note)"
    return "loses none" if loss < NONE else f"loses {loss:.2g} nats"


def _change(first: Prediction, other: Prediction) -> str:
    """What to do to get from one graph to another, and what it costs."""
    cost = f"at {_ratio(other.evaluations, first.evaluations)} evaluations"
    if other.window != first.window or other.window is None:
        cost += f" and {_ratio(other.elements, first.elements)} elements"
    more, name = _more_overlap(first, other), str(other.name)
    if more is not None:
        name = f"an overlap {'longer' if more > 0 else 'shorter'} by {abs(more)} ({name})"
    return f"with {name}, {cost}, it {_loses(other.marginal)}"


def _ratio(number: int, first: int) -> str:
    """As many, or how many times as many."""
    times = f"{number / first:.2g}"
    return "the same" if times == "1" else f"{times} times the"


def _more_overlap(first: Prediction, other: Prediction) -> int | None:
    """By how much the overlaps of equal windows differ, where it is one number."""
    if not first.overlap or not other.overlap or first.window != other.window:
        return None
    pairs = zip(first.overlap, other.overlap, strict=True)
    differences = {b - a for a, b in pairs if a != b}
    return differences.pop() if len(differences) == 1 else None


def advise(
    graphs: FactorGraph | RegionGraph | Mapping[str, FactorGraph | RegionGraph],
    q: Gaussian | Tensor | Mapping[Hashable, Tensor] | Covariances,
    *,
    sigmas: Sequence[float] | None = None,
    tolerance: float = 0.01,
    progress: bool = False,
) -> Advice:
    """Predicts, in closed form, what every rule loses on every graph if the data are Gaussian.

    Loss is KL(sampled ‖ q) per element. For the marginal rule and overlap averaging it is that of
    the law which `samplers.sample(..., solver=Heun())` reaches from N(0, σ_max²): exact, to
    rounding, with the error of the solver and of its start. For the posterior and evidence rules,
    which agree on Gaussians, it is what they reach in the limit of many steps: 0 on a junction
    tree that q is Markov to, infinite, with a note, where P is not positive definite. The mean of
    q plays no part: states are centred.

    Other data lose other amounts. Use it with a Gaussian fitted to the data (`Gaussian.fit`), to
    choose among graphs and rules, not as a bound.

    Args:
        graphs: one graph, or graphs by name, all over the same state; the first is compared with
            the others. See `window_candidates`.
        q: a Gaussian over the whole state; or states `[n, *event]`, to which one is fitted in
            float64; or, for one graph, region name to covariance `[d, d]`, or what
            `fit_covariances` returns, of which `gaussian.from_region_covariances` makes a whole
            (which is Markov to a junction tree by construction: the posterior rule then loses
            nothing on it; to compare other graphs, make that whole and give it).
        sigmas: of the sampler; None: 40 Karras levels from 80 to 0.002 times the root mean
            square of the standard deviations, then 0.
        tolerance: a loss in nats per element that is found acceptable.
        progress: shows a progress bar, over the graphs.

    Raises:
        ShapeError: the state has no elements or more than `LIMIT`, sizes differ, or the covariance
            of q is singular, or singular to the rounding of its dtype.
        GraphError: no graph; invalid counts; region covariances for several graphs, or of which no
            whole can be made.

    Example:
        >>> from textwrap import fill
        >>> import torch
        >>> from pgmdiff.diagnostics.advice import advise, window_candidates
        >>> from pgmdiff.gaussian import Gaussian
        >>> place = torch.arange(32)
        >>> chain = Gaussian(torch.zeros(32), 0.8 ** (place[:, None] - place).abs().float())
        >>> advice = advise(window_candidates((32,), [8], [1, 2, 6]), chain, tolerance=0.002)
        >>> print(fill(advice.sentence, 80))
        With window 8, overlap 1 the marginal rule loses 0.016 nats per element; with an
        overlap longer by 5 (window 8, overlap 6), at 2.8 times the evaluations, it
        loses 0.00066 nats; the posterior rule loses none.
    """
    named = graphs if isinstance(graphs, Mapping) else {"this graph": graphs}
    regions = {name: graph.regions for name, graph in named.items()}
    _check_graphs(regions)
    whole = _whole(regions, q)
    for name, graph in regions.items():
        _check_size(name, graph, whole)
    whole = _centred(whole)
    levels = _default_sigmas(whole) if sigmas is None else tuple(sigmas)
    if len(levels) < 2 or levels[-1] != 0:
        raise ShapeError(
            f"advise: expected sigmas that end in 0, got {levels}: a law that is still noised "
            "cannot be compared with q. Append 0."
        )
    bar = tqdm(regions.items(), disable=not progress, desc="advice")
    return Advice(tuple(_predict(n, g, whole, levels) for n, g in bar), tolerance)


def _check_graphs(graphs: Mapping[str, RegionGraph]) -> None:
    if not graphs:
        raise GraphError("advise: expected at least one graph, got none. Give a graph, or some.")
    for name, graph in graphs.items():
        if not 1 <= graph.n_elements <= LIMIT:
            raise ShapeError(
                f"advise: {name} has {graph.n_elements} elements, expected 1 to {LIMIT}: the "
                "work is dense. Advise on a smaller crop; a few windows settle the loss an element."
            )
        check_counts(graph)


def _check_size(name: str, graph: RegionGraph, q: Gaussian) -> None:
    if graph.n_elements != q.mean.numel():
        raise ShapeError(
            f"advise: {name} has {graph.n_elements} elements, q has {q.mean.numel()}. Give graphs "
            "and a Gaussian over one state."
        )


def _whole(
    graphs: Mapping[str, RegionGraph],
    q: Gaussian | Tensor | Mapping[Hashable, Tensor] | Covariances,
) -> Gaussian:
    """The Gaussian itself, one fitted, or that which the only graph makes of its regions'."""
    if isinstance(q, Gaussian):
        return q
    if isinstance(q, Tensor):
        return _fitted(graphs, q)
    if not isinstance(q, Mapping | Covariances):
        raise ShapeError(
            f"advise: expected a Gaussian, states [n, *event], or covariances of regions, got a "
            f"{type(q).__name__}. Of data give Gaussian.fit(states.double()), of a mixture "
            "Gaussian(q.mean, q.covariance)."
        )
    if len(graphs) > 1:
        raise GraphError(
            f"advise: region covariances belong to one graph, got {len(graphs)}. Make a whole of "
            "them with gaussian.from_region_covariances(graph, covariances), and give that."
        )
    (graph,) = graphs.values()
    return from_region_covariances(graph, _matrices(graph, q) if isinstance(q, Covariances) else q)


def _fitted(graphs: Mapping[str, RegionGraph], states: Tensor) -> Gaussian:
    """The Gaussian of states, in float64."""
    shapes = {graph.event_shape for graph in graphs.values()}
    if tuple(states.shape[1:]) not in shapes or len(states) < 2:
        expected = " or ".join(shape_text("n", shape) for shape in sorted(shapes))
        raise ShapeError(
            f"advise: expected a Gaussian, or at least two states {expected}, got a tensor of "
            f"{tuple(states.shape)}. Of a covariance give Gaussian(mean, covariance), of other "
            "states Gaussian.fit(states.double())."
        )
    return Gaussian.fit(states.double())


def _matrices(graph: RegionGraph, covariances: Covariances) -> dict[Hashable, Tensor]:
    """Region name to `[d, d]`, of the counted regions."""
    found: dict[Hashable, Tensor] = {}
    for group in graph.groups:
        rows = np.flatnonzero(group.counts)
        if len(rows):
            some = group.select(rows)
            inverses = covariances.form(some).inverse(some.name).dense()
            matrices = torch.linalg.inv(inverses).expand(len(some), -1, -1)
            found.update(zip(some.names, (matrices + matrices.mT) / 2, strict=True))
    return found


def _centred(q: Gaussian) -> Gaussian:
    """N(0, Σ) of a flat state in float64.

    Raises:
        ShapeError: Σ is singular.
    """
    covariance = ((q.covariance + q.covariance.T) / 2).double()
    values = torch.linalg.eigvalsh(covariance)
    given, own = (torch.finfo(dtype).eps for dtype in (q.covariance.dtype, torch.float64))
    rounding = max(given * covariance.norm().item(), len(values) * own * values[-1].item())
    if values[0] <= rounding:
        dtype = str(q.covariance.dtype).removeprefix("torch.")
        wider = "" if dtype == "float64" else "Fit it in float64, Gaussian.fit(states.double()); "
        raise ShapeError(
            f"advise: the covariance of q is singular, or too near it for {dtype}: its eigenvalues "
            f"go from {values[0]:.3g} to {values[-1]:.3g}, and rounding is {rounding:.2g}, so the "
            f"losses would be infinite or made of rounding. {wider}{'or f' if wider else 'F'}it it "
            "to more samples, or add noise, q.noised(σ)."
        )
    return Gaussian(covariance.new_zeros(len(covariance)), covariance)


def _default_sigmas(q: Gaussian) -> tuple[float, ...]:
    scale = q.covariance.diagonal().mean().sqrt().item()
    return tuple(karras(LEVELS, 0.002 * scale, 80 * scale))


def _predict(name: str, graph: RegionGraph, q: Gaussian, sigmas: Sequence[float]) -> Prediction:
    marginal, average = (_sampled_loss(graph, q, sigmas, rule) for rule in (Marginal(), Average()))
    posterior, note = _bethe_loss(graph, q)
    counted = [(int((g.counts != 0).sum()), math.prod(g.shape)) for g in graph.groups]
    diverged = [n for n, loss in (("marginal", marginal), ("average", average)) if loss == math.inf]
    notes = [note] * bool(note) + [f"sampling diverges under the {n} rule" for n in diverged]
    window, overlap = _tiling(graph)
    return Prediction(
        name,
        marginal,
        average,
        posterior,
        evaluations=sum(n for n, _ in counted),
        elements=sum(n * d for n, d in counted),
        window=window,
        overlap=overlap,
        note="; ".join(notes),
    )


def _sampled_loss(graph: RegionGraph, q: Gaussian, sigmas: Sequence[float], rule: Rule) -> float:
    """Loss of the law that the sampler reaches: the solver is linear, so push the identity."""
    start = sigmas[0] * torch.eye(graph.n_elements, dtype=torch.float64)
    reached = sample(_linear_score(graph, q, rule), sigmas, x=start, solver=Heun())
    return _loss(reached.T @ reached, q)


def _linear_score(graph: RegionGraph, q: Gaussian, rule: Rule) -> Score:
    """-J(σ) u; Heun asks for every σ twice in a row."""

    @lru_cache(maxsize=1)
    def precision(sigma: float) -> Tensor:
        return composed_precision(graph, q, sigma, rule)

    def score(u: Tensor, sigma: Tensor) -> Tensor:
        return -u @ precision(sigma[0].item()).T

    return score


def _bethe_loss(graph: RegionGraph, q: Gaussian) -> tuple[float, str]:
    """Loss of N(0, P⁻¹), and a note where there is no such thing."""
    precision = composed_precision(graph, q)
    precision = (precision + precision.T) / 2
    factor, info = torch.linalg.cholesky_ex(precision)
    if info:
        smallest = torch.linalg.eigvalsh(precision)[0].item()
        return math.inf, (
            "the posterior rule is not defined, P is indefinite (smallest eigenvalue "
            f"{smallest:.2g}): shrink the covariances towards a common diagonal"
        )
    return _loss(torch.cholesky_inverse(factor), q), ""


def _loss(covariance: Tensor, q: Gaussian) -> float:
    """KL(N(0, covariance) ‖ q) per element; rounding may not make it negative."""
    if not covariance.isfinite().all():
        return math.inf
    reached = Gaussian(q.mean, (covariance + covariance.T) / 2)
    return max(kl_divergence(reached, q) / len(covariance), 0.0)


def _tiling(graph: RegionGraph) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Window and least overlap of neighbours on each axis, of a graph made by `tiles`."""
    for group in graph.groups:
        if isinstance(group, WindowGroup) and all(axis.outer for axis in group.axes):
            return group.shape, tuple(map(_overlap, group.axes))
    return None, None


def _overlap(axis: AxisWindows) -> int:
    strides = np.diff(axis.starts)
    return axis.length - int(strides.max()) if len(strides) else 0


def window_candidates(
    shape: Sequence[int],
    windows: Sequence[int | Sequence[int]],
    overlaps: Sequence[int | Sequence[int]],
    periodic: bool | Sequence[bool] = False,
) -> dict[str, RegionGraph]:
    """Tiles of a state for every window and overlap that fit it, by name, for `advise`.

    A window fits that is nowhere longer than its axis and, where it does not span the axis, longer
    than the overlap. Where strides do not divide an axis the last window is shifted inwards.

    Args:
        shape: event shape of the state, channels included.
        windows: each one length for all axes, or one an axis.
        overlaps: likewise.
        periodic: see `graphs.tiles`.

    Raises:
        GraphError: none fits, or a window or overlap has not one length for each axis.

    Example:
        >>> from pgmdiff.diagnostics.advice import window_candidates
        >>> list(window_candidates((3, 64), [(3, 16)], [2, 8, 16]))
        ['window 3×16, overlap 2', 'window 3×16, overlap 8']
    """
    found = {
        _named(shape, window, overlap): tiles(shape, window, overlap, periodic, remainder="shift")
        for window, overlap in product(windows, overlaps)
        if _fits(shape, window, overlap)
    }
    if not found:
        raise GraphError(
            f"window_candidates: none of the windows {list(windows)} with overlaps "
            f"{list(overlaps)} fits a state of {tuple(shape)}. Give a length for every axis, "
            "channels included, no longer than it, and shorter overlaps."
        )
    return found


def _each(value: int | Sequence[int], n: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * n
    if len(values) != n:
        raise GraphError(
            f"window_candidates: expected one length or one for each of the {n} axes, got "
            f"{value!r}. Count the channels too."
        )
    return values


def _fits(shape: Sequence[int], window: int | Sequence[int], overlap: int | Sequence[int]) -> bool:
    n = len(shape)
    axes = zip(shape, _each(window, n), _each(overlap, n), strict=True)
    return all(w == size or 0 <= o < w < size for size, w, o in axes)


def _named(shape: Sequence[int], window: int | Sequence[int], overlap: int | Sequence[int]) -> str:
    """A window of the whole has no overlap."""
    if _each(window, len(shape)) == tuple(shape):
        return f"window {_times(window)}"
    return f"window {_times(window)}, overlap {_times(overlap)}"


def _times(value: int | Sequence[int]) -> str:
    return "×".join(map(str, value)) if isinstance(value, Sequence) else str(value)
