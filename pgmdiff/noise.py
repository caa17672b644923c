r"""Random numbers: the meaning of `generator=`, and noise that depends only on where it is used.

The noise of a run is a function of the sample's key, the number of the draw and the absolute place
in the state. It is a hash of them, as in counter-based generators (Salmon, Moraes, Dror, Shaw,
"Parallel random numbers: as easy as 1, 2, 3", 2011), so that any part of it can be drawn alone, in
any order, and does not depend on the batch, on chunks, on the device, or on where a run was
resumed. Places 2b and 2b + 1 share a pair b of normal numbers, made of 64 bits:

    z = k_1 + b · γ
    z = (z ⊕ z⪢30) · 0xBF58476D1CE4E5B9  ⊕ k_2
    z = (z ⊕ z⪢27) · 0x94D049BB133111EB
    z =  z ⊕ z⪢31
    r = √(-2 log u),  θ = 2π v
    noise = r cos θ, r sin θ

Without k_2, z is the output of SplitMix64, which passes BigCrush (Steele, Lea, Flood, "Fast
splittable pseudorandom number generators", 2014); the last two lines are those of Box, Muller, "A
note on the generation of random normal deviates", 1958.

u are the upper 40 bits and v the lower 24 bits of z, both at the centres of their intervals. The
key is k_1 = a_1 + h_1, k_2 = a_2 ⊕ h_2 with such hashes a of (seed, sample) and h of the number.
Draws of one sample never have the same k_2, and those of two samples share a key, shifted or not,
only where 64 bits agree by chance twice. The largest number is √(2 log 2^41) = 7.54; a normal
distribution has 5e-14 of its mass beyond.

The 64 bits are the same everywhere, and what is made of them is so up to rounding: float32 differs
from float64 by less than 4e-6, since angles are rounded; log, cos and sin differ by a few units in
the last place between devices.

The numbers of the draws never collide: step k of a solver has k, and all others their own kind.
"""

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log2, prod
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.linalg import widest
from pgmdiff.text import counted, described

__all__ = ["Draw", "Generator", "Noise", "split_seed", "torch_generator"]

Draw: TypeAlias = Callable[[int, Tensor], Tensor]
"""`draw(number, like)`: standard normal noise with the shape and place of `like`; see `Noise`."""

SECOND, CORRECTORS = 1 << 32, 1 << 40  # a step's second draw, and those of its corrector
RISE, RESAMPLE, DRIVEN, PARTICLES, CONSISTENCY, LAST, PROBES, START, CURVATURE = (
    kind << 60 for kind in range(1, 10)
)
"""First numbers of other draws than a solver's; no schedule is long enough to reach them."""

One: TypeAlias = int | np.integer[Any] | torch.Generator
Generator: TypeAlias = One | Sequence[One] | None
"""The source of random numbers, with one meaning wherever an argument is called `generator`.

An integer is a seed: every call with it draws the same numbers. A `torch.Generator` advances, so
that the next call draws other numbers. A sequence holds one of either per sample: `[7, 8]` gives
the first sample of `generator=7` and the first of `generator=8`, and its integers may also be keys
from `split_seed`, for other samples. Functions that draw all samples from one stream refuse
sequences. None, the default everywhere, is fresh entropy, and not reproducible. The global
generators of torch, numpy and Python are neither read nor changed.
"""


def _signed(word: int) -> int:
    """The int64 with the bits of a word below 2^64."""
    return word - (word >> 63 << 64)


WORD = (1 << 64) - 1

GAMMA, FIRST, LATTER = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""SplitMix64's increment, and the factors of its mixing function (Stafford's variant 13)."""

CHUNK, CHUNK_ELSEWHERE = 1 << 15, 1 << 24
"""Pairs that are drawn at once, per thread of a CPU (its cache) and on other devices."""


@dataclass(frozen=True)
class Noise:
    """Standard normal noise for a batch of states, of which any part can be drawn.

    Args:
        keys: one integer per sample, the seed plus 2^64 times the number of the sample under it;
            see `split_seed`.

    Example:
        >>> import torch
        >>> from pgmdiff.samplers import Noise
        >>> noise, whole = Noise.of(7, 4), torch.empty(4, 100)
        >>> part = Noise.of(7, 2)(0, whole[:2, 30:50], places=30)
        >>> torch.equal(part, noise(0, whole)[:2, 30:50])
        True
    """

    keys: tuple[int, ...]
    _words: dict[torch.device, Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        wrong = [key for key in self.keys if not 0 <= key < 1 << 128]
        if wrong:
            raise PgmdiffError(
                "Noise: expected seeds from 0 to 2^64 - 1, or keys from split_seed, got "
                f"{wrong[0]}."
            )

    def __repr__(self) -> str:
        return described(self, counted(len(self.keys), "sample"))

    @classmethod
    def of(cls, generator: Generator, n_samples: int) -> "Noise":
        """Noise for a batch, with keys from a `Generator`; a `torch.Generator` gives one seed.

        Raises:
            ShapeError: the sequence has another length than the batch.
            PgmdiffError: the generator is of another type, or a seed out of range.
        """
        if isinstance(generator, str) or not isinstance(generator, Sequence):
            return cls(split_seed(seed_of(generator, "Noise"), n_samples))
        if len(generator) != n_samples:
            raise ShapeError(
                f"Noise: expected one generator or {n_samples}, one per sample, got "
                f"{len(generator)}."
            )
        whole = int | np.integer
        each = (int(k) if isinstance(k, whole) else seed_of(k, "Noise") for k in generator)
        return cls(tuple(each))

    def __call__(self, number: int, like: Tensor, places: int | Tensor = 0) -> Tensor:
        """The noise of a draw, with the shape, dtype and device of a state or of a part of it.

        Args:
            number: the number of the draw, from 0 to 2^64 - 1.
            like: `[batch, *event]`, of which only shape, dtype and device are read.
            places: where the elements lie in the flattened state: the place of the first, if they
                are consecutive, or the place of each, int64 `[*event]`. Places are any int64, so
                that a state need not have an end.

        Raises:
            ShapeError: the state is not of floating point, has another batch, or places of another
                shape.
        """
        self._check(like, places)
        dtype = torch.promote_types(like.dtype, torch.float32)  # half precision is rounded to
        size = prod(like.shape[1:])
        if isinstance(places, Tensor):
            flat = places.reshape(-1).to(like.device)
            pairs = self._pairs(number, flat >> 1, dtype)
            noise = torch.where((flat & 1).bool(), pairs[..., 1], pairs[..., 0])
        else:
            first, odd = places >> 1, places & 1
            blocks = torch.arange((size + odd + 1) // 2, device=like.device).add_(first)
            pairs = self._pairs(number, blocks, dtype)
            noise = pairs.flatten(1)[:, odd : odd + size]
        return noise.reshape(like.shape).to(like.dtype)

    def uniform(self, number: int, like: Tensor) -> Tensor:
        """Uniform numbers in (0, 1): 52 bits in float64, 23 in float32, 10 and 7 in half precision.

        They are made of the same bits as the normal numbers of this draw: use one or the other.
        """
        self._check(like, 0)
        bits = -int(log2(torch.finfo(like.dtype).eps))  # so that every centre can be represented
        blocks = torch.arange(prod(like.shape[1:]), device=like.device)
        one, two = self._keys(number, like.device)
        z = _mixed(blocks * GAMMA + one[:, None], two[:, None])
        return _centred(_shifted(z, 64 - bits), bits, like.dtype).reshape(like.shape)

    def seeds(self, number: int) -> list[int]:
        """One seed per sample, from 0 to 2^63 - 1, for generators of other libraries."""
        one, two = self._keys(number, torch.device("cpu"))
        return [int(z) for z in _shifted(_mixed(one, two), 1)]

    def _check(self, like: Tensor, places: int | Tensor) -> None:
        if not like.is_floating_point():
            raise ShapeError(f"Noise: expected a floating-point state, got {like.dtype}.")
        if like.shape[:1] != (len(self.keys),):
            raise ShapeError(
                f"Noise: expected a batch of {len(self.keys)} samples, one per key, got a state of "
                f"{tuple(like.shape)}."
            )
        if isinstance(places, Tensor) and (
            places.dtype != torch.int64 or places.shape != like.shape[1:]
        ):
            raise ShapeError(
                f"Noise: expected places int64 {tuple(like.shape[1:])}, one per element of the "
                f"event, got {places.dtype} {tuple(places.shape)}."
            )

    def _keys(self, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """k_1 and k_2 of every sample, each `[batch]`."""
        if device not in self._words:
            low, high = ([k & WORD for k in self.keys], [k >> 64 for k in self.keys])
            seeds, samples = torch.from_numpy(np.array([low, high], np.uint64).view(np.int64))
            two = torch.tensor([[GAMMA], [FIRST]])
            self._words[device] = _mixed(_mixed(seeds + two) ^ samples).to(device)
        first, second = _mixed_word(number, GAMMA), _mixed_word(number, FIRST)
        return self._words[device][0] + first, self._words[device][1] ^ second

    def _pairs(self, number: int, blocks: Tensor, dtype: torch.dtype) -> Tensor:
        """The pairs of normal numbers at blocks `[n]`: `[batch, n, 2]`."""
        device = blocks.device
        (one, two), states = self._keys(number, device), blocks * GAMMA
        out = torch.empty(len(one), len(blocks), 2, dtype=dtype, device=device)
        if device.type == "cuda":
            from pgmdiff.noise_kernel import fill

            if fill is not None:
                fill(out, states, one, two)
                return out
        chunk = CHUNK * torch.get_num_threads() if device.type == "cpu" else CHUNK_ELSEWHERE
        columns = min(len(blocks), chunk) or 1
        rows = chunk // columns
        for i in range(0, len(one), rows):
            some = slice(i, i + rows)
            for j in range(0, len(blocks), columns):
                part = slice(j, j + columns)
                _fill(out[some, part], states[part], one[some], two[some])
        return out


def _shifted(z: Tensor, n: int) -> Tensor:
    """The logical shift z ⪢ n; that of int64 in PyTorch repeats the sign."""
    return (z >> n).bitwise_and_(WORD >> n)


def _mixed(z: Tensor, key: Tensor | None = None) -> Tensor:
    """SplitMix64's mixing function in place, with a word of a key added between its two rounds."""
    z.bitwise_xor_(_shifted(z, 30)).mul_(FIRST)
    if key is not None:
        z.bitwise_xor_(key)
    z.bitwise_xor_(_shifted(z, 27)).mul_(LATTER)
    return z.bitwise_xor_(_shifted(z, 31))


def _mixed_word(number: int, offset: int) -> int:
    """The same function of number + offset, for integers of Python."""
    z = number + offset & WORD
    z = (z ^ z >> 30) * FIRST & WORD
    z = (z ^ z >> 27) * LATTER & WORD
    return _signed(z ^ z >> 31)


def _centred(x: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Integers of so many bits as numbers in (0, 1): (x + 1/2) / 2^bits."""
    return x.to(dtype).add_(0.5).mul_(2.0**-bits)


def _fill(out: Tensor, states: Tensor, one: Tensor, two: Tensor) -> None:
    """Writes the pairs `[batch, n, 2]` of b · γ `[n]` under k_1 and k_2, `[batch]`."""
    one, two = one[:, None], two[:, None]
    if len(one) > len(states):  # the longer axis inside, which is faster
        out, states, one, two = out.transpose(0, 1), states[:, None], one.T, two.T
    z = _mixed(states + one, two)
    wide = widest(out.device)  # u near 1 requires it
    radius = _centred(_shifted(z, 24), 40, wide).log_().mul_(-2).to(out.dtype).sqrt_()
    angle = _centred(z.bitwise_and_((1 << 24) - 1), 24, out.dtype).mul_(2 * math.pi)
    torch.mul(radius, torch.cos(angle), out=out[..., 0])
    torch.mul(radius, angle.sin_(), out=out[..., 1])


def split_seed(seed: int, n: int) -> tuple[int, ...]:
    """The keys of the n samples under one seed; any part of them may be given as `generator`.

    The key of sample k is the seed plus 2^64 k, so that the seed itself is the key of the first.

    Args:
        seed: an integer from 0 to 2^64 - 1.
        n: number of samples.

    Raises:
        PgmdiffError: the seed is no integer, or out of range.

    Example:
        >>> from pgmdiff.samplers import split_seed
        >>> split_seed(7, 3)[:1], split_seed(7, 3)[1:] == split_seed(7, 4)[1:3]
        ((7,), True)
    """
    first = seed_in_range(seed, "Noise")
    return tuple(first + (sample << 64) for sample in range(n))


def seed_in_range(seed: int | np.integer[Any], who: str) -> int:
    """The seed, or an error in the name of `who` if it is no integer from 0 to 2^64 - 1."""
    whole = isinstance(seed, int | np.integer)
    if not (whole and 0 <= seed < 1 << 64):
        key = " Give keys from split_seed in a list, one per sample." if whole and seed > 0 else ""
        raise PgmdiffError(f"{who}: expected a seed from 0 to 2^64 - 1, got {seed}.{key}")
    return int(seed)


def torch_generator(generator: Generator, who: str) -> torch.Generator:
    """The stream of a function that draws all its samples from one `torch.Generator`.

    Args:
        generator: see `Generator`; a sequence is refused.
        who: name of the function, for the error.

    Raises:
        PgmdiffError: the generator is a sequence, of another type, or a seed out of range.
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
    return seed_in_range(generator, who)
