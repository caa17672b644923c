"""The damping benchmark: other ways to update the messages of `Consistent`, and what they risk.

*paths*: relative error of σ s along exact paths of the SDE (η = 1, Karras 20 → 0.01), one
evaluation per step, of 8 groups of 50 paths. *safety*: Heun, 20 levels of Karras 40 → 0.01, with
the sea's network, and with linear denoisers of AR(1) windows whose Jacobian is 2 times too large at
σ = 3 and 23 times at σ = 40, in all directions but the smoothest (*rough*) or in it (*smooth*).
*jacobians*: the sea's network's over the assumed ones, along principal directions. The policies are
those of `policies`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness.distributions import three_mode_chain, two_mode_chain
from benchmarks.exactness.fields import FIELDS
from benchmarks.exactness.real import CASES, Ruler
from benchmarks.policies import POLICIES, Messages, Policy, free, principal
from benchmarks.problems import Problem
from benchmarks.reports import columns, plus_minus, rounded, settings, table
from pgmdiff.composition.composing import compose
from pgmdiff.composition.joint import Joint
from pgmdiff.diagnostics.metrics import energy_distance, mean_and_error
from pgmdiff.errors import PgmdiffError
from pgmdiff.gaussian import Gaussian, node_covariances
from pgmdiff.graphs import tiles
from pgmdiff.noise import torch_generator
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.scores.adapters import Score, from_denoiser
from pgmdiff.text import Table

__all__ = ["run", "tables"]

RING, GRID = FIELDS[1:3]
DIVERGED = 5.0
"""Distance from samples without messages, in standard deviations, that counts as divergence."""


def too_steep(kind: str, q: Gaussian) -> Score:
    """Scores of windows whose denoisers have too large a Jacobian, see the module."""

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        d, level = x.shape[1], float(sigma[0])
        variances, vectors = torch.linalg.eigh(q.covariance[:d, :d])
        wrong = (torch.arange(d) == d - 1) == (kind == "smooth")
        excess = 2 * (level / 3) ** 0.943 if level >= 3 else 1.0
        gains = variances / (variances + level**2) * torch.where(wrong, excess, 1.0)
        denoised: Tensor = (x @ vectors * gains) @ vectors.T
        return (denoised - x) / level**2

    return score


def imperfect(kind: str) -> tuple[Joint, Gaussian]:
    """Windows of a Gaussian with denoisers of too large a Jacobian, see the module."""
    graph, places = tiles((26,), (8,), (2,)), torch.arange(26)
    q = Gaussian(torch.zeros(26).double(), 0.94 ** (places[:, None] - places).abs().double())
    return compose(graph, too_steep(kind, q), rule=free(node_covariances(graph, q))), q


@torch.no_grad()
def run(*, smoke: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measures all policies, or with `smoke` three of them on small cases; always on the CPU."""
    some = ("no messages", "default", "damping 1, least share 0, no trust")
    policies = {name: POLICIES[name] for name in some} if smoke else POLICIES
    problems = {"two-mode chain": two_mode_chain().problem, "ring": RING.problem}
    if not smoke:
        problems["three-mode chain"] = three_mode_chain().problem
        problems["grid"] = GRID.problem
    sizes = (2, 4, (8,)) if smoke else (8, 50, (20, 60))
    levels = 6 if smoke else 20
    case = CASES[0]
    network, ruler = from_denoiser(case.load()), Ruler(case)
    rule = free(case.covariances)
    sea = compose(case.graph("marginal"), network, rule=rule)
    cases: dict[str, tuple[Joint, Any]] = {
        "sea": (sea, lambda u: ruler.distances([u])["energy distance"][0])
    }
    for kind in ("rough", "smooth"):
        joint, q = imperfect(kind)
        cases[kind] = joint, partial(energy_distance, q.sample(1000, generator=0))
    sigmas = karras(levels, 0.01, 40.0)
    counts = {name: (1, 4) if smoke else (4, 12) if name == "sea" else (12, 100) for name in cases}
    found = {
        "paths": [r for name, q in problems.items() for r in _paths(name, q, policies, *sizes)],
        "safety": [
            row
            for name, (joint, energy) in cases.items()
            for row in _safety(name, joint, energy, policies, sigmas, counts[name])
        ],
        "jacobians": _jacobians(sea, (10.0,) if smoke else (0.3, 1.0, 3.0, 10.0, 20.0)),
    }
    return {"settings": settings(threads=torch.get_num_threads()), **rounded(found, 6)}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Errors along paths, safety, and the Jacobians of the sea's network."""
    error = {"error": lambda row: plus_minus(row["error"])}
    above = {"above the default's": lambda row: plus_minus(row["above"])}
    away = {"away": lambda row: "" if row["away"] is None else f"{row['away']:.3f}"}
    largest = columns("largest:.3g")
    shape = columns("sigma variance:.3f median:.2f largest:.1f")
    distances = {
        head: lambda row, key=key: plus_minus(row[key]) if row[key] else "diverged"
        for head, key in (("energy distance", "energy"), ("above that without", "above"))
    }
    return [
        table("Errors", result["paths"], columns("distribution levels policy") | error | above),
        table("Safety", result["safety"], columns("case policy") | away | largest | distances),
        table("Jacobians", result["jacobians"], shape),
    ]


def _paths(
    name: str, q: Problem, policies: Mapping[str, Policy], groups: int, each: int, counts: Any
) -> list[dict[str, Any]]:
    """Errors of every policy on the same exact paths, which never see the policies' scores."""
    rule = free(q.covariances, torch.zeros(q.graph.event_shape))
    joint, rows = compose(q.graph, q.scores(q.graph), rule=rule), []
    assert q.whole is not None, "it is known for all of them"
    for levels in counts:
        generator, path = torch_generator(levels, "damping"), []
        sigmas, shape = karras(levels, 0.01, 20.0), (groups * each, q.graph.n_elements)
        u = sigmas[0] * torch.randn(shape, generator=generator, dtype=torch.float64)
        for a, b in pairwise(sigmas):
            level = torch.full((len(u),), a).double()
            exact = q.whole(u, level)
            path.append((u, level, exact))
            denoised, share = u + a**2 * exact, (b / a) ** 2
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            u = denoised + share * (u - denoised) + b * (1 - share) ** 0.5 * noise
        errors = {}
        for policy in tqdm(policies, desc=f"{name}, {levels} levels"):
            score, wrong, whole = Messages(joint, policies[policy]), *torch.zeros(2, groups)
            for u, level, exact in path:
                gap = level[0] ** 2 * (score(u, level) - exact) ** 2
                wrong = wrong + gap.reshape(groups, -1).sum(dim=1)
                whole = whole + (level[0] * exact).square().reshape(groups, -1).sum(dim=1)
            errors[policy] = (wrong / whole).sqrt()
        for policy, found in errors.items():
            above = mean_and_error((found - errors["default"]).tolist())
            own = {"policy": policy, "distribution": name, "levels": levels, "above": above}
            rows.append(own | {"error": mean_and_error(found.tolist())})
    return rows


def _safety(
    name: str,
    joint: Joint,
    energy: Callable[[Tensor], float],
    policies: Mapping[str, Policy],
    sigmas: Sequence[float],
    size: tuple[int, int],
) -> list[dict[str, Any]]:
    """Samples of every policy, all from the same starts; the first policy has no messages."""
    shape = size[0] * size[1], *joint.event_shape
    dtype = torch.float32 if name == "sea" else torch.float64
    rows: list[dict[str, Any]] = []
    none: tuple[Tensor, list[float]] | None = None
    for policy in tqdm(policies, desc=name):
        score = Messages(joint, policies[policy])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "sample: .*exploded")  # without damping some do
            try:
                u = sample(score, sigmas, shape=shape, solver=Heun(), generator=0, dtype=dtype)
            except PgmdiffError:  # messages overflowed
                row = {"case": name, "policy": policy, "largest": score.largest}
                rows.append(row | dict.fromkeys(("away", "energy", "above")))
                continue
        energies = [energy(each) for each in u.chunk(size[0])]
        none = none or (u, energies)
        away = float((u - none[0]).double().square().mean().sqrt() / none[0].std())
        row = {"case": name, "policy": policy, "largest": score.largest, "away": away}
        above = mean_and_error([a - b for a, b in zip(energies, none[1], strict=True)])
        row["energy"] = mean_and_error(energies) if away < DIVERGED else None
        rows.append(row | {"above": above if away < DIVERGED else None})
    return rows


def _jacobians(joint: Joint, levels: Sequence[float]) -> list[dict[str, Any]]:
    """∂D/∂x of windows along their principal directions, by differences of σ / 100."""
    batch = max(joint.batches, key=lambda each: each.group.indices(0, 1).numel())
    variances, vectors = (each[0] for each in principal(batch))
    x, noise = (torch.randn(64, len(vectors), generator=torch_generator(k, "")) for k in (0, 1))
    rows = []
    for level in levels:
        noised = (x.double() * variances.sqrt()) @ vectors.T + level * noise.double()
        for k, variance in enumerate(variances.tolist()):
            step, sigma = 0.01 * level * vectors[:, k], torch.full((128,), level)
            both = torch.cat([noised + step, noised - step]).float()
            both = both.reshape(128, *batch.group.shape)
            up, down = (both + level**2 * batch.score(both, sigma)).chunk(2)
            slope = ((up - down).reshape(64, -1).double() @ vectors[:, k]) / (0.02 * level)
            ratio = slope * (1 + level**2 / variance)
            about = {"sigma": level, "direction": k + 1, "variance": variance}
            rows.append(about | {"median": float(ratio.median()), "largest": float(ratio.max())})
    return rows
