"""Checks the library on a GPU, and measures it there.

    python -m scripts.gpu_check [--out JSON] [--seconds S] [--cpu]

It runs the tests that are marked gpu, then prints and writes, with the name of the card:

    joint    seconds of the joint score over those of its bare network calls, on strips of gravel
    noise    nanoseconds per element of `Noise`, and of `torch.randn`
    solves   seconds of each kind of posterior solve, here and on the CPU, and how far they differ

With S = 2 seconds per figure, the default, it takes about three minutes. With `--cpu` it is a short
rehearsal on the smallest cases, without tests, which proves only that the script runs.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from pgmdiff import compose, fit_covariances, from_denoiser
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.models.gravel import gravel_denoiser
from pgmdiff.precision import ComposedPrecision, Covariances, Separable, Stationary, solver_of
from pgmdiff.samplers import Noise

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
STRIPS = [(n, max_batch) for n in (8, 64, 512) for max_batch in (64, None)]
NOISE = [(4, 4_096), (4, 1_048_576)]
Row = dict[str, Any]


def seconds_of(turn: Callable[[], object], at_least: float) -> float:
    """The median time of a call, repeated for so many seconds; the device is waited for."""
    turn()
    timer = Timer("turn()", globals={"turn": turn}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=at_least).median


@torch.no_grad()
def joint_overhead(n: int, max_batch: int | None, device: str, at_least: float) -> Row:
    """One score of a strip of n overlapping windows, and the network alone on the same batches."""
    network, graph = gravel_denoiser().to(device), tiles((1, 16, 8 * n + 8), (1, 16, 16), (0, 0, 8))
    calls: list[tuple[Tensor, Tensor]] = []

    def noting(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append((x, sigma))
        denoised: Tensor = network(x, sigma)
        return denoised

    u = torch.randn(1, *graph.event_shape, generator=torch.Generator().manual_seed(0)).to(device)
    compose(graph, from_denoiser(noting), max_batch=max_batch)(u, 1.0)
    joint = compose(graph, from_denoiser(network), max_batch=max_batch)
    alone = seconds_of(lambda: [network(x, sigma) for x, sigma in calls], at_least)
    joined = seconds_of(lambda: joint(u, 1.0), at_least)
    seconds = {"network_seconds": alone, "joint_seconds": joined, "ratio": joined / alone}
    return {"tiles": n, "max_batch": max_batch, **seconds}


def noise_cost(shape: tuple[int, int], device: str, at_least: float) -> Row:
    """Standard normal noise: the library's, a function of seed, sample and step, and PyTorch's."""
    noise, like = Noise.of(0, shape[0]), torch.empty(shape, device=device)
    ours = seconds_of(lambda: noise(0, like), at_least)
    theirs = seconds_of(lambda: torch.randn_like(like), at_least)
    each = 1e9 / like.numel()
    return {"elements": like.numel(), "noise_ns": each * ours, "randn_ns": each * theirs}


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
        yield tiles((n,), 16, 8), ar1(0)  # SparseFactors
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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu_<card>.json")
    parser.add_argument("--seconds", type=float, default=2.0, help="spent on each figure")
    parser.add_argument("--cpu", action="store_true", help="a short rehearsal without a GPU")
    given = parser.parse_args(arguments)
    if not given.cpu and not torch.cuda.is_available():
        parser.exit(2, "gpu_check: PyTorch finds no CUDA device. Pass --cpu for a rehearsal.\n")
    device, seconds = ("cpu", 0.01) if given.cpu else ("cuda", given.seconds)
    card = "CPU" if given.cpu else torch.cuda.get_device_name()
    print("no GPU: a rehearsal on the CPU" if given.cpu else card)
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests"]
    tests = None if given.cpu else subprocess.run(command, check=False, cwd=ROOT).returncode
    few = slice(1 if given.cpu else None)
    figures = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "card": card,
        "pgmdiff": version("pgmdiff"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "tests": {None: "not run", 0: "passed"}.get(tests, "failed"),
        "joint": [joint_overhead(n, m, device, seconds) for n, m in STRIPS[few]],
        "noise": [noise_cost(shape, device, seconds) for shape in NOISE[few]],
        "solves": [solve_cost(*each, device, seconds) for each in precisions(given.cpu)],
    }
    text = json.dumps(figures, indent=2)
    print(text)
    name = f"gpu_{re.sub(r'[^a-z0-9]+', '_', card.lower())}.json"
    if given.out or not given.cpu:
        (given.out or ROOT / "benchmarks" / "results" / name).write_text(text + "\n")
    raise SystemExit(tests or 0)


if __name__ == "__main__":
    main()
