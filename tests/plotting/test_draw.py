"""Pictures hold what they claim, and their texts do not run into each other."""

import subprocess
import sys
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path

import networkx as nx
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from pgmdiff import GraphError, ShapeError, __main__
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
    to_json,
    torus,
    tree,
)
from pgmdiff.plotting import plot
from pgmdiff.plotting.ink import colour_of, count_text, name_text
from pgmdiff.plotting.layouts import LEAST, spatial
from pgmdiff.plotting.scenes import factor_scene, hasse_scene


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def written(figure: Figure) -> list[Text]:
    found = [text for ax in figure.axes for text in ax.texts if text.get_text()]
    found += figure.legends[0].get_texts() if figure.legends else []
    return found + [text for text in figure.texts if text.get_text()]


def check_legible(figure: Figure, least: float = 5.5) -> None:
    """No text is tiny, leaves the figure or overlaps another."""
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in written(figure)]
    for text in written(figure):
        assert text.get_fontsize() >= least
    for name, box in boxes:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, f"{name!r} is clipped"
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, f"{name!r} is clipped"
    for (a, one), (b, other) in combinations(boxes, 2):
        apart = one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
        assert apart, f"{a!r} overlaps {b!r}"


def scattered(n_variables: int, n_factors: int, seed: int = 0) -> FactorGraph:
    generator = torch.Generator().manual_seed(seed)
    names = [f"x{v}" for v in range(n_variables)]
    scopes = {
        f"f{f}": [names[v] for v in torch.randperm(n_variables, generator=generator)[: 1 + f % 3]]
        for f in range(n_factors)
    }
    return FactorGraph.from_scopes(scopes, dict.fromkeys(names, ()))


KIKUCHI = [("a", "b", "c"), ("b", "c", "d"), ("c", "d", "e"), ("a", "d", "e")]

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


# ---------------------------------------------------------------- what they say


def test_nodes_carry_names_and_counts() -> None:
    figure = plot(star(3))
    assert sorted(texts(figure)) == sorted(
        ["x0\n−2", "x1\n0", "x2\n0", "x3\n0", "f0\n+1", "f1\n+1", "f2\n+1"]
    )
    assert legend(figure) == ["variable", "factor", "+1 × 3", "0 × 3", "−2 × 1"]
    assert sorted(texts(plot(star(3), labels=False))) == sorted([*["+1"] * 3, *["0"] * 3, "−2"])


def test_names_are_left_out_of_large_graphs_unless_asked_for() -> None:
    graph = scattered(100, 100)
    assert not any("x1" in text for text in texts(plot(graph)))
    named = texts(plot(graph, labels=True))
    assert len(named) == 200
    assert any(text.startswith("x99\n") for text in named)


def test_a_legend_lists_every_count_and_sums_up_many() -> None:
    scopes = {(n, f): [f"hub{n}", f"leaf{n}.{f}"] for n in range(14) for f in range(n + 2)}
    listed = legend(plot(FactorGraph.from_scopes(scopes)))
    assert f"+1 × {len(scopes)}" in listed
    assert "6 other counts" in listed


def test_colours_tell_signs_apart() -> None:
    for size in (1, 2, 30):
        red, _, blue = to_rgb(colour_of(size))
        assert blue > red
        red, _, blue = to_rgb(colour_of(-size))
        assert red > blue
    red, green, blue = to_rgb(colour_of(0))
    assert max(red, green, blue) - min(red, green, blue) < 0.05
    assert len({colour_of(c) for c in range(-5, 6)}) == 11
    assert [count_text(c) for c in (1, 0, -2)] == ["+1", "0", "−2"]


def test_fractions_are_written_as_such() -> None:
    halves = RegionGraph.from_regions(
        {"ab": [0, 1], "ba": [1, 0]}, {"ab": 1, "ba": 1}, event_shape=(2,), denominator=2
    )
    assert texts(plot(halves)) == ["ab\n+1/2", "ba\n+1/2"]


def test_names_without_punctuation() -> None:
    assert name_text((0, 1)) == "0,1"
    assert name_text(((0, 0), (0, 1))) == "0,0–0,1"
    assert name_text(frozenset({"b", "a"})) == "a,b"
    assert "((" not in "".join(texts(plot(grid(2, 2))))


def test_a_picture_is_the_same_every_time() -> None:
    graph = scattered(30, 40)
    assert (spatial(graph).points == spatial(graph).points).all()
    state = torch.get_rng_state()
    plot(graph)
    assert torch.equal(state, torch.get_rng_state())


# ---------------------------------------------------------------- where nodes are


@pytest.mark.parametrize(
    "graph",
    [chain(5), chain(60), cycle(5), cycle(80), star(40), tree(3, 3), tree(2, 6), grid(3, 4),
     grid(3, 3, 3), torus(4, 5), scattered(40, 60), scattered(150, 150)],
    ids=repr,
)  # fmt: skip
def test_nodes_keep_their_distance(graph: FactorGraph) -> None:
    points = torch.from_numpy(spatial(graph).points)
    assert torch.pdist(points).min() > 0.8 * LEAST


def test_positions_of_networkx_are_kept() -> None:
    drawn = nx.Graph()
    drawn.add_node("a", bipartite=0, pos=(0.0, 0.0))
    drawn.add_node("b", bipartite=0, pos=(4.0, 0.0))
    drawn.add_node("c", bipartite=0, pos=(4.0, 3.0))
    drawn.add_node("f", bipartite=1)
    drawn.add_node("g", bipartite=1, pos=(6.0, 1.5))
    drawn.add_edges_from([("f", "a"), ("f", "b"), ("g", "b"), ("g", "c")])
    a, b, c, f, g = torch.from_numpy(spatial(FactorGraph.from_networkx(drawn)).points)
    assert torch.allclose(f, (a + b) / 2)
    scale = (b - a)[0] / 4
    assert torch.allclose(c - a, scale * torch.tensor([4.0, 3.0], dtype=torch.float64))
    assert torch.allclose(g - a, scale * torch.tensor([6.0, 1.5], dtype=torch.float64))


def test_a_factor_on_one_variable_is_beside_it() -> None:
    drawn = nx.Graph()
    drawn.add_node("a", bipartite=0, pos=(1.0, 1.0))
    drawn.add_node("f", bipartite=1)
    drawn.add_node("g", bipartite=1)
    drawn.add_edges_from([("f", "a"), ("g", "a")])
    points = torch.from_numpy(spatial(FactorGraph.from_networkx(drawn)).points)
    assert torch.pdist(points).min() > 0.9 * LEAST


def test_lattices_are_drawn_as_lattices() -> None:
    graph = grid(2, 3)
    at = dict(zip([*graph.variables, *graph.factors], spatial(graph).points, strict=True))
    assert at[0, 1][0] > at[0, 0][0]
    assert at[0, 1][1] == at[0, 0][1]
    assert at[1, 0][1] < at[0, 0][1]
    assert at[(0, 0), (0, 1)].tolist() == ((at[0, 0] + at[0, 1]) / 2).tolist()


def test_edges_around_a_torus_leave_and_come_back() -> None:
    scene = factor_scene(torus(3, 4), "spatial")
    assert len(scene.ghosts) == len(scene.dashed) == 3 + 4
    assert len(scene.edges) == 2 * 24 - 7
    assert "around the edge" in legend(plot(torus(3, 4)))
    assert factor_scene(grid(3, 4), "spatial").dashed == []


def test_components_lie_side_by_side() -> None:
    graph = FactorGraph.from_scopes({f"f{i}": (f"a{i}", f"b{i}") for i in range(3)})
    points = spatial(graph).points
    rows = [{0, 1, 6}, {2, 3, 7}, {4, 5, 8}]
    boxes = [points[sorted(row)] for row in rows]
    for one, other in pairwise(boxes):
        assert one[:, 0].max() < other[:, 0].min() or one[:, 1].min() > other[:, 1].max()


# ---------------------------------------------------------------- nested nodes and regions


def test_nested_nodes_are_boxes_around_their_graphs() -> None:
    cube = nested_cubemap(4)
    scene = factor_scene(cube, "spatial")
    assert {node.kind for node in scene.nodes} == {"box"}
    for node in scene.nodes:
        assert node.inside is not None
        left, right, bottom, top = node.inside.bounds
        assert node.x - node.width / 2 < left < right < node.x + node.width / 2
        assert node.y - node.height / 2 < bottom < top < node.y + node.height / 2
    for a, b in combinations(scene.nodes, 2):
        beside = abs(a.x - b.x) > (a.width + b.width) / 2
        assert beside or abs(a.y - b.y) > (a.height + b.height) / 2
    found = texts(plot(cube))
    assert "LFRB  +1" in found
    assert "FB  −1" in found
    assert found.count("F\n−1") == 2
    assert found.count("F\n+1") == 1
    assert texts(plot(cube, labels=False)).count("+1") == 21
    check_legible(plot(cube, layout="bipartite"))


def test_only_one_level_is_drawn_in_full() -> None:
    inner = FactorGraph.from_scopes({"g": ("p", "q")}, {"p": (2,), "q": ()}).nest({"p": chain(2)})
    graph = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (), "b": (3,)}).nest({"b": inner})
    figure = plot(graph)
    assert "3 nodes" in texts(figure)
    assert "p  0" in texts(figure)
    check_legible(figure)
    large = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (), "b": (40,)}).nest({"b": chain(40)})
    assert "79 nodes" in texts(plot(large))


def test_regions_hang_below_what_contains_them() -> None:
    graph = cluster_variation(KIKUCHI)
    scene = hasse_scene(graph)
    outer = dict(zip(graph.names, (o for g in graph.groups for o in g.outer), strict=True))
    top = max(node.y for node in scene.nodes)
    by_name = {name_text(name): bool(flag) for name, flag in outer.items()}
    for node in scene.nodes:
        assert (node.y == top) == by_name[node.name]
    sizes = {node.name: (-len(node.name), -node.y) for node in scene.nodes if node.y < top}
    assert sorted(sizes.values()) == sorted(sizes.values(), key=lambda pair: pair[1])


def test_edges_are_the_transitive_reduction() -> None:
    nested = RegionGraph.from_regions(
        {"abc": [0, 1, 2], "ab": [0, 1], "a": [0]},
        {"abc": 1, "ab": 0, "a": 0},
        event_shape=(3,),
    )
    assert len(hasse_scene(nested).edges) == 2


# ---------------------------------------------------------------- windows


def test_tiles_write_their_counts_where_they_fit() -> None:
    found = texts(plot(tiles((3, 52, 64), (3, 16, 16), (0, 4, 4))))
    assert found.count("+1") == 20 + 12
    assert found.count("−1") == 31
    crowded = texts(plot(tiles((16, 3604), (16, 16), (0, 4))))
    assert crowded == []
    assert texts(plot(tiles((52, 64), 16, 4), labels=False)) == []
    listed = legend(plot(tiles((52, 64), 16, 4)))
    assert listed == ["window +1 × 20", "overlap +1 × 12", "overlap −1 × 31"]


def outlines(figure: Figure) -> list[torch.Tensor]:
    ax: Axes = figure.axes[0]
    return [
        torch.tensor(segment)
        for lines in ax.collections
        for segment in getattr(lines, "get_segments", list)()
    ]


def test_periodic_windows_stick_out_on_both_sides() -> None:
    closed = torch.cat(outlines(plot(tiles((16, 64), (16, 16), (0, 8), (False, True)))))
    assert closed[:, 0].min() < 0
    assert closed[:, 0].max() > 64
    opened = torch.cat(outlines(plot(tiles((16, 64), (16, 16), (0, 8)))))
    assert 0 < opened[:, 0].min() < opened[:, 0].max() < 64


def test_outlines_of_neighbours_do_not_coincide() -> None:
    segments = {tuple(s.flatten().tolist()) for s in outlines(plot(tiles((48, 48), 16, 8)))}
    assert len(segments) == 25 * 4


@pytest.mark.parametrize("shape", [(52, 64), (1, 52, 64), (3, 52, 64), (2, 52, 64)])
def test_images_lie_under_tiles(shape: tuple[int, ...]) -> None:
    image = torch.linspace(-3, 3, 52 * 64).reshape(52, 64).expand(shape)
    graph = tiles((52, 64), 16, 4)
    shown = plot(graph, image=image).axes[0].images[0].get_array()
    assert shown is not None
    assert shown.shape[:2] == (52, 64)
    assert shown.min() == 0
    assert shown.max() == 1


def test_without_an_image_coverage_is_shown() -> None:
    shown = plot(tiles((28, 28), 16, 4)).axes[0].images[0].get_array()
    assert shown is not None
    assert len({float(v) for v in shown[..., 0].ravel()}) == 3  # 1, 2 and 4 windows


def test_maps_find_elements_that_are_not_counted_once() -> None:
    good = plot(tiles((28, 28), 16, 4), layout="counts")
    assert [ax.get_title() for ax in good.axes] == ["pieces", "overlaps", "sum: 1"]
    crosses = RegionGraph.from_regions(
        {"left": [[0, 1], [3, 4]], "right": [[1, 2], [4, 5]]},
        {"left": 1, "right": 1},
        event_shape=(2, 3),
    )
    wrong = plot(crosses, layout="counts").axes[-1].get_title()
    assert wrong == "sum: 2 of 6 elements are not counted once"


def test_boxes_of_an_index_group_are_tiles_too() -> None:
    grid_of_four = RegionGraph.from_regions(
        {"left": [[0, 1], [3, 4]], "right": [[1, 2], [4, 5]], "middle": [[1], [4]]},
        {"left": 1, "right": 1, "middle": -1},
        event_shape=(2, 3),
    )
    assert legend(plot(grid_of_four)) == ["window +1 × 2", "overlap −1 × 1"]
    assert legend(plot(grid_of_four, layout="hasse")) == ["+1 × 2", "−1 × 1"]


def test_cubes_are_unfolded() -> None:
    figure = plot(cubemap(8, 2))
    (ax,) = figure.axes
    letters = {t.get_text(): t.get_position() for t in ax.texts if t.get_text() in "FBLRUD"}
    assert letters["U"][0] == letters["F"][0] == letters["D"][0]
    assert letters["U"][1] < letters["F"][1] < letters["D"][1]
    row = [letters[face][0] for face in "LFRB"]
    assert row == sorted(row)
    found = texts(figure)
    assert found.count("F|R  +1") == 2
    assert found.count("F  +1") == 1
    assert legend(figure) == ["+1 × 18", "−1 × 24"]
    image = torch.zeros(6, 3, 8, 8)
    assert len(plot(cubemap(8, channels=3), image=image).axes[0].images) == 6


# ---------------------------------------------------------------- axes, errors, commands


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
    with pytest.raises(GraphError, match="got int"):
        plot(3)  # type: ignore[arg-type]


def run(*arguments: object) -> int:
    """The exit status of a command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pgmdiff", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            __main__.main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_check_prints_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "graph.json"
    path.write_text(to_json(chain(3)), encoding="utf-8")
    assert run("check", path) == 0
    assert capsys.readouterr().out == f"{chain(3).validate()}\n"
    wrong = RegionGraph.from_regions({"a": [0]}, {"a": 2}, event_shape=(1,))
    path.write_text(to_json(wrong), encoding="utf-8")
    assert run("check", path) == 1
    assert "must sum to 1" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe", b'{"pgmdiff": 99}'])
@pytest.mark.parametrize("command", ["check", "draw"])
def test_broken_files_take_one_line(
    command: str, content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "graph.json"
    if content is not None:
        path.write_bytes(content)
    assert run(command, path, *([tmp_path / "out.png"] if command == "draw" else [])) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pgmdiff {command}: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_draw_writes_a_picture(ending: str, tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_text(to_json(nested_cubemap(2)), encoding="utf-8")
    picture = tmp_path / f"out.{ending}"
    assert run("draw", tmp_path / "graph.json", picture, "--layout", "bipartite") == 0
    assert picture.stat().st_size > 4_000


def test_draw_leaves_names_out_and_reports_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, picture = tmp_path / "graph.json", tmp_path / "out.svg"
    path.write_text(to_json(chain(3)), encoding="utf-8")
    assert run("draw", path, picture, "--no-labels") == 0
    assert run("draw", path, picture, "--layout", "cube") == 2
    assert run("draw", path, tmp_path / "out.nothing") == 2
    assert run("draw", path, tmp_path / "missing" / "out.png") == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_without_matplotlib_the_extra_is_named(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text(to_json(chain(3)), encoding="utf-8")
    code = (
        "import sys; sys.modules['matplotlib'] = None; "
        f"sys.argv = ['pgmdiff', 'draw', {str(path)!r}, 'out.png']; "
        "from pgmdiff.__main__ import main; main()"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 2
    assert "pip install 'pgmdiff[plot]'" in done.stderr
    assert done.stderr.count("\n") == 1
