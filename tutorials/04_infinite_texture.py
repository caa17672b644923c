# %% [markdown]
# # Infinite texture
#
# A small network models square patches of gravel, 16 × 16 pixels, and nothing larger. This tutorial
# makes images of any size with it, without changing the network. You will learn
#
# 1. how to make a **strip**, a **ring** whose ends meet, and a **torus** that tiles the plane;
# 2. how to **measure a seam**, and when the measurement is misleading;
# 3. why **one network** can serve both patches and overlaps, and how to check that it does;
# 4. what it **costs**, and why a longer strip needs no more steps here.

# %%
import time

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from pgmdiff import (
    Average,
    RegionGraph,
    check_consistency,
    compose,
    from_denoiser,
    karras,
    sample,
    tiles,
)
from pgmdiff.diagnostics.metrics import (
    frechet_distance,
    mean_and_error,
    seam_ratio,
    texture_features,
)
from pgmdiff.models.gravel import gravel_denoiser, gravel_image
from pgmdiff.plotting import curves, plot, ring_image, strips
from pgmdiff.training import random_crops

torch.set_num_threads(1)  # for patches this small, several threads are slower than one

BLUE, ORANGE, INK = "#2f7fbd", "#dd7a1f", "#2b2b2b"

# %% [markdown]
# ## A model of patches
#
# The network is a denoiser. Given a patch with noise of standard deviation $\sigma$, it returns
# $D(x, \sigma)$, the mean of the clean patches that could lie behind it. `from_denoiser` turns it
# into a score, $s = (D - x) / \sigma^2$, and from a score we can sample. Eight noise levels are
# enough, as the last section will show. The solver (`UniPC`, the default) evaluates the network
# once per level.

# %% alt="Two rows of grey patches, one photographed and one generated, which look alike"
photograph = gravel_image()
network = gravel_denoiser()
score = from_denoiser(network)
levels = karras(8, sigma_min=0.01, sigma_max=10.0)

generated = sample(score, levels, shape=(8, 1, 16, 16), generator=0)
cut = random_crops(photograph, (16, 16), 8, generator=0)


def pictures(rows: dict[str, Tensor], size: float, gap: float = 0.05) -> None:
    """Shows rows of grey images, each with a caption."""
    n = max(map(len, rows.values()))
    figure, axes = plt.subplots(
        len(rows), n, figsize=(size * n, (size + 0.3) * len(rows)), squeeze=False
    )
    for line, (caption, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, images, strict=True):
            ax.imshow(image.reshape(image.shape[-2:]), cmap="gray", vmin=-1, vmax=1)
            ax.set_axis_off()
        line[0].set_title(caption, loc="left", fontsize=10)
    figure.subplots_adjust(0, 0, 1, 0.9, wspace=gap, hspace=0.3)


pictures({"cut from the photograph": cut, "generated, 16 × 16 pixels each": generated}, 1.0)

# %% [markdown]
# ## Windows that overlap
#
# `tiles` covers a tensor with windows and counts them: +1 for each window, and -1 for what two
# neighbouring windows share. Here each window shares one half with the next. The library needs only
# the shape of the state, (channels, height, width), to know that it is an image.


# %% alt="A strip with seven windows of 16 columns (+1) and their six overlaps of 8 columns (−1)"
def strip(width: int, overlap: int, periodic: bool = False) -> RegionGraph:
    """A row of 16 × 16 windows."""
    return tiles(
        (1, 16, width),
        window=(1, 16, 16),
        overlap=(0, 0, overlap),
        periodic=(False, False, periodic),
    )


plot(strip(64, 8), title="64 columns: 7 windows, 6 overlaps")

# %% [markdown]
# Near the two ends a column lies in one window only. Elsewhere it lies in two windows and one
# overlap: 2 - 1 = 1. So every pixel is counted once.
#
# The state consists of all pixels at once. In each step the windows and the overlaps are cut out of
# it and evaluated by the network, one batch of each, and `compose` adds up the scores with their
# counts. The image is not generated from left to right, and no window is finished before another.
#
# ## Four ways to make a strip
#
# - **Concatenation**: independent patches lie side by side (overlap 0).
# - **Average**: windows overlap, and each pixel gets the mean of the scores of its windows.
# - **Chain**: windows and overlaps enter with their counting numbers.
# - **Ring**: like the chain, but the last window overlaps with the first (`periodic`).
#
# We sample eight images of each kind, 256 columns long, all from the same noise.

# %%
WIDTH, IMAGES = 256, 8
ways = {
    "concatenation": compose(strip(WIDTH, 0), score, max_batch=64),
    "average": compose(strip(WIDTH, 8), score, rule=Average(), max_batch=64),
    "chain": compose(strip(WIDTH, 8), score, max_batch=64),
    "ring": compose(strip(WIDTH, 8, periodic=True), score, max_batch=64),
}
images = {
    name: sample(joint, levels, shape=(IMAGES, 1, 16, WIDTH), generator=0)
    for name, joint in ways.items()
}
images["photograph"] = photograph.reshape(16, 1, 16, WIDTH)  # cut into 16 strips
seams = {name: range(8, WIDTH, 8) for name in images} | {"concatenation": range(16, WIDTH, 16)}

# %% alt="Five strips: concatenation breaks abruptly, averaging softly, the others not at all"
shown = {name: images[name][0, 0] for name in ("photograph", *ways)}
shown["ring"] = shown["ring"].roll(WIDTH // 2, dims=-1)
captions = {name: name for name in shown} | {
    "ring": "ring, shifted by half its length: the ends meet at the blue mark"
}
strips(
    {captions[name]: image for name, image in shown.items()},
    seams={captions[name]: seams[name] for name in ways},
    joins={captions["ring"]: WIDTH // 2},
    title="Red ticks mark the columns where a window begins or ends",
)

# %% [markdown]
# All strips show nearly the same stones, because they started from the same noise. Concatenated
# patches end in the middle of a stone. Under averaging, neighbouring windows influence each other,
# so the breaks are softer; they occur where windows begin or end, because the set of averaged
# scores changes there. In the chain and in the ring no such place is visible.
#
# ## How to measure a seam
#
# Looking is not enough, so let us measure. Take the mean step from one column to the next, over all
# rows and images,
#
# $$d_j = \operatorname{mean} \; | u_{\cdot, j} - u_{\cdot, j-1} |,$$
#
# and plot it. A seam is a column at which the step is larger than elsewhere.


# %% alt="Mean step per column: tall peaks every 16 columns for concatenation, no peaks for chain"
def steps(u: Tensor) -> Tensor:
    """The mean step to each column from the one before it, and to the first from the last."""
    return (u - u.roll(1, dims=-1)).abs().mean(dim=(0, 1, 2))


def profiles() -> None:
    figure, axes = plt.subplots(
        len(shown), 1, figsize=(8.6, 7), sharex=True, sharey=True, layout="constrained"
    )
    for ax, name in zip(axes, shown, strict=True):
        for seam in seams[name] if name in ways else ():
            ax.axvline(seam, color="#f0c9c4", lw=0.8)
        ax.plot(range(1, WIDTH), steps(images[name])[1:], color=BLUE, lw=1.1)
        ax.set_title(name, loc="left", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylim(0, 0.45)
    axes[-1].set_xlabel("column (pale red: a window begins or ends)")
    figure.supylabel("mean absolute step from the previous column", fontsize=10)


profiles()

# %% [markdown]
# One number summarises the curves. The *seam ratio* is the mean step at the seams divided by the
# mean step at all other columns,
#
# $$\text{seam ratio} = \frac{\operatorname{mean}_{j \in \text{seams}} d_j}
# {\operatorname{mean}_{j \notin \text{seams}} d_j}.$$
#
# It is 1 if seams look like any other place. It varies from image to image, so it needs an error
# bar. It also needs a reference, the photograph at the same columns, because even there it need not
# be exactly 1.


# %%
def ratio_of(name: str) -> tuple[float, float]:
    return mean_and_error([seam_ratio(u, seams[name]) for u in images[name]])


ratios = {name: ratio_of(name) for name in shown}
print("seam ratio: mean over the images ± standard error")
for name, (mean, error) in ratios.items():
    spread = error * len(images[name]) ** 0.5
    print(f"{name:14} {mean:.3f} ± {error:.3f}   (standard deviation of one image {spread:.3f})")


def apart(name: str) -> float:
    """The distance from the photograph, in standard errors."""
    (a, error_a), (b, error_b) = ratios[name], ratios["photograph"]
    return abs(a - b) / (error_a**2 + error_b**2) ** 0.5


assert min(apart("concatenation"), apart("average")) > 10
assert max(apart("chain"), apart("ring")) < 4

# %% [markdown]
# ## When the seam ratio is misleading
#
# An old trick hides seams: *feathering*. Take two concatenated strips, one shifted by half a patch,
# and fade from one to the other so that each is invisible where it has its seams.

# %% alt="Three strips: the feathered one has no seams, but turns blurred and grey at intervals"
place = torch.arange(WIDTH)
fade = 1 - (place % 16 - 7.5).abs() / 7.5  # 1 in the middle of a patch, 0 at its ends
apart_a = images["concatenation"]
apart_b = sample(ways["concatenation"], levels, shape=apart_a.shape, generator=100)
images["feathered"] = fade * apart_a + (1 - fade) * apart_b.roll(8, dims=-1)
seams["feathered"] = range(8, WIDTH, 8)
ratios["feathered"] = ratio_of("feathered")
print("seam ratio of feathered patches: {:.3f} ± {:.3f}".format(*ratios["feathered"]))
strips({name: images[name][0, 0] for name in ("photograph", "feathered", "chain")})

# %% [markdown]
# There are no seams, but this is no longer gravel. The mean of two unrelated patches has less
# contrast than each of them, by a factor of $\sqrt{w^2 + (1 - w)^2}$. So look at the contrast, too:
# the standard deviation of each column. The windows repeat every 8 columns, and so do their faults,
# so columns at the same place within a window are pooled.


# %% alt="Standard deviation by place within a window: feathered dips, the others stay near 0.27"
def contrast(u: Tensor) -> Tensor:
    """The standard deviation of each column, modulo 8."""
    return u.reshape(-1, WIDTH // 8, 8).movedim(2, 0).flatten(1).std(dim=1)


contrasts = {name: contrast(u) for name, u in images.items()}
lines = {
    name: (list(range(8)), contrasts[name].tolist()) for name in ("chain", "feathered", "average")
}


def contrast_by_column() -> None:
    _, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
    curves(
        lines,
        xlabel="column, modulo 8",
        ylabel="standard deviation",
        title="Contrast by place within a window",
        log="",
        ax=ax,
    )
    ax.plot(range(8), contrasts["photograph"], "^--", color=INK, ms=5, lw=1.2, label="photograph")
    ax.legend(frameon=False)
    ax.set_ylim(0, 0.36)


assert contrasts["feathered"].min() < 0.8 * contrasts["photograph"].mean()
assert contrasts["chain"].min() > 0.9 * contrasts["photograph"].mean()
contrast_by_column()

# %% [markdown]
# A third measurement takes whole crops around the seams and compares their texture with that of the
# photograph: responses to 15 small patterns at two scales, contrast, and skewness. The measure is
# the squared Fréchet distance of these statistics, `frechet_distance(texture_features(...), ...)`.
# It is not 0 even between two sets of real crops, because the sets are finite. The last line shows
# its range for real sets of the same size.


# %%
def around(u: Tensor, middles: range) -> Tensor:
    """Crops of 16 columns, centred on these columns."""
    return torch.cat([u[..., j - 8 : j + 8] for j in middles])[: 15 * IMAGES]


reference = texture_features(random_crops(photograph, (16, 16), 2000, generator=1))
distances = {
    name: frechet_distance(texture_features(around(u, range(16, WIDTH, 16))), reference)
    for name, u in images.items()
    if name != "photograph"
}
print(f"squared Fréchet distance to the photograph, of {15 * IMAGES} crops around seams")
for name, distance in distances.items():
    print(f"{name:16} {distance:.2f}")
floor = [
    frechet_distance(
        texture_features(random_crops(photograph, (16, 16), 15 * IMAGES, generator=2 + seed)),
        reference,
    )
    for seed in range(6)
]
print(f"{'real crops':16} {min(floor):.2f} to {max(floor):.2f}")
assert min(distances["concatenation"], distances["feathered"]) > 2 * distances["chain"]

# %% [markdown]
# The chain lies above this range. Is this the fault of the network or of the composition? The
# patches of the concatenated strips were made by the network alone, so let us measure them, too:

# %%
alone = texture_features(around(images["concatenation"], range(8, WIDTH, 16)))
distance = frechet_distance(alone, reference)
print(f"patches of the network alone: {distance:.2f}")
assert distances["chain"] < 1.5 * distance

# %% [markdown]
# It is the fault of the network. Crops from anywhere in the chain are no worse than single patches.

# %% [markdown]
# ## A ring has no beginning
#
# The ring differs from the chain by one flag, `periodic`, and by one overlap, that of the last
# window with the first. To see that its ends meet we can shift it, as above, or bend it. We can
# also measure the step from the last column to the first, which nothing controls in an open strip.

# %% alt="A closed ring of gravel without a visible joint"
joined = {
    name: mean_and_error([seam_ratio(u, [0], periodic=True) for u in images[name]])
    for name in ("chain", "ring")
}
for name, (mean, error) in joined.items():
    print(f"{name}: step from end to beginning, relative to others: {mean:.2f} ± {error:.2f}")
assert joined["chain"][0] - 4 * joined["chain"][1] > 1.3
assert abs(joined["ring"][0] - 1) < 4 * joined["ring"][1]


def bent() -> None:
    _, ax = plt.subplots(figsize=(5, 5))
    ax.imshow(ring_image(images["ring"][0, 0]), cmap="gray", vmin=-1, vmax=1)
    ax.set_axis_off()
    ax.set_title("A ring of 256 columns; the joint is at the top", fontsize=10)


bent()

# %% [markdown]
# ## A torus tiles the plane
#
# Two periodic axes make a torus. Now overlaps intersect, and a pixel may lie in four windows. Two
# windows side by side share a strip, which counts -1. Four windows share a corner, which would then
# be subtracted once too often, so it counts +1. Let us first look at a square that is open on all
# sides, because there the numbers differ from place to place.


# %% alt="Maps of counts: pieces 1, 2 or 4, overlaps 0, −1 or −3, and the sum, 1 everywhere"
def square(periodic: bool) -> RegionGraph:
    """48 × 48 pixels, covered with windows of 16 × 16."""
    return tiles(
        (1, 48, 48),
        window=(1, 16, 16),
        overlap=(0, 8, 8),
        periodic=(False, periodic, periodic),
    )


squares = {
    name: sample(
        compose(square(name == "torus"), score, max_batch=64),
        levels,
        shape=(4, 1, 48, 48),
        generator=0,
    )
    for name in ("open square", "torus")
}
plot(
    square(False),
    layout="counts",
    image=squares["open square"][0, 0],
    title="How often is each pixel counted?",
)

# %% [markdown]
# A pixel in a corner of the image lies in one window. At the sides a pixel lies in two windows and
# one overlap. Inside the image it lies in four windows, four strips and one corner: 4 - 4 + 1 = 1.
# On the torus every pixel is inside. In both cases four windows around a corner form a loop, and
# with loops the composition is approximate even for clean data:

# %%
for name, graph in {"strip": strip(64, 8), "torus": square(periodic=True)}.items():
    report = graph.validate()
    print(f"{name}: junction tree: {report.junction_tree}; each pixel counted once: {report.valid}")
    assert report.valid
    assert report.junction_tree == (name == "strip")


# %% alt="Two images, each tiled 2 × 2: the open square shows a cross of seams, the torus none"
def tiled() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 4.6), layout="constrained")
    for ax, (name, u) in zip(axes, squares.items(), strict=True):
        ax.imshow(u[0, 0].tile(2, 2), cmap="gray", vmin=-1, vmax=1)
        ax.set_xticks([47.5], labels=[])
        ax.set_yticks([47.5], labels=[])
        ax.tick_params(length=6, color="#b2182b")
        ax.set_title(name, loc="left", fontsize=10)
    figure.suptitle("Four copies of one image; red ticks mark where they meet", fontsize=11)


tiled()

# %%
print("seam ratio where copies meet, over four images with two joins each")
for name, u in squares.items():
    joins = [seam_ratio(image, [0], periodic=True) for v in u for image in (v, v.mT)]
    mean, error = mean_and_error(joins)
    print(f"{name:12} {mean:.2f} ± {error:.2f}")
    far = mean > 1 + 4 * error
    assert far == (name == "open square")

# %% [markdown]
# Inside the torus, what is the seam ratio at all places where a window begins or ends?

# %%
every = range(0, 48, 8)
inside = [seam_ratio(v, every, periodic=True) for u in squares["torus"] for v in (u, u.mT)]
mean, error = mean_and_error(inside)
print(f"torus, at the borders of all windows: {mean:.3f} ± {error:.3f}")
assert abs(mean - ratios["photograph"][0]) < 4 * (error**2 + ratios["photograph"][1] ** 2) ** 0.5

# %% [markdown]
# The loops leave no trace. That depends on the data: the correlation of gravel vanishes within an
# overlap (see below). If your data has longer correlations, first consult `pgmdiff.advise`, as
# tutorial 05 does.
#
# ## One network for patches and overlaps
#
# An overlap differs in size from a window and requires a model of its own: its score is that of the
# *marginal* distribution of 16 × 8 pixels, which is not a part of the score of 16 × 16 pixels. Here
# one network serves as both. This is possible because it is convolutional, so that it accepts any
# size, and because it was trained on crops of four sizes from one photograph: 16 × 16, 16 × 8, 8 ×
# 16 and 8 × 8. The size of its input tells it which marginal is meant.
#
# A network trained on 16 × 16 patches alone would also accept 16 × 8 pixels and return numbers.
# Nothing would crash. But there is something that can be checked. The patch's denoiser sees more
# than the overlap's, so on the overlap it must be at least as accurate; and the difference between
# the two must not be predictable from the overlap.

# %%
crops = random_crops(photograph, (16, 32), 64, generator=0)
short = strip(32, 8)
agreement = check_consistency(short, score, crops, generator=0)
print(agreement)
assert agreement.consistent

# %% [markdown]
# The two errors are close, that of the patch is smaller, and only an insignificant part of the
# difference (`excess`) is predictable. Now consider a faulty model of the overlaps, one that
# expects gravel with two thirds of its contrast.


# %%
def pale(x: Tensor, sigma: Tensor) -> Tensor:
    """The score of the same texture with 2/3 of the contrast."""
    return 1.5 * score(1.5 * x, 1.5 * sigma)


faulty = {(1, 16, 16): score, (1, 16, 8): pale}
report = check_consistency(short, faulty, crops, generator=0)
print(report)
assert not report.consistent

# %% alt="With the faulty overlap model the strip has too much contrast, but shows no seams"
wrong = sample(
    compose(strip(WIDTH, 8), faulty, max_batch=64), levels, shape=(2, 1, 16, WIDTH), generator=0
)
ratio = seam_ratio(wrong, range(8, WIDTH, 8))
spreads = [u.std().item() for u in (images["photograph"], images["chain"], wrong)]
print("standard deviation: photograph {:.3f}, chain {:.3f}, faulty {:.3f}".format(*spreads))
print(f"seam ratio of the faulty strip: {ratio:.2f}")
assert abs(spreads[1] / spreads[0] - 1) < 0.05 < abs(spreads[2] / spreads[0] - 1)
strips({"chain": images["chain"][0, 0], "with a faulty model of overlaps": wrong[0, 0]})

# %% [markdown]
# Composition divides by the density of the overlap, so dividing by a density that is too narrow
# leaves one that is too wide. There are no seams, and the seam ratio hardly changes.
# `check_consistency`, however, finds the faulty model before anything is sampled, and tells you
# what to do.
#
# Its test is linear. A model may pass it and still be wrong in another way; and with a lot of data
# any two networks differ significantly, if only by very little. So look at `excess` as well.
#
# ## What it costs
#
# Each step evaluates every window and every overlap once. With 8 levels, that is 8 times as many
# patches as there are regions, and it grows in proportion to the area of the image. `max_batch`
# limits how many patches go through the network in one call, and so the memory of a call. The
# result is the same up to rounding.

# %%
print(f"{'columns':>8} {'windows':>8} {'overlaps':>9} {'patches evaluated in 8 levels':>31}")
for width in (64, 256, 1024, 4096):
    windows, overlaps = (len(batch.group) for batch in compose(strip(width, 8), score).batches)
    print(f"{width:8} {windows:8} {overlaps:9} {8 * (windows + overlaps):31}")
    assert (windows, overlaps) == (width // 8 - 1, width // 8 - 2)

# %%
noisy = torch.randn(1, 1, 16, 512, generator=torch.Generator().manual_seed(0))
results = {}
for rows in (1, 8, 64):
    joint = compose(strip(512, 8), score, max_batch=rows)
    joint(noisy, 1.0)
    start = time.perf_counter()
    results[rows] = joint(noisy, 1.0)
    seconds = time.perf_counter() - start
    difference = (results[rows] - results[1]).abs().max().item()
    print(
        f"max_batch {rows:2}: {1000 * seconds:4.0f} ms per evaluation, difference {difference:.0e}"
    )
    assert difference < 1e-5

# %% [markdown]
# On a CPU a few dozen patches per call are enough. On a GPU use as many as fit into memory.
#
# ## Why a longer strip needs no more steps
#
# Under this rule the score of a pixel depends on the windows that contain it, and on nothing else.
# So information travels by one window per evaluation, and 8 evaluations cannot cross 256 columns,
# let alone 4096. Why does this not matter here? Because there is nothing to transmit: two pixels of
# gravel that are more than a few columns apart are uncorrelated.

# %% alt="Correlation against distance falls to 0 within 6 columns; the overlap has 8 columns"
lags = list(range(13))


def correlation(u: Tensor) -> list[float]:
    centred = u - u.mean()
    products = [(centred[..., : WIDTH - k] * centred[..., k:]).mean() for k in lags]
    return [(product / products[0]).item() for product in products]


def correlations() -> None:
    _, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
    curves(
        {"chain": (lags, correlation(images["chain"]))},
        xlabel="distance in columns",
        ylabel="correlation",
        title="The correlation of gravel vanishes within an overlap",
        log="",
        ax=ax,
    )
    real = correlation(images["photograph"])
    ax.plot(lags, real, "^--", color=INK, ms=5, lw=1.2, label="photograph")
    ax.legend(frameon=False)
    ax.axvline(8, color=ORANGE, lw=1.2)
    ax.annotate("length of an overlap", (8, 0.6), (4, 0), textcoords="offset points", color=ORANGE)


assert max(map(abs, correlation(images["photograph"])[8:])) < 0.05
correlations()

# %% [markdown]
# Now compare strips of 64 and of 384 columns, with the same total area, and let the number of
# levels grow. If long strips needed more levels, their curve would lie further to the right.

# %% alt="Fréchet distance against levels is the same for 64 and 384 columns, and flat from 8 on"
counts = [5, 6, 8, 12]
by_levels: dict[str, tuple[list[int], list[float]]] = {}
for width, number in ((64, 12), (384, 2)):
    joint = compose(strip(width, 8), score, max_batch=64)
    found = []
    for k in counts:
        u = sample(joint, karras(k, 0.01, 10.0), shape=(number, 1, 16, width), generator=0)
        pieces = u.unfold(-1, 16, 16).movedim(3, 1).flatten(0, 1)
        found.append(frechet_distance(texture_features(pieces), reference))
    by_levels[f"{number} strips of {width} columns"] = (counts, found)
real = [
    frechet_distance(
        texture_features(random_crops(photograph, (16, 16), 48, generator=20 + seed)), reference
    )
    for seed in range(6)
]
for name, (_, found) in by_levels.items():
    print(name + ":", ", ".join(f"{k}: {v:.2f}" for k, v in zip(counts, found, strict=True)))
print(f"48 real crops: {min(real):.2f} to {max(real):.2f}")
a, b = (found for _, found in by_levels.values())
assert all(max(x, y) < 1.6 * min(x, y) for x, y in zip(a, b, strict=True))
assert max(a[2], b[2]) < 0.2 * min(a[0], b[0])
curves(
    by_levels,
    xlabel="noise levels, one evaluation per level",
    ylabel="squared Fréchet distance",
    title="Eight levels are enough for both lengths",
    limit=("48 real crops, mean", sum(real) / len(real)),
    log="y",
)

# %% [markdown]
# The curves agree, and neither improves beyond eight levels: from there on the strips are as close
# to the photograph as sets of 48 real crops are. It is different if correlations are longer than
# the overlap. Then information has to be carried along the strip, and this rule cannot do that with
# any number of steps. Tutorial 05 is about this.
#
# ## What to remember
#
# - One model of small pieces makes strips, rings and tori. Only the graph changes.
# - If overlaps are counted, the seams vanish. Measure this with the seam ratio, over several images
#   and beside real data. Look at contrast and texture as well, because a blurred image has no seams
#   either.
# - The models of windows and overlaps must be those of one distribution. `check_consistency` tests
#   whether they are.
# - The cost grows with the area. The number of steps does not, as long as correlations are shorter
#   than the overlap.
#
# ## Exercises
#
# 1. Make a cylinder of 48 × 256 pixels, periodic from left to right and open at the top and the
#    bottom. What is its seam ratio across rows?
# 2. Let windows overlap by 4 and by 12 columns. The network was trained on neither width. What does
#    `check_consistency` say, and what is the seam ratio?
# 3. Leave out the corners: use `RegionGraph.from_regions` with the windows and strips of the open
#    square alone. What do `validate`, `plot(..., layout="counts")` and `compose` say?
#
# ## Where to go next
#
# "Samples that are right" (05) is about data whose correlations are longer than the overlap.
# "Conditioning" (06) connects two given images, and "Bring your own model" (07) uses a network of
# yours in place of this one. `python -m pgmdiff demo` makes a strip of 48 × 384 pixels.
