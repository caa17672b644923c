"""Long motion from a model of short clips (DiffCollage's Tables 3 and 4, Fig. 8, in miniature).

One network knows clips of 24 frames (1.9 s) and their halves, each with the label of an action.
From it, with 50 steps of DDIM:

    gate    single clips against real ones, whether they are copies, and what the measures can tell
    long    motions four clips long, of one action each, by five methods; 20 repetitions
    loops   motions that end where they began: a cycle of windows
    order   three actions in a row: labels on windows, and no label on their overlaps
    parts   windows of time crossed with parts of the body; see `motion_parts`
    mixed   legs of one action and arms of another: a label for each part

FD, R-precision, multimodal distance and diversity are in the space of a `Recogniser` trained here.
The label of a window is also read by another recogniser, of another size and seed.
`python -m experiments.motion_model` trains the model; see `clips` for the data.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.reports import Column, columns, measured, plus_minus, settings, table
from experiments.clips import Clips, opened
from experiments.motion_model import (
    CHANNELS,
    CLASSES,
    LONG,
    RING,
    STRIDE,
    WEIGHTS,
    WINDOW,
    Sizes,
    Studio,
    strip,
    windows,
)
from experiments.motion_parts import HALVES, Parts, Step, pasted, split
from experiments.recognition import Recogniser
from experiments.stick import animate, poses
from pgmdiff.composition import Consistent, compose
from pgmdiff.diagnostics import metrics
from pgmdiff.graphs import shared_conditions, tiles
from pgmdiff.plotting.style import Sheet
from pgmdiff.samplers import Euler, sample
from pgmdiff.scores.adapters import from_denoiser
from pgmdiff.text import Table

__all__ = ["PARTS", "draw", "run", "tables"]

METHODS = ("naive", "replacement", "reconstruction", "DiffCollage", "Consistent")
ORDER = (0, 0, 1, 1, 1, 2, 2)
"""Which of three actions each of seven windows shows."""
MIXED = (
    "whole, cut and pasted", "DiffCollage, no label", "DiffCollage, the arms' label",
    "Consistent, no label",
)  # fmt: skip
"""Ways to mix actions of which a motion is shown."""

SMOKE = Sizes(2, 2, 1, 2, 2, 1, 1, 1, 2, 2, 5, 52, 2, 2, 1)
FULL = Sizes()


def spread(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The mean and the standard deviation of every figure."""
    found = {key: torch.tensor([row[key] for row in rows]).double() for key in rows[0]}
    return {key: [x.mean().item(), x.std().item()] for key, x in found.items()}


def nearest(clips: Tensor, real: Clips, places: Sequence[tuple[int, int]] = ()) -> Tensor:
    """The root mean square distance from the nearest real crop at any place, `[n]`.

    With the recordings and starts of real clips, crops that overlap them are left out.
    """
    best = torch.full((len(clips),), torch.inf)
    for state, source in zip(real.states, real.sources, strict=True):
        crops = state.unfold(1, WINDOW, 1).movedim(1, 0).flatten(1)
        apart = torch.cdist(clips.flatten(1), crops) / crops.shape[1] ** 0.5
        for row, (own, start) in enumerate(places):
            if own == source:
                apart[row, max(0, start - WINDOW) : start + WINDOW + 1] = torch.inf
        best = best.minimum(apart.amin(dim=1))
    return best


def gate(studio: Studio) -> dict[str, Any]:
    """Single clips against real ones; whether they are copies; what the other reader recognises."""
    clips, one = studio.clips, tiles((CHANNELS, WINDOW), (CHANNELS, WINDOW))
    drawn, labels = studio.motions(studio.joint(one), studio.sizes.single)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    floor, model = clips.crops(WINDOW, len(drawn), 2), (drawn, labels)
    sets = {"real": floor, "model": model, "model, labels shuffled": (drawn, shuffled)}
    rows: list[dict[str, Any]] = [
        {"clips": name, "n": len(x), **studio.row(x, k), **studio.smoothness(x)}
        for name, (x, k) in sets.items()
    ]
    rows[1]["ratio"] = rows[1]["fd"] / rows[0]["fd"]
    rows[1]["passed"] = rows[1]["ratio"] <= 3
    return {"rows": rows, "copies": copied(clips, {"model": drawn}), "unseen": _unseen(studio)}


def copied(clips: Clips, made: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """How near clips are to real ones, and real ones to others that do not overlap them."""
    stream, some, places = torch.Generator().manual_seed(4), list[Tensor](), []
    for _ in range(len(next(iter(made.values())))):
        chosen = int(torch.randint(len(clips.states), (), generator=stream))
        free = clips.states[chosen].shape[1] - WINDOW + 1
        start = int(torch.randint(free, (), generator=stream))
        some.append(clips.states[chosen][:, start : start + WINDOW])
        places.append((clips.sources[chosen], start))
    apart = {name: nearest(x, clips) for name, x in made.items()}
    apart["real"] = nearest(torch.stack(some), clips, places)
    low = apart["real"].quantile(0.05)
    return [
        {"clips": name, "smallest": x.min().item(), "median": x.median().item(),
         "close": (x < low).double().mean().item()}
        for name, x in apart.items()
    ]  # fmt: skip


def _unseen(studio: Studio) -> list[dict[str, Any]]:
    """The share of recognised clips of recordings that the reader has not seen, label by label."""
    clips, own = studio.clips, dict[int, set[int]]()
    for label, source in zip(clips.labels, clips.sources, strict=True):
        own.setdefault(label, set()).add(source)
    held = {max(sources) for sources in own.values() if len(sources) > 1}
    reader = studio.reader(frozenset(clips.sources) - held)
    x, labels = clips.crops(WINDOW, studio.sizes.real, 6, held)
    right = reader.named(x) == labels
    return [
        {"label": clips.names[k], "recognised": right[labels == k].double().mean().item()}
        for k in sorted(set(labels.tolist()))
    ]


def long(studio: Studio) -> dict[str, Any]:
    """Motions of one action, four clips long, by every method; repetition by repetition."""
    sizes, clips = studio.sizes, studio.clips
    n, stream = len(clips.known), torch.Generator().manual_seed(8)
    many = n * sizes.part * sizes.crops
    reals = [clips.crops(WINDOW, many, 10 + k) for k in range(sizes.repetitions)]
    own = [{**studio.row(*real), **studio.smoothness(real[0])} for real in reals]
    rows: list[dict[str, Any]] = [{"method": "real", **spread(own)}]
    shown = {}
    for name, way in tqdm(studio.ways().items(), desc="long"):
        start = time.process_time()
        motions, labels = studio.motions(way, sizes.each)
        seconds = (time.process_time() - start) / len(motions)
        found = []
        for k in range(sizes.repetitions):
            ranks = torch.rand(sizes.each, n, generator=stream).argsort(dim=0)[: sizes.part]
            chosen = (ranks * n + torch.arange(n)).flatten()
            x, several = motions[chosen], labels[chosen].repeat_interleave(sizes.crops)
            row = studio.row(windows(x, sizes.crops, 20 + k), several)
            found.append(row | studio.smoothness(x, range(STRIDE, LONG, STRIDE)))
        rows.append({"method": name, "motions": len(motions), "seconds": seconds, **spread(found)})
        shown[name] = {clips.names[k]: studio.shown(motions[labels == k][0]) for k in _few(clips)}
    return {"rows": rows, "shown": shown}


def _few(clips: Clips) -> list[int]:
    """Labels of which motions are shown."""
    wanted = [k for k in clips.known if clips.names[k] in ("walk forward", "jog in a left arc")]
    return wanted or clips.known[:1]


def loops(studio: Studio) -> dict[str, Any]:
    """Motions two clips long that end where they began, on a cycle; beside them open ones."""
    n, ring = studio.sizes.loops, strip(RING, periodic=True)
    cases = {
        "DiffCollage, open": (studio.joint(strip(RING)), False),
        "DiffCollage": (studio.joint(ring), True),
    }
    rows, shown = list[dict[str, Any]](), {}
    for name, (way, closed) in cases.items():
        x, labels = studio.motions(way, n)
        cut = windows(x, studio.sizes.crops, 30, periodic=closed)
        row = studio.row(cut, labels.repeat_interleave(studio.sizes.crops))
        ends = metrics.seam_ratio(x, [0], periodic=True)
        steps = torch.cat([x, x[..., :2]], dim=2).diff(dim=2)
        changes = steps.diff(dim=2).abs().mean(dim=(0, 1))
        turn = (changes[-2:].mean() / changes[:-2].mean()).item()
        rows.append({"method": name, "n": len(x), **row, "ends": ends, "ends_acceleration": turn})
        k = _few(studio.clips)[0]
        shown[name] = {studio.clips.names[k]: studio.shown(x[labels == k][0].repeat(1, 2))}
    return {"rows": rows, "shown": shown}


def order(studio: Studio) -> dict[str, Any]:
    """Three actions in a row: one label per window, none on overlaps."""
    sizes, clips, graph = studio.sizes, studio.clips, strip(LONG)
    stream = torch.Generator().manual_seed(7)
    orders = [
        [clips.known[k] for k in torch.randperm(len(clips.known), generator=stream)[:3].tolist()]
        for _ in range(sizes.orders)
    ]
    score, null = from_denoiser(studio.denoiser), {"label": torch.tensor(CLASSES)}
    rule = Consistent(studio.covariances(graph, within=False))
    largest = max(x.diff(dim=1).square().mean(dim=0).sqrt().max().item() for x in clips.states)

    def joined(labels: Sequence[int], seed: int, *, rule: Any = None, same: bool = False) -> Tensor:
        own = [labels[k] for k in ORDER]
        told = {name: {"label": torch.tensor(k)} for name, k in zip(graph.pieces, own, strict=True)}
        given = shared_conditions(graph, told) if same else told
        joint = compose(graph, score, rule=rule, conditions=given, null_condition=null)
        shape = (sizes.draws, *graph.event_shape)
        return sample(joint, studio.levels, shape=shape, generator=seed, solver=Euler())

    def apart(labels: Sequence[int], seed: int) -> Tensor:
        """Every action alone, one after another."""
        parts = []
        for number, (k, n) in enumerate(zip(labels, (36, 24, 36), strict=True)):
            alike = torch.full((sizes.draws,), k)
            parts.append(studio.joint(strip(n))(alike, seed + 1000 * number))
        return torch.cat(parts, dim=2)

    cases: dict[str, Callable[[Sequence[int], int], Tensor]] = {
        "one after another": apart,
        "DiffCollage": joined,
        "DiffCollage, labels within actions": partial(joined, same=True),
        "Consistent": partial(joined, rule=rule),
    }
    rows, shown = list[dict[str, Any]](), {}
    for name, case in cases.items():
        found = list[dict[str, float]]()
        for number, labels in enumerate(tqdm(orders, desc=f"order, {name}")):
            x = case(labels, number)
            if not number:
                title = ", then ".join(clips.names[k] for k in labels)
                shown[name] = {title: studio.shown(x[0])}
            read = [studio.judge.named(x[..., s : s + WINDOW]) for s in (0, 36, 72)]
            right = torch.stack([r == k for r, k in zip(read, labels, strict=True)], dim=1)
            jumps = x.diff(dim=2).square().mean(dim=1).sqrt().amax(dim=1)
            figures = {"in_order": right.all(dim=1).double().mean().item()}
            figures["windows"] = right.double().mean().item()
            figures["jump"] = (jumps / largest).mean().item()
            found.append(figures | studio.smoothness(x))
        means = {key: metrics.mean_and_error([row[key] for row in found]) for key in found[0]}
        rows.append({"method": name, "orders": len(orders), **means})
    real = studio.row(*studio.real)["recognised"]
    rows.append({"method": "real clips", "windows": [real, None]})
    return {"rows": rows, "shown": shown}


def parts(studio: Studio) -> dict[str, Any]:
    """Motions of one action from models of parts, beside whole windows and parts made alone."""
    sizes, clips, own, waist = studio.sizes, studio.clips, Parts(studio), Parts(studio, "waist")
    step, n = Step.of(clips, sizes.real), len(clips.known)

    def measures(x: Tensor, labels: Tensor) -> dict[str, float]:
        return studio.row(x, labels) | step(x, labels) | {"misfit": own.misfit(x, labels)}

    def real(many: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
        x, labels = clips.crops(WINDOW, many, seed)
        shuffled = pasted(x, x.roll(n, 0))  # of the same label
        return {"real": (x, labels), "real, halves shuffled": (shuffled, labels)}

    floor = real(n * sizes.single, 2)
    single: list[dict[str, Any]] = []
    single += [{"method": name, **measures(*each)} for name, each in floor.items()]
    made = dict[str, Tensor]()
    for name, way in (own.ways(WINDOW) | waist.ways(WINDOW)).items():
        made[name], labels = studio.motions(way, sizes.single)
        single.append({"method": name, **measures(made[name], labels)})
        single[-1]["ratio"] = single[-1]["fd"] / single[0]["fd"]
    copies = [
        {"what": what, **row}
        for what, channels in {"all": list(range(CHANNELS)), **HALVES}.items()
        for row in copied(clips.only(channels), {k: x[:, channels] for k, x in made.items()})
    ]
    found: dict[str, list[dict[str, float]]] = {}
    for k in range(sizes.seeds):
        for name, (x, labels) in real(n * sizes.each * sizes.crops, 50 + k).items():
            found.setdefault(name, []).append(measures(x, labels) | studio.smoothness(x))
    labels = torch.tensor(clips.known).repeat(sizes.each)
    several = labels.repeat_interleave(sizes.crops)
    for name, way in tqdm((own.ways(LONG) | waist.ways(LONG)).items(), desc="parts"):
        start, found[name] = time.process_time(), []
        motions = [way(labels, 100 + k) for k in range(sizes.seeds)]
        seconds = (time.process_time() - start) / (len(labels) * sizes.seeds)
        for k, x in enumerate(motions):
            row = measures(windows(x, sizes.crops, 20 + k), several) | {"seconds": seconds}
            found[name].append(row | studio.smoothness(x, range(STRIDE, LONG, STRIDE)))
    rows = [{"method": name, **spread(each)} for name, each in found.items()]
    return {
        "split": split(studio, sizes.real // 13),
        "single": single,
        "copies": copies,
        "rows": rows,
    }


def mixed(studio: Studio) -> dict[str, Any]:
    """Legs of one action and arms of another, for many pairs of actions."""
    sizes, clips, names = studio.sizes, studio.clips, studio.clips.names
    step, pairs = Step.of(clips, sizes.real), torch.tensor([*permutations(clips.known, 2)])
    pairs = pairs[sizes.every - 1 :: sizes.every]
    options: dict[str, Any] = {"steps": sizes.learnt, "seed": 4}
    readers = {k: Recogniser.trained(clips.only(v), WINDOW, **options) for k, v in HALVES.items()}

    def measures(x: Tensor, **labels: Tensor) -> dict[str, float]:
        found, right = step(x, *labels.values()), []
        for half, reader in readers.items():
            embedded, others = (reader(each[:, HALVES[half]]) for each in (x, studio.real[0]))
            right.append(reader.named(x[:, HALVES[half]]) == labels[half])
            found[half] = right[-1].double().mean().item()
            found[f"fd_{half}"] = metrics.frechet_distance(embedded, others)
        return found | {"both": (right[0] & right[1]).double().mean().item()}

    legs, arms = pairs.T
    x, labels = clips.crops(WINDOW, len(pairs) * sizes.crops, 61)
    rows: list[dict[str, Any]] = [{"method": "real", **measures(x, legs=labels, arms=labels)}]
    shown, made = dict[str, dict[str, str]](), dict[str, Tensor]()
    few = [k for k in clips.known if names[k] in ("walk forward", "jog forward")]
    few = few if len(few) == 2 else clips.known[:2]
    title = f"legs {names[few[0]]}, arms {names[few[1]]}"
    chosen = int((pairs == torch.tensor(few)).all(dim=1).nonzero()[0])
    both = {"legs": legs, "arms": arms}
    several = {half: each.repeat_interleave(sizes.crops) for half, each in both.items()}
    for name, way in tqdm(Parts(studio).mixing().items(), desc="mixed"):
        motions = [way(legs, arms, 200 + seed) for seed in range(sizes.seeds)]
        cut = [windows(x, sizes.crops, 70 + seed) for seed, x in enumerate(motions)]
        found = [
            measures(some, **several) | studio.smoothness(x, range(STRIDE, LONG, STRIDE))
            for x, some in zip(motions, cut, strict=True)
        ]
        rows.append({"method": name, "motions": len(pairs) * sizes.seeds, **spread(found)})
        made[name] = cut[0]
        if name in MIXED:
            shown[name] = {title: studio.shown(motions[0][chosen][:, :60])}
    return {"rows": rows, "copies": copied(clips, made), "shown": shown}


PARTS: dict[str, Callable[[Studio], dict[str, Any]]] = {
    "gate": gate, "long": long, "loops": loops, "order": order, "parts": parts, "mixed": mixed,
}  # fmt: skip
"""The parts of the experiment, by name."""


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] = tuple(PARTS)
) -> dict[str, Any]:
    """Runs the parts, or with `smoke` a little of each; always on the CPU."""
    studio = _studio(smoke)
    sampler = f"DDIM, {studio.sizes.levels} steps from σ = {studio.levels[0]:g}"
    about = settings(sampler=sampler, repetitions=studio.sizes.repetitions)
    return {"settings": about, **measured(parts, lambda name: PARTS[name](studio), 4)}


@cache
def _studio(smoke: bool) -> Studio:
    """Parts that are run one by one share the recognisers."""
    if smoke:
        return Studio(opened(), SMOKE, WEIGHTS.with_name("smoke.safetensors"))
    return Studio(opened(), FULL)


def _estimate(key: str, row: Mapping[str, Any]) -> str:
    value = row[key]
    return plus_minus(value, ".3f") if isinstance(value, list) else f"{value:.3f}"


def _columns(index: str, keys: str) -> dict[str, Column]:
    return columns(index) | {key.replace("_", " "): partial(_estimate, key) for key in keys.split()}


QUALITY = "r_precision fd distance diversity recognised"
TOGETHER = "opposite in_step misfit"
COLUMNS: dict[tuple[str, str], dict[str, Column]] = {
    ("gate", "rows"): _columns("clips n", f"{QUALITY} velocity acceleration ratio"),
    ("gate", "copies"): _columns("clips", "smallest median close"),
    ("gate", "unseen"): _columns("label", "recognised"),
    ("long", "rows"): _columns(
        "method", f"{QUALITY} seam seam_acceleration velocity acceleration seconds"
    ),
    ("loops", "rows"): _columns("method n", f"{QUALITY} ends ends_acceleration"),
    ("order", "rows"): _columns("method", "in_order windows jump velocity acceleration"),
    ("parts", "split"): _columns("shared channels", "exact DiffCollage Posterior"),
    ("parts", "single"): _columns("method", f"{QUALITY} {TOGETHER} ratio"),
    ("parts", "copies"): _columns("what clips", "smallest median close"),
    ("parts", "rows"): _columns("method", f"{QUALITY} {TOGETHER} seam velocity seconds"),
    ("mixed", "rows"): _columns(
        "method", "legs arms both fd_legs fd_arms opposite in_step seam velocity"
    ),
    ("mixed", "copies"): _columns("clips", "smallest median close"),
}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of all parts that were run."""
    return [
        table(f"{part}: {rows}", result[part][rows], own)
        for (part, rows), own in COLUMNS.items()
        if part in result
    ]


def draw(result: Mapping[str, Any], folder: Path) -> None:
    """Draws into a folder: animations of each part, and a figure of poses of all."""
    folder.mkdir(parents=True, exist_ok=True)
    strips: list[tuple[str, str]] = []
    for part in PARTS:
        shown = result.get(part, {}).get("shown", {})
        titles = list(dict.fromkeys(title for own in shown.values() for title in own))
        for title in titles:
            own = {name: motions[title] for name, motions in shown.items()}
            stem = "" if part in ("order", "mixed") else "_" + title.replace(" ", "_")
            animate(own, folder / f"experiment_motion_{part}{stem}.gif")
            if title == titles[0]:
                strips += [(f"{title}: {name}", text) for name, text in own.items()]
    if strips:
        figure = Sheet(figsize=(7, 0.9 * len(strips)), layout="constrained")
        axes = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
        for ax, (caption, text) in zip(axes, strips, strict=True):
            poses(ax, text)
            ax.set_title(caption, fontsize=8, loc="left", pad=1)
        figure.savefig(folder / "experiment_motion.png", dpi=100)
