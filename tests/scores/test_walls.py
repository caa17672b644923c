"""What user code does to the tensors it meets changes nothing that the library holds."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pgmdiff import Posterior, ScoreError, ShapeError, compose, gaussian
from pgmdiff.composition import FeynmanKac
from pgmdiff.conditioning import (
    Crop,
    DenseOperator,
    FourierMask,
    Isotropic,
    Linear,
    Mask,
    PerAxis,
    Stacked,
    Tweedie,
    dps,
    moment_matching,
    reconstruction,
    replacement,
)
from pgmdiff.conditioning.operators import Operator
from pgmdiff.graphs import chain, tiles
from pgmdiff.integrations.azula import from_azula
from pgmdiff.integrations.deepinv import from_deepinv
from pgmdiff.integrations.diffusers import from_diffusers
from pgmdiff.integrations.k_diffusion import from_k_diffusion
from pgmdiff.integrations.sbi import from_sbi
from pgmdiff.models.unet import EDMDenoiser
from pgmdiff.samplers import (
    DEIS,
    EDM,
    SDE,
    DPMSolver2M,
    DPMSolver2S,
    DPMSolver3M,
    Euler,
    Heun,
    Langevin,
    Metropolis,
    PredictorCorrector,
    Solver,
    UniPC,
    curvature_extremes,
    karras,
    log_likelihood,
    sample,
    sample_weighted,
)
from pgmdiff.scores import adapters
from pgmdiff.scores.adapters import denoise, from_denoiser, padded
from pgmdiff.scores.guidance import guided, scheduled
from pgmdiff.training import denoising_loss
from tests.helpers import ar1

STRIP = tiles((1, 4, 10), (1, 4, 4), (0, 0, 1))
SIGMAS = karras(3, 0.1, 5.0)
TEXTS = {name: torch.full((3,), 0.1 * k) for k, name in enumerate(STRIP.names)}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def polite(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """A network that leaves everything as it is; t is σ or a time."""
    level = t.reshape(-1, *[1] * (x.ndim - 1))
    return 0.3 * x + 0.1 * x.sin() / (1 + level) + text.mean(dim=1).reshape(-1, *[1] * (x.ndim - 1))


ACTS = ("x", "t", "text", "later", "same memory", "axes")


def hostile(act: str, network: Callable[..., Tensor] = polite) -> Callable[..., Tensor]:
    """The same network, which then spoils what it was given, or what it returned last."""
    kept: list[Tensor] = []
    memory: dict[Any, Tensor] = {}

    def spoiling(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        for tensor in kept:
            tensor.fill_(torch.nan)
        kept.clear()
        out = network(x, t, text).clone()
        if act in ("x", "t", "text"):
            {"x": x, "t": t, "text": text}[act].add_(1.0)
        elif act == "axes":
            x.unsqueeze_(0)
        elif act == "later":
            kept.extend((x, t, text))
        elif act == "same memory":
            return memory.setdefault(out.shape, torch.empty_like(out)).copy_(out)
        return out

    return spoiling


@dataclass
class Posteriorlike:
    mean: Tensor


ALPHAS = (1 - torch.linspace(1e-3, 0.05, 200)).cumprod(0)
VP = SimpleNamespace(
    config={"prediction_type": "v_prediction", "num_train_timesteps": 200}, alphas_cumprod=ALPHAS
)


def of_azula(network: Callable[..., Any]) -> Callable[..., Tensor]:
    class Denoiser:
        def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ones_like(t), 1e-2 * (1e5**t)

        def __call__(self, x: Tensor, t: Tensor, **c: Tensor) -> Any:
            value = network(x, t, **c)
            return Posteriorlike(value) if isinstance(value, Tensor) else value

    return from_azula(Denoiser())


def of_sbi(network: Callable[..., Any]) -> Callable[..., Tensor]:
    estimator = SimpleNamespace(
        score=lambda x, text, t: network(x, t, text),
        mean_t_fn=torch.ones_like,
        std_fn=lambda t: 1e-2 * (1e5**t),
        t_min=0.0,
        t_max=1.0,
    )
    score = from_sbi(estimator)
    return lambda x, sigma, text: score(x, sigma, text)


def of_guided(network: Callable[..., Any]) -> Callable[..., Tensor]:
    return guided(network, {"text": torch.zeros(3)}, guidance=2.0)


def of_scheduled(network: Callable[..., Any]) -> Callable[..., Tensor]:
    return scheduled(network, {"text": lambda text, sigma: text * sigma[:, None]})


def of_diffusers(network: Callable[..., Any]) -> Callable[..., Tensor]:
    return from_diffusers(lambda x, timestep, **c: network(x, timestep, **c), VP)


ADAPTERS: dict[str, Callable[..., Any]] = {
    "bare": lambda network: network,
    "from_denoiser": adapters.from_denoiser,
    "from_eps": adapters.from_eps,
    "from_flow": adapters.from_flow,
    "from_vp_eps": lambda network: adapters.from_vp_eps(network, torch.log1p),
    "from_vp_sample": lambda network: adapters.from_vp_sample(network, torch.log1p),
    "from_vp_v": lambda network: adapters.from_vp_v(network, torch.log1p),
    "padded": lambda network: padded(network, (1, 4, 12), "replicate"),
    "guided": of_guided,
    "guided denoiser": lambda network: of_guided(adapters.from_denoiser(network)),
    "scheduled": of_scheduled,
    "from_k_diffusion": from_k_diffusion,
    "from_deepinv": partial(from_deepinv, low=-1.0),
    "from_diffusers": of_diffusers,
    "from_azula": of_azula,
    "from_sbi": of_sbi,
}


def drawn(score: Any, composed: bool, batch: int, **options: Any) -> Tensor:
    """Samples of a joint, or of the score alone with a condition of its own."""
    u = 5 * normal(batch, 1, 4, 10)
    if composed:
        joint = compose(STRIP, score, conditions=TEXTS_BY_KEY, **options)
        return sample(joint, SIGMAS, x=u, solver=Heun())
    text = normal(batch, 3, seed=1)

    def alone(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = denoise(score, x, sigma, text=text)
        return (denoised - x) / sigma[:, None, None, None] ** 2

    return sample(alone, SIGMAS, x=u, solver=DPMSolver2M())


TEXTS_BY_KEY = {name: {"text": text} for name, text in TEXTS.items()}


@pytest.mark.parametrize("composed", [True, False], ids=["joint", "alone"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ADAPTERS)
def test_networks_may_write_into_all_that_they_are_given(
    name: str, batch: int, composed: bool
) -> None:
    adapt = ADAPTERS[name]
    expected = drawn(adapt(polite), composed, batch)
    assert expected.isfinite().all()
    for act in ACTS:
        found = drawn(adapt(hostile(act)), composed, batch)
        assert torch.equal(found, expected), act


@pytest.mark.parametrize("options", [{"max_batch": 1}, {"max_batch": 2}, {"checkpoint": True}])
@pytest.mark.parametrize("name", ["bare", "from_denoiser", "from_vp_v"])
def test_so_do_gradients_and_repeated_calls(name: str, options: dict[str, Any]) -> None:
    def planner(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        for given in (x, t, text):
            given.mul_(0.5)
        return polite(x, t, text)

    def same(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return polite(0.5 * x, 0.5 * t, 0.5 * text)

    def gradient(network: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        joint = compose(STRIP, ADAPTERS[name](network), conditions=TEXTS_BY_KEY, **options)
        u = normal(1, 1, 4, 10).requires_grad_()
        value = joint(u, torch.tensor([0.7])) + joint(u, 0.7)
        return value.detach(), torch.autograd.grad(value.square().sum(), u)[0]

    assert all(map(torch.equal, gradient(planner), gradient(same)))


def test_conditions_of_single_regions_stay_with_several_samples_too() -> None:
    """One region per call: its condition, repeated for every sample, is no copy by itself."""

    def first_rows(x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        text[:1].add_(1.0)
        return 0 * x + text.mean()

    graph = chain(3)
    own = {name: partial(first_rows) for name in graph.regions.names}  # a call for each
    texts = {name: {"text": torch.zeros(3)} for name in graph.regions.names}
    for options in ({}, {"max_batch": 2}):
        joint = compose(graph, own, conditions=texts, **options)
        found = [joint(torch.zeros(2, 3), 1.0) for _ in range(2)]
        assert torch.equal(*found)


def test_a_model_that_promises_to_write_into_nothing_is_given_views_of_the_state() -> None:
    class Looks:
        """A score that writes down whether it was given the state's own memory."""

        def __init__(self, copies: bool) -> None:
            self.copies, self.own = copies, set[bool]()

        def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
            first = u.untyped_storage().data_ptr()
            self.own.add(x.untyped_storage().data_ptr() == first)
            return -x / (1 + sigma[:, None] ** 2)

    u, found = torch.randn(1, 100_000, generator=torch.Generator().manual_seed(0)), []
    for copies in (True, False):
        score = Looks(copies)
        found.append(compose(tiles((100_000,), 2, 1), score)(u, 1.0))
        assert score.own == {copies}
    assert torch.equal(*found)


def test_the_state_stays_where_windows_do_not_overlap() -> None:
    """Windows that are read as views of the state, of which none would have to be copied."""

    def clears(x: Tensor, sigma: Tensor) -> Tensor:
        return x.zero_()

    for window in (64, 8192):
        u = normal(2, 8192)
        before = u.clone()
        compose(tiles((8192,), window, 0), clears)(u, 1.0)
        assert torch.equal(u, before)


def test_writing_after_the_result_is_no_missing_gradient() -> None:
    """A network may use its input as scratch memory once it has what it returns."""

    class Scratch(nn.Module):
        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            value = 0.5 * x
            x.zero_()
            return value

    scratch = Scratch()

    for score in (
        compose(chain(3), scratch),
        compose(chain(3), scratch, checkpoint=True),
        from_denoiser(EDMDenoiser(scratch, 1.0)),
    ):
        u = normal(2, 3).requires_grad_()
        (slope,) = torch.autograd.grad(score(u, torch.ones(2)).sum(), u)
        assert slope.isfinite().all()
        assert slope.any()


def test_conditions_given_at_call_time_and_sigma_stay() -> None:
    joint, u = compose(STRIP, hostile("text")), normal(1, 1, 4, 10)
    text, sigma = torch.ones(1, 3), torch.ones(1)
    first = joint(u, sigma, text=text)
    assert torch.equal(joint(u, sigma, text=text), first)
    compose(STRIP, hostile("t"))(u, sigma, text=text)
    assert torch.equal(text, torch.ones(1, 3))
    assert torch.equal(sigma, torch.ones(1))


# ---------------------------------------------------------------- what networks return

BAD: dict[str, Callable[[Tensor], Any]] = {
    "one sample": lambda out: out[0],
    "one for all": lambda out: out[:1],
    "one channel": lambda out: out.mean(dim=1, keepdim=True),
    "a scalar": lambda out: out.mean(),
    "int64": lambda out: out.long(),
    "complex": lambda out: out + 0j,
    "two": lambda out: (out, out),
    "a dict of two": lambda out: {"sample": out, "aux": out},
    "none": lambda out: None,
    "a number": lambda out: 0.0,
    "an array": lambda out: out.numpy(),
    "another device": lambda out: out.to("meta"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("name", ADAPTERS)
def test_what_a_network_returns_is_checked_before_arithmetic(name: str, what: str) -> None:
    def wrong(x: Tensor, t: Tensor, text: Tensor) -> Any:
        return BAD[what](polite(x, t, text))

    if name == "from_diffusers" and what == "two":
        pytest.skip("the first entry of a tuple is the prediction, in diffusers")
    score, x, text = ADAPTERS[name](wrong), normal(3, 2, 4, 10), normal(3, 3)
    score = padded(wrong, (2, 4, 12), "replicate") if name == "padded" else score
    with pytest.raises(ScoreError, match=r"must return a tensor of shape \(\d+, 2, 4, 1\d\)"):
        denoise(score, x, torch.ones(3), text=text)


def test_networks_of_another_dtype_are_refused_where_nothing_says_that_it_is_converted() -> None:
    x, text, half = (
        normal(2, 1, 4, 10),
        normal(2, 3),
        lambda *given, **c: polite(*given, **c).half(),
    )
    for name, adapt in ADAPTERS.items():
        if name in ("from_k_diffusion", "from_deepinv", "from_diffusers", "from_azula", "from_sbi"):
            assert denoise(adapt(half), x, torch.ones(2), text=text).dtype == x.dtype
        else:
            with pytest.raises(ScoreError, match=r"got shape .*, torch\.float16 on cpu"):
                denoise(adapt(half), x, torch.ones(2), text=text)


@pytest.mark.parametrize("name", ADAPTERS)
def test_one_tensor_in_a_container_is_taken_out(name: str) -> None:
    x, text = normal(3, 1, 4, 10), normal(3, 3)
    expected = denoise(ADAPTERS[name](polite), x, torch.ones(3), text=text)
    for inside in (
        lambda out: (out,),
        lambda out: [out],
        lambda out: {"out": out},
        lambda out: SimpleNamespace(sample=out),
    ):
        found = ADAPTERS[name](lambda *given, inside=inside, **c: inside(polite(*given, **c)))
        assert torch.equal(denoise(found, x, torch.ones(3), text=text), expected)


def test_the_error_names_the_network_and_in_a_joint_the_node() -> None:
    def pair_network(x: Tensor, sigma: Tensor) -> Any:
        return x, sigma

    joint = compose(chain(3), adapters.from_eps(pair_network))
    with pytest.raises(ScoreError, match=r"pair_network must .* got tuple of 2 values") as error:
        joint(torch.zeros(2, 3), 1.0)
    notes = getattr(error.value, "__notes__", ["node 'f0'"])  # from Python 3.11 on
    assert "node 'f0'" in notes[0] or "node 'x1'" in notes[0]


def test_densities_priors_and_losses_are_not_broadcast_either() -> None:
    q, x = ar1(3, 0.5), normal(4, 3).double()
    flat = Metropolis(lambda x, sigma: q.log_density(x, sigma)[:, None], 0.1)
    with pytest.raises(ScoreError, match=r"log_density must return a tensor of shape \(4,\)"):
        flat.correct(q.score, x, 1.0, lambda number, like: torch.zeros_like(like))
    with pytest.raises(ScoreError, match=r"prior must return a tensor of shape \(4,\)"):
        log_likelihood(q.score, x, 0.5, 2.0, prior=lambda x: torch.zeros(4, 1))
    with pytest.raises(ScoreError, match=r"must return a tensor of shape \(4, 3\)"):
        denoising_loss(lambda x, sigma: x[:, :1], x, sigma_data=1.0)


# ---------------------------------------------------------------- samplers

SOLVERS: list[Solver] = [
    Euler(),
    Heun(),
    SDE(),
    DPMSolver2S(),
    DPMSolver2M(),
    DPMSolver3M(),
    DEIS(),
    UniPC(),
    EDM(4),
    PredictorCorrector(Euler(), Langevin(0.1, 2)),
]


class Own:
    """A denoiser that writes into x and returns the same memory at each call."""

    def __init__(self) -> None:
        self.memory = torch.empty(3, 2)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.memory.copy_(x / (1 + sigma[:, None] ** 2))
        x.fill_(torch.nan), sigma.fill_(torch.nan)
        return self.memory

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.memory.copy_(-x / (1 + sigma[:, None] ** 2))
        x.fill_(torch.nan), sigma.fill_(torch.nan)
        return self.memory


class Polite(Own):
    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma[:, None] ** 2)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return -x / (1 + sigma[:, None] ** 2)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_callbacks_networks_and_callers_may_spoil_what_a_run_shows(solver: Solver) -> None:
    x = 5 * normal(3, 2)
    states: list[Any] = []
    run = partial(sample, sigmas=SIGMAS, solver=solver, generator=0)
    expected = run(Polite(), x=x, callback=lambda step: states.append(step["state"]))
    theirs = x.clone()

    def spoil(step: Any) -> None:
        theirs.fill_(torch.nan)
        kept = step["state"]
        past = [value for _, value in kept.history]
        for tensor in (step["x"], step["denoised"], kept.x, kept.denoised, *past):
            if tensor is not None:
                tensor.fill_(torch.nan)

    assert torch.equal(run(Own(), x=theirs, callback=spoil), expected)
    state = states[2]
    again = state.to(torch.float32)
    assert torch.equal(run(Own(), state=again, callback=lambda step: again.x.zero_()), expected)


def test_what_a_callback_shows_and_what_it_saves_are_apart() -> None:
    def look(step: Any) -> None:
        step["x"].zero_()
        assert step["state"].x.any()

    sample(Polite(), SIGMAS, x=normal(3, 2), callback=look)


def test_correctors_curvature_and_particles() -> None:
    q, x = ar1(2, 0.5, torch.float32), normal(3, 2)
    noise = lambda number, like: normal(*like.shape, seed=number)  # noqa: E731
    shared = torch.empty(3)

    def density(x: Tensor, sigma: Tensor) -> Tensor:
        shared.copy_(q.log_density(x, sigma))
        x.fill_(torch.nan), sigma.fill_(torch.nan)
        return shared

    for log_density, score in ((q.log_density, Polite()), (density, Own())):
        moved, _ = Metropolis(log_density, 0.5, 3).correct(score, x, 1.0, noise)
        ends = curvature_extremes(score, x, 1.0, generator=0)
        if score.__class__ is Polite:
            expected = moved, *ends
    assert all(map(torch.equal, (moved, *ends), expected))
    memory = torch.empty(3, 2), torch.empty(3)

    def potential(u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -u / (1 + sigma[:, None] ** 2), u.square().sum(dim=1) * 0.01

    def spoiling(u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        for kept, value in zip(memory, potential(u, sigma), strict=True):
            kept.copy_(value)
        u.fill_(torch.nan), sigma.fill_(torch.nan)
        return memory

    draw = partial(sample_weighted, sigmas=SIGMAS[:-1], shape=(3, 2), generator=0)
    one, other = (draw(p, dtype=torch.float32) for p in (potential, spoiling))
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.log_weights, other.log_weights)
    weights = FeynmanKac(compose(chain(2), gaussian.node_scores(chain(2), q)))
    found = sample_weighted(weights, SIGMAS[:-1], shape=(3, 2), generator=0)
    found.components.add_(7)
    assert weights.components.max() == 0


def test_potentials_are_not_broadcast() -> None:
    for wrong in (
        lambda x, s: (-x[0], 0 * s),
        lambda x, s: (-x[:1], 0 * s),
        lambda x, s: (-x.double(), 0 * s),
        lambda x, s: (-x, 0 * s[:1]),
        lambda x, s: (-x, s.sum()),
        lambda x, s: (-x, s.long()),
        lambda x, s: -x,
        lambda x, s: None,
    ):
        with pytest.raises(ScoreError, match="sample_weighted: "):
            sample_weighted(wrong, SIGMAS[:-1], shape=(3, 2), dtype=torch.float32, generator=0)
    with pytest.raises(ShapeError, match="n > 0"):
        sample_weighted(lambda x, s: (-x, 0 * s), SIGMAS[:-1], shape=(0, 2))


# ---------------------------------------------------------------- observations


class Spoiling:
    """A linear physics that writes into whatever it is given."""

    def __init__(self, spoils: bool) -> None:
        self.spoils, self.mask = spoils, torch.tensor([1.0, 0.0, 1.0]).double()

    def _spoiled(self, x: Tensor, **kwargs: Tensor) -> Tensor:
        out = x * self.mask
        if self.spoils:
            x.fill_(torch.nan)
        return out

    A = A_adjoint = A_dagger = _spoiled


def function(spoils: bool) -> Callable[[Tensor], Tensor]:
    def observed(x: Tensor) -> Tensor:
        out = 1.0 * x[:, :2]
        if spoils:
            x.mul_(3.0)
        return out

    return observed


Q = ar1(3, 0.8)
Y2, Y3 = torch.tensor([0.5, -0.5]).double(), torch.tensor([0.5, 0.0, -0.5]).double()
CONDITIONED: dict[str, Callable[[bool], Any]] = {
    "replacement": lambda s: replacement(Q.score, Y3, Spoiling(s)),
    "tweedie": lambda s: moment_matching(Q.score, Y3, Spoiling(s), Tweedie(), noise=0.1),
    "isotropic": lambda s: moment_matching(Q.score, Y3, Spoiling(s), Isotropic()),
    "linearised": lambda s: moment_matching(Q.score, Y2, function(s), Tweedie(), noise=0.1),
    "linear": lambda s: replacement(Q.score, Y2, Linear(function(s), (3,))),
    "stacked": lambda s: replacement(
        Q.score, torch.cat([Y2, Y2]), Stacked((Linear(function(s), (3,)),) * 2)
    ),
    "reconstruction": lambda s: reconstruction(
        Q.score,
        Y2,
        function(s),
        lambda sigma, norm: sigma.mul_(2.0) / 2 if s else sigma * 1.0,
    ),
}


@pytest.mark.parametrize("name", CONDITIONED)
def test_operators_functions_and_weights_may_write_into_what_they_are_given(name: str) -> None:
    x, sigma = normal(3, 3).double(), torch.tensor([0.5, 1.0, 2.0]).double()
    expected = CONDITIONED[name](False)(x, sigma)
    assert torch.equal(CONDITIONED[name](True)(x, sigma), expected)
    assert torch.equal(sigma, torch.tensor([0.5, 1.0, 2.0]).double())


def test_operators_that_return_no_batch_are_named() -> None:
    for wrong in (lambda x: None, lambda x: x.sum(), lambda x: x[:1]):
        with pytest.raises(ShapeError, match="expected the function to return a tensor"):
            reconstruction(Q.score, Y2, wrong, dps(data_std=1.0))(normal(3, 3).double(), 1.0)


class SameMemory(Operator):
    """A multiple of the state, in memory that the next call overwrites."""

    event_shape = observed_shape = (2,)
    memory = torch.empty(1, 2).double()

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def A(self, x: Tensor) -> Tensor:
        return self.memory.copy_(self.factor * x)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.memory.copy_(y / self.factor)

    A_adjoint = A


def test_operators_may_return_the_same_memory_again() -> None:
    u = torch.ones(1, 2).double()
    both = Stacked((SameMemory(1.0), SameMemory(2.0)))
    assert both.A(u).tolist() == [[1.0, 1.0, 2.0, 2.0]]
    assert both.A_adjoint(both.A(u)).tolist() == [[5.0, 5.0]]
    score = replacement(ar1(2, 0.5).score, torch.tensor([4.0, 6.0]).double(), SameMemory(2.0))
    assert score.denoise(u, 1.0).tolist() == [[2.0, 3.0]]


@pytest.mark.parametrize(
    "wrong", [0.5, None, torch.ones(2).double(), torch.ones(3, 3).double()], ids=str
)
def test_weights_are_not_broadcast(wrong: Any) -> None:
    score = reconstruction(Q.score, Y2, function(False), lambda sigma, norm: wrong)
    with pytest.raises(ScoreError, match=r"The weight .* must return a tensor of shape \(3,\)"):
        score(normal(3, 3).double(), 1.0)


# ---------------------------------------------------------------- what the user changes later


def then(score: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """The score at σ = 1."""
    return lambda x: score(x, 1.0)


M = torch.tensor([True, False, True])
MATRIX = normal(2, 3).double()
KEPT: dict[str, tuple[Callable[..., Callable[[Tensor], Tensor]], Tensor]] = {
    "observation": (lambda y: then(replacement(Q.score, y, M).denoise), Y3),
    "observed by a function": (
        lambda y: then(reconstruction(Q.score, y, lambda x: x[:, :2], dps(data_std=1.0))),
        Y2,
    ),
    "observed with noise": (
        lambda y: then(moment_matching(Q.score, y, Crop((3,), (slice(2),)), Tweedie(), noise=0.1)),
        Y2,
    ),
    "mask": (lambda mask: Mask(mask).A, M),
    "frequencies": (lambda mask: FourierMask(mask).A, M),
    "dense matrix": (lambda matrix: DenseOperator(matrix, (3,)).A, MATRIX),
    "matrix of an axis": (lambda matrix: PerAxis((3,), {0: matrix}).A, MATRIX),
    "mean": (lambda m: then(gaussian.Gaussian(m, Q.covariance).score), Y3),
    "covariance": (
        lambda c: (lambda q: then(lambda x, s: q.marginal(torch.tensor(0)).score(x[:, 0], s)))(
            gaussian.Gaussian(Y3, c)
        ),
        Q.covariance,
    ),
    "weights": (
        lambda w: then(gaussian.GaussianMixture(w, [Q, gaussian.Gaussian(Y3, Q.covariance)]).score),
        torch.tensor([0.25, 0.75]).double(),
    ),
    "condition": (
        lambda text: then(
            compose(chain(3), polite, conditions={n: {"text": text} for n in ("f0", "f1", "x1")})
        ),
        torch.ones(3).double(),
    ),
    "null condition": (
        lambda text: (lambda score: lambda x: score(x, torch.ones(3), text=torch.ones(3, 3)))(
            guided(polite, {"text": text}, guidance=2.0)
        ),
        torch.ones(3).double(),
    ),
    "covariances of regions": (
        lambda c: then(
            compose(
                chain(3, factor_model="f", variable_model="x"),
                {"f": lambda x, s: -x, "x": lambda x, s: -x},
                rule=Posterior({"f": c, "x": c[:1, :1]}),
            )
        ),
        torch.eye(2).double(),
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_the_user_changes_later_changes_nothing(name: str) -> None:
    make, given = KEPT[name]
    theirs = given.clone()
    made = make(theirs)
    x = normal(3, 3, seed=4).double()
    expected = made(x)
    fresh = make(theirs)
    theirs.copy_(~theirs if theirs.dtype == torch.bool else 3 * theirs + 1)
    assert torch.equal(fresh(x), expected), "not yet called when it was changed"
    assert torch.equal(made(x), expected)


# ---------------------------------------------------------------- train mode


class Network(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 2), *layers)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.layers(x)


@dataclass
class Holder:
    network: Any

    def method(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.network(x, sigma)

    __call__ = method


class Choosing(nn.Module):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x if self.training else -x


DROPPING = Network(nn.Dropout(0.1))  # a global, as in notebooks


def by_global(x: Tensor, sigma: Tensor) -> Tensor:
    return DROPPING(x, sigma)


HELD: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda n: n,
    "adapter": adapters.from_denoiser,
    "flow": adapters.from_flow,
    "closure": lambda n: lambda x, s: n(x, s),
    "method": lambda n: Holder(n).method,
    "object": Holder,
    "partial": lambda n: partial(lambda net, x, s: net(x, s), n),
    "default": lambda n: lambda x, s, net=n: net(x, s),
    "list": lambda n: Holder([{"deep": (n,)}]),
    "k_diffusion": lambda n: from_k_diffusion(Holder(n)),
    "guided": lambda n: guided(adapters.from_eps(n), {}),
}


@pytest.mark.parametrize("how", HELD)
def test_networks_in_train_mode_are_named_once(how: str) -> None:
    graph = chain(4, factor_model="pair", variable_model="single")
    scores = {"single": lambda x, s: -x}
    for layer in (nn.Dropout(0.1), nn.BatchNorm1d(2)):
        network = Network(layer)
        with pytest.warns(UserWarning, match="compose: ") as caught:
            compose(graph, {"pair": HELD[how](network), **scores})
        assert len(caught) == 1
        message = str(caught[0].message)
        assert "'f0', 'f1', 'f2'" in message
        assert type(layer).__name__ in message
        assert "network.eval()" in message
        assert "x1" not in message
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            compose(graph, {"pair": HELD[how](network.eval()), **scores})


@pytest.mark.parametrize(
    "how", sorted(HELD.keys() - {"list", "guided"})
)  # which need more to be called
def test_a_network_in_train_mode_alone_is_told_when_it_is_sampled(how: str) -> None:
    """Once: of a network in a joint `compose` has told, and of one in evaluation mode nobody."""
    network = Network(nn.Dropout(0.1))
    options: dict[str, Any] = {"shape": (2, 2), "generator": 0}
    score = HELD[how](network)
    with pytest.warns(UserWarning, match=r"sample: a network is in train mode \(Dropout\)"):
        sample(score, [1.0, 0.5], **options)
    with pytest.warns(UserWarning, match="compose: "):
        joint = compose(tiles((4,), 2, 0), score)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(joint, [1.0, 0.5], shape=(2, 4))
        network.eval()
        sample(score, [1.0, 0.5], **options)


def test_an_attribute_named_as_a_global_network_is_no_alarm() -> None:
    held = SimpleNamespace(DROPPING=lambda x, s: -x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compose(chain(2, (2,)), lambda x, s: held.DROPPING(x, s))


def test_a_global_network_and_one_with_a_switch_of_its_own_are_found() -> None:
    for score in (by_global, Choosing()):
        with pytest.warns(UserWarning, match="Dropout|Choosing"):
            compose(chain(2, (2,)), score)


@pytest.mark.parametrize("n", [10, 1000, 5000])
def test_many_numbers_beside_a_network_hide_nothing(n: int) -> None:
    """As the alphas_cumprod of its adapter, or a table that a function reads."""
    network, table = Network(nn.Dropout(0.1)), [0.5] * n
    alphas = (1 - torch.linspace(1e-4, 0.02, n)).double().cumprod(0).tolist()[:1000]
    for score in (
        adapters.from_vp_eps(network, adapters.Timesteps(alphas)),
        lambda x, sigma: network(table[0] * x, sigma),
    ):
        with pytest.warns(UserWarning, match=r"compose: .* in train mode \(Dropout\)"):
            compose(chain(2, (2,)), score)


@pytest.mark.filterwarnings("error")
def test_train_mode_that_does_not_matter_is_no_alarm() -> None:
    layers = (nn.Dropout(0.0), nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.SiLU(), nn.Identity())
    attention = nn.TransformerEncoderLayer(2, 1, 4, dropout=0.0)
    for layer in (*layers, attention, nn.MultiheadAttention(2, 1), nn.GRU(2, 2)):
        compose(chain(2), Network(layer))
