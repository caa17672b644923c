r"""Decoding large latents without seams.

A decoder of finite receptive field (convolutions, activations, resampling) needs, for the pixels
of a window, the latents within a margin around it and no others: decoding window and margin and
cropping to the window *is* decoding the whole, up to rounding, in bounded memory. On periodic axes
the margin wraps around, where decoding the whole would pad at the seam.

Group normalisation and attention see the whole input (autoencoders of latent diffusion models have
both): then no margin is exact, and `receptive_margin` says so. Decode the whole if it fits (with
`window` as large as the latents and a margin on periodic axes only), or blend.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from pgmdiff.errors import ShapeError

__all__ = ["decode", "receptive_margin"]

Decoder = Callable[[Tensor], Tensor]
"""Latents `[batch, channels, height, width]` to images, each side `scale` times as long."""


@torch.no_grad()
def receptive_margin(
    decoder: Decoder, channels: int, *, size: int = 64, like: Tensor | None = None
) -> int:
    """How far, in latents, what a decoder makes of a latent reaches: the margin that is exact.

    One latent in the middle is NaN; how far NaN spreads is the receptive field, of any weights.

    Args:
        decoder: see `Decoder`.
        channels: of the latents.
        size: side of the square that is tried; must exceed twice the answer.
        like: whose dtype and device to use; None: float32 on the CPU.

    Raises:
        ShapeError: NaN reached the border: there is no finite receptive field (normalisation over
            the image, attention), or `size` is too small.
    """
    like = torch.zeros(()) if like is None else like
    latents = torch.zeros(1, channels, size, size, dtype=like.dtype, device=like.device)
    middle = size // 2
    latents[..., middle, middle] = torch.nan
    spoiled = decoder(latents).isnan().flatten(0, 1).any(dim=0)
    scale = spoiled.shape[-1] // size
    rows, columns = (spoiled.any(dim=d).nonzero()[:, 0] // scale for d in (1, 0))
    reach = max(
        max(middle - int(places.min()), int(places.max()) - middle) for places in (rows, columns)
    )
    if reach >= size // 2 - 1:
        raise ShapeError(
            f"receptive_margin: one of {size} × {size} latents changes the border too. If the "
            "decoder normalises or attends over the whole image, decode the whole, or use "
            "decode(..., blend=True); if it does not, try a larger size=."
        )
    return reach


@torch.no_grad()
def decode(
    decoder: Decoder,
    latents: Tensor,
    *,
    window: int | Sequence[int],
    margin: int,
    periodic: Sequence[bool] = (False, False),
    blend: bool = False,
) -> Tensor:
    """Decodes window by window.

    Exact, to rounding, where `margin` is at least the decoder's `receptive_margin`. With `blend`
    neighbouring windows are mixed linearly across twice the margin instead of being cropped:
    continuous, but not what decoding the whole gives.

    Args:
        decoder: see `Decoder`; its scale is found from what it returns.
        latents: `[batch, channels, height, width]`.
        window: height and width of a window without its margin, in latents; or one number for both.
        margin: in latents, on every side where there are latents, and on periodic axes everywhere.
        periodic: whether height and width are closed.
        blend: see above.

    Returns:
        Images `[batch, channels, scale · height, scale · width]`.

    Raises:
        ShapeError: an empty window, a negative margin or one longer than a periodic axis, or a
            decoder that does not scale both sides by one whole number.

    Example:
        >>> import torch
        >>> from pgmdiff.images.latents import decode, receptive_margin
        >>> decoder = torch.nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)
        >>> margin = receptive_margin(decoder, 4)
        >>> latents = torch.randn(1, 4, 8, 40)
        >>> image = decode(decoder, latents, window=(8, 10), margin=margin)
        >>> bool((image - decoder(latents)).abs().max() < 1e-6)
        True
    """
    axes = _axes(latents, window, margin, periodic)
    total = weights = None
    for rows, columns in product(*axes):
        part = latents[:, :, rows.latents(latents)][..., columns.latents(latents)]
        image = decoder(part)
        scale = _scale(image, part)
        if total is None or weights is None:
            height, width = (scale * size for size in latents.shape[2:])
            total = image.new_zeros(*image.shape[:2], height, width)
            weights = image.new_zeros(height, width)
        down, across = (span.weights(scale, margin, blend, image) for span in (rows, columns))
        weight = down[:, None] * across
        to = rows.pixels(scale, image), columns.pixels(scale, image)
        _add(total, image * weight, *to)
        _add(weights, weight, *to)
    if total is None or weights is None:
        raise ShapeError(f"decode: nothing to decode in latents of {tuple(latents.shape)}.")
    return total / weights


@dataclass(frozen=True)
class Span:
    """A window on one axis, from start to stop, decoded from low to high; all in latents."""

    start: int
    stop: int
    low: int
    high: int
    size: int

    def latents(self, like: Tensor) -> Tensor:
        return torch.arange(self.low, self.high, device=like.device) % self.size

    def pixels(self, scale: int, like: Tensor) -> Tensor:
        places = torch.arange(scale * self.low, scale * self.high, device=like.device)
        return places % (scale * self.size)

    def weights(self, scale: int, margin: int, blend: bool, like: Tensor) -> Tensor:
        """1 on the window and 0 on its margins; or a line from 0 to 1 across twice the margin."""
        place = torch.arange(scale * self.low, scale * self.high, device=like.device) + 0.5
        if not blend or margin == 0:
            inside = (place > scale * self.start) & (place < scale * self.stop)
            return inside.to(like.dtype)
        slope = 1 / (2 * margin * scale)
        ones = torch.ones_like(place)
        up = (place - scale * (self.start - margin)) * slope if self.low < self.start else ones
        down = (scale * (self.stop + margin) - place) * slope if self.high > self.stop else ones
        return torch.minimum(up, down).clamp(0, 1).to(like.dtype)


def _axes(
    latents: Tensor, window: int | Sequence[int], margin: int, periodic: Sequence[bool]
) -> list[list[Span]]:
    if latents.ndim != 4:
        raise ShapeError(f"decode: expected latents [batch, c, h, w], got {tuple(latents.shape)}.")
    sizes = tuple(latents.shape[2:])
    windows = (window, window) if isinstance(window, int) else tuple(window)
    if len(windows) != 2 or len(periodic) != 2:
        raise ShapeError(f"decode: expected two axes, got window={window}, periodic={periodic}.")
    if margin < 0 or min(windows) < 1:
        raise ShapeError(
            f"decode: expected a window of at least 1 and a margin of at least 0, got {windows} "
            f"and {margin}."
        )
    if any(margin > size for size, closed in zip(sizes, periodic, strict=True) if closed):
        raise ShapeError(f"decode: the margin {margin} wraps around latents of {sizes} twice.")
    axes = zip(sizes, windows, periodic, strict=True)
    return [list(_spans(size, width, closed, margin)) for size, width, closed in axes]


def _spans(size: int, width: int, closed: bool, margin: int) -> Iterator[Span]:
    for start in range(0, size, width):
        stop = min(start + width, size)
        low, high = start - margin, stop + margin
        yield Span(
            start, stop, low if closed else max(low, 0), high if closed else min(high, size), size
        )


def _scale(image: Tensor, part: Tensor) -> int:
    """How many times as long the sides of an image are as those of its latents."""
    scale = image.shape[-1] // part.shape[-1]
    if tuple(image.shape[2:]) != tuple(scale * side for side in part.shape[2:]) or scale < 1:
        raise ShapeError(
            f"decode: expected a decoder that scales both sides by one whole number, got "
            f"{tuple(image.shape)} for latents of {tuple(part.shape)}."
        )
    return scale


def _add(total: Tensor, part: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Adds a part to the rows and columns of the whole, which may name a place twice."""
    wide = part.new_zeros(*part.shape[:-1], total.shape[-1]).index_add_(-1, columns, part)
    total.index_add_(-2, rows, wide)
