"""Pictures of all kinds are legible, and what cannot be drawn is refused."""

from collections.abc import Callable

import networkx as nx
import pytest
import torch
from matplotlib.figure import Figure

from pgmdiff import GraphError, ShapeError
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    cubemap,
    cycle,
    grid,
    junction_tree,
    nested_cubemap,
    star,
    tiles,
    torus,
    tree,
)
from pgmdiff.plotting import flow, plot, strips
from tests.plotting.helpers import KIKUCHI, check_legible, scattered

SMALL: dict[str, Callable[[], Figure]] = {
    "chain": lambda: plot(chain(3)),
    "bipartite": lambda: plot(chain(3), layout="bipartite", title="a chain"),
    "one": lambda: plot(chain(1)),
    "nothing": lambda: plot(chain(0)),
    "folded": lambda: plot(chain(40)),
    "cycle": lambda: plot(cycle(6)),
    "star": lambda: plot(star(8)),
    "tree": lambda: plot(tree(2, 4)),
    "grid": lambda: plot(grid(4, 5)),
    "grid of three axes": lambda: plot(grid(3, 3, 3)),
    "torus": lambda: plot(torus(4, 4)),
    "scattered": lambda: plot(scattered(20, 20)),
    "long names": lambda: plot(
        FactorGraph.from_scopes(
            {"likelihood_of_y": ("parameter", "observation"), "prior of $θ$": ("parameter",)}
        )
    ),
    "kikuchi": lambda: plot(cluster_variation(KIKUCHI)),
    "junction tree": lambda: plot(junction_tree(KIKUCHI, max_clique=4)),
    "nested": lambda: plot(nested_cubemap(4)),
    "strip": lambda: plot(tiles((64,), 24, 4)),
    "tiles": lambda: plot(tiles((3, 52, 64), (3, 16, 16), (0, 4, 4)), title="4 × 5 windows"),
    "halves": lambda: plot(tiles((48, 48), 16, 8)),
    "ring": lambda: plot(tiles((16, 64), (16, 16), (0, 8), (False, True))),
    "counts": lambda: plot(tiles((52, 64), 16, 4), layout="counts", title="counts"),
    "cube": lambda: plot(cubemap(16)),
    "cube of strips": lambda: plot(cubemap(16, 4)),
    "cube of pairs": lambda: plot(cubemap(8, 8)),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_pictures_are_legible(name: str) -> None:
    check_legible(SMALL[name]())


LARGE: dict[str, Callable[[], Figure]] = {
    "scattered": lambda: plot(scattered(150, 150)),
    "rows": lambda: plot(scattered(150, 150), layout="bipartite"),
    "tree": lambda: plot(tree(2, 7)),
    "cycle": lambda: plot(cycle(150)),
    "star": lambda: plot(star(150)),
    "intervals": lambda: plot(cluster_variation([range(i, i + 4) for i in range(150)])),
    "windows": lambda: plot(tiles((124, 124), 16, 4), labels=False),
    "narrow windows": lambda: plot(tiles((16, 3604), (16, 16), (0, 4))),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_pictures_are_legible(name: str) -> None:
    figure = LARGE[name]()
    check_legible(figure, least=4.9)
    assert max(figure.get_size_inches()) < 15


@pytest.mark.parametrize(
    ("graph", "layout"),
    [(chain(3), "auto"), (nested_cubemap(4), "auto"), (tiles((28, 28), 16, 4), "tiles"),
     (tiles((28, 28), 16, 4), "counts"), (cubemap(8), "cube"),
     (cluster_variation(KIKUCHI), "hasse")],
)  # fmt: skip
def test_graphs_are_drawn_on_given_axes(graph: FactorGraph | RegionGraph, layout: str) -> None:
    figure = Figure(figsize=(10, 5))
    left, right = figure.subplots(1, 2)
    assert plot(graph, layout=layout, ax=right, title="here") is figure  # type: ignore[arg-type]
    assert right.get_title() == "here"
    assert right.get_legend() is not None
    assert not left.texts
    figure.draw_without_rendering()


def test_notebooks_show_a_figure() -> None:
    assert plot(chain(2))._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(GraphError, match="at most 3000 nodes, got 3999"):
        plot(chain(2000))
    with pytest.raises(GraphError, match="layout='counts'"):
        plot(tiles((4000,), 1))
    plot(tiles((4000,), 1), layout="counts")
    with pytest.raises(GraphError, match="expected a layout of"):
        plot(chain(3), layout="tiles")
    with pytest.raises(GraphError, match="expected a layout of"):
        plot(tiles((8,), 4, 2), layout="spatial")
    apart = RegionGraph.from_regions({"a": [0, 2], "b": [1, 3]}, {"a": 1, "b": 1}, event_shape=(4,))
    with pytest.raises(GraphError, match="'a' is no box"):
        plot(apart, layout="tiles")
    with pytest.raises(GraphError, match=r"\[6, n, n\]"):
        plot(tiles((8, 8), 4), layout="cube")
    with pytest.raises(GraphError, match="image"):
        plot(chain(3), image=torch.zeros(3, 3))
    with pytest.raises(ShapeError, match=r"\[8, 8\]"):
        plot(tiles((8, 8), 4), image=torch.zeros(8, 9))
    with pytest.raises(ShapeError, match="F, B, L, R, U, D"):
        plot(cubemap(8), image=torch.zeros(8, 8))
    with pytest.raises(GraphError, match=r"got DiGraph.*moral_graph"):
        plot(nx.DiGraph([("x", "z"), ("y", "z")]))
    with pytest.raises(GraphError, match="got int"):
        plot(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["$", "a $b$", r"$\nothing{$"])
def test_titles_and_captions_are_no_mathematics(text: str, tmp_path) -> None:
    image = torch.zeros(4, 8)
    drawn = [
        plot(chain(3), title=text),
        plot(tiles((8, 8), 4), title=text),
        plot(tiles((8, 8), 4), title=text, layout="counts"),
        plot(chain(3), title=text, ax=Figure().subplots()),
        plot(tiles((8, 8), 4), title=text, layout="counts", ax=Figure().subplots()),
        plot(FactorGraph.from_scopes({f"{text} f": (text, "y")}), title=text),
        strips({text: image}, panels={text: image}, title=text),
        flow({text: torch.eye(3)}, title=text),
    ]
    for number, figure in enumerate(drawn):
        shown = figure.findobj(lambda each: text in getattr(each, "get_text", str)())
        assert shown, number
        assert not any(each.get_parse_math() for each in shown), number
        figure.savefig(tmp_path / "drawn.png")
