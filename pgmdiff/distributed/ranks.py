"""Ranks, the processes of torch.distributed, and joints whose model calls they share.

Every rank runs the same program. With `shared` each holds the whole state and computes its part of
the rows of every model call; then the parts are gathered, so that all have the same scores. What
they send grows with the state. A `Slab` divides the state itself; see `halos`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map

from pgmdiff.composition import Joint
from pgmdiff.errors import PgmdiffError, ScoreError
from pgmdiff.linalg import is_finite
from pgmdiff.samplers import Run
from pgmdiff.samplers.store import Facts
from pgmdiff.scores.adapters import Score, per_element
from pgmdiff.scores.gradients import gradient_required
from pgmdiff.scores.walls import received
from pgmdiff.text import brief, described

__all__ = ["Ranks", "SharedJoint", "shared"]

SAME = 1e-6
"""Relative difference of sums of all elements up to which the states of ranks count as one."""


class Ranks:
    """The processes of the default group of torch.distributed, and what they say to one another.

    Attributes:
        rank: the number of this process.
        size: how many there are.
        sent: how many bytes of tensors this rank has sent to others.

    Raises:
        PgmdiffError: there is no group.
    """

    fingerprint = "any number of ranks"

    def __init__(self) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise PgmdiffError(
                "distributed: expected a group of processes, got none. Call "
                "torch.distributed.init_process_group() first, and start the program with torchrun."
            )
        self.rank, self.size, self.sent = dist.get_rank(), dist.get_world_size(), 0
        self.device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")

    def __repr__(self) -> str:
        return described(self, f"rank {self.rank} of {self.size}")

    def gathered(self, mine: Tensor) -> Tensor:
        """The tensors of all ranks, which have one shape: `[size, ...]`."""
        out = mine.new_empty(self.size, *mine.shape)
        with self._speaking():
            dist.all_gather([*out], mine.contiguous())
        self.sent += (self.size - 1) * mine.numel() * mine.element_size()
        return out

    def objects(self, mine: Any) -> list[Any]:
        """The objects of all ranks, which are pickled."""
        out = [None] * self.size
        with self._speaking():
            dist.all_gather_object(out, mine)
        return out

    def collected(self, mine: Any) -> list[Any]:
        """The objects of all ranks, which are pickled, on rank 0; nothing on others."""
        out = [] if self.rank else [None] * self.size
        with self._speaking():
            dist.gather_object(mine, None if self.rank else out)
        return out

    def exchange(self, given: Mapping[int, Tensor], wanted: Mapping[int, Tensor]) -> None:
        """Sends tensors to some ranks, and fills those that are wanted from others."""
        given = {other: values.contiguous() for other, values in given.items()}
        requests = [dist.P2POp(dist.isend, values, other) for other, values in given.items()]
        requests += [dist.P2POp(dist.irecv, values, other) for other, values in wanted.items()]
        with self._speaking():
            for request in dist.batch_isend_irecv(requests) if requests else ():
                request.wait()
        self.sent += sum(values.numel() * values.element_size() for values in given.values())

    def agree(self, error: Exception | None, *facts: float) -> Tensor:
        """Raises on all ranks if one has met an error; else the facts of all, `[size, n]`.

        Raises:
            ScoreError: its message names the first rank that has met an error, and repeats it.
        """
        mine = torch.tensor([error is not None, *facts], dtype=torch.float64, device=self.device)
        found = self.gathered(mine).cpu()
        if not found[:, 0].any():
            return found[:, 1:]
        texts = self.objects(error and f"{type(error).__name__}: {error}")
        rank, text = next((rank, text) for rank, text in enumerate(texts) if text)
        raise ScoreError(f"rank {rank} of {self.size} failed, {text}") from error

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise PgmdiffError(
                f"rank {self.rank} of {self.size} lost another rank, which has died, left the "
                f"program or not answered in time; see what that one said. {error} Start again: a "
                "run with run= goes on from its folder."
            ) from error


@dataclass(eq=False)
class SharedRun(Run):
    """A run of all ranks in a folder that all can read, of which rank 0 writes the files.

    `sample` makes it of any `run=` where the score is a `Slab` or `shared`. Files hold the whole
    state, for which rank 0, while it saves, and all, when they start, must have the memory. A run
    that was killed goes on with any number of ranks.

    Args:
        folder, every: see `Run`; the clock is that of rank 0.
        ranks: the processes.
        part: the slab of this rank, if the state is divided.

    Raises:
        PgmdiffError: when it starts: ranks see other files, as of a folder of each machine.
    """

    ranks: Ranks = field(kw_only=True)
    part: Any = None

    @property
    def due(self) -> bool:
        """Whether the last save of rank 0 is long enough ago."""
        return bool(self.ranks.agree(None, super().due)[0, 0])

    def latest(self) -> tuple[dict[str, Tensor], Facts] | None:
        found, error = None, None
        try:
            found = super().latest()
        except Exception as failure:
            error = failure
        steps = self.ranks.agree(error, -1 if found is None else found[1]["step"])[:, 0]
        if (steps != steps[0]).any():
            seen = (f"step {step:.0f}" if step >= 0 else "none" for step in steps.tolist())
            raise PgmdiffError(
                f"{self}: expected the same files on all ranks, got, from rank 0 on, "
                f"{', '.join(seen)}. Give a folder that all machines share."
            )
        if found is None or self.part is None:
            return found
        return {name: self.part.cut(t, name) for name, t in found[0].items()}, found[1]

    def write(self, step: int, tensors: Mapping[str, Tensor], facts: Facts, *, last: bool) -> None:
        if self.part is not None:
            tensors = {name: self.part.whole(t, name) for name, t in tensors.items()}
        if self.ranks.rank == 0:
            super().write(step, tensors, facts, last=last)


def shared(joint: Joint) -> "SharedJoint":
    """The same joint, whose model calls are shared by all ranks; the state is whole on each.

    Of a call of n rows rank k of W computes rows kn/W to (k+1)n/W. Every rule, graph, condition and
    solver is as in one process, and results are equal to its own, up to how a network's rounding
    depends on its batch. All ranks make the same calls on the same state: give `sample` a seed.
    There are no gradients. Errors, and scores that are not finite, on any rank are raised on all.

    Args:
        joint: the joint. Its `max_batch` bounds the rows that all ranks compute together.

    Raises:
        PgmdiffError: there is no group of processes, or `max_batch` is "auto": each rank would
            measure another size, and wait for calls that others do not make.
    """
    ranks, finite = Ranks(), joint.check_finite
    if joint.max_batch == "auto":
        raise PgmdiffError(
            "distributed.shared: expected max_batch as a number or None, alike on all ranks, got "
            "'auto', which each rank measures for itself. Give compose the number."
        )
    batches = (replace(b, score=_SharedScore(b.score, ranks, finite)) for b in joint.batches)
    given = {each.name: getattr(joint, each.name) for each in fields(Joint) if each.name[0] != "_"}
    return SharedJoint(**{**given, "batches": tuple(batches)}, ranks=ranks)


@dataclass(frozen=True, eq=False, repr=False)
class SharedJoint(Joint):
    """A joint whose model calls are shared by all ranks; made by `shared`.

    Attributes:
        ranks: the processes.
        graph, regions, rule, batches, max_batch, check_finite, checkpoint: see `Joint`.
    """

    ranks: Ranks = field(kw_only=True)
    places = None

    def stored(self, run: Run) -> SharedRun:
        """A run of all ranks."""
        return SharedRun(run.folder, run.every, ranks=self.ranks)


@dataclass(frozen=True, eq=False)
class _SharedScore:
    """A score of which every rank computes a part of the rows."""

    score: Score
    ranks: Ranks
    check_finite: bool
    per_element = property(lambda self: per_element(self.score))
    log_density = property(lambda self: partial(self, self.score.log_density))

    def __call__(self, *given: Any, **condition: Any) -> Tensor:
        """The score of (x, σ), or the log-density, which then comes before them."""
        *function, x, sigma = given
        ranks, n = self.ranks, len(x)
        like = x.new_empty(n) if function else x
        cuts = [k * n // ranks.size for k in range(ranks.size + 1)]
        mine = slice(cuts[ranks.rank], cuts[ranks.rank + 1])
        part, error = torch.zeros_like(like[: -(-n // ranks.size)]), None
        own = tree_map(lambda t: t[mine] if isinstance(t, Tensor) else t, condition)
        if gradient_required(x, sigma, condition):
            raise ScoreError(
                "distributed.shared: shared calls have no gradients. Use the joint itself on every "
                "rank, or call this one under torch.no_grad."
            )
        try:
            if mine.start < mine.stop:
                with torch.no_grad():
                    value = (*function, self.score)[0](x[mine], sigma[mine], **own)
                value = received(value, like[mine], lambda: f"The score {brief(self.score)}")
                if self.check_finite and not is_finite(value) and is_finite(x[mine]):
                    raise ScoreError(
                        f"{brief(self.score)} is not finite on x of {tuple(value.shape)}."
                    )
                part[: len(value)] = value
        except Exception as raised:  # it is raised on all ranks together
            error = raised
        facts = ranks.agree(error, n, x.detach().sum().item(), x.detach().abs().sum().item())
        apart = (facts - facts[0]).abs()
        if apart[:, 0].any() or (apart[:, 1] > SAME * facts[:, 2]).any():
            raise ScoreError(
                "distributed.shared: the ranks call it on different states, so that what is "
                "gathered belongs to none of them. Give sample the same seed, generator=, on all."
            )
        sizes = zip(ranks.gathered(part), cuts[:-1], cuts[1:], strict=True)
        return torch.cat([values[: stop - start] for values, start, stop in sizes])
