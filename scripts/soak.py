"""Samples random graphs for an hour, and fails where results or memory change: `make soak`.

    python -m scripts.soak [--minutes M] [--seed S] [--grows MB] [--out JSON]

Graphs and Gaussians that are Markov to them are drawn, and sampled under every rule. A call gives

    the same bits      made again, by three threads that share one joint, and if the run was killed
                       after a step (SIGKILL, now and then) and is resumed
    the same numbers   whatever `max_batch`, to 1e-9; strips of the bundled gravel model to 1e-4

Resident memory is noted every minute, and may grow by `--grows` megabytes after the first tenth of
the time, in which caches fill. The JSON says what was done; if anything fails, the exit code is 1.
"""

import argparse
import gc
import json
import os
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from pgmdiff import Average, Consistent, Marginal, Posterior, compose, from_denoiser, karras, tiles
from pgmdiff.gaussian import node_covariances, node_scores
from pgmdiff.models.gravel import gravel_denoiser
from pgmdiff.samplers import DPMSolver2M, Run, UniPC, sample
from pgmdiff.testing import strategies as random

__all__ = ["main"]

LEVELS = karras(5, 0.02, 20.0)
ANY = st.one_of(random.factor_graphs(), random.trees(), random.tile_graphs())
GRAPHS = ANY.filter(lambda graph: graph.n_elements > 0)
OPTIONS = st.tuples(st.sampled_from([UniPC(3), DPMSolver2M(eta=1.0)]), st.integers(0, 19))
"""A solver, and the step after which a run is killed, if there is one."""
USUAL = settings(max_examples=20, database=None, deadline=None, phases=[Phase.generate],
                 suppress_health_check=[*HealthCheck])  # fmt: skip


def killed(call: Callable[..., Tensor], folder: str, step: int) -> None:
    """Makes a call in another process, which kills itself after a step."""

    def die(facts: dict[str, Any]) -> None:
        if facts["i"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    if not (child := os.fork()):
        call(0, run=Run(folder, every=0), callback=die)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the run ended before it could be killed"


def check(counts: Counter[str], data: st.DataObject) -> None:
    """Checks a graph under every rule."""
    graph = data.draw(GRAPHS)
    q = data.draw(random.gaussians(graph))
    scores, covariances = node_scores(graph, q), node_covariances(graph, q)
    for rule in (Marginal(), Average(), Posterior(covariances), Consistent(covariances)):
        solver, step = data.draw(OPTIONS)

        def call(key: int, most: int | None = None, joint: Any = None, **more: Any) -> Tensor:
            joint = joint or compose(graph, scores, rule=rule, max_batch=most)  # noqa: B023
            more |= {"solver": solver, "dtype": torch.float64, "generator": key}  # noqa: B023
            return sample(joint, LEVELS, shape=(3, *q.event_shape), **more)

        found = [call(key) for key in range(3)]
        shared = partial(call, joint=compose(graph, scores, rule=rule))
        with ThreadPoolExecutor(3) as threads:
            together = threads.map(shared, range(3))
            assert all(map(torch.equal, found, together)), f"{rule}: threads change a result"
        for most in (1, 2):
            gap = (call(0, most) - found[0]).abs().max()
            assert gap <= 1e-9 * found[0].abs().max(), f"{rule}: max_batch={most} changes a result"
        if step < len(LEVELS) - 1:
            with tempfile.TemporaryDirectory() as folder:
                killed(call, folder, step)
                resumed = call(0, run=Run(folder, every=0))
            assert torch.equal(resumed, found[0]), f"{rule}: a resumed run has another result"
        counts.update(runs=8, kills=step < len(LEVELS) - 1)
    strip = tiles((1, 16, 48), (1, 16, 16), (0, 0, 8))
    joints = [compose(strip, from_denoiser(gravel_denoiser()), max_batch=k) for k in (None, 1)]
    one, other = (sample(j, LEVELS[-3:], shape=(1, 1, 16, 48), generator=0) for j in joints)
    assert (one - other).abs().max() < 1e-4, "gravel: max_batch=1 changes a result"
    counts.update(graphs=1, strips=2)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grows", type=float, default=15.0, help="megabytes")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    counts, memory, failure, rounds = Counter[str](), list[tuple[float, float]](), "", 0
    start, whole = time.monotonic(), 60 * options.minutes
    while (now := time.monotonic() - start) < whole and not failure:
        if not memory or now >= memory[-1][0] + min(60.0, whole / 20):
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory.append((round(now, 1), round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)))
        try:
            seed(options.seed + rounds)(USUAL(given(st.just(counts), st.data())(check)))()
        except Exception as error:
            failure = "".join(traceback.format_exception(error))
        rounds += 1
    settled = [size for at, size in memory if at >= whole / 10] or [memory[-1][1]]
    grown = round(max(settled) - settled[0], 1)
    if not failure and grown > options.grows:
        failure = f"resident memory has grown by {grown} MB, allowed are {options.grows}"
    figures = {"minutes": options.minutes, "seed": options.seed, "rounds": rounds, **counts}
    figures |= {"grown_mb": grown, "memory_mb": memory, "failure": failure}
    print("\n".join(f"{name}: {value}" for name, value in figures.items()))
    if options.out is not None:
        options.out.write_text(json.dumps(figures, ensure_ascii=False) + "\n")
    raise SystemExit(int(bool(failure)))


if __name__ == "__main__":
    main()
