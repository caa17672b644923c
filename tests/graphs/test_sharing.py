"""Overlaps have the condition that all pieces around them share, and no other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgmdiff.errors import GraphError
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, cycle, grid, shared_conditions, tiles

GRAPHS: list[FactorGraph | RegionGraph] = [
    chain(5),
    cycle(4),
    grid(3, 2),
    tiles((20,), 8, 4),
    tiles((24,), 8, 6, True),
    tiles((10, 12), (4, 6), (2, 3)),
]


@given(st.sampled_from(GRAPHS), st.data())
def test_by_the_definition(graph: FactorGraph | RegionGraph, data: st.DataObject) -> None:
    regions = graph.regions
    labels = {name: data.draw(st.sampled_from((0, 1, None))) for name in regions.pieces}
    told = {name: {"label": torch.tensor(k)} for name, k in labels.items() if k is not None}
    found = shared_conditions(graph, told)
    held = {name: set(regions.elements(name).flatten().tolist()) for name in regions.names}
    for name in regions.names:
        around = {labels[piece] for piece in regions.pieces if held[name] <= held[piece]}
        expected = around.pop() if len(around) == 1 else None
        assert (found[name]["label"].item() if name in found else None) == expected


def test_what_is_given_stays() -> None:
    told = {"f0": {"a": 1.0}, "f1": {"a": 1.0}, "x1": {"a": 7.0}}
    found = shared_conditions(chain(3), told)
    assert found == told | {"x0": {"a": 1.0}, "x2": {"a": 1.0}}
    assert len(told) == 3


def test_unknown_names_are_named() -> None:
    with pytest.raises(GraphError, match=r"given for 'f9', which is no region.*Use the name"):
        shared_conditions(chain(3), {"f9": {}})
