# %% [markdown]
# # Observations of groups
#
# Five schools, and some pupils' results from each. You want the level of every school, and that of
# all schools, with honest uncertainty. The number of pupils differs from year to year, so you have
# trained a model for *one* observation only: the posterior of school and population, given one
# result. How do a hundred results of five schools follow from it?
#
# They are composed, in a factor graph whose nodes are factor graphs (1). With Gaussian models this
# can be compared with the exact posterior (2). Then we look at what the experiment
# `python -m experiments groups` has measured with other models (3). The notebook takes about
# 15 seconds on one core. It reads results from the folder `experiments`, so run it from the
# repository: `python -m tutorials.13_observations_of_groups`.

# %%
import json
import warnings
from math import isfinite
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import experiments
from pgmdiff import Consistent, FactorGraph, Gaussian, Marginal, Posterior, compose, karras, sample
from pgmdiff.diagnostics import mean_and_error
from pgmdiff.graphs import repeated_observations
from pgmdiff.samplers import DPMSolver2M

torch.set_num_threads(1)  # for matrices this small, several threads are slower than one
DOUBLE = {"dtype": torch.float64}

# %% [markdown]
# ## 1. A graph of graphs
#
# The population has a level $\varphi$, school $j$ a level $\theta_j$, and its pupils the results
# $y_{jk}$. The outer graph joins $\varphi$ to every $\theta_j$. The pair $(\varphi, \theta_j)$ is a
# graph of its own: a *star* of posteriors of one observation each. Counts are products along the
# path from the outside to a leaf:
#
# $$q(\varphi, \theta \mid y) \propto q(\varphi)^{1-5} \prod_j \Big[ q(\varphi, \theta_j)^{1-n}
# \prod_k q(\varphi, \theta_j \mid y_{jk}) \Big].$$

# %%
SCHOOLS = 5


def nested(y: Tensor) -> FactorGraph:
    """The graph of observations `[schools, n]`."""
    pairs = {f"school {j}": ("population", f"level {j}") for j in range(SCHOOLS)}
    graph = FactorGraph.from_scopes(pairs, variable_model="population")
    stars = [repeated_observations(len(own), (2,), [{"y": each} for each in own]) for own in y]
    return graph.nest(dict(zip(pairs, stars, strict=True)))


flat = nested(torch.arange(15.0).reshape(SCHOOLS, 3)).flatten()
for leaf, count in flat.counting_numbers().items():
    if "school 0" in str(leaf) or "population" in str(leaf):
        print(f"{leaf!s:32} {count:+}")

# %% [markdown]
# Every observation counts once, the prior of a pair 1 - 3 times and that of the population 1 - 5
# times, so that each is used once in all.
#
# ## 2. Gaussian models, and the exact posterior
#
# Levels are normal around the population's, and results around the school's. Then the posterior of
# one observation is a Gaussian whose mean depends on $y$, and so is that of all of them. Rules with
# covariances receive those of all leaves twice, with their observations and without (`prior=`).

# %%
POPULATION, BETWEEN, NOISE = 1.5, 0.8, 2.0  # standard deviations
prior = torch.tensor([[POPULATION**2] * 2, [POPULATION**2, POPULATION**2 + BETWEEN**2]], **DOUBLE)
gain = prior[1] / (prior[1, 1] + NOISE**2)
left = Gaussian(torch.zeros(2, **DOUBLE), prior - gain[:, None] * prior[1])


def one_observation(x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
    """The score of q(φ, θ | y): what a network would have learned."""
    return left.score(x - y[:, None] * gain, sigma)


alone = torch.tensor([[POPULATION**2]], **DOUBLE)
models = {
    "posterior": one_observation,
    "prior": Gaussian(torch.zeros(2, **DOUBLE), prior),
    "population": Gaussian(torch.zeros((), **DOUBLE), alone),
}


def rules(graph: FactorGraph) -> dict[str, Marginal | Posterior | Consistent]:
    flat = graph.flatten()
    names = flat.counting_numbers()
    without = {leaf: prior if flat.elements(leaf).numel() == 2 else alone for leaf in names}
    given = without | dict.fromkeys(flat.conditions, left.covariance)
    known = {"prior": without, "mean": torch.zeros(1 + SCHOOLS, **DOUBLE)}
    return {
        "Marginal": Marginal(),
        "Posterior": Posterior(given, **known),
        "Consistent": Consistent(given, **known),
    }


def exact(y: Tensor) -> Gaussian:
    """The posterior of all levels, by linear algebra on all of them at once."""
    loads = torch.cat([torch.ones(1, SCHOOLS, **DOUBLE), torch.eye(SCHOOLS, **DOUBLE)])
    roots = torch.diag(torch.tensor([POPULATION**2, *[BETWEEN**2] * SCHOOLS], **DOUBLE))
    mixed = torch.cat([torch.eye(1 + SCHOOLS, **DOUBLE)[:1], loads.T])
    precision = torch.linalg.inv(mixed @ roots @ mixed.T)
    seen = torch.full((SCHOOLS,), y.shape[1] / NOISE**2, **DOUBLE)
    precision += torch.diag(torch.cat([torch.zeros(1, **DOUBLE), seen]))
    covariance = torch.linalg.inv(precision)
    pulled = torch.cat([torch.zeros(1, **DOUBLE), y.sum(dim=1) / NOISE**2])
    return Gaussian(covariance @ pulled, (covariance + covariance.T) / 2)


def simulated(n: int, seed: int) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    normal = torch.randn(1 + SCHOOLS * (n + 1), generator=stream, **DOUBLE)
    levels = POPULATION * normal[0] + BETWEEN * normal[1 : 1 + SCHOOLS]
    return levels[:, None] + NOISE * normal[1 + SCHOOLS :].reshape(SCHOOLS, n)


# %%
warnings.filterwarnings("ignore", "compose: regions")  # Marginal: this notebook shows why
y = simulated(10, 0)
graph, q = nested(y), exact(y)
print("largest relative error of the score, σ from 0.1 to 10")
for name, rule in rules(graph).items():
    joint, worst = compose(graph, models, rule=rule), 0.0
    for sigma in (0.1, 1.0, 10.0):
        u = q.noised(sigma).sample(50, 0)
        gap = joint(u, sigma) - q.score(u, sigma)
        worst = max(worst, (gap.norm() / q.score(u, sigma).norm()).item())
    print(f"{name:11}  {worst:.0e}")
    assert name == "Marginal" or worst < 1e-10

# %% [markdown]
# Rules with covariances are exact up to rounding, and the rule `Marginal` is not: noised
# posteriors do not multiply. Samples show what this means, for 1, 10 and 100 results of every
# school. Errors are in deviations of the exact posterior, averaged over population and schools,
# with standard errors over three data sets. Exact draws have errors, too, since there are only 500.

# %%
DRAWS, SETS, NUMBERS = 500, 3, (1, 10, 100)
options = {"shape": (DRAWS, 1 + SCHOOLS), "solver": DPMSolver2M(eta=1.0, rho=7.0), **DOUBLE}


def measured(x: Tensor, q: Gaussian) -> tuple[float, float]:
    """The mean error of means, in exact deviations, and the deviations relative to exact ones."""
    deviation = q.covariance.diagonal().sqrt()
    return (
        ((x.mean(dim=0) - q.mean).abs() / deviation).mean().item(),
        (x.std(dim=0) / deviation).log().mean().exp().item(),
    )


found = dict[tuple[int, str], list[tuple[float, float]]]()
for n in NUMBERS:
    for seed in range(SETS):
        y = simulated(n, seed)
        graph, q = nested(y), exact(y)
        found.setdefault((n, "exact draws"), []).append(measured(q.sample(DRAWS, seed), q))
        for name, rule in rules(graph).items():
            joint = compose(graph, models, rule=rule)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Marginal, which goes astray
                x = sample(joint, karras(40, 0.005, 30.0), generator=seed, **options)
            found.setdefault((n, name), []).append(measured(x, q))
print("  n  rule           error of means    width / exact")
for (n, name), sets in found.items():
    errors, widths = (mean_and_error(each) for each in zip(*sets, strict=True))
    figures = f"{errors[0]:8.2g} ± {errors[1]:<8.1g} {widths[0]:7.3g} ± {widths[1]:.1g}"
    print(f"{n:3}  {name:11}  {figures}")

# %% [markdown]
# However many results there are, `Posterior` and `Consistent` have the means of exact draws; what
# is left in the width is the solver's own error at 40 levels. `Marginal` is off with ten results
# already, and lost with a hundred.
#
# ## 3. Where models are not Gaussian
#
# In the experiment groups are of two kinds, so that every posterior of one observation has two
# modes, and the composition is exact no longer. The models are exact mixtures, or a network that
# has learned them from simulations. We read and draw what has been measured:


# %% tags=["hide-input"] alt="Error of the means against the number of observations, by rule"
results = Path(*experiments.__path__) / "results" / "groups.json"
committed = json.loads(results.read_text())
parts = [part for part in ("exact", "learned") if part in committed]
figure, axes = plt.subplots(1, len(parts), figsize=(9, 3.4), sharey=True, squeeze=False)
for axis, part in zip(axes[0], parts, strict=True):
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row in committed[part]["rows"]:
        if "mean" in row and isfinite(row["mean"][0]):
            point = row["observations"], row["mean"][0], row["mean"][1] or 0.0
            lines.setdefault(row["rule"], []).append(point)
        if row["lost"]:
            lost = f"{row['lost']} of {row['data sets']} data sets are lost"
            print(f"{part} models, {row['observations']} observations, {row['rule']}: {lost}")
    for name, points in lines.items():
        x, mean, error = zip(*points, strict=True)
        axis.errorbar(x, mean, error, fmt="o-", ms=4, lw=1.4, capsize=2, label=name)
    axis.set(xscale="log", yscale="log", xlabel="observations of each group")
    axis.set_title(f"{part} models", loc="left", fontsize=10)
axes[0, 0].set_ylabel("error of the means, deviations")
axes[0, 0].legend(frameon=False, fontsize=8)
figure.tight_layout()

# %% [markdown]
# *Exact draws* are the floor: what so few samples leave uncertain by themselves. How far a rule
# lies above them is the error of its composition and, on the right, of the network. Use it as far
# along the axis as that is small enough for you. Bars are standard errors over data sets; a point
# without one is a single data set.
#
# ## What to remember
#
# - `graph.nest` puts a graph into every node; a model of one observation serves any number.
# - Give rules the covariances with observations, and those without as `prior=`.
# - It is exact for Gaussian posteriors. For others, simulate data of known truth and look, as here:
#   errors of the closure and of networks can add up with the number of observations.
#
# **Exercise.** Give two schools 100 results and three of them one. Which levels gain most?
#
# **Where to go next.** The page "Groups" has the whole experiment, with tables.
