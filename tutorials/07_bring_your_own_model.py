# %% [markdown]
# # Bring your own model
#
# A model of pieces is any callable
#
# $$\texttt{score(x, sigma, **condition)} \approx \nabla \log q_\sigma(x),$$
#
# where `x` has shape `[batch, *shape]` and consists of data to which noise was *added*
# ($x = x_0 + \sigma \varepsilon$), and `sigma` has shape `[batch]`. Nothing has to be registered or
# subclassed. This tutorial trains a plain torch module in a few seconds, composes it, and steers
# its pieces one by one. Then it does the same with a UNet of diffusers and a denoiser of azula, and
# shows the errors that you are likely to meet.

# %%
import math
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from textwrap import fill

import matplotlib.pyplot as plt
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from torch import Tensor, nn

from pgmdiff import (
    Gaussian,
    PgmdiffError,
    check_consistency,
    compose,
    from_denoiser,
    from_eps,
    from_flow,
    from_vp_eps,
    from_vp_sample,
    from_vp_v,
    karras,
    sample,
    tiles,
)
from pgmdiff.diagnostics import seam_ratio
from pgmdiff.graphs import chain
from pgmdiff.plotting import curves
from pgmdiff.samplers import DPMSolver2M, from_scheduler
from pgmdiff.scores import Timesteps, guided, interpolated
from pgmdiff.training import denoising_loss, random_crops

torch.set_num_threads(1)  # for networks this small, several threads are slower than one

BLUE, ORANGE, GREEN, GREY, INK = "#2f7fbd", "#dd7a1f", "#3f9b57", "#8a8f94", "#2b2b2b"

# %% [markdown]
# ## What does your network predict?
#
# Few networks return scores. The adapters turn what a network predicts into a score:
#
# | it predicts | from | adapter |
# |---|---|---|
# | $x_0$ | $x_0 + \sigma \varepsilon$ (EDM, k-diffusion) | `from_denoiser` |
# | $\varepsilon$ | the same | `from_eps` |
# | $\varepsilon$ | $\alpha_t x_0 + \sigma_t \varepsilon$ (DDPM) | `from_vp_eps` |
# | $x_0$ | the same | `from_vp_sample` |
# | $v = \alpha_t \varepsilon - \sigma_t x_0$ | the same | `from_vp_v` |
# | $\varepsilon - x_0$ | $(1 - t) x_0 + t \varepsilon$ (flow matching) | `from_flow` |
#
# The wrong adapter raises no error; it only gives bad samples. So test it where you know the
# answer. For data $x_0 \sim N(0, s^2)$ each of these networks, trained perfectly, is a single
# formula, and all six must give the same score.

# %%
s2 = 0.49
data = Gaussian(torch.zeros(3).double(), s2 * torch.eye(3).double())
ddpm = Timesteps(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000).double(), 0).tolist())


def ddpm_levels(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """α_t, σ_t, and the variance of x_t, for timesteps `[batch]`."""
    sigma = ddpm.sigmas(t)[:, None]
    alpha = (1 + sigma**2).rsqrt()
    return alpha, alpha * sigma, alpha**2 * (s2 + sigma**2)


def predicts_x0(x_t: Tensor, t: Tensor) -> Tensor:
    alpha, _, variance = ddpm_levels(t)
    return alpha * s2 / variance * x_t


def predicts_eps(x_t: Tensor, t: Tensor) -> Tensor:
    _, sigma_t, variance = ddpm_levels(t)
    return sigma_t / variance * x_t


def predicts_v(x_t: Tensor, t: Tensor) -> Tensor:
    alpha, sigma_t, _ = ddpm_levels(t)
    return alpha * predicts_eps(x_t, t) - sigma_t * predicts_x0(x_t, t)


def predicts_velocity(x_t: Tensor, t: Tensor) -> Tensor:
    t = t[:, None]
    return (t - (1 - t) * s2) / ((1 - t) ** 2 * s2 + t**2) * x_t


adapted = {
    "from_denoiser": from_denoiser(lambda x, s: s2 / (s2 + s[:, None] ** 2) * x),
    "from_eps": from_eps(lambda x, s: s[:, None] / (s2 + s[:, None] ** 2) * x),
    "from_vp_eps": from_vp_eps(predicts_eps, ddpm),
    "from_vp_sample": from_vp_sample(predicts_x0, ddpm),
    "from_vp_v": from_vp_v(predicts_v, ddpm),
    "from_flow": from_flow(predicts_velocity),
}
x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()
sigmas = [torch.full((4,), level).double() for level in (0.05, 1.0, 20.0)]
for name, score in adapted.items():
    error = max((score(x, s) / data.score(x, s) - 1).abs().max().item() for s in sigmas)
    print(f"{name:15} largest relative error of the score: {error:.0e}")
    assert error < 1e-8

# %% [markdown]
# `Timesteps` finds the timestep of a noise level by interpolation, never by rounding. Replace these
# formulas with your own network to test its adapter: for data with known mean and variance, the
# error should be no larger than that of the network.
#
# ## A network of your own
#
# We need something to learn: curves in the plane that run at unit speed and turn, sometimes more
# and sometimes less. The state is the velocity, of shape `[2, length]`; its cumulative sum draws
# the curve.


# %%
def make_curves(n: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Velocities `[n, 2, length]`, and turns in radians per step, `[n, length]`."""
    generator = torch.Generator().manual_seed(seed)
    kept, skipped = math.exp(-1 / 30), 100  # the turn is remembered for about 30 steps
    turn = torch.zeros(n, skipped + length)
    for t in range(1, skipped + length):
        kick = 0.12 * math.sqrt(1 - kept**2) * torch.randn(n, generator=generator)
        turn[:, t] = kept * turn[:, t - 1] + kick
    turn = turn[:, skipped:]
    heading = 2 * math.pi * torch.rand(n, 1, generator=generator) + turn.cumsum(dim=1)
    return torch.stack([heading.cos(), heading.sin()], dim=1), turn


LENGTH = 128
velocities, turns = make_curves(2000, LENGTH, seed=0)


# %% alt="Three winding curves in the plane; colours mark pieces of 16 steps"
def draw(ax, velocity: Tensor, colours=None, every: int = 8) -> None:
    """Draws the curve with these velocities `[2, length]`, in pieces of one colour each."""
    path = torch.cat([torch.zeros(2, 1), velocity.cumsum(dim=1)], dim=1)
    for k, start in enumerate(range(0, velocity.shape[1], every)):
        part = path[:, start : start + every + 1]
        ax.plot(*part, color=INK if colours is None else colours[k], lw=1.6)
    ax.plot(*path[:, 0], "o", color=INK, ms=4)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel("x")
    ax.spines[["top", "right"]].set_visible(False)


def draw_several(velocity: Tensor, title: str) -> None:
    _, axes = plt.subplots(1, len(velocity), figsize=(9, 3.2), layout="constrained")
    for ax, one in zip(axes, velocity, strict=True):
        draw(ax, one, [BLUE, GREEN] * 8, every=16)
    axes[0].set_ylabel("y")
    axes[0].figure.suptitle(title, fontsize=10)


draw_several(velocities[:3], "Data: curves of 128 steps (the colours mark pieces of 16)")

# %% [markdown]
# The network is an ordinary module: convolutions that depend on the noise level and on a condition.
# Around it we build a denoiser in the form of EDM (Karras et al., 2022), with $\sigma_d$ the
# standard deviation of the data:
#
# $$D(x, \sigma) = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}\, x
# + \frac{\sigma \sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}\;
# F\Big(\frac{x}{\sqrt{\sigma^2 + \sigma_d^2}}, \log \sigma\Big).$$
#
# The condition `turn` says how much a piece turns on average. It is embedded as two numbers on a
# circle; two zeros mean that nothing is known.

# %%
STD = math.sqrt(0.5)  # standard deviation of one component of a unit vector


class Convolutions(nn.Module):
    """F(x, log σ, turn): x `[batch, 2, any length]`, log σ `[batch]`, turn `[batch, 2]`."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(-2, 3))
        self.modulation = nn.Linear(12, 3 * width)
        self.enter = nn.Conv1d(2, width, 5, padding=2)
        self.hidden = nn.ModuleList(
            nn.Conv1d(width, width, 5, padding=2 * d, dilation=d) for d in (1, 2, 2)
        )
        self.leave = nn.Conv1d(width, 2, 5, padding=2)

    def forward(self, x: Tensor, log_sigma: Tensor, turn: Tensor) -> Tensor:
        angles = log_sigma[:, None] * self.frequencies
        shifts = self.modulation(torch.cat([angles.sin(), angles.cos(), turn], dim=1))
        h = self.enter(x)
        for convolution, shift in zip(self.hidden, shifts[:, :, None].chunk(3, dim=1), strict=True):
            h = h + convolution(nn.functional.silu(h + shift))
        return self.leave(nn.functional.silu(h))


class Curves(nn.Module):
    """`denoise(x, sigma, turn)`: x `[batch, 2, any length]`, sigma `[batch]`, turn `[batch, 2]`."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Convolutions()

    def forward(self, x: Tensor, sigma: Tensor, turn: Tensor) -> Tensor:
        s = sigma[:, None, None]
        total = s**2 + STD**2
        output = self.network(x / total.sqrt(), sigma.log(), turn)
        return STD**2 / total * x + s * STD / total.sqrt() * output


def embedded(turn: Tensor | float) -> Tensor:
    angle = 4 * torch.as_tensor(turn)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


NOTHING = torch.zeros(2)

# %% [markdown]
# Composition divides by what the model says about the overlaps. A network that has seen pieces of
# one length only knows nothing about shorter ones. So we train on **crops of both lengths** from
# the same data (DiffCollage's Algorithm 6), here 16 and 8. In one third of the cases we leave out
# the condition, as classifier-free guidance requires.


# %%
def crops(generator: torch.Generator, length: int, n: int) -> tuple[Tensor, Tensor]:
    """Pieces of curves `[n, 2, length]` and their mean turns `[n]`."""
    which = torch.randint(len(velocities), (n, 1), generator=generator)
    first = torch.randint(LENGTH - length + 1, (n, 1), generator=generator)
    places = first + torch.arange(length)
    return velocities[which, :, places].movedim(1, 2), turns[which, places][:, 1:].mean(dim=1)


def train(module: nn.Module, loss_at: Callable[[int], Tensor], steps: int) -> list[float]:
    """Minimises `loss_at(step)` with Adam; returns the losses, averaged over 100 steps each."""
    optimizer = torch.optim.Adam(module.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, steps, pct_start=0.1)
    losses = []
    for step in range(steps):
        loss = loss_at(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    module.eval().requires_grad_(False)
    return torch.tensor(losses).unfold(0, 100, 100).mean(dim=1).tolist()


torch.manual_seed(0)
network, generator = Curves(), torch.Generator().manual_seed(1)


def loss_at(step: int) -> Tensor:
    clean, turn = crops(generator, (16, 8, 16)[step % 3], 64)
    known = torch.rand(len(clean), 1, generator=generator) < 2 / 3
    condition = embedded(turn) * known
    return denoising_loss(
        lambda x, sigma: network(x, sigma, condition),
        clean,
        sigma_data=STD,
        p_mean=-0.8,
        p_std=1.4,
        generator=generator,
    )


losses = train(network, loss_at, 700)
print(
    f"weighted denoising loss: {losses[0]:.2f} in the first 100 steps, {losses[-1]:.2f} in the last"
)
assert losses[-1] < 0.35

# %% [markdown]
# (An untrained network of this form has a loss of about 1.)
#
# ## Compose, sample, look
#
# Windows of 16 steps with overlaps of 8 cover a curve of 128. One callable serves them all. It is
# called once for all windows and once for all overlaps.

# %%
strip = tiles((2, LENGTH), (2, 16), (0, 8))
windows = strip.pieces
score = from_denoiser(network)
unknown = {name: {"turn": NOTHING} for name in strip.names}
joint = compose(strip, score, conditions=unknown)
print(joint)

# %% alt="Three sampled curves of 128 steps, smooth and winding like the data"
solver = DPMSolver2M(eta=1.0, rho=7.0)


def sampled(joint, n: int = 64) -> Tensor:
    return sample(joint, karras(24, 0.01, 20.0), shape=(n, 2, LENGTH), solver=solver, generator=0)


made = sampled(joint)
draw_several(made[:3], "Samples: 15 windows of 16 steps, sampled as one curve")


# %% [markdown]
# Do the windows fit together? A curve of unit speed has the same speed everywhere, and it should
# turn as much at the ends of windows as elsewhere.


# %%
def turning(velocity: Tensor) -> Tensor:
    """Turns in radians per step, `[n, length - 1]`."""
    heading = torch.atan2(velocity[:, 1], velocity[:, 0])
    return (heading.diff(dim=1) + math.pi) % (2 * math.pi) - math.pi


ends = torch.arange(8, LENGTH, 8) - 1  # steps across which a window begins or ends
print(f"{'':8} {'speed':>14} {'turn at ends':>13} {'elsewhere':>10}")
for name, v in {"data": velocities, "samples": made}.items():
    size = turning(v).abs().mean(dim=0)
    inside = torch.ones_like(size, dtype=torch.bool)
    inside[ends] = False
    speed = v.norm(dim=1)
    print(
        f"{name:8} {speed.mean():6.3f} ± {speed.std():5.3f} {size[ends].mean():13.3f} "
        f"{size[inside].mean():10.3f}"
    )
    assert abs(speed.mean() - 1) < 0.02
    assert size[ends].mean() < 1.15 * size[inside].mean()

# %% [markdown]
# A different rule does not need a different network. `Consistent` requires covariances of the
# pieces, and these come from data: `rule=Consistent(fit_covariances(strip, velocities,
# shared=True))`. Tutorial 05 explains what it gains, and where it stops.
#
# ## Do pieces and overlaps agree?
#
# `check_consistency` tests whether the models of pieces and overlaps are marginals of one
# distribution. The column to look at is `excess`, the share of their disagreement that should not
# be there. We compare our network with one whose overlaps were prepared in other units, a mistake
# that is easily made.


# %%
def wrong_units(x: Tensor, sigma: Tensor, turn: Tensor) -> Tensor:
    """Trained on data that someone multiplied by 1.3."""
    return 1.3 * network(x / 1.3, sigma / 1.3, turn)


for name, overlap in {"one network": network, "overlaps in other units": wrong_units}.items():
    models = {(2, 16): score, (2, 8): from_denoiser(overlap)}  # by model id: here, the shape
    found = check_consistency(strip, models, velocities[:200], conditions=unknown, generator=0)
    excess = {round(row.sigma, 2): round(row.excess, 3) for row in found.rows}
    print(f"{name}: excess by σ: {excess}")
    worst = max(row.excess for row in found.rows)
    assert worst < 0.25 if overlap is network else worst > 0.4
print(found)

# %% [markdown]
# A network that was trained for seconds is not exactly consistent either, and with enough data the
# test detects it. So the standard errors tell you whether a disagreement is significant, and
# `excess` tells you how large it is.
#
# ## A condition for every piece
#
# Conditions belong to nodes: `conditions={name: {keyword: tensor}}`, without a batch axis. Let the
# first window turn left by 0.25 radians per step and the last one right by as much, with an even
# transition between them. `interpolated` moves along the circle of embeddings from one end to the
# other. The overlaps get no condition; `unknown` lists them with the embedding that means so.

# %%
asked = torch.linspace(0.25, -0.25, len(windows))
plan = interpolated(windows, "turn", embedded(0.25), embedded(-0.25))
by_hand = torch.stack([plan[name]["turn"] for name in windows])
assert torch.allclose(by_hand, embedded(asked), atol=1e-6)


def steered(w: float) -> Tensor:
    """Curves with classifier-free guidance of scale w on every window; 1 means no guidance."""
    graph_conditions = unknown | {
        name: {**condition, "guidance": torch.tensor(w)} for name, condition in plan.items()
    }
    followed = guided(score, {"turn": NOTHING})
    return sampled(compose(strip, followed, conditions=graph_conditions))


steered_curves = {w: steered(w) for w in (1.0, 2.0)}


# %% alt="Two curves that begin as a left spiral and end as a right one, coloured by condition"
def by_window(velocity: Tensor) -> Tensor:
    """The mean turn within each window, `[n, windows]`."""
    return turning(velocity).unfold(1, 15, 8).mean(dim=2)


def show_steered() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    colour_of = LinearSegmentedColormap.from_list("", [BLUE, "#d9dcdf", ORANGE])
    colours = [colour_of(0.5 - 2 * turn) for turn in asked.tolist()]
    for ax, (w, velocity) in zip(axes, steered_curves.items(), strict=True):
        turned = by_window(velocity)
        typical = (turned - turned.mean(dim=0)).square().sum(dim=1).argmin()
        draw(ax, velocity[typical], [*colours, colours[-1]])
        ax.set_title(f"guidance w = {w:g}", loc="left", fontsize=10)
        ax.set_ylabel("y")
    scale = ScalarMappable(Normalize(-0.25, 0.25), colour_of.reversed())
    figure.colorbar(scale, ax=axes, label="requested turn, radians per step", shrink=0.8)
    figure.suptitle("A condition for every window: the sample closest to the average", fontsize=11)


show_steered()

# %% [markdown]
# A spiral unwinds and winds up the other way. No window has ever seen such a curve. Does it turn as
# requested? Here is the average over 64 samples:

# %% alt="Turn by window: near both ends w = 1 turns less than requested, w = 2 somewhat more"
numbers = list(range(1, len(windows) + 1))
lines = {"requested": (numbers, asked.tolist())}
for w, velocity in steered_curves.items():
    lines[f"sampled, w = {w:g}"] = (numbers, by_window(velocity).mean(dim=0).tolist())
for w in steered_curves:
    assert abs(by_window(steered_curves[w]).mean(dim=0) - asked).max() < 0.08
assert by_window(steered_curves[2.0]).mean(dim=0)[0] > by_window(steered_curves[1.0]).mean(dim=0)[0]
curves(
    lines,
    xlabel="window",
    ylabel="turn, radians per step",
    title="Requested and sampled turns",
    log="",
)

# %%
for w, velocity in steered_curves.items():
    spread = by_window(velocity).std(dim=0).mean()
    speed = velocity.norm(dim=1).std()
    print(f"w = {w:g}: standard deviation of the turn {spread:.3f}, of the speed {speed:.3f}")

# %% [markdown]
# Without guidance the outer windows turn less than requested, because the overlaps have no
# condition and describe curves in general, which are straighter. With $w = 2$ they turn somewhat
# more, and vary less. Guidance is a heuristic: for $w \ne 1$ the result is no longer the score of a
# noised distribution, and the speed becomes somewhat less accurate.
#
# ## A UNet of diffusers
#
# In diffusers the scheduler stores what its network predicts, so `from_diffusers(model, scheduler)`
# needs nothing else. We train a tiny `UNet2DModel` for a few seconds, in the way of diffusers, on
# crops of a smooth random image: 16 × 16 pixels for windows and 16 × 8 for overlaps.

# %%
HAS_DIFFUSERS = find_spec("diffusers") is not None


def smooth_image(side: int, seed: int) -> Tensor:
    """A random field of variance 1/4, correlated over a few pixels: `[1, side, side]`."""
    noise = torch.randn(side, side, generator=torch.Generator().manual_seed(seed))
    k = torch.fft.fftfreq(side)
    low = torch.exp(-((k[:, None] ** 2 + k**2) * 2 * math.pi**2 * 3.0**2))
    field = torch.fft.ifft2(torch.fft.fft2(noise) * low).real
    return 0.5 * (field / field.std())[None]


image = smooth_image(256, seed=0)
if HAS_DIFFUSERS:
    with warnings.catch_warnings():  # tqdm warns if notebook widgets are missing
        warnings.simplefilter("ignore")
        from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        in_channels=1,
        out_channels=1,
        block_out_channels=(16,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=8,
        add_attention=False,
    )
    scheduler = DDPMScheduler(prediction_type="v_prediction")
    generator = torch.Generator().manual_seed(0)

    def unet_loss_at(step: int) -> Tensor:
        clean = random_crops(image, ((16, 16), (16, 8))[step % 2], 16, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        t = torch.randint(1000, (len(clean),), generator=generator)
        noisy = scheduler.add_noise(clean, noise, t)
        velocity = scheduler.get_velocity(clean, noise, t)
        return (unet(noisy, t).sample - velocity).square().mean()

    losses = train(unet, unet_loss_at, 200)
    parameters = sum(p.numel() for p in unet.parameters())
    print(f"{parameters} parameters, loss in the last 100 steps {losses[-1]:.3f}")
else:
    print("skipped, because diffusers is not installed: pip install 'pgmdiff[diffusers]'")

# %% [markdown]
# The joint is composed as before. It can be sampled with one of our solvers, or with a scheduler of
# diffusers: `drive` evaluates the composed score and lets the scheduler take the step. With the
# same levels and the same initial noise, the two versions of DPM-Solver++ give the same samples.

# %%
if HAS_DIFFUSERS:
    from pgmdiff.integrations.diffusers import drive, from_diffusers

    wide = tiles((1, 16, 96), (1, 16, 16), (0, 0, 8))
    picture = compose(wide, from_diffusers(unet, scheduler), max_batch=16)
    theirs = DPMSolverMultistepScheduler(use_karras_sigmas=True)
    driven = drive(picture, theirs, steps=20, shape=(4, 1, 16, 96), generator=0)
    theirs.set_timesteps(20)
    ours = sample(
        picture,
        from_scheduler(theirs),
        shape=(4, 1, 16, 96),
        solver=DPMSolver2M(),
        generator=0,
    )
    difference = ((driven - ours).abs().max() / ours.abs().max()).item()
    print(f"relative difference between their solver and ours: {difference:.1e}")
    print(f"standard deviation: data {image.std():.2f}, samples {driven.std():.2f}")
    seams = range(8, 96, 8)  # columns where a window begins or ends
    print(f"seam ratio: {seam_ratio(driven, seams):.2f} (1 means that the seams are invisible)")
    assert difference < 1e-3
    assert abs(seam_ratio(driven, seams) - 1) < 0.2

# %% alt="A strip of the smooth random image, and a similar sampled strip of 16 × 96 pixels"
if HAS_DIFFUSERS:
    rows = {"data": image[:, 40:56, :96], "sample, by a scheduler of diffusers": driven[0]}
    _, axes = plt.subplots(2, 1, figsize=(9, 3.8), layout="constrained")
    for ax, (name, shown) in zip(axes, rows.items(), strict=True):
        ax.imshow(shown[0], cmap="gray", vmin=-1.5, vmax=1.5)
        ax.set_title(name, loc="left", fontsize=10)
        ax.axis("off")

# %% [markdown]
# After a few seconds of training the sample is grainy in places. But its blobs continue from window
# to window, and steps across the ends of windows are hardly larger than others, as the seam ratio
# shows.
#
# ## A denoiser of azula
#
# Denoisers of azula contain their schedule, so `from_azula(denoiser)` is a score. Here azula trains
# a model of the pieces of our curves, with a loss of its own, and we compose it with *our* network
# for the overlaps. The models in a joint need not come from the same library, but they must
# describe the same distribution.

# %%
HAS_AZULA = find_spec("azula") is not None
if HAS_AZULA:
    from azula.denoise import KarrasDenoiser
    from azula.noise import VESchedule
    from azula.sample import DDIMSampler

    from pgmdiff.integrations.azula import from_azula, to_azula

    class Backbone(nn.Module):
        """b(x, log σ) as azula expects it, with x scaled to variance 1."""

        def __init__(self) -> None:
            super().__init__()
            self.network = Convolutions()

        def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
            return self.network(x, log_sigma.expand(len(x)), NOTHING.expand(len(x), 2))

    levels = VESchedule(1e-2, 2e1)  # σ from 0.01 to 20, evenly in log σ
    torch.manual_seed(0)  # azula draws from torch's global generator
    theirs = KarrasDenoiser(Backbone(), levels)
    generator = torch.Generator().manual_seed(2)

    def azula_loss_at(step: int) -> Tensor:
        clean, _ = crops(generator, 16, 64)
        return theirs.loss(clean, torch.rand(len(clean), generator=generator))

    losses = train(theirs, azula_loss_at, 700)
    print(f"azula's loss in the last 100 steps: {losses[-1]:.2f}")
else:
    print("skipped, because azula is not installed: pip install 'pgmdiff[azula]'")

# %% alt="Three curves, sampled by azula from a joint of azula's pieces and our overlaps"
if HAS_AZULA:
    overlaps = {name: c for name, c in unknown.items() if name not in windows}
    mixed = compose(strip, {(2, 16): from_azula(theirs), (2, 8): score}, conditions=overlaps)
    made = sampled(mixed, n=32)
    print(f"our solver:      speed {made.norm(dim=1).mean():.3f} ± {made.norm(dim=1).std():.3f}")
    sampler = DDIMSampler(to_azula(mixed, levels), steps=32, silent=True)
    torch.manual_seed(0)
    by_azula = sampler(sampler.init((32, 2, LENGTH)))
    speed = by_azula.norm(dim=1)
    print(f"azula's sampler: speed {speed.mean():.3f} ± {speed.std():.3f}")
    assert abs(speed.mean() - 1) < 0.1
    draw_several(by_azula[:3], "Pieces by azula, overlaps by our network, sampler DDIM of azula")

# %% [markdown]
# ## Errors you will meet
#
# A model is called with batches of many nodes, deep inside a solver. If something is wrong, the
# message has to say which node it was, what was expected, and what to do. These are the usual
# errors.


# %%
def message(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except PgmdiffError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def not_a_number(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.where(x.sum(dim=1, keepdim=True) > 0, torch.nan, -x)


three = chain(3)
plain = lambda x, sigma: -x / (1 + sigma[:, None] ** 2)  # noqa: E731
middle = lambda x, sigma: -x / (1 + sigma**2)  # noqa: E731
attempts = {
    "a model is missing": lambda: compose(three, {"f0": plain, "f1": plain}),
    "a model returns another shape": lambda: compose(
        three, {"f0": lambda x, s: x.sum(dim=1), "f1": plain, "x1": middle}
    )(torch.ones(2, 3), 1.0),
    "a model returns NaN": lambda: compose(three, {"f0": plain, "f1": not_a_number, "x1": middle})(
        torch.ones(2, 3), 1.0
    ),
    "the state has another shape": lambda: joint(torch.ones(1, 2, 100), 1.0),
    "a condition for an unknown node": lambda: compose(
        three, {"f0": plain, "f1": plain, "x1": middle}, conditions={"f7": {"turn": NOTHING}}
    ),
    "guidance without a condition": lambda: compose(
        strip, guided(score, {"turn": NOTHING}), conditions={windows[0]: {"turn": NOTHING}}
    )(torch.ones(1, 2, LENGTH), 1.0),
}
found_messages = {name: message(attempt) for name, attempt in attempts.items()}
for name, text in found_messages.items():
    print(fill(f"{name}: {text}", 98, subsequent_indent="    "))
assert "no error" not in found_messages.values()
assert "'f1'" in found_messages["a model returns NaN"]

# %% [markdown]
# The output is checked once per call, and only if it is not finite does the joint search for the
# node responsible.
#
# Some mistakes raise no error. The most frequent ones are the wrong adapter or the wrong timesteps
# (test them on a Gaussian, as above); overlaps in other units (use `check_consistency`); a network
# that has never seen the size of the overlaps; and a $\sigma_{\max}$ that is too small for the
# *whole*, which varies more than its pieces. Start well above the spread of the whole.
#
# ## Exercises
#
# 1. Close the curve: `tiles(..., periodic=(False, True))` makes the velocity periodic. Is the path
#    closed as well? Which linear observation closes it? (See tutorial 06.)
# 2. Train on windows of 16 only, and let `scores.padded` stand in for the overlaps. What do
#    `check_consistency` and the speed say?
# 3. Use `fit_covariances(strip, velocities, shared=True)` and `Consistent`. Are the turns of
#    distant windows correlated more like those of the data?
#
# ## Where to go next
#
# "Validate your own topology" (08) is about graphs of your own. The page "Interoperability" of the
# documentation lists everything else that can be connected: k-diffusion, EDM, deepinv, sbi, latents
# with prompts, and half precision.
