# %% [markdown]
# # Infinite texture
#
# One small network knows square patches of gravel, 16 × 16 pixels, and nothing larger. This lesson
# makes images of any size out of it, with the network unchanged:
#
# 1. a **strip**, a **ring** whose ends meet, and a **torus** that tiles the plane;
# 2. how to **see a seam**: with the eye, with one number, and where that number is fooled;
# 3. why **one network** may serve patches and overlaps, and how to check that it does;
# 4. what it **costs**, and why a longer strip needs no more steps here.

# %%
import time

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from pgmdiff import Average, check_consistency, compose, from_denoiser
from pgmdiff.diagnostics.metrics import frechet_distance, seam_ratio, texture_features
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.models.gravel import gravel_denoiser, gravel_image
from pgmdiff.plotting import curves, plot, ring_image, strips
from pgmdiff.samplers import karras, sample
from pgmdiff.training.loop import random_crops

torch.set_num_threads(1)  # patches are small: more threads would wait for one another

BLUE, ORANGE, INK = "#2f7fbd", "#dd7a1f", "#2b2b2b"

# %% [markdown]
# ## A model of patches
#
# The network is a denoiser: it gets a patch with noise of standard deviation $\sigma$ and returns
# the mean of what the clean patch may be, $D(x, \sigma)$. `from_denoiser` makes a score of it,
# $s = (D - x) / \sigma^2$, and a score can be sampled. Sixteen noise levels will do; the solver
# (`UniPC`, the default) evaluates the network once a level.

# %% alt="Two rows of grey patches, photographed and generated, which look alike"
photograph = gravel_image()
network = gravel_denoiser()
score = from_denoiser(network)
levels = karras(16, sigma_min=0.01, sigma_max=10.0)

generated = sample(score, levels, shape=(8, 1, 16, 16), generator=0)
cut = random_crops(photograph, (16, 16), 8, generator=0)


def pictures(rows: dict[str, Tensor], size: float, gap: float = 0.05) -> None:
    """Grey images in rows, with a caption each."""
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
# `tiles` lays windows over a tensor and counts them: +1 for a window, -1 for what two neighbours
# share. Here each window shares its half with the next one. Only the shape of the state says that
# it is an image: (channels, height, width).


# %% alt="A strip with seven windows of 16 columns; six overlaps of 8 columns count −1"
def strip(width: int, overlap: int, periodic: bool = False) -> RegionGraph:
    """16 × 16 windows in a row, 16 pixels high."""
    return tiles(
        (1, 16, width),
        window=(1, 16, 16),
        overlap=(0, 0, overlap),
        periodic=(False, False, periodic),
    )


plot(strip(64, 8), title="64 columns: 7 windows, 6 overlaps")

# %% [markdown]
# At both ends a column lies in one window, elsewhere in two windows and one overlap: 2 - 1 = 1.
# Every pixel is counted once.
#
# The state is all pixels at once. In each step the windows and the overlaps are cut out of it, one
# batch of each goes through the network, and the scores are added up with their counts. That is
# `compose`. Nothing is generated from left to right, and no window is finished before another.
#
# ## Four ways to a strip
#
# - **concatenation**: patches side by side, each on its own (an overlap of 0);
# - **average**: windows overlap, and a pixel gets the mean of its windows' scores;
# - **chain**: windows and overlaps, with their counting numbers;
# - **ring**: the same, and the last window overlaps with the first (`periodic`).
#
# A dozen images of each, 256 columns long, all from the same noise.

# %%
WIDTH, IMAGES = 256, 12
ways = {
    "concatenation": compose(strip(WIDTH, 0), score, max_batch=32),
    "average": compose(strip(WIDTH, 8), score, rule=Average(), max_batch=32),
    "chain": compose(strip(WIDTH, 8), score, max_batch=32),
    "ring": compose(strip(WIDTH, 8, periodic=True), score, max_batch=32),
}
images = {
    name: sample(joint, levels, shape=(IMAGES, 1, 16, WIDTH), generator=0)
    for name, joint in ways.items()
}
images["photograph"] = photograph.reshape(16, 1, 16, WIDTH)  # 16 strips of it
seams = {name: range(8, WIDTH, 8) for name in images} | {"concatenation": range(16, WIDTH, 16)}

# %% alt="Five strips; concatenated patches end abruptly, averaged ones softly, others not at all"
shown = {name: images[name][0, 0] for name in ("photograph", *ways)}
shown["ring"] = shown["ring"].roll(WIDTH // 2, dims=-1)
captions = {name: name for name in shown} | {
    "ring": "ring, rolled by half: its ends meet at the blue mark"
}
strips(
    {captions[name]: image for name, image in shown.items()},
    seams={captions[name]: seams[name] for name in ways},
    joins={captions["ring"]: WIDTH // 2},
    title="Red ticks: columns where a window begins or ends",
)

# %% [markdown]
# The stones are nearly the same, since the noise is. Concatenated patches end in the middle of
# one. Averaging lets neighbours see each other and breaks more softly where a window begins or
# ends: there one set of opinions is exchanged for another. In the chain and in the ring the eye
# finds no such place.
#
# ## How to see a seam
#
# Eyes tire. Take the mean step from one column to the next, over rows and images,
#
# $$d_j = \operatorname{mean} \; | u_{\cdot, j} - u_{\cdot, j-1} |,$$
#
# and draw it. A seam is a column where steps are larger than elsewhere.


# %% alt="Steps by column: tall peaks every 16 columns for concatenation, none for chain and ring"
def steps(u: Tensor) -> Tensor:
    """The mean step to each column from the one before; to the first one from the last."""
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
    axes[-1].set_xlabel("column (pale red: where windows begin or end)")
    figure.supylabel("mean absolute step to the column", fontsize=10)


profiles()

# %% [markdown]
# One number says as much. The *seam ratio* is the mean step across seams over the mean step across
# all other columns,
#
# $$\text{seam ratio} = \frac{\operatorname{mean}_{j \in \text{seams}} d_j}
# {\operatorname{mean}_{j \notin \text{seams}} d_j},$$
#
# 1 where seams look like any other place. It varies from image to image, so it needs a spread; and
# it needs the photograph beside it, at the same columns, since no one says that it has to be 1.


# %%
def mean_and_error(values: list[float]) -> tuple[float, float]:
    found = torch.tensor(values)
    return found.mean().item(), (found.std() / len(found) ** 0.5).item()


def ratio_of(name: str) -> tuple[float, float]:
    return mean_and_error([seam_ratio(u, seams[name]) for u in images[name]])


ratios = {name: ratio_of(name) for name in shown}
print("seam ratio, mean over images ± standard error")
for name, (mean, error) in ratios.items():
    spread = error * len(images[name]) ** 0.5
    print(f"{name:14} {mean:.3f} ± {error:.3f}   (one image varies by {spread:.3f})")


def apart(name: str) -> float:
    """From the photograph, in standard errors."""
    (a, error_a), (b, error_b) = ratios[name], ratios["photograph"]
    return abs(a - b) / (error_a**2 + error_b**2) ** 0.5


assert min(apart("concatenation"), apart("average")) > 10
assert max(apart("chain"), apart("ring")) < 4

# %% [markdown]
# ## Where the seam ratio is fooled
#
# An old trick hides seams: *feathering*. Take two concatenated strips, one shifted by half a
# patch, and fade from one to the other, so that each is hidden where it has its seams.

# %% alt="Strips: the feathered one has no visible seam but turns blurred and grey at intervals"
place = torch.arange(WIDTH)
fade = 1 - (place % 16 - 7.5).abs() / 7.5  # 1 amid a patch, 0 at its ends
apart_a = images["concatenation"]
apart_b = sample(ways["concatenation"], levels, shape=apart_a.shape, generator=100)
images["feathered"] = fade * apart_a + (1 - fade) * apart_b.roll(8, dims=-1)
seams["feathered"] = range(8, WIDTH, 8)
ratios["feathered"] = ratio_of("feathered")
print("seam ratio of feathered patches: {:.3f} ± {:.3f}".format(*ratios["feathered"]))
strips({name: images[name][0, 0] for name in ("photograph", "feathered", "chain")})

# %% [markdown]
# No step, and no gravel either: the mean of two unrelated patches has less contrast than each,
# $\sqrt{w^2 + (1 - w)^2}$ times as much. So look at the contrast of every column, too: its
# standard deviation. Windows repeat every 8 columns, and so do their faults: columns of the same
# place in a window are taken together.


# %% alt="Standard deviation by place in a window: feathered dips to 0.19, others stay near 0.27"
def contrast(u: Tensor) -> Tensor:
    """Standard deviation by column, modulo 8."""
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
        title="Contrast by place in a window",
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
# A third look takes whole crops around the seams and compares their texture with that of the
# photograph: responses to 15 small patterns at two scales, contrast, skewness. The squared Fréchet
# distance of these statistics (`frechet_distance(texture_features(...), ...)`) is not 0 for two
# sets of real crops either, since sets are finite; the last line is what it is for sets of this
# size.


# %%
def around(u: Tensor, middles: range) -> Tensor:
    """Crops of 16 columns with these columns in their middle."""
    return torch.cat([u[..., j - 8 : j + 8] for j in middles])[: 15 * IMAGES]


reference = texture_features(random_crops(photograph, (16, 16), 2000, generator=1))
distances = {
    name: frechet_distance(texture_features(around(u, range(16, WIDTH, 16))), reference)
    for name, u in images.items()
    if name != "photograph"
}
print(f"Fréchet distance of {15 * IMAGES} crops around seams to the photograph")
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
# The chain is above the floor. Is that the network's fault or the composition's? The patches of
# the concatenated strips, taken whole, are the network's own:

# %%
alone = texture_features(around(images["concatenation"], range(8, WIDTH, 16)))
distance = frechet_distance(alone, reference)
print(f"patches of the network alone: {distance:.2f}")
assert distances["chain"] < 1.5 * distance

# %% [markdown]
# It is the network's. Crops that straddle the windows of a chain are no worse than single patches.

# %% [markdown]
# ## A ring has no beginning
#
# Of the ring only one flag is new, `periodic`, and one overlap, that of the last window with the
# first. To see that its ends meet, roll it, as above; or measure the step from the last column to
# the first, which an open strip never looked at; or bend it.

# %% alt="A closed ring of gravel without a visible joint"
joined = {
    name: mean_and_error([seam_ratio(u, [0], periodic=True) for u in images[name]])
    for name in ("chain", "ring")
}
for name, (mean, error) in joined.items():
    print(f"{name}: the step from its end to its beginning, over others: {mean:.2f} ± {error:.2f}")
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
# Two periodic axes make a torus. Now overlaps cross: a pixel may lie in four windows. Two windows
# side by side share a strip, four share a corner. Strips count -1; corners would then have been
# taken away once too often, and count +1. First a square that is open on all sides, since there
# the numbers differ from place to place.


# %% alt="Maps of counts: pieces 1, 2, 4; overlaps 0, −1, −3; the sum is 1 everywhere"
def square(periodic: bool) -> RegionGraph:
    """16 × 16 windows of 64 × 64 pixels."""
    return tiles(
        (1, 64, 64),
        window=(1, 16, 16),
        overlap=(0, 8, 8),
        periodic=(False, periodic, periodic),
    )


squares = {
    name: sample(
        compose(square(name == "torus"), score, max_batch=32),
        levels,
        shape=(4, 1, 64, 64),
        generator=0,
    )
    for name in ("open square", "torus")
}
plot(
    square(False),
    layout="counts",
    image=squares["open square"][0, 0],
    title="How often a pixel is counted",
)

# %% [markdown]
# At a corner of the image one window, at its sides two less one overlap, inside four windows less
# four strips plus one corner: 4 - 4 + 1. On the torus all is inside. In either case four windows
# around a corner form a loop, and with loops the composition is an approximation even of clean
# data:

# %%
for name, graph in {"strip": strip(64, 8), "torus": square(periodic=True)}.items():
    report = graph.validate()
    print(f"{name}: junction tree {report.junction_tree}, every pixel counted once {report.valid}")
    assert report.valid
    assert report.junction_tree == (name == "strip")


# %% alt="Two images tiled 2 × 2: the open square shows a cross of breaks, the torus none"
def tiled() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 4.6), layout="constrained")
    for ax, (name, u) in zip(axes, squares.items(), strict=True):
        ax.imshow(u[0, 0].tile(2, 2), cmap="gray", vmin=-1, vmax=1)
        ax.set_xticks([63.5], labels=[])
        ax.set_yticks([63.5], labels=[])
        ax.tick_params(length=6, color="#b2182b")
        ax.set_title(name, loc="left", fontsize=10)
    figure.suptitle("The same image four times; red ticks: where copies meet", fontsize=11)


tiled()

# %%
for name, u in squares.items():
    across = {
        "columns": mean_and_error([seam_ratio(one, [0], periodic=True) for one in u]),
        "rows": mean_and_error([seam_ratio(one.mT, [0], periodic=True) for one in u]),
    }
    texts = (f"{axis} {mean:.2f} ± {error:.2f}" for axis, (mean, error) in across.items())
    print(f"{name:12} where copies meet, seam ratio across " + ", ".join(texts))
    for mean, error in across.values():
        far = mean > 1 + 4 * error
        assert far == (name == "open square")

# %% [markdown]
# And within the torus, wherever a window begins or ends?

# %%
every = range(0, 64, 8)
inside = [seam_ratio(v, every, periodic=True) for u in squares["torus"] for v in (u, u.mT)]
mean, error = mean_and_error(inside)
print(f"torus, at all windows, rows and columns: {mean:.3f} ± {error:.3f}")
assert abs(mean - ratios["photograph"][0]) < 4 * (error**2 + ratios["photograph"][1] ** 2) ** 0.5

# %% [markdown]
# Nothing to be seen of the loops. That is a question of the data: gravel's correlation ends within
# an overlap (see below). For data with longer correlations ask `pgmdiff.advise` first; the next
# notebook does.
#
# ## One network for patches and overlaps
#
# An overlap has another size than a window, and another model: its score is that of the *marginal*
# distribution of 16 × 8 pixels, which is not a part of the score of 16 × 16 pixels. Here one
# network is both. It may be, since it is convolutional, takes any size, and was trained on crops
# of all four sizes cut from one photograph: 16 × 16, 16 × 8, 8 × 16, 8 × 8. The size of its input
# tells it which marginal is meant.
#
# Had it been trained on 16 × 16 alone, it would still take 16 × 8 pixels and return numbers.
# Nothing would crash. What can be checked is this: the patch's denoiser knows more than the
# overlap's, so on the overlap it has to be at least as good; and what the two disagree about must
# not be predictable from the overlap.

# %%
crops = random_crops(photograph, (16, 32), 64, generator=0)
short = strip(32, 8)
agreement = check_consistency(short, score, crops, generator=0)
print(agreement)
assert agreement.consistent

# %% [markdown]
# Both errors are close, the patch's is smaller, and of the disagreement (*excess*) nothing that is
# significant can be predicted. Now a faulty model: that of overlaps believes that gravel has two
# thirds of its contrast.


# %%
def pale(x: Tensor, sigma: Tensor) -> Tensor:
    """The score of the same texture with 2/3 of the contrast: of x = y / 1.5."""
    return 1.5 * score(1.5 * x, 1.5 * sigma)


faulty = {(1, 16, 16): score, (1, 16, 8): pale}
report = check_consistency(short, faulty, crops, generator=0)
print(report)
assert not report.consistent

# %% alt="With the faulty overlap model the strip is too dark and too bright; no seams show"
wrong = sample(
    compose(strip(WIDTH, 8), faulty, max_batch=32), levels, shape=(4, 1, 16, WIDTH), generator=0
)
ratio = seam_ratio(wrong, range(8, WIDTH, 8))
spreads = [u.std().item() for u in (images["photograph"], images["chain"], wrong)]
print("standard deviation: photograph {:.3f}, chain {:.3f}, faulty {:.3f}".format(*spreads))
print(f"seam ratio of the faulty strip: {ratio:.2f}")
assert abs(spreads[1] / spreads[0] - 1) < 0.05 < abs(spreads[2] / spreads[0] - 1)
strips({"chain": images["chain"][0, 0], "with a faulty model of overlaps": wrong[0, 0]})

# %% [markdown]
# Composition divides by the overlap's density: who takes away too narrow a density leaves too wide
# a one. There is no seam to be seen, and the seam ratio hardly moves; `check_consistency`, before
# anything is sampled, names the model and the remedy.
#
# It is a linear test. A model may pass it and be wrong in another way; and with much data any two
# networks differ significantly, if by very little. Read *excess*, too.
#
# ## What it costs
#
# A step evaluates every window and every overlap once: for 16 levels that is 16 times as many
# patches as there are regions, in proportion to the image's size. `max_batch` says how many of
# them go through the network in one call, and so how much memory a call takes. The result is the
# same but for rounding.

# %%
print(f"{'columns':>8} {'windows':>8} {'overlaps':>9} {'patches evaluated in 16 levels':>32}")
for width in (64, 256, 1024, 4096):
    windows, overlaps = (len(batch.group) for batch in compose(strip(width, 8), score).batches)
    print(f"{width:8} {windows:8} {overlaps:9} {16 * (windows + overlaps):32}")
    assert (windows, overlaps) == (width // 8 - 1, width // 8 - 2)

# %%
noisy = torch.randn(1, 1, 16, 1024, generator=torch.Generator().manual_seed(0))
answers = {}
for rows in (1, 8, 32, 253):
    joint = compose(strip(1024, 8), score, max_batch=rows)
    joint(noisy, 1.0)
    began = time.perf_counter()
    answers[rows] = joint(noisy, 1.0)
    seconds = time.perf_counter() - began
    gap = (answers[rows] - answers[1]).abs().max().item()
    print(f"max_batch {rows:4}: {1000 * seconds:5.0f} ms an evaluation, differs by {gap:.0e}")
    assert gap < 1e-5

# %% [markdown]
# On a processor a few dozen rows are enough; on a GPU take what fits.
#
# ## Why a longer strip needs no more steps
#
# Under this rule a pixel's score depends on the windows that it lies in, and on nothing else. So
# news travel one window an evaluation, and 16 evaluations do not cross 256 columns, let alone
# 4096. Why does that not matter? Because there is no news. Two pixels of gravel that are more than
#       a few columns apart have nothing to do with each other.

# %% alt="Correlation against distance: falls to 0 within 6 columns; the overlap is 8 columns long"
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
        title="Gravel forgets within an overlap",
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
# So take strips of 64 and of 512 columns, with as many crops in all, and let the number of levels
# grow. If long strips needed more of them, their curve would lie to the right.

# %% alt="Fréchet distance against levels, 64 and 512 columns: one curve, flat from 8 levels on"
counts = [5, 6, 8, 10, 16]
by_levels: dict[str, tuple[list[int], list[float]]] = {}
for width, number in ((64, 32), (512, 4)):
    joint = compose(strip(width, 8), score, max_batch=32)
    found = []
    for k in counts:
        u = sample(joint, karras(k, 0.01, 10.0), shape=(number, 1, 16, width), generator=0)
        pieces = u.unfold(-1, 16, 16).movedim(3, 1).flatten(0, 1)
        found.append(frechet_distance(texture_features(pieces), reference))
    by_levels[f"{number} strips of {width} columns"] = (counts, found)
real = [
    frechet_distance(
        texture_features(random_crops(photograph, (16, 16), 128, generator=20 + seed)), reference
    )
    for seed in range(6)
]
for name, (_, found) in by_levels.items():
    print(name + ":", ", ".join(f"{k}: {v:.2f}" for k, v in zip(counts, found, strict=True)))
print(f"128 real crops: {min(real):.2f} to {max(real):.2f}")
a, b = (found for _, found in by_levels.values())
assert all(max(x, y) < 1.6 * min(x, y) for x, y in zip(a, b, strict=True))
assert max(a[2], b[2]) < 0.2 * min(a[0], b[0])
curves(
    by_levels,
    xlabel="levels, one evaluation each",
    ylabel="squared Fréchet distance",
    title="Eight levels, at either length",
    limit=("128 real crops, mean", sum(real) / len(real)),
    log="y",
)

# %% [markdown]
# The curves agree. More than eight levels are no better at either length: what is left is not the
# solver's error. Where correlation is longer than the overlap, it is different: then something has
# to be carried along the strip, and this rule does not carry it at any number of steps. That is
# the subject of the next notebook.
#
# ## What to remember
#
# - One model of small pieces makes strips, rings and tori: only the graph changes.
# - Count overlaps, and seams vanish. Measure that with the seam ratio, over several images, beside
#   the real thing; and look at contrast and texture as well, since a blur has no seams either.
# - Windows and overlaps need models of one distribution. `check_consistency` says whether they
#   are.
# - Cost grows with the area. The number of steps does not, as long as correlation is shorter than
#   the overlap.
#
# ## Exercises
#
# 1. Make a cylinder: 48 × 256 pixels, periodic from left to right, open at top and bottom. What is
#    its seam ratio across rows?
# 2. Let windows overlap by 4 and by 12 columns. The network was trained on neither width: what
#    does `check_consistency` say, and what the seam ratio?
# 3. Leave the corners out: make a `RegionGraph.from_regions` of the open square's windows and
#    strips alone. What does `validate` say, what `plot(..., layout="counts")`, and what `compose`?
#
# ## Where to go next
#
# "Samples that are right" (05) is about data whose correlation is longer than the overlap.
# "Conditioning" (06) connects two given images; "Bring your own model" (07) puts your network in
# place of this one. `python -m pgmdiff demo` makes a strip of 48 × 384.
