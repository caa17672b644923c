"""Names of variables, factors, regions and models: what can be one, and which are unknown.

A name is found again by equality, so that whatever equals no copy of itself cannot be a name.
"""

from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from pgmdiff.errors import GraphError, nearest
from pgmdiff.text import brief

__all__ = ["check_known", "check_mapping", "check_names"]

PLAIN = {str, int, bool, bytes, type(None), np.str_, np.int64, np.int32}
"""Types of which everything can be a name."""


def check_names(who: str, names: Collection[Any]) -> None:
    """Raises `GraphError` unless all can be names, as can the parts of tuples and frozensets."""
    while not set(map(type, names)) <= PLAIN:  # as those of a million names commonly are
        parts: list[Any] = []
        for name in names:
            if type(name) in PLAIN:
                continue
            if isinstance(name, tuple | frozenset):
                parts.extend(name)
                continue
            if isinstance(name, Tensor):
                problem = "tensors that are equal are different names. Convert them with .tolist()."
            elif not isinstance(name, Hashable):
                problem = "names must be hashable. Use a string, a number or a tuple."
            elif not _equals_itself(name):
                problem = "it does not equal itself. Use a string, a number or a tuple."
            else:
                continue
            text = repr(name) if isinstance(name, Tensor) and name.ndim == 0 else brief(name)
            kind = type(name).__name__
            raise GraphError(f"{who}: {text} of type {kind} cannot be a name: {problem}")
        names = parts


def _equals_itself(name: object) -> bool:
    """Whether a name is neither NaN nor another value that stands for a missing one."""
    try:
        return bool(name == name)
    except (TypeError, ValueError, ArithmeticError):
        return False


def check_mapping(who: str, what: str, given: object, remedy: str) -> None:
    """Raises `GraphError` unless something that is given per name is a mapping."""
    if not isinstance(given, Mapping):
        got = type(given).__name__
        raise GraphError(f"{who}: expected {what} as a dict, got {got}. {remedy}")


def check_known(
    what: str, given: Iterable[Hashable], known: Collection[Hashable], kind: str, remedy: str
) -> None:
    """Raises `GraphError` for a name that is unknown: "`what` name, which is no `kind`"."""
    for name in given:
        if name not in known:
            hint = nearest(name, known)
            raise GraphError(f"{what} {name!r}, which is no {kind}.{hint} {remedy}")
