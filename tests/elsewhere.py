"""A pretended second device: its tensors compute on the CPU, and mix with those of the CPU no more
than a GPU's do.

The device calls itself "meta". What a GPU refuses is refused: operations on tensors of both devices
(but for indices and numbers on the CPU), and `numpy()`. With `waiting=False` whatever reads values
is refused, too: on a GPU the CPU would wait.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["ELSEWHERE", "Elsewhere"]

ELSEWHERE = torch.device("meta")
aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default)
READS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default)
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)


class Away(Tensor):
    """A tensor of the pretended device."""

    inner: Tensor
    is_meta = False  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Away":
        options = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made: Away = Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=ELSEWHERE, **options
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self) -> str:
        return f"Away({self.inner!r})"

    def __format__(self, spec: str) -> str:
        return format(self.inner, spec)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, True)


class Elsewhere(TorchDispatchMode, TorchFunctionMode):
    """Within it `device="meta"` is the pretended device.

    Args:
        waiting: whether values may be read.
    """

    def __init__(self, waiting: bool = True) -> None:
        super().__init__()
        self.waiting = waiting

    def __enter__(self) -> "Elsewhere":
        TorchFunctionMode.__enter__(self)
        TorchDispatchMode.__enter__(self)
        return self

    def __exit__(self, *raised: Any) -> None:
        TorchDispatchMode.__exit__(self, *raised)
        TorchFunctionMode.__exit__(self, *raised)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self.waiting)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Makes tensors of numbers and lists of Python, which are not dispatched."""
        given = dict(kwargs or {})
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            lists = [torch.tensor(each) if isinstance(each, list) else each for each in index]
            return func(args[0], tuple(lists), *args[2:])
        if func is torch.unravel_index and isinstance(args[0], Away):
            return tuple(map(Away, func(args[0].inner, **given)))
        if func in (torch.tensor, torch.as_tensor) and "device" in given:
            return func(*args, **{**given, "device": "cpu"}).to(given["device"])
        return func(*args, **given)


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], waiting: bool) -> Any:
    """Calls an operation on the CPU, and gives its results the device that they belong to."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = [isinstance(t, Away) for t in tensors]
    if any(away) and func in READS and not waiting:
        raise RuntimeError(f"{func}: called a synchronizing operation")
    if any(away) and func not in MOVES:
        mixed = [t for t, there in zip(tensors, away, strict=True) if not there and t.ndim]
        if func in INDEXED and away[0]:
            mixed = [t for t in mixed if t.dtype not in (torch.int64, torch.bool)]
        if mixed:
            raise RuntimeError(
                f"{func}: expected all tensors to be on the same device, got one of "
                f"{tuple(mixed[0].shape)} on the CPU"
            )
    device = kwargs.get("device")
    target = bool(any(away)) if device is None else torch.device(device) == ELSEWHERE
    plain_args, plain_kwargs = tree_map(_inner, (args, dict(kwargs)))
    if device is not None:
        plain_kwargs["device"] = torch.device("cpu")
    found = func(*plain_args, **plain_kwargs)
    if func is aten.copy_.default:
        return args[0]
    if not target:
        return found
    wrapped = tree_map(lambda t: Away(t) if isinstance(t, Tensor) else t, found)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if any(away) else wrapped


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Away) else value
