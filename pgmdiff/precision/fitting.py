r"""Region covariances estimated from clean states, in one streamed pass, so that they agree.

Only the outer regions are estimated; a sub-region is read off the first outer region around it.
Estimates have the units of the data and do not depend on its mean; dense and stationary ones are
also equivariant to a unit of its own for every element.
Dense covariances that are not shared are then blocks of one positive definite estimate, and P is
positive definite on every junction tree; covariances that are estimated one by one from different
samples often compose to an indefinite P. If covariances are shared, or of low rank, a sub-region
agrees with that first outer region, but with others around it only as far as the data do: P is
positive definite on chains, and usually on other trees. Stationary covariances agree everywhere,
but can be indefinite themselves if there are few states. Where that is not so, regions are
averaged (`precision.completed`), up to 2,000 elements; else, a larger ridge helps.

    dense        Σ̂ = Σ_n (u_n - m)(u_n - m)ᵀ / n
    low rank     U diag(λ - δ) Uᵀ + δ I of the leading eigenpairs of Σ̂, δ the mean of all others of
                 all regions: probabilistic principal components (Tipping and Bishop,
                 "Probabilistic principal component analysis", 1999), by incremental singular
                 value decompositions (Ross, Lim, Lin, Yang, "Incremental learning for robust
                 visual tracking", 2008)
    stationary   γ̂(h) = Σ_t (u_t - m)(u_{t+h} - m) / (number of such pairs), by Fourier transforms
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cache
from math import inf, prod
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pgmdiff.errors import GraphError, ShapeError, shape_text, warn
from pgmdiff.graphs.containment import regions_around
from pgmdiff.graphs.factor_graph import FactorGraph, GraphLike, graph_of
from pgmdiff.graphs.groups import RegionGroup, WindowGroup
from pgmdiff.graphs.names import check_known
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.windows import tiles
from pgmdiff.linalg import tensor_of
from pgmdiff.precision.completing import Blocks, completed
from pgmdiff.precision.covariances import (
    Covariances,
    LowRank,
    Place,
    Pooled,
    Separable,
    Stationary,
    without_channels,
)
from pgmdiff.precision.precision import weighed
from pgmdiff.text import counted

__all__ = ["Form", "fit_covariances"]

Form: TypeAlias = Literal["dense", "low_rank", "stationary"]

DENSE_ELEMENTS = 1_000
"""Largest region whose covariance is kept as a matrix by default."""
COMPLETED = 2_000
"""Most elements for which samples of regions are made consistent."""
ROWS = 1_024
"""Number of windows that enter a low-rank estimate at once."""

Outer: TypeAlias = Mapping[Hashable, Tensor]
"""Maps a kind of outer region to the elements of the regions that share an estimate, `[n, d]`."""


def fit_covariances(
    graph: GraphLike,
    data: Tensor | Iterable[Tensor] | Mapping[Any, Tensor],
    *,
    form: Form | None = None,
    shared: bool = False,
    channels: bool = False,
    rank: int = 64,
    axes: Sequence[int] | None = None,
    ridge: float = 1e-6,
) -> Covariances:
    """Estimates region covariances from clean states; see the module for the estimates.

    Args:
        graph: every counted region must lie inside an outer one, as it does in all built-in graphs.
        data: states `[n, *event]`, or an iterable of batches of them, which is read once. The mean
            of every place is removed; for the stationary form, one mean over the stationary axes.
            Or values by variable, as `graph.pack` accepts them. Or samples of every outer region,
            `[n, *shape]`, by its name or by the id of its model, such as `diagnostics.node_samples`
            draws from models without data; those of one model are pooled if `shared`. They are
            independent, so that entries which regions share are averaged, and completed, up to
            2,000 elements. With `form="stationary"` windows of one shape have one autocovariance.
        form: `"dense"`; `"low_rank"` plus one δ for all elements, whose units must therefore be
            alike: a warning is given where δ is over ten times an element's variance; or
            `"stationary"`, for windows of a tensor that look the same everywhere along `axes`. If
            None, dense for regions of up to 1,000 elements, and of low rank above.
        shared: whether all outer regions with one model have one covariance, for which their
            windows are pooled. For windows of the same thing it is much the better estimate, and
            it allows Fourier solves on periodic graphs. Regions with a model of their own are not
            pooled.
        channels: whether covariances are C ⊗ S, channels (the first axis) times places. Channels of
            larger variance count more in S.
        rank: of the low-rank form; regions of fewer elements are kept whole.
        axes: the stationary axes of the event; if None, all (except channels that are separated).
        ridge: the share of its own variance that is added to the variance of every element, so
            that unseen directions keep a small variance; in the low-rank form, and for elements
            that never vary, a share of the mean variance.

    Returns:
        A provider for `Posterior(covariances)` or `Consistent(covariances)`, with the mean of the
        data as its `mean`, place by place; of windows in the stationary form one for all places.

    Raises:
        ShapeError: there are fewer than two states; states have another shape, are complex or not
            finite.
        GraphError: a region lies inside no outer one; an option does not fit the graph; samples are
            given for what is no outer region.

    Example:
        >>> import torch
        >>> from pgmdiff import Posterior
        >>> from pgmdiff.graphs import chain
        >>> from pgmdiff.precision import fit_covariances
        >>> generator = torch.Generator().manual_seed(0)
        >>> data = torch.randn(500, 3, generator=generator).cumsum(1)
        >>> Posterior(fit_covariances(chain(3), data))
        Posterior(Pooled)
    """
    drawn = graph_of(graph, "fit_covariances")
    regions = drawn.regions
    if isinstance(drawn, FactorGraph) and isinstance(data, Mapping):
        pieces, names = {*_outer_groups(regions)}, set(drawn.variables)
        data = drawn.pack(data) if data.keys() == names and not names <= pieces else data
    if not 0 <= ridge < inf:
        raise GraphError(f"fit_covariances: expected a share ridge >= 0, got {ridge!r}.")
    if form not in (None, *get_args(Form)):
        raise GraphError(
            f"fit_covariances: expected form= 'dense', 'low_rank' or 'stationary', got {form!r}."
        )
    if axes is not None and form != "stationary":
        raise GraphError("fit_covariances: axes= applies only to form='stationary'.")
    if isinstance(data, Mapping):
        if form == "stationary":
            return _of_windows(regions, data, channels, axes, ridge)
        if form == "low_rank" or channels:
            raise GraphError(
                "fit_covariances: got form='low_rank' or channels=True with samples of regions, "
                "which are fitted as form='dense', or of windows as 'stationary'. Give states of "
                "the whole."
            )
        return _of_nodes(regions, data, shared, ridge)
    whole = _Channels(regions.event_shape[0]) if channels else None
    inner = without_channels(regions) if channels else regions
    if form is None:
        largest = max((prod(g.shape) for g in inner.groups if g.outer.any()), default=0)
        form = "dense" if largest <= DENSE_ELEMENTS else "low_rank"
    estimate: _Estimate
    if form == "stationary":
        estimate = _Autocovariance(inner, axes, 1 if channels else 0)
    elif form == "dense":
        estimate = _Moments(inner, shared)
    else:
        estimate = _Components(inner, shared, rank)
    n, origin, total = 0, None, torch.zeros(regions.event_shape, dtype=torch.float64)
    for batch in [data] if isinstance(data, Tensor) else data:
        checked = _checked(batch, regions)
        if not len(batch):
            continue
        states = checked.reshape(len(batch), -1, inner.n_elements)
        n += len(states)
        origin = checked.mean(dim=0) if origin is None else origin
        total += (checked - origin).sum(dim=0)
        estimate.add(states)
        if whole is not None:
            whole.add(states)
    if n < 2:
        raise ShapeError(f"fit_covariances: expected at least 2 states, got {n}.")
    found: Covariances = estimate.finish(ridge)
    if whole is not None:
        found = Separable(whole.finish(ridge), found)
    assert origin is not None, "there is a state"
    object.__setattr__(found, "mean", origin + total / n)
    return found


def _outer_groups(graph: RegionGraph) -> dict[Hashable, RegionGroup]:
    """The group of every outer region."""
    return {
        name: group
        for group in graph.groups
        for name in group.select(np.flatnonzero(group.outer)).names
    }


def _samples(
    graph: RegionGraph, data: Mapping[Any, Any]
) -> tuple[dict[Hashable, Hashable], dict[Hashable, Tensor]]:
    """For every outer region the key of its samples, its name or its model's id; and these.

    Samples are float64 `[n, d]`.
    """
    outer, flat = _outer_groups(graph), dict[Hashable, Tensor]()
    keys = {name: name if name in data else group.model for name, group in outer.items()}
    known = {*outer, *(group.model for group in outer.values())} - {None}
    remedy = "Give those of outer regions; or of a factor graph all variables, as graph.pack does."
    check_known("fit_covariances: samples are given for", data, known, "outer region", remedy)
    for key in data.keys() - set(keys.values()):
        raise GraphError(
            f"fit_covariances: samples are given for {key!r}, whose regions all have samples of "
            "their own. Leave out either."
        )
    seen: dict[int, tuple[Hashable, Any]] = {}  # kept, so that no other value gets its id
    for name, key in keys.items():
        size, given = prod(outer[name].shape), torch.empty(0)
        if key in data:
            value = data[key]
            keys[name] = same = seen.setdefault(id(value), (key, value))[0]
            who = f"samples of {name!r}"
            given = (
                flat[same] if same in flat else _finite(tensor_of("fit_covariances", who, value))
            )
        if given.ndim < 1 or len(given) < 2 or given[0].numel() != size:
            raise ShapeError(
                f"fit_covariances: expected at least 2 samples of region {name!r}, of {size} "
                f"elements each, got {tuple(given.shape) if key in data else 'none'}. Give those "
                "of all outer regions."
            )
        flat[keys[name]] = given.reshape(len(given), -1)
    return keys, flat


def _of_windows(
    graph: RegionGraph,
    data: Mapping[Any, Any],
    channels: bool,
    axes: Sequence[int] | None,
    ridge: float,
) -> Covariances:
    """The autocovariance of samples of windows that are alike."""
    _, flat = _samples(graph, data)
    shapes = {group.shape for group in graph.groups if group.outer.any()}
    if len(shapes) > 1 or not all(isinstance(group, WindowGroup) for group in graph.groups):
        raise GraphError(
            "fit_covariances: form='stationary' requires windows of a tensor (graphs.tiles), of "
            "one shape. Give states of the whole, or form='dense'."
        )
    (shape,) = shapes
    options: Any = {"form": "stationary", "channels": channels, "axes": axes, "ridge": ridge}
    pieces = torch.cat([*flat.values()]).reshape(-1, *shape)
    found = fit_covariances(tiles(shape, shape, [0] * len(shape)), pieces, **options)
    along = [*range(1 if channels else 0, len(shape))] if axes is None else [*axes]
    for axis, (own, side) in enumerate(zip(shape, graph.event_shape, strict=True)):
        if own < side and axis not in along:
            raise GraphError(
                f"fit_covariances: windows {shape} of a state {graph.event_shape} must span the "
                f"axes that are not stationary, got axes={along}. Name all axes that are tiled."
            )
    assert found.mean is not None, "it has been fitted"
    level = found.mean.mean(along, keepdim=True).expand(graph.event_shape)
    object.__setattr__(found, "mean", level)
    return found


def _of_nodes(
    graph: RegionGraph, data: Mapping[Any, Any], shared: bool, ridge: float
) -> Covariances:
    """Dense covariances of the outer regions' own samples, made consistent.

    Samples that are pooled keep the means of their regions.
    """
    keys, flat = _samples(graph, data)
    groups, outer = _outer_groups(graph), _outer(graph, shared=False)
    pooled: defaultdict[Hashable, dict[Hashable, None]] = defaultdict(dict)  # keys, each once
    for name, key in keys.items():
        pooled[_kind(groups[name], name, shared)][key] = None
    ranks: dict[Hashable, tuple[int, int]] = {}

    @cache
    def covariance(several: tuple[Hashable, ...]) -> Tensor:
        rows = torch.cat([flat[key] - flat[key].mean(dim=0) for key in several])
        ranks[several[0]] = len(rows) - len(several), rows.shape[1]
        found = rows.T @ rows / len(rows)
        _raise(found.diagonal(), ridge, found.diagonal().mean())
        return found

    fitted = {name: covariance((*pooled[_kind(groups[name], name, shared)],)) for name in outer}
    _warn_of_few(ranks, "Give more samples, or raise ridge=.")
    sums = torch.zeros(2, graph.n_elements, dtype=torch.float64)
    for name, index in outer.items():
        mean = flat[keys[name]].mean(dim=0)
        sums[:, index[0]] += torch.stack([mean, torch.ones_like(mean)])
    found: Covariances = Pooled(fitted, _parents(graph, outer))
    if graph.n_elements <= COMPLETED:
        try:
            found = Blocks(completed(graph, found).covariance)
        except GraphError as error:
            raise GraphError(
                "fit_covariances: the covariances of the regions' samples, averaged where regions "
                "overlap, belong to no distribution. Give more samples or a larger ridge=; of "
                "windows of one process form='stationary'."
            ) from error
    object.__setattr__(found, "mean", (sums[0] / sums[1]).reshape(graph.event_shape))
    return found


def _warn_of_few(ranks: Mapping[Hashable, tuple[int, int]], remedy: str) -> None:
    """Warns of estimates without full rank, of which the largest rank and the size are given."""
    few = [name for name, (rank, elements) in ranks.items() if rank < elements]
    if few:
        rank, elements = ranks[few[0]]
        others = f" (and of {counted(len(few) - 1, 'other')})" * (len(few) > 1)
        warn(
            f"fit_covariances: so few states leave the covariance of {few[0]!r}{others} with rank "
            f"{rank} at most, of {elements}: in all other directions it is the ridge alone, which "
            f"rules take for certainty. {remedy}"
        )


def _checked(batch: Tensor, graph: RegionGraph) -> Tensor:
    if not isinstance(batch, Tensor) or tuple(batch.shape[1:]) != graph.event_shape:
        got = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
        expected = shape_text("n", graph.event_shape)
        raise ShapeError(
            f"fit_covariances: expected a tensor of states {expected}, got {got}. Reshape them; of "
            "an array make a tensor by torch.from_numpy, of named variables by graph.pack; of a "
            "loader of lists give (batch[0] for batch in loader)."
        )
    return _finite(batch)


def _finite(batch: Tensor) -> Tensor:
    """Finite real numbers, float64 on the CPU."""
    if batch.is_complex() or not batch.isfinite().all():
        raise ShapeError(
            f"fit_covariances: expected states of finite real numbers, got {batch.dtype}"
            f"{'' if batch.is_complex() else ' with NaN or infinity'}. Remove states that are not "
            "finite; of records with gaps give complete rows of each region, {name: rows}."
        )
    return batch.detach().cpu().double()


class _Estimate(ABC):
    """An estimate that is updated with states `[n, channels, N]`, batch by batch."""

    @abstractmethod
    def add(self, states: Tensor) -> None:
        """Includes a batch. Channels count as further states, each with its own mean."""

    @abstractmethod
    def finish(self, ridge: float) -> Covariances:
        """The provider of the covariances."""


class _Moments(_Estimate):
    """Σ̂ of every kind of outer region, by first and second moments about the first state."""

    def __init__(self, graph: RegionGraph, shared: bool) -> None:
        self.graph, self.outer, self.n = graph, _outer(graph, shared), 0
        # So that squares do not drown in a large mean, and what never varies is exactly 0.
        self.origin: Tensor | None = None
        self.sums = torch.zeros(1, graph.n_elements, dtype=torch.float64)
        self.products: dict[Hashable, Tensor] = {}

    def add(self, states: Tensor) -> None:
        if self.origin is None:
            self.origin = states[0].clone()
        centred = states - self.origin
        self.n, self.sums = self.n + len(states), self.sums + centred.sum(dim=0)
        for kind, regions in self.outer.items():
            for index in regions:
                part = centred[:, :, index].flatten(0, 1)
                self.products[kind] = part.T @ part + self.products.get(kind, 0)

    def finish(self, ridge: float) -> Pooled:
        fitted: dict[Hashable, Tensor] = {}
        ranks: dict[Hashable, tuple[int, int]] = {}
        for kind, regions in self.outer.items():
            means = (self.sums / self.n)[:, regions].flatten(0, 1)  # of every region and channel
            fitted[kind] = (self.products[kind] / self.n - means.T @ means) / len(means)
            ranks[kind] = (self.n - 1) * len(means), means.shape[1]
        more = "pool windows (shared=True); choose form='stationary' or 'low_rank'"
        _warn_of_few(ranks, f"Give more states; {more}; or raise ridge=.")
        mean = torch.cat([v.diagonal() for v in fitted.values()]).mean()
        for covariance in fitted.values():
            _raise(covariance.diagonal(), ridge, mean)
        return Pooled(fitted, _parents(self.graph, self.outer))


class _Components(_Estimate):
    """Leading principal components of every kind of outer region."""

    def __init__(self, graph: RegionGraph, shared: bool, rank: int) -> None:
        if rank < 1:
            raise GraphError(f"fit_covariances: expected a rank of at least 1, got {rank}.")
        self.graph, self.outer, self.rank = graph, _outer(graph, shared), rank
        self.parts = {kind: _Principal(2 * rank) for kind in self.outer}

    def add(self, states: Tensor) -> None:
        for kind, regions in self.outer.items():
            for region, index in enumerate(regions):
                for rows in states[:, :, index].split(ROWS):
                    self.parts[kind].add(rows, region)

    def finish(self, ridge: float) -> LowRank:
        sizes = {kind: regions.shape[1] for kind, regions in self.outer.items()}
        most = min(self.rank, max(sizes.values()) - 1)
        variances = {kind: part.scales[:most] ** 2 / part.n for kind, part in self.parts.items()}
        squares = {kind: part.squares / part.n for kind, part in self.parts.items()}
        totals = {kind: float(each.sum()) for kind, each in squares.items()}
        left = sum(totals[kind] - float(variances[kind].sum()) for kind in sizes)
        free = sum(d - min(most, d) for d in sizes.values())
        mean = sum(totals.values()) / sum(sizes.values())
        floor = max(left, 0.0) / free + ridge * mean
        small = sum(int(((v > 0) & (10 * v < floor)).sum()) for v in squares.values())
        if small:
            warn(
                f"fit_covariances: form='low_rank' takes one unexplained variance δ = {floor:.3g} "
                f"for all elements, more than ten times the whole variance of {small} of them. "
                "Divide elements by their standard deviations, or use form='dense'."
            )
        factors = {
            kind: part.vectors[:, :most] * (variances[kind] - floor).clamp(min=0).sqrt()
            for kind, part in self.parts.items()
        }
        same = {kind: F.pad(f, (0, most - f.shape[1])) for kind, f in factors.items()}
        return LowRank(same, floor, _parents(self.graph, self.outer))


class _Principal:
    """An incremental singular value decomposition of centred rows, truncated.

    Attributes:
        vectors, scales: `[d, k]`, and the singular values, `[k]`.
        squares: the sums of squares of all centred rows, including what was truncated, `[d]`.
        means: for every region the number of its states so far, and their mean `[channels, d]`.
    """

    def __init__(self, most: int) -> None:
        self.most, self.n = most, 0
        self.vectors = self.scales = self.squares = torch.zeros(0, dtype=torch.float64)
        self.means: dict[int, tuple[int, Tensor]] = {}

    def add(self, rows: Tensor, region: int) -> None:
        """Includes rows `[n, channels, d]` of a region, every channel about its own mean."""
        n, channels, d = rows.shape
        mean = rows.mean(dim=0)
        seen, before = self.means.get(region, (0, mean))
        own = (rows - mean).reshape(n * channels, d)
        moved = (seen * n / (seen + n)) ** 0.5 * (before - mean)
        added = (own**2).sum(dim=0) + (moved**2).sum(dim=0)
        self.squares = self.squares + added if self.n else added
        kept = self.vectors * self.scales if self.n else own.new_zeros(d, 0)
        stacked = torch.cat([kept, own.T, moved.T], dim=1)
        vectors, scales, _ = torch.linalg.svd(stacked, full_matrices=False)
        self.vectors, self.scales = vectors[:, : self.most], scales[: self.most]
        self.means[region] = seen + n, (seen * before + n * mean) / (seen + n)
        self.n += n * channels


class _Autocovariance(_Estimate):
    """γ̂ over the lags of the longest window; `dropped` leading axes are not in the graph."""

    def __init__(self, graph: RegionGraph, axes: Sequence[int] | None, dropped: int) -> None:
        dims = range(len(graph.event_shape))
        given = tuple(dims) if axes is None else tuple(sorted(axis - dropped for axis in axes))
        if not given or len(set(given)) < len(given) or not set(given) <= set(dims):
            raise GraphError(
                f"fit_covariances: expected axes= of the event's {len(dims) + dropped}, counted "
                f"from 0{' and not the channels' if dropped else ''}, got {axes}."
            )
        windows = [g for g in graph.groups if isinstance(g, WindowGroup)]
        if len(windows) < len(graph.groups):
            raise GraphError(
                "fit_covariances: form='stationary' requires windows of a tensor (graphs.tiles)."
            )
        self.axes, self.shape, self.n = given, graph.event_shape, 0
        self.longest = [max(g.shape[axis] for g in windows) for axis in given]
        self.sizes = []  # of the Fourier transforms: padded, unless windows wrap around
        for axis, longest in zip(given, self.longest, strict=True):
            along = [g.axes[axis] for g in windows]
            wraps = any((a.starts + a.length > a.size).any() for a in along)
            self.sizes.append(graph.event_shape[axis] + (0 if wraps else longest))
        self.power: Tensor | int = 0
        self.origin: Tensor | None = None
        self.sums: Tensor | int = 0

    def add(self, states: Tensor) -> None:
        # [n, channels, N] as [n, channels, A, *stationary axes]
        whole, k = states.reshape(*states.shape[:2], *self.shape), len(self.axes)
        moved = whole.movedim([axis + 2 for axis in self.axes], list(range(-k, 0)))
        fields = moved.reshape(*states.shape[:2], -1, *moved.shape[-k:])
        if self.origin is None:
            self.origin = fields[:1].flatten(3)[..., 0].reshape(1, *fields.shape[1:3], *[1] * k)
        fields = fields - self.origin
        for one in fields.split(64):
            self.power = self.power + self._correlated(one, one)
        self.n, self.sums = self.n + len(fields), self.sums + fields.sum(dim=0)

    def _correlated(self, x: Tensor, y: Tensor) -> Tensor:
        """Σ_t x_a(t) y_b(t + h), summed over states and channels: `[A, A, *sizes]`."""
        x, y = x.flatten(0, 1), y.flatten(0, 1)
        dims = list(range(2, x.ndim))
        waves = [torch.fft.rfftn(v, s=self.sizes, dim=dims) for v in (x, y)]
        product = torch.einsum("na...,nb...->ab...", waves[0].conj(), waves[1])
        summed: Tensor = torch.fft.irfftn(product, s=self.sizes, dim=dims)
        return summed

    def finish(self, ridge: float) -> Stationary:
        assert isinstance(self.sums, Tensor)
        field = (self.sums / self.n)[None]
        level = field.mean(dim=list(range(3, field.ndim)), keepdim=True).expand_as(field)
        crossed = self._correlated(field, level) + self._correlated(level, field)
        centred = self.power / self.n - (crossed - self._correlated(level, level))
        ones = torch.ones_like(field)
        gamma = centred / self._correlated(ones, ones).clamp(min=0.5)
        for number, longest in enumerate(self.longest):
            lags = torch.arange(1 - longest, longest) % self.sizes[number]
            gamma = gamma.index_select(2 + number, lags)
        zero_lag: Any = (..., *(longest - 1 for longest in self.longest))
        variances = gamma[zero_lag].diagonal()
        _raise(variances, ridge, variances.mean())
        return Stationary(gamma, self.axes)


class _Channels:
    """C, with mean variance 1 per channel."""

    def __init__(self, n_channels: int) -> None:
        self.n = 0
        self.origin: Tensor | None = None
        self.sums: Tensor | int = 0
        self.products = torch.zeros(n_channels, n_channels, dtype=torch.float64)

    def add(self, states: Tensor) -> None:
        if self.origin is None:
            self.origin = states[0].clone()
        centred = states - self.origin
        self.products += torch.einsum("ncp,ndp->cd", centred, centred)
        self.n, self.sums = self.n + len(states), self.sums + centred.sum(dim=0)

    def finish(self, ridge: float) -> Tensor:
        assert isinstance(self.sums, Tensor)
        mean = self.sums / self.n
        covariance = self.products / self.n - mean @ mean.T
        covariance = covariance / covariance.diagonal().mean()
        _raise(covariance.diagonal(), ridge, torch.ones(()))
        return covariance


def _raise(variances: Tensor, ridge: float, mean: Tensor) -> None:
    """Raises variances, in place, by a share of themselves; of their mean where they are 0."""
    variances.add_(ridge * torch.where(variances > 0, variances, mean.to(variances)))


def _outer(graph: RegionGraph, shared: bool) -> Outer:
    """The outer regions that are pooled, by kind: one each, or all of a model and shape."""
    found: dict[Hashable, Tensor] = {}
    for group, index, _ in weighed(graph, [g.outer.astype(np.float64) for g in graph.groups]):
        if shared and group.model is not None:
            key = _kind(group, None, shared)
            found[key] = torch.cat([found[key], index]) if key in found else index
        else:
            found.update((name, row[None]) for name, row in zip(group.names, index, strict=True))
    return found


def _kind(group: RegionGroup, name: Hashable, shared: bool) -> Hashable:
    """The kind of a region, which has one estimate: its name, or its model and shape."""
    return (group.model, group.shape) if shared and group.model is not None else name


def _parents(graph: RegionGraph, outer: Outer) -> dict[Hashable, Place]:
    """For every counted or outer region its place in itself, or in an outer one around it.

    Of the regions of a kind it is the last place, so that regions alike have one place in a ring.
    """
    around = [(kind, row) for kind, regions in outer.items() for row in regions]
    sets = [frozenset(row.tolist()) for _, row in around]
    needed = [((g.counts != 0) | g.outer).astype(np.float64) for g in graph.groups]
    groups = weighed(graph, needed)
    inner = [pair for g, index, _ in groups for pair in zip(g.names, index, strict=True)]
    holders = regions_around((frozenset(row.tolist()) for _, row in inner), sets)
    found: dict[Hashable, Place] = {}
    for (name, elements), parents in zip(inner, holders, strict=True):
        if not parents:
            raise GraphError(
                f"fit_covariances: region {name!r} lies inside no outer region. Give its "
                "covariance by name: Posterior({...})."
            )
        same = [n for n in parents if torch.equal(around[n][1], elements)]
        kind = around[(same or parents)[0]][0]
        rows = [around[n][1] for n in same[:1] or parents if around[n][0] == kind]
        orders = ((row, row.argsort()) for row in rows)
        places = (order[torch.searchsorted(row[order], elements)] for row, order in orders)
        found[name] = Place(kind, max(places, key=Tensor.tolist))
    return found
