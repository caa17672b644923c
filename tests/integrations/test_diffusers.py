"""Against the real diffusers: tiny networks with random weights, and every scheduler that fits."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError, ScoreError, ShapeError, compose, from_denoiser
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import chain, tiles
from pgmdiff.images.latents import decode, receptive_margin
from pgmdiff.integrations.diffusers import SIGMA_LIMIT, drive, from_diffusers, from_vae
from pgmdiff.samplers import (
    DEIS,
    SDE,
    DPMSolver2M,
    Euler,
    Heun,
    Solver,
    from_scheduler,
    karras,
    sample,
    split_seed,
)
from pgmdiff.scores.adapters import Timesteps, denoise
from pgmdiff.scores.guidance import guided

with warnings.catch_warnings():  # what diffusers' own imports warn of is not ours to mend
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip(
        "diffusers", reason="diffusers is not installed: pip install 'pgmdiff[diffusers]'"
    )
    from diffusers import (
        AutoencoderKL,
        DiTTransformer2DModel,
        SD3Transformer2DModel,
        UNet2DConditionModel,
        UNet2DModel,
        schedulers,
    )

pytestmark = [  # diffusers' schedulers, of NumPy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

TARGET = Gaussian(
    torch.tensor([1.0, -0.5], dtype=torch.float64),
    torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64),
)
U = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGMA = torch.tensor([0.02, 0.1, 0.5, 1.0, 10.0, 100.0], dtype=torch.float64)
X = U * SIGMA[:, None]
KINDS = ("epsilon", "sample", "v_prediction")


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)  # random weights of the tiny networks
    diffusers.utils.logging.set_verbosity_error()


# ---------------------------------------------------------------- in


def exact(kind: str, x_t: Tensor, sigma: Tensor, alpha: Tensor) -> Tensor:
    """What a perfect network answers about the target."""
    sigma, alpha = sigma[:, None], alpha[:, None]
    denoised = TARGET.denoise(x_t / alpha, sigma[:, 0])
    eps = (x_t - alpha * denoised) / (alpha * sigma)
    return {
        "epsilon": eps,
        "sample": denoised,
        "v_prediction": alpha * eps - alpha * sigma * denoised,
        "flow_prediction": eps - denoised,
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["DDPMScheduler", "DPMSolverMultistepScheduler"])
def test_variance_preserving_networks_give_the_score(name: str, kind: str) -> None:
    scheduler = getattr(schedulers, name)(prediction_type=kind)
    times = Timesteps(scheduler.alphas_cumprod.double().tolist())

    def network(x_t: Tensor, timestep: Tensor) -> tuple[Tensor]:
        sigma = times.sigmas(timestep)
        return (exact(kind, x_t, sigma, (1 + sigma**2).rsqrt()),)

    score = from_diffusers(network, scheduler)
    torch.testing.assert_close(score(X, SIGMA), TARGET.score(X, SIGMA), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(denoise(score, X, SIGMA), TARGET.denoise(X, SIGMA))
    torch.testing.assert_close(times.sigmas(times(SIGMA)), SIGMA, rtol=1e-12, atol=0)
    known = times(torch.linspace(0.02, 100, 50, dtype=torch.float64))
    assert (known != known.round()).any(), "timesteps are not rounded"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        ("FlowMatchHeunDiscreteScheduler", {}),
        (
            "DPMSolverMultistepScheduler",
            {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
        ),
    ],
)
def test_flow_networks_give_the_score(name: str, options: dict) -> None:
    def network(x_t: Tensor, timestep: Tensor) -> Tensor:
        t = timestep / 1000
        return exact("flow_prediction", x_t, t / (1 - t), 1 - t)

    score = from_diffusers(network, getattr(schedulers, name)(**options))
    torch.testing.assert_close(score(X, SIGMA), TARGET.score(X, SIGMA), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_edm_networks_give_the_score(kind: str) -> None:
    data, sign = 0.7, {"epsilon": 1, "v_prediction": -1}[kind]

    def network(seen: Tensor, timestep: Tensor) -> Tensor:
        sigma = (4 * timestep).exp()[:, None]
        x = seen * (sigma**2 + data**2).sqrt()
        skip, out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2).sqrt()
        return (TARGET.denoise(x, sigma[:, 0]) - skip * x) / (sign * out)

    scheduler = schedulers.EDMEulerScheduler(sigma_data=data, prediction_type=kind)
    score = from_diffusers(network, scheduler)
    torch.testing.assert_close(score(X, SIGMA), TARGET.score(X, SIGMA), rtol=1e-9, atol=1e-9)


def test_continuous_v_networks_give_the_score() -> None:
    def network(x_t: Tensor, timestep: Tensor) -> Tensor:
        sigma = (4 * timestep).exp()
        return exact("v_prediction", x_t, sigma, (1 + sigma**2).rsqrt())

    scheduler = schedulers.EulerDiscreteScheduler(
        prediction_type="v_prediction", timestep_type="continuous", sigma_min=0.002, sigma_max=700.0
    )
    score = from_diffusers(network, scheduler)
    torch.testing.assert_close(score(X, SIGMA), TARGET.score(X, SIGMA), rtol=1e-9, atol=1e-9)


def small_unet(**options: object) -> torch.nn.Module:
    arguments = {
        "sample_size": 16,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "add_attention": False,
        **options,
    }
    return UNet2DModel(**arguments).eval().requires_grad_(False)


def conditioned_unet() -> torch.nn.Module:
    return (
        UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            cross_attention_dim=6,
            attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
        .eval()
        .requires_grad_(False)
    )


def test_a_unet_at_its_own_timesteps() -> None:
    unet, scheduler = small_unet(), schedulers.DDPMScheduler()
    alphas = scheduler.alphas_cumprod[torch.tensor([3, 500, 990])]
    sigma = ((1 - alphas) / alphas).sqrt()
    x = sigma[:, None, None, None] * torch.randn(3, 1, 16, 16)
    x_t = alphas.sqrt()[:, None, None, None] * x
    eps = unet(x_t, torch.tensor([3, 500, 990])).sample
    found = from_diffusers(unet, scheduler)(x, sigma) * -sigma[:, None, None, None]
    torch.testing.assert_close(found, eps, rtol=1e-4, atol=1e-4)  # t = 499.9999 for 500


def test_a_panorama_of_a_unet_is_the_sum_over_its_windows() -> None:
    unet, scheduler = small_unet(), schedulers.DDPMScheduler(prediction_type="v_prediction")
    score = from_diffusers(unet, scheduler)
    ring = tiles((1, 16, 32), (1, 16, 16), (0, 0, 8), periodic=(False, False, True))
    u, sigma = torch.randn(2, 1, 16, 32), torch.tensor([0.5, 2.0])
    whole = compose(ring, score, max_batch=3)(u, sigma)
    twice = torch.cat([u, u], dim=3)
    expected = torch.zeros_like(twice)
    for left in range(0, 32, 8):
        window, seam = slice(left, left + 16), slice(left, left + 8)
        expected[..., window] += score(twice[..., window], sigma)
        expected[..., seam] -= score(twice[..., seam], sigma)
    expected = expected[..., :32] + expected[..., 32:]
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)
    out = sample(compose(ring, score), karras(3, 0.1, 10.0), shape=(1, 1, 16, 32), generator=0)
    assert out.isfinite().all()


def test_every_region_follows_its_own_prompt() -> None:
    unet, scheduler = conditioned_unet(), schedulers.DDIMScheduler()
    score = from_diffusers(unet, scheduler)
    strip = tiles((4, 8, 12), (4, 8, 8), (0, 0, 4))
    sea, sky, empty = torch.randn(3, 5, 6)
    left, right = (name for name, count in strip.counting_numbers().items() if count > 0)
    conditions = {
        left: {"encoder_hidden_states": sea},
        right: {"encoder_hidden_states": sky},
    }
    null = {"encoder_hidden_states": empty}
    u, sigma = torch.randn(2, 4, 8, 12), torch.full((2,), 1.5)
    joint = compose(strip, score, conditions=conditions, null_condition=null)

    def alone(x: Tensor, prompt: Tensor) -> Tensor:
        return score(x, sigma, encoder_hidden_states=prompt.expand(2, 5, 6))

    expected = torch.zeros_like(u)
    expected[..., :8] += alone(u[..., :8], sea)
    expected[..., 4:] += alone(u[..., 4:], sky)
    expected[..., 4:8] -= alone(u[..., 4:8], empty)
    torch.testing.assert_close(joint(u, sigma), expected, rtol=1e-4, atol=1e-5)

    followed = {
        name: {**conditions[name], "guidance": torch.tensor(w)}
        for name, w in ((left, 7.5), (right, 1.0))
    }
    free = compose(strip, guided(score, null), conditions=followed, null_condition=null)
    expected[..., :8] += 6.5 * (alone(u[..., :8], sea) - alone(u[..., :8], empty))
    torch.testing.assert_close(free(u, sigma), expected, rtol=1e-4, atol=1e-4)


def test_a_diffusion_transformer_with_learned_variances() -> None:
    dit = (
        DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=4,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
            norm_num_groups=4,
        )
        .eval()
        .requires_grad_(False)
    )
    scheduler = schedulers.DDPMScheduler(variance_type="learned_range")
    alpha = scheduler.alphas_cumprod[400]
    sigma = ((1 - alpha) / alpha).sqrt().expand(2)
    x, label = torch.randn(2, 4, 8, 8), torch.tensor([3, 7])
    with torch.no_grad():
        eps = dit(alpha.sqrt() * x, timestep=torch.tensor([400, 400]), class_labels=label).sample
    found = from_diffusers(dit, scheduler)(x, sigma, class_labels=label) * -sigma[0]
    torch.testing.assert_close(found, eps[:, :4], rtol=1e-4, atol=1e-4)


def test_a_flow_matching_transformer() -> None:
    network = (
        SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=2,
            joint_attention_dim=6,
            caption_projection_dim=8,
            pooled_projection_dim=5,
            out_channels=4,
        )
        .eval()
        .requires_grad_(False)
    )
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.25, 0.75])
    condition = {
        "encoder_hidden_states": torch.randn(2, 3, 6),
        "pooled_projections": torch.randn(2, 5),
    }
    x_t = (1 - t)[:, None, None, None] * x
    v = network(hidden_states=x_t, timestep=1000 * t, **condition).sample
    found = denoise(from_diffusers(network, scheduler), x, t / (1 - t), **condition)
    torch.testing.assert_close(found, x_t - t[:, None, None, None] * v, rtol=1e-5, atol=1e-5)


def test_networks_in_half_precision_keep_their_state_and_times_single() -> None:
    unet, scheduler = small_unet().to(torch.bfloat16), schedulers.DDPMScheduler()
    seen = []
    unet.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0].dtype, kwargs["timestep"])), with_kwargs=True
    )
    sigma = torch.tensor([0.37, 4.0])
    out = from_diffusers(unet, scheduler)(torch.randn(2, 1, 16, 16), sigma)
    (dtype, timestep), exact_times = seen[0], Timesteps(scheduler.alphas_cumprod.tolist())(sigma)
    assert (dtype, timestep.dtype, out.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    torch.testing.assert_close(timestep, exact_times)
    again = small_unet()
    again.load_state_dict(unet.float().state_dict())
    x = torch.randn(2, 1, 16, 16)
    single = from_diffusers(again, scheduler)(x, sigma)
    half = from_diffusers(unet.to(torch.bfloat16), scheduler)(x, sigma)
    assert (half - single).abs().max() < 0.05 * single.abs().max()


def test_what_cannot_be_adapted_is_named() -> None:
    network = small_unet()
    far = torch.nn.Linear(2, 2, device="meta")
    ddpm = schedulers.DDPMScheduler()
    for call, message in [
        (lambda: from_diffusers(network, schedulers.ScoreSdeVeScheduler()), "got None"),
        (lambda: from_diffusers(network, schedulers.SCMScheduler()), "got 'trigflow'"),
        (lambda: from_diffusers(network, schedulers.IPNDMScheduler()), "no alphas_cumprod"),
        (lambda: from_diffusers(network, object()), "has no config"),
        (
            lambda: from_diffusers(
                network, schedulers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
            ),
            "invert_sigmas",
        ),
        (
            lambda: from_diffusers(network, schedulers.DDPMScheduler(prediction_type="x")),
            "got 'x'",
        ),
        (lambda: from_diffusers(far, ddpm)(torch.zeros(1, 2), torch.ones(1)), "is on meta"),
    ]:
        with pytest.raises(ScoreError, match=message):
            call()


# ---------------------------------------------------------------- out


def start(scheduler: object) -> tuple[Tensor, Tensor, list[float]]:
    """A start in our convention and in the scheduler's, and its levels: σ_0, ..., 0."""
    sigmas = from_scheduler(scheduler)
    generator = torch.Generator().manual_seed(1)
    x = sigmas[0] * torch.randn(5, 2, generator=generator, dtype=torch.float64)
    if type(scheduler).__name__.startswith("FlowMatch"):
        return x, x / (1 + sigmas[0]), sigmas
    exploding = float(scheduler.init_noise_sigma) > 1
    return x, x if exploding else x / math.sqrt(1 + sigmas[0] ** 2), sigmas


KARRAS = {"use_karras_sigmas": True}
COUNTERPARTS: list[tuple[str, dict, Solver, float]] = [
    ("EulerDiscreteScheduler", {}, Euler(), 1e-6),
    ("EulerDiscreteScheduler", {**KARRAS, "prediction_type": "v_prediction"}, Euler(), 1e-6),
    ("EulerDiscreteScheduler", {"prediction_type": "sample"}, Euler(), 1e-6),
    ("EDMEulerScheduler", {}, Euler(), 1e-6),
    ("EDMEulerScheduler", {"prediction_type": "v_prediction", "sigma_data": 1.0}, Euler(), 1e-6),
    ("HeunDiscreteScheduler", {}, Heun(), 1e-6),
    ("DDIMScheduler", {}, Euler(), 1e-6),
    ("DDIMScheduler", {"prediction_type": "v_prediction"}, Euler(), 1e-6),
    ("DDIMScheduler", {"prediction_type": "sample"}, Euler(), 1e-6),
    ("DDIMParallelScheduler", {}, Euler(), 1e-6),
    ("DPMSolverMultistepScheduler", KARRAS, DPMSolver2M(), 1e-6),
    ("DPMSolverMultistepScheduler", {**KARRAS, "solver_order": 1}, Euler(), 1e-6),
    ("EDMDPMSolverMultistepScheduler", {}, DPMSolver2M(), 1e-6),
    ("DEISMultistepScheduler", KARRAS, DEIS(2), 1e-3),  # float32 coefficients near σ_min
    ("LMSDiscreteScheduler", KARRAS, DEIS(4, rho=1.0), 1e-3),  # integrates to 1e-4, it says
]


@pytest.mark.parametrize(("name", "options", "solver", "tolerance"), COUNTERPARTS)
def test_a_driven_joint_is_sampled_as_by_our_solver(
    name: str, options: dict, solver: Solver, tolerance: float
) -> None:
    scheduler = getattr(schedulers, name)(**options)
    scheduler.set_timesteps(12)
    x, latents, sigmas = start(scheduler)
    driven = drive(TARGET.score, scheduler, x=latents)
    assert (driven - sample(TARGET.score, sigmas, x=x, solver=solver)).abs().max() < tolerance


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_joint_driven_by_flow_matching_is_sampled_by_euler(shift: float) -> None:
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(0.99, 0.01, 12).tolist())
    x, latents, sigmas = start(scheduler)
    driven = drive(TARGET.score, scheduler, x=latents)
    assert (driven - sample(TARGET.score, sigmas, x=x, solver=Euler())).abs().max() < 1e-6


def affine_law(scheduler: object, steps: int) -> float:
    """Error of mean and covariance, of a scheduler that draws no noise of its own."""
    rows = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
    prepared = type(scheduler).from_config(scheduler.config)
    prepared.set_timesteps(steps)
    scale = float(getattr(prepared, "init_noise_sigma", 1.0))
    out = drive(TARGET.score, scheduler, steps=steps, x=scale * rows)
    columns = out[1:] - out[0]
    return float((columns.T @ columns - TARGET.covariance).norm() + (out[0] - TARGET.mean).norm())


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
CONVERGENT: list[tuple[str, dict, float]] = [
    ("PNDMScheduler", {}, 0.02),
    ("PNDMScheduler", {"skip_prk_steps": True}, 0.02),
    ("UniPCMultistepScheduler", KARRAS, 0.02),
    ("UniPCMultistepScheduler", FLOW, 0.02),
    ("DPMSolverSinglestepScheduler", {}, 0.02),
    ("DPMSolverSinglestepScheduler", FLOW, 0.02),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}, 0.02),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, 0.02),
    ("DPMSolverMultistepScheduler", FLOW, 0.02),
    ("DEISMultistepScheduler", {"solver_order": 3}, 0.02),
    ("KDPM2DiscreteScheduler", {"beta_start": 1e-4, "beta_end": 0.02}, 0.02),
    ("IPNDMScheduler", {}, 0.02),
    ("FlowMatchEulerDiscreteScheduler", {}, 0.06),
    ("FlowMatchHeunDiscreteScheduler", {}, 0.002),
    ("CogVideoXDDIMScheduler", {}, 0.15),
    ("DDIMScheduler", {"timestep_spacing": "trailing"}, 0.15),
]


@pytest.mark.parametrize(("name", "options", "error"), CONVERGENT)
def test_a_driven_joint_converges_to_its_distribution(
    name: str, options: dict, error: float
) -> None:
    scheduler = getattr(schedulers, name)(**options)
    coarse, fine = affine_law(scheduler, 20), affine_law(scheduler, 80)
    assert fine < error
    assert fine < coarse


STOCHASTIC: list[tuple[str, dict]] = [
    ("DDPMScheduler", {}),
    ("DDPMScheduler", {"prediction_type": "v_prediction", "variance_type": "learned_range"}),
    ("DDPMParallelScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
]


@pytest.mark.parametrize(("name", "options"), STOCHASTIC)
def test_ancestral_schedulers_have_the_law_of_our_sde(name: str, options: dict) -> None:
    scheduler = getattr(schedulers, name)(**options)
    scheduler.set_timesteps(20)
    n, sigmas = 4000, from_scheduler(scheduler)
    variance = sigmas[0] ** 2 + (name != "EulerAncestralDiscreteScheduler")
    law = distribution_reached(
        TARGET.score, sigmas, Gaussian(torch.zeros(2).double(), variance * torch.eye(2)), SDE(1.0)
    )
    x = drive(TARGET.score, scheduler, shape=(n, 2), generator=0, dtype=torch.float64)
    assert (x.mean(dim=0) - law.mean).abs().max() < 4 * (law.covariance.max() / n) ** 0.5
    spread = 4 * law.covariance.max() * (2 / n) ** 0.5
    assert (torch.cov(x.T) - law.covariance).abs().max() < spread
    assert (law.covariance - TARGET.covariance).abs().max() > 2 * spread, (
        "20 steps differ from many"
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SASolverScheduler", {}),
        ("KDPM2AncestralDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ],
)
def test_other_stochastic_schedulers_come_near_the_distribution(name: str, options: dict) -> None:
    n, scheduler = 4000, getattr(schedulers, name)(**options)
    x = drive(TARGET.score, scheduler, steps=40, shape=(n, 2), generator=0, dtype=torch.float64)
    assert (x.mean(dim=0) - TARGET.mean).abs().max() < 0.03 + 4 / n**0.5
    assert (torch.cov(x.T) - TARGET.covariance).abs().max() < 0.02 + 4 * (2 / n) ** 0.5


@pytest.mark.parametrize("name", ["DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"])
def test_schedulers_with_brownian_trees(name: str) -> None:
    pytest.importorskip("torchsde", reason="these schedulers need torchsde")
    scheduler = getattr(schedulers, name)()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchsde, of rounding at the ends
        x = drive(TARGET.score, scheduler, steps=10, shape=(4, 2), generator=0)
        part = drive(
            TARGET.score, scheduler, steps=10, shape=(2, 2), generator=split_seed(0, 4)[:2]
        )
    assert x.isfinite().all()
    torch.testing.assert_close(x[:2], part, rtol=1e-4, atol=1e-4)


def test_composition_comes_before_the_scheduler() -> None:
    """A multistep scheduler driven by a joint of many regions steps once a step, as for one."""
    q = Gaussian(torch.zeros(4).double(), 0.5 * torch.eye(4).double() + 0.5)
    calls = []

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma[0]))
        return q.marginal(torch.arange(x.shape[1])).score(x, sigma)

    scheduler = schedulers.DPMSolverMultistepScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(8)
    sigmas = from_scheduler(scheduler)
    scores = {f"f{i}": counted for i in range(3)}
    scores |= {f"x{i}": lambda x, sigma: -x / (1 + sigma.reshape(-1) ** 2) for i in (1, 2)}
    joint = compose(chain(4), scores)
    x = sigmas[0] * torch.randn(3, 4, dtype=torch.float64)
    driven = drive(joint, scheduler, x=x / math.sqrt(1 + sigmas[0] ** 2))
    assert calls == pytest.approx(sigmas[:-1], rel=1e-6)
    torch.testing.assert_close(
        driven, sample(joint, sigmas, x=x, solver=DPMSolver2M()), rtol=0, atol=1e-6
    )


def test_a_panorama_is_sampled_by_a_scheduler_as_by_our_loop() -> None:
    scheduler = schedulers.DDIMScheduler(prediction_type="v_prediction")
    score = from_diffusers(small_unet(), scheduler)
    ring = tiles((1, 16, 32), (1, 16, 16), (0, 0, 8), periodic=(False, False, True))
    joint = compose(ring, score, max_batch=4)
    scheduler.set_timesteps(4)
    sigmas = from_scheduler(scheduler)
    x = sigmas[0] * torch.randn(1, 1, 16, 32)
    driven = drive(joint, scheduler, x=x / math.sqrt(1 + sigmas[0] ** 2))
    ours = sample(joint, sigmas, x=x, solver=Euler())
    assert (driven - ours).abs().max() < 1e-4 * ours.abs().max()


def test_noise_of_driven_joints_does_not_depend_on_the_batch() -> None:
    for name in ("DDPMScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler"):
        scheduler = getattr(schedulers, name)()

        def draw(n: int, generator: object, scheduler: object = scheduler) -> Tensor:
            return drive(TARGET.score, scheduler, steps=5, shape=(n, 2), generator=generator)

        before = torch.get_rng_state()
        keys, whole = split_seed(7, 4), draw(4, 7)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(whole, torch.cat([draw(1, keys[:1]), draw(3, keys[1:])]))
        assert not torch.equal(whole, draw(4, 8))


def test_the_start_is_that_of_our_loop() -> None:
    scheduler = schedulers.EulerDiscreteScheduler()
    scheduler.set_timesteps(6)
    ours = sample(
        TARGET.score, from_scheduler(scheduler), shape=(3, 2), solver=Euler(), generator=5
    )
    torch.testing.assert_close(
        drive(TARGET.score, scheduler, shape=(3, 2), generator=5), ours, rtol=0, atol=1e-4
    )


def test_the_scheduler_is_left_alone_and_does_not_clip() -> None:
    scheduler = schedulers.DDPMScheduler(clip_sample=True)  # the default
    config, timesteps = dict(scheduler.config), scheduler.timesteps.clone()
    far = from_denoiser(lambda x, sigma: 0 * x + 5.0)
    out = drive(far, scheduler, steps=10, shape=(2, 3), generator=0)
    torch.testing.assert_close(out, torch.full((2, 3), 5.0))
    assert dict(scheduler.config) == config
    assert torch.equal(scheduler.timesteps, timesteps)
    with pytest.raises(PgmdiffError, match="set_timesteps was just called"):
        drive(far, scheduler, shape=(2, 3))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FlowMatchEulerDiscreteScheduler", {}),
        (
            "DDIMScheduler",
            {
                "rescale_betas_zero_snr": True,
                "timestep_spacing": "trailing",
                "prediction_type": "v_prediction",
            },
        ),
    ],
)
def test_starts_of_pure_noise_are_asked_at_a_large_sigma(name: str, options: dict) -> None:
    levels = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        levels.append(float(sigma[0]))
        return TARGET.score(x, sigma)

    scheduler = getattr(schedulers, name)(**options)
    x = drive(watched, scheduler, steps=40, shape=(4000, 2), generator=0, dtype=torch.float64)
    assert levels[0] == SIGMA_LIMIT
    assert all(a > b for a, b in pairwise(levels))
    assert (x.mean(dim=0) - TARGET.mean).abs().max() < 0.02 + 4 / len(x) ** 0.5


def test_what_cannot_be_driven_is_named() -> None:
    score, shape = TARGET.score, {"shape": (1, 2)}
    for call, error, message in [
        (
            lambda: drive(score, schedulers.UnCLIPScheduler(), steps=4, **shape),
            ScoreError,
            "steps by",
        ),
        (
            lambda: drive(score, schedulers.DDIMInverseScheduler(), steps=4, **shape),
            ScoreError,
            "adds noise",
        ),
        (
            lambda: drive(score, schedulers.CMStochasticIterativeScheduler(), steps=4, **shape),
            ScoreError,
            "got None",
        ),
        (lambda: drive(score, schedulers.DDPMScheduler(), steps=4), ShapeError, "x= or shape="),
        (
            lambda: drive(score, schedulers.DDPMScheduler(), steps=4, dtype=torch.half, **shape),
            PgmdiffError,
            "float32 or float64",
        ),
    ]:
        with pytest.raises(error, match=message):
            call()


# ---------------------------------------------------------------- latents


def test_an_autoencoder_decodes_and_says_that_it_sees_everything() -> None:
    vae = (
        AutoencoderKL(
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            scaling_factor=0.5,
            shift_factor=0.1,
        )
        .eval()
        .requires_grad_(False)
    )
    latents = torch.randn(1, 4, 8, 24)
    decoder = from_vae(vae)
    whole = vae.decode(latents / 0.5 + 0.1).sample
    torch.testing.assert_close(decoder(latents), whole)
    with pytest.raises(ShapeError, match="attends over the whole image"):
        receptive_margin(decoder, 4, size=16)
    at_once = decode(decoder, latents, window=(8, 24), margin=4)
    torch.testing.assert_close(at_once, whole)
    blended = decode(decoder, latents, window=(8, 8), margin=4, blend=True)
    assert blended.shape == whole.shape
    steps = (blended[..., 1:] - blended[..., :-1]).abs().mean(dim=(0, 1, 2))
    assert steps[[15, 31]].max() < 3 * steps.mean(), "no seam where windows meet"
