from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError, ShapeError, compose
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import chain
from pgmdiff.samplers import (
    SDE,
    Euler,
    Heun,
    Noise,
    karras,
    log_linear,
    sample,
    split_seed,
)
from tests.helpers import ar1

TARGET = Gaussian(
    torch.tensor([1.0, -0.5], dtype=torch.float64),
    torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64),
)


def test_schedules_descend_to_zero() -> None:
    for schedule in (karras, log_linear):
        sigmas = schedule(18, 0.002, 80.0)
        assert len(sigmas) == 19
        assert sigmas[0] == 80.0
        assert sigmas[-2:] == [0.002, 0.0]
        assert all(type(s) is float for s in sigmas)
        assert all(a > b for a, b in pairwise(sigmas))
        assert schedule(1, 0.1, 2.0) == [2.0, 0.0]
    ratios = np.divide(log_linear(5, 0.1, 10.0)[1:-1], log_linear(5, 0.1, 10.0)[:-2])
    assert np.allclose(ratios, ratios[0])
    with pytest.raises(PgmdiffError, match="0 < sigma_min < sigma_max"):
        karras(10, 1.0, 0.5)
    with pytest.raises(PgmdiffError, match="steps=0"):
        karras(0, 0.1, 0.5)


def test_sde_without_noise_is_euler() -> None:
    x = 10.0 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigmas = karras(12, 0.01, 10.0)
    torch.testing.assert_close(
        sample(TARGET.score, sigmas, x=x, solver=SDE(0.0)), sample(TARGET.score, sigmas, x=x)
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
        ({"sigmas": [0.1, 1.0, 0.0], "shape": (1, 2)}, "decrease strictly"),
        ({"sigmas": [1.0], "shape": (1, 2)}, "decrease strictly"),
        ({"sigmas": [1.0, -1.0], "shape": (1, 2)}, "decrease strictly"),
        ({"sigmas": [float("nan"), 0.0], "shape": (1, 2)}, "decrease strictly"),
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
