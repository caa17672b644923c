"""Texts in nodes, and the legend."""

from pgmdiff.graphs import FactorGraph, star
from pgmdiff.plotting import plot
from tests.plotting.helpers import legend, scattered, texts


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
