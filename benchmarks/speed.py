"""The speed benchmark: the time of a joint score relative to its floor, the network's own calls.

For strips of 8, 64 and 512 tiles of the gravel model and several `max_batch`, in one process and
turn by turn, the time of

- the floor: the network alone on the same batches, gathered beforehand;
- the joint score: the floor and everything that pgmdiff adds to it;
- a loop per view: code written by hand, with one call per window and per overlap.

With models that cost nothing (elementwise ones), the joint score is compared with the lines that an
expert writes by hand: cut by `unfold`, call, and add by views; and with the calls alone. This shows
what composing itself costs, at sizes from 256 to a million elements.

For `max_batch="auto"`, the time of a call relative to that with the best of many fixed sizes, and
how many such calls the first one takes, which measures the sizes.

For solves, the time of a score of `Posterior` at a new noise level, and at one whose factors are
kept, relative to the marginal rule at the same level.

For peers, the time and the memory of a joint score relative to those of other projects' loops over
the same windows; see `peers`.

For canvases in strips, and for processes that share a state, see `divided`.

For noise, the time of `samplers.Noise` relative to that of `torch.randn`.

Only ratios of neighbouring turns are compared: machines are shared and noisy.
"""

import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.divided import SPREAD, canvas, spread
from benchmarks.peers import PEERS, peak_bytes, programs
from benchmarks.reports import Column, columns, table
from benchmarks.timing import by_turns, quartiles, timed
from pgmdiff.composition.composing import compose
from pgmdiff.composition.posterior import Posterior
from pgmdiff.graphs import tiles
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.models.gravel import SIGMA_DATA, gravel_denoiser
from pgmdiff.precision import Covariances
from pgmdiff.samplers import Noise
from pgmdiff.scores.adapters import from_denoiser
from pgmdiff.text import Table

__all__ = ["run", "tables"]

TILES = (8, 64, 512)
MAX_BATCHES = (8, 16, 64, None)
LOOPS = 7
"""Turns of the loop per view, which is slow."""
SECONDS = 20.0
"""Spent on each case, so that short calls are repeated more often."""
LINES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "small series": ((256,), (16,), 8),
    "series": ((1_000_032,), (64,), 32),
    "chain of a million": ((1_000_000,), (2,), 1),
    "latent panorama": ((4, 64, 544), (4, 64, 64), 32),
    "strip of pictures": ((3, 32, 8208), (3, 32, 32), 16),
}
"""Whole states, windows and their overlaps on the last axis."""
STRIPS = [(n, side, batch) for side in (16, 32) for n in (8, 64) for batch in (1, 4)]
"""Windows of the strips on which solves are timed, their width, and samples."""
BATCHES, WINDOWS = (1, 4, 16), 32
"""Samples, and windows of the strip, on which peers are timed."""
CANVASES = (
    *(("Gaussian process", "Marginal", columns) for columns in (8_192, 65_536, 524_288)),
    *(("Gaussian process", "Consistent", columns) for columns in (8_192, 65_536)),
    ("gravel", "Marginal", 512),
)
"""Models, rules and widths of canvases that are drawn in strips."""
SHAPES = ((100, 10), (10_000, 10), (1, 1_000_000))
"""Batches of states for which noise is drawn."""


def run(
    *,
    smoke: bool = False,
    device: str = "cpu",
    parts: Iterable[str] = (),
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Times all cases for so many seconds each, or with `smoke` only the smallest ones, briefly.

    Returns:
        `settings`, and of every part the times in seconds and the quartiles of the ratios.
    """
    first, seconds = slice(1 if smoke else None), 0.1 if smoke else seconds
    cases: dict[str, list[tuple[Any, ...]]] = {
        "rows": [(n, max_batch) for n in TILES for max_batch in MAX_BATCHES],
        "auto": [(n,) for n in TILES],
        "lines": [(name,) for name in LINES],
        "solves": [*STRIPS, (512, 16, 1)],
        "peers": [(name, 4 if smoke else WINDOWS, n) for name in PEERS for n in BATCHES],
        "noise": [(*shape, threads) for threads in (1, 2) for shape in SHAPES],
        "canvases": [*CANVASES],
        "ranks": [
            (kind, n) for kind in SPREAD for n in (8 if smoke else 64, 512) if device == "cpu"
        ],
    }
    return {
        "settings": {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": platform.machine() if device == "cpu" else torch.cuda.get_device_name(),
            "seconds_per_case": seconds,
        },
        **{
            part: [
                PARTS[part](*case, torch.device(device), seconds)
                for case in tqdm(cases[part][first], desc=f"speed, {part}")
            ]
            for part in parts or PARTS
        },
    }


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The floors, and the ratios of joint, loop and noise to them."""
    ratio = "{joint_over_floor[1]:.3f} ({joint_over_floor[0]:.3f} to {joint_over_floor[2]:.3f})"
    shown: dict[str, Column] = {
        "tiles": "{tiles}",
        "max_batch": lambda row: str(row["max_batch"] or "all"),
        **columns("turns floor_seconds:.4f"),
        "joint over floor": ratio,
        **columns("loop_over_floor[1]:.2f"),
    }
    auto: dict[str, Column] = {
        **columns("tiles turns"),
        "best size": lambda row: str(row["best"]),
        "sizes measured": lambda row: ", ".join(map(str, row["measured"])),
        "auto over best": ratio.replace("joint_over_floor", "auto_over_best"),
        "worst over best": "{worst_over_best[1]:.2f}",
        "first call, in calls": "{first_call:.0f}",
    }
    lines = {
        **columns("state elements turns"),
        "joint, ms": lambda row: f"{1e3 * row['joint_seconds']:.2f}",
        "joint over hand-written": ratio.replace("floor", "hand"),
        "with views": ratio.replace("joint_over_floor", "declared_over_hand"),
        **columns("joint_over_calls[1]:.2f hand_over_calls[1]:.2f"),
    }
    solves = {
        **columns("tiles width samples turns solve"),
        "new σ over marginal": ratio.replace("joint_over_floor", "new_over_marginal"),
        "kept σ over marginal": ratio.replace("joint_over_floor", "kept_over_marginal"),
        **columns("marginal_seconds:.4f"),
    }
    peers = {
        **columns("peer samples turns"),
        "peer, ms": lambda row: f"{1e3 * row['peer_seconds']:.1f}",
        "time over peer": ratio.replace("joint_over_floor", "ours_over_peer"),
        "time over peer, auto": ratio.replace("joint_over_floor", "auto_over_peer"),
        "memory over peer": "{memory_over_peer:.2f}",
        "memory over peer, auto": "{auto_memory_over_peer:.2f}",
    }
    noise = {
        **columns("samples elements threads turns"),
        "ns per element": lambda row: f"{1e9 * row['noise_seconds'] / _size(row):.2f}",
        "noise over randn": ratio.replace("joint_over_floor", "noise_over_randn"),
    }
    canvases = {
        **columns("model rule columns:, strip:, threads turns"),
        "strips over whole": ratio.replace("joint_over_floor", "strips_over_whole"),
        **columns("memory_over_whole:.2f"),
    }
    ranks = {
        **columns("kind windows turns bytes_sent:,"),
        "two over one": ratio.replace("joint_over_floor", "two_over_one"),
    }
    shown_by_part = {
        "rows": ("One score of a strip of tiles", shown),
        "auto": ('Rows of a call with max_batch="auto"', auto),
        "lines": ("Models that cost nothing", lines),
        "solves": ("Scores of Posterior", solves),
        "peers": ("Other projects' loops over windows", peers),
        "noise": ("Standard normal noise", noise),
        "canvases": ("Canvases in strips", canvases),
        "ranks": ("One score on two processes", ranks),
    }
    return [
        table(title, result[part], cells)
        for part, (title, cells) in shown_by_part.items()
        if part in result
    ]


def _size(row: Mapping[str, Any]) -> int:
    return int(row["samples"] * row["elements"])


@torch.no_grad()
def _row(n: int, max_batch: int | None, device: torch.device, seconds: float) -> dict[str, Any]:
    graph = tiles((1, 16, 8 * n + 8), (1, 16, 16), (0, 0, 8))
    denoiser = gravel_denoiser().to(device)
    score = from_denoiser(denoiser)
    joint = compose(graph, score, max_batch=max_batch)
    u = torch.randn(1, *graph.event_shape, generator=torch.Generator().manual_seed(0)).to(device)
    flat, one = u.reshape(1, -1), torch.ones(1, device=device)
    inputs = [
        (chunk.gather(flat)[0].reshape(-1, *chunk.batch.group.shape), one.expand(values.shape[1]))
        for chunk, values in joint.evaluate(flat, one)
    ]

    def loop_per_view() -> Tensor:
        total = torch.zeros_like(u)
        for start in range(0, 8 * n, 8):
            total[..., start : start + 16] += score(u[..., start : start + 16], one)
        for start in range(8, 8 * n, 8):
            total[..., start : start + 8] -= score(u[..., start : start + 8], one)
        return total

    turns: dict[str, Callable[[], Any]] = {
        "floor": lambda: [denoiser(x, sigma) for x, sigma in inputs],
        "joint": lambda: joint(u, 1.0),
        "loop": loop_per_view,
    }
    difference = (turns["joint"]() - turns["loop"]()).abs().max().item()
    assert difference < 1e-3, f"joint and loop disagree by {difference}"
    times: dict[str, list[float]] = {name: [] for name in turns}
    beside_loop: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times["floor"]) < 5:
        pair = ["floor", "joint"]
        for name in pair if len(times["floor"]) % 2 else pair[::-1]:
            times[name].append(timed(turns[name], device))
        if len(times["loop"]) < LOOPS and (len(beside_loop) < 2 or sum(times["loop"]) < seconds):
            times["loop"].append(timed(turns["loop"], device))
            beside_loop.append(times["floor"][-1])
    return {
        "tiles": n,
        "max_batch": max_batch,
        "turns": len(times["floor"]),
        **{f"{name}_seconds": statistics.median(t) for name, t in times.items()},
        "joint_over_floor": quartiles(times["joint"], times["floor"]),
        "loop_over_floor": quartiles(times["loop"], beside_loop),
    }


@torch.no_grad()
def _auto(n: int, device: torch.device, seconds: float) -> dict[str, Any]:
    graph = tiles((1, 16, 8 * n + 8), (1, 16, 16), (0, 0, 8))
    score = from_denoiser(gravel_denoiser().to(device))
    sizes = [2**k for k in range(n.bit_length())]
    limits: tuple[int | Literal["auto"], ...] = (*sizes, "auto")
    joints = {limit: compose(graph, score, max_batch=limit) for limit in limits}
    u = torch.randn(1, *graph.event_shape, generator=torch.Generator().manual_seed(0)).to(device)
    first = timed(lambda: joints["auto"](u, 1.0), device)
    turns = {limit: partial(joint, u, 1.0) for limit, joint in joints.items()}
    times = by_turns(turns, device, seconds)
    middle = {limit: statistics.median(times[limit]) for limit in sizes}
    best, worst = min(sizes, key=middle.__getitem__), max(sizes, key=middle.__getitem__)
    return {
        "tiles": n,
        "turns": len(times["auto"]),
        "best": best,
        "measured": [limit for limit, _ in joints["auto"]._limits.values()],
        "seconds": {str(limit): statistics.median(each) for limit, each in times.items()},
        "auto_over_best": quartiles(times["auto"], times[best]),
        "worst_over_best": quartiles(times[worst], times[best]),
        "first_call": first / statistics.median(times["auto"]),
    }


def elementwise(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (-1 - sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


class Declared:
    """The same, which says that it writes into nothing, so that it is given views."""

    copies = True

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return elementwise(x, sigma)


@torch.no_grad()
def _lines(name: str, device: torch.device, seconds: float) -> dict[str, Any]:
    shape, window, overlap = LINES[name]
    length, stride = window[-1], window[-1] - overlap
    graph = tiles(shape, window, (*[0] * (len(shape) - 1), overlap))
    joint, declared = compose(graph, elementwise), compose(graph, Declared())
    u = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    n, one = (shape[-1] - overlap) // stride, torch.ones(1, device=device)

    def cut(x: Tensor, size: int, step: int) -> Tensor:
        return x.unfold(-1, size, step).movedim(-2, 1)

    def inputs() -> list[Tensor]:
        pieces = cut(u, length, stride), cut(u[..., stride : n * stride], overlap, stride)
        return [x.reshape(-1, *x.shape[2:]) for x in pieces]

    def calls(given: list[Tensor]) -> list[Tensor]:
        return [elementwise(x, one.expand(len(x))) for x in given]

    def hand() -> Tensor:
        windows, overlaps = calls(inputs())
        total, every = torch.zeros_like(u), -(-length // stride)
        for first in range(every):
            cut(total[..., first * stride :], length, every * stride).add_(windows[first::every])
        cut(total[..., stride : n * stride], overlap, stride).sub_(overlaps)
        return total

    known = inputs()
    turns: dict[str, Callable[[], Any]] = {
        "calls": lambda: calls(known),
        "joint": partial(joint, u, 1.0),
        "hand": hand,
        "declared": partial(declared, u, 1.0),
    }
    for each in ("joint", "declared"):
        difference = (turns[each]() - hand()).abs().max().item()
        assert difference < 1e-4, f"{each} and hand-written lines disagree by {difference}"
    times = by_turns(turns, device, seconds)
    return {
        "state": name,
        "elements": u.numel(),
        "turns": len(times["hand"]),
        **{f"{each}_seconds": statistics.median(t) for each, t in times.items()},
        "joint_over_hand": quartiles(times["joint"], times["hand"]),
        "declared_over_hand": quartiles(times["declared"], times["hand"]),
        "joint_over_calls": quartiles(times["joint"], times["calls"]),
        "hand_over_calls": quartiles(times["hand"], times["calls"]),
    }


@torch.no_grad()
def _noise(
    samples: int, elements: int, threads: int, device: torch.device, seconds: float
) -> dict[str, Any]:
    noise, like = Noise.of(0, samples), torch.empty(samples, elements, device=device)
    before = torch.get_num_threads()
    turns: dict[str, Callable[[], Any]] = {
        "noise": lambda: noise(0, like),
        "randn": lambda: torch.randn_like(like),
    }
    torch.set_num_threads(threads)
    try:
        times = by_turns(turns, device, seconds)
    finally:
        torch.set_num_threads(before)
    return {
        "samples": samples,
        "elements": elements,
        "threads": threads,
        "turns": len(times["randn"]),
        **{f"{name}_seconds": statistics.median(t) for name, t in times.items()},
        "noise_over_randn": quartiles(times["noise"], times["randn"]),
    }


class Field(Covariances):
    """Pixels whose correlation decays exponentially, by the gravel photograph's variance."""

    def of(self, group: RegionGroup) -> Tensor:
        height, width = group.shape[-2:]
        place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
        return (SIGMA_DATA**2 * torch.exp(-torch.cdist(place, place) / 3))[None]


@torch.no_grad()
def _solves(
    n: int, width: int, samples: int, device: torch.device, seconds: float
) -> dict[str, Any]:
    overlap = width // 2
    graph = tiles((1, 16, overlap * (n + 1)), (1, 16, width), (0, 0, overlap))
    score = from_denoiser(gravel_denoiser().to(device))
    marginal = compose(graph, score)
    posterior = compose(graph, score, rule=Posterior(Field()))
    seeded = torch.Generator().manual_seed(0)
    u = torch.randn(samples, *graph.event_shape, generator=seeded).to(device)
    times: dict[str, list[float]] = {"marginal": [], "new": [], "kept": []}
    start, sigma = time.perf_counter(), 0.3
    while time.perf_counter() - start < seconds or len(times["new"]) < 5:
        sigma *= 1.001
        for name, joint in (("marginal", marginal), ("new", posterior), ("kept", posterior)):
            times[name].append(timed(partial(joint, u, sigma), device))
    return {
        "tiles": n,
        "width": width,
        "samples": samples,
        "threads": torch.get_num_threads(),
        "solve": type(posterior.solve).__name__,
        "turns": len(times["new"]),
        **{f"{name}_seconds": statistics.median(t) for name, t in times.items()},
        "new_over_marginal": quartiles(times["new"], times["marginal"]),
        "kept_over_marginal": quartiles(times["kept"], times["marginal"]),
    }


@torch.no_grad()
def _peers(
    name: str, windows: int, samples: int, device: torch.device, seconds: float
) -> dict[str, Any]:
    turns = programs(name, windows, samples, gravel_denoiser().to(device), device)._asdict()
    turns["auto"]()  # measures its sizes
    peaks = {each: peak_bytes(turn, device) for each, turn in turns.items()}
    times = by_turns(turns, device, seconds)
    return {
        "peer": name,
        "windows": windows,
        "samples": samples,
        "threads": torch.get_num_threads(),
        "turns": len(times["peer"]),
        **{f"{each}_seconds": statistics.median(t) for each, t in times.items()},
        **{f"{each}_peak_bytes": peak for each, peak in peaks.items()},
        "ours_over_peer": quartiles(times["ours"], times["peer"]),
        "auto_over_peer": quartiles(times["auto"], times["peer"]),
        "memory_over_peer": peaks["ours"] / peaks["peer"],
        "auto_memory_over_peer": peaks["auto"] / peaks["peer"],
    }


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "rows": _row,
    "auto": _auto,
    "lines": _lines,
    "solves": _solves,
    "peers": _peers,
    "noise": _noise,
    "canvases": canvas,
    "ranks": spread,
}
"""What is timed, by its key in the result."""
