"""Gradients that are not there are an error, wherever a method needs them, and nowhere else.

One law over adapters, ways to lose a gradient, methods that differentiate, and places of the dead
network: all nodes of a joint, one among live ones, or no joint at all.
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pgmdiff import Consistent, Posterior, ScoreError, compose, from_denoiser, from_eps
from pgmdiff.composition import FeynmanKac, Joint
from pgmdiff.composition.rules import bound
from pgmdiff.conditioning import (
    Composed,
    Crop,
    DenseOperator,
    FourierMask,
    Isotropic,
    Linear,
    Mask,
    Stacked,
    Tweedie,
    block_average,
    blur,
    dps,
    moment_matching,
    reconstruction,
    replacement,
)
from pgmdiff.diagnostics import distribution_reached, influence, influence_over_steps
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import chain
from pgmdiff.integrations.azula import from_azula
from pgmdiff.integrations.deepinv import from_deepinv
from pgmdiff.integrations.diffusers import from_diffusers
from pgmdiff.integrations.k_diffusion import from_k_diffusion
from pgmdiff.integrations.sbi import from_sbi
from pgmdiff.models.unet import EDMDenoiser
from pgmdiff.precision.solves.direct import SparseFactors
from pgmdiff.samplers import (
    Adaptive,
    Euler,
    Langevin,
    PredictorCorrector,
    curvature_extremes,
    log_likelihood,
    sample,
    sample_weighted,
)
from pgmdiff.scores.adapters import (
    Timesteps,
    denoise,
    from_flow,
    from_vp_eps,
    from_vp_sample,
    from_vp_v,
    padded,
)
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.scores.guidance import guided, scheduled
from pgmdiff.testing import assert_lawful
from pgmdiff.testing.oracles import markov_mixture, two_mode_chain
from tests.helpers import ar1

Network = Callable[..., Tensor]
GRAPH, Q = chain(3, shape=(1,)), ar1(3, 0.7)
X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASK = torch.tensor([True, False, True])
Y = torch.tensor([0.5, 0.0, -1.0], dtype=torch.float64)


# ---------------------------------------------------------------- networks, dead and alive


def alive(network: Network) -> Network:
    return network


def under_no_grad(network: Network) -> Network:
    return torch.no_grad()(network)


def in_inference_mode(network: Network) -> Network:
    return torch.inference_mode()(network)


def detached(network: Network) -> Network:
    return lambda x, *level, **condition: network(x, *level, **condition).detach()


def of_a_detached_input(network: Network) -> Network:
    """It has a gradient, but only with respect to a parameter, as most networks have."""
    parameter = nn.Parameter(torch.ones((), dtype=torch.float64))
    return lambda x, *level, **condition: parameter * network(x.detach(), *level, **condition)


def through_numpy(network: Network) -> Network:
    def black_box(x: Tensor, *level: Tensor, **condition: Any) -> Tensor:
        with torch.no_grad():
            values = network(x, *level, **condition)
        return torch.from_numpy(values.numpy().copy())

    return black_box


DEATHS = [under_no_grad, in_inference_mode, detached, of_a_detached_input, through_numpy]


# ---------------------------------------------------------------- adapters


def prediction(q: Gaussian, kind: str) -> Network:
    """What a perfect network of a kind predicts at x_t = α x and t = log σ, or t = σ / (1 + σ)."""

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        sigma = (t / (1 - t) if kind == "flow" else t.exp())[:, None]
        alpha = 1 / (1 + sigma) if kind == "flow" else (1 + sigma**2).rsqrt()
        denoised = q.denoise(x_t / alpha, sigma[:, 0])
        eps = (x_t / alpha - denoised) / sigma
        v = alpha * (eps - sigma * denoised)
        return {"eps": eps, "sample": denoised, "v": v, "flow": eps - denoised}[kind]

    return network


def of_a_vp_network(adapt: Callable[..., Any], kind: str) -> Callable[..., Any]:
    return lambda q, change: adapt(change(prediction(q, kind)), torch.log)


def eps(q: Gaussian) -> Network:
    return lambda x, sigma: (x - q.denoise(x, sigma)) / sigma[:, None]


def edm(q: Gaussian, change: Callable[[Network], Network]) -> Any:
    """The network F of D = x / (1 + σ²) + σ / √(1 + σ²) F(x / √(1 + σ²), log σ / 4)."""

    def network(seen: Tensor, level: Tensor) -> Tensor:
        s = (4 * level).exp()[:, None]
        x = seen * (s**2 + 1).sqrt()
        return (q.denoise(x, s[:, 0]) - x / (s**2 + 1)) * (s**2 + 1).sqrt() / s

    return from_denoiser(EDMDenoiser(SimpleModule(change(network)), 1.0))


class SimpleModule(nn.Module):
    def __init__(self, function: Network) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor, **kwargs: Any) -> Tensor:
        return self.function(*args, **kwargs)


def edm_of_diffusers(q: Gaussian, change: Callable[[Network], Network]) -> Any:
    """As `edm`, with the preconditioning of a scheduler."""
    scheduler = SimpleNamespace(
        config={"prediction_type": "epsilon"},
        precondition_inputs=lambda x, s: x * (1 + s**2).rsqrt(),
        precondition_noise=torch.log,
        precondition_outputs=lambda x, out, s: x / (s**2 + 1) + s * (s**2 + 1).rsqrt() * out,
    )

    def network(seen: Tensor, timestep: Tensor) -> Tensor:
        s = timestep.exp()[:, None]
        x = seen * (s**2 + 1).sqrt()
        return (q.denoise(x, s[:, 0]) - x / (s**2 + 1)) * (s**2 + 1).sqrt() / s

    return from_diffusers(change(network), scheduler)


def of_azula(q: Gaussian, change: Callable[[Network], Network]) -> Any:
    """A denoiser at α_t = 1 and σ_t = t / (1 - t)."""
    changed = change(lambda x, t: q.denoise(x, (t / (1 - t)).to(x)))

    def denoiser(x: Tensor, t: Tensor) -> Any:
        return SimpleNamespace(mean=changed(x, t))

    denoiser.schedule = lambda t: (torch.ones_like(t), t / (1 - t))  # type: ignore[attr-defined]
    return from_azula(denoiser)


def of_sbi(q: Gaussian, change: Callable[[Network], Network]) -> Any:
    estimator = SimpleNamespace(
        score=change(lambda theta, y, t: q.score(theta, t.expand(len(theta)).to(theta))),
        mean_t_fn=torch.ones_like,
        std_fn=lambda t: t,
        t_min=1e-4,
        t_max=1e3,
    )
    score = from_sbi(estimator)
    return lambda x, sigma: score(x, sigma, x.new_zeros(len(x), 1))


def of_guided(q: Gaussian, change: Callable[[Network], Network]) -> Any:
    network = change(lambda x, sigma, y: q.denoise(x, sigma) + y[:, None])
    score, w = guided(from_denoiser(network), {"y": torch.zeros(())}), torch.tensor(0.0)
    return lambda x, sigma: score(x, sigma, y=x.new_zeros(len(x)), guidance=w)


def of_scheduled(q: Gaussian, change: Callable[[Network], Network]) -> Any:
    network = change(lambda x, sigma, y: y * q.score(x, sigma))
    score = scheduled(network, {"y": lambda y, sigma: y + 1})
    return lambda x, sigma: score(x, sigma, y=0.0)


ADAPTERS: dict[str, Callable[[Gaussian, Callable[[Network], Network]], Any]] = {
    "bare": lambda q, change: change(q.score),
    "denoiser": lambda q, change: from_denoiser(change(q.denoise)),
    "eps": lambda q, change: from_eps(change(eps(q))),
    "vp_eps": of_a_vp_network(from_vp_eps, "eps"),
    "vp_sample": of_a_vp_network(from_vp_sample, "sample"),
    "vp_v": of_a_vp_network(from_vp_v, "v"),
    "flow": lambda q, change: from_flow(change(prediction(q, "flow"))),
    "padded": lambda q, change: padded(change(q.score), q.event_shape, "replicate"),
    "guided": of_guided,
    "scheduled": of_scheduled,
    "edm": edm,
    "diffusers": edm_of_diffusers,
    "k_diffusion": lambda q, change: from_k_diffusion(change(q.denoise)),
    "deepinv": lambda q, change: from_deepinv(change(q.denoise)),
    "azula": of_azula,
    "sbi": of_sbi,
}


# ---------------------------------------------------------------- methods


def user_gradient(score: Any) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        leaf = X.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(denoise(score, leaf, 0.8).square().sum(), leaf)
    return gradient


def likelihood(score: Any) -> Tensor:
    return log_likelihood(score, X.clone(), 0.7, 0.9, solver=Adaptive(0.1, 0.1, "bosh3"))


def estimated_likelihood(score: Any) -> Tensor:
    options = {"trace": "hutchinson", "generator": 0, "solver": Adaptive(0.1, 0.1, "bosh3")}
    return log_likelihood(score, X.clone(), 0.7, 0.9, **options)


def function_of_state(x: Tensor) -> Tensor:
    return x[:, :2].sin()


def conditioned(make: Callable[[Any], Any]) -> Callable[[Any], Tensor]:
    """A conditioned score, which everything is made for where it is called, and one step of it."""
    return lambda score: sample(make(score), [0.8, 0.5], x=X.clone(), solver=Euler())


METHODS: dict[str, Callable[[Any], Tensor]] = {
    "autograd": user_gradient,
    "log_likelihood": likelihood,
    "hutchinson": estimated_likelihood,
    "influence": lambda score: influence(score, X.clone(), 0.8, 0),
    "influence_over_steps": lambda score: influence_over_steps(
        score, [0.8, 0.5], X.clone(), 0, solver=PredictorCorrector(Euler(), Langevin()), generator=0
    ),
    "isotropic": conditioned(lambda s: moment_matching(s, Y.clone(), Mask(MASK), Isotropic())),
    "tweedie": conditioned(
        lambda s: moment_matching(s, Y[:2].clone(), function_of_state, Tweedie(), noise=0.3)
    ),
    "reconstruction": conditioned(
        lambda s: reconstruction(
            s, Y[:2], DenseOperator(torch.ones(2, 3).double(), (3,)), dps(data_std=1.0)
        )
    ),
    "of a function": conditioned(
        lambda s: reconstruction(s, Y[:2], function_of_state, dps(data_std=1.0))
    ),
}


def joint_of(name: str, dead: str, death: Callable[[Network], Network], **options: Any) -> Joint:
    """A joint whose nodes use an adapter; "all" of them are dead, or one, or none."""
    scores = {}
    for node in GRAPH.regions.names:
        q = Q.marginal(GRAPH.regions.elements(node))
        scores[node] = ADAPTERS[name](q, death if dead in ("all", node) else alive)
    return compose(GRAPH, scores, **options)


def text_of(raised: pytest.ExceptionInfo[ScoreError]) -> str:
    return "\n".join([str(raised.value), *getattr(raised.value, "__notes__", [])])


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("method", METHODS)
def test_missing_gradients_are_an_error(adapter: str, method: str) -> None:
    """One way to lose a gradient each; the next test has all of them."""
    death = DEATHS[(list(ADAPTERS).index(adapter) + list(METHODS).index(method)) % len(DEATHS)]
    for dead, node in (("all", "f0"), ("f1", "f1"), ("x1", "x1")):
        with pytest.raises(ScoreError, match="gradient is required") as raised:
            METHODS[method](joint_of(adapter, dead, death))
        if sys.version_info >= (3, 11):  # exceptions take notes
            assert f"node {node!r}" in text_of(raised)
    with pytest.raises(ScoreError, match="gradient is required"):
        METHODS[method](ADAPTERS[adapter](Q, death))


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("options", [{}, {"max_batch": 1}, {"checkpoint": True}])
def test_no_gradient_is_lost_on_the_way(
    death: Callable[[Network], Network], options: dict[str, Any]
) -> None:
    for adapter in ("bare", "denoiser", "vp_v"):
        for method in (user_gradient, METHODS["influence"]):
            with pytest.raises(ScoreError, match="gradient is required"):
                method(joint_of(adapter, "f1", death, **options))
            live = joint_of(adapter, "none", death, **options)
            torch.testing.assert_close(method(live), method(compose(GRAPH, node_scores(GRAPH, Q))))


def operators() -> list[Any]:
    matrix = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
    dense, mask = DenseOperator(matrix, (3,)), Mask(MASK.clone())
    return [
        mask,
        dense,
        Crop((3,), (slice(1, 3),)),
        FourierMask(MASK.clone()),
        block_average((3,), 3),
        blur((3,), torch.ones(3).double()),
        Linear(lambda x: x.flip(1), (3,)),
        Stacked((mask, dense)),
        DenseOperator(torch.ones(1, 3).double(), (3,)) @ mask,
    ]


def test_operators_levels_and_conditions_may_be_made_in_any_mode() -> None:
    def conditional(x: Tensor, sigma: Tensor, shift: Tensor) -> Tensor:
        return shift * Q.marginal(torch.arange(x.shape[1])).score(x.tanh() * shift, sigma)

    def results() -> list[Tensor]:
        sigma, shift = torch.tensor([0.5, 0.8]).double(), torch.tensor([[0.5], [1.0]]).double()
        rule = Posterior(node_covariances(GRAPH, Q))
        joint = compose(GRAPH, conditional, rule=rule)
        found = [joint(X.clone(), sigma, shift=shift)]
        for h in operators():
            y = h.A(X.clone()) + 0.1
            for make in (
                lambda y, h: reconstruction(joint, y, h, dps(data_std=1.0)),
                lambda y, h: moment_matching(joint, y, h, Tweedie(), noise=0.5, most_steps=10**4),
                lambda y, h: moment_matching(joint, y, h, Isotropic(), noise=0.5),
                lambda y, h: replacement(joint, h.A(h.A_dagger(y)), h),
            ):
                found.append(make(y, h)(X.clone(), sigma, shift=shift))
        return found

    expected = results()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = results()
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("method", METHODS)
def test_methods_take_gradients_wherever_they_are_called(method: str) -> None:
    """Everything is made in the mode, too: scores, operators, rules and states."""
    call = METHODS[method]
    scores = [lambda name=name: ADAPTERS[name](Q, alive) for name in [*ADAPTERS][::3]]
    scores += [
        lambda: joint_of("denoiser", "none", alive),
        lambda: compose(GRAPH, node_scores(GRAPH, ar1(3, 0.7))),
        lambda: ar1(3, 0.7),
        lambda: markov_mixture(GRAPH, 0).score,
        lambda: compose(
            GRAPH, node_scores(GRAPH, ar1(3, 0.7)), rule=Posterior(node_covariances(GRAPH, Q))
        ),
    ]
    for make in scores:
        expected = call(make())
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                found = call(make())
            assert torch.equal(found, expected)


def test_where_no_gradient_is_needed_none_is_asked_for() -> None:
    h = Mask(MASK)
    step = Euler()
    parts: list[Callable[[Any], Tensor]] = [
        lambda s: sample(s, [0.8, 0.3, 0.0], x=X),
        lambda s: torch.cat(curvature_extremes(s, X, 0.8, generator=0)),
        lambda s: distribution_reached(s, [0.8, 0.3], Q.noised(0.8), step).covariance,
        lambda s: sample(replacement(s, Y, h), [0.8, 0.3], x=X),
        lambda s: moment_matching(s, Y, h, Isotropic(jacobian=False))(X, 0.8),
        lambda s: s(X, torch.full((2,), 0.8).double()),
        lambda s: torch.no_grad()(s)(X.clone().requires_grad_(), torch.full((2,), 0.8).double()),
    ]
    for adapter, death in zip([*ADAPTERS][::2], cycle(DEATHS), strict=False):
        dead, live = (joint_of(adapter, each, death) for each in ("all", "none"))
        for part in parts:
            assert torch.equal(part(dead), part(live))
            alone = (ADAPTERS[adapter](Q, each) for each in (death, alive))
            assert torch.equal(*map(part, alone))
        runs = [
            sample_weighted(FeynmanKac(each), [0.8, 0.3], shape=(2, 3), generator=0)
            for each in (dead, live)
        ]
        assert torch.equal(runs[0].x, runs[1].x)


# ---------------------------------------------------------------- operators


def test_dead_operators_are_an_error() -> None:
    function, q = torch.no_grad()(function_of_state), Q
    linear = Linear(torch.no_grad()(lambda x: 2 * x), (3,))
    one_dead = DenseOperator(torch.eye(3).double(), (3,)), linear
    stacked = Stacked(one_dead)
    y, wide = Y[:2], torch.zeros(6, dtype=torch.float64)
    for make in (
        lambda: reconstruction(q, y, function, dps(data_std=1.0)),
        lambda: moment_matching(q, y, function, Tweedie(), noise=0.1),
        lambda: moment_matching(q, y, function, Isotropic(jacobian=False), noise=0.1),
        lambda: reconstruction(q, Y, linear, dps(data_std=1.0)),
        lambda: moment_matching(q, Y, linear, Tweedie(), noise=0.1),
        lambda: reconstruction(q, wide, stacked, dps(data_std=1.0)),
        lambda: moment_matching(q, wide, stacked, Isotropic(), noise=0.1),
    ):
        with pytest.raises(ScoreError, match="gradient is required"):
            make()(X, 0.8)
    assert replacement(q, Y, Mask(MASK))(X, 0.8).shape == X.shape


def test_conditioned_scores_pass_gradients_through_their_operator() -> None:
    """The adjoint of a `Linear` depends on what it is given: its Jacobian is that of the matrix."""
    matrix = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
    operators = DenseOperator(matrix, (3,)), Linear(lambda x: x @ matrix.T, (3,))
    joint = compose(GRAPH, node_scores(GRAPH, Q), rule=Posterior(node_covariances(GRAPH, Q)))
    for covariance in (Composed(joint), Tweedie(), Isotropic(), Isotropic(jacobian=False)):
        found = [
            METHODS["influence"](moment_matching(joint, Y[:2], h, covariance, noise=0.5))
            for h in operators
        ]
        torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("where", ["timesteps", "bisection", "log-determinants"])
def test_gradients_in_sigma_are_not_lost_either(where: str) -> None:
    timesteps = Timesteps(torch.linspace(0.99, 0.01, 100).tolist())
    joint = compose(GRAPH, node_scores(GRAPH, Q), rule=Consistent(node_covariances(GRAPH, Q)))
    sparse = replace(joint, rule=bound(joint.rule, solve=SparseFactors(joint.precision)))
    call = {
        "timesteps": from_vp_eps(prediction(Q, "eps"), timesteps),
        "bisection": of_azula(Q, alive),
        "log-determinants": sparse.log_density,
    }[where]
    sigma = torch.tensor([0.5, 0.8], dtype=torch.float64)
    expected = call(X, sigma)
    with pytest.raises(ScoreError, match="detach its input"):
        call(X, sigma.clone().requires_grad_())
    assert torch.equal(torch.no_grad()(call)(X, sigma.clone().requires_grad_()), expected)
    with pytest.raises(ScoreError, match=r"^Timesteps\(100 timesteps.*detach its input"):
        timesteps.sigmas(torch.ones(2).requires_grad_())


# ---------------------------------------------------------------- the check itself


def test_a_gradient_is_one_with_respect_to_the_input() -> None:
    def net() -> str:
        return "The network"

    x, other = X.clone().requires_grad_(), torch.ones(3).double().requires_grad_()
    for fine in (x, x.sin(), x[:, :1], x * 0, other + x.clone(), torch.zeros(2, 3).double() + x):
        check_gradient(fine, x, net)
    for fine in ((2 * x).exp(), X, other * X):
        check_gradient(fine, X, net)
    for dead in (X, other * X, x.detach(), (x > 0).double(), torch.zeros(0)):
        with pytest.raises(ScoreError, match=r"^The network: expected a result that autograd"):
            check_gradient(dead, x, net)
    with torch.no_grad():
        check_gradient(X, x, net)
    later = 2 * x
    check_gradient(later.sin(), later, net)
    with pytest.raises(ScoreError, match=r"0 \* x"):
        check_gradient(x.sin(), later, net)  # of what came before, not of the input


def test_transforms_of_torch_func_and_compiled_networks_are_seen_through() -> None:
    score = from_denoiser(Q.denoise)
    expected = torch.autograd.functional.jacobian(lambda x: score(x[None], 0.8)[0], X[0])
    found = torch.func.jacrev(lambda x: score(x[None], 0.8)[0])(X[0])
    torch.testing.assert_close(found, expected)
    with pytest.raises(ScoreError, match="gradient is required"):
        torch.func.jacrev(from_denoiser(detached(Q.denoise)))(X, 0.8)
    compiled = torch.compile(lambda x, sigma: x.sin(), backend="eager")
    with warnings.catch_warnings():  # dynamo asks a copy for .grad
        warnings.simplefilter("ignore")
        assert user_gradient(from_denoiser(compiled)).abs().max() > 0
        whole = torch.compile(from_denoiser(Q.denoise), backend="eager")
        assert user_gradient(whole).abs().max() > 0
        with pytest.raises(ScoreError, match="gradient is required"):
            user_gradient(torch.compile(from_denoiser(detached(Q.denoise)), backend="eager"))


def test_laws_and_oracles_serve_in_every_mode() -> None:
    chain_of_modes, u = two_mode_chain(3), 3 * X
    expected = chain_of_modes(u, 0.8)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert assert_lawful(chain(3), generator=0, only="the_score_is_a_gradient").passed
            assert torch.equal(chain_of_modes(u.clone(), 0.8), expected)
