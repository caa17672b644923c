"""Reports say where covariances are not those of the models, and are silent where they are."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.data.sea import sea_denoiser, sea_parts
from benchmarks.exactness.modes import DISTRIBUTIONS
from experiments.sea import learned, opened
from pgmdiff import Consistent, FactorGraph, Posterior, compose, fit_covariances
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import chain, cycle, tiles
from pgmdiff.scores import from_denoiser
from tests.helpers import ar1

GRAPHS = {
    "chain": chain(12),
    "ring": cycle(12),
    "tiles": tiles((12,), 6, 3),
    "two sizes": FactorGraph.from_scopes(
        {"f": ("a", "b"), "g": ("b", "c")}, {"a": (6,), "b": (2,), "c": (4,)}
    ),
}


def scaled(given: Mapping[Any, Tensor], times: float) -> dict[Any, Tensor]:
    return {name: times * covariance for name, covariance in given.items()}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_the_ratio_of_gaussians_is_that_of_their_variances(name: str, unit: float) -> None:
    """In any unit, off centre, with and without a mean; what is far off is named."""
    graph, unscaled = GRAPHS[name], ar1(12, 0.8)
    q = Gaussian(torch.full((12,), 3 * unit).double(), unit**2 * unscaled.covariance)
    given, scores = dict(node_covariances(graph, q)), node_scores(graph, q)
    for mean in (None, q.mean):
        for times in (1.0, 2.0, 10.0, 0.2):
            joint = compose(graph, scores, rule=Posterior(scaled(given, times), mean=mean))
            report = joint.validate()
            assert report.findings[0].startswith("covariances: ")
            low, high = (float(word) for word in report.findings[0].split()[1:4:2])
            assert low == pytest.approx(times, rel=0.1)
            assert high == pytest.approx(times, rel=0.1)
            told = "times what its model says: give both in the same units" in str(report.warning)
            assert told == (times in (10.0, 0.2))


def test_one_wrong_region_is_named_and_so_is_another_order_of_elements() -> None:
    graph = FactorGraph.from_scopes({"f": ("a", "b"), "g": ("c", "d")}, dict.fromkeys("abcd", (4,)))
    q = Gaussian(torch.zeros(16), ar1(16, 0.8, torch.float32).covariance)
    given, scores = dict(node_covariances(graph, q)), node_scores(graph, q)
    report = compose(graph, scores, rule=Posterior({**given, "g": 16 * given["g"]})).validate()
    assert report.warning.startswith("covariances of 'g' are about 16 times what its model says")
    half = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
    apart = torch.block_diag(*[0.9 + 0.1 * torch.eye(4)] * 2)
    q = Gaussian(torch.zeros(16), torch.block_diag(apart, apart))
    given, scores = dict(node_covariances(graph, q)), node_scores(graph, q)
    turned = {**given, "f": apart[half][:, half]}
    report = compose(graph, scores, rule=Posterior(turned)).validate()
    assert report.warning.startswith("covariances of 'f' are not those that its model says")


@pytest.mark.parametrize("make", DISTRIBUTIONS[:9])
def test_no_alarm_for_modes(make: Any) -> None:
    report = make().problem.joint("posterior").validate()
    assert "what its model says" not in str(report.warning)


def test_no_alarm_for_trained_networks_and_one_for_standardised_data() -> None:
    """A series of the sea, and pairs of sensors, whose networks know degrees."""
    windows = sea_parts()[0].unfold(1, 62, 31).reshape(-1, 62)
    sea, series = opened(), tiles((1, 62), (1, 8), (0, 2))
    cases = [
        (sea.graph, learned(), sea.train),
        (series, from_denoiser(sea_denoiser()), windows[:, None]),
    ]
    for graph, models, data in cases:
        for unit in (1.0, 3.0):
            given = fit_covariances(graph, data / unit)
            report = compose(graph, models, rule=Consistent(given)).validate()
            assert ("what its model says" in str(report.warning)) == (unit > 1)


def test_models_that_fail_without_conditions_of_the_call_are_not_compared() -> None:
    graph, q = chain(3), ar1(3, 0.5)

    def needy(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        return -x / (1 + sigma[:, None] ** 2)

    given = dict(node_covariances(graph, q))
    report = compose(graph, needy, rule=Posterior(given)).validate()
    words = "not compared with the models, which failed on cpu in float32 and without conditions: T"
    assert words in report.findings[0]
    assert report.warning is None
    nothing = compose(graph, lambda x, sigma: x * torch.nan, rule=Posterior(given)).validate()
    assert "failed on cpu in float32 and without conditions: ScoreError" in nothing.findings[0]
    own = {name: {"label": torch.tensor(0)} for name in graph.factors}
    null = {"label": torch.tensor(1)}
    joint = compose(graph, needy, rule=Posterior(given), conditions=own, null_condition=null)
    assert "where compared" in joint.validate().findings[0]


def test_models_with_labels_are_compared_with_the_label_of_the_covariances() -> None:
    graph, q = chain(3), ar1(3, 0.5)
    variances = {0: 1.0, 1: 100.0, None: 50.5}  # without a label: of both

    def labelled(x: Tensor, sigma: Tensor, label: int | None = None) -> Tensor:
        n = x.shape[1:].numel()
        covariance = variances[label] * ar1(n, 0.5).covariance
        return Gaussian(torch.zeros(n).double(), covariance).score(x.double(), sigma).to(x)

    rule = Posterior(dict(node_covariances(graph, q)))
    report = compose(graph, labelled, rule=rule).validate()
    assert "data and label (functools.partial(score, label=...))" in report.warning
    report = compose(graph, partial(labelled, label=0), rule=rule).validate()
    assert report.warning is None


def test_models_are_called_as_in_the_latest_call() -> None:
    """One that knows float64 alone is compared after a call in float64."""
    graph, q = chain(3), ar1(3, 0.5)

    def strict(x: Tensor, sigma: Tensor) -> Tensor:
        assert x.dtype == torch.float64
        n = x.shape[1:].numel()
        return -(x.reshape(len(x), n) @ torch.linalg.inv(own[n])).reshape(x.shape)

    given = dict(node_covariances(graph, q))
    sigma = 5.0 * 1.5**0.5  # of pairs
    own = {n: ar1(n, 0.5).noised(sigma).covariance for n in (1, 2)}
    joint = compose(graph, strict, rule=Posterior(given))
    assert "AssertionError" in joint.validate().findings[0]
    joint(torch.zeros(1, 3).double(), sigma)
    assert (
        joint.validate().findings[0]
        == "covariances: 1 to 1 times what the models say, where compared"
    )


def test_no_call_has_more_rows_than_those_of_the_joint() -> None:
    graph, q = chain(3), ar1(3, 0.5)
    scores = node_scores(graph, q)

    def small(score: Any) -> Any:
        def call(x: Tensor, sigma: Tensor) -> Tensor:
            assert len(x) <= 3
            return score(x, sigma)

        return call

    few = {name: small(score) for name, score in scores.items()}
    rule = Posterior(dict(node_covariances(graph, q)))
    for models, most in ((few, 3), (scores, "auto")):
        report = compose(graph, models, rule=rule, max_batch=most).validate()
        assert report.findings[0].startswith("covariances: 1 to 1 times what the models say")
