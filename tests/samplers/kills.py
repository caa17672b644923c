"""Runs that are killed at random moments and called again: `python -m tests.samplers.kills 50`."""

import os
import random
import shutil
import signal
import sys
import tempfile
import time

import torch
from torch import Tensor

from pgmdiff import compose, gaussian
from pgmdiff.composition import FeynmanKac
from pgmdiff.graphs import chain
from pgmdiff.samplers import DPMSolver2M, Run, UniPC, karras, sample, sample_weighted
from tests.helpers import ar1

DATA = ar1(4, 0.8)
JOINT = compose(chain(4), gaussian.node_scores(chain(4), DATA))
LEVELS = karras(30, 0.02, 20.0)


def solved(run: Run | None) -> Tensor:
    return sample(JOINT, LEVELS, shape=(2000, 4), solver=UniPC(3), generator=0, run=run)


def stochastic(run: Run | None) -> Tensor:
    solver = DPMSolver2M(eta=1.0)
    return sample(JOINT, LEVELS, shape=(2000, 4), solver=solver, generator=[*range(2000)], run=run)


def weighted(run: Run | None) -> Tensor:
    particles = sample_weighted(
        FeynmanKac(JOINT), LEVELS[:-1], shape=(2000, 4), generator=3, run=run
    )
    sizes = particles.component_effective.reshape(-1)
    return torch.cat([particles.x.reshape(-1), particles.component_log_weights.reshape(-1), sizes])


def main(kills: int) -> int:
    """Kills runs that save after every step until `kills` have died, and compares their results."""
    torch.set_num_threads(1)
    moments, killed, finished = random.Random(0), 0, 0
    expected = {call: call(None) for call in (solved, stochastic, weighted)}
    while killed < kills or finished < len(expected):
        call = [*expected][finished % len(expected)]
        folder = tempfile.mkdtemp()
        status = -1
        while status:
            child = os.fork()
            if not child:
                call(Run(folder, every=0))
                os._exit(0)
            if killed < kills:
                time.sleep(moments.uniform(0, 0.3))
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            killed += status == signal.SIGKILL
            if status not in (0, signal.SIGKILL):
                return 1
        assert torch.equal(call(Run(folder)), expected[call]), call
        assert len(os.listdir(folder)) <= 3, os.listdir(folder)
        shutil.rmtree(folder)
        finished += 1
    print(f"{killed} kills, {finished} runs, all bit for bit")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
