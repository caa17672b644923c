"""`plot`: graphs with their counting numbers."""

from collections.abc import Callable
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pgmdiff.errors import GraphError
from pgmdiff.graphs.factor_graph import FactorGraph, GraphLike, graph_of
from pgmdiff.plotting.boxes import are_windows
from pgmdiff.plotting.cube import draw_cube, is_cube
from pgmdiff.plotting.diagrams import draw_scene
from pgmdiff.plotting.layouts import LAYOUTS
from pgmdiff.plotting.scenes import factor_scene, hasse_scene
from pgmdiff.plotting.tiles import draw_maps, draw_tiles

__all__ = ["LayoutName", "plot"]

LayoutName = Literal["auto", "spatial", "bipartite", "hasse", "tiles", "counts", "cube"]

ON_IMAGES: dict[str, Callable[..., Figure]] = {
    "tiles": draw_tiles,
    "cube": draw_cube,
    "counts": draw_maps,
}


def plot(
    graph: GraphLike,
    *,
    layout: LayoutName = "auto",
    image: Tensor | None = None,
    ax: Axes | None = None,
    labels: bool | None = None,
    title: str | None = None,
) -> Figure:
    r"""Draws a graph with its counting numbers: blue positive, orange negative, grey zero.

    The legend lists each counting number and how many nodes have it; under `"counts"`, the counts
    of elements. Positions depend on the graph
    alone, so that the picture is the same every time.

    Args:
        graph: a factor graph, whose variables are circles, whose factors are squares, and whose
            nested nodes are boxes around their own graphs; or a region graph.
        layout: for a factor graph `"spatial"` (by the attribute `pos` of networkx's nodes, by
            coordinates as of `grid` and `torus`, or by the shape of the graph) or `"bipartite"`
            (factors in a row above variables); for a region graph `"tiles"` (windows over the
            image), `"counts"` (how often every element is counted: by pieces, by overlaps, and in
            sum), `"cube"` (six faces unfolded) or `"hasse"` (outer regions on top, and below them
            what they contain). `"auto"` chooses the layout that suits the graph.
        image: for tiles and counts, `[H, W]` or `[C, H, W]`; for a cube, `[6, n, n]` or
            `[6, C, n, n]`. Values beyond [-1, 1] are clipped. If None, tiles show how many windows
            contain each element.
        ax: matplotlib axes to draw on. If None, a figure is made of the size that the graph needs.
            This figure is unknown to pyplot: save it with `.savefig`, or pass pyplot's axes to show
            a window.
        labels: whether names are written (over an image, names and counts). If None, they are
            written where they fit.
        title: the title of the figure.

    Returns:
        The figure.

    Raises:
        GraphError: the graph has more than 3,000 nodes, which cannot be told apart; the layout does
            not suit the graph; or the layout has no place for an image.
        ShapeError: the image does not fit the state.

    Example:
        >>> from pgmdiff.graphs import chain
        >>> from pgmdiff.plotting import plot
        >>> figure = plot(chain(3))
        >>> sorted(text.get_text() for text in figure.axes[0].texts)
        ['f0\n+1', 'f1\n+1', 'x0\n0', 'x1\n−1', 'x2\n0']
    """
    graph = graph_of(graph, "plot")
    factor = isinstance(graph, FactorGraph)
    known = sorted(LAYOUTS) if factor else ["counts", "cube", "hasse", "tiles"]
    if layout not in ("auto", *known):
        raise GraphError(
            f"plot: expected a layout of {['auto', *known]} for a {type(graph).__name__}, "
            f"got {layout!r}."
        )
    chosen: str = layout
    if layout == "auto":
        if isinstance(graph, FactorGraph):
            chosen = "spatial"
        else:
            chosen = "cube" if is_cube(graph) else "tiles" if are_windows(graph) else "hasse"
    if chosen in ON_IMAGES:
        return ON_IMAGES[chosen](graph, image, ax, labels, title)
    if image is not None:
        raise GraphError(
            "plot: expected an image only under tiles, counts or a cube, got one for "
            f"layout={chosen!r}. Leave image= out, or choose another layout."
        )
    if isinstance(graph, FactorGraph):
        return draw_scene(factor_scene(graph, chosen), ax, labels, title)
    return draw_scene(hasse_scene(graph), ax, labels, title)
