"""What people who read only the site stumbled over."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import pgmdiff
from pgmdiff import GraphError, PgmdiffError, compose
from pgmdiff.conditioning import Mask, Tweedie, moment_matching, reconstruction, replacement
from pgmdiff.gaussian import Gaussian, node_scores
from pgmdiff.graphs import chain, from_json, product, tiles, time_by_parts
from pgmdiff.plotting import plot
from pgmdiff.plotting.boxes import boxes_of, size_of
from pgmdiff.precision import DenoisingErrors, Dense
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


def test_a_fit_of_float32_may_be_widened() -> None:
    smooth = torch.ones(12, 12).double() + 1e-7 * torch.eye(12)
    states = Gaussian(torch.zeros(12).double(), smooth).sample(300, 0).float()
    fitted = Gaussian.fit(states)
    assert fitted.covariance.dtype == torch.float32
    wide = Gaussian(fitted.mean.double(), fitted.covariance.double())
    exact = Gaussian.fit(states.double()).covariance
    assert torch.linalg.eigvalsh(wide.covariance)[0] >= 0
    assert (wide.covariance - exact).abs().max() < 1e-5


def test_tiled_axes_are_the_ones_drawn() -> None:
    series = tiles((60, 5, 2), (16, 5, 2), (5, 0, 0))
    assert size_of(series) == (1, 60)
    assert len(boxes_of(series)) == 9
    assert size_of(tiles((3, 16, 40), (3, 16, 16), (0, 0, 4))) == (16, 40)
    legend = [text.get_text() for text in plot(series).legends[0].get_texts()]
    assert "window +1 × 5" in legend


def test_many_windows_leave_the_image_to_be_seen() -> None:
    torus = tiles((64, 64), 16, 8, True)
    few, many = plot(torus, image=torch.zeros(64, 64)), plot(torus)
    assert len(few.axes[0].texts) == 0
    drawn = [sum(len(c.get_paths()) for c in f.axes[0].collections) for f in (few, many)]
    assert drawn[0] < drawn[1]


def test_a_mask_is_a_mask_for_every_method() -> None:
    rule = pgmdiff.Posterior(pgmdiff.gaussian.node_covariances(GRAPH, Q))
    joint = compose(GRAPH, node_scores(GRAPH, Q), rule=rule)
    y, mask = GRAPH.observe({"x1": torch.tensor(0.5).double()})
    u = Q.noised(1.0).sample(3, 0)
    for method in (
        replacement,
        reconstruction,
        lambda *given: moment_matching(*given, Tweedie(), noise=0.1),
    ):
        torch.testing.assert_close(
            method(joint, y, mask)(u, 1.0), method(joint, y, Mask(mask))(u, 1.0)
        )


WRONG = {
    "a name nearly right": (lambda: GRAPH.observe({"x11": 1.0}), "observe: 'x11' is no variable"),
    "the nearest name": (lambda: GRAPH.mask(["x1 "]), r"Did you mean 'x1'\?"),
    "a factor for a variable": (lambda: GRAPH.mask(["f1"]), "'f1' is a factor, not a variable"),
    "a condition of no node": (
        lambda: compose(GRAPH, node_scores(GRAPH, Q), conditions={"f11": {}}),
        "'f11', which is no region.*Did you mean 'f1'.*`.factors`",
    ),
    "an array for a mask": (lambda: Mask(np.array([True])), "as a tensor, got a ndarray"),
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


def test_errors_that_do_not_compose_name_their_level() -> None:
    graph = chain(3)
    good, bad = {}, {}
    for name in ("f0", "f1", "x1"):
        d = len(graph.elements(name).reshape(-1))
        good[name] = 0.5 * torch.eye(d).double()
        bad[name] = (0.01 if name == "x1" else 0.5) * torch.eye(d).double()
    errors = DenoisingErrors((0.5, 2.0), (Dense(good), Dense(bad)))
    with pytest.raises(GraphError, match=r"denoising errors measured at σ = 2 .*check_consistency"):
        compose(graph, lambda x, s: -x, rule=pgmdiff.Posterior(errors))
