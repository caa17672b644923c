"""The memory of a joint under diffusers' schedulers: that under our solvers, step by step."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch

from pgmdiff import compose
from pgmdiff.graphs import chain
from pgmdiff.integrations.diffusers import drive
from pgmdiff.samplers import DPMSolver2M, Euler, Heun, Noise, Solver, from_scheduler, sample
from tests.integrations.with_diffusers import MARKS, schedulers
from tests.samplers.cases import Slow, elementwise, slow

pytestmark = MARKS
START = Noise.of(1, 4)(0, torch.zeros(4, 3, dtype=torch.float64))
AWAY = torch.full((4,), 0.3, dtype=torch.float64)


KARRAS = {"use_karras_sigmas": True}


@pytest.mark.parametrize(
    ("name", "options", "solver"),
    [
        ("EulerDiscreteScheduler", {}, Euler()),
        ("HeunDiscreteScheduler", {}, Heun()),
        ("DDIMScheduler", {"prediction_type": "v_prediction"}, Euler()),
        ("DPMSolverMultistepScheduler", KARRAS, DPMSolver2M()),
    ],
)
def test_a_driven_joint_has_the_memory_of_our_solver(
    name: str, options: dict, solver: Solver
) -> None:
    scheduler = getattr(schedulers, name)(**options)
    scheduler.set_timesteps(12)
    sigmas = from_scheduler(scheduler)
    x, alpha = sigmas[0] * START, (1 + sigmas[0] ** 2) ** -0.5
    latents = x * alpha if float(scheduler.init_noise_sigma) == 1 else x
    given = partial(slow(), away=AWAY)
    expected = sample(given, sigmas, x=x, solver=solver)
    pure = sample(lambda x, sigma: given(x, sigma), sigmas, x=x, solver=solver)
    assert not torch.allclose(expected, pure)
    for _ in range(2):
        torch.testing.assert_close(drive(given, scheduler, x=latents), expected, rtol=0, atol=1e-6)
    parts = [
        drive(partial(slow(2), away=AWAY[:2]), scheduler, x=latents[k : k + 2]) for k in (0, 2)
    ]
    torch.testing.assert_close(torch.cat(parts), drive(given, scheduler, x=latents))


@pytest.mark.parametrize(
    ("name", "options", "calls"),
    [
        ("UniPCMultistepScheduler", KARRAS, [1] * 6),
        ("HeunDiscreteScheduler", {}, [2] * 5 + [1]),
        ("KDPM2DiscreteScheduler", {}, [2] * 5 + [1]),
        ("KDPM2AncestralDiscreteScheduler", {}, [2] * 5 + [1]),
        ("FlowMatchHeunDiscreteScheduler", {}, [2] * 5 + [1]),
        ("DPMSolverSinglestepScheduler", {"solver_order": 2}, [2, 2, 1, 1]),
        ("DPMSolverSinglestepScheduler", {"solver_order": 3}, [3, 2, 1]),
        ("PNDMScheduler", {}, [4, 4, 4, 1, 1, 1]),
        ("PNDMScheduler", {"skip_prk_steps": True}, [2, 1, 1, 1, 1, 1]),
    ],
)
def test_the_timesteps_of_one_step_read_one_memory(
    name: str, options: dict, calls: list[int]
) -> None:
    read: list[int] = []

    @dataclass(frozen=True)
    class Watched(Slow):
        def score(self, evaluate, u, sigma, memory=None):
            read.append(int(memory.get("steps", torch.zeros(1))[0]))
            return super().score(evaluate, u, sigma, memory)

    joint = compose(chain(3), elementwise, rule=Watched())
    drive(joint, getattr(schedulers, name)(**options), steps=6, shape=(2, 3), generator=0)
    assert [read.count(step) for step in range(read[-1] + 1)] == calls
