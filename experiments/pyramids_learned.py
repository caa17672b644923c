"""Learned pyramids: series of the sea's temperature from networks of windows and of their means.

Series of 4 days are drawn from networks of windows of 8 hours alone, of windows of 16 and of 32
hours, and on a pyramid: windows of 8 hours, and all means of 2 hours, which are one more region
(see `experiments.pyramid_model`). They are compared at equal cost: the networks see about as many
values for each series, so that cheaper graphs have more noise levels. There are two floors: other
series of the days of training, and series of days that were held out.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.reports import Column, columns, measured, settings, table
from experiments.memory import nearest
from experiments.pyramid_model import KINDS, LENGTH, MODEL, TILE, WINDOW, blocks, means, series
from pgmdiff.composition import Consistent, Marginal, Posterior, compose
from pgmdiff.diagnostics import metrics
from pgmdiff.graphs import Pyramid, RegionGraph, pyramid, tiles
from pgmdiff.precision import fit_covariances
from pgmdiff.samplers import DPMSolver2M, sample
from pgmdiff.scores import Score, from_denoiser, in_pixels, of_levels
from pgmdiff.text import Table
from pgmdiff.training import crops as cut
from pgmdiff.training import denoising_loss

__all__ = ["PARTS", "draw", "run", "tables"]

SHAPE = 1, LENGTH
SOLVER = DPMSolver2M(eta=1.0, rho=7.0)
LAGS = 16, 48, 84, 96
"""Half hours: 8, 24, 42 and 48 hours."""
RULES = {"marginal": Marginal, "posterior": Posterior, "consistent": Consistent}
BEST = "posterior"
DRAWN = {
    "windows of 8 hours": ("windows of 8 hours", "marginal"),
    "windows of 32 hours": ("windows of 32 hours", BEST),
    "pyramid": ("pyramid", BEST),
}
"""What figures show: by caption a graph and a rule."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and with which covariances."""

    series: int = 128  # per seed
    seeds: int = 3
    steps: int = 30  # noise levels on the pyramid
    crops: int = 12  # of each series, for FD
    gate: int = 4096  # crops of each length
    fitted: int = 8000  # series behind the covariances
    ridge: float = 1e-3  # what is added to variances, see `fit_covariances`
    rules: tuple[str, ...] = tuple(RULES)


SMOKE = Sizes(series=8, seeds=1, steps=2, crops=4, gate=16, fitted=400, rules=("marginal", BEST))


@cache
def graphs() -> dict[str, RegionGraph | Pyramid]:
    """Windows of three lengths, which overlap by halves, and the pyramid on the shortest."""
    found: dict[str, RegionGraph | Pyramid] = {
        f"windows of {w // 2} hours": tiles(SHAPE, (1, w), (0, w // 2)) for w in (16, 32, 64)
    }
    return {**found, "pyramid": pyramid(SHAPE, (1, TILE), 1, (1, WINDOW), (0, WINDOW // 2))}


def regions(graph: RegionGraph | Pyramid) -> RegionGraph:
    return graph.graph if isinstance(graph, Pyramid) else graph


def seen(name: str) -> int:
    """How many values the networks see in an evaluation of the joint score of one series."""
    return sum(group.flat().numel() for group in regions(graphs()[name]).groups)


@cache
def score_of(name: str, kind: str, fitted: int, ridge: float) -> Score:
    """The composed score of series under a rule, with covariances of training series."""
    graph = graphs()[name]
    state = series(fitted, 11).double()
    state = graph.to_coefficients(state) if isinstance(graph, Pyramid) else state
    given = () if kind == "marginal" else (fit_covariances(regions(graph), state, ridge=ridge),)
    models, rule = [*map(from_denoiser, MODEL.denoisers().values())], RULES[kind](*given)
    if not isinstance(graph, Pyramid):
        return compose(graph, models[0], rule=rule)
    return in_pixels(graph, compose(graph.graph, of_levels(graph, *models), rule=rule))


@cache
def drawn(name: str, kind: str, seed: int, sizes: Sizes) -> Tensor:
    """Samples `[series, 1, 192]`."""
    score = score_of(name, kind, sizes.fitted, sizes.ridge)
    levels, shape = MODEL.levels(steps_of(name, sizes)), (sizes.series, *SHAPE)
    return sample(score, levels, shape=shape, solver=SOLVER, generator=seed)


def steps_of(name: str, sizes: Sizes) -> int:
    """The number of noise levels at the cost of the pyramid's."""
    return round(sizes.steps * seen("pyramid") / seen(name))


def decibels(x: Tensor) -> Tensor:
    """The power at periods of 96 / k hours, k = 1 … 96."""
    return 10 * metrics.spectrum(x, 1000).log10()


def figures(groups: Sequence[Tensor], real: Tensor, sizes: Sizes) -> dict[str, Any]:
    """The figures of series, seed by seed, against real ones.

    Spectra are compared, in decibels, at periods of days (24 hours and more), and of windows (8).
    """
    truth = decibels(real)
    features = partial(metrics.crop_features, shape=(WINDOW,), m=sizes.crops, generator=5)
    expected, borders = features(real), range(WINDOW // 2, LENGTH, WINDOW // 2)
    measures: dict[str, Callable[[Tensor], Any]] = {
        "days": lambda x: (decibels(x) - truth)[:4].square().mean().sqrt(),
        "windows": lambda x: (decibels(x) - truth)[: LENGTH // WINDOW].square().mean().sqrt(),
        "autocorrelation": lambda x: metrics.autocorrelation_distance(x, real, LENGTH // 2),
        "fd": lambda x: metrics.frechet_distance(features(x), expected, relative=True),
        "contrast": lambda x: x.std() / real.std(),
        "seam_ratio": lambda x: metrics.seam_ratio(x, borders),
    }
    row: dict[str, Any] = {
        name: metrics.mean_and_error([float(measure(group)) for group in groups])
        for name, measure in measures.items()
    }
    lags = torch.stack([metrics.autocorrelation(group, LAGS[-1]) for group in groups])
    row |= {f"lag_{lag}": metrics.mean_and_error(lags[:, lag].tolist()) for lag in LAGS}
    whole = torch.cat([*groups])
    curve, power = metrics.autocorrelation(whole, 144)[::6], (decibels(whole) - truth)[:24]
    return {**row, "curve": curve.tolist(), "decibels": power.tolist()}


def quality(sizes: Sizes) -> dict[str, Any]:
    """Series of every graph and rule at equal cost, and real ones, against training series."""
    n, seeds = sizes.series, range(sizes.seeds)
    real, rows = series(32 * n, 1), []
    for number, name in enumerate(("other days", "held-out days")):
        groups = [series(n, 100 * number + seed + 2, held_out=bool(number)) for seed in seeds]
        rows.append({"graph": name, **figures(groups, real, sizes)})
    for name, kind in tqdm([*product(graphs(), sizes.rules)], desc="quality"):
        steps = steps_of(name, sizes)
        row = {"graph": name, "rule": kind, "levels": steps, "values": steps * seen(name)}
        groups = [drawn(name, kind, seed, sizes) for seed in seeds]
        rows.append({**row, **figures(groups, real, sizes)})
    return {"rows": rows}


def gate(sizes: Sizes) -> dict[str, Any]:
    """Denoising errors of networks and of their linear parts, on crops of both kinds of days."""
    rows = []
    for number, (kind, denoiser) in enumerate(MODEL.denoisers().items()):
        linear: Any = copy.deepcopy(denoiser)
        for parameter in linear.network.leave.parameters():
            parameter.zero_()
        options: dict[str, Any] = {"p_mean": MODEL.p_mean(kind), "p_std": MODEL.training["p_std"]}
        options |= {"sigma_data": denoiser.sigma_data, "linear_error": denoiser.linear_error}
        for shape in KINDS[kind]:
            row: dict[str, Any] = {"kind": kind, "length": shape[1]}
            for days in ("", "held_"):
                states: Any = blocks(held_out=bool(days))
                clean = cut([shape], means(states) if number else states).draw(sizes.gate, 3).clean
                for name, model in (("network", denoiser), ("linear", linear)):
                    row[days + name] = denoising_loss(model, clean, generator=4, **options).item()
            rows.append(row)
    return {"rows": rows}


def copies(sizes: Sizes) -> dict[str, Any]:
    """Root mean square distances from the nearest training crop, of samples and held-out crops."""
    made, real, rows = drawn("pyramid", BEST, 0, sizes), series(sizes.series, 7, held_out=True), []
    for number, (kind, shapes) in enumerate(KINDS.items()):
        pictures = [x[None] for x in (means(blocks()) if number else blocks())]
        for name, x in (("drawn", made), ("held out", real)):
            own = x.unfold(2, TILE, TILE).mean(dim=3) if number else x
            for length in sorted({max(shapes)[1], own.shape[2]}):
                least, mean = nearest(own[:, None, :, :length], pictures)
                row = {"kind": kind, "length": length, "of": name, "n": len(x)}
                rows.append({**row, "smallest": least, "mean": mean})
    return {"rows": rows}


PARTS = {"quality": quality, "gate": gate, "copies": copies}


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] = tuple(PARTS)
) -> dict[str, Any]:
    """Measures the parts, or with `smoke` a little of each; always on the CPU."""
    sizes = SMOKE if smoke else Sizes()
    about = settings(threads=torch.get_num_threads(), seeds=sizes.seeds, series=sizes.series)
    found = measured(parts, lambda name: PARTS[name](sizes), 4)
    return {"settings": about, "sizes": asdict(sizes), **found}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of all parts that were run."""
    lags = " ".join(f"lag_{lag}[0]:+.2f" for lag in LAGS)
    shown: dict[str, dict[str, Column]] = {
        "quality": columns(
            f"graph rule levels values days[0]:.1f windows[0]:.1f {lags} autocorrelation[0]:.3f "
            "fd[0]:.2f contrast[0]:.2f seam_ratio[0]:.2f"
        ),
        "gate": columns("kind length network:.3f linear:.3f held_network:.3f held_linear:.3f"),
        "copies": columns("kind length of n smallest:.3f mean:.3f"),
    }
    return [
        table(part, result[part]["rows"], cells) for part, cells in shown.items() if part in result
    ]


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Series as rows of colours, and what they know of distant hours, by lag and by period."""
    import matplotlib as mpl

    from pgmdiff.plotting import Panel, panels, strips

    if "quality" not in result:
        return
    path.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(**{**result["sizes"], "rules": tuple(result["sizes"]["rules"])})
    cases: dict[str, tuple[str, str | None]] = {
        "days of training": ("other days", None),
        "held-out days": ("held-out days", None),
        **DRAWN,
    }
    shown = {}
    for name, (graph, rule) in cases.items():
        real = series(24, 5, held_out=graph == "held-out days")
        x = real if rule is None else drawn(graph, rule, 0, sizes)[:24]
        colours = mpl.colormaps["RdBu_r"]((x[:, 0] / 5 + 0.5).clamp(0, 1).double().numpy())
        shown[name] = torch.from_numpy(2 * colours[..., :3] - 1).movedim(2, 0)
    title = "Series of 4 days, a row each, from cold (blue) to warm (red): measured, and drawn"
    strips(shown, title=title).savefig(path / "experiment_pyramids_sea.png", dpi=90)
    rows = {(row["graph"], row.get("rule")): row for row in result["quality"]["rows"]}
    lags, periods = [3.0 * k for k in range(25)], [LENGTH / 2 / k for k in range(1, 25)]
    by_lag = {name: (lags, rows[case]["curve"]) for name, case in cases.items()}
    by_period = {name: (periods, rows[case]["decibels"]) for name, case in cases.items()}
    both = [
        Panel(by_lag, "hours apart", "correlation", "Correlation of two temperatures", log=""),
        Panel(by_period, "period, hours", "dB", "Power, relative to training", log="x"),
    ]
    figure = panels(both, "Four days, measured and drawn at equal cost")
    figure.savefig(path / "experiment_pyramids_learned.png", dpi=110)
