"""What users give as observations, noise and masks, against dense Gaussian posteriors."""

import warnings

import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError, Posterior, ScoreError, ShapeError, compose
from pgmdiff.conditioning import (
    Composed,
    Composition,
    Crop,
    DenseOperator,
    FourierMask,
    Mask,
    Operator,
    Stacked,
    Tweedie,
    block_average,
    dps,
    moment_matching,
    reconstruction,
    replacement,
)
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import chain
from pgmdiff.samplers import karras, sample
from tests.helpers import ar1, relative

N = 6
Q = ar1(N, 0.8)
GRAPH = chain(N)
JOINT = compose(GRAPH, node_scores(GRAPH, Q), rule=Posterior(node_covariances(GRAPH, Q)))
SEEN = torch.tensor([True, False, True, True, False, True])
MASK, BLOCKS = Mask(SEEN), block_average((N,), 2)
WAVES = FourierMask(torch.tensor([True, True, True, False, False, False]))


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def covariance(n: int) -> Tensor:
    root = random(n, n, seed=3) / n
    return root @ root.mT + 0.05 * torch.eye(n).double()


def real(y: Tensor) -> Tensor:
    """Values `[batch, ...]` as real ones, `[batch, m]`: real parts, then imaginary ones."""
    parts = [y.real, y.imag] if y.is_complex() else [y]
    return torch.cat([part.reshape(len(y), -1) for part in parts], dim=1)


def posterior_mean(h: Operator, u: Tensor, sigma: float, y: Tensor, r: Tensor) -> Tensor:
    """E[u_0 | u_σ = u, y] for noise of covariance r, real and imaginary parts independent."""
    y = y.expand(len(u), *y.shape[1:])
    matrix, seen = real(h.A(torch.eye(N, dtype=torch.float64))).T, real(y)
    mask = SEEN if h is BOTH else getattr(h, "mask", torch.ones(0) > 0)
    mask = torch.cat([mask, torch.ones(len(r) - len(mask)) > 0])  # elsewhere is nothing, not 0
    kept = mask.repeat(len(matrix) // len(r))
    r = torch.block_diag(*[r] * (len(matrix) // len(r)))
    gain = torch.linalg.solve(r[kept][:, kept], matrix[kept]).T
    clean = torch.linalg.inv(Q.covariance)
    precision = clean + torch.eye(N) / sigma**2 + gain @ matrix[kept]
    right = clean @ Q.mean + u / sigma**2 + seen[:, kept] @ gain.T
    return torch.linalg.solve(precision, right.T).T


EACH = torch.linspace(0.05, 2.0, N).double()
BOTH = Stacked((MASK, BLOCKS))
MIXED = Stacked((WAVES, Crop((N,), (slice(2),))))
CASES = {
    "one number": (MASK, 0.3, 0.09 * torch.eye(N)),
    "each of a mask": (MASK, EACH.where(SEEN, torch.nan), EACH.square().diag()),
    "each of blocks": (BLOCKS, EACH[:3].numpy(), EACH[:3].square().diag()),
    "each of a stack's operators": (
        BOTH,
        (0.1, EACH[:3]),
        torch.cat([torch.full((N,), 0.01), EACH[:3].square()]).double().diag(),
    ),
    "a matrix": (BLOCKS, covariance(3), covariance(3)),
    "a matrix of a mask": (MASK, covariance(N), covariance(N)),
    "a dense operator's list": (
        DenseOperator(random(2, N), (N,)),
        [0.1, 3.0],
        torch.tensor([0.01, 9.0]).double().diag(),
    ),
    "a matrix of a stack": (BOTH, covariance(N + 3), covariance(N + 3)),
    "complex": (WAVES, 0.3, 0.09 * torch.eye(N)),
    "complex, a matrix": (WAVES, covariance(N), covariance(N)),
    "complex and real": (
        MIXED,
        (0.2, 0.5),
        torch.tensor([0.04] * N + [0.25] * 2).double().diag(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_noise_of_every_kind_is_exact(name: str) -> None:
    h, noise, r = CASES[name]
    y = h.A(random(1, N, seed=1)) + 0.1 * h.A(random(1, N, seed=2))
    u = random(3, N)
    for sigma in (0.1, 1.0, 20.0):
        expected = posterior_mean(h, u, sigma, y, r.double())
        for moments in (Composed(JOINT), Tweedie()):
            found = moment_matching(JOINT, y, h, moments, noise=noise, most_steps=60)
            assert relative(found.denoise(u, sigma), expected) < 1e-7, (sigma, moments)


def test_axes_of_1_stand_for_all_of_theirs() -> None:
    """As of one deviation per channel, also in a stack and of a function, but not of other axes."""
    q = Gaussian(torch.zeros(2, 3, 2), torch.eye(12).double() + 0.5)
    y, noise = random(1, 12, seed=1).reshape(2, 3, 2), torch.tensor([0.1, 0.7]).reshape(2, 1, 1)
    mask, u = Mask(random(1, 12, seed=2).reshape(2, 3, 2) > -0.5), random(3, 12).reshape(3, 2, 3, 2)
    whole = noise.expand(2, 3, 2)
    for h, each, full in [
        (mask, noise, whole),
        (lambda x: x, noise, whole),
        (Stacked((mask, mask)), (0.3, noise), (0.3, whole)),
    ]:
        seen = torch.cat([y.flatten()] * 2) if isinstance(h, Stacked) else y
        found, expected = (moment_matching(q, seen, h, noise=n)(u, 1.0) for n in (each, full))
        assert torch.equal(found, expected)
    with pytest.raises(ShapeError, match=r"one per channel.*got \[1, 2, 1\]"):
        moment_matching(q, y, mask, noise=noise.reshape(1, 2, 1))


@pytest.mark.parametrize("h", [BOTH, MIXED, Stacked((BOTH, MASK))])
def test_a_stack_accepts_what_each_of_its_operators_sees(h: Stacked) -> None:
    """One sample or several, in any kind of list; masks, in stacks too, ignore what they mask."""
    u, seen = random(3, N), h.A(random(3, N, seed=1))
    for y in (seen[:1], seen):
        expected = moment_matching(JOINT, y, h, noise=0.3)(u, 1.0)
        parts = [each.A(random(3, N, seed=1))[: len(y)] for each in h.operators]
        single = [part[0] for part in parts] if len(y) == 1 else parts
        for given in (parts, single, tuple(part.numpy() for part in parts)):
            assert torch.equal(moment_matching(JOINT, given, h, noise=0.3)(u, 1.0), expected)
        mixed = [*parts[:-1], parts[-1][:1]]
        same = torch.cat(
            [y[:, : -parts[-1][0].numel()], parts[-1][:1].flatten(1).expand(len(y), -1)], 1
        )
        found, expected = (
            moment_matching(JOINT, each, h, noise=0.3)(u, 1.0) for each in (mixed, same)
        )
        assert torch.equal(found, expected), "one serves all samples"


def test_a_stack_ignores_what_its_masks_do_not_see() -> None:
    u, x = random(3, N), random(1, N, seed=1)
    for noise in (0.0, 0.3):
        score = moment_matching(JOINT, BOTH.A(x), BOTH, noise=noise)
        for unseen in (torch.nan, 7.0):
            whole = x.where(SEEN, unseen)
            flat = torch.cat([whole, BLOCKS.A(x)], dim=1)
            for y in (
                flat,
                flat[0].tolist(),
                [whole, BLOCKS.A(x)],
                [whole[0].tolist(), [*BLOCKS.A(x)[0]]],
            ):
                found = moment_matching(JOINT, y, BOTH, noise=noise)
                assert torch.equal(found(u, 1.0), score(u, 1.0))
    with pytest.raises(ShapeError, match="value is not finite"):
        moment_matching(JOINT, [x, BLOCKS.A(x) * torch.nan], BOTH, noise=0.1)
    for y, message in [
        ([x], r"each of 2 operators, got 1\."),
        ([x, x], r"operator 1 of the stack: expected an observation \[3\], .* got \(1, 6\)"),
        ([torch.zeros(2, N), torch.zeros(5, 3)], r"as many samples .*, got \[2, 5\]"),
        ([x, "a"], "operator 1 of the stack: expected the observation as a tensor"),
    ]:
        with pytest.raises(ShapeError, match=message):
            moment_matching(JOINT, y, BOTH, noise=0.1)


def test_functions_and_operators_without_shapes_have_noise_for_each_value() -> None:
    class Halves:  # another library's
        A = staticmethod(lambda x: x[:, :3])
        A_adjoint = staticmethod(lambda y: torch.cat([y, 0 * y], dim=1))
        A_dagger = A_adjoint

    u, y = random(3, N), random(3, seed=1)
    crop = moment_matching(JOINT, y, Crop((N,), (slice(3),)), noise=EACH[:3])(u, 1.0)
    for seen in (Halves(), Halves.A):
        for observed in (y, y[None], y.tolist()):
            found = moment_matching(JOINT, observed, seen, noise=EACH[:3])
            torch.testing.assert_close(found(u, 1.0), crop)
    exact = moment_matching(JOINT, y, Halves())
    with pytest.warns(UserWarning, match="3 of 3 samples miss the observation"):
        exact.finish(u)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact.finish(torch.cat([y.expand(3, 3), u[:, 3:]], dim=1))


def test_noise_of_square_observations_of_functions() -> None:
    """A matrix like y is the covariance of vectors, y samples of them; of one y it is y[None]."""

    def squares(x: Tensor) -> Tensor:
        return x[:, :4].reshape(-1, 2, 2)

    u, y, each = random(3, N), random(2, 2, seed=1), EACH[:4].reshape(2, 2)
    crop = moment_matching(JOINT, y.flatten(), Crop((N,), (slice(4),)), noise=EACH[:4])(u, 1.0)
    found = moment_matching(JOINT, y[None], squares, noise=each)(u, 1.0)
    torch.testing.assert_close(found, crop)
    with pytest.raises(
        PgmdiffError, match=r"symmetric .* For a deviation per value give y\[None\]"
    ):
        moment_matching(JOINT, y, squares, noise=each)
    with pytest.raises(
        ShapeError, match=r"covariance of the noise of 2 values for 4\. .* y\[None\]"
    ):
        moment_matching(JOINT, y, squares, noise=0.3 * torch.ones(2, 2))(u, 1.0)


def test_masks_for_each_sample_and_for_all_channels() -> None:
    shape = (2, 3)
    each = random(4, 3) > 0
    u, y = random(4, *shape, seed=1), random(*shape, seed=2)
    score = lambda x, sigma: -x / (1 + sigma.reshape(-1, 1, 1) ** 2)  # noqa: E731
    per_sample = Mask(each[:, None], event_shape=shape)
    for noise in (0.0, 0.3, random(*shape, seed=3).abs()):
        whole = moment_matching(score, y, per_sample, noise=noise)(u, 1.0)
        for k in range(4):
            for one in (each[k], each[k].tolist(), each[k].numpy()):
                alone = moment_matching(score, y, Mask(one, event_shape=shape), noise=noise)
                torch.testing.assert_close(alone(u[k : k + 1], 1.0), whole[k : k + 1])
    everything = Mask(True, event_shape=shape)
    assert torch.equal(everything.A(u), u)
    waves = FourierMask(each[:, None], axes=(1,), event_shape=shape)
    alone = [FourierMask(each[k].expand(shape), axes=(1,)) for k in range(4)]
    seen = waves.A(u)
    back = torch.cat([h.A_dagger(seen[k : k + 1]) for k, h in enumerate(alone)])
    torch.testing.assert_close(waves.A_dagger(seen), back)
    full = each[0].expand(shape)
    assert torch.equal(
        replacement(score, y.tolist(), full.tolist())(u, 1.0), replacement(score, y, full)(u, 1.0)
    )
    with pytest.raises(ShapeError, match="a mask for each of 4 samples, got 2 samples"):
        per_sample.A(u[:2])
    for bad in (each[0, :2], each[None, :, None]):
        with pytest.raises(ShapeError, match=r"broadcasts to the state \(2, 3\), or one for each"):
            Mask(bad, event_shape=shape)


class Broken:
    """An operator whose adjoint returns what it was given."""

    A = staticmethod(lambda x: x[:, :2])
    A_adjoint = A_dagger = staticmethod(lambda y: y)


def test_noise_and_operators_that_do_not_fit_are_named() -> None:
    y, u = torch.zeros(N).double(), random(1, N)
    for noise, message in [
        (-0.1, "at least 0, got -0.1"),
        (torch.nan, "at least 0, got nan"),
        ("a", "a list of numbers, got 'a'"),
        (None, "a list of numbers, got None"),
        (torch.ones(2), r"each observed value \[6\].*matrix \[6, 6\], got \[2\]"),
        (-torch.eye(N), "positive semi-definite"),
        (torch.ones(N, N).tril(), "symmetric"),
        (torch.eye(N) * 1j, "a real, symmetric"),
    ]:
        with pytest.raises(PgmdiffError, match=message):
            moment_matching(JOINT, y, MASK, noise=noise)
    with pytest.raises(ShapeError, match="for each of 2 operators, got 3"):
        moment_matching(JOINT, torch.zeros(N + 3), BOTH, noise=(1, 1, 1))
    for make in (lambda: Stacked((MASK, Broken())), lambda: Composition(Broken(), MASK)):
        with pytest.raises(ShapeError, match="know their shapes, got Broken"):
            make()
    with pytest.raises(ScoreError, match=r"A_adjoint of Broken must return .*\(1, 6\)"):
        moment_matching(JOINT, y[:2], Broken(), noise=0.1)(u, 1.0)
    with pytest.raises(PgmdiffError, match=r"each observed value \[6\]"):
        reconstruction(JOINT, y, MASK, dps(data_std=1.0), noise=torch.ones(3))


def test_exact_values_among_noisy_ones() -> None:
    """Where R is singular, a dense oracle must not contain its inverse: moments of (u_σ, y)."""
    noise = torch.tensor([0.0, 0.3, 0.5, 0.0, 0.2, 0.7]).double()
    matrix, u, y = random(N, N, seed=1), random(3, N, seed=2), random(1, N, seed=4)
    for h in (Mask(torch.ones(N) > 0), DenseOperator(matrix, (N,))):
        seen = torch.cat([torch.eye(N).double(), h.A(torch.eye(N).double()).T])
        for sigma in (0.1, 1.0, 20.0):
            spread = torch.cat([torch.full((N,), sigma).double(), noise]).square().diag()
            gap = torch.cat([u, y.expand(3, N)], dim=1) - Q.mean @ seen.T
            gain = torch.linalg.solve(seen @ Q.covariance @ seen.T + spread, seen @ Q.covariance)
            for moments in (Composed(JOINT), Tweedie()):
                found = moment_matching(JOINT, y, h, moments, noise=noise, most_steps=60)
                error = relative(found.denoise(u, sigma), Q.mean + gap @ gain)
                assert error < 1e-7, (sigma, moments)


class Counted:
    """Another library's operator, of images, whose pseudo-inverse fails; it counts its calls."""

    A = A_adjoint = staticmethod(lambda x: x)
    calls = 0

    def A_dagger(self, y: Tensor) -> Tensor:
        self.calls += 1
        raise NotImplementedError(f"only images, not {tuple(y.shape)}")


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 3, 3)])
def test_a_fault_of_an_operator_is_reported_as_it_is(shape: tuple[int, ...]) -> None:
    operator = Counted()
    with pytest.raises(NotImplementedError, match="only images") as raised:
        moment_matching(JOINT, torch.ones(shape), operator)
    assert operator.calls == 1
    assert raised.value.__context__ is None
    assert raised.traceback[-1].name == "A_dagger"


def test_exact_and_noisy_values_are_met_together() -> None:
    """With three products of the solve; samples of the posterior miss by 1.00 deviations."""
    n, exact = 400, torch.arange(400) < 200
    q, mask = ar1(n, 0.9), exact.clone()
    mask[240::20] = True
    noise = torch.where(exact, 0.0, 0.1).double()
    y = q.sample(1, generator=3)[0] + noise * random(n, seed=4)
    score = moment_matching(q.score, y, Mask(mask), noise=noise, most_steps=3)
    u = sample(score, karras(12, 0.01, 30.0), shape=(8, n), generator=0)
    missed = ((u - y) / 0.1)[:, mask & ~exact].square().mean().sqrt()
    assert missed.item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_functions_may_observe_one_number_per_state(noise: float) -> None:
    """`[batch]`, as they may for `reconstruction`; samples are those of `[batch, 1]`."""
    found = [
        sample(
            moment_matching(ar1(N, 0.5).score, y, seen, noise=noise),
            karras(12, 0.01, 30.0),
            shape=(4, N),
            generator=0,
        )
        for y, seen in (
            (torch.tensor(2.0), lambda u: u.mean(dim=1)),
            (torch.tensor([2.0]), lambda u: u.mean(dim=1, keepdim=True)),
        )
    ]
    torch.testing.assert_close(*found)


def test_constraints_that_cancel_are_met_up_to_rounding() -> None:
    """The ends are equal and the sum is 0: no warning of 1e-7 for ‖y‖ = 0."""
    for seen in (lambda u: u[:, :1] - u[:, -1:], lambda u: u.sum(dim=1, keepdim=True)):
        score = moment_matching(ar1(N, 0.9).score, torch.zeros(1), seen)
        u = sample(score, karras(20, 0.01, 30.0), shape=(16, N), generator=0)
        assert seen(u).abs().max() < 1e-5


def test_one_value_that_is_missed_by_far_is_told() -> None:
    """One of many values is at 100 of N(0, 1), with noise of deviation 0.1: it lies at 99."""
    y = 100 * (torch.arange(40) == 0).double()
    score = moment_matching(ar1(40, 0.0).score, y, Mask(torch.ones(40).bool()), noise=0.1)
    with pytest.warns(UserWarning, match=r"20 of 20 samples miss a noisy value .* by up to 1\d"):
        sample(score, karras(30, 0.001, 30.0), shape=(20, 40), generator=0, mean=y)


def test_noisy_values_that_are_missed_are_told() -> None:
    """The posterior of values at 10 of N(0, 1), with noise of deviation 0.5, lies at 8."""
    y = torch.full((N,), 10.0).double()
    score = moment_matching(ar1(N, 0.0).score, y, Mask(torch.ones(N).bool()), noise=0.5)
    with pytest.warns(UserWarning, match="most samples miss the noisy values .* by 4.* deviations"):
        sample(score, karras(12, 0.01, 30.0), shape=(20, N), generator=0, mean=8.0)
