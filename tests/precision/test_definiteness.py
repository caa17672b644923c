"""Definiteness of the composed precision: jitter, shrinkage, and what the report says of them."""

import pytest
import torch
from torch import Tensor

from pgmdiff import GraphError, Posterior, compose
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import FactorGraph, chain, nested_cubemap, tiles, torus
from pgmdiff.precision import ComposedPrecision, Dense, SparseFactors, fit_covariances
from tests.helpers import ar1, relative
from tests.precision.examples import states


@pytest.mark.parametrize("form", ["dense", "low_rank", "stationary"])
@pytest.mark.parametrize("channels", [False, True])
def test_every_form_can_be_shrunk_to_the_marginal_rule(form: str, channels: bool) -> None:
    graph = tiles((2, 24), (2, 8), (0, 2), periodic=(False, True), remainder="shift")
    data = states(48, 5, 400).reshape(-1, 2, 24).cumsum(2)
    axes = (1,) if form == "stationary" else None
    given = fit_covariances(
        graph, data, form=form, channels=channels, shared=True, rank=3, axes=axes
    )
    score = lambda x, s: -(x + x.roll(1, -1)).tanh()  # noqa: E731  (overlaps must disagree)
    u = data[:3]
    marginal = compose(graph, score)(u, 1.3)
    for shrinkage, jitter in ((1.0, 0.0), (0.3, 0.0), (0.0, 1e-3)):
        joint = compose(graph, score, rule=Posterior(given, shrinkage=shrinkage, jitter=jitter))
        assert (relative(joint(u, 1.3), marginal) < 1e-9) == (shrinkage == 1.0)
        assert f"shrinkage {shrinkage:g}, jitter {jitter:g}" in repr(joint)
        assert joint.validate().definiteness.shrinkage == shrinkage


def test_jitter_is_tried_before_shrinkage_and_both_are_reported() -> None:
    graph = tiles((12,), 6, 3)
    singular = Gaussian(torch.zeros(12), torch.ones(12, 12, dtype=torch.float64))
    given = node_covariances(graph, singular)
    with pytest.raises(GraphError, match="is singular"):
        compose(graph, lambda x, s: -x, rule=Posterior(given))
    joint = compose(graph, lambda x, s: -x, rule=Posterior(given, shrinkage="least"))
    assert (joint.precision.shrinkage, joint.precision.jitter) == (0.0, 1e-8)
    assert "jitter 1e-08" in repr(joint)
    cube = nested_cubemap(2)
    covariance = torch.full((24, 24), 0.5, dtype=torch.float64).fill_diagonal_(1.0)
    q = Gaussian(torch.zeros(24, dtype=torch.float64), covariance)
    rule = Posterior(node_covariances(cube, q), shrinkage="least")
    joint = compose(cube, node_scores(cube, q), rule=rule)
    report = joint.validate()
    assert report.definiteness.least_shrinkage == joint.precision.shrinkage > 0
    assert f"least shrinkage λ* {joint.precision.shrinkage:.3f}" in str(report)
    assert torch.linalg.eigvalsh(joint.precision.dense())[0] > 0
    with pytest.raises(GraphError, match="from 0 to 1 or 'least', got 'most'"):
        compose(cube, node_scores(cube, q), rule=Posterior({}, shrinkage="most"))
    fine = compose(
        graph, lambda x, s: -x, rule=Posterior(node_covariances(graph, ar1(12, 0.5)), "least")
    )
    assert fine.validate().definiteness.least_shrinkage == fine.precision.shrinkage == 0


def test_what_agrees_is_definite_and_what_does_not_says_so() -> None:
    """Low rank: on chains always, on other trees nearly always; dense: on both."""
    shapes = {"b": (4,), **{f"a{i}": (4,) for i in range(4)}}
    star = FactorGraph.from_scopes({f"f{i}": (f"a{i}", "b") for i in range(4)}, shapes)
    indefinite = dict.fromkeys(["dense star", "dense chain", "low_rank star", "low_rank chain"], 0)
    for seed in range(30):
        data = states(20, seed, 30) @ states(20, 100 + seed, 20)
        for name, graph in (("star", star.regions), ("chain", chain(5, (4,)).regions)):
            for form in ("dense", "low_rank"):
                fitted = fit_covariances(graph, data, form=form, rank=2)
                dense = ComposedPrecision(graph, fitted).dense()
                indefinite[f"{form} {name}"] += int(torch.linalg.eigvalsh(dense)[0] <= 0)
    assert 0 < indefinite.pop("low_rank star") < 15
    assert set(indefinite.values()) == {0}


def test_the_least_shrinkage_mends_regions_of_their_own() -> None:
    """A region's covariance can be indefinite by itself: stationary ones of few states, say."""
    graph, refused = tiles((24,), 8, 4), 0
    for seed in range(20):
        fitted = fit_covariances(graph, states(24, seed, 2).cumsum(1), form="stationary")
        try:
            compose(graph, lambda x, s: -x, rule=Posterior(fitted))
        except GraphError:
            refused += 1
            joint = compose(graph, lambda x, s: -x, rule=Posterior(fitted, "least"))
            least = joint.precision.shrinkage
            assert 0 < least < 1
            assert torch.linalg.eigvalsh(joint.precision.dense())[0] > 0
            with pytest.raises(GraphError):
                joint.precision.shrunk(least - 2e-3).dense()
    assert 0 < refused < 20
    negative = Dense({(8,): -torch.eye(8), (4,): -torch.eye(4)})
    with pytest.raises(GraphError, match="singular or indefinite"):
        compose(graph, lambda x, s: -x, rule=Posterior(negative, "least"))


def test_a_barely_definite_composition_says_how_far_off_it_is() -> None:
    """At λ* variances explode; the report has their ratio to the data's, from P itself."""
    ring = torch.tensor(
        [[1, 0.5, 0.4, 0.5], [0.5, 1, 0.5, 0.4], [0.4, 0.5, 1, 0.5], [0.5, 0.4, 0.5, 1]]
    )
    q = Gaussian(torch.zeros(16).double(), torch.kron(ring, ring).double())
    graph = torus(4, 4)
    found = {}
    for shrinkage in ("least", 0.8):
        rule = Posterior(node_covariances(graph, q), shrinkage=shrinkage)
        joint = compose(graph, node_scores(graph, q), rule=rule)
        report = joint.validate()
        variances = torch.linalg.inv(joint.precision.dense()).diagonal()
        expected = (variances / q.covariance.diagonal()).max().item()
        assert report.definiteness.inflation == pytest.approx(expected, rel=1e-6)
        assert (report.definiteness.warning is not None) == (shrinkage == "least")
        found[shrinkage] = expected, " ".join(str(report).split())
    assert found["least"][0] > 50
    assert "WARNING: the composed precision is barely definite" in found["least"][1]
    assert found[0.8][0] < 1.5
    assert "barely" not in found[0.8][1]
    tree = chain(800)
    covariances = node_covariances(tree, ar1(800, 0.5))
    large = compose(tree, lambda x, s: -x, rule=Posterior(covariances))
    assert isinstance(large.solve, SparseFactors)
    assert large.validate().definiteness.inflation is None, "sparse factors do not know"


def test_errors_of_scores_grow_as_the_report_says() -> None:
    """Amplification is the norm of what the joint makes of one region's error, at large σ."""
    place = torch.arange(24).double()
    smooth = torch.exp(-0.5 * ((place[:, None] - place) / 4) ** 2)
    q = Gaussian(torch.zeros(24).double(), smooth + 1e-4 * torch.eye(24))
    graph = tiles((24,), 8, 4)
    rule = Posterior(node_covariances(graph, q))
    found = compose(graph, node_scores(graph, q), rule=rule).validate()
    sigma, gains = 1e4, []
    for name in graph.names:
        index = graph.elements(name)

        def one(x: Tensor, s: Tensor, error: Tensor) -> Tensor:
            return error / s[:, None] ** 2

        batch = len(index)
        conditions = {
            other: {
                "error": torch.eye(batch).double()
                if other == name
                else torch.zeros(batch, len(graph.elements(other))).double()
            }
            for other in graph.names
        }
        total = []
        for k in range(batch):
            row = {n: {"error": c["error"][k]} for n, c in conditions.items()}
            joint = compose(graph, one, rule=rule, conditions=row)
            total.append(sigma**2 * joint(torch.zeros(1, 24).double(), sigma)[0])
        gains.append(torch.linalg.matrix_norm(torch.stack(total), 2).item())
    assert found.definiteness.amplification == pytest.approx(max(gains), rel=1e-3)
    assert found.definiteness.amplification > 30
    assert "errors of a region's score grow" in found.warning
    rough = ar1(24, 0.9)
    rule = Posterior(node_covariances(graph, rough))
    fine = compose(graph, node_scores(graph, rough), rule=rule).validate()
    assert 1 < fine.definiteness.amplification < 10
    assert fine.warning is None


def test_a_long_search_shows_a_bar_and_is_bounded(monkeypatch, capsys) -> None:
    graph = torus(4, 4)
    rule = Posterior(node_covariances(graph, ar1(16, 0.5)), shrinkage=0.9)
    joint = compose(graph, lambda x, s: -x, rule=rule)
    joint.validate()
    assert "least shrinkage" not in capsys.readouterr().err, "it took less than three seconds"
    monkeypatch.setattr("pgmdiff.precision.solves.definiteness.DELAY", 0.0)
    calls: list[float] = []
    shrunk = type(joint.precision).shrunk
    monkeypatch.setattr(
        type(joint.precision), "shrunk", lambda *given: (calls.append(0.0), shrunk(*given))[1]
    )
    joint.validate()
    assert "least shrinkage" in capsys.readouterr().err
    assert len(calls) <= 28
