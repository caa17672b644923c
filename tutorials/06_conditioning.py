# %% [markdown]
# # Conditioning
#
# You have the score of a whole, composed from its pieces, and you know something about one sample:
# some of its variables, a coarse version of it, its two ends. You want samples of the rest *given*
# that. Two questions decide which method to take:
#
# 1. does the sample **meet** what was observed?
# 2. is it a draw from the **posterior**: right in its mean, and as uncertain as it should be?
#
# The first is easily checked, and easily had. The second is where methods differ. We begin on
# Gaussians, where the posterior is known in closed form, go on to a real series with a gap, where
# the truth is known but was hidden, and end with pictures.

# %%
import matplotlib.pyplot as plt
import torch

from pgmdiff import Posterior, compose, fit_covariances, from_denoiser
from pgmdiff.conditioning import (
    Composed,
    DenseOperator,
    Isotropic,
    Mask,
    Stacked,
    Tweedie,
    block_average,
    dps,
    moment_matching,
    reconstruction,
    replacement,
)
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.diagnostics.metrics import seam_ratio
from pgmdiff.gaussian import Gaussian, kl_divergence, node_covariances, node_scores
from pgmdiff.graphs import chain, tiles
from pgmdiff.plotting import curves, plot
from pgmdiff.samplers import DPMSolver2M, Heun, karras, sample, time_travel
from pgmdiff.training.loop import random_crops

torch.set_num_threads(1)  # small networks: more threads only wait for each other
BLUE, ORANGE, GREY, INK = "#2f7fbd", "#dd7a1f", "#8a8f94", "#2b2b2b"

# %% [markdown]
# ## Evidence on named variables
#
# The whole is a chain of 16 variables, each correlated with the next by $\rho = 0.9$. Two of them
# are observed. `graph.observe` turns values by name into an observation and a mask of the state;
# where the mask is false, the observation's entries are ignored.

# %%
n, rho = 16, 0.9
place = torch.arange(n, dtype=torch.float64)
data = Gaussian(torch.zeros(n).double(), rho ** (place[:, None] - place).abs())
graph = chain(n)
joint = compose(graph, node_scores(graph, data), rule=Posterior(node_covariances(graph, data)))

seen = {"x3": 1.5, "x11": -1.0}
y, mask = graph.observe(seen)
y, known = y.double(), Mask(mask)
print("observed elements:", known.mask.nonzero().flatten().tolist(), "values:", y[known.mask])

# %% [markdown]
# An observation is $y = H u + \sigma_y \varepsilon$ with a linear $H$; here $H$ keeps two elements.
# For a Gaussian $u \sim N(m, \Sigma)$ the posterior is one formula,
#
# $$u \mid y \sim N\big(m + K (y - H m),\ \Sigma - K H \Sigma\big), \qquad
# K = \Sigma H^\top (H \Sigma H^\top + \sigma_y^2 I)^{-1}.$$


# %%
def exact_posterior(q: Gaussian, H: torch.Tensor, y: torch.Tensor, noise: float) -> Gaussian:
    K = q.covariance @ H.T @ torch.linalg.inv(H @ q.covariance @ H.T + noise**2 * torch.eye(len(H)))
    covariance = q.covariance - K @ H @ q.covariance
    return Gaussian(q.mean + K @ (y - H @ q.mean), (covariance + covariance.T) / 2)


rows = torch.eye(n).double()[known.mask]  # H as a matrix
truth = exact_posterior(data, rows, y[known.mask], 0.0)

# %% [markdown]
# ## Two ways
#
# A conditioned score is a score again: compose first, condition the joint, then sample it with any
# solver. Both ways below change the denoiser $D(u, \sigma) = E[u_0 \mid u_\sigma = u]$.
#
# **Replacement** overwrites what is known, with $H^+$ the pseudo-inverse of $H$:
#
# $$D_y = H^+ y + (I - H^+ H)\, D.$$
#
# **Matched moments** take $u_0$ given $u_\sigma$ for a Gaussian $N(D, V)$ and condition *that* on
# $y$, so that the rest moves along with what is known:
#
# $$D_y = D + V H^\top (H V H^\top + \sigma_y^2 I)^{-1} (y - H D).$$
#
# Methods differ in the $V$ they take. A joint under posterior composition knows it:
# $V = \sigma^2 (I + \sigma^2 P)^{-1}$, with $P$ the composed precision. That is `Composed(joint)`.

# %%
ways = {
    "replacement": replacement(joint, y, known),
    "matched moments": moment_matching(joint, y, known, Composed(joint)),
}
levels = karras(40, 0.002, 80.0)
start = Gaussian(truth.mean * 0, 80.0**2 * torch.eye(n).double())
laws = {name: distribution_reached(score, levels, start, Heun()) for name, score in ways.items()}

# %% [markdown]
# All these scores are linear in the state, so `distribution_reached` computes the distribution of
# the samples, with no sampling error. Here is what it finds, and, in the last row, what the same
# solver makes of the exact score of the posterior: that error is the solver's own.


# %%
def deviation(q: Gaussian) -> torch.Tensor:
    return q.covariance.diagonal().clamp(min=0).sqrt()


print(f"{'':16} {'|Hu - y|':>9} {'error of mean':>14} {'of standard deviation':>22}")
exact = distribution_reached(truth.score, levels, start, Heun())
for name, law in {**laws, "exact score": exact}.items():
    missed = (rows @ law.mean - y[known.mask]).abs().max() + (rows @ deviation(law)).max()
    mean = (law.mean - truth.mean).abs().max()
    spread = (deviation(law) - deviation(truth)).abs().max()
    print(f"{name:16} {missed:9.1e} {mean:14.4f} {spread:22.4f}")
    assert missed < 1e-6
assert (laws["matched moments"].covariance - exact.covariance).abs().max() < 1e-6
assert (laws["replacement"].mean - truth.mean).abs().max() > 0.5

# %% [markdown]
# Both meet the data exactly. Only one is the posterior:


# %% alt="Bands over variables: matched moments cover the exact posterior; replacement does not"
def band(ax, law: Gaussian, colour: str, label: str, filled: bool) -> None:
    low, high = law.mean - 2 * deviation(law), law.mean + 2 * deviation(law)
    ax.plot(place, law.mean, color=colour, lw=1.6, label=label)
    if filled:
        ax.fill_between(place, low, high, color=colour, alpha=0.16, lw=0)
    for edge in () if filled else (low, high):
        ax.plot(place, edge, color=colour, lw=1.2, ls="--")


def bands(laws: dict[str, Gaussian], truth: Gaussian, title: str, points: dict) -> None:
    _, axes = plt.subplots(1, len(laws), figsize=(9, 3.6), sharey=True, layout="constrained")
    for ax, (name, law), colour in zip(axes, laws.items(), (BLUE, ORANGE), strict=True):
        band(ax, truth, INK, "exact posterior, ± 2 deviations", filled=True)
        band(ax, law, colour, f"{name}, ± 2 deviations", filled=False)
        ax.plot(list(points), list(points.values()), "o", color=INK, ms=6, label="observed")
        ax.set_xlabel("variable")
        ax.legend(frameon=False, fontsize=8, loc="upper right")
        ax.set_ylim(-3.6, 5.2)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("value")
    axes[0].figure.suptitle(title, fontsize=10)


bands(laws, truth, "Given x3 = 1.5 and x11 = -1", {3: 1.5, 11: -1.0})

# %% [markdown]
# Replacement pulls single variables to their values and leaves their neighbours behind: the mean
# has spikes, and the band next to an observation is far too wide.
#
# **Why?** Follow $x_4$, the neighbour of an observed variable, down one run. With replacement the
# denoiser sees what is known only through $u_\sigma$, that is, through noise $\sigma$. While noise
# is large it cannot hear it; when noise is small enough, the neighbour is already where it is.


# %% alt="Denoised x4 against σ: matched moments begin at the posterior mean, replacement at 0"
def denoised_neighbour(score) -> tuple[list[float], list[float]]:
    heard: list[tuple[float, float]] = []
    sample(
        score,
        levels,
        shape=(2000, n),
        solver=Heun(),
        generator=0,
        dtype=torch.float64,
        callback=lambda step: heard.append((step["sigma"], step["denoised"][:, 4].mean().item())),
    )
    sigmas, means = zip(*heard, strict=True)
    return list(sigmas), list(means)


heard = {name: denoised_neighbour(score) for name, score in ways.items()}
assert heard["replacement"][1][0] < 0.1  # at σ = 80: the prior's mean
assert abs(heard["matched moments"][1][0] - truth.mean[4]) < 0.02
curves(
    heard,
    xlabel="noise σ, falling from right to left",
    ylabel="mean of the denoised x4",
    title="What the neighbour of x3 = 1.5 hears of it",
    limit=("its posterior mean", truth.mean[4].item()),
    log="x",
)

# %% [markdown]
# ## More steps?
#
# No. The error of replacement is not the solver's. Loss below is the Kullback-Leibler divergence of
# the law reached from the posterior, per variable that is not observed. `Isotropic` is the
# covariance of ΠGDM (Song et al., 2023): $V = r^2 I$ inside the inverse, and the gain carried to
# the rest by the gradient of the denoiser. It needs no covariances, and costs a gradient.

# %% alt="KL against steps: replacement and ΠGDM level off, composed covariances fall on"
free = (~known.mask).nonzero().flatten()


def loss(law: Gaussian) -> float:
    return kl_divergence(law.marginal(free), truth.marginal(free)) / len(free)


conditioned = {
    "replacement": ways["replacement"],
    "matched: Composed(joint)": ways["matched moments"],
    "exact score": truth.score,
    "matched: Isotropic(1.0), ΠGDM": moment_matching(joint, y, known, Isotropic(1.0)),
}
steps = [8, 12, 18, 28, 40, 70, 120]
kl = {
    name: (
        steps,
        [loss(distribution_reached(s, karras(k, 0.002, 80.0), start, Heun())) for k in steps],
    )
    for name, s in conditioned.items()
}
assert min(kl["replacement"][1][-2:]) > 0.1
assert kl["matched: Composed(joint)"][1][-1] < 1e-4
curves(
    kl,
    xlabel="noise levels of the solver (Heun, two evaluations each)",
    ylabel="KL to the posterior, nats per variable",
    title="Replacement is wrong at any number of steps",
    limit=("no conditioning at all", loss(data)),
)

# %%
for name, (_, by_steps) in kl.items():
    print(f"{name:30} KL at 18 levels {by_steps[2]:.5f}, at 120 {by_steps[-1]:.6f}")

# %% [markdown]
# Composed moments follow the exact score: what is left is the solver's own error. That holds for
# Gaussian data Markov to a junction tree; elsewhere $V$ is an approximation, as posterior
# composition is.
#
# One identity is worth knowing. Without its gradient, `Isotropic(jacobian=False)` has $V = r^2 I$
# on both sides, and without noise $V H^\top (H V H^\top)^{-1} = H^+$: it *is* replacement.

# %%
u = data.noised(1.0).sample(3, torch.Generator().manual_seed(0))
plain = moment_matching(joint, y, known, Isotropic(1.0, jacobian=False))
difference = (plain(u, 1.0) - ways["replacement"](u, 1.0)).abs().max()
print(f"largest difference of the two scores: {difference:.1e}")
assert difference < 1e-9

# %% [markdown]
# ## Any linear observation
#
# $H$ may be any linear map: crops, block averages, blurs, mixed channels, matrices. `Stacked` takes
# several at once. Here are the means of four blocks of four variables, and $x_3$ itself; all
# measured with noise of 0.2.

# %% alt="Bands given four block means and a point: composed moments lie on the exact posterior"
noise = 0.2
means, point = block_average((n,), 4), DenseOperator(rows[:1], (n,))
both = Stacked((means, point))
coarse = torch.tensor([1.0, -0.5, -0.5, 0.5, 1.5]).double()  # four means, then x3
matrix = both.A(torch.eye(n).double()).T
given = exact_posterior(data, matrix, coarse, noise)
blocks = {
    "isotropic moments": moment_matching(joint, coarse, both, Isotropic(1.0), noise=noise),
    "composed moments": moment_matching(joint, coarse, both, Composed(joint), noise=noise),
}
reached = {
    name: distribution_reached(score, levels, start, Heun()) for name, score in blocks.items()
}
losses = {name: kl_divergence(law, given) / n for name, law in reached.items()}
print(", ".join(f"{name}: {nats:.5f} nats per variable" for name, nats in losses.items()))
assert losses["composed moments"] < 5e-4 < losses["isotropic moments"]
bands(reached, given, "Given the means of four blocks, and x3, with noise 0.2", {3: 1.5})

# %% [markdown]
# ## The methods, and what they cost
#
# Now all of them, for the two observed variables, without noise and with noise of 0.5. Laws that
# are not linear are fitted to 4000 samples, which costs 0.002 nats or so. A row says, too, how
# often one score asks the joint, and whether it differentiates through it: memory grows with that.
# For
# `reconstruction` (DPS; Chung et al., 2023, and Algorithm 5 of DiffCollage) the weight ζ is to be
# tuned; we took 0.3.


# %%
def asked(condition) -> tuple[int, bool]:
    """How often a score asks the joint, and whether it wants gradients through it."""
    calls: list[bool] = []

    def counted(x, sigma):
        calls.append(x.requires_grad)
        return joint(x, sigma)

    condition(counted, 0.5)(torch.ones(1, n).double(), torch.ones(1).double())
    return len(calls), any(calls)


def loss_with(score, noise: float, linear: bool, sigmas: list[float]) -> tuple[float, float]:
    """KL per variable that is not observed, and the deviation of x3."""
    target = exact_posterior(data, rows, y[known.mask], noise)
    if linear:
        law = distribution_reached(score, sigmas, start, Heun())
    else:
        draws = sample(
            score, sigmas, shape=(4000, n), solver=Heun(), generator=0, dtype=torch.float64
        )
        law = Gaussian.fit(draws)
    kl = kl_divergence(law.marginal(free), target.marginal(free)) / len(free)
    return kl, deviation(law)[3].item()


def matched(V):
    return lambda score, s: moment_matching(score, y, known, V, noise=s)


methods = {  # score, noise -> conditioned score; is it linear; rounds of every ten levels
    "nothing: the prior": (lambda score, s: score, True, 1),
    "replacement": (lambda score, s: replacement(score, y, known), True, 1),
    "replacement, 4 rounds": (lambda score, s: replacement(score, y, known), False, 4),
    "reconstruction, dps(0.3)": (
        lambda score, s: reconstruction(score, y, known, dps(0.3)),
        False,
        1,
    ),
    "Isotropic(1.0): ΠGDM": (matched(Isotropic(1.0)), True, 1),
    "Tweedie()": (matched(Tweedie()), True, 1),
    "Composed(joint)": (matched(Composed(joint)), True, 1),
}
losses = {}
print(
    f"{'':24} {'KL, noise 0':>12} {'noise 0.5':>9} {'x3 ±':>6} {'evaluations':>12} "
    f"{'gradients':>10}"
)
for name, (condition, linear, rounds) in methods.items():
    schedule = time_travel(levels, 10, rounds - 1) if rounds > 1 else levels
    without, _ = loss_with(condition(joint, 0.0), 0.0, linear, schedule)
    noisy, spread = loss_with(condition(joint, 0.5), 0.5, linear, schedule)
    often, gradient = asked(condition)
    losses[name] = without, noisy, spread
    print(
        f"{name:24} {without:12.4f} {noisy:9.4f} {spread:6.3f} {rounds * often:12d} {gradient!s:>9}"
    )
noisy_truth = exact_posterior(data, rows, y[known.mask], 0.5)
by_exact_score = [loss_with(q.score, s, True, levels) for q, s in ((truth, 0), (noisy_truth, 0.5))]
(without, _), (noisy, right) = by_exact_score
print(f"{'exact score':24} {without:12.4f} {noisy:9.4f} {right:6.3f}")
for name in ("Tweedie()", "Composed(joint)"):
    assert max(losses[name][:2]) < 1e-3
    assert abs(losses[name][2] - right) < 1e-4
assert losses["replacement"][2] < 1e-6 < right  # it takes what is noisy for the truth

# %% [markdown]
# - `x3 ±` is the standard deviation of an observed variable under noisy data. Replacement leaves it
#   none: it takes what was measured for the truth. ΠGDM leaves it too much.
# - Going up and down the schedule again and again (RePaint) lets what is known be heard; it mends
#   part of the error, for so many times the evaluations.
# - `Tweedie()` and `Composed(joint)` are exact here. `Tweedie` wants a score that is a gradient;
#   that of posterior composition is not one for data that are no Gaussians, and there it can fail.
#
# ## A real series with a gap
#
# Half-hourly anomalies of the sea's surface temperature, 32 hours at a time, with 12 hours cut out.
# The model (bundled) knows pieces of 8 hours. The series is held out from its training, so we know
# what should be in the gap: we can ask whether the bands deserve their name.

# %% alt="32 hours as 7 windows of 16 values, +1 each, and their 6 overlaps, −1 each"
from benchmarks.data.sea import sea_denoiser, sea_parts

LENGTH, SAMPLES = 64, 19
train, held_out = sea_parts()
series = tiles((1, LENGTH), (1, 16), (0, 8))
pieces = train.unfold(1, LENGTH, 12).reshape(-1, 1, LENGTH)
sea = compose(
    series,
    from_denoiser(sea_denoiser()),
    rule=Posterior(fit_covariances(series, pieces, shared=True)),
    max_batch=256,
)
plot(series, title="7 pieces of 8 hours (+1) and their overlaps (-1)")

# %%
truths = held_out.unfold(1, LENGTH, 192).reshape(-1, 1, LENGTH)[::2]
there = torch.ones(1, LENGTH, dtype=torch.bool)
there[:, 20:44] = False
observed = truths.repeat_interleave(SAMPLES, dim=0)  # one observation a sample
filled = {}
for name, score in {
    "replacement": replacement(sea, observed, there),
    "composed moments": moment_matching(sea, observed * there, Mask(there), Composed(sea)),
}.items():
    u = sample(
        score,
        karras(15, 0.01, 20.0),
        shape=observed.shape,
        solver=DPMSolver2M(eta=1.0, rho=7.0),
        generator=0,
    )
    print(f"{name:16} |Hu - y| = {((u - observed) * there).abs().max():.1e}")
    filled[name] = u.reshape(len(truths), SAMPLES, LENGTH)

# %% [markdown]
# Two measures of what fills the gaps. *Coverage*: of 19 samples, the truth should lie between the
# second smallest and the second largest 16 times in 20, since all 20 ranks are as likely. *CRPS*,
# the continuous ranked probability score $E|u - u^*| - \frac12 E|u - u'|$, averaged over places:
# the smaller the better, and smallest in expectation for the true posterior.

# %%
hole = ~there[0]
hidden = truths[:, 0, hole]


def inner(samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The second smallest and second largest of 19 samples, `[..., 19, n]`."""
    ranked = samples.sort(dim=-2).values
    return ranked[..., 1, :], ranked[..., -2, :]


def crps(samples: torch.Tensor) -> torch.Tensor:
    error = (samples - hidden[:, None]).abs().mean(dim=1)
    apart = (samples[:, :, None] - samples[:, None]).abs().sum(dim=(1, 2))
    return (error - apart / (2 * SAMPLES * (SAMPLES - 1))).mean(dim=1)


scores = {}
for name, u in filled.items():
    low, high = inner(u[..., hole])
    covered = ((hidden > low) & (hidden < high)).float().mean()
    scores[name] = crps(u[..., hole])
    print(
        f"{name:16} coverage {covered:.2f}, width {(high - low).mean():.2f}, "
        f"CRPS {scores[name].mean():.3f}"
    )
    assert 0.65 < covered < 0.95
gain = scores["replacement"] - scores["composed moments"]
print(
    f"gain in CRPS, paired: {gain.mean():.3f} ± {gain.std() / len(gain) ** 0.5:.3f} (1 std. error)"
)
assert gain.mean() > 2 * gain.std() / len(gain) ** 0.5


# %% alt="Two gaps in the sea series with sample bands: composed moments narrower and nearer truth"
def gaps(chosen: tuple[int, ...]) -> None:
    figure, axes = plt.subplots(
        len(chosen),
        2,
        figsize=(9, 2.7 * len(chosen)),
        sharex=True,
        sharey="row",
        layout="constrained",
    )
    hours = torch.arange(LENGTH) / 2
    for row, case in zip(axes, chosen, strict=True):
        for ax, u, colour in zip(row, filled.values(), (BLUE, ORANGE), strict=True):
            low, high = inner(u[case])
            ax.fill_between(
                hours,
                low,
                high,
                color=colour,
                alpha=0.25,
                lw=0,
                label="between the second of 19 samples on either side",
            )
            ax.plot(hours, u[case, :3].T, color=colour, lw=0.7)
            shown = truths[case, 0].clone()
            ax.plot(hours, shown, color=INK, lw=1.3, label="truth")
            ax.axvspan(10, 22, color=GREY, alpha=0.12, lw=0, label="hidden")
            ax.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("anomaly, deviations")
    for ax, name in zip(axes[0], filled, strict=True):
        ax.set_title(name, loc="left", fontsize=10)
    for ax in axes[-1]:
        ax.set_xlabel("hours")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("A gap of 12 hours in held-out sea temperatures", fontsize=10)


gaps((2, 9))

# %% [markdown]
# Bands of both cover what they should, nearly. But those of replacement are wide because it has
# heard little: at the edges of the gap its samples jump to the data. Composed moments use what
# is known on both sides: narrower bands, smaller error. Nothing here is Gaussian, nor are the
# networks perfect: this is measured, not promised.
#
# ## Pictures
#
# The gravel model knows patches of 16 × 16. Images are 32 × 96, of windows that overlap by half. No
# covariances here, so the choices are replacement and ΠGDM (`Isotropic`, with the standard
# deviation of a pixel).

# %%
from pgmdiff.models.gravel import SIGMA_DATA, gravel_denoiser, gravel_image

HEIGHT, WIDTH = 32, 96
tiled = tiles((1, HEIGHT, WIDTH), (1, 16, 16), (0, 8, 8))
gravel = compose(tiled, from_denoiser(gravel_denoiser()), max_batch=32)
photograph = gravel_image()
crops = random_crops(photograph, (HEIGHT, WIDTH), 6, generator=2)
real = crops[0]


def drawn(score, seed: int = 0, n: int = 1) -> torch.Tensor:
    return sample(
        score,
        karras(18, 0.01, 10.0),
        shape=(n, 1, HEIGHT, WIDTH),
        solver=DPMSolver2M(eta=1.0, rho=7.0),
        generator=seed,
    )


def both_ways(y, operator, n: int = 1) -> dict[str, torch.Tensor]:
    images = {
        "replacement": drawn(replacement(gravel, y, operator), n=n),
        "ΠGDM": drawn(moment_matching(gravel, y, operator, Isotropic(SIGMA_DATA)), n=n),
    }
    for name, image in images.items():
        print(f"{name:12} |Hu - y| = {(operator.A(image) - y).abs().max():.1e}")
    assert (operator.A(images["replacement"]) - y).abs().max() < 1e-5
    return images


def show(images: dict[str, torch.Tensor], title: str, box=None) -> None:
    rows = -(-len(images) // 2)
    figure, axes = plt.subplots(
        rows, 2, figsize=(9, 1.75 * rows + 0.4), squeeze=False, layout="constrained"
    )
    for ax in axes.flat:
        ax.axis("off")
    for ax, (name, image) in zip(axes.flat, images.items(), strict=False):
        ax.imshow(image.squeeze(), cmap="gray", vmin=-1, vmax=1, extent=(0, WIDTH, HEIGHT, 0))
        ax.set_title(name, loc="left", fontsize=10)
        for left, right in box or ():
            ax.plot([left, left], [-0.5, HEIGHT + 0.5], color="#b2182b", lw=0.9, ls=":")
            ax.plot([right, right], [-0.5, HEIGHT + 0.5], color="#b2182b", lw=0.9, ls=":")
    figure.suptitle(title, fontsize=11)


# %% [markdown]
# **Inpainting.** A hole of 24 columns, from top to bottom, in six crops of the photograph.

# %% alt="Gravel with a hole of 24 columns, filled by replacement and by ΠGDM, beside the original"
around = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
around[..., 36:60] = False
several = both_ways(crops * around, Mask(around), n=6)  # one observation a sample
show(
    {"original": real, "observed": real * around, **{k: v[0] for k, v in several.items()}},
    "Inpainting: what is between the dotted lines is new",
    box=[(36, 60)],
)

# %% [markdown]
# Look at the dotted lines: does a stone that begins outside go on inside? The seam ratio is the
# mean step from pixel to pixel across these lines, over the mean step everywhere else, here over
# all six crops; the crops themselves are what to compare with.

# %%
edges = (36, 60)
ratios = {name: seam_ratio(images, edges) for name, images in several.items()}
ratios["the crops themselves"] = seam_ratio(crops, edges)
print(", ".join(f"{name}: {ratio:.2f}" for name, ratio in ratios.items()))

# %% [markdown]
# **Super-resolution.** Observed are means of 4 × 4 pixels, and no more. All samples have these
# means; the rest is the model's.

# %% alt="Gravel from means of 4 × 4 pixels: stones in the right places, too contrasty with ΠGDM"
shrink = block_average((1, HEIGHT, WIDTH), 4)
small = shrink.A(real[None])[0]
sharp = both_ways(small, shrink)
enlarged = small.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
show(
    {"original": real, "observed: 8 × 24 pixels": enlarged, **sharp},
    "Super-resolution, 4 times on each axis",
)

# %%
for name, image in {"enlarged pixels": enlarged, **sharp}.items():
    rms = (image - real).square().mean().sqrt()
    print(f"{name:16} root mean square error {rms:.3f}, standard deviation {image.std():.3f}")
print(f"{'original':16} {'':27} standard deviation {real.std():.3f}")

# %% [markdown]
# Do not be surprised that enlarged pixels have the smaller error: the mean of all answers always
# has, and no stone looks like it. A sample is judged by whether it could be the original. By
# this measure ΠGDM's could not: it is more contrasty than the original, and the further from it.
#
# **Connecting two pieces.** Two crops from different places of the photograph, and a bridge of 32
# columns between them; three seeds, three bridges.

# %% alt="Two different crops of gravel joined without a bridge, and by three different bridges"
left, right = photograph[:, 8:40, 8:40], photograph[:, 200:232, 190:222]
ends = torch.cat([left, torch.zeros(1, HEIGHT, 32), right], dim=2)
given_ends = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
given_ends[..., 32:64] = False
bridge = moment_matching(gravel, ends, Mask(given_ends), Isotropic(SIGMA_DATA))
bridges = {f"bridge, seed {seed}": drawn(bridge, seed)[0] for seed in range(3)}
show({"given: two ends": ends, **bridges}, "Connecting two pieces", box=[(32, 64)])

# %%
joined = torch.cat([left, right], dim=2)
stacked = torch.stack(list(bridges.values()))
missed = ((stacked - ends) * given_ends).abs().max()
print(f"seam ratio, put side by side: {seam_ratio(joined, [32]):.2f}")
print(
    f"seam ratio, with a bridge:    {seam_ratio(stacked, (32, 64)):.2f};  |Hu - y| = {missed:.1e}"
)
assert seam_ratio(stacked, (32, 64)) < seam_ratio(joined, [32])

# %% [markdown]
# **Outpainting** is the same with the known part in the middle; all around is drawn *at once*, not
# outwards window by window.

# %% alt="A crop of gravel of 24 columns continued to both sides, twice"
core = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
core[..., 36:60] = True
outward = moment_matching(gravel, real * core, Mask(core), Isotropic(SIGMA_DATA))
outpainted = {f"seed {seed}": drawn(outward, seed)[0] for seed in range(2)}
show(
    {"original": real, "observed": real * core, **outpainted},
    "Outpainting: what is outside the dotted lines is new",
    box=[(36, 60)],
)

# %% [markdown]
# ## Which to take
#
# | you have | take | exact for |
# |---|---|---|
# | posterior or evidence composition | `Composed(joint)` | Gaussian data, Markov to a tree |
# | a score that is a gradient, and small states | `Tweedie()` | Gaussian data, exact scores |
# | images, no covariances | `Isotropic(data_std)`: ΠGDM | covariance a multiple of $I$ |
# | no gradients either, exact data | `replacement` | nothing; meets the data |
# | an observation that is not linear | `Tweedie()`, or `reconstruction` with a function | nothing |
#
# Whichever you take, check both: $|Hu - y|$, and, where you can, samples against truths that you
# hid.
#
# ## Exercises
#
# 1. Move the two observed variables next to each other, `x3` and `x4`. Does replacement get better
#    or worse? Explain with the figure of what a neighbour hears.
# 2. Compose the chain with `Marginal()` in place of `Posterior(...)`, and condition it with
#    `Tweedie()`. What is the loss now, and which part of it is due to conditioning?
# 3. Make `tiled` periodic along its last axis and connect the *end* of a given crop with its
#    *beginning*: a loop through a photograph.
#
# ## Where to go next
#
# "Bring your own model" (07) does all this with networks of your own; the page "Conditioning" of
# the documentation lists all operators, and observations that are not linear.
