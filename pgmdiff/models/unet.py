"""A small convolutional U-Net.

It is fully convolutional, so that one set of weights evaluates windows and their overlaps. Under
EDM's preconditioning, `training.EDMDenoiser`, it is a denoiser.
"""

import math
from collections.abc import Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from pgmdiff.errors import ShapeError
from pgmdiff.linalg import beside, rows
from pgmdiff.text import brief
from pgmdiff.training.preconditioning import EDMDenoiser as EDMDenoiser

__all__ = ["UNet", "save_weights", "trained"]

Model = TypeVar("Model", bound=nn.Module)

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d}
POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d}
SIZES = {
    "classes": "the labels",
    "position": "the entries of a position, one for each axis of the state",
    "field": "the field's channels",
}


class GroupNorm(nn.GroupNorm):
    """That of PyTorch, which refuses a single value per group, of a batch of one sample only."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def zero(layer: nn.Module) -> None:
    """Sets all parameters of a layer to 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Embedding(nn.Module):
    """Fourier features of the noise level and of a position, and a vector for each class."""

    frequencies: Tensor

    def __init__(self, features: int, classes: int = 0, position: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.linspace(-2, 4, features // 2))
        self.mlp = nn.Sequential(
            nn.Linear(features, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU()
        )
        self.label = nn.Embedding(classes + 1, features) if classes else None
        self.position = nn.Linear(position * features, features) if position else None

    def forward(self, noise: Tensor, label: Tensor | int | None, position: Tensor | None) -> Tensor:
        features: Tensor = self.mlp(self.fourier(noise[:, None]))
        if self.label is not None:
            missing = torch.full_like(noise, self.classes, dtype=torch.int64)
            features = features + self.label(missing if label is None else self.known(label, noise))
        if self.position is not None and position is not None:
            n = self.position.in_features // len(self.frequencies) // 2
            if not isinstance(position, Tensor) or position.ndim != 2 or position.shape[1] != n:
                raise ShapeError(
                    f"position: expected a tensor [batch, {n}], got {brief(position)}. Make the "
                    "network with as many: for fit(..., position=True) with "
                    "position=len(event_shape), one entry for each axis of the state."
                )
            features = features + self.position(self.fourier(position.to(noise)))
        return features

    def known(self, label: Tensor | int, noise: Tensor) -> Tensor:
        """Labels `[batch]`, whose range is looked at only on the CPU, where it costs nothing."""
        if isinstance(label, int):  # of all rows, as a condition of a node
            label = torch.full_like(noise, label, dtype=torch.int64)
        elif isinstance(label, Tensor) and label.ndim == 0:
            label = label.to(noise.device).expand(len(noise))
        whole = isinstance(label, Tensor) and not label.is_floating_point() and label.ndim == 1
        if whole and (
            label.device.type != "cpu" or not ((label < 0) | (label > self.classes)).any()
        ):
            return label.long()
        held = f", from {int(label.min())} to {int(label.max())}" if whole else ""
        raise ShapeError(
            f"label: expected integers [batch] from 0 to {self.classes}, the null class, got "
            f"{brief(label)}{held}. Classes count from 0; one number, such as 1, is that of all."
        )

    def fourier(self, values: Tensor) -> Tensor:
        """Sines and cosines of values `[batch, n]`: `[batch, n · features]`."""
        angles = (values[..., None] * self.frequencies).flatten(1)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Conditional(nn.Module):
    """What the networks share: conditions, as an embedding and as further channels of the input."""

    score_by = "from_denoiser(EDMDenoiser(network, sigma_data)), trained"

    def __init__(
        self,
        channels: int,
        features: int,
        axes: int,
        widths: Sequence[int],
        *,
        classes: int = 0,
        position: int = 0,
        field: int = 0,
        noise_field: bool = False,
        whitened: bool = False,
    ) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise ShapeError(
                f"{type(self).__name__}: expected an even number of features, got {features}: half "
                "of them are sines, half cosines."
            )
        if not widths or any(width < 8 or width % 8 for width in widths):
            raise ShapeError(
                f"{type(self).__name__}: expected positive multiples of 8 as numbers of channels "
                f"inside, got {brief(widths)}. They are normalised in 8 groups."
            )
        given: dict[str, Any] = {"classes": classes, "position": position, "field": field}
        for name, n in given.items():
            if isinstance(n, bool) or not isinstance(n, Integral) or n < 0:
                raise ShapeError(
                    f"{type(self).__name__}: expected {name}= as a number of at least 0, got "
                    f"{n!r}. Give that of {SIZES[name]}."
                )
        self.channels, self.axes = channels, axes
        self.sizes = {"label": classes, "position": position, "field": field, "residual": whitened}
        self.null_condition = {"label": classes} if classes else {}  # `fit` looks for it in labels
        self.noise_field, self.whitened = noise_field, whitened
        self.channels_in = channels * (1 + noise_field + whitened) + field
        self.embedding = Embedding(features, classes, position)

    def entered(self, x: Tensor, noise: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        """The input's channels and the embedding."""
        if x.ndim != self.axes + 2 or x.shape[1] != self.channels:
            sides = "height, width" if self.axes == 2 else "n"
            raise ShapeError(
                f"{type(self).__name__}: expected [batch, {self.channels}, {sides}], got "
                f"{list(x.shape)}. Make it with the data's own channels=; one state alone is a "
                "batch, x[None]."
            )
        weights, place = next(self.parameters()).dtype, x.device.type
        if x.dtype != weights and not torch.is_autocast_enabled(place):
            raise ShapeError(
                f"{type(self).__name__}: expected x of {weights}, as its weights are, got "
                f"{x.dtype}. Give states of that dtype, or convert the network: network.double()."
            )
        given = [name for name, value in condition.items() if value is not None]
        unknown = [name for name in given if not self.sizes.get(name)]
        if noise.ndim > 1 and not self.noise_field:
            unknown.append("a noise level per element")
        if unknown:
            raise ShapeError(
                f"{type(self).__name__}: got {unknown[0]}, which it was made without. Make it with "
                "classes=, position=, field=, noise_field= or whitened=."
            )
        if self.whitened and "residual" not in given:
            raise ShapeError(
                f"{type(self).__name__}: made with whitened=True, but called without residual=. "
                "Call it through an EDMDenoiser."
            )
        parts, field = [x], self.sizes["field"]
        if self.noise_field:
            each = noise.reshape(x.shape) if noise.ndim > 1 else beside(noise, x).expand_as(x)
            parts, noise = [x, each], rows(noise).mean(dim=1)
        if self.whitened:
            parts.append(condition["residual"].reshape(x.shape))
        if field:
            own = condition.get("field")
            parts.append(x.new_zeros(len(x), field, *x.shape[2:]) if own is None else own)
        entered = torch.cat(parts, dim=1) if len(parts) > 1 else x
        return entered, self.embedding(noise, condition.get("label"), condition.get("position"))


class ResidualBlock(nn.Module):
    """Two convolutions, between which the noise embedding scales and shifts the channels."""

    def __init__(
        self, channels_in: int, channels_out: int, features: int, axes: int, dilation: int = 1
    ) -> None:
        super().__init__()
        convolution = partial(CONVOLUTIONS[axes], padding=dilation, dilation=dilation)
        self.norm_in = GroupNorm(8, channels_in)
        self.conv_in = convolution(channels_in, channels_out, 3)
        self.modulation = nn.Linear(features, 2 * channels_out)
        self.norm_out = GroupNorm(8, channels_out)
        self.conv_out = convolution(channels_out, channels_out, 3)
        alike = channels_in == channels_out
        self.skip = nn.Identity() if alike else CONVOLUTIONS[axes](channels_in, channels_out, 1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        modulation = rearrange(self.modulation(embedding), "b (two c) -> two b c", two=2)
        scale, shift = modulation.reshape(*modulation.shape, *[1] * (x.ndim - 2))
        hidden = self.norm_out(self.conv_in(F.silu(self.norm_in(x))))
        out: Tensor = self.skip(x) + self.conv_out(F.silu(hidden * (1 + scale) + shift))
        return out


class UNet(Conditional):
    """A convolutional U-Net for images or series whose sides are multiples of 2^(levels - 1).

    It is called as `network(x, noise, label=, position=, field=)`, all conditions optional.

    Args:
        channels: the number of channels of an image or series.
        widths: the number of channels of each resolution level, a multiple of 8; each level halves
            the sides.
        features: the size of the embedding of the noise level and of conditions.
        axes: 2 for images `[batch, channels, height, width]`, 1 for series `[batch, channels, n]`.
        conditions: `classes=`, the number of classes of `label` `[batch]` (label `classes`, as no
            label, is the null class); `position=`, the number of entries of `position`
            `[batch, position]`, which for `fit(..., position=True)` is the number of axes of the
            state, `len(event_shape)`; `field=`, the number of channels of `field` `[batch, field,
            *sides]`, which is 0 where none is given; `noise_field=True` for noise levels per
            element; `whitened=True` for uncorrelated channels and the residual of a linear
            denoiser, which `EDMDenoiser` gives.

    Raises:
        ShapeError: widths or sides are no such multiples, x has another number of channels, or a
            condition is given that the network was not made for, or of another shape.
    """

    def __init__(
        self,
        channels: int = 1,
        widths: tuple[int, ...] = (32, 64, 64),
        features: int = 64,
        axes: int = 2,
        **conditions: Any,
    ) -> None:
        super().__init__(channels, features, axes, widths, **conditions)
        self.multiple = 2 ** (len(widths) - 1)
        self.enter = CONVOLUTIONS[axes](self.channels_in, widths[0], 3, padding=1)
        above = (widths[0], *widths[:-1])
        self.down = nn.ModuleList(
            ResidualBlock(a, w, features, axes) for a, w in zip(above, widths, strict=True)
        )
        self.middle = ResidualBlock(widths[-1], widths[-1], features, axes)
        self.up = nn.ModuleList(
            ResidualBlock(2 * w, a, features, axes) for a, w in zip(above, widths, strict=True)
        )
        self.norm = GroupNorm(8, widths[0])
        self.leave = CONVOLUTIONS[axes](widths[0], channels, 3, padding=1)
        zero(self.leave)

    def forward(self, x: Tensor, noise: Tensor, **condition: Tensor | None) -> Tensor:
        if any(side % self.multiple for side in x.shape[2:]):
            raise ShapeError(
                f"UNet: expected sides that are multiples of {self.multiple}, "
                f"got an image of {tuple(x.shape[2:])}. Crop or pad it."
            )
        x, embedding = self.entered(x, noise, **condition)
        x = self.enter(x)
        skips = []
        for level, block in enumerate(self.down):
            x = block(POOLS[self.axes](x, 2) if level else x, embedding)
            skips.append(x)
        x = self.middle(x, embedding)
        for level, block in reversed(list(enumerate(self.up))):
            x = block(torch.cat([x, skips[level]], dim=1), embedding)
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") if level else x
        out: Tensor = self.leave(F.silu(self.norm(x)))
        return out


def trained(model: Model, weights: Path) -> Model:
    """A model with weights from a file, in evaluation mode and without gradients of its weights.

    Args:
        model: a denoiser, or several in an `nn.ModuleDict`, of the architecture of the weights; it
            is changed.
        weights: the path of a safetensors file.
    """
    from safetensors.torch import load

    read = load(Path(weights).read_bytes())  # `load_file` keeps memory
    model.load_state_dict(read)
    return model.eval().requires_grad_(False)


def save_weights(model: nn.Module, weights: Path) -> None:
    """Writes a file for `trained`: weights in bfloat16, buffers such as Wiener filters as they are.

    Args:
        model: a trained denoiser, or several in an `nn.ModuleDict`.
        weights: the path of a safetensors file.
    """
    from safetensors.torch import save_file

    state, parameters = model.state_dict(), dict(model.named_parameters())
    made = {k: x.bfloat16() if k in parameters else x for k, x in state.items()}
    save_file({k: x.contiguous() for k, x in made.items()}, weights)
