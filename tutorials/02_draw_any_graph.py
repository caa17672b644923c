# %% [markdown]
# # Draw any graph with networkx
#
# Tutorial 01 looked at chains. Here you draw a graph of your own in networkx and answer three
# questions about it:
#
# 1. Which **counting numbers** does it have, and what does `validate()` say about them?
# 2. Is the composition **exact**, and if not, how wrong is it?
# 3. What can you do if a node is too large for any model you have? (**Nested** graphs.)
#
# The data is again Gaussian, so that every answer can be checked against the truth.

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import torch

from pgmdiff import (
    FactorGraph,
    Gaussian,
    GraphError,
    Posterior,
    cluster_variation,
    compose,
    karras,
    sample,
    tiles,
)
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import ar1, composed_precision, node_covariances, node_scores
from pgmdiff.graphs import (
    cycle,
    fingerprint,
    from_json,
    grid,
    markov_random_field,
    nested_cubemap,
    star,
    to_json,
    tree,
)
from pgmdiff.plotting import curves, plot
from pgmdiff.samplers import Heun
from pgmdiff.testing import markov_gaussian

# %% [markdown]
# ## From networkx
#
# Five stations along a river record its level for one day. Four of them report every other hour (12
# values); the station at the lake reports three times (3 values). The nodes are bipartite, in the
# convention of networkx: `bipartite=0` marks a variable and `bipartite=1` a factor. A variable may
# have a `shape`, and a position `pos` at which it is drawn.

# %%
river = nx.Graph()
places = {"source": (0, 3), "lake": (2, 3), "fork": (1, 2), "town": (1, 1), "mouth": (1, 0)}
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

# %% alt="The river: four factors (+1) between five stations; fork −2, town −1, the others 0"
plot(graph, title="A river as a factor graph")

# %% [markdown]
# The fork belongs to three factors, so it counts $1 - 3 = -2$. Leaves count 0: they are never
# evaluated and need no model of their own. The model of a factor sees its stations one after the
# other, in the order of the graph's nodes (or by the edge attribute `position`).
#
# If a cell ends with a graph, a notebook draws it:

# %%
graph

# %% [markdown]
# A drawing that makes no sense is refused, and the error says how to fix it:

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
# 1. *Regions and elements*: there are 9 nodes over a state of 51 numbers. Three leaves cost
#    nothing.
# 2. *Counted once*: for each element, the counts of the nodes that contain it sum to 1. Bethe's
#    counting numbers always satisfy this; numbers of your own may not (see tutorial 03).
# 3. *Berge-acyclic* means that the drawing has no loop. *α-acyclic* means that the pieces can be
#    joined into a tree, if necessary after merging what they share. *Junction tree* means that they
#    can be joined and have the right counting numbers. This last property is the one that matters.
# 4. *One step* of a solver evaluates six models; the largest one sees 24 numbers.
# 5. *Diameter* is the number of pieces that information passes through from one end to the other.
# 6. *Gaussian proxy* says whether the composition is a proper distribution. On a junction tree it
#    always is.
#
# The most important part is the promise at the end of the report. On graphs with loops a warning
# may follow it.

# %%
print(fill(report.promise, 96))
assert report.junction_tree
assert report.n_zero_counts == 3

# %% [markdown]
# ## Is it true?
#
# Let us construct a true distribution for the river. Levels fluctuate over the day with a
# correlation of $0.9$ between successive readings, and the correlation of two stations is $0.8$ to
# the power of the number of factors between them. The readings at the lake coincide with every
# fourth reading elsewhere. Such data is Markov to the graph, so the promise applies: at
# $\sigma = 0$ the composed precision should be the true one.


# %%
hops = dict(nx.all_pairs_shortest_path_length(river))
apart = torch.tensor([[hops[a][b] // 2 for b in places] for a in places], dtype=torch.float64)
everywhere = Gaussian(
    torch.zeros(5, 12, dtype=torch.float64), torch.kron(0.8**apart, ar1(12, 0.9).covariance)
)
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
# ## A zoo of graphs
#
# The next cell asks the same question about six other graphs. For each of them, `markov_gaussian`
# constructs a random Gaussian that is Markov to it. A graph need not be connected: it may consist
# of two separate chains, or contain a variable without any factor (which counts +1 and needs a
# model of its own).

# %% alt="Six graphs with their counts: tree, star, two chains, isolated variable, loop, grid"
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
    q, report = markov_gaussian(each, seed=0), each.validate()
    clean, noisy = relative_error(each, q), relative_error(each, q, 1.0)
    components = nx.number_connected_components(each.to_networkx())
    print(
        f"{name:12}{components:>11}{report.berge_acyclic!s:>7}{report.junction_tree!s:>15}"
        f"{clean:>10.0e}{noisy:>8.3f}"
    )
    assert (clean < 1e-10) == report.junction_tree

# %% [markdown]
# On graphs without loops the error at $\sigma = 0$ is a rounding error; on the loop and on the grid
# it is not. At $\sigma = 1$ every graph has an error, except for the graph with a single pair, in
# which nothing is composed.
#
# ## Loops: how wrong are they?
#
# That depends on how strongly neighbours are coupled. Take any graph $G$ of variables with
# adjacency matrix $A$, and the Gaussian with precision $I - \beta A / \lambda_{\max}(A)$. At
# $\beta = 0$ there is no coupling, and $\beta \to 1$ is the strongest coupling possible.
# `markov_random_field` turns every edge into a pair factor.


# %%
def field(G: nx.Graph, beta: float) -> Gaussian:
    """A Gaussian of unit variances that is Markov to G."""
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
    truths = [field(G, beta) for beta in betas]
    errors[name] = betas, [relative_error(fields[name], q) for q in truths]
    smallest[name] = betas, [smallest_eigenvalue(fields[name], q) for q in truths]

# %% alt="Left: errors grow with coupling, most for all pairs. Right: eigenvalues fall below 0"


def draw_coupling() -> None:
    _, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    x = "coupling β"
    curves(errors, xlabel=x, ylabel="relative error at σ = 0", log="y", ax=axes[0])
    curves(smallest, xlabel=x, ylabel="smallest eigenvalue", log="", ax=axes[1])
    axes[0].set_ylim(1e-6, 3)
    axes[0].set_title("Error of the composed precision", loc="left", fontsize=10)
    axes[1].set_title("Below zero it is not a precision", loc="left", fontsize=10)
    axes[1].axhline(0, color="#2b2b2b", lw=1)


draw_coupling()

# %%
for name in fields:
    first = next((b for b, low in zip(*smallest[name], strict=True) if low < 0), None)
    proper = f"improper from β = {first:.2f}" if first else "proper at every β in the figure"
    print(f"{name:16} error at β = {betas[-1]:.2f}: {errors[name][1][-1]:.3f}; {proper}")
assert min(smallest["ring of 4"][1]) > 0 > min(smallest["grid 4 × 4"][1])
assert errors["ring of 16"][1][-1] < errors["ring of 4"][1][-1] < errors["grid 4 × 4"][1][-1]

# %% [markdown]
# A long ring is nearly a chain. Many short loops are worse than inaccurate: the composed precision
# acquires negative eigenvalues, so no distribution has this score. A sampler still returns samples,
# but they are much too large in the directions concerned. (The rule `Consistent` replaces the
# composed precision by another, and is exact on these graphs: see tutorial 05.)

# %%
pairs_of_5 = fields["all pairs of 5"]
start = Gaussian(torch.zeros(5, dtype=torch.float64), 80.0**2 * torch.eye(5, dtype=torch.float64))
for beta in (0.2, 0.8, 0.95):
    q = field(networks["all pairs of 5"], beta)
    joint = compose(pairs_of_5, node_scores(pairs_of_5, q))
    reached = distribution_reached(joint, karras(40, 0.002, 80.0), start, Heun())
    print(f"β = {beta}: variance of the samples {reached.covariance[0, 0]:.2f}, of the truth 1.00")
assert reached.covariance[0, 0] > 2

# %% [markdown]
# `validate()` warns of this before anything is sampled. It tests a Gaussian in which all variables
# have one common correlation:

# %%
report = pairs_of_5.validate()
print(fill(report.warning, 96))
assert abs(report.proxy.improper_above - 1 / 3) < 1e-3

# %% [markdown]
# ## Two kinds of acyclic
#
# Two factors, $f$ on $abc$ and $g$ on $bcd$, share *two* variables. Drawn as a graph they form a
# loop, from $b$ through $f$ to $c$ and through $g$ back to $b$, so the graph is not Berge-acyclic.
# But two pieces always form a tree, so it is α-acyclic. What is wrong are the counts: Bethe
# subtracts $b$ and $c$ separately, as if they were independent, although the factors share them as
# a pair.

# %% alt="Left: two factors share b and c, a loop. Right: they share the pair bc (−1), a tree"
shared = FactorGraph.from_scopes({"f": ("a", "b", "c"), "g": ("b", "c", "d")})
as_pair = FactorGraph.from_scopes(
    {"f": ("a", "bc"), "g": ("bc", "d")}, {"a": (), "bc": (2,), "d": ()}
)


def draw_shared() -> None:
    _, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    plot(shared, ax=axes[0], title="b and c as separate variables")
    plot(as_pair, ax=axes[1], title="bc as one variable with two elements")


draw_shared()

# %%
q = markov_gaussian(shared, seed=0)
three = {
    "Bethe, b and c separate": shared,
    "Bethe, one variable bc": as_pair,
    "cluster variation": cluster_variation(shared),
}
for name, each in three.items():
    tree_like, error = each.validate().junction_tree, relative_error(each, q)
    print(f"{name:24} junction tree: {tree_like!s:6} relative error at σ = 0: {error:.0e}")
    assert (error < 1e-10) == tree_like
assert shared.validate().alpha_acyclic
assert not shared.validate().berge_acyclic

# %% [markdown]
# A variable may be a block of several elements, and should be one if factors only ever share these
# elements together. In all other cases `cluster_variation` finds the right counts, whatever the
# pieces are. It is the subject of tutorial 03.
#
# ## A node that is itself a graph
#
# Back to the river. Suppose that you have no model of two stations over a whole day (24 numbers),
# but one of two stations over *half* a day (12 numbers). Then `lower` is itself a graph: a row of
# windows of six readings that overlap by three. The same holds for `fork`. The networkx attribute
# `graph` expresses this; element $j$ of the inner graph is the $j$-th number that a model of the
# node would see.

# %%
days = nx.Graph(river)
for factor in ("upper", "lower", "delta"):
    # axes: stations, readings
    days.nodes[factor]["graph"] = tiles((2, 12), window=(2, 6), overlap=(0, 3))
for station in ("fork", "town"):
    days.nodes[station]["graph"] = tiles((12,), window=6, overlap=3)

nested = FactorGraph.from_networkx(days)
report = nested.validate()
print(nested)
before = graph.validate().largest_region
print(f"largest region: {report.largest_region} elements instead of {before}")
print(fill(report.promise, 96))
assert report.nested_exact

# %% alt="The river, with windows and overlaps inside the nodes upper, lower, delta, fork, town"
plot(nested, title="Some nodes are graphs", labels=True)

# %% [markdown]
# `flatten()` multiplies the counts along the way down and merges equal leaves. The windows inside
# `lower` count $1 \cdot 1$, their overlaps $1 \cdot (-1)$. The fork counts -2, so its windows count
# $-2 \cdot 1 = -2$ and their overlaps $-2 \cdot (-1) = +2$.

# %%
flat = nested.flatten()
in_fork = {n[-1]: c for n, c in flat.counting_numbers().items() if "fork" in n}
print(flat)
print(f"in the fork: {in_fork}")
print(f"relative error at σ = 0: {relative_error(nested, truth):.0e}")
assert sorted(in_fork.values()) == [-2, -2, -2, 2, 2]
assert relative_error(nested, truth) < 1e-9

# %% [markdown]
# The composition is exact at every level: the outer graph is a tree, pairs of stations are Markov
# in time, and so is each station. (`side` stays whole, with 15 numbers, because readings at the
# lake are taken at other times. From Python, `FactorGraph.nest` does what the attribute does in a
# networkx graph.)
#
# The cube map of the DiffCollage paper is nested as well, but has *loops* inside its nodes. Three
# bands of four faces run around the cube.

# %% alt="Three boxes (bands), each with a loop of four faces inside, and three pairs of faces"
cube = nested_cubemap(2)
plot(cube, title="The nested cube map: bands +1, pairs of opposite faces −1")

# %%
counts = cube.flatten().counting_numbers()
faces = {name: count for name, count in counts.items() if len(name) == 1}
pairs = {name: count for name, count in counts.items() if len(name) > 1 and count}
print(
    f"flattened: faces count {set(faces.values())}, pairs of adjacent faces {set(pairs.values())}"
)
print(fill(cube.validate().warning, 96))
assert set(faces.values()) == {-3}
assert set(pairs.values()) == {1}


def six_faces(rho: float) -> Gaussian:
    """Faces of four elements; the same element of two different faces has correlation `rho`."""
    common = (1 - rho) * torch.eye(6, dtype=torch.float64) + rho
    return Gaussian(
        torch.zeros(24, dtype=torch.float64), torch.kron(common, torch.eye(4, dtype=torch.float64))
    )


for rho in (0.2, 0.33, 0.34, 0.5):
    low = smallest_eigenvalue(cube, six_faces(rho))
    print(f"correlation of the faces {rho}: smallest eigenvalue {low:.3f}")
assert smallest_eigenvalue(cube, six_faces(0.33)) > 0 > smallest_eigenvalue(cube, six_faces(0.34))

# %% [markdown]
# So under this rule the graph works for faces that have little in common, but not if, for example,
# all faces share a sky of one colour.
#
# ## Sample, and unpack by name
#
# The state is one vector, and `unpack` returns its parts by name. Here we sample from the graph of
# the river with the posterior rule, the remedy of tutorial 01.

# %% alt="Two sampled days at five stations: each station follows its neighbours on the river"
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
# Neighbouring stations have a correlation of $0.8$, stations two factors apart $0.64$, and the two
# ends $0.51$. For 2000 samples the standard error of a correlation $r$ is
# $(1 - r^2) / \sqrt{2000}$.

# %%
for a, b in (("fork", "town"), ("lake", "town"), ("source", "mouth")):
    expected = 0.8 ** (hops[a][b] // 2)
    found = np.corrcoef(levels[a][:, 0], levels[b][:, 0])[0, 1]
    error = (1 - expected**2) / draws**0.5
    print(f"{a:6} and {b:5}: {found:.3f} sampled, {expected:.3f} true, standard error {error:.3f}")
    assert abs(found - expected) < 4 * error

# %% [markdown]
# ## Save it
#
# A graph can be written to JSON and to networkx, and read again, with its names, shapes, positions
# and nested graphs. Two graphs are the same if their fingerprints are equal.

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
# - Call `validate()` before anything else. It says what is exact and for which data, and it warns.
# - Under the paper's rule acyclic graphs are exact at $\sigma = 0$ for data that is Markov to them.
#   Graphs with loops are not. The error grows with the number of loops and with the coupling, and
#   falls with their length; with many short loops there may be no distribution at all.
# - Variables that are always shared together should be one variable.
#
# ## Exercises
#
# 1. Add a factor between `source` and `lake` to the river. What does the report say now? Give
#    `truth` the new edge as well (paths become shorter), and measure the error.
# 2. Which counting numbers does `hidden_markov(5)` have, which models does it require, and is it
#    exact?
# 3. Turn a tree of your own into a graph with one loop by adding a factor between two leaves. How
#    does the error fall with the length of the loop?
#
# ## Where to go next
#
# "Regions beyond Bethe" (03) is about images, whose windows share edges and corners, and about
# junction trees of graphs with loops.
