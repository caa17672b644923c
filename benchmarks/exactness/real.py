"""Real data whose correlation outlasts the overlap: a series and a field; and gravel.

One small network per case is the model of windows and of overlaps. It was trained on crops of one
part of the data; what is composed of it is compared with the other part:

    sea          half-hourly anomalies of the sea's temperature: 16 windows of 8, overlaps of 2
    soft gravel  a photograph out of focus: 8 windows of 8 × 8 in a strip, overlaps of 2
    gravel       the same photograph, sharp and at half the size, overlaps of 8: here the overlap
                 exceeds the correlation length, and the rules should agree. This model was trained
                 on the whole photograph, so that nothing was held out

Every rule may use the same number of network rows per sample, whatever their size, and takes as
many noise levels as these allow: concatenation and averages evaluate windows only, other rules
windows and overlaps, and three iterations have a third of the levels. Covariances are pooled over
the training part.

The floor, *real, other part*, is the training part in as many groups as there are seeds, measured
as the rules are. Distances are free of bias (see `statistics`): 0 is the held-out part's own
distribution. *above_posterior* is the difference of a distance from posterior composition's with
the same noise, with its standard error over seeds.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import prod
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.data import sea, soft_gravel
from benchmarks.exactness.aims import by_errors
from benchmarks.exactness.statistics import (
    autocovariance,
    bands,
    crops_energy_distance,
    spectrum,
    square_distance,
)
from benchmarks.problems import RULES, Counter, passes
from benchmarks.reports import Column, Row, columns, plus_minus, table
from pgmdiff.composition.composing import compose
from pgmdiff.diagnostics.metrics import mean_and_error, seam_ratio
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.models import gravel
from pgmdiff.precision import Covariances, fit_covariances
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.scores.adapters import from_denoiser
from pgmdiff.text import Table

__all__ = ["CASES", "rows", "tables", "targets"]

REAL, FLOOR = "real, held out", "real, other part"
SEEDS = 8
LEVELS = 20
"""Of marginal composition, which sets the number of network rows."""
BANDS = 24
VALUES = 16_384
"""The largest number of values in one network call, to bound the memory."""
LAGS = 64
"""The largest lag at which an autocorrelation is kept."""


@dataclass(frozen=True, eq=False)
class Case:
    """Real data to be composed of windows.

    Attributes:
        name: in tables and in the JSON.
        across: sides of the state and of all its regions before the last axis.
        window, overlap: along the last axis.
        windows: number of them.
        samples: per seed.
        sigmas: last and first noise level.
        load_parts: loads the training and the held-out part, `[pieces, length]` or an image each.
        load: loads the denoiser.
    """

    name: str
    across: tuple[int, ...]
    window: int
    overlap: int
    windows: int
    samples: int
    sigmas: tuple[float, float]
    load_parts: Callable[[], Sequence[Tensor]]
    load: Callable[[], Callable[..., Tensor]]

    @property
    def stride(self) -> int:
        """From the beginning of a window to that of the next."""
        return self.window - self.overlap

    @property
    def length(self) -> int:
        """Of the state along its last axis."""
        return self.window + (self.windows - 1) * self.stride

    def graph(self, rule: str) -> RegionGraph:
        """Windows and overlaps; for concatenation, windows side by side, one more where needed."""
        length, overlap = self.length, self.overlap
        if rule == "concatenation":
            length, overlap = -(-length // self.window) * self.window, 0
        across = (0,) * len(self.across)
        return tiles((*self.across, length), (*self.across, self.window), (*across, overlap))

    def levels(self, rule: str, levels: int) -> int:
        """The number that costs no more network rows than `levels` of marginal composition."""

        def rows(rule: str) -> int:
            counted = (
                group.outer if rule == "average" else group.counts != 0
                for group in self.graph(rule).groups
            )
            return passes(rule) * sum(int(which.sum()) for which in counted)

        return ((2 * levels - 1) * rows("marginal") // rows(rule) + 1) // 2

    def seams(self, rule: str) -> list[int]:
        """Places along the last axis where a window begins or ends."""
        if rule == "concatenation":
            return list(range(self.window, self.length, self.window))
        starts = range(self.stride, self.length - self.overlap, self.stride)
        return [place for start in starts for place in (start, start + self.overlap)]

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor]:
        """The training and the held-out part, `[pieces, 1, ..., length]` each."""
        axes = len(self.across)
        train, held_out = (p.reshape(-1, 1, *p.shape[-axes:]) for p in self.load_parts())
        return train, held_out

    @cached_property
    def states(self) -> tuple[Tensor, Tensor]:
        """States `[n, *state]` cut from both parts."""
        train, held_out = (self._crops(p, self.across[-1], self.length) for p in self.parts)
        return train, held_out

    @cached_property
    def covariances(self) -> Covariances:
        """The covariances of windows and overlaps, all windows of the training part pooled.

        Crops begin at every second place down and at every stride along: with a few hundred of
        them the smallest of 256 variances are so wrong that posterior composition shows it.
        """
        everywhere = self._crops(self.parts[0], 2, self.stride)
        return fit_covariances(self.graph("marginal"), everywhere, shared=True)

    def _crops(self, part: Tensor, down: int, right: int) -> Tensor:
        """States `[n, *across, length]` of a part, cut at these distances on the two axes."""
        for axis, side in enumerate(self.across[1:], start=2):
            part = part.unfold(axis, side, down)
        part = part.unfold(1 + len(self.across), self.length, right)
        return part.movedim(1, 1 + len(self.across)).flatten(0, len(self.across))


CASES = (
    Case("sea", (1,), 8, 2, 16, 64, (0.01, 40.0), sea.sea_parts, sea.sea_denoiser),
    Case(
        "soft gravel", (1, 8), 8, 2, 8, 24, (0.01, 60.0),
        soft_gravel.soft_gravel_parts, soft_gravel.soft_gravel_denoiser,
    ),
    Case(
        "gravel", (1, 16), 16, 8, 6, 4, (0.01, 20.0),
        lambda: gravel.gravel_image().chunk(2, dim=1), gravel.gravel_denoiser,
    ),
)  # fmt: skip


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Measures every rule on every case, or with `smoke` one seed of few short samples."""
    return [row for case in CASES for row in _case_rows(case, smoke)]


def _case_rows(case: Case, smoke: bool) -> list[dict[str, Any]]:
    if smoke:
        case = replace(case, windows=3, samples=2)
    seeds, levels = (1, 4) if smoke else (SEEDS, LEVELS)
    ruler = Ruler(case)
    found = [ruler.row(FLOOR, [case.states[0][seed::seeds] for seed in range(seeds)])]
    posterior: list[Tensor] = []
    for rule in tqdm(RULES, desc=case.name):
        counter, steps = Counter(), case.levels(rule, levels)
        joint = compose(
            case.graph(rule),
            from_denoiser(counter.counted(case.load())),
            rule=RULES[rule](case.covariances),
            max_batch=VALUES // (prod(case.across) * case.window),
        )
        start, shape = time.process_time(), (case.samples, *joint.event_shape)
        sigmas = karras(steps, *case.sigmas)
        drawn = [
            sample(joint, sigmas, shape=shape, solver=Heun(), generator=seed)[..., : case.length]
            for seed in range(seeds)
        ]
        n = seeds * case.samples
        row: dict[str, Any] = {"levels": steps, "rows": counter.rows / n}
        row["cpu_seconds"] = (time.process_time() - start) / n
        posterior = drawn if rule == "posterior" else posterior
        if rule.startswith("consistent"):
            row["above_posterior"] = ruler.distances(drawn, posterior)
        found.append(ruler.row(rule, drawn) | row)
    return found


class Ruler:
    """Compares states of a case with its held-out part.

    Attributes:
        mean: of all values of both parts.
        held_out: `[n, *state]`, of mean 0.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.mean = torch.cat([part.flatten() for part in case.parts]).mean()
        self.held_out = case.states[1] - self.mean

    def autocorrelation(self, x: Tensor) -> Tensor:
        """In units of the held-out part's variance: `[lags]`."""
        longest = min(self.case.length // 2, LAGS)
        lags = list(range(0, longest + 1, max(1, longest // 32)))
        return autocovariance(x, lags) / self.held_out.double().square().mean()

    def decibels(self, x: Tensor) -> Tensor:
        """The spectrum: `[bands]`."""
        return 10 * spectrum(x, bands(self.case.length, BANDS)).log10()

    def row(self, rule: str, groups: Sequence[Tensor]) -> dict[str, Any]:
        """Statistics of samples `[n, *state]`, in one group per seed."""
        case, seams = self.case, self.case.seams(rule)
        about = {key: getattr(case, key) for key in ("window", "overlap", "windows")}
        about |= {"case": case.name, "rule": rule, "held_out": len(self.held_out)}
        about |= {"seeds": len(groups), "samples": len(groups[0]), **self.distances(groups)}
        return about | {"seam_ratio": mean_and_error([seam_ratio(x, seams) for x in groups])}

    def distances(
        self, groups: Sequence[Tensor], others: Sequence[Tensor] = ()
    ) -> dict[str, tuple[float, float | None]]:
        """Distances from the held-out part, or by how much they exceed those of other groups.

        They are squares, except the energy distance.
        """
        found: dict[str, tuple[float, float | None]] = {}
        groups, others = ([x - self.mean for x in some] for some in (groups, others))
        halves = self.held_out[0::2], self.held_out[1::2]
        for name, curve in (("autocorrelation", self.autocorrelation), ("spectrum", self.decibels)):
            curves, truth = (torch.stack([*map(curve, some)]) for some in (groups, halves))
            than = torch.stack([*map(curve, others)]) if others else None
            found[name] = square_distance(curves, truth, than)
        energy, its = ([*map(self._energy, some)] for some in (groups, others))
        gaps = [a - b for a, b in zip(energy, its, strict=True)] if its else energy
        return {**found, "energy distance": mean_and_error(gaps)}

    def _energy(self, x: Tensor) -> float:
        return crops_energy_distance(self._stretches(x), self._stretches(self.held_out))

    def _stretches(self, x: Tensor) -> Tensor:
        """Crops as long as three windows with their overlaps: `[n, m, d]`, m from every state."""
        found = x.unfold(-1, self.case.window + 2 * self.case.stride, self.case.stride)
        return found.movedim(-2, 1).flatten(2)


def targets(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Never worse than posterior composition; better where correlation outlasts the overlap."""
    gaps = {
        f"{row['case']}, {name}": gap
        for row in rows
        if row["rule"] == "consistent"
        for name, gap in row["above_posterior"].items()
    }
    errors = "by two standard errors"
    yield by_errors(f"Real data: never worse than posterior composition {errors}", gaps, 2)
    gaps = {name: gap for name, gap in gaps.items() if not name.startswith("gravel")}
    yield by_errors(f"Sea and soft gravel: better than posterior composition {errors}", gaps, -2)


def tables(rows: Sequence[Row]) -> list[Table]:
    """One table per case: distances from the held-out part, seams, and costs."""
    found = []
    for _, of_case in groupby(rows, key=itemgetter("case")):
        some = list(of_case)
        title = "{case}: {windows} windows of {window}, overlaps of {overlap}; root mean square "
        title += "distances from {held_out} held-out states"
        found.append(table(title.format_map(some[0]), some, COLUMNS))
    return found


def _root(square: Sequence[Any]) -> str:
    """The root of an estimate of a square, with its error by the delta method; 0 if negative."""
    mean, error = square
    if mean <= 0 or error is None:
        return plus_minus((max(mean, 0.0) ** 0.5, error if error is None else error**0.5), ".3f")
    return plus_minus((mean**0.5, error / (2 * mean**0.5)), ".3f")


COLUMNS: dict[str, Column] = {
    "rule": "{rule}",
    "autocorrelation": lambda row: _root(row["autocorrelation"]),
    "spectrum, dB": lambda row: _root(row["spectrum"]),
    "energy distance": lambda row: plus_minus(row["energy distance"], ".3f"),
    **columns("seam_ratio[0]:.2f levels rows:.0f cpu_seconds:.2f"),
}
