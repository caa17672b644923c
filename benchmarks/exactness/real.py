"""Part 4, real data whose correlation outlasts the overlap: a series and a field; and gravel.

One small network per case is the model of windows and of overlaps. It was trained on crops of one
part of the data; what is composed of it is compared with the other part:

    sea          half-hourly anomalies of the sea's temperature: 16 windows of 8, overlaps of 2
    soft gravel  a photograph out of focus: 8 windows of 8 × 8 in a strip, overlaps of 2
    gravel       the same photograph, sharp and at half the size, overlaps of 8: here the overlap
                 exceeds the correlation length, and the rules should agree. This model was trained
                 on the whole photograph, so that nothing was held out

Every rule may use the same number of network rows per sample, whatever their size, and takes as
many noise levels as these allow: concatenation and averages evaluate windows only, marginal and
posterior composition windows and overlaps, evidence composition all of them twice, the second time
with a vector-Jacobian product (rows *pulled back*, whose cost is not counted: see the CPU-seconds).
Covariances are pooled over the training part. *Ridge*: 0.03 of the variance is added to them, since
evidence composition multiplies the networks' errors by inverse variances. The ridge was chosen on
these very results; nothing else was.

The floor, *real, other part*, is the training part in as many groups as there are seeds, measured
as the rules are. *Gaussian factorisation* is N(0, P⁻¹): the best that windows and overlaps of this
size can express of a Gaussian, however well they are composed. Distances are free of bias (see
`statistics`): 0 is the held-out part's own distribution.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import prod
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.data import sea, soft_gravel
from benchmarks.exactness.statistics import (
    autocovariance,
    bands,
    crops_energy_distance,
    spectrum,
    square_distance,
)
from benchmarks.problems import RULES, Counter
from benchmarks.reports import Column, Row, columns, plus_minus, table
from pgmdiff.composition.composing import compose
from pgmdiff.diagnostics.metrics import mean_and_error, seam_ratio
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.models import gravel
from pgmdiff.precision import ComposedPrecision, Covariances, fit_covariances
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.scores.adapters import from_denoiser
from pgmdiff.text import Table

__all__ = ["CASES", "METHODS", "draw", "rows", "tables"]

SMALL, RIDGE = 1e-6, 0.03
"""Added to the variances, relative to their mean: for rounding, and for the networks' errors."""


class Method(NamedTuple):
    """A rule, its covariances' ridge, and the multiple of the common rows that it may use."""

    rule: str
    ridge: float = SMALL
    times: int = 1


TWICE = "same, 2 × rows"
METHODS = {
    **{rule: Method(rule) for rule in ("concatenation", "average", "marginal", "posterior")},
    "evidence": Method("evidence"),
    "evidence, ridge": Method("evidence", RIDGE),
    TWICE: Method("evidence", RIDGE, 2),
}
REAL, FLOOR, LIMIT = "real, held out", "real, other part", "Gaussian factorisation"
SEEDS = 4
LEVELS = 20
"""Of marginal and posterior composition, which set the number of network rows."""
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

    def network_rows(self, rule: str) -> int:
        """Of one evaluation of one sample's score."""
        graph = self.graph(rule)
        outer = sum(int(group.outer.sum()) for group in graph.groups)
        both = sum(int((group.counts != 0).sum()) for group in graph.groups)
        return {"average": outer, "evidence": 2 * both}.get(rule, both)

    def levels(self, method: Method, levels: int) -> int:
        """The number that costs no more rows than `levels` of marginal composition, or twice it."""
        budget = method.times * (2 * levels - 1) * self.network_rows("marginal")
        return max(1, (budget // self.network_rows(method.rule) + 1) // 2)

    def overlaps(self, rule: str) -> list[range]:
        """Places along the last axis that two windows share; as many around a seam without any."""
        first, step = self.stride, self.stride
        if rule == "concatenation":
            first, step = self.window - self.overlap // 2, self.window
        starts = range(first, self.length - self.overlap, step)
        return [range(start, start + self.overlap) for start in starts]

    def seams(self, rule: str) -> list[int]:
        """Places where a window begins or ends."""
        if rule == "concatenation":
            return list(range(self.window, self.length, self.window))
        return [place for each in self.overlaps(rule) for place in (each.start, each.stop)]

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

    def covariances(self, ridge: float) -> Covariances:
        """The covariances of windows and overlaps, all windows of the training part pooled.

        Crops begin at every second place down and at every stride along: with a few hundred of
        them the smallest of 256 variances are so wrong that posterior composition shows it.
        """
        everywhere = self._crops(self.parts[0], 2, self.stride)
        return fit_covariances(self.graph("marginal"), everywhere, shared=True, ridge=ridge)

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
    covariances = {ridge: case.covariances(ridge) for ridge in (SMALL, RIDGE)}
    found = [
        ruler.held_out_row(),
        ruler.row(FLOOR, [case.states[0][seed::seeds] for seed in range(seeds)]),
        ruler.limit_row(case.graph("marginal"), covariances[SMALL]),
    ]
    drawn: dict[str, list[Tensor]] = {}
    for label, method in tqdm(METHODS.items(), desc=case.name):
        counter, steps = Counter(), case.levels(method, levels)
        joint = compose(
            case.graph(method.rule),
            from_denoiser(counter.counted(case.load())),
            rule=RULES[method.rule](covariances[method.ridge]),
            max_batch=VALUES // (prod(case.across) * case.window),
        )
        start, shape = time.process_time(), (case.samples, *joint.event_shape)
        sigmas = karras(steps, *case.sigmas)
        drawn[label] = [
            sample(joint, sigmas, shape=shape, solver=Heun(), generator=seed)[..., : case.length]
            for seed in range(seeds)
        ]
        n = seeds * case.samples
        cost = {
            "levels": steps,
            "rows": counter.rows / n,
            "pulled_back": counter.differentiated / n,
            "cpu_seconds": (time.process_time() - start) / n,
        }
        found.append(ruler.row(label, drawn[label]) | cost)
    pairs = zip(drawn["posterior"], drawn["marginal"], strict=True)
    gaps = [((a - b).square().mean() / ruler.variance).sqrt().item() for a, b in pairs]
    posterior = next(row for row in found if row["rule"] == "posterior")
    posterior["from_marginal"] = list(mean_and_error(gaps))
    return found


class Ruler:
    """Compares states of a case with its held-out part.

    Attributes:
        mean: of all values of both parts.
        held_out: `[n, *state]`, of mean 0.
        variance: of the held-out part.
        lags: those of autocorrelations.
        bands: the frequencies of spectra.
    """

    def __init__(self, case: Case) -> None:
        self.case, longest = case, min(case.length // 2, LAGS)
        self.mean = torch.cat([part.flatten() for part in case.parts]).mean()
        self.held_out = case.states[1] - self.mean
        self.variance = self.held_out.double().square().mean().item()
        self.lags = list(range(0, longest + 1, max(1, longest // 32)))
        self.bands = bands(case.length, BANDS)

    def autocorrelation(self, x: Tensor) -> Tensor:
        """In units of the held-out part's variance: `[lags]`."""
        return autocovariance(x, self.lags) / self.variance

    def decibels(self, x: Tensor) -> Tensor:
        """The spectrum: `[bands]`."""
        return 10 * spectrum(x, self.bands).log10()

    def held_out_row(self) -> dict[str, Any]:
        """The held-out part itself, which the others are compared with."""
        middles = [(a + b - 1) / 2 / self.case.length for a, b in self.bands]
        return {
            **self._about(REAL),
            "samples": len(self.held_out),
            "lags": self.lags,
            "frequencies": _rounded(middles),
            "autocorrelation": _rounded(self.autocorrelation(self.held_out).tolist()),
            "spectrum": _rounded(self.decibels(self.held_out).tolist()),
        }

    def limit_row(self, graph: RegionGraph, covariances: Covariances) -> dict[str, Any]:
        """The exact curves of N(0, P⁻¹), the Gaussian of the graph's clean factorisation.

        They are those of states that are no samples: their second moments are P⁻¹ itself.
        """
        covariance = torch.linalg.inv(ComposedPrecision(graph, covariances).dense())
        n = len(covariance)
        states = n**0.5 * torch.linalg.cholesky(covariance).T
        return {**self._about(LIMIT), **self._curves([states.reshape(n, *graph.event_shape)])}

    def row(self, rule: str, groups: Sequence[Tensor]) -> dict[str, Any]:
        """Statistics of samples `[n, *state]`, in one group per seed."""
        groups = [x - self.mean for x in groups]
        truth, seams = self._stretches(self.held_out), self.case.seams(rule)
        distances = [crops_energy_distance(self._stretches(x), truth) for x in groups]
        return {
            **self._about(rule),
            "seeds": len(groups),
            "samples": len(groups[0]),
            **self._curves(groups),
            "energy_distance": list(mean_and_error(distances)),
            "variance_in_overlaps": self._variance(groups, rule, inside=True),
            "variance_elsewhere": self._variance(groups, rule, inside=False),
            "seam_ratio": list(mean_and_error([seam_ratio(x, seams) for x in groups])),
        }

    def _curves(self, groups: Sequence[Tensor]) -> dict[str, Any]:
        """Means over groups, their errors, and square distances from the held-out part's."""
        found: dict[str, Any] = {}
        for name, curve in (("autocorrelation", self.autocorrelation), ("spectrum", self.decibels)):
            curves = torch.stack([curve(x) for x in groups])
            truth = torch.stack([curve(x) for x in (self.held_out[0::2], self.held_out[1::2])])
            errors = [mean_and_error(values)[1] for values in curves.T.tolist()]
            found[name] = _rounded(curves.mean(dim=0).tolist())
            found[f"{name}_error"] = _rounded([e for e in errors if e is not None])
            found[f"{name}_square_distance"] = list(square_distance(curves, truth))
        return found

    def _stretches(self, x: Tensor) -> Tensor:
        """Crops as long as three windows with their overlaps: `[n, m, d]`, m from every state."""
        found = x.unfold(-1, self.case.window + 2 * self.case.stride, self.case.stride)
        return found.movedim(-2, 1).flatten(2)

    def _variance(self, groups: Sequence[Tensor], rule: str, *, inside: bool) -> list[Any]:
        """The variance in overlaps or elsewhere, in units of the held-out part's."""
        here = torch.full((self.case.length,), not inside)
        here[[place for each in self.case.overlaps(rule) for place in each]] = inside
        values = [x[..., here].double().square().mean().item() / self.variance for x in groups]
        return list(mean_and_error(values))

    def _about(self, rule: str) -> dict[str, Any]:
        case = self.case
        return {
            "case": case.name,
            "rule": rule,
            "window": case.window,
            "overlap": case.overlap,
            "windows": case.windows,
        }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def tables(rows: Sequence[Row]) -> list[Table]:
    """One table per case: distances from the held-out part, seams, and costs."""
    found = []
    for real, *others in _by_case(rows):
        title = (
            f"{real['case']}: {real['windows']} windows of {real['window']}, overlaps of "
            f"{real['overlap']}; root mean square distances from {real['samples']} held-out states"
        )
        by_rule = {row["rule"]: row for row in others}
        marginal, posterior = by_rule["marginal"], by_rule["posterior"]
        gap = f"{posterior['from_marginal'][0]:.3f} standard deviations"
        for name in ("autocorrelation", "spectrum"):
            if errors := marginal[f"{name}_error"]:
                pairs = zip(marginal[name], posterior[name], strict=True)
                both = zip(pairs, errors, posterior[f"{name}_error"], strict=True)
                most = max(abs(a - b) / max(e, f, 1e-4) for (a, b), e, f in both)
                gap += f"; {name}: at most {most:.1f} standard errors"
        found.append(
            table(title, others, COLUMNS, [f"Posterior from marginal, same noise: {gap}."])
        )
    return found


def _by_case(rows: Sequence[Row]) -> list[list[Row]]:
    return [list(of_case) for _, of_case in groupby(rows, key=itemgetter("case"))]


def _root(square: Sequence[Any]) -> str:
    """The root of an estimate of a square, with its error by the delta method; 0 if negative."""
    mean, error = square
    if mean <= 0 or error is None:
        return plus_minus((max(mean, 0.0) ** 0.5, error if error is None else error**0.5), ".3f")
    return plus_minus((mean**0.5, error / (2 * mean**0.5)), ".3f")


COLUMNS: dict[str, Column] = {
    "rule": "{rule}",
    "autocorrelation": lambda row: _root(row["autocorrelation_square_distance"]),
    "spectrum, dB": lambda row: _root(row["spectrum_square_distance"]),
    "energy distance": lambda row: plus_minus(row["energy_distance"], ".3f"),
    **columns("variance_in_overlaps[0]:.3f variance_elsewhere[0]:.3f seam_ratio[0]:.2f"),
    **columns("levels rows:.0f cpu_seconds:.2f"),
}


def draw(rows: Sequence[Row], folder: Path) -> None:
    """The curves of every case against the held-out part's: `exactness_real.png`."""
    from benchmarks.exactness.real_figure import draw_statistics

    title = (
        f"Composed of small trained models, against held-out data: mean and standard error of "
        f"{rows[-1]['seeds']} seeds, equal network rows"
    )
    cases = [[row for row in case if row["rule"] != TWICE] for case in _by_case(rows)]
    draw_statistics(cases, title, folder / "exactness_real.png")
