"""Motion from models of body parts: windows of time crossed with parts of the body.

The lower body is the root, both legs and the waist, the upper body the arms and what it shares with
the lower one: the waist and the swing of both hips, or the waist alone. Each part is cut into
windows of time that overlap by half:

    s = Σ_windows (s_lower + s_upper - s_shared) - Σ_overlaps (s_lower + s_upper - s_shared)

This is the product of a chain in time and of a tree of parts, `graphs.time_by_parts` with its axes
exchanged. Cluster variation of all windows, and nesting either axis in the other, give the same
regions and counts. The graph has loops; but if covariances are C ⊗ T, of channels times frames, its
composed precision is K_C ⊗ K_T, of the completions on two junction trees, and so is its completion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from experiments.clips import ROOT, Clips
from experiments.motion_model import (
    CHANNELS,
    CLASSES,
    LONG,
    OVERLAP,
    WINDOW,
    Studio,
    Way,
    kept,
    strip,
)
from pgmdiff.composition import Average, Consistent, Posterior, Rule, compose
from pgmdiff.composition.rules import bound
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import RegionGraph, cluster_variation, product, tiles
from pgmdiff.precision import (
    ComposedPrecision,
    Dense,
    Separable,
    Solve,
    Stationary,
    fit_covariances,
)
from pgmdiff.samplers import Euler, sample
from pgmdiff.scores.adapters import Score, from_denoiser
from pgmdiff.training import EDMDenoiser

__all__ = ["HALVES", "Crossed", "Parts", "Step", "crossed", "pasted", "split"]

LOWER, ARMS = [*range(ROOT + 15)], [*range(ROOT + 15, CHANNELS)]
WAIST, SWING = [*range(ROOT + 12, ROOT + 15)], [ROOT, ROOT + 6]
"""Channels: after the root six joints of each leg, three of the waist, seven of each arm."""
SHARED = {"hips": [*SWING, *WAIST], "waist": WAIST}
"""What the parts share, in each of two splits."""
WIDTHS = {"lower": 64, "upper": 64, "shared": 40, "whole": 80}
HALVES = {"arms": ARMS, "legs": [k for k in LOWER if k not in SHARED["hips"]]}
"""What one part alone knows: by these motions are judged."""
SHOULDERS, OPPOSITE = [ARMS[0], ARMS[7]], SWING[::-1]
GAUSSIANS = ("walk forward", "walk in a left arc", "jog forward")
RIDGE, RHYTHM, LEVEL = 1e-2, 0.6, 0.5
"""Of covariances and least squares; least correlation of arms and legs in real clips of an action
that has a rhythm; σ at which models of parts are compared."""
Mixed = Callable[[Tensor, Tensor, int], Tensor]
"""A method: labels of legs, labels of arms, and a seed to motions."""


def crossed(length: int, shared: Sequence[int] = SHARED["hips"]) -> RegionGraph:
    """Windows of time crossed with the lower body and with the upper one."""
    return product(_body(shared), tiles((length,), WINDOW, OVERLAP))


def _body(shared: Sequence[int]) -> RegionGraph:
    parts = {"lower": LOWER, "upper": [*shared, *ARMS]}
    return cluster_variation(parts, event_shape=(CHANNELS,))


def pasted(lower: Tensor, upper: Tensor) -> Tensor:
    """The arms of some motions on the rest of others."""
    return torch.cat([lower[:, LOWER], upper[:, ARMS]], dim=1)


class Kronecker(Solve):
    """P = K_C ⊗ K_T, solved by the eigenvectors of both."""

    def __init__(self, channels: Tensor, frames: Tensor) -> None:
        self.channels, self.frames = torch.linalg.eigh(channels), torch.linalg.eigh(frames)
        self.values = self.channels[0][:, None] * self.frames[0]

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        left, right = self.channels[1].to(b), self.frames[1].to(b)
        turned = left.T @ b.reshape(-1, *self.values.shape) @ right
        turned = turned / (1 + sigma[:, None, None].to(b) ** 2 * self.values.to(b))
        solved: Tensor = (left @ turned @ right.T).flatten(1)
        return solved

    def log_determinant(self, sigma: Tensor) -> Tensor:
        return torch.log1p(sigma.double()[:, None, None] ** 2 * self.values).sum(dim=(1, 2))


@dataclass(frozen=True, repr=False)
class Crossed(Consistent):
    """`Consistent` with covariances C ⊗ T, whose completion is known on this graph, and is P."""

    solved: Solve | None = None

    @classmethod
    def of(
        cls, length: int, channels: Tensor, lags: Tensor, shared: Sequence[int] = SHARED["hips"]
    ) -> "Crossed":
        """The rule for C, `[35, 35]`, and T by lags, `[24]`."""
        body, time = _body(shared), tiles((length,), WINDOW, OVERLAP)
        own = {name: body.elements(name) for name in body.names}
        parts = {name: channels[k][:, k] for name, k in own.items()}
        frames = {group.model: torch.arange(group.shape[0]) for group in time.groups}
        pieces = {model: lags[(k - k[:, None]).abs()] for model, k in frames.items()}
        both = {(n, m): torch.kron(c, t) for n, c in parts.items() for m, t in pieces.items()}
        two = ComposedPrecision(body, Dense(parts)), ComposedPrecision(time, Dense(pieces))
        solved = Kronecker(*(each.dense() for each in two))
        return cls(both, mean=torch.zeros(CHANNELS, length), solved=solved)

    def bind(self, graph: RegionGraph) -> Consistent:
        return bound(super().bind(graph), solve=self.solved)


@dataclass(frozen=True, eq=False)
class Parts:
    """Models of the lower body, of the upper one, of what they share, and of the whole."""

    studio: Studio
    shared: str = "hips"

    @cached_property
    def channels(self) -> dict[str, list[int]]:
        own = SHARED[self.shared]
        parts = {"lower": LOWER, "upper": [*own, *ARMS], "shared": own}
        return {**parts, "whole": [*range(CHANNELS)]}

    @cached_property
    def denoisers(self) -> dict[str, EDMDenoiser]:
        folder, steps, found = self.studio.weights, self.studio.sizes.parts, {}
        for part, own in self.channels.items():
            name = f"{part}_{self.shared}" if part in ("upper", "shared") else part
            path = folder.with_name(f"{folder.stem}_{name}{folder.suffix}")
            found[part] = kept(path, self.studio.clips.only(own), steps, WIDTHS[part])
        return found

    def _told(self, part: str) -> Score:
        """The score of a part, called with labels of all parts."""
        score = from_denoiser(self.denoisers[part])

        def told(x: Tensor, sigma: Tensor, **labels: Tensor) -> Tensor:
            found: Tensor = score(x, sigma, label=labels[part])
            return found

        return told

    @cached_property
    def covariance(self) -> tuple[Tensor, Tensor]:
        """C and the lags of T, about the means of labels."""
        whole = strip(LONG)
        options: dict[str, Any] = {"form": "stationary", "channels": True, "ridge": RIDGE}
        fitted = fit_covariances(whole, self.studio.within(LONG), **options)
        assert isinstance(fitted, Separable), "channels are separated"
        assert isinstance(fitted.places, Stationary), "all frames look the same"
        return fitted.channels, fitted.places.autocovariance.flatten()[-WINDOW:]

    def rules(self, length: int) -> dict[str, Rule | None]:
        own = Crossed.of(length, *self.covariance, SHARED[self.shared])
        return {"averaging": Average(), "DiffCollage": None, "Consistent": own}

    def drawn(self, length: int, seed: int, rule: Rule | None = None, **labels: Tensor) -> Tensor:
        """Motions with a label for each part."""
        graph = crossed(length, SHARED[self.shared])
        told = {part: self._told(part) for part in self.channels}
        models: list[Any] = [group.model for group in graph.groups]
        scores = {model: told.get(model[0], told["shared"]) for model in models}
        score = partial(compose(graph, scores, rule=rule), **labels)
        shape = (len(labels["lower"]), *graph.event_shape)
        options: dict[str, Any] = {"generator": seed, "solver": Euler()}
        return sample(score, self.studio.levels, shape=shape, **options)

    def alone(self, part: str, length: int) -> Way:
        """Motions of one part, from windows of time."""
        n = len(self.channels[part])
        graph = tiles((n, length), (n, WINDOW), (0, OVERLAP))
        return self.studio.way(compose(graph, from_denoiser(self.denoisers[part])), graph)

    def ways(self, length: int) -> dict[str, Way]:
        """Motions of one label: of the whole, of parts that never met, and of parts by any rule."""
        lower, upper = self.alone("lower", length), self.alone("upper", length)

        def apart(labels: Tensor, seed: int) -> Tensor:
            arms = upper(labels, seed + 5000)[:, -len(ARMS) :]
            return torch.cat([lower(labels, seed), arms], dim=1)

        def way(rule: Rule | None) -> Way:
            return lambda k, seed: self.drawn(length, seed, rule, lower=k, upper=k, shared=k)

        rules = self.rules(length).items()
        if self.shared == "waist":
            return {f"waist, {name}": way(rule) for name, rule in rules}
        met = {f"parts, {name}": way(rule) for name, rule in rules}
        return {"whole": self.alone("whole", length), "parts that never met": apart, **met}

    def misfit(self, clips: Tensor, labels: Tensor) -> float:
        """How far the models of both parts differ, on noised clips, in what they share."""
        stream, found = torch.Generator().manual_seed(5), []
        noisy = clips + LEVEL * torch.randn(clips.shape, generator=stream)
        level = torch.full((len(clips),), LEVEL)
        for part in ("lower", "upper"):
            own = self.channels[part]
            denoised = self.denoisers[part](noisy[:, own], level, label=labels)
            found.append(denoised[:, [own.index(k) for k in self.channels["shared"]]])
        return float((found[0] - found[1]).square().mean().sqrt())

    def mixing(self) -> dict[str, Mixed]:
        """Ways to make motions of the legs of one action and the arms of another."""
        whole, rules = self.alone("whole", LONG), self.rules(LONG)

        def way(rule: str, told: str) -> Mixed:
            def drawn(legs: Tensor, arms: Tensor, seed: int) -> Tensor:
                null = torch.full_like(legs, CLASSES)
                shared = {"no label": null, "the arms' label": arms, "the legs' label": legs}
                labels = {"lower": legs, "upper": arms, "shared": shared[told]}
                return self.drawn(LONG, seed, rules[rule], **labels)

            return drawn

        found: dict[str, Mixed] = {
            "whole, the legs' label": lambda legs, arms, seed: whole(legs, seed),
            "whole, cut and pasted": lambda legs, arms, seed: pasted(
                whole(legs, seed), whole(arms, seed + 5000)
            ),
            "averaging, no label": way("averaging", "no label"),
        }
        for told in ("no label", "the arms' label", "the legs' label"):
            found[f"DiffCollage, {told}"] = way("DiffCollage", told)
        return found | {"Consistent, no label": way("Consistent", "no label")}


def _swing(x: Tensor, y: Tensor) -> Tensor:
    """Mean correlations over time of pairs of channels, `[n]`."""
    x, y = (each - each.mean(dim=2, keepdim=True) for each in (x, y))
    scale = (x.norm(dim=2) * y.norm(dim=2)).clamp(min=1e-9)
    found: Tensor = ((x * y).sum(dim=2) / scale).mean(dim=1)
    return found


@dataclass(frozen=True)
class Step:
    """How arms and legs go together, in actions in which they do.

    Attributes:
        rhythmic: the labels of which shoulders swing with the opposite hips in real clips.
        map: least squares from the legs, without what parts share, to the shoulders.
    """

    rhythmic: Tensor
    map: Tensor

    @classmethod
    def of(cls, clips: Clips, n: int) -> "Step":
        x, labels = clips.crops(WINDOW, n, 40)
        swing = _swing(x[:, SHOULDERS], x[:, OPPOSITE])
        known = [k for k in clips.known if swing[labels == k].mean() >= RHYTHM] or clips.known
        legs, arms = cls._centred(x, HALVES["legs"]), cls._centred(x, SHOULDERS)
        square = legs.T @ legs + RIDGE * len(x) * torch.eye(legs.shape[1])
        return cls(torch.tensor(known).long(), torch.linalg.solve(square, legs.T @ arms))

    @staticmethod
    def _centred(x: Tensor, channels: Sequence[int]) -> Tensor:
        return (x[:, channels] - x[:, channels].mean(dim=2, keepdim=True)).flatten(1)

    def __call__(self, clips: Tensor, *labels: Tensor) -> dict[str, float]:
        """Correlations of shoulders with the opposite hips, and with what legs tell of them."""
        both = [torch.isin(each, self.rhythmic) for each in labels]
        x = clips[torch.stack(both).all(dim=0)]
        told = (self._centred(x, HALVES["legs"]) @ self.map).reshape(-1, 2, WINDOW)
        others = {"opposite": x[:, OPPOSITE], "in_step": told}
        return {k: _swing(x[:, SHOULDERS], y).mean().item() for k, y in others.items()}


def split(studio: Studio, n: int) -> list[dict[str, Any]]:
    """What has to be shared: Gaussians of real clips, composed from their exact scores."""
    clips, rows = studio.clips, []
    labels = [k for k in clips.known if clips.names[k] in GAUSSIANS] or clips.known[:1]
    cases = {"waist": WAIST, "waist and root": [*range(ROOT), *WAIST]}
    cases["waist and hips"] = SHARED["hips"]
    for name, shared in cases.items():
        graph, found = crossed(WINDOW, shared), []
        for k in labels:
            own = [x for x, label in zip(clips.states, clips.labels, strict=True) if label == k]
            x = torch.cat([state.unfold(1, WINDOW, 1) for state in own], dim=1).movedim(1, 0)
            covariance = x.double().flatten(1).T.cov(correction=0)
            covariance += RIDGE * torch.eye(len(covariance))
            q = Gaussian(torch.zeros(graph.event_shape).double(), covariance)
            drawn, scores = [q.sample(n, generator=2)], node_scores(graph, q)
            for rule in (None, Posterior(node_covariances(graph, q))):
                shape: dict[str, Any] = {"shape": (n, *graph.event_shape), "dtype": torch.float64}
                joint = compose(graph, scores, rule=rule)
                drawn.append(sample(joint, studio.levels, generator=1, solver=Euler(), **shape))
            found.append([_swing(y[:, SHOULDERS], y[:, OPPOSITE]).mean().item() for y in drawn])
        means = torch.tensor(found).mean(dim=0).tolist()
        keys = "exact", "DiffCollage", "Posterior"
        rows.append(
            {"shared": name, "channels": len(shared), **dict(zip(keys, means, strict=True))}
        )
    return rows
