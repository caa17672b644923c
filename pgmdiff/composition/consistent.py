r"""Consistent composition: local posteriors that exchange messages until they agree.

The posterior of the clean state factorises over regions at every σ. `Posterior` closes the factors
with Gaussians; here every local posterior is also tilted by exp(η_r · x_r), so that the local means
come to agree on what regions share. For a Gaussian likelihood a tilt only shifts the noisy input,
N(u; x, σ²) e^{η x} ∝ N(u + σ² η; x, σ²), so that an ordinary denoiser carries the messages:

    d_r   = η_r + s_r(A_r u + σ² η_r, σ)
    s     = (I + σ² K)⁻¹ [Σ_r c_r A_rᵀ ((I + σ² Σ_r⁻¹) d_r - η_r) - (K - P)(u - m)]
    η_r  ← τ (η_r + γ (I + σ² (Σ_r + ε σ² I)⁻¹)(A_r s - d_r))

K is the maximum-entropy completion of the Σ_r (see `precision.completing`) and P the composed
precision; on a junction tree K = P. The damping is γ, and τ ≤ 1, per sample, keeps every
rms(σ η_r) within the trust radius. The least share ε is how closely a denoiser is relied on: in
directions of variance far below that of the noise it keeps less of its input than an imperfect
network can be right about, and what it is wrong by would be multiplied by σ² Σ_r⁻¹. If a message
moves by δ, the local mean d_r moves by J δ, with J the Jacobian of the denoiser, between 0 and I
for log-concave data. At ε ≥ γ / (2 - γ), as by default, the eigenvalues of
γ (I + σ² (Σ_r + ε σ² I)⁻¹) J are at most 2, whatever Σ_r: no update leaves d_r farther from what is
asked of it than it was. (Regions that contradict each other may still drive each other.) With
observed elements σ² in it is the mean of their σ̃², see `observed`.

At a fixed point d_r = A_r s for all r: this is expectation consistency with first moments (Opper,
Winther, "Expectation consistent approximate inference", 2005; Heskes, Opper, Wiegerinck, Winther,
Zoeter, "Approximate inference techniques with expectation constraints", 2005). From η = 0 the first
evaluation is posterior composition.

On loops the last term fades where data is not Gaussian; see `loops`. Regions on equal elements,
such as posteriors of many observations, exchange precisions, too; see `stars`.

A run carries the messages from call to call. A call without memory is a pure function of (u, σ): it
iterates from η = 0 to the fixed point, by Anderson's extrapolation (Anderson, "Iterative procedures
for nonlinear integral equations", 1965), without damping, trust or least share. There s is the
gradient of

    L_σ(u) = Σ_r c_r [log q_σ(A_r u + σ² η_r) + ½ σ² |η_r|² - σ² η_r · A_r s]
             - ½ (D - m)ᵀ (K - P)(D - m)
             + ½ Σ_r c_r log det(Σ_r + σ² I) - ½ log det(K⁻¹ + σ² I)

wherever w = 1. For Gaussian data Markov to the graph it is log q_σ, constants included. It is
stationary in η and s, so that errors of the fixed point count only by their squares.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from pgmdiff.composition.evaluate import Chunk, Evaluate
from pgmdiff.composition.posterior import Closure, sharpened
from pgmdiff.composition.rules import Memory, Rule, bound
from pgmdiff.composition.stars import CARRIED, CENTRE, Stars
from pgmdiff.errors import ScoreError
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Residual, anderson, implicit, implicit_fixed_point
from pgmdiff.precision import Solve
from pgmdiff.scores.gradients import check_gradient

__all__ = ["Consistent"]

MESSAGES, CAPPED = "messages", "capped"
"""Names in the memory: η, `[B, M]`, region after region, and in how many calls the trust radius cut
a sample's messages, `[B]`."""
FADED = 1e-6
"""Share by which the loop term may fade where a log-density is asked for."""
ROUNDING = 100
"""Disagreement, in units of the rounding of a state, that counts as agreement."""
MOST_STEPS = 400
"""Most evaluations by which a call without memory may reach the fixed point."""


@dataclass(frozen=True, repr=False)
class Consistent(Closure):
    r"""Composition that is exact for Gaussians on any graph, with messages for other data.

    See the module for the formulas. A run carries the messages from call to call (`sample` does),
    at one evaluation of every region per call, like the marginal rule. A call without memory is a
    pure function of (u, σ), the fixed point of the messages, which takes tens of evaluations where
    data is not Gaussian: in a loop of your own use `joint.remembering()`.

    It is the exact score at every σ for Gaussian data Markov to the graph, loops included, with
    true covariances and mean. For other data it is an approximation; fixed points of the messages
    need not be unique, not even on trees, and where they are several, rounding can decide which one
    a call without memory finds: it may then depend on `max_batch` and the place in a batch. The
    memory of a run holds the messages and, under "capped", in how many calls the trust radius cut a
    sample's messages.

    On a star (several regions over the same elements, at most 64, with different covariances, whose
    counts sum to 1) messages also have a precision, and regions are evaluated at lower noise
    levels; see the module `stars`. A star may be the whole graph, or a part of a graph of up to 256
    elements, as nested observations are. With observations, and on all other graphs, messages have
    no precision.

    Args:
        covariances, mean, prior: see `Posterior`.
        trust: the largest rms(σ η_r) of a region's message that a run carries on; at 0 it is
            posterior composition.
        damping: γ in (0, 1].
        least_share: ε >= 0; 0 suits exact scores alone.
        iterations: evaluations of every region per call of a run.

    Raises:
        GraphError, ShapeError: see `Posterior`.
        ScoreError: an option is out of range. When called without memory: the messages have not
            converged.
    """

    trust: float = 1.0
    damping: float = 0.5
    least_share: float = 1 / 3
    iterations: int = 1
    star: Stars | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        own = (self.trust, self.damping, self.least_share)
        numbers = all(isinstance(each, Real) for each in own)
        sound = numbers and all(0 <= each < float("inf") for each in own) and 0 < own[1] <= 1
        if not (sound and isinstance(self.iterations, int) and self.iterations >= 1):
            raise ScoreError(
                "Consistent: expected trust >= 0, damping in (0, 1], least_share >= 0 and an "
                f"integer iterations >= 1, got {own[0]!r}, {own[1]!r}, {own[2]!r} and "
                f"{self.iterations!r}."
            )

    @property
    def _options(self) -> list[str]:
        options = f"trust={self.trust:g}", f"damping={self.damping:g}"
        usual = self.least_share == Consistent.least_share
        share = "" if usual else f"least_share={self.least_share:g}"
        times = f"iterations={self.iterations}" if self.iterations > 1 else ""
        return [*super()._options, *options, share, times]

    def bind(self, graph: RegionGraph) -> "Consistent":
        rule = super().bind(graph)
        assert isinstance(rule, Consistent), "copies have the same class"
        assert rule.precision is not None, "compose binds it"
        if rule.loops is not None and rule.loops.fades:
            return bound(rule, star=None)
        return bound(rule, star=Stars.of(rule.precision, rule.completion))

    def part(self, elements: Tensor, solve: Callable[[], Solve]) -> Rule:
        if self.star is not None:
            return Rule.part(self, elements, solve)  # its error
        return super().part(elements, solve)

    def _pull(self, u: Tensor, mean: Tensor | None) -> Tensor | None:
        """(K - P)(u - m) on loops."""
        if self.loops is None or mean is None:
            return None
        away = (u - mean.to(u.device)).double()
        return self.loops.solve.pulled(away)

    @property
    def _exchanged(self) -> Stars | None:
        """The star, unless observations change what its regions see."""
        return self.star if self.observed is None and self.trust else None

    def score(
        self, evaluate: Evaluate, u: Tensor, sigma: Tensor, memory: Memory | None = None
    ) -> Tensor:
        if memory is None and not self.trust:
            memory = {}  # posterior composition
        if memory is None and self.solve is not None and self.solve.spread:
            raise ScoreError(
                "Consistent: a call without memory requires the whole state. Use "
                "slab.remembering(), as `sample` does, or distributed.shared(joint)."
            )
        if memory is None:
            return self.converged(evaluate, u, sigma).score.to(u)
        if (star := self._exchanged) is not None:
            return self._run_star(star, evaluate, u, sigma, memory).to(u)
        mean, messages = self.known_mean(evaluate, u, memory), memory.get(MESSAGES)
        cut, seen = torch.zeros_like(sigma, dtype=torch.bool), self.seen(u, sigma)
        for _ in range(self.iterations):
            score, _, answers = self.heard(
                evaluate, u, sigma, mean, messages, share=self.least_share
            )
            moved = [(each.eta + self.damping * each.move).detach() for each in answers]
            if seen is None:
                rms = sigma * _largest_rms(u, answers, moved)
            else:
                pairs = zip(answers, moved, strict=True)
                scaled = [each.chunk.gather(seen.levels) * own for each, own in pairs]
                rms = _largest_rms(u, answers, scaled)
            rms = rms if self.solve is None else self.solve.largest(rms)
            messages, shorter = self._trusted(u, answers, moved, rms)
            cut = cut | shorter
        assert messages is not None, "there is at least one iteration"
        memory[MESSAGES], memory[CAPPED] = messages, memory.get(CAPPED, 0) + cut.to(sigma)
        return score.to(u)

    def _run_star(
        self, star: Stars, evaluate: Evaluate, u: Tensor, sigma: Tensor, memory: Memory
    ) -> Tensor:
        """The score with stars, whose messages are kept relative to the denoised value.

        In a graph that is one star the damping is halfway to 1.
        """
        pull = self._pull(u, self.known_mean(evaluate, u, memory))
        damping = (1 + self.damping) / 2 if star.alone else self.damping
        messages, centre, carried = (memory.get(name) for name in (MESSAGES, CENTRE, CARRIED))
        cut = torch.zeros_like(sigma, dtype=torch.bool)
        for _ in range(self.iterations):
            said = star.said(evaluate, u, sigma, messages, centre, carried)
            closure, carried = star.shares(said, u, sigma, carried)
            score, gaps, moves = star.joined(said, u, sigma, pull, closure)
            moved_on = sigma.double()[:, None] ** 2 * score.detach()
            answers, moved, scaled = list[Answer](), list[Tensor](), list[Tensor]()
            for each, gap, move in zip(said, gaps, moves, strict=True):
                answers.append(Answer(each.chunk, each.eta, gap, move))
                back = each.sharper * each.chunk.gather(moved_on)
                moved.append(each.eta + damping * move.detach() - back)
                scaled.append(moved[-1] * star.levels(each.chunk, sigma, carried)[:, :, None])
            rms = _largest_rms(u, answers, scaled)
            messages, shorter = self._trusted(u, answers, moved, rms)
            centre, cut = u + moved_on, cut | shorter
        capped = memory.get(CAPPED, 0) + cut.to(sigma)
        found = {MESSAGES: messages, CENTRE: centre, CARRIED: carried, CAPPED: capped}
        memory |= {name: each for name, each in found.items() if each is not None}
        return score

    def _trusted(
        self, u: Tensor, answers: "list[Answer]", moved: list[Tensor], rms: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The messages, made shorter where their rms is beyond the trust radius, and where so."""
        within = (self.trust / rms.clamp(min=1e-300)).clamp(max=1)
        return (_collected(u, answers, moved) * within[:, None]).to(u), within < 1

    def heard(
        self,
        evaluate: Evaluate,
        u: Tensor,
        sigma: Tensor,
        mean: Tensor | None,
        messages: Tensor | None,
        centre: Tensor | None = None,
        share: float = 0.0,
    ) -> tuple[Tensor, Tensor, "list[Answer]"]:
        """The score and the fade for given messages, as `joined`, and what regions answer.

        The share is ε of the updates, which stars leave out. Messages in a star are relative to a
        centre, without which they are 0; see `Stars.said`.
        """
        if (star := self._exchanged) is not None:
            said = star.said(evaluate, u, sigma, messages, centre)
            score, gaps, moves = star.joined(said, u, sigma, self._pull(u, mean))
            each = zip(said, gaps, moves, strict=True)
            answers = [Answer(one.chunk, one.eta, gap, move) for one, gap, move in each]
            return score, torch.ones_like(sigma), answers
        local: list[tuple[Chunk, Tensor, Tensor]] = []
        score, fade = self.joined(evaluate, u, sigma, mean, messages, local)
        seen = self.seen(u, sigma)
        answers = []
        for chunk, tilted, eta in local:
            gap = chunk.gather(score) - tilted
            noise = sigma[chunk.samples, None, None] if seen is None else chunk.gather(seen.levels)
            floor = share * noise.double().square().mean(dim=2) if share else None
            move = sharpened(gap, chunk, sigma, floor)
            move = move if seen is None else move + seen.gains(chunk) * gap
            answers.append(Answer(chunk, eta, gap, move))
        return score, fade, answers

    def converged(self, evaluate: Evaluate, u: Tensor, sigma: Tensor) -> "Agreement":
        """The fixed point of the messages, differentiable once in all that scores depend on.

        Raises:
            ScoreError: the messages have not converged after `MOST_STEPS` evaluations.
        """
        assert self.precision is not None, "compose binds it"
        mean = self.known_mean(evaluate, u, None)
        tolerance = 1e-8 if u.dtype == torch.float64 else 1e-4
        rounding = ROUNDING * torch.finfo(u.dtype).eps
        levels = sigma.detach().double().clamp(min=1e-30)[:, None]
        # Deviations of every element's posterior, if it were alone: messages have their inverse.
        seen = self.seen(u, sigma)
        own = levels if seen is None else seen.levels.double().clamp(min=1e-30)
        units = (own**-2 + 1 / self.precision.variances.to(u.device)).rsqrt()
        with torch.no_grad():
            alone = None if self._exchanged is None else self.heard(evaluate, u, sigma, mean, None)
        centre = None if alone is None else u.detach() + levels**2 * alone[0]

        def residual(messages: Tensor | None) -> Residual:
            """The undamped update of the messages, and how far local means are apart."""
            _, _, answers = self.heard(evaluate, u, sigma, mean, messages, centre)
            own = [chunk.gather(units) for chunk, *_ in answers]
            apart = []
            for answer, unit in zip(answers, own, strict=True):
                lost = rounding * answer.chunk.gather(u.detach()).abs()  # in x and D
                squared = levels[answer.chunk.samples, None] ** 2
                apart.append(answer.gap.detach() * squared / (unit + lost / tolerance))
            return Residual(
                _collected(u, answers, [answer.move for answer in answers]),
                _collected(u, answers, own),
                _largest_rms(u, answers, apart),
            )

        with torch.no_grad():
            found = anderson(residual, tolerance=tolerance, most_steps=MOST_STEPS)
        apart = found.errors.where(found.errors.isfinite(), 0)  # what is not, a joint finds itself
        if (apart > tolerance).any():
            entry = int(apart.argmax())
            raise ScoreError(
                f"Consistent: the messages have not converged at σ = {sigma[entry].item():g}, "
                f"batch entry {entry}: local means differ by {found.errors[entry]:.2g} posterior "
                f"deviations after {found.steps} evaluations, expected {tolerance:g}. A call "
                "without memory requires the fixed point. In a run use joint.remembering(), as "
                "`sample` does; or use the rule Posterior."
            )
        messages = found.x
        if torch.is_grad_enabled():
            messages = implicit_fixed_point(
                lambda eta: residual(eta).moves,
                messages,
                tolerance=max(1e-8, rounding),
                what="Consistent",
            )
        if centre is None:
            score, fade = self.joined(evaluate, u, sigma, mean, messages)
        else:
            score, fade, _ = self.heard(evaluate, u, sigma, mean, messages, centre)
        return Agreement(score, messages, fade, mean, centre)

    def log_density(self, evaluate: Evaluate, u: Tensor, sigma: Tensor) -> Tensor:
        """L_σ(u) at the fixed point, whose gradient is the score there: `[B]`, in nats.

        It has a gradient in u only, not in conditions and weights of networks.

        Raises:
            ScoreError: the messages have not converged, the score of a piece has no `log_density`,
                trust is 0 or w < 1, so that the score is no gradient, or a gradient with respect
                to σ is required, which L_σ does not have.
            GraphError: log det(I + σ² P) is not available: the state is too large and the graph no
                junction tree.
        """

        def pull(gradient: Tensor, u: Tensor) -> tuple[Tensor]:
            return (gradient[:, None] * self.converged(evaluate, u, sigma).score.to(u),)

        if not self.trust or self.observed is not None:
            return super().log_density(evaluate, u, sigma)  # its error
        with torch.no_grad():
            found = self._value(evaluate, u, sigma)
        check_gradient(found, sigma, lambda: "Joint.log_density under Consistent")
        return implicit(lambda _: found, pull, u)

    def _value(self, evaluate: Evaluate, u: Tensor, sigma: Tensor) -> Tensor:
        """L_σ(u), without its derivative."""
        precision, solve = self.precision, self.solve
        assert precision is not None, "compose binds it"
        assert solve is not None, "compose binds it"
        point = self.converged(evaluate, u, sigma)
        if (point.fade < 1 - FADED).any():
            entry = int(point.fade.argmin())
            raise ScoreError(
                f"Joint.log_density: at σ = {sigma[entry].item():g}, batch entry {entry}, the "
                f"loop term fades (w = {point.fade[entry]:.3g}), since the data is not "
                "Gaussian there, and the score is the gradient of no density. Ask on a "
                "junction tree, or at a larger σ."
            )
        squared, total = sigma.double()[:, None] ** 2, -0.5 * solve.log_determinant(sigma)
        if self.loops is not None and point.mean is not None:
            away = u - point.mean.to(u.device) + squared * point.score
            total = total + self.loops.constant
            total = total - 0.5 * (self.loops.solve.pulled(away) * away).sum(dim=1)
        if (star := self._exchanged) is not None and point.centre is not None:
            given = point.score, point.messages, point.centre
            return (total + star.log_density(evaluate, u, sigma, *given)).to(u)
        total = total + 0.5 * precision.log_determinants(sigma)
        for chunk, densities in evaluate(u, sigma, density=True, tilt=point.messages):
            eta = chunk.own(point.messages)
            tilt = eta * (0.5 * eta - chunk.gather(point.score))
            own = densities + squared[chunk.samples] * tilt.sum(dim=2)
            total[chunk.samples] += own @ chunk.weights.to(own)
        return total.to(u)


class Answer(NamedTuple):
    """What the regions of a chunk answer to their messages, `[samples, regions, d]`.

    Attributes:
        chunk: the regions and samples.
        eta: η_r.
        gap: A_r s - d_r.
        move: (I + σ² (Σ_r + ε σ² I)⁻¹) gap, the undamped update of the messages; if elements are
            folded, with 1 / R added to the inverse.
    """

    chunk: Chunk
    eta: Tensor
    gap: Tensor
    move: Tensor


class Agreement(NamedTuple):
    """The score `[B, N]`, the messages `[B, M]`, the fade `[B]`, the mean and centre, float64."""

    score: Tensor
    messages: Tensor
    fade: Tensor
    mean: Tensor | None
    centre: Tensor | None


def _collected(u: Tensor, answers: list[Answer], values: list[Tensor]) -> Tensor:
    """Values of every chunk's regions as `[B, M]`, float64."""
    size = max([0, *(answer.chunk.places.stop for answer in answers)])
    whole = u.new_zeros(len(u), size, dtype=torch.float64)
    for answer, own in zip(answers, values, strict=True):
        answer.chunk.own(whole).copy_(own)
    return whole


def _largest_rms(u: Tensor, answers: list[Answer], values: list[Tensor]) -> Tensor:
    """The largest root mean square of a region, `[B]`, float64."""
    found = u.new_zeros(len(u), dtype=torch.float64)
    for answer, own in zip(answers, values, strict=True):
        samples = answer.chunk.samples
        largest = own.square().mean(dim=2).amax(dim=1).sqrt()
        found[samples] = torch.maximum(found[samples], largest)
    return found
