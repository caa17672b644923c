# %% [markdown]
# # Samples that are right
#
# The first notebook ended with a rule that goes wrong and no number of steps that mends it. This
# one is about two rules that go right, where they do, and about knowing it beforehand:
#
# 1. **posterior composition**: what it computes, and why it is exact for Gaussians on a chain;
# 2. **steps against length**: how far one evaluation carries information;
# 3. the **covariances** that it needs, and how many data give them;
# 4. data that are **not Gaussian**: two modes, and **evidence composition**;
# 5. the **limits**: loops, many steps, luck;
# 6. the **advisor**, which says what a choice will lose before anything is sampled.

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from pgmdiff import (
    Evidence,
    GraphError,
    Marginal,
    Posterior,
    advise,
    compose,
    fit_covariances,
    window_candidates,
)
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.diagnostics.influences import influence_over_steps
from pgmdiff.diagnostics.metrics import energy_distance, mean_and_error
from pgmdiff.gaussian import (
    Gaussian,
    GaussianMixture,
    kl_divergence,
    node_covariances,
    node_scores,
)
from pgmdiff.graphs import RegionGraph, chain, cycle, torus
from pgmdiff.plotting import curves, flow
from pgmdiff.samplers import SDE, DPMSolver2M, Solver, UniPC, karras, sample
from pgmdiff.scores.adapters import Score
from pgmdiff.testing import two_mode_chain

torch.set_num_threads(1)  # matrices are small: more threads would wait for one another

BLUE, ORANGE, GREEN, GREY, INK = "#2f7fbd", "#dd7a1f", "#3f9b57", "#8a8f94", "#2b2b2b"
DOUBLE = torch.float64

# %% [markdown]
# ## What noise leaves alone
#
# Data $u_0$ is Markov to a graph; a diffusion model sees $u_\sigma = u_0 + \sigma \varepsilon$,
# which is not. The paper's rule composes the distributions of noised pieces, as if it were:
#
# $$q_\sigma(u) \approx \prod_r q_\sigma(u_r)^{c_r}.$$
#
# But ask for the *clean* state, given the noised one. Bayes' formula multiplies $q(u_0)$, which
# does factorise, by the likelihood $\prod_i N(u_{\sigma, i}; u_{0, i}, \sigma^2)$, which has one
# factor an element; and each element is counted once. So at every $\sigma$, for any data,
#
# $$q(u_0 \mid u_\sigma) \propto \prod_r q(u_{0,r} \mid u_{\sigma,r})^{c_r}.$$
#
# A piece's denoiser gives the mean of its factor, $D_r$. For Gaussian data its covariance is $V_r
# = (\Sigma_r^{-1} + \sigma^{-2} I)^{-1}$, with $\Sigma_r$ that of the clean piece. Products of
# Gaussians add precisions:
#
# $$D = \Lambda^{-1} \sum_r c_r A_r^\top V_r^{-1} D_r, \qquad
# \Lambda = \sum_r c_r A_r^\top V_r^{-1} A_r.$$
#
# Term by term, on a chain of 20 numbers with $\rho = 0.95$:


# %%
def ar1(n: int, rho: float) -> Gaussian:
    place = torch.arange(n, dtype=DOUBLE)
    return Gaussian(torch.zeros(n, dtype=DOUBLE), rho ** (place[:, None] - place).abs())


def posterior_by_hand(graph: RegionGraph, q: Gaussian, u: Tensor, sigma: float) -> Tensor:
    """D(u, σ) of the formula above."""
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
print(f"posterior by hand to the truth:    {(by_hand - truth).abs().max():.1e}")
print(f"Posterior(covariances), the same:  {(posterior.denoise(u, 1.0) - truth).abs().max():.1e}")
print(f"the marginal rule:                 {(marginal.denoise(u, 1.0) - truth).abs().max():.1e}")
assert torch.allclose(by_hand, truth, atol=1e-10)
assert torch.allclose(posterior.denoise(u, 1.0), truth, atol=1e-10)
assert (marginal.denoise(u, 1.0) - truth).abs().max() > 0.1

# %% [markdown]
# Exact, to rounding. (The library solves for the score instead, $(I + \sigma^2 P)\, s = \sum_r c_r
# A_r^\top (I + \sigma^2 \Sigma_r^{-1})\, s_r$ with $P = \sum_r c_r A_r^\top \Sigma_r^{-1}
# A_r$, which is the same and holds at $\sigma = 0$, too.) Evidence composition coincides with it
# on Gaussians; they part below.
#
# ## Steps against length
#
# With an affine score the distribution of a solver's samples can be computed, not estimated:
# `distribution_reached`. Its divergence from the truth is exact. Two errors are in it: the rule's,
# and the solver's own, which more steps mend.


# %%
def start(n: int) -> Gaussian:
    return Gaussian(torch.zeros(n, dtype=DOUBLE), 80.0**2 * torch.eye(n, dtype=DOUBLE))


def loss(score: Score, q: Gaussian, levels: int) -> float:
    """KL(sampled ‖ q), nats per variable, of UniPC: one evaluation a level."""
    n = len(q.mean)
    reached = distribution_reached(score, karras(levels, 0.002, 80.0), start(n), UniPC(3))
    return kl_divergence(reached, q) / n


RHO = 0.9
LENGTHS, LEVELS = (8, 64, 256), (6, 8, 10, 12, 16, 20, 25)
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


# %% alt="KL against levels: posterior falls alike at all lengths, marginal levels off near 0.3"
def steps_against_length() -> None:
    _, ax = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
    for (name, (x, y)), line in zip(
        by_length.items(), (":", ":", "--", "--", "-", "-"), strict=True
    ):
        colour = BLUE if name.startswith("marginal") else ORANGE
        ax.semilogy(x, y, line, color=colour, marker="os"[colour == ORANGE], ms=4, label=name)
    ax.set_xticks(LEVELS)
    ax.set_xlabel("noise levels (UniPC, one evaluation each)")
    ax.set_ylabel("KL, nats per variable")
    ax.set_title(f"Chains of n numbers, ρ = {RHO}", loc="left", fontsize=10)
    ax.grid(color="#e3e6e9", lw=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


short, long = (by_length[f"posterior, n = {n}"][1] for n in (8, 256))
assert all(b < 1.3 * a for a, b in zip(short, long, strict=True))
assert short[-1] < 1e-5
assert min(by_length["marginal, n = 256"][1]) > 0.2
steps_against_length()

# %% [markdown]
# A chain 32 times as long needs no more steps under posterior composition; under the marginal rule
# neither length gets there at all.
#
# ## How far information flows
#
# Why? Differentiate the middle element of a run, after each step, by every element of the noise
# that it started from. White is exactly 0.

# %% alt="Flow: the marginal rule's cone widens by one element a step; posterior's is wide at once"
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
print("elements that the middle one depends on, marginal rule, by steps:", reach)
assert reach == [min(1 + 2 * k, n) for k in range(len(levels))]
assert torch.allclose(influences["posterior"], influences["exact score"], atol=1e-10)
flow(influences, sigmas=levels, title="Of which noise does the middle element know?")

# %% [markdown]
# Under the marginal rule an evaluation reaches one pair further. In ten steps nothing from farther
# than ten variables has arrived, and what arrived is too weak. Posterior composition solves a
# linear system over the whole chain in each evaluation, as message passing from one end to the
# other and back does, and so has the dependence of the exact score.
#
# ## Covariances, and what they cost
#
# `node_covariances` takes them from a known distribution. From data there is `fit_covariances`:
# one pass, one estimate of everything, of which each region gets its block. Here scores stay exact
# and only covariances are estimated, from more and more states.

# %% alt="Loss against number of states: falls as one over it, to the solver's own error"
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
    xlabel="states that covariances are fitted to",
    ylabel="KL, nats per variable (20 levels)",
    title=f"Chain of {n}, ρ = {RHO}: exact scores, fitted covariances",
    limit=("known covariances", known),
)

# %% [markdown]
# Ten states do better than the rule that needs none, and the loss falls in proportion to their
# number. (Regions here are pairs. A window of 256 pixels has a covariance of 256 × 256, and wants
# hundreds of states or more; `shared=True` and the forms in "Which rule, which covariances?"
# help.)
#
# One estimate of everything, and not one for each region: precisions are subtracted, and what is
# subtracted has to fit. Below, covariances are fitted to 30 states: at once, and region by region
# from different states, as if each model came from another place. What then does not compose to a
# distribution is refused.


# %%
def refused(seed: int, together: bool) -> bool:
    """Whether fitted covariances compose to something that is no distribution."""
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
print(f"refused, of 20: fitted at once {together}, region by region {apart}")
assert together == 0
assert apart > 5

# %% [markdown]
# ## Two modes
#
# Now data that are not Gaussian: 12 variables, each near -2 or +2 (standard deviation 0.4). A
# neighbour keeps the mode with probability 0.9, and then also correlates within it (0.9). A pair of
# neighbours is a mixture of four Gaussians, a variable one of two; scores of both have closed
# forms at every noise level. The pieces are exact: what goes wrong is the composition.

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

truth = two_mode_chain(N)  # exact samples, and the exact score of the whole
assert torch.allclose(truth.models["pair"].covariance, pair.covariance)

# %% [markdown]
# **Posterior composition** takes the covariances, and so knows that neighbours are correlated.
# That the clean state's posterior factorises is still exact. That its factors are Gaussian is not:
# with $\sigma$ near 2, a variable is either in one mode or in the other.
#
# **Evidence composition** goes one step further. The normalising constant of that product of
# Gaussians is an approximation of $\log q_\sigma(u)$; its gradient is a score again, one that has
# a density. It costs a second pass through each model, with derivatives. At equal cost it gets
# half the steps.
#
# All are sampled with added noise (`SDE`, $\eta = 1$), from the same seeds, and compared with
# exact samples. The *energy distance* $2\,E|a - b| - E|a - a'| - E|b - b'|$ is 0 for equal laws;
# here without bias, so that it may come out negative.

# %%
SEEDS, SAMPLES = 4, 500
joints: dict[str, Score] = {
    "marginal": compose(modal, models),
    "posterior": compose(modal, models, rule=Posterior(known_covariances)),
    "evidence": compose(modal, models, rule=Evidence(known_covariances)),
    "exact score": truth,
}


def drawn(
    name: str, levels: int, seed: int, n: int = SAMPLES, solver: Solver | None = None
) -> Tensor:
    sigmas, solver = karras(levels, 0.01, 20.0), solver or SDE(1.0)
    return sample(joints[name], sigmas, shape=(n, N), solver=solver, generator=seed, dtype=DOUBLE)


exact = truth.sample(4000, torch.Generator().manual_seed(100))


def energy(samples: list[Tensor]) -> tuple[float, float]:
    """Mean over sets of samples, each compared with exact ones of its own, and standard error."""
    own = exact.split(len(exact) // len(samples))
    pairs = zip(samples, own, strict=False)
    return mean_and_error([energy_distance(u, v, mirrored=True) for u, v in pairs])


def switches(u: Tensor) -> float:
    """How often neighbours are in different modes."""
    return (u[:, 1:].sign() != u[:, :-1].sign()).double().mean().item()


found: dict[tuple[str, int], list[Tensor]] = {}
for evaluations in (20, 60):
    for name in joints:
        levels = evaluations // 2 if name == "evidence" else evaluations
        found[name, evaluations] = [drawn(name, levels, seed) for seed in range(SEEDS)]

distances = {key: energy(samples) for key, samples in found.items()}


def line(u: Tensor) -> str:
    size = u.abs()
    between, beyond = ((size < 1).double().mean(), (size > 4).any(dim=1).double().mean())
    return f"{switches(u):8.3f} {100 * between:8.1f} % {100 * beyond:7.1f} %"


print("energy distance to exact samples; how often neighbours are in different modes; values")
print("between the modes, |u| < 1; chains with any value beyond them, |u| > 4")
print(f"{'rule':12} {'evaluations':>11}  {'energy distance':15} {'differ':>8} between    beyond")
for (name, evaluations), samples in found.items():
    mean, error = distances[name, evaluations]
    print(f"{name:12} {evaluations:11}  {mean:.4f} ± {error:.4f} {line(torch.cat(samples))}")
print(f"{'exact':12} {'':11}  {'':15} {line(exact)}")
for evaluations in (20, 60):
    rule = distances["marginal", evaluations][0]
    assert distances["posterior", evaluations][0] < rule / 3
    assert distances["evidence", evaluations][0] < rule / 3


# %% alt="Neighbours' values: the marginal rule puts too many points in the off-diagonal modes"
def scatter() -> None:
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.8), sharex=True, sharey=True)
    shown = {"exact samples": exact[: SEEDS * SAMPLES]} | {
        name: torch.cat(found[name, 20]) for name in ("marginal", "posterior", "evidence")
    }
    colours = (INK, BLUE, ORANGE, GREEN)
    for ax, (name, u), colour in zip(axes, shown.items(), colours, strict=True):
        ax.scatter(u[:, 5], u[:, 6], s=4, color=colour, alpha=0.25, lw=0)
        hidden = (u[:, 5:7].abs() > 5).any(dim=1).sum().item()
        ax.set_title(f"{name}" + f", {hidden} outside" * bool(hidden), fontsize=9)
        ax.set_xlim(-5, 5)
        ax.set_ylim(-5, 5)
        ax.set_aspect("equal")
        ax.set_xlabel("variable 5")
    axes[0].set_ylabel("variable 6")
    figure.suptitle("Neighbours, 20 evaluations", fontsize=11, x=0.02, ha="left")
    figure.tight_layout()


scatter()

# %% [markdown]
# The marginal rule has too many neighbours in different modes. At 20 evaluations all leave more
# values on the way between modes than there are, with the exact score, too: that is the solver.
# And ten steps of evidence composition are too few: one or two chains in a hundred have a value
# far outside, which the energy distance hardly notices.
#
# What gets lost is what variables have to do with each other, and more so the farther they are
# apart. How long does the first variable's mode last?


# %% alt="Share of chains in the first mode after l variables: marginal falls fastest"
def lasting(u: Tensor) -> list[float]:
    """Share of samples whose first l variables are in one mode, l = 1 ... N."""
    same = u.sign() == u.sign()[:, :1]
    return same.cumprod(dim=1).double().mean(dim=0).tolist()


lengths = list(range(1, N + 1))
lasts = {
    name: (lengths, lasting(torch.cat(found[name, 60])))
    for name in ("marginal", "posterior", "evidence", "exact score")
}
of_exact = lasting(exact)
for name, (_, shares) in lasts.items():
    print(f"{name:12} all twelve in one mode: {shares[-1]:.2f}   (exactly {stay ** (N - 1):.2f})")
assert abs(of_exact[-1] - stay ** (N - 1)) < 4 * (0.25 / len(exact)) ** 0.5
assert lasts["marginal"][1][-1] < lasts["posterior"][1][-1] < of_exact[-1]
curves(
    lasts,
    xlabel="first l variables",
    ylabel="share of samples with all in one mode",
    title="How long a mode lasts, 60 evaluations",
    log="",
)

# %% [markdown]
# Both rules are far better than the paper's, and not right. Posterior composition still leaves the
# mode too often, at 60 evaluations as at 20: this is its closure, not the steps. The energy
# distance, a measure of the whole, makes less of that than the eye does here; look at a statistic
# that matters to you, too.
#
# ## What these figures do not say
#
# **More steps are not always better.** Evidence composition's density is right where noised data
# are, and too large between the modes. Few steps do not get there. Many do.

# %%
print("evidence composition, first-order SDE")
by_steps = {}
for levels, n in ((20, 500), (60, 500), (240, 300), (960, 200)):
    samples = drawn("evidence", levels, 7, n=n).split(100)
    by_steps[levels] = energy(list(samples))
    print("{:4} steps: energy distance {:.3f} ± {:.3f}".format(levels, *by_steps[levels]))
assert by_steps[960][0] + 4 * by_steps[960][1] > distances["marginal", 60][0]
assert by_steps[960][0] > 5 * max(by_steps[60][0], 0.01)

# %% [markdown]
# After 960 steps it is as bad as the paper's rule.
#
# **Part of what is good is luck.** The first-order solver has an error of its own (above, that of
# the exact score at 20 evaluations), and may err in the direction opposite to the rule's. With a
# second-order solver, whose own error is next to nothing here, we see the rules alone:

# %%
second = DPMSolver2M(eta=1.0, rho=7.0)
print("20 steps each, so that evidence evaluates twice as often")
for name in ("posterior", "evidence", "exact score"):
    again = name == "evidence"  # above, it took 10 steps
    first = energy([drawn(name, 20, seed) for seed in range(SEEDS)] if again else found[name, 20])
    other = energy([drawn(name, 20, seed, solver=second) for seed in range(SEEDS)])
    texts = ["{:.3f} ± {:.3f}".format(*figures) for figures in (first, other)]
    print(f"{name:12} first order {texts[0]}, second order {texts[1]}")


# %% [markdown]
# **Loops.** On a ring the clean data is no product of its pieces' marginals, and posterior
# composition reaches that product, exactly for Gaussians and many steps. Whether it is better than
# what the paper's rule happens to reach depends on the ring. `advise` computes both for Gaussians,
# nats per variable:


# %%
def ring(n: int, rho: float) -> Gaussian:
    """A Gaussian on a ring, Markov to it: correlation goes both ways round."""
    place = torch.arange(n, dtype=DOUBLE)
    gap = (place[:, None] - place).abs()
    return Gaussian(torch.zeros(n, dtype=DOUBLE), (rho**gap + rho ** (n - gap)) / (1 + rho**n))


rings = {n: advise(cycle(n), ring(n, RHO)).rows[0] for n in (4, 6, 8, 12, 16)}
for n, row in rings.items():
    print(f"ring of {n:2}, ρ = {RHO}: marginal {row.marginal:.2f}, posterior {row.posterior:.2f}")
assert rings[4].posterior > rings[4].marginal
assert rings[16].posterior < rings[16].marginal / 10

# %% [markdown]
# ## Ask before you sample
#
# So which rule, which window, which overlap? `advise` takes the covariance of the whole, known or
# fitted (`Gaussian.fit`), and candidates, and predicts what each rule would lose if the data were
# Gaussian. Nothing is sampled. Cost is given as evaluations a step and elements in them.

# %%
q = ar1(64, 0.95)
candidates = window_candidates((64,), windows=[8], overlaps=[1, 2, 4, 6])
advice = advise(candidates, q, tolerance=0.03)
print(advice)
assert advice.cheapest is not None
assert advice.cheapest.name == "window 8, overlap 6"

# %% [markdown]
# Two choices, then: an overlap of 6 in 8, or posterior composition with an overlap of 1, at a
# fifth of the elements. Was it right? We compute the law that another solver than the advisor's
# reaches (`UniPC`, 20 levels; the advisor took Heun, 40), and for one candidate also fit a
# Gaussian to 10,000 samples, as one would without theory.


# %% alt="Loss against overlap: the marginal rule's crosses lie on its line; the posterior has none"
def composed(graph: RegionGraph, name: str) -> Score:
    rule = Posterior(node_covariances(graph, q)) if name == "posterior" else Marginal()
    return compose(graph, node_scores(graph, q), rule=rule)


def did(graph: RegionGraph, name: str) -> float:
    return loss(composed(graph, name), q, 20)


overlaps = [row.overlap[0] for row in advice.rows]
reached = {
    name: [did(graph, name) for graph in candidates.values()] for name in ("marginal", "posterior")
}
predicted = [row.marginal for row in advice.rows]
assert all(abs(a - b) < 0.05 * a for a, b in zip(predicted, reached["marginal"], strict=True))
assert max(row.posterior for row in advice.rows) < 1e-6 < max(reached["posterior"]) < 1e-4

graph = candidates["window 8, overlap 2"]
for name in ("marginal", "posterior"):
    u = sample(
        composed(graph, name),
        karras(20, 0.002, 80.0),
        shape=(10_000, 64),
        generator=0,
        dtype=DOUBLE,
    )
    print(f"{name}, overlap 2: {kl_divergence(Gaussian.fit(u), q) / 64:.4f} nats, of samples")
print(f"finite samples alone make that about {65 / (4 * 10_000):.4f}")


def predictions() -> None:
    _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    curves(
        {"marginal": (overlaps, predicted)},
        xlabel="overlap of windows of 8",
        ylabel="KL, nats per variable",
        title="Line: predicted (posterior: 0). Crosses: what the sampler did",
        log="y",
        ax=ax,
    )
    for name, colour in (("marginal", INK), ("posterior", ORANGE)):
        ax.plot(overlaps, reached[name], "x", color=colour, ms=9, mew=2, label=f"{name}, reached")
    ax.set_xticks(overlaps)
    ax.legend(frameon=False)


predictions()

# %% [markdown]
# The marginal rule's loss is as predicted. Posterior composition was predicted to lose none in the
# limit of many steps; what it loses is the solver's error at 20.
#
# Data that are not Gaussian lose other amounts. For the two-mode chain, with its covariance:

# %%
modal_advice = advise(modal, Gaussian(torch.zeros(N, dtype=DOUBLE), exact.T.cov()))
print(fill(modal_advice.sentence, 95))
for name in ("marginal", "posterior"):
    print(
        "energy distance of {}, measured above: {:.3f} ± {:.3f}".format(name, *distances[name, 60])
    )

# %% [markdown]
# The order is right. The amounts are those of a Gaussian: what posterior composition loses here is
# its closure's doing, of which the advisor knows nothing. It chooses; it does not bound.
#
# ## When there is no distribution
#
# With loops and strong correlation the local precisions may sum to a matrix that is not positive
# definite. Then posterior composition has nothing to sample from, and says so. A 4 × 4 torus:

# %%
place = torch.arange(4, dtype=DOUBLE)
field = Gaussian(
    torch.zeros(16, dtype=DOUBLE), torch.kron(ring(4, 0.5).covariance, ring(4, 0.5).covariance)
)
grid = torus(4, 4)
local, given = node_scores(grid, field), node_covariances(grid, field)
try:
    compose(grid, local, rule=Posterior(given))
except GraphError as error:
    print(fill(str(error), 95))

# %% [markdown]
# A repair has to be asked for, and is reported. `shrinkage=λ` moves all covariances towards a
# common diagonal; λ = 1 is the paper's rule. `"least"` finds the smallest λ from which on all is
# definite.

# %%
repaired = compose(grid, local, rule=Posterior(given, shrinkage="least"))
print(repaired.validate().definiteness)


def reached_law(score: Score) -> Gaussian:
    return distribution_reached(score, karras(40, 0.002, 80.0), start(16), UniPC(3))


variance = reached_law(repaired).covariance.diagonal().mean().item()
print(f"variance of what is sampled: {variance:.0f}, of the data: 1")
assert variance > 100

# %% [markdown]
# Definite, and useless: the least λ is the edge, where one direction has next to no precision left
# and its variance explodes. It is where a search begins. For Gaussians the search is exact:

# %% alt="Loss and variance against λ: both explode at the least λ; loss is smallest near λ = 0.8"
shrinkages = [0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0]
least = repaired.precision.shrinkage
laws = {
    x: reached_law(compose(grid, local, rule=Posterior(given, shrinkage=x))) for x in shrinkages
}
losses = {x: kl_divergence(law, field) / 16 for x, law in laws.items()}
best = min(losses, key=losses.__getitem__)
print(f"least λ {least:.3f}; best λ {best:g}: {losses[best]:.3f} nats, λ = 1: {losses[1.0]:.3f}")
assert losses[best] < 0.8 * losses[1.0] < losses[0.5]


def shrinking() -> None:
    _, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
    variances = [law.covariance.diagonal().mean().item() for law in laws.values()]
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
# Between the two there is something better than either. With data that are no Gaussians, compare
# samples: their variances first.
#
# ## What to remember
#
# - Noise destroys the factorisation of the noised state, not that of the clean state given it.
# - `Posterior` is exact for Gaussians that are Markov to a junction tree, with true covariances, at
#   every length, in as many steps as one piece needs. It wants covariances, all from one estimate;
#   a few hundred states give those of pairs.
# - For other data it is an approximation, mostly a good one. `Evidence` has a density, costs twice
#   as much a step, is about as good at equal cost here, and as bad as the paper's rule after very
#   many steps.
# - On loops ask `advise` first. It chooses well; it is no bound.
#
# ## Exercises
#
# 1. Give evidence composition as many *steps* as the others, 20 and 60. What does it gain?
# 2. A star whose leaves depend on products of the centre's coordinates is uncorrelated
#    (`benchmarks.exactness.distributions.parity_star`). Why does posterior composition not
#    help there, and what are its samples?
# 3. Make the two-mode chain's `stay` 0.5 and its `within` 0. Which rules differ now?
#
# ## Where to go next
#
# "Which rule, which covariances?" in the documentation has the table of all methods on six laws
# and on real data. "Conditioning" (06) uses posterior composition for exact conditional samples;
# "Validate your own topology" (08) tests a graph of your own.
