# %% [markdown]
# # Sensors that fall silent
#
# You run a network of sensors and have enough data of *pairs* of neighbours to train models of
# them, but not of all sensors at once. Today two sensors are silent, and one of the others may be
# broken. What would the silent ones measure, and which one is broken?
#
# Here 28 sensors measure the temperature of the tropical sea, and no model has seen more than two
# of them. Composed along the graph of neighbours, the models draw all sensors at once (1), fill in
# the silent ones with bands (2) and find the broken one (3). A plain Gaussian stands beside them,
# which has seen all sensors together; you will see where it wins. The notebook takes about 40
# seconds on one core. It reads data, models and results from the folder `experiments`, so run it
# from the repository: `python -m tutorials.12_a_network_of_sensors`.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from experiments import network
from experiments.sea import learned, opened
from pgmdiff import Consistent, Gaussian, Marginal, Posterior, compose, fit_covariances
from pgmdiff.conditioning import Composed, Mask, moment_matching
from pgmdiff.diagnostics import crps, energy_distance, interval_coverage, mean_and_error
from pgmdiff.samplers import karras, sample

torch.set_num_threads(1)  # for networks this small, several threads are slower than one
results = Path(network.__file__).parent / "results" / "network.json"
committed = json.loads(results.read_text())  # what `python -m experiments network` has measured
sea = opened()  # `train` and `test` hold months and places, less the mean of every sensor
models = learned()  # "pair" and "single": networks that are told which pair, or which sensor
graph, SILENT = sea.graph, [12, 13]
print(graph, f"{len(sea.train)} states to learn from, {len(sea.test)} held out", sep="\n")

# %% [markdown]
# The graph is made by `markov_random_field` and joins every sensor to its two nearest ones, with
# loops. Factors stand for the model "pair", variables for the model "single", and a condition of
# every node, its label, tells the network which pair or sensor it is. 12 and 13 will be silent.


# %% tags=["hide-input"] alt="28 places in a box of 10° by 30°, joined by 35 edges"
def drawn(values: Tensor, label: str, ringed: tuple[int, ...] = ()) -> None:
    """The network, its sensors coloured by values."""
    figure, axis = plt.subplots(figsize=(8, 3), layout="constrained")
    y, x = sea.places.T
    ends = torch.tensor([*sea.network.edges]).T
    axis.plot(x[ends], y[ends], color="#cfd2d6", lw=1, zorder=1)
    dots = axis.scatter(x, y, c=values, s=80, cmap="viridis", zorder=2)
    for k in ringed:
        axis.scatter(x[k], y[k], s=200, facecolors="none", edgecolors="#b3262e")
    for k in SILENT:
        axis.annotate(str(k), (x[k], y[k]), (5, 5), textcoords="offset points", fontsize=7)
    figure.colorbar(dots, label=label)
    axis.set(xlabel="degrees east of the box's edge", ylabel="degrees north", aspect="equal")


drawn(sea.train.std(dim=0), "standard deviation, °C")

# %% [markdown]
# ## 1. All sensors at once
#
# `Posterior` requires the covariances of the pairs, which the same data provide. We draw three sets
# of 1,000 states and measure how far they are from held-out months, by the energy distance. Beside
# the figures computed here are those of the experiment, with 30 noise levels instead of 16.
# *Training* are months of the data themselves, which no model can be expected to improve on.

# %%
covariances = fit_covariances(graph, sea.train)
joints = {
    "Marginal": compose(graph, models, rule=Marginal()),
    "Posterior": compose(graph, models, rule=Posterior(covariances)),
    "Consistent": compose(graph, models, rule=Consistent(covariances)),
}
gaussian = Gaussian.fit(sea.train)
SETS, SIZE, LEVELS = 3, 1000, karras(16, 0.02, 50.0)


def rows(states: Tensor, n: int, seed: int) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return states[torch.randperm(len(states), generator=stream)[:n]]


def draws(name: str, seed: int) -> Tensor:
    if name == "training":
        return rows(sea.train, SIZE, 20 + seed)
    if name == "Gaussian of all":
        return gaussian.sample(SIZE, seed)
    return sample(joints[name], LEVELS, shape=(SIZE, 28), generator=seed).double()


def line(name: str, *figures: tuple[float, float | None]) -> str:
    """A name, and means with their standard errors."""
    return f"{name:18}" + "".join(f"  {mean:6.3f} ± {error or 0:.3f}" for mean, error in figures)


known = {row["method"]: row for row in committed["samples"]["rows"]}
names = "training", "Gaussian of all", *joints
sampled = {name: [draws(name, k) for k in range(SETS)] for name in names}
print("                    here             the experiment")
print("                    energy distance  energy distance  correlations, error")
for name, sets in sampled.items():
    far = [energy_distance(x, rows(sea.test, SIZE, 10 + k)) for k, x in enumerate(sets)]
    print(line(name, mean_and_error(far), known[name]["energy"], known[name]["apart"]))


# %% tags=["hide-input"] alt="Two distant sensors: held-out states and samples of three methods"
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharex=True, sharey=True)
for axis, name in zip(axes, ("Gaussian of all", "Marginal", "Posterior"), strict=True):
    for states, colour in ((rows(sea.test, SIZE, 10), "#c4c8cc"), (sampled[name][0], "#08406e")):
        axis.scatter(*(states + sea.mean)[:, network.SHOWN].T, s=5, color=colour)
    axis.set_title(name, loc="left", fontsize=10)
axes[0].set(xlabel="one sensor, °C", ylabel="another, °C")
figure.tight_layout()

# %% [markdown]
# `Posterior` comes closest to held-out months. It keeps the bend of the distribution and its edge
# of warm water, which no Gaussian has, and the rule `Marginal` loses that distant sensors
# belong together. But the Gaussian of all sensors wins where only correlations of sensors count
# that are not joined, the last column: pairs do not tell them.
#
# ## 2. Two silent sensors
#
# In three held-out months, at every third place around the equator, two sensors are silent. The
# others are read with noise of 0.1 °C. `moment_matching` makes the joint into that of all sensors,
# given these readings.

# %%
DRAWS, NOISE, PLACES = 39, network.NOISE, 25
seen = torch.ones(28, dtype=torch.bool)
seen[SILENT] = False
truth = torch.cat([sea.test[74 * month : 74 * (month + 1) : 3] for month in (4, 9, 14)])
y = truth + NOISE * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)).double()
joint, repeated = joints["Posterior"], y.repeat_interleave(DRAWS, dim=0).float()
given = moment_matching(joint, repeated, Mask(seen), Composed(joint), noise=NOISE)
filled = sample(given, LEVELS, shape=repeated.shape, generator=0).double()
# The Gaussian has a formula: the mean and the covariance of what is silent, given the rest.
S, m = gaussian.covariance, gaussian.mean
noisy = S[seen][:, seen] + NOISE**2 * torch.eye(26).double()
gain = torch.linalg.solve(noisy, S[seen][:, SILENT]).T
left = S[SILENT][:, SILENT] - gain @ S[seen][:, SILENT]
spread = Gaussian(torch.zeros(2).double(), (left + left.T) / 2).sample(len(y) * DRAWS, 0)
expected = m[SILENT] + (y - m)[:, seen] @ gain.T
bands = {
    "Gaussian of all": expected[:, None] + spread.reshape(-1, DRAWS, 2),
    "Posterior": filled.reshape(-1, DRAWS, 28)[..., SILENT],
}
known = {row["method"]: row for row in committed["missing"]["rows"]}
print("                    two silent, here                 nine silent, the experiment")
print("                    CRPS, °C         in 90 % bands   CRPS, °C         in 90 % bands")
for name, x in bands.items():
    months = [*zip(x.split(PLACES), truth[:, SILENT].split(PLACES), strict=True)]
    own = [mean_and_error([of(*month) for month in months]) for of in (crps, interval_coverage)]
    print(line(name, *own, known[name]["crps"], known[name]["band_90"]))


# %% tags=["hide-input"] alt="Truths of two silent sensors, mostly within both bands"
_, axes = plt.subplots(2, 1, figsize=(8, 4.4), sharex=True, layout="constrained")
for k, axis in enumerate(axes):
    celsius = {name: x[:PLACES, :, k] + sea.mean[SILENT[k]] for name, x in bands.items()}
    low, high = celsius["Posterior"].quantile(torch.tensor([0.05, 0.95]).double(), dim=1)
    axis.fill_between(range(PLACES), low, high, color="#9fc3e0", label="Posterior, 90 %")
    edges = celsius["Gaussian of all"].quantile(torch.tensor([0.05, 0.95]).double(), dim=1).T
    axis.plot(edges, color="#dd7a1f", lw=1, label=["Gaussian of all, 90 %", None])
    true = truth[:PLACES, SILENT[k]] + sea.mean[SILENT[k]]
    axis.plot(true, "o", color="#2b2b2b", ms=4, label="truth")
    axis.set_ylabel(f"sensor {SILENT[k]}, °C")
axes[0].legend(frameon=False, fontsize=8, ncols=3)
axes[1].set_xlabel("place around the equator, in the first of the months")
plt.show()

# %% [markdown]
# Both bands hold about what they promise. The Gaussian has the smaller CRPS, and clearly so where
# the experiment hides nine sensors: it has seen what distant sensors tell about each other, and
# pairs have not. But where there is no data of all sensors at once, there is no such Gaussian.
#
# ## 3. A broken sensor
#
# The models have a method `log_density`, so that a reading has one, too: $\sum_r c_r \log q_r$ over
# pairs and sensors, with their counting numbers. On loops it is not normalised, but readings can be
# compared by it. If a reading is unlikely, we suspect the sensor whose own terms have the least
# sum, relative to what is usual. In half of all readings here, one sensor of 28 is off by 1 °C.

# %%
pairs = torch.stack([graph.elements(name) for name in graph.factors])
degrees = pairs.flatten().bincount()


def of_pairs(u: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of c_r log q_r of readings, `[n]`, and of what holds each sensor, `[n, 28]`."""

    def logs(kind: str, x: Tensor) -> Tensor:  # of x `[n, pairs or sensors, d]`
        flat, label = x.float().flatten(0, 1), torch.arange(x.shape[1]).repeat(len(x))
        sigma = torch.full((len(flat),), NOISE)
        return models[kind].log_density(flat, sigma, label=label).reshape(x.shape[:2])

    pair, single = logs("pair", u[:, pairs]), logs("single", u[..., None]) * (1.0 - degrees)
    own = single.index_add(1, pairs[:, 0], pair).index_add(1, pairs[:, 1], pair)
    return pair.sum(dim=1) + single.sum(dim=1), own


def of_gaussian(u: Tensor) -> tuple[Tensor, Tensor]:
    """Log-densities of readings, and of every sensor given all others, up to a constant."""
    noisy = gaussian.noised(NOISE)
    precision = torch.linalg.inv(noisy.covariance)
    away = (u - noisy.mean) @ precision
    return noisy.log_density(u), -0.5 * away**2 / precision.diagonal()


def readings(states: Tensor, seed: int) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return rows(states, 60, seed) + NOISE * torch.randn(60, 28, generator=stream).double()


known = {row["method"]: row for row in committed["faults"]["rows"]}
print("                    area under the curve, and share of faults found")
print("                    here                             the experiment")
for name, read in {"Gaussian of all": of_gaussian, "pairs and sensors": of_pairs}.items():
    areas, shares = [], []
    for k in range(SETS):
        sound, faulty = readings(sea.test, 40 + k), readings(sea.test, 70 + k)
        broken = torch.randint(28, (60,), generator=torch.Generator().manual_seed(k))
        faulty[range(60), broken] += 1.0  # °C
        (total, own), usual = read(faulty), read(readings(sea.train, 60 + k))[1].mean(dim=0)
        areas.append((total[:, None] < read(sound)[0]).double().mean().item())
        shares.append(((own - usual).argmin(dim=1) == broken).double().mean().item())
    measured = mean_and_error(areas), mean_and_error(shares)
    print(line(name, *measured, known[name]["offset"], known[name]["offset_found"]))

# %% [markdown]
# The area is a half by chance, and the share 1 in 28. The Gaussian of all sensors wins again: a
# fault shows in how a sensor differs from all others around it, not from two. Pairs find most
# faults without it. Here is the first that they find, ringed:

# %% tags=["hide-input"] alt="The sensors, and the broken one ringed: it has the least log-density"
found = (own - usual).argmin(dim=1) == broken
drawn((own - usual)[found][0], "log-density less the usual", (int(broken[found][0]),))

# %% [markdown]
# ## What to remember
# - Models of pairs and a list of neighbours suffice for joint samples, bands and densities.
# - Use `Posterior` or `Consistent`; the marginal rule loses what distant sensors have in common.
# - If you do have data of all sensors at once, fit a Gaussian, too. It is better at correlations,
#   at silent sensors and at faults; composition is better at the shape of the distribution.
#
# **Exercise.** Let the broken sensor show what another one measures. Is it harder to find?
# **Where to go next.** The page "A network of sensors" has the whole experiment, and says how the
# models were trained. Tutorial 13 composes posteriors.
