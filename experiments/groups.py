r"""Groups of a population, many observations of each: a factor graph of factor graphs.

    φ ~ N(0, 1.5²)                                    the population
    θ_j | φ ~ ½ N(φ - 1.2, 0.35²) + ½ N(φ + 1.2, 0.35²)   groups are of two kinds
    y_jk | θ_j ~ N(θ_j, 2²)                           k = 1 … n observations of each of five groups

The outer graph joins φ to every θ_j, and the pair (φ, θ_j) is itself a graph, a star of posteriors
of one observation each:

    q(φ, θ | y) ∝ q(φ)^(1-5) Π_j [q(φ, θ_j)^(1-n) Π_k q(φ, θ_j | y_jk)]

Data are simulated. The exact posterior is an integral over φ alone, by quadrature. Models of one
observation are exact mixtures, or a network that has learned q(φ, θ | y) from simulated triples.

    exact    three rules with exact models, for 1 to 1,000 observations per group
    learned  the same with the network; `python -m experiments.groups` trains it
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.reports import columns, estimates, measured, settings, table
from experiments.sea import Small
from pgmdiff.composition import Consistent, Marginal, Posterior, Rule, compose
from pgmdiff.diagnostics import energy_distance
from pgmdiff.diagnostics.metrics import mean_and_error
from pgmdiff.errors import ScoreError
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.graphs import FactorGraph, repeated_observations
from pgmdiff.models.unet import save_weights, trained
from pgmdiff.samplers import DPMSolver2M, karras, sample
from pgmdiff.scores import from_denoiser
from pgmdiff.text import Table
from pgmdiff.training import EDMDenoiser, fit

__all__ = ["PARTS", "draw", "run", "tables"]

GROUPS, TAU, AWAY, WITHIN, NOISE = 5, 1.5, 1.2, 0.35, 2.0
WEIGHTS = Path(__file__).parent / "weights" / "groups.safetensors"
RULES = "Marginal", "Posterior", "Consistent"
FIRST = 100
"""Seed of the first data set. Those below were used to choose among variants of the method."""
ASTRAY, LOST = 10.0, 1000.0
"""Deviations from the posterior's mean from which a sample counts as astray, and all of them, on
average, as lost."""
MODES = torch.tensor([-AWAY, AWAY], dtype=torch.float64)
MEANS = torch.stack([torch.zeros_like(MODES), MODES], dim=1)
"""Of (φ, θ) in either mode."""
COVARIANCE = torch.tensor([[TAU**2, TAU**2], [TAU**2, TAU**2 + WITHIN**2]], dtype=torch.float64)
SEEN = COVARIANCE[1, 1] + NOISE**2
GAIN = COVARIANCE[1] / SEEN
LEFT = COVARIANCE - GAIN[:, None] * COVARIANCE[1]
"""Of (φ, θ) in a mode, given y."""


def mixture(y: Tensor) -> tuple[Tensor, Tensor]:
    """The means `[n, 2, 2]` and log-weights `[n, 2]` of q(φ, θ | y), y `[n]`."""
    misfit = y[:, None] - MODES.to(y)
    means = MEANS.to(y) + misfit[..., None] * GAIN.to(y)
    return means, torch.log_softmax(-0.5 * misfit**2 / SEEN.to(y), dim=1)


def one_observation(x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
    """The exact score of q(φ, θ | y)."""
    means, weights = mixture(y)
    noisy = LEFT.to(x) + sigma[:, None, None] ** 2 * torch.eye(2, dtype=x.dtype)
    away = means - x[:, None]
    determinant = noisy[:, 0, 0] * noisy[:, 1, 1] - noisy[:, 0, 1] ** 2
    adjugate = torch.stack([noisy[:, 1, 1], -noisy[:, 0, 1], -noisy[:, 1, 0], noisy[:, 0, 0]], 1)
    precision = adjugate.reshape(-1, 2, 2) / determinant[:, None, None]
    pulls = away @ precision
    weights = torch.softmax(weights - 0.5 * (pulls * away).sum(dim=2), dim=1)
    return (weights[..., None] * pulls).sum(dim=1)


class Reader(Small):
    """A network of q(φ, θ | y): y in place of a label."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        width = self.enter.out_features
        self.label = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, noise: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, noise, (y / 3)[:, None].to(x))


@dataclass(frozen=True)
class Case:
    """Observations of all groups, `[groups, n]`."""

    y: Tensor

    @classmethod
    def simulated(cls, n: int, seed: int) -> "Case":
        """The first n of 1,000 observations of groups, all drawn with a seed."""
        stream = torch.Generator().manual_seed(seed)
        normal = torch.randn(1 + GROUPS * 1001, generator=stream, dtype=torch.float64)
        kinds = MODES[torch.randint(2, (GROUPS,), generator=stream)]
        theta = TAU * normal[0] + kinds + WITHIN * normal[1 : 1 + GROUPS]
        y = theta[:, None] + NOISE * normal[1 + GROUPS :].reshape(GROUPS, 1000)
        return cls(y[:, :n])

    @cached_property
    def graph(self) -> FactorGraph:
        """φ joined to every group, and every pair a graph of observations."""
        n = self.y.shape[1]
        groups = {f"group {j}": ("population", f"theta {j}") for j in range(GROUPS)}
        inner = {
            name: repeated_observations(n, (2,), [{"y": value} for value in own])
            for name, own in zip(groups, self.y, strict=True)
        }
        return FactorGraph.from_scopes(groups, variable_model="population").nest(inner)

    def rule(self, name: str) -> Rule:
        """A rule, with the covariances of all leaves with and without their observations."""
        if name == "Marginal":
            return Marginal()
        pair = COVARIANCE + torch.diag(torch.tensor([0.0, AWAY**2], dtype=torch.float64))
        prior: dict[Any, Tensor] = {}
        given: dict[Any, Tensor] = {}
        for group in self.graph.flatten().groups:
            for leaf in group.names:
                own = pair if group.shape[-1:] == (2,) else torch.tensor([[TAU**2]]).double()
                prior[leaf] = given[leaf] = own
        for leaf, condition in self.graph.flatten().conditions.items():
            means, weights = mixture(condition["y"][None])
            share = weights[0].exp()
            away = means[0] - share @ means[0]
            given[leaf] = LEFT + (share[:, None] * away).T @ away
        made: Any = {"Posterior": Posterior, "Consistent": Consistent}[name]
        mean = torch.zeros(1 + GROUPS, dtype=torch.float64)
        rule: Rule = made(given, prior=prior, mean=mean)
        return rule

    @cached_property
    def grid(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Places of φ, their probabilities, and of θ_j in both modes, given φ: shares `[grid,
        groups, 2]`, means of the same shape, and a deviation.
        """
        n, phi = self.y.shape[1], torch.linspace(-9, 9, 18_001, dtype=torch.float64)
        spread = WITHIN**2 + NOISE**2 / n
        at = phi[:, None, None] + MODES
        misfit = self.y.mean(dim=1)[:, None] - at
        logs = -0.5 * misfit**2 / spread
        whole = torch.logsumexp(logs, dim=2).sum(dim=1) - 0.5 * (phi / TAU) ** 2
        shares, means = torch.softmax(logs, dim=2), at + WITHIN**2 / spread * misfit
        deviation = torch.tensor(WITHIN**2 * (NOISE**2 / n) / spread).sqrt()
        return phi, torch.softmax(whole, dim=0), shares, means, deviation

    def moments(self) -> tuple[Tensor, Tensor]:
        """Exact posterior means and deviations of φ and all θ_j, `[1 + groups]` each."""
        phi, chances, shares, means, deviation = self.grid
        own = (shares * means).sum(dim=2)
        squares = (shares * (means**2 + deviation**2)).sum(dim=2)
        first = torch.cat([(chances @ phi)[None], chances @ own])
        second = torch.cat([(chances @ phi**2)[None], chances @ squares])
        return first, (second - first**2).sqrt()

    def exact(self, draws: int, seed: int) -> Tensor:
        """Draws of the exact posterior, `[draws, 1 + groups]`."""
        phi, chances, shares, means, deviation = self.grid
        stream = torch.Generator().manual_seed(seed)
        at = torch.multinomial(chances, draws, replacement=True, generator=stream)
        mode = torch.rand(draws, GROUPS, generator=stream) < shares[at][..., 1]
        chosen = torch.where(mode, means[at][..., 1], means[at][..., 0])
        normal = torch.randn(chosen.shape, generator=stream, dtype=torch.float64)
        return torch.cat([phi[at, None], chosen + deviation * normal], dim=1)

    def measures(self, x: Tensor, seed: int) -> dict[str, float]:
        """Errors of means and spreads, in exact deviations, averaged over φ and all θ_j."""
        mean, deviation = self.moments()
        away, ratio = (x.mean(dim=0) - mean).abs() / deviation, x.std(dim=0) / deviation
        unit = [(each - mean) / deviation for each in (x, self.exact(1000, 900 + seed))]
        return {
            "mean": away.mean().item(),
            "population": away[0].item(),
            "spread": ratio.log().abs().mean().exp().item(),
            "width": ratio.log().mean().exp().item(),
            "energy": energy_distance(*unit),
            "farthest": ((x - mean).abs() / deviation).max().item(),
        }


def _compared(
    model: Callable[..., Tensor], numbers: Mapping[int, tuple[int, int]], levels: int, dtype: Any
) -> dict[str, Any]:
    """Rows of every number of observations and rule; numbers tell of data sets and draws."""
    q = GaussianMixture(
        torch.full((2,), 0.5).double(), [Gaussian(mean, COVARIANCE) for mean in MEANS]
    )
    phi = Gaussian(torch.zeros(()).double(), torch.full((1, 1), TAU**2).double())
    scores: dict[str, Any] = {"posterior": model, "prior": q, "population": phi}
    sigmas, solver, rows = karras(levels, 0.005, 30.0), DPMSolver2M(eta=1.0, rho=7.0), []

    def drawn(case: Case, name: str, draws: int, seed: int) -> Tensor:
        if name not in RULES:
            return case.exact(draws, seed)
        joint = compose(case.graph, scores, rule=case.rule(name), max_batch=100_000)
        shape: dict[str, Any] = {"shape": (draws, 1 + GROUPS), "dtype": dtype}
        return sample(joint, sigmas, generator=seed, solver=solver, **shape).double()

    for n, (data_sets, draws) in numbers.items():
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ("exact draws", *RULES)}
        lost, astray = dict.fromkeys(found, 0), dict.fromkeys(found, 0)
        for seed in range(FIRST, FIRST + data_sets):
            case = Case.simulated(n, seed)
            for name in found:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # of rules that go astray
                        own = case.measures(drawn(case, name, draws, seed), seed)
                except ScoreError:  # so far that the sum overflows
                    own = {"mean": math.inf}
                if own["mean"] < LOST:
                    found[name].append(own)
                    astray[name] += own.pop("farthest") > ASTRAY
                else:
                    lost[name] += 1
        for name, measures in found.items():
            row: dict[str, Any] = {
                "observations": n,
                "rule": name,
                "data sets": data_sets,
                "astray": astray[name],
                "lost": lost[name],
            }
            for key in measures[0] if measures else ():
                row[key] = mean_and_error([each[key] for each in measures])
            rows.append(row)
    return {"rows": rows}


NUMBERS = {1: (4, 400), 10: (16, 200), 100: (32, 100), 1000: (12, 50)}
"""Observations of each group, to data sets and draws for each."""


def exact(smoke: bool) -> dict[str, Any]:
    """Exact models of one observation."""
    numbers = {2: (2, 20)} if smoke else NUMBERS
    return _compared(one_observation, numbers, 6 if smoke else 60, torch.float64)


def learned(smoke: bool) -> dict[str, Any]:
    """The trained network of one observation; priors are exact."""
    network = trained(EDMDenoiser(Reader(), 1.0), WEIGHTS)
    numbers = {2: (2, 20)} if smoke else {1: (2, 100), 10: (2, 100), 100: (1, 60)}
    return _compared(from_denoiser(network), numbers, 6 if smoke else 30, torch.float32)


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {"exact": exact, "learned": learned}
"""The parts of the experiment, by name."""


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] = tuple(PARTS)
) -> dict[str, Any]:
    """Measures the parts, or with `smoke` a little of each; always on the CPU."""
    about = settings(groups=GROUPS, sampler="DPM-Solver++ 2M, η = 1")
    return {"settings": about, **measured(parts, lambda name: PARTS[name](smoke), 4)}


def train(steps: int = 6_000) -> EDMDenoiser:
    """Trains the network on simulated (φ, θ, y)."""
    stream = torch.Generator().manual_seed(0)
    normal = torch.randn(200_000, 3, generator=stream)
    phi = TAU * normal[:, 0]
    kinds = MODES.float()[torch.randint(2, (len(phi),), generator=stream)]
    theta = phi + kinds + WITHIN * normal[:, 1]
    y, states = theta + NOISE * normal[:, 2], torch.stack([phi, theta], dim=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Reader()
    options: dict[str, Any] = {"steps": steps, "batch": 512, "lr": 3e-3, "p_std": 1.6}
    options |= {"labels": {"y": y}, "generator": 0, "progress": True}
    found: EDMDenoiser = fit([(2,)], network, states, **options)
    return found


def tables(result: Mapping[str, Any]) -> list[Table]:
    """A table for each part that was run."""
    own = estimates("mean population spread width energy", ".2f")
    shown = columns("observations rule") | own | columns("astray lost")
    titles = {"exact": "Exact models", "learned": "Learned models"}
    return [table(t, result[k]["rows"], shown) for k, t in titles.items() if k in result]


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Errors against the number of observations: `experiment_groups.png`."""
    from pgmdiff.plotting import Panel, panels

    drawn = []
    for part in [part for part in PARTS if part in result]:
        for key, label in (("mean", "error of means, deviations"), ("width", "spread / exact")):
            lines: dict[str, tuple[list[float], list[float]]] = {}
            for row in result[part]["rows"]:
                if key in row and math.isfinite(row[key][0]) and row[key][0] < 100:
                    x, y = lines.setdefault(row["rule"].lower().replace("draws", "samples"),
                                            ([], []))  # fmt: skip
                    x.append(row["observations"])
                    y.append(row[key][0])
            drawn.append(Panel(lines, "observations of each group", label, f"{part} models"))
    path.mkdir(parents=True, exist_ok=True)
    figure = panels(drawn, "Posteriors of groups, against quadrature", columns=2)
    figure.savefig(path / "experiment_groups.png", dpi=110)


if __name__ == "__main__":
    save_weights(train(), WEIGHTS)
