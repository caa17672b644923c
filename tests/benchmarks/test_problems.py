"""Problems and methods of the benchmarks: evaluations as counted, pieces, and exact propagation."""

import pytest
import torch
from torch import Tensor

from benchmarks.exactness.gaussians import chain_case
from benchmarks.exactness.sensors import Networks
from benchmarks.problems import (
    METHODS,
    Counter,
    Problem,
    gaussian_problem,
    levels_within,
    side_by_side,
)
from pgmdiff.gaussian import ar1
from pgmdiff.graphs import RegionGraph, chain, star, tiles
from pgmdiff.samplers import SDE, Heun, Solver, karras, sample
from tests.helpers import relative


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("solver", [Heun(), SDE(1.0)], ids=["Heun", "SDE"])
def test_no_method_calls_networks_more_often_than_its_budget(method: str, solver: Solver) -> None:
    n, samples, budget = 6, 3, 20
    regions = {"concatenation": 3, "average": 5, "exact score": 1}.get(method, 9)
    problem, rows = gaussian_problem(chain(n), ar1(n, 0.9)), []
    levels = levels_within(method, budget, solver)
    for count in (levels, levels + 1):
        counter, sigmas = Counter(), karras(count, 0.1, 10.0)
        score = problem.score(method, counter)
        sample(score, sigmas, shape=(samples, n), solver=solver, generator=0)
        rows.append(counter.rows)
    assert rows[0] <= budget * regions * samples < rows[1]


@pytest.mark.parametrize(
    "graph", [chain(5).regions, star(4).regions, tiles((13,), 5, 3), tiles((6, 6), 4, 2)]
)
def test_pieces_side_by_side_share_nothing(graph: RegionGraph) -> None:
    apart = side_by_side(graph)
    assert apart.validate().valid
    assert (apart.coverage() == 1).all()
    assert set(apart.counting_numbers().values()) == {1}


def test_methods_agree_where_pieces_do_not_overlap() -> None:
    """Two pieces without an overlap: every rule is their concatenation."""
    problem = gaussian_problem(tiles((8,), 4, 0), ar1(8, 0.9))
    u = 2 * torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = problem.joint("concatenation")(u, 0.7)
    for rule in ("average", "marginal", "posterior", "consistent"):
        torch.testing.assert_close(problem.joint(rule)(u, 0.7), expected)


def test_an_unknown_exact_score_is_refused() -> None:
    problem = Problem(chain(3).regions, lambda graph: {}, {})
    with pytest.raises(ValueError, match="exact score is not known"):
        problem.score("exact score", Counter())


@pytest.mark.parametrize("rho", [0.5, 0.99])
@pytest.mark.parametrize("levels", [5, 18])
def test_posterior_and_consistent_end_where_the_exact_score_does(rho: float, levels: int) -> None:
    """Target: 1e-8 relative in float64 at every step count and length."""
    case = chain_case(100, rho)

    def reached(rule: str) -> Tensor:
        return case.reached(rule, levels)

    for rule in ("posterior", "consistent"):
        assert relative(reached(rule), reached("exact score")) < 1e-8
    assert relative(reached("marginal"), reached("exact score")) > 0.1


def test_networks_of_all_sensors_are_those_of_each() -> None:
    networks = Networks(3, 2).requires_grad_(False)
    x, noise = torch.randn(5, 3, 2), torch.randn(5)
    for k in range(3):
        one = networks.only(k)(x[:, k : k + 1], noise)
        torch.testing.assert_close(one, networks(x, noise)[:, k : k + 1])
