"""Curves are drawn as they are given, and a label has one style everywhere."""

import numpy as np
import pytest

from pgmdiff.errors import ShapeError
from pgmdiff.plotting import Panel, curves, panels
from pgmdiff.plotting.line_charts import METHOD_STYLES, STYLES, style_of

POINTS = ([1.0, 2.0, 4.0], [0.1, 0.2, 0.05])


@pytest.mark.parametrize("log", ["xy", "x", "y", ""])
def test_curves_are_drawn_on_the_axes_asked_for(log) -> None:
    figure = curves({"marginal": POINTS}, xlabel="σ", ylabel="error", limit=("aim", 0.3), log=log)
    (axes,) = figure.axes
    assert axes.get_xscale() == ("log" if "x" in log else "linear")
    assert axes.get_yscale() == ("log" if "y" in log else "linear")
    drawn, aim = axes.lines
    assert np.array_equal(drawn.get_xydata(), np.array(POINTS).T)
    assert set(aim.get_ydata()) == {0.3}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["marginal", "aim"]


def test_a_rule_has_the_same_colour_everywhere() -> None:
    alone = curves({"posterior": POINTS}, xlabel="", ylabel="")
    after = panels([Panel({"a": POINTS, "posterior": POINTS}, "", "", "")], "title")
    colours = {f.axes[0].lines[-1].get_color() for f in (alone, after)}
    assert colours == {METHOD_STYLES["posterior"][0]}


def test_curves_go_on_axes_that_exist() -> None:
    figure = curves({"a": POINTS}, xlabel="", ylabel="")
    assert curves({"b": POINTS}, xlabel="", ylabel="", ax=figure.axes[0]) is figure
    assert len(figure.axes[0].lines) == 2


def test_uneven_curves_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"as many .* for 'a', got 2 of x and 1 of y"):
        curves({"a": ([1, 2], [3])}, xlabel="", ylabel="")


def test_a_label_has_one_style_in_all_panels() -> None:
    first = Panel({"a": POINTS, "b": POINTS}, "", "", "")
    second = Panel({"c": POINTS, "b": POINTS}, "", "", "")
    figure = panels([first, second, first], "title", columns=2)
    styles = [
        {line.get_label(): (line.get_color(), line.get_marker()) for line in axes.lines}
        for axes in figure.axes
    ]
    assert styles[0]["b"] == styles[1]["b"]
    assert len({styles[0]["a"], styles[0]["b"], styles[1]["c"]}) == 3
    assert not figure.axes[3].axison, "an empty place is left blank"


def test_nothing_is_drawn_of_nothing(tmp_path) -> None:
    curves({"a": ([], [])}, xlabel="", ylabel="").savefig(tmp_path / "empty.png")


def test_no_two_styles_are_alike() -> None:
    methods = {style[0] for style in METHOD_STYLES.values()}
    plain = [style[0] for style in STYLES]
    assert len(set(plain)) == len(plain)
    assert not methods & set(plain)
    assert len({style[:3] for style in METHOD_STYLES.values()}) == len(METHOD_STYLES)


def test_every_curve_of_many_looks_different() -> None:
    figure = curves({f"curve {n}": POINTS for n in range(36)}, xlabel="", ylabel="")
    (axes,) = figure.axes
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 36
    assert [style_of(n) for n in range(len(STYLES))] == list(STYLES)


def test_labels_are_written_as_they_are(tmp_path) -> None:
    """Also those that matplotlib hides, or takes for mathematics that it cannot parse."""
    labels = ["_hidden", "$", "a $b$", r"$\nothing{$", "plain"]
    given, notes = dict.fromkeys(labels, POINTS), {"$": ["$", "_", r"$\nothing{$"]}
    for n, word in enumerate(labels):
        single = curves(given, xlabel=word, ylabel=word, title=word, limit=(f"{word} aim", 0.1))
        several = panels([Panel(given, word, word, word, (f"{word} aim", 0.1), notes)] * 2, word)
        legends = [single.axes[0].get_legend(), several.legends[0]]
        for figure, legend in zip((single, several), legends, strict=True):
            assert [text.get_text() for text in legend.get_texts()] == [*labels, f"{word} aim"]
            figure.savefig(tmp_path / f"{n}.png")
            assert not any(text.get_parse_math() for text in legend.get_texts())


@pytest.mark.parametrize("axis", ["x", "y"])
def test_values_that_a_logarithmic_axis_does_not_show_are_named(axis) -> None:
    values = [0.0, 1.0, -1.0]
    points = (values, [1.0, 2.0, 3.0]) if axis == "x" else ([1.0, 2.0, 3.0], values)
    given = {"good": POINTS, "bad": points}
    with pytest.warns(UserWarning, match=f"2 of 3 values of {axis} of 'bad'"):
        curves(given, xlabel="", ylabel="")
    other = "y" if axis == "x" else "x"
    curves(given, xlabel="", ylabel="", log=other)


def test_no_panels_are_refused() -> None:
    with pytest.raises(ShapeError, match="at least one panel"):
        panels([], "title")
