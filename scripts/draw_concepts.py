"""Draws the pictures of the concept pages into docs/images.

    python -m scripts.draw_concepts [NAME ...]

A NAME is that of a file without `concepts_` and its ending. Without names all are drawn, in a few
seconds. All that they show is computed here, in closed form where that is possible.
"""

from collections.abc import Callable, Hashable, Mapping
from itertools import count

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from pgmdiff import Consistent, compose
from pgmdiff.gaussian import Gaussian, GaussianMixture, ar1, composed_precision, node_scores
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, cycle, torus
from pgmdiff.linalg import Floats
from pgmdiff.plotting import curves, plot
from pgmdiff.plotting.style import INK, MIST, Sheet
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.testing import two_mode_chain
from scripts.pictures import IMAGES, rules_of, run

TINTS = ("#e3e6e9", "#c3d9ec", "#f6d9b8")
"""Backgrounds on which black figures are legible."""
EDGES = ("#08406e", "#dd7a1f", "#3f9b57")
SIGNED = LinearSegmentedColormap.from_list(
    "signed", ["#8f3e00", "#dd7a1f", "#fff", "#2f7fbd", "#08406e"]
)


def state() -> None:
    """A factor graph, the elements of its state, and what its factors see of them."""
    graph = FactorGraph.from_scopes(
        {"pose": ("torso", "arm"), "reach": ("arm", "hand")},
        shapes={"torso": (3,), "arm": (2, 2), "hand": ()},
    )
    figure = Sheet(figsize=(8.4, 2.4))
    plot(graph, ax=figure.add_axes((0.01, 0.14, 0.4, 0.84)))
    axes = _bare(figure.add_axes((0.44, 0.02, 0.55, 0.96)), (-2.3, 8.1), (4.25, -0.75))
    for name, tint, start, size in zip(
        graph.variables, TINTS, graph.offsets.tolist(), graph.sizes.tolist(), strict=False
    ):
        shape = graph.shapes[graph.variables.index(name)]
        axes.text(start + size / 2, -0.2, f"{name}\n{shape}", ha="center", va="bottom", fontsize=9)
        for element in range(start, start + size):
            _cell(axes, element, 0, str(element), tint)
    rows = {name: graph.regions.elements(name).tolist() for name in graph.factors}
    for row, (factor, seen) in enumerate(rows.items(), start=1):
        for place, element in enumerate(seen):
            variable = int(np.searchsorted(graph.offsets, element, side="right")) - 1
            _cell(axes, place, 1.55 * row, str(element), TINTS[variable])
        axes.text(-0.2, 1.55 * row + 0.5, f"{factor} sees", ha="right", va="center", fontsize=10)
    axes.text(-0.2, 0.5, "state u", ha="right", va="center", fontsize=10)
    _save(figure, "state")


def regions() -> None:
    """Three index arrays over one state, and the arrays that their models see."""
    u = np.arange(48).reshape(6, 8)
    pieces = {
        "window\nu[1:4, 1:4]": u[1:4, 1:4],
        "turned\nrot90(u[0:2, 5:8])": np.rot90(u[0:2, 5:8]),
        "reversed\nu[5, ::-1]": u[5, ::-1],
    }
    figure = Sheet(figsize=(8.4, 3.15))
    axes = _bare(figure.add_axes((0.01, 0.02, 0.46, 0.86)), (-0.1, 8.1), (6.1, -0.1))
    axes.set_title("the state, 6 × 8, and its elements", fontsize=10)
    for (row, column), element in np.ndenumerate(u):
        _cell(axes, column, row, str(element), "white", edge="#cfd2d6")
    for piece, edge in zip(pieces.values(), EDGES, strict=True):
        rows, columns = np.unravel_index(piece.ravel(), u.shape)
        corner = float(columns.min()) + 0.06, float(rows.min()) + 0.06
        wide, tall = float(np.ptp(columns)) + 0.88, float(np.ptp(rows)) + 0.88
        axes.add_patch(Rectangle(corner, wide, tall, fill=False, ec=edge, lw=2.6))
    right = _bare(figure.add_axes((0.51, 0.02, 0.48, 0.86)), (-0.1, 8.5), (6.15, -0.1))
    right.set_title("what the models see", fontsize=10)
    for (name, piece), edge, (x, y) in zip(
        pieces.items(), EDGES, ((0, 1.0), (5.2, 1.0), (0, 5.05)), strict=True
    ):
        array = np.atleast_2d(piece)
        for (row, column), element in np.ndenumerate(array):
            _cell(right, x + column, y + row, str(element), "white", edge="#cfd2d6")
        tall, wide = array.shape
        right.add_patch(Rectangle((x, y), wide, tall, fill=False, ec=edge, lw=2.6))
        right.text(x, y - 0.12, name, ha="left", va="bottom", fontsize=9, color=INK)
    _save(figure, "regions")


def naive() -> None:
    """Four tiles and their four shared edges: the middle is counted 4 - 4 = 0 times."""
    u = np.arange(28 * 28).reshape(28, 28)
    pieces = {(i, j): u[12 * i : 12 * i + 16, 12 * j : 12 * j + 16] for i in (0, 1) for j in (0, 1)}
    edges = {
        "top": u[:16, 12:16],
        "bottom": u[12:, 12:16],
        "left": u[12:16, :16],
        "right": u[12:16, 12:],
    }
    counts = dict.fromkeys(pieces, 1) | dict.fromkeys(edges, -1)
    graph = RegionGraph.from_regions({**pieces, **edges}, counts, event_shape=u.shape)
    figure = plot(graph, layout="counts")
    figure.set_size_inches(9.2, 9.2 * figure.get_figheight() / figure.get_figwidth())
    for axes in figure.axes:
        axes.title.set_fontsize(9)  # as long as the third is
    _save(figure, "naive")


def scores() -> None:
    """A distribution of two modes under noise: its density, its denoiser and its score."""
    data = GaussianMixture(
        torch.tensor([0.4, 0.6]).double(),
        [Gaussian(torch.tensor(m).double(), torch.eye(1).double() * 0.05) for m in (-1.0, 1.0)],
    )
    x = torch.linspace(-2.6, 2.6, 261).double()
    quantities: Mapping[str, tuple[str, Callable[[float], Tensor]]] = {
        "noised density q_σ": ("density", lambda sigma: data.log_density(x, sigma).exp()),
        "denoiser D = E[x₀ | x_σ = x]": ("D(x, σ)", lambda sigma: data.denoise(x, sigma)),
        "score s = (D - x) / σ²": ("s(x, σ)", lambda sigma: data.score(x, sigma)),
    }
    figure = Sheet(figsize=(9.2, 3.2), layout="constrained")
    for axes, (title, (ylabel, of)) in zip(figure.subplots(1, 3), quantities.items(), strict=True):
        if ylabel == "D(x, σ)":
            axes.plot(x, x, ":", color=MIST, lw=1.2, label="D = x: nothing removed")
        for sigma, colour, line in (
            (0.2, "#08406e", "-"),
            (0.6, "#2f7fbd", "--"),
            (2.0, "#79b8e3", "-."),
        ):
            axes.plot(x, of(sigma), line, color=colour, lw=2, label=f"σ = {sigma:g}")
        axes.set_title(title, loc="left", fontsize=10)
        axes.set(xlabel="x", ylabel=ylabel)
        axes.grid(True, color="#e3e6e9", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    _save(figure, "scores")


def rules() -> None:
    """How far correlation reaches in samples of each rule; exact, since all steps are linear."""
    n, rho, middle = 61, 0.95, 30
    data, graph, sigmas = ar1(n, rho), chain(n), karras(60, 0.002, 80.0)
    chosen = rules_of(graph, data)
    distance = list(range(21))
    drawn = {}
    for name in ("average", "marginal", "posterior"):
        joint = compose(graph, node_scores(graph, data), rule=chosen[name])
        reached = sample(joint, sigmas, x=80.0 * torch.eye(n).double(), solver=Heun())
        covariance = reached.T @ reached
        spread = covariance.diagonal().sqrt()
        correlation = covariance[middle] / spread[middle] / spread
        drawn[name] = distance, [float(correlation[middle + d]) for d in distance]
    drawn["exact samples"] = distance, [rho**d for d in distance]
    figure = curves(
        drawn,
        xlabel="distance between variables",
        ylabel="correlation of samples",
        title="A chain of 61 variables, pair factors, ρ = 0.95; Heun, 60 levels",
        log="",
    )
    _save(figure, "rules")


def messages() -> None:
    """What the pieces of a chain of modes say of one noised state, before and after messages."""
    titles = {
        False: "Before messages: the pieces disagree",
        True: "At the fixed point of messages: they agree",
    }
    figure, places = Sheet(figsize=(8.4, 4.2), layout="constrained"), range(6)
    both = figure.subplots(1, 2, sharey=True)
    for axes, (agreed, title) in zip(both, titles.items(), strict=True):
        u, exact, composed, said = denoised(agreed=agreed)
        axes.axhline(0, color="#e3e6e9", lw=0.8, zorder=0)
        for place, name in enumerate(name for name in said if len(said[name][0]) == 2):
            axes.plot(*said[name], "o-", color=EDGES[place % 2], ms=5, lw=2.2)
        single = np.concatenate([seen for seen in said.values() if len(seen[0]) == 1], axis=1)
        axes.plot(*single, "D", color=EDGES[2], ms=5, label="variables")
        axes.plot(places, composed, "_", color=INK, ms=20, mew=2, label="composed")
        ring = {"mfc": "none", "mec": INK, "ms": 13, "mew": 1.3}
        axes.plot(places, exact, "o", **ring, label="exact posterior mean")
        axes.plot(places, u, "x", color=MIST, ms=7, mew=1.6, label="noised state, σ = 2")
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xticks(places, [f"x{place}" for place in places])
        axes.spines[["top", "right"]].set_visible(False)
    both[0].set_ylabel("denoised value")
    handles, labels = both[0].get_legend_handles_labels()
    pair = Line2D([], [], color=EDGES[0], marker="o", ms=5, lw=2.2)
    handles, labels = [pair, *handles], ["pairs", *labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    _save(figure, "messages")


def denoised(*, agreed: bool) -> tuple[Tensor, Tensor, Tensor, dict[Hashable, Floats]]:
    """A noised state of a chain of six, its exact denoised values, those composed, and the pieces'.

    A piece has two rows: the places of its elements, and their values, without messages or
    (`agreed`) at their fixed point.
    """
    data, sigma = two_mode_chain(6), 2.0
    graph = chain(6, factor_model="pair", variable_model="single")
    covariances = {"pair": data.covariance[:2, :2], "single": data.covariance[:1, :1]}
    joint = compose(graph, data.models, rule=Consistent(covariances))
    rule, u = joint.rule, torch.tensor([[-1.4, -2.8, -0.9, 5.2, 0.3, 4.5]]).double()
    assert isinstance(rule, Consistent)
    level = torch.full_like(u[:, 0], sigma)
    etas = rule.converged(joint.evaluate, u, level).messages if agreed else None
    score, _, answers = rule.heard(joint.evaluate, u, level, None, etas)
    composed, said = u + sigma**2 * score, {}
    for chunk, _, gap, _ in answers:
        means = (chunk.gather(composed) - sigma**2 * gap)[0]
        index = chunk.index.reshape(means.shape)
        for row, places, values in zip(count(chunk.start), index, means, strict=False):
            said[chunk.batch.group.name(row)] = torch.stack([places, values]).numpy()
    return u[0], (u + sigma**2 * data(u, sigma))[0], composed[0], said


def exactness() -> None:
    """Precisions of a noised chain: what is exact, and what the marginal rule composes."""
    graph, data = chain(12), ar1(12, 0.9)
    figure = Sheet(figsize=(9.6, 5.6))
    scale = SymLogNorm(0.01, vmin=-12, vmax=12)
    grid = figure.subplots(2, 3)
    for row, sigma in zip(grid, (0.0, 0.5), strict=True):
        exact = torch.linalg.inv(data.noised(sigma).covariance)
        composed = composed_precision(graph, data, sigma)
        shown = {"exact": exact, "composed from pairs": composed, "difference": composed - exact}
        for axes, (title, matrix) in zip(row, shown.items(), strict=True):
            axes.imshow(matrix, cmap=SIGNED, norm=scale)
            axes.set(xticks=[], yticks=[])
            largest = float(matrix.abs().max())
            axes.set_title(f"σ = {sigma:g}: {title}", fontsize=10)
            axes.set_xlabel(
                f"largest entry {largest:.2g}" if largest > 1e-9 else "0, to rounding", fontsize=9
            )
            axes.spines[:].set_color(MIST)
    figure.subplots_adjust(0.01, 0.07, 0.87, 0.94, hspace=0.3, wspace=0.05)
    bar = figure.colorbar(
        ScalarMappable(scale, SIGNED), cax=figure.add_axes((0.9, 0.1, 0.018, 0.8))
    )
    labels = ["−10", "−1", "−0.1", "0", "0.1", "1", "10"]
    bar.set_ticks([-10, -1, -0.1, 0, 0.1, 1, 10], labels=labels)
    bar.set_label("entry of the precision", fontsize=9)
    _save(figure, "exactness")


def loops() -> None:
    """The composed precision of variables that all correlate by ρ, and where it is none."""
    rhos = np.linspace(0, 0.95, 20).tolist()
    graphs = {"chain(16)": chain(16), "cycle(16)": cycle(16), "torus(4, 4)": torus(4, 4)}
    drawn = {}
    for name, graph in graphs.items():
        ones = torch.ones(16, 16).double()
        data = [Gaussian(ones[0] * 0, rho * ones + (1 - rho) * torch.eye(16)) for rho in rhos]
        eigenvalues = (torch.linalg.eigvalsh(composed_precision(graph, q)) for q in data)
        drawn[name] = rhos, [float(each[0]) for each in eigenvalues]
    figure = curves(
        drawn,
        xlabel="correlation ρ of every pair of the 16 variables",
        ylabel="smallest eigenvalue of P",
        title="Composed precision at σ = 0: below zero there is no distribution",
        limit=("0", 0.0),
        log="",
    )
    figure.axes[0].set_ylim(-1.1, 1.1)
    _save(figure, "loops")


def _bare(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> Axes:
    """Axes for a drawing: square cells, no frame."""
    axes.set(xlim=x, ylim=y, aspect="equal")
    axes.axis("off")
    return axes


def _cell(axes: Axes, x: float, y: float, text: str, tint: str, edge: str = "#8a8f94") -> None:
    axes.add_patch(Rectangle((x, y), 1, 1, fc=tint, ec=edge, lw=0.8))
    axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=9, color=INK)


def _save(figure: Figure, name: str) -> None:
    figure.savefig(IMAGES / f"concepts_{name}.png", dpi=120)


PICTURES: Mapping[str, Callable[[], None]] = {
    each.__name__: each
    for each in (state, regions, naive, scores, rules, messages, exactness, loops)
}


if __name__ == "__main__":
    run(PICTURES, __doc__)
