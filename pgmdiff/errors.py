"""Exceptions of the library, parts of their messages, and optional libraries.

Every message names the object, what was expected, what was received, and the remedy. Where no
check knows what is wrong, and Python, PyTorch or NumPy stumbles over an argument, `in_words` makes
the message of what is written already: the annotations, and the docstring's sentences.
"""

import inspect
import re
import reprlib
import sys
import warnings
from collections.abc import Callable, Hashable, Iterable
from difflib import get_close_matches
from functools import wraps
from importlib import import_module
from math import inf
from numbers import Integral, Real
from types import TracebackType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = [
    "GraphError",
    "PgmdiffError",
    "ScoreError",
    "ShapeError",
    "check_scale",
    "in_words",
    "nearest",
    "required",
    "shape_text",
    "warn",
]


class PgmdiffError(ValueError):
    """Base class of all exceptions of this library."""


class GraphError(PgmdiffError):
    """A graph or its counting numbers are invalid."""


class ShapeError(PgmdiffError):
    """A tensor or a shape does not fit."""


class ScoreError(PgmdiffError):
    """A score is missing, or returned an unusable value."""


def check_scale(who: str, name: str, value: float) -> None:
    """Raises `PgmdiffError` unless a standard deviation of data is positive and finite."""
    if not 0 < value < inf:
        raise PgmdiffError(
            f"{who}: expected a positive {name}, got {value}. Give the standard deviation of the "
            "clean data."
        )


def warn(text: str) -> None:
    """Warns, at the line from which the library was called."""
    frame, level, inside = sys._getframe(1), 2, ("pgmdiff", "torch")
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def note(error: Exception, text: str) -> None:
    """Adds to an error a note that says where it arose; Python shows it from 3.11 on."""
    if hasattr(error, "add_note"):
        error.add_note(f"pgmdiff: {text}")


def shape_text(lead: str, event: Iterable[int]) -> str:
    """A shape as messages write it: `[*batch, 3, 16, 16]`."""
    return f"[{', '.join([lead, *map(str, event)])}]"


def nearest(name: Hashable, known: Iterable[Hashable]) -> str:
    """A hint for the end of a message: the known name closest to an unknown one, if any is close.

    Only the first 1,000 known names are compared.
    """
    names = [each for each in known if isinstance(each, str)][:1000]
    close = get_close_matches(name, names, 1) if isinstance(name, str) else []
    return f" Did you mean {close[0]!r}?" if close else ""


def required(module: str, who: str, extra: str) -> Any:
    """A module of an optional library, imported.

    Args:
        module: the module's name, such as `skimage.data`.
        who: what needs it, for the message.
        extra: the extra of pgmdiff that installs the library.

    Raises:
        ImportError: the library is not installed; the message names the extra.
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


RAW: tuple[type[Exception], ...] = (ArithmeticError, AssertionError, AttributeError, LookupError)
RAW += (RuntimeError, TypeError, ValueError)
"""What a wrong argument raises where nothing looks at it."""
FULL = re.compile("(out of|enough|allocate) memory")
CALL = re.compile(r"\S+\(\) (missing \d+ required|takes (from )?\d+|got (an unexpected|multiple)) ")
"""What Python says of a call that does not fit a function's arguments."""
OURS = {*["matplotlib", "networkx", "numpy", "pgmdiff", "scipy", "torch"], *sys.stdlib_module_names}
"""Modules whose errors are about the arguments; those of others, and of networks, pass."""
CALLED = ("__init__", "__call__", "forward")
"""Methods that are called by the name of their object."""


def in_words(package: str) -> None:
    """Makes the public functions and objects of a package name the arguments they cannot use.

    Functions, constructors and public methods raise a `PgmdiffError` in place of a raw error, with
    the raw one as its cause. Errors within functions and networks that the user gave pass
    unchanged; so do those of calls that do not fit the arguments of such, with a note. Functions
    and constructors refuse a class in place of an instance immediately: many classes can be called,
    and would fail later. A call that succeeds costs one more Python frame.

    Args:
        package: its name. What it lists in `__all__` is public, as are modules listed there; of
            classes also those that the modules of public names use, as their functions return them.
    """
    names, homes = vars(sys.modules[package]), set()
    for name in names["__all__"]:
        thing = names.get(name)
        if inspect.ismodule(thing):
            in_words(thing.__name__)
        elif inspect.isfunction(thing):
            home = vars(sys.modules[thing.__module__])
            names[name] = home[name] = _worded(home[name], name, thing)
        homes.add(getattr(thing, "__module__", package))
    for thing in {t for home in homes for t in vars(sys.modules[home]).values() if _is_own(t)}:
        for method, value in list(vars(thing).items()):
            who = thing.__name__ if method in CALLED else f"{thing.__name__}.{method}"
            if isinstance(value, classmethod) and not method.startswith("_"):
                setattr(thing, method, classmethod(_worded(value.__func__, who, value.__func__)))
            elif method == "__init__":
                setattr(thing, method, _worded(value, who, thing))
            elif inspect.isfunction(value) and (method in CALLED or not method.startswith("_")):
                setattr(thing, method, _worded(value, who, value))


def _is_own(thing: Any) -> bool:
    """Whether something is a class of this library that users construct or call."""
    return (
        inspect.isclass(thing)
        and thing.__module__.startswith("pgmdiff.")
        and not issubclass(thing, BaseException)
        and not getattr(thing, "_is_protocol", False)
    )


def _worded(function: Callable[..., Any], who: str, documented: Any) -> Callable[..., Any]:
    """The function, whose raw errors name the arguments that it could not use."""
    if hasattr(function, "in_words"):
        return function
    first = function.__code__.co_varnames[:1]
    skipped = first == ("cls",)
    method = first == ("self",) and not inspect.isclass(documented)  # calls of these must be cheap

    @wraps(function)
    def worded(*args: Any, **kwargs: Any) -> Any:
        if not method and any(map(inspect.isclass, (*args[skipped:], *kwargs.values()))):
            _check_classes(function, who, args, kwargs)
        try:
            return function(*args, **kwargs)
        except RAW as error:
            ours = type(error).__module__.startswith("pgmdiff.")
            if ours or isinstance(error, RecursionError) or FULL.search(str(error)):
                raise
            frame, own = sys._getframe(1), "pgmdiff."
            while frame.f_code.co_name.endswith("_call_impl") and frame.f_back:  # of a network
                frame, own = frame.f_back, "pgmdiff.models."
            known = inspect.signature(function).parameters
            several = {name for name, each in known.items() if "VAR_KEY" in each.kind.name}
            # Options are refused by the function that they are passed on to.
            if kwargs.keys() - known.keys() and (hasattr(error, "refuses") or not several):
                vars(error)["refuses"] = True
                accepted = [name for name in known if name not in {"self", "cls", *several}]
                if f"{who} accepts" not in str(error):
                    text = f"{str(error).rstrip('.')}. {who} accepts {', '.join(accepted)}."
                    error.args = (text,)
                raise
            # The call from outside names its own arguments.
            within = frame.f_globals.get("__name__", "").startswith(own)
            if within or _passes(error.__traceback__ and error.__traceback__.tb_next):
                raise
            if CALL.match(str(error)):  # the library's own calls fit: this is a user's function
                note(
                    error,
                    f"while {who} called a function that it was given. Other arguments are set "
                    "with functools.partial, or given as conditions: of nodes to compose "
                    "(conditions=, null_condition=), of samples to the call of the joint.",
                )
                raise
            wrong, said = _refusal(function, documented, args, kwargs)
            first = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            text = f"{who}: {said}. See help({who}). It failed with {first}"
            if not wrong:
                text = f"{who}: it failed with {first}. Arguments: {said}. See help({who})."
            raise PgmdiffError(text) from error

    vars(worded)["in_words"] = True
    return worded


def _check_classes(function: Callable[..., Any], who: str, args: Any, kwargs: Any) -> None:
    """Raises `PgmdiffError` for a class, unless the argument is a function that returns such."""
    hints = _hints(function)
    try:
        given = inspect.signature(function).bind_partial(*args, **kwargs).arguments
    except TypeError:  # the call says so itself
        return
    for name, value in given.items():
        hint = hints.get(name)
        if hint is Hashable:  # a name may be a class
            continue
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
        made = [get_args(kind)[-1] for kind in kinds if get_origin(kind) is Callable]
        made = [each for each in made if isinstance(each, type)]
        if isinstance(value, type) and name != "cls" and not issubclass(value, tuple(made)):
            raise PgmdiffError(
                f"{who}: expected an instance of {value.__name__} as {name}, got the class itself. "
                f"Make one, {value.__name__}(...)."
            )


def _passes(trace: TracebackType | None) -> bool:
    """Whether an error was raised by the call itself, or within what the user gave."""
    own = ""  # the latest module of this library
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        called = trace.tb_frame.f_code.co_name == "_call_impl"  # of a network
        if (called and not own.startswith("pgmdiff.models.")) or module.partition(".")[
            0
        ] not in OURS:
            return True
        own, trace = module if module.startswith("pgmdiff") else own, trace.tb_next
    return not own


def _refusal(function: Callable[..., Any], documented: Any, args: Any, kw: Any) -> tuple[bool, str]:
    """The arguments of a wrong type and whether there are any, or all if each has the right one."""
    signature, sentences = inspect.signature(function), dict(_sentences(documented))
    values = signature.bind(*args, **kw).arguments
    hints = _hints(function)
    several = {name for name, each in signature.parameters.items() if "VAR" in each.kind.name}
    shown = [name for name in values if name not in ("self", "cls")]
    wrong = [n for n in shown if n not in several and not _fits(values[n], hints.get(n))]
    parts = []
    for name in wrong or shown:
        kind = inspect.formatannotation(hints[name]) if name in hints else ""
        kind = re.sub(r"\b\w+\.", "", f" as {kind}") * bool(kind)
        about = f" ({sentences[name]})" if name in sentences else ""
        words, held = f"{name}{kind}{about}", _shown(values[name])
        parts.append(f"expected {words}, got {held}" if wrong else f"{words}: {held}")
    return bool(wrong), "; ".join(parts)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations; none where one names a type that is known to type checkers only."""
    try:
        return get_type_hints(function)
    except NameError:
        return {}


def _sentences(documented: Any) -> Iterable[tuple[str, str]]:
    """Each argument with the first sentence on it, from the docstring's section "Args:"."""
    _, _, text = (inspect.getdoc(documented) or "").partition("\nArgs:\n")
    for entry in re.findall(r"^ {4}(\w.*(?:\n {5,}.*)*)", text.partition("\n\n")[0], re.M):
        names, _, sentence = entry.partition(": ")
        for name in names.split(", "):
            yield name, re.split(r"[;.](?:\s|$)", " ".join(sentence.split()))[0]


def _shown(value: Any) -> str:
    """A tensor by shape and dtype, anything else by a short repr."""
    if isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "dtype"):
        return f"{type(value).__name__} {list(value.shape)} {value.dtype}"
    return " ".join(reprlib.repr(value).split())


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has an annotated type, as far as that can be told."""
    kind: Any = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if kind is Literal:
        return isinstance(value, Hashable) and value in get_args(hint)
    if kind is Any or not isinstance(kind, type):
        return True
    if kind is Callable or getattr(kind, "_is_protocol", False):
        return callable(value)
    kind = {int: Integral, float: Real}.get(kind, kind)
    return isinstance(value, kind) and (kind is str or not isinstance(value, str))
