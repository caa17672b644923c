# %% [markdown]
# # Draw any graph with networkx
#
# The first lesson had chains. Here you draw what you have, as a networkx graph, and ask three
# questions of it:
#
# 1. what are its **counting numbers**, and what does `validate()` say about them;
# 2. is the composition **exact**, and if not, how wrong;
# 3. what if a node is too large for any model you have: **nested** graphs.
#
# As before the data is Gaussian, so that every answer can be checked against the truth.

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import torch

from pgmdiff import Posterior, compose
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.errors import GraphError
from pgmdiff.gaussian import Gaussian, composed_precision, node_covariances, node_scores
from pgmdiff.graphs import (
    FactorGraph,
    cluster_variation,
    cycle,
    fingerprint,
    from_json,
    grid,
    markov_random_field,
    nested_cubemap,
    star,
    tiles,
    to_json,
    tree,
)
from pgmdiff.plotting import curves, plot
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.testing import markov_gaussian

# %% [markdown]
# ## Networkx in
#
# Five stations along a river record its level for a day. At four of them every other hour (12
# values), at the lake three times (3 values). Nodes are bipartite, in networkx's own convention:
# `bipartite=0` is a variable, `bipartite=1` a factor. A variable may have a `shape`, and a `pos` to
# be drawn at.

# %%
river = nx.Graph()
places = {"source": (0, 2), "lake": (0, 0), "fork": (2, 1), "town": (4, 1), "mouth": (6, 1)}
for name, pos in places.items():
    river.add_node(name, bipartite=0, shape=(3,) if name == "lake" else (12,), pos=pos)
scopes = {
    "upper": ("source", "fork"),
    "side": ("lake", "fork"),
    "lower": ("fork", "town"),
    "delta": ("town", "mouth"),
}
for name, scope in scopes.items():
    river.add_node(name, bipartite=1)
    river.add_edges_from((name, station) for station in scope)

graph = FactorGraph.from_networkx(river)
print(graph)
print("counting numbers:", *(f"{n} {c:+d}" for n, c in graph.counting_numbers().items()))

# %% alt="The river: four factors +1 between five stations; fork −2, town −1, the others 0"
plot(graph, title="A river, as it was drawn")

# %% [markdown]
# The fork is in three factors, so that it counts $1 - 3 = -2$. Leaves count 0: they are never
# evaluated, and need no model of their own. A factor's model sees its stations one after the other,
# in the order in which the edges were added (or by an edge attribute `position`).
#
# A notebook draws a graph by itself where it ends a cell, as plain SVG with the names as tooltips:

# %%
graph

# %% [markdown]
# What is drawn wrongly is refused, with the remedy:

# %%
wrong = river.copy()
wrong.add_edge("source", "lake")
try:
    FactorGraph.from_networkx(wrong)
except GraphError as error:
    print(fill(str(error), 96))

# %% [markdown]
# ## The report, line by line

# %%
report = graph.validate()
print("\n".join(str(report).splitlines()[:6]))

# %% [markdown]
# 1. *Regions and elements*: 9 nodes over a state of 51 numbers; three leaves cost nothing.
# 2. *Counted once*: for each element, the counts of the nodes that hold it sum to 1. Bethe's always
#    do; counts of your own may not (next lesson).
# 3. *Berge-acyclic*: the drawing has no loop. *α-acyclic*: pieces can be joined into a tree, if
#    need be after merging what they share. *Junction tree*: they can, and the counts are the right
#    ones. This is what decides.
# 4. *A step* of a solver evaluates six models; the largest sees 24 numbers.
# 5. *Diameter*: how many pieces information has to pass from one end to the other.
# 6. *Gaussian proxy*: whether the composition is a proper distribution. On a junction tree always.
#
# The last line is the promise. It is all you need if you read only one; on loops a warning may
# follow it.

# %%
print(fill(report.promise, 96))
assert report.junction_tree
assert report.n_zero_counts == 3

# %% [markdown]
# ## Is it true?
#
# A truth for the river: levels fluctuate over the day with correlation $0.9$ between readings, and
# stations correlate by $0.8$ for each factor between them. The lake's readings are every fourth of
# the others'. Then the data is Markov to the graph, and the promise applies: at $\sigma = 0$
# the composed precision should be the true one.


# %%
def ar1(n: int, rho: float):
    place = torch.arange(n, dtype=torch.float64)
    return rho ** (place[:, None] - place).abs()


hops = dict(nx.all_pairs_shortest_path_length(river))
apart = torch.tensor([[hops[a][b] // 2 for b in places] for a in places], dtype=torch.float64)
everywhere = Gaussian(torch.zeros(5, 12, dtype=torch.float64), torch.kron(0.8**apart, ar1(12, 0.9)))
kept = torch.arange(60).reshape(5, 12)
read = [kept[k, ::4] if name == "lake" else kept[k] for k, name in enumerate(places)]
truth = everywhere.marginal(torch.cat(read))


def relative_error(graph, q: Gaussian, sigma: float = 0.0) -> float:
    true = torch.linalg.inv(q.noised(sigma).covariance)
    return ((composed_precision(graph, q, sigma) - true).abs().max() / true.abs().max()).item()


print(f"relative error at σ = 0: {relative_error(graph, truth):.0e}")
print(f"relative error at σ = 1: {relative_error(graph, truth, 1.0):.3f}")
assert relative_error(graph, truth) < 1e-10 < relative_error(graph, truth, 1.0)

# %% [markdown]
# ## A zoo
#
# The same question to other drawings. For each, `markov_gaussian` makes a random Gaussian that is
# Markov to it. Nothing has to be connected: two chains apart, or a variable in no factor (it counts
# +1 and needs a model), are graphs like others.

# %% alt="Six graphs: tree, star, two chains apart, isolated variable, loop, grid, with counts"
zoo = {
    "tree": tree(2, 2),
    "star": star(5),
    "two chains": FactorGraph.from_scopes({"f": ("a", "b"), "g": ("b", "c"), "h": ("d", "e")}),
    "isolated": FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (), "b": (), "c": ()}),
    "loop": cycle(5),
    "grid": grid(3, 3),
}


def draw_zoo() -> None:
    _, axes = plt.subplots(2, 3, figsize=(9, 6.4), layout="constrained")
    for ax, (name, each) in zip(axes.flat, zoo.items(), strict=True):
        plot(each, ax=ax, title=name, labels=False)


draw_zoo()

# %%
print(f"{'graph':12}{'components':>11}{'Berge':>7}{'junction tree':>15}{'σ = 0':>10}{'σ = 1':>8}")
for name, each in zoo.items():
    q, told = markov_gaussian(each, seed=0), each.validate()
    clean, noisy = relative_error(each, q), relative_error(each, q, 1.0)
    components = nx.number_connected_components(each.to_networkx())
    print(
        f"{name:12}{components:>11}{told.berge_acyclic!s:>7}{told.junction_tree!s:>15}"
        f"{clean:>10.0e}{noisy:>8.3f}"
    )
    assert (clean < 1e-10) == told.junction_tree

# %% [markdown]
# Without a loop the error at $\sigma = 0$ is rounding; with one it is not. At $\sigma = 1$ all have
# an error but the graph of a single pair, where nothing is composed.
#
# ## Loops: how wrong?
#
# It depends on how strongly neighbours are coupled. Take any graph $G$ of variables, with adjacency
# matrix $A$, and the Gaussian with precision $I - \beta A / \lambda_{\max}(A)$: no coupling at
# $\beta = 0$, all that is possible at $\beta \to 1$. `markov_random_field` makes a pair factor of
# every edge.


# %%
def field(G: nx.Graph, beta: float) -> Gaussian:
    """A Gaussian Markov to G, of unit variances."""
    A = torch.from_numpy(nx.to_numpy_array(G))
    covariance = torch.linalg.inv(torch.eye(len(A)) - beta * A / torch.linalg.eigvalsh(A)[-1])
    scale = covariance.diagonal().rsqrt()
    covariance = scale[:, None] * covariance * scale
    return Gaussian(torch.zeros(len(A), dtype=torch.float64), (covariance + covariance.T) / 2)


def smallest_eigenvalue(graph, q: Gaussian) -> float:
    return torch.linalg.eigvalsh(composed_precision(graph, q))[0].item()


networks = {
    "ring of 16": nx.cycle_graph(16),
    "ring of 4": nx.cycle_graph(4),
    "grid 4 × 4": nx.grid_2d_graph(4, 4),
    "all pairs of 5": nx.complete_graph(5),
}
fields = {name: markov_random_field(G) for name, G in networks.items()}
betas = np.linspace(0.05, 0.98, 32).tolist()
errors, smallest = {}, {}
for name, G in networks.items():
    laws = [field(G, beta) for beta in betas]
    errors[name] = betas, [relative_error(fields[name], q) for q in laws]
    smallest[name] = betas, [smallest_eigenvalue(fields[name], q) for q in laws]

# %% alt="Left: error grows with coupling, most for all pairs. Right: eigenvalues fall below zero"


def draw_coupling() -> None:
    _, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    x = "coupling β"
    curves(errors, xlabel=x, ylabel="relative error at σ = 0", log="y", ax=axes[0])
    curves(smallest, xlabel=x, ylabel="smallest eigenvalue", log="", ax=axes[1])
    axes[0].set_ylim(1e-6, 3)
    axes[0].set_title("Error of the composed precision", loc="left", fontsize=10)
    axes[1].set_title("Below zero it is no Gaussian", loc="left", fontsize=10)
    axes[1].axhline(0, color="#2b2b2b", lw=1)


draw_coupling()

# %%
for name in fields:
    first = next((b for b, low in zip(*smallest[name], strict=True) if low < 0), None)
    said = f"improper from β = {first:.2f} on" if first else "proper for every β tried"
    print(f"{name:16} error at β = {betas[-1]:.2f}: {errors[name][1][-1]:.3f}; {said}")
assert min(smallest["ring of 4"][1]) > 0 > min(smallest["grid 4 × 4"][1])
assert errors["ring of 16"][1][-1] < errors["ring of 4"][1][-1] < errors["grid 4 × 4"][1][-1]

# %% [markdown]
# A long ring is nearly a chain. Many short loops are bad, and worse than inaccurate: the composed
# precision gets negative eigenvalues, so that there is no distribution with this score. A
# sampler gives samples all the same, which are too large in that direction.

# %%
pairs_of_5 = fields["all pairs of 5"]
start = Gaussian(torch.zeros(5, dtype=torch.float64), 80.0**2 * torch.eye(5, dtype=torch.float64))
for beta in (0.2, 0.8, 0.95):
    q = field(networks["all pairs of 5"], beta)
    joint = compose(pairs_of_5, node_scores(pairs_of_5, q))
    law = distribution_reached(joint, karras(40, 0.002, 80.0), start, Heun())
    print(f"β = {beta}: variance of the samples {law.covariance[0, 0]:.2f}, of the truth 1.00")
assert law.covariance[0, 0] > 2

# %% [markdown]
# `validate()` warns of this before anything is sampled. It tries a Gaussian in which all blocks
# have one common correlation:

# %%
told = pairs_of_5.validate()
print(fill(told.warning, 96))
assert abs(told.proxy.proper_up_to - 1 / 3) < 1e-3

# %% [markdown]
# ## Two kinds of acyclic
#
# Two factors $f$ on $abc$ and $g$ on $bcd$ share *two* variables. As a drawing that is a loop, from
# $b$ by $f$ to $c$ and by $g$ back to $b$, so it is not Berge-acyclic. But there are only two
# pieces, and two pieces are always a tree: it is α-acyclic. What is wrong are the counts. Bethe
# takes $b$ and $c$ away one by one, as if they were independent; what is shared is the pair.

# %% alt="Left: two factors share b and c, a loop. Right: with the pair bc, count −1, a tree"
shared = FactorGraph.from_scopes({"f": ("a", "b", "c"), "g": ("b", "c", "d")})
as_pair = FactorGraph.from_scopes(
    {"f": ("a", "bc"), "g": ("bc", "d")}, {"a": (), "bc": (2,), "d": ()}
)


def draw_shared() -> None:
    _, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    plot(shared, ax=axes[0], title="b and c apart")
    plot(as_pair, ax=axes[1], title="one variable bc of two elements")


draw_shared()

# %%
q = markov_gaussian(shared, seed=0)
three = {
    "Bethe, b and c apart": shared,
    "Bethe, one variable bc": as_pair,
    "cluster variation": cluster_variation(shared),
}
for name, each in three.items():
    told, error = each.validate(), relative_error(each, q)
    print(f"{name:24} junction tree: {told.junction_tree!s:6} relative error at σ = 0: {error:.0e}")
    assert (error < 1e-10) == told.junction_tree
assert shared.validate().alpha_acyclic
assert not shared.validate().berge_acyclic

# %% [markdown]
# A variable may be a block, and should be one where variables are only ever shared together. Where
# that is not so, `cluster_variation` finds the counts, whatever the pieces: the next lesson.
#
# ## A node that is a graph
#
# Back to the river. Suppose you have no model of two stations over a whole day, 24 numbers, but one
# of two stations over *half* a day, 12 numbers. Then `lower` is itself a graph: windows of six
# readings that overlap by three. So is `fork`. Say so with the networkx attribute `graph`; element
# $j$ of the inner graph is the $j$-th number that the node's model would see.

# %%
days = nx.Graph(river)
for factor in ("upper", "lower", "delta"):
    days.nodes[factor]["graph"] = tiles(
        (2, 12), window=(2, 6), overlap=(0, 3)
    )  # stations, readings
for station in ("fork", "town"):
    days.nodes[station]["graph"] = tiles((12,), window=6, overlap=3)

nested = FactorGraph.from_networkx(days)
told = nested.validate()
print(nested)
print(f"largest region: {told.largest_region} elements; before: {graph.validate().largest_region}")
print(fill(told.promise, 96))

# %% alt="The river with windows and overlaps inside the nodes upper, lower, delta, fork and town"
plot(nested, title="Nodes that are graphs")

# %% [markdown]
# `flatten()` multiplies counts along the way down, and adds up equal leaves. Windows inside `lower`
# count $1 \cdot 1$, their overlaps $1 \cdot (-1)$. The fork counts -2, so its windows count
# $-2 \cdot 1 = -2$ and their overlaps $-2 \cdot (-1) = +2$.

# %%
flat = nested.flatten()
in_fork = {n[-1]: c for n, c in flat.counting_numbers().items() if "fork" in n}
print(flat)
print(f"in the fork: {in_fork}")
print(f"error at σ = 0: {relative_error(nested, truth):.0e}")
assert sorted(in_fork.values()) == [-2, -2, -2, 2, 2]
assert relative_error(nested, truth) < 1e-9
assert told.nested_exact

# %% [markdown]
# It is exact, level by level: the outer graph is a tree, pairs of stations are Markov in time, and
# so is each station. (`side`, whose lake is read at other times, stays whole, 15 numbers;
# `FactorGraph.nest` does from Python what the attribute does in a drawing.)
#
# The paper's cube map is nested with *loops* inside, and that is another matter. Three bands of
# four faces go around the cube.

# %% alt="Three bands as boxes with loops of four faces inside, three pairs of faces between them"
cube = nested_cubemap(2)
plot(cube, title="The nested cube map: bands +1, pairs of opposite faces −1")

# %%
told = cube.validate()
faces = {name: n for name, n in cube.flatten().counting_numbers().items() if len(name) == 1}
print(f"a face counts {set(faces.values())}, a pair of adjacent faces 1")
print(fill(told.warning, 96))
assert set(faces.values()) == {-3}


def six_faces(rho: float) -> Gaussian:
    common = (1 - rho) * torch.eye(6, dtype=torch.float64) + rho
    return Gaussian(
        torch.zeros(24, dtype=torch.float64), torch.kron(common, torch.eye(4, dtype=torch.float64))
    )


for rho in (0.2, 0.33, 0.34, 0.5):
    low = smallest_eigenvalue(cube, six_faces(rho))
    print(f"correlation of faces {rho}: smallest eigenvalue {low:.3f}")
assert smallest_eigenvalue(cube, six_faces(0.33)) > 0 > smallest_eigenvalue(cube, six_faces(0.34))

# %% [markdown]
# So it works for faces that resemble each other little, and not where they all share a sky of one
# colour.
#
# ## Sample, and unpack by name
#
# The state is one vector; `unpack` gives it back by name. Here with the posterior rule, the cure of
# the first lesson, on the drawn graph.

# %% alt="Two sampled days at five stations: each follows its neighbours along the river"
joint = compose(graph, node_scores(graph, truth), rule=Posterior(node_covariances(graph, truth)))
draws = 2000
u = sample(
    joint,
    karras(30, 0.002, 80.0),
    shape=(draws, graph.n_elements),
    solver=Heun(),
    generator=0,
    dtype=torch.float64,
)
levels = graph.unpack(u)
print({name: tuple(level.shape) for name, level in levels.items()})


def draw_days() -> None:
    _, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    colours = ("#8a8f94", "#3f9b57", "#2f7fbd", "#dd7a1f", "#2b2b2b")
    for day, ax in enumerate(axes):
        for (name, level), colour in zip(levels.items(), colours, strict=True):
            hours = np.linspace(0, 22, 12)[:: 4 if name == "lake" else 1]
            ax.plot(hours, level[day], "o-", ms=4, lw=1.4, color=colour, label=name)
        ax.set_xlabel("hour")
        ax.set_title(f"sample {day}", loc="left", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("level")
    axes[1].legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))


draw_days()

# %% [markdown]
# Neighbours on the river correlate by $0.8$, stations two factors apart by $0.64$, the ends by
# $0.51$. In a sample of 2000 the standard error of a correlation $r$ is $(1 - r^2) / \sqrt{2000}$.

# %%
for a, b in (("fork", "town"), ("lake", "town"), ("source", "mouth")):
    expected = 0.8 ** (hops[a][b] // 2)
    found = np.corrcoef(levels[a][:, 0], levels[b][:, 0])[0, 1]
    error = (1 - expected**2) / draws**0.5
    print(f"{a:6} and {b:5}: {found:.3f} sampled, {expected:.3f} true, standard error {error:.3f}")
    assert abs(found - expected) < 4 * error

# %% [markdown]
# ## Keep it
#
# A graph goes to JSON and back, and to networkx and back, with names, shapes, positions and nested
# graphs. `fingerprint` says whether two graphs are the same.

# %%
text = to_json(nested)
again = from_json(text)
round_trip = FactorGraph.from_networkx(nested.to_networkx())
print(f"{len(text)} characters of JSON; fingerprint {fingerprint(nested)[:16]}…")
assert fingerprint(nested) == fingerprint(again) == fingerprint(round_trip)
assert nested.to_networkx().nodes["town"]["pos"] == places["town"]

# %% [markdown]
# On the command line, `python -m pgmdiff check river.json` prints the report of such a file, and
# `python -m pgmdiff draw river.json river.png` draws it.
#
# ## What to remember
#
# - `validate()` before anything else; it says what is exact, for which data, and warns.
# - Acyclic drawings are exact at $\sigma = 0$ for data that is Markov to them. Loops are not, the
#   worse the shorter and the more of them, and can have no distribution at all.
# - Variables that are always shared together belong in one variable.
#
# ## Exercises
#
# 1. Add a factor between `source` and `lake` to the river. What does the report say now? Give
#    `truth` the new edge too (paths get shorter), and measure the error.
# 2. `hidden_markov(5)`: which counts does it have, which models does it need, and is it exact?
# 3. Close a tree of your own with one factor between two leaves. How does the error fall with the
#    length of the loop?
#
# ## Where to go next
#
# "Regions beyond Bethe" (03): images, whose windows share edges and corners; junction trees of
# graphs with loops.
