"""Definiteness of the composed precision, and how errors grow where it is nearly singular."""

import pytest
import torch
from torch import Tensor

from pgmdiff import Posterior, compose
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import FactorGraph, chain, tiles
from pgmdiff.precision import ComposedPrecision, fit_covariances
from tests.helpers import ar1
from tests.precision.examples import states


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


def test_errors_of_scores_grow_as_the_report_says() -> None:
    """Amplification is the norm of what the joint makes of one region's error, at large σ."""
    place = torch.arange(24).double()
    smooth = torch.exp(-0.5 * ((place[:, None] - place) / 4) ** 2)
    q = Gaussian(torch.zeros(24).double(), smooth + 1e-4 * torch.eye(24))
    graph = tiles((24,), 8, 4)
    rule = Posterior(node_covariances(graph, q))
    composed = compose(graph, node_scores(graph, q), rule=rule)
    found = composed.validate()
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
    whole = torch.linalg.inv(composed.precision.dense())
    assert composed.precision.amplification(whole) == pytest.approx(max(gains), rel=1e-3)
    assert max(gains) > 30
    assert "errors of a region's score grow" in found.warning
    rough = ar1(24, 0.9)
    rule = Posterior(node_covariances(graph, rough))
    fine = compose(graph, node_scores(graph, rough), rule=rule)
    whole = torch.linalg.inv(fine.precision.dense())
    assert 1 < fine.precision.amplification(whole) < 10
    assert fine.validate().warning is None
