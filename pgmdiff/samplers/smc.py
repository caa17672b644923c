r"""Sequential Monte Carlo along the path of the marginal rule's own densities.

Under that rule the score of Π_r q_σ(u_r)^{c_r} is known at every σ, but Eq. (1) driven by it does
not follow these densities. Weighted particles do (Feynman-Kac, after Skreta et al.,
"Feynman-Kac correctors in diffusion", 2025; for counts of any sign and any η, since the Laplacians
cancel):

    d log w = Σ_i g_i |dσ²|,      g_i = ½ (s_i² - Σ_{r ∋ i} c_r s_{r,i}²),

integrated by the trapezoidal rule. On a junction tree E[Σ_i g_i] = 0 under the target. The last
density is the data's where the marginal rule is exact at σ = 0.

Where a graph falls into connected components the density is a product over them. Each component
then has its own weights and is resampled separately: this is exact, and as good with a thousand
components as with one. Parts of a connected graph must not be resampled separately, since that
breaks the seams.

Weights collapse on large graphs. The effective sample size without resampling, in % of 2000
particles, on a chain of Gaussian variables (η = 1, Karras 30 → 0.05, mean of 3 seeds, which differ
by factors of two and more below 50 %; `python -m benchmarks correctors`):

    variables                        3      6     12     24
    correlation 0.5   100 steps      98     94     85     70
                     300 steps      99     94     86     74
    correlation 0.9   100 steps      65     24      7      2
                     300 steps      69     23      9      1

Its logarithm falls about in proportion to the number of variables; more steps hardly help.
Resampling along the way regains little of it (largest error of a covariance at correlation 0.9, 300
steps: 0.40 for 12 variables against 0.56 unweighted, single runs from 0.1 to 4; 0.48 for 24 against
0.56), and the sizes reported afterwards, 91 % for 24 variables, do not show what was lost before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.errors import PgmdiffError, ScoreError, ShapeError
from pgmdiff.linalg import is_finite, rows
from pgmdiff.noise import LAST, PARTICLES, RESAMPLE, Generator, Noise
from pgmdiff.samplers.start import check_hidden, mean_of
from pgmdiff.samplers.store import ELSEWHERE, Facts, Run, check_dtype, check_same, noise_of
from pgmdiff.scores.adapters import memory_of, per_sample
from pgmdiff.scores.walls import on_copies, received
from pgmdiff.store import fingerprint, outline
from pgmdiff.text import array, counted, described

__all__ = ["Particles", "effective_sample_size", "sample_weighted", "systematic"]

Potential = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""State `[n, *event]` and sigma `[n]` to score and Σ_i g_i, `[n]`: `composition.FeynmanKac(joint)`.

With several components it also has `components`, the component of every element, int64 `[*event]`,
and `by_component`, a callable that returns the score and the sum of g_i per component, `[n, C]`.

One with memory has, as joints have, `remembering(memory)`: a potential whose attribute `memory`,
tensors `[n, ...]` by name, changes at every call. Its particles are resampled as wholes, with it.
"""


@dataclass(frozen=True)
class Particles:
    """Weighted samples, with one weight per particle and component.

    Particle k holds a state of every component, and the components are independent: E[f] of a
    function f of one component's elements is Σ_k w_k f(x_k) with that component's weights w. For
    functions of several components, and for whole samples, call `resampled`; the weights of whole
    states are products over components and collapse with their number.

    Attributes:
        x: `[n, *event]`.
        components: the component of every element, 0 to C - 1: int64 `[*event]`.
        component_log_weights: `[n, C]`, since a component's last resampling; normalised, so that
            the exponentials of a column sum to 1.
        component_effective: `[steps, C]`, effective sample size of each component before each
            resampling decision.
        effective: effective sample size of whole states at the same times; with one component
            the same numbers.
        n_resampled: number of resamplings, summed over components.

    Example:
        >>> import torch
        >>> from pgmdiff import compose, gaussian, graphs
        >>> from pgmdiff.composition import FeynmanKac
        >>> from pgmdiff.samplers import karras, sample_weighted
        >>> graph = graphs.FactorGraph.from_scopes({"f": ("a", "b"), "g": ("c", "d")})
        >>> data = gaussian.Gaussian(torch.zeros(4), torch.eye(4))
        >>> joint = compose(graph, gaussian.node_scores(graph, data))
        >>> sigmas = karras(20, 0.1, 9.0)[:-1]
        >>> found = sample_weighted(FeynmanKac(joint), sigmas, shape=(500, 4), generator=0)
        >>> found.components.tolist(), tuple(found.component_log_weights.shape)
        ([0, 0, 1, 1], (500, 2))
        >>> variances = (found.weights * found.x**2).sum(dim=0)  # functions of one component
        >>> samples = found.resampled(generator=1)  # whole states of equal weight: [500, 4]
    """

    x: Tensor
    components: Tensor
    component_log_weights: Tensor
    component_effective: Tensor
    effective: tuple[float, ...]
    n_resampled: int

    def __repr__(self) -> str:
        effective = f"effective={self.effective[-1]:.3g}" if self.effective else ""
        return described(
            self,
            f"x={array(self.x)}",
            counted(self.component_log_weights.shape[1], "component"),
            effective,
            f"n_resampled={self.n_resampled}",
        )

    @property
    def log_weights(self) -> Tensor:
        """Log-weights of whole states, `[n]`: sums over components, normalised."""
        return self.component_log_weights.sum(dim=1).log_softmax(dim=0)

    @property
    def weights(self) -> Tensor:
        """The weight of every element's component: `[n, *event]`, summing to 1 over particles."""
        return self.component_log_weights.exp()[:, self.components]

    def resampled(self, generator: Generator = None) -> Tensor:
        """Whole states of equal weight, `[n, *event]`; every component is resampled separately.

        The generator is as for `sample`; a sequence has length one.
        """
        uniforms = _uniforms(Noise.of(generator, 1), LAST, self.component_log_weights)
        chosen = systematic(self.component_log_weights, uniforms)
        return _gathered(self.x, chosen, self.components)


@torch.no_grad()
def sample_weighted(
    potential: Potential,
    sigmas: Sequence[float],
    *,
    shape: Sequence[int],
    mean: Tensor | float = 0.0,
    eta: float = 1.0,
    threshold: float = 0.5,
    generator: Generator = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    run: Run | str | Path | None = None,
    progress: bool = False,
) -> Particles:
    """Weighted particles of the density that a marginal-rule joint has at the last σ.

    Args:
        potential: score and weight rates, such as `composition.FeynmanKac(joint)`.
        sigmas: decreasing noise levels that end above 0 (the rate is a difference of squares, which
            is unbounded at σ = 0 for data on a manifold).
        shape: `[n, *event]`, n particles; they start from N(mean, sigmas[0]²).
        mean: that of the data, as for `sample`, which also says what a wrong one costs.
        eta: η of Eq. (1).
        threshold: a component is resampled when its effective sample size falls below this share of
            n, from 0 to 1.
        generator, dtype, device, run, progress: as for `sample`; a sequence has one per particle.

    Raises:
        PgmdiffError: the schedule does not decrease from a finite value to one above 0, eta is
            negative or infinite, threshold is outside [0, 1], the dtype is of half precision, or
            the folder of `run` belongs to another run or cannot be written.
        ScoreError: a state or a weight is NaN or infinite, or all weights of a component are 0: the
            step and σ are named; or the potential returns anything but a score and rates.
        ShapeError: there are no particles, or components do not fit the state or the rates.
    """
    levels = [float(sigma) for sigma in sigmas]
    falling = all(a > b for a, b in pairwise(levels))
    if len(levels) < 2 or not (falling and levels[0] < inf and levels[-1] > 0):
        raise PgmdiffError(
            "sample_weighted: expected finite sigmas that decrease strictly to a value above 0, "
            f"got {levels[:3]} ... {levels[-1:]}. Drop a schedule's last 0."
        )
    if not (0 <= eta < inf and 0 <= threshold <= 1):
        raise PgmdiffError(
            "sample_weighted: expected a finite eta >= 0 and a threshold from 0 to 1, got "
            f"eta={eta} and threshold={threshold}. A threshold of 0 never resamples."
        )
    check_dtype("sample_weighted", dtype)
    like = torch.empty(tuple(shape), dtype=dtype, device=device)
    if not len(like):
        raise ShapeError(f"sample_weighted: expected shape=[n, *event], n > 0, got {shape}.")
    remembering = getattr(potential, "remembering", None)
    active: Any = potential if remembering is None else remembering({})
    evaluate, components = _by_component(active, like)
    run = Run.of(run, potential)
    found = None if run is None else run.latest()
    noise = noise_of(generator, len(like), found[1]["run"] if found else {})
    mean = mean_of("sample_weighted", mean, like.shape, dtype, device)
    x = mean + levels[0] * noise(PARTICLES, like)
    score, rates = evaluate(x, per_sample(levels[0], x))
    if found is None:
        denoised = x + levels[0] ** 2 * score
        check_hidden("sample_weighted", denoised - mean, x - mean, levels[0], eta)
    if rates.ndim != 2 or int(components.max()) + 1 != rates.shape[1]:
        raise ShapeError(
            f"sample_weighted: expected rates [n, {int(components.max()) + 1}], one per component, "
            f"got {tuple(rates.shape)}. Number the components 0, 1, ... without gaps."
        )
    log_weights = torch.zeros_like(rates)
    stay = torch.arange(len(x), device=x.device)[:, None]
    effective: list[Tensor] = []
    whole: list[float] = []
    n_resampled, first = 0, 0
    pairs = list(pairwise(levels))
    facts: Facts = {"sampler": "sample_weighted", "sigmas": levels, "shape": list(like.shape)}
    facts |= {"eta": float(eta), "threshold": float(threshold), "dtype": str(dtype)}
    facts |= {"seeds": list(noise.keys)}

    def save(step: int) -> None:
        if run is not None:
            sizes = torch.stack(effective) if effective else rates[:0]
            values = {"x": x, "score": score, "rates": rates}
            values |= {"log_weights": log_weights, "effective": sizes}
            values |= {f"memory.{name}": value for name, value in memory_of(active).items()}
            known = {"step": step, "whole": whole, "n_resampled": n_resampled, "run": facts}
            run.save(step, values, known, last=step == len(pairs))

    if run is not None:
        facts |= {"score": outline(potential), "mean": fingerprint(mean)[:16]}
    if run is not None and found:
        check_same(f"sample_weighted: the folder {run.folder}", found[1]["run"], facts, ELSEWHERE)
        names = "x", "score", "rates", "log_weights", "effective"
        x, score, rates, log_weights, sizes = (found[0][name].to(x.device) for name in names)
        effective, whole = list(sizes), found[1]["whole"]
        n_resampled, first = found[1]["n_resampled"], found[1]["step"]
        if remembering is not None:
            kept = {n: t.to(x.device) for n, t in found[0].items() if n.startswith("memory.")}
            active = remembering({n.removeprefix("memory."): t for n, t in kept.items()})
            evaluate, _ = _by_component(active, like)
    else:
        save(0)
    for step in tqdm(range(first, len(pairs)), disable=not progress, desc="SMC"):
        sigma, sigma_next = pairs[step]
        fall = sigma**2 - sigma_next**2  # Euler-Maruyama in σ², to which the weights belong
        x = x + 0.5 * (1 + eta**2) * fall * score + eta * fall**0.5 * noise(step, x)
        before = rates
        score, rates = evaluate(x, per_sample(sigma_next, x))
        log_weights = log_weights + 0.5 * (before + rates) * fall
        place = f" after step {step}, at σ = {sigma_next:g}"
        if not is_finite(x):
            raise ScoreError(
                f"sample_weighted: a state is not finite{place}. The score at the level before, "
                f"σ = {sigma:g}, is not finite, or the step is too large for it."
            )
        _check_weights("sample_weighted", log_weights, place)
        effective.append(_effective(log_weights))
        whole.append(float(_effective(log_weights.sum(dim=1)).nan_to_num(0.0)))
        low = effective[-1] < threshold * len(x)
        if low.any() and step < len(pairs) - 1:
            uniforms = _uniforms(noise, RESAMPLE + step, log_weights)
            chosen = torch.where(low, systematic(log_weights, uniforms), stay)
            x, score = (_gathered(each, chosen, components) for each in (x, score))
            rates, log_weights = rates.gather(0, chosen), torch.where(low, 0, log_weights)
            if remembering is not None:
                # Guidance has the memories of both evaluations, one after the other.
                branches = {n: t.unflatten(0, (-1, len(x))) for n, t in active.memory.items()}
                active = remembering(
                    {n: t[:, chosen[:, 0]].flatten(0, 1) for n, t in branches.items()}
                )
                evaluate, _ = _by_component(active, like)
            n_resampled += int(low.sum())
        save(step + 1)
    log_weights = log_weights.log_softmax(dim=0)
    return Particles(x, components, log_weights, torch.stack(effective), tuple(whole), n_resampled)


def effective_sample_size(log_weights: Tensor) -> float:
    """(Σ w)² / Σ w², from 1 to n: the number of equally weighted particles that are as accurate.

    Args:
        log_weights: `[n]`, up to a constant.

    Raises:
        ScoreError: a weight is NaN or infinite, or all weights are 0.
    """
    _check_weights("effective_sample_size", log_weights)
    return float(_effective(log_weights))


def systematic(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Systematic resampling: indices `[n, C]`, each about n w_k times per column.

    Args:
        log_weights: `[n, C]`, not necessarily normalised.
        uniforms: one number in [0, 1) per column, `[C]`.

    Raises:
        ScoreError: a weight is NaN or infinite, or all weights of a column are 0.

    Source: Carpenter, Clifford, Fearnhead, "Improved particle filter for nonlinear problems", 1999.
    """
    _check_weights("systematic", log_weights)
    n = len(log_weights)
    counting = torch.arange(n, device=log_weights.device, dtype=torch.float64)
    places = (counting[:, None] + uniforms) / n
    cumulative = log_weights.double().softmax(dim=0).cumsum(dim=0)
    return torch.searchsorted(cumulative.T.contiguous(), places.T.contiguous()).clamp(max=n - 1).T


def _by_component(potential: Any, like: Tensor) -> tuple[Potential, Tensor]:
    """The potential with rates `[n, C]`, and the component of every element."""
    by_component = getattr(potential, "by_component", None)
    if hasattr(potential, "memory"):  # it belongs to whole particles
        by_component = None

    def evaluate(u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        value = on_copies(by_component or potential, u, sigma)
        if not (isinstance(value, tuple | list) and len(value) == 2):
            raise ScoreError(
                "sample_weighted: expected a potential that returns a score and rates, got "
                f"{type(value).__name__}. See composition.FeynmanKac."
            )
        score, rates = value
        columns = getattr(rates, "shape", ())[1:] if by_component else ()
        rows = sigma.new_empty(len(u), *columns)
        score = received(score, u, lambda: "sample_weighted: the potential, as its score,")
        rates = received(
            rates, rows, lambda: "sample_weighted: the potential, as its rates,", cast=True
        )
        return score.clone(), rates.clone() if by_component else rates.clone()[:, None]

    if by_component is None:
        return evaluate, torch.zeros(like.shape[1:], dtype=torch.int64, device=like.device)
    components = potential.components.to(like.device, copy=True)
    if components.shape != like.shape[1:]:
        raise ShapeError(
            "sample_weighted: expected the component of every element of the state "
            f"{tuple(like.shape[1:])}, got components of {tuple(components.shape)}. Make shape= "
            "[n, *event] of the potential's event."
        )
    return evaluate, components


def _check_weights(who: str, log_weights: Tensor, place: str = "") -> None:
    """Raises `ScoreError` unless the largest log-weight of every column is a number."""
    largest = log_weights.amax(dim=0)  # NaN if one of them is
    if not largest.isfinite().all():
        nothing = (largest == -inf).any()
        raise ScoreError(
            f"{who}: {'all weights of a component are 0' if nothing else 'a weight is not finite'}"
            f"{place}. Look at the potential's rates there; smaller steps keep weights from "
            "running away."
        )


def _effective(log_weights: Tensor) -> Tensor:
    """Effective sample size of `[n]` or of every column of `[n, C]`."""
    twice = 2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0)
    return twice.exp()


def _uniforms(noise: Noise, number: int, log_weights: Tensor) -> Tensor:
    """One uniform number per component, `[C]`, from the first particle's noise."""
    return Noise(noise.keys[:1]).uniform(number, log_weights[:1])[0]


def _gathered(x: Tensor, chosen: Tensor, components: Tensor) -> Tensor:
    """The chosen states of every component `[n, C]`, put together."""
    flat = rows(x)
    return flat.gather(0, chosen[:, components.reshape(-1)]).reshape(x.shape)
