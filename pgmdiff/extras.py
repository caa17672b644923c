"""Optional libraries: imported only when asked for, and missed with a remedy."""

from importlib import import_module
from typing import Any

__all__ = ["required"]


def required(module: str, who: str, extra: str) -> Any:
    """Imports a module of an optional library.

    Args:
        module: such as `skimage.data`.
        who: what needs it, for the message.
        extra: of pgmdiff, that brings the library.

    Raises:
        ImportError: the library is not installed; names the extra.
    """
    library = module.split(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise ImportError(
            f"{who} needs {library}, which is not installed. Run: pip install 'pgmdiff[{extra}]'",
            name=library,
        ) from error
