"""Providers of covariances."""

from math import prod

import pytest
import torch

from pgmdiff import Consistent, GraphError, Posterior, ShapeError, compose
from pgmdiff.graphs import chain, tiles
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.precision import ComposedPrecision, Covariances, Eigen, fit_covariances, solver_of
from pgmdiff.precision.forms import (
    DenseCovariances,
    LowRankCovariances,
    SeparableCovariances,
)
from tests.helpers import ar1, relative
from tests.precision.examples import Custom, states


def test_other_graphs_and_groups_are_named() -> None:
    fitted = fit_covariances(tiles((12,), 6, 3), states(12), shared=True)
    with pytest.raises(GraphError, match="is not among those that the covariances were fitted for"):
        ComposedPrecision(tiles((12,), 4, 2), fitted)
    with pytest.raises(GraphError, match="requires windows of a tensor"):
        fit_covariances(chain(4), states(4), form="stationary")
    stationary = fit_covariances(tiles((12,), 4, 2), states(12), form="stationary")
    with pytest.raises(
        ShapeError, match="is 6 long on axis 0, the autocovariance is known for lags up to 3"
    ):
        ComposedPrecision(tiles((12,), 6, 3), stationary)
    with pytest.raises(GraphError, match="must be a window of a tensor"):
        ComposedPrecision(chain(3).regions, stationary)


def test_a_provider_of_ones_own_needs_one_method() -> None:
    graph = tiles((12,), 6, 3)
    precision = ComposedPrecision(graph, Custom())
    assert relative(precision.dense(), torch.linalg.inv(ar1(12, 0.5).covariance)) < 1e-9
    assert isinstance(solver_of(precision), Eigen)


@pytest.mark.parametrize("n", [1, 3])
def test_every_form_and_its_inverse_multiply_as_their_matrices(n: int) -> None:
    stream = torch.Generator().manual_seed(0)
    factors = torch.randn(n, 4, 2, generator=stream).double()
    low = LowRankCovariances(factors, 0.3)
    dense = DenseCovariances(factors @ factors.mT + torch.eye(4))
    channels = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
    for form in (low, dense, SeparableCovariances(channels, low)):
        v = torch.randn(5, 3, form.dense().shape[1], generator=stream).double()
        for each in (form, form.inverse(str)):
            expected = torch.einsum("nij,bnj->bni", each.dense().expand(3, -1, -1), v)
            torch.testing.assert_close(each.times(v), expected)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("own", [1, 2])
def test_inverses_with_a_floor_are_those_of_the_matrices_and_the_floor(n: int, own: int) -> None:
    """(Σ_r + f_r I)⁻¹ v_r of the regions 1 and 2 of four, with one floor for both or one each."""
    stream = torch.Generator().manual_seed(0)
    factors = torch.randn(n, 4, 2, generator=stream).double()
    low = LowRankCovariances(factors, 0.3)
    dense = DenseCovariances(factors @ factors.mT + torch.eye(4))
    channels = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
    floor = torch.rand(5, own, generator=stream).double()
    for form in (low, dense, *(SeparableCovariances(channels, each) for each in (low, dense))):
        matrices = form.dense().expand(4, -1, -1)[1:3]
        eye = torch.eye(matrices.shape[1]).double()
        v = torch.randn(5, 2, len(eye), generator=stream).double()
        expected = torch.linalg.solve(matrices + floor[:, :, None, None] * eye, v[..., None])
        found = form.inverse(str).floored(v, floor, slice(1, 3))
        torch.testing.assert_close(found, expected[..., 0])


def test_windows_whose_shared_parts_differ_are_told() -> None:
    """Clips that all begin near 0: no ridge and no more of them help."""
    stream = torch.Generator().manual_seed(0)
    clips = 2 * torch.randn(5000, 1, generator=stream)
    clips = clips + 0.5 * torch.randn(5000, 8, generator=stream).cumsum(dim=1)
    graph = tiles((20,), 8, 4)
    for ridge in (1e-6, 1e-2):
        with pytest.warns(UserWarning, match=r"that should be alike are not, as of clips that beg"):
            fitted = fit_covariances(graph, {(8,): clips}, ridge=ridge)
        ComposedPrecision(graph, fitted).dense()


def test_stationary_covariances_of_few_states_are_told_a_ridge_that_suffices() -> None:
    """Not to fit form='stationary', which was done."""
    generator, graph = torch.Generator().manual_seed(0), tiles((8, 8), (4, 4), (2, 2))
    states = torch.randn(2, 8, 8, generator=generator).cumsum(1).cumsum(2)

    def fitted(ridge: float = 1e-6) -> Covariances:
        return fit_covariances(graph, states, form="stationary", ridge=ridge)

    words = r"form='stationary'; if that was done, give more states, or ridge=0\.\d+\.$"
    with pytest.raises(GraphError, match=words) as raised:
        ComposedPrecision(graph, fitted()).dense()
    ridge = float(str(raised.value).split("ridge=")[1][:-1])
    ComposedPrecision(graph, fitted(ridge)).dense()


def test_regions_that_contradict_one_another_are_named() -> None:
    graph, score = chain(4), lambda x, sigma: -x
    unit = {name: torch.eye(2 if name[0] == "f" else 1) for name in graph.regions.names}
    for rule in (Posterior, Consistent):
        compose(graph, score, rule=rule({**unit, "f2": 2.5 * torch.eye(2)}))
        for wrong in ({"f2": 4 * torch.eye(2)}, {"x2": torch.full((1, 1), 0.2)}):
            with pytest.warns(UserWarning, match="regions '.*' and '.*' share element 2, whose"):
                compose(graph, score, rule=rule({**unit, **wrong}))
    compose(graph, score, rule=Posterior(Single()))
    two = {"f0": {"label": torch.tensor(1)}}  # its own observations, perhaps
    rules = Posterior({**unit, "f0": 9 * torch.eye(2)})
    compose(graph, lambda x, sigma, label=None: -x, conditions=two, rule=rules)


class Single(Covariances):
    """In float32, as a user's own may be."""

    def of(self, group: RegionGroup) -> torch.Tensor:
        return torch.eye(prod(group.shape))[None]
