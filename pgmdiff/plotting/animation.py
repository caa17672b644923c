r"""Moving pictures: frames with captions as a GIF, and strips bent into rings.

A ring shows that the ends of a periodic strip meet. Its place at radius r and angle θ, clockwise
from the top, shows the strip's column θ/(2π) · width and its row, the first one outside.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.plotting.ink import INK

__all__ = ["animate", "ring_image"]

SHADES = 64
"""Of grey, or colours: few enough for small files, enough for noise and textures."""
CAPTION = 16
"""Font size of captions, in pixels."""
BORDER = 8
"""White pixels around a frame."""


def animate(
    frames: Sequence[Tensor],
    path: str | Path,
    *,
    captions: Sequence[str] = (),
    seconds: float = 0.15,
    hold: float = 2.0,
    scale: int = 1,
) -> Path:
    """Writes frames as a GIF that loops and rests on its last frame.

    Each frame has 64 shades of grey, or the 64 colours that suit it best.

    Args:
        frames: all `[H, W]`, or all `[C, H, W]` with C of 1 (grey) or 3 (colours); values in
            [-1, 1], others are shown clipped.
        path: of the file, ending in .gif.
        captions: one a frame, written below it.
        seconds: each frame is shown, in steps of 1/100.
        hold: seconds that the last frame is shown.
        scale: pixels of the file a pixel of a frame.

    Returns:
        The path.

    Raises:
        ShapeError: no frames, frames that are no images or differ in shape, or captions that are
            not as many.
        PgmdiffError: another ending, times that are not positive, or a scale below 1.

    Example:
        >>> import torch
        >>> from pgmdiff.plotting import animate, ring_image
        >>> rings = [ring_image(sigma * torch.randn(8, 64)) for sigma in (1.0, 0.1)]
        >>> animate(rings, "out/ring.gif", captions=["σ = 1", "σ = 0.1"])  # doctest: +SKIP
    """
    path = Path(path)
    _check(frames, path, captions, (seconds, hold), scale)
    texts = captions or [""] * len(frames)
    widest = math.ceil(max(map(_font().getlength, texts), default=0.0))
    pages = [_page(f, text, widest, scale) for f, text in zip(frames, texts, strict=True)]
    times = [round(1000 * seconds)] * (len(pages) - 1) + [round(1000 * hold)]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=times, loop=0)
    return path


def ring_image(
    strip: Tensor, *, inner: float | None = None, scale: int = 4, ground: float = 1.0
) -> Tensor:
    """A periodic strip bent into a ring, so that its ends meet. Pixels are interpolated.

    Args:
        strip: `[H, W]` or `[C, H, W]`, periodic along W.
        inner: radius of the hole in pixels of the strip; None: W/2π - H/2, with which the middle
            row keeps its length.
        scale: pixels of the ring a pixel of the strip.
        ground: value around the ring.

    Returns:
        `[S, S]` or `[C, S, S]`, S = 2 ⌈scale (inner + H)⌉.

    Raises:
        ShapeError: the strip is no image, or too short to be bent around a hole.
        PgmdiffError: a scale below 1.

    Example:
        >>> import torch
        >>> from pgmdiff.plotting import ring_image
        >>> ring_image(torch.zeros(16, 160)).shape
        torch.Size([268, 268])
    """
    if strip.ndim not in (2, 3) or not strip.numel() or not strip.is_floating_point():
        raise ShapeError(
            f"ring_image: expected a floating-point strip [H, W] or [C, H, W], got "
            f"{list(strip.shape)} of {strip.dtype}. Take one sample of a batch."
        )
    if scale < 1:
        raise PgmdiffError(f"ring_image: expected a scale of at least 1, got {scale}.")
    height, width = strip.shape[-2:]
    inner = width / (2 * math.pi) - height / 2 if inner is None else inner
    if not inner >= 0:
        raise ShapeError(
            f"ring_image: a strip of {height} × {width} would have a hole of radius {inner:.3g}. "
            "Give inner= of at least 0, or a strip longer than π times its height."
        )
    side = 2 * math.ceil(scale * (inner + height))
    axis = (torch.arange(side, dtype=torch.float64) + 0.5 - side / 2) / scale
    radius = torch.hypot(axis[:, None], axis)
    turn = torch.atan2(axis.expand(side, side), -axis[:, None].expand(side, side)) / (2 * math.pi)
    bent = _interpolated(strip, inner + height - radius, turn * width)
    edge = torch.minimum(radius - inner, inner + height - radius)  # within the ring: positive
    share = (scale * edge + 0.5).clamp(0, 1).to(strip)
    return ground + share * (bent - ground)


def _interpolated(strip: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Values at places, linearly between the centres of pixels; columns go around."""
    height, width = strip.shape[-2:]
    row, column = (down - 0.5).clamp(0, height - 1), right - 0.5
    top, left = row.floor().long(), column.floor().long()
    lower, later = (row - top).to(strip), (column - left).to(strip)
    bottom = (top + 1).clamp(max=height - 1)
    left, end = left % width, (left + 1) % width
    above = strip[..., top, left] * (1 - later) + strip[..., top, end] * later
    below = strip[..., bottom, left] * (1 - later) + strip[..., bottom, end] * later
    return above * (1 - lower) + below * lower


def _check(
    frames: Sequence[Tensor],
    path: Path,
    captions: Sequence[str],
    times: tuple[float, float],
    scale: int,
) -> None:
    if not len(frames):
        raise ShapeError("animate: expected at least one frame, got none.")
    for number, frame in enumerate(frames):
        colours = frame.ndim == 2 or (frame.ndim == 3 and len(frame) in (1, 3))
        if not colours or not frame.numel():
            raise ShapeError(
                f"animate: expected frames [H, W], [1, H, W] or [3, H, W], got {list(frame.shape)} "
                f"as number {number}. Take one sample of a batch."
            )
        if frame.shape != frames[0].shape:
            raise ShapeError(
                f"animate: frame {number} is {list(frame.shape)} and the first one "
                f"{list(frames[0].shape)}. Give frames of one shape."
            )
    if len(captions) not in (0, len(frames)):
        raise ShapeError(
            f"animate: expected {len(frames)} captions, one a frame, got {len(captions)}."
        )
    if path.suffix.lower() != ".gif":
        raise PgmdiffError(f"animate: expected a path that ends in .gif, got {str(path)!r}.")
    if not min(times) >= 0.01 or scale < 1:
        raise PgmdiffError(
            "animate: expected seconds and hold of at least 0.01 and a scale of at least 1, got "
            f"{times[0]}, {times[1]} and {scale}."
        )


def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont("DejaVu Sans"), CAPTION)


def _page(frame: Tensor, caption: str, caption_width: int, scale: int) -> Image.Image:
    """A frame as the GIF has it, with its caption below; as wide as the longest of captions."""
    shown = Image.fromarray(_bytes(frame))
    shown = shown.resize((scale * shown.width, scale * shown.height), Image.Resampling.NEAREST)
    below = 2 * CAPTION if caption else BORDER
    size = max(shown.width, caption_width) + 2 * BORDER, shown.height + BORDER + below
    page = Image.new(shown.mode, size, "white")
    page.paste(shown, ((page.width - shown.width) // 2, BORDER))
    if caption:
        place = page.width / 2, page.height - CAPTION
        ImageDraw.Draw(page).text(place, caption, font=_font(), fill=INK, anchor="mm")
    if page.mode == "L":
        return page
    return page.quantize(SHADES, dither=Image.Dither.NONE)


def _bytes(frame: Tensor) -> npt.NDArray[np.uint8]:
    """`[H, W]` or `[H, W, 3]` from 0 to 255; greys in `SHADES` steps."""
    pixels = (frame.detach().cpu().double().clamp(-1, 1).numpy() + 1) / 2
    if pixels.ndim == 3 and len(pixels) == 1:
        pixels = pixels[0]
    if pixels.ndim == 2:
        pixels = np.round(pixels * (SHADES - 1)) / (SHADES - 1)
    else:
        pixels = np.moveaxis(pixels, 0, -1)
    return np.round(255 * pixels).astype(np.uint8)
