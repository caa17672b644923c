"""Everywhere rules, solves, solvers, conditions and training agree with the CPU.

Each test runs on a pretended device, which refuses what a GPU refuses, and on a GPU where there is
one.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgmdiff import Consistent, Posterior, compose, from_denoiser, graphs, karras, sample, tiles
from pgmdiff.baselines import outpainting
from pgmdiff.composition import Average, FeynmanKac, Joint, Marginal
from pgmdiff.conditioning import Crop, Mask, dps, moment_matching, reconstruction
from pgmdiff.diagnostics import check_consistency
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import RegionGraph
from pgmdiff.linalg import beside
from pgmdiff.models.unet import UNet
from pgmdiff.precision import Separable, Stationary
from pgmdiff.samplers import EDM, SDE, DPMSolver2M, Euler, Heun, Solver, UniPC, sample_weighted
from pgmdiff.testing import markov_gaussian, two_mode_chain
from pgmdiff.training import fit
from tests.composition.test_stars import gaussians
from tests.elsewhere import Elsewhere
from tests.precision.examples import low_rank, ring
from tests.test_units import LAWS, Units, check

SIGMAS = karras(8, 0.02, 10.0)


class Moved:
    """The score of a Gaussian, where the state is."""

    def __init__(self, q: Gaussian) -> None:
        self.q = q

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return Gaussian(self.q.mean.to(x), self.q.covariance.to(x))(x, sigma)


def white(x: Tensor, sigma: Tensor) -> Tensor:
    return -x / (1 + beside(sigma, x) ** 2)


def joint_of(graph: RegionGraph, covariances: Any, rule: type) -> Joint:
    if covariances is not None:
        return compose(graph, white, rule=rule(covariances))
    q = markov_gaussian(graph, 3)
    models = {name: Moved(score) for name, score in node_scores(graph, q).items()}
    return compose(graph, models, rule=rule(node_covariances(graph, q)))


def agree(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    assert found.device.type != "cpu"
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)


LONG = 0.8 ** torch.arange(-15, 16).abs().double()
BRANCHES = graphs.tree(2, 9)
CASES: dict[str, tuple[RegionGraph, Any]] = {
    "Eigen": (graphs.chain(9).regions, None),
    "Loops": (graphs.cycle(7).regions, None),
    "Circulant": (tiles((24,), 6, 2, periodic=True), ring((24,), 0.7)),
    "BlockTree": (tiles((4096,), 16, 8), Stationary(LONG[None, None], (0,))),
    "BlockTree, branches": (
        BRANCHES.regions,
        {name: torch.eye(len(scope)).double() / 2 + 0.5 for name, scope in BRANCHES.scopes.items()}
        | dict.fromkeys(BRANCHES.variables, torch.ones(1, 1).double()),
    ),
    "Channelwise": (
        tiles((3, 1024), (3, 16), (0, 8)),
        Separable(torch.eye(3).double() + 0.5, Stationary(LONG[None, None], (0,))),
    ),
    "SmallSpace": (tiles((56,), 20, 8), low_rank(tiles((56,), 20, 8), 4, 0.3)[0]),
    "ConjugateGradients": (
        tiles((32, 32), 16, 8), Stationary((LONG[:, None] * LONG)[None, None], (0, 1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", [Posterior, Consistent])
@pytest.mark.parametrize("name", CASES)
def test_scores_with_covariances_agree(name: str, rule: type, there: torch.device) -> None:
    """For each kind of solve, in both precisions; gradients, too."""
    joint = joint_of(*CASES[name], rule)
    u = torch.randn(2, *joint.event_shape, generator=torch.Generator().manual_seed(0)).double()
    tolerance = 1e-4 if "Gradients" in name else 1e-7
    for sigma in (0.1, 3.0):
        agree(joint(u.to(there), sigma), joint(u, sigma), tolerance)
        single = joint(u.float().to(there), sigma)
        assert single.dtype == torch.float32
        assert (single.cpu().double() - joint(u, sigma)).abs().max() < 1e-2 / min(sigma, 1)
    leaf, other = u.to(there).requires_grad_(), u.clone().requires_grad_()
    (found,) = torch.autograd.grad(joint(leaf, 1.0).square().sum(), leaf)
    (expected,) = torch.autograd.grad(joint(other, 1.0).square().sum(), other)
    agree(found, expected, tolerance)


@pytest.mark.parametrize("rule", [Marginal(), Average()])
@pytest.mark.parametrize(
    "solver", [Heun(), SDE(), DPMSolver2M(eta=1.0), UniPC(), EDM(8)], ids=lambda s: type(s).__name__
)
def test_samples_agree(solver: Solver, rule: Any, there: torch.device) -> None:
    graph = tiles((2, 12, 8), (2, 4, 4), (0, 2, 2), (False, True, False))
    joint = compose(graph, from_denoiser(lambda x, s: x.sin() / (1 + beside(s, x))), rule=rule)
    options: dict[str, Any] = {"shape": (3, 2, 12, 8), "generator": 5, "dtype": torch.float64}
    expected = sample(joint, SIGMAS, solver=solver, **options)
    agree(sample(joint, SIGMAS, solver=solver, device=there, **options), expected, 1e-8)


def test_stars_agree(there: torch.device) -> None:
    graph, models = gaussians(12, 3)
    models.pop("whole")
    rule = Consistent({name: each.covariance for name, each in models.items()})
    joint = compose(graph, {name: Moved(each) for name, each in models.items()}, rule=rule)
    assert joint.rule.star is not None
    options: dict[str, Any] = {"shape": (4, 3), "generator": 1, "dtype": torch.float64}
    expected = sample(joint, SIGMAS, **options)
    agree(sample(joint, SIGMAS, device=there, **options), expected, 1e-7)


@pytest.mark.parametrize("rule", [None, Posterior, Consistent])
def test_conditioned_scores_agree(rule: type | None, there: torch.device) -> None:
    graph = graphs.chain(9)
    q = markov_gaussian(graph, 3)
    models = {name: Moved(score) for name, score in node_scores(graph, q).items()}
    joint = compose(graph, models, rule=rule and rule(node_covariances(graph, q)))
    mask = torch.tensor([1, 0, 0, 1, 1, 0, 0, 1, 0]).bool()
    generator = torch.Generator().manual_seed(3)
    u, y = (torch.randn(*n, generator=generator).double() for n in ((3, 9), (9,)))

    def conditioned(device: torch.device) -> Iterator[Callable[[Tensor, float], Tensor]]:
        seen, values = Mask(mask.to(device)), y.to(device)
        yield moment_matching(joint, values, seen, noise=0.1)
        yield moment_matching(joint, values[2:6], Crop((9,), (slice(2, 6),)), noise=0.1)
        yield reconstruction(joint, values, seen, weight=dps(1.0, data_std=1.0))

    for found, expected in zip(conditioned(there), conditioned(torch.device("cpu")), strict=True):
        agree(found(u.to(there), 0.7), expected(u, 0.7), 1e-6)


def test_training_learns_and_goes_on(there: torch.device, tmp_path: Path) -> None:
    """On a GPU in bfloat16: a run that was saved is resumed to the same bits."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(64, 1, 24, 24, generator=generator).cumsum(2).cumsum(3) / 24
    where = {(1, 16, 16): 0.5, (1, 16, 8): 0.5}
    steps = 60 if there.type == "cuda" else 3
    options: dict[str, Any] = {"steps": steps, "batch": 16, "generator": 0, "wiener": True}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(1, (16, 16), 16)
    if there.type != "cuda":  # the pretended device has no networks of its own
        fit(where, network, data, **options)
        return
    once = fit(where, network, data, device=there, **options)
    assert next(once.parameters()).device.type == there.type
    again = fit(where, network, data, run=tmp_path, device=there, **options)
    resumed = fit(where, network, data, run=tmp_path, device=there, **options)
    for a, b in zip(again.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    x = torch.randn(4, 1, 16, 16, generator=generator)
    found = once(x.to(there), torch.ones(4, device=there)).cpu()
    assert (found - once.cpu()(x, torch.ones(4))).abs().max() < 1e-2


@pytest.mark.gpu
def test_sizes_are_measured_within_memory() -> None:
    """A model that asks for 4 GiB a row gets as many rows as there is memory for."""
    graph = tiles((1, 16, 520), (1, 16, 16), (0, 0, 8))

    def hungry(x: Tensor, sigma: Tensor) -> Tensor:
        torch.empty(len(x) << 32, dtype=torch.uint8, device=x.device)
        return white(x, sigma)

    u = torch.randn(1, 1, 16, 520, device="cuda")
    found = compose(graph, hungry, max_batch="auto")(u, 1.0)
    torch.cuda.empty_cache()
    agree(found, compose(graph, white)(u, 1.0).cpu(), 1e-5)


@contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    if device.type == "cuda":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls itself a prototype
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    else:
        with Elsewhere(waiting=False):
            yield


@pytest.mark.parametrize("rule", [Marginal, Posterior])
def test_a_score_that_is_not_checked_waits_for_nothing(rule: type, there: torch.device) -> None:
    """After its first call; one of the marginal rule can be captured and replayed, too."""
    graph = tiles((22,), 6, 2)
    given = () if rule is Marginal else (ring((22,), 0.7),)
    joint = compose(graph, white, rule=rule(*given), check_finite=False)
    u, sigma = torch.ones(2, 22, device=there), torch.ones(2, device=there)
    expected = joint(u, sigma)
    with waiting_is_an_error(there):
        found = joint(u, sigma)
    torch.testing.assert_close(found.cpu(), expected.cpu())
    if rule is Marginal and there.type == "cuda":
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            out = joint(u, sigma)
        u.mul_(2)
        captured.replay()
        torch.testing.assert_close(out, joint(u, sigma))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_joint_compiles_to_kernels() -> None:
    joint = compose(tiles((512,), 16, 8), white, check_finite=False)
    u = torch.randn(2, 512, device="cuda")
    expected = joint(u, 1.0)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(joint, fullgraph=True)(u, 1.0), expected)


def outpainted(device: torch.device) -> Tensor:
    strip = tiles((1, 4, 20), (1, 4, 8), (0, 0, 4))
    return outpainting(white, strip, SIGMAS, generator=0, device=device, solver=Euler()).samples


def weighted(device: torch.device) -> Tensor:
    joint = compose(graphs.torus(4, 4), white)
    options: dict[str, Any] = {"shape": (8, 16), "generator": 0, "device": device}
    return sample_weighted(FeynmanKac(joint), SIGMAS[:-1], **options).x


def agreement(device: torch.device) -> Tensor:
    data = torch.randn(64, 20, generator=torch.Generator().manual_seed(0)).to(device)
    found = check_consistency(tiles((20,), 8, 4), white, data, [0.3, 3.0], generator=0)
    return torch.tensor([row.disagreement for row in found.rows], device=device)


def modes(device: torch.device) -> Tensor:
    chain = two_mode_chain(5)
    return chain(chain.sample(4, 0).to(device), 0.7)


@pytest.mark.parametrize("made", [outpainted, weighted, agreement, modes])
def test_the_rest_agrees(made: Callable[[torch.device], Tensor], there: torch.device) -> None:
    agree(made(there), made(torch.device("cpu")), 1e-5)


@pytest.mark.parametrize("name", ["Eigen", "Loops"])
def test_log_densities_agree(name: str, there: torch.device) -> None:
    graph = CASES[name][0]
    q = markov_gaussian(graph, 3)
    joint = compose(graph, node_scores(graph, q), rule=Consistent(node_covariances(graph, q)))
    u = torch.randn(2, *joint.event_shape, generator=torch.Generator().manual_seed(0)).double()
    agree(joint.log_density(u.to(there), 0.7), joint.log_density(u, 0.7), 1e-7)


NETWORKS = {"training.EDMDenoiser", "training.WienerFilter", "training.fit"}  # of the user's device


@pytest.mark.parametrize("name", [name for name in LAWS if name not in NETWORKS])
def test_every_public_function_accepts_tensors_of_the_device(
    name: str, there: torch.device
) -> None:
    check(name, Units(device=there), 1e-6)
