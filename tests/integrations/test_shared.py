"""Dtypes, devices and times, which the adapters share."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pgmdiff import ScoreError
from pgmdiff.integrations.shared import as_seen, check_device, network_dtype, time_at
from tests.helpers import meta_without_float64


def test_times_are_found_to_rounding() -> None:
    def ratio(t: torch.Tensor) -> torch.Tensor:
        return (9 * t**2).exp() - 1 + 1e-3

    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    found = time_at(ratio, ratio(t))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, t, rtol=1e-12, atol=0)
    single = time_at(ratio, ratio(t).float())
    torch.testing.assert_close(ratio(single).float(), ratio(t).float(), rtol=1e-6, atol=0)
    ends = time_at(ratio, torch.tensor([1e-9, 1e9]), 0.2, 0.8)
    torch.testing.assert_close(ends, torch.tensor([0.2, 0.8], dtype=torch.float64))


def test_times_need_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    with meta_without_float64(monkeypatch):
        assert time_at(torch.exp, torch.ones(3, device="meta")).dtype == torch.float32


def test_states_are_scaled_to_the_noise_a_network_knows() -> None:
    alpha, sigma_t = torch.tensor([0.9, 0.5, 0.1]), torch.tensor([0.3, 0.8, 1.0])
    exact = sigma_t / alpha
    torch.testing.assert_close(as_seen(alpha, sigma_t, exact), alpha)
    torch.testing.assert_close(as_seen(alpha, sigma_t, 7 * exact), sigma_t / (7 * exact))
    torch.testing.assert_close(as_seen(alpha, sigma_t, exact / 7), alpha)


def test_networks_say_their_dtype_and_device() -> None:
    layer = nn.Linear(2, 2)
    assert network_dtype(layer.half(), torch.float64) == torch.float16
    assert network_dtype(lambda x: x, torch.float64) == torch.float64
    assert network_dtype(nn.Identity(), torch.float32) == torch.float32
    check_device(layer, torch.zeros(1))
    check_device(lambda x: x, torch.zeros(1))
    with pytest.raises(ScoreError, match=r"Linear: the network is on meta and the state on cpu"):
        check_device(layer.to("meta"), torch.zeros(1))
    layer._hf_hook = object()  # accelerate marks offloaded networks so
    check_device(layer, torch.zeros(1))
    outer = nn.Sequential(nn.Identity(), nn.Linear(2, 2).to("meta"))
    for names in ((), ("layerwise_casting",), ("layerwise_casting", "group_offloading")):
        found = SimpleNamespace(get_hook=dict.fromkeys(names, object()).get)
        outer[1]._diffusers_hook = found  # diffusers marks layers so
        if names[1:]:
            check_device(outer, torch.zeros(1))
        else:
            with pytest.raises(ScoreError, match="is on meta"):
                check_device(outer, torch.zeros(1))
