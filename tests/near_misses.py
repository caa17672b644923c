"""Near misses: valid calls of all that is public, each with one argument made wrong.

Functions and classes are called, and objects: those of public classes, and those that public
functions return, with their public methods. Valid calls are those that the laws of units, the
objects of the tests of reprs and the examples of docstrings make; they are recorded while these
run. A call with a wrong argument may be accepted (a
list where a tensor is expected, say), but what is refused must be refused in words: by an exception
of this library, by a TypeError or ValueError that its own code raises, or by Python's own words
about missing and unknown arguments.
"""

import contextlib
import doctest
import inspect
import io
import linecache
import random
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from pgmdiff import (
    Posterior,
    compose,
    conditioning,
    diagnostics,
    gaussian,
    graphs,
    models,
    samplers,
    scores,
    testing,
    training,
)
from pgmdiff.errors import PgmdiffError

ROOT = Path(__file__).parents[1]
INDEX = (ROOT / "docs/api/index.md").read_text()
MISSING = object()
OTHERS = re.compile(r"integrations|Error|Broken|receptive|from_scheduler")
"""What needs other libraries or a network, and exceptions."""
SIGNATURE = re.compile(
    r"missing \d+ required|unexpected keyword|positional argument|multiple values"
)


class Call(NamedTuple):
    """A valid call of a public function or class; the first arguments may be given by place."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]
    by_place: tuple[str, ...] = ()
    seconds: float = 0.0

    def __call__(self, **changed: Any) -> Any:
        """The result, with some arguments changed; those that are `MISSING` are left out."""
        given = {k: v for k, v in {**self.arguments, **changed}.items() if v is not MISSING}
        places: list[Any] = []
        for name in self.by_place:
            value = given.pop(name, MISSING)
            places += [] if value is MISSING else value if name == self.by_place[-1] else [value]
        return self.function(*places, **given)


@cache
def public() -> dict[str, Any]:
    """Every public function and class that can be called, by its name in the reference."""
    found = {}
    for name in re.findall(r"^   (pgmdiff\.\S+)$", INDEX, re.M):
        module, _, last = name.rpartition(".")
        if OTHERS.search(name):
            continue
        thing = getattr(import_module(module), last)
        if callable(thing) and not inspect.isabstract(thing):
            found[name.removeprefix("pgmdiff.")] = thing
    return found


METHODS = ("__call__", "forward")
"""Methods that are called without their names."""


def objects() -> dict[Any, tuple[str, Any]]:
    """The names of methods of the library's objects, by the code that Python runs for them."""
    found: dict[Any, tuple[str, Any]] = {}
    modules = [m for name, m in sys.modules.items() if name.startswith("pgmdiff.")]
    things = {id(each): each for m in modules for each in vars(m).values()}
    for each in things.values():
        if not (inspect.isclass(each) and each.__module__.startswith("pgmdiff.")):
            continue
        for method, value in vars(each).items():
            if inspect.isfunction(value) and (method in METHODS or not method.startswith("_")):
                found[inspect.unwrap(value).__code__] = (f".{method}", value)
    return found


def codes() -> dict[Any, tuple[str, Any]]:
    """Names and functions by the code that Python runs for them."""
    found = objects()
    for name, thing in public().items():
        if inspect.isclass(thing):
            found[getattr(inspect.unwrap(thing.__init__), "__code__", None)] = ("", None)
            for method, wrapped in vars(thing).items():
                if isinstance(wrapped, classmethod) and not method.startswith("_"):
                    code = inspect.unwrap(wrapped.__func__).__code__
                    found[code] = (f"{name}.{method}", getattr(thing, method))
        elif inspect.isfunction(inspect.unwrap(thing)):
            found[inspect.unwrap(thing).__code__] = (name, thing)
    return found


def examples(thing: Any) -> None:
    """Runs the examples of a docstring."""
    module = sys.modules[thing.__module__]
    for test in doctest.DocTestFinder().find(thing, globs=vars(module).copy()):
        if test.examples:
            doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None)


NUMBERS = torch.arange(24.0).reshape(4, 6)


def half(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x / 2


LEVELS = torch.tensor([2.0, 1.0, 0.5, 0.3])
MASK = torch.tensor([True, False, True, True, False, False])
JOINT = compose(
    graphs.chain(6),
    half,
    rule=Posterior(gaussian.node_covariances(graphs.chain(6), gaussian.ar1(6, 0.5))),
)


OTHER_CALLS: list[Callable[[], Any]] = [
    lambda: scores.from_vp_eps(half, scores.Timesteps([0.9, 0.5, 0.1])),
    lambda: scores.from_vp_v(half, scores.Timesteps([0.9, 0.5, 0.1])),
    lambda: scores.from_vp_sample(half, scores.Timesteps([0.9, 0.5, 0.1])),
    lambda: JOINT(NUMBERS, LEVELS),
    lambda: JOINT.denoise(NUMBERS, 1.5),
    lambda: JOINT.log_density(NUMBERS, LEVELS),
    lambda: JOINT.pack(JOINT.unpack(NUMBERS)),
    lambda: JOINT.validate(),
    lambda: JOINT.remembering()(NUMBERS, LEVELS),
    lambda: JOINT.remembering().remembering({}),
    lambda: scores.guided(half, {"c": 0.0})(NUMBERS, LEVELS, guidance=3.0, c=NUMBERS),
    lambda: scores.scheduled(half, {"c": half})(NUMBERS, LEVELS, c=NUMBERS),
    lambda: scores.padded(half, (8,))(NUMBERS, LEVELS),
    lambda: scores.Timesteps([0.9, 0.5, 0.1])(LEVELS),
    lambda: scores.Timesteps([0.9, 0.5, 0.1]).sigmas(LEVELS),
    lambda: training.EDMDenoiser(half, 1.0)(NUMBERS, LEVELS),
    lambda: models.series.SeriesNet()(NUMBERS[:, None, :4], LEVELS),
    lambda: conditioning.moment_matching(JOINT, torch.ones(6), MASK)(NUMBERS, LEVELS),
    lambda: conditioning.reconstruction(half, torch.ones(6), MASK, conditioning.dps(data_std=1.0))(
        NUMBERS, LEVELS
    ),
    lambda: conditioning.replacement(half, torch.ones(6), MASK).denoise(NUMBERS, LEVELS),
    lambda: graphs.grid(2, 3),
    lambda: graphs.torus(3, 3),
    lambda: graphs.star(3),
    lambda: graphs.tree(2, 2),
    lambda: graphs.hidden_markov(3),
    lambda: graphs.repeated_observations(3),
    lambda: graphs.shared_conditions(graphs.chain(3), {"f0": {"text": NUMBERS[0]}}),
    lambda: graphs.is_alpha_acyclic(graphs.chain(3)),
    lambda: graphs.is_berge_acyclic(graphs.chain(3)),
    lambda: conditioning.blur((8, 8), torch.ones(3) / 3),
    lambda: conditioning.channel_mix((3, 8), torch.eye(3)[:1]),
    lambda: diagnostics.Interval(0.5, 0.4, 0.6),
    lambda: diagnostics.bootstrap(lambda x: x.mean().item(), NUMBERS, resamples=4, generator=0),
    lambda: diagnostics.manifold_recall(NUMBERS, NUMBERS + 1, k=2),
    lambda: samplers.cosine(4, 0.1, 9.0),
    lambda: samplers.variance_preserving(4, 0.1, 9.0),
    lambda: samplers.effective_sample_size(NUMBERS[0]),
    lambda: scores.interpolated(["a", "b", "c"], "text", NUMBERS[0], NUMBERS[1]),
    lambda: scores.slerp(NUMBERS[0], NUMBERS[1], 0.5),
    lambda: testing.markov_gaussian(graphs.chain(3).regions, 0),
    lambda: testing.markov_mixture(graphs.chain(3).regions, 0),
]
"""Calls of what neither laws nor objects nor examples call."""

SLOW = {"Langevin", "Curvature", "training.fit"}
QUICK = re.compile(
    r"conditioning|gaussian|images|scores|diagnostics\.[a-z]+_[a-z]+$|.*(spectrum|crps)"
)
"""Of the laws: those whose calls take little time."""


def sources(quick: bool) -> Iterator[Callable[[], Any]]:
    """What makes valid calls of public functions while it runs."""
    from tests.test_reprs import OBJECTS
    from tests.test_units import LAWS, Units

    yield from (make for name, make in OBJECTS.items() if name not in SLOW)
    yield from OTHER_CALLS
    for name, law in LAWS.items():
        if name not in SLOW and (QUICK.match(name) or not quick):
            yield lambda law=law: law(Units())
    if not quick:
        yield from (lambda thing=thing: examples(thing) for thing in public().values())


def recorded(kept: int = 2, quick: bool = False) -> list[Call]:
    """The first valid calls of functions, classes, and methods of objects that users hold."""
    known, classes = codes(), {thing: name for name, thing in public().items()}
    found: dict[str, dict[int, Call]] = {}
    held, number = set(classes), 0
    owners: dict[str, Any] = {}

    def note(frame: Any, event: str, result: Any) -> None:
        if event not in ("call", "return") or frame.f_code not in known:
            return
        name, function = known[frame.f_code]
        given = inspect.getargvalues(frame)
        values = {key: given.locals[key] for key in given.args}
        if event == "return":
            if not name.startswith(".") or type(values[given.args[0]]) in held:
                held.add(type(result))
            return
        if name.startswith("."):
            this = values.pop(given.args[0])
            function = this if name[1:] in METHODS else getattr(this, name[1:])
            name = f"{type(this).__name__}{name}"
            owners[name] = type(this)
        elif not name:
            function = type(values.pop(given.args[0]))
            name = classes.get(function, "")
        elif "cls" in values:
            values.pop("cls")
        first = given.args[: frame.f_code.co_argcount]
        by_place = (*(key for key in first if key in values), given.varargs)
        if given.varargs:
            values[given.varargs] = given.locals[given.varargs]
        if given.keywords:
            values |= given.locals[given.keywords]
        calls = found.setdefault(name, {})
        if name and len(calls) < kept and number not in calls:
            calls[number] = Call(name, function, values, by_place if given.varargs else ())

    for number, source in enumerate(sources(quick)):  # noqa: B007
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            warnings.simplefilter("ignore")
            sys.setprofile(note)
            try:
                source()
            finally:
                sys.setprofile(None)
    good = []
    for call in (call for calls in found.values() for call in calls.values()):
        if call.name in owners and held.isdisjoint(owners[call.name].__mro__[:-1]):
            continue
        start = time.process_time()
        if classified(call)[0] == "accepted":
            good.append(call._replace(seconds=time.process_time() - start))
    return good


def wrong(value: Any, depth: int = 0) -> Iterator[Any]:
    """Values that are near a valid one, most of them wrong."""
    yield from (None, "text", 3, 2.5, [], {}, object(), b"x", np.float64(0.5), {1, 2})
    if isinstance(value, Tensor):
        yield from (value.tolist(), value[None], value.reshape(-1), value[..., None])
        yield from (value.long(), value.bool(), value.to(torch.complex64), value.to("meta"))
        if value.is_floating_point():
            yield from (value * torch.nan, value + torch.inf, value.half())
        if value.ndim:
            yield from (
                value[0],
                value[:0],
                value[..., :-1],
                value.transpose(0, -1),
                value[..., :0],
            )
        if value.dtype != torch.bool:
            yield from (-value, 0 * value)
    elif isinstance(value, bool | np.bool_):
        yield from ("True", [value], torch.tensor([value, value]))
    elif isinstance(value, int | float | np.number):
        yield from (-value, 0, -1, str(value), [value], float("nan"), float("inf"), -float("inf"))
        yield from (value + 0.5, complex(value), np.array([value]), torch.tensor([value, value]))
    elif isinstance(value, str):
        yield from (value[:-1], value.upper(), "", [value], value.encode())
    elif isinstance(value, Mapping):
        keys = list(value)
        yield from (list(value.values()), keys, {**value, "unknown": next(iter(value.values()), 0)})
        if keys:
            yield {key: value[key] for key in keys[1:]}
            yield {str(key): each for key, each in value.items()}
            if depth < 2:
                for each in wrong(value[keys[0]], depth + 1):
                    yield {**value, keys[0]: each}
    elif isinstance(value, Sequence):
        yield from (list(value)[:-1], [*value, *value], list(value)[::-1], [None] * len(value))
        if len(value) and depth < 2:
            for each in wrong(value[0], depth + 1):
                yield type(value)([each, *value[1:]]) if type(value) in (list, tuple) else [each]
    elif inspect.isclass(value):
        yield from (int, value.__name__)
    elif callable(value) and not hasattr(value, "regions"):
        yield from (lambda: None, lambda *_, **__: None, lambda x, *_, **__: x * torch.nan)
        yield from (lambda x, *_, **__: x[..., :-1], lambda x, *_, **__: 0.5, type(value))
    else:
        yield from (type(value), nx.path_graph(3), [value])


class Slow(BaseException):
    """A call that lasts too long."""


def classified(call: Callable[[], Any], limit: float = 5.0) -> tuple[str, str]:
    """What became of a call: accepted, named, raw, or raw within a function that the user gave."""

    def stop(*_: object) -> None:
        raise Slow

    earlier = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            call()
    except Slow:
        return "slow", f"no answer within {limit:.0f} s"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        text = f"{type(error).__name__}: {error}".split("\n")[0][:160]
        own = [f for f in frames if f.filename.startswith(str(ROOT / "pgmdiff"))]
        where = f" [{own[-1].filename[len(str(ROOT)) + 1 :]}:{own[-1].lineno}]" if own else ""
        if isinstance(error, PgmdiffError) or (
            isinstance(error, TypeError) and SIGNATURE.search(str(error))
        ):
            return "named", text
        last = frames[-1]
        line = linecache.getline(last.filename, last.lineno or 0).strip()
        if own and last is own[-1] and line.startswith("raise "):
            return "named", text
        mine = [f for f in frames if f.filename.startswith(str(ROOT))]
        if len(mine) > 2 and "tests" in mine[-1].filename:
            return "within", text
        return "raw", text + where
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)
    return "accepted", ""


def near_misses(calls: Sequence[Call]) -> Iterator[tuple[Call, dict[str, Any], str]]:
    """Every near miss of every call: what is changed, and its place."""
    for call in calls:
        yield call, {"unknown_option": 1}, "unknown"
        for key, value in call.arguments.items():
            yield call, {key: MISSING}, f"no {key}"
            for number, each in enumerate(wrong(value)):
                yield call, {key: each}, f"{key}#{number}"


class Outcome(NamedTuple):
    """What became of a near miss."""

    name: str
    place: str
    outcome: str
    text: str


def measured(n: int, seed: int, longest: float, quick: bool = False) -> list[Outcome]:
    """What becomes of n near misses, drawn by a seed from calls no longer than some seconds.

    Every function has its turn, so that none counts more for having more arguments.
    """
    chooser = random.Random(seed)
    by_name: dict[str, list[Any]] = {}
    calls = [c for c in recorded(quick=quick) if c.seconds <= longest]
    for miss in near_misses(calls):
        by_name.setdefault(miss[0].name, []).append(miss)
    for misses in by_name.values():
        chooser.shuffle(misses)
    turns = [m for turn in range(n) for ms in by_name.values() for m in ms[turn : turn + 1]][:n]
    found = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # some save runs
        for call, changed, place in turns:
            outcome = classified(lambda c=call, a=changed: c(**a))
            found.append(Outcome(call.name, place, *outcome))
    return found


def summary(found: Sequence[Outcome]) -> dict[str, Any]:
    """How many near misses were accepted, and how many refused with a name, by function."""
    counts = Counter(each.outcome for each in found)
    refused = counts["named"] + counts["raw"] + counts["slow"]
    worst = Counter(each.name for each in found if each.outcome in ("raw", "slow"))
    return {
        "calls": len(found),
        "functions": len({each.name for each in found}),
        **{kind: counts[kind] for kind in ("accepted", "named", "raw", "slow", "within")},
        "share": counts["named"] / max(refused, 1),
        "worst": dict(worst.most_common()),
    }
