"""A network of sensors with loops, composed of small learned models of its pairs.

Twelve sensors around a ring with two chords (14 edges) measure u_i = g(z_i): z is a Gaussian Markov
field on the network, and g, which is monotone, makes two modes, so that u is Markov to the network,
too. Each of the 14 pairs and 12 sensors has a small network of its own, 26 in all, trained on the
same states by denoising; no network sees more than two sensors.

The solver is UniPC of order 3 on Karras 20 → 0.01. Samples are compared with states that were not
trained on: the energy distance, and the mean error of the correlations of sensors that share no
edge, over all such pairs (0 in expectation only for infinitely many samples; *held-out states* give
the floor of both).
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm, trange

from benchmarks.exactness.aims import by_errors
from benchmarks.problems import METHODS, Problem, levels_within
from benchmarks.reports import Column, Row, columns, plus_minus, table
from pgmdiff.diagnostics.metrics import energy_distance, mean_and_error
from pgmdiff.graphs import FactorGraph
from pgmdiff.models.unet import EDMDenoiser
from pgmdiff.precision import fit_covariances
from pgmdiff.samplers import UniPC, karras, sample
from pgmdiff.scores.adapters import Score, from_denoiser
from pgmdiff.text import Table
from pgmdiff.training import denoising_loss

__all__ = ["rows", "tables", "targets"]

N, CHORDS = 12, ((0, 5), (3, 9))
EDGES = (*((i, (i + 1) % N) for i in range(N)), *CHORDS)
APART = [pair for pair in combinations(range(N), 2) if not {pair, pair[::-1]} & {*EDGES}]
COUPLING = 0.38
"""Minus the precision of neighbours; the diagonal is 1."""
STATES, STEPS, BATCH, WIDTH = 20_000, 4_000, 256, 48
SEEDS, SAMPLES = 8, 1000
BUDGETS, SMOKE = (20, 60), (15,)
COMPARED = METHODS[1:-1]
SIGMAS, SOLVER = (0.01, 20.0), UniPC(3)
MEASURES = "energy", "correlations"


class Networks(nn.Module):
    """One perceptron per region: of x `[batch, regions, d]` and noise `[batch]`."""

    def __init__(self, regions: int, d: int) -> None:
        super().__init__()
        sizes = d + 1, WIDTH, WIDTH, d
        pairs = list(pairwise(sizes))
        draws = (torch.randn(regions, a, b) / a**0.5 for a, b in pairs)
        self.weights = nn.ParameterList(draws)
        self.biases = nn.ParameterList(torch.zeros(regions, b) for _, b in pairs)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        h = torch.cat([x, noise[:, None, None].expand(*x.shape[:2], 1)], dim=2)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            inside = nn.functional.silu(h) if layer else h
            h = torch.einsum("brd,rde->bre", inside, weight) + bias
        return h

    def only(self, k: int) -> "Networks":
        """That of region k alone."""
        one = Networks(1, self.weights[-1].shape[2])
        one.load_state_dict({key: value[k : k + 1] for key, value in self.state_dict().items()})
        return one.requires_grad_(False)


def measured(n: int, seed: int) -> Tensor:
    """States of the sensors, of mean 0 and variance about 1: `[n, 12]`."""
    precision = torch.eye(N, dtype=torch.float64)
    for i, j in EDGES:
        precision[i, j] = precision[j, i] = -COUPLING
    covariance = torch.linalg.inv(precision)
    deviations = covariance.diagonal().sqrt()
    root = torch.linalg.cholesky(covariance / deviations[:, None] / deviations)
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, N, generator=generator, dtype=torch.float64) @ root.T
    u: Tensor = (z / 2 + (3 * z).tanh()) / 1.3
    return u.float()


def problem(smoke: bool) -> Problem:
    """The network's pairs and sensors with their trained models."""
    scopes = {f"{i}-{j}": (i, j) for i, j in EDGES}
    graph = FactorGraph.from_scopes(scopes, dict.fromkeys(range(N), ()))
    data = measured(STATES, 0)
    regions = [torch.tensor(EDGES), torch.arange(N)[:, None]]
    names: list[list[Any]] = [list(scopes), list(range(N))]
    scores: dict[Any, Score] = {}
    for index, own in zip(regions, names, strict=True):
        networks = _trained(data[:, index], 20 if smoke else STEPS)
        scores |= {name: _score_of(networks.only(k)) for k, name in enumerate(own)}
    return Problem(graph.regions, lambda graph: scores, fit_covariances(graph, data))


def _trained(data: Tensor, steps: int) -> Networks:
    """Networks for all regions of data `[n, regions, d]`."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    networks = Networks(*data.shape[1:])
    model = EDMDenoiser(networks, sigma_data=1.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in trange(steps, desc=f"{data.shape[1]} networks", leave=False):
        clean = data[torch.randint(len(data), (BATCH,), generator=generator)]
        loss = denoising_loss(
            model, clean, sigma_data=1.0, p_mean=-0.4, p_std=1.6, generator=generator
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return networks


def _score_of(networks: Networks) -> Score:
    """The score of the one region of some networks."""
    model = EDMDenoiser(networks, sigma_data=1.0)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        found: Tensor = model(x.reshape(len(x), 1, -1), sigma)
        return found.reshape(x.shape)

    return from_denoiser(denoise)


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Trains the networks, and measures every rule; with `smoke` after a few steps of training."""
    seeds, samples = (2, 20) if smoke else (SEEDS, SAMPLES)
    parts = problem(smoke)
    held_out = [measured(samples, 100 + seed) for seed in range(seeds)]
    truth = _correlations(measured(200_000, 99))
    found = []

    def losses(drawn: Sequence[Tensor]) -> dict[str, list[float]]:
        pairs = zip(drawn, held_out, strict=True)
        errors = [(_correlations(u) - truth).abs().mean().item() for u in drawn]
        return {"energy": [energy_distance(u, v) for u, v in pairs], "correlations": errors}

    def row(method: str, own: dict[str, list[float]], **more: Any) -> dict[str, Any]:
        about = {"method": method, "seeds": seeds, "samples": samples, **more}
        return about | {name: mean_and_error(values) for name, values in own.items()}

    for budget in SMOKE if smoke else BUDGETS:
        posterior: dict[str, list[float]] = {}
        for method in tqdm(COMPARED, desc=f"sensors, {budget}"):
            levels = levels_within(method, budget, SOLVER)
            score, sigmas, shape = parts.score(method), karras(levels, *SIGMAS), (samples, N)
            drawn = [
                sample(score, sigmas, shape=shape, solver=SOLVER, generator=seed)
                for seed in range(seeds)
            ]
            own = losses(drawn)
            posterior = own if method == "posterior" else posterior
            more: dict[str, Any] = {"evaluations": budget, "levels": levels}
            if method.startswith("consistent"):
                pairs = {name: zip(own[name], posterior[name], strict=True) for name in MEASURES}
                gaps = {name: [a - b for a, b in each] for name, each in pairs.items()}
                more["above_posterior"] = {name: mean_and_error(v) for name, v in gaps.items()}
            found.append(row(method, own, **more))
    states = [measured(samples, 200 + seed) for seed in range(seeds)]
    return [*found, row("held-out states", losses(states))]


def _correlations(u: Tensor) -> Tensor:
    """Those of sensors that share no edge."""
    i, j = torch.tensor(APART).T
    return torch.corrcoef(u.T)[i, j]


def targets(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Never worse than posterior composition by two standard errors, and better."""
    gaps = {
        f"{name} at {row['evaluations']} evaluations": row["above_posterior"][name]
        for row in rows
        if row["method"] == "consistent"
        for name in MEASURES
    }
    for words, most in (("never worse", 2), ("better", -2)):
        target = f"12 sensors: {words} than posterior composition by two standard errors"
        yield by_errors(target, gaps, most)


def tables(rows: Sequence[Row]) -> list[Table]:
    """The distances of every method."""
    shown: dict[str, Column] = {
        **columns("method evaluations levels"),
        "energy distance": lambda row: plus_minus(row["energy"]),
        "error of correlations": lambda row: plus_minus(row["correlations"]),
    }
    return [table(f"{N} sensors, {len(EDGES)} edges: 26 learned networks", rows, shown)]
