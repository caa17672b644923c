"""Noise that is a function of (seed, sample, step, place in the state), and of nothing else.

Every sample has a key; the normal numbers of a step are read from a counter-based generator
(Philox 4×64; Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011) at
that key and step. So they do not depend on the batch they are drawn in, on the device, on the
dtype but for rounding, or on where a run was resumed.

Who draws under which number: a step of a solver its own number k, and `SECOND` + k where it draws
twice; correctors from 2^40; a rise of the schedule `RISE` + k; resampling from 2^61, and
that of the last particles 3 · 2^61; the start of a run `START`, of particles 2^62; the products of
a measured curvature from 5 · 2^61.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.text import counted, described

__all__ = ["Draw", "Generator", "Noise", "Seed", "split_seed", "torch_generator"]

Draw: TypeAlias = Callable[[int, Tensor], Tensor]
"""(number, like) to standard normal noise, shaped and placed like the second; such as `Noise`."""

SECOND, RISE, START = 1 << 32, 1 << 60, 1 << 63
"""Where numbers of draws other than a step's first begin: no schedule reaches them."""

Generator = int | torch.Generator | Sequence[int] | Sequence[torch.Generator] | None
"""One seed or generator for a batch, or one a sample. None: fresh entropy, not reproducible."""


@dataclass(frozen=True)
class Noise:
    """Standard normal noise for a batch of states.

    Args:
        keys: one 128-bit integer a sample; see `split_seed`.
    """

    keys: tuple[int, ...]

    def __repr__(self) -> str:
        return described(self, counted(len(self.keys), "sample"))

    @classmethod
    def of(cls, generator: Generator, n_samples: int) -> "Noise":
        """Noise for a batch.

        Args:
            generator: an integer seed; a `torch.Generator`, from which one seed is drawn; a
                sequence of either, one a sample; or None for fresh entropy.
            n_samples: size of the batch.

        Raises:
            ShapeError: a sequence of another length.
            PgmdiffError: something else than the above.
        """
        if generator is None:
            return cls(split_seed(secrets.randbits(63), n_samples))
        if isinstance(generator, int | np.integer | torch.Generator):
            return cls(split_seed(_seed(generator), n_samples))
        if not isinstance(generator, Sequence):
            raise PgmdiffError(
                "Noise: expected generator= an integer seed, a torch.Generator or a sequence with "
                f"one a sample, got {type(generator).__name__}."
            )
        if len(generator) != n_samples:
            raise ShapeError(
                f"Noise: expected one generator or {n_samples}, one a sample, got {len(generator)}."
            )
        return cls(tuple(_seed(each) for each in generator))

    def __call__(self, step: int, like: Tensor) -> Tensor:
        """The noise of a step, shaped, placed and rounded like a state `[batch, *event]`."""
        if not like.is_floating_point():
            raise ShapeError(f"Noise: expected a floating-point state, got {like.dtype}.")
        shape = like.shape[1:]
        noise = np.empty((len(self.keys), prod(shape)))
        for row, key in zip(noise, self.keys, strict=True):
            bits = np.random.Philox(key=key, counter=[0, 0, 0, step])
            np.random.Generator(bits).standard_normal(out=row)
        return torch.from_numpy(noise).reshape(like.shape).to(like)


def split_seed(seed: int, n: int) -> tuple[int, ...]:
    """The keys of n samples under one seed: a batch may be drawn in parts with parts of these.

    Args:
        seed: a whole number from 0 to 2^64 - 1.
        n: how many samples.

    Returns:
        A key a sample, to be given as `generator`.

    Raises:
        PgmdiffError: the seed is out of range.

    Example:
        >>> from pgmdiff.samplers import split_seed
        >>> split_seed(7, 3)[1:] == split_seed(7, 3)[1:3]
        True
    """
    return tuple((_checked(seed) << 64) + sample for sample in range(n))


def _checked(seed: int) -> int:
    if not 0 <= seed < 2**64:
        raise PgmdiffError(f"Noise: expected a seed of 0 to 2^64 - 1, got {seed}.")
    return seed


def _seed(generator: int | torch.Generator) -> int:
    if isinstance(generator, torch.Generator):
        device = generator.device
        return int(torch.randint(2**63 - 1, (), generator=generator, device=device))
    return int(generator)


Seed = int | torch.Generator | None
"""A seed; a generator, which advances; None: fresh entropy, not reproducible."""


def torch_generator(generator: Seed, who: str) -> torch.Generator:
    """A `torch.Generator` of a seed.

    Args:
        generator: a seed, a generator, or None.
        who: the caller, for the message.

    Raises:
        PgmdiffError: it is something else.
    """
    if isinstance(generator, torch.Generator):
        return generator
    if generator is None:
        return torch.Generator().manual_seed(secrets.randbits(63))
    if not isinstance(generator, int | np.integer):
        raise PgmdiffError(
            f"{who}: expected generator= an integer seed or a torch.Generator, got "
            f"{type(generator).__name__}."
        )
    return torch.Generator().manual_seed(int(generator))
