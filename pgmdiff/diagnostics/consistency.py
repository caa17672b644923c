r"""Do the models of the pieces agree with the models of their overlaps?

Let D_f be the denoiser of a piece, D_o that of an overlap inside it, both seen on the overlap. If
the two models are marginals of one distribution, then (law of total expectation)

    E[ D_f - D_o | u_o ] = 0          so ⟨D_f - D_o, g(u_o)⟩ = 0 for any function g, and
    E|D_o - u_0|² = E|D_f - u_0|² + E|D_f - D_o|²                           (Pythagoras)

`check_consistency` measures both on noised data. Composition divides by the overlap's model, so
what is inconsistent there is what goes wrong at the seams.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.composition.joint import Joint
from pgmdiff.composition.local import checked_states, every_region, local_denoised
from pgmdiff.composition.plan import Batch, Scores
from pgmdiff.graphs.containment import incidence
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.regions import Condition, RegionGraph
from pgmdiff.noise import Generator, Noise
from pgmdiff.text import Table, brief, counted, described

__all__ = ["Agreement", "Consistency", "check_consistency"]

SIGNIFICANT = 4.0
"""Standard errors beyond which a deviation is taken for real."""
NEGLIGIBLE = 0.05
"""Share of a disagreement that the overlap may predict: networks that serve well reach 0.02."""


@dataclass(frozen=True)
class Agreement:
    """One kind of piece against one kind of overlap at one σ; errors are per element.

    Attributes:
        piece, overlap: model ids, or the shapes the models see where each node has its own.
        sigma: noise level.
        error_piece: mean squared denoising error of the piece's model on the overlap.
        error_overlap: of the overlap's model; at least `error_piece` for true marginals.
        disagreement: E|D_f - D_o|², which is positive even for true marginals: pieces see more.
        excess: the share of the disagreement that the overlap alone predicts, by a linear
            regression on (u_o, D_o) fitted to the other half of the data: 0 for true marginals.
            As a scale: below 0.05 it is negligible, about 0.3 the networks are undertrained, near 1
            they work in different units or on different data.
        deviation: of `excess` from 0, in standard errors over the data.
        lag: of `error_overlap - error_piece` below 0, in standard errors.
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

    def __repr__(self) -> str:
        return described(
            self,
            f"piece={brief(self.piece, 30)}",
            f"overlap={brief(self.overlap, 30)}",
            f"sigma={self.sigma:.3g}",
            f"excess={self.excess:.3g}",
            f"deviation={self.deviation:.3g}",
            f"lag={self.lag:.3g}",
            self.verdict,
        )

    @property
    def verdict(self) -> str:
        """A key of `ADVICE`, or "consistent"."""
        if self.lag > SIGNIFICANT:
            return "piece lags"
        apart = self.deviation > SIGNIFICANT and self.excess > NEGLIGIBLE
        return "not a marginal" if apart else "consistent"


ADVICE = {
    "piece lags": "the piece's model, which sees more, denoises the overlap worse than the "
    "overlap's own model: train the piece's model further, or share one network, or check its "
    "adapter and units",
    "not a marginal": "the overlap's model is not a marginal of the piece's: train both on crops "
    "of the same data in the same units (training.random_crops), or train longer, or share one "
    "network, or refit the overlap's model",
}


@dataclass(frozen=True)
class Consistency:
    """What `check_consistency` found: one `Agreement` per kind of piece, kind of overlap and σ.

    Attributes:
        rows: what was found, each an `Agreement`.
    """

    rows: tuple[Agreement, ...]

    @property
    def consistent(self) -> bool:
        """Whether no row deviates, significantly and by more than `NEGLIGIBLE`."""
        return all(row.verdict == "consistent" for row in self.rows)

    def __repr__(self) -> str:
        found = Counter(row.verdict for row in self.rows)
        verdicts = (f"{n} {verdict}" for verdict, n in found.items())
        return described(self, counted(len(self.rows), "row"), *verdicts)

    @property
    def table(self) -> Table:
        """What was found, and below it what to do about it."""
        verdicts = dict.fromkeys(row.verdict for row in self.rows)
        return Table(
            "Pieces against overlaps",
            [
                (
                    f"{row.piece} / {row.overlap}",
                    f"{row.sigma:.3g}",
                    f"{row.error_piece:.3g}",
                    f"{row.error_overlap:.3g}",
                    f"{row.excess:.3f} ({row.deviation:+.1f})",
                    row.verdict,
                )
                for row in self.rows
            ],
            (
                "piece / overlap",
                "σ",
                "mse of the piece",
                "of the overlap",
                "excess (std. errors)",
                "verdict",
            ),
            [f"{v}: {ADVICE[v]}." for v in verdicts if v in ADVICE],
        )

    def __str__(self) -> str:
        return str(self.table)


def check_consistency(
    graph: FactorGraph | RegionGraph,
    scores: Scores,
    data: Tensor,
    sigmas: Iterable[float] = (0.1, 0.3, 1.0, 3.0),
    *,
    conditions: Mapping[Any, Condition] | None = None,
    generator: Generator = 0,
    max_batch: int | None = None,
    progress: bool = False,
) -> Consistency:
    """Measures how far the models of pieces disagree with those of their overlaps, per σ.

    Args:
        graph: whose outer regions are the pieces, the other counted regions the overlaps.
        scores, conditions, max_batch: as for `compose`.
        data: clean states, `[n, *event_shape]`; tens at least, for the standard errors.
        sigmas: noise levels, in the data's units.
        generator: of the noise.
        progress: shows a progress bar, over the sigmas.

    Returns:
        A table to print; `.rows` for the figures, `.consistent` for a verdict.

    Raises:
        ShapeError: data of another shape, or fewer than 2 states.
    """
    joint = every_region(graph, scores, conditions=conditions, max_batch=max_batch)
    clean = checked_states("check_consistency", data, joint)
    noise = Noise.of(generator, len(data))
    kinds = _pairs_by_kind(joint)
    rows = []
    for step, sigma in enumerate(tqdm(list(sigmas), disable=not progress, desc="consistency")):
        noisy = clean + sigma * noise(step, clean)
        denoised = local_denoised(joint, noisy, sigma)
        for (piece, overlap), pairs in kinds.items():
            seen = [_on_overlap(pair, denoised, noisy, clean) for pair in pairs]
            stacked = [torch.stack(part, dim=1) for part in zip(*seen, strict=True)]
            rows.append(_agreement(piece, overlap, sigma, *stacked))
    return Consistency(tuple(rows))


@dataclass(frozen=True)
class _Pair:
    """An overlap inside a piece: where the piece holds the overlap's elements."""

    piece: Hashable
    overlap: Hashable
    elements: Tensor
    places: Tensor


_Region = tuple[str, Tensor]
"""Its kind, and its elements `[d]`."""


def _pairs_by_kind(joint: Joint) -> dict[tuple[str, str], list[_Pair]]:
    """Every counted region that is not outer, with every outer region that contains it."""
    pieces: dict[Hashable, _Region] = {}
    overlaps: dict[Hashable, _Region] = {}
    for batch in joint.batches:
        index = batch.group.indices(0, len(batch.group)).reshape(len(batch.group), -1)
        for row, elements in enumerate(index):
            regions = pieces if batch.group.outer[row] else overlaps
            regions[batch.group.name(row)] = (_kind(batch), elements)
    kinds: dict[tuple[str, str], list[_Pair]] = {}
    for piece, overlap in _contained(pieces, overlaps, joint.graph.n_elements):
        (piece_kind, whole), (overlap_kind, part) = pieces[piece], overlaps[overlap]
        order = whole.argsort()
        places = order[torch.searchsorted(whole[order], part)]
        kind = (piece_kind, overlap_kind)
        kinds.setdefault(kind, []).append(_Pair(piece, overlap, part, places))
    return kinds


def _kind(batch: Batch) -> str:
    """One label for all regions that one callable evaluates."""
    group = batch.group
    if group.model is not None:
        return str(group.model)
    more = f" … (+{len(group) - 1})" if len(group) > 1 else ""
    return f"{group.name(0)}{more}"


def _contained(
    pieces: Mapping[Hashable, _Region], overlaps: Mapping[Hashable, _Region], n_elements: int
) -> Iterator[tuple[Hashable, Hashable]]:
    if not pieces or not overlaps:
        return
    rows, columns = (
        incidence([elements.numpy() for _, elements in regions.values()], n_elements)
        for regions in (pieces, overlaps)
    )
    shared = (rows @ columns.T).tocoo()
    names = list(pieces), list(overlaps)
    for row, column, size in zip(shared.row, shared.col, shared.data, strict=True):
        overlap = names[1][column]
        if size == len(overlaps[overlap][1]):
            yield names[0][row], overlap


def _on_overlap(
    pair: _Pair, denoised: Mapping[Any, Tensor], noisy: Tensor, clean: Tensor
) -> tuple[Tensor, ...]:
    """The piece's and the overlap's denoised, the noisy and the clean values: `[n, d]` each."""
    by_piece = denoised[pair.piece][:, pair.places]
    return by_piece, denoised[pair.overlap], noisy[:, pair.elements], clean[:, pair.elements]


def _agreement(
    piece: str,
    overlap: str,
    sigma: float,
    by_piece: Tensor,
    by_overlap: Tensor,
    noisy: Tensor,
    clean: Tensor,
) -> Agreement:
    """All inputs `[n, pairs, d]`."""
    error_piece = ((by_piece - clean) ** 2).mean(dim=(1, 2))
    error_overlap = ((by_overlap - clean) ** 2).mean(dim=(1, 2))
    difference = by_piece - by_overlap
    disagreement = (difference**2).mean().item()
    predicted = _cross_predicted(difference, torch.cat([noisy, by_overlap], dim=2))
    agreement = (difference * predicted).mean(dim=(1, 2))
    return Agreement(
        piece,
        overlap,
        sigma,
        error_piece.mean().item(),
        error_overlap.mean().item(),
        disagreement,
        agreement.mean().item() / disagreement if disagreement else 0.0,
        _in_standard_errors(agreement),
        _in_standard_errors(error_piece - error_overlap),
    )


def _cross_predicted(target: Tensor, features: Tensor) -> Tensor:
    """Ridge regression `[n, pairs, d]`, each half of the n states predicted from the other."""
    inputs = torch.cat([features, torch.ones_like(features[..., :1])], dim=2)
    predicted = torch.empty_like(target)
    for first in (0, 1):
        x = inputs[first::2].flatten(0, 1)
        gram = x.T @ x
        ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
        weights = torch.linalg.solve(gram + ridge, x.T @ target[first::2].flatten(0, 1))
        predicted[1 - first :: 2] = inputs[1 - first :: 2] @ weights
    return predicted


def _in_standard_errors(values: Tensor) -> float:
    """Mean over standard error of the mean; 0 where nothing varies."""
    spread = values.std().item()
    return values.mean().item() / (spread / len(values) ** 0.5) if spread else 0.0
