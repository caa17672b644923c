"""Scores from the denoisers of azula, and joints for its samplers.

An azula denoiser sees x_t = α_t x_0 + σ_t ε at times t in [0, 1] of its schedule, and returns a
posterior whose mean is E[x_0 | x_t]: D at σ = σ_t / α_t on x_t / α_t. The time of a σ is found by
bisection and not rounded.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from pgmdiff.errors import ScoreError, required
from pgmdiff.integrations.shared import Runs, as_seen, check_device, time_at
from pgmdiff.linalg import beside
from pgmdiff.scores.adapters import NetworkScore, Score, from_denoiser
from pgmdiff.scores.walls import received
from pgmdiff.text import brief

__all__ = ["from_azula", "to_azula"]


def from_azula(denoiser: Any) -> NetworkScore:
    """The score of an azula denoiser.

    Beyond the range of the schedule the nearest time is used; azula's schedules reach σ = 1000, its
    variance-exploding one the σ it was given. Times are float64, so that the conversion is exact to
    rounding for a float64 state.

    Args:
        denoiser: an `azula.denoise.Denoiser`; keyword arguments of its call are conditions.

    Raises:
        ScoreError: when called, σ differs within the batch and the denoiser accepts only one time
            (`GaussianDenoiser`), or it is on another device than the state.
    """
    _ = denoiser.schedule
    return replace(from_denoiser(partial(_denoised, denoiser)), network=denoiser)


def _denoised(denoiser: Any, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
    def ratio(times: Tensor) -> Tensor:
        alpha, sigma_t = denoiser.schedule(times)
        return sigma_t / alpha  # type: ignore[no-any-return]

    check_device(denoiser, x)
    if not len(x):
        return x.clone()
    t = time_at(ratio, sigma)
    alpha, sigma_t = (value.to(x) for value in denoiser.schedule(t))
    x_t = x * beside(as_seen(alpha, sigma_t, sigma), x)
    if bool((t == t[0]).all()):
        t = t[0]  # every azula denoiser accepts one time for the batch
    elif type(denoiser).__name__ == "GaussianDenoiser":
        raise ScoreError(
            "from_azula: GaussianDenoiser accepts one time for a batch, got several σ. Call it "
            "with one σ, or use pgmdiff.gaussian.Gaussian."
        )
    posterior = denoiser(x_t, t, **condition)
    mean = posterior if isinstance(posterior, Tensor) else getattr(posterior, "mean", posterior)
    return received(mean, x, lambda: f"The denoiser {brief(denoiser)}", cast=True)


def to_azula(joint: Score, schedule: Any, *, evaluations: int = 1) -> Any:
    """A joint as an `azula.denoise.Denoiser`, for azula's samplers and guidance.

    Its posterior is a Dirac distribution at D(x_t / α_t, σ_t / α_t). Keyword arguments of the call
    are conditions.

    Args:
        joint: a joint, or any score `joint(x, sigma, **condition)`.
        schedule: an `azula.noise.Schedule`, such as `VESchedule()`.
        evaluations: calls per step of the sampler, which read the same memory of the joint, if it
            has one; see `pgmdiff.integrations`. 2 for `HeunSampler`.

    Raises:
        ImportError: azula is not installed.
    """
    azula = required("azula.denoise", "to_azula", "azula")

    class JointDenoiser(azula.Denoiser):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.schedule, self.joint = schedule, joint
            self.runs = Runs(joint, evaluations)

        def forward(self, x_t: Tensor, t: Tensor, **condition: Any) -> Any:
            alpha, sigma_t = (value.to(x_t) for value in self.schedule(t))
            x = x_t / beside(alpha, x_t) if alpha.ndim else x_t / alpha
            mean = self.runs(x, sigma_t / alpha, **condition)
            return azula.DiracPosterior(mean=mean)

        def __reduce__(self) -> Any:  # a class made here cannot be pickled by name
            return partial(to_azula, joint, schedule, evaluations=evaluations), ()

    return JointDenoiser()
