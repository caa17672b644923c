"""What objects say of themselves: one line in a terminal, a drawing or a table in a notebook."""

import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pgmdiff
from pgmdiff import Consistent, Marginal, Posterior, advise, check_consistency, compose
from pgmdiff.baselines import Drawn
from pgmdiff.composition import FeynmanKac
from pgmdiff.conditioning import masks, matrices, moment_matching, replacement
from pgmdiff.conditioning.matching import Composed, Isotropic, Tweedie
from pgmdiff.conditioning.observations import Observation
from pgmdiff.conditioning.operators import Linear, Stacked
from pgmdiff.diagnostics.intervals import Interval
from pgmdiff.distributed import Endless, Slab, Streamed, shared
from pgmdiff.gaussian import Gaussian, GaussianMixture, node_covariances, node_scores
from pgmdiff.gaussian import distributions as gaussian_distributions
from pgmdiff.graphs import (
    RegionGraph,
    chain,
    cycle,
    nested_cubemap,
    pyramid,
    tiles,
)
from pgmdiff.graphs.groups import AxisWindows
from pgmdiff.graphs.spaced import Spaced, SpacedWindows
from pgmdiff.linalg import FixedPoint, Residual, Solution
from pgmdiff.precision import (
    ComposedPrecision,
    LargeLoops,
    Neighbourhoods,
    forms,
    nearby,
    solver_of,
)
from pgmdiff.precision import covariances as providers
from pgmdiff.precision.completing import Blocks, completed
from pgmdiff.precision.fitting import fit_covariances
from pgmdiff.precision.solves.blocks import BlockTree, nodes_of
from pgmdiff.precision.solves.circulant import Circulant
from pgmdiff.precision.solves.direct import SparseFactors
from pgmdiff.precision.solves.iterative import ConjugateGradients
from pgmdiff.precision.solves.small_space import SmallSpace
from pgmdiff.samplers import (
    Curvature,
    Noise,
    Run,
    adaptive,
    correctors,
    karras,
    multistep,
    one_step,
    sample_weighted,
)
from pgmdiff.samplers.base import State
from pgmdiff.samplers.curvature import Extremes
from pgmdiff.scores.adapters import Timesteps, from_denoiser, from_flow
from pgmdiff.scores.guidance import guided, scheduled
from pgmdiff.scores.pyramids import in_pixels
from pgmdiff.testing import assert_lawful, laws, two_mode_chain
from pgmdiff.text import Table
from pgmdiff.training import crops
from tests.helpers import group_of_one

SVG = "{http://www.w3.org/2000/svg}"
KIKUCHI = [("a", "b", "c"), ("b", "c", "d"), ("c", "d", "e"), ("a", "d", "e")]
N = 30


class Network(nn.Module):
    """A model whose own repr has several lines."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 2))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


# ---------------------------------------------------------------- every class, constructed


@cache
def gaussian(n: int = N) -> Gaussian:
    lag = (torch.arange(n)[:, None] - torch.arange(n)).abs()
    return Gaussian(torch.zeros(n).double(), 0.5 ** lag.double())


@cache
def mixture() -> GaussianMixture:
    return GaussianMixture(torch.tensor([0.25, 0.75]), [gaussian(), gaussian()])


@cache
def joint(rule: str = "posterior", n: int = N) -> Any:
    graph, q = chain(n), gaussian(n)
    rules = {
        "marginal": Marginal,
        "posterior": lambda: Posterior(node_covariances(graph, q)),
        "consistent": lambda: Consistent(node_covariances(graph, q)),
    }
    return compose(graph, node_scores(graph, q), rule=rules[rule]())


def data(*shape: int) -> Tensor:
    return torch.randn(50, *shape, generator=torch.Generator().manual_seed(0)).cumsum(-1)


def windows() -> RegionGraph:
    return tiles((3, 14, 16), (3, 6, 8), (0, 2, 4), periodic=(False, False, True))


@cache
def fitted(form: str, **options: Any) -> Any:
    return fit_covariances(windows(), data(3, 14, 16), form=form, **options)  # type: ignore[arg-type]


def solve(kind: str) -> Any:
    graph = windows()
    given = {
        "stationary": lambda: fitted("stationary", axes=(1, 2), ridge=9.0),
        "separable": lambda: fitted("dense", channels=True, ridge=9.0),
    }[kind]()
    return ComposedPrecision(graph, given)


def ring_precision(form: str = "stationary", **options: Any) -> Any:
    ring = tiles((32,), 8, 4, periodic=True)
    options |= {"shared": True, "ridge": 9.0}
    found = fit_covariances(ring, data(32), form=form, **options)  # type: ignore[arg-type]
    return ComposedPrecision(ring, found)


def closed_ring() -> Any:
    return Consistent(ring_blocks()).bind(cycle(5).regions).loops


@cache
def neighbourhoods() -> Neighbourhoods:
    found = nearby(cycle(5).regions, providers.Dense(ring_blocks()))
    assert found is not None
    return found


def ring_blocks() -> dict[Any, Tensor]:
    pair = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    factors = dict.fromkeys(cycle(5).factors, pair)
    return {**factors, **dict.fromkeys(cycle(5).variables, torch.ones(1, 1))}


def potential(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return -x, torch.zeros(len(x))


def particles() -> Any:
    return sample_weighted(potential, karras(4, 0.1, 9.0)[:-1], shape=(5, 3))


def in_a_group(make: Callable[[], Any]) -> Any:
    with group_of_one():
        return make()


def inverse(rows: int = 3) -> forms.DensePrecisions:
    return forms.DensePrecisions(torch.eye(4).expand(rows, 4, 4))


OBJECTS: dict[str, Callable[[], Any]] = {
    # graphs
    "FactorGraph": lambda: nested_cubemap(4),
    "RegionGraph": windows,
    "IndexGroup": lambda: chain(N).regions.groups[0],
    "WindowGroup": lambda: windows().groups[0],
    "Spaced": lambda: Spaced(4000, 16, 0, 4, 996),
    "SpacedWindows": lambda: SpacedWindows((Spaced(4000, 16, 0, 4, 996),)),
    "AxisWindows": lambda: AxisWindows(4000, 16, np.arange(1000) * 4, 1, True),
    "Pyramid": lambda: pyramid((3, 64, 64), (1, 4, 4), 1, (3, 16, 16), (0, 8, 8)),
    "Turned": lambda: in_pixels(pyramid((128,), 8, 1, 16, 8), joint()),
    "Variables": lambda: chain(1000).regions.variables,
    "Report": lambda: tiles((400,), 16, 4).validate(),
    "Proxy": lambda: cycle(5).validate().proxy,
    # joints and what they are made of
    "Joint": lambda: joint(),
    "FeynmanKac": lambda: FeynmanKac(joint("marginal")),
    "Remembering": lambda: joint().remembering(),
    "Field": lambda: pgmdiff.field(torch.zeros(4, 1, 14, 16)),
    "PerNode": lambda: pgmdiff.per_node(["f0", "f1"], torch.zeros(4, 2, 16)),
    "Chunk": lambda: next(joint().evaluate(torch.zeros(1, N), torch.ones(1)))[0],
    "Batch": lambda: joint().batches[0],
    "Marginal": Marginal,
    "Average": pgmdiff.Average,
    "Posterior": lambda: joint("posterior").rule,
    "Consistent": lambda: joint("consistent").rule,
    "Timesteps": lambda: Timesteps(np.linspace(0.999, 0.005, 1000).tolist()),
    "NetworkScore": lambda: from_flow(Network()),
    "Guided": lambda: guided(Network(), {"text": torch.zeros(77, 768)}, guidance=7.5),
    "Scheduled": lambda: scheduled(Network(), {"guidance": lambda w, s: w}),
    # Gaussians
    "Gaussian": gaussian,
    "GaussianMixture": mixture,
    "NodeScores": lambda: node_scores(chain(N), mixture()),
    "NodeCovariances": lambda: node_covariances(chain(N), gaussian()),
    "gaussian.Stack": lambda: gaussian_distributions.Stack.of(
        mixture(), chain(N).regions.groups[0]
    ),
    # covariances and precisions
    "Dense": lambda: providers.Dense(node_covariances(chain(N), gaussian())),
    "Pooled": lambda: fitted("dense", shared=True),
    "Place": lambda: next(iter(fitted("dense", shared=True).parents.values())),
    "LowRank": lambda: fitted("low_rank", rank=4),
    "Stationary": lambda: fitted("stationary", axes=(1, 2)),
    "Separable": lambda: fitted("dense", channels=True),
    "ComposedPrecision": lambda: solve("stationary"),
    "Blocks": lambda: Blocks(torch.eye(N).double()),
    "Completion": lambda: completed(cycle(5).regions, providers.Dense(ring_blocks())),
    "Assembled": lambda: neighbourhoods().precision,
    "Neighbourhoods": neighbourhoods,
    "Loops": lambda: closed_ring().solve,
    "LargeLoops": lambda: LargeLoops(
        neighbourhoods().solve, neighbourhoods().precision, neighbourhoods().precision
    ),
    "ClosedLoops": closed_ring,
    "Block": lambda: joint().precision.blocks[0],
    "FixedPoint": lambda: FixedPoint(torch.zeros(2, 3), torch.ones(2), 7, True),
    "Residual": lambda: Residual(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2)),
    "DensePrecisions": inverse,
    "LowRankPrecisions": lambda: forms.LowRankPrecisions(
        torch.zeros(3, 9, 2), torch.zeros(3, 2), 0.1
    ),
    "SeparablePrecisions": lambda: forms.SeparablePrecisions(torch.eye(3)[None], inverse()),
    "DenseCovariances": lambda: forms.DenseCovariances(torch.eye(4).expand(3, 4, 4)),
    "LowRankCovariances": lambda: forms.LowRankCovariances(torch.zeros(3, 9, 2), 0.1),
    "SeparableCovariances": lambda: forms.SeparableCovariances(
        torch.eye(3), forms.DenseCovariances(torch.eye(4)[None])
    ),
    "Eigen": lambda: joint().solve,
    "Channelwise": lambda: solver_of(solve("separable")),
    "Circulant": lambda: Circulant(ring_precision(), (8,)),
    "SmallSpace": lambda: SmallSpace(ring_precision("low_rank", rank=2)),
    "BlockTree": lambda: BlockTree(joint().precision, nodes_of(joint().precision)),
    "SparseFactors": lambda: SparseFactors(joint().precision),
    "Factors": lambda: SparseFactors(joint().precision).factors,
    "ConjugateGradients": lambda: ConjugateGradients(joint().precision),
    "Products": lambda: ConjugateGradients(joint().precision).product,
    "Solution": lambda: Solution(torch.zeros(8, N), 1e-9, 3, True),
    # conditioning
    "Table": lambda: Table("a title", [("a", "1")] * 90, ("name", "number"), ["a note"]),
    "ModeChain": lambda: two_mode_chain(12),
    "Mask": lambda: masks.Mask(torch.rand(3, 64, 64) > 0.5),
    "Crop": lambda: masks.Crop((3, 64, 64), (slice(None), slice(8, 24), slice(0, 64, 2))),
    "PerAxis": lambda: matrices.block_average((3, 64, 64), 4),
    "DenseOperator": lambda: matrices.DenseOperator(torch.ones(3, N), (N,)),
    "FourierMask": lambda: masks.FourierMask(torch.rand(64, 64) > 0.5),
    "Stacked": lambda: Stacked((masks.Mask(torch.ones(N) > 0),) * 9),
    "Composition": lambda: (
        matrices.block_average((16, 16), 4, (0, 1)) @ masks.Crop((64, 64), (slice(16), slice(16)))
    ),
    "Linear": lambda: Linear(lambda x: 2 * x, (N,)),
    "Observation": lambda: Observation("test", torch.zeros(1, N), lambda x: x, (N,)),
    "Composed": lambda: Composed(joint()),
    "Isotropic": Isotropic,
    "Tweedie": Tweedie,
    # samplers
    "State": lambda: State(
        torch.zeros(8, N), 3, 0.7, torch.zeros(8, N), ((0.9, torch.zeros(8, N)),)
    ),
    "Noise": lambda: Noise.of(3, 1000),
    "Run": lambda: Run("folder"),
    "Particles": particles,
    "Euler": one_step.Euler,
    "Heun": one_step.Heun,
    "SDE": one_step.SDE,
    "DPMSolver2S": one_step.DPMSolver2S,
    "DEIS": multistep.DEIS,
    "UniPC": multistep.UniPC,
    "DPMSolver2M": multistep.DPMSolver2M,
    "DPMSolver3M": multistep.DPMSolver3M,
    "EDM": lambda: one_step.EDM(40),
    "Adaptive": adaptive.Adaptive,
    "Langevin": lambda: correctors.Langevin(0.25, 5, measured()),
    "Metropolis": lambda: correctors.Metropolis(joint("consistent").log_density, 0.5),
    "PredictorCorrector": lambda: correctors.PredictorCorrector(
        one_step.SDE(), correctors.Langevin(0.25, 5, lambda sigma: 1 / sigma**2)
    ),
    "Curvature": lambda: measured(),
    "Extremes": lambda: Extremes(torch.zeros(500), torch.ones(500)),
    # several processes
    "Ranks": lambda: in_a_group(lambda: Slab(joint()).ranks),
    "Slab": lambda: in_a_group(lambda: Slab(joint("marginal"))),
    "SharedJoint": lambda: in_a_group(lambda: shared(joint())),
    "Halo": lambda: in_a_group(lambda: Slab(joint()).halo),
    "SpreadSolve": lambda: in_a_group(lambda: Slab(joint()).part.rule.solve),
    # canvases
    "Streamed": lambda: Streamed(np.zeros((1, 3, 64, 4000), np.float32), (0.01,) * 20),
    "Endless": lambda: Endless(
        from_denoiser(Network()), karras(40, 0.01, 10.0), (3, None, None), (3, 16, 16), (0, 8, 8)
    ),
    # training
    "CropBatch": lambda: crops([(N,)], torch.randn(9, N)).draw(8),
    "Crops": lambda: crops([(N,)], torch.randn(9, N)),
    # reports
    "Advice": lambda: advise({"chain": chain(3), "cycle": cycle(3)}, gaussian(3)),
    "Prediction": lambda: advise({"chain": chain(3), "cycle": cycle(3)}, gaussian(3)).rows[0],
    "Consistency": lambda: consistency(),
    "Agreement": lambda: consistency().rows[0],
    "Calibration": lambda: consistency().models[0],
    "Drawn": lambda: Drawn(torch.zeros(8, 3, 32, 512), 1240, 40),
    "Interval": lambda: Interval(0.5, 0.4, 0.6),
    "Checked": lambda: assert_lawful(chain(3), only=list(pgmdiff.testing.LAWS)[:4]),
    "Subject": lambda: laws.Subject(chain(N)),
}


@cache
def measured() -> Curvature:
    return Curvature.measure(gaussian().score, karras(40, 0.01, 10.0), shape=(4, N), generator=0)


@cache
def consistency() -> Any:
    return check_consistency(chain(3), node_scores(chain(3), gaussian(3)), data(3), (0.1, 1.0))


NOT_PRINTED = {
    "UNet", "SeriesNet", "EDMDenoiser", "WienerFilter",  # torch's modules print their layers
    "LinearOperator", "Evaluate", "Step", "Strips",  # protocols, a dict, inside of `stream`
}  # fmt: skip


def public_classes() -> Iterator[type]:
    for module in pkgutil.walk_packages(pgmdiff.__path__, "pgmdiff."):
        if re.search(r"benchmarks|__main__|\.plotting|\.drawing|integrations", module.name):
            continue
        found = importlib.import_module(module.name)
        for name in getattr(found, "__all__", ()):
            thing = getattr(found, name)
            if inspect.isclass(thing) and thing.__module__ == module.name:
                yield thing


def test_every_public_class_is_looked_at() -> None:
    known = {name.rpartition(".")[2] for name in OBJECTS} | NOT_PRINTED
    missing = {
        kind.__name__
        for kind in public_classes()
        if not inspect.isabstract(kind)
        and not issubclass(kind, BaseException | Enum)
        and kind.__name__ not in known
    }
    assert missing <= {"RegionScores", "Pieces"}, "add them to OBJECTS"


@pytest.mark.parametrize("name", OBJECTS)
def test_a_repr_is_one_line(name: str) -> None:
    thing = OBJECTS[name]()
    text = repr(thing)
    assert type(thing).__name__ == name.rpartition(".")[2]
    assert text.startswith(type(thing).__name__)
    assert "\n" not in text
    assert len(text) < 200, text
    assert " at 0x" not in text
    assert "tensor(" not in text
    assert "array(" not in text


@pytest.mark.parametrize(
    "thing",
    [Marginal(), pgmdiff.Average(), one_step.Heun(), one_step.SDE(0.5), multistep.DEIS(),
     one_step.EDM(40), adaptive.Adaptive(rtol=1e-7), correctors.Langevin(0.25, 5, 3.0), Tweedie(),
     Isotropic(0.1234567890123), correctors.PredictorCorrector(one_step.SDE(),
     correctors.Langevin())],
    ids=repr,
)  # fmt: skip
def test_small_value_objects_can_be_pasted_back(thing: object) -> None:
    names = {**vars(one_step), **vars(correctors), **vars(multistep)}
    names |= {**vars(adaptive), "Marginal": Marginal, "Average": pgmdiff.Average}
    names |= {"Tweedie": Tweedie, "Isotropic": Isotropic, "inf": math.inf}
    assert eval(repr(thing), names) == thing


def test_reprs_say_what_things_are() -> None:
    assert repr(gaussian(3)) == "Gaussian(d=3, float64)"
    image = Gaussian(torch.zeros(2, 2), torch.eye(4))
    assert repr(image) == "Gaussian(event_shape=(2, 2), d=4, float32)"
    assert repr(node_scores(chain(3), gaussian(3))) == (
        "NodeScores(5 regions, Gaussian(d=3, float64))"
    )
    assert repr(chain(1)) == "FactorGraph(1 variable, 0 factors, 0 edges, 1 element)"
    assert repr(joint("marginal", 3)) == (
        "Joint(FactorGraph(3 variables, 2 factors, 4 edges, 3 elements), "
        "rule=Marginal(), evaluates=3 regions in 2 batches)"
    )
    assert "solve=Eigen" in repr(joint())
    assert repr(from_denoiser(Network())) == "NetworkScore(Network)"
    assert repr(chain(3).validate()) == (
        "Report(valid, 5 regions over 3 elements, junction_tree=True, alpha_acyclic=True)"
    )
    mask = masks.Mask(torch.tensor([True, False, True]))
    assert repr(mask) == "Mask(event_shape=(3,), 2 of 3 observed)"
    conditioned = replacement(joint("marginal", 3), torch.ones(3), mask)
    assert repr(conditioned) == "NetworkScore(replacement)"
    posterior = moment_matching(gaussian(3).score, torch.ones(3), mask, Tweedie(), noise=0.1)
    assert repr(posterior) == "NetworkScore(moment_matching(Tweedie()))"
