"""What a solver is: a pure rule from one state to the next, with σ as time.

A solver keeps nothing inside: all it knows between two steps is in its `State`, which is public and
immutable. A state saved at any step and given back to `sample` goes on bit for bit.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from pgmdiff.noise import Draw
from pgmdiff.scores.adapters import Score
from pgmdiff.text import array, counted, described

__all__ = ["Past", "Solver", "State"]

Past: TypeAlias = tuple[float, Tensor]
"""A noise level, and what a multistep solver extrapolates as it was there."""


@dataclass(frozen=True)
class State:
    """All a solver knows between two steps.

    `torch.save(vars(state), path)` writes it, `State(**torch.load(path))` reads it back.

    Attributes:
        x: the state at noise level `sigma`, `[batch, *event]`.
        step: number of the next step, counted from the start of the schedule.
        sigma: noise level of x.
        denoised: the denoised value the last step used, if there was one.
        history: what the next step needs of those before, the latest first; empty for solvers of
            one step.
    """

    x: Tensor
    step: int
    sigma: float
    denoised: Tensor | None = None
    history: tuple[Past, ...] = ()

    def __repr__(self) -> str:
        return described(
            self,
            f"x={array(self.x)}",
            f"step={self.step}",
            f"sigma={self.sigma:.6g}",
            "" if self.denoised is None else f"denoised={array(self.denoised)}",
            counted(len(self.history), "value of history", "values of history"),
        )


class Solver(ABC):
    """A pure stepping rule: `init` makes a state, `step` the next one. Nothing is kept inside."""

    evaluations: int
    """Score evaluations of a step; of the last step, to σ = 0, it is always one."""

    def init(self, x: Tensor, sigma: float, step: int = 0) -> State:
        """The state of x at noise level sigma, before step number `step`, without history."""
        return State(x, step, sigma)

    @abstractmethod
    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        """From `state.sigma` down to `sigma_next`.

        Args:
            score: of `[batch, *event]`.
            state: from `init` or the step before.
            sigma_next: below `state.sigma`; may be 0.
            noise: (number, like) to standard normal noise; see `Noise`.
        """
