"""Joints over the processes of torch.distributed: several devices, several machines."""

from pgmdiff.distributed.halos import Slab
from pgmdiff.distributed.ranks import Ranks, SharedJoint, shared
from pgmdiff.errors import in_words

__all__ = ["Ranks", "SharedJoint", "Slab", "shared"]

in_words(__name__)
