"""Scores from and joints for other libraries. Importing this imports none of them.

    library       in                                   out
    diffusers     `diffusers.from_diffusers`           `diffusers.drive`
    azula         `azula.from_azula`                   `azula.to_azula`
    k-diffusion   `k_diffusion.from_k_diffusion`       `k_diffusion.to_k_diffusion`
    EDM           `k_diffusion.from_k_diffusion`
    deepinv       `deepinv.from_deepinv`               its physics condition joints as they are
    sbi           `sbi.from_sbi`, `sbi.tall_data`

`latents` decodes large latents without seams.
"""

from importlib import import_module as _import_module
from types import ModuleType as _ModuleType

_LATER = ("azula", "deepinv", "diffusers", "k_diffusion", "latents", "sbi")


def __getattr__(name: str) -> _ModuleType:
    if name in _LATER:
        return _import_module(f"pgmdiff.integrations.{name}")
    raise AttributeError(f"module 'pgmdiff.integrations' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*_LATER, "__doc__", "__file__", "__name__", "__path__"})
