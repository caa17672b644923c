"""Laws of every solver: order, exactness on a point, purity, resumption, compilation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError
from pgmdiff.gaussian import Gaussian
from pgmdiff.samplers import SDE, Euler, Heun, Solver, State, karras, sample, split_seed
from pgmdiff.testing import law_reached

TARGET = Gaussian(
    torch.tensor([1.0, -0.5], dtype=torch.float64),
    torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64),
)
ORDERS: list[tuple[Solver, int]] = [
    (Euler(), 1),
    (Heun(), 2),
    (SDE(0.0), 1),
    (SDE(0.5), 1),
    (SDE(1.0), 1),
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
    """W2-like distance of the law reached from the exact noised start: no sampling error."""
    sigmas = karras(steps, 0.002, 80.0)
    law = law_reached(TARGET.score, sigmas, TARGET.noised(sigmas[0]), solver)
    return float((law.mean - TARGET.mean).norm() + (law.covariance - TARGET.covariance).norm())


@pytest.mark.parametrize(("solver", "order"), ORDERS, ids=str)
def test_order_of_convergence(solver: Solver, order: int) -> None:
    errors = [loss(solver, steps) for steps in (40, 80, 160)]
    observed = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(observed - order) < 0.35), (errors, observed)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
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
    """One graph a shape of the history, whatever σ is: not one a step."""
    graphs = []

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(module)
        return module

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
    assert len(graphs) <= 7


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
