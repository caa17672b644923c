r"""Random numbers: the meaning of `generator=`, and noise that depends only on where it is used.

The noise of a run is a function of the sample's key, the number of the draw and the place in the
state. Normal numbers are read from a counter-based generator (Philox 4×64; Salmon, Moraes, Dror,
Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011) at that key and number. They therefore do
not depend on the batch in which they are drawn, on the device, on the dtype except for rounding, or
on where a run was resumed.

The numbers of the draws never collide:

    step k of a solver              k, and `SECOND` + k where a step draws twice
    correctors                      from 2^40
    a rise of the schedule          `RISE` + k
    resampling of particles         from 2^61, and 3 · 2^61 after the last step
    the start of particles          2^62
    the start of a run              `START`
    a measurement of curvature      from 5 · 2^61
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.text import counted, described

__all__ = ["Draw", "Generator", "Noise", "split_seed", "torch_generator"]

Draw: TypeAlias = Callable[[int, Tensor], Tensor]
"""`draw(number, like)`: standard normal noise with the shape and place of `like`; see `Noise`."""

SECOND, RISE, START = 1 << 32, 1 << 60, 1 << 63
"""First numbers of draws other than a step's first; no schedule is long enough to reach them."""

Generator: TypeAlias = (
    int
    | np.integer[Any]
    | torch.Generator
    | Sequence[int | np.integer[Any] | torch.Generator]
    | None
)
"""The source of random numbers, with one meaning wherever an argument is called `generator`.

An integer is a seed: every call with it draws the same numbers. A `torch.Generator` advances, so
that the next call draws other numbers. A sequence holds one of either per sample, whose integers
may be keys from `split_seed`; functions that draw all samples from one stream refuse it. None, the
default everywhere, is fresh entropy, and not reproducible. The global generators of torch, numpy
and Python are neither read nor changed.
"""


@dataclass(frozen=True)
class Noise:
    """Standard normal noise for a batch of states.

    Args:
        keys: one 128-bit integer per sample; see `split_seed`.
    """

    keys: tuple[int, ...]

    def __repr__(self) -> str:
        return described(self, counted(len(self.keys), "sample"))

    @classmethod
    def of(cls, generator: Generator, n_samples: int) -> "Noise":
        """Noise for a batch, with keys from a `Generator`; a `torch.Generator` gives one seed.

        Raises:
            ShapeError: the sequence has another length than the batch.
            PgmdiffError: the generator is of another type.
        """
        if isinstance(generator, str) or not isinstance(generator, Sequence):
            return cls(split_seed(seed_of(generator, "Noise"), n_samples))
        if len(generator) != n_samples:
            raise ShapeError(
                f"Noise: expected one generator or {n_samples}, one per sample, got "
                f"{len(generator)}."
            )
        return cls(tuple(seed_of(each, "Noise") for each in generator))

    def __call__(self, number: int, like: Tensor) -> Tensor:
        """The noise of a draw, with the shape, dtype and device of a state `[batch, *event]`."""
        if not like.is_floating_point():
            raise ShapeError(f"Noise: expected a floating-point state, got {like.dtype}.")
        noise = np.empty((len(self.keys), prod(like.shape[1:])))
        bits = np.random.Philox(key=0, counter=[0, 0, 0, number])
        state, normal = bits.state, np.random.Generator(bits).standard_normal
        for row, key in zip(noise, self.keys, strict=True):
            state["state"]["key"][:] = key % 2**64, key >> 64
            bits.state = state  # eight times faster than a new generator per sample
            normal(out=row)
        return torch.from_numpy(noise).reshape(like.shape).to(like)


def split_seed(seed: int, n: int) -> tuple[int, ...]:
    """The keys of n samples under one seed; any part of them may be given as `generator`.

    Args:
        seed: an integer from 0 to 2^64 - 1.
        n: number of samples.

    Raises:
        PgmdiffError: the seed is out of range.

    Example:
        >>> from pgmdiff.samplers import split_seed
        >>> split_seed(7, 3)[1:] == split_seed(7, 3)[1:3]
        True
    """
    if not 0 <= seed < 2**64:
        raise PgmdiffError(f"Noise: expected a seed from 0 to 2^64 - 1, got {seed}.")
    return tuple((seed << 64) + sample for sample in range(n))


def torch_generator(generator: Generator, who: str) -> torch.Generator:
    """The stream of a function that draws all its samples from one `torch.Generator`.

    Args:
        generator: see `Generator`; a sequence is refused.
        who: name of the function, for the error.

    Raises:
        PgmdiffError: the generator is a sequence or of another type.
    """
    if isinstance(generator, torch.Generator):
        return generator
    return torch.Generator().manual_seed(seed_of(generator, who))


def seed_of(generator: Generator, who: str) -> int:
    """The seed that one generator gives, with the arguments and errors of `torch_generator`."""
    if generator is None:
        return secrets.randbits(63)
    if isinstance(generator, torch.Generator):
        device = generator.device
        return int(torch.randint(2**63 - 1, (), generator=generator, device=device))
    if not isinstance(generator, int | np.integer):
        one = " This draws from one stream: give one generator."
        raise PgmdiffError(
            f"{who}: expected generator= an integer seed, a torch.Generator or None, got "
            f"{type(generator).__name__}.{one if isinstance(generator, list | tuple) else ''}"
        )
    return int(generator)
