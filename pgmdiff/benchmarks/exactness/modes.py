"""Part 2, the two-mode chain: 12 variables at ±2 with a hidden 2-state chain, stay probability .9.

Unbiased energy distance between samples of the SDE (η = 1) and exact ancestral ones, mean and
standard error over seeds.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.benchmarks.exactness.methods import RULES, rule_of
from pgmdiff.compose import compose
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.graphs import chain
from pgmdiff.samplers import SDE, karras, sample

__all__ = ["draw", "lines", "rows"]

SEEDS = 8
SAMPLES = 2000
STEPS = (20, 60)
SWITCH, SPREAD, WITHIN = 0.1, 0.16, 0.9
"""Of the two-mode chain: switch probability, variance of a mode, correlation within a run."""


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Measures all rules; `smoke` with one seed of few samples."""
    return [
        _two_mode_row(rule, steps, seeds=1 if smoke else SEEDS, n=200 if smoke else SAMPLES)
        for rule in tqdm(RULES, desc="two modes")
        for steps in (STEPS[:1] if smoke else STEPS)
    ]


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as text."""
    text = ["two-mode chain, energy distance (standard error), evaluations a region"]
    for row in rows:
        error = row["standard_error"]
        text.append(
            f"{row['rule']:>22} {row['evaluations']:>12} {row['mean']:.4f}"
            + (f" ({error:.4f})" if error is not None else "")
        )
    return text


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Nothing yet."""


def _two_mode_row(rule: str, steps: int, *, seeds: int, n: int, length: int = 12) -> dict[str, Any]:
    pair, single = _two_mode_pair(), _two_mode_pair().marginal(torch.tensor(0))
    graph = chain(length, factor_model="pair", variable_model="single")
    covariances = {"pair": pair.covariance, "single": single.covariance}
    scores = {"pair": pair.score, "single": single.score}
    joint = compose(graph, scores, rule=rule_of(rule, covariances))
    distances = []
    for seed in range(seeds):
        u = sample(
            joint,
            karras(steps, 0.01, 20.0),
            shape=(n, length),
            solver=SDE(1.0),
            generator=seed,
            dtype=torch.float64,
        )
        truth = _two_mode_samples(n, length, torch.Generator().manual_seed(100 + seed))
        distances.append(_energy_distance(u, truth))
    found = torch.tensor(distances, dtype=torch.float64)
    return {
        "rule": rule,
        "steps": steps,
        "evaluations": steps * (2 if rule == "evidence" else 1),
        "seeds": seeds,
        "samples": n,
        "mean": found.mean().item(),
        "standard_error": (found.std() / seeds**0.5).item() if seeds > 1 else None,
    }


def _two_mode_pair() -> GaussianMixture:
    """Runs are correlated inside, modes that differ are not."""
    eye = torch.eye(2, dtype=torch.float64)
    together = SPREAD * (eye + WITHIN * (1 - eye))
    modes = [(-2.0, -2.0), (-2.0, 2.0), (2.0, -2.0), (2.0, 2.0)]
    stay, switch = (1 - SWITCH) / 2, SWITCH / 2
    return GaussianMixture(
        torch.tensor([stay, switch, switch, stay], dtype=torch.float64),
        [
            Gaussian(
                torch.tensor(m, dtype=torch.float64), together if m[0] == m[1] else SPREAD * eye
            )
            for m in modes
        ],
    )


def _two_mode_samples(n: int, length: int, generator: torch.Generator) -> Tensor:
    first = torch.randint(2, (n, 1), generator=generator)
    switched = (torch.rand(n, length - 1, generator=generator) < SWITCH).cumsum(dim=1)
    modes = torch.cat([first, (first + switched) % 2], dim=1)
    noise = SPREAD**0.5 * torch.randn(n, length, generator=generator, dtype=torch.float64)
    for i in range(1, length):
        kept = WITHIN * noise[:, i - 1] + (1 - WITHIN**2) ** 0.5 * noise[:, i]
        noise[:, i] = torch.where(modes[:, i] == modes[:, i - 1], kept, noise[:, i])
    samples: Tensor = 4.0 * modes - 2.0 + noise
    return samples


def _energy_distance(a: Tensor, b: Tensor) -> float:
    """The unbiased 2 E|a - b| - E|a - a'| - E|b - b'|."""
    within = (torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (a, b))
    return (2 * torch.cdist(a, b).mean() - sum(within)).item()
