"""Files that are whole or not there, and fingerprints of what a run depends on."""

import argparse
import errno
import json
import logging
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.interpolate import CubicSpline, LinearNDInterpolator
from scipy.sparse import csr_array
from scipy.sparse.linalg import aslinearoperator
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.distributions import AffineTransform, Normal

import pgmdiff
from pgmdiff import PgmdiffError, compose, from_denoiser, gaussian
from pgmdiff.conditioning import Isotropic, Mask, moment_matching, replacement
from pgmdiff.graphs import FactorGraph, chain, tiles
from pgmdiff.precision.solves.iterative import ConjugateGradients
from pgmdiff.samplers import UniPC
from pgmdiff.store import BLANK, fingerprint, load, save
from tests.helpers import ar1

ROOT = Path(__file__).parents[1]


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "whole": whole,
        "same memory": whole,
        "part": whole.T[1:],
        "number": torch.tensor(1.5, dtype=torch.float64),
        "none": torch.zeros(0, 3),
        "half": torch.randn(3).bfloat16(),
        "index": torch.tensor([1, -2]),
        "flags": torch.tensor([True, False]),
        "leaf": torch.ones(2, requires_grad=True),
        "conjugate": torch.tensor([1 + 2j]).conj(),
    }
    facts = {"seed": 2**127, "sigma": 0.1 + 0.2, "names": ["é", None], "nested": {"a": [1]}}
    save(tmp_path / "new" / "file.safetensors", tensors, facts)
    found, said = load(tmp_path / "new" / "file.safetensors")
    assert said == facts
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(found[name], value), name
        assert found[name].dtype == value.dtype
    assert os.listdir(tmp_path / "new") == ["file.safetensors"]


@pytest.mark.parametrize("_", range(8))  # the order in the file varies
def test_facts_with_runs_of_zeros_come_back(_: int, tmp_path: Path) -> None:
    facts = {
        "mask": "1" + "0" * 99,
        "large": 10**70,
        "sha256": BLANK,
        "text": f'"sha256":"{BLANK}"',
        f'sha256":"{BLANK}': 1,
    }
    zeros = torch.full((200,), ord("0"), dtype=torch.uint8)
    save(tmp_path / "file", {"zeros": zeros, BLANK: zeros[:64], "sha256": zeros}, facts)
    tensors, said = load(tmp_path / "file")
    assert said == facts
    assert {name: len(value) for name, value in tensors.items()} == {
        "zeros": 200,
        BLANK: 64,
        "sha256": 200,
    }
    assert all(value.eq(ord("0")).all() for value in tensors.values())


def test_files_of_the_first_writer_are_read(tmp_path: Path) -> None:
    """It patched the first run of 64 zeros, which was the hash where no fact had such a run."""
    about = {"facts": json.dumps({"step": 3, "few": "0" * 63}), "sha256": BLANK}
    data = safetensors.torch.save({"x": torch.arange(4.0)}, about)
    data = data.replace(BLANK.encode(), sha256(data).hexdigest().encode(), 1)
    (tmp_path / "file").write_bytes(data)
    tensors, facts = load(tmp_path / "file")
    assert facts == {"step": 3, "few": "0" * 63}
    assert torch.equal(tensors["x"], torch.arange(4.0))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_cannot_be_saved_is_named_and_changes_nothing(tmp_path: Path) -> None:
    x = torch.ones(2)
    save(tmp_path / "file", {"x": x})
    loop: list[object] = []
    loop.append(loop)
    for tensors, facts, message in [
        ({1: x}, {}, "text as the names of tensors.* got 1"),
        ({"__metadata__": x}, {}, "other than '__metadata__'"),
        ({"x": np.ones(2)}, {}, "dense tensor with values as 'x', got .*ndarray.*as_tensor"),
        ({"x": None}, {}, "dense tensor with values as 'x', got .*NoneType"),
        ({"x": x.to_sparse()}, {}, r"got torch\.sparse_coo on cpu.*to_dense"),
        ({"x": x.to("meta")}, {}, r"got torch\.strided on meta"),
        ({"x": torch.nested.nested_tensor([x, x[:1]])}, {}, "got a nested tensor"),
        ({"x": x.to(torch.complex128)}, {}, r"got torch\.complex128\. Convert"),
        ({"\ud800": x}, {}, "names and dtypes that safetensors can hold"),
        ({"x": x}, {"y": x}, "expected facts that JSON can hold.* among the tensors"),
        ({"x": x}, {"y": np.float32(1)}, "float32 is not JSON"),
        ({"x": x}, {"y": loop}, "Circular reference"),
        (
            {"x": x},
            {"y": [{1: "a", "1": "b"}]},
            "expected text as the names of facts, got 1,",
        ),
        ({"x": x}, {None: 1}, "expected text as the names of facts, got None"),
    ]:
        with pytest.raises(PgmdiffError, match=f"^store: .*{message}"):
            save(tmp_path / "file", tensors, facts)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["file"]
    assert torch.equal(load(tmp_path / "file")[0]["x"], x)


def test_every_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save(path, {"x": torch.arange(4.0)}, {"step": 3})
    good = path.read_bytes()
    damaged = [good[:n] for n in range(len(good))] + [good + b"0"]
    damaged += [
        good[:place] + bytes([good[place] ^ (1 << place % 8)]) + good[place + 1 :]
        for place in range(len(good))
    ]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(PgmdiffError, match=r"file\.safetensors as it was written, but it is"):
            load(path)
    with pytest.raises(PgmdiffError, match="there is no file"):
        load(tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "error"), [("fsync", errno.ENOSPC), ("fsync", errno.EIO), ("open", errno.EACCES)]
)
def test_what_cannot_be_written_leaves_the_old_file(
    name: str, error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.safetensors"
    save(path, {"x": torch.zeros(2)}, {})

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(*((os, name) if name == "fsync" else (Path, name)), fail)
    with pytest.raises(PgmdiffError, match=f"got {os.strerror(error)}. Free space on the disk, or"):
        save(path, {"x": torch.ones(2)}, {})
    monkeypatch.undo()
    assert torch.equal(load(path)[0]["x"], torch.zeros(2))
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(PgmdiffError, match="expected to write"):
        save(path / "within a file", {"x": torch.ones(2)}, {})


# ---------------------------------------------------------------- fingerprints

SCALE = 0.5
NET = nn.Linear(4, 4)


def by_global(x: Tensor, sigma: Tensor) -> Tensor:
    return SCALE * NET(x)


class Plain:
    """A score whose parameter is an attribute."""

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return -self.scale * x


class Slotted:
    """A score whose parameter is in a slot."""

    __slots__ = ("scale",)

    def __init__(self, scale: float) -> None:
        self.scale = scale


def executed(scale: float) -> Callable[..., Tensor]:
    """A function without a module."""
    names: dict[str, Any] = {}
    exec(f"def score(x, sigma): return -{scale} * x", names)
    found: Callable[..., Tensor] = names["score"]
    return found


class Holding(nn.Module):
    """A network whose parameter is a tensor that is none of its buffers."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = [torch.tensor(scale)]

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return -self.scale[0] * x


class Hidden(nn.Module):
    """A network whose parameter is a tensor with an underscore."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self._scale = torch.tensor(scale)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self._scale - x


class ByClass:
    """A score whose parameter belongs to its class."""

    scale = 1.0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return -self.scale * x

    @staticmethod
    def other() -> "ByClass":
        return type("ByClass", (ByClass,), {"scale": 2.0})()


def network(scale: float = 1.0) -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.BatchNorm1d(4)).eval()
    for parameter in net.parameters():
        nn.init.constant_(parameter, scale)
    return net


def closed(scale: Any) -> Callable[..., Tensor]:
    return lambda x, sigma: -scale * x


def joint(spread: float = 0.5, rule: str = "marginal", **options: Any) -> Any:
    data = ar1(4, spread)
    covariances = gaussian.node_covariances(chain(4), data)
    rules = {"marginal": pgmdiff.Marginal(), "posterior": pgmdiff.Posterior(covariances)}
    return compose(chain(4), gaussian.node_scores(chain(4), data), rule=rules[rule], **options)


def conditional(text: float = 0.0) -> Any:
    score = from_denoiser(lambda x, sigma, text: x * text.reshape(-1, 1))
    strip = tiles((4,), (2,), (1,))
    conditions = {name: {"text": torch.tensor(text)} for name in strip.names}
    return compose(strip, score, conditions=conditions)


def observed(y: float = 0.0, noise: float = 0.1) -> Any:
    y_in_place = torch.where(MASK, y, 0.0).double()
    return moment_matching(joint(), y_in_place, Mask(MASK), Isotropic(), noise=noise)


def mixture(mean: float) -> Any:
    share = torch.distributions.Categorical(torch.ones(2))
    return torch.distributions.MixtureSameFamily(share, Normal(mean * torch.ones(2), 1.0))


def normal(scale: float) -> Any:
    return torch.distributions.MultivariateNormal(torch.zeros(2), scale * torch.eye(2))


def activated(function: Callable[[Tensor], Tensor]) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, activation=function)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def scaled(scale: Tensor) -> nn.Module:
    net = nn.Sequential(nn.ReLU())
    net.scale = (scale,)  # type: ignore[assignment]
    return net


def iterative() -> Any:
    score = joint(rule="posterior")
    object.__setattr__(score.rule, "solve", ConjugateGradients(score.precision))
    return score


MASK = torch.tensor([True, False, True, False])
CASES: dict[str, Callable[[], Any]] = {
    "a number in a closure": lambda: closed(1.0),
    "another number": lambda: closed(2.0),
    "a constant in the code": lambda: lambda x, sigma: -x / 2,
    "another constant": lambda: lambda x, sigma: -x / 3,
    "an attribute": lambda: Plain(1.0),
    "another attribute": lambda: Plain(2.0),
    "a tensor in a module": lambda: Holding(1.0),
    "another in a module": lambda: Holding(2.0),
    "a slot": lambda: Slotted(1.0),
    "another slot": lambda: Slotted(2.0),
    "no module": lambda: executed(1.0),
    "another without a module": lambda: executed(2.0),
    "a default": lambda: partial(closed(1.0), sigma=1.0),
    "weights": lambda: from_denoiser(lambda x, sigma: NETS[0](x)),
    "other weights": lambda: from_denoiser(lambda x, sigma: NETS[1](x)),
    "a network": lambda: network(),
    "a compiled network": lambda: torch.compile(network(), backend="eager"),
    "a compiled function": lambda: torch.compile(closed(3.0), backend="eager"),
    "another compiled function": lambda: torch.compile(closed(4.0), backend="eager"),
    "a network in train mode": lambda: network().train(),
    "a complex number": lambda: Plain(torch.tensor([1 + 2j])),
    "its conjugate": lambda: Plain(torch.tensor([1 + 2j]).conj()),
    "a joint": joint,
    "another joint": lambda: joint(0.6),
    "another rule": lambda: joint(rule="posterior"),
    "a posterior": lambda: joint(0.6, "posterior"),
    "a posterior solved by iteration": iterative,
    "conditions": conditional,
    "other conditions": lambda: conditional(1.0),
    "an observation": observed,
    "another observation": lambda: observed(1.0),
    "another noise": lambda: observed(noise=0.2),
    "a replacement": lambda: replacement(joint(), torch.zeros(4).double(), Mask(MASK)),
    "a method": lambda: ar1(4, 0.5).score,
    "a slice": lambda: Plain(slice(0, 2)),
    "another slice": lambda: Plain(slice(2, 4)),
    "a range": lambda: Plain(range(2)),
    "a queue": lambda: Plain(deque([1.0, 2.0], maxlen=3)),
    "another queue": lambda: Plain(deque([1.0, 3.0], maxlen=3)),
    "bytes": lambda: Plain(bytearray(b"one")),
    "other bytes": lambda: Plain(bytearray(b"two")),
    "a device": lambda: Plain(torch.device("cpu")),
    "another device": lambda: Plain(torch.device("meta")),
    "a function in C": lambda: Plain(torch.sin),
    "another in C": lambda: Plain(torch.cos),
    "a method in C": lambda: Plain(torch.Tensor.sin),
    "another method in C": lambda: Plain(torch.Tensor.cos),
    "a function of numpy": lambda: Plain(np.sin),
    "another of numpy": lambda: Plain(np.cos),
    "a function in a closure": lambda: closed(torch.tanh),
    "another in a closure": lambda: closed(torch.relu),
    "a hidden tensor": lambda: Hidden(0.0),
    "another hidden tensor": lambda: Hidden(5.0),
    "a class": lambda: ByClass(),
    "another class": lambda: ByClass.other(),
    "a solver": UniPC,
    "another solver": lambda: UniPC(2),
    "a set": lambda: {"a", "b", "c", "d"},
    "a graph": lambda: FactorGraph.from_scopes({"f": ("a", "b"), "g": ("b", "c")}),
    "another graph": lambda: FactorGraph.from_scopes({"f": ("a", "b"), "g": ("a", "c")}),
    "another order": lambda: FactorGraph.from_scopes({"f": ("b", "a"), "g": ("b", "c")}),
    "a mixture": lambda: mixture(0.0),
    "another mixture": lambda: mixture(1.0),
    "a distribution": lambda: normal(1.0),
    "another distribution": lambda: normal(2.0),
    "an inverse transform": lambda: AffineTransform(0.0, 1.0).inv,
    "another inverse": lambda: AffineTransform(1.0, 1.0).inv,
    "a spline": lambda: CubicSpline([0, 1, 2], [0, 1, 0]),
    "another spline": lambda: CubicSpline([0, 1, 2], [0, 2, 0]),
    "a rotation": lambda: Rotation.from_euler("x", 1.0),
    "another rotation": lambda: Rotation.from_euler("x", 2.0),
    "a tree": lambda: cKDTree(np.arange(100.0)[:, None]),
    "another tree": lambda: cKDTree(np.arange(1.0, 101.0)[:, None]),
    "triangles": lambda: LinearNDInterpolator(np.eye(3, 2), np.arange(3.0)),
    "other triangles": lambda: LinearNDInterpolator(np.eye(3, 2), np.arange(1.0, 4.0)),
    "an adjoint": lambda: aslinearoperator(np.eye(2)),
    "a sparse array": lambda: csr_array(np.eye(2)),
    "another sparse array": lambda: csr_array(2 * np.eye(2)),
    "an activation": lambda: activated(torch.relu),
    "another activation": lambda: activated(torch.tanh),
    "a tensor set on a module": lambda: scaled(torch.ones(1)),
    "another set on a module": lambda: scaled(torch.zeros(1)),
    "a source of numbers": lambda: Plain(np.random.PCG64(0)),
    "a pattern": lambda: Plain(re.compile("a")),
    "another pattern": lambda: Plain(re.compile("b")),
    "a logger": lambda: Plain(logging.getLogger(__name__)),
}
FLOAT32 = "weights", "a network", "an observation", "a replacement"
NETS = network(1.0), network(2.0)


def fingerprints() -> dict[str, str]:
    return {name: fingerprint(make()) for name, make in CASES.items()}


def test_fingerprints_differ_where_runs_do_and_nowhere_else() -> None:
    here = fingerprints()
    assert len({*here.values()}) == len(CASES)
    code = (
        "import json; from tests.test_store import fingerprints; print(json.dumps(fingerprints()))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert json.loads(there.stdout) == here


@pytest.mark.parametrize("name", [
    "a joint", "a posterior", "a posterior solved by iteration", "conditions", "an observation",
    "a replacement", "weights", "a network", "a method",
])  # fmt: skip
def test_calls_do_not_change_fingerprints(name: str) -> None:
    score = CASES[name]()
    before = fingerprint(score)
    with torch.no_grad():
        for dtype in (torch.float32, torch.float64) if name not in FLOAT32 else (torch.float32,):
            x, sigma = torch.ones(3, 4, dtype=dtype), torch.ones(3, dtype=dtype)
            score(x) if isinstance(score, nn.Module) else score(x, sigma)
    assert fingerprint(score) == before


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("a distribution", lambda thing: thing.precision_matrix),
        ("a mixture", lambda thing: thing.log_prob(torch.zeros(()))),
        ("a spline", lambda thing: thing(0.5)),
        ("a sparse array", lambda thing: thing.has_sorted_indices),
        ("a tree", lambda thing: thing.query([[0.5]])),
        ("triangles", lambda thing: thing([[0.5, 0.5]])),
        ("an adjoint", lambda thing: thing.H),
        ("a source of numbers", lambda thing: thing.scale.random_raw()),
        ("a pattern", lambda thing: re.match("another that re keeps", "")),
        ("a logger", lambda thing: thing.scale.debug("unseen")),
    ],
)
def test_use_does_not_change_fingerprints(name: str, use: Callable[[Any], object]) -> None:
    thing = CASES[name]()
    before = fingerprint(thing)
    use(thing)
    assert fingerprint(thing) == before


def test_globals_count_and_names_stand_for_their_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(by_global)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 0.6)
    assert fingerprint(by_global) != before
    monkeypatch.undo()
    assert fingerprint(by_global) == before
    with torch.no_grad():
        NET.weight[0, 0] += 1
    assert fingerprint(by_global) != before
    scales = [argparse.Namespace(scale=scale) for scale in (1.0, 2.0)]
    for name, values in {"SCALE": scales, "NET": [torch.tanh, torch.relu]}.items():
        found = []
        for value in values:
            monkeypatch.setattr(sys.modules[__name__], name, value)
            found.append(fingerprint(by_global))
        assert found[0] != found[1]
        monkeypatch.undo()
    one, two = Plain(1.0), Plain(2.0)
    one.fingerprint = two.fingerprint = "the same"
    assert fingerprint(one) == fingerprint(two)
    loop: list[object] = [1]
    loop.append(loop)
    assert len(fingerprint(loop)) == 64
    for _ in range(sys.getrecursionlimit()):
        loop = [loop]
    with pytest.raises(PgmdiffError, match="nested too deeply"):
        fingerprint(loop)


class Named(dict):
    pass


class Row(list):
    pass


class Word(str):
    pass


class Amount(float):
    pass


class Grid(np.ndarray):
    pass


class Marked(Tensor):
    pass


@pytest.mark.parametrize(
    "make",
    [Named, Row, lambda: Word("a"), lambda: Amount(1), lambda: np.ones(2).view(Grid),
     lambda: torch.ones(2).as_subclass(Marked)],
)  # fmt: skip
def test_attributes_of_values_of_a_users_class_count(make: Callable[[], Any]) -> None:
    one, same, other = make(), make(), make()
    for thing, k in ((one, 1), (same, 1), (other, 2)):
        thing.k = torch.tensor(k)
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
