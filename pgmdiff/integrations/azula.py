"""azula: denoisers in, joints out.

An azula denoiser sees x_t = α_t x_0 + σ_t ε, at times t in [0, 1] of its schedule, and returns a
posterior whose mean is E[x_0 | x_t]: D at σ = σ_t / α_t on x_t / α_t. The time of a σ is found by
bisection, not rounded.
"""

from typing import Any

from torch import Tensor

from pgmdiff.errors import ScoreError
from pgmdiff.integrations.shared import as_seen, check_device, required, time_at
from pgmdiff.scores.adapters import DenoiserScore, Score, beside, denoise, from_denoiser

__all__ = ["from_azula", "to_azula"]


def from_azula(denoiser: Any) -> DenoiserScore:
    """The score of an azula denoiser.

    Beyond the schedule's range the nearest time is used; azula's schedules reach σ = 1000, its
    variance-exploding one what it is told. Times are float64, so that in a float64 state the
    conversion is exact to rounding.

    Args:
        denoiser: an `azula.denoise.Denoiser`; keyword arguments of its call are conditions.

    Raises:
        ScoreError: when called, σ differs within the batch and the denoiser takes one time only
            (`GaussianDenoiser`), or it is on another device than the state.
    """
    schedule = denoiser.schedule

    def ratio(times: Tensor) -> Tensor:
        alpha, sigma_t = schedule(times)
        return sigma_t / alpha  # type: ignore[no-any-return]

    def ours(x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        check_device(denoiser, x)
        t = time_at(ratio, sigma)
        alpha, sigma_t = (value.to(x) for value in schedule(t))
        x_t = x * beside(as_seen(alpha, sigma_t, sigma), x)
        return denoiser(x_t, _one_if_alike(denoiser, t), **condition).mean.to(x.dtype)  # type: ignore[no-any-return]

    return from_denoiser(ours)


def _one_if_alike(denoiser: Any, t: Tensor) -> Tensor:
    """One time where all are the same, as every azula denoiser takes; else all of them."""
    if bool((t == t[0]).all()):
        return t[0]
    if type(denoiser).__name__ == "GaussianDenoiser":
        raise ScoreError(
            "from_azula: GaussianDenoiser takes one time for a batch, got several σ. Call it with "
            "one σ, or use pgmdiff.gaussian.Gaussian."
        )
    return t


def to_azula(joint: Score, schedule: Any) -> Any:
    """A joint as an `azula.denoise.Denoiser`, for azula's samplers and guidance.

    Its posterior is a Dirac at D(x_t / α_t, σ_t / α_t). Keyword arguments become conditions given
    at call time.

    Args:
        joint: any score `joint(x, sigma, **condition)`.
        schedule: an `azula.noise.Schedule`, such as `VESchedule()`.

    Raises:
        ImportError: azula is not installed.
    """
    azula = required("azula.denoise")

    class JointDenoiser(azula.Denoiser):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.schedule, self.joint = schedule, joint

        def forward(self, x_t: Tensor, t: Tensor, **condition: Any) -> Any:
            alpha, sigma_t = (value.to(x_t) for value in self.schedule(t))
            x = x_t / beside(alpha, x_t) if alpha.ndim else x_t / alpha
            mean = denoise(self.joint, x, sigma_t / alpha, **condition)
            return azula.DiracPosterior(mean=mean)

    return JointDenoiser()
