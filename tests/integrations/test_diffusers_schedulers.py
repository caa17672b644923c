"""Joints sampled by every suitable scheduler of the real diffusers."""

import math
import warnings
from itertools import pairwise

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


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_joint_driven_by_flow_matching_is_sampled_by_euler(shift: float) -> None:
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(0.99, 0.01, 12).tolist())
    x, latents, sigmas = start(scheduler)
    driven = drive(TARGET.score, scheduler, x=latents)
    assert (driven - sample(TARGET.score, sigmas, x=x, solver=Euler())).abs().max() < 1e-6


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
