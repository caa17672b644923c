"""On a GPU rules, solves, solvers, conditions and training agree with the CPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgmdiff import Consistent, Posterior, compose, from_denoiser, graphs, karras, sample, tiles
from pgmdiff.composition import Average, Joint, Marginal
from pgmdiff.conditioning import Crop, Mask, dps, moment_matching, reconstruction
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import RegionGraph
from pgmdiff.linalg import beside
from pgmdiff.models.unet import UNet
from pgmdiff.precision import Separable, Stationary
from pgmdiff.samplers import EDM, SDE, DPMSolver2M, Heun, Solver, UniPC
from pgmdiff.testing import markov_gaussian
from pgmdiff.training import fit
from tests.composition.test_stars import gaussians
from tests.precision.examples import low_rank, ring

pytestmark = pytest.mark.gpu
HERE = torch.device("cuda")
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


def agree(here: Tensor, there: Tensor, tolerance: float = 1e-9) -> None:
    assert here.device.type == HERE.type
    torch.testing.assert_close(here.cpu(), there, rtol=tolerance, atol=tolerance)


LONG = 0.8 ** torch.arange(-15, 16).abs().double()
CASES: dict[str, tuple[RegionGraph, Any]] = {
    "Eigen": (graphs.chain(9).regions, None),
    "Loops": (graphs.cycle(7).regions, None),
    "Circulant": (tiles((24,), 6, 2, periodic=True), ring((24,), 0.7)),
    "SparseFactors": (tiles((4096,), 16, 8), Stationary(LONG[None, None], (0,))),
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
def test_scores_with_covariances_agree(name: str, rule: type) -> None:
    """For each kind of solve, in both precisions; gradients, too."""
    joint = joint_of(*CASES[name], rule)
    u = torch.randn(2, *joint.event_shape, generator=torch.Generator().manual_seed(0)).double()
    tolerance = 1e-4 if "Gradients" in name else 1e-7
    for sigma in (0.1, 3.0):
        agree(joint(u.to(HERE), sigma), joint(u, sigma), tolerance)
        single = joint(u.float().to(HERE), sigma)
        assert single.dtype == torch.float32
        assert (single.cpu().double() - joint(u, sigma)).abs().max() < 1e-2 / min(sigma, 1)
    leaf, other = u.to(HERE).requires_grad_(), u.clone().requires_grad_()
    (found,) = torch.autograd.grad(joint(leaf, 1.0).square().sum(), leaf)
    (expected,) = torch.autograd.grad(joint(other, 1.0).square().sum(), other)
    agree(found, expected, tolerance)


@pytest.mark.parametrize("rule", [Marginal(), Average()])
@pytest.mark.parametrize(
    "solver", [Heun(), SDE(), DPMSolver2M(eta=1.0), UniPC(), EDM(8)], ids=lambda s: type(s).__name__
)
def test_samples_agree(solver: Solver, rule: Any) -> None:
    graph = tiles((2, 12, 8), (2, 4, 4), (0, 2, 2), (False, True, False))
    joint = compose(graph, from_denoiser(lambda x, s: x.sin() / (1 + beside(s, x))), rule=rule)
    options: dict[str, Any] = {"shape": (3, 2, 12, 8), "generator": 5, "dtype": torch.float64}
    expected = sample(joint, SIGMAS, solver=solver, **options)
    agree(sample(joint, SIGMAS, solver=solver, device=HERE, **options), expected, 1e-8)


def test_stars_agree() -> None:
    graph, models = gaussians(12, 3)
    models.pop("whole")
    rule = Consistent({name: each.covariance for name, each in models.items()})
    joint = compose(graph, {name: Moved(each) for name, each in models.items()}, rule=rule)
    assert joint.rule.star is not None
    options: dict[str, Any] = {"shape": (4, 3), "generator": 1, "dtype": torch.float64}
    expected = sample(joint, SIGMAS, **options)
    agree(sample(joint, SIGMAS, device=HERE, **options), expected, 1e-7)


@pytest.mark.parametrize("rule", [None, Posterior, Consistent])
def test_conditioned_scores_agree(rule: type | None) -> None:
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
        yield moment_matching(joint, values[2:6], Crop((slice(2, 6),)), noise=0.1)
        yield reconstruction(joint, values, seen, weight=dps(1.0))

    for here, there in zip(conditioned(HERE), conditioned(torch.device("cpu")), strict=True):
        agree(here(u.to(HERE), 0.7), there(u, 0.7), 1e-6)


def test_training_in_half_precision_learns_and_goes_on(tmp_path: Path) -> None:
    """A network is trained here in bfloat16, saved, and resumed to the same bits."""
    torch.manual_seed(0)
    data = torch.randn(64, 1, 24, 24).cumsum(2).cumsum(3) / 24
    where = {(1, 16, 16): 0.5, (1, 16, 8): 0.5}
    options: dict[str, Any] = {"batch": 16, "generator": 0, "wiener": True, "device": HERE}
    network = UNet(1, (16, 16), 16)
    once = fit(where, network, data, steps=60, **options)
    assert next(once.parameters()).device.type == HERE.type
    again = fit(where, network, data, steps=60, run=tmp_path, **options)
    resumed = fit(where, network, data, steps=60, run=tmp_path, **options)
    for a, b in zip(again.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    x = torch.randn(4, 1, 16, 16)
    found = once(x.to(HERE), torch.ones(4, device=HERE)).cpu()
    assert (found - once.cpu()(x, torch.ones(4))).abs().max() < 1e-2
    assert found.isfinite().all()


def test_sizes_are_measured_and_halved_where_memory_is_too_small() -> None:
    graph = tiles((1, 16, 520), (1, 16, 16), (0, 0, 8))

    def hungry(x: Tensor, sigma: Tensor) -> Tensor:
        torch.empty(len(x) * 2**36 // 16, dtype=torch.uint8, device=x.device)  # 4 GiB a row
        return white(x, sigma)

    u = torch.randn(1, 1, 16, 520, device=HERE)
    joint = compose(graph, hungry, max_batch="auto")
    with pytest.warns(UserWarning, match="memory"):
        found = joint(u, 1.0)
    torch.cuda.empty_cache()
    agree(found, compose(graph, white)(u, 1.0).cpu(), 1e-5)


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("rule", [Marginal, Posterior, Consistent])
def test_a_score_that_is_not_checked_waits_for_nothing(rule: type) -> None:
    """Also as a captured graph, which replays the calls at no cost to the CPU."""
    graph = tiles((24,), 6, 2, periodic=True)
    given = () if rule is Marginal else (ring((24,), 0.7),)
    joint = compose(graph, white, rule=rule(*given), check_finite=False)
    u, sigma = torch.randn(2, 24, device=HERE), torch.ones(2, device=HERE)
    expected = joint(u, sigma)
    with waiting_is_an_error():
        found = joint(u, sigma)
    torch.testing.assert_close(found, expected)
    if rule is Marginal:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            out = joint(u, sigma)
        u.mul_(2)
        captured.replay()
        torch.testing.assert_close(out, joint(u, sigma))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_joint_compiles_to_kernels() -> None:
    joint = compose(tiles((512,), 16, 8), white, check_finite=False)
    u = torch.randn(2, 512, device=HERE)
    expected = joint(u, 1.0)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(joint, fullgraph=True)(u, 1.0), expected)
