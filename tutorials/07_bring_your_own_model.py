# %% [markdown]
# # Bring your own model
#
# A model of pieces is any callable
#
# $$\texttt{score(x, sigma, **condition)} \approx \nabla \log q_\sigma(x),$$
#
# with `x` of `[batch, *shape]` at noise level `sigma` of `[batch]`, on data to which noise was
# *added* ($x = x_0 + \sigma \varepsilon$). Nothing has to be registered or subclassed. This lesson
# trains a plain torch module, in seconds, composes it, and steers its pieces one by one; then a
# UNet of diffusers and a denoiser of azula; then the errors that you will meet.

# %%
import math
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from textwrap import fill

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import pgmdiff
from pgmdiff import check_consistency, compose, from_denoiser
from pgmdiff.diagnostics.metrics import seam_ratio
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import chain, tiles
from pgmdiff.plotting import curves
from pgmdiff.samplers import DPMSolver2M, from_scheduler, karras, sample
from pgmdiff.scores.adapters import (
    Timesteps,
    from_eps,
    from_flow,
    from_vp_eps,
    from_vp_sample,
    from_vp_v,
)
from pgmdiff.scores.guidance import guided, interpolated
from pgmdiff.training.loop import denoising_loss, random_crops

torch.set_num_threads(1)  # small networks: more threads only wait for each other
BLUE, ORANGE, GREEN, GREY, INK = "#2f7fbd", "#dd7a1f", "#3f9b57", "#8a8f94", "#2b2b2b"

# %% [markdown]
# ## What does your network predict?
#
# Few networks return scores. The adapters turn what they predict into one:
#
# | it predicts | of | adapter |
# |---|---|---|
# | $x_0$ | $x_0 + \sigma \varepsilon$ (EDM, k-diffusion) | `from_denoiser` |
# | $\varepsilon$ | the same | `from_eps` |
# | $\varepsilon$ | $\alpha_t x_0 + \sigma_t \varepsilon$ (DDPM) | `scores.from_vp_eps` |
# | $x_0$ | the same | `scores.from_vp_sample` |
# | $v = \alpha_t \varepsilon - \sigma_t x_0$ | the same | `scores.from_vp_v` |
# | $\varepsilon - x_0$ | $(1 - t) x_0 + t \varepsilon$ (flow matching) | `scores.from_flow` |
#
# The wrong adapter gives no error, only bad samples. So test it where you know the answer. For data
# $x_0 \sim N(0, s^2)$ each of these networks, perfectly trained, is one line; all six must give the
# same score.

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
x, levels = (
    torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double(),
    [0.05, 1.0, 20.0],
)
for name, score in adapted.items():
    sigmas = [torch.full((4,), level).double() for level in levels]
    off = max((score(x, s) / data.score(x, s) - 1).abs().max().item() for s in sigmas)
    print(f"{name:15} relative error of the score, at worst: {off:.0e}")
    assert off < 1e-8

# %% [markdown]
# `Timesteps` finds the timestep of a noise level by interpolation, never by rounding. Put your own
# network in the place of these lines to test its adapter: on data of which you know mean and
# variance the error should be the network's own.
#
# ## A network of your own
#
# Something to learn: curves in the plane, of unit speed, that turn now more, now less. The state is
# their velocity, `[2, length]`; adding it up draws the curve.


# %%
def make_curves(n: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Velocities `[n, 2, length]`, and how much they turn, radians a step, `[n, length]`."""
    generator = torch.Generator().manual_seed(seed)
    kept, burnt = math.exp(-1 / 30), 100  # turning is remembered for 30 steps
    turn = torch.zeros(n, burnt + length)
    for t in range(1, burnt + length):
        kick = 0.12 * math.sqrt(1 - kept**2) * torch.randn(n, generator=generator)
        turn[:, t] = kept * turn[:, t - 1] + kick
    turn = turn[:, burnt:]
    heading = 2 * math.pi * torch.rand(n, 1, generator=generator) + turn.cumsum(dim=1)
    return torch.stack([heading.cos(), heading.sin()], dim=1), turn


LENGTH = 128
velocities, turns = make_curves(2000, LENGTH, seed=0)


# %% alt="Three winding curves in the plane, with pieces of 16 steps marked in colours"
def draw(ax, velocity: Tensor, colours=None, every: int = 8) -> None:
    """A curve `[2, length]`, in pieces of one colour each."""
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


draw_several(velocities[:3], "Data: curves of 128 steps. Colours: pieces of 16")

# %% [markdown]
# The network is an ordinary module: convolutions, told the noise level and a condition. Around it,
# a denoiser in EDM's form: with $\sigma_d$ the standard deviation of the data,
#
# $$D(x, \sigma) = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}\, x
# + \frac{\sigma \sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}\;
# F\Big(\frac{x}{\sqrt{\sigma^2 + \sigma_d^2}}, \log \sigma\Big).$$
#
# The condition `turn` says how much a piece turns on average, as an embedding of two numbers on a
# circle; zeros say nothing about it.

# %%
STD = math.sqrt(0.5)  # of a component of a unit vector


class Convolutions(nn.Module):
    """F(x, log σ, turn): x `[batch, 2, any length]`, log σ `[batch]`, turn `[batch, 2]`."""

    def __init__(self, width: int = 40) -> None:
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
        told = self.modulation(torch.cat([angles.sin(), angles.cos(), turn], dim=1))
        h = self.enter(x)
        for convolution, shift in zip(self.hidden, told[:, :, None].chunk(3, dim=1), strict=True):
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
        answer = self.network(x / total.sqrt(), sigma.log(), turn)
        return STD**2 / total * x + s * STD / total.sqrt() * answer


def embedded(turn: Tensor | float) -> Tensor:
    angle = 4 * torch.as_tensor(turn)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


NOTHING = torch.zeros(2)

# %% [markdown]
# Composition divides by what the model says of overlaps. A network that has seen pieces of one
# length only knows nothing of shorter ones. So train on **crops of both lengths** from the same
# data (DiffCollage's Algorithm 6), here 16 and 8; and leave the condition out in a third of cases,
# as classifier-free guidance wants.


# %%
def crops(generator: torch.Generator, length: int, n: int) -> tuple[Tensor, Tensor]:
    """Pieces of curves `[n, 2, length]` and how much they turn `[n]`."""
    which = torch.randint(len(velocities), (n, 1), generator=generator)
    first = torch.randint(LENGTH - length + 1, (n, 1), generator=generator)
    places = first + torch.arange(length)
    return velocities[which, :, places].movedim(1, 2), turns[which, places][:, 1:].mean(dim=1)


def train(steps: int) -> tuple[Curves, list[float]]:
    torch.manual_seed(0)
    generator, network = torch.Generator().manual_seed(1), Curves()
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.1)
    losses = []
    for step in range(steps):
        clean, turn = crops(generator, (16, 8, 16)[step % 3], 48)
        known = torch.rand(len(clean), 1, generator=generator) < 2 / 3
        condition = embedded(turn) * known
        loss = denoising_loss(
            lambda x, sigma: network(x, sigma, condition),  # noqa: B023
            clean,
            sigma_data=STD,
            p_mean=-0.8,
            p_std=1.4,
            generator=generator,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return network.eval().requires_grad_(False), losses


network, losses = train(2500)
smooth = torch.tensor(losses).unfold(0, 100, 100).mean(dim=1).tolist()
print(f"weighted denoising loss: {smooth[0]:.2f} in the first 100 steps, {smooth[-1]:.2f} at last")
assert smooth[-1] < 0.35

# %% [markdown]
# (An untrained network in this form scores about 1.)
#
# ## Compose, sample, look
#
# Windows of 16 steps with overlaps of 8 cover a curve of 128. One callable serves all of them: it
# is called once for all windows, and once for all overlaps.

# %%
strip = tiles((2, LENGTH), (2, 16), (0, 8))
windows = [name for name, count in strip.counting_numbers().items() if count > 0]
score = from_denoiser(network)
unknown = {name: {"turn": NOTHING} for name in strip.names}
joint = compose(strip, score, conditions=unknown)
print(joint)

# %% alt="Three sampled curves of 128 steps: smooth, winding, like the data"
solver = DPMSolver2M(eta=1.0, rho=7.0)


def sampled(joint, n: int = 64, seed: int = 0, length: int = LENGTH) -> Tensor:
    return sample(
        joint, karras(24, 0.01, 20.0), shape=(n, 2, length), solver=solver, generator=seed
    )


made = sampled(joint)
draw_several(made[:3], "Samples: 15 windows of 16 steps, sampled as one curve")


# %% [markdown]
# Do windows join? A curve of unit speed has no place where its velocity is longer or shorter, and
# turns at the ends of windows as much as elsewhere.


# %%
def turning(velocity: Tensor) -> Tensor:
    """Radians a step, `[n, length - 1]`."""
    heading = torch.atan2(velocity[:, 1], velocity[:, 0])
    return (heading.diff(dim=1) + math.pi) % (2 * math.pi) - math.pi


ends = torch.arange(8, LENGTH, 8) - 1  # steps across which a window begins or ends
print(f"{'':24} {'speed':>14} {'turn across ends':>17} {'elsewhere':>10}")
for name, v in {"data": velocities, "samples": made}.items():
    size = turning(v).abs().mean(dim=0)
    inside = torch.ones_like(size, dtype=torch.bool)
    inside[ends] = False
    speed = v.norm(dim=1)
    print(
        f"{name:24} {speed.mean():6.3f} ± {speed.std():5.3f} {size[ends].mean():17.3f} "
        f"{size[inside].mean():10.3f}"
    )
    assert abs(speed.mean() - 1) < 0.02
    assert size[ends].mean() < 1.15 * size[inside].mean()

# %% [markdown]
# Another rule needs no other network. Posterior composition wants covariances of the pieces, and
# those come from data: `rule=Posterior(fit_covariances(strip, velocities, shared=True))`. Which
# rule when is the subject of the fifth lesson.
#
# ## Do pieces and overlaps agree?
#
# `check_consistency` asks whether the models of pieces and of overlaps are marginals of one
# distribution. The column to read is `excess`: the share of their disagreement that should not be
# there. Compare our network with one whose overlaps were prepared in other units, a mistake that is
# easily made.


# %%
def wrong_units(x: Tensor, sigma: Tensor, turn: Tensor) -> Tensor:
    """Trained on data that someone multiplied by 1.3."""
    return 1.3 * network(x / 1.3, sigma / 1.3, turn)


for name, overlap in {"one network": network, "overlaps in other units": wrong_units}.items():
    models = {(2, 16): score, (2, 8): from_denoiser(overlap)}  # by model id: here, the shape
    found = check_consistency(strip, models, velocities[:200], conditions=unknown, generator=0)
    print(f"{name}: excess by σ:", {row.sigma: round(row.excess, 3) for row in found.rows})
    verdicts = [row.verdict for row in found.rows]
    print(" ", ", ".join(dict.fromkeys(verdicts)))
    worst = max(row.excess for row in found.rows)
    assert worst < 0.25 if overlap is network else worst > 0.4
print(found)

# %% [markdown]
# A network trained for seconds is not exactly consistent either, and with enough data the test
# sees it: its verdict says "significant", `excess` says how much.
#
# ## A condition for every piece
#
# Conditions belong to nodes: `conditions={name: {keyword: tensor}}`, without a batch axis. Let the
# first window turn left by 0.25 radians a step, the last one right by as much, and those between
# change evenly. `interpolated` goes along the circle of embeddings from one end to the other.
# Overlaps have no condition of their own: `null_condition` is for what is given at call time; here
# they are listed in `unknown`.

# %%
asked = torch.linspace(0.25, -0.25, len(windows))
plan = interpolated(windows, "turn", embedded(0.25), embedded(-0.25))
by_hand = torch.stack([plan[name]["turn"] for name in windows])
assert torch.allclose(by_hand, embedded(asked), atol=1e-6)


def steered(w: float) -> Tensor:
    """Curves with classifier-free guidance of scale w on every window; 1: none."""
    graph_conditions = unknown | {
        name: {**condition, "guidance": torch.tensor(w)} for name, condition in plan.items()
    }
    followed = guided(score, {"turn": NOTHING})
    return sampled(compose(strip, followed, conditions=graph_conditions))


steered_curves = {w: steered(w) for w in (1.0, 2.0)}


# %% alt="Curves that begin as a left spiral and end as a right one, coloured by what is asked"
def show_steered() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    colour_of = plt.matplotlib.colors.LinearSegmentedColormap.from_list(
        "", [BLUE, "#d9dcdf", ORANGE]
    )
    colours = [colour_of(0.5 - float(a)) for a in (2 * asked).repeat_interleave(1)]
    for ax, (w, velocity) in zip(axes, steered_curves.items(), strict=True):
        draw(ax, velocity[0], [*colours, colours[-1]])
        ax.set_title(f"guidance w = {w:g}", loc="left", fontsize=10)
        ax.set_ylabel("y")
    scale = plt.matplotlib.cm.ScalarMappable(
        plt.matplotlib.colors.Normalize(-0.25, 0.25), colour_of.reversed()
    )
    figure.colorbar(scale, ax=axes, label="asked of the window: radians a step", shrink=0.8)
    figure.suptitle("What each piece is asked for", fontsize=11)


show_steered()

# %% [markdown]
# A spiral unwinds, and winds up the other way. No window has seen such a curve. Is it what was
# asked for? Average over 64 samples:


# %% alt="Turn made against window: w = 1 a little less than asked at the ends, w = 2 more"
def by_window(velocity: Tensor) -> Tensor:
    """Mean turn within each window, `[n, windows]`."""
    return turning(velocity).unfold(1, 15, 8).mean(dim=2)


numbers = list(range(1, len(windows) + 1))
lines = {"asked": (numbers, asked.tolist())}
for w, velocity in steered_curves.items():
    lines[f"made, w = {w:g}"] = (numbers, by_window(velocity).mean(dim=0).tolist())
for w in steered_curves:
    assert abs(by_window(steered_curves[w]).mean(dim=0) - asked).max() < 0.08
assert by_window(steered_curves[2.0]).mean(dim=0)[0] > by_window(steered_curves[1.0]).mean(dim=0)[0]
curves(
    lines,
    xlabel="window",
    ylabel="turn, radians a step",
    title="Asked and made",
    log="",
)

# %%
for w, velocity in steered_curves.items():
    spread = by_window(velocity).std(dim=0).mean()
    speed = velocity.norm(dim=1).std()
    print(f"w = {w:g}: spread of the turn among samples {spread:.3f}, of the speed {speed:.3f}")

# %% [markdown]
# Without guidance the outer windows turn a little less than asked: overlaps speak for curves in
# general, which are straighter. With $w = 2$ they turn more than asked, and vary less. Guidance is
# a heuristic: with $w \ne 1$ nothing is the score of a noised distribution any more, and the speed
# suffers a little.
#
# ## A UNet of diffusers
#
# In diffusers a scheduler knows what its network predicts, so `from_diffusers(model, scheduler)`
# needs no more. We train a tiny `UNet2DModel` for some seconds, as diffusers does it, on crops of a
# smooth random image: of 16 × 16, and of 16 × 8 for overlaps.

# %%
HAS_DIFFUSERS = find_spec("diffusers") is not None


def smooth_image(side: int, seed: int) -> Tensor:
    """A random field with a correlation length of some pixels, variance 1/4: `[1, side, side]`."""
    noise = torch.randn(side, side, generator=torch.Generator().manual_seed(seed))
    k = torch.fft.fftfreq(side)
    low = torch.exp(-((k[:, None] ** 2 + k**2) * 2 * math.pi**2 * 3.0**2))
    field = torch.fft.ifft2(torch.fft.fft2(noise) * low).real
    return 0.5 * (field / field.std())[None]


image = smooth_image(256, seed=0)
if HAS_DIFFUSERS:
    with warnings.catch_warnings():  # of tqdm, which misses a widget of notebooks
        warnings.simplefilter("ignore")
        from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=8,
    )
    scheduler = DDPMScheduler(prediction_type="v_prediction")
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(unet.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, 500, pct_start=0.1)
    for step in range(500):
        clean = random_crops(image, ((16, 16), (16, 8))[step % 2], 16, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        t = torch.randint(1000, (len(clean),), generator=generator)
        noisy = scheduler.add_noise(clean, noise, t)
        velocity = scheduler.get_velocity(clean, noise, t)
        loss = (unet(noisy, t).sample - velocity).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    unet.eval().requires_grad_(False)
    print(f"{sum(p.numel() for p in unet.parameters())} parameters, last loss {loss:.3f}")
else:
    print("diffusers is not installed: skipped. pip install 'pgmdiff[diffusers]'")

# %% [markdown]
# The joint is composed as before. It can be sampled by a solver of ours, or by a scheduler of
# theirs: `drive` composes first and then lets the scheduler take its step. On the same levels, from
# the same start, DPM-Solver++ is the same in both.

# %%
if HAS_DIFFUSERS:
    from pgmdiff.integrations.diffusers import drive, from_diffusers

    wide = tiles((1, 16, 96), (1, 16, 16), (0, 0, 8))
    picture = compose(wide, from_diffusers(unet, scheduler), max_batch=16)
    theirs = DPMSolverMultistepScheduler(use_karras_sigmas=True)
    driven = drive(picture, theirs, steps=20, shape=(8, 1, 16, 96), generator=0)
    theirs.set_timesteps(20)
    ours = sample(
        picture,
        from_scheduler(theirs),
        shape=(8, 1, 16, 96),
        solver=DPMSolver2M(),
        generator=0,
    )
    difference = ((driven - ours).abs().max() / ours.abs().max()).item()
    print(f"driven by diffusers against our own solver: relative difference {difference:.1e}")
    print(f"standard deviation: data {image.std():.2f}, 8 samples {driven.std():.2f}")
    seams = range(8, 96, 8)  # columns where a window begins or ends
    print(f"seam ratio: {seam_ratio(driven, seams):.2f}; 1: seams are like any other place")
    assert difference < 1e-3
    assert abs(seam_ratio(driven, seams) - 1) < 0.2

# %% alt="A strip of the smooth random image, and one sampled strip of 16 × 96 pixels like it"
if HAS_DIFFUSERS:
    rows = {"data": image[:, 40:56, :96], "sampled by a scheduler of diffusers": driven[0]}
    _, axes = plt.subplots(2, 1, figsize=(9, 3.8), layout="constrained")
    for ax, (name, shown) in zip(axes, rows.items(), strict=True):
        ax.imshow(shown[0], cmap="gray", vmin=-1.5, vmax=1.5)
        ax.set_title(name, loc="left", fontsize=10)
        ax.axis("off")

# %% [markdown]
# There is grain in places, after some seconds of training. But stains go on from window to window,
# and steps across the ends of windows are hardly larger than others: the seam ratio above.
#
# ## A denoiser of azula
#
# azula's denoisers know their schedule; `from_azula(denoiser)` is a score. Here azula trains a
# model of pieces of our curves, with its own loss, and it is composed with *our* network for the
# overlaps: models of one joint need not come from one library, only from one distribution.

# %%
HAS_AZULA = find_spec("azula") is not None
if HAS_AZULA:
    from azula.denoise import KarrasDenoiser
    from azula.noise import VESchedule
    from azula.sample import DDIMSampler

    from pgmdiff.integrations.azula import from_azula, to_azula

    class Backbone(nn.Module):
        """What azula asks for: b(x, log σ), x scaled to variance 1."""

        def __init__(self) -> None:
            super().__init__()
            self.network = Convolutions()

        def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
            return self.network(x, log_sigma.expand(len(x)), NOTHING.expand(len(x), 2))

    levels = VESchedule(1e-2, 2e1)  # σ from 0.01 to 20, evenly in log σ
    torch.manual_seed(0)  # azula draws from torch's own generator
    theirs = KarrasDenoiser(Backbone(), levels)
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam(theirs.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, 2500, pct_start=0.1)
    for _ in range(2500):
        clean, _ = crops(generator, 16, 48)
        loss = theirs.loss(clean, torch.rand(len(clean), generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    theirs.eval().requires_grad_(False)
    print(f"azula's loss: {loss:.2f}")
else:
    print("azula is not installed: skipped. pip install 'pgmdiff[azula]'")

# %% alt="Three curves sampled by azula's sampler from a joint of azula's pieces and our overlaps"
if HAS_AZULA:
    overlaps = {name: c for name, c in unknown.items() if name not in windows}
    mixed = compose(strip, {(2, 16): from_azula(theirs), (2, 8): score}, conditions=overlaps)
    made = sampled(mixed)
    print(f"our solver: speed {made.norm(dim=1).mean():.3f} ± {made.norm(dim=1).std():.3f}")
    sampler = DDIMSampler(to_azula(mixed, levels), steps=48, silent=True)
    torch.manual_seed(0)
    by_azula = sampler(sampler.init((64, 2, LENGTH)))
    speed = by_azula.norm(dim=1)
    print(f"azula's sampler: speed {speed.mean():.3f} ± {speed.std():.3f}")
    assert abs(speed.mean() - 1) < 0.1
    draw_several(by_azula[:3], "Pieces by azula, overlaps by torch, sampled by azula's DDIM")

# %% [markdown]
# ## Errors you will meet
#
# A model is called in batches of many nodes, deep inside a solver. When something is wrong the
# message has to say which node, what was expected, and what to do. Here are the usual ones.


# %%
def message(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except pgmdiff.PgmdiffError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def not_a_number(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.where(x.sum(dim=1, keepdim=True) > 0, torch.nan, -x)


three = chain(3)
plain = lambda x, sigma: -x / (1 + sigma[:, None] ** 2)  # noqa: E731
middle = lambda x, sigma: -x / (1 + sigma**2)  # noqa: E731
attempts = {
    "a model is missing": lambda: compose(three, {"f0": plain, "f1": plain}),
    "it returns another shape": lambda: compose(
        three, {"f0": lambda x, s: x.sum(dim=1), "f1": plain, "x1": middle}
    )(torch.ones(2, 3), 1.0),
    "it returns NaN": lambda: compose(three, {"f0": plain, "f1": not_a_number, "x1": middle})(
        torch.ones(2, 3), 1.0
    ),
    "the state has another shape": lambda: joint(torch.ones(1, 2, 100), 1.0),
    "a condition of no node": lambda: compose(
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
assert "'f1'" in found_messages["it returns NaN"]

# %% [markdown]
# The state is checked once a call, and only when it is not finite is the guilty node searched for.
#
# And errors without a message, in the order in which we have made them: the wrong adapter or
# timesteps (test them on a Gaussian, as above); data in other units for overlaps
# (`check_consistency`); a network that never saw the overlap's size; and $\sigma_{\max}$ too small
# for the *whole*, which is larger than its pieces: start well above the whole's spread.
#
# ## Exercises
#
# 1. Close the curve: `tiles(..., periodic=(False, True))` makes the velocity periodic. Is the path
#    closed as well? Which linear observation makes it so? (Conditioning, lesson 06.)
# 2. Train on windows of 16 only, and let `scores.padded` stand in for overlaps. What do
#    `check_consistency` and the speed say?
# 3. Use `fit_covariances(strip, velocities, shared=True)` and `Posterior`. Are turns of distant
#    windows correlated more like the data's?
#
# ## Where to go next
#
# "Validate your own topology" (08) is about graphs of your own. The page "Interoperability" of the
# documentation lists what else comes in and goes out: k-diffusion, EDM, deepinv, sbi, latents with
# prompts, half precision.
