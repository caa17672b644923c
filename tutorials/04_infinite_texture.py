# %% [markdown]
# # Infinite texture
#
# You need gravel for the floor of a large hall: an image that can be repeated in both directions
# without anyone seeing where it ends. You have a small model of patches of 16 × 16 pixels and
# nothing larger. Laid side by side its patches show seams. Blended into each other they show hardly
# any, and yet look wrong. How do you make such an image, and how do you know that it is right?
#
# Only the graph changes, never the model: we make strips in four ways (1), measure seams *and*
# contrast beside the photograph that the model was trained on (2), and close the graph into a
# torus, which tiles the plane (3). The notebook takes about 15 seconds on one core.

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from pgmdiff import Average, compose, from_denoiser, karras, sample, tiles
from pgmdiff.diagnostics import mean_and_error, seam_ratio
from pgmdiff.models.gravel import gravel_denoiser, gravel_image
from pgmdiff.plotting import strips

torch.set_num_threads(1)  # for patches this small, several threads are slower than one

# %% [markdown]
# ## 1. A strip, in four ways
#
# The network is a denoiser, $D(x, \sigma)$, and `from_denoiser` turns it into a score. `tiles`
# covers a tensor with windows and counts them: windows +1, and -1 for what two neighbours share.
#
# - *Side by side*: patches with no overlap, which know nothing of each other.
# - *Cross-faded*: two such strips, one shifted by half a patch, each invisible where it has its
#   seams.
# - *Average*: windows overlap by half, and every pixel gets the mean of the scores of its windows.
# - *Composed*: the same windows, with their counting numbers.
#
# We draw eight strips of 256 columns in each way.

# %%
photograph = gravel_image()
score = from_denoiser(gravel_denoiser())
levels = karras(8, sigma_min=0.01, sigma_max=10.0)
WIDTH, IMAGES = 256, 8


def strip(overlap: int, seed: int = 0, **rule: Average) -> Tensor:
    graph = tiles((1, 16, WIDTH), window=(1, 16, 16), overlap=(0, 0, overlap))
    joint = compose(graph, score, max_batch=64, **rule)
    return sample(joint, levels, shape=(IMAGES, 1, 16, WIDTH), generator=seed)


apart, shifted = strip(0), strip(0, seed=100).roll(8, dims=-1)
fade = 1 - (torch.arange(WIDTH) % 16 - 7.5).abs() / 7.5  # 1 inside a patch, 0 at its ends
images = {
    "photograph": photograph.reshape(16, 1, 16, WIDTH),  # cut into 16 strips
    "side by side": apart,
    "cross-faded": fade * apart + (1 - fade) * shifted,
    "average": strip(8, rule=Average()),
    "composed": strip(8),
}

# %% tags=["hide-input"] alt="Strips: abrupt breaks side by side, soft ones in the average"
seams = {name: range(8, WIDTH, 8) for name in images} | {"side by side": range(16, WIDTH, 16)}
strips(
    {name: u[0, 0] for name, u in images.items()},
    seams={name: seams[name] for name in images if name != "photograph"},
    title="Red ticks: a patch or a window begins or ends",
)

# %% [markdown]
# Side by side, patches end in the middle of a stone. In the average these breaks are softer, and
# there are twice as many. Cross-faded strips have hardly any edges, but turn dull in places. In the
# composed strip no such place is to be seen. But looking is not enough.
#
# ## 2. Measure seams and contrast
#
# *Seam ratio*: the mean absolute jump $d_j$ to column $j$ from the one before it, at the seams and
# at all other columns,
#
# $$\text{seam ratio} = \operatorname{mean}_{j \in \text{seams}} d_j \;/\;
# \operatorname{mean}_{j \notin \text{seams}} d_j.$$
#
# It is 1 if seams look like any other place. *Contrast*: the standard deviation of pixels halfway
# between seams. Both vary from strip to strip, so we print means with their standard errors, and
# the photograph's own values at the same columns beside them.


# %%
def halfway(u: Tensor) -> float:
    """The standard deviation of the two middle columns of every eight."""
    return u.unflatten(-1, (-1, 8))[..., 3:5].std().item()


found = {
    name: (
        mean_and_error([seam_ratio(strip, seams[name]) for strip in u]),
        mean_and_error([halfway(strip) for strip in u]),
    )
    for name, u in images.items()
}


def errors_away(name: str, k: int) -> float:
    """How far from the photograph, in standard errors of the difference."""
    (mean, error), (real, real_error) = found[name][k], found["photograph"][k]
    return (mean - real) / (error**2 + real_error**2) ** 0.5


print(f"{'':12}   seam ratio      contrast")
for name, (ratio, contrast) in found.items():
    print("{:12}  {:.3f} ± {:.3f}   {:.3f} ± {:.3f}".format(name, *ratio, *contrast))
assert min(errors_away("side by side", 0), errors_away("average", 0)) > 10
assert errors_away("cross-faded", 1) < -10
assert max(abs(errors_away("composed", k)) for k in (0, 1)) < 3

# %% tags=["hide-input"] alt="Jumps peak side by side and in the average; cross-faded contrast dips"
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
colours = "#2b2b2b", "#dd7a1f", "#a0a4a8", "#8f3e00", "#2f7fbd"
for (name, u), colour in zip(images.items(), colours, strict=True):
    jumps = (u - u.roll(1, dims=-1))[..., 16:].abs().unflatten(-1, (-1, 16)).mean((0, 1, 2, 3))
    contrasts = u.unflatten(-1, (-1, 16)).std((0, 1, 2, 3))
    for axis, line in zip(axes, (jumps, contrasts), strict=True):
        axis.plot(line, color=colour, label=name, lw=2.5 if name == "composed" else 1.5)
axes[0].set_title("jump from the column before", loc="left", fontsize=10)
axes[1].set_title("standard deviation of a column", loc="left", fontsize=10)
for axis, top in zip(axes, (0.45, 0.35), strict=True):
    axis.set(xlabel="column, modulo 16", ylim=(0, top))
axes[0].legend(frameon=False, fontsize=8, loc="upper right")
plt.show()

# %% [markdown]
# Patches begin at column 0, windows at 0 and 8. Each simple way fails in one of the two: side by
# side and in the average, jumps peak there, and cross-fading loses contrast between its seams,
# because the mean of two unrelated patches varies less than either. So never trust a seam ratio
# alone: a blurred image has no seams either. The composed strips are at the photograph in both,
# within three standard errors.
#
# ## 3. A torus tiles the plane
#
# For the floor both axes are closed: the last window of a row overlaps with the first one, and so
# at the top and the bottom. That is one flag, `periodic`; set for one axis only, it makes a ring.
# Now overlaps intersect, and `tiles` counts their corners +1 ([tutorial
# 03](03_beyond_bethe.ipynb)). Beside the torus we draw a square that is open on all sides.


# %%
def square(periodic: bool) -> Tensor:
    """Six images of 48 × 48 pixels."""
    closed = (False, periodic, periodic)
    graph = tiles((1, 48, 48), window=(1, 16, 16), overlap=(0, 8, 8), periodic=closed)
    joint = compose(graph, score, max_batch=64)
    return sample(joint, levels, shape=(6, 1, 48, 48), generator=0)


def both_ways(u: Tensor, places: range) -> tuple[float, float]:
    """Seam ratios of images across columns and across rows, their ends joined."""
    turned = [seam_ratio(v, places, periodic=True) for image in u for v in (image, image.mT)]
    return mean_and_error(turned)


squares = {"open": square(periodic=False), "torus": square(periodic=True)}
joins = {name: both_ways(u, range(1)) for name, u in squares.items()}
for name, (mean, error) in joins.items():
    print(f"{name:6} seam ratio where copies meet: {mean:.2f} ± {error:.2f}")
inside = both_ways(squares["torus"], range(0, 48, 8))
contrast = mean_and_error([u.std().item() for u in squares["torus"]])
print("torus  seam ratio where windows begin or end: {:.2f} ± {:.2f}".format(*inside))
print("torus  contrast: {:.3f} ± {:.3f};".format(*contrast), f"photograph: {photograph.std():.3f}")
far = [
    torch.stack([v[..., 8:], v[..., :-8]]).flatten(1).corrcoef()[0, 1].item()
    for v in images["photograph"]
]
print("photograph, correlation eight columns apart: {:.3f} ± {:.3f}".format(*mean_and_error(far)))
assert abs(mean_and_error(far)[0]) < 0.05
assert joins["open"][0] - 4 * joins["open"][1] > 1.3
assert abs(joins["torus"][0] - 1) < 3 * joins["torus"][1]
assert inside[0] + 2 * inside[1] < 1.1

# %% tags=["hide-input"] alt="Four copies of an image: a cross of seams if open, none on the torus"
figure, axes = plt.subplots(1, 2, figsize=(9, 4.8), layout="constrained")
for axis, (name, u) in zip(axes, squares.items(), strict=True):
    axis.imshow(u[0, 0].tile(2, 2), cmap="gray", vmin=-1, vmax=1)
    axis.set_xticks([47.5], labels=[])
    axis.set_yticks([47.5], labels=[])
    axis.tick_params(length=6, color="#b2182b")
    axis.set_title(f"{name}: four copies of one image", loc="left", fontsize=10)
plt.show()

# %% [markdown]
# The open square shows where copies meet; the torus does not. Where its windows begin or end, its
# jumps are larger than elsewhere by less than a tenth. This floor has no end, and was made by a
# model that has never seen more than 16 × 16 pixels.
#
# It works because gravel is forgetful: the last line printed above says that pixels at the distance
# of an overlap have next to nothing in common. Structures that are longer than an overlap need
# larger windows or another rule, and `pgmdiff.advise` predicts what each of them loses. The network
# serves windows *and* overlaps because it was trained on crops of both shapes; [my
# model](../my_model.md) says how `check_consistency` finds out whether yours does.
#
# ## What to remember
#
# - One model of small pieces makes strips, rings, tori: only the graph changes.
# - Measure seams and contrast together, over several images, and beside real data.
#
# **To copy:** `tiles(shape, window, overlap, periodic=...)`, `compose(graph, score, max_batch=64)`,
# `sample(joint, levels, shape=...)`, and `seam_ratio` with `mean_and_error`.
#
# **Exercise.** Make a cylinder of 48 × 256 pixels, closed from left to right and open at the top
# and the bottom. What is the seam ratio where its ends meet, and what across rows?
#
# **Where to go next.** [Metrics](../metrics.md) compares texture as well; [the
# gallery](../gallery.md) has other shapes, in colour. [Tutorial 09](09_canvas_without_end.ipynb)
# makes strips without end, [tutorial 10](10_full_spheres.ipynb) spheres, and [tutorial
# 05](05_samples_that_are_right.ipynb) is about data with a longer memory.
