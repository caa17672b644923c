from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pgmdiff import ShapeError
from pgmdiff.images.latents import decode, receptive_margin


def decoder(circular: bool = False) -> nn.Module:
    """It doubles the sides twice, with a receptive field that no single layer shows."""
    mode = "circular" if circular else "zeros"
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(4, 6, 3, padding=1, padding_mode=mode),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(6, 6, 5, padding=2, padding_mode=mode),
            nn.SiLU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(6, 3, 3, padding=1, padding_mode=mode),
        )
        .double()
        .requires_grad_(False)
    )


LATENTS = torch.randn(2, 4, 9, 25, generator=torch.Generator().manual_seed(1)).double()
MARGIN = 3
"""The first convolution reaches 1 latent, the second 2 halves, the third 1 quarter."""


def test_the_margin_is_the_reach_of_the_convolutions() -> None:
    found = receptive_margin(decoder(), 4, size=16, like=LATENTS)
    assert found == MARGIN
    with pytest.raises(ShapeError, match="larger size"):
        receptive_margin(decoder(), 4, size=6, like=LATENTS)
    whole = nn.Sequential(decoder(), nn.GroupNorm(1, 3).double())
    with pytest.raises(ShapeError, match="normalises or attends"):
        receptive_margin(whole, 4, size=16, like=LATENTS)
    with pytest.raises(ShapeError, match="train mode"):
        receptive_margin(nn.Sequential(decoder(), nn.Dropout(0.1)), 4, size=16, like=LATENTS)


class Swallowing(nn.Module):
    """Its wide path turns NaN into 0; the narrow one keeps it, if there is one."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.narrow = nn.Conv2d(4, 4, 5, padding=2), nn.Conv2d(4, 4, 3, padding=1)
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        h = self.wide(x)
        return torch.where(h > 0, h, 0) + (self.narrow(x) if self.kept else 0)


@pytest.mark.parametrize(
    ("decoder", "margin"),
    [
        (Swallowing(True), 2),
        (Swallowing(False), 2),
        (nn.Upsample(scale_factor=2, mode="bicubic"), 2),
        (nn.Upsample(scale_factor=3, mode="bilinear"), 1),
        (nn.Conv2d(4, 3, 7, padding=3, padding_mode="reflect"), 3),
        (nn.MaxPool2d(3, 1, 1), 1),
        (nn.Conv2d(4, 3, 1), 0),
        (torch.ones_like, 0),
    ],
)
def test_the_margin_is_right_whatever_the_layers(
    decoder: Callable[[Tensor], Tensor], margin: int
) -> None:
    with torch.no_grad():
        assert receptive_margin(decoder, 4, size=20) == margin
        latents = LATENTS.float()
        for window in (1, 4, (9, 7)):
            found = decode(decoder, latents, window=window, margin=margin)
            assert (found - decoder(latents)).abs().max() < 1e-5


DOWN = nn.Conv2d(4, 4, 4, stride=2, padding=1)


@pytest.mark.parametrize(
    "decoder",
    [
        nn.Sequential(DOWN, nn.SiLU(), nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)),
        nn.Sequential(DOWN, DOWN, nn.Upsample(scale_factor=4, mode="bilinear")),
        nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Upsample(scale_factor=4)),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"),
        lambda z: z + torch.linspace(0, 1, z.shape[-1]),
        lambda z: z * z.shape[-1],
        lambda z: nn.functional.interpolate(z, 64),
        lambda z: z + DOWN(z).repeat_interleave(2, 2).repeat_interleave(2, 3),
    ],
)
def test_where_no_margin_is_right_none_is_returned(decoder: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ShapeError, match=r"but windows with this margin (differ|cannot)"):
        receptive_margin(decoder, 4, size=32)


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (nn.Conv2d(4, 3, 3), "one whole number.* Pad its convolutions"),
        (nn.Upsample(scale_factor=1.5), "one whole number"),
        (nn.Upsample(scale_factor=(2, 3)), "one whole number"),
        (lambda z: (z, z), "returns images .* got tuple. Return the images alone"),
        (lambda z: z[0], r"got \(4, \d+, \d+\)"),
    ],
)
def test_what_is_no_decoder_is_named(decoder: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ShapeError, match=f"receptive_margin: .*{message}"):
        receptive_margin(decoder, 4)
    with pytest.raises(ShapeError, match=f"decode: .*{message}"):
        decode(decoder, LATENTS.float(), window=5, margin=1)


def test_what_is_tried_has_elements_of_a_floating_point_dtype() -> None:
    for options in ({"size": 0}, {"like": torch.zeros(2, dtype=torch.int64)}):
        with pytest.raises(ShapeError, match="expected at least one channel, a size of at least 1"):
            receptive_margin(nn.Identity(), 4, **options)
    assert receptive_margin(nn.Identity(), 4, like=torch.zeros(1).bfloat16()) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("blend", [False, True])
def test_sums_of_images_in_half_precision_do_not_overflow(dtype: torch.dtype, blend: bool) -> None:
    latents = torch.full((1, 4, 9, 25), 30000, dtype=dtype)
    for periodic in ((False, False), (True, True)):
        options = {"window": 2, "margin": 6, "periodic": periodic, "blend": blend}
        image = decode(
            lambda z: z.repeat_interleave(2, 2).repeat_interleave(2, 3), latents, **options
        )
        assert image.dtype == dtype
        assert torch.equal(image, latents[:, :, :1, :1].expand(1, 4, 18, 50))


@pytest.mark.parametrize("window", [(9, 25), (4, 7), 5, (1, 1), np.int64(5)])
def test_windows_with_the_margin_are_exact(window: int | tuple[int, int]) -> None:
    whole = decoder()(LATENTS)
    found = decode(decoder(), LATENTS, window=window, margin=MARGIN)
    assert (found - whole).abs().max() < 1e-12
    single = decode(decoder().float(), LATENTS.float(), window=window, margin=MARGIN)
    assert (single - whole).abs().max() < 1e-6


def test_windows_with_less_are_not() -> None:
    whole = decoder()(LATENTS)
    error = (decode(decoder(), LATENTS, window=(9, 7), margin=MARGIN - 1) - whole).abs()
    seams = torch.zeros(100, dtype=torch.bool)
    for seam in (28, 56, 84):
        seams[seam - 4 : seam + 4] = True
    assert error[..., seams].max() > 1e-4
    assert error[..., ~seams].max() < 1e-12


@pytest.mark.parametrize("window", [(9, 25), (4, 7), (9, 30)])
@pytest.mark.parametrize("periodic", [(False, True), (True, True)])
def test_closed_axes_have_no_seam(window: tuple[int, int], periodic: tuple[bool, bool]) -> None:
    found = decode(decoder(), LATENTS, window=window, margin=MARGIN, periodic=periodic)
    rolled = LATENTS.roll(11, dims=3)
    again = decode(decoder(), rolled, window=window, margin=MARGIN, periodic=periodic)
    assert (again - found.roll(44, dims=3)).abs().max() < 1e-12
    if all(periodic):
        assert (found - decoder(circular=True)(LATENTS)).abs().max() < 1e-12
    zeros = decoder()(LATENTS)
    assert (found - zeros)[..., :4].abs().max() > 1e-3, "decoding the whole pads at the seam"


def test_blended_windows_are_a_partition_of_unity() -> None:
    for margin in (0, 1, 3):
        for periodic in ((False, False), (False, True)):
            same = decode(
                nn.Upsample(scale_factor=3),
                LATENTS,
                window=(4, 7),
                margin=margin,
                periodic=periodic,
                blend=True,
            )
            assert (same - nn.Upsample(scale_factor=3)(LATENTS)).abs().max() < 1e-12


def test_blending_is_continuous_where_cropping_is_not() -> None:
    """The decoder adds another constant to every window."""
    calls = []

    def biased(latents: Tensor) -> Tensor:
        calls.append(1)
        return nn.functional.interpolate(0 * latents, scale_factor=4.0) + len(calls) % 2

    cropped = decode(biased, LATENTS, window=(9, 8), margin=2)
    calls.clear()
    blended = decode(biased, LATENTS, window=(9, 8), margin=2, blend=True)
    assert (cropped[..., 1:] - cropped[..., :-1]).abs().max() == 1
    largest = (blended[..., 1:] - blended[..., :-1]).abs().max()
    assert largest.item() == pytest.approx(1 / 16), "a line across twice the margin"


def test_one_window_is_in_memory_at_a_time() -> None:
    seen = []
    model = decoder()

    def watched(latents: Tensor) -> Tensor:
        seen.append(tuple(latents.shape[2:]))
        return model(latents)

    decode(watched, LATENTS, window=(9, 5), margin=MARGIN)
    assert max(width for _, width in seen) == 5 + 2 * MARGIN
    assert len(seen) == 5


def test_bad_windows_are_named() -> None:
    identity = nn.Identity()
    for arguments, message in [
        ({"window": 0, "margin": 1}, "window of at least 1"),
        ({"window": 4, "margin": -1}, "margin of at least 0"),
        ({"window": (4,), "margin": 1}, "two axes"),
        ({"window": 4.5, "margin": 1}, r"whole numbers, got 4\.5 and 1"),
        ({"window": 4, "margin": 0.5}, r"whole numbers, got 4 and 0\.5"),
        ({"window": 4, "margin": 26, "periodic": (False, True)}, "wraps around"),
    ]:
        with pytest.raises(ShapeError, match=message):
            decode(identity, LATENTS, **arguments)
    with pytest.raises(ShapeError, match=r"floating-point latents .* torch\.int64"):
        decode(decoder(), LATENTS.long(), window=8, margin=MARGIN)
    with pytest.raises(ShapeError, match=r"latents \[batch, channels, height, width\]"):
        decode(identity, LATENTS[0], window=4, margin=1)
    with pytest.raises(ShapeError, match="one whole number"):
        decode(lambda z: z[..., 1:], LATENTS, window=4, margin=1)
    with pytest.raises(ShapeError, match="a decoder of one scale, got 8 and 1"):
        decode(
            lambda z: z.repeat_interleave(z.shape[3], 2).repeat_interleave(z.shape[3], 3),
            LATENTS,
            window=(9, 8),
            margin=0,
        )
