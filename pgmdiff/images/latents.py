r"""Decoding large latents window by window, without seams.

For the pixels of a window, a decoder of finite receptive field (convolutions, activations,
resampling) needs the latents within a margin around the window and no others: decoding the window
with its margin and cropping *is* decoding the whole, up to rounding, in bounded memory. On periodic
axes the margin wraps around, where decoding the whole would pad at the seam.

Group normalisation and attention, which the autoencoders of latent diffusion models have, see the
whole input: then no margin is exact, and `receptive_margin` raises an error. Decode the whole if it
fits (`window` as large as the latents, a margin on periodic axes only), or blend.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from pgmdiff.errors import ShapeError

__all__ = ["decode", "receptive_margin"]

Decoder = Callable[[Tensor], Tensor]
"""Maps latents `[batch, channels, height, width]` to images with sides `scale` times as long."""


@torch.no_grad()
def receptive_margin(
    decoder: Decoder, channels: int, *, size: int = 64, like: Tensor | None = None
) -> int:
    """The exact margin of a decoder: how far the pixels of one latent reach, in latents.

    One latent in the middle is NaN; how far NaN spreads is the receptive field, for any weights.

    Args:
        decoder: the decoder; see `Decoder`.
        channels: the number of channels of the latents.
        size: the side of the square that is tried, more than twice the result.
        like: a tensor with the dtype and device to use; None for float32 on the CPU.

    Raises:
        ShapeError: NaN reached the border: the receptive field is not finite (normalisation over
            the image, attention), or `size` is too small.
    """
    like = torch.zeros(()) if like is None else like
    latents = torch.zeros(1, channels, size, size, dtype=like.dtype, device=like.device)
    middle = size // 2
    latents[..., middle, middle] = torch.nan
    spoiled = decoder(latents).isnan().flatten(0, 1).any(dim=0)
    places = spoiled.nonzero() // (spoiled.shape[-1] // size)  # rows and columns, in latents
    reach = int((places - middle).abs().max())
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
    """Decodes latents window by window.

    This is exact, to rounding, if `margin` is at least the decoder's `receptive_margin`. With
    `blend` neighbouring windows are mixed linearly across twice the margin instead of being
    cropped: the result is continuous, but differs from decoding the whole.

    Args:
        decoder: the decoder; see `Decoder`. Its scale is found from its output.
        latents: the latents, `[batch, channels, height, width]`.
        window: the height and width of a window without its margin, in latents; or one number.
        margin: the margin in latents, on every side with latents, and all around on periodic axes.
        periodic: whether height and width are periodic.
        blend: whether windows are mixed instead of cropped.

    Returns:
        The images, `[batch, channels, scale · height, scale · width]`.

    Raises:
        ShapeError: the latents or a window are empty, the margin is negative or longer than a
            periodic axis, or the decoder does not scale both sides by one integer.

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
    total = weights = None
    for rows, columns in product(*_axes(latents, window, margin, periodic)):
        part = latents[:, :, rows.places(1, latents)][..., columns.places(1, latents)]
        image = decoder(part)
        scale = image.shape[-1] // part.shape[-1]
        if scale < 1 or tuple(image.shape[2:]) != tuple(scale * side for side in part.shape[2:]):
            raise ShapeError(
                "decode: expected a decoder that scales both sides by one whole number, got "
                f"{tuple(image.shape)} for latents of {tuple(part.shape)}. Pad its convolutions."
            )
        if total is None or weights is None:
            height, width = (scale * size for size in latents.shape[2:])
            total = image.new_zeros(*image.shape[:2], height, width)
            weights = image.new_zeros(height, width)
        down, across = (span.weights(scale, margin, blend, image) for span in (rows, columns))
        weight = down[:, None] * across
        to = rows.places(scale, image), columns.places(scale, image)
        _add(total, image * weight, *to)
        _add(weights, weight, *to)
    if total is None or weights is None:
        raise ShapeError(f"decode: expected latents with elements, got {tuple(latents.shape)}.")
    return total / weights


@dataclass(frozen=True)
class Span:
    """A window on one axis, from start to stop, decoded from low to high; all in latents."""

    start: int
    stop: int
    low: int
    high: int
    size: int

    def places(self, scale: int, like: Tensor) -> Tensor:
        """The places decoded, on an axis that is `scale` times as long and periodic."""
        places = torch.arange(scale * self.low, scale * self.high, device=like.device)
        return places % (scale * self.size)

    def weights(self, scale: int, margin: int, blend: bool, like: Tensor) -> Tensor:
        """1 on the window and 0 on its margins, or a line from 0 to 1 across twice the margin."""
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
    """The windows on both axes."""
    widths = (window, window) if isinstance(window, int) else tuple(window)
    floating = latents.is_floating_point()
    if latents.ndim != 4 or len(widths) != 2 or len(periodic) != 2 or not floating:
        raise ShapeError(
            "decode: expected floating-point latents [batch, channels, height, width], with window "
            f"and periodic for two axes, got {tuple(latents.shape)} of {latents.dtype}, {window} "
            f"and {periodic}."
        )
    if margin < 0 or min(widths) < 1:
        raise ShapeError(
            f"decode: expected a window of at least 1 and a margin of at least 0, got {widths} and "
            f"{margin}. Count them in latents."
        )
    axes = []
    for size, width, closed in zip(latents.shape[2:], widths, periodic, strict=True):
        if closed and margin > size:
            raise ShapeError(
                f"decode: the margin {margin} wraps around a periodic axis of {size} latents more "
                "than once. Decode the whole with a margin of at most its size."
            )
        spans = []
        for start in range(0, size, width):
            stop = min(start + width, size)
            low, high = start - margin, stop + margin
            if not closed:
                low, high = max(low, 0), min(high, size)
            spans.append(Span(start, stop, low, high, size))
        axes.append(spans)
    return axes


def _add(total: Tensor, part: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Adds a part to rows and columns of the whole, of which some may be named twice."""
    wide = part.new_zeros(*part.shape[:-1], total.shape[-1]).index_add_(-1, columns, part)
    total.index_add_(-2, rows, wide)
