"""Predictions are what the sampler does, and the words are those of the numbers."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pgmdiff import Average, GraphError, Marginal, ShapeError, compose, fit_covariances
from pgmdiff.composition.rules import Rule
from pgmdiff.diagnostics.advice import LIMIT, Advice, Prediction, advise, window_candidates
from pgmdiff.gaussian import (
    Gaussian,
    GaussianMixture,
    from_region_covariances,
    kl_divergence,
    node_scores,
)
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, cycle, grid, tiles
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.testing import markov_gaussian
from pgmdiff.testing.strategies import trees
from tests.helpers import ar1


def sampled_loss(graph: RegionGraph, q: Gaussian, rule: Rule, sigmas: list[float]) -> float:
    """Loss of the law that the library's own joint and sampler reach, from the identity."""
    n = graph.n_elements
    start = sigmas[0] * torch.eye(n, dtype=torch.float64).reshape(n, *graph.event_shape)
    joint = compose(graph, node_scores(graph, q), rule=rule)
    out = sample(joint, sigmas, x=start, solver=Heun()).reshape(n, n)
    return kl_divergence(Gaussian(q.mean, out.T @ out), q) / n


def exponential(*sizes: int, length: float) -> Gaussian:
    """Correlation exp(-distance / length) on a lattice."""
    axes = [torch.arange(size).double() for size in sizes]
    place = torch.cartesian_prod(*axes).reshape(-1, len(sizes))
    covariance = torch.exp(-torch.cdist(place, place) / length)
    return Gaussian(torch.zeros(sizes, dtype=torch.float64), covariance)


def equicorrelated(n: int, rho: float) -> Gaussian:
    eye = torch.eye(n, dtype=torch.float64)
    return Gaussian(torch.zeros(n, dtype=torch.float64), (1 - rho) * eye + rho)


def complete(n: int) -> FactorGraph:
    """A pair factor on every two of n scalars."""
    pairs = [(a, b) for b in range(n) for a in range(b)]
    scopes = {f"f{a}{b}": (f"x{a}", f"x{b}") for a, b in pairs}
    return FactorGraph.from_scopes(scopes, shapes={f"x{i}": () for i in range(n)})


CASES = {
    "chain": (chain(12).regions, ar1(12, 0.9)),
    "loop": (cycle(6).regions, ar1(6, 0.5)),
    "lattice": (grid(3, 3).regions, markov_gaussian(grid(3, 3), 0)),
    "tiles": (tiles((4, 6), 4, 2), exponential(4, 6, length=3.0)),
    "loops of tiles": (tiles((6, 6), 4, 2), exponential(6, 6, length=3.0)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("levels", [8, 40])
def test_the_prediction_is_what_the_sampler_does(name: str, levels: int) -> None:
    graph, q = CASES[name]
    q = Gaussian(torch.zeros(graph.event_shape).double(), q.covariance)
    sigmas = karras(levels, 0.002, 80.0)
    (row,) = advise(graph, q, sigmas=sigmas).rows
    for rule, predicted in ((Marginal(), row.marginal), (Average(), row.average)):
        assert predicted == pytest.approx(sampled_loss(graph, q, rule, sigmas), abs=1e-9)


@pytest.mark.parametrize(("rho", "loss", "digits"), [(0.95, 0.656, 5e-4), (0.5, 0.0091, 5e-5)])
def test_the_table_of_the_design(rho: float, loss: float, digits: float) -> None:
    (row,) = advise(chain(20), ar1(20, rho), sigmas=karras(100, 0.002, 80.0)).rows
    assert row.marginal == pytest.approx(loss, abs=digits)
    assert row.average > row.marginal > 1000 * row.consistent


def test_losses_do_not_depend_on_the_unit_or_the_mean() -> None:
    q = exponential(8, length=2.0)
    other = Gaussian(torch.linspace(-5, 5, 8).double(), 49 * q.covariance)
    (row,), (same,) = (advise(tiles((8,), 4, 1, remainder="shift"), g).rows for g in (q, other))
    assert same.marginal == pytest.approx(row.marginal, rel=1e-6)
    assert same.average == pytest.approx(row.average, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(trees(max_factors=4), st.integers(0, 2**31))
def test_consistent_loses_nothing_on_junction_trees(graph: FactorGraph, seed: int) -> None:
    assume(graph.n_elements)
    (row,) = advise(graph, markov_gaussian(graph, seed), sigmas=[10.0, 1.0, 0.0]).rows
    assert row.consistent == pytest.approx(0, abs=1e-10)
    assert row.note == ""


def test_nor_where_tiles_are_one_but_only_for_data_markov_to_them() -> None:
    graph = tiles((12,), 4, 2)
    assert advise(graph, ar1(12, 0.9)).rows[0].consistent == pytest.approx(0, abs=1e-12)
    smooth = exponential(12, length=4.0).covariance ** 2 + exponential(12, length=1.0).covariance
    assert advise(graph, Gaussian(torch.zeros(12).double(), smooth)).rows[0].consistent > 1e-5


def test_consistent_loses_nothing_on_loops_either() -> None:
    """On all pairs of n equicorrelated scalars P has the eigenvalue (1 - (n - 2) ρ) / (1 + ρ)."""
    for n, rho in ((4, 0.4), (4, 0.6), (6, 0.3)):
        (row,) = advise(complete(n), equicorrelated(n, rho), tolerance=1e-6).rows
        assert row.consistent == pytest.approx(0, abs=1e-10)


def test_more_overlap_loses_less_on_a_chain() -> None:
    rows = advise(window_candidates((32,), [8], [1, 2, 3, 4, 5, 6]), ar1(32, 0.9)).rows
    losses = [row.marginal for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 5 * losses[-1]
    assert max(row.consistent for row in rows) < 1e-10
    assert [row.overlap for row in rows] == [(o,) for o in (1, 2, 3, 4, 5, 6)]


def test_costs_are_those_of_the_graph() -> None:
    """Five windows and four overlaps of a chain of pairs: leaves count 0."""
    (row,) = advise(tiles((12,), 4, 2), ar1(12, 0.5)).rows
    assert (row.evaluations, row.elements) == (5 + 4, 5 * 4 + 4 * 2)
    (row,) = advise(chain(5), ar1(5, 0.5)).rows
    assert (row.evaluations, row.elements) == (4 + 3, 4 * 2 + 3)
    assert row.window is row.overlap is None


def test_region_covariances_make_the_whole() -> None:
    graph, q = tiles((12,), 4, 2), ar1(12, 0.8)
    covariances = {n: q.marginal(graph.elements(n)).covariance for n in graph.names}
    (given_regions,), (given_q,) = advise(graph, covariances).rows, advise(graph, q).rows
    assert given_regions.marginal == pytest.approx(given_q.marginal, abs=1e-9)
    whole = from_region_covariances(graph, covariances)
    candidates = window_candidates((12,), [4], [0, 2])
    assert advise(candidates, whole).rows[1].marginal == pytest.approx(given_q.marginal, abs=1e-9)


def test_the_issue_is_answered() -> None:
    advice = advise(window_candidates((64,), [16], [2, 4, 8, 12]), ar1(64, 0.95))
    assert advice.sentence == (
        "With window 16, overlap 2 the marginal rule loses 0.031 nats per element; with an "
        "overlap longer by 6 (window 16, overlap 8), at 1.4 times the evaluations, it loses 0.0057 "
        "nats per element; the rule Consistent loses nothing."
    )
    lines = str(advice).splitlines()
    assert all(len(line) <= 96 for line in lines)
    assert [line[:22].strip() for line in lines[2 : 2 + len(advice.rows)]] == [
        row.name for row in advice.rows
    ]
    assert " ".join(str(advice).split()).endswith(advice.sentence)
    assert lines[2].split()[-5:] == ["0.031", "0.04", "0", "9", "96"]


def row(
    name: str, marginal: float, elements: int, overlap: tuple[int, ...] | None, **rest
) -> Prediction:
    window = None if overlap is None else rest.pop("window", (8,) * len(overlap))
    evaluations = rest.pop("evaluations", elements // 8)
    consistent = rest.pop("consistent", 0.0)
    return Prediction(
        name, marginal, 1.0, consistent, evaluations, elements, window, overlap, **rest
    )


SENTENCES = {
    "alone": (
        [row("g", 0.5, 80, None, consistent=0.25)],
        "With g the marginal rule loses 0.5 nats per element; the rule Consistent "
        "loses 0.25 nats per element.",
    ),
    "fine": (
        [row("g", 0.005, 80, (1,)), row("h", 0.001, 160, (4,))],
        "With g the marginal rule loses 0.005 nats per element, within the tolerance of 0.01.",
    ),
    "fine, and cheaper": (
        [row("g", 0.005, 160, (4,)), row("h", 0.008, 80, (3,))],
        "With g the marginal rule loses 0.005 nats per element, within the tolerance of 0.01; with "
        "an overlap shorter by 1 (h), at 0.5 times the evaluations, it loses 0.008 nats per "
        "element.",
    ),
    "none is fine": (
        [row("g", 0.5, 80, (1,)), row("h", 0.1, 160, (4,))],
        "With g the marginal rule loses 0.5 nats per element; no other graph here stays within "
        "0.01; the rule Consistent loses nothing.",
    ),
    "the cheapest of several": (
        [row("g", 0.5, 80, (1, 1)), row("h", 0, 320, (4, 4)), row("k", 0, 240, (2, 2))],
        "With g the marginal rule loses 0.5 nats per element; with an overlap longer by 1 (k), at "
        "3 times the evaluations, it loses nothing; the rule Consistent loses nothing.",
    ),
    "another window": (
        [row("g", 0.5, 80, (1,)), row("h", 0.01, 120, (1,), window=(12,), evaluations=5)],
        "With g the marginal rule loses 0.5 nats per element; with h, at 0.5 times the evaluations "
        "and 1.5 times the elements, it loses 0.01 nats per element; the rule "
        "Consistent loses nothing.",
    ),
    "overlaps that differ in different ways": (
        [row("g", 0.5, 80, (1, 2)), row("h", 0, 160, (4, 4))],
        "With g the marginal rule loses 0.5 nats per element; with h, at 2 times the evaluations, "
        "it loses nothing; the rule Consistent loses nothing.",
    ),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences(name: str) -> None:
    rows, sentence = SENTENCES[name]
    assert Advice(tuple(rows), 0.01).sentence == sentence


def test_window_candidates_are_the_tiles_that_fit() -> None:
    found = window_candidates((20,), [8, 20, 32], [0, 4, 8])
    assert list(found) == ["window 8, overlap 0", "window 8, overlap 4", "window 20"]
    for graph in found.values():
        assert graph.validate().valid
    ring = window_candidates((3, 16, 16), [(3, 8, 8)], [4], periodic=(False, True, True))
    assert list(ring) == ["window 3×8×8, overlap 4"]
    expected = tiles((3, 16, 16), (3, 8, 8), 4, periodic=(False, True, True))
    assert ring["window 3×8×8, overlap 4"].counting_numbers() == expected.counting_numbers()
    with pytest.raises(GraphError, match=r"none of the windows .* fits a state of"):
        window_candidates((3, 64), [16], [4])
    with pytest.raises(GraphError, match=r"each of the 2 axes, got \(3, 16, 16\)"):
        window_candidates((3, 64), [(3, 16, 16)], [4])


def test_a_last_window_shifted_inwards_does_not_lend_its_overlap() -> None:
    (row,) = advise(window_candidates((21,), [8], [2]), ar1(21, 0.5)).rows
    assert row.overlap == (2,)


def test_what_cannot_be_advised_on_is_named() -> None:
    q = ar1(6, 0.5)
    with pytest.raises(ShapeError, match=f"{LIMIT + 1} elements, expected 1 to {LIMIT}.* crop"):
        advise(tiles((LIMIT + 1,), 1), q)
    with pytest.raises(ShapeError, match="this graph has 5 elements, q has 6"):
        advise(chain(5), q)
    with pytest.raises(ShapeError, match="singular"):
        advise(chain(6), Gaussian.fit(q.sample(3, torch.Generator().manual_seed(0))))
    with pytest.raises(ShapeError, match=r"for a mixture Gaussian\(q.mean, q.covariance\)"):
        advise(chain(6), GaussianMixture(torch.ones(1), [q]))  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="belong to one graph, got 2"):
        advise({"a": chain(6), "b": cycle(6)}, {})
    with pytest.raises(GraphError, match="at least one graph"):
        advise({}, q)
    invalid = RegionGraph.from_regions({"f": [0, 1]}, {"f": 2}, event_shape=(2,))
    with pytest.raises(GraphError, match="must sum to 1"):
        advise(invalid, ar1(2, 0.5))


def test_states_and_fitted_covariances_are_accepted() -> None:
    graph, states = chain(6), ar1(6, 0.8).sample(4000, 0)
    by_fit = advise(graph, Gaussian.fit(states)).rows[0]
    assert advise(graph, states).rows[0] == by_fit
    fitted = advise(graph, fit_covariances(graph, states)).rows[0]
    assert fitted.marginal == pytest.approx(by_fit.marginal, rel=0.05)
    with pytest.raises(ShapeError, match=r"Gaussian\.fit"):
        advise(graph, "states")
    with pytest.raises(
        ShapeError, match=r"at least two states \[n, 6\], got a tensor of \(4000, 5\)"
    ):
        advise(graph, states[:, :5])


def test_a_bar_is_shown_only_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (False, True):
        advise(chain(3), ar1(3, 0.5), progress=progress)
        shown = capsys.readouterr()
        assert ("advice" in shown.err) == progress
        assert shown.out == ""
