"""Noise depends on seed, sample and number only, and `generator=` means one thing everywhere."""

import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import pgmdiff
from pgmdiff import PgmdiffError, ShapeError, check_consistency, compose
from pgmdiff.composition import FeynmanKac
from pgmdiff.diagnostics import influence_over_steps, sliced_wasserstein
from pgmdiff.gaussian import GaussianMixture, node_scores
from pgmdiff.graphs import chain
from pgmdiff.noise import Generator, Noise, split_seed
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
from pgmdiff.testing import two_mode_chain
from pgmdiff.training import denoising_loss, random_crops
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
    single = noise(2, torch.empty(3, 4, 2))
    double = noise(2, torch.empty(3, 4, 2, dtype=torch.float64))
    assert torch.equal(double.float(), single)


@pytest.mark.parametrize("seed", [0, 2**63 + 3, 2**64 - 1])
def test_noise_is_that_of_one_philox_generator_per_key(seed: int) -> None:
    keys, like = split_seed(seed, 3), torch.empty(3, 4, dtype=torch.float64)
    for number in (0, 5, 1 << 63, 5 << 61):
        expected = [
            np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, number]))
            for key in keys
        ]
        rows = np.stack([generator.standard_normal(4) for generator in expected])
        assert (Noise(keys)(number, like).numpy() == rows).all()


def test_noise_is_standard_normal_and_independent() -> None:
    n = 400
    noise = torch.stack([Noise.of(11, n)(k, torch.empty(n, 50)) for k in range(5)])
    total = noise.numel()
    assert abs(noise.mean().item()) < 4 / total**0.5
    assert abs(noise.var().item() - 1) < 4 * (2 / total) ** 0.5
    for a, b in ((noise[0], noise[1]), (noise[:, :-1], noise[:, 1:])):
        assert abs((a * b).mean().item()) < 4 / a.numel() ** 0.5


# ---------------------------------------------------------------- generators

Q, GRAPH, SIGMAS = ar1(3, 0.8), chain(3), karras(4, 0.1, 5.0)
MIXTURE = GaussianMixture(torch.tensor([0.4, 0.6]).double(), [Q, Q.noised(1.0)])
JOINT = compose(GRAPH, node_scores(GRAPH, Q))
DATA = Q.sample(4, 0)
RUN = {"shape": (4, 3), "dtype": torch.float64}
LOG_WEIGHTS = Q.sample(400, 1)[:, :1].log_softmax(dim=0)
PARTICLES = Particles(Q.sample(400, 0), torch.zeros(3).long(), LOG_WEIGHTS, LOG_WEIGHTS, (), 0)


def crops(generator: Generator) -> Tensor:
    return random_crops(torch.arange(900.0).reshape(1, 30, 30), (2, 2), 5, generator=generator)


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
RESAMPLED = {"Particles.resampled": PARTICLES.resampled}


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
    """What the packages offer: functions, and the public methods of classes."""
    root = Path(pgmdiff.__file__).parent
    names = [f"pgmdiff.{path.parent.name}" for path in root.glob("*/__init__.py")]
    for home in map(import_module, ["pgmdiff", *names]):
        for thing in (getattr(home, name) for name in home.__all__):
            yield from [thing] if inspect.isfunction(thing) else []
            if inspect.isclass(thing):
                methods = inspect.getmembers(thing, inspect.isroutine)
                yield from (method for name, method in methods if name[0] != "_")


def test_every_generator_has_the_same_type_and_default() -> None:
    found = 0
    for function in functions():
        if not (getattr(function, "__module__", None) or "").startswith("pgmdiff"):
            continue
        parameters = inspect.signature(function).parameters
        seeded = function.__name__ in ("markov_gaussian", "markov_mixture", "split_seed")
        assert seeded or "seed" not in parameters, function
        if "generator" in parameters and function.__qualname__ != "Noise.of":
            found += 1
            assert parameters["generator"].default is None, function
            assert parameters["generator"].annotation == Generator, function
    assert found > 12


def test_torch_generators_are_seeds() -> None:
    def make(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    like = torch.empty(2, 3)
    assert torch.equal(Noise.of(make(1), 2)(0, like), Noise.of(make(1), 2)(0, like))
    each = Noise.of([make(1), make(2)], 2)(0, like)
    assert torch.equal(each[1:], Noise.of([make(2)], 1)(0, like[:1]))
    assert not torch.equal(Noise.of(None, 2)(0, like), Noise.of(None, 2)(0, like))


def test_bad_generators_are_named() -> None:
    with pytest.raises(ShapeError, match="one generator or 3"):
        Noise.of([1, 2], 3)
    with pytest.raises(PgmdiffError, match="got float"):
        Noise.of(0.5, 3)  # type: ignore[arg-type]
    with pytest.raises(PgmdiffError, match="seed from 0 to"):
        Noise.of(-1, 3)
    with pytest.raises(ShapeError, match=r"got torch\.uint8"):
        Noise.of(0, 2)(0, torch.zeros(2, 4, dtype=torch.uint8))
