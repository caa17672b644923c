"""Solvers: pure rules from one state to the next, with σ as time.

Solvers are stateless. All that one knows between two steps is in its `State`, which is public and
immutable. A run resumed from a saved state continues bit for bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pgmdiff import store
from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.noise import Draw
from pgmdiff.scores.adapters import Score
from pgmdiff.text import array, counted, described

__all__ = ["Past", "Solver", "State"]

Past: TypeAlias = tuple[float, Tensor]
"""A noise level, and the value there of what a multistep solver extrapolates."""


@dataclass(frozen=True)
class State:
    """All that a solver knows between two steps.

    `save` writes it to a file and `load` reads it back; `Run` does both, once for a whole run.

    Attributes:
        x: the state at noise level `sigma`, `[batch, *event]`.
        step: number of the next step, counted from the start of the schedule.
        sigma: noise level of x.
        denoised: the denoised value that the last step used, or None before the first step.
        history: what the next step needs from earlier ones, the latest first; empty for one-step
            solvers.
        memory: what a score with memory (`joint.remembering`) left at the end of the last step.
        run: the run to which it belongs, filled by `sample`: its solver, levels, shape and seeds.
            Only this run resumes it; `replace(state, run={})` (of `dataclasses`) lets any.

    Raises:
        ShapeError: denoised or the history is not of the shape of x.
    """

    x: Tensor
    step: int
    sigma: float
    denoised: Tensor | None = None
    history: tuple[Past, ...] = ()
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        others = [self.denoised, *(value for _, value in self.history)]
        for value in others:
            if value is not None and value.shape != self.x.shape:
                raise ShapeError(
                    f"State: expected denoised and history of the shape of x, "
                    f"{tuple(self.x.shape)}, got {tuple(value.shape)}. Cut all of them alike."
                )

    def __repr__(self) -> str:
        place = f"step={self.step}", f"sigma={self.sigma:.6g}"
        denoised = "" if self.denoised is None else f"denoised={array(self.denoised)}"
        history = counted(len(self.history), "value of history", "values of history")
        return described(self, f"x={array(self.x)}", *place, denoised, history)

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> "State":
        """A copy in a dtype, and on a device unless that is None.

        Tensors of the memory whose dtype is not that of x keep it.
        """
        kinds = {self.x.dtype: dtype}
        return self.map(lambda t: t.to(device=device, dtype=kinds.get(t.dtype, t.dtype), copy=True))

    def map(self, moved: Callable[[Tensor], Tensor]) -> "State":
        """The same state after a function of tensors, such as `torch.clone`."""
        denoised = None if self.denoised is None else moved(self.denoised)
        history = tuple((sigma, moved(value)) for sigma, value in self.history)
        memory = {name: moved(value) for name, value in self.memory.items()}
        return replace(self, x=moved(self.x), denoised=denoised, history=history, memory=memory)

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Its tensors by name, and its facts, as `store.save` requires them."""
        tensors = {"x": self.x} | {f"memory.{name}": value for name, value in self.memory.items()}
        tensors |= {f"history.{k}": value for k, (_, value) in enumerate(self.history)}
        tensors |= {} if self.denoised is None else {"denoised": self.denoised}
        levels = [level for level, _ in self.history]
        facts = {"step": self.step, "sigma": self.sigma, "levels": levels, "run": dict(self.run)}
        return tensors, facts

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> "State":
        """The state of which these are the `parts`."""
        return cls(
            tensors["x"],
            facts["step"],
            facts["sigma"],
            tensors.get("denoised"),
            tuple((level, tensors[f"history.{k}"]) for k, level in enumerate(facts["levels"])),
            {n.removeprefix("memory."): t for n, t in tensors.items() if n.startswith("memory.")},
            facts["run"],
        )

    def save(self, path: str | Path) -> None:
        """Writes the state to a safetensors file, whole or not at all; see `store.save`."""
        store.save(path, *self.parts())

    @classmethod
    def load(cls, path: str | Path) -> "State":
        """The state that `save` wrote, on the CPU.

        Raises:
            PgmdiffError: the file is damaged, or that of something else; see `store.load`.
        """
        tensors, facts = store.load(path)
        if "x" not in tensors or "levels" not in facts:
            raise PgmdiffError(f"State: expected the file of a state, got {path}. See State.save.")
        return cls.of(tensors, facts)


class Solver(ABC):
    """A pure stepping rule: `init` makes the first state, `step` each next one."""

    evaluations: int
    """Score evaluations per step; the last step, to σ = 0, always makes one."""
    elementwise: bool = False
    """Whether a step changes every element by what is known of this element alone, so that parts of
    a state can make it apart."""

    def init(self, x: Tensor, sigma: float, step: int = 0) -> State:
        """The state of x at noise level sigma, before step number `step`, without history."""
        return State(x, step, sigma)

    @abstractmethod
    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        """The next state, at `sigma_next`.

        Args:
            score: `score(x, sigma)` with x `[batch, *event]`, sigma `[batch]`.
            state: the state returned by `init` or by the previous step.
            sigma_next: a noise level below `state.sigma`; may be 0.
            noise: `noise(number, like)` draws standard normal noise; see `Noise`.
        """
