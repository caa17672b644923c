"""Whether samples are copies: their distance from the nearest real crop."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["eight_ways", "nearest"]

CORNER = 4


def nearest(
    patches: Tensor, pictures: Sequence[Tensor], *, apart: bool = False
) -> tuple[float, float]:
    """The smallest and the mean distance of patches from their nearest crop of pictures.

    A distance is the root mean square difference of values; crops at all places are compared.

    Args:
        patches: `[n, channels, height, width]`.
        pictures: `[channels, ...]`, of any sizes.
        apart: whether crops that overlap the patch, mirrored or turned, are left out. They are
            known by their values: one of two crops that overlap holds a corner of the other.
    """
    height, width = patches.shape[2:]
    best = torch.full((len(patches),), torch.inf)
    for picture in pictures:
        squares = F.conv2d(picture[None] ** 2, torch.ones_like(patches[:1]))[0]
        across = F.conv2d(picture[None], patches)[0]
        distances = squares - 2 * across + patches.square().sum(dim=(1, 2, 3))[:, None, None]
        for patch, own in zip(patches, distances if apart else (), strict=False):
            for top, left in _origins(patch, picture):
                rows = slice(max(0, top - height + 1), max(0, top + height))
                own[rows, max(0, left - width + 1) : max(0, left + width)] = torch.inf
        best = best.minimum(distances.flatten(1).amin(dim=1))
    found = (best.clamp(min=0) / patches[0].numel()).sqrt()
    return found.min().item(), found.mean().item()


def eight_ways(picture: Tensor) -> list[Tensor]:
    """A picture `[channels, rows, columns]`, turned by four right angles, and mirrored too."""
    both = picture, picture.flip(2)
    return [one.rot90(k, (1, 2)).contiguous() for one in both for k in range(4)]


def _origins(patch: Tensor, picture: Tensor) -> Iterator[list[int]]:
    """Where in the picture a patch, mirrored or turned, begins of which a corner is there."""
    blocks = picture.unfold(1, CORNER, 1).unfold(2, CORNER, 1)  # [channels, rows, columns, ...]
    ways = eight_ways(patch)
    for each in ways if patch.shape[1] == patch.shape[2] else ways[::2]:
        for top in (0, each.shape[1] - CORNER):
            for left in (0, each.shape[2] - CORNER):
                corner = each[:, top : top + CORNER, left : left + CORNER]
                places = (blocks[..., 0, 0] == corner[:, :1, :1]).all(dim=0).nonzero()
                found = blocks[:, places[:, 0], places[:, 1]]
                same = (found == corner[:, None]).flatten(2).all(dim=2).all(dim=0)
                yield from (places[same] - torch.tensor([top, left])).tolist()
