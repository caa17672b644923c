"""The noise of `pgmdiff.noise` in one kernel for GPUs, which reads little but keys.

It is written in Triton, which PyTorch for CUDA brings along. Its 64 bits are those of `noise`, and
what is made of them differs by a few units in the last place. Plain PyTorch makes the same noise in
some forty passes over memory.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["fill"]

BLOCK = 512
"""Pairs of one program."""
fill: Callable[[Tensor, Tensor, Tensor, Tensor], None] | None = None
"""Writes the pairs `[batch, n, 2]` of b · γ `[n]` under k_1 and k_2, `[batch]`; None without
Triton."""

try:
    import triton
    import triton.language as tl
except ImportError:
    pass
else:
    FIRST, LATTER = tl.constexpr(0xBF58476D1CE4E5B9), tl.constexpr(0x94D049BB133111EB)
    LAST40, LAST24 = tl.constexpr(2.0**-40), tl.constexpr(2.0**-24)
    TURN = tl.constexpr(2 * math.pi)

    @triton.jit  # type: ignore[untyped-decorator]
    def _pairs(  # type: ignore[no-untyped-def]
        out, states, one, two, n, total, wide: tl.constexpr, block: tl.constexpr
    ):
        at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        inside, row = at < total, at // n
        z = tl.load(states + at % n, inside, 0) + tl.load(one + row, inside, 0)
        z = z.to(tl.uint64, bitcast=True)
        z = (z ^ (z >> 30)) * FIRST ^ tl.load(two + row, inside, 0).to(tl.uint64, bitcast=True)
        z = (z ^ (z >> 27)) * LATTER
        z = z ^ (z >> 31)
        square = -2 * tl.log(((z >> 24).to(tl.float64) + 0.5) * LAST40)
        part = (z & 0xFFFFFF).to(tl.int32)
        if wide:
            radius, angle = tl.sqrt(square), (part.to(tl.float64) + 0.5) * LAST24 * TURN
        else:
            radius = tl.sqrt_rn(square.to(tl.float32))
            angle = (part.to(tl.float32) + 0.5) * LAST24 * TURN
        tl.store(out + 2 * at, radius * tl.cos(angle), inside)
        tl.store(out + 2 * at + 1, radius * tl.sin(angle), inside)

    def _fill(out: Tensor, states: Tensor, one: Tensor, two: Tensor) -> None:
        n, total = len(states), len(one) * len(states)
        if total:
            wide, programs = out.dtype == torch.float64, triton.cdiv(total, BLOCK)
            with torch.cuda.device_of(out):
                _pairs[(programs,)](out, states, one, two, n, total, wide, BLOCK)

    fill = _fill
