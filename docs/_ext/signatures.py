"""Signatures that name types as the source does: `Score`, not the callable that it stands for.

Sphinx keeps the names of aliases in annotations that Python has not evaluated. This extension
therefore compiles the library as if each module began with `from __future__ import annotations`; it
must be loaded before the library is imported.
"""

import __future__

import inspect
import sys
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType
from typing import get_origin

from sphinx.application import Sphinx
from sphinx.util.inspect import TypeAliasForwardRef

ARRAYS = {"Ints": "ndarray", "Floats": "ndarray", "Bools": "ndarray", "npt.ArrayLike": "ArrayLike"}
"""Names of types in annotations that the reference does not document."""


class Postponed(SourceFileLoader):
    """Compiles a module without evaluating its annotations, and caches no bytecode."""

    def get_code(self, fullname: str) -> CodeType:
        flags = __future__.annotations.compiler_flag
        return compile(self.get_data(self.path), self.path, "exec", flags, dont_inherit=True)


class Finder(PathFinder):
    """Finds the modules of the library."""

    @classmethod
    def find_spec(cls, fullname: str, path=None, target=None) -> ModuleSpec | None:
        ours = fullname.partition(".")[0] == "pgmdiff"
        spec = super().find_spec(fullname, path, target) if ours else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Postponed(fullname, spec.loader.path)
        return spec


def aliases() -> dict[str, str]:
    """Public names of types that are not classes, such as `Score`."""
    modules = [module for name, module in sys.modules.items() if name.startswith("pgmdiff.")]
    offered = {name: vars(m)[name] for m in modules for name in getattr(m, "__all__", ())}
    return {name: name for name, thing in offered.items() if get_origin(thing) is not None}


def shown(app: Sphinx, what, name, thing, options, arguments: str, returns: str):
    """Hides constructors that require private arguments: users then have others."""
    if what == "class":
        with suppress(TypeError, ValueError):
            given = inspect.signature(thing).parameters.values()
            if any(p.name.startswith("_") and p.default is p.empty for p in given):
                return "", None
    return arguments and arguments.replace("<factory>", "..."), returns


def setup(app: Sphinx) -> dict:
    sys.meta_path.insert(0, Finder)
    import_module("pgmdiff.images.latents")
    TypeAliasForwardRef.__repr__ = lambda self: self.name  # inside of other types
    app.config.autodoc_type_aliases = aliases() | ARRAYS
    app.connect("autodoc-process-signature", shown)
    return {"parallel_read_safe": True}
