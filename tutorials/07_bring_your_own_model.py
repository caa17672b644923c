# %% [markdown]
# # Bring your own model
#
# You have trained a network, in your own loop, that removes noise from short pieces: here, from
# curves of 16 steps. You want curves of 128. To compose it takes one line, and that line accepts
# nearly anything. A network that is wired wrongly returns tensors of the right shape, no error is
# raised, and the curves are bad. Which of the many parts is to blame?
#
# Check three things in this order: one piece alone, pieces against overlaps, the whole. The first
# check that fails says which part is wrong. We train a network (1), wire it rightly and wrongly in
# three ways and see what the checks find (2), and steer the right one piece by piece (3). The
# notebook takes about 15 seconds on one core.

# %%
import math
import warnings
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from pgmdiff import check_consistency, compose, from_denoiser, from_eps, karras, sample, tiles
from pgmdiff.diagnostics import mean_and_error
from pgmdiff.graphs import RegionGraph
from pgmdiff.samplers import DPMSolver2M
from pgmdiff.scores import Score, guided, interpolated
from pgmdiff.training import EDMDenoiser, denoising_loss

torch.set_num_threads(1)  # for networks this small, several threads are slower than one

# %% [markdown]
# ## 1. A network, and a loop around it
#
# The curves run at unit speed and turn, now more and now less. A state holds their velocities,
# `[2, length]`. The network is told how much a piece turns on average, as two numbers on a circle;
# two zeros say that nothing is known.


# %%
def made(n: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Velocities `[n, 2, length]`, and turns in radians per step, `[n, length]`."""
    generator = torch.Generator().manual_seed(seed)
    kept, turn = math.exp(-1 / 30), torch.zeros(n, 100 + length)  # remembered for 30 steps
    for t in range(1, 100 + length):
        kick = 0.12 * math.sqrt(1 - kept**2) * torch.randn(n, generator=generator)
        turn[:, t] = kept * turn[:, t - 1] + kick
    turn = turn[:, 100:]
    heading = 2 * math.pi * torch.rand(n, 1, generator=generator) + turn.cumsum(dim=1)
    return torch.stack([heading.cos(), heading.sin()], dim=1), turn


class Network(nn.Module):
    """Convolutions that depend on the noise level `[batch]` and on the turn `[batch, 2]`."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(0, 5))
        self.modulation = nn.Linear(12, 3 * width)
        self.enter = nn.Conv1d(2, width, 5, padding=2)
        self.hidden = nn.ModuleList(
            nn.Conv1d(width, width, 5, padding=2 * d, dilation=d) for d in (1, 2, 2)
        )
        self.leave = nn.Conv1d(width, 2, 5, padding=2)

    def forward(self, x: Tensor, noise: Tensor, turn: Tensor) -> Tensor:
        angles = noise[:, None] * self.frequencies
        shifts = self.modulation(torch.cat([angles.sin(), angles.cos(), turn], dim=1))
        h = self.enter(x)
        for convolution, shift in zip(self.hidden, shifts[:, :, None].chunk(3, dim=1), strict=True):
            h = h + convolution(nn.functional.silu(h + shift))
        return self.leave(nn.functional.silu(h))


def embedded(turn: Tensor | float) -> Tensor:
    angle = 4 * torch.as_tensor(turn)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


# %% [markdown]
# The loop cuts crops of windows, 16, and of what they will share, 8: composition subtracts what the
# model says about overlaps, too. It hides the turn in a third of all cases. `EDMDenoiser` scales
# inputs and outputs; any other denoiser will do.

# %%
LENGTH, STD = 128, math.sqrt(0.5)
velocities, turns = made(2000, LENGTH, seed=0)
STEPS, generator = 700, torch.Generator().manual_seed(1)
torch.manual_seed(0)
network = EDMDenoiser(Network(), sigma_data=STD)
optimiser = torch.optim.Adam(network.parameters())
rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, STEPS, pct_start=0.1)
options = {"sigma_data": STD, "p_mean": -0.8, "p_std": 1.4, "generator": generator}
losses = []
for step in range(STEPS):
    length = (16, 8, 16)[step % 3]
    which = torch.randint(len(velocities), (64, 1), generator=generator)
    places = torch.randint(LENGTH - length + 1, (64, 1), generator=generator) + torch.arange(length)
    known = torch.rand(64, 1, generator=generator) < 2 / 3
    turn = embedded(turns[which, places][:, 1:].mean(dim=1)) * known
    clean = velocities[which, :, places].movedim(1, 2)
    loss = denoising_loss(network, clean, turn=turn, **options)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    rate.step()
    losses.append(loss.item())
print("loss of the last 100 steps: {:.3f} ± {:.3f}".format(*mean_and_error(losses[-100:])))

# %% [markdown]
# ## 2. Three checks
#
# `from_denoiser` makes the network a score; a network that predicts something else has [another
# adapter](../concepts/scores.md#what-your-network-predicts). Windows of 16 overlap by 8, and one
# callable serves both. Here it is wired rightly, and wrongly in three ways that raise no error: by
# the adapter of a network that predicts noise, with overlaps that someone scaled by 1.3, and
# without overlaps.

# %%
NOTHING = torch.zeros(2)
strip, apart = tiles((2, LENGTH), (2, 16), (0, 8)), tiles((2, LENGTH), (2, 16), (0, 0))
score = from_denoiser(network.eval().requires_grad_(False))


def scaled(x: Tensor, sigma: Tensor, turn: Tensor) -> Tensor:
    return 1.3 * network(x / 1.3, sigma / 1.3, turn=turn)


wirings: dict[str, tuple[RegionGraph, Score, Score]] = {  # graph, model of windows, of overlaps
    "right": (strip, score, score),
    "wrong adapter": (strip, from_eps(network), from_eps(network)),
    "units of overlaps": (strip, score, from_denoiser(scaled)),
    "no overlaps": (apart, score, score),
}


def drawn(model: Score, length: int, n: int = 64) -> Tensor:
    solver, levels = DPMSolver2M(eta=1.0, rho=7.0), karras(24, 0.01, 20.0)
    return sample(model, levels, shape=(n, 2, length), solver=solver, generator=0)


def turning(velocity: Tensor) -> Tensor:
    """Turns in radians per step, `[n, length - 1]`."""
    heading = torch.atan2(velocity[:, 1], velocity[:, 0])
    return (heading.diff(dim=1) + math.pi) % (2 * math.pi) - math.pi


def at_ends(velocity: Tensor) -> float:
    """How much curves turn where windows begin or end, relative to elsewhere."""
    size = turning(velocity).abs().mean(dim=0)
    end = torch.zeros_like(size, dtype=torch.bool)
    end[7::8] = True
    return (size[end].mean() / size[~end].mean()).item()


def told(values: list[float]) -> str:
    return "{:.4g} ± {:.1g}".format(*mean_and_error(values))


made_by = {"data": velocities[:64]}
warnings.filterwarnings("ignore", "sample: .*(deviation 20|exploded)")  # of the wrong adapter
print("                   1. a window's speed   2. excess   3. turn at ends   curves' speed")
for name, (graph, window, overlap) in wirings.items():
    pieces = drawn(partial(window, turn=NOTHING.expand(64, 2)), 16)
    unknown = {node: {"turn": NOTHING} for node in graph.names}
    models = {(2, 16): window, (2, 8): overlap}
    found = check_consistency(graph, models, velocities[:200], conditions=unknown, generator=0)
    excess = max((row.excess for row in found.rows), default=0.0)
    made_by[name] = drawn(compose(graph, models, conditions=unknown), LENGTH)
    ends = told([*map(at_ends, made_by[name].chunk(4))])
    speeds = [told(u.norm(dim=1).mean(dim=1).tolist()) for u in (pieces, made_by[name])]
    print(f"{name:17}  {speeds[0]:20}  {excess:<9.2f}   {ends:15}  {speeds[1]}")
    good = abs(pieces.norm(dim=1).mean() - 1) < 0.1, excess < 0.25, at_ends(made_by[name]) < 1.15
    assert good == (name != "wrong adapter", name != "units of overlaps", name != "no overlaps")


# %% tags=["hide-input"] alt="Curves: a wrong adapter scribbles, and no overlaps make corners"
def draw(axis: plt.Axes, velocity: Tensor, colours: list | None = None) -> None:
    path = torch.cat([torch.zeros(2, 1), velocity.cumsum(dim=1)], dim=1)
    for k in range(0, LENGTH, 8):
        axis.plot(*path[:, k : k + 9], lw=1.5, color=colours[k // 8] if colours else "#2f7fbd")
    axis.set_aspect("equal", adjustable="datalim")
    axis.tick_params(labelsize=7)


figure, axes = plt.subplots(2, 5, figsize=(9.6, 3.8), layout="constrained")
for column, (name, u) in zip(axes.T, made_by.items(), strict=True):
    column[0].set_title(name, loc="left", fontsize=10)
    for axis, velocity in zip(column, u, strict=False):
        draw(axis, velocity)

# %% [markdown]
# Each fault fails one check, and only that one. Windows of speed 1 have the right adapter; `sample`
# warns of the wrong one. *Excess* is the share of the disagreement of windows and overlaps that
# should not be there; a network that was trained for seconds has some, and one in other units has
# little else: the curves are only slower. Windows that nothing joins turn at their ends.
#
# ## 3. A condition for every piece
#
# Conditions belong to nodes. Let the first window turn left by 0.25 radians per step and the last
# one right by as much, with an even transition between them. Overlaps have the embedding for
# "nothing known". Guidance of scale w strengthens the conditions; 1 is none.

# %%
windows = strip.pieces
asked = torch.linspace(0.25, -0.25, len(windows))
plan = interpolated(windows, "turn", embedded(0.25), embedded(-0.25))
unknown = {node: {"turn": NOTHING} for node in strip.names}


def steered(w: float) -> Tensor:
    scale = {"guidance": torch.tensor(w)}
    given = unknown | {name: {**condition, **scale} for name, condition in plan.items()}
    return drawn(compose(strip, guided(score, {"turn": NOTHING}), conditions=given), LENGTH)


curves = {w: steered(w) for w in (1.0, 2.0)}
turned = {w: turning(u).unfold(1, 15, 8).mean(dim=2) for w, u in curves.items()}
print("turn of the first and of the last window; requested: 0.25 and -0.25")
for w, values in turned.items():
    print(f"w = {w:g}: {told(values[:, 0].tolist())} and {told(values[:, -1].tolist())}")
assert abs(turned[1.0][:, 0].mean()) < abs(turned[2.0][:, 0].mean())


# %% tags=["hide-input"] alt="A spiral that unwinds and winds up the other way; turns by window"
figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.4), layout="constrained")
shades = [plt.get_cmap("coolwarm")(0.5 - 2 * turn) for turn in asked.tolist()]
for axis, (w, u) in zip(axes, curves.items(), strict=False):
    typical = (turned[w] - turned[w].mean(dim=0)).square().sum(dim=1).argmin()
    draw(axis, u[typical], [*shades, shades[-1]])
    axis.set_title(f"the most typical curve, w = {w:g}", loc="left", fontsize=9)
    mean, deviation = turned[w].mean(dim=0), turned[w].std(dim=0)
    axes[2].errorbar(range(1, 16), mean, deviation, fmt="o-", ms=3, capsize=2, label=f"w = {w:g}")
axes[2].plot(range(1, 16), asked, color="black", lw=1, ls="--", label="requested")
axes[2].set(xlabel="window", title="turn, radians per step ± deviation")
axes[2].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# A spiral unwinds and winds up the other way, which no window has seen. Without guidance the outer
# windows turn less than requested, and with w = 2 a little more.
#
# ## What to remember
#
# - **To copy:** `compose(graph, from_denoiser(network), conditions={node: {keyword: tensor}})`.
# - Sample a piece alone, run `check_consistency`, and measure the whole where pieces meet.
#
# **Where to go next.** [My model](../my_model.md) has the shortest path, [other
# libraries](../interoperability.md) networks of diffusers and azula, [troubleshooting](../faq.md)
# the errors that you will meet, and [conditions](../conditions.md) labels and prompts per window.
