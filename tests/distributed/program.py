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
from pgmdiff.conditioning import (
    Crop,
    Isotropic,
    Mask,
    block_average,
    dps,
    moment_matching,
    reconstruction,
    replacement,
)
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


def toned(x: Tensor, sigma: Tensor, tone: Tensor) -> Tensor:
    """Such a score that sees a field, of one channel or none."""
    return piece(x, sigma) + torch.tanh(tone).to(x)


def strip(score: Any = piece, **options: Any) -> Any:
    graph = tiles((2, 4, 72), window=(2, 4, 16), overlap=(0, 0, 8), periodic=(False, False, True))
    return compose(graph, score, max_batch=5, **options)


def torus(score: Any = piece, **options: Any) -> Any:
    return compose(tiles((8, 12), 4, 2, periodic=True), score, **options)


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
    around = given.pop("around", lambda score: score)
    whole = sample(around(joint), LEVELS, shape=shape, **given)
    both = sample(around(shared(joint)), LEVELS, shape=shape, **given)
    found[f"shared {name}"] = difference(both, whole)
    if axis is not None:
        slab = Slab(joint, axis)
        x = sample(around(slab), LEVELS, shape=(2, *slab.event_shape), **given)
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
    slope = torch.linspace(-3.0, 3.0, 72)
    compared("mean", strip(), mean=slope, axis=-1)
    compared("mean of each", strip(), mean=slope * torch.ones(2, 1, 4, 1), axis=-1, solver=SDE(1.0))
    compared("torus along rows", torus(), axis=0, solver=SDE(1.0))
    compared("torus along columns, average", torus(rule=Average()), axis=1)
    compared("open windows", windows(), axis=0)
    data, lattice = ar1(20, 0.9), grid(4, 5)
    compared("grid of variables", compose(lattice, node_scores(lattice, data)), axis=0)
    hub = {f"h{k}": ("hub", f"n{k}") for k in range(6)} | {"t0": ("n5", "m0"), "t1": ("m0", "m1")}
    star = pgmdiff.FactorGraph.from_scopes(hub)  # most regions begin at one place
    compared("hub", compose(star, node_scores(star, ar1(9, 0.9))), axis=0)
    shifts = {n: {"shift": torch.tensor(float(k))} for k, n in enumerate(strip().regions.pieces)}
    conditioned = strip(conditions=shifts, null_condition={"shift": torch.tensor(0.5)})
    compared("conditions of nodes", conditioned, axis=-1)
    compared("posterior", windows(Posterior), axis=0, solver=SDE(1.0))
    compared("posterior, float32", windows(Posterior), narrow, axis=0)
    compared("consistent", modes(Consistent), axis=0, solver=SDE(1.0))
    capped = partial(Consistent, trust=0.05, iterations=2)
    compared("consistent, capped", modes(capped), axis=0, solver=Heun())


def conditioned() -> None:
    """Fields and observations, which are given whole."""

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()

    tone = pgmdiff.field(drawn(1, 4, 72))
    compared("field", strip(toned, conditions={"tone": tone}), axis=-1, solver=SDE(1.0))
    labels, none = pgmdiff.field(drawn(8, 12).round().long()), pgmdiff.field(torch.zeros(8, 12))
    given = {name: {"tone": labels} for name in list(torus().regions.pieces)[::3]}
    given |= {"tone": pgmdiff.field(drawn(8, 12))}
    some = torus(toned, conditions=given, null_condition={"tone": none})
    compared("fields of nodes", some, axis=0)
    call = partial(partial, tone=pgmdiff.field(drawn(2, 2, 4, 72)))
    compared("field of a call", strip(toned), around=call, axis=-1)
    every = strip().regions.names
    shifts = pgmdiff.per_node(every, torch.arange(2.0 * len(every)).reshape(2, -1))
    call = partial(partial, shift=shifts)
    compared("conditions of nodes and samples", strip(), around=call, axis=-1)
    wrong = pgmdiff.per_node(["nowhere"], torch.zeros(2, 1))
    refused("node", lambda: Slab(strip(), axis=-1)(torch.zeros(2, 2, 4, 36), 0.5, shift=wrong))
    rows = tiles((3, 16, 6), (3, 4, 6), (0, 2, 0), periodic=(False, True, False))
    joint, u, maps = compose(rows, toned), drawn(2, 3, 16, 6), drawn(2, 1, 16, 1)
    slab = Slab(joint, axis=1)
    found["slab, field along a middle axis"] = difference(
        slab(slab.cut(u), 0.5, tone=pgmdiff.field(maps)),
        slab.cut(joint(u, 0.5, tone=pgmdiff.field(maps))),
    )
    part = pgmdiff.field(maps[:, :, :7])
    refused("field", lambda: slab(slab.cut(u), 0.5, tone=part))

    y, mask = drawn(2, 4, 72), drawn(4, 72) > 0
    mask[:, 30:] = False  # rank 1 sees nothing
    known = Mask(mask, event_shape=(2, 4, 72))
    compared("mask", strip(), around=lambda s: replacement(s, y, known), axis=-1, solver=SDE(1.0))
    crop, each = Crop((12,), (slice(4, 8),)), drawn(2, 4)
    compared("crop", modes(Consistent), around=lambda s: replacement(s, each, crop), axis=0)
    several = Mask(drawn(2, 8, 12) > 0, event_shape=(8, 12))
    near, given = Isotropic(1.0, jacobian=False), (drawn(8, 12), several)
    match = partial(moment_matching, covariance=near, noise=0.3)
    compared("isotropic", torus(), around=lambda s: match(s, *given), axis=0)
    slab, noise = Slab(torus(), 0), 0.1 + drawn(8, 12).abs()
    refused("moments", lambda: moment_matching(slab, *given))
    refused("several noises", lambda: match(slab, *given, noise=noise))
    refused("gradient of an observation", lambda: reconstruction(slab, *given, dps(data_std=1.0)))
    refused("mask of a part", lambda: replacement(slab, torch.zeros(4, 12), torch.ones(4, 12) > 0))
    refused("operator", lambda: replacement(slab, drawn(8, 6), block_average((8, 12), 2)))
    masks, series = Mask(drawn(2, 60) > 0, event_shape=(60,)), Slab(windows(Posterior))
    refused("several masks", lambda: moment_matching(series, drawn(60), masks))
    known, v = moment_matching(series, drawn(2, 60), drawn(60) > 0), series.cut(drawn(3, 60))
    refused("other batch", lambda: known(v, 1.0))
    y, mask, each = drawn(2, 60), drawn(60) > 0.5, 0.1 + drawn(60).abs()
    for name, noise in (("", 0.3), (" each", each), (" none", 0.0)):
        seen = partial(moment_matching, observed=y, operator=mask, noise=noise)
        compared(f"known{name}", windows(Posterior), around=seen, axis=0, solver=SDE(1.0))
    seen = partial(moment_matching, observed=drawn(60), operator=mask, noise=0.3)
    compared("known, float32", windows(Posterior), torch.float32, around=seen, axis=0)
    seen = partial(moment_matching, observed=drawn(2, 4), operator=crop, noise=0.5)
    compared("known to messages", modes(Consistent), around=seen, axis=0)


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
    seen = partial(moment_matching, observed=u.cos(), operator=u[0] > 0.5, noise=0.2)
    found["slab of a long ring that is observed"] = difference(
        seen(part)(part.cut(u), sigmas), part.cut(seen(joint_of_ring)(u, sigmas))
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
    level = torch.tensor(1.0, requires_grad=True)
    refused("slope of a slab", lambda: slab(slab.cut(x), level))
    refused("slope of shared", lambda: shared(joint)(x, level))
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

    joint, rank, y = modes(Consistent), dist.get_rank(), torch.arange(12.0)
    given: dict[str, Any] = {"generator": 5, "solver": DPMSolver2M(eta=1.0), "dtype": torch.float64}
    slab = Slab(joint)
    replaced = partial(replacement, observed=y, operator=y > 5)
    known = partial(moment_matching, observed=y / 6 - 1, operator=y > 5, noise=0.5)
    scores = {
        "slab": (slab, joint),
        "shared": (shared(joint), joint),
        "slab with mask": (replaced(slab), replaced(joint)),
        "slab that knows": (known(slab), known(joint)),
    }
    for name, (score, alone) in scores.items():
        whole = sample(alone, LEVELS, shape=(2, 12), **given)
        whole = whole if name == "shared" else slab.cut(whole)
        run, calls = Run(folder / f"{name} goes on", every=0), []
        own = given | {"shape": whole.shape, "run": run}
        with suppress(Stopped):
            sample(score, LEVELS, callback=stop, **own)
        u = sample(score, LEVELS, callback=calls.append, **own)
        assert len(calls) == 3
        found[f"{name} goes on"] = difference(u, whole)

    own = given | {"shape": (2, *slab.event_shape), "run": Run(folder / f"of {rank}", every=0)}
    with suppress(Stopped):
        sample(slab, LEVELS, callback=stop, **own)  # rank 0 has written to its own folder
    refused("other folders", lambda: sample(slab, LEVELS, **own))

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
    conditioned()
    sent_bytes()
    stored(folder)
    (folder / f"{Ranks().rank}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # the other rank was killed, and gloo's threads may abort a process that waits
