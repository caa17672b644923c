# %% [markdown]
# # Samples that are right
#
# Tutorial 01 ended with a rule that goes wrong, however many steps the sampler takes. This tutorial
# introduces two rules that go right in many cases, and shows how to tell in advance whether they
# will:
#
# 1. **posterior composition**: what it computes, and why it is exact for Gaussians on a chain;
# 2. **steps and length**: how far one evaluation carries information;
# 3. the **covariances** that the rule requires, and how much data it takes to estimate them;
# 4. data that is **not Gaussian**: a chain with two modes, and **evidence composition**;
# 5. the **limits**: loops, many steps, and luck;
# 6. the **advisor**, which predicts the loss of a choice before anything is sampled.

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from pgmdiff import (
    Evidence,
    Gaussian,
    GaussianMixture,
    GraphError,
    Marginal,
    Posterior,
    RegionGraph,
    advise,
    compose,
    fit_covariances,
    karras,
    sample,
    window_candidates,
)
from pgmdiff.diagnostics import (
    distribution_reached,
    energy_distance,
    influence_over_steps,
    mean_and_error,
)
from pgmdiff.gaussian import ar1, kl_divergence, node_covariances, node_scores
from pgmdiff.graphs import chain, cycle, torus
from pgmdiff.plotting import curves, flow
from pgmdiff.samplers import SDE, DPMSolver2M, Solver, UniPC
from pgmdiff.scores import Score
from pgmdiff.testing import two_mode_chain

torch.set_num_threads(1)  # for matrices this small, several threads are slower than one

BLUE, ORANGE, GREEN, GREY, INK = "#2f7fbd", "#dd7a1f", "#3f9b57", "#8a8f94", "#2b2b2b"
DOUBLE = torch.float64

# %% [markdown]
# ## What noise does not destroy
#
# The data $u_0$ is Markov to a graph. A diffusion model sees $u_\sigma = u_0 + \sigma \varepsilon$,
# which is not. The rule of DiffCollage, called `Marginal` here, composes the distributions of
# noised pieces as if it were:
#
# $$q_\sigma(u) \approx \prod_r q_\sigma(u_r)^{c_r}.$$
#
# Consider instead the *clean* state, given the noised one. Bayes' formula multiplies $q(u_0)$,
# which does factorise, by the likelihood $\prod_i N(u_{\sigma, i}; u_{0, i}, \sigma^2)$, which has
# one factor per element, and each element is counted once. So for any such data and at every
# $\sigma$,
#
# $$q(u_0 \mid u_\sigma) \propto \prod_r q(u_{0,r} \mid u_{\sigma,r})^{c_r}.$$
#
# The denoiser of a piece returns the mean of its factor, $D_r$. For Gaussian data the covariance of
# the factor is $V_r = (\Sigma_r^{-1} + \sigma^{-2} I)^{-1}$, where $\Sigma_r$ is the covariance of
# the clean piece. In a product of Gaussians the precisions add up:
#
# $$D = \Lambda^{-1} \sum_r c_r A_r^\top V_r^{-1} D_r, \qquad
# \Lambda = \sum_r c_r A_r^\top V_r^{-1} A_r.$$
#
# The next cell computes this term by term, on a chain of 20 numbers with $\rho = 0.95$.


# %%
def posterior_by_hand(graph: RegionGraph, q: Gaussian, u: Tensor, sigma: float) -> Tensor:
    """D(u, σ) by the formula above."""
    precision, mean = torch.zeros_like(q.covariance), torch.zeros_like(u)
    for name, count in graph.counting_numbers().items():
        r = graph.elements(name).reshape(-1)
        piece = q.marginal(r)
        inverse = torch.linalg.inv(piece.covariance) + torch.eye(len(r), dtype=DOUBLE) / sigma**2
        precision[r[:, None], r] += count * inverse
        mean[:, r] += count * piece.denoise(u[:, r], sigma) @ inverse
    return torch.linalg.solve(precision, mean.T).T


q, graph = ar1(20, 0.95), chain(20)
scores, covariances = node_scores(graph, q), node_covariances(graph, q)
marginal = compose(graph, scores)
posterior = compose(graph, scores, rule=Posterior(covariances))

u = q.noised(1.0).sample(5, torch.Generator().manual_seed(0))
truth, by_hand = q.denoise(u, 1.0), posterior_by_hand(graph.regions, q, u, 1.0)
print("largest error of the denoiser")
print(f"posterior, by hand       {(by_hand - truth).abs().max():.1e}")
print(f"Posterior(covariances)   {(posterior.denoise(u, 1.0) - truth).abs().max():.1e}")
print(f"Marginal()               {(marginal.denoise(u, 1.0) - truth).abs().max():.1e}")
assert torch.allclose(by_hand, truth, atol=1e-10)
assert torch.allclose(posterior.denoise(u, 1.0), truth, atol=1e-10)
assert (marginal.denoise(u, 1.0) - truth).abs().max() > 0.1

# %% [markdown]
# Posterior composition is exact up to rounding. (The library solves for the score instead,
# $(I + \sigma^2 P)\, s = \sum_r c_r A_r^\top (I + \sigma^2 \Sigma_r^{-1})\, s_r$ with
# $P = \sum_r c_r A_r^\top \Sigma_r^{-1} A_r$, which is equivalent and also holds at $\sigma = 0$.)
# Evidence composition, the second rule, coincides with it for Gaussians; we shall see below where
# the two differ.
#
# ## Steps and length
#
# For an affine score the distribution of a solver's samples can be computed rather than estimated,
# by `distribution_reached`, so its divergence from the truth is known exactly. It contains two
# errors: that of the rule, and that of the solver, which more steps reduce.


# %%
def start(n: int) -> Gaussian:
    return Gaussian(torch.zeros(n, dtype=DOUBLE), 80.0**2 * torch.eye(n, dtype=DOUBLE))


def loss(score: Score, q: Gaussian, levels: int) -> float:
    """KL(sampled ‖ q) in nats per variable; UniPC evaluates the score once per level."""
    n = len(q.mean)
    reached = distribution_reached(score, karras(levels, 0.002, 80.0), start(n), UniPC(3))
    return kl_divergence(reached, q) / n


RHO = 0.9
LENGTHS, LEVELS = (8, 32, 128), (6, 8, 10, 12, 16, 20, 25)
by_length: dict[str, tuple[tuple[int, ...], list[float]]] = {}
for n in LENGTHS:
    q = ar1(n, RHO)
    scores = node_scores(chain(n), q)
    for name, rule in {
        "marginal": Marginal(),
        "posterior": Posterior(node_covariances(chain(n), q)),
    }.items():
        joint = compose(chain(n), scores, rule=rule)
        by_length[f"{name}, n = {n}"] = (LEVELS, [loss(joint, q, k) for k in LEVELS])


# %% alt="KL against levels: posterior falls alike for all lengths, marginal levels off near 0.3"
def steps_against_length() -> None:
    _, ax = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
    for (name, (x, y)), line in zip(
        by_length.items(), (":", ":", "--", "--", "-", "-"), strict=True
    ):
        colour = BLUE if name.startswith("marginal") else ORANGE
        ax.semilogy(x, y, line, color=colour, marker="os"[colour == ORANGE], ms=4, label=name)
    ax.set_xticks(LEVELS)
    ax.set_xlabel("noise levels (UniPC, one evaluation per level)")
    ax.set_ylabel("KL, nats per variable")
    ax.set_title(f"Chains of n variables, ρ = {RHO}", loc="left", fontsize=10)
    ax.grid(color="#e3e6e9", lw=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


short, long = (by_length[f"posterior, n = {n}"][1] for n in (8, 128))
assert all(b < 1.3 * a for a, b in zip(short, long, strict=True))
assert short[-1] < 1e-5
assert min(by_length["marginal, n = 128"][1]) > 0.2
steps_against_length()

# %% [markdown]
# Under posterior composition a chain that is 16 times as long needs no more steps. Under the
# marginal rule the loss levels off at every length.
#
# ## How far information travels
#
# Why is that so? Take the middle element after each step of a run, and differentiate it with
# respect to every element of the initial noise. White means exactly 0.

# %% alt="Influence: under the marginal rule a cone that widens slowly, else wide from the start"
n, middle = 41, 20
q, levels = ar1(n, 0.95), karras(10, 0.05, 20.0)
scores, zero = node_scores(chain(n), q), torch.zeros(1, n, dtype=DOUBLE)
runs = {
    "marginal": compose(chain(n), scores),
    "posterior": compose(chain(n), scores, rule=Posterior(node_covariances(chain(n), q))),
    "exact score": q.score,
}
influences = {name: influence_over_steps(s, levels, zero, middle) for name, s in runs.items()}
reach = [(row > 0).sum().item() for row in influences["marginal"]]
print("elements that the middle one depends on, after each step of the marginal rule:", reach)
assert reach == [min(1 + 2 * k, n) for k in range(len(levels))]
assert torch.allclose(influences["posterior"], influences["exact score"], atol=1e-10)
flow(influences, sigmas=levels, title="Dependence of the middle element on the initial noise")

# %% [markdown]
# Under the marginal rule each evaluation reaches one pair further. In ten steps nothing arrives
# from more than ten variables away, and what does arrive is too weak. Posterior composition solves
# a linear system over the whole chain in each evaluation, as message passing from one end to the
# other and back would do. Its dependence on the noise equals that of the exact score.
#
# ## Covariances, and what they cost
#
# `node_covariances` computes the covariances of a known distribution. `fit_covariances` estimates
# them from data: it makes one estimate of the whole covariance in one pass, and each region gets
# its block. Below the scores stay exact and only the covariances are estimated, from an increasing
# number of states.

# %% alt="The loss falls in inverse proportion to the number of states, down to the solver's error"
n = 64
q, graph = ar1(n, RHO), chain(n)
scores = node_scores(graph, q)
NUMBERS, DRAWS = (10, 30, 100, 300, 1000, 3000), 3


def fitted_loss(states: int, seed: int) -> float:
    data = q.sample(states, torch.Generator().manual_seed(seed))
    joint = compose(graph, scores, rule=Posterior(fit_covariances(graph, data)))
    return loss(joint, q, 20)


by_states = {m: mean_and_error([fitted_loss(m, seed) for seed in range(DRAWS)]) for m in NUMBERS}
known = loss(compose(graph, scores, rule=Posterior(node_covariances(graph, q))), q, 20)
without = loss(compose(graph, scores), q, 20)
for m, (mean, error) in by_states.items():
    print(f"{m:5} states: {mean:.5f} ± {error:.5f} nats per variable")
print(f"known covariances {known:.6f}, marginal rule {without:.2f}")
assert by_states[10][0] < without / 10
assert by_states[1000][0] < by_states[10][0] / 20
curves(
    {
        "posterior": (NUMBERS, [mean for mean, _ in by_states.values()]),
        "marginal": (NUMBERS, [without] * len(NUMBERS)),
    },
    xlabel="number of states from which the covariances are estimated",
    ylabel="KL, nats per variable (20 levels)",
    title=f"Chain of {n}, ρ = {RHO}: exact scores, estimated covariances",
    limit=("known covariances", known),
)

# %% [markdown]
# Even ten states are better than the rule that needs none, and the loss falls in inverse proportion
# to their number. (The regions here are pairs. A window of 256 pixels has a covariance of 256 × 256
# and requires hundreds of states or more. `shared=True` and structured covariances help; the page
# on rules and covariances in the documentation describes them.)
#
# Why one estimate of the whole, rather than one per region? Because precisions are subtracted, and
# what is subtracted has to match. Below, covariances are estimated from 30 states, first in one
# pass, then region by region from different states, as if each model came from a different source.
# If the result does not compose to a distribution, `compose` refuses it.


# %%
def refused(seed: int, together: bool) -> bool:
    """Whether the estimated covariances fail to compose to a distribution."""
    data = q.sample(30 * 130, torch.Generator().manual_seed(seed)).split(30)
    if together:
        rule = Posterior(fit_covariances(graph, data[0]))
    else:
        fits = zip(graph.counting_numbers(), data, strict=False)
        elements = ((name, part, graph.regions.elements(name).reshape(-1)) for name, part in fits)
        rule = Posterior(
            {name: part[:, i].T.cov().reshape(len(i), -1) for name, part, i in elements}
        )
    try:
        compose(graph, scores, rule=rule)
    except GraphError:
        return True
    return False


together, apart = (sum(refused(seed, how) for seed in range(20)) for how in (True, False))
print(f"refused, out of 20: estimated in one pass {together}, region by region {apart}")
assert together == 0
assert apart > 5

# %% [markdown]
# ## Two modes
#
# Now consider data that is not Gaussian: 12 variables, each close to -2 or to +2 (with a standard
# deviation of 0.4). A neighbour shares the mode with probability 0.9, and if it does, it has a
# correlation of 0.9 within the mode. A pair of neighbours is a mixture of four Gaussians, a single
# variable a mixture of two, and both have scores in closed form at every noise level. So the pieces
# are exact, and all errors are due to the composition.

# %%
stay, spread, within = 0.9, 0.16, 0.9
modes = torch.tensor([[-2, -2], [-2, 2], [2, -2], [2, 2]], dtype=DOUBLE)
weights = torch.tensor([stay, 1 - stay, 1 - stay, stay], dtype=DOUBLE) / 2
kept = spread * torch.tensor([[1, within], [within, 1]], dtype=DOUBLE)
apart_covariance = spread * torch.eye(2, dtype=DOUBLE)
pair = GaussianMixture(
    weights,
    [Gaussian(m, kept if m[0] == m[1] else apart_covariance) for m in modes],
)
single = pair.marginal(torch.tensor(0))

N = 12
modal = chain(N, factor_model="pair", variable_model="single")  # one model for all pairs
models = {"pair": pair.score, "single": single.score}
known_covariances = {"pair": pair.covariance, "single": single.covariance}
print("covariance of a pair:", pair.covariance.tolist())

truth = two_mode_chain(N)  # it has exact samples and the exact score of the whole
assert torch.allclose(truth.models["pair"].covariance, pair.covariance)

# %% [markdown]
# **Posterior composition** uses the covariances, so it takes the correlation of neighbours into
# account. It is still exact that the posterior of the clean state factorises. What no longer holds
# is that its factors are Gaussian: at $\sigma$ near 2 a variable is either in one mode or in the
# other.
#
# **Evidence composition** goes one step further. The normalising constant of that product of
# Gaussians is an approximation of $\log q_\sigma(u)$, and its gradient is again a score, one that
# belongs to a density. It costs a second pass through each model, for the derivatives. So at equal
# cost it can take half as many steps.
#
# We sample all rules with added noise (`SDE`, $\eta = 1$) and compare the samples with exact ones.
# The *energy distance* $2\,E|a - b| - E|a - a'| - E|b - b'|$ of two distributions is 0 if they are
# equal. The estimate is unbiased, so it may be slightly negative. The table gives the mean over
# four sets of 250 samples and its standard error.

# %%
SETS, SAMPLES = 4, 250
joints: dict[str, Score] = {
    "marginal": compose(modal, models),
    "posterior": compose(modal, models, rule=Posterior(known_covariances)),
    "evidence": compose(modal, models, rule=Evidence(known_covariances)),
    "exact score": truth,
}


def drawn(name: str, levels: int, n: int = SETS * SAMPLES, solver: Solver | None = None) -> Tensor:
    sigmas, solver = karras(levels, 0.01, 20.0), solver or SDE(1.0)
    return sample(joints[name], sigmas, shape=(n, N), solver=solver, generator=0, dtype=DOUBLE)


exact = truth.sample(4000, torch.Generator().manual_seed(100))


def energy(samples: Tensor) -> tuple[float, float]:
    """Mean and standard error over sets, each compared with exact samples of its own."""
    sets = zip(samples.chunk(SETS), exact.chunk(SETS), strict=True)
    return mean_and_error([energy_distance(u, v, mirrored=True) for u, v in sets])


def switches(u: Tensor) -> float:
    """How often neighbours are in different modes."""
    return (u[:, 1:].sign() != u[:, :-1].sign()).double().mean().item()


found: dict[tuple[str, int], Tensor] = {}
for evaluations in (20, 40):
    for name in joints:
        levels = evaluations // 2 if name == "evidence" else evaluations
        found[name, evaluations] = drawn(name, levels)

distances = {key: energy(samples) for key, samples in found.items()}


def line(u: Tensor) -> str:
    size = u.abs()
    between, outside = ((size < 1).double().mean(), (size > 4).any(dim=1).double().mean())
    return f"{100 * switches(u):9.1f} % {100 * between:7.1f} % {100 * outside:7.1f} %"


print("switches: pairs of neighbours in different modes")
print("between:  values between the modes, |u| < 1")
print("outside:  chains with a value far outside the modes, |u| > 4")
print(f"{'rule':12} evaluations  energy distance    switches   between   outside")
for (name, evaluations), samples in found.items():
    mean, error = distances[name, evaluations]
    print(f"{name:12} {evaluations:11}  {mean:7.4f} ± {error:.4f} {line(samples)}")
print(f"{'exact samples':24}  {'':16} {line(exact)}")
for evaluations in (20, 40):
    rule = distances["marginal", evaluations][0]
    assert distances["posterior", evaluations][0] < rule / 3
    assert distances["evidence", evaluations][0] < rule / 3


# %% alt="Pairs of neighbours: the marginal rule puts too many points into the off-diagonal modes"
def scatter() -> None:
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.8), sharex=True, sharey=True)
    shown = {"exact samples": exact[: SETS * SAMPLES]} | {
        name: found[name, 20] for name in ("marginal", "posterior", "evidence")
    }
    colours = (INK, BLUE, ORANGE, GREEN)
    for ax, (name, u), colour in zip(axes, shown.items(), colours, strict=True):
        ax.scatter(u[:, 5], u[:, 6], s=6, color=colour, alpha=0.35, lw=0)
        hidden = (u[:, 5:7].abs() > 5).any(dim=1).sum().item()
        ax.set_title(f"{name}" + f", {hidden} outside" * bool(hidden), fontsize=9)
        ax.set(xlim=(-5, 5), ylim=(-5, 5), xticks=(-4, -2, 0, 2, 4), yticks=(-4, -2, 0, 2, 4))
        ax.set_aspect("equal")
        ax.set_xlabel("variable 5")
    axes[0].set_ylabel("variable 6")
    figure.suptitle("Two neighbours, 20 evaluations", fontsize=11, x=0.02, ha="left")
    figure.tight_layout()


scatter()

# %% [markdown]
# Under the marginal rule neighbours are in different modes far too often. At 20 evaluations every
# method leaves too many values between the modes, even the exact score, so this is an error of the
# solver. And ten steps of evidence composition are too few: about two chains in a hundred have a
# value far outside the modes, which the energy distance hardly notices.
#
# What gets lost is the dependence between variables, and the farther apart they are, the more of
# it. How long does the mode of the first variable last?


# %% alt="Share of chains still in the first mode after l variables: marginal falls fastest"
def lasting(u: Tensor) -> list[float]:
    """The share of samples whose first l variables are in the same mode, for l = 1, ..., N."""
    same = u.sign() == u.sign()[:, :1]
    return same.cumprod(dim=1).double().mean(dim=0).tolist()


lengths = list(range(1, N + 1))
lasts = {
    name: (lengths, lasting(found[name, 40]))
    for name in ("marginal", "posterior", "evidence", "exact score")
}
of_exact = lasting(exact)
for name, (_, shares) in lasts.items():
    print(f"{name:12} all twelve in one mode: {shares[-1]:.2f}   (truth {stay ** (N - 1):.2f})")
assert abs(of_exact[-1] - stay ** (N - 1)) < 4 * (0.25 / len(exact)) ** 0.5
assert lasts["marginal"][1][-1] < lasts["posterior"][1][-1] < of_exact[-1]
curves(
    lasts,
    xlabel="number l of variables",
    ylabel="share of samples with the first l in one mode",
    title="How long does a mode last? (40 evaluations)",
    log="",
)

# %% [markdown]
# Both rules are far better than the marginal rule, and yet not right. Posterior composition still
# leaves the mode too often, at 40 evaluations as at 20. This is due to the Gaussian closure and not
# to the number of steps. The energy distance, which measures the whole distribution, makes less of
# it than the figure does. So look at a statistic that matters to you as well.
#
# ## What these figures do not say
#
# **More steps are not always better.** The density of evidence composition is accurate where noised
# data lies, and too large between the modes. A sampler with few steps does not get there. One with
# many steps does.


# %%
def between(u: Tensor) -> tuple[float, float]:
    """The share of values between the modes, and its standard error over the chains."""
    return mean_and_error((u.abs() < 1).double().mean(dim=1).tolist())


share_of_exact, _ = between(exact)
print("values between the modes, evidence composition")
by_steps = {levels: between(drawn("evidence", levels, n=100)) for levels in (20, 60, 480)}
for levels, (share, error) in by_steps.items():
    print(f"{levels:4} steps: {100 * share:.1f} ± {100 * error:.1f} %")
print(f"exact samples: {100 * share_of_exact:.1f} %")
assert by_steps[480][0] - 3 * by_steps[480][1] > share_of_exact
assert by_steps[480][0] > 5 * by_steps[60][0]

# %% [markdown]
# With 480 steps several times too many values lie between the modes. With 960 steps, which take too
# long for this page, the energy distance is 0.17, and evidence composition is no better than the
# marginal rule.
#
# **Some of the quality is luck.** The first-order solver has an error of its own (see the exact
# score at 20 evaluations above), and it may happen to err in the direction opposite to the rule. A
# second-order solver has a smaller error, so it comes closer to showing the rules alone:

# %%
second = DPMSolver2M(eta=1.0, rho=7.0)
print("energy distance after 20 steps")
for name in ("posterior", "evidence", "exact score"):
    first_order = found[name, 40 if name == "evidence" else 20]
    figures = [energy(first_order), energy(drawn(name, 20, solver=second))]
    texts = ["{:.3f} ± {:.3f}".format(*figure) for figure in figures]
    print(f"{name:12} first order {texts[0]}, second order {texts[1]}")


# %% [markdown]
# **Loops.** On a ring the distribution of clean data is not the product of the marginals of its
# pieces. For Gaussians, posterior composition with many steps reaches exactly that product. Whether
# this is better than what the marginal rule happens to reach depends on the ring. `advise` computes
# both for Gaussians, in nats per variable:


# %%
def ring(n: int, rho: float) -> Gaussian:
    """A Gaussian that is Markov to a ring: correlation runs both ways round."""
    place = torch.arange(n, dtype=DOUBLE)
    gap = (place[:, None] - place).abs()
    return Gaussian(torch.zeros_like(place), (rho**gap + rho ** (n - gap)) / (1 + rho**n))


rings = {n: advise(cycle(n), ring(n, RHO)).rows[0] for n in (4, 6, 8, 12, 16)}
for n, row in rings.items():
    print(f"ring of {n:2}, ρ = {RHO}: marginal {row.marginal:.2f}, posterior {row.posterior:.2f}")
assert rings[4].posterior > rings[4].marginal
assert rings[16].posterior < rings[16].marginal / 10

# %% [markdown]
# ## Ask before you sample
#
# So which rule, which window, which overlap should you use? `advise` takes the covariance of the
# whole, known or estimated (`Gaussian.fit`), and some candidate graphs. It predicts what each rule
# would lose if the data were Gaussian, without sampling anything. The cost is given as evaluations
# per step and as the number of elements in them.

# %%
q = ar1(64, 0.95)
candidates = window_candidates((64,), windows=[8], overlaps=[1, 2, 4, 6])
advice = advise(candidates, q, tolerance=0.03)
print(advice)
assert advice.cheapest is not None
assert advice.cheapest.name == "window 8, overlap 6"

# %% [markdown]
# So there are two choices: an overlap of 6 in windows of 8, or posterior composition with an
# overlap of 1, at a fifth of the elements. Was the prediction right? We compute the distribution
# reached by a solver other than the advisor's (`UniPC` with 20 levels instead of Heun with 40). For
# one candidate we also fit a Gaussian to 4000 samples, as one would without any theory.


# %% alt="Loss against overlap: marginal reached what was predicted; posterior lost next to nothing"
def composed(graph: RegionGraph, name: str) -> Score:
    rule = Posterior(node_covariances(graph, q)) if name == "posterior" else Marginal()
    return compose(graph, node_scores(graph, q), rule=rule)


overlaps = [row.overlap[0] for row in advice.rows]
reached = {
    name: [loss(composed(graph, name), q, 20) for graph in candidates.values()]
    for name in ("marginal", "posterior")
}
predicted = [row.marginal for row in advice.rows]
assert all(abs(a - b) < 0.05 * a for a, b in zip(predicted, reached["marginal"], strict=True))
assert max(row.posterior for row in advice.rows) < 1e-6 < max(reached["posterior"]) < 1e-4

graph, draws = candidates["window 8, overlap 2"], 4000
for name in ("marginal", "posterior"):
    u = sample(
        composed(graph, name),
        karras(20, 0.002, 80.0),
        shape=(draws, 64),
        generator=0,
        dtype=DOUBLE,
    )
    print(f"{name}, overlap 2: {kl_divergence(Gaussian.fit(u), q) / 64:.4f} nats from samples")
expected = (64 + 3) / (4 * draws)  # d means and d (d + 1) / 2 covariances, half a nat per n each
print(f"an exact sampler would give about {expected:.4f}, because its samples are finite")


def predictions() -> None:
    _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    curves(
        {"marginal": (overlaps, predicted)},
        xlabel="overlap of windows of 8",
        ylabel="KL, nats per variable",
        title="Line: prediction (posterior: 0). Crosses: reached by the sampler",
        log="y",
        ax=ax,
    )
    for name, colour in (("marginal", INK), ("posterior", ORANGE)):
        ax.plot(overlaps, reached[name], "x", color=colour, ms=9, mew=2, label=f"{name}, reached")
    ax.set_xticks(overlaps)
    ax.legend(frameon=False)


predictions()

# %% [markdown]
# The loss of the marginal rule is as predicted. For posterior composition the prediction was no
# loss at all in the limit of many steps; what it does lose is the error of the solver with 20
# levels.
#
# For data that is not Gaussian the loss is different. Here is the two-mode chain, with its
# covariance:

# %%
modal_advice = advise(modal, Gaussian(torch.zeros(N, dtype=DOUBLE), exact.T.cov()))
print(fill(modal_advice.sentence, 95))
for name in ("marginal", "posterior"):
    mean, error = distances[name, 40]
    print(f"energy distance of {name}, measured above: {mean:.3f} ± {error:.3f}")

# %% [markdown]
# The order is right. The amounts are those for Gaussian data; the loss of posterior composition
# here is due to its Gaussian closure, which the advisor does not take into account. The advisor
# helps you choose. It does not give a bound.
#
# ## When there is no distribution
#
# With loops and strong correlations the local precisions may add up to a matrix that is not
# positive definite. Then posterior composition has no distribution to sample from, and raises an
# error. A 4 × 4 torus is an example:

# %%
around = ring(4, 0.5).covariance
field = Gaussian(torch.zeros(16, dtype=DOUBLE), torch.kron(around, around))
grid = torus(4, 4)
local, given = node_scores(grid, field), node_covariances(grid, field)
try:
    compose(grid, local, rule=Posterior(given))
except GraphError as error:
    print(fill(str(error), 95))

# %% [markdown]
# A repair has to be requested, and is reported. `shrinkage=λ` moves all covariances towards a
# common diagonal matrix; λ = 1 is the marginal rule. `"least"` finds the smallest λ from which the
# precision is positive definite.

# %%
repaired = compose(grid, local, rule=Posterior(given, shrinkage="least"))
print(repaired.validate().definiteness)


def reached_by(score: Score) -> Gaussian:
    return distribution_reached(score, karras(40, 0.002, 80.0), start(16), UniPC(3))


variance = reached_by(repaired).covariance.diagonal().mean().item()
print(f"mean variance of the samples {variance:.0f}, of the data 1")
assert variance > 100

# %% [markdown]
# The result is positive definite, but useless. At the least λ one direction has almost no precision
# left, so its variance explodes. This λ is only where a search begins. For Gaussians the search is
# exact:

# %% alt="Loss and variance against λ explode at the least λ; the loss is smallest near λ = 0.8"
shrinkages = [0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0]
least = repaired.precision.shrinkage
shrunk = {
    x: reached_by(compose(grid, local, rule=Posterior(given, shrinkage=x))) for x in shrinkages
}
losses = {x: kl_divergence(reached, field) / 16 for x, reached in shrunk.items()}
best = min(losses, key=losses.__getitem__)
print(f"the least λ is {least:.3f}")
print(f"loss in nats per variable: {losses[best]:.3f} at λ = {best:g}, {losses[1.0]:.3f} at λ = 1")
assert losses[best] < 0.8 * losses[1.0] < losses[0.5]


def shrinking() -> None:
    _, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
    variances = [reached.covariance.diagonal().mean().item() for reached in shrunk.values()]
    for ax, values, label in (
        (axes[0], list(losses.values()), "KL, nats per variable"),
        (axes[1], variances, "mean variance (data: 1)"),
    ):
        ax.semilogy(shrinkages, values, "s-", color=ORANGE, ms=4)
        ax.plot(1.0, values[-1], "o", color=BLUE, ms=8, label="λ = 1: marginal rule")
        ax.axvline(least, color=GREY, ls="--", lw=1.2, label="least λ")
        ax.set_xlabel("shrinkage λ")
        ax.set_ylabel(label)
        ax.grid(color="#e3e6e9", lw=0.8)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    axes[0].set_title("Posterior composition on a 4 × 4 torus", loc="left", fontsize=10)


shrinking()

# %% [markdown]
# Somewhere between the two ends the loss is smaller than at either. For data that is not Gaussian,
# compare samples, and begin with their variances.
#
# ## What to remember
#
# - Noise destroys the factorisation of the noised state, but not that of the clean state given the
#   noised one.
# - `Posterior` is exact for Gaussians that are Markov to a junction tree, if the covariances are
#   the true ones: at every length, and with as many steps as a single piece needs. The covariances
#   must come from one estimate. For pairs a few hundred states are enough.
# - For other data `Posterior` is an approximation, usually a good one. `Evidence` has a density,
#   costs twice as much per step, is about as good at equal cost here, and after very many steps is
#   as bad as the marginal rule.
# - On graphs with loops call `advise` first. It chooses well, but does not give a bound.
#
# ## Exercises
#
# 1. Give evidence composition as many *steps* as the others, 20 and 40. What does it gain?
# 2. A star whose leaves depend on products of the coordinates of its centre is uncorrelated
#    (`benchmarks.exactness.distributions.parity_star`). Why does posterior composition not help
#    there, and what do its samples look like?
# 3. In the two-mode chain, set `stay` to 0.5 and `within` to 0. Which rules still differ?
#
# ## Where to go next
#
# The page on rules and covariances in the documentation compares all methods on six distributions
# and on real data. "Conditioning" (06) uses posterior composition for exact conditional samples.
# "Validate your own topology" (08) tests a graph of your own.
