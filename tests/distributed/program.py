"""What every rank runs in these tests: `python -m tests.distributed.program FOLDER`.

It compares with one process, and writes what it found to `FOLDER/RANK.json`.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from runpy import run_path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

import pgmdiff
from pgmdiff import Average, Consistent, PgmdiffError, Posterior, compose, sample
from pgmdiff.distributed import Ranks, Slab, shared
from pgmdiff.gaussian import node_covariances, node_scores
from pgmdiff.graphs import chain, grid, tiles
from pgmdiff.samplers import (
    SDE,
    Adaptive,
    DPMSolver2M,
    Euler,
    Heun,
    Run,
    UniPC,
    karras,
)
from pgmdiff.testing import two_mode_chain
from tests.helpers import ar1

LEVELS = karras(6, 0.05, 10.0)
found: dict[str, Any] = {}


def piece(x: Tensor, sigma: Tensor, shift: Tensor | None = None) -> Tensor:
    """A score of windows of any shape that is not linear, from what is on the last axis."""
    near = 0.5 * (x.roll(1, -1) + x.roll(-1, -1))
    move = torch.tanh(near - 0.3) - x
    if shift is not None:
        move = move + shift.reshape(-1, *[1] * (x.ndim - 1))
    return move / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


def strip(**options: Any) -> Any:
    graph = tiles((2, 4, 72), window=(2, 4, 16), overlap=(0, 0, 8), periodic=(False, False, True))
    return compose(graph, piece, max_batch=5, **options)


def torus(**options: Any) -> Any:
    return compose(tiles((8, 12), 4, 2, periodic=True), piece, **options)


def windows(rule: Callable[..., Any] | None = None, **options: Any) -> Any:
    """A chain of windows of AR(1), as a junction tree."""
    data, graph = ar1(60, 0.95), tiles((60,), 12, 4)
    rule = rule and rule(node_covariances(graph, data))
    return compose(graph, node_scores(graph, data), rule=rule, **options)


def modes(rule: Callable[..., Any]) -> Any:
    """A chain of variables with two modes, so that messages are not 0."""
    truth = two_mode_chain(12)
    graph = chain(12, factor_model="pair", variable_model="single")
    known = {name: model.covariance for name, model in truth.models.items()}
    return compose(graph, truth.models, rule=rule(known))


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def compared(name: str, joint: Any, dtype: torch.dtype = torch.float64, **given: Any) -> None:
    """A run on all ranks and in one process, under `shared` and, if an axis is given, a slab."""
    axis, shape = given.pop("axis", None), (2, *joint.event_shape)
    given = {"generator": 3, "dtype": dtype, "solver": given.pop("solver", UniPC()), **given}
    whole = sample(joint, LEVELS, shape=shape, **given)
    both = sample(shared(joint), LEVELS, shape=shape, **given)
    found[f"shared {name}"] = difference(both, whole)
    if axis is not None:
        slab = Slab(joint, axis)
        x = sample(slab, LEVELS, shape=(2, *slab.event_shape), **given)
        found[f"slab {name}"] = difference(x, slab.cut(whole))
        together = slab.whole(x)
        assert (together is None) == (slab.ranks.rank > 0)
        if together is not None:
            found[f"slab {name}, whole"] = difference(together, whole)


def refused(name: str, call: Callable[[], object]) -> None:
    try:
        call()
    except PgmdiffError as error:
        found[name] = str(error)


def equal_to_one_process() -> None:
    narrow = torch.float32
    for solver in (Euler(), Heun(), SDE(1.0), DPMSolver2M(eta=1.0)):
        compared(f"marginal, {type(solver).__name__}", strip(), solver=solver, axis=-1)
    compared("float32", strip(), narrow, solver=SDE(1.0), axis=-1)
    compared("average", strip(rule=Average()), axis=-1)
    compared("torus along rows", torus(), axis=0, solver=SDE(1.0))
    compared("torus along columns, average", torus(rule=Average()), axis=1)
    compared("open windows", windows(), axis=0)
    data, lattice = ar1(20, 0.9), grid(4, 5)
    compared("grid of variables", compose(lattice, node_scores(lattice, data)), axis=0)
    shifts = {n: {"shift": torch.tensor(float(k))} for k, n in enumerate(strip().regions.pieces)}
    conditioned = strip(conditions=shifts, null_condition={"shift": torch.tensor(0.5)})
    compared("conditions of nodes", conditioned, axis=-1)
    compared("posterior", windows(Posterior), axis=0, solver=SDE(1.0))
    compared("posterior, float32", windows(Posterior), narrow, axis=0)
    compared("consistent", modes(Consistent), axis=0, solver=SDE(1.0))
    capped = partial(Consistent, trust=0.05, iterations=2)
    compared("consistent, capped", modes(capped), axis=0, solver=Heun())


def more() -> None:
    ring = tiles((60,), 12, 2, periodic=True)
    data = pgmdiff.Gaussian(torch.zeros(60), ar1(60, 0.9).covariance)
    loops = compose(ring, node_scores(ring, data), rule=Consistent(node_covariances(ring, data)))
    u = torch.randn(3, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found["shared loops, pure"] = difference(shared(loops)(u, 0.7), loops(u, 0.7))
    known = windows(Consistent)
    density = shared(known).log_density(u, 0.7)
    found["shared log-density"] = difference(density, known.log_density(u, 0.7))
    shift = {"shift": torch.tensor([0.1, 0.2, 0.3])}
    x, joint = (
        torch.randn(3, 2, 4, 72, generator=torch.Generator().manual_seed(0)).double(),
        strip(),
    )
    whole = joint(x, torch.tensor([0.5, 1.0, 2.0]), **shift)
    slab = Slab(joint)
    found["slab, condition of a call"] = difference(
        slab(slab.cut(x), torch.tensor([0.5, 1.0, 2.0]), **shift), slab.cut(whole)
    )
    long = tiles((2400,), 12, 4, periodic=True)  # so long that P stands for the completion
    known = {group.model: ar1(*group.shape, 0.9).covariance for group in long.groups}
    joint_of_ring = compose(long, piece, rule=Posterior(known))
    u, sigmas = torch.sin(torch.arange(7200.0).double()).reshape(3, 2400), torch.tensor([0.1, 1, 9])
    part = Slab(joint_of_ring)
    found["slab of a long ring"] = difference(
        part(part.cut(u), sigmas), part.cut(joint_of_ring(u, sigmas))
    )
    refused("loops", lambda: Slab(loops))
    refused(
        "adaptive", lambda: sample(slab, LEVELS, shape=(1, *slab.event_shape), solver=Adaptive())
    )
    leaf = slab.cut(x).clone().requires_grad_()
    refused("gradient of a slab", lambda: slab(leaf, 1.0))
    auto = replace(joint, max_batch="auto")
    refused("measured sizes", lambda: shared(auto))
    refused("gradient of shared", lambda: shared(joint)(x.clone().requires_grad_(), 1.0))
    field = {"shift": pgmdiff.field(torch.zeros(2, 4, 72))}
    refused("field", lambda: Slab(strip(conditions=field)))
    known = Slab(modes(Consistent))
    refused("pure", lambda: known(torch.zeros(1, *known.event_shape).double(), 1.0))
    refused("too many ranks", lambda: Slab(compose(tiles((8,), 8), piece)))
    rank = slab.ranks.rank
    refused("seeds", lambda: sample(shared(joint), LEVELS, shape=(1, 2, 4, 72), generator=rank))
    refused("sigmas", lambda: slab(slab.cut(x), 1.0 + rank))

    def failing(x: Tensor, sigma: Tensor) -> Tensor:
        if rank == 1 and sigma[0] < 1:
            raise RuntimeError("the disk of this model is gone")
        return piece(x, sigma)

    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        return piece(x, sigma) * (float("nan") if rank == 1 and sigma[0] < 1 else 1)

    for name, score in (("fails", failing), ("nan", broken)):
        whole_joint = compose(joint.graph, score)
        for kind, each in (("shared", shared(whole_joint)), ("slab", Slab(whole_joint))):
            shape = (1, *each.event_shape)
            refused(f"{kind} {name}", partial(sample, each, LEVELS, shape=shape, generator=0))


def sent_bytes() -> None:
    """Bytes that a rank sends per call and sample, for states of several lengths."""
    for rule in (None, Posterior):
        for n in (100, 404):
            data, graph = ar1(n, 0.9), tiles((n,), 12, 4)
            given = rule and rule(node_covariances(graph, data))
            slab = Slab(compose(graph, node_scores(graph, data), rule=given))
            x = torch.zeros(1, *slab.event_shape, dtype=torch.float64)
            slab(x, 1.0)  # what is kept per σ
            before = slab.ranks.sent
            slab(x, 1.0)
            found[f"bytes {rule and rule.__name__} {n}"] = slab.ranks.sent - before


class Stopped(Exception):
    """Stops a run."""


def stored(folder: Path) -> None:
    """Runs that stop and go on, and one in which rank 1 is killed."""

    def stop(step: Any) -> None:
        if step["i"] == 3:
            raise Stopped

    joint, rank = modes(Consistent), dist.get_rank()
    given: dict[str, Any] = {"generator": 5, "solver": DPMSolver2M(eta=1.0), "dtype": torch.float64}
    whole, slab = sample(joint, LEVELS, shape=(2, 12), **given), Slab(joint)
    for name, score in (("slab", slab), ("shared", shared(joint))):
        run, calls = Run(folder / f"{name} goes on", every=0), []
        given |= {"shape": (2, *score.event_shape), "run": run}
        with suppress(Stopped):
            sample(score, LEVELS, callback=stop, **given)
        u = sample(score, LEVELS, callback=calls.append, **given)
        assert len(calls) == 3
        found[f"{name} goes on"] = difference(u, slab.cut(whole) if name == "slab" else whole)

    def die(step: Any) -> None:
        if rank == 1 and step["i"] == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    (folder / f"{rank}.json").write_text(json.dumps(found))
    given |= {"shape": (2, *slab.event_shape), "run": Run(folder / "killed", every=0)}
    refused("killed", lambda: sample(slab, LEVELS, callback=die, **given))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with patch("sys.argv", ["over_devices.py", "--width", "40", "--steps", "2"]):
        run_path("examples/over_devices.py", run_name="__main__")
    rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=size)
    equal_to_one_process()
    more()
    sent_bytes()
    stored(folder)
    (folder / f"{Ranks().rank}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # the other rank was killed, and gloo's threads may abort a process that waits
