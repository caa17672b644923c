"""Laws of every solver: order, exactness on a point, purity, resumption, compilation."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pgmdiff import Consistent, Marginal, compose
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import node_covariances
from pgmdiff.graphs import tiles
from pgmdiff.samplers import (
    DEIS,
    EDM,
    SDE,
    DPMSolver2M,
    DPMSolver2S,
    DPMSolver3M,
    Euler,
    Heun,
    Past,
    Solver,
    State,
    UniPC,
    karras,
    sample,
    split_seed,
)
from tests.helpers import ar1
from tests.samplers.cases import SCALES, TARGET, elementwise, no_noise, normal, states_of

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
"""Solvers, and the order at which their distribution converges (the weak order, with noise)."""
SOLVERS = [solver for solver, _ in ORDERS]
KINDS = [Euler(), Heun(), SDE(0.5), DPMSolver2S(), DPMSolver2S(0.5), EDM(8), DEIS(3), UniPC(2),
         DPMSolver2M(0.5), DPMSolver3M()]  # fmt: skip
"""One solver for every path through the code, where each costs a compilation."""


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
    errors = [loss(solver, steps) for steps in (120, 240)]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.5, errors
    assert errors[1] < 0.1 / 15 ** (order - 1), errors


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
    sigmas, steps, path = karras(8, 0.05, 10.0), [], tmp_path / "state.safetensors"
    run = {"solver": solver, "generator": 3}
    whole = sample(elementwise, sigmas, shape=(3, 2), callback=steps.append, **run)
    for step in steps:
        assert torch.equal(sample(elementwise, sigmas, state=step["state"], **run), whole)
        step["state"].save(path)
        restored = State.load(path)
        assert torch.equal(sample(elementwise, sigmas, state=restored, **run), whole)
        assert torch.equal(sample(elementwise, sigmas, state=restored, solver=solver), whole), (
            "without a generator the run's own noise is continued"
        )


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


@pytest.mark.parametrize("solver", KINDS, ids=str)
def test_a_step_compiles_without_breaks(solver: Solver) -> None:
    torch._dynamo.reset()
    state = states_of(solver, karras(12, 0.002, 80.0), 5)[-1]

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


@pytest.mark.parametrize("rule", [Marginal, Consistent])
def test_a_whole_step_compiles_without_breaks(rule: type) -> None:
    """Models, sums, the solve of `Posterior`, messages of a run, and the solver's update."""
    torch._dynamo.reset()
    graph, q, solver = tiles((12,), 4, 2), ar1(12, 0.9), Euler()

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        return -(x + 0.1 * torch.tanh(x.roll(1, 1))) / (1 + sigma[:, None] ** 2)

    bound = rule() if rule is Marginal else rule(node_covariances(graph, q))
    joint, sigmas = compose(graph, score, rule=bound), karras(2, 0.05, 10.0)
    with torch.no_grad():
        state = solver.init(10 * normal(3, 12), sigmas[0])
        expected = sample(joint, sigmas, x=state.x, solver=solver)
        remembering = joint.remembering()

        @torch.compile(fullgraph=True, backend="eager")
        def step(state: State, sigma_next: float) -> State:
            return solver.step(remembering, state, sigma_next, no_noise)

        for sigma_next in sigmas[1:]:
            state = step(state, sigma_next)
    torch.testing.assert_close(state.x, expected)


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
