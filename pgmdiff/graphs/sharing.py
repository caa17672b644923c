"""Conditions that overlaps share with the pieces around them."""

from collections.abc import Container, Hashable, Iterator, Mapping

from pgmdiff.graphs.containment import regions_around
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.graphs.names import check_known
from pgmdiff.graphs.regions import Condition, RegionGraph, condition_key

__all__ = ["pieces_around", "shared_conditions"]


def shared_conditions(
    graph: GraphLike, conditions: Mapping[Hashable, Condition]
) -> dict[Hashable, Condition]:
    """Conditions of pieces, and those of every region whose pieces around it have the same one.

    An overlap of windows with one label gets this label, so that it is counted once; an overlap of
    windows with two labels gets none, so that `compose` gives it `null_condition=`.

    Args:
        graph: a graph of any kind.
        conditions: piece (factor or window) to condition, which may be missing. Conditions are
            compared bit for bit. Regions that are given here keep what they are given.

    Raises:
        GraphError: a name is no region of the graph.

    Example:
        >>> import torch
        >>> from pgmdiff.graphs import shared_conditions, tiles
        >>> strip = tiles((20,), window=8, overlap=4)
        >>> order = {"[0:8]": "walk", "[4:12]": "walk", "[8:16]": "jog", "[12:20]": "jog"}
        >>> told = shared_conditions(strip, {name: {"text": word} for name, word in order.items()})
        >>> [name for name in strip.names if name not in told]
        ['[8:12]']
    """
    regions = graph_of(graph, "shared_conditions").regions
    what, pieces = "shared_conditions: a condition is given for", regions.pieces
    check_known(what, conditions, set(regions.names), "region", "Use the name of a piece.")
    keys = [condition_key(conditions[name]) if name in conditions else None for name in pieces]
    shared = dict(conditions)
    for name, found in pieces_around(regions, conditions):
        own = {keys[place] for place in found}
        if len(own) == 1 and own != {None}:
            shared[name] = conditions[pieces[found[0]]]
    return shared


def pieces_around(
    graph: RegionGraph, named: Container[Hashable]
) -> Iterator[tuple[Hashable, list[int]]]:
    """Every region that is not among those named, with the places of the pieces that contain it."""
    held = (zip(g.names, g.flat().tolist(), strict=True) for g in graph.groups)
    holds = {name: frozenset(elements) for group in held for name, elements in group}
    inner = [name for name in holds if name not in named]
    around = regions_around([holds[each] for each in inner], [holds[each] for each in graph.pieces])
    return zip(inner, around, strict=True)
