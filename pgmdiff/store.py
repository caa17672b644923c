"""Files of tensors and facts that are whole or not there, and fingerprints of what made them.

A file is written beside its place, flushed to the disk and then renamed, so that a program that is
killed, or a disk that is full, leaves what was there before. It is a safetensors file, whose
metadata hold the facts as JSON and a SHA-256 of all its bytes; nothing in it is ever executed.
"""

import copyreg
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cached_property, partial
from hashlib import sha256
from numbers import Number
from pathlib import Path
from random import Random
from secrets import token_hex
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import ReferenceType

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions.utils import lazy_property

from pgmdiff.errors import PgmdiffError

__all__ = ["fingerprint", "load", "save"]

DEEPEST = 5
"""How many times parts of parts are named in an outline."""

BLANK = "0" * 64
"""What stands in the place of a file's SHA-256 while it is computed."""

LIBRARIES = ("numpy", "pgmdiff", "scipy", "torch")
"""Packages whose code counts by name."""

OTHERS = {*LIBRARIES, *sys.stdlib_module_names}
"""Packages that are not the user's."""

HOLDERS = ("argparse", "builtins", "collections", "datetime", "decimal", "enum", "fractions",
           "functools", "pathlib", "types")  # fmt: skip
"""Packages of Python whose objects hold values, also as globals of functions."""

TOOLS = ("concurrent", "logging", "multiprocessing", "queue", "threading")
"""Packages of Python whose objects change by use: they count by their type."""

OF_MODULES = {*vars(nn.Module()), "_compiled_call_impl"}
"""Attributes that every `torch.nn.Module` has."""

OPEN = (torch.distributions.Distribution, type(torch.distributions.ExpTransform().inv))
"""Classes of torch that hold what they consist of in attributes with a leading underscore."""

CACHES = re.compile("_cache|__adj$|^_(data|transform|tree|moment_methods)$|^_(has|vertex)_")
"""Names of attributes of scipy's objects that change by use."""

TREE = "data", "leafsize", "boxsize"
"""What a k-d tree of scipy is made of."""

STREAMS = (Iterator, Random, torch.Generator, np.random.Generator, np.random.RandomState,
           np.random.BitGenerator, np.random.SeedSequence)  # fmt: skip
"""Objects that change by use: they count by their type."""

COMPILED = "_torchdynamo_orig_callable"
"""The attribute of a function of torch.compile that holds what was compiled."""

UNSET = CellType()
"""The cell of a variable that has no value yet."""

PLAIN = (type(None), Number, str, bytes, torch.dtype, Path, np.generic)
VALUES = (*PLAIN, Tensor, np.ndarray, Mapping, list, tuple)
"""Objects of which the value counts and, where a user's class adds some, the attributes."""

SETTINGS = (*VALUES, FunctionType, BuiltinFunctionType)
"""What attributes of torch's own modules may be to count, such as an activation."""


def save(
    path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None
) -> None:
    """Writes tensors and facts to a file, whole or not at all.

    Args:
        path: the file, whose name usually ends in `.safetensors`; its folder is made if need be.
        tensors: by name; dense, of any device, and they may share memory.
        facts: what JSON can hold: numbers, text, lists (tuples become lists) and dicts of these
            by text; none if None.

    Raises:
        PgmdiffError: the folder cannot be written, or the disk is full; a tensor or a fact cannot
            be saved; a file that was there before is unchanged.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{token_hex(4)}.part")  # another may write it, too
    data = _made_bytes(tensors, facts or {})
    for again in (True, False):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            if os.name == "posix":  # the new name is on the disk only once the folder is
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            return
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            if again and isinstance(error, FileNotFoundError):
                continue  # another process took it for a part that was left
            raise PgmdiffError(
                f"store: expected to write {path}, got {error.strerror or error}. Free space on "
                "the disk, or give a folder that you may write to; what was there before is "
                "unchanged."
            ) from error


def _made_bytes(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """What a file consists of; its SHA-256 is that of all bytes with BLANK in its place."""
    import safetensors.torch as safe

    for name, value in tensors.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise PgmdiffError(
                "store: expected text as the names of tensors, other than '__metadata__', got "
                f"{name!r}. Rename it."
            )
        dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
        if not dense or value.is_meta:
            kind = f"{value.layout} on {value.device}" if isinstance(value, Tensor) else type(value)
            kind = "a nested tensor" if getattr(value, "is_nested", False) else kind
            raise PgmdiffError(
                f"store: expected a dense tensor with values as {name!r}, got {kind}. Use "
                "torch.as_tensor for arrays, to_dense() for sparse tensors, and to_padded_tensor() "
                "for nested ones."
            )
    try:
        said = json.dumps(facts)
    except (TypeError, ValueError, RecursionError) as error:
        raise PgmdiffError(
            f"store: expected facts that JSON can hold, got some that it cannot ({error}). Give "
            "tensors and arrays among the tensors, and numbers as int or float."
        ) from error
    _check_names(facts)
    place = token_hex(32)  # no fact holds that
    try:
        apart = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in tensors.items()
        }
        data = safe.save(apart, {"facts": said, "sha256": place})
    except (KeyError, UnicodeError) as error:
        raise PgmdiffError(
            f"store: expected names and dtypes that safetensors can hold, got {error}. Convert the "
            "tensor, or rename it."
        ) from error
    before, _, after = data.partition(place.encode())
    digest = sha256(before + BLANK.encode())
    digest.update(after)
    return b"".join([before, digest.hexdigest().encode(), after])


def _check_names(facts: Any) -> None:
    """Refuses names that are no text: JSON makes them text, under which another fact may be."""
    for name in facts if isinstance(facts, Mapping) else ():
        if not isinstance(name, str):
            raise PgmdiffError(
                f"store: expected text as the names of facts, got {name!r}, which JSON would write "
                "as text. Write str(name)."
            )
    for each in facts.values() if isinstance(facts, Mapping) else facts:
        if isinstance(each, Mapping | list | tuple):
            _check_names(each)


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save` wrote: tensors, on the CPU, and facts.

    Args:
        path: the file, which may be untrusted: it is parsed and checked, and never executed.

    Raises:
        PgmdiffError: there is no such file, or it is truncated, corrupted or of another kind.
    """
    import safetensors.torch as safe

    try:
        data = Path(path).read_bytes()
        size = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + size])["__metadata__"]
        blank = data.replace(about["sha256"].encode(), BLANK.encode(), 1)
        if sha256(blank).hexdigest() != about["sha256"]:
            raise ValueError("another SHA-256")
        return safe.load(data), json.loads(about["facts"])
    except FileNotFoundError:
        raise PgmdiffError(f"store: there is no file {path}. Give one that `save` wrote.") from None
    except Exception as error:  # damage may raise anything
        raise PgmdiffError(
            f"store: expected {path} as it was written, but it is truncated, corrupted or of "
            f"another kind ({type(error).__name__}: {error}). Use an earlier file."
        ) from error


def fingerprint(thing: object) -> str:
    """SHA-256 of what an object consists of: equal in every process that makes it alike.

    It reads the bytes of tensors, arrays, parameters and buffers; numbers and text; containers and
    attributes, those of a user's classes included; of functions the code, the defaults, and the
    variables that they use, also those in modules. An
    attribute `fingerprint` that is a string stands for all of its object: set it where a model is
    too large to be hashed (one or two seconds per GB), or counts its own calls.

    It does not see the code of methods of classes, hooks of networks, what compiled extensions and
    torch.jit hold, the state of random generators, loggers and locks, or files; functions of
    pgmdiff, torch and any other package count by name. Cached and lazy properties are left out, as
    are attributes with a leading underscore where they are caches: most of libraries, and those of
    dataclasses whose field has a default.

    Args:
        thing: a score, a solver, a condition, or any other object.

    Raises:
        PgmdiffError: the object is nested too deeply.

    Example:
        >>> import torch
        >>> from pgmdiff.gaussian import Gaussian
        >>> from pgmdiff.store import fingerprint
        >>> narrow, wide = (Gaussian(torch.zeros(2), v * torch.eye(2)) for v in (1.0, 2.0))
        >>> fingerprint(narrow.score) == fingerprint(wide.score)
        False
    """
    return _hashed(thing, {})


def outline(thing: object) -> Any:
    """Fingerprints of an object and of its parts by name, so that a difference has a name.

    Parts are what an attribute `outline` maps, the fields of pgmdiff's dataclasses, what `partial`
    holds, and the variables of functions; "all" is the object's own fingerprint, in 16 letters,
    which stands alone where there are no parts.

    Raises:
        PgmdiffError: the object is nested too deeply.
    """
    known: dict[int, tuple[bytes, object]] = {}

    def outlined(each: Any, depth: int) -> Any:
        parts = _named_parts(each) if depth else {}
        whole = _hashed(each, known)[:16]
        named = {str(name): outlined(part, depth - 1) for name, part in parts.items()}
        return {**named, "all": whole} if named else whole

    return outlined(thing, DEEPEST)


def _named_parts(thing: Any) -> Mapping[Any, Any]:
    """What a difference between two such objects may be in."""
    if isinstance(given := getattr(thing, "outline", None), Mapping):
        return given
    if isinstance(getattr(thing, "fingerprint", None), str):
        return {}
    if isinstance(thing, partial):
        return {"function": thing.func, **dict(enumerate(thing.args)), **thing.keywords}
    if isinstance(thing, FunctionType):
        cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
        return {name: cell.cell_contents for name, cell in cells if cell != UNSET}
    if is_dataclass(thing) and _root(thing) == "pgmdiff":
        names = (f.name for f in fields(thing) if not f.name.startswith("_"))
        return {name: getattr(thing, name) for name in names}
    return {}


def _hashed(thing: object, known: dict[int, tuple[bytes, object]]) -> str:
    try:
        return _digest(thing, known).hex()
    except RecursionError:
        raise PgmdiffError(
            f"fingerprint: this {type(thing).__name__} is nested too deeply. Give it an attribute "
            "`fingerprint`, text that names it."
        ) from None


def captured(function: FunctionType) -> Iterator[Any]:
    """The values of the variables that a function closes over, but for those not set yet."""
    return (cell.cell_contents for cell in function.__closure__ or () if cell != UNSET)


def _digest(thing: Any, known: dict[int, tuple[bytes, object]]) -> bytes:
    """The digest of an object; known ones, by id, hold those that contain themselves."""
    if isinstance(thing, ReferenceType):  # weak ones are for caches
        thing = None
    if id(thing) not in known:
        known[id(thing)] = b"itself", thing
        digest = sha256(f"{type(thing).__module__}.{type(thing).__qualname__}".encode())
        for part in _parts(thing):
            digest.update(part if isinstance(part, bytes) else _digest(part, known))
        if isinstance(thing, Set):
            digest.update(b"".join(sorted(_digest(each, known) for each in thing)))
        known[id(thing)] = digest.digest(), thing
    return known[id(thing)][0]


def _parts(thing: Any) -> Iterator[Any]:
    """What an object consists of: bytes, or objects in turn."""
    named = None if isinstance(thing, type) else getattr(thing, "fingerprint", None)
    if isinstance(thing, VALUES) and _root(thing) not in OTHERS and not isinstance(named, str):
        yield dict(getattr(thing, "__dict__", {}))
    if isinstance(named, str):
        yield named.encode()
    elif isinstance(thing, PLAIN):
        yield repr(thing).encode()
    elif isinstance(thing, type | ModuleType):
        yield thing.__name__.encode()
    elif isinstance(thing, Tensor):
        dense = thing.detach().cpu()
        dense = dense if dense.layout == torch.strided else dense.to_dense()
        dense = dense.resolve_conj().resolve_neg().contiguous()
        yield repr((dense.dtype, tuple(dense.shape))).encode()
        values: Any = dense.reshape(-1).view(torch.uint8).numpy()
        yield sha256(values).digest()
    elif isinstance(thing, np.ndarray):
        yield repr((thing.dtype, thing.shape)).encode()
        yield thing.tolist() if thing.dtype.hasobject else sha256(thing.tobytes()).digest()
    elif isinstance(thing, nn.Module):
        yield repr(thing).encode()
        yield [*thing.named_parameters(), *thing.named_buffers()]
        for module in thing.modules():
            own = _root(module) in LIBRARIES  # which keep ids of the process and caches there
            for name, value in vars(module).items():
                mine = not own and name not in OF_MODULES
                if mine or (not name.startswith("_") and isinstance(value, SETTINGS)):
                    yield from (name, value)
            yield from _of_classes(module)
    elif isinstance(thing, FunctionType) and hasattr(thing, COMPILED):
        yield getattr(thing, COMPILED)
    elif isinstance(thing, FunctionType):
        yield thing.__qualname__.encode()
        yield [thing.__defaults__, thing.__kwdefaults__]
        yield from captured(thing)
        root = _root(thing)
        if root not in OTHERS:
            yield thing.__code__
            for each in _used(thing):
                package = _root(each)
                if isinstance(each, FunctionType) and package not in (root, *LIBRARIES):
                    yield f"{each.__module__}.{each.__qualname__}".encode()
                elif package in HOLDERS or package not in sys.stdlib_module_names:
                    yield each
    elif isinstance(thing, CodeType):
        yield thing.co_code
        yield [thing.co_names, thing.co_consts]
    elif isinstance(thing, MethodType):
        yield [thing.__func__, thing.__self__]
    elif isinstance(thing, partial):
        yield [thing.func, thing.args, thing.keywords]
    elif isinstance(thing, Mapping):
        yield from (part for item in thing.items() for part in item)
    elif isinstance(thing, list | tuple):
        yield from thing
    elif _root(thing) not in TOOLS:
        made = fields(thing) if is_dataclass(thing) else ()
        given = {f.name for f in made if f.default is MISSING and f.default_factory is MISSING}
        of_scipy = _root(thing) == "scipy"
        opaque = _root(thing) in LIBRARIES and not (of_scipy or isinstance(thing, OPEN))
        slots = copyreg._slotnames(type(thing))  # type: ignore[attr-defined]
        held = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
        held = {**getattr(thing, "__dict__", {}), **held}
        yield from _of_classes(thing)
        bare = not isinstance(thing, (Set, *STREAMS))
        for name, value in held.items():
            lazy = isinstance(getattr(type(thing), name, None), cached_property | lazy_property)
            hidden = (made or opaque) and name.startswith("_") and name not in given
            if not (lazy or hidden or (of_scipy and CACHES.search(name))):
                bare = False
                yield from (name, value)
        if bare:
            yield from _made_of(thing)


def _of_classes(thing: object) -> Iterator[Any]:
    """The names and values of attributes of a user's classes, but for methods."""
    for each in type(thing).__mro__:
        if each.__module__.split(".")[0] not in OTHERS:
            for name, value in vars(each).items():
                if not (name.startswith("__") or hasattr(value, "__get__")):
                    yield from (name, value)


def _made_of(thing: object) -> Iterator[Any]:
    """What makes an object without attributes again, such as a slice, or a function in C."""
    known = copyreg.dispatch_table.get(type(thing))
    try:
        made = known(thing) if known else thing.__reduce_ex__(2)
    except Exception:  # it cannot be made again, such as a lock
        return
    if isinstance(made, str):
        yield f"{getattr(thing, '__module__', '')}.{made}".encode()
    else:
        state = () if getattr(thing, "__dict__", None) else made[2:3]  # or it is of attributes
        if all(hasattr(thing, name) for name in TREE):  # whose state has addresses
            state = tuple(getattr(thing, name) for name in TREE)
        items = (list(each) for each in made[3:] if each)
        yield from (*made[:2], *state, *items)


def _used(function: FunctionType) -> list[Any]:
    """The values of the globals that a function uses, those in modules of users included."""
    names = _names(function.__code__)
    used = [function.__globals__.get(name) for name in names]
    modules = [each for each in used if isinstance(each, ModuleType)]
    for module in modules:
        if module.__name__.split(".")[0] not in OTHERS:
            found = [vars(module)[name] for name in names if name in vars(module)]
            modules += [m for m in found if isinstance(m, ModuleType) and m not in modules]
            used += found
    return used


def _root(thing: object) -> str:
    """The package in which a function or the class of an object was defined."""
    module = thing.__module__ if isinstance(thing, FunctionType) else type(thing).__module__
    return (module or "").split(".")[0]  # functions made by exec have none


def _names(code: CodeType) -> list[str]:
    """The names of the globals and attributes that a function uses, those within it included."""
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return [*code.co_names, *(name for each in inner for name in _names(each))]
