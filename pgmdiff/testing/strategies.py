"""Hypothesis strategies of random graphs, and of Gaussians that are Markov to them.

    from hypothesis import given
    from pgmdiff.testing import assert_lawful, strategies

    @given(strategies.factor_graphs())
    def test_anything(graph):
        assert_lawful(graph)

Graphs are small and awkward: disconnected, with duplicate and nested scopes, leaves, isolated
variables, blocks of several elements, and declarations in any order.
"""

from collections.abc import Sequence

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "pgmdiff.testing.strategies needs hypothesis, which is not installed. "
        "Run: pip install hypothesis"
    ) from error

from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.graphs import FactorGraph, RegionGraph, cluster_variation, tiles
from pgmdiff.testing.oracles import markov_gaussian, markov_mixture

__all__ = [
    "acyclic_hypergraphs",
    "factor_graphs",
    "gaussians",
    "hypergraphs",
    "mixtures",
    "nested_graphs",
    "region_graphs",
    "tile_graphs",
    "trees",
]

SHAPES: Sequence[tuple[int, ...]] = ((), (1,), (2,), (3,), (2, 2))
NAMES = "abcdefg"


def hypergraphs(
    max_scopes: int = 7, names: Sequence[str] = NAMES
) -> st.SearchStrategy[list[list[str]]]:
    """Lists of scopes of up to four names: loops, duplicates, subsets, several components.

    Args:
        max_scopes: the largest number of scopes.
        names: of the variables.
    """
    scope = st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True)
    return st.lists(scope, min_size=1, max_size=max_scopes)


@st.composite
def acyclic_hypergraphs(draw: st.DrawFn) -> list[list[str]]:
    """Lists of up to seven α-acyclic scopes: each shares names with one earlier scope only."""
    scopes: list[list[str]] = []
    n_names = 0
    for _ in range(draw(st.integers(1, 7))):
        n_new = draw(st.integers(0 if scopes else 1, 3))
        new = [f"v{n_names + i}" for i in range(n_new)]
        shared: list[str] = []
        if scopes and (not new or draw(st.booleans())):
            parent = draw(st.sampled_from(scopes))
            shared = draw(st.lists(st.sampled_from(parent), min_size=1, unique=True))
        n_names += n_new
        scopes.append(draw(st.permutations(new + shared)))
    return draw(st.permutations(scopes))


@st.composite
def factor_graphs(
    draw: st.DrawFn,
    max_variables: int = 6,
    max_factors: int = 6,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
) -> FactorGraph:
    """Any factor graph: loops, duplicate and subset scopes, leaves, isolated variables.

    Args:
        max_variables: largest number of variables, of one to four elements each.
        max_factors: largest number of factors, on up to four variables each.
        shapes: event shapes of variables.
    """
    variables = [f"v{i}" for i in range(draw(st.integers(1, max_variables)))]
    scope = st.lists(st.sampled_from(variables), min_size=1, max_size=4, unique=True)
    scopes = draw(st.lists(scope, max_size=max_factors))
    if min(len(variables), max_factors) > 2 and draw(st.booleans()):  # chance closes few loops
        ring = draw(st.permutations(variables))[:max_factors]
        pairs = zip(ring, ring[1:] + ring[:1], strict=True)
        scopes = [*map(list, pairs), *scopes][:max_factors]
    named = {f"f{i}": tuple(s) for i, s in enumerate(scopes)}
    return FactorGraph.from_scopes(named, {v: draw(st.sampled_from(shapes)) for v in variables})


@st.composite
def trees(draw: st.DrawFn, max_factors: int = 7) -> FactorGraph:
    """A Berge-acyclic graph of distinct factors, possibly disconnected.

    Args:
        max_factors: largest number of factors.
    """
    n_isolated = draw(st.integers(0, 2))
    names = [f"v{i}" for i in range(n_isolated)]
    scopes = {}
    for f in range(draw(st.integers(0, max_factors))):
        new = [f"v{len(names) + i}" for i in range(draw(st.integers(1, 3)))]
        anchor = draw(st.sampled_from([*names, None])) if names else None
        scope = new if anchor is None else [*new, anchor]
        scopes[f"f{f}"] = tuple(draw(st.permutations(scope)))
        names += new
    declared = draw(st.permutations(names))
    return FactorGraph.from_scopes(scopes, {v: draw(st.sampled_from(SHAPES)) for v in declared})


@st.composite
def nested_graphs(draw: st.DrawFn) -> FactorGraph:
    """A factor graph some of whose nodes are graphs of their elements, in one part or two.

    Names inside may repeat those outside; inner graphs may be nested once more.
    """
    outer = draw(factor_graphs(max_variables=4, max_factors=3))
    inner = {}
    for name in (*outer.factors, *outer.variables):
        size = outer.nodes.elements(name).numel()
        if draw(st.booleans()):
            inner[name] = draw(_of_size(size, deeper=True))
    return outer.nest(inner)


@st.composite
def _of_size(draw: st.DrawFn, size: int, *, deeper: bool) -> FactorGraph:
    """A graph of `size` elements in one or two variables, perhaps nested."""
    cut = draw(st.integers(0, size - 1))
    part, rest, both = draw(st.sampled_from([("part", "rest", "both"), ("v1", "v0", "f0")]))
    shapes: dict[str, tuple[int, ...]] = {rest: (size - cut,)}
    if cut:
        shapes = {part: (cut,), **shapes}
    scopes = {both: tuple(shapes)} if draw(st.booleans()) else {}
    graph = FactorGraph.from_scopes(scopes, shapes)
    if deeper and cut and draw(st.booleans()):
        return graph.nest({part: draw(_of_size(cut, deeper=False))})
    return graph


@st.composite
def tile_graphs(draw: st.DrawFn, max_axes: int = 2, max_size: int = 9) -> RegionGraph:
    """Windows of a small tensor, on open and periodic axes, whether or not the stride fits.

    Args:
        max_axes: largest number of axes.
        max_size: largest size of an axis.
    """
    shape, windows, overlaps, periodic = [], [], [], []
    for _ in range(draw(st.integers(1, max_axes))):
        shape.append(draw(st.integers(2, max_size)))
        windows.append(draw(st.integers(1, shape[-1])))
        overlaps.append(draw(st.integers(0, windows[-1] - 1)))
        periodic.append(draw(st.booleans()))
    return tiles(shape, windows, overlaps, periodic, remainder="shift")


@st.composite
def region_graphs(draw: st.DrawFn) -> RegionGraph:
    """Valid region graphs of every kind: tiles, cluster variation of scopes or arrays, Bethe."""
    kind = draw(st.sampled_from(["tiles", "scopes", "arrays", "several", "bethe", "nested"]))
    if kind == "tiles":
        return draw(tile_graphs())
    if kind == "scopes":
        return cluster_variation(draw(hypergraphs()))
    if kind == "bethe":
        return draw(factor_graphs()).regions
    if kind == "nested":
        return draw(nested_graphs()).regions
    pieces = [[NAMES.index(name) for name in scope] for scope in draw(hypergraphs())]
    pieces += [[e] for e in range(len(NAMES)) if not any(e in piece for piece in pieces)]
    arrays = {f"piece {i}": piece for i, piece in enumerate(pieces)}
    return cluster_variation(
        arrays, event_shape=(len(NAMES),), disconnected="several" if kind == "several" else "one"
    )


def gaussians(graph: FactorGraph | RegionGraph) -> st.SearchStrategy[Gaussian]:
    """Gaussians whose density factorises over the graph's pieces; see `markov_gaussian`.

    Args:
        graph: of the state.
    """
    return st.integers(0, 2**31).map(lambda seed: markov_gaussian(graph, seed))


def mixtures(graph: FactorGraph | RegionGraph) -> st.SearchStrategy[GaussianMixture]:
    """Mixtures of such Gaussians; see `markov_mixture`.

    Args:
        graph: of the state.
    """
    return st.integers(0, 2**29).map(lambda seed: markov_mixture(graph, seed))
