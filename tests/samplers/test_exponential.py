"""Exponential integrators: weights against quadrature."""

import math

import pytest
from scipy.integrate import quad

from pgmdiff.samplers.exponential import decay, lagrange, spread, weights


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
