"""A small network for series of any length: residual convolutions of growing dilation."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pgmdiff.linalg import rows
from pgmdiff.models.unet import Conditional, ResidualBlock, zero

__all__ = ["SeriesNet"]


class SeriesNet(Conditional):
    """Residual convolutions over a series of any length, with dilations 1, 2, 4, ...

    It is called as `network(x, noise, label=, position=, field=)`, all conditions optional, for
    `[batch, channels, n]` or, of one channel, `[batch, n]` or `[batch]`; the field has an axis of
    channels. One set of weights evaluates windows and their overlaps.

    Args:
        channels: the number of channels of the series.
        width: the number of channels inside, a multiple of 8.
        depth: the number of blocks.
        features, conditions: see `UNet`.

    Raises:
        ShapeError: a width is no multiple of 8, x has another number of channels, or a condition
            is given that the network was not made for.
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 32,
        depth: int = 4,
        features: int = 32,
        **conditions: Any,
    ) -> None:
        super().__init__(channels, features, 1, [width], **conditions)
        self.enter = nn.Conv1d(self.channels_in, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, width, features, 1, dilation=2**level) for level in range(depth)
        )
        self.leave = nn.Conv1d(width, channels, 1)
        zero(self.leave)

    def forward(self, x: Tensor, noise: Tensor, **condition: Tensor | None) -> Tensor:
        series = rows(x)[:, None] if x.ndim < 3 and self.channels == 1 else x
        hidden, embedding = self.entered(series, noise, **condition)
        hidden = self.enter(hidden)
        for block in self.blocks:
            hidden = block(hidden, embedding)
        out: Tensor = self.leave(F.silu(hidden)).reshape(x.shape)
        return out
