r"""A canvas larger than memory, sampled strip by strip: a skewed front over the noise levels.

A step from level k - 1 to level k needs, on a strip, the state of level k - 1 on all windows that
touch it. Level k therefore works one strip behind level k - 1:

    wave t:    level 0 draws strip t,    level 1 steps strip t - 1,    ...,    level K writes t - K

What is held is a strip and the reach of its windows per level, however long the canvas is. Each
element of the result is the same function of the same noise as under `sample`. A strip of m strides
costs m + ⌈window / stride⌉ - 1 windows per step in place of m, where a step evaluates once.

Under `Posterior` and `Consistent` an element of the score depends on the whole state, less and less
with distance. There the solve is truncated to a halo of columns on each side, and the error is
measured: on one strip, at every level, the score is computed with twice the halo, too. The messages
of `Consistent` go with the state: those of a window lie on the columns of its first stride. Its
trust radius acts on all messages together, and here on those of a strip and its halo.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.composition.consistent import CAPPED
from pgmdiff.composition.joint import Remembering
from pgmdiff.composition.plan import Scores
from pgmdiff.distributed.strips import Strips, strips_of
from pgmdiff.errors import PgmdiffError, ShapeError, required
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.linalg import Shape, tensor_of
from pgmdiff.noise import RISE, START, Generator, Noise
from pgmdiff.samplers import Run, Solver, State, UniPC
from pgmdiff.samplers.run import check_run, solver_text
from pgmdiff.samplers.start import check_hidden, check_settled, eta_of, mean_of
from pgmdiff.samplers.store import ELSEWHERE, check_dtype, check_same, noise_of
from pgmdiff.store import fingerprint, outline
from pgmdiff.text import array, described

__all__ = ["Streamed", "stream"]

OTHERS = (".h5", ".hdf5", ".npy", ".npz", ".png", ".pt", ".safetensors", ".tif", ".tiff")
"""Endings of files, which no zarr array is."""
UNTOLD = ("max_batch", "check_finite")
"""Arguments of `compose` that a resumed run may have others of."""


@dataclass(frozen=True)
class Streamed:
    """What `stream` made.

    Attributes:
        array: the canvas, `[batch, *event]`: a zarr array, or the one that was given.
        truncation: under `Posterior` and `Consistent`, per step, the relative error of the score
            that is due to the halo: its difference on one strip from that with twice the halo.
            Empty for `Marginal` and `Average`, which are exact.
        capped: under `Consistent`, in how many steps of strips the trust radius cut the messages of
            a sample. There the canvas depends on the strips; `sample` cuts those of the whole.
    """

    array: Any
    truncation: tuple[float, ...] = ()
    capped: int = 0

    def __repr__(self) -> str:
        shape = f"{tuple(self.array.shape)} of {self.array.dtype}"
        error = f"truncation up to {max(self.truncation):.2g}" if self.truncation else ""
        return described(self, shape, error, f"capped={self.capped}" if self.capped else "")


@torch.no_grad()
def stream(
    graph: GraphLike,
    scores: Scores,
    sigmas: Sequence[float],
    *,
    out: Any,
    shape: Sequence[int] | None = None,
    mean: Tensor | float = 0.0,
    solver: Solver | None = None,
    generator: Generator = None,
    strip: int | None = None,
    halo: int | None = None,
    run: Run | str | Path | None = None,
    progress: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    **composing: Any,
) -> Streamed:
    """Samples a canvas of windows into an array on disk, with the memory of a few strips.

        sample(compose(graph, scores, **composing), sigmas, shape=(1, *graph.event_shape))

    is the same canvas up to rounding, for the same generator, in the memory of the whole. Strips
    follow one another along the axis that has the most windows (the last one of several).

    Args:
        graph: windows of one tensor, as `tiles` makes them; the other axes may be tiled, too.
        scores: see `compose`; scores per region are refused.
        sigmas: noise levels, as for `sample`.
        out: where to write: the path of a zarr array (extra `zarr`), a folder, that is made once
            there is something to write, and whose chunks are the strips; or an array of floats
            `[batch, *event]` that can be assigned to, such as a `numpy.memmap`.
        shape: `[batch, *event]`; one sample of the graph's event if None. On the axis of the strips
            it may be any length: windows then go on as they begin in the graph, which is a pattern
            and need not be larger than two windows. Where they do not fit, the last one is shifted,
            and a warning says so.
        mean: that of the data, as for `sample`; with size 1 along the axis of the strips if it is
            the same everywhere. The first strip tells whether to warn, of four samples or more.
        solver: `UniPC()` if None; any whose steps are `elementwise`.
        generator: as for `sample`; noise depends on the place in the whole canvas.
        strip: columns of a strip, a multiple of the windows' stride.
        halo: under `Posterior` and `Consistent`, the columns on each side of a strip that its solve
            sees; four windows if None.
        run: a folder, or a `Run`, in which the front is saved as it goes. The same call made again
            after the process was killed goes on to the same bits.
        progress: whether to show a progress bar.
        dtype, device: of the state; a new zarr array has this dtype.
        composing: `rule`, `conditions`, and the other arguments of `compose`. Rules are `Marginal`,
            `Average`, `Posterior` and `Consistent`, the latter two with covariances that are the
            same for all windows. Fields over the whole canvas are cropped. Conditions of nodes are
            those of the canvas's windows by name: windows further on than in the graph have none
            unless they are named, so make them for the graph of the whole canvas, or give fields.

    Raises:
        GraphError: the graph is not made of windows, or is closed along the axis of the strips.
        ShapeError: the shape, the strip or the array does not fit, or, under `Consistent`, windows
            do not end where the canvas does.
        ScoreError: the scores or the rule belong to the whole graph.
        PgmdiffError: the solver, the schedule or the folder does not fit, the array exists, or it
            does not hold what the run has written.
        ImportError: zarr is not installed.

    Example:
        >>> import numpy, torch
        >>> from pgmdiff import karras, tiles
        >>> from pgmdiff.distributed import stream
        >>> def score(x, sigma):  # independent pixels of unit variance
        ...     return -x / (1 + sigma[:, None] ** 2)
        >>> out = numpy.zeros((1, 1000), numpy.float32)
        >>> stream(tiles((16,), 8, 4), score, karras(8, 0.01, 10.0), out=out, shape=(1, 1000))
        Streamed((1, 1000) of float32)
    """
    levels, solver = [float(sigma) for sigma in sigmas], UniPC() if solver is None else solver
    check_run("stream", levels, solver)
    check_dtype("stream", dtype)
    if not solver.elementwise:
        raise PgmdiffError(
            f"stream: expected a solver whose steps are elementwise, such as UniPC() or SDE(), got "
            f"{solver!r}, whose steps depend on the whole state. Use sample."
        )
    graph = graph_of(graph, "stream").regions
    given = tuple(shape) if shape is not None else (1, *graph.event_shape)
    strips = strips_of(graph, scores, given, solver.evaluations, strip, halo, composing)
    run = Run.of(run)
    found = None if run is None else run.latest()
    earlier: dict[str, Any] = found[1]["run"] if found else {}
    noise = noise_of(generator, given[0], earlier)
    facts: dict[str, Any] = {"sampler": "stream", "solver": solver_text(solver)}
    facts |= {"sigmas": [*levels], "shape": list(given), "seeds": list(noise.keys)}
    facts |= {"dtype": str(dtype), "strip": strips.width, "halo": strips.halo}
    if run is not None:
        told = {word: part for word, part in composing.items() if word not in UNTOLD}
        parts = {"scores": scores, "conditions of the graph": graph.conditions, **told}
        facts["score"] = {name: outline(part) for name, part in parts.items()}
        facts["mean"] = fingerprint(tensor_of("stream", "mean", mean).double())[:16]
        facts["windows"] = fingerprint(strips.windows)[:16]
    if found and run is not None:
        check_same(f"stream: the folder {run.folder}", earlier, facts, ELSEWHERE)
    whole = mean_of("stream", mean, given, dtype, device)
    front = _Front(strips, levels, solver, noise, whole)
    begin = front.parts(facts)
    if found:
        front.restore(*found)
    chunks = [1, *strips.event]
    chunks[strips.axis + 1] = min(strips.width, strips.length)
    written = front.wave >= len(levels)
    opened = _opening(out, given, tuple(chunks), dtype, bool(found), written)
    target = opened() if written else None
    if target is not None and front.written not in (None, front.digest(target)):
        raise PgmdiffError(
            f"stream: expected out= to hold what the run has written, but its latest strip, "
            f"{front.latest[-1].start}:{front.latest[-1].stop} on axis {strips.axis}, is another. "
            "Give the array with which the run began, or another folder (run=)."
        )
    waves = range(front.wave, front.n_waves)
    for wave in tqdm(waves, disable=not progress, desc="sampling strips"):
        made = front.advance()
        if run is not None and wave == 1 and not found:  # now the score has been evaluated
            run.save(0, *begin)
        if made is not None:
            target = opened() if target is None else target
            target[made[0]] = made[1]
            front.written = None if run is None else front.digest(target)
        if run is not None and wave:
            run.save(wave + 1, *front.parts(facts), last=wave + 1 == front.n_waves)
    return Streamed(target, tuple(front.truncation), front.capped)


class _Front:
    """The states of all levels, between waves.

    Args:
        strips, levels, solver, noise: of the run.
        mean: of the canvas, `[batch, *event]`, in the state's dtype and on its device.
    """

    def __init__(
        self, strips: Strips, levels: list[float], solver: Solver, noise: Noise, mean: Tensor
    ) -> None:
        self.strips, self.levels, self.solver, self.noise = strips, levels, solver, noise
        self.mean, self.wave, self.held = mean, 0, dict[int, tuple[int, State]]()
        self.truncation, self.capped = list[float](), 0
        self.written: str | None = None
        self.number = ceil(strips.length / strips.width)
        self.dim, self.n_waves = strips.axis + 1, self.number + len(levels) - 1

    def advance(self) -> tuple[tuple[slice, ...], np.ndarray] | None:
        """One wave: every level works on its own strip; that of the last one is to be written."""
        width, dim = self.strips.width, self.dim
        done: tuple[tuple[slice, ...], np.ndarray] | None = None
        for k in range(len(self.levels)):
            first = (self.wave - k) * width
            last = min(first + width, self.strips.length)
            if not 0 <= first < last:
                continue
            state = self._step(k, first, last) if k else self._start(first, last)
            if k == len(self.levels) - 1:
                done = (*[slice(None)] * dim, slice(first, last)), state.x.cpu().numpy()
            else:
                begin, before = self.held.get(k, (first, None))
                self.held[k] = begin, state if before is None else _joined(before, state, dim)
            if k and last == self.strips.length:
                del self.held[k - 1]
            elif k:
                begin, before = self.held[k - 1]
                kept = max(begin, last - self.strips.reach)
                self.held[k - 1] = kept, _cut(before, dim, kept - begin, before.x.shape[dim])
        self.wave += 1
        return done

    @property
    def latest(self) -> tuple[slice, ...]:
        """Where the strip stands that was written last."""
        first = (self.wave - len(self.levels)) * self.strips.width
        last = min(first + self.strips.width, self.strips.length)
        return (*[slice(None)] * self.dim, slice(first, last))

    def digest(self, target: Any) -> str:
        """SHA-256 of that strip, in the array's dtype."""
        return sha256(np.ascontiguousarray(target[self.latest]).tobytes()).hexdigest()

    def _start(self, first: int, last: int) -> State:
        mean = self.mean.narrow(self.dim, first, last - first)
        x = mean + self.levels[0] * self._draw(first, START, mean)
        return self.solver.init(x, self.levels[0])

    def _step(self, k: int, first: int, last: int) -> State:
        (begin, state), level, strips = self.held[k - 1], self.levels[k], self.strips

        def part(start: int, stop: int) -> State:
            return _cut(state, self.dim, start - begin, stop - begin)

        def score(halo: int) -> Tensor:
            start, stop = strips.around(first, last, halo)
            own = part(start, stop)
            found: Tensor = strips.score(start, stop, own)(own.x, own.sigma)
            return found.narrow(self.dim, first - start, last - first)

        if level > state.sigma:
            own, added = part(first, last), (level**2 - state.sigma**2) ** 0.5
            raised = own.x + added * self._draw(first, RISE + state.step, own.x)
            risen = self.solver.init(raised, level, state.step + 1)
            return replace(risen, memory=own.memory)
        if strips.halo and self.wave - k == min(1, self.number - 1):
            near, far = score(strips.halo), score(2 * strips.halo)
            self.truncation.append(float((near - far).norm() / far.norm()))
        start, stop = first, last
        for _ in range(strips.evaluations):  # each is right within the windows of the one before
            start, stop = strips.around(start, stop, strips.halo)
        draw = partial(self._draw, start)
        own = part(start, stop)
        active = strips.score(start, stop, own)
        after = self.solver.step(active, own, level, draw)
        if k == self.wave == 1 and after.denoised is not None:
            mean = self.mean.narrow(self.dim, start, stop - start)
            eta = eta_of(self.solver, self.levels)
            check_hidden("stream", after.denoised - mean, own.x - mean, own.sigma, eta)
        if level == first == 0 and after.denoised is not None:
            check_settled("stream", after.denoised, own.x, own.sigma)
        after = replace(after, denoised=None)
        if isinstance(active, Remembering):
            active.commit()
            self.capped += bool(active.memory[CAPPED].any())
            after = replace(after, memory=strips.laid(active))
        return _cut(after, self.dim, first - start, last - start)

    def _draw(self, first: int, number: int, like: Tensor) -> Tensor:
        """The noise of columns from one on, by their places in the whole."""
        event, axis = self.strips.event, self.strips.axis
        outer, inner = prod(event[:axis]), prod(event[axis + 1 :])
        if outer == 1:
            return self.noise(number, like, first * inner)
        line = torch.arange(like.shape[self.dim] * inner, device=like.device) + first * inner
        rows = torch.arange(outer, device=like.device) * (event[axis] * inner)
        return self.noise(number, like, (rows[:, None] + line).reshape(like.shape[1:]))

    def parts(self, facts: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and facts for a file."""
        tensors, states = dict[str, Tensor](), dict[str, Any]()
        for k, (begin, state) in self.held.items():
            values, about = state.parts()
            tensors |= {f"{k}.{name}": value for name, value in values.items()}
            states[str(k)] = {"begin": begin, **about}
        found = {"truncation": [*self.truncation], "capped": self.capped, "written": self.written}
        return tensors, {"run": facts, "wave": self.wave, "states": states, **found}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Takes up what `parts` gave."""
        self.wave, self.capped, self.written = facts["wave"], facts["capped"], facts.get("written")
        self.truncation = list(facts["truncation"])
        for k, about in facts["states"].items():
            own = {n[len(k) + 1 :]: t for n, t in tensors.items() if n.startswith(f"{k}.")}
            state = State.of({n: t.to(self.mean.device) for n, t in own.items()}, about)
            self.held[int(k)] = about["begin"], state


def _cut(state: State, dim: int, first: int, last: int) -> State:
    """The same state on some columns, which the memory of others does not outlive."""
    return state.map(lambda t: t.narrow(dim, first, last - first).clone())


def _joined(before: State, after: State, dim: int) -> State:
    """The state on the columns of both."""
    history = tuple(
        (level, torch.cat([one, other], dim))
        for (level, one), (_, other) in zip(before.history, after.history, strict=True)
    )
    memory = {n: torch.cat([one, after.memory[n]], dim) for n, one in before.memory.items()}
    x = torch.cat([before.x, after.x], dim)
    return replace(after, x=x, history=history, memory=memory)


def _opening(
    out: Any, shape: Shape, chunks: Shape, dtype: torch.dtype, begun: bool, written: bool
) -> Callable[[], Any]:
    """Makes the array to write to: that given, a new one, or that of a run which goes on."""
    if not isinstance(out, str | Path):
        fixed = not getattr(getattr(out, "flags", None), "writeable", True)
        fixed |= getattr(out, "read_only", False) is True
        tensor, bare = isinstance(out, torch.Tensor), not hasattr(out, "__setitem__")
        if tuple(getattr(out, "shape", ())) != shape or fixed or tensor or bare:
            got = array(out) if hasattr(out, "dtype") else repr(out)
            kind = ", which is read-only" * fixed + ", a tensor: give its numpy()" * tensor
            raise ShapeError(
                f"stream: expected out, an array of shape {shape} that can be assigned to, or the "
                f"path of a zarr array to be made, got {got}{kind}."
            )
        if getattr(getattr(out, "dtype", None), "kind", "f") in "biu":
            raise ShapeError(
                f"stream: expected out, an array of floats, got {array(out)}, in which values "
                "would be cut. Round them once they are all there."
            )
        return lambda: out
    zarr, kind = required("zarr", "stream", "zarr"), str(dtype).removeprefix("torch.")
    path, there = Path(out), Path(out).exists()
    if (there and not begun) or (written and not there):
        raise PgmdiffError(
            f"stream: expected {path} to be {'there' if written else 'free'}, since the run "
            f"{'has written a part of it' if written else 'begins'}. Give another path and "
            "another folder (run=), or those of one run."
        )
    if path.suffix.lower() in OTHERS:
        raise PgmdiffError(
            f"stream: expected the path of a zarr array, which is a folder, got {str(path)!r}. End "
            "it in .zarr, or give an array, such as one of numpy.lib.format.open_memmap."
        )
    if not there:
        return partial(zarr.create_array, str(path), shape=shape, chunks=chunks, dtype=kind)
    found = zarr.open_array(str(path), mode="r+")
    if found.shape != shape or str(found.dtype) != kind:
        raise ShapeError(
            f"stream: expected {path} as an array of shape {shape}, {kind}, got {found.shape}, "
            f"{found.dtype}. Give the path with which the run began."
        )
    return lambda: found
