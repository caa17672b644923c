"""Fields: conditions over the whole state, cropped to each region when its model is called.

A state of event shape E has fields f of shape `[*batch, *channels, *F]`. Region r sees

    f[..., A_r]      the elements of the region, in its own order and orientation.

F is E, but for axes that all regions span: there it may have another length. A field is stored
once, however many regions see it.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from pgmdiff.errors import ShapeError, shape_text
from pgmdiff.linalg import Shape
from pgmdiff.text import array, described

__all__ = ["Field", "field", "placed", "respaced"]


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


def placed(who: str, given: Field, event: Shape, batch: Shape | None) -> Field:
    """A field as `[B, *channels, *F]`, given for a batch of states, or as one for all if None.

    Raises:
        ShapeError: it has another shape; `respaced` compares the lengths of axes.
    """
    values, first = given.values, len(batch or ())
    last = values.ndim - len(event)
    if last < first or values.shape[:first] != (batch or ()):
        lead = "".join(f"{n}, " for n in batch or ()) + "*channels"
        where = "without a batch axis" if batch is None else "which starts with the batch shape"
        raise ShapeError(
            f"{who}: expected a field over the whole state {shape_text(lead, event)}, {where}, got "
            f"{tuple(values.shape)}. Reshape or expand it: a map without the state's channel axis "
            "has one channel, map.unsqueeze(-3)."
        )
    n, *shape = prod(batch or ()), *values.shape[first:]
    flat = values.reshape(n, prod(values.shape[first:last]), prod(values.shape[last:]))
    return Field(flat.reshape(n, *shape))  # in an order that every crop can view as flat


def respaced(who: str, index: Tensor, event: Shape, given: Field) -> Tensor:
    """Elements of a field for elements of the state, region by region: both int64 `[n, *shape]`.

    Raises:
        ShapeError: the regions do not span an axis on which the lengths differ.
    """
    shape = given.values.shape[given.values.ndim - len(event) :]
    lengths, found = list(event), index
    for axis, (old, new) in enumerate(zip(event, shape, strict=True)):
        if old == new:
            continue
        stride, near = prod(lengths[axis + 1 :]), axis - len(event)
        line = stride * torch.arange(max(old, new), device=index.device)
        # Axes of length 1 look alike: the one that stands as in the event is tried first.
        for along in sorted(range(1 - index.ndim, 0), key=lambda a: a != near):
            first, places = found.narrow(along, 0, 1), line.reshape(-1, *[1] * (-along - 1))
            spans = found.shape[along] == old and not (first // stride % old).any()
            if spans and torch.equal(found, first + places[:old]):
                found = first // (stride * old) * (stride * new) + first % stride + places[:new]
                lengths[axis] = new
                break
        else:
            raise ShapeError(
                f"{who}: expected a field over the whole state {shape_text('...', event)}, got "
                f"{shape_text('...', shape)}. Lengths may differ on axes that all regions span, "
                f"and some of shape {tuple(index.shape[1:])} do not span axis {axis}. Resize the "
                "field to the state."
            )
    return found
