r"""Decoding large latents window by window, without seams.

For the pixels of a window, a decoder of finite receptive field (convolutions, activations,
resampling) needs the latents within a margin around the window and no others: decoding the window
with its margin and cropping *is* decoding the whole, up to rounding, in bounded memory. On periodic
axes the margin wraps around, where decoding the whole would pad at the seam.

Group normalisation and attention, which the autoencoders of latent diffusion models have, see the
whole input: then no margin is exact, and `receptive_margin` raises an error. Decode the whole if it
fits (`window` as large as the latents, a margin on periodic axes only), or blend.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from numbers import Integral
from typing import Any

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

    One latent in the middle is changed, and then NaN; how far either spreads is the receptive
    field. Windows of random latents are decoded with this margin and compared with the whole, up to
    4 √ε of its spread with the machine's ε, since no margin is right where the decoder depends on
    the place or the size.

    Args:
        decoder: the decoder; see `Decoder`.
        channels: the number of channels of the latents.
        size: the side of the square that is tried: more than twice the result, and at least 8 more.
        like: a tensor with the dtype and device to use; None for float32 on the CPU.

    Raises:
        ShapeError: the receptive field is not finite (normalisation over the image, attention), or
            `size` is too small; windows differ from the whole; or the decoder does not scale both
            sides by one integer.
    """
    like = torch.zeros(()) if like is None else like
    if channels < 1 or size < 1 or not like.is_floating_point():
        raise ShapeError(
            "receptive_margin: expected at least one channel, a size of at least 1 and like= of a "
            f"floating-point dtype, got {channels}, {size} and {like.dtype}. Leave out size= and "
            "like= for 64 and float32."
        )
    noise = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    latents, other = noise.to(like).split(1)
    whole = decoder(latents)
    scale = _scale("receptive_margin", whole, latents)
    eps = max(torch.finfo(x.dtype).eps for x in (latents, whole) if x.is_floating_point())
    whole = whole.to(torch.promote_types(whole.dtype, torch.float32))
    spread = (whole - whole.mean()).abs().max()
    middle, reach = size // 2, 0
    for change in (8 * other[..., middle, middle], torch.nan):
        changed = latents.clone()
        changed[..., middle, middle] = change
        image = decoder(changed)
        spoiled = image.isnan() | ((image - whole).abs() > 64 * eps * spread)
        places = spoiled.flatten(0, 1).any(dim=0).nonzero() // scale  # rows, columns, in latents
        reach = max(reach, *(places - middle).abs().flatten().tolist(), 0)
        if reach >= size // 2 - 1 or reach + 8 > size:
            raise ShapeError(
                f"receptive_margin: one of {size} × {size} latents changes the border too. If the "
                "decoder normalises or attends over the whole image, decode the whole, or use "
                "decode(..., blend=True); if it is in train mode, call eval(); if it is neither, "
                "try a larger size=."
            )
    cause: Exception | None = None
    found = "cannot be decoded"
    try:  # the second window begins at 7, which is no multiple of a stride
        error = (decode(decoder, latents, window=reach + 7, margin=reach) - whole).abs().max()
        if error <= 4 * eps**0.5 * spread:
            return reach
        found = f"differ from the whole by {error / spread:.2g} of its largest deviation"
    except (RuntimeError, ShapeError) as raised:  # of a decoder that accepts only some sizes
        cause = raised
    raise ShapeError(
        f"receptive_margin: one latent reaches {reach}, but windows with this margin {found}. The "
        "decoder depends on the size or the place, as by strides before upsampling, align_corners, "
        "circular padding (padded with zeros it has the margin that is right on periodic axes), "
        "positions, or train mode. Decode the whole, or use decode(..., blend=True)."
    ) from cause


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
    cropped: the result is continuous, but differs from decoding the whole. Images in half precision
    are summed in float32.

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
    total = weights = image = None
    for rows, columns in product(*_axes(latents, window, margin, periodic)):
        part = latents[:, :, rows.places(1, latents)][..., columns.places(1, latents)]
        image = decoder(part)
        scale = _scale("decode", image, part)
        if total is None or weights is None:
            height, width = sides = [scale * size for size in latents.shape[2:]]
            dtype = torch.promote_types(image.dtype, torch.float32)
            total = image.new_zeros(*image.shape[:2], height, width, dtype=dtype)
            weights = image.new_zeros(height, width, dtype=dtype)
        if sides != [scale * size for size in latents.shape[2:]]:
            raise ShapeError(
                f"decode: expected a decoder of one scale, got {sides[0] // latents.shape[2]} and "
                f"{scale}. Make its output as large as its input demands."
            )
        down, across = (span.weights(scale, margin, blend, total) for span in (rows, columns))
        weight = down[:, None] * across
        to = rows.places(scale, image), columns.places(scale, image)
        _add(total, image * weight, *to)
        _add(weights, weight, *to)
    if total is None or weights is None or image is None:
        raise ShapeError(f"decode: expected latents with elements, got {tuple(latents.shape)}.")
    return (total / weights).to(image.dtype if image.is_floating_point() else total.dtype)


def _scale(who: str, image: Any, latents: Tensor) -> int:
    """How many times as long as its latents the sides of an image are."""
    if not isinstance(image, Tensor) or image.ndim != 4:
        raise ShapeError(
            f"{who}: expected a decoder that returns images [batch, channels, height, width], got "
            f"{tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__}. Return "
            "the images alone."
        )
    scale = image.shape[-1] // latents.shape[-1]
    if scale < 1 or tuple(image.shape[2:]) != tuple(scale * side for side in latents.shape[2:]):
        raise ShapeError(
            f"{who}: expected a decoder that scales both sides by one whole number, got "
            f"{tuple(image.shape)} for latents of {tuple(latents.shape)}. Pad its convolutions."
        )
    return scale


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
    widths = tuple(window) if isinstance(window, Iterable) else (window, window)
    floating = latents.is_floating_point()
    if latents.ndim != 4 or len(widths) != 2 or len(periodic) != 2 or not floating:
        raise ShapeError(
            "decode: expected floating-point latents [batch, channels, height, width], with window "
            f"and periodic for two axes, got {tuple(latents.shape)} of {latents.dtype}, {window} "
            f"and {periodic}."
        )
    whole = all(isinstance(each, Integral) for each in (*widths, margin))
    if not whole or margin < 0 or min(widths) < 1:
        raise ShapeError(
            "decode: expected a window of at least 1 and a margin of at least 0, whole numbers, "
            f"got {window} and {margin}. Count them in latents."
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
