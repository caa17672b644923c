"""Joints larger than one process, one machine or one memory."""

from pgmdiff.distributed.canvases import Streamed, stream
from pgmdiff.distributed.endless import Endless
from pgmdiff.distributed.halos import Slab
from pgmdiff.distributed.ranks import Ranks, SharedJoint, shared
from pgmdiff.errors import in_words

__all__ = ["Endless", "Ranks", "SharedJoint", "Slab", "Streamed", "shared", "stream"]

in_words(__name__)
