r"""EDM preconditioning, which makes a network a denoiser, and the weighted loss that trains it.

    D(x, σ) = m + c_skip (x - m) + c_out F(c_in (x - m), ln(σ / σ_1) / 4),
    c_skip = σ_d² / (σ² + σ_d²),  c_out = σ σ_d / √(σ² + σ_d²),  c_in = 1 / √(σ² + σ_d²)

    L = E_{x, σ, ε} [ λ(σ) ‖D(x + σ ε, σ) - x‖² ],   λ(σ) = (σ² + σ_d²) / (σ σ_d)²

with m and σ_d the mean and the standard deviation of the data, and ln σ ~ N(p_mean, p_std²), by
default around 0.6 σ_d. Under this weighting a network of zeros scores 1 at every σ (Karras,
Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative models", 2022,
Table 1).

The first term is the best linear denoiser of white data. With a *Wiener filter* it is that of data
of mean image m and covariance B diag(v) Bᵀ, so that a network of zeros has the data's mean and
covariance, and what is left for the network to learn is what is not Gaussian:

    D(x, σ) = m + B diag(g) Bᵀ (x - m) + c_out F(c_in (x - m), ln(σ / σ_1) / 4),
    g = v / (v + σ²),  c_out = σ √mean(g²),  λ(σ) = 1 / mean(g σ²)

c_out is about σ where the data are seen, and vanishes with g where they are not. B has one factor
per axis, the eigenvectors of the covariance along it; v are the variances in that basis. (EDM's
c_out, the root of the linear denoiser's error, would leave errors at large σ, where there is
nothing to learn.)

At small σ the noise hides below the data in c_in (x - m), and contrasts of colour below the light.
A network with `whitened=True` sees and returns channels in their eigenvectors, each with its own
c_in and c_out, and receives beside them what the filter takes away, B diag(1 - g) Bᵀ (x - m), over
its root mean square σ √mean(1 - g), which is nearly white at every σ. States of a whitened network
need a filter for their shape; their first axis is that of channels if they have several.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from pgmdiff.errors import ScoreError, ShapeError, check_scale, note, warn
from pgmdiff.linalg import Shape, beside, sent
from pgmdiff.noise import Generator, seed_of, torch_generator
from pgmdiff.scores.adapters import per_sample
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.scores.walls import named, received
from pgmdiff.text import brief

__all__ = ["EDMDenoiser", "WienerFilter", "denoising_loss"]

LEAST = 1e-12
"""Noise level, in σ_d, below which D is x to rounding, and formulas divide by 0 at last."""
SEEN = 0.005
"""Noise level, in σ_d, below which a network is told this one where it is given one per element:
smaller ones are rare in training, and exact observations have none."""


NUMBER = "number"
"""The name of the filter of single numbers."""


def exactly(device: torch.device) -> AbstractContextManager[Any]:
    """Within it autocast rounds nothing: sums that cancel lose the digits of half precision."""
    kind = device.type
    rounded = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if rounded else nullcontext()


class WienerFilter(nn.Module):
    """The best linear denoiser of states of one shape, in a basis with one factor per axis.

    It is exact for covariances that are diagonal in such a basis: white, separable, or stationary
    on a ring. For others it is the best filter that is diagonal in the eigenvectors along the axes.

    Args:
        shape: the shape of a state.
    """

    mean: Tensor
    variance: Tensor
    basis1: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        for axis, side in enumerate(shape, 1):
            self.register_buffer(f"basis{axis}", torch.eye(side))

    @classmethod
    def of(cls, states: Tensor, like: "WienerFilter | None" = None) -> "WienerFilter":
        """The filter of states `[n, *shape]`, in their dtype; computed in float64.

        Args:
            states: the states.
            like: another filter, whose basis of the first axis is taken.

        Raises:
            ShapeError: there are fewer than two states, or all are the same.
        """
        if len(states) < 2 or bool((states == states[0]).all()):
            raise ShapeError(
                f"WienerFilter: expected several states [n, *shape] that differ, got "
                f"{tuple(states.shape)}. Variances need at least two; of one state alone train "
                "without wiener=True."
            )
        result, wide = cls(tuple(states.shape[1:])).to(torch.float64), states.double()
        result.mean = wide.mean(dim=0)
        centred = wide - result.mean
        for axis in range(1, states.ndim):
            lines = centred.movedim(axis, -1).flatten(0, -2)
            basis = torch.linalg.eigh(lines.mT @ lines / len(lines))[1]
            # In the order of a checkpoint, since products by another one round differently.
            setattr(result, f"basis{axis}", basis.contiguous())
        if like is not None:
            result.basis1 = like.basis1.double()
        result.variance = result.turned(centred).var(dim=0)
        return result.to(states.dtype)

    def turned(self, x: Tensor, back: bool = False, axes: Iterable[int] = ()) -> Tensor:
        """States `[batch, *shape]` in the basis, Bᵀ x, along all or some axes; or back from it."""
        with exactly(x.device):
            for axis in axes or range(1, x.ndim):
                basis = getattr(self, f"basis{axis}").to(x.dtype)  # a network says what it refuses
                x = (x.movedim(axis, -1) @ (basis.mT if back else basis)).movedim(-1, axis)
        return x

    def gain(self, s: Tensor) -> Tensor:
        """The gain g of every coefficient, for σ `[batch, 1, ...]`."""
        return self.variance / (self.variance + s**2)

    def forward(self, centred: Tensor, gain: Tensor) -> Tensor:
        """B diag(g) Bᵀ (x - m)."""
        return self.turned(gain * self.turned(centred), back=True)


def _check_network(network: Any) -> None:
    """Raises `ScoreError` for a network that does not accept the noise as a second argument."""
    try:
        known = inspect.signature(getattr(network, "forward", network))
    except ValueError:  # of what is compiled
        return
    try:
        known.bind_partial(None, None)
    except TypeError as error:
        raise ScoreError(
            "EDMDenoiser: expected a network that is called as network(x, noise, **condition), got "
            f"{type(network).__name__}{known}. Wrap it in a module that accepts both."
        ) from error


class EDMDenoiser(nn.Module):
    """A network under EDM preconditioning, called as `denoise(x, sigma, **condition)`.

    σ is a number, one noise level per sample, `[batch]`, or one per element, with the shape of x;
    the network receives its logarithm, `[batch]` or like x. It says that it is `per_element` if its
    network has `noise_field = True` and there are no filters. `state_dict()` holds all that
    `load_state_dict` needs: the weights, `sigma_data`, `mean`, `unit`, `always` and the filters.
    (Files without these, older ones, leave what the denoiser was made with.) A warning says so if a
    call leaves out a condition that training `always` gave.

    Args:
        network: the network `F(x, noise, **condition)` of x `[batch, *shape]` and noise `[batch]`;
            one with an attribute `whitened` that is true gets `residual=`, of x's shape, too.
        sigma_data: the standard deviation σ_d of the data, in the data's units.
        mean: the mean m of the data.
        unit: the noise level σ_1 at which the network's `noise` is 0. With σ_d it makes the
            network independent of units, as `training.fit` does; 1 is EDM's own.
        filters: Wiener filters, one for each shape of x that has one. They take one noise level
            per sample.

    Attributes:
        always: the conditions that it was never trained without.

    Raises:
        ScoreError: the network does not accept the noise as a second argument.
        PgmdiffError: σ_d or σ_1 is not positive.
    """

    score_by = "from_denoiser(denoiser)"

    def __init__(
        self,
        network: nn.Module,
        sigma_data: float,
        mean: float = 0.0,
        unit: float = 1.0,
        filters: Iterable[WienerFilter] = (),
    ) -> None:
        super().__init__()
        check_scale("EDMDenoiser", "sigma_data", sigma_data)
        check_scale("EDMDenoiser", "unit", unit)
        _check_network(network)
        self.network = network
        self.whitened: bool = getattr(network, "whitened", False)
        self.sigma_data, self.mean, self.unit = sigma_data, float(mean), unit
        self.filters = nn.ModuleDict({_key(each.mean.shape): each for each in filters})
        self.always = frozenset[str]()

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        if missing := self.always - condition.keys():
            warn(
                f"EDMDenoiser: got no {', '.join(map(repr, sorted(missing)))}, with which it was "
                "always trained: what it says without was never learnt. Give it, as to "
                "compose(conditions=) or at the call; or train with null_condition= to make it "
                "optional."
            )
        if not isinstance(sigma, Tensor) or sigma.ndim == 0:
            sigma = per_sample(sigma, x)
        if sigma.shape not in (x.shape[:1], (1,), x.shape):
            raise ShapeError(
                f"EDMDenoiser: expected sigma as one number, [{len(x)}] or {tuple(x.shape)}, like "
                f"x, got {tuple(sigma.shape)}."
            )
        if not sigma.is_floating_point() or sigma.dtype.itemsize > max(x.dtype.itemsize, 4):
            sigma = sigma.to(x.dtype)
        least = max(LEAST * self.sigma_data, torch.finfo(sigma.dtype).tiny)  # at σ = 0 D is x
        sigma = sigma.clamp(min=least)
        s = beside(sigma, x)
        total = s**2 + self.sigma_data**2
        own = self._filter(x.shape[1:], s)
        mean = self.mean if own is None else own.mean
        centred = x - mean if own is not None or mean else x
        c_in, turned = total.rsqrt(), _same
        if own is None:
            linear, c_out = self.sigma_data**2 / total * centred, s * self.sigma_data / total.sqrt()
        else:
            gain, by_channel = own.gain(s), self.whitened and x.ndim > 2
            axes = tuple(range(1 + by_channel, x.ndim))
            linear, c_out = own(centred, gain), s * _mean(gain.square(), axes).sqrt()
            if by_channel:
                c_in = (_mean(own.variance[None], axes) + s**2).rsqrt()
                turned = partial(own.turned, axes=[1])
            if self.whitened:
                lost = _mean(s**2 / (own.variance + s**2), axes)
                condition["residual"] = turned(centred - linear) / (s * lost.sqrt())
        each = self.per_element and sigma.shape == x.shape
        who, told = named(self.network), sigma.clamp(min=SEEN * self.sigma_data) if each else sigma
        noise = (told / self.unit).log() / 4
        value = self.network(c_in * turned(centred), noise, **condition)
        value = received(value, x, who, cast=True)
        check_gradient(value, x, who)
        denoised = linear + turned(c_out * value, back=True)
        return denoised if centred is x else denoised + mean

    @property
    def per_element(self) -> bool:
        """Whether it accepts a noise level per element."""
        return not self.filters and getattr(self.network, "noise_field", False) is True

    def linear_error(self, shape: Shape, s: Tensor) -> Tensor:
        """The expected squared error of the linear part per element, for σ `[batch, 1, ...]`."""
        own = self._filter(shape, s)
        if own is None:
            return _white_error(s, self.sigma_data)
        return _mean(own.gain(s) * s**2, tuple(range(1, s.ndim)))

    def _filter(self, shape: Shape, s: Tensor) -> WienerFilter | None:
        if _key(shape) not in self.filters:
            if self.whitened:
                raise ShapeError(
                    f"EDMDenoiser: got states of {tuple(shape)}, but the network is whitened, and "
                    f"there are filters for {', '.join(self.filters) or 'no shapes'} only. Train "
                    "with wiener=True and crops of this shape."
                )
            if self.filters:
                warn(
                    f"EDMDenoiser: got states of {tuple(shape)}, but it was trained on "
                    f"{', '.join(self.filters)} only, and what it says of others may be far off. "
                    "Use windows and overlaps of these shapes, or train on crops of this one."
                )
            return None
        if s.shape[1:].numel() > 1:
            raise ShapeError(
                f"EDMDenoiser: expected one noise level per sample, got {tuple(s.shape)}; a Wiener "
                "filter has no other. Train with wiener=False for noise levels per element."
            )
        return cast(WienerFilter, self.filters[_key(shape)])

    def extra_repr(self) -> str:
        return f"sigma_data={self.sigma_data:.4g}, mean={self.mean:.4g}, unit={self.unit:.4g}"

    def get_extra_state(self) -> Tensor:
        words = " ".join(sorted(self.always)).encode()
        numbers = self.sigma_data, self.mean, self.unit, *words
        return torch.tensor(numbers, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.sigma_data, self.mean, self.unit, *words = state.tolist()
        self.always = frozenset(bytes(map(int, words)).decode().split())

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Makes room for the filters that a state has, before they are loaded."""
        start = f"{prefix}filters."
        if f"{prefix}_extra_state" not in state_dict:  # an older file, or the weights alone
            state_dict[f"{prefix}_extra_state"] = self.get_extra_state()
            own = self.filters.state_dict(prefix=start).items()
            state_dict.update({key: x for key, x in own if key not in state_dict})
        keys = {
            name[len(start) :].partition(".")[0] for name in state_dict if name.startswith(start)
        }
        order = [*(key for key in self.filters if key in keys), *sorted(keys - {*self.filters})]
        like = next(self.network.parameters(), torch.ones(()))
        filters = {key: WienerFilter(_shape(key)).to(like) for key in order}
        self.filters = nn.ModuleDict(filters)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _same(x: Tensor, back: bool = False) -> Tensor:
    return x


def _white_error(s: Tensor, sigma_data: float) -> Tensor:
    """1 / λ: the error of the best linear denoiser of white data."""
    return (s * sigma_data) ** 2 / (s**2 + sigma_data**2)


def _mean(t: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The mean over some axes, which stay; `Tensor.mean` takes none for all."""
    return t.mean(axes, keepdim=True) if axes else t


def _key(shape: Shape) -> str:
    """The name of the filter of a shape."""
    return "x".join(map(str, shape)) or NUMBER


def _shape(key: str) -> Shape:
    return () if key == NUMBER else tuple(map(int, key.split("x")))


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers; a GPU makes its own, from a seed, as the CPU's would take longer."""
    if like.is_cuda:
        generator = torch.Generator(like.device).manual_seed(seed_of(generator, "denoising_loss"))
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device)


def denoising_loss(
    denoise: Callable[..., Tensor],
    clean: Tensor,
    *,
    sigma_data: float,
    p_mean: float | None = None,
    p_std: float = 1.2,
    per_element: bool = False,
    generator: Generator = None,
    record: Callable[[Tensor, Tensor], object] | None = None,
    linear_error: Callable[[Shape, Tensor], Tensor] | None = None,
    **condition: Any,
) -> Tensor:
    """The weighted denoising error of a batch, averaged over its entries; see the module's formula.

    Args:
        denoise: `denoise(x, sigma, **condition)`, x `[batch, *shape]`, sigma `[batch]`.
        clean: `[batch, *shape]`.
        sigma_data: standard deviation σ_d of the data, in their units.
        p_mean: mean of ln σ; if None, ln 0.6 σ_d, which is EDM's -1.2 for its σ_d of 0.5.
        p_std: standard deviation of ln σ.
        per_element: whether elements have noise levels of their own: a random share of a sample's
            elements has a second level, and sigma has the shape of x.
        generator: the source of the noise levels and the noise, one stream for the batch; see
            `pgmdiff.noise.Generator`. In a training loop give a `torch.Generator` or None: an
            integer would repeat the same noise at every step.
        record: is called with the error of every entry, without a gradient, and with sigma.
        linear_error: 1 / λ as a function of the shape of a state and of σ `[batch, 1, ...]`; that
            of white data if None. Of a denoiser with Wiener filters give `denoiser.linear_error`.
        condition: keyword arguments of the denoiser.

    Raises:
        PgmdiffError: sigma_data is not positive, or the generator is a sequence.
    """
    check_scale("denoising_loss", "sigma_data", sigma_data)
    p_mean = math.log(0.6 * sigma_data) if p_mean is None else p_mean
    generator = torch_generator(generator, "denoising_loss")
    normal = torch.randn(len(clean), generator=generator, dtype=clean.dtype)
    sigma = (p_mean + p_std * normal).exp()
    noise = _normal(clean, generator)
    if per_element:
        share = beside(torch.rand(len(clean), generator=generator), clean)
        other = (p_mean + p_std * torch.randn(len(clean), generator=generator)).exp().to(sigma)
        second = torch.rand(clean.shape, generator=generator) < share
        sigma = torch.where(second, beside(other, clean), beside(sigma, clean))
    sigma, noise = (sent(t, clean.device) for t in (sigma, noise))
    s = sigma if per_element else beside(sigma, clean)
    error = linear_error(clean.shape[1:], s) if linear_error else _white_error(s, sigma_data)
    noisy = clean + s * noise
    try:
        value = denoise(noisy, sigma, **condition)
    except Exception as failure:
        given = ", ".join(f"{word} {brief(value)}" for word, value in condition.items())
        given = given and f", with {given}: labels [n, ...] arrive as [batch, ...]"
        note(failure, f"while {brief(denoise)} was trained on crops {list(clean.shape)}{given}.")
        raise
    value = received(value, clean, lambda: brief(denoise), cast=True)
    losses: Tensor = (value - clean) ** 2 / error
    if record is not None:
        record(losses.detach(), sigma)
    return losses.mean()
