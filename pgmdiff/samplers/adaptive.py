r"""The probability-flow ODE to a tolerance, and the log-likelihood that comes with it.

In log σ, where the path is smooth (in σ an adaptive step would have to grow 40,000-fold),

    du / d log σ = u - D(u, σ),         -d log p / d log σ = N - tr ∂D/∂u

along the path, N the number of elements: the instantaneous change of variables (Chen et al.,
"Neural ordinary differential equations", 2018; Song et al., "Score-based generative modeling
through stochastic differential equations", 2021, Eq. 39). It holds for any denoiser, whether or not
it is a gradient field.

This module requires torchdiffeq, the extra `ode`. Step sizes are chosen for the whole batch, by its
worst sample: unlike with other solvers, a sample depends on its batch, within the tolerance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pgmdiff.errors import PgmdiffError, ScoreError, ShapeError, required
from pgmdiff.linalg import is_finite, rows
from pgmdiff.noise import PROBES, Draw, Generator, Noise
from pgmdiff.samplers.base import Solver, State
from pgmdiff.scores.adapters import Score, denoise
from pgmdiff.scores.walls import check_score, received

__all__ = ["Adaptive", "log_likelihood"]

Drift: TypeAlias = Callable[[Tensor, Tensor], Tensor]

MOST_STEPS = 100_000
"""Steps, accepted or not, after which a tolerance counts as out of reach."""
METHODS = ("adaptive_heun", "bosh3", "dopri5", "dopri8", "fehlberg2")

FIRST = 0.1
"""The first step tried, in log σ."""
ROUNDING = 8
"""Errors of a step below this many units in the last place of an element are tolerated."""


@dataclass(frozen=True)
class Adaptive(Solver):
    """The probability-flow ODE by an adaptive Runge-Kutta method, for reference solutions.

    It chooses its own steps; levels between the first and the last positive one are only places
    where it stops: `sample(score, [80.0, 0.002, 0.0], solver=Adaptive())`. It also goes up: `step`
    to a larger σ finds the noise from which the data come. The memory of a score is committed after
    every step of its own that is accepted, at one more evaluation each.

    Args:
        rtol: tolerated error of a step relative to σ, so that neither the data's unit nor its
            offset matter; the root mean square over a sample counts. Later steps shrink an error in
            proportion to σ down to the data's own spread.
        atol: tolerated error of a step in the data's units, added to the relative one.
        method: "dopri5", "dopri8", "bosh3", "fehlberg2" or "adaptive_heun", of torchdiffeq.

    Raises:
        PgmdiffError: rtol is not positive, atol is negative, one of them is not finite, or the
            method is unknown; when it runs, the tolerance is out of reach.
        ScoreError: the score is not finite (raised when it runs).
        ImportError: torchdiffeq is not installed (raised at the first step).
    """

    rtol: float = 1e-5
    atol: float = 0.0
    method: str = "dopri5"
    evaluations = 0
    """Not fixed."""

    def __post_init__(self) -> None:
        sound = 0 < self.rtol < math.inf and 0 <= self.atol < math.inf
        if not sound or self.method not in METHODS:
            raise PgmdiffError(
                "Adaptive: expected positive tolerances (atol may be 0) and a method among "
                f"{', '.join(METHODS)}, got {self}."
            )

    def step(self, score: Score, state: State, sigma_next: float, noise: Draw) -> State:
        denoised = denoise(score, state.x, state.sigma)
        if sigma_next == 0:
            return State(denoised, state.step + 1, sigma_next, denoised)
        x = self._integrate(
            lambda s, u: u - denoise(score, u, s),
            state.x,
            state.sigma,
            sigma_next,
            commit=getattr(score, "commit", None),
        )
        return State(x, state.step + 1, sigma_next, denoised)

    def _integrate(
        self,
        drift: Drift,
        y: Tensor,
        sigma: float,
        sigma_next: float,
        nats: int = 0,
        commit: Callable[[], None] | None = None,
    ) -> Tensor:
        """∫ drift(σ, y) d log σ for y `[batch, ...]`, evaluated nowhere outside [σ, σ'].

        If `nats` is not 0, the last column of y `[batch, n]` is a log-density of so many elements.
        If `commit` is given, it is called after every accepted step and changes the drift. The next
        step then begins with an evaluation of its own, not with the last one of the step before.
        """
        if not len(y):
            return y
        eps = torch.finfo(y.dtype).eps
        tolerated = y  # of a step that ends where the drift was evaluated last

        def measured(log_sigma: Tensor, y: Tensor) -> Tensor:
            nonlocal tolerated
            level = log_sigma.exp()
            tolerated = self.rtol * level + self.atol + ROUNDING * eps * y.abs()
            if nats:
                tolerated[:, -1] = self.rtol * nats + ROUNDING * eps * y[:, -1].abs()
            found = drift(level, y)
            if not is_finite(found):  # an error estimate of NaN is rejected for ever
                raise ScoreError(
                    f"Adaptive: the score (or its trace) is not finite at σ = {level:g}. Call it "
                    "alone at this level."
                )
            return found

        def begins(t: Tensor, y: Tensor, dt: Tensor) -> None:
            if accepted:
                raise _Accepted(t, y, dt)

        def accepts(*_: Tensor) -> None:
            assert commit is not None
            commit()
            accepted.append(True)

        if commit is not None:  # torchdiffeq finds them by these names
            vars(measured).update(callback_step=begins, callback_accept_step=accepts)

        def worst_sample(error: Tensor) -> Tensor:
            relative = rows(error / tolerated)
            return relative.square().mean(dim=1).max().sqrt()

        ode = required("torchdiffeq", "the solver Adaptive (and log_likelihood)", "ode")
        logs = [math.log(sigma), math.log(sigma_next)]
        ends = torch.tensor(logs, dtype=torch.float64, device=y.device)
        options: dict[str, Any] = {"first_step": FIRST, "max_num_steps": MOST_STEPS}
        options |= {"norm": worst_sample, "step_t": ends[1:]}
        try:
            while True:
                accepted = list[bool]()
                try:
                    path: Tensor = ode.odeint(
                        measured, y, ends, rtol=0.0, atol=1.0, method=self.method, options=options
                    )
                    return path[1]
                except _Accepted as step:
                    t, y, options["first_step"] = step.args
                    ends = torch.stack([t, ends[1]])
        except AssertionError as error:  # torchdiffeq's way to give up
            raise PgmdiffError(
                f"Adaptive: rtol = {self.rtol:g} and atol = {self.atol:g} are not met from σ = "
                f"{sigma:g} to {sigma_next:g}: {error}. Raise them, or use float64: noisy scores, "
                "and those with jumps, have no path that accurate."
            ) from error


class _Accepted(Exception):
    """The end of an accepted step: its time, its state, and the size of the next one."""


@torch.inference_mode(False)
def log_likelihood(
    score: Score,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    *,
    trace: str = "exact",
    probes: int = 1,
    generator: Generator = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    solver: Adaptive | None = None,
) -> Tensor:
    """The log-density, in nats, that the probability-flow ODE gives to x at sigma_min: `[batch]`.

        log p(x) = log π(x_max) + ∫ (N - tr ∂D/∂u) d log σ      from x at σ_min to x_max at σ_max

    This is exact, to the solver's tolerance, for what `sample` would draw down to sigma_min with an
    exact ODE solver and a start from π. As a density of the data it is approximate: p is noised by
    sigma_min, π = N(0, σ_max²) is not q_{σ_max}, and the score may be approximate. Data without
    noise have no density under p: add N(0, σ_min²) to x.

    Args:
        score: differentiable, sample by sample. One with memory is called without it.
        x: `[batch, *event]` at noise level sigma_min.
        sigma_min, sigma_max: the noise levels of x and of the prior, in the data's units.
        trace: "exact", N backward passes per evaluation; or "hutchinson", `probes` of them, an
            unbiased estimate: E[vᵀ (∂D/∂u) v] over random signs v, the same all along the path.
        probes: number of vectors v.
        generator: the source of the random signs, as for `sample`.
        prior: the log-density at sigma_max of states `[batch, *event]`, to `[batch]`; that of
            N(0, σ_max²) if None.
        solver: tolerances and method; `Adaptive()` if None.

    Raises:
        PgmdiffError: 0 < sigma_min < sigma_max does not hold, the trace is unknown, or there are no
            probes.
        ShapeError: x has no batch axis.
        ScoreError: the score has no gradient.
        ImportError: torchdiffeq is not installed.

    Source: Song et al., "Score-based generative modeling through stochastic differential
    equations", 2021, section 4.3; Grathwohl et al., "FFJORD", 2019.

    Example:
        >>> import torch
        >>> from pgmdiff.gaussian import Gaussian
        >>> from pgmdiff.samplers import log_likelihood
        >>> target = Gaussian(torch.zeros(2), torch.eye(2))
        >>> x = torch.zeros(1, 2)
        >>> found = log_likelihood(target.score, x, 0.01, 50.0)
        >>> bool((found - target.log_density(x)).abs() < 1e-2)
        True
    """
    if not 0 < sigma_min < sigma_max or trace not in ("exact", "hutchinson") or probes < 1:
        raise PgmdiffError(
            "log_likelihood: expected 0 < sigma_min < sigma_max, trace='exact' or 'hutchinson' and "
            f"probes >= 1, got {sigma_min}, {sigma_max}, {trace!r} and {probes}."
        )
    check_score("log_likelihood", score)
    if x.ndim < 2 or not x.is_floating_point() or x.is_meta:
        raise ShapeError(
            "log_likelihood: expected floating-point states x [batch, *event] on a device, got "
            f"{tuple(x.shape)} of {x.dtype} on {x.device}. Give a batch axis: x[None]."
        )
    n, score = math.prod(x.shape[1:]), getattr(score, "pure", score)
    if trace == "exact":  # unit vectors, whose products are the diagonal of the Jacobian
        eye = torch.eye(n, dtype=x.dtype, device=x.device)
        share, directions = 1.0, [row.reshape(x.shape[1:]).expand(x.shape) for row in eye]
    else:
        noise = Noise.of(generator, len(x))
        share, directions = 1 / probes, [noise(PROBES + probe, x).sign() for probe in range(probes)]

    def drift(sigma: Tensor, joined: Tensor) -> Tensor:
        with torch.enable_grad():
            u = joined[:, :n].reshape(x.shape).detach().requires_grad_()
            denoised = denoise(score, u, sigma)
            total = u.new_zeros(len(u))
            for v in directions:
                (product,) = torch.autograd.grad(denoised, u, v, retain_graph=True)
                total = total + (v * product).reshape(len(u), n).sum(dim=1)
        change = (u - denoised).detach().reshape(len(u), n)
        return torch.cat([change, n - share * total[:, None]], dim=1)

    joined = torch.cat([x.detach().reshape(len(x), n), x.new_zeros(len(x), 1)], dim=1)
    with torch.no_grad():
        joined = (solver or Adaptive())._integrate(drift, joined, sigma_min, sigma_max, nats=n)
        end, change = joined[:, :n], joined[:, n]
        if prior is not None:
            return change + received(
                prior(end.reshape(x.shape)), change, lambda: "log_likelihood: prior"
            )
        constant = n * math.log(2 * math.pi * sigma_max**2)
        return change - 0.5 * ((end / sigma_max).square().sum(dim=1) + constant)
