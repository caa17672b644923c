"""Long work shows a bar where asked, and says nothing where not."""

import pytest
import torch

import pgmdiff
from tests.helpers import ar1

Q = ar1(6, 0.9)
GRAPH = pgmdiff.graphs.tiles((6,), 4, 2)
SCORES = pgmdiff.gaussian.node_scores(GRAPH, Q)
DATA = Q.sample(64, torch.Generator().manual_seed(0))

LONG = {
    "consistency": lambda on: pgmdiff.check_consistency(GRAPH, SCORES, DATA, progress=on),
    "advice": lambda on: pgmdiff.advise(GRAPH, Q, progress=on),
    "sampling": lambda on: pgmdiff.samplers.sample(Q.score, [1.0, 0.0], shape=(1, 6), progress=on),
}


@pytest.mark.parametrize("name", LONG)
def test_a_bar_is_shown_only_where_asked_for(name, capsys: pytest.CaptureFixture[str]) -> None:
    LONG[name](False)
    assert capsys.readouterr() == ("", "")
    LONG[name](True)
    shown = capsys.readouterr()
    assert name in shown.err
    assert shown.out == ""
