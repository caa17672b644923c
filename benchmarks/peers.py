r"""Loops of other projects over overlapping windows, beside joint scores with the same network.

Each is written anew after its public source, with the same order of cuts, calls and sums, and
without prompts, decoders and progress bars; none of their code is copied.

    panorama      diffusers' deprecated StableDiffusionPanoramaPipeline (Apache-2.0): one view after
                  another, or a few at a time; each takes its own solver step, and the results are
                  averaged. Its copies of the scheduler's state are left out.
    DiffCollage   CondIndLong of github.com/sbyebss/DiffCollage: all windows in one call and all
                  right halves in another, of which the last is thrown away, then `fold`
    physicsnemo   MultiDiffusionPredictor (Apache-2.0): padded by reflection, with one stride for
                  both axes; all patches are cut first and fused last, by `fold`
    outpainting   a run of its own for every window, in which the half that is known is replaced by
                  its noised value at every level

The first three are one Euler step of the whole strip; they are compared with the rule that does the
same, overlap averaging or the paper's. Outpainting is a whole run of a few levels, compared with a
run of the marginal rule on the same levels.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import fold, pad, unfold
from torch.profiler import ProfilerActivity, profile

from pgmdiff.composition.composing import compose
from pgmdiff.composition.rules import Average, Marginal, Rule
from pgmdiff.graphs import tiles
from pgmdiff.samplers import Euler, karras, sample
from pgmdiff.scores.adapters import from_denoiser

__all__ = ["PEERS", "Problem", "Programs", "peak_bytes", "programs"]

SIDE, OVERLAP = 16, 8
SIGMA, NEXT = 1.0, 0.8
LEVELS = karras(4, 0.01, 10.0)


class Problem(NamedTuple):
    """A strip `[batch, 1, 16, width]` of n windows, the network of a window, and rows per call."""

    denoiser: Callable[[Tensor, Tensor], Tensor]
    u: Tensor
    n: int
    rows: int | None

    def denoised(self, x: Tensor, sigma: float) -> Tensor:
        return self.denoiser(x, x.new_full((len(x),), sigma))

    def starts(self) -> range:
        return range(0, OVERLAP * self.n, OVERLAP)


def panorama(problem: Problem) -> Tensor:
    u, views = problem.u, list(problem.starts())
    at_once = max(1, (problem.rows or len(views) * len(u)) // len(u))
    value, count = torch.zeros_like(u), torch.zeros_like(u)
    for first in range(0, len(views), at_once):
        some = views[first : first + at_once]
        x = torch.cat([u[..., start : start + SIDE] for start in some])
        noise = (x - problem.denoised(x, SIGMA)) / SIGMA
        stepped = x + (NEXT - SIGMA) * noise
        for view, start in zip(stepped.chunk(len(some)), some, strict=True):
            value[..., start : start + SIDE] += view
            count[..., start : start + SIDE] += 1
    return torch.where(count > 0, value / count, value)


def diffcollage(problem: Problem) -> Tensor:
    u, n = problem.u, problem.n
    cut = unfold(u, SIDE, stride=OVERLAP).transpose(1, 2)
    x = cut.reshape(-1, 1, SIDE, SIDE)
    noise = (x - problem.denoised(x, SIGMA)) / SIGMA
    half = x[..., -OVERLAP:]
    shared = ((half - problem.denoised(half, SIGMA)) / SIGMA).reshape(len(u), n, 1, SIDE, OVERLAP)
    shared[:, -1] = 0
    noise = noise.reshape(len(u), n, 1, SIDE, SIDE)
    noise[..., -OVERLAP:] -= shared
    columns = noise.reshape(len(u), n, -1).transpose(1, 2)
    return u + (NEXT - SIGMA) * fold(columns, u.shape[2:], SIDE, stride=OVERLAP)


def physicsnemo(problem: Problem) -> Tensor:
    u, stride = problem.u, SIDE - OVERLAP
    padded = pad(u, (0, OVERLAP, 0, OVERLAP), mode="reflect")
    patches = unfold(padded, SIDE, stride=stride).permute(2, 0, 1).reshape(-1, 1, SIDE, SIDE)
    rows = problem.rows or len(patches)
    parts = [problem.denoised(patches[i : i + rows], SIGMA) for i in range(0, len(patches), rows)]
    found = torch.cat(parts).reshape(-1, len(u), SIDE * SIDE).permute(1, 2, 0)
    whole, ones = padded.shape[2:], torch.ones(1, 1, *padded.shape[2:]).to(u)
    count = fold(unfold(ones, SIDE, stride=stride), whole, SIDE, stride=stride)
    denoised = (fold(found, whole, SIDE, stride=stride) / count)[..., :SIDE, : u.shape[3]]
    return u + (NEXT - SIGMA) * (u - denoised) / SIGMA


def outpainting(problem: Problem) -> Tensor:
    total = torch.zeros_like(problem.u)
    for start in problem.starts():
        window = slice(start, start + SIDE)
        x = LEVELS[0] * torch.randn_like(total[..., window])
        for sigma, after in pairwise(LEVELS):
            if start:
                known = total[..., start : start + OVERLAP]
                x[..., :OVERLAP] = known + sigma * torch.randn_like(known)
            denoised = problem.denoised(x, sigma)
            x = denoised + after / sigma * (x - denoised)
        fresh = OVERLAP if start else 0
        total[..., start + fresh : start + SIDE] = x[..., fresh:]
    return total


class Peer(NamedTuple):
    """A program, the rule that does the same, its rows per sample and call, and if they agree."""

    run: Callable[[Problem], Tensor]
    rule: Rule
    rows: int | None
    alike: bool


PEERS = {
    "panorama": Peer(panorama, Average(), 1, True),
    "panorama, 8 views at a time": Peer(panorama, Average(), 8, True),
    "DiffCollage": Peer(diffcollage, Marginal(), None, True),
    "physicsnemo": Peer(physicsnemo, Average(), None, False),
    "physicsnemo, chunks": Peer(physicsnemo, Average(), 8, False),
    "outpainting": Peer(outpainting, Marginal(), None, False),
}


class Programs(NamedTuple):
    """The peer, a joint with equally large calls, and one with `max_batch="auto"`."""

    peer: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    auto: Callable[[], Tensor]


def programs(name: str, n: int, batch: int, denoiser: Any, device: torch.device) -> Programs:
    """The programs of one comparison, on a strip of n windows and so many samples.

    Raises:
        AssertionError: the peer computes something else.
    """
    peer, graph = PEERS[name], tiles((1, SIDE, OVERLAP * (n + 1)), (1, SIDE, SIDE), (0, 0, OVERLAP))
    seeded = torch.Generator().manual_seed(0)
    u = torch.randn(batch, *graph.event_shape, generator=seeded).to(device)
    problem = Problem(denoiser, u, n, peer.rows and peer.rows * batch)
    score = from_denoiser(denoiser)

    def joint_of(limit: Any) -> Callable[[], Tensor]:
        joint = compose(graph, score, rule=peer.rule, max_batch=limit)
        if name == "outpainting":
            start = LEVELS[0] * u
            return lambda: sample(joint, LEVELS, x=start, solver=Euler())
        return lambda: u - (NEXT - SIGMA) * SIGMA * joint(u, SIGMA)

    found = Programs(lambda: peer.run(problem), joint_of(problem.rows), joint_of("auto"))
    apart = (found.peer() - found.ours()).abs().max().item()
    assert apart < 1e-3 or not peer.alike, f"{name} and the joint score differ by {apart}"
    return found


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The most memory that a call holds at once, as PyTorch's allocators see it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return int(torch.cuda.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    assert recorded.profiler is not None
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
