"""Sampling runs that survive interruptions: a folder in which a run saves its state."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgmdiff import store
from pgmdiff.errors import PgmdiffError, warn
from pgmdiff.noise import Generator, Noise
from pgmdiff.scores.adapters import spread_part
from pgmdiff.text import brief

__all__ = ["Run"]

Facts = dict[str, Any]

FILES = "pgmdiff-*.safetensors"
"""Files of a run: no others in the folder are read or removed."""

ELSEWHERE = "Make the call that began the run, or give another folder."


@dataclass(eq=False)
class Run:
    """The folder of one sampling run: the same call, made again, resumes it or returns its result.

        u = sample(joint, sigmas, shape=(8, 3, 64, 512), generator=0, run=Run("strip"))

    `run="strip"` is the same. The folder holds the two latest states (see `store.save`). A run that
    is killed at any moment and called again gives the same result bit for bit. A damaged file
    causes a warning that names it, and the one before is used. A call with another score, solver,
    schedule, start, shape, dtype or seed is refused; without a `generator` the run's own noise is
    continued. A solver is compared by its repr, its corrector and the score by their fingerprints
    (see `store.fingerprint`): what they do not show is not noticed.

    A large number of samples is a loop of runs, with a folder and a part of `split_seed(seed, n)`
    for each batch: those that are finished return at once.

    Args:
        folder: where to save; it is made if need be, and belongs to one run and one process.
        every: the shortest time between two saves, in seconds; 0 saves after every step. The start
            and the result are always saved.

    Raises:
        PgmdiffError: the folder is no path, or the time is negative.
    """

    folder: str | Path
    every: float = 10.0
    _due: float = field(default=-inf, init=False, repr=False)
    _before: Path | None = field(default=None, init=False, repr=False)
    _began: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.folder, str | Path) or not self.every >= 0:
            raise PgmdiffError(
                f"Run: expected a folder as text or a Path, and every >= 0 seconds, got {self}."
            )

    @classmethod
    def of(cls, run: "Run | str | Path | None", score: Any = None) -> "Run | None":
        """A run, or that in a folder, or none; of all ranks if the score is that of several."""
        run = run if run is None or isinstance(run, Run) else cls(run)
        part = spread_part(score)
        return run if run is None or part is None else part.stored(run)

    @property
    def due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() >= self._due

    def latest(self) -> tuple[dict[str, Tensor], Facts] | None:
        """The tensors and facts of the latest file that is whole, or None."""
        self._began = time.time()
        for path in sorted(Path(self.folder).glob(FILES), reverse=True):
            try:
                found = store.load(path)
            except PgmdiffError as error:
                if path.exists():  # another process has not just removed it
                    warn(f"{self}: {error} The run goes on from before.")
            else:
                found[1]["run"] = {"sampler": None, **found[1].get("run", {})}
                self._before, self._due = path, time.monotonic() + self.every
                return found
        self._before, self._due = None, -inf
        return None

    def save(
        self, step: int, tensors: Mapping[str, Tensor], facts: Facts, *, last: bool = False
    ) -> None:
        """Saves the state before a step if the last save is long enough ago, or if it is the last.

        Raises:
            PgmdiffError: the folder cannot be written; the files in it are unchanged.
        """
        if self.due or last:
            self.write(step, tensors, facts, last=last)

    def write(self, step: int, tensors: Mapping[str, Tensor], facts: Facts, *, last: bool) -> None:
        """Saves the state before a step, see `save`, whenever the last save was."""
        path = Path(self.folder) / FILES.replace("*", f"{step:08d}")
        store.save(path, tensors, facts)
        for old in Path(self.folder).glob(FILES):
            if old not in (path, self._before):
                old.unlink(missing_ok=True)
        for part in Path(self.folder).glob(f"{FILES}.*.part") if last else ():
            with suppress(OSError):  # of a killed run: others may be writing newer ones
                part.unlink() if part.stat().st_mtime < self._began else None
        self._before, self._due = path, time.monotonic() + self.every


def noise_of(generator: Generator, n_samples: int, earlier: Mapping[str, Any]) -> Noise:
    """The noise of a run: that of its generator, or if it is resumed without one, its own."""
    if generator is None and "seeds" in earlier:
        return Noise(tuple(earlier["seeds"]))
    return Noise.of(generator, n_samples)


def check_dtype(who: str, dtype: torch.dtype) -> None:
    """A `PgmdiffError` unless the state of a run has single or double precision."""
    if dtype not in (torch.float32, torch.float64):
        raise PgmdiffError(
            f"{who}: the state must be float32 or float64, got {dtype!r}. Pass "
            "dtype=torch.float32; cast inside the model if it needs half precision."
        )


def check_same(what: str, run: Mapping[str, Any], given: Mapping[str, Any], remedy: str) -> None:
    """A `PgmdiffError` if facts of a call differ from those that the run to be resumed has."""
    for name, value in given.items():
        old = run.get(name, value)
        if old != value:
            while isinstance(old, Mapping) and isinstance(value, Mapping):  # of outlines
                one, two = old, value
                part = next(k for k in [*two, *one] if one.get(k) != two.get(k))
                name, old, value = f"{name}.{part}", one.get(part), two.get(part)
            if isinstance(old, list) and len(old) == len(value):
                place = [a == b for a, b in zip(old, value, strict=True)].index(False)
                name, old, value = f"{name}[{place}]", old[place], value[place]
            if isinstance(old, str) and isinstance(value, str):  # long ones begin alike
                same = (a == b for a, b in zip(old, value, strict=False))
                start = [*same, False].index(False)
                old, value = (text[start - 20 if start > 40 else 0 :] for text in (old, value))
            raise PgmdiffError(
                f"{what} belongs to another run: expected {name} {brief(old)}, got {brief(value)}. "
                f"{remedy}"
            )
