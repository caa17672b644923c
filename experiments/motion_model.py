"""The model of short clips of motion, and ways to make long ones from it.

One network knows clips of 24 frames (1.9 s) and their halves, each with the label of an action or
none. It is trained when it is missing, in about 11 minutes of one core, for weights made from clips
of unstated provenance are not bundled; see `clips` for the data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.clips import ROOT, Clips
from experiments.recognition import Recogniser
from experiments.stick import encoded
from pgmdiff.baselines import outpainting
from pgmdiff.composition import Consistent, Rule, compose
from pgmdiff.conditioning import dps
from pgmdiff.diagnostics import metrics
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.models.series import SeriesNet
from pgmdiff.models.unet import save_weights, trained
from pgmdiff.precision import Covariances, fit_covariances
from pgmdiff.samplers import Euler, karras, sample
from pgmdiff.scores.adapters import Score, from_denoiser
from pgmdiff.training import EDMDenoiser, WienerFilter, fit

__all__ = ["WEIGHTS", "Sizes", "Studio", "kept", "strip", "train", "windows"]

WEIGHTS = Path("out/motion/motion.safetensors")
CHANNELS, CLASSES = ROOT + 29, 13
WINDOW, OVERLAP, TIMES = 24, 12, 4
STRIDE = WINDOW - OVERLAP
LONG, RING = TIMES * WINDOW, 2 * WINDOW
STEPS, BATCH = 12_000, 64
SCALE, RANK = 3.0, 64
"""ζ of reconstruction, and the rank of covariances."""
Way = Callable[[Tensor, int], Tensor]
"""A method: labels and a seed to motions."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        each: long motions of every label.
        repetitions, part: number of repetitions, and of motions of every label drawn for each.
        crops: of every motion in a repetition.
        single: clips of every label in the gate.
        loops: of every label.
        orders, draws: sequences of actions, and motions of each.
        levels: of DDIM.
        training, learnt: steps of training of the model, and of recognisers.
        real: number of real crops.
        parts: steps of training of models of body parts.
        seeds: repetitions with models of parts, each with motions of its own.
        every: every so many pairs of actions are mixed.
    """

    each: int = 4
    repetitions: int = 20
    part: int = 2
    crops: int = 2
    single: int = 16
    loops: int = 3
    orders: int = 8
    draws: int = 3
    levels: int = 50
    training: int = STEPS
    learnt: int = 400
    real: int = 1300
    parts: int = 5_000
    seeds: int = 3
    every: int = 3


@dataclass(frozen=True, eq=False)
class Studio:
    """The clips, the model, whose weights are kept in a file, and the recognisers."""

    clips: Clips
    sizes: Sizes
    weights: Path = WEIGHTS

    @cached_property
    def denoiser(self) -> EDMDenoiser:
        return kept(self.weights, self.clips, self.sizes.training)

    @cached_property
    def encoder(self) -> Recogniser:
        return Recogniser.trained(self.clips, WINDOW, steps=self.sizes.learnt, seed=1)

    def reader(self, sources: frozenset[int] | None = None) -> Recogniser:
        """The independent recogniser, which may know some recordings only."""
        size: dict[str, Any] = {"width": 32, "size": 16, "decode": False, "sources": sources}
        return Recogniser.trained(self.clips, WINDOW, steps=self.sizes.learnt, seed=2, **size)

    @cached_property
    def judge(self) -> Recogniser:
        return self.reader()

    @cached_property
    def real(self) -> tuple[Tensor, Tensor]:
        return self.clips.crops(WINDOW, self.sizes.real, 1)

    @property
    def levels(self) -> list[float]:
        return karras(self.sizes.levels, 0.02, 20.0)

    def wide(self) -> EDMDenoiser:
        """The denoiser with a Wiener filter for long motions, without which it knows none."""
        own, (states, _) = self.denoiser, self.clips.around(LONG)
        (known, *_) = (each for each in own.filters.values() if isinstance(each, WienerFilter))
        filters = [WienerFilter.of(states, known)]
        return EDMDenoiser(own.network, own.sigma_data, own.mean, own.unit, filters).eval()

    def within(self, length: int) -> Tensor:
        """Stretches of clips about the mean of each label."""
        states, labels = self.clips.around(length)
        for label in labels.unique():
            own = labels == label
            states[own] = states[own] - states[own].mean(dim=(0, 2), keepdim=True)
        return states

    def covariances(self, graph: RegionGraph, *, within: bool) -> Covariances:
        """Of windows, all places pooled; `within` labels, about the mean of each."""
        length = graph.event_shape[1]
        states = self.within(length) if within else self.clips.around(length)[0]
        rank = min(RANK, len(states) // 2)
        return fit_covariances(graph, states, form="low_rank", shared=True, rank=rank)

    def joint(self, graph: RegionGraph, rule: Rule | None = None) -> Way:
        """A joint whose regions all know the label."""
        return self.way(compose(graph, from_denoiser(self.denoiser), rule=rule), graph)

    def way(self, score: Score, graph: RegionGraph) -> Way:
        def drawn(labels: Tensor, seed: int) -> Tensor:
            own, shape = partial(score, label=labels), (len(labels), *graph.event_shape)
            return sample(own, self.levels, shape=shape, generator=seed, solver=Euler())

        return drawn

    def outwards(self, graph: RegionGraph, **options: Any) -> Way:
        """One window after another."""

        def drawn(labels: Tensor, seed: int) -> Tensor:
            def own(x: Tensor, sigma: Tensor) -> Tensor:
                pieces = len(x) // len(labels)
                denoised: Tensor = self.denoiser(x, sigma, label=labels.repeat(pieces))
                return denoised

            more: dict[str, Any] = {"batch": len(labels), "generator": seed, "solver": Euler()}
            score = from_denoiser(own)
            found: Tensor = outpainting(score, graph, self.levels, **options, **more).samples
            return found

        return drawn

    def ways(self) -> dict[str, Way]:
        """The methods for long motions of one label."""
        graph = strip(LONG)
        rule = Consistent(self.covariances(graph, within=True), mean=torch.zeros(graph.event_shape))
        return {
            "naive": self.way(from_denoiser(self.wide()), graph),
            "replacement": self.outwards(graph),
            "reconstruction": self.outwards(graph, weight=dps(SCALE, data_std=1.0)),
            "DiffCollage": self.joint(graph),
            "Consistent": self.joint(graph, rule),
        }

    def motions(self, way: Way, n: int) -> tuple[Tensor, Tensor]:
        """N motions of every label, one after another, and their labels."""
        labels = torch.tensor(self.clips.known).repeat(n)
        return way(labels, 100), labels

    def row(self, clips: Tensor, labels: Tensor) -> dict[str, float]:
        """Measures of clips of one window."""
        embedded, others = self.encoder(clips), self.encoder.labels(labels)
        names, nearest = self.judge.named(clips), self.encoder.named(clips)
        return {
            "r_precision": (nearest == labels).double().mean().item(),  # of a pool of all labels
            "fd": metrics.frechet_distance(embedded, self.encoder(self.real[0])),
            "distance": metrics.multimodal_distance(embedded, others),
            "diversity": metrics.diversity(embedded),
            "recognised": (names == labels).double().mean().item(),
        }

    def shown(self, motion: Tensor) -> str:
        """A motion as a JSON holds it."""
        assert self.clips.skeleton is not None, "there is a robot"
        return encoded(self.clips.skeleton, self.clips.places(motion))

    def smoothness(self, motions: Tensor, places: Sequence[int] = ()) -> dict[str, float]:
        """Mean steps and their changes over those of real clips; at places over elsewhere."""
        steps = motions.diff(dim=2)
        real = self.real[0].diff(dim=2)
        found = {
            "velocity": (steps.abs().mean() / real.abs().mean()).item(),
            "acceleration": (steps.diff(dim=2).abs().mean() / real.diff(dim=2).abs().mean()).item(),
        }
        if places:
            both = sorted({p for place in places for p in (place - 1, place)} - {0})
            found["seam"] = metrics.seam_ratio(motions, places)
            found["seam_acceleration"] = metrics.seam_ratio(steps, both)
        return found


def network(channels: int = CHANNELS, width: int = 80) -> SeriesNet:
    return SeriesNet(channels, width, depth=4, features=64, classes=CLASSES, whitened=True)


def kept(weights: Path, clips: Clips, steps: int, width: int = 80) -> EDMDenoiser:
    """The model of a file, trained if there is none."""
    if not weights.exists():
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_weights(train(clips, steps, width, progress=True), weights)
    return trained(EDMDenoiser(network(len(clips.mean), width), 1.0), weights)


def strip(length: int, periodic: bool = False) -> RegionGraph:
    """Windows along a motion that overlap by half."""
    return tiles((CHANNELS, length), (CHANNELS, WINDOW), (0, OVERLAP), (False, periodic))


def train(clips: Clips, steps: int = STEPS, width: int = 80, **options: Any) -> EDMDenoiser:
    """Trains the model: windows and their overlaps, three tenths of them without a label."""
    channels = len(clips.mean)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = network(channels, width)
    null: dict[str, Any] = {"null_condition": {"label": CLASSES}, "null_probability": 0.3}
    rates: dict[str, Any] = {"batch": BATCH, "lr": 2e-3, "p_std": 1.4, "ema": 0.999, "generator": 0}
    shapes = [(channels, WINDOW), (channels, OVERLAP)]
    found: EDMDenoiser = fit(
        shapes, own, clips.pairs, steps=steps, wiener=True, **null, **rates, **options
    )
    return found


def windows(motions: Tensor, n: int, seed: int, periodic: bool = False) -> Tensor:
    """N windows of each motion at random places, those of one motion together."""
    longer = torch.cat([motions, motions[..., : WINDOW - 1]], dim=2) if periodic else motions
    stream = torch.Generator().manual_seed(seed)
    starts = torch.randint(longer.shape[2] - WINDOW + 1, (len(motions), n), generator=stream)
    cut = [
        x[:, s : s + WINDOW] for x, row in zip(longer, starts.tolist(), strict=True) for s in row
    ]
    return torch.stack(cut)
