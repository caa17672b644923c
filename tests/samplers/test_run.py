"""The sampling loop: starts, rises, resumption, callbacks, and bad arguments."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import (
    Consistent,
    Marginal,
    PgmdiffError,
    Posterior,
    ShapeError,
    compose,
    gaussian,
)
from pgmdiff.conditioning import Isotropic, Mask, moment_matching
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.graphs import chain
from pgmdiff.noise import RISE
from pgmdiff.samplers import (
    DEIS,
    SDE,
    Adaptive,
    DPMSolver2M,
    Euler,
    Heun,
    Noise,
    Solver,
    State,
    UniPC,
    karras,
    sample,
    time_travel,
)
from tests.helpers import ar1
from tests.samplers.cases import TARGET


@pytest.mark.parametrize("solver", [Euler(), DEIS(3), DPMSolver2M(1.0)], ids=str)
def test_a_rise_adds_noise_and_drops_the_history(solver: Solver) -> None:
    sigmas, steps = [5.0, 2.0, 1.0, 3.0, 1.0, 0.5, 2.0, 0.0], []
    run = {"solver": solver, "generator": 5}
    drawn = {"shape": (4, 2), "mean": TARGET.mean, **run}
    out = sample(TARGET.score, sigmas, callback=steps.append, **drawn)
    assert [s["i"] for s in steps] == [0, 1, 3, 4, 6]
    fallen = sample(TARGET.score, sigmas[:3], **drawn)
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
    rising = sample(TARGET.score, [0, *sigmas[5:]], x=data, solver=DEIS(2), generator=7)
    torch.testing.assert_close(rising, out)
    with pytest.raises(ShapeError, match="begins at data"):
        sample(TARGET.score, [0, *sigmas[5:]], shape=(3, 2))


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
        ({"sigmas": [1.0, 0.0]}, "got none. Give shape=(batch, *event)"),
        (
            {"sigmas": [1.0, 0.0], "x": torch.zeros(1, 2), "shape": (1, 2)},
            "expected one of x=, shape= and state=, got x and shape",
        ),
        ({"sigmas": [1.0, 0.0], "shape": 10}, "expected shape=(batch, *event), got 10"),
        ({"sigmas": [1.0, 0.0], "x": np.zeros((1, 2))}, "as a tensor, got ndarray"),
        ({"score": chain(3), "sigmas": [1.0, 0.0], "shape": (2, 3)}, "expected a score"),
        ({"sigmas": [1.0, 0.0], "shape": (1, 2), "dtype": torch.bfloat16}, "got torch.bfloat16"),
        ({"sigmas": [1.0, 0.0], "x": torch.zeros(1, 2, dtype=torch.int64)}, "got torch.int64"),
        ({"sigmas": [1.0, 0.0], "shape": (1, 2), "solver": "Heun"}, "as Heun(), got 'Heun'"),
        ({"sigmas": [1.0, 0.0], "shape": (1, 2), "solver": Heun}, "Heun as solver, got the class"),
        ({"sigmas": [1.0, 0.0], "shape": (2, 2), "generator": [1]}, "one generator or 2"),
        ({"sigmas": [1.0, 0.0], "shape": (2, 2), "mean": np.nan}, "expected a finite mean="),
        ({"sigmas": [1.0, 0.0], "shape": (2, 2), "mean": [1, 2, 3]}, "of a shape that expands"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(PgmdiffError) as error:
        sample(**{"score": TARGET.score} | arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_states_of_another_schedule_are_named() -> None:
    sigmas = karras(6, 0.1, 5.0)
    state = State(torch.zeros(1, 2), 2, sigmas[2])
    assert sample(TARGET.score, sigmas, state=state).shape == (1, 2)
    for bad in (
        {"sigmas": karras(7, 0.1, 5.0), "state": state},
        {"sigmas": sigmas[:2], "state": state},
    ):
        with pytest.raises(PgmdiffError, match="the state belongs to step 2"):
            sample(TARGET.score, **bad)
    with pytest.raises(PgmdiffError, match="expected one of"):
        sample(TARGET.score, sigmas, state=state, shape=(1, 2))
    double = sample(TARGET.score, sigmas, state=state, dtype=torch.float64)
    assert double.dtype == torch.float64


def test_samples_that_explode_are_told() -> None:
    """Whatever the units and the mean; no samples of data that the start hides are as large."""
    levels = karras(10, 0.01, 10.0)
    for unit in (1e-3, 1.0, 1e3):
        options: dict = {"shape": (3, 4), "mean": 5 * unit, "generator": 0}
        with pytest.warns(UserWarning, match="sample: 3 of 3 samples exploded: up to"):
            sample(partial(away, unit), [unit * s for s in levels], **options)
    wide = Gaussian(torch.zeros(4), 25.0 * torch.eye(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(wide, levels, shape=(3, 4), generator=0)
        sample(wide, levels, shape=(0, 4))
        sample(Gaussian(torch.full((4,), 300.0), torch.eye(4)), levels, shape=(1, 4), generator=0)


def away(unit: float, x: Tensor, sigma: Tensor) -> Tensor:
    """A score with the wrong sign."""
    return (x - 5 * unit) / sigma[:, None] ** 2


@pytest.mark.parametrize("solver", [Heun(), UniPC(), SDE(), Adaptive()])
def test_a_batch_of_0_is_sampled(solver: Solver) -> None:
    data = ar1(4, 0.5)
    mixture = GaussianMixture(torch.tensor([0.5, 0.5]).double(), [data, data])
    covariances = gaussian.node_covariances(chain(4), data)
    for rule in (Marginal(), Posterior(covariances), Consistent(covariances)):
        score = compose(chain(4), gaussian.node_scores(chain(4), mixture), rule=rule)
        x = sample(score, karras(4, 0.1, 3.0), shape=(0, 4), solver=solver, generator=0)
        assert x.shape == (0, 4)


def test_a_batch_of_0_has_scores_and_densities() -> None:
    data, none = ar1(4, 0.5), torch.zeros(0, 4).double()
    mixture = GaussianMixture(torch.tensor([0.5, 0.5]).double(), [data, data])
    for q in (data, mixture):
        for found in (q.score(none, 1.0), q.denoise(none, 1.0), q.sample(0, generator=0)):
            assert found.shape == (0, 4)
        assert q.log_density(none, 1.0).shape == (0,)
        assert gaussian.composed_log_density(chain(4), q, none, 1.0).shape == (0,)
    y = torch.tensor([1.0, 0.0, 0.0, 0.0]).double()
    seen = torch.tensor([True, False, False, False])
    for noise in (0.0, 0.5):
        known = moment_matching(mixture.score, y, Mask(seen), Isotropic(), noise=noise)
        assert known(none, torch.ones(0).double()).shape == (0, 4)
        x = sample(known, karras(4, 0.1, 3.0), shape=(0, 4), generator=0, dtype=torch.float64)
        assert x.shape == (0, 4)


def test_a_complex_state_is_named() -> None:
    with pytest.raises(PgmdiffError, match=r"a real state, got torch\.complex64"):
        sample(TARGET.score, [1.0, 0.0], x=torch.ones(2, 2) * 1j, dtype=torch.float32)
