# %% [markdown]
# # A coarse model in the graph
#
# Your model knows windows of eight hours of a sensor. You want four days at a time, and samples of
# windows alone know nothing of the day before, however they are composed. A second, small model of
# *two-hourly means of all four days* does. A pyramid puts both into one graph.
#
# We build it (1), sample four days with it and with windows alone (2), and read what the experiment
# `python -m experiments pyramids_learned` has measured at equal cost (3). The notebook takes about
# 15 seconds on one core. It reads networks and results from the folder `experiments`, so run it
# from the repository: `python -m tutorials.14_a_coarse_model_in_the_graph`.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import experiments
from experiments.pyramid_model import MODEL, series
from pgmdiff import compose, from_denoiser, sample, tiles
from pgmdiff.diagnostics import mean_and_error
from pgmdiff.diagnostics.metrics import autocorrelation
from pgmdiff.graphs import pyramid
from pgmdiff.samplers import DPMSolver2M
from pgmdiff.scores import in_pixels, of_levels

torch.set_num_threads(1)
real = series(2000, 0)  # half-hourly temperatures at a buoy, less their mean of five days
print(f"four days: {tuple(real.shape[1:])}, standard deviation {real.std():.2f}")

# %% [markdown]
# ## 1. Two models, one graph
#
# Windows of 16 values overlap by halves. Means of 4 values each, 48 for the whole series, are one
# region more. In an orthonormal basis of coarse and detail coefficients of every tile, that region
# holds the coarse ones of all windows, so that `pyramid` can count: windows and means +1, what they
# share -1. `of_levels` turns models of values and of means into models of coefficients (a mean of 4
# values is called at σ/√4), and `in_pixels` turns the joint score back.

# %%
graph = pyramid((1, 192), tile=(1, 4), levels=1, window=(1, 16), overlap=(0, 8))
counts = graph.graph.counting_numbers().values()
print({f"count {c:+}": list(counts).count(c) for c in sorted(set(counts))})

denoisers = MODEL.denoisers()  # one network of windows, one of means
windows, means = from_denoiser(denoisers["windows"]), from_denoiser(denoisers["means"])
coarse_too = in_pixels(graph, compose(graph.graph, of_levels(graph, windows, means)))
alone = compose(tiles((1, 192), (1, 16), (0, 8)), windows)

# %% [markdown]
# ## 2. Four days
#
# The same noise levels, solver and seed for both. Warm spells are followed by cold ones two days
# later, which real series show as a correlation below 0 at 42 hours.

# %%
run = {"shape": (64, 1, 192), "solver": DPMSolver2M(eta=1.0, rho=7.0), "generator": 0}
drawn = {
    "windows of 8 hours": sample(alone, MODEL.levels(30), **run),
    "with a coarse model": sample(coarse_too, MODEL.levels(30), **run),
}
far = {}
for name, x in {"measured": real, **drawn}.items():
    far[name] = mean_and_error([autocorrelation(part, 84)[84].item() for part in x.chunk(4)])
    print(f"{name:20} correlation 42 hours apart: {far[name][0]:+.2f} ± {far[name][1]:.2f}")
assert far["with a coarse model"][0] < far["windows of 8 hours"][0] - 0.1

# %% tags=["hide-input"] alt="warm and cold spells take turns only with a coarse model"
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(1.2, 1), layout="constrained")
rows = torch.cat([x[:12, 0] for x in (real, *drawn.values())])
limit = 2 * real.std().item()
axes[0].imshow(
    rows, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, extent=(0, 96, 36, 0),
    interpolation="nearest",
)  # fmt: skip
for line in (12, 24):
    axes[0].axhline(line, color="black", linewidth=1.5)
axes[0].set_yticks([6, 18, 30], ["measured", "windows", "coarse too"])
axes[0].set(xlabel="hours", title="12 series each, cold to warm")
hours = torch.arange(97) / 2
for name, x in {"measured": real, **drawn}.items():
    color = "black" if name == "measured" else None
    axes[1].plot(hours, autocorrelation(x, 96), label=name, color=color)
axes[1].axhline(0, color="grey", linewidth=0.8)
axes[1].set(xlabel="hours apart", ylabel="correlation", title="What is left of the day before")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# ## 3. At equal cost, over seeds
#
# The pyramid's networks see more values in a step. The experiment gives windows alone as many more
# noise levels, and tries wider windows, too. *Days off* is the error of the power at periods of 24
# hours and more, in decibels; *FD* compares windows of 8 hours, where a coarse model has nothing to
# add.

# %%
results = Path(experiments.__file__).parent / "results" / "pyramids_learned.json"
for row in json.loads(results.read_text())["quality"]["rows"]:
    told = f"{row['graph']} {row.get('rule', '')}"
    print(
        f"{told:32} 42 h {row['lag_84'][0]:+.2f}   days off {row['days'][0]:.1f} dB   "
        f"FD {row['fd'][0]:.2f}"
    )

# %% [markdown]
# Wider windows help a little, and cost quality in short ones. With the coarse model both figures
# are about those of held-out days, which no model has seen: the second row. It is little data, one
# buoy and half a year.
#
# **To copy:** `pyramid(...)`, `of_levels(graph, fine, coarse)`, `in_pixels(graph, joint)`. The same
# lines work for images, with tiles of 4 × 4 pixels and a model of thumbnails. More:
# [pyramids](../experiments/pyramids.md), [learned pyramids](../experiments/pyramids_learned.md).
