"""Observations: whether an operator could have made them, and how far a state is from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgmdiff.conditioning.masks import Crop, InPlace, Mask
from pgmdiff.conditioning.operators import LinearOperator, Operator, Stacked, asked
from pgmdiff.errors import PgmdiffError, ShapeError, shape_text, warn
from pgmdiff.linalg import Shape, beside, rows, squared_norms, tensor_of
from pgmdiff.scores.adapters import NetworkScore, Score, from_denoiser, spread_part
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.scores.walls import check_score
from pgmdiff.store import fingerprint
from pgmdiff.text import brief, by_field, counted

__all__ = ["Noise", "Observation", "observing"]

Noise = float | Tensor | Sequence[Any]
"""The noise of an observation, see `moment_matching`."""
ONE = torch.ones((), dtype=torch.float64)
MISSED = 0.01
"""The share of its variation that a noiseless observation may be missed by."""
FAR = 3.0
"""How many deviations of their noise the values of an observation may be missed by."""
FARTHEST = 8.0
"""How many of them one value may be missed by, in a tenth of the samples."""


@dataclass(frozen=True, eq=False)
class Observation:
    """An observation y, and the function that made it.

    Attributes:
        what: the caller, for errors.
        y: the observation, `[n or 1, *observed]`; of a function also `[*observed]`.
        function: the map x to H x, for batches.
        operator: H, where it is linear.
        noise: the largest standard deviation of a value's noise; None if it is not known.
        relative: the deviations, divided by it, which broadcast to y.
        covariance: of correlated noise R / noise², `[m, m]`.
    """

    what: str
    y: Tensor
    function: Callable[[Tensor], Tensor]
    operator: LinearOperator | None = None
    noise: float | None = None
    relative: Tensor = ONE
    covariance: Tensor | None = None

    __repr__ = by_field

    @classmethod
    def of(
        cls, what: str, y: Any, operator: Any, noise: Any, *, project: bool = True
    ) -> "Observation":
        """A checked observation `[*observed]` or `[batch, *observed]`.

        Of a mask it may be one number, and of a stack a list of those of its operators.
        A noiseless one of an operator must lie in the range of H, and becomes H H⁺ y: rounding
        moves most out of the range, and no solve could meet that part of them. Without `project`
        that is left out, and the noise may be None.
        """
        is_mask = isinstance(operator, Tensor | np.ndarray | list | tuple)
        boolean = is_mask and getattr(y, "dtype", None) in (torch.bool, np.bool_)
        swapped = boolean and tensor_of(what, "the mask", operator).is_floating_point()
        if isinstance(y, LinearOperator) or swapped:
            raise ShapeError(
                f"{what}: expected the observation before its operator or mask, got {brief(y)}. "
                f"Swap them: {what}(score, y, operator)."
            )
        if isinstance(y, Mapping):
            raise ShapeError(
                f"{what}: expected the observation as a tensor, got values by name. Write y, mask "
                "= graph.observe(values)."
            )
        h: Any = Mask(operator) if is_mask else operator
        linear = h if isinstance(h, LinearOperator) else None
        if linear is None and callable(getattr(h, "A", None)):
            h = h.A  # of deepinv's physics, which when called adds noise to that
        if linear is None and not callable(h):
            raise PgmdiffError(
                f"{what}: expected an operator or a function, got {type(h).__name__}. See "
                "pgmdiff.conditioning for operators."
            )
        shape = getattr(linear, "observed_shape", None)
        y = tensor_of(what, "the observation", y) if shape is None else _shaped(what, y, h)
        if shape is None and linear is not None and y.ndim < 2:
            y = y.reshape(1, -1)  # one vector; what has more axes has a batch axis, too
        if not y.isfinite().all():
            raise ShapeError(f"{what}: an observed value is not finite. Mask what is missing.")
        y = y.clone()  # the caller may change theirs
        if linear is not None and not isinstance(linear, Operator):
            _check_linear(what, y, linear)
        known: Any = ()
        if project or noise is not None:
            known = _spread(what, noise, h, shape, y)
        if linear is None:
            return cls(what, y, partial(asked, what, h), None, *known)
        y = _in_range(what, y, linear) if project and known[0] == 0 and y.numel() else y
        return cls(what, y, partial(asked, what, linear.A), linear, *known)

    def on(self, score: Score, elementwise: bool) -> "Observation":
        """The observation of the states of a score, which may be those of one of several ranks.

        Args:
            score: the score; if its states are whole, the observation is, too.
            elementwise: whether elements are conditioned one by one, or by the score's own solve.

        Raises:
            PgmdiffError: the state is divided among ranks, and the observation cannot be.
        """
        part: Any = spread_part(score)
        h: Any = self.operator
        if part is None or part.places is None:
            return self
        event = tuple(part.joint.event_shape)
        fits = isinstance(h, Mask | Crop) and tuple(h.event_shape) == event
        if not (fits and elementwise and self.covariance is None):
            got = brief(h) if elementwise else "a method that acts on all elements together"
            raise PgmdiffError(
                f"{self.what}: on a state that is divided among ranks, expected a mask or a crop "
                f"of the whole, {event}, with independent noise, under replacement, the Slab's own "
                f"covariances or, with one noise level, Isotropic(jacobian=False), got {got}. Use "
                "distributed.shared(joint), or for gradients the joint itself."
            )

        def cut(values: Tensor) -> Tensor:
            own: Tensor = part.cut(h.A_adjoint(values.reshape(-1, *h.observed_shape)))
            return own

        mask = part.cut(h.mask) if isinstance(h, Mask) else cut(torch.ones_like(self.y[:1]))[0] > 0
        own, noises = Mask(mask, event_shape=part.event_shape), self.relative
        given = self.what, cut(self.y), partial(asked, self.what, own.A), own, self.noise
        return Part(*given, cut(noises) if noises.ndim else noises, fingerprint=fingerprint(self))

    def seen(self, x: Tensor) -> Tensor:
        """H x, with a gradient where one is required."""
        values = self.function(x)
        check_gradient(values, x, lambda: f"{self.what}: the operator {brief(self.function)}")
        return values

    def misfit(self, denoised: Tensor) -> Tensor:
        """The misfit y - H D of states D `[batch, *event]`, in their dtype."""
        self.check(denoised)
        seen = self.seen(denoised)
        if seen.real.dtype != denoised.dtype:
            raise ShapeError(
                f"{self.what}: the operator returns {seen.dtype} for states of {denoised.dtype}. "
                "Convert inside it."
            )
        y = self.batched(seen)
        if y.shape[1:] != seen.shape[1:] or len(y) not in (1, len(seen)):
            raise ShapeError(
                f"{self.what}: expected one observation {list(seen.shape[1:])}, or one for each of "
                f"{len(seen)} samples, got {tuple(self.y.shape)}."
            )
        n = seen.shape[1:].numel()
        if self.covariance is not None and self.covariance.shape[-1] != n:
            raise ShapeError(
                f"{self.what}: got a covariance of the noise of {self.covariance.shape[-1]} values "
                f"for {n}. If it is a deviation per value, give y[None], one observation."
            )
        if y.is_complex() and not seen.is_complex():
            raise ShapeError(
                f"{self.what}: the observation is complex, but the operator returns real values. "
                "Give its real part."
            )
        return y.to(seen) - seen

    def check(self, states: Tensor) -> None:
        """Raises `ShapeError` unless the operator observes states of this shape."""
        self.check_event(states.shape[1:], f"{tuple(states.shape)}", "; flatten several batch axes")

    def check_event(self, event: Shape, got: str, more: str = "") -> None:
        """Raises `ShapeError` unless the operator observes one state of this shape."""
        own = getattr(self.operator, "event_shape", None)
        if own is not None and tuple(event) != tuple(own):
            raise ShapeError(
                f"{self.what}: the operator observes states {shape_text('batch', own)}, got {got}. "
                f"Make it for this shape{more}. Mask(m, event_shape=...) serves all channels."
            )

    def batched(self, like: Tensor) -> Tensor:
        """The observation `[n or 1, *observed]`."""
        return self.y[None] if self.y.ndim == like.ndim - 1 else self.y

    def units(self, like: Tensor, level: Tensor) -> Tensor:
        """Units of values in which noise beside a level is alike, up to a factor of 100.

        The level `[n, 1, ...]`, of what is observed, is in units of the largest noise.
        """
        found = (self.relative.to(like.real) ** 2 + level**2).sqrt()
        largest = rows(found).amax(dim=1)
        return (found / beside(largest, found)).clamp(min=0.01)

    def correlate(self, v: Tensor) -> Tensor:
        """R v / noise², for weights v `[batch, *observed]`."""
        if self.covariance is None:
            return self.relative.to(v.real) ** 2 * v
        flat = v.reshape(len(v), -1, 1)
        return (self.covariance.to(v) @ flat).reshape(v.shape)


@dataclass(frozen=True, eq=False, repr=False)
class Part(Observation):
    """An observation of the part of one rank; its fingerprint is that of the whole."""

    fingerprint: str = ""


def observing(
    denoiser: Callable[..., Tensor],
    observation: Observation,
    score: Score,
    *,
    remedy: str,
    name: str = "",
) -> NetworkScore:
    """The score of a conditioned denoiser; arguments: see `Conditioned`."""
    check_score(observation.what, score)
    event = getattr(score, "event_shape", None)
    if event is not None and hasattr(score, "unpack"):  # a joint's
        observation.check_event(event, f"a score of {shape_text('batch', event)}")
    network = Conditioned(denoiser, observation, score, remedy, name)
    made = partial(observing, denoiser, observation, remedy=remedy, name=name)
    return replace(from_denoiser(network), finish=network.finish, score=score, made=made)


@dataclass(frozen=True, eq=False, repr=False)
class Conditioned:
    """A conditioned denoiser, whose `finish` warns if samples miss the observation.

        ‖y - H u‖ > max(‖y - H ū‖, ‖H u - H ū‖) / 100 + 10 √(tr R) + rounding

    or if most samples miss the values with noise by three of its deviations (root mean square), as
    those of a solve do that stops too early, or a tenth of them one value by eight. R is the
    covariance of the noise, and ū is constant: the mean of a sample over its elements, so that what
    is missed is measured by how much it varies, whatever its units and offset. With exact moments
    at most 6e-6 of the variation was missed, in float32 and by five solvers.

    Args:
        denoiser: `denoiser(score, x, sigma, **condition)`, D_y of a score.
        observation: y, H and R; if its noise is not known, nothing is checked.
        score: the score that is conditioned; if it has a `finish` too, that is called first.
        remedy: the end of the warning.
        name: its repr; if empty, what the observation is for.
    """

    denoiser: Callable[..., Tensor]
    observation: Observation
    score: Score
    remedy: str
    name: str

    def __repr__(self) -> str:
        return self.name or self.observation.what

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        return self.denoiser(self.score, x, sigma, **condition)

    def finish(self, u: Tensor) -> None:
        observation, inner = self.observation, getattr(self.score, "finish", None)
        if inner is not None:
            inner(u)
        if observation.noise is None or not u.numel():
            return
        constant = beside(rows(u).mean(dim=1), u).expand_as(u)
        missed, still = observation.misfit(u), observation.misfit(constant)
        residual, size = _norms(missed), _norms(observation.batched(missed).to(missed))
        varies = torch.maximum(_norms(still), _norms(still - missed))
        other = rows(u.abs()).roll(1, dims=1).reshape(u.shape)  # where H u may cancel
        large = _norms(observation.misfit(other)).nan_to_num(0, 0, 0)
        rounding = 100 * torch.finfo(u.dtype).eps * (size + varies + large)
        noise = observation.noise * _norms(observation.relative.expand_as(missed))
        allowed = MISSED * varies + 10 * noise + rounding
        far = residual > allowed
        if far.any():
            worst = int(residual.argmax())
            warn(
                f"{observation.what}: {int(far.sum())} of {counted(len(u), 'sample')} miss "
                f"the observation, ‖H u - y‖ is up to {residual[worst]:.3g} for ‖y‖ = "
                f"{size.expand_as(residual)[worst]:.3g}. {self.remedy}"
            )
            return
        deviations = observation.noise * observation.relative.cpu()
        noisy = (deviations > 0).expand_as(missed)
        off = (missed.cpu() / deviations.clamp(min=1e-300)).where(noisy, 0)
        off, noisy = (rows(each) for each in (off.abs(), noisy))
        away = (_norms(off) / noisy.sum(dim=1).clamp(min=1).sqrt()).median().item()
        most = off.amax(dim=1) if off.shape[1] else off.sum(dim=1)
        told = ""
        if away > FAR:
            told = (
                "most samples miss the noisy values of the observation by "
                f"{away:.2g} deviations of their noise (root mean square)"
            )
        elif (most > FARTHEST).double().mean() > 0.1:
            told = (
                f"{int((most > FARTHEST).sum())} of {counted(len(u), 'sample')} miss a noisy "
                f"value of the observation by up to {most.max():.3g} deviations of its noise"
            )
        if told:
            warn(
                f"{observation.what}: {told}. Either levels are too few, its linear solve stops "
                "too early (most_steps=), the operator is too far from linear (reconstruction may "
                "then do better), or the models hold these values for unlikely."
            )


def _shaped(what: str, y: Any, h: Any) -> Tensor:
    """An observation `[n or 1, *observed]`; 0 where masks do not see: values may be anything there.

    Raises:
        ShapeError: it has another shape.
    """
    if isinstance(h, Stacked) and _by_operator(y, h):
        return _stacked(what, y, h)
    values = tensor_of(what, "the observation", y)
    if isinstance(h, Mask) and values.ndim == 0:
        values = values.expand(h.event_shape)
    values = values[None] if tuple(values.shape) == tuple(h.observed_shape) else values
    if tuple(values.shape[1:]) != tuple(h.observed_shape):
        raise ShapeError(
            f"{what}: expected an observation {list(h.observed_shape)}, or a batch of them, got "
            f"{tuple(values.shape)}.{_in_place(h, values) if isinstance(h, InPlace) else ''}"
        )
    if isinstance(h, Stacked):
        pairs = zip(h.operators, values.split(h.sizes, dim=1), strict=True)
        parts = [part.reshape(len(part), *operator.observed_shape) for operator, part in pairs]
        return _stacked(what, parts, h)
    return values.where(h.mask.to(values.device), 0) if isinstance(h, InPlace) else values


def _by_operator(y: Any, h: Stacked) -> bool:
    """Whether these are observations of a stack's operators, and not numbers or flat ones."""
    if not isinstance(y, list | tuple):
        return False
    try:
        shapes = {tuple(np.shape(part)) for part in y}
    except ValueError:  # one of them is such a list itself
        return True
    return not shapes <= {(), tuple(h.observed_shape)}


def _stacked(what: str, parts: Sequence[Any], h: Stacked) -> Tensor:
    """Observations of a stack's operators as one, `[n or 1, N]`."""
    if len(parts) != len(h.operators):
        raise ShapeError(
            f"{what}: expected an observation of each of {len(h.operators)} operators, got "
            f"{len(parts)}. Give them in their order."
        )
    pairs = enumerate(zip(parts, h.operators, strict=True))
    own = [rows(_shaped(f"{what}, operator {k} of the stack", y, each)) for k, (y, each) in pairs]
    sizes = {len(part) for part in own} - {1}
    if len(sizes) > 1:
        raise ShapeError(
            f"{what}: expected observations of as many samples of each operator, got "
            f"{[len(part) for part in own]}. Give one, or one for each sample."
        )
    n = max(sizes, default=1)
    return torch.cat([part.expand(n, part.shape[1]) for part in own], dim=1)


def _in_place(h: InPlace, y: Tensor) -> str:
    """The remedy for an observation that does not have the shape of a mask's states."""
    state = tuple(y.shape[1:] if y.ndim > 1 else y.shape)
    try:
        broadcasts = torch.broadcast_shapes(h.mask.shape, state) == state
    except RuntimeError:
        broadcasts = False
    if broadcasts:
        given = f"{type(h).__name__}(mask, event_shape={state})"
        return f" The mask is for states {tuple(h.event_shape)}; if they are {state}, give {given}."
    return (
        " A mask and its observation have one shape: values stand in their places in the whole "
        "state; those not seen may be anything."
    )


def _norms(v: Tensor) -> Tensor:
    return squared_norms(v.abs().cpu().double()).sqrt()  # float32 squares may underflow


def _spread(
    what: str, noise: Any, h: Any, shape: Shape | None, y: Tensor
) -> tuple[float, Tensor, Tensor | None]:
    """The noise of an observation as its three attributes, from deviations or a covariance."""
    if isinstance(h, Stacked) and isinstance(noise, list | tuple):
        if len(noise) != len(h.operators):
            raise ShapeError(
                f"{what}: expected noise for each of {len(h.operators)} operators, got "
                f"{len(noise)}. Give one deviation each, or one for all."
            )
        each = zip(noise, h.operators, strict=True)
        parts = [_deviations(what, part, operator.observed_shape) for part, operator in each]
        noise = torch.cat([part.flatten() for part in parts])
    value = tensor_of(what, "the noise", noise).detach()
    given = value.real.double().cpu()
    either = shape is None and given.ndim == 2 and given.shape == y.shape
    if shape is None:
        inner = tuple(y.shape[1:])
        own = given.ndim == len(inner) or tuple(given.shape) == inner * 2
        shape = inner if own else tuple(y.shape)
    covariance = None
    if given.ndim and tuple(given.shape) == tuple(shape) * 2:
        covariance = given.reshape(prod(shape), prod(shape))
        given = covariance.diagonal().reshape(shape)
    elif given.ndim:
        given = _deviations(what, given, shape)
    if isinstance(h, InPlace | Stacked) and given.ndim:
        seen = _shaped(what, torch.ones(h.observed_shape, device="cpu"), h) > 0
        mask = seen[0] if len(seen) == 1 else seen
        given = given.where(mask, 0)
        if covariance is not None:
            flat = mask.reshape(-1, len(covariance))
            covariance = covariance.where(flat[:, :, None] & flat[:, None], 0)
    sound = not value.is_complex() and bool((given >= 0).all() and given.isfinite().all())
    if sound and covariance is not None and covariance.numel():
        low = torch.linalg.eigvalsh(covariance).min() if covariance.isfinite().all() else -torch.inf
        size = 1e-6 * covariance.abs().max()
        sound = bool(low >= -size and ((covariance - covariance.mT).abs() <= size).all())
    if not sound:
        more = " For a deviation per value give y[None], one observation." if either else ""
        raise PgmdiffError(
            f"{what}: expected finite noise of at least 0, got {brief(noise)}. Give its standard "
            f"deviation, or a real, symmetric and positive semi-definite covariance matrix.{more}"
        )
    deviations = given if covariance is None else given.sqrt()
    largest = deviations.max().item() if deviations.numel() else 0.0
    if largest == 0:
        return 0.0, ONE, None
    return largest, deviations / largest, None if covariance is None else covariance / largest**2


def _deviations(what: str, noise: Any, shape: Shape) -> Tensor:
    """One deviation for each of an observation's values; axes of 1 stand for all of theirs."""
    given = tensor_of(what, "the noise", noise)
    alike = all(one in (1, side) for one, side in zip(given.shape, shape, strict=False))
    if given.ndim and not (alike and given.ndim == len(shape)):
        raise ShapeError(
            f"{what}: expected noise as one number, one for each observed value {list(shape)} "
            "(axes of 1 stand for all of theirs, as [channels, 1, 1] for one per channel), or a "
            f"covariance matrix {[*shape, *shape]}, got {brief(noise)}."
        )
    return given.double().expand(shape)


def _check_linear(what: str, y: Tensor, operator: LinearOperator) -> None:
    """Raises `PgmdiffError` unless A(-2 v) = -2 A(v) for a v in the range of the adjoint."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(y.shape, generator=generator, dtype=y.dtype).to(y.device)
    with torch.no_grad():
        v = asked(what, operator.A_adjoint, drawn)
        one, other = (asked(what, operator.A, each) for each in (v, -2 * v))
    gap, scale = (other + 2 * one).abs(), other.abs()
    if y.numel() and not gap.max() <= 1e-3 * scale.max().clamp(min=1e-30):
        raise PgmdiffError(
            f"{what}: {brief(operator)} has an adjoint, but is not linear: A(-2 v) differs from "
            f"-2 A(v) by {gap.max():.3g}, where values are up to {scale.max():.3g}. Give the "
            "function operator.A to moment_matching or reconstruction, which accept nonlinear ones."
        )


def _in_range(what: str, y: Tensor, operator: LinearOperator) -> Tensor:
    """H H⁺ y, if that is y to 1e-3 of each sample's largest value."""
    if isinstance(operator, Operator):
        y = y.to(torch.promote_types(y.dtype, operator.widest))
    nearest = operator.A(asked(what, operator.A_dagger, y))
    gap, scale = (rows(v.abs()).amax(dim=1) for v in (nearest - y, y))
    worst = int((gap - 1e-3 * scale).argmax())
    if gap[worst] > 1e-3 * scale[worst].clamp(min=1e-30):
        raise PgmdiffError(
            f"{what}: no state gives this observation: H H⁺ y differs from y by {gap[worst]:.3g} "
            f"(y up to {scale[worst]:.3g}). Give a noise level, or project it: "
            "operator.A(operator.A_dagger(y))."
        )
    return nearest.clone()
