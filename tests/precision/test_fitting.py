"""Covariances that are estimated from states."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pgmdiff import GraphError, PgmdiffError, Posterior, ShapeError, compose
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import FactorGraph, chain, tiles
from pgmdiff.precision import (
    BlockTree,
    Circulant,
    ComposedPrecision,
    Dense,
    LowRank,
    Pooled,
    SmallSpace,
    fit_covariances,
)
from pgmdiff.precision.solves.circulant import shifts
from tests.helpers import ar1, relative
from tests.precision.examples import low_rank, states


def test_shared_fits_pool_windows() -> None:
    graph = tiles((40,), 8, 4)
    q = ar1(40, 0.8)
    data = q.sample(300, torch.Generator().manual_seed(0)) + 3.0
    errors = {}
    for shared in (False, True):
        fitted = fit_covariances(graph, data, shared=shared, ridge=0.0)
        gaps = (
            fitted.of(g).expand(len(g), -1, -1) - ar1(g.shape[0], 0.8).covariance
            for g in graph.groups
        )
        errors[shared] = sum(gap.pow(2).mean().item() for gap in gaps)
        joint = compose(graph, node_scores(graph, q), rule=Posterior(fitted))
        assert torch.linalg.eigvalsh(joint.precision.dense())[0] > 0
    assert errors[True] < errors[False] / 3
    assert len(fitted.of(graph.groups[0])) == 1
    streamed = fit_covariances(graph, data.split(70), shared=True, ridge=0.0)
    assert relative(streamed.of(graph.groups[0]), fitted.of(graph.groups[0])) < 1e-10


def test_low_rank_fits_find_the_factors() -> None:
    graph = tiles((180,), 100, 20)
    _, q = low_rank(graph, 3, 0.2)
    data = 5.0 + q.sample(6000, torch.Generator().manual_seed(1))
    fitted = fit_covariances(graph, data.split(1500), form="low_rank", rank=3, ridge=0.0)
    assert fitted.floor == pytest.approx(0.2, rel=0.02)
    for group in graph.groups:
        form = fitted.form(group)
        found = form.factors @ form.factors.mT + form.floor * torch.eye(group.shape[0])
        expected = torch.stack([q.covariance[i][:, i] for i in group.indices(0, len(group))])
        assert relative(found, expected) < 0.12  # about 3 standard errors: 6000 samples
    truth, found = (
        compose(graph, node_scores(graph, q), rule=Posterior(given))(data[:4], 1.0)
        for given in (node_covariances(graph, q), fitted)
    )
    assert relative(found, truth) < 0.05
    whole = fit_covariances(graph, data, form="low_rank", rank=3, ridge=0.0)
    assert relative(whole.outer["[0:100]"].abs(), fitted.outer["[0:100]"].abs()) < 1e-3


def test_large_regions_are_low_rank_by_default() -> None:
    graph = tiles((1, 32, 96), (1, 32, 40), (0, 0, 12))
    assert prod(graph.groups[0].shape) > 1000
    data = states(32 * 96, 2, 12).reshape(-1, 1, 32, 96).cumsum(2)
    fitted = fit_covariances(graph, data, shared=True)
    assert isinstance(fitted, LowRank)
    joint = compose(graph, lambda x, s: -x, rule=Posterior(fitted))
    assert isinstance(joint.solve, SmallSpace)
    assert joint(data[:2], 2.0).isfinite().all()
    assert isinstance(fit_covariances(tiles((20,), 8, 4), states(20), shared=True), Pooled)


@pytest.mark.parametrize("periodic", [False, True])
def test_stationary_fits_are_unbiased_autocovariances(periodic: bool) -> None:
    graph = tiles((2, 18), (2, 6), (0, 3), periodic=(False, periodic))
    data = 2.0 + states(36, 4, 50).reshape(50, 2, 18).cumsum(2)
    fitted = fit_covariances(graph, data.split(17), form="stationary", axes=(1,), ridge=0.0)
    centred = data - data.mean(dim=(0, 2), keepdim=True)
    for lag in range(6):
        there = centred.roll(-lag, 2) if periodic else centred[:, :, lag:]
        here = centred if periodic else centred[:, :, : 18 - lag]
        expected = torch.einsum("nat,nbt->ab", here, there) / (50 * here.shape[2])
        torch.testing.assert_close(fitted.autocovariance[:, :, 5 + lag], expected)
        torch.testing.assert_close(fitted.autocovariance[:, :, 5 - lag], expected.T)
    (matrix,) = fitted.of(graph.groups[0])
    blocks = matrix.reshape(2, 6, 2, 6)
    torch.testing.assert_close(blocks[0, 1, 1, 4], fitted.autocovariance[0, 1, 8])
    torch.testing.assert_close(matrix, matrix.T)


def test_stationary_fits_give_the_exact_score_of_long_chains() -> None:
    graph = tiles((2400,), 6, 3)
    data = ar1(2400, 0.9).sample(40, torch.Generator().manual_seed(0))
    fitted = fit_covariances(graph, data, form="stationary")
    joint = compose(graph, lambda x, s: -x, rule=Posterior(fitted))
    assert isinstance(joint.solve, BlockTree)
    truth = ar1(6, 0.9).covariance
    assert relative(fitted.of(graph.groups[0])[0], truth) < 0.05
    closed = tiles((2400,), 6, 3, periodic=True)
    around = fit_covariances(closed, data, form="stationary")
    assert isinstance(compose(closed, lambda x, s: -x, rule=Posterior(around)).solve, Circulant)


def test_separable_fits_find_both_sides() -> None:
    graph = tiles((2, 20), (2, 8), (0, 4))
    channels = torch.tensor([[1.3, 0.6], [0.6, 0.7]], dtype=torch.float64)
    q = Gaussian(
        torch.zeros(2, 20, dtype=torch.float64), torch.kron(channels, ar1(20, 0.8).covariance)
    )
    data = q.sample(3000, torch.Generator().manual_seed(2)) + torch.tensor([[1.0], [-4.0]])
    for form, axes in (("dense", None), ("stationary", (1,)), ("low_rank", None)):
        fitted = fit_covariances(
            graph, data.split(800), form=form, channels=True, axes=axes, rank=7
        )
        assert relative(fitted.channels, channels) < 0.06
        places = ComposedPrecision(graph, fitted)
        truth = ComposedPrecision(graph, Dense(node_covariances(graph, q)))
        if form != "low_rank":
            assert relative(places.dense(), truth.dense()) < 0.15
        assert relative(fitted.form(graph.groups[0]).variances(), torch.cat([
            torch.full((8,), 1.3), torch.full((8,), 0.7)])[None]) < 0.1  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"form": "toeplitz"}, GraphError, "'dense', 'low_rank' or 'stationary', got 'toeplitz'"),
        ({"form": "low_rank", "rank": 0}, GraphError, "a rank of at least 1, got 0"),
        ({"axes": (0,)}, GraphError, "axes= applies only to form='stationary'"),
        ({"ridge": -0.1}, GraphError, "a share ridge >= 0, got -0.1"),
        ({"form": "stationary", "axes": (5,)}, GraphError, r"axes= of the event's 1.*got \(5,\)"),
        ({"data": torch.zeros(1, 12)}, ShapeError, "at least 2 states, got 1"),
        ({"data": [torch.zeros(4, 12), torch.zeros(4, 11)]}, ShapeError, r"got \(4, 11\)"),
        ({"data": [None]}, ShapeError, "got NoneType"),
        ({"data": torch.ones(5, 12) * 1j}, ShapeError, "real numbers, got torch.complex64"),
        ({"data": torch.full((5, 12), float("nan"))}, ShapeError, "with NaN or infinity"),
        ({"data": torch.full((5, 12), float("inf")), "form": "low_rank"}, ShapeError, "infinity"),
        ({"channels": True}, GraphError, "all 12 channels"),
    ],
)
def test_bad_fits_are_named(change: dict, error: type, message: str) -> None:
    data = change.pop("data", torch.randn(20, 12, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(error, match=message):
        fit_covariances(tiles((12,), 6, 3), data, **change)


def test_every_form_centres_each_window_by_itself() -> None:
    """A mean that differs from place to place is no variance, however windows are pooled."""
    graph, mean = tiles((40,), 8, 4), torch.linspace(0, 30, 40, dtype=torch.float64)
    noise = states(40, 7, 800)
    for form in ("dense", "low_rank"):
        for channels in (False, True):
            shape = (800, 1, 40) if channels else (800, 40)
            here = tiles((1, 40), (1, 8), (0, 4)) if channels else graph
            moved, still = (
                fit_covariances(here, d.reshape(shape).split(300), form=form, shared=True,
                                rank=3, channels=channels).form(here.groups[0]).variances()
                for d in (noise + mean, noise)
            )  # fmt: skip
            assert relative(moved, still) < 1e-2  # truncation between batches


def test_small_regions_leave_the_rank_to_others() -> None:
    graph = FactorGraph.from_scopes(
        {"f": ("a", "b"), "i": ("c",)}, shapes={"a": (20,), "b": (20,), "c": ()}
    )
    data = states(41, 2, 400).cumsum(1)
    data[:, 40] *= 3
    fitted = fit_covariances(graph, data, form="low_rank", rank=5)
    assert fitted.outer["f"].shape == (40, 5)
    assert fitted.floor < 0.2 * data.var(dim=0).mean()
    (group,) = (g for g in graph.regions.groups if g.names == ["i"])
    variance = fitted.form(group).variances().item()
    assert variance == pytest.approx(data[:, 40].var(correction=0).item(), rel=1e-5)
    whole = fit_covariances(graph, data, form="low_rank", rank=99)  # δ: the least of 40
    (group,) = (g for g in graph.regions.groups if g.names == ["f"])
    assert relative(whole.form(group).variances()[0], data[:, :40].var(dim=0, correction=0)) < 1e-4


def test_empty_batches_and_groups_of_one_model() -> None:
    graph = tiles((12,), 6, 3)
    data = states(12, 1, 30)
    outer = graph.groups[0]
    apart = replace(
        graph, groups=(*(outer.select(np.array([row])) for row in range(3)), *graph.groups[1:])
    )
    for form in ("dense", "low_rank"):
        whole = fit_covariances(graph, data, form=form, shared=True).form(outer).variances()
        streamed = fit_covariances(graph, [data[:0], data, data[:0]], form=form, shared=True)
        assert relative(streamed.form(outer).variances(), whole) < 1e-12
        split = fit_covariances(apart, data, form=form, shared=True)
        assert relative(split.form(outer).variances(), whole) < 1e-9
    with pytest.raises(ShapeError, match="at least 2 states, got 0"):
        fit_covariances(graph, [data[:0]])


def test_windows_that_share_an_estimate_are_solved_by_fourier_transforms_on_a_ring() -> None:
    """The overlap across the border has the place in a window that all others have."""
    for graph in (
        tiles((24,), 6, 2, periodic=True),
        tiles((8, 12), (4, 6), (2, 3), periodic=True),
        tiles((2, 15), (2, 5), (0, 2), periodic=(False, True)),
    ):
        data = states(graph.n_elements, batch=50).reshape(50, *graph.event_shape)
        fitted = fit_covariances(graph, data, shared=True, ridge=0.5)
        precision = ComposedPrecision(graph, fitted)
        periods = shifts(precision)
        assert periods is not None
        levels, b = torch.full((4,), 0.3, dtype=torch.float64), states(graph.n_elements)
        matrix = torch.eye(graph.n_elements) + 0.09 * precision.dense()
        expected = torch.linalg.solve(matrix, b.T).T
        assert relative(Circulant(precision, periods)(b, levels), expected) < 1e-9


@pytest.mark.filterwarnings("ignore:.*regions disagree so far")
def test_too_few_states_are_told() -> None:
    graph, data = tiles((12,), 6, 3), states(12, 1, 6).reshape(6, 12)
    with pytest.warns(UserWarning, match=r"with rank 5 at most, of 6.*shared=True"):
        fit_covariances(graph, data)
    fit_covariances(graph, data, shared=True)
    fit_covariances(graph, torch.cat([data, data + 1]))
    few = {name: torch.randn(3, 2) for name in ("f0", "f1")}
    fit_covariances(chain(3), few)
    with pytest.warns(UserWarning, match="'f1' with rank 1 at most, of 2"):
        fit_covariances(chain(3), {**few, "f1": few["f1"][:2]})


def test_samples_of_pieces_alone_are_fitted_in_the_form_that_is_said() -> None:
    """The autocovariance of pieces of an AR(1) serves a ring, and options are not ignored."""
    pieces = ar1(16, 0.8).sample(4000, torch.Generator().manual_seed(0)) + 3.0
    ring = tiles((64,), 16, 8, periodic=True)
    by_model = {(16,): pieces}
    fitted = fit_covariances(ring, by_model, form="stationary")
    assert fitted.mean is not None
    assert relative(fitted.mean, torch.full((64,), 3.0).double()) < 0.02
    assert relative(fitted.of(ring.groups[0])[0], ar1(16, 0.8).covariance) < 0.05
    by_name = {name: pieces for name in ring.names if name in ring.groups[0].names}
    same = fit_covariances(ring, by_name, form="stationary")
    assert torch.equal(same.of(ring.groups[0]), fitted.of(ring.groups[0]))
    parts = zip(by_name, pieces.chunk(len(by_name)), strict=True)
    for data in (by_model, dict(parts)):  # pooled, all have all pieces
        covariance = fit_covariances(ring, data, shared=True).of(ring.groups[0])
        assert relative(covariance.mean(dim=0), ar1(16, 0.8).covariance) < 0.05
    options: list[tuple[dict, str]] = [
        ({"form": "nonsense"}, "expected form="),
        ({"axes": (0,)}, "axes= applies only to"),
        ({"form": "low_rank"}, "with samples of regions"),
        ({"channels": True}, "with samples of regions"),
    ]
    for option, message in options:
        with pytest.raises(GraphError, match=message):
            fit_covariances(ring, by_model, **option)
    strip, wide = tiles((2, 12), (1, 6), (0, 3)), {(1, 6): torch.randn(9, 1, 6)}
    with pytest.raises(GraphError, match="must span the axes that are not stationary"):
        fit_covariances(strip, wide, form="stationary", axes=(1,))
    with pytest.raises(GraphError, match="requires windows of a tensor"):
        fit_covariances(chain(3), {"f0": pieces[:, :2], "f1": pieces[:, :2]}, form="stationary")


def test_pooled_pieces_keep_their_means_and_every_value_is_its_own() -> None:
    """Also of a mapping that makes its values when they are asked for."""
    graph = tiles((10,), 6, 4)
    data = torch.randn(4000, 10, generator=torch.Generator().manual_seed(0)) + 3 * torch.arange(
        10.0
    )

    class Lazy(dict):
        def __getitem__(self, name: str) -> np.ndarray:
            return data[:, graph.elements(name)].numpy().copy()

    whole = fit_covariances(graph, data, shared=True)
    for given in (Lazy.fromkeys(graph.pieces), {n: Lazy()[n] for n in graph.pieces}):
        fitted = fit_covariances(graph, given, shared=True)
        assert relative(fitted.mean, whole.mean) < 1e-6
        assert relative(fitted.of(graph.groups[0]).mean(dim=0), whole.of(graph.groups[0])[0]) < 0.1
    names = dict.fromkeys(graph.pieces, data[:, :6])
    for wrong, message in (
        ({**names, (6,): data[:, :6]}, "whose regions all have samples of their own"),
        ({(6,): data[:, :6] * torch.nan}, "with NaN or infinity"),
        ({(6,): data[:, :6] + 1j}, "finite real numbers"),
    ):
        with pytest.raises(PgmdiffError, match=message):
            fit_covariances(graph, wrong)
    apart = FactorGraph.from_scopes({}, {"a": (2,), "b": (2,)})  # pieces of their own
    fit_covariances(apart, {"a": torch.randn(50, 2), "b": torch.randn(80, 2)})


def test_values_of_variables_are_packed() -> None:
    graph, data = chain(3), ar1(3, 0.5).sample(50, torch.Generator().manual_seed(0))
    found = fit_covariances(graph, graph.unpack(data))
    assert torch.equal(
        found.of(graph.regions.groups[0]), fit_covariances(graph, data).of(graph.regions.groups[0])
    )


def test_one_tensor_for_regions_of_two_models_is_pooled_with_each() -> None:
    scopes = {"f": ("a", "b"), "g": ("b", "c"), "h": ("c", "d")}
    graph = FactorGraph.from_scopes(scopes, models={"f": "m", "g": "n", "h": "n"})
    one, other = torch.randn(2, 500, 2, generator=torch.Generator().manual_seed(0)).unbind()
    apart = fit_covariances(graph, {"f": one, "g": one.clone(), "h": 9 * other}, shared=True)
    same = fit_covariances(graph, {"f": one, "g": one, "h": 9 * other}, shared=True)
    for group in graph.regions.groups:
        torch.testing.assert_close(same.of(group), apart.of(group))


def test_a_loader_of_lists_is_told_how_to_give_states() -> None:
    data = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(data), batch_size=4)
    with pytest.raises(ShapeError, match=r"got list\. .* give \(batch\[0\] for batch in loader\)"):
        fit_covariances(tiles((12,), 6, 3), loader, shared=True)
    found = fit_covariances(tiles((12,), 6, 3), (batch[0] for batch in loader), shared=True)
    assert found.mean is not None
    torch.testing.assert_close(found.mean, data.double().mean(dim=0))
