from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pgmdiff import GraphError, ScoreError, ShapeError, check_consistency
from pgmdiff.gaussian import Gaussian, GaussianMixture, node_scores
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, repeated_observations, tiles
from pgmdiff.scores import Score, from_denoiser, from_eps, from_flow
from tests.helpers import ar1

SIGMAS = (0.1, 0.5, 1.0, 3.0)
Q = ar1(12, 0.9)
DATA = Q.sample(256, torch.Generator().manual_seed(0))
WINDOW, OVERLAP = (Q.marginal(torch.arange(n)) for n in (4, 2))


@pytest.mark.parametrize("seed", range(3))
def test_true_marginals_are_consistent(seed: int) -> None:
    for graph in (tiles((12,), 4, 2), tiles((12,), 4, 3), chain(6, (2,))):
        found = check_consistency(graph, node_scores(graph, Q), DATA, SIGMAS, generator=seed)
        assert found.consistent, str(found)
        assert [row.sigma for row in found.rows] == list(SIGMAS)
        of_array = check_consistency(
            graph, node_scores(graph, Q), DATA.numpy(), SIGMAS, generator=seed
        )
        assert str(of_array) == str(found)
        for row in found.rows:
            assert row.disagreement > 0, "pieces see more than overlaps"
            assert row.error_piece < row.error_overlap
            gap = row.error_overlap - row.error_piece - row.disagreement
            assert abs(gap) < 0.15 * row.error_overlap, "Pythagoras"


@pytest.mark.parametrize(
    "wrong",
    [
        Gaussian(torch.zeros(2).double(), torch.eye(2).double()),  # right variance, no correlation
        Gaussian(torch.zeros(2).double(), 4 * OVERLAP.covariance),  # wrong units
        Gaussian(torch.full((2,), 0.3).double(), OVERLAP.covariance),  # wrong mean
    ],
)
def test_a_wrong_overlap_is_found(wrong: Gaussian) -> None:
    scores = {(4,): WINDOW.score, (2,): wrong.score}
    found = check_consistency(tiles((12,), 4, 2), scores, DATA, SIGMAS, generator=0)
    assert not found.consistent
    assert "not a marginal" in {row.verdict for row in found.rows}
    assert "train both on crops" in " ".join(str(found).split())  # however it is folded


def test_a_piece_that_lags_is_found() -> None:
    def bad(x: Tensor, sigma: Tensor) -> Tensor:
        return Gaussian(torch.zeros(4).double(), torch.eye(4).double()).score(x, sigma)

    scores = {(4,): bad, (2,): OVERLAP.score}
    found = check_consistency(tiles((12,), 4, 2), scores, DATA, (1.0,), generator=0)
    assert [row.verdict for row in found.rows] == ["piece lags"]
    assert "train the piece's model further" in str(found)


@pytest.mark.parametrize("guilty", [(4,), (2,)])
def test_the_model_to_train_longer_is_named(guilty: tuple[int]) -> None:
    """Only the guilty model's own errors can be predicted from the overlap."""
    scores = {(4,): WINDOW.score, (2,): OVERLAP.score}
    right = {(4,): WINDOW, (2,): OVERLAP}[guilty]
    wrong = Gaussian(right.mean, 1.5 * right.covariance).score
    graph = tiles((12,), 4, 2)
    found = check_consistency(graph, scores | {guilty: wrong}, DATA, SIGMAS, generator=0)
    assert not found.consistent
    for row in found.rows:
        assert row.longer == ((str(guilty),) if row.verdict != "consistent" else ())
    assert f"train longer, first of all: {guilty} (" in str(found)


def test_rows_name_models() -> None:
    scores = {(4,): WINDOW.score, (2,): OVERLAP.score}
    (row,) = check_consistency(tiles((12,), 4, 2), scores, DATA, (1.0,), generator=0).rows
    assert (row.piece, row.overlap) == ("(4,)", "(2,)")


WRONG: dict[str, Callable[[Gaussian], Score]] = {
    "half the noise": lambda q: from_denoiser(lambda x, s: q.denoise(x, s / 2)),
    "the variance": lambda q: from_denoiser(lambda x, s: q.denoise(x, s**2)),
    "for ε": lambda q: from_eps(q.denoise),
    "for a velocity": lambda q: from_flow(q.denoise),
    "an offset": lambda q: from_denoiser(lambda x, s: q.denoise(x, s) + 0.5),
    "other units": lambda q: from_denoiser(lambda x, s: 2 * q.denoise(x / 2, s / 2)),
}
"""Denoisers of data that are given for something else."""


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("graph", [tiles((64,), 64), tiles((64,), 16, 8)])
def test_the_scale_of_one_model_is_right_or_wrong(wrong: str, graph: RegionGraph) -> None:
    """Also of all alike, which agree with each other."""
    q = ar1(64, 0.9)
    scores = {g.shape: q.marginal(torch.arange(g.shape[0])) for g in graph.groups}
    exact, data = {shape: each.score for shape, each in scores.items()}, q.sample(500, 0)
    right = check_consistency(graph, exact, data, generator=0)
    assert right.consistent
    assert "All denoised values have the right scale" in str(right)
    given = {shape: WRONG[wrong](each) for shape, each in scores.items()}
    found = check_consistency(graph, given, data, generator=0)
    assert not found.consistent
    assert "wrong scale or offset" in str(found)
    assert {model.model for model in found.models if not model.right} == set(map(str, scores))


def test_what_says_nothing_is_refused() -> None:
    """Two states, of which each would predict the other, data that do not vary, and no noise."""
    graph, score = tiles((2,), 2), Gaussian(torch.zeros(2), torch.eye(2)).score
    for data, sigmas, error, words in (
        (torch.randn(3, 2), None, ShapeError, r"\[n >= 4, 2\], got \(3, 2\)"),
        (torch.ones(9, 2), None, ScoreError, r"above 0, got \[0\.0, .*also where the data do not"),
        (torch.randn(9, 2), [1.0, -1.0], ScoreError, r"above 0, got \[1\.0, -1\.0\]"),
    ):
        with pytest.raises(error, match=words):
            check_consistency(graph, score, data, sigmas, generator=0)


@pytest.mark.parametrize("n", [4, 20, 200])
def test_right_models_raise_no_alarm(n: int) -> None:
    """Of a few states, too; and of data that are one of a few points, by rounding or a little."""
    alarms = 0
    for seed in range(20):
        data = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
        found = check_consistency(
            tiles((2,), 2), lambda x, s: -x / (1 + s[:, None] ** 2), data, generator=seed
        )
        alarms += not found.consistent
    assert alarms == 0
    stream = torch.Generator().manual_seed(0)
    hot = torch.eye(5)[torch.randint(5, (n,), generator=stream)]
    signs = 2.0 * torch.randint(2, (n, 5), generator=stream) - 1
    for data, score in (
        (hot, from_denoiser(lambda x, s: torch.softmax(x / s[:, None] ** 2, 1))),
        (signs, from_denoiser(lambda x, s: torch.tanh(x / s[:, None] ** 2))),
        (signs, from_denoiser(lambda x, s: 0.999 * torch.tanh(x / s[:, None] ** 2))),
        (torch.full((n, 5), 5.0), from_denoiser(lambda x, s: torch.full_like(x, 5 + 1e-6))),
    ):
        sigmas = (0.1, 0.3, 1.0)
        assert check_consistency(tiles((5,), 5), score, data, sigmas, generator=0).consistent


def test_an_offset_of_constant_data_and_overflow_are_found() -> None:
    graph, data = tiles((5,), 5), torch.full((50, 5), 5.0)
    off = from_denoiser(lambda x, s: torch.full_like(x, 6.0))
    assert not check_consistency(graph, off, data, (1.0,), generator=0).consistent
    wild = from_denoiser(lambda x, s: torch.full_like(x, 1e200))
    with pytest.raises(ScoreError, match=r"a figure of '\(5,\)' at σ = 1 is not finite"):
        check_consistency(graph, wild, data.double(), (1.0,), generator=0)


def test_what_is_rough_but_right_in_scale_is_no_fault() -> None:
    """A denoiser that sees no neighbours is the best of its kind."""
    data = ar1(64, 0.9).sample(500, 0)
    white = check_consistency(
        tiles((64,), 64), lambda x, s: -x / (1 + s[:, None] ** 2), data, generator=0
    )
    assert white.consistent


def test_nothing_to_compare_and_bad_data() -> None:
    nothing = check_consistency(tiles((12,), 4, 0), WINDOW.score, DATA)
    assert nothing.rows == ()
    assert "no piece holds an overlap" in repr(nothing)
    assert "No overlaps were compared" in str(nothing)
    given = [{"y": torch.tensor(float(y))} for y in range(3)]
    star, scores = repeated_observations(3, (1,), given), {"posterior": OVERLAP, "prior": OVERLAP}
    with pytest.raises(GraphError, match="regions 'y0' and 'y1' hold the same elements"):
        check_consistency(star, scores, DATA[:, :1])
    with pytest.raises(ShapeError, match="expected data"):
        check_consistency(tiles((12,), 4, 2), WINDOW.score, DATA[:, :5])
    for wrong in (DATA[:1], 1.0, {"x": DATA}):
        with pytest.raises(ShapeError, match="expected data"):
            check_consistency(tiles((12,), 4, 2), WINDOW.score, wrong)
    with pytest.raises(ShapeError, match=r"got torch\.int64"):
        check_consistency(tiles((12,), 4, 2), WINDOW.score, DATA.long())
    with pytest.raises(ShapeError, match="not finite"):
        check_consistency(tiles((12,), 4, 2), WINDOW.score, DATA * float("nan"))


def test_a_model_that_returns_nan_is_not_consistent() -> None:
    graph, q = FactorGraph.from_scopes({"f": ("x", "y"), "g": ("y", "z")}), ar1(3, 0.8)
    broken = dict(node_scores(graph, q)) | {"f": lambda x, sigma: x * float("nan")}
    with pytest.raises(ScoreError, match="node 'f' is not finite"):
        check_consistency(graph, broken, q.sample(40, 0))


def test_rows_name_the_regions_of_unnamed_models() -> None:
    wide = Gaussian(torch.zeros(2), 9 * torch.eye(2))
    good = Gaussian(torch.zeros(2), torch.eye(2))
    scores = {"f0": good.score, "f2": good.score, "f1": wide.score, "f3": wide.score}
    scores |= {f"x{i}": Gaussian(torch.zeros(()), torch.ones(1, 1)).score for i in range(1, 4)}
    data = torch.randn(400, 5, generator=torch.Generator().manual_seed(1))
    rows = check_consistency(chain(5), scores, data, (1.0,), generator=0).rows
    verdicts = {(row.piece, row.verdict) for row in rows}
    assert ("f1 … (+1)", "piece lags") in verdicts
    assert {v for piece, v in verdicts if piece.startswith("f0")} == {"consistent"}


def test_a_bar_is_shown_only_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    graph = tiles((12,), 4, 2)
    for progress in (False, True):
        check_consistency(graph, node_scores(graph, Q), DATA, progress=progress)
        shown = capsys.readouterr()
        assert ("consistency" in shown.err) == progress
        assert shown.out == ""


def test_models_of_overlaps_that_know_the_null_label_only() -> None:
    """With the null condition they are marginals of labelled pieces, and without it they are not.

    States are 1 or -1 plus noise; pieces are told which, and overlaps know the mixture of both.
    """
    label = torch.arange(256) % 2
    data = DATA + (2.0 * label - 1)[:, None]

    def piece(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        shift = (2.0 * label - 1)[:, None]
        return WINDOW.score(x - shift, sigma)

    parts = [Gaussian(sign * torch.ones(2).double(), OVERLAP.covariance) for sign in (1, -1)]
    known = GaussianMixture(torch.tensor([0.5, 0.5]).double(), parts)

    def overlap(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        return torch.where((label == 2)[:, None], known.score(x, sigma), 0.0)

    options = {"generator": 0, "label": label}
    scores, null = {(4,): piece, (2,): overlap}, {"label": torch.tensor(2)}
    graph = tiles((12,), 4, 2)
    found = check_consistency(graph, scores, data, SIGMAS, null_condition=null, **options)
    assert found.consistent, str(found)
    blamed = check_consistency(graph, scores, data, SIGMAS, **options)
    assert {row.longer for row in blamed.rows if row.sigma >= 0.5} == {("(2,)",)}
    told = {name: {"label": torch.tensor(1)} for name in graph.pieces}
    half = data[label == 1]
    options = {"conditions": told, "null_condition": null, "generator": 0}
    found = check_consistency(graph, scores, half, SIGMAS, **options)
    assert not found.consistent
    assert "with it (null_condition= of fit)" in " ".join(str(found).split())


def test_another_order_of_a_scope_is_no_marginal_and_the_report_says_so() -> None:
    """The model of a pair knows its first variable as the one that varies more."""
    covariance = torch.tensor([[9.0, 2.4, 2.4], [2.4, 1.0, 0.64], [2.4, 0.64, 1.0]]).double()
    q = Gaussian(torch.zeros(3).double(), covariance)
    pair, one = q.marginal(torch.arange(2)).score, q.marginal(torch.arange(1)).score
    for scope in (("a", "b"), ("b", "a")):
        graph = FactorGraph.from_scopes({"f": scope, "g": ("a", "c")}, dict.fromkeys("abc", (1,)))
        scores = {"f": pair, "g": pair, "a": one}
        found = check_consistency(graph, scores, q.sample(500, 0), [1.0, 3.0], generator=0)
        assert found.consistent == (scope == ("a", "b"))
        told = "order" in " ".join(str(found).split())
        assert told == (scope == ("b", "a")), str(found)


def test_what_hardly_matters_is_no_disagreement() -> None:
    """Of independent variables pieces see no more than overlaps: their difference is all excess."""
    pair, data = Gaussian(torch.zeros(2), torch.eye(2)), ar1(3, 0.0).sample(2000, 0).float()
    for variance, verdict in ((1.02, "consistent"), (1.5, "not a marginal")):
        one = Gaussian(torch.zeros(1), torch.tensor([[variance]]))
        scores = {(2,): pair, (1,): one}
        found = check_consistency(tiles((3,), 2, 1), scores, data, [0.5, 1.0], generator=0)
        for row in found.rows:
            assert row.excess > 0.9
            assert row.verdict == verdict
