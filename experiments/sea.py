"""A network of 28 sensors on the tropical ocean, and the models of its variables and pairs.

Sensors lie anywhere in a box of 10° × 30°, each joined to its two nearest ones. The network is
rigid, and put at every place around the equator where none of its sensors is on land, in each of
54 months: every place and month is one sample of the joint temperature, in °C, less every sensor's
mean over the months to learn from. Every third month is held out. See sea_data/sea.md
for the data.

One small network is the model of all pairs, and one of all variables; both are told which pair, or
which sensor, and accept a noise level per element. `python -m experiments.sea` trains them.
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor, nn

from pgmdiff.graphs import FactorGraph, markov_random_field
from pgmdiff.models.unet import save_weights, trained
from pgmdiff.noise import Generator
from pgmdiff.samplers import Adaptive, log_likelihood
from pgmdiff.scores import from_denoiser
from pgmdiff.training import EDMDenoiser, fit

__all__ = ["Learned", "Sea", "learned", "opened", "train"]

FOLDER = Path(__file__).parent
SENSORS, WIDTH, NEIGHBOURS, SEED = 28, 18, 2, 0
LAND = -30_000
KINDS = {"pair": 2, "single": 1}
"""The model ids, and how many elements their regions have."""
OPTIONS: dict[str, Any] = {"batch": 512, "lr": 3e-3, "per_element": True, "p_std": 1.6}
STEPS = 10_000
NEAR = 0.2
"""What joined sensors differ by, about, in standard deviations of one."""


@dataclass(frozen=True)
class Sea:
    """The sensors, and what they measure.

    Attributes:
        places: latitude and longitude of every sensor in the box, in degrees, `[28, 2]`.
        mean: the mean of every sensor, `[28]`.
        train, test: temperatures in months to learn from and in others, less it, `[n, 28]`.
    """

    places: Tensor
    mean: Tensor
    train: Tensor
    test: Tensor

    @cached_property
    def network(self) -> nx.Graph:
        """The sensors, joined to their nearest neighbours, and all connected."""
        apart = torch.cdist(self.places, self.places)
        near = apart.argsort(dim=1)[:, 1 : NEIGHBOURS + 1]
        joined: nx.Graph = nx.empty_graph(SENSORS)
        joined.add_edges_from((i, j) for i, some in enumerate(near.tolist()) for j in some)
        joined.add_edges_from(self.shortest_tree(nx.complete_graph(SENSORS)).edges)
        return joined

    def shortest_tree(self, joined: nx.Graph) -> nx.Graph:
        """The shortest tree that joins all sensors along edges of a network."""
        lengths = {(i, j): (self.places[i] - self.places[j]).norm().item() for i, j in joined.edges}
        weighed = nx.Graph([(*edge, {"weight": length}) for edge, length in lengths.items()])
        return nx.minimum_spanning_tree(weighed)

    @cached_property
    def graph(self) -> FactorGraph:
        """A factor per edge; pairs and sensors are numbered for their models."""
        plain = markov_random_field(self.network)
        numbers = [*enumerate(plain.factors), *enumerate(plain.variables)]
        conditions = {name: {"label": torch.tensor(number)} for number, name in numbers}
        return markov_random_field(
            self.network, conditions=conditions, factor_model="pair", variable_model="single"
        )


@cache
def opened() -> Sea:
    """The sea, from the file."""
    with np.load(FOLDER / "sea_data" / "sea.npz") as file:
        celsius, latitude, longitude = file["celsius"], file["latitude"], file["longitude"]
    rows, columns = _scattered(latitude, longitude[:WIDTH])
    seen = celsius[:, rows[None], (np.arange(len(longitude))[:, None] + columns) % len(longitude)]
    wet = (seen != LAND).all(axis=(0, 2))
    states = torch.from_numpy(seen[:, wet] / 100.0)
    held_out = torch.arange(len(states)) % 3 == 1
    places = torch.from_numpy(np.stack([latitude[rows], longitude[columns]], axis=1))
    train, test = states[~held_out].flatten(0, 1), states[held_out].flatten(0, 1)
    mean = train.mean(dim=0)
    return Sea(places.double(), mean, train - mean, test - mean)


def _scattered(latitude: Any, longitude: Any) -> tuple[Any, Any]:
    """Rows and columns of sensors, each the farthest of 40 candidates from those before it."""
    stream, found = np.random.default_rng(SEED), list[Any]()
    for _ in range(SENSORS):
        rows, columns = (stream.integers(len(axis), size=40) for axis in (latitude, longitude))
        some = np.stack([latitude[rows], longitude[columns]], axis=1)
        known = np.array([(latitude[r], longitude[c]) for r, c in found]).reshape(-1, 2)
        apart = np.linalg.norm(some[:, None] - known, axis=2).min(axis=1, initial=np.inf)
        best = int(apart.argmax())
        found.append((rows[best], columns[best]))
    rows, columns = np.array(sorted(found, key=lambda place: place[::-1])).T
    return rows, columns


class Small(nn.Module):
    """A residual perceptron of one or two elements, `network(x, noise, label=)`.

    Of pairs it sees the difference, too, in units of what noise and nature make of it.

    Args:
        elements: the number of elements of x.
        labels: the number of pairs or sensors.
    """

    noise_field = True
    frequencies: Tensor

    def __init__(self, elements: int, labels: int, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.elements = elements
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.linspace(-2, 2, 5))
        self.label: nn.Module = nn.Embedding(labels, width)
        self.enter = nn.Linear(12 * elements - 1, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.leave = nn.Linear(width, elements)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, noise: Tensor, label: Tensor) -> Tensor:
        flat = x.reshape(len(x), self.elements)
        levels = noise.reshape(len(x), -1, 1).expand(*flat.shape, 1)
        angles = levels * self.frequencies
        squared = (8 * levels[..., 0]).exp()
        own = flat * (1 + squared).sqrt()  # in standard deviations
        apart = own.diff(dim=1) / (NEAR**2 + squared.sum(dim=1, keepdim=True)).sqrt()
        inputs = [flat, apart, angles.sin().flatten(1), angles.cos().flatten(1)]
        hidden = torch.cat(inputs, dim=1)
        hidden = self.enter(hidden) + self.label(label)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        found: Tensor = self.leave(hidden)
        return found.reshape(x.shape)


@dataclass(frozen=True)
class Learned:
    """The score of a model, and the log-density of what its ODE samples.

    Attributes:
        denoiser: the model.
        largest: the noise level at which its noised data is taken as normal.
    """

    denoiser: EDMDenoiser
    largest: float = 60.0
    per_element = True

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        return from_denoiser(self.denoiser)(x, sigma, **condition)

    def log_density(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """That of x at one noise level for all, by the probability-flow ODE."""
        flat = x.reshape(len(x), -1)

        def score(u: Tensor, level: Tensor) -> Tensor:
            return self(u.reshape(x.shape), level, **condition).reshape(u.shape)

        solver = Adaptive(rtol=1e-4, atol=1e-4)
        return log_likelihood(score, flat, float(sigma[0]), self.largest, solver=solver)


def _networks(sea: Sea) -> dict[str, nn.Module]:
    numbers = {"pair": len(sea.graph.factors), "single": len(sea.graph.variables)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {kind: Small(KINDS[kind], number) for kind, number in numbers.items()}


def _weights(kind: str) -> Path:
    return FOLDER / "weights" / f"sea_{kind}.safetensors"


def train(steps: int = STEPS, generator: Generator = 0, **options: Any) -> dict[str, EDMDenoiser]:
    """Trains both models on the months to learn from."""
    sea, given = opened(), {**OPTIONS, "steps": steps, "generator": generator, **options}
    found: dict[str, EDMDenoiser] = fit(sea.graph, _networks(sea), sea.train.float(), **given)
    return found


@cache
def learned() -> dict[str, Learned]:
    """The trained models, as scores for `compose`."""
    networks = _networks(opened()).items()
    return {k: Learned(trained(EDMDenoiser(net, 1.0), _weights(k))) for k, net in networks}


if __name__ == "__main__":
    for kind, denoiser in train(progress=True).items():
        save_weights(denoiser, _weights(kind))
