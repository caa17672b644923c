# %% [markdown]
# # The Bethe approximation, seen
#
# A sensor sends a reading every hour. You have a model of *two* successive readings and want series
# of twenty, so you put the pairs together in a chain, add up their scores, and sample. The series
# forget too soon: readings five hours apart are hardly correlated. You take four times as many
# steps, and nothing changes.
#
# We look at the samples (1), at what the sum of scores counts (2), where it is exact and where it
# is not (3), and at what more steps, longer pieces and another rule do about it (4). The data is
# Gaussian, so that the truth is known and the models of pieces are exact: every error that you see
# is that of the composition. The notebook takes about 10 seconds on one core.

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from pgmdiff import Consistent, Gaussian, compose, karras, sample, tiles
from pgmdiff.diagnostics import distribution_reached, mean_and_error
from pgmdiff.gaussian import ar1, composed_precision, kl_divergence, node_covariances, node_scores
from pgmdiff.graphs import chain
from pgmdiff.plotting import curves, plot
from pgmdiff.samplers import Heun

torch.set_num_threads(1)  # for matrices this small, several threads are slower than one
N, RHO = 20, 0.95  # readings, and the correlation of successive ones

# %% [markdown]
# ## 1. Series from pairs
#
# `chain` joins successive readings by factors, `node_scores` stands for your models, and `compose`
# adds up their scores. We sample ten sets of 500 series and compare the correlations of the first
# reading with later ones, as means over the sets with their standard errors. *Real* series are
# samples of the true distribution, in which the correlation is $0.95^d$ after $d$ hours.

# %%
truth, graph = ar1(N, RHO), chain(N)
models = node_scores(graph, truth)
joint = compose(graph, models)
right = compose(graph, models, rule=Consistent(node_covariances(graph, truth)))
SETS, SIZE, HOURS = range(10), 500, (1, 5, 10)


def drawn(score, levels: int) -> list[Tensor]:
    options = {"shape": (SIZE, N), "dtype": torch.float64}
    return [sample(score, karras(levels, 0.002, 80.0), generator=k, **options) for k in SETS]


series = {
    "real": [truth.sample(SIZE, 100 + k) for k in SETS],
    "pairs, 20 levels": drawn(joint, 20),
    "pairs, 80 levels": drawn(joint, 80),
    "pairs, Consistent": drawn(right, 20),
}
lost = {
    name: [mean_and_error([u.T.corrcoef()[0, d].item() for u in sets]) for d in range(N)]
    for name, sets in series.items()
}
print("correlation, hours apart " + "".join(f"{d:>17}" for d in HOURS))
print("formula                  " + "".join(f"{RHO**d:>9.3f}        " for d in HOURS))
for name, by_hour in lost.items():
    print(f"{name:25}" + "".join("{:9.3f} ± {:.3f}".format(*by_hour[d]) for d in HOURS))
assert lost["pairs, 80 levels"][5][0] + 4 * lost["pairs, 80 levels"][5][1] < 0.2 * RHO**5
assert abs(lost["pairs, Consistent"][5][0] - RHO**5) < 4 * lost["pairs, Consistent"][5][1]

# %% tags=["hide-input"] alt="Series that begin high: real ones stay high, those of pairs do not"
figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
for axis, name in zip(axes, ("real", "pairs, 80 levels"), strict=False):
    high = torch.cat([u[u[:, 0] > 1.2] for u in series[name]])
    axis.plot(high[:30].T, color="#9fc3e0", lw=0.7)
    axis.plot(high.mean(dim=0), color="#08406e", lw=2.5)
    axis.axhline(0, color="#2b2b2b", lw=0.8)
    axis.set(xlabel="hour", ylim=(-3, 3.4), xticks=range(0, N, 5))
    axis.set_title(f"begun above 1.2: {name}", loc="left", fontsize=10)
styles = ("#2b2b2b", "-"), ("#dd7a1f", "-"), ("#8f3e00", "--"), ("#2f7fbd", "-")
for (name, by_hour), (colour, line) in zip(lost.items(), styles, strict=True):
    mean, error = zip(*by_hour, strict=True)
    axes[2].errorbar(range(N), mean, error, color=colour, ls=line, lw=1.4, label=name)
axes[2].set(xlabel="distance in hours", ylim=(-0.15, 1.05), xticks=range(0, N, 5))
axes[2].set_title("correlation with the first", loc="left", fontsize=10)
axes[2].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# Four times as many levels give the same wrong correlations. Another rule, `Consistent`, gives the
# right ones from the same models of pairs. Before we come to it: what does the sum do?
#
# ## 2. Every reading is counted once
#
# If the densities of all pairs were multiplied, each inner reading would enter twice, with the pair
# on its left and with the pair on its right. So the densities of single readings are divided out:
# each piece $r$ has a *counting number* $c_r$, +1 for a pair, and $1 - d$ for a variable in $d$
# pairs. This is the Bethe approximation, and its score is the rule of DiffCollage, `Marginal`:
#
# $$p(u) = \prod_r q(u_r)^{c_r}, \qquad
# s(u, \sigma) = \sum_r c_r \, A_r^\top \, s_r(A_r u, \sigma),$$
#
# where $A_r$ cuts piece $r$ out of the whole.

# %% tags=["hide-input"] alt="A line of circles and squares: squares +1, inner circles −1, ends 0"
plot(chain(6), title="A chain of six readings and its counting numbers")

# %% [markdown]
# Does it matter? The log density of a Gaussian is $-\frac12 u^\top J u$, so products of densities
# are sums of precisions $J$, and we can look at the result without sampling. Here are three
# readings, with pairs alone and with the middle one divided out:

# %%
three, q = chain(3), ar1(3, 0.9)


def product(counts: dict) -> Tensor:
    """The covariance of the product of the densities of pieces, raised to their counts."""
    total = torch.zeros_like(q.covariance)
    for name, count in counts.items():
        i = three.elements(name).reshape(-1)
        total[i[:, None], i] += count * torch.linalg.inv(q.covariance[i[:, None], i])
    return torch.linalg.inv(total)


counts = three.counting_numbers()
middle_twice, bethe = product({**counts, "x1": 0}), product(counts)
print("counts:", counts, "\nvariances:")
for name, c in {"truth": q.covariance, "pairs alone": middle_twice, "Bethe": bethe}.items():
    print(f"{name:13}" + "  ".join(f"{variance:.2f}" for variance in c.diagonal()))
assert torch.allclose(bethe, q.covariance)
assert middle_twice.diagonal().max() < 0.6

# %% [markdown]
# Counted twice, the middle reading is far too certain, and its neighbours with it. Counted once,
# all is as it should be, not only the variances: `bethe` equals the true covariance.
#
# ## 3. Exact without noise, and only then
#
# A diffusion model does not see $u_0$ but $u_\sigma = u_0 + \sigma \varepsilon$. For Gaussian data
# its score is $-J(\sigma)\, u$, so we can compare the composed matrix $J$ with the true one, the
# inverse of $\Sigma + \sigma^2 I$:

# %% tags=["hide-input"] alt="Precisions: equal at σ = 0; at σ = 1 only the true one is full"
short = ar1(8, 0.9)
figure, axes = plt.subplots(2, 3, figsize=(8, 5.2), layout="constrained")
for row, sigma in zip(axes, (0.0, 1.0), strict=True):
    true = torch.linalg.inv(short.noised(sigma).covariance)
    composed = composed_precision(chain(8), short, sigma)
    scale = 0.3 * true.abs().max().item()  # small entries become visible
    titles = ("true", "composed from pairs", "composed - true")
    for axis, title, matrix in zip(row, titles, (true, composed, composed - true), strict=True):
        picture = axis.imshow(matrix, cmap="RdBu", vmin=-scale, vmax=scale)
        axis.set_title(f"σ = {sigma:g}: {title}", fontsize=10)
        axis.set(xticks=[], yticks=[])
    figure.colorbar(picture, ax=row, shrink=0.85, extend="both")
plt.show()

# %%
for sigma in (0.0, 0.1, 1.0, 10.0):
    true = torch.linalg.inv(short.noised(sigma).covariance)
    error = (composed_precision(chain(8), short, sigma) - true).abs().max() / true.abs().max()
    c = ar1(3, 0.9).noised(sigma).covariance
    left = c[0, 2] - c[0, 1] * c[1, 2] / c[1, 1]
    print(f"σ = {sigma:4}: relative error {error:.0e}; ", end="")
    print(f"covariance of x and z given the noisy y: {left:.3f}")
    assert abs(left - 0.81 * sigma**2 / (1 + sigma**2)) < 1e-12
    assert (error < 1e-12) == (sigma == 0)

# %% [markdown]
# Without noise the two agree up to rounding, because the chain has no loops and the data is Markov:
# given a reading, those before it and those after it are independent. With noise the true matrix is
# full, and a sum over pairs cannot be.
#
# Three readings $x, y, z$ show why (the last column above). The clean $y$ explains
# everything that $x$ and $z$ have in common. The noisy $y$ is known only roughly, so that
#
# $$\operatorname{Cov}(x_\sigma, z_\sigma \mid y_\sigma) = \rho^2 \, \frac{\sigma^2}{1 + \sigma^2}$$
#
# is left of it. *Noised readings of a Markov chain are not a Markov chain*, and what pairs cannot
# say is lost at every level of noise that a sampler passes. The last step, at σ = 0, is right and
# comes too late.
#
# ## 4. More steps, longer pieces, another rule
#
# Which of them helps? For Gaussians a solver is a linear map, and `distribution_reached` computes
# where it ends. The Kullback-Leibler (KL) divergence from there to the truth is therefore exact and
# has no standard error.

# %%
start = Gaussian(truth.mean, 80.0**2 * torch.eye(N, dtype=torch.float64))
steps = [10, 14, 20, 28, 40, 60, 80]


def nats(score, levels: int) -> float:
    """The KL divergence of samples, per reading."""
    reached = distribution_reached(score, karras(levels, 0.002, 80.0), start, Heun())
    return kl_divergence(reached, truth) / N


longer = {f"windows of {w}": tiles((N,), w, w - 2) for w in (4, 8)}
scores = {
    "pairs": joint,
    **{name: compose(each, node_scores(each, truth)) for name, each in longer.items()},
    "pairs, Consistent": right,
    "exact score": truth.score,
}
kl = {name: (steps, [nats(score, k) for k in steps]) for name, score in scores.items()}
print("nats per reading  " + "".join(f"{k:>10} levels" for k in (20, 40, 80)))
for name, (_, values) in kl.items():
    print(f"{name:18}" + "".join(f"{values[steps.index(k)]:17.5f}" for k in (20, 40, 80)))
assert kl["pairs"][1][steps.index(80)] > kl["pairs"][1][steps.index(20)] > 0.6
assert kl["windows of 8"][1][-1] < kl["pairs"][1][-1] / 30
assert max(abs(a - b) for a, b in zip(*(kl[k][1] for k in list(kl)[3:]), strict=True)) < 1e-4

# %% tags=["hide-input"] alt="KL by levels: pairs and windows level off, Consistent does not"
curves(
    kl,
    xlabel="noise levels (Heun, two evaluations per level)",
    ylabel="KL, nats per reading",
    title="Steps do not help; longer pieces do, and another rule does entirely",
)

# %% [markdown]
# Pairs and windows level off: each ends at a distribution of its own, however many steps lead
# there. Longer windows end closer, because they contain more of what noise hides. `Consistent`
# composes the distributions of *clean* readings, given the noisy ones, and these are a product over
# the pairs at every level of noise. For Gaussian data it is as good as the exact score.
#
# ## What to remember
#
# - Counting numbers make every element count once. For clean data that is Markov with respect to a
#   graph without loops, the sum of scores is then exact.
# - With noise it is an approximation. Steps do not reduce its error; longer pieces, or
#   `Consistent`, do. `pgmdiff.advise(graph, covariance)` predicts it for your data, before you
#   sample.
#
# **To copy:** `compose(graph, models, rule=Consistent(fit_covariances(graph, data)))`.
#
# **Exercise.** Replace `chain` by `cycle`, and let the last reading be followed by the first. Is
# the sum of scores still exact at σ = 0? (`ar1` is not Markov with respect to a cycle;
# `testing.markov_gaussian` makes a Gaussian that is.)
#
# **Where to go next.** The pages [counting numbers](../concepts/counting_numbers.md) and
# [exactness](../concepts/exactness.md) tell the whole story, loops included. [Tutorial
# 02](02_draw_any_graph.ipynb) draws graphs other than chains, and [tutorial
# 05](05_samples_that_are_right.ipynb) explains `Consistent`.
