# %% [markdown]
# # Regions beyond Bethe
#
# Bethe's counting numbers distinguish two kinds of regions, factors and single variables. But
# windows of an image share strips and corners, triples share pairs, and pieces may lie inside one
# another. There the obvious way of counting goes wrong, and two better ones are known:
#
# - **cluster variation** (Kikuchi): close the pieces under intersection, and count from the largest
#   region downwards;
# - **junction trees**: join the pieces into a tree, and count cliques and separators.
#
# This tutorial starts with wrong answers, because you will meet them, and shows how they are
# detected.

# %%
import re
from textwrap import fill

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import torch

from pgmdiff import (
    Average,
    FactorGraph,
    Gaussian,
    GraphError,
    Posterior,
    RegionGraph,
    cluster_variation,
    compose,
    junction_tree,
    karras,
    sample,
    tiles,
)
from pgmdiff.gaussian import ar1, composed_precision, node_scores
from pgmdiff.graphs import chain, cycle, grid, product
from pgmdiff.plotting import curves, plot, strips
from pgmdiff.testing import assert_lawful, markov_gaussian, markov_mixture

# %% [markdown]
# ## Four tiles and a forgotten corner
#
# Consider an image of 3 × 3 pixels and a model of 2 × 2 pixels. Regions are index arrays into the
# flattened image, so slices of `u` will do. Let us count in the obvious way: +1 for each tile, and
# -1 for each pair of neighbouring tiles, for the two pixels that they share.

# %%
u = np.arange(9).reshape(3, 3)
pieces = {
    "north west": u[:2, :2],
    "north east": u[:2, 1:],
    "south west": u[1:, :2],
    "south east": u[1:, 1:],
}
seams = {"north": u[:2, 1], "south": u[1:, 1], "west": u[1, :2], "east": u[1, 1:]}
naive = RegionGraph.from_regions(
    {**pieces, **seams},
    dict.fromkeys(pieces, 1) | dict.fromkeys(seams, -1),
    event_shape=u.shape,
)

# %% alt="Maps of 3 × 3 pixels: counts of pieces, of overlaps, and their sum, 0 in the middle"
plot(naive, layout="counts", title="Tiles +1, seams −1")

# %% [markdown]
# The middle pixel lies in four tiles and in four seams: $4 - 4 = 0$. It is not counted at all.
# `validate()` reports this, and `compose` refuses the graph:

# %%
try:
    compose(naive, lambda x, sigma: -x)
except GraphError as error:
    print(fill(str(error), 96))
assert not naive.validate().valid
assert naive.element_sums().reshape(3, 3)[1, 1] == 0

# %% [markdown]
# What is missing is the overlap of the overlaps, the pixel that all four tiles share. It counts +1,
# and `tiles` includes it:

# %% alt="The same maps with the corner added: the sum is 1 at every pixel"
right = tiles((3, 3), window=2, overlap=1)
print({name: count for name, count in right.counting_numbers().items() if count > 0})
assert right.validate().valid
plot(right, layout="counts", title="Tiles +1, seams −1, corner +1")

# %% [markdown]
# ## A law that detects it
#
# Can the mistake be seen in the *scores*, without looking at the counts? Yes: the score of each
# marginal satisfies Stein's identity, $\mathbb{E}[(u_i - m_i)\, s_i(u, \sigma)] = -1$ for
# $u \sim q_\sigma$. The composed score adds up these scores with their counts, so it satisfies the
# identity for element $i$ if and only if the counts there sum to 1. This holds for any data, with
# or without loops, however good or bad the approximation is.
#
# For a Gaussian with composed precision $J$ the identity reads $(J \Sigma)_{ii} = 1$. Summed over
# the elements, $\operatorname{tr}(J \Sigma)$ is the number of elements.


# %%
def separable(down: Gaussian, right: Gaussian) -> Gaussian:
    """A Gaussian image; its covariance is the product of those of a column and of a row."""
    mean = torch.zeros(len(down.mean), len(right.mean), dtype=torch.float64)
    return Gaussian(mean, torch.kron(down.covariance, right.covariance))


def image(n: int, rho: float) -> Gaussian:
    """n × n pixels; a step down and a step right each multiply the correlation by `rho`."""
    return separable(ar1(n, rho), ar1(n, rho))


q = image(3, 0.7)
stein = {
    name: (composed_precision(graph, q) @ q.covariance).diagonal().reshape(3, 3)
    for name, graph in {"without the corner": naive, "with it": right}.items()
}
for name, values in stein.items():
    print(f"{name:18}: tr(JΣ) = {values.sum():.6f}, in the middle {values[1, 1].abs():.6f}")
assert abs(stein["without the corner"].sum() - 8) < 1e-10
assert abs(stein["with it"].sum() - 9) < 1e-10

# %% [markdown]
# The identity also holds for data that is not Gaussian. Here is a mixture of three Gaussians, with
# the expectation estimated from samples:

# %%
mixture = markov_mixture(right, seed=0)
x = mixture.sample(40_000, torch.Generator().manual_seed(0)).reshape(-1, 3, 3)
x = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
terms = (x - mixture.mean.reshape(3, 3)) * compose(right, node_scores(right, mixture))(x, 0.5)
mean, error = terms.mean(dim=0), terms.std(dim=0) / len(x) ** 0.5
print(f"E[(u - m) s]: from {mean.min():.3f} to {mean.max():.3f}, standard errors {error.max():.3f}")
assert ((mean + 1).abs() < 4 * error).all()

# %% [markdown]
# ## Cluster variation
#
# Where do the +1 and the -1 come from in general? Close the pieces under intersection. Then start
# with the largest regions, and give each region the count that is still missing so that its
# elements are counted once:
#
# $$c_r = 1 - \sum_{s \supsetneq r} c_s.$$
#
# That is all. For sets of pixels it takes a few lines:

# %%
tile_sets = [frozenset(piece.ravel().tolist()) for piece in pieces.values()]
closed = set(tile_sets)
while more := {a & b for a in closed for b in closed} - closed - {frozenset()}:
    closed |= more
counts: dict[frozenset, int] = {}
for region in sorted(closed, key=len, reverse=True):
    counts[region] = 1 - sum(counts[larger] for larger in counts if region < larger)
for count in (1, -1):
    print(f"{count:+d}:", *(tuple(sorted(region)) for region, c in counts.items() if c == count))

library = cluster_variation([tuple(sorted(tile)) for tile in tile_sets])
assert counts == library.counting_numbers()

# %% alt="Three layers joined by containment: four tiles +1, four seams −1, one corner +1"
plot(cluster_variation(pieces, event_shape=u.shape), layout="hasse", title="Which contains which")

# %% [markdown]
# For windows on a grid there is a shortcut. Along one axis windows count +1 and overlaps -1, and
# the counts of several axes *multiply*: a vertical overlap times a horizontal overlap is a corner,
# $(-1)(-1) = +1$. So `tiles` needs no set operations, and even a million windows are no problem.
# `product` does the same for any two graphs.

# %%
rows, columns = tiles((3,), 2, 1), tiles((3,), 2, 1)
assert sorted(product(rows, columns).counting_numbers().values()) == sorted(counts.values())


def summary(graph) -> str:
    counts = list(graph.counting_numbers().values())
    return f"{counts.count(1)} regions +1, {counts.count(-1)} regions -1, sum {sum(counts)}"


print("4 × 5 tiles:      ", summary(tiles((10, 12), 4, 2)))
print("a torus of 4 × 4: ", summary(tiles((8, 8), 4, 2, periodic=True)))
print("windows × a chain:", summary(product(tiles((10,), 4, 2), chain(4))))


# %% alt="Three by three windows, open and on a torus: windows and corners +1, seams −1"
def draw_tiles() -> None:
    _, axes = plt.subplots(1, 2, figsize=(9, 5))
    plot(tiles((10, 10), 4, 1), ax=axes[0], title="Open")
    plot(tiles((9, 9), 4, 1, periodic=True), ax=axes[1], title="Torus")


draw_tiles()

# %% [markdown]
# ## How much does it matter?
#
# Draw the tiles of a 5 × 5 image as a factor graph with *pixels* as variables. Then Bethe counts a
# pixel that lies in four tiles $1 - 4 = -3$ times. These counts are valid, because each pixel is
# counted once in total. But neighbouring tiles share *pairs* of pixels, and Bethe treats these
# pixels as independent. We compare this with cluster variation, and with overlap averaging, which
# uses no models of overlaps at all.

# %%
v = np.arange(25).reshape(5, 5)
corners = [(i, j) for i in range(4) for j in range(4)]
bethe = FactorGraph.from_scopes(
    {(i, j): tuple(v[i : i + 2, j : j + 2].ravel().tolist()) for i, j in corners},
    shapes=dict.fromkeys(range(25), ()),
)
kikuchi = tiles((5, 5), 2, 1)
assert bethe.validate().valid


def relative_error(graph, q: Gaussian, rule=None) -> float:
    true = torch.linalg.inv(q.covariance)
    return ((composed_precision(graph, q, 0.0, rule) - true).abs().max() / true.abs().max()).item()


def smallest_eigenvalue(graph, q: Gaussian, rule=None) -> float:
    return torch.linalg.eigvals(composed_precision(graph, q, 0.0, rule)).real.min().item()


laplacian = torch.from_numpy(nx.laplacian_matrix(nx.grid_2d_graph(5, 5)).toarray())
covariance = torch.linalg.inv(laplacian + 0.3 * torch.eye(25, dtype=torch.float64))
lattice = Gaussian(torch.zeros(5, 5, dtype=torch.float64), (covariance + covariance.T) / 2)
methods = {
    "cluster variation": (kikuchi, None),
    "Bethe on pixels": (bethe, None),
    "average": (kikuchi, Average()),
}
print(f"{'relative error / smallest eigenvalue':38}{'separable, ρ = 0.8':>20}{'lattice field':>20}")
for name, (graph, rule) in methods.items():
    figures = [
        f"{relative_error(graph, q, rule):.2g} / {smallest_eigenvalue(graph, q, rule):.2g}"
        for q in (image(5, 0.8), lattice)
    ]
    print(f"{name:38}" + "".join(f"{figure:>20}" for figure in figures))
assert relative_error(kikuchi, image(5, 0.8)) < 1e-12
assert relative_error(kikuchi, lattice) < 0.01 < 0.5 < relative_error(bethe, lattice)
assert smallest_eigenvalue(bethe, image(5, 0.21)) < 0 < smallest_eigenvalue(bethe, image(5, 0.2))
for q in (image(5, 0.8), lattice):
    assert smallest_eigenvalue(bethe, q) < -0.9
    assert smallest_eigenvalue(kikuchi, q) > 0

# %% [markdown]
# Bethe on pixels is not only inaccurate: its precision is indefinite, so there is no distribution
# to sample from. Cluster variation has an error of half a percent on the lattice field, and is
# exact for the separable image, although tiles on two axes form loops. (A separable image is a
# product of two chains, and so are its counts.) Averaging is always proper, but far from the truth.
# (Its matrix is not symmetric and its score is not a gradient; the number printed is the smallest
# real part of an eigenvalue.)

# %% alt="Left: error against ρ, 0 for cluster variation. Right: Bethe's eigenvalue is below 0"


def draw_methods() -> None:
    _, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    rhos = np.linspace(0.05, 0.95, 19).tolist()
    for ax, measure in zip(axes, (relative_error, smallest_eigenvalue), strict=True):
        lines = {
            name: (rhos, [measure(graph, image(5, rho), rule) for rho in rhos])
            for name, (graph, rule) in methods.items()
        }
        curves(lines, xlabel="correlation ρ of neighbouring pixels", ylabel="", log="", ax=ax)
    axes[0].set_title("Relative error at σ = 0", loc="left", fontsize=10)
    axes[1].set_title("Smallest eigenvalue of the precision", loc="left", fontsize=10)
    axes[1].axhline(0, color="#2b2b2b", lw=1)


draw_methods()

# %% [markdown]
# ## Windows of three, one step apart
#
# A second-order process, $u_t = a u_{t-1} + b u_{t-2} + \text{noise}$, is not Markov to pairs, but
# it is Markov to triples. Triples one step apart share pairs: triples count +1, pairs -1, and
# single elements 0. This is a junction tree, so it is exact at $\sigma = 0$. Pairs alone are not
# exact, and neither are triples with Bethe's counts.


# %%
def second_order(n: int, a: float, b: float) -> Gaussian:
    """A stationary second-order process of unit variance."""
    r = [1.0, a / (1 - b)]
    for _ in range(n - 2):
        r.append(a * r[-1] + b * r[-2])
    place = torch.arange(n)
    by_lag = torch.tensor(r, dtype=torch.float64)
    return Gaussian(torch.zeros(n, dtype=torch.float64), by_lag[(place[:, None] - place).abs()])


swing = second_order(20, 1.6, -0.8)
triples = [(t, t + 1, t + 2) for t in range(18)]
candidates = {
    "pairs": chain(20),
    "triples, Bethe": FactorGraph.from_arrays(np.array(triples)),
    "triples, tiles": tiles((20,), window=3, overlap=2),
    "triples, cluster variation": cluster_variation(triples),
    "triples, junction tree": junction_tree(triples),
}
for name, graph in candidates.items():
    tree, error = graph.validate().junction_tree, relative_error(graph, swing)
    print(f"{name:28} junction tree: {tree!s:6} error at σ = 0: {error:.0e}")
    assert (error < 1e-10) == (bool(tree) and name != "pairs")

# %% [markdown]
# Beware of the first line. A chain of pairs *is* a junction tree, and the report promises exactness
# "for any data that is Markov with respect to" it. This data is not. A graph contains no
# information about the data; `pgmdiff.advise` takes the covariance of your data into account.

# %% alt="Triples of six variables: four triples (+1) on top, the three pairs they share (−1) below"
plot(tiles((6,), window=3, overlap=2), layout="hasse", title="Windows of 3 with stride 1")

# %% [markdown]
# ## Pieces inside pieces
#
# Suppose that you have a model of $abc$ and another of $ab$, which lies inside it; or two models of
# the same $ab$. Bethe counts both models +1 and subtracts the shared variables: $abc + ab - a - b$.
# This equals $abc$ only if $a$ and $b$ are independent. Cluster variation drops any piece that lies
# inside another one.

# %%
inside = FactorGraph.from_scopes({"f": ("a", "b", "c"), "g": ("a", "b")})
twice = FactorGraph.from_scopes({"f": ("a", "b"), "g": ("a", "b")})
for name, graph in {"abc, ab": inside, "ab, ab": twice}.items():
    q, absorbed = markov_gaussian(graph, seed=0), cluster_variation(graph)
    print(
        f"{name:8} Bethe {relative_error(graph, q):.3f}; "
        f"cluster variation {relative_error(absorbed, q):.0e}, with {absorbed.n_regions} region"
    )
    assert relative_error(absorbed, q) < 1e-12 < 1e-2 < relative_error(graph, q)
print(fill(inside.validate().promise.split(" Rules Posterior")[0], 96))

# %% [markdown]
# (If the two models of $ab$ are posteriors given *different* observations, they are not duplicates,
# and dropping one would lose data. `repeated_observations` is the graph for that case.)
#
# ## Junction trees: a loop made exact
#
# A ring of pairs is a loop, so the paper's rule is only approximate. Now add chords until every
# loop is a triangle, and use the triangles as pieces: they can be joined into a tree. The price is
# models of three variables instead of two. The library does not do this unless you ask for it, but
# it tells you what it would take.

# %%
ring = cycle(8)
try:
    junction_tree(ring)
except GraphError as error:
    print(fill(str(error), 96))
triangles = junction_tree(ring, max_clique=3)


def ring_of(n: int, rho: float) -> Gaussian:
    """A Gaussian that is Markov to a ring: correlation runs both ways round."""
    place = torch.arange(n, dtype=torch.float64)
    apart = (place[:, None] - place).abs()
    covariance = (rho**apart + rho ** (n - apart)) / (1 + rho**n)
    return Gaussian(torch.zeros_like(place), covariance)


q = ring_of(8, 0.9)
print(f"error at σ = 0: pairs {relative_error(ring, q):.3f}, ", end="")
print(f"triangles {relative_error(triangles, q):.0e}")
assert relative_error(triangles, q) < 1e-12 < 0.1 < relative_error(ring, q)

# %% alt="A tree of six triangles of ring variables (+1), joined through five chords (−1)"
plot(triangles, title="A triangulated ring of 8: triangles +1, chords −1")

# %% [markdown]
# On a ring the price is small, whatever the length. On a grid it is not, because cliques have to
# reach from side to side: the largest piece of the junction tree grows with the side of the grid,
# and you would have to train a model of that size.

# %% alt="The largest piece of a grid's junction tree grows with the side; pairs have 2 elements"
sides = [2, 3, 4, 5, 6, 8]
cliques, works = [], []
for side in sides:
    try:
        needed = junction_tree(grid(side, side), max_clique=2)
    except GraphError as error:
        clique = int(re.search(r"max_clique=(\d+) if", str(error)).group(1))
        needed = junction_tree(grid(side, side), max_clique=clique)
    cliques.append(needed.validate().largest_region)
    works.append(needed.validate().n_evaluated_elements)
pairs_work = [grid(side, side).validate().n_evaluated_elements for side in sides]
print(f"largest piece, by side of the grid: {dict(zip(sides, cliques, strict=True))}")
assert cliques == sorted(cliques)
assert cliques[-1] >= 8


def draw_price() -> None:
    _, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    two = [2] * len(sides)
    largest = {"junction tree": (sides, cliques), "pairs (with loops)": (sides, two)}
    work = {"junction tree": (sides, works), "pairs (with loops)": (sides, pairs_work)}
    x, y = "side of the grid", "elements"
    curves(largest, xlabel=x, ylabel=y, title="Elements in the largest piece", log="", ax=axes[0])
    curves(work, xlabel=x, ylabel=y, title="Elements per evaluation", log="", ax=axes[1])


draw_price()

# %% [markdown]
# ## Topologies of your own
#
# Regions are index arrays, so they need not be windows of a flat image. Here are two examples.
#
# *A cylinder with a cap.* Four panels stand around a drum, each sharing a column with the next, and
# a cap sees the two top rows of all of them. Cluster variation finds the seams, the parts under the
# cap, and their corners. `assert_lawful` checks the result against every law that applies, Stein's
# identity among them.

# %% alt="An unrolled drum: four panels, a cap over the top rows, shaded overlaps with their counts"
drum = np.arange(6 * 12).reshape(6, 12)
panels = {f"panel {p}": drum[:, np.arange(3 * p, 3 * p + 4) % 12] for p in range(4)}
capped = cluster_variation({**panels, "cap": drum[:2]}, event_shape=drum.shape)
print(summary(capped))
assert_lawful(capped)
plot(capped, title="An unrolled drum with a cap")

# %% [markdown]
# *A strip with a twist.* On a Möbius band, windows go around a strip, and the window across the
# seam continues into the other end upside down. As an index array, what lies beyond the end is
# `band[::-1]`. This does not concern the model of the windows: it is one model of flat 6 × 12
# patches. Windows that share a model form one group, and the model of an overlap is identified by
# its shape.

# %%
height, length = 6, 48
band = np.arange(height * length).reshape(height, length)
twice_round = np.concatenate([band, band[::-1]], axis=1)
windows = {f"window {k}": twice_round[:, 6 * k : 6 * k + 12] for k in range(8)}
plain = RegionGraph.from_regions(
    windows, event_shape=band.shape, models=dict.fromkeys(windows, "patch")
)
moebius = cluster_variation(plain)
print(moebius)
print(summary(moebius))
assert moebius.validate().valid


def patch(h: int, w: int) -> Gaussian:
    return separable(ar1(h, 0.8), ar1(w, 0.9))


models = {"patch": patch(6, 12).score, (6, 6): patch(6, 6).score}
covariances = {"patch": patch(6, 12).covariance, (6, 6): patch(6, 6).covariance}
joint = compose(moebius, models, rule=Posterior(covariances))
draws = sample(
    joint,
    karras(20, 0.002, 80.0),
    shape=(400, height, length),
    generator=0,
    dtype=torch.float64,
)

# %% [markdown]
# To the right of the last column comes the first one, upside down. So the top of the last column
# has a correlation of $0.9$ with the bottom of the first, like neighbours within the band, and of
# only $0.9 \cdot 0.8^5$ with its top.

# %%
last, first = draws[:, :, -1], draws[:, :, 0]
expected = {"upside down": (first.flip(1), 0.9), "straight": (first, 0.9 * 0.8**5)}
for name, (other, true) in expected.items():
    found = np.corrcoef(last[:, 0], other[:, 0])[0, 1]
    error = (1 - true**2) / len(draws) ** 0.5
    print(f"{name:12} correlation {found:.3f}, expected {true:.3f} ± {error:.3f}")
    assert abs(found - true) < 4 * error

# %% alt="A grey strip. Below, its end beside its beginning: as it is, a seam; upside down, none"
shown = (last - first).abs().mean(dim=1).argmax()  # its ends match least unless one is turned
strip = draws[shown] / draws[shown].abs().max()
half = length // 2
joined = {
    "second half, then first half as it is: a seam": torch.roll(strip, half, 1),
    "second half, then first half upside down: no seam": torch.cat(
        [strip[:, half:], strip[:, :half].flip(0)], dim=1
    ),
}
strips({"a sample": strip, **joined}, joins=dict.fromkeys(joined, half))

# %% [markdown]
# ## What to remember
#
# - If pieces share more than one variable, do not count by hand. Use `tiles` for windows and
#   `cluster_variation` for anything else.
# - Counts must be valid (they must sum to 1 for every element), and `validate()` checks this. But
#   validity is not sufficient: Bethe on pixels is valid, and yet improper if the correlation of
#   neighbouring pixels is 0.21 or more.
# - Exactness at $\sigma = 0$ requires a junction tree *and* data that is Markov to it. Loops can be
#   triangulated, at the price of larger pieces.
#
# ## Exercises
#
# 1. Three pieces $ab$, $bc$, $ca$ form a loop. Add the piece $abc$. What does cluster variation
#    make of it?
# 2. Compare `tiles((7, 7), 3, 2)` with `tiles((7, 7), 3, 1)` on `image(7, 0.8)` at $\sigma = 0$ and
#    $\sigma = 1$, using `composed_precision(graph, q, sigma)`. What do longer overlaps improve, and
#    what do they cost?
# 3. Join the band without a twist (`tiles(..., periodic=...)`), and make it so short that its two
#    ends are correlated all the way round. What do the models of windows then leave out, and what
#    does `advise` say of the marginal rule and of `Consistent` on this loop?
#
# ## Where to go next
#
# "Infinite texture" (04) does all this with a real model of image patches. "Validate your own
# topology" (08) uses random graphs, and a wrong graph that the laws detect.
