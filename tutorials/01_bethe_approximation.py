# %% [markdown]
# # The Bethe approximation, seen
#
# You have models of *pieces* and want the *whole*. This lesson builds the whole from its pieces on
# the one family of distributions where everything can be checked, Gaussians:
#
# 1. why pieces have to be **counted**, and which numbers do it;
# 2. the approximation's **entropy** and **score**, next to the true ones;
# 3. where the score is **exact** (no noise, no loops) and **how wrong** it is elsewhere;
# 4. what that costs a **sampler**, and what helps.
#
# Nothing here is learned, and every figure is computed, not estimated from samples.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap

from pgmdiff import Posterior, compose
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import (
    Gaussian,
    bethe_entropy,
    composed_precision,
    kl_divergence,
    node_covariances,
    node_scores,
)
from pgmdiff.graphs import chain, cycle, tiles
from pgmdiff.plotting import curves, plot
from pgmdiff.samplers import Heun, karras

BLUE, ORANGE, GREY, INK = "#2f7fbd", "#dd7a1f", "#8a8f94", "#2b2b2b"

# %% [markdown]
# ## A whole and its pieces
#
# The whole is a chain of $n$ numbers, each correlated with the next by $\rho$ (an AR(1) series):
# $\operatorname{Cov}(u_i, u_j) = \rho^{|i - j|}$. It is *Markov*: given $u_i$, what came before and
# what comes after are independent. So pairs of neighbours say all there is to say, and a *factor
# graph* writes down which pairs. Circles are variables, squares are factors.


# %%
def ar1(n: int, rho: float) -> Gaussian:
    place = torch.arange(n, dtype=torch.float64)
    return Gaussian(torch.zeros(n, dtype=torch.float64), rho ** (place[:, None] - place).abs())


# %% alt="Six circles in a line with five squares between: squares +1, inner circles −1, ends 0"
plot(chain(6), title="A chain of six variables, and its counting numbers")

# %% [markdown]
# The number in each node is its *counting number*: +1 for a factor, $1 - d$ for a variable in $d$
# factors. The approximation of Bethe is the product
#
# $$p(u) = \prod_f q(u_f) \; \prod_x q(u_x)^{1 - d_x}.$$
#
# ## Why count?
#
# Multiply the five pair densities alone, and each inner variable enters twice, once with each
# neighbour. The variables' own densities take the second time away again.

# %% alt="Bars: factors count inner variables twice, variables take one away; the sum is 1"
graph = chain(6)
numbers = graph.counting_numbers()
from_factors = np.zeros(6)
for factor in graph.factors:
    from_factors[graph.regions.elements(factor)] += numbers[factor]
from_variables = np.array([numbers[variable] for variable in graph.variables])
assert (from_factors + from_variables == 1).all()


def bars() -> None:
    _, ax = plt.subplots(figsize=(7.5, 3))
    places = np.arange(6)
    ax.bar(places, from_factors, 0.6, color=BLUE, label="by factors")
    ax.bar(places, from_variables, 0.6, color=ORANGE, label="by variables")
    ax.plot(places, from_factors + from_variables, "D", color=INK, label="in all")
    ax.axhline(0, color=INK, lw=0.8)
    ax.set_xticks(places, [f"$x_{i}$" for i in places])
    ax.set_xlabel("variable")
    ax.set_ylabel("times counted")
    ax.set_title("Each variable is counted once in all", loc="left", fontsize=10)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


bars()

# %% [markdown]
# What does double counting do? A Gaussian density has the log $-\frac12 u^\top J u$ with a
# precision matrix $J$, so multiplying densities adds up precisions. With $A_r$ the matrix that
# picks region $r$ out of the whole, and $\Sigma_r$ its covariance,
#
# $$J = \sum_r c_r \, A_r^\top \Sigma_r^{-1} A_r.$$
#
# Take three variables $x, y, z$ with $\rho = 0.9$, once with $c_y = 0$ (pairs alone) and once with
# Bethe's $c_y = -1$.


# %%
def precision(graph, counts, q):
    total = torch.zeros_like(q.covariance)
    for name, count in counts.items():
        i = graph.regions.elements(name).reshape(-1)
        total[i[:, None], i] += count * torch.linalg.inv(q.covariance[i[:, None], i])
    return total


three, q = chain(3), ar1(3, 0.9)
counted = three.counting_numbers()
pairs_alone = precision(three, {**counted, "x1": 0}, q).inverse()
bethe = precision(three, counted, q).inverse()
print(f"variance of x, y, z      truth: {q.covariance.diagonal().tolist()}")
print(f"                   pairs alone: {[round(v, 3) for v in pairs_alone.diagonal().tolist()]}")
print(f"                         Bethe: {[round(v, 3) for v in bethe.diagonal().tolist()]}")
assert torch.allclose(bethe, q.covariance)
assert pairs_alone.diagonal().max() < 0.6


# %% alt="Two plots of ellipses: pairs alone are too narrow; Bethe's ellipse lies on the true one"
def ellipse(covariance, i: int, j: int):
    angle = torch.linspace(0, 2 * torch.pi, 200, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()])
    return torch.linalg.cholesky(covariance[[i, j]][:, [i, j]]) @ circle


def ellipses() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.8), layout="constrained")
    for ax, (i, j) in zip(axes, ((0, 1), (0, 2)), strict=True):
        ax.plot(*ellipse(q.covariance, i, j), color=INK, lw=4, alpha=0.35, label="truth")
        ax.plot(*ellipse(pairs_alone, i, j), color=ORANGE, ls="--", label="pairs alone: y twice")
        ax.plot(*ellipse(bethe, i, j), color=BLUE, lw=1.4, label="Bethe: y once")
        ax.set_xlabel("xyz"[i])
        ax.set_ylabel("xyz"[j])
        ax.set_aspect("equal")
    figure.suptitle("One standard deviation of two of the three variables", fontsize=10)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )


ellipses()

# %% [markdown]
# Counted twice, $y$ becomes too sure of itself, and pulls its neighbours along. With Bethe's counts
# the ellipses of truth and approximation are one.
#
# ## Entropy
#
# The same counts add up entropies, $H_\text{Bethe} = \sum_r c_r H(q_r)$. On the chain that is the
# true entropy: all the entropies of pairs, less what they share.
#
# Close the chain to a ring and it is not. Pieces are true marginals still, and each element is
# still counted once: $n$ pairs +1 and $n$ variables -1. But the information in the last pair, which
# closes the ring, was partly known already from the way round, and is subtracted all the same.


# %%
def ring(n: int, rho: float) -> Gaussian:
    """A Gaussian on a ring, Markov to it: correlation goes both ways round."""
    place = torch.arange(n, dtype=torch.float64)
    apart = (place[:, None] - place).abs()
    covariance = (rho**apart + rho ** (n - apart)) / (1 + rho**n)
    return Gaussian(torch.zeros(n, dtype=torch.float64), covariance)


assert torch.linalg.inv(ring(8, 0.9).covariance)[0, 2:-1].abs().max() < 1e-10  # Markov indeed

# %% alt="Left: both entropies of a chain coincide. Right: the gap on rings grows with ρ"
rhos = np.linspace(0.05, 0.95, 19).tolist()
on_chain = {
    "true entropy": (rhos, [ar1(8, rho).entropy() for rho in rhos]),
    "Bethe entropy": (rhos, [bethe_entropy(chain(8), ar1(8, rho)) for rho in rhos]),
}


def missing(n: int, rho: float) -> float:
    return ring(n, rho).entropy() - bethe_entropy(cycle(n), ring(n, rho))


on_rings = {f"ring of {n}": (rhos, [missing(n, rho) for rho in rhos]) for n in (4, 8, 16)}
assert np.allclose(on_chain["true entropy"][1], on_chain["Bethe entropy"][1])
print("what Bethe's entropy of a ring of 8 is short of, in nats:")
for rho in (0.5, 0.7, 0.9):
    print(f"  ρ = {rho}: {missing(8, rho):.4f} of {ring(8, rho).entropy():.4f}")
    assert missing(8, rho) > 0


def entropies() -> None:
    _, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
    rho, nats = "correlation ρ of neighbours", "nats"
    curves(on_chain, xlabel=rho, ylabel=nats, title="chain of 8: equal", log="", ax=axes[0])
    curves(on_rings, xlabel=rho, ylabel=nats, title="rings: true - Bethe", log="y", ax=axes[1])
    axes[1].set_ylim(1e-6, 10)


entropies()

# %% [markdown]
# A loop is felt only as far as correlation reaches around it. With weak correlation the ring is as
# good as a chain.
#
# ## Score
#
# Diffusion models know no densities, but *scores*, $s(u) = \nabla \log q(u)$. Products of densities
# are sums of scores, and the normalising constant, which nobody can compute, drops out. This is the
# rule of DiffCollage (Zhang et al., 2023), written out:
#
# $$s(u, \sigma) = \sum_r c_r \, A_r^\top \, s_r(A_r u, \sigma).$$
#
# Each region's model sees its part of the state, and its answer is added up in its place.

# %%
n, rho, sigma = 8, 0.9, 1.0
graph, truth = chain(n), ar1(n, rho)
u = truth.noised(sigma).sample(3, torch.Generator().manual_seed(0))

by_hand = torch.zeros_like(u)
for region, count in graph.counting_numbers().items():
    part = graph.regions.elements(region)
    by_hand[:, part] += count * truth.marginal(part).score(u[:, part], sigma)

joint = compose(graph, node_scores(graph, truth))
print(f"largest difference to compose(): {(by_hand - joint(u, sigma)).abs().max():.1e}")
assert torch.allclose(by_hand, joint(u, sigma))

# %% [markdown]
# `compose` does the same for any graph, in batches: regions of one model and one shape are one
# call.
#
# ## Exact without noise, an approximation with it
#
# A diffusion model works at noise levels $\sigma > 0$: it knows the score of
# $u_\sigma = u_0 + \sigma \varepsilon$. Of a Gaussian that is again linear,
# $s = -J(\sigma)\,(u - m)$, so two matrices say everything: the true $(\Sigma + \sigma^2 I)^{-1}$,
# and the composed one.


# %%
def true_precision(q: Gaussian, sigma: float):
    return torch.linalg.inv(q.noised(sigma).covariance)


def relative_error(graph, q: Gaussian, sigma: float) -> float:
    true = true_precision(q, sigma)
    return ((composed_precision(graph, q, sigma) - true).abs().max() / true.abs().max()).item()


# %% alt="Precision matrices: at σ = 0 both tridiagonal and equal; at σ = 1 the true one is full"
def heat_maps() -> None:
    colours = LinearSegmentedColormap.from_list("", [ORANGE, "white", BLUE])
    figure, axes = plt.subplots(2, 3, figsize=(8.6, 5.6), layout="constrained")
    for row, sigma in zip(axes, (0.0, 1.0), strict=True):
        true, composed = true_precision(truth, sigma), composed_precision(graph, truth, sigma)
        largest = true.abs().max().item()
        titles = ("true", "composed", "composed - true")
        for ax, title, matrix in zip(row, titles, (true, composed, composed - true), strict=True):
            picture = ax.imshow(matrix, cmap=colours, vmin=-largest, vmax=largest)
            ax.set_title(f"σ = {sigma:g}: {title}", fontsize=10)
            ax.set_xticks(range(n))
            ax.set_yticks(range(n))
        row[0].set_ylabel("variable")
        figure.colorbar(picture, ax=row, shrink=0.85)
    for ax in axes[1]:
        ax.set_xlabel("variable")
    figure.suptitle(f"Precision matrices, chain of {n}, ρ = {rho}", fontsize=11)


heat_maps()

# %% [markdown]
# At $\sigma = 0$ they are equal: the chain is acyclic and the data is Markov to it. At $\sigma = 1$
# the true precision is full, while the composed one cannot be: elements that share no region never
# meet, so it is tridiagonal at every $\sigma$, and what it has is a little off, too.
#
# **Why?** A zero in the precision says "independent, given all the others". Three variables show
# what noise does. Clean, $y$ tells all that $x$ and $z$ have in common. Noisy, $y$ is known only
# roughly, and something is left over:
#
# $$\operatorname{Cov}(x_\sigma, z_\sigma \mid y_\sigma)
# = \rho^2 - \frac{\rho \cdot \rho}{1 + \sigma^2} = \rho^2 \, \frac{\sigma^2}{1 + \sigma^2}.$$
#
# *Noised variables of a Markov chain are not Markov.*

# %%
for sigma in (0.0, 0.1, 1.0, 10.0):
    c = ar1(3, rho).noised(sigma).covariance
    left_over = c[0, 2] - c[0, 1] * c[1, 2] / c[1, 1]
    print(f"σ = {sigma:4}: covariance of x and z that noisy y does not explain: {left_over:.4f}")
    assert abs(left_over - rho**2 * sigma**2 / (1 + sigma**2)) < 1e-12

# %% alt="True precision against distance: falls fast at σ = 0.1, slowly at σ = 0.5 and 3"
middle, long = 20, ar1(41, rho)
apart = list(range(1, 13))


def row(sigma: float) -> list[float]:
    values = true_precision(long, sigma)[middle]
    return [(values[middle + d].abs() / values[middle]).item() for d in apart]


reach = {f"σ = {sigma:g}": (apart, row(sigma)) for sigma in (0.1, 0.5, 3.0)}
assert max(row(0.0)[1:]) < 1e-10  # zero, but for rounding
assert reach["σ = 0.5"][1][5] > 1e-3


def far_couplings() -> None:
    _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    x, y = "variables apart", "|precision|, over its diagonal"
    curves(reach, xlabel=x, ylabel=y, title="True precision of the noised chain", log="y", ax=ax)
    ax.set_ylim(1e-6, 1)


far_couplings()

# %% [markdown]
# A little noise couples next but one neighbours a little. With much noise each coupling is small,
# but it reaches far. The composed precision has the first point of each curve only, somewhat off,
# and nothing beyond.
#
# ## How large is the gap?
#
# Below is the relative error of the composed precision (largest entry of the difference, over the
# largest entry of the true precision) against noise: on the left for pairs, at several
# correlations; on the right at $\rho = 0.9$, for longer pieces. `tiles((8,), window, overlap)`
# makes windows of a line.

# %% alt="Error against σ: humps around σ = 0.3 to 1, higher for strong correlation, short overlaps"
sigmas = np.geomspace(0.02, 30, 40).tolist()
by_rho = {
    f"ρ = {r}": (sigmas, [relative_error(chain(8), ar1(8, r), s) for s in sigmas])
    for r in (0.99, 0.9, 0.7, 0.3)
}
pieces = {
    "pairs": chain(8),
    "windows of 4, overlap 2": tiles((8,), 4, 2),
    "windows of 4, overlap 3": tiles((8,), 4, 3),
    "windows of 6, overlap 4": tiles((8,), 6, 4),
}
by_overlap = {
    name: (sigmas, [relative_error(g, ar1(8, 0.9), s) for s in sigmas])
    for name, g in pieces.items()
}


def gaps() -> None:
    _, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for ax, lines, title in zip(
        axes, (by_rho, by_overlap), ("pairs", "longer pieces, ρ = 0.9"), strict=True
    ):
        curves(lines, xlabel="noise σ", ylabel="relative error", title=title, ax=ax)
        ax.set_ylim(1e-6, 1)


gaps()

# %% [markdown]
# Some of these numbers, to be read exactly. The first column is rounding.

# %%
table = (0.0, 0.1, 0.5, 1.0, 3.0, 10.0)
print(f"{'σ':24}" + "".join(f"{sigma:>9g}" for sigma in table))
for name, regions in pieces.items():
    errors = [relative_error(regions, ar1(8, 0.9), sigma) for sigma in table]
    print(f"{name:24}" + "".join(f"{e:>9.0e}" if e < 1e-4 else f"{e:>9.4f}" for e in errors))
    assert errors[0] < 1e-12
    if name == "pairs":
        assert np.allclose(errors[1:], (0.037, 0.221, 0.179, 0.060, 0.008), atol=5e-4)

# %% [markdown]
# With little noise, pieces are nearly clean. With a lot, the whole is nearly $N(0, \sigma^2 I)$,
# where nothing depends on anything. In between, at the scale of the data, the error is largest. A
# longer overlap carries more of what the noise hides.
#
# ## What it costs a sampler
#
# A solver of the probability-flow equation is linear here. So the law of its samples can be
# computed, not estimated: `distribution_reached` pushes a basis through the solver. We start from
# $N(0, 80^2 I)$ and measure the Kullback-Leibler divergence of what is reached from the truth, per
# variable.

# %%
n, rho = 20, 0.95
truth = ar1(n, rho)
start = Gaussian(truth.mean, 80.0**2 * torch.eye(n, dtype=torch.float64))


def reached(score, levels: int) -> Gaussian:
    return distribution_reached(score, karras(levels, 0.002, 80.0), start, Heun())


def nats(score, levels: int) -> float:
    return kl_divergence(reached(score, levels), truth) / n


steps = [8, 10, 14, 18, 28, 40, 60, 100]


def composed(regions):
    return compose(regions, node_scores(regions, truth))


pairs = chain(n)
scores = {
    "pairs": composed(pairs),
    "windows of 4, overlap 2": composed(tiles((n,), 4, 2)),
    "exact score": truth.score,
    "windows of 8, overlap 6": composed(tiles((n,), 8, 6)),
}
kl = {name: (steps, [nats(score, k) for k in steps]) for name, score in scores.items()}

# %% alt="KL against steps: pairs and windows level off; the exact score keeps falling"
curves(
    kl,
    xlabel="noise levels of the solver (Heun, two evaluations each)",
    ylabel="KL, nats per variable",
    title=f"More steps do not help; longer overlaps do (n = {n}, ρ = {rho})",
)

# %%
for name, (_, values) in kl.items():
    some = {k: v for k, v in zip(steps, values, strict=True) if k in (18, 40, 100)}
    figures = ", ".join(f"{k}: {v:.4f}" for k, v in some.items())
    print(f"{name:24} nats per variable, by levels: {figures}")
pairs_18, pairs_100 = (kl["pairs"][1][steps.index(k)] for k in (18, 100))
assert pairs_100 > pairs_18 > 0.6
assert kl["windows of 8, overlap 6"][1][-1] < pairs_100 / 30
assert kl["exact score"][1][-1] < 1e-5

# %% [markdown]
# The solver is not to blame: with the exact score it comes as near as its steps allow. The composed
# score leads elsewhere. What gets lost is long-range dependence. At every $\sigma$ the composed
# precision couples neighbours only, where the true one reaches far.

# %% alt="Correlation with the first variable: pairs decay much faster than the truth"
distance = list(range(n))


def correlation(q: Gaussian) -> list[float]:
    c = q.covariance
    return (c[0] / (c[0, 0] * c.diagonal()).sqrt()).tolist()


laws = {name: reached(score, 40) for name, score in scores.items()}
lost = {name: (distance, correlation(law)) for name, law in laws.items()}
print(f"correlation at 5 apart: truth {rho**5:.3f}, pairs {lost['pairs'][1][5]:.3f}")
assert lost["pairs"][1][5] < 0.1 * rho**5
curves(
    lost,
    xlabel="variables from the first",
    ylabel="correlation with the first",
    title="What the samples forget (40 levels)",
    log="",
)

# %% [markdown]
# ## A cure
#
# Noise destroys the factorisation of the *noised* state. It does not touch that of the *clean*
# state given the noised one: each element is measured with noise of its own, and counted once, so
# the posteriors of pieces compose exactly,
# $q(u_0 \mid u_\sigma) \propto \prod_r q(u_{0,r} \mid u_{\sigma,r})^{c_r}$. `Posterior` composes
# these. It has to know each region's covariance besides its score.

# %% alt="KL against steps: the marginal rule levels off; posterior and exact score coincide"
cured = compose(pairs, node_scores(pairs, truth), rule=Posterior(node_covariances(pairs, truth)))
same_pairs = {
    "marginal": kl["pairs"],
    "posterior": (steps, [nats(cured, k) for k in steps]),
    "exact score": kl["exact score"],
}
assert np.allclose(same_pairs["posterior"][1], kl["exact score"][1], rtol=1e-4)
curves(
    same_pairs,
    xlabel="noise levels of the solver (Heun, two evaluations each)",
    ylabel="KL, nats per variable",
    title="The same pairs, composed by two rules",
)

# %% [markdown]
# Exact it is for Gaussians that are Markov to the tree. For other data its Gaussian closure is an
# approximation, and on loops it can be worse than the rule above. The fifth notebook, "Samples that
# are right", is about this.
#
# ## What to remember
#
# - Counting numbers make each element count once; on a graph without loops they make density,
#   entropy and score of clean Markov data exact.
# - Loops make all three an approximation, noise makes the score one even without loops.
# - The error is largest where noise is as large as the data's own scale; more steps do not mend it,
#   longer overlaps, or another rule, do.
#
# ## Exercises
#
# 1. At which $\sigma$ is the error of pairs largest, as a function of $\rho$? Look at the limit
#    $\rho \to 1$.
# 2. Put the ring of 8 in place of the chain in "How large is the gap?". What is left at
#    $\sigma = 0$, and how does it fall with the length of the ring?
# 3. At $\sigma = 0$ the composed score of pairs is exact, so the last step of the solver is right.
#    Why is that not enough? Compare `laws["pairs"].covariance.inverse()` with the true precision.
#
# ## Where to go next
#
# "Draw any graph with networkx" (02) draws trees, loops and nested graphs and asks when they are
# exact; "Regions beyond Bethe" (03) counts pieces that share more than one variable.
