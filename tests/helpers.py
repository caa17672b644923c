"""Small things that many tests share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pgmdiff import gaussian, linalg
from pgmdiff.gaussian import Gaussian
from pgmdiff.precision import Solve


def ar1(n: int, rho: float, dtype: torch.dtype = torch.float64) -> Gaussian:
    """The stationary AR(1) chain of unit variance, in a dtype."""
    q = gaussian.ar1(n, rho)
    return q if dtype == torch.float64 else Gaussian(q.mean.to(dtype), q.covariance.to(dtype))


def relative(a: Tensor, b: Tensor) -> float:
    """Largest deviation, relative to the largest entry of b."""
    return ((a - b).abs().max() / b.abs().max()).item()


class Unsolved(Solve):
    """Leaves the right-hand side as it is."""

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        return b

    def log_determinant(self, sigma: Tensor) -> Tensor:
        raise NotImplementedError


def check_compiles_and_waits_for_nothing(score: Any, *given: Any, **condition: Any) -> None:
    """The score is traced whole, and is computed where a tensor's value cannot be looked at."""
    expected = score(*given, **condition)
    torch.compiler.reset()
    compiled = torch.compile(score, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*given, **condition), expected)
    away = tree_map(lambda t: t.to("meta") if isinstance(t, Tensor) else t, (given, condition))
    assert score(*away[0], **away[1]).shape == expected.shape


@contextmanager
def group_of_one() -> Iterator[None]:
    """A group of torch.distributed, of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


class _Without64(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for t in tree_leaves(made):
            if isinstance(t, Tensor) and t.device.type == "meta" and t.dtype == torch.float64:
                raise TypeError("this device has no float64")
        return made


@contextmanager
def meta_without_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The device "meta" stands for one that has no float64, as Apple's."""
    monkeypatch.setattr(linalg, "WITHOUT_FLOAT64", ("meta",))
    with _Without64():
        yield
