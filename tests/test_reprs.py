"""What objects say of themselves: one line in a terminal, a drawing or a table in a notebook."""

import importlib
import inspect
import math
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache, partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pgmdiff
from pgmdiff import Evidence, Marginal, Posterior, advise, check_consistency, compose
from pgmdiff.conditioning import masks, matrices, moment_matching, replacement
from pgmdiff.conditioning.matching import Composed, Isotropic, Tweedie
from pgmdiff.conditioning.observations import Observation
from pgmdiff.conditioning.operators import Linear, Stacked
from pgmdiff.gaussian import Gaussian, GaussianMixture, node_covariances, node_scores
from pgmdiff.gaussian import distributions as gaussian_distributions
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    cubemap,
    cycle,
    grid,
    junction_tree,
    nested_cubemap,
    tiles,
    torus,
    tree,
)
from pgmdiff.graphs.acyclicity import CliqueForest
from pgmdiff.graphs.groups import AxisWindows
from pgmdiff.graphs.report import Definiteness
from pgmdiff.notebook import _drawing, _summary, shown
from pgmdiff.plotting.ink import count_text
from pgmdiff.precision import covariances as providers
from pgmdiff.precision import forms, solves
from pgmdiff.precision.fitting import fit_covariances
from pgmdiff.precision.solves.circulant import Circulant
from pgmdiff.precision.solves.direct import LatestFactors, SparseFactors
from pgmdiff.precision.solves.iterative import ConjugateGradients
from pgmdiff.precision.solves.small_space import SmallSpace
from pgmdiff.samplers import (
    Curvature,
    Noise,
    adaptive,
    correctors,
    karras,
    multistep,
    one_step,
    sample_weighted,
)
from pgmdiff.samplers.base import State
from pgmdiff.samplers.curvature import Extremes
from pgmdiff.scores.adapters import Timesteps, from_denoiser, from_eps, from_flow
from pgmdiff.scores.guidance import guided, scheduled
from pgmdiff.testing import assert_lawful, laws, strategies, two_mode_chain
from pgmdiff.text import Table, brief

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
        "least": lambda: Posterior(node_covariances(graph, q), shrinkage="least"),
        "evidence": lambda: Evidence(node_covariances(graph, q), jitter=1e-6),
    }
    return compose(graph, node_scores(graph, q), rule=rules[rule]())


def data(*shape: int) -> Tensor:
    return torch.randn(50, *shape, generator=torch.Generator().manual_seed(0)).cumsum(-1)


def windows() -> RegionGraph:
    return tiles((3, 14, 16), (3, 6, 8), (0, 2, 4), periodic=(False, False, True))


@cache
def fitted(form: str, **options: Any) -> Any:
    return fit_covariances(windows(), data(3, 14, 16), form=form, **options)  # type: ignore[arg-type]


def levelled(n: int = 40) -> providers.DenoisingErrors:
    return providers.DenoisingErrors(
        tuple(np.geomspace(0.01, 90, n).tolist()), (fitted("dense", shared=True),) * n
    )


def solve(kind: str) -> Any:
    graph = windows()
    rule = {
        "stationary": lambda: Posterior(fitted("stationary", axes=(1, 2)), shrinkage=0.9),
        "separable": lambda: Posterior(fitted("dense", channels=True), shrinkage=0.9),
        "levels": lambda: Posterior(levelled(3), shrinkage=0.9),
    }[kind]()
    return rule.precision(graph)


def ring_precision(form: str = "stationary", **options: Any) -> Any:
    ring = tiles((32,), 8, 4, periodic=True)
    found = fit_covariances(ring, data(32), form=form, shared=True, **options)  # type: ignore[arg-type]
    return Posterior(found, shrinkage=0.9).precision(ring)


def potential(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return -x, torch.zeros(len(x))


def particles() -> Any:
    return sample_weighted(potential, karras(4, 0.1, 9.0)[:-1], shape=(5, 3))


def inverse(rows: int = 3) -> forms.DensePrecisions:
    return forms.DensePrecisions(torch.eye(4).expand(rows, 4, 4), torch.ones(rows, 4))


OBJECTS: dict[str, Callable[[], Any]] = {
    # graphs
    "FactorGraph": lambda: nested_cubemap(4),
    "RegionGraph": windows,
    "IndexGroup": lambda: chain(N).regions.groups[0],
    "WindowGroup": lambda: windows().groups[0],
    "AxisWindows": lambda: AxisWindows(4000, 16, np.arange(1000) * 4, 1, True),
    "Variables": lambda: chain(1000).regions.variables,
    "CliqueForest": lambda: CliqueForest([np.arange(500)] * 300, [(0, 1)] * 299, True),
    "Report": lambda: tiles((400,), 16, 4).validate(),
    "Definiteness": lambda: Definiteness(0.123456789, 1 / 3, 1e-7),
    "Proxy": lambda: cycle(5).validate().proxy,
    # joints and what they are made of
    "Joint": lambda: joint("least"),
    "Potential": lambda: joint("marginal").potential,
    "Batch": lambda: joint().batches[0],
    "Marginal": Marginal,
    "Average": pgmdiff.Average,
    "Posterior": lambda: joint("posterior").rule,
    "Evidence": lambda: joint("evidence").rule,
    "Timesteps": lambda: Timesteps(np.linspace(0.999, 0.005, 1000).tolist()),
    "DenoiserScore": lambda: from_denoiser(Network()),
    "NetworkScore": lambda: from_flow(Network()),
    "EpsScore": lambda: from_eps(Network()),
    "Guided": lambda: guided(Network(), {"text": torch.zeros(77, 768)}, guidance=7.5),
    "Scheduled": lambda: scheduled(Network(), {"guidance": lambda w, s: w}),
    # Gaussians
    "Gaussian": gaussian,
    "GaussianMixture": mixture,
    "NodeScores": lambda: node_scores(chain(N), mixture()),
    "gaussian.Stack": lambda: gaussian_distributions.Stack.of(
        mixture(), chain(N).regions.groups[0]
    ),
    # covariances and precisions
    "Dense": lambda: providers.Dense(node_covariances(chain(N), gaussian())),
    "Pooled": lambda: fitted("dense", shared=True),
    "Place": lambda: next(iter(fitted("dense").parents.values())),
    "LowRank": lambda: fitted("low_rank", rank=4),
    "Stationary": lambda: fitted("stationary", axes=(1, 2)),
    "Separable": lambda: fitted("dense", channels=True),
    "DenoisingErrors": levelled,
    "ComposedPrecision": lambda: solve("stationary"),
    "LevelledPrecision": lambda: solve("levels"),
    "Block": lambda: joint().precision.blocks[0],
    "Change": lambda: forms.Change(0.1, 1e-8, 1.0),
    "DensePrecisions": inverse,
    "LowRankPrecisions": lambda: forms.LowRankPrecisions(
        torch.zeros(3, 9, 2), torch.zeros(3, 2), 0.1
    ),
    "SeparablePrecisions": lambda: forms.SeparablePrecisions(torch.eye(3)[None], inverse()),
    "Interpolated": lambda: forms.Interpolated((0.1, 1.0), (inverse(), inverse())),
    "DenseCovariances": lambda: forms.DenseCovariances(torch.eye(4).expand(3, 4, 4)),
    "LowRankCovariances": lambda: forms.LowRankCovariances(torch.zeros(3, 9, 2), 0.1),
    "SeparableCovariances": lambda: forms.SeparableCovariances(
        torch.eye(3), forms.DenseCovariances(torch.eye(4)[None])
    ),
    "Inverted": lambda: forms.Inverted(inverse()),
    "Eigen": lambda: joint().solve,
    "Channelwise": lambda: solves.solver_of(solve("separable")),
    "PerLevel": lambda: solves.solver_of(solve("levels")),
    "Circulant": lambda: Circulant(ring_precision(), (8,)),
    "SmallSpace": lambda: SmallSpace(ring_precision("low_rank", rank=2)),
    "SparseFactors": lambda: SparseFactors(joint().precision),
    "ConjugateGradients": lambda: ConjugateGradients(joint().precision),
    "LatestFactors": lambda: LatestFactors(lambda sigma: sigma),
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
    "Composed": lambda: Composed(joint("least")),
    "Isotropic": Isotropic,
    "Tweedie": Tweedie,
    # samplers
    "State": lambda: State(
        torch.zeros(8, N), 3, 0.7, torch.zeros(8, N), ((0.9, torch.zeros(8, N)),)
    ),
    "Noise": lambda: Noise.of(3, 1000),
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
    "Metropolis": lambda: correctors.Metropolis(joint("evidence").log_density, 0.5),
    "PredictorCorrector": lambda: correctors.PredictorCorrector(
        one_step.SDE(), correctors.Langevin(0.25, 5, lambda sigma: 1 / sigma**2)
    ),
    "Curvature": lambda: measured(),
    "Extremes": lambda: Extremes(torch.zeros(500), torch.ones(500)),
    # reports
    "Advice": lambda: advise({"chain": chain(3), "cycle": cycle(3)}, gaussian(3)),
    "Prediction": lambda: advise({"chain": chain(3), "cycle": cycle(3)}, gaussian(3)).rows[0],
    "Consistency": lambda: consistency(),
    "Agreement": lambda: consistency().rows[0],
    "Checked": lambda: assert_lawful(chain(3), only=list(pgmdiff.testing.LAWS)[:4]),
    "Subject": lambda: laws.Subject(chain(N)),
}


@cache
def measured() -> Curvature:
    return Curvature.measure(gaussian().score, karras(40, 0.01, 10.0), shape=(4, N))


@cache
def consistency() -> Any:
    return check_consistency(chain(3), node_scores(chain(3), gaussian(3)), data(3), (0.1, 1.0))


NOT_PRINTED = {
    "UNet", "EDMDenoiser",  # torch's modules print their layers
    "LinearOperator", "Step", "Symmetric",  # a protocol, a dict, an autograd function
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
        "Joint(RegionGraph(event_shape=(3,), 5 regions (3 with a nonzero count) in 2 groups), "
        "rule=Marginal(), evaluates=3 regions in 2 batches)"
    )
    assert "solve=Eigen" in repr(joint())
    assert repr(from_denoiser(Network())) == "DenoiserScore(Network)"
    assert repr(chain(3).validate()) == (
        "Report(valid, 5 regions over 3 elements, junction_tree=True, alpha_acyclic=True)"
    )
    mask = masks.Mask(torch.tensor([True, False, True]))
    assert repr(mask) == "Mask(event_shape=(3,), 2 of 3 observed)"
    conditioned = replacement(joint("marginal", 3), torch.ones(3), mask)
    assert repr(conditioned) == "DenoiserScore(replacement.conditioned)"
    posterior = moment_matching(gaussian(3).score, torch.ones(3), mask, Tweedie(), noise=0.1)
    assert repr(posterior) == "DenoiserScore(moment_matching.conditioned)"


def test_brief() -> None:
    class Plain:
        pass

    assert brief(torch.zeros(2, 3)) == "[2, 3] float32"
    assert brief(np.zeros(4)) == "[4] float64"
    assert brief(Network()) == "Network"
    assert brief(Plain()) == "Plain"
    assert brief(partial(torch.add, 1)).startswith("partial(")
    assert brief("x" * 10_000, 20) == "'" + "x" * 18 + "…"
    assert brief((torch.zeros(2),)) == "([2] float32,)"
    assert brief(list(range(10_000))) == "10000 values"
    assert brief({"a": torch.zeros(1)}) == "{'a': [1] float32}"


# ---------------------------------------------------------------- notebooks


def parsed(html: str) -> ElementTree.Element:
    """A drawing or a table, which is well-formed XML."""
    return ElementTree.fromstring(html)


def is_drawn(graph: FactorGraph | RegionGraph) -> bool:
    return parsed(graph._repr_html_()).tag == f"{SVG}svg"


def words(element: ElementTree.Element, tag: str = "text") -> list[str]:
    return ["".join(each.itertext()) for each in element.iter(f"{SVG}{tag}")]


SMALL: dict[str, Callable[[], FactorGraph | RegionGraph]] = {
    "chain": lambda: chain(4),
    "one": lambda: chain(1),
    "nothing": lambda: chain(0),
    "no regions": lambda: RegionGraph((0,), ()),
    "cycle": lambda: cycle(6),
    "tree": lambda: tree(2, 4),
    "grid": lambda: grid(3, 3),
    "torus": lambda: torus(3, 4),
    "nested": lambda: nested_cubemap(4),
    "strip": lambda: tiles((64,), 24, 4),
    "ring": lambda: tiles((64,), 16, 8, periodic=True),
    "tiles": lambda: tiles((3, 52, 64), (3, 16, 16), (0, 4, 4)),
    "torus of tiles": lambda: tiles((48, 48), 16, 8, periodic=True),
    "large tiles": lambda: tiles((3, 464, 464), (3, 128, 128), (0, 16, 16)),
    "kikuchi": lambda: cluster_variation(KIKUCHI),
    "junction tree": lambda: junction_tree(KIKUCHI, max_clique=4),
    "cube": lambda: cubemap(8),
}
LARGE: dict[str, Callable[[], FactorGraph | RegionGraph]] = {
    "chain": lambda: chain(1000),
    "torus": lambda: torus(40, 40),
    "tiles": lambda: tiles((3, 1024, 1024), (3, 64, 64), (0, 16, 16)),
    "narrow tiles": lambda: tiles((16, 36004), (16, 16), (0, 4)),
    "a cube of many elements": lambda: cubemap(128, 16),
    "shapes": lambda: FactorGraph.from_scopes({}, {f"x{i}": (i + 1,) for i in range(100)}),
    "nested": lambda: FactorGraph.from_scopes({"f": ("a",)}, {"a": (99,)}).nest(
        {"a": tiles((99,), 3, 2)}
    ),
    "nested large": lambda: FactorGraph.from_scopes({}, {"a": (300_000,)}).nest(
        {"a": RegionGraph.from_regions({"all": range(300_000)}, event_shape=(300_000,))}
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_graphs_are_drawn(name: str) -> None:
    graph = SMALL[name]()
    assert _drawing(graph) is not None
    svg = parsed(graph._repr_html_())
    assert svg.tag == f"{SVG}svg"
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == repr(graph)
    left, top, width, height = map(float, svg.get("viewBox", "").split())
    assert (left, top) == (0, 0)
    assert 0 < width < 900
    assert 0 < height < 900


@pytest.mark.parametrize("name", LARGE)
def test_large_graphs_are_counted(name: str) -> None:
    graph = LARGE[name]()
    html = graph._repr_html_()
    if name == "nested":
        assert is_drawn(graph)
        return
    assert not is_drawn(graph)
    assert html == _summary(graph)
    assert len(html) < 6_000


def test_nodes_carry_names_and_counts() -> None:
    found = words(parsed(chain(3)._repr_html_()))
    assert {"x0", "x1", "x2", "f0", "f1", "+1", "−1", "0", "+1 × 2", "−1 × 1"} <= set(found)


def test_boxes_are_those_that_indices_tell_of() -> None:
    from pgmdiff.plotting.boxes import _box, _intervals

    for graph in (windows(), tiles((48, 10), (16, 10), (8, 0), periodic=True), tiles((7,), 7)):
        indices = [
            _box(row.numpy().ravel(), graph.event_shape)
            for group in graph.groups
            for row in group.indices(0, len(group))
        ]
        assert list(_intervals(graph)) == indices


def test_drawings_are_plain() -> None:
    for make in SMALL.values():
        html = make()._repr_html_()
        assert not re.search(r"<(script|foreignObject|a)\b", html)
        assert not re.search(r"url\((?!#)", html)
        assert {*re.findall(r"https?://[^\"]*", html)} <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }
        assert not re.search(r"\b(nan|inf)\b", html)


# ---------------------------------------------------------------- hostile names


class Unspeakable:
    """A name that cannot be written."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


DEEP: Any = ()
for _ in range(2000):
    DEEP = (DEEP,)
HOSTILE: list[Any] = [
    "<script>alert(1)</script>", "\"'><svg onload=x>", "&amp;", "]]>", "x" * 10_000, "a\nb\tc", "",
    "\x00\x07", "\ud800", "\ufffe", "日本語の名前", "e\u0301" * 50, "{}", "%s", "$x^2$", None, (),
    (1,),
    ((0, 1), (2, frozenset({"a"}))), frozenset(), frozenset({"<b>", '"'}), 3, 2.5, float("nan"),
    True, b"\xff", DEEP, Unspeakable(), object(), int,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: type(name).__name__)
def test_names_may_be_anything(name: Any) -> None:
    factor = FactorGraph.from_scopes({("f", name): (name, "other")})
    region = RegionGraph.from_regions(
        {name: [0, 1], ("z", 1): [1]}, {name: 1, ("z", 1): 0}, event_shape=(2,)
    )
    around = FactorGraph.from_scopes({}, {name: (2,)}).nest({name: chain(2)})
    for graph in (factor, region, around):
        html = graph._repr_html_()
        parsed(html)
        assert "<script>" not in html
        assert len(html) < 20_000
        html.encode()
        if not isinstance(name, Unspeakable) and name is not DEEP:
            assert is_drawn(graph)


def test_a_repr_never_raises() -> None:
    class Broken:
        def __repr__(self) -> str:
            return "Broken(<1>)"

    def fails() -> str:
        raise ValueError("no")

    assert shown(Broken(), fails, fails) == "<pre>Broken(&lt;1&gt;)</pre>"


@settings(max_examples=60, deadline=None)
@given(strategies.factor_graphs() | strategies.nested_graphs() | strategies.region_graphs())
def test_any_graph_is_shown(graph: FactorGraph | RegionGraph) -> None:
    drawn = _drawing(graph)
    if drawn is not None:
        parsed(drawn)
    parsed(_summary(graph))
    parsed(graph._repr_html_())
    assert "\n" not in repr(graph)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=80), st.integers(-9, 9), min_size=1), st.integers(1, 7))
def test_any_name_and_fraction_is_drawn(counts: dict[str, int], denominator: int) -> None:
    regions = {name: list(range(i + 1)) for i, name in enumerate(counts)}
    graph = RegionGraph.from_regions(
        regions, counts, event_shape=(len(counts),), denominator=denominator
    )
    drawn = _drawing(graph)
    assert drawn is not None
    parsed(drawn)


def test_huge_fractions_are_drawn() -> None:
    graph = RegionGraph.from_regions(
        {"a": [0]}, {"a": 10**18 + 1}, event_shape=(1,), denominator=10**18
    )
    assert is_drawn(graph)
    assert count_text(10**30) in "+" + str(10**30)


def test_an_invalid_graph_is_shown() -> None:
    twice = chain(2).regions.groups[0]
    assert is_drawn(RegionGraph((2,), (twice, twice)))  # two regions of one name


# ---------------------------------------------------------------- size, reports, imports


def complete(n: int) -> FactorGraph:
    pairs = [(i, j) for i in range(n) for j in range(i)]
    return FactorGraph.from_scopes({f"f{i},{j}": (i, j) for i, j in pairs})


HUGE: dict[str, Callable[[], FactorGraph | RegionGraph]] = {
    "a million variables": lambda: FactorGraph.from_arrays(
        np.stack([np.arange(999_999), np.arange(1, 1_000_000)], axis=1)
    ),
    "many shapes": lambda: FactorGraph.from_scopes({}, {i: (1 + i % 3,) for i in range(300_000)}),
    "a million tiles": lambda: tiles((3, 16_008, 16_008), (3, 24, 24), (0, 8, 8)),
    "tiles": lambda: tiles((3, 496, 496), (3, 64, 64), (0, 16, 16)),
    "complete": lambda: complete(10),
    "dense": lambda: FactorGraph.from_scopes(
        {f"f{i}": [f"x{j}" for j in range(30)] for i in range(30)}
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_shown_of_a_large_graph_is_small(name: str) -> None:
    """So that showing it is quick, too: 5 ms for a million variables on an idle machine."""
    assert len(HUGE[name]()._repr_html_()) < 200_000


@pytest.mark.parametrize("name", ["Report", "Advice", "Consistency", "Joint"])
def test_reports_are_tables(name: str) -> None:
    html = OBJECTS[name]()._repr_html_()
    assert parsed(html).tag == "div"
    assert "background" not in html  # the page's own colours


def test_reports_say_what_they_print() -> None:
    report = cycle(5).validate()
    paragraphs = ["".join(p.itertext()) for p in parsed(report._repr_html_()).iter("p")]
    assert " ".join(paragraphs).split() == str(report).split()
    found = parsed(OBJECTS["Advice"]()._repr_html_())
    cells = ["".join(cell.itertext()) for cell in found.iter("td")]
    assert cells[0] == "chain"
    assert "posterior" in ["".join(cell.itertext()) for cell in found.iter("th")]


def test_a_joint_of_many_models_lists_some() -> None:
    graph = FactorGraph.from_scopes({i: (f"x{i}",) for i in range(40)})
    scores = {i: partial(lambda x, sigma, i: -x, i=i) for i in range(40)}
    html = compose(graph, scores)._repr_html_()
    assert "40 regions in 40 batches" in html
    assert "and 28 more batches" in html


def test_large_reports_keep_what_takes_long_for_print() -> None:
    report = tiles((3, 208, 208), (3, 64, 64), (0, 16, 16)).validate()
    assert "not yet determined" in report._repr_html_()
    assert not {"proxy", "diameter"} & vars(report).keys()
    assert "diameter: 4" in str(report)
    assert "diameter: 4" in report._repr_html_()


def test_notebooks_need_no_matplotlib() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pgmdiff.graphs import chain, tiles\n"
        "print(chain(3)._repr_html_()[:4], tiles((8,), 4, 2)._repr_html_()[:4])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.split() == ["<div", "<div"], done.stderr
