"""Every operator is compared with its own matrix: adjoint, Moore-Penrose identities, errors."""

from math import prod

import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError, ShapeError
from pgmdiff.conditioning import (
    Crop,
    DenseOperator,
    FourierMask,
    Linear,
    LinearOperator,
    Mask,
    Operator,
    PerAxis,
    Stacked,
    block_average,
    blur,
    channel_mix,
)
from pgmdiff.conditioning.observations import Observation
from pgmdiff.graphs import FactorGraph
from pgmdiff.linalg import conjugate_gradients

GENERATOR = torch.Generator().manual_seed(0)
KERNEL = torch.tensor([0.2, 0.5, 0.3])
GREY = torch.tensor([[0.299, 0.587, 0.114]])


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


COARSE = block_average((3, 4, 8), 2)
OPERATORS: dict[str, Operator] = {
    "mask": Mask(random(3, 4) > 0),
    "empty mask": Mask(torch.zeros(3, 4, dtype=torch.bool)),
    "crop": Crop((3, 4, 8), (slice(None), slice(1, 3), slice(2, 7, 2))),
    "block average": COARSE,
    "block average of a series": block_average((12,), 3),
    "block average of other sides": block_average((2, 4, 6), (2, 3)),
    "blur": blur((2, 6, 5), KERNEL),
    "periodic blur": blur((7,), KERNEL, periodic=True),
    "singular blur": blur((8,), torch.tensor([0.25, 0.5, 0.25]), periodic=True),
    "grey": channel_mix((3, 4), GREY),
    "per axis": PerAxis((3, 4), {0: random(2, 3), 1: random(5, 4)}),
    "dense": DenseOperator(random(4, 9), (3, 3)),
    "dense of low rank": DenseOperator(random(6, 2) @ random(2, 9), (3, 3)),
    "frequencies": FourierMask(random(5, 6) > 0.3),
    "frequencies of one axis": FourierMask(random(2, 7) > 0, axes=(1,)),
    "composition": channel_mix((3, 2, 4), GREY) @ COARSE,
    "stack": Stacked((COARSE, Crop((3, 4, 8), (slice(1),)))),
    "complex and real": Stacked((FourierMask(random(5) > 0), DenseOperator(random(2, 5), (5,)))),
    "complex composition and real": Stacked(
        (
            FourierMask(random(5) > 0) @ blur((5,), KERNEL, periodic=True),
            DenseOperator(random(2, 5), (5,)),
        )
    ),
    "function": Linear(lambda x: x.cumsum(-1)[:, ::2], (6,)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_batches_of_another_shape_are_refused(name: str) -> None:
    """Also where they would broadcast, or a slice would fit another axis."""
    operator, kind = OPERATORS[name], type(OPERATORS[name]).__name__
    event, observed = tuple(operator.event_shape), tuple(operator.observed_shape)
    for function, what, shape in (
        (operator.A, "states", event),
        (operator.A_adjoint, "observations", observed),
        (operator.A_dagger, "observations", observed),
    ):
        wrong = [shape, (2, *shape[:-1], shape[-1] + 1), (2, 2, *shape), (2,)]
        for other in wrong:
            with pytest.raises(ShapeError, match=rf"{kind}: expected {what} \[batch, .*x\[None\]"):
                function(torch.zeros(other, dtype=torch.float64))
        assert len(function(torch.zeros(2, *shape, dtype=torch.float64))) == 2


def matrix(function, shape: tuple[int, ...]) -> Tensor:
    eye = torch.eye(prod(shape), dtype=torch.float64).reshape(-1, *shape)
    columns = function(eye)
    if columns.is_complex():
        columns = torch.view_as_real(columns)
    return columns.reshape(len(eye), -1).T


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoints_and_pseudo_inverses(name: str) -> None:
    operator = OPERATORS[name]
    assert isinstance(operator, LinearOperator)
    h = matrix(operator.A, operator.event_shape)
    assert operator.A(random(2, *operator.event_shape)).shape[1:] == operator.observed_shape
    x = random(3, *operator.event_shape)
    y = operator.A(random(3, *operator.event_shape))
    forward = (operator.A(x).conj() * y).real.reshape(3, -1).sum(1)
    torch.testing.assert_close(forward, (x * operator.A_adjoint(y)).reshape(3, -1).sum(1))
    back = matrix(lambda e: operator.A_dagger(operator.A(e)), operator.event_shape)
    torch.testing.assert_close(back, torch.linalg.pinv(h, rtol=1e-6) @ h, rtol=0, atol=1e-6)
    torch.testing.assert_close(back @ back, back, rtol=0, atol=1e-6)
    torch.testing.assert_close(h @ back, h, rtol=0, atol=1e-6)
    if not y.is_complex():
        inverse = matrix(operator.A_dagger, operator.observed_shape)
        assert (inverse - torch.linalg.pinv(h, rtol=1e-6)).abs().max() < 1e-6
        project = h @ inverse
        torch.testing.assert_close(project, project.T, rtol=0, atol=1e-6)


def test_what_a_matrix_has_all_but_removed_counts_as_removed() -> None:
    turned = torch.linalg.qr(random(3, 3)).Q
    h = turned @ torch.diag(torch.tensor([1.0, 0.1, 1e-5])).double() @ turned.T
    for tolerance, rank in ((1e-3, 2), (1e-6, 3)):
        inverse = matrix(DenseOperator(h, (3,), tolerance=tolerance).A_dagger, (3,))
        assert torch.linalg.matrix_rank(inverse @ h) == rank
        torch.testing.assert_close(inverse, torch.linalg.pinv(h, rtol=tolerance))
        alike = matrix(PerAxis((3,), {0: h}, tolerance=tolerance).A_dagger, (3,))
        torch.testing.assert_close(alike, inverse)


def test_dtypes_stay() -> None:
    for operator in OPERATORS.values():
        x = random(1, *operator.event_shape).float()
        y = operator.A(x)
        assert y.dtype in (torch.float32, torch.complex64)
        back = operator.A_dagger(y)
        assert back.dtype == torch.float32
        assert (operator.A(back) - y).abs().max() < 1e-4


def test_named_variables_as_evidence() -> None:
    graph = FactorGraph.from_scopes({"f": ("a", "b")}, shapes={"a": (2,), "b": ()})
    operator = Mask(graph.mask(["a"]))
    assert operator.A(torch.ones(1, 3)).tolist() == [[1.0, 1.0, 0.0]]


def test_operators_that_are_not_linear_are_named() -> None:
    for function in (torch.sin, lambda x: x + 1, lambda x: x.abs()):
        with pytest.raises(PgmdiffError, match="the function is not linear"):
            Linear(function, (4,))


def test_functions_serve_in_inference_mode_and_in_their_own_dtype() -> None:
    operator = OPERATORS["function"]
    y = operator.A(random(2, 6))
    with torch.inference_mode():
        inside = operator.A_dagger(operator.A(random(2, 6) * 0) + y)
    torch.testing.assert_close(inside, operator.A_dagger(y))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Conv1d(1, 1, 3, bias=False)
    single = Linear(network, (1, 8), widest=torch.float32)
    both = Stacked((single, Crop((1, 8), (slice(None), slice(2)))))
    assert (single @ Mask(torch.ones(1, 8) > 0)).widest == both.widest == torch.float32
    y = both.A(random(2, 1, 8).float()).detach()
    torch.testing.assert_close(Observation.of("f", y, both, noise=0.0).y, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_of_pseudo_inverses(name: str) -> None:
    """The gradients hold also where H is not onto and a gradient lies outside the range of Hᵀ."""
    operator = OPERATORS[name]
    y = operator.A(random(2, *operator.event_shape)).requires_grad_()
    back = operator.A_dagger(y)
    g, other = random(*back.shape), operator.A(random(2, *operator.event_shape))
    (gradient,) = torch.autograd.grad(back, y, g)
    expected = (operator.A_dagger(other).detach() * g).sum()
    torch.testing.assert_close((gradient.conj() * other).real.sum(), expected)


def test_noiseless_observations_are_put_into_the_range() -> None:
    operator = DenseOperator(torch.tensor([[1.0, 0.0], [2.0, 0.0]]).double(), (2,))
    y = torch.tensor([[1.0, 2.0 + 1e-7], [1e6, 2e6]]).double()
    inside = Observation.of("f", y, operator, noise=0.0).y
    assert (inside[:, 1] - 2 * inside[:, 0]).abs().max() < 1e-9
    y[0, 1] = 5.0  # every sample has its own scale
    with pytest.raises(PgmdiffError, match=r"y by 1\.2 \(y up to 5\)"):
        Observation.of("f", y, operator, noise=0.0)


def test_bad_operators_are_named() -> None:
    for make, message in [
        (lambda: Mask(torch.ones(3).numpy()), r"boolean mask, got torch\.float32"),
        (lambda: Mask("seen"), "a boolean mask as a tensor, .*, got 'seen'"),
        (lambda: Mask(torch.ones(3)), r"boolean mask, got torch\.float32"),
        (lambda: Mask([0, 1, 1]), r"got torch\.int64\. Use torch\.as_tensor\(mask\) > 0, if"),
        (
            lambda: Mask([0, 1, 2]),
            r"mask\) > 0; or, if these are indices, .*mask\[indices\] = True",
        ),
        (lambda: Mask(torch.ones(2) * 1j), r"boolean mask, got torch\.complex64"),
        (lambda: FourierMask(torch.ones(3)), r"boolean mask, got torch\.float32"),
        (lambda: Crop((4,), (slice(4, 4),)), "selects nothing"),
        (lambda: Crop((4,), (slice(1), slice(1))), "selects nothing"),
        (lambda: PerAxis((4,), {1: torch.eye(4)}), "for axis 1"),
        (lambda: PerAxis((4,), {0: torch.eye(3)}), r"got \(3, 3\) for axis 0"),
        (lambda: block_average((3, 10), 4), "blocks of 4 do not fit axis 1 of size 10"),
        (lambda: block_average((3, 10), (3, 4)), "blocks of 4 do not fit axis 1 of size 10"),
        (
            lambda: block_average((4, 4), (2, 2, 2)),
            r"each of the axes \(0, 1\) of the state \(4, 4\), got \(2, 2, 2\)",
        ),
        (lambda: block_average((4, 4), (2, 2), (0,)), r"axes \(0,\) .*, got \(2, 2\)"),
        (lambda: block_average((4, 4), ()), r"axes \(0, 1\) .*, got \(\)"),
        (lambda: blur((1, 8), torch.ones(4)), "odd length"),
        (lambda: DenseOperator(torch.ones(2, 5), (2, 2)), r"\[M, 4\]"),
        (lambda: DenseOperator(torch.fft.fft(torch.eye(4)), (4,)), "real matrix .*complex64"),
        (lambda: PerAxis((4,), {0: torch.eye(4) * 1j}), "real matrix .*complex64"),
        (lambda: FourierMask(torch.ones(4, 4) > 0, axes=(-1,)), r"event's 2, .* got \(-1,\)"),
        (lambda: FourierMask(torch.ones(4, 4) > 0, axes=(0, 0)), r"distinct .* got \(0, 0\)"),
        (
            lambda: Linear(lambda x: x.sum(), (4,)),
            r"return a tensor \[2, ...\].*, got \(\)",
        ),
        (lambda: Stacked((COARSE, block_average((12,), 3))), "one event shape"),
        (lambda: COARSE @ COARSE, r"accepts \(3, 4, 8\), the inner one returns \(3, 2, 4\)"),
    ]:
        with pytest.raises(ShapeError, match=message):
            make()


def test_block_averages_of_one_side_per_axis() -> None:
    """The last axes, unless others are given; against the dense matrix of mean pixels."""
    shape = (2, 4, 6)
    x = random(5, *shape)
    for factor, axes, sides in (
        ((2, 3), None, (1, 2, 3)),
        ([3], None, (1, 1, 3)),
        ((2, 4, 2), None, (2, 4, 2)),
        ((2, 3), (1, 2), (1, 2, 3)),
        ((3, 2), (2, 0), (2, 1, 3)),
        (2, None, (1, 2, 2)),
    ):
        blocks = [torch.arange(n) // side for n, side in zip(shape, sides, strict=True)]
        observed = [n // side for n, side in zip(shape, sides, strict=True)]
        place = (blocks[0][:, None, None] * observed[1] + blocks[1][:, None]) * observed[2]
        dense = torch.zeros(prod(observed), prod(shape), dtype=torch.float64)
        dense[(place + blocks[2]).flatten(), torch.arange(prod(shape))] = 1 / prod(sides)
        h = block_average(shape, factor, axes)
        assert h.observed_shape == tuple(observed)
        torch.testing.assert_close(h.A(x).flatten(1), x.flatten(1) @ dense.T)
        torch.testing.assert_close(matrix(h.A_dagger, h.observed_shape), torch.linalg.pinv(dense))


def test_bad_observations_are_named() -> None:
    operator = DenseOperator(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), (2,))
    for y, error, message in [
        (torch.ones(3), ShapeError, r"expected an observation \[2\].*got \(3,\)"),
        ("y", ShapeError, "the observation as a tensor, .*, got 'y'"),
        ([[1.0, 2.0], [1.0]], ShapeError, "the observation as a tensor"),
        (torch.tensor([1.0, float("nan")]), ShapeError, "not finite"),
        (torch.tensor([1.0, 5.0]), PgmdiffError, "no state gives this observation"),
    ]:
        with pytest.raises(error, match=message):
            Observation.of("f", y, operator, noise=0.0)
    noisy = Observation.of("f", torch.tensor([1.0, 5.0]), operator, noise=1.0)
    assert noisy.y.shape == (1, 2)


def test_conjugate_gradients_say_when_they_fail() -> None:
    spread = torch.logspace(0, 8, 40, dtype=torch.float64)
    with pytest.raises(PgmdiffError, match=r"Stacked: .* after 3 steps, expected 1e-10"):
        conjugate_gradients(
            lambda v: spread * v,
            torch.ones(1, 40).double(),
            tolerance=1e-10,
            most_steps=3,
            what="Stacked",
        )
    zero = conjugate_gradients(
        lambda v: v, torch.zeros(2, 3), tolerance=1e-5, most_steps=3, what="x"
    )
    assert zero.abs().max() == 0


def test_masks_say_which_event_shapes_they_accept() -> None:
    assert Mask(torch.tensor(True)).A(torch.ones(3)).tolist() == [1, 1, 1]
    for wrong in (2, "ab", (2.0,)):
        with pytest.raises(ShapeError, match="expected event_shape as a tuple of integers"):
            Mask(torch.tensor([True, False]), event_shape=wrong)
