"""The memory of a score in every run: what steps read, when it is committed, whose it is."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from math import log2
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pgmdiff import Consistent, compose, gaussian, graphs
from pgmdiff.composition import Joint
from pgmdiff.composition.joint import Remembering
from pgmdiff.conditioning import Mask, dps, moment_matching, reconstruction, replacement
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.noise import RISE
from pgmdiff.samplers import (
    DEIS,
    EDM,
    SDE,
    Adaptive,
    DPMSolver2M,
    DPMSolver2S,
    DPMSolver3M,
    Euler,
    Heun,
    Langevin,
    Metropolis,
    Noise,
    PredictorCorrector,
    Run,
    Solver,
    State,
    UniPC,
    karras,
    log_likelihood,
    sample,
    sample_weighted,
    split_seed,
)
from pgmdiff.scores import Score, guided, scheduled
from tests.samplers.cases import Slow, elementwise, slow

SIGMAS = [*karras(6, 0.1, 8.0)[:3], 6.0, *karras(6, 0.1, 8.0)[2:]]  # it rises once
FALLS = len(SIGMAS) - 2


def modes(*, ring: bool = False) -> tuple[graphs.FactorGraph, GaussianMixture]:
    """Four variables near 1/3 - 2 and 1/3 + 2 that mostly agree with their neighbours."""
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
    pairs = signs * signs.roll(1, dims=1) * torch.tensor([float(ring), 1.0, 1.0, 1.0])
    spread = 0.16 * torch.eye(4, dtype=torch.float64)
    parts = [Gaussian(2 * s + 1 / 3, spread) for s in signs]
    graph = graphs.cycle(4) if ring else graphs.chain(4)
    return graph, GaussianMixture((0.8 * pairs.sum(dim=1)).softmax(0), parts)


def density(x: Tensor, sigma: Tensor) -> Tensor:
    return -0.5 * (x**2).sum(dim=1) / (1 + sigma**2)


OBSERVED = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)
MASK = torch.tensor([True, False, True])


class Physics:
    """The form of a linear physics of deepinv."""

    def A(self, x: Tensor) -> Tensor:
        return x * MASK

    A_adjoint = A_dagger = A


def shifted(score: Score, n: int) -> Score:
    """A score with a condition."""
    return partial(score, away=torch.full((n,), 0.3, dtype=torch.float64))


def followed(score: Score) -> Score:
    """A score with guidance."""
    return guided(score, {"away": torch.zeros((), dtype=torch.float64)}, guidance=2.0)


WRAPPERS: dict[str, Callable[[Score, int], Score]] = {
    "alone": lambda score, n: score,
    "with a condition": shifted,
    "guided": lambda score, n: shifted(followed(score), n),
    "scheduled": lambda score, n: shifted(
        scheduled(score, {"away": lambda value, sigma: value * (sigma > 1)}), n
    ),
    "replacement": lambda score, n: replacement(score, OBSERVED, MASK),
    "reconstruction": lambda score, n: reconstruction(
        score, OBSERVED, Mask(MASK), dps(data_std=1.0)
    ),
    "moments": lambda score, n: moment_matching(score, OBSERVED, Mask(MASK), noise=0.5),
    "guided moments": lambda score, n: moment_matching(
        shifted(followed(score), n), (MASK * OBSERVED)[None], Physics(), noise=0.5
    ),
}
SOLVERS: list[Solver] = [
    Euler(),
    Heun(),
    SDE(0.5),
    DPMSolver2S(),
    DPMSolver2S(0.5),
    EDM(6, s_churn=3.0),
    DEIS(3),
    UniPC(2),
    DPMSolver2M(0.5),
    DPMSolver3M(),
    PredictorCorrector(Heun(), Langevin(0.2, 3)),
    PredictorCorrector(UniPC(2), Metropolis(density, 0.5, 3)),
]
pytestmark = pytest.mark.filterwarnings("ignore:PredictorCorrector")  # of UniPC: less accurate
CASES = [(solver, "guided") for solver in SOLVERS] + [(Heun(), name) for name in WRAPPERS]
START = 8.0 * Noise.of(1, 4)(0, torch.zeros(4, 3, dtype=torch.float64))


class Frozen:
    """A score whose calls read one memory, and all that are made of it, one after the other."""

    def __init__(self, joint: Joint, memory: dict[str, Tensor], made: list["Frozen"]) -> None:
        self.joint, self.memory, self.made = joint, memory, made
        made.append(self)

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        self.left = dict(self.memory)
        return self.joint.call(x, sigma, condition, self.left)

    def remembering(self) -> "Frozen":
        return Frozen(self.joint, dict(self.memory), self.made)


def by_hand(
    joint: Joint, wrapped: Callable[[Score, int], Score], solver: Solver
) -> tuple[Tensor, dict[str, Tensor]]:
    """A run in which a step's calls read one memory, and the last of them leaves the next one."""
    noise, state, made = Noise.of(2, 4), solver.init(START, SIGMAS[0]), list[Frozen]()
    inside = wrapped(Frozen(joint, {}, made), 4)

    def score(x, sigma):
        return inside(x, sigma)

    score.pure = wrapped(joint, 4)
    for level in SIGMAS[1:]:
        if level > state.sigma:
            added = (level**2 - state.sigma**2) ** 0.5 * noise(RISE + state.step, state.x)
            state = solver.init(state.x + added, level, state.step + 1)
            continue
        state = solver.step(score, state, level, noise)
        for each in made:
            each.memory = each.left
    return state.x, {n: torch.cat([each.memory[n] for each in made]) for n in made[0].memory}


@pytest.mark.parametrize(("solver", "name"), CASES, ids=str)
def test_a_step_reads_the_memory_of_its_start_and_leaves_that_of_its_last_call(
    solver: Solver, name: str, tmp_path: Path
) -> None:
    """For every solver and every score around a joint, also where σ rises; a run can be resumed."""
    wrapped, states = WRAPPERS[name], []
    expected, memory = by_hand(slow(), wrapped, solver)

    def run(**given) -> Tensor:
        return sample(wrapped(slow(), 4), SIGMAS, solver=solver, generator=2, **given)

    found = run(x=START, callback=lambda step: states.append(step["state"]))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert memory["steps"].unique().tolist() == [FALLS]
    states[3].save(tmp_path / "state.safetensors")
    assert set(states[3].memory) == {"before", "steps"}
    assert torch.equal(run(state=State.load(tmp_path / "state.safetensors")), found)
    forgetful = replace(states[3], memory={})
    assert not torch.equal(run(state=forgetful), found)


@pytest.mark.parametrize(("solver", "name"), CASES, ids=str)
def test_samples_with_memory_depend_neither_on_their_batch_nor_on_max_batch(
    solver: Solver, name: str
) -> None:
    keys = split_seed(3, 4)

    def run(first: int, last: int, max_batch: int | None = None) -> Tensor:
        score = WRAPPERS[name](slow(max_batch), last - first)
        options = {"solver": solver, "generator": keys[first:last]}
        return sample(score, SIGMAS, x=START[first:last], **options)

    whole = run(0, 4)
    torch.testing.assert_close(torch.cat([run(0, 1), run(1, 4, 2)]), whole, rtol=1e-12, atol=1e-12)


def test_every_branch_of_guidance_has_a_memory_of_its_own() -> None:
    """With w = 1 and 0 a guided run is that with the one condition, its memory included."""
    plain = slow()
    for guidance, value, rows in ((1.0, 0.3, slice(0, 4)), (0.0, 0.0, slice(4, 8))):
        score = guided(plain, {"away": torch.zeros(()).double()}, guidance=guidance)
        ends: list[tuple[Tensor, Tensor]] = []
        for each, part in ((score, rows), (plain, slice(0, 4))):
            away = 0.3 if each is score else value
            given, states = partial(each, away=torch.full((4,), away).double()), []
            options = {"solver": Heun(), "callback": lambda s, to=states: to.append(s["state"])}
            x = sample(given, SIGMAS, x=START, generator=2, **options)
            ends.append((x, states[-1].memory["before"][part]))
        torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-12)


PER_SAMPLE: dict[str, Callable[[Score, Tensor], Score]] = {
    "replacement": lambda score, each: replacement(score, each, MASK),
    "reconstruction": lambda score, each: reconstruction(
        score, MASK * each, Mask(MASK), dps(data_std=1.0)
    ),
    "moments": lambda score, each: moment_matching(score, MASK * each, Mask(MASK), noise=0.5),
    "guidance": lambda score, each: partial(followed(score), guidance=each[:, 0]),
    "a condition": lambda score, each: partial(score, away=each[:, 0]),
}


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_guidance_is_around_scores_that_hold_what_belongs_to_samples(name: str) -> None:
    """Either evaluation has the rows of the batch, so that theirs are those of the samples."""
    wrapped, each, seeds = PER_SAMPLE[name], START / 8, split_seed(2, 4)

    def run(rows: slice) -> Tensor:
        score = shifted(followed(wrapped(slow(), each[rows])), len(START[rows]))
        return sample(score, SIGMAS, x=START[rows], solver=Heun(), generator=seeds[rows])

    whole = run(slice(0, 4))
    for n in range(4):
        torch.testing.assert_close(run(slice(n, n + 1))[0], whole[n], rtol=1e-12, atol=1e-12)


def test_proposals_of_metropolis_leave_no_trace() -> None:
    """Its drift is that of the score without memory, and the memory is what the predictor left."""
    states, read = [], []
    joint = compose(graphs.chain(3), elementwise, rule=Slow())

    class Watched(Metropolis):
        def correct(self, score, x, sigma, noise):
            read.append(super().correct(score, x, sigma, noise)[0])
            torch.testing.assert_close(read[-1], super().correct(joint, x, sigma, noise)[0])
            return x, x.new_ones(len(x))

    for solver in (UniPC(2), PredictorCorrector(UniPC(2), Watched(density, 0.5, 3))):
        options = {"solver": solver, "generator": 2}
        sample(joint, SIGMAS, x=START, callback=lambda s: states.append(s["state"]), **options)
    assert len(read) == FALLS - 1
    for alone, corrected in zip(states[:FALLS], states[FALLS:], strict=True):
        assert alone.memory.keys() == corrected.memory.keys()
        assert all(torch.equal(alone.memory[k], corrected.memory[k]) for k in alone.memory)


def test_a_run_begins_with_a_memory_of_its_own() -> None:
    """Neither a joint nor a score that is passed in with memory is changed by a run."""
    score = slow().remembering()
    first = sample(score, SIGMAS, x=START, generator=2)
    assert score.memory == {}
    assert torch.equal(sample(score, SIGMAS, x=START, generator=2), first)
    assert torch.equal(sample(slow(), SIGMAS, x=START, generator=2), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "solver", [UniPC(), DPMSolver2S(0.5), SOLVERS[-2], Adaptive(1e-2)], ids=str
)
def test_messages_of_modes_resume_bit_for_bit(solver: Solver, dtype: torch.dtype) -> None:
    """With all that `Consistent` remembers on a loop: messages, and a mean in float64."""
    graph, q = modes(ring=True)
    rule = Consistent(dict(gaussian.node_covariances(graph, q)))
    joint, states = compose(graph, gaussian.node_scores(graph, q), rule=rule), []
    start = 8 * Noise.of(4, 3)(0, torch.zeros(3, 4, dtype=dtype))

    def run(**given) -> Tensor:
        return sample(joint, SIGMAS, solver=solver, generator=5, **given)

    whole = run(x=start, callback=lambda step: states.append(step["state"]))
    assert {"messages", "mean"} <= set(states[2].memory)
    assert states[2].memory["mean"].dtype == torch.float64
    assert torch.equal(run(state=states[2]), whole)
    assert not torch.allclose(run(state=replace(states[2], memory={})), whole, rtol=1e-3)


@pytest.mark.parametrize("solver", [UniPC(), DPMSolver2S(0.5), SOLVERS[-2]], ids=str)
def test_samples_with_messages_depend_neither_on_their_batch_nor_on_max_batch(
    solver: Solver,
) -> None:
    graph, q = modes()
    rule, keys = Consistent(gaussian.node_covariances(graph, q)), split_seed(3, 4)
    start = 8 * Noise.of(4, 4)(0, torch.zeros(4, 4, dtype=torch.float64))

    def run(first: int, last: int, max_batch: int | None = None) -> Tensor:
        scores = gaussian.node_scores(graph, q)
        joint = compose(graph, scores, rule=rule, max_batch=max_batch)
        options = {"solver": solver, "generator": keys[first:last]}
        return sample(joint, SIGMAS, x=start[first:last], **options)

    parts = torch.cat([run(0, 1), run(1, 4, 2)])
    torch.testing.assert_close(parts, run(0, 4), rtol=1e-8, atol=1e-8)


# ---------------------------------------------------------------- order


def warmed() -> tuple[Remembering, Tensor]:
    """A chain of modes whose messages matter, and states at σ = 2."""
    graph, q = modes()
    rule = Consistent(gaussian.node_covariances(graph, q))
    run = compose(graph, gaussian.node_scores(graph, q), rule=rule).remembering()
    u = q.noised(2.0).sample(4, generator=21)
    cold = run(u, 2.0)
    for _ in range(5):
        run(u, 2.0)
    assert float((run(u, 2.0) - cold).norm() / cold.norm()) > 0.03
    return run, u


def frozen(run: Remembering) -> Score:
    """The score with its present messages, for ever."""
    memory = dict(run.memory)
    return lambda x, sigma: run.joint.call(x, sigma, {}, dict(memory))


FINE = Adaptive(1e-7, method="dopri8")


def end(score: Score, u: Tensor, solver: Solver, steps: int = 1) -> Tensor:
    """The state at σ = 0.5 after steps of equal ratio."""
    state, noise = solver.init(u, 2.0), Noise.of(22, 4)
    for k in range(steps):
        state = solver.step(score, state, 2.0 * 0.25 ** ((k + 1) / steps), noise)
    return state.x


@cache
def exact_end() -> Tensor:
    run, u = warmed()
    return end(frozen(run), u, FINE)


@pytest.mark.parametrize(
    ("solver", "order"),
    [(Euler(), 1), (Heun(), 2), (DPMSolver2S(), 2), (DPMSolver2M(), 2), (DEIS(2), 2)],
    ids=str,
)
def test_solvers_keep_their_order_with_frozen_messages(solver: Solver, order: int) -> None:
    run, u = warmed()
    run.hold()
    errors = [float((end(run, u, solver, steps) - exact_end()).norm()) for steps in (16, 32)]
    assert abs(log2(errors[0] / errors[1]) - order) < 0.4, errors


def test_heun_loses_its_order_if_messages_move_within_a_step() -> None:
    """Of one step: the error is of order 3 if both stages read the same messages, else of 1."""
    orders = []
    for held in (True, False):
        errors = []
        for width in (0.05, 0.025):
            run, u = warmed()
            exact = FINE.step(frozen(run), Heun().init(u, 2.0), 2.0 - width, Noise.of(22, 4)).x
            if held:
                run.hold()
            after = Heun().step(run, Heun().init(u, 2.0), 2.0 - width, Noise.of(22, 4)).x
            errors.append(float((after - exact).norm()))
        orders.append(log2(errors[0] / errors[1]))
    assert orders[0] == pytest.approx(3, abs=0.3)
    assert orders[1] == pytest.approx(1, abs=0.3)


def test_the_adaptive_solver_keeps_its_tolerance_with_frozen_messages() -> None:
    """Its error falls in proportion to the tolerance, and its steps grow with the fifth root."""
    run, u = warmed()
    still, calls = frozen(run), []

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(len(x))
        return still(x, sigma)

    errors, costs = [], []
    for rtol in (1e-4, 1e-6):
        calls.clear()
        errors.append(float((end(counted, u, Adaptive(rtol)) - exact_end()).norm()))
        costs.append(len(calls))
    assert 20 < errors[0] / errors[1] < 500
    assert costs[1] / costs[0] < 2 * 100**0.2


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_the_adaptive_solver_commits_once_per_accepted_step(method: str) -> None:
    """A step of k stages reads one memory at 1 + k calls; k more read it for every rejection."""
    stages, read = {"dopri5": 6, "bosh3": 3}[method], []

    class Watched(Slow):
        def score(self, evaluate, u, sigma, memory=None):
            read.append(int(memory.get("steps", torch.zeros(1))[0]))
            return super().score(evaluate, u, sigma, memory)

    def sharp(x: Tensor, sigma: Tensor) -> Tensor:
        return elementwise(x, sigma) + 2 * (6 * x).sin() / (
            1 + sigma.reshape([-1] + [1] * (x.ndim - 1)) ** 2
        )

    joint = compose(graphs.chain(3), sharp, rule=Watched())
    states: list[State] = []
    options = {"solver": Adaptive(1e-3, method=method), "generator": 0}
    sample(joint, [8.0, 0.1, 0.0], x=START, callback=lambda s: states.append(s["state"]), **options)
    calls = [read.count(step) for step in range(read[-1] + 1)]
    assert read == sorted(read), "a rejected step restores the memory of its start"
    assert read[-1] == int(states[-1].memory["steps"][0]) > 5
    assert calls[0] % stages == 2 % stages, (
        "the first step has the call that shows the denoised value"
    )
    assert all((n - 1) % stages == 0 for n in calls[1:-1])
    assert calls[-1] == 1, "the step to zero"
    assert max(calls[1:]) > 1 + stages, "some steps are rejected"


def test_messages_do_not_wear_the_adaptive_solver_down() -> None:
    """Its error estimates see one field: it makes hardly more steps than with frozen messages."""
    graph, q = modes()
    joint = compose(
        graph, gaussian.node_scores(graph, q), rule=Consistent(gaussian.node_covariances(graph, q))
    )
    u, costs = q.noised(2.0).sample(4, generator=21), []
    for fixed in (True, False):
        run, calls = joint.remembering(), [0]
        run.hold()

        def counted(x: Tensor, sigma: Tensor, run=run, calls=calls) -> Tensor:
            calls[0] += 1
            return run(x, sigma)

        if not fixed:
            counted.commit = run.commit
        end(counted, u, Adaptive(1e-5))
        costs.append(calls[0])
    assert costs[1] < 2 * costs[0]


def test_likelihoods_neither_read_nor_write_a_memory() -> None:
    run = slow().remembering()
    run(START, 8.0)
    before = dict(run.memory)
    bare = log_likelihood(run.joint, START, 0.5, 8.0, solver=Adaptive(1e-2))
    assert torch.equal(log_likelihood(run, START, 0.5, 8.0, solver=Adaptive(1e-2)), bare)
    assert run.memory == before


# ---------------------------------------------------------------- particles


class Weighted:
    """A potential that remembers the latest state and score of every particle, and says so."""

    fingerprint = "the same, however often it was called"
    components = torch.tensor([0, 0, 1])

    def by_component(self, u: Tensor, sigma: Tensor) -> None:
        raise AssertionError("a memory belongs to whole particles")

    def __init__(self, memory: dict[str, Tensor] | None = None, fail_at: float = 0.0) -> None:
        self.memory, self.fail_at = dict(memory or {}), fail_at

    def remembering(self, memory: dict[str, Tensor]) -> "Weighted":
        return type(self)(memory, self.fail_at)

    def __call__(self, u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        if sigma[0] <= self.fail_at:
            raise RuntimeError("killed")
        score, known = elementwise(u, sigma), self.memory
        if known:
            fall = known["level"] ** 2 - sigma**2
            assert torch.equal(u, known["u"] + 0.5 * fall[:, None] * known["score"])
            score = score + 0.2 * known["score"]
        self.memory = {"u": u.clone(), "score": score.clone(), "level": sigma.clone()}
        return score, 2 * u.sin().sum(dim=1) / sigma**2


class Twice(Weighted):
    """It calls with [x, x], so that its memory has rows for both halves, as that of guidance."""

    def __call__(self, u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        score, rates = super().__call__(torch.cat([u, u]), torch.cat([sigma, sigma]))
        return score[: len(u)], rates[: len(u)]


def test_smc_resamples_the_memory_together_with_its_particles(tmp_path: Path) -> None:
    """Without noise every state is known from the memory; a killed run continues bit for bit."""
    sigmas, options = karras(12, 0.1, 8.0)[:-1], {"shape": (50, 3), "generator": 0, "eta": 0.0}
    whole = sample_weighted(Weighted(), sigmas, **options)
    assert whole.n_resampled > 2, whole.effective
    assert torch.equal(sample_weighted(Twice(), sigmas, **options).x, whole.x)
    options["run"] = Run(tmp_path, every=0)
    with pytest.raises(RuntimeError, match="killed"):
        sample_weighted(Weighted(fail_at=1.0), sigmas, **options)
    resumed = sample_weighted(Weighted(), sigmas, **options)
    assert torch.equal(resumed.x, whole.x)
    assert torch.equal(resumed.log_weights, whole.log_weights)
