"""Scores from networks of the real diffusers, tiny ones with random weights."""

import pytest
import torch
from torch import Tensor

from pgmdiff import ScoreError, ShapeError, compose
from pgmdiff.graphs import tiles
from pgmdiff.images.latents import decode, receptive_margin
from pgmdiff.integrations.diffusers import from_diffusers, from_vae
from pgmdiff.integrations.shared import check_device
from pgmdiff.samplers import karras, sample
from pgmdiff.scores.adapters import Timesteps, denoise
from pgmdiff.scores.guidance import guided
from tests.integrations.with_diffusers import (
    MARKS,
    TARGET,
    diffusers,
    reproducible,  # noqa: F401
    schedulers,
    small_unet,
)

pytestmark = MARKS
U = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGMA = torch.tensor([0.02, 0.1, 0.5, 1.0, 10.0, 100.0], dtype=torch.float64)
X = U * SIGMA[:, None]
KINDS = ("epsilon", "sample", "v_prediction")


def exact(kind: str, x_t: Tensor, sigma: Tensor, alpha: Tensor) -> Tensor:
    """The prediction of a perfect network for the target."""
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


@pytest.mark.parametrize("name", ["Euler", "EulerAncestral", "DDIM", "DDPM"])
def test_networks_without_a_terminal_signal(name: str) -> None:
    """Some schedulers write 2^-24 for it, which is more than the signal one timestep before."""
    full = name if name[0] == "D" else f"{name}Discrete"
    options = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    scheduler = getattr(schedulers, f"{full}Scheduler")(**options)
    times = Timesteps(scheduler.alphas_cumprod[:-1].double().tolist())

    def network(x_t: Tensor, timestep: Tensor) -> Tensor:
        sigma = times.sigmas(timestep)
        return exact("v_prediction", x_t, sigma, (1 + sigma**2).rsqrt())

    score = from_diffusers(network, scheduler)
    torch.testing.assert_close(score(X, SIGMA), TARGET.score(X, SIGMA), rtol=1e-6, atol=1e-6)


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


def conditioned_unet() -> torch.nn.Module:
    return (
        diffusers.UNet2DConditionModel(
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


def test_twice_the_channels_are_known_by_the_output() -> None:
    """A scheduler made for sampling need not say that variances were learned."""
    unet, x = small_unet(out_channels=2), torch.randn(2, 1, 16, 16)
    score = from_diffusers(unet, schedulers.DDIMScheduler())
    first = from_diffusers(lambda *g, **c: unet(*g, **c).sample[:, :1], schedulers.DDIMScheduler())
    assert torch.equal(score(x, torch.ones(2)), first(x, torch.ones(2)))
    with pytest.raises(ScoreError, match=r"got shape \(2, 3, 16, 16\)"):
        from_diffusers(small_unet(out_channels=3), schedulers.DDIMScheduler())(x, torch.ones(2))


def test_a_network_that_diffusers_offloads_by_groups() -> None:
    hooks = pytest.importorskip("diffusers.hooks")
    unet, x = small_unet(), torch.zeros(2, 1, 16, 16, device="meta")
    with pytest.raises(ScoreError, match="is on cpu"):
        check_device(unet, x)
    hooks.apply_group_offloading(unet, torch.device("cpu"), offload_type="leaf_level")
    check_device(unet, x)


def test_a_diffusion_transformer_with_learned_variances() -> None:
    dit = (
        diffusers.DiTTransformer2DModel(
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
        diffusers.SD3Transformer2DModel(
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
        (lambda: from_diffusers(ddpm, network), "got the scheduler DDPMScheduler"),
        (
            lambda: from_diffusers(diffusers.DDPMPipeline(network, ddpm), ddpm),
            r"got the pipeline DDPMPipeline. Give pipeline\.unet, and",
        ),
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


def small_vae(**options: object) -> torch.nn.Module:
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.5,
        **options,
    )
    return vae.eval().requires_grad_(False)


def test_latents_are_scaled_by_their_mean_and_deviation() -> None:
    mean, std = (1.0, -2.0, 3.0, 0.5), (2.0, 1.0, 0.5, 3.0)
    latents = torch.randn(2, 4, 8, 8)
    m, s = (torch.tensor(each)[:, None, None] for each in (mean, std))
    plain, buffered = small_vae(), small_vae()
    expected = plain.decode(latents * s / 0.5 + m).sample
    buffered._buffers |= {"latents_mean": m.flatten(), "latents_std": s.flatten()}  # as of LTX
    for vae in (small_vae(latents_mean=mean, latents_std=std), buffered):
        vae.load_state_dict(plain.state_dict(), strict=False)
        torch.testing.assert_close(from_vae(vae)(latents), expected)
        with pytest.raises(ShapeError, match="expected latents of 4 channels, as latents_std"):
            from_vae(vae)(latents[:, :3])


def test_an_autoencoder_in_half_precision_does_not_overflow() -> None:
    """Where diffusers would decode in float32, so does the decoder, and the weights stay half."""
    vae = small_vae()
    vae.decoder.conv_in.weight.mul_(3e5)
    latents, half = torch.randn(1, 4, 8, 8), vae.half()
    expected = half.float().decode(latents / 0.5).sample
    half = vae.half()
    assert half.decode((latents / 0.5).half()).sample.isnan().any()
    torch.testing.assert_close(from_vae(half)(latents), expected)
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    half.register_to_config(force_upcast=False)
    with pytest.raises(ScoreError, match=r"AutoencoderKL .* torch.float16 is not finite. Use vae"):
        from_vae(half)(latents)


def test_an_autoencoder_decodes_and_says_that_it_sees_everything() -> None:
    vae = small_vae(shift_factor=0.1)
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
