"""Every score that the library makes survives pickling and deep copies, with the same bits."""

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from pgmdiff import Average, Consistent, Posterior, compose, field, gaussian, graphs, scores
from pgmdiff import conditioning as given
from pgmdiff.composition import FeynmanKac
from pgmdiff.gaussian import Distribution
from pgmdiff.integrations import azula, deepinv, diffusers, k_diffusion, sbi
from pgmdiff.models import gravel, tissue
from pgmdiff.precision import Solve
from pgmdiff.testing import ModeChain
from pgmdiff.training import EDMDenoiser
from tests.near_misses import ROOT

X, SIGMA = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.linspace(0.5, 2, 4)
MASK, Y = torch.tensor([True, False, True, True, False, False]), torch.ones(6)
CHAIN = graphs.chain(6)
Q = gaussian.ar1(6, 0.5)
COVARIANCES = gaussian.node_covariances(CHAIN, Q)
JOINT = compose(CHAIN, gaussian.node_scores(CHAIN, Q), rule=Consistent(COVARIANCES))
EVERYWHERE = {"c": field(torch.ones(6))}
PYRAMID = graphs.pyramid((6,), tile=2, levels=1, window=4, overlap=2)
STEPS = scores.Timesteps([0.9, 0.5, 0.1])
LAYER = nn.Linear(6, 6)


def network(x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
    levels = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return (sum(condition.values(), 0.0) - x) / (1 + levels**2)


def linear(x: Tensor, sigma: Tensor) -> Tensor:
    value: Tensor = LAYER(x)
    return value


def halved(x: Tensor, timestep: Tensor) -> Tensor:
    return 0.5 * x


def squared(x: Tensor) -> Tensor:
    return x[:, :2] ** 2


def variance(sigma: Tensor) -> Tensor:
    return sigma**2 / (1 + sigma**2)


def stronger(c: Tensor, sigma: Tensor) -> Tensor:
    return 2 * c


class Scheduler:
    """What `from_diffusers` reads of one."""

    alphas_cumprod = (0.9, 0.5, 0.1)

    def __init__(self, **config: Any) -> None:
        self.config = {"num_train_timesteps": 1000, **config}


class Preconditioning(Scheduler):
    def precondition_inputs(self, x: Tensor, s: Tensor) -> Tensor:
        return x / (1 + s**2) ** 0.5

    def precondition_noise(self, sigma: Tensor) -> Tensor:
        return sigma.log()

    def precondition_outputs(self, x: Tensor, value: Tensor, s: Tensor) -> Tensor:
        return (x + s * value) / (1 + s**2)


class Estimator:
    """What `from_sbi` reads of one."""

    t_min, t_max = 0.0, 1.0

    def mean_t_fn(self, t: Tensor) -> Tensor:
        return 1 - 0.9 * t

    def std_fn(self, t: Tensor) -> Tensor:
        return t

    def score(self, theta: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        return condition - theta


class Azula(nn.Module):
    """What `from_azula` reads of a denoiser."""

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - 0.9 * t, t

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x


class Vae(nn.Module):
    """What `from_vae` reads of an autoencoder."""

    config = {"scaling_factor": 2.0}  # noqa: RUF012

    def decode(self, z: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (z,)


def conditioned() -> dict[str, list[Any]]:
    noise = {"noise": 0.1}
    return {
        "conditioning.moment_matching": [
            given.moment_matching(JOINT, Y, MASK, **noise),
            given.moment_matching(network, Y, MASK, given.Tweedie()),
            given.moment_matching(network, Y, MASK, given.Isotropic(), **noise),
            given.moment_matching(network, Y[:2], squared, **noise),
        ],
        "conditioning.replacement": [
            given.replacement(network, Y, MASK),
            scores.guided(given.replacement(JOINT, Y, MASK), {}),
        ],
        "conditioning.reconstruction": [
            given.reconstruction(network, Y, MASK, given.dps(data_std=1.0)),
            given.reconstruction(network, Y[:2], squared, given.matched(variance)),
        ],
        "conditioning.dps": [given.dps(data_std=1.0)],
        "conditioning.matched": [given.matched(variance)],
    }


def diffused(**config: Any) -> Any:
    return diffusers.from_diffusers(halved, Scheduler(**config))


SCORES: dict[str, Callable[[], list[Any]]] = {
    **{name: lambda name=name: conditioned()[name] for name in conditioned()},
    "compose": lambda: [
        JOINT,
        JOINT.remembering(),
        JOINT.denoise,
        compose(CHAIN, network, conditions={key: {"c": torch.ones(1)} for key in CHAIN.factors}),
        compose(CHAIN, scores.from_denoiser(EDMDenoiser(network, 1.0)), rule=Average()),
        compose(
            CHAIN, network, rule=Posterior(COVARIANCES), conditions={"c": field(torch.ones(6))}
        ),
        FeynmanKac(compose(CHAIN, network)),
    ],
    "scores.in_pixels": lambda: [
        scores.in_pixels(
            PYRAMID, compose(PYRAMID.graph, scores.of_levels(PYRAMID, network, network))
        )
    ],
    "scores.padded": lambda: [scores.padded(network, (9,))],
    "scores.guided": lambda: [scores.guided(linear, {}, guidance=2.0), Q, Q.score],
    "scores.scheduled": lambda: [scores.scheduled(network, {})],
    "from_denoiser": lambda: [scores.from_denoiser(network)],
    "from_eps": lambda: [scores.from_eps(network), scores.from_eps(network).denoise],
    "from_flow": lambda: [scores.from_flow(network)],
    "from_vp_eps": lambda: [scores.from_vp_eps(network, STEPS)],
    "from_vp_sample": lambda: [scores.from_vp_sample(network, STEPS)],
    "from_vp_v": lambda: [scores.from_vp_v(network, STEPS)],
    "integrations.diffusers.from_diffusers": lambda: [
        *(diffused(prediction_type=kind) for kind in ("epsilon", "sample", "v_prediction")),
        diffused(prediction_type="flow_prediction"),
        diffused(prediction_type="v_prediction", timestep_type="continuous"),
        diffusers.from_diffusers(halved, Preconditioning(prediction_type="epsilon")),
    ],
    "integrations.diffusers.from_vae": lambda: [diffusers.from_vae(Vae())],
    "integrations.azula.from_azula": lambda: [azula.from_azula(Azula())],
    "integrations.k_diffusion.from_k_diffusion": lambda: [k_diffusion.from_k_diffusion(network)],
    "integrations.k_diffusion.to_k_diffusion": lambda: [k_diffusion.to_k_diffusion(JOINT)],
    "integrations.deepinv.from_deepinv": lambda: [deepinv.from_deepinv(network, low=-1.0)],
    "integrations.sbi.from_sbi": lambda: [sbi.from_sbi(Estimator())],
    "integrations.sbi.tall_data": lambda: [
        sbi.tall_data(sbi.from_sbi(Estimator()), Q, torch.ones(3, 6), shape=(6,), rule=Average())
    ],
    "training.train": lambda: [EDMDenoiser(network, 1.0)],
    "models.gravel.gravel_denoiser": lambda: [gravel.gravel_denoiser()],
    "models.tissue.tissue_denoiser": lambda: [tissue.tissue_denoiser()],
}


def names() -> set[str]:
    """The public functions that return something that is called, but for distributions."""
    found = set()
    for name in re.findall(r"^   pgmdiff\.(\S+)$", (ROOT / "docs/api/index.md").read_text(), re.M):
        if name.startswith(("plotting", "distributed")):  # those belong to a group of processes
            continue
        module, _, last = f"pgmdiff.{name}".rpartition(".")
        thing = getattr(import_module(module), last)
        if inspect.isfunction(inspect.unwrap(thing)):
            known = {"Pyramid": graphs.pyramids.Pyramid}
            kind = get_type_hints(inspect.unwrap(thing), localns=known).get("return")
            called = inspect.isclass(kind) and "__call__" in dir(kind)
            called &= not (called and issubclass(kind, Distribution | Solve | ModeChain))
            if get_origin(kind) is get_origin(Callable[..., int]) or called:
                found.add(name)
    return found


def test_no_function_that_returns_a_score_is_forgotten() -> None:
    assert sorted(names()) == sorted(SCORES)


@pytest.mark.parametrize("name", SCORES)
def test_scores_survive_pickling_and_deep_copies(name: str) -> None:
    x = X[:, :, None, None].expand(4, 6, 16, 16)[:, : 3 if "tissue" in name else 1]
    x = x if name.startswith("models") else X
    more = {"condition": torch.ones(4, 6)} if name.endswith("from_sbi") else {}
    for score in SCORES[name]():
        arguments = (x,) if "from_vae" in name else (x, SIGMA)
        if name in ("conditioning.dps", "conditioning.matched"):
            arguments = (SIGMA, SIGMA)
        copies = pickle.loads(pickle.dumps(score)), copy.deepcopy(score)  # some have a memory
        value = score(*arguments, **more)
        value = value[0] if isinstance(value, tuple) else value  # of a potential
        for again in copies:
            assert again is not score or inspect.isfunction(score)
            found = again(*arguments, **more)
            assert torch.equal(found[0] if isinstance(found, tuple) else found, value)
            if getattr(again, "finish", None) is not None:
                again.finish(torch.ones_like(x))


def test_a_joint_for_azula_is_pickled() -> None:
    pytest.importorskip("azula")
    from azula.noise import VESchedule

    denoiser = azula.to_azula(JOINT, VESchedule(), evaluations=2)
    t = torch.tensor(0.5)
    for again in (pickle.loads(pickle.dumps(denoiser)), copy.deepcopy(denoiser)):
        assert again.runs.evaluations == 2
        assert torch.equal(again(X, t).mean, denoiser(X, t).mean)
