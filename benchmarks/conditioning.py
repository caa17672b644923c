"""What each way of conditioning loses, costs and needs.

*Gaussian chain* (12 variables, correlation 0.9, posterior composition, which is exact): variables 1
and 7 are seen, without noise and with noise of 0.5. Where the conditioned score is affine the law
reached follows exactly from pushing 0 and the identity through the sampler (Heun); elsewhere it is
fitted to 20,000 samples, which costs 2e-4. The loss is KL(sampled ‖ posterior) per direction in
which the posterior varies.
*Two-mode chain*: variables 1 and 7 are seen with noise 0.5; unbiased energy distance to exact
posterior samples (importance resampling of ancestral ones), mean and standard error over seeds.

Needs, of one score: evaluations of every region, gradients, and bytes that autograd holds for them.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness.distributions import Law, two_mode_chain
from pgmdiff.composition.composing import compose
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.posterior import Posterior
from pgmdiff.conditioning import (
    Composed,
    DenseOperator,
    Isotropic,
    PosteriorCovariance,
    Tweedie,
    dps,
    moment_matching,
    reconstruction,
    replacement,
)
from pgmdiff.diagnostics.metrics import energy_distance, mean_and_error
from pgmdiff.errors import PgmdiffError
from pgmdiff.gaussian import Gaussian, kl_divergence, node_covariances, node_scores
from pgmdiff.graphs import chain
from pgmdiff.samplers import SDE, Heun, Solver, karras, sample, time_travel
from pgmdiff.scores.adapters import Score

__all__ = ["METHODS", "run", "table"]

N, SEEN, RHO = 12, (1, 7), 0.9
NOISES = (0.0, 0.5)
LEVELS = 40
DRAWS = 20_000
SEEDS, SAMPLES = 4, 1000


@dataclass(frozen=True)
class Method:
    """A way of conditioning.

    Attributes:
        conditioned: joint, y, H, noise and the data's standard deviation to the conditioned score.
        affine: whether the conditioned score of a Gaussian is affine.
        rounds: how often each stretch of ten steps is gone.
    """

    conditioned: Callable[[Joint, Tensor, DenseOperator, float, float], Score]
    affine: bool = True
    rounds: int = 1

    def sigmas(self, levels: Sequence[float]) -> list[float]:
        """The schedule, with its travels in time."""
        return time_travel(levels, 10, self.rounds - 1) if self.rounds > 1 else list(levels)


def _replaced(joint: Joint, y: Tensor, h: DenseOperator, noise: float, std: float) -> Score:
    return replacement(joint, y, h)


def _matched(covariance: Callable[[Joint, float], PosteriorCovariance]) -> Method:
    def conditioned(joint: Joint, y: Tensor, h: DenseOperator, noise: float, std: float) -> Score:
        return moment_matching(joint, y, h, covariance(joint, std), noise=noise, tolerance=1e-8)

    return Method(conditioned)


METHODS: dict[str, Method] = {
    "nothing": Method(lambda joint, y, h, noise, std: joint),
    "replacement": Method(_replaced),
    "replacement, 4 rounds": Method(_replaced, affine=False, rounds=4),
    "reconstruction, DPS ζ = 0.3": Method(
        lambda joint, y, h, noise, std: reconstruction(joint, y, h, dps(0.3)), affine=False
    ),
    "isotropic moments": _matched(lambda joint, std: Isotropic(std, jacobian=False)),
    "ΠGDM": _matched(lambda joint, std: Isotropic(std)),
    "Tweedie moments (MMPS)": _matched(lambda joint, std: Tweedie()),
    "composed moments": _matched(lambda joint, std: Composed(joint)),
}
"""All ways of conditioning that are compared."""


def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures all methods; `smoke`: one noise level, one seed, few samples."""
    names = list(METHODS)[: 2 if smoke else None]
    noises = NOISES[:1] if smoke else NOISES
    gaussian = [
        _gaussian_row(name, noise) for name in tqdm(names, desc="Gaussians") for noise in noises
    ]
    seeds, n = (1, 200) if smoke else (SEEDS, SAMPLES)
    modes = [_modes_row(name, seeds, n) for name in tqdm(names, desc="two modes")]
    return {
        "settings": {
            "torch": torch.__version__,
            "machine": platform.machine(),
            "gaussian": f"Heun, Karras 80 → 0.002, {LEVELS} levels",
            "modes": f"SDE η = 1, Karras 20 → 0.01, {LEVELS} steps, {seeds} seeds × {n} samples",
        },
        "needs": [_needs(name) for name in names],
        "gaussian": gaussian,
        "modes": modes,
    }


def table(result: dict[str, Any]) -> str:
    """The rows as text."""
    losses: dict[str, dict[str, str]] = {name["method"]: {} for name in result["needs"]}
    for row in result["gaussian"]:
        losses[row["method"]][f"KL, noise {row['noise']:g}"] = f"{row['loss']:.3g}"
    for row in result["modes"]:
        failed = row["mean"] is None
        losses[row["method"]]["two modes"] = "fails" if failed else f"{row['mean']:.4f}"
    for row in result["needs"]:
        cells = losses[row["method"]]
        cells["evaluations"] = f"{row['evaluations']:g}"
        cells["gradients"] = "yes" if row["gradients"] else "no"
        cells["kB held"] = f"{row['bytes'] / 1000:.1f}"
    heads = list(next(iter(losses.values())))
    lines = [f"{'method':>28} " + " ".join(f"{head:>13}" for head in heads)]
    for method, cells in losses.items():
        lines.append(f"{method:>28} " + " ".join(f"{cells[head]:>13}" for head in heads))
    return "\n".join(lines)


def _observation() -> DenseOperator:
    return DenseOperator(torch.eye(N, dtype=torch.float64)[list(SEEN)], (N,))


def _gaussian_row(method: str, noise: float) -> dict[str, Any]:
    q, h = _ar1(), _observation()
    y = torch.tensor([1.5, -1.0], dtype=torch.float64)
    sigmas = karras(LEVELS, 0.002, 80.0)
    joint = _gaussian_joint(q)
    guided = METHODS[method].conditioned(joint, y, h, noise, 1.0)
    if METHODS[method].affine:
        start = torch.cat([torch.zeros(1, N), 80.0 * torch.eye(N)]).double()
        out = sample(guided, sigmas, x=start, solver=Heun())
        spread = out[1:] - out[0]
        reached = Gaussian(out[0], _symmetric(spread.T @ spread))
    else:
        travelled = METHODS[method].sigmas(sigmas)
        reached = Gaussian.fit(_sampled(guided, travelled, Heun(), DRAWS, 0))
    truth = _posterior(q, h.matrix, y, noise)
    return {
        "method": method,
        "noise": noise,
        "mean_error": (reached.mean - truth.mean).abs().max().item(),
        "loss": _loss(reached, truth),
    }


def _loss(reached: Gaussian, truth: Gaussian) -> float:
    """KL per direction in which the truth varies."""
    values, vectors = torch.linalg.eigh(truth.covariance)
    free = vectors[:, values > 1e-9]
    parts = [
        Gaussian(g.mean @ free, _symmetric(free.T @ g.covariance @ free)) for g in (reached, truth)
    ]
    loss: float = kl_divergence(*parts) / free.shape[1]
    return loss


def _posterior(q: Gaussian, h: Tensor, y: Tensor, noise: float) -> Gaussian:
    seen = h @ q.covariance @ h.T + noise**2 * torch.eye(len(h)).double()
    gain = q.covariance @ h.T @ torch.linalg.inv(seen)
    covariance = _symmetric(q.covariance - gain @ h @ q.covariance)
    return Gaussian(q.mean + gain @ (y - h @ q.mean), covariance)


def _gaussian_joint(q: Gaussian) -> Joint:
    graph = chain(N)
    return compose(graph, node_scores(graph, q), rule=Posterior(node_covariances(graph, q)))


def _ar1() -> Gaussian:
    place = torch.arange(N)
    covariance = RHO ** (place[:, None] - place).abs().double()
    return Gaussian(torch.zeros(N, dtype=torch.float64), covariance)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2


def _needs(method: str) -> dict[str, Any]:
    """Evaluations of every region a score, and what autograd holds, for one state."""
    held, counts = [0], [0]
    q, h = _ar1(), _observation()

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        counts[0] += len(x)
        return -x.tanh() / (1 + sigma[:, None] ** 2)

    graph = chain(N, factor_model="pair", variable_model="single")
    one = lambda x, sigma: -x / (1 + sigma**2)  # noqa: E731
    joint = compose(
        graph,
        {"pair": score, "single": one},
        rule=Posterior({"pair": q.covariance[:2, :2], "single": torch.eye(1)}),
    )
    guided = METHODS[method].conditioned(joint, torch.zeros(2).double(), h, 0.5, 1.0)
    u = torch.ones(1, N, dtype=torch.float64)

    def pack(tensor: Tensor) -> Tensor:
        held[0] += tensor.numel() * tensor.element_size()
        return tensor

    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        guided(u, u.new_ones(1))
    return {
        "method": method,
        "evaluations": METHODS[method].rounds * counts[0] / (N - 1),
        "gradients": held[0] > 0,
        "bytes": held[0],
    }


def _modes_row(method: str, seeds: int, n: int) -> dict[str, Any]:
    law, h, noise = two_mode_chain(N), _observation(), 0.5
    joint = compose(
        law.graph,
        {model: q.score for model, q in law.models.items()},
        rule=Posterior({model: q.covariance for model, q in law.models.items()}),
    )
    y = torch.tensor([2.0, -2.0], dtype=torch.float64)
    guided = METHODS[method].conditioned(joint, y, h, noise, 2.0)
    sigmas, found = METHODS[method].sigmas(karras(LEVELS, 0.01, 20.0)), []
    try:
        for seed in range(seeds):
            u = _sampled(guided, sigmas, SDE(1.0), n, seed)
            truth = _resampled(law, h, y, noise, n, 100 + seed)
            found.append(energy_distance(u, truth))
    except PgmdiffError as error:
        return {"method": method, "mean": None, "standard_error": None, "failed": str(error)}
    mean, spread = mean_and_error(found)
    return {"method": method, "mean": mean, "standard_error": spread}


def _sampled(score: Score, sigmas: Sequence[float], solver: Solver, n: int, seed: int) -> Tensor:
    return sample(score, sigmas, shape=(n, N), solver=solver, generator=seed, dtype=torch.float64)


def _resampled(law: Law, h: DenseOperator, y: Tensor, noise: float, n: int, seed: int) -> Tensor:
    """Exact posterior samples, but for the finite pool that they are drawn from."""
    generator = torch.Generator().manual_seed(seed)
    pool = law.sample(100 * n, generator)
    log_weights = -0.5 * ((h.A(pool) - y) ** 2).sum(dim=1) / noise**2
    chosen = torch.multinomial(log_weights.softmax(0), n, replacement=True, generator=generator)
    return pool[chosen]
