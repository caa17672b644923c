"""Checks the library on a GPU, and measures it there.

    python -m scripts.gpu_check [--out JSON] [--seconds S] [--parts PART ...] [--cpu]

It prints and writes, part by part, with the name of the card:

    tests    whether the tests that are marked gpu pass
    latents  the joint score of a strip of 64 × 512 latents under a diffusers U-Net of 100 million
             parameters in half precision, over its bare network calls: seconds and memory
    solves   seconds of each kind of posterior solve, here and on the CPU, and how far they differ
    noise, lines, scores, auto, rows   those parts of the benchmark of speed; scores are its solves
    steps    seconds of a joint score as it is, compiled, and as a captured CUDA graph

With `--parts` it keeps the others in the file. With S = 1 second per figure, the default, it takes
about five minutes. With `--cpu` it is a short rehearsal on the smallest cases, without tests, which
proves only that the script runs.
"""

import argparse
import json
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from benchmarks import speed
from benchmarks.__main__ import _json
from pgmdiff import compose, fit_covariances, from_denoiser
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.linalg import beside
from pgmdiff.models.gravel import gravel_denoiser
from pgmdiff.precision import ComposedPrecision, Covariances, Separable, Stationary, solver_of

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
STEPS = ["256", "1000000", "gravel"]
SPEED = {"noise": "noise", "lines": "lines", "scores": "solves", "auto": "auto", "rows": "rows"}
"""Parts of the benchmark of speed, by their names here: `solves` are without a network."""
Row = dict[str, Any]


def seconds_of(turn: Callable[[], object], at_least: float) -> float:
    """The median time of a call, repeated for so many seconds; the device is waited for."""
    turn()
    timer = Timer("turn()", globals={"turn": turn}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=at_least).median


def unet(smallest: bool) -> Any:
    """A random U-Net of diffusers for latents: 100 million parameters, or few."""
    from diffusers import UNet2DModel

    widths = (32, 32) if smallest else (128, 256, 384, 576)
    plain, attention = len(widths) - 2, 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: Any = UNet2DModel(
            in_channels=4,
            out_channels=4,
            layers_per_block=1 if smallest else 2,
            block_out_channels=widths,
            down_block_types=["DownBlock2D"] * plain + ["AttnDownBlock2D"] * attention,
            up_block_types=["AttnUpBlock2D"] * attention + ["UpBlock2D"] * plain,
        )
    return network.eval().requires_grad_(False)


@torch.no_grad()
def latents(max_batch: int | None, device: str, at_least: float) -> Row:
    """One score of a strip of 4 × 64 × 512 latents from windows of 64 × 64, and its calls alone."""
    smallest = device == "cpu"
    network = unet(smallest).to(device, torch.bfloat16)
    side, width = (16, 48) if smallest else (64, 512)
    graph = tiles((4, side, width), (4, side, side), (0, 0, side // 2))
    calls: list[tuple[Tensor, Tensor]] = []

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        given = (x * beside((1 + sigma**2).rsqrt(), x)).bfloat16(), sigma.log()
        if keeping:
            calls.append(given)
        noise: Tensor = network(*given).sample.to(x)
        return -noise / beside(sigma, x)

    def peak(turn: Callable[[], object]) -> float:
        if smallest:
            return 0.0
        torch.cuda.reset_peak_memory_stats()
        turn()
        return torch.cuda.max_memory_allocated() / 2**20

    keeping, joint = True, compose(graph, score, max_batch=max_batch)
    u = torch.randn(1, *graph.event_shape, generator=torch.Generator().manual_seed(0)).to(device)
    joint(u, 1.0)
    keeping = False

    def alone() -> None:
        for given in calls:
            network(*given)

    both = {"network": alone, "joint": lambda: joint(u, 1.0)}
    seconds = {f"{name}_seconds": seconds_of(turn, at_least) for name, turn in both.items()}
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "max_batch": max_batch,
        **seconds,
        "ratio": seconds["joint_seconds"] / seconds["network_seconds"],
        **{f"{name}_mebibytes": peak(turn) for name, turn in both.items()},
    }


@torch.no_grad()
def steps(name: str, device: str, at_least: float) -> Row:
    """A joint score as it is, compiled whole, and captured and replayed, in seconds."""
    if name == "gravel":
        graph = tiles((1, 16, 72), (1, 16, 16), (0, 0, 8))
        joint = compose(graph, from_denoiser(gravel_denoiser().to(device)), check_finite=False)
    else:
        joint = compose(tiles((int(name),), 16, 8), speed.elementwise, check_finite=False)
    u = torch.randn(1, *joint.event_shape, generator=torch.Generator().manual_seed(0)).to(device)
    sigma = torch.ones(1, device=device)
    row: Row = {"state": name, "eager_seconds": seconds_of(lambda: joint(u, sigma), at_least)}
    torch.compiler.reset()
    compiled = torch.compile(joint, backend="eager" if device == "cpu" else "inductor")
    row["compiled_seconds"] = seconds_of(lambda: compiled(u, sigma), at_least)
    if device == "cuda":
        graph_of_calls = torch.cuda.CUDAGraph()
        joint(u, sigma)
        with torch.cuda.graph(graph_of_calls):
            joint(u, sigma)
        row["captured_seconds"] = seconds_of(graph_of_calls.replay, at_least)
    return row


def ar1(*axes: int) -> Stationary:
    """Covariances ρ^|lag| on windows of 16, for each axis."""
    line = 0.8 ** torch.arange(-15, 16).abs().double()
    field = line if len(axes) == 1 else line[:, None] * line
    return Stationary(field[None, None], axes)


def precisions(smallest: bool) -> Iterator[tuple[RegionGraph, Covariances]]:
    """Graphs and covariances that each kind of solve is chosen for, from small to large."""
    for n in (256,) if smallest else (256, 768):
        yield tiles((n,), 16, 8), ar1(0)  # Eigen
    for n in (1_024,) if smallest else (4_096, 65_536):
        yield tiles((n,), 16, 8), ar1(0)  # BlockTree
        yield tiles((n,), 16, 8, periodic=True), ar1(0)  # Circulant
        channels = torch.eye(3).double() + 0.5
        yield tiles((3, n), (3, 16), (0, 8)), Separable(channels, ar1(0))  # Channelwise
    for n in (1_024,) if smallest else (4_096, 16_384):
        graph = tiles((n,), 128, 64)
        states = torch.randn(64, n, generator=torch.Generator().manual_seed(0)).cumsum(1) / 16
        low_rank = fit_covariances(graph, states, form="low_rank", rank=8, shared=True)
        yield graph, low_rank  # SmallSpace
    for side in (32,) if smallest else (64, 128):
        yield tiles((side, side), 16, 8), ar1(0, 1)  # ConjugateGradients


@torch.no_grad()
def solve_cost(graph: RegionGraph, covariances: Covariances, device: str, at_least: float) -> Row:
    """(I + σ² P)⁻¹ b for a batch of 4 at σ = 1, with factors made: on the device and on the CPU."""
    solve = solver_of(ComposedPrecision(graph, covariances))
    b = torch.randn(4, graph.n_elements, generator=torch.Generator().manual_seed(0)).double()
    there, sigma = b.to(device), torch.ones(4).double()
    difference = (solve(there, sigma.to(device)).cpu() - solve(b, sigma)).abs().max()
    return {
        "solve": type(solve).__name__,
        "elements": graph.n_elements,
        "seconds": seconds_of(lambda: solve(there, sigma.to(device)), at_least),
        "cpu_seconds": seconds_of(lambda: solve(b, sigma), at_least),
        "difference": difference.item(),
    }


def marked_tests() -> str:
    """Runs the tests that are marked gpu, and says what pytest says."""
    marks = ("mark.gpu", "there: torch.device")  # and the fixture that is marked
    sources = {str(path): path.read_text() for path in ROOT.glob("tests/**/test_*.py")}
    files = [path for path, source in sources.items() if any(mark in source for mark in marks)]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *files]
    found = subprocess.run(command, check=False, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(found.stdout)
    if found.returncode:
        raise RuntimeError(found.stdout.splitlines()[-1])
    return re.sub(r" in [\d.]+s.*|=+ ?", "", found.stdout.splitlines()[-1])


def timings(part: str, **options: Any) -> Any:
    """A part of the benchmark of speed."""
    return speed.run(parts=[part], **options)[part]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu_<card>.json")
    parser.add_argument("--seconds", type=float, default=1.0, help="spent on each figure")
    parser.add_argument("--parts", nargs="+", help="only these parts")
    parser.add_argument("--cpu", action="store_true", help="a short rehearsal without a GPU")
    given = parser.parse_args(arguments)
    if not given.cpu and not torch.cuda.is_available():
        parser.exit(2, "gpu_check: PyTorch finds no CUDA device. Pass --cpu for a rehearsal.\n")
    device, seconds = ("cpu", 0.01) if given.cpu else ("cuda", given.seconds)
    card = "CPU" if given.cpu else torch.cuda.get_device_name()
    print("no GPU: a rehearsal on the CPU" if given.cpu else card)
    few, name = slice(1 if given.cpu else None), re.sub(r"[^a-z0-9]+", "_", card.lower())
    out = given.out or (None if given.cpu else RESULTS / f"gpu_{name}.json")
    parts: dict[str, Callable[[], Any]] = {
        "tests": marked_tests,
        "latents": lambda: [latents(m, device, seconds) for m in [8, None][few]],
        "solves": lambda: [solve_cost(*case, device, seconds) for case in precisions(given.cpu)],
        **{
            part: partial(timings, name, smoke=given.cpu, device=device, seconds=seconds)
            for part, name in SPEED.items()
        },
        "steps": lambda: [steps(case, device, seconds) for case in STEPS[few]],
    }
    if given.cpu:
        del parts["tests"]
    if unknown := set(given.parts or parts) - parts.keys():
        parser.error(f"gpu_check has the parts {list(parts)}, not {sorted(unknown)}")
    settings = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "card": card,
        "pgmdiff": version("pgmdiff"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "seconds_per_figure": seconds,
    }
    figures = json.loads(out.read_text()) if given.parts and out and out.exists() else {}
    figures["settings"], failed = figures.get("settings", {}) | settings, False
    for part in given.parts or parts:
        start = time.perf_counter()
        try:
            figures[part] = parts[part]()
        except Exception:  # the other parts are measured, and what is known is kept
            traceback.print_exc()
            figures.setdefault(part, "failed")
            failed = True
        print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)
        if out:
            out.write_text(_json(figures) + "\n")
    print(_json(figures))
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
