"""The wall between the library and its user's code: copies go out, and what returns is checked.

User code may write into whatever it is given, and return the same memory at every call. It receives
copies, and what it returns is used or copied before its next call. Results of networks are checked
before any arithmetic: broadcasting would hide a wrong shape, and promotion a wrong dtype.
"""

from collections.abc import Callable, Iterator, Mapping
from dis import get_instructions
from functools import partial
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pgmdiff.errors import PgmdiffError, ScoreError
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.store import captured
from pgmdiff.text import brief, counted

__all__ = ["called", "received", "train_mode_layers", "train_mode_text"]

PLAIN = (int, float, complex, str, bytes, type(None), Tensor, type, ModuleType)
"""What holds no network."""
MOST_OBJECTS = 1000
"""Most objects into which is looked in search of modules."""


def copied(tree: Any) -> Any:
    """A tensor, or a pytree of them, in memory of its own."""
    if isinstance(tree, Tensor):
        return tree.clone()
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)


def on_copies(function: Callable[..., Any], /, *given: Any, **condition: Any) -> Any:
    """What a function returns for copies of what it is given; the library's own need none."""
    if copies(function):
        return function(*given, **condition)
    condition = copied(condition) if condition else condition
    return function(*map(copied, given), **condition)


def called(score: Callable[..., Any], x: Tensor, sigma: Tensor, /, **condition: Any) -> Tensor:
    """What a score or a network returns for copies of its arguments: a tensor like x, also copied.

    Args:
        score: `score(x, sigma, **condition)`; in place of sigma there may be its timesteps.
        x, sigma, condition: its arguments.

    Raises:
        ScoreError: the score returned anything else, see `received`; or it has no gradient where
            one is required, see `check_gradient`.
    """
    who = named(score)
    found = received(on_copies(score, x, sigma, **condition), x, who)
    check_gradient(found, x, who)
    return found if copies(score) else found.clone()


def named(network: object) -> Callable[[], str]:
    """What returns a network's name for an error."""
    return lambda: f"The network {brief(network)}"


def copies(function: Any) -> bool:
    """Whether a function, or the object whose method it is, says that it needs no copies.

    Scores of the library, and a user's own models that promise to write into nothing and to return
    new memory, say so by an attribute `copies`: what must be copied they copy themselves.
    """
    return getattr(getattr(function, "__self__", function), "copies", False) is True


def check_wrapped(who: str, score: object) -> None:
    """Raises `ScoreError` for a network or a denoiser of this library in place of a score."""
    remedy = getattr(score, "score_by", None)
    if remedy is not None:
        raise ScoreError(
            f"{who}: expected a score, got {type(score).__name__}, which returns no score. Give "
            f"{remedy}."
        )


def check_score(who: str, score: object) -> None:
    """Raises `PgmdiffError` unless a score can be called."""
    if not callable(score):
        raise PgmdiffError(
            f"{who}: expected a score, score(x, sigma), got {type(score).__name__}. Compose a "
            "graph with scores first."
        )
    check_wrapped(who, score)


def received(value: Any, like: Tensor, who: Callable[[], str], *, cast: bool = False) -> Tensor:
    """The tensor that user code returned, if it is like another one in shape, dtype and device.

    One that is alone in a tuple, a list or a dict, or is the `.sample` of an output object as
    diffusers returns it, is taken out. Nothing is broadcast.

    Args:
        value: what was returned.
        like: a tensor with the shape, dtype and device that are expected.
        who: returns the name of what was called, for the error.
        cast: whether another floating-point dtype is accepted, and converted.

    Raises:
        ScoreError: it is no such tensor; the message says what was received.
    """
    found = value if isinstance(value, Tensor) else alone(value)
    if isinstance(found, Tensor):
        fits = found.dtype == like.dtype or (cast and found.is_floating_point())
        if fits and found.shape == like.shape and found.device == like.device:
            return found if found.dtype == like.dtype else found.to(like.dtype)
        got = f"shape {tuple(found.shape)}, {found.dtype} on {found.device}"
        remedy = "Convert inside the model: nothing is broadcast or cast."
    else:
        got, remedy = type(value).__name__, "Wrap it in a function that returns the one tensor."
        if isinstance(value, tuple | list | dict):
            got = f"{got} of {counted(len(value), 'value')}"
    raise ScoreError(
        f"{who()} must return a tensor of shape {tuple(like.shape)}, {like.dtype} on "
        f"{like.device}; got {got}. {remedy}"
    )


def alone(value: Any) -> Any:
    """The one tensor in an output that is no tensor itself, or the output."""
    sample = getattr(value, "sample", None)
    if isinstance(sample, Tensor):
        return sample
    entries = list(value.values()) if isinstance(value, dict) else value
    return entries[0] if isinstance(entries, tuple | list) and len(entries) == 1 else value


def train_mode_layers(function: Any, known: dict[int, set[str]] | None = None) -> set[str]:
    """The kinds of layers in train mode that a callable holds and whose results depend on it.

    These are dropout, batch normalisation, and any layer whose own `forward` reads `training`.
    Modules are sought in methods, partial functions, closures and the globals that functions read,
    and in attributes and containers, but not in joints, whose networks `compose` has looked at.

    Args:
        function: a score, a network or anything that holds one.
        known: what was found in modules already, by id; it grows.
    """
    known = {} if known is None else known
    found: set[str] = set()
    left, seen = [function], set[int]()
    while left and len(seen) < MOST_OBJECTS:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if getattr(type(value), "told_of_train_mode", False):
            continue
        if not isinstance(value, nn.Module):
            held = islice(_held(value), MOST_OBJECTS)
            left.extend(each for each in held if not isinstance(each, PLAIN))
        elif id(value) not in known:
            layers = (layer for layer in value.modules() if layer.training)
            known[id(value)] = {type(layer).__name__ for layer in layers if _differs(layer)}
        found |= known.get(id(value), set())
    return found


def train_mode_text(layers: set[str]) -> str:
    """What layers in train mode do, and the remedy."""
    return (
        f"in train mode ({', '.join(sorted(layers))}): results are random or depend on the batch. "
        "Call network.eval() first."
    )


def _held(value: Any) -> Iterator[Any]:
    """What a callable that is no module holds, and may call."""
    if isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, FunctionType):
        yield from captured(value)
        yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        if str(value.__module__).partition(".")[0] not in ("pgmdiff", "torch"):
            read = {i.argval for i in get_instructions(value) if i.opname == "LOAD_GLOBAL"}
            yield from (value.__globals__[name] for name in read & value.__globals__.keys())
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, tuple | list | set | frozenset):
        yield from value
    else:
        yield from getattr(value, "__dict__", {}).values()


def _differs(layer: nn.Module) -> bool:
    """Whether a layer computes something else in train mode."""
    if any(vars(layer).get(name) == 0 for name in ("p", "dropout", "drop_prob")):
        return False
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        return layer.track_running_stats
    code = getattr(getattr(type(layer), "forward", None), "__code__", None)
    names = code.co_names if code else ()  # torch's transformers choose a faster path by it
    harmless = type(layer).__module__ in ("torch.nn.modules.transformer", "diffusers.models.resnet")
    return "training" in names and "gradient_checkpointing" not in names and not harmless
