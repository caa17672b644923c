r"""Consistency: whether models are right in scale, and agree with the models of their overlaps.

Let D_f be the denoiser of a piece, D_o that of an overlap inside it, both restricted to the
overlap. If the two models are marginals of one distribution, then (law of total expectation)

    E[ D_f - D_o | u_o ] = 0          so ⟨D_f - D_o, g(u_o)⟩ = 0 for any function g, and
    E|D_o - u_0|² = E|D_f - u_0|² + E|D_f - D_o|²                           (Pythagoras)

`check_consistency` measures both on noised data. Composition divides by the overlap's model, so
that an inconsistency there shows as an error at the seams. Of D_f - D_o = (D_f - u_0) + (u_0 - D_o)
neither part can be predicted from u_o where its model is right: the share of the second in what g
predicts is the share of the overlap's model in the blame. In particular u_0 - D cannot be predicted
from D - m and u - D: this detects a wrong adapter or unit of σ of each model alone.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.composition.batching import MaxBatch
from pgmdiff.composition.composing import compose
from pgmdiff.composition.evaluate import flattened
from pgmdiff.composition.fields import Field
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.local import Everything, checked_states, local_denoised
from pgmdiff.composition.plan import Scores
from pgmdiff.errors import GraphError, ScoreError
from pgmdiff.graphs.containment import incidence
from pgmdiff.graphs.factor_graph import GraphLike
from pgmdiff.graphs.regions import Condition
from pgmdiff.graphs.report import conflict
from pgmdiff.linalg import tensor_of, widened
from pgmdiff.noise import CONSISTENCY, Generator, Noise
from pgmdiff.text import Table, brief, counted, described

__all__ = ["Agreement", "Calibration", "Consistency", "check_consistency"]

SIGNIFICANT = 4.0
"""Standard errors beyond which a deviation counts as real."""
NEGLIGIBLE = 0.05
"""Share of a disagreement that the overlap may predict; networks that work well reach 0.02."""
CERTAIN, ROUNDED = 1e9, 1e-10
"""Standard errors of what does not vary; share of the squares of data that counts as variance."""
UNTRAINED = 0.1
"""Share of a model's own error that another scale may save: a network has 0.07 after 300 steps."""
FAINT = 0.01
"""Share of the denoising error below which a fault is ignored: at 0.01 the posterior's mean is off
by a tenth of its standard deviation."""


@dataclass(frozen=True)
class Agreement:
    """One kind of piece against one kind of overlap at one σ; errors are per element.

    Attributes:
        piece, overlap: model ids, or names of regions where each region has its own model.
        sigma: noise level.
        error_piece: mean squared denoising error of the piece's model on the overlap.
        error_overlap: that of the overlap's model; at least `error_piece` for true marginals.
        disagreement: E|D_f - D_o|², which is positive even for true marginals: pieces see more.
        excess: the share of the disagreement that the overlap alone predicts, by a linear
            regression on (u_o, D_o) fitted to the other half of the data: 0 for true marginals.
            Below 0.05 it is negligible, and also where excess times disagreement is less than 1 %
            of `error_overlap`, as of variables that are nearly independent; about 0.3 means that
            the networks are undertrained, near 1 that they work in different units or on different
            data.
        deviation: how far `excess` is above 0, in standard errors over the data.
        lag: how far `error_overlap - error_piece` is below 0, in standard errors.
        blame: the share of the overlap's model in the excess: about 1 if it alone is at fault, 0 if
            the piece's is; without meaning where there is no excess.
    """

    piece: str
    overlap: str
    sigma: float
    error_piece: float
    error_overlap: float
    disagreement: float
    excess: float
    deviation: float
    lag: float
    blame: float

    def __post_init__(self) -> None:
        _check_finite(self, f"{self.piece!r} against {self.overlap!r}")

    def __repr__(self) -> str:
        kinds = (f"{name}={brief(getattr(self, name), 30)}" for name in ("piece", "overlap"))
        names = "sigma", "excess", "deviation", "lag"
        figures = (f"{name}={getattr(self, name):.3g}" for name in names)
        return described(self, *kinds, *figures, self.verdict)

    @property
    def verdict(self) -> str:
        """A key of `ADVICE`, or "consistent"."""
        least = FAINT * self.error_overlap
        if self.lag > SIGNIFICANT and self.error_piece - self.error_overlap > least:
            return "piece lags"
        apart = self.deviation > SIGNIFICANT and self.excess > NEGLIGIBLE
        faint = self.excess * self.disagreement <= least
        return "not a marginal" if apart and not faint else "consistent"

    @property
    def longer(self) -> tuple[str, ...]:
        """The models to train longer: the piece's, the overlap's, both or none."""
        if self.verdict == "consistent":
            return ()
        if self.verdict == "piece lags" or self.blame < 0.25:
            return (self.piece,)
        return (self.overlap,) if self.blame > 0.75 else (self.piece, self.overlap)


@dataclass(frozen=True)
class Calibration:
    """Whether the denoised values of one kind of model have the right scale, at one σ.

    Attributes:
        model: the model id, or the names of regions where each has its own model.
        sigma: noise level.
        error: mean squared denoising error per element.
        gain: the share of it that D + a (D - m) + b (u - D) + c would save, by one regression for
            all elements, fitted to the other half of the data: 0 where D is the posterior mean.
        deviation: how far `gain` is above 0, in standard errors over the data.
        prior: the error that the best scalar denoiser has, v σ² / (v + σ²) for data of variance v.
    """

    model: str
    sigma: float
    error: float
    gain: float
    deviation: float
    prior: float

    def __post_init__(self) -> None:
        _check_finite(self, repr(self.model))

    def __repr__(self) -> str:
        names = "sigma", "error", "gain", "deviation"
        figures = (f"{name}={getattr(self, name):.3g}" for name in names)
        return described(self, brief(self.model, 30), *figures)

    @property
    def right(self) -> bool:
        """Whether the gain is negligible, or no more than chance makes it."""
        real = self.deviation > SIGNIFICANT and self.gain > UNTRAINED
        return not (real and self.gain * self.error > FAINT * self.prior)


ADVICE = {
    "piece lags": "the piece's model, which sees more, denoises the overlap worse than the "
    "overlap's own model: train the piece's model further, or share one network, or check its "
    "adapter, its units and the order of its scope",
    "not a marginal": "the overlap's model is not a marginal of the piece's: train both on crops "
    "of the same data in the same units (training.fit), and, if overlaps get a null condition, "
    "with it (null_condition= of fit); or train longer, or share one network, or refit the "
    "overlap's model. A scope must list variables in the order that its model knows",
}


@dataclass(frozen=True)
class Consistency:
    """The result of `check_consistency`; it prints as a table.

    Attributes:
        rows: one `Agreement` per kind of piece, kind of overlap and σ.
        models: one `Calibration` per kind of model and σ.
    """

    rows: tuple[Agreement, ...]
    models: tuple[Calibration, ...] = ()

    @property
    def consistent(self) -> bool:
        """Whether all rows are, and all models have the right scale."""
        return not self.wrong and all(row.verdict == "consistent" for row in self.rows)

    @property
    def wrong(self) -> list[Calibration]:
        """The models of a wrong scale."""
        return [model for model in self.models if not model.right]

    def __repr__(self) -> str:
        found = Counter(row.verdict for row in self.rows)
        parts = [f"{n} {verdict}" for verdict, n in found.items()]
        compared = counted(len(self.rows), "row") if self.rows else "no piece holds an overlap"
        wrong = len(self.wrong)
        scales = f"{wrong} of {counted(len(self.models), 'scale')} wrong" if wrong else ""
        return described(self, compared, *parts, scales)

    @property
    def table(self) -> Table:
        """The rows, followed by what to do about them."""
        rows = []
        for row in self.rows:
            figures = (f"{x:.3g}" for x in (row.sigma, row.error_piece, row.error_overlap))
            excess = f"{row.excess:.3f} ({row.deviation:+.1f})"
            rows.append((f"{row.piece} / {row.overlap}", *figures, excess, row.verdict))
        head = "piece / overlap", "σ", "mse, piece", "overlap", "excess (errors)", "verdict"
        verdicts = dict.fromkeys(row.verdict for row in self.rows)
        notes = [f"{v}: {ADVICE[v]}." for v in verdicts if v in ADVICE]
        if not rows:
            notes.append("No overlaps were compared: no piece of the graph holds one.")
        for name in dict.fromkeys(model.model for model in self.wrong):
            same = (model for model in self.wrong if model.model == name)
            worst = max(same, key=lambda model: model.gain)
            notes.append(
                f"{name}: its denoised values have a wrong scale or offset, which makes "
                f"{worst.gain:.0%} of its error at σ = {worst.sigma:.3g}. Check its adapter, the "
                "unit of σ and that of the data, or train longer."
            )
        if self.models and not self.wrong:
            notes.append("All denoised values have the right scale.")
        longer = Counter(name for row in self.rows for name in row.longer)
        if longer:
            often = (f"{name} ({counted(n, 'row')})" for name, n in longer.most_common())
            notes.append(f"If they are networks, train longer, first of all: {', '.join(often)}.")
        return Table("Pieces against overlaps", rows, head, notes)

    def __str__(self) -> str:
        return str(self.table)


def check_consistency(
    graph: GraphLike,
    scores: Scores,
    data: Tensor,
    sigmas: Iterable[float] | None = None,
    *,
    conditions: Mapping[Any, Condition | Field] | None = None,
    null_condition: Condition | None = None,
    generator: Generator = None,
    max_batch: MaxBatch = None,
    progress: bool = False,
    **condition: Any,
) -> Consistency:
    """Measures whether models are right in scale and agree with those of their overlaps, per σ.

    One score alone is checked on a graph of one piece: `tiles(shape, window=shape)`.

    Args:
        graph: its outer regions are the pieces, its other counted regions the overlaps.
        scores, conditions, null_condition, max_batch: as for `compose`. Give the null condition
            that the joint has: without it the models of overlaps get labels here that they do not
            get there, and seem to disagree.
        data: clean states, `[n, *event_shape]`; at least tens, for the standard errors. Of four,
            the fewest, one right model in thirty seems wrong.
        sigmas: noise levels, in the data's units; if None, 0.1, 0.3, 1 and 3 times the root mean
            square of the elements' standard deviations.
        generator: the source of the noise, as for `sample`.
        progress: whether to show a progress bar over the noise levels.
        condition: what the models receive with each state, `[n, ...]`, such as a `field`: as when
            a joint is called.

    Raises:
        ShapeError: the data have another shape, or fewer than 4 states.
        ScoreError: the data do not vary and no σ is given, or a σ is not positive and finite.
        GraphError: pieces of the same elements have conditions of their own, such as observations.
    """
    joint = compose(
        graph,
        scores,
        rule=Everything(),
        conditions=conditions,
        null_condition=null_condition,
        max_batch=max_batch,
    )
    if (both := conflict(joint.regions)) is not None:
        raise GraphError(
            f"check_consistency: regions {both[0]!r} and {both[1]!r} hold the same elements under "
            "different conditions, which the data are no states of. Leave out conditions=, and "
            "give each state its own by keyword, such as condition=y, [n, ...]."
        )
    data = tensor_of("check_consistency", "data", data)
    clean = checked_states("check_consistency", data, joint)
    _, _, condition = flattened(joint.event_shape, data, 1.0, condition)
    noise = Noise.of(generator, len(data))
    regions, alike = list(_regions(joint)), defaultdict[tuple[str, int], list[_Region]](list)
    for region in regions:
        alike[region.kind, len(region.elements)].append(region)
    kinds = _pairs_by_kind(regions, joint.regions.n_elements)
    if sigmas is None:
        scale = clean.double().var(dim=0).mean().sqrt().item()
        sigmas = [share * scale for share in (0.1, 0.3, 1.0, 3.0)]
    sigmas = [float(sigma) for sigma in sigmas]
    if not all(0 < sigma < math.inf for sigma in sigmas):
        raise ScoreError(
            f"check_consistency: expected finite noise levels above 0, got {sigmas}. Give sigmas=, "
            "also where the data do not vary."
        )
    rows, models = list[Agreement](), list[Calibration]()
    for step, sigma in enumerate(tqdm(sigmas, disable=not progress, desc="consistency")):
        noisy = clean + sigma * noise(CONSISTENCY + step, clean)
        denoised = local_denoised(joint, noisy, sigma, condition)
        for (kind, _), own in alike.items():
            found = torch.stack([denoised[region.name] for region in own], dim=1)
            u, u_0 = (torch.stack([x[:, r.elements] for r in own], 1) for x in (noisy, clean))
            models.append(_calibration(kind, sigma, found, u, u_0))
        for (piece, overlap), pairs in kinds.items():
            by_piece = torch.stack([denoised[p.piece][:, p.places] for p in pairs], dim=1)
            by_overlap = torch.stack([denoised[p.overlap] for p in pairs], dim=1)
            u, u_0 = (torch.stack([x[:, p.elements] for p in pairs], 1) for x in (noisy, clean))
            rows.append(_agreement(piece, overlap, sigma, by_piece, by_overlap, u, u_0))
    return Consistency(tuple(rows), tuple(models))


@dataclass(frozen=True)
class _Pair:
    """An overlap inside a piece: its elements, and their places among the piece's elements."""

    piece: Hashable
    overlap: Hashable
    elements: Tensor
    places: Tensor


@dataclass(frozen=True)
class _Region:
    """A counted region, its kind, a label for all that one callable evaluates, its elements."""

    name: Hashable
    kind: str
    elements: Tensor
    outer: bool


def _regions(joint: Joint) -> Iterator[_Region]:
    for group in (batch.group for batch in joint.batches):
        more = f" … (+{len(group) - 1})" if len(group) > 1 else ""
        kind = f"{group.name(0)}{more}" if group.model is None else str(group.model)
        for row, elements in enumerate(group.flat()):
            yield _Region(group.name(row), kind, elements, bool(group.outer[row]))


def _pairs_by_kind(
    regions: Sequence[_Region], n_elements: int
) -> dict[tuple[str, str], list[_Pair]]:
    """Every region that is not outer, with every outer region that contains it."""
    pieces = [region for region in regions if region.outer]
    overlaps = [region for region in regions if not region.outer]
    kinds: dict[tuple[str, str], list[_Pair]] = defaultdict(list)
    if not pieces or not overlaps:
        return kinds
    rows, columns = (
        incidence([region.elements.numpy() for region in some], n_elements)
        for some in (pieces, overlaps)
    )
    shared = (rows @ columns.T).tocoo()
    for row, column, size in zip(shared.row, shared.col, shared.data, strict=True):
        piece, overlap = pieces[row], overlaps[column]
        whole, part = piece.elements, overlap.elements
        if size == len(part):
            order = whole.argsort()
            places = order[torch.searchsorted(whole[order], part)]
            pair = _Pair(piece.name, overlap.name, part, places)
            kinds[piece.kind, overlap.kind].append(pair)
    return kinds


def _calibration(name: str, sigma: float, *seen: Tensor) -> Calibration:
    """The figures of one kind, from D, u and u_0 on its regions, `[n, regions, d]` each."""
    denoised, noisy, clean = (x.double().flatten(1)[..., None] for x in seen)
    features = torch.cat([denoised, noisy - denoised], dim=2)
    predicted = _cross_predicted(clean - denoised, features)
    saved = ((clean - denoised) * predicted).mean(dim=(1, 2))
    error = ((clean - denoised) ** 2).mean().item()
    v = (clean.var(dim=0) + ROUNDED * clean.square().mean(dim=0)).mean().item()
    gain = saved.mean().item() / error if error else 0.0
    prior = v * sigma**2 / (v + sigma**2)
    return Calibration(name, sigma, error, gain, _in_standard_errors(saved), prior)


def _agreement(piece: str, overlap: str, sigma: float, *seen: Tensor) -> Agreement:
    """The figures of one kind, from D_f, D_o, u and u_0 on its overlaps, `[n, pairs, d]` each."""
    by_piece, by_overlap, noisy, clean = (x.double() for x in seen)
    error_piece = ((by_piece - clean) ** 2).mean(dim=(1, 2))
    error_overlap = ((by_overlap - clean) ** 2).mean(dim=(1, 2))
    difference = by_piece - by_overlap
    disagreement = (difference**2).mean().item()
    predicted = _cross_predicted(difference, torch.cat([noisy, by_overlap], dim=2))
    agreement = (difference * predicted).mean(dim=(1, 2))
    explained, own = agreement.mean().item(), ((clean - by_overlap) * predicted).mean().item()
    return Agreement(
        piece,
        overlap,
        sigma,
        error_piece.mean().item(),
        error_overlap.mean().item(),
        disagreement,
        explained / disagreement if disagreement else 0.0,
        _in_standard_errors(agreement),
        _in_standard_errors(error_piece - error_overlap),
        own / explained if explained else 0.5,
    )


def _cross_predicted(target: Tensor, features: Tensor) -> Tensor:
    """Ridge regression `[n, pairs, d]`, each half of the n states predicted from the other.

    Features are standardised, so that neither units nor offsets decide what the ridge leaves.
    """
    predicted = torch.empty_like(target)
    for first in (0, 1):
        x, y = (part[first::2].flatten(0, 1) for part in (features, target))
        mean, spread = x.mean(dim=0), x.std(dim=0)
        units = torch.where(spread > 0, spread, 1)
        z = (x - mean) / units
        ridge = 1e-3 * len(z) * torch.eye(z.shape[1]).to(z)
        weights = torch.linalg.solve(z.T @ z + ridge, z.T @ (y - y.mean(dim=0)))
        other = (features[1 - first :: 2] - mean) / units
        predicted[1 - first :: 2] = y.mean(dim=0) + other @ weights
    return predicted


def _in_standard_errors(values: Tensor) -> float:
    """The mean in units of its standard error, wider for few; `CERTAIN` where nothing varies."""
    spread, mean = float(values.std()), float(values.mean())
    if not spread:
        return math.copysign(CERTAIN, mean) if mean else 0.0
    return mean * math.sqrt(len(values)) / (widened(len(values)) * spread)


def _check_finite(figures: object, what: str) -> None:
    """Raises `ScoreError` for a figure that is NaN or infinite: above no limit, it looks right."""
    if not all(math.isfinite(x) for x in vars(figures).values() if isinstance(x, float)):
        raise ScoreError(
            f"check_consistency: a figure of {what} at σ = {vars(figures)['sigma']:g} is not "
            "finite, since squares of denoised values overflow. Look at the models there."
        )
