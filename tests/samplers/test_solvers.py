"""Laws of every solver: order, exactness on a point, purity, resumption, compilation."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from pgmdiff import PgmdiffError
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import Gaussian
from pgmdiff.samplers import (
    DEIS,
    EDM,
    SDE,
    DPMSolver2M,
    DPMSolver2S,
    DPMSolver3M,
    Euler,
    Heun,
    Noise,
    Past,
    Solver,
    State,
    UniPC,
    karras,
    sample,
    split_seed,
)
from pgmdiff.samplers.exponential import decay, lagrange, spread, weights

TARGET = Gaussian(
    torch.tensor([1.0, -0.5], dtype=torch.float64),
    torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64),
)
SCALES = Gaussian(
    torch.linspace(1.0, -1.0, 4, dtype=torch.float64),
    torch.tensor([0.1, 0.3, 1.0, 3.0], dtype=torch.float64).square().diag(),
)
ORDERS: list[tuple[Solver, int]] = [
    (Euler(), 1),
    (Heun(), 2),
    (SDE(0.0), 1),
    (SDE(0.5), 1),
    (SDE(1.0), 1),
    (DPMSolver2S(), 2),
    (DPMSolver2S(0.5), 2),
    (DPMSolver2S(1.0), 2),
    (EDM(8, s_churn=8.0, s_tmin=0.0, s_tmax=100.0, s_noise=1.0), 2),
    (DEIS(1), 1),
    (DEIS(2), 2),
    (DEIS(3), 3),
    (DEIS(4), 4),
    (DEIS(3, rho=7.0), 3),
    (DEIS(4, rho=1.0), 4),
    (UniPC(1), 2),
    (UniPC(2), 3),
    (UniPC(3, rho=7.0), 4),
    (DPMSolver2M(), 2),
    (DPMSolver2M(0.5), 2),
    (DPMSolver2M(1.0, rho=7.0), 2),
    (DPMSolver3M(), 3),
    (DPMSolver3M(rho=math.inf), 3),
    (DPMSolver3M(1.0), 2),
]
"""Solvers, and the order at which the law they reach converges (weak order, with noise)."""
SOLVERS = [solver for solver, _ in ORDERS]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def elementwise(x: Tensor, sigma: Tensor) -> Tensor:
    """A score, of no Gaussian, whose rows do not know of each other."""
    return -(x + 0.3 * x.sin()) / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


def no_noise(number: int, like: Tensor) -> Tensor:
    return torch.zeros_like(like)


def loss(solver: Solver, steps: int) -> float:
    """Of mean and relative variances, from the exact noised start: no error but the solver's."""
    sigmas = karras(steps, 0.03, 80.0)[:-1]
    if isinstance(solver, EDM):
        solver = replace(solver, n_steps=steps)  # the same churn, spread over more steps
    law = distribution_reached(SCALES.score, sigmas, SCALES.noised(sigmas[0]), solver)
    truth = SCALES.noised(sigmas[-1])
    off = (law.covariance - truth.covariance).diagonal() / truth.covariance.diagonal()
    return float(off.norm() + (law.mean - truth.mean).norm())


@pytest.mark.parametrize(("solver", "order"), ORDERS, ids=str)
def test_order_of_convergence(solver: Solver, order: int) -> None:
    errors = [loss(solver, steps) for steps in (60, 120, 240)]
    observed = np.log2(np.divide(errors[:-1], errors[1:]))
    assert abs(observed[-1] - order) < 0.5, (errors, observed)
    assert errors[-1] < 0.1 / 15 ** (order - 1), errors


@pytest.mark.parametrize("solver", [s for s in SOLVERS if not isinstance(s, EDM)], ids=str)
def test_exact_where_the_data_is_one_point(solver: Solver) -> None:
    """D = c whatever u is: u' = c + (σ'/σ)^(1+η²) (u - c), to rounding, on any grid."""
    c = torch.tensor([3.0, -1.0], dtype=torch.float64)
    score = lambda x, sigma: (c - x) / sigma[:, None] ** 2  # noqa: E731
    eta = getattr(solver, "eta", 0.0)
    state = solver.init(c + normal(5, 2), 7.0)
    for sigma_next in (5.0, 1.0, 0.9, 0.013, 0.0):
        after = solver.step(score, state, sigma_next, no_noise)
        ratio = (sigma_next / state.sigma) ** (1 + eta**2)
        torch.testing.assert_close(after.x, c + ratio * (state.x - c), rtol=1e-13, atol=1e-13)
        state = after


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_step_to_zero_is_the_denoiser(solver: Solver) -> None:
    x, seen = normal(4, 2), []

    def score(u: Tensor, sigma: Tensor) -> Tensor:
        seen.append(sigma)
        return TARGET.score(u, sigma)

    out = sample(score, [2.0, 0.0], x=x, solver=solver, generator=0)
    torch.testing.assert_close(out, TARGET.denoise(x, 2.0))
    assert len(seen) == 1


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_evaluations_are_as_stated(solver: Solver) -> None:
    count = [0]

    def score(u: Tensor, sigma: Tensor) -> Tensor:
        count[0] += 1
        return TARGET.score(u, sigma)

    sample(score, karras(9, 0.01, 10.0), shape=(1, 2), solver=solver, generator=0)
    assert count[0] == 8 * solver.evaluations + 1


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_runs_resume_bit_for_bit(solver: Solver, tmp_path: Path) -> None:
    sigmas, steps, path = karras(8, 0.05, 10.0), [], tmp_path / "state.pt"
    run = {"solver": solver, "generator": 3}
    whole = sample(elementwise, sigmas, shape=(3, 2), callback=steps.append, **run)
    for step in steps:
        assert torch.equal(sample(elementwise, sigmas, state=step["state"], **run), whole)
        torch.save(vars(step["state"]), path)
        restored = State(**torch.load(path))
        assert torch.equal(sample(elementwise, sigmas, state=restored, **run), whole)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_samples_do_not_depend_on_their_batch(solver: Solver) -> None:
    sigmas, keys = karras(8, 0.05, 10.0), split_seed(7, 5)

    def draw(n: int, generator: object) -> Tensor:
        return sample(elementwise, sigmas, shape=(n, 2), solver=solver, generator=generator)

    whole = draw(5, 7)
    assert torch.equal(whole, torch.cat([draw(2, keys[:2]), draw(3, keys[2:])]))


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_float64_is_clean(solver: Solver) -> None:
    """Single precision agrees to its rounding; nothing of a double-precision run is single."""
    sigmas, steps, x = karras(12, 0.05, 10.0), [], 10 * normal(4, 2)
    run = {"solver": solver, "generator": 1}
    double = sample(elementwise, sigmas, x=x, callback=steps.append, **run)
    single = sample(elementwise, sigmas, x=x.float(), **run)
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)
    for state in (step["state"] for step in steps[1:]):
        assert {t.dtype for t in (state.x, state.denoised, *(y for _, y in state.history))} == {
            torch.float64
        }


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_step_compiles_without_breaks(solver: Solver) -> None:
    torch._dynamo.reset()
    state = two_steps(solver, karras(12, 0.002, 80.0), 5)[-1]

    @torch.compile(fullgraph=True, backend="eager")
    def step(x: Tensor, history: tuple[Past, ...]) -> State:
        return solver.step(elementwise, replace(state, x=x, history=history), 0.3, no_noise)

    plain = solver.step(elementwise, state, 0.3, no_noise)
    torch.testing.assert_close(step(state.x, state.history).x, plain.x)


@pytest.mark.parametrize("solver", [Euler(), Heun(), SDE(1.0), DEIS(2), DPMSolver2M(1.0)], ids=str)
def test_a_compiled_step_serves_every_sigma(solver: Solver) -> None:
    """One graph a shape of the history, and one of constants, of zero, and of σ near it."""
    graphs = []

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(module)
        return module

    check_compiled(solver, backend)
    assert len(graphs) <= 5


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_inductor_agrees() -> None:
    """It once took σ filled into a tensor for a constant, without a word."""
    check_compiled(Euler(), "inductor")


def check_compiled(solver: Solver, backend: str | Callable[..., Callable[..., object]]) -> None:
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend=backend)
    def step(state: State, sigma_next: float) -> State:
        return solver.step(elementwise, state, sigma_next, no_noise)

    sigmas = karras(12, 0.002, 80.0)
    state = plain = solver.init(80 * normal(2, 3), sigmas[0])
    for sigma_next in sigmas[1:]:
        state = step(state, sigma_next)
        plain = solver.step(elementwise, plain, sigma_next, no_noise)
    torch.testing.assert_close(state.x, plain.x)


def test_states_of_another_schedule_are_named() -> None:
    sigmas = karras(6, 0.1, 5.0)
    state = State(torch.zeros(1, 2), 2, sigmas[2])
    assert sample(TARGET.score, sigmas, state=state, start=2).shape == (1, 2)
    for bad in (
        {"sigmas": karras(7, 0.1, 5.0), "state": state},
        {"sigmas": sigmas[:2], "state": state},
        {"sigmas": sigmas, "state": state, "start": 1},
    ):
        with pytest.raises(PgmdiffError, match="the state is of step 2"):
            sample(TARGET.score, **bad)
    with pytest.raises(PgmdiffError, match="expected one of"):
        sample(TARGET.score, sigmas, state=state, shape=(1, 2))
    double = sample(TARGET.score, sigmas, state=state, dtype=torch.float64)
    assert double.dtype == torch.float64


# ---------------------------------------------------------------- exponential integrators


@pytest.mark.parametrize("rho", [1.0, 2.5, 7.0, math.inf])
@pytest.mark.parametrize(("sigma", "sigma_next"), [(1.0, 0.9), (80.0, 12.0), (2.0, 0.02)])
@pytest.mark.parametrize("power", [1.0, -1.0, -1.25, -2.0])
def test_weights_are_integrals_of_lagrange_polynomials(
    rho: float, sigma: float, sigma_next: float, power: float
) -> None:
    levels = [sigma * 1.2**j for j in range(4)]
    found = weights(levels, sigma, sigma_next, power, rho)

    def density(log: float, j: int) -> float:
        s = math.exp(log)
        return power * (s / sigma_next) ** power * lagrange(levels, s, rho)[j]

    rounding = 1e-10 * max(map(abs, found))
    for j, weight in enumerate(found):
        ends = math.log(sigma), math.log(sigma_next)
        true, _ = quad(density, *ends, (j,), epsabs=rounding / 10, epsrel=1e-12)
        assert weight == pytest.approx(true, abs=rounding)
    assert sum(found) == pytest.approx(1 - (sigma / sigma_next) ** power, abs=rounding / 100)
    assert [type(weight) for weight in found] == [float] * 4


def test_lagrange_polynomials_reproduce_polynomials_of_their_variable() -> None:
    levels, rho = [5.0, 6.0, 9.0], 3.0
    parabola = lambda s: 2 - s ** (1 / rho) + 0.5 * s ** (2 / rho)  # noqa: E731
    shares = lagrange(levels, 1.7, rho)
    assert sum(c * parabola(s) for c, s in zip(shares, levels, strict=True)) == pytest.approx(
        parabola(1.7), rel=1e-12
    )
    assert lagrange(levels, 6.0, rho) == pytest.approx([0, 1, 0])


def test_noise_of_two_halves_is_that_of_the_whole() -> None:
    for eta in (0.3, 1.0, 2.0):
        whole = spread(5.0, 1.0, eta) ** 2
        halves = (decay(2.0, 1.0, eta) * spread(5.0, 2.0, eta)) ** 2 + spread(2.0, 1.0, eta) ** 2
        assert halves == pytest.approx(whole)


def two_steps(solver: Solver, levels: list[float], steps: int) -> list[State]:
    states = [solver.init(10 * normal(3, 2), levels[0])]
    for sigma_next in levels[1 : steps + 1]:
        states.append(solver.step(elementwise, states[-1], sigma_next, Noise.of(0, 3)))
    return states


def test_2m_is_the_published_formula() -> None:
    """Lu et al., 2022, Algorithm 2, with α = 1; its SDE form with η = 1."""
    levels = [9.0, 5.0, 2.0]
    h_last, h = math.log(9 / 5), math.log(5 / 2)
    for eta in (0.0, 1.0):
        _, state, after = two_steps(DPMSolver2M(eta), levels, 2)
        (_, before), now = state.history[0], after.denoised
        point = now + h / (2 * h_last) * (now - before)
        kappa = 1 + eta**2
        x = math.exp(-kappa * h) * state.x - math.expm1(-kappa * h) * point
        if eta:
            x = x + 2.0 * math.sqrt(-math.expm1(-2 * h)) * Noise.of(0, 3)(1, x)
        torch.testing.assert_close(after.x, x)


def test_3m_in_log_sigma_is_exact_for_parabolas_of_log_sigma() -> None:
    """By the closed forms of Lu et al., with the factor 2 of the second difference in its place."""
    levels = [9.0, 5.0, 3.0, 1.0]
    *_, state, after = two_steps(DPMSolver3M(rho=math.inf), levels, 3)
    (_, d1), (_, d2), d0 = *state.history, after.denoised
    h, r0, r1 = math.log(3.0), math.log(5 / 3) / math.log(3), math.log(9 / 5) / math.log(3)
    first, second = (d0 - d1) / r0, (d1 - d2) / r1
    curve = (first - second) / (r0 + r1)
    slope = first + r0 * curve
    phi2 = math.expm1(-h) / h + 1
    phi3 = (math.expm1(-h) + h) / h**2 - 0.5
    x = state.x / 3 - math.expm1(-h) * d0 + phi2 * slope - 2 * phi3 * curve
    torch.testing.assert_close(after.x, x)


def test_first_orders_are_euler_and_the_sde() -> None:
    levels = [9.0, 5.0, 2.0, 0.5]
    for solver, plain, steps in (
        (DEIS(1, rho=7.0), Euler(), 3),
        (DEIS(4), Euler(), 1),
        (UniPC(3), Euler(), 1),
        (DPMSolver2M(0.7), SDE(0.7), 1),
        (DPMSolver3M(1.0), SDE(1.0), 1),
    ):
        torch.testing.assert_close(
            two_steps(solver, levels, steps)[-1].x, two_steps(plain, levels, steps)[-1].x
        )


def test_unipc_does_the_last_step_again() -> None:
    """Order 1: the trapezoidal rule in σ, through ε at both ends (ρ = 1)."""
    state, middle, after = two_steps(UniPC(1, rho=1.0), [9.0, 5.0, 2.0], 2)
    (_, first), (_, second) = middle.history[0], after.history[0]
    corrected = state.x + (5.0 - 9.0) * (first + second) / 2
    torch.testing.assert_close(after.x, corrected + (2.0 - 5.0) * second)


def test_churn_is_noise_and_then_heun() -> None:
    solver, noise = EDM(10, s_churn=2.0, s_tmin=1.0, s_tmax=5.0, s_noise=1.1), Noise.of(4, 3)
    for sigma, gamma in ((6.0, 0.0), (3.0, 0.2), (0.5, 0.0)):
        state = solver.init(sigma * normal(3, 2), sigma, 7)
        raised = (1 + gamma) * sigma
        x = state.x + 1.1 * math.sqrt(raised**2 - sigma**2) * noise(7, state.x)
        expected = Heun().step(elementwise, State(x, 7, raised), 0.3, noise)
        torch.testing.assert_close(
            vars(solver.step(elementwise, state, 0.3, noise)), vars(expected)
        )
    capped = EDM(1, s_tmin=0.0, s_tmax=100.0, s_noise=1.0)
    after = capped.step(lambda x, sigma: 0 * x, capped.init(torch.zeros(3, 2), 3.0), 1.0, noise)
    torch.testing.assert_close(after.x, 3.0 * noise(0, torch.zeros(3, 2)))  # √2 σ at most
    assert after.sigma == 1.0


def test_inflated_churn_is_a_bias() -> None:
    """S_noise = 1.003 is meant for networks: with the exact score the law is too wide for good."""
    sigmas = karras(160, 0.03, 80.0)[:-1]
    law = distribution_reached(SCALES.score, sigmas, SCALES.noised(sigmas[0]), EDM(160))
    off = law.covariance.diagonal() / SCALES.noised(sigmas[-1]).covariance.diagonal() - 1
    assert (off > 0.01).all()


def test_noise_of_the_two_halves_is_drawn_apart() -> None:
    numbers = []

    def noise(number: int, like: Tensor) -> Tensor:
        numbers.append(number)
        return torch.zeros_like(like)

    state = DPMSolver2S(1.0).init(normal(1, 2), 5.0, 3)
    DPMSolver2S(1.0).step(elementwise, state, 1.0, noise)
    assert len(set(numbers)) == 2
    assert numbers[0] == 3


@pytest.mark.parametrize("bad", [{"n_steps": 0}, {"n_steps": 5, "s_churn": -1.0}])
def test_bad_churn_is_named(bad: dict) -> None:
    with pytest.raises(PgmdiffError, match="EDM: expected n_steps >= 1"):
        EDM(**bad)
    with pytest.raises(PgmdiffError, match="DPMSolver2S: expected eta >= 0"):
        DPMSolver2S(-1.0)


@pytest.mark.parametrize("make", [DEIS, UniPC, DPMSolver2M, DPMSolver3M])
def test_bad_multistep_solvers_are_named(make: type) -> None:
    bad = [{"rho": 0.0}, {"rho": float("nan")}]
    bad += [{"order": 0}, {"order": 5}] if make in (DEIS, UniPC) else [{"eta": -1.0}]
    for arguments in bad:
        with pytest.raises(PgmdiffError, match=f"{make.__name__}: expected an order of 1 to 4"):
            make(**arguments)
