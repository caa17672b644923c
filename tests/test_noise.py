"""Noise depends on seed, sample and number only, and `generator=` means one thing everywhere."""

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import pgmdiff
from pgmdiff import PgmdiffError, ShapeError, check_consistency, compose, noise_kernel
from pgmdiff.composition import FeynmanKac
from pgmdiff.diagnostics import influence_over_steps, sliced_wasserstein
from pgmdiff.gaussian import GaussianMixture, node_scores
from pgmdiff.graphs import chain
from pgmdiff.noise import (
    CONSISTENCY,
    CORRECTORS,
    CURVATURE,
    DRIVEN,
    FIRST,
    GAMMA,
    LAST,
    PARTICLES,
    PROBES,
    RESAMPLE,
    RISE,
    SECOND,
    START,
    Generator,
    Noise,
    _centred,
    _mixed,
    _mixed_word,
    _signed,
    split_seed,
    torch_generator,
)
from pgmdiff.samplers import (
    SDE,
    Curvature,
    Particles,
    curvature_extremes,
    karras,
    log_likelihood,
    sample,
    sample_weighted,
)
from pgmdiff.samplers.correctors import WIDTH
from pgmdiff.testing import two_mode_chain
from pgmdiff.training import crops as crops_of
from pgmdiff.training import denoising_loss, fit, random_crops
from tests.helpers import ar1
from tests.samplers.cases import TARGET


def test_noise_does_not_depend_on_the_batch() -> None:
    sigmas = karras(8, 0.05, 10.0)
    joint = compose(chain(2), lambda x, sigma: -x / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1))))
    keys = split_seed(7, 6)

    def draw(n: int, generator: object) -> Tensor:
        return sample(joint, sigmas, shape=(n, 2), solver=SDE(1.0), generator=generator)

    whole = draw(6, 7)
    assert torch.equal(whole, torch.cat([draw(2, keys[:2]), draw(4, keys[2:])]))
    assert torch.equal(whole[:3], draw(3, 7))
    assert torch.equal(whole, draw(6, keys))
    assert not torch.equal(whole, draw(6, 8))


def test_noise_does_not_depend_on_where_a_run_was_resumed() -> None:
    sigmas, steps = karras(10, 0.05, 10.0), []
    run = {"solver": SDE(1.0), "generator": 3}
    whole = sample(TARGET.score, sigmas, shape=(5, 2), callback=steps.append, **run)
    for step in (steps[0], steps[4], steps[9]):
        assert torch.equal(sample(TARGET.score, sigmas, state=step["state"], **run), whole)


def test_noise_does_not_depend_on_the_dtype() -> None:
    noise = Noise.of(5, 3)
    single = noise(2, torch.empty(3, 100_000))
    double = noise(2, torch.empty(3, 100_000, dtype=torch.float64))
    assert single.dtype == torch.float32
    assert (double - single).abs().max() < 4e-6  # of angles up to 2π in float32, times r
    half = noise(2, torch.empty(3, 100_000, dtype=torch.bfloat16))
    assert torch.equal(half, single.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("batch", "size"), [(1, 70_001), (7, 1001), (3000, 23)])
def test_any_part_of_the_noise_can_be_drawn(batch: int, size: int, dtype: torch.dtype) -> None:
    whole = Noise.of(3, batch)(4, torch.empty(batch, size, dtype=dtype))
    keys, n = split_seed(3, batch), size // 2
    for rows in (slice(0, 1), slice(batch // 2, batch)):
        for first in (0, 1, 2, 7, n - 1, size - 9):
            for last in (first + 1, first + 2, first + 9, max(first + 1, size - 1)):
                like = torch.empty(len(keys[rows]), last - first, dtype=dtype)
                part = Noise(keys[rows])(4, like, places=first)
                assert torch.equal(part, whole[rows, first:last])
    places = torch.randint(size, (6, 5), generator=torch.Generator().manual_seed(0))
    window = Noise(keys)(4, torch.empty(batch, 6, 5, dtype=dtype), places)
    assert torch.equal(window, whole[:, places])


def test_noise_does_not_depend_on_threads_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    def draws() -> list[Tensor]:
        shapes = [(1, 90_001), (9, 7_777), (40_000, 3)]
        return [Noise.of(1, len(x))(2, x) for x in map(torch.empty, shapes)]

    whole, threads = draws(), torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert all(map(torch.equal, whole, draws()))
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr("pgmdiff.noise.CHUNK", 1234)
    assert all(map(torch.equal, whole, draws()))


def test_empty_states_have_noise() -> None:
    noise = Noise.of(3, 2)
    assert noise(0, torch.empty(2, 0)).shape == (2, 0)
    assert torch.equal(noise(0, torch.empty(2)), noise(0, torch.empty(2, 1))[:, 0])
    assert Noise(())(0, torch.empty(0, 5)).shape == (0, 5)


def test_a_state_need_not_have_an_end() -> None:
    noise = Noise.of(3, 2)
    for first in (-(2**63), -5, 10**13, 2**62 - 3, 2**63 - 6):
        part = noise(0, torch.empty(2, 6), first)
        places = torch.tensor([[first + 5, first], [first + 2, first + 3]])
        assert torch.equal(noise(0, torch.empty(2, 2, 2), places), part[:, places - first])
        assert part.unique().numel() == 12


class NothingRead(TorchDispatchMode):
    """Refuses what waits for a device: numbers read by Python, and shapes that depend on them."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert not {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {*func.tags}
        return func(*args, **kwargs or {})


def test_noise_never_waits_for_the_device() -> None:
    noise, like, places = Noise.of(3, 2), torch.empty(2, 7), torch.arange(7)
    with NothingRead():
        for _ in range(2):
            noise(0, like), noise(0, like, 3), noise(0, like, places)
            noise.uniform(0, like)
    with NothingRead(), pytest.raises(AssertionError):
        noise(0, like).sum().item()


@pytest.mark.gpu
def test_noise_is_the_same_on_a_gpu() -> None:
    """With the kernel and without it; any part, and far places, too."""
    noise, like = Noise.of(3, 5), torch.empty(5, 1001, dtype=torch.float64)
    far = torch.randint(-(2**62), 2**62, (1001,), generator=torch.Generator().manual_seed(0))
    for places in (0, 1, 2**61 - 7, far):
        on = places.cuda() if isinstance(places, Tensor) else places
        for kind, tolerance in ((torch.float64, 1e-14), (torch.float32, 4e-6)):
            expected = noise(1, like.to(kind), places)
            assert (noise(1, like.cuda().to(kind), on).cpu() - expected).abs().max() < tolerance
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(noise_kernel, "fill", None)
                plain = noise(1, like.cuda().to(kind), on)
            assert (plain.cpu() - expected).abs().max() < tolerance
    assert noise_kernel.fill is not None
    assert noise.seeds(1) == Noise.of(3, 5).seeds(1)


# ---------------------------------------------------------------- quality


def test_the_hash_is_splitmix64() -> None:
    """Known answers of the published generator, with a second word of 0."""
    z = _mixed(torch.arange(1, 6) * GAMMA + 1234567, torch.zeros(5, dtype=torch.int64))
    assert [word % 2**64 for word in z.tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert _mixed_word(0, GAMMA) % 2**64 == 0xE220A8397B1DCDAF
    words = [0, 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF]
    z = torch.tensor([_signed(word) for word in words]) + FIRST
    assert _mixed(z).tolist() == [_mixed_word(word, FIRST) for word in words]


def test_the_numbers_of_draws_are_apart() -> None:
    firsts = [0, SECOND, CORRECTORS]
    kinds = [RISE, RESAMPLE, DRIVEN, PARTICLES, CONSISTENCY, LAST, PROBES, START, CURVATURE]
    assert [*firsts, *kinds] == sorted({*firsts, *kinds})
    assert all(b - a >= 1 << 60 for a, b in pairwise(kinds))
    assert kinds[-1] < 2**64
    assert CORRECTORS + WIDTH * SECOND <= RISE  # as many steps as their own numbers allow


def blocks() -> Iterator[tuple[str, Tensor]]:
    """Numbers `[1000, 1000]` that follow each other in all the ways in which arguments do."""
    like = torch.empty(1, 1000, dtype=torch.float64)
    yield "places", Noise.of(0, 1)(0, torch.empty(1, 1_000_000).double()).reshape(1000, 1000)
    yield "samples", Noise.of(0, 1000)(0, like.expand(1000, -1))
    yield "seeds", Noise(tuple(range(1000)))(0, like.expand(1000, -1))
    yield "steps", torch.cat([Noise.of(0, 1)(number, like) for number in range(1000)])
    kinds = [RISE, RESAMPLE, DRIVEN, PARTICLES, CONSISTENCY, LAST, PROBES, START, CURVATURE, 0]
    numbers = [kind + step for kind in kinds for step in range(100)]
    yield "kinds", torch.cat([Noise.of(2**64 - 1, 1)(number, like) for number in numbers])
    strided = torch.arange(1000) << 20
    yield "far", Noise.of(1, 1000)(0, like.expand(1000, -1), strided)


BLOCKS = ("places", "samples", "seeds", "steps", "kinds", "far")
drawn = cache(lambda: dict(blocks()))


@pytest.mark.parametrize("name", BLOCKS)
def test_noise_is_standard_normal(name: str) -> None:
    x = drawn()[name]
    n, flat = x.numel(), x.flatten()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((flat**power).mean() - moment) < 4.5 * (variance / n) ** 0.5
    uniform = torch.special.ndtr(flat).sort().values
    distance = (uniform - (torch.arange(n) + 0.5) / n).abs().max() + 0.5 / n
    assert distance * n**0.5 < 2.2  # Kolmogorov-Smirnov: p = 1e-4
    for bound in (2.0, 3.0, 4.0, 4.75):
        expected = n * torch.special.ndtr(torch.tensor(-bound)).item()
        for tail in ((flat > bound).sum(), (flat < -bound).sum()):
            assert abs(tail - expected) < 4.5 * expected**0.5 + 1


@pytest.mark.parametrize("name", BLOCKS)
def test_noise_is_independent_in_every_direction(name: str) -> None:
    x = drawn()[name]
    for values in (x, x**2 - 1, x.abs().log()):
        values = (values - values.mean()) / values.std()
        for down, across in ((0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (1, 1), (64, 0), (0, 512)):
            later = values[down:, across:]
            product = values[: len(later), : later.shape[1]] * later
            assert abs(product.mean()) < 4.5 / product.numel() ** 0.5
    # one correlation per pair of columns and per pair of rows: their largest, and all together
    for values in (x, x.T):
        correlations = torch.corrcoef(values)[torch.triu_indices(1000, 1000, 1).unbind()]
        scaled = correlations * values.shape[1] ** 0.5
        assert scaled.abs().max() < 6.5
        assert abs(scaled.square().mean() - 1) < 0.01
    # a flat spectrum: squared moduli are exponential, the largest of a million about log 1e6 = 14
    spectrum = torch.fft.rfft2(x)[:, 1:-1].abs().square() / x.numel()
    assert spectrum.max() < 24
    assert abs(spectrum.square().mean() - 2) < 4.5 * (20 / spectrum.numel()) ** 0.5
    radii, angles = x[:, ::2].hypot(x[:, 1::2]), torch.atan2(x[:, 1::2], x[:, ::2])
    for k in (1, 2, 4):  # the two numbers of a pair
        for wave in ((k * angles).cos(), (k * angles).sin(), (k * angles).cos() * (radii**2 - 2)):
            assert abs(wave.mean()) < 4.5 * wave.std() / wave.numel() ** 0.5


def test_single_bits_of_all_arguments_change_half_of_the_hash() -> None:
    def words(seed: int, sample: int, number: int, place: int) -> Tensor:
        one, two = Noise((seed + (sample << 64),))._keys(number, torch.device("cpu"))
        return _mixed(place * torch.tensor([GAMMA]) + one, two)

    bits = 1 << torch.arange(64)
    random = np.random.default_rng(0)
    for which in range(4):
        flips = []
        for _ in range(8):
            at = [int(word) for word in random.integers(0, 2**63, 4)]
            for bit in range(63):
                moved = [word ^ (1 << bit) * (i == which) for i, word in enumerate(at)]
                flips.append(((words(*at) ^ words(*moved)) & bits) != 0)
        changed = torch.stack(flips).double()
        assert abs(changed.mean() - 0.5) < 4.5 * 0.5 / changed.numel() ** 0.5
        assert (changed.mean(dim=0) - 0.5).abs().max() < 4.5 * 0.5 / len(flips) ** 0.5


def test_hashes_repeat_as_often_as_random_words() -> None:
    """Birthdays: among n words of b bits there are about n² / 2^(b+1) repeated ones."""
    n = 1 << 18
    like = torch.empty(n, dtype=torch.float64)
    for seeds in (tuple(range(n)), split_seed(1, n)):  # one place each of many seeds, and samples
        words = Noise(seeds).uniform(0, like).mul(2**34).long()
        expected = n**2 / 2**35
        assert expected == 2
        assert n - words.unique().numel() < 12
    words = Noise.of(0, 1).uniform(0, like[None]).mul(2**26).long()
    expected = n - 2**26 * -np.expm1(n * np.log1p(-(2.0**-26)))
    assert abs(n - words.unique().numel() - expected) < 4.5 * expected**0.5


def test_uniform_numbers_are_uniform() -> None:
    for dtype in (torch.float32, torch.float64):
        u = Noise.of(2, 100).uniform(5, torch.empty(100, 1000, dtype=dtype))
        assert u.dtype == dtype
        assert 0 < u.min() < 1e-4
        assert 1 > u.max() > 1 - 1e-4
        ordered = u.flatten().double().sort().values
        grid = (torch.arange(u.numel()) + 0.5) / u.numel()
        assert (ordered - grid).abs().max() * u.numel() ** 0.5 < 2.2
    single = Noise.of(2, 100).uniform(5, torch.empty(100, 1000))
    assert (u - single).abs().max() <= 2.0**-23


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 10), (torch.bfloat16, 7)])
def test_uniform_numbers_of_half_precision_are_inside_0_and_1(
    dtype: torch.dtype, bits: int
) -> None:
    """They are all centres of 2^bits intervals, which are equally frequent."""
    u = Noise.of(2, 100).uniform(5, torch.empty(100, 1000, dtype=dtype))
    assert u.dtype == dtype
    places, counts = (u.double() * 2**bits - 0.5).unique(return_counts=True)
    assert torch.equal(places, torch.arange(2**bits).double())
    expected = u.numel() / 2**bits
    assert (counts - expected).square().sum() / expected < 2**bits + 4 * (2 * 2**bits) ** 0.5
    single = Noise.of(2, 100).uniform(5, torch.empty(100, 1000))
    assert (u.float() - single).abs().max() <= 2.0 ** -(bits + 1)


def test_the_largest_numbers() -> None:
    """The tails are those of 40 bits: r is at most √(2 log 2^41), and half precision keeps it."""
    radius = _centred(torch.tensor([0, 2**40 - 1]), 40, torch.float64).log().mul(-2).sqrt()
    assert radius[0].item() == pytest.approx((2 * np.log(2.0**41)) ** 0.5)
    assert 0 < radius[1] < 1e-6


# ---------------------------------------------------------------- generators

Q, GRAPH, SIGMAS = ar1(3, 0.8), chain(3), karras(4, 0.1, 5.0)
MIXTURE = GaussianMixture(torch.tensor([0.4, 0.6]).double(), [Q, Q.noised(1.0)])
JOINT = compose(GRAPH, node_scores(GRAPH, Q))
DATA = Q.sample(4, 0)
RUN = {"shape": (4, 3), "dtype": torch.float64}
LOG_WEIGHTS = Q.sample(400, 1)[:, :1].log_softmax(dim=0)
WEIGHTED = Particles(Q.sample(400, 0), torch.zeros(3).long(), LOG_WEIGHTS, LOG_WEIGHTS, (), 0)


def crops(generator: Generator) -> Tensor:
    return random_crops(torch.arange(900.0).reshape(1, 30, 30), (2, 2), 5, generator=generator)


class Constant(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.value.expand_as(x)


def fitted(generator: Generator) -> Tensor:
    found: Tensor = fit([(2,)], Constant(), DATA, steps=2, generator=generator).network.value
    return found


def weighted(generator: Generator) -> Tensor:
    return sample_weighted(FeynmanKac(JOINT), SIGMAS[:-1], **RUN, generator=generator).x


def measured(generator: Generator) -> Tensor:
    found = Curvature.measure(MIXTURE.score, SIGMAS, **RUN, products=1, generator=generator)
    return torch.tensor(found.largest)


def extremes(generator: Generator) -> Tensor:
    return curvature_extremes(Q.score, DATA, 0.5, products=1, generator=generator).largest


def consistency(generator: Generator) -> Tensor:
    found = check_consistency(GRAPH, node_scores(GRAPH, Q), DATA, generator=generator)
    return torch.tensor([row.error_piece for row in found.rows])


def influences(generator: Generator) -> Tensor:
    return influence_over_steps(MIXTURE.score, SIGMAS, DATA, 0, solver=SDE(), generator=generator)


def likelihood(generator: Generator) -> Tensor:
    return log_likelihood(Q.score, DATA, 0.1, 5.0, trace="hutchinson", generator=generator)


ONE_STREAM: dict[str, Callable[[Generator], Tensor]] = {
    "Gaussian.sample": lambda g: Q.sample(4, g),
    "GaussianMixture.sample": lambda g: MIXTURE.sample(4, g),
    "ModeChain.sample": lambda g: two_mode_chain(3).sample(4, g),
    "random_crops": crops,
    "fit": fitted,
    "crops": lambda g: crops_of([(2,)], DATA).draw(4, g).clean,
    "denoising_loss": lambda g: denoising_loss(lambda x, s: x, DATA, sigma_data=1.0, generator=g),
    "sliced_wasserstein": lambda g: torch.tensor(sliced_wasserstein(DATA, DATA + 1, generator=g)),
}
PER_SAMPLE: dict[str, Callable[[Generator], Tensor]] = {
    "sample": lambda g: sample(Q.score, SIGMAS, **RUN, solver=SDE(), generator=g),
    "sample_weighted": weighted,
    "log_likelihood": likelihood,
    "Curvature.measure": measured,
    "curvature_extremes": extremes,
    "check_consistency": consistency,
    "influence_over_steps": influences,
}
RESAMPLED = {"Particles.resampled": WEIGHTED.resampled}


@pytest.mark.parametrize("name", [*ONE_STREAM, *PER_SAMPLE, *RESAMPLED])
def test_a_generator_means_the_same_everywhere(name: str) -> None:
    draw, again = (ONE_STREAM | PER_SAMPLE | RESAMPLED)[name], torch.Generator().manual_seed(7)
    first = draw(7)
    assert torch.equal(first, draw(7))
    assert torch.equal(first, draw(np.int64(7)))
    assert not torch.equal(first, draw(8))
    advancing = draw(again)
    assert not torch.equal(advancing, draw(again)), "a torch.Generator advances"
    assert torch.equal(advancing, draw(again.manual_seed(7)))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    fresh = draw(None)
    assert not all(torch.equal(fresh, draw(None)) for _ in range(4)), "None is fresh entropy"
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    with pytest.raises(PgmdiffError, match="expected generator= an integer seed"):
        draw("seed")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ONE_STREAM)
def test_functions_of_one_stream_refuse_sequences(name: str) -> None:
    with pytest.raises(PgmdiffError, match=f"^{name}: .* give one generator"):
        ONE_STREAM[name]([1, 2, 3, 4])


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_functions_of_batches_accept_one_generator_per_sample(name: str) -> None:
    draw = PER_SAMPLE[name]
    assert torch.equal(draw([1, 2, 3, 4]), draw((1, 2, 3, 4)))
    assert torch.equal(draw(split_seed(7, 4)), draw(7))
    with pytest.raises(ShapeError, match="one generator or 4, one per sample, got 3"):
        draw([1, 2, 3])


def functions() -> Iterator[Callable[..., object]]:
    """What the packages offer of their own: functions, and the public methods of classes."""
    root = Path(pgmdiff.__file__).parent
    names = [f"pgmdiff.{path.parent.name}" for path in root.glob("*/__init__.py")]
    for home in map(import_module, ["pgmdiff", *names]):
        for thing in (getattr(home, name) for name in home.__all__):
            found = [thing] if inspect.isfunction(thing) else []
            if inspect.isclass(thing):
                methods = inspect.getmembers(thing, inspect.isroutine)
                found += [method for name, method in methods if name[0] != "_"]
            yield from (
                f for f in found if (getattr(f, "__module__", None) or "").startswith("pgmdiff")
            )


def test_every_generator_has_the_same_type_and_default() -> None:
    found = 0
    for function in functions():
        parameters = inspect.signature(function).parameters
        seeded = function.__name__ in ("markov_gaussian", "markov_mixture", "split_seed")
        assert seeded or "seed" not in parameters, function
        if "generator" in parameters and function.__qualname__ != "Noise.of":
            found += 1
            assert parameters["generator"].default is None, function
            assert parameters["generator"].annotation == Generator, function
    assert found > 12


def test_a_generator_called_seed_is_answered_with_its_name() -> None:
    """Functions with more keywords, as of conditions, apart."""
    found = 0
    for function in functions():
        parameters = inspect.signature(function).parameters
        if "generator" in parameters and inspect.Parameter.VAR_KEYWORD not in {
            each.kind for each in parameters.values()
        }:
            found += 1
            with pytest.raises(TypeError, match=r"'seed'\. .* accepts .*generator"):
                function(seed=0)
    assert found > 12


def test_torch_generators_are_seeds() -> None:
    def make(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    like = torch.empty(2, 3)
    assert torch.equal(Noise.of(make(1), 2)(0, like), Noise.of(make(1), 2)(0, like))
    each = Noise.of([make(1), make(2)], 2)(0, like)
    assert torch.equal(each[1:], Noise.of([make(2)], 1)(0, like[:1]))
    assert not torch.equal(Noise.of(None, 2)(0, like), Noise.of(None, 2)(0, like))


@pytest.mark.parametrize("name", ["sample", "curvature_extremes"])
def test_a_seed_in_a_list_is_that_seed_alone(name: str) -> None:
    """Where the samples of a batch do not act on one another, as particles and error control do."""
    draw = PER_SAMPLE[name]
    assert torch.equal(draw([8, 8, 9, 10])[0], draw(8)[0])


def test_one_seed_rule() -> None:
    like = torch.empty(2, 5)
    both = Noise.of([7, 8], 2)(0, like)
    assert torch.equal(both[1:], Noise.of(8, 1)(0, like[:1]))
    assert torch.equal(both[:1], Noise.of(7, 2)(0, like)[:1])
    assert split_seed(8, 1) == (8,)
    assert split_seed(8, 3) == (8, 8 + 2**64, 8 + 2**65)
    keys = [key for seed in range(40) for key in split_seed(seed, 40)]
    assert len(set(keys)) == 1600
    assert Noise(tuple(keys))(0, torch.empty(1600, 1)).unique().numel() == 1600


def test_bad_generators_are_named() -> None:
    assert split_seed(np.int64(7), 3) == split_seed(7, 3)
    for seed in (1.5, "7", None):
        with pytest.raises(PgmdiffError, match=f"expected a seed from 0 to .*, got {seed}"):
            split_seed(seed, 2)
    with pytest.raises(PgmdiffError, match="keys from split_seed in a list"):
        Noise.of(2**64, 3)
    assert Noise.of([np.int64(7), 2**64], 2).keys == (7, 2**64)
    for seed in (-1, 2**64):  # torch accepts some of these, and takes others for one another
        with pytest.raises(PgmdiffError, match=f"someone: .* a seed from 0 to .*, got {seed}"):
            torch_generator(seed, "someone")
    for key in (-1, 2**128):
        with pytest.raises(PgmdiffError, match=f"keys from split_seed, got {key}"):
            Noise.of([1, key], 2)
    with pytest.raises(ShapeError, match="a batch of 2 samples, one per key, got a state of"):
        Noise.of(0, 2)(0, torch.zeros(3, 4))
    with pytest.raises(ShapeError, match=r"expected places int64 \(4,\)"):
        Noise.of(0, 2)(0, torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"got torch\.float32"):
        Noise.of(0, 2)(0, torch.zeros(2, 4), torch.zeros(4))
    with pytest.raises(ShapeError, match="one generator or 3"):
        Noise.of([1, 2], 3)
    with pytest.raises(PgmdiffError, match="got float"):
        Noise.of(0.5, 3)  # type: ignore[arg-type]
    with pytest.raises(PgmdiffError, match="seed from 0 to"):
        Noise.of(-1, 3)
    with pytest.raises(ShapeError, match=r"got torch\.uint8"):
        Noise.of(0, 2)(0, torch.zeros(2, 4, dtype=torch.uint8))
