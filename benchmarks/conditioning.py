"""The conditioning benchmark: the error, the cost and the requirements of each way of conditioning.

*Gaussian chain* (12 variables, correlation 0.9, posterior composition, which is exact): variables 1
and 7 are observed, without noise and with noise of 0.5. Where the conditioned score is affine, the
distribution reached is exact (`diagnostics.distribution_reached`, Heun); elsewhere it is fitted to
20,000 samples, which costs 2e-4. The loss is KL(sampled ‖ posterior) per direction in which the
posterior varies.
*Two-mode chain*: variables 1 and 7 are observed with noise 0.5; unbiased energy distance to exact
posterior samples (importance resampling of ancestral ones), mean and standard error over seeds.

*Smooth data* (`benchmarks.smooth_fields`): Gaussian fields and a photograph with a hole.
*Errors* and *calibration* (`benchmarks.observed`): observations in local posteriors or the solve.
*Labels* (`benchmarks.labels`): covariances per label, or pooled over labels.

The requirements are those of one score: evaluations of every region, gradients, and the bytes that
autograd holds for them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import labels, observed, smooth_fields
from benchmarks.exactness.distributions import two_mode_chain
from benchmarks.problems import Counter, gaussian_problem
from benchmarks.reports import columns, estimates, plus_minus, settings, spread, table
from pgmdiff import conditioning as ways
from pgmdiff.composition.composing import compose
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.posterior import Posterior
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.diagnostics.metrics import energy_distance, mean_and_error
from pgmdiff.errors import PgmdiffError
from pgmdiff.gaussian import Gaussian, ar1, kl_divergence
from pgmdiff.graphs import chain
from pgmdiff.samplers import SDE, Heun, Solver, karras, sample, time_travel
from pgmdiff.scores.adapters import Score
from pgmdiff.text import Table

__all__ = ["METHODS", "PARTS", "run", "tables"]

N, SEEN, RHO = 12, (1, 7), 0.9
NOISES = (0.0, 0.5)
LEVELS = 40
DRAWS = 20_000
SEEDS, SAMPLES = 4, 1000
OBSERVED = ways.DenseOperator(torch.eye(N, dtype=torch.float64)[list(SEEN)], (N,))


@dataclass(frozen=True)
class Method:
    """A way of conditioning on `OBSERVED`.

    Attributes:
        conditioned: from a joint, y, its noise and the data's standard deviation to the conditioned
            score.
        affine: whether the conditioned score of a Gaussian is affine.
        rounds: the number of times that each stretch of ten steps is run.
    """

    conditioned: Callable[[Joint, Tensor, float, float], Score]
    affine: bool = True
    rounds: int = 1

    def sampled(
        self, score: Score, sigmas: Sequence[float], solver: Solver, n: int, seed: int
    ) -> Tensor:
        """Samples of a conditioned score, each stretch of ten steps run `rounds` times."""
        levels = time_travel(sigmas, 10, self.rounds - 1) if self.rounds > 1 else sigmas
        shape = n, N
        return sample(
            score, levels, shape=shape, solver=solver, generator=seed, dtype=torch.float64
        )


def _replaced(joint: Joint, y: Tensor, noise: float, std: float) -> Score:
    return ways.replacement(joint, y, OBSERVED)


def _matched(covariance: Callable[[Joint, float], ways.PosteriorCovariance]) -> Method:
    def conditioned(joint: Joint, y: Tensor, noise: float, std: float) -> Score:
        moments = covariance(joint, std)
        return ways.moment_matching(joint, y, OBSERVED, moments, noise=noise, tolerance=1e-8)

    return Method(conditioned)


METHODS: dict[str, Method] = {
    "nothing": Method(lambda joint, y, noise, std: joint),
    "replacement": Method(_replaced),
    "replacement, 4 rounds": Method(_replaced, affine=False, rounds=4),
    "reconstruction, DPS ζ = 0.3": Method(
        lambda joint, y, noise, std: ways.reconstruction(
            joint, y, OBSERVED, ways.dps(0.3, data_std=1.0)
        ),
        affine=False,
    ),
    "isotropic moments": _matched(lambda joint, std: ways.Isotropic(std, jacobian=False)),
    "ΠGDM": _matched(lambda joint, std: ways.Isotropic(std)),
    "Tweedie moments (MMPS)": _matched(lambda joint, std: ways.Tweedie()),
    "composed moments": _matched(lambda joint, std: ways.Composed(joint)),
}
"""All ways of conditioning that are compared."""


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] | None = None
) -> dict[str, Any]:
    """Measures the parts given, or all; with `smoke` two methods, one noise level and one seed."""
    seeds, n = (1, 200) if smoke else (SEEDS, SAMPLES)
    made = {name: PARTS[name](smoke) for name in parts or PARTS}
    return {
        "settings": settings(
            gaussian=f"Heun, Karras 80 → 0.002, {LEVELS} levels",
            modes=f"SDE η = 1, Karras 20 → 0.01, {LEVELS} steps, {seeds} seeds × {n} samples",
            smooth=f"Heun, Karras 80 → 0.002 standard deviations, {smooth_fields.LEVELS} levels, "
            f"{smooth_fields.SEEDS} observations × {smooth_fields.SAMPLES} samples",
            calibration="SDE η = 1, Karras 20 → 0.01, 40 steps, 300 data sets × 39 draws",
        ),
        **made,
    }


def _names(smoke: bool) -> list[str]:
    return list(METHODS)[: 2 if smoke else None]


def _gaussian(smoke: bool) -> list[dict[str, Any]]:
    noises, names = NOISES[:1] if smoke else NOISES, tqdm(_names(smoke), desc="Gaussians")
    return [_gaussian_row(name, noise) for name in names for noise in noises]


def _modes(smoke: bool) -> list[dict[str, Any]]:
    sizes = (1, 200) if smoke else (SEEDS, SAMPLES)
    return [_modes_row(name, *sizes) for name in tqdm(_names(smoke), desc="two modes")]


PARTS: dict[str, Callable[[bool], list[dict[str, Any]]]] = {
    "needs": lambda smoke: [_needs(name) for name in _names(smoke)],
    "gaussian": _gaussian,
    "modes": _modes,
    "smooth": lambda smoke: smooth_fields.rows(smoke=smoke),
    "errors": lambda smoke: observed.errors(smoke=smoke),
    "calibration": lambda smoke: observed.calibration(smoke=smoke),
    "labels": lambda smoke: labels.rows(smoke=smoke),
}
"""What is measured, by the key of its rows."""


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The losses on the Gaussian chain, distances and requirements, and what observations need."""
    method, made = columns("method"), []
    if "gaussian" in result:
        title = (
            "Gaussian chain: KL from the posterior, nats per direction, by noise of the observation"
        )
        made.append(spread(title, result["gaussian"], method, "noise", "{loss:.3g}"))
    if "modes" in result and "needs" in result:
        both = zip(result["modes"], result["needs"], strict=True)
        shown = {
            **method,
            "two modes": lambda row: (
                plus_minus((row["mean"], row["standard_error"]))
                if row["mean"] is not None
                else "fails"
            ),
            **columns("evaluations:g gradients bytes:,"),
        }
        title = "Two-mode chain: energy distance to the posterior; requirements of one score"
        made.append(table(title, [{**modes, **needs} for modes, needs in both], shown))
    if "smooth" in result:
        shown = {
            **columns("problem noise method"),
            "mean error": lambda row: (
                "refused"
                if row["mean_error"] is None
                else plus_minus((row["mean_error"], row["standard_error"]), ".2f")
            ),
            **columns("spread:.2f misfit:.1e"),
        }
        title = "Smooth data with a hole: error of the mean and spread, in posterior deviations"
        made.append(table(title, result["smooth"], shown))
    if "errors" in result:
        title = "Chain of 8 modes, three observed: relative error of D, by σ"
        made.append(
            spread(
                title,
                result["errors"],
                method,
                "sigma",
                lambda row: "fails" if row["error"] is None else f"{row['error']:.3f}",
            )
        )
    if "calibration" in result:
        title = "Two-mode chain, three observed: uniform ranks of Σ|steps|"
        made.append(table(title, result["calibration"], method | columns("p:.2g mean_rank:.3f")))
    if "labels" in result:
        errors = estimates("score", ".3f") | estimates("energy")
        about = columns("graph method closure refused")
        made.append(table("Labels on pairs, by covariances", result["labels"], about | errors))
    return made


def _gaussian_row(name: str, noise: float) -> dict[str, Any]:
    method, q, h = METHODS[name], ar1(N, RHO), OBSERVED.matrix
    y = torch.tensor([1.5, -1.0], dtype=torch.float64)
    joint = gaussian_problem(chain(N), q).joint("posterior")
    score, sigmas = method.conditioned(joint, y, noise, 1.0), karras(LEVELS, 0.002, 80.0)
    if method.affine:
        start = Gaussian(q.mean, 80.0**2 * torch.eye(N, dtype=torch.float64))
        reached = distribution_reached(score, sigmas, start, Heun())
    else:
        reached = Gaussian.fit(method.sampled(score, sigmas, Heun(), DRAWS, 0))

    seen = h @ q.covariance @ h.T + noise**2 * torch.eye(len(h)).double()
    gain = q.covariance @ h.T @ torch.linalg.inv(seen)
    mean = q.mean + gain @ (y - h @ q.mean)
    truth = Gaussian(mean, _symmetric(q.covariance - gain @ h @ q.covariance))

    values, vectors = torch.linalg.eigh(truth.covariance)
    free = vectors[:, values > 1e-9]
    parts = [
        Gaussian(g.mean @ free, _symmetric(free.T @ g.covariance @ free)) for g in (reached, truth)
    ]
    return {
        "method": name,
        "noise": noise,
        "mean_error": (reached.mean - truth.mean).abs().max().item(),
        "loss": kl_divergence(*parts) / free.shape[1],
    }


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2


def _needs(name: str) -> dict[str, Any]:
    """Evaluations of every region per score, and the memory of autograd, for one state."""
    counter, held, method = Counter(), [0], METHODS[name]
    q = ar1(N, RHO)
    pair = counter.counted(lambda x, sigma: -x.tanh() / (1 + sigma[:, None] ** 2))
    joint = compose(
        chain(N, factor_model="pair", variable_model="single"),
        {"pair": pair, "single": lambda x, sigma: -x / (1 + sigma**2)},
        rule=Posterior({"pair": q.covariance[:2, :2], "single": torch.eye(1)}),
    )
    guided = method.conditioned(joint, torch.zeros(2).double(), 0.5, 1.0)
    u = torch.ones(1, N, dtype=torch.float64)

    def pack(tensor: Tensor) -> Tensor:
        held[0] += tensor.numel() * tensor.element_size()
        return tensor

    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        guided(u, u.new_ones(1))
    return {
        "method": name,
        "evaluations": method.rounds * counter.rows / (N - 1),
        "gradients": held[0] > 0,
        "bytes": held[0],
    }


def _modes_row(name: str, seeds: int, n: int) -> dict[str, Any]:
    method, q, noise = METHODS[name], two_mode_chain(N), 0.5
    y = torch.tensor([2.0, -2.0], dtype=torch.float64)
    guided = method.conditioned(q.problem.joint("posterior"), y, noise, 2.0)
    sigmas, found = karras(LEVELS, 0.01, 20.0), []
    try:
        for seed in range(seeds):
            u = method.sampled(guided, sigmas, SDE(1.0), n, seed)
            # exact posterior samples, but for the finite pool that they are drawn from
            generator = torch.Generator().manual_seed(100 + seed)
            pool = q.sample(100 * n, generator)
            chances = (-0.5 * ((OBSERVED.A(pool) - y) ** 2).sum(dim=1) / noise**2).softmax(0)
            chosen = torch.multinomial(chances, n, replacement=True, generator=generator)
            found.append(energy_distance(u, pool[chosen]))
    except PgmdiffError as error:
        return {"method": name, "mean": None, "standard_error": None, "failed": str(error)}
    mean, spread = mean_and_error(found)
    return {"method": name, "mean": mean, "standard_error": spread}
