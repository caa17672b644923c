"""Conjugate gradients, and derivatives that are known."""

import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError
from pgmdiff.linalg import conjugate_gradients, implicit, iterate_conjugate_gradients, keep
from tests.helpers import ar1, relative


def right(batch: int, n: int) -> Tensor:
    return torch.randn(batch, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("complex_valued", [False, True])
def test_every_sample_is_solved_by_itself(complex_valued: bool) -> None:
    matrix, b = ar1(12, 0.9).covariance, right(4, 12) * 10.0 ** torch.arange(-6, 6, 3)[:, None]
    if complex_valued:
        b = torch.complex(b, b.roll(1, 1))
    b[0] = 0
    solved = conjugate_gradients(
        lambda v: v @ matrix.to(v), b, tolerance=1e-12, most_steps=40, what="test"
    )
    expected = torch.linalg.solve(matrix.to(b), b.T).T
    for row in range(1, 4):
        assert relative(solved[row], expected[row]) < 1e-9
    assert solved[0].abs().max() == 0


def test_a_first_guess_and_a_preconditioner_save_steps() -> None:
    diagonal = torch.logspace(0, 4, 30, dtype=torch.float64)
    matrix = diagonal.diag() + 0.1 * ar1(30, 0.5).covariance
    b = right(3, 30)
    expected = torch.linalg.solve(matrix, b.T).T
    close = expected + 1e-6 * right(3, 30)
    far = torch.full_like(b, 1e6)
    options = {"tolerance": 1e-10, "most_steps": 300}
    plain = iterate_conjugate_gradients(lambda v: v @ matrix, b, **options)
    scaled = iterate_conjugate_gradients(
        lambda v: v @ matrix, b, precondition=lambda r: r / diagonal, **options
    )
    started = iterate_conjugate_gradients(
        lambda v: v @ matrix, b, precondition=lambda r: r / diagonal, start=close, **options
    )
    astray = iterate_conjugate_gradients(
        lambda v: v @ matrix, b, precondition=lambda r: r / diagonal, start=far, **options
    )
    for found in (plain, scaled, started, astray):
        assert found.converged
        assert found.residual <= 1e-10
        assert relative(found.x, expected) < 1e-6
    assert started.steps < scaled.steps < plain.steps / 3
    assert astray.steps == scaled.steps, "a guess that is worse than 0 is not used"
    assert torch.equal(astray.x, scaled.x)


def test_a_solve_that_stops_early_says_so() -> None:
    spread = torch.logspace(0, 8, 40, dtype=torch.float64)
    found = iterate_conjugate_gradients(
        lambda v: spread * v, right(2, 40), tolerance=1e-10, most_steps=3
    )
    assert not found.converged
    assert found.steps == 3
    with pytest.raises(PgmdiffError, match=r"test: .* after 3 steps, expected 1e-10"):
        conjugate_gradients(
            lambda v: spread * v, torch.ones(1, 40).double(), tolerance=1e-10, most_steps=3,
            what="test",
        )  # fmt: skip


def test_an_indefinite_matrix_is_signalled_where_asked() -> None:
    sign = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)
    with pytest.raises(ArithmeticError):
        iterate_conjugate_gradients(
            lambda v: sign * v, right(2, 3), tolerance=1e-10, most_steps=9,
            indefinite=ArithmeticError,
        )  # fmt: skip
    positive = iterate_conjugate_gradients(
        lambda v: sign.abs() * v, right(2, 3), tolerance=1e-10, most_steps=9,
        indefinite=ArithmeticError,
    )  # fmt: skip
    assert positive.converged


def test_solutions_are_differentiated_through_their_equation() -> None:
    matrix = ar1(5, 0.6).covariance
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    b = right(3, 5).requires_grad_()

    def solved(b: Tensor, scale: Tensor) -> Tensor:
        return conjugate_gradients(
            lambda v: scale * (v @ matrix), b, tolerance=1e-13, most_steps=40, what="test"
        )

    assert torch.autograd.gradcheck(solved, (b, scale))
    with torch.no_grad():
        assert torch.equal(solved(b, scale), solved(b.detach(), scale.detach()))


def test_a_known_derivative_is_used_and_may_be_differentiated_again() -> None:
    x = right(2, 3).requires_grad_()

    def cube(x: Tensor) -> Tensor:
        return implicit(lambda x: x.detach() ** 3, lambda g, x: (3 * x**2 * g,), x)

    assert torch.autograd.gradcheck(cube, x)
    assert torch.autograd.gradgradcheck(cube, x)


def test_what_was_asked_for_latest_is_kept() -> None:
    kept: dict[object, int] = {}
    for key in (1, 2, 1, 3):
        assert keep(kept, key, 10 * key, 2) == 10 * key
    assert kept == {1: 10, 3: 30}
