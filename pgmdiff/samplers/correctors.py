r"""Correctors: Langevin steps at one noise level, towards the density whose score they are given.

Unadjusted Langevin, u' = u + h s(u, σ) + √(2h) z, leaves N(0, 1/λ) with the variance

    1 / (λ (1 - h λ / 2)),        stable for h < 2/λ_max,

not 1/λ: its bias does not vanish with more steps. Metropolis' test removes it where the log-density
is known (Roberts and Tweedie, "Exponential convergence of Langevin distributions and their discrete
approximations", 1996). The target is the density of the score that is passed: Π_r q_σ(u_r)^{c_r}
under the marginal rule, L_σ under Consistent; posterior composition and averaging have none.
As predictor-corrector steps: Song et al., "Score-based generative modeling through stochastic
differential equations", 2021.

A density must exist. On a junction tree Π_r q_σ(u_r)^{c_r} is one at every σ, with the marginals
q_σ(u_r). On loops it may have no finite integral, and moves towards it then run away; for Gaussians
this happens where the composed precision has a negative eigenvalue, which `Curvature` finds.

As σ falls λ_max tends to that of the data's precision, and steps in units of σ² become needlessly
small; where σ² λ_max of the marginal rule reaches 1.74, they may be too large. With `curvature=` a
step is a share of the limit 2/λ_max.

The effect of moves on a chain of 8 Gaussian variables of correlation 0.9, in KL per variable at
equal score evaluations (Euler, Karras 80 → 0.002; `python -m benchmarks correctors`):

                                        moves per level  0     1      5      20
    marginal rule, 120    h = σ²/2                     0.26   0.055   0.035   0.076
                          a quarter of 2/λ_max         0.26   0.017   0.012   0.013
    marginal rule, 1920   h = σ²/2                     0.26   0.0018  0.0008  0.0006
                          a quarter of 2/λ_max         0.26   0.0074  0.0074  0.0074

Steps in units of σ² lose their bias on the way down and are better with many evaluations; a share
of the limit keeps its bias and is better with few. Metropolis' test has neither fault (0.0068 at
120 evaluations, about the sampling error of 2000 at 480; half of the limit, half of the moves
accepted). The score of Consistent is exact there, and requires no moves.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pgmdiff.errors import PgmdiffError, ScoreError, warn
from pgmdiff.linalg import beside, squared_norms
from pgmdiff.noise import CORRECTORS, Draw
from pgmdiff.samplers.base import Solver, State
from pgmdiff.scores.adapters import Score, per_sample
from pgmdiff.scores.walls import called, on_copies, received
from pgmdiff.text import by_field

__all__ = ["Corrector", "Langevin", "Metropolis", "PredictorCorrector"]

WIDTH = 1 << 20
"""Numbers of the draws of one step: of up to 2^19 moves, which use two each."""

Bound = float | Callable[[float], float] | None
"""λ_max of minus the score's Jacobian, at every σ or as a function of σ; see `Curvature`."""


class Corrector(ABC):
    """Moves x along its own noise level."""

    n_moves: int

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Score evaluations per correction."""

    @abstractmethod
    def correct(self, score: Score, x: Tensor, sigma: float, noise: Draw) -> tuple[Tensor, Tensor]:
        """The state `[batch, *event]` after all moves, and each sample's acceptance rate `[batch]`.

        Args:
            score: the score of the density to move towards.
            x: the state at noise level sigma, `[batch, *event]`.
            sigma: the noise level, in the data's units.
            noise: `noise(number, like)` draws standard normal noise; a move uses two numbers.
        """


class _LangevinMoves(Corrector):
    """What both kinds of Langevin moves share: their step size h."""

    step: float
    curvature: Bound

    __repr__ = by_field

    def __post_init__(self) -> None:
        if not (self.step > 0 and self.n_moves >= 1):
            raise PgmdiffError(
                f"{type(self).__name__}: expected a positive step and n_moves of at least 1, got "
                f"{self.step} and {self.n_moves}."
            )

    def _size(self, sigma: float) -> float:
        """The step size h at a noise level, in the data's units squared."""
        if self.curvature is None:
            return self.step * sigma**2
        largest = self.curvature(sigma) if callable(self.curvature) else self.curvature
        if not 0 < largest < float("inf"):
            raise PgmdiffError(
                f"{type(self).__name__}: expected a positive curvature λ_max at σ = {sigma:g}, "
                f"got {largest}. Give the largest eigenvalue of minus the score's Jacobian."
            )
        return self.step * 2 / largest


@dataclass(frozen=True, repr=False)
class Langevin(_LangevinMoves):
    """Unadjusted Langevin moves of size h, which are biased; see the module.

    Args:
        step: without a curvature, h = step · σ². Noised data have λ ≤ 1/σ², so that 2 would be the
            limit of the exact score. Composed precisions exceed it: σ² λ_max is 1.7 to 2 on
            chains, where a step below 1 is stable, and about 0.4 times the degree on hubs, where
            it is not: give a curvature there. With a curvature, h = step · 2/λ_max, stable
            on a Gaussian for step < 1; the variance along λ is then 1/(1 - step · λ/λ_max) times
            too large.
        n_moves: number of moves per correction.
        curvature: λ_max, as a number or as a function of σ: known, or a measured `Curvature`.

    Raises:
        PgmdiffError: the step, the number of moves or λ_max is not positive.
    """

    step: float = 0.1
    n_moves: int = 1
    curvature: Bound = None

    @property
    def evaluations(self) -> int:
        return self.n_moves

    def correct(self, score: Score, x: Tensor, sigma: float, noise: Draw) -> tuple[Tensor, Tensor]:
        h = self._size(sigma)
        for move in range(self.n_moves):
            drift = called(score, x, per_sample(sigma, x))
            x = x + h * drift + (2 * h) ** 0.5 * noise(2 * move, x)
        return x, x.new_ones(len(x))


@dataclass(frozen=True, repr=False)
class Metropolis(_LangevinMoves):
    """Metropolis-adjusted Langevin moves, exact in the limit of many for any stable step.

    Each sample accepts or rejects its own moves. Rejected moves cost as much as accepted ones;
    acceptance falls with the number of elements (a step of order N^(-1/3) keeps it constant). A
    correction evaluates score and log-density once more than it moves. Of a score with memory it
    calls the `pure` one, so that proposals leave no trace.

    Args:
        log_density: `log_density(x, sigma) -> [batch]`, whose gradient is the score, such as a
            joint's under the rule Consistent.
        step, n_moves, curvature: as for `Langevin`, with the same errors.

    Raises:
        ScoreError: a log-density or a score is NaN or infinite; -inf is allowed at proposals.
    """

    log_density: Callable[[Tensor, Tensor], Tensor]
    step: float = 0.1
    n_moves: int = 1
    curvature: Bound = None

    def __post_init__(self) -> None:
        if not callable(self.log_density):
            raise PgmdiffError(
                "Metropolis: expected a function log_density(x, sigma) as the first argument, got "
                f"{self.log_density!r}. Give joint.log_density, or use Langevin, which needs none."
            )
        super().__post_init__()

    @property
    def evaluations(self) -> int:
        return self.n_moves + 1

    def correct(self, score: Score, x: Tensor, sigma: float, noise: Draw) -> tuple[Tensor, Tensor]:
        h, level = self._size(sigma), per_sample(sigma, x)
        accepted, score = x.new_zeros(len(x)), getattr(score, "pure", score)

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            value = on_copies(self.log_density, x, level)
            density = received(value, accepted, lambda: "Metropolis: log_density")
            return density.clone(), called(score, x, level)

        density, drift = at(x)
        sound = density.isfinite().all() and drift.isfinite().all()
        for move in range(self.n_moves):
            there = x + h * drift + (2 * h) ** 0.5 * noise(2 * move, x)
            density_there, drift_there = at(there)
            back = squared_norms(x - there - h * drift_there) - squared_norms(there - x - h * drift)
            ratio = density_there - density - back / (4 * h)
            sound = sound and (ratio.isfinite() | (density_there == -torch.inf)).all()
            if not sound:  # nothing would be accepted, or nothing rejected
                raise ScoreError(
                    f"Metropolis: a log-density or a score is not finite at σ = {sigma:g}, move "
                    f"{move}. Look at them at this level; a proposal may have the density -inf."
                )
            uniform = torch.special.ndtr(noise(2 * move + 1, x.new_empty(len(x), 1))[:, 0])
            accepts = uniform.log() < ratio
            accepted = accepted + accepts.to(x)
            x = torch.where(beside(accepts, x), there, x)
            drift = torch.where(beside(accepts, x), drift_there, drift)
            density = torch.where(accepts, density_there, density)
        return x, accepted / self.n_moves


@dataclass(frozen=True)
class PredictorCorrector(Solver):
    """A solver whose every step is followed by a corrector, except the last one, to σ = 0.

    Args:
        predictor: a one-step solver, such as `Heun()` or `SDE()`. Multistep solvers extrapolate
            from states that the corrector has moved, which makes samples worse even for exact
            scores; they cause a warning.
        corrector: applied at the level that the predictor reached.
        report: called with (sigma, acceptance `[batch]`) after every correction.

    Example:
        >>> import torch
        >>> from pgmdiff import Consistent, compose, gaussian, graphs
        >>> from pgmdiff.samplers import Curvature, Euler, Heun, karras, sample
        >>> graph, sigmas = graphs.chain(3), karras(10, 0.02, 20.0)
        >>> place = torch.arange(3.0)
        >>> q = gaussian.Gaussian(torch.zeros(3), 0.9 ** (place[:, None] - place).abs())
        >>> scores = gaussian.node_scores(graph, q)

        Towards the product of marginals, unadjusted:

        >>> joint = compose(graph, scores)
        >>> curvature = Curvature.measure(joint, sigmas, shape=(8, 3), generator=0)
        >>> solver = PredictorCorrector(Euler(), Langevin(0.25, 5, curvature))
        >>> u = sample(joint, sigmas, shape=(4, 3), solver=solver, generator=0)

        Towards the density of Consistent, adjusted:

        >>> joint = compose(graph, scores, rule=Consistent(gaussian.node_covariances(graph, q)))
        >>> curvature = Curvature.measure(joint, sigmas, shape=(8, 3), generator=0)
        >>> solver = PredictorCorrector(Heun(), Metropolis(joint.log_density, 0.5, 2, curvature))
        >>> u = sample(joint, sigmas, shape=(4, 3), solver=solver, generator=0)
    """

    predictor: Solver
    corrector: Corrector
    report: Callable[[float, Tensor], None] | None = None

    __repr__ = by_field

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.predictor.evaluations + self.corrector.evaluations

    def init(self, x: Tensor, sigma: float, step: int = 0) -> State:
        return self.predictor.init(x, sigma, step)

    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        if len(state.history) == 1:  # as a history begins, which some never extend
            warn(
                f"PredictorCorrector: {self.predictor} extrapolates from earlier steps, whose "
                "states the corrector has moved: samples become less accurate than by either "
                "alone. Use a one-step predictor, such as Heun() or SDE()."
            )
        after = self.predictor.step(score, state, sigma_next, noise)
        if sigma_next == 0:
            return after

        def own(number: int, like: Tensor) -> Tensor:
            return noise(CORRECTORS + WIDTH * state.step + number, like)

        x, acceptance = self.corrector.correct(score, after.x, sigma_next, own)
        if self.report is not None:
            self.report(sigma_next, acceptance)
        return replace(after, x=x)
