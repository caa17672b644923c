"""Small networks, and the bundled weights with their cards."""

from importlib import import_module as _import_module
from types import ModuleType as _ModuleType

_LATER = ("gravel", "sea", "soft_gravel", "unet")


def __getattr__(name: str) -> _ModuleType:
    if name in _LATER:
        return _import_module(f"pgmdiff.models.{name}")
    raise AttributeError(f"module 'pgmdiff.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*_LATER, "__doc__", "__file__", "__name__", "__path__"})
