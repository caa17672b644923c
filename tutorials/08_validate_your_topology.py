# %% [markdown]
# # Validate your own topology
#
# You have cut a state into pieces in a way of your own. Networks for it take days to train, and a
# piece that lies wrong is seen at the very end, as a seam. What can you test before?
#
# Whether every element is **counted once** is a law, and `assert_lawful` checks it (2). Whether the
# pieces are **where you think**, and the right way up, no law can know: you state a symmetry (3),
# which Hypothesis tries at many sizes (4). The example is a band of windows that closes with half a
# twist, a Möbius strip (1). The notebook takes about 10 seconds on one core.

# %%
from dataclasses import dataclass
from itertools import combinations
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pgmdiff import Gaussian, RegionGraph, cluster_variation, compose, karras, sample
from pgmdiff.diagnostics import mean_and_error, seam_ratio
from pgmdiff.gaussian import node_scores
from pgmdiff.testing import LawBroken, assert_lawful

torch.set_num_threads(1)  # for matrices this small, several threads are slower than one

# %% [markdown]
# ## 1. Say where things are
#
# Beyond its last column the band continues at its first one, upside down. The method `place` says
# so, and no other code knows of the twist. Two rows of windows overlap each other, and each window
# the next one. A piece *is* an index array, in the shape that its model sees.


# %%
@dataclass(frozen=True)
class Band:
    """A Möbius strip of windows; all sizes are in elements."""

    rows: int = 6
    height: int = 4
    width: int = 4
    stride: int = 3
    around: int = 6

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.around * self.stride

    def place(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Elements of the flattened band; `column` may go around it any number of times."""
        rows, columns = self.shape
        turned = (column // columns) % 2 == 1
        return np.where(turned, rows - 1 - row, row) * columns + column % columns

    def window(self, top: int, k: int) -> np.ndarray:
        row = top + np.arange(self.height)[:, None]
        return self.place(row, self.stride * k + np.arange(self.width))

    def pieces(self) -> dict[str, np.ndarray]:
        tops = {"upper": 0, "lower": self.rows - self.height}
        return {f"{a} {k}": self.window(tops[a], k) for a in tops for k in range(self.around)}


band = Band()

# %% [markdown]
# ## 2. What a law can know
#
# To count by hand, write +1 for every window, and -1 for what two of them share:


# %%
def by_hand(band: Band) -> RegionGraph:
    windows = band.pieces()
    pairs = combinations(windows, 2)
    shared = {f"{a} & {b}": np.intersect1d(windows[a], windows[b]) for a, b in pairs}
    shared = {name: elements for name, elements in shared.items() if elements.size}
    counts = dict.fromkeys(windows, 1) | dict.fromkeys(shared, -1)
    return RegionGraph.from_regions({**windows, **shared}, counts, event_shape=band.shape)


def counted(band: Band) -> RegionGraph:
    return cluster_variation(band.pieces(), event_shape=band.shape)


def verdict(graph: RegionGraph) -> str:
    try:
        assert_lawful(graph)
    except LawBroken as broken:
        return str(broken)
    return "lawful"


print(fill(f"by hand: {verdict(by_hand(band))}", 80))
print("by cluster_variation:", verdict(counted(band)))
assert "the counts sum to" in verdict(by_hand(band))

# %% [markdown]
# The message names an element, and what holds it: four windows, and six pairs that subtract it too
# often. `cluster_variation` closes the windows under intersection and counts everything once.
#
# ## 3. What only you can know
#
# Two more mistakes are in the geometry. A `Cylinder` forgets the twist. `Sorted` has the right
# elements in every piece, but someone has sorted its columns: beyond the seam, which is red below,
# they are upside down. The last upper window is shown in colour, from its first row to its last.


# %%
class Cylinder(Band):
    def place(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return row * self.shape[1] + column % self.shape[1]


class Sorted(Band):
    def window(self, top: int, k: int) -> np.ndarray:
        return np.sort(super().window(top, k), axis=0)


# %% tags=["hide-input"] alt="Rows of one piece: only in the band they turn over beyond the seam"
figure, axes = plt.subplots(1, 3, figsize=(9, 1.9), layout="constrained")
for axis, kind in zip(axes, (Band, Cylinder, Sorted), strict=True):
    seen = np.full(band.rows * 18, np.nan)
    seen[kind().pieces()["upper 5"]] = np.arange(4)[:, None]
    shown = np.roll(seen.reshape(band.shape), 9, axis=1)[:, 3:15]
    axis.pcolormesh(shown, cmap="viridis", edgecolors="#d9dcdf", lw=0.4)
    axis.axvline(6, color="#d1495b", lw=2)
    axis.set(xticks=(), yticks=(), ylim=(6, 0), title=kind.__name__, aspect="equal")

# %% [markdown]
# Both are lawful: they are good graphs of something else. But you know how yours should be. If all
# moves along by one stride, nothing changes: every piece becomes a piece of the same count, as an
# array, possibly upside down, since a Möbius strip has no up.


# %%
def pictures(graph: RegionGraph, move: np.ndarray) -> dict[bytes, int]:
    """Counts by moved index array; an array and its flipped copy are the same picture."""
    counts: dict[bytes, int] = {}
    for name, count in graph.counting_numbers().items():
        array = move[graph.elements(name).numpy()]
        array = np.sort(array) if array.ndim == 1 else array  # a list has no order
        counts[min(array.tobytes(), array[::-1].tobytes())] = count
    return counts


def is_symmetric(graph: RegionGraph, band: Band) -> bool:
    row, column = np.indices(band.shape)
    move = band.place(row, column + band.stride).ravel()
    return pictures(graph, move) == pictures(graph, np.arange(len(move)))


# %% [markdown]
# What would the mistakes have cost? Let the data be a smooth field on a larger strip. All upper
# windows share one model, as they would share a network, and all lower ones another. The *seam
# ratio* is the jump across the seam relative to others, here of four sets of eight samples.

# %%
SIZES, REACH = {"rows": 12, "height": 8, "width": 8, "stride": 5, "around": 8}, 2.5
true = Band(**SIZES)
rows, columns = true.shape
row, column = (index.ravel() for index in np.indices(true.shape))


def near(down: np.ndarray, along: np.ndarray) -> np.ndarray:
    chord = 2 * columns / np.pi * np.sin(np.pi * along / (2 * columns))  # twice around is 0
    return np.exp(-(down**2 + chord**2) / (2 * REACH**2))


along = column[:, None] - column
covariance = near(row[:, None] - row, along) + 0.01 * np.eye(len(row))
covariance += near(row[:, None] - (rows - 1 - row), along + columns)  # once around: upside down
data = Gaussian(torch.zeros(true.shape).double(), torch.from_numpy(covariance))


def across(u: torch.Tensor) -> torch.Tensor:  # with the seam in the middle
    return torch.cat([u[..., columns // 2 :], u[..., : columns // 2].flip(1)], dim=2)


def drawn(graph: RegionGraph) -> torch.Tensor:
    scores = dict(node_scores(graph, data))
    scores |= {name: scores[f"{name.split()[0]} 1"] for name in true.pieces()}
    options = {"shape": (32, *true.shape), "generator": 3, "dtype": torch.float64}
    return across(sample(compose(graph, scores), karras(24, 0.05, 40.0), **options))


kinds = {"right": true, "no twist": Cylinder(**SIZES), "upside down": Sorted(**SIZES)}
candidates = {name: counted(kind) for name, kind in kinds.items()}
samples = {name: drawn(graph) for name, graph in candidates.items()}
samples["the data"] = across(data.sample(32, 0))
for name, u in samples.items():
    ratios = [seam_ratio(part, [columns // 2]) for part in u.chunk(4)]
    print(f"{name:11}  seam ratio {{:.2f}} ± {{:.2f}}".format(*mean_and_error(ratios)))
for name, graph in {**candidates, "by hand": by_hand(true)}.items():
    lawful, symmetric = verdict(graph) == "lawful", is_symmetric(graph, true)
    print(f"{name:11}  lawful: {lawful!s:5}  symmetric: {symmetric}")
    assert (lawful, symmetric) == (name != "by hand", name in ("right", "by hand"))

# %% tags=["hide-input"] alt="Samples around the seam: smooth if right, torn in the middle if not"
_, axes = plt.subplots(1, 3, figsize=(9, 2.2), layout="constrained")
for axis, (name, u) in zip(axes, samples.items(), strict=False):
    axis.imshow(u[0, :, 8:32], cmap="gray", vmin=-2.5, vmax=2.5)
    axis.plot(11.5, -1, "v", color="#d1495b", clip_on=False)
    axis.set(xticks=(), yticks=(), ylim=(11.5, -0.5))
    axis.set_title(name, loc="left", fontsize=10)

# %% [markdown]
# Each mistake is found by one of the two tests, without a model, and passes the other.
#
# ## 4. At all sizes
#
# Put this into your test suite. Hypothesis tries many sizes, and finds the smallest that fails:


# %%
@st.composite
def bands(draw: st.DrawFn) -> Band:
    height, stride = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    rows, width = height + draw(st.integers(1, height - 1)), stride + draw(st.integers(1, stride))
    return Band(rows, height, width, stride, around=draw(st.integers(2, 5)))


@settings(max_examples=15, deadline=None, derandomize=True, phases=(Phase.generate, Phase.shrink))
@given(bands())
def test_every_band(band: Band) -> None:
    assert_lawful(counted(band))
    assert is_symmetric(counted(band), band)


try:
    test_every_band()
except AssertionError as error:
    failure = "".join(error.__notes__)
print(failure)
assert "around=2" in failure

# %% [markdown]
# If only two windows go around, they meet at both ends, and what they share can be read in two
# directions: the symmetry as stated requires three.
#
# ## What to remember
# - Leave counts to `cluster_variation`; write the geometry once, and state a symmetry of it.
# - **To copy:** `examples/test_my_topology.py`, a test file for another topology.
#
# **Where to go next.** [Test a topology](../your_topology.md) lists the laws, and says what a valid
# graph guarantees. Once there are models, [check](../my_model.md#do-the-models-agree) them, too.
