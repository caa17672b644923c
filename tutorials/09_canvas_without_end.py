# %% [markdown]
# # Pan over an endless strip
#
# Tutorial 04 made strips of gravel of a given length. Here the strip has no ends: it is computed
# where you look at it, and is the same whenever you return. You will learn
#
# 1. how to **pan** over an endless strip, and what makes a view the same each time;
# 2. what a view **costs**, near and at column 10 000 000 000 000;
# 3. how a canvas that ends, but is **larger than memory**, is written to disk strip by strip.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from pgmdiff import compose, from_denoiser, karras, sample, tiles
from pgmdiff.distributed import Endless, stream
from pgmdiff.models.gravel import gravel_denoiser

torch.set_num_threads(1)  # for patches this small, several threads are slower than one

# %% [markdown]
# ## Panning
#
# The shape has `None` where there is no end; windows and overlaps are given as for `tiles`. Nothing
# is computed until the canvas is sliced. We count the patches that go through the network.

# %%
network, patches = gravel_denoiser(), [0]


def counting(x: Tensor, sigma: Tensor) -> Tensor:
    patches[0] += len(x)
    return network(x, sigma)


levels = karras(5, sigma_min=0.01, sigma_max=10.0)
canvas = Endless(
    from_denoiser(counting),
    levels,
    shape=(1, 24, None),
    window=(1, 16, 16),
    overlap=(0, 8, 8),
    generator=0,
)
print(canvas)

# %% alt="Three views of a strip of gravel, each moved to the right of the one above by 48 columns"
figure, axes = plt.subplots(3, 1, figsize=(8, 3.6))
spent = []
for axis, first in zip(axes, (0, 48, 96), strict=True):
    before = patches[0]
    view = canvas[:, :, first : first + 128]
    spent.append(patches[0] - before)
    axis.imshow(view[0], cmap="gray", vmin=-1, vmax=1, extent=(first, first + 128, 24, 0))
    axis.set_xlim(0, 224)
    axis.set_yticks([])
figure.tight_layout()
print("patches per view:", spent)

# %% [markdown]
# The second and third view are cheaper, since most of what they need is known: a strip of 48
# columns, and no more. Views agree where they overlap, also with those of another object that looks
# at the same canvas for the first time and somewhere else:

# %%
other = Endless(from_denoiser(network), levels, (1, 24, None), (1, 16, 16), (0, 8, 8), generator=0)
same = other[:, :, 60:80]
print("largest difference:", f"{float((same - canvas[:, :, 60:80]).abs().max()):.0e}")
assert torch.allclose(same, canvas[:, :, 60:80], atol=1e-3)

# %% [markdown]
# They agree up to rounding, because the network saw batches of another size; `max_batch=1` gives
# the same bits. Nothing is stored for this: the noise of a place is a function of the seed and of
# the place, and the rest is computed again.
#
# ## Far away
#
# The state of each noise level is an infinite tensor, made of the windows of the level before. A
# view therefore needs a *cone*: itself at the last level, and one window more on each side for each
# level before. Where it lies makes no difference.

# %% alt="A strip of gravel at column ten million million"
far = 10**13
before = patches[0]
view = canvas[:, :, far : far + 128]
print("patches:", patches[0] - before, "as for the first view:", spent[0])
assert patches[0] - before == spent[0]

figure, axis = plt.subplots(figsize=(8, 1.6))
axis.imshow(view[0], cmap="gray", vmin=-1, vmax=1)
axis.set_title("columns 10 000 000 000 000 to 10 000 000 000 128", loc="left", fontsize=10)
axis.set_axis_off()

# %% [markdown]
# A finite strip of the same 128 columns is cheaper, because it has no cone. With more levels the
# cone is wider: five levels are a compromise.

# %%
graph = tiles((1, 24, 128), (1, 16, 16), (0, 8, 8))
before = patches[0]
sample(compose(graph, from_denoiser(counting)), levels, shape=(1, 1, 24, 128), generator=0)
print("patches of a finite strip:", patches[0] - before)

# %% [markdown]
# ## Larger than memory
#
# If the canvas has an end, no cone is needed. `stream` works from left to right, each noise level
# one strip behind the level before, and writes what is finished. It accepts what `compose` and
# `sample` accept; here it writes to an array, and given a path it makes a zarr array on disk.

# %%
out = np.zeros((1, 1, 24, 320), np.float32)
pattern = tiles((1, 24, 32), (1, 16, 16), (0, 8, 8))
score = from_denoiser(network)
stream(pattern, score, levels, out=out, shape=out.shape, generator=0, strip=128)

long = tiles((1, 24, 320), (1, 16, 16), (0, 8, 8))
whole = sample(compose(long, score), levels, shape=out.shape, generator=0)
print("largest difference to the whole:", f"{np.abs(out - whole.numpy()).max():.0e}")
assert np.allclose(out, whole, atol=1e-3)

# %% [markdown]
# ## What to remember
#
# - `Endless` makes any part of a canvas, in any order; `stream` makes all of one, in order.
# - Both are the canvas that `sample` makes: the rule, the solver and the noise are the same.
# - A cone costs; use few levels. A front repeats the windows at the borders of strips, one in 16.
#
# ## Exercises
#
# 1. Make a plane, `shape=(1, None, None)`, and look at 32 × 32 pixels. Why does it cost more?
# 2. Use `karras(10, ...)`. How many patches does a view of 128 columns take now, and one of 512?
#
# ## Where to go next
#
# The pages "A canvas larger than memory" and "An endless canvas" are summaries. `python -m pgmdiff
# explore --at 10000000000000` writes a picture.
