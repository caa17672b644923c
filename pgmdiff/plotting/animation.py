r"""Moving pictures: frames with captions as a GIF, and strips bent into rings.

A ring shows that the ends of a periodic strip meet. At radius r and angle θ, clockwise from the
top, it shows the strip's column θ/(2π) · width; the strip's first row is outside.
"""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import grid_sample

from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.plotting.style import INK, picture

__all__ = ["animate", "ring_image"]

SHADES = 64
"""Number of greys or colours: few enough for small files, enough for noise and textures."""
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
        frames: all `[H, W]`, or all `[C, H, W]` with C of 1 (grey) or 3 (colours). Values beyond
            [-1, 1] are clipped.
        path: path of the file, which must end in .gif.
        captions: one per frame, written below it.
        seconds: time per frame, in steps of 1/100.
        hold: time of the last frame, in seconds.
        scale: pixels of the file per pixel of a frame.

    Returns:
        The path.

    Raises:
        ShapeError: there are no frames; a frame is no image or differs in shape; or there is
            another number of captions.
        PgmdiffError: the path has another ending, a time is not positive, or the scale is below 1.

    Example:
        >>> import torch
        >>> from pgmdiff.plotting import animate, ring_image
        >>> rings = [ring_image(sigma * torch.randn(8, 64)) for sigma in (1.0, 0.1)]
        >>> animate(rings, "out/ring.gif", captions=["σ = 1", "σ = 0.1"])  # doctest: +SKIP
    """
    path = Path(path)
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
                f"animate: expected frames of one shape, got {list(frame.shape)} as number {number}"
                f" and {list(frames[0].shape)} as the first. Crop or resize them."
            )
    if len(captions) not in (0, len(frames)):
        raise ShapeError(
            f"animate: expected {len(frames)} captions, one per frame, got {len(captions)}."
        )
    if path.suffix.lower() != ".gif":
        raise PgmdiffError(f"animate: expected a path that ends in .gif, got {str(path)!r}.")
    if not min(seconds, hold) >= 0.01 or scale < 1:
        raise PgmdiffError(
            "animate: expected seconds and hold of at least 0.01 and a scale of at least 1, got "
            f"{seconds}, {hold} and {scale}."
        )
    texts = captions or [""] * len(frames)
    widest = math.ceil(max(map(_font().getlength, texts)))
    pages = [_page(f, text, widest, scale) for f, text in zip(frames, texts, strict=True)]
    times = [round(1000 * seconds)] * (len(pages) - 1) + [round(1000 * hold)]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=times, loop=0)
    return path


def ring_image(
    strip: Tensor, *, inner: float | None = None, scale: int = 4, ground: float = 1.0
) -> Tensor:
    """Bends a periodic strip into a ring, so that its ends meet. Pixels are interpolated.

    Args:
        strip: `[H, W]` or `[C, H, W]`, periodic along W.
        inner: radius of the hole in pixels of the strip. If None, it is W/2π - H/2, with which the
            middle row keeps its length.
        scale: pixels of the ring per pixel of the strip.
        ground: value around the ring.

    Returns:
        `[S, S]` or `[C, S, S]`, S = 2 ⌈scale (inner + H)⌉.

    Raises:
        ShapeError: the strip is no image, or too short to be bent around a hole.
        PgmdiffError: the scale is below 1.

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
    # centres of pixels are at halves; one more column closes the ring
    row, column = inner + height - radius - 0.5, (turn * width - 0.5) % width
    places = torch.stack([2 * column / width - 1, 2 * row / max(height - 1, 1) - 1], dim=-1)
    closed = torch.cat([strip, strip[..., :1]], dim=-1).reshape(1, -1, height, width + 1)
    bent = grid_sample(
        closed.cpu().double(), places[None], padding_mode="border", align_corners=True
    )
    bent = bent.to(strip).reshape(*strip.shape[:-2], side, side)
    edge = torch.minimum(radius - inner, inner + height - radius)  # positive within the ring
    share = (scale * edge + 0.5).clamp(0, 1).to(strip)
    return ground + share * (bent - ground)


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont("DejaVu Sans"), CAPTION)


def _page(frame: Tensor, caption: str, caption_width: int, scale: int) -> Image.Image:
    """Returns a frame as the GIF shows it, with its caption below; as wide as the widest."""
    pixels = picture(frame)
    if pixels.ndim == 2:
        pixels = np.round(pixels * (SHADES - 1)) / (SHADES - 1)
    shown = Image.fromarray(np.round(255 * pixels).astype(np.uint8))
    shown = shown.resize((scale * shown.width, scale * shown.height), Image.Resampling.NEAREST)
    below = 2 * CAPTION if caption else BORDER
    size = max(shown.width, caption_width) + 2 * BORDER, shown.height + BORDER + below
    page = Image.new(shown.mode, size, "white")
    page.paste(shown, ((page.width - shown.width) // 2, BORDER))
    if caption:
        place = page.width / 2, page.height - CAPTION
        ImageDraw.Draw(page).text(place, caption, font=_font(), fill=INK, anchor="mm")
    return page if page.mode == "L" else page.quantize(SHADES, dither=Image.Dither.NONE)
