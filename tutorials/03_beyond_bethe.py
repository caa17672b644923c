# %% [markdown]
# # Regions beyond Bethe
#
# Your model knows tiles of 4 × 4 pixels, and you want images of 16 × 16. Tiles overlap in both
# directions, so you count by hand, as in a chain: +1 for every tile, -1 for what two neighbours
# share. The library refuses. You count as in a factor graph instead, with pixels as variables. Now
# it accepts, and the samples explode. How does one count?
#
# What pieces share has to be counted *as it is shared*: strips as strips, not pixel by pixel, and
# the corners where strips meet as well. You will see a corner forgotten (1), the rule that forgets
# nothing (2), counts that are accepted and yet useless (3), and a conveyor belt with a twist (4),
# for pieces of any shape. The data is Gaussian, so that the truth is known. The notebook takes
# about 9 seconds on one core.

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from pgmdiff import (
    Average,
    Consistent,
    FactorGraph,
    Gaussian,
    GraphError,
    Marginal,
    RegionGraph,
    cluster_variation,
    compose,
    karras,
    sample,
    tiles,
)
from pgmdiff.diagnostics import mean_and_error
from pgmdiff.gaussian import ar1, composed_precision, node_covariances, node_scores
from pgmdiff.plotting import plot, strips

torch.set_num_threads(1)  # for matrices this small, several threads are slower than one
LEVELS = karras(20, 0.002, 80.0)

# %% [markdown]
# ## 1. A forgotten corner
#
# The smallest case: an image of 3 × 3 pixels, covered by four tiles of 2 × 2. A region is an array
# of indices into the flattened image, so that slices of `u` will do.

# %%
u = np.arange(9).reshape(3, 3)
pieces = {"NW": u[:2, :2], "NE": u[:2, 1:], "SW": u[1:, :2], "SE": u[1:, 1:]}
seams = {"N": u[:2, 1], "S": u[1:, 1], "W": u[1, :2], "E": u[1, 1:]}
by_hand_counts = dict.fromkeys(pieces, 1) | dict.fromkeys(seams, -1)
by_hand = RegionGraph.from_regions({**pieces, **seams}, by_hand_counts, event_shape=u.shape)
try:
    compose(by_hand, lambda x, sigma: -x)
except GraphError as error:
    print(fill(str(error), 80))

# %% tags=["hide-input"] alt="Counts of pixels: by tiles, by seams, and their sum, 0 in the middle"
plot(by_hand, layout="counts", title="Tiles +1, seams −1: the middle is counted 0 times")

# %% [markdown]
# The middle pixel lies in four tiles and in four seams, and 4 - 4 = 0: its score would not be added
# at all. What is missing is the overlap of the overlaps.
#
# ## 2. Count from the largest region down
#
# *Cluster variation* (Kikuchi) forgets nothing. Close the pieces under intersection. Then
# give every region, the largest first, the count that is still missing for its elements to be
# counted once:
#
# $$c_r = 1 - \sum_{s \supsetneq r} c_s.$$
#
# That is all. For sets of pixels it takes a few lines, and the library's function finds the same:

# %%
sets = {frozenset(piece.ravel().tolist()) for piece in pieces.values()}
while more := {a & b for a in sets for b in sets} - sets - {frozenset()}:
    sets |= more
counts: dict[frozenset, int] = {}
for region in sorted(sets, key=len, reverse=True):
    counts[region] = 1 - sum(counts[larger] for larger in counts if region < larger)
for count in (1, -1):
    print(f"{count:+d}:", *(tuple(sorted(region)) for region, c in counts.items() if c == count))

library = cluster_variation(pieces, event_shape=u.shape)
assert sorted(library.counting_numbers().values()) == sorted(counts.values())
assert library.validate().valid

# %% tags=["hide-input"] alt="Three layers: four tiles +1, below them four seams −1, one corner +1"
plot(library, layout="hasse", title="Tiles, what two share, what all share")

# %% [markdown]
# The corner counts +1. For windows on a grid there is a shortcut: windows +1 and overlaps -1 along
# each axis, and the counts of several axes *multiply*, (-1)(-1) = +1 at a corner. `tiles` counts in
# this way, without any sets.
#
# ## 3. Accepted, and yet useless
#
# That every element is counted once is necessary, and `compose` requires it. It is not enough. Take
# images of 16 × 16 pixels, covered by tiles of 4 × 4 that overlap by 2, and draw them as a factor
# graph whose variables are *pixels*. Bethe's counts are valid: a pixel in four tiles counts 1 - 4 =
# -3. But now the strips that tiles share are divided out as if their pixels were independent.
#
# In the true images a step down and a step to the right each multiply the correlation by 0.9. We
# draw five sets of 60 images in four ways, and print the standard deviation of pixels and the
# correlation of pixels side by side, and four columns apart.

# %%
n, rho = 16, 0.9
across = ar1(n, rho).covariance
truth = Gaussian(torch.zeros(n, n, dtype=torch.float64), torch.kron(across, across))
v, at = np.arange(n * n).reshape(n, n), range(0, n - 3, 2)
scopes = {(i, j): tuple(v[i : i + 4, j : j + 4].ravel().tolist()) for i in at for j in at}
pixels = dict.fromkeys(v.ravel().tolist(), ())
on_pixels = FactorGraph.from_scopes(scopes, shapes=pixels).regions
on_tiles = tiles((n, n), window=4, overlap=2)
assert on_pixels.validate().valid


def drawn(graph, rule, seed: int) -> Tensor:
    joint = compose(graph, node_scores(graph, truth), rule=rule)
    shape = (60, *graph.event_shape)
    x = sample(joint, LEVELS, shape=shape, generator=seed, dtype=torch.float64)
    return x.reshape(-1, n, n)


ways = {
    "Bethe on pixels": (on_pixels, Marginal()),
    "average": (on_tiles, Average()),
    "cluster variation": (on_tiles, Marginal()),
    "the same, Consistent": (on_tiles, Consistent(node_covariances(on_tiles, truth))),
}
images = {"real": [truth.sample(60, 100 + k) for k in range(5)]}
images |= {name: [drawn(*way, k) for k in range(5)] for name, way in ways.items()}


def alike(a: Tensor, b: Tensor) -> float:
    return torch.stack([a.flatten(), b.flatten()]).corrcoef()[0, 1].item()


def measured(x: Tensor) -> tuple[float, float, float]:
    """The deviation of pixels, and the correlations of those one and four columns apart."""
    return x.std().item(), *(alike(x[..., k:], x[..., :-k]) for k in (1, 4))


formula, off = torch.tensor([1, rho, rho**4]), {}
print(f"{'':23}standard deviation    side by side       four apart")
print(f"{'formula':20}" + "        ".join(f"{each:11.3f}" for each in formula))
for name, sets in images.items():
    row = [mean_and_error(each) for each in zip(*map(measured, sets), strict=True)]
    print(f"{name:20}" + "".join("{:11.3f} ± {:.3f}".format(*each) for each in row))
    off[name] = (torch.tensor(row)[:, 0] - formula).abs()
assert (off["cluster variation"] < off["average"]).all()
assert (off["the same, Consistent"] < off["cluster variation"]).all()
assert off["Bethe on pixels"][0] > 5
least = torch.linalg.eigvalsh(composed_precision(on_pixels, truth, 0.0))[0]
print(f"least eigenvalue of Bethe's precision, σ = 0: {least:.1f}")
assert least < 0 < torch.linalg.eigvalsh(composed_precision(on_tiles, truth, 0.0))[0]

# %% tags=["hide-input"] alt="Five images: Bethe's is nearly white, all others grey"
figure, axes = plt.subplots(1, 5, figsize=(9, 2.3), layout="constrained")
for axis, (name, sets) in zip(axes, images.items(), strict=True):
    axis.imshow(sets[0][0], cmap="gray", vmin=-3, vmax=3)
    axis.set_title(name, loc="left", fontsize=9)
    axis.set_axis_off()
plt.show()

# %% [markdown]
# Nothing complained, and yet the precision has negative eigenvalues, so that no distribution has
# this score, and samples grow in those directions. Averaging is tame, but its pixels vary too
# little, and know little of those four columns away. Cluster variation is closer in all three
# columns; what it still lacks is the price of noise ([tutorial 01](01_bethe_approximation.ipynb)),
# and the rule `Consistent`, on the same regions, does not pay it.
#
# ## 4. Pieces of any shape
#
# Some conveyor belts have a half twist, so that both sides wear evenly. You have a model of patches
# of 6 × 12, and want to know what a scan of the whole belt looks like. Windows go around it, and
# the one across the seam continues into the other end *upside down*. Regions are arrays of indices,
# so that this is all there is to say, and the model never hears of it: it is one model of flat
# patches. `cluster_variation` finds what windows share.

# %%
height, length = 6, 48
belt = np.arange(height * length).reshape(height, length)
twice_round = np.concatenate([belt, belt[::-1]], axis=1)  # what comes after the end
windows = {f"window {k}": twice_round[:, 6 * k : 6 * k + 12] for k in range(8)}
regions = RegionGraph.from_regions(
    windows, event_shape=belt.shape, models=dict.fromkeys(windows, "patch")
)
twisted = cluster_variation(regions)
print(twisted)


def patch(h: int, w: int) -> Gaussian:
    """A step down multiplies the correlation by 0.8, and a step to the right by 0.9."""
    covariance = torch.kron(ar1(h, 0.8).covariance, ar1(w, 0.9).covariance)
    return Gaussian(torch.zeros(h, w, dtype=torch.float64), covariance)


models = {"patch": patch(6, 12), (6, 6): patch(6, 6)}  # an overlap is known by its shape
rule = Consistent({name: model.covariance for name, model in models.items()})
joint = compose(twisted, models, rule=rule)
shape = (100, height, length)
scans = [sample(joint, LEVELS, shape=shape, generator=k, dtype=torch.float64) for k in range(5)]


print("correlation of neighbouring columns")
columns = {
    "within the belt": [alike(x[..., 20], x[..., 21]) for x in scans],
    "last and first, turned": [alike(x[..., -1], x[..., 0].flip(1)) for x in scans],
    "last and first, as they are": [alike(x[..., -1], x[..., 0]) for x in scans],
}
for name, values in columns.items():
    mean, error = mean_and_error(values)
    print(f"{name:28} {mean:.3f} ± {error:.3f}")
    assert (abs(mean - 0.9) < 4 * error) == (name != "last and first, as they are")

# %% tags=["hide-input"] alt="A grey belt cut in the middle: as it is, a seam; turned over, none"
gaps = torch.stack([(x[..., -1] - x[..., 0]).abs().mean(dim=1) for x in scans]).flatten()
shown = torch.cat(scans)[gaps.argmax()]  # its ends match least unless one is turned
shown, half = shown / shown.abs().max(), length // 2
turned_over = torch.cat([shown[:, half:], shown[:, :half].flip(0)], dim=1)
joined = {"as it is: a seam": shown.roll(half, 1), "turned over: none": turned_over}
joined = {f"second half, then first half {name}": image for name, image in joined.items()}
strips(joined, joins=dict.fromkeys(joined, half))

# %% [markdown]
# ## What to remember
#
# - Do not count by hand. `tiles` counts windows on a grid, `cluster_variation` pieces of any shape,
#   from their indices alone.
# - Valid counts are required, and not enough: pieces that share several elements need models of
#   what they share, as a whole.
# - Overlaps need models of their own shape, here 6 × 6. [Tutorial 04](04_infinite_texture.ipynb)
#   does it with one network.
#
# **To copy:** `cluster_variation(RegionGraph.from_regions(pieces, event_shape=..., models=...))`.
#
# **Exercise.** Join the belt without the twist. Which of the two correlations of its ends is 0.9
# now?
#
# **Where to go next.** The page [counting numbers](../concepts/counting_numbers.md) counts nested
# graphs, pieces inside pieces and junction trees, which are exact where loops are not. [Test a
# topology](../your_topology.md) finds wrong counts by a law that needs no truth, and [tutorial
# 08](08_validate_your_topology.ipynb) does so for a graph of your own.
