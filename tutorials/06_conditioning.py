# %% [markdown]
# # Fill a gap
#
# A thermometer in the sea failed for twelve hours. You have a model of eight hours of its readings,
# and want to fill the gap: with series that could have been, and a band that says how sure they
# are. The obvious way is to sample the whole and to overwrite, at every step, what is known. The
# result agrees with every known reading, and is wrong inside the gap.
#
# Whether samples agree with what was observed is easy to check and to achieve. Whether they are
# samples of the *posterior* is another question. You will see the difference in the gap (1), where
# it comes from (2), and the same two lines of code with images (3). The notebook takes about 40
# seconds on one core. It reads data and a model from the folder `benchmarks`, so run it
# from the repository: `python -m tutorials.06_conditioning`.

# %%
import matplotlib.pyplot as plt
import torch

from benchmarks.data.sea import sea_denoiser, sea_parts
from pgmdiff import Consistent, Gaussian, compose, from_denoiser, karras, sample, tiles
from pgmdiff.conditioning import Mask, block_average, moment_matching, replacement
from pgmdiff.diagnostics import (
    crps,
    distribution_reached,
    interval_coverage,
    mean_and_error,
    seam_ratio,
)
from pgmdiff.gaussian import ar1, kl_divergence, node_covariances, node_scores
from pgmdiff.graphs import chain
from pgmdiff.models.gravel import gravel_denoiser, gravel_image
from pgmdiff.precision import fit_covariances
from pgmdiff.samplers import DPMSolver2M, Heun
from pgmdiff.scores import Score
from pgmdiff.training import random_crops

torch.set_num_threads(1)  # for networks this small, several threads are slower than one
SOLVER = DPMSolver2M(eta=1.0, rho=7.0)

# %% [markdown]
# ## 1. A gap of twelve hours
#
# 32 hours are composed from windows of eight, with covariances from the training data. The gaps are
# cut into 30 series that no model has seen, so that we know what belongs there.

# %%
LENGTH, DRAWS, FIRST, LAST = 64, 19, 20, 44  # half-hours; the gap is from FIRST to LAST
train, held_out = sea_parts()
windows = tiles((1, LENGTH), (1, 16), (0, 8))
states = train.unfold(1, LENGTH, 12).reshape(-1, 1, LENGTH)
rule = Consistent(fit_covariances(windows, states, shared=True))
joint = compose(windows, from_denoiser(sea_denoiser()), rule=rule, max_batch=256)

truths = held_out.unfold(1, LENGTH, 384).reshape(-1, 1, LENGTH)
y = truths.repeat_interleave(DRAWS, dim=0)  # one observation for every draw
seen = torch.ones(1, LENGTH, dtype=torch.bool)
seen[:, FIRST:LAST] = False

# %% [markdown]
# A conditioned score is again a score: compose, condition, sample. With $D$ the composed denoiser
# and $H$ what is observed, `replacement` overwrites $D$ where it is known. `moment_matching` takes
# $N(D, V)$ for the clean state, $V$ being the composed covariance, and conditions *that*:
#
# $$D_y = D + V H^\top (H V H^\top + \sigma_y^2 I)^{-1} (y - H D),$$
#
# so that the unknown moves along with the known.

# %%
ways = {
    "replacement": replacement(joint, y, seen),
    "moment_matching": moment_matching(joint, y, Mask(seen)),
}
filled, scores = {}, {}
print("                 misfit   jump at edges   in 90 % bands   width of bands   CRPS")
for name, score in ways.items():
    u = sample(score, karras(8, 0.01, 20.0), shape=y.shape, solver=SOLVER, generator=0)
    misfit = ((u - y) * seen).abs().max().item()
    filled[name] = draws = u.reshape(-1, DRAWS, LENGTH)
    gaps = [*zip(draws[..., ~seen[0]].split(1), truths[:, 0, ~seen[0]].split(1), strict=True)]
    scores[name] = [crps(*gap) for gap in gaps]
    ranked = draws[..., ~seen[0]].sort(dim=1).values
    columns = (
        [seam_ratio(each, (FIRST, LAST)) for each in draws],
        [interval_coverage(*gap) for gap in gaps],
        (ranked[:, -1] - ranked[:, 0]).mean(dim=1).tolist(),
        scores[name],
    )
    told = ("{:.2f} ± {:.2f}".format(*mean_and_error(each)) for each in columns)
    print(f"{name:15}  {misfit:.0e}    {'     '.join(told)}")
    assert misfit < 1e-3
jumps = mean_and_error([seam_ratio(each, (FIRST, LAST)) for each in truths])
print("the truths                {:.2f} ± {:.2f}".format(*jumps))
gain, error = mean_and_error([a - b for a, b in zip(*scores.values(), strict=True)])
print(f"gain in CRPS, gap by gap: {gain:.2f} ± {error:.2f}")
assert gain > 2 * error


# %% tags=["hide-input"] alt="Draws of replacement jump at both edges of a gap; others do not"
_, axes = plt.subplots(2, 2, figsize=(9, 4.6), sharex=True, sharey="row", layout="constrained")
hours = torch.arange(LENGTH) / 2
for row, case in zip(axes, (4, 17), strict=True):
    for axis, (name, draws) in zip(row, filled.items(), strict=True):
        low, high = draws[case].min(dim=0).values, draws[case].max(dim=0).values
        axis.fill_between(hours, low, high, color="#9fc3e0", label="90 % band")
        axis.plot(hours, draws[case, :3].T, color="#2f7fbd", lw=0.8, label=["draws", None, None])
        axis.plot(hours, truths[case, 0], color="black", lw=1.5, label="truth")
        axis.axvspan(FIRST / 2, LAST / 2 - 0.5, color="#8a8f94", alpha=0.12, lw=0)
        axis.set_title(name if case == 4 else "", loc="left", fontsize=10)
axes[0, 1].legend(frameon=False, fontsize=8)
for axis in axes[1]:
    axis.set_xlabel("hours; the grey ones are hidden")
axes[0, 0].set_ylabel("anomaly")
plt.show()

# %% [markdown]
# Known readings are met by both, and both bands hold about what they promise. But the bands of
# `replacement` are wider, because it has used less of what is known, and its draws jump at the
# edges of the gap, those of `moment_matching` only a little more than the truths. The *CRPS*, an
# error that is least in expectation for the true posterior, is lower for `moment_matching`.
#
# ## 2. Where the difference comes from
#
# Where everything is Gaussian, the posterior is a formula, and the distribution that a sampler ends
# in can be computed, without drawing. Here is a chain of 16 variables, of which two are observed.

# %%
N, DOUBLE = 16, {"dtype": torch.float64}
data, line = ar1(N, 0.9), chain(N)
exact = compose(line, node_scores(line, data), rule=Consistent(node_covariances(line, data)))
observed, mask = line.observe({"x3": 1.5, "x11": -1.0})  # by name
observed, known = observed.double(), Mask(mask)

H = torch.eye(N, **DOUBLE)[known.mask]
K = data.covariance @ H.T @ torch.linalg.inv(H @ data.covariance @ H.T)
rest = data.covariance - K @ H @ data.covariance
truth = Gaussian(K @ observed[known.mask], (rest + rest.T) / 2)
free = (~known.mask).nonzero().flatten()

given: dict[str, Score] = {
    "replacement": replacement(exact, observed, known),
    "moment_matching": moment_matching(exact, observed, known),
    "exact score": truth.score,
}
start = Gaussian(data.mean, 80.0**2 * torch.eye(N, **DOUBLE))
reached, loss = {}, {}
print("KL to the posterior, nats per unknown variable   20 levels   80 levels")
for name, score in given.items():
    for levels in (20, 80):
        q = distribution_reached(score, karras(levels, 0.002, 80.0), start, Heun())
        reached[name] = q
        loss[name, levels] = kl_divergence(q.marginal(free), truth.marginal(free)) / len(free)
    print(f"{name:46}   {loss[name, 20]:<9.4f}   {loss[name, 80]:.4f}")
assert loss["moment_matching", 80] < 1e-3 < 0.5 < loss["replacement", 80]

print("denoised x4, the neighbour of x3, on average    σ = 10   σ = 1   σ = 0.1")
for name, score in given.items():
    means = []
    for sigma in (10.0, 1.0, 0.1):
        u = truth.noised(sigma).mean.expand(1, N)
        means.append((u + sigma**2 * score(u, sigma))[0, 4])
    print(f"{name:46}   {means[0]:<6.2f}   {means[1]:<5.2f}   {means[2]:.2f}")


# %% tags=["hide-input"] alt="Moment matching has the band of the posterior; replacement has spikes"
def drawn(axis: plt.Axes, q: Gaussian, **style: object) -> None:
    spread = 2 * q.covariance.diagonal().clamp(min=0).sqrt()
    axis.fill_between(range(N), q.mean - spread, q.mean + spread, **style)


_, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
for axis, name in zip(axes, ("replacement", "moment_matching"), strict=True):
    drawn(axis, truth, color="#c9cdd1", label="exact posterior, ± 2 deviations")
    drawn(axis, reached[name], fc="none", ec="#2f7fbd", lw=1.6, label=name)
    axis.plot([3, 11], [1.5, -1.0], "o", color="black", label="observed")
    axis.set(xlabel="variable", ylim=(-3, 5))
    axis.legend(frameon=False, fontsize=8, loc="upper right")
plt.show()

# %% [markdown]
# Under `replacement` the rest of the state sees an observation only through the noise. While the
# noise is large the observation is invisible, and when it is small the neighbours have settled. No
# number of levels changes that. `moment_matching` loses no more than the exact score, that is, the
# error of the solver. It is exact for Gaussians that are Markov to the graph, and an approximation
# for other data.
#
# ## 3. Images, and other observations
#
# The lines are the same for any linear observation; only the operator changes. Here it is a hole
# in gravel, two ends to be connected, a middle to be continued, and the means of 4 × 4 pixels. This
# joint has no covariances, so `moment_matching` uses the gradient of the score instead. Gravel is
# rough, so two steps of its solve suffice (`most_steps`).

# %%
SHAPE, CROPS = (1, 24, 72), 6
network = from_denoiser(gravel_denoiser())
gravel = compose(tiles(SHAPE, (1, 16, 16), (0, 8, 8)), network, max_batch=64)
crops = random_crops(gravel_image(), SHAPE[1:], CROPS, generator=2)
outside = torch.ones(SHAPE, dtype=torch.bool)
outside[..., 24:48] = False
ends = torch.cat([crops[..., :36], crops.roll(1, 0)[..., 36:]], dim=-1)  # of two crops
tasks = {
    "a hole": (Mask(outside), crops),
    "two ends": (Mask(outside), ends[:1]),
    "a middle": (Mask(~outside), crops[:1]),
    "means of 4 × 4": (block_average(SHAPE, 4), crops[:1]),
}
pictures = {}
for name, (operator, x) in tasks.items():
    y = operator.A(x)
    ways = {
        "replacement": replacement(gravel, y, operator),
        "moment_matching": moment_matching(gravel, y, operator, most_steps=2),
    }
    pictures[name] = {"observed": operator.A_dagger(y)}
    for way, score in ways.items():
        u = sample(score, karras(16, 0.01, 10.0), shape=x.shape, solver=SOLVER, generator=0)
        pictures[name][way] = u
        assert (operator.A(u) - y).abs().max() < 1e-2

print("jump across the edges of the hole, relative to other columns")
for way in ("the crops", "replacement", "moment_matching"):
    ratios = [seam_ratio(u, (24, 48)) for u in pictures["a hole"].get(way, crops)]
    print("{:16}  {:.2f} ± {:.2f}".format(way, *mean_and_error(ratios)))


# %% tags=["hide-input"] alt="Gravel, completed in two ways; at the marks stones go on, or are cut"
_, axes = plt.subplots(4, 3, figsize=(9, 6.4), layout="constrained")
for row, (name, shown) in zip(axes, pictures.items(), strict=True):
    for axis, (way, u) in zip(row, shown.items(), strict=True):
        axis.imshow(u[0, 0, :, 12:60], cmap="gray", vmin=-0.8, vmax=0.8)
        if name != "means of 4 × 4":
            axis.plot((11.5, 35.5), (-1.2, -1.2), "v", color="#d1495b", ms=4, clip_on=False)
        axis.set(xticks=(), yticks=(), ylim=(23.5, -0.5))
        axis.set_title(f"{name}: {way}", loc="left", fontsize=9)
plt.show()

# %% [markdown]
# All samples agree with what was observed. Below the red marks `replacement` cuts some stones in
# two; with `moment_matching` more of them go on, as the jumps at the edges of six holes say.
#
# ## What to remember
#
# - **To copy:** `sample(moment_matching(joint, y, Mask(seen), noise=...), ...)`.
# - Samples that meet the observation need not be samples of the posterior.
# - Hide something that you know, and compare, as in 1. Where nothing is known, simulate.
#
# **Where to go next.** [Conditioning](../conditioning.md) lists methods,
# and [observations](../observations.md) operators;
# [how accurate are posteriors?](../benchmarks/conditioning.md) compares all methods, also at equal
# cost, and [calibrate a posterior](../calibrate.md) tests yours.
