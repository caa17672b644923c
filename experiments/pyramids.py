r"""Pyramids: one coarse region carries a season and a trend across windows that cannot see them.

Gaussian series of 128 elements, so that everything is exact: what a rule's samples are distributed
like follows without sampling error (`diagnostics.distribution_reached`). Every graph has ordinary
models of its windows, and pyramids have models of tile means, all exact.

*season*: a wave of 48 elements that keeps its phase over the whole series, plus AR(1) with
correlation 0.8 and 1 % of white noise. *trend*: a smooth drift (squared exponential, length 60)
plus AR(1) with correlation 0.9.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.reports import columns, measured, settings, table
from pgmdiff.composition import Consistent, Marginal, compose
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import Gaussian, kl_divergence, node_covariances
from pgmdiff.graphs import Pyramid, RegionGraph, pyramid, tiles
from pgmdiff.precision import ComposedPrecision, completed, provider_of
from pgmdiff.samplers import Heun, karras
from pgmdiff.scores import Score, in_pixels, of_levels
from pgmdiff.text import Table

__all__ = ["PARTS", "draw", "run", "tables"]

LENGTH, SIGMAS, LEVELS = 128, (0.5, 2.0, 20.0), 18
RANGE = 0.002, 80.0
DOUBLE = torch.float64


@dataclass(frozen=True, eq=False)
class Setup:
    """A series on windows, or on a pyramid of them.

    Attributes:
        covariance: that of the series, `[N, N]`, the same at every place.
        graph: of windows, or a pyramid.
    """

    covariance: Tensor
    graph: RegionGraph | Pyramid

    @property
    def regions(self) -> RegionGraph:
        return self.graph.graph if isinstance(self.graph, Pyramid) else self.graph

    def turned(self, covariance: Tensor, *, back: bool = False) -> Tensor:
        """A covariance in the basis of the state, or back in that of elements."""
        if not isinstance(self.graph, Pyramid):
            return covariance
        turn = self.graph.to_pixels if back else self.graph.to_coefficients
        return turn(turn(covariance).T)

    @property
    def q(self) -> Gaussian:
        """The distribution of the state."""
        return _gaussian(self.turned(self.covariance))

    def score(self, rule: str) -> Score:
        """The composed score of the elements, of models of windows and of tile means."""
        given = node_covariances(self.regions, self.q)
        made = Consistent(given) if rule == "consistent" else Marginal()
        if not isinstance(self.graph, Pyramid):
            return compose(self.graph, _model(self.covariance), rule=made)
        p = self.graph
        seen = [p.means(p.means(self.covariance, k).T, k) for k in range(p.levels + 1)]
        return in_pixels(p, compose(p.graph, of_levels(p, *map(_model, seen)), rule=made))

    def best(self) -> Tensor:
        """The covariance of the best Gaussian Markov to the graph: its maximum-entropy one."""
        whole = completed(
            self.regions, provider_of(node_covariances(self.regions, self.q), "best", self.regions)
        )
        return self.turned(whole.covariance, back=True)

    def loss(self, covariance: Tensor) -> float:
        """KL(q ‖ N(0, covariance)) per element, in nats."""
        return kl_divergence(_gaussian(self.covariance), _gaussian(covariance)) / len(covariance)

    def score_errors(self, sigma: float) -> dict[str, float]:
        """Σ |s - s*|² / Σ |s*|², its root, over noised series, of three rules.

        *without completion* is posterior composition with the composed precision P for K.
        """
        eye = torch.eye(len(self.covariance), dtype=DOUBLE)
        noised = self.covariance + sigma**2 * eye
        exact = torch.linalg.inv(noised)
        given = provider_of(node_covariances(self.regions, self.q), "score_errors", self.regions)
        p = self.turned(ComposedPrecision(self.regions, given).dense(), back=True)
        found = {rule: -self.score(rule)(eye, sigma).T for rule in ("marginal", "consistent")}
        found["without_completion"] = torch.linalg.solve(eye + sigma**2 * p, p)

        def size(m: Tensor) -> float:
            return float((m @ noised @ m.T).trace())

        return {rule: (size(m - exact) / size(exact)) ** 0.5 for rule, m in found.items()}


def _gaussian(covariance: Tensor) -> Gaussian:
    return Gaussian(covariance.new_zeros(len(covariance)), (covariance + covariance.T) / 2)


def _model(covariance: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact model of windows of a series, wherever they lie and however long they are."""
    known: dict[int, Gaussian] = {}

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        d = x.shape[1]
        return known.setdefault(d, _gaussian(covariance[:d, :d]))(x, sigma)

    return score


def series(smoke: bool = False) -> dict[str, Tensor]:
    """The covariances of both series; with `smoke` of the first one."""
    lag = (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs().double()
    white = 0.01 * torch.eye(LENGTH, dtype=DOUBLE)
    season = {"season": torch.cos(2 * math.pi * lag / 48) + 0.8**lag + white}
    return season if smoke else {**season, "trend": torch.exp(-0.5 * (lag / 60) ** 2) + 0.9**lag}


def graphs(smoke: bool) -> dict[str, RegionGraph | Pyramid]:
    """Windows of two lengths, and pyramids on the shorter ones; with `smoke` two graphs."""
    shape = (LENGTH,)
    made: dict[str, RegionGraph | Pyramid] = {
        "windows of 16": tiles(shape, 16, 8),
        "windows of 24, overlap 8": tiles(shape, 24, 8, remainder="shift"),
        "windows of 24, overlap 16": tiles(shape, 24, 16),
        "pyramid, tiles of 8": pyramid(shape, 8, 1, 16, 8),
        "pyramid, three levels of 2": pyramid(shape, 2, 3, 16, 8),
    }
    return dict(list(made.items())[:4:3]) if smoke else made


def samples(smoke: bool) -> dict[str, Any]:
    """How far the best Gaussian of every graph, and the rules' samples, are from the series."""
    rows, curves = [], []
    sigmas = karras(3 if smoke else LEVELS, *RANGE)
    start = _gaussian(RANGE[1] ** 2 * torch.eye(LENGTH, dtype=DOUBLE))
    for data, covariance in series(smoke).items():
        curves.append({"data": data, "graph": "exact", "correlation": _correlation(covariance)})
        alone = distribution_reached(_gaussian(covariance), sigmas, start, Heun()).covariance
        for name, graph in tqdm(graphs(smoke).items(), desc=data):
            case = Setup(covariance, graph)
            elements = sum(g.flat().numel() for g in case.regions.groups)
            row = {"data": data, "graph": name, "regions": case.regions.n_regions}
            row |= {"elements": elements, "best": case.loss(case.best())}
            for rule in ("marginal", "consistent"):
                reached = distribution_reached(case.score(rule), sigmas, start, Heun())
                row[rule] = case.loss(reached.covariance)
                if rule == "consistent":
                    found = _correlation(reached.covariance)
                    curves.append({"data": data, "graph": name, "correlation": found})
            rows.append({**row, "exact": case.loss(alone)})
    return {"rows": rows, "curves": curves}


def scores(smoke: bool) -> dict[str, Any]:
    """Relative errors of the scores on the pyramid and on windows, by noise level."""
    rows = []
    for data, covariance in series(smoke).items():
        for name, graph in graphs(True).items():
            case = Setup(covariance, graph)
            for sigma in SIGMAS[-1:] if smoke else SIGMAS:
                errors = case.score_errors(sigma)
                rows.append({"data": data, "graph": name, "sigma": sigma, **errors})
    return {"rows": rows}


def _correlation(covariance: Tensor) -> list[float]:
    """The mean correlation at every lag of up to half the length."""
    deviations = covariance.diagonal().sqrt()
    correlations = covariance / deviations / deviations[:, None]
    lags = range(len(covariance) // 2 + 1)
    return [float(correlations.diagonal(lag).mean()) for lag in lags]


PARTS = {"samples": samples, "scores": scores}


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] = tuple(PARTS)
) -> dict[str, Any]:
    """Measures the parts, or with `smoke` fewer graphs and steps; always on the CPU, in float64."""
    found = measured(parts, lambda name: PARTS[name](smoke), 4)
    return {"settings": settings(threads=torch.get_num_threads()), **found}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """KL of graphs and of samples, and errors of scores."""
    shown = {
        "samples": ("KL per element, nats", "data graph elements best:.4f marginal:.4f "
                                            "consistent:.4f exact:.4f"),
        "scores": ("Relative errors of scores", "data graph sigma:g marginal:.4f "
                                                "without_completion:.4f consistent:.4f"),
    }  # fmt: skip
    return [
        table(title, result[part]["rows"], columns(keys))
        for part, (title, keys) in shown.items()
        if part in result
    ]


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Correlation by lag, of both series and of samples: `experiment_pyramids.png`."""
    from pgmdiff.plotting import Panel, panels

    drawn: list[Panel] = []
    for data in series() if "samples" in result else ():
        curves = [row for row in result["samples"]["curves"] if row["data"] == data]
        lines = {
            row["graph"]: ([*range(0, len(row["correlation"]), 2)], row["correlation"][::2])
            for row in curves
            if row["graph"] in ("exact", "windows of 16", "windows of 24, overlap 8",
                                "pyramid, tiles of 8")
        }  # fmt: skip
        drawn.append(Panel(lines, "lag", "" if drawn else "correlation", data, log=""))
    if drawn:
        path.mkdir(parents=True, exist_ok=True)
        figure = panels(drawn, "Correlations of samples under the rule Consistent")
        figure.savefig(path / "experiment_pyramids.png", dpi=110)
