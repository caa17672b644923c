"""The memory of a joint in the samplers of other libraries: the same as in ours, run by run."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from pgmdiff import Consistent, ScoreError
from pgmdiff.gaussian import Gaussian
from pgmdiff.integrations.azula import to_azula
from pgmdiff.integrations.k_diffusion import to_k_diffusion
from pgmdiff.integrations.sbi import tall_data
from pgmdiff.samplers import (
    EDM,
    Euler,
    Heun,
    Noise,
    UniPC,
    karras,
    sample,
)
from pgmdiff.scores import guided
from tests.samplers.cases import slow

SIGMAS = karras(8, 0.05, 10.0)
START = 10.0 * Noise.of(1, 4)(0, torch.zeros(4, 3, dtype=torch.float64))
AWAY = torch.full((4,), 0.3, dtype=torch.float64)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------- loops of k-diffusion's form


def euler(model: Callable, x: Tensor, sigmas: list[float], **condition: Tensor) -> Tensor:
    for sigma, after in pairwise(sigmas):
        x = x + (x - model(x, x.new_full((len(x),), sigma), **condition)) / sigma * (after - sigma)
    return x


def heun(model: Callable, x: Tensor, sigmas: list[float], churn: float = 0.0) -> Tensor:
    """With k-diffusion's last step, which makes one evaluation, and its churn, without noise."""
    for sigma, after in pairwise(sigmas):
        high = (1 + churn) * sigma if after else sigma
        slope = (x - model(x, x.new_full((len(x),), high))) / high
        there = x + (after - high) * slope
        if after:
            slope = (slope + (there - model(there, x.new_full((len(x),), after))) / after) / 2
        x = x + (after - high) * slope
    return x


def test_every_run_of_a_loop_has_a_memory_of_its_own() -> None:
    """Whole runs, one from the middle after a whole one, and other batches, in any order."""
    model, joint = to_k_diffusion(slow()), slow()
    assert not torch.allclose(euler(joint.denoise, START, SIGMAS), euler(model, START, SIGMAS))
    for k, n in ((0, 4), (0, 4), (3, 4), (1, 4), (0, 3), (3, 2), (3, 2)):
        x, sigmas = START[:n] / 2**k, SIGMAS[k:]
        close(euler(model, x, sigmas), sample(joint, sigmas, x=x, solver=Euler()))
    for n, level in ((4, 5.0), (2, 4.0)):  # the loop before was interrupted
        first = joint.denoise(START[:n], torch.full((n,), level).double())
        close(model(START[:n], level), first)


def test_evaluations_of_one_step_read_one_memory() -> None:
    model, once = to_k_diffusion(slow(), evaluations=2), to_k_diffusion(slow())
    expected = sample(slow(), SIGMAS, x=START, solver=Heun())
    for _ in range(2):
        close(heun(model, START, SIGMAS), expected)
    assert not torch.allclose(heun(once, START, SIGMAS), expected, rtol=1e-4)
    still = EDM(7, s_churn=2.0, s_tmax=100.0, s_noise=0.0)
    expected = sample(slow(), SIGMAS, x=START, solver=still, generator=0)
    close(heun(model, START, SIGMAS, churn=2 / 7), expected)


def test_calls_with_other_conditions_have_a_memory_of_their_own() -> None:
    """Guidance outside the joint, two calls at each level, is `guided` around it."""
    model = to_k_diffusion(slow())

    def both(x: Tensor, sigma: Tensor) -> Tensor:
        without = model(x, sigma, away=torch.zeros(4).double())
        return without + 2.0 * (model(x, sigma, away=AWAY.clone()) - without)

    score = guided(slow(), {"away": torch.zeros(()).double()}, guidance=2.0)
    expected = sample(partial(score, away=AWAY), SIGMAS, x=START, solver=Euler())
    for _ in range(2):
        close(euler(both, START, SIGMAS), expected)
    pure = sample(lambda x, sigma: score(x, sigma, away=AWAY), SIGMAS, x=START, solver=Euler())
    assert not torch.allclose(expected, pure)


def test_a_number_of_evaluations_that_is_none_is_named() -> None:
    for wrong in (0, 1.5):
        with pytest.raises(ScoreError, match="calls per step, as an integer of at least 1"):
            to_k_diffusion(slow(), evaluations=wrong)
    assert repr(to_k_diffusion(slow(), evaluations=2)).endswith("evaluations=2)")


# ---------------------------------------------------------------- azula


def test_azulas_samplers_carry_the_memory() -> None:
    library = pytest.importorskip("azula.sample", reason="azula is not installed")
    schedule = pytest.importorskip("azula.noise").VESchedule(0.05, 10.0)
    cfg = pytest.importorskip("azula.guidance.cfg")
    sigmas = schedule(torch.linspace(1, 0, 13, dtype=torch.float64))[1].tolist()
    options = {"steps": 12, "dtype": torch.float64, "silent": True}
    ddim = library.DDIMSampler(to_azula(slow(), schedule), eta=0.0, **options)
    second = library.HeunSampler(to_azula(slow(), schedule, evaluations=2), **options)
    for _ in range(2):
        close(ddim(START), sample(slow(), sigmas, x=START, solver=Euler()), 1e-6)
        close(second(START), sample(slow(), sigmas, x=START, solver=Heun()), 1e-6)
    given = {"positive": {"away": AWAY}, "negative": {"away": 0 * AWAY}, "guidance": 1.0}
    both = library.DDIMSampler(cfg.CFGDenoiser(to_azula(slow(), schedule)), eta=0.0, **options)
    score = guided(slow(), {"away": torch.zeros(()).double()}, guidance=2.0)
    expected = sample(partial(score, away=AWAY), sigmas, x=START, solver=Euler())
    close(both(START, **given), expected, 1e-6)


# ---------------------------------------------------------------- sbi


def test_tall_data_remembers_the_messages_of_its_rule() -> None:
    """Posteriors of two modes, composed over three observations."""

    def posterior(theta: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        variance = 0.2 + sigma[:, None] ** 2
        return (condition * (condition * theta / variance).tanh() - theta) / variance

    prior = Gaussian(torch.zeros(1).double(), 2 * torch.eye(1).double())
    observations = torch.tensor([[1.0], [1.1], [0.9]], dtype=torch.float64)
    named = {f"y{i}": 1.2 * torch.eye(1).double() for i in range(3)}
    rule = Consistent({**named, "theta": prior.covariance})
    joint = tall_data(posterior, prior.score, observations, shape=(1,), rule=rule)
    states: list = []
    options = {"generator": 0, "solver": UniPC()}
    start = 10 * Noise.of(0, 5)(0, torch.zeros(5, 1).double())
    whole = sample(joint, SIGMAS, x=start, callback=lambda s: states.append(s["state"]), **options)
    assert "messages" in states[3].memory
    assert torch.equal(sample(joint, SIGMAS, state=states[3], **options), whole)
