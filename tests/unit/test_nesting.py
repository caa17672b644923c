import networkx as nx
import pytest
import torch

from pgmdiff import GraphError, compose
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    cycle,
    fingerprint,
    from_json,
    to_json,
)

FACES = "FBLRUD"


def paper_cube() -> FactorGraph:
    """DiffCollage, App. A, with a scalar a face."""
    axes = {"FB": "FB", "LR": "LR", "UD": "UD"}
    loops = {"LFRB": "LFRB", "ULDR": "ULDR", "UFDB": "UFDB"}
    scopes = {loop: tuple(a for a in axes if set(a) <= set(loop)) for loop in loops}
    outer = FactorGraph.from_scopes(scopes, dict.fromkeys(axes, (2,)))
    inner = {}
    for loop in loops:
        declared = dict.fromkeys("".join(scopes[loop]), ())
        pairs = ["".join(sorted(p)) for p in zip(loop, loop[1:] + loop[0], strict=True)]
        inner[loop] = FactorGraph.from_scopes({p: tuple(p) for p in pairs}, declared)
    for axis in axes:
        inner[axis] = FactorGraph.from_scopes({}, dict.fromkeys(axis, ()))
    return outer.nest(inner)


def test_the_papers_cubemap() -> None:
    cube = paper_cube()
    assert cube.counting_numbers() == {
        "LFRB": 1, "ULDR": 1, "UFDB": 1, "FB": -1, "LR": -1, "UD": -1
    }  # fmt: skip
    assert list(cube.nested["LFRB"].counting_numbers().values()) == [1] * 4 + [-1] * 4
    counts = cube.flatten().counting_numbers()
    assert sorted(counts.values()) == [-3] * 6 + [1] * 12
    assert {name for name, c in counts.items() if c == -3} == set(FACES)
    assert not any(set(p) <= {n} for n, c in counts.items() if c == 1 for p in cube.variables)
    assert cube.validate().valid
    for face in FACES:
        assert cube.flatten().elements(face).item() == FACES.index(face)


def test_leaves_are_merged_only_where_identical() -> None:
    star = FactorGraph.from_scopes({"f": ("a",), "g": ("a",)}, {"a": (2,)})
    inner = FactorGraph.from_scopes({"h": ("x", "y")})
    merged = star.nest({"f": inner, "g": inner}).flatten().counting_numbers()
    assert merged == {"h": 2, "x": 0, "y": 0, "a": -1}
    other_model = FactorGraph.from_scopes({"h": ("x", "y")}, models={"h": "other"})
    assert star.nest({"f": inner, "g": other_model}).flatten().counting_numbers() == {
        ("f", "h"): 1, ("g", "h"): 1, "x": 0, "y": 0, "a": -1
    }  # fmt: skip
    conditions = [{"h": {"y": torch.tensor([value])}} for value in (1.0, 2.0, 1.0)]
    one, two, again = (FactorGraph.from_scopes({"h": ("x", "y")}, conditions=c) for c in conditions)
    differing = star.nest({"f": one, "g": two}).flatten()
    assert differing.counting_numbers()["f", "h"] == 1
    assert differing.conditions["g", "h"]["y"] == 2
    equal = star.nest({"f": one, "g": again}).flatten()
    assert equal.counting_numbers()["h"] == 2
    assert equal.conditions["h"]["y"] == 1
    reversed_scope = FactorGraph.from_scopes({"h": ("y", "x")}, {"x": (), "y": ()})
    assert star.nest({"f": inner, "g": reversed_scope}).flatten().elements(("g", "h")).tolist() == [
        1, 0,
    ]  # fmt: skip


def test_a_node_is_expanded_or_kept_whole() -> None:
    innermost = chain(2)
    middle = FactorGraph.from_scopes({"m": ("p", "q")}, {"p": (2,), "q": ()}).nest({"p": innermost})
    outer = FactorGraph.from_scopes(
        {"f": ("a", "b"), "g": ("b", "c")}, {"a": (2,), "b": (), "c": ()}
    )
    graph = outer.nest({"f": middle})
    assert "f" not in graph.flatten().names
    assert graph.flatten(keep={"f"}).counting_numbers() == outer.counting_numbers()
    names = graph.flatten(keep={("f", "p")}).names
    assert "p" in names
    assert "x0" not in names
    assert (
        graph.flatten(keep={"p"}).counting_numbers()
        == graph.flatten(keep={("f", "p")}).counting_numbers()
    )
    with pytest.raises(GraphError, match="'g' is to be kept whole, but is no nested node"):
        graph.flatten(keep={"g"})
    with pytest.raises(GraphError, match="expected a collection of names"):
        graph.flatten(keep="f")


def test_a_nested_joint_may_stay_a_node() -> None:
    graph = paper_cube()
    score = lambda x, sigma: -x.cumsum(-1) / (1 + sigma[:, None] ** 2) + x  # noqa: E731
    scores = dict.fromkeys(graph.flatten().names, score)
    u, sigma = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), 0.7
    scores |= {face: lambda x, sigma: -x for face in FACES}
    expanded = compose(graph, scores)(u, sigma)
    loop = compose(graph.nested["LFRB"], scores)
    pair = compose(graph.nested["LR"], scores)
    kept = compose(graph.flatten(keep={"LFRB", "LR"}), {**scores, "LFRB": loop, "LR": pair})
    torch.testing.assert_close(kept(u, sigma), expanded)


def test_inner_region_graphs_and_fractions() -> None:
    half = RegionGraph.from_regions(
        {"s": [0, 1], "t": [1, 0]}, {"s": 1, "t": 1}, event_shape=(2,), denominator=2
    )
    third = RegionGraph.from_regions(
        {"s": [0], "t": [0], "r": [0]}, {"s": 1, "t": 1, "r": 1}, event_shape=(1,), denominator=3
    )
    outer = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (), "b": (1,)})
    flat = outer.nest({"f": half, "b": third}).flatten()
    assert flat.validate().valid
    two = FactorGraph.from_scopes({"f": ("a", "b"), "g": ("b",)}, {"a": (), "b": (1,)})
    flat = two.nest({"f": half, "b": third}).flatten()
    assert flat.denominator == 6
    assert flat.validate().valid


def test_networkx_and_json_keep_nested_graphs() -> None:
    graph = paper_cube()
    drawn = graph.to_networkx()
    assert isinstance(drawn.nodes["LFRB"]["graph"], nx.Graph)
    again = FactorGraph.from_networkx(drawn)
    assert fingerprint(again) == fingerprint(graph)
    loaded = from_json(to_json(graph))
    assert fingerprint(loaded) == fingerprint(graph)
    assert loaded.flatten().counting_numbers() == graph.flatten().counting_numbers()
    tiled = FactorGraph.from_scopes({"f": ("a",)}, {"a": (6,)}).nest(
        {"f": cluster_variation([(0, 1, 2, 3), (3, 4, 5)])}
    )
    assert fingerprint(from_json(to_json(tiled))) == fingerprint(tiled)
    assert "nested" not in to_json(chain(3))


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ({"nobody": cycle(3)}, "an inner graph is given for 'nobody', which is no node"),
        ({"LFRB": cycle(3)}, "node 'LFRB' has 4 elements, its inner graph 3"),
        ({"LFRB": nx.Graph()}, "the inner graph of 'LFRB' is a Graph"),
    ],
)
def test_bad_nesting_is_named(inner: dict, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        paper_cube().nest(inner)


def test_scopes_say_nothing_of_inner_graphs() -> None:
    with pytest.raises(GraphError, match="is nested"):
        cluster_variation(paper_cube())
