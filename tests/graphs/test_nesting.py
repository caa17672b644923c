import networkx as nx
import pytest
import torch

from pgmdiff import GraphError, compose
from pgmdiff.gaussian import composed_precision
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    cycle,
    fingerprint,
    from_json,
    repeated_observations,
    report,
    to_json,
)
from pgmdiff.graphs.nesting import flatten
from pgmdiff.testing import assert_lawful
from tests.helpers import ar1, relative

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
        ({"LFRB": nx.Graph()}, "node 'LFRB' has 4 elements, its inner graph 0"),
        ({"LFRB": "LF"}, "nest: expected a FactorGraph, .* got str"),
    ],
)
def test_bad_nesting_is_named(inner: dict, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        paper_cube().nest(inner)


def test_scopes_say_nothing_of_inner_graphs() -> None:
    with pytest.raises(GraphError, match="is nested"):
        cluster_variation(paper_cube())


def test_tuple_names_and_paths_may_clash() -> None:
    inner = FactorGraph.from_scopes({"h": ("a", "b")})
    outer = FactorGraph.from_scopes(
        {"f": ("p", "q"), ("f", "a"): ("q", "r")}, {"p": (), "q": (), "r": (), "a": ()}
    )
    flat = outer.nest({"f": inner}).flatten()
    assert len(set(flat.names)) == flat.n_regions
    assert flat.validate().valid


def test_a_condition_is_not_lost_by_expanding() -> None:
    graph = repeated_observations(2, (2,), [{"y": torch.tensor([1.0])}, {"y": torch.tensor([5.0])}])
    nested = graph.nest({"y0": FactorGraph.from_scopes({"h": ("p", "q")})})
    with pytest.raises(GraphError, match="nested node 'y0' has a condition, which no leaf"):
        nested.flatten()
    assert nested.flatten(keep={"y0"}).conditions["y0"]["y"] == 1
    assert nested.validate().valid  # counts do not depend on conditions
    assert "counts_sum_to_one" in assert_lawful(nested, only="counts_sum_to_one").passed


def test_conditions_are_given_to_the_regions_of_a_nested_node() -> None:
    """Of one that is nested once, and of one whose inner graph is itself nested."""
    inner, condition = chain(3), {"c": torch.zeros(())}
    outer = FactorGraph.from_scopes({"sound": ("a", "b"), "move": ("b", "c", "d")})
    middle = FactorGraph.from_scopes({"all": ("p", "q", "r")}).nest({"all": inner})
    for graph in (outer.nest({"move": inner}), outer.nest({"move": middle})):
        words = r"compose: .* 'move', which is nested\. Give .* such as 'f0'\."
        with pytest.raises(GraphError, match=words):
            compose(graph, lambda x, sigma, c=None: -x, conditions={"move": condition})
        for name in ("f0", "sound"):
            told = {name: condition}
            assert compose(graph, lambda x, sigma, c=None: -x, conditions=told).regions.conditions
    with pytest.raises(GraphError, match="'other', which is no region"):
        compose(graph, lambda x, sigma, c=None: -x, conditions={"other": condition})


def test_a_nested_report_knows_what_is_exact_level_by_level() -> None:
    outer = FactorGraph.from_scopes(
        {"f": ("a", "b"), "g": ("b", "c")}, {"a": (2,), "b": (3,), "c": (2,)}
    )
    exact = outer.nest({"b": chain(3)}).validate()
    assert exact.nested_exact
    assert "nested marginals are Markov" in exact.promise
    q = ar1(7, 0.6)
    precision = composed_precision(outer.nest({"b": chain(3)}), q)
    assert relative(precision, torch.linalg.inv(q.covariance)) < 1e-12
    assert not outer.nest({"b": cycle(3)}).validate().nested_exact
    assert not paper_cube().validate().nested_exact


def test_default_names_may_repeat_inside() -> None:
    outer = chain(3, (2,))
    assert_lawful(outer.nest({factor: chain(4) for factor in outer.factors}), generator=0)


def test_nesting_too_deep_is_named() -> None:
    graph = FactorGraph.from_scopes({}, {"x": ()})
    for _ in range(40):
        graph = FactorGraph.from_scopes({}, {"x": ()}).nest({"x": graph})
    assert graph.flatten().n_regions == 1
    assert fingerprint(from_json(to_json(graph))) == fingerprint(graph)
    for _ in range(1500):
        graph = FactorGraph.from_scopes({}, {"x": ()}).nest({"x": graph})
    with pytest.raises(GraphError, match="nested too deeply"):
        graph.flatten()
    with pytest.raises(GraphError, match="nested too deeply"):
        to_json(graph)


def test_a_report_flattens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It also asks whether every level is exact, for which nothing is flattened."""
    flattened = []

    def counting(*given, **options):
        flattened.append(given)
        return flatten(*given, **options)

    monkeypatch.setattr(report, "flatten", counting)
    for inner, exact in ((chain(3), True), (cycle(3), False)):
        graph = inner
        for _ in range(10):
            graph = FactorGraph.from_scopes({"f": ("a",)}, {"a": (3,)}).nest({"f": graph})
        flattened.clear()
        assert graph.validate().nested_exact == exact
        assert len(flattened) == 1
