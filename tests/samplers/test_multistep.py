"""Multistep solvers against the formulas of the papers."""

import math

import pytest
import torch

from pgmdiff import PgmdiffError
from pgmdiff.samplers import DEIS, SDE, DPMSolver2M, DPMSolver3M, Euler, Noise, UniPC
from tests.samplers.cases import states_of


def test_2m_is_the_published_formula() -> None:
    """Lu et al., 2022, Algorithm 2, with α = 1; its SDE form with η = 1."""
    levels = [9.0, 5.0, 2.0]
    h_last, h = math.log(9 / 5), math.log(5 / 2)
    for eta in (0.0, 1.0):
        _, state, after = states_of(DPMSolver2M(eta), levels, 2)
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
    *_, state, after = states_of(DPMSolver3M(rho=math.inf), levels, 3)
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
            states_of(solver, levels, steps)[-1].x, states_of(plain, levels, steps)[-1].x
        )


def test_unipc_does_the_last_step_again() -> None:
    """Order 1: the trapezoidal rule in σ, through ε at both ends (ρ = 1)."""
    state, middle, after = states_of(UniPC(1, rho=1.0), [9.0, 5.0, 2.0], 2)
    (_, first), (_, second) = middle.history[0], after.history[0]
    corrected = state.x + (5.0 - 9.0) * (first + second) / 2
    torch.testing.assert_close(after.x, corrected + (2.0 - 5.0) * second)


@pytest.mark.parametrize("make", [DEIS, UniPC, DPMSolver2M, DPMSolver3M])
def test_bad_multistep_solvers_are_named(make: type) -> None:
    bad = [{"rho": 0.0}, {"rho": float("nan")}]
    bad += [{"order": 0}, {"order": 5}] if make in (DEIS, UniPC) else [{"eta": -1.0}]
    for arguments in bad:
        with pytest.raises(PgmdiffError, match=f"{make.__name__}: expected an order from 1 to 4"):
            make(**arguments)
