"""Under which name is an object documented? Under the one that users import.

`pgmdiff.graphs.factor_graph` defines `FactorGraph`, and users import it from `pgmdiff.graphs`.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

PACKAGES = (
    "pgmdiff",
    "pgmdiff.composition",
    "pgmdiff.scores",
    "pgmdiff.graphs",
    "pgmdiff.samplers",
    "pgmdiff.conditioning",
    "pgmdiff.gaussian",
    "pgmdiff.precision",
    "pgmdiff.diagnostics",
    "pgmdiff.images",
    "pgmdiff.training",
    "pgmdiff.testing",
    "pgmdiff.plotting",
)
"""Where users import from; of an object in several, the first."""
CHOSEN = ("pgmdiff.errors",)
"""Modules of which `pgmdiff` itself offers what users need."""


def public_name(module: str, name: str) -> str:
    """`pgmdiff.graphs.factor_graph`, `FactorGraph` -> `pgmdiff.graphs.FactorGraph`."""
    thing = getattr(import_module(module), name)
    for package in PACKAGES:
        home = import_module(package)
        if name in home.__all__ and getattr(home, name) is thing:
            return f"{package}.{name}"
    return f"{module}.{name}"


def shown_names(module: str, also: Iterable[str] = ()) -> list[str]:
    """The names of a module that the reference has.

    Packages choose what they offer; the other names of their modules are for the library itself,
    but for those in `also`. Modules of packages that offer nothing show all their names.
    """
    home = import_module(module)
    if not module.startswith(tuple(f"{package}." for package in PACKAGES[1:]) + CHOSEN):
        return list(home.__all__)
    offered = {name for name in home.__all__ if public_name(module, name) != f"{module}.{name}"}
    return [name for name in home.__all__ if name in offered | set(also)]


def public_names() -> Iterator[str]:
    """What the packages offer, each once, without the packages themselves."""
    seen = set()
    for package in PACKAGES:
        home = import_module(package)
        for name in home.__all__:
            thing = getattr(home, name)
            if not inspect.ismodule(thing) and id(thing) not in seen:
                seen.add(id(thing))
                yield f"{package}.{name}"


def resolved(full_name: str) -> Any:
    """The object of a dotted name. A function hides the module of the same name."""
    parts = full_name.split(".")
    thing: Any = import_module(parts[0])
    for k, part in enumerate(parts[1:], 2):
        module = sys.modules.get(".".join(parts[: k - 1]), thing)
        thing = next((getattr(t, part) for t in (thing, module) if hasattr(t, part)), None)
        thing = import_module(".".join(parts[:k])) if thing is None else thing
    return thing


def text_of_data(full_name: str) -> str:
    """The string under the assignment of a constant or an alias, in the module that makes it."""
    thing, name = resolved(full_name), full_name.rsplit(".", 1)[1]
    for module in [m for key, m in sys.modules.items() if key.startswith("pgmdiff")]:
        if getattr(module, name, None) is thing:
            body = ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
            for node, after in pairwise(body):
                if isinstance(node, ast.Assign | ast.AnnAssign) and _assigns(node, name):
                    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                        return inspect.cleandoc(after.value.value)
                    return ""
    return ""


def _assigns(node: ast.Assign | ast.AnnAssign, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def is_data(thing: object) -> bool:
    """Whether it is a constant or an alias of a type, whose docstring stands under it."""
    return not (inspect.ismodule(thing) or inspect.isclass(thing) or inspect.isroutine(thing))


def summary(full_name: str) -> str:
    """The first sentence of what is said of a name."""
    thing = resolved(full_name)
    text = text_of_data(full_name) if is_data(thing) else inspect.getdoc(thing) or ""
    paragraph = text.split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=[.?])\s(?=[A-Z`])", paragraph)[0]
