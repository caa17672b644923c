"""What people who read only the site stumbled over."""

import numpy as np
import pytest
import torch

import pgmdiff
from pgmdiff import GraphError, PgmdiffError, ShapeError, advise, compose, fit_covariances
from pgmdiff.conditioning import Mask, Tweedie, moment_matching, reconstruction, replacement
from pgmdiff.gaussian import Gaussian, node_scores
from pgmdiff.graphs import chain, tiles
from pgmdiff.plotting import plot
from pgmdiff.plotting.boxes import boxes_of, size_of
from pgmdiff.precision import DenoisingErrors, Dense
from pgmdiff.samplers import karras
from tests.helpers import ar1

GRAPH = chain(6)
Q = ar1(6, 0.8)


def test_advice_takes_what_one_has() -> None:
    states = Q.sample(4000, 0)
    by_law = advise(GRAPH, Gaussian.fit(states)).rows[0]
    assert advise(GRAPH, states).rows[0] == by_law
    fitted = advise(GRAPH, fit_covariances(GRAPH, states)).rows[0]
    assert fitted.marginal == pytest.approx(by_law.marginal, rel=0.05)
    with pytest.raises(ShapeError, match=r"Gaussian\.fit"):
        advise(GRAPH, "states")
    with pytest.raises(
        ShapeError, match=r"at least two states \[n, 6\], got a tensor of \(4000, 5\)"
    ):
        advise(GRAPH, states[:, :5])


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
    "a condition of no node": (
        lambda: compose(GRAPH, node_scores(GRAPH, Q), conditions={"f11": {}}),
        "'f11', which is no region.*Did you mean 'f1'.*`.factors`",
    ),
    "an array for a mask": (lambda: Mask(np.array([True])), "as a tensor, got a ndarray"),
    "levels swapped": (lambda: karras(5, 80.0, 0.01), "Did you swap sigma_min and sigma_max"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input_is_explained(wrong: str) -> None:
    call, message = WRONG[wrong]
    with pytest.raises(PgmdiffError, match=message):
        call()


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
