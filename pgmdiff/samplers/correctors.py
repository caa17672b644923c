r"""Correctors: Langevin steps at one noise level, towards the density whose score they are given.

Unadjusted Langevin, u' = u + h s(u, σ) + √(2h) z, leaves N(0, 1/λ) with the variance

    1 / (λ (1 - h λ / 2)),        stable for h < 2/λ_max,

not 1/λ: its bias does not go away with more steps. Metropolis' test removes it where the
log-density is known (Roberts and Tweedie, "Exponential convergence of Langevin distributions and
their discrete approximations", 1996). What is corrected towards is the density of the score that
is passed: Π_r q_σ(u_r)^{c_r} under the marginal rule, L_σ under the evidence rule; posterior
composition has none. As predictor-corrector steps: Song et al., "Score-based generative modeling
through stochastic differential equations", 2021.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pgmdiff.errors import PgmdiffError
from pgmdiff.samplers.solvers import Solver, State
from pgmdiff.scores import Score, per_sample

__all__ = ["Corrector", "Langevin", "Metropolis", "PredictorCorrector"]

Draw = Callable[[int, Tensor], Tensor]
"""(number, like) to standard normal noise; see `Noise`."""

STREAM, WIDTH = 1 << 40, 1 << 20
"""Noise of correctors is drawn beyond the solvers' own: up to 2^19 moves after each step."""


class Corrector(ABC):
    """Moves x along its own noise level."""

    n_moves: int

    @abstractmethod
    def correct(self, score: Score, x: Tensor, sigma: float, noise: Draw) -> tuple[Tensor, Tensor]:
        """The state `[batch, *event]` after all moves, and each sample's acceptance rate `[batch]`.

        Args:
            score: whose density is aimed at.
            x: the state at noise level sigma.
            sigma: in the data's units.
            noise: number to noise; a move takes two numbers.
        """


@dataclass(frozen=True)
class Langevin(Corrector):
    """Unadjusted Langevin moves of h = step · σ²: biased, see the module.

    Args:
        step: in units of σ². Noised data have λ ≤ 1/σ², so that 2 would be the limit of the exact
            score; composed precisions exceed 1/σ² (1.74 times was seen on a chain of correlation
            .99): stay below 1.
        n_moves: how many.

    Raises:
        PgmdiffError: a step or a number of moves that is not positive.
    """

    step: float = 0.1
    n_moves: int = 1

    def __post_init__(self) -> None:
        if not (self.step > 0 and self.n_moves >= 1):
            raise PgmdiffError(
                f"{type(self).__name__}: expected a positive step and n_moves of at least 1, got "
                f"{self.step} and {self.n_moves}."
            )

    def correct(self, score: Score, x: Tensor, sigma: float, noise: Draw) -> tuple[Tensor, Tensor]:
        h = self.step * sigma**2
        for move in range(self.n_moves):
            drift = score(x, per_sample(sigma, x))
            x = x + h * drift + (2 * h) ** 0.5 * noise(2 * move, x)
        return x, x.new_ones(len(x))


@dataclass(frozen=True)
class Metropolis(Corrector):
    """Metropolis-adjusted Langevin moves: exact in the limit of many, for any stable step.

    Each sample decides for itself. Rejected moves cost as much as accepted ones; acceptance falls
    with the number of elements (a step of order N^(-1/3) keeps it).

    Args:
        log_density: `log_density(x, sigma) -> [batch]`, whose gradient the score is: such as a
            joint's under the evidence rule.
        step: h in units of σ².
        n_moves: how many.
    """

    log_density: Callable[[Tensor, Tensor], Tensor]
    step: float = 0.1
    n_moves: int = 1

    def __post_init__(self) -> None:
        Langevin(self.step, self.n_moves)

    def correct(self, score: Score, x: Tensor, sigma: float, noise: Draw) -> tuple[Tensor, Tensor]:
        h, level = self.step * sigma**2, per_sample(sigma, x)
        accepted = x.new_zeros(len(x))
        density, drift = self.log_density(x, level), score(x, level)
        for move in range(self.n_moves):
            there = x + h * drift + (2 * h) ** 0.5 * noise(2 * move, x)
            density_there, drift_there = self.log_density(there, level), score(there, level)
            back = _squared(x - there - h * drift_there) - _squared(there - x - h * drift)
            ratio = density_there - density - back / (4 * h)
            takes = _uniform(noise(2 * move + 1, x.new_empty(len(x), 1))).log() < ratio
            accepted = accepted + takes.to(x)
            x, drift = (_chosen(takes, a, b) for a, b in ((there, x), (drift_there, drift)))
            density = torch.where(takes, density_there, density)
        return x, accepted / self.n_moves


@dataclass(frozen=True)
class PredictorCorrector(Solver):
    """A solver whose every step is followed by a corrector, except the last one, to σ = 0.

    Args:
        predictor: any solver.
        corrector: applied at the level that the predictor reached.
        report: called with (sigma, acceptance `[batch]`) after every correction.
    """

    predictor: Solver
    corrector: Corrector
    report: Callable[[float, Tensor], None] | None = None

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.predictor.evaluations + self.corrector.n_moves

    def init(self, x: Tensor, sigma: float, step: int = 0) -> State:
        return self.predictor.init(x, sigma, step)

    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        after = self.predictor.step(score, state, sigma_next, noise)
        if sigma_next == 0:
            return after

        def own(number: int, like: Tensor) -> Tensor:
            return noise(STREAM + WIDTH * state.step + number, like)

        x, acceptance = self.corrector.correct(score, after.x, sigma_next, own)
        if self.report is not None:
            self.report(sigma_next, acceptance)
        return replace(after, x=x)


def _squared(x: Tensor) -> Tensor:
    return (x**2).reshape(len(x), -1).sum(dim=1)


def _uniform(z: Tensor) -> Tensor:
    """Uniform numbers `[batch]` of standard normal ones `[batch, 1]`."""
    uniform: Tensor = torch.special.ndtr(z[:, 0])
    return uniform


def _chosen(takes: Tensor, there: Tensor, here: Tensor) -> Tensor:
    return torch.where(takes.reshape(-1, *[1] * (here.ndim - 1)), there, here)
