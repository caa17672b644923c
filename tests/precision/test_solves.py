"""Every solve against dense linear algebra, on the structures that it is for."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pgmdiff import Consistent, GraphError, Posterior, ScoreError, compose
from pgmdiff.composition.rules import bound
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import RegionGraph, tiles, torus
from pgmdiff.precision import (
    Channelwise,
    Circulant,
    ComposedPrecision,
    ConjugateGradients,
    Covariances,
    Dense,
    Eigen,
    Loops,
    LowRank,
    Separable,
    SmallSpace,
    Solve,
    SparseFactors,
    Stationary,
    solver_of,
)
from pgmdiff.precision.covariances import Place
from pgmdiff.precision.forms import LowRankCovariances
from pgmdiff.precision.solves import base
from pgmdiff.precision.solves.circulant import shifts
from pgmdiff.precision.solves.iterative import LocalSolves
from tests.helpers import Unsolved, ar1, relative
from tests.precision.examples import SIGMA, Custom, low_rank, ring, states


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


def test_low_rank_is_dense_in_a_smaller_space() -> None:
    graph = tiles((56,), 20, 8)
    provider, q = low_rank(graph, 4, 0.3)
    precision = ComposedPrecision(graph, provider)
    dense = ComposedPrecision(graph, Dense(node_covariances(graph, q)))
    assert relative(precision.dense(), dense.dense()) < 1e-10
    assert relative(precision.log_determinants(SIGMA), dense.log_determinants(SIGMA)) < 1e-10
    check_solve(SmallSpace(precision), dense.dense())
    u = states(56)
    for rule in (Posterior, Consistent):
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
        provider = ring(graph.event_shape, rho)
        precision = ComposedPrecision(graph, provider)
        periods = shifts(precision)
        assert periods is not None
        check_solve(Circulant(precision, periods), precision.dense())
    assert shifts(ComposedPrecision(tiles((24,), 6, 3), ring((24,), 0.7))) is None
    assert shifts(ComposedPrecision(tiles((24,), 6, 3, periodic=True), ring((24,), 0.7))) == (8,)
    uneven = tiles((25,), 6, 2, periodic=True, remainder="shift")
    assert shifts(ComposedPrecision(uneven, ring((25,), 0.7))) is None


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


@pytest.mark.parametrize("periodic", [False, True])
def test_channels_are_solved_one_by_one(periodic: bool) -> None:
    graph = tiles((3, 4, 12), (3, 4, 6), (0, 0, 3), periodic=(False, False, periodic))
    channels = torch.tensor(
        [[1.2, 0.5, 0.1], [0.5, 1.0, 0.4], [0.1, 0.4, 0.8]], dtype=torch.float64
    )
    precision = ComposedPrecision(graph, Separable(channels, ring((4, 12), 0.6)))
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
    whole = ar1(6, 0.8).covariance
    places = Dense({"a": whole[:4, :4], "b": whole[2:, 2:], "ab": whole[2:4, 2:4]})
    precision = ComposedPrecision(graph, Separable(channels, places))
    expected = torch.linalg.inv(torch.kron(channels, whole))  # AR(1): Markov to the regions
    assert relative(precision.dense(), expected) < 1e-9
    check_solve(Channelwise(precision), expected)
    wrong = RegionGraph.from_regions({"a": index.T.numpy().copy()}, event_shape=(2, 6))
    with pytest.raises(GraphError, match="the same places of all 2 channels"):
        ComposedPrecision(wrong, Separable(channels, places))


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


class Field(Covariances):
    """Exponential decay along both axes."""

    def of(self, group):
        rows, columns = (torch.arange(n, dtype=torch.float64) for n in group.shape)
        lines = (0.97 ** (each - each[:, None]).abs() for each in (rows, columns))
        return torch.kron(*lines)[None]


def test_where_conjugate_gradients_are_too_slow_the_precision_is_factorised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A field of long correlations at large σ, where the precision is ill-conditioned."""
    precision = ComposedPrecision(tiles((20, 20), 8, 4), Field())
    assert solver_of(ComposedPrecision(tiles((40, 40), 8, 4), Field())).most_steps == 150
    solve, eye = ConjugateGradients(precision, most_steps=40), torch.eye(400).double()
    b, levels = states(400), torch.tensor([0.3, 1.0, 20.0, 20.0]).double()
    small = torch.full((4,), 0.02).double()
    for sigma, slow in ((small, False), (levels, True), (small, False), (levels + 1, True)):
        dense = eye + sigma[:, None, None] ** 2 * precision.dense()
        expected = torch.linalg.solve(dense, b)
        assert relative(solve(b, sigma), expected) < 1e-9
        assert (solve.steps == 0) == slow
        assert solve.residual < 1e-12
    leaf, sigma = b.clone().requires_grad_(), torch.full((4,), 20.0).double().requires_grad_()
    fresh = ConjugateGradients(precision, most_steps=40)
    assert torch.equal(solve(b, small), fresh(b, small)), "a call depends on earlier ones"
    assert torch.equal(solve(b, levels), fresh(b, levels))
    direct = solve.for_many()
    assert isinstance(direct, SparseFactors)
    for one, two in zip(
        torch.autograd.grad(solve(leaf, sigma).square().sum(), (leaf, sigma)),
        torch.autograd.grad(direct(leaf, sigma).square().sum(), (leaf, sigma)),
        strict=True,
    ):
        torch.testing.assert_close(one, two)
    torch.testing.assert_close(solve.log_determinant(levels), direct.log_determinant(levels))
    assert torch.equal(pickle.loads(pickle.dumps(solve))(b, sigma), solve(b, sigma))
    monkeypatch.setattr("pgmdiff.precision.solves.iterative.SPARSE_ENTRIES", 0)
    with pytest.raises(ScoreError, match=r"after 40 steps\. P is too large .* lower first noise"):
        ConjugateGradients(precision, most_steps=40)(b, levels)
    large = ConjugateGradients(precision, most_steps=250)  # the diagonal takes over a thousand
    expected = torch.linalg.solve(eye + levels[:, None, None] ** 2 * precision.dense(), b)
    assert relative(large(b, levels), expected) < 1e-9
    assert large.steps > 100


def test_iterations_that_end_early_are_accepted_by_the_error_of_the_solution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """b may be larger than x by the condition of the matrix: its residual alone says little."""
    monkeypatch.setattr("pgmdiff.precision.solves.iterative.SPARSE_ENTRIES", 0)
    precision = ComposedPrecision(tiles((20, 20), 8, 4), Field())
    x, sigma, accepted = states(400), torch.full((4,), 20.0).double(), 0
    b = x @ (torch.eye(400).double() + 400 * precision.dense())
    for steps in (90, 95, 100, 105, 110, 120, 140):
        try:
            found = ConjugateGradients(precision, most_steps=steps)(b, sigma)
        except ScoreError:
            continue
        accepted += 1
        assert relative(found, x) < 1e-8
    assert 0 < accepted < 7


def test_what_regions_know_on_their_own_is_a_preconditioner() -> None:
    """It is symmetric, positive definite, and exact where regions are independent; where long
    correlations matter it lowers the condition by far more than the diagonal does."""
    squared = torch.tensor([[0.5], [25.0], [4e4]], dtype=torch.float64)
    alone = ComposedPrecision(tiles((16, 24), 8, 0), Field())
    precision = ComposedPrecision(tiles((20, 24), 8, 4), Field())
    for one, exact in ((alone, True), (precision, False)):
        n, local = one.graph.n_elements, LocalSolves(one)
        assert local.cover
        for level in squared:
            eye = torch.eye(n).double()
            matrix = local(eye, level.expand(n, 1))(eye)
            torch.testing.assert_close(matrix, matrix.T, rtol=1e-12, atol=1e-15)
            assert torch.linalg.eigvalsh(matrix)[0] > 0
            whole = eye + level * one.dense()
            ours, diagonal = (
                torch.linalg.eigvals(m @ whole).real
                for m in (matrix, (1 / whole.diagonal()).diag())
            )
            condition = ours.max() / ours.min()
            assert condition < (1 + 1e-8 if exact else diagonal.max() / diagonal.min() / 10)
        b = states(n)[:3]
        together = local(b, squared)(b)
        each = [local(b, s[None])(v[None])[0] for v, s in zip(b, squared, strict=True)]
        torch.testing.assert_close(together, torch.stack(each))
    assert repr(local) == "LocalSolves(20 regions)"


def test_the_diagonal_solves_what_is_independent_in_one_step() -> None:
    """However large or small its variances are."""
    q = Gaussian(torch.zeros(6).double(), torch.diag(10.0 ** -torch.arange(0, 24, 4).double()))
    graph = tiles((6,), 1, 0)
    solve = ConjugateGradients(ComposedPrecision(graph, Dense(node_covariances(graph, q))))
    b, level = states(6), torch.full((4,), 3.0).double()
    torch.testing.assert_close(solve(b, level), b / (1 + 9 / q.covariance.diagonal()))
    assert solve.steps == 1


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


def test_solves_are_pickled_after_a_call() -> None:
    windows, around = tiles((56,), 20, 8), tiles((24,), 6, 2, periodic=True)
    low = ComposedPrecision(windows, low_rank(windows, 4, 0.3)[0])
    wide = ComposedPrecision(windows, Custom())
    periodic = ComposedPrecision(around, ring((24,), 0.7))
    solves = [
        Eigen(wide), SparseFactors(wide), ConjugateGradients(wide), SmallSpace(low),
        Circulant(periodic, shifts(periodic)), Loops(wide.dense(), wide.dense()),
    ]  # fmt: skip
    for solve in solves:
        b = states(24 if isinstance(solve, Circulant) else 56)
        solved = solve(b, SIGMA)
        assert torch.equal(pickle.loads(pickle.dumps(solve))(b, SIGMA), solved)


def test_noise_levels_that_are_kept_are_bounded_whoever_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another thread may ask for a level while one is computed: here by the same thread."""
    monkeypatch.setattr(base, "KEPT_BYTES", 20 * 3 * 3 * 8)
    solve = Loops(2 * torch.eye(3).double(), -torch.eye(3).double())
    computed = solve._computed

    def interrupted(sigma: float):
        if sigma < 100:
            solve.level(sigma + 100)
        return computed(sigma)

    solve._computed = interrupted
    for sigma in range(1, 60):
        assert torch.equal(solve.level(float(sigma)).inverse, computed(float(sigma)).inverse)
    assert len(solve._kept) == 40  # inverses may take twice the memory of factors


@pytest.mark.parametrize("composed", [1.0, -1.0])
def test_a_fade_can_be_learnt_through_after_inference_mode_and_keeps_nothing_in_a_pickle(
    composed: float,
) -> None:
    solve, b = Loops(2 * torch.eye(9).double(), composed * torch.eye(9).double()), states(9)
    size, half = len(pickle.dumps(solve)), torch.full((len(b),), 0.5).double()
    with torch.inference_mode():
        solve.faded(b, b, half, SIGMA)
    leaf = b.clone().requires_grad_()
    solve.faded(leaf, leaf, half, SIGMA).sum().backward()
    assert len(pickle.dumps(solve)) == size


@pytest.mark.parametrize("share", [0.05, 0.5, 0.89, 0.95, 1.5, 4.0])
def test_one_decomposition_serves_all_levels_where_the_precision_does(share: float) -> None:
    """K - P is a share of K in one direction: λ = 1 at σ = ∞ up to 0.9."""
    root = torch.linalg.qr(states(9, batch=9))[0]
    values = torch.linspace(0.5, 3, 9).double()
    completion = root * values @ root.T
    solve = Loops(completion, completion - share * values[4] * root[:, 4:5] @ root[:, 4:5].T)
    assert (solve._far is not None) == (share <= 0.9)
    for sigma in (0.1, 1.0, 30.0):
        top = share * sigma**2 * values[4] / (1 + sigma**2 * values[4])
        level, kept = solve.level(sigma), min(1.0, 0.9 / float(top))
        assert level.kept == pytest.approx(kept)
        matrix = torch.eye(9).double() + sigma**2 * (completion - kept * solve.gap)
        expected = torch.linalg.solve(matrix, states(9).T).T
        assert relative(level(states(9), torch.full((4,), sigma).double()), expected) < 1e-9


def test_empty_batches_are_solved() -> None:
    ring_graph = tiles((12,), 6, 3, periodic=True)
    around = ComposedPrecision(ring_graph, ring((12,), 0.5))
    precision = ComposedPrecision(tiles((12,), 6, 3), Custom())
    none = torch.zeros(0, dtype=torch.float64)
    solves = (Eigen, SparseFactors, ConjugateGradients)
    for solve in (*(make(precision) for make in solves), Circulant(around, shifts(around))):
        assert solve(states(12, batch=0), none, states(12, batch=0)).shape == (0, 12)
