"""Schedules: their ends, their time variables, and those read from schedulers."""

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pgmdiff import PgmdiffError
from pgmdiff.samplers import (
    cosine,
    from_scheduler,
    karras,
    log_linear,
    log_snr,
    time_travel,
    variance_preserving,
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
    both = Scheduler(
        sigmas=[0.75, 0.5, 0.0], alphas_cumprod=[0.9, 0.1], config={"use_flow_sigmas": True}
    )
    assert from_scheduler(both) == pytest.approx([3.0, 1.0, 0.0])


def test_schedulers_without_levels_are_named() -> None:
    with pytest.raises(PgmdiffError, match=r"Call its set_timesteps\(n\) first"):
        from_scheduler(Scheduler(sigmas=[1.0, 0.0], num_inference_steps=None))
    with pytest.raises(PgmdiffError, match="Scheduler has neither"):
        from_scheduler(Scheduler(alphas_cumprod=[0.5]))


def test_time_travel() -> None:
    sigmas = karras(7, 0.1, 5.0)
    assert time_travel(sigmas, 3, 0) == sigmas
    travelled = time_travel(sigmas, 3, 2)
    assert len(travelled) - 1 == 3 * 7 + 3 * 2  # all steps three times, and two rises a stretch
    assert sum(b > a for a, b in pairwise(travelled)) == 6
    assert travelled[:5] == [*sigmas[:4], sigmas[0]]
    with pytest.raises(PgmdiffError, match="length >= 1"):
        time_travel(sigmas, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((18.5, 0.1, 1.0), "integer steps >= 1"),
        ((0.03, 20.0, 10), r"steps >= 1 as the first argument, got steps=0\.03, .*\)\.$"),
        (("a", 0.1, 1.0), "steps='a'"),
        ((18, 80.0, 0.002), "sigma_min < sigma_max.*Did you swap sigma_min and sigma_max"),
    ],
)
def test_bad_schedules_are_explained(arguments: tuple, message: str) -> None:
    with pytest.raises(PgmdiffError, match=message):
        karras(*arguments)
