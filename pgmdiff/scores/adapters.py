r"""The calling convention for models, and adapters for networks that use another.

A score is any callable

    score(x, sigma, **condition) -> ∇ log q_σ(x),      q_σ = q * N(0, σ² I)  (variance exploding)

with x `[batch, *shape]`, sigma `[batch]` and a result like x. Tweedie's formula (Robbins, 1956)
relates it to the denoiser D(x, σ) = E[x_0 | x_σ = x] by s = (D - x) / σ², and so to the noise
ε = (x - D) / σ by s = -ε / σ. Many networks see x_t = α x instead, with noise of level α σ:

    variance preserving, α = 1 / √(1 + σ²):     they predict ε, x_0, or v = α ε - α σ x_0
    flow, α = 1 - t = 1 / (1 + σ):              they predict the velocity ε - x_0

(Salimans, Ho, "Progressive distillation for fast sampling of diffusion models", 2022; Lipman,
Chen, Ben-Hamu, Nickel, Le, "Flow matching for generative modeling", 2023). `from_vp_v` and
`from_flow` compute D and ε from the prediction, neither from the other: that would divide by a
small number.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pgmdiff.errors import ScoreError, ShapeError
from pgmdiff.linalg import beside, widest
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.scores.walls import called, copied
from pgmdiff.text import brief, by_field, described, span

__all__ = [
    "Score",
    "Timesteps",
    "denoise",
    "from_denoiser",
    "from_eps",
    "from_flow",
    "from_vp_eps",
    "from_vp_sample",
    "from_vp_v",
    "padded",
]

Score = Callable[..., Tensor]
"""`score(x, sigma, **condition)`: x `[batch, *shape]`, sigma `[batch]`, to ∇ log q_σ(x), like x."""


def denoise(score: Score, x: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
    """D(x, σ) = x + σ² s(x, σ), or the score's own `denoise` where it has one.

    Args:
        score: the score of x.
        x: the noisy states, `[batch, *shape]`.
        sigma: the noise levels, `[batch]`, or one number for all samples.
        condition: keyword arguments that are passed on to the score.
    """
    sigma = per_sample(sigma, x)
    own = getattr(score, "denoise", None)
    if own is not None:
        return called(own, x, sigma, **condition)
    return x + beside(sigma, x) ** 2 * called(score, x, sigma, **condition)


def per_sample(sigma: Tensor | float, x: Tensor) -> Tensor:
    """σ as `[batch]`, in the dtype and on the device of x."""
    if isinstance(sigma, float):  # not a constant: one compiled step serves every σ
        return x.new_ones(len(x)) * sigma
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    return sigma.expand(x.shape[0]) if sigma.ndim == 0 else sigma


def per_element(score: Any) -> bool:
    """Whether a score says, by an attribute of this name, that it accepts σ like x, too."""
    return getattr(getattr(score, "__self__", score), "per_element", False) is True


class Around:
    """A score around another, `score`; memory, observation and variables are that one's."""

    score: Score | None

    def around(self, score: Score) -> "Around":
        """The same, around another score."""
        raise NotImplementedError

    @property
    def remembering(self) -> Callable[..., "Around"]:
        """`remembering(memory)`, see `Joint.remembering`; missing if the score has no memory."""
        inner = remembering(self.score)
        return lambda memory=None: self.around(inner(memory))

    # See `Remembering`: they are missing if the score inside has none.
    memory = property(attrgetter("score.memory"))
    hold = property(attrgetter("score.hold"))
    commit = property(attrgetter("score.commit"))
    pure = property(lambda self: self.around(self.score.pure))
    # See `Joint`.
    pack = property(attrgetter("score.pack"))
    unpack = property(attrgetter("score.unpack"))


@dataclass(frozen=True, eq=False)
class Wrapped(Around):
    """A score around another one."""

    score: Score
    copies = True

    finish = property(lambda self: getattr(self.score, "finish", None))

    def around(self, score: Score) -> "Wrapped":
        return replace(self, score=score)


@dataclass(frozen=True, eq=False)
class Given(Wrapped):
    """A score with some of its conditions: a `functools.partial` that has a memory."""

    conditions: Mapping[str, Any]

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        return called(self.score, x, sigma, **{**self.conditions, **condition})


def begun(score: Score, memory: Mapping[str, Tensor] | None = None) -> Score:
    """A score at the beginning of a run, with a memory of its own that is held until `commit`.

    It is the score itself if that has no memory.

    Args:
        score: the score, or a `functools.partial` of it that gives conditions by keyword.
        memory: what an earlier part of the run left; nothing if None.
    """
    if not hasattr(_opened(score), "remembering"):
        return score
    run: Score = remembering(score)(memory)
    if hasattr(run, "hold"):
        run.hold()
    return run


def has_memory(score: Any) -> bool:
    """Whether a score carries a memory; a network may have an attribute of that name."""
    return hasattr(score, "memory") and hasattr(score, "remembering")


def memory_of(score: Any) -> dict[str, Tensor]:
    """What it remembers now; nothing if it has no memory."""
    return dict(score.memory) if has_memory(score) else {}


def remembering(score: Any) -> Callable[..., Any]:
    """The method `remembering` of a score, also one that a `functools.partial` hides.

    Raises:
        AttributeError: the score has no memory.
    """
    found: Callable[..., Any] | None = getattr(_opened(score), "remembering", None)
    if found is None:
        raise AttributeError(f"{score!r} has no memory.")
    return found


def _opened(score: Any) -> Any:
    """A score, or in place of a `functools.partial`, which hides a memory, one that shows it."""
    if isinstance(score, partial) and not score.args:
        return Given(_opened(score.func), score.keywords)
    return score


def spread_part(score: Any) -> Any:
    """The score of one of several ranks that a score is or has inside, see `distributed`, or None.

    Its attributes are `places`, where the elements of its state stand in the whole, None if it is
    whole; `stored`, which maps a `Run` to that of all ranks; and of a part `event_shape`, the
    `joint` of the whole, and `cut`, which maps tensors of the whole to its own.
    """
    while score is not None and not hasattr(score, "stored"):
        inner = (getattr(score, name, None) for name in ("func", "score", "joint"))
        score = next((each for each in inner if each is not None), None)
    return score


@dataclass(frozen=True, eq=False)
class NetworkScore(Around):
    """The score of a network that gives D, ε or both.

        s = -ε / σ, or (D - x) / σ² where only D is given
        D, or x - σ ε where only ε is given

    The score is defined for σ > 0, `denoise` also for σ = 0 where D is given. The network receives
    copies, and a `ScoreError` says so if it does not return one tensor like x: see `walls`.

    Attributes:
        network: the network, which the repr shows.
        predict: `predict(x, sigma, **condition) -> (D, ε)`, with None for one that is not given.
        finish: called by `sample` with its result; None for none.
        score: the score that this one conditions, if it does.
        made: makes the same of another score.
    """

    network: Callable[..., Any]
    predict: Callable[..., tuple[Any, Any]]
    finish: Callable[[Tensor], None] | None = None
    score: Score | None = None
    made: "Callable[[Score], NetworkScore] | None" = None
    copies = True

    @property
    def per_element(self) -> bool:
        """Whether the network accepts a noise level per element, as it says by this name."""
        return self.score is None and per_element(self.network)

    def around(self, score: Score) -> "NetworkScore":
        assert self.made is not None, "a score inside comes with it"
        return self.made(score)

    def __repr__(self) -> str:
        return described(self, brief(self.network, 180))

    def __call__(self, x: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        sigma = per_sample(sigma, x)
        denoised, eps = self.predict(x, sigma, **condition)
        s = beside(sigma, x)
        score: Tensor = (denoised - x) / s**2 if eps is None else -eps / s
        return score

    def denoise(self, x: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        """D(x, σ)."""
        sigma = per_sample(sigma, x)
        denoised, eps = self.predict(x, sigma, **condition)
        value: Tensor = x - beside(sigma, x) * eps if denoised is None else denoised
        return value


def _check_callable(who: str, network: object) -> None:
    if not callable(network) or isinstance(network, Timesteps):
        raise ScoreError(
            f"{who}: expected a callable network(x, sigma, **condition), got "
            f"{type(network).__name__}. Give the function itself; the network comes first."
        )


def _check_timesteps(who: str, timesteps: object) -> None:
    if not callable(timesteps):
        raise ScoreError(
            f"{who}: expected timesteps as a callable t(sigma), got {type(timesteps).__name__}. "
            "Give Timesteps(alphas_cumprod), after the network."
        )


def from_denoiser(denoiser: Callable[..., Tensor]) -> NetworkScore:
    """The score s = (D - x) / σ² of a denoiser.

    Args:
        denoiser: `denoiser(x, sigma, **condition) -> E[x_0 | x]`, with x `[batch, *shape]` at
            variance-exploding noise and sigma `[batch]`, as networks of EDM and k-diffusion are
            called.

    Raises:
        ScoreError: the denoiser is not callable.
    """
    _check_callable("from_denoiser", denoiser)
    return NetworkScore(denoiser, partial(_denoised, denoiser))


# Predictions are functions of the module, so that the scores of networks can be pickled.
def _denoised(network: Score, x: Tensor, sigma: Tensor, **condition: Any) -> tuple[Tensor, None]:
    return called(network, x, sigma, **condition), None


def _noise(network: Score, x: Tensor, sigma: Tensor, **condition: Any) -> tuple[None, Tensor]:
    return None, called(network, x, sigma, **condition)


def from_eps(eps: Callable[..., Tensor]) -> NetworkScore:
    """The score s = -ε / σ of a noise-predicting network trained at variance-exploding noise.

    Args:
        eps: `eps(x, sigma, **condition)`, which predicts ε of x = x_0 + σ ε. Most networks trained
            as DDPM see variance-preserving noise instead: use `from_vp_eps` for these.

    Raises:
        ScoreError: the network is not callable.
    """
    _check_callable("from_eps", eps)
    return NetworkScore(eps, partial(_noise, eps))


@dataclass(frozen=True)
class Timesteps:
    """The map from σ to the timesteps of a variance-preserving network.

    With ᾱ_t the network's cumulative products, σ_t = √((1 - ᾱ_t) / ᾱ_t); between them timesteps
    are interpolated in log σ and never rounded. Outside the network's range the nearest timestep
    is used, above it on a state whose noise is that of the timestep: D(x, σ) = D(r x, r σ) with
    r = `largest` / σ, which is off by about Σ_0 / `largest`; below the smallest, σ_0, D is off by
    about σ σ_0 times the score, and scores are σ_0 / σ times too large. A last ᾱ_t = 0 (σ = ∞) is
    left out.

    Args:
        alphas_cumprod: ᾱ_t for t = 0, 1, ..., decreasing within (0, 1); the last may be 0.

    Raises:
        ScoreError: they do not decrease within (0, 1), as betas do not.
    """

    alphas_cumprod: Sequence[float]
    largest: float = field(init=False, compare=False)
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        alphas = torch.as_tensor(self.alphas_cumprod, dtype=torch.float64).cpu()
        alphas = alphas[: len(alphas) - int(len(alphas) > 0 and alphas[-1] == 0)]
        within = ((alphas > 0) & (alphas < 1)).all()
        if len(alphas) < 2 or not within or not (alphas.diff() < 0).all():
            raise ScoreError(
                "Timesteps: expected alphas_cumprod, numbers that decrease within (0, 1), got "
                f"{brief(self.alphas_cumprod)}. Of betas they are (1 - betas).cumprod(0)."
            )
        logs = 0.5 * ((-alphas).log1p() - alphas.log())
        self._tables[logs.device] = torch.stack([torch.arange(len(logs)).to(logs), logs])
        object.__setattr__(self, "largest", float(logs[-1].exp()))

    def __repr__(self) -> str:
        sigmas = self._on(torch.device("cpu"))[1].exp().tolist()
        return described(self, span(sigmas, "timestep", "σ = "))

    def _on(self, device: torch.device) -> Tensor:
        """The timesteps and their log σ, `[2, n]`, kept on a device in its widest dtype."""
        if device not in self._tables:
            self._tables[device] = self._on(torch.device("cpu")).to(device, widest(device))
        return self._tables[device]

    def __call__(self, sigma: Tensor) -> Tensor:
        """The timesteps of σ, of any shape, in its floating-point dtype; they have no gradient.

        Raises:
            ScoreError: a gradient with respect to σ is required.
        """
        steps, logs = self._on(sigma.device)
        found = _interpolated(sigma.detach().to(logs).log(), logs, steps).to(_floating(sigma))
        check_gradient(found, sigma, lambda: repr(self))
        return found

    def sigmas(self, timesteps: Tensor) -> Tensor:
        """The σ of timesteps, which need not be integers: the inverse within the range."""
        steps, logs = self._on(timesteps.device)
        found = _interpolated(timesteps.detach().to(logs), steps, logs).exp()
        found = found.to(_floating(timesteps))
        check_gradient(found, timesteps, lambda: repr(self))
        return found


def _floating(like: Tensor) -> torch.dtype:
    """A dtype that holds numbers that are not integers."""
    return like.dtype if like.is_floating_point() else torch.get_default_dtype()


def _interpolated(x: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Values at x, linear between ascending places and constant beyond, without a wait for x."""
    right = torch.searchsorted(places, x.contiguous()).clamp(1, len(places) - 1)
    share = (x - places[right - 1]) / (places[right] - places[right - 1])
    return values[right - 1].lerp(values[right], share.clamp(0, 1))


def from_vp_eps(eps: Callable[..., Tensor], timesteps: Callable[[Tensor], Tensor]) -> NetworkScore:
    r"""The variance-exploding score of a variance-preserving noise-predicting network.

    The network sees x_t = α x with α = 1 / √(1 + σ²) at timestep t(σ); D = x - σ ε.

    Args:
        eps: `eps(x_t, t, **condition)`, which predicts ε of x_t = α x_0 + √(1 - α²) ε.
        timesteps: the map from σ `[batch]` to t `[batch]`, such as `Timesteps`.

    Raises:
        ScoreError: one of them is not callable.
    """
    return _variance_preserving("from_vp_eps", eps, timesteps, _read_eps)


def from_vp_sample(
    sample: Callable[..., Tensor], timesteps: Callable[[Tensor], Tensor]
) -> NetworkScore:
    r"""The variance-exploding score of a variance-preserving network that predicts x_0 itself.

    Args:
        sample: `sample(x_t, t, **condition)`, which predicts x_0 of x_t = α x_0 + √(1 - α²) ε.
        timesteps: the map from σ `[batch]` to t `[batch]`, such as `Timesteps`.

    Raises:
        ScoreError: one of them is not callable.
    """
    return _variance_preserving("from_vp_sample", sample, timesteps, _read_sample)


def from_vp_v(v: Callable[..., Tensor], timesteps: Callable[[Tensor], Tensor]) -> NetworkScore:
    r"""The variance-exploding score of a variance-preserving v-predicting network.

    D = α x_t - σ_t v and ε = σ_t x_t + α v, with α = 1 / √(1 + σ²) and σ_t = α σ.

    Args:
        v: `v(x_t, t, **condition)`, which predicts α ε - σ_t x_0 of x_t = α x_0 + σ_t ε.
        timesteps: the map from σ `[batch]` to t `[batch]`, such as `Timesteps`.

    Raises:
        ScoreError: one of them is not callable.
    """
    return _variance_preserving("from_vp_v", v, timesteps, _read_v)


Read = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Any, Any]]
"""What a network at x_t predicts, as (D, ε): of α, σ_t = α σ, x_t and the prediction."""


def _read_eps(alpha: Tensor, sigma_t: Tensor, x_t: Tensor, eps: Tensor) -> tuple[None, Tensor]:
    return None, eps


def _read_sample(alpha: Tensor, sigma_t: Tensor, x_t: Tensor, sample: Tensor) -> tuple[Any, None]:
    return sample, None


def _read_v(alpha: Tensor, sigma_t: Tensor, x_t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return alpha * x_t - sigma_t * v, sigma_t * x_t + alpha * v


def _variance_preserving(who: str, network: Score, timesteps: Score, read: Read) -> NetworkScore:
    """The score of a network at x_t = α x."""
    _check_callable(who, network)
    _check_timesteps(who, timesteps)
    return NetworkScore(network, partial(_preserved, network, timesteps, read))


def _preserved(
    network: Score, timesteps: Score, read: Read, x: Tensor, sigma: Tensor, **condition: Any
) -> tuple[Any, Any]:
    s = beside(sigma, x)
    seen, least = s.clamp(max=getattr(timesteps, "largest", math.inf)), torch.finfo(s.dtype).tiny
    share = torch.where(seen < s, seen / s.clamp(min=least), 1.0)  # of the noise in x
    alpha = (1 + seen**2).rsqrt()
    sigma_t, x_t = alpha * seen, alpha * share * x
    prediction = called(network, x_t, timesteps(copied(sigma)), **condition)
    denoised, eps = read(alpha, sigma_t, x_t, prediction)
    if eps is not None:  # D = x - σ ε = r x - r σ ε_r
        rest = (1 - share) / s.clamp(min=least)
        eps = torch.addcmul(share * eps, rest, x)
    return denoised, eps


def from_flow(velocity: Callable[..., Tensor]) -> NetworkScore:
    r"""The variance-exploding score of a flow-matching velocity on straight paths.

    With σ = t / (1 - t) the network sees x_t = (1 - t) x at t = σ / (1 + σ) exactly; then
    D = x_t - t v and ε = x_t + (1 - t) v.

    Args:
        velocity: `velocity(x_t, t, **condition)` with t from 0 (data) to 1 (noise), which predicts
            ε - x_0 of x_t = (1 - t) x_0 + t ε. For a network whose time runs from noise to data
            give `lambda x, t, **c: -network(x, 1 - t, **c)`.

    Raises:
        ScoreError: the network is not callable.
    """
    _check_callable("from_flow", velocity)
    return NetworkScore(velocity, partial(_flowed, velocity))


def _flowed(velocity: Score, x: Tensor, sigma: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
    alpha, t = 1 / (1 + beside(sigma, x)), beside(sigma / (1 + sigma), x)
    x_t = alpha * x
    v = called(velocity, x_t, sigma / (1 + sigma), **condition)
    return x_t - t * v, x_t + alpha * v


@dataclass(frozen=True, eq=False)
class Padded:
    """The score of crops by a model that accepts one size only; see `padded`."""

    score: Score
    shape: tuple[int, ...]
    mode: str
    copies = True

    __repr__ = by_field

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        event, shape, mode = tuple(x.shape[1:]), self.shape, self.mode
        if len(event) != len(shape):
            raise ShapeError(
                f"padded: expected x [batch, *event] with an event like {shape}, which the model "
                f"accepts, got {event}. Give the same axes, channels included."
            )
        missing = [whole - part for whole, part in zip(shape, event, strict=True)]
        if min(missing) < 0 or (len(shape) > 1 and missing[0]):
            raise ShapeError(
                f"padded: expected x no larger than {shape} and equal to it on the first "
                f"axis, got {event}. Use a model of that size."
            )
        if mode == "reflect" and any(m > 2 * (n - 1) for m, n in zip(missing, event, strict=True)):
            raise ShapeError(
                f"padded: {event} is too narrow to be reflected up to {shape}: reflection "
                "adds less than a side's own length at either end. Use mode='replicate'."
            )
        spatial = missing[1:] or missing  # torch reflects no others
        pads = [side for m in reversed(spatial) for side in (m // 2, m - m // 2)]
        whole = called(self.score, F.pad(x, pads, mode=mode), sigma, **condition)
        return F.pad(whole, [-side for side in pads])


def padded(score: Score, shape: Sequence[int], mode: str = "reflect") -> Padded:
    """The score of crops by a model that accepts one size only: pad, evaluate, crop.

    This is a stand-in for the missing model of an overlap: x is centred in `shape` by padding, and
    the part of the score that falls on x is kept. It is never exact, because the padding invents
    what is around the crop. Prefer a model trained on crops (`training.random_crops`), or a
    Gaussian fitted to data of the overlap (`gaussian.Gaussian.fit`).

    Args:
        score: the score of `[batch, *shape]`.
        shape: the shape that the model accepts; of several axes the first (channels) is x's own.
        mode: the mode of `torch.nn.functional.pad`.

    Raises:
        ShapeError: x is larger than `shape` on some axis, has other axes or channels, or is too
            narrow to be reflected.
    """
    return Padded(score, tuple(shape), mode)
