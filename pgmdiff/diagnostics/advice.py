r"""Advice on rules, windows and overlaps: what each loses on a Gaussian, before any sampling.

Under a rule that is a weighted sum of scores the score of a centred Gaussian is linear, s = -J(σ) u
(`gaussian.composed_precision`), and so is the probability-flow ODE

    du/dσ = -σ s(u, σ) = σ J(σ) u,      u(σ_max) ~ N(0, σ_max² I)

The distribution of the samples follows from pushing σ_max I through it: it is N(0, MᵀM), where row
i of M is the image of σ_max e_i. The rules Posterior and Consistent reach, in the limit of many
steps, the distribution N(0, K⁻¹) of largest entropy with the regions' covariances, K their
completion (`precision.completed`): this is q itself if q is Markov to the graph.

The loss of a rule is the divergence KL(reached ‖ q) per element. Composition after Zhang et al.,
"DiffCollage: parallel generation of large content with diffusion models", 2023; solver and schedule
after Karras et al., "Elucidating the design space of diffusion-based generative models", 2022.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.composition.rules import Average, Marginal, Rule
from pgmdiff.errors import GraphError, ShapeError, shape_text
from pgmdiff.gaussian import Gaussian, composed_precision, from_region_covariances, kl_divergence
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.graphs.groups import WindowGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.report import check_counts
from pgmdiff.graphs.windows import tiles
from pgmdiff.precision import Blocks, Covariances, completed
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.text import Table, brief, counted, described

__all__ = ["Advice", "Prediction", "advise", "window_candidates"]

LIMIT = 2000
"""Largest number of elements: the work is dense, some 80 products of `[N, N]` matrices."""

NONE = 1e-6
"""Losses below this, in nats per element, are reported as 0."""

LEVELS = 40
"""Noise levels of the default schedule; with it the solver itself loses about 1e-4."""


@dataclass(frozen=True)
class Prediction:
    """Predicted losses of composing on one graph, in nats per element.

    Attributes:
        name: name of the graph.
        marginal, average: losses of the marginal rule and of overlap averaging, including the
            solver's own error.
        consistent: loss of the rules Consistent and Posterior, which agree on Gaussians, with many
            steps.
        evaluations: number of regions evaluated for one score of the whole, by all rules but
            averaging, which evaluates only the outer ones.
        elements: number of elements in these regions together.
        window, overlap: lengths on each axis, of a window and of what neighbours share, where the
            graph is made of tiles.
        note: why losses are infinite, where they are.
    """

    name: Hashable
    marginal: float
    average: float
    consistent: float
    evaluations: int
    elements: int
    window: tuple[int, ...] | None = None
    overlap: tuple[int, ...] | None = None
    note: str = ""

    def __repr__(self) -> str:
        rules = "marginal", "average", "consistent"
        losses = (f"{rule}={getattr(self, rule):.3g}" for rule in rules)
        work = f"evaluations={self.evaluations}", f"elements={self.elements}"
        note = f"note={brief(self.note, 40)}" if self.note else ""
        return described(self, f"name={brief(self.name, 40)}", *losses, *work, note)


@dataclass(frozen=True)
class Advice:
    """The result of `advise`: a `Prediction` for every graph, and what to do about it in words.

    Attributes:
        rows: the predictions, in the order in which the graphs were given.
        tolerance: the acceptable loss, in nats per element.
    """

    rows: tuple[Prediction, ...]
    tolerance: float

    def __repr__(self) -> str:
        given = counted(len(self.rows), "graph"), f"tolerance={self.tolerance:g}"
        first = f"marginal loss of the first {self.rows[0].marginal:.2g}"
        cheapest = brief(self.cheapest and self.cheapest.name, 40)
        return described(self, *given, first, f"cheapest={cheapest}")

    @property
    def table(self) -> Table:
        """The predictions, followed by what to do about them."""
        rows = []
        for row in self.rows:
            losses = (row.marginal, row.average, row.consistent)
            nats = ("0" if loss < NONE else f"{loss:.2g}" for loss in losses)
            rows.append((str(row.name), *nats, f"{row.evaluations}", f"{row.elements}"))
        return Table(
            "Predicted loss, nats per element: KL(sampled ‖ q) of a Gaussian q",
            rows,
            ("graph", "marginal", "average", "consistent", "evaluations", "elements"),
            [*(f"{row.name}: {row.note}." for row in self.rows if row.note), self.sentence],
        )

    def __str__(self) -> str:
        return str(self.table)

    @property
    def sentence(self) -> str:
        """What the first graph loses, and what it takes to lose less."""
        first, better = self.rows[0], self.cheapest
        fine = first.marginal <= self.tolerance
        parts = [f"With {first.name} the marginal rule {_loses(first.marginal)}"]
        if fine:
            parts[0] += f", within the tolerance of {self.tolerance:g}"
        if better and (not fine or better.elements < first.elements):
            parts.append(_change(first, better))
        elif not fine and len(self.rows) > 1:
            parts.append(f"no other graph here stays within {self.tolerance:g}")
        if not fine:
            parts.append(f"the rule Consistent {_loses(first.consistent)}")
        return "; ".join(parts) + "."

    @property
    def cheapest(self) -> Prediction | None:
        """The graph of fewest elements among the others whose marginal loss is within tolerance.

        Elements are counted, since one evaluation of a large window is no less work than many of
        small ones.
        """
        fine = [row for row in self.rows[1:] if row.marginal <= self.tolerance]
        return min(fine, key=attrgetter("elements", "evaluations", "marginal"), default=None)


def _loses(loss: float) -> str:
    """A loss as a predicate."""
    if loss == math.inf:
        return "has no result (see the note)"
    return "loses nothing" if loss < NONE else f"loses {loss:.2g} nats per element"


def _change(first: Prediction, other: Prediction) -> str:
    """How to get from one graph to another, and what it costs."""

    def cost(number: int, before: int) -> str:
        times = f"{number / before:.2g}"
        return "the same" if times == "1" else f"{times} times the"

    costs, name = f"{cost(other.evaluations, first.evaluations)} evaluations", str(other.name)
    if other.window != first.window or other.window is None:
        costs += f" and {cost(other.elements, first.elements)} elements"
    elif first.overlap and other.overlap:
        pairs = zip(first.overlap, other.overlap, strict=True)
        differences = {after - before for before, after in pairs if before != after}
        if len(differences) == 1:
            more = differences.pop()
            longer = "longer" if more > 0 else "shorter"
            name = f"an overlap {longer} by {abs(more)} ({name})"
    return f"with {name}, at {costs}, it {_loses(other.marginal)}"


def advise(
    graphs: GraphLike | Mapping[str, GraphLike],
    q: Gaussian | Tensor | Mapping[Hashable, Tensor] | Covariances,
    *,
    sigmas: Sequence[float] | None = None,
    tolerance: float = 0.01,
    progress: bool = False,
) -> Advice:
    """Predicts, in closed form, what every rule loses on every graph if the data are Gaussian.

    The loss is KL(sampled ‖ q) per element. For the marginal rule and overlap averaging it is the
    loss of the distribution that `samplers.sample(..., solver=Heun())` reaches from N(0, σ_max²):
    it is exact, to rounding, and includes the errors of the solver and of its start. For the rules
    Consistent and Posterior, which agree on Gaussians, it is what they reach in the limit of many
    steps, with the covariances of q: 0 on every graph to which q is Markov. The mean of q does not
    matter: states are centred.

    Other data lose other amounts. Use it with a Gaussian fitted to the data (`Gaussian.fit`) to
    choose among graphs and rules, not as a bound.

    Args:
        graphs: one graph, or graphs by name, all over the same state; the first is compared with
            the others. See `window_candidates`.
        q: a Gaussian over the whole state; or states `[n, *event]`, to which one is fitted in
            float64; or, for one graph, region name to covariance `[d, d]`, or the result of
            `fit_covariances`, which `gaussian.from_region_covariances` combines into a whole. (That
            whole is Markov to the graph by construction, so that Consistent loses nothing on it; to
            compare other graphs, build the whole and give it.)
        sigmas: the sampler's schedule; if None, 40 Karras levels from 80 to 0.002 times the root
            mean square of the standard deviations, then 0.
        tolerance: the acceptable loss, in nats per element.
        progress: whether to show a progress bar over the graphs.

    Raises:
        ShapeError: the state has no elements or more than `LIMIT`, sizes differ, or the covariance
            of q is singular, or singular to the rounding of its dtype.
        GraphError: there is no graph, counts are invalid, or region covariances are given for
            several graphs or cannot be combined into a whole.

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
        loses 0.00066 nats per element; the rule Consistent loses nothing.
    """
    named = graphs if isinstance(graphs, Mapping) else {"this graph": graphs}
    regions = {name: graph_of(graph, "advise").regions for name, graph in named.items()}
    if not regions:
        raise GraphError("advise: expected at least one graph, got none. Give one or several.")
    for name, graph in regions.items():
        if not 1 <= graph.n_elements <= LIMIT:
            raise ShapeError(
                f"advise: {name} has {graph.n_elements} elements, expected 1 to {LIMIT}, since the "
                "work is dense. Use a smaller crop; a few windows determine the loss per element."
            )
        check_counts(graph)
    whole = _whole(regions, q)
    for name, graph in regions.items():
        if graph.n_elements != whole.mean.numel():
            raise ShapeError(
                f"advise: {name} has {graph.n_elements} elements, q has {whole.mean.numel()}. Give "
                "graphs and a Gaussian over one state."
            )
    whole = _centred(whole)
    scale = whole.covariance.diagonal().mean().sqrt().item()
    levels = tuple(karras(LEVELS, 0.002 * scale, 80 * scale) if sigmas is None else sigmas)
    if len(levels) < 2 or levels[-1] != 0:
        raise ShapeError(
            f"advise: expected sigmas that end in 0, got {levels}: a distribution that is still "
            "noised cannot be compared with q. Append 0."
        )
    bar = tqdm(regions.items(), disable=not progress, desc="advice")
    return Advice(tuple(_predict(n, g, whole, levels) for n, g in bar), tolerance)


def _whole(
    graphs: Mapping[str, RegionGraph],
    q: Gaussian | Tensor | Mapping[Hashable, Tensor] | Covariances,
) -> Gaussian:
    """The Gaussian itself, one fitted to states, or the only graph's combination of regions."""
    if isinstance(q, Gaussian):
        return q
    if isinstance(q, Tensor):
        shapes = {graph.event_shape for graph in graphs.values()}
        if tuple(q.shape[1:]) not in shapes or len(q) < 2:
            expected = " or ".join(shape_text("n", shape) for shape in sorted(shapes))
            raise ShapeError(
                f"advise: expected a Gaussian, or at least two states {expected}, got a tensor of "
                f"{tuple(q.shape)}. For a covariance give Gaussian(mean, covariance), for other "
                "states Gaussian.fit(states.double())."
            )
        return Gaussian.fit(q.double())
    if not isinstance(q, Mapping | Covariances):
        raise ShapeError(
            f"advise: expected a Gaussian, states [n, *event], or covariances of regions, got a "
            f"{type(q).__name__}. For data give Gaussian.fit(states.double()), for a mixture "
            "Gaussian(q.mean, q.covariance)."
        )
    if len(graphs) > 1:
        raise GraphError(
            f"advise: region covariances belong to one graph, got {len(graphs)}. Combine them with "
            "gaussian.from_region_covariances(graph, covariances), and give the result."
        )
    (graph,) = graphs.values()
    return from_region_covariances(graph, q)


def _centred(q: Gaussian) -> Gaussian:
    """N(0, Σ) of a flat state in float64 on the CPU, or a `ShapeError` where Σ is singular."""
    covariance = ((q.covariance + q.covariance.T) / 2).cpu().double()
    values = torch.linalg.eigvalsh(covariance)
    given, own = (torch.finfo(dtype).eps for dtype in (q.covariance.dtype, torch.float64))
    rounding = max(given * covariance.norm().item(), len(values) * own * values[-1].item())
    if values[0] <= rounding:
        dtype = str(q.covariance.dtype).removeprefix("torch.")
        wider = "" if dtype == "float64" else "Fit it in float64, Gaussian.fit(states.double()); "
        raise ShapeError(
            f"advise: the covariance of q is singular, or too close to it for {dtype}: its "
            f"eigenvalues go from {values[0]:.3g} to {values[-1]:.3g}, and rounding is "
            f"{rounding:.2g}, so that losses would be infinite or dominated by rounding. "
            f"{wider}{'or f' if wider else 'F'}it it to more samples, or add noise, q.noised(σ)."
        )
    return Gaussian(covariance.new_zeros(len(covariance)), covariance)


def _predict(name: str, graph: RegionGraph, q: Gaussian, sigmas: Sequence[float]) -> Prediction:
    marginal, average = (_sampled_loss(graph, q, sigmas, rule) for rule in (Marginal(), Average()))
    closed = completed(graph, Blocks(q.covariance)).covariance
    notes = []
    for rule, loss in (("marginal", marginal), ("average", average)):
        if loss == math.inf:
            notes.append(f"sampling diverges under the {rule} rule")
    window = overlap = None
    for group in graph.groups:
        if window is None and isinstance(group, WindowGroup) and all(a.outer for a in group.axes):
            strides = [int(np.diff(axis.starts).max(initial=0)) for axis in group.axes]
            pairs = zip(group.shape, strides, strict=True)
            window, overlap = group.shape, tuple(d - stride if stride else 0 for d, stride in pairs)
    used = [(int((g.counts != 0).sum()), math.prod(g.shape)) for g in graph.groups]
    return Prediction(
        name,
        marginal,
        average,
        consistent=_loss(closed, q),
        evaluations=sum(n for n, _ in used),
        elements=sum(n * d for n, d in used),
        window=window,
        overlap=overlap,
        note="; ".join(notes),
    )


def _sampled_loss(graph: RegionGraph, q: Gaussian, sigmas: Sequence[float], rule: Rule) -> float:
    """Loss of the distribution that the sampler reaches, which is linear: it is pushed from I."""

    @lru_cache(maxsize=1)  # Heun evaluates every σ twice in a row
    def precision(sigma: float) -> Tensor:
        return composed_precision(graph, q, sigma, rule)

    def score(u: Tensor, sigma: Tensor) -> Tensor:
        return -u @ precision(sigma[0].item()).T

    start = sigmas[0] * torch.eye(graph.n_elements, dtype=torch.float64)
    reached = sample(score, sigmas, x=start, solver=Heun())
    return _loss(reached.T @ reached, q)


def _loss(covariance: Tensor, q: Gaussian) -> float:
    """KL(N(0, covariance) ‖ q) per element; rounding may not make it negative."""
    if not covariance.isfinite().all():
        return math.inf
    reached = Gaussian(q.mean, (covariance + covariance.T) / 2)
    return max(kl_divergence(reached, q) / len(covariance), 0.0)


def window_candidates(
    shape: Sequence[int],
    windows: Sequence[int | Sequence[int]],
    overlaps: Sequence[int | Sequence[int]],
    periodic: bool | Sequence[bool] = False,
) -> dict[str, RegionGraph]:
    """Tiles of a state for every window and overlap that fit it, by name, for `advise`.

    A window fits if it is nowhere longer than its axis and, where it does not span the axis, longer
    than the overlap. Where strides do not divide an axis the last window is shifted inwards.

    Args:
        shape: event shape of the state, channels included.
        windows, overlaps: for each candidate, one length for all axes, or one per axis.
        periodic: as for `graphs.tiles`.

    Raises:
        GraphError: none fits, or a window or overlap does not have one length for each axis.

    Example:
        >>> from pgmdiff.diagnostics.advice import window_candidates
        >>> list(window_candidates((3, 64), [(3, 16)], [2, 8, 16]))
        ['window 3×16, overlap 2', 'window 3×16, overlap 8']
    """

    def lengths(value: int | Sequence[int]) -> tuple[int, ...]:
        values = tuple(value) if isinstance(value, Sequence) else (value,) * len(shape)
        if len(values) != len(shape):
            raise GraphError(
                f"window_candidates: expected one length or one for each of the {len(shape)} axes, "
                f"got {value!r}. Count the channels too."
            )
        return values

    def text(value: int | Sequence[int]) -> str:
        return "×".join(map(str, value)) if isinstance(value, Sequence) else str(value)

    found = {}
    for window, overlap in product(windows, overlaps):
        axes = zip(shape, lengths(window), lengths(overlap), strict=True)
        if all(w == size or 0 <= o < w < size for size, w, o in axes):
            whole = lengths(window) == tuple(shape)
            name = f"window {text(window)}" + ("" if whole else f", overlap {text(overlap)}")
            found[name] = tiles(shape, window, overlap, periodic, remainder="shift")
    if not found:
        raise GraphError(
            f"window_candidates: none of the windows {list(windows)} with overlaps "
            f"{list(overlaps)} fits a state of {tuple(shape)}. Give a length for every axis, "
            "channels included, no longer than it, and shorter overlaps."
        )
    return found
