from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError, ShapeError, compose
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import chain
from pgmdiff.noise import RISE
from pgmdiff.samplers import (
    DEIS,
    SDE,
    DPMSolver2M,
    Euler,
    Heun,
    Noise,
    Solver,
    cosine,
    from_scheduler,
    karras,
    log_linear,
    log_snr,
    sample,
    split_seed,
    time_travel,
    variance_preserving,
)
from tests.helpers import ar1

TARGET = Gaussian(
    torch.tensor([1.0, -0.5], dtype=torch.float64),
    torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64),
)


@pytest.mark.parametrize("schedule", [karras, log_linear, cosine, variance_preserving])
def test_schedules_descend_to_zero(schedule: Callable[..., list[float]]) -> None:
    for sigma_min in (0.002, 1e-9):
        sigmas = schedule(18, sigma_min, 80.0)
        assert len(sigmas) == 19
        assert sigmas[0] == 80.0
        assert sigmas[-2:] == [sigma_min, 0.0]
        assert all(type(s) is float for s in sigmas)
        assert all(a > b for a, b in pairwise(sigmas))
    assert schedule(1, 0.1, 2.0) == [2.0, 0.0]
    with pytest.raises(PgmdiffError, match="0 < sigma_min < sigma_max"):
        schedule(10, 1.0, 0.5)
    with pytest.raises(PgmdiffError, match="steps=0"):
        schedule(0, 0.1, 0.5)


def test_schedules_take_equal_steps_of_their_time() -> None:
    ratios = np.divide(log_linear(5, 0.1, 10.0)[1:-1], log_linear(5, 0.1, 10.0)[:-2])
    assert np.allclose(ratios, ratios[0])
    snr = -2 * np.log(log_snr(6, -5.0, 9.0)[:-1])
    assert np.allclose(snr, np.linspace(-5.0, 9.0, 6))
    # ᾱ_t as published, from t = 0.95 to 0.01
    t = np.linspace(0.95, 0.01, 7)
    angle, first = (np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2 for u in (t, 0.0))
    published = np.sqrt((1 - angle / first) / (angle / first))
    assert np.allclose(cosine(7, published[-1], published[0])[:-1], published)
    alpha = np.exp(-(0.1 * t + 0.5 * 19.9 * t**2))
    published = np.sqrt((1 - alpha) / alpha)
    assert np.allclose(variance_preserving(7, published[-1], published[0])[:-1], published)


class Scheduler(SimpleNamespace):
    """What diffusers' schedulers have."""


def test_levels_of_a_diffusers_scheduler() -> None:
    alphas = torch.linspace(0.9999, 0.01, 1000)
    noised = Scheduler(alphas_cumprod=alphas, timesteps=torch.tensor([900, 500, 500, 0]))
    expected = [((1 - a) / a) ** 0.5 for a in alphas[[900, 500, 0]].tolist()]
    assert from_scheduler(noised) == pytest.approx([*expected, 0.0])
    own = Scheduler(
        alphas_cumprod=alphas, sigmas=torch.tensor([14.0, 3, 3, 0.5, 0]), num_inference_steps=3
    )
    assert from_scheduler(own) == [14.0, 3.0, 0.5, 0.0]
    assert from_scheduler(own, sigma_max=5.0)[0] == 5.0
    ends_above = Scheduler(sigmas=np.array([2.0, 0.5, 0.5]), config={"sigma_data": 0.5})
    assert from_scheduler(ends_above) == [2.0, 0.5, 0.0]
    narrow = Scheduler(sigmas=[0.8, 0.5, 0.0], config={"sigma_data": 0.5})
    assert from_scheduler(narrow) == [0.8, 0.5, 0.0]


def test_levels_of_a_flow_scheduler() -> None:
    flow = Scheduler(sigmas=torch.tensor([1.0, 0.75, 0.5, 0.2, 0.0]))
    with pytest.raises(PgmdiffError, match="Pass sigma_max="):
        from_scheduler(flow)
    assert from_scheduler(flow, sigma_max=80.0) == pytest.approx([80.0, 3.0, 1.0, 0.25, 0.0])
    assert from_scheduler(flow, flow=False) == pytest.approx([1.0, 0.75, 0.5, 0.2, 0.0])
    both = Scheduler(
        sigmas=[0.75, 0.5, 0.0], alphas_cumprod=[0.9, 0.1], config={"use_flow_sigmas": True}
    )
    assert from_scheduler(both) == pytest.approx([3.0, 1.0, 0.0])


def test_schedulers_without_levels_are_named() -> None:
    with pytest.raises(PgmdiffError, match=r"Call its set_timesteps\(n\) first"):
        from_scheduler(Scheduler(sigmas=[1.0, 0.0], num_inference_steps=None))
    with pytest.raises(PgmdiffError, match="Scheduler has neither"):
        from_scheduler(Scheduler(alphas_cumprod=[0.5]))


# ---------------------------------------------------------------- rises and truncated starts


def test_time_travel() -> None:
    sigmas = karras(7, 0.1, 5.0)
    assert time_travel(sigmas, 3, 0) == sigmas
    travelled = time_travel(sigmas, 3, 2)
    assert len(travelled) - 1 == 3 * 7 + 3 * 2  # all steps three times, and two rises a stretch
    assert sum(b > a for a, b in pairwise(travelled)) == 6
    assert travelled[:5] == [*sigmas[:4], sigmas[0]]
    with pytest.raises(PgmdiffError, match="length >= 1"):
        time_travel(sigmas, 0)


@pytest.mark.parametrize("solver", [Euler(), DEIS(3), DPMSolver2M(1.0)], ids=str)
def test_a_rise_adds_noise_and_drops_the_history(solver: Solver) -> None:
    sigmas, steps = [5.0, 2.0, 1.0, 3.0, 1.0, 0.5, 2.0, 0.0], []
    run = {"solver": solver, "generator": 5}
    out = sample(TARGET.score, sigmas, shape=(4, 2), callback=steps.append, **run)
    assert [s["i"] for s in steps] == [0, 1, 3, 4, 6]
    fallen = sample(TARGET.score, sigmas[:3], shape=(4, 2), **run)
    added = 8**0.5 * Noise.of(5, 4)(RISE + 2, fallen)
    torch.testing.assert_close(steps[2]["x"], fallen + added)
    assert steps[2]["state"].history == ()
    for step in steps:
        assert torch.equal(sample(TARGET.score, sigmas, state=step["state"], **run), out)


def test_rises_keep_the_law() -> None:
    """Down, up and down again: still the target, to sampling error."""
    n, sigmas = 4000, time_travel(karras(30, 0.01, 40.0), 10)
    x = TARGET.noised(40.0).sample(n, torch.Generator().manual_seed(0))
    out = sample(TARGET.score, sigmas, x=x, solver=DEIS(3), generator=1)
    assert ((out.mean(dim=0) - TARGET.mean).abs() < 4 / n**0.5).all()
    assert ((out.T.cov() - TARGET.covariance).abs() < 4 * (2 / n) ** 0.5 + 0.01).all()


def test_truncated_starts() -> None:
    """SDEdit: noised data, down the rest of the schedule; or let the loop add the noise."""
    sigmas = karras(12, 0.01, 10.0)
    data, noise = TARGET.sample(3, torch.Generator().manual_seed(0)), Noise.of(7, 3)
    noised = data + sigmas[5] * noise(RISE, data)
    out = sample(TARGET.score, sigmas[5:], x=noised, solver=DEIS(2))
    assert torch.equal(out, sample(TARGET.score, sigmas, x=noised, start=5, solver=DEIS(2)))
    rising = sample(TARGET.score, [0, *sigmas[5:]], x=data, solver=DEIS(2), generator=7)
    torch.testing.assert_close(rising, out)
    with pytest.raises(ShapeError, match="begins at data"):
        sample(TARGET.score, [0, *sigmas[5:]], shape=(3, 2))


def test_sde_without_noise_is_euler() -> None:
    x = 10.0 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigmas = karras(12, 0.01, 10.0)
    torch.testing.assert_close(
        sample(TARGET.score, sigmas, x=x, solver=SDE(0.0)),
        sample(TARGET.score, sigmas, x=x, solver=Euler()),
    )
    with pytest.raises(PgmdiffError, match="eta >= 0"):
        SDE(-1.0)


# ---------------------------------------------------------------- noise


def test_noise_does_not_depend_on_the_batch() -> None:
    sigmas = karras(8, 0.05, 10.0)
    joint = compose(chain(2), lambda x, sigma: -x / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1))))
    keys = split_seed(7, 6)

    def draw(n: int, generator: object) -> Tensor:
        return sample(joint, sigmas, shape=(n, 2), solver=SDE(1.0), generator=generator)

    whole = draw(6, 7)
    assert torch.equal(whole, torch.cat([draw(2, keys[:2]), draw(4, keys[2:])]))
    assert torch.equal(whole[:3], draw(3, 7))
    assert torch.equal(whole, draw(6, keys))
    assert not torch.equal(whole, draw(6, 8))


def test_noise_does_not_depend_on_where_a_run_was_resumed() -> None:
    sigmas, steps = karras(10, 0.05, 10.0), []
    run = {"solver": SDE(1.0), "generator": 3}
    whole = sample(TARGET.score, sigmas, shape=(5, 2), callback=steps.append, **run)
    for step in (steps[0], steps[4], steps[9]):
        resumed = sample(TARGET.score, sigmas, x=step["x"], start=step["i"], **run)
        assert torch.equal(resumed, whole)


def test_noise_does_not_depend_on_the_dtype() -> None:
    noise = Noise.of(5, 3)
    single = noise(2, torch.empty(3, 4, 2))
    double = noise(2, torch.empty(3, 4, 2, dtype=torch.float64))
    assert torch.equal(double.float(), single)


def test_noise_is_standard_normal_and_independent() -> None:
    n = 400
    noise = torch.stack([Noise.of(11, n)(k, torch.empty(n, 50)) for k in range(5)])
    total = noise.numel()
    assert abs(noise.mean().item()) < 4 / total**0.5
    assert abs(noise.var().item() - 1) < 4 * (2 / total) ** 0.5
    for a, b in ((noise[0], noise[1]), (noise[:, :-1], noise[:, 1:])):
        assert abs((a * b).mean().item()) < 4 / a.numel() ** 0.5


def test_torch_generators_are_seeds() -> None:
    def make(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    like = torch.empty(2, 3)
    assert torch.equal(Noise.of(make(1), 2)(0, like), Noise.of(make(1), 2)(0, like))
    each = Noise.of([make(1), make(2)], 2)(0, like)
    assert torch.equal(each[1:], Noise.of([make(2)], 1)(0, like[:1]))
    assert not torch.equal(Noise.of(None, 2)(0, like), Noise.of(None, 2)(0, like))


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    np_before = np.random.get_state()[1].copy()  # noqa: NPY002
    sample(TARGET.score, karras(4, 0.1, 5.0), shape=(2, 2), solver=SDE(1.0))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == np_before).all()  # noqa: NPY002


def test_bad_generators_are_named() -> None:
    with pytest.raises(ShapeError, match="one generator or 3"):
        Noise.of([1, 2], 3)
    with pytest.raises(PgmdiffError, match="got float"):
        Noise.of(0.5, 3)  # type: ignore[arg-type]
    with pytest.raises(PgmdiffError, match="seed of 0 to"):
        Noise.of(-1, 3)


# ---------------------------------------------------------------- the loop


def test_callback_payload() -> None:
    steps = []
    sigmas = karras(6, 0.1, 5.0)
    out = sample(TARGET.score, sigmas, shape=(2, 2), generator=0, callback=steps.append)
    assert [s["i"] for s in steps] == list(range(6))
    assert [s["sigma"] for s in steps] == sigmas[:-1]
    assert set(steps[0]) == {"x", "i", "sigma", "denoised", "state"}
    assert torch.equal(steps[-1]["denoised"], out)
    start = 5.0 * Noise.of(0, 2)(2**63, torch.empty(2, 2))
    assert torch.equal(steps[0]["x"], start)


def test_start_is_used_as_it_is_and_not_changed() -> None:
    x = torch.ones(3, 2)
    kept = x.clone()
    out = sample(TARGET.marginal(torch.arange(2)).score, [1e-6, 0.0], x=x.double())
    assert torch.equal(x, kept)
    torch.testing.assert_close(out, x.double(), atol=1e-5, rtol=0)


def test_dtype_and_gradients() -> None:
    q = ar1(2, 0.5, torch.float32)
    x = torch.ones(1, 2, requires_grad=True)
    assert sample(q.score, [1.0, 0.0], shape=(1, 2)).dtype == torch.float32
    double = sample(ar1(2, 0.5).score, [1.0, 0.0], shape=(1, 2), dtype=torch.float64)
    assert double.dtype == torch.float64
    assert not sample(q.score, [1.0, 0.0], x=x).requires_grad
    state = Euler().step(q.score, Euler().init(x, 1.0), 0.5, Noise.of(0, 1))
    assert state.x.requires_grad, "a solver's step is differentiable"


def test_progress_bar_is_off_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    sample(TARGET.score, [1.0, 0.0], shape=(1, 2))
    assert capsys.readouterr() == ("", "")
    sample(TARGET.score, [1.0, 0.0], shape=(1, 2), progress=True)
    assert "sampling" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigmas": [1.0, 0.5, 0.5, 0.0], "shape": (1, 2)}, "differ from one to the next"),
        ({"sigmas": [1.0, 0.0, 0.5], "shape": (1, 2)}, "fall at the end"),
        ({"sigmas": [1.0], "shape": (1, 2)}, "finite sigmas of at least 0"),
        ({"sigmas": [1.0, -1.0], "shape": (1, 2)}, "finite sigmas of at least 0"),
        ({"sigmas": [float("nan"), 0.0], "shape": (1, 2)}, "finite sigmas of at least 0"),
        ({"sigmas": [float("inf"), 0.0], "shape": (1, 2)}, "finite sigmas of at least 0"),
        ({"sigmas": [1.0, 0.0]}, "expected one of x="),
        (
            {"sigmas": [1.0, 0.0], "x": torch.zeros(1, 2), "shape": (1, 2)},
            "expected one of x=",
        ),
        ({"sigmas": [1.0, 0.5, 0.0], "shape": (1, 2), "start": 1}, "needs its state as x="),
        ({"sigmas": [1.0, 0.0], "x": torch.zeros(1, 2), "start": 1}, "start from 0 to 0"),
        ({"sigmas": [1.0, 0.0], "shape": (1, 2), "dtype": torch.bfloat16}, "got torch.bfloat16"),
        ({"sigmas": [1.0, 0.0], "x": torch.zeros(1, 2, dtype=torch.int64)}, "got torch.int64"),
        ({"sigmas": [1.0, 0.0], "shape": (1, 2), "solver": Heun}, "Make an instance of it"),
        ({"sigmas": [1.0, 0.0], "shape": (2, 2), "generator": [1]}, "one generator or 2"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(PgmdiffError) as error:
        sample(TARGET.score, **arguments)
    assert message in str(error.value)
