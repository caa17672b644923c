"""Part 4: real data whose correlation outlasts the overlap, a series and a field; and gravel.

One small network a case is the model of windows and of overlaps. It was trained on crops of one
part of the data; what is composed of it is compared with the other part:

    sea          half-hourly anomalies of the sea's temperature: 16 windows of 8, overlaps of 2
    soft gravel  a photograph out of focus: 8 windows of 8 × 8 in a strip, overlaps of 2
    gravel       the same photograph, sharp and at half the size, overlaps of 8: here the overlap
                 exceeds the correlation length, and the rules should agree. This model was trained
                 on the whole photograph, so that nothing was held out

Every rule gets the same number of network rows a sample, of any size, and takes as many noise
levels as they allow: concatenation and averages evaluate windows only, marginal and posterior
composition windows and overlaps, evidence composition all of them twice, the second time with a
vector-Jacobian product (rows *pulled back*, whose cost is not counted: see the CPU-seconds).
Covariances are pooled over the training part. *Ridge*: 0.03 of the variance is added to them, since
evidence composition multiplies the networks' errors by inverse variances. It was chosen on these
very results; nothing else was.

The floor, *real, other part*, is the training part in as many groups as there are seeds, measured
as the rules are. *Gaussian factorisation* is N(0, P⁻¹): what windows and overlaps of this size can
say of a Gaussian, however well they are composed. Distances are free of bias (`statistics`): 0 is
the held-out part's own law.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.data import sea, soft_gravel
from benchmarks.exactness.statistics import (
    Estimate,
    autocovariance,
    bands,
    crops_energy_distance,
    spectrum,
    square_distance,
)
from pgmdiff.composition.composing import compose
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.posterior import Evidence, Posterior
from pgmdiff.composition.rules import Average, Marginal, Rule
from pgmdiff.diagnostics.metrics import mean_and_error, seam_ratio
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.models import gravel
from pgmdiff.precision import ComposedPrecision, Covariances, fit_covariances
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.scores.adapters import from_denoiser

if TYPE_CHECKING:
    from benchmarks.comparisons import Comparison

__all__ = ["CASES", "METHODS", "draw", "lines", "rows"]

SMALL, RIDGE = 1e-6, 0.03
"""Added to the variances, relative to their mean: for rounding, and for the networks' errors."""


@dataclass(frozen=True)
class Method:
    """A rule and how it is used.

    Attributes:
        ridge: of the covariances.
        times: how often the common number of network rows it may take.
    """

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
"""Most values of one network call, to bound the memory."""
LAGS = 64
"""Most lags that an autocorrelation is kept at."""

Row = dict[str, Any]
Pair = Sequence[Any]
"""A mean and its standard error or None, as JSON knows them."""


@dataclass(frozen=True, eq=False)
class Case:
    """Something real to compose.

    Attributes:
        name: in tables.
        across: sides of the state and of all its regions before the last axis.
        window, overlap: along the last axis.
        windows: how many.
        samples: a seed.
        sigmas: last and first noise level.
        parts: loads the training and the held-out part, `[pieces, 1, ..., length]`.
        load: the denoiser.
    """

    name: str
    across: tuple[int, ...]
    window: int
    overlap: int
    windows: int
    samples: int
    sigmas: tuple[float, float]
    parts: Callable[[], tuple[Tensor, Tensor]]
    load: Callable[[], Callable[..., Tensor]]

    @property
    def length(self) -> int:
        """Of the state along its last axis."""
        return self.window + (self.windows - 1) * (self.window - self.overlap)

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

    def levels(self, rule: str, levels: int, times: int = 1) -> int:
        """As many as cost no more rows than `levels` of marginal composition, or so many times."""
        budget = times * (2 * levels - 1) * self.network_rows("marginal")
        return max(1, (budget // self.network_rows(rule) + 1) // 2)

    def joint(self, name: str, rule: Rule, denoiser: Callable[..., Tensor]) -> Joint:
        """The score of the state, under a rule of this name."""
        most = VALUES // (prod(self.across) * self.window)
        return compose(self.graph(name), from_denoiser(denoiser), rule=rule, max_batch=most)

    def overlaps(self, rule: str) -> list[range]:
        """Places along the last axis that two windows share; as many around a seam without any."""
        if rule == "concatenation":
            half = self.overlap // 2
            return [range(b - half, b + half) for b in range(self.window, self.length, self.window)]
        stride = self.window - self.overlap
        return [range(b, b + self.overlap) for b in range(stride, self.length - stride, stride)]

    def seams(self, rule: str) -> list[int]:
        """Places where a window begins or ends."""
        if rule == "concatenation":
            return list(range(self.window, self.length, self.window))
        return [place for each in self.overlaps(rule) for place in (each.start, each.stop)]

    @cached_property
    def data(self) -> "Data":
        """Both parts, as states."""
        train, held_out = self.parts()
        mean = torch.cat([train.flatten(), held_out.flatten()]).mean()
        height = self.across[-1]
        first, second = (self._crops(part, height, self.length) for part in (train, held_out))
        return Data(first, second, mean)

    def covariances(self, ridge: float) -> Covariances:
        """Of windows and overlaps, all windows of the training part pooled.

        Crops lie two places apart down and a stride apart along: a few hundred of them leave the
        smallest of 256 variances so wrong that posterior composition shows it.
        """
        everywhere = self._crops(self.parts()[0], 2, self.window - self.overlap)
        return fit_covariances(self.graph("marginal"), everywhere, shared=True, ridge=ridge)

    def _crops(self, part: Tensor, down: int, right: int) -> Tensor:
        """States `[n, *across, length]` cut from a part, so far apart on both axes."""
        for axis, side in enumerate(self.across[1:], start=2):
            part = part.unfold(axis, side, down)
        part = part.unfold(1 + len(self.across), self.length, right)
        return part.movedim(1, 1 + len(self.across)).flatten(0, len(self.across))


@dataclass(frozen=True, eq=False)
class Data:
    """What is known of a case, and what its samples are compared with.

    Attributes:
        train, held_out: `[n, *state]`.
        mean: of all values.
    """

    train: Tensor
    held_out: Tensor
    mean: Tensor


def _sea_parts() -> tuple[Tensor, Tensor]:
    train, held_out = sea.sea_parts()
    return train[:, None], held_out[:, None]


def _soft_parts() -> tuple[Tensor, Tensor]:
    train, held_out = soft_gravel.soft_gravel_parts()
    return train[None], held_out[None]


def _gravel_parts() -> tuple[Tensor, Tensor]:
    upper, lower = gravel.gravel_image()[None].chunk(2, dim=2)
    return upper, lower


CASES = (
    Case("sea", (1,), 8, 2, 16, 64, (0.01, 40.0), _sea_parts, sea.sea_denoiser),
    Case(
        "soft gravel",
        (1, 8),
        8,
        2,
        8,
        24,
        (0.01, 60.0),
        _soft_parts,
        soft_gravel.soft_gravel_denoiser,
    ),
    Case("gravel", (1, 16), 16, 8, 6, 4, (0.01, 20.0), _gravel_parts, gravel.gravel_denoiser),
)


@dataclass(eq=False)
class Counted:
    """A denoiser that counts the rows it is given.

    Attributes:
        rows: all of them.
        pulled: those that a vector-Jacobian product follows.
    """

    denoiser: Callable[..., Tensor]
    rows: int = 0
    pulled: int = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The denoised rows."""
        self.rows += len(x)
        self.pulled += len(x) if x.requires_grad else 0
        return self.denoiser(x, sigma)


# ---------------------------------------------------------------- measuring


def rows(*, smoke: bool) -> list[Row]:
    """Measures every rule on every case; `smoke` one seed of few short samples."""
    return [row for case in CASES for row in _case_rows(case, smoke)]


def _case_rows(case: Case, smoke: bool) -> list[Row]:
    if smoke:
        case = replace(case, windows=3, samples=2)
    seeds, levels = (1, 6) if smoke else (SEEDS, LEVELS)
    ruler = Ruler(case)
    groups = [case.data.train[seed::seeds] for seed in range(seeds)]
    covariances = {ridge: case.covariances(ridge) for ridge in (SMALL, RIDGE)}
    found = [
        ruler.held_out_row(),
        ruler.row(FLOOR, groups),
        ruler.limit_row(case.graph("marginal"), covariances[SMALL]),
    ]
    drawn: dict[str, list[Tensor]] = {}
    for label, method in tqdm(METHODS.items(), desc=case.name):
        rule = _rule(method.rule, covariances[method.ridge])
        steps = case.levels(method.rule, levels, method.times)
        drawn[label], cost = _run(case, method.rule, rule, steps, seeds)
        found.append({**ruler.row(label, drawn[label]), **cost})
    pairs = zip(drawn["posterior"], drawn["marginal"], strict=True)
    gaps = [((a - b).square().mean() / ruler.variance).sqrt().item() for a, b in pairs]
    posterior = next(row for row in found if row["rule"] == "posterior")
    posterior["from_marginal"] = list(mean_and_error(gaps))
    return found


def _run(case: Case, name: str, rule: Rule, levels: int, seeds: int) -> tuple[list[Tensor], Row]:
    """Samples of every seed, and what one of them cost."""
    counted = Counted(case.load())
    joint, start = case.joint(name, rule, counted), time.process_time()
    drawn = [_drawn(case, joint, levels, seed) for seed in range(seeds)]
    n = seeds * case.samples
    return drawn, {
        "levels": levels,
        "rows": counted.rows / n,
        "pulled_back": counted.pulled / n,
        "cpu_seconds": (time.process_time() - start) / n,
    }


def _drawn(case: Case, joint: Joint, levels: int, seed: int) -> Tensor:
    x = sample(
        joint,
        karras(levels, *case.sigmas),
        shape=(case.samples, *joint.event_shape),
        solver=Heun(),
        generator=seed,
    )
    return x[..., : case.length]


def _rule(name: str, covariances: Covariances) -> Rule:
    rules: dict[str, Callable[[], Rule]] = {
        "concatenation": Marginal,
        "average": Average,
        "marginal": Marginal,
        "posterior": lambda: Posterior(covariances),
        "evidence": lambda: Evidence(covariances),
    }
    return rules[name]()


@dataclass(frozen=True, eq=False)
class Ruler:
    """Compares states of a case with its held-out part."""

    case: Case

    @cached_property
    def held_out(self) -> Tensor:
        """`[n, *state]`, mean 0."""
        return self.case.data.held_out - self.case.data.mean

    @cached_property
    def variance(self) -> float:
        """Of the held-out part."""
        return self.held_out.double().square().mean().item()

    @cached_property
    def lags(self) -> list[int]:
        """At which autocorrelations are kept."""
        longest = min(self.case.length // 2, LAGS)
        return list(range(0, longest + 1, max(1, longest // 32)))

    @cached_property
    def bands(self) -> list[tuple[int, int]]:
        """In which spectra are kept."""
        return bands(self.case.length, BANDS)

    def autocorrelation(self, x: Tensor) -> Tensor:
        """In units of the held-out part's variance: `[lags]`."""
        return autocovariance(x, self.lags) / self.variance

    def decibels(self, x: Tensor) -> Tensor:
        """The spectrum: `[bands]`."""
        return 10 * spectrum(x, self.bands).log10()

    def held_out_row(self) -> Row:
        """What the others are compared with."""
        middles = [(a + b - 1) / 2 / self.case.length for a, b in self.bands]
        return {
            **self._about(REAL),
            "samples": len(self.held_out),
            "lags": self.lags,
            "frequencies": _rounded(middles),
            "autocorrelation": _rounded(self.autocorrelation(self.held_out).tolist()),
            "spectrum": _rounded(self.decibels(self.held_out).tolist()),
        }

    def limit_row(self, graph: RegionGraph, covariances: Covariances) -> Row:
        """Of N(0, P⁻¹), what the clean factorisation of the graph says of Gaussians: exact curves.

        These states are no samples: their second moments are P⁻¹ itself.
        """
        covariance = torch.linalg.inv(ComposedPrecision(graph, covariances).dense())
        n = len(covariance)
        states = n**0.5 * torch.linalg.cholesky(covariance).T
        return {**self._about(LIMIT), **self._curves([states.reshape(n, *graph.event_shape)])}

    def row(self, rule: str, groups: Sequence[Tensor]) -> Row:
        """Statistics of samples `[n, *state]`, one group a seed."""
        groups = [x - self.case.data.mean for x in groups]
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

    def _curves(self, groups: Sequence[Tensor]) -> Row:
        """Means over groups, their errors, and square distances from the held-out part's."""
        found: Row = {}
        for name, curve in (("autocorrelation", self.autocorrelation), ("spectrum", self.decibels)):
            curves = torch.stack([curve(x) for x in groups])
            truth = torch.stack([curve(x) for x in (self.held_out[0::2], self.held_out[1::2])])
            errors = [mean_and_error(values)[1] for values in curves.T.tolist()]
            found[name] = _rounded(curves.mean(dim=0).tolist())
            found[f"{name}_error"] = _rounded([e for e in errors if e is not None])
            found[f"{name}_square_distance"] = list(square_distance(curves, truth))
        return found

    def _stretches(self, x: Tensor) -> Tensor:
        """As long as three windows and their overlaps: `[n, m, d]`, m from every state."""
        stride = self.case.window - self.case.overlap
        found = x.unfold(-1, self.case.window + 2 * stride, stride)
        return found.movedim(-2, 1).flatten(2)

    def _variance(self, groups: Sequence[Tensor], rule: str, *, inside: bool) -> list[Any]:
        """In overlaps or elsewhere, in units of the held-out part's."""
        here = torch.full((self.case.length,), not inside)
        here[[place for each in self.case.overlaps(rule) for place in each]] = inside
        values = [x[..., here].double().square().mean().item() / self.variance for x in groups]
        return list(mean_and_error(values))

    def _about(self, rule: str) -> Row:
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


# ---------------------------------------------------------------- showing


def lines(rows: list[Row]) -> list[str]:
    """A table a case: distances from the held-out part, seams, costs (CPU-seconds a sample)."""
    found = []
    for case in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == case]
        found += [*_heading(of_case[0]), *(_line(row) for row in of_case[1:]), *_agreement(of_case)]
    return found


def _heading(real: Row) -> list[str]:
    return [
        f"{real['case']}: {real['windows']} windows of {real['window']}, overlaps of "
        f"{real['overlap']}; root mean square distances from {real['samples']} held-out states",
        f"{'':>22} {'autocorrelation':>15} {'spectrum, dB':>15} {'energy distance':>15} "
        f"variance in, off overlaps {'seam ratio':>10} {'levels':>6} {'rows':>5} {'CPU':>5}",
    ]


def _line(row: Row) -> str:
    text = (
        f"{row['rule']:>22} {_root(row['autocorrelation_square_distance']):>15} "
        f"{_root(row['spectrum_square_distance']):>15}"
    )
    if "energy_distance" in row:
        variances = f"{row['variance_in_overlaps'][0]:.3f}, {row['variance_elsewhere'][0]:.3f}"
        text += (
            f" {_shown(row['energy_distance']):>15} {variances:>25} {row['seam_ratio'][0]:>10.2f}"
        )
    if "rows" in row:
        text += f" {row['levels']:>6} {row['rows']:>5.0f} {row['cpu_seconds']:>5.2f}"
    return text


def _root(square: Pair) -> str:
    """The root of an estimate of a square, its error by the delta method; 0 of a negative one."""
    mean, error = Estimate(*square)
    if mean <= 0 or error is None:
        return _shown((max(mean, 0.0) ** 0.5, error if error is None else error**0.5))
    return _shown((mean**0.5, error / (2 * mean**0.5)))


def _shown(estimate: Pair) -> str:
    mean, error = Estimate(*estimate)
    return f"{mean:.3f}" + ("" if error is None else f" ({error:.3f})")


def _agreement(rows: list[Row]) -> list[str]:
    """How far posterior composition is from the marginal rule, given the same noise."""
    marginal, posterior = (
        next(row for row in rows if row["rule"] == rule) for rule in ("marginal", "posterior")
    )
    gap = posterior["from_marginal"][0]
    curves = [
        f"{name} at most {_most_errors(marginal, posterior, name):.1f}"
        for name in ("autocorrelation", "spectrum")
        if marginal[f"{name}_error"]
    ]
    apart = f"; curves, in standard errors: {', '.join(curves)}" if curves else ""
    return [f"posterior from marginal, same noise: {gap:.3f} standard deviations{apart}", ""]


def _most_errors(one: Row, other: Row, name: str) -> float:
    """The largest difference of two curves, in standard errors of one of them."""
    gaps = zip(one[name], other[name], one[f"{name}_error"], other[f"{name}_error"], strict=True)
    return float(max(abs(a - b) / max(e, f, 1e-4) for a, b, e, f in gaps))


def draw(rows: list[Row], folder: Path) -> None:
    """`exactness_real.png`: a row a case, autocorrelation and spectrum against the held-out."""
    from benchmarks.comparisons import comparisons

    panels = []
    for case in dict.fromkeys(row["case"] for row in rows):
        panels += _panels([row for row in rows if row["case"] == case])
    last = rows[-1]
    title = (
        f"Composed of small trained models, against held-out data: mean and standard error of "
        f"{last['seeds']} seeds, equal network rows"
    )
    figure = comparisons(panels, columns=2, title=title)
    figure.savefig(folder / "exactness_real.png", dpi=110)


def _panels(rows: list[Row]) -> "list[Comparison]":
    from benchmarks.comparisons import Comparison, Curve

    real, drawn = rows[0], [row for row in rows if row["rule"] != TWICE]
    lags, frequencies, level = real["lags"], real["frequencies"], real["spectrum"]
    correlations = {
        row["rule"]: Curve(lags, row["autocorrelation"], row.get("autocorrelation_error", ()))
        for row in drawn
    }
    spectra = {
        row["rule"]: Curve(
            frequencies,
            [a - b for a, b in zip(row["spectrum"], level, strict=True)],
            row.get("spectrum_error", ()),
        )
        for row in drawn
    }
    about = f"{real['case']} (windows of {real['window']}, overlaps of {real['overlap']})"
    marks = {real["overlap"]: "overlap", real["window"]: "window"}
    return [
        Comparison(
            f"{about}: autocorrelation",
            "lag",
            "over held-out variance (cut at -0.5 and 1.5)",
            correlations,
            marks,
            limits=(-0.5, 1.5),
        ),
        Comparison(
            "power spectrum over the held-out part's",
            "frequency, cycles a place",
            "dB (cut at -12 and 18)",
            spectra,
            logarithmic=True,
            limits=(-12, 18),
        ),
    ]
