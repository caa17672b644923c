"""A network of sensors: the joint temperature of 28 places from models of single places and pairs.

The sensors lie on the tropical ocean, see `sea`. No model has seen more than two of them at once.

    pairs    the two trained models alone: do pairs have the distribution of held-out ones?
    samples  joint samples of four methods against held-out months
    missing  nine sensors hidden: draws of them, given the others
    faults   readings that belong to no sea: found by their log-density

Beside three rules there are two Gaussians: *of all* is fitted to all 28 sensors at once, which
pairs do not tell, and *of pairs* is the Gaussian of largest entropy that agrees with the pairs'.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import networkx as nx
import torch
from torch import Tensor

from benchmarks.reports import Column, columns, estimates, measured, settings, table
from experiments.sea import SENSORS, Learned, Sea, learned, opened
from pgmdiff.composition import Consistent, Joint, Marginal, Posterior, compose
from pgmdiff.conditioning import Composed, Mask, moment_matching
from pgmdiff.diagnostics import crps, energy_distance, interval_coverage
from pgmdiff.diagnostics.metrics import mean_and_error
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import FactorGraph
from pgmdiff.precision import completed, fit_covariances
from pgmdiff.samplers import karras, sample
from pgmdiff.text import Table

__all__ = ["PARTS", "draw", "run", "tables"]

RULES = "Marginal", "Posterior", "Consistent"
GAUSSIANS = "Gaussian of all", "Gaussian of pairs"
HIDDEN, DRAWS, NOISE = 9, 39, 0.1
"""Sensors that are hidden, draws of them, and the deviation of a reading's noise, in °C."""
OFFSET = 1.0
"""Of a faulty sensor, in °C."""
SHOWN = (1, 25)
"""Two sensors far apart, for the picture."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured: seeds, samples, noise levels, and rows of `missing` and of `faults`."""

    seeds: int = 3
    samples: int = 1000
    levels: int = 30
    rows: int = 60
    readings: int = 60


@dataclass(frozen=True)
class Study:
    """The sea, the models, and how much is measured."""

    sizes: Sizes
    sea: Sea
    models: Mapping[str, Learned]

    @cached_property
    def covariances(self) -> Any:
        return fit_covariances(self.sea.graph, self.sea.train)

    @cached_property
    def gaussians(self) -> dict[str, Gaussian]:
        whole, pairs = Gaussian.fit(self.sea.train), completed(self.sea.graph, self.covariances)
        return dict(zip(GAUSSIANS, (whole, Gaussian(whole.mean, pairs.covariance)), strict=True))

    @cached_property
    def joints(self) -> dict[str, Joint]:
        rules = Marginal(), Posterior(self.covariances), Consistent(self.covariances)
        made = (compose(self.sea.graph, self.models, rule=rule) for rule in rules)
        return dict(zip(RULES, made, strict=True))

    @property
    def levels(self) -> list[float]:
        return karras(self.sizes.levels, 0.02, 50.0)

    def rows(self, states: Tensor, n: int, seed: int) -> Tensor:
        """Some of the states."""
        stream = torch.Generator().manual_seed(seed)
        return states[torch.randperm(len(states), generator=stream)[:n]]

    def drawn(self, score: Any, n: int, seed: int, size: int = SENSORS) -> Tensor:
        return sample(score, self.levels, shape=(n, size), generator=seed).double()


def pairs(study: Study) -> dict[str, Any]:
    """Energy distances of pairs, and of sensors, from held-out ones, averaged over all of each."""
    n, graph, rows = study.sizes.samples, study.sea.graph, []
    held, real = (study.rows(x, n, 0) for x in (study.sea.test, study.sea.train))
    normal = study.gaussians["Gaussian of all"].sample(n, 1)
    for kind, names in (("pair", graph.factors), ("single", graph.variables)):
        places = [graph.elements(name).reshape(-1) for name in names]
        scopes = {
            name: [(name, k) for k in range(len(p))] for name, p in zip(names, places, strict=True)
        }
        conditions = {name: graph.conditions[name] for name in names}
        apart = FactorGraph.from_scopes(scopes, conditions=conditions, factor_model=kind)
        x = study.drawn(compose(apart, study.models), n, 0, apart.n_elements)
        x = x.reshape(n, len(names), -1)
        row: dict[str, Any] = {"models": kind, "number": len(names)}
        for method, states in (("training", real), ("model", x), ("Gaussian", normal)):
            own = [states[:, k] if states is x else states[:, p] for k, p in enumerate(places)]
            far = [energy_distance(a, held[:, p]) for a, p in zip(own, places, strict=True)]
            row[method] = sum(far) / len(far)
        rows.append(row)
    return {"rows": rows}


def _measures(study: Study, x: Tensor, held: Tensor) -> dict[str, float]:
    """The distance of samples from held-out states, and errors of correlations and of sensors."""
    joined = torch.from_numpy(nx.to_numpy_array(study.sea.network)) > 0
    apart = ~joined & ~torch.eye(SENSORS, dtype=torch.bool)
    wrong = (torch.corrcoef(x.T) - torch.corrcoef(study.sea.test.T)).abs()
    n = min(len(x), len(held))
    quantiles = (x[:n].sort(dim=0).values - held[:n].sort(dim=0).values).abs()
    return {
        "energy": energy_distance(x, held),
        "joined": wrong[joined].mean().item(),
        "apart": wrong[apart].mean().item(),
        "sensors": quantiles.mean().item(),
        "roughness": (_roughness(study, x) / _roughness(study, study.sea.test)),
    }


def _roughness(study: Study, x: Tensor) -> float:
    """The root mean square difference between joined sensors."""
    ends = torch.tensor([*study.sea.network.edges])
    return (x[:, ends[:, 0]] - x[:, ends[:, 1]]).square().mean().sqrt().item()


def samples(study: Study) -> dict[str, Any]:
    """Samples of every method against held-out states; `training` are other months themselves."""
    n, found = study.sizes.samples, dict[str, list[dict[str, float]]]()
    shown: dict[str, Any] = {}
    for seed in range(study.sizes.seeds):
        held = study.rows(study.sea.test, n, 10 + seed)
        drawn = {"training": study.rows(study.sea.train, n, 20 + seed)}
        drawn |= {name: q.sample(n, seed) for name, q in study.gaussians.items()}
        drawn |= {name: study.drawn(joint, n, seed) for name, joint in study.joints.items()}
        for name, x in drawn.items():
            found.setdefault(name, []).append(_measures(study, x, held))
        if not seed:
            several = {"held out": held, **drawn}
            shown = {
                name: (x[:250] + study.sea.mean)[:, SHOWN].T.tolist() for name, x in several.items()
            }
    return {"rows": _averaged(found), "shown": shown}


def _averaged(found: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Means over seeds and their standard errors, a row per method."""
    return [
        {"method": name, **{k: mean_and_error([row[k] for row in rows]) for k in rows[0]}}
        for name, rows in found.items()
    ]


def _given(q: Gaussian, seen: Tensor, y: Tensor, draws: int, seed: int) -> Tensor:
    """Draws of all sensors, given readings y `[n, 28]` where a mask is true: `[n, draws, 28]`."""
    gain = q.covariance[:, seen] @ torch.linalg.inv(
        q.covariance[seen][:, seen] + NOISE**2 * torch.eye(int(seen.sum()), dtype=y.dtype)
    )
    left = q.covariance - gain @ q.covariance[seen]
    mean = q.mean + (y - q.mean)[:, seen] @ gain.T
    normal = Gaussian(torch.zeros_like(q.mean), (left + left.T) / 2).sample(len(y) * draws, seed)
    found: Tensor = mean[:, None] + normal.reshape(len(y), draws, -1)
    return found


def missing(study: Study) -> dict[str, Any]:
    """Draws of hidden sensors given noisy readings of the others, other sensors for every seed."""
    found = dict[str, list[dict[str, float]]]()
    for seed in range(study.sizes.seeds):
        truth = study.rows(study.sea.test, study.sizes.rows, 30 + seed)
        stream = torch.Generator().manual_seed(seed)
        seen = torch.ones(SENSORS, dtype=torch.bool)
        seen[torch.randperm(SENSORS, generator=stream)[:HIDDEN]] = False
        y = truth + NOISE * torch.randn(truth.shape, generator=stream, dtype=truth.dtype)
        repeated = y.repeat_interleave(DRAWS, dim=0).float()
        drawn = {k: _given(q, seen, y, DRAWS, seed) for k, q in study.gaussians.items()}
        for name, joint in study.joints.items():
            covariance = Composed(study.joints["Consistent"] if name == "Marginal" else joint)
            score = moment_matching(joint, repeated, Mask(seen), covariance, noise=NOISE)
            drawn[name] = study.drawn(score, len(repeated), seed).reshape(len(y), DRAWS, -1)
        for name, x in drawn.items():
            own, true = x[..., ~seen], truth[:, ~seen]
            row = {"crps": crps(own, true)}
            row["error"] = (own.mean(dim=1) - true).square().mean().sqrt().item()
            row |= {f"band_{p}": interval_coverage(own, true, p / 100) for p in (50, 90)}
            ordered = own.sort(dim=1).values
            row["width"] = (ordered[:, -2] - ordered[:, 1]).mean().item()
            found.setdefault(name, []).append(row)
    return {"rows": _averaged(found)}


def faults(study: Study) -> dict[str, Any]:
    """Readings with one faulty sensor among sound ones: areas under the curve, and who is found.

    The sensor is off by OFFSET, or has the reading of another month and place (`swap`).

    Densities are those of readings with the noise of all sensors. On the loops, models of pairs
    and of sensors give Σ c_r log q_r, which is not normalised; `tree` is `Joint.log_density` of
    `Consistent` on the shortest tree that joins all sensors.
    """
    graph, n, found = study.sea.graph, study.sizes.readings, dict[str, list[dict[str, float]]]()
    shortest = {frozenset(edge) for edge in study.sea.shortest_tree(study.sea.network).edges}
    scopes = {name: ends for name, ends in graph.scopes.items() if frozenset(ends) in shortest}
    kept = {name: graph.conditions[name] for name in [*scopes, *graph.variables]}
    tree = FactorGraph.from_scopes(
        scopes, dict.fromkeys(graph.variables, ()), conditions=kept, factor_model="pair",
        variable_model="single",
    )  # fmt: skip
    agreed = compose(tree, study.models, rule=Consistent(fit_covariances(tree, study.sea.train)))
    for seed in range(study.sizes.seeds):
        stream = torch.Generator().manual_seed(50 + seed)
        rows = study.rows(study.sea.test, 2 * n, 40 + seed)
        rows = rows + NOISE * torch.randn(rows.shape, generator=stream, dtype=rows.dtype)
        sound, bad = rows.split(len(rows) // 2)
        which = torch.randint(SENSORS, (len(bad),), generator=stream)
        sign = torch.randint(2, (len(bad),), generator=stream) * 2.0 - 1
        at = torch.arange(len(bad)), which
        kinds = {"offset": bad.clone(), "swap": bad.clone()}
        kinds["offset"][at] += OFFSET * sign
        kinds["swap"][at] = bad.roll(1, 0)[at]
        known = study.rows(study.sea.train, n, 60 + seed)
        known = known + NOISE * torch.randn(known.shape, generator=stream, dtype=rows.dtype)
        readers: dict[str, Callable[[Tensor], tuple[Tensor, Tensor | None]]] = {
            **{name: _of_gaussian(q) for name, q in study.gaussians.items()},
            "pairs and sensors": lambda u: _of_pieces(study, u),
            "tree": lambda u: (agreed.log_density(u.float(), NOISE), None),
        }
        for name, read in readers.items():
            base, ground, typical = read(sound)[0], {}, read(known)[1]
            for kind, states in kinds.items():
                density, own = read(states)
                ground[kind] = _area(base, density)
                if own is not None and typical is not None:
                    away = own - typical.mean(dim=0)
                    ground[f"{kind}_found"] = (away.argmin(dim=1) == which).double().mean().item()
            found.setdefault(name, []).append(ground)
    return {"rows": _averaged(found)}


def _area(sound: Tensor, faulty: Tensor) -> float:
    """How often a faulty reading has less density than a sound one."""
    return (faulty[:, None] < sound).double().mean().item()


def _of_gaussian(q: Gaussian) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Log-densities of readings, and of every sensor given all others, `[n, 28]`."""
    noisy = q.noised(NOISE)
    precision = torch.linalg.inv(noisy.covariance)

    def read(u: Tensor) -> tuple[Tensor, Tensor]:
        away = (u - q.mean) @ precision
        return noisy.log_density(u), -0.5 * away.square() / precision.diagonal()

    return read


def _of_pieces(study: Study, u: Tensor) -> tuple[Tensor, Tensor]:
    """Σ c_r log q_r of readings, and the same sum of what holds each sensor, `[n, 28]`."""
    joint, x = study.joints["Marginal"], u.float()
    each = torch.zeros(u.shape, dtype=torch.float64)
    total = each.new_zeros(len(u))
    sigma = torch.full((len(u),), NOISE)
    for chunk, found in joint.evaluate(x, sigma, density=True):
        weighted = found.double() * chunk.weights
        total[chunk.samples] += weighted.sum(dim=1)
        d = len(chunk.index) // found.shape[1]
        each[chunk.samples] = each[chunk.samples].index_add(
            1, chunk.index, weighted.repeat_interleave(d, dim=1)
        )
    return total, each


PARTS: dict[str, Callable[[Study], dict[str, Any]]] = {
    "pairs": pairs, "samples": samples, "missing": missing, "faults": faults,
}  # fmt: skip
"""The parts of the experiment, by name."""


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] = tuple(PARTS)
) -> dict[str, Any]:
    """Runs the parts, or with `smoke` a little of each; always on the CPU."""
    study = _study(smoke)
    sea, sizes = study.sea, study.sizes
    about = {"sensors": SENSORS, "pairs": len(sea.graph.factors), "training rows": len(sea.train)}
    about |= {"held-out rows": len(sea.test), "seeds": sizes.seeds, "levels": sizes.levels}
    return {"settings": settings(**about), **measured(parts, lambda k: PARTS[k](study), 4)}


@cache
def _study(smoke: bool) -> Study:
    return Study(Sizes(2, 60, 6, 4, 5) if smoke else Sizes(), opened(), learned())


def _estimates(keys: str) -> dict[str, Column]:
    return columns("method") | estimates(keys, ".3f")


COLUMNS: dict[str, tuple[str, dict[str, Column]]] = {
    "pairs": ("Energy distance from held-out pairs, °C",
              columns("models number training:.4f model:.4f Gaussian:.4f")),
    "samples": ("Joint samples against held-out months",
                _estimates("energy joined apart sensors roughness")),
    "missing": ("Hidden sensors", _estimates("crps error band_50 band_90 width")),
    "faults": ("Faults: area under the curve, and sensors found",
               _estimates("offset offset_found swap swap_found")),
}  # fmt: skip


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of all parts that were run."""
    return [table(t, result[k]["rows"], own) for k, (t, own) in COLUMNS.items() if k in result]


def draw(result: Mapping[str, Any], path: Path) -> None:
    """The network on its sea, and two distant sensors under every method: two figures."""
    from pgmdiff.plotting.style import INK, MIST, Sheet

    path.mkdir(parents=True, exist_ok=True)
    sea, shown = opened(), result.get("samples", {}).get("shown", {})
    y, x = sea.places.T
    figure = Sheet(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, j in sea.network.edges:
        axes.plot([x[i], x[j]], [y[i], y[j]], color=MIST, lw=1, zorder=1)
    drawn = axes.scatter(x, y, c=sea.train.std(dim=0), s=90, cmap="viridis", zorder=2)
    for k in SHOWN:
        axes.scatter(x[k], y[k], s=190, facecolors="none", edgecolors=INK, linewidths=1.4)
    figure.colorbar(drawn, label="standard deviation, °C")
    axes.set(xlabel="degrees east of the box's edge", ylabel="degrees north", aspect="equal")
    figure.savefig(path / "experiment_network.png", dpi=110)
    if shown:
        figure = Sheet(figsize=(11, 5.6), layout="constrained")
        names = [name for name in shown if name != "training"]
        grid = figure.subplots(2, 3, sharex=True, sharey=True).flat
        for axes, name in zip(grid, names, strict=True):
            axes.scatter(*shown["held out"], s=5, color="#cfd2d6")
            axes.scatter(*shown[name], s=5, color="#08406e")
            axes.set_title(name, fontsize=10, loc="left")
            axes.set(xlim=(17, 33), ylim=(17, 33))
        figure.supxlabel("one sensor, °C", fontsize=9)
        figure.supylabel("another, 30 degrees apart, °C", fontsize=9)
        figure.savefig(path / "experiment_network_samples.png", dpi=110)
