# %% [markdown]
# # Draw any graph with networkx
#
# Five gauges along a river record its level. You have data for a model of every pair of gauges that
# follow one another, and want whole days of the whole river: all gauges together, by name. Next
# year a canal will join two of them, which closes a loop. Which samples will you be able to trust?
# You would like to know before you train anything.
#
# You draw the river in networkx (1), ask the drawing what it promises (2), sample and look whether
# it keeps the promise (3), and add the canal (4). The data is Gaussian and stands for your own, so
# that the truth is known and all models are exact. The notebook takes about 8 seconds on one core.

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import networkx as nx
import torch

from pgmdiff import (
    Consistent,
    FactorGraph,
    Gaussian,
    GraphError,
    Marginal,
    advise,
    compose,
    karras,
    sample,
)
from pgmdiff.diagnostics import mean_and_error
from pgmdiff.gaussian import ar1, composed_precision, node_covariances, node_scores
from pgmdiff.plotting import plot

torch.set_num_threads(1)  # for matrices this small, several threads are slower than one

# %% [markdown]
# ## 1. Draw it
#
# Four gauges report every other hour (12 values); the one at the lake reports three times a day (3
# values). The drawing is bipartite, as networkx has it: `bipartite=0` marks a variable and
# `bipartite=1` a factor, which is a model of the variables that it is joined to. A variable may
# have a `shape`, and a place `pos` where it is drawn.

# %%
river = nx.Graph()
places = {"source": (0, 2), "lake": (0, 0), "fork": (1, 1), "town": (2, 1), "mouth": (3, 1)}
for name, pos in places.items():
    river.add_node(name, bipartite=0, shape=(3,) if name == "lake" else (12,), pos=pos)


def join(drawing: nx.Graph, **scopes: tuple[str, str]) -> None:
    for factor, gauges in scopes.items():
        drawing.add_node(factor, bipartite=1)
        drawing.add_edges_from((factor, gauge) for gauge in gauges)


join(river, upper=("source", "fork"), side=("lake", "fork"))
join(river, lower=("fork", "town"), delta=("town", "mouth"))
graph = FactorGraph.from_networkx(river)
print(graph)

# %% tags=["hide-input"] alt="Four factors (+1) between five gauges; fork −2, town −1, others 0"
plot(graph, title="The river: gauges are circles, models of pairs squares")

# %% [markdown]
# The number in a node says how often its score is added. The fork is in three pairs and must count
# once, so it counts 1 - 3 = -2 ([tutorial 01](01_bethe_approximation.ipynb) shows why). You need a
# model of every node that does not count 0: of four pairs, and of the fork and the town alone.
#
# A drawing that makes no sense is refused, and the error says what to do:

# %%
wrong = river.copy()
wrong.add_edge("source", "lake")
try:
    FactorGraph.from_networkx(wrong)
except GraphError as error:
    print(fill(str(error), 80))

# %% [markdown]
# ## 2. Ask it
#
# `validate` looks at the drawing alone. It says what a step costs, and what is exact:

# %%
report = graph.validate()
assert report.junction_tree
report

# %% [markdown]
# The regions can be joined into a tree (*junction tree: yes*). The rule that adds up scores,
# `Marginal`, is therefore exact at σ = 0 and an approximation above, for data that is *Markov* to
# the drawing: gauges that are not joined depend on each other only through those between them.
#
# How much the approximation costs depends on your data, and `advise` predicts it from a covariance,
# before anything is sampled. Here the levels of neighbours vary together and change slowly over the
# day:


# %%
def levels_of(drawing: nx.Graph) -> Gaussian:
    """Levels of unit variance that are Markov to the drawing, and to the hours of a day."""
    joined = nx.bipartite.projected_graph(drawing, places)
    A = torch.from_numpy(nx.to_numpy_array(joined, nodelist=list(places)))
    apart = torch.linalg.inv(torch.eye(5) - 0.9 * A / torch.linalg.eigvalsh(A)[-1])
    scale = apart.diagonal().rsqrt()
    apart = (scale * (apart + apart.T) / 2 * scale[:, None]).contiguous()
    every_hour = torch.kron(apart, ar1(12, 0.9).covariance)
    rows = torch.arange(60).reshape(5, 12)
    kept = [row[::4] if name == "lake" else row for name, row in zip(places, rows, strict=True)]
    return Gaussian(torch.zeros(60, dtype=torch.float64), every_hour).marginal(torch.cat(kept))


def error_at(sigma: float, graph: FactorGraph, q: Gaussian) -> float:
    """The largest error of the composed precision, relative to the largest true entry."""
    true = torch.linalg.inv(q.noised(sigma).covariance)
    return ((composed_precision(graph, q, sigma) - true).abs().max() / true.abs().max()).item()


truth = levels_of(river)
for sigma in (0.0, 1.0):
    print(f"error of the precision at σ = {sigma:g}: {error_at(sigma, graph, truth):.0e}")
assert error_at(0.0, graph, truth) < 1e-10
advise(graph, truth)

# %% [markdown]
# The promise is kept: at σ = 0 only rounding is left. But a sampler passes all levels above, and is
# predicted to lose something under `Marginal`, and nothing under `Consistent`.
#
# ## 3. Sample it
#
# The state is one vector, and `unpack` returns its parts by name. We draw ten sets of 300 days and
# compare the correlations of gauges with the true ones.

# %%
PAIRS = ("source", "fork"), ("source", "lake"), ("source", "town"), ("source", "mouth")
SETS, SIZE = range(10), 300


def correlations(days: dict[str, torch.Tensor]) -> list[float]:
    """Of pairs of gauges, at the three hours at which all of them report."""
    three = {name: level[:, :: level.shape[1] // 3] for name, level in days.items()}
    found = [[torch.stack([three[a][:, t], three[b][:, t]]) for t in range(3)] for a, b in PAIRS]
    return [sum(x.corrcoef()[0, 1].item() for x in each) / 3 for each in found]


def compared(graph: FactorGraph, truth: Gaussian) -> dict[str, list[tuple[float, float]]]:
    """The correlations of pairs: true, and sampled with two rules, with standard errors."""
    first, c = {name: graph.elements(name).reshape(-1)[0] for name in places}, truth.covariance
    rows = {"true": [(c[first[a], first[b]].item(), 0.0) for a, b in PAIRS]}
    for rule in (Marginal(), Consistent(node_covariances(graph, truth))):
        joint = compose(graph, node_scores(graph, truth), rule=rule)
        options = {"shape": (SIZE, graph.n_elements), "dtype": torch.float64}
        sets = [sample(joint, karras(20, 0.002, 80.0), generator=k, **options) for k in SETS]
        of_sets = [correlations(joint.unpack(u)) for u in sets]
        rows[type(rule).__name__] = [mean_and_error(each) for each in zip(*of_sets, strict=True)]
    print(f"{'':10}" + "".join(f"{a}, {b}".rjust(17) for a, b in PAIRS))
    print("true      " + "".join(f"{mean:9.3f}        " for mean, _ in rows["true"]))
    for name in ("Marginal", "Consistent"):
        print(f"{name:10}" + "".join("{:9.3f} ± {:.3f}".format(*each) for each in rows[name]))
    return rows


on_river = compared(graph, truth)

# %% [markdown]
# Under `Marginal` neighbours are less alike than they should be, and the two ends of the river
# hardly know each other. `Consistent` agrees with the truth, from the same models.
#
# ## 4. Add the canal
#
# One more factor, and source, fork and lake form a loop. The report changes:

# %%
canal = river.copy()
join(canal, canal=("source", "lake"))
looped, truth = FactorGraph.from_networkx(canal), levels_of(canal)
report = looped.validate()
print(fill(report.promise, 80))
print(f"error at σ = 0: {error_at(0.0, looped, truth):.2f}")
assert not report.junction_tree
assert error_at(0.0, looped, truth) > 0.05

# %% tags=["hide-input"] alt="The river with a canal: source, fork and lake form a loop"
plot(looped, title="With a canal: source, lake and fork form a loop")

# %%
on_loop = compared(looped, truth)
for rows, sign in ((on_river, -1), (on_loop, 1)):
    (true, _), (mean, error) = rows["true"][0], rows["Marginal"][0]
    assert sign * (mean - true) > 3 * error, "too weak on the tree, too strong on the loop"
    for (true, _), (mean, error) in zip(rows["true"], rows["Consistent"], strict=True):
        assert abs(mean - true) < 4 * error

# %% tags=["hide-input"] alt="Correlations of gauges: those of Consistent are the true ones"
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
styles = {"true": ("#2b2b2b", "_"), "Marginal": ("#dd7a1f", "s"), "Consistent": ("#2f7fbd", "o")}
titles = "river: Marginal is too weak", "with a canal: too strong on the loop, too weak beyond"
for axis, rows, title in zip(axes, (on_river, on_loop), titles, strict=True):
    for shift, (name, (colour, marker)) in zip((0, -0.12, 0.12), styles.items(), strict=True):
        mean, error = zip(*rows[name], strict=True)
        at, size = torch.arange(len(PAIRS)) + shift, 40 if name == "true" else 6
        axis.errorbar(at, mean, error, color=colour, fmt=marker, ms=size, label=name)
    axis.set_xticks(range(len(PAIRS)), [f"{a},\n{b}" for a, b in PAIRS])
    axis.set_title(title, loc="left", fontsize=10)
axes[0].set(ylabel="correlation of two gauges", ylim=(0, 1))
axes[1].legend(frameon=False, markerscale=0.5)
plt.show()

# %% [markdown]
# On a loop evidence comes back to where it started and is counted as new, so `Marginal` makes the
# gauges on it more alike than they are. Beyond the loop it still loses what is far away.
# `Consistent` is exact on loops, too, for Gaussian data; [tutorial
# 05](05_samples_that_are_right.ipynb) shows how far that goes for other data.
#
# ## What to remember
#
# - A drawing is enough to know what a composition promises: `validate` reads it without models or
#   data. Call it before you train.
# - `advise` adds a covariance of your data and predicts the loss of every rule, in nats.
# - Under `Marginal` the tree was too weak far away, and the loop too strong nearby as well.
#   `Consistent` was right on both, for Gaussian data.
#
# **To copy:** `FactorGraph.from_networkx(drawing)`, `.validate()`, `advise(graph,
# fit_covariances(graph, data))`, `joint.unpack(u)`.
#
# **Exercise.** Lead the canal from the source to the mouth, which makes the loop longer. Is
# `Marginal` still too strong between neighbours?
#
# **Where to go next.** The page [my graph](../my_graph.md) draws networks of variables alone,
# directed ones, and nodes that are graphs themselves; [save and load](../save.md) keeps a drawing.
# If pieces share *several* variables, as windows of images do, go on with [tutorial
# 03](03_beyond_bethe.ipynb).
