"""The names under which the reference documents objects: those that users import.

`pgmdiff.graphs.factor_graph` defines `FactorGraph`, and users import it from `pgmdiff`.
"""

from collections.abc import Iterable
from importlib import import_module

__all__ = ["PACKAGES", "public_name", "shown_names"]

PARTS = (
    "composition scores graphs samplers conditioning gaussian precision diagnostics images "
    "training testing plotting distributed"
)
PACKAGES = ("pgmdiff", *(f"pgmdiff.{part}" for part in PARTS.split()))
"""Packages from which users import; an object that several offer belongs to the first."""


def public_name(module: str, name: str) -> str:
    """`pgmdiff.graphs.factor_graph`, `FactorGraph` -> `pgmdiff.FactorGraph`."""
    thing = getattr(import_module(module), name)
    for package in map(import_module, PACKAGES):
        if name in package.__all__ and getattr(package, name) is thing:
            return f"{package.__name__}.{name}"
    return f"{module}.{name}"


def shown_names(module: str, also: Iterable[str] = ()) -> list[str]:
    """The names of a module that the reference documents.

    Of a module inside one of the packages, these are the names that a package offers, and those in
    `also`: the rest serves the library itself. Other modules show all of their `__all__`.
    """
    inside = module.startswith((*(f"{package}." for package in PACKAGES[1:]), "pgmdiff.errors"))
    return [
        name
        for name in import_module(module).__all__
        if not inside or name in also or public_name(module, name) != f"{module}.{name}"
    ]
