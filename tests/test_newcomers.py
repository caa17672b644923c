"""What people who read only the site stumbled over."""

import numpy as np
import pytest
from hypothesis import given, settings

from pgmdiff import GraphError, PgmdiffError, compose
from pgmdiff.gaussian import node_scores
from pgmdiff.graphs import chain, from_json, product, tiles, time_by_parts
from pgmdiff.testing import assert_lawful, strategies
from tests.helpers import ar1

GRAPH = chain(6)
Q = ar1(6, 0.8)


@settings(max_examples=15)
@given(strategies.trees(max_factors=2), strategies.tile_graphs(max_axes=1, max_size=4))
def test_products_are_lawful_whole(left, right) -> None:
    assert_lawful(product(left, right), generator=0)


def test_an_empty_product_is_lawful() -> None:
    assert_lawful(product(chain(0), tiles((2,), 1)), generator=0)


WRONG = {
    "a name nearly right": (lambda: GRAPH.observe({"x11": 1.0}), "observe: 'x11' is no variable"),
    "the nearest name": (lambda: GRAPH.mask(["x1 "]), r"Did you mean 'x1'\?"),
    "a factor for a variable": (lambda: GRAPH.mask(["f1"]), "'f1' is a factor, not a variable"),
    "a condition of no node": (
        lambda: compose(GRAPH, node_scores(GRAPH, Q), conditions={"f11": {}}),
        "'f11', which is no region.*Did you mean 'f1'.*`.factors`",
    ),
    "an array to unpack": (lambda: GRAPH.unpack(np.zeros(6)), "unpack: expected a tensor"),
    "a path for JSON": (lambda: from_json("graphs/g.json"), "looks like a path"),
    "a size that does not fit": (
        lambda: tiles((60,), 16, 4),
        "Use a size of 52 or 64, an overlap of 5, or",
    ),
    "parts that do not fit": (
        lambda: time_by_parts(60, 16, 4, {"arm": [0, 1]}),
        "^time_by_parts: .* an overlap of 5",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input_is_explained(wrong: str) -> None:
    call, message = WRONG[wrong]
    with pytest.raises(PgmdiffError, match=message):
        call()


def test_overlaps_that_are_named_do_fit() -> None:
    for size, window, overlap in ((60, 16, 4), (31, 8, 3), (100, 30, 7)):
        with pytest.raises(GraphError) as raised:
            tiles((size,), window, overlap)
        named = str(raised.value).split("an overlap of ")[1].split(",")[0]
        for fitting in named.split(" or "):
            tiles((size,), window, int(fitting))
