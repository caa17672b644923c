"""Fields: conditions over the whole state, cropped to each region when its model is called.

A state of event shape E has fields of shape `[*batch, *channels, *F]`: F is E, and channels, if
there are any, lie before it. On an axis that all regions span, F may have another length: the
field has channels of its own there. Region r sees `[*channels, *shape of r]`, with

    crop_r = f[..., A_r]      the elements of the region, in its own order and orientation,

in which the spanned axis has the field's length. One field is stored once, however many regions
see it, and indexed like the state.
"""

from dataclasses import dataclass
from dataclasses import field as attribute
from math import prod

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from pgmdiff.errors import ShapeError, shape_text
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.linalg import Shape, ordinary
from pgmdiff.text import array, described

__all__ = ["Field", "FlatField", "field"]


@dataclass(frozen=True, eq=False)
class Field:
    """A condition over the whole state, made by `field`; functions of pytrees see its tensor.

    Attributes:
        values: `[*batch, *channels, *F]`.
    """

    values: Tensor

    def __repr__(self) -> str:
        return described(self, array(self.values) if isinstance(self.values, Tensor) else "")


register_pytree_node(Field, lambda f: ([f.values], None), lambda leaves, _: Field(*leaves))


def field(values: Tensor) -> Field:
    """A condition over the whole state, of which each region's model sees its own part.

    Low-resolution maps, segmentations, hints, masks and positions are fields. Give one as a keyword
    of the joint's call (batch first), or to `compose` (without a batch axis) in `conditions=`, by
    keyword for all nodes or within a node's conditions, or in `null_condition=`. It is also seen
    through guidance, adapters, `functools.partial` and conditioned scores around a joint.

    The model of a region of shape S receives `[rows, *channels, *S]`, in the order and orientation
    of the region's own elements; gradients reach the field. Floating-point fields get the state's
    dtype, others (labels, masks) keep theirs; all get its device. The state is always that of the
    joint, also in conditions of nodes of nested graphs.

    Args:
        values: `[*batch, *channels, *F]`, where F is the state's event shape. On an axis that
            all regions span, such as the channels of image tiles, F may have any other length,
            which the crops have in its place.

    Raises:
        ShapeError: it is no tensor. A shape that does not fit is an error of `compose`, or of the
            joint's call.

    Example:
        >>> import torch
        >>> from pgmdiff import compose, field, tiles
        >>> strip = tiles((3, 8, 20), window=(3, 8, 8), overlap=(0, 0, 4))
        >>> def score(x, sigma, grey):  # the network, which sees grey [rows, 1, 8, width]
        ...     return (grey - x) / (1 + sigma[:, None, None, None] ** 2)
        >>> u, maps = torch.zeros(2, 3, 8, 20), torch.ones(2, 1, 8, 20)
        >>> compose(strip, score)(u, 1.0, grey=field(maps)).unique()
        tensor([0.5000])
    """
    if not isinstance(values, Tensor):
        raise ShapeError(
            f"field: expected a tensor over the whole state, got {type(values).__name__}. Convert "
            "it with torch.as_tensor."
        )
    return Field(values)


@dataclass(frozen=True, eq=False)
class FlatField:
    """A field over the flattened state.

    Attributes:
        who: whose field it is, for errors.
        values: `[B or 1, channels, prod(shape)]`.
        channels: shape of the channels before the state's axes.
        shape: F.
        event: E.
    """

    who: str
    values: Tensor
    channels: Shape
    shape: Shape
    event: Shape
    _moved: dict[torch.device, Tensor] = attribute(default_factory=dict, repr=False)

    @classmethod
    def of(cls, who: str, given: Field, event: Shape, batch: Shape | None = None) -> "FlatField":
        """A field given per sample, of a batch of states, or for all states if the batch is None.

        Raises:
            ShapeError: it has another shape; lengths of axes are compared by `over`.
        """
        values, first = given.values, len(batch or ())
        last = values.ndim - len(event)
        if last < first or values.shape[:first] != (batch or ()):
            lead = "".join(f"{n}, " for n in batch or ()) + "*channels"
            where = "without a batch axis" if batch is None else "which starts with the batch shape"
            raise ShapeError(
                f"{who}: expected a field over the whole state {shape_text(lead, event)}, {where}, "
                f"got {tuple(values.shape)}. Reshape or expand it: a map without the state's "
                "channel axis has one channel, map.unsqueeze(-3)."
            )
        channels, shape = tuple(values.shape[first:last]), tuple(values.shape[last:])
        flat = values.reshape(prod(batch or (1,)), prod(channels), prod(shape))
        return cls(who, flat, channels, shape, event)

    def over(self, group: RegionGroup) -> RegionGroup:
        """The regions of a group, as regions of the field.

        Raises:
            ShapeError: the field's length differs from the state's on an axis that the regions do
                not span.
        """
        found = group if self.shape == self.event else group.over(self.event, self.shape)
        if found is None:
            raise ShapeError(
                f"{self.who}: expected a field over the whole state "
                f"{shape_text('...', self.event)}, got {shape_text('...', self.shape)}. Lengths "
                "may differ on axes that all regions span, but those of node "
                f"{group.name(0)!r} and others of its shape, {group.shape}, do not. Resize the "
                "field to the state."
            )
        return found

    def crop(self, index: Tensor, shape: Shape, samples: slice, like: Tensor) -> Tensor:
        """The crops of some regions and samples: `[samples * regions, *channels, *shape]`.

        Args:
            index: int64 `[regions * d]`, elements of the regions of `over`.
            shape: the shape of such a region.
            samples: the samples.
            like: a tensor with the dtype and on the device of the state.
        """
        values = self._on(like.device)
        values = values[samples] if len(values) > 1 else values
        n, found = samples.stop - samples.start, values.index_select(2, index)
        found = found.reshape(len(found), prod(self.channels), -1, prod(shape)).transpose(1, 2)
        rows = found.expand(n, *found.shape[1:]).reshape(-1, *self.channels, *shape)
        return rows.to(like.dtype) if rows.is_floating_point() else rows

    def _on(self, device: torch.device) -> Tensor:
        if self.values.device == device or self.values.requires_grad:
            return self.values.to(device)
        if device not in self._moved:
            with torch.inference_mode(False):
                self._moved[device] = ordinary(self.values.to(device))
        return self._moved[device]
