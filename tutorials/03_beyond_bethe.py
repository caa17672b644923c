# %% [markdown]
# # Regions beyond Bethe
#
# Bethe's counts know two kinds of regions, factors and single variables. Windows of an image share
# strips and corners, triples share pairs, and pieces may lie inside one another. There the obvious
# way to count goes wrong, and two better ones are known:
#
# - **cluster variation** (Kikuchi): close the pieces under intersection, and count from the top;
# - **junction trees**: join the pieces into a tree, and count cliques and separators.
#
# This lesson shows the wrong answers first, since you will meet them, and how they are caught.

# %%
import re
from textwrap import fill

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import torch

from pgmdiff import Average, Posterior, compose
from pgmdiff.errors import GraphError
from pgmdiff.gaussian import Gaussian, composed_precision, node_scores
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    cycle,
    grid,
    junction_tree,
    product,
    tiles,
)
from pgmdiff.plotting import curves, plot, strips
from pgmdiff.samplers import karras, sample
from pgmdiff.testing import assert_lawful, markov_gaussian, markov_mixture

# %% [markdown]
# ## Four tiles, and a corner that is lost
#
# An image of 3 × 3 pixels, and a model of 2 × 2. Regions are index arrays into the flattened image,
# so slices of `u` will do. Count it as one would: each tile +1, and for each two neighbours, -1 for
# the two pixels they share.

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

# %% alt="Maps of 3 × 3 pixels: pieces, overlaps and their sum, which is 0 in the middle"
plot(naive, layout="counts", title="Tiles +1, seams −1")

# %% [markdown]
# The middle pixel is in four tiles and in four seams, $4 - 4 = 0$: it is not counted at all.
# `validate()` says so, and nothing will compose this graph.

# %%
print(fill(str(naive.validate()).splitlines()[1], 96))
try:
    compose(naive, lambda x, sigma: -x)
except GraphError as error:
    print(f"compose: {type(error).__name__}")
assert naive.element_sums().reshape(3, 3)[1, 1] == 0

# %% [markdown]
# What is missing is the overlap of overlaps, the pixel that all four share, +1. `tiles` knows:

# %% alt="The same maps with the corner added: the sum is 1 on every pixel"
right = tiles((3, 3), window=2, overlap=1)
print({name: count for name, count in right.counting_numbers().items() if count > 0})
assert right.validate().valid
plot(right, layout="counts", title="Tiles +1, seams −1, corner +1")

# %% [markdown]
# ## A law that catches it
#
# Could one see it from the *scores*, without looking at counts? Yes: the score of each marginal
# obeys Stein's identity, $\mathbb{E}[(u_i - m_i)\, s_i(u, \sigma)] = -1$ for $u \sim q_\sigma$. The
# composed score adds them up with counts, so it obeys the same on element $i$ if and only if the
# counts there sum to 1. No matter what the data is, whether there are loops, and whether the score
# is any good.
#
# For a Gaussian with composed precision $J$ this reads $(J \Sigma)_{ii} = 1$, and summed up,
# $\operatorname{tr}(J \Sigma)$ is the number of elements.


# %%
def ar1(n: int, rho: float):
    place = torch.arange(n, dtype=torch.float64)
    return rho ** (place[:, None] - place).abs()


def image(n: int, rho: float) -> Gaussian:
    """Pixels correlated by ρ for each step down and each step right."""
    return Gaussian(torch.zeros(n, n, dtype=torch.float64), torch.kron(ar1(n, rho), ar1(n, rho)))


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
# And for data that is no Gaussian, a mixture of three, on average over samples:

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
# Where do the +1 and -1 come from in general? Close the pieces under intersection. Then, from the
# largest region down, give each what is still missing to count it once:
#
# $$c_r = 1 - \sum_{s \supsetneq r} c_s.$$
#
# That is all. By hand, on sets of pixels:

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

# %% alt="Three layers: four tiles +1, four seams −1, one corner +1, joined by containment"
plot(cluster_variation(pieces, event_shape=u.shape), layout="hasse", title="What contains what")

# %% [markdown]
# For windows on a grid there is a shortcut. Along one axis windows count +1 and overlaps -1; counts
# of several axes *multiply*: an overlap down times an overlap right is a corner, $(-1)(-1) = +1$.
# So `tiles` needs no set operations, and a million of them are no trouble. `product` does the same
# for any two graphs.

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
    plot(tiles((10, 10), 4, 1), ax=axes[0], title="open")
    plot(tiles((9, 9), 4, 1, periodic=True), ax=axes[1], title="a torus")


draw_tiles()

# %% [markdown]
# ## How much it matters
#
# Draw the tiles of a 5 × 5 image as a factor graph with *pixels* as variables, and Bethe counts a
# pixel in four tiles $1 - 4 = -3$. Valid: each pixel is counted once. But neighbouring tiles share
# *pairs*, whose correlation Bethe takes for none. Against it, cluster variation, and overlap
# averaging, which has no overlaps' models at all.

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
# Bethe on pixels is not only far off: its precision is indefinite, so there is no distribution to
# sample from. Cluster variation errs by half a percent on the lattice field, and is exact on the
# separable one, although tiles on two axes make loops. (A separable field is a product of two
# chains, and so are its counts.) Averaging is always proper and far off. (Its matrix is not
# symmetric, its score no gradient; what is printed is the smallest real part of an eigenvalue.)

# %% alt="Left: errors against ρ, cluster variation at 0. Right: Bethe's eigenvalue below 0"


def draw_methods() -> None:
    _, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    rhos = np.linspace(0.05, 0.95, 19).tolist()
    for ax, measure in zip(axes, (relative_error, smallest_eigenvalue), strict=True):
        lines = {
            name: (rhos, [measure(graph, image(5, rho), rule) for rho in rhos])
            for name, (graph, rule) in methods.items()
        }
        curves(lines, xlabel="correlation ρ of neighbouring pixels", ylabel="", log="", ax=ax)
    axes[0].set_title("relative error at σ = 0", loc="left", fontsize=10)
    axes[1].set_title("smallest eigenvalue of the precision", loc="left", fontsize=10)
    axes[1].axhline(0, color="#2b2b2b", lw=1)


draw_methods()

# %% [markdown]
# ## Windows of three, one step apart
#
# A second-order process, $u_t = a u_{t-1} + b u_{t-2} + \text{noise}$, is not Markov to pairs, but
# to triples. Triples one step apart share pairs: +1 and -1, and single elements count 0. That is a
# junction tree, so it is exact at $\sigma = 0$; pairs, and Bethe's counts of triples, are not.


# %%
def second_order(n: int, a: float, b: float) -> Gaussian:
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
    told, off = graph.validate(), relative_error(graph, swing)
    print(f"{name:28} junction tree: {told.junction_tree!s:6} error at σ = 0: {off:.0e}")
    assert (off < 1e-10) == (bool(told.junction_tree) and name != "pairs")

# %% [markdown]
# The first line is a trap: a chain of pairs *is* a junction tree, and the report promises exactness
# "for data that is Markov with respect to" it. This data is not. A graph knows nothing of the data;
# `pgmdiff.advise` takes your covariance and tells.

# %% alt="Six variables under triples: four triples +1 on top, three pairs −1 below"
plot(tiles((6,), window=3, overlap=2), layout="hasse", title="Window 3, stride 1: singles count 0")

# %% [markdown]
# ## Pieces inside pieces
#
# A model of $abc$, another of $ab$, which it contains; or two models of the same $ab$. Bethe counts
# both +1 and takes $a$ and $b$ away: $abc + ab - a - b$, which is $abc$ only if $a$ and $b$ are
# independent. Cluster variation drops what lies inside another piece.

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
print(fill(inside.validate().promise.split(" Posterior rule")[0], 96))

# %% [markdown]
# (If the two models of $ab$ are posteriors given *different* observations, they are no duplicates,
# and dropping one would lose data: `observations` is the graph for that.)
#
# ## Junction trees: a loop made exact
#
# A ring of pairs is a loop, and approximate. Add chords until every loop is a triangle, and use the
# triangles as pieces: then they join into a tree. The price is models of three variables rather
# than two. Unasked, the library does not do it, and says what it would take.

# %%
ring = cycle(8)
try:
    junction_tree(ring)
except GraphError as error:
    print(fill(str(error), 96))
triangles = junction_tree(ring, max_clique=3)


def ring_of(n: int, rho: float) -> Gaussian:
    place = torch.arange(n, dtype=torch.float64)
    apart = (place[:, None] - place).abs()
    covariance = (rho**apart + rho ** (n - apart)) / (1 + rho**n)
    return Gaussian(torch.zeros(n, dtype=torch.float64), covariance)


law = ring_of(8, 0.9)
print(f"error at σ = 0: pairs {relative_error(ring, law):.3f}, ", end="")
print(f"triangles {relative_error(triangles, law):.0e}")
assert relative_error(triangles, law) < 1e-12 < 0.1 < relative_error(ring, law)

# %% alt="Six triangles of ring variables +1 on top, five chords −1 below, joined as a tree"
plot(triangles, title="A ring of 8, triangulated: triangles +1, chords −1")

# %% [markdown]
# On a ring the price is small whatever its length. On a grid it is not: cliques have to reach from
# side to side. The largest piece of a junction tree grows with the side, and is a model you would
# have to train.

# %% alt="The largest piece of a grid's junction tree grows with its side; pairs stay at 2"
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
    curves(largest, xlabel=x, ylabel=y, title="the largest piece", log="", ax=axes[0])
    curves(work, xlabel=x, ylabel=y, title="seen by one evaluation", log="", ax=axes[1])


draw_price()

# %% [markdown]
# ## Topologies of your own
#
# Since regions are index arrays, nothing says they must be windows of a flat image. Two examples.
#
# *A cylinder with a cap*: four panels around a drum, each sharing a column with the next, and a cap
# that sees the two top rows of all. Cluster variation finds seams, what lies under the cap, and
# their corners; `assert_lawful` checks the result against every law that applies, Stein's among
# them.

# %% alt="A drum unrolled: four panels, a cap over the top rows, shaded overlaps with their counts"
drum = np.arange(6 * 12).reshape(6, 12)
panels = {f"panel {p}": drum[:, np.arange(3 * p, 3 * p + 4) % 12] for p in range(4)}
capped = cluster_variation({**panels, "cap": drum[:2]}, event_shape=drum.shape)
print(summary(capped))
assert_lawful(capped)
plot(capped, title="A drum with a cap, unrolled")

# %% [markdown]
# *A strip with a twist*: a Möbius band. Windows go around a strip; the one across the seam finds
# the other end upside down. In indices: `band[::-1]` for what lies beyond the end. The windows'
# model knows nothing of all this, it is one model of flat 6 × 12 patches. Windows that share a
# model are one group, and an overlap's model is asked for by its shape.

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
    return Gaussian(torch.zeros(h, w, dtype=torch.float64), torch.kron(ar1(h, 0.8), ar1(w, 0.9)))


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
# Right of the last column comes the first, upside down: the top of the one end correlates with the
# bottom of the other by $0.9$, as neighbours do, and with the top of the other by only
# $0.9 \cdot 0.8^5$.

# %%
last, first = draws[:, :, -1], draws[:, :, 0]
expected = {"upside down": (first.flip(1), 0.9), "straight": (first, 0.9 * 0.8**5)}
for name, (other, true) in expected.items():
    found = np.corrcoef(last[:, 0], other[:, 0])[0, 1]
    error = (1 - true**2) / len(draws) ** 0.5
    print(f"top of the end against the beginning, {name}: {found:.3f} ({true:.3f} ± {error:.3f})")
    assert abs(found - true) < 4 * error

# %% alt="A grey strip; below, its end beside its beginning turned upside down, without a seam"
shown = (last - first).abs().mean(dim=1).argmax()  # the ends that fit least if not turned
strip = draws[shown] / draws[shown].abs().max()
half = length // 2
strips(
    {
        "a sample": strip,
        "its second half, then its first half as it is: a seam": torch.roll(strip, half, 1),
        "its second half, then its first half upside down: no seam": torch.cat(
            [strip[:, half:], strip[:, :half].flip(0)], dim=1
        ),
    },
    joins=dict.fromkeys(
        (
            "its second half, then its first half as it is: a seam",
            "its second half, then its first half upside down: no seam",
        ),
        half,
    ),
)

# %% [markdown]
# ## What to remember
#
# - If pieces share more than one variable, do not count by hand: `tiles` for windows,
#   `cluster_variation` for anything else.
# - Valid counts (sum 1 on every element) are necessary, and `validate()` checks them. They are not
#   sufficient: Bethe on pixels is valid, and improper from a correlation of 0.21 on.
# - Exact at $\sigma = 0$ needs a junction tree *and* data that is Markov to it. Loops can be
#   triangulated, at the price of larger pieces.
#
# ## Exercises
#
# 1. Three pieces $ab$, $bc$, $ca$ form a loop. Add the piece $abc$: what does cluster variation
#    make of it?
# 2. Compare `tiles((7, 7), 3, 2)` with `tiles((7, 7), 3, 1)` on `image(7, 0.8)` at $\sigma = 0$ and
#    $\sigma = 1$ (`composed_precision(graph, q, sigma)`). What do longer overlaps buy, and what do
#    they cost?
# 3. Join the band without a twist (`tiles(..., periodic=...)`), and make it so short that the two
#    ends feel each other all the way round. When does the posterior rule's law, on this loop, stop
#    being good?
#
# ## Where to go next
#
# "Infinite texture" (04) does this with a real model of image patches; "Validate your own topology"
# (08) with random graphs, and a wrong one that the laws catch.
