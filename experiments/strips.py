"""Strips of a corpus by every method, each drawn once and kept in a folder.

A drawing is found again by its network, schedule, solver, method, width, seed and number, so that a
run that was cut off goes on where it was, and figures show the strips that tables measured.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.corpora import CORPORA, Corpus
from pgmdiff import store
from pgmdiff.baselines import Drawn, composed, concatenation, outpainting
from pgmdiff.composition.consistent import Consistent
from pgmdiff.composition.posterior import Posterior
from pgmdiff.composition.rules import Average
from pgmdiff.conditioning import dps
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.precision import Covariances, LowRank, fit_covariances
from pgmdiff.precision.forms import LowRankCovariances
from pgmdiff.samplers import Solver
from pgmdiff.scores.adapters import Score, from_denoiser

__all__ = ["METHODS", "Strips", "cost", "crops", "mean_of", "patches_of", "seams", "strips"]

METHODS = (
    "concatenation", "replacement", "reconstruction", "average", "DiffCollage", "posterior",
    "consistent",
)  # fmt: skip
FOLDER = Path("out/experiments")
MAX_BATCH = 512 if torch.cuda.is_available() else 64
SCALE = 10.0
"""ζ of reconstruction: of 1, 3, 10, 30 and 100 that with the smallest seam ratio of landscapes."""
FITTED, RANK = 1000, 64
"""Number of real crops behind the covariances, and the rank of these."""


def crops(corpus: Corpus, width: int, n: int, seed: int, height: int | None = None) -> Tensor:
    """Real crops `[n, channels, height, width]`, as high as a strip unless it is said."""
    return corpus.crops((height or corpus.side, width), n, seed)


@cache
def _facts(name: str) -> tuple[int, float]:
    """The number of channels, and the standard deviation of values."""
    real = crops(CORPORA[name], CORPORA[name].side, 1000, 17)
    return real.shape[1], real.std().item()


def seams(corpus: Corpus, method: str, width: int) -> range:
    """Columns where a piece begins or ends; those of overlapping pieces for real strips."""
    stride = corpus.side if method == "concatenation" else corpus.side // 2
    return range(stride, width, stride)


@dataclass(frozen=True, eq=False)
class Windows(Covariances):
    """Covariances of one kind of window in strips of any width, and of its right part."""

    fitted: LowRank

    @classmethod
    def fit(cls, crops: Tensor, window: int, rank: int) -> "Windows":
        """Covariances of crops `[n, channels, window, width]`, all places along them pooled."""
        graph = tiles(crops.shape[1:], (crops.shape[1], window, window), (0, 0, window // 2))
        found = fit_covariances(graph, crops, form="low_rank", rank=rank, shared=True)
        assert isinstance(found, LowRank)
        return cls(found)

    def of(self, group: RegionGroup) -> LowRankCovariances:
        (factor,) = self.fitted.outer.values()
        channels, height, width = group.shape
        columns = factor.reshape(channels, height, -1, factor.shape[1])[:, :, -width:]
        return LowRankCovariances(columns.flatten(0, 2)[None], self.fitted.floor)


@cache
def _covariances(name: str) -> Covariances:
    corpus = CORPORA[name]
    return Windows.fit(crops(corpus, 3 * corpus.side // 2, FITTED, 18), corpus.side, RANK)


@cache
def mean_of(name: str, height: int) -> Tensor:
    """The mean of every row of real crops, all places along a strip pooled: `[channels, rows, 1]`.

    Runs start around it: the colours of a whole are spread about as far as the highest noise level.
    """
    corpus = CORPORA[name]
    real = crops(corpus, 3 * corpus.side // 2, FITTED, 18, height)
    return real.mean(dim=(0, 3))[:, :, None]


def _graph(corpus: Corpus, width: int, overlap: int | None = None) -> RegionGraph:
    """Windows along a strip, with overlaps of half a window unless it is said."""
    side, (channels, _) = corpus.side, _facts(corpus.name)
    shared = side // 2 if overlap is None else overlap
    return tiles((channels, side, width), (channels, side, side), (0, 0, shared))


def _way(corpus: Corpus, method: str, width: int) -> Callable[..., Drawn]:
    """A method as a function of the score, the noise levels and the options of sampling."""
    if method == "concatenation":
        return lambda score, *a, **k: concatenation(score, _graph(corpus, width, 0), *a, **k)
    if method in ("replacement", "reconstruction"):
        weight = None if method == "replacement" else dps(SCALE, data_std=_facts(corpus.name)[1])
        way: Callable[..., Drawn] = partial(outpainting, weight=weight)
    elif method in ("posterior", "consistent"):
        shape = _facts(corpus.name)[0], corpus.side, width
        kind = Consistent if method == "consistent" else Posterior
        mean = mean_of(corpus.name, corpus.side).expand(shape)
        rule = kind(_covariances(corpus.name), mean=mean)
        way = partial(composed, rule=rule, max_batch=MAX_BATCH)
    else:
        rule_or_none = Average() if method == "average" else None
        way = partial(composed, rule=rule_or_none, max_batch=MAX_BATCH)
    return lambda score, *a, **k: way(score, _graph(corpus, width), *a, **k)


def cost(corpus: Corpus, method: str, width: int, steps: int) -> tuple[int, int]:
    """Evaluations of a strip, and those on the critical path, counted with a score of no cost."""
    like = "DiffCollage" if method in ("posterior", "consistent") else method  # the same regions
    free: Score = lambda x, sigma: -x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)  # noqa: E731
    drawn = _way(corpus, like, width)(free, corpus.levels(steps), generator=0, solver=corpus.solver)
    return drawn.evaluations, drawn.critical_path


def patches_of(
    corpus: Corpus, shape: Sequence[int], n: int, *, steps: int, device: str = "cpu"
) -> Tensor:
    """Samples of a single region of the shape `(channels, height, width)`, or those found."""
    denoiser, levels = corpus.denoiser(), corpus.levels(steps)
    mean = mean_of(corpus.name, shape[1])
    made = denoiser.state_dict(), levels, corpus.solver, mean, device
    file = _file(made, f"{corpus.name}_patches", f"{tuple(shape)} {n}")
    if not file.exists():
        options: dict[str, Any] = {"batch": n, "generator": 0, "device": device}
        options["solver"] = corpus.solver
        score, graph = from_denoiser(denoiser.to(device)), tiles(shape, shape)
        drawn = composed(score, graph, levels, max_batch=MAX_BATCH, mean=mean, **options)
        store.save(file, {"images": drawn.samples.cpu()}, {})
    return store.load(file)[0]["images"]


def _file(made: Sequence[Any], name: str, rest: str) -> Path:
    """Where a drawing is kept: its name depends on all that it was made with."""
    told = store.fingerprint([*made[:2], *map(repr, made[2:3]), FITTED, RANK, *made[3:]])
    return FOLDER / f"{name}_{sha256(f'{told} {rest}'.encode()).hexdigest()[:16]}.safetensors"


@dataclass(frozen=True, eq=False)
class Strips:
    """Strips `[n, channels, side, width]` of one seed, and what one of them cost."""

    images: Tensor
    evaluations: int
    critical_path: int
    seconds: float


def strips(
    corpus: Corpus,
    method: str,
    width: int,
    n: int,
    seed: int,
    *,
    steps: int,
    solver: Solver | None = None,
    device: str = "cpu",
) -> Strips:
    """Draws n strips, or finds those that were drawn before.

    The seconds are those of the CPU, which are what one quiet thread would take; wall-clock seconds
    on another device.
    """
    denoiser, levels = corpus.denoiser(), corpus.levels(steps)
    mean, solver = mean_of(corpus.name, corpus.side), solver or corpus.solver
    made = denoiser.state_dict(), levels, solver, mean, device
    told = method + f" {SCALE}" * (method == "reconstruction") + f" {width} {n} {seed}"
    file = _file(made, f"{corpus.name}_{method}_{width}_{seed}", told)
    if file.exists():
        tensors, facts = store.load(file)
        return Strips(tensors["images"], **facts)
    way = _way(corpus, method, width)
    clock = time.process_time if device == "cpu" else time.perf_counter
    start, score = clock(), from_denoiser(denoiser.to(device))
    drawn = way(score, levels, batch=n, generator=seed, solver=solver, mean=mean, device=device)
    images = drawn.samples.cpu()
    found = Strips(images, drawn.evaluations, drawn.critical_path, (clock() - start) / n)
    store.save(file, {"images": images}, {k: v for k, v in vars(found).items() if k != "images"})
    return found
