"""Forms of region covariances, how they are fitted, and the solves that they allow."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import Evidence, GraphError, Posterior, ShapeError, compose
from pgmdiff.composition.rules import bound
from pgmdiff.denoising_errors import fit_denoising_errors
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, nested_cubemap, tiles, torus
from pgmdiff.precision import (
    Channelwise,
    Circulant,
    ComposedPrecision,
    ConjugateGradients,
    Covariances,
    DenoisingErrors,
    Dense,
    Eigen,
    LowRank,
    PerLevel,
    Pooled,
    Separable,
    SmallSpace,
    Solve,
    SparseFactors,
    Stationary,
    fit_covariances,
    is_definite,
    least_shrinkage,
    solver_of,
)
from pgmdiff.precision.covariances import Place
from pgmdiff.precision.forms import LowRankCovariances
from pgmdiff.precision.solves.circulant import shifts
from tests.composition.test_posterior import TwoModes
from tests.helpers import Unsolved, ar1, relative

SIGMA = torch.tensor([0.0, 0.3, 0.3, 30.0], dtype=torch.float64)


def states(n: int, seed: int = 0, batch: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, n, generator=generator, dtype=torch.float64)


def decay(n: int, rho: float) -> Tensor:
    place = torch.arange(n, dtype=torch.float64)
    return rho ** (place[:, None] - place).abs()


def ring(shape: tuple[int, ...], rho: float, axis: int) -> Stationary:
    """Exponential decay along all axes, both ways round."""
    lags = [torch.arange(1 - n, n, dtype=torch.float64).abs() for n in shape]
    gamma = torch.ones(1, dtype=torch.float64)
    for lag in lags:
        gamma = gamma[..., None] * rho**lag
    return Stationary(gamma[None], tuple(range(len(shape))))


def check_solve(solve: Solve, dense: Tensor, tolerance: float = 1e-9) -> None:
    """Against dense linear algebra: solutions, log-determinants, gradients, other dtypes."""
    n = len(dense)
    b, eye = states(n), torch.eye(n, dtype=torch.float64)
    systems = [eye + s**2 * dense for s in SIGMA]
    expected = torch.stack([torch.linalg.solve(m, v) for m, v in zip(systems, b, strict=True)])
    assert relative(solve(b, SIGMA), expected) < tolerance
    guess = expected + 0.1 * states(n, 1)
    assert relative(solve(b, SIGMA, guess), expected) < tolerance
    leaf = b.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((solve(leaf, SIGMA) * b).sum(), leaf)
    assert relative(gradient, expected) < tolerance
    single = solve(b.float(), SIGMA.float())
    assert single.dtype == torch.float32
    assert relative(single.double(), expected) < 1e-3
    if not isinstance(solve, ConjugateGradients):
        logs = torch.stack([torch.logdet(m) for m in systems])
        assert relative(solve.log_determinant(SIGMA), logs) < tolerance


def low_rank(graph: RegionGraph, rank: int, floor: float) -> tuple[LowRank, Gaussian]:
    """Blocks of one F Fᵀ + δ I; and that Gaussian."""
    factor = torch.nn.functional.avg_pool1d(states(graph.n_elements, 3, rank)[:, None], 5, 1, 2)
    factor = factor[:, 0].T
    whole = factor @ factor.T + floor * torch.eye(graph.n_elements, dtype=torch.float64)
    index = {n: graph.elements(n).reshape(-1) for n in graph.names}
    parents = {name: Place(name, torch.arange(len(i))) for name, i in index.items()}
    provider = LowRank({name: factor[i] for name, i in index.items()}, floor, parents)
    return provider, Gaussian(torch.zeros(graph.event_shape, dtype=torch.float64), whole)


def test_low_rank_is_dense_in_a_smaller_space() -> None:
    graph = tiles((56,), 20, 8)
    provider, q = low_rank(graph, 4, 0.3)
    precision = ComposedPrecision(graph, provider)
    dense = ComposedPrecision(graph, Dense(node_covariances(graph, q)))
    assert relative(precision.dense(), dense.dense()) < 1e-10
    assert relative(precision.log_determinants(SIGMA), dense.log_determinants(SIGMA)) < 1e-10
    check_solve(SmallSpace(precision), dense.dense())
    u = states(56)
    for rule in (Posterior, Evidence):
        one, other = (
            compose(graph, node_scores(graph, q), rule=rule(given))
            for given in (provider, node_covariances(graph, q))
        )
        assert relative(one(u, 0.7), other(u, 0.7)) < 1e-9


def test_low_rank_indefiniteness_is_found() -> None:
    graph = torus(4, 4).regions
    size = {name: graph.elements(name).numel() for name in graph.names}
    parents = {name: Place(name, torch.arange(d)) for name, d in size.items()}
    for common, definite in ((0.3, True), (0.4, False)):  # one variable a block: up to 1/3
        ones = {n: common**0.5 * torch.ones(d, 1).double() for n, d in size.items()}
        precision = ComposedPrecision(graph, LowRank(ones, 1 - common, parents))
        assert (torch.linalg.eigvalsh(precision.dense())[0] > 0) == definite
        if definite:
            check_solve(SmallSpace(precision), precision.dense())
        else:
            with pytest.raises(GraphError, match="is not positive definite"):
                SmallSpace(precision)


def test_periodic_windows_are_solved_by_fourier_transforms() -> None:
    for graph, rho in (
        (tiles((24,), 6, 2, periodic=True), 0.7),
        (tiles((8, 12), (4, 6), (2, 3), periodic=(False, True)), 0.4),
        (tiles((8, 12), (4, 6), (2, 3), periodic=True), 0.4),
        (tiles((2, 15), (2, 5), (0, 2), periodic=(False, True)), 0.6),
    ):
        provider = ring(graph.event_shape, rho, 0)
        precision = ComposedPrecision(graph, provider)
        periods = shifts(precision)
        assert periods is not None
        check_solve(Circulant(precision, periods), precision.dense())
    assert shifts(ComposedPrecision(tiles((24,), 6, 3), ring((24,), 0.7, 0))) is None
    assert shifts(ComposedPrecision(tiles((24,), 6, 3, periodic=True), ring((24,), 0.7, 0))) == (8,)
    uneven = tiles((25,), 6, 2, periodic=True, remainder="shift")
    assert shifts(ComposedPrecision(uneven, ring((25,), 0.7, 0))) is None


def test_circulants_of_indefinite_precisions_are_refused() -> None:
    graph = tiles((8, 8), (4, 4), (2, 2), periodic=True)
    gamma = torch.full((1, 1, 7, 7), 0.97, dtype=torch.float64)
    gamma[0, 0, 3, 3] = 1.0
    provider = Stationary(gamma, (0, 1))
    precision = ComposedPrecision(graph, provider)
    smallest = torch.linalg.eigvalsh(precision.dense())[0]
    assert smallest < 0
    with pytest.raises(GraphError, match=f"smallest eigenvalue is {smallest:.3g}"):
        Circulant(precision, shifts(precision))
    least = least_shrinkage(precision)
    assert 0 < least < 1
    assert is_definite(precision.shrunk(least))
    assert not is_definite(precision.shrunk(least - 0.01))


@pytest.mark.parametrize("periodic", [False, True])
def test_channels_are_solved_one_by_one(periodic: bool) -> None:
    graph = tiles((3, 4, 12), (3, 4, 6), (0, 0, 3), periodic=(False, False, periodic))
    channels = torch.tensor(
        [[1.2, 0.5, 0.1], [0.5, 1.0, 0.4], [0.1, 0.4, 0.8]], dtype=torch.float64
    )
    precision = ComposedPrecision(graph, Separable(channels, ring((4, 12), 0.6, 0)))
    for block in precision.blocks:
        form = precision.covariances.form(block.group)
        dense = torch.linalg.inv(block.precisions.dense()[0])
        assert relative(form.variances()[0], dense.diagonal()) < 1e-9
    check_solve(Channelwise(precision), precision.dense())
    b = states(3 * 4 * 12).reshape(4, 3, 4, 12)
    assert isinstance(solver_of(precision), Channelwise)
    assert (
        compose(graph, lambda x, s: -x, rule=Posterior(precision.covariances))(b, 1.0)
        .isfinite()
        .all()
    )


def test_channels_of_index_groups() -> None:
    index = torch.arange(2 * 6).reshape(2, 6)
    regions = {"a": index[:, :4].numpy(), "b": index[:, 2:].numpy(), "ab": index[:, 2:4].numpy()}
    counts = {"a": 1, "b": 1, "ab": -1}
    graph = RegionGraph.from_regions(regions, counts, event_shape=(2, 6))
    channels = torch.tensor([[1.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    whole = decay(6, 0.8)
    places = Dense({"a": whole[:4, :4], "b": whole[2:, 2:], "ab": whole[2:4, 2:4]})
    precision = ComposedPrecision(graph, Separable(channels, places))
    expected = torch.linalg.inv(torch.kron(channels, whole))  # AR(1): Markov to the regions
    assert relative(precision.dense(), expected) < 1e-9
    check_solve(Channelwise(precision), expected)
    wrong = RegionGraph.from_regions({"a": index.T.numpy().copy()}, event_shape=(2, 6))
    with pytest.raises(GraphError, match="the same places of all 2 channels"):
        ComposedPrecision(wrong, Separable(channels, places))


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


# ---------------------------------------------------------------- fits


def test_shared_fits_pool_windows() -> None:
    graph = tiles((40,), 8, 4)
    q = ar1(40, 0.8)
    data = q.sample(300, torch.Generator().manual_seed(0)) + 3.0
    errors = {}
    for shared in (False, True):
        fitted = fit_covariances(graph, data, shared=shared, ridge=0.0)
        errors[shared] = sum(
            (fitted.of(g).expand(len(g), -1, -1) - decay(g.shape[0], 0.8)).pow(2).mean().item()
            for g in graph.groups
        )
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
    data = states(32 * 96, 2, 12).reshape(-1, 1, 32, 96).cumsum(3)
    fitted = fit_covariances(graph, data, shared=True)
    assert isinstance(fitted, LowRank)
    joint = compose(graph, lambda x, s: -x, rule=Posterior(fitted))
    assert isinstance(joint.solve, SmallSpace)
    assert joint(data[:2], 2.0).isfinite().all()
    assert isinstance(fit_covariances(tiles((20,), 8, 4), states(20)), Pooled)


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
    graph = tiles((1200,), 6, 3)
    data = ar1(1200, 0.9).sample(40, torch.Generator().manual_seed(0))
    fitted = fit_covariances(graph, data, form="stationary")
    joint = compose(graph, lambda x, s: -x, rule=Posterior(fitted))
    assert isinstance(joint.solve, SparseFactors)
    truth = decay(6, 0.9)
    assert relative(fitted.of(graph.groups[0])[0], truth) < 0.05
    closed = tiles((1200,), 6, 3, periodic=True)
    around = fit_covariances(closed, data, form="stationary")
    assert isinstance(compose(closed, lambda x, s: -x, rule=Posterior(around)).solve, Circulant)


def test_separable_fits_find_both_sides() -> None:
    graph = tiles((2, 20), (2, 8), (0, 4))
    channels = torch.tensor([[1.3, 0.6], [0.6, 0.7]], dtype=torch.float64)
    q = Gaussian(torch.zeros(2, 20, dtype=torch.float64), torch.kron(channels, decay(20, 0.8)))
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


def test_denoising_errors_of_gaussians_are_their_covariances() -> None:
    graph, q = chain(5), ar1(5, 0.8)
    data = q.sample(20_000, torch.Generator().manual_seed(0))
    fitted = fit_denoising_errors(graph, node_scores(graph, q), data, (0.3, 3.0, 30.0))
    for level, at in zip(fitted.levels, fitted.at, strict=True):
        for name, covariance in node_covariances(graph, q).items():
            error = relative(at.matrices[name], covariance)
            assert error < 0.15, (level, name)  # several standard errors at 20,000 states
    joint = compose(graph, node_scores(graph, q), rule=Posterior(fitted))
    assert isinstance(joint.solve, PerLevel)
    u = states(5)
    sigma = torch.tensor([0.1, 0.3, 1.0, 50.0], dtype=torch.float64)
    assert relative(joint(u, sigma), q.score(u, sigma)) < 0.05


def test_denoising_errors_between_levels() -> None:
    graph, q = chain(6), ar1(6, 0.9)
    exact = node_covariances(graph, q)
    wide = {name: 2 * covariance for name, covariance in exact.items()}
    provider = DenoisingErrors((0.1, 10.0), (Dense(exact), Dense(wide)))
    joint = compose(graph, node_scores(graph, q), rule=Posterior(provider))
    p = torch.linalg.inv(q.covariance)
    eye = torch.eye(6, dtype=torch.float64)
    for sigma, share in ((0.01, 1.0), (0.1, 1.0), (1.0, 0.75), (100.0, 0.5)):
        assert relative(joint.precision.at(sigma).dense(), share * p) < 1e-9
        levels = torch.full((4,), sigma, dtype=torch.float64)
        expected = torch.logdet(eye + sigma**2 * share * p).expand(4)
        torch.testing.assert_close(joint.solve.log_determinant(levels), expected)
    mixed = torch.tensor([0.01, 1.0, 1.0, 100.0], dtype=torch.float64)
    u = states(6)
    whole = joint(u, mixed)
    for row, sigma in enumerate(mixed.tolist()):
        assert relative(joint(u[row : row + 1], sigma)[0], whole[row]) < 1e-12
    evidence = compose(graph, node_scores(graph, q), rule=Evidence(provider))
    leaf = u.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(evidence.log_density(leaf, mixed).sum(), leaf)
    assert relative(evidence(u, mixed), gradient) < 1e-8


def test_denoising_errors_of_two_modes_narrow_at_low_noise() -> None:
    modes = TwoModes()
    data = modes.samples(3000, torch.Generator().manual_seed(5))
    fitted = fit_denoising_errors(modes.graph, modes.scores, data, (0.1, 30.0), shared=True)
    low, high = (at.matrices["single"].item() for at in fitted.at)
    assert low == pytest.approx(0.16, rel=0.05)  # within a mode
    assert high == pytest.approx(4.16, rel=0.05)  # of both
    joint = compose(modes.graph, modes.scores, rule=Posterior(fitted))
    assert is_definite(joint.precision)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"form": "toeplitz"}, GraphError, "'dense', 'low_rank' or 'stationary', got 'toeplitz'"),
        ({"form": "low_rank", "rank": 0}, GraphError, "a rank of at least 1, got 0"),
        ({"axes": (0,)}, GraphError, "axes= belongs to form='stationary'"),
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


def test_other_graphs_and_groups_are_named() -> None:
    fitted = fit_covariances(tiles((12,), 6, 3), states(12))
    with pytest.raises(GraphError, match="is not among those that the covariances were fitted for"):
        ComposedPrecision(tiles((12,), 4, 2), fitted)
    with pytest.raises(GraphError, match="needs windows of a tensor"):
        fit_covariances(chain(4), states(4), form="stationary")
    stationary = fit_covariances(tiles((12,), 4, 2), states(12), form="stationary")
    with pytest.raises(
        ShapeError, match="is 6 long on axis 0, the autocovariance is known for lags up to 3"
    ):
        ComposedPrecision(tiles((12,), 6, 3), stationary)
    with pytest.raises(GraphError, match="must be a window of a tensor"):
        ComposedPrecision(chain(3).regions, stationary)


class Custom(Covariances):
    def of(self, group):
        return decay(group.shape[0], 0.5)[None]


def test_a_provider_of_ones_own_needs_one_method() -> None:
    graph = tiles((12,), 6, 3)
    precision = ComposedPrecision(graph, Custom())
    assert relative(precision.dense(), torch.linalg.inv(decay(12, 0.5))) < 1e-9
    assert isinstance(solver_of(precision), Eigen)


def test_the_marginal_rule_is_a_good_start_for_conjugate_gradients() -> None:
    graph, q, sigma = tiles((40,), 8, 4), ar1(40, 0.9), 0.05
    joint = compose(graph, node_scores(graph, q), rule=Posterior(node_covariances(graph, q)))
    solve = ConjugateGradients(joint.precision)
    u = q.noised(sigma).sample(4, torch.Generator().manual_seed(0))
    levels = torch.full((4,), sigma, dtype=torch.float64)
    right = replace(joint, rule=bound(joint.rule, solve=Unsolved()))(u, sigma)
    marginal = compose(graph, node_scores(graph, q))(u, sigma)
    steps = []
    for start in (None, marginal):
        assert relative(solve(right, levels, start), q.score(u, sigma)) < 1e-9
        assert solve.residual < 1e-13
        steps.append(solve.steps)
    assert steps[1] < steps[0]


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


class OtherFloors(Covariances):
    """δ differs from region to region, as no provider of ours lets it."""

    def of(self, group):
        d = group.shape[0]
        return LowRankCovariances(torch.full((1, d, 1), 0.3).double(), 0.5 if d > 200 else 0.4)


def test_low_rank_with_several_floors_is_not_solved_as_if_it_had_one() -> None:
    graph = tiles((800,), 400, 200)
    precision = ComposedPrecision(graph, OtherFloors())
    b, eye = states(800), torch.eye(800, dtype=torch.float64)
    expected = torch.linalg.solve(eye + precision.dense(), b.T).T
    assert relative(solver_of(precision)(b, torch.ones(4).double()), expected) < 1e-9


def test_empty_batches_are_solved() -> None:
    ring_graph = tiles((12,), 6, 3, periodic=True)
    around = ComposedPrecision(ring_graph, ring((12,), 0.5, 0))
    precision = ComposedPrecision(tiles((12,), 6, 3), Custom())
    none = torch.zeros(0, dtype=torch.float64)
    solves = (Eigen, SparseFactors, ConjugateGradients)
    for solve in (*(make(precision) for make in solves), Circulant(around, shifts(around))):
        assert solve(states(12, batch=0), none, states(12, batch=0)).shape == (0, 12)


def test_levels_may_be_known_in_different_forms() -> None:
    graph, q = tiles((12,), 6, 3), ar1(12, 0.8)
    one_by_one, shared = Dense(node_covariances(graph, q)), ring((12,), 0.8, 0)
    u, sigma = states(12), torch.tensor([0.05, 0.3, 0.5, 9.0], dtype=torch.float64)
    for parts in ((one_by_one, shared), (shared, one_by_one)):
        for most in (None, 1):
            rule = Posterior(DenoisingErrors((0.1, 1.0), parts))
            joint = compose(graph, node_scores(graph, q), rule=rule, max_batch=most)
            assert relative(joint(u, sigma), q.score(u, sigma)) < 1e-8
    for levels, given in (((1.0, 0.1), parts), ((0.0, 1.0), parts), ((), ()), ((1.0,), parts)):
        with pytest.raises(GraphError, match="ascending positive levels"):
            DenoisingErrors(levels, given)


def test_denoising_errors_of_too_few_states_are_named() -> None:
    graph = tiles((12,), 6, 3)
    for score in (lambda x, s: -x, lambda x, s: 0 * x):
        with pytest.raises(ShapeError, match=r"'\[0:6\]', of 6 elements, at σ = 1 do not vary"):
            fit_denoising_errors(graph, score, states(12), (1.0,))


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
