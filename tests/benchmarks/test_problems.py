"""Problems and methods of the benchmarks: evaluations as counted, pieces, and exact propagation."""

import pytest
import torch
from torch import Tensor

from benchmarks.exactness.gaussians import chain_case
from benchmarks.exactness.methods import CORRECTED, METHODS, Method
from benchmarks.problems import Counter, Problem, gaussian_problem, side_by_side
from pgmdiff.gaussian import ar1
from pgmdiff.graphs import RegionGraph, chain, star, tiles
from pgmdiff.samplers import SDE, Heun, Solver, karras, sample
from tests.helpers import relative


@pytest.mark.parametrize("method", [*METHODS, *CORRECTED], ids=lambda method: method.name)
@pytest.mark.parametrize("predictor", [Heun(), SDE(1.0)], ids=["Heun", "SDE"])
def test_evaluations_are_what_the_networks_were_called_with(
    method: Method, predictor: Solver
) -> None:
    n, levels, samples = 6, 4, 3
    problem, counter = gaussian_problem(chain(n), ar1(n, 0.9)), Counter()
    score, solver = method.prepared(problem, predictor, counter)
    sample(score, karras(levels, 0.1, 10.0), shape=(samples, n), solver=solver, generator=0)
    regions = {"concatenation": 3, "average": 5, "exact score": 1}
    alone = Method(method.rule).evaluations(levels, predictor)
    moves = method.evaluations(levels, predictor) - alone
    rows = alone * regions.get(method.rule, 9) + moves * regions.get(method.corrector, 9)
    assert counter.rows == rows * samples
    found = method.levels(20, predictor)
    assert method.evaluations(found, predictor) <= 20 < method.evaluations(found + 1, predictor)


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
    for rule in ("average", "marginal", "posterior", "evidence"):
        torch.testing.assert_close(problem.joint(rule)(u, 0.7), expected)


def test_an_unknown_exact_score_is_refused() -> None:
    problem = Problem(chain(3).regions, lambda graph: {}, {})
    with pytest.raises(ValueError, match="exact score is not known"):
        problem.score("exact score", Counter())


@pytest.mark.parametrize("rho", [0.5, 0.99])
@pytest.mark.parametrize("levels", [5, 18])
def test_posterior_and_evidence_end_where_the_exact_score_does(rho: float, levels: int) -> None:
    """Target: 1e-8 relative in float64 at every step count and length."""
    case = chain_case(100, rho, ())

    def reached(rule: str) -> Tensor:
        return case.reached(Method(rule), levels)

    for rule in ("posterior", "evidence"):
        assert relative(reached(rule), reached("exact score")) < 1e-8
    assert relative(reached("marginal"), reached("exact score")) > 0.1
