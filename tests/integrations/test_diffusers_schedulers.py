"""Joints sampled by every suitable scheduler of the real diffusers."""

import math
import warnings
from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError, ScoreError, ShapeError, compose, from_denoiser
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import chain, tiles
from pgmdiff.integrations.diffusers import SIGMA_LIMIT, drive, from_diffusers
from pgmdiff.samplers import (
    DEIS,
    SDE,
    DPMSolver2M,
    Euler,
    Heun,
    Solver,
    from_scheduler,
    sample,
    split_seed,
)
from pgmdiff.scores import Timesteps
from tests.integrations.with_diffusers import (
    MARKS,
    TARGET,
    reproducible,  # noqa: F401
    schedulers,
    small_unet,
)

pytestmark = MARKS


def start(scheduler: object) -> tuple[Tensor, Tensor, list[float]]:
    """A start in our convention and in the scheduler's, and its levels: σ_0, ..., 0."""
    sigmas = from_scheduler(scheduler)
    generator = torch.Generator().manual_seed(1)
    x = sigmas[0] * torch.randn(5, 2, generator=generator, dtype=torch.float64)
    if type(scheduler).__name__.startswith("FlowMatch"):
        return x, x / (1 + sigmas[0]), sigmas
    exploding = float(scheduler.init_noise_sigma) > 1
    return x, x if exploding else x / math.sqrt(1 + sigmas[0] ** 2), sigmas


KARRAS = {"use_karras_sigmas": True}
COUNTERPARTS: list[tuple[str, dict, Solver, float]] = [
    ("EulerDiscreteScheduler", {}, Euler(), 1e-6),
    ("EulerDiscreteScheduler", {**KARRAS, "prediction_type": "v_prediction"}, Euler(), 1e-6),
    ("EulerDiscreteScheduler", {"prediction_type": "sample"}, Euler(), 1e-6),
    ("EDMEulerScheduler", {}, Euler(), 1e-6),
    ("EDMEulerScheduler", {"prediction_type": "v_prediction", "sigma_data": 1.0}, Euler(), 1e-6),
    ("HeunDiscreteScheduler", {}, Heun(), 1e-6),
    ("DDIMScheduler", {}, Euler(), 1e-6),
    ("DDIMScheduler", {"prediction_type": "v_prediction"}, Euler(), 1e-6),
    ("DDIMScheduler", {"prediction_type": "sample"}, Euler(), 1e-6),
    ("DDIMParallelScheduler", {}, Euler(), 1e-6),
    ("DPMSolverMultistepScheduler", KARRAS, DPMSolver2M(), 1e-6),
    ("DPMSolverMultistepScheduler", {**KARRAS, "solver_order": 1}, Euler(), 1e-6),
    ("EDMDPMSolverMultistepScheduler", {}, DPMSolver2M(), 1e-6),
    ("DEISMultistepScheduler", KARRAS, DEIS(2), 1e-3),  # float32 coefficients near σ_min
    ("LMSDiscreteScheduler", KARRAS, DEIS(4, rho=1.0), 1e-3),  # it integrates to 1e-4
]


@pytest.mark.parametrize(("name", "options", "solver", "tolerance"), COUNTERPARTS)
def test_a_driven_joint_is_sampled_as_by_our_solver(
    name: str, options: dict, solver: Solver, tolerance: float
) -> None:
    scheduler = getattr(schedulers, name)(**options)
    scheduler.set_timesteps(12)
    x, latents, sigmas = start(scheduler)
    driven = drive(TARGET.score, scheduler, x=latents)
    assert (driven - sample(TARGET.score, sigmas, x=x, solver=solver)).abs().max() < tolerance


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete"])
@pytest.mark.parametrize("options", [{"beta_schedule": "squaredcos_cap_v2"}, {}])
def test_what_is_predicted_makes_no_difference(name: str, options: dict) -> None:
    """Cosine betas reach σ = 20,000, where ε of D at `SIGMA_LIMIT` was that of D σ / 1000."""
    far = Gaussian(torch.full((2,), 5.0).double(), 0.25 * torch.eye(2).double())
    made = []
    for kind in ("sample", "epsilon", "v_prediction"):
        scheduler = getattr(schedulers, f"{name}Scheduler")(prediction_type=kind, **options)
        drawn = {"shape": (200, 2), "mean": 5.0, "generator": 0, "dtype": torch.float64}
        made.append(drive(far.score, scheduler, steps=20, **drawn))
    assert (made[1] - made[0]).abs().max() < 1e-3
    assert (made[2] - made[0]).abs().max() < 1e-3
    assert (made[0].mean(dim=0) - 5).abs().max() < 0.1


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_joint_driven_by_flow_matching_is_sampled_by_euler(shift: float) -> None:
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(0.99, 0.01, 12).tolist())
    x, latents, sigmas = start(scheduler)
    driven = drive(TARGET.score, scheduler, x=latents)
    assert (driven - sample(TARGET.score, sigmas, x=x, solver=Euler())).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_a_driven_joint_starts_around_the_mean(name: str) -> None:
    scheduler, mean = getattr(schedulers, name)(), torch.tensor([300.0, -500.0])
    far = Gaussian(mean, TARGET.covariance.float())
    given: dict[str, Any] = {"shape": (8, 2), "mean": mean, "generator": 0}
    driven = drive(far.score, scheduler, steps=12, **given)
    scheduler.set_timesteps(12)
    ours = sample(far.score, from_scheduler(scheduler), solver=Euler(), **given)
    torch.testing.assert_close(driven, ours, rtol=1e-5, atol=1e-3)
    with pytest.raises(ShapeError, match="drive: mean= centres the start that shape= draws"):
        drive(far.score, scheduler, steps=12, x=torch.zeros(8, 2), mean=mean)


def affine_error(scheduler: object, steps: int) -> float:
    """The error of mean and covariance, for a scheduler that draws no noise."""
    rows = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
    prepared = type(scheduler).from_config(scheduler.config)
    prepared.set_timesteps(steps)
    scale = float(getattr(prepared, "init_noise_sigma", 1.0))
    out = drive(TARGET.score, scheduler, steps=steps, x=scale * rows)
    columns = out[1:] - out[0]
    return float((columns.T @ columns - TARGET.covariance).norm() + (out[0] - TARGET.mean).norm())


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
CONVERGENT: list[tuple[str, dict, float]] = [
    ("PNDMScheduler", {}, 0.02),
    ("PNDMScheduler", {"skip_prk_steps": True}, 0.02),
    ("UniPCMultistepScheduler", KARRAS, 0.02),
    ("UniPCMultistepScheduler", FLOW, 0.02),
    ("DPMSolverSinglestepScheduler", {}, 0.02),
    ("DPMSolverSinglestepScheduler", FLOW, 0.02),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}, 0.02),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, 0.02),
    ("DPMSolverMultistepScheduler", FLOW, 0.02),
    ("DEISMultistepScheduler", {"solver_order": 3}, 0.02),
    ("KDPM2DiscreteScheduler", {"beta_start": 1e-4, "beta_end": 0.02}, 0.02),
    ("IPNDMScheduler", {}, 0.02),
    ("FlowMatchEulerDiscreteScheduler", {}, 0.06),
    ("FlowMatchHeunDiscreteScheduler", {}, 0.002),
    ("CogVideoXDDIMScheduler", {}, 0.15),
    ("DDIMScheduler", {"timestep_spacing": "trailing"}, 0.15),
]


@pytest.mark.parametrize(("name", "options", "error"), CONVERGENT)
def test_a_driven_joint_converges_to_its_distribution(
    name: str, options: dict, error: float
) -> None:
    scheduler = getattr(schedulers, name)(**options)
    coarse, fine = affine_error(scheduler, 20), affine_error(scheduler, 80)
    assert fine < error
    assert fine < coarse


STOCHASTIC: list[tuple[str, dict]] = [
    ("DDPMScheduler", {}),
    ("DDPMScheduler", {"prediction_type": "v_prediction", "variance_type": "learned_range"}),
    ("DDPMParallelScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
]


@pytest.mark.parametrize(("name", "options"), STOCHASTIC)
def test_ancestral_schedulers_have_the_distribution_of_our_sde(name: str, options: dict) -> None:
    scheduler = getattr(schedulers, name)(**options)
    scheduler.set_timesteps(20)
    n, sigmas = 2000, from_scheduler(scheduler)
    variance = sigmas[0] ** 2 + (name != "EulerAncestralDiscreteScheduler")
    reached = distribution_reached(
        TARGET.score, sigmas, Gaussian(torch.zeros(2).double(), variance * torch.eye(2)), SDE(1.0)
    )
    x = drive(TARGET.score, scheduler, shape=(n, 2), generator=0, dtype=torch.float64)
    assert (x.mean(dim=0) - reached.mean).abs().max() < 4 * (reached.covariance.max() / n) ** 0.5
    spread = 4 * reached.covariance.max() * (2 / n) ** 0.5
    assert (torch.cov(x.T) - reached.covariance).abs().max() < spread
    assert (reached.covariance - TARGET.covariance).abs().max() > 2 * spread, (
        "20 steps differ from many"
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SASolverScheduler", {}),
        ("KDPM2AncestralDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ],
)
def test_other_stochastic_schedulers_come_near_the_distribution(name: str, options: dict) -> None:
    n, scheduler = 2000, getattr(schedulers, name)(**options)
    x = drive(TARGET.score, scheduler, steps=40, shape=(n, 2), generator=0, dtype=torch.float64)
    assert (x.mean(dim=0) - TARGET.mean).abs().max() < 0.03 + 4 / n**0.5
    assert (torch.cov(x.T) - TARGET.covariance).abs().max() < 0.02 + 4 * (2 / n) ** 0.5


@pytest.mark.parametrize("name", ["DDPMScheduler", "EulerAncestralDiscreteScheduler"])
def test_a_batch_of_0_is_sampled(name: str) -> None:
    scheduler = getattr(schedulers, name)()
    assert drive(TARGET.score, scheduler, steps=3, shape=(0, 2), generator=0).shape == (0, 2)


@pytest.mark.parametrize("name", ["DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"])
def test_schedulers_with_brownian_trees(name: str) -> None:
    pytest.importorskip("torchsde", reason="these schedulers need torchsde")
    scheduler = getattr(schedulers, name)()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchsde warns of rounding at the ends
        x = drive(TARGET.score, scheduler, steps=10, shape=(4, 2), generator=0)
        part = drive(
            TARGET.score, scheduler, steps=10, shape=(2, 2), generator=split_seed(0, 4)[:2]
        )
    assert x.isfinite().all()
    torch.testing.assert_close(x[:2], part, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- runs that begin in the middle

FLOWS: list[tuple[str, dict]] = [("FlowMatchEulerDiscreteScheduler", {"shift": 3.0})]
OTHERS: list[tuple[str, dict]] = [
    ("SASolverScheduler", {}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
]
ALL = [case[:2] for case in (*COUNTERPARTS, *CONVERGENT, *STOCHASTIC, *OTHERS, *FLOWS)]


def prepared(name: str, options: dict, steps: int = 9) -> object:
    scheduler = getattr(schedulers, name)(**options)
    scheduler.set_timesteps(steps)
    return scheduler


def cut(scheduler: object, k: int) -> object:
    """The scheduler with its first k steps gone, as some pipelines do."""
    scheduler.timesteps = scheduler.timesteps[k * scheduler.order :]
    return scheduler


def begun(scheduler: object, k: int) -> object:
    """The scheduler told to begin at its step k, as other pipelines do."""
    scheduler.set_begin_index(k * scheduler.order)
    return scheduler


@pytest.mark.parametrize(("name", "options"), ALL)
def test_all_ways_to_begin_in_the_middle_are_one(name: str, options: dict) -> None:
    k = 3
    whole = prepared(name, options)
    ways = {"start": whole}
    plain = name not in ("PNDMScheduler", "IPNDMScheduler")  # whose levels are not listed once
    if plain:
        ways["cut"] = cut(deepcopy(whole), k)
    if plain and hasattr(whole, "set_begin_index"):
        ways["begun"] = begun(deepcopy(whole), k)
        ways["both"] = begun(cut(deepcopy(whole), k), k)
    levels = from_scheduler(whole, sigma_max=SIGMA_LIMIT) if plain else []
    x, found, seen = torch.ones(3, 2), [], []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(float(sigma[0]))
        return TARGET.score(x, sigma)

    for way, scheduler in ways.items():
        first = k if way == "start" else 0
        if way != "start":
            assert from_scheduler(scheduler) == levels[k:]
        seen.clear()
        found.append(drive(watched, scheduler, start=first, x=x, generator=0))
        with pytest.raises(ShapeError, match="begins in the middle"):
            drive(TARGET.score, scheduler, start=first, shape=(3, 2))
        if plain:
            assert seen[0] == pytest.approx(levels[k], rel=1e-5)
        if plain and "KDPM2" not in name:  # which evaluates between its levels
            assert sorted({*seen}, reverse=True) == pytest.approx(levels[k:9], rel=1e-5)
    for other in found[1:]:
        assert torch.equal(other, found[0])


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize(
    ("name", "options", "solver", "tolerance"),
    [*COUNTERPARTS, *((*flow, Euler(), 1e-6) for flow in FLOWS)],
)
def test_a_run_from_the_middle_is_that_of_our_solver(
    name: str, options: dict, solver: Solver, tolerance: float, k: int
) -> None:
    """To its last level, with the same callbacks."""
    scheduler = prepared(name, options, 12)
    sigmas = from_scheduler(scheduler, sigma_max=SIGMA_LIMIT)[k:]
    u = sigmas[0] * torch.randn(5, 2, dtype=torch.float64)
    alpha = 1.0
    if name.startswith("FlowMatch"):
        alpha = 1 / (1 + sigmas[0])
    elif float(scheduler.init_noise_sigma) == 1.0:
        alpha = (1 + sigmas[0] ** 2) ** -0.5
    ours, theirs = [], []
    expected = sample(TARGET.score, sigmas, x=u, solver=solver, callback=ours.append)
    driven = drive(TARGET.score, scheduler, start=k, x=alpha * u, callback=theirs.append)
    assert (driven - expected).abs().max() < tolerance
    if scheduler.order == 1:
        assert [step["i"] for step in theirs] == [step["i"] for step in ours]
        for key in ("x", "sigma", "denoised"):
            pairs = zip(ours, theirs, strict=True)
            size = max(abs(torch.as_tensor(step[key])).max() for step in ours)
            gaps = (abs(torch.as_tensor(one[key] - other[key])).max() for one, other in pairs)
            assert max(gaps) < tolerance * max(size, 1)


@pytest.mark.parametrize(("name", "options"), STOCHASTIC)
def test_ancestral_runs_from_the_middle_have_the_distribution_of_our_sde(
    name: str, options: dict
) -> None:
    scheduler, k = prepared(name, options, 20), 8
    n, sigmas = 2000, from_scheduler(scheduler)[k:]
    noised = TARGET.noised(sigmas[0])
    reached = distribution_reached(TARGET.score, sigmas, noised, SDE(1.0))
    x = noised.sample(n, torch.Generator().manual_seed(0))
    x = x if name.startswith("Euler") else x / math.sqrt(1 + sigmas[0] ** 2)
    x = drive(TARGET.score, scheduler, start=k, x=x, generator=0)
    assert (x.mean(dim=0) - reached.mean).abs().max() < 4 * (reached.covariance.max() / n) ** 0.5
    spread = 4 * reached.covariance.max() * (2 / n) ** 0.5
    assert (torch.cov(x.T) - reached.covariance).abs().max() < spread


def by_hand(scheduler: object, x: Tensor, k: int) -> Tensor:
    """The loop of an image-to-image pipeline, with a network that knows no more than its input."""
    flow = name_of(scheduler).startswith("FlowMatch")

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        if flow:
            sigma_t = float(t) / 1000
            alpha = 1 - sigma_t
        elif name_of(scheduler) == "IPNDMScheduler":
            alpha, sigma_t = math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)
        else:
            times = Timesteps(scheduler.alphas_cumprod.double().tolist())
            sigma = float(times.sigmas(torch.as_tensor(t).double().reshape(1)))
            alpha = (1 + sigma**2) ** -0.5
            sigma_t = alpha * sigma
        eps = -sigma_t / alpha * TARGET.score(x_t / alpha, torch.tensor(sigma_t / alpha).double())
        denoised = (x_t - sigma_t * eps) / alpha
        if name_of(scheduler) == "IPNDMScheduler":
            return alpha * eps - sigma_t * denoised
        return eps - denoised if flow else eps

    timesteps = scheduler.timesteps[k * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(k * scheduler.order)
    if name_of(scheduler) == "PNDMScheduler":
        distinct = scheduler.timesteps.unique().flip(0)[k:]
        timesteps = torch.cat([distinct[:2], distinct[1:]])
    for t in timesteps:
        scaled = x if not hasattr(scheduler, "scale_model_input") else None
        scaled = scheduler.scale_model_input(x, t) if scaled is None else scaled
        x = scheduler.step(network(scaled, t), t, x, return_dict=False)[0].double()
    return x


def name_of(scheduler: object) -> str:
    return type(scheduler).__name__


LEADING = {"timestep_spacing": "leading"}
BY_HAND: list[tuple[str, dict, int]] = [
    ("EulerDiscreteScheduler", LEADING, 3),
    ("HeunDiscreteScheduler", LEADING, 3),
    ("DDIMScheduler", {**LEADING, "clip_sample": False}, 3),
    ("DPMSolverMultistepScheduler", LEADING, 3),
    ("DPMSolverMultistepScheduler", {**LEADING, "solver_order": 3}, 3),
    ("DPMSolverSinglestepScheduler", {}, 2),
    ("DPMSolverSinglestepScheduler", {"solver_order": 3}, 3),
    ("DEISMultistepScheduler", {**LEADING, "solver_order": 3}, 3),
    ("UniPCMultistepScheduler", {**LEADING, "solver_order": 3}, 3),
    ("KDPM2DiscreteScheduler", {**LEADING, "steps_offset": 1}, 3),
    ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}, 3),
    ("IPNDMScheduler", {}, 3),
    ("CogVideoXDDIMScheduler", LEADING, 3),
    ("FlowMatchEulerDiscreteScheduler", {}, 3),
    ("FlowMatchHeunDiscreteScheduler", {}, 3),
]


@pytest.mark.parametrize(("name", "options", "k"), BY_HAND)
def test_a_run_from_the_middle_is_that_of_the_scheduler_by_hand(
    name: str, options: dict, k: int
) -> None:
    x = torch.randn(4, 2, dtype=torch.float64)
    driven = drive(TARGET.score, prepared(name, options), start=k, x=x)
    expected = by_hand(prepared(name, options), x, k)
    assert (driven - expected).abs().max() < 1e-4 * expected.abs().max()


def test_levels_of_a_used_scheduler_are_those_of_its_run() -> None:
    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"):
        fresh, used = prepared(name, {}, 20), begun(prepared(name, {}, 20), 12)
        by_hand(used, torch.ones(1, 2, dtype=torch.float64), 12)
        assert from_scheduler(used) == from_scheduler(fresh)[12:]
        assert len(from_scheduler(used)) == 9
        with pytest.raises(PgmdiffError, match="set_timesteps was just called"):
            drive(TARGET.score, used, x=torch.ones(1, 2))
        again = drive(TARGET.score, used, steps=20, start=12, x=torch.ones(1, 2))
        torch.testing.assert_close(
            again, drive(TARGET.score, fresh, start=12, x=torch.ones(1, 2)), rtol=0, atol=0
        )


def test_pndms_step_k_begins_where_the_documentation_says() -> None:
    for skips in (False, True):
        scheduler = prepared("PNDMScheduler", {"skip_prk_steps": skips}, 9)
        for k in (1, 4):
            levels: list[float] = []
            x = torch.ones(1, 2, dtype=torch.float64)

            def keep(step: dict, to: list[float] = levels) -> None:
                to.append(step["sigma"])

            drive(TARGET.score, scheduler, start=k, x=x, callback=keep)
            kept = float(scheduler.alphas_cumprod[scheduler._timesteps[-1 - k]])
            assert levels[0] == pytest.approx(((1 - kept) / kept) ** 0.5)


@pytest.mark.parametrize(
    ("name", "options", "ends"),
    [
        ("EulerDiscreteScheduler", {}, True),
        ("FlowMatchEulerDiscreteScheduler", {}, True),
        ("DDPMScheduler", {}, True),
        ("DDIMScheduler", {"set_alpha_to_one": True}, True),
        ("DDIMScheduler", {"set_alpha_to_one": False}, False),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}, False),
    ],
)
def test_the_result_is_looked_at(name: str, options: dict, ends: bool) -> None:
    seen: list[Tensor] = []

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        return TARGET.score(x, sigma)

    score.finish = seen.append
    out = drive(score, prepared(name, options), shape=(2, 2), generator=0)
    assert [torch.equal(each, out) for each in seen] == [True] * ends
    with pytest.raises(ScoreError, match="the state is not finite after timestep"):
        drive(lambda x, sigma: x * math.nan, prepared(name, options), shape=(2, 2))


def test_starts_that_are_not_among_the_steps_are_named() -> None:
    for name, last in (("DDIMScheduler", 8), ("HeunDiscreteScheduler", 8), ("PNDMScheduler", 8)):
        for start in (-1, 9, 1.5):
            with pytest.raises(PgmdiffError, match=f"start= from 0 to {last}, the steps of this"):
                drive(TARGET.score, prepared(name, {}), start=start, x=torch.ones(1, 2))


def test_composition_comes_before_the_scheduler() -> None:
    """A multistep scheduler takes one step per step for a joint of many regions, as for one."""
    q = Gaussian(torch.zeros(4).double(), 0.5 * torch.eye(4).double() + 0.5)
    calls = []

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma[0]))
        return q.marginal(torch.arange(x.shape[1])).score(x, sigma)

    scheduler = schedulers.DPMSolverMultistepScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(8)
    sigmas = from_scheduler(scheduler)
    scores = {f"f{i}": counted for i in range(3)}
    scores |= {f"x{i}": lambda x, sigma: -x / (1 + sigma.reshape(-1) ** 2) for i in (1, 2)}
    joint = compose(chain(4), scores)
    x = sigmas[0] * torch.randn(3, 4, dtype=torch.float64)
    driven = drive(joint, scheduler, x=x / math.sqrt(1 + sigmas[0] ** 2))
    assert calls == pytest.approx(sigmas[:-1], rel=1e-6)
    torch.testing.assert_close(
        driven, sample(joint, sigmas, x=x, solver=DPMSolver2M()), rtol=0, atol=1e-6
    )


def test_a_panorama_is_sampled_by_a_scheduler_as_by_our_loop() -> None:
    scheduler = schedulers.DDIMScheduler(prediction_type="v_prediction")
    score = from_diffusers(small_unet(), scheduler)
    ring = tiles((1, 16, 32), (1, 16, 16), (0, 0, 8), periodic=(False, False, True))
    joint = compose(ring, score, max_batch=4)
    scheduler.set_timesteps(4)
    sigmas = from_scheduler(scheduler)
    x = sigmas[0] * torch.randn(1, 1, 16, 32)
    driven = drive(joint, scheduler, x=x / math.sqrt(1 + sigmas[0] ** 2))
    ours = sample(joint, sigmas, x=x, solver=Euler())
    assert (driven - ours).abs().max() < 1e-4 * ours.abs().max()


def test_noise_of_driven_joints_does_not_depend_on_the_batch() -> None:
    for name in ("DDPMScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler"):
        scheduler = getattr(schedulers, name)()

        def draw(n: int, generator: object, scheduler: object = scheduler) -> Tensor:
            return drive(TARGET.score, scheduler, steps=5, shape=(n, 2), generator=generator)

        before = torch.get_rng_state()
        keys, whole = split_seed(7, 4), draw(4, 7)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(whole, torch.cat([draw(1, keys[:1]), draw(3, keys[1:])]))
        assert not torch.equal(whole, draw(4, 8))


def test_the_start_is_that_of_our_loop() -> None:
    scheduler = schedulers.EulerDiscreteScheduler()
    scheduler.set_timesteps(6)
    ours = sample(
        TARGET.score, from_scheduler(scheduler), shape=(3, 2), solver=Euler(), generator=5
    )
    torch.testing.assert_close(
        drive(TARGET.score, scheduler, shape=(3, 2), generator=5), ours, rtol=0, atol=1e-4
    )


def test_the_scheduler_is_left_alone_and_does_not_clip() -> None:
    scheduler = schedulers.DDPMScheduler(clip_sample=True)  # the default
    config, timesteps = dict(scheduler.config), scheduler.timesteps.clone()
    far = from_denoiser(lambda x, sigma: 0 * x + 5.0)
    out = drive(far, scheduler, steps=10, shape=(2, 3), generator=0)
    torch.testing.assert_close(out, torch.full((2, 3), 5.0))
    assert dict(scheduler.config) == config
    assert torch.equal(scheduler.timesteps, timesteps)
    with pytest.raises(PgmdiffError, match="set_timesteps was just called"):
        drive(far, scheduler, shape=(2, 3))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FlowMatchEulerDiscreteScheduler", {}),
        (
            "DDIMScheduler",
            {
                "rescale_betas_zero_snr": True,
                "timestep_spacing": "trailing",
                "prediction_type": "v_prediction",
            },
        ),
    ],
)
def test_starts_of_pure_noise_are_asked_at_a_large_sigma(name: str, options: dict) -> None:
    levels = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        levels.append(float(sigma[0]))
        return TARGET.score(x, sigma)

    scheduler = getattr(schedulers, name)(**options)
    x = drive(watched, scheduler, steps=40, shape=(4000, 2), generator=0, dtype=torch.float64)
    assert levels[0] == SIGMA_LIMIT
    assert all(a > b for a, b in pairwise(levels))
    assert (x.mean(dim=0) - TARGET.mean).abs().max() < 0.02 + 4 / len(x) ** 0.5


def test_what_cannot_be_driven_is_named() -> None:
    score, shape = TARGET.score, {"shape": (1, 2)}
    for call, error, message in [
        (
            lambda: drive(score, schedulers.UnCLIPScheduler(), steps=4, **shape),
            ScoreError,
            "steps by",
        ),
        (
            lambda: drive(score, schedulers.DDIMInverseScheduler(), steps=4, **shape),
            ScoreError,
            "adds noise",
        ),
        (
            lambda: drive(score, schedulers.CMStochasticIterativeScheduler(), steps=4, **shape),
            ScoreError,
            "got None",
        ),
        (lambda: drive(score, schedulers.DDPMScheduler(), steps=4), ShapeError, "x= or shape="),
        (
            lambda: drive(score, schedulers.DDPMScheduler(), steps=4, dtype=torch.half, **shape),
            PgmdiffError,
            "float32 or float64",
        ),
    ]:
        with pytest.raises(error, match=message):
            call()
